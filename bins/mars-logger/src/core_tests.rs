//! The core alone, driven by random events as the engine would drive it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use mars_log::{Payload, Scan, ScanLimits, Scanner};
use proptest::prelude::*;
use std::collections::BTreeMap;

const SECOND: Duration = Duration::from_secs(1);

fn log(nr: u32) -> LogName {
    LogName {
        nr,
        host: "alpha".parse().unwrap(),
    }
}

fn core(strict: bool, limit: usize) -> Core<u32> {
    let config = CoreConfig {
        strict,
        limit,
        encode: EncodeOptions::default(),
        age: SECOND,
        zeroes_packed: true,
    };
    Core::new(config, log(1))
}

fn put(c: &mut Core<u32>, pos: u64, tag: u32) -> Vec<u32> {
    let mut out = Vec::new();
    c.write(pos, &[tag as u8; 512], Stamp::ZERO, Duration::ZERO);
    c.answer_when_safe(false, tag, &mut out);
    out
}

fn append(c: &mut Core<u32>) -> Vec<u32> {
    let mut out = Vec::new();
    if let Some(chunk) = c.take_chunk() {
        c.appended(chunk, &mut out);
    }
    out
}

fn sync(c: &mut Core<u32>) -> Vec<u32> {
    let mut out = Vec::new();
    c.synced(c.sync_target(), &mut out);
    out
}

#[test]
fn strict_answers_after_the_sync_that_began_behind_the_append() {
    let mut c = core(true, 1 << 20);
    assert!(put(&mut c, 0, 1).is_empty());
    c.commit(&mut Vec::new());
    assert!(c.wants_write() && !c.wants_sync());
    assert!(append(&mut c).is_empty());
    let target = c.sync_target();
    // The second write is appended while the sync runs: the sync says nothing about it.
    put(&mut c, 512, 2);
    append(&mut c);
    let mut out = Vec::new();
    c.synced(target, &mut out);
    assert_eq!(out, [1]);
    assert_eq!(sync(&mut c), [2]);
}

#[test]
fn flush_mode_answers_after_the_append_and_flush_after_the_sync() {
    let mut c = core(false, 1 << 20);
    put(&mut c, 0, 1);
    let mut out = Vec::new();
    c.answer_when_safe(true, 9, &mut out);
    c.commit(&mut out);
    assert!(out.is_empty());
    assert_eq!(append(&mut c), [1]);
    assert!(c.wants_sync());
    assert_eq!(sync(&mut c), [9]);
    // Nothing outstanding.
    c.answer_when_safe(true, 10, &mut out);
    assert_eq!(out, [10]);
}

#[test]
fn freeze_waits_for_age_size_or_demand() {
    let mut c = core(true, 64 << 10);
    assert_eq!(c.write_back_due(), Due::Never);
    c.write(0, &[1; 512], Stamp::ZERO, SECOND);
    assert_eq!(c.write_back_due(), Due::At(2 * SECOND));
    c.write(4096, &[1; 40960], Stamp::ZERO, SECOND);
    assert_eq!(c.write_back_due(), Due::Now);
    let w = c.freeze().unwrap();
    assert_eq!(c.write_back_due(), Due::Never, "one at a time");
    assert!(!c.may_write_back());
    append(&mut c);
    sync(&mut c);
    assert!(c.frozen_is_ready());
    put(&mut c, 0, 1);
    c.wrote_back(w, &mut Vec::new());
    c.demand_write_back();
    assert_eq!(c.write_back_due(), Due::Now);
}

#[test]
fn rotation_splits_generations_and_numbers() {
    let mut c = core(true, 1 << 20);
    put(&mut c, 0, 1);
    let w = c.begin_rotation(log(2)).unwrap();
    put(&mut c, 512, 2);
    assert!(c.take_chunk().is_none(), "the old log comes first");
    assert_eq!(c.take_tail().len(), 596);
    assert_eq!(
        c.durable_pos(),
        LogPos {
            log: log(1),
            pos: 0
        }
    );
    assert_eq!(
        c.rotation().unwrap(),
        (
            LogPos {
                log: log(1),
                pos: 596
            },
            log(2)
        )
    );
    let mut out = Vec::new();
    c.rotated(&mut out);
    assert_eq!(out, [1]);
    assert_eq!(
        (w.from.clone(), w.dirty),
        (
            LogPos {
                log: log(1),
                pos: 0
            },
            596
        )
    );
    let chunk = c.take_chunk().unwrap();
    let mut scanner = Scanner::new(ScanLimits::default());
    let Scan::Record(r) = scanner.next(&chunk.bytes) else {
        panic!("no record")
    };
    assert_eq!((r.seq, r.device_pos), (1, 512));
    c.appended(chunk, &mut out);
    assert_eq!(
        c.write_back_pos(),
        LogPos {
            log: log(1),
            pos: 0
        }
    );
    c.wrote_back(w, &mut out);
    assert_eq!(
        c.write_back_pos(),
        LogPos {
            log: log(2),
            pos: 0
        }
    );
    assert_eq!(
        c.durable_pos(),
        LogPos {
            log: log(2),
            pos: 0
        }
    );
    assert_eq!(
        c.written_pos(),
        LogPos {
            log: log(2),
            pos: 596
        }
    );
}

