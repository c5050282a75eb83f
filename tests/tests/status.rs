//! `mars-status` on a running pair of hosts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use mars_tests::{Cluster, Host, PATIENCE, bin_dir, make_disk, write};
use std::process::{Command, Stdio};
use std::time::Instant;

const SIZE: u64 = 16 << 20;
/// The check, whatever space the machine of the tests has.
const MONITOR: [&str; 3] = ["--monitor", "--space=0", "--space-critical=0"];

fn status(h: &Host, args: &[&str]) -> (i32, String) {
    let out = Command::new(bin_dir().join("mars-status"))
        .args(args)
        .envs(h.env.to_vars())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8([out.stdout, out.stderr].concat()).unwrap();
    (out.status.code().unwrap(), text)
}

/// Asks until the first word is `word`; figures change by themselves.
fn until(h: &Host, args: &[&str], word: &str) -> String {
    let end = Instant::now() + PATIENCE;
    loop {
        let (_, text) = status(h, args);
        if text.starts_with(word) {
            return text;
        }
        assert!(
            Instant::now() < end,
            "{args:?}: not {word}:\n{text}\n{}",
            h.logs()
        );
        // Rates and positions are links, so there is something to wait for; this is about the program, not about being woken.
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

fn metric(h: &Host, line: &str) -> Option<f64> {
    let (code, text) = status(h, &["--prometheus"]);
    assert_eq!(code, 0, "{text}");
    let found = text.lines().find_map(|l| l.strip_prefix(line))?;
    Some(found.trim().parse().unwrap())
}

#[test]
fn status_of_a_running_pair() {
    let c = Cluster::new(&["a", "b"], "front = \"nbd-socket\"\n");
    c.form();
    let (a, b) = (c.host(0), c.host(1));
    for h in [a, b] {
        make_disk(&h.file("disk.img"), SIZE, false);
    }
    let disk = |h: &Host| h.file("disk.img").display().to_string();
    let (code, text) = status(a, &MONITOR);
    assert!(
        code == 0 && text.starts_with("MARS OK: no resources | "),
        "{text}"
    );
    a.ok(&["create-resource", "data", &disk(a)]);
    b.ok(&["join-resource", "data", &disk(b)]);
    a.ok(&["primary", "data"]);
    a.ok(&["wait-resource", "data", "is-device-on"]);
    let r = write(
        &a.uri("data"),
        &a.file("journal"),
        SIZE,
        &["--batches", "5"],
    );
    assert_eq!(r.code, 0, "{r:?}");

    // Everything settles: OK on both sides.
    let words = ["--resource=data", "--dstate"];
    until(b, &words, "UpToDate [resource-data on b]");
    until(a, &words, "UpToDate [resource-data on a]");
    for (h, role) in [(a, "Primary"), (b, "Secondary")] {
        let (code, text) = status(h, &MONITOR);
        assert_eq!(code, 0, "{text}");
        assert!(
            text.contains(&format!("\n{role} [resource-data on {}]\n", h.env.host)),
            "{text}"
        );
        let (code, text) = status(h, &["--history", "--system", "--debug", "--status"]);
        assert_eq!(code, 0);
        assert!(
            text.contains("-> modus for data is clustered (2 nodes)"),
            "{text}"
        );
        assert!(text.contains("Logfile Version: 000000001"), "{text}");
        assert!(!text.contains(" -1") && !text.contains("=-"), "{text}");
    }
    let own = "mars_lag_bytes{resource=\"data\",host=\"b\",self=\"1\"}";
    assert_eq!(metric(b, own), Some(0.0));

    // A switch that is off, and work that nobody does.
    b.ok(&["pause-replay", "data"]);
    let r = write(
        &a.uri("data"),
        &a.file("journal2"),
        SIZE,
        &["--batches", "5"],
    );
    assert_eq!(r.code, 0, "{r:?}");
    let text = until(b, &words, "SwitchOff");
    assert_eq!(text, "SwitchOff [resource-data on b]\n");
    let (code, text) = status(b, &MONITOR);
    assert!(
        code >= 1 && text.contains("SwitchOff (allow-replay off)"),
        "{text}"
    );
    let end = Instant::now() + PATIENCE;
    while metric(b, own) == Some(0.0) {
        assert!(Instant::now() < end, "{}", b.logs());
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    // The age comes from the record in the log: it was written just now, not when the resource was made.
    let age = metric(
        b,
        "mars_lag_seconds{resource=\"data\",host=\"b\",self=\"1\"}",
    )
    .unwrap();
    assert!((0.0..60.0).contains(&age), "{age}");
    // The primary says the same of it.
    let seen = metric(a, "mars_lag_bytes{resource=\"data\",host=\"b\",self=\"0\"}").unwrap();
    assert!(seen > 0.0);
    b.ok(&["resume-replay", "data"]);
    until(b, &words, "UpToDate");

    // Without mars-meta the rest is old.
    b.kill("mars-meta.service");
    let (code, text) = status(b, &MONITOR);
    assert!(
        code == 2 && text.contains("mars-meta is not running"),
        "{text}"
    );
    assert_eq!(
        metric(b, "mars_stale{resource=\"data\",host=\"b\",self=\"1\"}"),
        Some(1.0)
    );
    b.ok(&["start"]);
    until(b, &words, "UpToDate");
    c.stop_clean(&[]);
}
