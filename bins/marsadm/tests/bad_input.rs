//! Every mistake: one line that names the value and the way out, the right exit status, and no link changed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::{Host, Ran};
use mars_tree::{Batch, Key, Stamp, TodoSwitch};

/// alpha: primary of `mine`, secondary of `both` (beta is primary), not member of `theirs`; nobody is primary of `lost`.
fn cluster(dir: &std::path::Path) -> Host {
    let h = Host::new(dir, "alpha");
    h.ok(&["stop"]);
    for program in [
        "mars-meta",
        "mars-fetch",
        "mars-sync",
        "mars-logger",
        "mars-replay",
    ] {
        h.stand_in(program, "exit 0");
    }
    h.ok(&["create-cluster", "--ip=127.43.0.2"]);
    h.ok(&["stop"]);
    let disk = h.disk("mine.img", 1 << 20);
    h.ok(&["create-resource", "mine", &disk]);
    let mut b = Batch::new();
    let host = |n: &str| n.parse::<mars_tree::HostName>().unwrap();
    let (alpha, beta) = (host("alpha"), host("beta"));
    b.set(Key::Ip(beta.clone()), "127.43.0.3");
    let zeros = "0".repeat(32);
    for (name, members) in [
        ("both", &[&alpha, &beta][..]),
        ("theirs", &[&beta]),
        ("lost", &[&alpha, &beta]),
    ] {
        let res: mars_tree::ResName = name.parse().unwrap();
        b.set(Key::Size(res.clone()), 1 << 20);
        if name != "lost" {
            b.set(Key::Primary(res.clone()), "beta");
        }
        for m in members {
            let m = (*m).clone();
            b.set(
                Key::Data(res.clone(), m.clone()),
                h.disk(&format!("{name}.img"), 1 << 20),
            );
            b.set(Key::Device(res.clone(), m.clone()), name);
            b.set(Key::SyncStatus(res.clone(), m.clone()), 1 << 20);
            b.set(Key::ActSize(res.clone(), m.clone()), 1 << 20);
            b.set(
                Key::Replay(res.clone(), m.clone()),
                "log-000000001-beta,0,0",
            );
            b.set(
                Key::Version(res.clone(), 0, m.clone()),
                format!("{zeros},log-000000000-beta,0:"),
            );
            b.set(
                Key::Version(res.clone(), 1, m.clone()),
                format!("{zeros},log-000000001-beta,0:{zeros},log-000000000-beta,0"),
            );
            for s in [
                TodoSwitch::Attach,
                TodoSwitch::Connect,
                TodoSwitch::Sync,
                TodoSwitch::AllowReplay,
            ] {
                b.set(Key::Todo(res.clone(), m.clone(), s), 1);
            }
        }
    }
    h.tree().commit(&b).unwrap();
    h
}

/// Names that must be refused wherever a name is expected.
fn bad_names() -> Vec<String> {
    let mut v: Vec<String> = [
        "a b",
        "..",
        ".",
        "/",
        "a/b",
        "../etc",
        "a\nb",
        "\u{1b}[31mred",
        "a\tb",
        "",
        "ä",
        "-",
        "a.b",
        "a:b",
        "a@b",
        "none",
        "(any)",
        "localhost",
        "\u{7f}",
    ]
    .map(String::from)
    .to_vec();
    v.push("x".repeat(5000));
    v
}

/// One line with the prefix, nothing else on stderr; no control characters.
fn one_line(what: &str, r: &Ran) {
    let lines: Vec<&str> = r.err.lines().collect();
    assert_eq!(lines.len(), 1, "{what}: {r:?}");
    assert!(lines[0].starts_with("DYING: "), "{what}: {r:?}");
    assert!(!lines[0].contains(char::is_control), "{what}: {r:?}");
    assert!(lines[0].chars().count() < 500, "{what}: {r:?}");
}

