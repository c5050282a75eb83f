//! The disk side: write-back, the links that belong to it, cutting the log in an emergency, resuming.
use super::{Answer, Core, Exit, IDLE_PART, LogPos, StepResult};
use mars_disk::Generation;
use mars_tree::LogName;
use std::sync::Arc;
use std::time::Duration;

/// Back-off after disk errors.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);
/// The same while requests wait for the disk, because nothing is logged.
const RETRY_MAX_UNLOGGED: Duration = Duration::from_secs(1);
/// After so many failures in a row nobody waits for a disk any more.
pub(super) const GIVE_UP: u32 = 3;
/// So much of the newest log stays in the page cache for the other hosts ...
const CACHED_LOG: u64 = 64 << 20;
/// ... and the rest is given back in pieces of at least this size.
const FORGET_STEP: u64 = 16 << 20;

/// What to do with disk and links. At most one is under way.
#[derive(Debug)]
pub enum DiskStep {
    /// Logging stopped: cut the log to this length, publish that and make the hole, so that all of it survives a power cut. Nothing unlogged
    /// reaches the disk before: otherwise a recovery would put logged data over newer unlogged ones, and the other hosts would follow a
    /// history without them.
    CutLog {
        /// End of what is durable.
        valid: LogPos,
    },
    /// Publish what the disk may hold in part from now on.
    Promise {
        /// Everything before is on the disk.
        from: LogPos,
        /// Bytes behind it that may be on the disk in part.
        dirty: u64,
    },
    /// Write all of it.
    Write(Arc<Generation>),
    /// Make durable what was written.
    Flush,
    /// Nothing is logged and the disk fails again and again: write and flush as much of it as the disk takes. Reported to
    /// [`Core::disk_salvaged`].
    Salvage(Arc<Generation>),
    /// Publish that everything before is on the disk, and nothing behind it.
    Position {
        /// Write-back position.
        at: LogPos,
        /// The links must survive a power cut before this is done: without a log, what was answered is only on the disk, and an older position
        /// would let recovery put logged data over it.
        durable: bool,
    },
    /// Publish the state of the disk: errno, 0 = fine.
    DiskError(i32),
    /// Everything is on the disk: publish that logging goes on in this log, and take it.
    Resume {
        /// The log behind the hole.
        log: LogName,
    },
    /// A hint: these bytes of the log that is written need not stay in the page cache.
    Forget {
        /// First.
        from: u64,
        /// Behind the last.
        to: u64,
    },
    /// Nothing until the given time, or until something happens.
    Sleep(Option<Duration>),
    /// Nothing any more.
    End,
}

/// When there is something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// At once.
    Now,
    /// At this time, if nothing happens before.
    At(Duration),
    /// When something happens.
    Never,
}

/// How far a frozen generation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// To become durable in the log.
    Waiting,
    /// The links say what the disk may hold in part; or there is no log.
    Promised,
    /// On the disk, not flushed.
    Written,
    /// Flushed, not released: an emergency began meanwhile.
    Flushed,
}

/// A frozen generation on its way to the disk. Its memory is kept until the flush succeeded: when it fails, the kernel drops what was written.
#[derive(Debug)]
pub(super) struct Frozen {
    pub(super) generation: Arc<Generation>,
    from: LogPos,
    dirty: u64,
    pub(super) end: u64,
    phase: Phase,
}

/// A step without its content.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Choice {
    CutLog,
    DiskError,
    Skip,
    Promise,
    Write,
    Flush,
    Salvage,
    Position,
    Forget,
    Resume,
    Freeze,
    Wait(Due),
    End,
}

impl<T> Core<T> {
    /// What the disk side should do now. It is under way until [`Core::disk_done`] is told its result; `Sleep` and `End` are not reported
    /// back.
    pub fn next_disk_step(&mut self, now: Duration) -> DiskStep {
        loop {
            let choice = self.choose_disk_step(now);
            let step = match choice {
                Choice::Freeze => {
                    self.freeze();
                    continue;
                }
                Choice::Skip => {
                    self.set_phase(Phase::Promised);
                    continue;
                }
                Choice::Wait(Due::At(t)) => return DiskStep::Sleep(Some(t)),
                Choice::Wait(_) => return DiskStep::Sleep(None),
                Choice::End => return DiskStep::End,
                choice => self.disk_step(choice),
            };
            // What a choice needs is there by its conditions.
            let Some(step) = step else {
                return DiskStep::Sleep(None);
            };
            self.disk_busy = true;
            return step;
        }
    }

