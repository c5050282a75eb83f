//! Which chunks are under way, and how far the gap-free prefix reaches. Pure but for the waiting.
use crate::proto::Chunk;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Chunks under way at once.
pub const WINDOW: usize = 16;

/// Position in the logs: number, bytes.
pub type LogPos = (u32, u64);

struct State {
    size: u64,
    next: u64,
    /// Sent or to be sent again, by position, with the source's replay position known when it was asked for.
    under_way: BTreeMap<u64, LogPos>,
    again: VecDeque<u64>,
    closed: bool,
}

/// Shared by the sender and the receiver.
pub struct Window {
    state: Mutex<State>,
    changed: Condvar,
}

impl Window {
    /// For `[from, size)`.
    pub fn new(from: u64, size: u64) -> Window {
        Window {
            state: Mutex::new(State {
                size,
                next: from,
                under_way: BTreeMap::new(),
                again: VecDeque::new(),
                closed: false,
            }),
            changed: Condvar::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next chunk to ask for; waits for room. `None` when there is nothing more to do.
    pub fn take(&self) -> Option<Chunk> {
        let mut s = self.lock();
        loop {
            if s.closed {
                return None;
            }
            if let Some(pos) = s.again.pop_front() {
                return Some(Chunk::at(pos, s.size));
            }
            if s.next < s.size && s.under_way.len() < WINDOW {
                let chunk = Chunk::at(s.next, s.size);
                s.next = chunk.end();
                s.under_way.insert(chunk.pos, (0, 0));
                return Some(chunk);
            }
            if s.next >= s.size && s.under_way.is_empty() {
                return None;
            }
            s = self.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Notes the source's replay position that was known before the question went out.
    pub fn asked(&self, chunk: Chunk, known: LogPos) {
        if let Some(k) = self.lock().under_way.get_mut(&chunk.pos) {
            *k = known;
        }
    }

    /// What was noted, when this chunk was asked for at all.
    pub fn expected(&self, chunk: Chunk) -> Option<LogPos> {
        let s = self.lock();
        if chunk != Chunk::at(chunk.pos, s.size) || s.again.contains(&chunk.pos) {
            return None;
        }
        s.under_way.get(&chunk.pos).copied()
    }

    /// The answer was too old: ask again.
    pub fn again(&self, chunk: Chunk) {
        self.lock().again.push_back(chunk.pos);
        self.changed.notify_all();
    }

    /// The chunk is equal now.
    pub fn done(&self, chunk: Chunk) {
        self.lock().under_way.remove(&chunk.pos);
        self.changed.notify_all();
    }

    /// End of the gap-free prefix.
    pub fn prefix(&self) -> u64 {
        let s = self.lock();
        s.under_way.keys().next().copied().unwrap_or(s.next)
    }

    /// Ends the sender.
    pub fn close(&self) {
        self.lock().closed = true;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::proto::CHUNK;

    const C: u64 = CHUNK as u64;

    #[test]
    fn prefix_waits_for_the_oldest() {
        let w = Window::new(0, 3 * C + 512);
        let chunks: Vec<Chunk> = (0..4).map(|_| w.take().unwrap()).collect();
        assert_eq!(chunks[3].len, 512);
        w.done(chunks[1]);
        w.done(chunks[3]);
        assert_eq!(w.prefix(), 0);
        w.again(chunks[0]);
        assert_eq!(w.expected(chunks[0]), None, "not asked again yet");
        assert_eq!(w.take(), Some(chunks[0]));
        w.asked(chunks[0], (3, 7));
        assert_eq!(w.expected(chunks[0]), Some((3, 7)));
        w.done(chunks[0]);
        assert_eq!(w.prefix(), 2 * C);
        w.done(chunks[2]);
        assert_eq!(w.prefix(), 3 * C + 512);
        assert_eq!(w.take(), None);
    }

    #[test]
    fn answers_nobody_asked_for_are_unexpected() {
        let w = Window::new(C, 3 * C);
        let a = w.take().unwrap();
        assert_eq!(a.pos, C);
        assert!(w.expected(a).is_some());
        assert_eq!(w.expected(Chunk { pos: 0, len: 512 }), None);
        assert_eq!(
            w.expected(Chunk {
                pos: C,
                len: CHUNK as u32 - 512
            }),
            None
        );
        w.done(a);
        assert_eq!(w.expected(a), None, "only once");
    }

    #[test]
    fn closing_ends_a_waiting_sender() {
        let w = Window::new(0, 100 * C);
        for _ in 0..WINDOW {
            w.take().unwrap();
        }
        std::thread::scope(|s| {
            let t = s.spawn(|| w.take());
            w.close();
            assert_eq!(t.join().unwrap(), None);
        });
    }
}
