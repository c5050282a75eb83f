//! Front end `nbd-socket`: an NBD server on a unix socket, for qemu, libnbd and tests; needs no root.
//!
//! One thread accepts, one thread per connection negotiates ([`handshake`]) and then serves ([`serve`]). Answers may come from any
//! thread; [`conn`] says how they are sent.

mod conn;
mod handshake;
mod proto;
mod serve;

use crate::link::DeviceLink;
use crate::pool::Pool;
use crate::{Backend, Front};
use conn::{Conn, STACK};
use mars_tree::{HostEnv, ResName};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket,
};
use std::collections::HashMap;
use std::fs;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Connections at one time; more are closed at once.
const CONNECTIONS_MAX: usize = 64;
/// When stopping: a client that takes no answer for so long is cut.
const STUCK: Duration = Duration::from_secs(5);
/// When stopping: the backend owes answers for so long without any progress: give up waiting.
const GIVE_UP: Duration = Duration::from_secs(120);

struct Peer {
    conn: Arc<Conn>,
    transmitting: bool,
    /// Progress seen last, when stopping.
    sent: u64,
}

#[derive(Default)]
struct State {
    stopping: bool,
    peers: HashMap<u64, Peer>,
}

impl State {
    fn openers(&self) -> u64 {
        self.peers.values().filter(|p| p.transmitting).count() as u64
    }
}

struct Shared {
    backend: Arc<dyn Backend>,
    names: [String; 2],
    state: Mutex<State>,
    /// A connection has ended.
    cond: Condvar,
    pool: Arc<Pool>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection `id` wants to use the device.
    fn enter(&self, id: u64) -> Result<(), i32> {
        if self.state().stopping {
            return Err(libc::ESHUTDOWN);
        }
        // Without the lock: the backend may take its time.
        self.backend.opened()?;
        let mut state = self.state();
        match state.peers.get_mut(&id) {
            Some(peer) => peer.transmitting = true,
            None => {
                drop(state);
                self.backend.closed();
                return Err(libc::ESHUTDOWN);
            }
        }
        if state.stopping {
            drop(state);
            self.leave(id);
            return Err(libc::ESHUTDOWN);
        }
        Ok(())
    }

    fn leave(&self, id: u64) {
        let mut state = self.state();
        let was = state
            .peers
            .get_mut(&id)
            .is_some_and(|p| std::mem::take(&mut p.transmitting));
        drop(state);
        if was {
            self.backend.closed();
        }
    }

    fn connection(&self, id: u64, conn: &Arc<Conn>) -> io::Result<()> {
        let export = handshake::Export {
            names: &self.names,
            size: self.backend.size(),
        };
        let Some(structured) = handshake::negotiate(
            &conn.sock,
            &export,
            || self.enter(id),
            || self.leave(id),
            handshake::DEADLINE,
        )?
        else {
            return Ok(());
        };
        let result = serve::serve(conn, &self.backend, &self.pool, structured);
        self.leave(id);
        result
    }

    fn accept(self: &Arc<Self>, listener: &UnixListener) {
        let mut next_id = 0;
        let mut complained = false;
        loop {
            let sock = match listener.accept() {
                Ok((sock, _)) => sock,
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::Interrupted | io::ErrorKind::ConnectionAborted
                    ) =>
                {
                    continue;
                }
                Err(e) => {
                    if self.state().stopping {
                        return;
                    }
                    // Out of descriptors or memory: both pass when connections end. Without a pause this would spin.
                    if !std::mem::replace(&mut complained, true) {
                        tracing::warn!("nbd socket: accept: {e}");
                    }
                    let state = self.state();
                    let _ = self.cond.wait_timeout(state, Duration::from_secs(1));
                    continue;
                }
            };
            let conn = Conn::new(sock);
            let id = next_id;
            next_id += 1;
            let mut state = self.state();
            if state.stopping {
                return;
            }
            if state.peers.len() >= CONNECTIONS_MAX {
                if !std::mem::replace(&mut complained, true) {
                    tracing::warn!("nbd socket: more than {CONNECTIONS_MAX} connections, refused");
                }
                continue;
            }
            complained = false;
            state.peers.insert(
                id,
                Peer {
                    conn: Arc::clone(&conn),
                    transmitting: false,
                    sent: 0,
                },
            );
            drop(state);
            let shared = Arc::clone(self);
            let run = move || {
                if let Err(e) = shared.connection(id, &conn) {
                    tracing::debug!("nbd connection {id}: {e}");
                }
                let _ = conn.sock.shutdown(Shutdown::Both);
                shared.state().peers.remove(&id);
                shared.cond.notify_all();
            };
            let made = std::thread::Builder::new()
                .name("nbd-conn".into())
                .stack_size(STACK)
                .spawn(run);
            if let Err(e) = made {
                tracing::warn!("nbd socket: no thread for a connection: {e}");
                self.state().peers.remove(&id);
            }
        }
    }
}

/// The socket file; removed when dropped, unless another daemon's socket is there now.
struct SocketFile {
    path: PathBuf,
    ino: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|m| m.ino() == self.ino) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Makes a listening socket `dir/nbd.sock` with mode 0600 that replaces the one of a dead daemon atomically.
