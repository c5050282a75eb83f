//! The reconciler and commands over several resources, with stand-ins for the daemons.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::Host;
use mars_tree::{Batch, Key};
use mars_units::{DirectManager, Manager, UnitStatus};
use std::collections::BTreeSet;
use std::time::Duration;

const DAEMONS: [&str; 5] = [
    "mars-meta",
    "mars-fetch",
    "mars-sync",
    "mars-logger",
    "mars-replay",
];

struct Running(Host);

impl Running {
    fn new(dir: &std::path::Path, settled: bool) -> Running {
        let h = Host::new(dir, "alpha");
        for program in DAEMONS {
            h.stand_in(program, "exec sleep 1000");
        }
        h.ok(&["create-cluster", "--ip=127.43.2.2"]);
        if settled {
            h.settle();
        }
        Running(h)
    }
    fn units(&self) -> BTreeSet<String> {
        let m = DirectManager::new(&self.0.env);
        m.running()
            .unwrap()
            .iter()
            .map(ToString::to_string)
            .collect()
    }
    fn has(&self, unit: &str) -> bool {
        self.units().contains(unit)
    }
    fn actual(&self, res: &str, name: &str) -> Option<String> {
        let key = format!("resource-{res}/actual-alpha/{name}");
        self.0.tree().text(&Key::parse(&key)).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.run(&["stop"]);
    }
}

impl Host {
    fn settle(&self) {
        std::fs::create_dir_all(&self.env.run_dir).unwrap();
        std::fs::write(self.env.run_dir.join("meta.settled"), "").unwrap();
    }
}

#[test]
fn reconciler_starts_the_logger_only_when_the_others_were_heard() {
    let dir = tempfile::tempdir().unwrap();
    let r = Running::new(dir.path(), false);
    let h = &r.0;
    let host_units = BTreeSet::from(
        ["mars-meta.service", "mars-fetch.socket", "mars-sync.socket"].map(String::from),
    );
    assert_eq!(r.units(), host_units);
    h.ok(&["create-resource", "r", &h.disk("d", 1 << 20)]);
    assert_eq!(r.units(), host_units);
    h.settle();
    let out = h.ok(&["systemd-trigger", "-v"]);
    assert_eq!(out, "started mars-logger@r.service\n");
    assert_eq!(h.ok(&["systemd-trigger", "-v"]), "", "not idempotent");
    assert_eq!(r.actual("r", "is-attached").as_deref(), Some("1"));
    h.ok(&["detach", "r"]);
    assert!(!r.has("mars-logger@r.service"));
    assert_eq!(r.actual("r", "is-attached").as_deref(), Some("0"));
    h.ok(&["up", "r"]);
    assert!(r.has("mars-logger@r.service"));
    let out = h.ok(&["stop"]);
    let stopped: Vec<&str> = out.lines().collect();
    assert_eq!(stopped.first(), Some(&"stopped mars-logger@r.service"));
    assert_eq!(stopped.last(), Some(&"stopped mars-meta.service"));
    assert_eq!(r.units(), BTreeSet::new());
}

#[test]
fn reconciler_heals_what_a_crash_left_behind() {
    let dir = tempfile::tempdir().unwrap();
    let r = Running::new(dir.path(), true);
    let h = &r.0;
    h.ok(&["create-resource", "r", &h.disk("d", 1 << 20)]);
    let m = DirectManager::new(&h.env);
    let unit = "mars-logger@r.service".parse().unwrap();
    let UnitStatus::Running(pid) = m.status(&unit).unwrap() else {
        panic!("no logger");
    };
    // It was primary with two openers when it died; meanwhile nobody is designated any more.
    let mut b = Batch::new();
    for (name, value) in [("is-primary", 1), ("if-on", 1), ("open-count", 2)] {
        b.set(
            Key::parse(&format!("resource-r/actual-alpha/{name}")),
            value,
        );
    }
    b.set(Key::Primary("r".parse().unwrap()), "(none)");
    h.tree().commit(&b).unwrap();
    h.ok(&["systemd-trigger"]);
    assert!(
        r.has("mars-logger@r.service"),
        "stopped although its device is open"
    );
    kill(pid);
    h.ok(&["systemd-trigger"]);
    assert!(
        !r.has("mars-logger@r.service"),
        "left-overs of a dead logger keep it alive"
    );
    for name in ["is-primary", "if-on", "open-count"] {
        assert_eq!(r.actual("r", name).as_deref(), Some("0"), "{name}");
    }
    // A secondary then: replay and fetch.
    assert!(r.has("mars-fetch@r.service") && r.has("mars-replay@r.service"));
    h.ok(&["pause-fetch", "r"]);
    assert!(!r.has("mars-fetch@r.service") && r.has("mars-replay@r.service"));
    h.ok(&["pause-replay", "r"]);
    h.ok(&["connect", "r"]);
    assert!(r.has("mars-fetch@r.service") && !r.has("mars-replay@r.service"));
}

