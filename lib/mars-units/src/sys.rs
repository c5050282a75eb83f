//! The kernel interfaces that have no safe wrapper: process descriptors, and what must be done between fork and exec.
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::time::{Duration, Instant};

/// A handle on a process that stays valid (and never means another process) after the pid has been reused.
#[derive(Debug)]
pub(crate) struct PidFd(OwnedFd);

impl PidFd {
    /// `Ok(None)` when there is no such process any more.
    pub(crate) fn open(pid: i32) -> io::Result<Option<PidFd>> {
        // SAFETY: pidfd_open takes two integers and touches no memory of ours.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        if fd < 0 {
            let e = io::Error::last_os_error();
            return match e.raw_os_error() {
                Some(libc::ESRCH) => Ok(None),
                _ => Err(e),
            };
        }
        let fd = RawFd::try_from(fd).map_err(io::Error::other)?;
        // SAFETY: the kernel just gave us this descriptor and nobody else owns it.
        Ok(Some(PidFd(unsafe { OwnedFd::from_raw_fd(fd) })))
    }

    /// Sends SIGTERM; a process that is gone already is fine.
    pub(crate) fn terminate(&self) -> io::Result<()> {
        // SAFETY: a null siginfo is allowed and means the same as kill(2); the descriptor is ours.
        let r = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                self.0.as_raw_fd(),
                libc::SIGTERM,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        if r == 0 {
            return Ok(());
        }
        let e = io::Error::last_os_error();
        match e.raw_os_error() {
            Some(libc::ESRCH) => Ok(()),
            _ => Err(e),
        }
    }

    /// Waits for the end of the process; false when the time is over.
    pub(crate) fn wait(&self, timeout: Duration) -> io::Result<bool> {
        let end = Instant::now().checked_add(timeout);
        loop {
            let left = match end {
                Some(end) => {
                    let left = end.saturating_duration_since(Instant::now());
                    PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
                }
                None => PollTimeout::NONE,
            };
            let mut fds = [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, left) {
                Ok(0) if end.is_some_and(|e| Instant::now() < e) => {}
                Ok(n) => return Ok(n > 0),
                Err(Errno::EINTR) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }
}

/// Makes the child a session of its own that inherits, besides the standard descriptors, only `lock`.
pub(crate) fn detach_with_lock(command: &mut Command, lock: RawFd) {
    // SAFETY: the closure runs in the forked child and calls only async-signal-safe system calls; it allocates nothing.
    unsafe {
        command.pre_exec(move || {
            if libc::setsid() < 0 {
                return Err(io::Error::last_os_error());
            }
            // What the caller itself inherited (the lock of the daemon that called it, say) must end here.
            if libc::syscall(
                libc::SYS_close_range,
                3u32,
                u32::MAX,
                libc::CLOSE_RANGE_CLOEXEC,
            ) < 0
            {
                return Err(io::Error::last_os_error());
            }
            if libc::fcntl(lock, libc::F_SETFD, 0) < 0 {
                return Err(io::Error::last_os_error());
            }
            Ok(())
        });
    }
}

/// Closes every descriptor but the standard ones. Only for the very start of a short-lived program, before it has opened anything.
pub fn close_inherited() {
    // SAFETY: closing descriptors touches no memory; nothing in this process owns one yet but the standard three.
    unsafe {
        libc::syscall(libc::SYS_close_range, 3u32, u32::MAX, 0u32);
    }
}
