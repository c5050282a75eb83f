//! Damaged values make nothing panic or run for ever (I12).
use super::*;
use crate::*;
use mars_tree::{FileMeta, Link, Stamp, Value};
use proptest::prelude::*;

/// Everything that this crate answers.
fn ask_everything(w: &World) {
    let v = w.v();
    wanted_units(&v);
    let _ = fetch_plan(&v, &w.res);
    let _ = sync_plan(&v, &w.res);
    for torn in [false, true] {
        let _ = replay_plan(&v, &w.res, torn);
    }
    for tail in [Tail::Unread, Tail::Torn, Tail::Cut] {
        primary_plan(&v, &w.res, tail);
    }
    let _ = rotate_plan(&v, &w.res, 10, 5_000_000_000);
    deletable_logs(&v, &w.res, Duration::ZERO);
    deletable_versions(&v, &w.res, Duration::ZERO);
    split_brain(&v, &w.res);
    for h in ["hostA", "hostB", "hostZ"].map(host) {
        let p = progress(&v, &w.res, &h);
        assert!(p.replay_pos <= p.fetch_pos && p.fetch_pos <= p.fetch_size);
        sync_progress(&v, &w.res, &h);
        consistency(&v, &w.res, &h);
        disk_state(&v, &w.res, &h).to_string();
        repl_state(&v, &w.res, &h);
        role(&v, &w.res, &h);
        assert_eq!(flags(&v, &w.res, &h).0.len(), 6);
    }
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    let positions = (
        0u32..5,
        prop::sample::select(vec!["hostA", "hostB", "hostZ"]),
        any::<u64>(),
        any::<u64>(),
    );
    prop_oneof![
        prop::collection::vec(1u8..=255, 1..40),
        positions
            .clone()
            .prop_map(|(n, h, p, d)| format!("log-{n:09}-{h},{p},{d}").into_bytes()),
        positions.prop_map(|(n, h, p, d)| {
            let zero = "0".repeat(32);
            let pred = if d % 3 == 0 {
                String::new()
            } else {
                format!("{zero},log-{n:09}-{h},{d}")
            };
            format!("{zero},log-{:09}-{h},{p}:{pred}", n + 1).into_bytes()
        }),
        any::<u64>().prop_map(|n| n.to_string().into_bytes()),
        any::<i64>().prop_map(|n| n.to_string().into_bytes()),
        prop::sample::select(vec![
            ".deleted",
            "(none)",
            "(any)",
            "hostA",
            "hostB",
            "0",
            "1",
            "-1",
            "log-999999999-hostA,0,0",
            "18446744073709551615",
            "-9223372036854775808",
            ",,,",
            "0x",
            "-85,-10101,0xff",
        ])
        .prop_map(|s| s.as_bytes().to_vec()),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn garbage_in_any_key(
        which in 0usize..3,
        changes in prop::collection::vec((any::<prop::sample::Index>(), value(), any::<u64>()), 1..25),
        files in prop::collection::vec((1u32..7, any::<bool>(), any::<u64>()), 0..4),
    ) {
        let snap = [fixtures::steady, fixtures::syncing, fixtures::split][which]();
        for me in ["hostA", "hostB"] {
            let mut w = World::new(snap.clone(), me);
            let keys: Vec<String> = w.snap.links.keys().cloned().collect();
            for (index, bytes, stamp) in &changes {
                let value = Value::new(bytes.clone()).unwrap();
                let stamp = Stamp::from_nanos(*stamp);
                w.snap.links.insert(index.get(&keys).clone(), Link { value, stamp });
            }
            for (nr, a, size) in &files {
                let h = if *a { "hostA" } else { "hostB" };
                let meta = FileMeta { size: *size, mtime: fixtures::OLD };
                w.snap.files.insert(format!("resource-lv0/log-{nr:09}-{h}"), meta);
            }
            ask_everything(&w);
        }
    }
}

#[test]
fn garbage_each_key_alone() {
    for bad in [
        &b"x"[..],
        b".deleted",
        b"\xff\xfe",
        b"18446744073709551616",
        b"-0",
    ] {
        for make in [fixtures::steady, fixtures::syncing, fixtures::split] {
            for key in make().links.keys() {
                let mut w = World::new(make(), "hostA");
                let value = Value::new(bad).unwrap();
                w.snap.links.insert(
                    key.clone(),
                    Link {
                        value,
                        stamp: fixtures::OLD,
                    },
                );
                ask_everything(&w);
            }
        }
    }
}
