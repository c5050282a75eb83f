//! The order of the state words, the exit status of the check, and that nothing is ever negative.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::{World, pilot};
use mars_policy::fixtures::{split, steady, syncing};
use mars_tree::{Link, Stamp, Value};
use proptest::prelude::*;

const WORK: &str = "
    resource-lv0/version-000000003-hostB -> 1defc62b29e43d74c94cca423ee2cc3b,log-000000003-hostB,16384:ab6ca3b5e4f9a9d35ea2226916d13904,log-000000002-hostA,524288
";
const OFF: &str = "resource-lv0/todo-hostA/connect -> 0";
const UNSYNCED: &str = "resource-lv0/syncstatus-hostA -> 4096";
const FULL: &str = "actual-hostA/emergency -> 4";

fn dstate(listing: &str, lag: u64) -> String {
    World::changed(listing).lag("lv0", "hostA", lag).dstate()
}

/// Each word wins over those that follow it.
#[test]
fn dstate_first_match() {
    assert_eq!(dstate("", 0), "UpToDate");
    assert_eq!(dstate(WORK, 60), "UpDateIng");
    assert_eq!(dstate(WORK, 61), "OutDate");
    assert_eq!(dstate(&[WORK, UNSYNCED].join("\n"), 61), "InvaliDate");
    assert_eq!(dstate(&[WORK, UNSYNCED, OFF].join("\n"), 61), "SwitchOff");
    assert_eq!(
        dstate(&[WORK, UNSYNCED, OFF, FULL].join("\n"), 61),
        "Failed"
    );
}

#[test]
fn dstate_failed() {
    for listing in [
        "resource-lv0/actual-hostA/has-emergency -> 1",
        "resource-lv0/actual-hostA/disk-error -> -5",
        "resource-lv0/data-hostA -> /dev/vg/gone",
        "resource-lv0/data-hostA -> .deleted",
        "actual-hostB/time -> 1700089000.000000000",
        "actual-hostA/time -> 1700089000.000000000",
    ] {
        assert_eq!(dstate(listing, 0), "Failed", "{listing}");
    }
    let mut w = World::changed("");
    w.engine = false;
    assert_eq!(w.dstate(), "Failed");
}

#[test]
fn dstate_doubtful_logs() {
    assert_eq!(World::new(split(), "hostA").dstate(), "InvaliDate");
    for listing in [
        "resource-lv0/actual-hostA/replay-code -> -74",
        "resource-lv0/syncpos-hostA -> log-000000009-hostB,1,0",
        "resource-lv0/size -> much",
    ] {
        assert_eq!(dstate(listing, 0), "InvaliDate", "{listing}");
    }
}

#[test]
fn cstate_looks_at_the_switch_only() {
    let (text, code) = World::changed(OFF).render(&["--resource=lv0", "--cstate"]);
    assert_eq!(
        (text.as_str(), code),
        ("Disconnect [resource-lv0 on hostA]\n", 0)
    );
}

fn monitor(w: &World, more: &[&str]) -> (String, u8) {
    let (text, code) = w.render(&[&["--monitor"], more].concat());
    let first = text.lines().next().unwrap().to_string();
    let word = ["OK", "WARNING", "CRITICAL", "UNKNOWN"][usize::from(code)];
    assert!(first.starts_with(&format!("MARS {word}: ")), "{first}");
    assert_eq!(first.matches('|').count(), 1, "{first}");
    (first, code)
}

#[test]
fn monitor_levels() {
    let stuck = "resource-lv0/syncstatus-hostA -> 4096";
    let moving = "
        resource-lv0/syncstatus-hostA -> 4096
        resource-lv0/actual-hostA/is-syncing -> 1
        resource-lv0/actual-hostA/amount-sync_rate -> 5
    ";
    for (listing, code, words) in [
        ("", 0, "1 resource is well"),
        (OFF, 1, "SwitchOff (connect off)"),
        (moving, 1, "InvaliDate (in progress)"),
        (stuck, 2, "InvaliDate, nothing moves"),
        (FULL, 2, "emergency on hostA"),
        ("actual-hostA/emergency -> 2", 1, "level 2"),
        (
            "resource-lv0/actual-hostA/replay-code -> -74",
            2,
            "defective log",
        ),
        ("actual-hostA/rest-space -> 17", 1, "18 % of the space"),
        ("actual-hostA/rest-space -> 9", 2, "9 % of the space"),
        (
            "actual-hostB/time -> 1700089944.000000000",
            1,
            "hostB is silent for 61 s",
        ),
        (
            "actual-hostB/time -> 1700089704.000000000",
            2,
            "silent for 301 s",
        ),
        (
            "ips/ip-hostC -> 10.0.0.3",
            1,
            "nothing was heard of host hostC",
        ),
        (
            "todo-global/delete-00000{0,1,2,3}{0,1,2,3,4,5,6,7,8,9}{0,1,2,3} -> /mars/x",
            1,
            "160 deletions",
        ),
    ] {
        let (first, got) = monitor(&World::changed(listing), &[]);
        // A primary that is silent makes the resource Failed as well.
        if words.contains("61 s") {
            assert_eq!(got, 2, "{first}");
        } else {
            assert_eq!(got, code, "{listing}: {first}");
        }
        assert!(first.contains(words), "{listing}: {first}");
    }
    let mut w = World::changed("");
    w.engine = false;
    let (first, code) = monitor(&w, &[]);
    assert!(
        code == 2 && first.contains("mars-meta is not running"),
        "{first}"
    );
    // An own orphan: the log of the position is not here.
    let mut w = World::changed(WORK);
    w.snap.files.remove("resource-lv0/log-000000003-hostB");
    let (first, code) = monitor(&w, &[]);
    assert!(code == 2 && first.contains("is Orphan"), "{first}");
}

