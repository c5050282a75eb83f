//! The decisions of the logger: what is encoded where, who may be answered after which event, what is written back when.
//!
//! No I/O, no threads, no clock (time comes in as a duration since some start). The engine around it does what it says and
//! reports what happened; a simulation can drive it the same way.
//!
//! Positions are *sequence offsets*: bytes of log since the start of the engine, over all log files. A [`Segment`] maps them to a log
//! file. `accepted >= written >= durable >= written_back` holds at any time while logging.
use mars_disk::{DirtyBuffer, Generation};
use mars_log::{EncodeOptions, MAX_PAYLOAD_V1, MAX_ZERO_RECORD, encode_write, encode_zeroes};
use mars_tree::{LogName, Stamp};
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

/// Writers wait while more than this is encoded and not yet handed to the kernel.
pub const CHUNK_MAX: usize = 4 << 20;
/// The log thread is woken without waiting for `kick` when that much is encoded.
pub const CHUNK_SOFT: usize = 1 << 20;
/// A generation is written back at the latest when it covers that much log, so that recovery stays short.
const GENERATION_LOG_MAX: u64 = 256 << 20;
/// Device region that no record crosses.
const REGION: u64 = 65536;
static ZEROS: [u8; MAX_PAYLOAD_V1] = [0; MAX_PAYLOAD_V1];
/// Capacity that an idle engine keeps in its chunk buffers.
const IDLE_CAPACITY: usize = 64 << 10;

/// A log file's place in the sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Segment {
    log: LogName,
    start: u64,
}

impl Segment {
    fn at(&self, offset: u64) -> LogPos {
        LogPos {
            log: self.log.clone(),
            pos: offset.saturating_sub(self.start),
        }
    }
}

/// A position in a log file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogPos {
    /// The file.
    pub log: LogName,
    /// Byte offset in it.
    pub pos: u64,
}

/// Encoded records on their way to the kernel.
#[derive(Debug)]
pub struct Chunk {
    /// The bytes.
    pub bytes: Vec<u8>,
    end: u64,
}

/// A frozen generation on its way to the disk.
#[derive(Debug)]
pub struct WriteBack {
    /// What to write.
    pub generation: Arc<Generation>,
    /// Everything before is on the disk.
    pub from: LogPos,
    /// Log bytes that the generation covers.
    pub dirty: u64,
    end: u64,
}

/// When to write back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// At once.
    Now,
    /// At this time, if nothing happens before.
    At(Duration),
    /// When something is written.
    Never,
}

/// Settings.
#[derive(Clone, Debug)]
pub struct CoreConfig {
    /// Answer writes only when they are durable.
    pub strict: bool,
    /// Limit of the dirty buffer in bytes.
    pub limit: usize,
    /// How records are encoded.
    pub encode: EncodeOptions,
    /// Write-back starts at this age at the latest.
    pub age: Duration,
    /// Zeros may be logged as LZ4 records of up to 32256 bytes; otherwise they are logged as data.
    pub zeroes_packed: bool,
}

/// The state. `T` is what is handed back when a request may be answered.
#[derive(Debug)]
pub struct Core<T> {
    config: CoreConfig,
    buffer: DirtyBuffer,
    chunk: Vec<u8>,
    spare: Vec<u8>,
    /// Records of the old log, while a rotation waits for them to become durable.
    tail: Vec<u8>,
    rotating: Option<u64>,
    seq: u32,
    /// The log before the current one, until everything in it is written back. A second rotation cannot begin before that.
    older: Option<Segment>,
    current: Segment,
    accepted: u64,
    written: u64,
    durable: u64,
    written_back: u64,
    want_durable: u64,
    frozen_end: Option<u64>,
    dirty_since: Option<Duration>,
    demand: bool,
    wait_written: VecDeque<(u64, T)>,
    wait_durable: VecDeque<(u64, T)>,
    /// Set while nothing is logged: end of the valid log.
    emergency: Option<u64>,
}

impl<T> Core<T> {
    /// Starts at offset 0 of `log`.
    pub fn new(config: CoreConfig, log: LogName) -> Core<T> {
        Core {
            config,
            buffer: DirtyBuffer::new(),
            chunk: Vec::new(),
            spare: Vec::new(),
            tail: Vec::new(),
            rotating: None,
            seq: 0,
            older: None,
            current: Segment { log, start: 0 },
            accepted: 0,
            written: 0,
            durable: 0,
            written_back: 0,
            want_durable: 0,
            frozen_end: None,
            dirty_since: None,
            demand: false,
            wait_written: VecDeque::new(),
            wait_durable: VecDeque::new(),
            emergency: None,
        }
    }

