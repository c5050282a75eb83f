//! Cuts, mutations and arbitrary bytes: never a panic, never a damaged payload accepted (I5, I12).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::*;
use mars_log::{
    Compression, Digest, EncodeOptions, MAX_ZERO_RECORD, Payload, Record, Scan, ScanLimits,
    Scanner, encode_write, encode_zeroes,
};
use mars_tree::Stamp;
use proptest::prelude::*;

const COMPRESSIONS: [Option<Compression>; 4] = [
    None,
    Some(Compression::Lz4),
    Some(Compression::Zlib),
    Some(Compression::Lzo),
];

fn all_options() -> impl Iterator<Item = EncodeOptions> {
    Digest::BY_PREFERENCE.into_iter().flat_map(|digest| {
        COMPRESSIONS.into_iter().flat_map(move |compression| {
            [true, false].map(|header_check| EncodeOptions {
                digest,
                compression,
                header_check,
                zlib_level: 3,
            })
        })
    })
}

fn content(r: &Record<'_>) -> Vec<u8> {
    match &r.payload {
        Payload::Plain(b) => b.to_vec(),
        Payload::Unpacked(b) => b.clone(),
        Payload::Zeroes(n) => vec![0; *n],
    }
}

#[test]
fn cut_at_every_byte_of_the_last_record() {
    for opts in all_options() {
        let (bytes, ends) = file(&[512, 512, 1024], &opts);
        for cut in ends[1]..ends[2] {
            let (n, at, end) = scan_all(&bytes[..cut]);
            assert_eq!((n, at), (2, ends[1]), "{opts:?} {cut}");
            let expected = if cut - ends[1] < 85 {
                Outcome::End
            } else {
                Outcome::Incomplete
            };
            assert_eq!(end, expected, "{opts:?} {cut}");
        }
    }
}

#[test]
fn zeroed_from_every_byte_of_the_last_record() {
    // A crash with delayed allocation: the size is there, the content is not.
    for opts in all_options() {
        let (bytes, ends) = file(&[512, 512, 1024], &opts);
        let mut before = Scanner::new(ScanLimits::default());
        before.next(&bytes);
        before.next(&bytes[ends[0]..]);
        assert_eq!(before.last_seq(), 2);
        let whole = content_at(&bytes, ends[1]);
        for from in ends[1]..ends[2] {
            let mut torn = bytes[ends[1]..].to_vec();
            torn[from - ends[1]..].fill(0);
            match before.clone().next(&torn) {
                Scan::Stop(_) => assert!(!before.valid_record_follows(&torn), "{opts:?} {from}"),
                // Only zeros were overwritten, or behind the checksum of an MD5_OLD record nothing that matters.
                Scan::Record(r) => {
                    assert!(torn == bytes[ends[1]..] || opts.digest == Digest::Md5Old);
                    assert_eq!((content(&r), r.device_pos), (whole.clone(), 8192));
                }
                other => panic!("{opts:?} {from} {other:?}"),
            }
        }
    }
}

fn content_at(bytes: &[u8], at: usize) -> Vec<u8> {
    match Scanner::new(ScanLimits::default()).next(&bytes[at..]) {
        Scan::Record(r) => content(&r),
        other => panic!("{other:?}"),
    }
}

/// xorshift64*: the same mutations in every run.
struct Rng(u64);
impl Rng {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) as usize % n
    }
}

/// End in the file, device position, content.
type Expected = (usize, u64, Vec<u8>);

/// Mixed digests, compressions and sizes in one file; with the content of each record.
fn mixed(check: bool) -> (Vec<u8>, Vec<Expected>) {
    let mut bytes = Vec::new();
    let mut records = Vec::new();
    for (i, opts) in all_options()
        .filter(|o| o.header_check == check)
        .enumerate()
    {
        let seq = i as u32 + 1;
        let (pos, payload) = (i as u64 * 8192, page(seq, 512 * (1 + i % 8)));
        assert!(encode_write(&mut bytes, pos, &payload, STAMP, seq, &opts) > 0);
        records.push((bytes.len(), pos, payload));
    }
    let n = records.len() as u32;
    let opts = EncodeOptions {
        header_check: check,
        ..EncodeOptions::default()
    };
    assert!(encode_zeroes(&mut bytes, 512, MAX_ZERO_RECORD, STAMP, n + 1, &opts) > 0);
    records.push((bytes.len(), 512, vec![0; MAX_ZERO_RECORD]));
    (bytes, records)
}

