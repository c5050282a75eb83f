//! A line between two hosts that damages what it carries.
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

/// What happens to a piece of the stream: `(bytes, offset of the piece in the connection)`.
pub type Damage = dyn Fn(&mut Vec<u8>, u64) + Send + Sync;

/// A running proxy; ends when dropped.
pub struct Proxy {
    stop: Arc<AtomicBool>,
    damage: Arc<Mutex<Option<Arc<Damage>>>>,
    connections: Arc<AtomicU64>,
    listen: String,
    thread: Option<JoinHandle<()>>,
}

fn forward(mut from: TcpStream, mut to: TcpStream, damage: &Mutex<Option<Arc<Damage>>>) {
    let mut buf = vec![0; 64 << 10];
    let mut at = 0;
    while let Ok(n) = from.read(&mut buf) {
        if n == 0 {
            break;
        }
        let mut piece = buf[..n].to_vec();
        let f = damage
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(f) = f {
            f(&mut piece, at);
        }
        at += n as u64;
        if to.write_all(&piece).is_err() {
            break;
        }
    }
    // One side is gone: so is the other.
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

impl Proxy {
    /// Listens on `listen` and passes connections on to `target`; what flows back to the caller can be damaged.
    pub fn start(listen: &str, target: &str) -> io::Result<Proxy> {
        let socket = TcpListener::bind(listen)?;
        let stop = Arc::new(AtomicBool::new(false));
        let damage: Arc<Mutex<Option<Arc<Damage>>>> = Arc::default();
        let connections = Arc::new(AtomicU64::new(0));
        let (stopped, d, count) = (
            Arc::clone(&stop),
            Arc::clone(&damage),
            Arc::clone(&connections),
        );
        let target = target.to_string();
        let thread = std::thread::spawn(move || {
            for client in socket.incoming().flatten() {
                if stopped.load(Ordering::SeqCst) {
                    return;
                }
                count.fetch_add(1, Ordering::SeqCst);
                let Ok(server) = TcpStream::connect(&target) else {
                    continue;
                };
                let (Ok(c), Ok(s)) = (client.try_clone(), server.try_clone()) else {
                    continue;
                };
                let none = Mutex::new(None);
                std::thread::spawn(move || forward(c, s, &none));
                let d = Arc::clone(&d);
                std::thread::spawn(move || forward(server, client, &d));
            }
        });
        Ok(Proxy {
            stop,
            damage,
            connections,
            listen: listen.to_string(),
            thread: Some(thread),
        })
    }

    /// From now on the line does this.
    pub fn damage(&self, f: impl Fn(&mut Vec<u8>, u64) + Send + Sync + 'static) {
        *self.damage.lock().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(f));
    }

    /// From now on the line works.
    pub fn heal(&self) {
        *self.damage.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Connections since the start.
    pub fn connections(&self) -> u64 {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(&self.listen);
        if let Some(t) = self.thread.take() {
            let _ = t.join();
        }
    }
}