#[test]
fn monitor_thresholds_are_options() {
    let w = World::changed(WORK).lag("lv0", "hostA", 70);
    let (first, code) = monitor(&w, &[]);
    assert!(
        code == 1 && first.contains("is OutDate (lag 70 s"),
        "{first}"
    );
    assert!(
        first.contains("'lag_lv0'=70s;60;;0 'rest_lv0'=8192B;;;0"),
        "{first}"
    );
    assert_eq!(monitor(&w, &["--lag=70"]).1, 0);
    let (first, code) = monitor(&w, &["--lag=30", "--lag-critical=69"]);
    assert!(
        code == 2 && first.contains("lags by 70 s") && first.contains("70s;30;69;0"),
        "{first}"
    );
    assert_eq!(monitor(&w, &["--lag=70", "--rest=8191"]).1, 1);
    assert_eq!(monitor(&w, &["--lag=70", "--rest-critical=8191"]).1, 2);
    assert_eq!(monitor(&w, &["--lag=70", "--rest=8192"]).1, 0);
    let low = World::changed("actual-hostA/rest-space -> 17");
    assert_eq!(monitor(&low, &["--space=18"]).1, 0);
    assert_eq!(monitor(&low, &["--space=50", "--space-critical=40"]).1, 2);
    let silent =
        World::changed("ips/ip-hostC -> 10.0.0.3\nactual-hostC/time -> 1700089905.000000000");
    assert_eq!(monitor(&silent, &[]).1, 1);
    assert_eq!(monitor(&silent, &["--age=100"]).1, 0);
    let many = World::changed("todo-global/delete-{1,2,3} -> /mars/x");
    assert_eq!(monitor(&many, &["--deletes=2"]).1, 1);
    assert_eq!(monitor(&many, &["--deletes=3"]).1, 0);
}

/// The pilot printed a rate of -592.73 mb/s.
#[test]
fn rates_are_never_negative() {
    let w = World::new(pilot(), "istore-test-bap7");
    for line in [
        &[][..],
        &["--monitor"],
        &["--history", "--system", "--debug", "--status"],
    ] {
        let (text, _) = w.render(line);
        assert!(!text.contains(" -5") && !text.contains("=-"), "{text}");
    }
    no_negative_number(&w.metrics());
}

/// No sample is below 0, not a number or infinite.
fn no_negative_number(metrics: &str) {
    for line in metrics.lines().filter(|l| !l.starts_with('#')) {
        let value: f64 = line.rsplit(' ').next().unwrap().parse().unwrap();
        assert!(value >= 0.0 && value.is_finite(), "{line}");
    }
}

fn look_at_everything(w: &World) {
    for line in [
        &["--history", "--system", "--debug", "--status"][..],
        &["--status", "--ascii", "--monitor"],
    ] {
        let (text, _) = w.render(line);
        for l in text.lines() {
            // Replay codes and numbers of errors are what they are.
            let (text, perf) = l.split_once(" | ").unwrap_or((l, ""));
            let amounts = text.contains("bytes (") || text.contains("b/s");
            assert!(!amounts || !(l.contains(" -1") || l.contains("=-")), "{l}");
            assert!(!perf.contains('-'), "{l}");
            assert!(!l.contains("NaN") && !l.contains("inf%"), "{l}");
        }
    }
    no_negative_number(&w.metrics());
    let args = mars_status::args::Args::default();
    let json = mars_status::json::json(&w.facts(&args), &args.limits, false).to_string();
    assert!(
        !json.contains("_bytes\":-") && !json.contains("_seconds\":-"),
        "{json}"
    );
}

#[test]
fn garbage_each_key_alone() {
    for bad in [
        &b"x"[..],
        b"\xff\xfe",
        b"18446744073709551615",
        b"-9223372036854775808",
        b"log-999999999-hostA,18446744073709551615,18446744073709551615",
    ] {
        for (snap, me) in [(syncing(), "hostB"), (split(), "hostA")] {
            for key in snap.links.keys() {
                let mut w = World::new(snap.clone(), me);
                let value = Value::new(bad).unwrap();
                let stamp = Stamp::from_nanos(u64::MAX);
                w.snap.links.insert(key.clone(), Link { value, stamp });
                look_at_everything(&w);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn garbage_in_any_key(
        changes in prop::collection::vec((any::<prop::sample::Index>(), "[ -~]{1,60}|-?[0-9]{1,20}|log-00000000[0-9]-host[AB],[0-9]{1,20},[0-9]{1,20}", any::<u64>()), 1..30),
        which in 0usize..3,
        stale in any::<bool>(),
    ) {
        let (snap, me) = [(steady(), "hostA"), (syncing(), "hostB"), (split(), "hostA")][which].clone();
        let mut w = World::new(snap, me);
        w.engine = !stale;
        let keys: Vec<String> = w.snap.links.keys().cloned().collect();
        for (index, text, stamp) in &changes {
            let value = Value::new(text.as_bytes()).unwrap();
            let stamp = Stamp::from_nanos(*stamp);
            w.snap.links.insert(index.get(&keys).clone(), Link { value, stamp });
        }
        look_at_everything(&w);
    }
}
