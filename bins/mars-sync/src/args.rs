//! The command line; the manual page is made from it too.
use clap::Parser;
use std::net::IpAddr;

/// Makes the disk of a resource equal to the primary's, or serves the disks of this host.
#[derive(Parser)]
#[command(name = "mars-sync", version)]
pub struct Args {
    /// Name of the resource to sync, or `serve` to hand out blocks of all resources
    #[arg(value_name = "RESOURCE|serve")]
    pub what: String,
    /// With serve: address to listen on (default: the own address in the cluster)
    #[arg(long)]
    pub ip: Option<IpAddr>,
}
