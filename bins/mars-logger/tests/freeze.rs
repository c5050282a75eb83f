//! Freezing and draining: what is held, what goes on, how it ends.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::*;
use mars_front::Backend;
use mars_logger::freeze::FreezeError;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

const SIZE: u64 = 1 << 20;
const LONG: Duration = Duration::from_secs(600);
static NEVER: AtomicBool = AtomicBool::new(false);

fn durable(running: &Running) -> Vec<u8> {
    running.disk.state.lock().unwrap().durable.clone()
}

fn cached(running: &Running) -> Vec<u8> {
    running.disk.state.lock().unwrap().cache.clone()
}

fn modes() -> [Options; 2] {
    [true, false].map(|strict| Options {
        strict,
        ..Options::default()
    })
}

#[test]
fn writes_wait_reads_and_flushes_go_on_until_thaw() {
    for options in modes() {
        let host = Host::new(SIZE);
        let r = host.start(options);
        let engine = &r.engine;
        write_wait(engine, 0, &[1; PAGE]);
        assert_eq!(durable(&r)[0], 0, "still only in the log");
        engine.freeze(LONG).unwrap();
        assert_eq!(durable(&r)[..PAGE], [1; PAGE]);
        assert_eq!(engine.freeze(LONG), Err(FreezeError::Already));

        let acks = Arc::new(Acks::default());
        engine.write(0, &[2; PAGE], false, acks.ticket(1));
        engine.write_zeroes(4096, 8192, true, acks.ticket(2));
        engine.kick();
        // The same thread goes on.
        assert_eq!(read(engine, 0, PAGE), [1; PAGE]);
        flush_wait(engine);
        let s = engine.status();
        assert!(s.is_frozen && s.held == 2 && s.is_drained);
        assert!(!acks.is_done(1) && !acks.is_done(2));
        assert_eq!(cached(&r)[..PAGE], [1; PAGE]);

        assert!(engine.thaw());
        assert!(acks.wait(1, &NEVER) && acks.wait(2, &NEVER));
        assert_eq!(read(engine, 0, PAGE), [2; PAGE]);
        assert!(!engine.thaw(), "it is over");
        let s = engine.status();
        assert!(!s.is_frozen && s.held == 0);
        // Once more, with the second write on the disk.
        engine.freeze(LONG).unwrap();
        assert_eq!(durable(&r)[..PAGE], [2; PAGE]);
        engine.end_freeze();
        assert!(r.stop());
    }
}

#[test]
fn a_freeze_ends_by_itself() {
    let host = Host::new(SIZE);
    let r = host.start(Options::default());
    r.engine.freeze(Duration::from_secs(1)).unwrap();
    let acks = Arc::new(Acks::default());
    r.engine.write(0, &[7; PAGE], false, acks.ticket(1));
    r.engine.kick();
    // Nobody thaws.
    assert!(acks.wait(1, &NEVER));
    assert!(!r.engine.status().is_frozen);
    for bad in [Duration::ZERO, Duration::from_secs(601)] {
        assert_eq!(r.engine.freeze(bad), Err(FreezeError::Timeout));
    }
    assert!(r.stop());
}

#[test]
fn a_disk_that_fails_or_hangs_is_not_frozen() {
    let host = Host::new(SIZE);
    let r = host.start(Options::default());
    write_wait(&r.engine, 0, &[1; PAGE]);
    r.disk.state.lock().unwrap().fail = 1;
    assert_eq!(r.engine.freeze(LONG), Err(FreezeError::Disk(5)));
    write_wait(&r.engine, 4096, &[2; PAGE]);

    let host = Host::new(SIZE);
    let hanging = host.start(Options::default());
    hanging.disk.set_gate(true);
    write_wait(&hanging.engine, 0, &[1; PAGE]);
    let short = Duration::from_secs(1);
    assert_eq!(hanging.engine.freeze(short), Err(FreezeError::NotClean));
    assert_eq!(hanging.engine.drain(short), Err(FreezeError::NotClean));
    // The log takes writes as before.
    write_wait(&hanging.engine, 4096, &[2; PAGE]);
    hanging.disk.set_gate(false);
    hanging.engine.drain(LONG).unwrap();
    assert_eq!(durable(&hanging)[4096], 2);
    assert!(hanging.stop());
    // Tried again meanwhile, or now.
    assert!(r.stop());
}

