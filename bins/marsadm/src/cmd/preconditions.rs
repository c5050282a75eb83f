//! Which precondition refuses, and which option lifts it: the tables of marsadm-commands.md sections 3 and 4.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::membership::leave_check;
use super::primary::check;
use super::secondary::secondary_check;
use super::switches::{attach, detach, down, switch, up};
use crate::cli::Options;
use mars_policy::View;
use mars_tree::{HostName, Key, ResName, Snapshot, Stamp, TodoSwitch};
use std::time::Duration;

const NOW: u64 = 1_700_090_000;
const V1: &str = "eae75bd0648f4b9f8ece4a07b4c47429,log-000000001-a,1048576";

fn r() -> ResName {
    "r".parse().unwrap()
}
fn h(s: &str) -> HostName {
    s.parse().unwrap()
}
fn at(secs: u64) -> Stamp {
    Stamp::from_nanos(secs * 1_000_000_000)
}
fn put(snap: &mut Snapshot, path: &str, value: &str) {
    snap.insert(&Key::parse(path), value, at(NOW - 100));
}

/// a: primary; b and c: secondaries that have everything; all answer.
fn three() -> Snapshot {
    let mut s = Snapshot::default();
    put(&mut s, "resource-r/size", "1048576");
    put(&mut s, "resource-r/primary", "a");
    put(&mut s, "resource-r/userspace/last-primary", "a");
    put(&mut s, "resource-r/actual-a/is-primary", "1");
    for x in ["a", "b", "c"] {
        put(&mut s, &format!("ips/ip-{x}"), "10.0.0.1");
        put(
            &mut s,
            &format!("actual-{x}/time"),
            &format!("{NOW}.000000000"),
        );
        put(&mut s, &format!("resource-r/data-{x}"), "/dev/x");
        put(&mut s, &format!("resource-r/device-{x}"), "dev");
        put(&mut s, &format!("resource-r/syncstatus-{x}"), "1048576");
        put(&mut s, &format!("resource-r/actsize-{x}"), "1048576");
        put(
            &mut s,
            &format!("resource-r/replay-{x}"),
            "log-000000001-a,1048576,0",
        );
        put(
            &mut s,
            &format!("resource-r/version-000000001-{x}"),
            &format!("{V1}:"),
        );
        for t in ["attach", "connect", "sync", "allow-replay"] {
            put(&mut s, &format!("resource-r/todo-{x}/{t}"), "1");
        }
    }
    s
}

fn view<'a>(snap: &'a Snapshot, me: &'a HostName) -> View<'a> {
    View {
        snap,
        me,
        local: me,
        now: at(NOW),
        window: Duration::from_secs(60),
        engine_running: true,
    }
}

fn options(words: &str) -> Options {
    Options {
        force: words.contains("force"),
        ignore_sync: words.contains("ignore-sync"),
        ..Options::default()
    }
}

/// What `primary` on b says: an error, or its warnings.
fn primary(snap: &Snapshot, words: &str) -> Result<Vec<String>, String> {
    let mut snap = snap.clone();
    if words.contains("force") && snap.is_on(&Key::parse("resource-r/todo-b/connect")) {
        put(&mut snap, "resource-r/todo-b/connect", "0");
    }
    check(&view(&snap, &h("b")), &r(), &options(words), true).map_err(|e| e.to_string())
}

#[test]
fn primary_preconditions_and_what_lifts_them() {
    assert_eq!(primary(&three(), ""), Ok(vec![]));
    assert_eq!(primary(&three(), "force"), Ok(vec![]));
    // Link, value; words of the message; lifted by force, by ignore-sync.
    for (path, value, words, by_force, by_sync) in [
        (
            "syncstatus-b",
            "4096",
            &["b is inconsistent", "4096 of 1048576", "wait"][..],
            false,
            false,
        ),
        (
            "syncstatus-c",
            "4096",
            &["host c", "4096 of 1048576", "--ignore-sync"],
            true,
            true,
        ),
        (
            "todo-b/attach",
            "0",
            &["switch attach", "must be on", "marsadm attach r"],
            false,
            false,
        ),
        (
            "todo-b/allow-replay",
            "0",
            &["switch replay", "marsadm resume-replay r"],
            false,
            false,
        ),
        (
            "actual-b/replay-code",
            "-85",
            &["error -85", "primary --force"],
            true,
            false,
        ),
        ("actsize-b", "4096", &["4096 bytes", "1048576"], true, false),
        (
            "actual-a/open-count",
            "2",
            &["/dev/mars/dev", "2 times", "host a", "unmount there"],
            true,
            false,
        ),
        (
            "actual-b/has-emergency",
            "1",
            &["emergency", "b"],
            true,
            false,
        ),
    ] {
        let mut s = three();
        put(&mut s, &format!("resource-r/{path}"), value);
        let e = primary(&s, "").unwrap_err();
        for w in words {
            assert!(e.contains(w), "{path}: {w}: {e}");
        }
        for (options, lifted) in [("force", by_force), ("ignore-sync", by_sync)] {
            let got = primary(&s, options);
            assert_eq!(got.is_ok(), lifted, "{path} {options}: {got:?}");
            if options == "force" && lifted {
                let warnings = got.unwrap();
                assert_eq!(warnings.len(), 1, "{path}: {warnings:?}");
                assert!(warnings[0].contains("lifted by --force"), "{warnings:?}");
            }
        }
    }
}

