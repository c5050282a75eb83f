//! The unit files say what systemd understands, every unit that the policy knows has one, and what each promises holds.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use mars_policy::Unit;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// `systemd-analyze security` in tenths: nothing may be more exposed.
const EXPOSURE_MAX: u32 = 40;

fn units_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../units")
}

/// Name and text of every unit file.
fn unit_files() -> BTreeMap<String, String> {
    let files: BTreeMap<String, String> = fs::read_dir(units_dir())
        .unwrap()
        .map(|entry| {
            let entry = entry.unwrap();
            let name = entry.file_name().into_string().unwrap();
            (name, fs::read_to_string(entry.path()).unwrap())
        })
        .collect();
    assert!(files.len() >= 14, "{:?}", files.keys());
    files
}

fn values<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
    text.lines()
        .filter_map(|l| l.strip_prefix(key)?.strip_prefix('='))
        .collect()
}

fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    values(text, key).pop()
}

/// Stands before the signal, so that a bad configuration makes the reload fail.
const CHECK: &str = "ExecReload=/usr/sbin/marsadm config check";

/// A unit of a daemon of ours (not of `marsadm`).
fn is_daemon(text: &str) -> bool {
    value(text, "Type") == Some("notify")
}

fn systemd_analyze(args: &[&str], files: &[PathBuf]) -> String {
    let output = Command::new("systemd-analyze")
        .args(args)
        .args(files)
        .output()
        .unwrap_or_else(|e| panic!("systemd-analyze (package systemd): {e}"));
    let text = [output.stdout, output.stderr].concat();
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn unit_files_pass_systemd_analyze() {
    let dir = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (name, text) in unit_files() {
        // Our programs are not installed here; everything else is checked as it stands.
        let text: String = text
            .lines()
            .map(|l| match l.strip_prefix("ExecStart=") {
                Some(command) => {
                    let command = command.strip_prefix('-').unwrap_or(command);
                    assert!(command.starts_with("/usr/sbin/mars"), "{command}");
                    "ExecStart=/bin/true\n".to_string()
                }
                None if l == CHECK => "ExecReload=/bin/true\n".to_string(),
                None => format!("{l}\n"),
            })
            .collect();
        let path = dir.path().join(name);
        fs::write(&path, text).unwrap();
        files.push(path);
    }
    let said = systemd_analyze(&["verify", "--man=no"], &files);
    let ours: Vec<&str> = said.lines().filter(|l| l.contains("mars")).collect();
    assert!(ours.is_empty(), "{}", ours.join("\n"));
}

#[test]
fn no_service_is_more_exposed_than_it_says() {
    let threshold = format!("--threshold={EXPOSURE_MAX}");
    for (name, text) in unit_files() {
        if !name.ends_with(".service") {
            continue;
        }
        let path = units_dir().join(&name);
        let said = systemd_analyze(
            &["security", "--offline=yes", "--no-pager"],
            std::slice::from_ref(&path),
        );
        let score = said
            .lines()
            .find_map(|l| {
                l.split_once("Overall exposure level for ")?
                    .1
                    .split_once(": ")
            })
            .unwrap_or_else(|| panic!("{name}: {said}"))
            .1;
        println!("{name:24} {score}");
        let status = Command::new("systemd-analyze")
            .args(["security", "--offline=yes", "--no-pager", &threshold])
            .arg(&path)
            .output()
            .unwrap()
            .status;
        assert!(status.success(), "{name}: {score}\n{said}");
        assert!(
            text.contains("# Not hardened:"),
            "{name} says why it is root"
        );
    }
}

#[test]
fn daemons_are_watched_restarted_and_reloadable() {
    for (name, text) in unit_files() {
        if !is_daemon(&text) {
            continue;
        }
        assert_eq!(value(&text, "Restart"), Some("on-failure"), "{name}");
        assert_eq!(value(&text, "WatchdogSec"), Some("120"), "{name}");
        let check = text
            .find(CHECK)
            .unwrap_or_else(|| panic!("{name} does not check"));
        assert!(
            check < text.find("kill -HUP").unwrap(),
            "{name}: check first"
        );
        assert_eq!(
            value(&text, "ExecReload"),
            Some("/bin/kill -HUP $MAINPID"),
            "{name}"
        );
        let number = |key: &str| -> u32 {
            let v = value(&text, key).unwrap_or_else(|| panic!("{name}: {key}"));
            v.parse().unwrap_or_else(|_| panic!("{name}: {key}={v}"))
        };
        // A daemon that fails at once reaches the limit: it does not spin, and it is not tried for ever.
        let (interval, burst) = (number("StartLimitIntervalSec"), number("StartLimitBurst"));
        assert!(burst * (number("RestartSec") + 1) < interval, "{name}");
        assert!(value(&text, "OOMScoreAdjust").unwrap().starts_with('-'));
        for key in ["RequiresMountsFor", "RuntimeDirectory"] {
            assert!(value(&text, key).is_some(), "{name}: {key}");
        }
    }
}

#[test]
fn everything_needs_the_tree_and_stops_with_the_target() {
    for (name, text) in unit_files() {
        if name == "mars-cron.timer" {
            continue;
        }
        assert_eq!(value(&text, "RequiresMountsFor"), Some("/mars"), "{name}");
        let short = ["mars.target", "mars-cron.service", "mars-trigger.service"];
        if !short.contains(&name.as_str()) {
            let part_of = value(&text, "PartOf").unwrap_or_default();
            assert!(part_of.contains("mars.target"), "{name}");
        }
    }
}

/// What a disk that is a file, a mount, FUSE and loop need must not be taken away by hardening; the device must outlive a restart, and be
/// unmounted before the logger stops.
#[test]
fn logger_may_do_its_work() {
    let files = unit_files();
    let text = &files["mars-logger@.service"];
    assert_eq!(value(text, "FileDescriptorStoreMax"), Some("4"));
    assert_eq!(value(text, "TimeoutStopSec"), Some("infinity"));
    assert_eq!(value(text, "LimitMEMLOCK"), Some("infinity"));
    let target = "blockdev@dev-mars-%i.target";
    assert_eq!(value(text, "Before"), Some(target));
    assert_eq!(value(text, "Wants"), Some(target));
    for device in ["/dev/fuse rw", "/dev/loop-control rw", "block-* rw"] {
        assert!(values(text, "DeviceAllow").contains(&device), "{device}");
    }
    let caps = value(text, "CapabilityBoundingSet").unwrap();
    for cap in ["CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_SYS_RESOURCE"] {
        assert!(caps.contains(cap), "{cap}");
    }
    assert!(value(text, "SystemCallFilter").unwrap().contains("@mount"));
    for unit in ["mars-logger@", "mars-replay@", "mars-sync@", "mars-sync"] {
        let text = &files[&format!("{unit}.service")];
        assert_eq!(value(text, "ProtectSystem"), Some("full"), "{unit}");
        for key in ["PrivateDevices", "PrivateTmp", "ProtectHome"] {
            assert_eq!(value(text, key), None, "{unit}: {key}");
        }
    }
    // It publishes how large the disks are.
    let meta = &files["mars-meta.service"];
    assert_eq!(value(meta, "PrivateDevices"), None);
}

/// A change that comes while the service runs is seen afterwards, and no storm of changes makes the path unit give up.
#[test]
fn no_request_for_the_reconciler_is_lost() {
    let files = unit_files();
    let path = &files["mars-trigger.path"];
    assert_eq!(value(path, "TriggerLimitIntervalSec"), Some("0"));
    let pending = value(path, "PathExists").unwrap();
    let service = &files["mars-trigger.service"];
    assert_eq!(value(service, "StartLimitIntervalSec"), Some("0"));
    assert_eq!(
        value(service, "ExecStartPre"),
        Some(&*format!("/bin/rm -f {pending}"))
    );
    // With a condition that does not hold the file would stay, and the path unit would start the service for ever.
    assert!(!service.contains("\nCondition"));
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
