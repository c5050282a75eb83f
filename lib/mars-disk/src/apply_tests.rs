//! `apply_log` against the naive way: one record after the other into an array, until the scanner refuses.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use crate::Disk;
use mars_log::{EncodeOptions, Scan, ScanLimits, Scanner, encode_write, encode_zeroes};
use proptest::prelude::*;
use std::io::Write;
use std::os::unix::fs::FileExt;

const DEVICE: u64 = 256 << 10;

/// One write: device sector, sectors, fill byte (0 = write-zeroes).
#[derive(Clone, Debug)]
struct Op {
    sector: u64,
    sectors: u64,
    fill: u8,
}

fn op() -> impl Strategy<Value = Op> {
    (0..DEVICE / 512, 1u64..=8, any::<u8>(), any::<bool>()).prop_map(
        |(sector, n, fill, aligned)| {
            let sector = if aligned { sector / 8 * 8 } else { sector };
            // Never across a 64 KiB region.
            let n = n.min(128 - sector % 128);
            Op {
                sector,
                sectors: n,
                fill,
            }
        },
    )
}

fn encode(ops: &[Op]) -> Vec<u8> {
    let mut out = Vec::new();
    for (i, o) in ops.iter().enumerate() {
        let stamp = mars_tree::Stamp::from_nanos(1_700_000_000_000_000_000 + i as u64);
        let (pos, len) = (o.sector * 512, (o.sectors * 512) as usize);
        let seq = i as u32 + 1;
        let opts = EncodeOptions::default();
        let n = if o.fill == 0 {
            encode_zeroes(&mut out, pos, len, stamp, seq, &opts)
        } else {
            let data: Vec<u8> = (0..len).map(|k| o.fill ^ (k / 512) as u8).collect();
            encode_write(&mut out, pos, &data, stamp, seq, &opts)
        };
        assert!(n > 0);
    }
    out
}

/// What a naive replay makes of it: content, position, records.
fn naive(log: &[u8], from: u64, device: &mut [u8]) -> (u64, u64) {
    let mut s = Scanner::new(ScanLimits {
        device_size: Some(device.len() as u64),
    });
    let (mut pos, mut records) = (from as usize, 0);
    while let Scan::Record(r) = s.next(&log[pos..]) {
        let at = r.device_pos as usize;
        let target = &mut device[at..at + r.payload.len()];
        match &r.payload {
            mars_log::Payload::Plain(b) => target.copy_from_slice(b),
            mars_log::Payload::Unpacked(b) => target.copy_from_slice(b),
            mars_log::Payload::Zeroes(_) => target.fill(0),
        }
        pos += r.total_len;
        records += 1;
    }
    (pos as u64, records)
}

struct Setup {
    dir: tempfile::TempDir,
    disk: Disk,
}

fn setup(log: &[u8]) -> Setup {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("log"), log).unwrap();
    let path = dir.path().join("disk");
    let mut f = File::options()
        .create_new(true)
        .read(true)
        .write(true)
        .open(&path)
        .unwrap();
    f.write_all(&vec![0xee; DEVICE as usize]).unwrap();
    let disk = Disk::from_file(f, &path).unwrap();
    Setup { dir, disk }
}

