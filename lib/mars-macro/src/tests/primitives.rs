use super::*;

fn steady(name: &str, args: &[&str]) -> String {
    World::new(fixtures::steady(), "hostA")
        .args(args)
        .view(name)
}
fn syncing(name: &str, args: &[&str]) -> String {
    World::new(fixtures::syncing(), "hostB")
        .args(args)
        .view(name)
}

#[test]
fn primitive_switches_and_states() {
    for (name, value) in [
        ("todo-attach", "1"),
        ("todo-sync", "1"),
        ("todo-fetch", "1"),
        ("todo-replay", "1"),
        ("todo-primary", "0"),
        ("todo-secondary", "0"),
        ("is-attach", "1"),
        ("is-fetch", "0"),
        ("is-primary", "0"),
        ("is-secondary", "1"),
        ("is-consistent", "1"),
        ("is-almost-consistent", "1"),
        ("is-orphan", "0"),
        ("is-split-brain", "0"),
        ("is-emergency", "0"),
        ("is-module-loaded", "1"),
        ("is-member", "1"),
        ("is-guest", "0"),
        ("is-alive", "1"),
        ("nr-attach", "2"),
        ("nr-primary", "1"),
        ("nr-secondary", "1"),
        ("replay-code", "0"),
        ("rest-space", "83"),
        ("total-space", "92"),
        ("get-disk", "/dev/vg/lv0"),
        ("get-device", "/dev/mars/lv0"),
        ("disk-present", "1"),
        ("device-present", "0"),
        ("device-opened", "0"),
        ("disk-error", "0"),
        ("get-primary", "hostB"),
        ("actual-primary", "hostB"),
        ("uuid", "hostA_1700000000.123456789"),
        ("tree", "0.1"),
        ("features-version", "4"),
        ("used-log-digest", "CHKSUM_CRC32C"),
        (
            "usable-compressions",
            "COMPRESS_LZO|COMPRESS_LZ4|COMPRESS_ZLIB",
        ),
        ("disabled-log-digests", ""),
        ("global-sync-limit-value", "0"),
        ("time", "1700090005"),
        ("real-time", "1700090005"),
        ("systemd-unit", ""),
    ] {
        assert_eq!(steady(name, &[]), value, "{name}");
    }
    assert_eq!(steady("is-primary", &["hostB"]), "1");
    assert_eq!(steady("is-primary", &["hostZ"]), "");
    assert_eq!(steady("does", &["attach"]), "1");
    assert_eq!(steady("todo", &["fetch"]), "1");
    assert_eq!(steady("is-member", &["lv0", "hostZ"]), "0");
    assert_eq!(steady("get-msg", &["inf-sync"]), "OK");
}

#[test]
fn primitive_lists() {
    assert_eq!(steady("cluster-members", &[]), "hostA\nhostB");
    assert_eq!(steady("resource-members", &[]), "hostA\nhostB");
    assert_eq!(steady("my-resources", &[]), "lv0");
    assert_eq!(steady("my-resources", &["hostZ"]), "");
    assert_eq!(steady("all-resources", &[]), "lv0");
    assert_eq!(steady("count-cluster-members", &[]), "2");
}