#[test]
fn primary_fetch_switch_is_the_other_way_round_with_force() {
    let mut s = three();
    put(&mut s, "resource-r/todo-b/connect", "0");
    let e = primary(&s, "").unwrap_err();
    assert!(
        e.contains("switch fetch") && e.contains("marsadm resume-fetch r"),
        "{e}"
    );
    assert_eq!(primary(&s, "force"), Ok(vec![]));
    let s = three();
    let e = check(&view(&s, &h("b")), &r(), &options("force"), true).unwrap_err();
    let e = e.to_string();
    assert!(
        e.contains("switch fetch") && e.contains("marsadm pause-fetch r"),
        "{e}"
    );
}

#[test]
fn primary_needs_the_old_side_and_no_split_brain_and_the_engine() {
    let mut dead = three();
    put(
        &mut dead,
        "actual-a/time",
        &format!("{}.000000000", NOW - 1000),
    );
    let e = primary(&dead, "").unwrap_err();
    assert!(e.contains("host a") && e.contains("primary --force"), "{e}");
    assert!(primary(&dead, "ignore-sync").is_err());
    assert_eq!(primary(&dead, "force").unwrap().len(), 1);
    // After `secondary`, the last primary counts.
    put(&mut dead, "resource-r/primary", "(none)");
    assert!(primary(&dead, "").unwrap_err().contains("host a"));
    // A third host that cannot be reached is only a warning.
    let mut third = three();
    put(
        &mut third,
        "actual-c/time",
        &format!("{}.000000000", NOW - 1000),
    );
    put(&mut third, "resource-r/syncstatus-c", "0");
    let warnings = primary(&third, "").unwrap();
    assert!(
        warnings[0].contains("host c cannot be reached"),
        "{warnings:?}"
    );
    // The old primary's own sync does not matter.
    let mut old = three();
    put(&mut old, "resource-r/syncstatus-a", "0");
    assert_eq!(primary(&old, ""), Ok(vec![]));
    // Both went on after log 1.
    let mut split = three();
    for (x, md5) in [("a", "1"), ("b", "2")] {
        let head = format!("{},log-000000002-{x},512", md5.repeat(32));
        put(
            &mut split,
            &format!("resource-r/version-000000002-{x}"),
            &format!("{head}:{V1}"),
        );
        put(
            &mut split,
            &format!("resource-r/replay-{x}"),
            &format!("log-000000002-{x},512,0"),
        );
    }
    let e = primary(&split, "").unwrap_err();
    assert!(
        e.contains("split brain") && e.contains("log-000000001-a") && e.contains("invalidate"),
        "{e}"
    );
    assert_eq!(primary(&split, "force").unwrap().len(), 1);
    let s = three();
    for words in ["", "force", "ignore-sync"] {
        let me = h("b");
        let v = View {
            engine_running: false,
            ..view(&s, &me)
        };
        let e = check(&v, &r(), &options(words), true)
            .unwrap_err()
            .to_string();
        assert!(e.contains("mars-meta is not running"), "{e}");
    }
}

#[test]
fn secondary_is_refused_while_the_device_is_in_use_even_with_force() {
    let mut s = three();
    let a = h("a");
    secondary_check(&view(&s, &a), &r(), &options("")).unwrap();
    put(&mut s, "resource-r/actual-a/open-count", "1");
    for words in ["", "force"] {
        let e = secondary_check(&view(&s, &a), &r(), &options(words)).unwrap_err();
        let e = e.to_string();
        assert!(
            e.contains("/dev/mars/dev") && e.contains("1 times") && e.contains("unmount"),
            "{e}"
        );
    }
}

