use super::*;

#[test]
fn view_steady_state() {
    let a = World::new(fixtures::steady(), "hostA");
    assert_eq!(
        a.view("default"),
        "  lv0 [2/2] UpToDate Replaying dCASFR Secondary hostB "
    );
    let b = World::new(fixtures::steady(), "hostB");
    assert_eq!(
        b.view("default"),
        "  LocalDevice /dev/mars/lv0 [Opened, 0 IOPS]\n  lv0 [2/2] UpToDate Replicating DCASFR Primary hostB "
    );
    assert_eq!(a.view("default-global"), "");
    assert_eq!(a.view("default-resource"), "lv0 10240 MiB [2/2]");
}

#[test]
fn view_during_sync() {
    let b = World::new(fixtures::syncing(), "hostB");
    assert_eq!(
        b.view("default"),
        "  lv0 [2/2] InConsistent Syncing dcAsfr Secondary hostA \n\
         \u{20}    syncing: [=======>............]  40.20%  (4096/10240)MiB  rate: 100.00 MiB/sec  remaining: 00:01:01 hrs\n\
         \u{20}      > sync: 4096/10240 MiB rate: 100 MiB/sec  remaining: 00:01:01 hrs\n\
         \u{20}    replaying: [============>:::.]  67.00%  (1024/1536)KiB  logs: [2]\n\
         \u{20}      > fetch: 128 KiB age: 02:00:00 rate: 0 B/s remaining: --:--:--\n\
         \u{20}      > replay: 384 KiB age: 02:00:00 rate: 0 B/s remaining: --:--:--"
    );
    let mut a = World::new(fixtures::syncing(), "hostA").with("log-000000002-hostA = 524288");
    assert_eq!(
        a.view("status"),
        "  lv0 [2/2] WriteBack[4.000 KiB] Replicating DcASFr Primary hostA "
    );
    // The same seen from the tree of hostB.
    a.local = "hostB".parse().unwrap();
    a.machine.disks_present.clear();
    assert_eq!(
        a.view("status"),
        "  lv0 [2/2] WriteBack[4.000 KiB] Replicating DcASFr Primary hostA "
    );
}

#[test]
fn view_split_brain() {
    let a = World::new(fixtures::split(), "hostA");
    assert_eq!(
        a.view("default"),
        "  LocalDevice /dev/mars/lv0 [Opened, 0 IOPS]\n  lv0 [2/2] UpToDate Replaying DCASFR RemainsPrimary hostB \n\
         ERRORS   LNK  (1):\n\
         err-splitbrain-detected: 2023-11-15 20:26:40 2023-11-15 20:26:40 split brain"
    );
    let mut b = World::new(fixtures::split(), "hostB");
    assert_eq!(b.view("role"), "ForcedPrimary");
    b.local = "hostA".parse().unwrap();
    assert_eq!(b.view("role"), "ForcedPrimary");
    assert_eq!(a.view("is-split-brain"), "1");
}

/// The literal lines of macro-language.md section 7.
#[test]
fn view_documented_status_lines() {
    let a = |change: &str| World::new(fixtures::steady(), "hostA").with(change);
    let status = |w: World| w.view("status").replace("lv0", "mydata");
    let cut = a("size -> 10737418240").global("actual-hostB/time -> 1700086005.000000000");
    assert_eq!(
        status(cut),
        "  mydata [2/2] UpToDate PrimaryUnreachable dCASFR Secondary hostB 01:06:40"
    );
    assert_eq!(
        status(a("actual-hostA/replay-code -> -5")),
        "  mydata [2/2] DefectiveLog[-5=[EIO:Input/output_error]] Replaying dCASFR Secondary hostB "
    );
    assert_eq!(
        status(a("todo-hostA/attach -> 0\nactual-hostA/is-attached -> 0")),
        "  mydata [2/2] Detached NotStarted dC-SFR Secondary hostB "
    );
    assert_eq!(
        status(a("actual-hostA/is-attached -> 0")),
        "  mydata [2/2] NoAttach Replaying dCaSFR Secondary hostB "
    );
    let hanging = World::new(fixtures::steady(), "hostB").with(
        "actual-hostB/if-flying -> 4
         actual-hostB/ops-if_rate -> 123
         actual-hostB/if-completion-stamp -> 1700089505.000000000",
    );
    assert_eq!(
        hanging.view("default").lines().next().unwrap(),
        "  LocalDevice /dev/mars/lv0 [Opened, 123 IOPS, 4 Flying, HANGING age: 00:08:20]"
    );
    let closed = World::new(fixtures::steady(), "hostB").with("actual-hostB/open-count -> 0");
    assert!(
        closed
            .view("default")
            .starts_with("  LocalDevice /dev/mars/lv0 [Closed]\n")
    );
}