#[test]
fn primitive_numbers() {
    for (name, value) in [
        ("resource-size", "10737418240"),
        ("disk-size", "10737418240"),
        ("resource-possible-size", "10737418240"),
        ("occupied-size", "393216"),
        ("deletable-size", "0"),
        ("writeback-rest", "0"),
        ("sync-pos", "4294967296"),
        ("sync-size", "10737418240"),
        ("sync-rest", "6442450944"),
        ("sync-reached", "0"),
        ("sync-percent", "40.2"),
        ("sync-permille", "400.2"),
        ("sync-vector", "4294967296:10737418240"),
        ("sync-rate", "104857600"),
        ("sync-ops-rate", "800"),
        ("sync-amount-rate", "102400"),
        ("sync-remain", "61.44"),
        ("replay-pos", "1048576"),
        ("work-pos", "1048576"),
        ("fetch-pos", "1441792"),
        ("replay-size", "1441792"),
        ("fetch-size", "1572864"),
        ("work-size", "1572864"),
        ("fetch-rest", "131072"),
        ("replay-rest", "393216"),
        ("work-rest", "524288"),
        ("work-percent", "67"),
        ("work-threshold-reached", "1"),
        ("fetch-almost-reached", "0"),
        ("summary-vector", "1048576:1441792:1572864"),
        ("fetch-rate", "0"),
        ("fetch-remain", "-1"),
        ("work-remain", "-1"),
        ("replay-basenr", "1"),
        ("replay-lognr", "2"),
        ("fetch-lognr", "2"),
        ("work-lognr", "2"),
        ("replay-logcount", "1"),
        ("fetch-logcount", "0"),
        ("alive-timestamp", "1700090003"),
        ("alive-age", "1"),
        ("replay-timestamp", "1700082805"),
        ("replay-age", "7200"),
        ("fetch-lag", "0"),
    ] {
        assert_eq!(syncing(name, &[]), value, "{name}");
    }
    assert_eq!(syncing("work-threshold-reached", &["524287"]), "0");
    assert_eq!(syncing("fetch-almost-reached", &["900"]), "1");
    assert_eq!(syncing("summary-vector", &["-"]), "1048576-1441792-1572864");
    assert_eq!(syncing("alive-timestamp", &["hostZ"]), "-1");
    assert_eq!(syncing("replay-age", &["hostZ"]), "-1");
    let a = World::new(fixtures::syncing(), "hostA").with("log-000000002-hostA = 524288");
    assert_eq!(a.view("writeback-rest"), "4096");
    assert_eq!(steady("deletable-size", &[]), "524288");
    assert_eq!(steady("sync-percent", &[]), "100");
}

#[test]
fn primitive_text_functions() {
    assert_eq!(steady("errno-text", &["-5"]), "[EIO:Input/output_error]");
    assert_eq!(steady("human-seconds", &["3661"]), "01:01:01");
    assert_eq!(
        steady("human-number", &["k", ", ", "_", "1500", "2500"]),
        "1.5, 2.5_KB"
    );
    assert_eq!(steady("progress", &["10", "3", "5", "10"]), "[==>:.....]");
    assert_eq!(syncing("progress", &[]), "[============>:::.]");
}

#[test]
fn primitive_names_have_one_spelling_in_many_forms() {
    for name in [
        "sync_percent",
        "syncpercent",
        "primitive-sync-percent",
        "sync-percent",
    ] {
        assert_eq!(syncing(name, &[]), "40.2", "{name}");
    }
    for name in ["sync-line", "sync_line", "syncline"] {
        assert!(syncing(name, &[]).starts_with("       > sync: "), "{name}");
    }
}

#[test]
fn primitive_every_name_has_a_value() {
    let mut w = World::new(fixtures::steady(), "hostA");
    for name in primitive_names().into_iter().chain(predefined_names()) {
        w.args = match name {
            "does" | "todo" => vec!["attach".into()],
            "get-msg" => vec!["inf-sync".into()],
            _ => vec![],
        };
        let value = evaluate(name, &w.scope());
        assert!(value.is_ok(), "{name}: {value:?}");
    }
}

#[test]
fn primitive_errors_name_the_way_out() {
    let w = World::new(fixtures::steady(), "hostA");
    let say = |name: &str| evaluate(name, &w.scope()).unwrap_err().to_string();
    assert_eq!(
        say("disk-stat"),
        "cannot find macro \"disk-stat\"; did you mean \"diskstate\"?"
    );
    assert_eq!(
        say("rolle"),
        "cannot find macro \"rolle\"; did you mean \"role\"?"
    );
    assert_eq!(say("xyzzyxyzzy"), "cannot find macro \"xyzzyxyzzy\"");
    let scope = Scope {
        res: None,
        ..w.scope()
    };
    assert_eq!(
        evaluate("flags", &scope).unwrap_err().to_string(),
        "macro \"flags\" needs a resource"
    );
    assert_eq!(
        evaluate("sync-rest", &scope).unwrap_err().to_string(),
        "macro \"sync-rest\" needs a resource"
    );
    assert_eq!(
        evaluate("uuid", &scope).unwrap(),
        "hostA_1700000000.123456789"
    );
    let bad = World::new(fixtures::steady(), "hostA").args(&["a.b"]);
    assert!(evaluate("is-primary", &bad.scope()).is_err());
    // Numbers are read as everywhere in the language.
    assert_eq!(bad.view("human-seconds"), "00:00:00");
}
