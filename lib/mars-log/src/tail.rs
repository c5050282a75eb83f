//! Zeros ahead of the end of a log: small appends land in blocks that are written already, so that a commit costs no change of metadata
//! (about 0.6 of the time). The records end where the zeros begin; at rest the zeros are cut off.
use crate::{LogReader, ReadRecord, ScanLimits};
use std::fs::{File, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes written at once; an append that comes to them meanwhile waits.
const STEP: usize = 256 << 10;
/// Bytes read at once when looking for the end of the zeros.
const LOOK: usize = 1 << 20;
const BLOCK: u64 = 4096;

/// At an address that allows to write them past the page cache.
#[repr(align(4096))]
struct Zeros([u8; STEP]);
static ZEROS: Zeros = Zeros([0; STEP]);

/// The prepared end of a log that is being written. Only its owner appends; one other thread prepares.
#[derive(Debug)]
pub struct PreparedTail {
    /// An open file of its own: the kernel tells a write-back error once per open file, and the one that commits must hear it.
    file: File,
    /// Behind the last byte that was appended, is being appended, or is prepared: zeros are written at or behind it only.
    ready: AtomicU64,
    /// Held while zeros are written; true when there must be none any more.
    closed: Mutex<bool>,
}

impl PreparedTail {
    /// `file`: the empty log, opened for this alone.
    pub(crate) fn new(file: File) -> PreparedTail {
        PreparedTail {
            file,
            ready: AtomicU64::new(0),
            closed: Mutex::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, bool> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends up to `end` are about to be written: no zeros go there any more.
    pub(crate) fn claim(&self, end: u64) {
        if end > self.ready.load(Ordering::Acquire) {
            let _no_zeros = self.lock();
            self.ready.fetch_max(end, Ordering::AcqRel);
        }
    }

    /// Nothing is prepared after this.
    pub(crate) fn close(&self) {
        *self.lock() = true;
    }

    /// End of what is prepared or appended.
    pub fn ready(&self) -> u64 {
        self.ready.load(Ordering::Acquire)
    }

    /// Writes zeros up to about `upto` and makes them durable. An error has no consequence for the log; nothing more is prepared
    /// in it then, and what was written behind the prepared part is given back.
    pub fn prepare(&self, upto: u64) -> io::Result<()> {
        loop {
            let mut closed = self.lock();
            let from = self.ready().next_multiple_of(BLOCK);
            if *closed || from >= upto {
                break;
            }
            if let Err(e) = self.file.write_all_at(&ZEROS.0, from) {
                *closed = true;
                // Everything appended, or about to be, lies before it.
                let _ = self.file.set_len(self.ready());
                return Err(e);
            }
            self.ready.store(from + STEP as u64, Ordering::Release);
        }
        // Otherwise the next commit would have to do it. The commits do not count on it.
        self.file.sync_data()
    }

    /// Bytes that are free in the file system of the log.
    pub fn free_space(&self) -> io::Result<u64> {
        let s = nix::sys::statvfs::fstatvfs(&self.file)?;
        Ok(s.blocks_available().saturating_mul(s.fragment_size()))
    }
}

/// End of the last valid record that can be reached from the record border `from`, at most `limit`. Bounded memory.
pub fn valid_end(file: &File, from: u64, limit: u64) -> io::Result<u64> {
    let mut reader = LogReader::new(file.try_clone()?, from, limit, ScanLimits::default());
    while let ReadRecord::Record(..) = reader.next_record()? {}
    Ok(reader.position())
}

/// Length of a log that may have a prepared tail: the file without the zeros at its end, as far as they are not part of a record.
/// `from` is a record border up to which the log is known to be valid; the result is never below it, unless the file is.
pub fn unprepared_len(file: &File, from: u64) -> io::Result<u64> {
    let size = file.metadata()?.len();
    let content = last_nonzero(file, from.min(size), size)?;
    if content == size {
        return Ok(size);
    }
    // A record may end with zeros.
    Ok(valid_end(file, from.min(size), size)?.max(content))
}

/// Cuts the prepared tail off a log, durably. Returns the length of the log. The caller knows that nobody writes it any more.
pub fn cut_prepared(file: &File, from: u64) -> io::Result<u64> {
    let len = unprepared_len(file, from)?;
    if len < file.metadata()?.len() {
        file.set_len(len)?;
        file.sync_all()?;
    }
    Ok(len)
}

/// The same for who does not know it: a log that somebody writes (he holds the lock on the file) stays as it is.
pub fn cut_if_left(file: &File, from: u64) -> io::Result<u64> {
    let len = unprepared_len(file, from)?;
    if len == file.metadata()?.len() {
        return Ok(len);
    }
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Ok(len),
        Err(TryLockError::Error(e)) => return Err(e),
    }
    // Looked at again: the writer may have gone on before it went away.
    let result = cut_prepared(file, from);
    file.unlock()?;
    result
}

/// Behind the last byte in `[from, to)` that is not zero; `from` when there is none.
fn last_nonzero(file: &File, from: u64, to: u64) -> io::Result<u64> {
    let mut end = to;
    let mut buf = Vec::new();
    while end > from {
        // Little at first: most logs end with something.
        let step = if end == to { BLOCK as usize } else { LOOK };
        let n = usize::try_from(end - from).map_or(step, |n| n.min(step));
        buf.resize(n, 0);
        let start = end - n as u64;
        file.read_exact_at(&mut buf, start)?;
        if let Some(i) = buf.iter().rposition(|b| *b != 0) {
            return Ok(start + i as u64 + 1);
        }
        end = start;
    }
    Ok(from)
}
