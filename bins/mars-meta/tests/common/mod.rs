//! Hosts for the tests: a directory, an address and a running `mars-meta` each.
#![allow(dead_code, clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use mars_tree::{Batch, HostEnv, Key, Link, Stamp, Tree, TreeEvent, Watcher};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take before the test gives up. Not a measure of speed.
pub const PATIENCE: Duration = Duration::from_secs(30);
pub const UUID: &str = "alpha_1700000000.123456789";

pub struct Host {
    pub name: String,
    pub ip: IpAddr,
    pub env: HostEnv,
    pub tree: Tree,
    dir: PathBuf,
    _tmp: tempfile::TempDir,
    child: Option<Child>,
    extra: Vec<(&'static str, String)>,
}

impl Host {
    /// A host with an empty tree. Its heartbeat is rare unless `heartbeat_ms` says otherwise.
    pub fn new(name: &str, ip: &str, heartbeat_ms: u64) -> Host {
        let tmp = tempfile::tempdir().unwrap();
        let dir = tmp.path().to_path_buf();
        for d in ["root", "run", "etc", "dev", "bin"] {
            std::fs::create_dir(dir.join(d)).unwrap();
        }
        std::fs::write(
            dir.join("etc/mars.conf"),
            format!("heartbeat_ms = {heartbeat_ms}\n"),
        )
        .unwrap();
        let vars = Host::vars(&dir, name);
        let env =
            HostEnv::from_vars(|k| vars.iter().find(|(n, _)| *n == k).map(|(_, v)| v.clone()))
                .unwrap();
        let host = Host {
            name: name.into(),
            ip: ip.parse().unwrap(),
            tree: Tree::open(&env).unwrap(),
            env,
            dir,
            _tmp: tmp,
            child: None,
            // No test meets the bus of the machine.
            extra: vec![(
                "DBUS_SYSTEM_BUS_ADDRESS",
                "unix:path=/nonexistent/bus".into(),
            )],
        };
        host.fake_marsadm("exit 0");
        host
    }

    fn vars(dir: &std::path::Path, name: &str) -> Vec<(&'static str, String)> {
        let d = |s: &str| dir.join(s).display().to_string();
        vec![
            ("MARS_ROOT", d("root")),
            ("MARS_RUN_DIR", d("run")),
            ("MARS_ETC_DIR", d("etc")),
            ("MARS_DEV_DIR", d("dev")),
            ("MARS_BIN_DIR", d("bin")),
            ("MARS_HOST", name.to_string()),
            ("MARS_UNIT_MANAGER", "direct".to_string()),
        ]
    }

