//! Live pages: one small mapped file per resource, `RUN_DIR/NAME/live`.
use crate::map::{Words, futex_wait, futex_wake_all};
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU32, Ordering, fence};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// A record that one daemon publishes and any process of the host reads. Each record type has a fixed place in the page
/// and exactly one writer at a time. All fields travel as 64-bit words.
pub trait LiveRecord: Copy + Default {
    /// Which section of the page (0..8).
    const SECTION: usize;
    /// Number of words, at most 32.
    const WORDS: usize;
    /// Fields to words.
    fn store(&self, words: &mut [u64]);
    /// Words to fields. Must accept any values.
    fn load(words: &[u64]) -> Self;
}

/// Written by `mars-logger`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LogLive {
    /// Number of the log that is being written; 0 = nothing known.
    pub log_nr: u64,
    /// Bytes of that log that are durable (fdatasync'ed). Only these may be served to other hosts.
    pub durable_len: u64,
    /// Bytes of that log handed to the kernel.
    pub logged_len: u64,
    /// Log number of the write-back position.
    pub writeback_nr: u64,
    /// Write-back position in that log.
    pub writeback_pos: u64,
    /// Bytes in the dirty buffer.
    pub dirty_bytes: u64,
    /// Current openers of the device.
    pub openers: u64,
    /// 1 while the device is offered.
    pub device_on: u64,
    /// Requests accepted and not yet answered.
    pub flying: u64,
    /// Counters since the start of the daemon.
    pub reads: u64,
    /// Bytes read.
    pub read_bytes: u64,
    /// Write requests (write, write-zeroes, trim).
    pub writes: u64,
    /// Bytes written.
    pub write_bytes: u64,
    /// Stamp in ns of the last completion.
    pub completion_stamp: u64,
    /// Operations per second and KiB per second over the last interval.
    pub ops_rate: u64,
    /// KiB per second.
    pub amount_rate: u64,
    /// Where requests spend their time, since the start of the daemon: how often a stage was passed and for how many ns in total. Batches
    /// from their first record to the beginning of their append.
    pub queue_count: u64,
    /// See `queue_count`.
    pub queue_ns: u64,
    /// Pieces of requests encoded and buffered; a sample of them.
    pub encode_count: u64,
    /// See `encode_count`.
    pub encode_ns: u64,
    /// Batches handed to the kernel.
    pub append_count: u64,
    /// See `append_count`.
    pub append_ns: u64,
    /// Batches made durable.
    pub sync_count: u64,
    /// See `sync_count`.
    pub sync_ns: u64,
    /// Batches of answers handed to the front end.
    pub acknowledge_count: u64,
    /// See `acknowledge_count`.
    pub acknowledge_ns: u64,
    /// Writes and flushes of generations.
    pub write_back_count: u64,
    /// See `write_back_count`.
    pub write_back_ns: u64,
    /// Longest append in ns.
    pub append_max_ns: u64,
    /// Longest sync.
    pub sync_max_ns: u64,
    /// Longest delivery of answers.
    pub acknowledge_max_ns: u64,
    /// Longest write or flush of a generation.
    pub write_back_max_ns: u64,
}

/// Written by `mars-fetch`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FetchLive {
    /// Number of the log that is being fetched; 0 = nothing known.
    pub log_nr: u64,
    /// Local bytes of it that are durable. Replay may read these.
    pub durable_len: u64,
    /// 1 when that log is known to be complete locally.
    pub complete: u64,
    /// Bytes fetched since the start of the daemon.
    pub bytes: u64,
    /// Fetch operations per second over the last interval.
    pub ops_rate: u64,
    /// KiB per second.
    pub amount_rate: u64,
}

/// Written by `mars-replay` (and by `mars-logger` during recovery).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayLive {
    /// Log number of the replay position.
    pub log_nr: u64,
    /// Replay position (applied and flushed).
    pub pos: u64,
    /// Bytes behind it that may be partly applied.
    pub dirty: u64,
    /// Bytes replayed since the start of the daemon.
    pub bytes: u64,
    /// Records per second over the last interval.
    pub ops_rate: u64,
    /// KiB per second.
    pub amount_rate: u64,
}

/// Written by `mars-sync`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SyncLive {
    /// Bytes synced (gap-free prefix, flushed).
    pub pos: u64,
    /// Blocks that were equal, and blocks that were transferred.
    pub equal_blocks: u64,
    /// Blocks transferred.
    pub different_blocks: u64,
    /// Bytes received from and sent to the source, everything included.
    pub wire_bytes: u64,
    /// Operations per second over the last interval.
    pub ops_rate: u64,
    /// KiB per second.
    pub amount_rate: u64,
}

