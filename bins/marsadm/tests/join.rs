//! Joining a cluster, with a stand-in for `mars-meta`: all of it or nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::Host;
use mars_tree::Key;

fn host(dir: &std::path::Path) -> Host {
    let h = Host::new(dir, "beta");
    for program in ["mars-fetch", "mars-sync"] {
        h.stand_in(program, "exec sleep 1000");
    }
    h
}

const JOIN: [&str; 4] = [
    "join-cluster",
    "alpha",
    "--ip-alpha=127.43.1.2",
    "--ip=127.43.1.3",
];

#[test]
fn join_cluster_without_answer_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let h = host(dir.path());
    h.stand_in("mars-meta", "exec sleep 1000");
    std::fs::create_dir(h.env.root.join("lost+found")).unwrap();
    let before = h.everything();
    let r = h.run(&[&JOIN[..], &["--timeout=1"]].concat());
    assert_eq!(r.code, 3, "{r:?}");
    assert_eq!(r.err.lines().count(), 1, "{r:?}");
    for word in ["alpha", "127.43.1.2", "timeout", "undone"] {
        assert!(r.err.contains(word), "{r:?}");
    }
    assert_eq!(h.everything(), before);
    assert_eq!(h.ok(&["stop"]), "nothing of beta runs\n");
}

#[test]
fn join_cluster_with_a_daemon_that_cannot_start_leaves_nothing_behind() {
    let dir = tempfile::tempdir().unwrap();
    let h = host(dir.path());
    let before = h.everything();
    let r = h.run(&JOIN);
    assert_eq!(r.code, 1, "{r:?}");
    assert!(r.err.contains("mars-meta"), "{r:?}");
    assert_eq!(h.everything(), before);
}

#[test]
fn join_cluster_takes_the_uuid_and_publishes_the_address() {
    let dir = tempfile::tempdir().unwrap();
    let h = host(dir.path());
    // What the real one does with links from alpha: newer ones replace the provisional ones.
    h.stand_in(
        "mars-meta",
        "cd \"$MARS_ROOT\"; ln -sfn 127.43.1.2 ips/.t; mv -T ips/.t ips/ip-alpha; ln -sfn alpha_1.000000000 .u; mv -T .u uuid; exec sleep 1000",
    );
    let out = h.ok(&JOIN);
    assert!(out.contains("alpha_1.000000000"), "{out}");
    let tree = h.tree();
    let ip = |n: &str| tree.read(&Key::Ip(n.parse().unwrap())).unwrap().unwrap();
    assert_eq!(ip("beta").value.as_str(), Some("127.43.1.3"));
    assert!(ip("beta").stamp.secs() > 1_000_000);
    let snap = tree.snapshot().unwrap();
    assert_eq!(
        snap.text(&Key::parse("defaults-beta/sync-limit")),
        Some("0")
    );
    // Both servers and mars-meta run now; a second join is refused and changes nothing.
    let before = h.everything();
    let r = h.run(&JOIN);
    assert_eq!(r.code, 1, "{r:?}");
    assert!(r.err.contains("alpha_1.000000000"), "{r:?}");
    assert_eq!(h.everything(), before);
    let out = h.ok(&["stop"]);
    for unit in ["mars-meta.service", "mars-fetch.socket", "mars-sync.socket"] {
        assert!(out.contains(unit), "{out}");
    }
    // Stopped is stopped: the reconciler starts nothing until somebody says so.
    assert_eq!(h.ok(&["systemd-trigger", "-v"]), "");
    let out = h.ok(&["start"]);
    assert!(out.contains("started mars-meta.service"), "{out}");
    h.ok(&["stop"]);
}

