//! The NBD protocol on bytes: constants, request header, replies. No I/O.
//!
//! Source: the NetworkBlockDevice project's `doc/proto.md`. All integers are big-endian.

/// First magic of the handshake, "NBDMAGIC".
pub(crate) const MAGIC: u64 = 0x4e42_444d_4147_4943;
/// Second magic, also in front of each option, "IHAVEOPT".
pub(crate) const OPT_MAGIC: u64 = 0x4948_4156_454F_5054;
/// In front of each option reply.
pub(crate) const REP_MAGIC: u64 = 0x0003_e889_0455_65a9;

/// Handshake flag: fixed newstyle.
pub(crate) const FLAG_FIXED: u16 = 1;
/// Handshake flag: no 124 zeros after `NBD_OPT_EXPORT_NAME`.
pub(crate) const FLAG_NO_ZEROES: u16 = 2;

pub(crate) const OPT_EXPORT_NAME: u32 = 1;
pub(crate) const OPT_ABORT: u32 = 2;
pub(crate) const OPT_LIST: u32 = 3;
pub(crate) const OPT_INFO: u32 = 6;
pub(crate) const OPT_GO: u32 = 7;
pub(crate) const OPT_STRUCTURED_REPLY: u32 = 8;

pub(crate) const REP_ACK: u32 = 1;
pub(crate) const REP_SERVER: u32 = 2;
pub(crate) const REP_INFO: u32 = 3;
pub(crate) const REP_ERR_UNSUP: u32 = (1 << 31) + 1;
pub(crate) const REP_ERR_INVALID: u32 = (1 << 31) + 3;
pub(crate) const REP_ERR_UNKNOWN: u32 = (1 << 31) + 6;
pub(crate) const REP_ERR_SHUTDOWN: u32 = (1 << 31) + 7;
pub(crate) const REP_ERR_TOO_BIG: u32 = (1 << 31) + 9;

pub(crate) const INFO_EXPORT: u16 = 0;
pub(crate) const INFO_NAME: u16 = 1;
pub(crate) const INFO_BLOCK_SIZE: u16 = 3;

const TF_HAS_FLAGS: u16 = 1 << 0;
const TF_SEND_FLUSH: u16 = 1 << 2;
const TF_SEND_FUA: u16 = 1 << 3;
const TF_SEND_TRIM: u16 = 1 << 5;
const TF_SEND_WRITE_ZEROES: u16 = 1 << 6;
const TF_SEND_DF: u16 = 1 << 7;
const TF_CAN_MULTI_CONN: u16 = 1 << 8;
const TF_SEND_CACHE: u16 = 1 << 10;

/// Smallest block, the sector.
pub(crate) const BLOCK_MIN: u32 = 512;
/// Preferred block.
pub(crate) const BLOCK_PREFERRED: u32 = 4096;
/// Largest payload of one request.
pub(crate) const BLOCK_MAX: u32 = 32 << 20;

/// What the export can do. `DF` has a meaning only with structured replies.
pub(crate) fn transmission_flags(structured: bool) -> u16 {
    let always = TF_HAS_FLAGS
        | TF_SEND_FLUSH
        | TF_SEND_FUA
        | TF_SEND_TRIM
        | TF_SEND_WRITE_ZEROES
        | TF_CAN_MULTI_CONN
        | TF_SEND_CACHE;
    if structured {
        always | TF_SEND_DF
    } else {
        always
    }
}

const REQUEST_MAGIC: u32 = 0x2560_9513;
const SIMPLE_REPLY_MAGIC: u32 = 0x6744_6698;
const STRUCTURED_REPLY_MAGIC: u32 = 0x668e_33ef;
const CHUNK_DONE: u16 = 1;
const CHUNK_NONE: u16 = 0;
const CHUNK_OFFSET_DATA: u16 = 1;
const CHUNK_ERROR: u16 = (1 << 15) + 1;

pub(crate) const CMD_READ: u16 = 0;
pub(crate) const CMD_WRITE: u16 = 1;
pub(crate) const CMD_DISC: u16 = 2;
pub(crate) const CMD_FLUSH: u16 = 3;
pub(crate) const CMD_TRIM: u16 = 4;
pub(crate) const CMD_CACHE: u16 = 5;
pub(crate) const CMD_WRITE_ZEROES: u16 = 6;

pub(crate) const CF_FUA: u16 = 1 << 0;
const CF_NO_HOLE: u16 = 1 << 1;
const CF_DF: u16 = 1 << 2;
const CF_FAST_ZERO: u16 = 1 << 4;

/// Bytes of a request header.
pub(crate) const REQUEST_LEN: usize = 28;
/// Bytes in front of the data of a successful read, the larger of both reply kinds.
pub(crate) const READ_HEADER_MAX: usize = 28;

/// A request header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) flags: u16,
    pub(crate) cmd: u16,
    pub(crate) cookie: u64,
    pub(crate) pos: u64,
    pub(crate) len: u32,
}

/// What a request is after all checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Read,
    Write,
    Zero,
    Flush,
    /// Nothing to do, answered with success.
    Nothing,
    Disconnect,
    /// Answered with this errno.
    Refuse(i32),
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

impl Request {
    /// From the first [`REQUEST_LEN`] bytes; `None` when the magic is wrong (the stream cannot be trusted any more).
    pub(crate) fn parse(b: &[u8]) -> Option<Request> {
        if u32::from_be_bytes(array(b, 0)?) != REQUEST_MAGIC {
            return None;
        }
        Some(Request {
            flags: u16::from_be_bytes(array(b, 4)?),
            cmd: u16::from_be_bytes(array(b, 6)?),
            cookie: u64::from_be_bytes(array(b, 8)?),
            pos: u64::from_be_bytes(array(b, 16)?),
            len: u32::from_be_bytes(array(b, 24)?),
        })
    }

