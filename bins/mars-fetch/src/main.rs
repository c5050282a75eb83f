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
use mars_fetch::args::Args;
use mars_tree::ResName;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            mars_daemon::report_failure("mars-fetch", &e);
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
