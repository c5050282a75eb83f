//! The command line; the manual page is made from it too.
use clap::Parser;

/// Spreads the MARS symlink tree between the hosts of the cluster.
///
/// Everything else comes from the environment: MARS_ROOT, MARS_RUN_DIR, MARS_HOST, MARS_PORT.
#[derive(Parser)]
#[command(name = "mars-meta", version)]
pub struct Args {}
