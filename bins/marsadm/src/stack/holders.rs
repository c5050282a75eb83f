//! Who holds a device: looked up in `/proc`, for the message of a handover that cannot proceed.
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

/// A stat of something on a dead network file system may hang: then nobody waits for it any longer than this.
const LIMIT: Duration = Duration::from_secs(5);
/// So many holders are named; the rest is counted.
const NAMED_MAX: usize = 5;
/// Longest command and longest path in the text, characters.
const COMMAND_MAX: usize = 60;
const PATH_MAX: usize = 100;
/// More descriptors of one process are not looked at: one is enough.
const DESCRIPTORS_MAX: usize = 20_000;

/// A block device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Device {
    /// Device number.
    pub rdev: u64,
    /// `/dev/loop3`.
    pub path: PathBuf,
}

impl Device {
    /// The block device behind `DEV_DIR/NAME`; `None` when that is none (a socket of the NBD front, say).
    pub fn of(link: &Path) -> Option<Device> {
        let path = fs::canonicalize(link).ok()?;
        let meta = fs::metadata(&path).ok()?;
        meta.file_type().is_block_device().then(|| Device {
            rdev: meta.rdev(),
            path,
        })
    }
}

/// A process that uses a device, or a mount that nobody seems to use.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Holder {
    /// The process, or one that sees the mount.
    pub pid: u32,
    /// Its command line.
    pub command: String,
    /// What it has open, or where the file system is mounted.
    pub path: String,
    /// Is it only a mount in this process's name space?
    pub mount: bool,
}

/// One line of a mountinfo file.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Mount {
    dev: String,
    point: String,
    kind: String,
    source: String,
    /// Does it follow a mount in another name space?
    copy: bool,
}

fn parse_mounts(mountinfo: &str) -> Vec<Mount> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (left, right) = line.split_once(" - ")?;
            let left: Vec<&str> = left.split(' ').collect();
            let mut right = right.split(' ');
            Some(Mount {
                copy: left.iter().skip(6).any(|f| f.starts_with("master:")),
                dev: (*left.get(2)?).to_string(),
                point: unescape(left.get(4)?),
                kind: right.next()?.to_string(),
                source: unescape(right.next()?),
            })
        })
        .collect()
}

