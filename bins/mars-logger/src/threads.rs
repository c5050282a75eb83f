//! The two threads of the engine: log and write-back.
use crate::core::{Due, WriteBack};
use crate::engine::{Engine, Exit, State};
use crate::io::LogSync;
use mars_disk::WriteRun;
use mars_front::Ticket;
use std::io;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

/// Bytes per write-back request.
const MAX_RUN: usize = 1 << 20;
/// The kernel is asked to start writing after this many bytes, so that the final flush finds less to do.
const WRITEOUT_STEP: u64 = 8 << 20;
/// So much of the newest log stays in the page cache for the other hosts ...
const CACHED_LOG: u64 = 64 << 20;
/// ... and the rest is given back in pieces of at least this size.
const FORGET_STEP: u64 = 16 << 20;
/// Back-off after disk errors.
const RETRY_MIN: Duration = Duration::from_millis(200);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// Running threads.
pub struct Threads {
    engine: Arc<Engine>,
    handles: Vec<JoinHandle<()>>,
}

/// Starts both threads.
pub fn start(engine: &Arc<Engine>) -> io::Result<Threads> {
    let spawn = |name: &str, body: fn(&Engine)| {
        let engine = Arc::clone(engine);
        std::thread::Builder::new()
            .name(name.to_string())
            .stack_size(256 << 10)
            .spawn(move || body(&engine))
    };
    Ok(Threads {
        engine: Arc::clone(engine),
        handles: vec![spawn("log", log_loop)?, spawn("writeback", writeback_loop)?],
    })
}

impl Threads {
    /// Ends after everything is durable and written back. When the disk fails it ends as soon as everything is in the log; returns whether the
    /// buffer is empty.
    pub fn drain(self) -> bool {
        self.end(Exit::Drained);
        let engine = Arc::clone(&self.engine);
        self.join();
        engine.lock().core.is_drained()
    }

    /// Ends at once; what is not durable is lost, as in a crash. `cut` runs when nothing new begins any more, while steps under way may still
    /// go on. For tests.
    pub fn abandon(self, cut: impl FnOnce()) {
        self.end(Exit::Now);
        cut();
        self.join();
    }

    fn end(&self, how: Exit) {
        let mut st = self.engine.lock();
        st.exit = how;
        st.core.want_all_durable();
        st.core.demand_write_back();
        st.must_write = true;
        drop(st);
        self.engine.log_cv.notify_all();
        self.engine.writeback_cv.notify_all();
        self.engine.room_cv.notify_all();
    }

    fn join(self) {
        for h in self.handles {
            if h.join().is_err() {
                tracing::error!("a thread of the engine panicked");
            }
        }
    }
}

// ---- log -----------------------------------------------------------------------------------------------------------------

fn log_loop(engine: &Engine) {
    let mut answers: Vec<Ticket> = Vec::new();
    let mut st = engine.lock();
    loop {
        if st.exit == Exit::Now {
            return;
        }
        if st.core.is_rotating() && st.log.is_some() {
            st = finish_rotation(engine, st, &mut answers);
        } else if st.core.chunk_len() > 0
            && st.log.is_some()
            && !st.core.is_rotating()
            && !st.core.is_emergency()
            && (st.must_write || st.core.wants_write())
        {
            st = engine.append_chunk(st, &mut answers);
        }
        if st.core.wants_sync()
            && st.exit != Exit::Now
            && let Some(syncer) = st.syncer.clone()
        {
            let target = st.core.sync_target();
            drop(st);
            let result = syncer.sync();
            st = engine.lock();
            match result {
                Ok(()) => {
                    st.core.synced(target, &mut answers);
                    if st.core.frozen_is_ready() {
                        engine.wake_writeback(&mut st);
                    }
                }
                Err(e) => engine.log_failed(&mut st, &e, &mut answers),
            }
            drop(st);
            engine.publish_live();
            engine.deliver(std::mem::take(&mut answers));
            st = engine.lock();
            continue;
        }
        if !answers.is_empty() {
            drop(st);
            engine.deliver(std::mem::take(&mut answers));
            st = engine.lock();
            continue;
        }
        let more = st.log.is_some()
            && (st.core.is_rotating()
                || st.core.wants_write()
                || (st.must_write && st.core.chunk_len() > 0));
        // The lock was given up above: an end without drain may have been asked for meanwhile.
        if st.exit == Exit::Now || (more && !st.core.is_emergency()) {
            continue;
        }
        if st.exit == Exit::Drained && (st.core.is_durable() || st.core.is_emergency()) {
            // New requests are refused by now; the write-back thread needs no more log.
            engine.wake_writeback(&mut st);
            return;
        }
        st.log_sleeps = true;
        st = engine
            .log_cv
            .wait(st)
            .unwrap_or_else(PoisonError::into_inner);
        st.log_sleeps = false;
    }
}

