//! The processes that hold a cluster together and take it away.
//!
//! `keeper` lives outside: it starts `world`, waits for its end, removes what the kernel does not remove, and says what was left behind.
//! `world` is the first process of the name spaces: it sets up mounts and the network and waits for the end of its input.
use crate::disk::attached;
use crate::util::{run, wait_for};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Time for the kernel to give loop devices back after the last process has gone.
const SETTLE: Duration = Duration::from_secs(8);

/// First three bytes of the addresses; nobody outside sees them.
pub const NET: &str = "10.77.0";

/// A running keeper, as the harness sees it.
#[derive(Debug)]
pub struct Keeper {
    child: Child,
    /// Process id of the first process of the name spaces.
    pub world: i32,
}

/// The `mars-cluster` program: this one, or the one that was built beside this test.
pub(crate) fn program() -> PathBuf {
    let exe = std::env::current_exe().expect("own path");
    let found = exe
        .ancestors()
        .take(3)
        .map(|d| d.join("mars-cluster"))
        .find(|p| p.is_file());
    found.unwrap_or_else(|| panic!("no mars-cluster beside {}: build it first", exe.display()))
}

impl Keeper {
    /// Starts keeper and world for hosts whose directories are `dir/HOST`.
    pub fn start(dir: &Path, layers: &[PathBuf], hosts: &[&str]) -> Keeper {
        use std::os::unix::process::CommandExt;
        let layers: Vec<String> = layers.iter().map(|l| l.display().to_string()).collect();
        let mut child = Command::new("unshare")
            .args(["--mount", "--propagation", "private", "--"])
            .arg(program())
            .arg("keeper")
            .arg(dir)
            .arg(layers.join(":"))
            .args(hosts)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            // A Ctrl-C is for the harness.
            .process_group(0)
            .spawn()
            .expect("unshare starts");
        let mut line = String::new();
        let out = child.stdout.as_mut().expect("a pipe");
        // One line and not more: what follows is read by `end`.
        let mut byte = [0];
        while out.read(&mut byte).is_ok_and(|n| n == 1) && byte[0] != b'\n' {
            line.push(byte[0] as char);
        }
        let world = line.strip_prefix("ready ").and_then(|p| p.parse().ok());
        let world =
            world.unwrap_or_else(|| panic!("the name spaces of the cluster were not made: {line}"));
        Keeper { child, world }
    }