#[test]
fn mixed_digests_and_compressions_in_one_file() {
    for check in [true, false] {
        let (bytes, records) = mixed(check);
        let mut s = Scanner::new(ScanLimits::default());
        let mut at = 0;
        for (end, pos, payload) in &records {
            let Scan::Record(r) = s.next(&bytes[at..]) else {
                panic!("stopped at {at}")
            };
            at += r.total_len;
            assert_eq!(
                (at, r.device_pos, content(&r)),
                (*end, *pos, payload.clone())
            );
        }
        assert_eq!(s.next(&bytes[at..]), Scan::End);
    }
}

#[test]
fn random_mutations_are_never_accepted_silently() {
    let (good, records) = mixed(true);
    let mut rng = Rng(0x5EED_0001);
    let mut stopped_at_all = 0;
    for round in 0..6_400 {
        let mut bytes = good.clone();
        match rng.below(6) {
            0 | 1 => {
                for _ in 0..1 + rng.below(3) {
                    let bit = rng.below(bytes.len() * 8);
                    bytes[bit / 8] ^= 1 << (bit % 8);
                }
            }
            2 => {
                let (at, v) = (rng.below(bytes.len()), rng.below(256) as u8);
                bytes[at] = v;
            }
            3 => bytes.truncate(rng.below(good.len())),
            4 => {
                let (at, v) = (rng.below(good.len()), [0, 0xff][rng.below(2)]);
                bytes[at..].fill(v);
            }
            _ => {
                // A block of the file in the wrong place.
                let (from, to) = (rng.below(good.len() - 512), rng.below(good.len() - 512));
                bytes.copy_within(from..from + 1 + rng.below(511), to);
            }
        }
        let mut s = Scanner::new(ScanLimits::default());
        let mut at = 0;
        let mut i = 0;
        while let Scan::Record(r) = s.next(&bytes[at..]) {
            let (end, pos, payload) = &records[i];
            // What the format cannot detect: a fold of equal halves (constant pages and zero records only).
            assert_eq!(content(&r), *payload, "round {round} record {i}");
            assert_eq!(r.device_pos, *pos, "round {round} record {i}");
            at += r.total_len;
            i += 1;
            assert_eq!(at, *end, "round {round} record {i}");
        }
        if at < bytes.len() {
            stopped_at_all += 1;
            if round % 4 == 0 {
                let _ = s.valid_record_follows(&bytes[at..]);
            }
        }
    }
    assert!(stopped_at_all > 6_000, "{stopped_at_all}");
}

#[test]
fn corruption_is_told_from_a_torn_tail() {
    for check in [true, false] {
        let opts = EncodeOptions {
            header_check: check,
            ..EncodeOptions::default()
        };
        let (bytes, ends) = file(&[512, 1024, 512], &opts);
        let follows = |bytes: &[u8]| {
            let mut s = Scanner::new(ScanLimits::default());
            let Scan::Record(r) = s.next(bytes) else {
                panic!()
            };
            assert_eq!(r.total_len, ends[0]);
            s.valid_record_follows(&bytes[ends[0]..])
        };
        // Any single damaged byte in the second record: the third one proves corruption.
        for at in ends[0]..ends[1] {
            let mut bad = bytes.clone();
            bad[at] ^= 0x41;
            assert!(follows(&bad), "{check} {at}");
        }
        // Second damaged, third torn: nothing proves it.
        let mut torn = bytes.clone();
        torn[ends[0] + 100] ^= 1;
        for cut in ends[0]..ends[2] {
            assert!(!follows(&torn[..cut]), "{check} {cut}");
        }
        // Junk of any length before the next record.
        for junk in [0, 1, 7, 8, 84, 85, 500, 5000] {
            let mut b = bytes[..ends[0]].to_vec();
            b.resize(ends[0] + junk, 0x57);
            b.extend_from_slice(&bytes[ends[1]..]);
            assert!(follows(&b), "{check} {junk}");
        }
    }
}