#[test]
fn the_end_of_the_logger_answers_what_is_held() {
    let host = Host::new(SIZE);
    let r = host.start(Options::default());
    r.engine.freeze(LONG).unwrap();
    let acks = Arc::new(Acks::default());
    r.engine.write(0, &[9; PAGE], false, acks.ticket(1));
    r.engine.kick();
    r.engine.leave();
    r.engine.end_freeze();
    assert!(acks.wait(1, &NEVER));
    assert_eq!(r.engine.freeze(LONG), Err(FreezeError::Leaving));
    assert!(r.stop());
    assert_eq!(std::fs::read(host.disk_path()).unwrap()[..PAGE], [9; PAGE]);

    let r = host.start(Options::default());
    r.engine.freeze(LONG).unwrap();
    r.engine.write(0, &[8; PAGE], false, acks.ticket(2));
    // Another host is designated.
    r.engine.allow_freeze(false);
    assert!(acks.wait(2, &NEVER));
    assert_eq!(r.engine.freeze(LONG), Err(FreezeError::Leaving));
    // And this one again.
    r.engine.allow_freeze(true);
    r.engine.freeze(LONG).unwrap();
    r.engine.end_freeze();
    assert!(r.stop());
}

/// A request that has begun is finished: otherwise the other half of it would come to the disk during the freeze, or be lost.
#[test]
fn a_large_write_under_way_is_finished() {
    let host = Host::new(4 * SIZE);
    let r = host.start(Options {
        limit: 1 << 20,
        ..Options::default()
    });
    // The disk hangs, so the buffer fills and the write waits in its middle.
    r.disk.set_gate(true);
    let data = vec![5; 3 << 20];
    let acks = Arc::new(Acks::default());
    std::thread::scope(|s| {
        s.spawn(|| {
            r.engine.write(0, &data, false, acks.ticket(1));
            r.engine.kick();
        });
        while r.engine.status().dirty_bytes < 256 << 10 {
            std::thread::yield_now();
        }
        let freezing = s.spawn(|| r.engine.freeze(LONG));
        while !r.engine.status().is_frozen {
            std::thread::yield_now();
        }
        r.disk.set_gate(false);
        freezing.join().unwrap().unwrap();
    });
    assert!(acks.wait(1, &NEVER));
    assert_eq!(durable(&r)[..data.len()], data);
    r.engine.end_freeze();
    assert!(r.stop());
}

/// The same when its first piece is on the disk already and the rest has not come yet.
#[test]
fn a_large_write_between_two_pieces_is_finished() {
    let host = Host::new(SIZE);
    let (is_there, go_on) = (AtomicBool::new(false), AtomicBool::new(false));
    let gate = Arc::new((is_there, go_on));
    let at_gate = Arc::clone(&gate);
    let wait = move || {
        if !at_gate.0.swap(true, Ordering::SeqCst) {
            while !at_gate.1.load(Ordering::SeqCst) {
                std::thread::yield_now();
            }
        }
    };
    let r = host.start_with(Options::default(), Box::new(wait));
    let data = vec![5; 512 << 10];
    let acks = Arc::new(Acks::default());
    std::thread::scope(|s| {
        s.spawn(|| {
            r.engine.write(0, &data, false, acks.ticket(1));
            r.engine.kick();
        });
        while !gate.0.load(Ordering::SeqCst) {
            std::thread::yield_now();
        }
        let freezing = s.spawn(|| {
            r.engine.freeze(LONG).unwrap();
            durable(&r)
        });
        while !(r.engine.status().is_frozen && r.engine.status().is_drained) {
            std::thread::yield_now();
        }
        // Time enough for a freeze that is over too early.
        for _ in 0..10_000 {
            std::thread::yield_now();
        }
        gate.1.store(true, Ordering::SeqCst);
        assert!(freezing.join().unwrap()[..data.len()] == data);
    });
    assert!(acks.wait(1, &NEVER));
    r.engine.end_freeze();
    assert!(r.stop());
}

