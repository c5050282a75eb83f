//! The program itself: start, leaving by itself, stop, refusals.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::*;
use mars_tree::{TreeEvent, Watcher};
use std::process::{Child, Command, Output, Stdio};

/// Starts the daemon for the host.
fn spawn(host: &Host) -> Child {
    let dir = host.dir.path();
    let etc = dir.join("etc");
    std::fs::create_dir_all(&etc).unwrap();
    std::fs::write(etc.join("mars.conf"), "front = \"nbd-socket\"\n").unwrap();
    Command::new(env!("CARGO_BIN_EXE_mars-logger"))
        .arg("r")
        .env_clear()
        .env("MARS_ROOT", host.tree.root())
        .env("MARS_DEV_DIR", dir.join("dev"))
        .env("MARS_RUN_DIR", dir.join("run"))
        .env("MARS_ETC_DIR", &etc)
        .env("MARS_HOST", "alpha")
        .env("MARS_UNIT_MANAGER", "direct")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

fn member() -> Host {
    let host = Host::new(1 << 20);
    host.set("device-alpha", "r");
    host
}

/// Waits for a value below `actual-alpha/`.
fn wait_for(host: &Host, watcher: &mut Watcher, name: &str, value: &str) {
    while host.get(&format!("actual-alpha/{name}")).as_deref() != Some(value) {
        assert_ne!(watcher.wait(None).unwrap(), TreeEvent::Timeout);
    }
}

fn end(child: Child) -> (i32, String) {
    let Output {
        status,
        stdout,
        stderr,
    } = child.wait_with_output().unwrap();
    let text = String::from_utf8([stdout, stderr].concat()).unwrap();
    (status.code().unwrap_or(-1), text)
}

fn refused(host: &Host, expected: &str) {
    let before = host.tree.snapshot().unwrap();
    let (code, text) = end(spawn(host));
    assert_eq!(code, 1, "{text}");
    assert!(text.contains(expected), "{text}");
    assert_eq!(text.lines().count(), 1, "{text}");
    assert_eq!(host.tree.snapshot().unwrap(), before, "nothing is changed");
}

#[test]
fn daemon_offers_the_device_and_leaves_when_another_host_is_designated() {
    let host = member();
    let mut watcher = Watcher::resource(&host.tree, &host.res).unwrap();
    let child = spawn(&host);
    wait_for(&host, &mut watcher, "is-primary", "1");
    assert!(host.dir.path().join("dev/r").exists());
    assert_eq!(host.get("replay-alpha").unwrap(), "log-000000001-alpha,0,0");
    assert!(
        host.get("version-000000001-alpha")
            .unwrap()
            .ends_with(",log-000000001-alpha,0:")
    );
    host.set("primary", "(none)");
    let (code, text) = end(child);
    assert_eq!(code, 0, "{text}");
    assert_eq!(host.get("actual-alpha/is-primary").as_deref(), Some("0"));
    assert_eq!(host.get("actual-alpha/if-on").as_deref(), Some("0"));
    assert!(!host.dir.path().join("dev/r").exists());
    assert!(
        host.tree.root().join("userspace/systemd-trigger").exists(),
        "asks for a reconcile"
    );
}

#[test]
fn daemon_rotates_when_the_next_log_appears_and_stops_on_sigterm() {
    let host = member();
    let mut watcher = Watcher::resource(&host.tree, &host.res).unwrap();
    let child = spawn(&host);
    wait_for(&host, &mut watcher, "is-primary", "1");
    std::fs::write(host.log_path(&host.own_log(2)), b"").unwrap();
    while host.get("replay-alpha").as_deref() != Some("log-000000002-alpha,0,0") {
        watcher.wait(None).unwrap();
    }
    let pid = nix::unistd::Pid::from_raw(child.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let (code, text) = end(child);
    assert_eq!(code, 0, "{text}");
    assert_eq!(host.get("actual-alpha/is-primary").as_deref(), Some("0"));
}

#[test]
fn daemon_refuses_in_one_line_and_changes_nothing() {
    let host = member();
    host.set("primary", "beta");
    refused(
        &host,
        "beta is designated primary, not alpha; run `marsadm primary r`",
    );
    host.set("primary", "alpha");
    host.set("todo-alpha/attach", 0);
    refused(&host, "resource r is detached; run `marsadm attach r`");
    host.set("todo-alpha/attach", 1);
    host.set("size", 2 << 20);
    // The directory for the state is made before the disk is opened; it exists here already.
    refused(&host, "has 1048576 bytes, the resource has 2097152");
}

#[test]
fn daemon_publishes_why_the_disk_cannot_be_used() {
    let host = member();
    let foreign = host.open_disk();
    foreign.file().try_lock().unwrap();
    let (code, text) = end(spawn(&host));
    assert_eq!(code, 1);
    assert!(text.contains("is in use by somebody else"), "{text}");
    assert_eq!(host.get("actual-alpha/disk-error").as_deref(), Some("-16"));
    drop(foreign);
    std::fs::remove_file(host.disk_path()).unwrap();
    let (_, text) = end(spawn(&host));
    assert!(text.contains("does not exist"), "{text}");
    assert_eq!(host.get("actual-alpha/disk-error").as_deref(), Some("-2"));
}
