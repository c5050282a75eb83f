//! The list of members, guests, and what is purged: lowlevel-*, create-uuid, activate-guest, deactivate-guest, err-purge-all,
//! link-purge-all, log-purge-all, leave-cluster; without daemons.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::{Host, Ran};
use mars_tree::{Batch, Key, Stamp};
use std::time::SystemTime;

/// alpha of a cluster of alpha, beta, gamma; beta is primary of `r`.
fn cluster(dir: &std::path::Path) -> Host {
    let h = Host::new(dir, "alpha");
    for program in ["mars-meta", "mars-fetch", "mars-sync"] {
        h.stand_in(program, "exec sleep 1000");
    }
    h.ok(&["create-cluster", "--ip=127.41.0.2"]);
    h.ok(&["stop"]);
    set(
        &h,
        &[
            ("ips/ip-beta", "127.41.0.3"),
            ("ips/ip-gamma", "127.41.0.4"),
            ("resource-r/size", "1048576"),
            ("resource-r/primary", "beta"),
            ("resource-r/data-beta", "/dev/vg/r"),
            ("resource-r/device-beta", "r"),
            ("resource-r/replay-beta", "log-000000002-beta,0,0"),
        ],
    );
    h
}

fn set(h: &Host, links: &[(&str, &str)]) {
    let mut b = Batch::new();
    for (path, value) in links {
        b.set(Key::parse(path), value);
    }
    h.tree().commit(&b).unwrap();
}

fn value(h: &Host, path: &str) -> Option<String> {
    h.tree().text(&Key::parse(path)).unwrap()
}

/// Is there a link at all, tombstones included?
fn exists(h: &Host, path: &str) -> bool {
    std::fs::symlink_metadata(h.env.root.join(path)).is_ok()
}

/// One line, the words, the tree untouched.
fn refused(h: &Host, args: &[&str], code: i32, words: &[&str]) {
    let before = h.everything();
    let r = h.run(args);
    assert_eq!(r.code, code, "{args:?}: {r:?}");
    let lines: Vec<&str> = r
        .err
        .lines()
        .filter(|l| !l.contains("--force lifts"))
        .collect();
    assert_eq!(lines.len(), 1, "{args:?}: {r:?}");
    assert!(lines[0].starts_with("DYING: "), "{args:?}: {r:?}");
    for w in words {
        assert!(r.err.contains(w), "{args:?}: {w:?} is missing: {r:?}");
    }
    assert_eq!(h.everything(), before, "{args:?} changed the tree");
}

