//! The logger as a state machine: what is encoded where, which I/O is to be done next, who may be answered after which event.
//!
//! No I/O, no threads, no clock (time comes in as a duration since some start). Every write to a log or to the disk, every flush and every
//! commit of links is a *step*: [`Core::next_log_step`] and [`Core::next_disk_step`] hand it out, [`Core::log_done`] and
//! [`Core::disk_done`] are told the result. The threads of the engine only carry steps out, and so does a simulation in one thread.
//!
//! Two sides, each with at most one step of a kind under way: the log side (append, sync, change to the next log) and the disk side (links,
//! write-back, cutting the log, resuming). An append and a sync may be under way at the same time.
//!
//! Positions are *sequence offsets*: bytes of log since the start of the engine, over all log files. A [`Segment`] maps them to a log
//! file. `accepted >= written >= durable >= written_back` holds at any time while logging.
mod disk_side;
mod log_side;
mod places;

use disk_side::Frozen;
pub use disk_side::{DiskStep, Due};
pub use log_side::{Chunk, LogStep, SyncJob};
use mars_disk::{DirtyBuffer, Ranges};
use mars_log::{EncodeOptions, MAX_PAYLOAD_V1, MAX_ZERO_RECORD, encode_write, encode_zeroes};
use mars_tree::{LogName, Stamp};
use std::collections::VecDeque;
use std::ops::Range;
use std::time::Duration;

/// Writers wait while more than this is encoded and not yet handed to the kernel.
pub const CHUNK_MAX: usize = 4 << 20;
/// The log side writes without waiting for `commit` when that much is encoded.
pub const CHUNK_SOFT: usize = 1 << 20;
/// Device region that no record crosses.
const REGION: u64 = 65536;
static ZEROS: [u8; MAX_PAYLOAD_V1] = [0; MAX_PAYLOAD_V1];
/// Capacity that an idle engine keeps in its chunk buffers.
const IDLE_CAPACITY: usize = 64 << 10;
/// Write-back begins when nothing was accepted for this part of the age.
const IDLE_PART: u32 = 5;

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

/// A request that may be answered now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<T> {
    /// Which.
    pub tag: T,
    /// `Err` with a positive errno only when its data can be made durable nowhere.
    pub result: Result<(), i32>,
}

/// How a step ended; the error is a positive errno.
pub type StepResult = Result<(), i32>;

/// How the engine ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Exit {
    /// Not at all.
    No,
    /// When everything is written back; on disk errors when it is in the log.
    Drained,
    /// At once, as a crash would (tests).
    Now,
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
    /// Write-back starts early enough that recovery finds about this much log to apply at most.
    pub recovery_limit: u64,
    /// Zeros may be logged as LZ4 records of up to 32256 bytes; otherwise they are logged as data.
    pub zeroes_packed: bool,
}

/// Logging stopped.
#[derive(Clone, Copy, Debug)]
struct Emergency {
    /// End of the valid log.
    cut: u64,
    /// The log is cut and the hole is made: unlogged data may reach the disk.
    is_ready: bool,
}

/// A request that waits until it is durable.
#[derive(Debug)]
struct Waiting<T> {
    /// Sequence offset behind it.
    at: u64,
    /// Where its data are; `None`: it has none (FLUSH).
    place: Option<Range<u64>>,
    tag: T,
}

/// The state. `T` is what is handed back when a request may be answered.
#[derive(Debug)]
pub struct Core<T> {
    config: CoreConfig,
    buffer: DirtyBuffer,
    chunk: Vec<u8>,
    spare: Vec<u8>,
    /// When the oldest record of `chunk` was encoded.
    chunk_since: Duration,
    /// Records of the old log that are not handed to the kernel yet, during a rotation.
    tail: Vec<u8>,
    /// End of the old log, while a rotation waits for it to become durable.
    rotating: Option<u64>,
    /// The log for the next rotation, wanted and not begun.
    next: Option<LogName>,
    seq: u32,
    /// The log before the current one, until everything in it is written back. A second rotation cannot begin before that.
    older: Option<Segment>,
    current: Segment,
    accepted: u64,
    written: u64,
    durable: u64,
    written_back: u64,
    want_durable: u64,
    /// The log side shall write although nobody waits for durability.
    must_write: bool,
    appending: bool,
    appending_bytes: usize,
    syncing: bool,
    switching: bool,
    frozen: Option<Frozen>,
    /// The write-back position moved and is not published yet.
    position_due: bool,
    disk_busy: bool,
    dirty_since: Option<Duration>,
    last_accepted: Duration,
    demand: bool,
    wait_written: VecDeque<(u64, T)>,
    wait_durable: VecDeque<Waiting<T>>,
    /// Of the frozen generation, what the disk did not take when everything else of it was made durable (only without a log).
    stuck: Ranges,
    /// When logging stopped: the places of what was not on the disk then, and the end of what was durable in the log. What the log holds of these
    /// places, recovery would put over what comes to the disk later, until all of it is written back.
    logged: (Ranges, u64),
    emergency: Option<Emergency>,
    /// Logging shall stop for this reason as soon as a rotation under way is over.
    stop_logging: bool,
    /// Logging goes on in this log as soon as everything is on the disk. New writes wait meanwhile.
    resuming: Option<LogName>,
    disk_error: i32,
    /// A place of the disk could not be read; forgotten when a write-back succeeds.
    read_error: i32,
    told_disk_error: i32,
    /// Failures in a row.
    disk_failures: u32,
    /// Not before this is write-back tried again.
    retry_at: Duration,
    pause: Duration,
    /// Bytes of the current log that the page cache need not keep.
    forgotten: u64,
    exit: Exit,
}

