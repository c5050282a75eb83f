//! Plans without I/O: which links change, in which order (symlink-tree.md section 6).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::cluster::{create_batch, join_batch as join_cluster_batch, joined_batch, suffix_clash};
use super::consistency::{forget, purge_own};
use super::create::{DiskArgs, disk_args, plan as create_plan};
use super::leave::leave_batch as leave_cluster_batch;
use super::logs::old_tombstones;
use super::membership::{delete_batch, join_batch, leave_batch, leave_check, leave_versions};
use super::primary::{caught_up, give_up, heal, old_primary, take, weak_stamp};
use super::purge::reachable;
use super::switches::{attach, down, switch, up};
use super::wait::relevant_peers;
use crate::cli::Options;
use crate::ctx::State;
use crate::reconcile::{desired, reset_flags, set_attached, steps};
use mars_policy::{Unit, View};
use mars_tree::{FileMeta, HostName, Key, ResName, Snapshot, Stamp, TodoSwitch};
use mars_units::UnitChange;
use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

const NOW: u64 = 1_700_090_000;
const ZEROS: &str = "00000000000000000000000000000000";
const V1: &str = "eae75bd0648f4b9f8ece4a07b4c47429,log-000000001-a,1048576";
const V2: &str = "ab6ca3b5e4f9a9d35ea2226916d13904,log-000000002-a,524288";

fn h(s: &str) -> HostName {
    s.parse().unwrap()
}
fn r() -> ResName {
    "r".parse().unwrap()
}
fn at(secs: u64) -> Stamp {
    Stamp::from_nanos(secs * 1_000_000_000)
}

/// Links given as text, all stamped `NOW - 1000`.
fn tree(links: &[(&str, &str)]) -> Snapshot {
    let mut s = Snapshot::default();
    for (path, value) in links {
        s.insert(&Key::parse(path), value, at(NOW - 1000));
    }
    s
}

fn view<'a>(snap: &'a Snapshot, me: &'a HostName) -> View<'a> {
    View {
        snap,
        me,
        local: me,
        now: at(NOW),
        window: Duration::from_secs(60),
        engine_running: true,
    }
}

/// a: primary in log 2, b: secondary that has everything.
fn pair() -> Snapshot {
    let v1 = format!("{V1}:");
    let v2 = format!("{V2}:{V1}");
    let mut links = vec![
        ("uuid".to_string(), "a_1.000000000".to_string()),
        ("ips/ip-a".into(), "10.0.0.1".into()),
        ("ips/ip-b".into(), "10.0.0.2".into()),
        ("resource-r/size".into(), "1048576".into()),
        ("resource-r/primary".into(), "a".into()),
        ("resource-r/maxnr".into(), "2".into()),
        ("resource-r/userspace/last-primary".into(), "a".into()),
        ("resource-r/actual-a/is-primary".into(), "1".into()),
        ("resource-r/actual-a/if-on".into(), "1".into()),
    ];
    for x in ["a", "b"] {
        links.extend([
            (format!("resource-r/data-{x}"), format!("/dev/vg/{x}")),
            (format!("resource-r/device-{x}"), "r".into()),
            (format!("resource-r/syncstatus-{x}"), "1048576".into()),
            (format!("resource-r/actsize-{x}"), "1048576".into()),
            (
                format!("resource-r/replay-{x}"),
                "log-000000002-a,524288,0".into(),
            ),
            (format!("resource-r/version-000000001-{x}"), v1.clone()),
            (format!("resource-r/version-000000002-{x}"), v2.clone()),
        ]);
        for s in ["attach", "connect", "sync", "allow-replay"] {
            links.push((format!("resource-r/todo-{x}/{s}"), "1".into()));
        }
    }
    let links: Vec<(&str, &str)> = links
        .iter()
        .map(|(a, b)| (a.as_str(), b.as_str()))
        .collect();
    tree(&links)
}

fn disk() -> DiskArgs {
    DiskArgs {
        disk: "/dev/vg/r".into(),
        device: "r".into(),
        size: None,
    }
}

