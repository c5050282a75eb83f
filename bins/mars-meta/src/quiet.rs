//! One log line per peer and reason, not one per attempt.
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The same line comes again after this time at the earliest.
const AGAIN: Duration = Duration::from_secs(3600);
/// A scanner must not fill memory either.
const ENTRIES_MAX: usize = 512;

/// Remembers what was said.
#[derive(Debug, Default)]
pub struct Quiet {
    said: HashMap<(String, String), Instant>,
}

impl Quiet {
    /// Is this news about `who`? Remembers it.
    pub fn is_news(&mut self, who: &str, what: &str, now: Instant) -> bool {
        let key = (who.to_string(), what.to_string());
        if let Some(at) = self.said.get(&key)
            && now.saturating_duration_since(*at) < AGAIN
        {
            return false;
        }
        if self.said.len() >= ENTRIES_MAX {
            self.said
                .retain(|_, at| now.saturating_duration_since(*at) < AGAIN);
        }
        if self.said.len() >= ENTRIES_MAX {
            // Full of news: silence until the oldest are forgotten.
            return false;
        }
        self.said.insert(key, now);
        true
    }

    /// All is well with `who`: the next trouble is news again.
    pub fn forget(&mut self, who: &str) {
        self.said.retain(|(w, _), _| w != who);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_once_then_again_after_an_hour_or_recovery() {
        let mut q = Quiet::default();
        let t = Instant::now();
        assert!(q.is_news("beta", "refused", t));
        assert!(!q.is_news("beta", "refused", t + Duration::from_secs(10)));
        assert!(q.is_news("beta", "other", t));
        assert!(q.is_news("gamma", "refused", t));
        assert!(q.is_news("beta", "refused", t + AGAIN));
        q.forget("beta");
        assert!(q.is_news("beta", "refused", t + AGAIN));
    }

    #[test]
    fn is_bounded() {
        let mut q = Quiet::default();
        let t = Instant::now();
        let n = (0..10_000)
            .filter(|i| q.is_news(&format!("{i}"), "garbage", t))
            .count();
        assert_eq!(n, ENTRIES_MAX);
        assert!(q.is_news("late", "garbage", t + AGAIN));
    }
}