impl<T> Core<T> {
    /// Starts at offset 0 of `log`.
    pub fn new(config: CoreConfig, log: LogName) -> Core<T> {
        Core {
            config,
            buffer: DirtyBuffer::new(),
            chunk: Vec::new(),
            spare: Vec::new(),
            chunk_since: Duration::ZERO,
            tail: Vec::new(),
            rotating: None,
            next: None,
            seq: 0,
            older: None,
            current: Segment { log, start: 0 },
            accepted: 0,
            written: 0,
            durable: 0,
            written_back: 0,
            want_durable: 0,
            must_write: false,
            appending: false,
            appending_bytes: 0,
            syncing: false,
            switching: false,
            frozen: None,
            position_due: false,
            disk_busy: false,
            dirty_since: None,
            last_accepted: Duration::ZERO,
            demand: false,
            wait_written: VecDeque::new(),
            wait_durable: VecDeque::new(),
            stuck: Ranges::default(),
            logged: (Ranges::default(), 0),
            emergency: None,
            stop_logging: false,
            resuming: None,
            disk_error: 0,
            read_error: 0,
            told_disk_error: 0,
            disk_failures: 0,
            retry_at: Duration::ZERO,
            pause: Duration::ZERO,
            forgotten: 0,
            exit: Exit::No,
        }
    }

    /// Other settings from now on. How writes are answered stays: the device has been announced with it.
    pub fn reconfigure(&mut self, config: CoreConfig) {
        let strict = self.config.strict;
        self.config = CoreConfig { strict, ..config };
    }

    // ---- accepting -------------------------------------------------------------------------------------------------------

    /// May a write be accepted now? Otherwise the caller calls [`Core::want_room`] and waits until something became durable or was
    /// written back.
    pub fn has_room(&self) -> bool {
        self.resuming.is_none()
            && self.chunk.len() <= CHUNK_MAX
            && self.buffer.memory() + self.log_memory() <= self.config.limit
    }

    /// Memory of what is encoded, as far as it counts against the limit of the buffer: never so much that nothing else has room.
    fn log_memory(&self) -> usize {
        let bytes = self.chunk.capacity() + self.spare.capacity() + self.tail.capacity();
        (bytes + self.appending_bytes).min(self.config.limit / 8)
    }

    /// Somebody waits for room: what was accepted and not committed yet is committed, so that waiting ends.
    pub fn want_room(&mut self) {
        self.want_durable = self.accepted;
        self.must_write = true;
    }

    /// Neither log nor disk takes anything: a write that finds no room is refused with this errno.
    pub fn refusal(&self) -> Option<i32> {
        (self.emergency.is_some() && self.has_given_up()).then_some(self.disk_error)
    }

