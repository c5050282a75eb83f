//! Damage of every kind at many places of a log, in process: what the one loop of recovery and replay makes of it (I5).
//!
//! The log has writes of many sizes that overlap each other, zero ranges, and compressed records. Whatever is done to its bytes: the disk must be
//! what the first records of the undamaged log give, all records before the damage among them, and when all records are applied the damage
//! changed nothing that counts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_disk::{ApplyEnd, ApplyOptions, ApplyOutcome, Disk, apply_log};
use mars_log::{
    Compression, EncodeOptions, Payload, Scan, ScanLimits, Scanner, encode_write, encode_zeroes,
};
use std::fs::File;
use std::ops::{ControlFlow, Range};
use std::path::Path;

const DEVICE: u64 = 128 << 10;
const RECORDS: u32 = 40;

/// A small generator: the sweep is the same every time.
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % n
    }
    fn range(&mut self, len: usize, most: usize) -> Range<usize> {
        let from = self.below(len as u64 - 1) as usize;
        let n = 1 + self.below(most.min(len - from) as u64) as usize;
        from..(from + n).min(len)
    }
}

/// A log, and the ends of its records.
struct Log {
    bytes: Vec<u8>,
    ends: Vec<usize>,
    compressed: bool,
}

fn make(seed: u64, compressed: bool) -> Log {
    let mut r = Random(seed);
    let opts = EncodeOptions {
        compression: compressed.then_some(Compression::Lz4),
        ..EncodeOptions::default()
    };
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    for seq in 1..=RECORDS {
        let sectors = 1 + r.below(8);
        let pos = r.below(DEVICE / 512 - sectors) * 512;
        let stamp = mars_tree::Stamp::from_nanos(1_700_000_000_000_000_000 + u64::from(seq));
        let len = (sectors * 512) as usize;
        // A record does not cross a region of 64 KiB.
        let pos = if pos / 65536 == (pos + len as u64 - 1) / 65536 {
            pos
        } else {
            pos / 65536 * 65536
        };
        if r.below(5) == 0 {
            assert!(encode_zeroes(&mut bytes, pos, len, stamp, seq, &opts) > 0);
        } else {
            // Every byte differs from its neighbours and from the other half: the folded digest of version 1 cannot tell equal halves.
            let data: Vec<u8> = (0..len)
                .map(|i| {
                    if compressed && i % 3 == 0 {
                        7
                    } else {
                        (i as u32 * 7 + (i as u32 >> 5) + seq * 31) as u8
                    }
                })
                .collect();
            assert!(encode_write(&mut bytes, pos, &data, stamp, seq, &opts) > 0);
        }
        ends.push(bytes.len());
    }
    Log {
        bytes,
        ends,
        compressed,
    }
}

/// What the first `n` records of the log give.
fn prefix(log: &Log, n: usize) -> Vec<u8> {
    let mut device = vec![0xee; DEVICE as usize];
    let mut s = Scanner::new(ScanLimits::default());
    let mut at = 0;
    for _ in 0..n {
        let Scan::Record(r) = s.next(&log.bytes[at..]) else {
            panic!("the undamaged log is sound")
        };
        let target = &mut device[r.device_pos as usize..][..r.payload.len()];
        match &r.payload {
            Payload::Plain(b) => target.copy_from_slice(b),
            Payload::Unpacked(b) => target.copy_from_slice(b),
            Payload::Zeroes(_) => target.fill(0),
        }
        at += r.total_len;
    }
    device
}

fn apply(dir: &Path, log: &[u8], window_bytes: u64) -> (ApplyOutcome, Vec<u8>) {
    let (log_path, disk_path) = (dir.join("log"), dir.join("disk"));
    std::fs::write(&log_path, log).unwrap();
    std::fs::write(&disk_path, vec![0xee; DEVICE as usize]).unwrap();
    let file = File::options()
        .read(true)
        .write(true)
        .open(&disk_path)
        .unwrap();
    let disk = Disk::from_file(file, &disk_path).unwrap();
    let opts = ApplyOptions {
        window_bytes,
        device_size: DEVICE,
    };
    let (log, len) = (File::open(&log_path).unwrap(), log.len() as u64);
    let mut on = |_| Ok(ControlFlow::Continue(()));
    let out = apply_log(&disk, log, 0, len, &opts, &mut on).unwrap();
    (out, std::fs::read(&disk_path).unwrap())
}

/// Kinds of damage; the second value is the first damaged byte.
const KINDS: [&str; 9] = [
    "flip", "garbage", "zero", "cut end", "cut out", "insert", "repeat", "swap", "records",
];