fn kill(pid: i32) {
    let pid = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    // Not our child: it is gone when its process descriptor says so, or at once when somebody has reaped it.
    let path = format!("/proc/{pid}/fd");
    while std::fs::read_dir(&path).is_ok_and(|mut d| d.next().is_some()) {
        std::thread::yield_now();
    }
}

#[test]
fn reconciler_reports_one_failure_and_does_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let r = Running::new(dir.path(), true);
    let h = &r.0;
    std::fs::remove_file(dir.path().join("bin/mars-logger")).unwrap();
    for name in ["a", "b"] {
        h.run(&["create-resource", name, &h.disk(name, 1 << 20)]);
    }
    let m = DirectManager::new(&h.env);
    for unit in ["mars-fetch.socket", "mars-sync.socket"] {
        m.stop(&unit.parse().unwrap(), Duration::from_secs(60))
            .unwrap();
    }
    let s = h.run(&["systemd-trigger", "-v"]);
    assert_eq!(s.code, 1, "{s:?}");
    assert!(
        s.err.contains("mars-logger@a.service") && s.err.contains("mars-logger@b.service"),
        "{s:?}"
    );
    assert!(
        s.out.contains("started mars-fetch.socket") && s.out.contains("started mars-sync.socket"),
        "{s:?}"
    );
    assert_eq!(
        s.err.lines().filter(|l| l.starts_with("DYING: ")).count(),
        1,
        "{s:?}"
    );
}

#[test]
fn several_resources_in_order_and_failures_do_not_stop_the_others() {
    let dir = tempfile::tempdir().unwrap();
    let r = Running::new(dir.path(), false);
    let h = &r.0;
    for name in ["r10", "r2", "other"] {
        h.ok(&[
            "create-resource",
            name,
            &h.disk(name, 1 << 20),
            &format!("dev-{name}"),
        ]);
    }
    let headers = |out: &str| -> Vec<String> {
        out.lines()
            .filter_map(|l| l.strip_prefix("--------- resource "))
            .filter_map(|l| l.split(' ').next())
            .map(String::from)
            .collect()
    };
    assert_eq!(headers(&h.ok(&["role", "all"])), ["other", "r2", "r10"]);
    assert_eq!(headers(&h.ok(&["role", "r10,other,r10"])), ["other", "r10"]);
    assert_eq!(headers(&h.ok(&["role", "r2"])), [""; 0]);
    // r2's device is open: it cannot be detached, the others can.
    let mut b = Batch::new();
    b.set(Key::parse("resource-r2/actual-alpha/open-count"), 1);
    h.tree().commit(&b).unwrap();
    let d = h.run(&["detach", "all"]);
    assert_eq!(d.code, 1, "{d:?}");
    assert!(d.out.contains("FAILURE cmd='detach' res='r2'"), "{d:?}");
    assert!(d.err.contains("opened 1 times on host alpha"), "{d:?}");
    let attach = |res: &str| {
        let key = format!("resource-{res}/todo-alpha/attach");
        h.tree().text(&Key::parse(&key)).unwrap()
    };
    assert_eq!(
        [attach("other"), attach("r2"), attach("r10")],
        ["0", "1", "0"].map(|s| Some(s.to_string()))
    );
    // The name of a local device stands for its resource.
    let r2 = h.run(&["role", "dev-r2"]);
    assert_eq!(r2.code, 0, "{r2:?}");
    assert!(r2.err.contains("device of resource r2"), "{r2:?}");
    // Acting as another host says so.
    let mut b = Batch::new();
    b.set(Key::parse("ips/ip-beta"), "127.43.2.3");
    h.tree().commit(&b).unwrap();
    let other = h.run(&["--host=beta", "role", "all"]);
    assert_eq!(other.code, 0, "{other:?}");
    assert!(
        other.err.contains("acting as host beta") && other.err.contains("matches no resource"),
        "{other:?}"
    );
}

