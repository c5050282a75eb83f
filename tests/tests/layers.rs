//! The arrows between the crates of the workspace point downwards only (ARCHITECTURE.md).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use serde_json::Value;
use std::process::Command;

/// Lower number = lower room of the house. A crate may use only crates with a smaller number.
fn level(name: &str) -> u32 {
    match name {
        "mars-live" => 0,
        "mars-tree" => 1,
        "mars-log" => 2,
        "mars-policy" | "mars-net" | "mars-disk" => 3,
        "mars-units" | "mars-macro" | "mars-front" | "mars-daemon" | "mars-bus" => 4,
        "mars-facts" => 5,
        "marsadm" | "mars-logger" | "mars-fetch" | "mars-replay" | "mars-sync" | "mars-meta"
        | "mars-status" => 6,
        "mars-faults" | "mars-gen" => 7,
        "mars-tests" | "mars-cluster" => 8,
        other => panic!(
            "crate {other} has no place in the house: add it to this test and to ARCHITECTURE.md"
        ),
    }
}

fn upward_arrows(metadata: &Value) -> Vec<String> {
    let packages = metadata["packages"].as_array().expect("packages");
    let ours: Vec<&str> = packages.iter().filter_map(|p| p["name"].as_str()).collect();
    assert!(ours.len() >= 16, "the workspace shrank: {ours:?}");
    let mut bad = Vec::new();
    for p in packages {
        let from = p["name"].as_str().expect("name");
        for d in p["dependencies"].as_array().expect("dependencies") {
            let to = d["name"].as_str().expect("name");
            if ours.contains(&to) && level(to) >= level(from) {
                bad.push(format!("{from} -> {to}"));
            }
        }
    }
    bad
}

fn metadata() -> Value {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
    let out = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(root)
        .output()
        .expect("cargo metadata");
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
    serde_json::from_slice(&out.stdout).expect("JSON")
}

#[test]
fn layers_point_downwards() {
    assert_eq!(upward_arrows(&metadata()), Vec::<String>::new());
}

/// Whatever can make a disk fail on purpose stays out of the shipped programs.
#[test]
fn layers_shipped_programs_have_no_fault_layer() {
    let m = metadata();
    let users: Vec<&str> = m["packages"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|p| {
            let deps = p["dependencies"].as_array().unwrap();
            deps.iter().any(|d| d["name"] == "mars-faults")
        })
        .filter_map(|p| p["name"].as_str())
        .filter(|n| *n != "mars-tests")
        .collect();
    assert_eq!(users, Vec::<&str>::new());
}

#[test]
fn layers_upward_arrow_is_found() {
    let mut m = metadata();
    let tree = m["packages"]
        .as_array_mut()
        .unwrap()
        .iter_mut()
        .find(|p| p["name"] == "mars-tree")
        .unwrap();
    tree["dependencies"]
        .as_array_mut()
        .unwrap()
        .push(serde_json::json!({"name": "mars-log"}));
    assert_eq!(upward_arrows(&m), ["mars-tree -> mars-log"]);
}
