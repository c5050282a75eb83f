//! One per host: spreads the symlink tree to all other hosts of the cluster.
use clap::Parser;
use mars_daemon::{Daemon, InstanceLock};
use std::process::ExitCode;

/// Spreads the MARS symlink tree between the hosts of the cluster.
///
/// Everything else comes from the environment: MARS_ROOT, MARS_RUN_DIR, MARS_HOST, MARS_PORT.
#[derive(Parser)]
#[command(name = "mars-meta", version)]
struct Args {}

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
            tracing::error!("{e:#}");
            eprintln!("mars-meta: {e:#}");
            ExitCode::FAILURE
        }
    }
}
