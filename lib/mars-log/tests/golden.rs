//! The worked examples of transaction-log.md 1.10, byte for byte.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use mars_log::{
    Compression, Digest, EncodeOptions, Payload, Scan, ScanLimits, Scanner, encode_write,
    encode_zeroes,
};
use mars_tree::Stamp;
use sha2::{Digest as _, Sha256};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|b| !b.is_ascii_whitespace())
        .map(|b| char::from(b).to_digit(16).unwrap() as u8)
        .collect();
    digits.chunks(2).map(|c| c[0] << 4 | c[1]).collect()
}

fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn payload() -> Vec<u8> {
    (0..512u32).map(|i| (7 * i + (i >> 5)) as u8).collect()
}

const STAMP: Stamp = Stamp::from_nanos(1_700_000_000_123_456_789);

fn opts(digest: Digest) -> EncodeOptions {
    EncodeOptions {
        digest,
        header_check: false,
        ..EncodeOptions::default()
    }
}

fn first_record(digest: Digest) -> Vec<u8> {
    let mut out = Vec::new();
    let n = encode_write(&mut out, 0x1234_5600, &payload(), STAMP, 1, &opts(digest));
    assert_eq!((n, out.len()), (596, 596));
    out
}

#[test]
fn example_payload_is_the_documented_one() {
    assert_eq!(
        sha256(&payload()),
        "f1aa1fe6748e155e41f2114ed1d748adc61cc4857bc521b933e5fd053bd58e24"
    );
}

#[test]
fn first_example_with_every_digest() {
    for (digest, sha) in [
        (
            Digest::Crc32c,
            "02bfc3d6b62888f0593cfc16d5e897eed87dfcfd952184f6bb473fea5454a047",
        ),
        (
            Digest::Md5Old,
            "37d6aae8108c840a60b35f9ad8b6b2644e304257455d99a2e5a58e4df386f534",
        ),
        (
            Digest::Md5,
            "421325a74cd241b847f26bdff5bf9fa214ccffa62264dbcfc328a03d011429da",
        ),
        (
            Digest::Crc32,
            "14678b3ceeb2dd089d219ba7241e441b3e3f37acfd9c3cfc683dac7e61be846c",
        ),
        (
            Digest::Sha1,
            "e9e54670619ad6c98b79a4a6d41a808f5e5a523d7cfbc292d63e1618a4fecf7c",
        ),
    ] {
        let rec = first_record(digest);
        assert_eq!(sha256(&rec), sha, "{digest:?}");
        let mut s = Scanner::new(ScanLimits::default());
        let Scan::Record(r) = s.next(&rec) else {
            panic!("{digest:?} refused")
        };
        assert_eq!(r.payload, Payload::Plain(&payload()));
        assert_eq!(
            (r.total_len, r.device_pos, r.stamp, r.seq, r.is_write),
            (596, 0x1234_5600, STAMP, 1, true)
        );
    }
}

#[test]
fn first_example_header_and_trailer_bytes() {
    let rec = first_record(Digest::Crc32c);
    assert_eq!(
        hex(&rec[..48]),
        "577917d908e9f7a80101540200f1536500000000\
         15cd5b0700000000005634120000000000020000\
         0000000001000000"
    );
    assert_eq!(
        hex(&rec[0x230..]),
        "6d72b54ab71f9474000000000100040001000000\
         5e92c95179ac11d62f36ca3e31e7c7b3"
    );
}

#[test]
fn first_example_with_the_header_check_word() {
    // CRC32C over bytes 0..=39 and 44..=45 at 40, marker 0x4843 at 46 (6.3); nothing else differs.
    let mut rec = Vec::new();
    let n = encode_write(
        &mut rec,
        0x1234_5600,
        &payload(),
        STAMP,
        1,
        &EncodeOptions::default(),
    );
    assert_eq!(n, 596);
    let without = first_record(Digest::Crc32c);
    assert_eq!(hex(&rec[40..48]), "bb073ec801004348");
    assert_eq!(rec[..40], without[..40]);
    assert_eq!(rec[48..], without[48..]);
}