#[test]
fn lowlevel_commands_change_the_list_of_members() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    assert_eq!(
        h.ok(&["lowlevel-ls-host-ips"]),
        "alpha 127.41.0.2\nbeta 127.41.0.3\ngamma 127.41.0.4\n"
    );
    let out = h.ok(&["lowlevel-set-host-ip", "beta", "127.41.0.30"]);
    assert!(out.contains("127.41.0.3 becomes 127.41.0.30"), "{out}");
    assert_eq!(value(&h, "ips/ip-beta").unwrap(), "127.41.0.30");
    let before = h.everything();
    let out = h.ok(&["lowlevel-set-host-ip", "beta", "127.41.0.30"]);
    assert!(out.contains("already"), "{out}");
    h.ok(&["lowlevel-set-host-ip", "beta", "127.41.0.31", "--dry-run"]);
    assert_eq!(h.everything(), before);

    refused(
        &h,
        &["lowlevel-set-host-ip", "beta", "127.41.0.4"],
        1,
        &["gamma", "127.41.0.4", "--force"],
    );
    h.ok(&["lowlevel-set-host-ip", "beta", "127.41.0.4", "--force"]);
    h.ok(&["lowlevel-set-host-ip", "beta", "127.41.0.3"]);
    refused(
        &h,
        &["lowlevel-set-host-ip", "x-beta", "127.41.0.9"],
        1,
        &["x-beta", "ending"],
    );
    refused(
        &h,
        &["lowlevel-set-host-ip", "x-beta", "127.41.0.9", "--force"],
        1,
        &["ending"],
    );
    for bad in [
        "1.2.3",
        "0.0.0.0",
        "224.0.0.1",
        "x",
        "",
        "::1",
        "1.2.3.4\n",
        "1.2.3.4 5",
    ] {
        refused(&h, &["lowlevel-set-host-ip", "beta", bad], 2, &["IP="]);
    }
    let long = "x".repeat(5000);
    for bad in ["a b", "..", "/", "a\nb", "", "(none)", "local", &long] {
        for command in ["lowlevel-set-host-ip", "lowlevel-delete-host"] {
            refused(&h, &[command, bad], 1, &[]);
        }
    }
    refused(&h, &["lowlevel-set-host-ip"], 2, &["HOST [IP]"]);
    refused(
        &h,
        &["lowlevel-set-host-ip", "a", "1.2.3.4", "c"],
        2,
        &["surplus"],
    );

    // A host that was never here: a typing error, perhaps.
    let r = h.run(&["lowlevel-set-host-ip", "delta", "127.41.0.5"]);
    assert_eq!(r.code, 0, "{r:?}");
    assert!(
        r.err.contains("WARNING") && r.err.contains("lowlevel-delete-host delta"),
        "{r:?}"
    );
    h.ok(&["lowlevel-delete-host", "delta"]);
    assert_eq!(value(&h, "ips/ip-delta"), None);
    refused(
        &h,
        &["lowlevel-delete-host", "delta"],
        1,
        &["delta", "beta"],
    );
    h.ok(&["lowlevel-delete-host", "delta", "--force"]);
    refused(
        &h,
        &["lowlevel-delete-host", "alpha"],
        1,
        &["leave-cluster"],
    );

    // Memberships stay, and that is said.
    let r = h.run(&["lowlevel-delete-host", "beta"]);
    assert!(r.code == 0 && r.err.contains("member of r"), "{r:?}");
    assert_eq!(value(&h, "resource-r/data-beta").unwrap(), "/dev/vg/r");
    // Without an address: the newest backup.
    for (secs, ip) in [("1700000000", "127.41.0.77"), ("1700000009", "127.41.0.78")] {
        let backup = h.env.root.join(format!("backups-{secs}/ips-backup"));
        std::fs::create_dir_all(&backup).unwrap();
        std::os::unix::fs::symlink(ip, backup.join("ip-beta")).unwrap();
    }
    let out = h.ok(&["lowlevel-set-host-ip", "beta"]);
    assert!(out.contains("127.41.0.78"), "{out}");
    assert_eq!(value(&h, "ips/ip-beta").unwrap(), "127.41.0.78");
    h.ok(&["lowlevel-delete-host", "alpha", "--force"]);
    assert_eq!(value(&h, "ips/ip-alpha"), None);
}

#[test]
fn lowlevel_set_host_ip_of_this_host_moves_its_servers() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    h.ok(&["start"]);
    let pid = |unit: &str| {
        std::fs::read_to_string(h.env.run_dir.join(format!("units/{unit}.lock"))).unwrap()
    };
    let before = [pid("mars-fetch.socket"), pid("mars-meta.service")];
    h.ok(&["lowlevel-set-host-ip", "alpha", "127.41.0.20"]);
    assert_ne!(pid("mars-fetch.socket"), before[0]);
    assert_eq!(pid("mars-meta.service"), before[1]);
    h.ok(&["stop"]);
}

#[test]
fn create_uuid_never_overwrites_one() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    let uuid = value(&h, "uuid").unwrap();
    for args in [&["create-uuid"][..], &["create-uuid", "--force"]] {
        refused(&h, args, 1, &[&uuid]);
    }
    let old = Host::new(dir.path(), "old");
    let before = old.everything();
    old.ok(&["create-uuid", "-d"]);
    assert_eq!(old.everything(), before);
    let out = old.ok(&["create-uuid"]);
    let uuid = value(&old, "uuid").unwrap();
    assert!(uuid.starts_with("old_") && out.contains(&uuid), "{out}");
    assert_eq!(uuid.rsplit('.').next().unwrap().len(), 9, "{uuid}");
    assert_eq!(old.everything().len(), 1);
    refused(&old, &["create-uuid", "x"], 2, &["surplus"]);
}

