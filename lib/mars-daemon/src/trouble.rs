//! What goes into the journal when something fails: once per kind, and ordinary ends of connections in plain words.
use mars_net::{FrameError, HelloError};
use std::collections::HashSet;
use std::io::ErrorKind;

/// Different lines that are remembered; a flood of different ones begins anew.
const REMEMBERED: usize = 256;

/// Lets every line pass once.
#[derive(Debug, Default)]
pub struct Once(HashSet<String>);

impl Once {
    /// Is it the first time since [`Once::clear`]?
    pub fn first(&mut self, line: &str) -> bool {
        if self.0.contains(line) {
            return false;
        }
        if self.0.len() >= REMEMBERED {
            self.0.clear();
        }
        self.0.insert(line.to_string())
    }
    /// It works again: the next trouble is news.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// Set when the error only says that the other side is not there (any more): it stopped, was restarted, or has not started yet.
/// The text says it in plain words.
pub fn peer_left(e: &anyhow::Error) -> Option<&'static str> {
    match e.chain().find_map(io_kind)? {
        ErrorKind::UnexpectedEof
        | ErrorKind::BrokenPipe
        | ErrorKind::ConnectionReset
        | ErrorKind::ConnectionAborted
        | ErrorKind::NotConnected => Some("connection closed by the peer"),
        ErrorKind::ConnectionRefused => Some("the peer does not listen"),
        _ => None,
    }
}

/// The wrappers of `mars-net` are transparent: the chain does not show what is in them.
fn io_kind(e: &(dyn std::error::Error + 'static)) -> Option<ErrorKind> {
    if let Some(HelloError::Io(e)) = e.downcast_ref() {
        return Some(e.kind());
    }
    if let Some(FrameError::Io(e)) = e.downcast_ref() {
        return Some(e.kind());
    }
    e.downcast_ref::<std::io::Error>().map(std::io::Error::kind)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use anyhow::Context;
    use std::io;

    #[test]
    fn ends_of_connections_are_recognised_however_wrapped() {
        let eof = || io::Error::from(ErrorKind::UnexpectedEof);
        let closed = Some("connection closed by the peer");
        let refused = io::Error::from(ErrorKind::ConnectionRefused);
        for (e, expected) in [
            (anyhow::Error::from(eof()), closed),
            (FrameError::Io(eof()).into(), closed),
            (HelloError::Io(eof()).into(), closed),
            (
                Err::<(), _>(HelloError::Io(refused))
                    .context("fetching")
                    .unwrap_err(),
                Some("the peer does not listen"),
            ),
            (HelloError::Garbage.into(), None),
            (io::Error::from(ErrorKind::TimedOut).into(), None),
            (io::Error::from_raw_os_error(libc::EIO).into(), None),
            (anyhow::anyhow!("damaged frame"), None),
        ] {
            assert_eq!(peer_left(&e), expected, "{e:?}");
        }
    }

    #[test]
    fn every_line_passes_once_and_memory_is_bounded() {
        let mut o = Once::default();
        assert!(o.first("a") && o.first("b") && !o.first("a"));
        o.clear();
        assert!(o.first("a"));
        for i in 0..10 * REMEMBERED {
            o.first(&i.to_string());
            assert!(o.0.len() <= REMEMBERED);
        }
    }
}
