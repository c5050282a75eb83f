//! The file system with one file that the loop device sits on.
//!
//! Requests are answered in any order and from any thread. The engine's thread only takes note in `done`; `flush` writes the answers
//! to `/dev/fuse`, which copies 16 bytes and never waits.

use super::proto::{self, Attr, Op, REQUEST_MAX, Request};
use super::session::Channel;
use crate::buffer::Buffer;
use crate::pool::Pool;
use crate::sys::Pages;
use crate::{Answers, Backend, IoResult, Ticket};
use std::cell::RefCell;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

// The inodes have the same numbers in every process, and none needs a handle: who continues a connection needs to know nothing of the process
// before.
const ROOT: u64 = 1;
/// The only file: the device.
pub(crate) const FILE: u64 = 2;
/// `mars`: so that the path of the file inside the file system, which udev sees as the backing file of the loop device, is the name of the
/// device below `/dev`.
const DIRECTORY: u64 = 3;
const DIRECTORY_NAME: &str = "mars";

/// Path of the file inside the file system.
pub(crate) fn file_path(device: &str) -> String {
    format!("{DIRECTORY_NAME}/{device}")
}

/// A request that is answered later.
struct Reply {
    unique: u64,
    /// Length of a write.
    len: Option<u32>,
}

impl Reply {
    fn send(&self, channel: &Channel, result: IoResult) {
        match (result, self.len) {
            (Ok(()), Some(len)) => channel.answer(self.unique, &proto::write_out(len)),
            _ => channel.result(self.unique, result),
        }
    }
}

#[derive(Default)]
struct State {
    /// Open requests by tag; bounded by what INIT allows.
    open: Vec<Option<Reply>>,
    free: Vec<usize>,
    /// Finished, to be sent by `flush`.
    finished: Vec<(Reply, IoResult)>,
    /// Reads in the pool.
    reads: usize,
    /// The loop device has closed the file.
    released: bool,
    /// Everything new fails.
    cut: bool,
}

impl State {
    fn in_flight(&self) -> usize {
        self.open.len() - self.free.len() + self.finished.len() + self.reads
    }
}

/// What the file system shares with its owner.
pub(crate) struct Requests {
    channel: Arc<Channel>,
    state: Mutex<State>,
    cond: Condvar,
}

