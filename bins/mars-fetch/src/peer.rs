//! A connection to a source.
use crate::local::Copy;
use crate::proto::{self, Want};
use anyhow::{Context, bail};
use mars_daemon::dial_member;
use mars_log::FeatureMask;
use mars_log::wire::Unwrapper;
use mars_net::{FRAME_HEADER, Service, decode_frame_header, write_frame};
use mars_tree::{HostEnv, HostName, LogName, ResName, Tree};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{self, Read};
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// A source that is not the best one is left after so much silence, to try the better ones again.
const SECOND_BEST: Duration = Duration::from_secs(20);
/// The best source may be one that was preferred and gets the log late itself: then another one is asked after so much silence.
const BEHIND: Duration = Duration::from_secs(8);
/// Read at once.
const BUFFER: usize = 256 << 10;

/// Why a stream ended in good order.
#[derive(Debug)]
pub enum Ended {
    /// The log is complete with that length.
    Complete(u64),
    /// Look at the plan again.
    Again,
    /// The source does not have it.
    Gone(String),
}

/// A source that does not have the log: ordinary after a join, a deletion, or when another secondary is behind.
#[derive(Debug)]
pub struct Gone(pub String);

impl std::fmt::Display for Gone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}
impl std::error::Error for Gone {}

/// One source.
#[derive(Debug)]
pub struct Peer {
    /// Its name.
    pub host: HostName,
    stream: TcpStream,
    /// It knows what packing we understand.
    told: bool,
    packed: Unwrapper,
}

impl Peer {
    /// Connects and shakes hands. `silence`: the source is given up when it says nothing for so long.
    pub fn connect(
        env: &HostEnv,
        tree: &Tree,
        host: &HostName,
        ip: &str,
        silence: Duration,
    ) -> anyhow::Result<Peer> {
        let service = (Service::Fetch, proto::PORT_OFFSET);
        let conn = dial_member(env, tree, service, host, ip, silence)?;
        Ok(Peer {
            host: host.clone(),
            stream: conn.stream,
            told: false,
            packed: Unwrapper::default(),
        })
    }

    /// A second handle, to interrupt a read.
    pub fn handle(&self) -> io::Result<TcpStream> {
        self.stream.try_clone()
    }

    /// Asks for a log.
    pub fn want(&mut self, res: &ResName, log: &LogName, offset: u64) -> anyhow::Result<()> {
        let want = Want {
            res: res.clone(),
            log: log.clone(),
            offset,
        };
        if !std::mem::replace(&mut self.told, true) {
            let mask = FeatureMask::OURS.0.to_le_bytes();
            write_frame(&mut self.stream, proto::ACCEPT, &mask)?;
        }
        write_frame(&mut self.stream, proto::WANT, &want.encode())?;
        Ok(())
    }

    /// Appends to the copy until the log ends. `best`: there is no better source than this. `behind`: is more of the
    /// log known than is here? `wanted` is asked when everything that the
    /// source has is here: the copy may have become complete, although this source does not know where the log ends. `tell` is called after
    /// each piece.
    pub fn receive(
        &mut self,
        best: bool,
        behind: impl Fn() -> anyhow::Result<bool>,
        copy: &Copy,
        wanted: impl Fn() -> anyhow::Result<bool>,
        mut tell: impl FnMut(),
    ) -> anyhow::Result<Ended> {
        let mut asked_at = copy.len();
        let mut last_data = Instant::now();
        let mut buf = vec![0; BUFFER];
        loop {
            if !self.is_readable()? {
                copy.hurry();
            }
            match self.frame_header()? {
                (proto::DATA, n) => {
                    self.data(n, &mut buf, |b| copy.append(b))?;
                    last_data = Instant::now();
                    tell();
                }
                (proto::PACKED, n) => {
                    self.packed(n, |b| copy.append(b))?;
                    last_data = Instant::now();
                    tell();
                }
                (proto::IDLE, n) => {
                    self.number(n)?;
                    copy.hurry();
                    if copy.len() != asked_at {
                        asked_at = copy.len();
                        if !wanted()? {
                            return Ok(Ended::Again);
                        }
                    }
                    if best && last_data.elapsed() > BEHIND && behind()? {
                        bail!("it has less of the log than others");
                    }
                    if !best && last_data.elapsed() > SECOND_BEST {
                        bail!("nothing new from a source that is not the best one");
                    }
                }
                (kind, n) => return self.ending(kind, n),
            }
        }
    }

