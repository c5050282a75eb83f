//! The sending half of a connection: a queue of answers that any thread may fill, sent by one thread at a time.
//!
//! Who sends, and who may wait:
//! - `done` only appends 16 bytes to the queue.
//! - `flush` (engine threads, read pool) sends with `MSG_DONTWAIT`. When somebody else is sending already, it returns at once:
//!   the sender looks at the queue again before it stops. When the socket is full, the rest is handed to a writer thread made
//!   for this occasion, which ends as soon as the queue is empty. So an engine thread never waits for a client.
//! - The connection's own thread (`send_own`) waits for the socket; it reads no further requests meanwhile.
//!
//! What bounds the queue: it holds at most one answer per request in flight, and the connection's own thread accepts no more
//! requests than [`IN_FLIGHT_MAX`], nor reads for more than [`READ_BYTES_MAX`] bytes (`wait_for_room`).

use super::proto::{result_error, simple_reply};
use crate::buffer::Buffer;
use crate::{Answers, IoResult};
use nix::sys::socket::{MsgFlags, sendmsg};
use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};

/// Requests handed to the backend or the read pool and not yet answered on the wire.
pub(crate) const IN_FLIGHT_MAX: u64 = 4096;
/// Bytes of reads in the pool or its answers (one larger read is let through alone).
pub(crate) const READ_BYTES_MAX: usize = 8 << 20;
/// Stack of the helper threads.
pub(crate) const STACK: usize = 128 << 10;

#[derive(Default)]
struct Out {
    /// Encoded answers.
    queue: Vec<u8>,
    /// Answers with data.
    segments: VecDeque<Buffer>,
    /// An emptied queue to be used again.
    spare: Vec<u8>,
    /// Requests answered so far (queued counts).
    answered: u64,
    /// Bytes of pool reads that are not sent yet.
    read_bytes: usize,
    /// A thread owns the sending side.
    sending: bool,
    /// Nothing can be sent any more.
    dead: bool,
    /// Threads that wait for `cond`.
    waiting: u32,
}

impl Out {
    fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.segments.is_empty()
    }

    fn has_room(&self, submitted: u64, read_bytes: usize) -> bool {
        let bytes = self.read_bytes + read_bytes;
        submitted - self.answered < IN_FLIGHT_MAX
            && (self.queue.len() as u64) < 16 * IN_FLIGHT_MAX
            && (read_bytes == 0 || self.read_bytes == 0 || bytes <= READ_BYTES_MAX)
    }
}

fn bytes_of(segments: &VecDeque<Buffer>) -> usize {
    segments.iter().map(|s| s.bytes().len()).sum()
}

/// What one sender has taken from the queue.
#[derive(Default)]
struct Load {
    queue: Vec<u8>,
    segments: VecDeque<Buffer>,
    /// Bytes of it already sent.
    done: usize,
}

/// How far a non-blocking send came.
enum Sent {
    All,
    Full,
}

/// The sending half of a connection. The tag of a request is the client's cookie.
pub(crate) struct Conn {
    pub(crate) sock: UnixStream,
    out: Mutex<Out>,
    cond: Condvar,
    /// Bytes sent, to tell a slow client from one that does not read at all.
    sent: AtomicU64,
    me: Weak<Conn>,
}

impl Conn {
    pub(crate) fn new(sock: UnixStream) -> Arc<Conn> {
        Arc::new_cyclic(|me| Conn {
            sock,
            out: Mutex::default(),
            cond: Condvar::new(),
            sent: AtomicU64::new(0),
            me: me.clone(),
        })
    }

