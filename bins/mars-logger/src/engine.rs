//! The engine: threads, locks and I/O around [`Core`].
//!
//! One mutex guards the state. Who holds `State::log` is the writer: in `flush` mode the thread that calls `kick`, in `strict` mode the log
//! thread. Answers are collected under the mutex and delivered after it is released, never under it.
use crate::core::{Answer, Core, CoreConfig, DiskStep, Due, Exit, LogPos, LogStep};
use crate::freeze::Hold;
use crate::io::{DataDisk, Links, LogSink, LogStore, LogSync};
use crate::stages::Stages;
use mars_bus::Bell;
use mars_disk::{WriteOut, write_generation};
use mars_front::Ticket;
use mars_live::{Clock, LivePage};
use mars_tree::{LogName, Stamp};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

/// Surroundings of an engine.
pub struct EngineParts {
    /// Core settings.
    pub config: CoreConfig,
    /// The log to begin with, empty.
    pub log: LogName,
    /// Opened.
    pub sink: Box<dyn LogSink>,
    /// For rotation.
    pub store: Box<dyn LogStore>,
    /// Data disk.
    pub disk: Arc<dyn DataDisk>,
    /// Publication.
    pub links: Arc<dyn Links>,
    /// Live page, absent in some tests.
    pub live: Option<LivePage>,
    /// For record stamps.
    pub clock: Clock,
    /// Device size in bytes.
    pub size: u64,
    /// Automatic rotation at this log size; 0 = off.
    pub rotate_bytes: u64,
    /// Wakes the control loop. Called without locks held; must not block.
    pub wake_control: Box<dyn Fn() + Send + Sync>,
}

/// Counters since the start.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    pub reads: AtomicU64,
    pub read_bytes: AtomicU64,
    pub writes: AtomicU64,
    pub write_bytes: AtomicU64,
}

pub(crate) struct State {
    pub core: Core<Ticket>,
    pub log_sleeps: bool,
    /// Until when the write-back thread sleeps; `Now` while it does not.
    pub disk_sleeps: Due,
    pub room_waiters: usize,
    /// Something was written since the control loop last found everything idle.
    pub active: bool,
    pub openers: u64,
    pub leaving: bool,
    pub hold: Hold,
}

/// A log that is open and not written yet.
pub(crate) type NextLog = (LogName, Box<dyn LogSink>, Arc<dyn LogSync>);

/// What the control loop wants to know.
#[derive(Clone, Debug)]
pub struct Status {
    /// Log that becomes durable, and its durable length.
    pub durable: LogPos,
    /// Everything accepted is durable.
    pub is_durable: bool,
    /// Write-back position.
    pub written_back: LogPos,
    /// Sequence offset of everything accepted: differs when something was written.
    pub accepted: u64,
    /// Nothing in the buffer, everything durable.
    pub is_drained: bool,
    /// Logging stopped.
    pub is_emergency: bool,
    /// Openers of the device.
    pub openers: u64,
    /// Requests without answer.
    pub flying: u64,
    /// Bytes in the dirty buffer.
    pub dirty_bytes: u64,
    /// Memory of the dirty buffer.
    pub memory: usize,
    /// A rotation is due by size.
    pub rotation_due: bool,
    /// Newest log (the next one during a rotation).
    pub newest: LogName,
    /// Operations and bytes since the start, reads and writes together.
    pub ops: u64,
    /// See `ops`.
    pub bytes: u64,
    /// Errno of the data disk, 0 = fine.
    pub disk_error: i32,
    /// New writes are held.
    pub is_frozen: bool,
    /// How many.
    pub held: u64,
}

