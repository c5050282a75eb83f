//! Watching the tree by inotify. No polling; a missed or overflowed event is healed by a rescan.
use crate::key::{DEPTH_MAX, is_valid_path};
use crate::scan::{is_skipped, names};
use crate::{Tree, TreeError};
use inotify::{EventMask, Inotify, WatchDescriptor, WatchMask};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use std::collections::{BTreeSet, HashMap};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// What happened since the last call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TreeEvent {
    /// These paths (below the root) changed: links, log files created or removed, and regular files such as the trigger file.
    /// Growth of log files is not reported.
    Changed(BTreeSet<String>),
    /// Events were lost: read everything again. Watches have been renewed.
    Rescan,
    /// Nothing happened within the timeout.
    Timeout,
}

/// Reads of the event queue for one answer; the rest waits for the next call, so that a flood cannot hold the caller.
const READS_MAX: usize = 64;

/// A watch on a tree or on one resource of it. Directories that appear later are watched too, without a gap.
#[derive(Debug)]
pub struct Watcher {
    root: PathBuf,
    /// Watch only this resource, and of the rest what may concern it.
    only: Option<String>,
    inotify: Inotify,
    dirs: HashMap<WatchDescriptor, String>,
    /// Seen, not yet handed out.
    changed: BTreeSet<String>,
    lost: bool,
}

impl Watcher {
    /// Watches everything below the root.
    pub fn tree(tree: &Tree) -> Result<Watcher, TreeError> {
        Watcher::new(tree, None)
    }
    /// Watches one resource directory (and the root, for its creation), `ips/` and `actual-*/`... only what concerns `res`:
    /// no other resource, no user space, no caches and backups.
    pub fn resource(tree: &Tree, res: &crate::ResName) -> Result<Watcher, TreeError> {
        Watcher::new(tree, Some(format!("resource-{res}")))
    }
    fn new(tree: &Tree, only: Option<String>) -> Result<Watcher, TreeError> {
        let mut watcher = Watcher {
            root: tree.root().to_path_buf(),
            only,
            inotify: Inotify::init().map_err(|e| io_error(tree.root(), e))?,
            dirs: HashMap::new(),
            changed: BTreeSet::new(),
            lost: false,
        };
        watcher.add_all()?;
        // What is there already is no change.
        watcher.changed.clear();
        Ok(watcher)
    }

