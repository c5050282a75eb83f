//! Secondary: applies log files to the disk.
use clap::Parser;
use mars_daemon::Daemon;
use mars_replay::args::Args;
use mars_tree::ResName;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            mars_daemon::report_failure("mars-replay", &e);
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<()> {
    let res: ResName = args.resource.parse()?;
    let daemon = Daemon::start("mars-replay", Some(&args.resource))?;
    mars_replay::run(&daemon, res, &|disk| disk)
}
