//! Frames: 4 bytes length of the body (little-endian), 1 byte kind, 3 bytes zero, body.
use std::io::{self, Read, Write};

/// Bytes of a frame header.
pub const FRAME_HEADER: usize = 8;
/// Largest body. Callers give their own, smaller limits.
pub const MAX_FRAME: usize = 16 << 20;
/// Memory that is reserved on the mere announcement of a length.
const TRUST: usize = 64 << 10;

/// A frame.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frame {
    /// Kind, meaning depends on the service.
    pub kind: u8,
    /// Body.
    pub body: Vec<u8>,
}

/// What is wrong with a frame.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Connection broke or timed out.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Larger than allowed here.
    #[error("frame of {got} bytes, at most {max} allowed")]
    TooLarge {
        /// Announced.
        got: usize,
        /// Limit.
        max: usize,
    },
    /// Header or body damaged.
    #[error("damaged frame: {0}")]
    Damaged(&'static str),
}

/// Header for a body of that many bytes. Bodies above [`MAX_FRAME`] are the caller's mistake; no reader accepts them.
pub fn encode_frame_header(kind: u8, len: usize) -> [u8; FRAME_HEADER] {
    let len = u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes();
    [len[0], len[1], len[2], len[3], kind, 0, 0, 0]
}

/// Kind and body length.
pub fn decode_frame_header(h: &[u8; FRAME_HEADER], max: usize) -> Result<(u8, usize), FrameError> {
    let len = u32::from_le_bytes([h[0], h[1], h[2], h[3]]) as usize;
    if h[5..] != [0, 0, 0] {
        return Err(FrameError::Damaged("reserved bytes are not zero"));
    }
    let max = max.min(MAX_FRAME);
    if len > max {
        return Err(FrameError::TooLarge { got: len, max });
    }
    Ok((h[4], len))
}

/// Writes header and body.
pub fn write_frame<W: Write>(w: &mut W, kind: u8, body: &[u8]) -> io::Result<()> {
    if body.len() > MAX_FRAME {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "frame body larger than MAX_FRAME",
        ));
    }
    let head = encode_frame_header(kind, body.len());
    // One call for small frames: with TCP_NODELAY two would be two packets.
    if body.len() <= TRUST {
        let mut all = Vec::with_capacity(FRAME_HEADER + body.len());
        all.extend_from_slice(&head);
        all.extend_from_slice(body);
        return w.write_all(&all);
    }
    w.write_all(&head)?;
    w.write_all(body)
}

/// Reads one frame; memory grows only with bytes that arrived.
pub fn read_frame<R: Read>(r: &mut R, max: usize) -> Result<Frame, FrameError> {
    let mut head = [0u8; FRAME_HEADER];
    r.read_exact(&mut head)?;
    let (kind, len) = decode_frame_header(&head, max)?;
    let mut body = Vec::with_capacity(len.min(TRUST));
    r.take(len as u64).read_to_end(&mut body)?;
    if body.len() < len {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(Frame { kind, body })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn golden_bytes() {
        let mut out = Vec::new();
        write_frame(&mut out, 9, b"abc").unwrap();
        assert_eq!(out, b"\x03\0\0\0\x09\0\0\0abc");
    }

    #[test]
    fn limits_and_damage_are_named() {
        let big = encode_frame_header(1, 101);
        assert!(matches!(
            decode_frame_header(&big, 100),
            Err(FrameError::TooLarge { got: 101, max: 100 })
        ));
        let giant = encode_frame_header(1, usize::MAX);
        assert!(matches!(
            decode_frame_header(&giant, usize::MAX),
            Err(FrameError::TooLarge { .. })
        ));
        let mut odd = encode_frame_header(1, 1);
        odd[6] = 1;
        assert!(matches!(
            decode_frame_header(&odd, 100),
            Err(FrameError::Damaged(_))
        ));
    }

    #[test]
    fn announced_length_alone_takes_no_memory() {
        // Ends after the header: must be an error, not an allocation of 16 MiB (the capacity is checked by TRUST).
        let head = encode_frame_header(1, MAX_FRAME);
        assert!(
            matches!(read_frame(&mut &head[..], MAX_FRAME), Err(FrameError::Io(e)) if e.kind() == io::ErrorKind::UnexpectedEof)
        );
    }

    #[test]
    fn too_large_body_is_not_written() {
        let mut out = Vec::new();
        assert!(write_frame(&mut out, 1, &vec![0; MAX_FRAME + 1]).is_err());
        assert!(out.is_empty());
    }

    proptest! {
        #[test]
        fn round_trip(kind in any::<u8>(), body in proptest::collection::vec(any::<u8>(), 0..5000), tail in any::<u8>()) {
            let mut out = Vec::new();
            write_frame(&mut out, kind, &body).unwrap();
            out.push(tail);
            let mut r = &out[..];
            prop_assert_eq!(read_frame(&mut r, 5000).unwrap(), Frame { kind, body });
            prop_assert_eq!(r, &[tail]);
        }
        #[test]
        fn any_input_is_survived(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = read_frame(&mut &bytes[..], 200);
        }
    }
}
