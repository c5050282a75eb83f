//! Applying a log to a disk in windows: used by `mars-replay` and by the recovery of `mars-logger`.
//!
//! [`ApplyCore`] decides what happens in which order; this is its driver. A window is written to the page cache in ascending order.
//! Several windows share one flush: scattered small records meet in the page cache and leave it as long runs, which is what makes
//! random replay fast: each flush between writes the scattered blocks once more. So flushes come as late as a few seconds per flush allow; the
//! first one, of a small window, tells how fast the disk is.
//! When more than one window is ahead, a second thread scans while the disk is written.
use crate::{
    ApplyCore, ApplyStep, DataDisk, Generation, ScanStep, Window, WindowScan, WriteOut,
    write_generation,
};
use mars_log::StopCode;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::sync::mpsc;
use std::time::Instant;

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
    /// bounded by [`crate::FLUSH_WINDOWS`] of them.
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
pub const WINDOW_BYTES: u64 = 16 << 20;
/// With more windows than this ahead, what is cached of the disk is in the way.
const FORGET_WINDOWS: u64 = 16;

/// Answer of the callback of [`apply_log`]: go on, or stop after this window.
pub type ApplyAnswer = Result<ControlFlow<()>, Box<dyn std::error::Error + Send + Sync>>;

/// Applies the records of `log` in `[from, limit)` to `disk`: windows of bounded size, newest version of each sector only, sorted and merged,
/// several windows per flush. A bad record ends the run; what came before it is applied, it is not applied in part.
/// Records that are no writes are passed over, but count for the position.
pub fn apply_log(
    disk: &dyn DataDisk,
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
        core: ApplyCore::new(from, limit, opts),
    };
    if limit.saturating_sub(from) <= opts.window_bytes {
        return run.in_turn(scan);
    }
    if limit.saturating_sub(from) > opts.window_bytes.saturating_mul(FORGET_WINDOWS) {
        // Only when there is much to do: the cached pages of a disk that was read or written in large pieces are large, and a small write into a
        // large one costs several times as much as into a fresh one. Nobody needs them while the disk changes everywhere.
        disk.forget_cached();
    }
    run.pipelined(scan)
}

/// The driver: does what the core says.
struct Run<'a> {
    disk: &'a dyn DataDisk,
    on: &'a mut dyn FnMut(ApplyEvent) -> ApplyAnswer,
    core: ApplyCore,
}

impl Run<'_> {
    /// Scan and write in turn.
    fn in_turn(&mut self, mut scan: WindowScan) -> Result<ApplyOutcome, ApplyError> {
        loop {
            if let ScanStep::Window(data) = self.core.scan_step() {
                self.core.scanned(scan.next_window(data));
            }
            if let Some(end) = self.disk_steps() {
                return end;
            }
        }
    }

    /// Scan in a second thread.
    fn pipelined(&mut self, mut scan: WindowScan) -> Result<ApplyOutcome, ApplyError> {
        std::thread::scope(|s| {
            let (work, todo) = mpsc::channel::<Generation>();
            let (results, windows) = mpsc::channel::<Window>();
            std::thread::Builder::new()
                .name("apply-scan".into())
                .spawn_scoped(s, move || {
                    while let Ok(data) = todo.recv() {
                        if results.send(scan.next_window(data)).is_err() {
                            return;
                        }
                    }
                })
                .map_err(ApplyError::Log)?;
            loop {
                if let ScanStep::Window(data) = self.core.scan_step() {
                    // Nobody there: the scanner died, which the next `recv` reports.
                    let _ = work.send(data);
                }
                let step = self.core.disk_step();
                if let ApplyStep::Wait = step {
                    match windows.recv() {
                        Ok(w) => self.core.scanned(w),
                        Err(mpsc::RecvError) => {
                            let e = io::Error::other("the log scanner died");
                            self.core.scan_failed(e);
                        }
                    }
                } else if let Some(end) = self.disk_do(step) {
                    return end;
                } else if let Ok(w) = windows.try_recv() {
                    self.core.scanned(w);
                }
            }
        })
    }

    /// Everything the disk side can do now. `Some` when the run is over.
    fn disk_steps(&mut self) -> Option<Result<ApplyOutcome, ApplyError>> {
        loop {
            match self.core.disk_step() {
                ApplyStep::Wait => return None,
                step => {
                    if let Some(end) = self.disk_do(step) {
                        return Some(end);
                    }
                }
            }
        }
    }

    fn disk_do(&mut self, step: ApplyStep) -> Option<Result<ApplyOutcome, ApplyError>> {
        let go_on = ControlFlow::Continue(());
        let begin = Instant::now();
        let result = match step {
            ApplyStep::Wait => return None,
            ApplyStep::End(end) => return Some(end),
            ApplyStep::Promise { start, end } => {
                (self.on)(ApplyEvent::BeforeWrite { start, end }).map_err(ApplyError::Publish)
            }
            ApplyStep::Write(data) => write_generation(self.disk, &data, WriteOut::LongRuns)
                .map(|()| go_on)
                .map_err(ApplyError::Disk),
            ApplyStep::Flush => self.disk.flush().map(|()| go_on).map_err(ApplyError::Disk),
            ApplyStep::Position {
                end,
                records,
                bytes,
            } => (self.on)(ApplyEvent::Flushed {
                end,
                records,
                bytes,
            })
            .map_err(ApplyError::Publish),
        };
        self.core.done(result, begin.elapsed());
        None
    }
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
