//! The window, shared by the thread that asks and the one that writes. Decides nothing: it locks, and it waits.
use crate::proto::Chunk;
use crate::window::{Next, Window};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// A [`Window`] for two threads.
pub struct Shared {
    window: Mutex<Window>,
    changed: Condvar,
}

impl Shared {
    /// Takes over a window.
    pub fn new(window: Window) -> Shared {
        Shared {
            window: Mutex::new(window),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Window> {
        self.window.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One event, or a look.
    pub fn with<T>(&self, f: impl FnOnce(&mut Window) -> T) -> T {
        let result = f(&mut self.lock());
        self.changed.notify_all();
        result
    }

    /// The next chunk to ask for; waits for room. `None` when there is nothing more to do.
    pub fn take(&self) -> Option<Chunk> {
        let mut w = self.lock();
        loop {
            match w.next_step() {
                Next::Ask(chunk) => return Some(chunk),
                Next::End => return None,
                Next::Wait => w = self.changed.wait(w).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::proto::CHUNK;
    use crate::window::WINDOW;

    #[test]
    fn closing_ends_a_waiting_sender() {
        let w = Shared::new(Window::new(0, 100 * CHUNK as u64));
        for _ in 0..WINDOW {
            w.take().unwrap();
        }
        std::thread::scope(|s| {
            let t = s.spawn(|| w.take());
            w.with(Window::close);
            assert_eq!(t.join().unwrap(), None);
        });
    }
}
