//! Waiting for many pages in one thread.
use crate::map::{futex_wait_any, futex_wake_all};
use crate::page::{LivePage, Part};
use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Sections that can be watched at once; the kernel takes 128 words, and one is ours. What is more is not watched.
pub const WATCH_MAX: usize = 127;

type Watched = Vec<(LivePage, Part)>;

/// What is watched. One thread waits, others say for what.
#[derive(Debug, Default)]
pub struct Watch {
    /// Changes when the set does.
    number: AtomicU32,
    set: Mutex<Arc<Watched>>,
}

/// What the waiting thread has seen.
#[derive(Debug, Default)]
pub struct Seen {
    number: Option<u32>,
    set: Arc<Watched>,
    seqs: Vec<u32>,
}

impl Watch {
    /// Watches nothing yet.
    pub fn new() -> Watch {
        Watch::default()
    }

    /// From now on these.
    pub fn set(&self, mut pages: Vec<(LivePage, Part)>) {
        pages.truncate(WATCH_MAX);
        *self.set.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(pages);
        self.poke();
    }

    /// Makes `wait` return.
    pub fn poke(&self) {
        self.number.fetch_add(1, Ordering::SeqCst);
        futex_wake_all(&self.number);
    }

    /// Sleeps until something was published, or until `set` or `poke` was called, since the last call with this `seen`.
    ///
    /// # Errors
    /// ENOSYS on kernels before 5.16.
    pub fn wait(&self, seen: &mut Seen) -> io::Result<()> {
        let number = self.number.load(Ordering::SeqCst);
        if seen.number != Some(number) {
            seen.set = Arc::clone(&self.set.lock().unwrap_or_else(PoisonError::into_inner));
            seen.number = Some(number);
            seen.seqs = seqs(&seen.set);
            return Ok(());
        }
        loop {
            for (page, part) in seen.set.iter() {
                page.cells(*part).1.store(1, Ordering::SeqCst);
            }
            let now = seqs(&seen.set);
            if now != seen.seqs {
                seen.seqs = now;
                return Ok(());
            }
            if self.number.load(Ordering::SeqCst) != number {
                return Ok(());
            }
            let cells = seen
                .set
                .iter()
                .zip(&seen.seqs)
                .map(|((page, part), seq)| (page.cells(*part).0, *seq));
            let cells: Vec<(&AtomicU32, u32)> = std::iter::once((&self.number, number))
                .chain(cells)
                .collect();
            futex_wait_any(&cells)?;
        }
    }
}

fn seqs(set: &Watched) -> Vec<u32> {
    set.iter()
        .map(|(page, part)| page.cells(*part).0.load(Ordering::SeqCst))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{FetchLive, LogLive};
    use std::sync::mpsc;

    #[test]
    fn wakes_for_every_watched_section_and_for_changes_of_the_set() {
        let dir = tempfile::tempdir().unwrap();
        let open = |name: &str| LivePage::open(dir.path(), name).unwrap();
        let watch = Arc::new(Watch::new());
        let (told, tell) = mpsc::channel();
        let waiting = Arc::clone(&watch);
        std::thread::spawn(move || {
            let mut seen = Seen::default();
            while waiting.wait(&mut seen).is_ok() && told.send(seen.seqs.clone()).is_ok() {}
        });
        assert_eq!(tell.recv().unwrap(), [0u32; 0]);
        watch.set(vec![(open("a"), Part::Log), (open("b"), Part::Fetch)]);
        // The set is told once it is taken over.
        while tell.recv().unwrap().len() != 2 {}
        for n in 1..20 {
            open("a").publish(&LogLive::default());
            while tell.recv().unwrap() != [n, n - 1] {}
            // Not watched.
            open("b").publish(&LogLive::default());
            open("b").publish(&FetchLive::default());
            while tell.recv().unwrap() != [n, n] {}
        }
    }
}
