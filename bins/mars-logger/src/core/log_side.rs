//! The log side: appending, syncing, changing to the next log, and the end of logging.
use super::{Answer, Core, Emergency, Exit, LogPos, Segment, StepResult};
use mars_tree::LogName;
use std::time::Duration;

/// Encoded records on their way to the kernel.
#[derive(Debug)]
pub struct Chunk {
    /// The bytes.
    pub bytes: Vec<u8>,
    /// Number of the log that they belong to.
    pub log_nr: u32,
    /// Where in it.
    pub at: u64,
    /// When the oldest record was encoded.
    pub since: Duration,
    end: u64,
}

/// An fdatasync.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncJob {
    /// Number of the log.
    pub log_nr: u32,
    /// Its bytes that are durable afterwards.
    pub len: u64,
    target: u64,
}

/// What to do with the logs.
#[derive(Debug)]
pub enum LogStep {
    /// Append to the log that is written.
    Append(Chunk),
    /// Make durable what was appended before this step was handed out.
    Sync(SyncJob),
    /// The old log is complete and durable: publish its final length, go on in the new one.
    Switch {
        /// The old log and its final length.
        old: LogPos,
        /// The new log, empty.
        new: LogName,
    },
    /// Nothing until something is accepted, committed or done.
    Sleep,
    /// Nothing any more.
    End,
}

/// A step without its content.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Choice {
    Append,
    Sync,
    Switch,
    Sleep,
    End,
}

impl<T> Core<T> {
    /// What the log side should do now. The step is under way until [`Core::log_done`] is told its result; others may be handed out
    /// meanwhile. `Sleep` and `End` are not reported back.
    pub fn next_log_step(&mut self) -> LogStep {
        match self.choose_log_step() {
            Choice::Append => self.take_chunk().map_or(LogStep::Sleep, LogStep::Append),
            Choice::Sync => LogStep::Sync(self.take_sync()),
            Choice::Switch => match (self.rotating, &self.older) {
                (Some(boundary), Some(older)) => {
                    self.switching = true;
                    LogStep::Switch {
                        old: older.at(boundary),
                        new: self.current.log.clone(),
                    }
                }
                _ => LogStep::Sleep,
            },
            Choice::Sleep => LogStep::Sleep,
            Choice::End => LogStep::End,
        }
    }

    /// Would [`Core::next_log_step`] say something else than `Sleep`?
    pub fn has_log_step(&self) -> bool {
        self.choose_log_step() != Choice::Sleep
    }

    fn choose_log_step(&self) -> Choice {
        if self.exit == Exit::Now {
            return Choice::End;
        }
        if self.emergency.is_some() {
            return match self.exit {
                Exit::Drained => Choice::End,
                _ => Choice::Sleep,
            };
        }
        if self.may_append() && (self.must_write || self.want_durable > self.written) {
            return Choice::Append;
        }
        if !self.syncing && self.want_durable > self.durable && self.written > self.durable {
            return Choice::Sync;
        }
        if let Some(boundary) = self.rotating
            && self.durable >= boundary
            && !self.switching
        {
            return Choice::Switch;
        }
        if self.exit == Exit::Drained && self.durable == self.accepted && self.rotating.is_none() {
            return Choice::End;
        }
        Choice::Sleep
    }

    fn may_append(&self) -> bool {
        let is_there = match self.rotating {
            Some(_) => !self.tail.is_empty(),
            None => !self.chunk.is_empty(),
        };
        is_there && !self.appending && self.emergency.is_none()
    }

    /// Takes what is to be appended, whether somebody waits for it or not; `None` when there is nothing or an append is under way. The
    /// step is reported to [`Core::log_done`] as an `Append`.
    pub fn take_chunk(&mut self) -> Option<Chunk> {
        if !self.may_append() {
            return None;
        }
        let (bytes, end) = match self.rotating {
            Some(boundary) => (std::mem::take(&mut self.tail), boundary),
            None => {
                let spare = std::mem::take(&mut self.spare);
                (std::mem::replace(&mut self.chunk, spare), self.accepted)
            }
        };
        self.appending = true;
        self.appending_bytes = bytes.capacity();
        self.must_write = false;
        let log = self.writing();
        Some(Chunk {
            log_nr: log.log.nr,
            at: self.written - log.start,
            since: self.chunk_since,
            bytes,
            end,
        })
    }

    fn take_sync(&mut self) -> SyncJob {
        self.syncing = true;
        let log = self.writing();
        SyncJob {
            log_nr: log.log.nr,
            len: self.written - log.start,
            target: self.written,
        }
    }

    /// Is a step under way in a log?
    pub fn is_log_busy(&self) -> bool {
        self.appending || self.syncing || self.switching
    }

