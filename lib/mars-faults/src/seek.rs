//! A disk with one arm: 7200 turns a minute, tracks of 1 MiB, 8 ms for an average seek.
//!
//! Accesses are served one after the other in the order in which they are issued. A write is taken into the queue and returns, as one into
//! the page cache does, unless the queue is full; a flush waits for everything, a read for itself and all before it.
use mars_disk::DataDisk;
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Bytes per track; one turn transfers them.
pub const TRACK: u64 = 1 << 20;
/// 7200 turns a minute.
pub const TURN: Duration = Duration::from_nanos(60_000_000_000 / 7200);
/// A seek to the neighbour.
const SEEK_MIN_NS: f64 = 1e6;
/// So that the mean over all pairs of places is 8 ms: the mean of sqrt(|a - b|) is 8/15.
const SEEK_SPAN_NS: f64 = 7e6 * 15.0 / 8.0;
/// Writes that may be queued.
const QUEUE: usize = 1024;

/// The mechanics, without a clock of its own.
#[derive(Clone, Debug)]
pub struct SeekModel {
    size: u64,
    /// Where the head is when everything before is done.
    head: u64,
    busy_until: Duration,
}

impl SeekModel {
    /// A disk of so many bytes, head at the beginning.
    pub fn new(size: u64) -> SeekModel {
        SeekModel {
            size: size.max(1),
            head: 0,
            busy_until: Duration::ZERO,
        }
    }

    /// When an access that is issued at `now` is done; it begins when all before it are done.
    pub fn access(&mut self, now: Duration, pos: u64, len: u64) -> Duration {
        let begin = self.busy_until.max(now);
        let there = begin.saturating_add(self.seek(pos));
        let turn = TURN.as_nanos() as u64;
        let under_head = (there.as_nanos() % u128::from(turn)) as u64;
        let wanted = pos % TRACK * turn / TRACK;
        let wait = (turn + wanted - under_head) % turn;
        // Long accesses go on in the next track without a new wait: tracks are skewed.
        let transfer = u128::from(len) * u128::from(turn) / u128::from(TRACK);
        let transfer = Duration::from_nanos(u64::try_from(transfer).unwrap_or(u64::MAX));
        // What follows directly is just arriving under the head; rounding must not cost a turn.
        let wait = if turn - wait < 200 { 0 } else { wait };
        self.head = pos.saturating_add(len);
        self.busy_until = there + Duration::from_nanos(wait) + transfer;
        self.busy_until
    }

    fn seek(&self, pos: u64) -> Duration {
        let (from, to) = (self.head / TRACK, pos / TRACK);
        // The head stands at the end of a track, or which is the same, at the beginning of the next.
        if from == to || self.head == pos {
            return Duration::ZERO;
        }
        let part = (self.head.abs_diff(pos) as f64 / self.size as f64).min(1.0);
        Duration::from_nanos((SEEK_MIN_NS + SEEK_SPAN_NS * part.sqrt()) as u64)
    }

    /// When everything that was issued is done.
    pub fn busy_until(&self) -> Duration {
        self.busy_until
    }
}

struct State {
    model: SeekModel,
    /// Ends of the queued accesses.
    queue: VecDeque<Duration>,
}

/// A disk that takes the time the model says.
pub struct SeekDisk {
    inner: Arc<dyn DataDisk>,
    state: Mutex<State>,
    started: Instant,
}

impl SeekDisk {
    /// `size`: bytes of the disk, the longest way of the arm.
    pub fn new(inner: Arc<dyn DataDisk>, size: u64) -> SeekDisk {
        SeekDisk {
            inner,
            state: Mutex::new(State {
                model: SeekModel::new(size),
                queue: VecDeque::new(),
            }),
            started: Instant::now(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until(&self, t: Duration) {
        std::thread::sleep(t.saturating_sub(self.started.elapsed()));
    }

    /// Time that one access takes; returns when it is done. For a peer that works without us on the same model.
    pub fn access_and_wait(&self, pos: u64, len: u64) {
        let done = self.lock().model.access(self.started.elapsed(), pos, len);
        self.wait_until(done);
    }

    fn queue_write(&self, pos: u64, len: u64) {
        let now = self.started.elapsed();
        let room = {
            let mut st = self.lock();
            let done = st.model.access(now, pos, len);
            while st.queue.front().is_some_and(|t| *t <= now) {
                st.queue.pop_front();
            }
            st.queue.push_back(done);
            let over = st.queue.len().saturating_sub(QUEUE);
            over.checked_sub(1).and_then(|i| st.queue.get(i).copied())
        };
        if let Some(t) = room {
            self.wait_until(t);
        }
    }
}

impl DataDisk for SeekDisk {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<()> {
        self.access_and_wait(pos, buf.len() as u64);
        self.inner.read_at(buf, pos)
    }
    /// There is no cache: who must not wait goes another way.
    fn try_read_at(&self, _buf: &mut [u8], _pos: u64) -> io::Result<bool> {
        Ok(false)
    }
    fn write_vectored_at(&self, bufs: &[&[u8]], pos: u64) -> io::Result<()> {
        self.inner.write_vectored_at(bufs, pos)?;
        self.queue_write(pos, bufs.iter().map(|b| b.len() as u64).sum());
        Ok(())
    }
    /// Such disks cannot discard.
    fn zero_at(&self, pos: u64, len: u64) -> io::Result<()> {
        self.inner.zero_at(pos, len)?;
        self.queue_write(pos, len);
        Ok(())
    }
    fn start_writeout(&self, pos: u64, len: u64) {
        self.inner.start_writeout(pos, len);
    }
    fn flush(&self) -> io::Result<()> {
        let done = self.lock().model.busy_until();
        self.wait_until(done);
        self.inner.flush()
    }
    fn forget_cached(&self) {
        self.inner.forget_cached();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 64 << 30;

    fn ms(d: Duration) -> f64 {
        d.as_secs_f64() * 1e3
    }

    #[test]
    fn sequential_runs_at_one_track_per_turn() {
        let mut m = SeekModel::new(SIZE);
        let mut done = Duration::ZERO;
        for i in 0..256 {
            done = m.access(Duration::ZERO, i * (TRACK / 2), TRACK / 2);
        }
        assert!((ms(done) / ms(TURN) - 128.0).abs() < 0.1, "{done:?}");
    }

    #[test]
    fn random_accesses_cost_seek_and_half_a_turn() {
        let mut m = SeekModel::new(SIZE);
        let (mut x, n) = (1_u64, 20_000_u32);
        for _ in 0..n {
            x = x
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            m.access(Duration::ZERO, (x >> 16) % (SIZE / 4096) * 4096, 4096);
        }
        let mean = ms(m.busy_until()) / f64::from(n);
        // 8 ms seek, 4.17 ms for half a turn, 0.03 ms transfer.
        assert!((mean - 12.2).abs() < 0.2, "{mean}");
    }

    #[test]
    fn sorted_accesses_are_cheaper() {
        let mut m = SeekModel::new(SIZE);
        for i in 0..1000 {
            m.access(Duration::ZERO, i * (SIZE / 1000), 4096);
        }
        let mean = ms(m.busy_until()) / 1000.0;
        assert!(mean < 7.0, "{mean}");
    }
}
