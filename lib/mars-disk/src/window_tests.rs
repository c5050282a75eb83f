//! The core in one thread from a seed: steps of both sides in any order, failures, and a power cut after any step.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use crate::{DataDisk, WriteOut, write_generation};
use mars_log::{EncodeOptions, Scan, Scanner, encode_write, encode_zeroes};
use std::sync::{Mutex, MutexGuard};

const SECTOR: usize = 512;
const DEVICE: usize = 16 << 10;

/// splitmix64.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What is in the cache, what is on the medium, and the writes between.
#[derive(Default)]
struct State {
    cache: Vec<u8>,
    medium: Vec<u8>,
    unflushed: Vec<(usize, Vec<u8>)>,
    /// The disk fails after so many more writes.
    fail_after: Option<u64>,
    fail_flush: bool,
}

struct SimDisk(Mutex<State>);

impl SimDisk {
    fn new() -> SimDisk {
        SimDisk(Mutex::new(State {
            cache: vec![0xee; DEVICE],
            medium: vec![0xee; DEVICE],
            ..State::default()
        }))
    }
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }
    fn put(&self, pos: u64, data: &[u8]) -> io::Result<()> {
        let mut s = self.state();
        if let Some(n) = &mut s.fail_after {
            if *n == 0 {
                return Err(io::Error::from_raw_os_error(5));
            }
            *n -= 1;
        }
        let pos = pos as usize;
        s.cache[pos..pos + data.len()].copy_from_slice(data);
        s.unflushed.push((pos, data.to_vec()));
        Ok(())
    }
    /// The medium after a power cut: of every write that was not flushed, any sectors.
    fn cut(&self, rng: &mut Rng) -> Vec<u8> {
        let s = self.state();
        let mut image = s.medium.clone();
        for (pos, data) in &s.unflushed {
            for (i, sector) in data.chunks(SECTOR).enumerate() {
                if !rng.one_in(3) {
                    let at = pos + i * SECTOR;
                    image[at..at + SECTOR].copy_from_slice(sector);
                }
            }
        }
        image
    }
}

impl DataDisk for SimDisk {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<()> {
        let pos = pos as usize;
        buf.copy_from_slice(&self.state().cache[pos..pos + buf.len()]);
        Ok(())
    }
    fn try_read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<bool> {
        self.read_at(buf, pos).map(|()| true)
    }
    fn write_vectored_at(&self, bufs: &[&[u8]], pos: u64) -> io::Result<()> {
        self.put(pos, &bufs.concat())
    }
    fn zero_at(&self, pos: u64, len: u64) -> io::Result<()> {
        self.put(pos, &vec![0; len as usize])
    }
    fn start_writeout(&self, _pos: u64, _len: u64) {}
    fn flush(&self) -> io::Result<()> {
        let mut s = self.state();
        if s.fail_flush {
            return Err(io::Error::from_raw_os_error(5));
        }
        s.medium = s.cache.clone();
        s.unflushed.clear();
        Ok(())
    }
    fn forget_cached(&self) {}
}

/// A log of random writes and zeroes; sometimes damaged.
fn make_log(rng: &mut Rng) -> Vec<u8> {
    let mut out = Vec::new();
    for seq in 1..=rng.below(40) as u32 {
        let sectors = 1 + rng.below(8);
        // A few places only, so that they overlap often.
        let first = rng.below(DEVICE as u64 / SECTOR as u64 - sectors + 1) / (1 + rng.below(4));
        let stamp = mars_tree::Stamp::from_nanos(1_700_000_000_000_000_000 + i64::from(seq) as u64);
        let (pos, len) = (first * 512, sectors as usize * SECTOR);
        let o = EncodeOptions::default();
        let n = if rng.one_in(5) {
            encode_zeroes(&mut out, pos, len, stamp, seq, &o)
        } else {
            let data: Vec<u8> = (0..len)
                .map(|k| (seq as usize * 7 + k / SECTOR) as u8)
                .collect();
            encode_write(&mut out, pos, &data, stamp, seq, &o)
        };
        assert!(n > 0);
    }
    if !out.is_empty() && rng.one_in(3) {
        let at = rng.below(out.len() as u64) as usize;
        if rng.one_in(2) {
            out[at] ^= 1 + rng.below(255) as u8;
        } else {
            out.truncate(at);
        }
    }
    out
}

