//! Sockets: listening, dialling, reading, writing. No decisions here; everything goes to the engine as an [`Event`].
use crate::gate::Gate;
use crate::spread::ConnId;
use crate::visit::Reply;
use crate::wire::{BODY_MAX, Message};
use mars_live::Clock;
use mars_net::{Hello, HelloError, MergeRequest, Service, tokio_io};
use mars_tree::HostName;
use std::cell::{Cell, RefCell};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

/// Connecting and shaking hands take at most this.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// A connection says something at least this often ...
const IDLE: Duration = Duration::from_secs(10);
/// ... so silence for this long means that the peer is gone.
const SILENCE: Duration = Duration::from_secs(30);
const BACKOFF_MIN: Duration = Duration::from_millis(200);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// Connections that are still shaking hands: from strangers, and from addresses of members. Strangers cannot keep members out.
const STRANGERS_MAX: usize = 16;
const MEMBERS_PENDING_MAX: usize = 64;

/// What happened on the network.
#[derive(Debug)]
pub enum Event {
    /// Hands were shaken.
    Up {
        /// Who.
        hello: Hello,
        /// By our call, or by theirs.
        dialled: bool,
        /// The connection.
        stream: TcpStream,
    },
    /// A message.
    Received(ConnId, Message),
    /// The last frame was written; there is room for the next.
    Written(ConnId),
    /// The connection ended.
    Down(ConnId, String),
    /// Somebody did not get in, or we did not: who, why.
    Failed(String, Failure),
    /// A visitor asks for a merge: its name, what it wants, where the answer goes.
    Asked(String, MergeRequest, Reply),
}

/// Why a connection did not come about.
#[derive(Debug)]
pub enum Failure {
    /// Not reachable now; tried again.
    Unreachable(String),
    /// Refused by one side, or no MARS at all.
    Refused(String),
    /// Refused by a member: this host was removed from the cluster at that time.
    Removed(mars_tree::Stamp, String),
}

impl Failure {
    fn of(e: HelloError) -> Failure {
        match e {
            HelloError::Io(e) => Failure::Unreachable(e.to_string()),
            e => Failure::Refused(e.to_string()),
        }
    }
}

/// When to make the first attempt at a new target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Start {
    /// At once; the back-off starts from the beginning.
    Now,
    /// After the shortest back-off.
    Soon,
    /// After the back-off that was reached: the last connection was no good.
    Later,
}

/// Where to dial.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Target {
    /// Peer's address.
    pub addr: SocketAddr,
    /// Own address to come from.
    pub bind: Option<IpAddr>,
    /// Counts up with every reason to dial again.
    pub turn: u64,
    /// When to make the first attempt.
    pub start: Start,
}

/// The engine's current opinion, shared with handshakes.
pub type SharedGate = Rc<RefCell<Gate>>;

fn my_hello(gate: &SharedGate) -> Hello {
    let g = gate.borrow();
    Hello::new(
        Service::Meta,
        g.uuid.clone().unwrap_or_default(),
        g.me.as_str(),
    )
}

fn too_slow() -> HelloError {
    HelloError::Io(io::Error::new(
        io::ErrorKind::TimedOut,
        "no answer in time during the handshake",
    ))
}

async fn dial(
    target: &Target,
    host: &HostName,
    gate: &SharedGate,
) -> Result<(TcpStream, Hello), HelloError> {
    let socket = match target.addr {
        SocketAddr::V4(_) => TcpSocket::new_v4()?,
        SocketAddr::V6(_) => TcpSocket::new_v6()?,
    };
    if let Some(ip) = target.bind {
        socket.bind(SocketAddr::new(ip, 0))?;
    }
    let mut stream = socket.connect(target.addr).await?;
    mars_net::tune(&stream)?;
    let mine = my_hello(gate);
    let check = |h: &Hello| gate.borrow().check(h, Some(host));
    let hello = tokio_io::offer_hello(&mut stream, &mine, check).await?;
    Ok((stream, hello))
}

/// Dials one peer for ever: whenever a target is set, until a connection stands or the target goes.
pub async fn dialler(
    host: HostName,
    mut targets: watch::Receiver<Option<Target>>,
    gate: SharedGate,
    events: mpsc::Sender<Event>,
) {
    let mut backoff = BACKOFF_MIN;
    let mut first = true;
    loop {
        let Some(target) = targets.borrow_and_update().clone() else {
            if targets.changed().await.is_err() {
                return;
            }
            first = true;
            continue;
        };
        if first && target.start != Start::Later {
            backoff = BACKOFF_MIN;
        }
        if !(first && target.start == Start::Now) {
            tokio::select! {
                () = tokio::time::sleep(backoff) => backoff = (backoff * 2).min(BACKOFF_MAX),
                r = targets.changed() => {
                    if r.is_err() {
                        return;
                    }
                    first = true;
                    continue;
                }
            }
        }
        first = false;
        let attempt = timeout(HANDSHAKE, dial(&target, &host, &gate));
        let result = tokio::select! {
            r = attempt => r.unwrap_or_else(|_| Err(too_slow())),
            r = targets.changed() => {
                if r.is_err() {
                    return;
                }
                first = true;
                continue;
            }
        };
        let event = match result {
            Ok((stream, hello)) => Event::Up {
                hello,
                dialled: true,
                stream,
            },
            Err(e) => {
                let removed = match &e {
                    HelloError::RefusedByPeer(why) => gate.borrow().removal(why),
                    _ => None,
                };
                let failure = match removed {
                    Some(at) => Failure::Removed(at, e.to_string()),
                    None => Failure::of(e),
                };
                Event::Failed(format!("{host} ({})", target.addr), failure)
            }
        };
        let up = matches!(event, Event::Up { .. });
        if events.send(event).await.is_err() {
            return;
        }
        // The engine takes the target away when it keeps the connection. If it does not, that counts as a failed attempt.
        if up
            && timeout(BACKOFF_MAX, targets.changed())
                .await
                .is_ok_and(|r| r.is_err())
        {
            return;
        }
    }
}

