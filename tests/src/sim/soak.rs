//! Many seeds: for `make test` as many as fit in it, for `make soak` a million states.
use super::power::{self, Count};
use super::seen::Seen;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Goal {
    /// First seed.
    pub seed: u64,
    /// Stop after so many states of power cuts.
    pub states: u64,
    /// Stop after this time at the latest, if any.
    pub time: Option<Duration>,
    /// Threads.
    pub jobs: usize,
}

/// One seed; a panic is an error as well.
pub fn one(root: &std::path::Path, seed: u64, seen: &Seen) -> Result<Count, String> {
    let result = catch_unwind(AssertUnwindSafe(|| {
        let mut count = power::run(root, seed, seen)?;
        if seed.is_multiple_of(4) {
            count += power::anytime(root, seed)?;
        }
        anyhow::Ok(count)
    }));
    let why = match result {
        Ok(Ok(count)) => return Ok(count),
        Ok(Err(e)) => format!("{e:#}"),
        Err(p) => match (p.downcast_ref::<String>(), p.downcast_ref::<&str>()) {
            (Some(s), _) => format!("panic: {s}"),
            (_, Some(s)) => format!("panic: {s}"),
            _ => "panic".to_string(),
        },
    };
    Err(format!(
        "SEED={seed} failed; alone: make soak SEED={seed}\n  {why}"
    ))
}

/// Images of disks and logs come and go by the thousand: memory that was given back to the kernel each time would cost more than all else.
fn keep_memory() {
    // SAFETY: plain settings of the allocator.
    unsafe {
        nix::libc::mallopt(nix::libc::M_MMAP_THRESHOLD, 64 << 20);
        nix::libc::mallopt(nix::libc::M_TRIM_THRESHOLD, 256 << 20);
    }
}

/// Runs seeds until the goal is reached or one fails.
pub fn many(goal: Goal) -> Result<(Count, u64), String> {
    keep_memory();
    let began = Instant::now();
    let next = AtomicU64::new(goal.seed);
    let stop = AtomicBool::new(false);
    let sum = Mutex::new((Count::default(), 0));
    let failed = Mutex::new(None);
    let seen = Seen::default();
    let work = || {
        let base = if std::path::Path::new("/dev/shm").is_dir() {
            "/dev/shm".into()
        } else {
            std::env::temp_dir()
        };
        let dir = tempfile::Builder::new()
            .prefix("mars-power-cuts-")
            .tempdir_in(base)
            .unwrap();
        while !stop.load(Ordering::Relaxed) {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            match one(dir.path(), seed, &seen) {
                Ok(count) => {
                    let mut s = sum.lock().unwrap();
                    s.0 += count;
                    s.1 += 1;
                    let late = goal.time.is_some_and(|t| began.elapsed() >= t);
                    if s.0.states >= goal.states || late {
                        stop.store(true, Ordering::Relaxed);
                    }
                }
                Err(e) => {
                    stop.store(true, Ordering::Relaxed);
                    failed.lock().unwrap().get_or_insert(e);
                }
            }
        }
    };
    std::thread::scope(|s| {
        for _ in 0..goal.jobs {
            s.spawn(work);
        }
    });
    match failed.into_inner().unwrap() {
        Some(e) => Err(e),
        None => Ok(sum.into_inner().unwrap()),
    }
}

/// The command line: `NAME=VALUE` arguments.
pub fn main() -> ExitCode {
    let mut args = HashMap::new();
    for arg in std::env::args().skip(1) {
        match arg.split_once('=') {
            Some((name, value)) => match value.parse::<u64>() {
                Ok(v) => {
                    args.insert(name.to_string(), v);
                }
                Err(e) => return usage(&format!("{arg}: {e}")),
            },
            None => return usage(&arg),
        }
    }
    if let Some(name) = args
        .keys()
        .find(|k| !["SEED", "STATES", "MINUTES", "JOBS", "FROM", "GOAL"].contains(&k.as_str()))
    {
        return usage(name);
    }
    let get = |name: &str| args.get(name).copied();
    let began = Instant::now();
    let result = match get("SEED") {
        Some(seed) => many(Goal {
            seed,
            states: 0,
            time: None,
            jobs: 1,
        }),
        None => many(Goal {
            seed: get("FROM").unwrap_or(1),
            states: get("STATES").unwrap_or(1_000_000),
            time: Some(Duration::from_secs(60 * get("MINUTES").unwrap_or(10))),
            jobs: get("JOBS").unwrap_or(2) as usize,
        }),
    };
    match result {
        Ok((c, seeds)) => {
            println!(
                "power cuts: {} different states from {seeds} seeds in {:.1} s, all recovered and right ({} repeated ones not counted, {} cut again during recovery, {} lives, {} steps, \
                 {} answers, {} requests whose data had no place, logs applied again {} times); anytime consistency of secondaries: {} checks, {} power cuts",
                c.states,
                began.elapsed().as_secs_f64(),
                c.repeated,
                c.during_recovery,
                c.lives,
                c.steps,
                c.answers,
                c.failed,
                c.again,
                c.anytime,
                c.secondary_cuts
            );
            match get("GOAL") {
                Some(goal) if c.states < goal => {
                    eprintln!(
                        "power cuts: GOAL MISSED: {} of {goal} states in the time given; no violation, but the machine was too slow or too busy",
                        c.states
                    );
                    ExitCode::FAILURE
                }
                _ => ExitCode::SUCCESS,
            }
        }
        Err(e) => {
            eprintln!("power cuts: {e}");
            ExitCode::FAILURE
        }
    }
}

fn usage(what: &str) -> ExitCode {
    eprintln!("{what}: soak [SEED=n | FROM=n] [STATES=n] [MINUTES=n] [JOBS=n] [GOAL=n]");
    ExitCode::FAILURE
}
