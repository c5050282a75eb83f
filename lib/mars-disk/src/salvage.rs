//! Writing to a disk that fails, or fails in places: as much as possible becomes durable, and what does not is known exactly.
use crate::{DataDisk, Generation, WriteRun};
use std::io;
use std::ops::Range;
use std::time::{Duration, Instant};

/// Bytes per unit to begin with.
const MAX_RUN: usize = 1 << 20;
const SECTOR: usize = 512;
/// A disk that fails so often, or for so long, is not asked any more: the rest counts as failed.
const FAILURES_MAX: u32 = 1000;
const TIME_MAX: Duration = Duration::from_secs(10);

/// Ranges of a device, in bytes: ascending, disjoint, not touching.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Range<u64>>);

impl FromIterator<Range<u64>> for Ranges {
    fn from_iter<I: IntoIterator<Item = Range<u64>>>(all: I) -> Ranges {
        let mut all: Vec<_> = all.into_iter().filter(|r| r.start < r.end).collect();
        all.sort_unstable_by_key(|r| r.start);
        let mut merged: Vec<Range<u64>> = Vec::with_capacity(all.len());
        for r in all {
            match merged.last_mut() {
                Some(last) if r.start <= last.end => last.end = last.end.max(r.end),
                _ => merged.push(r),
            }
        }
        Ranges(merged)
    }
}

impl Ranges {
    /// None?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
    /// In order.
    pub fn iter(&self) -> impl Iterator<Item = &Range<u64>> {
        self.0.iter()
    }
    /// Bytes.
    pub fn bytes(&self) -> u64 {
        self.0.iter().map(|r| r.end - r.start).sum()
    }
    /// The parts that lie in `r`.
    pub fn within(&self, r: Range<u64>) -> impl Iterator<Item = Range<u64>> {
        let first = self.0.partition_point(|own| own.end <= r.start);
        let rest = self.0.get(first..).unwrap_or_default();
        rest.iter()
            .take_while(move |own| own.start < r.end)
            .map(move |own| own.start.max(r.start)..own.end.min(r.end))
    }
    /// Has it a byte of `r`?
    pub fn touches(&self, r: &Range<u64>) -> bool {
        self.within(r.clone()).next().is_some()
    }
}

/// A piece that is written as a whole.
#[derive(Clone, Copy)]
enum Unit<'a> {
    Data(u64, &'a [u8]),
    Zeroes(u64, u64),
}

impl Unit<'_> {
    fn write(&self, disk: &dyn DataDisk) -> io::Result<()> {
        match *self {
            Unit::Data(pos, data) => disk.write_vectored_at(&[data], pos),
            Unit::Zeroes(pos, len) => disk.zero_at(pos, len),
        }
    }

    fn range(&self) -> Range<u64> {
        match *self {
            Unit::Data(pos, data) => pos..pos + data.len() as u64,
            Unit::Zeroes(pos, len) => pos..pos + len,
        }
    }

    /// Two parts; none of a single sector.
    fn halves(&self) -> Option<[Self; 2]> {
        let Range { start, end } = self.range();
        let half = (end - start) / 2 / SECTOR as u64 * SECTOR as u64;
        if half == 0 {
            return None;
        }
        Some(match *self {
            Unit::Data(pos, data) => {
                let (a, b) = data.split_at(half as usize);
                [Unit::Data(pos, a), Unit::Data(pos + half, b)]
            }
            Unit::Zeroes(pos, len) => [
                Unit::Zeroes(pos, half),
                Unit::Zeroes(pos + half, len - half),
            ],
        })
    }
}

/// Writes and flushes everything that the disk takes. Returns what it does not take, and the first error. A write through the page cache often
/// fails in the flush only, which does not say where, and the kernel drops all of it: so halves are tried, and halves of halves.
pub fn salvage(disk: &dyn DataDisk, data: &Generation) -> (Ranges, Option<io::Error>) {
    let runs = data.runs(MAX_RUN);
    let mut units = Vec::new();
    for run in &runs {
        match run {
            WriteRun::Data { pos, pieces } => {
                let mut at = *pos;
                for piece in pieces {
                    units.push(Unit::Data(at, piece));
                    at += piece.len() as u64;
                }
            }
            WriteRun::Zeroes { pos, len } => units.push(Unit::Zeroes(*pos, *len)),
        }
    }
    let mut s = Salvage {
        disk,
        failures: 0,
        since: Instant::now(),
        lost: Vec::new(),
        error: None,
    };
    // What earlier attempts left in the cache fails here, or not at all; all of it is written again.
    let _ = disk.flush();
    s.attempt(&units);
    (s.lost.into_iter().collect(), s.error)
}

struct Salvage<'a> {
    disk: &'a dyn DataDisk,
    failures: u32,
    since: Instant,
    lost: Vec<Range<u64>>,
    error: Option<io::Error>,
}