#[test]
fn create_resource_links_in_order() {
    let snap = tree(&[("uuid", "a_1.000000000"), ("ips/ip-a", "10.0.0.1")]);
    let me = h("a");
    let batch = create_plan(
        &view(&snap, &me),
        &r(),
        &Options::default(),
        &disk(),
        1_000_000,
    )
    .unwrap();
    let lines = batch.describe();
    let expected = format!(
        "mkdir resource-r/userspace
mkdir resource-r/defaults
mkdir resource-r/defaults-a
mkdir resource-r/local-a
mkdir resource-r/actual-a
mkdir resource-r/todo-a
set resource-r/size -> 999424
set resource-r/data-a -> /dev/vg/r
set resource-r/device-a -> r
set resource-r/actual-a/if-on -> 0
set resource-r/todo-a/attach -> 0
set resource-r/todo-a/connect -> 1
set resource-r/todo-a/sync -> 1
set resource-r/todo-a/allow-replay -> 1
set resource-r/primary -> a
set resource-r/userspace/last-primary -> a
set resource-r/syncstatus-a -> 999424
set resource-r/replay-a -> log-000000001-a,0,0
create resource-r/log-000000001-a
set resource-r/version-000000000-a -> {ZEROS},log-000000000-a,0:
set resource-r/version-000000001-a -> {ZEROS},log-000000001-a,0:{ZEROS},log-000000000-a,0
set resource-r/maxnr -> 1"
    );
    assert_eq!(lines.join("\n"), expected);
}

