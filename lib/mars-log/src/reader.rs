//! Log files: reading with bounded memory.
use crate::layout::MAX_TOTAL;
use crate::{Record, Scan, ScanLimits, Scanner, StopCode};
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

/// What the reader found.
#[derive(Debug)]
pub enum ReadRecord<'a> {
    /// A record and the position of its end in the file.
    Record(Record<'a>, u64),
    /// Clean end: the position equals the limit (or fewer than 85 bytes are left: `rest`).
    End {
        /// Bytes between position and limit.
        rest: u64,
    },
    /// A record is cut by the limit.
    Incomplete {
        /// Bytes between position and limit.
        rest: u64,
    },
    /// A bad record.
    Stop(StopCode),
}

/// Bytes read at once.
const STEP: usize = 1 << 20;
/// How far `corruption_inside` searches.
const SEARCH: usize = 1 << 20;

/// Reads records of a log file from a record border up to a limit, in 1 MiB steps, with one reused buffer.
#[derive(Debug)]
pub struct LogReader {
    file: File,
    scanner: Scanner,
    /// End of the last good record.
    pos: u64,
    limit: u64,
    /// `buf[start..end]` are the bytes of the file at `pos`. Allocated on the first use, `STEP + MAX_TOTAL` bytes.
    buf: Vec<u8>,
    start: usize,
    end: usize,
}

impl LogReader {
    /// `from` is a record border; nothing at or behind `limit` is looked at.
    pub fn new(file: File, from: u64, limit: u64, scan: ScanLimits) -> LogReader {
        // Only a hint; the result does not matter.
        let _ = nix::fcntl::posix_fadvise(
            &file,
            0,
            0,
            nix::fcntl::PosixFadviseAdvice::POSIX_FADV_SEQUENTIAL,
        );
        LogReader {
            file,
            scanner: if from == 0 {
                Scanner::new_file(scan)
            } else {
                Scanner::new(scan)
            },
            pos: from,
            limit,
            buf: Vec::new(),
            start: 0,
            end: 0,
        }
    }

    /// End of the last good record.
    pub fn position(&self) -> u64 {
        self.pos
    }

    /// Number of the last good record; 0 when there was none.
    pub fn last_seq(&self) -> u32 {
        self.scanner.last_seq()
    }

    /// Raises the limit when the file has grown.
    pub fn set_limit(&mut self, limit: u64) {
        self.limit = self.limit.max(limit);
    }

    /// The next record. After anything but a record the same position is looked at again by the next call.
    pub fn next_record(&mut self) -> io::Result<ReadRecord<'_>> {
        // A whole record of the largest size must be in sight before the scanner may call one cut.
        if self.end - self.start < MAX_TOTAL {
            self.fill(STEP + MAX_TOTAL)?;
        }
        let rest = self.limit.saturating_sub(self.pos);
        Ok(match self.scanner.next(&self.buf[self.start..self.end]) {
            Scan::Record(r) => {
                self.start += r.total_len;
                self.pos += r.total_len as u64;
                ReadRecord::Record(r, self.pos)
            }
            Scan::End => ReadRecord::End { rest },
            Scan::Incomplete => ReadRecord::Incomplete { rest },
            Scan::Stop(c) => ReadRecord::Stop(c),
        })
    }

    /// After `Stop` or `Incomplete`: is there a valid record with a fitting number behind (up to 1 MiB is searched)?
    pub fn corruption_inside(&mut self) -> io::Result<bool> {
        self.fill(SEARCH + MAX_TOTAL)?;
        Ok(self
            .scanner
            .valid_record_follows(&self.buf[self.start..self.end]))
    }

    /// Reads until `wanted` bytes, or all up to the limit, are in the buffer, at its front. A file that is shorter than the
    /// limit ends where it ends.
    fn fill(&mut self, wanted: usize) -> io::Result<()> {
        let ahead = self.limit.saturating_sub(self.pos);
        let wanted = usize::try_from(ahead).map_or(wanted, |a| a.min(wanted));
        if self.end - self.start >= wanted {
            return Ok(());
        }
        if self.start > 0 {
            self.buf.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.buf.len() < wanted {
            self.buf.resize(wanted, 0);
        }
        while self.end < wanted {
            let at = self.pos + self.end as u64;
            match self.file.read_at(&mut self.buf[self.end..wanted], at) {
                Ok(0) => break,
                Ok(n) => self.end += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(())
    }
}
