//! Negotiation before transmission: a pure part that answers one option, and a bounded loop around it.

use super::proto::*;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

/// The whole negotiation must be over by then: a silent client does not hold a connection slot for ever.
pub(crate) const DEADLINE: Duration = Duration::from_secs(30);
/// No honest option is longer: two names of 4096 bytes at most.
const OPTION_MAX: usize = 16 << 10;
/// Longer options than `OPTION_MAX` are skipped and refused up to this; behind it the connection is cut.
const OPTION_SKIP_MAX: usize = 1 << 20;
/// Options in one negotiation.
const OPTIONS_MAX: usize = 256;

/// What the client may ask for.
pub(crate) struct Export<'a> {
    /// Names that are this export, the first one is shown by LIST. The empty name is accepted, too.
    pub(crate) names: &'a [String],
    pub(crate) size: u64,
}

/// What happens after an option.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Another option.
    More,
    /// The client is through: to be asked for permission, then transmission. `export_name`: the old way, which has no error replies.
    Enter { export_name: bool },
    /// Over.
    Close,
}

/// State of one negotiation.
#[derive(Default)]
pub(crate) struct Negotiation {
    pub(crate) structured: bool,
    pub(crate) no_zeroes: bool,
}

fn reply(out: &mut Vec<u8>, option: u32, kind: u32, data: &[u8]) {
    out.extend_from_slice(&REP_MAGIC.to_be_bytes());
    out.extend_from_slice(&option.to_be_bytes());
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    out.extend_from_slice(data);
}

/// Name and information requests of an INFO or GO option; `None` when malformed.
fn parse_info(data: &[u8]) -> Option<(&[u8], Vec<u16>)> {
    let (len, rest) = data.split_first_chunk::<4>()?;
    let (name, rest) = rest.split_at_checked(usize::try_from(u32::from_be_bytes(*len)).ok()?)?;
    let (count, rest) = rest.split_first_chunk::<2>()?;
    if rest.len() != usize::from(u16::from_be_bytes(*count)) * 2 {
        return None;
    }
    let kinds = rest
        .chunks_exact(2)
        .map(|c| u16::from_be_bytes([c[0], c[1]]))
        .collect();
    Some((name, kinds))
}

impl Negotiation {
    /// Answers one option: appends replies to `out`.
    pub(crate) fn option(
        &mut self,
        export: &Export,
        option: u32,
        data: &[u8],
        out: &mut Vec<u8>,
    ) -> Next {
        let known =
            |name: &[u8]| name.is_empty() || export.names.iter().any(|n| n.as_bytes() == name);
        match option {
            OPT_EXPORT_NAME if known(data) => return Next::Enter { export_name: true },
            OPT_EXPORT_NAME => return Next::Close,
            OPT_ABORT => {
                reply(out, option, REP_ACK, &[]);
                return Next::Close;
            }
            OPT_LIST | OPT_STRUCTURED_REPLY if !data.is_empty() => {
                reply(out, option, REP_ERR_INVALID, b"option takes no data");
            }
            OPT_LIST => {
                let name = export.names.first().map_or("", String::as_str);
                let mut entry = (name.len() as u32).to_be_bytes().to_vec();
                entry.extend_from_slice(name.as_bytes());
                reply(out, option, REP_SERVER, &entry);
                reply(out, option, REP_ACK, &[]);
            }
            OPT_STRUCTURED_REPLY => {
                self.structured = true;
                reply(out, option, REP_ACK, &[]);
            }
            OPT_INFO | OPT_GO => match parse_info(data) {
                None => reply(out, option, REP_ERR_INVALID, b"malformed"),
                Some((name, _)) if !known(name) => {
                    reply(out, option, REP_ERR_UNKNOWN, b"no such export")
                }
                Some((_, kinds)) => {
                    self.infos(export, option, &kinds, out);
                    if option == OPT_GO {
                        return Next::Enter { export_name: false };
                    }
                    reply(out, option, REP_ACK, &[]);
                }
            },
            _ => reply(out, option, REP_ERR_UNSUP, &[]),
        }
        Next::More
    }

    fn infos(&self, export: &Export, option: u32, kinds: &[u16], out: &mut Vec<u8>) {
        let mut info = INFO_EXPORT.to_be_bytes().to_vec();
        info.extend_from_slice(&export.size.to_be_bytes());
        info.extend_from_slice(&transmission_flags(self.structured).to_be_bytes());
        reply(out, option, REP_INFO, &info);
        // Sent also when not asked for: who ignores it gets EINVAL for odd requests, which is what the device does.
        let mut info = INFO_BLOCK_SIZE.to_be_bytes().to_vec();
        for size in [BLOCK_MIN, BLOCK_PREFERRED, BLOCK_MAX] {
            info.extend_from_slice(&size.to_be_bytes());
        }
        reply(out, option, REP_INFO, &info);
        if kinds.contains(&INFO_NAME) {
            let mut info = INFO_NAME.to_be_bytes().to_vec();
            info.extend_from_slice(export.names.first().map_or("", String::as_str).as_bytes());
            reply(out, option, REP_INFO, &info);
        }
    }

