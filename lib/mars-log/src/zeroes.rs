//! Compressed zero pages without a compressor: what LZ4 and zlib make of zeros is known in advance, and zeros are the most
//! frequent content that compresses at all (discard, write-zeroes, mkfs). Both streams equal those of the stock C libraries
//! (zlib: for its levels 1 to 3, up to 2 KiB, among them the worked example of transaction-log.md 1.10).

/// The shortest input for which these streams are valid and smaller than the input.
pub(crate) const SHORTEST: usize = 512;

/// Appends the LZ4 block of `len` zero bytes (at least [`SHORTEST`]): one literal, one match at distance 1, the five
/// literals that must end a block.
pub(crate) fn pack_lz4(len: usize, out: &mut Vec<u8>) {
    // Behind the literal and before the last five; 4 is the shortest match, 15 what the token holds itself.
    let rest = len - 1 - 5 - 4 - 15;
    out.extend_from_slice(&[0x1f, 0x00, 0x01, 0x00]);
    out.resize(out.len() + rest / 255, 255);
    out.push((rest % 255) as u8);
    out.extend_from_slice(&[0x50, 0, 0, 0, 0, 0]);
}

/// Appends the zlib stream of `len` zero bytes (at least [`SHORTEST`]): one block with fixed codes, two literals, a match of
/// 258 at distance 1, then matches at distance 258.
pub(crate) fn pack_zlib(level: u32, len: usize, out: &mut Vec<u8>) {
    out.extend_from_slice(match level {
        0..2 => &[0x78, 0x01],
        2..6 => &[0x78, 0x5e],
        6 => &[0x78, 0x9c],
        _ => &[0x78, 0xda],
    });
    let mut w = BitWriter { out, acc: 0, n: 0 };
    w.bits(0b011, 3); // last block, fixed codes
    w.literal_zero();
    w.literal_zero();
    w.match_258(false);
    let mut rest = len - 2 - 258;
    while rest >= 258 {
        w.match_258(true);
        rest -= 258;
    }
    if rest < 3 {
        (0..rest).for_each(|_| w.literal_zero());
    } else {
        w.short_match(rest);
    }
    w.code(0, 7); // end of block
    w.finish();
    // Adler-32 of zeros: the first sum stays 1, the second counts them.
    let adler = ((len % 65521) as u32) << 16 | 1;
    out.extend_from_slice(&adler.to_be_bytes());
}

/// Deflate's bit order: values from the lowest bit on, codes from the highest.
struct BitWriter<'a> {
    out: &'a mut Vec<u8>,
    acc: u64,
    n: u32,
}

impl BitWriter<'_> {
    fn bits(&mut self, value: u32, count: u32) {
        self.acc |= u64::from(value) << self.n;
        self.n += count;
        while self.n >= 8 {
            self.out.push(self.acc as u8);
            self.acc >>= 8;
            self.n -= 8;
        }
    }
    fn code(&mut self, code: u32, count: u32) {
        self.bits(code.reverse_bits() >> (32 - count), count);
    }
    fn literal_zero(&mut self) {
        self.code(0x30, 8);
    }
    fn distance(&mut self, far: bool) {
        if far {
            // 258 = base 257 of code 16, plus 1 in 7 extra bits.
            self.code(16, 5);
            self.bits(1, 7);
        } else {
            self.code(0, 5);
        }
    }
    fn match_258(&mut self, far: bool) {
        self.code(0xc5, 8); // symbol 285
        self.distance(far);
    }
    /// A match of 3 to 257 bytes at distance 258.
    fn short_match(&mut self, len: usize) {
        // RFC 1951 3.2.5: eight lengths without extra bits, then four symbols for each number of extra bits.
        let v = len as u32 - 3;
        let extra = if v < 8 { 0 } else { v.ilog2() - 2 };
        let symbol = 257 + extra * 4 + (v >> extra);
        if symbol < 280 {
            self.code(symbol - 256, 7);
        } else {
            self.code(symbol - 280 + 0xc0, 8);
        }
        self.bits(v & ((1 << extra) - 1), extra);
        self.distance(true);
    }
    fn finish(self) {
        if self.n > 0 {
            self.out.push(self.acc as u8);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::Compression;
    use crate::compress::{Unpacker, all_zero};

    #[test]
    fn lz4_is_that_of_a_stock_library() {
        let mut out = Vec::new();
        pack_lz4(512, &mut out);
        assert_eq!(out, b"\x1f\x00\x01\x00\xff\xe8\x50\0\0\0\0\0");
    }

    #[test]
    fn zlib_is_that_of_a_stock_library() {
        let mut out = Vec::new();
        pack_zlib(3, 512, &mut out);
        assert_eq!(out, b"\x78\x5e\x63\x60\x18\x05\x23\x39\x04\0\x02\0\0\x01");
        out.clear();
        pack_zlib(3, 2048, &mut out);
        let stock: &[u8] = b"\x78\x5e\x63\x60\x18\x05\xa3\x21\x30\x1a\x02\xa3\x21\x30\x1a\x02\
            \xa3\x21\x30\x1a\x02\x23\x2d\x04\0\x08\0\0\x01";
        assert_eq!(out, stock);
    }

    #[test]
    fn both_unpack_at_every_size() {
        let mut u = Unpacker::default();
        for len in (SHORTEST..1100).chain((1536..=crate::MAX_ZERO_RECORD).step_by(512)) {
            for level in [1, 3, 6, 9] {
                let mut out = Vec::new();
                pack_zlib(level, len, &mut out);
                assert!(crate::layout::roundup8(out.len()) < len);
                assert!(all_zero(u.unpack(Compression::Zlib, &out, len).unwrap()));
                out.clear();
                pack_lz4(len, &mut out);
                assert!(crate::layout::roundup8(out.len()) < len);
                assert!(all_zero(u.unpack(Compression::Lz4, &out, len).unwrap()));
            }
        }
    }
}
