//! A disk: block device or regular file.
use crate::sys;
use mars_tree::{HostEnv, ResName};
use nix::fcntl::{FallocateFlags, PosixFadviseAdvice, fallocate, posix_fadvise};
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, IoSlice};
use std::os::unix::fs::{FileExt, FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Most pieces that one `pwritev` takes (`IOV_MAX`).
const IOV_MAX: usize = 1024;
/// Shorter zero ranges are written: a hole of that size costs more metadata than it saves.
const MIN_HOLE: u64 = 4096;

static ZEROS: [u8; 65536] = [0; 65536];

/// How the disk is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DiskMode {
    /// Exclusive for this host's daemons of the resource: foreign openers are refused, and we are refused when a foreign
    /// process holds it (O_EXCL on a block device, a write lock on a regular file). Daemons of the same resource
    /// share it through `RUN_DIR/NAME/disk.lock`.
    Exclusive,
    /// Reading only, beside a running logger (sync source).
    ReadOnly,
}

/// Why a disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Not there.
    #[error("disk {0} does not exist")]
    Missing(PathBuf),
    /// Somebody else uses it.
    #[error("disk {0} is in use by somebody else (mounted, or opened exclusively)")]
    InUse(PathBuf),
    /// Neither block device nor regular file.
    #[error("{0} is neither a block device nor a regular file")]
    Kind(PathBuf),
    /// Other.
    #[error("disk {path}: {source}")]
    Io {
        /// Path.
        path: PathBuf,
        /// Reason.
        source: io::Error,
    },
}

