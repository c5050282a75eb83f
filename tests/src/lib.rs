//! Harness of the end-to-end tests: hosts on one machine, each with its own root directory and loopback address, under
//! the unit manager `direct`. Everything is removed again when a [`Cluster`] is dropped, also after a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod anytime;
pub mod chaos;
pub mod faulty;
pub mod load;
pub mod nbd;
pub mod proxy;
pub mod rng;
pub mod sim;
pub mod stamp;
pub mod trace;
pub mod watch;

use mars_tree::{HostEnv, Key, Snapshot, Tree, TreeEvent, Watcher};
use nix::fcntl::{Flock, FlockArg};
use nix::libc;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::fs::{self, File};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// "No progress for so long" is what a hang means here; nothing is ever expected to be faster than this.
pub const PATIENCE: Duration = Duration::from_secs(60);

static NEXT_NET: AtomicU32 = AtomicU32::new(0);

/// Where the binaries under test are: `MARS_TEST_BIN_DIR`, else beside the test's own target directory.
pub fn bin_dir() -> PathBuf {
    if let Some(d) = std::env::var_os("MARS_TEST_BIN_DIR") {
        return d.into();
    }
    let exe = std::env::current_exe().expect("own path");
    // A test lies in `deps/`, a program beside the others.
    let dir = exe.ancestors().skip(1).take(2);
    dir.filter(|d| d.join("marsadm").exists())
        .map(Path::to_path_buf)
        .next()
        .unwrap_or_else(|| {
            panic!(
                "no marsadm beside {}: run `make build` or `cargo build --bins` first",
                exe.display()
            )
        })
}

/// `tests/tools/NAME` of this checkout.
pub fn tool(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tools")
        .join(name)
}

/// One simulated host.
pub struct Host {
    /// Environment of all its processes.
    pub env: HostEnv,
    /// Loopback address.
    pub ip: String,
    /// Further environment variables of all its processes.
    pub vars: Vec<(String, String)>,
    dir: PathBuf,
    bin: PathBuf,
}

/// A handle on a process that becomes readable when it ends; `None` when there is no such process.
fn pidfd(pid: i32) -> Option<OwnedFd> {
    // SAFETY: a plain call; the result is a fresh descriptor that nobody else owns.
    unsafe {
        let fd = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        (fd >= 0).then(|| OwnedFd::from_raw_fd(fd as i32))
    }
}

/// What a command printed.
#[derive(Debug)]
pub struct Ran {
    /// Exit status.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

fn ran(o: Output) -> Ran {
    Ran {
        code: o.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&o.stdout).into_owned(),
        err: String::from_utf8_lossy(&o.stderr).into_owned(),
    }
}

