//! Reading whole directories into a snapshot.
use crate::dirs::{Entry, TreeLock, lookup};
use crate::form::is_place_of_link;
use crate::key::{DEPTH_MAX, is_valid_path};
use crate::{FileMeta, Snapshot};
use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

const READ_DIR: OFlag = OFlag::O_RDONLY
    .union(OFlag::O_DIRECTORY)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// Are there no keys below this top-level directory?
pub(crate) fn is_skipped(path: &str) -> bool {
    path == "lost+found" || path.starts_with("probe-")
}

/// Visible entries of an open directory: name, and whether it is a directory (`None` = not known).
pub(crate) fn names(dir: &mut Dir) -> io::Result<Vec<(String, Option<bool>)>> {
    let mut found = Vec::new();
    for entry in dir.iter() {
        let entry = entry?;
        let name = entry.file_name();
        // Hidden names are temporary or old markers; a name that is not UTF-8 is no key.
        if name.to_bytes().first() == Some(&b'.') {
            continue;
        }
        if let Ok(name) = name.to_str() {
            let is_dir = entry.file_type().map(|t| t == Type::Directory);
            found.push((name.to_string(), is_dir));
        }
    }
    Ok(found)
}

/// Reads everything below `root` for which `wanted(top-level directory)` holds.
///
/// With `locked` the caller holds the writers' lock. Otherwise writers are kept out while names are listed (and only
/// then): no file system has to list an entry that is replaced by rename during the listing, and a key that is missing
/// for a moment would look like one that nobody set.
pub(crate) fn scan(
    root: &Path,
    locked: bool,
    wanted: impl Fn(&str) -> bool,
) -> io::Result<Snapshot> {
    let scan = Scan {
        root,
        locked,
        wanted,
    };
    let mut snap = Snapshot::default();
    // The root itself may be reached through a link; nothing below it is.
    let flags = READ_DIR.difference(OFlag::O_NOFOLLOW);
    let mut dir = Dir::open(root, flags, Mode::empty())?;
    scan.walk(&mut dir, "", &mut snap)?;
    Ok(snap)
}

fn misplaced(snap: &mut Snapshot, path: String, is_file: bool, what: &'static str) {
    if is_place_of_link(&path, is_file) {
        snap.misplaced.insert(path, what);
    }
}

struct Scan<'a, F> {
    root: &'a Path,
    locked: bool,
    wanted: F,
}

impl<F: Fn(&str) -> bool> Scan<'_, F> {
    fn walk(&self, dir: &mut Dir, prefix: &str, snap: &mut Snapshot) -> io::Result<()> {
        let found = {
            let _quiet = (!self.locked)
                .then(|| TreeLock::shared(self.root))
                .flatten();
            names(dir)?
        };
        for (name, is_dir) in found {
            let path = if prefix.is_empty() {
                name.clone()
            } else {
                format!("{prefix}/{name}")
            };
            if !is_valid_path(&path) || (prefix.is_empty() && is_skipped(&path)) {
                continue;
            }
            let entry = match is_dir {
                Some(true) => Entry::Directory,
                _ => lookup(&*dir, &name)?,
            };
            match entry {
                Entry::Link(link) => {
                    snap.links.insert(path, link);
                }
                Entry::File { size, mtime } if name.starts_with("log-") => {
                    snap.files.insert(path, FileMeta { size, mtime });
                }
                Entry::Directory => {
                    self.enter(dir, &name, &path, snap)?;
                    misplaced(snap, path, false, "a directory");
                }
                Entry::File { .. } => misplaced(snap, path, true, "a file"),
                Entry::Foreign => misplaced(snap, path, false, "a special file"),
                Entry::Absent => {}
            }
        }
        Ok(())
    }

    fn enter(&self, dir: &Dir, name: &str, path: &str, snap: &mut Snapshot) -> io::Result<()> {
        let depth = path.split('/').count();
        if depth >= DEPTH_MAX || (depth == 1 && !(self.wanted)(path)) {
            return Ok(());
        }
        match Dir::openat(dir.as_fd(), name, READ_DIR, Mode::empty()) {
            Ok(mut below) => self.walk(&mut below, path, snap),
            // Replaced or removed since it was listed.
            Err(Errno::ENOENT | Errno::ENOTDIR | Errno::ELOOP) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }
}
