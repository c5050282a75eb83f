//! Load on a device that dies again and again: several connections, many requests in flight, all kinds of writes; every answer is remembered
//! in a [`Trace`], every read is checked, and after each death the device is compared with everything that was acknowledged.
use crate::nbd::{Cmd, FUA, Nbd};
use crate::rng::Rng;
use crate::stamp;
use crate::trace::{Trace, Violation};
use std::collections::HashMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard};
use std::time::{Duration, Instant};

const SECTOR: u64 = stamp::SECTOR as u64;
/// Largest request.
const LEN_MAX: u64 = 1 << 20;
/// Recently written ranges that new requests like to overlap.
const RECENT: usize = 16;

/// So much is sent at once, in time at the planned rate.
const BURST: Duration = Duration::from_millis(300);

/// What load.
#[derive(Clone, Debug)]
pub struct LoadPlan {
    /// NBD socket.
    pub socket: PathBuf,
    /// Export.
    pub export: String,
    /// Connections ("writers").
    pub connections: usize,
    /// Requests in flight per connection.
    pub depth: usize,
    /// Bytes per second over all, roughly: bounds the size of the logs.
    pub rate: u64,
    /// Nothing happens for so long: a hang.
    pub patience: Duration,
}

/// What was done.
#[derive(Clone, Copy, Debug, Default)]
pub struct LoadReport {
    /// Writes acknowledged (all kinds).
    pub acked: u64,
    /// Bytes of them.
    pub bytes: u64,
    /// Reads checked.
    pub reads: u64,
    /// Flushes acknowledged.
    pub flushes: u64,
    /// Lost connections: the logger died.
    pub deaths: u64,
    /// Sectors of requests in flight at a death that were there afterwards, and that were not.
    pub unknown: (u64, u64),
}

#[derive(Debug)]
struct Pending {
    connection: usize,
    cmd: Cmd,
    pos: u64,
    len: u64,
    /// Its number when it writes.
    seq: u64,
}

struct State {
    trace: Trace,
    pending: HashMap<u64, Pending>,
    next_cookie: u64,
    recent: Vec<(u64, u64)>,
    report: LoadReport,
    failure: Option<String>,
    /// When everything sent so far would have been sent at the planned rate.
    due: Instant,
    /// Sending as fast as possible, until `due` is too far ahead; then nothing until it is reached.
    burst: bool,
}

/// Load and its memory. Shared between the threads that run it and those that check disks.
pub struct Load {
    plan: LoadPlan,
    state: Mutex<State>,
    changed: Condvar,
    stop: AtomicBool,
}

/// How a session ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    Stopped,
    Lost,
}

