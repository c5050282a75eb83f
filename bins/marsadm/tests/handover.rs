//! `primary`, `secondary` and their phases over several resources, against a stand-in for the old primary that answers by links.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::{Host, Ran};
use mars_tree::{Batch, Key, Tree};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const V1: &str = "eae75bd0648f4b9f8ece4a07b4c47429,log-000000001-beta,1048576:";

/// alpha: secondary of the resources, with everything. beta: primary, played by a thread.
struct Pair {
    h: Host,
    tree: Tree,
    stop: Arc<AtomicBool>,
    beta: Option<JoinHandle<()>>,
    _engine: mars_daemon::InstanceLock,
}

fn set(tree: &Tree, links: &[(String, &str)]) {
    let mut b = Batch::new();
    for (path, value) in links {
        b.set(Key::parse(path), *value);
    }
    tree.commit(&b).unwrap();
}

fn text(tree: &Tree, path: &str) -> String {
    tree.text(&Key::parse(path)).unwrap().unwrap_or_default()
}

impl Pair {
    fn new(dir: &Path, resources: &[&str]) -> Pair {
        let h = Host::new(dir, "alpha");
        for program in ["mars-meta", "mars-fetch", "mars-sync", "mars-logger"] {
            h.stand_in(program, "exec sleep 1000");
        }
        h.ok(&["create-cluster", "--ip=127.43.6.2"]);
        h.ok(&["stop"]);
        let tree = h.tree();
        set(&tree, &[("ips/ip-beta".to_string(), "127.43.6.3")]);
        for r in resources {
            let disk = h.disk(r, 1 << 20);
            let at = |p: &str| format!("resource-{r}/{p}");
            let mut links = vec![
                (at("size"), "1048576"),
                (at("primary"), "beta"),
                (at("userspace/last-primary"), "beta"),
                (at("actual-beta/is-primary"), "1"),
                (at("actual-beta/open-count"), "0"),
                (at("data-alpha"), disk.as_str()),
                (at("data-beta"), "/dev/x"),
            ];
            for x in ["alpha", "beta"] {
                links.extend([
                    (at(&format!("device-{x}")), *r),
                    (at(&format!("syncstatus-{x}")), "1048576"),
                    (at(&format!("replay-{x}")), "log-000000001-beta,1048576,0"),
                    (at(&format!("version-000000001-{x}")), V1),
                ]);
                for t in ["attach", "connect", "sync", "allow-replay"] {
                    links.push((at(&format!("todo-{x}/{t}")), "1"));
                }
            }
            set(&tree, &links);
        }
        let engine = h.pretend_engine();
        let stop = Arc::new(AtomicBool::new(false));
        let (own, quit) = (h.tree(), stop.clone());
        let names: Vec<String> = resources.iter().map(ToString::to_string).collect();
        let beta = std::thread::spawn(move || {
            while !quit.load(Ordering::Relaxed) {
                answer(&own, &names);
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        Pair {
            h,
            tree,
            stop,
            beta: Some(beta),
            _engine: engine,
        }
    }

    /// Units on top of the device, which is open at beta.
    fn with_units(&self, res: &str) {
        let at = |p: &str| format!("resource-{res}/{p}");
        set(
            &self.tree,
            &[
                (at("systemd-start-unit"), "app.service"),
                (at("systemd-stop-unit"), "app.service"),
                (at("systemd-want"), "beta"),
                (at("actual-beta/open-count"), "1"),
            ],
        );
    }

    fn get(&self, res: &str, name: &str) -> String {
        text(&self.tree, &format!("resource-{res}/{name}"))
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.h.run(&[args, &["--timeout=20"]].concat())
    }
}

impl Drop for Pair {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.beta.take().map(JoinHandle::join);
    }
}

/// What beta does, and the logger of alpha.
fn answer(tree: &Tree, resources: &[String]) {
    let now = tree.clock().now();
    let mut b = Batch::new();
    b.set(Key::parse("actual-beta/time"), now);
    for r in resources {
        let at = |p: &str| format!("resource-{r}/{p}");
        let primary = text(tree, &at("primary"));
        let mut put = |p: &str, on: bool| {
            b.set_if_changed(Key::parse(&at(p)), u8::from(on));
        };
        if text(tree, &at("systemd-want")) == "alpha" {
            put("actual-beta/open-count", false);
        }
        put("actual-beta/is-primary", primary == "beta");
        for flag in ["is-primary", "if-on"] {
            put(&format!("actual-alpha/{flag}"), primary == "alpha");
        }
    }
    tree.commit(&b).unwrap();
}

#[test]
fn planned_handover_of_two_resources_goes_through_all_phases() {
    let dir = tempfile::tempdir().unwrap();
    let p = Pair::new(dir.path(), &["r1", "r2"]);
    let r = p.run(&["primary", "all"]);
    assert_eq!(r.code, 0, "{r:?}");
    let lines: Vec<&str> = r.out.lines().filter(|l| l.starts_with("----")).collect();
    let titles = [
        "check the preconditions",
        "stop the old side and replay everything",
        "take the role over",
        "wait for the device, all switches on",
    ];
    let expected: Vec<String> = titles
        .iter()
        .enumerate()
        .flat_map(|(n, t)| {
            [
                format!("-------- PHASE {} -------- {t}:", n + 1),
                "--------- resource r1 1.000 MiB [1/2]".into(),
                "--------- resource r2 1.000 MiB [2/2]".into(),
            ]
        })
        .collect();
    assert_eq!(lines, expected, "{r:?}");
    for res in ["r1", "r2"] {
        assert_eq!(p.get(res, "primary"), "alpha");
        assert_eq!(p.get(res, "userspace/last-primary"), "alpha");
        assert_eq!(p.get(res, "userspace/prev-primary"), "beta");
        assert!(r.out.contains(&format!("alpha is primary of {res}")));
    }
    // Again: what is there already stays, and is no failure.
    let before = p.tree.read(&Key::parse("resource-r1/primary")).unwrap();
    let r = p.run(&["primary", "r1,r2"]);
    assert_eq!(r.code, 0, "{r:?}");
    assert_eq!(
        p.tree.read(&Key::parse("resource-r1/primary")).unwrap(),
        before
    );
}

#[test]
fn a_resource_that_fails_is_left_out_and_the_other_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let p = Pair::new(dir.path(), &["r1", "r2"]);
    set(
        &p.tree,
        &[("resource-r1/actual-beta/open-count".to_string(), "3")],
    );
    let r = p.run(&["primary", "r1,r2"]);
    assert_eq!(r.code, 1, "{r:?}");
    assert!(
        r.err
            .contains("/dev/mars/r1 is opened 3 times on host beta")
            && r.err.contains("unmount"),
        "{r:?}"
    );
    assert_eq!(r.out.matches("resource r1").count(), 1, "{r:?}");
    assert!(r.out.contains("FAILURE cmd='primary' res='r1'"), "{r:?}");
    assert_eq!(p.get("r1", "primary"), "beta");
    assert_eq!(p.get("r2", "primary"), "alpha");
}

#[test]
fn units_are_given_back_when_a_later_phase_fails() {
    let dir = tempfile::tempdir().unwrap();
    let p = Pair::new(dir.path(), &["r1", "r2"]);
    for res in ["r1", "r2"] {
        p.with_units(res);
    }
    // Both were wanted here already, and their devices closed over there.
    let r = p.run(&["primary", "all", "--error-injection-phase=3"]);
    assert_eq!(r.code, 1, "{r:?}");
    for res in ["r1", "r2"] {
        assert_eq!(p.get(res, "actual-beta/open-count"), "0", "{r:?}");
        assert_eq!(p.get(res, "systemd-want"), "beta", "{r:?}");
        assert_eq!(p.get(res, "primary"), "beta", "{r:?}");
        let told = format!("the stack of {res} is wanted at beta again");
        assert!(r.err.contains(&told), "{r:?}");
        assert!(
            r.out
                .contains(&format!("FAILURE cmd='primary' res='{res}'"))
        );
    }
    // Before the old side was touched there is nothing to give back.
    let r = p.run(&["primary", "r1", "--error-injection-phase=2"]);
    assert_eq!(r.code, 1, "{r:?}");
    assert!(!r.err.contains("again"), "{r:?}");
    let r = p.run(&["primary", "all"]);
    assert_eq!(r.code, 0, "{r:?}");
    for res in ["r1", "r2"] {
        assert_eq!(p.get(res, "systemd-want"), "alpha");
        assert_eq!(p.get(res, "primary"), "alpha");
    }
}

#[test]
fn forced_takeover_says_what_it_lifts_and_needs_fetch_off() {
    let dir = tempfile::tempdir().unwrap();
    let p = Pair::new(dir.path(), &["r1"]);
    set(
        &p.tree,
        &[("resource-r1/actual-beta/open-count".to_string(), "1")],
    );
    let r = p.run(&["primary", "r1", "--force"]);
    assert_eq!(r.code, 1, "{r:?}");
    assert!(r.err.contains("marsadm pause-fetch r1"), "{r:?}");
    assert_eq!(p.run(&["pause-fetch", "r1"]).code, 0);
    let r = p.run(&["force-primary", "r1"]);
    assert_eq!(r.code, 0, "{r:?}");
    assert!(
        r.err
            .contains("lifted by --force: device /dev/mars/r1 is opened 1 times on host beta"),
        "{r:?}"
    );
    assert_eq!(p.get("r1", "primary"), "alpha");
    // Fetching again is part of it.
    assert_eq!(p.get("r1", "todo-alpha/connect"), "1");
}

#[test]
fn secondary_gives_up_for_all_and_a_later_primary_knows_the_last_one() {
    let dir = tempfile::tempdir().unwrap();
    let p = Pair::new(dir.path(), &["r1", "r2"]);
    assert_eq!(p.run(&["primary", "all"]).code, 0);
    let r = p.run(&["secondary", "all", "--error-injection-phase=3"]);
    assert_eq!(r.code, 1, "{r:?}");
    assert_eq!(p.get("r1", "primary"), "alpha");
    let r = p.run(&["secondary", "all"]);
    assert_eq!(r.code, 0, "{r:?}");
    for res in ["r1", "r2"] {
        assert_eq!(p.get(res, "primary"), "(none)");
    }
    assert_eq!(p.run(&["primary", "all", "--parallel"]).code, 0);
    assert_eq!(p.get("r2", "primary"), "alpha");
}
