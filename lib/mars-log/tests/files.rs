//! Log files on a real filesystem.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::*;
use mars_log::{
    Digest, EncodeOptions, LogFile, LogReader, Payload, ReadRecord, ScanLimits, encode_write,
};
use mars_tree::LogName;
use std::fs::{self, File};
use std::io::ErrorKind;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::Path;

fn name(nr: u32) -> LogName {
    format!("log-{nr:09}-alpha").parse().unwrap()
}

fn reader(path: &Path, from: u64, limit: u64) -> LogReader {
    LogReader::new(
        File::open(path).unwrap(),
        from,
        limit,
        ScanLimits::default(),
    )
}

#[test]
fn create_makes_an_empty_private_file_once() {
    let dir = tempfile::tempdir().unwrap();
    let log = LogFile::create(dir.path(), &name(1)).unwrap();
    let path = dir.path().join("log-000000001-alpha");
    let meta = fs::metadata(&path).unwrap();
    assert_eq!((meta.len(), meta.permissions().mode() & 0o7777), (0, 0o600));
    assert_eq!(
        (log.name(), log.len(), log.durable_len(), log.is_empty()),
        (&name(1), 0, 0, true)
    );
    // Somebody has it.
    let e = LogFile::create(dir.path(), &name(1)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::ResourceBusy);
    drop(log);
    // Empty: may be taken over. Not empty: never.
    let mut log = LogFile::create(dir.path(), &name(1)).unwrap();
    log.append(b"x").unwrap();
    drop(log);
    let e = LogFile::create(dir.path(), &name(1)).unwrap_err();
    assert_eq!(e.kind(), ErrorKind::AlreadyExists);
    assert_eq!(fs::read(&path).unwrap(), b"x");
}

#[test]
fn create_never_follows_a_tombstone_or_a_directory() {
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink(".deleted", dir.path().join("log-000000001-alpha")).unwrap();
    assert!(LogFile::create(dir.path(), &name(1)).is_err());
    assert!(!dir.path().join(".deleted").exists());
    fs::create_dir(dir.path().join("log-000000002-alpha")).unwrap();
    assert!(LogFile::create(dir.path(), &name(2)).is_err());
    assert!(LogFile::create(&dir.path().join("missing"), &name(3)).is_err());
}

#[test]
fn durable_length_follows_only_syncs() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogFile::create(dir.path(), &name(1)).unwrap();
    log.append(&[1; 1000]).unwrap();
    assert_eq!((log.len(), log.durable_len()), (1000, 0));
    let handle = log.handle().unwrap();
    let seen = log.len();
    log.append(&[2; 500]).unwrap();
    std::thread::spawn(move || handle.sync_data().unwrap())
        .join()
        .unwrap();
    log.set_durable(seen);
    assert_eq!((log.len(), log.durable_len()), (1500, 1000));
    log.set_durable(10);
    assert_eq!(log.durable_len(), 1000, "never back");
    log.set_durable(99_999);
    assert_eq!(log.durable_len(), 1500, "never beyond the end");
    log.append(&[3; 1]).unwrap();
    log.sync().unwrap();
    assert_eq!((log.len(), log.durable_len()), (1501, 1501));
    assert_eq!(
        fs::metadata(dir.path().join("log-000000001-alpha"))
            .unwrap()
            .len(),
        1501
    );
}

#[test]
fn no_data_after_a_failed_sync_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogFile::create(dir.path(), &name(1)).unwrap();
    log.append(&[1; 100]).unwrap();
    log.set_failed();
    assert!(log.append(&[2; 10]).is_err() && log.sync().is_err());
    log.set_durable(100);
    assert_eq!((log.len(), log.durable_len()), (100, 0));
}

/// A log of `n` records of 4096 bytes.
fn write_log(dir: &Path, n: u32) -> (std::path::PathBuf, u64) {
    let mut log = LogFile::create(dir, &name(1)).unwrap();
    let mut chunk = Vec::new();
    for seq in 1..=n {
        let len = encode_write(
            &mut chunk,
            u64::from(seq) * 4096,
            &page(seq, 4096),
            STAMP,
            seq,
            &EncodeOptions::default(),
        );
        assert_eq!(len, 4180);
        if chunk.len() > 100_000 {
            log.append(&chunk).unwrap();
            chunk.clear();
        }
    }
    log.append(&chunk).unwrap();
    log.sync().unwrap();
    (dir.join(log.name().to_string()), log.len())
}

#[test]
fn reader_crosses_its_buffer_many_times() {
    let dir = tempfile::tempdir().unwrap();
    let (path, len) = write_log(dir.path(), 2000);
    assert_eq!(len, 2000 * 4180);
    let mut r = reader(&path, 0, len);
    for seq in 1..=2000u32 {
        match r.next_record().unwrap() {
            ReadRecord::Record(rec, end) => {
                assert_eq!((rec.seq, end), (seq, u64::from(seq) * 4180));
                assert_eq!(rec.payload, Payload::Plain(&page(seq, 4096)));
            }
            other => panic!("{seq}: {other:?}"),
        }
    }
    assert!(matches!(
        r.next_record().unwrap(),
        ReadRecord::End { rest: 0 }
    ));
    assert_eq!((r.position(), r.last_seq()), (len, 2000));
    // From a border in the middle.
    let mut r = reader(&path, 4180 * 1500, len);
    let mut n = 0;
    while let ReadRecord::Record(..) = r.next_record().unwrap() {
        n += 1;
    }
    assert_eq!((n, r.position()), (500, len));
}

