//! Table 2.2 of transaction-log.md, one crafted file per row: same stop position, errno and detail; nothing behind applied.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::*;
use mars_log::{Compression, Digest, EncodeOptions, Scan, ScanLimits, Scanner, encode_write};

/// Three records of 512 bytes, without check words (their absence must not weaken any row of the table).
fn three() -> (Vec<u8>, [usize; 4]) {
    file(&[512, 512, 512], &plain(Digest::Crc32c))
}

/// Damages the second record in place and expects the scan to stop at it with that code.
#[track_caller]
fn second_damaged(damage: impl FnOnce(&mut [u8]), errno: i32, detail: Option<u16>) {
    let (mut bytes, ends) = three();
    damage(&mut bytes[ends[0]..ends[1]]);
    assert_eq!(scan_all(&bytes), (1, ends[0], stopped(errno, detail)));
}

fn set16(rec: &mut [u8], at: usize, v: i16) {
    rec[at..at + 2].copy_from_slice(&v.to_le_bytes());
}

fn reseal(rec: &mut [u8]) {
    // Digest of the payload as it is now, for damages that a digest would hide.
    let mut fresh = Vec::new();
    let n = encode_write(
        &mut fresh,
        0,
        &rec[48..560],
        STAMP,
        1,
        &plain(Digest::Crc32c),
    );
    let (at, end) = (n - 16, rec.len());
    rec[end - 16..].copy_from_slice(&fresh[at..]);
}

#[test]
fn row_01_fewer_than_85_bytes_is_the_end() {
    let (bytes, ends) = three();
    for rest in 0..=84 {
        assert_eq!(
            scan_all(&bytes[..ends[1] + rest]),
            (2, ends[1], Outcome::End),
            "{rest}"
        );
    }
    assert_eq!(scan_all(&[0; 84]), (0, 0, Outcome::End));
    assert_eq!(scan_all(&[0; 85]), (0, 0, stopped(-74, Some(10013))));
}

#[test]
fn row_02_start_magic() {
    second_damaged(|r| r[0] ^= 1, -74, Some(10013));
    second_damaged(|r| r.fill(0), -74, Some(10013));
    second_damaged(|r| r.fill(0xff), -74, Some(10013));
    second_damaged(|r| r[7] = 0, -74, Some(10013));
}

#[test]
fn row_03_version() {
    for v in [0, 2, 255] {
        second_damaged(|r| r[8] = v, -74, Some(10003));
    }
}

#[test]
fn row_04_valid_flag() {
    second_damaged(|r| r[9] = 0, -74, Some(10003));
    // Any other value is accepted.
    let (mut bytes, ends) = three();
    bytes[ends[0] + 9] = 0x80;
    assert_eq!(scan_all(&bytes), (3, ends[2], Outcome::End));
    // At the end of the file the same damage may still be a record under construction.
    let (mut bytes, ends) = three();
    bytes[ends[0] + 9] = 0;
    for rest in 85..92 {
        assert_eq!(
            scan_all(&bytes[..ends[0] + rest]),
            (1, ends[0], Outcome::Incomplete)
        );
    }
    assert_eq!(
        scan_all(&bytes[..ends[0] + 92]),
        (1, ends[0], stopped(-74, Some(10003)))
    );
}

#[test]
fn row_05_total_len_zero() {
    second_damaged(|r| set16(r, 10, 0), -85, Some(10004));
    // What a crash with delayed allocation leaves behind: the start of a record, then zeros.
    second_damaged(|r| r[10..].fill(0), -85, Some(10004));
}

#[test]
fn row_06_total_len_negative() {
    for v in [-1, -596, i16::MIN] {
        second_damaged(|r| set16(r, 10, v), -74, Some(10005));
    }
}

