//! Clusters that merge and split, on hand-made and on random trees.
use crate::merge::{
    MergeConflict, Side, admit_batch, conflicts, is_cluster_id, merged_key, revive_batch,
    same_cluster, take_batch,
};
use crate::split::{apart, forgotten, hosts_of, part_name, parts, split_key};
use mars_tree::{HostName, Key, Snapshot, Stamp};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

fn at(secs: u64) -> Stamp {
    Stamp::from_nanos(secs * 1_000_000_000)
}

fn h(name: &str) -> HostName {
    name.parse().unwrap()
}

fn tree(links: &[(&str, &str)]) -> Snapshot {
    let mut s = Snapshot::default();
    for (path, value) in links {
        s.insert(&Key::parse(path), value, at(100));
    }
    s
}

fn ours() -> Snapshot {
    tree(&[
        ("uuid", "a_1.000000000"),
        ("ips/ip-a", "10.0.0.1"),
        ("ips/ip-b", "10.0.0.2"),
        ("resource-r/data-a", "/dev/r"),
        ("resource-r/size", "4096"),
        ("resource-gone/maxnr", "7"),
    ])
}

fn theirs() -> Snapshot {
    tree(&[
        ("uuid", "c_2.000000000"),
        ("ips/ip-c", "10.0.0.3"),
        ("resource-s/data-c", "/dev/s"),
        ("resource-s/size", "8192"),
        ("resource-gone/size", "4096"),
    ])
}

fn found(a: &Snapshot, b: &Snapshot) -> Vec<String> {
    let all = conflicts(&Side::of(a), &Side::of(b));
    all.iter().map(ToString::to_string).collect()
}

#[test]
fn merge_conflicts_are_names_and_addresses_that_both_have() {
    assert_eq!(
        found(&ours(), &theirs()),
        [""; 0],
        "of `gone` only maxnr is left here"
    );
    for (path, value, word) in [
        ("resource-r/size", "1", "resource r exists in both clusters"),
        ("resource-gone/primary", "c", ""),
        (
            "ips/ip-a",
            "10.0.0.9",
            "host a exists in both clusters (here 10.0.0.1, there 10.0.0.9)",
        ),
        ("ips/ip-d", "10.0.0.2", "b and d both have address 10.0.0.2"),
        (
            "ips/ip-x-a",
            "10.0.0.8",
            "host name a cannot be told from x-a by its ending",
        ),
        ("ips/ip-a", "10.0.0.1", ""),
    ] {
        let mut other = theirs();
        other.insert(&Key::parse(path), value, at(100));
        let said = found(&ours(), &other);
        match word {
            "" => assert!(said.is_empty(), "{path}: {said:?}"),
            _ => assert_eq!(said, [word], "{path}"),
        }
        // Nobody merges from the other side, either.
        assert_eq!(found(&other, &ours()).len(), said.len(), "{path}");
    }
}

#[test]
fn merge_of_parts_with_one_uuid_looks_at_members_only() {
    let part = |member: &str| {
        tree(&[
            ("uuid", "a_1.000000000"),
            ("ips/ip-a", "10.0.0.1"),
            ("resource-r/size", "4096"),
            (&format!("resource-r/data-{member}"), "/dev/r"),
        ])
    };
    let no_member = tree(&[("uuid", "a_1.000000000"), ("resource-r/size", "1")]);
    assert!(found(&part("a"), &part("a")).is_empty());
    assert!(found(&part("a"), &no_member).is_empty());
    assert_eq!(
        found(&part("a"), &part("b")),
        ["resource r exists in both clusters"]
    );
    assert!(Side::of(&part("a")).is_one_with(&Side::of(&part("b"))));
    assert!(!Side::of(&part("a")).is_one_with(&Side::of(&no_member)));
}

#[test]
fn merge_limits_are_counted_together() {
    let many = |prefix: &str, n: u32, net: u32| {
        let mut s = tree(&[("uuid", &format!("{prefix}_1.000000000"))]);
        for i in 0..n {
            let ip = format!("10.{net}.{}.{}", i / 250, i % 250 + 1);
            s.insert(&Key::parse(&format!("ips/ip-{prefix}{i}")), &ip, at(1));
        }
        s
    };
    assert!(found(&many("a", 256, 1), &many("b", 256, 2)).is_empty());
    let all = conflicts(&Side::of(&many("a", 256, 1)), &Side::of(&many("b", 257, 2)));
    assert_eq!(all, [MergeConflict::TooMany("hosts", 512)]);
}