fn check(h: &Host, args: &[&str], code: i32, words: &[&str]) {
    let shown: Vec<String> = args.iter().map(|a| a.chars().take(40).collect()).collect();
    let what = format!("marsadm {shown:?}");
    let before = h.everything();
    let r = h.run(args);
    assert_eq!(r.code, code, "{what}: {r:?}");
    one_line(&what, &r);
    for w in words {
        assert!(r.err.contains(w), "{what}: {:?} does not name {w:?}", r.err);
    }
    assert_eq!(h.everything(), before, "{what} changed links");
}

/// (name, kind of the first argument, least, largest number of the others) of every listed command.
fn commands() -> Vec<(String, String, usize, usize)> {
    let listed = marsadm::commands().filter(|c| !c.help.is_empty());
    listed
        .map(|c| {
            let word = c.usage.split(' ').nth(1).unwrap_or_default();
            let res = if word.trim_matches(['[', ']']).starts_with("RES") && c.name != "config" {
                word
            } else {
                ""
            };
            let first = usize::from(!res.is_empty());
            let least = c
                .words
                .0
                .saturating_sub(usize::from(!res.is_empty() && !res.starts_with('[')));
            (
                c.name.to_string(),
                res.to_string(),
                least,
                c.words.1 - first,
            )
        })
        .collect()
}

#[test]
fn bad_input_usage_of_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    let all = commands();
    assert!(all.len() > 35, "{all:?}");
    for (name, res, least, most) in &all {
        if name == "help" || name == "version" || name.starts_with("view") {
            continue;
        }
        let name = name.as_str();
        let filler = vec!["/x"; 99];
        if !res.is_empty() && !res.starts_with('[') {
            check(&h, &[name], 2, &["missing", name]);
        }
        let start: Vec<&str> = if res.is_empty() {
            vec![name]
        } else {
            vec![name, "mine"]
        };
        for n in 0..*least {
            check(
                &h,
                &[&start[..], &filler[..n]].concat(),
                2,
                &["missing", name],
            );
        }
        let surplus = [&start[..], &filler[..*most], &["superfluous"]].concat();
        // `watch` takes any number of names.
        if name != "watch" {
            check(&h, &surplus, 2, &["superfluous", name]);
        }
        check(&h, &[name, "--frobnicate"], 2, &["--frobnicate"]);
        check(&h, &[name, "--timeout=soon"], 2, &["soon"]);
    }
    check(&h, &["primry", "mine"], 2, &["primry", "primary"]);
    check(&h, &["view", "mine", "superfluous"], 2, &["superfluous"]);
    check(&h, &["view-frobnicate", "mine"], 2, &["frobnicate"]);
    check(&h, &["view-../x", "mine"], 2, &["../x"]);
    check(&h, &["view-diskstate"], 2, &["diskstate"]);
    check(
        &h,
        &["--dry-runn", "up", "mine"],
        2,
        &["--dry-runn", "--dry-run"],
    );
    check(&h, &["view", "--json", "--threshold=1q"], 2, &["1q"]);
    check(
        &h,
        &["wait-resource", "mine", "is-flying"],
        2,
        &["is-flying"],
    );
    check(
        &h,
        &["join-cluster", "beta", "--ip-beta=1.2.3.400"],
        2,
        &["1.2.3.400"],
    );
    check(&h, &["join-cluster", "beta", "1.2.3"], 2, &["1.2.3"]);
}

#[test]
fn bad_input_resource_names_of_every_command() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    let disk = h.disk("fresh.img", 1 << 20);
    for (name, res, least, _) in commands() {
        if res.is_empty() || name == "systemd-trigger" {
            continue;
        }
        let args: Vec<&str> = (0..least).map(|_| disk.as_str()).collect();
        if name != "create-resource" {
            check(
                &h,
                &[&[name.as_str(), "nowhere"], &args[..]].concat(),
                1,
                &["nowhere"],
            );
            check(
                &h,
                &[&["--force", name.as_str(), "nowhere"], &args[..]].concat()[1..],
                1,
                &["nowhere"],
            );
        }
        let names = bad_names();
        // The long list once, a few for all.
        let take = if name == "primary" { names.len() } else { 4 };
        for bad in names.iter().take(take).chain(names.last()) {
            check(&h, &[&[name.as_str(), bad], &args[..]].concat(), 1, &[]);
        }
        if !res.contains("LIST") {
            continue;
        }
        check(
            &h,
            &[&[name.as_str(), "mine,nowhere"], &args[..]].concat(),
            1,
            &["nowhere"],
        );
    }
}

