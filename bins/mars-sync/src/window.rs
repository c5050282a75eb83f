//! Which chunks are under way, what may be done with an answer, and how far the gap-free prefix reaches.
//!
//! Plain code, driven by events: it waits for nothing, reads nothing and knows no time. The daemon drives it through
//! [`crate::shared::Shared`], the simulation directly. What a driver has to do:
//!
//! - Asking side: [`Window::next_step`]; on [`Next::Ask`] look up the source's replay position *before* the question goes out, tell
//!   [`Window::asked`], then read the own digests and send the question.
//! - Answering side: [`Window::answered`]; on [`Verdict::Write`] stop replay (the copy lock), look up the own replay position including
//!   its dirty length, ask [`Window::may_write`], write, let replay go on, tell [`Window::written`].
//! - Now and then: [`Window::begin_flush`], flush the disk, [`Window::flushed`]; then [`Window::durable`] is what may be published.
use crate::proto::Chunk;
use std::collections::{BTreeMap, VecDeque};

/// Chunks under way at once.
pub const WINDOW: usize = 16;

/// Position in the logs: number, bytes.
pub type LogPos = (u32, u64);

/// What the asking side does next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// Ask for this chunk.
    Ask(Chunk),
    /// Enough is under way.
    Wait,
    /// Everything is equal, or the window was closed.
    End,
}

/// What is to be done with an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The chunk is equal; nothing is to be done.
    Equal,
    /// Something differs and is to be written, when [`Window::may_write`] allows it.
    Write,
}

/// An answer that nobody asked for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an answer that nobody asked for")]
pub struct Unasked;

/// Where a chunk is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Way {
    /// Handed out, the question has not gone out yet; or it is to be asked again.
    Open,
    /// Asked when the source's replay position was at least this.
    Asked(LogPos),
    /// Its answer is being written.
    Answered,
}

/// The state of one copy of `[from, size)`.
#[derive(Clone, Debug)]
pub struct Window {
    size: u64,
    next: u64,
    under_way: BTreeMap<u64, Way>,
    again: VecDeque<u64>,
    closed: bool,
    flushing: Option<u64>,
    durable: u64,
    equal_blocks: u64,
    different_blocks: u64,
}

impl Window {
    /// For `[from, size)`; what is before `from` is equal and durable.
    pub fn new(from: u64, size: u64) -> Window {
        Window {
            size,
            next: from,
            under_way: BTreeMap::new(),
            again: VecDeque::new(),
            closed: false,
            flushing: None,
            durable: from,
            equal_blocks: 0,
            different_blocks: 0,
        }
    }

    /// The next chunk to ask for. It counts as under way from now on.
    pub fn next_step(&mut self) -> Next {
        if self.closed {
            return Next::End;
        }
        if let Some(pos) = self.again.pop_front() {
            return Next::Ask(Chunk::at(pos, self.size));
        }
        if self.next < self.size {
            if self.under_way.len() >= WINDOW {
                return Next::Wait;
            }
            let chunk = Chunk::at(self.next, self.size);
            self.next = chunk.end();
            self.under_way.insert(chunk.pos, Way::Open);
            return Next::Ask(chunk);
        }
        if self.under_way.is_empty() {
            Next::End
        } else {
            Next::Wait
        }
    }

    /// The question goes out now. `known` is the source's replay position, looked up before: everything in front of it is on the
    /// source's disk, so whatever the source reads for this question is at least as new.
    pub fn asked(&mut self, chunk: Chunk, known: LogPos) {
        if let Some(way) = self.under_way.get_mut(&chunk.pos)
            && *way == Way::Open
        {
            *way = Way::Asked(known);
        }
    }

    /// An answer arrived, with so many different blocks.
    pub fn answered(&mut self, chunk: Chunk, different: u32) -> Result<Verdict, Unasked> {
        let asked = matches!(self.under_way.get(&chunk.pos), Some(Way::Asked(_)));
        if !asked || chunk != Chunk::at(chunk.pos, self.size) {
            return Err(Unasked);
        }
        if different == 0 {
            self.done(chunk, 0);
            return Ok(Verdict::Equal);
        }
        Ok(Verdict::Write)
    }

    /// May the answer be written? `applied` is the end of what replay may have applied here, and replay must not go on before the answer
    /// is on the disk. False when replay is ahead of what the answer is known to contain: a block would go back in time. Then the
    /// chunk is asked for again.
    pub fn may_write(&mut self, chunk: Chunk, applied: LogPos) -> bool {
        let Some(way) = self.under_way.get_mut(&chunk.pos) else {
            return false;
        };
        match *way {
            Way::Asked(known) if applied <= known => {
                *way = Way::Answered;
                true
            }
            Way::Asked(_) => {
                *way = Way::Open;
                self.again.push_back(chunk.pos);
                false
            }
            Way::Open | Way::Answered => false,
        }
    }

    /// The answer is on the disk (not flushed yet).
    pub fn written(&mut self, chunk: Chunk, different: u32) {
        if self.under_way.get(&chunk.pos) == Some(&Way::Answered) {
            self.done(chunk, different);
        }
    }

    fn done(&mut self, chunk: Chunk, different: u32) {
        self.under_way.remove(&chunk.pos);
        self.different_blocks += u64::from(different);
        self.equal_blocks += (chunk.blocks() as u64).saturating_sub(u64::from(different));
    }

    /// End of the gap-free prefix, durable or not.
    pub fn prefix(&self) -> u64 {
        self.under_way.keys().next().copied().unwrap_or(self.next)
    }

    /// Is everything equal (durable or not)?
    pub fn is_equal(&self) -> bool {
        self.prefix() >= self.size
    }

    /// A flush begins: what is equal now will be durable at its end. False when the prefix has not moved since the last one. Also what
    /// was found equal needs a flush: it may be so because of what a killed predecessor or replay left in the page cache.
    pub fn begin_flush(&mut self) -> bool {
        let upto = self.prefix();
        let moved = upto > self.durable;
        self.flushing = moved.then_some(upto);
        moved
    }

    /// How the flush ended. After a failure nothing that was written since the last good one may be called durable any more: only a new
    /// copy from [`Window::durable`] on can go on.
    pub fn flushed(&mut self, ok: bool) {
        match self.flushing.take() {
            Some(upto) if ok => self.durable = self.durable.max(upto),
            Some(_) => self.closed = true,
            None => {}
        }
    }

    /// Equal and durable up to here: where a copy may be continued after any crash.
    pub fn durable(&self) -> u64 {
        self.durable
    }

    /// What this copy has found: blocks that were equal, blocks that were written.
    pub fn blocks(&self) -> (u64, u64) {
        (self.equal_blocks, self.different_blocks)
    }

    /// Ends the asking side.
    pub fn close(&mut self) {
        self.closed = true;
    }
}

#[cfg(test)]
#[path = "window_tests.rs"]
mod tests;
