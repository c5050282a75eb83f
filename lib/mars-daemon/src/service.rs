//! Connections between members of the cluster: the serving side of a data service, and dialling one.
use crate::trouble::{Once, peer_left};
use crate::{Daemon, InstanceLock};
use anyhow::Context;
use mars_net::{Conn, ConnectOptions, Hello, Refusal, Service, bind_for};
use mars_tree::{HostEnv, HostName, Key, Tree};
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Limit for connecting and for the handshake.
const HELLO_TIMEOUT: Duration = Duration::from_secs(10);
/// Connections whose hello has not been heard yet, in all and from one address. They have places of their own: silent strangers
/// never take one from a member, and need several addresses to keep members from shaking hands.
const STRANGERS_MAX: usize = 64;
const STRANGERS_PER_ADDRESS: usize = 16;
/// After the process has run out of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_secs(1);

/// A data service of a host.
#[derive(Clone, Copy, Debug)]
pub struct ServiceSpec {
    /// Which one.
    pub service: Service,
    /// Its port is the base port plus this.
    pub port_offset: u16,
    /// Connections at once.
    pub connections_max: usize,
    /// Silence of a client between two requests, and a stuck receiver.
    pub client_timeout: Duration,
}

/// Small threads: the stacks of idle ones should not count.
pub fn spawn(name: &str, f: impl FnOnce() + Send + 'static) -> io::Result<()> {
    std::thread::Builder::new()
        .name(name.into())
        .stack_size(256 << 10)
        .spawn(f)
        .map(drop)
}

/// Connects to the service of a member. The one that answers must be that host of the same cluster.
pub fn dial_member(
    env: &HostEnv,
    tree: &Tree,
    spec: (Service, u16),
    host: &HostName,
    ip: &str,
    read_timeout: Duration,
) -> anyhow::Result<Conn> {
    let (service, port_offset) = spec;
    let uuid = tree
        .text(&Key::Uuid)?
        .context("this host has no cluster uuid")?;
    let addr: IpAddr = ip
        .parse()
        .with_context(|| format!("address {ip:?} of {host}"))?;
    let own = tree.text(&Key::Ip(env.host.clone()))?;
    let opts = ConnectOptions {
        bind: bind_for(own.and_then(|t| t.parse().ok())),
        timeout: HELLO_TIMEOUT,
        read_timeout,
    };
    let port = service_port(env, port_offset)?;
    let mine = Hello::new(service, uuid, env.host.as_str());
    mars_net::connect(addr, port, &mine, &opts, |peer| {
        check_uuid(&mine, peer)?;
        if peer.host == host.as_str() {
            return Ok(());
        }
        let why = format!("expected {host}, found {:?}", peer.host);
        Err(Refusal::Other(why))
    })
    .with_context(|| format!("connecting to {host} ({addr} port {port})"))
}

fn service_port(env: &HostEnv, offset: u16) -> anyhow::Result<u16> {
    env.port
        .checked_add(offset)
        .context("MARS_PORT is too large")
}

fn check_uuid(mine: &Hello, peer: &Hello) -> Result<(), Refusal> {
    if peer.uuid == mine.uuid && !mine.uuid.is_empty() {
        return Ok(());
    }
    Err(Refusal::Uuid {
        theirs: peer.uuid.clone(),
        ours: mine.uuid.clone(),
    })
}

/// A member of this cluster?
fn check_member(tree: &Tree, mine: &Hello, peer: &Hello) -> Result<(), Refusal> {
    check_uuid(mine, peer)?;
    let member = peer
        .host
        .parse::<HostName>()
        .is_ok_and(|h| matches!(tree.text(&Key::Ip(h)), Ok(Some(_))));
    if member {
        Ok(())
    } else {
        Err(Refusal::Host(peer.host.clone()))
    }
}

/// `--ip`, else the own address of the cluster, else any.
fn listen_address(tree: &Tree, env: &HostEnv, ip: Option<IpAddr>) -> anyhow::Result<IpAddr> {
    if let Some(ip) = ip {
        return Ok(ip);
    }
    let text = tree.text(&Key::Ip(env.host.clone()))?;
    Ok(text
        .and_then(|t| t.parse().ok())
        .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED)))
}

struct Server<F> {
    spec: ServiceSpec,
    env: HostEnv,
    tree: Tree,
    connections: AtomicUsize,
    strangers: Arc<Strangers>,
    noted: Mutex<Once>,
    serve: F,
}

/// The place of a member: given back when the connection ends, however it ends.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(taken: &'a AtomicUsize, max: usize) -> anyhow::Result<Place<'a>> {
        let before = taken.fetch_add(1, Ordering::Relaxed);
        let place = Place(taken);
        anyhow::ensure!(before < max, TOO_MANY);
        Ok(place)
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

const TOO_MANY: &str = "too many connections";

/// Who has connected and not yet said who it is.
#[derive(Debug, Default)]
struct Strangers(Mutex<HashMap<IpAddr, usize>>);

/// One of them; gives its place back.
struct Stranger(Arc<Strangers>, IpAddr);

impl Strangers {
    fn take(self: &Arc<Self>, from: IpAddr) -> Option<Stranger> {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (all, here) = (map.values().sum::<usize>(), map.get(&from).copied());
        let here = here.unwrap_or(0);
        if all >= STRANGERS_MAX || here >= STRANGERS_PER_ADDRESS {
            return None;
        }
        map.insert(from, here + 1);
        Some(Stranger(Arc::clone(self), from))
    }
}

