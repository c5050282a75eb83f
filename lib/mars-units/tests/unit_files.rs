//! The unit files say what systemd understands, and every unit that the policy knows has one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use mars_policy::Unit;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn units_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../units")
}

#[test]
fn unit_files_pass_systemd_analyze() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for entry in fs::read_dir(units_dir()).unwrap() {
        let entry = entry.unwrap();
        // Our programs are not installed here; everything else is checked as it stands.
        let text: String = fs::read_to_string(entry.path())
            .unwrap()
            .lines()
            .map(|l| match l.strip_prefix("ExecStart=") {
                Some(command) => {
                    assert!(command.starts_with("/usr/sbin/mars"), "{command}");
                    "ExecStart=/bin/true\n".to_string()
                }
                None => format!("{l}\n"),
            })
            .collect();
        let path = dir.path().join(entry.file_name());
        fs::write(&path, text).unwrap();
        files.push(path);
    }
    assert!(files.len() >= 14, "{files:?}");
    let output = Command::new("systemd-analyze")
        .args(["verify", "--man=no"])
        .args(&files)
        .output();
    let output = match output {
        Ok(o) => o,
        Err(e) => {
            assert!(
                std::env::var_os("CI").is_none_or(|v| v.is_empty()),
                "systemd-analyze is missing: {e}"
            );
            eprintln!("SKIPPED unit_files_pass_systemd_analyze: {e}");
            return;
        }
    };
    let said = String::from_utf8_lossy(&output.stderr);
    let ours: Vec<&str> = said.lines().filter(|l| l.contains("mars")).collect();
    assert!(ours.is_empty(), "{}", ours.join("\n"));
}

#[test]
fn unit_files_exist_for_every_unit_of_the_policy() {
    let res: mars_tree::ResName = "lv-0".parse().unwrap();
    for unit in [
        Unit::Meta,
        Unit::FetchServe,
        Unit::SyncServe,
        Unit::Logger(res.clone()),
        Unit::Fetch(res.clone()),
        Unit::Replay(res.clone()),
        Unit::Sync(res),
    ] {
        let name = unit.to_string();
        let file = match name.split_once('@') {
            Some((prefix, rest)) => {
                let suffix = rest.rsplit('.').next().unwrap();
                format!("{prefix}@.{suffix}")
            }
            None => name.clone(),
        };
        let path = units_dir().join(&file);
        let text = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{name}: {file}: {e}"));
        let (program, _) = unit.command();
        if let Some(exec) = text.lines().find(|l| l.starts_with("ExecStart=")) {
            assert!(
                exec.starts_with(&format!("ExecStart=/usr/sbin/{program}")),
                "{exec}"
            );
        }
        if unit.resource().is_some() {
            // The daemon wants the name as the administrator writes it, not as systemd escapes it.
            assert!(text.contains(" %I\n"), "{file}");
        }
    }
}
