//! A data disk with a volatile cache that remembers what was not flushed. Of each sector it keeps what [`stamp::read`] says about it, not its bytes:
//! everything that is written carries its own digest, so nothing is lost by that, and copies of the disk cost little.
use super::rng::Rng;
use super::subset::{Fate, Fates};
use crate::stamp::{self, SECTOR, Sector};
use mars_disk::DataDisk;
use std::io;
use std::ops::Range;
use std::sync::{Mutex, MutexGuard};

/// A write that was not flushed.
#[derive(Clone, Debug)]
struct Unflushed {
    first: usize,
    count: usize,
    what: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Sectors(Vec<Sector>),
    Zeros,
}

#[derive(Clone, Debug, Default)]
struct Inner {
    /// What readers see.
    now: Vec<Sector>,
    /// What is there for sure after a power cut.
    durable: Vec<Sector>,
    open: Vec<Unflushed>,
    /// Operations until the power is gone.
    fuse: Option<u64>,
    gone: bool,
    /// So many writes until one fails.
    failing: Option<u64>,
    /// Sectors that the disk does not take.
    bad: Vec<Range<usize>>,
    /// It says so in the flush only.
    bad_in_flush: bool,
}

/// The disk. All of its users are in one thread, the lock is there for the trait.
#[derive(Debug, Default)]
pub struct SimDisk(Mutex<Inner>);

/// What the disk says when its power is gone.
pub const GONE: &str = "the power is gone";

/// Sectors of a device of so many bytes that holds only zeros.
pub fn empty(size: u64) -> Vec<Sector> {
    vec![Sector::Zero; size as usize / SECTOR]
}

/// The sectors in a range of bytes.
fn range(pos: u64, len: usize) -> Range<usize> {
    let pos = pos as usize;
    assert!(pos.is_multiple_of(SECTOR) && len.is_multiple_of(SECTOR));
    pos / SECTOR..(pos + len) / SECTOR
}

impl SimDisk {
    /// With this content, all of it durable.
    pub fn new(image: Vec<Sector>) -> SimDisk {
        SimDisk(Mutex::new(Inner {
            durable: image.clone(),
            now: image,
            ..Inner::default()
        }))
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// What readers see.
    pub fn content(&self) -> Vec<Sector> {
        self.lock().now.clone()
    }

    /// Looks at what readers see.
    pub fn with_content<R>(&self, look: impl FnOnce(&[Sector]) -> R) -> R {
        look(&self.lock().now)
    }

    /// What readers see of these bytes.
    pub fn look(&self, pos: u64, len: usize) -> Vec<Sector> {
        self.lock().now[range(pos, len)].to_vec()
    }

    /// After so many more writes, zeroings and flushes the power is gone: everything fails.
    pub fn cut_after(&self, operations: u64) {
        self.lock().fuse = Some(operations);
    }

    /// Was an operation refused because the power is gone?
    pub fn is_gone(&self) -> bool {
        self.lock().gone
    }

    /// Everything works again.
    pub fn restore_power(&self) {
        self.lock().fuse = None;
    }

    /// After so many writes one fails, until [`SimDisk::repair`].
    pub fn fail_write_after(&self, writes: u64) {
        self.lock().failing = Some(writes);
    }

    /// Writes work again.
    pub fn repair(&self) {
        self.lock().failing = None;
    }

    /// From now on the disk does not take these sectors. It refuses writes there, or (`in_flush`) fails the next flush.
    pub fn set_bad(&self, sectors: Vec<Range<usize>>, in_flush: bool) {
        let mut inner = self.lock();
        (inner.bad, inner.bad_in_flush) = (sectors, in_flush);
    }

    /// A flush fails. The kernel drops what it could not write: it stays readable for a while, and no later flush brings it to the disk.
    pub fn fail_flush(&self, rng: &mut Rng) {
        self.lock().lose(rng);
    }

    /// Anything that is not flushed?
    pub fn is_dirty(&self) -> bool {
        !self.lock().open.is_empty()
    }

    /// What a power cut now could leave.
    pub fn cut(&self, rng: &mut Rng) -> Vec<Sector> {
        let inner = self.lock();
        let mut image = inner.durable.clone();
        inner.leave_some(&mut image, rng);
        image
    }

    /// Writes sectors.
    pub fn put(&self, pos: u64, sectors: Vec<Sector>) -> io::Result<()> {
        let range = range(pos, sectors.len() * SECTOR);
        self.lock().put(range, Content::Sectors(sectors))
    }
}

impl Unflushed {
    fn leave(&self, fate: Fate, image: &mut [Sector], rng: &mut Rng) {
        let target = &mut image[self.first..self.first + self.count];
        match (&self.what, fate) {
            (_, Fate::Absent) => {}
            (Content::Sectors(data), Fate::Present) => target.copy_from_slice(data),
            (Content::Zeros, Fate::Present) => target.fill(Sector::Zero),
            (what, fate) => {
                for (nr, sector) in target.iter_mut().enumerate() {
                    if fate.has(nr as u64, rng) {
                        *sector = match what {
                            Content::Sectors(data) => data[nr],
                            Content::Zeros => Sector::Zero,
                        }
                    }
                }
            }
        }
    }
}

impl Inner {
    /// Some of the writes reach the image.
    fn leave_some(&self, image: &mut [Sector], rng: &mut Rng) {
        let fates = Fates::sample(rng, self.open.len());
        for (nr, w) in self.open.iter().enumerate() {
            let fate = fates.of(nr, w.count as u64, rng);
            w.leave(fate, image, rng);
        }
        for bad in &self.bad {
            image[bad.clone()].copy_from_slice(&self.durable[bad.clone()]);
        }
    }