    fn disk_step(&mut self, choice: Choice) -> Option<DiskStep> {
        Some(match choice {
            Choice::CutLog => DiskStep::CutLog {
                valid: self.durable_pos(),
            },
            Choice::DiskError => {
                self.told_disk_error = self.disk_error();
                DiskStep::DiskError(self.told_disk_error)
            }
            Choice::Promise => {
                let f = self.frozen.as_ref()?;
                DiskStep::Promise {
                    from: f.from.clone(),
                    dirty: f.dirty,
                }
            }
            Choice::Write => DiskStep::Write(Arc::clone(&self.frozen.as_ref()?.generation)),
            Choice::Flush => DiskStep::Flush,
            Choice::Salvage => DiskStep::Salvage(self.salvage_next()?),
            Choice::Position => {
                self.position_due = false;
                DiskStep::Position {
                    at: self.write_back_pos(),
                    durable: self.emergency.is_some(),
                }
            }
            Choice::Forget => {
                let (from, to) = self.to_forget()?;
                self.forgotten = to;
                DiskStep::Forget { from, to }
            }
            Choice::Resume => DiskStep::Resume {
                log: self.resuming.clone()?,
            },
            Choice::Skip | Choice::Freeze | Choice::Wait(_) | Choice::End => return None,
        })
    }

    /// When will [`Core::next_disk_step`] say something else than `Sleep`?
    pub fn disk_due(&self, now: Duration) -> Due {
        match self.choose_disk_step(now) {
            Choice::Wait(due) => due,
            _ => Due::Now,
        }
    }

    fn choose_disk_step(&self, now: Duration) -> Choice {
        if self.disk_busy {
            return Choice::Wait(Due::Never);
        }
        if self.exit == Exit::Now {
            return Choice::End;
        }
        if self.emergency.is_some_and(|e| !e.is_ready) {
            // Whoever works on the log right now must be back first.
            return if self.is_log_busy() {
                Choice::Wait(Due::Never)
            } else {
                Choice::CutLog
            };
        }
        if self.disk_error() != self.told_disk_error {
            return Choice::DiskError;
        }
        // A position inside a generation that is on its way would say that nothing behind it is on the disk.
        let is_on_its_way = self
            .frozen
            .as_ref()
            .is_some_and(|f| f.phase != Phase::Waiting)
            && self.stuck.is_empty();
        if self.position_due && !is_on_its_way {
            return Choice::Position;
        }
        if self.to_forget().is_some() {
            return Choice::Forget;
        }
        if let Some(f) = &self.frozen {
            return self.choose_write_back(f, now);
        }
        if self.resuming.is_some() && self.buffer.is_empty() {
            return Choice::Resume;
        }
        match self.freeze_due(now) {
            Due::Now => return Choice::Freeze,
            Due::At(t) => return Choice::Wait(Due::At(t)),
            Due::Never => {}
        }
        if self.exit == Exit::Drained && self.is_drained() {
            return Choice::End;
        }
        Choice::Wait(Due::Never)
    }

    fn choose_write_back(&self, f: &Frozen, now: Duration) -> Choice {
        if self.disk_error != 0 && f.phase != Phase::Flushed {
            if self.exit == Exit::Drained && self.emergency.is_none() {
                // Stopping with a broken disk: the log has everything, recovery will write it.
                return Choice::End;
            }
            if self.retry_at > now {
                return Choice::Wait(Due::At(self.retry_at));
            }
        }
        match f.phase {
            Phase::Waiting if self.emergency.is_some() => Choice::Skip,
            // Nothing reaches the disk before it is durable in the log.
            Phase::Waiting if self.durable >= f.end => Choice::Promise,
            Phase::Waiting => Choice::Wait(Due::Never),
            Phase::Promised if self.emergency.is_some() && self.has_given_up() => Choice::Salvage,
            Phase::Promised => Choice::Write,
            Phase::Written => Choice::Flush,
            // Released as soon as the log is cut.
            Phase::Flushed => Choice::Wait(Due::Never),
        }
    }

    /// When should the current generation be frozen?
    fn freeze_due(&self, now: Duration) -> Due {
        let current = self.buffer.current();
        if self.buffer.is_freezing() || current.is_empty() || self.rotating.is_some() {
            return Due::Never;
        }
        if self.demand
            || self.emergency.is_some()
            || self.exit != Exit::No
            || current.memory() > self.config.limit / 2
            || self.accepted - self.written_back > self.config.recovery_limit / 2
        {
            return Due::Now;
        }
        let age = self.config.age;
        let old = self.dirty_since.unwrap_or(now).saturating_add(age);
        let at = old.min(self.last_accepted.saturating_add(age / IDLE_PART));
        if at <= now { Due::Now } else { Due::At(at) }
    }

