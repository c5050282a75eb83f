//! Freezing: new writes are held, and what was accepted is brought to the disk, so that the disk equals the device for a while. And draining,
//! which only does the second half.
//!
//! A held write is not accepted: nothing of it is in the log or in the buffer, and it has no answer, so order and durability of what was
//! answered are as ever. Held writes are kept apart, so that the thread that brought them can go on with reads; when a freeze ends, they are
//! brought again, in the order in which they came. A write whose first piece was accepted before the freeze began is finished.
//!
//! Each freeze has a thread of its own that ends it: in time, even if whoever asked for it is gone.
use crate::core::Exit;
use crate::engine::{Engine, State};
use mars_front::{Backend as _, Ticket};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Data of held writes; who brings more waits.
const HELD_MAX: usize = 64 << 20;
/// Longest freeze.
pub const FREEZE_MAX: Duration = Duration::from_secs(600);
/// Draining takes no longer, or is given up.
pub const DRAIN_MAX: Duration = Duration::from_secs(600);

/// What a held write writes.
pub(crate) enum What {
    Data(Box<[u8]>),
    Zeroes(u64),
}

struct Held {
    pos: u64,
    what: What,
    fua: bool,
    ticket: Ticket,
}

/// Freezes, as far as the state of the engine knows them.
#[derive(Default)]
pub(crate) struct Hold {
    /// The number of the freeze, while there is one.
    on: Option<u64>,
    last: u64,
    held: Vec<Held>,
    bytes: usize,
    /// Writes of which some pieces are accepted.
    in_pieces: usize,
    /// Threads that end freezes.
    keepers: usize,
    /// Threads that wait for calm.
    waiters: usize,
    is_refused: bool,
}

impl Hold {
    pub(crate) fn is_on(&self) -> bool {
        self.on.is_some()
    }
    pub(crate) fn held(&self) -> u64 {
        self.held.len() as u64
    }
    pub(crate) fn begin_in_pieces(&mut self) {
        self.in_pieces += 1;
    }
    pub(crate) fn finish_in_pieces(&mut self) {
        self.in_pieces = self.in_pieces.saturating_sub(1);
    }
}

/// Why there is no freeze, or why draining did not finish.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FreezeError {
    /// Two at once would not know when the other one ends.
    #[error("it is frozen already")]
    Already,
    /// Handover or end.
    #[error("this host is leaving the primary role")]
    Leaving,
    /// The disk gives errors.
    #[error("the disk gives errors (errno {0})")]
    Disk(i32),
    /// Not clean in time, or thawed before it was.
    #[error("not everything was on the disk before the end of the timeout")]
    NotClean,
    /// No thread that would end the freeze.
    #[error("no thread can be made")]
    NoThread,
    /// The timeout makes no sense.
    #[error("the timeout must be from 1 to {} seconds", FREEZE_MAX.as_secs())]
    Timeout,
}

impl Engine {
    /// To be called after something became durable or was written back, with the lock held.
    pub(crate) fn tell_calm(&self, st: &State) {
        if st.hold.waiters > 0 {
            self.calm_cv.notify_all();
        }
    }