#[test]
fn bad_input_disks_and_devices() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    let good = h.disk("good.img", 1 << 20);
    let small = h.disk("small.img", 65536);
    let mine = h.dir.join("mine.img").display().to_string();
    let none = h.dir.join("none.img").display().to_string();
    let busy = h.disk("busy.img", 1 << 20);
    let busy_file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open(&busy)
        .unwrap();
    busy_file.lock().unwrap();
    let _engine = h.pretend_engine();
    for (command, res) in [("create-resource", "new"), ("join-resource", "theirs")] {
        check(&h, &[command, res, &none], 1, &[&none]);
        check(&h, &[command, res, "/dev/null"], 1, &["/dev/null"]);
        check(
            &h,
            &[command, res, h.dir.to_str().unwrap()],
            1,
            &[h.dir.to_str().unwrap()],
        );
        check(
            &h,
            &[command, res, "good.img"],
            1,
            &["good.img", "absolute"],
        );
        check(
            &h,
            &[command, res, "/tmp/../good.img"],
            1,
            &["/tmp/../good.img"],
        );
        check(&h, &[command, res, "/tmp/a\nb"], 1, &["absolute"]);
        check(
            &h,
            &[command, res, &format!("/{}", "x".repeat(5000))],
            1,
            &["absolute"],
        );
        check(&h, &[command, res, &small], 1, &["65536"]);
        check(&h, &[command, res, &busy], 1, &[&busy, "in use"]);
        check(
            &h,
            &[command, res, &mine],
            1,
            &[&mine, "in use by resource mine"],
        );
        check(&h, &[command, res, &good, "mine"], 1, &["mine", "taken"]);
        for bad in bad_names() {
            check(&h, &[command, res, &good, &bad], 1, &["invalid"]);
        }
    }
    check(
        &h,
        &["create-resource", "new", &good, "5000000"],
        1,
        &["5000000", "multiple"],
    );
    check(
        &h,
        &["create-resource", "new", &good, "1G"],
        1,
        &["1073741824", "larger"],
    );
    check(
        &h,
        &["create-resource", "new", &good, "dev", "1 G"],
        2,
        &["1 G"],
    );
    check(
        &h,
        &["create-resource", "new", &good, "--size=64K"],
        1,
        &["65536", "too small"],
    );
    check(
        &h,
        &["create-resource", "mine", &good],
        1,
        &["mine", "alpha", "exists"],
    );
    check(
        &h,
        &["create-resource", "both", &good],
        1,
        &["both", "exists"],
    );
    check(
        &h,
        &["create-resource", "all", &good],
        1,
        &["all", "single"],
    );
    check(
        &h,
        &["create-resource", "a,b", &good],
        1,
        &["a,b", "single"],
    );
    check(
        &h,
        &["join-resource", "mine", &good],
        1,
        &["already member", "mine"],
    );
    check(
        &h,
        &["join-resource", "both", &good],
        1,
        &["already member", "both"],
    );
    check(&h, &["join-resource", "all", &good], 1, &["all", "single"]);
}