/// The rest of the old log, its final links, then the new log.
fn finish_rotation<'a>(
    engine: &'a Engine,
    mut st: MutexGuard<'a, State>,
    answers: &mut Vec<Ticket>,
) -> MutexGuard<'a, State> {
    let (Some(syncer), Some((old, new))) = (st.syncer.clone(), st.core.rotation()) else {
        return st;
    };
    let Some(mut log) = st.log.take() else {
        return st;
    };
    let tail = st.core.take_tail();
    drop(st);
    let result = if tail.is_empty() {
        Ok(())
    } else {
        log.append(&tail)
    }
    .and_then(|()| syncer.sync());
    if result.is_ok() {
        engine.links.rotated(&old.log, old.pos, &new);
    }
    let mut st = engine.lock();
    match (result, st.next.take()) {
        (Ok(()), Some((name, sink, syncer))) if name == new && !st.core.is_emergency() => {
            st.log = Some(sink);
            st.syncer = Some(syncer);
            st.core.rotated(answers);
        }
        (result, _) => {
            st.log = Some(log);
            let e = result.err().unwrap_or_else(|| {
                io::Error::other(format!("{new} disappeared while it was opened"))
            });
            engine.log_failed(&mut st, &e, answers);
        }
    }
    engine.wake_writeback(&mut st);
    drop(st);
    engine.publish_position();
    engine.publish_live();
    engine.deliver(std::mem::take(answers));
    engine.lock()
}

// ---- write-back ----------------------------------------------------------------------------------------------------------

fn sleep<'a>(
    engine: &'a Engine,
    mut st: MutexGuard<'a, State>,
    timeout: Option<Duration>,
) -> MutexGuard<'a, State> {
    st.writeback_sleeps = true;
    st = match timeout {
        Some(t) => {
            engine
                .writeback_cv
                .wait_timeout(st, t)
                .unwrap_or_else(PoisonError::into_inner)
                .0
        }
        None => engine
            .writeback_cv
            .wait(st)
            .unwrap_or_else(PoisonError::into_inner),
    };
    st.writeback_sleeps = false;
    st
}

fn writeback_loop(engine: &Engine) {
    let mut st = engine.lock();
    loop {
        if st.exit == Exit::Now {
            return;
        }
        if st.core.is_emergency() && !st.emergency_ready {
            st = prepare_emergency(engine, st);
            continue;
        }
        let rotate = st.core.may_rotate() && st.next.is_some() && st.exit == Exit::No;
        let frozen = if rotate {
            let next = st.next.as_ref().map(|(name, _, _)| name.clone());
            let w = next.and_then(|name| st.core.begin_rotation(name));
            engine.wake_log(&mut st);
            w
        } else {
            match st.core.write_back_due() {
                Due::Now => st.core.freeze(),
                Due::At(t) if st.exit == Exit::No => {
                    let wait = t.saturating_sub(engine.now());
                    if wait.is_zero() {
                        st.core.freeze()
                    } else {
                        st = sleep(engine, st, Some(wait));
                        continue;
                    }
                }
                Due::At(_) => st.core.freeze(),
                Due::Never => {
                    if st.exit == Exit::Drained && st.core.is_drained() {
                        return;
                    }
                    st = sleep(engine, st, None);
                    continue;
                }
            }
        };
        let Some(w) = frozen else { continue };
        st = match write_back(engine, st, w) {
            Some(st) => st,
            None => return,
        };
    }
}

