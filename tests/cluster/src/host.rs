//! One host: a container with its own systemd.
use crate::disk::Disk;
use crate::journal;
use crate::keeper::{NET, cgroup, dead};
use crate::util::{PATIENCE, children, run, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a command printed.
#[derive(Clone, Debug)]
pub struct Ran {
    /// Exit status.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

impl From<Output> for Ran {
    fn from(o: Output) -> Ran {
        Ran {
            code: o.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&o.stdout).into_owned(),
            err: String::from_utf8_lossy(&o.stderr).into_owned(),
        }
    }
}

/// A container that runs.
#[derive(Debug)]
struct Running {
    nspawn: Child,
    /// Process id of its systemd.
    leader: i32,
}

/// A host, running or not.
#[derive(Debug)]
pub struct Host {
    /// Its name.
    pub name: String,
    /// Its address.
    pub ip: String,
    /// Data disks: the name below `/dev/vg`, and the loop device.
    pub disks: Vec<(String, Disk)>,
    dir: PathBuf,
    world: i32,
    number: usize,
    boots: Mutex<u32>,
    running: Mutex<Option<Running>>,
}

impl Host {
    pub(crate) fn new(
        name: &str,
        number: usize,
        dir: PathBuf,
        world: i32,
        disks: Vec<(String, Disk)>,
    ) -> Host {
        Host {
            name: name.to_string(),
            ip: format!("{NET}.{}", number + 1),
            disks,
            dir,
            world,
            number,
            boots: Mutex::new(0),
            running: Mutex::new(None),
        }
    }

    /// The host's root file system as one can look at it from outside, also when it is down: what was changed since the installation.
    pub fn changed_files(&self) -> PathBuf {
        self.dir.join("upper")
    }

    /// The file below a data disk.
    pub fn image(&self, disk: &str) -> &Path {
        let found = self.disks.iter().find(|(n, _)| n == disk);
        &found.unwrap_or_else(|| panic!("no disk {disk}")).1.image
    }

    /// Also after a panic: the evidence is saved then.
    fn running(&self) -> MutexGuard<'_, Option<Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cluster_dir(&self) -> &Path {
        self.dir.parent().expect("directory of the cluster")
    }

    /// Starts the container; returns when its systemd runs, long before it has started everything.
    pub fn boot_begin(&self) {
        let mut running = self.running();
        assert!(running.is_none(), "{} runs already", self.name);
        let boot = {
            let mut boots = self.boots.lock().expect("lock");
            *boots += 1;
            *boots
        };
        let console = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir.join("console"))
            .expect("console");
        let group = cgroup(self.cluster_dir()).join(format!("{}.{boot}", self.name));
        let mut c = Command::new("nsenter");
        c.args(["-m", "-p", "-n", "-t", &self.world.to_string(), "--"])
            .args(["sh", "-c", "mkdir -p \"$1\" && echo 0 >\"$1\"/cgroup.procs && shift && exec systemd-nspawn \"$@\"", "sh"])
            .arg(group)
            .args(["--quiet", "--boot", "--console=pipe", "--register=no", "--keep-unit", "--capability=all"])
            .arg(format!("--directory={}", self.dir.join("root").display()))
            .arg(format!("--machine={}", self.name))
            .arg(format!("--network-namespace-path=/run/netns/{}", self.name))
            .args(["--bind=/dev/fuse", "--bind=/dev/loop-control"])
            .arg(format!("--bind={}:/cluster", self.cluster_dir().join("shared").display()));
        for (name, disk) in &self.disks {
            c.arg(format!("--bind={}:/dev/vg/{name}", disk.device.display()));
        }
        let nspawn = c
            .env_clear()
            .env("PATH", PATH)
            .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
            .stdin(Stdio::null())
            .stdout(console.try_clone().expect("console"))
            .stderr(console)
            .spawn()
            .expect("nsenter starts");
        let outer = i32::try_from(nspawn.id()).expect("a process id");
        let mut nspawn = Some(nspawn);
        let mut leader = None;
        wait_for(&format!("the systemd of {}", self.name), || {
            leader = children(outer)
                .into_iter()
                .flat_map(children)
                .find(|p| is_systemd(*p));
            let ended = nspawn
                .as_mut()
                .expect("child")
                .try_wait()
                .expect("systemd-nspawn");
            assert!(
                ended.is_none(),
                "{}: systemd-nspawn ended: {}",
                self.name,
                self.console()
            );
            leader.is_some()
        });
        *running = Some(Running {
            nspawn: nspawn.take().expect("child"),
            leader: leader.expect("leader"),
        });
    }

    /// Waits until everything has been started.
    pub fn boot_end(&self) {
        wait_for(&format!("{} to be up", self.name), || {
            let r = self.run(&["systemctl", "is-system-running", "--wait"]);
            ["running", "degraded"].contains(&r.out.trim())
        });
    }

    /// Starts the container and waits until everything in it has been started.
    pub fn boot(&self) {
        self.boot_begin();
        self.boot_end();
    }

    /// Shuts down the regular way; returns when the container is gone.
    pub fn shutdown(&self) {
        self.run(&["systemctl", "poweroff"]);
        self.ended("the shutdown");
    }

    /// Takes the power away: everything that runs in the container is gone at once, and so is what the kernel kept for it.
    pub fn power_cut(&self) {
        let leader = self.leader().expect("a running host");
        let before: Vec<String> = dead(&[]).into_iter().map(|(name, _)| name).collect();
        kill(Pid::from_raw(leader), Signal::SIGKILL).expect("kill");
        self.ended("the power cut");
        for (name, _) in dead(&before) {
            // It may have gone by itself meanwhile.
            let _ = Command::new("losetup")
                .args(["--detach", &format!("/dev/{name}")])
                .stderr(Stdio::null())
                .status();
        }
    }

    fn ended(&self, what: &str) {
        let mut running = self.running();
        let Some(r) = running.as_mut() else { return };
        let end = Instant::now() + PATIENCE;
        while r.nspawn.try_wait().expect("systemd-nspawn").is_none() {
            assert!(
                Instant::now() < end,
                "{}: timeout waiting for the end of {what}\n{}",
                self.name,
                self.console()
            );
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        *running = None;
    }

    /// Whether the container runs.
    pub fn is_up(&self) -> bool {
        self.leader().is_some()
    }

    /// Process id of its systemd.
    pub fn leader(&self) -> Option<i32> {
        self.running().as_ref().map(|r| r.leader)
    }

    /// A command line to be run inside, not started yet.
    pub fn command(&self, args: &[&str]) -> Command {
        let leader = self
            .leader()
            .unwrap_or_else(|| panic!("{} is down: {args:?}", self.name));
        let mut c = Command::new("nsenter");
        c.args([
            "-m",
            "-u",
            "-i",
            "-n",
            "-p",
            "-C",
            "-t",
            &leader.to_string(),
            "--",
        ])
        .args(args)
        .env_clear()
        .envs([("PATH", PATH), ("HOME", "/root"), ("LANG", "C.UTF-8")])
        .stdin(Stdio::null());
        c
    }

    /// Runs a command inside, whatever comes of it.
    pub fn run(&self, args: &[&str]) -> Ran {
        self.command(args).output().expect("nsenter starts").into()
    }

    /// Runs a command inside, which must succeed; returns its output.
    pub fn ok(&self, args: &[&str]) -> String {
        let r = self.run(args);
        assert_eq!(r.code, 0, "{}: {args:?}: {}{}", self.name, r.out, r.err);
        r.out
    }

    /// Runs a shell script inside, which must succeed; returns its output.
    pub fn sh(&self, script: &str) -> String {
        self.ok(&["sh", "-euc", script])
    }

    /// Writes a file inside, with the directories above it.
    pub fn write(&self, path: &str, text: &str) {
        use std::io::Write;
        let script = "mkdir -p \"${1%/*}\" && cat >\"$1\"";
        let mut child = self
            .command(&["sh", "-euc", script, "sh", path])
            .stdin(Stdio::piped())
            .spawn()
            .expect("nsenter starts");
        let mut input = child.stdin.take().expect("a pipe");
        input.write_all(text.as_bytes()).expect("writing");
        drop(input);
        assert!(
            child.wait().expect("nsenter").success(),
            "{}: {path}",
            self.name
        );
    }

    /// Runs `marsadm ARGS`, which must succeed; returns its output.
    pub fn marsadm(&self, args: &[&str]) -> String {
        self.ok(&[&["marsadm"], args].concat())
    }

    /// Runs `marsadm ARGS`, which must fail with status 1 and name all of `words`.
    pub fn refused(&self, args: &[&str], words: &[&str]) -> Ran {
        let r = self.run(&[&["marsadm"], args].concat());
        assert_eq!(
            r.code, 1,
            "{}: marsadm {args:?} should be refused: {r:?}",
            self.name
        );
        for w in words {
            assert!(
                r.err.contains(w),
                "{}: marsadm {args:?}: {:?} does not name {w:?}",
                self.name,
                r.err
            );
        }
        r
    }

    /// What `marsadm view-MACRO RES` prints, empty when it fails.
    pub fn view(&self, makro: &str, res: &str) -> String {
        let r = self.run(&["marsadm", &format!("view-{makro}"), res]);
        r.out.trim_end().to_string()
    }

    /// Waits until `marsadm view-MACRO RES` prints `value`.
    pub fn wait_view(&self, makro: &str, res: &str, value: &str) {
        let what = format!("{}: view-{makro} {res} = {value}", self.name);
        wait_for(&what, || self.view(makro, res) == value);
    }

    /// Waits until `/dev/mars/RES` is there.
    pub fn wait_device(&self, res: &str) {
        let device = format!("/dev/mars/{res}");
        wait_for(&format!("{}: {device}", self.name), || {
            self.run(&["test", "-b", &device]).code == 0
        });
    }

    /// Takes the host's network away, or gives it back.
    pub fn connect(&self, on: bool) {
        let state = if on { "up" } else { "down" };
        let world = self.world.to_string();
        run(Command::new("nsenter")
            .args(["-m", "-n", "-t", &world, "--", "ip", "link", "set"])
            .args([&format!("v{}", self.number), state]));
    }

    /// kill -9 of a unit's main process; returns when systemd runs another one and calls it ready.
    pub fn kill_unit(&self, unit: &str) {
        let pid = self.property(unit, "MainPID");
        assert_ne!(pid, "0", "{}: {unit} does not run", self.name);
        self.ok(&["kill", "-9", &pid]);
        // Both in one answer: between two the unit may have ended.
        wait_for(&format!("{}: {unit} to run again", self.name), || {
            let out = self.ok(&["systemctl", "show", "-p", "ActiveState,MainPID", unit]);
            let has = |line: &str| out.lines().any(|l| l == line);
            has("ActiveState=active") && !has("MainPID=0") && !has(&format!("MainPID={pid}"))
        });
    }

    /// `ActiveState` of a unit.
    pub fn active(&self, unit: &str) -> String {
        self.property(unit, "ActiveState")
    }

    /// A property of a unit.
    pub fn property(&self, unit: &str, name: &str) -> String {
        let out = self.ok(&["systemctl", "show", "--value", "-p", name, unit]);
        out.trim_end().to_string()
    }

    /// Waits until a unit is `active`, `inactive`, ...
    pub fn wait_active(&self, unit: &str, state: &str) {
        wait_for(&format!("{}: {unit} to be {state}", self.name), || {
            self.active(unit) == state
        });
    }

    /// Units that have failed.
    pub fn failed_units(&self) -> Vec<String> {
        let out = self.ok(&["systemctl", "--failed", "--plain", "--no-legend"]);
        out.lines().map(str::to_string).collect()
    }

    /// What was printed on the console.
    pub fn console(&self) -> String {
        fs::read_to_string(self.dir.join("console")).unwrap_or_default()
    }

    /// The directory of its journal, seen from outside.
    pub fn journal_dir(&self) -> PathBuf {
        self.changed_files().join("var/log/journal")
    }

    /// Saves journal, console and state into a directory.
    pub(crate) fn save(&self, into: &Path) {
        journal::save(
            &self.journal_dir(),
            &self.dir.join("console"),
            into,
            &self.name,
        );
        if !self.is_up() {
            return;
        }
        let script = "marsadm view all; find /mars -type l -printf '%p -> %l @%T@\\n' -o -type f -printf '%p %s\\n' | sort; \
                      systemctl --all --no-pager list-units 'mars*' '*.mount'; systemctl list-jobs; systemctl --no-pager status 'mars*'; \
                      losetup -a; cat /proc/mounts; ps axfww";
        let mut c = self.command(&["timeout", "10", "sh", "-c", script]);
        if let Ok(o) = c.output() {
            let text = [o.stdout, o.stderr].concat();
            let _ = fs::write(into.join(format!("{}.state", self.name)), text);
        }
    }

    /// A shell for a person.
    pub fn shell(&self, hint: &str) {
        let mut c = self.command(&["bash", "--norc", "-i"]);
        c.env("PS1", format!("{hint}{}# ", self.name));
        if let Some(term) = std::env::var_os("TERM") {
            c.env("TERM", term);
        }
        c.stdin(Stdio::inherit());
        let _ = c.status();
    }
}

/// The first process of a process name space, and systemd already.
fn is_systemd(pid: i32) -> bool {
    let read = |what: &str| fs::read_to_string(format!("/proc/{pid}/{what}")).unwrap_or_default();
    let first =
        |line: &&str| line.starts_with("NSpid:") && line.split_whitespace().last() == Some("1");
    read("status").lines().any(|l| first(&l)) && read("comm").trim_end() == "systemd"
}
