//! Help from outside: what is printed where, and with which status.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::Host;

/// As with git: the commands one needs appear on standard output. The status is 2, because a script whose command is an empty
/// variable has done nothing and must notice.
#[test]
fn help_marsadm_alone_shows_the_first_ten() {
    let dir = tempfile::tempdir().unwrap();
    let h = Host::new(dir.path(), "alpha");
    let before = h.everything();
    let r = h.run(&[]);
    assert_eq!((r.code, r.err.as_str()), (2, ""), "{r:?}");
    let commands = r.out.lines().filter(|l| l.starts_with("  ")).count();
    assert_eq!(commands, 10, "{}", r.out);
    for w in ["create-cluster", "join-resource", "primary", "view", "help"] {
        assert!(r.out.contains(&format!("\n  {w} ")), "{w}: {}", r.out);
    }
    assert_eq!(h.ok(&["help", "first"]), r.out);
    assert_eq!(h.everything(), before);
}

#[test]
fn help_needs_no_tree_and_takes_all_forms() {
    let dir = tempfile::tempdir().unwrap();
    let h = Host::new(dir.path(), "alpha");
    std::fs::remove_dir(&h.env.root).unwrap();
    let full = h.ok(&["help"]);
    for form in [&["--help"][..], &["-h"], &["h"]] {
        assert_eq!(h.ok(form), full, "{form:?}");
    }
    for title in [
        "\nCluster:\n",
        "\nSwitches:\n",
        "\nLog files:\n",
        "\nTopics",
        "--timeout",
        "Exit status",
    ] {
        assert!(full.contains(title), "{title}: {full}");
    }
    let one = h.ok(&["help", "primary"]);
    for form in [
        &["primary", "--help"][..],
        &["primary", "data", "-h"],
        &["--help", "primary", "data"],
        &["force-primary", "--help"],
        &["help", "force-primary"],
    ] {
        assert_eq!(h.ok(form), one, "{form:?}");
    }
    for part in [
        "What it does",
        "Needs",
        "--force",
        "--ignore-sync",
        "Waits",
        "Exit status",
        "Example",
        "Next",
    ] {
        assert!(one.contains(&format!("\n{part}\n")), "{part}: {one}");
    }
    assert_eq!(h.ok(&["help", "view-role"]), h.ok(&["help", "view"]));
    assert!(h.ok(&["help", "states"]).contains("PrimaryUnreachable"));
    assert!(h.ok(&["help", "Orphan"]).contains("marsadm invalidate"));
    assert!(h.ok(&["help", "OutDated[FR]"]).contains("replayed"));
    assert!(h.ok(&["help", "options"]).contains("--ip"));
    for c in marsadm::commands() {
        assert!(
            h.ok(&["help", c.name]).contains("What it does"),
            "{}",
            c.name
        );
    }
}

#[test]
fn help_of_what_is_unknown_is_one_line_with_the_nearest() {
    let dir = tempfile::tempdir().unwrap();
    let h = Host::new(dir.path(), "alpha");
    let long = "x".repeat(5000);
    for (args, words) in [
        (&["help", "primry"][..], &["primry", "help primary?"][..]),
        (&["primry", "--help"], &["primry", "help primary?"]),
        (&["help", "Orfan"], &["Orfan", "help Orphan?"]),
        (&["help", "a\nb\u{1b}"], &["a\\nb", "marsadm help states"]),
        (&["help", ".."], &["..", "marsadm help"]),
        (&["help", &long], &["xxx", "marsadm help"]),
        (&["help", "primary", "more"], &["surplus", "more"]),
        (&["primry", "data"], &["primry", "did you mean primary?"]),
    ] {
        let r = h.run(args);
        assert_eq!((r.code, r.out.as_str()), (2, ""), "{args:?}: {r:?}");
        assert_eq!(r.err.lines().count(), 1, "{r:?}");
        assert!(r.err.len() < 400, "{r:?}");
        for w in words {
            assert!(r.err.contains(w), "{:?} does not name {w}", r.err);
        }
    }
}