impl Requests {
    pub(crate) fn new(channel: &Arc<Channel>) -> Arc<Requests> {
        Arc::new(Requests {
            channel: Arc::clone(channel),
            state: Mutex::default(),
            cond: Condvar::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ticket(self: &Arc<Self>, unique: u64, len: Option<u32>) -> Ticket {
        let reply = Reply { unique, len };
        let mut state = self.state();
        let tag = match state.free.pop() {
            Some(tag) => {
                state.open[tag] = Some(reply);
                tag
            }
            None => {
                state.open.push(Some(reply));
                state.open.len() - 1
            }
        };
        Ticket {
            to: Arc::clone(self) as Arc<dyn Answers>,
            tag: tag as u64,
        }
    }

    fn is_cut(&self) -> bool {
        self.state().cut
    }

    /// From now on everything new fails with EIO.
    pub(crate) fn cut(&self) {
        self.state().cut = true;
    }

    fn wait(&self, limit: Duration, until: impl Fn(&State) -> bool) -> bool {
        let end = Instant::now() + limit;
        let mut state = self.state();
        while !until(&state) {
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return false;
            }
            state = self
                .cond
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }

    /// The loop device has closed the file.
    pub(crate) fn set_released(&self) {
        self.state().released = true;
        self.cond.notify_all();
    }

    /// Waits until the loop device has closed the file.
    pub(crate) fn wait_released(&self, limit: Duration) -> bool {
        self.wait(limit, |s| s.released)
    }

    /// Waits until nothing is in flight.
    pub(crate) fn wait_answered(&self, limit: Duration) -> bool {
        self.wait(limit, |s| s.in_flight() == 0)
    }
}

impl Answers for Requests {
    fn done(&self, tag: u64, result: IoResult) {
        let mut state = self.state();
        let Some(reply) = usize::try_from(tag)
            .ok()
            .and_then(|t| state.open.get_mut(t))
            .and_then(Option::take)
        else {
            return;
        };
        state.free.push(tag as usize);
        state.finished.push((reply, result));
    }

    fn flush(&self) {
        let finished = {
            let mut state = self.state();
            std::mem::take(&mut state.finished)
        };
        if finished.is_empty() {
            return;
        }
        for (reply, result) in finished {
            reply.send(&self.channel, result);
        }
        self.cond.notify_all();
    }
}

/// The file system.
pub(crate) struct DeviceFs {
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) name: String,
    pub(crate) requests: Arc<Requests>,
    pub(crate) pool: Arc<Pool>,
    /// A thread of the session waits for the device.
    pub(crate) waits: AtomicBool,
}

thread_local! {
    /// One per thread of the session: reads that are in memory go through it.
    static BUFFER: RefCell<Option<Pages>> = const { RefCell::new(None) };
}

impl DeviceFs {
    fn attr(&self, node: u64) -> Option<Attr> {
        let directory = Attr {
            node,
            size: 0,
            mode: libc::S_IFDIR | 0o700,
            links: 2,
        };
        match node {
            ROOT | DIRECTORY => Some(directory),
            FILE => Some(Attr {
                node,
                size: self.backend.size(),
                mode: libc::S_IFREG | 0o600,
                links: 1,
            }),
            _ => None,
        }
    }

    fn lookup(&self, parent: u64, name: &[u8]) -> Option<Attr> {
        match parent {
            ROOT if name == DIRECTORY_NAME.as_bytes() => self.attr(DIRECTORY),
            DIRECTORY if name == self.name.as_bytes() => self.attr(FILE),
            _ => None,
        }
    }

    /// Checks a range; EINVAL or ENOSPC.
    fn check(&self, pos: u64, len: u64) -> IoResult {
        if !pos.is_multiple_of(512) || !len.is_multiple_of(512) {
            return Err(libc::EINVAL);
        }
        if self.requests.is_cut() {
            return Err(libc::EIO);
        }
        match pos.checked_add(len) {
            Some(end) if end <= self.backend.size() => Ok(()),
            _ => Err(libc::ENOSPC),
        }
    }

    /// Carries out a request, or has it carried out; it is answered then.
    pub(crate) fn serve(&self, channel: &Channel, r: &Request<'_>) {
        if let Err(errno) = self.try_serve(channel, r) {
            channel.fail(r.unique, errno);
        }
    }

    fn try_serve(&self, channel: &Channel, r: &Request<'_>) -> IoResult {
        let unique = r.unique;
        match r.op {
            Op::Lookup(name) => {
                let attr = self.lookup(r.node, name).ok_or(libc::ENOENT)?;
                channel.answer(unique, &proto::entry_out(&attr));
            }
            Op::GetAttr => {
                let attr = self.attr(r.node).ok_or(libc::ENOENT)?;
                channel.answer(unique, &proto::attr_out(&attr));
            }
            Op::Open if r.node == FILE => channel.answer(unique, &proto::open_out()),
            Op::Open => return Err(libc::EISDIR),
            Op::Read { pos, len } => self.read(channel, unique, pos, len)?,
            Op::Write { pos, data } => {
                self.check(pos, data.len() as u64)?;
                // At most REQUEST_MAX, so it fits.
                let ticket = self.requests.ticket(unique, Some(data.len() as u32));
                self.backend.write(pos, data, false, ticket);
                self.backend.kick();
            }
            Op::Fsync => {
                if self.requests.is_cut() {
                    return Err(libc::EIO);
                }
                self.backend.flush(self.requests.ticket(unique, None));
                self.backend.kick();
            }
            Op::Fallocate { pos, len, mode } => {
                // Discard comes as PUNCH_HOLE, write-zeroes as ZERO_RANGE.
                let zeroes = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE;
                if mode & zeroes as u32 == 0 {
                    return Err(libc::EOPNOTSUPP);
                }
                self.check(pos, len)?;
                let ticket = self.requests.ticket(unique, None);
                self.backend.write_zeroes(pos, len, false, ticket);
                self.backend.kick();
            }
            Op::StatFs => channel.answer(unique, &proto::statfs_out(self.backend.size())),
            Op::Release => {
                channel.answer(unique, &[]);
                if r.node == FILE {
                    self.requests.set_released();
                }
            }
            Op::Forget => {}
            // DESTROY ends the readers before it comes here.
            Op::Init { .. } | Op::Destroy | Op::Other => return Err(libc::ENOSYS),
        }
        Ok(())
    }

    fn read(&self, channel: &Channel, unique: u64, pos: u64, len: u32) -> IoResult {
        self.check(pos, u64::from(len))?;
        if len > REQUEST_MAX {
            return Err(libc::EINVAL);
        }
        let len = len as usize;
        if !self.read_inline(channel, unique, pos, len)? {
            self.read_slowly(unique, pos, len)?;
        }
        Ok(())
    }

    /// From memory; false when the device is needed.
    fn read_inline(
        &self,
        channel: &Channel,
        unique: u64,
        pos: u64,
        len: usize,
    ) -> Result<bool, i32> {
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.is_none() {
                *buffer = Pages::new(REQUEST_MAX as usize).ok();
            }
            let Some(buf) = buffer.as_mut().and_then(|b| b.get_mut(..len)) else {
                return Ok(false);
            };
            let found = self.backend.try_read(pos, buf)?;
            if found {
                channel.answer(unique, buf);
            }
            Ok(found)
        })
    }

    /// A read that waits for the device. One thread of the session does it itself, which saves waking another when requests come one at
    /// a time; meanwhile the others of the session use the pool.
    fn read_slowly(&self, unique: u64, pos: u64, len: usize) -> IoResult {
        let (backend, requests) = (Arc::clone(&self.backend), Arc::clone(&self.requests));
        if !self.waits.swap(true, Ordering::Acquire) {
            read_now(&*backend, &requests.channel, unique, pos, len);
            self.waits.store(false, Ordering::Release);
            return Ok(());
        }
        requests.state().reads += 1;
        let job = move || {
            read_now(&*backend, &requests.channel, unique, pos, len);
            requests.state().reads -= 1;
            requests.cond.notify_all();
        };
        self.pool.run(job).map_err(|_| {
            self.requests.state().reads -= 1;
            libc::EIO
        })
    }
}

fn read_now(backend: &dyn Backend, channel: &Channel, unique: u64, pos: u64, len: usize) {
    let answer = Buffer::new(len)
        .map_err(|_| libc::ENOMEM)
        .and_then(|mut buf| {
            backend.read(pos, buf.bytes_mut())?;
            Ok(buf)
        });
    match answer {
        Ok(buf) => channel.answer(unique, buf.bytes()),
        Err(e) => channel.fail(unique, e),
    }
}
