//! `resize` from end to end: the device of a running logger grows while it is in use, the secondaries sync the new part only, and all
//! replicas are equal afterwards. With the NBD front end, and with FUSE + loop and a mounted ext4.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_tests::nbd::{Cmd, Nbd};
use mars_tests::{Cluster, Host, PATIENCE, digest, make_disk};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const RES: &str = "vol-1";
const MIB: u64 = 1 << 20;
/// How full the machine is that runs the tests does not matter.
const CONFIG: &str = "heartbeat_ms = 300\nrequired_free_space_1_gb = 0\nrequired_free_space_2_gb = 0\n\
required_free_space_3_gb = 0\nrequired_free_space_4_gb = 0\n";

fn enlarge(disk: &Path, bytes: u64) {
    let f = OpenOptions::new().write(true).open(disk).unwrap();
    f.set_len(bytes).unwrap();
}

/// Fills a part of a disk, so that it is not equal to the primary's by chance.
fn scribble(disk: &Path, from: u64, to: u64) {
    let f = OpenOptions::new().write(true).open(disk).unwrap();
    let mut at = from;
    while at < to {
        let n = (to - at).min(MIB) as usize;
        f.write_all_at(&vec![0x5a; n], at).unwrap();
        at += n as u64;
    }
}

/// Writes through the NBD socket and waits for the answer.
fn write(c: &Nbd, pos: u64, byte: u8, len: usize) {
    c.send(Cmd::Write, 0, 7, pos, len as u32, &vec![byte; len])
        .unwrap();
    assert_eq!(c.reply().unwrap(), (7, 0), "write at {pos}");
}

fn connect(h: &Host) -> Nbd {
    Nbd::connect(&h.env.dev_dir.join(RES), RES, PATIENCE).unwrap()
}

fn number(h: &Host, key: &str) -> u64 {
    h.value(&format!("resource-{RES}/{key}"))
        .and_then(|t| t.parse().ok())
        .unwrap_or(0)
}

fn wait_equal(hosts: &[&Host]) {
    for h in hosts {
        h.wait_view("diskstate", RES, "UpToDate");
        h.wait_view("work-rest", RES, "0");
    }
}

/// Blocks that the last sync of a host compared: equal and different.
fn compared(h: &Host) -> u64 {
    let text = h
        .value(&format!("resource-{RES}/verifystatus-{}", h.env.host))
        .expect("verifystatus");
    let (a, b) = text.split_once(',').unwrap();
    a.parse::<u64>().unwrap() + b.parse::<u64>().unwrap()
}

