//! Live pages: whole records, no lost wake-ups, writers and waiters that die.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_live::{FetchLive, LivePage, LiveRecord, LogLive, ReplayLive, SyncLive};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Long enough that only a lost wake-up reaches it.
const LONG: Option<Duration> = Some(Duration::from_secs(20));

/// A record in which every field says the same.
fn all<R: LiveRecord>(n: u64) -> R {
    R::load(&vec![n; R::WORDS])
}
fn is_whole<R: LiveRecord>(r: &R) -> bool {
    let mut words = vec![0; R::WORDS];
    r.store(&mut words);
    words.iter().all(|w| *w == words[0])
}
fn child(test: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env("MARS_TEST_PAGE_DIR", dir)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}
/// Set in child processes only.
fn child_page() -> Option<LivePage> {
    let dir = std::env::var("MARS_TEST_PAGE_DIR").ok()?;
    Some(LivePage::open(Path::new(&dir), "r").unwrap())
}
fn wait_for_line(child: &mut Child, what: &str) {
    let out = BufReader::new(child.stdout.take().unwrap());
    assert!(out.lines().any(|l| l.unwrap().contains(what)));
}

#[test]
fn publish_and_read_every_record() {
    fn check<R: LiveRecord + PartialEq + std::fmt::Debug>(page: &LivePage, r: R) {
        assert_eq!(page.read::<R>(), (R::default(), 0), "never published");
        for seq in 1..10 {
            page.publish(&r);
            assert_eq!(page.read::<R>(), (r, seq));
        }
        let mut words = vec![0; R::WORDS];
        r.store(&mut words);
        assert_eq!(words, (1..=R::WORDS as u64).collect::<Vec<_>>());
    }
    fn counting<R: LiveRecord>() -> R {
        R::load(&(1..=R::WORDS as u64).collect::<Vec<_>>())
    }
    let dir = tempfile::tempdir().unwrap();
    let page = LivePage::open(dir.path(), "r").unwrap();
    check::<LogLive>(&page, counting());
    check::<FetchLive>(&page, counting());
    check::<ReplayLive>(&page, counting());
    check::<SyncLive>(&page, counting());
    // Another view of the same page, another page.
    let again = LivePage::open(dir.path(), "r").unwrap();
    assert_eq!(again.read::<LogLive>().0.durable_len, 2);
    let other = LivePage::open(dir.path(), "s").unwrap();
    assert_eq!(other.read::<LogLive>().1, 0);
    for bad in ["", "..", ".x", "a/b"] {
        assert!(LivePage::open(dir.path(), bad).is_err());
    }
}

#[test]
fn open_replaces_a_file_of_another_layout() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("r")).unwrap();
    std::fs::write(dir.path().join("r/live"), vec![7; 100_000]).unwrap();
    let page = LivePage::open(dir.path(), "r").unwrap();
    assert_eq!(page.read::<LogLive>(), (LogLive::default(), 0));
}

#[test]
fn read_is_never_torn() {
    let dir = tempfile::tempdir().unwrap();
    let page = LivePage::open(dir.path(), "r").unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        for _ in 0..2 {
            s.spawn(|| {
                let view = LivePage::open(dir.path(), "r").unwrap();
                let (mut last, mut distinct) = (0, 0u32);
                while !stop.load(Ordering::Relaxed) || distinct == 0 {
                    let (r, _) = view.read::<LogLive>();
                    assert!(is_whole(&r), "torn: {r:?}");
                    assert!(r.log_nr >= last, "went back");
                    distinct += u32::from(r.log_nr > last);
                    last = r.log_nr;
                }
            });
        }
        for n in 1..=500_000 {
            page.publish(&all::<LogLive>(n));
        }
        stop.store(true, Ordering::Relaxed);
    });
}

#[test]
fn wait_times_out_and_sees_what_was_before() {
    let dir = tempfile::tempdir().unwrap();
    let page = LivePage::open(dir.path(), "r").unwrap();
    let zero = Some(Duration::ZERO);
    assert!(!page.wait::<LogLive>(0, zero));
    assert!(!page.wait::<LogLive>(0, Some(Duration::from_millis(5))));
    page.publish(&all::<LogLive>(1));
    assert!(page.wait::<LogLive>(0, None));
    assert!(!page.wait::<LogLive>(1, zero));
    page.publish(&all::<SyncLive>(1));
    assert!(!page.wait::<LogLive>(1, zero), "another section");
}

