//! The connections: at most one per peer, used in both directions. Whichever side can reach the other makes it, so that reachability may be one-sided.
use crate::conn::{Event, Failure, SharedGate, Start, Target, acceptor, dialler, reader, writer};
use crate::quiet::Quiet;
use crate::spread::{ConnId, Outgoing, Spread};
use crate::story::shared;
use crate::wire::{BATCH_BYTES, Message};
use mars_daemon::events;
use mars_live::Clock;
use mars_net::{Hello, VISITOR, bind_for};
use mars_tree::HostName;
use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::{AbortHandle, spawn_local};

/// Two connections between the same hosts within this time come from both dialling at once.
const RACE: Duration = Duration::from_secs(6);
/// A connection that lived for so long was a good one.
const GOOD: Duration = Duration::from_secs(10);
/// A host that left the cluster may still listen for this long, so that it sees the effect of its leaving. A host that joins tells its address
/// with its first links.
const LEAVE_GRACE: Duration = Duration::from_secs(60);
/// Joining hosts that are connected at once.
const JOINERS_MAX: usize = 8;

struct Conn {
    host: HostName,
    uuid: String,
    dialled: bool,
    since: Instant,
    /// Since when the host is no member.
    stranger_since: Option<Instant>,
    /// `None` = nothing more will be sent.
    frames: Option<mpsc::Sender<Vec<u8>>>,
    /// A frame is on its way to the socket.
    busy: bool,
    tasks: [AbortHandle; 2],
}

struct Dialler {
    target: watch::Sender<Option<Target>>,
    task: AbortHandle,
}

/// All connections and what makes them.
pub struct Mesh {
    me: HostName,
    port: u16,
    clock: Clock,
    gate: SharedGate,
    events: mpsc::Sender<Event>,
    conns: BTreeMap<ConnId, Conn>,
    diallers: BTreeMap<HostName, Dialler>,
    acceptor: Option<(IpAddr, AbortHandle)>,
    last_conn: ConnId,
    turn: u64,
    closing: bool,
}

impl Mesh {
    /// No connections yet. The events go to the engine.
    pub fn new(
        me: HostName,
        port: u16,
        clock: Clock,
        gate: SharedGate,
        events: mpsc::Sender<Event>,
    ) -> Mesh {
        Mesh {
            me,
            port,
            clock,
            gate,
            events,
            conns: BTreeMap::new(),
            diallers: BTreeMap::new(),
            acceptor: None,
            last_conn: 0,
            turn: 0,
            closing: false,
        }
    }

    /// One line for `systemctl status`.
    pub fn status(&self) -> String {
        let g = self.gate.borrow();
        if g.uuid.is_none() {
            return "in no cluster yet".into();
        }
        let peers: Vec<_> = g.members.keys().filter(|h| **h != self.me).collect();
        let missing: Vec<_> = peers
            .iter()
            .filter(|h| self.conn_of(h).is_none())
            .map(|h| h.as_str())
            .collect();
        let up = peers.len() - missing.len();
        let mut text = format!("{up} of {} peers connected", peers.len());
        if !missing.is_empty() {
            text += &format!(", not {}", missing.join(", "));
        }
        text
    }

    /// The peer of a connection that still counts.
    pub fn host_of(&self, conn: ConnId) -> Option<HostName> {
        self.conns.get(&conn).map(|c| c.host.clone())
    }

    fn conn_of(&self, host: &HostName) -> Option<ConnId> {
        self.conns
            .iter()
            .find(|(_, c)| c.host == *host)
            .map(|(id, _)| *id)
    }

    /// Something happened on the network (messages are the engine's business).
    pub fn on_event(&mut self, event: Event, spread: &mut Spread, quiet: &mut Quiet) {
        match event {
            Event::Up {
                hello,
                dialled,
                stream,
            } => self.up(hello, dialled, stream, spread, quiet),
            Event::Written(conn) => {
                if let Some(c) = self.conns.get_mut(&conn) {
                    c.busy = false;
                }
            }
            Event::Down(conn, why) => self.down(conn, &why, spread, quiet),
            Event::Failed(who, Failure::Unreachable(why)) => tracing::debug!("{who}: {why}"),
            Event::Failed(who, Failure::Refused(why) | Failure::Removed(_, why)) => {
                if quiet.is_news(&who, &why, Instant::now()) {
                    tracing::warn!("{who}: {why}");
                }
            }
            Event::Received(..) | Event::Asked(..) => {}
        }
    }

