//! Example trees, rebuilt on disk with their links, stamps and log files; what `view` makes of them, byte for byte.
//!
//! The listings are those of the examples of the tree format. Their moments are moved to now. The disk `/dev/vg/lv0` is a file here.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
#[path = "../../../lib/mars-macro/src/tests/schema_check.rs"]
mod schema_check;

use common::{Host, Ran};
use mars_daemon::InstanceLock;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

const GLOBAL: &str = include_str!("golden/global.list");
const STEADY: &str = include_str!("golden/steady.list");
const SYNCING: &str = include_str!("golden/syncing.list");
const SPLIT: &str = include_str!("golden/split.list");

/// The moment at which the examples are looked at, in their own time.
const THEIR_NOW: i64 = 1_700_090_002;

enum Thing {
    Link(String),
    File(u64),
    Dir,
}

/// A listing on top of others: later lines win.
fn entries(listings: &[&str]) -> BTreeMap<String, Thing> {
    let mut all = BTreeMap::new();
    let lines = listings.iter().flat_map(|l| l.lines());
    for line in lines.filter(|l| !l.starts_with('#') && !l.trim().is_empty()) {
        let (key, thing) = if let Some((key, value)) = line.split_once(" -> ") {
            (key, Thing::Link(value.trim().into()))
        } else if let Some((key, size)) = line.split_once(" = ") {
            (key, Thing::File(size.trim().parse().unwrap()))
        } else {
            (line.trim().strip_suffix('/').unwrap(), Thing::Dir)
        };
        for path in expand(key.trim()) {
            match &thing {
                Thing::Link(v) if v == "-" => drop(all.remove(&path)),
                Thing::Link(v) => drop(all.insert(path, Thing::Link(v.clone()))),
                Thing::File(n) => drop(all.insert(path, Thing::File(*n))),
                Thing::Dir => drop(all.insert(path, Thing::Dir)),
            }
        }
    }
    all
}

/// `a{b,c}` is `ab` and `ac`.
fn expand(key: &str) -> Vec<String> {
    let Some((head, rest)) = key.split_once('{') else {
        return vec![key.to_string()];
    };
    let (group, tail) = rest.split_once('}').unwrap();
    let tails = expand(tail);
    let one = |g: &str| tails.iter().map(|t| format!("{head}{g}{t}")).collect();
    group
        .split(',')
        .flat_map(|g| -> Vec<String> { one(g) })
        .collect()
}

fn now() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap()
}

/// Stamps in a value, moved.
fn moved(value: &str, by: i64) -> String {
    let word = |w: &str| match w.split_once('.') {
        Some((secs, ns)) if ns.len() == 9 && secs.len() == 10 => {
            format!("{}.{ns}", secs.parse::<i64>().unwrap() + by)
        }
        _ => w.to_string(),
    };
    value.split(' ').map(word).collect::<Vec<_>>().join(" ")
}

/// A host with such a tree. Everything below `actual-*` is seconds old, what tells of progress 20 s, the rest two hours.
fn host(dir: &Path, name: &str, listings: &[&str]) -> (Host, InstanceLock) {
    let h = Host::new(dir, name);
    let disk = h.disk("disk", 1 << 20);
    let by = now() - THEIR_NOW;
    let all = entries(listings);
    for (path, thing) in &all {
        let path = h.env.root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match thing {
            Thing::Dir => fs::create_dir_all(&path).unwrap(),
            Thing::File(size) => fs::File::create(&path).unwrap().set_len(*size).unwrap(),
            Thing::Link(v) if v == "/dev/vg/lv0" => symlink(&disk, &path).unwrap(),
            Thing::Link(v) => symlink(moved(v, by), &path).unwrap(),
        }
    }
    for (path, thing) in &all {
        let age = if path.contains("actual-") {
            2
        } else if path.contains("/replay-") || path.contains("/version-") {
            20
        } else {
            7200
        };
        if !matches!(thing, Thing::Dir) {
            let stamp = TimeSpec::new(now() - age, 123_456_789);
            let flags = UtimensatFlags::NoFollowSymlink;
            utimensat(AT_FDCWD, &h.env.root.join(path), &stamp, &stamp, flags).unwrap();
        }
    }
    let engine = h.pretend_engine();
    (h, engine)
}

const HEADER: &str = "Used digests: log CHKSUM_CRC32C, network CHKSUM_CRC32C\n\
                      --------- resource lv0\n";

/// `view all`: these lines below the header, and this on stderr. Looking changes nothing.
fn shows(h: &Host, more: &[&str], lines: &[&str]) -> Ran {
    let before = h.everything();
    let r = h.run(&[&["view", "all"], more].concat());
    let device = h.env.dev_dir.join("lv0").display().to_string();
    let wanted: String = lines.iter().map(|l| format!("{l}\n")).collect();
    let wanted = format!("{HEADER}{}", wanted.replace("/dev/mars/lv0", &device));
    assert_eq!((r.out.as_str(), r.code), (wanted.as_str(), 0), "{r:?}");
    assert_eq!(h.everything(), before);
    documents_fit(h, more);
    r
}

/// `--json` shows the same, as its schema says.
fn documents_fit(h: &Host, more: &[&str]) {
    let schema = include_str!("../../../docs/view.schema.json");
    let schema = serde_json::from_str(schema).unwrap();
    let all = h.ok(&[&["view", "all", "--json"], more].concat());
    let all: serde_json::Value = serde_json::from_str(&all).unwrap();
    assert_eq!(schema_check::check(&schema, &schema, &all, "$"), Ok(()));
    let one = h.ok(&[&["view", "lv0", "--json"], more].concat());
    let one: serde_json::Value = serde_json::from_str(&one).unwrap();
    assert_eq!(one["disk_state"], all["resources"][0]["disk_state"]);
    let resource = &schema["$defs"]["resource"];
    assert_eq!(schema_check::check(&schema, resource, &one, "$"), Ok(()));
}