fn damage(kind: &str, log: &Log, r: &mut Random) -> (Vec<u8>, usize) {
    let mut b = log.bytes.clone();
    let len = b.len();
    match kind {
        "flip" => {
            let at = r.below(len as u64) as usize;
            b[at] ^= 1 << r.below(8);
            (b, at)
        }
        "garbage" => {
            let range = r.range(len, 9000);
            let at = range.start;
            b[range].iter_mut().for_each(|x| *x = r.below(256) as u8);
            (b, at)
        }
        "zero" => {
            let range = r.range(len, 9000);
            let at = range.start;
            b[range].fill(0);
            (b, at)
        }
        "cut end" => {
            let at = r.below(len as u64) as usize;
            b.truncate(at);
            (b, at)
        }
        "cut out" => {
            let range = r.range(len, 9000);
            let at = range.start;
            b.drain(range);
            (b, at)
        }
        // Bytes of the log itself, once more somewhere else.
        "insert" => {
            let piece = b[r.range(len, 9000)].to_vec();
            let at = r.below(len as u64) as usize;
            b.splice(at..at, piece);
            (b, at)
        }
        // The same bytes twice, one behind the other.
        "repeat" => {
            let range = r.range(len, 9000);
            let at = range.end;
            let piece = b[range].to_vec();
            b.splice(at..at, piece);
            (b, at)
        }
        // Two pieces change places, as lost and misdirected writes would.
        "swap" => {
            let n = 512 * (1 + r.below(8)) as usize;
            let x = r.below((len - 2 * n) as u64) as usize;
            let y = x + n + r.below((len - 2 * n - x) as u64 + 1) as usize;
            let (head, tail) = b.split_at_mut(y);
            head[x..x + n].swap_with_slice(&mut tail[..n]);
            (b, x)
        }
        // Whole records are repeated, left out, or change places: each of them is sound.
        _ => {
            let border = |i: usize| if i == 0 { 0 } else { log.ends[i - 1] };
            let n = log.ends.len();
            let i = r.below(n as u64 - 3) as usize;
            let j = i + 1 + r.below((n - i - 2) as u64) as usize;
            let (x, y, z) = (border(i), border(j), border(j + 1));
            match r.below(4) {
                0 => {
                    b.drain(x..y);
                    (b, x)
                }
                1 => {
                    let piece = b[x..y].to_vec();
                    b.splice(y..y, piece);
                    (b, y)
                }
                2 => {
                    let piece = b[y..z].to_vec();
                    b.splice(x..x, piece);
                    (b, x)
                }
                _ => {
                    b[x..z].rotate_left(y - x);
                    (b, x)
                }
            }
        }
    }
}

/// Does the damaged log say the same as the undamaged one?
fn says_the_same(a: &[u8], b: &[u8]) -> bool {
    let (mut sa, mut sb) = (
        Scanner::new_file(ScanLimits::default()),
        Scanner::new_file(ScanLimits::default()),
    );
    let mut at = 0;
    loop {
        match (sa.next(&a[at..]), sb.next(&b[at..])) {
            (Scan::Record(x), Scan::Record(y)) => {
                if (x.device_pos, &x.payload, x.total_len)
                    != (y.device_pos, &y.payload, y.total_len)
                {
                    return false;
                }
                at += x.total_len;
            }
            (Scan::End, Scan::End) => return true,
            _ => return false,
        }
    }
}

fn sweep(seed: u64, compressed: bool, rounds: u32) {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let log = make(seed, compressed);
    let prefixes: Vec<Vec<u8>> = (0..=log.ends.len()).map(|n| prefix(&log, n)).collect();
    for kind in KINDS {
        let (mut stopped, mut torn) = (0, 0);
        for round in 0..rounds {
            let mut r = Random(seed * 1000 + u64::from(round) + 1);
            let (bytes, first) = damage(kind, &log, &mut r);
            let window = [1, 5000, 1 << 20][round as usize % 3];
            let (out, disk) = apply(dir.path(), &bytes, window);
            let what = format!(
                "{kind}, seed {seed}, compressed {}, round {round}, first damaged byte {first}: {out:?}",
                log.compressed
            );
            let n = log.ends.iter().filter(|e| **e as u64 <= out.pos).count();
            let border = n.checked_sub(1).map_or(0, |i| log.ends[i] as u64);
            assert_eq!(out.pos, border, "the position is a border, {what}");
            assert_eq!(out.records, n as u64, "{what}");
            assert!(disk == prefixes[n], "the disk is no prefix, {what}");
            let before = log.ends.iter().filter(|e| **e <= first).count();
            assert!(n >= before, "{before} sound records before it, {what}");
            if n == log.ends.len() {
                let tail = bytes.get(log.bytes.len()..).unwrap_or_default();
                assert!(
                    says_the_same(&bytes[..log.bytes.len()], &log.bytes),
                    "{what}"
                );
                assert!(
                    tail.is_empty() || out.end != ApplyEnd::Limit,
                    "what follows is noticed, {what}"
                );
                continue;
            }
            match out.end {
                ApplyEnd::Stop { .. } => stopped += 1,
                ApplyEnd::Incomplete { .. } => torn += 1,
                ApplyEnd::Limit => assert_eq!(kind, "cut end", "{what}"),
                ApplyEnd::Asked => panic!("{what}"),
            }
        }
        println!("{kind}: {rounds} cases, {stopped} stopped, {torn} cut");
        assert!(stopped + torn > rounds / 2, "{kind}: {stopped} {torn}");
    }
}

#[test]
fn damage_sweep_plain() {
    for seed in 1..=4 {
        sweep(seed, false, 150);
    }
}

#[test]
fn damage_sweep_compressed() {
    for seed in 11..=14 {
        sweep(seed, true, 150);
    }
}
