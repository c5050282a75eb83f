//! Commands that look, links by path, and the words of DRBD (marsadm-commands.md sections 7, 9, 11, 12).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::Host;
use mars_tree::{Batch, Key, Stamp};
use std::fs;

/// alpha: primary of `mine`, secondary of `theirs` (beta is primary).
fn cluster(dir: &std::path::Path) -> Host {
    let h = Host::new(dir, "alpha");
    h.ok(&["stop"]);
    for program in ["mars-meta", "mars-fetch", "mars-sync", "mars-logger"] {
        h.stand_in(program, "exit 0");
    }
    h.ok(&["create-cluster", "--ip=127.43.4.2"]);
    h.ok(&["stop"]);
    h.ok(&["create-resource", "mine", &h.disk("mine", 1 << 20)]);
    let disk = h.disk("theirs", 1 << 20);
    set(
        &h,
        &[
            ("ips/ip-beta", "127.43.4.3"),
            ("resource-theirs/size", "1048576"),
            ("resource-theirs/primary", "beta"),
            ("resource-theirs/data-alpha", &disk),
            ("resource-theirs/data-beta", "/dev/x"),
            ("resource-theirs/device-alpha", "theirs"),
            ("resource-theirs/syncstatus-alpha", "1048576"),
            ("resource-theirs/replay-alpha", "log-000000001-beta,0,0"),
            ("resource-theirs/replay-beta", "log-000000001-beta,0,0"),
            ("resource-theirs/todo-alpha/attach", "1"),
            ("resource-theirs/actual-alpha/is-primary", "0"),
        ],
    );
    h
}

fn set(h: &Host, links: &[(&str, &str)]) {
    let mut b = Batch::new();
    for (path, value) in links {
        b.set(Key::parse(path), *value);
    }
    h.tree().commit(&b).unwrap();
}

/// Refused: this status, these words, no link changed.
fn refused(h: &Host, args: &[&str], code: i32, words: &[&str]) {
    let before = h.everything();
    let r = h.run(args);
    assert_eq!(r.code, code, "{args:?}: {r:?}");
    let last: Vec<&str> = r.err.lines().filter(|l| l.starts_with("DYING")).collect();
    assert_eq!(last.len(), 1, "{args:?}: {r:?}");
    for w in words {
        assert!(last[0].contains(w), "{args:?}: {w}: {r:?}");
    }
    assert_eq!(h.everything(), before, "{args:?}");
}

#[test]
fn show_prints_the_lines_that_old_scripts_look_for() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    set(
        &h,
        &[
            ("resource-mine/actual-alpha/is-primary", "1"),
            ("actual-alpha/alive", "1"),
            ("actual-alpha/emergency", "0"),
            ("actual-alpha/rest-space", "83"),
        ],
    );
    let out = h.ok(&["show", "mine"]);
    for line in [
        "ips/ip-alpha=127.43.4.2",
        "alive-alpha=1",
        "emergency-alpha=0",
        "rest-space-alpha=83",
        "device-alpha=mine",
        "primary=alpha",
        "size=1048576",
        "syncstatus-alpha=1048576",
        "replay-alpha=log-000000001-alpha,0,0",
        "actual-alpha/is-primary=1",
        "todo-alpha/attach=1",
    ] {
        assert!(out.lines().any(|l| l == line), "{line}: {out}");
    }
    assert!(!out.contains("beta") && !out.contains("version-"), "{out}");
    // Without a resource: all of this host.
    let all = h.ok(&["show"]);
    assert!(
        all.contains("resource mine") && all.contains("resource theirs"),
        "{all}"
    );
    assert_eq!(all.matches("rest-space").count(), 1, "{all}");
}