impl Setup {
    fn log(&self) -> File {
        File::open(self.dir.path().join("log")).unwrap()
    }
    fn content(&self) -> Vec<u8> {
        std::fs::read(self.dir.path().join("disk")).unwrap()
    }
    fn apply(&self, from: u64, limit: u64, window: u64) -> (ApplyOutcome, Vec<ApplyEvent>) {
        let mut events = Vec::new();
        let opts = ApplyOptions {
            window_bytes: window,
            device_size: DEVICE,
        };
        let out = apply_log(&self.disk, self.log(), from, limit, &opts, &mut |e| {
            events.push(e);
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
        (out, events)
    }
}

fn check_events(events: &[ApplyEvent], from: u64, out: &ApplyOutcome) {
    let (mut at, mut promised, mut records, mut bytes) = (from, from, 0, 0);
    for e in events {
        match *e {
            ApplyEvent::BeforeWrite { start, end } => {
                assert_eq!(start, at, "starts where the last flush ended");
                assert!(end > promised);
                promised = end;
            }
            ApplyEvent::Flushed {
                end,
                records: r,
                bytes: b,
            } => {
                assert_eq!(end, promised, "nothing was written without a promise");
                at = end;
                records += r;
                bytes += b;
            }
        }
    }
    assert_eq!(at, promised, "everything written was flushed");
    assert_eq!((at, records, bytes), (out.pos, out.records, out.bytes));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Any window size gives what the naive replay gives.
    #[test]
    fn windows_equal_naive_replay(ops in prop::collection::vec(op(), 0..120), window in 600u64..200_000) {
        let log = encode(&ops);
        let s = setup(&log);
        let mut model = vec![0xee; DEVICE as usize];
        naive(&log, 0, &mut model);
        let (out, events) = s.apply(0, log.len() as u64, window);
        prop_assert_eq!(out.end, ApplyEnd::Limit);
        prop_assert_eq!(out.pos, log.len() as u64);
        prop_assert_eq!(out.records, ops.len() as u64);
        check_events(&events, 0, &out);
        prop_assert!(s.content() == model);
    }

    /// I5: a damaged byte anywhere stops exactly before its record, everything before is applied, nothing behind.
    #[test]
    fn damage_stops_before_the_bad_record(
        ops in prop::collection::vec(op(), 1..60), window in 600u64..100_000, at in any::<prop::sample::Index>(), flip in 1u8..,
    ) {
        let mut log = encode(&ops);
        let i = at.index(log.len());
        log[i] ^= flip;
        let s = setup(&log);
        let mut model = vec![0xee; DEVICE as usize];
        let (pos, records) = naive(&log, 0, &mut model);
        let (out, events) = s.apply(0, log.len() as u64, window);
        prop_assert_eq!((out.pos, out.records), (pos, records));
        prop_assert_eq!(out.pos == log.len() as u64, out.end == ApplyEnd::Limit);
        check_events(&events, 0, &out);
        prop_assert!(s.content() == model);
    }

    /// A cut anywhere is incomplete, never a defect; going on with more bytes ends where one run would have.
    #[test]
    fn cut_log_goes_on_later(ops in prop::collection::vec(op(), 1..60), window in 600u64..100_000, at in any::<prop::sample::Index>()) {
        let log = encode(&ops);
        let cut = at.index(log.len()) as u64;
        let s = setup(&log);
        let (out, _) = s.apply(0, cut, window);
        prop_assert!(out.pos <= cut);
        if out.pos < cut {
            prop_assert_eq!(out.end, ApplyEnd::Incomplete { rest: cut - out.pos });
        } else {
            prop_assert_eq!(out.end, ApplyEnd::Limit);
        }
        let (rest, events) = s.apply(out.pos, log.len() as u64, window);
        check_events(&events, out.pos, &rest);
        prop_assert_eq!(rest.end, ApplyEnd::Limit);
        let mut model = vec![0xee; DEVICE as usize];
        naive(&log, 0, &mut model);
        prop_assert!(s.content() == model);
    }

    /// I4: applying any part again, from any record border to the end, changes nothing.
    #[test]
    fn applying_again_changes_nothing(ops in prop::collection::vec(op(), 1..60), again in any::<prop::sample::Index>()) {
        let log = encode(&ops);
        let s = setup(&log);
        s.apply(0, log.len() as u64, 5000);
        let before = s.content();
        let k = again.index(ops.len());
        let from = encode(&ops[..k]).len() as u64;
        s.apply(from, log.len() as u64, 7000);
        prop_assert!(s.content() == before);
    }
}

#[test]
fn corruption_is_told_from_a_torn_tail() {
    let ops: Vec<Op> = (0..4)
        .map(|i| Op {
            sector: i * 8,
            sectors: 8,
            fill: 7,
        })
        .collect();
    let log = encode(&ops);
    let one = log.len() / 4;
    let mut inside = log.clone();
    inside[one + 100] ^= 1;
    let s = setup(&inside);
    let (out, _) = s.apply(0, log.len() as u64, 1 << 20);
    assert_eq!(out.pos, one as u64);
    assert!(matches!(
        out.end,
        ApplyEnd::Stop {
            corruption_inside: true,
            ..
        }
    ));
    let mut torn = log.clone();
    torn[3 * one + 100..].fill(0);
    let s = setup(&torn);
    let (out, _) = s.apply(0, log.len() as u64, 1 << 20);
    assert_eq!(out.pos, 3 * one as u64);
    assert!(matches!(
        out.end,
        ApplyEnd::Stop {
            corruption_inside: false,
            ..
        }
    ));
}

#[test]
fn break_flushes_what_was_written() {
    let ops: Vec<Op> = (0..40)
        .map(|i| Op {
            sector: i * 8,
            sectors: 8,
            fill: 9,
        })
        .collect();
    let log = encode(&ops);
    let s = setup(&log);
    let opts = ApplyOptions {
        window_bytes: 20_000,
        device_size: DEVICE,
    };
    let mut windows = 0;
    let mut flushed = 0;
    let out = apply_log(
        &s.disk,
        s.log(),
        0,
        log.len() as u64,
        &opts,
        &mut |e| match e {
            ApplyEvent::BeforeWrite { .. } => {
                windows += 1;
                Ok(if windows == 3 {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                })
            }
            ApplyEvent::Flushed { end, .. } => {
                flushed = end;
                Ok(ControlFlow::Continue(()))
            }
        },
    )
    .unwrap();
    assert_eq!(out.pos, flushed);
    assert_eq!(out.end, ApplyEnd::Asked);
    // The first window is a small one: two records, and five in the next.
    assert_eq!(out.records, 7);
    let disk = s.content();
    assert_eq!(disk[6 * 4096], 9);
    assert_eq!(disk[7 * 4096], 0xee);
}

#[test]
fn position_is_published_before_the_disk_is_touched() {
    let log = encode(&[Op {
        sector: 0,
        sectors: 8,
        fill: 5,
    }]);
    let s = setup(&log);
    let opts = ApplyOptions {
        window_bytes: 1 << 20,
        device_size: DEVICE,
    };
    let mut seen = Vec::new();
    apply_log(&s.disk, s.log(), 0, log.len() as u64, &opts, &mut |_| {
        let mut b = [0u8; 1];
        s.disk.file().read_exact_at(&mut b, 0).unwrap();
        seen.push(b[0]);
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    assert_eq!(seen, [0xee, 5]);
    // A failed publication must leave the disk alone.
    let s = setup(&log);
    let r = apply_log(&s.disk, s.log(), 0, log.len() as u64, &opts, &mut |_| {
        Err("no".into())
    });
    assert!(matches!(r, Err(ApplyError::Publish(_))));
    assert_eq!(s.content()[0], 0xee);
}
