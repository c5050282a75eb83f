//! Errors from below with real processes: what the application sees, what is durable, what the state and the journal say.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_tests::nbd::{Cmd, FUA, Nbd};
use mars_tests::{Cluster, Host, PATIENCE, check, digest, make_disk, write};
use std::path::PathBuf;

const SIZE: u64 = 16 << 20;
const RES: &str = "data";
const STRICT: &str = "front = \"nbd-socket\"\nheartbeat_ms = 300\ndurability = \"strict\"\n";
const FLUSH: &str = "front = \"nbd-socket\"\nheartbeat_ms = 300\ndurability = \"flush\"\n";
/// NBD has its own numbers; these are the same.
const EIO: u32 = 5;

/// Lines that belong to the faults.
const EXPECTED: &[&str] = &[
    "writing the disk",
    "cannot be written",
    "reading the disk",
    "the data disk fails",
    "the disk cannot be used",
];

fn one_host(config: &str) -> (Cluster, PathBuf) {
    let cluster = Cluster::with_faults(&["alpha"], config);
    let disk = cluster.host(0).file("disk.img");
    make_disk(&disk, SIZE, true);
    cluster.form();
    let alpha = cluster.host(0);
    alpha.ok(&["create-resource", RES, &disk.display().to_string()]);
    alpha.ok(&["wait-resource", RES, "is-device-on"]);
    (cluster, disk)
}

fn two_hosts(config: &str) -> (Cluster, [PathBuf; 2]) {
    let cluster = Cluster::with_faults(&["alpha", "beta"], config);
    let disks = [0, 1].map(|i| cluster.host(i).file("disk.img"));
    make_disk(&disks[0], SIZE, true);
    make_disk(&disks[1], SIZE, false);
    cluster.form();
    let (alpha, beta) = (cluster.host(0), cluster.host(1));
    alpha.ok(&["create-resource", RES, &disks[0].display().to_string()]);
    alpha.ok(&["wait-resource", RES, "is-device-on"]);
    beta.ok(&["join-resource", RES, &disks[1].display().to_string()]);
    beta.wait_view("diskstate", RES, "UpToDate");
    (cluster, disks)
}

fn client(h: &Host) -> Nbd {
    Nbd::connect(&h.env.dev_dir.join(RES), RES, PATIENCE).expect("the device answers")
}

/// One request, nothing else in flight: its error.
fn ask(c: &Nbd, cmd: Cmd, flags: u16, pos: u64, data: &[u8]) -> u32 {
    c.send(cmd, flags, 1, pos, data.len() as u32, data).unwrap();
    c.reply().expect("an answer").1
}

fn state(h: &Host, makro: &str) -> String {
    let out = h.run(&[&format!("view-{makro}"), RES]).out;
    out.trim_end().to_string()
}

fn wait_state(h: &Host, makro: &str, what: &str, is: impl Fn(&str) -> bool) {
    h.wait_tree(&format!("{makro}: {what}"), |_| is(&state(h, makro)));
}

fn load(h: &Host, journal: &std::path::Path, batches: u32) {
    let r = write(
        &h.uri(RES),
        journal,
        SIZE,
        &["--batches", &batches.to_string(), "--flush-every", "3"],
    );
    assert_eq!(
        r.code,
        0,
        "the application sees no error: {r:?}\n{}",
        h.logs()
    );
}

