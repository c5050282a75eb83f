//! Names, keys and values: what is printed is read again, and nothing that is read can do harm (I12).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_tree::{
    HostName, Key, LogName, MessageValue, ReplayPos, ResName, Stamp, TodoSwitch, Value,
    VersionHead, VersionLink,
};
use proptest::prelude::*;

fn host() -> impl Strategy<Value = HostName> {
    "[A-Za-z0-9_][-A-Za-z0-9_]{0,30}".prop_filter_map("reserved", |s| s.parse().ok())
}
fn res() -> impl Strategy<Value = ResName> {
    "[A-Za-z0-9_][-A-Za-z0-9_]{0,62}".prop_filter_map("reserved", |s| s.parse().ok())
}
fn log() -> impl Strategy<Value = LogName> {
    (0u32..=999_999_999, host()).prop_map(|(nr, host)| LogName { nr, host })
}
fn name() -> impl Strategy<Value = String> {
    "[a-z0-9_-][a-z0-9._-]{0,20}"
}
fn free_path() -> impl Strategy<Value = String> {
    proptest::collection::vec(name(), 1..3).prop_map(|v| v.join("/"))
}
fn switch() -> impl Strategy<Value = TodoSwitch> {
    proptest::sample::select(TodoSwitch::ALL.to_vec())
}
fn key() -> impl Strategy<Value = Key> {
    let owned = (res(), host(), 0usize..10).prop_map(|(r, h, n)| match n {
        0 => Key::Data(r, h),
        1 => Key::Device(r, h),
        2 => Key::ActSize(r, h),
        3 => Key::Replay(r, h),
        4 => Key::SyncStatus(r, h),
        5 => Key::SyncPos(r, h),
        6 => Key::VerifyStatus(r, h),
        7 => Key::SyncFrom(r, h),
        8 => Key::SkipCheck(r, h),
        _ => Key::ConnectPref(r, h),
    });
    let other = |n: &String| TodoSwitch::ALL.iter().all(|s| s.name() != n);
    prop_oneof![
        Just(Key::Uuid),
        host().prop_map(Key::Ip),
        name().prop_map(Key::Default),
        (host(), name()).prop_map(|(h, n)| Key::HostDefault(h, n)),
        name().prop_map(Key::TodoGlobal),
        free_path().prop_map(Key::Userspace),
        (host(), name()).prop_map(|(h, n)| Key::HostActual(h, n)),
        res().prop_map(Key::Size),
        res().prop_map(Key::Primary),
        res().prop_map(Key::MaxNr),
        (res(), name()).prop_map(|(r, n)| Key::Systemd(r, n)),
        (res(), free_path()).prop_map(|(r, p)| Key::ResUserspace(r, p)),
        owned,
        (res(), 0u32..=999_999_999, host()).prop_map(|(r, n, h)| Key::Version(r, n, h)),
        (res(), log()).prop_map(|(r, l)| Key::Log(r, l)),
        (res(), host(), switch()).prop_map(|(r, h, s)| Key::Todo(r, h, s)),
        (res(), host(), name().prop_filter("switch", other))
            .prop_map(|(r, h, n)| Key::TodoOther(r, h, n)),
        (res(), host(), name()).prop_map(|(r, h, n)| Key::Actual(r, h, n)),
        (res(), name()).prop_map(|(r, n)| Key::ResDefault(r, n)),
        (res(), host(), name()).prop_map(|(r, h, n)| Key::ResHostDefault(r, h, n)),
    ]
}
fn head() -> impl Strategy<Value = VersionHead> {
    (any::<[u8; 16]>(), log(), any::<u64>()).prop_map(|(md5, log, len)| VersionHead {
        md5,
        log,
        len,
    })
}
/// Paths that look like keys, so that parsing gets far.
fn near_path() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        Just("resource-".to_string()),
        Just("todo-".to_string()),
        Just("actual-".to_string()),
        Just("defaults".to_string()),
        Just("userspace".to_string()),
        Just("log-000000001-".to_string()),
        Just("version-".to_string()),
        Just("data-".to_string()),
        Just("/".to_string()),
        Just("..".to_string()),
        Just(".deleted".to_string()),
        "[a-z0-9/.-]{0,4}",
        any::<String>(),
    ];
    proptest::collection::vec(part, 0..8).prop_map(|v| v.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn key_round_trip(key in key()) {
        prop_assert_eq!(Key::parse(&key.path()), key);
    }
    #[test]
    fn key_parse_keeps_any_path(path in near_path()) {
        let key = Key::parse(&path);
        prop_assert_eq!(key.path(), path.clone());
        let _ = (key.resource(), key.owner());
        if key.is_replicated() {
            prop_assert!(!path.contains(['\0', '\n']));
            prop_assert!(path.len() <= 1000);
            prop_assert!(path.split('/').count() <= 4);
            prop_assert!(path.split('/').all(|c| !c.is_empty() && !c.starts_with('.')));
        }
    }
    #[test]
    fn replay_pos_round_trip(log in log(), pos: u64, dirty: u64) {
        let v = ReplayPos { log, pos, dirty };
        prop_assert_eq!(v.to_string().parse::<ReplayPos>().unwrap(), v);
    }
    #[test]
    fn version_link_round_trip(head in head(), pred in proptest::option::of(head())) {
        let v = VersionLink { head, pred };
        prop_assert_eq!(v.to_string().parse::<VersionLink>().unwrap(), v);
    }
    #[test]
    fn message_round_trip(real: u64, lamport: u64, text in "[ -~äöü€]{0,200}") {
        let limit = 16_725_225_600_000_000_000;
        let v = MessageValue::Text {
            real: Stamp::from_nanos(real % limit),
            lamport: Stamp::from_nanos(lamport % limit),
            text,
        };
        prop_assert_eq!(v.to_string().parse::<MessageValue>().unwrap(), v);
    }
    #[test]
    fn message_print_is_always_one_short_line(text: String, times in 1usize..400) {
        let v = MessageValue::Text {
            real: Stamp::ZERO,
            lamport: Stamp::ZERO,
            text: text.repeat(times),
        };
        let printed = v.to_string();
        prop_assert!(printed.len() <= MessageValue::MAX);
        prop_assert!(!printed.chars().any(char::is_control));
        prop_assert!(printed.parse::<MessageValue>().is_ok());
    }
    /// What is read prints as it was read, for any input that is read at all.
    #[test]
    fn values_print_what_they_read(
        text in prop_oneof![
            any::<String>(),
            "(OK|[0-9a-f]{31,33}|log-[0-9]{8,10}-[a-z]{1,3}|[0-9]{1,21}|[0-9]{1,11}\\.[0-9]{9}|[,: .+-]){1,9}",
        ]
    ) {
        if let Ok(v) = text.parse::<ReplayPos>() { prop_assert_eq!(v.to_string(), text.clone()); }
        if let Ok(v) = text.parse::<VersionHead>() { prop_assert_eq!(v.to_string(), text.clone()); }
        if let Ok(v) = text.parse::<VersionLink>() { prop_assert_eq!(v.to_string(), text.clone()); }
        if let Ok(v) = text.parse::<MessageValue>() { prop_assert_eq!(v.to_string(), text.clone()); }
        if let Ok(v) = text.parse::<LogName>() { prop_assert_eq!(v.to_string(), text.clone()); }
        if let Ok(v) = text.parse::<HostName>() { prop_assert_eq!(v.to_string(), text.clone()); }
        if let Ok(v) = text.parse::<ResName>() { prop_assert_eq!(v.to_string(), text.clone()); }
    }
}