impl DiskError {
    fn io(path: &Path, source: io::Error) -> DiskError {
        match source.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR | libc::ENXIO | libc::ENODEV) => {
                DiskError::Missing(path.to_path_buf())
            }
            Some(libc::EBUSY) => DiskError::InUse(path.to_path_buf()),
            _ => DiskError::Io {
                path: path.to_path_buf(),
                source,
            },
        }
    }

    /// The errno for `actual-HOST/disk-error`, positive.
    pub fn errno(&self) -> i32 {
        match self {
            DiskError::Missing(_) => libc::ENOENT,
            DiskError::InUse(_) => libc::EBUSY,
            DiskError::Kind(_) => libc::ENOTBLK,
            DiskError::Io { source, .. } => source.raw_os_error().unwrap_or(libc::EIO),
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Block,
    Regular,
}

/// An open disk. Positional I/O through the page cache; any offset and length.
#[derive(Debug)]
pub struct Disk {
    file: File,
    path: PathBuf,
    kind: Kind,
    /// Keeps the shared lock that tells the other daemons of this resource that the exclusive user is one of us.
    _family: Option<File>,
}

impl Disk {
    /// Opens the disk of a resource.
    ///
    /// Each exclusive user holds a shared lock on `RUN_DIR/NAME/disk.lock`. Who finds nobody else there must get the disk
    /// exclusively; who finds another holder tries the same, and when the disk is taken it is that holder's, so it is shared.
    pub fn open(
        path: &Path,
        mode: DiskMode,
        env: &HostEnv,
        res: &ResName,
    ) -> Result<Disk, DiskError> {
        if mode == DiskMode::ReadOnly {
            let (file, kind) = open_raw(path, false, false)?;
            return Ok(Disk {
                file,
                path: path.to_path_buf(),
                kind,
                _family: None,
            });
        }
        let dir = env.resource_run_dir(res);
        let lock_path = dir.join("disk.lock");
        let lock_error = |source| DiskError::Io {
            path: lock_path.clone(),
            source,
        };
        std::fs::create_dir_all(&dir).map_err(lock_error)?;
        let family = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(lock_error)?;
        // An exclusive lock proves that no relative holds the disk; it also keeps relatives out while we try.
        let alone = match family.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock) => {
                family.lock_shared().map_err(lock_error)?;
                false
            }
            Err(TryLockError::Error(e)) => return Err(lock_error(e)),
        };
        let (file, kind) = match open_raw(path, true, true) {
            Err(DiskError::InUse(_)) if !alone => open_raw(path, true, false)?,
            other => other?,
        };
        if alone {
            family.lock_shared().map_err(lock_error)?;
        }
        Ok(Disk {
            file,
            path: path.to_path_buf(),
            kind,
            _family: Some(family),
        })
    }

    /// Checks without keeping it open: exists, right kind, not in use (by a daemon of ours neither). Returns its size in bytes.
    pub fn probe(path: &Path) -> Result<u64, DiskError> {
        let (file, kind) = open_raw(path, true, true)?;
        size_of(&file, kind).map_err(|e| DiskError::io(path, e))
    }

    /// Wraps an open file (tests, benches).
    pub fn from_file(file: File, path: &Path) -> io::Result<Disk> {
        let kind = kind_of(&file.metadata()?).ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Disk {
            file,
            path: path.to_path_buf(),
            kind,
            _family: None,
        })
    }

    /// Bytes.
    pub fn size(&self) -> io::Result<u64> {
        size_of(&self.file, self.kind)
    }

    /// Path as given.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Fills the buffer; reading behind the end gives zeros.
    pub fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<()> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
            match self.file.read_at(rest, pos.saturating_add(done as u64)) {
                Ok(0) => {
                    rest.fill(0);
                    break;
                }
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }

    /// As `read_at`, but only from the page cache: `Ok(false)` when it would have to wait for the device.
    pub fn try_read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<bool> {
        let mut done = 0;
        while let Some(rest) = buf.get_mut(done..).filter(|r| !r.is_empty()) {
            match sys::read_cached(&self.file, rest, pos.saturating_add(done as u64))? {
                None => return Ok(false),
                Some(0) => {
                    rest.fill(0);
                    break;
                }
                Some(n) => done += n,
            }
        }
        Ok(true)
    }

    /// Writes everything.
    pub fn write_at(&self, buf: &[u8], pos: u64) -> io::Result<()> {
        self.file.write_all_at(buf, pos)
    }

    /// Gathers consecutive pieces into one write where possible.
    pub fn write_vectored_at(&self, bufs: &[&[u8]], mut pos: u64) -> io::Result<()> {
        for group in bufs.chunks(IOV_MAX) {
            if let [one] = group {
                self.write_at(one, pos)?;
                pos += one.len() as u64;
                continue;
            }
            let mut slices: Vec<IoSlice<'_>> = group.iter().map(|b| IoSlice::new(b)).collect();
            let mut rest: &mut [IoSlice<'_>] = &mut slices;
            IoSlice::advance_slices(&mut rest, 0);
            while !rest.is_empty() {
                let offset = libc::off_t::try_from(pos).map_err(|_| io::ErrorKind::InvalidInput)?;
                match nix::sys::uio::pwritev(&self.file, rest, offset) {
                    Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                    Ok(n) => {
                        pos += n as u64;
                        IoSlice::advance_slices(&mut rest, n);
                    }
                    Err(nix::errno::Errno::EINTR) => {}
                    Err(e) => return Err(e.into()),
                }
            }
        }
        Ok(())
    }

    /// Makes the range read as zeros: a hole where the file system or device can, zeros otherwise.
    pub fn zero_at(&self, pos: u64, len: u64) -> io::Result<()> {
        if len >= MIN_HOLE
            && let (Ok(offset), Ok(length)) = (pos.try_into(), len.try_into())
        {
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            match fallocate(&self.file, flags, offset, length) {
                Ok(()) => return Ok(()),
                // Not supported here, or not aligned to the device's blocks, or a block device whose pages there are being written by another
                // daemon of ours (a sync beside the replay): write.
                Err(
                    nix::errno::Errno::EOPNOTSUPP
                    | nix::errno::Errno::EBUSY
                    | nix::errno::Errno::EINVAL
                    | nix::errno::Errno::ENOSYS
                    | nix::errno::Errno::ENODEV
                    | nix::errno::Errno::EPERM
                    | nix::errno::Errno::EINTR,
                ) => {}
                Err(e) => return Err(e.into()),
            }
        }
        let mut done = 0;
        while done < len {
            let n = (len - done).min(ZEROS.len() as u64);
            let piece = ZEROS.get(..n as usize).unwrap_or(&ZEROS);
            self.write_at(piece, pos.saturating_add(done))?;
            done += n;
        }
        Ok(())
    }

    /// fdatasync: everything written through this handle (and the page cache of the device) is durable on success. After a failure nothing
    /// written since the last success may be called durable.
    pub fn flush(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    /// Starts writing out a range without waiting.
    pub fn start_writeout(&self, pos: u64, len: u64) {
        sys::start_writeout(&self.file, pos, len);
    }

    /// Gives back what the page cache holds of the disk and is not dirty; a hint.
    pub fn forget_cached(&self) {
        // There is nothing to do when it fails.
        let _ = posix_fadvise(&self.file, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }

    /// The file (for reading sparse maps).
    pub fn file(&self) -> &File {
        &self.file
    }
}

fn kind_of(meta: &std::fs::Metadata) -> Option<Kind> {
    let t = meta.file_type();
    if t.is_block_device() {
        Some(Kind::Block)
    } else if t.is_file() {
        Some(Kind::Regular)
    } else {
        None
    }
}

fn size_of(file: &File, kind: Kind) -> io::Result<u64> {
    match kind {
        Kind::Block => sys::block_device_size(file),
        Kind::Regular => Ok(file.metadata()?.len()),
    }
}

fn open_raw(path: &Path, write: bool, exclusive: bool) -> Result<(File, Kind), DiskError> {
    let error = |e| DiskError::io(path, e);
    // Looked at before opening: opening a pipe or a terminal can block or have effects.
    let kind = kind_of(&std::fs::metadata(path).map_err(error)?)
        .ok_or_else(|| DiskError::Kind(path.to_path_buf()))?;
    let mut options = OpenOptions::new();
    options.read(true).write(write);
    if exclusive && kind == Kind::Block {
        options.custom_flags(libc::O_EXCL);
    }
    let file = options.open(path).map_err(error)?;
    if kind_of(&file.metadata().map_err(error)?) != Some(kind) {
        return Err(DiskError::Kind(path.to_path_buf()));
    }
    if exclusive && kind == Kind::Regular {
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(DiskError::InUse(path.to_path_buf())),
            Err(TryLockError::Error(e)) => return Err(error(e)),
        }
    }
    Ok((file, kind))
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
