//! Operations and bytes per second.
use std::time::{Duration, Instant};

/// Length of one measuring interval; also the least time between two reports.
const INTERVAL: Duration = Duration::from_secs(2);

/// Counts, and rates over the last full interval.
#[derive(Debug, Default)]
pub struct Rates {
    ops: u64,
    bytes: u64,
    total: u64,
    since: Option<Instant>,
    last: (u64, u64),
}

impl Rates {
    /// Something was done.
    pub fn add(&mut self, ops: u64, bytes: u64) {
        self.ops += ops;
        self.bytes += bytes;
        self.total += bytes;
        self.since.get_or_insert_with(Instant::now);
    }
    /// Bytes since the start.
    pub fn total_bytes(&self) -> u64 {
        self.total
    }
    /// Operations per second and KiB per second over the last interval.
    pub fn current(&self) -> (u64, u64) {
        self.last
    }
    /// Ends the interval when it is over; the new rates when they differ from the last ones.
    pub fn tick(&mut self, now: Instant) -> Option<(u64, u64)> {
        let since = self.since?;
        let spent = now.saturating_duration_since(since);
        if spent < INTERVAL {
            return None;
        }
        let per_second =
            |n: u64| u64::try_from(u128::from(n) * 1000 / spent.as_millis().max(1)).unwrap_or(0);
        let rates = (per_second(self.ops), per_second(self.bytes / 1024));
        (self.ops, self.bytes) = (0, 0);
        // Idle ends the measuring; the next operation starts it again.
        self.since = (rates != (0, 0)).then_some(now);
        let changed = rates != self.last;
        self.last = rates;
        changed.then_some(rates)
    }
    /// How long until [`Rates::tick`] has something to do; `None` when idle.
    pub fn next_tick(&self, now: Instant) -> Option<Duration> {
        let end = self.since? + INTERVAL;
        Some(end.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn rates_fall_to_zero_once_and_then_rest() {
        let mut r = Rates::default();
        assert_eq!(r.next_tick(Instant::now()), None);
        r.add(4, 8192);
        let t = Instant::now();
        assert_eq!(r.tick(t), None);
        assert_eq!(r.tick(t + Duration::from_secs(3)).map(|r| r.0), Some(1));
        assert_eq!(r.tick(t + Duration::from_secs(6)), Some((0, 0)));
        assert_eq!(r.next_tick(t), None);
        assert_eq!(r.total_bytes(), 8192);
    }
}