/// User manual, appendix B.
#[test]
fn view_documented_progress_lines() {
    let w = World::new(fixtures::steady(), "hostA").with(
        "size -> 2147483648
         actsize-{hostA,hostB} -> 2147483648
         syncstatus-hostA -> 594849824
         version-{000000001,000000002,000000003}-{hostA,hostB} -> -
         replay-{hostA,hostB} -> log-000000001-hostB,0,0
         version-000000001-hostB -> 00000000000000000000000000000000,log-000000001-hostB,13211696:
         log-000000001-hostB = 13211696
         actual-hostA/is-syncing -> 1
         actual-hostA/amount-sync_rate -> 72583
         actual-hostA/amount-file_rate -> 38",
    );
    let w = World {
        snap: {
            let mut s = w.snap.clone();
            s.files.remove("resource-lv0/log-000000002-hostA");
            s.files.remove("resource-lv0/log-000000003-hostB");
            s.links.remove("resource-lv0/log-000000001-hostA");
            // Fresh progress: no age shown.
            for (_, l) in s.links.iter_mut() {
                l.stamp = fixtures::FRESH;
            }
            s
        },
        ..w
    };
    let text = w.view("default");
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(
        lines[1],
        "     syncing: [====>..............]  27.84%  (567/2048)MiB  rate: 72583.00 KiB/sec  remaining: 00:00:20 hrs"
    );
    assert!(
        lines[2].starts_with("       > sync: 580908.031/2097152 KiB")
            || lines[2].starts_with("       > sync: 567.29")
    );
    assert!(lines[2].ends_with(" rate: 72583 KiB/sec  remaining: 00:00:20 hrs"));
    assert_eq!(
        lines[3],
        "     replaying: [>:::::::::::::::::::]  0.00%  (0/12902)KiB  logs: [1]"
    );
    assert_eq!(
        lines[4],
        "       > fetch: 0 B rate: 38 KiB/s remaining: 00:00:00"
    );
    assert_eq!(
        lines[5],
        "       > replay: 12902.047 KiB rate: 0 B/s remaining: --:--:--"
    );
    let flags = lines[0].split(' ').nth(6).unwrap();
    assert_eq!(
        (lines[0].contains("InConsistent Syncing"), flags),
        (true, "dcAsFr")
    );
}

#[test]
fn view_log_numbers() {
    let logs = |change: &str| {
        let w = World::new(fixtures::steady(), "hostA").with(change);
        let text = w.view("replinfo");
        let first = text.lines().next().unwrap();
        first.split_once("logs: ").unwrap().1.to_string()
    };
    let zero = "00000000000000000000000000000000";
    let four = format!("version-000000004-hostB -> {zero},log-000000004-hostB,9:");
    assert_eq!(logs("size -> 1"), "[3]");
    assert_eq!(logs(&four), "[3..4]");
    assert_eq!(logs(&format!("{four}\nlog-000000004-hostB = 9")), "[3::4]");
    let five = format!("version-000000005-hostB -> {zero},log-000000005-hostB,9:");
    assert_eq!(
        logs(&format!("{four}\nlog-000000004-hostB = 9\n{five}")),
        "[3::4..5]"
    );
}

#[test]
fn view_hints() {
    let a = |change: &str| {
        World::new(fixtures::steady(), "hostA")
            .with(change)
            .view("default")
    };
    let bigger = a("actsize-hostA -> 10758389760");
    assert!(bigger.contains("\n     Hint: you are wasting 20.000 MiB on disk /dev/vg/lv0"));
    assert!(!bigger.contains("resize"));
    let both = a("actsize-{hostA,hostB} -> 10737422336");
    assert!(both.contains("\n     Hint: marsadm resize would increase resource lv0 by 4.000 KiB"));
    assert!(!both.contains("wasting"));
}

#[test]
fn view_not_joined_and_guests() {
    let c = World::new(fixtures::steady(), "hostC");
    assert_eq!(c.view("default"), "");
    assert_eq!(
        (c.view("role"), c.view("diskstate")),
        ("None".into(), "NotJoined".into())
    );
    let guest = c.with("device-hostC -> lv0\nactual-hostC/if-on -> 1");
    assert_eq!(
        guest.view("default"),
        "  LocalDevice /dev/mars/lv0 [Closed]"
    );
    assert_eq!(guest.view("guest-peers"), "");
    assert_eq!(
        guest.global("ips/ip-hostC -> 10.0.0.3").view("guest-peers"),
        "hostC"
    );
}

