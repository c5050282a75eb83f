//! Replay windows as plain code: what may be scanned, written, flushed and published next. Pure: no I/O, no clock, no threads.
//!
//! A window is a stretch of log, scanned into a [`Generation`] (newest version of each sector wins). Windows are written in log order;
//! several of them share one flush. [`ApplyCore`] hands out one step at a time for the disk and at most one scan beside it, and is told the
//! results; `apply_log` and the simulation drive it alike. What it guarantees, whatever the order of events:
//! - before the disk is touched with anything of a window, its end was published as `pos + dirty`;
//! - `pos` moves only over windows that were written before a flush that succeeded;
//! - behind a bad record, and behind the first failure, nothing is written any more.
use crate::{ApplyEnd, ApplyError, ApplyOptions, ApplyOutcome, Generation};
use mars_log::{Detail, LogReader, Payload, ReadRecord, ScanLimits, StopCode};
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// At most so many windows share one flush.
pub const FLUSH_WINDOWS: u64 = 64;
/// So many windows are in memory at most: one is written while the next one is scanned.
pub const WINDOWS_MAX: usize = 2;
/// A flush should take no longer: so long the position does not move, the sync waits, and a stop waits.
const FLUSH_GOAL: Duration = Duration::from_secs(10);
/// A disk that is so quick, even in a small flush, needs no bound.
const FLUSH_QUICK: Duration = Duration::from_millis(200);
/// Runs over more windows than this begin with a small window that is flushed alone, which tells how fast the disk is with this load.
const PROBE_WINDOWS: u64 = 4;
/// The small window is this part of a full one.
const PROBE_PART: u64 = 4;
/// The log is read ahead so far, in pieces of a quarter.
const READ_AHEAD: u64 = 32 << 20;
/// Errno of a bad record.
const EBADMSG: i32 = -74;

/// Records of one window and why it ended.
#[derive(Debug)]
pub struct Window {
    start: u64,
    end: u64,
    records: u64,
    bytes: u64,
    data: Generation,
    ending: Ending,
}

impl Window {
    /// Log position behind its last record.
    pub fn end(&self) -> u64 {
        self.end
    }
    /// Does the run end behind it?
    pub fn is_last(&self) -> bool {
        !matches!(self.ending, Ending::Full)
    }
}

#[derive(Debug)]
enum Ending {
    /// The window is full; there may be more.
    Full,
    /// The run ends behind this window.
    Last(ApplyEnd),
    /// The log could not be read on.
    Failed(io::Error),
}

/// Cuts a log into windows. Reads the log; the only thing here that is not pure.
#[derive(Debug)]
pub struct WindowScan {
    reader: LogReader,
    /// Size of the next window, and of those behind it.
    next_bytes: u64,
    window_bytes: u64,
    memory_max: usize,
    ahead: Option<ReadAhead>,
}

/// Asks the kernel for the log before the reader needs it: with more than a few requests under way a disk reads faster than with the
/// two that the kernel keeps by itself.
#[derive(Debug)]
struct ReadAhead {
    log: File,
    /// Asked for up to here.
    asked: u64,
    limit: u64,
}

impl ReadAhead {
    fn at(&mut self, pos: u64) {
        while self.asked < self.limit.min(pos.saturating_add(READ_AHEAD)) {
            let from = self.asked.max(pos);
            let to = self.limit.min(from.saturating_add(READ_AHEAD / 4));
            if let (Ok(at), Ok(len)) = (from.try_into(), (to - from).try_into()) {
                // A hint; there is nothing to do when it fails.
                let _ = posix_fadvise(&self.log, at, len, PosixFadviseAdvice::POSIX_FADV_WILLNEED);
            }
            self.asked = to;
        }
    }
}

/// Is so much to do that it is worth to try first how fast the disk is?
fn is_long(from: u64, limit: u64, opts: &ApplyOptions) -> bool {
    limit.saturating_sub(from) > opts.window_bytes.max(1).saturating_mul(PROBE_WINDOWS)
}

