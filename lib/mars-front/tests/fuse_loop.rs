//! FUSE + loop as a real block device: needs root, `/dev/fuse` and loop devices.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::mem::{Mem, Mode, host_env};
use common::{Served, eventually, noise, output, run, text};
use mars_front::{Backend, Front, FrontKind};
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::Ordering;

const MIB: u64 = 1 << 20;

/// In CI a missing device is a failure: a test that does not run proves nothing.
fn possible() -> bool {
    let root = nix::unistd::geteuid().is_root();
    let opens = |p: &str| OpenOptions::new().read(true).write(true).open(p).is_ok();
    if root && opens("/dev/fuse") && opens("/dev/loop-control") {
        return true;
    }
    assert!(
        std::env::var("CI").as_deref() != Ok("true"),
        "needs root and /dev/fuse"
    );
    eprintln!("skipped: needs root and /dev/fuse");
    false
}

fn served(mib: u64) -> Served {
    Served::start(FrontKind::Fuse, mib * MIB, Mode::Scrambled)
}

/// A mount that goes away with the test.
struct Mounted(PathBuf);

impl Mounted {
    fn new(device: &Path, dir: PathBuf) -> Mounted {
        fs::create_dir_all(&dir).unwrap();
        run("mount", &[device.to_str().unwrap(), dir.to_str().unwrap()]);
        Mounted(dir)
    }
    fn umount(self) {
        run("umount", &[self.0.to_str().unwrap()]);
        std::mem::forget(self);
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = output("umount", &["-l", self.0.to_str().unwrap()]);
    }
}

fn backing_of(device: &Path) -> Option<String> {
    let name = device.file_name()?.to_str()?;
    fs::read_to_string(format!("/sys/block/{name}/loop/backing_file")).ok()
}

fn device_is_block_device(device: &Path) {
    let name = device.file_name().unwrap().to_str().unwrap();
    let queue = |what: &str| {
        fs::read_to_string(format!("/sys/block/{name}/queue/{what}"))
            .unwrap()
            .trim()
            .to_owned()
    };
    assert_eq!(queue("logical_block_size"), "512");
    assert_ne!(queue("discard_max_bytes"), "0");
    assert_ne!(queue("write_zeroes_max_bytes"), "0");
    assert_eq!(queue("write_cache"), "write back");
    assert_eq!(
        fs::read_to_string(format!("/sys/block/{name}/loop/dio"))
            .unwrap()
            .trim(),
        "1"
    );
}

fn file_system(mkfs: &[&str], fsck: &[&str]) {
    if !possible() {
        return;
    }
    let mut served = served(400);
    let device = served.front.target().to_owned();
    assert_eq!(fs::read_link(served.link()).unwrap(), device);
    device_is_block_device(&device);
    let link = served.link();
    run(mkfs[0], &[&mkfs[1..], &[link.to_str().unwrap()]].concat());
    let dir = served.dir.path().join("mnt");
    let mounted = Mounted::new(&link, dir.clone());
    for i in 0..60 {
        fs::write(
            dir.join(format!("file{i}")),
            noise(i, (i * i * 500) as usize),
        )
        .unwrap();
    }
    assert!(served.front.openers() > 0, "mounted");
    assert_eq!(
        served.front.stop(false).unwrap_err().raw_os_error(),
        Some(libc::EBUSY)
    );
    for i in (0..60).step_by(2) {
        fs::remove_file(dir.join(format!("file{i}"))).unwrap();
    }
    run("fstrim", &[dir.to_str().unwrap()]);
    mounted.umount();
    assert!(
        served.mem.flushes.load(Ordering::SeqCst) > 0,
        "journals flush"
    );
    assert!(served.mem.zeroes.load(Ordering::SeqCst) > 0, "trim arrives");
    run(fsck[0], &[&fsck[1..], &[link.to_str().unwrap()]].concat());
    let mounted = Mounted::new(&link, dir.clone());
    for i in (1..60).step_by(2) {
        assert!(
            fs::read(dir.join(format!("file{i}"))).unwrap() == noise(i, (i * i * 500) as usize)
        );
    }
    mounted.umount();
    served.front.stop(false).unwrap();
    assert!(!link.is_symlink());
    assert_eq!(backing_of(&device).filter(|b| b.contains("vol")), None);
    // What the backend holds is the file system, too.
    let image = served.dir.path().join("image");
    fs::write(&image, served.mem.content()).unwrap();
    run(fsck[0], &[&fsck[1..], &[image.to_str().unwrap()]].concat());
}

