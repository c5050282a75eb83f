//! The watcher on a real file system.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_live::Clock;
use mars_tree::{Batch, Key, Stamp, Tree, TreeEvent, Watcher};
use std::collections::BTreeSet;
use std::io::Write;
use std::os::unix::fs::symlink;
use std::time::Duration;

/// Long enough that only a lost event reaches it.
const LONG: Option<Duration> = Some(Duration::from_secs(20));
const NOW: Option<Duration> = Some(Duration::ZERO);

fn tree() -> (tempfile::TempDir, Tree) {
    let dir = tempfile::tempdir().unwrap();
    let tree = Tree::with_clock(dir.path(), Clock::private());
    (dir, tree)
}
fn set(tree: &Tree, path: &str, value: &str) -> Stamp {
    tree.commit(Batch::new().set(Key::parse(path), value))
        .unwrap()
}
fn changed(watcher: &mut Watcher) -> Vec<String> {
    match watcher.wait(LONG).unwrap() {
        TreeEvent::Changed(paths) => paths.into_iter().collect(),
        other => panic!("{other:?}"),
    }
}
/// Nothing more, and nobody would be woken.
fn quiet(watcher: &mut Watcher) {
    assert_eq!(watcher.wait(NOW).unwrap(), TreeEvent::Timeout);
}

#[test]
fn watch_reports_links_files_and_deletions_coalesced() {
    let (dir, tree) = tree();
    set(&tree, "resource-r/size", "1");
    set(&tree, "userspace/x", "1");
    let mut w = Watcher::tree(&tree).unwrap();
    quiet(&mut w);
    set(&tree, "resource-r/size", "2");
    set(&tree, "resource-r/size", "3");
    set(&tree, "uuid", "u");
    assert_eq!(changed(&mut w), ["resource-r/size", "uuid"]);
    quiet(&mut w);
    tree.unlink_plain(&Key::Uuid).unwrap();
    assert_eq!(changed(&mut w), ["uuid"]);
    std::fs::write(dir.path().join("userspace/systemd-trigger"), "1\n").unwrap();
    assert_eq!(changed(&mut w), ["userspace/systemd-trigger"]);
    std::fs::write(dir.path().join("userspace/systemd-trigger"), "2\n").unwrap();
    assert_eq!(changed(&mut w), ["userspace/systemd-trigger"]);
    std::fs::write(dir.path().join("userspace/.hidden"), "2\n").unwrap();
    quiet(&mut w);
}

#[test]
fn watch_reports_logs_that_come_and_go_but_not_their_growth() {
    let (dir, tree) = tree();
    set(&tree, "resource-r/size", "1");
    let mut w = Watcher::tree(&tree).unwrap();
    let path = dir.path().join("resource-r/log-000000001-a");
    let mut log = std::fs::File::create(&path).unwrap();
    assert_eq!(changed(&mut w), ["resource-r/log-000000001-a"]);
    log.write_all(b"records").unwrap();
    // Growth does not even wake anybody.
    let mut fds = [nix::poll::PollFd::new(w.fd(), nix::poll::PollFlags::POLLIN)];
    assert_eq!(nix::poll::poll(&mut fds, 0u8).unwrap(), 0);
    log.sync_all().unwrap();
    drop(log);
    quiet(&mut w);
    std::fs::remove_file(&path).unwrap();
    assert_eq!(changed(&mut w), ["resource-r/log-000000001-a"]);
}

#[test]
fn watch_reports_a_touched_link() {
    use nix::sys::stat::{UtimensatFlags, utimensat};
    use nix::sys::time::TimeSpec;
    let (dir, tree) = tree();
    set(&tree, "resource-r/primary", "a");
    set(&tree, "actual-a/alive", "1");
    let mut w = Watcher::tree(&tree).unwrap();
    let touch = |path: &str, atime: TimeSpec| {
        let mtime = TimeSpec::new(1_700_000_000, 5);
        let flag = UtimensatFlags::NoFollowSymlink;
        let path = dir.path().join(path);
        utimensat(nix::fcntl::AT_FDCWD, &path, &atime, &mtime, flag).unwrap();
    };
    // The mtime alone is MODIFY, both are ATTRIB.
    touch("actual-a/alive", TimeSpec::UTIME_OMIT);
    assert_eq!(changed(&mut w), ["actual-a/alive"]);
    touch("resource-r/primary", TimeSpec::new(1_700_000_000, 5));
    assert_eq!(changed(&mut w), ["resource-r/primary"]);
}