#[test]
fn guests_come_and_go_without_a_disk() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    let before = h.everything();
    let out = h.ok(&["deactivate-guest", "r"]);
    assert!(out.contains("no guest"), "{out}");
    h.ok(&["activate-guest", "r", "-d"]);
    assert_eq!(h.everything(), before);
    let out = h.ok(&["activate-guest", "r"]);
    assert!(out.contains("beta is primary"), "{out}");
    assert_eq!(value(&h, "resource-r/device-alpha").unwrap(), "r");
    assert_eq!(value(&h, "resource-r/actual-alpha/if-on").unwrap(), "0");
    assert_eq!(value(&h, "resource-r/data-alpha"), None);
    let before = h.everything();
    assert!(h.ok(&["activate-guest", "r"]).contains("already"));
    assert_eq!(h.everything(), before);
    let out = h.ok(&["view", "all"]);
    assert!(out.contains("resource r"), "{out}");
    h.ok(&["deactivate-guest", "r"]);
    assert_eq!(value(&h, "resource-r/device-alpha"), None);

    set(&h, &[("resource-r/data-alpha", "/dev/vg/r")]);
    refused(
        &h,
        &["activate-guest", "r"],
        1,
        &["alpha has a disk", "leave-resource"],
    );
    refused(&h, &["activate-guest", "r", "--force"], 1, &["has a disk"]);
    refused(
        &h,
        &["deactivate-guest", "r"],
        1,
        &["no guest", "leave-resource"],
    );
    for bad in ["nope", "a b", "..", "all", "r,s", ""] {
        let r: Ran = h.run(&["activate-guest", bad]);
        assert_eq!(r.code, 1, "{bad:?}: {r:?}");
    }
    refused(&h, &["deactivate-guest", "nope"], 1, &["nope"]);
    refused(&h, &["activate-guest"], 2, &["RES"]);
}

#[test]
fn error_messages_of_this_host_are_forgotten() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    let text = "1.000000000 1.000000000 trouble";
    set(
        &h,
        &[
            ("actual-alpha/msg-err-global", text),
            ("resource-r/actual-alpha/msg-err-replay-stop", text),
            ("resource-r/actual-alpha/msg-wrn-space-low", text),
            ("resource-r/actual-beta/msg-err-replay-stop", text),
            ("resource-s/size", "1"),
            ("resource-s/actual-alpha/msg-err-x", text),
        ],
    );
    let before = h.everything();
    h.ok(&["err-purge-all", "r", "--dry-run"]);
    assert_eq!(h.everything(), before);
    let out = h.ok(&["err-purge-all", "r"]);
    assert!(out.contains("2 error messages"), "{out}");
    for gone in [
        "actual-alpha/msg-err-global",
        "resource-r/actual-alpha/msg-err-replay-stop",
    ] {
        assert_eq!(value(&h, gone), None, "{gone}");
    }
    for stays in [
        "resource-r/actual-alpha/msg-wrn-space-low",
        "resource-r/actual-beta/msg-err-replay-stop",
        "resource-s/actual-alpha/msg-err-x",
    ] {
        assert_eq!(value(&h, stays).as_deref(), Some(text), "{stays}");
    }
    h.ok(&["err-purge-all", "r", "--host=beta"]);
    assert_eq!(
        value(&h, "resource-r/actual-beta/msg-err-replay-stop"),
        None
    );
    assert_eq!(h.ok(&["err-purge-all", "r"]), "");
    refused(&h, &["err-purge-all", "nope"], 1, &["nope"]);
}

