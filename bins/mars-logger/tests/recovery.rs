//! Recovery: from whatever a crash or a handover leaves behind to an empty own log.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::*;
use mars_log::{EncodeOptions, encode_write, next_version};
use mars_tree::{Key, LogName, Stamp, VersionLink};
use std::path::Path;

/// Records of one page each: page i holds `first + i`.
fn log_bytes(first: u8, pages: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for i in 0..pages {
        let data = vec![first + i as u8; PAGE];
        let stamp = Stamp::from_nanos(1);
        let _ = encode_write(
            &mut out,
            (i * PAGE) as u64,
            &data,
            stamp,
            i as u32 + 1,
            &EncodeOptions::default(),
        );
    }
    out
}

fn name(nr: u32, host: &str) -> LogName {
    LogName {
        nr,
        host: host.parse().unwrap(),
    }
}

/// Puts a log and its version links (creator's and own) into the tree; returns the link.
fn put_log(host: &Host, log: &LogName, bytes: &[u8], prev: Option<&VersionLink>) -> VersionLink {
    std::fs::write(host.log_path(log), bytes).unwrap();
    let v = next_version(log, bytes.len() as u64, prev);
    for owner in [log.host.as_str(), "alpha"] {
        host.set(&format!("version-{:09}-{owner}", log.nr), &v);
    }
    v
}

fn page(path: &Path, nr: usize) -> u8 {
    let disk = std::fs::read(path).unwrap();
    let p = &disk[nr * PAGE..(nr + 1) * PAGE];
    assert!(p.iter().all(|b| *b == p[0]), "page {nr} is torn");
    p[0]
}

fn version(host: &Host, nr: u32) -> VersionLink {
    host.tree
        .snapshot_of(&host.res)
        .unwrap()
        .version(&host.res, nr, &host.me)
        .unwrap()
}

#[test]
fn recovery_own_empty_log_is_continued() {
    let host = Host::new(1 << 20);
    let log = host.own_log(1);
    let start = host.recover().unwrap();
    assert_eq!(
        (start.log, start.prev, start.records),
        (log.clone(), None, 0)
    );
    std::fs::write(host.log_path(&log), b"").unwrap();
    assert_eq!(host.recover().unwrap().log, log);
}

#[test]
fn recovery_torn_tail_is_cut_logically() {
    let host = Host::new(1 << 20);
    let log = host.own_log(1);
    let whole = log_bytes(1, 5);
    let cut = whole.len() - 1000;
    // A promise is a border of records; this one is broken by a file system that lost the end.
    put_log(&host, &log, &whole, None);
    std::fs::write(host.log_path(&log), &whole[..cut]).unwrap();
    let start = host.recover().unwrap();
    assert_eq!((&start.log, start.records), (&host.own_log(2), 4));
    assert_eq!(
        version(&host, 1).head.len,
        4 * 4180,
        "the true end, smaller than promised"
    );
    assert_eq!(start.prev, Some(version(&host, 1)));
    assert_eq!(
        host.get("replay-alpha").unwrap(),
        "log-000000001-alpha,16720,0"
    );
    assert_eq!(
        (page(&host.disk_path(), 3), page(&host.disk_path(), 4)),
        (4, 0)
    );
    assert_eq!(
        std::fs::metadata(host.log_path(&log)).unwrap().len(),
        cut as u64,
        "files are never repaired in place"
    );
    // The same again after an interruption.
    let again = host.recover().unwrap();
    assert_eq!(
        (again.log, again.prev, again.records),
        (start.log, start.prev, 0)
    );
}

#[test]
fn recovery_goes_through_rotated_logs() {
    let host = Host::new(1 << 20);
    let first = put_log(&host, &host.own_log(1), &log_bytes(1, 3), None);
    put_log(&host, &host.own_log(2), &log_bytes(11, 2), Some(&first));
    std::fs::write(host.log_path(&host.own_log(3)), b"").unwrap();
    let start = host.recover().unwrap();
    assert_eq!(start.log, host.own_log(3));
    assert_eq!(start.prev.unwrap(), version(&host, 2));
    let disk = host.disk_path();
    assert_eq!(
        (page(&disk, 0), page(&disk, 1), page(&disk, 2)),
        (11, 12, 3)
    );
}