impl WindowScan {
    /// Starts at the record border `from`; nothing at or behind `limit` is looked at.
    pub fn new(log: File, from: u64, limit: u64, opts: &ApplyOptions) -> WindowScan {
        let scan = ScanLimits {
            device_size: Some(opts.device_size),
        };
        let window_bytes = opts.window_bytes.max(1);
        let is_long = is_long(from, limit, opts);
        WindowScan {
            ahead: log
                .try_clone()
                .ok()
                .filter(|_| is_long)
                .map(|log| ReadAhead {
                    log,
                    asked: from,
                    limit,
                }),
            reader: LogReader::new(log, from, limit, scan),
            next_bytes: if is_long {
                window_bytes / PROBE_PART
            } else {
                window_bytes
            },
            window_bytes,
            // Small scattered records take a page each, and compressed ones grow: the log bytes alone do not bound memory.
            memory_max: usize::try_from(opts.window_bytes.saturating_mul(2))
                .unwrap_or(usize::MAX)
                .max(1 << 20),
        }
    }

    /// The next window, made in `data`, which must be empty.
    pub fn next_window(&mut self, data: Generation) -> Window {
        let start = self.reader.position();
        let end = start.saturating_add(std::mem::replace(&mut self.next_bytes, self.window_bytes));
        let mut look = start;
        let mut w = Window {
            start,
            end: start,
            records: 0,
            bytes: 0,
            data,
            ending: Ending::Full,
        };
        while w.end < end && w.data.memory() < self.memory_max {
            if w.end >= look
                && let Some(ahead) = &mut self.ahead
            {
                ahead.at(w.end);
                look = w.end + (1 << 20);
            }
            match self.reader.next_record() {
                Ok(ReadRecord::Record(r, end)) => {
                    let len = r.payload.len();
                    if r.is_write && !len.is_multiple_of(512) {
                        // The format allows it, but no device does, and the rest of the sector is unknown.
                        w.ending = Ending::Last(half_sector());
                        break;
                    }
                    if r.is_write {
                        add(&mut w.data, r.device_pos, &r.payload);
                        w.bytes += len as u64;
                    }
                    w.records += 1;
                    w.end = end;
                    continue;
                }
                Ok(ReadRecord::End { rest: 0 }) => w.ending = Ending::Last(ApplyEnd::Limit),
                Ok(ReadRecord::End { rest } | ReadRecord::Incomplete { rest }) => {
                    w.ending = Ending::Last(ApplyEnd::Incomplete { rest });
                }
                Ok(ReadRecord::Stop(code)) => {
                    w.ending = match self.reader.corruption_inside() {
                        Ok(corruption_inside) => Ending::Last(ApplyEnd::Stop {
                            code,
                            corruption_inside,
                        }),
                        Err(e) => Ending::Failed(e),
                    };
                }
                Err(e) => w.ending = Ending::Failed(e),
            }
            break;
        }
        w
    }
}

/// A sound record whose length is no multiple of a sector.
fn half_sector() -> ApplyEnd {
    ApplyEnd::Stop {
        code: StopCode {
            errno: EBADMSG,
            detail: Some(Detail::SIZE),
            repeated: None,
        },
        corruption_inside: true,
    }
}

fn add(data: &mut Generation, pos: u64, payload: &Payload<'_>) {
    match payload {
        Payload::Plain(b) => data.write(pos, b),
        Payload::Unpacked(b) => data.write(pos, b),
        Payload::Zeroes(n) => data.write_zeroes(pos, *n as u64),
    }
}

/// What the scanning side may do.
#[derive(Debug)]
pub enum ScanStep {
    /// Scan the next window into this empty generation, then tell [`ApplyCore::scanned`].
    Window(Generation),
    /// Not now: a scan is under way, or enough windows wait for the disk.
    Wait,
    /// Never again.
    End,
}

/// What the disk side does next; the result goes to [`ApplyCore::done`].
#[derive(Debug)]
pub enum ApplyStep {
    /// Nothing until a window is scanned. No result is expected.
    Wait,
    /// Publish `start, end - start` as `pos, dirty`. Comes before the disk is touched with records up to `end`.
    Promise {
        /// Applied and flushed up to here.
        start: u64,
        /// The disk may hold records up to here soon.
        end: u64,
    },
    /// Write all of it, ascending ([`crate::write_generation`]); do not flush.
    Write(Arc<Generation>),
    /// Make durable what was written.
    Flush,
    /// Publish `end, 0`: flushed up to here.
    Position {
        /// Applied and flushed up to here.
        end: u64,
        /// Records since the last position.
        records: u64,
        /// Payload bytes since the last position.
        bytes: u64,
    },
    /// The run is over; handed out once.
    End(Result<ApplyOutcome, ApplyError>),
}

