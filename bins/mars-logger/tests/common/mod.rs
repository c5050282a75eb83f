//! A host in a temporary directory, a disk and logs that can lose power or fail, and a test front end.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    dead_code,
    missing_docs
)]
use mars_disk::Disk;
use mars_front::{Answers, Backend, IoResult, Ticket};
use mars_live::Clock;
use mars_log::{EncodeOptions, LogFile, PreparedTail};
use mars_logger::core::CoreConfig;
use mars_logger::engine::{Engine, EngineParts};
use mars_logger::io::{DataDisk, Links, LogSink, LogStore, LogSync};
use mars_logger::links::TreeLinks;
use mars_logger::recovery::{Recovery, StartPoint, Stopper};
use mars_logger::threads::{self, Threads};
use mars_tree::{Batch, HostName, Key, LogName, ResName, Tree};
use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

pub const PAGE: usize = 4096;

/// Deterministic random numbers.
pub struct Rng(pub u64);
impl Rng {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
}

#[derive(Debug)]
pub struct Never;
impl Stopper for Never {
    fn is_set(&self) -> bool {
        false
    }
}

/// One host with one resource.
pub struct Host {
    pub dir: tempfile::TempDir,
    pub tree: Tree,
    pub res: ResName,
    pub me: HostName,
    pub size: u64,
}

impl Host {
    pub fn new(size: u64) -> Host {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        std::fs::create_dir(&root).unwrap();
        let tree = Tree::with_clock(&root, Clock::private());
        let (res, me): (ResName, HostName) = ("r".parse().unwrap(), "alpha".parse().unwrap());
        let mut b = Batch::new();
        b.mkdir("resource-r")
            .mkdir("resource-r/actual-alpha")
            .mkdir("resource-r/todo-alpha");
        tree.commit(&b).unwrap();
        let host = Host {
            dir,
            tree,
            res,
            me,
            size,
        };
        host.set("size", size);
        host.set("primary", "alpha");
        host.set("replay-alpha", "log-000000001-alpha,0,0");
        host.set("todo-alpha/connect", 1);
        host.set("todo-alpha/attach", 1);
        host.set("data-alpha", host.disk_path().display());
        host.set("syncstatus-alpha", size);
        let disk = std::fs::File::create(host.disk_path()).unwrap();
        disk.set_len(size).unwrap();
        host
    }
    pub fn set(&self, name: &str, value: impl ToString) {
        let mut b = Batch::new();
        b.set(Key::parse(&format!("resource-r/{name}")), value);
        self.tree.commit(&b).unwrap();
    }
    pub fn get(&self, name: &str) -> Option<String> {
        self.tree
            .text(&Key::parse(&format!("resource-r/{name}")))
            .unwrap()
    }
    pub fn log_dir(&self) -> PathBuf {
        self.tree.root().join("resource-r")
    }
    pub fn log_path(&self, log: &LogName) -> PathBuf {
        self.log_dir().join(log.to_string())
    }
    pub fn own_log(&self, nr: u32) -> LogName {
        LogName {
            nr,
            host: self.me.clone(),
        }
    }
    pub fn disk_path(&self) -> PathBuf {
        self.dir.path().join("disk")
    }
    pub fn open_disk(&self) -> Disk {
        let file = std::fs::File::options()
            .read(true)
            .write(true)
            .open(self.disk_path())
            .unwrap();
        Disk::from_file(file, &self.disk_path()).unwrap()
    }
    pub fn recover(&self) -> anyhow::Result<StartPoint> {
        Recovery {
            tree: &self.tree,
            res: &self.res,
            me: &self.me,
            disk: &self.open_disk(),
            size: self.size,
            stop: &Never,
        }
        .run()
    }
    /// Recovers and starts an engine on a volatile disk that holds the file's content.
    pub fn start(&self, o: Options) -> Running {
        self.start_with(o, Box::new(|| {}))
    }
    /// The engine calls `wake_control` without locks after the first piece of the first write.
    pub fn start_with(&self, o: Options, wake_control: Box<dyn Fn() + Send + Sync>) -> Running {
        let start = self.recover().unwrap();
        let image = std::fs::read(self.disk_path()).unwrap();
        let disk = Arc::new(VolatileDisk::new(image));
        let world = Arc::new(LogWorld {
            dir: self.log_dir(),
            durable: Mutex::default(),
            appended: Mutex::default(),
            fail_after: AtomicI64::new(i64::MAX),
            has_space: AtomicBool::new(true),
        });
        let store = Store(Arc::clone(&world));
        let sink = store.create(&start.log).unwrap();
        let links = Arc::new(TreeLinks::new(
            self.tree.clone(),
            self.res.clone(),
            self.me.clone(),
            start.log.clone(),
            start.prev.clone(),
        ));
        links.opened();
        let engine = Engine::new(EngineParts {
            config: CoreConfig {
                strict: o.strict,
                limit: o.limit,
                encode: EncodeOptions::default(),
                age: o.age,
                recovery_limit: 1 << 30,
                zeroes_packed: true,
            },
            log: start.log.clone(),
            sink,
            store: Box::new(store),
            disk: Arc::clone(&disk) as Arc<dyn DataDisk>,
            links: Arc::clone(&links) as Arc<dyn Links>,
            live: None,
            clock: Clock::private(),
            size: self.size,
            rotate_bytes: 0,
            wake_control,
        })
        .unwrap();
        let threads = threads::start(&engine).unwrap();
        Running {
            engine,
            threads,
            links,
            disk,
            world,
            disk_path: self.disk_path(),
        }
    }
}

