//! Single decisions of the core, step by step. `sim_tests` drives it with random events against a model.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::disk_side::GIVE_UP;
use super::*;
use mars_log::{Scan, ScanLimits, Scanner};

#[path = "sim_tests.rs"]
mod sim_tests;

const SECOND: Duration = Duration::from_secs(1);
const OK: Result<(), i32> = Ok(());

fn log(nr: u32) -> LogName {
    LogName {
        nr,
        host: "alpha".parse().unwrap(),
    }
}

fn at(nr: u32, pos: u64) -> LogPos {
    LogPos { log: log(nr), pos }
}

fn config(strict: bool, limit: usize) -> CoreConfig {
    CoreConfig {
        strict,
        limit,
        encode: EncodeOptions::default(),
        age: 5 * SECOND,
        recovery_limit: 1 << 30,
        zeroes_packed: true,
    }
}

fn core(strict: bool, limit: usize) -> Core<u32> {
    Core::new(config(strict, limit), log(1))
}

fn put(c: &mut Core<u32>, pos: u64, tag: u32) -> Vec<u32> {
    let mut out = Vec::new();
    c.write(pos, &[tag as u8; 512], Stamp::ZERO, Duration::ZERO);
    c.answer_when_safe(false, Some(pos..pos + 512), tag, &mut out);
    c.commit(&mut out);
    good(out)
}

fn good(out: Vec<Answer<u32>>) -> Vec<u32> {
    assert!(out.iter().all(|a| a.result == OK));
    out.into_iter().map(|a| a.tag).collect()
}

fn log_step(c: &mut Core<u32>) -> LogStep {
    let has = c.has_log_step();
    let step = c.next_log_step();
    assert_eq!(has, !matches!(step, LogStep::Sleep));
    step
}

fn append(c: &mut Core<u32>) -> Vec<u32> {
    let mut out = Vec::new();
    let step = log_step(c);
    assert!(matches!(step, LogStep::Append(_)), "{step:?}");
    c.log_done(step, OK, &mut out);
    good(out)
}

fn sync(c: &mut Core<u32>) -> Vec<u32> {
    let mut out = Vec::new();
    let step = log_step(c);
    assert!(matches!(step, LogStep::Sync(_)), "{step:?}");
    c.log_done(step, OK, &mut out);
    good(out)
}

impl DiskStep {
    fn is_write(&self) -> bool {
        matches!(self, DiskStep::Write(_))
    }
}

/// The next disk step, by its `Debug` name; done with this result.
fn disk(c: &mut Core<u32>, result: Result<(), i32>) -> (String, Vec<Answer<u32>>) {
    let mut out = Vec::new();
    let step = c.next_disk_step(Duration::ZERO);
    let name = match &step {
        DiskStep::Write(_) => "Write".to_string(),
        DiskStep::Salvage(_) => "Salvage".to_string(),
        DiskStep::Promise { from, dirty } => {
            format!("Promise {},{},{dirty}", from.log.nr, from.pos)
        }
        DiskStep::Position { at, .. } => format!("Position {},{}", at.log.nr, at.pos),
        DiskStep::CutLog { valid } => format!("CutLog {},{}", valid.log.nr, valid.pos),
        DiskStep::Resume { log } => format!("Resume {}", log.nr),
        other => format!("{other:?}"),
    };
    if let DiskStep::Salvage(data) = &step {
        let lost = result.map_or_else(|_| data.ranges(), |()| Ranges::default());
        c.disk_salvaged(lost, result.err().unwrap_or(0), Duration::ZERO, &mut out);
    } else if !matches!(step, DiskStep::Sleep(_) | DiskStep::End) {
        c.disk_done(step, result, Duration::ZERO, &mut out);
    }
    (name, out)
}