#[test]
fn show_state_knows_every_word() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    let is = |res: &str, line: &str| {
        for word in ["show-state", "mars-state"] {
            assert_eq!(h.ok(&[word, res]), format!("{line}\n"));
        }
    };
    is("mine", "becoming_primary");
    set(&h, &[("resource-mine/actual-alpha/is-primary", "1")]);
    is("mine", "is_primary");
    is("theirs", "secondary uptodate");
    set(
        &h,
        &[("resource-theirs/replay-beta", "log-000000001-beta,512,0")],
    );
    is(
        "theirs",
        "secondary outdated (log-000000001-beta,0,0 instead of log-000000001-beta,512,0)",
    );
    set(&h, &[("resource-theirs/syncstatus-alpha", "4096")]);
    is("theirs", "secondary inconsistent (4096 bytes of 1048576)");
    set(
        &h,
        &[
            ("resource-theirs/syncstatus-alpha", "1048576"),
            ("resource-theirs/primary", "(none)"),
        ],
    );
    is("theirs", "secondary");
    // role and state
    assert_eq!(h.ok(&["role", "mine"]), "I am actually primary\n");
    assert_eq!(h.ok(&["state", "theirs"]), "I am actually secondary\n");
    set(&h, &[("resource-theirs/primary", "beta")]);
    assert_eq!(
        h.ok(&["role", "theirs"]),
        "I am actually secondary and beta should be primary\n"
    );
}

#[test]
fn show_errors_says_what_is_wrong_by_text_and_status() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    let out = h.ok(&["show-errors", "mine"]);
    assert!(out.contains("mine: no errors"), "{out}");
    set(
        &h,
        &[
            ("resource-mine/actual-alpha/disk-error", "-5"),
            ("resource-mine/actual-alpha/msg-wrn-x", "OK"),
            (
                "resource-mine/actual-alpha/msg-err-y",
                "1700000000.123456789 1700000000.123456789 bad",
            ),
        ],
    );
    fs::write(
        h.env.root.join("resource-mine/logstatus-alpha.status"),
        "fine\n1700000000.000000000 ERROR status=-28\n",
    )
    .unwrap();
    let r = h.run(&["show-errors", "mine"]);
    assert_eq!(r.code, 1, "{r:?}");
    let lines: Vec<&str> = r.out.lines().collect();
    assert_eq!(lines.len(), 3, "{r:?}");
    assert!(
        lines[0].contains("disk-error") && lines[0].contains("EIO"),
        "{r:?}"
    );
    assert_eq!(
        lines[1],
        "msg-err-y: 2023-11-14 22:13:20.123456789Z 2023-11-14 22:13:20.123456789Z bad"
    );
    assert!(lines[2].contains("-28 (ENOSPC: "), "{r:?}");
    assert!(
        r.err.contains("3 errors") && r.err.contains("mine"),
        "{r:?}"
    );
    for word in ["show-info", "mars-info"] {
        let out = h.ok(&[word, "mine"]);
        assert!(
            out.starts_with("fine\n2023-11-14 22:13:20.000000000Z ERROR"),
            "{out}"
        );
    }
    let out = h.ok(&["show-info", "theirs"]);
    assert!(
        out.contains("logstatus-alpha.status") && out.contains("journalctl"),
        "{out}"
    );
}

#[test]
fn cat_makes_files_readable_without_a_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let h = Host::new(dir.path(), "alpha");
    let file = h.dir.join("5.total.log");
    fs::write(&file, "at 951782400.000000001 code -5\nlast").unwrap();
    let path = file.display().to_string();
    let expected = "at 2000-02-29 00:00:00.000000001Z code -5 (EIO: Input/output error)\nlast\n";
    assert_eq!(h.ok(&["cat", &path]), expected);
    assert_eq!(h.ok(&["cat", &path, &path]), expected.repeat(2));
    let r = h.run(&["cat", "/no/such", &path]);
    assert_eq!((r.code, r.out.as_str()), (1, expected));
    assert!(r.err.contains("/no/such"), "{r:?}");
    refused(&h, &["cat"], 2, &["missing"]);
    refused(&h, &["cat", "/"], 1, &["regular file"]);
    refused(&h, &["cat", "a\nb"], 1, &["a\\nb"]);
    let binary = h.dir.join("binary");
    fs::write(&binary, "a\0b").unwrap();
    refused(&h, &["cat", binary.to_str().unwrap()], 1, &["text"]);
}

#[test]
fn words_for_macros_run_the_macros() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    for (word, macro_word) in [
        ("cstate", "view-cstate"),
        ("dstate", "view-dstate"),
        ("status", "view-status"),
    ] {
        let out = h.ok(&[word, "mine"]);
        assert!(!out.is_empty());
        assert_eq!(out, h.ok(&[macro_word, "mine"]));
        let all = h.ok(&[word, "all"]);
        assert!(all.contains("--------- resource mine"), "{all}");
        refused(&h, &[word], 2, &["missing", word]);
        refused(&h, &[word, "mine", "x"], 2, &["surplus", "x"]);
        refused(&h, &[word, "nowhere"], 1, &["nowhere"]);
    }
}

