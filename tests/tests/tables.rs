//! `tests/spec/commands.tsv` lists every command, since when it exists (`manual`: the user manual of 0.1a, `newer`: the newer tool, `ours`) and a test
//! that uses it. Compared with the table of the program in both directions, and with the tests.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    fs::read_to_string(top().join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

/// What is wrong with a reference `FILE::FUNCTION` to a test of `name`.
fn wrong_reference(
    name: &str,
    reference: &str,
    read: &dyn Fn(&str) -> Option<String>,
) -> Option<String> {
    let Some((file, function)) = reference.split_once("::") else {
        return Some(format!("{reference} is not FILE::FUNCTION"));
    };
    let Some(mut text) = read(file) else {
        return Some(format!("{file} does not exist"));
    };
    let found = text
        .match_indices(&format!("fn {function}("))
        .any(|(at, _)| {
            let before = text.get(..at).unwrap_or_default().trim_end();
            before.ends_with("#[test]")
        });
    if !found {
        return Some(format!("{file} has no test {function}"));
    }
    if file.ends_with("cluster/tests/manual.rs") {
        // What it runs stands in the manual.
        for chapter in [
            "set-up",
            "operation",
            "monitoring",
            "coming-from-drbd",
            "midnight",
            "coming-from-mars-0.1a",
        ] {
            let chapter = read(&format!("docs/manual/{chapter}.md")).unwrap_or_default();
            text.extend(
                chapter
                    .split("```sh ")
                    .skip(1)
                    .filter_map(|b| b.split("```").next()),
            );
        }
    }
    // As a word of its own.
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let used = |name: &str| {
        text.match_indices(name).any(|(at, _)| {
            let before = text.get(..at).unwrap_or_default().chars().next_back();
            let after = text
                .get(at + name.len()..)
                .unwrap_or_default()
                .chars()
                .next();
            !before.is_some_and(inside) && !after.is_some_and(inside)
        })
    };
    // A test may build the forms of a switch: `pause-sync` and `"-local"`.
    let built = ["-local", "-global"].iter().any(|form| {
        name.strip_suffix(form)
            .is_some_and(|word| used(word) && text.contains(&format!("\"{form}\"")))
    });
    let used = used(name) || built;
    (!used).then(|| format!("{file} does not speak of {name}"))
}

fn rows(text: &str) -> BTreeMap<String, (String, String)> {
    let mut rows = BTreeMap::new();
    for line in text
        .lines()
        .filter(|l| !l.is_empty() && !l.starts_with('#'))
    {
        let cells: Vec<&str> = line.split('\t').collect();
        let [name, since, test] = cells[..] else {
            panic!("commands.tsv: {line:?} has not three columns");
        };
        assert!(
            ["manual", "newer", "ours"].contains(&since),
            "commands.tsv: {line:?}"
        );
        let before = rows.insert(name.to_string(), (since.to_string(), test.to_string()));
        assert!(before.is_none(), "commands.tsv: {name} stands there twice");
    }
    rows
}

#[test]
fn tables_of_commands_agree() {
    let rows = rows(&read("tests/spec/commands.tsv"));
    let listed: BTreeSet<&str> = rows.keys().map(String::as_str).collect();
    let known: BTreeSet<&str> = marsadm::commands().map(|c| c.name).collect();
    let missing: Vec<_> = known.difference(&listed).collect();
    assert!(missing.is_empty(), "commands.tsv lacks {missing:?}");
    let gone: Vec<_> = listed.difference(&known).collect();
    assert!(gone.is_empty(), "marsadm has no {gone:?}");
    let open = |p: &str| fs::read_to_string(top().join(p)).ok();
    let wrong: Vec<String> = rows
        .iter()
        .filter_map(|(name, (_, test))| {
            Some(format!("{name}: {}", wrong_reference(name, test, &open)?))
        })
        .collect();
    assert!(wrong.is_empty(), "commands.tsv:\n{}", wrong.join("\n"));
}

#[test]
fn tables_wrong_references_are_found() {
    let open = |p: &str| {
        (p == "t.rs")
            .then(|| "#[test]\nfn one() { run(\"pause-sync\") }\nfn two() {}\n".to_string())
    };
    let wrong = |name: &str, r: &str| wrong_reference(name, r, &open);
    assert_eq!(wrong("pause-sync", "t.rs::one"), None);
    assert!(
        wrong("pause", "t.rs::one")
            .unwrap()
            .contains("speak of pause")
    );
    assert!(wrong("sync", "t.rs::one").is_some());
    assert!(
        wrong("pause-sync", "t.rs::two")
            .unwrap()
            .contains("no test two")
    );
    assert!(
        wrong("pause-sync", "u.rs::one")
            .unwrap()
            .contains("does not exist")
    );
    assert!(wrong("pause-sync", "t.rs").is_some());
}