    // ---- accepting -------------------------------------------------------------------------------------------------------

    /// May a write be accepted now? Otherwise the caller waits until something became durable or was written back.
    pub fn has_room(&self) -> bool {
        self.chunk.len() <= CHUNK_MAX && self.buffer.memory() <= self.config.limit
    }

    /// Encodes and buffers one piece of a write.
    pub fn write(&mut self, pos: u64, data: &[u8], stamp: Stamp, now: Duration) {
        self.buffer.write(pos, data);
        if self.emergency.is_some() {
            self.accepted += data.len() as u64;
        } else {
            let mut at = pos;
            let mut rest = data;
            while !rest.is_empty() {
                // Cutting at page borders keeps every record inside a 64 KiB region as well.
                let n = MAX_PAYLOAD_V1 - (at % MAX_PAYLOAD_V1 as u64) as usize;
                let (piece, tail) = rest.split_at(n.min(rest.len()));
                self.seq = self.seq.wrapping_add(1);
                let encode = &self.config.encode;
                let len = encode_write(&mut self.chunk, at, piece, stamp, self.seq, encode);
                self.accepted += len as u64;
                at += piece.len() as u64;
                rest = tail;
            }
        }
        self.dirty_since.get_or_insert(now);
    }

    /// Encodes and buffers one piece of a write-zeroes.
    pub fn write_zeroes(&mut self, pos: u64, len: u64, stamp: Stamp, now: Duration) {
        self.buffer.write_zeroes(pos, len);
        if self.emergency.is_some() {
            self.accepted += len;
        } else {
            let end = pos.saturating_add(len);
            let mut at = pos;
            while at < end {
                let region = REGION - at % REGION;
                self.seq = self.seq.wrapping_add(1);
                let (seq, encode) = (self.seq, &self.config.encode);
                let (n, done) = if self.config.zeroes_packed {
                    let n = (end - at).min(region).min(MAX_ZERO_RECORD as u64);
                    let len = n as usize;
                    let done = encode_zeroes(&mut self.chunk, at, len, stamp, seq, encode);
                    (n, done)
                } else {
                    let page = MAX_PAYLOAD_V1 as u64;
                    let n = (end - at).min(page - at % page);
                    let data = ZEROS.get(..n as usize).unwrap_or(&ZEROS);
                    (
                        n,
                        encode_write(&mut self.chunk, at, data, stamp, seq, encode),
                    )
                };
                self.accepted += done as u64;
                at += n;
            }
        }
        self.dirty_since.get_or_insert(now);
    }

    /// The request that ends here is answered when it is safe: a write by the durability mode, or (`durable`: FUA, FLUSH) when everything
    /// accepted so far is durable. It may come back at once through `out`.
    pub fn answer_when_safe(&mut self, durable: bool, tag: T, out: &mut Vec<T>) {
        let at = self.accepted;
        if durable || self.config.strict {
            if self.durable >= at {
                out.push(tag);
            } else {
                self.wait_durable.push_back((at, tag));
                if durable {
                    self.want_durable = at;
                }
            }
        } else if self.written >= at {
            out.push(tag);
        } else {
            self.wait_written.push_back((at, tag));
        }
    }

    /// The front end has handed over everything: in strict mode all of it shall become durable.
    pub fn commit(&mut self, out: &mut Vec<T>) {
        if self.config.strict {
            self.want_durable = self.accepted;
        } else if self.emergency.is_some() {
            // A volatile cache: what is buffered counts as written.
            self.written = self.accepted;
            self.pop_written(out);
        }
    }

    /// Everything accepted so far shall become durable.
    pub fn want_all_durable(&mut self) {
        self.want_durable = self.accepted;
    }

    // ---- logging ---------------------------------------------------------------------------------------------------------

    /// Bytes encoded and not yet taken (of the current log).
    pub fn chunk_len(&self) -> usize {
        self.chunk.len()
    }

    /// Somebody waits for durability of more than what was handed to the kernel.
    pub fn wants_write(&self) -> bool {
        self.emergency.is_none() && self.want_durable > self.written && !self.chunk.is_empty()
    }

    /// Somebody waits for an fdatasync that would help.
    pub fn wants_sync(&self) -> bool {
        self.emergency.is_none() && self.want_durable > self.durable && self.written > self.durable
    }

    /// Takes what is to be appended to the current log. Nothing while a rotation is under way.
    pub fn take_chunk(&mut self) -> Option<Chunk> {
        if self.chunk.is_empty() || self.rotating.is_some() || self.emergency.is_some() {
            return None;
        }
        let bytes = std::mem::replace(&mut self.chunk, std::mem::take(&mut self.spare));
        Some(Chunk {
            bytes,
            end: self.accepted,
        })
    }

