//! Each row of the tables of states, flags, roles and lines: the change to a tree that leads to it, and the text.
use super::*;

type Make = fn() -> World;

/// hostB of the steady state: primary.
fn primary() -> World {
    World::new(fixtures::steady(), "hostB")
}

fn check(rows: &[(Make, &str, &str, &str)]) {
    for (make, change, name, wanted) in rows {
        let (of_host, of_resource): (Vec<&str>, Vec<&str>) = change
            .split('\n')
            .map(str::trim)
            .partition(|l| l.starts_with("actual-") && !l.contains("/is-") && l.contains("/time"));
        let w = make()
            .with(&of_resource.join("\n"))
            .global(&of_host.join("\n"));
        assert_eq!(w.view(name), *wanted, "{name} after {change}");
    }
}

use worlds::{ahead, busy, joining, nobody, nothing, orphan, split, steady, syncing};

const OLD_A: &str = "actual-hostA/time -> 1700086005.000000000";
const OLD_B: &str = "actual-hostB/time -> 1700086005.000000000";

#[test]
fn disk_states_in_their_order() {
    let not_present: Make = || {
        let mut w = steady();
        w.machine.disks_present.clear();
        w
    };
    check(&[
        (
            busy,
            "replay-hostB -> log-000000003-hostB,8192,0\nactual-hostB/has-emergency -> 0\nactual-hostB/replay-code -> 0",
            "diskstate",
            "DISK_ERROR=-5[EIO:Input/output_error] UpToDate",
        ),
        (nothing, "", "diskstate", "NotJoined"),
        (not_present, "", "diskstate", "NotPresent"),
        (steady, "todo-hostA/attach -> 0", "diskstate", "Detaching"),
        (
            steady,
            "todo-hostA/attach -> 0\nactual-hostA/is-attached -> 0",
            "diskstate",
            "Detached",
        ),
        (
            steady,
            "actual-hostA/replay-code -> -5",
            "diskstate",
            "DefectiveLog[-5=[EIO:Input/output_error]]",
        ),
        (
            steady,
            "actual-hostA/replay-code -> -10101",
            "diskstate",
            "DefectiveLog[-10101=[MARS_ERR_CRC_MISMATCH:checksum_mismatch]]",
        ),
        (
            steady,
            "actual-hostA/replay-code -> -85",
            "diskstate",
            "IncompleteLog[-85=[ERESTART:Interrupted_system_call_should_be_restarted]]",
        ),
        (
            steady,
            "actual-hostA/replay-code -> -56",
            "diskstate",
            "UnInitializedLogRecord[-56=[EBADRQC:Invalid_request_code]]",
        ),
        (orphan, "", "diskstate", "Orphan"),
        (steady, "log-000000003-hostB = 8191", "diskstate", "Orphan"),
        (
            steady,
            "actual-hostA/is-attached -> 0",
            "diskstate",
            "NoAttach",
        ),
        (syncing, "", "diskstate", "InConsistent"),
        (joining, "", "diskstate", "InConsistent"),
        (
            steady,
            "syncpos-hostA -> log-000000003-hostB,9000,0",
            "diskstate",
            "InConsistent",
        ),
        (
            primary,
            "replay-hostB -> log-000000003-hostB,8000,192",
            "diskstate",
            "WriteBack[192 B]",
        ),
        (
            primary,
            "replay-hostB -> log-000000003-hostB,4096,0",
            "diskstate",
            "WriteBack[4.000 KiB]",
        ),
        (
            primary,
            "replay-hostB -> log-000000003-hostB,4096,0\nactual-hostB/is-primary -> 0",
            "diskstate",
            "Recovery[4.000 KiB]",
        ),
        (ahead, "", "diskstate", "OutDated[FR]"),
        (
            steady,
            "replay-hostA -> log-000000003-hostB,8000,0",
            "diskstate",
            "OutDated[R]",
        ),
        (
            steady,
            "replay-hostA -> log-000000003-hostB,4096,0\nlog-000000003-hostB = 4096",
            "diskstate",
            "OutDated[F]",
        ),
        (
            steady,
            "actual-hostB/has-emergency -> 1",
            "diskstate",
            "EmergencyMode",
        ),
        (
            steady,
            "actual-hostA/has-emergency -> 1",
            "diskstate",
            "UpToDate",
        ),
        (
            nobody,
            "actual-hostB/has-emergency -> 1",
            "diskstate",
            "UpToDate",
        ),
    ]);
}