impl Salvage<'_> {
    fn attempt(&mut self, units: &[Unit<'_>]) {
        if units.is_empty() {
            return;
        }
        if self.failures >= FAILURES_MAX || self.since.elapsed() > TIME_MAX {
            self.lost.extend(units.iter().map(Unit::range));
            return;
        }
        let written = units.iter().try_for_each(|u| u.write(self.disk));
        // Also behind a failed write: what an attempt leaves in the cache must not fail the flush of the next one.
        let flushed = self.disk.flush();
        let done = written.and(flushed);
        let Err(e) = done else { return };
        self.failures += 1;
        self.error.get_or_insert(e);
        match units {
            [one] => match one.halves() {
                Some([a, b]) => {
                    self.attempt(&[a]);
                    self.attempt(&[b]);
                }
                None => self.lost.push(one.range()),
            },
            more => {
                let (a, b) = more.split_at(more.len() / 2);
                self.attempt(a);
                self.attempt(b);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use std::collections::BTreeMap;
    use std::sync::Mutex;

    /// Sectors that are durable, and those in the cache.
    #[derive(Default)]
    struct Bad {
        bad: Vec<u64>,
        in_flush: bool,
        sectors: Mutex<(BTreeMap<u64, u8>, BTreeMap<u64, u8>)>,
    }

    impl Bad {
        fn put(&self, pos: u64, bytes: &[u8]) -> io::Result<()> {
            for (n, b) in (pos / 512..).zip(bytes.chunks(512)) {
                if self.bad.contains(&n) && !self.in_flush {
                    return Err(io::Error::from_raw_os_error(5));
                }
                self.sectors.lock().unwrap().1.insert(n, b[0]);
            }
            Ok(())
        }
    }

    impl DataDisk for Bad {
        fn read_at(&self, _: &mut [u8], _: u64) -> io::Result<()> {
            Ok(())
        }
        fn try_read_at(&self, _: &mut [u8], _: u64) -> io::Result<bool> {
            Ok(true)
        }
        fn write_vectored_at(&self, bufs: &[&[u8]], pos: u64) -> io::Result<()> {
            self.put(pos, &bufs.concat())
        }
        fn zero_at(&self, pos: u64, len: u64) -> io::Result<()> {
            self.put(pos, &vec![0; len as usize])
        }
        fn start_writeout(&self, _: u64, _: u64) {}
        fn flush(&self) -> io::Result<()> {
            let mut s = self.sectors.lock().unwrap();
            let open = std::mem::take(&mut s.1);
            if open.keys().any(|n| self.bad.contains(n)) {
                return Err(io::Error::from_raw_os_error(5));
            }
            s.0.extend(open);
            Ok(())
        }
        fn forget_cached(&self) {}
    }

    #[test]
    fn exactly_the_bad_places_are_lost() {
        for in_flush in [false, true] {
            let disk = Bad {
                bad: vec![3, 40, 41, 300, 999],
                in_flush,
                ..Bad::default()
            };
            let mut data = Generation::new();
            data.write(0, &[1; 8192]);
            data.write(32 * 512, &[2; 16 * 512]);
            data.write_zeroes(256 * 512, 100 * 512);
            let (lost, e) = salvage(&disk, &data);
            let sectors: Vec<_> = lost.iter().map(|r| (r.start / 512, r.end / 512)).collect();
            assert_eq!(sectors, [(3, 4), (40, 42), (300, 301)]);
            assert_eq!(e.unwrap().raw_os_error(), Some(5));
            let durable = disk.sectors.into_inner().unwrap().0;
            assert_eq!(durable.len(), 16 + 16 + 100 - 4);
            assert!(!durable.contains_key(&3) && durable[&4] == 1 && durable[&42] == 2);
        }
    }

    /// Something older in the cache, at a place that has gone bad, fails the next flush whatever that one is for.
    #[test]
    fn what_is_left_in_the_cache_costs_nobody_else_his_place() {
        let disk = Bad {
            bad: vec![40, 300],
            in_flush: true,
            ..Bad::default()
        };
        disk.put(40 * 512, &[7; 512]).unwrap();
        let mut data = Generation::new();
        data.write(8 * 512, &[1; 512]);
        let (lost, e) = salvage(&disk, &data);
        assert!(lost.is_empty() && e.is_none(), "{lost:?}");
        assert_eq!(disk.sectors.lock().unwrap().0.get(&8), Some(&1));
    }

    #[test]
    fn a_dead_disk_is_not_asked_for_ever() {
        let disk = Bad {
            bad: (0..100_000).collect(),
            in_flush: true,
            ..Bad::default()
        };
        let mut data = Generation::new();
        data.write_zeroes(0, 40 << 20);
        let (lost, e) = salvage(&disk, &data);
        assert_eq!((lost.bytes(), e.is_some()), (40 << 20, true));
    }

    #[test]
    fn ranges_are_merged_and_found() {
        let r: Ranges = [5..6, 0..2, 9..9, 2..4, 3..4, 10..20].into_iter().collect();
        assert_eq!(r.0, [0..4, 5..6, 10..20]);
        assert_eq!(r.within(3..12).collect::<Vec<_>>(), [3..4, 5..6, 10..12]);
        assert!(!r.touches(&(6..10)) && !r.touches(&(20..30)) && r.touches(&(19..30)));
    }
}
