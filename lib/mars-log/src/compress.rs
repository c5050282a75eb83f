//! Compressing and decompressing payloads (transaction-log.md 1.7).
use crate::{Compression, lzo, zeroes};
use flate2::{Compress, Decompress, FlushCompress, FlushDecompress, Status};
use lz4_flex::block::{
    CompressTable, compress_into_with_table, decompress_into, get_maximum_output_size,
};
use std::cell::RefCell;

/// Largest original size of a compressed record that a reader accepts.
pub(crate) const MAX_UNPACKED: usize = 32768;

/// Working memory of the compressors, kept per thread so that a record costs no allocation.
#[derive(Default)]
struct Packer {
    lz4: Option<CompressTable>,
    zlib: Option<(u32, Compress)>,
}

thread_local! {
    static PACKER: RefCell<Packer> = RefCell::default();
}

/// Appends the compressed form of `payload` to `out`. `None`, and `out` as before, when it cannot be written or would not
/// become smaller by at least one unit of padding.
pub(crate) fn pack(
    c: Compression,
    zlib_level: u32,
    payload: &[u8],
    out: &mut Vec<u8>,
) -> Option<usize> {
    let start = out.len();
    if payload.len() >= zeroes::SHORTEST && all_zero(payload) {
        match c {
            Compression::Lzo => return None,
            Compression::Lz4 => zeroes::pack_lz4(payload.len(), out),
            Compression::Zlib => zeroes::pack_zlib(zlib_level, payload.len(), out),
        }
        return Some(out.len() - start);
    }
    let packed = PACKER.with_borrow_mut(|p| match c {
        Compression::Lzo => None,
        Compression::Lz4 => {
            out.resize(start + get_maximum_output_size(payload.len()), 0);
            let table = p.lz4.get_or_insert_with(CompressTable::small);
            compress_into_with_table(payload, &mut out[start..], table).ok()
        }
        Compression::Zlib => {
            out.resize(start + payload.len(), 0);
            p.deflate(zlib_level.clamp(1, 9), payload, &mut out[start..])
        }
    });
    let packed = packed.filter(|n| crate::layout::roundup8(*n) < payload.len());
    out.truncate(start + packed.unwrap_or(0));
    packed
}

impl Packer {
    fn deflate(&mut self, level: u32, payload: &[u8], out: &mut [u8]) -> Option<usize> {
        if self.zlib.as_ref().is_none_or(|(l, _)| *l != level) {
            self.zlib = Some((level, Compress::new(flate2::Compression::new(level), true)));
        }
        let (_, z) = self.zlib.as_mut()?;
        z.reset();
        match z.compress(payload, out, FlushCompress::Finish) {
            Ok(Status::StreamEnd) => usize::try_from(z.total_out()).ok(),
            _ => None,
        }
    }
}

/// Working memory of the decompressors.
#[derive(Debug, Default)]
pub(crate) struct Unpacker {
    scratch: Vec<u8>,
    inflate: Option<Decompress>,
}

impl Unpacker {
    /// Decompresses `src` to exactly `len` (at most [`MAX_UNPACKED`]) bytes; `None` when that is not what it contains.
    pub fn unpack(&mut self, c: Compression, src: &[u8], len: usize) -> Option<&[u8]> {
        if len > MAX_UNPACKED {
            return None;
        }
        if self.scratch.len() < len {
            self.scratch.resize(MAX_UNPACKED, 0);
        }
        let dst = &mut self.scratch[..len];
        let made = match c {
            Compression::Lzo => lzo::decompress(src, dst)?,
            Compression::Lz4 => decompress_into(src, dst).ok()?,
            Compression::Zlib => {
                let z = self.inflate.get_or_insert_with(|| Decompress::new(true));
                z.reset(true);
                match z.decompress(src, dst, FlushDecompress::Finish) {
                    Ok(Status::StreamEnd) => usize::try_from(z.total_out()).ok()?,
                    _ => return None,
                }
            }
        };
        (made == len).then_some(&self.scratch[..len])
    }
}

/// Are all bytes zero? (Comparing with itself shifted by one runs at the speed of memcmp.)
pub(crate) fn all_zero(bytes: &[u8]) -> bool {
    match bytes {
        [] => true,
        [0, rest @ ..] => bytes[..rest.len()] == *rest,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn unpack_demands_the_exact_size() {
        let data: Vec<u8> = (0..4096u32).map(|i| (i / 100) as u8).collect();
        let mut u = Unpacker::default();
        for c in [Compression::Lz4, Compression::Zlib] {
            let mut out = Vec::new();
            pack(c, 3, &data, &mut out).unwrap();
            assert_eq!(u.unpack(c, &out, 4096), Some(&data[..]));
            for wrong in [0, 1, 3584, 4095, 4097, 4608, MAX_UNPACKED, MAX_UNPACKED + 1] {
                assert_eq!(u.unpack(c, &out, wrong), None, "{c:?} {wrong}");
            }
        }
    }

    #[test]
    fn what_does_not_shrink_is_not_packed() {
        let mut x = 1u64;
        let noise: Vec<u8> = (0..4096)
            .map(|_| {
                x = x
                    .wrapping_mul(6364136223846793005)
                    .wrapping_add(1442695040888963407);
                (x >> 56) as u8
            })
            .collect();
        for c in Compression::BY_PREFERENCE {
            let mut out = vec![1, 2, 3];
            assert_eq!(pack(c, 3, &noise, &mut out), None);
            assert_eq!(out, [1, 2, 3]);
        }
    }

    #[test]
    fn all_zero_sees_a_single_bit_anywhere() {
        assert!(all_zero(&[]) && all_zero(&[0]) && all_zero(&[0; 999]));
        for i in 0..70 {
            let mut b = [0u8; 70];
            b[i] = 1;
            assert!(!all_zero(&b), "{i}");
        }
    }
}
