//! Offsets of the version-1 record (transaction-log.md 1.2 and 1.4). All integers are little-endian.

/// First eight bytes of a record, as they stand in the file.
pub(crate) const START_MAGIC: [u8; 8] = 0xA8F7_E908_D917_7957_u64.to_le_bytes();
/// First eight bytes of the trailer.
pub(crate) const END_MAGIC: [u8; 8] = 0x7494_1FB7_4AB5_726D_u64.to_le_bytes();
/// The only version that exists.
pub(crate) const VERSION: u8 = 1;
/// `l_code` of new data.
pub(crate) const CODE_WRITE: i16 = 1;
/// Marker in the second spare: the first spare holds a check word over the header.
pub(crate) const HEADER_CHECK_MARKER: u16 = 0x4843;

/// Bytes of the header.
pub(crate) const HEADER: usize = 48;
/// Bytes of the trailer.
pub(crate) const TRAILER: usize = 36;
/// `total_len` is an i16.
pub(crate) const MAX_TOTAL: usize = 32767;

pub(crate) const H_VERSION: usize = 8;
pub(crate) const H_VALID: usize = 9;
pub(crate) const H_TOTAL_LEN: usize = 10;
pub(crate) const H_SEC: usize = 12;
pub(crate) const H_NSEC: usize = 20;
pub(crate) const H_POS: usize = 28;
pub(crate) const H_LEN: usize = 36;
pub(crate) const H_UNPACKED_LEN: usize = 38;
pub(crate) const H_CHECK: usize = 40;
pub(crate) const H_CODE: usize = 44;
pub(crate) const H_MARKER: usize = 46;

pub(crate) const T_OLD_CHECKSUM: usize = 8;
pub(crate) const T_VALID: usize = 12;
pub(crate) const T_FLAGS: usize = 14;
pub(crate) const T_SEQ: usize = 16;
pub(crate) const T_DIGEST: usize = 20;

/// Next multiple of 8.
pub(crate) const fn roundup8(n: usize) -> usize {
    (n + 7) & !7
}

/// CRC32C over the header without its spares: bytes 0..=39 and 44..=45 (transaction-log.md 6.3). `words`: the first 40 bytes.
pub(crate) fn header_check(words: &[u64; H_CHECK / 8], code: u16) -> u32 {
    let mut covered = [0u8; H_CHECK + 2];
    for (to, w) in covered.chunks_exact_mut(8).zip(words) {
        to.copy_from_slice(&w.to_le_bytes());
    }
    covered[H_CHECK..].copy_from_slice(&code.to_le_bytes());
    crc_fast::crc32_iscsi(&covered)
}
