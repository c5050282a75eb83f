//! Zeros ahead of the end of a log: written beside appends, never over them; found and cut off after a crash.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use mars_log::{
    Digest, EncodeOptions, LogFile, cut_if_left, cut_prepared, encode_write, unprepared_len,
    valid_end,
};
use mars_tree::Stamp;
use std::fs::{self, File};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

const RECORD: u64 = 4180;

fn records(pages: &[u8], digest: Digest) -> Vec<u8> {
    let mut out = Vec::new();
    let opts = EncodeOptions {
        digest,
        ..EncodeOptions::default()
    };
    for (i, fill) in pages.iter().enumerate() {
        let (pos, seq) = (i as u64 * 4096, i as u32 + 1);
        let _ = encode_write(
            &mut out,
            pos,
            &[*fill; 4096],
            Stamp::from_nanos(1),
            seq,
            &opts,
        );
    }
    out
}

fn with_zeros(path: &Path, bytes: &[u8], zeros: usize) -> File {
    let mut content = bytes.to_vec();
    content.resize(bytes.len() + zeros, 0);
    fs::write(path, content).unwrap();
    File::options().read(true).write(true).open(path).unwrap()
}

#[test]
fn zeros_never_go_over_appended_bytes() {
    for direct in [false, true] {
        beside_appends(direct);
    }
}

fn beside_appends(direct: bool) {
    let dir = tempfile::tempdir().unwrap();
    let name = "log-000000001-alpha".parse().unwrap();
    let mut log = LogFile::create_with(dir.path(), &name, direct).unwrap();
    let path = dir.path().join("log-000000001-alpha");
    let (tail, stop) = (log.tail(), AtomicBool::new(false));
    let mut expected = Vec::new();
    std::thread::scope(|s| {
        // Always as near to the appends as can be.
        s.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                tail.prepare(tail.ready() + 1).unwrap();
            }
        });
        let mut n = 1;
        while expected.len() < 24 << 20 {
            n = n * 7919 % 600_011;
            let bytes = vec![(n % 255) as u8 + 1; n];
            log.append(&bytes).unwrap();
            expected.extend_from_slice(&bytes);
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert!(fs::metadata(&path).unwrap().len() >= tail.ready());
    let content = fs::read(&path).unwrap();
    assert!(content[..expected.len()] == expected, "an append is gone");
    assert!(content[expected.len()..].iter().all(|b| *b == 0));
    log.finish().unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), expected.len() as u64);
    // Nothing is prepared behind the end any more.
    tail.prepare(1 << 30).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().len(), expected.len() as u64);
}

#[test]
fn left_zeros_are_cut_at_the_last_record() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let bytes = records(&[1, 2, 3], Digest::Crc32c);
    let end = 3 * RECORD;
    for promised in [0, RECORD, end] {
        let file = with_zeros(&path, &bytes, 5 << 20);
        assert_eq!(unprepared_len(&file, promised).unwrap(), end);
        assert_eq!(cut_prepared(&file, promised).unwrap(), end);
        assert_eq!(fs::read(&path).unwrap(), bytes);
        assert_eq!(cut_prepared(&file, promised).unwrap(), end, "again");
    }
    // Nothing but zeros.
    assert_eq!(cut_prepared(&with_zeros(&path, &[], 8192), 0).unwrap(), 0);
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
}

/// The raw CRC32 of zeros is zero: such a record ends with the zeros of its digest.
#[test]
fn zeros_at_the_end_of_a_record_belong_to_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let bytes = records(&[7, 0], Digest::Crc32);
    assert_eq!(bytes[bytes.len() - 16..], [0; 16]);
    for zeros in [0, 1, 4096, 2 << 20] {
        let file = with_zeros(&path, &bytes, zeros);
        assert_eq!(cut_prepared(&file, 0).unwrap(), 2 * RECORD);
        assert_eq!(fs::read(&path).unwrap(), bytes);
    }
}

#[test]
fn a_torn_record_stays_and_promised_bytes_stay() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("log");
    let bytes = records(&[1, 2, 3], Digest::Crc32c);
    // The third record reached the disk in part: what follows are prepared zeros.
    for cut in [1, 47, 49, 2000, 4150] {
        let torn = &bytes[..2 * RECORD as usize + cut];
        let file = with_zeros(&path, torn, 1 << 20);
        let len = cut_prepared(&file, RECORD).unwrap();
        assert!(
            (2 * RECORD..=torn.len() as u64).contains(&len),
            "{cut}: {len}"
        );
        assert_eq!(valid_end(&file, 0, len).unwrap(), 2 * RECORD);
        assert_eq!(fs::read(&path).unwrap(), torn[..len as usize]);
    }
    // Zeros where records were promised are a loss, and must still be seen as one.
    let file = with_zeros(&path, &bytes[..RECORD as usize], 1 << 20);
    assert_eq!(cut_prepared(&file, 3 * RECORD).unwrap(), 3 * RECORD);
    // A file that is shorter than the promise is not touched.
    let file = with_zeros(&path, &bytes, 0);
    assert_eq!(cut_prepared(&file, 9 * RECORD).unwrap(), 3 * RECORD);
}

#[test]
fn a_log_that_is_written_is_not_cut() {
    let dir = tempfile::tempdir().unwrap();
    let name = "log-000000001-alpha".parse().unwrap();
    let mut log = LogFile::create(dir.path(), &name).unwrap();
    let bytes = records(&[1], Digest::Crc32c);
    log.append(&bytes).unwrap();
    log.tail().prepare(1 << 20).unwrap();
    let path = dir.path().join("log-000000001-alpha");
    let other = File::options().read(true).write(true).open(&path).unwrap();
    assert_eq!(cut_if_left(&other, 0).unwrap(), RECORD);
    assert!(fs::metadata(&path).unwrap().len() > 1 << 20);
    assert!(LogFile::create(dir.path(), &name).is_err());
    // As after a kill.
    drop(log);
    assert_eq!(cut_if_left(&other, 0).unwrap(), RECORD);
    assert_eq!(fs::metadata(&path).unwrap().len(), RECORD);
}