impl Host {
    /// A `marsadm` command line of this host, not started yet.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(self.bin.join("marsadm"));
        c.args(args).stdin(Stdio::null()).env_remove("MARS_LOG");
        for (k, v) in self.env.to_vars() {
            c.env(k, v);
        }
        c.envs(self.vars.iter().map(|(k, v)| (k, v)));
        c
    }

    /// Runs `marsadm ARGS`, whatever comes of it.
    pub fn run(&self, args: &[&str]) -> Ran {
        ran(self.command(args).output().expect("marsadm starts"))
    }

    /// Runs `marsadm ARGS`, which must succeed; returns its output.
    pub fn ok(&self, args: &[&str]) -> String {
        let r = self.run(args);
        assert_eq!(
            r.code,
            0,
            "{}: marsadm {args:?}: {r:?}\n{}",
            self.env.host,
            self.logs()
        );
        r.out
    }

    /// Runs `marsadm ARGS`, which must fail with status 1 and one line that contains all of `words`.
    pub fn refused(&self, args: &[&str], words: &[&str]) {
        let r = self.run(args);
        assert_eq!(
            r.code, 1,
            "{}: marsadm {args:?} should be refused: {r:?}",
            self.env.host
        );
        for w in words {
            assert!(
                r.err.contains(w),
                "{}: marsadm {args:?}: {:?} does not name {w:?}",
                self.env.host,
                r.err
            );
        }
    }

    /// The tree of this host.
    pub fn tree(&self) -> Tree {
        Tree::open(&self.env).expect("tree")
    }

    /// Waits until `cond` holds for the host's tree, woken by changes of the tree.
    pub fn wait_tree(&self, what: &str, mut cond: impl FnMut(&Snapshot) -> bool) {
        let tree = self.tree();
        let mut watcher = Watcher::tree(&tree).expect("watch");
        let end = Instant::now() + PATIENCE;
        loop {
            if cond(&tree.snapshot().expect("snapshot")) {
                return;
            }
            let left = end.saturating_duration_since(Instant::now());
            assert!(
                !left.is_zero(),
                "{}: timeout waiting for {what}\n{}\n{}",
                self.env.host,
                self.run(&["view", "all"]).out,
                self.logs()
            );
            // Growing log files are no tree events, so look again from time to time.
            if watcher
                .wait(Some(left.min(Duration::from_millis(500))))
                .expect("watch")
                == TreeEvent::Timeout
            {}
        }
    }

    /// Waits until `marsadm view-MACRO RES` prints `value`.
    pub fn wait_view(&self, makro: &str, res: &str, value: &str) {
        self.wait_tree(&format!("view-{makro} = {value}"), |_| {
            self.run(&[&format!("view-{makro}"), res]).out.trim_end() == value
        });
    }

    /// Positions and version links of a resource, for failure messages.
    pub fn links(&self, res: &str) -> String {
        let snap = self.tree().snapshot().expect("snapshot");
        let wanted = |p: &str| {
            ["/replay-", "/version-", "/primary", "/syncpos-", "/todo-"]
                .iter()
                .any(|w| p.contains(w))
        };
        let links = snap
            .links
            .iter()
            .filter(|(p, _)| p.starts_with(&format!("resource-{res}/")) && wanted(p));
        let lines = links
            .map(|(p, l)| format!("{p} -> {} @{}\n", l.value.as_str().unwrap_or("?"), l.stamp));
        let files = snap
            .files
            .iter()
            .map(|(p, f)| format!("{p}: {} bytes\n", f.size));
        lines.chain(files).collect()
    }

    /// The value of a key.
    pub fn value(&self, key: &str) -> Option<String> {
        self.tree().text(&Key::parse(key)).expect("tree")
    }

    /// Process id of a running unit (`mars-meta`, `mars-logger@data`, `mars-fetch-serve`, ... as the lock files are named).
    pub fn pid(&self, unit: &str) -> Option<i32> {
        let text =
            fs::read_to_string(self.env.run_dir.join("units").join(format!("{unit}.lock"))).ok()?;
        let pid: i32 = text.lines().next()?.trim().parse().ok()?;
        Path::new(&format!("/proc/{pid}/exe"))
            .exists()
            .then_some(pid)
    }

    /// Names of all units that have ever been started here.
    pub fn units(&self) -> Vec<String> {
        let mut v: Vec<String> = fs::read_dir(self.env.run_dir.join("units"))
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|e| {
                e.file_name()
                    .to_str()?
                    .strip_suffix(".lock")
                    .map(str::to_string)
            })
            .collect();
        v.sort();
        v
    }

    /// kill -9 of one unit by its process id; returns when it is gone (a manager that looks earlier still sees it running). False when it did
    /// not run.
    pub fn kill(&self, unit: &str) -> bool {
        let Some(process) = self.pid(unit).and_then(pidfd) else {
            return false;
        };
        // SAFETY: a plain call on an open pidfd; the null pointer means "as kill(2) would".
        let sent = unsafe {
            libc::syscall(
                libc::SYS_pidfd_send_signal,
                process.as_raw_fd(),
                libc::SIGKILL,
                std::ptr::null::<libc::siginfo_t>(),
                0,
            )
        };
        let mut fds = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        let limit = PollTimeout::try_from(PATIENCE).expect("limit");
        sent == 0 && poll(&mut fds, limit).is_ok_and(|n| n > 0)
    }

    /// kill -9 of everything: power and network of the host have failed.
    pub fn kill_all(&self) {
        for u in self.units() {
            self.kill(&u);
        }
    }

    /// URI of a device for NBD clients.
    pub fn uri(&self, device: &str) -> String {
        format!(
            "nbd+unix:///{device}?socket={}",
            self.env.dev_dir.join(device).display()
        )
    }

    /// A file in the host's own directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Last lines of all logs, for failure messages.
    pub fn logs(&self) -> String {
        let mut s = String::new();
        for u in self.units() {
            let Ok(t) = fs::read_to_string(self.env.run_dir.join("units").join(format!("{u}.log")))
            else {
                continue;
            };
            let lines: Vec<&str> = t.lines().collect();
            s += &format!(
                "--- {} {u}\n{}\n",
                self.env.host,
                lines[lines.len().saturating_sub(12)..].join("\n")
            );
        }
        s
    }

    /// Log lines that no test may produce unannounced.
    pub fn forbidden_lines(&self, allowed: &[&str]) -> Vec<String> {
        let mut bad = Vec::new();
        for u in self.units() {
            let Ok(t) = fs::read_to_string(self.env.run_dir.join("units").join(format!("{u}.log")))
            else {
                continue;
            };
            for l in t.lines() {
                let suspicious = l.contains("panicked") || l.contains(" ERROR ");
                if suspicious && !allowed.iter().any(|a| l.contains(a)) {
                    bad.push(format!("{} {u}: {l}", self.env.host));
                }
            }
        }
        bad
    }
}