#[test]
fn record_with_a_number_that_cannot_stand_there_is_not_taken_as_proof() {
    // The rest of an older log in recycled space: sound records, numbers too high or too low.
    let opts = EncodeOptions::default();
    let mut bytes = Vec::new();
    assert!(encode_write(&mut bytes, 0, &page(1, 512), STAMP, 50, &opts) > 0);
    let at = bytes.len();
    bytes.resize(at + 1000, 0);
    let behind = bytes.len();
    for (seq, proof) in [
        (1, false),
        (50, false),
        (51, true),
        (93, true),
        (94, false),
        (5000, false),
    ] {
        bytes.truncate(behind);
        assert!(encode_write(&mut bytes, 0, &page(2, 512), STAMP, seq, &opts) > 0);
        let mut s = Scanner::new(ScanLimits::default());
        assert!(matches!(s.next(&bytes), Scan::Record(_)));
        assert_eq!(s.valid_record_follows(&bytes[at..]), proof, "{seq}");
    }
}

#[test]
fn records_inside_a_torn_payload_prove_nothing() {
    // The device holds an image of a log; its write is cut in the middle.
    let (inner, _) = file(&[512, 512, 512], &EncodeOptions::default());
    let mut payload = inner;
    payload.resize(4096, 0);
    let mut bytes = Vec::new();
    let n = encode_write(&mut bytes, 0, &payload, STAMP, 1, &EncodeOptions::default());
    assert_eq!(n, 4180);
    let s = Scanner::new(ScanLimits::default());
    assert!(!s.valid_record_follows(&bytes[..4000]));
    bytes[4000] ^= 1;
    assert!(!s.valid_record_follows(&bytes));
}

#[test]
fn search_is_bounded_on_a_file_of_nothing_but_starts() {
    // Each 16 bytes look like a record that reaches far: an honest search would check 32 KiB for each of them.
    let mut rec = Vec::new();
    let n = encode_write(&mut rec, 0, &page(1, 32683), STAMP, 1, &plain(Digest::Md5));
    assert_eq!(n, 32767);
    let mut bytes = Vec::new();
    while bytes.len() < 1 << 20 {
        bytes.extend_from_slice(&rec[..12]);
        bytes.extend_from_slice(&rec[n - 36..n - 32]);
    }
    let _ = Scanner::new(ScanLimits::default()).valid_record_follows(&bytes);
}

#[test]
fn impossible_records_are_not_encoded() {
    let o = EncodeOptions::default();
    let mut out = vec![1, 2, 3];
    assert_eq!(encode_write(&mut out, 0, &[], STAMP, 1, &o), 0);
    assert_eq!(encode_write(&mut out, 0, &[0; 32684], STAMP, 1, &o), 0);
    assert_eq!(encode_write(&mut out, u64::MAX, &[0; 512], STAMP, 1, &o), 0);
    assert_eq!(
        encode_write(&mut out, i64::MAX as u64 - 511, &[0; 512], STAMP, 1, &o),
        0
    );
    for len in [0, 1, 511, 513, MAX_ZERO_RECORD + 512, usize::MAX] {
        assert_eq!(encode_zeroes(&mut out, 0, len, STAMP, 1, &o), 0, "{len}");
    }
    assert_eq!(out, [1, 2, 3]);
}

fn any_digest() -> impl Strategy<Value = Digest> {
    prop::sample::select(Digest::BY_PREFERENCE.to_vec())
}