fn now() -> u64 {
    SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

fn at(secs: u64) -> Stamp {
    Stamp::from_nanos(secs * 1_000_000_000)
}

/// A tombstone of that age.
fn tombstone(h: &Host, path: &str, hours: u64) {
    let path = h.env.root.join(path);
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::os::unix::fs::symlink(".deleted", &path).unwrap();
    age(&path, hours);
}

fn age(path: &std::path::Path, hours: u64) {
    let t = format!("@{}", now() - hours * 3600);
    let ok = std::process::Command::new("touch")
        .args(["-h", "-d", &t])
        .arg(path)
        .status()
        .unwrap();
    assert!(ok.success());
}

#[test]
fn deleted_links_are_forgotten_when_everybody_knows() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    let heard = |host: &str, hours: u64| {
        set(
            &h,
            &[(
                &format!("actual-{host}/time"),
                &at(now() - hours * 3600).to_string(),
            )],
        );
    };
    for (name, hours) in [("one", 1), ("three", 3), ("day", 24), ("week", 200)] {
        tombstone(&h, &format!("resource-r/{name}"), hours);
    }
    tombstone(&h, "userspace/three", 3);
    tombstone(&h, "resource-s/week", 200);
    let left = || -> Vec<&str> {
        let all = ["one", "three", "day", "week"];
        all.into_iter()
            .filter(|n| exists(&h, &format!("resource-r/{n}")))
            .collect()
    };
    // Nobody was heard of: only what is older than a week.
    let before = h.everything();
    assert!(
        h.ok(&["link-purge-all", "r", "-d"])
            .contains("resource-r/week")
    );
    assert_eq!(h.everything(), before);
    h.ok(&["link-purge-all", "r"]);
    assert_eq!(left(), ["one", "three", "day"]);
    assert!(exists(&h, "resource-s/week"), "another resource");
    heard("beta", 0);
    heard("gamma", 2);
    h.ok(&["link-purge-all", "r"]);
    assert_eq!(left(), ["one"]);
    assert!(!exists(&h, "userspace/three"));
    h.ok(&["link-purge-all", "r", "--force"]);
    assert_eq!(left(), [""; 0]);
    // Live links stay, whatever their age.
    assert_eq!(value(&h, "resource-r/primary").unwrap(), "beta");

    let root = &h.env.root;
    for (name, hours) in [
        ("backups-1", 200),
        ("backups-2", 100),
        ("probe-x", 2),
        ("probe-y", 0),
    ] {
        std::fs::create_dir_all(root.join(name).join("ips-backup")).unwrap();
        age(&root.join(name), hours);
    }
    for (name, hours) in [
        ("resource-r/.tmp.5.x", 2),
        ("resource-r/.tmp-y", 2),
        ("resource-r/.tmp-z", 0),
    ] {
        std::os::unix::fs::symlink("v", root.join(name)).unwrap();
        age(&root.join(name), hours);
    }
    let out = h.ok(&["link-purge-all", "r"]);
    assert!(out.contains("4 left-over"), "{out}");
    for stays in ["backups-2", "probe-y", "resource-r/.tmp-z"] {
        assert!(exists(&h, stays), "{stays}");
    }
    for gone in [
        "backups-1",
        "probe-x",
        "resource-r/.tmp.5.x",
        "resource-r/.tmp-y",
    ] {
        assert!(!exists(&h, gone), "{gone}");
    }
    refused(&h, &["link-purge-all"], 2, &["RES"]);
}

#[test]
fn logs_of_no_history_are_purged_and_missing_ones_named() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    let head = |nr: u32, len: u32| format!("{}{nr},log-00000000{nr}-beta,{len}", "f".repeat(31));
    let stray = format!("{},log-000000007-alpha,5:", "e".repeat(32));
    set(
        &h,
        &[
            ("resource-r/data-alpha", "/dev/vg/r"),
            ("resource-r/replay-alpha", "log-000000002-beta,0,0"),
            (
                "resource-r/version-000000001-beta",
                &format!("{}:", head(1, 9)),
            ),
            (
                "resource-r/version-000000002-beta",
                &format!("{}:{}", head(2, 9), head(1, 9)),
            ),
            ("resource-r/version-000000007-alpha", &stray),
            (
                "resource-r/version-000000008-gamma",
                &stray.replace("alpha", "gamma"),
            ),
        ],
    );
    let log = h.env.root.join("resource-r/log-000000002-beta");
    std::fs::write(log, "x").unwrap();
    for name in ["log-000000007-alpha", "log-000000007-gamma"] {
        std::fs::write(h.env.root.join("resource-r").join(name), "x").unwrap();
    }
    let disk = ["--force"];
    // Recent ones stay.
    let out = h.ok(&["log-purge-all", "r", "--window=60"]);
    assert!(
        out.contains("referenced, but not here: log-000000001-beta"),
        "{out}"
    );
    assert!(exists(&h, "resource-r/log-000000007-alpha"));
    let out = h.ok(&["log-purge-all", "r", "--window=0"]);
    assert!(out.contains("purging 2 entries"), "{out}");
    assert_eq!(value(&h, "resource-r/version-000000007-alpha"), None);
    assert!(exists(&h, "resource-r/log-000000002-beta"));
    assert_eq!(
        std::fs::read_link(h.env.root.join("resource-r/log-000000007-alpha"))
            .unwrap()
            .to_str(),
        Some(".deleted")
    );
    // Entries with names of others only with --force.
    assert!(value(&h, "resource-r/version-000000008-gamma").is_some());
    h.ok(&[&["log-purge-all", "r"][..], &disk].concat());
    assert_eq!(value(&h, "resource-r/version-000000008-gamma"), None);
    assert!(value(&h, "resource-r/version-000000002-beta").is_some());
}