/// Writes one generation; `None` when the thread must end before it is done.
fn write_back<'a>(
    engine: &'a Engine,
    mut st: MutexGuard<'a, State>,
    w: WriteBack,
) -> Option<MutexGuard<'a, State>> {
    // Nothing reaches the disk before it is durable in the log.
    loop {
        if st.exit == Exit::Now {
            return None;
        }
        if st.core.is_emergency() && !st.emergency_ready {
            st = prepare_emergency(engine, st);
            continue;
        }
        if st.core.may_write_back() {
            break;
        }
        engine.wake_log(&mut st);
        st = sleep(engine, st, None);
    }
    let emergency = st.core.is_emergency();
    drop(st);
    if !emergency {
        engine.publish_dirty(&w.from, w.dirty);
    }
    let mut pause = RETRY_MIN;
    while let Err(e) = write_generation(engine, &w) {
        let code = e.raw_os_error().unwrap_or(libc::EIO);
        let mut st = engine.lock();
        if st.disk_error != code {
            st.disk_error = code;
            tracing::error!(
                "writing the disk: {e}; the data stay in memory and in the log, tried again"
            );
            engine.links.disk_error(code);
        }
        engine.wake_writers(&mut st);
        // Stopping with a broken disk: the log has everything, recovery will write it.
        if st.exit == Exit::Now || (st.exit == Exit::Drained && !st.core.is_emergency()) {
            return None;
        }
        let deadline = engine.now().saturating_add(pause);
        while engine.now() < deadline && st.exit == Exit::No {
            let left = deadline.saturating_sub(engine.now());
            st = sleep(engine, st, Some(left));
        }
        pause = (pause * 2).min(RETRY_MAX);
    }
    let mut answers = Vec::new();
    let mut st = engine.lock();
    if st.disk_error != 0 {
        st.disk_error = 0;
        tracing::info!("the disk works again");
        drop(st);
        engine.links.disk_error(0);
        st = engine.lock();
    }
    if st.core.is_emergency() && !emergency {
        // Logging stopped while this was written: the cut log and the hole come before any answer.
        while st.core.is_emergency() && !st.emergency_ready && st.exit != Exit::Now {
            st = prepare_emergency(engine, st);
        }
    }
    st.core.wrote_back(w, &mut answers);
    engine.wake_writers(&mut st);
    let forget = log_to_forget(&mut st);
    drop(st);
    engine.publish_position();
    engine.publish_live();
    engine.deliver(answers);
    if let Some((syncer, from, to)) = forget {
        syncer.forget(from, to);
    }
    Some(engine.lock())
}

/// A growing log would fill the page cache with what nobody reads again: the other hosts fetch it as soon as it is durable.
fn log_to_forget(st: &mut State) -> Option<(Arc<dyn LogSync>, u64, u64)> {
    let durable = st.core.durable_pos();
    if st.core.is_rotating() || st.core.is_emergency() {
        return None;
    }
    if st.forgotten.0 != durable.log {
        st.forgotten = (durable.log.clone(), 0);
    }
    let (from, to) = (st.forgotten.1, durable.pos.saturating_sub(CACHED_LOG));
    if to < from + FORGET_STEP {
        return None;
    }
    st.forgotten.1 = to;
    Some((st.syncer.clone()?, from, to))
}

fn write_generation(engine: &Engine, w: &WriteBack) -> io::Result<()> {
    let (mut from, mut behind, mut bytes) = (0, 0, 0);
    for run in w.generation.runs(MAX_RUN) {
        match run {
            WriteRun::Data { pos, pieces } => {
                engine.disk.write_vectored_at(&pieces, pos)?;
                let len: u64 = pieces.iter().map(|p| p.len() as u64).sum();
                if bytes == 0 {
                    from = pos;
                }
                bytes += len;
                behind = pos + len;
            }
            WriteRun::Zeroes { pos, len } => engine.disk.zero_at(pos, len)?,
        }
        if bytes >= WRITEOUT_STEP {
            engine.disk.start_writeout(from, behind - from);
            bytes = 0;
        }
    }
    engine.disk.flush()
}

/// Cuts the log to what is durable, publishes that and makes the hole, before anything unlogged reaches the disk: otherwise a recovery would
/// put logged data over newer unlogged ones.
fn prepare_emergency<'a>(
    engine: &'a Engine,
    mut st: MutexGuard<'a, State>,
) -> MutexGuard<'a, State> {
    // Whoever writes to the log right now must be back first.
    while st.log.is_none() && st.exit != Exit::Now {
        st = sleep(engine, st, None);
    }
    let valid = st.core.durable_pos();
    let closed = (st.log.take(), st.syncer.take());
    drop(st);
    drop(closed);
    if let Err(e) = engine.store.truncate(&valid.log, valid.pos) {
        tracing::warn!("{} cannot be cut at {}: {e}", valid.log, valid.pos);
    }
    engine.links.emergency(&valid.log, valid.pos);
    let mut st = engine.lock();
    st.emergency_ready = true;
    st
}
