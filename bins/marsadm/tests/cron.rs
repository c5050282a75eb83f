//! `cron`: rotation, deletion, and what is kept for how long (marsadm-commands.md section 5, options of 1.1).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::Host;
use mars_tree::{Batch, Key, Stamp};
use std::fs;
use std::path::Path;
use std::process::Command;

/// alpha: primary of `r`, with logs 1 to 3; 1 and 2 are applied.
fn cluster(dir: &Path) -> Host {
    let h = Host::new(dir, "alpha");
    h.ok(&["stop"]);
    for program in ["mars-meta", "mars-fetch", "mars-sync", "mars-logger"] {
        h.stand_in(program, "exit 0");
    }
    h.ok(&["create-cluster", "--ip=127.43.5.2"]);
    h.ok(&["stop"]);
    h.ok(&["create-resource", "r", &h.disk("r", 1 << 20)]);
    let log = |nr: u32| h.env.root.join(format!("resource-r/log-{nr:09}-alpha"));
    for nr in 1..=3 {
        fs::write(log(nr), [0; 512]).unwrap();
        touch(&log(nr), "10 minutes ago");
    }
    set(
        &h,
        &[
            ("resource-r/actual-alpha/is-primary", "1"),
            ("resource-r/replay-alpha", "log-000000003-alpha,512,0"),
            ("resource-r/maxnr", "3"),
            (
                "resource-r/version-000000003-alpha",
                "eae75bd0648f4b9f8ece4a07b4c47429,log-000000003-alpha,512:eae75bd0648f4b9f8ece4a07b4c47429,log-000000002-alpha,512",
            ),
        ],
    );
    h
}

fn touch(path: &Path, when: &str) {
    let done = Command::new("touch")
        .args(["-h", "-d", when])
        .arg(path)
        .status()
        .unwrap();
    assert!(done.success());
}

fn set(h: &Host, links: &[(&str, &str)]) {
    let mut b = Batch::new();
    for (path, value) in links {
        b.set(Key::parse(path), *value);
    }
    h.tree().commit(&b).unwrap();
}

fn exists(h: &Host, path: &str) -> bool {
    fs::symlink_metadata(h.env.root.join(path)).is_ok_and(|m| !m.is_symlink())
}

fn deleted(h: &Host, path: &str) -> bool {
    fs::read_link(h.env.root.join(path)).is_ok_and(|t| t.to_str() == Some(".deleted"))
}

#[test]
fn cron_rotates_and_deletes_what_nobody_needs() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    let before = h.everything();
    let out = h.ok(&["cron", "--dry-run"]);
    assert!(
        out.contains("create resource-r/log-000000004-alpha"),
        "{out}"
    );
    assert_eq!(h.everything(), before);
    let out = h.ok(&["cron"]);
    assert!(out.contains("r: new log log-000000004-alpha"), "{out}");
    assert!(
        deleted(&h, "resource-r/log-000000001-alpha")
            && deleted(&h, "resource-r/log-000000002-alpha"),
        "{out}"
    );
    assert!(
        exists(&h, "resource-r/log-000000003-alpha")
            && exists(&h, "resource-r/log-000000004-alpha")
    );
    assert_eq!(
        h.ok(&[
            "get-link",
            &h.env.root.join("resource-r/maxnr").display().to_string()
        ]),
        "4\n"
    );
    // Again: nothing to do is success.
    assert_eq!(h.ok(&["cron"]), "");
}

