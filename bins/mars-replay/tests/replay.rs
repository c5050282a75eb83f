//! `mars-replay` as a process: prefix after a kill, switching, damage, limits.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#[path = "../../mars-fetch/tests/support/mod.rs"]
mod support;

use mars_live::ReplayLive;
use mars_log::next_version;
use mars_tree::{Key, ReplayPos, TodoSwitch};
use std::fs;
use support::*;

const EXE: &str = env!("CARGO_BIN_EXE_mars-replay");
const NET: u8 = 2;

fn replay_link(h: &Host) -> ReplayPos {
    h.text(&Key::Replay(res(), h.name()))
        .unwrap()
        .parse()
        .unwrap()
}

/// What `alpha` says of log 1.
fn creator_says(p: &Pair, nr: u32, len: u64, prev: Option<&mars_tree::VersionLink>) {
    let v = next_version(&log(nr, "alpha"), len, prev);
    p.both(|b| {
        b.set(Key::Version(res(), nr, p.a.name()), &v);
    });
}

fn replayed(p: &Pair, nr: u32, pos: u64) {
    p.b.wait_text(
        &Key::Replay(res(), p.b.name()),
        &format!("{},{pos},0", log(nr, "alpha")),
    );
}

#[test]
fn log_is_replayed_and_the_next_entered() {
    let p = pair(NET);
    let (l1, ops1) = make_log(2000, DISK, 1);
    let (l2, ops2) = make_log(300, DISK, 2);
    let mut model = fs::read(&p.b.disk).unwrap();
    p.b.write_log(&log(1, "alpha"), &l1);
    let mut daemon = p.b.start(EXE, "data");
    replayed(&p, 1, l1.len() as u64);
    apply(&mut model, &ops1, 0, u64::MAX);
    assert!(fs::read(&p.b.disk).unwrap() == model);
    // Finished on both sides: links are byte-identical.
    let v1 = next_version(&log(1, "alpha"), l1.len() as u64, None);
    let own = Key::Version(res(), 1, p.b.name());
    assert_eq!(p.b.text(&own), Some(v1.to_string()));
    creator_says(&p, 1, l1.len() as u64, None);
    p.b.write_log(&log(2, "alpha"), &l2);
    creator_says(&p, 2, l2.len() as u64, Some(&v1));
    replayed(&p, 2, l2.len() as u64);
    apply(&mut model, &ops2, 0, u64::MAX);
    assert!(fs::read(&p.b.disk).unwrap() == model);
    let of = |h: &Host| p.b.text(&Key::Version(res(), 2, h.name()));
    assert_eq!(of(&p.a), of(&p.b));
    assert_eq!(p.b.actual("replay-code").as_deref(), Some("0"));
    assert!(daemon.stop());
    assert_eq!(p.b.actual("is-replaying").as_deref(), Some("0"));
}

/// I3 and I4: killed at any moment, the disk equals a prefix once its own open window is finished; replaying from the published
/// position gives what one run would have given.
#[test]
fn killed_replay_leaves_a_prefix() {
    for round in 0..4u64 {
        let p = pair(NET);
        let (content, ops) = make_log(20_000, DISK, 77 + round);
        p.b.write_log(&log(1, "alpha"), &content);
        let mut daemon = p.b.start(EXE, "data");
        // Different moments of the first window: published, and some time into writing it.
        p.b.wait_live::<ReplayLive>("an open window", |r| r.dirty > 0);
        let mut x = 0u64;
        for i in 0..round * 400_000 {
            x = std::hint::black_box(x.wrapping_add(i));
        }
        daemon.kill();
        let at = replay_link(&p.b);
        let end = at.pos + at.dirty;
        let mut disk = fs::read(&p.b.disk).unwrap();
        let mut model = vec![0; DISK as usize];
        apply(&mut model, &ops, 0, end);
        apply(&mut disk, &ops, at.pos, end);
        assert!(disk == model, "round {round}: not a prefix: {at}");
        let _daemon = p.b.start(EXE, "data");
        replayed(&p, 1, content.len() as u64);
        apply(&mut model, &ops, end, u64::MAX);
        assert!(fs::read(&p.b.disk).unwrap() == model);
    }
}