/// What the disk side is at.
#[derive(Debug)]
enum Phase {
    /// Between windows.
    Idle,
    Promise(Window),
    Write(Window),
    Flush,
    Position,
    /// Nothing more to do than to tell.
    End,
}

/// Written, not flushed.
#[derive(Debug)]
struct Open {
    end: u64,
    records: u64,
    bytes: u64,
}

/// Decides the order of everything in one run over a log.
#[derive(Debug)]
pub struct ApplyCore {
    window_bytes: u64,
    /// Log bytes per flush: after the first one adapted between one window and `flush_max`.
    flush_bytes: u64,
    flush_max: u64,
    is_scanning: bool,
    /// No window comes any more.
    scan_ended: bool,
    waiting: VecDeque<Window>,
    /// Empty, with memory to use again.
    spare: Option<Generation>,
    phase: Phase,
    /// The step of `phase` was handed out.
    is_busy: bool,
    open: Option<Open>,
    /// The generation that is being written.
    writing: Option<Arc<Generation>>,
    /// How it ends when everything that was written is flushed and published.
    last: Option<Result<ApplyEnd, ApplyError>>,
    outcome: ApplyOutcome,
}

impl ApplyCore {
    /// A run from position `from` at most to `limit`.
    pub fn new(from: u64, limit: u64, opts: &ApplyOptions) -> ApplyCore {
        let flush_max = opts.window_bytes.max(1).saturating_mul(FLUSH_WINDOWS);
        ApplyCore {
            window_bytes: opts.window_bytes.max(1),
            // As late as allowed: each flush between writes scattered blocks once more.
            flush_bytes: if is_long(from, limit, opts) {
                1
            } else {
                flush_max
            },
            flush_max,
            is_scanning: false,
            scan_ended: false,
            waiting: VecDeque::new(),
            spare: None,
            phase: Phase::Idle,
            is_busy: false,
            open: None,
            writing: None,
            last: None,
            outcome: ApplyOutcome {
                pos: from,
                end: ApplyEnd::Limit,
                records: 0,
                bytes: 0,
            },
        }
    }

    /// May the next window be scanned now?
    pub fn scan_step(&mut self) -> ScanStep {
        if self.scan_ended || self.last.is_some() {
            return ScanStep::End;
        }
        let at_disk = matches!(self.phase, Phase::Promise(_) | Phase::Write(_));
        if self.is_scanning || self.waiting.len() + usize::from(at_disk) >= WINDOWS_MAX {
            return ScanStep::Wait;
        }
        self.is_scanning = true;
        ScanStep::Window(self.spare.take().unwrap_or_default())
    }

    /// The result of the scan handed out last.
    pub fn scanned(&mut self, window: Window) {
        debug_assert!(self.is_scanning);
        self.is_scanning = false;
        self.scan_ended |= window.is_last();
        self.waiting.push_back(window);
    }

    /// The scanning side is gone before its end.
    pub fn scan_failed(&mut self, error: io::Error) {
        self.is_scanning = false;
        self.scan_ended = true;
        self.waiting.push_back(Window {
            start: 0,
            end: 0,
            records: 0,
            bytes: 0,
            data: Generation::new(),
            ending: Ending::Failed(error),
        });
    }

