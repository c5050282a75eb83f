//! The loop device: attaching, growing, finding out who uses it.

use crate::sys;
use nix::errno::Errno;
use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Attempts to win a free device against other processes.
const ATTEMPTS: usize = 64;

/// A loop device. It is either *held*: this process has it open, and it goes away with its last opener, so that nothing is left when the process dies. Or
/// it *stays*: nobody needs to have it open. Then this process must not: the last close writes the cache back, and with a process that dies it would
/// wait for answers that only the next process can give.
pub(crate) struct LoopDevice {
    /// `/dev/loopN`.
    pub(crate) path: PathBuf,
    /// Device number of the node.
    rdev: u64,
    /// Device and inode of the backing file.
    backing: (u64, u64),
    held: Option<File>,
}

fn open(path: &Path, flags: i32) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(flags)
        .open(path)
}

impl LoopDevice {
    /// Attaches the file to a free device.
    pub(crate) fn attach(backing: &File, name: &str) -> io::Result<LoopDevice> {
        let control = open(Path::new("/dev/loop-control"), 0)?;
        for _ in 0..ATTEMPTS {
            let number = sys::loop_get_free(control.as_fd())?;
            let path = PathBuf::from(format!("/dev/loop{number}"));
            let file = open(&path, 0)
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?;
            match sys::loop_configure(file.as_fd(), backing.as_fd(), name.as_bytes()) {
                Ok(()) => {
                    let direct = fs::read_to_string(format!("/sys/block/loop{number}/loop/dio"));
                    if direct.is_ok_and(|d| d.trim() == "0") {
                        tracing::warn!("{}: no direct I/O: writes will be slow", path.display());
                    }
                    let backing = sys::loop_backing(file.as_fd())?;
                    let rdev = file.metadata()?.rdev();
                    return Ok(LoopDevice {
                        path,
                        rdev,
                        backing,
                        held: Some(file),
                    });
                }
                // Another process has taken it meanwhile.
                Err(Errno::EBUSY) => {}
                Err(e) => {
                    return Err(io::Error::other(format!(
                        "{}: LOOP_CONFIGURE: {e}",
                        path.display()
                    )));
                }
            }
        }
        Err(io::Error::new(
            io::ErrorKind::ResourceBusy,
            "no free loop device",
        ))
    }

    /// A device that another process has let stay on this backing file. `None` when it is gone. The file system below must answer already.
    pub(crate) fn adopt(number: u32, backing: (u64, u64)) -> io::Result<Option<LoopDevice>> {
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let file = open(&path, 0)?;
        if sys::loop_backing(file.as_fd()) != Ok(backing) {
            return Ok(None);
        }
        Ok(Some(LoopDevice {
            path,
            rdev: file.metadata()?.rdev(),
            backing,
            held: None,
        }))
    }

    /// Number, and device of the backing file: what [`LoopDevice::adopt`] needs.
    pub(crate) fn identity(&self) -> (u32, u64) {
        // libc's number is wider than the kernel's.
        (nix::sys::stat::minor(self.rdev) as u32, self.backing.0)
    }

    /// Runs with the open device. The file system below must answer.
    fn with<R>(&self, f: impl FnOnce(&File) -> nix::Result<R>) -> io::Result<R> {
        Ok(match &self.held {
            Some(file) => f(file)?,
            None => f(&open(&self.path, 0)?)?,
        })
    }

    /// From now on it goes away with its last opener, at the earliest with this process.
    pub(crate) fn hold(&mut self) -> io::Result<()> {
        if self.held.is_none() {
            let file = open(&self.path, 0)?;
            sys::loop_set_autoclear(file.as_fd(), true)?;
            self.held = Some(file);
        }
        Ok(())
    }

    /// From now on it stays.
    pub(crate) fn let_stay(&mut self) -> io::Result<()> {
        if let Some(file) = &self.held {
            sys::loop_set_autoclear(file.as_fd(), false)?;
            self.held = None;
        }
        Ok(())
    }

    /// Makes the kernel look at the size of the backing file (its attributes are not cached), and takes over the new size.
    pub(crate) fn grow(&self) -> io::Result<()> {
        self.with(|file| {
            sys::loop_backing(file.as_fd())?;
            sys::loop_set_capacity(file.as_fd())
        })
    }

