//! Secondary: full sync; with `serve`, hands out blocks and digests.
use clap::Parser;
use mars_daemon::Daemon;
use mars_sync::args::Args;
use mars_sync::{client, serve};
use mars_tree::ResName;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            mars_daemon::report_failure("mars-sync", &e);
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