#[test]
fn replication_states_in_their_order() {
    let without_engine: Make = || {
        let mut w = steady();
        w.engine_running = false;
        w
    };
    let foreign: Make = || {
        // The same, of another host: nothing is known of its daemons.
        let mut w = primary();
        w.local = "hostA".parse().unwrap();
        w.engine_running = false;
        w
    };
    check(&[
        (without_engine, OLD_A, "replstate", "ModuleNotLoaded"),
        (foreign, "", "replstate", "Replicating"),
        (steady, OLD_A, "replstate", "UnResponsive"),
        (steady, "data-hostA -> -", "replstate", "NotJoined"),
        (steady, "todo-hostA/attach -> 0", "replstate", "NotStarted"),
        (
            primary,
            "actual-hostB/has-emergency -> 1",
            "replstate",
            "EmergencyMode",
        ),
        (
            primary,
            "todo-hostB/connect -> 0",
            "replstate",
            "Replicating",
        ),
        (
            primary,
            "actual-hostB/is-primary -> 0",
            "replstate",
            "NotYetPrimary",
        ),
        (syncing, "todo-hostB/sync -> 0", "replstate", "PausedSync"),
        (steady, "todo-hostA/sync -> 0", "replstate", "Replaying"),
        (syncing, "todo-hostB/connect -> 0", "replstate", "Syncing"),
        (
            steady,
            "todo-hostA/{connect,allow-replay} -> 0",
            "replstate",
            "PausedFetch",
        ),
        (
            steady,
            "todo-hostA/allow-replay -> 0\nprimary -> (none)",
            "replstate",
            "PausedReplay",
        ),
        (nobody, "", "replstate", "NoPrimaryDesignated"),
        (steady, OLD_B, "replstate", "PrimaryUnreachable"),
        (orphan, "", "replstate", "Orphan"),
        (steady, "", "replstate", "Replaying"),
    ]);
}

#[test]
fn flags_letter_by_letter() {
    check(&[
        (steady, "", "flags", "dCASFR"),
        (primary, "", "flags", "DCASFR"),
        (nothing, "", "flags", "---SFR"),
        (syncing, "", "flags", "dcAsfr"),
        (
            syncing,
            "todo-hostB/{sync,connect,allow-replay} -> 0",
            "flags",
            "dcA---",
        ),
        (
            steady,
            "todo-hostA/{sync,connect,allow-replay} -> 0",
            "flags",
            "dCASFR",
        ),
        (steady, "todo-hostA/attach -> 0", "flags", "dCaSFR"),
        (steady, "actual-hostA/is-attached -> 0", "flags", "dCaSFR"),
        (
            steady,
            "todo-hostA/attach -> 0\nactual-hostA/is-attached -> 0",
            "flags",
            "dC-SFR",
        ),
        (ahead, "", "flags", "dCASfr"),
        (
            primary,
            "replay-hostB -> log-000000003-hostB,8000,192",
            "flags",
            "DcASFr",
        ),
    ]);
}

#[test]
fn roles_and_nodes() {
    check(&[
        (nothing, "", "role", "None"),
        (primary, "", "role", "Primary"),
        (
            primary,
            "actual-hostA/is-primary -> 1",
            "role",
            "ForcedPrimary",
        ),
        (
            primary,
            "actual-hostB/is-primary -> 0",
            "role",
            "NotYetPrimary",
        ),
        (split, "", "role", "RemainsPrimary"),
        (steady, "", "role", "Secondary"),
        (nothing, "", "todo-role", "None"),
        (
            primary,
            "actual-hostB/is-primary -> 0",
            "todo-role",
            "Primary",
        ),
        (split, "", "todo-role", "Secondary"),
        (steady, "", "primarynode", "hostB"),
        (nobody, "", "primarynode", "(none)"),
        (nothing, "", "primarynode", "(none)"),
        (steady, "", "commstate", ""),
        (steady, OLD_B, "commstate", "01:06:40"),
        (nobody, OLD_B, "commstate", ""),
        (primary, OLD_B, "commstate", "01:06:40"),
    ]);
}

