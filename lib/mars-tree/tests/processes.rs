//! Several processes and threads write to one tree at once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_tree::{Applied, Batch, HostEnv, Key, RemoteLink, Stamp, Tree};
use std::collections::HashSet;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};

const ROUNDS: usize = 200;

fn env(dir: &Path) -> HostEnv {
    HostEnv::from_vars(|k| match k {
        "MARS_HOST" => Some("a".into()),
        "MARS_ROOT" => Some(dir.join("root").to_str().unwrap().into()),
        "MARS_RUN_DIR" => Some(dir.join("run").to_str().unwrap().into()),
        _ => None,
    })
    .unwrap()
}
fn counter() -> Key {
    Key::parse("resource-r/maxnr")
}

/// Adds one to a shared counter, writes a key of its own, both checked; returns the stamps.
fn work(tree: &Tree, name: &str) -> Vec<Stamp> {
    let own = Key::parse(&format!("resource-r/userspace/{name}"));
    let mut stamps = Vec::new();
    for n in 0..ROUNDS {
        loop {
            let old = tree.text(&counter()).unwrap().unwrap();
            let next = old.parse::<u64>().unwrap() + 1;
            let mut batch = Batch::new();
            batch.set(counter(), next);
            let done = tree.commit_if(&batch, |s| s.text(&counter()) == Some(old.as_str()));
            if let Some(stamp) = done.unwrap() {
                stamps.push(stamp);
                break;
            }
        }
        let stamp = tree.commit(Batch::new().set(own.clone(), n)).unwrap();
        stamps.push(stamp);
        let link = tree.read(&own).unwrap().unwrap();
        assert_eq!(
            (link.value.as_str(), link.stamp),
            (Some(n.to_string().as_str()), stamp)
        );
    }
    assert!(stamps.is_sorted());
    stamps
}

/// Body of the children of `commits_of_several_processes_lose_nothing`; does nothing by itself.
#[test]
fn child_that_commits() {
    let Ok(dir) = std::env::var("MARS_TEST_COMMIT_DIR") else {
        return;
    };
    let dir = Path::new(&dir);
    let pid = std::process::id();
    let threads: Vec<_> = (0..2)
        .map(|t| {
            let tree = Tree::open(&env(dir)).unwrap();
            std::thread::spawn(move || work(&tree, &format!("{pid}.{t}")))
        })
        .collect();
    let out: Vec<String> = threads
        .into_iter()
        .flat_map(|t| t.join().unwrap())
        .map(|s| s.to_string())
        .collect();
    std::fs::write(dir.join(format!("stamps.{pid}")), out.join("\n")).unwrap();
}

#[test]
fn commits_of_several_processes_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("root")).unwrap();
    let tree = Tree::open(&env(dir.path())).unwrap();
    tree.commit(Batch::new().set(counter(), 0)).unwrap();
    let children: Vec<_> = (0..3)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .args(["--exact", "child_that_commits"])
                .env("MARS_TEST_COMMIT_DIR", dir.path())
                .spawn()
                .unwrap()
        })
        .collect();
    let mut stamps: Vec<Stamp> = work(&tree, "parent");
    for mut child in children {
        assert!(child.wait().unwrap().success());
        let path = dir.path().join(format!("stamps.{}", child.id()));
        let text = std::fs::read_to_string(path).unwrap();
        stamps.extend(text.lines().map(|l| l.parse::<Stamp>().unwrap()));
    }
    assert_eq!(stamps.len(), 7 * 2 * ROUNDS);
    let distinct: HashSet<Stamp> = stamps.iter().copied().collect();
    assert_eq!(distinct.len(), stamps.len(), "a stamp was used twice");
    let count = tree.text(&counter()).unwrap().unwrap();
    assert_eq!(count, (7 * ROUNDS).to_string(), "lost updates");
    let names = std::fs::read_dir(dir.path().join("root/resource-r")).unwrap();
    let hidden = names
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .filter(|n| n.starts_with('.'))
        .count();
    assert_eq!(hidden, 0, "temporary links left behind");
}

/// Stops the writer also when the check fails.
struct Stop<'a>(&'a AtomicBool);
impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A key that is replaced all the time is never missing from a snapshot, and value and stamp belong together.
#[test]
fn snapshot_beside_writers_is_complete_and_consistent() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("root")).unwrap();
    let tree = Tree::open(&env(dir.path())).unwrap();
    let keys: Vec<Key> = (0..50)
        .map(|n| Key::parse(&format!("resource-r/key{n}")))
        .collect();
    // Value = its own stamp, which a remote link brings with it.
    let write = |key: &Key| {
        let stamp = tree.clock().tick(Stamp::ZERO);
        let link = RemoteLink {
            path: key.path(),
            value: stamp.to_string().into_bytes(),
            stamp,
        };
        assert_eq!(tree.apply_remote(&link).unwrap(), Applied::Stored);
    };
    keys.iter().for_each(write);
    let stop = AtomicBool::new(false);
    std::thread::scope(|s| {
        s.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                keys.iter().for_each(write);
            }
        });
        let _stop = Stop(&stop);
        for _ in 0..300 {
            let snap = tree.snapshot().unwrap();
            for key in &keys {
                let link = snap.get(key).expect("missing from the snapshot");
                assert_eq!(link.value.as_str().unwrap(), link.stamp.to_string());
                let read = tree.read(key).unwrap().unwrap();
                assert_eq!(read.value.as_str().unwrap(), read.stamp.to_string());
                assert!(read.stamp >= link.stamp);
            }
        }
    });
}