#[test]
fn leave_needs_a_member_that_is_down() {
    let down_b = || {
        let mut s = three();
        for t in ["attach", "connect", "sync", "allow-replay"] {
            put(&mut s, &format!("resource-r/todo-b/{t}"), "0");
        }
        s
    };
    let leave = |s: &Snapshot, me: &str, words: &str| {
        leave_check(&view(s, &h(me)), &r(), &options(words)).map_err(|e| e.to_string())
    };
    leave(&down_b(), "b", "").unwrap();
    let mut s = down_b();
    put(&mut s, "resource-r/todo-b/connect", "1");
    put(&mut s, "resource-r/todo-b/sync", "1");
    let e = leave(&s, "b", "").unwrap_err();
    assert!(
        e.contains("fetch, sync") && e.contains("marsadm down r"),
        "{e}"
    );
    leave(&s, "b", "force").unwrap();
    for flag in [
        "is-attached",
        "is-replaying",
        "is-copying",
        "is-syncing",
        "if-on",
    ] {
        let mut s = down_b();
        put(&mut s, &format!("resource-r/actual-b/{flag}"), "1");
        let e = leave(&s, "b", "").unwrap_err();
        assert!(e.contains(flag), "{e}");
        leave(&s, "b", "force").unwrap();
    }
    let e = leave(&three(), "a", "").unwrap_err();
    assert!(
        e.contains("a is primary") && e.contains("marsadm primary r"),
        "{e}"
    );
    leave(&three(), "a", "force").unwrap();
    // No member: nothing to leave, whatever is forced.
    for words in ["", "force"] {
        assert!(
            leave(&three(), "d", words)
                .unwrap_err()
                .contains("not member")
        );
    }
    // A handover to c that a has not heard of.
    let mut s = down_b();
    put(&mut s, "resource-r/primary", "c");
    assert!(leave(&s, "b", "").unwrap_err().contains("handover"));
    leave(&s, "b", "force").unwrap();
}

#[test]
fn switches_and_what_force_lifts() {
    let (a, b) = (h("a"), h("b"));
    let resume = |s: &Snapshot| {
        switch(&view(s, &b), &r(), TodoSwitch::Sync, true, false)
            .map(|_| ())
            .map_err(|e| e.to_string())
    };
    resume(&three()).unwrap();
    let mut none = three();
    put(&mut none, "resource-r/primary", "(none)");
    let mut full = three();
    put(&mut full, "resource-r/actual-a/has-emergency", "1");
    for (s, word) in [(&none, "no designated primary"), (&full, "emergency")] {
        // No option lifts this; `up` goes on without the sync.
        assert!(resume(s).unwrap_err().contains(word));
        up(&view(s, &b), &r(), &options(""), &|_| Ok(1 << 20)).unwrap();
    }
    // The device is open: refused, forced.
    let mut open = three();
    put(&mut open, "resource-r/actual-a/open-count", "3");
    for f in [detach, down] {
        let e = match f(&view(&open, &a), &r(), &options("")) {
            Err(e) => e.to_string(),
            Ok(_) => panic!("allowed"),
        };
        assert!(
            e.contains("in use") && e.contains("3 times") && e.contains("host a"),
            "{e}"
        );
        let plan = f(&view(&open, &a), &r(), &options("force")).unwrap();
        assert!(plan.wait.is_none());
    }
    // The disk is too small: --force lifts it. It cannot be opened: --force does not.
    let mut off = three();
    put(&mut off, "resource-r/todo-b/attach", "0");
    let try_attach = |probe: Result<u64, String>, words: &str| {
        attach(&view(&off, &b), &r(), &options(words), &|_| probe.clone())
            .map(|p| p.wait.is_some())
            .map_err(|e| e.to_string())
    };
    assert_eq!(try_attach(Ok(1 << 20), ""), Ok(true));
    let e = try_attach(Ok(4096), "").unwrap_err();
    assert!(
        e.contains("4096") && e.contains("1048576") && e.contains("--force"),
        "{e}"
    );
    assert_eq!(try_attach(Ok(4096), "force"), Ok(false));
    for words in ["", "force"] {
        assert!(
            try_attach(Err("busy".into()), words)
                .unwrap_err()
                .contains("busy")
        );
    }
}
