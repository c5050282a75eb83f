//! Everything that is linked into the programs may be combined with GPL-2.0-or-later (docs/dependencies.md).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

/// Compatible with version 2 of the GPL already. Apache-2.0 is not: it needs version 3.
const FINE: [&str; 13] = [
    "MIT",
    "MIT-0",
    "ISC",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "Zlib",
    "BSL-1.0",
    "CC0-1.0",
    "Unlicense",
    "Unicode-3.0",
    "0BSD",
    "LGPL-2.1-or-later",
    "GPL-2.0-or-later",
];

/// Behind a feature that can be left out: with it the programs as a whole are under version 3 of the GPL.
const VERSION_3: [&str; 1] = ["minijinja"];

/// One fine choice in every part that must be kept. Good enough for the expressions that occur: `AND` of choices in parentheses.
fn is_fine(expression: &str) -> bool {
    expression.split(" AND ").all(|part| {
        part.trim_matches(['(', ')'])
            .split(" OR ")
            .flat_map(|p| p.split('/'))
            .any(|l| FINE.contains(&l.trim()))
    })
}

fn text<'a>(v: &'a Value, key: &str) -> &'a str {
    v[key].as_str().unwrap_or("")
}

/// The resolved graph for this machine: crates for other systems are not downloaded by a build.
fn metadata() -> Value {
    let run = |program: &str, args: &[&str]| {
        let out = Command::new(program)
            .args(args)
            .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
            .output()
            .unwrap();
        let err = String::from_utf8_lossy(&out.stderr);
        assert!(out.status.success(), "{program}: {err}");
        String::from_utf8(out.stdout).unwrap()
    };
    let version = run("rustc", &["-vV"]);
    let host = version
        .lines()
        .find_map(|l| l.strip_prefix("host: "))
        .unwrap();
    let args = [
        "metadata",
        "--format-version=1",
        "--locked",
        "--filter-platform",
        host,
    ];
    serde_json::from_str(&run(env!("CARGO"), &args)).unwrap()
}

/// Ids of everything that the programs are made of.
fn linked(m: &Value) -> BTreeSet<String> {
    let nodes: BTreeMap<&str, &Value> = m["resolve"]["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|n| (text(n, "id"), n))
        .collect();
    let mut next: Vec<&str> = m["workspace_members"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .filter(|id| !id.contains("mars-tests"))
        .collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = next.pop() {
        if !seen.insert(id.to_string()) {
            continue;
        }
        for d in nodes[id]["deps"].as_array().unwrap() {
            let kinds = d["dep_kinds"].as_array().unwrap();
            if kinds.iter().any(|k| text(k, "kind") != "dev") {
                next.push(text(d, "pkg"));
            }
        }
    }
    seen
}

#[test]
fn licences_are_compatible() {
    let m = metadata();
    let linked = linked(&m);
    assert!(linked.len() > 50, "the graph shrank: {linked:?}");
    let bad: Vec<String> = m["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|p| linked.contains(text(p, "id")) && !is_fine(text(p, "license")))
        .filter(|p| !(VERSION_3.contains(&text(p, "name")) && text(p, "license") == "Apache-2.0"))
        .map(|p| format!("{}: {:?}", text(p, "name"), text(p, "license")))
        .collect();
    assert_eq!(bad, Vec::<String>::new());
}

#[test]
fn incompatible_expressions_are_found() {
    assert!(is_fine("MIT/Apache-2.0"));
    assert!(is_fine("(MIT OR Apache-2.0) AND Unicode-3.0"));
    for bad in [
        "",
        "Apache-2.0",
        "CDDL-1.0",
        "MIT AND Apache-2.0",
        "(MIT OR X) AND OpenSSL",
    ] {
        assert!(!is_fine(bad), "{bad}");
    }
}