#[test]
fn resize_grows_the_device_and_syncs_only_the_new_part() {
    let config = &format!("front = \"nbd-socket\"\n{CONFIG}");
    let cluster = Cluster::new(&["alpha", "beta", "gamma"], config);
    let (alpha, beta, gamma) = (cluster.host(0), cluster.host(1), cluster.host(2));
    let disks = [
        alpha.file("disk.img"),
        beta.file("disk.img"),
        gamma.file("disk.img"),
    ];
    for d in &disks {
        make_disk(d, 16 * MIB, false);
    }
    cluster.form();
    alpha.ok(&["create-resource", RES, disks[0].to_str().unwrap()]);
    alpha.ok(&["wait-resource", RES, "is-device-on"]);
    beta.ok(&["join-resource", RES, disks[1].to_str().unwrap()]);
    gamma.ok(&["join-resource", RES, disks[2].to_str().unwrap()]);
    let user = connect(alpha);
    write(&user, 0, 1, 64 << 10);
    wait_equal(&[beta, gamma]);

    // Refused, and the tree stays as it is: nothing to gain, not the primary, shrinking, larger than the smallest disk, no size.
    let size = || (number(alpha, "size"), number(alpha, "syncstatus-alpha"));
    alpha.refused(&["resize", RES], &["16777216", "nothing to gain"]);
    beta.refused(&["resize", RES], &["beta", "not primary", "alpha"]);
    enlarge(&disks[0], 64 * MIB);
    enlarge(&disks[1], 48 * MIB);
    enlarge(&disks[2], 40 * MIB + 100);
    scribble(&disks[1], 16 * MIB, 48 * MIB);
    scribble(&disks[2], 16 * MIB, 40 * MIB);
    alpha.refused(
        &["resize", RES, "8M"],
        &["8388608", "16777216", "only grow"],
    );
    alpha.refused(&["resize", RES, "48M"], &["50331648", "41943140", "gamma"]);
    alpha.refused(&["resize", RES, "20000000"], &["20000000", "4096"]);
    assert_eq!(alpha.run(&["resize", RES, "big"]).code, 2);
    assert_eq!(alpha.run(&["resize", RES, "32M", "x"]).code, 2);
    alpha.refused(&["resize", "nothing"], &["nothing"]);
    alpha.ok(&["resize", RES, "32M", "--dry-run"]);
    assert_eq!(size(), (16 * MIB, 16 * MIB));

    // The first growth, while a client is connected and writing.
    let out = alpha.ok(&["resize", RES, "32M"]);
    assert!(out.contains("33554432 bytes now, 16777216 before"), "{out}");
    assert_eq!(size(), (32 * MIB, 32 * MIB));
    // The protocol tells a size only when a client connects; whoever is connected may use the new part nevertheless.
    assert_eq!((user.size, connect(alpha).size), (16 * MIB, 32 * MIB));
    write(&user, 32 * MIB - 4096, 2, 4096);
    write(&user, 16 * MIB, 3, 64 << 10);
    wait_equal(&[beta, gamma]);
    for h in [beta, gamma] {
        assert_eq!(number(h, &format!("syncstatus-{}", h.env.host)), 32 * MIB);
        let earlier = 16 * MIB / 65536;
        let blocks = compared(h) - earlier;
        assert!(
            (256..300).contains(&blocks),
            "{}: {blocks} blocks of 64 KiB were compared for 16 MiB",
            h.env.host
        );
    }
    // Once more the same size: nothing happens. Then to what the smallest disk has; the others waste, which is said.
    alpha.ok(&["resize", RES, "32M"]);
    let r = alpha.run(&["resize", RES]);
    assert_eq!(r.code, 0, "{r:?}");
    assert!(r.err.contains("stay unused"), "{r:?}");
    assert_eq!(size(), (41_943_040, 41_943_040));
    write(&user, 41_943_040 - 4096, 4, 4096);
    wait_equal(&[beta, gamma]);
    drop(user);
    // A logger that starts again, and another primary, know the size.
    gamma.ok(&["primary", RES]);
    assert_eq!(connect(gamma).size, 41_943_040);
    gamma.refused(&["resize", RES], &["nothing to gain"]);
    wait_equal(&[alpha, beta]);
    cluster.stop_clean(&[]);
    for d in &disks {
        enlarge(d, 41_943_040);
    }
    assert_eq!(digest(&disks[0]), digest(&disks[1]));
    assert_eq!(digest(&disks[0]), digest(&disks[2]));
    let mut page = [0; 4096];
    let f = File::open(&disks[1]).unwrap();
    for (at, byte) in [(16 * MIB, 3), (32 * MIB - 4096, 2), (41_943_040 - 4096, 4)] {
        f.read_exact_at(&mut page, at).unwrap();
        assert_eq!(page, [byte; 4096], "at {at}");
    }
}

