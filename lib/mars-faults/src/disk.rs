//! The data disk with faults.
use crate::faults::{Faults, Verdict};
use crate::rules::Op;
use mars_disk::DataDisk;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

/// Most bytes of old content that are kept for `lose`.
const UNDO_MAX: usize = 256 << 20;

pub(crate) struct FaultyDisk {
    faults: Arc<Faults>,
    inner: Arc<dyn DataDisk>,
    /// What was there before the writes since the last good flush, oldest first.
    undo: Mutex<Vec<(u64, Vec<u8>)>>,
}

/// The error of a verdict.
pub(crate) fn result(v: &Verdict) -> io::Result<()> {
    v.fail
        .map_or(Ok(()), |e| Err(io::Error::from_raw_os_error(e)))
}

impl FaultyDisk {
    pub fn new(faults: Arc<Faults>, inner: Arc<dyn DataDisk>) -> FaultyDisk {
        FaultyDisk {
            faults,
            inner,
            undo: Mutex::default(),
        }
    }

    /// Remembers what a write replaces, when a flush may lose it.
    fn remember(&self, pos: u64, len: u64) -> io::Result<()> {
        if !self.faults.loses_flushes() {
            return Ok(());
        }
        let mut undo = self.undo.lock().unwrap_or_else(PoisonError::into_inner);
        let kept: usize = undo.iter().map(|(_, b)| b.len()).sum();
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if kept.saturating_add(len) > UNDO_MAX {
            return Err(io::Error::other("too much unflushed for `lose`"));
        }
        let mut old = vec![0; len];
        self.inner.read_at(&mut old, pos)?;
        undo.push((pos, old));
        Ok(())
    }
}

impl DataDisk for FaultyDisk {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<()> {
        result(&self.faults.judge(Op::DiskRead, pos, buf.len() as u64))?;
        self.inner.read_at(buf, pos)
    }
    fn try_read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<bool> {
        // Whoever must not wait must not meet a fault that waits.
        if self.faults.concerns(Op::DiskRead) {
            return Ok(false);
        }
        self.inner.try_read_at(buf, pos)
    }
    fn write_vectored_at(&self, bufs: &[&[u8]], pos: u64) -> io::Result<()> {
        let len = bufs.iter().map(|b| b.len() as u64).sum();
        let v = self.faults.judge(Op::DiskWrite, pos, len);
        self.remember(pos, len)?;
        if v.fail.is_none() {
            return self.inner.write_vectored_at(bufs, pos);
        }
        if v.part > 0 {
            let all = bufs.concat();
            let part = usize::try_from(v.part).unwrap_or(usize::MAX);
            let part = all.get(..part).unwrap_or(&all);
            self.inner.write_vectored_at(&[part], pos)?;
        }
        result(&v)
    }
    fn zero_at(&self, pos: u64, len: u64) -> io::Result<()> {
        let v = self.faults.judge(Op::DiskWrite, pos, len);
        self.remember(pos, len)?;
        if v.fail.is_none() {
            return self.inner.zero_at(pos, len);
        }
        if v.part > 0 {
            self.inner.zero_at(pos, v.part)?;
        }
        result(&v)
    }
    fn start_writeout(&self, pos: u64, len: u64) {
        self.inner.start_writeout(pos, len);
    }
    fn flush(&self) -> io::Result<()> {
        let v = self.faults.judge(Op::DiskFlush, 0, 0);
        let mut undo = self.undo.lock().unwrap_or_else(PoisonError::into_inner);
        if v.fail.is_some() {
            if v.lose {
                while let Some((pos, old)) = undo.pop() {
                    self.inner.write_vectored_at(&[&old], pos)?;
                }
            }
            return result(&v);
        }
        self.inner.flush()?;
        undo.clear();
        Ok(())
    }
    fn forget_cached(&self) {
        self.inner.forget_cached();
    }
}
