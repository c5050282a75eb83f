//! The local copy: appending, and making durable beside receiving.
//!
//! One thread calls fdatasync again and again while bytes arrive: each call makes durable what came during the one before. So a
//! trickle is published after one sync, and a flood is synced in large pieces, without stopping the receiver. During a flood that thread
//! starts the write-out of each piece as soon as it is there, so that the disk is busy all the time and little is left to the sync.
//!
//! Buffered, not O_DIRECT: replay reads the same bytes from the page cache a moment later.
use crate::sys;
use mars_daemon::Rates;
use mars_live::{FetchLive, LivePage};
use mars_tree::LogName;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Received bytes may be ahead of durable ones by this much; then the receiver waits for the disk.
const BEHIND_MAX: u64 = 128 << 20;
/// While bytes are flooding in, a sync waits for this many (but never longer than [`GATHER`]).
const GATHER_BYTES: u64 = 64 << 20;
/// Write-out is started in pieces of this size.
const PIECE: u64 = 4 << 20;
const GATHER: Duration = Duration::from_millis(100);

/// Opens the local copy for appending, creating it (0600) durably. Never through a link.
pub fn open_copy(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options
        .read(true)
        .append(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    let file = match options.open(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let f = options.create_new(true).open(path)?;
            sync_dir(path)?;
            f
        }
        other => other?,
    };
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("not a regular file"))
    }
}

/// Makes the directory entry of `path` durable.
pub fn sync_dir(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(dir) => File::open(dir)?.sync_all(),
        None => Ok(()),
    }
}

#[derive(Default)]
struct State {
    file: Option<Arc<File>>,
    log_nr: u64,
    written: u64,
    durable: u64,
    /// Write-out was started up to here.
    started: u64,
    complete: bool,
    /// The receiver found the socket empty: sync now.
    hurry: bool,
    failed: Option<io::Error>,
    rates: Rates,
    end: bool,
}

/// The file being fetched and its durable length.
pub struct Copy {
    page: LivePage,
    state: Mutex<State>,
    changed: Condvar,
}

impl Copy {
    /// Nothing open yet.
    pub fn new(page: LivePage) -> Copy {
        Copy {
            page,
            state: Mutex::default(),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes up a file; what it holds is made durable first. Returns its length.
    pub fn start(&self, log: &LogName, file: File) -> io::Result<u64> {
        self.close()?;
        let len = file.metadata()?.len();
        file.sync_data()?;
        let mut s = self.lock();
        s.file = Some(Arc::new(file));
        s.log_nr = u64::from(log.nr);
        (s.written, s.durable, s.started) = (len, len, len);
        (s.complete, s.failed) = (false, None);
        self.publish(&s);
        Ok(len)
    }

    /// Lets go of the file (it was deleted, or nothing is to be fetched), so that its space can be freed. The error is that of
    /// the file that is let go: the next one begins without it.
    pub fn close(&self) -> io::Result<()> {
        let r = self.settle();
        let mut s = self.lock();
        if let (Some(f), Some(_)) = (&s.file, &s.failed) {
            // What the kernel failed to write it may have forgotten, and a later sync would not say so: fetch it again.
            if let Err(e) = f.set_len(s.durable).and_then(|()| f.sync_all()) {
                tracing::warn!("cutting off the bytes that could not be made durable: {e}");
            }
        }
        (s.file, s.failed) = (None, None);
        s.written = s.durable;
        r
    }

    /// Is the open file still the one in the directory?
    pub fn is_current(&self) -> bool {
        let file = self.lock().file.clone();
        file.is_none_or(|f| f.metadata().is_ok_and(|m| m.nlink() > 0))
    }

    /// Bytes received, durable or not.
    pub fn len(&self) -> u64 {
        self.lock().written
    }

    /// KiB per second.
    pub fn rate(&self) -> u64 {
        self.lock().rates.current().1
    }

    /// Appends. Waits when too much is not durable yet.
    pub fn append(&self, bytes: &[u8]) -> io::Result<()> {
        use std::io::Write;
        let file = self.lock().file.clone();
        let file = file.ok_or_else(|| io::Error::other("no log is open"))?;
        (&*file).write_all(bytes)?;
        let mut s = self.lock();
        s.written += bytes.len() as u64;
        s.rates.add(1, bytes.len() as u64);
        s.hurry = false;
        self.changed.notify_all();
        while s.written - s.durable > BEHIND_MAX && s.failed.is_none() && !s.end {
            s = self.wait(s, None);
        }
        s.failed.as_ref().map_or(Ok(()), |e| Err(copy_error(e)))
    }

    /// Nothing more is waiting in the socket: make durable what is here.
    pub fn hurry(&self) {
        let mut s = self.lock();
        if s.durable < s.written {
            s.hurry = true;
            self.changed.notify_all();
        }
    }

    /// Waits until everything is durable.
    pub fn settle(&self) -> io::Result<()> {
        self.hurry();
        let mut s = self.lock();
        while s.durable < s.written && s.failed.is_none() && !s.end {
            s = self.wait(s, None);
        }
        s.failed.as_ref().map_or(Ok(()), |e| Err(copy_error(e)))
    }

    /// The log is complete: everything durable, and said so.
    pub fn complete(&self) -> io::Result<()> {
        self.settle()?;
        let mut s = self.lock();
        s.complete = true;
        self.publish(&s);
        Ok(())
    }

    /// Ends [`Copy::sync_loop`].
    pub fn end(&self) {
        self.lock().end = true;
        self.changed.notify_all();
    }

    fn wait<'a>(
        &self,
        s: MutexGuard<'a, State>,
        timeout: Option<Duration>,
    ) -> MutexGuard<'a, State> {
        match timeout {
            Some(t) => {
                self.changed
                    .wait_timeout(s, t)
                    .unwrap_or_else(PoisonError::into_inner)
                    .0
            }
            None => self.changed.wait(s).unwrap_or_else(PoisonError::into_inner),
        }
    }

