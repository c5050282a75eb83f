//! Output for the example trees of the specification: symlink-tree.md 7 and the pilot's example of mars-status.md 3.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::{World, pilot};
use mars_policy::fixtures::{split, steady, syncing};

#[test]
fn golden_pilot_example() {
    let w = World::new(pilot(), "istore-test-bap7");
    let (text, code) = w.render(&[]);
    assert_eq!(code, 0);
    // The lines of the specification, in their order; what the newer tool adds stands behind or between them.
    let want = "\
-> check resource DeviceA, with 0.010TB, Primary Node is istore-test-bs7
   -> remote Node (istore-test-bs7) [10.0.0.7] as Primary, System alive
Devices : Disk-Device /dev/vg-test-bs7/DeviceA, used as Mars-Device /dev/mars/DeviceA, not resized
Sync    : 10737418240 bytes (0.010TB) synced = 100.00%
Logfile : 94097408 bytes (0.088GB) in log-000007562 active
Replayed: 10754456 bytes (0.010GB) now replayed, Todo 8360 (0.000GB) = 11.43%
---> WORK: Replay in progress = (11.43% < 100.00%)
Actual  : Status=Primary, used Device=on, Attached=on
Switches: Attach=on [masked: Connect=on Sync=on AllowReplay=on]
Status  : UpDateIng = (joined)(alive)(synced)(replay running1)(attached)(connected)(synced)(replayed)
   -> modus for DeviceA is clustered (2 nodes)
";
    let mut lines = text.lines();
    for line in want.lines() {
        assert!(
            lines.any(|l| l == line),
            "{line:?} is not there, or not in its place:\n{text}"
        );
    }
}

#[test]
fn golden_steady_whole() {
    let (text, code) = World::new(steady(), "hostA").render(&[]);
    assert_eq!(code, 0);
    let v = env!("CARGO_PKG_VERSION");
    let want = format!(
        "\
MARS Status - hostA, {v}
MARS Admin  - marsadm {v}
MARS Module - mars0.1astable177(2022-10-10 10:10:10)
MARS Kernel - 6.1.0
------------------------------------------------------------------------------
-> Cluster Diskspace: ok
-> Transaktions: running normaly
-> check resource lv0, with 0.010TB, Primary Node is hostB
   -> local Node (hostA) [10.0.0.1] as Secondary, System alive
Devices : Disk-Device /dev/vg/lv0, used as Mars-Device /dev/mars/lv0, not resized
Sync    : 10737418240 bytes (0.010TB) synced = 100.00%
Logfile : 8192 bytes (0.000GB) in log-000000003 active
Replayed: 8192 bytes (0.000GB) now replayed, Todo 0 (0.000GB) = 100.00%
Actual  : Status=Secondary, Syncstatus=off, Logfileupdate=off, Attached=on
Switches: Attach=on Connect=on Sync=on AllowReplay=on
Status  : UpToDate = (joined)(alive)(synced)(replay wait)(attached)(connected)(synced)(replayed)
   -> remote Node (hostB) [10.0.0.2] as Primary, System alive
Devices : Disk-Device /dev/vg/lv0, used as Mars-Device /dev/mars/lv0, not resized
Sync    : 10737418240 bytes (0.010TB) synced = 100.00%
Logfile : 8192 bytes (0.000GB) in log-000000003 active
Replayed: 8192 bytes (0.000GB) now replayed, Todo 0 (0.000GB) = 100.00%
Actual  : Status=Primary, used Device=on, Attached=on
Switches: Attach=on [masked: Connect=on Sync=on AllowReplay=on]
Status  : UpToDate = (joined)(alive)(synced)(replay wait)(attached)(connected)(synced)(replayed)
---> TODO: log-000000002-hostA has all equal Sizes and Checksums, can be deleted ...
   -> modus for lv0 is clustered (2 nodes)
"
    );
    assert_eq!(text, want);
}

#[test]
fn golden_steady_monitor_and_words() {
    let w = World::new(steady(), "hostA");
    let (text, code) = w.render(&["--monitor"]);
    assert_eq!(code, 0);
    assert_eq!(
        text,
        "\
MARS OK: 1 resource is well | 'space_free'=90%;20:;10:;0;100 'age_hostB'=1s;60;300;0 'lag_lv0'=0s;60;;0 'rest_lv0'=0B;;;0 'sync_rest_lv0'=0B;;;0
Secondary [resource-lv0 on hostA]
UpToDate [(joined)(alive)(synced)(replay wait)(attached)(connected)(synced)(replayed)]
Connect [resource-lv0 on hostA]
"
    );
    let (text, code) = w.render(&["--resource=lv0", "--cstate", "--dstate", "--role"]);
    assert_eq!(
        (text.as_str(), code),
        (
            "Secondary [resource-lv0 on hostA]\nUpToDate [resource-lv0 on hostA]\nConnect [resource-lv0 on hostA]\n",
            0
        )
    );
}

