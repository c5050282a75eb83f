//! `mars-logger RESOURCE`: offers `/dev/mars/NAME` on the primary, logs every write, writes back to the disk.
use clap::Parser;
use mars_daemon::Daemon;
use mars_logger::args::Args;
use mars_logger::wrap::Wrap;
use std::process::ExitCode;

fn main() -> ExitCode {
    let args = Args::parse();
    let result = Daemon::start("mars-logger", Some(args.resource.as_str()))
        .and_then(|daemon| mars_logger::run::run(&daemon, &args.resource, &Wrap::default()));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            mars_daemon::report_failure("mars-logger", &e);
            ExitCode::FAILURE
        }
    }
}
