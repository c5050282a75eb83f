//! One scene of the kill tests: `chaos SEED SECONDS`. Status 1 and the reason when anything was violated.
use mars_tests::chaos::{ChaosPlan, run};
use std::process::ExitCode;
use std::time::Duration;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1).map(|a| a.parse::<u64>());
    let (Some(Ok(seed)), Some(Ok(seconds)), None) = (args.next(), args.next(), args.next()) else {
        eprintln!("usage: chaos SEED SECONDS");
        return ExitCode::from(2);
    };
    let plan = ChaosPlan {
        seed,
        time: Duration::from_secs(seconds),
        kills: 0,
    };
    match run(&plan) {
        Ok(report) => {
            println!("seed {seed}:\n{report}");
            ExitCode::SUCCESS
        }
        Err(e) => {
            eprintln!("seed {seed}: {e}");
            ExitCode::FAILURE
        }
    }
}