/// The family of one large user.
#[test]
fn one_and_one() {
    check(&[
        (steady, "", "diskstate-1and1", "Uptodate"),
        // Data that are not written back do not count.
        (
            primary,
            "replay-hostB -> log-000000003-hostB,4096,4096",
            "diskstate-1and1",
            "Uptodate",
        ),
        (ahead, "", "diskstate-1and1", "Outdated[FR]"),
        (
            steady,
            "replay-hostA -> log-000000003-hostB,8000,0",
            "diskstate-1and1",
            "Outdated[R]",
        ),
        (
            steady,
            "replay-hostA -> log-000000003-hostB,4096,0\nlog-000000003-hostB = 4096",
            "diskstate-1and1",
            "Outdated[F]",
        ),
        (syncing, "", "diskstate-1and1", "Inconsistent"),
        (
            steady,
            "actual-hostA/is-attached -> 0",
            "diskstate-1and1",
            "Detached",
        ),
        (nothing, "", "diskstate-1and1", "Detached"),
        (split, "", "replstate-1and1", "Replicating"),
        (steady, OLD_B, "replstate-1and1", "PrimaryUnreachable"),
        (
            syncing,
            "todo-hostB/sync -> 0\nactual-hostB/is-syncing -> 0",
            "replstate-1and1",
            "PausedSync",
        ),
        (syncing, "", "replstate-1and1", "Syncing"),
        (
            steady,
            "todo-hostA/connect -> 0",
            "replstate-1and1",
            "PausedReplay",
        ),
        (
            steady,
            "todo-hostA/allow-replay -> 0",
            "replstate-1and1",
            "PausedReplay",
        ),
        (steady, "", "replstate-1and1", "Replaying"),
        (nobody, "", "replstate-1and1", "Replaying"),
        (nothing, "", "replstate-1and1", "NotJoined"),
        (steady, "", "flags-1and1", "-SFR-"),
        (steady, "todo-hostA/connect -> 0", "flags-1and1", "-S-R-"),
        (steady, "todo-hostA/sync -> 0", "flags-1and1", "--FR-"),
        (
            steady,
            "todo-hostA/allow-replay -> 0",
            "flags-1and1",
            "-SF--",
        ),
        (split, "", "role-1and1", "Primary"),
        (
            primary,
            "actual-hostB/is-primary -> 0",
            "role-1and1",
            "Secondary",
        ),
        (split, "", "primarynode-1and1", "hostA"),
        (nothing, "", "primarynode-1and1", "-"),
        // Below the threshold there is no line about the work, above it there is.
        (
            ahead,
            "",
            "1and1",
            "  lv0 Outdated[FR] Replaying -SFR- Secondary hostB",
        ),
    ]);
    let mut far = ahead();
    far.res = "lv0".parse().unwrap();
    let zero = "0".repeat(32);
    let far = far.with(&format!(
        "version-000000004-hostB -> {zero},log-000000004-hostB,20971520:"
    ));
    assert!(far.view("1and1").starts_with(
        "  lv0 Outdated[FR] Replaying -SFR- Secondary hostB\n     replaying: [>..................]  7.05%  (1544/22024)KiB  logs: [3..4]\n"
    ), "{}", far.view("1and1"));
    // Without a resource: what concerns the host.
    let told = "1700080000.000000000 1700080000.000000000 no address";
    let w = steady().global(&format!("actual-hostA/msg-wrn-net -> {told}"));
    let scope = Scope {
        res: None,
        ..w.scope()
    };
    assert_eq!(
        evaluate("1and1", &scope).unwrap(),
        "wrn-net: 2023-11-15 20:26:40 2023-11-15 20:26:40 no address"
    );
}