/// The log fails in some way under load: the application does not notice; the state says it; logging resumes.
fn log_trouble(config: &str, rules: &str) {
    let (cluster, disk) = one_host(config);
    let alpha = cluster.host(0);
    let journal = alpha.file("journal");
    load(alpha, &journal, 10);
    alpha.faults(&format!("{rules}\nlog.space ENOSPC\n"));
    load(alpha, &journal, 20);
    assert!(alpha.hits().contains("Log"), "{}", alpha.hits());
    wait_state(alpha, "replstate", "emergency", |s| s == "EmergencyMode");
    assert!(
        alpha
            .unit_log("mars-logger@data.service")
            .contains("logging stops at"),
        "{}",
        alpha.logs()
    );
    // A crash in pass-through: recovery must not put logged data over newer unlogged ones.
    assert!(alpha.kill("mars-logger@data.service"));
    println!("{}", check(&disk, &journal, "--final").trim());
    alpha.faults("");
    alpha.ok(&["start"]);
    alpha.ok(&["wait-resource", RES, "is-device-on"]);
    load(alpha, &journal, 5);

    // Once more, and this time it ends by itself.
    alpha.faults(&format!("{rules}\nlog.space ENOSPC\n"));
    load(alpha, &journal, 10);
    wait_state(alpha, "replstate", "emergency", |s| s == "EmergencyMode");
    alpha.faults("");
    wait_state(alpha, "replstate", "logging", |s| s == "Replicating");
    load(alpha, &journal, 5);
    cluster.stop_clean(EXPECTED);
    println!("{}", check(&disk, &journal, "--final").trim());
}

#[test]
fn errors_log_sync_fails_strict() {
    log_trouble(STRICT, "log.sync EIO skip=4");
}

#[test]
fn errors_log_sync_fails_flush() {
    log_trouble(FLUSH, "log.sync EIO");
}

#[test]
fn errors_log_is_full() {
    log_trouble(STRICT, "log.append ENOSPC after=1000000");
}

#[test]
fn errors_log_short_writes() {
    log_trouble(FLUSH, "log.append EIO short skip=3");
}

/// The log cannot be cut either: what it holds behind its valid end must not come back.
#[test]
fn errors_log_cannot_be_cut() {
    log_trouble(STRICT, "log.sync EIO skip=4\nlog.truncate EIO");
}

/// After a failed fdatasync nothing that was in flight is called durable, until it is on the disk.
#[test]
fn errors_nothing_in_flight_is_durable_after_a_failed_sync() {
    let (cluster, disk) = one_host(STRICT);
    let alpha = cluster.host(0);
    let c = client(alpha);
    let page = |b: u8| vec![b; 4096];
    assert_eq!(ask(&c, Cmd::Write, 0, 0, &page(1)), 0);
    alpha.faults("log.sync EIO\nlog.space ENOSPC\ndisk.flush hang\n");
    for i in 0..8u64 {
        c.send(Cmd::Write, 0, i, i * 4096, 4096, &page(2)).unwrap();
    }
    c.send(Cmd::Flush, 0, 8, 0, 0, &[]).unwrap();
    alpha.wait_hit("LogSync");
    alpha.wait_hit("DiskFlush");
    // Nothing may have been answered: the disk has not flushed, and the log has failed.
    let version = alpha
        .value("resource-data/version-000000001-alpha")
        .unwrap();
    assert!(alpha.kill("mars-logger@data.service"));
    let answer = c.reply();
    assert!(
        answer.is_err(),
        "answered, although durable nowhere: {answer:?}"
    );
    // The published length of the log is what was durable before: one record of 4096 bytes.
    assert!(version.contains(",log-000000001-alpha,4180:"), "{version}");
    alpha.faults("");
    alpha.ok(&["start"]);
    alpha.ok(&["wait-resource", RES, "is-device-on"]);
    let c = client(alpha);
    let mut b = page(0);
    c.read_at(&mut b, 0).unwrap();
    assert!(
        b == page(1) || b == page(2),
        "I1: the acknowledged write is there"
    );
    assert_eq!(ask(&c, Cmd::Write, 0, 0, &page(3)), 0);
    drop(c);
    cluster.stop_clean(EXPECTED);
    assert_eq!(std::fs::read(&disk).unwrap()[..4096], page(3)[..]);
}

