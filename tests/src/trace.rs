//! What clients did to a device and when, and which moments of that a disk can stand for.
//!
//! Every write has a number (its stamp), a tick when it was issued, and a tick when it was acknowledged. Requests in flight at the same time
//! never overlap, so each sector has one known order of versions; requests on different sectors are ordered by their ticks only, as for any
//! client: what was acknowledged before another one was issued comes first. A disk is a *prefix* when there is a moment T such that every sector
//! shows a version issued before T whose successor was not acknowledged before T. Then no write is there without all those that came before it.
//!
//! When a connection is lost, what was in flight is unknown: [`Trace::settle`] looks at the device afterwards and decides it, sector by sector. From
//! then on the answer stands, for all disks.
use crate::stamp::{self, SECTOR, Sector};
use std::fmt;
use std::ops::RangeInclusive;

/// A moment that never comes.
const NEVER: u64 = u64::MAX;
/// Sectors per read of a disk.
const BATCH: usize = 2048;
/// Contradictions that are listed.
const LISTED: usize = 6;

/// A write.
#[derive(Clone, Copy, Debug)]
struct Op {
    issued: u64,
    acked: u64,
    zeroes: bool,
    pos: u64,
    len: u64,
}

/// A version of one sector.
#[derive(Clone, Copy, Debug)]
struct Version {
    op: u32,
    /// Seen on the device after its connection was lost.
    seen: u64,
}