#[test]
fn ext4_lives_on_it() {
    file_system(&["mkfs.ext4", "-q", "-E", "nodiscard"], &["e2fsck", "-fn"]);
}

#[test]
fn xfs_lives_on_it() {
    file_system(&["mkfs.xfs", "-q", "-f"], &["xfs_repair", "-n"]);
}

#[test]
fn fio_verifies_with_direct_io() {
    if !possible() {
        return;
    }
    let served = served(64);
    for cold in [false, true] {
        served.mem.cold.store(cold, Ordering::SeqCst);
        let file = format!("--filename={}", served.link().display());
        for bs in ["--bsrange=4k-4k", "--bsrange=512-128k", "--bsrange=1m-1m"] {
            let out = run(
                "fio",
                &[
                    "--name=t",
                    "--ioengine=libaio",
                    "--direct=1",
                    &file,
                    "--rw=randwrite",
                    bs,
                    "--size=64m",
                    "--iodepth=32",
                    "--verify=crc32c",
                    "--verify_fatal=1",
                    "--do_verify=1",
                    "--verify_state_save=0",
                ],
            );
            assert!(out.contains("err= 0"), "{out}");
        }
    }
}

#[test]
fn discard_and_zeroout_give_zeros() {
    if !possible() {
        return;
    }
    let served = served(32);
    let link = served.link();
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&link)
        .unwrap();
    file.write_all(&vec![0xaa; 32 << 20]).unwrap();
    file.sync_all().unwrap();
    drop(file);
    let dev = link.to_str().unwrap();
    run("blkdiscard", &["-o", "1048576", "-l", "4194304", dev]);
    run("blkdiscard", &["-z", "-o", "8389120", "-l", "1536", dev]);
    let content = served.mem.content();
    let zeros = |from: usize, to: usize| content[from..to].iter().all(|&b| b == 0);
    assert!(zeros(1 << 20, 5 << 20) && zeros(8389120, 8389120 + 1536));
    let rest = content.iter().filter(|&&b| b == 0xaa).count();
    assert_eq!(rest, (32 << 20) - (4 << 20) - 1536);
    let mut back = vec![1; 4096];
    let mut file = File::open(&link).unwrap();
    file.seek(SeekFrom::Start(2 << 20)).unwrap();
    file.read_exact(&mut back).unwrap();
    assert_eq!(back, [0; 4096]);
}

#[test]
fn growth_is_seen_online() {
    if !possible() {
        return;
    }
    let mut served = served(16);
    let link = served.link();
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(&link)
        .unwrap();
    assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), 16 * MIB);
    served.mem.grow(40 * MIB + 512);
    served.front.resized().unwrap();
    assert_eq!(file.seek(SeekFrom::End(0)).unwrap(), 40 * MIB + 512);
    drop(file);
    let mut file = OpenOptions::new().write(true).open(&link).unwrap();
    file.seek(SeekFrom::Start(40 * MIB)).unwrap();
    file.write_all(&[5; 512]).unwrap();
    file.sync_all().unwrap();
    assert_eq!(served.mem.content()[40 << 20..], [5; 512]);
}

/// A process that has the device open until its input ends.
struct Holder(Child);