    /// Encodes and buffers one piece of a write.
    pub fn write(&mut self, pos: u64, data: &[u8], stamp: Stamp, now: Duration) {
        self.buffer.write(pos, data);
        if self.emergency.is_some() {
            self.accepted += data.len() as u64;
        } else {
            self.begin_chunk(now);
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
        self.accepted_something(now);
    }

    /// Encodes and buffers one piece of a write-zeroes.
    pub fn write_zeroes(&mut self, pos: u64, len: u64, stamp: Stamp, now: Duration) {
        self.buffer.write_zeroes(pos, len);
        if self.emergency.is_some() {
            self.accepted += len;
        } else {
            self.begin_chunk(now);
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
        self.accepted_something(now);
    }

    fn begin_chunk(&mut self, now: Duration) {
        if self.chunk.is_empty() {
            self.chunk_since = now;
        }
    }

    fn accepted_something(&mut self, now: Duration) {
        self.dirty_since.get_or_insert(now);
        self.last_accepted = now;
        if self.chunk.len() > CHUNK_SOFT {
            self.must_write = true;
        }
    }

    /// The request that ends here is answered when it is safe: a write by the durability mode, or (`durable`: FUA, FLUSH) when everything
    /// accepted so far is durable. It may come back at once through `out`. `place`: where its data are, `None` for a FLUSH.
    pub fn answer_when_safe(
        &mut self,
        durable: bool,
        place: Option<Range<u64>>,
        tag: T,
        out: &mut Vec<Answer<T>>,
    ) {
        let at = self.accepted;
        if durable || self.config.strict {
            if self.durable >= at && self.stuck.is_empty() {
                out.push(Answer {
                    tag,
                    result: Ok(()),
                });
            } else {
                self.wait_durable.push_back(Waiting { at, place, tag });
                if durable {
                    self.want_durable = at;
                }
            }
        } else if self.written >= at {
            out.push(Answer {
                tag,
                result: Ok(()),
            });
        } else {
            self.wait_written.push_back((at, tag));
        }
    }

    /// The front end has handed over everything: in strict mode all of it shall become durable, otherwise it shall be written.
    pub fn commit(&mut self, out: &mut Vec<Answer<T>>) {
        if self.config.strict {
            self.want_durable = self.accepted;
        } else if self.emergency.is_some() {
            // A volatile cache: what is buffered counts as written.
            self.written = self.accepted;
            self.pop_written(out);
        } else if !self.wait_written.is_empty() {
            self.must_write = true;
        }
    }

    /// Something is to be written that nobody else is writing.
    pub fn must_write(&self) -> bool {
        self.must_write
    }

    /// Everything accepted so far shall become durable.
    pub fn want_all_durable(&mut self) {
        self.want_durable = self.accepted;
    }

    /// Write back without waiting for age or size.
    pub fn demand_write_back(&mut self) {
        self.demand = !self.buffer.current().is_empty();
    }

    /// Says how to end.
    pub fn end(&mut self, how: Exit) {
        self.exit = how;
        self.want_durable = self.accepted;
        self.must_write = true;
        self.demand = true;
    }

    /// How it shall end.
    pub fn exit(&self) -> Exit {
        self.exit
    }

    fn pop_written(&mut self, out: &mut Vec<Answer<T>>) {
        let queue = &mut self.wait_written;
        while queue.front().is_some_and(|(at, _)| *at <= self.written) {
            out.extend(queue.pop_front().map(|(_, tag)| Answer {
                tag,
                result: Ok(()),
            }));
        }
    }

    fn pop_durable(&mut self, out: &mut Vec<Answer<T>>) {
        while self
            .wait_durable
            .front()
            .is_some_and(|w| w.at <= self.durable)
        {
            out.extend(self.wait_durable.pop_front().map(|w| Answer {
                tag: w.tag,
                result: Ok(()),
            }));
        }
    }

    // ---- looking ---------------------------------------------------------------------------------------------------------

    /// The buffer, for reads.
    pub fn buffer(&self) -> &DirtyBuffer {
        &self.buffer
    }

    /// Nothing is buffered, nothing waits to become durable, all positions are published.
    pub fn is_drained(&self) -> bool {
        self.buffer.is_empty()
            && !self.position_due
            && (self.emergency.is_some() || self.durable == self.accepted)
    }

    /// Everything accepted is durable.
    pub fn is_durable(&self) -> bool {
        self.durable == self.accepted && self.stuck.is_empty()
    }

    /// Is everything before this sequence offset on the disk, and that known?
    pub fn is_written_back(&self, offset: u64) -> bool {
        self.written_back >= offset && !self.position_due
    }

    /// Bytes accepted since the start (sequence offset).
    pub fn accepted(&self) -> u64 {
        self.accepted
    }

    /// Everything before is on the disk.
    pub fn write_back_pos(&self) -> LogPos {
        let at = self.valid(self.written_back);
        // The border of two logs belongs to the older one until that is left.
        self.older.as_ref().unwrap_or(&self.current).at(at)
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
        self.writing().at(self.valid(at))
    }

    /// The log that is written now.
    fn writing(&self) -> &Segment {
        match &self.older {
            Some(older) if self.rotating.is_some() => older,
            _ => &self.current,
        }
    }

    /// Nothing behind the cut of an emergency is in a log.
    fn valid(&self, at: u64) -> u64 {
        self.emergency.map_or(at, |e| at.min(e.cut))
    }

    /// Bytes accepted into the newest log.
    pub fn newest_log_len(&self) -> u64 {
        self.accepted - self.current.start
    }

    /// The newest log.
    pub fn newest_log(&self) -> &LogName {
        &self.current.log
    }

    /// Is nothing logged?
    pub fn is_emergency(&self) -> bool {
        self.emergency.is_some()
    }

    /// May logging be resumed (see [`Core::resume`])?
    pub fn may_resume(&self) -> bool {
        self.emergency.is_some_and(|e| e.is_ready) && self.resuming.is_none()
    }

    /// Logging is about to go on.
    pub fn is_resuming(&self) -> bool {
        self.resuming.is_some()
    }

    /// A rotation is wanted or under way.
    pub fn is_rotating(&self) -> bool {
        self.rotating.is_some() || self.next.is_some()
    }

    /// Errno of the data disk, 0 = fine.
    pub fn disk_error(&self) -> i32 {
        if self.disk_error == 0 {
            self.read_error
        } else {
            self.disk_error
        }
    }

    /// Somebody who read the disk got this errno.
    pub fn read_failed(&mut self, code: i32) {
        self.read_error = code;
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

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
