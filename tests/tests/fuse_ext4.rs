//! A real file system on the FUSE + loop front end, handed over between two hosts. Needs root and `/dev/fuse`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_tests::{Cluster, Host, digest, make_disk};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const SIZE: u64 = 64 << 20;
const RES: &str = "vol-1";

/// Unmounts when dropped, also after a failure.
struct Mounted(PathBuf);

impl Mounted {
    fn new(device: &Path, dir: PathBuf) -> Mounted {
        fs::create_dir_all(&dir).unwrap();
        run(
            "mount",
            &[
                "-t",
                "ext4",
                &device.display().to_string(),
                &dir.display().to_string(),
            ],
        );
        Mounted(dir)
    }
    fn umount(self) {}
}

impl Drop for Mounted {
    fn drop(&mut self) {
        run("umount", &[&self.0.display().to_string()]);
    }
}

fn run(program: &str, args: &[&str]) {
    let o = Command::new(program).args(args).output().expect(program);
    assert!(
        o.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&o.stderr)
    );
}

fn can_run() -> bool {
    let ok = nix::unistd::geteuid().is_root()
        && Path::new("/dev/fuse").exists()
        && Path::new("/dev/loop-control").exists();
    if !ok {
        assert!(
            std::env::var_os("CI").is_none(),
            "CI must run this test: it needs root, /dev/fuse and /dev/loop-control"
        );
        println!("skipped: needs root, /dev/fuse and /dev/loop-control");
    }
    ok
}

fn device(h: &Host) -> PathBuf {
    h.env.dev_dir.join(RES)
}

#[test]
fn fuse_ext4_is_handed_over() {
    if !can_run() {
        return;
    }
    let cluster = Cluster::new(&["alpha", "beta"], "front = \"fuse\"\nheartbeat_ms = 300\n");
    let (alpha, beta) = (cluster.host(0), cluster.host(1));
    let disks = [alpha.file("disk.img"), beta.file("disk.img")];
    for d in &disks {
        make_disk(d, SIZE, false);
    }
    cluster.form();
    alpha.ok(&["create-resource", RES, &disks[0].display().to_string()]);
    alpha.ok(&["wait-resource", RES, "is-device-on"]);
    run("mkfs.ext4", &["-q", &device(alpha).display().to_string()]);
    beta.ok(&["join-resource", RES, &disks[1].display().to_string()]);

    let mounted = Mounted::new(&device(alpha), alpha.file("mnt"));
    for i in 0..50 {
        fs::write(
            mounted.0.join(format!("file-{i}")),
            vec![i as u8; 4000 * (i + 1)],
        )
        .unwrap();
    }
    beta.wait_view("diskstate", RES, "UpToDate");
    // Refused while it is mounted, and nothing happens to the mount.
    beta.refused(&["primary", RES, "--timeout=3"], &["alpha"]);
    assert_eq!(
        fs::read(mounted.0.join("file-49")).unwrap(),
        vec![49; 4000 * 50]
    );
    fs::write(mounted.0.join("still-writable"), b"yes").unwrap();
    mounted.umount();

    beta.ok(&["primary", RES]);
    let mounted = Mounted::new(&device(beta), beta.file("mnt"));
    for i in 0..50 {
        assert_eq!(
            fs::read(mounted.0.join(format!("file-{i}"))).unwrap(),
            vec![i as u8; 4000 * (i + 1)],
            "file-{i}"
        );
    }
    assert_eq!(fs::read(mounted.0.join("still-writable")).unwrap(), b"yes");
    fs::remove_file(mounted.0.join("file-0")).unwrap();
    mounted.umount();
    alpha.ok(&["primary", RES]);
    let mounted = Mounted::new(&device(alpha), alpha.file("mnt"));
    assert!(!mounted.0.join("file-0").exists());
    mounted.umount();
    beta.wait_view("diskstate", RES, "UpToDate");
    beta.wait_view("work-rest", RES, "0");

    cluster.stop_clean(&[]);
    for d in &disks {
        run("e2fsck", &["-fn", &d.display().to_string()]);
    }
    assert_eq!(digest(&disks[0]), digest(&disks[1]));
}
