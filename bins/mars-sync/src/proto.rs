//! The sync protocol on port base + 2, above the hello: frames of `mars-net`, all numbers little-endian.
//!
//! ```text
//! client: Open     resource name
//! server: Ready    u64 size of its disk
//!         Refused  text; the connection ends
//! client: Check    u64 position, u32 length, u64 mask of all-zero blocks, BLAKE3-256 of each other block
//! server: Result   u64 position, u32 length, u64 mask of different blocks, u64 mask of those among them that are zero here,
//!                  content of the other different blocks
//!         Failed   text; the connection ends
//! client: Accept   u32 feature mask, before Open: results may come packed, with these digests and compressions
//! server: Packed   as Result, the content in pieces with a digest each, compressed where that pays (`mars_log::wire`)
//! ```
//! Checks are answered in order; a client may have many under way. A chunk has at most 64 blocks; the last block of the disk may be
//! short.

/// Port of the service above the base port.
pub const PORT_OFFSET: u16 = 2;

/// Bytes per block.
pub const BLOCK: usize = 64 << 10;
/// Blocks per chunk: what a mask holds.
pub const CHUNK_BLOCKS: usize = 64;
/// Bytes per chunk.
pub const CHUNK: usize = BLOCK * CHUNK_BLOCKS;

/// Names the resource.
pub const OPEN: u8 = 1;
/// Agreed.
pub const READY: u8 = 2;
/// Not here.
pub const REFUSED: u8 = 3;
/// Digests of a chunk.
pub const CHECK: u8 = 4;
/// What differs.
pub const RESULT: u8 = 5;
/// The source cannot go on.
pub const FAILED: u8 = 6;
/// Client understands packed results.
pub const ACCEPT: u8 = 7;
/// What differs, packed.
pub const PACKED: u8 = 8;

/// Bytes of a digest.
pub const DIGEST: usize = 32;
/// Largest frame from the client.
pub const REQUEST_MAX: usize = CHECK_HEAD + CHUNK_BLOCKS * DIGEST;
/// Largest frame from the server.
pub const ANSWER_MAX: usize = RESULT_HEAD + CHUNK;
/// Largest packed frame from the server.
pub const PACKED_MAX: usize = RESULT_HEAD + mars_log::wire::wrapped_max(CHUNK);
/// Largest text.
pub const TEXT_MAX: usize = 512;

const CHECK_HEAD: usize = 20;
/// Bytes before the content.
pub const RESULT_HEAD: usize = 28;

/// A piece of the disk: at most [`CHUNK`] bytes, not empty, not beyond what a file offset can be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Chunk {
    /// First byte.
    pub pos: u64,
    /// Bytes.
    pub len: u32,
}

impl Chunk {
    /// The chunk at `pos` of a disk of `size` bytes.
    pub fn at(pos: u64, size: u64) -> Chunk {
        let len = size.saturating_sub(pos).min(CHUNK as u64);
        Chunk {
            pos,
            len: u32::try_from(len).unwrap_or(0),
        }
    }
    /// Behind the last byte.
    pub fn end(&self) -> u64 {
        self.pos.saturating_add(u64::from(self.len))
    }
    /// Number of blocks.
    pub fn blocks(&self) -> usize {
        (self.len as usize).div_ceil(BLOCK)
    }
    /// Offset and length of a block within the chunk.
    pub fn block(&self, i: usize) -> (usize, usize) {
        let from = i * BLOCK;
        (from, (self.len as usize).saturating_sub(from).min(BLOCK))
    }
    /// Mask with one bit per block.
    pub fn mask(&self) -> u64 {
        match self.blocks() {
            n if n >= 64 => u64::MAX,
            n => (1 << n) - 1,
        }
    }
    fn decode(b: &[u8]) -> Option<Chunk> {
        let c = Chunk {
            pos: u64_at(b, 0)?,
            len: u32::from_le_bytes(b.get(8..12)?.try_into().ok()?),
        };
        let legal = c.len > 0
            && c.len as usize <= CHUNK
            && c.pos
                .checked_add(u64::from(c.len))
                .is_some_and(|e| i64::try_from(e).is_ok());
        legal.then_some(c)
    }
    fn encode(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.pos.to_le_bytes());
        out.extend_from_slice(&self.len.to_le_bytes());
    }
}

fn u64_at(b: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(b.get(at..at + 8)?.try_into().ok()?))
}

/// Client's view of a chunk.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Check {
    /// Where.
    pub chunk: Chunk,
    /// Blocks that contain only zeros.
    pub zero: u64,
    /// Digests of the others, in order.
    pub digests: Vec<[u8; DIGEST]>,
}

impl Check {
    /// Body of the frame.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(CHECK_HEAD + self.digests.len() * DIGEST);
        self.chunk.encode(&mut out);
        out.extend_from_slice(&self.zero.to_le_bytes());
        for d in &self.digests {
            out.extend_from_slice(d);
        }
        out
    }
    /// Checked: lengths and masks fit together.
    pub fn decode(b: &[u8]) -> Option<Check> {
        let chunk = Chunk::decode(b)?;
        let zero = u64_at(b, 12)?;
        let digests = b.get(CHECK_HEAD..)?;
        let count = (chunk.mask() & !zero).count_ones() as usize;
        if zero & !chunk.mask() != 0 || digests.len() != count * DIGEST {
            return None;
        }
        let digests = digests
            .chunks_exact(DIGEST)
            .filter_map(|d| d.try_into().ok())
            .collect();
        Some(Check {
            chunk,
            zero,
            digests,
        })
    }
}

