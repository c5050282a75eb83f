//! `mars-sync serve`: compares and hands out blocks of this host's disks, one thread per connection.
use crate::blocks::Reader;
use crate::proto::{self, Check};
use anyhow::{Context, bail};
use mars_daemon::{Daemon, ServiceSpec, serve_members};
use mars_disk::{Disk, DiskMode};
use mars_log::wire::wrap;
use mars_log::{Compression, Digest, FeatureMask};
use mars_net::{Conn, FrameError, Service, encode_frame_header, read_frame, write_frame};
use mars_policy::{common_features, net_compression, net_digest};
use mars_tree::{HostEnv, Key, ResName, Tree};
use std::io::Write;
use std::net::{IpAddr, TcpStream};
use std::path::Path;
use std::time::Duration;

const SERVICE: ServiceSpec = ServiceSpec {
    service: Service::Sync,
    port_offset: proto::PORT_OFFSET,
    // Each may hold one chunk in memory.
    connections_max: 64,
    // A client may be busy for long: its disk is slow, or replay holds the lock.
    client_timeout: Duration::from_secs(300),
};

struct Server {
    env: HostEnv,
    tree: Tree,
}

/// Runs until stopped.
pub fn run(d: &Daemon, ip: Option<IpAddr>) -> anyhow::Result<()> {
    serve_members(d, SERVICE, "sync-serve", ip, |tree| {
        let server = Server {
            env: d.env.clone(),
            tree: tree.clone(),
        };
        Ok(move |conn: Conn| server.serve(conn))
    })
}

impl Server {
    fn serve(&self, conn: Conn) -> anyhow::Result<()> {
        let mut stream = conn.stream;
        let Some(mut open) = next_frame(&mut stream, proto::TEXT_MAX)? else {
            return Ok(());
        };
        let mut accepted = None;
        if open.kind == proto::ACCEPT {
            let mask = <[u8; 4]>::try_from(open.body.as_slice()).context("damaged request")?;
            accepted = Some(FeatureMask(u32::from_le_bytes(mask)));
            let Some(next) = next_frame(&mut stream, proto::TEXT_MAX)? else {
                return Ok(());
            };
            open = next;
        }
        if open.kind != proto::OPEN {
            bail!("unexpected frame of kind {}", open.kind);
        }
        let res: ResName = std::str::from_utf8(&open.body)?.parse()?;
        let (disk, size) = match self.open(&res) {
            Ok(found) => found,
            Err(e) => {
                // The client tells its administrator; it may be quite normal during a handover.
                write_frame(&mut stream, proto::REFUSED, line(&e).as_bytes()).ok();
                return Ok(());
            }
        };
        write_frame(&mut stream, proto::READY, &size.to_le_bytes())?;
        let packing = match accepted {
            Some(mask) => {
                let snap = self.tree.snapshot_of(&res)?;
                let common = common_features(&snap, snap.hosts()).and(mask);
                let me = &self.env.host;
                Some((
                    net_digest(&snap, me, common),
                    net_compression(&snap, me, common),
                ))
            }
            None => None,
        };
        self.answer(&mut stream, &res, &disk, size, packing)
    }

    /// Only the disk of the designated primary is a source, and only through the own `data` link: a foreign one would
    /// name a disk of this machine by the path of another.
    fn open(&self, res: &ResName) -> anyhow::Result<(Disk, u64)> {
        self.check_role(res)?;
        let me = self.env.host.clone();
        let path = self
            .tree
            .text(&Key::Data(res.clone(), me))?
            .with_context(|| format!("no disk for resource {res} here"))?;
        let disk = Disk::open(Path::new(&path), DiskMode::ReadOnly, &self.env, res)?;
        let size = disk.size()?;
        Ok((disk, size))
    }

    fn check_role(&self, res: &ResName) -> anyhow::Result<()> {
        let primary = self.tree.text(&Key::Primary(res.clone()))?;
        if primary.as_deref() == Some(self.env.host.as_str()) {
            return Ok(());
        }
        bail!("{} is not the designated primary of {res}", self.env.host)
    }

    fn answer(
        &self,
        stream: &mut TcpStream,
        res: &ResName,
        disk: &Disk,
        size: u64,
        packing: Option<(Digest, Option<Compression>)>,
    ) -> anyhow::Result<()> {
        let mut packed = Vec::new();
        let mut reader = Reader::new(disk);
        let mut content = Vec::new();
        while let Some(frame) = next_frame(stream, proto::REQUEST_MAX)? {
            if frame.kind != proto::CHECK {
                bail!("unexpected frame of kind {}", frame.kind);
            }
            let check = Check::decode(&frame.body).context("damaged request")?;
            if check.chunk.end() > size {
                bail!("request behind the end of the disk");
            }
            content.clear();
            let result = self
                .check_role(res)
                .and_then(|()| Ok(reader.compare(&check, &mut content)?));
            let answer = match result {
                Ok(a) => a,
                Err(e) => {
                    part(stream, &line(&e));
                    return Err(e);
                }
            };
            let (kind, body) = match packing {
                Some((digest, compression)) => {
                    packed.clear();
                    wrap(digest, compression, &content, &mut packed);
                    (proto::PACKED, &packed)
                }
                None => (proto::RESULT, &content),
            };
            let head = answer.encode();
            let mut first = Vec::with_capacity(64);
            first.extend_from_slice(&encode_frame_header(kind, head.len() + body.len()));
            first.extend_from_slice(&head);
            let sent = stream
                .write_all(&first)
                .and_then(|()| stream.write_all(body));
            if sent.is_err() {
                // The client went away.
                return Ok(());
            }
        }
        Ok(())
    }
}

/// Says why and closes. Questions that are under way are read first: closing with unread bytes resets the connection, and the
/// reason would be lost.
fn part(stream: &mut TcpStream, why: &str) {
    let said = write_frame(stream, proto::FAILED, why.as_bytes())
        .and_then(|()| stream.shutdown(std::net::Shutdown::Write))
        .and_then(|()| stream.set_read_timeout(Some(Duration::from_secs(5))));
    if said.is_ok() {
        for _ in 0..4 * crate::window::WINDOW {
            if read_frame(stream, proto::REQUEST_MAX).is_err() {
                return;
            }
        }
    }
}

fn line(e: &anyhow::Error) -> String {
    format!("{e:#}").chars().take(200).collect()
}

/// `None` when the client went away.
fn next_frame(stream: &mut TcpStream, max: usize) -> anyhow::Result<Option<mars_net::Frame>> {
    match read_frame(stream, max) {
        Ok(f) => Ok(Some(f)),
        Err(FrameError::Io(_)) => Ok(None),
        Err(e) => Err(e.into()),
    }
}
