//! The rim on a private bus, with a service that does nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod support;
use mars_bus::interfaces::{ALL, LOGGER};
use mars_bus::{Bell, Failure, Object, Setup, SignalWatch, Source, State, Type, Value, props};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use support::{TestBus, packaged_policy, readers_policy};

struct Service {
    openers: AtomicU64,
    called: Mutex<Vec<(String, Option<u32>)>>,
}

impl Source for Service {
    fn state(&self) -> State {
        let openers = self.openers.load(Ordering::SeqCst);
        let get = |name: &'static str| match LOGGER.property(name).map(|p| p.ty) {
            Some(Type::Text) => Value::text("x"),
            Some(Type::Bool) => Value::Bool(false),
            _ if name == "Openers" => Value::U64(openers),
            _ => Value::U64(0),
        };
        let object = Object {
            interface: &LOGGER,
            props: props(&LOGGER, get),
        };
        State::from([(mars_bus::ROOT_PATH.to_string(), object)])
    }
    fn call(&self, _: &str, method: &str, arg: Option<u32>) -> Result<(), Failure> {
        self.called.lock().unwrap().push((method.into(), arg));
        match method {
            "Drain" => Err(Failure("Failed", "the disk is gone".into())),
            _ => Ok(()),
        }
    }
}

#[test]
fn bus_serves_tells_refuses_and_comes_back() {
    let mut bus = TestBus::new(&packaged_policy());
    let service = Arc::new(Service {
        openers: AtomicU64::new(3),
        called: Mutex::default(),
    });
    let bell = Bell::new();
    let serving = mars_bus::start(Setup {
        name: mars_bus::BUS_NAME.into(),
        shared: Some(mars_bus::LOGGERS_NAME),
        address: Some(bus.address()),
        source: Arc::clone(&service) as Arc<dyn Source>,
        bell: bell.clone(),
        gap: Duration::from_millis(50),
    })
    .unwrap();

    // The bus comes later than the service.
    bus.start();
    bus.wait_name(mars_bus::BUS_NAME);
    let (name, path, interface) = (mars_bus::BUS_NAME, mars_bus::ROOT_PATH, LOGGER.name);
    let openers = |bus: &TestBus| bus.busctl(&["get-property", name, path, interface, "Openers"]);
    assert_eq!(openers(&bus).unwrap(), "t 3");

    // Who waits for signals wakes, and not for ever.
    let watch = SignalWatch::on(Some(&bus.address()), path).unwrap();
    let woken = |timeout: PollTimeout| {
        let mut fds = [PollFd::new(watch.as_fd(), PollFlags::POLLIN)];
        poll(&mut fds, timeout).unwrap() > 0
    };
    assert!(woken(PollTimeout::NONE), "it listens");
    watch.clear();
    let mut monitor = bus.monitor(&["monitor", "--system", "--dest", name]);
    service.openers.store(4, Ordering::SeqCst);
    bell.ring();
    let line = monitor.wait(|l| l.contains("PropertiesChanged"));
    assert!(
        line.contains("'Openers': <uint64 4>") && !line.contains("LogNumber"),
        "{line}"
    );
    assert!(woken(PollTimeout::NONE));
    watch.clear();
    // Nothing changed: nothing is told. The next change comes first.
    bell.ring();
    service.openers.store(5, Ordering::SeqCst);
    bell.ring();
    let line = monitor.wait(|_| true);
    assert!(line.contains("uint64 5"), "{line}");

    // Methods.
    let call = |bus: &TestBus, args: &[&str]| {
        bus.busctl(&[&["call", name, path, interface], args].concat())
    };
    call(&bus, &["Freeze", "u", "30"]).unwrap();
    assert!(
        call(&bus, &["Drain"])
            .unwrap_err()
            .contains("the disk is gone")
    );
    let seen = std::mem::take(&mut *service.called.lock().unwrap());
    assert_eq!(seen, [("Freeze".into(), Some(30)), ("Drain".into(), None)]);

    // Hostile calls.
    let huge = "x".repeat(100_000);
    for args in [
        &["Freeze", "s", "30"][..],
        &["Freeze"],
        &["Freeze", "u", "30", "surplus"],
        &["Thaw", "aas", "1", "1", "x"],
        &["NoSuchMethod"],
        &["Thaw", "s", &huge],
    ] {
        assert!(call(&bus, args).is_err(), "{args:.40?}");
    }
    let standard = |args: &[&str]| {
        bus.busctl(
            &[
                &["call", name, path, "org.freedesktop.DBus.Properties"],
                args,
            ]
            .concat(),
        )
    };
    for args in [
        &["Get", "ss", interface, &huge][..],
        &["Get", "ss", &huge, "Openers"],
        &["GetAll", "s", "a.b"],
        &["Set", "ssv", interface, "Openers", "t", "0"],
        &["Get", "as", "2", "a", "b"],
    ] {
        assert!(standard(args).is_err(), "{args:.40?}");
    }
    assert!(
        bus.busctl(&["call", name, "/no/such/object", interface, "Thaw"])
            .is_err()
    );
    assert_eq!(*service.called.lock().unwrap(), []);
    assert_eq!(openers(&bus).unwrap(), "t 5");

    // The bus is killed and comes back, and so does the service; with another policy.
    drop(monitor);
    bus.kill();
    assert!(openers(&bus).is_err());
    bus.start();
    bus.wait_name(name);
    assert_eq!(openers(&bus).unwrap(), "t 5");
    drop(serving);
    let mut lost = bus.monitor(&["monitor", "--system", "--dest", "org.freedesktop.DBus"]);
    while bus.busctl(&["status", name]).is_ok() {
        lost.wait(|l| l.contains("NameOwnerChanged") && l.contains(name));
    }
}

/// The policy files mean what they say, for somebody else as service (this process has root's rights anyway).
#[test]
fn bus_policies_are_well_formed() {
    for policy in [packaged_policy(), readers_policy()] {
        let bus = TestBus::started(&policy);
        let e = bus
            .busctl_as_nobody(&[
                "call",
                "org.freedesktop.DBus",
                "/",
                "org.freedesktop.DBus",
                "RequestName",
                "su",
                mars_bus::BUS_NAME,
                "0",
            ])
            .unwrap_err();
        assert!(
            e.contains("not allowed to own") || e.contains("Access denied"),
            "{e}"
        );
    }
}

/// What the tables say stands in the manual page, word by word.
#[test]
fn manual_page_has_the_tables() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../man/org.storage.mars1.5");
    let page = std::fs::read_to_string(path).unwrap();
    let tables = mars_bus::manual(&ALL);
    assert!(
        page.contains(&tables),
        "put the output of `cargo run -p mars-bus --example manual` between the marks of {path}"
    );
    for signal in ["PropertiesChanged", "InterfacesAdded", "InterfacesRemoved"] {
        assert!(page.contains(signal));
    }
}