/// The literal lines of the documents that are not in views.rs.
#[test]
fn documented_lines() {
    let zero = "0".repeat(32);
    let (pos, rest) = (12_887_000_u64, 1_057_172_226_u64);
    let mut w = steady().with(&format!(
        "version-{{000000001,000000002,000000003}}-{{hostA,hostB}} -> -
         log-000000001-hostA -> -
         version-000000002-hostB -> {zero},log-000000002-hostB,{pos}:
         version-000000003-hostB -> {zero},log-000000003-hostB,{rest}:
         replay-hostA -> log-000000002-hostB,{pos},0
         log-000000002-hostB = {pos}
         log-000000003-hostB = 0
         todo-hostA/connect -> 0"
    ));
    w.snap.files.remove("resource-lv0/log-000000002-hostA");
    assert_eq!(
        (w.view("diskstate"), w.view("flags")),
        ("OutDated[F]".into(), "dCAS-R".into())
    );
    let text = w.view("replinfo-1and1");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[0],
        "     replaying: [>...................]  1.21%  (12/1020)MiB  logs: [2..3]"
    );
    assert_eq!(
        lines[1..],
        [
            "       > fetch: 1008.198 MiB rate: 0 B/sec  remaining: --:--:-- hrs",
            "       > replay: 0 B rate: 0 B/sec  remaining: 00:00:00 hrs"
        ]
    );
    let w = syncing().with(
        "size -> 5368709120
         syncstatus-hostB -> 784227893
         actual-hostB/amount-sync_rate -> 107843",
    );
    assert_eq!(
        w.view("syncinfo-1and1"),
        "     syncing: [=>.................]  14.68%  (747/5120)MiB  rate: 105.31 MiB/sec  remaining: 00:00:41 hrs\n\
         \u{20}      > sync: 747.898/5120 MiB rate: 105.315 MiB/sec  remaining: 00:00:41 hrs"
    );
}

/// A line about something that does not move warns, too, when that lasts.
#[test]
fn what_is_stuck_is_told() {
    struct Ear(String);
    impl Outside for Ear {
        fn file(&mut self, _: &str) -> Option<std::rc::Rc<Source>> {
            None
        }
        fn extra(&mut self, _: &str, _: &[String]) -> Option<Result<String, String>> {
            None
        }
        fn tell(&mut self, text: &str) {
            self.0.push_str(text);
        }
        fn pause(&mut self, _: f64, _: bool) -> Result<(), String> {
            Ok(())
        }
        fn read_link(&mut self, _: &str) -> Option<String> {
            None
        }
        fn set_link(&mut self, _: &str, _: &str) -> Result<(), String> {
            Ok(())
        }
        fn glob(&mut self, _: &str) -> Result<Vec<String>, String> {
            Ok(vec![])
        }
    }
    let told = |w: &World, name: &str, more: &[(&str, &str)]| {
        let more: Variables = more
            .iter()
            .map(|(n, v)| (n.to_string(), v.to_string()))
            .collect();
        let mut ear = Ear(String::new());
        evaluate_with(name, &w.scope(), &more, &mut ear).unwrap();
        ear.0
    };
    let fetch = "WARNING: fetch of resource lv0 appears stuck since 02:00:00\n";
    let replay = "WARNING: replay of resource lv0 appears stuck since 02:00:00\n";
    let mut w = syncing();
    assert_eq!(told(&w, "fetch-line", &[]), fetch);
    assert_eq!(told(&w, "replay-line", &[]), replay);
    assert_eq!(told(&w, "default", &[]), format!("{fetch}{replay}"));
    assert_eq!(told(&w, "fetch-line", &[("stuck-seconds", "7200")]), "");
    assert_eq!(
        told(&w, "replay-line", &[("stuck-seconds", "7199")]),
        replay
    );
    assert_eq!(told(&steady(), "replinfo", &[]), "");
    w.engine_running = false;
    assert_eq!(told(&w, "replinfo", &[]), "");
}
