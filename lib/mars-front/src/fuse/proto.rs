//! What the kernel says on `/dev/fuse` and what it is answered: pure encoding and decoding, native byte order (linux/fuse.h).
//!
//! Own code, and only what a file system with one file needs, because a connection must be continued by another process than the one that
//! opened it: without a second handshake, and with requests sent again. What INIT agreed on holds for the life of the connection, so a change
//! here that an older peer's INIT does not fit needs a new name in the store (`handover::NAME`).

/// Largest write or read, negotiated in INIT.
pub(crate) const REQUEST_MAX: u32 = 1 << 20;
/// Header of a request, and the largest fixed part before data.
const IN_HEADER: usize = 40;
const WRITE_IN: usize = 40;
/// What a reader must have room for.
pub(crate) const READ_BUFFER: usize = REQUEST_MAX as usize + 4096;
const OUT_HEADER: usize = 16;
/// Requests that the kernel may have open here; loop has 128.
const BACKGROUND: u16 = 256;
const MAJOR: u32 = 7;
/// The newest that is known here; the sizes of all answers below have been the same since 7.23.
const MINOR: u32 = 40;
/// Answers would have other sizes.
const MINOR_MIN: u32 = 23;

mod flag {
    pub(super) const ASYNC_READ: u64 = 1;
    pub(super) const BIG_WRITES: u64 = 1 << 5;
    /// Without it loop would wait for each request in turn.
    pub(super) const ASYNC_DIO: u64 = 1 << 15;
    pub(super) const MAX_PAGES: u64 = 1 << 22;
    pub(super) const INIT_EXT: u64 = 1 << 30;
    /// The kernel can send again what a dead process has read and not answered (Linux 6.9).
    pub(super) const HAS_RESEND: u64 = 1 << 39;
}
const WANTED: u64 = flag::ASYNC_READ
    | flag::BIG_WRITES
    | flag::ASYNC_DIO
    | flag::MAX_PAGES
    | flag::INIT_EXT
    | flag::HAS_RESEND;

/// A request of the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Request<'a> {
    /// Goes back with the answer.
    pub(crate) unique: u64,
    /// Inode.
    pub(crate) node: u64,
    pub(crate) op: Op<'a>,
}

/// What is asked for. Everything that is not here is answered with ENOSYS.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Op<'a> {
    Init {
        minor: u32,
        flags: u64,
    },
    Lookup(&'a [u8]),
    GetAttr,
    Open,
    Read {
        pos: u64,
        len: u32,
    },
    Write {
        pos: u64,
        data: &'a [u8],
    },
    Fsync,
    Fallocate {
        pos: u64,
        len: u64,
        mode: u32,
    },
    StatFs,
    Release,
    /// The file system goes away.
    Destroy,
    /// FORGET: there is no answer.
    Forget,
    Other,
}

/// The kernel never sends it; the connection is not usable any more.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Malformed;

fn u32_at(bytes: &[u8], at: usize) -> Result<u32, Malformed> {
    let part = bytes.get(at..).and_then(|b| b.first_chunk());
    part.map(|b| u32::from_ne_bytes(*b)).ok_or(Malformed)
}

fn u64_at(bytes: &[u8], at: usize) -> Result<u64, Malformed> {
    let part = bytes.get(at..).and_then(|b| b.first_chunk());
    part.map(|b| u64::from_ne_bytes(*b)).ok_or(Malformed)
}

/// Decodes one request, as one `read` gives it.
pub(crate) fn parse(bytes: &[u8]) -> Result<Request<'_>, Malformed> {
    if u32_at(bytes, 0)? as usize != bytes.len() || bytes.len() < IN_HEADER {
        return Err(Malformed);
    }
    let (unique, node) = (u64_at(bytes, 8)?, u64_at(bytes, 16)?);
    let body = &bytes[IN_HEADER..];
    let op = match u32_at(bytes, 4)? {
        1 => Op::Lookup(body.strip_suffix(&[0]).ok_or(Malformed)?),
        2 | 42 => Op::Forget,
        3 => Op::GetAttr,
        14 => Op::Open,
        15 => Op::Read {
            pos: u64_at(body, 8)?,
            len: u32_at(body, 16)?,
        },
        16 => {
            let data = body.get(WRITE_IN..).ok_or(Malformed)?;
            if u32_at(body, 16)? as usize != data.len() {
                return Err(Malformed);
            }
            Op::Write {
                pos: u64_at(body, 8)?,
                data,
            }
        }
        17 => Op::StatFs,
        18 => Op::Release,
        20 => Op::Fsync,
        26 => init(body)?,
        38 => Op::Destroy,
        43 => Op::Fallocate {
            pos: u64_at(body, 8)?,
            len: u64_at(body, 16)?,
            mode: u32_at(body, 24)?,
        },
        _ => Op::Other,
    };
    Ok(Request { unique, node, op })
}