#[test]
fn bad_input_wrong_role() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    let good = h.disk("good.img", 2 << 20);
    // Without mars-meta.
    for args in [
        &["wait-cluster"][..],
        &["wait-connect", "both"],
        &["update-cluster"],
        &["primary", "both"],
        &["invalidate", "both"],
        &["join-resource", "theirs", &good],
        &["leave-cluster"],
    ] {
        check(&h, args, 1, &["mars-meta is not running", "marsadm start"]);
    }
    // With it. Nobody answers, so nothing gets further than the first question.
    let _engine = h.pretend_engine();
    for command in [
        "attach",
        "detach",
        "up",
        "down",
        "pause-sync",
        "resume-sync",
        "pause-fetch",
        "resume-fetch",
        "connect",
        "disconnect",
        "pause-replay",
        "resume-replay",
        "pause-sync-global",
        "primary",
        "secondary",
        "invalidate",
        "fake-sync",
        "log-rotate",
        "log-delete",
        "log-delete-all",
        "log-purge-all",
        "wait-resource",
        "wait-umount",
        "role",
    ] {
        check(
            &h,
            &[command, "theirs"],
            1,
            &["theirs", "not member", "beta"],
        );
    }
    check(
        &h,
        &["leave-resource", "theirs"],
        1,
        &["theirs", "not member", "beta"],
    );
    check(
        &h,
        &["leave-resource", "mine"],
        1,
        &["alpha is primary", "mine"],
    );
    check(&h, &["leave-resource", "both"], 1, &["both", "down"]);
    check(
        &h,
        &["delete-resource", "mine"],
        1,
        &["mine", "alpha", "leave-resource"],
    );
    check(
        &h,
        &["delete-resource", "both"],
        1,
        &["alpha, beta", "leave-resource"],
    );
    check(
        &h,
        &["invalidate", "mine"],
        1,
        &["alpha is designated primary", "mine"],
    );
    check(
        &h,
        &["invalidate", "lost"],
        1,
        &["lost", "no designated primary"],
    );
    check(
        &h,
        &["resume-sync", "lost"],
        1,
        &["lost", "no designated primary"],
    );
    check(
        &h,
        &["join-resource", "lost", &good, "--force"][..3],
        1,
        &["already member"],
    );
    check(&h, &["fake-sync", "mine"], 1, &["alpha is primary", "mine"]);
    check(
        &h,
        &["secondary", "both"],
        1,
        &["beta is designated primary", "both"],
    );
    check(
        &h,
        &["create-cluster", "--ip=127.43.0.9"],
        1,
        &["alpha_", "fresh"],
    );
    check(
        &h,
        &["join-cluster", "beta", "--ip-beta=127.43.0.3"],
        1,
        &["alpha_"],
    );
    check(&h, &["join-cluster", "alpha"], 1, &["alpha", "this host"]);
    check(&h, &["leave-cluster"], 1, &["mine", "leave-resource"]);
    check(
        &h,
        &["--host=delta", "up", "mine"],
        1,
        &["delta", "not in the cluster"],
    );
    for bad in bad_names() {
        check(
            &h,
            &[&format!("--host={bad}"), "up", "mine"],
            1,
            &["--host"],
        );
        check(&h, &["join-cluster", &bad], 1, &["invalid host name"]);
    }
    check(
        &h,
        &["primary", "both", "--timeout=0"],
        1,
        &["beta", "cannot be reached"],
    );
    check(
        &h,
        &["wait-resource", "both", "is-device-on", "--timeout=0"],
        3,
        &["timeout", "is-device-on", "both"],
    );
    check(
        &h,
        &["wait-cluster", "--timeout=0"],
        1,
        &["dead hosts", "beta"],
    );
}