#[test]
fn zeroes_are_small_records_inside_regions() {
    for (packed, max) in [(true, 2000), (false, 300_000)] {
        let mut c = core(true, 1 << 20);
        c.config.zeroes_packed = packed;
        c.write_zeroes(61440, 200 << 10, Stamp::ZERO, Duration::ZERO);
        let chunk = c.take_chunk().unwrap();
        assert!(chunk.bytes.len() < max);
        let (mut at, mut pos) = (0, 61440);
        let mut scanner = Scanner::new(ScanLimits::default());
        while let Scan::Record(r) = scanner.next(&chunk.bytes[at..]) {
            let len = r.payload.len() as u64;
            assert_eq!(r.device_pos, pos);
            assert_eq!(
                pos / 65536,
                (pos + len - 1) / 65536,
                "never across a region"
            );
            at += r.total_len;
            pos += len;
        }
        assert_eq!((at, pos), (chunk.bytes.len(), 61440 + (200 << 10)));
    }
}

#[test]
fn emergency_drops_what_is_not_durable_and_answers_from_the_disk() {
    let mut c = core(true, 1 << 20);
    put(&mut c, 0, 1);
    append(&mut c);
    sync(&mut c);
    put(&mut c, 512, 2);
    append(&mut c);
    put(&mut c, 1024, 3);
    assert_eq!(
        c.enter_emergency(),
        LogPos {
            log: log(1),
            pos: 596
        }
    );
    // A sync that began before says nothing any more.
    assert!(sync(&mut c).is_empty());
    assert!(c.take_chunk().is_none());
    put(&mut c, 1536, 4);
    assert_eq!(c.write_back_due(), Due::Now);
    let w = c.freeze().unwrap();
    assert!(c.may_write_back());
    assert_eq!(w.dirty, 596, "the log has no more than that");
    let mut out = Vec::new();
    c.wrote_back(w, &mut out);
    assert_eq!(out, [2, 3, 4]);
    assert_eq!(
        c.write_back_pos(),
        LogPos {
            log: log(1),
            pos: 596
        }
    );
    c.leave_emergency(log(12));
    assert_eq!(
        c.write_back_pos(),
        LogPos {
            log: log(12),
            pos: 0
        }
    );
    put(&mut c, 0, 5);
    append(&mut c);
    assert_eq!(sync(&mut c), [5]);
    assert_eq!(
        c.durable_pos(),
        LogPos {
            log: log(12),
            pos: 596
        }
    );
}

#[derive(Clone, Debug)]
enum Event {
    Write(u64, u64),
    Zero(u64, u64),
    Commit,
    Flush,
    Append,
    Sync,
    Freeze,
    WroteBack,
    Rotate,
    Rotated,
}

fn event() -> impl Strategy<Value = Event> {
    let range = (0..64u64, 1..24u64);
    prop_oneof![
        5 => range.clone().prop_map(|(a, n)| Event::Write(a, n)),
        1 => range.prop_map(|(a, n)| Event::Zero(a, n)),
        2 => Just(Event::Commit),
        1 => Just(Event::Flush),
        4 => Just(Event::Append),
        3 => Just(Event::Sync),
        2 => Just(Event::Freeze),
        2 => Just(Event::WroteBack),
        1 => Just(Event::Rotate),
        1 => Just(Event::Rotated),
    ]
}

/// The world around the core: logs with durable lengths, a disk.
#[derive(Default)]
struct World {
    logs: BTreeMap<u32, Vec<u8>>,
    durable: BTreeMap<u32, usize>,
    nr: u32,
    disk: BTreeMap<u64, u8>,
    /// Per sector what was written, with the tag of the request, in order.
    history: BTreeMap<u64, Vec<(u32, u8)>>,
    /// Unanswered requests: does the answer promise durability?
    waiting: BTreeMap<u32, bool>,
}

impl World {
    /// Disk plus the durable logs behind the write-back position.
    fn after_crash(&self, from: &LogPos, durable_only: bool) -> BTreeMap<u64, u8> {
        let mut disk = self.disk.clone();
        for (nr, bytes) in self.logs.range(from.log.nr..) {
            let start = if *nr == from.log.nr {
                from.pos as usize
            } else {
                0
            };
            let end = if durable_only {
                self.durable.get(nr).copied().unwrap_or(0)
            } else {
                bytes.len()
            };
            let mut at = start;
            let mut scanner = Scanner::new(ScanLimits::default());
            while let Scan::Record(r) = scanner.next(&bytes[at..end.max(at)]) {
                at += r.total_len;
                let value = |i: usize| match &r.payload {
                    Payload::Plain(b) => b[i * 512],
                    Payload::Unpacked(b) => b[i * 512],
                    Payload::Zeroes(_) => 0,
                };
                for i in 0..r.payload.len() / 512 {
                    disk.insert(r.device_pos / 512 + i as u64, value(i));
                }
            }
        }
        disk.retain(|_, v| *v != 0);
        disk
    }
}