/// One record after the other, from the border `from` as long as they end at or before `to`. Returns where it stopped.
fn naive(log: &[u8], from: u64, to: u64, device: &mut [u8]) -> u64 {
    let mut s = Scanner::new(ScanLimits {
        device_size: Some(device.len() as u64),
    });
    let mut pos = from as usize;
    while let Scan::Record(r) = s.next(&log[pos..]) {
        if (pos + r.total_len) as u64 > to {
            break;
        }
        let at = r.device_pos as usize;
        let target = &mut device[at..at + r.payload.len()];
        match &r.payload {
            Payload::Plain(b) => target.copy_from_slice(b),
            Payload::Unpacked(b) => target.copy_from_slice(b),
            Payload::Zeroes(_) => target.fill(0),
        }
        pos += r.total_len;
    }
    pos as u64
}

/// One world: a log, a disk, the links.
struct World {
    log: Vec<u8>,
    file: tempfile::NamedTempFile,
    disk: SimDisk,
    pos: u64,
    promised: u64,
    cuts: u64,
}

impl World {
    fn new(log: Vec<u8>) -> World {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), &log).unwrap();
        World {
            log,
            file,
            disk: SimDisk::new(),
            pos: 0,
            promised: 0,
            cuts: 0,
        }
    }

    /// I3 and I4 of what a power cut now would leave: with the open window replayed the disk is the prefix that the links name.
    fn check_cut(&mut self, rng: &mut Rng) {
        let mut image = self.disk.cut(rng);
        let end = naive(&self.log, self.pos, self.promised, &mut image);
        assert_eq!(
            end,
            self.promised.max(self.pos),
            "the promise ends at a record"
        );
        let mut model = vec![0xee; DEVICE];
        naive(&self.log, 0, end, &mut model);
        if image != model {
            let at = image.iter().zip(&model).position(|(a, b)| a != b);
            panic!(
                "pos {}, promised {}: byte {at:?} is wrong",
                self.pos, self.promised
            );
        }
        self.cuts += 1;
    }

    /// One run in random order with a cut after each step; `faults`: with failing steps.
    fn run(
        &mut self,
        rng: &mut Rng,
        window: u64,
        faults: bool,
    ) -> Result<ApplyOutcome, ApplyError> {
        let opts = ApplyOptions {
            window_bytes: window,
            device_size: DEVICE as u64,
        };
        let log = self.file.reopen().unwrap();
        let mut scan = WindowScan::new(log, self.pos, self.log.len() as u64, &opts);
        let mut core = ApplyCore::new(self.pos, self.log.len() as u64, &opts);
        let mut scanning: Option<Window> = None;
        let mut changed = true;
        loop {
            if std::mem::take(&mut changed) {
                self.check_cut(rng);
            }
            // A scan takes a while: other steps come between its begin and its end.
            if rng.one_in(2)
                && scanning.is_none()
                && let ScanStep::Window(data) = core.scan_step()
            {
                assert!(data.is_empty());
                scanning = Some(scan.next_window(data));
            }
            if rng.one_in(2) {
                if let Some(w) = scanning.take() {
                    core.scanned(w);
                }
                continue;
            }
            let mut fail = faults && rng.one_in(20);
            let result = match core.disk_step() {
                ApplyStep::Wait => continue,
                ApplyStep::End(end) => return end,
                ApplyStep::Promise { start, end } if !fail => {
                    assert_eq!(start, self.pos);
                    self.promised = self.promised.max(end);
                    fail = false;
                    Ok(())
                }
                ApplyStep::Position { end, .. } if !fail => {
                    assert!(end > self.pos, "positions move forward");
                    self.pos = end;
                    Ok(())
                }
                ApplyStep::Promise { .. } | ApplyStep::Position { .. } => {
                    Err(ApplyError::Publish("full".into()))
                }
                ApplyStep::Write(data) => {
                    self.disk.state().fail_after = fail.then(|| rng.below(5));
                    let r = write_generation(&self.disk, &data, WriteOut::LongRuns);
                    self.disk.state().fail_after = None;
                    r.map_err(ApplyError::Disk)
                }
                ApplyStep::Flush => {
                    self.disk.state().fail_flush = fail;
                    self.disk.flush().map_err(ApplyError::Disk)
                }
            };
            changed = true;
            let failed = result.is_err();
            let asked = faults && rng.one_in(20);
            let answer = if asked {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            };
            // Slow flushes make the core flush more often.
            let spent = Duration::from_millis(rng.below(100_000));
            core.done(result.map(|()| answer), spent);
            if failed {
                self.check_cut(rng);
                match core.disk_step() {
                    ApplyStep::End(end) => return end,
                    other => panic!("{other:?} after a failure"),
                }
            }
        }
    }
}

