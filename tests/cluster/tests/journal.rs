//! The journal as an administrator reads it: `journalctl MARS_RESOURCE=...` tells the story of a resource, `journalctl -x` says what to do,
//! `systemctl reload` takes a changed configuration over.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_cluster::{Builder, Host, wait_for};
use serde_json::Value;

const RES: &str = "mydata";

/// Entries of a match, oldest first.
fn entries(h: &Host, what: &str) -> Vec<Value> {
    let text = h.sh(&format!("journalctl --no-pager -o json {what}"));
    text.lines()
        .map(|l| serde_json::from_str(l).expect("JSON"))
        .collect()
}

/// A field; of several values the list.
fn field(e: &Value, name: &str) -> String {
    match &e[name] {
        Value::String(s) => s.clone(),
        Value::Array(all) => all
            .iter()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join("+"),
        _ => String::new(),
    }
}

fn events(h: &Host) -> Vec<String> {
    let all = entries(h, &format!("MARS_RESOURCE={RES}"));
    let names = all.iter().map(|e| field(e, "MARS_EVENT"));
    names.filter(|n| !n.is_empty()).collect()
}

fn wait_event(h: &Host, event: &str) {
    wait_for(&format!("{event} in the journal"), || {
        events(h).iter().any(|e| e == event)
    });
}

/// These events occur in this order, others may stand between.
fn tells(h: &Host, story: &[&str]) {
    let all = events(h);
    let mut rest = all.iter();
    for event in story {
        assert!(
            rest.any(|e| e == event),
            "{event} is missing, or comes too early: {all:?}"
        );
    }
}

#[test]
fn journal_tells_the_story_of_a_resource() {
    let c = Builder::new("journal")
        .disk("data", 64)
        .mars_mib(128)
        .start();
    let (alpha, beta) = (c.host(0), c.host(1));
    for h in [alpha, beta] {
        h.sh("findmnt -n -t ext4 /mars");
    }
    c.form();
    c.resource(RES, "data");

    // The other host goes and comes back.
    beta.ok(&["systemctl", "stop", "mars-meta"]);
    wait_event(alpha, "peer-lost");
    beta.ok(&["systemctl", "start", "mars-meta"]);
    wait_event(alpha, "peer-back");

    // No space for logs, and space again. Bounded, and only where it is certain that nobody else is hit.
    alpha.sh("findmnt -n -t ext4 /mars; dd if=/dev/zero of=/mars/hog bs=1M count=200 status=none || true");
    alpha.sh(&format!(
        "dd if=/dev/urandom of=/dev/mars/{RES} bs=1M count=16 oflag=direct status=none"
    ));
    wait_event(alpha, "emergency");
    alpha.sh("rm /mars/hog");
    wait_event(alpha, "emergency-over");
    beta.marsadm(&["invalidate", RES]);
    beta.wait_view("diskstate", RES, "UpToDate");

    // A changed value, and a bad file.
    alpha.sh("mkdir -p /etc/mars/mars.conf.d; echo 'buffer_limit_mib = 64' > /etc/mars/mars.conf.d/50.toml");
    let unit = format!("mars-logger@{RES}.service");
    let pid = alpha.property(&unit, "MainPID");
    alpha.ok(&["systemctl", "reload", &unit]);
    wait_event(alpha, "config-changed");
    alpha.sh("echo 'buffer_limit = 1' > /etc/mars/mars.conf.d/60.toml");
    let r = alpha.run(&["systemctl", "reload", &unit]);
    assert_ne!(r.code, 0, "a bad file makes the reload fail");
    alpha.sh("rm /etc/mars/mars.conf.d/60.toml");
    alpha.wait_active(&unit, "active");
    assert_eq!(alpha.property(&unit, "MainPID"), pid);

    // The role moves.
    beta.marsadm(&["primary", RES]);
    beta.wait_device(RES);
    wait_event(alpha, "role-change");
    wait_event(alpha, "device-down");
    wait_event(beta, "device-up");

    tells(
        alpha,
        &[
            "device-up",
            "command",
            "peer-lost",
            "peer-back",
            "emergency",
            "emergency-over",
            "config-changed",
            "role-change",
        ],
    );
    // Two programs speak at the same time.
    tells(alpha, &["config-changed", "device-down"]);
    tells(beta, &["sync-started", "sync-finished", "role-change"]);
    tells(beta, &["sync-finished", "device-up"]);

    let all = entries(alpha, &format!("MARS_RESOURCE={RES}"));
    for e in &all {
        assert_eq!(field(e, "MARS_HOST"), "alpha", "{e}");
    }
    let programs: Vec<String> = all.iter().map(|e| field(e, "SYSLOG_IDENTIFIER")).collect();
    for program in ["marsadm", "mars-meta", "mars-logger"] {
        assert!(
            programs.iter().any(|p| p == program),
            "{program} says nothing: {programs:?}"
        );
    }
    let one = |event: &str| {
        all.iter()
            .find(|e| field(e, "MARS_EVENT") == event)
            .unwrap()
    };
    let is = |event: &str, name: &str, value: &str| {
        assert_eq!(field(one(event), name), value, "{event}")
    };
    is("emergency", "PRIORITY", "3");
    is("emergency", "MARS_LOG", "log-000000001-alpha");
    is("peer-lost", "PRIORITY", "4");
    is("peer-lost", "MARS_PEER", "beta");
    is("role-change", "PRIORITY", "5");
    is("device-up", "_SYSTEMD_UNIT", &unit);
    is(
        "config-changed",
        "MESSAGE",
        "configuration reloaded: buffer_limit_mib 256 -> 64",
    );

    // What to do about it.
    let id = field(one("emergency"), "MESSAGE_ID");
    let text = alpha.sh(&format!("journalctl --no-pager -x MESSAGE_ID={id}"));
    assert!(
        text.contains(&format!(
            "Resource {RES}: EMERGENCY, the log cannot be written"
        )),
        "{text}"
    );
    assert!(text.contains("marsadm log-delete-all all"), "{text}");
    let show = alpha.ok(&["marsadm", "config", "show", RES]);
    assert!(
        show.contains("64 MiB") && show.contains("/etc/mars/mars.conf.d/50.toml:1"),
        "{show}"
    );
    c.finish(&["cannot be written", "Reload failed for mars-logger"]);
}