#[test]
fn recovery_corruption_inside_is_refused_unless_forced() {
    let host = Host::new(1 << 20);
    let mut bytes = log_bytes(1, 5);
    bytes[2 * 4180 + 100] ^= 1;
    put_log(&host, &host.own_log(1), &bytes, None);
    let e = format!("{:#}", host.recover().unwrap_err());
    assert!(e.contains("log-000000001-alpha is damaged at 8360"), "{e}");
    host.set("todo-alpha/connect", 0);
    assert_eq!(host.recover().unwrap().records, 0);
    assert_eq!(version(&host, 1).head.len, 8360);
    assert_eq!(page(&host.disk_path(), 2), 0, "I5");
}

/// Pages that were never synced reach the disk in any order: what stands behind the promised length proves nothing.
#[test]
fn recovery_damage_behind_the_promised_length_is_a_torn_tail() {
    let one = 4180;
    let bytes = log_bytes(1, 6);
    let damaged_at = |record: usize, promised: usize| {
        let host = Host::new(1 << 20);
        let log = host.own_log(1);
        let mut damaged = bytes.clone();
        damaged[record * one + 100] ^= 1;
        std::fs::write(host.log_path(&log), damaged).unwrap();
        let link = next_version(&log, (promised * one) as u64, None);
        host.set("version-000000001-alpha", link);
        host
    };
    for (record, promised) in [(3, 3), (3, 1), (4, 3), (5, 0)] {
        let host = damaged_at(record, promised);
        let start = host.recover().unwrap();
        assert_eq!(
            (start.log, start.records),
            (host.own_log(2), record as u64),
            "damage at {record}, {promised} promised"
        );
        let end = (record * one) as u64;
        assert_eq!(version(&host, 1).head.len, end);
        assert_eq!(start.prev, Some(version(&host, 1)));
        assert_eq!(page(&host.disk_path(), record), 0, "I5");
        // Cut for good: the same after another crash before anything was written.
        assert_eq!(host.recover().unwrap().log, host.own_log(2));
        assert_eq!(version(&host, 1).head.len, end);
    }
    // Before it: real corruption, whether or not anything readable follows.
    for (record, promised) in [(3, 4), (2, 6), (5, 6)] {
        let host = damaged_at(record, promised);
        let e = format!("{:#}", host.recover().unwrap_err());
        assert!(e.contains("is damaged at"), "{e}");
        assert_eq!(version(&host, 1).head.len, (promised * one) as u64);
        host.set("todo-alpha/connect", 0);
        assert_eq!(host.recover().unwrap().log, host.own_log(2));
    }
    // What was written back was durable in the log before, also when the version link is older.
    let host = damaged_at(3, 0);
    host.set("replay-alpha", "log-000000001-alpha,4180,16720");
    for _ in 0..2 {
        assert!(host.recover().is_err());
        // The disk may hold more than what could be applied.
        assert_eq!(
            host.get("replay-alpha").unwrap(),
            "log-000000001-alpha,12540,8360"
        );
    }
}

/// A length field that points behind the end of the file does not make durable records a torn tail.
#[test]
fn recovery_damaged_length_before_the_promise_is_refused() {
    let host = Host::new(1 << 20);
    let log = host.own_log(1);
    let mut bytes = log_bytes(1, 3);
    put_log(&host, &log, &bytes, None);
    // Bytes of the header that hold lengths, whichever they are: none may be taken for a cut record.
    for at in 0..85 {
        bytes[2 * 4180 + at] ^= 0x10;
        std::fs::write(host.log_path(&log), &bytes).unwrap();
        bytes[2 * 4180 + at] ^= 0x10;
        if let Ok(start) = host.recover() {
            // Unused bytes of the header.
            assert_eq!(version(&host, 1).head.len, 3 * 4180, "{at}: {start:?}");
        }
        host.set("replay-alpha", "log-000000001-alpha,0,0");
        host.set(
            "version-000000001-alpha",
            next_version(&log, 3 * 4180, None),
        );
    }
}

#[test]
fn designated_primary_never_forks_silently() {
    let host = Host::new(1 << 20);
    put_log(&host, &host.own_log(1), &log_bytes(1, 2), None);
    let other = name(2, "beta");
    std::fs::write(host.log_path(&other), log_bytes(50, 2)).unwrap();
    host.set("version-000000002-beta", next_version(&other, 8360, None));
    let e = format!("{:#}", host.recover().unwrap_err());
    assert!(
        e.contains("cannot go on behind log-000000001-alpha") && e.lines().count() == 1,
        "{e}"
    );
    // A foreign next log that does not follow from the foreign one replayed here.
    let host = Host::new(1 << 20);
    put_log(&host, &name(1, "beta"), &log_bytes(1, 3), None);
    host.set("version-000000002-beta", next_version(&other, 8360, None));
    host.set("replay-alpha", "log-000000001-beta,0,0");
    let e = format!("{:#}", host.recover().unwrap_err());
    assert!(e.contains("cannot go on behind log-000000001-beta"), "{e}");
    host.set("todo-alpha/connect", 0);
    assert_eq!(host.recover().unwrap().log, host.own_log(2));
}

