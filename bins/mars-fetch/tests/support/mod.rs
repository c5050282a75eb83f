//! Two hosts in temporary directories whose trees are written directly: what `marsadm` and `mars-meta` would do. Used by the
//! process tests of fetch, replay and sync.
#![allow(dead_code)]
use mars_live::{LivePage, LiveRecord};
use mars_log::{EncodeOptions, encode_write, encode_zeroes, next_version};
use mars_tree::{
    Batch, HostEnv, HostName, Key, LogName, ResName, Stamp, TodoSwitch, Tree, Watcher,
};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

/// "Nothing happened for so long" is what a hang means; nothing is expected to be faster.
pub const PATIENCE: Duration = Duration::from_secs(60);
pub const DISK: u64 = 64 << 20;

pub fn res() -> ResName {
    "data".parse().unwrap()
}
pub fn log(nr: u32, host: &str) -> LogName {
    LogName {
        nr,
        host: host.parse().unwrap(),
    }
}

pub struct Host {
    pub env: HostEnv,
    pub tree: Tree,
    pub ip: String,
    pub disk: PathBuf,
}

pub struct Pair {
    pub a: Host,
    pub b: Host,
    dir: tempfile::TempDir,
    third_ip: String,
}

/// A started daemon, killed when the test ends.
pub struct Daemon(pub Child);

