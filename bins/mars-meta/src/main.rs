//! One per host: spreads the symlink tree to all other hosts of the cluster.
use clap::Parser;
use mars_daemon::{Daemon, InstanceLock};
use mars_meta::args::Args;
use std::process::ExitCode;

fn run() -> anyhow::Result<()> {
    let daemon = Daemon::start("mars-meta", None)?;
    mars_meta::sys::seal_descriptors();
    let _lock = InstanceLock::acquire(&daemon.env, "meta", None)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(1)
        .build()?;
    tokio::task::LocalSet::new().block_on(&runtime, mars_meta::engine::run(&daemon))
}

fn main() -> ExitCode {
    let Args {} = Args::parse();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            mars_daemon::report_failure("mars-meta", &e);
            ExitCode::FAILURE
        }
    }
}
