//! Entries of the tree by directory descriptor. No component of a path is ever followed when it is a link.
use crate::memory::MemoryLinks;
use crate::{Link, Stamp, Value};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, Flock, FlockArg, OFlag, open, openat, readlinkat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, UtimensatFlags, fstatat, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, symlinkat, unlinkat};
use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    Absent,
    Link(Link),
    File {
        size: u64,
        mtime: Stamp,
    },
    Directory,
    /// Device, socket and the like, or something in the way of a parent directory.
    Foreign,
}

/// Descriptors of directories, opened once per operation.
pub(crate) struct Dirs {
    root: OwnedFd,
    open: HashMap<String, OwnedFd>,
    /// Where the links are, when not in the directories.
    memory: Option<Arc<MemoryLinks>>,
}

/// Splits a path into directory ("" = root) and name.
pub(crate) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

impl Dirs {
    pub(crate) fn new(root: &Path, memory: Option<Arc<MemoryLinks>>) -> io::Result<Dirs> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Dirs {
            root: open(root, flags, Mode::empty())?,
            open: HashMap::new(),
            memory,
        })
    }

    /// The directory `path`; `None` when it is absent or deleted. With `make` it is created; a tombstone in its place is
    /// removed. Anything else in its place is an error (ENOTDIR).
    pub(crate) fn dir(&mut self, path: &str, make: bool) -> io::Result<Option<&OwnedFd>> {
        if path.is_empty() {
            return Ok(Some(&self.root));
        }
        if !self.open.contains_key(path) {
            let (above, name) = split(path);
            let Some(parent) = self.dir(above, make)? else {
                return Ok(None);
            };
            let Some(fd) = enter(parent, name, make)? else {
                return Ok(None);
            };
            self.open.insert(path.to_string(), fd);
        }
        Ok(self.open.get(path))
    }

    /// What stands at `path`.
    pub(crate) fn entry(&mut self, path: &str) -> io::Result<Entry> {
        let (above, name) = split(path);
        if let Some(memory) = &self.memory {
            match memory.get(path) {
                Some(link) => return Ok(Entry::Link(link)),
                None if !name.starts_with("log-") => return Ok(Entry::Absent),
                None => {}
            }
        }
        match self.dir(above, false) {
            Ok(Some(dir)) => lookup(dir, name),
            Ok(None) => Ok(Entry::Absent),
            Err(e) if e.raw_os_error() == Some(nix::libc::ENOTDIR) => Ok(Entry::Foreign),
            Err(e) => Err(e),
        }
    }

    /// Puts a link with a stamp at `path`, atomically, making its directory.
    pub(crate) fn put(&mut self, path: &str, value: &Value, stamp: Stamp) -> io::Result<()> {
        if let Some(memory) = self.memory.clone() {
            self.unlink(path)?;
            memory.put(path, value, stamp);
            return Ok(());
        }
        let (above, name) = split(path);
        let Some(dir) = self.dir(above, true)? else {
            return Err(Errno::ENOTDIR.into());
        };
        let tmp = format!(".tmp.{}.{name}", std::process::id());
        let target = OsStr::from_bytes(value.as_bytes());
        match symlinkat(target, dir, tmp.as_str()) {
            // Left behind by a process that was killed and had our number.
            Err(Errno::EEXIST) => {
                unlinkat(dir, tmp.as_str(), UnlinkatFlags::NoRemoveDir)?;
                symlinkat(target, dir, tmp.as_str())?;
            }
            other => other?,
        }
        let time = TimeSpec::new(stamp.secs() as i64, i64::from(stamp.subsec_nanos()));
        let done = utimensat(
            dir,
            tmp.as_str(),
            &time,
            &time,
            UtimensatFlags::NoFollowSymlink,
        )
        .and_then(|()| renameat(dir, tmp.as_str(), dir, name));
        if done.is_err() {
            let _ = unlinkat(dir, tmp.as_str(), UnlinkatFlags::NoRemoveDir);
        }
        Ok(done?)
    }

    /// Creates an empty file (mode 0600) that must not exist.
    pub(crate) fn create(&mut self, path: &str) -> io::Result<()> {
        let (above, name) = split(path);
        let Some(dir) = self.dir(above, true)? else {
            return Err(Errno::ENOTDIR.into());
        };
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
        openat(dir, name, flags, Mode::S_IRUSR | Mode::S_IWUSR)?;
        if let Some(memory) = &self.memory {
            memory.made_log(path);
        }
        Ok(())
    }

    /// Removes a link or file; absent is fine.
    pub(crate) fn unlink(&mut self, path: &str) -> io::Result<()> {
        let (above, name) = split(path);
        if let Some(memory) = &self.memory {
            memory.remove(path);
            if !name.starts_with("log-") {
                return Ok(());
            }
        }
        let Some(dir) = self.dir(above, false)? else {
            return Ok(());
        };
        match unlinkat(dir, name, UnlinkatFlags::NoRemoveDir) {
            Err(Errno::ENOENT) => Ok(()),
            other => Ok(other?),
        }
    }

    /// The place of the old deletion marker of `path` (symlink-tree.md 3.4).
    pub(crate) fn marker_path(path: &str) -> String {
        match path.rsplit_once('/') {
            Some((above, name)) => format!("{above}/.deleted-{name}"),
            None => format!(".deleted-{path}"),
        }
    }
}

