//! A data disk with a volatile cache that remembers what was not flushed.
use super::rng::Rng;
use super::subset::{Fate, Fates};
use crate::stamp::SECTOR;
use mars_disk::DataDisk;
use std::io;
use std::sync::{Mutex, MutexGuard};

/// A write that was not flushed. No data: zeros.
#[derive(Clone, Debug)]
struct Unflushed {
    pos: usize,
    len: usize,
    data: Option<Vec<u8>>,
}

#[derive(Clone, Debug, Default)]
struct Inner {
    /// What readers see.
    now: Vec<u8>,
    /// What is there for sure after a power cut.
    durable: Vec<u8>,
    open: Vec<Unflushed>,
    /// Operations until the power is gone.
    fuse: Option<u64>,
    gone: bool,
    /// So many writes until one fails.
    failing: Option<u64>,
    /// Bytes written, for statistics.
    written: u64,
}

/// The disk. All of its users are in one thread, the lock is there for the trait.
#[derive(Debug, Default)]
pub struct SimDisk(Mutex<Inner>);

/// What the disk says when its power is gone.
pub const GONE: &str = "the power is gone";

impl SimDisk {
    /// With this content, all of it durable.
    pub fn new(image: Vec<u8>) -> SimDisk {
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
    pub fn content(&self) -> Vec<u8> {
        self.lock().now.clone()
    }

    /// Looks at what readers see.
    pub fn with_content<R>(&self, look: impl FnOnce(&[u8]) -> R) -> R {
        look(&self.lock().now)
    }

    /// Reads what readers see.
    pub fn look(&self, pos: u64, buf: &mut [u8]) {
        let inner = self.lock();
        buf.copy_from_slice(&inner.now[pos as usize..][..buf.len()]);
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

    /// A flush fails. The kernel drops what it could not write: it stays readable for a while, and no later flush brings it to the disk.
    pub fn fail_flush(&self, rng: &mut Rng) {
        let mut inner = self.lock();
        let inner = &mut *inner;
        let fates = Fates::sample(rng, inner.open.len());
        for (nr, w) in std::mem::take(&mut inner.open).iter().enumerate() {
            let fate = fates.of(nr, (w.len / SECTOR) as u64, rng);
            w.leave(fate, &mut inner.durable, rng);
        }
    }

    /// Bytes written so far.
    pub fn written(&self) -> u64 {
        self.lock().written
    }

    /// Anything that is not flushed?
    pub fn is_dirty(&self) -> bool {
        !self.lock().open.is_empty()
    }

    /// What a power cut now could leave.
    pub fn cut(&self, rng: &mut Rng) -> Vec<u8> {
        let inner = self.lock();
        let mut image = inner.durable.clone();
        let fates = Fates::sample(rng, inner.open.len());
        for (nr, w) in inner.open.iter().enumerate() {
            let fate = fates.of(nr, (w.len / SECTOR) as u64, rng);
            w.leave(fate, &mut image, rng);
        }
        image
    }
}

impl Unflushed {
    fn leave(&self, fate: Fate, image: &mut [u8], rng: &mut Rng) {
        let target = &mut image[self.pos..self.pos + self.len];
        match (&self.data, fate) {
            (_, Fate::Absent) => {}
            (Some(data), Fate::Present) => target.copy_from_slice(data),
            (None, Fate::Present) => target.fill(0),
            (data, fate) => {
                for (nr, sector) in target.chunks_mut(SECTOR).enumerate() {
                    if fate.has(nr as u64, rng) {
                        match data {
                            Some(data) => sector.copy_from_slice(&data[nr * SECTOR..][..SECTOR]),
                            None => sector.fill(0),
                        }
                    }
                }
            }
        }
    }
}

impl Inner {
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

    fn put(&mut self, pos: u64, len: usize, data: Option<Vec<u8>>) -> io::Result<()> {
        self.burn()?;
        match &mut self.failing {
            Some(0) => return Err(io::Error::from_raw_os_error(nix::libc::EIO)),
            Some(n) => *n -= 1,
            None => {}
        }
        let pos = pos as usize;
        assert!(pos.is_multiple_of(SECTOR) && len.is_multiple_of(SECTOR));
        let Some(target) = self.now.get_mut(pos..pos + len) else {
            panic!("write of {len} at {pos} goes beyond the disk");
        };
        match &data {
            Some(data) => target.copy_from_slice(data),
            None => target.fill(0),
        }
        self.written += len as u64;
        self.open.push(Unflushed { pos, len, data });
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.burn()?;
        for w in std::mem::take(&mut self.open) {
            w.leave(Fate::Present, &mut self.durable, &mut Rng::new(0));
        }
        Ok(())
    }
}

impl DataDisk for SimDisk {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<()> {
        self.look(pos, buf);
        Ok(())
    }
    fn try_read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<bool> {
        self.look(pos, buf);
        Ok(true)
    }
    fn write_vectored_at(&self, bufs: &[&[u8]], pos: u64) -> io::Result<()> {
        let data = bufs.concat();
        self.lock().put(pos, data.len(), Some(data))
    }
    fn zero_at(&self, pos: u64, len: u64) -> io::Result<()> {
        self.lock().put(pos, len as usize, None)
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

    #[test]
    fn a_cut_leaves_any_combination_of_what_was_not_flushed() {
        let disk = SimDisk::new(vec![0; 4096]);
        disk.write_vectored_at(&[&[1; 1024]], 0).unwrap();
        disk.flush().unwrap();
        disk.write_vectored_at(&[&[2; 1024]], 0).unwrap();
        disk.zero_at(512, 512).unwrap();
        disk.write_vectored_at(&[&[3; 512]], 2048).unwrap();
        let seen: HashSet<[u8; 3]> = (0..2000)
            .map(|seed| {
                let image = disk.cut(&mut Rng::new(seed));
                [image[0], image[512], image[2048]]
            })
            .collect();
        let mut wanted = HashSet::new();
        for a in [1, 2] {
            for b in [0, 1, 2] {
                for c in [0, 3] {
                    wanted.insert([a, b, c]);
                }
            }
        }
        assert_eq!(seen, wanted);
        disk.flush().unwrap();
        let image = disk.cut(&mut Rng::new(1));
        assert_eq!([image[0], image[512], image[2048]], [2, 0, 3]);
    }

    #[test]
    fn a_failed_flush_loses_what_it_did_not_write() {
        let disk = SimDisk::new(vec![0; 4096]);
        for i in 0..4 {
            disk.write_vectored_at(&[&[7; 512]], i * 512).unwrap();
        }
        disk.fail_flush(&mut Rng::new(11));
        disk.flush().unwrap();
        let lost = disk.cut(&mut Rng::new(1));
        assert!(lost.iter().filter(|b| **b == 7).count() < 2048);
        assert_eq!(disk.content()[..2048], [7; 2048], "still in the cache");
    }
}
