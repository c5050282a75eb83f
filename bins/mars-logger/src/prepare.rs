//! Logs whose end is prepared with zeros while commits are small (see [`PreparedTail`]): who asks for it when.
use crate::io::{LogDir, LogSink, LogStore, LogSync};
use mars_log::{LogFile, PreparedTail};
use mars_tree::LogName;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Larger commits gain less than writing the zeros costs, through the page cache ...
const SMALL_COMMIT: u64 = 48 << 10;
/// ... and past it.
const SMALL_DIRECT_COMMIT: u64 = 256 << 10;
/// While zeros are written the file grows, and every commit has to wait for the journal of the file system. So they are written rarely and many
/// at once when they are needed fast: up to this far ahead,
const AHEAD_MAX: u64 = 64 << 20;
/// when the last time was less than this ago.
const SOON: Duration = Duration::from_millis(500);
/// What the average begins with: a few commits are not worth a preparation.
const FIRST_AVERAGE: u64 = 1 << 20;
/// Weight of the last commit in the average, as a power of two.
const AVERAGE_SHIFT: u32 = 3;
/// So much stays free, besides what is prepared.
const MIN_FREE: u64 = 256 << 20;

/// A resource directory whose logs get a prepared tail. One thread writes the zeros.
pub struct PreparedLogs {
    dir: LogDir,
    direct: bool,
    pace: Arc<Pace>,
    /// Ends with the last sender.
    worker: Mutex<Option<SyncSender<Job>>>,
}

/// Changes how far ahead the logs of a store are prepared.
#[derive(Clone, Debug)]
pub struct PrepareControl(Arc<Pace>);

impl PrepareControl {
    /// From the next commit on; 0 = not any more.
    pub fn set_ahead(&self, bytes: u64) {
        self.0.base.store(bytes, Ordering::Relaxed);
        self.0.ahead.store(bytes, Ordering::Relaxed);
    }
}

/// A tail that shall be prepared behind a log of this length.
struct Job {
    tail: Arc<PreparedTail>,
    len: u64,
    pace: Arc<Pace>,
}

/// How large the commits are, over all logs of the store.
#[derive(Debug)]
struct Pace {
    average: AtomicU64,
    /// Larger commits are not prepared for.
    small: u64,
    /// How far ahead at least (0 = not any more), and now.
    base: AtomicU64,
    ahead: AtomicU64,
    /// A job is under way.
    busy: AtomicBool,
}

impl PreparedLogs {
    /// `ahead`: bytes to keep prepared while commits are small. `direct`: everything is written past the page cache, where that is possible;
    /// for logs in which every append is made durable at once.
    pub fn new(dir: LogDir, ahead: u64, direct: bool) -> PreparedLogs {
        PreparedLogs {
            dir,
            direct,
            pace: Arc::new(Pace {
                average: AtomicU64::new(FIRST_AVERAGE),
                small: if direct {
                    SMALL_DIRECT_COMMIT
                } else {
                    SMALL_COMMIT
                },
                base: AtomicU64::new(ahead),
                ahead: AtomicU64::new(ahead),
                busy: AtomicBool::new(false),
            }),
            worker: Mutex::default(),
        }
    }

    /// Changes how far ahead logs are prepared.
    pub fn control(&self) -> PrepareControl {
        PrepareControl(Arc::clone(&self.pace))
    }

    fn worker(&self) -> io::Result<SyncSender<Job>> {
        let mut worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(w) = &*worker {
            return Ok(w.clone());
        }
        let (tx, rx) = sync_channel(1);
        std::thread::Builder::new()
            .name("prepare".to_string())
            .stack_size(128 << 10)
            .spawn(move || work(&rx))?;
        Ok(worker.insert(tx).clone())
    }
}

impl LogStore for PreparedLogs {
    fn create(&self, name: &LogName) -> io::Result<Box<dyn LogSink>> {
        let file = self.dir.open(name, self.direct)?;
        Ok(Box::new(Sink {
            worker: self.worker()?,
            len: Arc::new(AtomicU64::new(0)),
            pace: Arc::clone(&self.pace),
            file,
        }))
    }
    fn truncate(&self, name: &LogName, len: u64) -> io::Result<()> {
        self.dir.truncate(name, len)
    }
    fn has_space(&self) -> bool {
        self.dir.has_space()
    }
}

fn work(jobs: &Receiver<Job>) {
    let mut last: Option<Instant> = None;
    while let Ok(job) = jobs.recv() {
        let since = last.replace(Instant::now()).map(|t| t.elapsed());
        let ahead = job.pace.ahead.load(Ordering::Relaxed);
        let base = job.pace.base.load(Ordering::Relaxed);
        let ahead = next_ahead(ahead, base, since);
        if base > 0 {
            job.pace.ahead.store(ahead, Ordering::Relaxed);
        }
        let upto = job.len.saturating_add(ahead);
        let wanted = upto.saturating_sub(job.tail.ready());
        let is_enough = |free| free >= MIN_FREE.saturating_add(wanted);
        let done = match job.tail.free_space() {
            Ok(free) if is_enough(free) => job.tail.prepare(upto),
            other => other.map(|_| ()),
        };
        if let Err(e) = done {
            tracing::debug!("the log is not prepared: {e}");
        }
        job.pace.busy.store(false, Ordering::Release);
    }
}

/// A log and what its preparation needs.
struct Sink {
    file: LogFile,
    len: Arc<AtomicU64>,
    pace: Arc<Pace>,
    worker: SyncSender<Job>,
}