    /// Waits for the next event; `None` = for ever. Names starting with `.` are never reported.
    pub fn wait(&mut self, timeout: Option<Duration>) -> Result<TreeEvent, TreeError> {
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        loop {
            self.drain()?;
            if self.lost {
                self.lost = false;
                // What was seen so far is part of what the caller reads now.
                self.changed.clear();
                self.add_all()?;
                self.changed.clear();
                return Ok(TreeEvent::Rescan);
            }
            if !self.changed.is_empty() {
                return Ok(TreeEvent::Changed(std::mem::take(&mut self.changed)));
            }
            let rest = match deadline {
                None => PollTimeout::NONE,
                Some(d) => {
                    let rest = d.saturating_duration_since(Instant::now());
                    if rest.is_zero() {
                        return Ok(TreeEvent::Timeout);
                    }
                    // Rounded up: a rest below a millisecond must not spin.
                    let ms = i32::try_from(rest.as_millis().saturating_add(1)).unwrap_or(i32::MAX);
                    PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)
                }
            };
            let mut fds = [PollFd::new(self.inotify.as_fd(), PollFlags::POLLIN)];
            match poll(&mut fds, rest) {
                Ok(_) | Err(Errno::EINTR) => {}
                Err(e) => return Err(io_error(&self.root, e.into())),
            }
        }
    }
    /// For poll/epoll/tokio: readable when `wait` would not block. (It may also become readable for events that `wait`
    /// drops: use it with `wait(Some(Duration::ZERO))`.)
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.inotify.as_fd()
    }

    /// Watches everything there is; what is inside counts as changed.
    fn add_all(&mut self) -> Result<(), TreeError> {
        self.add_dir("").map_err(|e| io_error(&self.root, e))
    }

    /// Watches a directory, reports what is inside and descends. The watch comes first: what appears between watch and
    /// listing is then seen twice, never missed.
    fn add_dir(&mut self, path: &str) -> io::Result<()> {
        let full = self.root.join(path);
        match self.inotify.watches().add(&full, mask(path)) {
            Ok(wd) => {
                self.dirs.insert(wd, path.to_string());
            }
            // Gone again, or a link by now.
            Err(e) if !path.is_empty() && is_gone(&e) => return Ok(()),
            Err(e) => return Err(e),
        }
        let mut flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        if !path.is_empty() {
            flags |= OFlag::O_NOFOLLOW;
        }
        let listed = Dir::open(&full, flags, Mode::empty())
            .map_err(io::Error::from)
            .and_then(|mut d| names(&mut d));
        let listed = match listed {
            Ok(l) => l,
            Err(e) if !path.is_empty() && is_gone(&e) => return Ok(()),
            Err(e) => return Err(e),
        };
        for (name, is_dir) in listed {
            let child = join(path, &name);
            let is_dir = is_dir.unwrap_or_else(|| {
                std::fs::symlink_metadata(self.root.join(&child)).is_ok_and(|m| m.is_dir())
            });
            if !is_dir {
                self.report(child);
            } else if self.is_watched(&child) {
                self.add_dir(&child)?;
            }
        }
        Ok(())
    }

    fn is_watched(&self, path: &str) -> bool {
        let depth = path.split('/').count();
        if depth >= DEPTH_MAX || !is_valid_path(path) {
            return false;
        }
        let top = path.split('/').next().unwrap_or("");
        if is_skipped(top) {
            return false;
        }
        match &self.only {
            None => true,
            Some(only) => {
                top == only
                    || top == "ips"
                    || top.starts_with("actual-")
                    || top.starts_with("defaults")
            }
        }
    }

    fn report(&mut self, path: String) {
        if is_valid_path(&path) {
            self.changed.insert(path);
        }
    }

    /// Takes what the kernel has, without waiting.
    fn drain(&mut self) -> Result<(), TreeError> {
        let mut buffer = [0u8; 16 * 1024];
        for _ in 0..READS_MAX {
            let events: Vec<_> = match self.inotify.read_events(&mut buffer) {
                Ok(events) => events.map(|e| e.to_owned()).collect(),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(io_error(&self.root, e)),
            };
            for event in events {
                self.event(event.wd, event.mask, event.name.as_deref())?;
            }
        }
        Ok(())
    }

    fn event(
        &mut self,
        wd: WatchDescriptor,
        mask: EventMask,
        name: Option<&std::ffi::OsStr>,
    ) -> Result<(), TreeError> {
        if mask.contains(EventMask::Q_OVERFLOW) {
            self.lost = true;
            return Ok(());
        }
        if mask.contains(EventMask::IGNORED) {
            self.dirs.remove(&wd);
            return Ok(());
        }
        let Some(dir) = self.dirs.get(&wd) else {
            return Ok(());
        };
        let Some(name) = name.and_then(|n| n.to_str()) else {
            return Ok(());
        };
        if name.starts_with('.') {
            return Ok(());
        }
        let path = join(dir, name);
        if mask.contains(EventMask::ISDIR) {
            if mask.contains(EventMask::MOVED_FROM) {
                // Its watches would report under the old name.
                self.dirs
                    .retain(|_, p| *p != path && !p.starts_with(&format!("{path}/")));
                self.lost = true;
            } else if mask.intersects(EventMask::CREATE | EventMask::MOVED_TO)
                && self.is_watched(&path)
            {
                self.add_dir(&path)
                    .map_err(|e| io_error(&self.root.join(&path), e))?;
            }
            return Ok(());
        }
        let comes_or_goes =
            EventMask::CREATE | EventMask::DELETE | EventMask::MOVED_TO | EventMask::MOVED_FROM;
        if mask.intersects(comes_or_goes) || !name.starts_with("log-") {
            self.report(path);
        }
        Ok(())
    }
}
impl AsFd for Watcher {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

/// What is asked of the kernel for a directory. MODIFY is how it reports a link whose mtime alone was set; directly in a
/// resource directory it would also report every append to a log, so it is not asked for there (links there are
/// replaced by rename, and whoever touches one by hand sets atime too, which is ATTRIB).
fn mask(path: &str) -> WatchMask {
    let mut mask = WatchMask::CREATE
        | WatchMask::DELETE
        | WatchMask::MOVED_TO
        | WatchMask::MOVED_FROM
        | WatchMask::ATTRIB
        | WatchMask::CLOSE_WRITE
        | WatchMask::ONLYDIR;
    if !path.is_empty() {
        mask |= WatchMask::DONT_FOLLOW;
    }
    if !path.starts_with("resource-") || path.contains('/') {
        mask |= WatchMask::MODIFY;
    }
    mask
}

fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() {
        name.to_string()
    } else {
        format!("{dir}/{name}")
    }
}
fn is_gone(e: &io::Error) -> bool {
    matches!(
        e.raw_os_error(),
        Some(nix::libc::ENOENT | nix::libc::ENOTDIR | nix::libc::ELOOP)
    )
}
fn io_error(path: &Path, source: io::Error) -> TreeError {
    TreeError::Io {
        path: path.to_path_buf(),
        source,
    }
}