#[test]
fn promise_of_a_killed_run_stays_until_it_is_kept() {
    let p = pair(NET);
    let (content, ops) = make_log(100, DISK, 3);
    let l = log(1, "alpha");
    // The killed run promised everything; now only half of the log may be applied (a sync limits it).
    let half = ops[49].1;
    p.both(|b| {
        b.set(Key::Replay(res(), p.a.name()), format!("{l},{half},0"));
        b.set(Key::SyncStatus(res(), p.b.name()), 0);
    });
    p.b.set(|b| {
        b.set(
            Key::Replay(res(), p.b.name()),
            format!("{l},0,{}", content.len()),
        );
    });
    p.b.write_log(&l, &content);
    let _daemon = p.b.start(EXE, "data");
    let rest = content.len() as u64 - half;
    p.b.wait_text(
        &Key::Replay(res(), p.b.name()),
        &format!("{l},{half},{rest}"),
    );
    // The sync ends: on to the end.
    p.b.set(|b| {
        b.set(Key::SyncStatus(res(), p.b.name()), DISK);
    });
    replayed(&p, 1, content.len() as u64);
}

#[test]
fn replay_does_not_pass_the_primary_while_a_sync_is_open() {
    let p = pair(NET);
    let (content, ops) = make_log(100, DISK, 3);
    let l = log(1, "alpha");
    let half = ops[49].1;
    p.both(|b| {
        b.set(Key::Replay(res(), p.a.name()), format!("{l},{half},0"));
        b.set(Key::SyncStatus(res(), p.b.name()), 0);
    });
    p.b.write_log(&l, &content);
    let mut daemon = p.b.start(EXE, "data");
    replayed(&p, 1, half);
    let mut model = vec![0; DISK as usize];
    apply(&mut model, &ops, 0, half);
    assert!(fs::read(&p.b.disk).unwrap() == model);
    let next = ops[60].1;
    p.both(|b| {
        b.set(Key::Replay(res(), p.a.name()), format!("{l},{next},500"));
    });
    replayed(&p, 1, next);
    assert!(daemon.stop());
}

#[test]
fn damage_stops_exactly_and_a_new_copy_heals() {
    let p = pair(NET);
    let (content, ops) = make_log(100, DISK, 3);
    let l = log(1, "alpha");
    let mut bad = content.clone();
    let pos = ops[49].1;
    bad[pos as usize + 60] ^= 1;
    p.b.write_log(&l, &bad);
    let mut daemon = p.b.start(EXE, "data");
    let code = Key::Actual(res(), p.b.name(), "replay-code".into());
    p.b.wait_text(&code, "-74,-10101");
    let at = replay_link(&p.b);
    assert_eq!((at.pos, at.dirty), (pos, 0));
    let mut model = vec![0; DISK as usize];
    apply(&mut model, &ops, 0, pos);
    assert!(fs::read(&p.b.disk).unwrap() == model);
    // As fetch replaces it.
    let temp = p.b.log_path(&l).with_file_name(".anew");
    fs::write(&temp, &content).unwrap();
    fs::rename(&temp, p.b.log_path(&l)).unwrap();
    replayed(&p, 1, content.len() as u64);
    p.b.wait_text(&code, "0");
    apply(&mut model, &ops, pos, u64::MAX);
    assert!(fs::read(&p.b.disk).unwrap() == model);
    assert!(daemon.stop());
}

