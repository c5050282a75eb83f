//! Neither log nor the whole disk: which places the disk takes, and which requests that concerns.
//!
//! When the disk failed [`GIVE_UP`](super::disk_side::GIVE_UP) times in a row while nothing is logged, as much as possible of the frozen generation is made
//! durable piece by piece. What the disk does not take stays frozen, is served to readers and tried again, together with what was written
//! since. A request fails when the disk does not take its own place, and also when the log still holds something of the same place that is
//! not written back completely: after a crash recovery would put that over it. A FLUSH fails as long as anything is stuck.
use super::{Answer, Core};
use mars_disk::{Generation, Ranges};
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

impl<T> Core<T> {
    /// What is left of the frozen generation, and what came since.
    pub(super) fn salvage_next(&mut self) -> Option<Arc<Generation>> {
        let f = self.frozen.as_mut()?;
        if !self.stuck.is_empty() {
            f.generation = self.buffer.refreeze(&self.stuck)?;
            f.end = self.accepted;
            self.dirty_since = None;
            self.demand = false;
        }
        Some(Arc::clone(&f.generation))
    }

    /// A [`super::DiskStep::Salvage`] is done: everything is durable but `lost`, because of the errno `code`.
    pub fn disk_salvaged(
        &mut self,
        lost: Ranges,
        code: i32,
        now: Duration,
        out: &mut Vec<Answer<T>>,
    ) {
        self.disk_busy = false;
        if lost.is_empty() {
            self.disk_works();
            self.release_flushed();
            return;
        }
        self.stuck = lost;
        self.disk_failed(code, now);
        let Some(end) = self.frozen.as_ref().map(|f| f.end) else {
            return;
        };
        if self.is_log_stuck() {
            self.settle(end, out);
        } else {
            // All that the log holds is on the disk. Answered when the position says so.
            self.wrote_back_to(end);
        }
    }

    /// Bytes that the disk does not take, though nothing is logged.
    pub fn stuck(&self) -> u64 {
        self.stuck.bytes()
    }

    /// Does the log hold something that the disk does not take?
    fn is_log_stuck(&self) -> bool {
        self.written_back < self.logged.1 && self.stuck.iter().any(|r| self.logged.0.touches(r))
    }

    /// Everything up to `end` has reached the disk, as far as the disk takes it: answers who waits for that.
    pub(super) fn settle(&mut self, end: u64, out: &mut Vec<Answer<T>>) {
        while self.wait_durable.front().is_some_and(|w| w.at <= end) {
            let Some(w) = self.wait_durable.pop_front() else {
                return;
            };
            let result = if w.at <= self.written_back && self.stuck.is_empty()
                || self.is_durable_at(w.place.as_ref())
            {
                Ok(())
            } else {
                Err(self.disk_error)
            };
            out.push(Answer { tag: w.tag, result });
        }
    }

    fn is_durable_at(&self, place: Option<&Range<u64>>) -> bool {
        let Some(place) = place else {
            return self.stuck.is_empty();
        };
        let is_covered_by_log = self.written_back < self.logged.1 && self.logged.0.touches(place);
        !self.stuck.touches(place) && !is_covered_by_log
    }

    /// Everything is on the disk, or in the log.
    pub(super) fn forget_places(&mut self) {
        self.stuck = Ranges::default();
        if self.written_back >= self.logged.1 {
            self.logged = (Ranges::default(), 0);
        }
    }
}
