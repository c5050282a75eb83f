//! A tree with garbage in every key, on disk: `view` answers, in lines of text, and names each damaged path once.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
#[path = "../../../lib/mars-macro/src/tests/keys.rs"]
mod keys;
#[path = "../../../lib/mars-macro/src/tests/schema_check.rs"]
mod schema_check;

use common::Host;
use mars_macro::{predefined_names, primitive_names};
use mars_tree::Value;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

fn is_clean(text: &str) -> bool {
    text.chars().all(|c| c == '\n' || !c.is_control())
}

/// A host with this value in each key that `wanted` takes; the address links stay whole, so that there are hosts.
fn host(dir: &Path, name: &str, value: impl Fn(usize) -> Vec<u8>) -> Host {
    let h = Host::new(dir, name);
    for (i, key) in keys::all().iter().enumerate() {
        let path = h.env.root.join(key);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let value = value(i);
        // The kernel takes no empty target.
        let value: &[u8] = if key.starts_with("ips/") {
            b"127.44.0.1"
        } else if value.is_empty() || value.contains(&0) {
            b"?"
        } else {
            &value
        };
        symlink(OsStr::from_bytes(value), &path).unwrap();
    }
    h
}

/// Looks in every way; everything ends well, and what is said is text.
fn look(h: &Host, one_by_one: bool) -> String {
    let before = h.everything();
    let r = h.run(&["view", "all"]);
    assert_eq!(r.code, 0, "{r:?}");
    assert!(is_clean(&r.out) && is_clean(&r.err), "{r:?}");
    let warnings = r.err;
    let schema: serde_json::Value =
        serde_json::from_str(include_str!("../../../docs/view.schema.json")).unwrap();
    let json = h.run(&["view", "all", "--json"]);
    assert_eq!(json.code, 0, "{json:?}");
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(schema_check::check(&schema, &schema, &json, "$"), Ok(()));
    // What the warnings name stands in the document, too.
    for link in json["damaged_links"].as_array().unwrap() {
        let path = link["path"].as_str().unwrap();
        let full = h.env.root.join(path).display().to_string();
        let told = warnings
            .lines()
            .filter(|l| l.starts_with(&format!("WARNING: {full} is damaged")))
            .count();
        assert_eq!(told, 1, "{full}: {warnings}");
    }
    let args = |name: &str| match name {
        "does" | "todo" => "attach",
        "get-msg" => "err-replay-stop",
        _ => "",
    };
    let names = primitive_names().into_iter().chain(predefined_names());
    let names: Vec<&str> = names.collect();
    let calls: Vec<String> = names
        .iter()
        .map(|n| format!("%{n}{{{}}}", args(n)))
        .collect();
    let r = h.run(&["view", "lv0", &format!("--macro={}", calls.join("\\n"))]);
    assert_eq!(r.code, 0, "{r:?}");
    assert!(is_clean(&r.out) && is_clean(&r.err), "{r:?}");
    if one_by_one {
        for name in names {
            let view = format!("view-{name}");
            let words = [view.as_str(), "lv0", args(name)];
            let words: Vec<&str> = words.into_iter().filter(|w| !w.is_empty()).collect();
            let r = h.run(&words);
            assert_eq!(r.code, 0, "{view}: {r:?}");
            assert!(is_clean(&r.out) && is_clean(&r.err), "{view}: {r:?}");
        }
    }
    assert_eq!(before, h.everything());
    warnings
}

#[test]
fn garbage_in_every_key_on_disk() {
    let dir = tempfile::tempdir().unwrap();
    let garbage = keys::garbage();
    for (n, value) in garbage.iter().enumerate() {
        let place = dir.path().join(n.to_string());
        fs::create_dir(&place).unwrap();
        let h = host(&place, "hostA", |_| value.clone());
        look(&h, false);
    }
    // A different one in each.
    for shift in 0..8 {
        let place = dir.path().join(format!("mixed{shift}"));
        fs::create_dir(&place).unwrap();
        let h = host(&place, "hostB", |i| {
            garbage[(i * 7 + shift * 5) % garbage.len()].clone()
        });
        look(&h, false);
    }
}

