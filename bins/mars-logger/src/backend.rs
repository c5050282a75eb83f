//! What the front ends see.
use crate::core::{Answer, Exit, LogStep};
use crate::engine::{Engine, State, errno};
use crate::freeze::What;
use mars_front::{Backend, IoResult, Ticket};
use std::io;
use std::sync::MutexGuard;
use std::sync::atomic::Ordering;

const SECTOR: usize = 512;
/// Larger writes take the lock several times.
const PIECE: usize = 256 << 10;
/// Zero ranges are logged in pieces of this many device bytes (about 3.5 MiB of log per GiB).
const ZERO_PIECE: u64 = 64 << 20;
/// Reads up to this many sectors need no allocation for the map of what is buffered.
const SMALL_READ: usize = 256;
/// The encoding of one request in so many is timed.
const ENCODE_SAMPLE: u64 = 16;
/// How often one thread writes for others before it hands over to the log thread.
const WRITE_ROUNDS: usize = 4;

impl Engine {
    /// Waits until a write may be accepted. What this thread accepted before and did not `kick` yet is committed, so that waiting ends.
    /// `Err`: neither log nor disk takes anything.
    fn wait_room<'a>(
        &'a self,
        mut st: MutexGuard<'a, State>,
    ) -> Result<MutexGuard<'a, State>, i32> {
        while !st.core.has_room() && st.core.exit() != Exit::Now {
            if let Some(code) = st.core.refusal() {
                return Err(code);
            }
            st.core.want_room();
            self.wake(&mut st);
            st = self.wait_for_room(st);
        }
        Ok(st)
    }

    /// Tells the control loop that something happens, once per active period. Call without the lock.
    fn note_activity(&self, was_active: bool) {
        if !was_active {
            self.wake_control();
        }
    }

    /// One write or write-zeroes, in pieces; the answer hangs on the last one. `Err`: new writes are held, nothing was done.
    fn accept(
        &self,
        (pos, len): (u64, u64),
        piece: u64,
        fua: bool,
        ticket: Ticket,
        mut put: impl FnMut(&mut State, u64, u64),
    ) -> Result<(), Ticket> {
        let mut nr = 0;
        let mut answers = Vec::new();
        let mut at = 0;
        let mut ticket = Some(ticket);
        loop {
            let n = piece.min(len - at);
            let mut st = self.lock();
            if !st.core.has_room() {
                st = match self.wait_room(st) {
                    Ok(st) => st,
                    Err(code) => {
                        if at > 0 {
                            let mut st = self.lock();
                            st.hold.finish_in_pieces();
                            self.tell_calm(&st);
                        }
                        answers.extend(ticket.take().map(|tag| Answer {
                            tag,
                            result: Err(code),
                        }));
                        break;
                    }
                };
            }
            if at == 0 {
                if st.hold.is_on()
                    && let Some(ticket) = ticket.take()
                {
                    return Err(ticket);
                }
                nr = self.counters.writes.fetch_add(1, Ordering::Relaxed);
                self.counters.write_bytes.fetch_add(len, Ordering::Relaxed);
                if n < len {
                    st.hold.begin_in_pieces();
                }
            }
            // Looking at the clock costs as much as a small part of what is measured here.
            let begin = nr.is_multiple_of(ENCODE_SAMPLE).then(|| self.now());
            put(&mut st, at, n);
            if let Some(begin) = begin {
                self.stages.encode.add(self.now().saturating_sub(begin));
            }
            let was_first = at == 0;
            at += n;
            if at >= len
                && let Some(t) = ticket.take()
            {
                let place = Some(pos..pos.saturating_add(len));
                st.core.answer_when_safe(fua, place, t, &mut answers);
                if !was_first {
                    st.hold.finish_in_pieces();
                    self.tell_calm(&st);
                }
            }
            self.wake(&mut st);
            let was_active = std::mem::replace(&mut st.active, true);
            drop(st);
            self.note_activity(was_active);
            if ticket.is_none() {
                break;
            }
        }
        self.deliver(&mut answers);
        Ok(())
    }

    /// Accepts a write, or has it held.
    pub(crate) fn put_write(&self, pos: u64, data: &[u8], fua: bool, ticket: Ticket) {
        let mut ticket = ticket;
        loop {
            let (stamp, now) = (self.stamp(), self.now());
            let accepted = self.accept(
                (pos, data.len() as u64),
                PIECE as u64,
                fua,
                ticket,
                |st, at, n| {
                    if let Some(piece) = data.get(at as usize..(at + n) as usize) {
                        st.core.write(pos + at, piece, stamp, now);
                    }
                },
            );
            let Err(back) = accepted else { return };
            match self.park(pos, What::Data(data.into()), fua, back) {
                Some(again) => ticket = again,
                None => return,
            }
        }
    }

    /// Accepts a write-zeroes, or has it held.
    pub(crate) fn put_zeroes(&self, pos: u64, len: u64, fua: bool, ticket: Ticket) {
        let mut ticket = ticket;
        loop {
            let (stamp, now) = (self.stamp(), self.now());
            let accepted = self.accept((pos, len), ZERO_PIECE, fua, ticket, |st, at, n| {
                st.core.write_zeroes(pos + at, n, stamp, now);
            });
            let Err(back) = accepted else { return };
            match self.park(pos, What::Zeroes(len), fua, back) {
                Some(again) => ticket = again,
                None => return,
            }
        }
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

    /// Who reads is told; so are state and journal, once until the disk was written again.
    fn read_failed(&self, e: &io::Error, pos: u64) -> i32 {
        let code = errno(e);
        let mut st = self.lock();
        let is_news = st.core.disk_error() == 0;
        st.core.read_failed(code);
        self.wake(&mut st);
        drop(st);
        if is_news {
            tracing::warn!("reading the disk at {pos}: {e}");
        }
        code
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
            .map_err(|e| self.read_failed(&e, pos))?;
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
        .map_err(|e| self.read_failed(&e, pos))
    }

    fn write(&self, pos: u64, data: &[u8], fua: bool, ticket: Ticket) {
        self.put_write(pos, data, fua, ticket);
    }

    fn write_zeroes(&self, pos: u64, len: u64, fua: bool, ticket: Ticket) {
        self.put_zeroes(pos, len, fua, ticket);
    }

    fn flush(&self, ticket: Ticket) {
        let mut answers = Vec::new();
        let mut st = self.lock();
        st.core.answer_when_safe(true, None, ticket, &mut answers);
        drop(st);
        self.deliver(&mut answers);
    }

    fn kick(&self) {
        let mut answers = Vec::new();
        let mut st = self.lock();
        st.core.commit(&mut answers);
        if !self.strict {
            // The thread that commits writes, unless somebody else does; bounded, the rest goes to the log thread.
            for _ in 0..WRITE_ROUNDS {
                if !st.core.must_write() {
                    break;
                }
                let Some(chunk) = st.core.take_chunk() else {
                    break;
                };
                self.wake(&mut st);
                drop(st);
                st = self.do_log_step(LogStep::Append(chunk), &mut answers);
                if !answers.is_empty() && st.core.must_write() {
                    drop(st);
                    self.deliver(&mut answers);
                    st = self.lock();
                }
            }
        }
        // Alone: nobody else's request has to wait for this one, and no other thread need be woken.
        for _ in 0..2 {
            if !st.core.is_alone() {
                break;
            }
            match st.core.next_log_step() {
                LogStep::Sleep | LogStep::End => break,
                step => {
                    drop(st);
                    st = self.do_log_step(step, &mut answers);
                }
            }
        }
        self.wake(&mut st);
        drop(st);
        self.deliver(&mut answers);
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