impl Load {
    /// For a device of `size` bytes that is stamped with 1 all over.
    pub fn new(plan: LoadPlan, size: u64) -> Load {
        let state = State {
            trace: Trace::new(size),
            pending: HashMap::new(),
            next_cookie: 1,
            recent: Vec::new(),
            report: LoadReport::default(),
            failure: None,
            due: Instant::now(),
            burst: true,
        };
        Load {
            plan,
            state: Mutex::new(state),
            changed: Condvar::new(),
            stop: AtomicBool::new(false),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // The thread that panicked fails the test; the others only need to end.
        self.state.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Looks at what is known so far.
    pub fn with_trace<R>(&self, f: impl FnOnce(&Trace) -> R) -> R {
        f(&self.lock().trace)
    }

    /// What was done so far.
    pub fn report(&self) -> LoadReport {
        self.lock().report
    }

    /// Waits until there are requests in flight, but not long: returns at once in a burst, and after a while in any case.
    pub fn wait_busy(&self, limit: Duration) {
        let end = Instant::now() + limit;
        while self.lock().pending.is_empty() && Instant::now() < end {
            std::thread::yield_now();
        }
    }

    /// Everything in flight is waited for, then the load ends.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
        self.changed.notify_all();
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    /// Runs until [`Load::stop`]. An error is a violation of what the device promises.
    pub fn run(&self, rng: &Rng) -> Result<LoadReport, String> {
        for round in 0.. {
            let connections = self.connect(round == 0)?;
            let sessions = std::thread::scope(|s| {
                let all: Vec<_> = connections
                    .iter()
                    .enumerate()
                    .map(|(n, nbd)| {
                        let mut rng = rng.fork(round * 100 + n as u64);
                        let all = &connections;
                        s.spawn(move || {
                            let ended = self.session(nbd, n, &mut rng);
                            if ended == Ended::Lost {
                                // The process behind them is dead; the others need not wait to notice.
                                all.iter().for_each(Nbd::close);
                            }
                            ended
                        })
                    })
                    .collect();
                all.into_iter()
                    .map(|t| t.join().expect("session"))
                    .collect::<Vec<_>>()
            });
            drop(connections);
            let mut st = self.lock();
            if let Some(f) = st.failure.take() {
                return Err(f);
            }
            if sessions.iter().all(|e| *e == Ended::Stopped) {
                return Ok(st.report);
            }
            st.report.deaths += 1;
            st.pending.clear();
        }
        unreachable!("rounds are unlimited")
    }

    /// Waits for the device, and settles what the last death left open.
    fn connect(&self, first: bool) -> Result<Vec<Nbd>, String> {
        let end = Instant::now() + self.plan.patience;
        loop {
            match self.try_connect(first) {
                Ok(Ok(all)) => return Ok(all),
                Ok(Err(v)) => return Err(v.to_string()),
                // Not there yet, or killed again while it was looked at.
                Err(e) if Instant::now() > end => {
                    return Err(format!("the device does not come back: {e}"));
                }
                Err(_) => std::thread::sleep(Duration::from_millis(20)),
            }
        }
    }

    fn try_connect(&self, first: bool) -> io::Result<Result<Vec<Nbd>, Violation>> {
        let plan = &self.plan;
        let mut all = Vec::new();
        for _ in 0..plan.connections {
            all.push(Nbd::connect(&plan.socket, &plan.export, plan.patience)?);
        }
        let mut st = self.lock();
        assert_eq!(all[0].size, st.trace.size(), "size of the device");
        if !first {
            match st.trace.settle(&mut |pos, buf| all[0].read_at(buf, pos))? {
                Ok((there, gone)) => {
                    st.report.unknown.0 += there;
                    st.report.unknown.1 += gone;
                }
                Err(v) => return Ok(Err(v)),
            }
        }
        Ok(Ok(all))
    }

    fn session(&self, nbd: &Nbd, connection: usize, rng: &mut Rng) -> Ended {
        std::thread::scope(|s| {
            let receiver = s.spawn(|| {
                let result = self.receive(nbd);
                self.changed.notify_all();
                result
            });
            let sent = self.send(nbd, connection, rng, &|| receiver.is_finished());
            nbd.close();
            let received = receiver.join().expect("receiver");
            match (sent, received) {
                (Ended::Stopped, Ok(())) => Ended::Stopped,
                _ => Ended::Lost,
            }
        })
    }

    fn fail(&self, why: String) {
        let mut st = self.lock();
        st.failure.get_or_insert(why);
        self.stop();
    }

    /// Sends until told to stop; then a last flush.
    fn send(&self, nbd: &Nbd, connection: usize, rng: &mut Rng, dead: &dyn Fn() -> bool) -> Ended {
        let mut data = vec![0; LEN_MAX as usize];
        loop {
            let mut st = self.lock();
            let mine = |st: &State| {
                let own = st.pending.values().filter(|p| p.connection == connection);
                own.count()
            };
            let since = Instant::now();
            loop {
                let n = mine(&st);
                if dead() {
                    return Ended::Lost;
                }
                if self.stopping() && n == 0 {
                    drop(st);
                    return match nbd.send(Cmd::Disconnect, 0, 0, 0, 0, &[]) {
                        Ok(()) => Ended::Stopped,
                        Err(_) => Ended::Lost,
                    };
                }
                let wait = st.pause();
                if !self.stopping() && n < self.plan.depth && wait.is_zero() {
                    break;
                }
                if n > 0 && since.elapsed() > self.plan.patience {
                    let p = format!("no answer for {:?}: {:?}", since.elapsed(), st.pending);
                    drop(st);
                    self.fail(p);
                    return Ended::Lost;
                }
                let wait = if wait.is_zero() {
                    Duration::from_millis(500)
                } else {
                    wait.min(Duration::from_millis(500))
                };
                st = self
                    .changed
                    .wait_timeout(st, wait)
                    .unwrap_or_else(|e| e.into_inner())
                    .0;
            }
            let Some((cookie, p)) = choose(&mut st, connection, rng) else {
                // Everything that was tried is busy: until the next answer.
                let short = Duration::from_millis(1);
                drop(self.changed.wait_timeout(st, short));
                continue;
            };
            let cost = p.1.len.max(4096) as f64 / self.plan.rate as f64;
            st.due = st.due.max(Instant::now()) + Duration::from_secs_f64(cost);
            drop(st);
            let payload: &[u8] = if p.1.cmd == Cmd::Write {
                let buf = &mut data[..p.1.len as usize];
                stamp::fill(buf, p.1.pos, p.1.seq);
                buf
            } else {
                &[]
            };
            let Request { cmd, pos, len, .. } = p.1;
            if nbd
                .send(cmd, p.0, cookie, pos, len as u32, payload)
                .is_err()
            {
                return Ended::Lost;
            }
        }
    }

    /// Takes answers until the connection ends.
    fn receive(&self, nbd: &Nbd) -> io::Result<()> {
        let mut data = vec![0; LEN_MAX as usize];
        loop {
            let (cookie, error) = match nbd.reply() {
                // After the last answer the server closes, too.
                Err(_) if self.stopping() => return Ok(()),
                other => other?,
            };
            let mut st = self.lock();
            let Some(p) = st.pending.get(&cookie) else {
                drop(st);
                self.fail(format!("an answer to nobody, cookie {cookie}"));
                return Ok(());
            };
            let (pos, len) = (p.pos, p.len);
            if error != 0 {
                let why = format!("{p:?} failed with NBD error {error}");
                drop(st);
                self.fail(why);
                return Ok(());
            }
            if p.cmd == Cmd::Read {
                drop(st);
                nbd.data(&mut data[..len as usize])?;
                st = self.lock();
                if let Err(v) = st.trace.check_read(pos, &data[..len as usize]) {
                    drop(st);
                    self.fail(v.to_string());
                    return Ok(());
                }
            }
            if let Some(p) = st.pending.remove(&cookie) {
                st.finish(&p);
            }
            drop(st);
            self.changed.notify_all();
        }
    }
}

/// Flags and request.
struct Request {
    cmd: Cmd,
    pos: u64,
    len: u64,
    seq: u64,
}

impl State {
    /// How long to wait before the next request. Not evenly: a burst is what finds the device with many requests in hand.
    fn pause(&mut self) -> Duration {
        let ahead = self.due.saturating_duration_since(Instant::now());
        if self.burst && ahead > BURST {
            self.burst = false;
        } else if ahead.is_zero() {
            self.burst = true;
        }
        if self.burst { Duration::ZERO } else { ahead }
    }

    fn is_busy(&self, r: &Range<u64>) -> bool {
        let mut all = self.pending.values();
        all.any(|p| p.len > 0 && p.pos < r.end && r.start < p.pos + p.len)
    }

    fn finish(&mut self, p: &Pending) {
        match p.cmd {
            Cmd::Flush => self.report.flushes += 1,
            Cmd::Read => self.report.reads += 1,
            _ => {
                self.trace.acked(p.seq);
                self.report.acked += 1;
                self.report.bytes += p.len;
                if self.recent.len() >= RECENT {
                    self.recent.remove(0);
                }
                self.recent.push((p.pos, p.len));
            }
        }
    }
}

/// The next request; `None` when no free place was found.
fn choose(st: &mut State, connection: usize, rng: &mut Rng) -> Option<(u64, (u16, Request))> {
    let cmd = match rng.below(100) {
        0..62 => Cmd::Write,
        62..70 => Cmd::Trim,
        70..76 => Cmd::WriteZeroes,
        76..80 => Cmd::FillZeroes,
        80..94 => Cmd::Read,
        _ => Cmd::Flush,
    };
    let (pos, len) = match cmd {
        Cmd::Flush => (0, 0),
        _ => free_range(st, rng)?,
    };
    let seq = match cmd {
        Cmd::Read | Cmd::Flush => 0,
        _ => st.trace.begin(pos, len, cmd != Cmd::Write),
    };
    let flags = if seq > 0 && rng.chance(10) { FUA } else { 0 };
    let cookie = st.next_cookie;
    st.next_cookie += 1;
    let p = Pending {
        connection,
        cmd,
        pos,
        len,
        seq,
    };
    st.pending.insert(cookie, p);
    let r = Request { cmd, pos, len, seq };
    Some((cookie, (flags, r)))
}

/// A place that no request in flight touches: half of the time overlapping something that was written lately.
fn free_range(st: &State, rng: &mut Rng) -> Option<(u64, u64)> {
    let size = st.trace.size();
    for _ in 0..8 {
        // Small ones are frequent, all sizes occur; a part of them page-aligned, as file systems do.
        let top = SECTOR << rng.within(0..12);
        let mut len = rng.within(top / 2..top + 1).div_ceil(SECTOR).max(1) * SECTOR;
        let mut pos = match st.recent.get(rng.below(2 * RECENT as u64) as usize) {
            Some((p, l)) => {
                let from = p.saturating_sub(len - SECTOR);
                rng.within(from..p + l) / SECTOR * SECTOR
            }
            None => rng.below(size) / SECTOR * SECTOR,
        };
        if rng.chance(40) {
            pos = pos / 4096 * 4096;
            len = len.next_multiple_of(4096);
        }
        len = len.min(LEN_MAX).min(size - pos);
        if !st.is_busy(&(pos..pos + len)) {
            return Some((pos, len));
        }
    }
    None
}

/// A disk whose every sector is stamped with 1.
pub fn make_stamped(path: &Path, size: u64) {
    let mut buf = vec![0; size as usize];
    stamp::fill(&mut buf, 0, 1);
    std::fs::write(path, buf).expect("disk");
}
