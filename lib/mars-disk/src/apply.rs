//! Applying a log to a disk in windows: used by `mars-replay` and by the recovery of `mars-logger`.
//!
//! A window is scanned into a [`Generation`] (newest version of each sector wins), then written to the page cache in ascending
//! order. Several windows share one flush: scattered small records meet in the page cache and leave it as long runs, which is what
//! makes random replay fast: each flush between writes the scattered blocks once more. So the first flush comes as late as allowed;
//! when it takes longer than about a second, the next ones come earlier.
//! When more than one window is ahead, a second thread scans the next one while the previous one is written. So at most two
//! windows are in memory.
use crate::{Disk, Generation, WriteRun};
use mars_log::{LogReader, ReadRecord, ScanLimits, StopCode};
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// What happens to a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApplyEvent {
    /// About to touch the disk with records in `[start, end)`. The caller publishes `start, end - start` as `pos, dirty` now. May
    /// come several times, with the same start and a growing end, before `Flushed`.
    BeforeWrite {
        /// Applied and flushed up to here.
        start: u64,
        /// End of the window.
        end: u64,
    },
    /// Written and flushed up to `end`. The caller publishes `end, 0`.
    Flushed {
        /// Applied and flushed up to here.
        end: u64,
        /// Records since the last flush.
        records: u64,
        /// Payload bytes since the last flush.
        bytes: u64,
    },
}

/// Bounds.
#[derive(Clone, Copy, Debug)]
pub struct ApplyOptions {
    /// Log bytes per window ([`WINDOW_BYTES`] by default); bounds memory. The dirty length is
    /// bounded by [`FLUSH_WINDOWS`] of them.
    pub window_bytes: u64,
    /// Size of the resource: records behind it are defects.
    pub device_size: u64,
}

/// Why it ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApplyEnd {
    /// Position = limit.
    Limit,
    /// A record is cut by the limit, or fewer than 85 bytes are left.
    Incomplete {
        /// Bytes between position and limit.
        rest: u64,
    },
    /// A bad record at the position.
    Stop {
        /// Code.
        code: StopCode,
        /// True when a valid record with a fitting number follows: real corruption, not a torn tail.
        corruption_inside: bool,
    },
    /// The callback asked to stop. What was written is flushed.
    Asked,
}

/// Result of a run. Everything before `pos` is on the disk and flushed; nothing behind it was touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ApplyOutcome {
    /// Reached position.
    pub pos: u64,
    /// Why.
    pub end: ApplyEnd,
    /// Records applied.
    pub records: u64,
    /// Payload bytes applied.
    pub bytes: u64,
}

/// Failure of a run; the position published last is still true.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The log cannot be read.
    #[error("reading the log: {0}")]
    Log(io::Error),
    /// The disk cannot be written or flushed.
    #[error("writing the disk: {0}")]
    Disk(io::Error),
    /// The callback failed (publishing the position).
    #[error("publishing the position: {0}")]
    Publish(Box<dyn std::error::Error + Send + Sync>),
}

/// Default of [`ApplyOptions::window_bytes`].
pub const WINDOW_BYTES: u64 = 64 << 20;
/// At most so many windows share one flush.
pub const FLUSH_WINDOWS: u64 = 16;
/// Longest piece given to the disk at once.
const MAX_RUN: usize = 1 << 20;
/// Runs of this length gain nothing by waiting for neighbours: the kernel may start writing them out at once.
const WRITEOUT_MIN: u64 = 512 << 10;
/// A flush should take less than this; then the next one may cover more.
const FLUSH_GOAL: Duration = Duration::from_secs(1);

/// Answer of the callback of [`apply_log`]: go on, or stop after this window.
pub type ApplyAnswer = Result<ControlFlow<()>, Box<dyn std::error::Error + Send + Sync>>;

