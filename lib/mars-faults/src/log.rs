//! Logs with faults.
use crate::disk::result;
use crate::faults::Faults;
use crate::rules::Op;
use mars_logger::io::{LogSink, LogStore, LogSync};
use mars_tree::LogName;
use std::io;
use std::sync::Arc;

pub(crate) struct FaultyStore {
    faults: Arc<Faults>,
    inner: Box<dyn LogStore>,
}

impl FaultyStore {
    pub fn new(faults: Arc<Faults>, inner: Box<dyn LogStore>) -> FaultyStore {
        FaultyStore { faults, inner }
    }
}

impl LogStore for FaultyStore {
    fn create(&self, name: &LogName) -> io::Result<Box<dyn LogSink>> {
        result(&self.faults.judge(Op::LogCreate, 0, 0))?;
        Ok(Box::new(FaultySink {
            faults: Arc::clone(&self.faults),
            inner: self.inner.create(name)?,
            len: 0,
        }))
    }
    fn truncate(&self, name: &LogName, len: u64) -> io::Result<()> {
        result(&self.faults.judge(Op::LogTruncate, len, 0))?;
        self.inner.truncate(name, len)
    }
    fn has_space(&self) -> bool {
        self.faults.judge(Op::LogSpace, 0, 0).fail.is_none() && self.inner.has_space()
    }
}

struct FaultySink {
    faults: Arc<Faults>,
    inner: Box<dyn LogSink>,
    len: u64,
}

impl LogSink for FaultySink {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let v = self
            .faults
            .judge(Op::LogAppend, self.len, bytes.len() as u64);
        if v.fail.is_some() {
            let part = usize::try_from(v.part).unwrap_or(usize::MAX);
            if let Some(part) = bytes.get(..part).filter(|p| !p.is_empty()) {
                self.inner.append(part)?;
            }
            return result(&v);
        }
        self.inner.append(bytes)?;
        self.len += bytes.len() as u64;
        Ok(())
    }
    fn finish(&mut self) -> io::Result<()> {
        result(&self.faults.judge(Op::LogTruncate, self.len, 0))?;
        self.inner.finish()
    }
    fn syncer(&self) -> io::Result<Arc<dyn LogSync>> {
        Ok(Arc::new(FaultySync {
            faults: Arc::clone(&self.faults),
            inner: self.inner.syncer()?,
        }))
    }
}

struct FaultySync {
    faults: Arc<Faults>,
    inner: Arc<dyn LogSync>,
}

impl LogSync for FaultySync {
    fn sync(&self) -> io::Result<()> {
        result(&self.faults.judge(Op::LogSync, 0, 0))?;
        self.inner.sync()
    }
    fn forget(&self, from: u64, to: u64) {
        self.inner.forget(from, to);
    }
}