#[test]
fn row_07_total_len_beyond_the_file() {
    let (mut bytes, ends) = three();
    let rest = (bytes.len() - ends[0]) as i16;
    for v in [rest + 1, i16::MAX] {
        set16(&mut bytes[ends[0]..], 10, v);
        assert_eq!(scan_all(&bytes), (1, ends[0], Outcome::Incomplete), "{v}");
    }
    // Exactly to the end of the file: the trailer is that of the third record, so the frame is whole.
    set16(&mut bytes[ends[0]..], 10, rest);
    assert_ne!(scan_all(&bytes).2, Outcome::Incomplete);
}

#[test]
fn row_08_total_len_too_small() {
    for v in [1, 8, 83, 84] {
        second_damaged(|r| set16(r, 10, v), -85, Some(10007));
    }
    second_damaged(|r| set16(r, 10, 85), -56, Some(10020));
}

#[test]
fn row_09_end_magic_zero() {
    second_damaged(|r| r[560..568].fill(0), -85, None);
    second_damaged(|r| r[300..].fill(0), -85, None);
}

#[test]
fn row_10_end_magic_repeated_byte() {
    for b in [0x01, 0x6b, 0xff] {
        let (mut bytes, ends) = three();
        bytes[ends[0] + 560..ends[0] + 568].fill(b);
        let (n, at, end) = scan_all(&bytes);
        assert_eq!((n, at), (1, ends[0]));
        let Outcome::Stop(c) = end else {
            panic!("{end:?}")
        };
        assert_eq!(
            (c.errno, c.detail.map(|d| d.0), c.repeated),
            (-74, Some(10021), Some(b))
        );
        assert_eq!(c.to_string(), format!("-74,-10021,{b:#04x}"));
    }
}

#[test]
fn row_11_end_magic_garbage() {
    second_damaged(|r| r[560] ^= 0x10, -56, Some(10020));
    second_damaged(|r| r[567] = 0, -56, Some(10020));
}

#[test]
fn row_12_valid_copy() {
    for v in [0, 2, 255] {
        second_damaged(|r| r[572] = v, -74, Some(10009));
    }
}

fn numbered(numbers: &[u32]) -> Vec<u8> {
    let mut out = Vec::new();
    for n in numbers {
        let len = encode_write(
            &mut out,
            0,
            &page(1, 512),
            STAMP,
            *n,
            &plain(Digest::Crc32c),
        );
        assert_eq!(len, 596);
    }
    out
}

#[test]
fn row_13_number_jumps_forward() {
    for bad in [4, 100, u32::MAX] {
        assert_eq!(
            scan_all(&numbered(&[1, 2, bad, bad.wrapping_add(1)])),
            (2, 1192, stopped(-74, Some(10010)))
        );
    }
}

#[test]
fn row_14_number_stays_or_jumps_back_and_is_accepted() {
    for list in [
        &[5, 5, 6][..],
        &[5, 3, 4],
        &[77_000, 77_001, 1],
        &[u32::MAX - 1, u32::MAX, 0, 1],
        &[1, 0, 900],
        &[0, 3, 4],
    ] {
        let bytes = numbered(list);
        assert_eq!(
            scan_all(&bytes),
            (list.len(), bytes.len(), Outcome::End),
            "{list:?}"
        );
    }
}

/// Stricter than the table: records with a check word come from a writer that counts without exception. So a sound record that stands
/// somewhere else, or twice, is found.
#[test]
fn numbers_of_records_with_check_words_continue() {
    let counted = |list: &[u32]| {
        let mut out = Vec::new();
        for n in list {
            let opts = EncodeOptions::default();
            assert_eq!(
                encode_write(&mut out, 0, &page(1, 512), STAMP, *n, &opts),
                596
            );
        }
        out
    };
    for (list, good) in [
        (&[5, 6, 7][..], 3),
        (&[5, 5, 6], 1),
        (&[5, 6, 5], 2),
        (&[5, 0, 6], 1),
        (&[u32::MAX - 1, u32::MAX, 0, 1], 4),
    ] {
        let bytes = counted(list);
        let end = if good == list.len() {
            Outcome::End
        } else {
            stopped(-74, Some(10011))
        };
        assert_eq!(scan_all(&bytes), (good, good * 596, end), "{list:?}");
    }
    for (list, good) in [(&[1, 2][..], true), (&[2, 3], false), (&[0, 1], false)] {
        let bytes = counted(list);
        let is_record = |mut s: Scanner| matches!(s.next(&bytes), Scan::Record(_));
        assert_eq!(is_record(Scanner::new_file(ScanLimits::default())), good);
        assert!(is_record(Scanner::new(ScanLimits::default())));
    }
}