#[test]
fn merge_links_of_both_sides() {
    let (a, b) = (Side::of(&ours()), Side::of(&theirs()));
    let mut split = theirs();
    split.insert(&split_key(&h("c")), "c_1", at(1));
    assert_eq!(
        admit_batch(&split, &a).describe(),
        [
            "delete userspace/split/c",
            "set ips/ip-a -> 10.0.0.1",
            "set ips/ip-b -> 10.0.0.2",
            "set userspace/merged/a_1.000000000 -> c_2.000000000",
            "set uuid -> c_2.000000000",
        ]
    );
    assert_eq!(
        take_batch(&ours(), &b).describe(),
        [
            "set ips/ip-c -> 10.0.0.3",
            "set userspace/merged/a_1.000000000 -> c_2.000000000",
            "set uuid -> c_2.000000000",
        ]
    );
    // Parts of one cluster keep their uuid.
    let mut same = theirs();
    same.insert(&Key::Uuid, "a_1.000000000", at(1));
    assert_eq!(
        take_batch(&ours(), &Side::of(&same)).describe(),
        ["set ips/ip-c -> 10.0.0.3"]
    );
}

#[test]
fn merge_revives_what_deletions_of_the_other_side_would_hit() {
    let (mut here, mut there) = (ours(), theirs());
    let both = |s: &mut Snapshot, path: &str, value: &str, secs: u64| {
        s.insert(&Key::parse(path), value, at(secs))
    };
    for (path, a, b) in [
        ("resource-s/primary", (".deleted", 200), ("c", 100)),
        (
            "resource-s/userspace/last-primary",
            (".deleted", 50),
            ("c", 100),
        ),
        ("resource-r/primary", ("a", 100), (".deleted", 100)),
        ("resource-s/log-000000001-c", (".deleted", 200), ("c", 100)),
        ("ips/ip-c", (".deleted", 200), ("10.0.0.3", 100)),
        ("userspace/note", (".deleted", 200), ("x", 100)),
    ] {
        both(&mut here, path, a.0, a.1);
        both(&mut there, path, b.0, b.1);
    }
    let batch = revive_batch(&here, &there);
    assert_eq!(
        batch.describe(),
        ["set resource-r/primary -> a", "set resource-s/primary -> c"]
    );
    // A copy of links from there is no resource of ours, so that a run that broke off here can be repeated.
    both(&mut here, "resource-s/primary", "c", 300);
    assert!(
        Side::of(&here)
            .resources
            .contains_key("s".parse::<mars_tree::ResName>().as_ref().unwrap())
    );
    assert!(conflicts(&Side::of_own(&here, &there), &Side::of(&there)).is_empty());
    both(&mut here, "resource-s/size", "5", 300);
    assert_eq!(
        conflicts(&Side::of_own(&here, &there), &Side::of(&there)).len(),
        1
    );
    both(&mut here, "resource-s/size", "8192", 300);
    both(&mut here, "resource-s/device-a", "s", 300);
    both(&mut there, "resource-s/device-a", "s", 300);
    assert_eq!(
        conflicts(&Side::of_own(&here, &there), &Side::of(&there)).len(),
        1,
        "a guest of ours"
    );
}

#[test]
fn merged_ids_are_one_cluster_whatever_the_direction() {
    let mergers = [("a", "b"), ("b", "c"), ("x", "y"), ("y", "x")];
    let same = |p: &str, q: &str| same_cluster(p, q, mergers.into_iter());
    assert!(same("a", "c") && same("c", "a") && same("x", "y") && same("q", "q"));
    assert!(!same("a", "x") && !same("a", "q") && !same("", "a"));
    assert_eq!(
        merged_key("a_1.000000000").path(),
        "userspace/merged/a_1.000000000"
    );
    for bad in [
        "",
        "(any)",
        "(visit)",
        ".x",
        "a/b",
        "a b",
        "ä",
        &"x".repeat(201),
    ] {
        assert!(!is_cluster_id(bad), "{bad}");
    }
    assert!(is_cluster_id("hostA_1700000000.123456789"));
}

#[test]
fn split_parts_share_resources_through_others() {
    let mut s = tree(&[
        ("ips/ip-a", "1.1.1.1"),
        ("ips/ip-b", "1.1.1.2"),
        ("ips/ip-c", "1.1.1.3"),
        ("ips/ip-d", "1.1.1.4"),
        ("ips/ip-e", "1.1.1.5"),
        ("resource-r/data-a", "/x"),
        ("resource-r/data-b", "/x"),
        ("resource-s/data-b", "/x"),
        ("resource-s/device-c", "s"),
        ("resource-t/data-d", "/x"),
        ("resource-t/data-left", "/x"),
    ]);
    let text = |s: &Snapshot| -> Vec<String> {
        let one =
            |p: &BTreeSet<HostName>| p.iter().map(|h| h.as_str()).collect::<Vec<_>>().join("");
        parts(s).iter().map(one).collect()
    };
    assert_eq!(text(&s), ["abc", "d", "e"], "c is a guest");
    s.insert(&Key::parse("resource-s/device-c"), ".deleted", at(200));
    assert_eq!(text(&s), ["ab", "c", "d", "e"]);
    assert_eq!(part_name(&parts(&s)[0], at(5)), "a_5.000000000");
}