/// What a secondary did not hear of while it was away it makes up for.
#[test]
fn resize_reaches_who_was_away_and_who_was_syncing() {
    let config = &format!("front = \"nbd-socket\"\n{CONFIG}");
    let cluster = Cluster::new(&["alpha", "beta"], config);
    let (alpha, beta) = (cluster.host(0), cluster.host(1));
    let disks = [alpha.file("disk.img"), beta.file("disk.img")];
    for d in &disks {
        make_disk(d, 8 * MIB, true);
    }
    cluster.form();
    alpha.ok(&["create-resource", RES, disks[0].to_str().unwrap()]);
    alpha.ok(&["wait-resource", RES, "is-device-on"]);
    beta.ok(&["join-resource", RES, disks[1].to_str().unwrap()]);
    wait_equal(&[beta]);
    enlarge(&disks[0], 24 * MIB);
    enlarge(&disks[1], 24 * MIB);
    scribble(&disks[1], 8 * MIB, 24 * MIB);
    beta.ok(&["pause-sync", RES]);
    // Whoever detaches its disk does not tell its size any more.
    alpha.ok(&["resize", RES, "16M"]);
    let user = connect(alpha);
    assert_eq!(user.size, 16 * MIB);
    write(&user, 12 * MIB, 9, 64 << 10);
    beta.wait_view("sync-rest", RES, "8388608");
    // The sync has not begun when the resource grows again; meanwhile beta was down.
    beta.ok(&["stop"]);
    let r = alpha.run(&["resize", RES, "--window=2"]);
    assert_eq!(r.code, 0, "{r:?}");
    assert!(r.err.contains("no answer from beta"), "{r:?}");
    write(&user, 24 * MIB - 4096, 8, 4096);
    beta.ok(&["start"]);
    beta.ok(&["resume-sync", RES]);
    wait_equal(&[beta]);
    assert_eq!(number(beta, "syncstatus-beta"), 24 * MIB);

    // Without mars-meta nobody would hear of it; force does not help.
    alpha.kill("mars-meta.service");
    enlarge(&disks[0], 32 * MIB);
    enlarge(&disks[1], 32 * MIB);
    alpha.refused(&["resize", RES, "--force"], &["mars-meta", "marsadm start"]);
    alpha.ok(&["start"]);
    assert_eq!(number(alpha, "size"), 24 * MIB);
    // Marked as consistent by hand, whatever is on the disk; invalidate undoes that.
    beta.ok(&["pause-sync", RES]);
    alpha.ok(&["resize", RES]);
    alpha.refused(&["fake-sync", RES], &["alpha is primary", "secondaries"]);
    beta.wait_view("sync-rest", RES, "8388608");
    beta.ok(&["fake-sync", RES]);
    assert_eq!(number(beta, "syncstatus-beta"), 32 * MIB);
    assert_eq!(
        beta.value(&format!("resource-{RES}/todo-beta/sync"))
            .as_deref(),
        Some("0")
    );
    beta.wait_view("sync-rest", RES, "0");
    beta.ok(&["invalidate", RES]);
    wait_equal(&[beta]);
    drop(user);
    alpha.ok(&["wait-umount", RES]);
    cluster.stop_clean(&[]);
    assert_eq!(digest(&disks[0]), digest(&disks[1]));
}

/// Unmounts when dropped, also after a failure.
struct Mounted(PathBuf);

impl Mounted {
    fn new(kind: &str, device: &Path, dir: PathBuf) -> Mounted {
        fs::create_dir_all(&dir).unwrap();
        let (device, at) = (device.to_str().unwrap(), dir.to_str().unwrap());
        run("mount", &["-t", kind, device, at]);
        Mounted(dir)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &[self.0.to_str().unwrap()]);
    }
}

fn run(program: &str, args: &[&str]) -> String {
    let o = Command::new(program).args(args).output().expect(program);
    let err = String::from_utf8_lossy(&o.stderr);
    assert!(o.status.success(), "{program} {args:?}: {err}");
    String::from_utf8_lossy(&o.stdout).into_owned()
}

/// The kernel lets a mounted ext4 grow only with CAP_SYS_RESOURCE, which root has not everywhere.
fn may_grow_mounted_ext4() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let caps = status.lines().find_map(|l| l.strip_prefix("CapEff:"));
    u64::from_str_radix(caps.unwrap().trim(), 16).unwrap() >> 24 & 1 == 1
}

/// Two hosts with the front end FUSE + loop, a file system on the device of the first, mounted.
struct FileSystem {
    cluster: Cluster,
    disks: [PathBuf; 2],
    device: PathBuf,
    kind: &'static str,
    mounted: Option<Mounted>,
}

