//! The engine as a front end sees it: what was answered survives, what was written is read, nothing fails when disk or log do.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::*;
use mars_front::Backend;
use mars_log::version_chain;
use mars_tree::Key;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const REGION: u64 = 32 * PAGE as u64;

/// What one writer did to its pages: per page the numbers it wrote, in order, and how many of them were answered (or flushed).
type History = Vec<(Vec<u64>, usize)>;

fn page_of(nr: u64) -> Vec<u8> {
    nr.to_le_bytes().repeat(PAGE / 8)
}

/// Writes numbered pages of its own region until `over`; `safe` counts, per page, the writes that must survive.
fn writer(
    engine: &dyn Backend,
    base: u64,
    seed: u64,
    strict: bool,
    over: &AtomicBool,
    done: &AtomicU64,
) -> History {
    let mut rng = Rng(seed);
    let acks = Arc::new(Acks::default());
    let mut history: History = vec![(Vec::new(), 0); (REGION / PAGE as u64) as usize];
    let mut flying: VecDeque<(u64, usize, usize)> = VecDeque::new();
    let mut nr = 0;
    while !over.load(Ordering::SeqCst) {
        nr += 1;
        let page = rng.below(history.len() as u64) as usize;
        history[page].0.push(nr);
        let count = history[page].0.len();
        engine.write(
            base + (page * PAGE) as u64,
            &page_of(nr),
            false,
            acks.ticket(nr),
        );
        flying.push_back((nr, page, count));
        if flying.len() < 8 && rng.below(3) > 0 {
            continue;
        }
        engine.kick();
        while flying.len() > 4 {
            let Some((tag, page, count)) = flying.pop_front() else {
                break;
            };
            if !acks.wait(tag, over) {
                break;
            }
            done.fetch_add(1, Ordering::SeqCst);
            if strict {
                history[page].1 = count;
            }
        }
        if !strict && rng.below(10) == 0 {
            let counts: Vec<usize> = history.iter().map(|h| h.0.len()).collect();
            engine.flush(acks.ticket(u64::MAX));
            engine.kick();
            if acks.wait(u64::MAX, over) {
                for (h, n) in history.iter_mut().zip(counts) {
                    h.1 = n;
                }
            }
        }
    }
    history
}

/// Each page shows the newest write that must survive, or a later one.
fn check_survivors(image: &[u8], base: u64, history: &History, what: &str) {
    for (i, (numbers, safe)) in history.iter().enumerate() {
        let at = base as usize + i * PAGE;
        let page = &image[at..at + PAGE];
        let found = u64::from_le_bytes(page[..8].try_into().unwrap());
        assert_eq!(page, page_of(found), "{what}: page {i} is torn");
        let mut allowed = numbers[safe.saturating_sub(1).min(numbers.len())..].to_vec();
        if *safe == 0 {
            allowed.push(0);
        }
        assert!(
            allowed.contains(&found),
            "{what}: page {i} shows {found}, {safe} of {numbers:?} are safe"
        );
    }
}

fn power_cuts(strict: bool) {
    let host = Host::new(4 * REGION);
    // One host lives through all cuts: recovery works on what earlier lives left behind.
    for seed in 0..6 {
        let run = host.start(Options {
            strict,
            limit: 128 << 10,
            age: Duration::from_millis(3),
        });
        let mut rng = Rng(seed + 1);
        let over = AtomicBool::new(false);
        let done = AtomicU64::new(0);
        let wanted = 100 + rng.below(1500);
        let engine = Arc::clone(&run.engine);
        let mut run = Some(run);
        let histories: Vec<History> = std::thread::scope(|s| {
            let writers: Vec<_> = (0..4)
                .map(|w| {
                    let (engine, over, done) = (&engine, &over, &done);
                    s.spawn(move || {
                        writer(
                            engine.as_ref(),
                            w * REGION,
                            seed * 10 + w,
                            strict,
                            over,
                            done,
                        )
                    })
                })
                .collect();
            let mut nr = engine.status().newest.nr;
            while done.load(Ordering::SeqCst) < wanted {
                if rng.below(50) == 0 && engine.status().newest.nr == nr {
                    nr += 1;
                    engine.rotate(&host.own_log(nr)).unwrap();
                }
                std::thread::yield_now();
            }
            run.take().unwrap().power_cut(&mut rng);
            over.store(true, Ordering::SeqCst);
            writers.into_iter().map(|w| w.join().unwrap()).collect()
        });
        // A dead process holds no locks on its logs.
        drop(engine);
        host.recover().unwrap();
        let image = std::fs::read(host.disk_path()).unwrap();
        for (w, h) in histories.iter().enumerate() {
            check_survivors(
                &image,
                w as u64 * REGION,
                h,
                &format!("seed {seed} writer {w}"),
            );
        }
        // I4: recovery again changes nothing. Numbers of the next life start anew, so clear the pages through the engine.
        host.recover().unwrap();
        assert_eq!(image, std::fs::read(host.disk_path()).unwrap());
        let run = host.start(Options::default());
        let acks = Arc::new(Acks::default());
        run.engine.write_zeroes(0, host.size, true, acks.ticket(1));
        run.engine.kick();
        assert!(acks.wait(1, &AtomicBool::new(false)));
        assert!(run.stop());
    }
    let snap = host.tree.snapshot_of(&host.res).unwrap();
    let versions: Vec<_> = snap
        .versions(&host.res)
        .into_iter()
        .map(|(nr, _, v)| (nr, v))
        .collect();
    assert!(
        versions.len() > 12,
        "every life rotates: {}",
        versions.len()
    );
    assert_eq!(version_chain(&versions), None);
}