#[test]
fn steady_state_on_both_hosts() {
    let dir = tempfile::tempdir().unwrap();
    let secondary = ["  lv0 [2/2] UpToDate Replaying dCASFR Secondary hostB "];
    let primary = [
        "  LocalDevice /dev/mars/lv0 [Opened, 0 IOPS]",
        "  lv0 [2/2] UpToDate Replicating DCASFR Primary hostB ",
    ];
    let (a, _engine) = host(dir.path(), "hostA", &[GLOBAL, STEADY]);
    let r = shows(&a, &[], &secondary);
    assert_eq!(r.err, "");
    shows(&a, &["--host=hostB"], &primary);
    let (b, _engine) = host(dir.path(), "hostB", &[GLOBAL, STEADY]);
    let r = shows(&b, &[], &primary);
    assert_eq!(r.err, "");
    shows(&b, &["--host=hostA"], &secondary);
}

#[test]
fn during_sync() {
    let dir = tempfile::tempdir().unwrap();
    let target = [
        "  lv0 [2/2] InConsistent Syncing dcAsfr Secondary hostA ",
        "     syncing: [=======>............]  40.20%  (4096/10240)MiB  rate: 100.00 MiB/sec  remaining: 00:01:01 hrs",
        "       > sync: 4096/10240 MiB rate: 100 MiB/sec  remaining: 00:01:01 hrs",
        "     replaying: [============>:::.]  67.00%  (1024/1536)KiB  logs: [2]",
        "       > fetch: 128 KiB rate: 0 B/s remaining: --:--:--",
        "       > replay: 384 KiB rate: 0 B/s remaining: --:--:--",
    ];
    let source = [
        "  LocalDevice /dev/mars/lv0 [Opened, 0 IOPS]",
        "  lv0 [2/2] WriteBack[4.000 KiB] Replicating DcASFr Primary hostA ",
    ];
    let (b, _engine) = host(dir.path(), "hostB", &[GLOBAL, STEADY, SYNCING]);
    let r = shows(&b, &[], &target);
    assert_eq!(r.err, "");
    shows(&b, &["--host=hostA"], &source);
    // hostA has all of its own logs.
    let logs = "resource-lv0/log-000000001-hostA = 1048576\n\
                resource-lv0/log-000000002-hostA = 524288";
    let (a, _engine) = host(dir.path(), "hostA", &[GLOBAL, STEADY, SYNCING, logs]);
    let r = shows(&a, &[], &source);
    assert_eq!(r.err, "");
}

#[test]
fn split_brain() {
    let dir = tempfile::tempdir().unwrap();
    let (a, engine) = host(dir.path(), "hostA", &[GLOBAL, STEADY, SPLIT]);
    let r = shows(
        &a,
        &[],
        &[
            "  LocalDevice /dev/mars/lv0 [Opened, 0 IOPS]",
            "  lv0 [2/2] UpToDate Replaying DCASFR RemainsPrimary hostB ",
        ],
    );
    let said = |r: &Ran| {
        let (first, rest) = r.err.split_once(" age ~00:00:").unwrap();
        let seconds: u32 = rest[..2].parse().unwrap();
        assert!((19..50).contains(&seconds), "{r:?}");
        format!("{first}{}", &rest[2..])
    };
    let advice =
        "   HINT: keep the history of one host and use marsadm invalidate lv0 on the others\n";
    assert_eq!(
        said(&r),
        format!(
            "WARNING: SPLIT BRAIN of resource 'lv0' after logfile 'log-000000002-hostA,524288'\n\
             host1 = 'hostA' primary logfile_amount='16384' (16.000 KiB)\n\
             host2 = 'hostB' reported-primary logfile_amount='8192' (8.000 KiB)\n{advice}"
        )
    );
    shows(
        &a,
        &["--host=hostB"],
        &[
            "  LocalDevice /dev/mars/lv0 [Opened, 0 IOPS]",
            "  lv0 [2/2] UpToDate Replicating DCASFR ForcedPrimary hostB ",
        ],
    );
    assert_eq!(a.ok(&["view-is-split-brain", "lv0"]), "1\n");
    // Any command that is about the resource says so. hostB is not heard of any more; then its address goes, too.
    drop(engine);
    let silent = a.env.root.join("actual-hostB/time");
    fs::remove_file(&silent).unwrap();
    let r = a.run(&["pause-sync", "lv0"]);
    assert!(
        said(&r).contains(
            "\nhost2 = 'hostB' reported-primary unreachable logfile_amount='8192' (8.000 KiB)\n"
        ),
        "{r:?}"
    );
    symlink(format!("{}.000000000", now() - 3700), &silent).unwrap();
    let r = a.run(&["view", "lv0"]);
    assert!(
        r.err
            .contains("host2 = 'hostB' reported-primary interrupted ~01:01:4"),
        "{r:?}"
    );
    fs::remove_file(a.env.root.join("ips/ip-hostB")).unwrap();
    fs::remove_file(a.env.root.join("resource-lv0/actual-hostB/is-primary")).unwrap();
    let r = a.run(&["view", "lv0"]);
    assert!(
        r.err
            .contains("host2 = 'hostB' unknown-role unconfigured IP logfile_amount='8192'"),
        "{r:?}"
    );
}
