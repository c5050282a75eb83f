//! The engine: threads, locks and I/O around [`Core`].
//!
//! One mutex guards the state. Who holds `State::log` is the writer: in `flush` mode the thread that calls `kick`, in `strict` mode the log
//! thread. Answers are collected under the mutex and delivered after it is released, never under it.
use crate::core::{Core, CoreConfig, LogPos};
use crate::io::{DataDisk, Links, LogSink, LogStore, LogSync};
use mars_front::Ticket;
use mars_live::{Clock, LivePage, LogLive};
use mars_tree::{LogName, Stamp};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often one thread writes for others before it hands over to the log thread.
const WRITE_ROUNDS: usize = 4;

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
    /// Absent while somebody writes to it, and during an emergency.
    pub log: Option<Box<dyn LogSink>>,
    /// Absent during an emergency: an open file would keep its space occupied after it was deleted.
    pub syncer: Option<Arc<dyn LogSync>>,
    /// Log bytes before this are not kept in the page cache.
    pub forgotten: (LogName, u64),
    /// Opened and waiting for its rotation.
    pub next: Option<NextLog>,
    /// The log thread shall write although nobody waits for durability.
    pub must_write: bool,
    pub log_sleeps: bool,
    pub writeback_sleeps: bool,
    pub room_waiters: usize,
    /// New writes wait (end of an emergency).
    pub paused: bool,
    /// The links, the cut log and the hole of the emergency are done: the disk may be written.
    pub emergency_ready: bool,
    /// Why logging stopped.
    pub log_error: Option<io::ErrorKind>,
    pub disk_error: i32,
    /// Something was written since the control loop last found everything idle.
    pub active: bool,
    pub openers: u64,
    pub leaving: bool,
    pub exit: Exit,
}

/// A log that is open and not written yet.
pub(crate) type NextLog = (LogName, Box<dyn LogSink>, Arc<dyn LogSync>);

/// How the threads end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Exit {
    No,
    /// When everything is written back; on disk errors when it is in the log.
    Drained,
    /// At once, as a crash would (tests).
    Now,
}

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
}

/// The engine. Implements `mars_front::Backend`.
pub struct Engine {
    pub(crate) state: Mutex<State>,
    pub(crate) log_cv: Condvar,
    pub(crate) writeback_cv: Condvar,
    pub(crate) room_cv: Condvar,
    pub(crate) disk: Arc<dyn DataDisk>,
    pub(crate) store: Box<dyn LogStore>,
    pub(crate) links: Arc<dyn Links>,
    /// Held from looking at the write-back position until it is published: the log thread (rotation) and the write-back thread
    /// both publish it, and the older look must not be published last. Taken before `state`.
    position: Mutex<()>,
    live: Option<Mutex<LivePage>>,
    pub(crate) clock: Clock,
    pub(crate) size: AtomicU64,
    pub(crate) strict: bool,
    rotate_bytes: u64,
    pub(crate) counters: Counters,
    completion: AtomicU64,
    rates: Mutex<(u64, u64)>,
    device_on: AtomicBool,
    /// Users that only the front end can see (mounts of a loop device).
    front_openers: AtomicU64,
    started: Instant,
    wake_control: Box<dyn Fn() + Send + Sync>,
}

impl Engine {
    /// Publishes the write-back position as it is now, unless a generation is on its way to the disk: then its own dirty range stands in the link.
    pub(crate) fn publish_position(&self) {
        let _one_at_a_time = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        let st = self.lock();
        if st.core.is_freezing() {
            return;
        }
        let back = st.core.write_back_pos();
        drop(st);
        self.links.replay(&back.log, back.pos, 0);
    }

    /// Publishes what the disk may hold in part from now on.
    pub(crate) fn publish_dirty(&self, from: &LogPos, dirty: u64) {
        let _one_at_a_time = self.position.lock().unwrap_or_else(PoisonError::into_inner);
        self.links.replay(&from.log, from.pos, dirty);
    }

