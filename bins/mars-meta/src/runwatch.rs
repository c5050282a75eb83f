//! Watches the run directory for `meta.ping`.
use crate::sys;
use inotify::{EventMask, Inotify, WatchMask};
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use tokio::io::unix::AsyncFd;

/// Tells when somebody wrote `RUN/meta.ping`.
pub struct RunWatch {
    inotify: Inotify,
    ready: AsyncFd<OwnedFd>,
}

impl RunWatch {
    /// Must be called inside a tokio runtime. The directory must exist.
    pub fn new(run_dir: &Path) -> io::Result<RunWatch> {
        let inotify = Inotify::init()?;
        inotify
            .watches()
            .add(run_dir, WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO)?;
        let ready = sys::readable(inotify.as_fd().try_clone_to_owned()?)?;
        Ok(RunWatch { inotify, ready })
    }

    /// Waits for events; true when one of them was a ping.
    pub async fn pinged(&mut self) -> io::Result<bool> {
        // Cleared before reading: what comes in between makes it ready again.
        self.ready.readable().await?.clear_ready();
        let mut buf = [0u8; 4096];
        let mut ping = false;
        loop {
            match self.inotify.read_events(&mut buf) {
                Ok(events) => {
                    for e in events {
                        // Lost events may have been pings; one too many does no harm.
                        ping |= e.name == Some(OsStr::new("meta.ping"))
                            || e.mask.contains(EventMask::Q_OVERFLOW);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(ping),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
    }
}