#[test]
fn names_follow_the_rules() {
    let max = "h".repeat(31);
    for good in ["a", "0", "_x", "a-b", "A_9-", "localhost2", &max] {
        assert_eq!(good.parse::<HostName>().unwrap().as_str(), good);
    }
    let too_long = "h".repeat(32);
    for bad in [
        "",
        "-a",
        "a.b",
        "a,b",
        "a:b",
        "a@b",
        "a+b",
        "a/b",
        "a b",
        "ä",
        "(none)",
        "none",
        "all",
        "any",
        "full",
        "empty",
        "undefined",
        "remote",
        "local",
        "localhost",
        &too_long,
    ] {
        let e = bad.parse::<HostName>().unwrap_err();
        assert_eq!((e.what, e.name.as_str()), ("host", bad));
    }
    assert!(too_long.parse::<ResName>().is_ok());
    assert!("r".repeat(63).parse::<ResName>().is_ok());
    assert!("r".repeat(64).parse::<ResName>().is_err());
    assert!(
        "x".repeat(100_000)
            .parse::<ResName>()
            .unwrap_err()
            .name
            .len()
            <= 64
    );
    let h = |s: &str| s.parse::<HostName>().unwrap();
    assert!(h("b").collides_with(&h("a-b")) && h("a-b").collides_with(&h("b")));
    assert!(!h("b").collides_with(&h("ab")) && !h("b").collides_with(&h("b")));
}

