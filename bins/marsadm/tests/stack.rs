//! Commands about the units on top of a device: what they store, what they refuse.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::Host;
use mars_tree::Key;

fn host(dir: &std::path::Path) -> Host {
    let h = Host::new(dir, "alpha");
    for program in [
        "mars-meta",
        "mars-fetch",
        "mars-sync",
        "mars-logger",
        "mars-replay",
    ] {
        h.stand_in(program, "exit 0");
    }
    h.ok(&["create-cluster", "--ip=127.33.0.2"]);
    h.ok(&["stop"]);
    for res in ["r", "lv-0"] {
        h.ok(&["create-resource", res, &h.disk(res, 1 << 20)]);
    }
    h
}

fn link(h: &Host, res: &str, name: &str) -> Option<String> {
    h.tree()
        .text(&Key::parse(&format!("resource-{res}/systemd-{name}")))
        .unwrap()
}

#[test]
fn units_are_stored_escaped_and_taken_away() {
    let dir = tempfile::tempdir().unwrap();
    let h = host(dir.path());
    let r = h.run(&[
        "set-systemd-unit",
        "lv-0",
        "web-lv-0.service",
        "mnt-lv-0.mount",
    ]);
    assert_eq!(r.code, 0, "{r:?}");
    assert!(r.err.contains("need systemd"), "{r:?}");
    assert_eq!(
        h.ok(&["get-systemd-unit", "lv-0"]),
        "web-lv\\x2d0.service mnt-lv\\x2d0.mount\n"
    );
    assert_eq!(h.ok(&["get-systemd-want", "lv-0"]), "alpha\n");
    h.ok(&["set-systemd-unit", "r", "mnt-r.mount"]);
    assert_eq!(
        h.ok(&["get-systemd-unit", "r"]),
        "mnt-r.mount mnt-r.mount\n"
    );
    h.ok(&["set-systemd-unit", "lv-0", ""]);
    for name in ["start-unit", "stop-unit", "want"] {
        assert_eq!(link(&h, "lv-0", name), None, "{name}");
    }
    assert_eq!(h.ok(&["get-systemd-unit", "lv-0"]), "\n");
    assert_eq!(h.ok(&["get-systemd-want", "lv-0"]), "\n");
}

#[test]
fn mistakes_are_one_line_and_change_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let h = host(dir.path());
    h.ok(&["set-systemd-unit", "r", "mnt-r.mount"]);
    let before = h.everything();
    for (args, code, words) in [
        (
            &["set-systemd-unit", "r", "mnt"][..],
            1,
            &["mnt", "suffix"][..],
        ),
        (&["set-systemd-unit", "r", "a/b.mount"], 1, &["a/b.mount"]),
        (
            &["set-systemd-unit", "r", "a.service", "b c.mount"],
            1,
            &["b c.mount"],
        ),
        (
            &["set-systemd-unit", "r", "", "b.mount"],
            1,
            &["without a start unit"],
        ),
        (
            &["set-systemd-unit", "r", "NOSUCH"],
            1,
            &["NOSUCH_START", "template"],
        ),
        (&["set-systemd-unit", "r"], 2, &["argument missing"]),
        (&["set-systemd-unit", "nope", "a.mount"], 1, &["nope"]),
        (&["set-systemd-want", "r", "gamma"], 1, &["gamma", "alpha"]),
        (&["set-systemd-want", "r", "none"], 1, &["none"]),
        (
            &["set-systemd-want", "lv-0", "alpha"],
            1,
            &["lv-0", "set-systemd-unit"],
        ),
        (
            &["--systemd-enable=2", "systemd-trigger"],
            2,
            &["--systemd-enable", "0 or 1"],
        ),
    ] {
        let r = h.run(args);
        assert_eq!(r.code, code, "{args:?}: {r:?}");
        assert_eq!(r.err.lines().count(), 1, "{args:?}: {r:?}");
        for w in words {
            assert!(r.err.contains(w), "{args:?}: {r:?}");
        }
        assert_eq!(h.everything(), before, "{args:?} changed something");
    }
    let dry = h.ok(&["--dry-run", "set-systemd-unit", "r", "other.mount"]);
    assert!(dry.contains("systemd-start-unit -> other.mount"), "{dry}");
    assert_eq!(h.everything(), before);
}
