//! The Lamport register, also shared by several processes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_live::{Clock, Stamp};
use proptest::prelude::*;
use std::collections::HashSet;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

const DAY: Duration = Duration::from_secs(24 * 3600);
const TICKS: usize = 20_000;

/// Stamps of one thread; each is newer than the one before and not behind the wall clock.
fn ticks(clock: &Clock) -> Vec<u64> {
    let mut last = Stamp::ZERO;
    (0..TICKS)
        .map(|_| {
            let real = Stamp::real_time();
            let t = clock.tick(Stamp::ZERO);
            assert!(t > last && t >= real);
            last = t;
            t.as_nanos()
        })
        .collect()
}

/// Body of the child processes of `tick_is_unique_across_processes_and_threads`; does nothing by itself.
#[test]
fn child_that_ticks() {
    let Ok(dir) = std::env::var("MARS_TEST_TICK_DIR") else {
        return;
    };
    let dir = Path::new(&dir);
    let threads: Vec<_> = (0..2)
        .map(|_| {
            let clock = Clock::open(dir).unwrap();
            std::thread::spawn(move || ticks(&clock))
        })
        .collect();
    let out: Vec<String> = threads
        .into_iter()
        .flat_map(|t| t.join().unwrap())
        .map(|n| n.to_string())
        .collect();
    std::fs::write(
        dir.join(format!("ticks.{}", std::process::id())),
        out.join("\n"),
    )
    .unwrap();
}

#[test]
fn tick_is_unique_across_processes_and_threads() {
    let dir = tempfile::tempdir().unwrap();
    // Far ahead of the wall clock every tick is a race for the next nanosecond.
    let ahead = Stamp::real_time().plus(DAY);
    Clock::open(dir.path()).unwrap().observe(ahead);
    let children: Vec<_> = (0..3)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child_that_ticks"])
                .env("MARS_TEST_TICK_DIR", dir.path())
                .spawn()
                .unwrap()
        })
        .collect();
    let own = ticks(&Clock::open(dir.path()).unwrap());
    let mut all: HashSet<u64> = own.iter().copied().collect();
    assert_eq!(all.len(), TICKS);
    let mut count = TICKS;
    for mut child in children {
        assert!(child.wait().unwrap().success());
        let path = dir.path().join(format!("ticks.{}", child.id()));
        for line in std::fs::read_to_string(path).unwrap().lines() {
            all.insert(line.parse().unwrap());
            count += 1;
        }
    }
    assert_eq!(count, 7 * TICKS);
    assert_eq!(all.len(), count, "a stamp was issued twice");
    assert_eq!(
        Clock::open(dir.path()).unwrap().now().as_nanos(),
        ahead.as_nanos() + count as u64,
        "ahead of the wall clock it runs one nanosecond for each tick"
    );
}

#[test]
fn open_makes_a_private_directory_and_keeps_the_register() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("a/run");
    let clock = Clock::open(&run).unwrap();
    let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&run), 0o700);
    assert_eq!(mode(&run.join("clock")), 0o600);
    assert!(!clock.is_primed());
    clock.mark_primed();
    clock.observe(Stamp::real_time().plus(DAY));
    let t = clock.tick(Stamp::ZERO);
    let again = Clock::open(&run).unwrap();
    assert!(again.is_primed());
    assert_eq!(again.now(), t);
    drop(clock);
    assert!(again.tick(Stamp::ZERO) > t);
    assert_eq!(std::fs::read_dir(&run).unwrap().count(), 1, "no leftovers");
}

#[test]
fn open_replaces_a_file_of_another_layout() {
    let good = {
        let dir = tempfile::tempdir().unwrap();
        Clock::open(dir.path()).unwrap().mark_primed();
        std::fs::read(dir.path().join("clock")).unwrap()
    };
    let mut other_version = good.clone();
    other_version[7] ^= 0x40;
    let mut longer = good.clone();
    longer.extend([0; 8]);
    for content in [
        b"".as_slice(),
        b"short",
        &good[..100],
        &longer,
        &other_version,
    ] {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("clock"), content).unwrap();
        let clock = Clock::open(dir.path()).unwrap();
        assert!(!clock.is_primed());
        let t = clock.tick(Stamp::ZERO);
        assert!(Clock::open(dir.path()).unwrap().now() >= t);
    }
    // A link is replaced, not followed; the right file is taken as it is.
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("victim"), &good).unwrap();
    std::os::unix::fs::symlink("victim", dir.path().join("clock")).unwrap();
    assert!(!Clock::open(dir.path()).unwrap().is_primed());
    std::fs::rename(dir.path().join("victim"), dir.path().join("clock")).unwrap();
    assert!(Clock::open(dir.path()).unwrap().is_primed());
}

#[test]
fn guard_is_thirty_days() {
    let clock = Clock::private();
    let real = Stamp::real_time();
    assert!(clock.guard(real.plus(29 * DAY)).is_ok());
    let illegal = real.plus(31 * DAY);
    let replacement = clock.guard(illegal).unwrap_err();
    assert!(replacement < real.plus(DAY) && replacement >= real);
    clock.observe(illegal);
    assert!(
        clock.now() < real.plus(DAY),
        "illegal stamps are not observed"
    );
    assert!(clock.tick(illegal) < real.plus(DAY), "nor followed");
    assert!(clock.tick(real.plus(DAY)) > real.plus(DAY));
    // What the register has reached stays legal when the wall clock is set back.
    let later = clock.clone().with_skew(40 * DAY.as_nanos() as i64);
    let t = later.tick(Stamp::ZERO);
    assert_eq!(clock.guard(t), Ok(t));
    assert!(clock.tick(t) > t);
}

#[test]
fn skew_moves_only_the_wall_clock() {
    let clock = Clock::private();
    let ahead = clock.clone().with_skew(600_000_000_000);
    let behind = clock.clone().with_skew(-600_000_000_000);
    let real = Stamp::real_time();
    let lag = |t: Stamp| real.since(t).as_secs();
    assert!((599..=600).contains(&lag(behind.now())));
    assert!(behind.tick(Stamp::ZERO) < real);
    let t = ahead.tick(Stamp::ZERO);
    assert!(t.since(real).as_secs() >= 600);
    // One register: everybody continues from there.
    assert!(behind.tick(Stamp::ZERO) > t);
}

proptest! {
    #[test]
    fn tick_surpasses_everything_seen(seen in proptest::collection::vec(0u64..2_000_000_000_000_000_000, 1..20)) {
        let clock = Clock::private();
        let mut last = Stamp::ZERO;
        for (n, s) in seen.into_iter().enumerate() {
            let s = Stamp::from_nanos(s);
            let t = if n % 2 == 0 {
                clock.tick(s)
            } else {
                clock.observe(s);
                clock.tick(Stamp::ZERO)
            };
            prop_assert!(t > last);
            prop_assert!(t > s || clock.guard(s).is_err());
            last = t;
        }
    }
    #[test]
    fn stamp_round_trip(n in 0u64..16_725_225_600_000_000_000, text: String) {
        let s = Stamp::from_nanos(n);
        prop_assert_eq!(s.to_string().parse::<Stamp>().unwrap(), s);
        let _ = text.parse::<Stamp>();
    }
}