    fn out(&self) -> MutexGuard<'_, Out> {
        self.out.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait<'a>(&self, mut out: MutexGuard<'a, Out>) -> MutexGuard<'a, Out> {
        out.waiting += 1;
        out = self.cond.wait(out).unwrap_or_else(PoisonError::into_inner);
        out.waiting -= 1;
        out
    }

    fn wake(&self, out: &Out) {
        if out.waiting > 0 {
            self.cond.notify_all();
        }
    }

    /// Queues a finished read of the pool. `read_bytes` is what it was counted with by [`Conn::wait_for_room`].
    pub(crate) fn read_done(&self, answer: Result<Buffer, Vec<u8>>, read_bytes: usize) {
        let mut out = self.out();
        out.answered += 1;
        match answer {
            Ok(segment) if !out.dead => out.segments.push_back(segment),
            Err(bytes) if !out.dead => {
                out.read_bytes -= read_bytes;
                out.queue.extend_from_slice(&bytes);
            }
            _ => out.read_bytes -= read_bytes,
        }
        self.wake(&out);
    }

    /// Waits until there is room for a request after `submitted` ones, of which one reads `read_bytes` bytes in the pool (these are
    /// taken by this call). Returns how many are in flight; `None` when the connection is dead.
    pub(crate) fn wait_for_room(&self, submitted: u64, read_bytes: usize) -> Option<u64> {
        let mut out = self.out();
        loop {
            if out.dead {
                return None;
            }
            if out.has_room(submitted, read_bytes) {
                out.read_bytes += read_bytes;
                return Some(submitted - out.answered);
            }
            out = self.wait(out);
        }
    }

    /// Requests not answered yet.
    pub(crate) fn in_flight(&self, submitted: u64) -> u64 {
        submitted - self.out().answered
    }

    /// The same as [`Conn::wait_for_room`] without waiting.
    pub(crate) fn try_room(&self, submitted: u64, read_bytes: usize) -> bool {
        let mut out = self.out();
        let room = !out.dead && out.has_room(submitted, read_bytes);
        if room {
            out.read_bytes += read_bytes;
        }
        room
    }

    /// Waits until all requests are answered and the answers are sent, or cannot be.
    pub(crate) fn drain(&self, submitted: u64) {
        let mut out = self.out();
        while out.answered < submitted || (out.sending && !out.dead) {
            out = self.wait(out);
        }
        if !out.is_empty() && !out.dead {
            drop(out);
            let _ = self.send_own(&[]);
        }
    }

    /// Sends the queue and then `own`, waiting for the socket. Only for the connection's own thread.
    pub(crate) fn send_own(&self, own: &[u8]) -> io::Result<()> {
        let mut out = self.out();
        while out.sending && !out.dead {
            out = self.wait(out);
        }
        if out.dead {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        if out.is_empty() && own.is_empty() {
            return Ok(());
        }
        out.sending = true;
        self.send_queue(out, own, MsgFlags::empty()).map(|_| ())
    }

    /// Sends `own` and the queue until it is empty. The caller has set `sending`; it is cleared at the end, except when a writer
    /// thread has taken over.
    fn send_queue<'a>(
        &'a self,
        mut out: MutexGuard<'a, Out>,
        mut own: &[u8],
        flags: MsgFlags,
    ) -> io::Result<()> {
        while !out.is_empty() || !own.is_empty() {
            let spare = std::mem::take(&mut out.spare);
            let mut load = Load {
                queue: std::mem::replace(&mut out.queue, spare),
                segments: std::mem::take(&mut out.segments),
                done: 0,
            };
            drop(out);
            let result = self.send_load(&mut load, own, flags);
            out = self.out();
            match result {
                Ok(Sent::All) => self.finish_load(&mut out, load),
                Ok(Sent::Full) => {
                    drop(out);
                    return self.hand_over(load);
                }
                Err(e) => {
                    self.die(&mut out, &load);
                    return Err(e);
                }
            }
            own = &[];
        }
        out.sending = false;
        self.wake(&out);
        Ok(())
    }

    fn finish_load(&self, out: &mut Out, mut load: Load) {
        out.read_bytes -= bytes_of(&load.segments);
        load.queue.clear();
        if load.queue.capacity() <= 64 << 10 {
            out.spare = load.queue;
        }
        self.wake(out);
    }

    fn die(&self, out: &mut Out, load: &Load) {
        out.read_bytes -= bytes_of(&load.segments) + bytes_of(&out.segments);
        out.dead = true;
        out.sending = false;
        out.queue = Vec::new();
        out.segments.clear();
        // The own thread may wait for requests of a client that cannot be answered.
        let _ = self.sock.shutdown(Shutdown::Both);
        self.wake(out);
    }

    fn send_load(&self, load: &mut Load, own: &[u8], flags: MsgFlags) -> io::Result<Sent> {
        let total = load.queue.len() + bytes_of(&load.segments) + own.len();
        while load.done < total {
            let mut skip = load.done;
            let parts = std::iter::once(&load.queue[..])
                .chain(load.segments.iter().map(Buffer::bytes))
                .chain([own]);
            let mut slices: [IoSlice; 64] = std::array::from_fn(|_| IoSlice::new(&[]));
            let mut n = 0;
            for part in parts {
                if skip >= part.len() {
                    skip -= part.len();
                    continue;
                }
                slices[n] = IoSlice::new(&part[skip..]);
                skip = 0;
                n += 1;
                if n == slices.len() {
                    break;
                }
            }
            let fd = self.sock.as_raw_fd();
            match sendmsg::<()>(fd, &slices[..n], &[], flags | MsgFlags::MSG_NOSIGNAL, None) {
                Ok(n) => {
                    load.done += n;
                    self.sent.fetch_add(n as u64, Ordering::Relaxed);
                }
                Err(nix::errno::Errno::EINTR) => {}
                Err(nix::errno::Errno::EAGAIN) if flags.contains(MsgFlags::MSG_DONTWAIT) => {
                    return Ok(Sent::Full);
                }
                Err(e) => return Err(e.into()),
            }
        }
        Ok(Sent::All)
    }

    /// Lets a thread of its own finish what the socket has no room for. It keeps `sending`.
    fn hand_over(&self, mut load: Load) -> io::Result<()> {
        let Some(me) = self.me.upgrade() else {
            return Ok(());
        };
        let rest = Arc::new(Mutex::new(Some(std::mem::take(&mut load))));
        let theirs = Arc::clone(&rest);
        let run = move || {
            let load = theirs.lock().unwrap_or_else(PoisonError::into_inner).take();
            let Some(mut load) = load else { return };
            let result = me.send_load(&mut load, &[], MsgFlags::empty());
            let mut out = me.out();
            match result {
                Ok(_) => {
                    me.finish_load(&mut out, load);
                    let _ = me.send_queue(out, &[], MsgFlags::empty());
                }
                Err(_) => me.die(&mut out, &load),
            }
        };
        let spawned = std::thread::Builder::new()
            .name("nbd-writer".into())
            .stack_size(STACK)
            .spawn(run);
        if let Err(e) = spawned {
            let load = rest
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take()
                .unwrap_or_default();
            self.die(&mut self.out(), &load);
            return Err(e);
        }
        Ok(())
    }

    /// Bytes sent so far, and whether a sender is at work.
    pub(crate) fn progress(&self) -> (u64, bool) {
        (self.sent.load(Ordering::Relaxed), self.out().sending)
    }

    /// Gives spare memory back.
    pub(crate) fn idle(&self) {
        self.out().spare = Vec::new();
    }
}

impl Answers for Conn {
    fn done(&self, tag: u64, result: IoResult) {
        let mut out = self.out();
        out.answered += 1;
        if !out.dead {
            out.queue
                .extend_from_slice(&simple_reply(tag, result_error(result)));
        }
        self.wake(&out);
    }

    fn flush(&self) {
        let mut out = self.out();
        if out.sending || out.dead || out.is_empty() {
            return;
        }
        out.sending = true;
        // An error has been noted: the connection is dead.
        let _ = self.send_queue(out, &[], MsgFlags::MSG_DONTWAIT);
    }
}
