//! Records: layout and encoding (transaction-log.md 1.2 to 1.4, header check word of 6.3).
use crate::compress::{MAX_UNPACKED, pack};
use crate::digest::{Sum, sum, sum_of_zeroes};
use crate::layout::*;
use crate::{Compression, Digest, zeroes};
use mars_tree::Stamp;

/// Bytes of header and trailer.
pub const OVERHEAD: usize = 84;
/// Largest payload that MARS 0.1a writes and always tolerates.
pub const MAX_PAYLOAD_V1: usize = 4096;
/// Largest multiple of 512 that one compressed record may expand to.
pub const MAX_ZERO_RECORD: usize = 32256;

/// How to encode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EncodeOptions {
    /// Digest, CRC32C by default.
    pub digest: Digest,
    /// Compression, none by default. LZO cannot be written and means none.
    pub compression: Option<Compression>,
    /// zlib level 1..=9, default 3.
    pub zlib_level: u32,
    /// Header check word, on by default.
    pub header_check: bool,
}

impl Default for EncodeOptions {
    fn default() -> Self {
        EncodeOptions {
            digest: Digest::Crc32c,
            compression: None,
            zlib_level: 3,
            header_check: true,
        }
    }
}

/// Content of a record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Payload<'a> {
    /// Bytes as they stand in the log.
    Plain(&'a [u8]),
    /// Decompressed bytes.
    Unpacked(Vec<u8>),
    /// That many zero bytes (a decompressed record that contains only zeros).
    Zeroes(usize),
}

impl Payload<'_> {
    /// Bytes on the device. A multiple of 512 in every record that a correct writer made; the format itself does not
    /// demand it of plain records, so whoever applies a record must check.
    pub fn len(&self) -> usize {
        match self {
            Payload::Plain(b) => b.len(),
            Payload::Unpacked(b) => b.len(),
            Payload::Zeroes(n) => *n,
        }
    }
    /// Never true for a record that the scanner accepted.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A checked record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record<'a> {
    /// Bytes in the log, padding included.
    pub total_len: usize,
    /// Byte offset on the device.
    pub device_pos: u64,
    /// Content.
    pub payload: Payload<'a>,
    /// Stamp of acceptance.
    pub stamp: Stamp,
    /// Sequence number in the file.
    pub seq: u32,
    /// True for code 1; other codes are skipped by replay.
    pub is_write: bool,
}

/// The variable part of a header.
struct Header {
    total_len: usize,
    stored_len: usize,
    unpacked_len: usize,
    device_pos: u64,
    stamp: Stamp,
}

impl Header {
    /// In whole words that are put together in registers: bytes that were just stored one by one could be loaded again only after everything
    /// stored before, the whole payload of the record before, has reached the cache.
    fn words(&self, check: bool) -> [[u8; 8]; HEADER / 8] {
        // The callers keep all lengths within i16 and positions within i64.
        let (sec, nsec) = (self.stamp.secs(), u64::from(self.stamp.subsec_nanos()));
        let pos = self.device_pos;
        let half = |n: usize| u64::from(n as u16);
        let words: [u64; 5] = [
            u64::from_le_bytes(START_MAGIC),
            u64::from(VERSION) | 1 << 8 | half(self.total_len) << 16 | sec << 32,
            sec >> 32 | nsec << 32,
            nsec >> 32 | pos << 32,
            pos >> 32 | half(self.stored_len) << 32 | half(self.unpacked_len) << 48,
        ];
        let code = CODE_WRITE.cast_unsigned();
        let mut last = u64::from(code) << 32;
        if check {
            let word = header_check(&words, code);
            last |= u64::from(word) | u64::from(HEADER_CHECK_MARKER) << 48;
        }
        let [a, b, c, d, e] = words;
        [a, b, c, d, e, last].map(u64::to_le_bytes)
    }
}

/// Appends the trailer, in words for the same reason.
fn append_trailer(out: &mut Vec<u8>, flags: u16, seq: u32, sum: &Sum) {
    let middle = u64::from(u32::from_le_bytes(sum.old)) | 1 << 32 | u64::from(flags) << 48;
    out.extend_from_slice(&END_MAGIC);
    out.extend_from_slice(&middle.to_le_bytes());
    out.extend_from_slice(&seq.to_le_bytes());
    out.extend_from_slice(&sum.folded);
}