#[test]
fn row_15_decompressed_length() {
    // Not larger than l_len, not a multiple of 512, negative.
    for v in [1, 511, 512, 513, 1000, 32767, -1, -512, i16::MIN] {
        second_damaged(|r| set16(r, 38, v), -74, Some(10152));
    }
    // Plausible but no compression bit: the payload is plain.
    let (mut bytes, ends) = three();
    set16(&mut bytes[ends[0]..], 38, 1024);
    assert_eq!(scan_all(&bytes), (3, ends[2], Outcome::End));
}

#[test]
fn row_16_stored_length_negative() {
    for v in [-1, -512, i16::MIN] {
        second_damaged(|r| set16(r, 36, v), -74, Some(10151));
    }
    // Row 15 comes first, and a negative l_len is smaller than any decompressed length.
    second_damaged(
        |r| {
            set16(r, 36, -1);
            set16(r, 38, 512);
        },
        -74,
        Some(10151),
    );
}

#[test]
fn row_17_decompression_fails() {
    for (c, bit) in [
        (Compression::Lz4, 0x02),
        (Compression::Zlib, 0x04),
        (Compression::Lz4, 0x01),
    ] {
        let opts = EncodeOptions {
            compression: Some(c),
            ..plain(Digest::Crc32c)
        };
        let (good, ends) = file(&[4096, 4096, 4096], &opts);
        assert!(ends[0] < 4096, "{c:?} did not compress");
        let mut bytes = good.clone();
        bytes[ends[1] - 36 + 15] = bit;
        if bit == 0x01 {
            // LZ4 bytes announced as LZO.
            assert_eq!(scan_all(&bytes), (1, ends[0], stopped(-74, Some(10150))));
            continue;
        }
        assert_eq!(scan_all(&bytes), (3, ends[2], Outcome::End));
        // Announced as larger than it is.
        set16(&mut bytes[ends[0]..], 38, 4608);
        assert_eq!(scan_all(&bytes), (1, ends[0], stopped(-74, Some(10150))));
        // Cut off.
        let mut bytes = good.clone();
        let l = i16::from_le_bytes(bytes[ends[0] + 36..ends[0] + 38].try_into().unwrap());
        set16(&mut bytes[ends[0]..], 36, l - 1);
        assert_eq!(scan_all(&bytes), (1, ends[0], stopped(-74, Some(10150))));
        // First bytes destroyed.
        let mut bytes = good;
        bytes[ends[0] + 48..ends[0] + 56].fill(0xff);
        assert_eq!(scan_all(&bytes), (1, ends[0], stopped(-74, Some(10150))));
    }
}

#[test]
fn row_18_no_digest() {
    second_damaged(|r| r[574] = 0, -74, Some(10100));
    // With an old checksum such a record counts as MD5_OLD.
    let (mut bytes, ends) = file(&[512, 512, 512], &plain(Digest::Md5Old));
    for end in ends {
        bytes[end.max(596) - 22] = 0;
    }
    assert_eq!(scan_all(&bytes), (3, ends[2], Outcome::End));
    bytes[ends[0] + 100] ^= 1;
    assert_eq!(scan_all(&bytes), (1, ends[0], stopped(-74, Some(10101))));
}

