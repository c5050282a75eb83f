//! `mars-status`: shows how MARS is, for people, Nagios and Prometheus. Changes nothing.
use std::process::ExitCode;

fn main() -> ExitCode {
    mars_daemon::init_tool_logging();
    ExitCode::from(mars_status::run(std::env::args_os()))
}
