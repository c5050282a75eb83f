//! The program on a private system bus, asked by busctl and gdbus.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
#[path = "../../../lib/mars-bus/tests/support/mod.rs"]
mod support;
use common::Host;
use mars_tree::Watcher;
use std::process::{Child, Command, Stdio};
use support::{OPEN_POLICY, TestBus, compare_with_manual, packaged_policy, readers_policy};

const NAME: &str = "org.storage.mars1.Logger.r";
const PATH: &str = "/org/storage/mars1/logger/r";
const INTERFACE: &str = "org.storage.mars1.Logger";

struct Logger {
    child: Child,
    host: Host,
}

impl Logger {
    fn start(address: &str) -> Logger {
        let host = Host::new(1 << 20);
        host.set("device-alpha", "r");
        let dir = host.dir.path();
        let etc = dir.join("etc");
        std::fs::create_dir_all(&etc).unwrap();
        std::fs::write(etc.join("mars.conf"), "front = \"nbd-socket\"\n").unwrap();
        let mut watcher = Watcher::resource(&host.tree, &host.res).unwrap();
        let log = std::fs::File::create(dir.join("log")).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_mars-logger"))
            .arg("r")
            .env_clear()
            .env("MARS_ROOT", host.tree.root())
            .env("MARS_DEV_DIR", dir.join("dev"))
            .env("MARS_RUN_DIR", dir.join("run"))
            .env("MARS_ETC_DIR", &etc)
            .env("MARS_HOST", "alpha")
            .env("MARS_UNIT_MANAGER", "direct")
            .env("DBUS_SYSTEM_BUS_ADDRESS", address)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        while host.get("actual-alpha/is-primary").as_deref() != Some("1") {
            watcher.wait(None).unwrap();
        }
        Logger { child, host }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.host.dir.path().join("log")).unwrap()
    }

    /// SIGTERM; it must end cleanly.
    fn stop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
        assert!(self.child.wait().unwrap().success(), "{}", self.log());
    }
}

impl Drop for Logger {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn get(bus: &TestBus, name: &str) -> String {
    bus.busctl(&["get-property", NAME, PATH, INTERFACE, name])
        .unwrap()
}

fn call(bus: &TestBus, args: &[&str]) -> Result<String, String> {
    bus.busctl(&[&["call", NAME, PATH, INTERFACE], args].concat())
}

#[test]
fn bus_figures_and_methods_of_a_logger() {
    let mut bus = TestBus::started(&packaged_policy());
    let mut logger = Logger::start(&bus.address());
    bus.wait_name(NAME);

    // Introspection by a tool of others, against the manual page.
    let xml = bus
        .gdbus(&[
            "introspect",
            "--system",
            "--dest",
            NAME,
            "--object-path",
            PATH,
            "--xml",
        ])
        .unwrap();
    compare_with_manual(&xml, INTERFACE);
    assert!(bus.busctl(&["tree", NAME]).unwrap().contains(PATH));
    assert_eq!(get(&bus, "Resource"), "s \"r\"");
    assert_eq!(get(&bus, "SizeBytes"), "t 1048576");
    assert_eq!(get(&bus, "DeviceOn"), "b true");
    assert_eq!(get(&bus, "LogNumber"), "t 1");
    let all = bus
        .gdbus(&[
            "call",
            "--system",
            "--dest",
            NAME,
            "--object-path",
            PATH,
            "--method",
            "org.freedesktop.DBus.Properties.GetAll",
            INTERFACE,
        ])
        .unwrap();
    // Every value is known: nothing in the table was forgotten.
    assert!(
        all.contains("'WritebackMaxNs'") && !all.contains("18446744073709551615"),
        "{all}"
    );

    // A change is told.
    let mut monitor = bus.monitor(&["monitor", "--system", "--dest", NAME]);
    call(&bus, &["Freeze", "u", "600"]).unwrap();
    monitor.wait(|l| l.contains("PropertiesChanged") && l.contains("'Frozen': <true>"));
    assert_eq!(get(&bus, "Frozen"), "b true");
    assert!(
        call(&bus, &["Freeze", "u", "5"])
            .unwrap_err()
            .contains("frozen already")
    );
    call(&bus, &["Thaw"]).unwrap();
    monitor.wait(|l| l.contains("'Frozen': <false>"));
    call(&bus, &["Freeze", "u", "1"]).unwrap();
    monitor.wait(|l| l.contains("'Frozen': <true>"));
    monitor.wait(|l| l.contains("'Frozen': <false>"));
    for bad in ["0", "601", "4294967295"] {
        assert!(
            call(&bus, &["Freeze", "u", bad])
                .unwrap_err()
                .contains("1 to 600")
        );
    }
    call(&bus, &["Drain"]).unwrap();
    call(&bus, &["Thaw"]).unwrap();

    // Nothing is written yet, so there is nothing to rotate; that is no error.
    call(&bus, &["Rotate"]).unwrap();
    // The bus is killed and comes back. In between the logger works: it is frozen for a moment by nobody, and the device is there.
    drop(monitor);
    bus.kill();
    bus.start();
    bus.wait_name(NAME);
    assert_eq!(get(&bus, "Frozen"), "b false");
    // A freeze does not keep the logger from ending.
    call(&bus, &["Freeze", "u", "600"]).unwrap();
    logger.stop();
    assert!(!logger.log().contains("ERROR"), "{}", logger.log());
}

#[test]
fn bus_of_a_logger_knows_who_may_change_something() {
    let methods = [
        ["Rotate", ""],
        ["Drain", ""],
        ["Freeze", "uint32 30"],
        ["Thaw", ""],
    ];
    let read = ["get-property", NAME, PATH, INTERFACE, "Openers"];
    for (policy, may_read) in [
        (packaged_policy(), false),
        (readers_policy(), true),
        (OPEN_POLICY.to_string(), true),
    ] {
        let bus = TestBus::started(&policy);
        let mut logger = Logger::start(&bus.address());
        bus.wait_name(NAME);
        let seen = bus.busctl_as_nobody(&read);
        assert_eq!(seen.is_ok(), may_read, "{seen:?}");
        for [method, arg] in methods {
            let method = format!("{INTERFACE}.{method}");
            let words = [method.as_str(), arg];
            let words = &words[..if arg.is_empty() { 1 } else { 2 }];
            let e = bus.gdbus_as_nobody(NAME, PATH, words).unwrap_err();
            // Under the open policy it is the logger that refuses.
            let by_us = e.contains("only root may do this, not uid 65534");
            assert_eq!(by_us, policy == OPEN_POLICY, "{method:?}: {e}");
        }
        assert_eq!(get(&bus, "Frozen"), "b false");
        logger.stop();
    }
}

#[test]
fn bus_may_be_missing() {
    let mut logger = Logger::start("unix:path=/nonexistent/mars-test-bus");
    while !logger.log().contains("no system bus") {
        std::thread::yield_now();
    }
    logger.stop();
    let log = logger.log();
    assert_eq!(log.matches("no system bus").count(), 1, "{log}");
    let is_bad = |l: &str| l.contains("ERROR") || (l.contains("WARN") && l.contains("bus"));
    assert!(!log.lines().any(is_bad), "{log}");
}
