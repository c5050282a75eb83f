//! `mars-fetch serve`: hands out log files of all resources, one thread per connection.
use crate::feed::{Feed, Feeds};
use crate::proto::{self, Want};
use crate::source::{Source, section};
use anyhow::Context;
use mars_daemon::{Daemon, ServiceSpec, serve_members};
use mars_log::wire::wrap;
use mars_log::{Compression, Digest, FeatureMask};
use mars_net::{Conn, FrameError, Service, encode_frame_header, read_frame, write_frame};
use mars_tree::{HostEnv, Tree};
use nix::sys::socket::{MsgFlags, send};
use std::io;
use std::net::{IpAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SERVICE: ServiceSpec = ServiceSpec {
    service: Service::Fetch,
    port_offset: proto::PORT_OFFSET,
    connections_max: 256,
    client_timeout: Duration::from_secs(60),
};
/// At least every so often a client hears from us.
const IDLE_EVERY: Duration = Duration::from_secs(5);

struct Server {
    env: HostEnv,
    tree: Tree,
    feeds: Arc<Feeds>,
}

/// Runs until stopped.
pub fn run(d: &Daemon, ip: Option<IpAddr>) -> anyhow::Result<()> {
    serve_members(d, SERVICE, "fetch-serve", ip, |tree| {
        let server = Server {
            env: d.env.clone(),
            tree: tree.clone(),
            feeds: Feeds::start(&d.env, tree)?,
        };
        Ok(move |conn: Conn| server.serve(conn))
    })
}

impl Server {
    fn serve(&self, conn: Conn) -> anyhow::Result<()> {
        let mut stream = conn.stream;
        let mut accepted = None;
        loop {
            let frame = match read_frame(&mut stream, proto::CONTROL_MAX) {
                Ok(f) => f,
                // The client has what it wants, or went away.
                Err(FrameError::Io(_)) => return Ok(()),
                Err(e) => return Err(e.into()),
            };
            if frame.kind == proto::ACCEPT && accepted.is_none() {
                let mask = <[u8; 4]>::try_from(frame.body.as_slice()).context("damaged request")?;
                accepted = Some(FeatureMask(u32::from_le_bytes(mask)));
                continue;
            }
            if frame.kind != proto::WANT {
                anyhow::bail!("unexpected frame of kind {}", frame.kind);
            }
            let want = Want::decode(&frame.body).context("damaged request")?;
            if let Some(reason) = self.stream(&mut stream, &want, accepted)? {
                write_frame(&mut stream, proto::GONE, reason.as_bytes())?;
            }
        }
    }

    /// Sends a log until it ends (`None`) or cannot be given (the reason). Errors of the connection end it without a word in the journal.
    fn stream(
        &self,
        stream: &mut TcpStream,
        want: &Want,
        accepted: Option<FeatureMask>,
    ) -> anyhow::Result<Option<String>> {
        let mut source = match Source::open(&self.env, &self.tree, &want.res, &want.log) {
            Ok(s) => s,
            // Ordinary: not written or not fetched yet, or deleted already.
            Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ELOOP)) => {
                return Ok(Some(format!("{} is not here", want.log)));
            }
            Err(e) => return Ok(Some(format!("{} cannot be read: {e}", want.log))),
        };
        let feed = self.feeds.get(&want.res, section(&self.env, &want.log))?;
        source.accepted = accepted;
        let sent = self.send(stream, want.offset, &mut source, &feed)?;
        Ok(match sent {
            Sent::End => None,
            Sent::Gone => Some(format!("{} was deleted", want.log)),
        })
    }

    fn send(
        &self,
        stream: &mut TcpStream,
        mut at: u64,
        source: &mut Source,
        feed: &Feed,
    ) -> anyhow::Result<Sent> {
        // The first time at the end says so at once.
        let mut idle_at = Instant::now();
        let mut caught_up = false;
        loop {
            let seen = feed.seen();
            let a = source.available(&self.env, &self.tree, feed, seen.tree)?;
            while at < a.durable {
                let n = (a.durable - at).min(proto::DATA_MAX as u64);
                let peer = match source.packing {
                    Some(how) => send_packed(stream, source, at, n, how)?,
                    None => send_data(stream, source, at, n)?,
                };
                if peer == Peer::Left {
                    return Ok(Sent::End);
                }
                at += n;
                if caught_up {
                    idle_at = Instant::now() + IDLE_EVERY;
                }
            }
            if let Some(last) = a.last.filter(|l| a.durable >= *l && at >= *l) {
                write_frame(stream, proto::END, &last.to_le_bytes()).ok();
                return Ok(Sent::End);
            }
            if !source.is_current()? {
                return Ok(Sent::Gone);
            }
            caught_up = true;
            let now = Instant::now();
            if now >= idle_at {
                if write_frame(stream, proto::IDLE, &a.durable.to_le_bytes()).is_err() {
                    return Ok(Sent::End);
                }
                idle_at = now + IDLE_EVERY;
            }
            feed.wait(seen, idle_at);
        }
    }
}

enum Sent {
    End,
    Gone,
}

#[derive(PartialEq, Eq)]
enum Peer {
    There,
    Left,
}

/// The same in pieces with digests, compressed.
fn send_packed(
    mut stream: &TcpStream,
    source: &Source,
    at: u64,
    n: u64,
    (digest, compression): (Digest, Compression),
) -> anyhow::Result<Peer> {
    let mut raw = vec![0; usize::try_from(n)?];
    source
        .file
        .read_exact_at(&mut raw, at)
        .context("reading the log file")?;
    let mut body = Vec::with_capacity(raw.len());
    wrap(digest, Some(compression), &raw, &mut body);
    Ok(match write_frame(&mut stream, proto::PACKED, &body) {
        Ok(()) => Peer::There,
        Err(_) => Peer::Left,
    })
}

/// Frame header and file content, without copying the content.
fn send_data(stream: &TcpStream, source: &Source, at: u64, n: u64) -> anyhow::Result<Peer> {
    let header = encode_frame_header(proto::DATA, usize::try_from(n)?);
    // MSG_MORE: header and data leave in one segment.
    let more = MsgFlags::from_bits_retain(libc::MSG_MORE) | MsgFlags::MSG_NOSIGNAL;
    if send(stream.as_raw_fd(), &header, more) != Ok(header.len()) {
        return Ok(Peer::Left);
    }
    let mut offset = libc::off_t::try_from(at)?;
    let mut left = usize::try_from(n)?;
    while left > 0 {
        match nix::sys::sendfile::sendfile(stream, &source.file, Some(&mut offset), left) {
            Ok(0) => anyhow::bail!("log file is shorter than it was"),
            Ok(k) => left -= k.min(left),
            Err(nix::errno::Errno::EINTR) => {}
            Err(e @ (nix::errno::Errno::EIO | nix::errno::Errno::EINVAL)) => {
                return Err(io::Error::from(e)).context("reading the log file");
            }
            Err(_) => return Ok(Peer::Left),
        }
    }
    Ok(Peer::There)
}