#[test]
fn logs_wait_for_members_unless_those_that_left_the_cluster_are_ignored() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    set(
        &h,
        &[
            ("resource-r/data-beta", "/dev/b"),
            ("resource-r/replay-beta", "log-000000001-alpha,0,0"),
        ],
    );
    h.ok(&["log-delete-all-replayed", "r"]);
    assert!(exists(&h, "resource-r/log-000000001-alpha"));
    // beta has no address: it has left the cluster, and will never come for its logs.
    for level in ["0", "1"] {
        h.ok(&[
            "log-delete",
            "r",
            &format!("--ignore-deleted-peers={level}"),
        ]);
        assert!(exists(&h, "resource-r/log-000000001-alpha"), "{level}");
    }
    h.ok(&["log-delete-one", "r", "--ignore-deleted-peers=2"]);
    assert!(deleted(&h, "resource-r/log-000000001-alpha"));
    assert!(exists(&h, "resource-r/log-000000002-alpha"));
    // Reports do not count it, unless somebody wants that.
    assert!(h.ok(&["view", "r"]).contains("[1/1]"));
    assert!(
        h.ok(&["view", "r", "--ignore-deleted-peers=0"])
            .contains("[2/1]")
    );
}

#[test]
fn cron_keeps_tombstones_and_backups_for_the_time_given() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    let (backup, tmp) = (
        h.env.root.join("backups-17"),
        h.env.root.join(".tmp.1.uuid"),
    );
    fs::create_dir(&backup).unwrap();
    std::os::unix::fs::symlink("x", &tmp).unwrap();
    touch(&tmp, "2 hours ago");
    // beta has never been heard of, so a tombstone is kept for its time.
    set(&h, &[("ips/ip-beta", "127.43.5.3")]);
    let clock = h.tree().clock().now().secs();
    let mut b = Batch::new();
    let key = Key::parse("userspace/x");
    let old = |hours: u64| Stamp::from_nanos((clock - hours * 3600) * 1_000_000_000);
    b.set_stamped(key.clone(), "v", old(51));
    h.tree().commit(&b).unwrap();
    fs::remove_file(h.env.root.join("userspace/x")).unwrap();
    std::os::unix::fs::symlink(".deleted", h.env.root.join("userspace/x")).unwrap();
    touch(&h.env.root.join("userspace/x"), "50 hours ago");
    touch(&backup, "50 hours ago");
    h.ok(&["cron"]);
    assert!(deleted(&h, "userspace/x") && exists(&h, "backups-17"));
    assert!(fs::symlink_metadata(&tmp).is_err());
    h.ok(&["cron", "--keep-backups=51"]);
    assert!(deleted(&h, "userspace/x") && exists(&h, "backups-17"));
    let out = h.ok(&["cron", "--keep-backup-hours=49", "--dry-run"]);
    assert!(
        out.contains("userspace/x") && out.contains("backups-17"),
        "{out}"
    );
    h.ok(&["cron", "--keep-backup-hours=49"]);
    assert!(fs::symlink_metadata(h.env.root.join("userspace/x")).is_err());
    assert!(!exists(&h, "backups-17"));
}

#[test]
fn cron_cleans_up_after_gone_hosts_only_when_told() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    let path = "resource-r/actual-gone/is-primary";
    fs::create_dir_all(h.env.root.join("resource-r/actual-gone")).unwrap();
    std::os::unix::fs::symlink("0", h.env.root.join(path)).unwrap();
    touch(&h.env.root.join(path), "9 days ago");
    h.ok(&["cron"]);
    h.ok(&["cron", "--autoclean=10"]);
    assert!(!deleted(&h, path));
    let out = h.ok(&["cron", "--autoclean=8"]);
    assert!(out.contains("1 links") && deleted(&h, path), "{out}");
}

#[test]
fn log_rotate_does_nothing_elsewhere_unless_forced() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    set(&h, &[("resource-r/actual-alpha/is-primary", "0")]);
    let before = h.everything();
    assert_eq!(h.ok(&["log-rotate", "r"]), "");
    assert_eq!(h.everything(), before);
    let r = h.run(&["log-rotate", "r", "--force"]);
    assert_eq!(r.code, 0, "{r:?}");
    assert!(r.err.contains("split"), "{r:?}");
    assert!(exists(&h, "resource-r/log-000000004-alpha"));
}
