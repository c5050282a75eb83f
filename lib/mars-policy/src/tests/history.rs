//! Every row of the table in symlink-tree.md 4.5.
use super::*;
use crate::split_brain;

const V1: &str = "eae75bd0648f4b9f8ece4a07b4c47429,log-000000001-hostA,1048576";
const V2: &str = "ab6ca3b5e4f9a9d35ea2226916d13904,log-000000002-hostA,524288";
const ZERO: &str = "00000000000000000000000000000000";

type Found = Vec<(String, Vec<(String, u64)>)>;

fn found(w: &World) -> Found {
    split_brain(&w.v(), &w.res)
        .map(|s| s.points)
        .unwrap_or_default()
        .into_iter()
        .map(|p| {
            let hosts = p.hosts.into_iter().map(|(h, n)| (h.to_string(), n));
            (p.after, hosts.collect())
        })
        .collect()
}

fn point(after: &str, hosts: &[(&str, u64)]) -> Found {
    let hosts = hosts.iter().map(|(h, n)| ((*h).to_string(), *n)).collect();
    vec![(after.to_string(), hosts)]
}

#[test]
fn split_none_when_steady_or_behind() {
    assert_eq!(found(&World::steady("hostA")), vec![]);
    assert_eq!(found(&World::new(fixtures::syncing(), "hostB")), vec![]);
    // Mere lag, within the log and over logs.
    for replay in [
        "log-000000003-hostB,10",
        "log-000000002-hostA,10",
        "log-000000001-hostA,10",
    ] {
        let w = World::steady("hostA").with(&format!("replay-hostA -> {replay},0"));
        assert_eq!(found(&w), vec![], "{replay}");
    }
}

#[test]
fn split_same_number_different_creators() {
    let after = "log-000000002-hostA,524288";
    let want = point(after, &[("hostA", 16384), ("hostB", 8192)]);
    assert_eq!(found(&World::new(fixtures::split(), "hostA")), want);
    assert_eq!(found(&World::new(fixtures::split(), "hostB")), want);
}

#[test]
fn split_identical_ancestor_below_both() {
    // Both went on further; number 4 of hostA against number 3 of hostB, both steps deep.
    let w = World::new(fixtures::split(), "hostA").with(&format!(
        "version-000000004-hostA -> {ZERO},log-000000004-hostA,50:78e853fbec3c0daf4865f797871fba83,log-000000003-hostA,16384
         replay-hostA -> log-000000004-hostA,50,0"
    ));
    assert_eq!(
        found(&w),
        point(
            "log-000000002-hostA,524288",
            &[("hostA", 16434), ("hostB", 8192)]
        )
    );
}

#[test]
fn split_a_final_length_that_is_too_short() {
    // hostB was forced with half of log 2, hostA wrote on in it.
    let w = World::steady("hostA").with(&format!(
        "replay-hostA -> log-000000002-hostA,524288,0
         version-000000003-hostA -> -
         version-000000003-hostB -> {ZERO},log-000000003-hostB,8192:{ZERO},log-000000002-hostA,262144"
    ));
    let want = point(
        "log-000000002-hostA,262144",
        &[("hostA", 0), ("hostB", 8192)],
    );
    assert_eq!(found(&w), want);
    // hostA has logged that much, but not written it back yet.
    let dirty = w.with("replay-hostA -> log-000000002-hostA,0,524288");
    assert_eq!(found(&dirty), want);
    // hostA has not even come to the end of the common part: it only lags.
    let lag = dirty.with(&format!(
        "replay-hostA -> log-000000002-hostA,1000,0
         version-000000002-hostA -> {ZERO},log-000000002-hostA,1000:{V1}"
    ));
    assert_eq!(found(&lag), vec![]);
}

#[test]
fn split_unknown_predecessor() {
    // A hole in the chain of hostB, as after an emergency.
    let w = World::steady("hostA").with(&format!(
        "replay-hostB -> log-000000013-hostB,0,0
         version-000000013-hostB -> {ZERO},log-000000013-hostB,0:"
    ));
    assert_eq!(found(&w), point("", &[("hostA", 0), ("hostB", 0)]));
    // The very first log of two resources that happen to have the same name.
    let w = World::steady("hostA").with(
        "replay-hostA -> log-000000001-hostA,5,0
         replay-hostB -> log-000000001-hostB,6,0
         version-{000000001,000000002,000000003}-{hostA,hostB} -> -",
    );
    assert_eq!(found(&w), point("", &[("hostA", 5), ("hostB", 6)]));
}

#[test]
fn split_absent_own_link_takes_the_one_before() {
    let w = World::steady("hostA").with("version-000000003-hostB -> -");
    assert_eq!(
        found(&w.with("replay-hostA -> log-000000002-hostA,9,0")),
        vec![]
    );
    // Both the own link and the one before are gone.
    let w = World::steady("hostA")
        .with("version-{000000003,000000002}-hostB -> -")
        .with("replay-hostA -> log-000000002-hostA,9,0");
    assert_eq!(found(&w), point("", &[("hostA", 0), ("hostB", 8192)]));
}

#[test]
fn split_three_hosts_are_grouped_by_point() {
    let w = World::new(fixtures::split(), "hostA").with(&format!(
        "data-hostC -> /dev/c
         replay-hostC -> log-000000002-hostA,524288,0
         version-000000002-hostC -> {V2}:{V1}"
    ));
    // hostC lags behind both branches.
    let want = point(
        "log-000000002-hostA,524288",
        &[("hostA", 16384), ("hostB", 8192)],
    );
    assert_eq!(found(&w), want);
    let w = w.with(&format!(
        "replay-hostC -> log-000000003-hostA,100,0
         version-000000003-hostC -> {ZERO},log-000000003-hostA,100:{V2}"
    ));
    assert_eq!(
        found(&w),
        point(
            "log-000000002-hostA,524288",
            &[("hostA", 16384), ("hostB", 8192), ("hostC", 100)]
        )
    );
}

#[test]
fn split_duplicate_local_files() {
    let w = World::steady("hostA").with("log-000000003-hostA = 7");
    assert_eq!(found(&w), point("", &[("hostA", 7), ("hostB", 8192)]));
    assert_eq!(
        found(&World::steady("hostA").with("log-000000003-hostA = 0")),
        vec![]
    );
}

#[test]
fn split_damaged_chains_end() {
    // Predecessors that do not fall would walk for ever.
    let w = World::steady("hostA").with(&format!(
        "replay-hostA -> log-000000002-hostA,9,0
         version-000000003-hostB -> {ZERO},log-000000003-hostB,8192:{ZERO},log-000000003-hostB,1"
    ));
    assert_eq!(found(&w), point("", &[("hostA", 0), ("hostB", 8192)]));
}