fn init(body: &[u8]) -> Result<Op<'_>, Malformed> {
    let (major, minor) = (u32_at(body, 0)?, u32_at(body, 4)?);
    let low = u64::from(u32_at(body, 12)?);
    let high = match low & flag::INIT_EXT {
        0 => 0,
        _ => u64::from(u32_at(body, 16)?),
    };
    if major != MAJOR || minor < MINOR_MIN {
        return Err(Malformed);
    }
    Ok(Op::Init {
        minor,
        flags: low | high << 32,
    })
}

/// Whether the kernel of this INIT can send requests again.
pub(crate) fn can_resend(flags: u64) -> bool {
    flags & flag::HAS_RESEND != 0
}

/// Header of an answer with a body of `len` bytes; `errno` is positive, 0 = success.
pub(crate) fn header(unique: u64, errno: i32, len: usize) -> [u8; OUT_HEADER] {
    // At most REQUEST_MAX and a header.
    let total = (OUT_HEADER + len) as u32;
    let mut out = [0; OUT_HEADER];
    out[..4].copy_from_slice(&total.to_ne_bytes());
    out[4..8].copy_from_slice(&errno.wrapping_neg().to_ne_bytes());
    out[8..].copy_from_slice(&unique.to_ne_bytes());
    out
}

/// The message that asks the kernel to send again what it has handed out and has no answer to. Kernels that cannot do it refuse with EINVAL.
pub(crate) fn resend() -> [u8; OUT_HEADER] {
    const FUSE_NOTIFY_RESEND: i32 = 7;
    // A message of ours has number 0 and its kind in the place of the error.
    header(0, -FUSE_NOTIFY_RESEND, 0)
}

/// Collects fields.
#[derive(Default)]
struct Out(Vec<u8>);

impl Out {
    fn u16(mut self, v: u16) -> Out {
        self.0.extend_from_slice(&v.to_ne_bytes());
        self
    }
    fn u32(mut self, v: u32) -> Out {
        self.0.extend_from_slice(&v.to_ne_bytes());
        self
    }
    fn u64(mut self, v: u64) -> Out {
        self.0.extend_from_slice(&v.to_ne_bytes());
        self
    }
    fn zeros(mut self, n: usize) -> Out {
        self.0.resize(self.0.len() + n, 0);
        self
    }
}

/// Answer to INIT.
pub(crate) fn init_out(minor: u32, flags: u64) -> Vec<u8> {
    let flags = flags & WANTED;
    Out::default()
        .u32(MAJOR)
        .u32(minor.min(MINOR))
        // No read-ahead: the file is opened for direct I/O.
        .u32(0)
        .u32(flags as u32)
        .u16(BACKGROUND)
        .u16(BACKGROUND)
        .u32(REQUEST_MAX)
        .u32(1)
        .u16((REQUEST_MAX / 4096) as u16)
        .u16(0)
        .u32((flags >> 32) as u32)
        .zeros(28)
        .0
}

/// Attributes of an inode.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attr {
    pub(crate) node: u64,
    pub(crate) size: u64,
    pub(crate) mode: u32,
    pub(crate) links: u32,
}

fn attr(out: Out, a: &Attr) -> Out {
    out.u64(a.node)
        .u64(a.size)
        .u64(a.size / 512)
        .zeros(36)
        .u32(a.mode)
        .u32(a.links)
        .zeros(12)
        .u32(4096)
        .u32(0)
}

/// Answer to LOOKUP. Nothing is cached: the size may grow.
pub(crate) fn entry_out(a: &Attr) -> Vec<u8> {
    attr(Out::default().u64(a.node).zeros(32), a).0
}

/// Answer to GETATTR.
pub(crate) fn attr_out(a: &Attr) -> Vec<u8> {
    attr(Out::default().zeros(16), a).0
}

/// Answer to OPEN: direct I/O, writes in parallel, no FLUSH on close.
pub(crate) fn open_out() -> Vec<u8> {
    const DIRECT_IO: u32 = 1;
    const NOFLUSH: u32 = 1 << 5;
    const PARALLEL_DIRECT_WRITES: u32 = 1 << 6;
    let flags = DIRECT_IO | NOFLUSH | PARALLEL_DIRECT_WRITES;
    Out::default().u64(0).u32(flags).u32(0).0
}

