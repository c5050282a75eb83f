use super::*;
use crate::{consistency, disk_state, disk_state_at, flags, flags_at, repl_state, role, role_at};

/// `DISKSTATE REPLSTATE FLAGS ROLE` of a host in the world of `w.me`.
fn line_of(w: &World, h: &str) -> String {
    let (v, h) = (w.v(), host(h));
    format!(
        "{} {} {} {}",
        disk_state(&v, &w.res, &h),
        repl_state(&v, &w.res, &h),
        flags(&v, &w.res, &h),
        role(&v, &w.res, &h)
    )
}
fn line(w: &World) -> String {
    line_of(w, w.me.as_str())
}
fn disk(w: &World) -> String {
    disk_state(&w.v(), &w.res, &w.me).to_string()
}
fn repl(w: &World) -> String {
    repl_state(&w.v(), &w.res, &w.me).to_string()
}

#[test]
fn states_of_the_listings() {
    assert_eq!(
        line(&World::steady("hostA")),
        "UpToDate Replaying dCASFR Secondary"
    );
    assert_eq!(
        line(&World::new(fixtures::steady(), "hostB")),
        "UpToDate Replicating DCASFR Primary"
    );
    assert_eq!(
        line(&World::new(fixtures::syncing(), "hostB")),
        "InConsistent Syncing dcAsfr Secondary"
    );
    let primary = World::new(fixtures::syncing(), "hostA").with("log-000000002-hostA = 524288");
    assert_eq!(
        line(&primary),
        "WriteBack[4.000 KiB] Replicating DcASFr Primary"
    );
    let split = World::new(fixtures::split(), "hostA");
    assert!(
        line(&split).ends_with(" RemainsPrimary"),
        "{}",
        line(&split)
    );
    assert!(line_of(&split, "hostB").ends_with(" ForcedPrimary"));
}

#[test]
fn states_of_foreign_hosts_come_from_the_tree() {
    let a = World::steady("hostA");
    assert_eq!(line_of(&a, "hostB"), "UpToDate Replicating DCASFR Primary");
    let b = World::new(fixtures::steady(), "hostB");
    assert_eq!(line_of(&b, "hostA"), "UpToDate Replaying dCASFR Secondary");
    let b = World::new(fixtures::syncing(), "hostB");
    assert_eq!(
        line_of(&b, "hostA"),
        "WriteBack[4.000 KiB] Replicating DcASFr Primary"
    );
}

#[test]
fn disk_state_rows() {
    let a = |change: &str| disk(&World::steady("hostA").with(change));
    assert_eq!(a("data-hostA -> -"), "NotJoined");
    assert_eq!(a("todo-hostA/attach -> 0"), "Detaching");
    assert_eq!(
        a("todo-hostA/attach -> 0\nactual-hostA/is-attached -> 0"),
        "Detached"
    );
    assert_eq!(
        a("actual-hostA/replay-code -> -5"),
        "DefectiveLog[-5=[EIO:Input/output_error]]"
    );
    assert!(a("actual-hostA/replay-code -> -85,-10002").starts_with("IncompleteLog[-85,-10002="));
    assert!(a("actual-hostA/replay-code -> -56").starts_with("UnInitializedLogRecord[-56="));
    assert_eq!(a("actual-hostA/replay-code -> 2"), "UpToDate");
    assert_eq!(a("log-000000003-hostB = 8191"), "Orphan");
    assert_eq!(a("actual-hostA/is-attached -> 0"), "NoAttach");
    assert_eq!(a("syncstatus-hostA -> 4096"), "InConsistent");
    assert_eq!(a("log-000000003-hostB = 8200"), "OutDated[R]");
    assert_eq!(
        a("replay-hostA -> log-000000003-hostB,8000,0"),
        "OutDated[R]"
    );
    assert_eq!(
        a("version-000000004-hostB -> 00000000000000000000000000000000,log-000000004-hostB,5:"),
        "OutDated[F]"
    );
    assert_eq!(
        a("replay-hostA -> log-000000003-hostB,8000,0\nlog-000000003-hostB = 8100"),
        "OutDated[FR]"
    );
    assert_eq!(a("actual-hostB/has-emergency -> 1"), "EmergencyMode");
    assert_eq!(
        a("actual-hostA/disk-error -> -5"),
        "DISK_ERROR=-5[EIO:Input/output_error] UpToDate"
    );
    let w = World::steady("hostA");
    assert_eq!(
        disk_state_at(&w.v(), &w.res, &w.me, false).word,
        "NotPresent"
    );
}

#[test]
fn disk_state_orphan_needs_a_log_with_content() {
    let w = World::steady("hostA").without_file("log-000000003-hostB");
    assert_eq!(disk(&w), "Orphan");
    // A new log that is empty everywhere need not be here.
    let w = World::steady("hostA").with(
        "version-000000004-hostB -> 1ab2920e2f91b916fd55926408775e22,log-000000004-hostB,0:
         replay-hostA -> log-000000004-hostB,0,0",
    );
    assert_eq!(disk(&w), "UpToDate");
}

#[test]
fn disk_state_of_primaries() {
    let b = |change: &str| disk(&World::steady("hostB").with(change));
    let dirty = "replay-hostB -> log-000000003-hostB,4096,4096";
    assert_eq!(b(dirty), "WriteBack[4.000 KiB]");
    assert_eq!(
        b(&format!("{dirty}\nactual-hostB/is-primary -> 0")),
        "Recovery[4.000 KiB]"
    );
    assert_eq!(b("actual-hostB/has-emergency -> 1"), "EmergencyMode");
}