#[test]
fn cut_record_is_no_error_until_the_log_is_final() {
    let p = pair(NET);
    let (content, ops) = make_log(100, DISK, 3);
    let l = log(1, "alpha");
    let pos = ops[98].1;
    let cut = content.len() - 10;
    // A growing log.
    p.b.write_log(&l, &content[..cut]);
    let _daemon = p.b.start(EXE, "data");
    replayed(&p, 1, pos);
    let code = Key::Actual(res(), p.b.name(), "replay-code".into());
    assert_eq!(p.b.text(&code).as_deref(), Some("0"));
    // Now the creator says that it ends there: a record cannot be cut at the end.
    let v1 = next_version(&l, cut as u64, None);
    creator_says(&p, 1, cut as u64, None);
    creator_says(&p, 2, 0, Some(&v1));
    p.b.wait_text(&code, "-85,-10006");
}

/// From a time as primary that ended with a crash: zeros were prepared behind the last record.
#[test]
fn own_log_with_a_prepared_tail_ends_at_its_last_record() {
    let p = pair(NET);
    let own = log(1, p.b.name().as_str());
    let (records, ops) = make_log(500, DISK, 9);
    let mut model = fs::read(&p.b.disk).unwrap();
    let mut content = records.clone();
    content.resize(records.len() + (2 << 20), 0);
    p.b.write_log(&own, &content);
    p.both(|b| {
        let start = ReplayPos {
            log: own.clone(),
            pos: 0,
            dirty: 0,
        };
        b.set(Key::Replay(res(), p.b.name()), start);
        b.delete(Key::Version(res(), 1, p.a.name()));
        b.set(
            Key::Version(res(), 1, p.b.name()),
            next_version(&own, 0, None),
        );
    });
    let _daemon = p.b.start(EXE, "data");
    let end = records.len() as u64;
    let reached = format!("{own},{end},0");
    p.b.wait_text(&Key::Replay(res(), p.b.name()), &reached);
    apply(&mut model, &ops, 0, u64::MAX);
    assert!(fs::read(&p.b.disk).unwrap() == model);
    assert_eq!(fs::metadata(p.b.log_path(&own)).unwrap().len(), end);
    let version = next_version(&own, end, None);
    let key = Key::Version(res(), 1, p.b.name());
    assert_eq!(p.b.text(&key), Some(version.to_string()));
    assert_eq!(p.b.actual("replay-code").as_deref(), Some("0"));
}

#[test]
fn missing_disk_is_told_and_found_again() {
    let p = pair(NET);
    let (content, _) = make_log(10, DISK, 3);
    p.b.write_log(&log(1, "alpha"), &content);
    let hidden = p.b.disk.with_file_name("hidden");
    fs::rename(&p.b.disk, &hidden).unwrap();
    let _daemon = p.b.start(EXE, "data");
    let error = Key::Actual(res(), p.b.name(), "disk-error".into());
    p.b.wait_text(&error, "-2");
    assert_eq!(replay_link(&p.b).dirty, 0);
    fs::rename(&hidden, &p.b.disk).unwrap();
    replayed(&p, 1, content.len() as u64);
    p.b.wait_text(&error, "0");
}

#[test]
fn paused_and_idle_replay_rests_small() {
    let p = pair(NET);
    let (content, _) = make_log(10_000, DISK, 3);
    p.b.write_log(&log(1, "alpha"), &content);
    let switch = Key::Todo(res(), p.b.name(), TodoSwitch::AllowReplay);
    p.b.set(|b| {
        b.set(switch.clone(), 0);
    });
    let mut daemon = p.b.start(EXE, "data");
    p.b.wait_text(&Key::Actual(res(), p.b.name(), "is-replaying".into()), "0");
    assert_eq!(replay_link(&p.b).pos, 0);
    p.b.set(|b| {
        b.set(switch.clone(), 1);
    });
    replayed(&p, 1, content.len() as u64);
    // Rates rise, and fall to zero when it has come to rest; by then memory has been given back.
    let rate = Key::Actual(res(), p.b.name(), "ops-replay_rate".into());
    p.b.wait("a rate", || p.b.text(&rate).is_some_and(|r| r != "0"));
    p.b.wait_text(&rate, "0");
    assert!(daemon.rss_kib() < 12 << 10, "{} KiB", daemon.rss_kib());
    assert!(daemon.stop());
}
