//! `mars-logger` with the fault layer: the rules are in the file that `$MARS_FAULTS` names.
use mars_daemon::Daemon;
use mars_faults::Faults;
use mars_logger::wrap::Wrap;
use std::process::ExitCode;
use std::sync::Arc;

fn run() -> anyhow::Result<()> {
    let name = std::env::args().nth(1).unwrap_or_default();
    let res = name.parse()?;
    let faults = Faults::from_env();
    let for_store = Arc::clone(&faults);
    let wrap = Wrap {
        disk: Box::new(move |disk| faults.disk(disk)),
        store: Box::new(move |store| for_store.store(store)),
    };
    let daemon = Daemon::start("mars-logger", Some(&name))?;
    mars_logger::run::run(&daemon, &res, &wrap)
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("mars-logger: {e:#}");
            ExitCode::FAILURE
        }
    }
}