    pub(crate) fn fua(&self) -> bool {
        self.flags & CF_FUA != 0
    }

    /// Checks the request against the device and says what to do.
    pub(crate) fn check(&self, size: u64, structured: bool) -> Action {
        // FUA is valid with every command and ignored where it has no effect.
        let allowed = match self.cmd {
            CMD_READ if structured => CF_FUA | CF_DF,
            CMD_WRITE_ZEROES => CF_FUA | CF_NO_HOLE | CF_FAST_ZERO,
            _ => CF_FUA,
        };
        if self.cmd == CMD_DISC {
            return Action::Disconnect;
        }
        if self.flags & !allowed != 0 {
            return Action::Refuse(libc::EINVAL);
        }
        if self.cmd == CMD_WRITE_ZEROES && self.flags & CF_FAST_ZERO != 0 {
            // Not advertised: zeros travel through the log like data.
            return Action::Refuse(libc::ENOTSUP);
        }
        if self.cmd == CMD_FLUSH {
            let plain = self.pos == 0 && self.len == 0;
            return if plain {
                Action::Flush
            } else {
                Action::Refuse(libc::EINVAL)
            };
        }
        let (action, behind_end) = match self.cmd {
            CMD_READ => (Action::Read, libc::EINVAL),
            CMD_WRITE => (Action::Write, libc::ENOSPC),
            CMD_WRITE_ZEROES => (Action::Zero, libc::ENOSPC),
            CMD_TRIM => (Action::Zero, libc::EINVAL),
            CMD_CACHE => (Action::Nothing, libc::EINVAL),
            _ => return Action::Refuse(libc::EINVAL),
        };
        let sector = u64::from(BLOCK_MIN);
        if !self.pos.is_multiple_of(sector) || !u64::from(self.len).is_multiple_of(sector) {
            return Action::Refuse(libc::EINVAL);
        }
        if matches!(action, Action::Read | Action::Write) && self.len > BLOCK_MAX {
            // EOVERFLOW is reserved for answers that would have to be fragmented against the client's wish.
            let df = self.flags & CF_DF != 0;
            return Action::Refuse(if df { libc::EOVERFLOW } else { libc::EINVAL });
        }
        match self.pos.checked_add(u64::from(self.len)) {
            Some(end) if end <= size => {}
            _ => return Action::Refuse(behind_end),
        }
        if self.len == 0 && action != Action::Read {
            return Action::Nothing;
        }
        action
    }
}

/// Maps an errno to the values that the protocol knows.
pub(crate) fn wire_error(errno: i32) -> u32 {
    match errno {
        libc::EPERM | libc::EROFS => 1,
        libc::ENOMEM => 12,
        libc::EINVAL => 22,
        libc::ENOSPC | libc::EDQUOT | libc::EFBIG => 28,
        libc::EOVERFLOW => 75,
        libc::ENOTSUP => 95,
        libc::ESHUTDOWN => 108,
        _ => 5,
    }
}

/// Error value on the wire of a result; 0 is success.
pub(crate) fn result_error(result: Result<(), i32>) -> u32 {
    result.err().map_or(0, wire_error)
}

/// A simple reply without data.
pub(crate) fn simple_reply(cookie: u64, error: u32) -> [u8; 16] {
    let mut b = [0; 16];
    b[..4].copy_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
    b[4..8].copy_from_slice(&error.to_be_bytes());
    b[8..].copy_from_slice(&cookie.to_be_bytes());
    b
}

fn chunk(kind: u16, cookie: u64, len: u32) -> [u8; 20] {
    let mut b = [0; 20];
    b[..4].copy_from_slice(&STRUCTURED_REPLY_MAGIC.to_be_bytes());
    b[4..6].copy_from_slice(&CHUNK_DONE.to_be_bytes());
    b[6..8].copy_from_slice(&kind.to_be_bytes());
    b[8..16].copy_from_slice(&cookie.to_be_bytes());
    b[16..].copy_from_slice(&len.to_be_bytes());
    b
}

/// How long the header of a successful read's reply is.
pub(crate) fn read_header_len(structured: bool) -> usize {
    if structured { READ_HEADER_MAX } else { 16 }
}

/// Writes the header of a successful read into `out`, which has [`read_header_len`] bytes. The data follows it.
pub(crate) fn read_header(out: &mut [u8], structured: bool, req: &Request) {
    if structured {
        // 8 bytes of offset belong to the chunk's payload. No overflow: len is at most BLOCK_MAX.
        out[..20].copy_from_slice(&chunk(CHUNK_OFFSET_DATA, req.cookie, req.len + 8));
        out[20..28].copy_from_slice(&req.pos.to_be_bytes());
    } else {
        out[..16].copy_from_slice(&simple_reply(req.cookie, 0));
    }
}

/// Appends the answer to a read that failed, or (error 0) that asked for nothing.
pub(crate) fn read_no_data(structured: bool, cookie: u64, error: u32, mut put: impl FnMut(&[u8])) {
    match (structured, error) {
        (false, _) => put(&simple_reply(cookie, error)),
        (true, 0) => put(&chunk(CHUNK_NONE, cookie, 0)),
        (true, _) => {
            put(&chunk(CHUNK_ERROR, cookie, 6));
            put(&error.to_be_bytes());
            put(&[0, 0]);
        }
    }
}