/// Applies the records of `log` in `[from, limit)` to `disk`: windows of bounded size, newest version of each sector only, sorted and merged,
/// several windows per flush. A bad record ends the run; what came before it is applied, it is not applied in part.
/// Records that are no writes are passed over, but count for the position.
pub fn apply_log(
    disk: &Disk,
    log: File,
    from: u64,
    limit: u64,
    opts: &ApplyOptions,
    on: &mut dyn FnMut(ApplyEvent) -> ApplyAnswer,
) -> Result<ApplyOutcome, ApplyError> {
    let scan = WindowScan::new(log, from, limit, opts);
    let mut run = Run {
        disk,
        on,
        open: None,
        flush_bytes: opts.window_bytes.saturating_mul(FLUSH_WINDOWS),
        flush_max: opts.window_bytes.saturating_mul(FLUSH_WINDOWS),
        window_bytes: opts.window_bytes,
        outcome: ApplyOutcome {
            pos: from,
            end: ApplyEnd::Limit,
            records: 0,
            bytes: 0,
        },
    };
    if limit.saturating_sub(from) <= opts.window_bytes {
        run.all(scan)?;
    } else {
        // Only when there is much to do: the cached pages of a disk that was read or written in large pieces are large, and a small write into a
        // large one costs several times as much as into a fresh one. Nobody needs them while the disk changes everywhere.
        disk.forget_cached();
        run.pipelined(scan)?;
    }
    Ok(run.outcome)
}

/// Records of one window and why it ended.
struct Window {
    start: u64,
    end: u64,
    records: u64,
    bytes: u64,
    data: Generation,
    ending: Ending,
}

enum Ending {
    /// The window is full; there may be more.
    Full,
    /// The run ends behind this window.
    Last(ApplyEnd),
    /// The log could not be read on.
    Failed(io::Error),
}

/// Cuts a log into windows.
struct WindowScan {
    reader: LogReader,
    window_bytes: u64,
    memory_max: usize,
}

impl WindowScan {
    fn new(log: File, from: u64, limit: u64, opts: &ApplyOptions) -> WindowScan {
        let scan = ScanLimits {
            device_size: Some(opts.device_size),
        };
        WindowScan {
            reader: LogReader::new(log, from, limit, scan),
            window_bytes: opts.window_bytes.max(1),
            // Small scattered records take a page each, and compressed ones grow: the log bytes alone do not bound memory.
            memory_max: usize::try_from(opts.window_bytes.saturating_mul(2))
                .unwrap_or(usize::MAX)
                .max(1 << 20),
        }
    }