/// Server's answer, without the content that follows it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Answer {
    /// Where.
    pub chunk: Chunk,
    /// Blocks that differ.
    pub different: u64,
    /// Those of them that contain only zeros at the source.
    pub zero: u64,
}

impl Answer {
    /// Head of the body; `content` follows.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(RESULT_HEAD);
        self.chunk.encode(&mut out);
        out.extend_from_slice(&self.different.to_le_bytes());
        out.extend_from_slice(&self.zero.to_le_bytes());
        out
    }
    /// Checked: masks fit, and the body has exactly the content that they announce.
    pub fn decode(b: &[u8]) -> Option<(Answer, &[u8])> {
        let a = Answer {
            chunk: Chunk::decode(b)?,
            different: u64_at(b, 12)?,
            zero: u64_at(b, 20)?,
        };
        let content = b.get(RESULT_HEAD..)?;
        let fits = a.different & !a.chunk.mask() == 0 && a.zero & !a.different == 0;
        (fits && content.len() == a.content_len()).then_some((a, content))
    }
    /// Blocks whose content is sent.
    pub fn sent(&self) -> impl Iterator<Item = usize> {
        bits(self.different & !self.zero)
    }
    fn content_len(&self) -> usize {
        self.sent().map(|i| self.chunk.block(i).1).sum()
    }
}

/// Numbers of the bits that are set.
pub fn bits(mask: u64) -> impl Iterator<Item = usize> {
    (0..CHUNK_BLOCKS).filter(move |i| mask >> i & 1 != 0)
}

/// Text from a peer, made harmless for the journal.
pub fn text(b: &[u8]) -> String {
    String::from_utf8_lossy(b)
        .chars()
        .filter(|c| !c.is_control())
        .take(200)
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    fn chunk() -> impl Strategy<Value = Chunk> {
        (0u64..1 << 50, 1u32..=CHUNK as u32).prop_map(|(pos, len)| Chunk { pos, len })
    }

    #[test]
    fn golden_bytes() {
        let c = Check {
            chunk: Chunk {
                pos: 4 << 20,
                len: 65_536 + 512,
            },
            zero: 0b10,
            digests: vec![[7; 32]],
        };
        let mut want = b"\0\0\x40\0\0\0\0\0\0\x02\x01\0\x02\0\0\0\0\0\0\0".to_vec();
        want.extend_from_slice(&[7; 32]);
        assert_eq!(c.encode(), want);
    }

    #[test]
    fn short_last_block_is_counted() {
        let c = Chunk::at(0, 65_536 + 512);
        assert_eq!((c.blocks(), c.mask()), (2, 3));
        assert_eq!(c.block(1), (65_536, 512));
        assert_eq!(Chunk::at(0, 100 << 20).mask(), u64::MAX);
        assert_eq!(Chunk::at(96 << 20, 100 << 20).len as usize, CHUNK);
    }

    #[test]
    fn illegal_chunks_are_refused() {
        let body = |pos: u64, len: u32| {
            let mut b = Vec::new();
            Chunk { pos, len }.encode(&mut b);
            b.extend_from_slice(&[0xff; 8]);
            b
        };
        for (pos, len) in [
            (0, 0),
            (0, CHUNK as u32 + 1),
            (u64::MAX, 512),
            (i64::MAX as u64, 1),
        ] {
            assert_eq!(Check::decode(&body(pos, len)), None, "{pos} {len}");
        }
    }

    proptest! {
        #[test]
        fn check_round_trip(chunk in chunk(), zero in any::<u64>(), fill in any::<u8>()) {
            let zero = zero & chunk.mask();
            let n = (chunk.mask() & !zero).count_ones() as usize;
            let c = Check { chunk, zero, digests: vec![[fill; DIGEST]; n] };
            prop_assert!(c.encode().len() <= REQUEST_MAX);
            prop_assert_eq!(Check::decode(&c.encode()), Some(c));
        }
        #[test]
        fn answer_round_trip(chunk in chunk(), different in any::<u64>(), zero in any::<u64>()) {
            let different = different & chunk.mask();
            let a = Answer { chunk, different, zero: zero & different };
            let mut b = a.encode();
            b.resize(RESULT_HEAD + a.content_len(), 9);
            prop_assert!(b.len() <= ANSWER_MAX);
            let (back, content) = Answer::decode(&b).unwrap();
            prop_assert_eq!(back, a);
            prop_assert_eq!(content.len(), a.content_len());
            b.push(0);
            prop_assert_eq!(Answer::decode(&b), None);
        }
        #[test]
        fn any_input_is_survived(b in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Some(c) = Check::decode(&b) {
                prop_assert_eq!(c.encode(), b.clone());
            }
            let _ = Answer::decode(&b);
            text(&b);
        }
    }
}