#[test]
fn bad_input_primary_preconditions() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    let _engine = h.pretend_engine();
    let res: mars_tree::ResName = "both".parse().unwrap();
    let (alpha, beta): (mars_tree::HostName, mars_tree::HostName) =
        ("alpha".parse().unwrap(), "beta".parse().unwrap());
    let todo = |s| Key::Todo(res.clone(), alpha.clone(), s);
    let actual =
        |h: &mars_tree::HostName, n: &str| Key::Actual(res.clone(), h.clone(), n.to_string());
    let cases: Vec<(Key, &str, &str, &[&str])> = vec![
        (
            Key::SyncStatus(res.clone(), alpha.clone()),
            "4096",
            "1048576",
            &["alpha is inconsistent", "4096", "UpToDate"],
        ),
        (
            todo(TodoSwitch::Attach),
            "0",
            "1",
            &["attach", "marsadm attach both"],
        ),
        (
            todo(TodoSwitch::AllowReplay),
            "0",
            "1",
            &["replay", "marsadm resume-replay both"],
        ),
        (
            todo(TodoSwitch::Connect),
            "0",
            "1",
            &["fetch", "marsadm resume-fetch both"],
        ),
        (
            actual(&alpha, "replay-code"),
            "-5",
            "0",
            &["-5", "primary --force"],
        ),
        (
            Key::ActSize(res.clone(), alpha.clone()),
            "4096",
            "1048576",
            &["4096", "1048576"],
        ),
        (
            actual(&beta, "open-count"),
            "2",
            "0",
            &["/dev/mars/both", "2 times", "beta", "unmount"],
        ),
        (actual(&alpha, "has-emergency"), "1", "0", &["emergency"]),
    ];
    for (key, bad, good, words) in cases {
        let mut b = Batch::new();
        b.set(key.clone(), bad);
        h.tree().commit(&b).unwrap();
        check(&h, &["primary", "both"], 1, words);
        let mut b = Batch::new();
        b.set(key, good);
        h.tree().commit(&b).unwrap();
    }
    // Forced with fetch on: the other way round (and one more line that --force is dangerous).
    let before = h.everything();
    let r = h.run(&["primary", "--force", "both"]);
    assert_eq!(r.code, 1, "{r:?}");
    assert!(r.err.contains("marsadm pause-fetch both"), "{r:?}");
    assert_eq!(h.everything(), before);
    // A third member that still syncs.
    let gamma: mars_tree::HostName = "gamma".parse().unwrap();
    let mut b = Batch::new();
    b.set(Key::Data(res.clone(), gamma.clone()), "/dev/x");
    b.set(Key::SyncStatus(res.clone(), gamma.clone()), 8192);
    let now = h.tree().clock().now();
    b.set(Key::HostActual(gamma, "time".into()), now);
    b.set(Key::HostActual(beta, "time".into()), now);
    h.tree().commit(&b).unwrap();
    check(&h, &["primary", "both", "--timeout=0"], 3, &["timeout"]);
}

#[test]
fn bad_input_without_cluster_or_root() {
    let dir = tempfile::tempdir().unwrap();
    let empty = Host::new(dir.path(), "bare");
    empty.ok(&["stop"]);
    let lost = Host::new(dir.path(), "lost");
    let missing = lost.env.root.display().to_string();
    let file = Host::new(dir.path(), "file");
    let disk = empty.disk("disk", 1 << 20);
    for h in [&lost, &file] {
        std::fs::remove_dir(&h.env.root).unwrap();
    }
    std::fs::write(&file.env.root, "").unwrap();
    for (name, res, least, _) in commands() {
        // They need neither.
        if ["help", "version", "config", "cat"].contains(&name.as_str()) {
            continue;
        }
        let mut args = vec![name.as_str()];
        if !res.is_empty() {
            args.push("mine");
        }
        args.extend((0..least).map(|_| {
            if name == "join-cluster" {
                "beta"
            } else {
                disk.as_str()
            }
        }));
        check(&lost, &args, 1, &[&missing, "MARS_ROOT"]);
        check(&file, &args, 1, &["no directory"]);
        let free = [
            "create-cluster",
            "create-uuid",
            "join-cluster",
            "view",
            "systemd-trigger",
            "start",
            "stop",
            "lowlevel-ls-host-ips",
            "dump-macros",
            "dump-all-macros",
        ];
        if !free.contains(&name.as_str()) {
            check(&empty, &args, 1, &["create-cluster", "join-cluster"]);
        }
    }
    check(
        &empty,
        &["join-cluster", "beta", "--no-ssh", "--ip=127.43.0.2"],
        1,
        &["beta", "--ip-beta"],
    );
    check(&empty, &["join-cluster", "bare"], 1, &["this host"]);
    check(
        &empty,
        &["join-cluster", "beta", "127.43.0.2", "--ip=127.43.0.2"],
        1,
        &["127.43.0.2"],
    );
    // A damaged value is reported and treated as absent.
    let h = cluster(dir.path());
    let mut b = Batch::new();
    b.set_stamped(
        Key::Size("mine".parse().unwrap()),
        "huge",
        h.tree().clock().tick(Stamp::ZERO),
    );
    h.tree().commit(&b).unwrap();
    let r = h.run(&["view", "mine"]);
    assert!(
        r.err.contains("resource-mine/size") && r.err.contains("huge"),
        "{r:?}"
    );
}

