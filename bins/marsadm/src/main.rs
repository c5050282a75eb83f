//! `marsadm`: changes the tree, brings units in line with it, shows state.
use std::process::ExitCode;

fn main() -> ExitCode {
    // Whoever calls us may have left descriptors open, the lock by which it counts as running among them. We need none, and a
    // daemon that we start must not keep them.
    mars_units::close_inherited();
    mars_daemon::init_tool_logging();
    ExitCode::from(marsadm::run(std::env::args_os().skip(1)))
}