#[test]
fn links_by_path_are_set_read_and_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    let at = |p: &str| h.env.root.join(p).display().to_string();
    let (note, other) = (at("userspace/note-alpha"), at("resource-mine/userspace/x"));
    h.ok(&["set-link", "two words/and,more", &note, &other]);
    assert_eq!(
        h.ok(&["get-link", &note, &other]),
        "two words/and,more\ntwo words/and,more\n"
    );
    refused(&h, &["set-link", "--dry-run", "", &note], 1, &["value"]);
    let before = h.everything();
    let out = h.ok(&["set-link", "z", &note, "--dry-run"]);
    assert!(out.contains("set userspace/note-alpha -> z"), "{out}");
    assert_eq!(h.everything(), before);
    h.ok(&["delete-file", &note]);
    let link = h.tree().read(&Key::parse("userspace/note-alpha")).unwrap();
    assert!(link.unwrap().value.is_deleted());
    refused(&h, &["get-link", &note], 1, &["note-alpha"]);
    refused(&h, &["delete-file", &note], 1, &["note-alpha"]);
    // Elsewhere only with --force, and never what would be damaged.
    let size = at("resource-mine/size");
    for args in [&["set-link", "2097152", &size][..], &["delete-file", &size]] {
        refused(&h, args, 1, &["userspace/", "--force"]);
    }
    refused(
        &h,
        &["--force", "set-link", "big", &size],
        1,
        &["big", "form"],
    );
    h.ok(&["force-set-link", "2097152", &size]);
    assert_eq!(h.ok(&["get-link", &size]), "2097152\n");
    h.ok(&["force-delete-file", &size]);
    refused(&h, &["get-link", &size], 1, &["size"]);
    let long = format!("/{}", "x".repeat(5000));
    for path in [
        "userspace/x",
        "/etc/passwd",
        &at("userspace/../uuid"),
        &at("userspace//x"),
        &at("userspace/./x"),
        &at("userspace/.hidden"),
        &at("userspace/x/"),
        &at("userspace/a\nb"),
        &at("userspace/a/b/c/d"),
        &at("userspace/nodir/x"),
        &at(""),
        &long,
    ] {
        refused(&h, &["set-link", "v", path], 1, &[]);
        refused(&h, &["delete-file", path], 1, &[]);
        refused(&h, &["get-link", path], 1, &[]);
    }
    refused(
        &h,
        &["--force", "set-link", "v", &at("userspace")],
        1,
        &["directory"],
    );
    refused(&h, &["set-link", "a\nb", &note], 1, &["value"]);
    refused(&h, &["set-link", ".deleted", &note], 1, &["delete-file"]);
    refused(&h, &["set-link", &"x".repeat(5000), &note], 1, &["1023"]);
    // Log files: tombstones, for all hosts; a link in their place never.
    let log = at("resource-mine/log-000000001-alpha");
    refused(&h, &["--force", "set-link", "v", &log], 1, &["file"]);
    refused(&h, &["delete-file", &log], 1, &["userspace/"]);
    refused(&h, &["get-link", &log], 1, &["cat"]);
    h.ok(&["force-delete-file", &log]);
    assert!(fs::symlink_metadata(&log).unwrap().is_symlink());
}

#[test]
fn words_of_drbd_do_nothing_or_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    let before = h.everything();
    for word in [
        "adjust",
        "syncer",
        "get-gi",
        "show-gi",
        "outdate",
        "hidden-commands",
        "check-resize",
    ] {
        let out = h.ok(&[word, "mine"]);
        assert!(
            out.contains(&format!("ignoring command {word} on resource \"mine\"")),
            "{out}"
        );
    }
    for word in ["create-md", "dump-md", "dump", "new-current-uuid"] {
        let out = h.ok(&[word, "mine"]);
        assert!(out.contains("makes no sense with MARS"), "{out}");
        h.ok(&[word]);
    }
    assert_eq!(h.everything(), before);
    refused(
        &h,
        &["invalidate-remote", "mine"],
        1,
        &["several secondaries", "--host"],
    );
    refused(&h, &["verify", "mine"], 1, &["races", "invalidate"]);
    // The other names of log-delete.
    for word in [
        "log-delete",
        "log-delete-all",
        "log-delete-one",
        "log-delete-all-replayed",
    ] {
        assert_eq!(h.ok(&[word, "mine"]), "");
    }
}

