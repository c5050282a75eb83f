use super::*;
use crate::{Unit, wanted_units};
use std::collections::BTreeSet;

fn wanted(w: &World) -> Vec<String> {
    wanted_units(&w.v()).iter().map(Unit::to_string).collect()
}

const SERVERS: [&str; 3] = ["mars-meta.service", "mars-fetch.socket", "mars-sync.socket"];

fn with_servers(more: &[&str]) -> Vec<String> {
    SERVERS
        .iter()
        .chain(more)
        .map(|s| (*s).to_string())
        .collect()
}

#[test]
fn unit_names_are_escaped_and_parsed_back() {
    let res: ResName = "lv-0".parse().unwrap();
    let u = Unit::Logger(res.clone());
    assert_eq!(u.to_string(), "mars-logger@lv\\x2d0.service");
    for u in [
        Unit::Meta,
        Unit::FetchServe,
        Unit::SyncServe,
        u,
        Unit::Fetch(res.clone()),
        Unit::Replay("_a".parse().unwrap()),
        Unit::Sync("9".parse().unwrap()),
    ] {
        assert_eq!(u.to_string().parse::<Unit>(), Ok(u));
    }
    for bad in [
        "",
        "mars-meta",
        "mars-logger@.service",
        "mars-logger@a-b.service",
        "mars-logger@a\\x2.service",
        "mars-logger@a\\xzz.service",
        "mars-logger@a\\xff.service",
        "mars-fetch@lv0",
        "ssh@lv0.service",
    ] {
        assert!(bad.parse::<Unit>().is_err(), "{bad}");
    }
}

#[test]
fn unit_commands() {
    let res: ResName = "lv-0".parse().unwrap();
    assert_eq!(
        Unit::Logger(res.clone()).command(),
        ("mars-logger", vec!["lv-0".to_string()])
    );
    assert_eq!(
        Unit::FetchServe.command(),
        ("mars-fetch", vec!["serve".to_string()])
    );
    assert_eq!(Unit::Meta.command(), ("mars-meta", vec![]));
    assert_eq!(Unit::Sync(res.clone()).resource(), Some(&res));
    assert_eq!(Unit::SyncServe.resource(), None);
}

#[test]
fn wanted_primary_and_secondary() {
    let b = World::steady("hostB");
    assert_eq!(wanted(&b), with_servers(&["mars-logger@lv0.service"]));
    let a = World::steady("hostA");
    assert_eq!(
        wanted(&a),
        with_servers(&["mars-fetch@lv0.service", "mars-replay@lv0.service"])
    );
    let s = World::new(fixtures::syncing(), "hostB");
    assert_eq!(
        wanted(&s),
        with_servers(&[
            "mars-fetch@lv0.service",
            "mars-replay@lv0.service",
            "mars-sync@lv0.service"
        ])
    );
}

#[test]
fn wanted_outside_and_while_joining() {
    assert_eq!(
        wanted_units(&World::steady("hostA").global("uuid -> -").v()),
        BTreeSet::new()
    );
    let joining = World::steady("hostA").global("uuid -> (any)");
    assert_eq!(wanted(&joining), ["mars-meta.service"]);
    assert_eq!(wanted(&World::steady("hostC")), with_servers(&[]));
}

#[test]
fn wanted_follows_each_switch() {
    let off = |s: &str| {
        let w = World::new(fixtures::syncing(), "hostB");
        wanted(&w.with(&format!("todo-hostB/{s} -> 0")))
    };
    let all = [
        "mars-fetch@lv0.service",
        "mars-replay@lv0.service",
        "mars-sync@lv0.service",
    ];
    assert_eq!(off("attach"), with_servers(&[]));
    assert_eq!(off("connect"), with_servers(&all[1..]));
    assert_eq!(off("allow-replay"), with_servers(&[all[0], all[2]]));
    assert_eq!(off("sync"), with_servers(&all[..2]));
    // The logger needs nothing but attach.
    let b = World::steady("hostB").with("todo-hostB/{connect,sync,allow-replay} -> 0");
    assert_eq!(wanted(&b), with_servers(&["mars-logger@lv0.service"]));
    assert_eq!(wanted(&b.with("todo-hostB/attach -> 0")), with_servers(&[]));
}

#[test]
fn wanted_logger_stays_while_the_device_is_open() {
    let left = |open: &str| {
        let w = World::steady("hostB").with("primary -> (none)");
        wanted(&w.with(&format!("actual-hostB/open-count -> {open}")))
    };
    assert_eq!(left("1"), with_servers(&["mars-logger@lv0.service"]));
    // Draining: neither a logger nor its opposite.
    assert_eq!(left("0"), with_servers(&[]));
    let gone = World::steady("hostB")
        .with("primary -> (none)")
        .with("actual-hostB/{open-count,is-primary} -> 0");
    assert_eq!(
        wanted(&gone),
        with_servers(&["mars-fetch@lv0.service", "mars-replay@lv0.service"])
    );
    // What others claim about themselves is not about this host.
    let a = World::steady("hostA").with("primary -> (none)");
    assert_eq!(
        wanted(&a),
        with_servers(&["mars-fetch@lv0.service", "mars-replay@lv0.service"])
    );
}

#[test]
fn wanted_no_logger_before_the_own_sync_is_finished() {
    for change in [
        "syncstatus-hostB -> 4096",
        "syncstatus-hostB -> -",
        "size -> garbage",
    ] {
        let w = World::steady("hostB").with(change);
        assert_eq!(
            wanted(&w.with("actual-hostB/{is-primary,open-count} -> 0")),
            with_servers(&[]),
            "{change}"
        );
    }
}

#[test]
fn wanted_respects_the_sync_limit() {
    let mut w = World::new(fixtures::syncing(), "hostB").global("defaults-hostB/sync-limit -> 2");
    let lv0: Vec<_> = w
        .snap
        .links
        .iter()
        .filter_map(|(k, l)| Some((k.strip_prefix("resource-lv0/")?.to_string(), l.clone())))
        .collect();
    for res in ["lv2", "lv10", "lv11"] {
        for (k, l) in &lv0 {
            w.snap
                .links
                .insert(format!("resource-{res}/{k}"), l.clone());
        }
    }
    for res in ["lv0", "lv2", "lv10", "lv11"] {
        fixtures::add(
            &mut w.snap,
            "",
            &format!("resource-{res}/actual-hostB/is-syncing -> 0"),
        );
    }
    let syncs = |w: &World| {
        let mut s = wanted(w);
        s.retain(|u| u.starts_with("mars-sync@"));
        s
    };
    // Digit-aware names decide when nothing else does.
    assert_eq!(
        syncs(&w),
        ["mars-sync@lv0.service", "mars-sync@lv2.service"]
    );
    let w = w.global("defaults-hostB/sync-pref-list -> lv11,lv10");
    assert_eq!(
        syncs(&w),
        ["mars-sync@lv10.service", "mars-sync@lv11.service"]
    );
    // A running one keeps its place.
    let w = w.global("resource-lv2/actual-hostB/is-syncing -> 1");
    assert_eq!(
        syncs(&w),
        ["mars-sync@lv11.service", "mars-sync@lv2.service"]
    );
    // One that cannot run does not use up a turn, but may wait in its unit.
    let w = w.global("resource-lv11/primary -> (none)");
    assert_eq!(
        syncs(&w),
        [
            "mars-sync@lv10.service",
            "mars-sync@lv11.service",
            "mars-sync@lv2.service"
        ]
    );
    let w = w.global("defaults-hostB/sync-limit -> 0");
    assert_eq!(syncs(&w).len(), 4);
}
