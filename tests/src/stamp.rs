//! Sectors that say where they belong: every 512-byte sector of a test write carries magic, sequence number, device position, own digest
//! and filler derived from them. [`History`] then finds the one prefix of the writes that a disk equals, or says what contradicts.
use std::fmt;
use std::ops::RangeInclusive;

/// Bytes per sector.
pub const SECTOR: usize = 512;
/// Records of writes never cross a border of so many bytes: a write may end in the log at such a border.
const PAGE: u64 = 4096;
const MAGIC: u64 = 0x4d41_5253_7365_6374;

/// What a sector holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Sector {
    /// Only zeros.
    Zero,
    /// A whole stamped sector that belongs here, from the write with this number.
    Stamped(u64),
    /// Anything else: parts of several writes, damage, or a sector that belongs elsewhere.
    Torn,
}

/// Spreads the bits of a number.
pub fn mix(x: u64) -> u64 {
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Word `i` of the sector at `pos` of write `seq`.
fn word(i: u64, pos: u64, seq: u64, digest: u64) -> u64 {
    match i {
        0 => MAGIC,
        1 => seq,
        2 => pos,
        3 => digest,
        _ => digest.wrapping_mul(2 * i + 1).rotate_left(i as u32 % 64),
    }
}

fn digest(pos: u64, seq: u64) -> u64 {
    mix(mix(seq ^ MAGIC).wrapping_add(pos))
}

/// Fills `buf`, whole sectors that begin at `pos` of the device, with the content of write `seq`.
pub fn fill(buf: &mut [u8], pos: u64, seq: u64) {
    for (n, sector) in buf.chunks_mut(SECTOR).enumerate() {
        let at = pos + (n * SECTOR) as u64;
        let d = digest(at, seq);
        for (i, w) in sector.chunks_mut(8).enumerate() {
            w.copy_from_slice(&word(i as u64, at, seq, d).to_le_bytes());
        }
    }
}

/// What is in the sector `buf` of 512 bytes at `pos`.
pub fn read(buf: &[u8], pos: u64) -> Sector {
    let mut words = buf
        .chunks_exact(8)
        .map(|w| u64::from_le_bytes(w.try_into().unwrap()));
    let (Some(magic), Some(seq)) = (words.next(), words.next()) else {
        return Sector::Torn;
    };
    if magic == 0 && seq == 0 && words.clone().all(|w| w == 0) {
        return Sector::Zero;
    }
    let d = digest(pos, seq);
    let right = |(i, w): (u64, u64)| word(i, pos, seq, d) == w;
    if buf.len() == SECTOR && magic == MAGIC && (2..).zip(words).all(right) {
        Sector::Stamped(seq)
    } else {
        Sector::Torn
    }
}

/// What is in each of the whole sectors that begin at `pos`.
pub fn sectors(buf: &[u8], pos: u64) -> impl Iterator<Item = Sector> {
    let at = (pos..).step_by(SECTOR);
    buf.chunks(SECTOR).zip(at).map(|(b, at)| read(b, at))
}

/// One operation on the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Stamped sectors.
    Write {
        /// Device offset.
        pos: u64,
        /// Bytes.
        len: u64,
        /// Number: unique, ascending.
        seq: u64,
    },
    /// Zeros (TRIM, WRITE_ZEROES).
    Zeroes {
        /// Device offset.
        pos: u64,
        /// Bytes.
        len: u64,
        /// Number: unique, ascending.
        seq: u64,
    },
}

impl Op {
    /// Its number.
    pub fn seq(&self) -> u64 {
        match *self {
            Op::Write { seq, .. } | Op::Zeroes { seq, .. } => seq,
        }
    }

    fn range(&self) -> (u64, u64) {
        match *self {
            Op::Write { pos, len, .. } | Op::Zeroes { pos, len, .. } => (pos, len),
        }
    }

    /// Its parts in the order in which they may reach a disk one after the other: writes page by page, as their records do; zeros, whose
    /// records depend on the settings, sector by sector.
    fn pieces(&self) -> impl Iterator<Item = (u64, u64)> {
        let (pos, len) = self.range();
        let border = match self {
            Op::Write { .. } => PAGE,
            Op::Zeroes { .. } => SECTOR as u64,
        };
        let end = pos + len;
        let mut at = pos;
        std::iter::from_fn(move || {
            let n = (border - at % border).min(end - at);
            at += n;
            (n > 0).then_some((at - n, n))
        })
    }

    fn content(&self) -> Sector {
        match *self {
            Op::Write { seq, .. } => Sector::Stamped(seq),
            Op::Zeroes { .. } => Sector::Zero,
        }
    }
}