#[test]
fn create_resource_again_starts_behind_the_old_numbers() {
    let snap = tree(&[
        ("uuid", "a_1.000000000"),
        ("ips/ip-a", "10.0.0.1"),
        ("resource-r/maxnr", "7"),
    ]);
    let me = h("a");
    let batch = create_plan(
        &view(&snap, &me),
        &r(),
        &Options::default(),
        &disk(),
        1_000_000,
    )
    .unwrap();
    let text = batch.describe().join("\n");
    for part in [
        "create resource-r/log-000100007-a",
        "set resource-r/maxnr -> 100007",
        "set resource-r/skip-check-a -> 100007",
        "set resource-r/version-000100006-a",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let full = tree(&[("ips/ip-a", "10.0.0.1"), ("resource-r/maxnr", "999900000")]);
    // What is left of an earlier resource is removed with --force, and its numbers are not used again.
    let left = tree(&[
        ("ips/ip-a", "10.0.0.1"),
        ("resource-r/version-000000005-a", &format!("{V1}:")),
        ("resource-r/actual-a/msg-err-x", "1.0 1.0 old"),
    ]);
    let plan = |opts: &Options| create_plan(&view(&left, &me), &r(), opts, &disk(), 1_000_000);
    let e = plan(&Options::default()).unwrap_err().to_string();
    assert!(
        e.contains("version-000000005-a") && e.contains("delete-resource"),
        "{e}"
    );
    let forced = Options {
        force: true,
        ..Options::default()
    };
    let text = plan(&forced).unwrap().describe().join("\n");
    for part in [
        "delete resource-r/version-000000005-a",
        "delete resource-r/actual-a/msg-err-x",
        "create resource-r/log-000100005-a",
    ] {
        assert!(text.contains(part), "{part}: {text}");
    }
    let none = tree(&[]);
    let e = create_plan(&view(&none, &me), &r(), &forced, &disk(), 1_000_000).unwrap_err();
    assert!(e.to_string().contains("address of a"), "{e}");
    let e = create_plan(
        &view(&full, &me),
        &r(),
        &Options::default(),
        &disk(),
        1_000_000,
    )
    .unwrap_err();
    assert!(e.to_string().contains("used up"), "{e}");
}

#[test]
fn disk_arguments_third_is_name_or_size() {
    let args = |a: &[&str]| a.iter().map(ToString::to_string).collect::<Vec<_>>();
    let d = disk_args(&r(), &args(&["/d", "name"]), None, true).unwrap();
    assert_eq!((d.device.as_str(), d.size), ("name", None));
    let d = disk_args(&r(), &args(&["/d", "1M"]), None, true).unwrap();
    assert_eq!((d.device.as_str(), d.size), ("r", Some(1 << 20)));
    let d = disk_args(&r(), &args(&["/d", "5g", "1M"]), None, true).unwrap();
    assert_eq!((d.device.as_str(), d.size), ("5g", Some(1 << 20)));
    let d = disk_args(&r(), &args(&["/d", "1M"]), None, false).unwrap();
    assert_eq!((d.device.as_str(), d.size), ("1M", None));
}

#[test]
fn join_resource_copies_the_primary_with_its_creator() {
    // The primary is b now, but still writes back a log of a.
    let mut snap = pair();
    snap.insert(&Key::Primary(r()), "b", at(NOW - 10));
    snap.insert(
        &Key::Replay(r(), h("b")),
        "log-000000002-a,4096,512",
        at(NOW - 10),
    );
    let me = h("c");
    let batch = join_batch(&view(&snap, &me), &r(), &h("b"), &disk()).unwrap();
    let expected = format!(
        "mkdir resource-r/userspace
mkdir resource-r/defaults
mkdir resource-r/defaults-c
mkdir resource-r/local-c
mkdir resource-r/actual-c
mkdir resource-r/todo-c
set resource-r/data-c -> /dev/vg/r
set resource-r/device-c -> r
set resource-r/actual-c/if-on -> 0
set resource-r/todo-c/attach -> 0
set resource-r/todo-c/connect -> 1
set resource-r/todo-c/sync -> 1
set resource-r/todo-c/allow-replay -> 1
set resource-r/replay-c -> log-000000002-a,0,0
set resource-r/version-000000002-c -> {V2}:{V1}
set resource-r/version-000000001-c -> {V1}:
set resource-r/skip-check-c -> 2
set resource-r/syncstatus-c -> 0"
    );
    assert_eq!(batch.describe().join("\n"), expected);
}

#[test]
fn leave_resource_takes_every_own_link_and_no_other() {
    let mut snap = pair();
    let b = h("b");
    let e = leave_check(&view(&snap, &b), &r(), &Options::default())
        .unwrap_err()
        .to_string();
    assert!(e.contains("attach") && e.contains("marsadm down r"), "{e}");
    for s in ["attach", "connect", "sync", "allow-replay"] {
        snap.insert(
            &Key::parse(&format!("resource-r/todo-b/{s}")),
            "0",
            at(NOW - 10),
        );
    }
    leave_check(&view(&snap, &b), &r(), &Options::default()).unwrap();
    let text = leave_batch(&view(&snap, &b), &r()).describe();
    let deleted: BTreeSet<&str> = text
        .iter()
        .map(|l| l.strip_prefix("delete ").unwrap())
        .collect();
    let own: BTreeSet<&str> = snap
        .links
        .keys()
        .map(String::as_str)
        .filter(|p| {
            p.starts_with("resource-r/")
                && (p.ends_with("-b") || p.contains("-b/"))
                && !p.contains("version-")
        })
        .collect();
    assert!(own.is_subset(&deleted), "{:?}", own.difference(&deleted));
    assert!(deleted.iter().all(|p| p.contains("-b")), "{deleted:?}");
    assert_eq!(
        leave_versions(&view(&snap, &b), &r()).describe(),
        [
            "delete resource-r/version-000000001-b",
            "delete resource-r/version-000000002-b"
        ]
    );
    // The creator's links are needed by others.
    assert!(leave_versions(&view(&snap, &h("a")), &r()).is_empty());
    // a is primary: never.
    assert!(leave_check(&view(&snap, &h("a")), &r(), &Options::default()).is_err());
}

#[test]
fn delete_resource_keeps_maxnr() {
    let mut snap = pair();
    snap.files.insert(
        "resource-r/log-000000002-a".into(),
        FileMeta {
            size: 1,
            mtime: at(NOW),
        },
    );
    let me = h("a");
    let lines = delete_batch(&view(&snap, &me), &r()).describe();
    assert!(!lines.iter().any(|l| l.contains("maxnr")), "{lines:?}");
    assert!(
        lines.contains(&"delete resource-r/log-000000002-a".to_string()),
        "{lines:?}"
    );
    let links = snap
        .links
        .keys()
        .filter(|p| p.starts_with("resource-r/"))
        .count();
    assert_eq!(lines.len(), links - 1 + 1);
}

#[test]
fn primary_takes_the_role_and_remembers_the_old_one() {
    let snap = pair();
    let b = h("b");
    assert_eq!(old_primary(&view(&snap, &b), &r()), Some(h("a")));
    assert_eq!(
        take(&view(&snap, &b), &r()).describe(),
        [
            "set resource-r/userspace/prev-primary -> a",
            "set resource-r/primary -> b",
            "set resource-r/userspace/last-primary -> b",
        ]
    );
}

#[test]
fn secondary_is_weak_on_purpose() {
    assert_eq!(
        give_up(&pair(), &r()).describe(),
        ["set resource-r/primary -> (none)"]
    );
    let old = Stamp::from_nanos(NOW * 1_000_000_000 + 123_456_789);
    assert_eq!(weak_stamp(Some(old)), at(NOW + 1));
    assert_eq!(weak_stamp(Some(at(NOW))), at(NOW + 1));
}

#[test]
fn handover_waits_for_equal_links() {
    let mut snap = pair();
    let b = h("b");
    assert_eq!(caught_up(&view(&snap, &b), &r(), &h("a")), State::Done);
    snap.insert(
        &Key::Replay(r(), h("a")),
        "log-000000002-a,520192,4096",
        at(NOW),
    );
    assert!(matches!(
        caught_up(&view(&snap, &b), &r(), &h("a")),
        State::Waiting(_)
    ));
    // Equal positions, but a has begun a log that b does not know yet.
    let mut snap = pair();
    snap.insert(
        &Key::Version(r(), 3, h("a")),
        &format!("{ZEROS},log-000000003-a,0:{V2}"),
        at(NOW),
    );
    assert!(matches!(
        caught_up(&view(&snap, &b), &r(), &h("a")),
        State::Waiting(_)
    ));
}

#[test]
fn handover_heals_version_links_that_mean_the_same() {
    let (a, b) = (h("a"), h("b"));
    let real = "eae75bd0648f4b9f8ece4a07b4c47429,log-000000001-a,0:";
    let zero = format!("{ZEROS},log-000000001-a,0:{ZEROS},log-000000000-a,0");
    let other = "ffffffffffffffffffffffffffffffff,log-000000001-a,0:ffffffffffffffffffffffffffffffff,log-000000000-a,7";
    let with = |own: &str, replay_b: &str| {
        tree(&[
            ("resource-r/data-a", "/d"),
            ("resource-r/data-b", "/d"),
            ("resource-r/replay-a", "log-000000001-a,0,0"),
            ("resource-r/replay-b", replay_b),
            ("resource-r/version-000000001-a", real),
            ("resource-r/version-000000001-b", own),
        ])
    };
    let same = "log-000000001-a,0,0";
    let healed = |snap: &Snapshot| {
        heal(&view(snap, &b), &r(), &a).map(|(batch, warn)| (batch.describe(), warn.is_some()))
    };
    let (lines, warned) = healed(&with(&zero, same)).unwrap();
    assert!(lines.join(" ").contains(real) && !warned, "{lines:?}");
    assert_eq!(healed(&with(real, same)), None);
    assert_eq!(healed(&with(&zero, "log-000000001-a,8,0")), None, "ahead");
    assert_eq!(healed(&with(&zero, "log-000000001-a,0,8")), None, "dirty");
    // Others only when nothing moves any more.
    let mut snap = with(other, same);
    assert!(healed(&snap).unwrap().1);
    snap.insert(&Key::parse("resource-r/replay-a"), same, at(NOW - 10));
    assert_eq!(healed(&snap), None);
}

#[test]
fn switches_say_when_nothing_changes() {
    let snap = pair();
    let b = h("b");
    let v = view(&snap, &b);
    let opts = Options::default();
    let plan = switch(&v, &r(), TodoSwitch::Connect, true, false).unwrap();
    assert!(plan.batch.is_empty() && plan.say[0].contains("already activated"));
    let plan = switch(&v, &r(), TodoSwitch::Connect, false, true).unwrap();
    assert_eq!(
        plan.batch.describe(),
        [
            "set resource-r/todo-a/connect -> 0",
            "set resource-r/todo-b/connect -> 0"
        ]
    );
    let plan = down(&v, &r(), &opts).unwrap();
    assert_eq!(
        plan.batch.describe(),
        ["sync", "connect", "allow-replay", "attach"]
            .map(|s| format!("set resource-r/todo-b/{s} -> 0"))
    );
    assert!(plan.wait.is_some());
}

#[test]
fn attach_looks_at_the_disk_first() {
    let snap = pair();
    let b = h("b");
    let v = view(&snap, &b);
    let opts = Options::default();
    let e = attach(&v, &r(), &opts, &|_| {
        Err("disk /dev/vg/b does not exist".into())
    })
    .err()
    .unwrap();
    assert!(e.to_string().contains("does not exist"));
    let e = up(&v, &r(), &opts, &|_| Ok(4096))
        .err()
        .unwrap()
        .to_string();
    assert!(e.contains("4096") && e.contains("1048576"), "{e}");
    let plan = up(&v, &r(), &opts, &|_| Ok(1 << 20)).unwrap();
    assert!(plan.batch.is_empty());
}

#[test]
fn invalidate_forgets_the_own_history_from_the_primarys_number_on() {
    let mut snap = pair();
    // b went its own way in log 3.
    let b3 = format!("{ZEROS},log-000000003-b,4096:{V2}");
    snap.insert(&Key::Version(r(), 3, h("b")), &b3, at(NOW - 10));
    snap.insert(
        &Key::Replay(r(), h("b")),
        "log-000000003-b,4096,0",
        at(NOW - 10),
    );
    snap.files.insert(
        "resource-r/log-000000003-b".into(),
        FileMeta {
            size: 4096,
            mtime: at(NOW - 1),
        },
    );
    let b = h("b");
    assert!(reachable(&view(&snap, &b), &r()).contains(&"log-000000003-b".parse().unwrap()));
    assert_eq!(
        forget(&view(&snap, &b), &r(), 2).describe(),
        [
            "set resource-r/syncstatus-b -> 0",
            "delete resource-r/version-000000002-b",
            "delete resource-r/version-000000003-b",
            "delete resource-r/replay-b",
        ]
    );
    for path in [
        "resource-r/version-000000002-b",
        "resource-r/version-000000003-b",
        "resource-r/replay-b",
    ] {
        snap.insert(&Key::parse(path), ".deleted", at(NOW));
    }
    assert_eq!(
        purge_own(&view(&snap, &b), &r()).describe(),
        ["delete resource-r/log-000000003-b"]
    );
}

#[test]
fn purge_keeps_every_history_that_somebody_is_in() {
    let mut snap = pair();
    for n in 1..=3 {
        snap.files.insert(
            format!("resource-r/log-00000000{n}-a"),
            FileMeta {
                size: 1,
                mtime: at(NOW - 900),
            },
        );
    }
    let a = h("a");
    // Log 3 has just been begun by the primary and has no version link yet.
    assert!(purge_own(&view(&snap, &a), &r()).is_empty());
}

#[test]
fn tombstones_go_when_everybody_has_heard_of_them() {
    let mut snap = pair();
    snap.insert(&Key::parse("userspace/x"), ".deleted", at(NOW - 1000));
    snap.insert(
        &Key::HostActual(h("a"), "time".into()),
        &at(NOW - 5).to_string(),
        at(NOW - 5),
    );
    assert!(
        old_tombstones(&snap, at(NOW), Options::default().keep_backup).is_empty(),
        "b has not been heard"
    );
    snap.insert(
        &Key::HostActual(h("b"), "time".into()),
        &at(NOW - 970).to_string(),
        at(NOW - 5),
    );
    assert!(
        old_tombstones(&snap, at(NOW), Options::default().keep_backup).is_empty(),
        "b may not have it"
    );
    snap.insert(
        &Key::HostActual(h("b"), "time".into()),
        &at(NOW - 5).to_string(),
        at(NOW - 5),
    );
    assert_eq!(
        old_tombstones(&snap, at(NOW), Options::default().keep_backup),
        [Key::parse("userspace/x")]
    );
}

#[test]
fn cluster_batches() {
    let me = h("b");
    let empty = Snapshot::default();
    let opts = Options::default();
    let ip = Ipv4Addr::new(10, 0, 0, 2);
    let v = View {
        engine_running: false,
        ..view(&empty, &me)
    };
    let lines = create_batch(&v, &opts, ip, at(NOW))
        .unwrap()
        .describe()
        .join("\n");
    for part in [
        "mkdir ips",
        "mkdir defaults-b",
        "set uuid -> b_1700090000.000000000",
        "set actual-b/marsadm-version -> 2.9",
        "set defaults-b/sync-limit -> 0",
        "set defaults-b/sync-pref-list -> (none)",
        "set ips/ip-b -> 10.0.0.2",
    ] {
        assert!(lines.contains(part), "{part}: {lines}");
    }
    let lines = join_cluster_batch(&v, &opts, ip, &h("a"), Ipv4Addr::new(10, 0, 0, 1))
        .unwrap()
        .describe()
        .join("\n");
    assert!(lines.contains("uuid -> (any)"), "{lines}");
    // Another machine has the name already.
    let snap = pair();
    let e = joined_batch(&view(&snap, &me), &opts, Ipv4Addr::new(10, 0, 0, 9))
        .unwrap_err()
        .to_string();
    assert!(e.contains("10.0.0.2") && e.contains("10.0.0.9"), "{e}");
    assert!(joined_batch(&view(&snap, &me), &opts, ip).is_ok());
    let long = h("x-b");
    assert_eq!(suffix_clash(&long, &snap.hosts()), Some(&h("b")));
    assert!(joined_batch(&view(&snap, &long), &opts, ip).is_err());
    let mut snap = pair();
    snap.insert(
        &Key::parse("actual-a/msg-needed-connection-with-b"),
        "OK",
        at(NOW),
    );
    snap.insert(&Key::parse("actual-b/time"), "1.000000000", at(NOW));
    assert_eq!(
        leave_cluster_batch(&view(&snap, &me)).describe(),
        [
            "delete actual-a/msg-needed-connection-with-b",
            "delete ips/ip-b"
        ]
    );
}

#[test]
fn relevant_peers_of_a_host_without_resources_are_all() {
    let mut snap = pair();
    snap.insert(&Key::parse("ips/ip-c"), "10.0.0.3", at(NOW));
    assert_eq!(
        relevant_peers(&snap, &h("a"), None),
        BTreeSet::from([h("b")])
    );
    assert_eq!(
        relevant_peers(&snap, &h("c"), None),
        BTreeSet::from([h("a"), h("b")])
    );
    assert_eq!(
        relevant_peers(&snap, &h("c"), Some(&r())),
        BTreeSet::from([h("a"), h("b")])
    );
}

#[test]
fn reconciler_wants_nothing_without_cluster_or_when_stopped() {
    let snap = pair();
    let a = h("a");
    assert!(desired(&view(&snap, &a), true).contains(&Unit::Logger(r())));
    assert!(desired(&view(&snap, &a), false).is_empty());
    let mut left = pair();
    left.insert(&Key::parse("ips/ip-a"), ".deleted", at(NOW));
    assert!(desired(&view(&left, &a), true).is_empty());
    // Removed by others while its device is open.
    left.insert(&Key::parse("resource-r/actual-a/open-count"), "1", at(NOW));
    assert_eq!(
        desired(&view(&left, &a), true),
        BTreeSet::from([Unit::Meta, Unit::Logger(r())])
    );
    assert!(desired(&view(&left, &a), false).is_empty());
}

#[test]
fn reconciler_starts_no_logger_before_the_others_were_heard() {
    let wanted = BTreeSet::from([Unit::Meta, Unit::Logger(r())]);
    let start = |u: Unit| UnitChange::Start(u);
    assert_eq!(steps(&BTreeSet::new(), &wanted, false), [start(Unit::Meta)]);
    assert_eq!(
        steps(&BTreeSet::new(), &wanted, true),
        [start(Unit::Meta), start(Unit::Logger(r()))]
    );
    // What runs is stopped in any case.
    assert_eq!(
        steps(
            &BTreeSet::from([Unit::Logger(r())]),
            &BTreeSet::new(),
            false
        ),
        [UnitChange::Stop(Unit::Logger(r()))]
    );
}

#[test]
fn reconciler_takes_back_what_a_dead_daemon_said() {
    let snap = pair();
    let a = h("a");
    let text = reset_flags(&snap, &a, &BTreeSet::new())
        .describe()
        .join("\n");
    for flag in [
        "is-primary",
        "if-on",
        "open-count",
        "is-copying",
        "is-replaying",
        "is-syncing",
    ] {
        assert!(
            text.contains(&format!("resource-r/actual-a/{flag} -> 0")),
            "{flag}: {text}"
        );
    }
    let text = reset_flags(&snap, &a, &BTreeSet::from([Unit::Logger(r())]))
        .describe()
        .join("\n");
    assert!(
        !text.contains("is-primary") && text.contains("is-copying"),
        "{text}"
    );
    let on = |running: &BTreeSet<Unit>, usable: &BTreeSet<ResName>| {
        set_attached(&snap, &a, running, usable)
            .describe()
            .join("\n")
            .contains("is-attached -> 1")
    };
    let none = BTreeSet::new();
    assert!(on(&none, &BTreeSet::from([r()])));
    assert!(on(&BTreeSet::from([Unit::Replay(r())]), &BTreeSet::new()));
    assert!(!on(&BTreeSet::from([Unit::Fetch(r())]), &BTreeSet::new()));
}
