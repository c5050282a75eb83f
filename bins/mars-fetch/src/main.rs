//! Secondary: pulls log files; with `serve`, hands them out.
mod anew;
mod client;
mod facts;
mod feed;
mod local;
mod peer;
mod proto;
mod relevant;
mod serve;
mod source;
mod sys;

use clap::Parser;
use mars_daemon::Daemon;
use mars_tree::ResName;
use std::net::IpAddr;
use std::process::ExitCode;

/// Fetches the transaction logs of a resource from other hosts, or serves those of this host.
#[derive(Parser)]
#[command(name = "mars-fetch", version)]
struct Args {
    /// Name of the resource whose logs to fetch, or `serve` to hand out the logs of all resources
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
            eprintln!("mars-fetch: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    if args.what == "serve" {
        return serve::run(&Daemon::start("mars-fetch", None)?, args.ip);
    }
    let res: ResName = args.what.parse()?;
    client::run(&Daemon::start("mars-fetch", Some(&args.what))?, res)
}