#[test]
fn strict_writes_survive_power_loss() {
    // I1, I4
    power_cuts(true);
}

#[test]
fn flushed_writes_survive_power_loss() {
    power_cuts(false);
}

#[test]
fn rotation_under_load_keeps_every_write() {
    // The last case has no write-back that could push answers along: a request forgotten during a rotation would wait for ever.
    let hour = Duration::from_secs(3600);
    let busy = (256 << 10, Duration::from_millis(5));
    for (strict, (limit, age)) in [(true, busy), (false, busy), (false, (64 << 20, hour))] {
        let host = Host::new(4 * REGION);
        let run = host.start(Options { strict, limit, age });
        let over = AtomicBool::new(false);
        let done = AtomicU64::new(0);
        let engine = Arc::clone(&run.engine);
        std::thread::scope(|s| {
            for w in 0..4 {
                let (engine, over, done) = (&engine, &over, &done);
                s.spawn(move || writer(engine.as_ref(), w * REGION, w, strict, over, done));
            }
            for nr in 2..12 {
                let before = done.load(Ordering::SeqCst);
                engine.rotate(&host.own_log(nr)).unwrap();
                while engine.status().durable.log.nr < nr
                    || done.load(Ordering::SeqCst) < before + 50
                {
                    std::thread::yield_now();
                }
            }
            over.store(true, Ordering::SeqCst);
        });
        assert!(run.stop());
        let disk = std::fs::read(host.disk_path()).unwrap();
        let replayed = replay_all(&host, &host.dir.path().join("replayed"));
        assert!(disk == replayed, "the logs tell the same story as the disk");
        let snap = host.tree.snapshot_of(&host.res).unwrap();
        let replay = snap.replay(&host.res, &host.me).unwrap();
        let len = std::fs::metadata(host.log_path(&replay.log)).unwrap().len();
        assert_eq!((replay.log.nr, replay.pos, replay.dirty), (11, len, 0));
        let versions: Vec<_> = snap
            .versions(&host.res)
            .into_iter()
            .map(|(nr, _, v)| (nr, v))
            .collect();
        assert_eq!(versions.len(), 11);
        assert_eq!(version_chain(&versions), None);
        for (nr, v) in &versions {
            assert_eq!(
                v.head.len,
                std::fs::metadata(host.log_path(&host.own_log(*nr)))
                    .unwrap()
                    .len()
            );
        }
        assert_eq!(snap.number(&Key::MaxNr(host.res.clone())), Some(11));
        // Stopped cleanly: the next start has nothing to do and takes the next number.
        let start = host.recover().unwrap();
        assert_eq!((start.log.nr, start.records), (12, 0));
    }
}

