//! Data on the way between two hosts, in pieces: each with a digest, and compressed where that makes it smaller.
//!
//! A piece: u32 original length, u32 stored length, u16 flags (digest and, when compressed, compression, as in `crc_flags`), u16 zero,
//! 16 bytes digest of the original, the stored bytes. All numbers little-endian.
use crate::codec::COMPRESSION_FLAGS;
use crate::compress::{Unpacker, pack};
use crate::digest::sum;
use crate::{Compression, Digest};

/// Original bytes in one piece at most.
pub const PIECE: usize = 32768;
const HEAD: usize = 28;
const ZLIB_LEVEL: u32 = 3;

/// Most bytes that `len` bytes can become.
pub const fn wrapped_max(len: usize) -> usize {
    len + len.div_ceil(PIECE) * HEAD
}

fn digest_of(digest: Digest, raw: &[u8]) -> [u8; 16] {
    let s = sum(digest, raw);
    let mut out = s.folded;
    for (o, b) in out.iter_mut().zip(s.old) {
        *o ^= b;
    }
    out
}

/// Appends the pieces of `raw` to `out`.
pub fn wrap(digest: Digest, compression: Option<Compression>, raw: &[u8], out: &mut Vec<u8>) {
    for piece in raw.chunks(PIECE) {
        let at = out.len();
        out.resize(at + HEAD, 0);
        let packed = compression.and_then(|c| Some((c, pack(c, ZLIB_LEVEL, piece, out)?)));
        let (flags, stored) = match packed {
            Some((c, n)) => (digest.flag() | c.flag(), n),
            None => {
                out.extend_from_slice(piece);
                (digest.flag(), piece.len())
            }
        };
        let mut head = [0; HEAD];
        // Both lengths are at most PIECE.
        head[..4].copy_from_slice(&(piece.len() as u32).to_le_bytes());
        head[4..8].copy_from_slice(&(stored as u32).to_le_bytes());
        head[8..10].copy_from_slice(&flags.to_le_bytes());
        head[12..].copy_from_slice(&digest_of(digest, piece));
        out[at..at + HEAD].copy_from_slice(&head);
    }
}

/// Takes pieces apart again.
#[derive(Debug, Default)]
pub struct Unwrapper {
    unpacker: Unpacker,
    /// Digest and compression of the last piece.
    pub last: Option<(Digest, Option<Compression>)>,
}

impl Unwrapper {
    /// Appends the original of all pieces in `body` to `out`, at most `max` bytes. `None` when anything is damaged or too much; what was
    /// appended then is of no use.
    pub fn unwrap(&mut self, mut body: &[u8], max: usize, out: &mut Vec<u8>) -> Option<()> {
        let end = out.len().checked_add(max)?;
        while !body.is_empty() {
            let (head, rest) = body.split_at_checked(HEAD)?;
            let word = |at: usize| Some(u32::from_le_bytes(head.get(at..at + 4)?.try_into().ok()?));
            let (len, stored) = (word(0)? as usize, word(4)? as usize);
            let flags = u16::from_le_bytes(head.get(8..10)?.try_into().ok()?);
            let (bytes, next) = rest.split_at_checked(stored)?;
            if len == 0 || len > PIECE || head.get(10..12)? != [0, 0] || out.len() + len > end {
                return None;
            }
            let digest = Digest::BY_PREFERENCE
                .into_iter()
                .find(|d| d.flag() == flags & !COMPRESSION_FLAGS)?;
            let compression = match flags & COMPRESSION_FLAGS {
                0 => None,
                f => Some(
                    Compression::BY_PREFERENCE
                        .into_iter()
                        .find(|c| c.flag() == f)?,
                ),
            };
            let original = match compression {
                None if stored == len => bytes,
                None => return None,
                Some(c) => self.unpacker.unpack(c, bytes, len)?,
            };
            if digest_of(digest, original) != *head.get(12..)? {
                return None;
            }
            out.extend_from_slice(original);
            self.last = Some((digest, compression));
            body = next;
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn all() -> impl Iterator<Item = (Digest, Option<Compression>)> {
        Digest::BY_PREFERENCE.into_iter().flat_map(|d| {
            [
                None,
                Some(Compression::Lz4),
                Some(Compression::Zlib),
                Some(Compression::Lzo),
            ]
            .map(|c| (d, c))
        })
    }

    #[test]
    fn what_is_wrapped_comes_back() {
        let text: Vec<u8> = (0..100_000u32).map(|i| (i / 512) as u8).collect();
        for (d, c) in all() {
            for n in [0, 1, 511, PIECE - 1, PIECE, PIECE + 1, text.len()] {
                let mut out = Vec::new();
                wrap(d, c, &text[..n], &mut out);
                assert!(out.len() <= wrapped_max(n));
                let mut back = b"x".to_vec();
                let mut u = Unwrapper::default();
                u.unwrap(&out, n, &mut back).unwrap();
                assert_eq!(back[1..], text[..n], "{d:?} {c:?} {n}");
                if n > 0 {
                    assert_eq!(u.unwrap(&out, n - 1, &mut Vec::new()), None, "too much");
                    assert_eq!(u.last.unwrap().0, d);
                }
            }
        }
        let (mut plain, mut packed) = (Vec::new(), Vec::new());
        wrap(Digest::Crc32c, None, &text, &mut plain);
        wrap(Digest::Crc32c, Some(Compression::Lz4), &text, &mut packed);
        assert!(packed.len() * 10 < plain.len(), "{}", packed.len());
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let raw: Vec<u8> = (0..700u32).map(|i| (i * 7 / 3) as u8).collect();
        for (d, c) in all() {
            let mut good = Vec::new();
            wrap(d, c, &raw, &mut good);
            for bit in 0..good.len() * 8 {
                let mut bad = good.clone();
                bad[bit / 8] ^= 1 << (bit % 8);
                let mut out = Vec::new();
                let result = Unwrapper::default().unwrap(&bad, 1 << 20, &mut out);
                assert!(result.is_none() || out == raw, "{d:?} {c:?} bit {bit}");
            }
            for cut in 1..good.len() {
                assert!(
                    Unwrapper::default()
                        .unwrap(&good[..cut], 1 << 20, &mut Vec::new())
                        .is_none()
                );
            }
        }
    }
}
