//! One end of a FUSE connection: the descriptor of `/dev/fuse`, the threads that read requests from it, answers.
//!
//! All threads read from one descriptor. A cloned one would be a queue of its own, and what was read from it fails when it is closed, that is when
//! this process dies; what was read from a descriptor that lives on elsewhere can be sent again ([`Channel::resend`]).

use super::proto::{self, Op, READ_BUFFER, Request};
use crate::IoResult;
use crate::sys::{self, Pages};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::uio::writev;
use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Threads that read.
const THREADS: usize = 2;
const STACK: usize = 128 << 10;
/// A reader that was between looking at the flag and sleeping in the kernel is told once more after this time.
const TELL_AGAIN: Duration = Duration::from_millis(5);

/// Answers may be sent from any thread.
pub(crate) struct Channel(OwnedFd);

impl Channel {
    pub(crate) fn new(fuse: OwnedFd) -> Arc<Channel> {
        Arc::new(Channel(fuse))
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }

    /// Answers a request. An error means that the kernel has given it up (ENOENT) or that the connection is gone (ENODEV).
    pub(crate) fn answer(&self, unique: u64, body: &[u8]) {
        self.send(&proto::header(unique, 0, body.len()), body);
    }

    /// Answers with an errno.
    pub(crate) fn fail(&self, unique: u64, errno: i32) {
        self.send(&proto::header(unique, errno, 0), &[]);
    }

    fn send(&self, header: &[u8], body: &[u8]) {
        let parts = [IoSlice::new(header), IoSlice::new(body)];
        if let Err(e) = writev(&self.0, &parts)
            && e != Errno::ENOENT
            && e != Errno::ENODEV
        {
            tracing::warn!("fuse: an answer was refused: {e}");
        }
    }

    /// Answers a request without a body.
    pub(crate) fn result(&self, unique: u64, result: IoResult) {
        match result {
            Ok(()) => self.answer(unique, &[]),
            Err(e) => self.fail(unique, e),
        }
    }

    /// The first message of a connection. True when the kernel can send requests again.
    pub(crate) fn handshake(&self) -> io::Result<bool> {
        let mut buffer = vec![0; READ_BUFFER];
        let n = self.read(&mut buffer)?;
        match proto::parse(buffer.get(..n).unwrap_or_default()) {
            Ok(Request {
                unique,
                op: Op::Init { minor, flags },
                ..
            }) => {
                self.answer(unique, &proto::init_out(minor, flags));
                Ok(proto::can_resend(flags))
            }
            other => Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!("unexpected first message of the kernel: {other:?}"),
            )),
        }
    }

    /// Asks the kernel to send again what an earlier process has read and not answered. To be called before anything is read: what this
    /// process has read would come again, too. False when the kernel cannot do it.
    pub(crate) fn resend(&self) -> io::Result<bool> {
        match nix::unistd::write(&self.0, &proto::resend()) {
            Ok(_) => Ok(true),
            Err(Errno::EINVAL) => Ok(false),
            Err(e) => Err(e.into()),
        }
    }

    /// The kernel has not given up the connection.
    pub(crate) fn is_alive(&self) -> bool {
        let mut fds = [PollFd::new(self.fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO) == Ok(0)
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match nix::unistd::read(&self.0, buffer) {
                // The request was given up before it could be read.
                Err(Errno::ENOENT | Errno::EINTR) => {}
                other => return Ok(other?),
            }
        }
    }
}

#[derive(Default)]
struct Running {
    /// Threads that were started and have not ended.
    count: usize,
    /// Those of them that have begun to read.
    readers: Vec<sys::Thread>,
}

/// The threads that read requests.
pub(crate) struct Readers {
    running: Mutex<Running>,
    ended: Condvar,
    stop: AtomicBool,
}

impl Readers {
    /// Starts them. They end when the kernel gives up the connection (nothing has the file open any more), or by [`Readers::stop`]. `gone` is
    /// called in the first case: with the last file the kernel gives up the connection at once, often before it was told that the file was closed.
    pub(crate) fn start(
        channel: &Arc<Channel>,
        serve: impl Fn(&Channel, &Request<'_>) + Send + Sync + 'static,
        gone: impl Fn() + Send + Sync + 'static,
    ) -> io::Result<Arc<Readers>> {
        sys::interruptible()?;
        let readers = Arc::new(Readers {
            running: Mutex::default(),
            ended: Condvar::new(),
            stop: AtomicBool::new(false),
        });
        let serve = Arc::new((serve, gone));
        for i in 0..THREADS {
            let mut buffer = Pages::new(READ_BUFFER)?;
            // Present from now on: a process that is killed while the kernel copies into a page that is not there yet makes the request fail.
            buffer.fill(1);
            let (channel, serve, owner) = (
                Arc::clone(channel),
                Arc::clone(&serve),
                Arc::clone(&readers),
            );
            let body = move || {
                let this = sys::Thread::this();
                owner.lock().readers.push(this);
                owner.read_all(&channel, &serve.0, &mut buffer);
                if !owner.stop.load(Ordering::Acquire) {
                    serve.1();
                }
                let mut running = owner.lock();
                running.readers.retain(|t| *t != this);
                running.count -= 1;
                owner.ended.notify_all();
            };
            readers.lock().count += 1;
            let made = std::thread::Builder::new()
                .name(format!("fuse-{i}"))
                .stack_size(STACK)
                .spawn(body);
            if let Err(e) = made {
                readers.lock().count -= 1;
                readers.stop();
                return Err(e);
            }
        }
        Ok(readers)
    }

    fn lock(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn read_all(
        &self,
        channel: &Channel,
        serve: &impl Fn(&Channel, &Request<'_>),
        buffer: &mut [u8],
    ) {
        while !self.stop.load(Ordering::Acquire) {
            let n = match nix::unistd::read(&channel.0, buffer) {
                Ok(n) => n,
                Err(Errno::ENOENT | Errno::EINTR) => continue,
                // The second one while the kernel is still giving up the connection.
                Err(Errno::ENODEV | Errno::ECONNABORTED) => return,
                Err(e) => {
                    tracing::error!("fuse: {e}");
                    return;
                }
            };
            match proto::parse(buffer.get(..n).unwrap_or_default()) {
                Ok(Request {
                    op: Op::Destroy,
                    unique,
                    ..
                }) => {
                    channel.answer(unique, &[]);
                    return;
                }
                Ok(request) => serve(channel, &request),
                Err(e) => {
                    tracing::error!("fuse: a request of the kernel is damaged: {e:?}");
                    return;
                }
            }
        }
    }

    /// Makes the threads end; requests that come from now on wait in the kernel. Those that were read are not answered by this.
    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        let mut running = self.lock();
        while running.count > 0 {
            for reader in &running.readers {
                reader.interrupt();
            }
            // The signal only counts for a thread that is in the kernel already.
            running = self
                .ended
                .wait_timeout(running, TELL_AGAIN)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}
