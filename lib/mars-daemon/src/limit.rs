//! Bounded rates: of lines with the same key only a few pass within a window; of the others the last one and their number are kept.
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Length of a window.
pub(crate) const WINDOW: Duration = Duration::from_secs(30);
/// Keys that are remembered. When there are more at once, the new ones share a key.
const KEYS_MAX: usize = 512;

#[derive(Debug)]
struct Bucket<L> {
    since: Instant,
    passed: u32,
    /// Last line that was held back, how many were, and when.
    held: Option<(L, u64, Instant)>,
}

/// What to do with a line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Write it.
    Pass,
    /// It is kept.
    Held,
    /// It is kept, and nothing else was: somebody has to call [`Limiter::expire`] after [`WINDOW`].
    FirstHeld,
}

/// Counts per key.
#[derive(Debug)]
pub(crate) struct Limiter<L> {
    buckets: HashMap<String, Bucket<L>>,
    /// Somebody will call `expire`.
    flushing: bool,
}

impl<L> Default for Limiter<L> {
    fn default() -> Self {
        Limiter {
            buckets: HashMap::new(),
            flushing: false,
        }
    }
}

impl<L: Clone> Limiter<L> {
    /// Looks at the keys in order; the first whose burst is used up holds the line back.
    pub(crate) fn check<const N: usize>(
        &mut self,
        keys: [(String, u32); N],
        line: &L,
        now: Instant,
    ) -> Verdict {
        for (key, burst) in keys {
            let key = self.place_for(key, now);
            let b = self.buckets.entry(key).or_insert(Bucket {
                since: now,
                passed: 0,
                held: None,
            });
            if b.held.is_none() && now.saturating_duration_since(b.since) >= WINDOW {
                (b.since, b.passed) = (now, 0);
            }
            if b.passed < burst {
                b.passed += 1;
                continue;
            }
            let count = b.held.take().map_or(0, |(_, n, _)| n) + 1;
            b.held = Some((line.clone(), count, now));
            return if std::mem::replace(&mut self.flushing, true) {
                Verdict::Held
            } else {
                Verdict::FirstHeld
            };
        }
        Verdict::Pass
    }

    fn place_for(&mut self, key: String, now: Instant) -> String {
        if self.buckets.contains_key(&key) || self.buckets.len() < KEYS_MAX {
            return key;
        }
        self.buckets
            .retain(|_, b| b.held.is_some() || now.saturating_duration_since(b.since) < WINDOW);
        if self.buckets.len() < KEYS_MAX {
            key
        } else {
            String::new()
        }
    }

    /// Lines whose window is over, with how many each stands for. True: some are still kept, call again after [`WINDOW`].
    pub(crate) fn expire(&mut self, now: Instant) -> (Vec<(L, u64)>, bool) {
        let mut lines = Vec::new();
        for b in self.buckets.values_mut() {
            if now.saturating_duration_since(b.since) < WINDOW {
                continue;
            }
            if let Some(held) = b.held.take() {
                lines.push(held);
                (b.since, b.passed) = (now, u32::MAX);
            }
        }
        // What goes on being held gets one line per window, not a new burst; what came to rest is forgotten.
        let over = |b: &Bucket<L>| now.saturating_duration_since(b.since) >= WINDOW;
        self.buckets.retain(|_, b| b.held.is_some() || !over(b));
        self.flushing = self
            .buckets
            .values()
            .any(|b| b.held.is_some() || b.passed == u32::MAX);
        // In the order in which they were said: the last word on a matter must stay the last.
        lines.sort_by_key(|(_, _, at)| *at);
        let lines = lines.into_iter().map(|(line, count, _)| (line, count));
        (lines.collect(), self.flushing)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn check(l: &mut Limiter<u32>, key: &str, line: u32, now: Instant) -> Verdict {
        l.check([(key.to_string(), 2)], &line, now)
    }

    #[test]
    fn limit_keeps_the_last_line_and_counts() {
        let mut l = Limiter::default();
        let t = Instant::now();
        assert_eq!(check(&mut l, "a", 1, t), Verdict::Pass);
        assert_eq!(check(&mut l, "a", 2, t), Verdict::Pass);
        assert_eq!(check(&mut l, "a", 3, t), Verdict::FirstHeld);
        assert_eq!(check(&mut l, "a", 4, t), Verdict::Held);
        assert_eq!(check(&mut l, "b", 5, t), Verdict::Pass);
        assert_eq!(l.expire(t + WINDOW / 2), (vec![], true));
        assert_eq!(l.expire(t + WINDOW), (vec![(4, 2)], true));
        // The storm goes on: one line per window.
        let t = t + WINDOW;
        assert_eq!(check(&mut l, "a", 6, t), Verdict::Held);
        assert_eq!(check(&mut l, "a", 7, t), Verdict::Held);
        assert_eq!(l.expire(t + WINDOW), (vec![(7, 2)], true));
        // It is over: all is forgotten.
        assert_eq!(l.expire(t + 2 * WINDOW), (vec![], false));
        assert!(l.buckets.is_empty());
        assert_eq!(check(&mut l, "a", 8, t + 2 * WINDOW), Verdict::Pass);
    }

    #[test]
    fn limit_begins_anew_after_a_quiet_window() {
        let mut l = Limiter::default();
        let mut t = Instant::now();
        for _ in 0..5 {
            assert_eq!(check(&mut l, "a", 1, t), Verdict::Pass);
            assert_eq!(check(&mut l, "a", 1, t), Verdict::Pass);
            t += WINDOW;
        }
    }

    #[test]
    fn limit_memory_is_bounded() {
        let mut l = Limiter::default();
        let t = Instant::now();
        for i in 0..10_000 {
            check(&mut l, &i.to_string(), i, t);
        }
        assert!(l.buckets.len() <= KEYS_MAX + 1);
        assert_eq!(
            check(&mut l, "new", 1, t),
            Verdict::Held,
            "the rest shares one key"
        );
        assert_eq!(check(&mut l, "later", 1, t + WINDOW), Verdict::Pass);
    }
}
