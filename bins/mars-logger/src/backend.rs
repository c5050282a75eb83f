//! What the front ends see.
use crate::engine::{Engine, Exit, State};
use mars_front::{Backend, IoResult, Ticket};
use std::io;
use std::sync::MutexGuard;
use std::sync::PoisonError;
use std::sync::atomic::Ordering;

const SECTOR: usize = 512;
/// Larger writes take the lock several times.
const PIECE: usize = 256 << 10;
/// Zero ranges are logged in pieces of this many device bytes (about 3.5 MiB of log per GiB).
const ZERO_PIECE: u64 = 64 << 20;
/// Reads up to this many sectors need no allocation for the map of what is buffered.
const SMALL_READ: usize = 256;

fn errno(e: &io::Error) -> i32 {
    e.raw_os_error().unwrap_or(libc::EIO)
}

impl Engine {
    /// Waits until a write may be accepted. What this thread accepted before and did not `kick` yet is committed, so that waiting ends.
    fn wait_room<'a>(&'a self, mut st: MutexGuard<'a, State>) -> MutexGuard<'a, State> {
        while (st.paused || !st.core.has_room()) && st.exit != Exit::Now {
            st.core.want_all_durable();
            st.must_write = true;
            self.wake_log(&mut st);
            self.wake_writeback(&mut st);
            st.room_waiters += 1;
            st = self
                .room_cv
                .wait(st)
                .unwrap_or_else(PoisonError::into_inner);
            st.room_waiters -= 1;
        }
        st
    }

    /// Tells the control loop that something happens, once per active period. Call without the lock.
    fn note_activity(&self, was_active: bool) {
        if !was_active {
            self.wake_control();
        }
    }

    /// Wakes the write-back thread when there is reason.
    fn after_accept(&self, st: &mut State, was_empty: bool) {
        if st.core.chunk_len() > crate::core::CHUNK_SOFT && !st.must_write {
            st.must_write = true;
            self.wake_log(st);
        }
        // An empty buffer means that the thread sleeps without a timeout.
        if st.writeback_sleeps && (was_empty || st.core.write_back_due() == crate::core::Due::Now) {
            self.wake_writeback(st);
        }
    }

    /// One write or write-zeroes, in pieces; the answer hangs on the last one.
    fn accept(
        &self,
        len: u64,
        piece: u64,
        fua: bool,
        ticket: Ticket,
        mut put: impl FnMut(&mut State, u64, u64),
    ) {
        self.counters.writes.fetch_add(1, Ordering::Relaxed);
        self.counters.write_bytes.fetch_add(len, Ordering::Relaxed);
        let mut answers = Vec::new();
        let mut at = 0;
        let mut ticket = Some(ticket);
        loop {
            let n = piece.min(len - at);
            let mut st = self.lock();
            if st.paused || !st.core.has_room() {
                st = self.wait_room(st);
            }
            let was_empty = st.core.buffer().current().is_empty();
            put(&mut st, at, n);
            at += n;
            if at >= len
                && let Some(t) = ticket.take()
            {
                st.core.answer_when_safe(fua, t, &mut answers);
            }
            self.after_accept(&mut st, was_empty);
            let was_active = std::mem::replace(&mut st.active, true);
            drop(st);
            self.note_activity(was_active);
            if ticket.is_none() {
                break;
            }
        }
        self.deliver(answers);
    }