/// The disk fails under load: everything goes on in the log, the state says it, and write-back catches up when the disk works again.
fn disk_trouble(config: &str, rules: &str) {
    let (cluster, disk) = one_host(config);
    let alpha = cluster.host(0);
    let journal = alpha.file("journal");
    load(alpha, &journal, 5);
    alpha.faults(rules);
    load(alpha, &journal, 10);
    wait_state(alpha, "diskstate", "error", |s| {
        s.starts_with("DISK_ERROR=-5[EIO:")
    });
    assert!(
        alpha
            .unit_log("mars-logger@data.service")
            .contains("writing the disk"),
        "{}",
        alpha.logs()
    );
    load(alpha, &journal, 5);
    alpha.faults("");
    wait_state(alpha, "diskstate", "no error", |s| s == "UpToDate");
    load(alpha, &journal, 5);
    cluster.stop_clean(EXPECTED);
    println!("{}", check(&disk, &journal, "--final").trim());
}

#[test]
fn errors_disk_write_fails() {
    disk_trouble(STRICT, "disk.write EIO short");
}

/// The kernel drops what it could not write: the only good copy is in memory and in the log.
#[test]
fn errors_disk_flush_fails_and_loses() {
    disk_trouble(FLUSH, "disk.flush EIO lose");
}

/// Stopped while the disk is broken: the exit of the unit says so, and the next start writes what the log holds.
#[test]
fn errors_stop_with_a_broken_disk() {
    let (cluster, disk) = one_host(STRICT);
    let alpha = cluster.host(0);
    let journal = alpha.file("journal");
    alpha.faults("disk.write EIO\n");
    load(alpha, &journal, 10);
    wait_state(alpha, "diskstate", "error", |s| {
        s.starts_with("DISK_ERROR=-5")
    });
    alpha.run(&["stop"]);
    let log = alpha.unit_log("mars-logger@data.service");
    let last = log.lines().last().unwrap_or_default();
    assert!(
        last.starts_with("mars-logger:") && last.contains("could not be written (error 5)"),
        "{log}"
    );
    // Recovery meets the broken disk: the state says so, and no role is taken.
    alpha.ok(&["start"]);
    wait_state(alpha, "role", "not primary", |s| s == "NotYetPrimary");
    alpha.wait_hit("DiskWrite");
    wait_state(alpha, "diskstate", "error", |s| {
        s.starts_with("DISK_ERROR=-5")
    });
    alpha.faults("");
    alpha.ok(&["start"]);
    alpha.ok(&["wait-resource", RES, "is-device-on"]);
    wait_state(alpha, "diskstate", "no error", |s| s == "UpToDate");
    cluster.stop_clean(EXPECTED);
    println!("{}", check(&disk, &journal, "--final").trim());
}

/// Neither log nor disk takes anything: only now the application sees an error, and it is told the truth as soon as one of them works.
#[test]
fn errors_nothing_works() {
    let (cluster, disk) = one_host(STRICT);
    let alpha = cluster.host(0);
    let c = client(alpha);
    let page = |b: u8| vec![b; 4096];
    assert_eq!(ask(&c, Cmd::Write, 0, 0, &page(1)), 0);
    alpha.faults("log.sync EIO\nlog.create EIO\ndisk.write EIO\n");
    assert_eq!(ask(&c, Cmd::Write, 0, 4096, &page(2)), EIO);
    assert_eq!(ask(&c, Cmd::Write, FUA, 8192, &page(3)), EIO);
    assert_eq!(ask(&c, Cmd::Flush, 0, 0, &[]), EIO);
    wait_state(alpha, "diskstate", "error", |s| {
        s.starts_with("DISK_ERROR=-5")
    });
    assert_eq!(state(alpha, "replstate"), "EmergencyMode");
    // What is in memory is served all the same.
    let mut b = page(0);
    c.read_at(&mut b, 0).unwrap();
    assert_eq!(b, page(1));
    alpha.faults("log.create EIO\n");
    wait_state(alpha, "diskstate", "no error", |s| {
        !s.contains("DISK_ERROR")
    });
    assert_eq!(ask(&c, Cmd::Write, 0, 12288, &page(4)), 0);
    assert_eq!(ask(&c, Cmd::Flush, 0, 0, &[]), 0);
    let on_disk = std::fs::read(&disk).unwrap();
    assert_eq!((on_disk[0], on_disk[12288]), (1, 4));
    alpha.faults("");
    wait_state(alpha, "replstate", "logging", |s| s == "Replicating");
    assert_eq!(ask(&c, Cmd::Write, 0, 16384, &page(5)), 0);
    drop(c);
    cluster.stop_clean(EXPECTED);
    assert_eq!(std::fs::read(&disk).unwrap()[16384], 5);
}