impl LogSink for Sink {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.append(bytes)?;
        self.len.store(self.file.len(), Ordering::Release);
        Ok(())
    }
    fn syncer(&self) -> io::Result<Arc<dyn LogSync>> {
        Ok(Arc::new(Syncer {
            file: self.file.handle()?,
            tail: self.file.tail(),
            len: Arc::clone(&self.len),
            synced: AtomicU64::new(0),
            pace: Arc::clone(&self.pace),
            worker: self.worker.clone(),
        }))
    }
    fn finish(&mut self) -> io::Result<()> {
        self.file.finish()
    }
}

struct Syncer {
    file: File,
    tail: Arc<PreparedTail>,
    len: Arc<AtomicU64>,
    /// Length at the last sync.
    synced: AtomicU64,
    pace: Arc<Pace>,
    worker: SyncSender<Job>,
}

impl LogSync for Syncer {
    fn sync(&self) -> io::Result<()> {
        let len = self.len.load(Ordering::Acquire);
        self.file.sync_data()?;
        // One sync at a time.
        let bytes = len.saturating_sub(self.synced.swap(len, Ordering::AcqRel));
        if bytes > 0 {
            let average = next_average(self.pace.average.load(Ordering::Relaxed), bytes);
            self.pace.average.store(average, Ordering::Relaxed);
            let ahead = self.pace.ahead.load(Ordering::Relaxed);
            if average <= self.pace.small
                && is_low(len, self.tail.ready(), ahead)
                && !self.pace.busy.swap(true, Ordering::AcqRel)
            {
                let job = Job {
                    tail: Arc::clone(&self.tail),
                    len,
                    pace: Arc::clone(&self.pace),
                };
                if self.worker.try_send(job).is_err() {
                    // Never waits; the next commit asks again.
                    self.pace.busy.store(false, Ordering::Release);
                }
            }
        }
        Ok(())
    }
    fn forget(&self, from: u64, to: u64) {
        self.file.forget(from, to);
    }
}

/// Moving average of the bytes that one sync makes durable.
fn next_average(average: u64, bytes: u64) -> u64 {
    average - (average >> AVERAGE_SHIFT) + (bytes >> AVERAGE_SHIFT)
}

/// Shall the tail of a log of `len` bytes be prepared again, when it is prepared up to `ready`?
fn is_low(len: u64, ready: u64, ahead: u64) -> bool {
    ready.saturating_sub(len) < ahead / 2
}

/// How far ahead to go, when it was `ahead` the last time, `since` ago.
fn next_ahead(ahead: u64, base: u64, since: Option<Duration>) -> u64 {
    match since {
        Some(t) if t < SOON => ahead.saturating_mul(2).min(AHEAD_MAX.max(base)),
        _ => (ahead / 2).max(base),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn only_small_commits_are_prepared_for_and_only_after_some() {
        let after = |bytes: u64, commits: usize| {
            (0..commits).fold(FIRST_AVERAGE, |a, _| next_average(a, bytes))
        };
        assert!(after(4180, 10) > SMALL_COMMIT);
        let many = after(4180, 40);
        assert!(many <= SMALL_COMMIT);
        assert!(after(133_760, 1000) > SMALL_COMMIT);
        assert!(after(133_760, 1000) <= SMALL_DIRECT_COMMIT);
        // A flood after it ends it.
        assert!(next_average(many, 1 << 20) > SMALL_COMMIT);
    }

    #[test]
    fn the_faster_zeros_are_used_the_more_are_written_at_once() {
        let base = 4 << 20;
        assert!(is_low(167_200, 167_200, base));
        assert!(!is_low(167_200, 167_200 + base / 2, base));
        let soon = Some(Duration::from_millis(20));
        assert_eq!(next_ahead(base, base, None), base);
        assert_eq!(next_ahead(base, base, soon), 2 * base);
        assert_eq!(next_ahead(AHEAD_MAX, base, soon), AHEAD_MAX);
        assert_eq!(next_ahead(2 * base, base, Some(SOON)), base);
        assert_eq!(
            next_ahead(2 * AHEAD_MAX, 2 * AHEAD_MAX, soon),
            2 * AHEAD_MAX
        );
    }

    #[test]
    fn the_log_is_prepared_beside_small_commits_and_cut_at_its_end() {
        for direct in [false, true] {
            prepared(direct);
        }
    }

    fn prepared(direct: bool) {
        let dir = tempfile::tempdir().unwrap();
        let store = PreparedLogs::new(LogDir(dir.path().to_path_buf()), 1 << 20, direct);
        let name: LogName = "log-000000001-alpha".parse().unwrap();
        let path = dir.path().join(name.to_string());
        let size = || std::fs::metadata(&path).unwrap().len();
        let mut sink = store.create(&name).unwrap();
        let syncer = sink.syncer().unwrap();
        let mut expected = Vec::new();
        // Until the other thread came to it: each round is an append and an fdatasync.
        for i in 0u32.. {
            let record = vec![(i % 255) as u8 + 1; 1000];
            sink.append(&record).unwrap();
            syncer.sync().unwrap();
            expected.extend_from_slice(&record);
            let is_enough = size() > expected.len() as u64 && expected.len() > 1 << 20;
            if i % 100 == 0 || is_enough {
                let content = std::fs::read(&path).unwrap();
                assert_eq!(content[..expected.len()], expected);
                assert!(content[expected.len()..].iter().all(|b| *b == 0));
            }
            if is_enough {
                break;
            }
            assert!(i < 1_000_000, "never prepared");
        }
        sink.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), expected);
        assert!(sink.append(b"x").is_ok(), "not failed");
    }
}