fn disk_steps(c: &mut Core<u32>) -> (Vec<String>, Vec<u32>) {
    let (mut names, mut tags) = (Vec::new(), Vec::new());
    loop {
        let (name, out) = disk(c, OK);
        if name.starts_with("Sleep") || name == "End" {
            return (names, tags);
        }
        names.push(name);
        tags.extend(good(out));
    }
}

#[test]
fn strict_answers_after_the_sync_that_began_behind_the_append() {
    let mut c = core(true, 1 << 20);
    assert!(put(&mut c, 0, 1).is_empty());
    assert!(append(&mut c).is_empty());
    let first = log_step(&mut c);
    assert!(matches!(first, LogStep::Sync(_)));
    // The second write is appended while the sync runs: the sync says nothing about it.
    put(&mut c, 512, 2);
    append(&mut c);
    assert!(matches!(log_step(&mut c), LogStep::Sleep), "one at a time");
    let mut out = Vec::new();
    c.log_done(first, OK, &mut out);
    assert_eq!(good(out), [1]);
    assert_eq!(sync(&mut c), [2]);
}

#[test]
fn flush_mode_answers_after_the_append_and_flush_after_the_sync() {
    let mut c = core(false, 1 << 20);
    put(&mut c, 0, 1);
    let mut out = Vec::new();
    c.answer_when_safe(true, None, 9, &mut out);
    assert!(out.is_empty());
    assert_eq!(append(&mut c), [1]);
    assert_eq!(sync(&mut c), [9]);
    // Nothing outstanding.
    c.answer_when_safe(true, None, 10, &mut out);
    assert_eq!(good(out), [10]);
}

#[test]
fn a_failed_sync_makes_nothing_durable_and_stops_logging() {
    let mut c = core(true, 1 << 20);
    put(&mut c, 0, 1);
    append(&mut c);
    let step = log_step(&mut c);
    let mut out = Vec::new();
    c.log_done(step, Err(5), &mut out);
    assert!(out.is_empty() && c.is_emergency());
    assert_eq!(c.durable_pos(), at(1, 0));
    assert_eq!(
        disk_steps(&mut c),
        (
            vec![
                "CutLog 1,0".into(),
                "Write".into(),
                "Flush".into(),
                "Position 1,0".into()
            ],
            vec![1]
        )
    );
}

#[test]
fn write_back_waits_for_age_idleness_size_or_demand() {
    let mut c = core(true, 64 << 10);
    assert_eq!(c.disk_due(SECOND), Due::Never);
    c.write(0, &[1; 512], Stamp::ZERO, SECOND);
    assert_eq!(c.disk_due(SECOND), Due::At(2 * SECOND), "idle");
    for t in 2..6 {
        c.write(0, &[1; 512], Stamp::ZERO, t * SECOND);
        assert_eq!(c.disk_due(t * SECOND), Due::At((t + 1) * SECOND));
    }
    assert_eq!(c.disk_due(6 * SECOND), Due::Now, "old");
    c.write(4096, &[1; 40960], Stamp::ZERO, 5 * SECOND);
    assert_eq!(c.disk_due(5 * SECOND), Due::Now, "large");
    assert!(matches!(
        c.next_disk_step(5 * SECOND),
        DiskStep::Sleep(None)
    ));
    c.demand_write_back();
    assert_eq!(c.disk_due(5 * SECOND), Due::Never, "not durable in the log");
    append(&mut c);
    sync(&mut c);
    let (steps, _) = disk_steps(&mut c);
    assert_eq!(steps[1..4], ["Write", "Flush", "Position 1,44780"]);
    put(&mut c, 0, 1);
    c.demand_write_back();
    assert_eq!(c.disk_due(5 * SECOND), Due::Now);
    let mut c = core(true, 1 << 20);
    c.config.recovery_limit = 100_000;
    for _ in 0..11 {
        c.write(0, &[1; 4096], Stamp::ZERO, SECOND);
        assert_eq!(c.disk_due(SECOND), Due::At(2 * SECOND));
    }
    c.write(0, &[1; 4096], Stamp::ZERO, SECOND);
    assert_eq!(c.disk_due(SECOND), Due::Now, "much log");
}