fn one_seed(seed: u64) -> u64 {
    let mut rng = Rng(seed);
    let mut w = World::new(make_log(&mut rng));
    let window = 600 + rng.below(12_000);
    let faulty_runs = rng.below(4);
    for _ in 0..faulty_runs {
        // The process goes on, or the machine loses power in between.
        let _ = w.run(&mut rng, window, true);
        if rng.one_in(2) {
            let image = w.disk.cut(&mut rng);
            *w.disk.state() = State {
                cache: image.clone(),
                medium: image,
                ..State::default()
            };
        }
        w.disk.state().fail_flush = false;
    }
    let out = w.run(&mut rng, window, false).unwrap();
    let mut model = vec![0xee; DEVICE];
    let end = naive(&w.log, 0, u64::MAX, &mut model);
    assert_eq!((out.pos, w.pos), (end, end), "everything good was applied");
    assert!(w.disk.state().medium == model);
    assert!(w.disk.state().unflushed.is_empty());
    w.cuts
}

#[test]
fn any_order_of_steps_survives_power_cuts_and_failures() {
    let mut cuts = 0;
    for seed in 0..200 {
        let caught = std::panic::catch_unwind(|| one_seed(seed));
        match caught {
            Ok(n) => cuts += n,
            Err(_) => panic!("seed {seed} fails"),
        }
    }
    assert!(cuts > 2000, "{cuts}");
}

#[test]
fn memory_is_bounded_by_two_windows() {
    let opts = ApplyOptions {
        window_bytes: 5000,
        device_size: DEVICE as u64,
    };
    let window = |end, ending| Window {
        start: end - 1000,
        end,
        records: 1,
        bytes: 900,
        data: Generation::new(),
        ending,
    };
    let mut core = ApplyCore::new(0, 2000, &opts);
    let ok = || Ok(ControlFlow::Continue(()));
    let now = Duration::ZERO;
    assert!(matches!(core.disk_step(), ApplyStep::Wait));
    assert!(matches!(core.scan_step(), ScanStep::Window(_)));
    assert!(
        matches!(core.scan_step(), ScanStep::Wait),
        "one scan at a time"
    );
    core.scanned(window(1000, Ending::Full));
    assert!(matches!(
        core.disk_step(),
        ApplyStep::Promise {
            start: 0,
            end: 1000
        }
    ));
    assert!(matches!(core.scan_step(), ScanStep::Window(_)));
    core.scanned(window(2000, Ending::Last(ApplyEnd::Limit)));
    core.done(ok(), now);
    let step = core.disk_step();
    assert!(matches!(&step, ApplyStep::Write(_)));
    assert!(
        matches!(core.scan_step(), ScanStep::End),
        "that was the last window"
    );
    drop(step);
    core.done(ok(), now);
    // Both windows share one flush: nothing says that it must come earlier.
    assert!(matches!(
        core.disk_step(),
        ApplyStep::Promise {
            start: 0,
            end: 2000
        }
    ));
    core.done(ok(), now);
    drop(core.disk_step());
    core.done(ok(), now);
    assert!(matches!(core.disk_step(), ApplyStep::Flush));
    core.done(ok(), now);
    assert!(matches!(
        core.disk_step(),
        ApplyStep::Position {
            end: 2000,
            records: 2,
            bytes: 1800
        }
    ));
    core.done(ok(), now);
    assert!(matches!(
        core.disk_step(),
        ApplyStep::End(Ok(ApplyOutcome {
            pos: 2000,
            end: ApplyEnd::Limit,
            records: 2,
            bytes: 1800
        }))
    ));
}