#[test]
fn reads_see_own_writes_during_write_back() {
    let host = Host::new(4 * REGION);
    let run = host.start(Options {
        strict: false,
        limit: 64 << 10,
        age: Duration::from_micros(100),
    });
    let engine = &run.engine;
    std::thread::scope(|s| {
        for w in 0..4u64 {
            s.spawn(move || {
                let mut rng = Rng(w);
                let mut shadow = vec![0u8; REGION as usize];
                let base = w * REGION;
                for round in 0..1500u64 {
                    let a = rng.below(REGION / 512) as usize;
                    let n = (1 + rng.below(24) as usize).min(REGION as usize / 512 - a);
                    let (from, len) = (a * 512, n * 512);
                    if rng.below(5) == 0 {
                        shadow[from..from + len].fill(0);
                        engine.write_zeroes(
                            base + from as u64,
                            len as u64,
                            false,
                            Arc::new(Acks::default()).ticket(0),
                        );
                    } else {
                        let b = (round % 255 + 1) as u8;
                        shadow[from..from + len].fill(b);
                        engine.write(
                            base + from as u64,
                            &vec![b; len],
                            false,
                            Arc::new(Acks::default()).ticket(0),
                        );
                    }
                    engine.kick();
                    let a = rng.below(REGION / 512) as usize;
                    let n = (1 + rng.below(40) as usize).min(REGION as usize / 512 - a);
                    let (from, len) = (a * 512, n * 512);
                    let mut buf = vec![0xEE; len];
                    if rng.below(2) == 0 {
                        assert!(engine.try_read(base + from as u64, &mut buf).unwrap());
                    } else {
                        engine.read(base + from as u64, &mut buf).unwrap();
                    }
                    assert!(
                        buf == shadow[from..from + len],
                        "stale read at {from} in round {round}"
                    );
                }
            });
        }
    });
    assert!(
        run.disk.flushes.load(Ordering::SeqCst) > 10,
        "write-back ran meanwhile"
    );
    assert!(run.stop());
}

#[test]
fn memory_limit_blocks_and_never_fails() {
    const LIMIT: usize = 512 << 10;
    let host = Host::new(16 << 20);
    let run = host.start(Options {
        strict: false,
        limit: LIMIT,
        age: Duration::from_secs(3600),
    });
    run.disk.set_gate(true);
    let engine = &run.engine;
    let written = AtomicU64::new(0);
    std::thread::scope(|s| {
        let (written, disk) = (&written, &run.disk);
        s.spawn(move || {
            for i in 0..4096u64 {
                let acks = Arc::new(Acks::default());
                engine.write(i * PAGE as u64, &page_of(i + 1), false, acks.ticket(1));
                engine.kick();
                assert!(acks.wait(1, &AtomicBool::new(false)));
                written.fetch_add(1, Ordering::SeqCst);
            }
        });
        // It stands still at the limit ...
        while engine.status().memory < LIMIT - 16 * PAGE {
            std::thread::yield_now();
        }
        for _ in 0..200 {
            std::thread::sleep(Duration::from_millis(1));
            assert!(engine.status().memory <= LIMIT + 300 * 1024);
        }
        let at_limit = written.load(Ordering::SeqCst);
        assert!(at_limit < 200, "{at_limit} pages are more than the limit");
        // ... and goes on when the disk does.
        disk.set_gate(false);
        while written.load(Ordering::SeqCst) < 4096 {
            assert!(engine.status().memory <= LIMIT + 300 * 1024);
            std::thread::yield_now();
        }
    });
    assert_eq!(read(engine, 4095 * PAGE as u64, PAGE), page_of(4096));
    assert!(run.stop());
}

#[test]
fn fua_and_flush_wait_for_the_log_in_flush_mode() {
    let host = Host::new(1 << 20);
    let run = host.start(Options {
        strict: false,
        ..Options::default()
    });
    let durable = |nr: u32| {
        run.world
            .durable
            .lock()
            .unwrap()
            .get(&host.own_log(nr))
            .copied()
            .unwrap_or(0)
    };
    write_wait(&run.engine, 0, &page_of(1));
    assert_eq!(
        durable(1),
        0,
        "a plain write is answered from the volatile cache"
    );
    let acks = Arc::new(Acks::default());
    run.engine.write(4096, &page_of(2), true, acks.ticket(7));
    run.engine.kick();
    assert!(acks.wait(7, &AtomicBool::new(false)));
    assert_eq!(durable(1), 2 * 4180);
    write_wait(&run.engine, 8192, &page_of(3));
    flush_wait(&run.engine);
    assert_eq!(durable(1), 3 * 4180);
    // Nothing outstanding: answered without another sync.
    flush_wait(&run.engine);
    assert!(run.stop());
}