#[test]
fn waits_end_by_state_or_by_time() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    set(
        &h,
        &[
            ("resource-mine/actual-alpha/is-primary", "1"),
            ("resource-mine/actual-alpha/is-attached", "1"),
        ],
    );
    for met in [
        "attach",
        "attach-on",
        "attach-1",
        "todo-attach",
        "is-attach-on",
        "has-attach-1",
        "connect",
        "fetch",
        "is-connect-off",
        "is-fetch-0",
        "primary",
        "is-primary",
        "secondary-off",
        "is-secondary-0",
        "device-off",
        "is-device-off",
        "replay",
        "todo-replay-1",
        "sync",
        "is-sync-off",
    ] {
        h.ok(&["wait-resource", "mine", met, "--timeout=0"]);
    }
    for unmet in [
        "attach-off",
        "is-attach-0",
        "is-secondary",
        "device",
        "primary-off",
        "is-replay",
        "todo-sync-0",
    ] {
        refused(
            &h,
            &["wait-resource", "mine", unmet, "--timeout=0"],
            3,
            &["mine", unmet],
        );
    }
    refused(&h, &["wait-resource", "mine", "is-blue"], 2, &["is-blue"]);
    refused(
        &h,
        &["wait-resource", "mine", "is-blue-on"],
        2,
        &["is-blue-on"],
    );
    // The device of the designated primary counts, wherever it is.
    h.ok(&["wait-umount", "mine", "--timeout=0"]);
    h.ok(&["wait-umount", "theirs", "--timeout=0"]);
    set(&h, &[("resource-theirs/actual-beta/open-count", "2")]);
    refused(
        &h,
        &["wait-umount", "theirs", "--timeout=0"],
        3,
        &["beta", "2 times"],
    );
    // All hosts of a resource that only this one has; one that nobody can be asked about.
    h.ok(&["wait-cluster", "mine", "--timeout=0"]);
    refused(
        &h,
        &["wait-connect", "theirs"],
        1,
        &["mars-meta is not running"],
    );
    // A member whose host has left the cluster cannot be asked, unless somebody insists.
    let mut b = Batch::new();
    b.delete(Key::parse("ips/ip-beta"));
    h.tree().commit(&b).unwrap();
    h.ok(&["wait-cluster", "theirs", "--timeout=0"]);
    refused(
        &h,
        &["wait-cluster", "theirs", "--ignore-deleted-peers=0"],
        1,
        &["mars-meta is not running"],
    );
}

#[test]
fn hanging_work_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    fs::write(
        h.env.root.join("resource-theirs/log-000000001-beta"),
        [0; 512],
    )
    .unwrap();
    set(&h, &[("resource-theirs/todo-alpha/allow-replay", "1")]);
    // Its last progress was 100 seconds ago.
    let replay = Key::parse("resource-theirs/replay-alpha");
    fs::remove_file(h.tree().path(&replay)).unwrap();
    let ago = h.tree().clock().now().as_nanos() - 100_000_000_000;
    let mut b = Batch::new();
    b.set_stamped(replay, "log-000000001-beta,0,0", Stamp::from_nanos(ago));
    h.tree().commit(&b).unwrap();
    let _engine = h.pretend_engine();
    let warned = |args: &[&str]| {
        let r = h.run(args);
        assert_eq!(r.code, 0, "{r:?}");
        r.err.contains("replay of resource theirs")
    };
    for command in ["view-replay-line", "resume-sync"] {
        assert!(!warned(&[command, "theirs"]));
        assert!(!warned(&[command, "theirs", "--stuck-seconds=1000"]));
        assert!(warned(&[command, "theirs", "--stuck-seconds=60"]));
    }
    // Switched off, it has nothing to do.
    set(&h, &[("resource-theirs/todo-alpha/allow-replay", "0")]);
    assert!(!warned(&["resume-sync", "theirs", "--stuck-seconds=60"]));
}