fn any_payload() -> impl Strategy<Value = Vec<u8>> {
    let len = (1usize..=63).prop_map(|n| n * 512);
    let small = (1usize..=8).prop_map(|n| n * 512);
    prop_oneof![
        small.prop_flat_map(|n| prop::collection::vec(any::<u8>(), n)),
        (len.clone(), any::<u32>()).prop_map(|(n, seed)| page(seed % 1000, n)),
        (len.clone(), any::<u8>()).prop_map(|(n, b)| vec![b; n]),
        (len, 0usize..32256, any::<u8>()).prop_map(|(n, at, b)| {
            let mut v = vec![0; n];
            v[at % n] = b;
            v
        }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    /// What is encoded is found again, with every digest, compression and option, in one file.
    #[test]
    fn encode_then_scan_gives_the_same(
        records in prop::collection::vec(
            (any_payload(), any_digest(), prop::sample::select(COMPRESSIONS.to_vec()), any::<bool>(),
             1u32..10, 0u64..1 << 50, 0u64..1 << 62),
            1..6),
        first in 0u32..u32::MAX - 10,
    ) {
        let mut bytes = Vec::new();
        for (i, (payload, digest, compression, header_check, zlib_level, pos, stamp)) in records.iter().enumerate() {
            let opts = EncodeOptions {
                digest: *digest, compression: *compression, header_check: *header_check, zlib_level: *zlib_level,
            };
            let n = encode_write(&mut bytes, pos * 512, payload, Stamp::from_nanos(*stamp), first + i as u32, &opts);
            prop_assert!(n > 84 && n <= payload.len() + 84);
            if compression.is_none() || *compression == Some(Compression::Lzo) {
                prop_assert_eq!(n, payload.len() + 84);
            }
        }
        let mut s = Scanner::new(ScanLimits { device_size: Some(1 << 60) });
        let mut at = 0;
        for (i, (payload, .., pos, stamp)) in records.iter().enumerate() {
            let Scan::Record(r) = s.next(&bytes[at..]) else { panic!("refused") };
            prop_assert_eq!(&content(&r), payload);
            prop_assert_eq!((r.device_pos, r.stamp, r.seq, r.is_write),
                (pos * 512, Stamp::from_nanos(*stamp), first + i as u32, true));
            if let Payload::Unpacked(b) = &r.payload {
                prop_assert!(b.iter().any(|x| *x != 0), "zeros are to be recognised");
            }
            at += r.total_len;
        }
        prop_assert_eq!(s.next(&bytes[at..]), Scan::End);
    }

    #[test]
    fn zero_records_of_every_size(n in 1usize..=63, digest in any_digest(), check in any::<bool>()) {
        let opts = EncodeOptions { digest, header_check: check, ..EncodeOptions::default() };
        let mut bytes = Vec::new();
        let len = encode_zeroes(&mut bytes, 1 << 40, n * 512, STAMP, 7, &opts);
        prop_assert!(len == bytes.len() && len <= 84 + 144);
        match Scanner::new(ScanLimits::default()).next(&bytes) {
            Scan::Record(r) => prop_assert_eq!((r.payload, r.device_pos, r.seq), (Payload::Zeroes(n * 512), 1 << 40, 7)),
            other => panic!("{other:?}"),
        }
    }

    /// Any bytes behind a sound start: no panic, no record longer than the bytes.
    #[test]
    fn arbitrary_bytes(
        header in prop::collection::vec(any::<u8>(), 40),
        total in prop_oneof![any::<i16>(), 80i16..700],
        rest in prop::collection::vec(any::<u8>(), 0..600),
        flags in any::<u16>(),
    ) {
        let mut b = 0xA8F7_E908_D917_7957u64.to_le_bytes().to_vec();
        b.extend(header);
        b[8] = 1;
        b[10..12].copy_from_slice(&total.to_le_bytes());
        b.extend(rest);
        if let Some(t) = usize::try_from(total).ok().and_then(|t| t.checked_sub(36))
            && let Some(tail) = b.get_mut(t..t + 36)
        {
            tail[..8].copy_from_slice(&0x7494_1FB7_4AB5_726Du64.to_le_bytes());
            tail[12] = 1;
            tail[14..16].copy_from_slice(&flags.to_le_bytes());
        }
        let mut s = Scanner::new(ScanLimits::default());
        if let Scan::Record(r) = s.next(&b) {
            prop_assert!(r.total_len <= b.len() && !r.payload.is_empty() && r.payload.len() <= 32683);
        }
        let _ = s.valid_record_follows(&b);
    }
}
