//! The data disk as its users see it: tests and simulations put recording or failing layers in between.
use crate::Disk;
use std::io;

/// A data disk. Shared by the threads of a daemon.
pub trait DataDisk: Send + Sync {
    /// As [`Disk::read_at`].
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<()>;
    /// As [`Disk::try_read_at`].
    fn try_read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<bool>;
    /// As [`Disk::write_vectored_at`].
    fn write_vectored_at(&self, bufs: &[&[u8]], pos: u64) -> io::Result<()>;
    /// As [`Disk::zero_at`].
    fn zero_at(&self, pos: u64, len: u64) -> io::Result<()>;
    /// As [`Disk::start_writeout`].
    fn start_writeout(&self, pos: u64, len: u64);
    /// As [`Disk::flush`].
    fn flush(&self) -> io::Result<()>;
    /// As [`Disk::forget_cached`].
    fn forget_cached(&self);
}

impl DataDisk for Disk {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<()> {
        Disk::read_at(self, buf, pos)
    }
    fn try_read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<bool> {
        Disk::try_read_at(self, buf, pos)
    }
    fn write_vectored_at(&self, bufs: &[&[u8]], pos: u64) -> io::Result<()> {
        Disk::write_vectored_at(self, bufs, pos)
    }
    fn zero_at(&self, pos: u64, len: u64) -> io::Result<()> {
        Disk::zero_at(self, pos, len)
    }
    fn start_writeout(&self, pos: u64, len: u64) {
        Disk::start_writeout(self, pos, len);
    }
    fn flush(&self) -> io::Result<()> {
        Disk::flush(self)
    }
    fn forget_cached(&self) {
        Disk::forget_cached(self);
    }
}
