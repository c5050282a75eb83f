//! The command line; the manual page is made from it too.
use clap::Parser;
use std::net::IpAddr;

/// Fetches the transaction logs of a resource from other hosts, or serves those of this host.
#[derive(Parser)]
#[command(name = "mars-fetch", version)]
pub struct Args {
    /// Name of the resource whose logs to fetch, or `serve` to hand out the logs of all resources
    #[arg(value_name = "RESOURCE|serve")]
    pub what: String,
    /// With serve: address to listen on (default: the own address in the cluster)
    #[arg(long)]
    pub ip: Option<IpAddr>,
}