#[test]
fn recovery_goes_on_behind_a_hole() {
    let host = Host::new(1 << 20);
    put_log(&host, &host.own_log(1), &log_bytes(1, 2), None);
    let hole = host.own_log(11);
    host.set(
        "version-000000011-alpha",
        mars_log::placeholder(&hole, None),
    );
    assert_eq!(host.recover().unwrap().log, host.own_log(12));
    // Logging was resumed and written to; only the replay link is old.
    std::fs::write(host.log_path(&host.own_log(12)), log_bytes(31, 1)).unwrap();
    let start = host.recover().unwrap();
    assert_eq!((&start.log, start.records), (&host.own_log(13), 1));
    assert_eq!(page(&host.disk_path(), 0), 31);
    assert_eq!(
        version(&host, 12).pred,
        Some(mars_log::placeholder(&hole, None).head)
    );
}

#[test]
fn recovery_log_shorter_than_position_is_refused_unless_forced() {
    let host = Host::new(1 << 20);
    put_log(&host, &host.own_log(1), &log_bytes(1, 2), None);
    host.set("replay-alpha", "log-000000001-alpha,12540,0");
    let e = format!("{:#}", host.recover().unwrap_err());
    assert!(
        e.contains("has 8360 bytes here, but the replay position is 12540"),
        "{e}"
    );
    host.set("todo-alpha/connect", 0);
    assert_eq!(host.recover().unwrap().log, host.own_log(2));
    assert_eq!(version(&host, 1).head.len, 12540);
}

#[test]
fn handover_applies_the_foreign_log_and_starts_the_next() {
    let host = Host::new(1 << 20);
    let log = name(1, "beta");
    let v = put_log(&host, &log, &log_bytes(1, 3), None);
    host.set("replay-alpha", "log-000000001-beta,4180,0");
    let start = host.recover().unwrap();
    assert_eq!((start.log, start.records), (host.own_log(2), 2));
    assert_eq!(version(&host, 1), v, "identical to the creator's");
}

#[test]
fn handover_follows_contiguous_foreign_logs() {
    let host = Host::new(1 << 20);
    let v = put_log(&host, &name(1, "beta"), &log_bytes(1, 3), None);
    let next = name(2, "beta");
    std::fs::write(host.log_path(&next), log_bytes(21, 1)).unwrap();
    host.set(
        "version-000000002-beta",
        next_version(&next, 4180, Some(&v)),
    );
    host.set("replay-alpha", "log-000000001-beta,0,0");
    let start = host.recover().unwrap();
    assert_eq!((start.log, start.records), (host.own_log(3), 4));
    assert_eq!(
        (page(&host.disk_path(), 0), page(&host.disk_path(), 1)),
        (21, 2)
    );
    assert_eq!(version(&host, 2).pred, Some(v.head));
}

#[test]
fn handover_of_an_incomplete_foreign_log_is_refused_unless_forced() {
    let host = Host::new(1 << 20);
    let log = name(1, "beta");
    let bytes = log_bytes(1, 3);
    put_log(&host, &log, &bytes, None);
    std::fs::write(host.log_path(&log), &bytes[..9000]).unwrap();
    host.set("replay-alpha", "log-000000001-beta,0,0");
    let e = format!("{:#}", host.recover().unwrap_err());
    assert!(
        e.contains("ends at 8360 here, but beta wrote 12540 bytes"),
        "{e}"
    );
    host.set("todo-alpha/connect", 0);
    let start = host.recover().unwrap();
    assert_eq!(start.log, host.own_log(2));
    assert_eq!(
        version(&host, 1).head.len,
        8360,
        "its own history from here on"
    );
}

#[test]
fn forced_primary_leaves_a_foreign_branch_aside() {
    let host = Host::new(1 << 20);
    put_log(&host, &host.own_log(1), &log_bytes(1, 2), None);
    let other = name(2, "beta");
    std::fs::write(host.log_path(&other), log_bytes(50, 2)).unwrap();
    host.set("version-000000002-beta", next_version(&other, 8360, None));
    host.set("todo-alpha/connect", 0);
    let start = host.recover().unwrap();
    assert_eq!(start.log, host.own_log(2));
    assert_eq!(
        page(&host.disk_path(), 0),
        1,
        "I8: nothing behind the split"
    );
}