    /// Makes the engine; [`crate::threads::start`] starts its threads.
    pub fn new(parts: EngineParts) -> io::Result<Arc<Engine>> {
        let syncer = parts.sink.syncer()?;
        let forgotten = (parts.log.clone(), 0);
        let strict = parts.config.strict;
        let engine = Arc::new(Engine {
            state: Mutex::new(State {
                core: Core::new(parts.config, parts.log),
                log: Some(parts.sink),
                syncer: Some(syncer),
                forgotten,
                next: None,
                must_write: false,
                log_sleeps: false,
                writeback_sleeps: false,
                room_waiters: 0,
                paused: false,
                emergency_ready: false,
                log_error: None,
                disk_error: 0,
                active: false,
                openers: 0,
                leaving: false,
                exit: Exit::No,
            }),
            log_cv: Condvar::new(),
            writeback_cv: Condvar::new(),
            room_cv: Condvar::new(),
            disk: parts.disk,
            store: parts.store,
            links: parts.links,
            position: Mutex::new(()),
            live: parts.live.map(Mutex::new),
            clock: parts.clock,
            size: AtomicU64::new(parts.size),
            strict,
            rotate_bytes: parts.rotate_bytes,
            counters: Counters::default(),
            completion: AtomicU64::new(0),
            rates: Mutex::new((0, 0)),
            device_on: AtomicBool::new(false),
            front_openers: AtomicU64::new(0),
            started: Instant::now(),
            wake_control: parts.wake_control,
        });
        engine.publish_live();
        Ok(engine)
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A poisoned lock means that a thread died in the middle of a step: its data are still protected by the log.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn now(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn wake_control(&self) {
        (self.wake_control)();
    }

    pub(crate) fn wake_log(&self, st: &mut State) {
        if std::mem::take(&mut st.log_sleeps) {
            self.log_cv.notify_one();
        }
    }

    pub(crate) fn wake_writeback(&self, st: &mut State) {
        if std::mem::take(&mut st.writeback_sleeps) {
            self.writeback_cv.notify_one();
        }
    }

    pub(crate) fn wake_writers(&self, st: &mut State) {
        if st.room_waiters > 0 {
            self.room_cv.notify_all();
        }
    }

    /// Appends what is encoded, in this thread, unless somebody else does; bounded, the rest goes to the log thread.
    pub(crate) fn write_out<'a>(&'a self, mut st: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        for _ in 0..WRITE_ROUNDS {
            if st.core.is_rotating() || st.log.is_none() {
                // Another writer or a rotation: whoever it is looks again when it is done, the log thread only when told to.
                st.must_write = st.core.chunk_len() > 0;
                return st;
            }
            let mut answers = Vec::new();
            st = self.append_chunk(st, &mut answers);
            if !answers.is_empty() {
                drop(st);
                self.deliver(answers);
                st = self.lock();
            }
            if st.core.chunk_len() == 0 {
                return st;
            }
        }
        st.must_write = true;
        self.wake_log(&mut st);
        st
    }

    /// Takes the writer's role for one append, if it is free and there is something to append.
    pub(crate) fn append_chunk<'a>(
        &'a self,
        mut st: MutexGuard<'a, State>,
        answers: &mut Vec<Ticket>,
    ) -> MutexGuard<'a, State> {
        let Some(mut log) = st.log.take() else {
            return st;
        };
        let Some(chunk) = st.core.take_chunk() else {
            st.log = Some(log);
            return st;
        };
        st.must_write = false;
        self.wake_writers(&mut st);
        drop(st);
        let result = log.append(&chunk.bytes);
        let mut st = self.lock();
        st.log = Some(log);
        match result {
            Ok(()) => st.core.appended(chunk, answers),
            Err(e) => self.log_failed(&mut st, &e, answers),
        }
        if st.core.wants_sync() || st.core.is_rotating() {
            self.wake_log(&mut st);
        }
        if st.core.is_emergency() {
            // The log is cut only when nobody writes to it any more.
            self.wake_writeback(&mut st);
        }
        st
    }

    /// The log cannot be written or made durable: pass-through from now on.
    pub(crate) fn log_failed(&self, st: &mut State, e: &io::Error, answers: &mut Vec<Ticket>) {
        if st.core.is_emergency() {
            return;
        }
        let valid = st.core.enter_emergency();
        tracing::error!(
            "{} cannot be written: {e}; logging stops at {}, writes go directly to the disk, the other hosts fall behind until logging resumes",
            valid.log,
            valid.pos
        );
        st.log_error = Some(e.kind());
        st.emergency_ready = false;
        st.next = None;
        st.core.commit(answers);
        self.wake_writeback(st);
        self.wake_writers(st);
        self.wake_log(st);
        st.active = true;
        self.wake_control();
    }

    /// Answers, and flushes each connection once.
    pub(crate) fn deliver(&self, answers: Vec<Ticket>) {
        if answers.is_empty() {
            return;
        }
        self.completion
            .store(self.clock.now().as_nanos(), Ordering::Relaxed);
        let mut connections: Vec<Arc<dyn mars_front::Answers>> = Vec::new();
        for Ticket { to, tag } in answers {
            to.done(tag, Ok(()));
            if !connections.iter().any(|c| Arc::ptr_eq(c, &to)) {
                connections.push(to);
            }
        }
        for c in connections {
            c.flush();
        }
    }

    /// The same user may be seen by both, so the larger number counts, not the sum.
    fn openers_of(&self, st: &State) -> u64 {
        st.openers.max(self.front_openers.load(Ordering::Relaxed))
    }

    /// Publishes the live page.
    pub fn publish_live(&self) {
        let Some(live) = &self.live else { return };
        // The page lock is taken first, so that an older state never overwrites a newer one.
        let page = live.lock().unwrap_or_else(PoisonError::into_inner);
        let (ops_rate, amount_rate) = *self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let st = self.lock();
        let durable = st.core.durable_pos();
        let written = st.core.written_pos();
        let back = st.core.write_back_pos();
        let record = LogLive {
            log_nr: u64::from(durable.log.nr),
            durable_len: durable.pos,
            logged_len: written.pos,
            writeback_nr: u64::from(back.log.nr),
            writeback_pos: back.pos,
            dirty_bytes: st.core.buffer().bytes(),
            openers: self.openers_of(&st),
            device_on: u64::from(self.device_on.load(Ordering::Relaxed)),
            flying: st.core.waiting() as u64,
            reads: self.counters.reads.load(Ordering::Relaxed),
            read_bytes: self.counters.read_bytes.load(Ordering::Relaxed),
            writes: self.counters.writes.load(Ordering::Relaxed),
            write_bytes: self.counters.write_bytes.load(Ordering::Relaxed),
            completion_stamp: self.completion.load(Ordering::Relaxed),
            ops_rate,
            amount_rate,
        };
        drop(st);
        page.publish(&record);
    }

    // ---- for the control loop --------------------------------------------------------------------------------------------

    /// How things stand.
    pub fn status(&self) -> Status {
        let st = self.lock();
        let c = &self.counters;
        let get = |a: &AtomicU64| a.load(Ordering::Relaxed);
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
            rotation_due: self.rotate_bytes > 0
                && st.core.newest_log_len() >= self.rotate_bytes
                && st.next.is_none()
                && !st.core.is_rotating()
                && !st.core.is_emergency(),
            newest: st.core.newest_log().clone(),
            ops: get(&c.reads) + get(&c.writes),
            bytes: get(&c.read_bytes) + get(&c.write_bytes),
            disk_error: st.disk_error,
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
        self.wake_log(&mut st);
    }

    /// Writes the buffer back soon.
    pub fn write_back_soon(&self) {
        let mut st = self.lock();
        st.core.demand_write_back();
        self.wake_writeback(&mut st);
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
        {
            let st = self.lock();
            if st.next.is_some() || st.core.is_rotating() || st.core.is_emergency() {
                return Ok(());
            }
        }
        let sink = self.store.create(next)?;
        let syncer = sink.syncer()?;
        let mut st = self.lock();
        st.next = Some((next.clone(), sink, syncer));
        st.active = true;
        self.wake_writeback(&mut st);
        Ok(())
    }

    /// Ends the emergency when there is space again; returns whether logging goes on.
    pub fn try_resume(&self) -> bool {
        {
            let st = self.lock();
            if !st.core.is_emergency() {
                return true;
            }
            if !st.emergency_ready {
                return false;
            }
        }
        if !self.store.has_space() {
            return false;
        }
        let log = self.links.resume_log();
        let opened = self.store.create(&log).and_then(|s| {
            let y = s.syncer()?;
            Ok((s, y))
        });
        let (sink, syncer) = match opened {
            Ok(v) => v,
            Err(e) => {
                tracing::warn!("{log} cannot be opened: {e}; logging is tried again later");
                return false;
            }
        };
        let mut st = self.lock();
        st.paused = true;
        st.core.demand_write_back();
        self.wake_writeback(&mut st);
        // The write-back thread wakes room waiters after every generation; bounded by the disk's speed, given up on disk errors.
        while !st.core.buffer().is_empty() && st.disk_error == 0 && st.exit != Exit::Now {
            st.room_waiters += 1;
            st = self
                .room_cv
                .wait(st)
                .unwrap_or_else(PoisonError::into_inner);
            st.room_waiters -= 1;
        }
        let drained = st.core.buffer().is_empty();
        drop(st);
        if drained {
            self.links.resumed(&log);
        }
        let mut answers = Vec::new();
        let mut st = self.lock();
        if drained {
            st.core.leave_emergency(log.clone());
            st.log = Some(sink);
            st.syncer = Some(syncer);
            st.log_error = None;
            st.core.commit(&mut answers);
            tracing::info!("logging resumes in {log}; secondaries need `marsadm invalidate`");
        }
        st.paused = false;
        self.wake_writers(&mut st);
        drop(st);
        self.deliver(answers);
        self.publish_live();
        drained
    }

    /// Stamp for a record.
    pub(crate) fn stamp(&self) -> Stamp {
        self.clock.now()
    }
}
