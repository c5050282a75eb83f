//! What the engine says about itself: live page, bell of the bus.
use crate::engine::Engine;
use mars_bus::Bell;
use mars_live::LogLive;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

impl Engine {
    /// Rings after each publication of figures.
    pub fn set_bell(&self, bell: Bell) {
        let _ = self.bell.set(bell);
    }

    /// Publishes the live page.
    pub fn publish_live(&self) {
        self.ring();
        let Some(live) = &self.live else { return };
        // The page lock is taken first, so that an older state never overwrites a newer one.
        let page = live.lock().unwrap_or_else(PoisonError::into_inner);
        page.publish(&self.figures());
    }

    pub(crate) fn ring(&self) {
        if let Some(bell) = self.bell.get() {
            bell.ring();
        }
    }

    /// Longest stays in the stages that the live page has no room for, in ns: queue, encode.
    pub fn longest_of(&self) -> (u64, u64) {
        let [queue, encode, ..] = self.stages.get();
        (queue.max, encode.max)
    }

    /// What the live page says.
    pub fn figures(&self) -> LogLive {
        let (ops_rate, amount_rate) = *self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let st = self.lock();
        let [queue, encode, append, sync, acknowledge, write_back] = self.stages.get();
        let durable = st.core.durable_pos();
        let written = st.core.written_pos();
        let back = st.core.write_back_pos();
        LogLive {
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
            queue_count: queue.count,
            queue_ns: queue.nanos,
            encode_count: encode.count,
            encode_ns: encode.nanos,
            append_count: append.count,
            append_ns: append.nanos,
            sync_count: sync.count,
            sync_ns: sync.nanos,
            acknowledge_count: acknowledge.count,
            acknowledge_ns: acknowledge.nanos,
            write_back_count: write_back.count,
            write_back_ns: write_back.nanos,
            append_max_ns: append.max,
            sync_max_ns: sync.max,
            acknowledge_max_ns: acknowledge.max,
            write_back_max_ns: write_back.max,
        }
    }
}
