//! `mars-logger RESOURCE`: offers `/dev/mars/NAME` on the primary, logs every write, writes back to the disk.
use clap::Parser;
use mars_daemon::Daemon;
use mars_logger::wrap::Wrap;
use mars_tree::ResName;
use std::process::ExitCode;

/// Primary of a MARS resource: block device in front, transaction log and write-back behind.
///
/// Started by the reconciler (`marsadm systemd-trigger`) while this host is designated primary of the resource. Recovers what the logs hold,
/// offers the device, and runs until it is stopped or until another host is designated and nobody has the device open.
/// Settings come from $MARS_ETC_DIR/mars.conf: front, durability, buffer_limit_mib, writeback_age_ms, recovery_limit_mib, log_compression, log_digest,
/// logrot_auto_mib, also per resource.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Name of the resource.
    resource: ResName,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let result = Daemon::start("mars-logger", Some(args.resource.as_str()))
        .and_then(|daemon| mars_logger::run::run(&daemon, &args.resource, &Wrap::default()));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("mars-logger: {e:#}");
            ExitCode::FAILURE
        }
    }
}