#[test]
fn join_cluster_refuses_a_name_that_another_host_has() {
    let dir = tempfile::tempdir().unwrap();
    let h = host(dir.path());
    h.stand_in(
        "mars-meta",
        "cd \"$MARS_ROOT\"; for x in alpha beta; do ln -sfn 127.43.1.2 ips/.t; mv -T ips/.t ips/ip-$x; done; ln -sfn alpha_1.000000000 .u; mv -T .u uuid; exec sleep 1000",
    );
    let before = h.everything();
    let r = h.run(&JOIN);
    assert_eq!(r.code, 1, "{r:?}");
    assert!(
        r.err.contains("127.43.1.2") && r.err.contains("127.43.1.3") && r.err.contains("undone"),
        "{r:?}"
    );
    assert_eq!(h.everything(), before);
}

#[test]
fn join_cluster_asks_the_peer_for_its_address_over_ssh() {
    let dir = tempfile::tempdir().unwrap();
    let h = host(dir.path());
    h.stand_in("mars-meta", "exec sleep 1000");
    h.stand_in(
        "ssh",
        "echo \"$@\" > \"$0.args\"; echo 'gamma 127.43.1.9'; echo 'alpha 127.43.1.2'",
    );
    let ssh = dir.path().join("bin/ssh");
    let args = [
        "join-cluster",
        "alpha",
        "--ip=127.43.1.3",
        "--timeout=0",
        "--ssh-port=2222",
    ];
    let r: common::Ran = h
        .command(&args)
        .env("MARS_SSH", &ssh)
        .output()
        .unwrap()
        .into();
    assert_eq!(r.code, 3, "{r:?}");
    assert!(r.err.contains("127.43.1.2"), "{r:?}");
    let asked = std::fs::read_to_string(dir.path().join("bin/ssh.args")).unwrap();
    assert!(
        asked.ends_with("-p 2222 root@alpha marsadm lowlevel-ls-host-ips\n"),
        "{asked}"
    );
    for (script, word) in [
        ("exit 255", "255"),
        ("echo gamma 127.43.1.9", "own address"),
        ("printf 'x%.0s' 1 2 3; echo", "xxx"),
    ] {
        h.stand_in("ssh", script);
        let before = h.everything();
        let r: common::Ran = h
            .command(&args)
            .env("MARS_SSH", &ssh)
            .output()
            .unwrap()
            .into();
        assert_eq!(r.code, 1, "{r:?}");
        assert!(
            r.err.contains(word) && r.err.contains("--ip-alpha"),
            "{r:?}"
        );
        assert_eq!(r.err.lines().count(), 1, "{r:?}");
        assert_eq!(h.everything(), before);
    }
}

#[test]
fn dry_run_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let h = host(dir.path());
    let before = h.everything();
    let out = h.ok(&["create-cluster", "--ip=127.43.1.3", "--dry-run"]);
    assert!(out.contains("set ips/ip-beta -> 127.43.1.3"), "{out}");
    let out = h.ok(&[&JOIN[..], &["-d"]].concat());
    assert!(
        out.contains("set ips/ip-alpha -> 127.43.1.2") && out.contains("would wait"),
        "{out}"
    );
    assert_eq!(h.everything(), before);

    h.ok(&["stop"]);
    h.ok(&["create-cluster", "--ip=127.43.1.3"]);
    h.ok(&["stop"]);
    let disk = h.disk("disk", 1 << 20);
    h.ok(&["create-resource", "r", &disk]);
    let before = h.everything();
    let disk2 = h.disk("disk2", 1 << 20);
    for args in [
        &["create-resource", "s", &disk2][..],
        &["detach", "r"],
        &["down", "all"],
        &["up", "r"],
        &["pause-sync-global", "r"],
        &["secondary", "r"],
        &["log-rotate", "r"],
        &["log-delete-all", "r"],
        &["log-purge-all", "r"],
        &["cron"],
        &["leave-resource", "r", "--force"],
        &["delete-resource", "r", "--force"],
        &["systemd-trigger"],
        &["start"],
        &["stop"],
        &["primary", "r"],
    ] {
        let r = h.run(&[args, &["--dry-run"]].concat());
        assert_eq!(r.code, 0, "{args:?}: {r:?}");
        assert_eq!(h.everything(), before, "{args:?}");
    }
    assert!(
        h.ok(&["start", "-d"])
            .contains("would start mars-meta.service")
    );
}
