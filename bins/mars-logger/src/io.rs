//! What the engine needs from the outside, as traits: tests and simulations put recording or failing layers in between.
pub use mars_disk::DataDisk;
use mars_log::LogFile;
use mars_tree::LogName;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

/// A log file that is being written. One writer at a time.
pub trait LogSink: Send {
    /// Appends everything or fails; after a failure nothing more is appended.
    fn append(&mut self, bytes: &[u8]) -> io::Result<()>;
    /// A handle with which another thread makes durable what was appended before the call.
    fn syncer(&self) -> io::Result<Arc<dyn LogSync>>;
    /// Nothing more is appended and everything is durable: the file becomes exactly as long as the log, if it is longer.
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes a log durable.
pub trait LogSync: Send + Sync {
    /// fdatasync.
    fn sync(&self) -> io::Result<()>;
    /// `[from, to)` is durable and not needed here any more: its page cache may be used for something else.
    fn forget(&self, from: u64, to: u64);
}

/// Where logs are made.
pub trait LogStore: Send + Sync {
    /// Creates the log, or opens it when it exists and is empty.
    fn create(&self, name: &LogName) -> io::Result<Box<dyn LogSink>>;
    /// Cuts what is not durable off the end of a log that is not written any more.
    fn truncate(&self, name: &LogName, len: u64) -> io::Result<()>;
    /// Is there enough space to log again after it ran out?
    fn has_space(&self) -> bool;
}

/// What the engine tells the world. Implementations keep what they cannot write and try again later: a full `/mars` must not stop the engine.
pub trait Links: Send + Sync {
    /// Everything before `pos` of `log` is on the disk; `dirty` bytes behind it may be partly.
    fn replay(&self, log: &LogName, pos: u64, dirty: u64);
    /// `len` bytes of `log`, the one that is written, are durable.
    fn version(&self, log: &LogName, len: u64);
    /// `old` is finished with this length, `new` is open.
    fn rotated(&self, old: &LogName, len: u64, new: &LogName);
    /// Nothing is logged any more; `log` is valid up to `len`. Makes the hole.
    fn emergency(&self, log: &LogName, len: u64);
    /// The log behind the hole, in which logging goes on.
    fn resume_log(&self) -> LogName;
    /// Logging goes on in `log`; everything is on the disk.
    fn resumed(&self, log: &LogName);
    /// What was published survives a power cut from now on. (Otherwise the last links may be lost with the power.)
    fn sync(&self);
    /// The data disk failed with this errno (positive), or works again (0).
    fn disk_error(&self, errno: i32);
}

impl LogSink for LogFile {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        LogFile::append(self, bytes)
    }
    fn syncer(&self) -> io::Result<Arc<dyn LogSync>> {
        Ok(Arc::new(self.handle()?))
    }
    fn finish(&mut self) -> io::Result<()> {
        LogFile::finish(self)
    }
}

impl LogSync for File {
    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
    fn forget(&self, from: u64, to: u64) {
        let (Ok(at), Ok(len)) = (from.try_into(), to.saturating_sub(from).try_into()) else {
            return;
        };
        // A hint; there is nothing to do when it fails.
        let _ = posix_fadvise(self, at, len, PosixFadviseAdvice::POSIX_FADV_DONTNEED);
    }
}

/// Space that must be free before logging is tried again after an emergency.
const RESUME_FREE_BYTES: u64 = 64 << 20;

/// Log files in a resource directory.
#[derive(Debug)]
pub struct LogDir(pub PathBuf);

impl LogDir {
    /// As [`LogStore::create`]; `direct`: past the page cache where that is possible.
    pub(crate) fn open(&self, name: &LogName, direct: bool) -> io::Result<LogFile> {
        LogFile::create_with(&self.0, name, direct)
    }
}

impl LogStore for LogDir {
    fn create(&self, name: &LogName) -> io::Result<Box<dyn LogSink>> {
        Ok(Box::new(self.open(name, false)?))
    }
    fn truncate(&self, name: &LogName, len: u64) -> io::Result<()> {
        let file = File::options()
            .write(true)
            .open(self.0.join(name.to_string()))?;
        if file.metadata()?.len() > len {
            file.set_len(len)?;
        }
        file.sync_data()
    }
    fn has_space(&self) -> bool {
        nix::sys::statvfs::statvfs(&self.0).is_ok_and(|s| {
            s.blocks_available().saturating_mul(s.fragment_size()) >= RESUME_FREE_BYTES
        })
    }
}
