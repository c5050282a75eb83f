//! The file system with one file that the loop device sits on.
//!
//! Requests are answered in any order and from any thread. The engine's thread only takes note in `done`; `flush` writes the answers
//! to `/dev/fuse`, which copies 16 bytes and never waits.

use crate::buffer::Buffer;
use crate::pool::Pool;
use crate::sys::Pages;
use crate::{Answers, Backend, IoResult, Ticket};
use fuser::{
    Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, WriteFlags,
};
use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, UNIX_EPOCH};

/// The only file.
const FILE: INodeNo = INodeNo(2);
/// Largest request.
const REQUEST_MAX: u32 = 1 << 20;
/// Requests that the kernel may have open here; loop has 128.
const BACKGROUND: u16 = 256;
/// Nothing is cached: the size may grow.
const TTL: Duration = Duration::ZERO;

enum Reply {
    Write(ReplyWrite, u32),
    Empty(ReplyEmpty),
}

impl Reply {
    fn send(self, result: IoResult) {
        match (self, result) {
            (Reply::Write(reply, len), Ok(())) => reply.written(len),
            (Reply::Empty(reply), Ok(())) => reply.ok(),
            (Reply::Write(reply, _), Err(e)) => reply.error(Errno::from_i32(e)),
            (Reply::Empty(reply), Err(e)) => reply.error(Errno::from_i32(e)),
        }
    }
}

#[derive(Default)]
struct State {
    /// Open requests by tag; bounded by [`BACKGROUND`].
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
    state: Mutex<State>,
    cond: Condvar,
}