#[test]
fn bad_input_environment() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    for (var, value) in [
        ("MARS_HOST", "a.b"),
        ("MARS_HOST", "a b"),
        ("MARS_UNIT_MANAGER", "upstart"),
        ("MARS_PORT", "99999"),
    ] {
        let r: Ran = h
            .command(&["up", "mine"])
            .env(var, value)
            .output()
            .unwrap()
            .into();
        assert_eq!(r.code, 1, "{var}={value}: {r:?}");
        one_line(var, &r);
        assert!(r.err.contains(value), "{r:?}");
    }
    use std::os::unix::ffi::OsStrExt;
    let r: Ran = h
        .command(&["up"])
        .arg(std::ffi::OsStr::from_bytes(b"\xff\xfe"))
        .output()
        .unwrap()
        .into();
    assert_eq!(r.code, 2, "{r:?}");
    one_line("bytes", &r);
}

/// A disk that has become too small stops every command of a member but those that look, wait or stop something.
#[test]
fn bad_input_disk_has_shrunk() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    let _engine = h.pretend_engine();
    let disk = h.disk("both.img", 65536);
    for command in [
        "attach",
        "up",
        "connect",
        "resume-fetch",
        "resume-replay-local",
        "resume-sync-global",
        "primary",
        "invalidate",
        "fake-sync",
    ] {
        let words = [disk.as_str(), "65536", "1048576", "both"];
        check(&h, &[command, "both"], 1, &words);
    }
    let r = h.run(&["--dry-run", "detach", "both"]);
    assert_eq!(r.code, 0, "{r:?}");
    // Of another host the tree tells.
    let mut b = Batch::new();
    b.set(Key::parse("resource-both/actsize-beta"), 4096);
    h.tree().commit(&b).unwrap();
    let r = h.run(&["--host=beta", "connect", "both"]);
    assert_eq!(r.code, 1, "{r:?}");
    assert!(
        r.err
            .contains("the disk of beta has 4096 bytes, resource both needs 1048576"),
        "{r:?}"
    );
}

#[test]
fn bad_input_engine_newer_than_the_tool() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    let version = |v: &str| {
        let mut b = Batch::new();
        b.set(Key::parse("actual-alpha/tree"), v);
        h.tree().commit(&b).unwrap();
    };
    for newer in ["0.2", "0.10", "1.0"] {
        version(newer);
        for args in [&["up", "mine"][..], &["wait-cluster"], &["cron"]] {
            check(&h, args, 1, &[newer, "0.1", "upgrade the tool"]);
        }
    }
    let r = h.run(&["view", "mine"]);
    assert_eq!(r.code, 0, "{r:?}");
    assert!(r.err.contains("tree version 1.0"), "{r:?}");
    for fine in ["0.1", "garbage"] {
        version(fine);
        let r = h.run(&["role", "mine"]);
        assert_eq!((r.code, r.err.as_str()), (0, ""), "{fine}");
    }
}

#[test]
fn view_of_a_resource_of_others_says_so() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    let r = h.run(&["view", "theirs"]);
    assert_eq!(r.code, 0, "{r:?}");
    let words = ["alpha is not member", "theirs", "NotJoined", "beta"];
    assert!(words.iter().all(|w| r.err.contains(w)), "{r:?}");
    assert!(!h.run(&["view", "mine"]).err.contains("NotJoined"));
}