#[test]
fn golden_history() {
    let (text, _) = World::new(steady(), "hostA").render(&["--history"]);
    let (_, history) = text.split_once("    -> History Replay/Status\n").unwrap();
    assert_eq!(
        history,
        "\
Logfile Version: 000000001 - Size: 1048576
Source: hostA, Check: eae75bd0648f4b9f8ece4a07b4c47429, ReplayPosition: 1048576, Todo: 0 blocks
Source: hostB, Check: eae75bd0648f4b9f8ece4a07b4c47429, ReplayPosition: 1048576, Todo: 0 blocks
---> WORK: Version is deleted the next log-rotate ...
Logfile Version: 000000002 - Size: 524288
Source: hostA, Check: ab6ca3b5e4f9a9d35ea2226916d13904, ReplayPosition: 524288, Todo: 0 blocks
Source: hostB, Check: ab6ca3b5e4f9a9d35ea2226916d13904, ReplayPosition: 524288, Todo: 0 blocks
---> TODO: Logfiles has all equal Sizes and Checksums, can be deleted ...
Logfile Version: 000000003 - Size: 8192
Source: hostA, Check: 1defc62b29e43d74c94cca423ee2cc3b, ReplayPosition: 8192, Todo: 0 blocks
Source: hostB, Check: 1defc62b29e43d74c94cca423ee2cc3b, ReplayPosition: 8192, Todo: 0 blocks
---> WORK: logfiles are actual and unused.
"
    );
    let (text, _) = World::new(split(), "hostA").render(&["--history"]);
    assert!(text.contains("check for SPLIT-BRAIN"), "{text}");
}

#[test]
fn golden_sync() {
    let w = World::new(syncing(), "hostB");
    let (text, _) = w.render(&[]);
    for line in [
        "   -> local Node (hostB) [10.0.0.2] as Secondary, System alive",
        "Sync    : 4294967296 bytes (0.004TB) synced = 40.00%, at 0.10 gb/s (done in 2 min)",
        "---> WORK: Sync in progress = (40.00% < 100.00%)",
        "Logfile : 393216 bytes (0.000GB) in log-000000002 active",
        "Replayed: 0 bytes (0.000GB) now replayed, Todo 524288 (0.000GB) = 0.00%",
        "---> HINT: Replay not started, Logfile inactive = (Size: 393216)",
        "Actual  : Status=Secondary, Syncstatus=on, Logfileupdate=on, Attached=on",
        "Status  : InvaliDate = (joined)(alive)(sync running)(replay stopped)(attached)(connected)(synced)(replayed)",
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    let (text, code) = w.render(&["--monitor"]);
    assert_eq!(code, 1, "{text}");
    assert!(
        text.starts_with("MARS WARNING: lv0 is InvaliDate (in progress) | "),
        "{text}"
    );
    let (text, _) = w.render(&["--status", "--ascii"]);
    let bars: Vec<&str> = text.lines().filter(|l| l.starts_with("| ")).collect();
    assert_eq!(bars.len(), 8, "{text}");
    assert_eq!(bars[0], format!("| {:20} {}R", "hostB", ">".repeat(99)));
    assert_eq!(
        bars[1].trim_end(),
        format!("| {:20} {}S", "", ">".repeat(39))
    );
    assert!(bars[4].ends_with(&format!("{}|", "!".repeat(32))), "{text}");
    assert!(text.is_ascii());
    assert!(!w.render(&["--status"]).0.is_ascii());
}

#[test]
fn golden_split_brain() {
    let w = World::new(split(), "hostA");
    let (text, _) = w.render(&[]);
    assert!(
        text.contains("---> HINT: SPLIT-BRAIN after logfile 'log-000000002-hostA,524288': hostA 16384 bytes, hostB 8192 bytes\n"),
        "{text}"
    );
    let (text, code) = w.render(&["--monitor"]);
    assert_eq!(code, 2);
    assert!(
        text.starts_with("MARS CRITICAL: lv0 has a split brain; "),
        "{text}"
    );
    let (text, _) = w.render(&["--debug"]);
    assert!(
        text.contains(
            "-> MARS ERRORS:\nWed Nov 15 20:26:40 2023: lv0: splitbrain-detected: split brain\n"
        ),
        "{text}"
    );
}

#[test]
fn not_joined_and_no_resource() {
    let mut snap = steady();
    common::add(
        &mut snap,
        "
        ips/ip-hostC -> 10.0.0.3
        actual-hostC/time -> 1700090003.123456789
        actual-hostC/tree -> 0.1
    ",
    );
    let w = World::new(snap, "hostC");
    let (text, code) = w.render(&[]);
    assert_eq!(code, 0);
    assert!(
        text.contains("   -> local Node (hostC) as not joined, System alive\n"),
        "{text}"
    );
    assert!(
        text.contains("-> modus for lv0 is remote (0 nodes)\n"),
        "{text}"
    );
    assert!(!text.contains("remote Node"), "{text}");
    // Not ours: nothing to check. Asked for by name: Failed.
    assert_eq!(w.render(&["--monitor"]).1, 0);
    let (text, code) = w.render(&["--monitor", "--resource=lv0"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("\nFailed [(not joined)]\n"), "{text}");
    let mut snap = steady();
    snap.links.retain(|k, _| !k.starts_with("resource-"));
    let (text, _) = World::new(snap, "hostA").render(&[]);
    assert!(text.contains("---> HINT: no resources found\n"), "{text}");
}
