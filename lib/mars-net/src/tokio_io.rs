//! The same handshake and frames for tokio streams. Timeouts are the caller's (`tokio::time::timeout` around the call).
use crate::frame::{FRAME_HEADER, Frame, FrameError, decode_frame_header};
use crate::hello::{
    HELLO_HEAD, HELLO_MAX, Hello, HelloError, HelloMessage, Refusal, decode_hello, encode_accept,
    encode_refusal, expect_hello, hello_needs,
};
use std::io;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

async fn read_message<S: AsyncRead + Unpin>(s: &mut S) -> Result<HelloMessage, HelloError> {
    let mut buf = [0u8; HELLO_MAX];
    let mut have = 0;
    loop {
        let need = hello_needs(&buf[..have])?;
        if need == Some(have) {
            return decode_hello(&buf[..have]);
        }
        let upto = need.unwrap_or(HELLO_HEAD).min(HELLO_MAX);
        match s.read(&mut buf[have..upto]).await? {
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            n => have += n,
        }
    }
}

async fn judge<S: AsyncWrite + Unpin>(
    s: &mut S,
    msg: HelloMessage,
    mine: &Hello,
    check: impl FnOnce(&Hello) -> Result<(), Refusal>,
) -> Result<Hello, HelloError> {
    let r = expect_hello(msg, mine).and_then(|h| match check(&h) {
        Ok(()) => Ok(h),
        Err(why) => Err(HelloError::Refused(why)),
    });
    if let Err(HelloError::Refused(why)) = &r {
        // Best effort: the refusal itself is the error to report.
        let _ = s.write_all(&encode_refusal(mine.service, why)).await;
        let _ = s.flush().await;
    }
    r
}

/// Client side, see [`crate::offer_hello`].
pub async fn offer_hello<S: AsyncRead + AsyncWrite + Unpin>(
    s: &mut S,
    mine: &Hello,
    check: impl FnOnce(&Hello) -> Result<(), Refusal>,
) -> Result<Hello, HelloError> {
    s.write_all(&mine.encode()).await?;
    s.flush().await?;
    let msg = read_message(s).await?;
    let hello = judge(s, msg, mine, check).await?;
    s.write_all(&encode_accept(mine.service)).await?;
    s.flush().await?;
    Ok(hello)
}

/// Server side, see [`crate::accept_hello`].
pub async fn accept_hello<S: AsyncRead + AsyncWrite + Unpin>(
    s: &mut S,
    mine: &Hello,
    check: impl FnOnce(&Hello) -> Result<(), Refusal>,
) -> Result<Hello, HelloError> {
    answer_hello(s, mine, check, |_| mine.clone()).await
}

/// [`accept_hello`] with an answer that depends on who calls.
pub async fn answer_hello<S: AsyncRead + AsyncWrite + Unpin>(
    s: &mut S,
    mine: &Hello,
    check: impl FnOnce(&Hello) -> Result<(), Refusal>,
    answer: impl FnOnce(&Hello) -> Hello,
) -> Result<Hello, HelloError> {
    let msg = read_message(s).await?;
    let hello = judge(s, msg, mine, check).await?;
    s.write_all(&answer(&hello).encode()).await?;
    s.flush().await?;
    match read_message(s).await? {
        HelloMessage::Accept => Ok(hello),
        HelloMessage::Refusal(why) => Err(HelloError::RefusedByPeer(why)),
        HelloMessage::Hello(_) | HelloMessage::OtherVersion(_) => Err(HelloError::Garbage),
    }
}

/// Reads one frame; memory grows only with bytes that arrived. Not cancel-safe: part of a frame is lost when the future is dropped.
pub async fn read_frame<R: AsyncRead + Unpin>(r: &mut R, max: usize) -> Result<Frame, FrameError> {
    let mut head = [0u8; FRAME_HEADER];
    r.read_exact(&mut head).await?;
    let (kind, len) = decode_frame_header(&head, max)?;
    let mut body = Vec::with_capacity(len.min(64 << 10));
    r.take(len as u64).read_to_end(&mut body).await?;
    if body.len() < len {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    Ok(Frame { kind, body })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::{Service, write_frame};

    fn run<F: Future>(f: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap()
            .block_on(f)
    }

    #[test]
    fn handshake_and_frame() {
        run(async {
            let (mut a, mut b) = tokio::io::duplex(64);
            let alpha = Hello::new(Service::Meta, "u", "alpha");
            let beta = Hello::new(Service::Meta, "u", "beta");
            let (c, s) = tokio::join!(
                offer_hello(&mut a, &alpha, |_| Ok(())),
                accept_hello(&mut b, &beta, |_| Ok(()))
            );
            assert_eq!((c.unwrap(), s.unwrap()), (beta, alpha));
            let mut bytes = Vec::new();
            write_frame(&mut bytes, 3, &[7; 1000]).unwrap();
            let (w, f) = tokio::join!(a.write_all(&bytes), read_frame(&mut b, 1000));
            w.unwrap();
            assert_eq!(f.unwrap().body, [7; 1000]);
        });
    }

    #[test]
    fn refusal_is_told() {
        run(async {
            let (mut a, mut b) = tokio::io::duplex(64);
            let alpha = Hello::new(Service::Meta, "u", "alpha");
            let beta = Hello::new(Service::Meta, "v", "beta");
            let (c, s) = tokio::join!(
                offer_hello(&mut a, &alpha, |_| Ok(())),
                accept_hello(&mut b, &beta, |h| Err(Refusal::Uuid {
                    theirs: h.uuid.clone(),
                    ours: "v".into()
                }))
            );
            assert!(matches!(c, Err(HelloError::RefusedByPeer(t)) if t.contains("\"u\"")));
            assert!(matches!(s, Err(HelloError::Refused(Refusal::Uuid { .. }))));
        });
    }
}