    /// Freezes the current generation; not during a rotation, when its log is not the one of the write-back position.
    pub(super) fn freeze(&mut self) {
        if self.rotating.is_some() {
            return;
        }
        let from = self.write_back_pos();
        let Some(generation) = self.buffer.freeze() else {
            return;
        };
        self.dirty_since = None;
        self.demand = self.resuming.is_some();
        let end = self.accepted;
        self.want_durable = end;
        self.frozen = Some(Frozen {
            generation,
            from,
            dirty: self.valid(end).saturating_sub(self.written_back),
            end,
            phase: Phase::Waiting,
        });
    }

    pub(super) fn set_phase(&mut self, phase: Phase) {
        if let Some(f) = &mut self.frozen {
            f.phase = phase;
        }
    }

    /// A step is done.
    pub fn disk_done(
        &mut self,
        step: DiskStep,
        result: StepResult,
        now: Duration,
        out: &mut Vec<Answer<T>>,
    ) {
        self.disk_busy = false;
        match (step, result) {
            (DiskStep::Write(_) | DiskStep::Flush, Err(code)) => self.disk_failed(code, now),
            (DiskStep::Promise { .. }, _) => self.set_phase(Phase::Promised),
            (DiskStep::Write(generation), Ok(())) => {
                drop(generation);
                self.set_phase(Phase::Written);
            }
            (DiskStep::Flush, Ok(())) => self.disk_works(),
            (DiskStep::CutLog { .. }, _) => {
                if let Some(e) = &mut self.emergency {
                    e.is_ready = true;
                }
            }
            (DiskStep::Position { .. }, _) => self.positioned(out),
            (DiskStep::Resume { log }, Ok(())) => self.leave_emergency_of(log, out),
            (DiskStep::Resume { .. }, Err(_)) => self.resuming = None,
            _ => {}
        }
        self.release_flushed();
    }

    pub(super) fn disk_works(&mut self) {
        (self.disk_error, self.read_error) = (0, 0);
        self.disk_failures = 0;
        self.pause = Duration::ZERO;
        self.set_phase(Phase::Flushed);
    }

    pub(super) fn release_flushed(&mut self) {
        let is_cut = self.emergency.is_none_or(|e| e.is_ready);
        // The cut log and the hole come before anything is called written back.
        if is_cut && let Some(f) = self.frozen.take_if(|f| f.phase == Phase::Flushed) {
            self.wrote_back(f);
        }
    }

    /// Without a log, requests are answered from the disk, but not before the position is behind what the log holds of the same places:
    /// recovery would put that over it.
    fn positioned(&mut self, out: &mut Vec<Answer<T>>) {
        if self.emergency.is_some() && !self.position_due {
            self.durable = self.durable.max(self.written_back);
            self.written = self.written.max(self.written_back);
            self.pop_written(out);
            self.settle(self.durable, out);
        }
    }

    fn leave_emergency_of(&mut self, log: LogName, out: &mut Vec<Answer<T>>) {
        if self.resuming.take().is_some() {
            self.leave_emergency(log);
            self.commit(out);
        }
    }

    /// Is the disk no place any more where data can be made durable?
    pub(super) fn has_given_up(&self) -> bool {
        self.disk_error != 0 && self.disk_failures >= GIVE_UP
    }

    pub(super) fn disk_failed(&mut self, code: i32, now: Duration) {
        self.set_phase(Phase::Promised);
        self.disk_error = code;
        self.disk_failures = self.disk_failures.saturating_add(1);
        let longest = if self.emergency.is_some() {
            RETRY_MAX_UNLOGGED
        } else {
            RETRY_MAX
        };
        self.pause = (self.pause * 2).clamp(RETRY_MIN, longest);
        self.retry_at = now.saturating_add(self.pause);
        self.resuming = None;
        if self.emergency.is_some() && self.disk_failures == GIVE_UP {
            // Which requests fail is found out at once.
            self.retry_at = now;
        }
    }

    /// The frozen generation is on the disk and flushed.
    fn wrote_back(&mut self, f: Frozen) {
        self.wrote_back_to(f.end);
        self.forget_places();
        self.buffer.release_frozen();
        if let Some(generation) = Arc::into_inner(f.generation) {
            self.buffer.recycle(generation, self.config.limit / 2);
        }
        self.try_rotate();
    }

    pub(super) fn wrote_back_to(&mut self, end: u64) {
        self.written_back = end;
        self.leave_older();
        self.position_due = true;
    }

    /// A growing log would fill the page cache with what nobody reads again: the other hosts fetch it as soon as it is durable.
    fn to_forget(&self) -> Option<(u64, u64)> {
        if self.rotating.is_some() || self.emergency.is_some() {
            return None;
        }
        let to = (self.durable - self.current.start.min(self.durable)).saturating_sub(CACHED_LOG);
        (to >= self.forgotten + FORGET_STEP).then_some((self.forgotten, to))
    }
}