#[test]
fn log_failure_passes_through_and_resumes_behind_a_hole() {
    for strict in [true, false] {
        let host = Host::new(4 * REGION);
        let run = host.start(Options {
            strict,
            limit: 256 << 10,
            age: Duration::from_millis(5),
        });
        run.world.has_space.store(false, Ordering::SeqCst);
        let over = AtomicBool::new(false);
        let done = AtomicU64::new(0);
        let engine = Arc::clone(&run.engine);
        std::thread::scope(|s| {
            for w in 0..4 {
                let (engine, over, done) = (&engine, &over, &done);
                s.spawn(move || writer(engine.as_ref(), w * REGION, w, strict, over, done));
            }
            let wait_for = |n: u64| {
                let goal = done.load(Ordering::SeqCst) + n;
                while done.load(Ordering::SeqCst) < goal {
                    std::thread::yield_now();
                }
            };
            wait_for(200);
            run.world.fail_after.store(1, Ordering::SeqCst);
            // I9: application I/O goes on without an error (`Acks::wait` unwraps every answer).
            wait_for(400);
            assert!(engine.status().is_emergency);
            assert!(!engine.try_resume(), "no space yet");
            run.world.fail_after.store(i64::MAX, Ordering::SeqCst);
            run.world.has_space.store(true, Ordering::SeqCst);
            assert_eq!(host.get("actual-alpha/is-emergency").as_deref(), Some("1"));
            assert!(engine.try_resume());
            wait_for(200);
            over.store(true, Ordering::SeqCst);
        });
        assert!(run.stop());
        assert_eq!(host.get("actual-alpha/is-emergency").as_deref(), Some("0"));
        assert_eq!(
            host.get("version-000000011-alpha").unwrap(),
            format!("{},log-000000011-alpha,0:", "0".repeat(32))
        );
        let snap = host.tree.snapshot_of(&host.res).unwrap();
        let replay = snap.replay(&host.res, &host.me).unwrap();
        let len = |nr| {
            std::fs::metadata(host.log_path(&host.own_log(nr)))
                .unwrap()
                .len()
        };
        assert_eq!((replay.log.nr, replay.pos, replay.dirty), (12, len(12), 0));
        assert_eq!(
            snap.version(&host.res, 1, &host.me).unwrap().head.len,
            len(1),
            "the old log is cut to what is valid"
        );
        assert_eq!(
            snap.version(&host.res, 12, &host.me)
                .unwrap()
                .pred
                .unwrap()
                .log
                .nr,
            11
        );
    }
}

#[test]
fn crash_during_emergency_keeps_the_hole_and_the_data() {
    let host = Host::new(4 * REGION);
    let run = host.start(Options {
        age: Duration::from_millis(5),
        ..Options::default()
    });
    run.world.has_space.store(false, Ordering::SeqCst);
    write_wait(&run.engine, 0, &page_of(1));
    run.world.fail_after.store(0, Ordering::SeqCst);
    // Answered from the disk, newer than what the log holds for this page.
    write_wait(&run.engine, 0, &page_of(2));
    run.power_cut(&mut Rng(1));
    let start = host.recover().unwrap();
    assert_eq!(start.log, host.own_log(12));
    assert_eq!(start.prev.unwrap().head.log.nr, 11);
    assert_eq!(std::fs::read(host.disk_path()).unwrap()[..PAGE], page_of(2));
}

#[test]
fn disk_errors_are_retried_and_published() {
    let host = Host::new(1 << 20);
    let run = host.start(Options {
        age: Duration::from_millis(1),
        ..Options::default()
    });
    run.disk.state.lock().unwrap().fail = 2;
    write_wait(&run.engine, 0, &page_of(1));
    let mut seen = false;
    while !(seen && run.engine.status().is_drained) {
        seen |= host.get("actual-alpha/disk-error").as_deref() == Some("-5");
        assert_eq!(read(&run.engine, 0, PAGE), page_of(1));
        std::thread::yield_now();
    }
    assert!(run.stop());
    assert_eq!(host.get("actual-alpha/disk-error").as_deref(), Some("0"));
    assert_eq!(std::fs::read(host.disk_path()).unwrap()[..PAGE], page_of(1));
}

#[test]
fn stop_with_a_broken_disk_leaves_everything_in_the_log() {
    let host = Host::new(1 << 20);
    let run = host.start(Options::default());
    run.disk.state.lock().unwrap().fail = u32::MAX;
    write_wait(&run.engine, 4096, &page_of(9));
    assert!(!run.stop(), "not drained");
    assert!(host.recover().unwrap().records > 0);
    assert_eq!(
        std::fs::read(host.disk_path()).unwrap()[4096..8192],
        page_of(9)
    );
}