/// A disk that cannot be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What it contradicts.
    pub what: String,
    /// How many sectors are wrong.
    pub count: usize,
    /// The first of them: position, what is there, and what is known of the sector.
    pub sectors: Vec<(u64, Sector, String)>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} sectors are wrong:", self.what, self.count)?;
        for (pos, is, known) in &self.sectors {
            write!(f, "\n  at {pos}: {is:?}; {known}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Violation {}

/// What was done to a device of which every sector was stamped with 1 in the beginning.
#[derive(Debug)]
pub struct Trace {
    clock: u64,
    /// By number; 0 is nobody, 1 the initial content.
    ops: Vec<Op>,
    sectors: Vec<Vec<Version>>,
}

/// Reads a part of a disk.
pub type ReadDisk<'a> = &'a mut dyn FnMut(u64, &mut [u8]) -> std::io::Result<()>;

impl Trace {
    /// For a device of `size` bytes.
    pub fn new(size: u64) -> Trace {
        let first = Op {
            issued: 0,
            acked: 0,
            zeroes: false,
            pos: 0,
            len: size,
        };
        let version = Version { op: 1, seen: 0 };
        Trace {
            clock: 1,
            ops: vec![first, first],
            sectors: vec![vec![version]; size as usize / SECTOR],
        }
    }

    /// Bytes.
    pub fn size(&self) -> u64 {
        (self.sectors.len() * SECTOR) as u64
    }

    /// Now.
    pub fn now(&self) -> u64 {
        self.clock
    }

    fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    /// A write is about to be sent; the result is its number. Nothing in flight may overlap it.
    pub fn begin(&mut self, pos: u64, len: u64, zeroes: bool) -> u64 {
        let op = self.ops.len() as u32;
        let issued = self.tick();
        self.ops.push(Op {
            issued,
            acked: NEVER,
            zeroes,
            pos,
            len,
        });
        for s in &mut self.sectors[range(pos, len)] {
            s.push(Version { op, seen: NEVER });
        }
        u64::from(op)
    }

    /// A write was acknowledged.
    pub fn acked(&mut self, seq: u64) {
        let now = self.tick();
        self.ops[seq as usize].acked = now;
    }

    /// Number of writes.
    pub fn writes(&self) -> u64 {
        self.ops.len() as u64 - 2
    }

    fn content(&self, v: Version) -> Sector {
        match self.ops[v.op as usize].zeroes {
            true => Sector::Zero,
            false => Sector::Stamped(u64::from(v.op)),
        }
    }

    fn known(&self, v: Version) -> u64 {
        self.ops[v.op as usize].acked.min(v.seen)
    }

    /// Does `buf`, read at `pos` while no write to it was in flight, show the newest versions?
    pub fn check_read(&self, pos: u64, buf: &[u8]) -> Result<(), Violation> {
        let mut bad = Bad::default();
        for (i, b) in range(pos, buf.len() as u64).zip(buf.chunks(SECTOR)) {
            let at = (i * SECTOR) as u64;
            let is = stamp::read(b, at);
            let newest = self.sectors[i].last().copied();
            if newest.map(|v| self.content(v)) != Some(is) {
                bad.add(self, i, is);
            }
        }
        bad.result("a read does not show what was acknowledged")
    }

    /// After a lost connection: decides from the device what became of the writes that were in flight. Every acknowledged one must be there (I1).
    /// The error of a read leaves everything open. Returns how many sectors were decided (there, not there).
    pub fn settle(&mut self, read: ReadDisk<'_>) -> std::io::Result<Result<(u64, u64), Violation>> {
        let found = scan(self.size(), read)?;
        let now = self.tick();
        let mut bad = Bad::default();
        let (mut there, mut gone) = (0, 0);
        for (i, is) in found.into_iter().enumerate() {
            let list = &self.sectors[i];
            let newest = list[list.len() - 1];
            let open = self.known(newest) == NEVER;
            if is == self.content(newest) {
                if open {
                    there += 1;
                    let n = list.len() - 1;
                    self.sectors[i][n].seen = now;
                }
            } else if open && is == self.content(list[list.len() - 2]) {
                gone += 1;
                self.sectors[i].pop();
            } else {
                bad.add(self, i, is);
            }
        }
        Ok(bad
            .result("I1: the device lost what it had acknowledged")
            .map(|()| (there, gone)))
    }

    /// The moments that a disk with these sectors can stand for: the first and the last one.
    pub fn prefix(&self, found: &[Sector]) -> Result<RangeInclusive<u64>, Violation> {
        assert_eq!(found.len(), self.sectors.len(), "size of the disk");
        // How many sectors agree with a moment, as differences.
        let mut edges: Vec<(u64, i64)> = Vec::with_capacity(found.len() * 2);
        for (is, list) in found.iter().zip(&self.sectors) {
            // Spans of one sector may touch or overlap when more than one version looks like that: merged, so that it counts once.
            let mut last: Option<(u64, u64)> = None;
            for (v, next) in list.iter().zip(list[1..].iter().map(Some).chain([None])) {
                if self.content(*v) != *is {
                    continue;
                }
                let from = self.ops[v.op as usize].issued;
                let to = next.map_or(NEVER, |n| self.known(*n));
                last = match last {
                    Some((a, b)) if from <= b => Some((a, b.max(to))),
                    Some((a, b)) => {
                        edges.extend([(a, 1), (b, -1)]);
                        Some((from, to))
                    }
                    None => Some((from, to)),
                };
            }
            if let Some((a, b)) = last {
                edges.extend([(a, 1), (b, -1)]);
            }
        }
        edges.sort_unstable();
        let all = self.sectors.len() as i64;
        let (mut sum, mut best) = (0, (0, 0));
        let mut spans: Option<(u64, u64)> = None;
        for (i, (at, step)) in edges.iter().enumerate() {
            sum += step;
            let end = edges.get(i + 1).map_or(NEVER, |e| e.0);
            if end == *at {
                continue;
            }
            if sum == all {
                let last = end.min(self.clock + 1) - 1;
                spans = Some((spans.map_or(*at, |s| s.0), last));
            }
            if sum > best.0 {
                best = (sum, *at);
            }
        }
        if let Some((first, last)) = spans {
            return Ok(first..=last);
        }
        let mut bad = Bad::default();
        for (i, is) in found.iter().copied().enumerate() {
            let list = &self.sectors[i];
            let fits = list.iter().enumerate().any(|(n, v)| {
                let to = list.get(n + 1).map_or(NEVER, |v| self.known(*v));
                self.content(*v) == is && (self.ops[v.op as usize].issued..to).contains(&best.1)
            });
            if !fits {
                bad.add(self, i, is);
            }
        }
        let what = format!("the disk is no prefix, best is moment {}", best.1);
        Err(match bad.result(&what) {
            Err(v) => v,
            Ok(()) => unreachable!("some sector must contradict {what}"),
        })
    }

    /// The last versions of a sector, in words.
    fn describe(&self, sector: usize) -> String {
        let list = &self.sectors[sector];
        let time = |t: u64| match t {
            NEVER => "never".to_string(),
            t => t.to_string(),
        };
        let words: Vec<String> = list[list.len().saturating_sub(5)..]
            .iter()
            .map(|v| {
                let op = self.ops[v.op as usize];
                let kind = if op.zeroes { "zeroes" } else { "write" };
                format!(
                    "{kind} {} of {}+{} issued {} acknowledged {} seen {}",
                    v.op,
                    op.pos,
                    op.len,
                    op.issued,
                    time(op.acked),
                    time(v.seen)
                )
            })
            .collect();
        format!("its last versions: {}", words.join("; "))
    }
}

/// What every sector of a disk holds.
pub fn scan(size: u64, read: ReadDisk<'_>) -> std::io::Result<Vec<Sector>> {
    let sectors = size as usize / SECTOR;
    let mut found = Vec::with_capacity(sectors);
    let mut buf = vec![0; BATCH * SECTOR];
    for first in (0..sectors).step_by(BATCH) {
        let n = BATCH.min(sectors - first);
        let buf = &mut buf[..n * SECTOR];
        read((first * SECTOR) as u64, buf)?;
        let sectors = buf.chunks(SECTOR).zip(first..);
        found.extend(sectors.map(|(b, i)| stamp::read(b, (i * SECTOR) as u64)));
    }
    Ok(found)
}

fn range(pos: u64, len: u64) -> std::ops::Range<usize> {
    pos as usize / SECTOR..(pos + len) as usize / SECTOR
}

#[derive(Default)]
struct Bad {
    count: usize,
    sectors: Vec<(u64, Sector, String)>,
}

impl Bad {
    fn add(&mut self, trace: &Trace, sector: usize, is: Sector) {
        self.count += 1;
        if self.sectors.len() < LISTED {
            let pos = (sector * SECTOR) as u64;
            self.sectors.push((pos, is, trace.describe(sector)));
        }
    }

    fn result(self, what: &str) -> Result<(), Violation> {
        if self.count == 0 {
            return Ok(());
        }
        Err(Violation {
            what: what.to_string(),
            count: self.count,
            sectors: self.sectors,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 16 << 10;

    fn disk() -> Vec<u8> {
        let mut d = vec![0; SIZE as usize];
        stamp::fill(&mut d, 0, 1);
        d
    }

    fn put(d: &mut [u8], pos: u64, len: u64, seq: u64) {
        stamp::fill(&mut d[pos as usize..(pos + len) as usize], pos, seq);
    }

    fn reader(d: &[u8]) -> impl FnMut(u64, &mut [u8]) -> std::io::Result<()> + use<'_> {
        |pos, buf| {
            buf.copy_from_slice(&d[pos as usize..][..buf.len()]);
            Ok(())
        }
    }

    fn prefix(t: &Trace, d: &[u8]) -> Result<RangeInclusive<u64>, Violation> {
        t.prefix(&scan(SIZE, &mut reader(d)).unwrap())
    }

    fn write(t: &mut Trace, pos: u64, len: u64) -> u64 {
        let n = t.begin(pos, len, false);
        t.acked(n);
        n
    }

    #[test]
    fn prefixes_are_found_and_order_is_kept() {
        let mut t = Trace::new(SIZE);
        let a = write(&mut t, 0, 1024);
        let b = write(&mut t, 4096, 1024);
        let c = write(&mut t, 512, 512);
        let mut d = disk();
        assert_eq!(*prefix(&t, &d).unwrap().start(), 0);
        put(&mut d, 0, 1024, a);
        let only_a = prefix(&t, &d).unwrap();
        put(&mut d, 4096, 1024, b);
        let both = prefix(&t, &d).unwrap();
        // While b was in flight either is possible.
        assert!(only_a.end() < both.end() && only_a.start() < both.start());
        put(&mut d, 512, 512, c);
        let all = prefix(&t, &d).unwrap();
        assert!(all.start() > both.start() && *all.end() == t.now());
        // c without b, although b was acknowledged before c was issued.
        let mut d = disk();
        put(&mut d, 0, 1024, a);
        put(&mut d, 512, 512, c);
        let v = prefix(&t, &d).unwrap_err();
        assert!(v.to_string().contains("no prefix"), "{v}");
    }

    #[test]
    fn requests_in_flight_together_have_any_order() {
        let mut t = Trace::new(SIZE);
        let a = t.begin(0, 8192, false);
        let b = t.begin(8192, 1024, false);
        t.acked(a);
        t.acked(b);
        for (pos, len, seq) in [(8192, 1024, b), (4096, 4096, a), (0, 512, a)] {
            let mut d = disk();
            put(&mut d, pos, len, seq);
            assert!(prefix(&t, &d).is_ok());
        }
        let c = write(&mut t, 12288, 512);
        let mut d = disk();
        put(&mut d, 12288, 512, c);
        put(&mut d, 0, 8192, a);
        assert!(prefix(&t, &d).is_err(), "c came after b");
    }

    #[test]
    fn lost_requests_are_decided_once() {
        let mut t = Trace::new(SIZE);
        let a = write(&mut t, 0, 4096);
        let u = t.begin(0, 4096, false);
        let _z = t.begin(8192, 1024, true);
        let mut d = disk();
        put(&mut d, 0, 4096, a);
        put(&mut d, 0, 2048, u);
        // The first half of u, nothing of z.
        assert_eq!(t.settle(&mut reader(&d)).unwrap(), Ok((4, 6)));
        assert!(prefix(&t, &d).is_ok());
        // z does not come back, u does not go away.
        let n = write(&mut t, 12288, 512);
        put(&mut d, 12288, 512, n);
        assert!(prefix(&t, &d).is_ok());
        let mut back = d.clone();
        back[8192..9216].fill(0);
        assert!(prefix(&t, &back).is_err());
        put(&mut d, 512, 512, a);
        assert!(prefix(&t, &d).is_err());
    }

    #[test]
    fn an_acknowledged_write_that_is_missing_is_seen() {
        let mut t = Trace::new(SIZE);
        let a = write(&mut t, 0, 4096);
        let b = write(&mut t, 2048, 4096);
        let mut d = disk();
        put(&mut d, 0, 4096, a);
        let v = t.settle(&mut reader(&d)).unwrap().unwrap_err();
        assert_eq!(v.count, 8);
        assert!(v.to_string().contains("I1"), "{v}");
        assert!(t.check_read(2048, &d[2048..4096]).is_err());
        put(&mut d, 2048, 4096, b);
        assert!(t.check_read(0, &d).is_ok());
    }

    #[test]
    fn zeroes_that_look_alike_are_all_considered() {
        let mut t = Trace::new(SIZE);
        let zero = |t: &mut Trace| {
            let n = t.begin(0, 512, true);
            t.acked(n);
        };
        zero(&mut t);
        let a = write(&mut t, 0, 512);
        let b = write(&mut t, 1024, 512);
        zero(&mut t);
        let mut d = disk();
        d[..512].fill(0);
        let early = prefix(&t, &d).unwrap();
        put(&mut d, 1024, 512, b);
        let late = prefix(&t, &d).unwrap();
        assert!(early.end() < late.end());
        put(&mut d, 0, 512, a);
        let middle = prefix(&t, &d).unwrap();
        assert!(early.start() < middle.start() && middle.end() <= late.end());
    }
}
