//! Secondary: applies log files to the disk.
mod logfile;
mod publish;
mod replay;
mod sys;
mod wake;

use clap::Parser;
use mars_daemon::Daemon;
use mars_tree::ResName;
use std::process::ExitCode;

/// Applies the fetched transaction logs of a resource to the disk of this host.
#[derive(Parser)]
#[command(name = "mars-replay", version)]
struct Args {
    /// Name of the resource
    resource: String,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("mars-replay: {e:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let res: ResName = args.resource.parse()?;
    replay::run(&Daemon::start("mars-replay", Some(&args.resource))?, res)
}