/// A disk that equals no prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// The prefix (number of its last whole operation) that fits best.
    pub best: u64,
    /// How many sectors contradict it.
    pub count: usize,
    /// The first of them: position, what is there, what should be there.
    pub sectors: Vec<(u64, Sector, Sector)>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "the disk equals no prefix; the best is {} with {} wrong sectors:",
            self.best, self.count
        )?;
        for (pos, is, should) in &self.sectors {
            write!(f, " [{pos}: {is:?} instead of {should:?}]")?;
        }
        Ok(())
    }
}

impl std::error::Error for Violation {}

/// Operations on a device that was all zeros, in the order of the log. Every piece of an operation that can reach the disk alone is one *step*;
/// step 0 is the empty device.
#[derive(Clone, Debug)]
pub struct History {
    ops: Vec<Op>,
    /// Per step: index of its operation, and whether it completes it.
    steps: Vec<(usize, bool)>,
    /// Per sector: what was there before the first operation.
    base: Vec<Sector>,
    /// Per sector, ascending: the step that changed it, to what.
    changes: Vec<Vec<(u32, Sector)>>,
}

/// Sectors per read of the disk.
const BATCH: usize = 256;
/// Contradictions that are listed.
const LISTED: usize = 8;

impl History {
    /// For a device of `size` bytes.
    pub fn new(size: u64) -> History {
        History {
            ops: Vec::new(),
            steps: vec![(0, true)],
            base: vec![Sector::Zero; size as usize / SECTOR],
            changes: vec![Vec::new(); size as usize / SECTOR],
        }
    }

    /// For a disk that holds these sectors.
    pub fn of(base: Vec<Sector>) -> History {
        let changes = vec![Vec::new(); base.len()];
        History {
            base,
            changes,
            ..History::new(0)
        }
    }

    /// The next operation in log order. Returns the step that completes it.
    pub fn push(&mut self, op: Op) -> usize {
        let (pos, len) = op.range();
        let sector = SECTOR as u64;
        assert!(pos % sector == 0 && len % sector == 0);
        assert!(
            self.last() < op.seq(),
            "{op:?} is not behind {}",
            self.last()
        );
        for (pos, len) in op.pieces() {
            let step = self.steps.len() as u32;
            self.steps.push((self.ops.len(), false));
            let first = (pos / sector) as usize;
            for c in &mut self.changes[first..first + len as usize / SECTOR] {
                c.push((step, op.content()));
            }
        }
        self.steps.last_mut().unwrap().1 = true;
        self.ops.push(op);
        self.last_step()
    }

    /// Number of the last operation, 0 when there is none.
    pub fn last(&self) -> u64 {
        self.ops.last().map_or(0, Op::seq)
    }

    /// The last step.
    pub fn last_step(&self) -> usize {
        self.steps.len() - 1
    }

    /// All operations.
    pub fn ops(&self) -> &[Op] {
        &self.ops
    }

    /// What a sector holds after a step.
    pub fn sector(&self, pos: u64, step: usize) -> Sector {
        self.content(pos as usize / SECTOR, step)
    }

    /// Number of the last operation that is complete at a step.
    pub fn number(&self, step: usize) -> u64 {
        match self.steps[step] {
            _ if step == 0 => 0,
            (op, true) => self.ops[op].seq(),
            (op, false) => op.checked_sub(1).map_or(0, |i| self.ops[i].seq()),
        }
    }

    fn content(&self, sector: usize, step: usize) -> Sector {
        let changes = &self.changes[sector];
        let behind = changes.partition_point(|(s, _)| *s as usize <= step);
        changes[..behind].last().map_or(self.base[sector], |c| c.1)
    }

    /// History ends with this step: what came behind it was lost.
    pub fn truncate(&mut self, step: usize) {
        self.steps.truncate(step + 1);
        let ops = self.steps.last().map_or(0, |(op, _)| op + 1);
        self.ops.truncate(if step == 0 { 0 } else { ops });
        for c in &mut self.changes {
            while c.last().is_some_and(|(s, _)| *s as usize > step) {
                c.pop();
            }
        }
    }

    /// Finds the prefix that the disk equals. The result are the numbers `n` for which everything up to `n` is there completely, and nothing
    /// behind it but perhaps the first records of the operation that follows. Several numbers when later operations changed nothing; when zeros
    /// leave more than one possibility, the latest one.
    pub fn prefix(
        &self,
        disk: &mut dyn FnMut(u64, &mut [u8]),
    ) -> Result<RangeInclusive<u64>, Violation> {
        let steps = self.prefix_steps(disk)?;
        Ok(self.number(*steps.start())..=self.number(*steps.end()))
    }