/// Hosts with addresses of their own in 127.0.0.0/8.
pub struct Cluster {
    /// The hosts.
    pub hosts: Vec<Host>,
    _dir: tempfile::TempDir,
}

impl Cluster {
    /// Makes host directories; nothing is started. `config` is every host's `mars.conf`.
    pub fn new(names: &[&str], config: &str) -> Cluster {
        Cluster::new_in(Path::new("/tmp"), names, config)
    }

    /// The same with everything below `base`. The directory's name begins with `MARS_TEST_TAG` when that is set.
    pub fn new_in(base: &Path, names: &[&str], config: &str) -> Cluster {
        let tag = std::env::var("MARS_TEST_TAG").unwrap_or_else(|_| "mars-e2e".into());
        let dir = tempfile::Builder::new()
            .prefix(&format!("{tag}."))
            .tempdir_in(base)
            .expect("directory");
        let pid = std::process::id();
        let net = NEXT_NET.fetch_add(1, Ordering::Relaxed);
        let bin = bin_dir();
        let hosts = names
            .iter()
            .enumerate()
            .map(|(i, name)| {
                let d = dir.path().join(name);
                for sub in ["mars", "etc"] {
                    fs::create_dir_all(d.join(sub)).expect("host directory");
                }
                fs::write(d.join("etc/mars.conf"), config).expect("mars.conf");
                let path = |s: &str| d.join(s).display().to_string();
                let vars = [
                    ("MARS_ROOT", path("mars")),
                    ("MARS_DEV_DIR", path("dev")),
                    ("MARS_RUN_DIR", path("run")),
                    ("MARS_ETC_DIR", path("etc")),
                    ("MARS_HOST", (*name).to_string()),
                    ("MARS_UNIT_MANAGER", "direct".to_string()),
                ];
                let env = HostEnv::from_vars(|k| {
                    vars.iter().find(|(n, _)| *n == k).map(|(_, v)| v.clone())
                })
                .expect("environment");
                let ip = format!(
                    "127.{}.{}.{}",
                    128 + pid % 64,
                    (pid / 64 + net * 7) % 250,
                    i + 2
                );
                Host {
                    env,
                    ip,
                    vars: Vec::new(),
                    dir: d,
                    bin: bin.clone(),
                }
            })
            .collect();
        Cluster { hosts, _dir: dir }
    }