#[test]
fn leave_cluster_of_a_dead_host_from_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    refused(
        &h,
        &["leave-cluster", "--force"],
        1,
        &["mars-meta is not running", "marsadm start"],
    );
    set(
        &h,
        &[
            ("actual-alpha/msg-needed-connection-with-beta", "x"),
            ("actual-gamma/time", "1.000000000"),
            ("resource-r/device-gamma", "r"),
            ("todo-global/deleted-beta", "5"),
        ],
    );
    let engine = h.pretend_engine();
    refused(
        &h,
        &["leave-cluster", "--host=delta"],
        1,
        &["delta", "lowlevel-ls-host-ips"],
    );
    let before = h.everything();
    let r = h.run(&["leave-cluster", "--host=beta"]);
    assert!(
        r.code == 1 && r.err.contains("member of r") && r.err.contains("--host=beta --force"),
        "{r:?}"
    );
    let r = h.run(&["leave-cluster", "--timeout=0"]);
    assert_eq!(r.code, 1, "{r:?}");
    assert!(
        r.err.contains("beta, gamma do not answer") && r.err.contains("--force"),
        "{r:?}"
    );
    h.ok(&["leave-cluster", "--host=beta", "--force", "-d"]);
    assert_eq!(h.everything(), before);

    // Members of resources only with --force; their membership is not touched.
    h.ok(&["leave-cluster", "--host=beta", "--force"]);
    assert_eq!(value(&h, "ips/ip-beta"), None);
    assert_eq!(
        value(&h, "actual-alpha/msg-needed-connection-with-beta"),
        None
    );
    assert_eq!(value(&h, "todo-global/deleted-beta"), None);
    assert_eq!(value(&h, "resource-r/data-beta").unwrap(), "/dev/vg/r");
    assert!(value(&h, "uuid").is_some());
    h.ok(&["leave-cluster", "--host=gamma", "--force"]);
    assert_eq!(
        value(&h, "resource-r/device-gamma"),
        None,
        "a guest no more"
    );
    assert_eq!(h.ok(&["lowlevel-ls-host-ips"]), "alpha 127.41.0.2\n");
    drop(engine);
}

#[test]
fn leave_cluster_of_this_host_stops_it_and_leaves_no_state() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    h.ok(&["start"]);
    // The stand-in does not hold the lock by which the real one counts as running.
    let engine = h.pretend_engine();
    set(
        &h,
        &[
            ("resource-r/todo-alpha/attach", "0"),
            ("resource-r/actual-alpha/is-primary", "0"),
            ("resource-r/todo-beta/attach", "1"),
            ("actual-alpha/emergency", "0"),
        ],
    );
    h.ok(&["leave-cluster", "--force", "--timeout=1"]);
    assert_eq!(h.ok(&["stop"]), "nothing of alpha runs\n");
    assert_eq!(value(&h, "ips/ip-alpha"), None);
    for gone in [
        "resource-r/todo-alpha/attach",
        "resource-r/actual-alpha/is-primary",
        "actual-alpha/emergency",
    ] {
        assert!(!exists(&h, gone), "{gone}");
    }
    assert!(value(&h, "resource-r/todo-beta/attach").is_some());
    assert!(value(&h, "uuid").is_some(), "stays on purpose");
    refused(&h, &["leave-cluster"], 1, &["alpha is no member", "beta"]);
    drop(engine);
    assert_eq!(h.run(&["leave-cluster", "surplus"]).code, 2);
}