/// Says how a record of plain `u64` fields travels.
macro_rules! live_record {
    ($t:ident, section $section:expr, $($field:ident),+) => {
        impl LiveRecord for $t {
            const SECTION: usize = $section;
            const WORDS: usize = [$(stringify!($field)),+].len();
            fn store(&self, words: &mut [u64]) {
                for (w, v) in words.iter_mut().zip([$(self.$field),+]) {
                    *w = v;
                }
            }
            fn load(words: &[u64]) -> Self {
                let mut w = words.iter().copied();
                $t { $($field: w.next().unwrap_or(0)),+ }
            }
        }
    };
}
live_record!(LogLive, section 0, log_nr, durable_len, logged_len, writeback_nr, writeback_pos, dirty_bytes, openers, device_on, flying, reads, read_bytes, writes, write_bytes, completion_stamp, ops_rate, amount_rate, queue_count, queue_ns, encode_count, encode_ns, append_count, append_ns, sync_count, sync_ns, acknowledge_count, acknowledge_ns, write_back_count, write_back_ns, append_max_ns, sync_max_ns, acknowledge_max_ns, write_back_max_ns);
live_record!(FetchLive, section 1, log_nr, durable_len, complete, bytes, ops_rate, amount_rate);
live_record!(ReplayLive, section 2, log_nr, pos, dirty, bytes, ops_rate, amount_rate);
live_record!(SyncLive, section 3, pos, equal_blocks, different_blocks, wire_bytes, ops_rate, amount_rate);

/// "MARSLIV" and the version of the layout.
const MAGIC: u64 = u64::from_ne_bytes(*b"MARSLIV\x01");
/// Sections of a page.
const SECTIONS: usize = 8;
/// Largest record.
const MAX_WORDS: usize = 32;
/// Copies of a record. The writer fills the copy that has not been current for longest and only then publishes its
/// number, so a writer that dies in the middle has spoilt nothing, and a reader is disturbed only when several
/// publications overtake it.
const SLOTS: usize = 4;
/// Words of a section: one cache line with the sequence number (futex), one with the "somebody waits" flag, the slots.
const SECTION_WORDS: usize = 16 + SLOTS * MAX_WORDS;
/// Word 0 magic, 1 length, the rest of the first cache lines unused.
const FIRST: usize = 16;
const WORDS: usize = FIRST + SECTIONS * SECTION_WORDS;

/// The mapped page of one resource.
pub struct LivePage {
    words: Words,
    /// Keeps the threads of this process apart; between processes there is one writer per record by design.
    writer: Mutex<()>,
}

impl fmt::Debug for LivePage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LivePage").finish_non_exhaustive()
    }
}

/// Where things are in the section of a record.
const fn section<R: LiveRecord>() -> usize {
    assert!(R::SECTION < SECTIONS && R::WORDS <= MAX_WORDS);
    FIRST + R::SECTION * SECTION_WORDS
}
const fn slot(section: usize, seq: u32) -> usize {
    section + 16 + (seq as usize % SLOTS) * MAX_WORDS
}
/// The number after `seq`. 0 means "never published"; the jump keeps the slots in turn.
const fn next(seq: u32) -> u32 {
    match seq.wrapping_add(1) {
        0 => SLOTS as u32,
        n => n,
    }
}

/// A section of a page, for [`crate::Watch`].
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Part {
    /// [`LogLive`]
    Log,
    /// [`FetchLive`]
    Fetch,
    /// [`ReplayLive`]
    Replay,
    /// [`SyncLive`]
    Sync,
}