    fn next_window(&mut self) -> Window {
        let start = self.reader.position();
        let mut w = Window {
            start,
            end: start,
            records: 0,
            bytes: 0,
            data: Generation::new(),
            ending: Ending::Full,
        };
        while w.end - start < self.window_bytes && w.data.memory() < self.memory_max {
            match self.reader.next_record() {
                Ok(ReadRecord::Record(r, end)) => {
                    if r.is_write {
                        add(&mut w.data, r.device_pos, &r.payload);
                        w.bytes += r.payload.len() as u64;
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

fn add(data: &mut Generation, pos: u64, payload: &mars_log::Payload<'_>) {
    match payload {
        mars_log::Payload::Plain(b) => data.write(pos, b),
        mars_log::Payload::Unpacked(b) => data.write(pos, b),
        mars_log::Payload::Zeroes(n) => data.write_zeroes(pos, *n as u64),
    }
}

/// Written, not flushed.
struct Open {
    end: u64,
    records: u64,
    bytes: u64,
}

/// The writing side.
struct Run<'a> {
    disk: &'a Disk,
    on: &'a mut dyn FnMut(ApplyEvent) -> ApplyAnswer,
    open: Option<Open>,
    /// Log bytes per flush: adapted between one window and `flush_max`.
    flush_bytes: u64,
    flush_max: u64,
    window_bytes: u64,
    outcome: ApplyOutcome,
}

impl Run<'_> {
    /// Scan and write in turn.
    fn all(&mut self, mut scan: WindowScan) -> Result<(), ApplyError> {
        loop {
            if self.window(scan.next_window())?.is_break() {
                return Ok(());
            }
        }
    }

    /// Scan in a second thread, one window ahead.
    fn pipelined(&mut self, mut scan: WindowScan) -> Result<(), ApplyError> {
        std::thread::scope(|s| {
            // Rendezvous: a scanned window is handed over when the previous one is on the disk.
            let (tx, rx) = mpsc::sync_channel::<Window>(0);
            let scanner = std::thread::Builder::new()
                .name("apply-scan".into())
                .spawn_scoped(s, move || {
                    loop {
                        let w = scan.next_window();
                        let last = !matches!(w.ending, Ending::Full);
                        if tx.send(w).is_err() || last {
                            return;
                        }
                    }
                })
                .map_err(ApplyError::Log)?;
            let mut result = Ok(ControlFlow::Continue(()));
            while let Ok(ControlFlow::Continue(())) = result {
                match rx.recv() {
                    Ok(w) => result = self.window(w),
                    // The scanner ends only after a last window, unless it died.
                    Err(mpsc::RecvError) => {
                        result = Err(ApplyError::Log(io::Error::other("the log scanner died")));
                    }
                }
            }
            drop(rx);
            // A panic of the scanner was reported above already.
            let _ = scanner.join();
            result.map(|_| ())
        })
    }

    /// Writes one window, and flushes when it is time. `Break` when the run ends here.
    fn window(&mut self, w: Window) -> Result<ControlFlow<()>, ApplyError> {
        let mut asked = false;
        if w.end > w.start {
            let start = self.outcome.pos;
            let before = ApplyEvent::BeforeWrite { start, end: w.end };
            asked = (self.on)(before).map_err(ApplyError::Publish)?.is_break();
            if !asked {
                write_generation(self.disk, &w.data).map_err(ApplyError::Disk)?;
                let open = self.open.get_or_insert(Open {
                    end: w.end,
                    records: 0,
                    bytes: 0,
                });
                open.end = w.end;
                open.records += w.records;
                open.bytes += w.bytes;
            }
        }
        drop(w.data);
        let full = matches!(w.ending, Ending::Full);
        let due = |o: &Open| o.end - self.outcome.pos >= self.flush_bytes;
        if asked || !full || self.open.as_ref().is_some_and(due) {
            asked |= self.flush()?.is_break();
        }
        match w.ending {
            _ if asked && full => self.outcome.end = ApplyEnd::Asked,
            // Asked before a last window was written: its end was not reached.
            Ending::Last(_) if self.outcome.pos < w.end => self.outcome.end = ApplyEnd::Asked,
            Ending::Last(end) => self.outcome.end = end,
            Ending::Failed(e) => return Err(ApplyError::Log(e)),
            Ending::Full => return Ok(ControlFlow::Continue(())),
        }
        Ok(ControlFlow::Break(()))
    }

    fn flush(&mut self) -> Result<ControlFlow<()>, ApplyError> {
        let Some(open) = self.open.take() else {
            return Ok(ControlFlow::Continue(()));
        };
        let t = Instant::now();
        self.disk.flush().map_err(ApplyError::Disk)?;
        self.adapt(t.elapsed());
        self.outcome.pos = open.end;
        self.outcome.records += open.records;
        self.outcome.bytes += open.bytes;
        (self.on)(ApplyEvent::Flushed {
            end: open.end,
            records: open.records,
            bytes: open.bytes,
        })
        .map_err(ApplyError::Publish)
    }

    /// A slow disk gets smaller steps, so that the position moves and a stop is quick; a fast one larger steps.
    fn adapt(&mut self, spent: Duration) {
        let next = if spent > FLUSH_GOAL {
            self.flush_bytes / 2
        } else {
            self.flush_bytes.saturating_mul(2)
        };
        self.flush_bytes = next.clamp(self.window_bytes, self.flush_max);
    }
}

/// Writes everything in ascending order. Does not flush.
fn write_generation(disk: &Disk, data: &Generation) -> io::Result<()> {
    for run in data.runs(MAX_RUN) {
        match &run {
            WriteRun::Data { pos, pieces } => {
                disk.write_vectored_at(pieces, *pos)?;
                let len = pieces.iter().map(|p| p.len() as u64).sum::<u64>();
                if len >= WRITEOUT_MIN {
                    disk.start_writeout(*pos, len);
                }
            }
            WriteRun::Zeroes { pos, len } => disk.zero_at(*pos, *len)?,
        }
    }
    Ok(())
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