    /// The chunk was appended.
    pub fn appended(&mut self, chunk: Chunk, out: &mut Vec<T>) {
        let Chunk { mut bytes, end } = chunk;
        bytes.clear();
        if self.spare.capacity() < bytes.capacity() {
            self.spare = bytes;
        }
        if self.emergency.is_none() {
            self.written = self.written.max(end);
            self.pop_written(out);
        }
    }

    /// What an fdatasync that starts now will make durable.
    pub fn sync_target(&self) -> u64 {
        self.written
    }

    /// An fdatasync that started when `sync_target` was `target` succeeded.
    pub fn synced(&mut self, target: u64, out: &mut Vec<T>) {
        if self.emergency.is_none() {
            self.durable = self.durable.max(target);
            self.pop_durable(out);
        }
    }

    fn pop_written(&mut self, out: &mut Vec<T>) {
        pop_until(&mut self.wait_written, self.written, out);
    }

    fn pop_durable(&mut self, out: &mut Vec<T>) {
        pop_until(&mut self.wait_durable, self.durable, out);
    }

    // ---- write-back ------------------------------------------------------------------------------------------------------

    /// Write back without waiting for age or size.
    pub fn demand_write_back(&mut self) {
        self.demand = true;
    }

    /// When should the current generation be frozen?
    pub fn write_back_due(&self) -> Due {
        let current = self.buffer.current();
        if self.buffer.is_freezing() || current.is_empty() || self.rotating.is_some() {
            return Due::Never;
        }
        let start = self.written_back;
        if self.demand
            || self.emergency.is_some()
            || current.memory() > self.config.limit / 2
            || self.accepted - start > GENERATION_LOG_MAX
        {
            return Due::Now;
        }
        match self.dirty_since {
            Some(t) => Due::At(t.saturating_add(self.config.age)),
            None => Due::Now,
        }
    }

    /// Freezes the current generation; not during a rotation, when its log is not the one of the write-back position. It may be written as soon as [`Core::may_write_back`].
    pub fn freeze(&mut self) -> Option<WriteBack> {
        if self.rotating.is_some() {
            return None;
        }
        let generation = self.buffer.freeze()?;
        self.dirty_since = None;
        self.demand = false;
        let end = self.accepted;
        self.want_durable = end;
        self.frozen_end = Some(end);
        let from = self.write_back_pos();
        let valid_end = self.emergency.map_or(end, |cut| end.min(cut));
        Some(WriteBack {
            generation,
            from,
            dirty: valid_end.saturating_sub(self.written_back),
            end,
        })
    }

    /// The frozen generation is durable in the log (or there is no log any more).
    pub fn may_write_back(&self) -> bool {
        self.emergency.is_some() || self.frozen_end.is_none_or(|end| self.durable >= end)
    }

    /// A frozen generation exists and may be written.
    pub fn frozen_is_ready(&self) -> bool {
        self.frozen_end.is_some() && self.may_write_back()
    }

    /// The frozen generation is on the disk and flushed.
    pub fn wrote_back(&mut self, w: WriteBack, out: &mut Vec<T>) {
        self.frozen_end = None;
        self.written_back = w.end;
        if self.emergency.is_some() {
            self.durable = self.durable.max(w.end);
            self.written = self.written.max(w.end);
            self.pop_written(out);
            self.pop_durable(out);
        }
        self.leave_older();
        self.buffer.release_frozen();
        if let Some(generation) = Arc::into_inner(w.generation) {
            self.buffer.recycle(generation, self.config.limit / 2);
        }
    }

    fn leave_older(&mut self) {
        if self.rotating.is_none() && self.written_back >= self.current.start {
            self.older = None;
        }
    }

    /// Is there a generation that is, or is about to be, on its way to the disk?
    pub fn is_freezing(&self) -> bool {
        self.buffer.is_freezing()
    }

    /// Everything before is on the disk.
    pub fn write_back_pos(&self) -> LogPos {
        let at = self
            .emergency
            .map_or(self.written_back, |cut| self.written_back.min(cut));
        // The border of two logs belongs to the older one until that is left.
        self.older.as_ref().unwrap_or(&self.current).at(at)
    }

    // ---- rotation --------------------------------------------------------------------------------------------------------

    /// A rotation may begin only between two generations: a generation that covered two logs could not be described by one replay link.
    pub fn may_rotate(&self) -> bool {
        !self.buffer.is_freezing() && self.rotating.is_none() && self.emergency.is_none()
    }

