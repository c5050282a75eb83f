//! Payload digests (transaction-log.md 1.6).
use crate::Digest;
use crc_fast::CrcParams;
use md5::{Digest as _, Md5};
use sha1::Sha1;
use std::sync::LazyLock;

/// What a trailer stores about the payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Sum {
    /// First four MD5 bytes when the digest is MD5_OLD, else zero.
    pub old: [u8; 4],
    /// Folded digest; zero when MD5_OLD.
    pub folded: [u8; 16],
}

/// The kernel's raw CRC32: start 0 and no final inversion, so neither zlib's value nor a transformed one.
static RAW_CRC32: LazyLock<CrcParams> =
    LazyLock::new(|| CrcParams::new("CRC-32/RAW", 32, 0x04C1_1DB7, 0, true, 0, 0x2DFD_2D88));

/// Raw CRC32 as the Linux kernel computes it with seed 0.
fn crc32_raw(bytes: &[u8]) -> u32 {
    // 32-bit parameters: the upper half of the result is zero.
    crc_fast::checksum_with_params(*RAW_CRC32, bytes) as u32
}

/// Eight parts of `len / 8` bytes, the last one takes the remainder too; each 4 bytes little-endian; folded in passing.
fn eight_parts(payload: &[u8], crc: impl Fn(&[u8]) -> u32) -> [u8; 16] {
    let part = payload.len() / 8;
    let mut folded = [0u32; 4];
    for i in 0..8 {
        let end = if i == 7 {
            payload.len()
        } else {
            (i + 1) * part
        };
        folded[i % 4] ^= crc(&payload[i * part..end]);
    }
    let mut out = [0u8; 16];
    for (o, f) in out.chunks_exact_mut(4).zip(folded) {
        o.copy_from_slice(&f.to_le_bytes());
    }
    out
}

/// XOR of both halves of a raw digest.
fn fold(raw: &[u8; 32]) -> [u8; 16] {
    std::array::from_fn(|i| raw[i] ^ raw[i + 16])
}

/// What the trailer of a record with this payload (not compressed) must store.
pub(crate) fn sum(digest: Digest, payload: &[u8]) -> Sum {
    let mut s = Sum::default();
    match digest {
        Digest::Md5Old => s.old.copy_from_slice(&Md5::digest(payload)[..4]),
        Digest::Md5 => {
            let (a, b) = payload.split_at(payload.len() / 2);
            let mut raw = [0u8; 32];
            raw[..16].copy_from_slice(&Md5::digest(a));
            raw[16..].copy_from_slice(&Md5::digest(b));
            s.folded = fold(&raw);
        }
        Digest::Crc32c => s.folded = eight_parts(payload, crc_fast::crc32_iscsi),
        Digest::Crc32 => s.folded = eight_parts(payload, crc32_raw),
        Digest::Sha1 => {
            let mut raw = [0u8; 32];
            raw[..20].copy_from_slice(&Sha1::digest(payload));
            s.folded = fold(&raw);
        }
    }
    s
}

/// `sum` of `len` zero bytes. All digests that are computed in equal parts fold to zero when the parts are equal, so a
/// multiple of 8 costs nothing for them.
pub(crate) fn sum_of_zeroes(digest: Digest, len: usize) -> Sum {
    static ZEROES: [u8; crate::MAX_ZERO_RECORD] = [0; crate::MAX_ZERO_RECORD];
    match digest {
        Digest::Md5 | Digest::Crc32c | Digest::Crc32 if len.is_multiple_of(8) => Sum::default(),
        _ if len <= ZEROES.len() => sum(digest, &ZEROES[..len]),
        _ => sum(digest, &vec![0; len]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Bit by bit, so that it shares nothing with the crate under test.
    fn crc_bitwise(poly: u32, init: u32, xorout: u32, bytes: &[u8]) -> u32 {
        let mut c = init;
        for b in bytes {
            c ^= u32::from(*b);
            for _ in 0..8 {
                c = if c & 1 == 1 { (c >> 1) ^ poly } else { c >> 1 };
            }
        }
        c ^ xorout
    }

    #[test]
    fn check_values() {
        assert_eq!(crc_fast::crc32_iscsi(b"123456789"), 0xE306_9283);
        assert_eq!(crc32_raw(b"123456789"), 0x2DFD_2D88);
        assert_eq!(crc32_raw(&[0; 4096]), 0);
    }

    #[test]
    fn crcs_equal_a_bitwise_reference_at_every_length() {
        let data: Vec<u8> = (0..2100u32).map(|i| (i * 31 + i / 7) as u8).collect();
        for len in (0..300).chain([511, 512, 513, 1023, 1024, 2048, 2100]) {
            let d = &data[..len];
            assert_eq!(crc32_raw(d), crc_bitwise(0xEDB8_8320, 0, 0, d), "{len}");
            assert_eq!(
                crc_fast::crc32_iscsi(d),
                crc_bitwise(0x82F6_3B78, !0, !0, d),
                "{len}"
            );
        }
    }

    #[test]
    fn zeroes_have_the_digest_of_zeroes() {
        for d in Digest::BY_PREFERENCE {
            for len in [
                512usize,
                1024,
                4096,
                12800,
                crate::MAX_ZERO_RECORD,
                33000,
                13,
            ] {
                assert_eq!(sum_of_zeroes(d, len), sum(d, &vec![0; len]), "{d:?} {len}");
            }
        }
    }

    #[test]
    fn remainder_belongs_to_the_last_part() {
        let data: Vec<u8> = (0..107u8).collect();
        let mut raw = [0u8; 32];
        for i in 0..8 {
            let part = if i == 7 {
                &data[91..]
            } else {
                &data[i * 13..(i + 1) * 13]
            };
            raw[i * 4..i * 4 + 4].copy_from_slice(&crc_fast::crc32_iscsi(part).to_le_bytes());
        }
        assert_eq!(sum(Digest::Crc32c, &data).folded, fold(&raw));
    }
}