    /// Does exactly one request wait, and nobody work on the log? Then the thread that commits carries out the steps itself.
    pub fn is_alone(&self) -> bool {
        self.waiting() == 1 && !self.is_log_busy() && self.rotating.is_none()
    }

    /// A step is done. On an error logging stops: nothing that was under way will be called durable.
    pub fn log_done(&mut self, step: LogStep, result: StepResult, out: &mut Vec<Answer<T>>) {
        match step {
            LogStep::Append(chunk) => self.appended(chunk, result.is_ok(), out),
            LogStep::Sync(job) => {
                self.syncing = false;
                if result.is_ok() && self.emergency.is_none() {
                    self.durable = self.durable.max(job.target);
                    self.pop_durable(out);
                }
            }
            LogStep::Switch { .. } => {
                self.switching = false;
                if result.is_ok() && self.emergency.is_none() {
                    self.switched();
                }
            }
            LogStep::Sleep | LogStep::End => return,
        }
        if result.is_err() || (self.stop_logging && !self.switching) {
            self.enter_emergency(out);
        }
    }

    fn appended(&mut self, chunk: Chunk, is_ok: bool, out: &mut Vec<Answer<T>>) {
        let Chunk { mut bytes, end, .. } = chunk;
        self.appending = false;
        self.appending_bytes = 0;
        bytes.clear();
        if self.spare.capacity() < bytes.capacity() && self.emergency.is_none() {
            self.spare = bytes;
        }
        if is_ok && self.emergency.is_none() {
            self.written = self.written.max(end);
            self.pop_written(out);
        }
    }

    // ---- rotation --------------------------------------------------------------------------------------------------------

    /// Go on in `next`, which is open and empty, as soon as write-back is between two generations: a generation that covered two logs
    /// could not be described by one replay link.
    pub fn rotate(&mut self, next: LogName) {
        if !self.is_rotating() && self.emergency.is_none() && self.exit == Exit::No {
            self.next = Some(next);
            self.try_rotate();
        }
    }

    /// From now on records go to the new log. Freezes the current generation, if there is anything in it.
    pub(super) fn try_rotate(&mut self) {
        if self.frozen.is_some() || self.rotating.is_some() || self.emergency.is_some() {
            return;
        }
        let Some(next) = self.next.take() else { return };
        self.freeze();
        let next = Segment {
            log: next,
            start: self.accepted,
        };
        self.older = Some(std::mem::replace(&mut self.current, next));
        self.tail = std::mem::take(&mut self.chunk);
        self.seq = 0;
        self.rotating = Some(self.accepted);
        self.want_durable = self.accepted;
    }

    fn switched(&mut self) {
        self.rotating = None;
        self.forgotten = 0;
        // Records for the new log waited for this.
        self.must_write |= !self.chunk.is_empty();
        self.leave_older();
        self.position_due = true;
    }

    pub(super) fn leave_older(&mut self) {
        if self.rotating.is_none() && self.written_back >= self.current.start {
            self.older = None;
        }
    }

    // ---- the end of logging ----------------------------------------------------------------------------------------------

    /// Logging shall stop though the log works (no space is left for others). Everything goes to the disk from now on.
    pub fn stop_logging(&mut self, out: &mut Vec<Answer<T>>) {
        if self.switching {
            self.stop_logging = true;
        } else {
            self.enter_emergency(out);
        }
    }

    /// Logging is impossible. Nothing that is not durable yet will become so through the log; everything goes to the disk from now on, and
    /// is answered from there.
    fn enter_emergency(&mut self, out: &mut Vec<Answer<T>>) {
        self.stop_logging = false;
        if self.emergency.is_some() {
            return;
        }
        self.emergency = Some(Emergency {
            cut: self.durable,
            is_ready: false,
        });
        self.logged = (self.buffer.ranges(), self.durable);
        // A new log whose rotation is not finished does not count.
        if self.rotating.take().is_some()
            && let Some(older) = self.older.take()
        {
            self.current = older;
        }
        self.next = None;
        self.tail = Vec::new();
        self.chunk = Vec::new();
        self.spare = Vec::new();
        self.must_write = false;
        self.commit(out);
    }

    /// Logging shall go on in `log`, which is open and empty. New writes wait until everything is on the disk; a disk error ends the
    /// attempt.
    pub fn resume(&mut self, log: LogName) {
        if self.may_resume() {
            self.resuming = Some(log);
            self.demand = true;
        }
    }

    pub(super) fn leave_emergency(&mut self, log: LogName) {
        debug_assert!(self.buffer.is_empty());
        self.emergency = None;
        self.forget_places();
        self.seq = 0;
        self.written = self.accepted;
        self.durable = self.accepted;
        self.written_back = self.accepted;
        self.want_durable = self.accepted;
        self.older = None;
        self.forgotten = 0;
        self.position_due = false;
        self.current = Segment {
            log,
            start: self.accepted,
        };
    }
}
