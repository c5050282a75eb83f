//! Secondary: applies log files to the disk.
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
    let daemon = Daemon::start("mars-replay", Some(&args.resource))?;
    mars_replay::run(&daemon, res, &|disk| disk)
}