    fn publish(&self, s: &State) {
        let (ops, kib) = s.rates.current();
        self.page.publish(&FetchLive {
            log_nr: s.log_nr,
            durable_len: s.durable,
            complete: u64::from(s.complete),
            bytes: s.rates.total_bytes(),
            ops_rate: ops,
            amount_rate: kib,
        });
    }

    /// The sync thread. `report` gets the rates (operations, KiB per second) when they changed, at most every two seconds.
    pub fn sync_loop(&self, mut report: impl FnMut(u64, u64)) {
        let mut s = self.lock();
        while !s.end {
            if s.durable < s.written && s.failed.is_none() {
                s = self.gather(s);
                let (file, upto, nr) = (s.file.clone(), s.written, s.log_nr);
                drop(s);
                let result = file.map_or(Ok(()), |f| f.sync_data());
                s = self.lock();
                if s.log_nr == nr {
                    match result {
                        Ok(()) => s.durable = upto,
                        Err(e) => s.failed = Some(e),
                    }
                }
                self.publish(&s);
                self.changed.notify_all();
            }
            if let Some((ops, kib)) = s.rates.tick(Instant::now()) {
                self.publish(&s);
                drop(s);
                report(ops, kib);
                s = self.lock();
            }
            if s.durable == s.written || s.failed.is_some() {
                let timeout = s.rates.next_tick(Instant::now());
                if !s.end {
                    s = self.wait(s, timeout);
                }
            }
        }
    }

    /// During a flood: a few larger syncs instead of many small ones.
    fn gather<'a>(&'a self, mut s: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        let until = Instant::now() + GATHER;
        while !s.hurry && !s.end && s.written - s.durable < GATHER_BYTES {
            if s.written.saturating_sub(s.started) >= PIECE {
                s = self.write_out(s);
                continue;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            s = self.wait(s, Some(left));
        }
        s
    }

    fn write_out<'a>(&'a self, mut s: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        // Whole pieces: a page that is being written out must not be the one that is being filled.
        let (from, to) = (s.started, s.written / PIECE * PIECE);
        s.started = to.max(from);
        let file = s.file.clone();
        drop(s);
        if let Some(f) = file.filter(|_| from < to) {
            sys::start_writeout(&f, from, to);
        }
        self.lock()
    }
}

fn copy_error(e: &io::Error) -> io::Error {
    e.raw_os_error().map_or_else(
        || io::Error::other(e.to_string()),
        io::Error::from_raw_os_error,
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn failed_sync_does_not_stop_the_next_file() {
        let dir = tempfile::tempdir().unwrap();
        let copy = Copy::new(LivePage::open(dir.path(), "r").unwrap());
        let log: LogName = "log-000000001-a".parse().unwrap();
        let path = dir.path().join("log");
        std::thread::scope(|s| {
            s.spawn(|| copy.sync_loop(|_, _| {}));
            assert_eq!(copy.start(&log, open_copy(&path).unwrap()).unwrap(), 0);
            copy.append(b"good").unwrap();
            copy.settle().unwrap();
            // A pipe takes bytes, but cannot make them durable.
            let (_reader, writer) = std::io::pipe().unwrap();
            let file = File::from(std::os::fd::OwnedFd::from(writer));
            copy.lock().file = Some(Arc::new(file));
            copy.append(b"lost").unwrap();
            let failed = copy.settle().is_err();
            let told = copy.start(&log, open_copy(&path).unwrap()).is_err();
            let again = copy.start(&log, open_copy(&path).unwrap());
            if again.is_ok() {
                copy.append(b" too").unwrap();
                copy.complete().unwrap();
            }
            copy.end();
            assert_eq!((failed, told, again.ok()), (true, true, Some(4)));
        });
        assert_eq!(std::fs::read(&path).unwrap(), b"good too");
    }
}