impl Requests {
    pub(crate) fn new() -> Arc<Requests> {
        Arc::new(Requests {
            state: Mutex::default(),
            cond: Condvar::new(),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ticket(self: &Arc<Self>, reply: Reply) -> Ticket {
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
            reply.send(result);
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
    fn attr(&self, ino: INodeNo) -> Option<FileAttr> {
        let (size, kind, perm, nlink) = match ino {
            INodeNo::ROOT => (0, FileType::Directory, 0o700, 2),
            FILE => (self.backend.size(), FileType::RegularFile, 0o600, 1),
            _ => return None,
        };
        Some(FileAttr {
            ino,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink,
            uid: 0,
            gid: 0,
            rdev: 0,
            blksize: 4096,
            flags: 0,
        })
    }

    /// Checks a range; EINVAL or ENOSPC.
    fn check(&self, pos: u64, len: u64) -> Result<(), Errno> {
        if !pos.is_multiple_of(512) || !len.is_multiple_of(512) {
            return Err(Errno::EINVAL);
        }
        if self.requests.is_cut() {
            return Err(Errno::EIO);
        }
        match pos.checked_add(len) {
            Some(end) if end <= self.backend.size() => Ok(()),
            _ => Err(Errno::ENOSPC),
        }
    }

    fn read_inline(&self, pos: u64, len: usize, reply: ReplyData) -> Option<ReplyData> {
        BUFFER.with_borrow_mut(|buffer| {
            if buffer.is_none() {
                *buffer = Pages::new(REQUEST_MAX as usize).ok();
            }
            let Some(buf) = buffer.as_mut().and_then(|b| b.get_mut(..len)) else {
                return Some(reply);
            };
            match self.backend.try_read(pos, buf) {
                Ok(true) => reply.data(buf),
                Ok(false) => return Some(reply),
                Err(e) => reply.error(Errno::from_i32(e)),
            }
            None
        })
    }

    /// A read that waits for the device. One thread of the session does it itself, which saves waking another when requests come one at
    /// a time; meanwhile the others of the session use the pool.
    fn read_slowly(&self, pos: u64, len: usize, reply: ReplyData) {
        if !self.waits.swap(true, Ordering::Acquire) {
            read_now(&*self.backend, pos, len, reply);
            self.waits.store(false, Ordering::Release);
            return;
        }
        let (backend, requests) = (Arc::clone(&self.backend), Arc::clone(&self.requests));
        requests.state().reads += 1;
        let job = move || {
            read_now(&*backend, pos, len, reply);
            requests.state().reads -= 1;
            requests.cond.notify_all();
        };
        if self.pool.run(job).is_err() {
            // The job is dropped, and with it the reply, which says EIO by itself.
            self.requests.state().reads -= 1;
        }
    }
}

fn read_now(backend: &dyn Backend, pos: u64, len: usize, reply: ReplyData) {
    let answer = Buffer::new(len)
        .map_err(|_| libc::ENOMEM)
        .and_then(|mut buf| {
            backend.read(pos, buf.bytes_mut())?;
            Ok(buf)
        });
    match answer {
        Ok(buf) => reply.data(buf.bytes()),
        Err(e) => reply.error(Errno::from_i32(e)),
    }
}

impl Filesystem for DeviceFs {
    fn init(&mut self, _req: &Request, config: &mut KernelConfig) -> io::Result<()> {
        // Without it loop would wait for each request in turn. What the kernel lacks costs only speed.
        let _ = config.add_capabilities(InitFlags::FUSE_ASYNC_DIO);
        let _ = config.set_max_background(BACKGROUND);
        let _ = config.set_congestion_threshold(BACKGROUND);
        let _ = config.set_max_write(REQUEST_MAX);
        Ok(())
    }

    fn lookup(&self, _req: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match self.attr(FILE) {
            Some(attr) if parent == INodeNo::ROOT && name == OsStr::new(&self.name) => {
                reply.entry(&TTL, &attr, Generation(0));
            }
            _ => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _req: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        match self.attr(ino) {
            Some(attr) => reply.attr(&TTL, &attr),
            None => reply.error(Errno::ENOENT),
        }
    }

    fn open(&self, _req: &Request, ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        if ino != FILE {
            reply.error(Errno::EISDIR);
            return;
        }
        let flags = FopenFlags::FOPEN_DIRECT_IO
            | FopenFlags::FOPEN_PARALLEL_DIRECT_WRITES
            | FopenFlags::FOPEN_NOFLUSH;
        reply.opened(FileHandle(0), flags);
    }

    fn read(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        if let Err(e) = self.check(offset, u64::from(size)) {
            return reply.error(e);
        }
        let len = size as usize;
        if let Some(reply) = self.read_inline(offset, len, reply) {
            self.read_slowly(offset, len, reply);
        }
    }

    fn write(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        _write_flags: WriteFlags,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if let Err(e) = self.check(offset, data.len() as u64) {
            return reply.error(e);
        }
        // At most REQUEST_MAX, so it fits.
        let ticket = self.requests.ticket(Reply::Write(reply, data.len() as u32));
        self.backend.write(offset, data, false, ticket);
        self.backend.kick();
    }

    fn release(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: OpenFlags,
        _lock_owner: Option<LockOwner>,
        _flush: bool,
        reply: ReplyEmpty,
    ) {
        reply.ok();
        self.requests.state().released = true;
        self.requests.cond.notify_all();
    }

    fn fsync(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _datasync: bool,
        reply: ReplyEmpty,
    ) {
        if self.requests.is_cut() {
            return reply.error(Errno::EIO);
        }
        let ticket = self.requests.ticket(Reply::Empty(reply));
        self.backend.flush(ticket);
        self.backend.kick();
    }

    fn fallocate(
        &self,
        _req: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        // Discard comes as PUNCH_HOLE, write-zeroes as ZERO_RANGE.
        if mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) == 0 {
            return reply.error(Errno::EOPNOTSUPP);
        }
        if let Err(e) = self.check(offset, length) {
            return reply.error(e);
        }
        let ticket = self.requests.ticket(Reply::Empty(reply));
        self.backend.write_zeroes(offset, length, false, ticket);
        self.backend.kick();
    }

    fn statfs(&self, _req: &Request, _ino: INodeNo, reply: ReplyStatfs) {
        // The block size becomes the granularity of discards.
        reply.statfs(self.backend.size() / 4096, 0, 0, 1, 0, 4096, 255, 4096);
    }
}