impl World {
    /// Every sector shows the newest write up to request `safe`, or a later one.
    fn check(&self, found: &BTreeMap<u64, u8>, safe: u32) -> Result<(), TestCaseError> {
        for (sector, writes) in &self.history {
            let now = found.get(sector).copied().unwrap_or(0);
            let before = writes
                .iter()
                .rev()
                .find(|(t, _)| *t <= safe)
                .map_or(0, |(_, b)| *b);
            let fits = now == before || writes.iter().any(|(t, b)| *t > safe && *b == now);
            prop_assert!(
                fits,
                "sector {} shows {}, {} is safe: {:?}",
                sector,
                now,
                safe,
                writes
            );
        }
        Ok(())
    }
}

proptest! {
    /// I1, I2, I4 on the level of decisions: whatever was answered is in the state that a crash at this moment leaves.
    #[test]
    fn answered_requests_survive_any_crash(events in proptest::collection::vec(event(), 1..120), strict in any::<bool>()) {
        let mut c = core(strict, 1 << 20);
        let mut w = World { nr: 1, ..World::default() };
        w.logs.insert(1, Vec::new());
        let mut frozen: Option<WriteBack> = None;
        let mut tag = 0;
        let mut safe = 0;
        for e in events {
            let mut out = Vec::new();
            match e {
                Event::Write(a, n) | Event::Zero(a, n) => {
                    tag += 1;
                    let zero = matches!(e, Event::Zero(..));
                    let b = if zero { 0 } else { (tag % 255 + 1) as u8 };
                    if zero {
                        c.write_zeroes(a * 512, n * 512, Stamp::ZERO, Duration::ZERO);
                    } else {
                        c.write(a * 512, &vec![b; n as usize * 512], Stamp::ZERO, Duration::ZERO);
                    }
                    for s in a..a + n {
                        w.history.entry(s).or_default().push((tag, b));
                    }
                    w.waiting.insert(tag, strict);
                    c.answer_when_safe(false, tag, &mut out);
                }
                Event::Flush => {
                    tag += 1;
                    w.waiting.insert(tag, true);
                    c.answer_when_safe(true, tag, &mut out);
                }
                Event::Commit => c.commit(&mut out),
                Event::Append => {
                    if let Some(chunk) = c.take_chunk() {
                        w.logs.get_mut(&w.nr).unwrap().extend(&chunk.bytes);
                        c.appended(chunk, &mut out);
                    }
                }
                Event::Sync => {
                    if !c.is_rotating() {
                        let len = w.logs[&w.nr].len();
                        w.durable.insert(w.nr, len);
                        c.synced(c.sync_target(), &mut out);
                    }
                }
                Event::Freeze => {
                    if frozen.is_none() {
                        frozen = c.freeze();
                    }
                }
                Event::WroteBack => {
                    if c.may_write_back() && let Some(f) = frozen.take() {
                        prop_assert_eq!(f.from.clone(), c.write_back_pos());
                        for run in f.generation.runs(1 << 20) {
                            match run {
                                mars_disk::WriteRun::Data { pos, pieces } => {
                                    for (i, s) in pieces.concat().chunks(512).enumerate() {
                                        w.disk.insert(pos / 512 + i as u64, s[0]);
                                    }
                                }
                                mars_disk::WriteRun::Zeroes { pos, len } => {
                                    for s in pos / 512..(pos + len) / 512 {
                                        w.disk.insert(s, 0);
                                    }
                                }
                            }
                            w.check(&w.after_crash(&f.from, true), safe)?;
                        }
                        c.wrote_back(f, &mut out);
                    }
                }
                Event::Rotate => {
                    if c.may_rotate() && frozen.is_none() {
                        frozen = c.begin_rotation(log(w.nr + 1));
                    }
                }
                Event::Rotated => {
                    if c.is_rotating() {
                        let tail = c.take_tail();
                        let old = w.logs.get_mut(&w.nr).unwrap();
                        old.extend(&tail);
                        let (pos, _) = c.rotation().unwrap();
                        prop_assert_eq!(pos.pos, old.len() as u64);
                        w.durable.insert(w.nr, old.len());
                        w.nr += 1;
                        w.logs.insert(w.nr, Vec::new());
                        c.rotated(&mut out);
                    }
                }
            }
            let mut last = 0;
            for t in out {
                let durable = w.waiting.remove(&t).unwrap();
                prop_assert!(t > last || !strict, "answers in order");
                last = t;
                if durable {
                    safe = safe.max(t);
                } else {
                    // In the kernel: a process that dies loses nothing of it.
                    w.check(&w.after_crash(&c.write_back_pos(), false), t)?;
                }
            }
            w.check(&w.after_crash(&c.write_back_pos(), true), safe)?;
            // The buffer over the disk always shows the newest.
            for s in 0..88u64 {
                let mut buf = [w.disk.get(&s).copied().unwrap_or(0); 512];
                c.buffer().read(s * 512, &mut buf, None);
                let newest = w.history.get(&s).and_then(|h| h.last()).map_or(0, |(_, b)| *b);
                prop_assert_eq!(buf[0], newest);
            }
        }
    }
}