#[test]
fn view_roles_and_nodes() {
    let none = World::new(fixtures::steady(), "hostA").with("primary -> (none)");
    assert_eq!(
        none.view("status"),
        "  lv0 [2/2] UpToDate NoPrimaryDesignated dCASFR Secondary (none) "
    );
    assert_eq!(none.view("get-primary"), "");
    assert_eq!(none.view("todo-secondary"), "1");
    let mut gone = World::new(fixtures::steady(), "hostA");
    gone.machine.disks_present.clear();
    assert_eq!(
        gone.view("status"),
        "  lv0 [2/2] NotPresent Replaying -CASFR None hostB "
    );
    assert_eq!(gone.view("todo-role"), "None");
}

#[test]
fn view_drbd_names() {
    let a = World::new(fixtures::steady(), "hostA");
    assert_eq!(a.view("state"), "Secondary");
    assert_eq!(a.view("cstate"), "Replaying");
    assert_eq!(a.view("dstate"), "UpToDate");
    assert_eq!(a.view("outdated-flags"), "");
}

#[test]
fn view_errors_and_global_messages() {
    let young = "1700089900.000000000 1700089900.000000000 trouble, error -5";
    let old = "1700080000.000000000 1700080000.000000000 trouble, error -5";
    let mut a = World::new(fixtures::steady(), "hostA")
        .with(&format!("actual-hostA/msg-err-replay-stop -> {young}"));
    assert_eq!(a.view("resource-errors"), "");
    assert_eq!(a.view("the-err-count"), "0");
    assert_eq!(a.view("all-err-count"), "1");
    a = a.with(&format!(
        "actual-hostA/msg-err-replay-stop -> {old}
         actual-hostA/msg-wrn-space-low -> {young}
         actual-hostA/msg-inf-fetch -> {young}"
    ));
    assert_eq!(
        a.view("resource-errors"),
        "ERRORS   LNK  (1):\n\
         err-replay-stop: 2023-11-15 20:26:40 2023-11-15 20:26:40 trouble, error [EIO:Input/output_error]\n\
         WARNINGS LNK  (1):\n\
         wrn-space-low: 2023-11-15 23:11:40 2023-11-15 23:11:40 trouble, error [EIO:Input/output_error]"
    );
    assert_eq!(a.view("the-wrn-msg"), format!("wrn-space-low: {young}"));
    a.verbose = 2;
    assert!(
        a.view("resource-errors")
            .contains("\nINFOS    LNK  (1):\ninf-fetch: ")
    );

    let w = World::new(fixtures::steady(), "hostA").global(&format!(
        "actual-hostA/msg-needed-connection-with-hostC -> {old}
         actual-hostA/msg-needed-connection-with-hostB -> {old} CONNECTED"
    ));
    let text = w.view("comminfo");
    let lines: Vec<_> = text.lines().collect();
    assert_eq!(
        lines[0],
        "++++++++++++ Global / Communication Status ++++++++++++"
    );
    assert!(lines[1].starts_with("needed-connection-with-hostC: ") && lines.len() == 2);
}

#[test]
fn view_time_slip() {
    let mut a = World::new(fixtures::steady(), "hostA");
    a.machine.real_time -= 3600;
    assert_eq!(
        a.view("default-global"),
        "++++++++++++ Lamport time slip: 01:00:00 ++++++++++++"
    );
}

/// Not a timed test: the work per resource must not depend on how many others there are.
#[test]
fn view_of_many_resources_looks_only_at_its_own_keys() {
    let mut w = World::new(fixtures::steady(), "hostA");
    let lv0: Vec<_> = w
        .snap
        .links
        .iter()
        .filter_map(|(k, l)| Some((k.strip_prefix("resource-lv0/")?.to_string(), l.clone())))
        .collect();
    let files: Vec<_> = w
        .snap
        .files
        .iter()
        .map(|(k, m)| (k.strip_prefix("resource-lv0/").unwrap().to_string(), *m))
        .collect();
    for i in 0..100 {
        for (k, l) in &lv0 {
            w.snap.links.insert(format!("resource-r{i}/{k}"), l.clone());
        }
        for (k, m) in &files {
            w.snap.files.insert(format!("resource-r{i}/{k}"), *m);
        }
    }
    let started = std::time::Instant::now();
    for i in 0..100 {
        w.res = format!("r{i}").parse().unwrap();
        assert_eq!(
            w.view("default"),
            format!("  r{i} [2/2] UpToDate Replaying dCASFR Secondary hostB ")
        );
    }
    println!("100 resources: {:?}", started.elapsed());
}
