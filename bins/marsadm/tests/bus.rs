//! Commands that ask the logger over D-Bus, against a stand-in on a private bus; and waiting with a bus there.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
#[path = "../../../lib/mars-bus/tests/support/mod.rs"]
mod support;
use common::{Host, Ran};
use mars_bus::interfaces::{LOGGER, RESOURCE};
use mars_bus::{Bell, Failure, Interface, Object, Setup, Source, State, Type, Value, props};
use mars_tree::{Batch, Key};
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{TestBus, packaged_policy};

struct StandIn {
    path: String,
    interface: &'static Interface,
    calls: Mutex<Vec<(String, Option<u32>)>>,
    number: Mutex<u64>,
}

impl Source for StandIn {
    fn state(&self) -> State {
        let number = *self.number.lock().unwrap();
        let get = |name: &'static str| match self.interface.property(name).map(|p| p.ty) {
            Some(Type::U64) => Value::U64(number),
            Some(Type::Bool) => Value::Bool(false),
            _ => Value::text("x"),
        };
        let object = Object {
            interface: self.interface,
            props: props(self.interface, get),
        };
        State::from([(self.path.clone(), object)])
    }
    fn call(&self, _: &str, method: &str, arg: Option<u32>) -> Result<(), Failure> {
        self.calls.lock().unwrap().push((method.into(), arg));
        match method {
            "Drain" => Err(Failure("Failed", "the disk gives errors (errno 5)".into())),
            _ => Ok(()),
        }
    }
}

fn stand_in(
    bus: &TestBus,
    name: &str,
    path: String,
    interface: &'static Interface,
) -> (Arc<StandIn>, Bell, mars_bus::Bus) {
    let source = Arc::new(StandIn {
        path,
        interface,
        calls: Mutex::default(),
        number: Mutex::new(0),
    });
    let bell = Bell::new();
    let serving = mars_bus::start(Setup {
        name: name.into(),
        shared: Some(mars_bus::LOGGERS_NAME),
        address: Some(bus.address()),
        source: Arc::clone(&source) as Arc<dyn Source>,
        bell: bell.clone(),
        gap: Duration::ZERO,
    })
    .unwrap();
    bus.wait_name(name);
    (source, bell, serving)
}

fn member(dir: &std::path::Path) -> Host {
    let host = Host::new(dir, "alpha");
    let disk = host.disk("disk", 1 << 20);
    for (path, value) in [
        ("uuid", "x"),
        ("ips/ip-alpha", "127.31.9.1"),
        ("resource-lv-0/data-alpha", disk.as_str()),
        ("resource-lv-0/primary", "alpha"),
        ("resource-lv-0/actual-alpha/open-count", "1"),
    ] {
        let mut b = Batch::new();
        b.set(Key::parse(path), value);
        host.tree().commit(&b).unwrap();
    }
    host
}

#[test]
fn bus_carries_freeze_thaw_and_drain() {
    let tmp = tempfile::tempdir().unwrap();
    let host = member(tmp.path());
    let bus = TestBus::started(&packaged_policy());
    let run = |args: &[&str]| -> Ran {
        let (name, value) = bus.var();
        let mut c = host.command(args);
        c.env(name, value).output().unwrap().into()
    };
    let absent = run(&["freeze", "lv-0"]);
    assert_eq!(absent.code, 1);
    assert!(
        absent
            .err
            .contains("its logger cannot be reached over D-Bus; is alpha primary?"),
        "{absent:?}"
    );
    let (name, path) = (mars_bus::logger_name("lv-0"), mars_bus::logger_path("lv-0"));
    let (source, _bell, _serving) = stand_in(&bus, &name, path, &LOGGER);
    let frozen = run(&["freeze", "lv-0", "--timeout=30"]);
    assert!(
        frozen.code == 0 && frozen.out.contains("lv-0: frozen"),
        "{frozen:?}"
    );
    assert_eq!(run(&["thaw", "lv-0"]).code, 0);
    let failed = run(&["drain", "lv-0"]);
    assert!(
        failed.code == 1 && failed.err.contains("errno 5"),
        "{failed:?}"
    );
    for bad in ["--timeout=0", "--timeout=601", "--timeout=-1"] {
        let r = run(&["freeze", "lv-0", bad]);
        assert!(r.code == 2 && r.err.contains("1 to 600 seconds"), "{r:?}");
    }
    assert_eq!(run(&["freeze", "lv-0", "--dry-run"]).code, 0);
    let calls = source.calls.lock().unwrap().clone();
    let call = |name: &str, arg| (name.to_string(), arg);
    assert_eq!(
        calls,
        [
            call("Freeze", Some(30)),
            call("Thaw", None),
            call("Drain", None)
        ]
    );
}

/// A waiting command listens to the bus as well; the condition itself is one of the tree.
#[test]
fn bus_signals_wake_a_wait() {
    let tmp = tempfile::tempdir().unwrap();
    let host = member(tmp.path());
    let bus = TestBus::started(&packaged_policy());
    let path = mars_bus::resource_path("lv-0");
    let (source, bell, _serving) = stand_in(&bus, mars_bus::BUS_NAME, path, &RESOURCE);
    let (name, value) = bus.var();
    let mut waiting = host
        .command(&["wait-umount", "lv-0", "--timeout=30"])
        .env(name, value)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut said = String::new();
    BufReader::new(waiting.stdout.take().unwrap())
        .read_line(&mut said)
        .unwrap();
    assert!(said.starts_with("waiting until"), "{said}");
    for n in 1..50 {
        *source.number.lock().unwrap() = n;
        bell.ring();
    }
    assert!(
        waiting.try_wait().unwrap().is_none(),
        "the condition does not hold yet"
    );
    let mut b = Batch::new();
    b.set(Key::parse("resource-lv-0/actual-alpha/open-count"), 0);
    host.tree().commit(&b).unwrap();
    assert_eq!(
        host.tree()
            .text(&Key::parse("resource-lv-0/actual-alpha/open-count"))
            .unwrap()
            .as_deref(),
        Some("0")
    );
    assert!(waiting.wait().unwrap().success());
}