/// The engine. Implements `mars_front::Backend`.
pub struct Engine {
    pub(crate) state: Mutex<State>,
    pub(crate) log_cv: Condvar,
    pub(crate) disk_cv: Condvar,
    pub(crate) room_cv: Condvar,
    /// Something became durable or was written back, a freeze ended.
    pub(crate) calm_cv: Condvar,
    /// Ends freezes.
    pub(crate) hold_cv: Condvar,
    pub(crate) disk: Arc<dyn DataDisk>,
    pub(crate) store: Box<dyn LogStore>,
    pub(crate) links: Arc<dyn Links>,
    /// The log that is written. Only who carries out a step of the log side uses it, so nobody waits for these locks. Absent during an
    /// emergency: an open file would keep its space occupied after it was deleted.
    sink: Mutex<Option<Box<dyn LogSink>>>,
    syncer: Mutex<Option<Arc<dyn LogSync>>>,
    /// Opened for the rotation or resumption that is wanted.
    pub(crate) next: Mutex<Option<NextLog>>,
    pub(crate) live: Option<Mutex<LivePage>>,
    pub(crate) clock: Clock,
    pub(crate) size: AtomicU64,
    pub(crate) strict: bool,
    rotate_bytes: AtomicU64,
    /// Logging may resume by itself after an emergency.
    resume: AtomicBool,
    pub(crate) counters: Counters,
    pub(crate) stages: Stages,
    pub(crate) completion: AtomicU64,
    pub(crate) rates: Mutex<(u64, u64)>,
    pub(crate) device_on: AtomicBool,
    /// Users that only the front end can see (mounts of a loop device).
    front_openers: AtomicU64,
    /// Emergency level of the host by free space: 0 = enough.
    pub(crate) space_level: AtomicU8,
    started: Instant,
    wake_control: Box<dyn Fn() + Send + Sync>,
    pub(crate) bell: OnceLock<Bell>,
}