/// Answer to WRITE.
pub(crate) fn write_out(len: u32) -> [u8; 8] {
    let mut out = [0; 8];
    out[..4].copy_from_slice(&len.to_ne_bytes());
    out
}

/// Answer to STATFS. The block size becomes the granularity of discards.
pub(crate) fn statfs_out(size: u64) -> Vec<u8> {
    Out::default()
        .u64(size / 4096)
        .zeros(32)
        .u32(4096)
        .u32(255)
        .u32(4096)
        .zeros(28)
        .0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
        Out::default()
            .u32((IN_HEADER + body.len()) as u32)
            .u32(opcode)
            .u64(1 << 63 | 5)
            .u64(2)
            .zeros(16)
            .0
            .into_iter()
            .chain(body.iter().copied())
            .collect()
    }

    #[test]
    fn sizes_are_those_of_the_kernel() {
        let a = Attr {
            node: 2,
            size: 1 << 20,
            mode: 0o100600,
            links: 1,
        };
        assert_eq!(init_out(45, u64::MAX).len(), 64);
        assert_eq!(entry_out(&a).len(), 128);
        assert_eq!(attr_out(&a).len(), 104);
        assert_eq!(open_out().len(), 16);
        assert_eq!(statfs_out(1 << 30).len(), 80);
        let mode_at = 16 + 24 + 36;
        assert_eq!(u32_at(&attr_out(&a), mode_at), Ok(a.mode));
        assert_eq!(u32_at(&attr_out(&a), mode_at + 20), Ok(4096));
    }

    #[test]
    fn init_takes_what_both_know() {
        let body = Out::default()
            .u32(7)
            .u32(45)
            .u32(0)
            .u32(flag::INIT_EXT as u32 | 0xff)
            .u32(1 << 7 | 1)
            .zeros(44)
            .0;
        let bytes = request(26, &body);
        let Op::Init { minor, flags } = parse(&bytes).unwrap().op else {
            panic!("no INIT");
        };
        assert!(can_resend(flags));
        let out = init_out(minor, flags);
        assert_eq!(u32_at(&out, 4), Ok(MINOR));
        let told = u32_at(&out, 12).unwrap();
        assert_eq!(u64::from(told) & !WANTED, 0);
        assert_eq!(u32_at(&out, 32), Ok(1 << 7));
        // An old kernel has no upper half.
        let body = Out::default().u32(7).u32(31).u32(0).u32(0xff).zeros(48).0;
        let bytes = request(26, &body);
        assert!(matches!(parse(&bytes).unwrap().op, Op::Init { flags, .. } if !can_resend(flags)));
    }

    #[test]
    fn requests_are_taken_apart() {
        let body = Out::default().u64(9).u64(4096).u32(3).zeros(20).0;
        let bytes = request(16, &[&body[..], b"abc"].concat());
        let r = parse(&bytes).unwrap();
        assert_eq!((r.unique, r.node), (1 << 63 | 5, 2));
        let expected = Op::Write {
            pos: 4096,
            data: b"abc",
        };
        assert_eq!(r.op, expected);
        assert_eq!(parse(&request(16, &body)), Err(Malformed), "data is short");
        assert_eq!(parse(&request(1, b"vol\0")).unwrap().op, Op::Lookup(b"vol"));
        assert_eq!(parse(&request(1, b"vol")), Err(Malformed));
        assert_eq!(parse(&request(99, b"")).unwrap().op, Op::Other);
    }

    #[test]
    fn answers_carry_negative_errors_and_messages_positive_kinds() {
        let out = header(7, libc::EIO, 8);
        assert_eq!(u32_at(&out, 0), Ok(24));
        assert_eq!(u32_at(&out, 4), Ok((-libc::EIO) as u32));
        assert_eq!(u64_at(&out, 8), Ok(7));
        assert_eq!((u32_at(&resend(), 4), u64_at(&resend(), 8)), (Ok(7), Ok(0)));
    }

    proptest! {
        #[test]
        fn nothing_panics(mut bytes in proptest::collection::vec(any::<u8>(), 0..200), op in 0u32..50, fit in any::<bool>()) {
            if fit && bytes.len() >= 8 {
                let len = bytes.len() as u32;
                bytes[..4].copy_from_slice(&len.to_ne_bytes());
                bytes[4..8].copy_from_slice(&op.to_ne_bytes());
            }
            let _ = parse(&bytes);
        }
    }
}
