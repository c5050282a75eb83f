//! The engine when something is missing: no space for logs, no whole disk.
use crate::core::{Answer, Exit};
use crate::engine::{Engine, State, errno, held};
use mars_disk::{Generation, salvage};
use mars_front::Ticket;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

/// Level of free space at which nothing is logged.
const SPACE_EMERGENCY: u8 = 4;

impl Engine {
    /// Nothing is logged and the disk fails: as much as possible becomes durable.
    pub(crate) fn salvage(
        &self,
        generation: &Generation,
        answers: &mut Vec<Answer<Ticket>>,
    ) -> MutexGuard<'_, State> {
        let (lost, e) = salvage(self.disk.as_ref(), generation);
        let code = e.as_ref().map_or(0, errno);
        let now = self.now();
        let mut st = self.lock();
        // Once, until the disk works again or something else is lost.
        if let Some(e) = e
            && st.core.stuck() != lost.bytes()
        {
            tracing::error!(
                "writing the disk: {e}; nothing is logged, and {} bytes cannot be written, the first at {}: requests for them fail",
                lost.bytes(),
                lost.iter().next().map_or(0, |r| r.start)
            );
        }
        st.core.disk_salvaged(lost, code, now, answers);
        self.wake(&mut st);
        st
    }

    /// The emergency level of this host by free space (transaction-log.md 3.12): at [`SPACE_EMERGENCY`] logging stops, before `/mars` is full and
    /// nobody can write anything there; it resumes at level 0 only, so that it does not stop again at once.
    pub fn set_space_level(&self, level: u8) {
        self.space_level.store(level, Ordering::Relaxed);
        if level < SPACE_EMERGENCY {
            return;
        }
        let mut answers = Vec::new();
        let mut st = self.lock();
        if st.core.is_emergency() || st.core.exit() != Exit::No {
            return;
        }
        st.core.stop_logging(&mut answers);
        st.active = true;
        let valid = st.core.durable_pos();
        self.wake(&mut st);
        drop(st);
        // The event follows when the log is cut.
        tracing::warn!(
            "too little space is left for logs: logging stops in {} and resumes when the emergency level of this host is 0 and no `emergency-limit` is undershot; delete logs \
             (`marsadm log-delete-all`) or enlarge the file system",
            valid.log
        );
        self.deliver(&mut answers);
        self.wake_control();
    }

    /// Ends the emergency when there is space again; returns whether logging goes on.
    pub fn try_resume(&self) -> bool {
        {
            let st = self.lock();
            if !st.core.is_emergency() {
                return true;
            }
            if !st.core.may_resume() {
                return false;
            }
        }
        if self.space_level.load(Ordering::Relaxed) > 0 || !self.store.has_space() {
            return false;
        }
        let log = self.links.resume_log();
        let opened = match self.open_log(&log) {
            Ok(v) => v,
            Err(e) => {
                tracing::warn!("{log} cannot be opened: {e}; logging is tried again later");
                return false;
            }
        };
        let mut st = self.lock();
        *held(&self.next) = Some(opened);
        st.core.resume(log);
        self.wake(&mut st);
        // Bounded by the disk's speed, given up on disk errors.
        while st.core.is_resuming() && st.core.exit() != Exit::Now {
            st = self.wait_for_room(st);
        }
        let is_logging = !st.core.is_emergency();
        if !is_logging {
            held(&self.next).take();
        }
        is_logging
    }
}
