//! A reload of the configuration under load: no request fails, new values take effect, bad files change nothing.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_tests::load::{Load, LoadPlan, make_stamped};
use mars_tests::rng::{Rng, seed};
use mars_tests::{Cluster, Host, PATIENCE};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::time::{Duration, Instant};

const RES: &str = "data";
const SIZE: u64 = 32 << 20;

fn log_of(host: &Host, unit: &str) -> String {
    let file = host.env.run_dir.join("units").join(format!("{unit}.log"));
    fs::read_to_string(file).unwrap_or_default()
}

/// Writes `mars.conf`, sends SIGHUP as `systemctl reload` does, and waits for the line that tells how it ended.
fn reload(host: &Host, unit: &str, config: &str, expected: &str) {
    fs::write(host.env.etc_dir.join("mars.conf"), config).unwrap();
    let lines = |text: String| {
        text.lines()
            .filter(|l| l.contains(" configuration re"))
            .count()
    };
    let before = lines(log_of(host, unit));
    let pid = Pid::from_raw(host.pid(unit).expect("it runs"));
    kill(pid, Signal::SIGHUP).unwrap();
    let end = Instant::now() + PATIENCE;
    while lines(log_of(host, unit)) == before {
        assert!(
            Instant::now() < end,
            "{unit} says nothing: {}",
            log_of(host, unit)
        );
        std::thread::sleep(Duration::from_millis(5));
    }
    let text = log_of(host, unit);
    let last = text
        .lines()
        .rfind(|l| l.contains(" configuration re"))
        .unwrap();
    assert!(last.contains(expected), "{config:?}: {last}");
}

fn newest_log(host: &Host) -> u32 {
    let snap = host.tree().snapshot().unwrap();
    let logs = snap.logs(&RES.parse().unwrap());
    logs.iter().map(|(l, _)| l.nr).max().unwrap()
}

/// The load ends with the test, also with one that fails.
struct Ends<'a>(&'a Load);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.stop();
    }
}

/// Everything that can change while the logger serves is changed again and again; afterwards the device still holds all that was
/// acknowledged (`Load` checks every read and knows every write).
#[test]
fn reload_under_load_costs_no_request() {
    let front = "front = \"nbd-socket\"\n";
    let cluster = Cluster::new(&["alpha"], front);
    let host = cluster.host(0);
    let disk = host.file("disk.img");
    make_stamped(&disk, SIZE);
    cluster.form();
    host.ok(&["create-resource", RES, &disk.display().to_string()]);
    host.ok(&["wait-resource", RES, "is-device-on"]);
    let logger = format!("mars-logger@{RES}.service");
    let pid = host.pid(&logger).unwrap();
    let plan = LoadPlan {
        socket: host.env.dev_dir.join(RES),
        export: RES.into(),
        connections: 2,
        depth: 16,
        rate: 16 << 20,
        patience: PATIENCE,
    };
    let load = Load::new(plan, SIZE);
    let rng = Rng::new(seed());
    let report = std::thread::scope(|s| {
        let running = s.spawn(|| load.run(&rng));
        let ends = Ends(&load);
        let progress = |what: &str| {
            let (begin, end) = (load.report().acked, Instant::now() + PATIENCE);
            while load.report().acked < begin + 50 {
                assert!(Instant::now() < end, "no writes any more: {what}");
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        progress("at the beginning");
        for (config, expected) in [
            ("buffer_limit_mib = 4\n", "buffer_limit_mib 256 -> 4"),
            (
                "buffer_limit_mib = 64\nwriteback_age_ms = 20\n",
                "buffer_limit_mib 4 -> 64, writeback_age_ms 5000 -> 20",
            ),
            (
                "log_compression = \"lz4\"\nlog_digest = \"md5\"\nrecovery_limit_mib = 8\n",
                "log_compression \"none\" -> \"lz4\", log_digest \"crc32c\" -> \"md5\"",
            ),
            (
                "log_compression = \"zlib\"\nzlib_compress_level = 1\nlog_prepare_mib = 0\n",
                "log_prepare_mib 4 -> 0",
            ),
            ("log_prepare_mib = 16\n", "log_prepare_mib 0 -> 16"),
            (
                "[resource.data]\nbuffer_limit_mib = 8\n[resource.other]\nbuffer_limit_mib = 99\n",
                "buffer_limit_mib 256 -> 8",
            ),
            (
                "durability = \"flush\"\n",
                "needs a restart: durability \"strict\" -> \"flush\"",
            ),
            (
                "bufer_limit_mib = 4\n",
                "mars.conf:2: unknown key \"bufer_limit_mib\"; did you mean buffer_limit_mib?",
            ),
            ("buffer_limit_mib = 4", "buffer_limit_mib 256 -> 4"),
            ("", "buffer_limit_mib 4 -> 256"),
            ("", "nothing changed"),
        ] {
            reload(host, &logger, &format!("{front}{config}"), expected);
            progress(config);
        }
        // A value whose effect everybody can see: from now on logs are short.
        let before = newest_log(host);
        reload(
            host,
            &logger,
            &format!("{front}logrot_auto_mib = 2\n"),
            "logrot_auto_mib 32768 -> 2",
        );
        host.wait_tree("short logs", |_| newest_log(host) >= before + 3);
        // mars-meta, too.
        reload(
            host,
            "mars-meta.service",
            &format!("{front}heartbeat_ms = 100\n"),
            "heartbeat_ms 5000 -> 100",
        );
        reload(
            host,
            "mars-meta.service",
            "nonsense",
            "configuration refused",
        );
        reload(host, &logger, front, "logrot_auto_mib 2 -> 32768");
        progress("at the end");
        drop(ends);
        running.join().unwrap().unwrap()
    });
    assert_eq!(report.deaths, 0);
    assert_eq!(
        host.pid(&logger),
        Some(pid),
        "the same process all the time"
    );
    println!(
        "{} writes and {} reads while 14 reloads happened",
        report.acked, report.reads
    );
    cluster.stop_clean(&["configuration refused"]);
}
