//! `mars-replay` with the fault layer: the rules are in the file that `$MARS_FAULTS` names.
use mars_daemon::Daemon;
use mars_faults::Faults;
use std::process::ExitCode;

fn run() -> anyhow::Result<()> {
    let name = std::env::args().nth(1).unwrap_or_default();
    let res = name.parse()?;
    let faults = Faults::from_env();
    let daemon = Daemon::start("mars-replay", Some(&name))?;
    mars_replay::run(&daemon, res, &move |disk| faults.disk(disk))
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("mars-replay: {e:#}");
            ExitCode::FAILURE
        }
    }
}