/// A lock that survives a thread that died while it held it: what the thread left behind is protected by the log.
pub(crate) fn held<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Engine {
    /// Makes the engine; [`crate::threads::start`] starts its threads.
    pub fn new(parts: EngineParts) -> io::Result<Arc<Engine>> {
        let syncer = parts.sink.syncer()?;
        let strict = parts.config.strict;
        let engine = Arc::new(Engine {
            state: Mutex::new(State {
                core: Core::new(parts.config, parts.log),
                log_sleeps: false,
                disk_sleeps: Due::Now,
                room_waiters: 0,
                active: false,
                openers: 0,
                leaving: false,
                hold: Hold::default(),
            }),
            log_cv: Condvar::new(),
            disk_cv: Condvar::new(),
            room_cv: Condvar::new(),
            calm_cv: Condvar::new(),
            hold_cv: Condvar::new(),
            disk: parts.disk,
            store: parts.store,
            links: parts.links,
            sink: Mutex::new(Some(parts.sink)),
            syncer: Mutex::new(Some(syncer)),
            next: Mutex::new(None),
            live: parts.live.map(Mutex::new),
            clock: parts.clock,
            size: AtomicU64::new(parts.size),
            strict,
            rotate_bytes: AtomicU64::new(parts.rotate_bytes),
            resume: AtomicBool::new(true),
            counters: Counters::default(),
            stages: Stages::default(),
            completion: AtomicU64::new(0),
            rates: Mutex::new((0, 0)),
            device_on: AtomicBool::new(false),
            front_openers: AtomicU64::new(0),
            space_level: AtomicU8::new(0),
            started: Instant::now(),
            wake_control: parts.wake_control,
            bell: OnceLock::new(),
        });
        engine.publish_live();
        Ok(engine)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        held(&self.state)
    }

    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn wake_control(&self) {
        (self.wake_control)();
    }

    /// Wakes whoever has something to do now. To be called after each event, before the lock is given up.
    pub(crate) fn wake(&self, st: &mut State) {
        if st.log_sleeps && st.core.has_log_step() {
            st.log_sleeps = false;
            self.log_cv.notify_one();
        }
        // Times lie behind zero, so a time that is over is compared as a time.
        if st.disk_sleeps != Due::Now && st.core.disk_due(Duration::ZERO) < st.disk_sleeps {
            st.disk_sleeps = Due::Now;
            self.disk_cv.notify_one();
        }
        if st.room_waiters > 0
            && (st.core.has_room() || st.core.refusal().is_some() || st.core.exit() == Exit::Now)
        {
            self.room_cv.notify_all();
        }
    }

    /// Waits until no step is under way in a log.
    pub(crate) fn wait_for_log(&self) {
        let mut st = self.lock();
        while st.core.is_log_busy() {
            st = self.wait_for_room(st);
        }
    }

    /// Waits until something is done that others may wait for.
    pub(crate) fn wait_for_room<'a>(
        &'a self,
        mut st: MutexGuard<'a, State>,
    ) -> MutexGuard<'a, State> {
        st.room_waiters += 1;
        st = self
            .room_cv
            .wait(st)
            .unwrap_or_else(PoisonError::into_inner);
        st.room_waiters -= 1;
        st
    }

    // ---- steps of the log side -------------------------------------------------------------------------------------------

    /// Carries out one step and reports it. Called without the lock; returns with it.
    pub(crate) fn do_log_step(
        &self,
        step: LogStep,
        answers: &mut Vec<Answer<Ticket>>,
    ) -> MutexGuard<'_, State> {
        let begin = self.now();
        let result = match &step {
            LogStep::Append(chunk) => {
                self.stages.queue.add(begin.saturating_sub(chunk.since));
                match held(&self.sink).as_mut() {
                    Some(sink) => sink.append(&chunk.bytes),
                    None => Err(io::Error::other("no log is open")),
                }
            }
            LogStep::Sync(_) => {
                let syncer = held(&self.syncer).clone();
                syncer.map_or_else(|| Err(io::Error::other("no log is open")), |s| s.sync())
            }
            LogStep::Switch { old, new } => self.switch(old, new),
            LogStep::Sleep | LogStep::End => Ok(()),
        };
        let took = self.now().saturating_sub(begin);
        let is_new = match &step {
            LogStep::Append(_) => {
                self.stages.append.add(took);
                false
            }
            LogStep::Sync(_) => {
                self.stages.sync.add(took);
                true
            }
            _ => true,
        };
        let code = result.as_ref().map_err(errno).map(|_| ());
        let mut st = self.lock();
        let was_emergency = st.core.is_emergency();
        st.core.log_done(step, code, answers);
        self.tell_calm(&st);
        if st.core.is_emergency() && !was_emergency {
            st.active = true;
            let valid = st.core.durable_pos();
            drop(st);
            let why = result.err().map_or(String::new(), |e| e.to_string());
            // The event follows when the log is cut.
            tracing::warn!("{} cannot be written: {why}", valid.log);
            self.wake_control();
            st = self.lock();
        }
        if is_new && self.live.is_some() {
            self.wake(&mut st);
            drop(st);
            self.publish_live();
            st = self.lock();
        }
        st
    }

    fn switch(&self, old: &LogPos, new: &LogName) -> io::Result<()> {
        let next = held(&self.next).take();
        let Some((_, sink, syncer)) = next.filter(|(name, _, _)| name == new) else {
            return Err(io::Error::other(format!("{new} is not open")));
        };
        // Whoever knows the next log takes the file for the whole log.
        if let Some(sink) = held(&self.sink).as_mut() {
            sink.finish()?;
        }
        self.links.rotated(&old.log, old.pos, new);
        *held(&self.sink) = Some(sink);
        *held(&self.syncer) = Some(syncer);
        Ok(())
    }

    // ---- steps of the disk side ------------------------------------------------------------------------------------------

    /// Carries out one step and reports it. Called without the lock; returns with it.
    pub(crate) fn do_disk_step(
        &self,
        step: DiskStep,
        answers: &mut Vec<Answer<Ticket>>,
    ) -> MutexGuard<'_, State> {
        let begin = self.now();
        if let DiskStep::Salvage(generation) = step {
            return self.salvage(&generation, answers);
        }
        let result = match &step {
            DiskStep::CutLog { valid } => {
                self.cut_log(valid);
                Ok(())
            }
            DiskStep::Promise { from, dirty } => {
                self.links.replay(&from.log, from.pos, *dirty);
                Ok(())
            }
            DiskStep::Write(generation) => {
                write_generation(self.disk.as_ref(), generation, WriteOut::All)
            }
            DiskStep::Flush => self.disk.flush(),
            DiskStep::Position { at, durable } => {
                self.links.replay(&at.log, at.pos, 0);
                if *durable {
                    self.links.sync();
                }
                Ok(())
            }
            DiskStep::DiskError(code) => {
                self.links.disk_error(*code);
                Ok(())
            }
            DiskStep::Resume { log } => self.resume_in(log),
            DiskStep::Forget { from, to } => {
                if let Some(syncer) = held(&self.syncer).clone() {
                    syncer.forget(*from, *to);
                }
                Ok(())
            }
            DiskStep::Salvage(_) | DiskStep::Sleep(_) | DiskStep::End => Ok(()),
        };
        let is_write = matches!(step, DiskStep::Write(_) | DiskStep::Flush);
        let is_news = matches!(step, DiskStep::Flush | DiskStep::Resume { .. });
        let now = self.now();
        if is_write {
            self.stages.write_back.add(now.saturating_sub(begin));
        }
        let code = result.as_ref().map_err(errno).map(|_| ());
        let mut st = self.lock();
        if let Err(e) = &result
            && is_write
            && st.core.disk_error() != errno(e)
        {
            tracing::warn!(
                "writing the disk: {e}; the data stay in memory and in the log, tried again"
            );
        }
        st.core.disk_done(step, code, now, answers);
        self.wake(&mut st);
        self.tell_calm(&st);
        if is_news {
            drop(st);
            self.publish_live();
            st = self.lock();
        }
        st
    }

    /// Nobody works on the log any more.
    fn cut_log(&self, valid: &LogPos) {
        let open = (
            held(&self.sink).take(),
            held(&self.syncer).take(),
            held(&self.next).take(),
        );
        drop(open);
        if let Err(e) = self.store.truncate(&valid.log, valid.pos) {
            tracing::warn!("{} cannot be cut at {}: {e}", valid.log, valid.pos);
        }
        self.links.emergency(&valid.log, valid.pos);
        self.links.sync();
    }

    /// After the threads have ended: closes the log as it shall be found.
    pub fn finish_log(&self) -> io::Result<()> {
        held(&self.syncer).take();
        held(&self.sink).take().map_or(Ok(()), |mut s| s.finish())
    }

    fn resume_in(&self, log: &LogName) -> io::Result<()> {
        let next = held(&self.next).take();
        let Some((_, sink, syncer)) = next.filter(|(name, _, _)| name == log) else {
            return Err(io::Error::other(format!("{log} is not open")));
        };
        self.links.resumed(log);
        *held(&self.sink) = Some(sink);
        *held(&self.syncer) = Some(syncer);
        Ok(())
    }

    // ---- answers ---------------------------------------------------------------------------------------------------------

    /// Answers, and flushes each connection once.
    pub(crate) fn deliver(&self, answers: &mut Vec<Answer<Ticket>>) {
        if answers.is_empty() {
            return;
        }
        let begin = self.now();
        self.completion
            .store(self.clock.now().as_nanos(), Ordering::Relaxed);
        let mut connections: Vec<Arc<dyn mars_front::Answers>> = Vec::new();
        for Answer { tag, result } in answers.drain(..) {
            let Ticket { to, tag } = tag;
            to.done(tag, result);
            if !connections.iter().any(|c| Arc::ptr_eq(c, &to)) {
                connections.push(to);
            }
        }
        for c in connections {
            c.flush();
        }
        let took = self.now().saturating_sub(begin);
        self.stages.acknowledge.add(took);
    }

    /// The same user may be seen by both, so the larger number counts, not the sum.
    pub(crate) fn openers_of(&self, st: &State) -> u64 {
        st.openers.max(self.front_openers.load(Ordering::Relaxed))
    }

    // ---- for the control loop --------------------------------------------------------------------------------------------

    /// How things stand.
    pub fn status(&self) -> Status {
        let st = self.lock();
        let c = &self.counters;
        let get = |a: &AtomicU64| a.load(Ordering::Relaxed);
        let rotate_bytes = self.rotate_bytes.load(Ordering::Relaxed);
        Status {
            durable: st.core.durable_pos(),
            is_durable: st.core.is_durable(),
            written_back: st.core.write_back_pos(),
            accepted: st.core.accepted(),
            is_drained: st.core.is_drained(),
            is_emergency: st.core.is_emergency(),
            openers: self.openers_of(&st),
            flying: st.core.waiting() as u64,
            dirty_bytes: st.core.buffer().bytes(),
            memory: st.core.buffer().memory(),
            rotation_due: rotate_bytes > 0
                && st.core.newest_log_len() >= rotate_bytes
                && !st.core.is_rotating()
                && !st.core.is_emergency(),
            newest: st.core.newest_log().clone(),
            ops: get(&c.reads) + get(&c.writes),
            bytes: get(&c.read_bytes) + get(&c.write_bytes),
            disk_error: st.core.disk_error(),
            is_frozen: st.hold.is_on(),
            held: st.hold.held(),
        }
    }

    /// Rates for the live page: operations per second, KiB per second.
    pub fn set_rates(&self, ops: u64, kib: u64) {
        *self.rates.lock().unwrap_or_else(PoisonError::into_inner) = (ops, kib);
    }

    /// The device is offered (or not any more).
    pub fn set_device_on(&self, on: bool) {
        self.device_on.store(on, Ordering::Relaxed);
        self.publish_live();
    }

    /// How many users the front end sees.
    pub fn set_front_openers(&self, openers: u64) {
        if self.front_openers.swap(openers, Ordering::Relaxed) != openers {
            self.publish_live();
        }
    }

    /// Size of the device in bytes.
    pub fn set_size(&self, bytes: u64) {
        self.size.store(bytes, Ordering::Release);
    }

    /// Makes everything accepted durable soon.
    pub fn sync_soon(&self) {
        let mut st = self.lock();
        st.core.want_all_durable();
        self.wake(&mut st);
    }

    /// Writes the buffer back soon.
    pub fn write_back_soon(&self) {
        let mut st = self.lock();
        st.core.demand_write_back();
        self.wake(&mut st);
    }

    /// Says that nothing happens; false when something was accepted since `accepted` was read. Frees memory.
    pub fn go_idle(&self, accepted: u64) -> bool {
        let mut st = self.lock();
        if st.core.accepted() != accepted || !st.core.is_drained() {
            return false;
        }
        st.active = false;
        st.core.shrink();
        true
    }

    /// Refuses openers from now on, if there are none.
    pub fn try_leave(&self) -> bool {
        let mut st = self.lock();
        if st.openers == 0 {
            st.leaving = true;
        }
        st.leaving
    }

    /// Refuses openers from now on.
    pub fn leave(&self) {
        self.lock().leaving = true;
    }

    /// Begins a rotation to `next`, which exists and is empty or can be created. It happens as soon as write-back is between two generations.
    pub fn rotate(&self, next: &LogName) -> io::Result<()> {
        if !self.may_rotate(&self.lock()) {
            return Ok(());
        }
        let opened = self.open_log(next)?;
        let mut st = self.lock();
        // Only the control loop rotates and resumes, but logging may have stopped meanwhile.
        if self.may_rotate(&st) {
            *held(&self.next) = Some(opened);
            st.core.rotate(next.clone());
            st.active = true;
            self.wake(&mut st);
        }
        Ok(())
    }

    fn may_rotate(&self, st: &State) -> bool {
        !st.core.is_rotating() && !st.core.is_emergency() && st.core.exit() == Exit::No
    }

    pub(crate) fn open_log(&self, name: &LogName) -> io::Result<NextLog> {
        let sink = self.store.create(name)?;
        let syncer = sink.syncer()?;
        Ok((name.clone(), sink, syncer))
    }

    /// Other settings from now on; no request notices, except by being faster or slower.
    pub fn reconfigure(&self, config: CoreConfig, rotate_bytes: u64, resume: bool) {
        self.rotate_bytes.store(rotate_bytes, Ordering::Relaxed);
        self.resume.store(resume, Ordering::Relaxed);
        let mut st = self.lock();
        st.core.reconfigure(config);
        self.wake(&mut st);
        drop(st);
        self.wake_control();
    }

    /// May logging resume without being asked?
    pub fn resumes_by_itself(&self) -> bool {
        self.resume.load(Ordering::Relaxed)
    }

    /// Stamp for a record.
    pub(crate) fn stamp(&self) -> Stamp {
        self.clock.now()
    }
}

pub(crate) fn errno(e: &io::Error) -> i32 {
    e.raw_os_error().unwrap_or(libc::EIO)
}