    /// What the disk side does now. The same answer until its result was told.
    pub fn disk_step(&mut self) -> ApplyStep {
        if let Phase::Idle = self.phase {
            match self.waiting.pop_front() {
                None => return ApplyStep::Wait,
                Some(w) if w.end > w.start => self.phase = Phase::Promise(w),
                Some(w) => self.behind(w.ending),
            }
        }
        self.is_busy = true;
        match &mut self.phase {
            Phase::Promise(w) => ApplyStep::Promise {
                start: self.outcome.pos,
                end: w.end,
            },
            Phase::Write(w) => {
                let data = self
                    .writing
                    .get_or_insert_with(|| Arc::new(std::mem::take(&mut w.data)));
                ApplyStep::Write(Arc::clone(data))
            }
            Phase::Flush => ApplyStep::Flush,
            Phase::Position => {
                let open = self.open.as_ref();
                ApplyStep::Position {
                    end: open.map_or(self.outcome.pos, |o| o.end),
                    records: open.map_or(0, |o| o.records),
                    bytes: open.map_or(0, |o| o.bytes),
                }
            }
            Phase::Idle => ApplyStep::Wait,
            Phase::End => {
                let end = self.last.replace(Ok(ApplyEnd::Asked));
                ApplyStep::End(match end {
                    Some(Err(e)) => Err(e),
                    Some(Ok(end)) => Ok(ApplyOutcome {
                        end,
                        ..self.outcome
                    }),
                    None => Ok(self.outcome),
                })
            }
        }
    }

    /// The result of the step that `disk_step` gave last, and how long it took. `Break` is the answer to a `Promise` or `Position` of somebody
    /// who wants to stop: what was promised now is not written, what was written before is flushed.
    pub fn done(&mut self, result: Result<ControlFlow<()>, ApplyError>, spent: Duration) {
        debug_assert!(self.is_busy);
        self.is_busy = false;
        let phase = std::mem::replace(&mut self.phase, Phase::End);
        let asked = match result {
            Ok(answer) => answer.is_break(),
            Err(e) => {
                // Nothing more is done; the position published last is still true.
                self.last = Some(Err(e));
                return;
            }
        };
        match phase {
            Phase::Promise(w) if asked => {
                let end = match w.ending {
                    Ending::Failed(e) => Err(ApplyError::Log(e)),
                    Ending::Full | Ending::Last(_) => Ok(ApplyEnd::Asked),
                };
                self.finish(end);
            }
            Phase::Promise(w) => self.phase = Phase::Write(w),
            Phase::Write(w) => self.written(w),
            Phase::Flush => {
                self.adapt(spent);
                self.phase = Phase::Position;
            }
            Phase::Position => {
                if let Some(open) = self.open.take() {
                    self.outcome.pos = open.end;
                    self.outcome.records += open.records;
                    self.outcome.bytes += open.bytes;
                }
                if asked && self.last.is_none() {
                    self.last = Some(Ok(ApplyEnd::Asked));
                }
                if self.last.is_none() {
                    self.phase = Phase::Idle;
                }
            }
            Phase::Idle | Phase::End => {}
        }
    }

    fn written(&mut self, w: Window) {
        let open = self.open.get_or_insert(Open {
            end: w.end,
            records: 0,
            bytes: 0,
        });
        open.end = w.end;
        open.records += w.records;
        open.bytes += w.bytes;
        if let Some(mut data) = self.writing.take().and_then(Arc::into_inner) {
            data.clear();
            self.spare = Some(data);
        }
        self.behind(w.ending);
    }

    /// What follows behind a window.
    fn behind(&mut self, ending: Ending) {
        let open = self.open.as_ref();
        match ending {
            Ending::Full if open.is_some_and(|o| o.end - self.outcome.pos >= self.flush_bytes) => {
                self.phase = Phase::Flush;
            }
            Ending::Full => self.phase = Phase::Idle,
            Ending::Last(end) => self.finish(Ok(end)),
            Ending::Failed(e) => self.finish(Err(ApplyError::Log(e))),
        }
    }

    /// Flushes what was written, then ends like this.
    fn finish(&mut self, end: Result<ApplyEnd, ApplyError>) {
        self.last = Some(end);
        self.phase = if self.open.is_some() {
            Phase::Flush
        } else {
            Phase::End
        };
    }

    /// The next flush covers what can be flushed in the time that one should take.
    fn adapt(&mut self, spent: Duration) {
        let covered = self.open.as_ref().map_or(0, |o| o.end - self.outcome.pos);
        let next = if spent < FLUSH_QUICK {
            u64::MAX
        } else {
            let next = u128::from(covered) * FLUSH_GOAL.as_nanos() / spent.as_nanos();
            u64::try_from(next).unwrap_or(u64::MAX)
        };
        self.flush_bytes = next.clamp(self.window_bytes, self.flush_max);
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