/// Opens the directory `name`, see [`Dirs::dir`].
fn enter(parent: &OwnedFd, name: &str, make: bool) -> io::Result<Option<OwnedFd>> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let try_open = || openat(parent, name, flags, Mode::empty());
    match try_open() {
        Ok(fd) => return Ok(Some(fd)),
        Err(Errno::ENOENT) if !make => return Ok(None),
        Err(Errno::ENOENT) => {}
        Err(Errno::ENOTDIR | Errno::ELOOP) => match lookup(parent, name)? {
            Entry::Link(l) if l.value.is_deleted() && !make => return Ok(None),
            Entry::Link(l) if l.value.is_deleted() => {
                unlinkat(parent, name, UnlinkatFlags::NoRemoveDir)?;
            }
            _ => return Err(Errno::ENOTDIR.into()),
        },
        Err(e) => return Err(e.into()),
    }
    match mkdirat(parent, name, Mode::S_IRWXU) {
        Ok(()) | Err(Errno::EEXIST) => Ok(Some(try_open()?)),
        Err(e) => Err(e.into()),
    }
}

fn mtime(st: &FileStat) -> Stamp {
    Stamp::from_timespec(st.st_mtime, st.st_mtime_nsec)
}

/// What stands at `name`. Value and stamp of a link belong together even while writers replace it.
pub(crate) fn lookup(dir: impl AsFd, name: &str) -> io::Result<Entry> {
    let dir = dir.as_fd();
    let stat = || match fstatat(dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(st) => Ok(Some(st)),
        Err(Errno::ENOENT) => Ok(None),
        Err(e) => Err(io::Error::from(e)),
    };
    let Some(mut st) = stat()? else {
        return Ok(Entry::Absent);
    };
    loop {
        match SFlag::from_bits_truncate(st.st_mode & SFlag::S_IFMT.bits()) {
            SFlag::S_IFLNK => {}
            SFlag::S_IFDIR => return Ok(Entry::Directory),
            SFlag::S_IFREG => {
                return Ok(Entry::File {
                    size: u64::try_from(st.st_size).unwrap_or(0),
                    mtime: mtime(&st),
                });
            }
            _ => return Ok(Entry::Foreign),
        }
        let value = match readlinkat(dir, name) {
            Ok(v) => Some(v),
            // Vanished or turned into a file since.
            Err(Errno::ENOENT | Errno::EINVAL) => None,
            Err(e) => return Err(e.into()),
        };
        let Some(again) = stat()? else {
            return Ok(Entry::Absent);
        };
        let same = (
            again.st_ino,
            again.st_mtime,
            again.st_mtime_nsec,
            again.st_mode,
        ) == (st.st_ino, st.st_mtime, st.st_mtime_nsec, st.st_mode);
        if let (true, Some(v)) = (same, value) {
            // The kernel stores no empty targets, so this cannot fail for what it handed out.
            return Ok(match Value::new(v.into_vec()) {
                Ok(value) => Entry::Link(Link {
                    value,
                    stamp: mtime(&st),
                }),
                Err(_) => Entry::Foreign,
            });
        }
        st = again;
    }
}

/// A lock on `ROOT/.lock`, until dropped.
pub(crate) struct TreeLock {
    _lock: Flock<File>,
}

impl TreeLock {
    /// For writers: nobody else writes.
    pub(crate) fn exclusive(root: &Path) -> io::Result<TreeLock> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(root.join(".lock"))?;
        TreeLock::take(file, FlockArg::LockExclusive)
    }
    /// For readers: nobody writes. `None` when there is no lock file or no right to open it.
    pub(crate) fn shared(root: &Path) -> Option<TreeLock> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NOFOLLOW)
            .open(root.join(".lock"))
            .ok()?;
        TreeLock::take(file, FlockArg::LockShared).ok()
    }
    fn take(mut file: File, how: FlockArg) -> io::Result<TreeLock> {
        loop {
            match Flock::lock(file, how) {
                Ok(lock) => return Ok(TreeLock { _lock: lock }),
                Err((f, Errno::EINTR)) => file = f,
                Err((_, e)) => return Err(e.into()),
            }
        }
    }
}