    /// Claims the device exclusively: from then on nobody can mount it or claim it. EBUSY when it is mounted, swapped on, or part of
    /// another device, in whatever name space.
    pub(crate) fn claim(&self) -> io::Result<File> {
        OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_EXCL)
            .open(&self.path)
    }

    /// Opens the device again after [`LoopDevice::close`]. `None` when it has been cleared.
    pub(crate) fn reopen(closed: ClosedLoop) -> io::Result<Option<LoopDevice>> {
        let file = open(&closed.path, 0)?;
        let ClosedLoop {
            path,
            rdev,
            backing,
        } = closed;
        match sys::loop_backing(file.as_fd()) {
            Ok(now) if now == backing => Ok(Some(LoopDevice {
                path,
                rdev,
                backing,
                held: Some(file),
            })),
            _ => Ok(None),
        }
    }

    /// Lets go of a device that is held. The kernel writes its cache back and clears the device when nobody else has it open.
    pub(crate) fn close(self) -> ClosedLoop {
        ClosedLoop {
            path: self.path,
            rdev: self.rdev,
            backing: self.backing,
        }
    }

    /// Who uses the device, as far as can be seen without disturbing (an exclusive open would make a mount at the same moment fail,
    /// and there is no count of openers in sysfs): mounts in the name spaces of all visible processes, swap, devices on top,
    /// descriptors of other processes.
    pub(crate) fn openers(&self) -> u64 {
        let mut count = 0;
        if let Some(name) = self.path.file_name() {
            let holders = Path::new("/sys/block").join(name).join("holders");
            count += fs::read_dir(holders).map_or(0, |d| d.count() as u64);
        }
        let path = self.path.to_string_lossy();
        if let Ok(swaps) = fs::read_to_string("/proc/swaps") {
            count += swaps
                .lines()
                .filter(|l| l.split(' ').next() == Some(&path))
                .count() as u64;
        }
        let mut name_spaces = HashSet::new();
        let me = std::process::id().to_string();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name();
            if !name.as_encoded_bytes().iter().all(u8::is_ascii_digit) {
                continue;
            }
            let dir = entry.path();
            if fs::read_link(dir.join("ns/mnt")).is_ok_and(|ns| name_spaces.insert(ns)) {
                let mounts = fs::read(dir.join("mountinfo")).unwrap_or_default();
                count += mounts_of(&String::from_utf8_lossy(&mounts), self.rdev, &path);
            }
            if name.as_encoded_bytes() != me.as_bytes() {
                count += self.descriptors(&dir.join("fd"));
            }
        }
        count
    }

    fn descriptors(&self, dir: &Path) -> u64 {
        let uses = |fd: &fs::DirEntry| {
            // Only device nodes are looked at: a stat of something on a dead network file system would hang.
            let path = fd.path();
            fs::read_link(&path).is_ok_and(|t| t.starts_with("/dev"))
                && fs::metadata(&path).is_ok_and(|m| m.rdev() == self.rdev)
        };
        fs::read_dir(dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter(uses)
            .count() as u64
    }
}

/// Frees a device whose file system has died with a process that let it stay. One that lives is another's by now.
pub(crate) fn clear_dead(number: u32) {
    let cleared = open(Path::new(&format!("/dev/loop{number}")), 0).and_then(|file| {
        if sys::loop_backing(file.as_fd()) == Err(Errno::ENOTCONN) {
            sys::loop_clear(file.as_fd())?;
        }
        Ok(())
    });
    if let Err(e) = cleared {
        tracing::debug!("/dev/loop{number}: {e}");
    }
}

/// A loop device that this process has let go.
pub(crate) struct ClosedLoop {
    pub(crate) path: PathBuf,
    rdev: u64,
    backing: (u64, u64),
}

/// The lines of a mountinfo file that belong to the device, by number or (btrfs has numbers of its own) by source.
fn mount_lines<'a>(
    mountinfo: &'a str,
    rdev: u64,
    path: &'a str,
) -> impl Iterator<Item = &'a str> + use<'a> {
    let number = format!(
        "{}:{}",
        nix::sys::stat::major(rdev),
        nix::sys::stat::minor(rdev)
    );
    mountinfo.lines().filter(move |line| {
        let (mount, source) = line.split_once(" - ").unwrap_or((line, ""));
        mount.split(' ').nth(2) == Some(&number) || source.split(' ').nth(1) == Some(path)
    })
}

fn mounts_of(mountinfo: &str, rdev: u64, path: &str) -> u64 {
    mount_lines(mountinfo, rdev, path).count() as u64
}

/// Where the first process of the host sees the device mounted, the youngest mount first. Empty when that cannot be seen.
pub(crate) fn mount_points(device: &Path) -> Vec<PathBuf> {
    let (Ok(info), Ok(meta)) = (fs::read("/proc/1/mountinfo"), fs::metadata(device)) else {
        return Vec::new();
    };
    let info = String::from_utf8_lossy(&info);
    directories(&info, meta.rdev(), &device.to_string_lossy())
}

fn directories(mountinfo: &str, rdev: u64, path: &str) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = mount_lines(mountinfo, rdev, path)
        .filter_map(|line| Some(PathBuf::from(unescape(line.split(' ').nth(4)?))))
        .collect();
    found.reverse();
    found
}

/// The kernel writes blank, tab, newline and backslash as three octal digits behind a backslash.
fn unescape(text: &str) -> String {
    let codes = [
        ("\\040", " "),
        ("\\011", "\t"),
        ("\\012", "\n"),
        ("\\134", "\\"),
    ];
    codes
        .iter()
        .fold(text.to_string(), |t, (code, c)| t.replace(code, c))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_found_by_number_and_by_source() {
        let info = "30 25 7:3 / /mnt/a rw shared:1 - ext4 /dev/loop3 rw\n\
                    31 25 0:99 / /mnt/b rw - btrfs /dev/loop3 rw\n\
                    32 25 7:33 / /mnt/c rw - xfs /dev/loop33 rw\n\
                    garbage\n\n";
        assert_eq!(
            mounts_of(info, nix::sys::stat::makedev(7, 3), "/dev/loop3"),
            2
        );
        assert_eq!(
            mounts_of(info, nix::sys::stat::makedev(7, 4), "/dev/loop4"),
            0
        );
    }

    #[test]
    fn mount_points_are_told_youngest_first() {
        let info = "30 25 7:3 / /mnt/a rw shared:1 - ext4 /dev/loop3 rw\n\
                    31 25 0:99 / /mnt/b\\040c\\134 rw - btrfs /dev/loop3 rw\n\
                    33 25 7:3\n";
        assert_eq!(
            directories(info, nix::sys::stat::makedev(7, 3), "/dev/loop3"),
            [Path::new("/mnt/b c\\"), Path::new("/mnt/a")]
        );
    }
}