    /// The last bytes before transmission.
    pub(crate) fn welcome(&self, export: &Export, export_name: bool) -> Vec<u8> {
        let mut out = Vec::with_capacity(152);
        if export_name {
            out.extend_from_slice(&export.size.to_be_bytes());
            out.extend_from_slice(&transmission_flags(self.structured).to_be_bytes());
            if !self.no_zeroes {
                out.resize(out.len() + 124, 0);
            }
        } else {
            reply(&mut out, OPT_GO, REP_ACK, &[]);
        }
        out
    }
}

/// A socket whose reads end at a deadline.
struct Timed<'a> {
    sock: &'a UnixStream,
    until: Instant,
}

impl Timed<'_> {
    fn read_exact(&self, buf: &mut [u8]) -> io::Result<()> {
        let mut done = 0;
        while done < buf.len() {
            self.wait(nix::poll::PollFlags::POLLIN)?;
            let mut sock = self.sock;
            match sock.read(&mut buf[done..]) {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    fn array<const N: usize>(&self) -> io::Result<[u8; N]> {
        let mut b = [0; N];
        self.read_exact(&mut b)?;
        Ok(b)
    }

    /// Answers are small; a client that does not take them before its socket is full is cut by the poll.
    fn write_all(&self, buf: &[u8]) -> io::Result<()> {
        self.wait(nix::poll::PollFlags::POLLOUT)?;
        let mut sock = self.sock;
        sock.write_all(buf)
    }

    fn wait(&self, what: nix::poll::PollFlags) -> io::Result<()> {
        use nix::poll::{PollFd, PollTimeout, poll};
        loop {
            let left = self.until.saturating_duration_since(Instant::now());
            let ms = u16::try_from(left.as_millis()).unwrap_or(u16::MAX);
            match poll(
                &mut [PollFd::new(self.sock.as_fd(), what)],
                PollTimeout::from(ms),
            ) {
                Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
                Ok(_) => return Ok(()),
                Err(nix::errno::Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

/// Negotiates. `Ok(Some(structured))`: transmission begins, and `enter` has succeeded; `Ok(None)`: the client went away in order.
/// Nothing behind the negotiation is read from the socket. The whole takes at most about `limit`.
pub(crate) fn negotiate(
    sock: &UnixStream,
    export: &Export,
    enter: impl Fn() -> Result<(), i32>,
    leave: impl Fn(),
    limit: Duration,
) -> io::Result<Option<bool>> {
    let sock = Timed {
        sock,
        until: Instant::now() + limit,
    };
    // A client that reads nothing must not hold this thread in a write: answers are smaller than any socket buffer, but many.
    sock.sock.set_write_timeout(Some(limit))?;
    let mut hello = Vec::with_capacity(18);
    hello.extend_from_slice(&MAGIC.to_be_bytes());
    hello.extend_from_slice(&OPT_MAGIC.to_be_bytes());
    hello.extend_from_slice(&(FLAG_FIXED | FLAG_NO_ZEROES).to_be_bytes());
    sock.write_all(&hello)?;
    let flags = u32::from_be_bytes(sock.array()?);
    if flags & !u32::from(FLAG_FIXED | FLAG_NO_ZEROES) != 0 {
        return Err(invalid("unknown client flags"));
    }
    let mut state = Negotiation {
        structured: false,
        no_zeroes: flags & u32::from(FLAG_NO_ZEROES) != 0,
    };
    for _ in 0..OPTIONS_MAX {
        if u64::from_be_bytes(sock.array()?) != OPT_MAGIC {
            return Err(invalid("wrong option magic"));
        }
        let option = u32::from_be_bytes(sock.array()?);
        let len = usize::try_from(u32::from_be_bytes(sock.array()?)).unwrap_or(usize::MAX);
        if len > OPTION_SKIP_MAX {
            return Err(invalid("option too long"));
        }
        let mut out = Vec::new();
        let next = if len > OPTION_MAX {
            let mut left = len;
            let mut sink = [0; 4096];
            while left > 0 {
                let n = left.min(sink.len());
                sock.read_exact(&mut sink[..n])?;
                left -= n;
            }
            if option == OPT_EXPORT_NAME {
                return Err(invalid("export name too long"));
            }
            reply(&mut out, option, REP_ERR_TOO_BIG, &[]);
            Next::More
        } else {
            let mut data = vec![0; len];
            sock.read_exact(&mut data)?;
            state.option(export, option, &data, &mut out)
        };
        match next {
            Next::More => sock.write_all(&out)?,
            Next::Close => {
                // The client may be gone already; that is what it wanted.
                let _ = sock.write_all(&out);
                return Ok(None);
            }
            Next::Enter { export_name } => {
                if enter().is_err() {
                    if export_name {
                        return Ok(None);
                    }
                    out.clear();
                    reply(
                        &mut out,
                        option,
                        REP_ERR_SHUTDOWN,
                        b"the device is going away",
                    );
                    sock.write_all(&out)?;
                    continue;
                }
                out.extend_from_slice(&state.welcome(export, export_name));
                if let Err(e) = sock
                    .write_all(&out)
                    .and_then(|()| sock.sock.set_write_timeout(None))
                {
                    leave();
                    return Err(e);
                }
                return Ok(Some(state.structured));
            }
        }
    }
    Err(invalid("too many options"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use proptest::prelude::*;

    fn export(names: &[String]) -> Export<'_> {
        Export {
            names,
            size: 1 << 20,
        }
    }

    #[test]
    fn go_answers_export_and_block_size() {
        let names = ["r".to_string(), "dev".to_string()];
        let mut n = Negotiation {
            structured: true,
            no_zeroes: true,
        };
        let mut out = Vec::new();
        let mut data = 3u32.to_be_bytes().to_vec();
        data.extend_from_slice(b"dev\0\0");
        assert_eq!(
            n.option(&export(&names), OPT_GO, &data, &mut out),
            Next::Enter { export_name: false }
        );
        let kinds: Vec<u16> = [20, 20 + 12 + 20]
            .iter()
            .map(|&at| u16::from_be_bytes([out[at], out[at + 1]]))
            .collect();
        assert_eq!(kinds, [INFO_EXPORT, INFO_BLOCK_SIZE]);
    }

    #[test]
    fn unknown_name_is_refused() {
        let names = ["r".to_string()];
        let mut out = Vec::new();
        let mut data = 1u32.to_be_bytes().to_vec();
        data.extend_from_slice(b"x\0\0");
        assert_eq!(
            Negotiation::default().option(&export(&names), OPT_GO, &data, &mut out),
            Next::More
        );
        assert_eq!(out[12..16], REP_ERR_UNKNOWN.to_be_bytes());
    }

    /// Silence, whole or after a while, ends the negotiation.
    #[test]
    fn silent_client_is_dropped() {
        let names = ["r".to_string()];
        for said in [
            &b""[..],
            b"\0\0\0\x03",
            b"\0\0\0\x03IHAVEOPT\0\0\0\x07\0\0\0\xff",
        ] {
            let (ours, mut theirs) = UnixStream::pair().unwrap();
            theirs.write_all(said).unwrap();
            let limit = Duration::from_millis(20);
            let result = negotiate(&ours, &export(&names), || panic!("entered"), || (), limit);
            assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
        }
    }

    proptest! {
        /// I12: no option content makes it panic or answer with more than a few hundred bytes.
        #[test]
        fn any_option_is_bounded(option in 0u32..16, data in proptest::collection::vec(any::<u8>(), 0..300)) {
            let names = ["r".to_string()];
            let mut out = Vec::new();
            Negotiation::default().option(&export(&names), option, &data, &mut out);
            prop_assert!(out.len() < 400);
        }

        /// I12: no request header makes the check panic, and what it lets through lies inside the device.
        #[test]
        fn any_request_is_checked(b in proptest::collection::vec(any::<u8>(), 24), cmd in 0u16..9, flags in 0u16..32, small in any::<bool>(), structured in any::<bool>()) {
            let mut b: Vec<u8> = [&0x2560_9513u32.to_be_bytes()[..], &b].concat();
            b[4..6].copy_from_slice(&flags.to_be_bytes());
            b[6..8].copy_from_slice(&cmd.to_be_bytes());
            if small {
                b[16..21].fill(0);
                b[24..27].fill(0);
                b[27] = 0;
            }
            let size = 1 << 20;
            let req = Request::parse(&b).unwrap();
            if let Action::Read | Action::Write | Action::Zero = req.check(size, structured) {
                prop_assert!(req.pos.is_multiple_of(512) && req.len.is_multiple_of(512));
                prop_assert!(req.pos.checked_add(u64::from(req.len)).unwrap() <= size);
            }
        }
    }
}