impl Daemon {
    pub fn kill(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
    /// SIGTERM; returns whether it ended with success.
    pub fn stop(&mut self) -> bool {
        let pid = nix::unistd::Pid::from_raw(self.0.id() as i32);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        self.0.wait().unwrap().success()
    }
    /// Open files that are deleted already.
    pub fn deleted_files(&self) -> usize {
        fs::read_dir(format!("/proc/{}/fd", self.0.id()))
            .unwrap()
            .flatten()
            .filter_map(|e| fs::read_link(e.path()).ok())
            .filter(|p| p.to_string_lossy().ends_with(" (deleted)"))
            .count()
    }
    /// Resident memory in KiB.
    pub fn rss_kib(&self) -> u64 {
        self.status_kib("VmRSS:")
    }
    /// Most of it so far.
    pub fn peak_kib(&self) -> u64 {
        self.status_kib("VmHWM:")
    }
    fn status_kib(&self, name: &str) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.0.id())).unwrap();
        let line = text.lines().find(|l| l.starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

/// `net`: third byte of the addresses, different for every test program.
pub fn pair(net: u8) -> Pair {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let n = NEXT.fetch_add(3, Ordering::Relaxed);
    let dir = tempfile::tempdir().unwrap();
    let ip = |last: u8| format!("127.42.{net}.{last}");
    let p = Pair {
        a: host(dir.path(), "alpha", ip(n)),
        b: host(dir.path(), "beta", ip(n + 1)),
        dir,
        third_ip: ip(n + 2),
    };
    p.both(|b| {
        b.set(Key::Uuid, "alpha_1700000000.000000001");
        b.set(Key::Size(res()), DISK);
        b.set(Key::Primary(res()), "alpha");
        for h in [&p.a, &p.b] {
            join(b, h);
        }
    });
    p
}

/// What a member has.
fn join(b: &mut Batch, h: &Host) {
    let name = h.name();
    b.set(Key::Ip(name.clone()), &h.ip);
    b.set(Key::Data(res(), name.clone()), h.disk.display());
    b.set(Key::Device(res(), name.clone()), "data");
    b.set(Key::SyncStatus(res(), name.clone()), DISK);
    b.set(Key::Replay(res(), name.clone()), "log-000000001-alpha,0,0");
    for s in [
        TodoSwitch::Attach,
        TodoSwitch::Connect,
        TodoSwitch::Sync,
        TodoSwitch::AllowReplay,
    ] {
        b.set(Key::Todo(res(), name.clone(), s), 1);
    }
    b.set(
        Key::Version(res(), 1, name),
        next_version(&log(1, "alpha"), 0, None),
    );
}

fn host(dir: &Path, name: &str, ip: String) -> Host {
    let base = dir.join(name);
    let root = base.join("mars");
    fs::create_dir_all(&root).unwrap();
    let dirs = base.clone();
    let vars = move |k: &str| {
        let p = |d: &str| Some(dirs.join(d).to_string_lossy().into_owned());
        match k {
            "MARS_ROOT" => p("mars"),
            "MARS_RUN_DIR" => p("run"),
            "MARS_DEV_DIR" => p("dev"),
            "MARS_ETC_DIR" => p("etc"),
            "MARS_HOST" => Some(name.to_string()),
            "MARS_UNIT_MANAGER" => Some("direct".into()),
            _ => None,
        }
    };
    let env = HostEnv::from_vars(vars).unwrap();
    let disk = base.join("disk");
    let f = fs::File::create(&disk).unwrap();
    f.set_len(DISK).unwrap();
    Host {
        tree: Tree::open(&env).unwrap(),
        env,
        ip,
        disk,
    }
}

impl Pair {
    /// A third member, known to the other two; its tree is theirs.
    pub fn third(&self) -> Host {
        let c = host(self.dir.path(), "gamma", self.third_ip.clone());
        self.both(|b| join(b, &c));
        let snap = self.b.tree.snapshot().unwrap();
        c.set(|b| {
            for path in snap.links.keys() {
                let key = Key::parse(path);
                if let Some(text) = snap.text(&key) {
                    b.set(key, text);
                }
            }
        });
        c
    }
    /// The same change in both trees.
    pub fn both(&self, f: impl Fn(&mut Batch)) {
        for h in [&self.a, &self.b] {
            h.set(&f);
        }
    }
}

impl Host {
    pub fn set(&self, f: impl Fn(&mut Batch)) {
        let mut b = Batch::new();
        f(&mut b);
        self.tree.commit(&b).unwrap();
    }
    pub fn name(&self) -> HostName {
        self.env.host.clone()
    }
    pub fn log_path(&self, l: &LogName) -> PathBuf {
        self.tree.path(&Key::Log(res(), l.clone()))
    }
    pub fn write_log(&self, l: &LogName, content: &[u8]) {
        let path = self.log_path(l);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    pub fn page(&self) -> LivePage {
        LivePage::open(&self.env.run_dir, "data").unwrap()
    }
    /// Starts a daemon of this host.
    pub fn start(&self, exe: &str, what: &str) -> Daemon {
        self.start_with(exe, &[what])
    }
    /// The same with options.
    pub fn start_with(&self, exe: &str, args: &[&str]) -> Daemon {
        let mut c = Command::new(exe);
        c.args(args).stdin(Stdio::null());
        for (k, v) in self.env.to_vars() {
            c.env(k, v);
        }
        Daemon(c.spawn().unwrap())
    }
    pub fn text(&self, key: &Key) -> Option<String> {
        self.tree.text(key).unwrap()
    }
    pub fn actual(&self, name: &str) -> Option<String> {
        self.text(&Key::Actual(res(), self.name(), name.into()))
    }
    /// Waits for the tree, woken by its changes.
    pub fn wait(&self, what: &str, mut cond: impl FnMut() -> bool) {
        let mut w = Watcher::tree(&self.tree).unwrap();
        let end = Instant::now() + PATIENCE;
        while !cond() {
            let left = end.saturating_duration_since(Instant::now());
            assert!(!left.is_zero(), "{}: waiting for {what}", self.name());
            w.wait(Some(left)).unwrap();
        }
    }
    /// Waits for a key to have a value.
    pub fn wait_text(&self, key: &Key, value: &str) {
        self.wait(&format!("{} = {value}", key.path()), || {
            self.text(key).as_deref() == Some(value)
        });
    }
    /// Waits for a live record.
    pub fn wait_live<R: LiveRecord + std::fmt::Debug>(
        &self,
        what: &str,
        mut cond: impl FnMut(&R) -> bool,
    ) -> R {
        let page = self.page();
        let end = Instant::now() + PATIENCE;
        loop {
            let (r, seq) = page.read::<R>();
            if cond(&r) {
                return r;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "{}: waiting for {what}: {r:?}",
                self.name()
            );
            page.wait::<R>(seq, Some(left));
        }
    }
}

/// One write of a generated log.
#[derive(Clone, Debug)]
pub struct Op {
    pub pos: u64,
    pub data: Vec<u8>,
}

/// `n` records at pseudo-random places of the first `span` bytes: encoded log, and the writes with the end position of each record.
pub fn make_log(n: u32, span: u64, seed: u64) -> (Vec<u8>, Vec<(Op, u64)>) {
    let mut x = seed | 1;
    let mut out = Vec::new();
    let mut ops = Vec::new();
    for i in 0..n {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let len = 512 * (1 + (x >> 50) % 8);
        let pos = (x % (span / 4096)) * 4096;
        let fill = (x >> 20) as u8;
        let stamp = Stamp::from_nanos(1_700_000_000_000_000_000 + u64::from(i));
        let opts = EncodeOptions::default();
        let data = vec![fill; len as usize];
        let k = if fill == 0 {
            encode_zeroes(&mut out, pos, len as usize, stamp, i + 1, &opts)
        } else {
            encode_write(&mut out, pos, &data, stamp, i + 1, &opts)
        };
        assert!(k > 0);
        ops.push((Op { pos, data }, out.len() as u64));
    }
    (out, ops)
}

/// Applies the writes whose records lie in `[from, to)` of the log.
pub fn apply(disk: &mut [u8], ops: &[(Op, u64)], from: u64, to: u64) {
    for (o, end) in ops {
        if *end > from && *end <= to {
            let at = o.pos as usize;
            disk[at..at + o.data.len()].copy_from_slice(&o.data);
        }
    }
}