#[derive(Clone, Copy)]
pub struct Options {
    pub strict: bool,
    pub limit: usize,
    pub age: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            strict: true,
            limit: 64 << 20,
            age: Duration::from_secs(3600),
        }
    }
}

pub struct Running {
    pub engine: Arc<Engine>,
    pub threads: Threads,
    pub links: Arc<TreeLinks>,
    pub disk: Arc<VolatileDisk>,
    pub world: Arc<LogWorld>,
    disk_path: PathBuf,
}

impl Running {
    /// Clean stop. The disk file gets what was flushed.
    pub fn stop(self) -> bool {
        let clean = self.threads.drain();
        self.engine.finish_log().unwrap();
        let s = self.engine.status();
        self.links.version(&s.durable.log, s.durable.pos);
        assert!(
            self.disk.state.lock().unwrap().unflushed.is_empty(),
            "everything is flushed"
        );
        std::fs::write(&self.disk_path, &self.disk.state.lock().unwrap().durable).unwrap();
        clean
    }
    /// The power fails: logs keep what was synced plus a random, possibly torn, part of the rest; the disk keeps what was flushed plus any
    /// subset of later writes.
    pub fn power_cut(self, rng: &mut Rng) {
        let (disk, world) = (&self.disk, &self.world);
        self.threads.abandon(|| {
            disk.state.lock().unwrap().dead = true;
            world.fail_after.store(0, Ordering::SeqCst);
        });
        let mut s = self.disk.state.lock().unwrap();
        let lost = std::mem::take(&mut s.unflushed);
        for (pos, data) in lost {
            if rng.below(2) == 0 {
                s.durable[pos..pos + data.len()].copy_from_slice(&data);
            }
        }
        for (log, len) in self.world.durable.lock().unwrap().iter() {
            let path = self.world.dir.join(log.to_string());
            let size = std::fs::metadata(&path).unwrap().len();
            let appended = self.world.appended.lock().unwrap()[log].min(size);
            let keep = len
                + if appended > *len {
                    rng.below(appended - len + 1)
                } else {
                    0
                };
            let file = std::fs::File::options().write(true).open(&path).unwrap();
            file.set_len(keep).unwrap();
            if rng.below(4) > 0 {
                // What was prepared is there, what was written over it is not.
                file.set_len(size).unwrap();
            }
        }
        std::fs::write(&self.disk_path, &s.durable).unwrap();
    }
}

// ---- logs that lose what was not synced ---------------------------------------------------------------------------------

pub struct LogWorld {
    pub dir: PathBuf,
    pub durable: Mutex<HashMap<LogName, u64>>,
    pub appended: Mutex<HashMap<LogName, u64>>,
    /// Log operations until all fail.
    pub fail_after: AtomicI64,
    pub has_space: AtomicBool,
}