#[test]
fn log_names_have_nine_digits() {
    let log: LogName = "log-000000012-a-b".parse().unwrap();
    assert_eq!((log.nr, log.host.as_str()), (12, "a-b"));
    for bad in [
        "log-12-a",
        "log-0000000012-a",
        "log-000000012",
        "log-000000012-",
        "log-00000001x-a",
        "log-000000012-none",
        "xlog-000000012-a",
        "log-äöüßäöüß-a",
        "log-+00000012-a",
    ] {
        assert!(bad.parse::<LogName>().is_err(), "{bad}");
    }
}

#[test]
fn value_limits() {
    assert!(Value::new("").is_err());
    assert!(Value::new("a\0b").is_err());
    assert!(Value::new(vec![b'x'; 4095]).is_ok());
    assert!(Value::new(vec![b'x'; 4096]).is_err());
    assert!(Value::new(".deleted").unwrap().is_deleted());
    assert!(!Value::new(".deleted ").unwrap().is_deleted());
    assert_eq!(Value::new(vec![0xff]).unwrap().as_str(), None);
}

/// The listings of symlink-tree.md section 7: every path has its key, every value its form.
#[test]
fn listings_of_the_specification() {
    let v1 = "eae75bd0648f4b9f8ece4a07b4c47429,log-000000001-hostA,1048576:";
    let v2 = "ab6ca3b5e4f9a9d35ea2226916d13904,log-000000002-hostA,524288:eae75bd0648f4b9f8ece4a07b4c47429,log-000000001-hostA,1048576";
    let v3 = "1defc62b29e43d74c94cca423ee2cc3b,log-000000003-hostB,8192:ab6ca3b5e4f9a9d35ea2226916d13904,log-000000002-hostA,524288";
    let v0 = "00000000000000000000000000000000,log-000000000-hostA,0:";
    let mut listing: Vec<(String, String)> = [
        ("uuid", "hostA_1700000000.123456789"),
        ("ips/ip-hostA", "10.0.0.1"),
        ("ips/ip-hostB", "10.0.0.2"),
        ("defaults-hostA/sync-limit", "0"),
        ("defaults-hostA/sync-pref-list", "(none)"),
        ("actual-hostA/time", "1700090000.123456789"),
        ("actual-hostA/alive", "1"),
        ("actual-hostA/tree", "0.1"),
        ("actual-hostA/features", "4,5,0x071f0000"),
        ("actual-hostA/usable", "4,5,0x071f0000"),
        (
            "actual-hostA/buildtag",
            "mars0.1astable177(2022-10-10 10:10:10)",
        ),
        ("actual-hostA/emergency", "0"),
        ("actual-hostA/rest-space", "83"),
        ("actual-hostA/total-space", "92"),
        ("actual-hostA/used-log-digest", "262144"),
        ("actual-hostA/used-net-digest", "262144"),
        ("actual-hostA/used-log-compression", "0"),
        ("actual-hostA/used-net-compression", "0"),
        ("actual-hostA/marsadm-version", "2.9"),
        ("actual-hostB/read-stamp", "1700089998.000000001"),
        ("resource-lv0/size", "10737418240"),
        ("resource-lv0/primary", "hostB"),
        ("resource-lv0/maxnr", "2"),
        ("resource-lv0/userspace/last-primary", "hostB"),
        ("resource-lv0/userspace/prev-primary", "hostA"),
        ("resource-lv0/data-hostA", "/dev/vg/lv0"),
        ("resource-lv0/device-hostA", "lv0"),
        ("resource-lv0/actsize-hostA", "10737418240"),
        ("resource-lv0/syncstatus-hostA", "10737418240"),
        ("resource-lv0/syncpos-hostB", "log-000000001-hostA,524288,0"),
        ("resource-lv0/verifystatus-hostB", "2621440,17"),
        ("resource-lv0/skip-check-hostB", "1"),
        ("resource-lv0/replay-hostA", "log-000000003-hostB,8192,0"),
        (
            "resource-lv0/replay-hostB",
            "log-000000002-hostA,520192,4096",
        ),
        ("resource-lv0/version-000000000-hostA", v0),
        ("resource-lv0/version-000000001-hostA", v1),
        ("resource-lv0/version-000000002-hostA", v2),
        ("resource-lv0/version-000000003-hostB", v3),
        ("resource-lv0/log-000000001-hostA", ".deleted"),
        (
            "resource-lv0/actual-hostB/if-completion-stamp",
            "1700089969.000000000",
        ),
        ("resource-lv0/actual-hostB/msg-err-replay-stop", "OK"),
        ("resource-lv0/actual-hostB/amount-sync_rate", "102400"),
        (
            "resource-lv0/actual-hostB/msg-inf-sync",
            "1700089000.000000000 1700089000.000000000 some free text",
        ),
    ]
    .map(|(k, v)| (k.to_string(), v.to_string()))
    .into();
    for name in ["attach", "connect", "sync", "allow-replay"] {
        listing.push((format!("resource-lv0/todo-hostA/{name}"), "1".into()));
    }
    for name in [
        "is-attached",
        "is-primary",
        "is-replaying",
        "is-copying",
        "is-syncing",
        "if-on",
        "open-count",
        "disk-error",
        "has-emergency",
        "is-emergency",
        "replay-code",
        "ops-replay_rate",
        "amount-file_rate",
        "if-flying",
        "if-state",
    ] {
        listing.push((format!("resource-lv0/actual-hostA/{name}"), "0".into()));
    }
    let mut snap = mars_tree::Snapshot::default();
    for (path, value) in &listing {
        let key = Key::parse(path);
        assert!(!matches!(key, Key::Other(_)), "{path}");
        assert_eq!(&key.path(), path);
        assert!(key.is_replicated(), "{path}");
        snap.insert(&key, value, Stamp::PRELIMINARY);
    }
    assert_eq!(snap.damaged(), []);
    // Every one of them is checked: another form is found, but where anything goes.
    let anything = [
        "defaults-hostA/sync-pref-list",
        "actual-hostA/buildtag",
        "actual-hostA/marsadm-version",
        "resource-lv0/userspace/last-primary",
        "resource-lv0/userspace/prev-primary",
        "resource-lv0/device-hostA",
    ];
    for (path, _) in &listing {
        let mut snap = snap.clone();
        snap.insert(&Key::parse(path), "no, thanks", Stamp::PRELIMINARY);
        let damaged = snap.damaged();
        if anything.contains(&path.as_str()) {
            assert_eq!(damaged, [], "{path}");
        } else {
            assert_eq!(damaged, [(path.clone(), "no, thanks".to_string())]);
        }
    }
    let (res, a, b) = (
        "lv0".parse().unwrap(),
        "hostA".parse().unwrap(),
        "hostB".parse().unwrap(),
    );
    assert_eq!(snap.hosts(), [&a, &b].map(HostName::clone));
    assert_eq!(snap.resources(), [ResName::clone(&res)]);
    assert_eq!(snap.members(&res), [&a, &b].map(HostName::clone));
    assert_eq!(snap.host(&Key::Primary(res.clone())), Some(b.clone()));
    assert!(snap.todo(&res, &a, TodoSwitch::AllowReplay));
    assert!(!snap.todo(&res, &b, TodoSwitch::AllowReplay));
    assert_eq!(snap.actual(&res, &a, "is-primary"), Some(0));
    assert_eq!(snap.actual(&res, &b, "is-primary"), None);
    assert_eq!(snap.replay(&res, &b).unwrap().end(), (2, 524_288));
    assert_eq!(
        snap.versions(&res).iter().map(|v| v.0).collect::<Vec<_>>(),
        [0, 1, 2, 3]
    );
    assert_eq!(
        snap.version(&res, 3, &b).unwrap().pred.unwrap().len,
        524_288
    );
    assert_eq!(
        snap.get(&Key::parse("resource-lv0/log-000000001-hostA")),
        None
    );
}

