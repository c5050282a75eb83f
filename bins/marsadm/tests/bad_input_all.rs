//! Misuse of every command of the table, also of those that are not listed: one line that names the value, shortened and escaped, status 1
//! or 2, and a tree that is the same byte for byte. What a single command refuses for reasons of its own stands in `bad_input.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::{Host, Ran};
use mars_tree::{Batch, Key, TodoSwitch};
use marsadm::CommandHelp;
use std::path::Path;

/// alpha with a resource `mine`, of which it is primary, and `both`, of which beta is.
fn cluster(dir: &Path) -> Host {
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
    h.ok(&["create-cluster", "--ip=127.47.0.2"]);
    h.ok(&["stop"]);
    let disk = h.disk("mine.img", 1 << 20);
    h.ok(&["create-resource", "mine", &disk]);
    let host = |n: &str| n.parse::<mars_tree::HostName>().unwrap();
    let res: mars_tree::ResName = "both".parse().unwrap();
    let mut b = Batch::new();
    b.set(Key::Ip(host("beta")), "127.47.0.3");
    b.set(Key::Size(res.clone()), 1 << 20);
    b.set(Key::Primary(res.clone()), "beta");
    for m in ["alpha", "beta"].map(host) {
        b.set(
            Key::Data(res.clone(), m.clone()),
            h.disk("both.img", 1 << 20),
        );
        b.set(Key::Device(res.clone(), m.clone()), "both");
        b.set(Key::SyncStatus(res.clone(), m.clone()), 1 << 20);
        b.set(
            Key::Replay(res.clone(), m.clone()),
            "log-000000001-beta,0,0",
        );
        b.set(Key::Todo(res.clone(), m, TodoSwitch::Attach), 1);
    }
    h.tree().commit(&b).unwrap();
    h
}

/// (value, what the message must contain of it).
fn bad_values() -> Vec<(String, &'static str)> {
    let mut all: Vec<(String, &str)> = vec![
        ("a b".into(), "a b"),
        ("..".into(), ".."),
        ("/".into(), "/"),
        ("../etc".into(), "../etc"),
        ("a/b".into(), "a/b"),
        ("a\nb".into(), "a\\nb"),
        ("\u{1b}[31mred".into(), "[31mred"),
        ("a\u{7}".into(), "a\\u{7}"),
        ("a\tb".into(), "a\\tb"),
        ("\u{202e}ab".into(), "ab"),
    ];
    all.push(("y".repeat(5000), "yyyyyyyyyyyyyyyy"));
    all
}

struct Misuse<'h> {
    h: &'h Host,
    wrong: Vec<String>,
    count: u32,
}

impl Misuse<'_> {
    /// Runs it; whatever is not as it must be is noted, so that one run shows everything.
    fn check(&mut self, args: &[&str], codes: &[i32], words: &[&str]) {
        self.count += 1;
        let shown: Vec<String> = args.iter().map(|a| a.chars().take(30).collect()).collect();
        let before = self.h.everything();
        let r = self.h.run(args);
        let mut bad = Vec::new();
        // A peer that does not answer, or an old name of a command, may be told of first.
        let lines: Vec<&str> = r
            .err
            .lines()
            .filter(|l| !l.starts_with("WARNING: host beta") && !l.contains(" is deprecated, "))
            .collect();
        if !codes.contains(&r.code) {
            bad.push(format!("status {}, not {codes:?}", r.code));
        }
        if lines.len() != 1 || !lines[0].starts_with("DYING: ") {
            bad.push("not one line".into());
        }
        if lines.iter().any(|l| l.contains(char::is_control)) || r.err.contains('\u{202e}') {
            bad.push("control characters".into());
        }
        if r.err.chars().count() > 500 {
            bad.push("too long".into());
        }
        bad.extend(
            words
                .iter()
                .filter(|w| !r.err.contains(**w))
                .map(|w| format!("does not name {w:?}")),
        );
        if self.h.everything() != before {
            bad.push("the tree has changed".into());
        }
        if !bad.is_empty() {
            let said: String = format!("{r:?}").chars().take(400).collect();
            self.wrong.push(format!("{shown:?}: {bad:?}: {said}"));
        }
    }

    fn end(self, least: u32) {
        assert!(self.count >= least, "only {} cases", self.count);
        assert!(self.wrong.is_empty(), "{}", self.wrong.join("\n"));
    }
}

/// Is its first word the name of a resource?
fn takes_resource(c: &CommandHelp) -> bool {
    let first = c.usage.split(' ').nth(1).unwrap_or_default();
    let first = first.trim_matches(['[', ']']);
    (first == "RES" || first.starts_with("RES|")) && c.name != "config"
}

/// Their text is a macro, or words of any kind are their business.
fn free(c: &CommandHelp) -> bool {
    matches!(c.name, "complete" | "version")
}

/// Something in place of the arguments behind the resource that is of the right kind.
fn filler(h: &Host, c: &CommandHelp) -> Vec<String> {
    let words: Vec<&str> = c.usage.split(' ').skip(1).collect();
    let args = &words[usize::from(takes_resource(c)).min(words.len())..];
    args.iter()
        .filter(|a| !a.starts_with('['))
        .map(|a| match *a {
            "START" => "x.service".into(),
            "DISK" => h.dir.join("fresh.img").display().to_string(),
            a if a.contains("HOST") => "beta".into(),
            "N" | "NUMBER" | "PERCENT" | "SIZE" => "7".into(),
            "IP" | "ADDRESS" => "127.47.0.9".into(),
            "PATH" | "PATH..." => h.env.root.join("userspace/x").display().to_string(),
            _ => "x".into(),
        })
        .collect()
}

fn strs(words: &[String]) -> Vec<&str> {
    words.iter().map(String::as_str).collect()
}