    /// A stand-in for the reconciler: this shell script.
    pub fn fake_marsadm(&self, script: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.dir.join("bin/marsadm");
        let new = self.dir.join("bin/new");
        std::fs::write(&new, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    /// A variable for the daemon.
    pub fn set_var(&mut self, var: (&'static str, String)) {
        self.extra.push(var);
    }

    pub fn start(&mut self) {
        assert!(self.child.is_none());
        let log = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(self.dir.join("log"))
            .unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_mars-meta"))
            .envs(Host::vars(&self.dir, &self.name))
            .envs(self.extra.clone())
            .env("MARS_LOG", "debug")
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        self.child = Some(child);
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    pub fn pid(&self) -> i32 {
        self.child.as_ref().unwrap().id() as i32
    }

    /// Sends the signal and waits for the end; true when it ended with success.
    pub fn end(&mut self, signal: Signal) -> bool {
        let mut child = self.child.take().unwrap();
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        child.wait().unwrap().success()
    }

    /// What create-cluster writes.
    pub fn create_cluster(&self) {
        self.set("uuid", UUID);
        self.set(&format!("ips/ip-{}", self.name), &self.ip.to_string());
    }

    /// What join-cluster writes first.
    pub fn join(&self, peer: &Host) {
        let mut b = Batch::new();
        let key = |p: &str| Key::parse(p);
        b.set_stamped(key("uuid"), "(any)", Stamp::PRELIMINARY);
        for h in [self, peer] {
            b.set_stamped(key(&format!("ips/ip-{}", h.name)), h.ip, Stamp::PRELIMINARY);
        }
        self.tree.commit(&b).unwrap();
    }

    pub fn set(&self, path: &str, value: &str) -> Stamp {
        let mut b = Batch::new();
        b.set(Key::parse(path), value);
        self.tree.commit(&b).unwrap()
    }

    pub fn delete(&self, path: &str) {
        let mut b = Batch::new();
        b.delete(Key::parse(path));
        self.tree.commit(&b).unwrap();
    }

    pub fn get(&self, path: &str) -> Option<Link> {
        self.tree.read(&Key::parse(path)).unwrap()
    }

    pub fn text(&self, path: &str) -> Option<String> {
        self.tree.text(&Key::parse(path)).unwrap()
    }

    /// Waits (by events) until the condition holds on the tree.
    pub fn wait(&self, what: &str, mut cond: impl FnMut(&Host) -> bool) {
        let end = Instant::now() + PATIENCE;
        let mut w = Watcher::tree(&self.tree).unwrap();
        loop {
            if cond(self) {
                return;
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || w.wait(Some(left)).unwrap() == TreeEvent::Timeout {
                assert!(
                    cond(self),
                    "{}: {what} did not happen\n{}",
                    self.name,
                    self.log()
                );
                return;
            }
        }
    }

    pub fn wait_text(&self, path: &str, value: &str) {
        self.wait(&format!("{path} -> {value}"), |h| {
            h.text(path).as_deref() == Some(value)
        });
    }

    /// Waits until a file appears in a directory outside of the tree and satisfies the condition.
    pub fn wait_file(&self, path: &std::path::Path, cond: impl Fn(&str) -> bool) {
        use inotify::{Inotify, WatchMask};
        let mut ino = Inotify::init().unwrap();
        ino.watches()
            .add(
                path.parent().unwrap(),
                WatchMask::CLOSE_WRITE | WatchMask::MOVED_TO | WatchMask::CREATE,
            )
            .unwrap();
        let end = Instant::now() + PATIENCE;
        loop {
            if std::fs::read_to_string(path).is_ok_and(|t| cond(&t)) {
                return;
            }
            assert!(
                Instant::now() < end,
                "{}: {} did not come\n{}",
                self.name,
                path.display(),
                self.log()
            );
            use std::os::fd::AsFd;
            let mut fds = [nix::poll::PollFd::new(
                ino.as_fd(),
                nix::poll::PollFlags::POLLIN,
            )];
            nix::poll::poll(&mut fds, 1000u16).unwrap();
            let mut buf = [0; 4096];
            let _ = ino.read_events(&mut buf).map(|e| e.count());
        }
    }

    /// Waits until the log of the daemon has this text.
    pub fn wait_log(&self, text: &str) {
        self.wait_file(&self.dir.join("log"), |t| t.contains(text));
    }

    pub fn run_file(&self, name: &str) -> PathBuf {
        self.env.run_dir.join(name)
    }
    pub fn bin_dir(&self) -> PathBuf {
        self.dir.join("bin")
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Some(mut c) = self.child.take() {
            let _ = c.kill();
            let _ = c.wait();
        }
    }
}

/// A running cluster: the first host creates it, the others know everything already (as if joined long ago).
pub fn cluster(net: u8, names: &[&str], heartbeat_ms: u64) -> Vec<Host> {
    let hosts: Vec<Host> = names
        .iter()
        .enumerate()
        .map(|(i, n)| Host::new(n, &format!("127.41.{net}.{}", i + 1), heartbeat_ms))
        .collect();
    let first = &hosts[0];
    first.create_cluster();
    for h in &hosts {
        for o in &hosts {
            h.set(&format!("ips/ip-{}", o.name), &o.ip.to_string());
        }
        let mut b = Batch::new();
        let u = first.get("uuid").unwrap();
        b.set_stamped(Key::Uuid, UUID, u.stamp);
        h.tree.commit(&b).unwrap();
    }
    hosts
}

/// Every host sees the heartbeat of every other one.
pub fn wait_connected(hosts: &[Host]) {
    for h in hosts {
        for o in hosts {
            h.wait(&format!("heartbeat of {}", o.name), |h| {
                h.text(&format!("actual-{}/alive", o.name)).as_deref() == Some("1")
            });
        }
    }
}