#[test]
fn merge_words_refuse_what_cannot_be() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    let root = h.env.root.display().to_string();
    let uuid = value(&h, "uuid").unwrap();
    let ips = ["alpha", "beta", "gamma"]
        .map(|n| format!("{root}/ips/ip-{n}\n"))
        .concat();
    set(&h, &[("resource-gone/maxnr", "7")]);
    assert_eq!(
        h.ok(&["merge-cluster-list"]),
        format!("UUID: {uuid}\nIPs:\n{ips}RESOURCEs:\n{root}/resource-r\n")
    );
    for command in [
        "merge-cluster",
        "merge-cluster-check",
        "force-merge-cluster",
    ] {
        refused(&h, &[command, "alpha"], 1, &["alpha is this host"]);
        refused(&h, &[command, "other", "1.2.3"], 2, &["1.2.3", "IPv4"]);
        refused(&h, &[command, "other", "1.2.3.4", "5"], 2, &["surplus"]);
        refused(&h, &[command], 2, &["HOST [IP]"]);
        let long = "x".repeat(5000);
        for bad in ["a b", "..", "/", "a\nb", "", "(any)", "local", &long] {
            refused(&h, &[command, bad, "127.41.0.99"], 1, &[]);
        }
    }
    refused(&h, &["merge-cluster-list", "x"], 2, &["surplus"]);
    refused(&h, &["split-cluster", "x"], 2, &["surplus"]);
    refused(
        &h,
        &["split-cluster"],
        1,
        &["mars-meta is not running", "marsadm start"],
    );
    refused(
        &h,
        &["merge-cluster", "other", "127.41.0.99"],
        1,
        &["mars-meta is not running"],
    );
    // Nobody there; the address may also stand in an option.
    let port = h.env.port.to_string();
    for args in [
        &["merge-cluster-check", "other", "127.41.0.99"][..],
        &["merge-cluster-check", "other", "--ip-other=127.41.0.99"],
    ] {
        refused(
            &h,
            args,
            1,
            &["other", "127.41.0.99", &port, "marsadm start"],
        );
    }
    let engine = h.pretend_engine();
    refused(
        &h,
        &["merge-cluster", "other", "127.41.0.99"],
        1,
        &["other", "marsadm start"],
    );
    let r = h.run(&["merge-cluster", "other", "127.41.0.99", "--host=beta"]);
    assert!(
        r.code == 1 && r.err.contains("leave out --host=beta"),
        "{r:?}"
    );
    let r = h.run(&["split-cluster", "--timeout=0"]);
    assert!(
        r.code == 1 && r.err.contains("beta, gamma do not answer"),
        "{r:?}"
    );
    // Parts are told; nothing is done with --dry-run.
    let before = h.everything();
    let out = h.ok(&["split-cluster", "--force", "--dry-run", "--timeout=1"]);
    for word in [
        "hosts alpha with no resource",
        "hosts beta with r",
        "set userspace/split/gamma",
    ] {
        assert!(out.contains(word), "{word}: {out}");
    }
    assert_eq!(h.everything(), before);
    drop(engine);
    // Somebody who is no MARS.
    let listener = std::net::TcpListener::bind(("127.41.0.98", h.env.port)).unwrap();
    let squatter = std::thread::spawn(move || {
        use std::io::Write;
        let (mut s, _) = listener.accept().unwrap();
        let _ = s.write_all(b"220 mail.example.org ESMTP\r\n");
    });
    refused(
        &h,
        &["merge-cluster-check", "other", "127.41.0.98"],
        1,
        &["not a MARS peer"],
    );
    squatter.join().unwrap();
}

#[test]
fn split_that_not_everybody_hears_of_is_taken_back() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    let engine = h.pretend_engine();
    // beta answers the first question only; gamma is another part.
    set(&h, &[("ips/ip-gamma", ".deleted")]);
    let root = h.env.root.join("actual-beta");
    std::fs::create_dir_all(&root).unwrap();
    let ping = h.env.run_dir.join("meta.ping");
    let tree = h.tree();
    let answer = std::thread::spawn(move || {
        let mut b = Batch::new();
        while !ping.exists() {
            std::thread::yield_now();
        }
        b.set(
            Key::parse("actual-beta/time"),
            tree.clock().tick(Stamp::ZERO),
        );
        tree.commit(&b).unwrap();
    });
    let r = h.run(&["split-cluster"]);
    answer.join().unwrap();
    assert_eq!(r.code, 3, "{r:?}");
    assert!(
        r.err.contains("nothing was split") && r.err.contains("beta"),
        "{r:?}"
    );
    for host in ["alpha", "beta"] {
        assert_eq!(value(&h, &format!("userspace/split/{host}")), None);
        assert!(
            exists(&h, &format!("userspace/split/{host}")),
            "was ordered"
        );
    }
    drop(engine);
}
