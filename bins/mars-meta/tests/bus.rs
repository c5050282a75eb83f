//! The cluster on a private system bus, asked by busctl and gdbus.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
#[path = "../../../lib/mars-bus/tests/support/mod.rs"]
mod support;
use common::*;
use nix::sys::signal::Signal;
use support::{OPEN_POLICY, TestBus, compare_with_manual, packaged_policy, readers_policy};

const NAME: &str = "org.storage.mars1";
const ROOT: &str = "/org/storage/mars1";
const OPTIONS: [&str; 3] = ["monitor", "--system", "--dest"];

/// A host of a cluster of two, the other one is away; heartbeats are rare.
fn host(bus: &TestBus, net: u8) -> Host {
    let mut h = Host::new("alpha", &format!("127.31.{net}.1"), 30_000);
    h.set_var(bus.var());
    h.create_cluster();
    h.set("ips/ip-be-ta", &format!("127.31.{net}.2"));
    h
}

fn resource(h: &Host, name: &str) {
    for (key, value) in [
        ("size", "1048576"),
        ("primary", "alpha"),
        ("data-alpha", "/nowhere"),
        ("todo-alpha/attach", "1"),
        ("actual-alpha/open-count", "0"),
    ] {
        h.set(&format!("resource-{name}/{key}"), value);
    }
}

fn get(bus: &TestBus, path: &str, interface: &str, name: &str) -> String {
    let interface = format!("{NAME}.{interface}");
    bus.busctl(&[
        "get-property",
        NAME,
        &format!("{ROOT}{path}"),
        &interface,
        name,
    ])
    .unwrap()
}

#[test]
fn bus_shows_hosts_and_resources_and_tells_changes() {
    let mut bus = TestBus::started(&packaged_policy());
    let mut h = host(&bus, 1);
    resource(&h, "lv-0");
    h.start();
    bus.wait_name(NAME);

    assert_eq!(get(&bus, "", "Manager", "Host"), "s \"alpha\"");
    assert_eq!(
        get(&bus, "", "Manager", "Hosts"),
        "as 2 \"alpha\" \"be-ta\""
    );
    assert_eq!(get(&bus, "", "Manager", "Resources"), "as 1 \"lv-0\"");
    assert_eq!(
        get(&bus, "/host/be_2dta", "Host", "Address"),
        "s \"127.31.1.2\""
    );
    assert_eq!(get(&bus, "/host/be_2dta", "Host", "Reachable"), "b false");
    h.wait("the first heartbeat", |h| {
        h.text("actual-alpha/time").is_some()
    });
    assert_eq!(get(&bus, "/host/alpha", "Host", "IsLocal"), "b true");
    let r = "/resource/lv_2d0";
    assert_eq!(get(&bus, r, "Resource", "SizeBytes"), "t 1048576");
    assert_eq!(get(&bus, r, "Resource", "PrimaryNode"), "s \"alpha\"");
    assert_eq!(get(&bus, r, "Resource", "TodoAttach"), "b true");
    let tree = bus.busctl(&["tree", NAME]).unwrap();
    assert!(tree.contains(r) && tree.contains("/host/be_2dta"), "{tree}");
    let managed = bus
        .busctl(&[
            "call",
            NAME,
            ROOT,
            "org.freedesktop.DBus.ObjectManager",
            "GetManagedObjects",
        ])
        .unwrap();
    assert!(
        managed.starts_with("a{oa{sa{sv}}} 3 ") && managed.contains("DiskState"),
        "{managed}"
    );

    // Real introspection data against the manual page.
    for (path, interface) in [("", "Manager"), ("/host/alpha", "Host"), (r, "Resource")] {
        let path = format!("{ROOT}{path}");
        let xml = bus
            .gdbus(&[
                "introspect",
                "--system",
                "--dest",
                NAME,
                "--object-path",
                &path,
                "--xml",
            ])
            .unwrap();
        compare_with_manual(&xml, &format!("{NAME}.{interface}"));
    }

    // Changes of the tree are told, each object by itself.
    let mut monitor = bus.monitor(&[&OPTIONS[..], &[NAME]].concat());
    h.set("resource-lv-0/actual-alpha/open-count", "2");
    let line = monitor.wait(|l| l.contains("PropertiesChanged") && l.contains("OpenCount"));
    assert!(
        line.starts_with(&format!("{ROOT}{r}:")) && line.contains("<int64 2>"),
        "{line}"
    );
    assert!(!line.contains("SizeBytes"), "only what changed: {line}");
    resource(&h, "new");
    monitor.wait(|l| l.contains("InterfacesAdded") && l.contains("/resource/new"));
    for key in [
        "size",
        "primary",
        "data-alpha",
        "todo-alpha/attach",
        "actual-alpha/open-count",
    ] {
        h.delete(&format!("resource-new/{key}"));
    }
    monitor.wait(|l| l.contains("InterfacesRemoved") && l.contains("/resource/new"));
    // A storm is merged: the last value arrives, and not one message for each change.
    for n in 0..300 {
        h.set("resource-lv-0/actual-alpha/open-count", &n.to_string());
    }
    let mut told = 0;
    monitor.wait(|l| {
        told += u32::from(l.contains("OpenCount"));
        l.contains("'OpenCount': <int64 299>")
    });
    assert!(told < 100, "{told} signals for 300 changes");

    // What runs here and changes without links: the live page.
    let page = mars_live::LivePage::open(&h.env.run_dir, "lv-0").unwrap();
    let lock = mars_daemon::InstanceLock::acquire(&h.env, "logger", Some(&"lv-0".parse().unwrap()));
    page.publish(&mars_live::LogLive {
        openers: 300,
        device_on: 1,
        ..Default::default()
    });
    h.set("resource-lv-0/actual-alpha/if-on", "1");
    monitor.wait(|l| l.contains("'OpenCount': <int64 300>"));
    for openers in 301..305 {
        page.publish(&mars_live::LogLive {
            openers,
            device_on: 1,
            ..Default::default()
        });
        monitor.wait(|l| l.contains(&format!("'OpenCount': <int64 {openers}>")));
    }
    drop(lock);

    // Methods.
    let call =
        |method: &str| bus.busctl(&["call", NAME, ROOT, "org.storage.mars1.Manager", method]);
    let before = h.text("actual-alpha/time").unwrap();
    call("Ping").unwrap();
    h.wait("a heartbeat", |h| {
        h.text("actual-alpha/time").unwrap() > before
    });
    h.wait_file(&h.run_file("trigger.log"), |_| true);
    let trigger = h.env.trigger_file();
    let _ = std::fs::remove_file(&trigger);
    call("Trigger").unwrap();
    h.wait_file(&trigger, |t| !t.is_empty());
    // Ages are there when somebody asks.
    assert!(get(&bus, "/host/alpha", "Host", "HeartbeatAgeSeconds").starts_with("t "));

    // The bus is killed and comes back.
    drop(monitor);
    bus.kill();
    resource(&h, "meanwhile");
    bus.start();
    bus.wait_name(NAME);
    assert_eq!(
        get(&bus, "/resource/meanwhile", "Resource", "Name"),
        "s \"meanwhile\""
    );
    assert!(h.end(Signal::SIGTERM), "{}", h.log());
    assert!(!h.log().contains("ERROR"), "{}", h.log());
}