    /// Reads what is buffered; calls `rest` for each range that is not, outside the lock.
    fn read_with(
        &self,
        pos: u64,
        buf: &mut [u8],
        mut rest: impl FnMut(&mut [u8], u64) -> io::Result<bool>,
    ) -> io::Result<bool> {
        let sectors = buf.len().div_ceil(SECTOR);
        let mut small = [false; SMALL_READ];
        let mut large = Vec::new();
        let covered = match small.get_mut(..sectors) {
            Some(s) => s,
            None => {
                large.resize(sectors, false);
                large.as_mut_slice()
            }
        };
        {
            let st = self.lock();
            let buffer = st.core.buffer();
            if buffer.is_empty() {
                drop(st);
                return rest(buf, pos);
            }
            // Copied under the lock: what is not covered here has its newest version on the disk, and what comes later may be read or not.
            if buffer.read(pos, buf, Some(&mut *covered)) {
                return Ok(true);
            }
        }
        let mut from = 0;
        while from < sectors {
            let hole = covered.get(from..).unwrap_or_default();
            let skip = hole.iter().take_while(|c| **c).count();
            let gap = hole.iter().skip(skip).take_while(|c| !**c).count();
            let start = (from + skip) * SECTOR;
            let end = ((from + skip + gap) * SECTOR).min(buf.len());
            if let Some(part) = buf.get_mut(start..end).filter(|p| !p.is_empty())
                && !rest(part, pos + start as u64)?
            {
                return Ok(false);
            }
            from += skip + gap;
        }
        Ok(true)
    }

    fn count_read(&self, len: usize) {
        self.counters.reads.fetch_add(1, Ordering::Relaxed);
        self.counters
            .read_bytes
            .fetch_add(len as u64, Ordering::Relaxed);
    }
}

impl Backend for Engine {
    fn size(&self) -> u64 {
        self.size.load(Ordering::Acquire)
    }

    fn volatile_cache(&self) -> bool {
        !self.strict
    }

    fn try_read(&self, pos: u64, buf: &mut [u8]) -> Result<bool, i32> {
        let done = self
            .read_with(pos, buf, |part, at| self.disk.try_read_at(part, at))
            .map_err(|e| errno(&e))?;
        if done {
            self.count_read(buf.len());
        }
        Ok(done)
    }

    fn read(&self, pos: u64, buf: &mut [u8]) -> IoResult {
        self.count_read(buf.len());
        self.read_with(pos, buf, |part, at| {
            self.disk.read_at(part, at).map(|()| true)
        })
        .map(|_| ())
        .map_err(|e| errno(&e))
    }

    fn write(&self, pos: u64, data: &[u8], fua: bool, ticket: Ticket) {
        let (stamp, now) = (self.stamp(), self.now());
        self.accept(data.len() as u64, PIECE as u64, fua, ticket, |st, at, n| {
            if let Some(piece) = data.get(at as usize..(at + n) as usize) {
                st.core.write(pos + at, piece, stamp, now);
            }
        });
    }

    fn write_zeroes(&self, pos: u64, len: u64, fua: bool, ticket: Ticket) {
        let (stamp, now) = (self.stamp(), self.now());
        self.accept(len, ZERO_PIECE, fua, ticket, |st, at, n| {
            st.core.write_zeroes(pos + at, n, stamp, now);
        });
    }

    fn flush(&self, ticket: Ticket) {
        let mut answers = Vec::new();
        let mut st = self.lock();
        st.core.answer_when_safe(true, ticket, &mut answers);
        drop(st);
        self.deliver(answers);
    }

    fn kick(&self) {
        let mut answers = Vec::new();
        let mut st = self.lock();
        st.core.commit(&mut answers);
        if !st.core.is_emergency() {
            if self.strict {
                if st.core.wants_write() || st.core.wants_sync() {
                    self.wake_log(&mut st);
                }
            } else {
                st = self.write_out(st);
                if st.core.wants_sync() {
                    self.wake_log(&mut st);
                }
            }
        }
        drop(st);
        self.deliver(answers);
    }

    fn opened(&self) -> IoResult {
        {
            let mut st = self.lock();
            if st.leaving {
                return Err(libc::ENXIO);
            }
            st.openers += 1;
        }
        self.publish_live();
        self.wake_control();
        Ok(())
    }

    fn closed(&self) {
        {
            let mut st = self.lock();
            st.openers = st.openers.saturating_sub(1);
        }
        self.publish_live();
        self.wake_control();
    }
}