/// Counts a handshake in progress as long as it lives.
struct Slot(Rc<Cell<usize>>);

impl Slot {
    fn take(counter: &Rc<Cell<usize>>, max: usize) -> Option<Slot> {
        (counter.get() < max).then(|| {
            counter.set(counter.get() + 1);
            Slot(counter.clone())
        })
    }
}
impl Drop for Slot {
    fn drop(&mut self) {
        self.0.set(self.0.get().saturating_sub(1));
    }
}

/// Accepts connections for ever and shakes hands with each, a bounded number at a time.
pub async fn acceptor(listener: TcpListener, gate: SharedGate, events: mpsc::Sender<Event>) {
    let strangers = Rc::new(Cell::new(0));
    let members = Rc::new(Cell::new(0));
    loop {
        let (mut stream, from) = match listener.accept().await {
            Ok(c) => c,
            Err(e) => {
                // Out of descriptors or a connection that broke before it was taken. The pause keeps us from spinning.
                let _ = events
                    .send(Event::Failed(
                        "accept".into(),
                        Failure::Refused(e.to_string()),
                    ))
                    .await;
                tokio::time::sleep(BACKOFF_MIN).await;
                continue;
            }
        };
        let known = gate.borrow().members.values().any(|ip| *ip == from.ip());
        let slot = if known {
            Slot::take(&members, MEMBERS_PENDING_MAX)
        } else {
            Slot::take(&strangers, STRANGERS_MAX)
        };
        let Some(slot) = slot else {
            let why = "too many connections that do not say who they are".to_string();
            let _ = events
                .send(Event::Failed(from.ip().to_string(), Failure::Refused(why)))
                .await;
            continue;
        };
        let (gate, events) = (gate.clone(), events.clone());
        tokio::task::spawn_local(async move {
            let _slot = slot;
            let _ = mars_net::tune(&stream);
            let mine = my_hello(&gate);
            let mut who = None;
            let check = |h: &Hello| {
                who = Some(h.host.clone());
                gate.borrow().check(h, None)
            };
            let answer = |h: &Hello| {
                let uuid = gate.borrow().answer_uuid(&h.uuid, &mine.uuid);
                Hello {
                    uuid,
                    ..mine.clone()
                }
            };
            let shake = tokio_io::answer_hello(&mut stream, &mine, check, answer);
            let event = match timeout(HANDSHAKE, shake)
                .await
                .unwrap_or_else(|_| Err(too_slow()))
            {
                Ok(hello) => Event::Up {
                    hello,
                    dialled: false,
                    stream,
                },
                Err(e) => {
                    // Let the refusal arrive: closing with unread data in our buffer would reset the connection.
                    let _ = stream.shutdown().await;
                    drain(&mut stream).await;
                    let who = who
                        .map_or_else(|| from.ip().to_string(), |h| format!("{h} ({})", from.ip()));
                    Event::Failed(who, Failure::of(e))
                }
            };
            let _ = events.send(event).await;
        });
    }
}

/// Reads what is still coming, for a moment and a bounded amount.
async fn drain(stream: &mut TcpStream) {
    use tokio::io::AsyncReadExt;
    let mut buf = [0u8; 4096];
    let all = async {
        for _ in 0..64 {
            match stream.read(&mut buf).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {}
            }
        }
    };
    let _ = timeout(Duration::from_millis(500), all).await;
}

/// Reads messages until the connection ends.
pub async fn reader(conn: ConnId, mut half: OwnedReadHalf, events: mpsc::Sender<Event>) {
    let why = loop {
        let frame = match timeout(SILENCE, tokio_io::read_frame(&mut half, BODY_MAX)).await {
            Err(_) => break format!("silent for {} s", SILENCE.as_secs()),
            Ok(Err(mars_net::FrameError::Io(e))) if e.kind() == io::ErrorKind::UnexpectedEof => {
                break "closed by the peer".to_string();
            }
            Ok(Err(e)) => break e.to_string(),
            Ok(Ok(f)) => f,
        };
        match Message::decode(frame.kind, &frame.body) {
            Ok(m) => {
                if events.send(Event::Received(conn, m)).await.is_err() {
                    return;
                }
            }
            Err(e) => break e.to_string(),
        }
    };
    let _ = events.send(Event::Down(conn, why)).await;
}

/// Writes frames as they are handed over, one at a time. Ends the sending direction cleanly when the engine drops its side.
pub async fn writer(
    conn: ConnId,
    mut half: OwnedWriteHalf,
    mut frames: mpsc::Receiver<Vec<u8>>,
    clock: Clock,
    events: mpsc::Sender<Event>,
) {
    loop {
        let (bytes, idle) = match timeout(IDLE, frames.recv()).await {
            Ok(Some(b)) => (b, false),
            Ok(None) => {
                let _ = half.shutdown().await;
                return;
            }
            Err(_) => (Message::Idle { now: clock.now() }.encode(), true),
        };
        let event = match half.write_all(&bytes).await {
            Ok(()) if idle => continue,
            Ok(()) => Event::Written(conn),
            Err(e) => Event::Down(conn, e.to_string()),
        };
        let end = matches!(event, Event::Down(..));
        if events.send(event).await.is_err() || end {
            return;
        }
    }
}