#[test]
fn watch_new_directories_without_a_gap() {
    let (_dir, tree) = tree();
    let mut w = Watcher::tree(&tree).unwrap();
    // A writer makes directories and links in them as fast as it can while the watcher adds its watches.
    let writer = {
        let tree = tree.clone();
        std::thread::spawn(move || {
            for n in 0..200 {
                set(&tree, &format!("resource-r{n}/todo-a/attach"), "1");
                set(&tree, &format!("resource-r{n}/size"), "1");
            }
        })
    };
    let mut missing: BTreeSet<String> = (0..200)
        .flat_map(|n| {
            [
                format!("resource-r{n}/todo-a/attach"),
                format!("resource-r{n}/size"),
            ]
        })
        .collect();
    while !missing.is_empty() {
        match w.wait(LONG).unwrap() {
            TreeEvent::Changed(paths) => missing.retain(|p| !paths.contains(p)),
            other => panic!("{other:?}, missing {missing:?}"),
        }
    }
    writer.join().unwrap();
    // They are watched now.
    while w.wait(NOW).unwrap() != TreeEvent::Timeout {}
    set(&tree, "resource-r7/todo-a/attach", "0");
    assert_eq!(changed(&mut w), ["resource-r7/todo-a/attach"]);
}

#[test]
fn watch_directory_that_is_moved_away_or_in() {
    let (dir, tree) = tree();
    set(&tree, "resource-r/actual-a/is-primary", "1");
    let mut w = Watcher::tree(&tree).unwrap();
    let from = dir.path().join("resource-r");
    let to = dir.path().join("resource-s");
    std::fs::rename(&from, &to).unwrap();
    assert_eq!(w.wait(LONG).unwrap(), TreeEvent::Rescan);
    set(&tree, "resource-s/actual-a/is-primary", "0");
    assert_eq!(changed(&mut w), ["resource-s/actual-a/is-primary"]);
    std::fs::remove_dir_all(&to).unwrap();
    assert_eq!(changed(&mut w), ["resource-s/actual-a/is-primary"]);
    quiet(&mut w);
    set(&tree, "resource-s/size", "1");
    assert_eq!(changed(&mut w), ["resource-s/size"]);
}

#[test]
fn watch_overflow_means_rescan_with_renewed_watches() {
    let (dir, tree) = tree();
    set(&tree, "ips/ip-a", "127.0.0.2");
    let mut w = Watcher::tree(&tree).unwrap();
    let limit: usize = std::fs::read_to_string("/proc/sys/fs/inotify/max_queued_events")
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    // Two events for each round; alternating names keep the kernel from merging them.
    for n in 0..limit / 2 + 10 {
        let path = dir.path().join(format!("ips/x{}", n % 2));
        symlink("1", &path).unwrap();
        std::fs::remove_file(&path).unwrap();
    }
    // This directory appears while events are dropped.
    set(&tree, "resource-r/size", "1");
    assert_eq!(w.wait(LONG).unwrap(), TreeEvent::Rescan);
    while w.wait(NOW).unwrap() != TreeEvent::Timeout {}
    set(&tree, "resource-r/size", "2");
    assert_eq!(changed(&mut w), ["resource-r/size"]);
    set(&tree, "ips/ip-a", "127.0.0.3");
    assert_eq!(changed(&mut w), ["ips/ip-a"]);
}

#[test]
fn watch_one_resource_ignores_the_others() {
    let (_dir, tree) = tree();
    set(&tree, "resource-s/size", "1");
    let mut w = Watcher::resource(&tree, &"r".parse().unwrap()).unwrap();
    set(&tree, "resource-s/size", "2");
    set(&tree, "resource-s2/size", "2");
    set(&tree, "userspace/x", "2");
    quiet(&mut w);
    set(&tree, "resource-r/todo-a/attach", "1");
    assert_eq!(changed(&mut w), ["resource-r/todo-a/attach"]);
    set(&tree, "ips/ip-a", "127.0.0.2");
    assert_eq!(changed(&mut w), ["ips/ip-a"]);
    set(&tree, "actual-a/alive", "1");
    assert_eq!(changed(&mut w), ["actual-a/alive"]);
}

#[test]
fn watch_wakes_a_sleeper() {
    let (_dir, tree) = tree();
    let mut w = Watcher::tree(&tree).unwrap();
    let sleeper = std::thread::spawn(move || w.wait(None).unwrap());
    set(&tree, "uuid", "u");
    let TreeEvent::Changed(paths) = sleeper.join().unwrap() else {
        panic!("no change");
    };
    assert!(paths.contains("uuid"));
}