    /// As [`History::prefix`], as steps.
    pub fn prefix_steps(
        &self,
        disk: &mut dyn FnMut(u64, &mut [u8]),
    ) -> Result<RangeInclusive<usize>, Violation> {
        let all = self.all_prefixes(disk)?;
        Ok(all.last().cloned().unwrap_or(0..=0))
    }

    /// All ranges of steps that the disk equals, ascending; at least one.
    pub fn all_prefixes(
        &self,
        disk: &mut dyn FnMut(u64, &mut [u8]),
    ) -> Result<Vec<RangeInclusive<usize>>, Violation> {
        let mut found = Vec::with_capacity(self.changes.len());
        let mut buf = vec![0; BATCH * SECTOR];
        for (n, part) in self.changes.chunks(BATCH).enumerate() {
            let base = (n * BATCH * SECTOR) as u64;
            let buf = &mut buf[..part.len() * SECTOR];
            disk(base, buf);
            found.extend(sectors(buf, base));
        }
        self.prefixes_of(&found)
    }

    /// The same for a disk that holds these sectors.
    pub fn prefixes_of(&self, found: &[Sector]) -> Result<Vec<RangeInclusive<usize>>, Violation> {
        assert_eq!(found.len(), self.changes.len(), "size of the disk");
        let steps = self.steps.len();
        // How many sectors agree with each step, as differences.
        let mut agree = vec![0i64; steps + 1];
        for ((is, base), list) in found.iter().zip(&self.base).zip(&self.changes) {
            let mut from = (0, *base);
            for next in list.iter().copied().chain([(steps as u32, Sector::Torn)]) {
                if from.1 == *is {
                    agree[from.0 as usize] += 1;
                    agree[next.0 as usize] -= 1;
                }
                from = next;
            }
        }
        let mut sum = 0;
        for a in &mut agree {
            sum += *a;
            *a = sum;
        }
        agree.truncate(steps);
        let all = self.changes.len() as i64;
        let mut ranges: Vec<RangeInclusive<usize>> = Vec::new();
        for (step, _) in agree.iter().enumerate().filter(|(_, a)| **a == all) {
            match ranges.last_mut() {
                Some(r) if r.end() + 1 == step => *r = *r.start()..=step,
                _ => ranges.push(step..=step),
            }
        }
        if !ranges.is_empty() {
            return Ok(ranges);
        }
        let best = (0..steps).max_by_key(|s| agree[*s]).unwrap_or(0);
        let wrong = found.iter().enumerate().filter_map(|(n, is)| {
            let should = self.content(n, best);
            (*is != should).then_some(((n * SECTOR) as u64, *is, should))
        });
        Err(Violation {
            best: self.number(best),
            count: (all - agree[best]) as usize,
            sectors: wrong.take(LISTED).collect(),
        })
    }
}