#[test]
fn snapshot_reads_only_what_is_right() {
    let mut snap = mars_tree::Snapshot::default();
    let key = Key::parse("resource-r/size");
    for (text, number, signed, on) in [
        ("7", Some(7), Some(7), true),
        ("0", Some(0), Some(0), false),
        ("-5", None, Some(-5), true),
        ("+5", None, Some(5), true),
        ("18446744073709551615", Some(u64::MAX), None, false),
        ("18446744073709551616", None, None, false),
        ("x", None, None, false),
        (".deleted", None, None, false),
    ] {
        snap.insert(&key, text, Stamp::PRELIMINARY);
        assert_eq!(snap.number(&key), number, "{text}");
        assert_eq!(snap.signed(&key), signed, "{text}");
        assert_eq!(snap.is_on(&key), on, "{text}");
    }
    assert_eq!(
        snap.resources(),
        [] as [ResName; 0],
        "a tombstone makes no resource"
    );
    for r in ["r10", "r2", "r-1", "r02", "R"] {
        snap.insert(&Key::Size(r.parse().unwrap()), "1", Stamp::PRELIMINARY);
    }
    let names: Vec<_> = snap.resources().iter().map(ToString::to_string).collect();
    assert_eq!(names, ["R", "r-1", "r02", "r2", "r10"]);
}