#[test]
fn every_payload_bit_is_covered_by_every_digest() {
    for digest in Digest::BY_PREFERENCE {
        let good = first_record(digest);
        for bit in 48 * 8..560 * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            match Scanner::new(ScanLimits::default()).next(&bad) {
                Scan::Stop(c) => assert_eq!((c.errno, c.detail.map(|d| d.0)), (-74, Some(10101))),
                other => panic!("{digest:?} bit {bit}: {other:?}"),
            }
        }
    }
}

const SECOND: &str = "
    57 79 17 d9 08 e9 f7 a8 01 01 64 00 01 f1 53 65
    00 00 00 00 05 00 00 00 00 00 00 00 00 58 34 12
    00 00 00 00 0e 00 00 02 00 00 00 00 01 00 00 00
    78 5e 63 60 18 05 23 39 04 00 02 00 00 01 00 00
    6d 72 b5 4a b7 1f 94 74 00 00 00 00 01 00 04 04
    02 00 00 00 00 00 00 00 00 00 00 00 00 00 00 00
    00 00 00 00";

#[test]
fn second_example_compressed_with_zlib() {
    let mut out = first_record(Digest::Crc32c);
    let stamp = Stamp::from_nanos(1_700_000_001_000_000_005);
    let o = EncodeOptions {
        compression: Some(Compression::Zlib),
        ..opts(Digest::Crc32c)
    };
    let n = encode_write(&mut out, 0x1234_5800, &[0; 512], stamp, 2, &o);
    assert_eq!(hex(&out[596..]), hex(&unhex(SECOND)));
    assert_eq!(n, 100);
    let mut s = Scanner::new(ScanLimits::default());
    assert!(matches!(s.next(&out), Scan::Record(_)));
    let Scan::Record(r) = s.next(&out[596..]) else {
        panic!("refused")
    };
    assert_eq!(r.payload, Payload::Zeroes(512));
    assert_eq!(
        (r.total_len, r.device_pos, r.stamp, r.seq),
        (100, 0x1234_5800, stamp, 2)
    );
}

#[test]
fn zero_record_is_the_lz4_block_of_a_stock_library() {
    let mut out = Vec::new();
    let n = encode_zeroes(&mut out, 512, 512, STAMP, 1, &opts(Digest::Crc32c));
    assert_eq!(n, 84 + 16);
    assert_eq!(hex(&out[48..64]), "1f000100ffe850000000000000000000");
    assert_eq!(
        hex(&out[64..]),
        format!("6d72b54ab71f947400000000010004020100{}", "0".repeat(36))
    );
    let mut compressed = Vec::new();
    let o = EncodeOptions {
        compression: Some(Compression::Lz4),
        ..opts(Digest::Crc32c)
    };
    let _ = encode_write(&mut compressed, 512, &[0; 512], STAMP, 1, &o);
    assert!(matches!(
        Scanner::new(ScanLimits::default()).next(&compressed),
        Scan::Record(r) if r.payload == Payload::Zeroes(512)
    ));
}

#[test]
fn lzo_records_are_readable() {
    // The second example with LZO1X in place of zlib: one literal, a match of 511 at distance 1, the end mark.
    for fill in [0u8, 0x55] {
        let mut rec = unhex(SECOND);
        rec[36] = 10;
        rec[48..64].fill(0xee);
        rec[48..58].copy_from_slice(&[18, fill, 32, 0, 223, 0, 0, 0x11, 0, 0]);
        rec[64 + 15] = 0x01;
        let mut s = Scanner::new(ScanLimits::default());
        let Scan::Record(r) = s.next(&rec) else {
            panic!("refused")
        };
        // A constant page folds to the digest of zeros (1.6), so the example's digest fits both.
        let expected = match fill {
            0 => Payload::Zeroes(512),
            b => Payload::Unpacked(vec![b; 512]),
        };
        assert_eq!(r.payload, expected);
        // LZO cannot be written: such an option means plain.
        let o = EncodeOptions {
            compression: Some(Compression::Lzo),
            ..opts(Digest::Crc32c)
        };
        let mut out = Vec::new();
        assert_eq!(encode_write(&mut out, 0, &[fill; 512], STAMP, 1, &o), 596);
    }
}