/// Two sides answer each other; each waits for the other's next record. One lost wake-up and it stands still.
fn ping_pong<A: LiveRecord, B: LiveRecord>(page: &LivePage, first: bool, rounds: u64) {
    for n in 1..=rounds {
        if first {
            page.publish(&all::<A>(n));
        }
        loop {
            let (r, seq) = page.read::<B>();
            let mut words = vec![0; B::WORDS];
            r.store(&mut words);
            if words[0] >= n {
                break;
            }
            assert!(page.wait::<B>(seq, LONG), "lost wake-up in round {n}");
        }
        if !first {
            page.publish(&all::<A>(n));
        }
    }
}

/// Body of the child of `wait_loses_no_wakeup_between_processes`; does nothing by itself.
#[test]
fn child_that_answers() {
    if let Some(page) = child_page() {
        ping_pong::<ReplayLive, FetchLive>(&page, false, 20_000);
    }
}

#[test]
fn wait_loses_no_wakeup_between_processes() {
    let dir = tempfile::tempdir().unwrap();
    let page = LivePage::open(dir.path(), "r").unwrap();
    let mut other = child("child_that_answers", dir.path());
    ping_pong::<FetchLive, ReplayLive>(&page, true, 20_000);
    assert!(other.wait().unwrap().success());
}

#[test]
fn wait_wakes_all_waiters() {
    let dir = tempfile::tempdir().unwrap();
    let page = LivePage::open(dir.path(), "r").unwrap();
    std::thread::scope(|s| {
        for _ in 0..4 {
            s.spawn(|| {
                let view = LivePage::open(dir.path(), "r").unwrap();
                let mut seen = 0;
                loop {
                    let (r, seq) = view.read::<SyncLive>();
                    if r.pos == 2_000 {
                        break;
                    }
                    assert!(seq >= seen);
                    seen = seq;
                    assert!(view.wait::<SyncLive>(seq, LONG), "lost wake-up after {seq}");
                }
            });
        }
        for n in 1..=2_000 {
            page.publish(&all::<SyncLive>(n));
            std::thread::yield_now();
        }
    });
}

/// Body of the children of `read_survives_killed_writers`; does nothing by itself.
#[test]
fn child_that_publishes_for_ever() {
    let Some(page) = child_page() else { return };
    println!("publishing");
    let mut n = page.read::<LogLive>().0.log_nr;
    loop {
        n += 1;
        page.publish(&all::<LogLive>(n));
    }
}

#[test]
fn read_survives_killed_writers() {
    let dir = tempfile::tempdir().unwrap();
    let page = LivePage::open(dir.path(), "r").unwrap();
    let mut last = 0;
    for _ in 0..20 {
        let mut writer = child("child_that_publishes_for_ever", dir.path());
        wait_for_line(&mut writer, "publishing");
        let (_, seq) = page.read::<LogLive>();
        assert!(page.wait::<LogLive>(seq, LONG));
        writer.kill().unwrap();
        writer.wait().unwrap();
        let (r, seq) = page.read::<LogLive>();
        assert!(is_whole(&r), "torn: {r:?}");
        assert!(r.log_nr > last);
        last = r.log_nr;
        assert_eq!(page.read::<LogLive>(), (r, seq));
    }
}

/// Body of the child of `publish_survives_a_killed_waiter`; does nothing by itself.
#[test]
fn child_that_waits_for_ever() {
    let Some(page) = child_page() else { return };
    println!("waiting");
    page.wait::<SyncLive>(0, None);
}

#[test]
fn publish_survives_a_killed_waiter() {
    let dir = tempfile::tempdir().unwrap();
    let page = LivePage::open(dir.path(), "r").unwrap();
    let mut waiter = child("child_that_waits_for_ever", dir.path());
    wait_for_line(&mut waiter, "waiting");
    waiter.kill().unwrap();
    waiter.wait().unwrap();
    let (_, seq) = page.read::<SyncLive>();
    page.publish(&all::<SyncLive>(5));
    assert!(page.wait::<SyncLive>(seq, None));
}
