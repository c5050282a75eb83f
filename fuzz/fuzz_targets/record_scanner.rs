//! The record scanner: on arbitrary bytes, and on good records of which some bytes were changed.
//!
//! Checks I5 and I12: never a panic, never a read out of range, nothing in front of the first damage lost or changed.
#![no_main]
use libfuzzer_sys::arbitrary::{self, Arbitrary, Result, Unstructured};
use libfuzzer_sys::fuzz_target;
use mars_log::{
    Compression, Digest, EncodeOptions, Payload, Scan, ScanLimits, Scanner, encode_write,
    encode_zeroes,
};
use mars_tree::Stamp;

#[derive(Arbitrary, Debug)]
struct Plan {
    records: Vec<Item>,
    changes: Vec<(u16, Change)>,
    device_size: Option<u64>,
}

#[derive(Arbitrary, Debug)]
struct Item {
    pos: u32,
    units: u8,
    fill: u8,
    content: Vec<u8>,
    stamp: u64,
    seq_step: u8,
    digest: u8,
    compression: u8,
    check: bool,
    zeroes: bool,
}

#[derive(Arbitrary, Debug)]
enum Change {
    Xor(u8),
    Cut,
    Zero(u8),
    /// Sets a field of a record to an extreme value.
    Word(i16),
    Insert(u8),
}

fn scan(bytes: &[u8], limits: ScanLimits, mut each: impl FnMut(usize, &mars_log::Record<'_>)) {
    let mut s = Scanner::new(limits);
    let mut at = 0;
    loop {
        match s.next(&bytes[at..]) {
            Scan::Record(r) => {
                assert!(r.total_len > 84 && r.total_len <= bytes.len() - at);
                assert!(!r.payload.is_empty() && r.payload.len() <= 32683);
                if let Payload::Unpacked(v) = &r.payload {
                    assert!(v.capacity() <= 32768);
                }
                assert!(r.device_pos.is_multiple_of(512));
                assert!(
                    limits
                        .device_size
                        .is_none_or(|s| r.device_pos + r.payload.len() as u64 <= s)
                );
                each(at, &r);
                at += r.total_len;
            }
            Scan::End => {
                assert!(bytes.len() - at <= 84);
                return;
            }
            Scan::Incomplete | Scan::Stop(_) => {
                s.valid_record_follows(&bytes[at..]);
                return;
            }
        }
    }
}

fn structured(u: &mut Unstructured<'_>) -> Result<()> {
    let plan = Plan::arbitrary(u)?;
    let mut bytes = Vec::new();
    let mut good = Vec::new();
    let mut seq = 0u32;
    for r in plan.records.iter().take(12) {
        let opts = EncodeOptions {
            digest: Digest::BY_PREFERENCE[usize::from(r.digest) % 5],
            compression: [None, Some(Compression::Lz4), Some(Compression::Zlib)]
                [usize::from(r.compression) % 3],
            zlib_level: u32::from(r.compression) / 3,
            header_check: r.check,
        };
        // Small payloads run faster; zeros cost nothing at any size.
        let most = if r.zeroes { 63 } else { 9 };
        let len = (usize::from(r.units) % most + 1) * 512;
        let (pos, stamp) = (u64::from(r.pos) * 512, Stamp::from_nanos(r.stamp >> 2));
        // Records with a check word count without exception; of others a number may come twice.
        let step = if r.check {
            1
        } else {
            u32::from(r.seq_step) % 2
        };
        seq = seq.wrapping_add(step);
        let start = bytes.len();
        let mut content = vec![if r.zeroes { 0 } else { r.fill }; len];
        let n = if r.zeroes {
            encode_zeroes(&mut bytes, pos, len, stamp, seq, &opts)
        } else {
            let n = r.content.len().min(len);
            content[..n].copy_from_slice(&r.content[..n]);
            encode_write(&mut bytes, pos, &content, stamp, seq, &opts)
        };
        assert!(n == bytes.len() - start && n > 84);
        good.push((start, pos, content));
    }
    let total = bytes.len();
    let mut sound = total;
    for (at, change) in plan.changes.iter().take(8) {
        let at = usize::from(*at) % (bytes.len() + 1);
        sound = sound.min(at);
        let rest = &mut bytes[at..];
        match change {
            Change::Cut => bytes.truncate(at),
            Change::Insert(b) => bytes.insert(at, *b),
            Change::Xor(b) => rest.iter_mut().take(1).for_each(|x| *x ^= b),
            Change::Zero(n) => rest.iter_mut().take((*n).into()).for_each(|x| *x = 0),
            Change::Word(w) => {
                for (x, v) in rest.iter_mut().zip(w.to_le_bytes()) {
                    *x = v;
                }
            }
        }
    }
    let limits = ScanLimits {
        device_size: plan.device_size,
    };
    let mut found = 0;
    scan(&bytes, limits, |at, r| {
        if at + r.total_len <= sound {
            let (start, pos, content) = &good[found];
            assert_eq!((at, r.device_pos), (*start, *pos));
            match &r.payload {
                Payload::Plain(b) => assert!(b == content),
                Payload::Unpacked(b) => assert!(b == content),
                Payload::Zeroes(n) => {
                    assert!(*n == content.len() && content.iter().all(|b| *b == 0))
                }
            }
            found += 1;
        }
    });
    if sound == total && plan.device_size.is_none() {
        assert_eq!(found, good.len(), "undamaged records are all found");
    }
    Ok(())
}

fuzz_target!(|data: &[u8]| {
    let Some((mode, rest)) = data.split_first() else {
        return;
    };
    if mode % 2 == 0 {
        scan(rest, ScanLimits::default(), |_, _| ());
    } else {
        // Too little input for a plan is no finding.
        let _ = structured(&mut Unstructured::new(rest));
    }
});
