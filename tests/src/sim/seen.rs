//! Which states were checked already: the same bits again prove nothing new.
use super::past::Wreck;
use crate::stamp::{Sector, mix};
use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::{Mutex, PoisonError};

/// Digests of all states of a run, by all threads. (Of a million states two different ones have the same digest with a chance of 1 in 37 million.)
#[derive(Debug, Default)]
pub struct Seen(Mutex<HashSet<u64>>);

impl Seen {
    /// Notes it.
    pub fn is_new(&self, digest: u64) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.insert(digest)
    }
}

impl Wreck {
    /// Of everything: disk, logs, links.
    pub fn digest(&self) -> u64 {
        let code = |s: &Sector| match *s {
            Sector::Zero => 0,
            Sector::Stamped(seq) => seq,
            Sector::Torn => u64::MAX,
        };
        let disk = (1..).zip(&self.disk).fold(0u64, |sum, (nr, sector)| {
            sum.wrapping_add(mix(mix(nr).wrapping_add(code(sector))))
        });
        let mut h = DefaultHasher::new();
        (self.disk.len(), disk).hash(&mut h);
        for (name, found) in &self.logs {
            (name.nr, found.bytes.len(), found.digest).hash(&mut h);
        }
        self.links.hash(&mut h);
        h.finish()
    }
}