/// Nothing is logged and the disk fails in places: who writes there sees the error, nobody else does, and a flush says the truth.
#[test]
fn errors_disk_fails_in_places() {
    let (cluster, disk) = one_host(STRICT);
    let alpha = cluster.host(0);
    let c = client(alpha);
    let page = |b: u8| vec![b; 4096];
    alpha.faults("log.sync EIO\nlog.create EIO\ndisk.write EIO pos=1048576-1052672\n");
    let ops = [(0, 1), (1 << 20, 2), (8192, 3), ((1 << 20) + 4096, 4)];
    for (pos, byte) in ops {
        c.send(Cmd::Write, 0, u64::from(byte), pos, 4096, &page(byte))
            .unwrap();
    }
    let mut errors: Vec<_> = ops.iter().map(|_| c.reply().unwrap()).collect();
    errors.sort_unstable();
    assert_eq!(errors, [(1, 0), (2, EIO), (3, 0), (4, 0)]);
    assert_eq!(ask(&c, Cmd::Write, 0, 16384, &page(5)), 0);
    assert_eq!(ask(&c, Cmd::Flush, 0, 0, &[]), EIO);
    // A crash now: what was answered is on the disk.
    let on_disk = std::fs::read(&disk).unwrap();
    let at = |pos: usize| on_disk[pos];
    assert_eq!((at(0), at(8192), at(16384)), (1, 3, 5));
    let mut b = page(0);
    c.read_at(&mut b, 1 << 20).unwrap();
    assert_eq!(b, page(2), "served from memory");
    alpha.faults("log.create EIO\n");
    wait_state(alpha, "diskstate", "no error", |s| {
        !s.contains("DISK_ERROR")
    });
    assert_eq!(ask(&c, Cmd::Flush, 0, 0, &[]), 0);
    assert_eq!(std::fs::read(&disk).unwrap()[1 << 20], 2);
    drop(c);
    alpha.faults("");
    cluster.stop_clean(EXPECTED);
}

/// While nothing is logged a disk that fails for a moment fails nobody.
#[test]
fn errors_one_failure_is_nobodys_error() {
    let (cluster, disk) = one_host(STRICT);
    let alpha = cluster.host(0);
    let c = client(alpha);
    alpha.faults(
        "log.sync EIO\nlog.create EIO\ndisk.write EIO times=1\ndisk.flush EIO lose times=1\n",
    );
    assert_eq!(ask(&c, Cmd::Write, 0, 4096, &[6; 4096]), 0);
    assert!(alpha.hits().contains("DiskWrite") && alpha.hits().contains("DiskFlush"));
    assert_eq!(std::fs::read(&disk).unwrap()[4096], 6);
    drop(c);
    alpha.faults("");
    cluster.stop_clean(EXPECTED);
}

