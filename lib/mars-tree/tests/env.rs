//! Where a host lives.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_tree::{HostEnv, Tree, UnitManager};
use std::collections::HashMap;
use std::os::unix::fs::symlink;
use std::path::Path;

fn env(vars: &[(&str, &str)]) -> Result<HostEnv, String> {
    let vars: HashMap<&str, &str> = [("MARS_HOST", "a")]
        .into_iter()
        .chain(vars.iter().copied())
        .collect();
    HostEnv::from_vars(|k| vars.get(k).map(ToString::to_string)).map_err(|e| e.to_string())
}

#[test]
fn env_defaults_and_variables() {
    let e = env(&[]).unwrap();
    assert_eq!(e.root, Path::new("/mars"));
    assert_eq!(e.dev_dir, Path::new("/dev/mars"));
    assert_eq!(e.run_dir, Path::new("/run/mars"));
    assert_eq!(e.etc_dir, Path::new("/etc/mars"));
    assert_eq!((e.host.as_str(), e.port), ("a", 7777));
    let e = env(&[
        ("MARS_ROOT", "/r"),
        ("MARS_RUN_DIR", "/run/x"),
        ("MARS_UNIT_MANAGER", "direct"),
        ("MARS_PORT", "8000"),
    ])
    .unwrap();
    assert_eq!((e.unit_manager, e.port), (UnitManager::Direct, 8000));
    assert_eq!(
        e.resource_run_dir(&"lv0".parse().unwrap()),
        Path::new("/run/x/lv0")
    );
    // A child is the same host.
    let vars: HashMap<_, _> = e.to_vars().into_iter().collect();
    let child = HostEnv::from_vars(|k| vars.get(k).cloned()).unwrap();
    assert_eq!(child.to_vars(), e.to_vars());
}

#[test]
fn env_errors_name_the_variable_and_the_way_out() {
    for (name, value, part) in [
        ("MARS_ROOT", "mars", "absolute"),
        ("MARS_ROOT", "", "absolute"),
        ("MARS_RUN_DIR", "/\u{fffd}", "UTF-8"),
        ("MARS_UNIT_MANAGER", "upstart", "systemd or direct"),
        ("MARS_PORT", "65534", "1 to 65533"),
        ("MARS_PORT", "0", "1 to 65533"),
        ("MARS_HOST", "a.example.com", "set MARS_HOST"),
        ("MARS_HOST", "localhost", "reserved"),
    ] {
        let e = env(&[(name, value)]).unwrap_err();
        assert!(e.contains(part), "{e}");
        assert!(e.contains(value), "{e}");
    }
}

#[test]
fn trigger_file_is_rewritten_and_never_followed() {
    let dir = tempfile::tempdir().unwrap();
    let mut e = env(&[]).unwrap();
    e.root = dir.path().join("root");
    e.run_dir = dir.path().join("run");
    let pending = e.run_dir.join("trigger-pending");
    assert!(e.request_reconcile().is_err(), "no root directory");
    std::fs::create_dir(&e.root).unwrap();
    e.request_reconcile().unwrap();
    assert!(!pending.exists(), "nothing runs here");
    std::fs::create_dir(&e.run_dir).unwrap();
    e.unit_manager = mars_tree::UnitManager::Direct;
    e.request_reconcile().unwrap();
    assert!(!pending.exists(), "only mars-trigger.path needs it");
    e.unit_manager = mars_tree::UnitManager::Systemd;
    e.request_reconcile().unwrap();
    assert!(pending.exists());
    let read = || std::fs::read_to_string(e.trigger_file()).unwrap();
    let first = read();
    assert!(first.trim_end().parse::<mars_tree::Stamp>().is_ok());
    e.request_reconcile().unwrap();
    assert!(read() > first);
    std::fs::remove_file(e.trigger_file()).unwrap();
    let victim = dir.path().join("victim");
    std::fs::write(&victim, "precious").unwrap();
    symlink(&victim, e.trigger_file()).unwrap();
    e.request_reconcile().unwrap();
    assert_eq!(std::fs::read_to_string(&victim).unwrap(), "precious");
}

#[test]
fn open_needs_a_root_and_lifts_the_clock_to_the_tree() {
    let dir = tempfile::tempdir().unwrap();
    let mut e = env(&[]).unwrap();
    e.root = dir.path().join("root");
    e.run_dir = dir.path().join("run/mars");
    let missing = Tree::open(&e).unwrap_err().to_string();
    assert!(missing.contains(e.root.to_str().unwrap()), "{missing}");
    std::fs::create_dir(&e.root).unwrap();
    // A link from a time when this host's wall clock was an hour ahead.
    let ahead = mars_live::Clock::private().with_skew(3_600_000_000_000);
    let key = mars_tree::Key::Uuid;
    let stamp = Tree::with_clock(&e.root, ahead)
        .commit(mars_tree::Batch::new().set(key.clone(), "u_1.000000000"))
        .unwrap();
    let tree = Tree::open(&e).unwrap();
    assert!(tree.clock().is_primed());
    assert!(tree.clock().now() >= stamp);
    // Without permission to write there is a private clock, lifted all the same.
    e.run_dir = "/proc/nowhere".into();
    assert!(Tree::open(&e).is_err());
    let tree = Tree::open_readonly(&e).unwrap();
    assert!(tree.clock().now() >= stamp);
    assert_eq!(tree.text(&key).unwrap().as_deref(), Some("u_1.000000000"));
}
