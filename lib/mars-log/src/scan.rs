//! The scanner: pure, bounded, stops where transaction-log.md 2.2 says.
use crate::codec::COMPRESSION_FLAGS;
use crate::compress::{MAX_UNPACKED, Unpacker, all_zero};
use crate::digest::{Sum, sum, sum_of_zeroes};
use crate::layout::*;
use crate::{Compression, Digest, OVERHEAD, Payload, Record};
use mars_tree::Stamp;
use std::fmt;

/// What the scanner may assume.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScanLimits {
    /// Size of the resource in bytes; a record that writes behind it is a defect. `None` = do not check.
    pub device_size: Option<u64>,
}

/// MARS-specific detail codes (transaction-log.md 2.3), as positive numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Detail(pub u16);

impl Detail {
    /// Unknown version, record flagged not valid, or (own addition) header check word wrong.
    pub const FORMAT: Detail = Detail(10003);
    /// total_len is zero.
    pub const ZERO: Detail = Detail(10004);
    /// total_len is negative.
    pub const NEGATIVE: Detail = Detail(10005);
    /// Record longer than the data.
    pub const BADLEN: Detail = Detail(10006);
    /// Record shorter than its overhead.
    pub const ADVANCE: Detail = Detail(10007);
    /// The trailer says not complete.
    pub const INCOMPL: Detail = Detail(10009);
    /// The number jumps forward.
    pub const SEQ_FW: Detail = Detail(10010);
    /// The number does not jump forward, but does not continue either. The original only notes it.
    pub const SEQ_BW: Detail = Detail(10011);
    /// Lengths contradict each other; own addition: the device position is impossible.
    pub const SIZE: Detail = Detail(10012);
    /// Not a record start.
    pub const MAGIC: Detail = Detail(10013);
    /// End magic is garbage.
    pub const MAGIC_BAD: Detail = Detail(10020);
    /// End magic is one repeated byte.
    pub const MAGIC_REPEATED: Detail = Detail(10021);
    /// No usable digest information.
    pub const CRC_FLAGS: Detail = Detail(10100);
    /// Digest wrong.
    pub const CRC_MISMATCH: Detail = Detail(10101);
    /// Decompression failed.
    pub const DECOMPR_FAIL: Detail = Detail(10150);
    /// l_len is negative.
    pub const DECOMPR_TOOBIG: Detail = Detail(10151);
    /// l_decompress_len implausible.
    pub const DECOMPR_BADLEN: Detail = Detail(10152);
}

/// Why scanning stopped: errno of the table in transaction-log.md 2.2 (negative) and detail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StopCode {
    /// -74, -85, -56, -11, ...
    pub errno: i32,
    /// 10002 ... 10152.
    pub detail: Option<Detail>,
    /// The repeated byte of detail 10021.
    pub repeated: Option<u8>,
}

/// Wire and disk format demand these numbers, whatever the platform calls them.
const EBADMSG: i32 = -74;
const ERESTART: i32 = -85;
const EBADRQC: i32 = -56;

impl fmt::Display for StopCode {
    /// As `replay-code` has it: `CODE`, `CODE,DETAIL` or `CODE,DETAIL,0xBB`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.errno)?;
        if let Some(Detail(d)) = self.detail {
            write!(f, ",-{d}")?;
            if let Some(b) = self.repeated {
                write!(f, ",{b:#04x}")?;
            }
        }
        Ok(())
    }
}

/// Result of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scan<'a> {
    /// A good record at the start of the given bytes.
    Record(Record<'a>),
    /// Fewer than 85 bytes left: end without error.
    End,
    /// The record is cut by the end of the given bytes (-11 / 10006): more bytes may help.
    Incomplete,
    /// Nothing behind this position may be applied.
    Stop(StopCode),
}

/// Why there is no record.
enum Not {
    End,
    Incomplete,
    Stop(StopCode),
}

impl From<StopCode> for Not {
    fn from(c: StopCode) -> Not {
        Not::Stop(c)
    }
}

const fn stop(errno: i32, detail: Detail) -> StopCode {
    StopCode {
        errno,
        detail: Some(detail),
        repeated: None,
    }
}

/// Most bytes that a search for a record behind a bad one checks in detail, so that a hostile file cannot keep it busy.
const SEARCH_WORK: usize = 64 << 20;

/// So many records may be missing without the space they took.
const SEARCH_SLACK: u64 = 32;

/// Remembers the sequence number between records of one run.
#[derive(Debug)]
pub struct Scanner {
    limits: ScanLimits,
    /// Number of the last good record; 0 = none.
    prev: u32,
    /// The next record is the first one of its file.
    first: bool,
    unpacker: Unpacker,
}

