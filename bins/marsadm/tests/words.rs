//! Words that differ little, all of them: switches with their forms, and what DRBD knows.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::Host;
use mars_tree::{Batch, HostName, Key, ResName, TodoSwitch};

/// alpha and beta are members of `data`, beta is its primary.
fn pair(dir: &std::path::Path) -> Host {
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
    h.ok(&["create-cluster", "--ip=127.47.1.2"]);
    h.ok(&["stop"]);
    let res: ResName = "data".parse().unwrap();
    let beta: HostName = "beta".parse().unwrap();
    let mut b = Batch::new();
    b.set(Key::Ip(beta.clone()), "127.47.1.3");
    b.set(Key::Size(res.clone()), 1 << 20);
    b.set(Key::Primary(res.clone()), "beta");
    for m in ["alpha".parse().unwrap(), beta] {
        b.set(
            Key::Data(res.clone(), m.clone()),
            h.disk("data.img", 1 << 20),
        );
        b.set(Key::Replay(res.clone(), m), "log-000000001-beta,0,0");
    }
    h.tree().commit(&b).unwrap();
    h
}

fn switch(h: &Host, host: &str, which: TodoSwitch) -> Option<String> {
    let key = Key::Todo("data".parse().unwrap(), host.parse().unwrap(), which);
    h.tree().text(&key).unwrap()
}

fn set(h: &Host, host: &str, which: TodoSwitch, to: u8) {
    let mut b = Batch::new();
    let key = Key::Todo("data".parse().unwrap(), host.parse().unwrap(), which);
    b.set(key, to);
    h.tree().commit(&b).unwrap();
}

#[test]
fn words_of_switches_set_theirs_and_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let h = pair(dir.path());
    let all = [
        TodoSwitch::Attach,
        TodoSwitch::Connect,
        TodoSwitch::Sync,
        TodoSwitch::AllowReplay,
    ];
    for (word, which, on) in [
        ("pause-sync", TodoSwitch::Sync, false),
        ("resume-sync", TodoSwitch::Sync, true),
        ("pause-fetch", TodoSwitch::Connect, false),
        ("resume-fetch", TodoSwitch::Connect, true),
        ("disconnect", TodoSwitch::Connect, false),
        ("connect", TodoSwitch::Connect, true),
        ("pause-replay", TodoSwitch::AllowReplay, false),
        ("resume-replay", TodoSwitch::AllowReplay, true),
    ] {
        for form in ["", "-local", "-global"] {
            for host in ["alpha", "beta"] {
                all.iter().for_each(|s| set(&h, host, *s, u8::from(!on)));
            }
            let command = format!("{word}{form}");
            h.ok(&[&command, "data"]);
            for host in ["alpha", "beta"] {
                let changed = host == "alpha" || form == "-global";
                for s in all {
                    let expected = if s == which && changed { on } else { !on };
                    let value = switch(&h, host, s);
                    assert_eq!(
                        value.as_deref(),
                        Some(if expected { "1" } else { "0" }),
                        "{command}: {s:?} of {host}"
                    );
                }
            }
            // Once more is no failure and changes nothing.
            let before = h.everything();
            assert!(h.ok(&[&command, "data"]).contains("already"), "{command}");
            assert_eq!(h.everything(), before, "{command}");
        }
    }
}

#[test]
fn words_of_drbd() {
    let dir = tempfile::tempdir().unwrap();
    let h = pair(dir.path());
    let before = h.everything();
    for word in [
        "adjust",
        "syncer",
        "get-gi",
        "show-gi",
        "outdate",
        "hidden-commands",
        "check-resize",
        "create-md",
        "dump-md",
        "dump",
        "new-current-uuid",
    ] {
        let out = h.ok(&[word, "data"]);
        assert!(
            out.starts_with(&format!("ignoring command {word} on resource \"data\": ")),
            "{out}"
        );
        assert!(h.ok(&[word]).contains(word));
    }
    for (word, hint) in [
        ("invalidate-remote", "--host=HOST"),
        ("verify", "invalidate"),
    ] {
        let r = h.run(&[word, "data"]);
        assert_eq!((r.code, r.out.as_str()), (1, ""), "{r:?}");
        assert!(r.err.contains(hint) && r.err.lines().count() == 1, "{r:?}");
    }
    assert_eq!(h.everything(), before);
}

#[test]
fn words_that_need_no_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let h = pair(dir.path());
    assert!(h.ok(&["version"]).starts_with("marsadm 0."));
    for form in [&["v"][..], &["--version"]] {
        assert_eq!(h.ok(form), h.ok(&["version"]));
    }
    let role = h.ok(&["role", "data"]);
    assert!(
        role.contains("I am actually secondary and beta should be primary"),
        "{role}"
    );
    assert_eq!(h.ok(&["state", "data"]), role);
    // The first run may heal what the tree says of daemons that are gone; the next one finds nothing to do.
    h.ok(&["systemd-trigger-extern"]);
    let before = h.everything();
    h.ok(&["systemd-trigger-extern"]);
    assert_eq!(h.everything(), before);
}

/// `-one`: the lowest of those that nobody needs.
#[test]
fn words_of_log_deletion() {
    let dir = tempfile::tempdir().unwrap();
    let h = pair(dir.path());
    let res: ResName = "data".parse().unwrap();
    let mut b = Batch::new();
    for m in ["alpha", "beta"] {
        b.set(
            Key::Replay(res.clone(), m.parse().unwrap()),
            "log-000000003-beta,0,0",
        );
    }
    h.tree().commit(&b).unwrap();
    let log = |n: u32| {
        h.env
            .root
            .join(format!("resource-data/log-00000000{n}-beta"))
    };
    (1..=3).for_each(|n| std::fs::write(log(n), "x").unwrap());
    let there = || (1..=3).filter(|n| log(*n).is_file()).collect::<Vec<u32>>();
    h.ok(&["log-delete-one", "--force", "data"]);
    assert_eq!(there(), [2, 3]);
    h.ok(&["log-delete", "--force", "data"]);
    assert_eq!(there(), [3], "the newest stays");
    let before = h.everything();
    for word in ["log-delete-one", "log-delete-all", "log-delete"] {
        h.ok(&[word, "--force", "data"]);
        assert_eq!(h.everything(), before, "{word}: nothing to do");
    }
}