    fn up(
        &mut self,
        hello: Hello,
        dialled: bool,
        stream: TcpStream,
        spread: &mut Spread,
        quiet: &mut Quiet,
    ) {
        let now = Instant::now();
        // The tree may have changed during the handshake.
        let verdict = self.gate.borrow().check(&hello, None);
        let (Ok(()), Ok(host)) = (verdict, hello.host.parse::<HostName>()) else {
            return;
        };
        if self.closing || hello.uuid == VISITOR {
            return;
        }
        if let Some(old) = self.conn_of(&host) {
            if let Some(c) = self.conns.get(&old)
                && c.dialled != dialled
                && now.duration_since(c.since) < RACE
            {
                // Both dialled at the same time. Both keep the call of the host whose name is smaller.
                let mine = self.me < host;
                if mine != dialled {
                    tracing::debug!("{host}: surplus connection dropped");
                    return;
                }
            }
            // The peer would not call if its side of the old connection were alive.
            self.disconnect(old, spread);
        }
        let member = self.gate.borrow().members.contains_key(&host);
        let strangers = self.conns.values().filter(|c| c.stranger_since.is_some());
        if !member && strangers.count() >= JOINERS_MAX {
            if quiet.is_news(host.as_str(), "joiners", now) {
                tracing::warn!("{host}: refused, too many hosts are joining at once");
            }
            return;
        }
        self.last_conn += 1;
        let id = self.last_conn;
        let (r, w) = stream.into_split();
        let (tx, rx) = mpsc::channel(1);
        let tasks = [
            spawn_local(reader(id, r, self.events.clone())).abort_handle(),
            spawn_local(writer(id, w, rx, self.clock.clone(), self.events.clone())).abort_handle(),
        ];
        let conn = Conn {
            host: host.clone(),
            uuid: hello.uuid,
            dialled,
            since: now,
            stranger_since: (!member).then_some(now),
            frames: Some(tx),
            busy: false,
            tasks,
        };
        self.conns.insert(id, conn);
        spread.connect(id);
        self.retarget(&host, Start::Later);
        let way = if dialled { "called" } else { "called by it" };
        let resources = shared(spread, &self.me, &host);
        events::peer_back(&resources, &host, &format!(" ({way})"));
    }

    /// A connection ended, or has to.
    pub fn down(&mut self, conn: ConnId, why: &str, spread: &mut Spread, quiet: &mut Quiet) {
        let Some(c) = self.conns.get(&conn) else {
            return;
        };
        let host = c.host.clone();
        let now = Instant::now();
        let good = now.duration_since(c.since) >= GOOD;
        if good {
            quiet.forget(host.as_str());
        }
        // At the end of this daemon all connections end.
        if !self.closing {
            events::peer_lost(&shared(spread, &self.me, &host), &host, why);
        }
        self.disconnect(conn, spread);
        // Of two hosts that lose each other, one calls at once, the other a little later.
        let start = match (good, self.me < host) {
            (true, true) => Start::Now,
            (true, false) => Start::Soon,
            (false, _) => Start::Later,
        };
        self.retarget(&host, start);
    }

    fn disconnect(&mut self, conn: ConnId, spread: &mut Spread) {
        spread.disconnect(conn);
        if let Some(c) = self.conns.remove(&conn) {
            for t in &c.tasks {
                t.abort();
            }
        }
    }

    /// `uuid` or `ips/` changed.
    pub fn cluster_changed(&mut self, spread: &mut Spread, quiet: &mut Quiet) {
        let now = Instant::now();
        let gate = self.gate.borrow().clone();
        let foreign: Vec<_> = self
            .conns
            .iter()
            .filter_map(|(id, c)| {
                let why = match gate.apart.contains(&c.host) {
                    true => "the cluster was split".to_string(),
                    false => gate.same_cluster(&c.uuid).err()?.to_string(),
                };
                Some((*id, why))
            })
            .collect();
        for (id, why) in foreign {
            self.down(id, &why, spread, quiet);
        }
        for c in self.conns.values_mut() {
            if gate.members.contains_key(&c.host) {
                c.stranger_since = None;
            } else {
                c.stranger_since.get_or_insert(now);
            }
        }
        self.listen(quiet);
        let known: Vec<HostName> = gate
            .members
            .keys()
            .chain(self.diallers.keys())
            .cloned()
            .collect();
        for host in known {
            self.retarget(&host, Start::Now);
        }
    }