impl LogWorld {
    fn step(&self) -> io::Result<()> {
        if self.fail_after.fetch_sub(1, Ordering::SeqCst) <= 0 {
            return Err(io::Error::from_raw_os_error(28));
        }
        Ok(())
    }
}

struct Store(Arc<LogWorld>);
struct Sink {
    log: LogFile,
    len: Arc<AtomicU64>,
    world: Arc<LogWorld>,
}
struct Syncer {
    file: std::fs::File,
    tail: Arc<PreparedTail>,
    name: LogName,
    len: Arc<AtomicU64>,
    world: Arc<LogWorld>,
}

impl LogStore for Store {
    fn create(&self, name: &LogName) -> io::Result<Box<dyn LogSink>> {
        self.0.step()?;
        let log = LogFile::create(&self.0.dir, name)?;
        self.0.durable.lock().unwrap().insert(name.clone(), 0);
        self.0.appended.lock().unwrap().insert(name.clone(), 0);
        Ok(Box::new(Sink {
            log,
            len: Arc::default(),
            world: Arc::clone(&self.0),
        }))
    }
    fn truncate(&self, name: &LogName, len: u64) -> io::Result<()> {
        mars_logger::io::LogDir(self.0.dir.clone()).truncate(name, len)
    }
    fn has_space(&self) -> bool {
        self.0.has_space.load(Ordering::SeqCst)
    }
}
impl LogSink for Sink {
    fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.world.step()?;
        self.log.append(bytes)?;
        self.len.fetch_add(bytes.len() as u64, Ordering::SeqCst);
        let name = self.log.name().clone();
        let mut appended = self.world.appended.lock().unwrap();
        appended.insert(name, self.log.len());
        Ok(())
    }
    fn syncer(&self) -> io::Result<Arc<dyn LogSync>> {
        Ok(Arc::new(Syncer {
            file: self.log.handle()?,
            tail: self.log.tail(),
            name: self.log.name().clone(),
            len: Arc::clone(&self.len),
            world: Arc::clone(&self.world),
        }))
    }
    fn finish(&mut self) -> io::Result<()> {
        self.log.finish()
    }
}
impl LogSync for Syncer {
    fn forget(&self, _from: u64, _to: u64) {}
    fn sync(&self) -> io::Result<()> {
        let len = self.len.load(Ordering::SeqCst);
        self.world.step()?;
        self.file.sync_data()?;
        self.world
            .durable
            .lock()
            .unwrap()
            .insert(self.name.clone(), len);
        // Right in the way of the appends.
        self.tail.prepare(len + 4096)
    }
}

// ---- a disk with a volatile cache -------------------------------------------------------------------------------------

pub struct DiskState {
    pub cache: Vec<u8>,
    pub durable: Vec<u8>,
    unflushed: Vec<(usize, Vec<u8>)>,
    dead: bool,
    /// Writes fail this many times.
    pub fail: u32,
    /// Writes wait while set.
    pub gate: bool,
}

pub struct VolatileDisk {
    pub state: Mutex<DiskState>,
    pub gate: Condvar,
    pub flushes: AtomicU64,
}

impl VolatileDisk {
    fn new(image: Vec<u8>) -> VolatileDisk {
        VolatileDisk {
            state: Mutex::new(DiskState {
                durable: image.clone(),
                cache: image,
                unflushed: Vec::new(),
                dead: false,
                fail: 0,
                gate: false,
            }),
            gate: Condvar::new(),
            flushes: AtomicU64::new(0),
        }
    }
    pub fn set_gate(&self, closed: bool) {
        self.state.lock().unwrap().gate = closed;
        self.gate.notify_all();
    }
    fn put(&self, pos: u64, data: &[u8]) -> io::Result<()> {
        let mut s = self.state.lock().unwrap();
        while s.gate {
            s = self.gate.wait(s).unwrap();
        }
        if s.fail > 0 {
            s.fail -= 1;
            return Err(io::Error::from_raw_os_error(5));
        }
        if s.dead {
            return Err(io::Error::from_raw_os_error(5));
        }
        let pos = pos as usize;
        s.cache[pos..pos + data.len()].copy_from_slice(data);
        s.unflushed.push((pos, data.to_vec()));
        Ok(())
    }
}