    /// Gives everything that the source has now to `write`.
    pub fn receive_all(
        &mut self,
        mut write: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> anyhow::Result<Ended> {
        let mut buf = vec![0; BUFFER];
        loop {
            match self.frame_header()? {
                (proto::DATA, n) => self.data(n, &mut buf, &mut write)?,
                (proto::PACKED, n) => self.packed(n, &mut write)?,
                (proto::IDLE, n) => {
                    self.number(n)?;
                    return Ok(Ended::Again);
                }
                (kind, n) => return self.ending(kind, n),
            }
        }
    }

    fn is_readable(&self) -> io::Result<bool> {
        let mut fds = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
        Ok(poll(&mut fds, PollTimeout::ZERO)? > 0)
    }

    fn frame_header(&mut self) -> anyhow::Result<(u8, usize)> {
        let mut h = [0; FRAME_HEADER];
        let _waiting = mars_daemon::watchdog::waiting();
        self.stream.read_exact(&mut h)?;
        let (kind, n) = decode_frame_header(&h, proto::PACKED_MAX)?;
        let max = match kind {
            proto::DATA => proto::DATA_MAX,
            proto::PACKED => proto::PACKED_MAX,
            _ => proto::CONTROL_MAX,
        };
        if n > max {
            bail!("frame of kind {kind} with {n} bytes");
        }
        Ok((kind, n))
    }

    /// Passes on `n` bytes as they come; what arrived before a break is good data.
    fn data(
        &mut self,
        n: usize,
        buf: &mut [u8],
        mut write: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> anyhow::Result<()> {
        let mut left = n;
        while left > 0 {
            let room = left.min(buf.len());
            let part = buf.get_mut(..room).unwrap_or_default();
            let waiting = mars_daemon::watchdog::waiting();
            let read = self.stream.read(part);
            drop(waiting);
            let k = match read {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(k) => k,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(e.into()),
            };
            write(part.get(..k).unwrap_or_default()).context("writing the log file")?;
            left -= k;
        }
        Ok(())
    }

    /// Passes on what comes packed, checked.
    fn packed(
        &mut self,
        n: usize,
        mut write: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> anyhow::Result<()> {
        let waiting = mars_daemon::watchdog::waiting();
        let body = self.body(n)?;
        drop(waiting);
        let before = self.packed.last;
        let mut raw = Vec::new();
        self.packed
            .unwrap(&body, proto::DATA_MAX, &mut raw)
            .context("damaged on the way: the digest does not fit")?;
        if before.is_none()
            && let Some((digest, compression)) = self.packed.last
        {
            tracing::info!(
                "packed data from {}: net_digest={digest:?} net_compression={compression:?}",
                self.host
            );
        }
        write(&raw).context("writing the log file")
    }

    fn body(&mut self, n: usize) -> anyhow::Result<Vec<u8>> {
        let mut body = vec![0; n];
        self.stream.read_exact(&mut body)?;
        Ok(body)
    }

    fn number(&mut self, n: usize) -> anyhow::Result<u64> {
        let body = self.body(n)?;
        proto::decode_len(&body).context("damaged frame")
    }

    fn ending(&mut self, kind: u8, n: usize) -> anyhow::Result<Ended> {
        match kind {
            proto::END => Ok(Ended::Complete(self.number(n)?)),
            proto::GONE => Ok(Ended::Gone(proto::decode_reason(&self.body(n)?))),
            _ => bail!("unexpected frame of kind {kind}"),
        }
    }
}