impl Clone for Scanner {
    fn clone(&self) -> Self {
        Scanner {
            limits: self.limits,
            prev: self.prev,
            first: self.first,
            unpacker: Unpacker::default(), // working memory only
        }
    }
}

impl Scanner {
    /// Starts at a record border; the first record may have any number.
    pub fn new(limits: ScanLimits) -> Scanner {
        Scanner {
            limits,
            prev: 0,
            first: false,
            unpacker: Unpacker::default(),
        }
    }

    /// Starts at the beginning of a file, where numbers begin with 1.
    pub fn new_file(limits: ScanLimits) -> Scanner {
        Scanner {
            first: true,
            ..Scanner::new(limits)
        }
    }

    /// Number of the last record returned; 0 when there was none.
    pub fn last_seq(&self) -> u32 {
        self.prev
    }

    /// Looks at the record at the start of `bytes`. Does not remember anything unless it returns a record.
    pub fn next<'a>(&mut self, bytes: &'a [u8]) -> Scan<'a> {
        match self.check(bytes) {
            Ok(r) => {
                (self.prev, self.first) = (r.seq, false);
                Scan::Record(r)
            }
            Err(Not::End) => Scan::End,
            Err(Not::Incomplete) => Scan::Incomplete,
            Err(Not::Stop(c)) => Scan::Stop(c),
        }
    }

    /// The checks of table 2.2 in their order, then the stricter ones of 2.6.
    fn check<'a>(&mut self, bytes: &'a [u8]) -> Result<Record<'a>, Not> {
        if bytes.len() <= OVERHEAD {
            return Err(Not::End);
        }
        let Some(header) = bytes.first_chunk::<HEADER>() else {
            return Err(Not::End);
        };
        let total_len = check_frame(header, bytes.len())?;
        let (body, trailer) = bytes[HEADER..total_len].split_at(total_len - OVERHEAD);
        let Some(trailer) = trailer.first_chunk::<TRAILER>() else {
            return Err(stop(EBADMSG, Detail::SIZE).into());
        };
        check_trailer(trailer)?;
        let seq = u32::from_le_bytes(array(trailer, T_SEQ));
        if seq != 0 && self.prev != 0 && u64::from(seq) > u64::from(self.prev) + 1 {
            return Err(stop(EBADMSG, Detail::SEQ_FW).into());
        }
        let payload = self.payload(header, body, trailer)?;
        let device_pos = self.check_meaning(header, payload.len(), seq)?;
        Ok(Record {
            total_len,
            device_pos,
            payload,
            stamp: Stamp::from_timespec(
                i64::from_le_bytes(array(header, H_SEC)),
                i64::from_le_bytes(array(header, H_NSEC)),
            ),
            seq,
            is_write: i16::from_le_bytes(array(header, H_CODE)) == CODE_WRITE,
        })
    }

    /// Rows 15 to 19: lengths, decompression, digest.
    fn payload<'a>(
        &mut self,
        header: &[u8; HEADER],
        body: &'a [u8],
        trailer: &[u8; TRAILER],
    ) -> Result<Payload<'a>, StopCode> {
        let stored = i16::from_le_bytes(array(header, H_LEN));
        let unpacked = i16::from_le_bytes(array(header, H_UNPACKED_LEN));
        if unpacked != 0
            && (unpacked < 0
                || unpacked <= stored
                || unpacked % 512 != 0
                || unpacked.unsigned_abs() as usize > MAX_UNPACKED)
        {
            return Err(stop(EBADMSG, Detail::DECOMPR_BADLEN));
        }
        let Ok(stored) = usize::try_from(stored) else {
            return Err(stop(EBADMSG, Detail::DECOMPR_TOOBIG));
        };
        // Not in the table: the original would read its own trailer as payload, or nothing.
        let data = match body.get(..stored) {
            Some(d) if !d.is_empty() => d,
            _ => return Err(stop(EBADMSG, Detail::SIZE)),
        };
        let flags = u16::from_le_bytes(array(trailer, T_FLAGS));
        let stored_sum = Sum {
            old: array(trailer, T_OLD_CHECKSUM),
            folded: array(trailer, T_DIGEST),
        };
        let digest = digest_of(flags, &stored_sum);
        let Some(c) = compression_of(flags)?.filter(|_| unpacked > 0) else {
            compare(stored_sum, digest?, |d| sum(d, data))?;
            return Ok(Payload::Plain(data));
        };
        let unpacked = usize::from(unpacked.unsigned_abs());
        let Some(out) = self.unpacker.unpack(c, data, unpacked) else {
            return Err(stop(EBADMSG, Detail::DECOMPR_FAIL));
        };
        if all_zero(out) {
            compare(stored_sum, digest?, |d| sum_of_zeroes(d, unpacked))?;
            return Ok(Payload::Zeroes(unpacked));
        }
        compare(stored_sum, digest?, |d| sum(d, out))?;
        Ok(Payload::Unpacked(out.to_vec()))
    }

    /// What the table does not check (transaction-log.md 2.6 and 6.3). Last, so that every record that the original
    /// refuses too is refused with the original's code.
    fn check_meaning(&self, header: &[u8; HEADER], len: usize, seq: u32) -> Result<u64, StopCode> {
        if has_check_word(header) {
            if !check_word_fits(header) {
                return Err(stop(EBADMSG, Detail::FORMAT));
            }
            // Writers of check words count without exception: a sound record that stands here once more, or instead of another, would
            // put old data over newer ones.
            if (self.first || self.prev != 0) && seq != self.prev.wrapping_add(1) {
                return Err(stop(EBADMSG, Detail::SEQ_BW));
            }
        }
        // Nobody writes code 0 ("unknown"). It is what a power cut leaves of a record whose header crosses a border of sectors: with a payload of zeros
        // its digest would still fit, and the record would be passed over as one that is no write, while those behind it are applied.
        if array(header, H_CODE) == [0, 0] {
            return Err(stop(EBADMSG, Detail::FORMAT));
        }
        let size = stop(EBADMSG, Detail::SIZE);
        let pos = u64::try_from(i64::from_le_bytes(array(header, H_POS))).map_err(|_| size)?;
        if !pos.is_multiple_of(512) {
            return Err(size);
        }
        // A file offset must be able to name the end too.
        let end = pos + len as u64;
        if end > i64::MAX.unsigned_abs() || self.limits.device_size.is_some_and(|s| end > s) {
            return Err(size);
        }
        Ok(pos)
    }

    /// Does a valid record with a fitting number stand anywhere in `bytes`? (Tells corruption from a torn tail, transaction-log.md 2.6.)
    ///
    /// `bytes` start where the scan stopped; a sound record right there was refused for what it says (number, position), so
    /// it is no torn tail either. Fitting = greater than the last good number by hardly more than so many bytes can hold. Where the header check word vouches for the length of the bad record, its inside is not searched: a payload
    /// may well contain records (an image of another log).
    pub fn valid_record_follows(&self, bytes: &[u8]) -> bool {
        let mut probe = Scanner::new(ScanLimits::default());
        // Without a number it may have been torn off in its number.
        if matches!(probe.next(bytes), Scan::Record(r) if r.seq != 0 || self.prev == 0) {
            return true;
        }
        let mut at = trusted_len(bytes).unwrap_or(1);
        let mut work = 0;
        while let Some(rest) = bytes.get(at..) {
            let Some(found) = find_start(rest) else {
                return false;
            };
            at += found;
            let candidate = &bytes[at..];
            if self.number_fits(candidate, at) {
                work += candidate.len().min(MAX_TOTAL);
                probe.prev = 0;
                if matches!(probe.next(candidate), Scan::Record(_)) || work > SEARCH_WORK {
                    // A file that is made to keep us busy is no torn tail either.
                    return true;
                }
            }
            at += 1;
        }
        false
    }

    /// Cheap test of a candidate `at` bytes behind the stop: frame sound, number possible at that distance.
    fn number_fits(&self, candidate: &[u8], at: usize) -> bool {
        let Some(header) = candidate.first_chunk::<HEADER>() else {
            return false;
        };
        let Ok(total) = check_frame(header, candidate.len()) else {
            return false;
        };
        let Some(trailer) = candidate[total - TRAILER..].first_chunk::<TRAILER>() else {
            return false;
        };
        if check_trailer(trailer).is_err() {
            return false;
        }
        let seq = u64::from(u32::from_le_bytes(array(trailer, T_SEQ)));
        let prev = u64::from(self.prev);
        let reach = SEARCH_SLACK + (at / (OVERHEAD + 1)) as u64;
        prev == 0 || seq == 0 || (seq > prev && seq <= prev + reach)
    }
}