#[test]
fn rotation_splits_generations_and_numbers() {
    let mut c = core(true, 1 << 20);
    put(&mut c, 0, 1);
    c.rotate(log(2));
    put(&mut c, 512, 2);
    let LogStep::Append(tail) = log_step(&mut c) else {
        panic!("the old log comes first")
    };
    assert_eq!((tail.log_nr, tail.at, tail.bytes.len()), (1, 0, 596));
    c.log_done(LogStep::Append(tail), OK, &mut Vec::new());
    assert_eq!(c.durable_pos(), at(1, 0));
    assert_eq!(sync(&mut c), [1]);
    let step = log_step(&mut c);
    let LogStep::Switch { old, new } = &step else {
        panic!("{step:?}")
    };
    assert_eq!((old, new), (&at(1, 596), &log(2)));
    c.log_done(step, OK, &mut Vec::new());
    let LogStep::Append(chunk) = log_step(&mut c) else {
        panic!("what came meanwhile")
    };
    let mut scanner = Scanner::new(ScanLimits::default());
    let Scan::Record(r) = scanner.next(&chunk.bytes) else {
        panic!("no record")
    };
    assert_eq!((r.seq, r.device_pos), (1, 512));
    assert_eq!((chunk.log_nr, chunk.at), (2, 0));
    c.log_done(LogStep::Append(chunk), OK, &mut Vec::new());
    assert_eq!(c.write_back_pos(), at(1, 0));
    assert_eq!(
        disk_steps(&mut c).0,
        [
            "Position 1,0",
            "Promise 1,0,596",
            "Write",
            "Flush",
            "Position 2,0"
        ]
    );
    assert_eq!((c.durable_pos(), c.written_pos()), (at(2, 0), at(2, 596)));
    assert_eq!(sync(&mut c), [2]);
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
    let late = log_step(&mut c);
    put(&mut c, 1024, 3);
    let mut out = Vec::new();
    c.stop_logging(&mut out);
    assert!(matches!(
        c.next_disk_step(Duration::ZERO),
        DiskStep::Sleep(None)
    ));
    // A sync that began before says nothing any more, but the log is cut only when it is over.
    c.log_done(late, OK, &mut out);
    assert!(out.is_empty());
    assert!(matches!(log_step(&mut c), LogStep::Sleep));
    put(&mut c, 1536, 4);
    let (steps, answered) = disk_steps(&mut c);
    assert_eq!(steps, ["CutLog 1,596", "Write", "Flush", "Position 1,596"]);
    assert_eq!(answered, [2, 3, 4]);
    c.resume(log(12));
    assert!(!c.has_room());
    assert_eq!(disk_steps(&mut c).0, ["Resume 12"]);
    assert_eq!(c.write_back_pos(), at(12, 0));
    put(&mut c, 0, 5);
    append(&mut c);
    assert_eq!(sync(&mut c), [5]);
    assert_eq!(c.durable_pos(), at(12, 596));
}

#[test]
fn emergency_during_a_rotation_stays_in_the_old_log() {
    let mut c = core(true, 1 << 20);
    put(&mut c, 0, 1);
    c.rotate(log(2));
    put(&mut c, 512, 2);
    let tail = log_step(&mut c);
    let mut out = Vec::new();
    c.log_done(tail, Err(28), &mut out);
    let (steps, answered) = disk_steps(&mut c);
    assert_eq!(steps[0], "CutLog 1,0");
    assert_eq!(answered, [1, 2]);
    // While the links of a rotation are written, it is finished first.
    let mut c = core(true, 1 << 20);
    c.rotate(log(2));
    let switch = log_step(&mut c);
    c.stop_logging(&mut out);
    assert!(!c.is_emergency());
    c.log_done(switch, OK, &mut out);
    assert_eq!(disk_steps(&mut c).0, ["CutLog 2,0", "Position 2,0"]);
}