#[test]
fn reader_looks_at_nothing_behind_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let (path, len) = write_log(dir.path(), 3);
    for limit in 0..=len {
        let mut r = reader(&path, 0, limit);
        let whole = limit / 4180;
        for _ in 0..whole {
            assert!(matches!(r.next_record().unwrap(), ReadRecord::Record(..)));
        }
        let left = limit - whole * 4180;
        match r.next_record().unwrap() {
            ReadRecord::End { rest } => assert!(rest == left && left < 85),
            ReadRecord::Incomplete { rest } => assert!(rest == left && left >= 85),
            other => panic!("{limit}: {other:?}"),
        }
        assert_eq!(r.position(), whole * 4180);
    }
}

#[test]
fn reader_follows_growth() {
    let dir = tempfile::tempdir().unwrap();
    let (path, len) = write_log(dir.path(), 700);
    let mut r = reader(&path, 0, 0);
    let mut seen = 0;
    // The limit rises in steps that are no multiple of anything.
    for limit in (0..len).step_by(99_991).chain([len]) {
        r.set_limit(limit);
        while let ReadRecord::Record(rec, _) = r.next_record().unwrap() {
            seen += 1;
            assert_eq!(rec.seq, seen);
        }
    }
    assert_eq!((seen, r.position()), (700, len));
    r.set_limit(5);
    assert!(matches!(
        r.next_record().unwrap(),
        ReadRecord::End { rest: 0 }
    ));
}

#[test]
fn reader_survives_a_file_shorter_than_the_limit() {
    let dir = tempfile::tempdir().unwrap();
    let (path, len) = write_log(dir.path(), 2);
    let mut r = reader(&path, 0, len + 10_000);
    for _ in 0..2 {
        assert!(matches!(r.next_record().unwrap(), ReadRecord::Record(..)));
    }
    assert!(matches!(
        r.next_record().unwrap(),
        ReadRecord::End { rest: 10_000 }
    ));
    let mut r = reader(&path, len + 5, u64::MAX);
    assert!(matches!(r.next_record().unwrap(), ReadRecord::End { .. }));
    let mut r = reader(&path, u64::MAX - 5, 0);
    assert!(matches!(
        r.next_record().unwrap(),
        ReadRecord::End { rest: 0 }
    ));
    assert!(!r.corruption_inside().unwrap());
}

#[test]
fn corruption_inside_and_torn_tail() {
    let dir = tempfile::tempdir().unwrap();
    let (path, len) = write_log(dir.path(), 100);
    let file = File::options().write(true).open(&path).unwrap();
    file.write_all_at(b"!", 49 * 4180 + 1000).unwrap();
    let to_the_stop = |limit: u64| {
        let mut r = reader(&path, 0, limit);
        while let ReadRecord::Record(..) = r.next_record().unwrap() {}
        assert_eq!(r.position(), 49 * 4180);
        assert!(matches!(
            r.next_record().unwrap(),
            ReadRecord::Stop(_) | ReadRecord::Incomplete { .. }
        ));
        // Asking changes nothing.
        let answer = r.corruption_inside().unwrap();
        assert_eq!(r.corruption_inside().unwrap(), answer);
        assert!(!matches!(r.next_record().unwrap(), ReadRecord::Record(..)));
        assert_eq!(r.position(), 49 * 4180);
        answer
    };
    assert!(to_the_stop(len));
    assert!(to_the_stop(51 * 4180));
    assert!(!to_the_stop(51 * 4180 - 1));
    assert!(!to_the_stop(50 * 4180 - 1), "only a cut record");
}

#[test]
fn stop_keeps_what_came_before() {
    // I5: detected and never applied; what came before it is.
    let dir = tempfile::tempdir().unwrap();
    let (bytes, ends) = file(&[512, 4096, 512], &plain(Digest::Crc32c));
    let path = dir.path().join("x");
    for bad in 0..3 {
        let mut b = bytes.clone();
        b[ends[bad] - 40] ^= 8;
        fs::write(&path, &b).unwrap();
        let mut r = reader(&path, 0, b.len() as u64);
        let mut n = 0;
        let stop = loop {
            match r.next_record().unwrap() {
                ReadRecord::Record(..) => n += 1,
                ReadRecord::Stop(c) => break c,
                other => panic!("{other:?}"),
            }
        };
        assert_eq!((n, stop.to_string()), (bad, "-74,-10101".to_string()));
    }
}

#[test]
fn appends_past_the_page_cache_read_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogFile::create_with(dir.path(), &name(1), true).unwrap();
    let path = dir.path().join("log-000000001-alpha");
    let mut expected: Vec<u8> = Vec::new();
    for (i, len) in [1, 595, 4096, 3500, 8192, 134_000, 2_500_000, 7, 0, 4096]
        .into_iter()
        .enumerate()
    {
        let bytes: Vec<u8> = (0..len).map(|n: usize| (n / 7 + i) as u8 | 1).collect();
        log.append(&bytes).unwrap();
        log.sync().unwrap();
        expected.extend_from_slice(&bytes);
        let content = fs::read(&path).unwrap();
        assert!(content.len() < expected.len() + 4096);
        assert_eq!(content[..expected.len()], expected);
        assert!(content[expected.len()..].iter().all(|b| *b == 0));
    }
    assert_eq!(
        (log.len(), log.durable_len()),
        (expected.len() as u64, expected.len() as u64)
    );
    log.finish().unwrap();
    assert_eq!(fs::read(&path).unwrap(), expected);
}