#[test]
fn half_a_sector_is_refused() {
    let mut log = Vec::new();
    let stamp = mars_tree::Stamp::from_nanos(1_700_000_000_000_000_000);
    let o = EncodeOptions::default();
    let first = encode_write(&mut log, 0, &[7; 512], stamp, 1, &o);
    assert!(encode_write(&mut log, 4096, &[8; 700], stamp, 2, &o) > 0);
    let mut w = World::new(log);
    let out = w.run(&mut Rng(1), 1 << 20, false).unwrap();
    assert_eq!(out.pos, first as u64);
    assert!(matches!(
        out.end,
        ApplyEnd::Stop {
            corruption_inside: true,
            ..
        }
    ));
    assert_eq!(w.disk.state().medium[4096], 0xee);
}

/// The log bytes that each flush covers, for a disk that needs `per_mib` for a flush of one MiB of log.
fn flush_sizes(per_mib: Duration) -> Vec<u64> {
    const MIB: u64 = 1 << 20;
    let limit = 4096 * MIB;
    let opts = ApplyOptions {
        window_bytes: 16 * MIB,
        device_size: u64::MAX,
    };
    let mut core = ApplyCore::new(0, limit, &opts);
    let (mut end, mut flushed, mut sizes) = (0, 0, Vec::new());
    loop {
        if let ScanStep::Window(data) = core.scan_step() {
            let start = end;
            end = limit.min(start + if start == 0 { 4 * MIB } else { 16 * MIB });
            core.scanned(Window {
                start,
                end,
                records: 1,
                bytes: 1,
                data,
                ending: if end < limit {
                    Ending::Full
                } else {
                    Ending::Last(ApplyEnd::Limit)
                },
            });
        }
        let mut spent = Duration::ZERO;
        match core.disk_step() {
            ApplyStep::Wait => continue,
            ApplyStep::End(out) => {
                assert_eq!(out.unwrap().pos, limit);
                return sizes;
            }
            ApplyStep::Promise { start, .. } => flushed = start,
            ApplyStep::Flush => spent = per_mib * ((end - flushed) / MIB) as u32,
            ApplyStep::Position { end, .. } => sizes.push((end - flushed) / MIB),
            ApplyStep::Write(_) => {}
        }
        core.done(Ok(ControlFlow::Continue(())), spent);
    }
}

#[test]
fn flushes_are_large_on_a_fast_disk_and_short_on_a_slow_one() {
    let fast = flush_sizes(Duration::from_millis(2));
    assert_eq!(fast[0], 4, "the first one tells how fast the disk is");
    assert!(fast[1] >= 1024, "{fast:?}");
    // Scattered 4 KiB records on a disk that seeks: 256 of them per MiB, 4 ms each.
    let slow = flush_sizes(Duration::from_secs(1));
    assert!(slow.iter().all(|mib| *mib <= 16), "{slow:?}");
}
