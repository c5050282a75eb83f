//! The command line; the manual page is made from it too.
use clap::Parser;
use mars_tree::ResName;

/// Primary of a MARS resource: block device in front, transaction log and write-back behind.
///
/// Started by the reconciler (`marsadm systemd-trigger`) while this host is designated primary of the resource. Recovers what the logs hold,
/// offers the device, and runs until it is stopped or until another host is designated and nobody has the device open.
/// Settings come from $MARS_ETC_DIR/mars.conf: front, durability, buffer_limit_mib, writeback_age_ms, recovery_limit_mib, log_compression, log_digest,
/// logrot_auto_mib, also per resource.
#[derive(Parser)]
#[command(version)]
pub struct Args {
    /// Name of the resource.
    pub resource: ResName,
}
