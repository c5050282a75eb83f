//! The root file system of all hosts: Debian with systemd, built once and kept.
use crate::util::{digest, run, write};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

const RELEASE: &str = "bookworm";

/// What is in it.
const PACKAGES: &[&str] = &[
    "dbus",
    "e2fsprogs",
    "fuse3",
    "iproute2",
    "kmod",
    "postgresql",
    "postgresql-contrib",
    "procps",
    "psmisc",
    "systemd",
    "systemd-sysv",
    "udev",
    "util-linux",
    "xfsprogs",
];

/// Units that would only take time, or that need what a container does not have.
const MASKED: &[&str] = &[
    "apt-daily.timer",
    "apt-daily-upgrade.timer",
    "dpkg-db-backup.timer",
    "e2scrub_all.timer",
    "e2scrub_reap.service",
    "fstrim.timer",
    "getty.target",
    "console-getty.service",
    "modprobe@.service",
    "postgresql.service",
    "systemd-timesyncd.service",
];

/// Loop devices that a container has nodes for. Their numbers are shared by all containers and the machine below them.
const LOOPS: u32 = 256;

/// Changes when [`customise`] does.
const GENERATION: &str = "1";

/// Where root file systems are kept: `MARS_CLUSTER_CACHE`, else `/var/cache/mars-cluster`.
pub fn cache_dir() -> PathBuf {
    std::env::var_os("MARS_CLUSTER_CACHE")
        .map_or_else(|| PathBuf::from("/var/cache/mars-cluster"), PathBuf::from)
}

/// The root file system; built when it is not there yet, which takes one or two minutes and needs the network.
pub fn get() -> PathBuf {
    let words = PACKAGES
        .iter()
        .chain(MASKED)
        .copied()
        .chain([RELEASE, GENERATION]);
    let cache = cache_dir();
    let dir = cache.join(format!("rootfs-{}", digest(words)));
    if dir.exists() {
        return dir;
    }
    fs::create_dir_all(&cache).unwrap_or_else(|e| panic!("{}: {e}", cache.display()));
    let lock = File::create(cache.join("lock")).expect("lock file");
    let _one_builds =
        Flock::lock(lock, FlockArg::LockExclusive).unwrap_or_else(|(_, e)| panic!("lock: {e}"));
    if !dir.exists() {
        build(&dir);
    }
    dir
}

fn build(dir: &Path) {
    let started = std::time::Instant::now();
    eprintln!("cluster: building {} (once) ...", dir.display());
    let tmp = dir.with_extension("new");
    if tmp.exists() {
        fs::remove_dir_all(&tmp).expect("removing an unfinished root file system");
    }
    let no_docs = ["doc", "locale", "man"].map(|d| format!("path-exclude=/usr/share/{d}/*"));
    run(Command::new("mmdebstrap")
        .args(["--quiet", "--variant=minbase"])
        .arg(format!("--include={}", PACKAGES.join(",")))
        .args(no_docs.map(|d| format!("--dpkgopt={d}")))
        .arg(RELEASE)
        .arg(&tmp));
    customise(&tmp);
    fs::rename(&tmp, dir).expect("root file system");
    eprintln!(
        "cluster: root file system built in {:.0} s",
        started.elapsed().as_secs_f64()
    );
}

fn customise(root: &Path) {
    for unit in MASKED {
        let path = root.join("etc/systemd/system").join(unit);
        let _ = fs::remove_file(&path);
        symlink("/dev/null", path).expect("masking");
    }
    // PostgreSQL is here for its programs; scenarios start servers of their own.
    run(Command::new("chroot")
        .arg(root)
        .args(["pg_dropcluster", "15", "main"]));
    let nodes: String = (0..LOOPS)
        .map(|n| format!("b /dev/loop{n} 0660 root disk - 7:{n}\n"))
        .collect();
    write(&root.join("etc/tmpfiles.d/loop.conf"), &nodes);
    // Nothing is lost or held back: the journal is evidence.
    write(
        &root.join("etc/systemd/journald.conf.d/cluster.conf"),
        "[Journal]\nStorage=persistent\nRateLimitBurst=0\nForwardToConsole=no\n",
    );
    fs::create_dir_all(root.join("var/log/journal")).expect("directory");
    for file in ["etc/hostname", "etc/resolv.conf", "etc/machine-id"] {
        let _ = fs::remove_file(root.join(file));
    }
    for dir in ["mars", "cluster"] {
        fs::create_dir_all(root.join(dir)).expect("directory");
    }
    let _ = fs::remove_dir_all(root.join("var/cache/apt/archives"));
}