#[test]
fn each_damaged_link_is_named_once() {
    let dir = tempfile::tempdir().unwrap();
    let value = b"\x1b[31mwrong\n".to_vec();
    let h = host(dir.path(), "hostA", |_| value.clone());
    let warnings = look(&h, true);
    let mut named = 0;
    for key in keys::all().iter().filter(|k| !k.starts_with("ips/")) {
        let line = format!(
            "WARNING: {} is damaged and ignored: \"\\u{{1b}}[31mwrong\\n\"",
            h.env.root.join(key).display()
        );
        let told = warnings.lines().filter(|l| **l == line).count();
        // Names of hosts to prefer are free text, and so are reserved switches.
        let is_free = key.contains("/todo-") && key.ends_with("/exports");
        assert_eq!(told, usize::from(!is_free), "{key}: {warnings}");
        named += told;
    }
    assert!(named > 200);
    assert!(Value::new(value).is_ok());
}

#[test]
fn other_things_than_links_are_named_with_their_path() {
    let dir = tempfile::tempdir().unwrap();
    let h = host(dir.path(), "hostA", |_| b"1".to_vec());
    let put = |key: &str| {
        let path = h.env.root.join(key);
        let _ = fs::remove_file(&path);
        path
    };
    fs::create_dir_all(put("resource-lv0/size").join("deeper")).unwrap();
    fs::write(put("actual-hostA/time"), "1700090003.123456789").unwrap();
    nix::unistd::mkfifo(
        &put("resource-lv0/primary"),
        nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR,
    )
    .unwrap();
    fs::create_dir(put("resource-lv0/log-000000001-hostA")).unwrap();
    symlink("elsewhere", put("resource-lv0/log-000000002-hostA")).unwrap();
    fs::create_dir(put("resource-lv0/data-hostB")).unwrap();
    // These may be files.
    fs::write(put("resource-lv0/data-hostA"), "a disk").unwrap();
    fs::write(put("resource-lv0/systemd-trigger"), "1.0\n").unwrap();
    fs::write(put("userspace/systemd-trigger"), "1.0\n").unwrap_or_default();
    fs::write(put("resource-lv0/3.error.status"), "ERROR \x1b[2J\n").unwrap();
    let warnings = look(&h, false);
    let told = |key: &str, what: &str| {
        let line = format!(
            "WARNING: {} is damaged and ignored: \"{what}\"",
            h.env.root.join(key).display()
        );
        warnings.lines().filter(|l| **l == line).count()
    };
    for (key, what) in [
        ("resource-lv0/size", "(a directory)"),
        ("actual-hostA/time", "(a file)"),
        ("resource-lv0/primary", "(a special file)"),
        ("resource-lv0/log-000000001-hostA", "(a directory)"),
        ("resource-lv0/log-000000002-hostA", "elsewhere"),
        ("resource-lv0/data-hostB", "(a directory)"),
    ] {
        assert_eq!(told(key, what), 1, "{key}: {warnings}");
    }
    for key in [
        "resource-lv0/data-hostA",
        "resource-lv0/systemd-trigger",
        "userspace/systemd-trigger",
        "resource-lv0/3.error.status",
        "resource-lv0",
        "resource-lv0/actual-hostA",
    ] {
        assert!(
            !warnings.contains(&format!("{} is", h.env.root.join(key).display())),
            "{key}"
        );
    }
    assert_eq!(h.ok(&["view-resource-size", "lv0"]), "");
    assert_eq!(h.ok(&["view-get-primary", "lv0"]), "");
    assert_eq!(h.ok(&["view-alive-timestamp", "lv0"]), "-1\n");
    // Texts of the files are shown, without what a terminal would obey.
    let r = h.run(&["view-get-resource-err", "lv0"]);
    assert_eq!(r.out, "ERROR ?[2J\n");
    // Nothing hangs on the pipe, and commands see no value there, either.
    let r = h.run(&["pause-sync", "lv0"]);
    assert!(r.code != 0 && is_clean(&r.err), "{r:?}");
}