#[test]
fn replication_of_keys() {
    for path in [
        "uuid",
        "userspace/cache-x",
        "userspace/a/b/c",
        "todo-global/systemd-global-trigger",
        "resource-r/systemd-want",
        "resource-r/userspace/systemd-trigger",
        "alive-hostA",
        "x/y/z/w",
        "resource-r/unknown-thing",
        "resource-r/local",
        "resource-none/size",
    ] {
        assert!(Key::parse(path).is_replicated(), "{path}");
    }
    for path in [
        "cache-a/x",
        "backups-1/uuid-backups/uuid",
        "probe-a/got-b",
        "resource-r/local-a/x",
        "ignore",
        "userspace/ignored",
        "userspace/systemd-trigger",
        "userspace/emergency-trigger",
        "resource-r/systemd-trigger",
        "resource-r",
        "resource-r/todo-a",
        "userspace/.x",
        "a/b/c/d/e",
        "a\tb",
    ] {
        assert!(!Key::parse(path).is_replicated(), "{path}");
    }
    assert!(!Key::Other("x".repeat(300)).is_replicated());
    let key = Key::parse("resource-r/strange/thing");
    assert_eq!(key.resource().unwrap().as_str(), "r");
    assert_eq!(key.owner(), None);
    assert_eq!(
        Key::parse("resource-r/log-000000001-b")
            .owner()
            .unwrap()
            .as_str(),
        "b"
    );
}