    /// From now on records go to `next`. Freezes the current generation, if there is anything in it.
    pub fn begin_rotation(&mut self, next: LogName) -> Option<WriteBack> {
        let w = self.freeze();
        let next = Segment {
            log: next,
            start: self.accepted,
        };
        self.older = Some(std::mem::replace(&mut self.current, next));
        self.tail = std::mem::take(&mut self.chunk);
        self.seq = 0;
        self.rotating = Some(self.accepted);
        w
    }

    /// A rotation waits for the old log to be finished.
    pub fn is_rotating(&self) -> bool {
        self.rotating.is_some()
    }

    /// The rest of the old log.
    pub fn take_tail(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.tail)
    }

    /// Old log and its final length, new log.
    pub fn rotation(&self) -> Option<(LogPos, LogName)> {
        let boundary = self.rotating?;
        let old = self.older.as_ref()?;
        Some((old.at(boundary), self.current.log.clone()))
    }

    /// The old log is complete and durable, the new one is open.
    pub fn rotated(&mut self, out: &mut Vec<T>) {
        if let Some(boundary) = self.rotating.take() {
            self.written = self.written.max(boundary);
            self.durable = self.durable.max(boundary);
            self.pop_written(out);
            self.pop_durable(out);
            self.leave_older();
        }
    }

    // ---- emergency -------------------------------------------------------------------------------------------------------

    /// Logging is impossible. Nothing that is not durable yet will become so through the log; everything goes to the disk from now on, and is
    /// answered from there. Returns the end of the valid log.
    pub fn enter_emergency(&mut self) -> LogPos {
        self.emergency = Some(self.durable);
        self.rotating = None;
        self.tail = Vec::new();
        self.chunk = Vec::new();
        self.spare = Vec::new();
        // A new log in which nothing is durable does not count.
        if self.durable <= self.current.start
            && let Some(older) = self.older.take()
        {
            self.current = older;
        }
        self.current.at(self.durable)
    }

    /// Is nothing logged?
    pub fn is_emergency(&self) -> bool {
        self.emergency.is_some()
    }

    /// Logging goes on in `log`. Only when the buffer is empty and nobody waits.
    pub fn leave_emergency(&mut self, log: LogName) {
        debug_assert!(self.buffer.is_empty());
        self.emergency = None;
        self.seq = 0;
        self.written = self.accepted;
        self.durable = self.accepted;
        self.written_back = self.accepted;
        self.older = None;
        self.current = Segment {
            log,
            start: self.accepted,
        };
    }

    // ---- looking ---------------------------------------------------------------------------------------------------------

    /// The buffer, for reads.
    pub fn buffer(&self) -> &DirtyBuffer {
        &self.buffer
    }

    /// Nothing is buffered, nothing waits to become durable.
    pub fn is_drained(&self) -> bool {
        self.buffer.is_empty() && (self.emergency.is_some() || self.durable == self.accepted)
    }

    /// Everything accepted is durable.
    pub fn is_durable(&self) -> bool {
        self.durable == self.accepted
    }

    /// Bytes accepted since the start (sequence offset).
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// The log that records become durable in, with its durable length. While a rotation is under way this is the old log.
    pub fn durable_pos(&self) -> LogPos {
        self.newest(self.durable)
    }

    /// The same for bytes handed to the kernel.
    pub fn written_pos(&self) -> LogPos {
        self.newest(self.written)
    }

    fn newest(&self, at: u64) -> LogPos {
        let at = self.emergency.map_or(at, |cut| at.min(cut));
        match &self.older {
            Some(older) if self.rotating.is_some() => older.at(at),
            _ => self.current.at(at),
        }
    }

    /// Bytes accepted into the newest log.
    pub fn newest_log_len(&self) -> u64 {
        self.accepted - self.current.start
    }

    /// The newest log.
    pub fn newest_log(&self) -> &LogName {
        &self.current.log
    }

    /// Requests that wait for an answer.
    pub fn waiting(&self) -> usize {
        self.wait_written.len() + self.wait_durable.len()
    }

    /// Gives memory back; called when idle.
    pub fn shrink(&mut self) {
        self.buffer.shrink();
        for buffer in [&mut self.chunk, &mut self.spare, &mut self.tail] {
            if buffer.is_empty() && buffer.capacity() > IDLE_CAPACITY {
                *buffer = Vec::new();
            }
        }
    }
}

fn pop_until<T>(queue: &mut VecDeque<(u64, T)>, reached: u64, out: &mut Vec<T>) {
    while queue.front().is_some_and(|(at, _)| *at <= reached) {
        out.extend(queue.pop_front().map(|(_, tag)| tag));
    }
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