#[test]
fn split_forgets_hosts_and_resources_of_other_parts_only() {
    let s = tree(&[
        ("uuid", "u"),
        ("ips/ip-a", "1.1.1.1"),
        ("ips/ip-b", "1.1.1.2"),
        ("actual-b/time", "1.000000000"),
        ("defaults-b/sync-limit", "0"),
        ("userspace/note-b", "x"),
        ("userspace/split/b", "b_1"),
        ("resource-r/data-a", "/x"),
        ("resource-r/version-000000001-b", "x"),
        ("resource-s/data-b", "/x"),
        ("resource-s/primary", ".deleted"),
        ("resource-s/actual-b/is-primary", "0"),
        ("resource-empty/maxnr", "7"),
    ]);
    let keys = forgotten(&s, &BTreeSet::from([h("b")]));
    let paths: Vec<String> = keys.iter().map(Key::path).collect();
    assert_eq!(
        paths,
        [
            "actual-b/time",
            "defaults-b/sync-limit",
            "ips/ip-b",
            "resource-s/actual-b/is-primary",
            "resource-s/data-b",
            "resource-s/primary",
        ]
    );
    assert!(forgotten(&s, &BTreeSet::new()).is_empty());
}

#[test]
fn split_host_without_a_part_forgets_nobody() {
    let said: BTreeMap<HostName, String> = [("a", "p"), ("b", "q")]
        .map(|(n, p)| (h(n), p.to_string()))
        .into();
    assert_eq!(apart(&said, &h("a")), BTreeSet::from([h("b")]));
    assert!(apart(&said, &h("new")).is_empty());
}

proptest! {
    /// Each host is in exactly one part; members of a resource are never separated; and what a part forgets never names one of its own.
    #[test]
    fn split_parts_are_a_partition(memberships in proptest::collection::vec((0usize..8, 0usize..6), 0..20)) {
        let name = |i: usize| h(&format!("h{i}"));
        let mut s = Snapshot::default();
        for i in 0..8 {
            s.insert(&Key::Ip(name(i)), &format!("10.0.0.{}", i + 1), at(1));
        }
        for (host, res) in &memberships {
            s.insert(&Key::parse(&format!("resource-r{res}/data-h{host}")), "/x", at(1));
        }
        let parts = parts(&s);
        let all: Vec<HostName> = parts.iter().flatten().cloned().collect();
        prop_assert_eq!(all.len(), 8);
        prop_assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), 8);
        for res in s.resources() {
            let hosts = hosts_of(&s, &res);
            prop_assert_eq!(parts.iter().filter(|p| !p.is_disjoint(&hosts)).count(), 1);
        }
        for part in &parts {
            let others: BTreeSet<HostName> = all.iter().filter(|x| !part.contains(x)).cloned().collect();
            for key in forgotten(&s, &others) {
                prop_assert!(key.owner().is_none_or(|o| !part.contains(o)), "{}", key.path());
            }
        }
    }

    /// Whatever is in the two trees: afterwards both know the same hosts and the same uuid, and a second merge has nothing to do.
    #[test]
    fn merge_makes_one_of_two(
        a in proptest::collection::btree_map(0u8..6, 1u8..250, 1..5),
        b in proptest::collection::btree_map(0u8..6, 1u8..250, 1..5),
        same_uuid in any::<bool>(),
    ) {
        let make = |hosts: &BTreeMap<u8, u8>, uuid: &str| {
            let mut s = Snapshot::default();
            s.insert(&Key::Uuid, uuid, at(1));
            for (n, ip) in hosts {
                s.insert(&Key::Ip(h(&format!("h{n}"))), &format!("10.0.0.{ip}"), at(1));
            }
            s
        };
        let (mut a, mut b) = (make(&a, "u"), make(&b, if same_uuid { "u" } else { "v" }));
        let (x, y) = (Side::of(&a), Side::of(&b));
        prop_assume!(conflicts(&x, &y).is_empty());
        prop_assert!(conflicts(&y, &x).is_empty());
        let apply = |s: &mut Snapshot, lines: Vec<String>| {
            for line in lines {
                let (path, value) = line.strip_prefix("set ").unwrap().split_once(" -> ").unwrap();
                s.insert(&Key::parse(path), value, at(9));
            }
        };
        let (admit, take) = (admit_batch(&b, &x).describe(), take_batch(&a, &y).describe());
        apply(&mut b, admit);
        apply(&mut a, take);
        prop_assert!(Side::of(&a).is_one_with(&Side::of(&b)));
        prop_assert_eq!(Side::of(&a).uuid, y.uuid);
    }
}