#[test]
fn row_19_digest_differs() {
    for d in Digest::BY_PREFERENCE {
        let (mut bytes, ends) = file(&[512, 512, 512], &plain(d));
        bytes[ends[0] + 48] ^= 0x80;
        assert_eq!(
            scan_all(&bytes),
            (1, ends[0], stopped(-74, Some(10101))),
            "{d:?}"
        );
    }
}

// --- stricter than the table (2.6, 6.3) ---

#[test]
fn unknown_and_ambiguous_flags_are_refused() {
    for bits in [0x20, 0x40, 0x80, 0x24, 0x06, 0x1f] {
        second_damaged(|r| r[574] = bits, -74, Some(10100));
    }
    for bits in [0x08, 0x10, 0x80, 0x03, 0x07, 0x0c] {
        second_damaged(|r| r[575] = bits, -74, Some(10150));
    }
    // One known compression bit without a decompressed length means nothing.
    let (mut bytes, ends) = three();
    bytes[ends[0] + 575] = 2;
    assert_eq!(scan_all(&bytes), (3, ends[2], Outcome::End));
}

#[test]
fn payload_must_lie_inside_the_record() {
    for v in [513, 548, 549, 4096, i16::MAX, 0] {
        second_damaged(|r| set16(r, 36, v), -74, Some(10012));
    }
}