/// `\040` and the like.
fn unescape(s: &str) -> String {
    let mut out = Vec::new();
    let mut rest = s.as_bytes();
    while let Some((&b, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .and_then(|d| std::str::from_utf8(d).ok())
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        match octal.filter(|_| b == b'\\') {
            Some(c) => {
                out.push(c);
                rest = &tail[3..];
            }
            None => {
                out.push(b);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// Could looking at something there block? The mount with the longest matching path decides.
fn may_hang(mounts: &[Mount], path: &str) -> bool {
    let below = |m: &&Mount| {
        path.strip_prefix(m.point.trim_end_matches('/'))
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    mounts
        .iter()
        .filter(below)
        .max_by_key(|m| m.point.len())
        .is_some_and(|m| {
            ["nfs", "cifs", "smb", "fuse", "ceph", "9p", "afs"]
                .iter()
                .any(|k| m.kind.starts_with(k))
        })
}

/// `7:3` of a device number.
fn dev_text(rdev: u64) -> String {
    use nix::sys::stat::{major, minor};
    format!("{}:{}", major(rdev), minor(rdev))
}

struct Search<'a> {
    proc: &'a Path,
    device: &'a Device,
    /// Numbers of the device and of file systems on it that have numbers of their own (btrfs).
    devs: BTreeSet<String>,
    /// Mounts of each mount name space.
    spaces: BTreeMap<PathBuf, Vec<Mount>>,
}

impl Search<'_> {
    fn pids(&self) -> Vec<u32> {
        let mut pids: Vec<u32> = fs::read_dir(self.proc)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|e| e.file_name().to_str()?.parse().ok())
            .collect();
        pids.sort_unstable();
        pids
    }

    fn dir(&self, pid: u32) -> PathBuf {
        self.proc.join(pid.to_string())
    }

    /// Reads the mounts of all name spaces. Returns those of the device, each with the first process that sees it.
    fn mounts(&mut self, pids: &[u32]) -> Vec<(u32, Mount)> {
        let mut found = Vec::new();
        for &pid in pids {
            let Ok(space) = fs::read_link(self.dir(pid).join("ns/mnt")) else {
                continue;
            };
            if self.spaces.contains_key(&space) {
                continue;
            }
            let text = fs::read(self.dir(pid).join("mountinfo")).unwrap_or_default();
            let mounts = parse_mounts(&String::from_utf8_lossy(&text));
            let source = self.device.path.to_string_lossy();
            for m in &mounts {
                if self.devs.contains(&m.dev) || m.source == source {
                    found.push((pid, m.clone()));
                }
            }
            self.spaces.insert(space, mounts);
        }
        self.devs.extend(found.iter().map(|(_, m)| m.dev.clone()));
        found
    }

    /// What this process has of the device; the first thing found.
    fn uses(&self, pid: u32) -> Option<String> {
        let dir = self.dir(pid);
        let space = fs::read_link(dir.join("ns/mnt")).ok()?;
        let none = Vec::new();
        let mounts = self.spaces.get(&space).unwrap_or(&none);
        let on_device = |link: PathBuf| -> Option<String> {
            let target = fs::read_link(&link).ok()?.to_string_lossy().into_owned();
            if !target.starts_with('/') || may_hang(mounts, &target) {
                return None;
            }
            let meta = fs::metadata(&link).ok()?;
            let node = meta.file_type().is_block_device() && meta.rdev() == self.device.rdev;
            (node || self.devs.contains(&dev_text(meta.dev()))).then_some(target)
        };
        if let Some(path) = ["cwd", "root", "exe"]
            .iter()
            .find_map(|n| on_device(dir.join(n)))
        {
            return Some(path);
        }
        let descriptors = fs::read_dir(dir.join("fd")).into_iter().flatten().flatten();
        if let Some(path) = descriptors
            .take(DESCRIPTORS_MAX)
            .find_map(|e| on_device(e.path()))
        {
            return Some(path);
        }
        let maps = fs::read(dir.join("maps")).unwrap_or_default();
        String::from_utf8_lossy(&maps)
            .lines()
            .find_map(|l| self.mapped(l))
    }

    /// The path of a line of `maps` when it is on the device.
    fn mapped(&self, line: &str) -> Option<String> {
        let mut words = line.split_ascii_whitespace();
        let (major, minor) = words.nth(3)?.split_once(':')?;
        let number = |s: &str| u64::from_str_radix(s, 16).ok();
        let dev = format!("{}:{}", number(major)?, number(minor)?);
        let path = words.nth(1)?;
        self.devs.contains(&dev).then(|| path.to_string())
    }

    fn command(&self, pid: u32) -> String {
        let read = |n: &str| fs::read(self.dir(pid).join(n)).unwrap_or_default();
        let line = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
        match line.trim() {
            "" => String::from_utf8_lossy(&read("comm")).trim().to_string(),
            line => line.to_string(),
        }
    }

    /// The logger itself has the device open, and so may we for a moment.
    fn is_ours(&self, pid: u32) -> bool {
        pid == std::process::id()
            || fs::read(self.dir(pid).join("comm")).is_ok_and(|c| c.starts_with(b"mars-logger"))
    }
}

/// All holders of a device, as far as `proc` shows them: processes, or mounts when no process is found.
pub fn find(proc: &Path, device: &Device) -> Vec<Holder> {
    let mut s = Search {
        proc,
        device,
        devs: BTreeSet::from([dev_text(device.rdev)]),
        spaces: BTreeMap::new(),
    };
    let pids = s.pids();
    let mounts = s.mounts(&pids);
    let mut holders = Vec::new();
    for &pid in pids.iter().filter(|p| !s.is_ours(**p)) {
        if let Some(path) = s.uses(pid) {
            holders.push(Holder {
                pid,
                command: s.command(pid),
                path,
                mount: false,
            });
        }
    }
    if !holders.is_empty() {
        return holders;
    }
    // Copies in name spaces of their own (every hardened service has one) go with the mount that they were made from.
    let (copies, own): (Vec<_>, Vec<_>) = mounts.into_iter().partition(|(_, m)| m.copy);
    let idle = if own.is_empty() { copies } else { own };
    holders.extend(idle.into_iter().map(|(pid, m)| Holder {
        pid,
        command: s.command(pid),
        path: m.point,
        mount: true,
    }));
    holders
}

/// One bounded line.
pub fn describe(holders: &[Holder]) -> String {
    let mut parts: Vec<String> = holders
        .iter()
        .take(NAMED_MAX)
        .map(|h| {
            let (command, path) = (short(&h.command, COMMAND_MAX), short(&h.path, PATH_MAX));
            if h.mount {
                format!(
                    "mounted on {path} in the name space of pid {} ({command})",
                    h.pid
                )
            } else {
                format!("pid {} ({command}) uses {path}", h.pid)
            }
        })
        .collect();
    if holders.len() > NAMED_MAX {
        parts.push(format!("{} more", holders.len() - NAMED_MAX));
    }
    if parts.is_empty() {
        // An export of the kernel, a device on top, a process of another container.
        parts.push("no process to be seen; look for exports, swap and devices on top".to_string());
    }
    parts.join("; ")
}

fn short(text: &str, max: usize) -> String {
    let mut chars = text.chars().map(|c| if c.is_control() { ' ' } else { c });
    let mut out: String = chars.by_ref().take(max).collect();
    if chars.next().is_some() {
        out.push('…');
    }
    out
}

/// Who holds the device now, in one line; `None` when the name stands for no block device.
pub fn now(link: &Path) -> Option<String> {
    let device = Device::of(link)?;
    let (tx, rx) = mpsc::channel();
    std::thread::spawn(move || {
        let _ = tx.send(find(Path::new("/proc"), &device));
    });
    Some(match rx.recv_timeout(LIMIT) {
        Ok(holders) => describe(&holders),
        Err(_) => "the search for its users hangs on some other file system".to_string(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use std::process::{Command, Stdio};

    const INFO: &str = "30 25 7:3 / /mnt/a\\040b rw shared:1 - ext4 /dev/loop3 rw\n\
                        31 25 0:99 / /mnt/b rw - btrfs /dev/loop3 rw\n\
                        32 25 0:44 / /mnt/net rw - nfs4 server:/x rw\n\
                        25 1 8:1 / / rw - ext4 /dev/sda1 rw\n\
                        garbage\n\n";

    #[test]
    fn mountinfo_is_read() {
        let m = parse_mounts(INFO);
        assert_eq!(m.len(), 4);
        assert_eq!(
            (m[0].point.as_str(), m[0].dev.as_str()),
            ("/mnt/a b", "7:3")
        );
        assert!(may_hang(&m, "/mnt/net/file") && may_hang(&m, "/mnt/net"));
        for path in ["/mnt/b/x", "/mnt/netto", "/etc/passwd", "/"] {
            assert!(!may_hang(&m, path), "{path}");
        }
    }

    /// A process tree as files: what `/proc` looks like to a search by name space and mounts.
    #[test]
    fn mounts_without_a_process_are_named_with_their_name_space() {
        let dir = tempfile::tempdir().unwrap();
        for (pid, ns, comm) in [
            (1, "mnt:[1]", "init"),
            (7, "mnt:[1]", "sh"),
            (9, "mnt:[2]", "box"),
        ] {
            let p = dir.path().join(pid.to_string());
            fs::create_dir_all(p.join("ns")).unwrap();
            std::os::unix::fs::symlink(ns, p.join("ns/mnt")).unwrap();
            fs::write(p.join("comm"), format!("{comm}\n")).unwrap();
            fs::write(p.join("mountinfo"), if pid == 9 { INFO } else { "" }).unwrap();
        }
        let device = Device {
            rdev: nix::sys::stat::makedev(7, 3),
            path: "/dev/loop3".into(),
        };
        let found = find(dir.path(), &device);
        let text = describe(&found);
        assert_eq!(
            text,
            "mounted on /mnt/a b in the name space of pid 9 (box); mounted on /mnt/b in the name space of pid 9 (box)"
        );
        // A copy of the mount, made for a service, is not worth a word.
        let copy = "30 25 7:3 / /mnt/c rw master:1 - ext4 /dev/loop3 rw\n";
        fs::write(dir.path().join("1/mountinfo"), copy).unwrap();
        assert_eq!(describe(&find(dir.path(), &device)), text);
        // Memory that is mapped from it, seen by its number; btrfs has one of its own.
        fs::write(
            dir.path().join("7/maps"),
            "7f00-7f01 r--p 00000000 08:01 5 /lib/x\n7f02-7f03 rw-p 00000000 00:63 12 /mnt/b/data\n",
        )
        .unwrap();
        let found = find(dir.path(), &device);
        assert!(
            describe(&found) == "pid 7 (sh) uses /mnt/b/data",
            "{found:?}"
        );
    }

    #[test]
    fn processes_with_files_on_the_device_are_found() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("held");
        fs::write(&file, "x").unwrap();
        // The file system of the directory stands for the one on the device.
        let device = Device {
            rdev: fs::metadata(&file).unwrap().dev(),
            path: "/dev/none".into(),
        };
        let mut child = Command::new("sleep")
            .arg("1000")
            .stdin(Stdio::from(fs::File::open(&file).unwrap()))
            .spawn()
            .unwrap();
        let found = find(Path::new("/proc"), &device);
        child.kill().unwrap();
        child.wait().unwrap();
        let one: Vec<&Holder> = found.iter().filter(|h| h.pid == child.id()).collect();
        assert_eq!(one.len(), 1, "{found:?}");
        assert!(!found.iter().any(|h| h.pid == std::process::id()));
    }

    #[test]
    fn the_text_is_bounded_and_clean() {
        let many: Vec<Holder> = (0..1000)
            .map(|pid| Holder {
                pid,
                command: "c\n".repeat(500),
                path: "ä".repeat(5000),
                mount: pid % 2 == 0,
            })
            .collect();
        let text = describe(&many);
        assert!(text.len() < 2000 && text.ends_with("; 995 more"), "{text}");
        assert!(!text.chars().any(char::is_control));
        assert!(describe(&[]).contains("no process"));
    }
}
