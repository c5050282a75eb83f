//! LZO1X decompression, bounded on any input. Own code because the only maintained crate is Apache-2.0 alone, which
//! GPL-2.0 (one of our two licences by choice of the user) does not accept; the crate serves the tests as a second opinion.

/// Reader over the compressed bytes.
struct Input<'a> {
    src: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn byte(&mut self) -> Option<usize> {
        let b = *self.src.get(self.at)?;
        self.at += 1;
        Some(usize::from(b))
    }
    fn le16(&mut self) -> Option<usize> {
        Some(self.byte()? | self.byte()? << 8)
    }
    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let s = self.src.get(self.at..self.at.checked_add(n)?)?;
        self.at += n;
        Some(s)
    }
    /// A length whose short field was zero: each zero byte adds 255, the first other byte ends it.
    fn long_length(&mut self, base: usize) -> Option<usize> {
        let mut n = base;
        loop {
            match self.byte()? {
                0 => n += 255, // at most once per input byte: cannot overflow
                b => return Some(n + b),
            }
        }
    }
    fn length(&mut self, short: usize, base: usize, offset: usize) -> Option<usize> {
        if short == 0 {
            self.long_length(base)
        } else {
            Some(short + offset)
        }
    }
}

/// Writer into the destination of known size.
struct Output<'a> {
    dst: &'a mut [u8],
    at: usize,
}

impl Output<'_> {
    fn literals(&mut self, bytes: &[u8]) -> Option<()> {
        self.dst
            .get_mut(self.at..self.at.checked_add(bytes.len())?)?
            .copy_from_slice(bytes);
        self.at += bytes.len();
        Some(())
    }
    fn copy_back(&mut self, distance: usize, len: usize) -> Option<()> {
        let from = self.at.checked_sub(distance)?;
        let end = self.at.checked_add(len)?;
        if end > self.dst.len() {
            return None;
        }
        if distance >= len {
            self.dst.copy_within(from..from + len, self.at);
        } else if distance == 1 {
            let b = self.dst[from];
            self.dst[self.at..end].fill(b);
        } else {
            // Source and destination overlap on purpose: the pattern repeats.
            for i in 0..len {
                self.dst[self.at + i] = self.dst[from + i];
            }
        }
        self.at = end;
        Some(())
    }
}

/// What the instruction before left behind: decides what a byte below 16 means.
#[derive(Clone, Copy, PartialEq)]
enum Before {
    /// A match without trailing literals (or the start).
    Match,
    /// A match (or the start) with one to three literals.
    FewLiterals,
    /// A run of four or more literals.
    LiteralRun,
}

/// Decompresses one raw LZO1X stream into `dst` and returns how many bytes it made. `None` when the stream is damaged,
/// does not fit, or does not end exactly at the end of `src`.
pub(crate) fn decompress(src: &[u8], dst: &mut [u8]) -> Option<usize> {
    let mut input = Input { src, at: 0 };
    let mut out = Output { dst, at: 0 };
    let mut before = Before::Match;
    let first = usize::from(*src.first()?);
    if first > 17 {
        input.at = 1;
        out.literals(input.take(first - 17)?)?;
        before = if first - 17 < 4 {
            Before::FewLiterals
        } else {
            Before::LiteralRun
        };
    }
    loop {
        let op = input.byte()?;
        let (distance, len, trailing) = match op {
            0..16 => match before {
                Before::Match => {
                    let run = input.length(op, 18, 3)?;
                    out.literals(input.take(run)?)?;
                    before = Before::LiteralRun;
                    continue;
                }
                Before::FewLiterals => (1 + (op >> 2) + (input.byte()? << 2), 2, op & 3),
                Before::LiteralRun => (2049 + (op >> 2) + (input.byte()? << 2), 3, op & 3),
            },
            16..32 => {
                let len = input.length(op & 7, 9, 2)?;
                let word = input.le16()?;
                let distance = 0x4000 + ((op & 8) << 11) + (word >> 2);
                if distance == 0x4000 {
                    // The end mark is a match of length 3 that goes nowhere.
                    return (len == 3 && input.at == src.len()).then_some(out.at);
                }
                (distance, len, word & 3)
            }
            32..64 => {
                let len = input.length(op & 31, 33, 2)?;
                let word = input.le16()?;
                (1 + (word >> 2), len, word & 3)
            }
            _ => (
                1 + ((op >> 2) & 7) + (input.byte()? << 3),
                (op >> 5) + 1,
                op & 3,
            ),
        };
        out.copy_back(distance, len)?;
        out.literals(input.take(trailing)?)?;
        before = if trailing == 0 {
            Before::Match
        } else {
            Before::FewLiterals
        };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::decompress;
    use proptest::prelude::*;

    /// "hello, lzo world!" as liblzo2 compresses it.
    const HELLO: &[u8] = b"\x22hello, lzo world!\x11\0\0";

    #[test]
    fn literals_only() {
        let mut out = [0; 17];
        assert_eq!(decompress(HELLO, &mut out), Some(17));
        assert_eq!(&out, b"hello, lzo world!");
    }

    #[test]
    fn every_cut_and_every_short_output_is_refused() {
        for n in 0..HELLO.len() {
            assert_eq!(decompress(&HELLO[..n], &mut [0; 17]), None);
        }
        for n in 0..17 {
            assert_eq!(decompress(HELLO, &mut vec![0; n]), None);
        }
        let mut longer = HELLO.to_vec();
        longer.push(0);
        assert_eq!(decompress(&longer, &mut [0; 17]), None);
    }

    #[test]
    fn zero_page() {
        // One literal, a long match at distance 1 (33 + 255 * 1 + 223 = 511), the end.
        let block = [18, 0, 32, 0, 223, 0, 0, 0x11, 0, 0];
        let mut out = [1; 512];
        assert_eq!(decompress(&block, &mut out), Some(512));
        assert_eq!(out, [0; 512]);
        assert_eq!(lzo::decompress_into(&block, &mut out), Ok(512));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]
        /// Any bytes: the same answer as the other implementation, never a panic.
        #[test]
        fn agrees_with_the_crate(
            first in 18u8..40,
            mut src in prop::collection::vec(prop_oneof![any::<u8>(), 0u8..70, Just(0u8)], 0..200),
            size in 0usize..4096,
        ) {
            src.insert(0, first);
            src.extend([0x11, 0, 0]);
            let (mut a, mut b) = (vec![0; size], vec![0; size]);
            let theirs = lzo::decompress_into(&src, &mut b).ok();
            prop_assert_eq!(decompress(&src, &mut a), theirs);
            if let Some(n) = theirs {
                prop_assert_eq!(&a[..n], &b[..n]);
            }
        }
    }
}