/// I1: what was answered survives a power cut during a freeze; what is held was not answered and is nowhere.
#[test]
fn power_cut_while_frozen() {
    let host = Host::new(SIZE);
    let r = host.start(Options::default());
    write_wait(&r.engine, 0, &[1; PAGE]);
    r.engine.freeze(LONG).unwrap();
    let acks = Arc::new(Acks::default());
    r.engine.write(0, &[2; PAGE], false, acks.ticket(1));
    r.engine.kick();
    r.power_cut(&mut Rng(3));
    assert!(!acks.is_done(1));
    host.recover().unwrap();
    assert_eq!(std::fs::read(host.disk_path()).unwrap()[..PAGE], [1; PAGE]);
}

/// While it is frozen the disk equals the device, whatever several writers do; afterwards log, disk and device agree (I2, I4).
#[test]
fn frozen_disk_equals_the_device_under_load() {
    for options in modes() {
        let host = Host::new(SIZE);
        let r = host.start(Options {
            limit: 512 << 10,
            age: Duration::from_millis(1),
            ..options
        });
        let over = AtomicBool::new(false);
        let answered = AtomicU64::new(0);
        std::thread::scope(|s| {
            for seed in 0..4 {
                let (engine, over, answered) = (&r.engine, &over, &answered);
                s.spawn(move || {
                    let mut rng = Rng(seed);
                    let acks = Arc::new(Acks::default());
                    let mut tag = 0;
                    while !over.load(Ordering::SeqCst) {
                        let len = if rng.below(20) == 0 { 300 << 10 } else { 4096 };
                        let pos = rng.below((SIZE - len) / 512) * 512;
                        tag += 1;
                        let fill = vec![rng.next() as u8; len as usize];
                        match rng.below(8) {
                            0 => engine.write_zeroes(pos, len, false, acks.ticket(tag)),
                            n => engine.write(pos, &fill, n == 1, acks.ticket(tag)),
                        }
                        engine.kick();
                        assert!(acks.wait(tag, &NEVER));
                        answered.fetch_add(1, Ordering::SeqCst);
                    }
                });
            }
            for _ in 0..30 {
                r.engine.freeze(LONG).unwrap();
                let before = answered.load(Ordering::SeqCst);
                let disk = durable(&r);
                assert_eq!(disk, cached(&r), "nothing is left in the cache of the disk");
                assert!(
                    disk == read(&r.engine, 0, SIZE as usize),
                    "disk and device differ"
                );
                // All writers are held sooner or later; none of them reaches the disk.
                while r.engine.status().held < 4 {
                    std::thread::yield_now();
                }
                assert!(
                    disk == durable(&r) && disk == cached(&r),
                    "the disk changed"
                );
                // Answers that were under way may have been delivered, nothing else.
                assert!(answered.load(Ordering::SeqCst) <= before + 4);
                assert!(r.engine.thaw());
                while answered.load(Ordering::SeqCst) < before + 8 {
                    std::thread::yield_now();
                }
            }
            over.store(true, Ordering::SeqCst);
        });
        r.engine.end_freeze();
        let device = read(&r.engine, 0, SIZE as usize);
        assert!(r.stop());
        let image = host.dir.path().join("replayed");
        assert!(replay_all(&host, &image) == device);
        assert!(std::fs::read(host.disk_path()).unwrap() == device);
    }
}
