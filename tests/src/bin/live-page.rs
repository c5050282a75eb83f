//! Prints the live page of a resource as JSON, or first waits (asleep, without looking again and again) until something is durable:
//! `live-page RUN_DIR RESOURCE [fetched NR LENGTH | replayed NR POSITION | written NR POSITION]`. For the bench.
use mars_live::{FetchLive, LivePage, LiveRecord, LogLive, ReplayLive, SyncLive};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// A measurement that takes longer has failed.
const LIMIT: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            eprintln!("live-page: {e}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &[String]) -> Result<(), Box<dyn std::error::Error>> {
    let [run_dir, res, wait @ ..] = args else {
        return Err(
            "usage: live-page RUN_DIR RESOURCE [fetched|replayed|written NR POSITION]".into(),
        );
    };
    let page = LivePage::open(Path::new(run_dir), res)?;
    match wait {
        [] => {}
        [what, nr, pos] => {
            let goal = (nr.parse()?, pos.parse()?);
            match what.as_str() {
                "fetched" => reach(&page, goal, |r: &FetchLive| (r.log_nr, r.durable_len))?,
                "replayed" => reach(&page, goal, |r: &ReplayLive| (r.log_nr, r.pos))?,
                "written" => reach(&page, goal, |r: &LogLive| (r.writeback_nr, r.writeback_pos))?,
                other => return Err(format!("{other}: not known").into()),
            }
        }
        _ => return Err("NR and POSITION belong together".into()),
    }
    let (log, fetch, replay, sync) = (
        page.read::<LogLive>().0,
        page.read::<FetchLive>().0,
        page.read::<ReplayLive>().0,
        page.read::<SyncLive>().0,
    );
    let out = serde_json::json!({
        "log": fields(&log),
        "fetch": fields(&fetch),
        "replay": fields(&replay),
        "sync": fields(&sync),
    });
    println!("{out}");
    Ok(())
}

/// Sleeps until the record stands at or behind `goal` (log number, position).
fn reach<R: LiveRecord>(
    page: &LivePage,
    goal: (u64, u64),
    at: impl Fn(&R) -> (u64, u64),
) -> Result<(), Box<dyn std::error::Error>> {
    let end = Instant::now() + LIMIT;
    loop {
        let (record, seen) = page.read::<R>();
        if at(&record) >= goal {
            return Ok(());
        }
        let left = end.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(
                format!("{:?} was not reached, it stands at {:?}", goal, at(&record)).into(),
            );
        }
        page.wait::<R>(seen, Some(left));
    }
}

/// The fields of a record of plain numbers, by name, from its `Debug` form: new fields need no change here.
fn fields<R: std::fmt::Debug>(record: &R) -> serde_json::Map<String, serde_json::Value> {
    let text = format!("{record:?}");
    let inside = text
        .split_once('{')
        .and_then(|(_, t)| t.rsplit_once('}'))
        .map_or("", |(t, _)| t);
    inside
        .split(',')
        .filter_map(|f| f.split_once(':'))
        .filter_map(|(k, v)| Some((k.trim().to_string(), v.trim().parse::<u64>().ok()?.into())))
        .collect()
}