#[test]
fn recovery_without_replay_link_says_what_to_do() {
    let host = Host::new(1 << 20);
    let mut b = mars_tree::Batch::new();
    b.delete(Key::Replay(host.res.clone(), host.me.clone()));
    host.tree.commit(&b).unwrap();
    let e = format!("{:#}", host.recover().unwrap_err());
    assert!(
        e.contains("replay-alpha is missing or damaged; run `marsadm invalidate r`"),
        "{e}"
    );
}

/// A crash leaves zeros behind the last record: they are no damage, and they are gone afterwards.
#[test]
fn recovery_cuts_the_prepared_tail() {
    let whole = log_bytes(1, 5);
    let promised = 2 * 4180;
    // Complete records; a record that reached the disk in part, with zeros in its rest.
    for kept in [
        5 * 4180,
        4 * 4180 + 1,
        4 * 4180 + 500,
        4 * 4180 + 4150,
        2 * 4180,
    ] {
        let host = Host::new(1 << 20);
        let log = host.own_log(1);
        let mut bytes = whole[..kept].to_vec();
        bytes.resize(kept + (3 << 20), 0);
        std::fs::write(host.log_path(&log), &bytes).unwrap();
        host.set(
            "version-000000001-alpha",
            next_version(&log, promised, None),
        );
        let good = kept / 4180;
        let start = host.recover().unwrap();
        assert_eq!((&start.log, start.records), (&host.own_log(2), good as u64));
        assert_eq!(version(&host, 1).head.len, good as u64 * 4180);
        let left = std::fs::read(host.log_path(&log)).unwrap();
        assert!(left.len() >= good * 4180 && left.len() <= kept);
        assert_eq!(left[..], whole[..left.len()]);
        assert_eq!(page(&host.disk_path(), good), 0);
        assert_eq!(host.recover().unwrap().log, host.own_log(2), "again");
    }
}

#[test]
fn recovery_zeros_before_the_promise_are_a_loss() {
    for good in [0, 2, 3] {
        let host = Host::new(1 << 20);
        let log = host.own_log(1);
        let mut bytes = log_bytes(1, 4);
        host.set(
            "version-000000001-alpha",
            next_version(&log, bytes.len() as u64, None),
        );
        bytes.truncate(good * 4180);
        bytes.resize(1 << 20, 0);
        std::fs::write(host.log_path(&log), &bytes).unwrap();
        let e = format!("{:#}", host.recover().unwrap_err());
        assert!(e.contains(&format!("is damaged at {}", good * 4180)), "{e}");
        assert_eq!(version(&host, 1).head.len, 4 * 4180);
    }
}

/// A power cut right after the first commit of a log was begun: it holds nothing but what was prepared.
#[test]
fn recovery_a_log_of_zeros_is_an_empty_log() {
    let host = Host::new(1 << 20);
    let first = put_log(&host, &host.own_log(1), &log_bytes(1, 3), None);
    let next = host.own_log(2);
    host.set(
        "version-000000002-alpha",
        next_version(&next, 0, Some(&first)),
    );
    std::fs::write(host.log_path(&next), vec![0; 1 << 20]).unwrap();
    let start = host.recover().unwrap();
    assert_eq!((start.log, start.records), (next.clone(), 3));
    assert_eq!(start.prev.unwrap(), first);
    assert_eq!(std::fs::metadata(host.log_path(&next)).unwrap().len(), 0);
}

/// A crash before anything was durable: the log begins anew, and no host takes what is torn in it for history.
#[test]
fn recovery_a_torn_first_record_is_no_history() {
    for keep in [1, 84, 85, 500, 4000] {
        let host = Host::new(1 << 20);
        let log = host.own_log(1);
        let bytes = log_bytes(1, 1);
        std::fs::write(host.log_path(&log), &bytes[..keep]).unwrap();
        let start = host.recover().unwrap();
        assert_eq!(start.log, log, "{keep} bytes");
        assert_eq!(std::fs::metadata(host.log_path(&log)).unwrap().len(), 0);
        assert_eq!(
            host.get("replay-alpha").as_deref(),
            Some("log-000000001-alpha,0,0")
        );
        assert_eq!(page(&host.disk_path(), 0), 0);
    }
}