impl Holder {
    fn open(device: &Path) -> Holder {
        let mut child = Command::new("/usr/bin/python3")
            .args(["-c", "import sys, os\nf = os.open(sys.argv[1], os.O_RDONLY)\nprint('open', flush=True)\nsys.stdin.read(1)"])
            .arg(device)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "open\n");
        Holder(child)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

fn readable(front: &dyn Front) -> bool {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let fd = front.changes().expect("can be watched");
    poll(
        &mut [PollFd::new(fd.as_fd(), PollFlags::POLLIN)],
        PollTimeout::from(5000u16),
    )
    .unwrap()
        > 0
}

#[test]
fn openers_are_found_and_their_change_is_told() {
    if !possible() {
        return;
    }
    let mut served = served(64);
    let link = served.link();
    // udev may look at a new device for a moment.
    eventually("nobody has it open", || served.front.openers() == 0);
    let holder = Holder::open(&link);
    assert!(readable(&*served.front));
    assert_eq!(served.front.openers(), 1);
    assert_eq!(
        served.front.stop(false).unwrap_err().raw_os_error(),
        Some(libc::EBUSY)
    );
    assert!(link.is_symlink());
    drop(holder);
    assert!(readable(&*served.front));
    eventually("nobody has it open", || served.front.openers() == 0);
    run("mkfs.ext4", &["-q", link.to_str().unwrap()]);
    eventually("nobody has it open", || served.front.openers() == 0);
    let mounted = Mounted::new(&link, served.dir.path().join("mnt"));
    assert!(readable(&*served.front));
    assert!(served.front.openers() >= 1);
    mounted.umount();
    assert!(readable(&*served.front));
    eventually("nobody has it open", || served.front.openers() == 0);
    served.front.stop(false).unwrap();
}

/// An opener that no scan sees keeps the device, which then stays usable.
#[test]
fn unseen_opener_keeps_the_device() {
    if !possible() {
        return;
    }
    let mut served = served(8);
    let link = served.link();
    eventually("nobody has it open", || served.front.openers() == 0);
    // Descriptors of the own process are not counted.
    let mut mine = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&link)
        .unwrap();
    assert_eq!(served.front.openers(), 0);
    assert_eq!(
        served.front.stop(false).unwrap_err().raw_os_error(),
        Some(libc::EBUSY)
    );
    assert_eq!(fs::read_link(&link).unwrap(), served.front.target());
    mine.write_all(&[3; 4096]).unwrap();
    mine.sync_all().unwrap();
    assert_eq!(served.mem.content()[..4096], [3; 4096]);
    drop(mine);
    served.front.stop(false).unwrap();
}

/// Forced stop with a mounted file system: what was synced is there, later I/O fails, nothing hangs.
#[test]
fn forced_stop_cuts() {
    if !possible() {
        return;
    }
    let mut served = served(64);
    let link = served.link();
    run("mkfs.ext4", &["-q", link.to_str().unwrap()]);
    let dir = served.dir.path().join("mnt");
    let mounted = Mounted::new(&link, dir.clone());
    let mut file = File::create(dir.join("file")).unwrap();
    file.write_all(&noise(1, 1 << 20)).unwrap();
    file.sync_all().unwrap();
    served.front.stop(true).unwrap();
    file.write_all(&noise(2, 1 << 20)).unwrap_or(());
    assert!(file.sync_all().is_err());
    drop(file);
    drop(mounted);
    assert!(!link.is_symlink());
}

const CHILD: &str = "MARS_FRONT_TEST_CHILD";

/// Not a test: the process that the next test kills.
#[test]
fn child_serves() {
    let Ok(dir) = std::env::var(CHILD) else {
        return;
    };
    let backend: Arc<dyn Backend> = Arc::new(Mem::new(64 * MIB));
    let name = "disk".parse().unwrap();
    let front = mars_front::start(
        FrontKind::Fuse,
        &host_env(Path::new(&dir)),
        &name,
        "vol",
        backend,
    )
    .unwrap();
    println!("serving {}", front.target().display());
    let _ = std::io::stdin().read(&mut [0]);
}