    /// Serves on the own address.
    fn listen(&mut self, quiet: &mut Quiet) {
        let want = {
            let g = self.gate.borrow();
            g.my_ip().filter(|_| g.uuid.is_some() && !self.closing)
        };
        if self.acceptor.as_ref().map(|(ip, _)| *ip) == want {
            return;
        }
        if let Some((_, task)) = self.acceptor.take() {
            task.abort();
        }
        let Some(ip) = want else { return };
        let listener = mars_net::listen(ip, self.port).and_then(|l| {
            l.socket.set_nonblocking(true)?;
            tokio::net::TcpListener::from_std(l.socket)
        });
        match listener {
            Ok(l) => {
                quiet.forget("listen");
                let task = spawn_local(acceptor(l, self.gate.clone(), self.events.clone()));
                self.acceptor = Some((ip, task.abort_handle()));
            }
            // Tried again at the next heartbeat: the address may appear later.
            Err(e) => {
                if quiet.is_news("listen", &e.to_string(), Instant::now()) {
                    tracing::warn!("{e}; trying again");
                }
            }
        }
    }

    /// Sets or clears the dialler's target of a host.
    fn retarget(&mut self, host: &HostName, start: Start) {
        let (ip, bind) = {
            let g = self.gate.borrow();
            let dial = g.uuid.is_some()
                && !self.closing
                && *host != self.me
                && self.conn_of(host).is_none();
            let ip = g.members.get(host).copied().filter(|_| dial);
            (ip, bind_for(g.my_ip()))
        };
        if !self.diallers.contains_key(host) {
            if ip.is_none() {
                return;
            }
            let (target, rx) = watch::channel(None);
            let task = spawn_local(dialler(
                host.clone(),
                rx,
                self.gate.clone(),
                self.events.clone(),
            ))
            .abort_handle();
            self.diallers.insert(host.clone(), Dialler { target, task });
        }
        self.turn += 1;
        let turn = self.turn;
        let new = ip.map(|ip| Target {
            addr: SocketAddr::new(ip, self.port),
            bind: bind.filter(|b| b.is_ipv4() == ip.is_ipv4()),
            turn,
            start,
        });
        if let Some(d) = self.diallers.get(host) {
            d.target.send_if_modified(|old| {
                let same = match (&*old, &new) {
                    (Some(a), Some(b)) => a.addr == b.addr && a.bind == b.bind,
                    (None, None) => true,
                    _ => false,
                };
                if !same {
                    *old = new;
                }
                !same
            });
        }
        if !self.gate.borrow().members.contains_key(host)
            && let Some(d) = self.diallers.remove(host)
        {
            d.task.abort();
        }
    }

    /// Now and then: connections to hosts that left, and a listener that could not be made.
    pub fn housekeeping(&mut self, spread: &mut Spread, quiet: &mut Quiet, now: Instant) {
        let gone: Vec<_> = self
            .conns
            .iter()
            .filter(|(_, c)| {
                c.stranger_since
                    .is_some_and(|t| now.duration_since(t) >= LEAVE_GRACE)
            })
            .map(|(id, _)| *id)
            .collect();
        for id in gone {
            self.down(id, "no member of this cluster any more", spread, quiet);
        }
        self.listen(quiet);
    }

    /// A ping for everybody.
    pub fn ping_all(&mut self, spread: &mut Spread) {
        for id in self.conns.keys() {
            spread.ping(*id);
        }
    }

    /// Hands the next frame to every connection that can take one.
    pub fn pump(&mut self, spread: &mut Spread) {
        for (id, c) in &mut self.conns {
            let Some(frames) = c.frames.as_ref().filter(|_| !c.busy) else {
                continue;
            };
            let now = self.clock.now();
            let message = match spread.next(*id, BATCH_BYTES) {
                None => continue,
                Some(Outgoing::Ping) => Message::Ping { now },
                Some(Outgoing::Links { complete, links }) => Message::Links {
                    now,
                    complete,
                    links,
                },
            };
            // There is room: one frame at a time. If the writer is gone, its end is in the queue of events.
            let _ = frames.try_send(message.encode());
            c.busy = true;
        }
    }

    /// At the end: no more calls, in or out.
    pub fn no_new_connections(&mut self) {
        self.closing = true;
        if let Some((_, task)) = self.acceptor.take() {
            task.abort();
        }
        for d in std::mem::take(&mut self.diallers).into_values() {
            d.task.abort();
        }
    }

    /// Is a frame on its way?
    pub fn is_sending(&self) -> bool {
        self.conns.values().any(|c| c.busy)
    }

    /// Ends the sending direction of all connections; they close when the peers have read everything.
    pub fn finish_sending(&mut self) {
        for c in self.conns.values_mut() {
            c.frames = None;
        }
    }

    /// Any left?
    pub fn has_connections(&self) -> bool {
        !self.conns.is_empty()
    }
}