#[test]
fn bus_of_the_cluster_knows_who_may_change_something() {
    for (policy, may_read) in [
        (packaged_policy(), false),
        (readers_policy(), true),
        (OPEN_POLICY.to_string(), true),
    ] {
        let bus = TestBus::started(&policy);
        let mut h = host(&bus, 2);
        h.start();
        bus.wait_name(NAME);
        let seen = bus.busctl_as_nobody(&[
            "get-property",
            NAME,
            ROOT,
            "org.storage.mars1.Manager",
            "Host",
        ]);
        assert_eq!(seen.is_ok(), may_read, "{seen:?}");
        for method in ["Trigger", "Ping"] {
            let method = format!("org.storage.mars1.Manager.{method}");
            let e = bus.gdbus_as_nobody(NAME, ROOT, &[&method]).unwrap_err();
            let by_us = e.contains("only root may do this, not uid 65534");
            assert_eq!(by_us, policy == OPEN_POLICY, "{e}");
        }
        assert!(h.end(Signal::SIGTERM));
    }
}

#[test]
fn bus_may_be_missing_or_the_name_taken() {
    let mut bus = TestBus::new(&packaged_policy());
    let mut h = host(&bus, 3);
    h.start();
    h.wait_log("no system bus");
    // Everything else works.
    h.wait("the first heartbeat", |h| {
        h.text("actual-alpha/time").is_some()
    });
    assert!(h.end(Signal::SIGTERM));
    assert_eq!(h.log().matches("no system bus").count(), 1, "{}", h.log());

    // Somebody else has the name.
    bus.start();
    let mut first = host(&bus, 4);
    first.start();
    bus.wait_name(NAME);
    h.start();
    h.wait_log("belongs to somebody else");
    // The other one goes, this one takes over.
    assert!(first.end(Signal::SIGTERM));
    h.wait_log("on the system bus as");
    assert!(h.end(Signal::SIGTERM));
    assert_eq!(h.log().matches("belongs to somebody else").count(), 1);
}