fn child(dir: &Path) -> (Child, PathBuf) {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child_serves", "--nocapture"])
        .env(CHILD, dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    for line in BufReader::new(child.stdout.take().unwrap()).lines() {
        if let Some((_, device)) = line.unwrap().split_once("serving ") {
            return (child, PathBuf::from(device));
        }
    }
    panic!("the child does not serve: {:?}", child.wait());
}

#[test]
fn killed_process_leaves_nothing() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    for dirty in [false, true] {
        let (mut process, device) = child(dir.path());
        assert!(backing_of(&device).is_some());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(dir.path().to_str().unwrap()), "detached");
        let mut file = OpenOptions::new().write(true).open(&device).unwrap();
        if dirty {
            // Left in the page cache of the loop device.
            file.write_all(&vec![1; 8 << 20]).unwrap();
        }
        process.kill().unwrap();
        process.wait().unwrap();
        assert!(!dirty || file.sync_all().is_err(), "no silent loss");
        drop(file);
        eventually("the loop device is free", || {
            backing_of(&device).is_none_or(|b| !b.contains("vol"))
        });
    }
    // And while the dead one's link is still there, the next one takes over.
    let (mut process, device) = child(dir.path());
    assert_eq!(fs::read_link(dir.path().join("dev/vol")).unwrap(), device);
    process.kill().unwrap();
    process.wait().unwrap();
    eventually("the loop device is free", || {
        backing_of(&device).is_none_or(|b| !b.contains("vol"))
    });
}

/// Killed in the middle of I/O: the writer gets an error, nothing hangs or stays.
#[test]
fn killed_under_load_fails_the_writer() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let (mut process, device) = child(dir.path());
    let out = format!("of={}", device.display());
    let mut writer = Command::new("sh")
        .args(["-c", "while dd if=/dev/zero \"$1\" bs=64k count=1000 oflag=direct conv=notrunc status=none; do :; done", "sh", &out])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let stat = format!(
        "/sys/block/{}/stat",
        device.file_name().unwrap().to_str().unwrap()
    );
    eventually("something is written", || {
        let stat = fs::read_to_string(&stat).unwrap();
        let writes: u64 = stat.split_whitespace().nth(4).unwrap().parse().unwrap();
        writes > 300
    });
    process.kill().unwrap();
    process.wait().unwrap();
    writer.wait().unwrap();
    eventually("the loop device is free", || {
        backing_of(&device).is_none_or(|b| !b.contains("vol"))
    });
}

/// The mount of a daemon that died between mounting and detaching does not keep the next one from starting.
#[test]
fn stale_mount_is_cleaned() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let point = dir.path().join("run/disk/fuse");
    fs::create_dir_all(&point).unwrap();
    let fuse = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .unwrap();
    let data = format!(
        "fd={},rootmode=40000,user_id=0,group_id=0",
        std::os::fd::AsRawFd::as_raw_fd(&fuse)
    );
    nix::mount::mount(
        Some("old"),
        &point,
        Some("fuse"),
        nix::mount::MsFlags::empty(),
        Some(&*data),
    )
    .unwrap();
    drop(fuse);
    let backend: Arc<dyn Backend> = Arc::new(Mem::new(MIB));
    let name = "disk".parse().unwrap();
    let front = mars_front::start(
        FrontKind::Fuse,
        &host_env(dir.path()),
        &name,
        "vol",
        backend,
    )
    .unwrap();
    drop(front);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(point.to_str().unwrap()), "{mounts}");
}

/// The name belongs to somebody else: the loop device that was made before is gone again.
#[test]
fn failed_start_leaves_nothing() {
    if !possible() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir_all(dir.path().join("dev")).unwrap();
    fs::write(dir.path().join("dev/taken"), b"mine").unwrap();
    let backend: Arc<dyn Backend> = Arc::new(Mem::new(MIB));
    let name = "disk".parse().unwrap();
    let failed = mars_front::start(
        FrontKind::Fuse,
        &host_env(dir.path()),
        &name,
        "taken",
        backend,
    )
    .err()
    .unwrap();
    assert_eq!(failed.kind(), std::io::ErrorKind::AlreadyExists);
    eventually("no loop device", || {
        !run("losetup", &["-a"]).contains("taken")
    });
    assert_eq!(fs::read(dir.path().join("dev/taken")).unwrap(), b"mine");
}

#[test]
fn auto_takes_fuse_where_it_can() {
    if !possible() {
        return;
    }
    let served = Served::start(FrontKind::Auto, MIB, Mode::Inline);
    assert!(
        served.front.target().starts_with("/dev"),
        "{}",
        text(&output("losetup", &["-a"]))
    );
}
