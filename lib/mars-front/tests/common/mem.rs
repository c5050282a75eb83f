//! A disk in memory that stands behind a front end.
#![allow(dead_code)]

use mars_front::{Backend, IoResult, Ticket};
use mars_tree::{HostEnv, UnitManager};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, RwLock};

const REGION: u64 = 1 << 20;

/// How answers come.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// At `kick`, in the caller's thread, in order.
    Inline,
    /// From another thread, in batches, the last first.
    Scrambled,
}

pub struct Mem {
    size: AtomicU64,
    regions: RwLock<Vec<RwLock<Box<[u8]>>>>,
    waiting: Mutex<Vec<Ticket>>,
    other: Option<Sender<Vec<Ticket>>>,
    pub cold: AtomicBool,
    pub openers: AtomicI64,
    pub opened_ever: AtomicU64,
    pub refuse: AtomicBool,
    pub flushes: AtomicU64,
    pub fua_writes: AtomicU64,
    pub zeroes: AtomicU64,
    pub writes: AtomicU64,
    pub reads: AtomicU64,
    /// While set, nothing is answered.
    pub hold: AtomicBool,
}

impl Mem {
    pub fn new(size: u64) -> Mem {
        Mem::with(size, Mode::Inline)
    }

    pub fn with(size: u64, mode: Mode) -> Mem {
        let other = (mode == Mode::Scrambled).then(|| {
            let (tx, rx) = channel::<Vec<Ticket>>();
            std::thread::spawn(move || {
                while let Ok(mut batch) = rx.recv() {
                    batch.extend(rx.try_iter().flatten());
                    batch.reverse();
                    answer(batch);
                }
            });
            tx
        });
        let mem = Mem {
            size: AtomicU64::new(0),
            regions: RwLock::default(),
            waiting: Mutex::default(),
            other,
            cold: AtomicBool::new(false),
            openers: AtomicI64::new(0),
            opened_ever: AtomicU64::new(0),
            refuse: AtomicBool::new(false),
            flushes: AtomicU64::new(0),
            fua_writes: AtomicU64::new(0),
            zeroes: AtomicU64::new(0),
            writes: AtomicU64::new(0),
            reads: AtomicU64::new(0),
            hold: AtomicBool::new(false),
        };
        mem.grow(size);
        mem
    }

    pub fn grow(&self, size: u64) {
        let mut regions = self.regions.write().expect("lock");
        while (regions.len() as u64) * REGION < size {
            let mut region = std::hint::black_box(vec![1; REGION as usize].into_boxed_slice());
            // Touched now, so that no page fault falls into a measurement.
            std::hint::black_box(&mut region).fill(0);
            regions.push(RwLock::new(region));
        }
        self.size.store(size, Ordering::SeqCst);
    }

    /// Lets held answers go.
    pub fn release(&self) {
        self.hold.store(false, Ordering::SeqCst);
        self.kick();
    }

    /// The whole content.
    pub fn content(&self) -> Vec<u8> {
        let mut all = vec![0; self.size() as usize];
        self.read(0, &mut all).expect("read");
        all
    }

    fn each(
        &self,
        pos: u64,
        len: usize,
        mut f: impl FnMut(&RwLock<Box<[u8]>>, usize, std::ops::Range<usize>),
    ) {
        let regions = self.regions.read().expect("lock");
        let mut done = 0;
        while done < len {
            let at = pos + done as u64;
            let inner = (at % REGION) as usize;
            let n = (len - done).min(REGION as usize - inner);
            f(&regions[(at / REGION) as usize], inner, done..done + n);
            done += n;
        }
    }
}

fn answer(batch: Vec<Ticket>) {
    let to: Vec<_> = batch.iter().map(|t| Arc::clone(&t.to)).collect();
    for ticket in batch {
        ticket.done(Ok(()));
    }
    for (i, conn) in to.iter().enumerate() {
        if i == 0 || !Arc::ptr_eq(conn, &to[i - 1]) {
            conn.flush();
        }
    }
}

impl Backend for Mem {
    fn size(&self) -> u64 {
        self.size.load(Ordering::Relaxed)
    }
    fn volatile_cache(&self) -> bool {
        true
    }
    fn try_read(&self, pos: u64, buf: &mut [u8]) -> Result<bool, i32> {
        if self.cold.load(Ordering::Relaxed) {
            return Ok(false);
        }
        self.read(pos, buf).map(|()| true)
    }
    fn read(&self, pos: u64, buf: &mut [u8]) -> IoResult {
        assert!(
            pos + buf.len() as u64 <= self.size()
                && pos.is_multiple_of(512)
                && buf.len().is_multiple_of(512)
        );
        self.reads.fetch_add(1, Ordering::Relaxed);
        self.each(pos, buf.len(), |region, at, r| {
            let n = r.len();
            buf[r].copy_from_slice(&region.read().expect("lock")[at..at + n]);
        });
        Ok(())
    }
    fn write(&self, pos: u64, data: &[u8], fua: bool, ticket: Ticket) {
        assert!(
            pos + data.len() as u64 <= self.size()
                && pos.is_multiple_of(512)
                && data.len().is_multiple_of(512)
        );
        self.each(pos, data.len(), |region, at, r| {
            region.write().expect("lock")[at..at + r.len()].copy_from_slice(&data[r]);
        });
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.fua_writes.fetch_add(u64::from(fua), Ordering::Relaxed);
        self.waiting.lock().expect("lock").push(ticket);
    }
    fn write_zeroes(&self, pos: u64, len: u64, fua: bool, ticket: Ticket) {
        assert!(pos + len <= self.size() && pos.is_multiple_of(512) && len.is_multiple_of(512));
        self.each(pos, len as usize, |region, at, r| {
            region.write().expect("lock")[at..at + r.len()].fill(0)
        });
        self.zeroes.fetch_add(1, Ordering::Relaxed);
        self.fua_writes.fetch_add(u64::from(fua), Ordering::Relaxed);
        self.waiting.lock().expect("lock").push(ticket);
    }
    fn flush(&self, ticket: Ticket) {
        self.flushes.fetch_add(1, Ordering::Relaxed);
        self.waiting.lock().expect("lock").push(ticket);
    }
    fn kick(&self) {
        if self.hold.load(Ordering::SeqCst) {
            return;
        }
        let batch = std::mem::take(&mut *self.waiting.lock().expect("lock"));
        match &self.other {
            Some(tx) => tx.send(batch).expect("thread"),
            None => answer(batch),
        }
    }
    fn opened(&self) -> IoResult {
        if self.refuse.load(Ordering::SeqCst) {
            return Err(libc::EBUSY);
        }
        self.openers.fetch_add(1, Ordering::SeqCst);
        self.opened_ever.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    fn closed(&self) {
        self.openers.fetch_sub(1, Ordering::SeqCst);
    }
}

/// A host whose directories are all below `dir`.
pub fn host_env(dir: &Path) -> HostEnv {
    HostEnv {
        root: dir.join("mars"),
        dev_dir: dir.join("dev"),
        run_dir: dir.join("run"),
        etc_dir: dir.join("etc"),
        host: "alpha".parse().expect("host name"),
        unit_manager: UnitManager::Direct,
        port: 7777,
    }
}