#[test]
fn view_prints_one_block_per_resource_and_json() {
    let dir = tempfile::tempdir().unwrap();
    let r = Running::new(dir.path(), false);
    let h = &r.0;
    for name in ["r1", "r2"] {
        h.ok(&["create-resource", name, &h.disk(name, 1 << 20)]);
    }
    let all = h.run(&["view", "all"]);
    assert_eq!(all.code, 0, "{all:?}");
    assert!(all.out.starts_with("--------- resource r1\n"), "{all:?}");
    assert!(all.out.contains("--------- resource r2\n"), "{all:?}");
    assert_eq!(h.run(&["view-primarynode", "r1"]).out, "alpha\n");
    let json: serde_json::Value = serde_json::from_str(&h.ok(&["view", "--json"])).unwrap();
    assert!(
        json.to_string().contains("r1") && json.to_string().contains("r2"),
        "{json}"
    );
    let one: serde_json::Value = serde_json::from_str(&h.ok(&["view", "r1", "--json"])).unwrap();
    assert!(!one.to_string().contains("r2"), "{one}");
}

/// Names below the device directory and the socket of `r`.
fn devices(h: &Host) -> BTreeSet<String> {
    let mut all: BTreeSet<String> = std::fs::read_dir(&h.env.dev_dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    if h.env.run_dir.join("r/nbd.sock").exists() {
        all.insert("SOCKET".into());
    }
    all
}

#[test]
fn reconciler_removes_devices_of_dead_loggers_only() {
    use std::os::unix::fs::symlink;
    let dir = tempfile::tempdir().unwrap();
    let r = Running::new(dir.path(), true);
    let h = &r.0;
    h.ok(&["create-resource", "r", &h.disk("d", 1 << 20), "vol"]);
    let (dev, run) = (&h.env.dev_dir, &h.env.run_dir);
    std::fs::create_dir_all(dev).unwrap();
    std::fs::create_dir_all(run.join("r")).unwrap();
    let sock = run.join("r/nbd.sock");
    let _listener = std::os::unix::net::UnixListener::bind(&sock).unwrap();
    symlink(&sock, dev.join("vol")).unwrap();
    // Not ours: other targets, other names, no links.
    symlink("/dev/sda", dev.join("mine")).unwrap();
    symlink("/dev/loop7", dev.join("other")).unwrap();
    std::fs::write(dev.join("file"), "").unwrap();
    let foreign = BTreeSet::from(["mine", "other", "file"].map(String::from));
    let mut all = foreign.clone();
    all.extend(["vol", "SOCKET"].map(String::from));
    h.ok(&["systemd-trigger"]);
    assert_eq!(devices(h), all, "its logger runs");
    // The logger dies and is not wanted any more.
    let m = DirectManager::new(&h.env);
    let UnitStatus::Running(pid) = m.status(&"mars-logger@r.service".parse().unwrap()).unwrap()
    else {
        panic!("no logger");
    };
    let mut b = Batch::new();
    b.set(Key::Primary("r".parse().unwrap()), "(none)");
    h.tree().commit(&b).unwrap();
    kill(pid);
    let out = h.ok(&["systemd-trigger", "-v"]);
    assert_eq!(devices(h), foreign, "{out}");
    assert!(out.contains("left by a dead logger"), "{out}");
    // A loop device, found by its name; `stop` looks too.
    symlink("/dev/loop8", dev.join("vol")).unwrap();
    h.ok(&["stop"]);
    assert_eq!(devices(h), foreign);
}