impl DataDisk for VolatileDisk {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<()> {
        let s = self.state.lock().unwrap();
        buf.copy_from_slice(&s.cache[pos as usize..pos as usize + buf.len()]);
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
        let mut s = self.state.lock().unwrap();
        if s.dead {
            return Err(io::Error::from_raw_os_error(5));
        }
        let DiskState {
            durable, unflushed, ..
        } = &mut *s;
        for (pos, data) in unflushed.drain(..) {
            durable[pos..pos + data.len()].copy_from_slice(&data);
        }
        self.flushes.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
    fn forget_cached(&self) {}
}

// ---- a front end ------------------------------------------------------------------------------------------------------

type Queued = Vec<(u64, IoResult)>;

/// Collects answers.
#[derive(Default)]
pub struct Acks {
    /// Sent and queued answers.
    state: Mutex<(HashMap<u64, IoResult>, Queued)>,
    cv: Condvar,
}

impl Answers for Acks {
    fn done(&self, tag: u64, result: IoResult) {
        self.state.lock().unwrap().1.push((tag, result));
    }
    fn flush(&self) {
        let mut s = self.state.lock().unwrap();
        let queued = std::mem::take(&mut s.1);
        s.0.extend(queued);
        drop(s);
        self.cv.notify_all();
    }
}

impl Acks {
    pub fn ticket(self: &Arc<Self>, tag: u64) -> Ticket {
        Ticket {
            to: Arc::clone(self) as Arc<dyn Answers>,
            tag,
        }
    }
    pub fn is_done(&self, tag: u64) -> bool {
        self.state.lock().unwrap().0.contains_key(&tag)
    }
    /// Waits for an answer; false when the world ended before.
    pub fn wait(&self, tag: u64, over: &AtomicBool) -> bool {
        let mut s = self.state.lock().unwrap();
        loop {
            if let Some(r) = s.0.remove(&tag) {
                r.unwrap();
                return true;
            }
            if over.load(Ordering::SeqCst) {
                return false;
            }
            s = self
                .cv
                .wait_timeout(s, Duration::from_millis(20))
                .unwrap()
                .0;
        }
    }
}

/// Writes, commits and waits for the answer.
pub fn write_wait(engine: &Engine, pos: u64, data: &[u8]) {
    let acks = Arc::new(Acks::default());
    engine.write(pos, data, false, acks.ticket(1));
    engine.kick();
    assert!(acks.wait(1, &AtomicBool::new(false)));
}

pub fn flush_wait(engine: &Engine) {
    let acks = Arc::new(Acks::default());
    engine.flush(acks.ticket(1));
    engine.kick();
    assert!(acks.wait(1, &AtomicBool::new(false)));
}

pub fn read(engine: &Engine, pos: u64, len: usize) -> Vec<u8> {
    let mut buf = vec![0xEE; len];
    engine.read(pos, &mut buf).unwrap();
    buf
}

/// All logs of the host from number 1, applied to zeros.
pub fn replay_all(host: &Host, image: &Path) -> Vec<u8> {
    use std::ops::ControlFlow;
    let file = std::fs::File::options()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .open(image)
        .unwrap();
    file.set_len(host.size).unwrap();
    let disk = Disk::from_file(file, image).unwrap();
    for nr in 1.. {
        let path = host.log_path(&host.own_log(nr));
        let Ok(log) = std::fs::File::open(&path) else {
            break;
        };
        let len = log.metadata().unwrap().len();
        let opts = mars_disk::ApplyOptions {
            window_bytes: 1 << 20,
            device_size: host.size,
        };
        let out = mars_disk::apply_log(&disk, log, 0, len, &opts, &mut |_| {
            Ok(ControlFlow::Continue(()))
        })
        .unwrap();
        assert_eq!(out.pos, len, "log {nr} is complete");
    }
    std::fs::read(image).unwrap()
}