    fn lose(&mut self, rng: &mut Rng) {
        let mut image = self.durable.clone();
        self.leave_some(&mut image, rng);
        self.durable = image;
        self.open.clear();
    }

    fn is_bad(&self, sectors: &Range<usize>) -> bool {
        let touches = |b: &Range<usize>| b.start < sectors.end && sectors.start < b.end;
        self.bad.iter().any(touches)
    }

    fn burn(&mut self) -> io::Result<()> {
        match &mut self.fuse {
            Some(0) => {
                self.gone = true;
                Err(io::Error::other(GONE))
            }
            Some(n) => {
                *n -= 1;
                Ok(())
            }
            None => Ok(()),
        }
    }

    fn put(&mut self, range: Range<usize>, what: Content) -> io::Result<()> {
        self.burn()?;
        match &mut self.failing {
            Some(0) => return Err(io::Error::from_raw_os_error(nix::libc::EIO)),
            Some(n) => *n -= 1,
            None => {}
        }
        if !self.bad_in_flush && self.is_bad(&range) {
            return Err(io::Error::from_raw_os_error(nix::libc::EIO));
        }
        let Some(target) = self.now.get_mut(range.clone()) else {
            panic!("a write of the sectors {range:?} goes beyond the disk");
        };
        match &what {
            Content::Sectors(data) => target.copy_from_slice(data),
            Content::Zeros => target.fill(Sector::Zero),
        }
        self.open.push(Unflushed {
            first: range.start,
            count: range.len(),
            what,
        });
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.burn()?;
        let fails = |w: &Unflushed| self.is_bad(&(w.first..w.first + w.count));
        if let Some(w) = self.open.iter().find(|w| fails(w)) {
            let mut rng = Rng::new((w.first + self.open.len()) as u64);
            self.lose(&mut rng);
            return Err(io::Error::from_raw_os_error(nix::libc::EIO));
        }
        for w in std::mem::take(&mut self.open) {
            w.leave(Fate::Present, &mut self.durable, &mut Rng::new(0));
        }
        Ok(())
    }
}

impl DataDisk for SimDisk {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<()> {
        let sectors = self.look(pos, buf.len());
        for ((b, at), is) in buf
            .chunks_mut(SECTOR)
            .zip((pos..).step_by(SECTOR))
            .zip(sectors)
        {
            match is {
                Sector::Zero => b.fill(0),
                Sector::Stamped(seq) => stamp::fill(b, at, seq),
                // What exactly was there is not known any more, but it is read as torn again.
                Sector::Torn => b.fill(0xEE),
            }
        }
        Ok(())
    }
    fn try_read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<bool> {
        self.read_at(buf, pos)?;
        Ok(true)
    }
    fn write_vectored_at(&self, bufs: &[&[u8]], pos: u64) -> io::Result<()> {
        let mut sectors = Vec::new();
        let mut at = pos;
        if bufs.iter().all(|b| b.len().is_multiple_of(SECTOR)) {
            for b in bufs {
                sectors.extend(stamp::sectors(b, at));
                at += b.len() as u64;
            }
        } else {
            sectors.extend(stamp::sectors(&bufs.concat(), pos));
        }
        self.put(pos, sectors)
    }
    fn zero_at(&self, pos: u64, len: u64) -> io::Result<()> {
        let range = range(pos, len as usize);
        self.lock().put(range, Content::Zeros)
    }
    fn start_writeout(&self, _pos: u64, _len: u64) {}
    fn flush(&self) -> io::Result<()> {
        self.lock().flush()
    }
    fn forget_cached(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn stamped(pos: u64, len: usize, seq: u64) -> Vec<u8> {
        let mut b = vec![0; len];
        stamp::fill(&mut b, pos, seq);
        b
    }

    #[test]
    fn a_cut_leaves_any_combination_of_what_was_not_flushed() {
        use Sector::{Stamped, Zero};
        let disk = SimDisk::new(empty(4096));
        let write = |pos, len, seq| {
            let data = stamped(pos, len, seq);
            disk.write_vectored_at(&[&data], pos).unwrap();
        };
        write(0, 1024, 1);
        disk.flush().unwrap();
        write(0, 1024, 2);
        disk.zero_at(512, 512).unwrap();
        write(2048, 512, 3);
        let seen: HashSet<[Sector; 3]> = (0..2000)
            .map(|seed| {
                let image = disk.cut(&mut Rng::new(seed));
                [image[0], image[1], image[4]]
            })
            .collect();
        let mut wanted = HashSet::new();
        for a in [Stamped(1), Stamped(2)] {
            for b in [Zero, Stamped(1), Stamped(2)] {
                for c in [Zero, Stamped(3)] {
                    wanted.insert([a, b, c]);
                }
            }
        }
        assert_eq!(seen, wanted);
        disk.flush().unwrap();
        let image = disk.cut(&mut Rng::new(1));
        assert_eq!(
            [image[0], image[1], image[4]],
            [Stamped(2), Zero, Stamped(3)]
        );
    }

    #[test]
    fn a_failed_flush_loses_what_it_did_not_write() {
        let disk = SimDisk::new(empty(4096));
        for i in 0..4 {
            let data = stamped(i * 512, 512, 7);
            disk.write_vectored_at(&[&data], i * 512).unwrap();
        }
        disk.fail_flush(&mut Rng::new(11));
        disk.flush().unwrap();
        let lost = disk.cut(&mut Rng::new(1));
        let there = |s: &&Sector| **s == Sector::Stamped(7);
        assert!(lost.iter().filter(there).count() < 4);
        assert_eq!(
            disk.content()[..4],
            [Sector::Stamped(7); 4],
            "still in the cache"
        );
    }

    #[test]
    fn what_does_not_belong_there_is_torn_and_stays_so() {
        let disk = SimDisk::new(empty(4096));
        let elsewhere = stamped(512, 512, 9);
        let mut halves = stamped(512, 512, 9);
        halves[256..].copy_from_slice(&stamped(512, 512, 8)[256..]);
        disk.write_vectored_at(&[&elsewhere], 0).unwrap();
        // In pieces that are no whole sectors.
        disk.write_vectored_at(&[&halves[..100], &halves[100..]], 512)
            .unwrap();
        disk.write_vectored_at(&[&elsewhere[..100], &elsewhere[100..]], 1024)
            .unwrap();
        disk.write_vectored_at(&[&stamped(1536, 512, 9)], 1536)
            .unwrap();
        let mut bytes = vec![0; 2048];
        disk.read_at(&mut bytes, 0).unwrap();
        let read: Vec<Sector> = stamp::sectors(&bytes, 0).collect();
        use Sector::{Stamped, Torn};
        assert_eq!(read, [Torn, Torn, Torn, Stamped(9)]);
        assert_eq!(disk.content()[..4], read);
    }
}