impl History {
    /// Every sector holds what it held at its step, or something newer: enough where order is not kept. The step of a sector is the larger one of
    /// `step` and what `places` has for it, if anything.
    pub fn at_least(
        &self,
        step: usize,
        places: &[usize],
        found: &[Sector],
    ) -> Result<(), Violation> {
        assert_eq!(found.len(), self.changes.len(), "size of the disk");
        let mut sectors = Vec::new();
        for ((n, list), is) in self.changes.iter().enumerate().zip(found) {
            let step = places.get(n).map_or(step, |s| step.max(*s));
            let behind = list.partition_point(|(s, _)| *s as usize <= step);
            let should = behind.checked_sub(1).map_or(self.base[n], |i| list[i].1);
            if should != *is && !list[behind..].iter().any(|(_, s)| s == is) {
                sectors.push(((n * SECTOR) as u64, *is, should));
            }
        }
        if sectors.is_empty() {
            return Ok(());
        }
        let (best, count) = (self.number(step), sectors.len());
        sectors.truncate(LISTED);
        Err(Violation {
            best,
            count,
            sectors,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: u64 = 64 << 10;

    fn apply(disk: &mut [u8], op: Op) {
        for (pos, len) in op.pieces() {
            apply_piece(disk, op, pos, len);
        }
    }

    fn apply_piece(disk: &mut [u8], op: Op, pos: u64, len: u64) {
        let target = &mut disk[pos as usize..(pos + len) as usize];
        match op {
            Op::Write { seq, .. } => fill(target, pos, seq),
            Op::Zeroes { .. } => target.fill(0),
        }
    }

    fn write(pos: u64, len: u64, seq: u64) -> Op {
        Op::Write { pos, len, seq }
    }

    fn find(h: &History, disk: &[u8]) -> Result<RangeInclusive<u64>, Violation> {
        h.prefix(&mut |pos, buf| buf.copy_from_slice(&disk[pos as usize..][..buf.len()]))
    }

    fn history(ops: &[Op]) -> History {
        let mut h = History::new(SIZE);
        for op in ops {
            h.push(*op);
        }
        h
    }

    #[test]
    fn sectors_know_where_they_belong() {
        let mut buf = vec![0; 1024];
        assert_eq!(read(&buf[..512], 0), Sector::Zero);
        fill(&mut buf, 4096, 7);
        assert_eq!(read(&buf[..512], 4096), Sector::Stamped(7));
        assert_eq!(read(&buf[512..], 4608), Sector::Stamped(7));
        assert_eq!(read(&buf[512..], 4096), Sector::Torn, "moved");
        for at in 0..512 {
            buf[at] ^= 0x20;
            assert_eq!(read(&buf[..512], 4096), Sector::Torn, "byte {at}");
            buf[at] ^= 0x20;
        }
        let mut other = vec![0; 512];
        fill(&mut other, 4096, 8);
        buf[256..512].copy_from_slice(&other[256..]);
        assert_eq!(read(&buf[..512], 4096), Sector::Torn, "half of another");
    }

    #[test]
    fn every_prefix_is_found() {
        let ops = [
            write(0, 8192, 1),
            write(2048, 4096, 2),
            Op::Zeroes {
                pos: 1024,
                len: 2048,
                seq: 3,
            },
            write(1024, 512, 5),
            write(32768, 1024, 6),
        ];
        let h = history(&ops);
        let mut disk = vec![0; SIZE as usize];
        assert_eq!(find(&h, &disk), Ok(0..=0));
        let mut last = 0;
        for op in ops {
            let pieces: Vec<_> = op.pieces().collect();
            for (i, (pos, len)) in pieces.iter().enumerate() {
                apply_piece(&mut disk, op, *pos, *len);
                let whole = i + 1 == pieces.len();
                let number = if whole { op.seq() } else { last };
                assert_eq!(find(&h, &disk), Ok(number..=number), "{op:?} {i}");
            }
            last = op.seq();
        }
    }

    #[test]
    fn what_is_no_prefix_is_said() {
        let ops = [
            write(0, 512, 1),
            write(4096, 512, 2),
            write(0, 512, 3),
            write(8192, 512, 4),
        ];
        let h = history(&ops);
        // One left out, one too early, one never written, one lost to an older one.
        for wrong in [&[0, 2, 3][..], &[1], &[0, 3], &[0, 1, 3]] {
            let mut disk = vec![0; SIZE as usize];
            wrong.iter().for_each(|i| apply(&mut disk, ops[*i]));
            let v = find(&h, &disk).unwrap_err();
            assert!(v.count > 0 && !v.sectors.is_empty(), "{v}");
        }
        let mut disk = vec![0; SIZE as usize];
        ops.iter().for_each(|op| apply(&mut disk, *op));
        assert_eq!(find(&h, &disk), Ok(4..=4));
        disk[SIZE as usize - 1] = 1;
        let v = find(&h, &disk).unwrap_err();
        assert_eq!((v.best, v.count), (4, 1));
        assert_eq!(
            v.sectors,
            [(SIZE - 512, Sector::Torn, Sector::Zero)],
            "never written"
        );
    }

    #[test]
    fn what_was_lost_is_no_history_any_more() {
        let ops = [write(0, 8192, 1), write(0, 512, 2), write(4096, 512, 3)];
        let mut h = history(&ops);
        // Page 0 of write 1 only.
        h.truncate(1);
        assert_eq!((h.last_step(), h.number(1), h.last()), (1, 0, 1));
        let mut disk = vec![0; SIZE as usize];
        fill(&mut disk[..4096], 0, 1);
        assert_eq!(find(&h, &disk), Ok(0..=0));
        assert_eq!(h.sector(512, 1), Sector::Stamped(1));
        assert_eq!(h.sector(512, 0), Sector::Zero);
        h.push(write(512, 512, 9));
        fill(&mut disk[512..1024], 512, 9);
        assert_eq!(find(&h, &disk), Ok(9..=9));
    }

    #[test]
    fn operations_that_change_nothing_leave_a_range() {
        let zeroes = |seq| Op::Zeroes {
            pos: 0,
            len: 4096,
            seq,
        };
        let h = history(&[zeroes(1), write(4096, 512, 2), zeroes(3), zeroes(4)]);
        let mut disk = vec![0; SIZE as usize];
        assert_eq!(find(&h, &disk), Ok(0..=1));
        fill(&mut disk[4096..4608], 4096, 2);
        assert_eq!(find(&h, &disk), Ok(2..=4));
    }
}