#[test]
fn bad_input_all_missing_and_surplus_arguments() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    let _engine = h.pretend_engine();
    let mut m = Misuse {
        h: &h,
        wrong: Vec::new(),
        count: 0,
    };
    for c in marsadm::commands() {
        if free(&c) || c.drbd == Some(true) {
            continue;
        }
        let fill = vec!["x"; 30];
        let start = if takes_resource(&c) {
            vec![c.name, "mine"]
        } else {
            vec![c.name]
        };
        // DRBD words that are refused are so in any form.
        if c.drbd.is_none() {
            for n in 0..c.words.0 {
                let line: Vec<&str> = start.iter().chain(&fill).take(1 + n).copied().collect();
                m.check(&line, &[2], &["missing", c.name]);
            }
        }
        let mut line: Vec<&str> = start
            .iter()
            .chain(&fill)
            .take(1 + c.words.1.min(25))
            .copied()
            .collect();
        line.push("superfluous");
        if c.words.1 < 25 {
            m.check(
                &line,
                &[2],
                &[
                    "superfluous",
                    if c.name == "config" {
                        "superfluous"
                    } else {
                        c.name
                    },
                ],
            );
        }
        m.check(&[c.name, "--frobnicate"], &[2], &["--frobnicate"]);
    }
    m.end(150);
}

#[test]
fn bad_input_all_names_of_resources() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    h.disk("fresh.img", 1 << 20);
    let _engine = h.pretend_engine();
    let mut m = Misuse {
        h: &h,
        wrong: Vec::new(),
        count: 0,
    };
    for c in marsadm::commands().filter(takes_resource) {
        if c.drbd == Some(true) {
            for (bad, _) in bad_values() {
                let before = h.everything();
                let r = h.run(&[c.name, &bad]);
                assert_eq!((r.code, r.err.as_str()), (0, ""), "{}: {r:?}", c.name);
                assert!(r.out.lines().count() == 1 && r.out.len() < 400, "{r:?}");
                assert_eq!(h.everything(), before);
            }
            continue;
        }
        let args = filler(&h, &c);
        let refused = c.drbd == Some(false);
        for (bad, word) in bad_values() {
            let line = [&[c.name, bad.as_str()][..], &strs(&args)].concat();
            m.check(
                &line,
                &[1, 2],
                if refused {
                    &[]
                } else {
                    std::slice::from_ref(&word)
                },
            );
        }
        if c.name != "create-resource" && !refused {
            m.check(
                &[&[c.name, "nowhere"][..], &strs(&args)].concat(),
                &[1, 2],
                &["nowhere"],
            );
        }
        if c.usage.contains("LIST") && !refused {
            m.check(
                &[&[c.name, "mine,nowhere"][..], &strs(&args)].concat(),
                &[1, 2],
                &["nowhere"],
            );
        }
    }
    for word in ["cstate", "dstate", "status"] {
        m.check(&[word, "mine", "superfluous"], &[2], &["superfluous", word]);
    }
    m.end(500);
}

#[test]
fn bad_input_all_values_of_arguments() {
    let dir = tempfile::tempdir().unwrap();
    let h = cluster(dir.path());
    h.disk("fresh.img", 1 << 20);
    let _engine = h.pretend_engine();
    let mut m = Misuse {
        h: &h,
        wrong: Vec::new(),
        count: 0,
    };
    for c in marsadm::commands() {
        let refused = c.drbd == Some(false);
        if free(&c) || refused || c.drbd == Some(true) || matches!(c.name, "view" | "config") {
            continue;
        }
        let res = if c.name == "create-resource" {
            "fresh"
        } else {
            "mine"
        };
        let start = if takes_resource(&c) {
            vec![c.name, res]
        } else {
            vec![c.name]
        };
        let fill = filler(&h, &c);
        for place in 0..c.words.1.saturating_sub(start.len() - 1).min(2) {
            for (bad, word) in bad_values() {
                // A value to be stored may be any text.
                if c.name == "set-link" && place == 0 {
                    continue;
                }
                // More of the same kind: each gets a line of its own, or the first wrong one is named.
                if matches!(c.name, "cat" | "get-link" | "delete-file" | "watch") && place > 0 {
                    continue;
                }
                let mut args = fill.clone();
                if args.len() <= place {
                    args.push(bad);
                } else {
                    args[place] = bad;
                }
                if args.len() <= place {
                    continue;
                }
                m.check(&[&start[..], &strs(&args)].concat(), &[1, 2], &[word]);
            }
        }
    }
    for (bad, word) in bad_values() {
        m.check(&["config", &bad], &[1, 2], &[word]);
        m.check(&["config", "show", &bad], &[1, 2], &[word]);
        m.check(&[&format!("view-{bad}"), "mine"], &[1, 2], &[]);
        m.check(&["help", &bad], &[2], &[word]);
    }
    m.end(100);
}

#[test]
fn bad_input_all_without_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let h = Host::new(dir.path(), "bare");
    let disk = h.disk("fresh.img", 1 << 20);
    let mut m = Misuse {
        h: &h,
        wrong: Vec::new(),
        count: 0,
    };
    for c in marsadm::commands().filter(|c| c.cluster) {
        let mut args = vec![c.name.to_string()];
        if takes_resource(&c) {
            args.push("mine".into());
        }
        args.extend(
            filler(&h, &c)
                .into_iter()
                .map(|a| if a.starts_with('/') { disk.clone() } else { a }),
        );
        m.check(&strs(&args), &[1], &["create-cluster", "join-cluster"]);
    }
    m.end(60);
    let r: Ran = h.run(&["view"]);
    assert_eq!(r.code, 0, "{r:?}");
}
