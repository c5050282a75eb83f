//! The tree on a real file system: batches, tombstones, remote links, illegal stamps.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_live::Clock;
use mars_tree::{Applied, Batch, Key, RemoteLink, Stamp, Tree, TreeError};
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

const DAY: u64 = 24 * 3600 * 1_000_000_000;

fn tree() -> (tempfile::TempDir, Tree) {
    let dir = tempfile::tempdir().unwrap();
    let tree = Tree::with_clock(dir.path(), Clock::private());
    (dir, tree)
}
fn key(path: &str) -> Key {
    Key::parse(path)
}
fn set(tree: &Tree, path: &str, value: &str) -> Stamp {
    tree.commit(Batch::new().set(key(path), value)).unwrap()
}
fn delete(tree: &Tree, path: &str) -> Stamp {
    tree.commit(Batch::new().delete(key(path))).unwrap()
}
fn remote(path: &str, value: &str, stamp: Stamp) -> RemoteLink {
    RemoteLink {
        path: path.into(),
        value: value.into(),
        stamp,
    }
}
fn text(tree: &Tree, path: &str) -> Option<String> {
    tree.text(&key(path)).unwrap()
}
/// Sets atime and mtime of a link by hand.
fn touch(path: &Path, stamp: Stamp) {
    use nix::sys::stat::{UtimensatFlags, utimensat};
    let t = nix::sys::time::TimeSpec::new(stamp.secs() as i64, i64::from(stamp.subsec_nanos()));
    let cwd = nix::fcntl::AT_FDCWD;
    utimensat(cwd, path, &t, &t, UtimensatFlags::NoFollowSymlink).unwrap();
}
/// Everything in a directory, hidden names too.
fn listing(path: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(path)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

#[test]
fn commit_batch_has_one_stamp_and_leaves_nothing_behind() {
    let (dir, tree) = tree();
    let mut batch = Batch::new();
    batch
        .set(key("resource-r/size"), 4096)
        .set(key("resource-r/todo-a/attach"), 1)
        .mkdir("resource-r/local-a")
        .create_log(key("resource-r/log-000000001-a"))
        .set(key("resource-r/size"), 8192);
    assert_eq!(
        batch.describe(),
        [
            "set resource-r/todo-a/attach -> 1",
            "mkdir resource-r/local-a",
            "create resource-r/log-000000001-a",
            "set resource-r/size -> 8192",
        ]
    );
    let stamp = tree.commit(&batch).unwrap();
    for k in ["resource-r/size", "resource-r/todo-a/attach"] {
        // Before the first reading, which moves atime.
        let meta = std::fs::symlink_metadata(dir.path().join(k)).unwrap();
        assert_eq!(
            (meta.atime(), meta.atime_nsec()),
            (meta.mtime(), meta.mtime_nsec())
        );
        assert_eq!(tree.read(&key(k)).unwrap().unwrap().stamp, stamp);
    }
    assert_eq!(text(&tree, "resource-r/size").as_deref(), Some("8192"));
    assert_eq!(
        listing(&dir.path().join("resource-r")),
        ["local-a", "log-000000001-a", "size", "todo-a"]
    );
    let mode = |p: &str| std::fs::metadata(dir.path().join(p)).unwrap().mode() & 0o777;
    assert_eq!(mode("resource-r/local-a"), 0o700);
    assert_eq!(mode("resource-r/log-000000001-a"), 0o600);
    // The log exists now.
    let again = tree.commit(Batch::new().create_log(key("resource-r/log-000000001-a")));
    assert!(matches!(again, Err(TreeError::Io { .. })));
}

#[test]
fn commit_stamps_grow_and_surpass_the_old_stamp() {
    let (_dir, tree) = tree();
    let ahead = tree.clock().now().plus(std::time::Duration::from_secs(600));
    assert_eq!(
        tree.apply_remote(&remote("ips/ip-a", "127.0.0.2", ahead))
            .unwrap(),
        Applied::Stored
    );
    let other = Tree::with_clock(tree.root(), Clock::private());
    let stamp = set(&other, "ips/ip-a", "127.0.0.3");
    assert!(stamp > ahead, "a private clock must surpass the old link");
    assert!(set(&other, "ips/ip-a", "127.0.0.3") > stamp);
}

#[test]
fn commit_refuses_before_the_first_change() {
    let (dir, tree) = tree();
    std::fs::create_dir(dir.path().join("ips")).unwrap();
    let bad: [(&str, &str); 7] = [
        ("../x", "1"),
        ("a//b", "1"),
        (".hidden", "1"),
        ("a/b/c/d/e", "1"),
        ("resource-r/log-000000001-a", "/etc/passwd"),
        ("resource-r/size", ""),
        ("ips", "x"),
    ];
    for (path, value) in bad {
        let mut batch = Batch::new();
        batch.set(key("uuid"), "u").set(key(path), value);
        assert!(tree.commit(&batch).is_err(), "{path}");
        assert_eq!(text(&tree, "uuid"), None, "{path}");
    }
    let long = "x".repeat(4096);
    assert!(tree.commit(Batch::new().set(key("uuid"), long)).is_err());
}

#[test]
fn set_if_changed_keeps_the_stamp_of_an_equal_value() {
    let (_dir, tree) = tree();
    let first = set(&tree, "resource-r/size", "1");
    tree.commit(Batch::new().set_if_changed(key("resource-r/size"), 1))
        .unwrap();
    let read = || tree.read(&key("resource-r/size")).unwrap().unwrap();
    assert_eq!(read().stamp, first);
    let second = tree
        .commit(Batch::new().set_if_changed(key("resource-r/size"), 2))
        .unwrap();
    assert_eq!(read().stamp, second);
    delete(&tree, "resource-r/size");
    tree.commit(Batch::new().set_if_changed(key("resource-r/size"), 2))
        .unwrap();
    assert_eq!(text(&tree, "resource-r/size").as_deref(), Some("2"));
}

#[test]
fn set_stamped_never_replaces_a_newer_link() {
    let (_dir, tree) = tree();
    let mut weak = Batch::new();
    weak.set_stamped(key("uuid"), "(any)", Stamp::PRELIMINARY);
    tree.commit(&weak).unwrap();
    assert_eq!(
        tree.read(&key("uuid")).unwrap().unwrap().stamp,
        Stamp::PRELIMINARY
    );
    set(&tree, "uuid", "a_1.000000000");
    tree.commit(&weak).unwrap();
    assert_eq!(text(&tree, "uuid").as_deref(), Some("a_1.000000000"));
}

#[test]
fn delete_writes_a_tombstone_only_over_something_live() {
    let (dir, tree) = tree();
    delete(&tree, "resource-r/size");
    assert!(!dir.path().join("resource-r").exists());
    set(&tree, "resource-r/size", "1");
    let stamp = delete(&tree, "resource-r/size");
    let link = tree.read(&key("resource-r/size")).unwrap().unwrap();
    assert!(link.value.is_deleted());
    assert_eq!(link.stamp, stamp);
    delete(&tree, "resource-r/size");
    let again = tree.read(&key("resource-r/size")).unwrap().unwrap();
    assert_eq!(again.stamp, stamp, "deleting twice changes nothing");
    // Never a directory, but a log file.
    tree.commit(Batch::new().create_log(key("resource-r/log-000000001-a")))
        .unwrap();
    delete(&tree, "resource-r");
    assert!(dir.path().join("resource-r").is_dir());
    delete(&tree, "resource-r/log-000000001-a");
    let log = tree.read(&key("resource-r/log-000000001-a")).unwrap();
    assert!(log.unwrap().value.is_deleted());
    // A disk in the form of a file is never lost.
    std::fs::write(dir.path().join("resource-r/data-a"), "disk").unwrap();
    assert!(
        tree.commit(Batch::new().delete(key("resource-r/data-a")))
            .is_err()
    );
}

#[test]
fn directory_replaces_a_tombstone_in_its_place() {
    let (dir, tree) = tree();
    symlink(".deleted", dir.path().join("resource-r")).unwrap();
    set(&tree, "resource-r/size", "1");
    assert_eq!(text(&tree, "resource-r/size").as_deref(), Some("1"));
    symlink(".deleted", dir.path().join("userspace")).unwrap();
    let link = remote("userspace/x", "1", tree.clock().now());
    assert_eq!(tree.apply_remote(&link).unwrap(), Applied::Stored);
}

#[test]
fn links_in_the_place_of_directories_are_never_followed() {
    let (dir, tree) = tree();
    let outside = tempfile::tempdir().unwrap();
    symlink(outside.path(), dir.path().join("trap")).unwrap();
    let link = remote("trap/x", "1", tree.clock().now());
    assert_eq!(tree.apply_remote(&link).unwrap(), Applied::Refused);
    let mut batch = Batch::new();
    batch.set(key("uuid"), "u").set(key("trap/x"), 1);
    assert!(tree.commit(&batch).is_err());
    let mut batch = Batch::new();
    batch.set(key("uuid"), "u").mkdir("trap");
    assert!(tree.commit(&batch).is_err());
    assert_eq!(listing(outside.path()), [""; 0]);
    std::fs::write(outside.path().join("y"), "").unwrap();
    symlink("v", outside.path().join("z")).unwrap();
    assert!(tree.unlink_plain(&key("trap/y")).is_err());
    assert!(outside.path().join("y").exists());
    assert_eq!(text(&tree, "trap/z"), None);
    let snap = tree.snapshot().unwrap();
    assert_eq!(snap.links.keys().collect::<Vec<_>>(), ["trap"]);
}

#[test]
fn newer_remote_link_wins_and_ties_end_the_same_everywhere() {
    let (_dir, tree) = tree();
    let stamp = set(&tree, "ips/ip-a", "127.0.0.2");
    let apply = |value: &str, nanos: i64| {
        let s = Stamp::from_nanos(stamp.as_nanos().saturating_add_signed(nanos));
        tree.apply_remote(&remote("ips/ip-a", value, s)).unwrap()
    };
    assert_eq!(apply("127.0.0.9", -1), Applied::Kept);
    assert_eq!(apply("127.0.0.1", 0), Applied::Kept);
    assert_eq!(text(&tree, "ips/ip-a").as_deref(), Some("127.0.0.2"));
    assert_eq!(apply("127.0.0.9", 0), Applied::Stored);
    assert_eq!(apply("127.0.0.9", 0), Applied::Kept);
    assert_eq!(text(&tree, "ips/ip-a").as_deref(), Some("127.0.0.9"));
    assert_eq!(apply("127.0.0.3", 1), Applied::Stored);
    assert_eq!(text(&tree, "ips/ip-a").as_deref(), Some("127.0.0.3"));
    assert_eq!(apply(".deleted", 1), Applied::Stored);
    assert_eq!(apply(".deleted", 2), Applied::Stored);
    assert_eq!(text(&tree, "ips/ip-a"), None);
    assert_eq!(apply("127.0.0.3", 1), Applied::Kept);
    assert_eq!(apply("127.0.0.3", 2), Applied::Kept);
    assert_eq!(text(&tree, "ips/ip-a"), None);
}

#[test]
fn remote_tombstone_creates_nothing_and_removes_an_older_log() {
    let (dir, tree) = tree();
    let now = tree.clock().now();
    let log = "resource-r/log-000000001-b";
    assert_eq!(
        tree.apply_remote(&remote(log, ".deleted", now)).unwrap(),
        Applied::Kept
    );
    assert!(!dir.path().join("resource-r").exists());
    std::fs::create_dir(dir.path().join("resource-r")).unwrap();
    let path = dir.path().join(log);
    std::fs::write(&path, "records").unwrap();
    touch(&path, now);
    let live = remote(
        log,
        "/etc/passwd",
        now.plus(std::time::Duration::from_secs(1)),
    );
    assert_eq!(tree.apply_remote(&live).unwrap(), Applied::Refused);
    let younger = remote(log, ".deleted", now);
    assert_eq!(tree.apply_remote(&younger).unwrap(), Applied::Kept);
    assert_eq!(std::fs::read(&path).unwrap(), b"records");
    let older = remote(log, ".deleted", Stamp::from_nanos(now.as_nanos() + 1));
    assert_eq!(tree.apply_remote(&older).unwrap(), Applied::Stored);
    assert!(path.symlink_metadata().unwrap().is_symlink());
    // Other files are never touched.
    let data = dir.path().join("resource-r/data-b");
    std::fs::write(&data, "disk").unwrap();
    touch(&data, Stamp::PRELIMINARY);
    for value in [".deleted", "/dev/sda"] {
        let link = remote("resource-r/data-b", value, now);
        assert_eq!(tree.apply_remote(&link).unwrap(), Applied::Refused);
    }
    assert_eq!(std::fs::read(&data).unwrap(), b"disk");
}

#[test]
fn remote_refuses_what_must_not_exist_here() {
    let (dir, tree) = tree();
    let now = tree.clock().now();
    for path in [
        "",
        "/etc/x",
        "../x",
        "a/../b",
        "a//b",
        "a/",
        ".x",
        "a/.tmp.1.x",
        "ignore-me",
        "cache-a/x",
        "backups-1/x",
        "probe-a/x",
        "resource-r/local-a/x",
        "resource-r",
        "resource-r/todo-a",
        "ips",
        "actual-a",
        "a\nb",
        "a/b/c/d/e",
        "userspace/systemd-trigger",
        "resource-r/systemd-trigger",
    ] {
        let link = remote(path, "1", now);
        assert_eq!(
            tree.apply_remote(&link).unwrap(),
            Applied::Refused,
            "{path:?}"
        );
    }
    let mut link = remote("x", "", now);
    assert_eq!(tree.apply_remote(&link).unwrap(), Applied::Refused);
    link.value = b"a\0b".to_vec();
    assert_eq!(tree.apply_remote(&link).unwrap(), Applied::Refused);
    link.value = vec![b'x'; 4096];
    assert_eq!(tree.apply_remote(&link).unwrap(), Applied::Refused);
    assert_eq!(listing(dir.path()), [".lock"]);
    link.value = vec![0xff; 4095];
    assert_eq!(tree.apply_remote(&link).unwrap(), Applied::Stored);
    assert_eq!(tree.export().unwrap(), [link]);
}

#[test]
fn old_marker_stops_older_links_and_goes_with_newer_ones() {
    let (dir, tree) = tree();
    std::fs::create_dir(dir.path().join("ips")).unwrap();
    let marker = dir.path().join("ips/.deleted-ip-a");
    symlink("7,1", &marker).unwrap();
    let at = tree.clock().now();
    touch(&marker, at);
    let apply = |s| {
        tree.apply_remote(&remote("ips/ip-a", "127.0.0.2", s))
            .unwrap()
    };
    assert_eq!(apply(Stamp::from_nanos(at.as_nanos() - 1)), Applied::Kept);
    assert!(tree.snapshot().unwrap().links.is_empty());
    assert_eq!(apply(at), Applied::Stored);
    assert!(marker.symlink_metadata().is_err());
    // Local writes are newer by nature.
    let marker = dir.path().join("ips/.deleted-ip-b");
    symlink("7,1", &marker).unwrap();
    let ahead = at.plus(std::time::Duration::from_secs(3600));
    touch(&marker, ahead);
    assert!(set(&tree, "ips/ip-b", "127.0.0.3") > ahead);
    assert!(marker.symlink_metadata().is_err());
}

#[test]
fn illegal_stamps_are_repaired_by_a_snapshot() {
    let (dir, tree) = tree();
    set(&tree, "resource-r/size", "1");
    let real = Stamp::real_time();
    let illegal = Stamp::from_nanos(real.as_nanos() + 31 * DAY);
    touch(&dir.path().join("resource-r/size"), illegal);
    assert!(tree.read(&key("resource-r/size")).unwrap().unwrap().stamp < illegal);
    let snap = tree.snapshot().unwrap();
    let repaired = snap.stamp(&key("resource-r/size")).unwrap();
    assert!(repaired < Stamp::from_nanos(real.as_nanos() + DAY));
    let meta = std::fs::symlink_metadata(dir.path().join("resource-r/size")).unwrap();
    assert_eq!(
        Stamp::from_timespec(meta.mtime(), meta.mtime_nsec()),
        repaired
    );
    assert!(tree.clock().now() < Stamp::from_nanos(real.as_nanos() + DAY));
    assert_eq!(tree.snapshot().unwrap(), snap, "repaired once");
}

#[test]
fn remote_illegal_stamp_is_replaced_and_does_not_come_again() {
    let (_dir, tree) = tree();
    let illegal = Stamp::from_nanos(Stamp::real_time().as_nanos() + 31 * DAY);
    let link = remote("resource-r/size", "1", illegal);
    assert_eq!(tree.apply_remote(&link).unwrap(), Applied::Stored);
    let stored = tree.read(&key("resource-r/size")).unwrap().unwrap().stamp;
    assert!(stored < illegal);
    assert_eq!(tree.apply_remote(&link).unwrap(), Applied::Kept);
    // The stored link is no newer than what is written afterwards.
    assert!(set(&tree, "resource-r/size", "2") > stored);
}

#[test]
fn commit_if_checks_under_the_lock() {
    let (_dir, tree) = tree();
    set(&tree, "resource-r/primary", "a");
    set(&tree, "resource-s/primary", "b");
    let mut batch = Batch::new();
    batch.set(key("resource-r/primary"), "(none)");
    let refused = tree.commit_if(&batch, |snap| {
        assert_eq!(snap.resources().len(), 1, "only the resource of the batch");
        false
    });
    assert!(refused.unwrap().is_none());
    assert_eq!(text(&tree, "resource-r/primary").as_deref(), Some("a"));
    let done = tree.commit_if(&batch, |s| s.text(&key("resource-r/primary")) == Some("a"));
    assert!(done.unwrap().is_some());
    batch.set(key("resource-s/primary"), "(none)");
    tree.commit_if(&batch, |s| s.resources().len() == 2)
        .unwrap()
        .unwrap();
}

#[test]
fn export_sends_heartbeats_last_and_only_what_travels() {
    let (dir, tree) = tree();
    for (path, value) in [
        ("actual-a/alive", "1"),
        ("actual-a/time", "1.000000000"),
        ("actual-a/tree", "0.1"),
        ("uuid", "u_1.000000000"),
        ("unknown-thing", "kept"),
        ("resource-r/size", "1"),
        ("resource-r/local-a/connection", "0"),
        ("cache-a/invalid", "1"),
    ] {
        set(&tree, path, value);
    }
    delete(&tree, "resource-r/size");
    std::fs::write(dir.path().join("resource-r/log-000000001-a"), "x").unwrap();
    let paths: Vec<_> = tree.export().unwrap().into_iter().map(|l| l.path).collect();
    assert_eq!(
        paths,
        [
            "actual-a/tree",
            "resource-r/size",
            "unknown-thing",
            "uuid",
            "actual-a/alive",
            "actual-a/time",
        ]
    );
    let res = "r".parse().unwrap();
    assert_eq!(tree.snapshot().unwrap().logs(&res).len(), 1);
}

#[test]
fn snapshot_of_leaves_other_resources_out() {
    let (_dir, tree) = tree();
    for path in ["resource-r/size", "resource-r2/size", "ips/ip-a", "uuid"] {
        set(&tree, path, "1");
    }
    let snap = tree.snapshot_of(&"r".parse().unwrap()).unwrap();
    let paths: Vec<_> = snap.links.keys().collect();
    assert_eq!(paths, ["ips/ip-a", "resource-r/size", "uuid"]);
}

#[test]
fn snapshot_of_ten_thousand_links() {
    let (_dir, tree) = tree();
    let mut batch = Batch::new();
    for r in 0..20 {
        for n in 0..500 {
            batch.set(key(&format!("resource-r{r}/version-{n:09}-a")), n);
        }
    }
    tree.commit(&batch).unwrap();
    let snap = tree.snapshot().unwrap();
    assert_eq!(snap.links.len(), 10_000);
    assert_eq!(snap.resources().len(), 20);
    let last = snap.resources().pop().unwrap();
    assert_eq!(last.as_str(), "r19");
    assert_eq!(
        snap.number(&key("resource-r7/version-000000499-a")),
        Some(499)
    );
}