impl Drop for Stranger {
    fn drop(&mut self) {
        let mut map = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(n) = map.get_mut(&self.1) {
            *n -= 1;
            if *n == 0 {
                map.remove(&self.1);
            }
        }
    }
}

/// Listens and calls `serve` for every member that connects, each in a thread of its own, until stopped. Others are refused and
/// logged once. `name` is the name of the instance lock.
///
/// `serve` must hold no state beyond its connection: the end of the process ends it anywhere.
pub fn serve_members<F>(
    d: &Daemon,
    spec: ServiceSpec,
    name: &str,
    ip: Option<IpAddr>,
    make: impl FnOnce(&Tree) -> anyhow::Result<F>,
) -> anyhow::Result<()>
where
    F: Fn(Conn) -> anyhow::Result<()> + Send + Sync + 'static,
{
    let _lock = InstanceLock::acquire(&d.env, name, None)?;
    let tree = Tree::open(&d.env)?;
    let addr = listen_address(&tree, &d.env, ip)?;
    let listener = mars_net::listen(addr, service_port(&d.env, spec.port_offset)?)?;
    let server = Arc::new(Server {
        spec,
        env: d.env.clone(),
        serve: make(&tree)?,
        tree,
        connections: AtomicUsize::new(0),
        strangers: Arc::default(),
        noted: Mutex::default(),
    });
    spawn("accept", move || server.accept(&listener.socket))?;
    d.ready();
    d.status("serving");
    while !d.stop.wait(Duration::from_secs(3600)) {}
    Ok(())
}

impl<F> Server<F>
where
    F: Fn(Conn) -> anyhow::Result<()> + Send + Sync + 'static,
{
    fn accept(self: &Arc<Self>, listener: &TcpListener) {
        loop {
            match listener.accept() {
                Ok((stream, from)) => self.start(stream, from.ip()),
                // A client that went away again.
                Err(e) if e.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                // Descriptors or memory ran out: without a pause this loop would only make it worse.
                Err(e) => {
                    if self.is_news(&format!("accepting connections: {e}")) {
                        tracing::warn!("accepting connections: {e}");
                    }
                    std::thread::sleep(ACCEPT_PAUSE);
                }
            }
        }
    }

    fn start(self: &Arc<Self>, stream: TcpStream, from: IpAddr) {
        let Some(stranger) = self.strangers.take(from) else {
            self.note(from, &anyhow::anyhow!(TOO_MANY));
            return;
        };
        let server = Arc::clone(self);
        let done = spawn("serve", move || {
            if let Err(e) = server.handle(stream, stranger) {
                server.note(from, &e);
            }
        });
        if let Err(e) = done {
            tracing::warn!("cannot start a thread: {e}");
        }
    }

    fn handle(&self, stream: TcpStream, stranger: Stranger) -> anyhow::Result<()> {
        let uuid = self.tree.text(&Key::Uuid)?.unwrap_or_default();
        let mine = Hello::new(self.spec.service, uuid, self.env.host.as_str());
        let timeout = self.spec.client_timeout;
        let conn = mars_net::accept(stream, &mine, HELLO_TIMEOUT, timeout, |peer| {
            check_member(&self.tree, &mine, peer)
        })?;
        drop(stranger);
        let _place = Place::take(&self.connections, self.spec.connections_max)?;
        tracing::debug!("serving {}", conn.peer.host);
        (self.serve)(conn)
    }

    fn is_news(&self, line: &str) -> bool {
        self.noted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .first(line)
    }

    /// One line per peer and reason. That a client left is no trouble.
    fn note(&self, from: IpAddr, e: &anyhow::Error) {
        if let Some(why) = peer_left(e) {
            tracing::debug!("{from}: {why}");
            return;
        }
        let line = format!("connection from {from}: {e:#}");
        if self.is_news(&line) {
            tracing::warn!("{line}");
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn strangers_of_one_address_leave_room_for_others() {
        let ip = |n: u8| IpAddr::from([127, 27, 1, n]);
        let all: Arc<Strangers> = Arc::default();
        let mut held: Vec<Stranger> = std::iter::from_fn(|| all.take(ip(1))).collect();
        assert_eq!(held.len(), STRANGERS_PER_ADDRESS);
        held.push(all.take(ip(2)).unwrap());
        held.remove(0);
        held.push(all.take(ip(1)).unwrap());
        assert!(all.take(ip(1)).is_none());
        for n in 3..=9 {
            held.extend(std::iter::from_fn(|| all.take(ip(n))));
        }
        assert_eq!(held.len(), STRANGERS_MAX);
        assert!(all.take(ip(10)).is_none());
        held.clear();
        assert!(all.0.lock().unwrap().is_empty(), "nothing is kept");
    }

    #[test]
    fn members_are_counted_apart() {
        let taken = AtomicUsize::new(0);
        let first = Place::take(&taken, 1).unwrap();
        assert!(Place::take(&taken, 1).is_err());
        drop(first);
        assert!(Place::take(&taken, 1).is_ok());
        assert_eq!(taken.load(Ordering::Relaxed), 0);
    }
}
