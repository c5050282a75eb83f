//! The command line; the manual page is made from it too.
use clap::Parser;

/// Applies the fetched transaction logs of a resource to the disk of this host.
#[derive(Parser)]
#[command(name = "mars-replay", version)]
pub struct Args {
    /// Name of the resource
    pub resource: String,
}