    /// False when the time is over.
    fn wait_calm<'a>(
        &'a self,
        mut st: MutexGuard<'a, State>,
        until: Instant,
    ) -> (MutexGuard<'a, State>, bool) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return (st, false);
        }
        st.hold.waiters += 1;
        let (mut st, _) = self
            .calm_cv
            .wait_timeout(st, left)
            .unwrap_or_else(PoisonError::into_inner);
        st.hold.waiters -= 1;
        (st, true)
    }

    fn demand(&self, st: &mut State) {
        st.core.want_all_durable();
        st.core.demand_write_back();
        self.wake(st);
    }

    /// Returns when everything that was accepted before the call is on the disk.
    ///
    /// # Errors
    /// [`FreezeError::Disk`], [`FreezeError::NotClean`], [`FreezeError::Leaving`] at the end of the logger.
    pub fn drain(&self, limit: Duration) -> Result<(), FreezeError> {
        let until = Instant::now() + limit.min(DRAIN_MAX);
        let mut st = self.lock();
        let target = st.core.accepted();
        loop {
            if st.core.is_written_back(target) {
                return Ok(());
            }
            if st.core.disk_error() != 0 {
                return Err(FreezeError::Disk(st.core.disk_error()));
            }
            if st.core.exit() == Exit::Now {
                return Err(FreezeError::Leaving);
            }
            self.demand(&mut st);
            let (guard, in_time) = self.wait_calm(st, until);
            if !in_time {
                return Err(FreezeError::NotClean);
            }
            st = guard;
        }
    }

    /// Holds new writes and returns when the disk has everything that was accepted before. `limit` counts from the call.
    ///
    /// # Errors
    /// Nothing is held then.
    pub fn freeze(self: &Arc<Self>, limit: Duration) -> Result<(), FreezeError> {
        if limit < Duration::from_secs(1) || limit > FREEZE_MAX {
            return Err(FreezeError::Timeout);
        }
        let until = Instant::now() + limit;
        let mut st = self.lock();
        if st.hold.on.is_some() {
            return Err(FreezeError::Already);
        }
        if st.hold.is_refused || st.leaving || st.core.exit() != Exit::No {
            return Err(FreezeError::Leaving);
        }
        st.hold.last += 1;
        let number = st.hold.last;
        st.hold.on = Some(number);
        st.hold.keepers += 1;
        let engine = Arc::clone(self);
        let keeper = std::thread::Builder::new()
            .name("freeze".into())
            .stack_size(256 << 10)
            .spawn(move || engine.keep(number, until));
        if keeper.is_err() {
            // The lock was held all the time: nothing is held yet.
            st.hold.on = None;
            st.hold.keepers -= 1;
            return Err(FreezeError::NoThread);
        }
        let result = loop {
            if st.hold.on != Some(number) {
                break Err(FreezeError::NotClean);
            }
            if st.hold.in_pieces == 0 && st.core.is_drained() {
                break Ok(());
            }
            if st.core.disk_error() != 0 {
                break Err(FreezeError::Disk(st.core.disk_error()));
            }
            self.demand(&mut st);
            let (guard, in_time) = self.wait_calm(st, until);
            st = guard;
            if !in_time {
                break Err(FreezeError::NotClean);
            }
        };
        match result {
            Ok(()) => tracing::info!("frozen for at most {} s: new writes wait", limit.as_secs()),
            Err(_) => self.end_hold(&mut st, Some(number)),
        }
        drop(st);
        self.ring();
        self.wake_control();
        result
    }

    /// Ends a freeze; false when there was none.
    pub fn thaw(&self) -> bool {
        let mut st = self.lock();
        let was = st.hold.is_on();
        self.end_hold(&mut st, None);
        drop(st);
        if was {
            tracing::info!("thawed: writes go on");
            self.ring();
            self.wake_control();
        }
        was
    }

    /// Refuses freezes, and ends one; or allows them again.
    pub fn allow_freeze(&self, yes: bool) {
        let is_on = {
            let mut st = self.lock();
            st.hold.is_refused = !yes;
            st.hold.is_on()
        };
        if is_on && !yes {
            self.thaw();
        }
    }

    /// No freezes from now on; returns when what was held is accepted.
    pub fn end_freeze(&self) {
        self.allow_freeze(false);
        let mut st = self.lock();
        while st.hold.keepers > 0 && st.core.exit() != Exit::Now {
            st = self
                .hold_cv
                .wait(st)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Ends this freeze, or whichever there is.
    fn end_hold(&self, st: &mut State, number: Option<u64>) {
        if number.is_none_or(|n| st.hold.on == Some(n)) {
            st.hold.on = None;
            self.hold_cv.notify_all();
            self.calm_cv.notify_all();
            self.room_cv.notify_all();
        }
    }

    /// Waits for the end of a freeze, makes it the end when the time is over, and brings the held writes again.
    fn keep(&self, number: u64, until: Instant) {
        let mut st = self.lock();
        while st.hold.on == Some(number) && st.core.exit() != Exit::Now {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                self.end_hold(&mut st, Some(number));
                tracing::warn!("the freeze ends by its timeout: writes go on");
                break;
            }
            st = self
                .hold_cv
                .wait_timeout(st, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        let held = std::mem::take(&mut st.hold.held);
        st.hold.bytes = 0;
        let is_over = st.core.exit() == Exit::Now;
        drop(st);
        if !is_over {
            for h in held {
                match h.what {
                    What::Data(data) => self.put_write(h.pos, &data, h.fua, h.ticket),
                    What::Zeroes(len) => self.put_zeroes(h.pos, len, h.fua, h.ticket),
                }
            }
            self.kick();
        }
        self.lock().hold.keepers -= 1;
        self.hold_cv.notify_all();
        self.ring();
        self.wake_control();
    }

    /// Keeps a write until the freeze is over. It comes back when the freeze is over already: try again.
    pub(crate) fn park(&self, pos: u64, what: What, fua: bool, ticket: Ticket) -> Option<Ticket> {
        let bytes = match &what {
            What::Data(data) => data.len(),
            What::Zeroes(_) => 0,
        } + size_of::<Held>();
        let mut st = self.lock();
        while st.hold.is_on() && st.core.exit() != Exit::Now {
            if st.hold.bytes.saturating_add(bytes) <= HELD_MAX {
                st.hold.bytes += bytes;
                st.hold.held.push(Held {
                    pos,
                    what,
                    fua,
                    ticket,
                });
                drop(st);
                self.ring();
                return None;
            }
            st = self.wait_for_room(st);
        }
        Some(ticket)
    }
}
