//! Shared by the tests of the scanner.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use mars_log::{Detail, Digest, EncodeOptions, Scan, ScanLimits, Scanner, StopCode, encode_write};
use mars_tree::Stamp;

pub const STAMP: Stamp = Stamp::from_nanos(1_700_000_000_123_456_789);

/// How a scan ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    End,
    Incomplete,
    Stop(StopCode),
}

pub fn stopped(errno: i32, detail: Option<u16>) -> Outcome {
    Outcome::Stop(StopCode {
        errno,
        detail: detail.map(Detail),
        repeated: None,
    })
}

/// Records found, position of the end of the last one, reason of the end.
pub fn scan_all(bytes: &[u8]) -> (usize, usize, Outcome) {
    let mut s = Scanner::new(ScanLimits::default());
    let (mut n, mut at) = (0, 0);
    loop {
        match s.next(&bytes[at..]) {
            Scan::Record(r) => {
                n += 1;
                at += r.total_len;
            }
            Scan::End => return (n, at, Outcome::End),
            Scan::Incomplete => return (n, at, Outcome::Incomplete),
            Scan::Stop(c) => return (n, at, Outcome::Stop(c)),
        }
    }
}

/// Compressible content without equal halves, different for every seed.
pub fn page(seed: u32, len: usize) -> Vec<u8> {
    (0..len as u32)
        .map(|i| (i / 7 + (i >> 5) * (seed + 3) + seed * 11) as u8)
        .collect()
}

pub fn plain(digest: Digest) -> EncodeOptions {
    EncodeOptions {
        digest,
        header_check: false,
        ..EncodeOptions::default()
    }
}

/// One record per length, numbers from 1; the bytes and the end of each record (unused ends are 0).
pub fn file(lens: &[usize], opts: &EncodeOptions) -> (Vec<u8>, [usize; 4]) {
    let mut out = Vec::new();
    let mut ends = [0; 4];
    for (i, len) in lens.iter().enumerate() {
        let seq = i as u32 + 1;
        let n = encode_write(
            &mut out,
            4096 * i as u64,
            &page(seq, *len),
            STAMP,
            seq,
            opts,
        );
        assert!(n > 0);
        ends[i] = out.len();
    }
    (out, ends)
}