    /// Ends everything; returns what was left behind, which should be nothing.
    pub fn end(mut self) -> Vec<String> {
        drop(self.child.stdin.take());
        let out = self.child.stdout.take().expect("a pipe");
        let left: Vec<String> = BufReader::new(out).lines().map_while(Result::ok).collect();
        let status = self.child.wait().expect("keeper");
        let ended = (!status.success()).then(|| format!("keeper: {status}"));
        left.into_iter().chain(ended).collect()
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// The cgroup of all hosts of the cluster in `dir`.
pub fn cgroup(dir: &Path) -> PathBuf {
    let name = dir.file_name().expect("a name").to_string_lossy();
    Path::new("/sys/fs/cgroup").join(&*name)
}

/// `mars-cluster keeper DIR LAYERS HOST...`
pub fn keeper_main(dir: &Path, layers: &str, hosts: &[String]) -> Result<(), String> {
    // Of our own, whatever this machine has there.
    let _ = Command::new("umount")
        .args(["-l", "/sys/fs/cgroup"])
        .status();
    run(Command::new("mount").args(["-t", "cgroup2", "none", "/sys/fs/cgroup"]));
    let before: Vec<String> = attached().into_iter().map(|(name, _)| name).collect();
    let ended = Command::new("unshare")
        .args([
            "--mount",
            "--pid",
            "--net",
            "--propagation",
            "private",
            "--fork",
            "--kill-child=SIGKILL",
            "--",
        ])
        .arg(program())
        .arg("world")
        .arg(dir)
        .arg(layers)
        .args(hosts)
        .status();
    let mut left = Vec::new();
    let end = Instant::now() + SETTLE;
    while attached().iter().any(|(_, file)| file.starts_with(dir)) && Instant::now() < end {
        std::thread::sleep(Duration::from_millis(20));
    }
    for (name, file) in attached().iter().filter(|(_, file)| file.starts_with(dir)) {
        left.push(format!("loop device {name} on {}", file.display()));
        let _ = Command::new("losetup")
            .args(["--detach", &format!("/dev/{name}")])
            .status();
    }
    // Devices of loggers stay when these are killed, for the next one. There will be none.
    for (name, _) in dead(&before) {
        let _ = Command::new("losetup")
            .args(["--detach", &format!("/dev/{name}")])
            .status();
    }
    remove_cgroups(&cgroup(dir));
    if let Err(e) = fs::remove_dir_all(dir) {
        left.push(format!("{}: {e}", dir.display()));
    }
    // Nobody listens any more when the harness was killed.
    let mut out = std::io::stdout();
    for line in &left {
        let _ = writeln!(out, "{line}");
    }
    ended.map_err(|e| e.to_string()).map(|_| ())
}

/// Loop devices that were not there before, on a file that is in no file system of this machine and for which nobody answers any more: what a
/// logger leaves behind.
pub(crate) fn dead(before: &[String]) -> Vec<(String, PathBuf)> {
    let silent = |name: &str| {
        let read = Command::new("timeout")
            .args(["3", "dd", "bs=4096", "count=1", "iflag=direct"])
            .args([&format!("if=/dev/{name}"), "of=/dev/null"])
            .stderr(Stdio::null())
            .status();
        // 124: somebody else's, whose answer takes long.
        read.is_ok_and(|s| s.code() == Some(1))
    };
    attached()
        .into_iter()
        .filter(|(name, file)| !before.contains(name) && !file.exists() && silent(name))
        .collect()
}

fn remove_cgroups(dir: &Path) {
    for e in fs::read_dir(dir).into_iter().flatten().flatten() {
        if e.file_type().is_ok_and(|t| t.is_dir()) {
            remove_cgroups(&e.path());
        }
    }
    let _ = fs::remove_dir(dir);
}

fn ip(args: &str) {
    run(Command::new("ip").args(args.split(' ')));
}

/// `mars-cluster world DIR LAYERS HOST...`
pub fn world_main(dir: &Path, layers: &str, hosts: &[String]) {
    // The old /proc still shows the numbers of those outside.
    let me = fs::read_link("/proc/self").expect("/proc/self");
    run(Command::new("mount").args(["-t", "proc", "proc", "/proc"]));
    run(Command::new("mount").args(["-t", "tmpfs", "tmpfs", "/run"]));
    ip("link set lo up");
    ip("link add br0 type bridge");
    ip("link set br0 up");
    for (i, host) in hosts.iter().enumerate() {
        let at = |sub: &str| dir.join(host).join(sub).display().to_string();
        let options = format!(
            "lowerdir={layers},upperdir={},workdir={},volatile",
            at("upper"),
            at("work")
        );
        run(Command::new("mount")
            .args(["-t", "overlay", "overlay", "-o"])
            .arg(options)
            .arg(at("root")));
        ip(&format!("netns add {host}"));
        ip(&format!(
            "link add v{i} type veth peer name eth0 netns {host}"
        ));
        ip(&format!("link set v{i} master br0 up"));
        ip(&format!("-n {host} addr add {NET}.{}/24 dev eth0", i + 1));
        ip(&format!("-n {host} link set eth0 up"));
    }
    println!("ready {}", me.display());
    let mut rest = Vec::new();
    let _ = std::io::stdin().read_to_end(&mut rest);
}

/// Waits until no process is left in the name space that `id` (as `readlink` shows it) names.
pub(crate) fn wait_gone(kind: &str, id: &Path) {
    wait_for(&format!("the end of {}", id.display()), || {
        let list = fs::read_dir("/proc").expect("/proc");
        !list
            .flatten()
            .any(|e| fs::read_link(e.path().join("ns").join(kind)).is_ok_and(|ns| ns == id))
    });
}
