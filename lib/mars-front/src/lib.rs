//! Block device front ends behind one trait: NBD over a unix socket, FUSE file + loop device.
//!
//! May use: the operating system, `mars-tree` (environment, names). Must never use: logs, the network to other hosts, policy.

mod buffer;
mod fuse;
mod link;
mod nbd;
mod pool;
mod split;
mod sys;

use mars_tree::{HostEnv, ResName};
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

/// Result of a request: `Err` carries a positive errno.
pub type IoResult = Result<(), i32>;

/// Where answers go. One per connection or queue; the back end may call it from any thread.
pub trait Answers: Send + Sync {
    /// The request with this tag is finished. May only be queued until `flush`.
    fn done(&self, tag: u64, result: IoResult);
    /// No more answers for now: send what is queued.
    fn flush(&self);
}

/// Tag and address of an answer.
pub struct Ticket {
    /// Where to.
    pub to: Arc<dyn Answers>,
    /// Which request.
    pub tag: u64,
}

impl Ticket {
    /// Answers; the caller calls `to.flush()` when its batch is over.
    pub fn done(self, result: IoResult) {
        self.to.done(self.tag, result);
    }
}

/// What stands behind a front end: the logger's engine. All methods may be called from many threads. Offsets and lengths are
/// multiples of 512 and inside `size` (front ends check before).
pub trait Backend: Send + Sync {
    /// Current size in bytes.
    fn size(&self) -> u64;
    /// True when a volatile write cache must be announced (durability mode `flush`).
    fn volatile_cache(&self) -> bool;
    /// Reads at once what is in memory or in the page cache: `Ok(true)` = done, `Ok(false)` = would wait for the device, use `read`.
    fn try_read(&self, pos: u64, buf: &mut [u8]) -> Result<bool, i32>;
    /// Reads; may wait for the device.
    fn read(&self, pos: u64, buf: &mut [u8]) -> IoResult;
    /// Accepts a write; answered when it is safe by the durability mode (`fua`: when durable). The data is copied before return.
    /// Blocks while the buffer is full (back-pressure).
    fn write(&self, pos: u64, data: &[u8], fua: bool, ticket: Ticket);
    /// Accepts write-zeroes (also discard: reads zeros afterwards) of any length. May block like `write`.
    fn write_zeroes(&self, pos: u64, len: u64, fua: bool, ticket: Ticket);
    /// Answered when everything accepted before is durable.
    fn flush(&self, ticket: Ticket);
    /// The front end has handed over everything it received so far: commit now (in the caller's thread, or by waking another).
    fn kick(&self);
    /// Asks to open the device; refused while it is going away. Each success is balanced by `closed`.
    fn opened(&self) -> IoResult;
    /// An opener is gone.
    fn closed(&self);
}

/// Which implementation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrontKind {
    /// First that the host offers of: fuse, nbd-socket (ublk and kernel NBD come later).
    Auto,
    /// FUSE file + loop device.
    Fuse,
    /// NBD over a unix socket.
    NbdSocket,
}

/// A running front end. Dropping it without `stop` leaves nothing behind either.
pub trait Front: Send {
    /// Takes the device away: no new openers, link removed, requests in flight answered first. Fails with EBUSY while there
    /// are openers, unless `force`, which cuts connections after their requests in flight are answered.
    fn stop(&mut self, force: bool) -> io::Result<()>;
    /// The backend's size has grown.
    fn resized(&mut self) -> io::Result<()>;
    /// What `/dev/mars/NAME` points to.
    fn target(&self) -> &std::path::Path;
    /// Current openers as far as the front end can see (NBD: connections in transmission; loop: from `open` counts where known).
    fn openers(&self) -> u64;
    /// A descriptor that polls readable when `openers` may have changed; `openers` clears it. `None` when the backend is told by
    /// `opened` and `closed` anyway.
    fn changes(&self) -> Option<BorrowedFd<'_>> {
        None
    }
    /// Leaves the device as it is, with all its users, to the next process: what was read is answered, what comes from now on waits for it. `false`:
    /// this front end cannot, or has no [`Keeper`]; nothing has changed then. Afterwards it is as stopped.
    fn hand_over(&mut self) -> io::Result<bool> {
        Ok(false)
    }
}

/// Keeps descriptors beyond the life of the process; in fact the service manager.
pub trait Keeper: Send + Sync {
    /// Returns when they are kept.
    fn keep(&self, name: &str, fds: &[BorrowedFd<'_>]) -> io::Result<()>;
    /// Returns when they are closed there.
    fn forget(&self, name: &str) -> io::Result<()>;
}

/// The life of a device beyond that of the process.
pub struct Handover {
    /// Where to keep it.
    pub keeper: Arc<dyn Keeper>,
    /// What the process before has left there, by name.
    pub kept: Vec<(String, OwnedFd)>,
}

/// Frees what a process has left for the next one, when there is none: to be called after the keeper has forgotten it.
pub fn sweep(env: &HostEnv, res: &ResName) {
    fuse::sweep(&env.resource_run_dir(res));
}

/// Where the host has a device mounted, the youngest mount first. Only what is mounted in the name space of its first process; empty when
/// that cannot be seen.
pub fn mount_points(device: &std::path::Path) -> Vec<std::path::PathBuf> {
    fuse::mount_points(device)
}

/// Starts a front end: makes `DEV_DIR/DEVICE` a link to the device or socket. A stale link or socket of a dead daemon is replaced.
pub fn start(
    kind: FrontKind,
    env: &HostEnv,
    res: &ResName,
    device: &str,
    backend: Arc<dyn Backend>,
) -> io::Result<Box<dyn Front>> {
    start_or_continue(kind, env, res, device, backend, None)
}

/// Continues the device that the process before has left, whatever the kind, or starts a front end.
pub fn start_or_continue(
    kind: FrontKind,
    env: &HostEnv,
    res: &ResName,
    device: &str,
    backend: Arc<dyn Backend>,
    handover: Option<Handover>,
) -> io::Result<Box<dyn Front>> {
    let place = fuse::Place {
        dev_dir: env.dev_dir.clone(),
        run_dir: env.resource_run_dir(res),
        device: device.to_owned(),
    };
    let mut keeper = None;
    if let Some(Handover { keeper: k, kept }) = handover {
        if let Some(front) = fuse::go_on(&place, &backend, &k, kept)? {
            return Ok(front);
        }
        keeper = Some(k);
    }
    match kind {
        FrontKind::NbdSocket => nbd::start(env, res, device, backend),
        FrontKind::Fuse => fuse::start(place, backend, keeper),
        FrontKind::Auto if fuse::available() => fuse::start(place, backend, keeper),
        FrontKind::Auto => nbd::start(env, res, device, backend),
    }
}