#[test]
fn positions_are_checked() {
    for pos in [-512i64, i64::MIN, -1, 1, 511, 513, i64::MAX, i64::MAX - 511] {
        second_damaged(
            |r| {
                r[28..36].copy_from_slice(&pos.to_le_bytes());
                reseal(r);
            },
            -74,
            Some(10012),
        );
    }
    let mut rec = Vec::new();
    let n = encode_write(
        &mut rec,
        4096,
        &page(3, 1024),
        STAMP,
        1,
        &Default::default(),
    );
    assert_eq!(n, rec.len());
    for (size, good) in [
        (5120, true),
        (5119, false),
        (4096, false),
        (0, false),
        (1 << 40, true),
    ] {
        let mut s = Scanner::new(ScanLimits {
            device_size: Some(size),
        });
        match s.next(&rec) {
            Scan::Record(_) => assert!(good, "{size}"),
            Scan::Stop(c) => assert_eq!((good, c.detail.map(|d| d.0)), (false, Some(10012))),
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn header_check_word_covers_every_bit_of_the_header() {
    let (good, ends) = file(&[512, 512, 512], &EncodeOptions::default());
    assert_eq!(scan_all(&good), (3, ends[2], Outcome::End));
    for bit in 0..48 * 8 {
        let mut bytes = good.clone();
        bytes[ends[0] + bit / 8] ^= 1 << (bit % 8);
        let (n, at, end) = scan_all(&bytes);
        if (46..48).contains(&(bit / 8)) {
            // The marker itself: then there is no check word, as MARS 0.1a writes it.
            assert_eq!((n, at, end), (3, ends[2], Outcome::End));
        } else {
            assert_eq!((n, at), (1, ends[0]), "bit {bit}");
            assert!(!matches!(end, Outcome::End), "bit {bit}");
        }
    }
    // Stamp, code and position are what only the check word protects.
    for at in [12, 20, 28, 40, 44] {
        let mut bytes = good.clone();
        bytes[ends[0] + at] ^= 2;
        let (_, stop_at, end) = scan_all(&bytes);
        assert_eq!((stop_at, end), (ends[0], stopped(-74, Some(10003))), "{at}");
    }
}

#[test]
fn md5_old_record_with_replaced_constant_payload_is_rejected() {
    // The original accepts this one, through its retry with CRC32C (2.4).
    for fill in [0, 0x55] {
        let (mut bytes, ends) = file(&[4096, 4096], &plain(Digest::Md5Old));
        bytes[ends[0] + 48..ends[0] + 48 + 4096].fill(fill);
        assert_eq!(scan_all(&bytes), (1, ends[0], stopped(-74, Some(10101))));
    }
}

#[test]
fn crc32c_zero_page_with_zero_digest_is_accepted() {
    let mut bytes = Vec::new();
    let n = encode_write(&mut bytes, 0, &[0; 4096], STAMP, 1, &plain(Digest::Crc32c));
    assert_eq!(bytes[n - 16..], [0; 16]);
    assert_eq!(scan_all(&bytes), (1, n, Outcome::End));
}

#[test]
fn stretched_records_up_to_the_limit() {
    for (payload, total) in [
        (512, 600),
        (512, 4096),
        (4096, 8192),
        (512, 32767),
        (32683, 32767),
    ] {
        for fill in [0, 0xff, 0x57] {
            let mut rec = Vec::new();
            let n = encode_write(
                &mut rec,
                0,
                &page(9, payload),
                STAMP,
                1,
                &plain(Digest::Crc32c),
            );
            let trailer = rec.split_off(n - 36);
            rec.resize(total - 36, fill);
            rec.extend(trailer);
            set16(&mut rec, 10, total as i16);
            rec.extend(numbered(&[2]));
            assert_eq!(
                scan_all(&rec),
                (2, total + 596, Outcome::End),
                "{payload} {total}"
            );
        }
    }
}

#[test]
fn spares_and_pads_are_ignored() {
    let (mut bytes, ends) = three();
    bytes[ends[0] + 40..ends[0] + 44].fill(0xaa);
    bytes[ends[0] + 46..ends[0] + 48].fill(0xbb);
    bytes[ends[0] + 573] = 0xcc;
    bytes[ends[0] + 568..ends[0] + 572].fill(0xdd); // old checksum of a record that has a digest
    assert_eq!(scan_all(&bytes), (3, ends[2], Outcome::End));
    let opts = EncodeOptions {
        compression: Some(Compression::Zlib),
        ..plain(Digest::Crc32c)
    };
    let (mut bytes, ends) = file(&[4096], &opts);
    let l = usize::from(u16::from_le_bytes(bytes[36..38].try_into().unwrap()));
    bytes[48 + l..ends[0] - 36].fill(0xee);
    assert_eq!(scan_all(&bytes), (1, ends[0], Outcome::End));
}

#[test]
fn mid_file_start_only_at_a_border() {
    let (bytes, ends) = three();
    for at in 1..bytes.len() - 84 {
        let (n, end_at, end) = scan_all(&bytes[at..]);
        match ends.iter().position(|e| *e == at) {
            Some(i) => assert_eq!((n, end_at, end), (2 - i, bytes.len() - at, Outcome::End)),
            None => assert_eq!((n, end_at, end), (0, 0, stopped(-74, Some(10013))), "{at}"),
        }
    }
}

#[test]
fn codes_other_than_write_are_marked() {
    for code in [2i16, 3, -1] {
        let (mut bytes, _) = three();
        set16(&mut bytes, 44, code);
        match Scanner::new(ScanLimits::default()).next(&bytes) {
            Scan::Record(r) => assert!(!r.is_write, "{code}"),
            other => panic!("{other:?}"),
        }
    }
}

/// The border of two sectors lies in the header, the second sector is still full of zeros, and so is the payload: its digest fits.
#[test]
fn a_header_torn_by_a_power_cut_is_no_record() {
    for digest in [Digest::Crc32c, Digest::Md5] {
        let mut whole = Vec::new();
        assert!(encode_write(&mut whole, 512, &[0; 4096], STAMP, 1, &plain(digest)) > 0);
        assert!(matches!(
            Scanner::new(ScanLimits::default()).next(&whole),
            Scan::Record(_)
        ));
        for border in (4..48).step_by(4) {
            let mut torn = whole.clone();
            torn[border..48].fill(0);
            assert!(
                !matches!(
                    Scanner::new(ScanLimits::default()).next(&torn),
                    Scan::Record(_)
                ),
                "{digest:?} torn at {border}"
            );
        }
    }
}