fn listen_at(dir: &Path) -> io::Result<(UnixListener, SocketFile)> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)?;
    let path = dir.join("nbd.sock");
    let name = format!("nbd.sock.{}", std::process::id());
    let tmp = dir.join(&name);
    // Socket addresses are short, paths are not: go through the descriptor of the directory.
    let dir_fd = fs::File::open(dir)?;
    let short = |name: &str| PathBuf::from(format!("/proc/self/fd/{}/{name}", dir_fd.as_raw_fd()));
    if UnixStream::connect(short("nbd.sock")).is_ok() {
        let why = format!("{} is served by another process", path.display());
        return Err(io::Error::new(io::ErrorKind::AddrInUse, why));
    }
    match fs::remove_file(&tmp) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let sock = socket(
        AddressFamily::Unix,
        SockType::Stream,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    bind(sock.as_raw_fd(), &UnixAddr::new(&short(&name))?)?;
    let ready = || {
        // Nobody can connect before `listen`, so nobody slips in before the mode is set.
        fs::set_permissions(&tmp, fs::Permissions::from_mode(0o600))?;
        listen(&sock, Backlog::new(64)?)?;
        let ino = fs::symlink_metadata(&tmp)?.ino();
        fs::rename(&tmp, &path)?;
        Ok(ino)
    };
    match ready() {
        Ok(ino) => Ok((UnixListener::from(sock), SocketFile { path, ino })),
        Err(e) => {
            let _ = fs::remove_file(&tmp);
            Err(e)
        }
    }
}

struct NbdFront {
    shared: Arc<Shared>,
    listener: Arc<UnixListener>,
    acceptor: Option<JoinHandle<()>>,
    /// Both are taken away by `stop`.
    names: Option<(DeviceLink, SocketFile)>,
    target: PathBuf,
}

pub(crate) fn start(
    env: &HostEnv,
    res: &ResName,
    device: &str,
    backend: Arc<dyn Backend>,
) -> io::Result<Box<dyn Front>> {
    let (listener, file) = listen_at(&env.resource_run_dir(res))?;
    let target = std::path::absolute(&file.path)?;
    let link = DeviceLink::publish(&env.dev_dir, device, &target)?;
    let shared = Arc::new(Shared {
        backend,
        names: [res.as_str().to_owned(), device.to_owned()],
        state: Mutex::default(),
        cond: Condvar::new(),
        pool: Arc::default(),
    });
    let listener = Arc::new(listener);
    let (theirs, accepts) = (Arc::clone(&shared), Arc::clone(&listener));
    let run = move || theirs.accept(&accepts);
    let acceptor = std::thread::Builder::new()
        .name("nbd-accept".into())
        .stack_size(STACK)
        .spawn(run)?;
    Ok(Box::new(NbdFront {
        shared,
        listener,
        acceptor: Some(acceptor),
        names: Some((link, file)),
        target,
    }))
}

impl NbdFront {
    /// Waits until all connections have ended by themselves; cuts clients that take no answers.
    fn wait_for_end(&self) -> io::Result<()> {
        let mut state = self.shared.state();
        let mut last_change = Instant::now();
        while !state.peers.is_empty() {
            let before = state.peers.len();
            let (guard, timeout) = self
                .shared
                .cond
                .wait_timeout(state, STUCK)
                .unwrap_or_else(PoisonError::into_inner);
            state = guard;
            let mut changed = state.peers.len() != before;
            if timeout.timed_out() {
                for peer in state.peers.values_mut() {
                    let (sent, sending) = peer.conn.progress();
                    changed |= sent != peer.sent;
                    if sending && sent == peer.sent {
                        let _ = peer.conn.sock.shutdown(Shutdown::Both);
                    }
                    peer.sent = sent;
                }
            }
            if changed {
                last_change = Instant::now();
            } else if last_change.elapsed() > GIVE_UP {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    "requests in flight are not answered",
                ));
            }
        }
        Ok(())
    }
}

impl Front for NbdFront {
    fn stop(&mut self, force: bool) -> io::Result<()> {
        {
            let mut state = self.shared.state();
            if !force && state.openers() > 0 {
                return Err(io::Error::from_raw_os_error(libc::EBUSY));
            }
            state.stopping = true;
            for peer in state.peers.values_mut() {
                peer.sent = peer.conn.progress().0;
                // Ends reading: what has arrived is still served and answered.
                let how = if peer.transmitting {
                    Shutdown::Read
                } else {
                    Shutdown::Both
                };
                let _ = peer.conn.sock.shutdown(how);
            }
        }
        self.names = None;
        // Makes `accept` return; closing alone would not.
        let _ =
            nix::sys::socket::shutdown(self.listener.as_raw_fd(), nix::sys::socket::Shutdown::Both);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
        self.wait_for_end()
    }

    fn resized(&mut self) -> io::Result<()> {
        // The size is asked for with each request; clients see it with their next connection.
        Ok(())
    }

    fn target(&self) -> &Path {
        &self.target
    }

    fn openers(&self) -> u64 {
        self.shared.state().openers()
    }
}

impl Drop for NbdFront {
    fn drop(&mut self) {
        if let Err(e) = self.stop(true) {
            tracing::warn!("nbd socket: {e}");
        }
    }
}
