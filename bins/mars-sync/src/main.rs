//! Secondary: full sync; with `serve`, hands out blocks and digests.
use clap::Parser;
use mars_daemon::Daemon;
use mars_sync::{client, serve};
use mars_tree::ResName;
use std::net::IpAddr;
use std::process::ExitCode;

/// Makes the disk of a resource equal to the primary's, or serves the disks of this host.
#[derive(Parser)]
#[command(name = "mars-sync", version)]
struct Args {
    /// Name of the resource to sync, or `serve` to hand out blocks of all resources
    #[arg(value_name = "RESOURCE|serve")]
    what: String,
    /// With serve: address to listen on (default: the own address in the cluster)
    #[arg(long)]
    ip: Option<IpAddr>,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("mars-sync: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    if args.what == "serve" {
        return serve::run(&Daemon::start("mars-sync", None)?, args.ip);
    }
    let res: ResName = args.what.parse()?;
    client::run(&Daemon::start("mars-sync", Some(&args.what))?, res)
}