impl FileSystem {
    fn new(kind: &'static str, bytes: u64) -> FileSystem {
        let root = nix::unistd::geteuid().is_root();
        assert!(
            root && Path::new("/dev/fuse").exists() && Path::new("/dev/loop-control").exists(),
            "this test needs root, /dev/fuse and /dev/loop-control"
        );
        let cluster = Cluster::new(&["alpha", "beta"], &format!("front = \"fuse\"\n{CONFIG}"));
        let disks = [0, 1].map(|i| cluster.host(i).file("disk.img"));
        for d in &disks {
            make_disk(d, bytes, false);
        }
        cluster.form();
        let (alpha, beta) = (cluster.host(0), cluster.host(1));
        alpha.ok(&["create-resource", RES, disks[0].to_str().unwrap()]);
        alpha.ok(&["wait-resource", RES, "is-device-on"]);
        let device = alpha.env.dev_dir.join(RES);
        run(&format!("mkfs.{kind}"), &["-q", device.to_str().unwrap()]);
        beta.ok(&["join-resource", RES, disks[1].to_str().unwrap()]);
        let mounted = Some(Mounted::new(kind, &device, alpha.file("mnt")));
        FileSystem {
            cluster,
            disks,
            device,
            kind,
            mounted,
        }
    }

    fn fill(&self, name: &str, byte: u8, mib: usize) {
        let path = self.cluster.host(0).file("mnt").join(name);
        fs::write(path, vec![byte; mib << 20]).unwrap();
    }

    /// `resize` while it is mounted.
    fn resize(&self, args: &[&str], expected: u64) {
        let all = [&["resize", RES], args].concat();
        self.cluster.host(0).ok(&all);
        let size = run("blockdev", &["--getsize64", self.device.to_str().unwrap()]);
        assert_eq!(size.trim(), expected.to_string());
    }

    /// Hands over, looks at the files there, stops everything and compares the disks.
    fn finish(mut self, files: &[(&str, u8, usize)]) {
        self.mounted = None;
        let (alpha, beta) = (self.cluster.host(0), self.cluster.host(1));
        wait_equal(&[beta]);
        beta.ok(&["primary", RES]);
        let there = Mounted::new(self.kind, &beta.env.dev_dir.join(RES), beta.file("mnt"));
        for (name, byte, mib) in files {
            let content = fs::read(there.0.join(name)).unwrap();
            assert!(
                content == vec![*byte; mib << 20],
                "{name} is not what was written"
            );
        }
        drop(there);
        wait_equal(&[alpha]);
        self.cluster.stop_clean(&[]);
        assert_eq!(digest(&self.disks[0]), digest(&self.disks[1]));
    }
}

#[test]
fn resize_of_an_ext4() {
    let mut f = FileSystem::new("ext4", 32 * MIB);
    f.fill("before", 1, 20);
    for d in &f.disks {
        enlarge(d, 64 * MIB);
    }
    scribble(&f.disks[1], 32 * MIB, 64 * MIB);
    f.resize(&["48M"], 48 * MIB);
    f.resize(&[], 64 * MIB);
    let device = f.device.display().to_string();
    if !may_grow_mounted_ext4() {
        f.mounted = None;
        run("e2fsck", &["-fp", &device]);
    }
    run("resize2fs", &[&device]);
    if f.mounted.is_none() {
        f.mounted = Some(Mounted::new(
            f.kind,
            &f.device,
            f.cluster.host(0).file("mnt"),
        ));
    }
    // There was no room for that before.
    f.fill("after", 2, 25);
    f.finish(&[("before", 1, 20), ("after", 2, 25)]);
}

#[test]
fn resize_of_a_mounted_xfs() {
    let f = FileSystem::new("xfs", 320 * MIB);
    f.fill("before", 1, 4);
    for d in &f.disks {
        enlarge(d, 336 * MIB);
    }
    scribble(&f.disks[1], 320 * MIB, 336 * MIB);
    f.resize(&[], 336 * MIB);
    let dir = f.cluster.host(0).file("mnt");
    let grown = run("xfs_growfs", &[dir.to_str().unwrap()]);
    assert!(grown.contains("data blocks changed"), "{grown}");
    f.fill("after", 2, 4);
    f.finish(&[("before", 1, 4), ("after", 2, 4)]);
}