#[test]
fn disk_errors_are_published_and_retried_from_the_first_byte() {
    let mut c = core(true, 1 << 20);
    put(&mut c, 0, 1);
    append(&mut c);
    assert_eq!(sync(&mut c), [1]);
    c.demand_write_back();
    assert_eq!(disk(&mut c, OK).0, "Promise 1,0,596");
    assert_eq!(disk(&mut c, OK).0, "Write");
    assert_eq!(disk(&mut c, Err(5)).0, "Flush");
    assert_eq!(disk(&mut c, OK).0, "DiskError(5)");
    // The pages of a failed flush are gone: everything is written again, after a pause.
    let Due::At(t) = c.disk_due(Duration::ZERO) else {
        panic!("no pause")
    };
    assert!(matches!(c.next_disk_step(t), DiskStep::Write(_)));
    c.disk_busy = false;
    c.retry_at = Duration::ZERO;
    assert_eq!(
        disk_steps(&mut c).0,
        ["Write", "Flush", "DiskError(0)", "Position 1,596"]
    );
}

#[test]
fn without_log_and_disk_requests_fail_and_nothing_is_forgotten() {
    let mut c = core(true, 1 << 20);
    put(&mut c, 0, 1);
    c.stop_logging(&mut Vec::new());
    assert_eq!(disk(&mut c, OK).0, "CutLog 1,0");
    // A disk that fails for a moment fails nobody.
    for i in 1..GIVE_UP {
        assert_eq!(disk(&mut c, Err(5)), ("Write".to_string(), vec![]));
        if i == 1 {
            assert_eq!(disk(&mut c, OK).0, "DiskError(5)");
        }
        assert_eq!(c.refusal(), None);
        c.retry_at = Duration::ZERO;
    }
    assert_eq!(disk(&mut c, Err(5)), ("Write".to_string(), vec![]));
    let error = |tag| Answer {
        tag,
        result: Err(5),
    };
    // Which places the disk does not take is found out at once.
    assert_eq!(disk(&mut c, Err(5)), ("Salvage".to_string(), vec![]));
    assert_eq!(
        disk(&mut c, OK),
        ("Position 1,0".to_string(), vec![error(1)])
    );
    assert_eq!(c.refusal(), Some(5));
    let mut buf = [0; 512];
    assert!(c.buffer().read(0, &mut buf, None) && buf == [1; 512]);
    c.retry_at = Duration::ZERO;
    put(&mut c, 512, 2);
    let (steps, answered) = disk_steps(&mut c);
    assert_eq!(steps[..2], ["Salvage", "DiskError(0)"]);
    assert_eq!(answered, [2]);
}

/// Carries out a salvage on a disk that does not take the sectors `bad`, and what follows.
fn salvage(c: &mut Core<u32>, bad: &[u64]) -> Vec<Answer<u32>> {
    let mut out = Vec::new();
    c.retry_at = Duration::ZERO;
    loop {
        match c.next_disk_step(Duration::ZERO) {
            DiskStep::Salvage(data) => {
                let bad: Ranges = bad.iter().map(|s| s * 512..(s + 1) * 512).collect();
                let held = data.ranges();
                let lost = held.iter().flat_map(|r| bad.within(r.clone()));
                c.disk_salvaged(lost.collect(), 5, Duration::ZERO, &mut out);
            }
            DiskStep::Write(g) => {
                c.disk_done(DiskStep::Write(g), Err(5), Duration::ZERO, &mut out);
                c.retry_at = Duration::ZERO;
            }
            DiskStep::Sleep(_) => return out,
            step => c.disk_done(step, OK, Duration::ZERO, &mut out),
        }
    }
}