/// Appends one record to `out` and returns its length in the log. `payload`: 512 ..= 4096 bytes for logs that MARS 0.1a may
/// read, up to 32256 otherwise; a multiple of 512.
///
/// Returns 0 and appends nothing when the format cannot hold it: empty, more than 32683 bytes, range beyond `i64::MAX`.
#[must_use = "0 means that nothing was encoded"]
pub fn encode_write(
    out: &mut Vec<u8>,
    device_pos: u64,
    payload: &[u8],
    stamp: Stamp,
    seq: u32,
    opts: &EncodeOptions,
) -> usize {
    if payload.is_empty()
        || payload.len() > MAX_TOTAL - OVERHEAD
        || !position_fits(device_pos, payload.len())
    {
        return 0;
    }
    if let Some(c) = opts.compression
        && let Some(n) = encode_packed(out, device_pos, payload, stamp, seq, opts, c)
    {
        return n;
    }
    let total_len = OVERHEAD + payload.len();
    let header = Header {
        total_len,
        stored_len: payload.len(),
        unpacked_len: 0,
        device_pos,
        stamp,
    };
    // One reservation, then each byte is written once.
    out.reserve(total_len);
    for word in header.words(opts.header_check) {
        out.extend_from_slice(&word);
    }
    out.extend_from_slice(payload);
    let s = sum(opts.digest, payload);
    append_trailer(out, opts.digest.flag(), seq, &s);
    total_len
}

/// Can a signed file offset name both ends of the range?
fn position_fits(device_pos: u64, len: usize) -> bool {
    device_pos <= i64::MAX.unsigned_abs() - len as u64
}

/// The compressed form, `None` when it does not pay or readers would refuse it.
fn encode_packed(
    out: &mut Vec<u8>,
    device_pos: u64,
    payload: &[u8],
    stamp: Stamp,
    seq: u32,
    opts: &EncodeOptions,
    c: Compression,
) -> Option<usize> {
    if !c.is_writable() || !payload.len().is_multiple_of(512) || payload.len() > MAX_UNPACKED {
        return None;
    }
    let start = out.len();
    out.extend_from_slice(&[0; HEADER]);
    let Some(stored_len) = pack(c, opts.zlib_level, payload, out) else {
        out.truncate(start);
        return None;
    };
    let header = Header {
        total_len: OVERHEAD + roundup8(stored_len),
        stored_len,
        unpacked_len: payload.len(),
        device_pos,
        stamp,
    };
    let s = sum(opts.digest, payload);
    Some(finish_packed(out, start, &header, opts, c, seq, &s))
}

/// Appends one LZ4-compressed record of `len` zero bytes (a multiple of 512, at most [`MAX_ZERO_RECORD`]) and returns its
/// length in the log. Write-zeroes and discard are logged this way (transaction-log.md 6.3).
///
/// Returns 0 and appends nothing when `len` or the position is out of range.
#[must_use = "0 means that nothing was encoded"]
pub fn encode_zeroes(
    out: &mut Vec<u8>,
    device_pos: u64,
    len: usize,
    stamp: Stamp,
    seq: u32,
    opts: &EncodeOptions,
) -> usize {
    if len == 0
        || len > MAX_ZERO_RECORD
        || !len.is_multiple_of(512)
        || !position_fits(device_pos, len)
    {
        return 0;
    }
    let start = out.len();
    out.extend_from_slice(&[0; HEADER]);
    zeroes::pack_lz4(len, out);
    let stored_len = out.len() - start - HEADER;
    let header = Header {
        total_len: OVERHEAD + roundup8(stored_len),
        stored_len,
        unpacked_len: len,
        device_pos,
        stamp,
    };
    let s = sum_of_zeroes(opts.digest, len);
    finish_packed(out, start, &header, opts, Compression::Lz4, seq, &s)
}

/// Pads the compressed bytes at the end of `out`, fills in the header at `start`, appends the trailer.
fn finish_packed(
    out: &mut Vec<u8>,
    start: usize,
    header: &Header,
    opts: &EncodeOptions,
    c: Compression,
    seq: u32,
    s: &Sum,
) -> usize {
    let words = header.words(opts.header_check);
    out[start..start + HEADER].copy_from_slice(words.as_flattened());
    out.resize(start + header.total_len - TRAILER, 0);
    append_trailer(out, opts.digest.flag() | c.flag(), seq, s);
    header.total_len
}