#[test]
fn repl_state_rows() {
    let a = |change: &str| repl(&World::steady("hostA").with(change));
    let w = World::steady("hostA");
    let stopped = crate::View {
        engine_running: false,
        ..w.v()
    };
    assert_eq!(
        repl_state(&stopped, &w.res, &w.me).to_string(),
        "ModuleNotLoaded"
    );
    // Whether it runs over there shows in its heartbeat.
    assert_eq!(
        repl_state(&stopped, &w.res, &host("hostB")).to_string(),
        "Replicating"
    );
    let old = w.global("actual-hostA/time -> 1700080000.000000000");
    assert_eq!(repl(&old), "UnResponsive");
    assert_eq!(a("data-hostA -> -"), "NotJoined");
    assert_eq!(a("todo-hostA/attach -> 0"), "NotStarted");
    assert_eq!(a("primary -> hostA"), "NotYetPrimary");
    let b = |change: &str| repl(&World::steady("hostB").with(change));
    assert_eq!(b("actual-hostB/has-emergency -> 1"), "EmergencyMode");
    assert_eq!(b("size -> 10737418240"), "Replicating");
    assert_eq!(
        a("syncstatus-hostA -> 0\ntodo-hostA/sync -> 0"),
        "PausedSync"
    );
    assert_eq!(a("todo-hostA/sync -> 0"), "Replaying");
    assert_eq!(a("actual-hostA/is-syncing -> 1"), "Syncing");
    assert_eq!(a("todo-hostA/connect -> 0"), "PausedFetch");
    assert_eq!(a("todo-hostA/allow-replay -> 0"), "PausedReplay");
    assert_eq!(a("primary -> (none)"), "NoPrimaryDesignated");
    assert_eq!(a("log-000000003-hostB = 1"), "Orphan");
    let cut = World::steady("hostA").global("actual-hostB/time -> 1700086000.000000000");
    assert_eq!(repl(&cut), "PrimaryUnreachable");
}

#[test]
fn role_rows() {
    let a = |change: &str| {
        let w = World::steady("hostA").with(change);
        role(&w.v(), &w.res, &w.me).to_string()
    };
    assert_eq!(a("data-hostA -> -"), "None");
    assert_eq!(a("primary -> hostA"), "NotYetPrimary");
    assert_eq!(a("actual-hostA/is-primary -> 1"), "RemainsPrimary");
    assert_eq!(
        a("primary -> hostA\nactual-hostA/is-primary -> 1"),
        "ForcedPrimary"
    );
    assert_eq!(
        a("primary -> hostA\nactual-hostA/is-primary -> 1\nactual-hostB/is-primary -> 0"),
        "Primary"
    );
    assert_eq!(a("primary -> (none)"), "Secondary");
    let w = World::steady("hostB");
    assert_eq!(role_at(&w.v(), &w.res, &w.me, false).to_string(), "None");
}

#[test]
fn flags_letters() {
    let a = |change: &str| {
        let w = World::steady("hostA").with(change);
        flags(&w.v(), &w.res, &w.me).0
    };
    assert_eq!(a("actual-hostA/if-on -> 1"), "DCASFR");
    assert_eq!(a("todo-hostA/attach -> 0"), "dCaSFR");
    assert_eq!(a("actual-hostA/is-attached -> 0"), "dCaSFR");
    assert_eq!(
        a("todo-hostA/attach -> 0\nactual-hostA/is-attached -> 0"),
        "dC-SFR"
    );
    let behind = "syncstatus-hostA -> 0
                  replay-hostA -> log-000000003-hostB,1,0
                  log-000000003-hostB = 2";
    assert_eq!(a(behind), "dcAsfr");
    assert_eq!(
        a(&format!(
            "{behind}\ntodo-hostA/{{sync,connect,allow-replay}} -> 0"
        )),
        "dcA---"
    );
    // Reached wins over the switch.
    assert_eq!(a("todo-hostA/{sync,connect,allow-replay} -> 0"), "dCASFR");
    // No disk: neither C nor c.
    assert_eq!(a("data-hostA -> -\nreplay-hostA -> -"), "--ASFR");
    let w = World::steady("hostA");
    assert_eq!(flags_at(&w.v(), &w.res, &w.me, false).0, "-CASFR");
}

#[test]
fn consistency_needs_position_plus_dirty_length() {
    let facts = |syncpos: &str| {
        let w = World::steady("hostA").with(&format!("syncpos-hostA -> {syncpos}"));
        consistency(&w.v(), &w.res, &w.me).replay_reached
    };
    assert!(facts("log-000000003-hostB,8192,0"));
    assert!(facts("log-000000003-hostB,4096,4096"));
    assert!(!facts("log-000000003-hostB,4096,4097"));
    assert!(!facts("log-000000004-hostB,0,0"));
    assert!(facts("log-000000002-hostA,999999,999999"));
    assert!(!facts("damaged"));
    assert!(facts("-"));
    let w = World::steady("hostA").with("replay-hostA -> -");
    assert!(!consistency(&w.v(), &w.res, &w.me).is_consistent());
}

#[test]
fn consistency_dirty_data_count_only_at_an_actual_primary() {
    let clean = |me: &str| {
        let w = World::steady(me).with(&format!("replay-{me} -> log-000000003-hostB,4096,4096"));
        consistency(&w.v(), &w.res, &w.me).clean
    };
    // An open replay window of a secondary is finished before its disk is used.
    assert!(clean("hostA"));
    assert!(!clean("hostB"));
}
