//! Restart and crash of a logger whose device is in use: no I/O error, nothing lost (I1, I2). Needs root, `/dev/fuse`, loop devices, fio.
//!
//! The test plays the service manager with its real protocol: notifications over a datagram socket, a store of descriptors, descriptors
//! passed at the start, a list of jobs.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::*;
use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{IoSliceMut, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

const MIB: u64 = 1 << 20;
/// Only a hang takes so long.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(Default)]
struct Known {
    ready: u32,
    store: BTreeMap<String, Vec<OwnedFd>>,
}

/// What systemd does for a unit.
struct Manager {
    host: Host,
    known: Arc<(Mutex<Known>, Condvar)>,
    starts: u32,
    /// The last process, to end it with a test that fails.
    last: Option<Pid>,
}

fn serve(socket: &UnixDatagram, known: &(Mutex<Known>, Condvar)) {
    let mut buffer = [0; 4096];
    loop {
        let mut space = nix::cmsg_space!([i32; 8]);
        let (len, fds) = {
            let mut parts = [IoSliceMut::new(&mut buffer)];
            let message = recvmsg::<()>(
                socket.as_raw_fd(),
                &mut parts,
                Some(&mut space),
                MsgFlags::MSG_CMSG_CLOEXEC,
            )
            .unwrap();
            let mut fds = Vec::new();
            for c in message.cmsgs().unwrap() {
                if let ControlMessageOwned::ScmRights(raw) = c {
                    // SAFETY: the kernel has just made these descriptors for this process.
                    fds.extend(raw.iter().map(|&fd| unsafe { OwnedFd::from_raw_fd(fd) }));
                }
            }
            (message.bytes, fds)
        };
        let text = std::str::from_utf8(&buffer[..len]).unwrap();
        let name = text.lines().find_map(|l| l.strip_prefix("FDNAME="));
        let mut k = known.0.lock().unwrap();
        for line in text.lines() {
            match line {
                "READY=1" => k.ready += 1,
                "FDSTOREREMOVE=1" => drop(k.store.remove(name.unwrap())),
                "END" => return,
                _ => {}
            }
        }
        if text.lines().any(|l| l == "FDSTORE=1") {
            k.store.entry(name.unwrap().into()).or_default().extend(fds);
        }
        known.1.notify_all();
    }
}

impl Manager {
    fn new(mib: u64) -> Manager {
        let host = Host::new(mib * MIB);
        host.set("device-alpha", "r");
        let dir = host.dir.path();
        fs::create_dir_all(dir.join("etc")).unwrap();
        fs::write(dir.join("etc/mars.conf"), "front = \"fuse\"\n").unwrap();
        fs::create_dir_all(dir.join("bin")).unwrap();
        let systemctl = dir.join("bin/systemctl");
        fs::write(
            &systemctl,
            format!(
                "#!/bin/sh\ncd {}\nif [ \"$1\" = stop ]; then echo \"$*\" >>asked; [ ! -e unmount ] || . ./unmount; else cat jobs; fi\n",
                dir.display()
            ),
        )
        .unwrap();
        fs::set_permissions(&systemctl, fs::Permissions::from_mode(0o755)).unwrap();
        let known = Arc::default();
        let socket = UnixDatagram::bind(dir.join("notify")).unwrap();
        let shared = Arc::clone(&known);
        std::thread::spawn(move || serve(&socket, &shared));
        Manager {
            host,
            known,
            starts: 0,
            last: None,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.host.dir.path().join(name)
    }

    fn device(&self) -> PathBuf {
        self.path("dev/r")
    }

    fn stored(&self) -> usize {
        let k = self.known.0.lock().unwrap();
        k.store.values().map(Vec::len).sum()
    }

    /// Starts a process of the unit, with what the one before has left.
    fn spawn(&mut self) -> Child {
        let k = self.known.0.lock().unwrap();
        // Copies that the child inherits; the numbers that it expects are made by the shell.
        let mut script = String::from("export LISTEN_PID=$$;");
        let (mut names, mut copies) = (Vec::new(), Vec::new());
        for (name, fds) in &k.store {
            for fd in fds {
                let copy = nix::unistd::dup(fd).unwrap();
                let number = 3 + copies.len();
                script += &format!("exec {number}<&{};", copy.as_raw_fd());
                names.push(name.clone());
                copies.push(copy);
            }
        }
        for c in &copies {
            if c.as_raw_fd() >= 3 + copies.len() as i32 {
                script += &format!("exec {}<&-;", c.as_raw_fd());
            }
        }
        script += "exec \"$0\" r";
        let dir = self.host.dir.path();
        self.starts += 1;
        let child = Command::new("bash")
            .args(["-c", &script, env!("CARGO_BIN_EXE_mars-logger")])
            .env_clear()
            .env(
                "PATH",
                format!("{}:/usr/bin:/bin", dir.join("bin").display()),
            )
            .env("LISTEN_FDS", copies.len().to_string())
            .env("LISTEN_FDNAMES", names.join(":"))
            .env("NOTIFY_SOCKET", dir.join("notify"))
            .env("MARS_ROOT", self.host.tree.root())
            .env("MARS_DEV_DIR", dir.join("dev"))
            .env("MARS_RUN_DIR", dir.join("run"))
            .env("MARS_ETC_DIR", dir.join("etc"))
            .env("MARS_HOST", "alpha")
            .env("MARS_UNIT_MANAGER", "systemd")
            .stdin(Stdio::null())
            .stderr(
                File::options()
                    .append(true)
                    .create(true)
                    .open(dir.join("log"))
                    .unwrap(),
            )
            .spawn()
            .unwrap();
        self.last = Some(Pid::from_raw(child.id().try_into().unwrap()));
        child
    }

    fn start(&mut self) -> Child {
        let mut child = self.spawn();
        let starts = self.starts;
        let known = Arc::clone(&self.known);
        let mut k = known.0.lock().unwrap();
        while k.ready < starts {
            let (guard, timeout) = known.1.wait_timeout(k, LIMIT).unwrap();
            k = guard;
            if timeout.timed_out() {
                child.kill().unwrap();
                panic!("not ready: {}", self.log());
            }
        }
        child
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("log")).unwrap_or_default()
    }

    /// What `systemctl list-jobs` says, and the signal.
    fn signal(&self, child: &Child, job: &str) {
        fs::write(self.path("jobs"), format!("7 {job} running\n")).unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        kill(pid, Signal::SIGTERM).unwrap();
    }

    fn end(&self, mut child: Child, job: &str) {
        self.signal(&child, job);
        assert!(child.wait().unwrap().success(), "{}", self.log());
    }

    /// The unit is really stopped: what is kept for it is closed.
    fn stopped(&self) {
        self.known.0.lock().unwrap().store.clear();
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(pid) = self.last
        {
            // It may have ended, but nobody has waited for it: the number is still its own.
            kill(pid, Signal::SIGKILL).ok();
        }
        if let Ok(mut k) = self.known.0.lock() {
            k.store.clear();
        }
        let socket = UnixDatagram::unbound().unwrap();
        socket.send_to(b"END", self.path("notify")).ok();
    }
}

const RESTART: &str = "mars-logger@r.service restart";
const STOP: &str = "mars-logger@r.service stop";

fn run(program: &str, args: &[&str]) -> String {
    let out = Command::new(program).args(args).output().expect(program);
    let text = [out.stdout, out.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    assert!(out.status.success(), "{program} {args:?}: {text}");
    text
}

struct Mounted(PathBuf);

impl Mounted {
    fn new(device: &Path, dir: PathBuf) -> Mounted {
        fs::create_dir_all(&dir).unwrap();
        // An error of the device must not be forgotten.
        let (device, at) = (device.to_str().unwrap(), dir.to_str().unwrap());
        run(
            "mount",
            &["-t", "ext4", "-o", "errors=remount-ro", device, at],
        );
        Mounted(dir)
    }
    fn umount(self) {
        run("umount", &[self.0.to_str().unwrap()]);
        std::mem::forget(self);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

fn backing_of(device: &Path) -> Option<String> {
    let name = device.file_name()?.to_str()?;
    fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()
}

/// Waits for the kernel, with a limit that only a hang reaches.
fn eventually(what: &str, mut f: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !f() {
        assert!(start.elapsed() < LIMIT, "did not happen: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Writes (direct, deep queue; and buffered with fsync), reads back and compares.
fn fio(dir: &Path) -> Child {
    let directory = format!("--directory={}", dir.display());
    Command::new("timeout")
        .args([
            "-k",
            "5",
            "180",
            "fio",
            &directory,
            "--size=48m",
            "--rw=randwrite",
        ])
        .args([
            "--rate=,6m,",
            "--verify=crc32c",
            "--do_verify=1",
            "--verify_fatal=1",
        ])
        .args([
            "--verify_state_save=0",
            "--bsrange=4k-128k",
            "--group_reporting",
        ])
        .args([
            "--name=direct",
            "--ioengine=libaio",
            "--direct=1",
            "--iodepth=16",
        ])
        .args(["--name=buffered", "--ioengine=psync", "--fsync=16"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("fio")
}

fn written(device: &Path) -> u64 {
    let name = device.file_name().unwrap().to_str().unwrap();
    let stat = fs::read_to_string(format!("/sys/block/{name}/stat")).unwrap();
    stat.split_whitespace().nth(4).unwrap().parse().unwrap()
}

#[test]
fn writers_do_not_notice_kills_and_restarts() {
    let mut m = Manager::new(256);
    let mut child = m.start();
    assert_eq!(m.stored(), 1, "the connection is kept");
    let device = fs::read_link(m.device()).unwrap();
    assert_eq!(backing_of(&device).as_deref(), Some("/mars/r\n"));
    run("mkfs.ext4", &["-q", device.to_str().unwrap()]);
    let mounted = Mounted::new(&m.device(), m.path("mnt"));
    let mut load = fio(&mounted.0);
    for i in 0..8 {
        let before = written(&device);
        eventually("fio writes", || {
            written(&device) > before + 100 || load.try_wait().unwrap().is_some()
        });
        assert!(
            load.try_wait().unwrap().is_none(),
            "fio ended before: {}",
            m.log()
        );
        if i % 3 < 2 {
            child.kill().unwrap();
            child.wait().unwrap();
        } else {
            m.end(child, RESTART);
        }
        assert_eq!(m.stored(), 1);
        child = m.start();
        assert_eq!(fs::read_link(m.device()).unwrap(), device);
        // Other mount name spaces of this machine may have copied the mount.
        let count = m.host.get("actual-alpha/open-count").unwrap();
        assert_ne!(count, "0");
    }
    let out = load.wait_with_output().unwrap();
    let text = String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned();
    assert!(out.status.success(), "{text}\n{}", m.log());
    assert!(text.contains("err= 0"), "{text}");
    mounted.umount();
    run("e2fsck", &["-fn", device.to_str().unwrap()]);

    m.end(child, STOP);
    assert_eq!(m.stored(), 0, "nothing is kept after a stop");
    assert!(!m.device().is_symlink());
    assert_eq!(backing_of(&device).filter(|b| b.contains("/mars/r")), None);
    // The disk behind has it all.
    run("e2fsck", &["-fn", m.host.disk_path().to_str().unwrap()]);
}

/// Nobody serves for a while: who writes waits, and no more.
#[test]
fn requests_wait_while_nobody_serves() {
    let mut m = Manager::new(16);
    let child = m.start();
    let device = fs::read_link(m.device()).unwrap();
    m.end(child, RESTART);
    assert!(m.device().is_symlink(), "the name stays");
    assert_eq!(m.host.get("actual-alpha/is-primary").as_deref(), Some("1"));
    let file = File::options()
        .read(true)
        .write(true)
        .open(&device)
        .unwrap();
    let writer = std::thread::spawn(move || {
        file.write_all_at(&[7; 8192], MIB).unwrap();
        file.sync_all().unwrap();
        file
    });
    let stat = || {
        fs::read_to_string(format!(
            "/sys/block/{}/inflight",
            device.file_name().unwrap().to_str().unwrap()
        ))
        .unwrap()
    };
    eventually("the write waits", || {
        !stat().split_whitespace().all(|n| n == "0")
    });
    // It grew while nobody was there.
    File::options()
        .write(true)
        .open(m.host.disk_path())
        .unwrap()
        .set_len(32 * MIB)
        .unwrap();
    m.host.set("size", 32 * MIB);
    m.host.set("syncstatus-alpha", 32 * MIB);
    let child = m.start();
    let file = writer.join().unwrap();
    let mut back = [0; 8192];
    file.read_exact_at(&mut back, MIB).unwrap();
    assert_eq!(back, [7; 8192]);
    file.write_all_at(&[8; 512], 32 * MIB - 512).unwrap();
    file.sync_all().unwrap();
    drop(file);
    m.end(child, STOP);
    let mut back = [0; 512];
    let disk = File::open(m.host.disk_path()).unwrap();
    disk.read_exact_at(&mut back, 32 * MIB - 512).unwrap();
    assert_eq!(back, [8; 512]);
}

/// A stop of a device in use cuts its users, as before; so does the manager when nobody follows.
#[test]
fn stop_is_a_stop() {
    let mut m = Manager::new(16);
    let child = m.start();
    let device = fs::read_link(m.device()).unwrap();
    let file = File::options().write(true).open(&device).unwrap();
    file.write_all_at(&[7; 4096], 0).unwrap();
    file.sync_all().unwrap();
    m.end(child, STOP);
    assert_eq!(m.stored(), 0);
    assert!(m.log().contains("its users are cut off"), "{}", m.log());
    assert!(!m.device().is_symlink());
    (&file).write_all(&[1; 512]).ok();
    assert!(file.sync_all().is_err());
    drop(file);
    eventually("the loop device is free", || {
        backing_of(&device).is_none_or(|b| !b.contains("/mars/r"))
    });
    // Dead descriptors, should they ever come, are no obstacle.
    let child = m.start();
    m.end(child, RESTART);
    m.stopped();
    let child = m.start();
    m.end(child, STOP);
}

/// The host goes down: the logger waits until the device is closed, because a mount by hand is not ordered before it.
#[test]
fn shutdown_waits_for_the_users() {
    let mut m = Manager::new(16);
    let mut child = m.start();
    let device = fs::read_link(m.device()).unwrap();
    run("mkfs.ext4", &["-q", device.to_str().unwrap()]);
    let mounted = Mounted::new(&m.device(), m.path("mnt"));
    m.signal(
        &child,
        "shutdown.target start waiting\n8 mars-logger@r.service stop",
    );
    eventually("it says what it waits for", || {
        m.log().contains("is in use")
    });
    fs::write(mounted.0.join("late"), vec![5; 100_000]).unwrap();
    assert!(child.try_wait().unwrap().is_none());
    mounted.umount();
    assert!(child.wait().unwrap().success(), "{}", m.log());
    assert_eq!(m.stored(), 0);
    assert!(!m.log().contains("cut off"), "{}", m.log());
    run("e2fsck", &["-fn", m.host.disk_path().to_str().unwrap()]);
}

/// A mount that the service manager had not seen when the shutdown began: the logger asks for it until it is gone.
#[test]
fn shutdown_asks_for_unmounting() {
    let mut m = Manager::new(16);
    let mut child = m.start();
    let device = fs::read_link(m.device()).unwrap();
    run("mkfs.ext4", &["-q", device.to_str().unwrap()]);
    let mounted = Mounted::new(&m.device(), m.path("my mount"));
    fs::write(mounted.0.join("late"), vec![5; 100_000]).unwrap();
    // It does not know the mount at first.
    fs::write(
        m.path("unmount"),
        "if [ -e known ]; then umount \"$4\"; else touch known; exit 5; fi\n",
    )
    .unwrap();
    m.signal(
        &child,
        "shutdown.target start waiting\n8 mars-logger@r.service stop",
    );
    eventually("the logger ends", || child.try_wait().unwrap().is_some());
    assert!(child.wait().unwrap().success(), "{}", m.log());
    let asked = fs::read_to_string(m.path("asked")).unwrap();
    let line = format!("stop --no-block -- {}", mounted.0.display());
    assert_eq!(asked.lines().collect::<Vec<_>>(), [&line, &line]);
    assert!(!m.log().contains("cut off"), "{}", m.log());
    run("e2fsck", &["-fn", m.host.disk_path().to_str().unwrap()]);
    std::mem::forget(mounted);
}

/// A logger that cannot start while its device is in use keeps the users waiting, with growing pauses, and serves when it can, even when another
/// host is designated meanwhile.
#[test]
fn device_in_use_outlives_failing_starts() {
    let mut m = Manager::new(16);
    let child = m.start();
    let device = fs::read_link(m.device()).unwrap();
    let file = File::options().write(true).open(&device).unwrap();
    m.end(child, RESTART);
    let disk = m.host.disk_path();
    fs::rename(&disk, m.path("elsewhere")).unwrap();
    let mut child = m.spawn();
    m.starts -= 1;
    assert!(!child.wait().unwrap().success());
    assert!(m.log().contains("trying again in 1s"), "{}", m.log());
    fs::rename(m.path("elsewhere"), &disk).unwrap();
    m.host.set("primary", "beta");
    let mut child = m.start();
    file.write_all_at(&[7; 4096], 0).unwrap();
    file.sync_all().unwrap();
    assert!(
        child.try_wait().unwrap().is_none(),
        "served until it is closed"
    );
    drop(file);
    assert!(child.wait().unwrap().success(), "{}", m.log());
    assert_eq!(m.stored(), 0);
}

/// Nobody keeps the device any more: a killed logger ends all the same, at once, and so do its users, with errors.
#[test]
fn killed_logger_without_a_store_ends() {
    let mut m = Manager::new(256);
    let mut child = m.start();
    let device = fs::read_link(m.device()).unwrap();
    run("mkfs.ext4", &["-q", device.to_str().unwrap()]);
    let mounted = Mounted::new(&m.device(), m.path("mnt"));
    let mut load = fio(&mounted.0);
    eventually("fio writes", || written(&device) > 200);
    m.stopped();
    child.kill().unwrap();
    eventually("the logger ends", || child.try_wait().unwrap().is_some());
    assert!(!load.wait().unwrap().success());
    drop(mounted);
    // The next one frees what was left.
    let child = m.start();
    m.end(child, STOP);
    eventually("the loop device is free", || {
        backing_of(&device).is_none_or(|b| !b.contains("/mars/r"))
    });
}