impl LivePage {
    /// Sequence number and "somebody waits" flag of a section.
    pub(crate) fn cells(&self, part: Part) -> (&AtomicU32, &AtomicU32) {
        let nr = match part {
            Part::Log => LogLive::SECTION,
            Part::Fetch => FetchLive::SECTION,
            Part::Replay => ReplayLive::SECTION,
            Part::Sync => SyncLive::SECTION,
        };
        let at = FIRST + nr * SECTION_WORDS;
        (self.words.cell32(at), self.words.cell32(at + 8))
    }
    /// Maps `RUN_DIR/RESOURCE/live`, creating it when absent.
    pub fn open(run_dir: &Path, resource: &str) -> io::Result<LivePage> {
        if resource.is_empty() || resource.starts_with('.') || resource.contains('/') {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a resource name",
            ));
        }
        Ok(LivePage {
            words: Words::open(&run_dir.join(resource), "live", MAGIC, WORDS)?,
            writer: Mutex::new(()),
        })
    }
    /// Publishes a record: readers see all of it or nothing of it; waiters are woken (no system call when nobody waits).
    pub fn publish<R: LiveRecord>(&self, r: &R) {
        let at = const { section::<R>() };
        let mut buf = [0u64; MAX_WORDS];
        r.store(&mut buf[..R::WORDS]);
        let _one = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let seq = self.words.cell32(at);
        let waits = self.words.cell32(at + 8);
        let new = next(seq.load(Ordering::Relaxed));
        // A reader that sees a word of the new copy must also see that the slot's old number is overtaken.
        fence(Ordering::Release);
        let cells = &self.words.get()[slot(at, new)..][..R::WORDS];
        for (cell, v) in cells.iter().zip(buf) {
            cell.store(v, Ordering::Relaxed);
        }
        // The flag is taken down before the number changes: whoever raises it later either sees the new number or is
        // seen by the second look. A waiter that was killed costs one needless wake-up, not one for each publication.
        let waited = waits.load(Ordering::SeqCst) != 0;
        if waited {
            waits.store(0, Ordering::SeqCst);
        }
        seq.store(new, Ordering::SeqCst);
        if waited || waits.load(Ordering::SeqCst) != 0 {
            futex_wake_all(seq);
        }
    }
    /// The last published record and its sequence number (0 = never published since the page was made).
    pub fn read<R: LiveRecord>(&self) -> (R, u32) {
        let at = const { section::<R>() };
        let seq = self.words.cell32(at);
        loop {
            let before = seq.load(Ordering::Acquire);
            let mut buf = [0u64; MAX_WORDS];
            let cells = &self.words.get()[slot(at, before)..][..R::WORDS];
            for (v, cell) in buf.iter_mut().zip(cells) {
                *v = cell.load(Ordering::Relaxed);
            }
            fence(Ordering::Acquire);
            let after = seq.load(Ordering::Relaxed);
            // The slot is touched again only after SLOTS - 1 further publications, so this repeats only while a writer
            // makes progress; a dead one cannot hold anybody here.
            if after.wrapping_sub(before) < SLOTS as u32 - 1 {
                return (R::load(&buf[..R::WORDS]), before);
            }
        }
    }
    /// Sleeps until the sequence number of R's section differs from `seen` or the timeout is over. True when it differs.
    pub fn wait<R: LiveRecord>(&self, seen: u32, timeout: Option<Duration>) -> bool {
        let at = const { section::<R>() };
        let seq = self.words.cell32(at);
        let waits = self.words.cell32(at + 8);
        if seq.load(Ordering::Acquire) != seen {
            return true;
        }
        let deadline = timeout.and_then(|t| Instant::now().checked_add(t));
        loop {
            waits.store(1, Ordering::SeqCst);
            if seq.load(Ordering::SeqCst) != seen {
                return true;
            }
            if deadline.is_some_and(|d| Instant::now() >= d) {
                return false;
            }
            futex_wait(seq, seen, deadline);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn page() -> LivePage {
        LivePage {
            words: Words::private(WORDS),
            writer: Mutex::new(()),
        }
    }
    fn record(n: u64) -> LogLive {
        LogLive::load(&[n; MAX_WORDS])
    }

    #[test]
    fn half_written_record_is_never_seen() {
        let page = page();
        for n in 1..=9 {
            page.publish(&record(n));
            let (before, seq) = page.read::<LogLive>();
            // A writer that dies after some of the words.
            let at = section::<LogLive>();
            let cells = &page.words.get()[slot(at, next(seq))..];
            for cell in &cells[..7] {
                cell.store(u64::MAX, Ordering::Relaxed);
            }
            assert_eq!(page.read::<LogLive>(), (before, seq));
            assert_eq!(before, record(n));
        }
    }

    #[test]
    fn sequence_number_wraps() {
        let page = page();
        let seq = page.words.cell32(section::<LogLive>());
        seq.store(u32::MAX - 1, Ordering::Relaxed);
        for (n, want) in [(1, u32::MAX), (2, 4), (3, 5)] {
            page.publish(&record(n));
            assert_eq!(page.read::<LogLive>(), (record(n), want));
        }
    }

    #[test]
    fn waiting_is_announced_only_while_somebody_waits() {
        let page = page();
        let waits = page.words.cell32(section::<LogLive>() + 8);
        page.publish(&record(1));
        assert_eq!(waits.load(Ordering::Relaxed), 0);
        assert!(!page.wait::<LogLive>(1, Some(Duration::ZERO)));
        // Left behind as by a waiter that was killed: the next publication wakes nobody and clears it.
        assert_eq!(waits.load(Ordering::Relaxed), 1);
        page.publish(&record(2));
        assert_eq!(waits.load(Ordering::Relaxed), 0);
    }
}