/// `N` bytes at a constant offset.
fn array<const N: usize, const M: usize>(bytes: &[u8; M], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

/// Rows 2 to 8: the header of a record with `available` bytes (at least 85) from its start on. Returns total_len, which
/// is within `OVERHEAD + 1 ..= available`.
fn check_frame(header: &[u8; HEADER], available: usize) -> Result<usize, Not> {
    if array(header, 0) != START_MAGIC {
        return Err(stop(EBADMSG, Detail::MAGIC).into());
    }
    if header[H_VERSION] != VERSION {
        return Err(stop(EBADMSG, Detail::FORMAT).into());
    }
    if header[H_VALID] == 0 {
        // The original wants to see a little more before it calls this damaged.
        return Err(if available < OVERHEAD + 8 {
            Not::Incomplete
        } else {
            stop(EBADMSG, Detail::FORMAT).into()
        });
    }
    let total = i16::from_le_bytes(array(header, H_TOTAL_LEN));
    if total == 0 {
        return Err(stop(ERESTART, Detail::ZERO).into());
    }
    let Ok(total) = usize::try_from(total) else {
        return Err(stop(EBADMSG, Detail::NEGATIVE).into());
    };
    if total > available {
        return Err(Not::Incomplete);
    }
    if total <= OVERHEAD {
        return Err(stop(ERESTART, Detail::ADVANCE).into());
    }
    Ok(total)
}

/// Rows 9 to 12.
fn check_trailer(trailer: &[u8; TRAILER]) -> Result<(), StopCode> {
    let magic: [u8; 8] = array(trailer, 0);
    if magic != END_MAGIC {
        return Err(if magic == [0; 8] {
            StopCode {
                errno: ERESTART,
                detail: None,
                repeated: None,
            }
        } else if magic == [magic[0]; 8] {
            StopCode {
                repeated: Some(magic[0]),
                ..stop(EBADMSG, Detail::MAGIC_REPEATED)
            }
        } else {
            stop(EBADRQC, Detail::MAGIC_BAD)
        });
    }
    if trailer[T_VALID] != 1 {
        return Err(stop(EBADMSG, Detail::INCOMPL));
    }
    Ok(())
}

/// Which digest the record uses. Judged before, reported after the decompression, as the table orders it.
fn digest_of(flags: u16, stored: &Sum) -> Result<Digest, StopCode> {
    let bits = flags & !COMPRESSION_FLAGS;
    match Digest::BY_PREFERENCE.into_iter().find(|d| d.flag() == bits) {
        Some(d) => Ok(d),
        // Records of much older releases name no digest.
        None if bits == 0 && stored.old != [0; 4] => Ok(Digest::Md5Old),
        // None, several, or one that we do not know.
        None => Err(stop(EBADMSG, Detail::CRC_FLAGS)),
    }
}

/// Which compression the record names; several or an unknown one cannot be undone.
fn compression_of(flags: u16) -> Result<Option<Compression>, StopCode> {
    let bits = flags & COMPRESSION_FLAGS;
    let unknown = flags & 0xff00 & !COMPRESSION_FLAGS;
    let c = Compression::BY_PREFERENCE
        .into_iter()
        .find(|c| c.flag() == bits);
    if unknown != 0 || (c.is_none() && bits != 0) {
        return Err(stop(EBADMSG, Detail::DECOMPR_FAIL));
    }
    Ok(c)
}

/// Row 19. No second try with another digest (transaction-log.md 2.4); the field of the other kind is ignored.
fn compare(stored: Sum, digest: Digest, actual: impl Fn(Digest) -> Sum) -> Result<(), StopCode> {
    let actual = actual(digest);
    let same = if digest == Digest::Md5Old {
        stored.old == actual.old
    } else {
        stored.folded == actual.folded
    };
    if same {
        Ok(())
    } else {
        Err(stop(EBADMSG, Detail::CRC_MISMATCH))
    }
}

fn has_check_word(header: &[u8; HEADER]) -> bool {
    u16::from_le_bytes(array(header, H_MARKER)) == HEADER_CHECK_MARKER
}

fn check_word_fits(header: &[u8; HEADER]) -> bool {
    let words = std::array::from_fn(|i| u64::from_le_bytes(array(header, 8 * i)));
    let code = u16::from_le_bytes(array(header, H_CODE));
    u32::from_le_bytes(array(header, H_CHECK)) == header_check(&words, code)
}

/// Length of the record at the start of `bytes` if its header check word proves it; may reach behind `bytes`.
fn trusted_len(bytes: &[u8]) -> Option<usize> {
    let header = bytes.first_chunk::<HEADER>()?;
    if !has_check_word(header) || !check_word_fits(header) {
        return None;
    }
    check_frame(header, usize::MAX).ok()
}

/// Offset of the next start magic.
fn find_start(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        let i = at + bytes.get(at..)?.iter().position(|b| *b == START_MAGIC[0])?;
        if bytes[i..].starts_with(&START_MAGIC) {
            return Some(i);
        }
        at = i + 1;
    }
}