    /// Host by number.
    pub fn host(&self, i: usize) -> &Host {
        &self.hosts[i]
    }

    /// create-cluster on the first host, join-cluster on the others.
    pub fn form(&self) {
        let first = self.host(0);
        first.ok(&["create-cluster", &format!("--ip={}", first.ip)]);
        for h in &self.hosts[1..] {
            h.ok(&[
                "join-cluster",
                first.env.host.as_str(),
                &format!("--ip={}", h.ip),
                &format!("--ip-{}={}", first.env.host, first.ip),
            ]);
        }
    }

    /// Stops everything the regular way and asserts that nothing is left and nothing unexpected was logged.
    pub fn stop_clean(&self, allowed_log_lines: &[&str]) {
        for h in &self.hosts {
            h.ok(&["stop"]);
            for u in h.units() {
                assert!(
                    h.pid(&u).is_none(),
                    "{}: {u} still runs after stop",
                    h.env.host
                );
            }
            let left: Vec<_> = fs::read_dir(&h.env.dev_dir)
                .into_iter()
                .flatten()
                .flatten()
                .map(|e| e.path())
                .collect();
            assert!(left.is_empty(), "left behind after stop: {left:?}");
            let bad = h.forbidden_lines(allowed_log_lines);
            assert!(bad.is_empty(), "unexpected log lines: {bad:#?}");
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for h in &self.hosts {
            // Reconcilers that come from now on start nothing; one that is at work is waited for.
            let stopped = fs::write(h.env.run_dir.join("stopped"), "stopped by the test\n");
            let lock = File::open(h.env.run_dir.join("reconcile.lock"))
                .map(|f| Flock::lock(f, FlockArg::LockExclusive));
            h.kill_all();
            drop((stopped, lock));
        }
    }
}

/// A disk as a sparse regular file; `fill` = random content.
pub fn make_disk(path: &Path, bytes: u64, fill: bool) {
    let f = fs::File::create(path).expect("disk");
    f.set_len(bytes).expect("disk");
    if fill {
        let status = Command::new("dd")
            .args(["if=/dev/urandom", "bs=1M", "conv=notrunc", "status=none"])
            .arg(format!("of={}", path.display()))
            .arg(format!("count={}", bytes >> 20))
            .status()
            .expect("dd");
        assert!(status.success());
    }
}

/// Content digest of a whole file.
pub fn digest(path: &Path) -> String {
    let o = Command::new("sha256sum")
        .arg(path)
        .output()
        .expect("sha256sum");
    assert!(o.status.success());
    String::from_utf8_lossy(&o.stdout)
        .split(' ')
        .next()
        .unwrap_or_default()
        .to_string()
}

/// `sectors.py write` as a child process.
pub fn start_writer(uri: &str, journal: &Path, bytes: u64, args: &[&str]) -> std::process::Child {
    Command::new(tool("sectors.py"))
        .args([
            "write",
            uri,
            "--ranges",
            &format!("0:{bytes}"),
            "--journal",
            &journal.display().to_string(),
        ])
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sectors.py starts")
}

/// `sectors.py write` to its end.
pub fn write(uri: &str, journal: &Path, bytes: u64, args: &[&str]) -> Ran {
    ran(start_writer(uri, journal, bytes, args)
        .wait_with_output()
        .expect("sectors.py"))
}

/// `sectors.py check`; panics with its message when the disk is wrong.
pub fn check(disk: &Path, journal: &Path, mode: &str) -> String {
    let r = ran(Command::new(tool("sectors.py"))
        .args([
            "check",
            &disk.display().to_string(),
            "--journal",
            &journal.display().to_string(),
            mode,
        ])
        .output()
        .expect("sectors.py"));
    assert_eq!(r.code, 0, "{mode}: {}{}", r.out, r.err);
    r.out
}