#[test]
fn a_disk_that_fails_in_places_fails_only_the_requests_there() {
    let mut c = core(true, 1 << 20);
    c.stop_logging(&mut Vec::new());
    assert!(put(&mut c, 0, 1).is_empty() && put(&mut c, 512, 2).is_empty());
    let mut none = Vec::new();
    c.answer_when_safe(true, None, 3, &mut none);
    let answer = |tag, result| Answer { tag, result };
    assert_eq!(
        salvage(&mut c, &[1]),
        [answer(1, OK), answer(2, Err(5)), answer(3, Err(5))]
    );
    // What is stuck stays readable, and what comes later goes on.
    assert!(put(&mut c, 1024, 4).is_empty());
    assert_eq!(salvage(&mut c, &[1]), [answer(4, OK)]);
    let mut buf = [0; 512];
    assert!(c.buffer().read(512, &mut buf, None) && buf == [2; 512]);
    // A flush waits for the next try; once the place is written it is good.
    c.answer_when_safe(true, None, 5, &mut none);
    assert_eq!(salvage(&mut c, &[1]), [answer(5, Err(5))]);
    assert!(!c.buffer().read(1024, &mut buf, None), "on the disk");
    c.answer_when_safe(true, None, 6, &mut none);
    assert_eq!(salvage(&mut c, &[]), [answer(6, OK)]);
    assert!(none.is_empty() && c.is_drained() && c.is_durable());
    assert_eq!(put(&mut c, 512, 7), []);
    assert!(c.next_disk_step(Duration::ZERO).is_write());
}

#[test]
fn what_the_log_holds_of_a_place_comes_first() {
    let mut c = core(true, 1 << 20);
    // Logged, answered, not on the disk: sectors 0 and 1.
    put(&mut c, 0, 1);
    put(&mut c, 512, 2);
    append(&mut c);
    assert_eq!(sync(&mut c), [1, 2]);
    c.stop_logging(&mut Vec::new());
    // Sector 1 is bad: the position cannot move, and recovery would put request 1 over a newer sector 0.
    assert!(put(&mut c, 0, 3).is_empty() && put(&mut c, 1024, 4).is_empty());
    let answer = |tag, result| Answer { tag, result };
    assert_eq!(salvage(&mut c, &[1]), [answer(3, Err(5)), answer(4, OK)]);
    assert_eq!(c.write_back_pos(), at(1, 0));
    assert_eq!(salvage(&mut c, &[]), []);
    assert!(c.write_back_pos().pos > 1024 && c.is_drained());
}

/// The state shows a place that cannot be read until something was written and flushed.
#[test]
fn a_failing_read_is_in_the_state() {
    let mut c = core(true, 1 << 20);
    c.read_failed(5);
    assert_eq!(disk(&mut c, OK).0, "DiskError(5)");
    assert_eq!((c.disk_error(), c.refusal()), (5, None));
    put(&mut c, 0, 1);
    append(&mut c);
    sync(&mut c);
    c.demand_write_back();
    let (steps, _) = disk_steps(&mut c);
    assert_eq!(
        steps,
        [
            "Promise 1,0,596",
            "Write",
            "Flush",
            "DiskError(0)",
            "Position 1,596"
        ]
    );
}

#[test]
fn the_end_waits_for_the_disk_unless_it_is_broken() {
    let mut c = core(false, 1 << 20);
    put(&mut c, 0, 1);
    c.end(Exit::Drained);
    append(&mut c);
    assert!(
        matches!(c.next_disk_step(Duration::ZERO), DiskStep::Sleep(None)),
        "not before it is durable"
    );
    sync(&mut c);
    assert!(matches!(log_step(&mut c), LogStep::End));
    assert_eq!(disk(&mut c, OK).0, "Promise 1,0,596");
    assert_eq!(disk(&mut c, Err(5)).0, "Write");
    assert_eq!(disk(&mut c, OK).0, "DiskError(5)");
    assert!(matches!(c.next_disk_step(Duration::ZERO), DiskStep::End));
    assert!(!c.is_drained());
}