/// A place of the disk that cannot be read: its readers see it, nobody else, and the state says it.
#[test]
fn errors_disk_read_fails() {
    let (cluster, _disk) = one_host(STRICT);
    let alpha = cluster.host(0);
    let c = client(alpha);
    alpha.faults("disk.read EIO pos=1048576-1052672\n");
    let read = |pos: u64| {
        c.send(Cmd::Read, 0, 1, pos, 4096, &[]).unwrap();
        let (_, error) = c.reply().unwrap();
        if error == 0 {
            c.data(&mut [0; 4096]).unwrap();
        }
        error
    };
    assert_eq!((read(0), read(1 << 20)), (0, EIO));
    wait_state(alpha, "diskstate", "error", |s| {
        s.starts_with("DISK_ERROR=-5")
    });
    // Written anew it is in memory, and then on the disk.
    assert_eq!(ask(&c, Cmd::Write, 0, 1 << 20, &[7; 4096]), 0);
    alpha.faults("");
    wait_state(alpha, "diskstate", "no error", |s| s == "UpToDate");
    assert_eq!(read(1 << 20), 0);
    drop(c);
    cluster.stop_clean(EXPECTED);
}

/// The secondary's disk fails in some way: its state says it, and replay goes on by itself when the disk works again.
fn replay_trouble(rules: &str) {
    let (cluster, disks) = two_hosts(STRICT);
    let (alpha, beta) = (cluster.host(0), cluster.host(1));
    let journal = alpha.file("journal");
    load(alpha, &journal, 5);
    beta.faults(rules);
    load(alpha, &journal, 10);
    wait_state(beta, "diskstate", "error", |s| {
        s.starts_with("DISK_ERROR=-5[EIO:")
    });
    assert!(
        beta.unit_log("mars-replay@data.service")
            .contains("writing the disk"),
        "{}",
        beta.logs()
    );
    assert!(!state(alpha, "diskstate").contains("DISK_ERROR"));
    load(alpha, &journal, 3);
    beta.faults("");
    wait_state(beta, "diskstate", "no error", |s| s == "UpToDate");
    beta.wait_tree("replay of everything", |s| {
        let (a, b) = (alpha.env.host.clone(), beta.env.host.clone());
        let res = RES.parse().unwrap();
        s.replay(&res, &a)
            .is_some_and(|p| p.dirty == 0 && s.replay(&res, &b) == Some(p))
    });
    cluster.stop_clean(EXPECTED);
    for d in &disks {
        println!("{}", check(d, &journal, "--final").trim());
    }
    assert_eq!(digest(&disks[0]), digest(&disks[1]));
}

#[test]
fn errors_replay_write_fails() {
    replay_trouble("disk.write EIO short");
}

#[test]
fn errors_replay_flush_fails_and_loses() {
    replay_trouble("disk.flush EIO lose");
}

/// The log of the primary is full for a while: the secondary needs a new sync, and is equal afterwards.
#[test]
fn errors_emergency_with_a_secondary() {
    let (cluster, disks) = two_hosts(STRICT);
    let (alpha, beta) = (cluster.host(0), cluster.host(1));
    let journal = alpha.file("journal");
    load(alpha, &journal, 5);
    alpha.faults("log.append ENOSPC short after=300000\nlog.space ENOSPC\n");
    load(alpha, &journal, 10);
    wait_state(alpha, "replstate", "emergency", |s| s == "EmergencyMode");
    // I3: what the secondary has is a prefix, nothing unlogged.
    alpha.faults("");
    wait_state(alpha, "replstate", "logging", |s| s == "Replicating");
    load(alpha, &journal, 5);
    beta.ok(&["invalidate", RES]);
    beta.wait_view("diskstate", RES, "UpToDate");
    load(alpha, &journal, 2);
    beta.wait_tree("replay of everything", |s| {
        let (a, b) = (alpha.env.host.clone(), beta.env.host.clone());
        let res = RES.parse().unwrap();
        s.replay(&res, &a)
            .is_some_and(|p| p.dirty == 0 && s.replay(&res, &b) == Some(p))
    });
    cluster.stop_clean(EXPECTED);
    for d in &disks {
        println!("{}", check(d, &journal, "--final").trim());
    }
    assert_eq!(digest(&disks[0]), digest(&disks[1]));
}
