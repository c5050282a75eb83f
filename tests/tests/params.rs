//! Parameters and their effect in the daemons: sync limit and preference, emergency limit, connect preference, digests and compressions
//! of logs and of the network; and `set-replay`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_log::{LogReader, ReadRecord, ScanLimits};
use mars_tests::nbd::{Cmd, Nbd};
use mars_tests::{Cluster, Host, PATIENCE, digest, make_disk};
use mars_tree::{Key, Snapshot};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File, OpenOptions};
use std::net::Ipv4Addr;
use std::os::unix::fs::FileExt;

const RES: &str = "vol-1";
const MIB: u64 = 1 << 20;
const MD5: u32 = 0x0002_0000;
const CRC32C: u32 = 0x0004_0000;
const LZ4: u32 = 0x0200_0000;
const ZLIB: u32 = 0x0400_0000;
/// How full the machine is that runs the tests does not matter.
const CONFIG: &str = "front = \"nbd-socket\"\nheartbeat_ms = 300\nrequired_free_space_1_gb = 0\n\
required_free_space_2_gb = 0\nrequired_free_space_3_gb = 0\nrequired_free_space_4_gb = 0\n";

fn connect(h: &Host) -> Nbd {
    Nbd::connect(&h.env.dev_dir.join(RES), RES, PATIENCE).unwrap()
}

fn write(c: &Nbd, pos: u64, byte: u8, len: usize) {
    c.send(Cmd::Write, 0, 7, pos, len as u32, &vec![byte; len])
        .unwrap();
    assert_eq!(c.reply().unwrap(), (7, 0), "write at {pos}");
}

fn wait_value(h: &Host, key: &str, value: &str) {
    h.wait_tree(&format!("{key} = {value}"), |s| {
        s.text(&Key::parse(key)) == Some(value)
    });
}

fn wait_equal(h: &Host) {
    h.wait_view("diskstate", RES, "UpToDate");
    h.wait_view("work-rest", RES, "0");
}

fn unit_log(h: &Host, unit: &str) -> String {
    fs::read_to_string(h.env.run_dir.join("units").join(format!("{unit}.log"))).unwrap_or_default()
}

/// A process that does nothing as long as this exists.
struct Asleep(Pid);

impl Asleep {
    fn new(h: &Host, unit: &str) -> Asleep {
        let pid = Pid::from_raw(h.pid(unit).expect("runs"));
        kill(pid, Signal::SIGSTOP).unwrap();
        Asleep(pid)
    }
}

impl Drop for Asleep {
    fn drop(&mut self) {
        let _ = kill(self.0, Signal::SIGCONT);
    }
}

#[test]
fn params_limit_and_order_of_syncs() {
    let cluster = Cluster::new(&["alpha", "beta"], CONFIG);
    let (alpha, beta) = (cluster.host(0), cluster.host(1));
    cluster.form();
    assert_eq!(beta.ok(&["get-global-sync-limit-value"]).trim(), "0");
    assert_eq!(beta.ok(&["get-sync-pref-list"]).trim(), "(none)");
    for bad in ["-1", "x", "", "1.5", "4294967296"] {
        let r = beta.run(&["set-global-sync-limit-value", bad]);
        assert_eq!(r.code, 2, "{bad}: {r:?}");
        assert!(r.err.contains(bad), "{r:?}");
    }
    let all = ["r1", "r2", "r3", "r4", "r5"];
    for r in all {
        let disk = |h: &Host| {
            let d = h.file(&format!("{r}.img"));
            make_disk(&d, MIB, true);
            d.display().to_string()
        };
        alpha.ok(&["create-resource", r, &disk(alpha)]);
        disk(beta);
    }
    let serve = alpha
        .units()
        .into_iter()
        .find(|u| u.starts_with("mars-sync") && !u.contains('@'))
        .expect("the sync server");
    // As long as the source says nothing, no sync ends.
    let asleep = Asleep::new(alpha, &serve);
    for r in all {
        let disk = beta.file(&format!("{r}.img")).display().to_string();
        beta.ok(&["join-resource", r, &disk]);
    }
    let syncing = |s: &Snapshot| -> Vec<&str> {
        let on = |r: &&str| {
            s.text(&Key::parse(&format!("resource-{r}/actual-beta/is-syncing"))) == Some("1")
        };
        let runs = |r: &&str| beta.pid(&format!("mars-sync@{r}.service")).is_some();
        all.iter().copied().filter(|r| on(r) && runs(r)).collect()
    };
    let wait = |expected: &[&str]| {
        beta.wait_tree(&format!("syncs of {expected:?} only"), |s| {
            syncing(s) == expected
        });
    };
    wait(&all);
    beta.refused(&["set-sync-pref-list", "r4,r9"], &["r9", "does not exist"]);
    beta.refused(&["set-sync-pref-list", "r4,r4"], &["r4", "twice"]);
    beta.ok(&["set-sync-pref-list", "r4,r2"]);
    beta.ok(&["set-global-sync-limit-value", "3"]);
    wait(&["r1", "r2", "r4"]);
    let r = beta.run(&["set-sync-limit-value", "1"]);
    assert!(r.code == 0 && r.err.contains("deprecated"), "{r:?}");
    assert_eq!(beta.ok(&["get-sync-limit-value"]).trim(), "1");
    assert_eq!(beta.ok(&["view-global-sync-limit-value"]).trim(), "1");
    assert_eq!(beta.ok(&["get-sync-pref-list"]).trim(), "r4,r2");
    wait(&["r4"]);
    drop(asleep);
    let mut most = 0;
    beta.wait_tree("all syncs are finished", |s| {
        most = most.max(syncing(s).len());
        all.iter()
            .all(|r| s.number(&Key::parse(&format!("resource-{r}/syncstatus-beta"))) == Some(MIB))
    });
    assert_eq!(most, 1, "more than one sync at once");
    // One after the other, in the order of the list, then of the names.
    let snap = beta.tree().snapshot().unwrap();
    let mut order = all.map(|r| {
        (
            snap.stamp(&Key::parse(&format!("resource-{r}/syncstatus-beta"))),
            r,
        )
    });
    order.sort();
    assert_eq!(order.map(|(_, r)| r), ["r4", "r2", "r1", "r3", "r5"]);
    beta.ok(&["set-sync-pref-list", ""]);
    assert_eq!(beta.ok(&["get-sync-pref-list"]).trim(), "(none)");
    cluster.stop_clean(&[]);
}

#[test]
fn params_emergency_limit_stops_logging() {
    let cluster = Cluster::new(&["alpha"], CONFIG);
    let alpha = cluster.host(0);
    cluster.form();
    let disk = alpha.file("disk.img");
    make_disk(&disk, 8 * MIB, false);
    alpha.ok(&["create-resource", RES, disk.to_str().unwrap()]);
    alpha.ok(&["wait-resource", RES, "is-device-on"]);
    assert_eq!(alpha.ok(&["get-emergency-limit", RES]).trim(), "0");
    for bad in ["101", "-1", "x", "50%", ""] {
        let r = alpha.run(&["set-emergency-limit", RES, bad]);
        assert!(r.code == 2 && r.err.contains(bad), "{bad}: {r:?}");
    }
    alpha.refused(&["set-emergency-limit", "nothing", "5"], &["nothing"]);
    let space = |name: &str| -> u64 {
        alpha
            .value(&format!("actual-alpha/{name}"))
            .unwrap()
            .parse()
            .unwrap()
    };
    let (rest, total) = (space("rest-space"), space("total-space"));
    assert!(
        rest < total,
        "this test needs a file system below /tmp of which at least 1 GiB is used: {rest} of {total} GiB"
    );
    let user = connect(alpha);
    write(&user, 0, 1, 4096);
    let flag = format!("resource-{RES}/actual-alpha/is-emergency");
    // A limit that is not reached changes nothing.
    if rest * 100 / total > 1 {
        alpha.ok(&["set-emergency-limit", RES, "1"]);
        write(&user, 4096, 2, 4096);
        assert_eq!(alpha.value(&flag).as_deref(), Some("0"));
    }
    alpha.ok(&["emergency-limit", RES, "100"]);
    assert_eq!(alpha.ok(&["get-emergency-limit", RES]).trim(), "100");
    wait_value(alpha, &flag, "1");
    wait_value(
        alpha,
        &format!("resource-{RES}/actual-alpha/has-emergency"),
        "1",
    );
    // The application notices nothing.
    write(&user, 8192, 3, 4096);
    alpha.ok(&["set-emergency-limit", RES, "0"]);
    wait_value(alpha, &flag, "0");
    write(&user, 12288, 4, 4096);
    drop(user);
    alpha.ok(&["wait-umount", RES]);
    cluster.stop_clean(&["logging stops at"]);
    let f = File::open(&disk).unwrap();
    for (i, at) in [0, 8192, 12288].into_iter().enumerate() {
        let mut page = [0; 4096];
        f.read_exact_at(&mut page, at).unwrap();
        assert_eq!(page[0], [1, 3, 4][i], "at {at}");
    }
}

/// Is there an established connection between these addresses to the log service of the second?
fn is_fetching(from: &Host, of: &Host) -> bool {
    let hex = |h: &Host| {
        let ip: Ipv4Addr = h.ip.parse().unwrap();
        format!("{:08X}", u32::from_le_bytes(ip.octets()))
    };
    let remote = format!("{}:{:04X}", hex(of), of.env.port + 1);
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    table.lines().any(|l| {
        let w: Vec<&str> = l.split_whitespace().collect();
        w.len() > 3 && w[1].starts_with(&hex(from)) && w[2] == remote && w[3] == "01"
    })
}

#[test]
fn params_connect_preference_and_set_replay() {
    let cluster = Cluster::new(&["alpha", "beta", "gamma"], CONFIG);
    let (alpha, beta, gamma) = (cluster.host(0), cluster.host(1), cluster.host(2));
    let disks = [0, 1, 2].map(|i| cluster.host(i).file("disk.img"));
    for d in &disks {
        make_disk(d, 4 * MIB, false);
    }
    cluster.form();
    alpha.ok(&["create-resource", RES, disks[0].to_str().unwrap()]);
    alpha.ok(&["wait-resource", RES, "is-device-on"]);
    beta.ok(&["join-resource", RES, disks[1].to_str().unwrap()]);
    gamma.ok(&["join-resource", RES, disks[2].to_str().unwrap()]);
    let user = connect(alpha);
    write(&user, 0, 1, 4096);
    wait_equal(beta);
    wait_equal(gamma);
    let wait_source = |of: &Host, not: &Host| {
        gamma.wait_tree(&format!("gamma fetches from {}", of.env.host), |_| {
            is_fetching(gamma, of) && !is_fetching(gamma, not)
        });
    };
    wait_source(alpha, beta);
    gamma.refused(
        &["set-connect-pref-list", RES, "delta"],
        &["delta", "not in the cluster"],
    );
    gamma.refused(
        &["set-connect-pref-list", RES, "gamma"],
        &["gamma", "itself"],
    );
    gamma.refused(
        &["set-connect-pref-list", RES, "beta,beta"],
        &["beta", "twice"],
    );
    assert_eq!(gamma.run(&["set-connect-pref-list", RES]).code, 2);
    assert_eq!(gamma.ok(&["get-connect-pref-list", RES]).trim(), "");
    gamma.ok(&["set-connect-pref-list", RES, "beta,alpha"]);
    assert_eq!(
        gamma.ok(&["get-connect-pref-list", RES]).trim(),
        "beta,alpha"
    );
    wait_source(beta, alpha);
    write(&user, 4096, 2, 4096);
    wait_equal(gamma);
    assert!(is_fetching(gamma, beta));
    // The first that can be reached.
    beta.ok(&["stop"]);
    write(&user, 8192, 3, 4096);
    wait_equal(gamma);
    wait_source(alpha, beta);
    beta.ok(&["start"]);
    // Removed, then for all resources at once.
    gamma.ok(&["set-connect-pref-list", RES, ""]);
    assert_eq!(gamma.ok(&["get-connect-pref-list"]).trim(), "");
    gamma.ok(&["set-connect-pref-list", "beta"]);
    assert_eq!(gamma.ok(&["get-connect-pref-list"]).trim(), "beta");
    wait_source(beta, alpha);
    // Two that prefer each other still get what the primary writes.
    beta.ok(&["set-connect-pref-list", RES, "gamma"]);
    write(&user, 12288, 4, 4096);
    wait_equal(beta);
    wait_equal(gamma);
    beta.ok(&["set-connect-pref-list", ""]);
    gamma.ok(&["set-connect-pref-list", ""]);

    // Replay from an earlier log on; nothing changes by that, because every record is applied again.
    for i in 0..3u8 {
        write(&user, 16384 * u64::from(i), 9 - i, 16384);
        alpha.ok(&["log-rotate", RES]);
        alpha.wait_tree("the next log", |s| {
            let nr = u32::from(i) + 2;
            s.version(&RES.parse().unwrap(), nr, &alpha.env.host)
                .is_some()
        });
    }
    wait_equal(beta);
    beta.refused(&["set-replay", RES, "1"], &["replay", "pause-replay"]);
    alpha.refused(&["set-replay", RES, "1"], &["alpha is primary"]);
    beta.ok(&["pause-replay", RES]);
    wait_value(
        beta,
        &format!("resource-{RES}/actual-beta/is-replaying"),
        "0",
    );
    beta.refused(&["set-replay", RES, "99"], &["99", "not known"]);
    for bad in ["0", "x", "-1", "1000000000"] {
        let r = beta.run(&["set-replay", RES, bad]);
        assert!(r.code == 2 && r.err.contains(bad), "{bad}: {r:?}");
    }
    let at = format!("resource-{RES}/replay-beta");
    beta.ok(&["set-replay", RES, "2"]);
    assert_eq!(beta.value(&at).as_deref(), Some("log-000000002-alpha,0,0"));
    // Forwards something would be missing.
    beta.refused(&["set-replay", RES, "4"], &["ahead", "--force"]);
    assert_eq!(beta.value(&at).as_deref(), Some("log-000000002-alpha,0,0"));
    let r = beta.run(&["set-replay", RES, "3", "--force"]);
    assert!(r.code == 0 && r.err.contains("misses"), "{r:?}");
    beta.ok(&["set-replay", RES, "1"]);
    beta.ok(&["resume-replay", RES]);
    wait_equal(beta);
    wait_equal(gamma);
    drop(user);
    alpha.ok(&["wait-umount", RES]);
    cluster.stop_clean(&[]);
    assert_eq!(digest(&disks[0]), digest(&disks[1]));
    assert_eq!(digest(&disks[0]), digest(&disks[2]));
}

/// Bits of digest and compression in the trailer of the last write record in the newest log, as in the masks of the tree.
fn last_record(h: &Host) -> u32 {
    let snap = h.tree().snapshot().unwrap();
    let (log, _) = snap
        .logs(&RES.parse().unwrap())
        .into_iter()
        .next_back()
        .unwrap();
    let file = File::open(h.tree().path(&Key::Log(RES.parse().unwrap(), log))).unwrap();
    let len = file.metadata().unwrap().len();
    let mut reader = LogReader::new(file.try_clone().unwrap(), 0, len, ScanLimits::default());
    let mut flags = [0; 2];
    while let ReadRecord::Record(r, end) = reader.next_record().unwrap() {
        if r.is_write {
            file.read_exact_at(&mut flags, end - 36 + 14).unwrap();
        }
    }
    u32::from(u16::from_le_bytes(flags)) << 16
}

#[test]
fn params_digests_and_compressions() {
    let cluster = Cluster::new(&["alpha", "beta"], CONFIG);
    let (alpha, beta) = (cluster.host(0), cluster.host(1));
    let disks = [alpha.file("disk.img"), beta.file("disk.img")];
    for d in &disks {
        make_disk(d, 16 * MIB, false);
    }
    let f = OpenOptions::new().write(true).open(&disks[0]).unwrap();
    f.write_all_at(&vec![0x5a; 12 << 20], 0).unwrap();
    cluster.form();
    alpha.ok(&["create-resource", RES, disks[0].to_str().unwrap()]);
    alpha.ok(&["wait-resource", RES, "is-device-on"]);
    let user = connect(alpha);
    let set = |what: &str, value: &str, stored: &str| {
        alpha.ok(&[what, value]);
        let name = what.replacen("set-global-", "", 1);
        assert_eq!(
            alpha.value(&format!("defaults/{name}")).as_deref(),
            Some(stored)
        );
    };
    for (set, get, bad) in [
        (
            "set-global-enabled-log-compressions",
            "get-global-enabled-log-compressions",
            "COMPRESS_LZ5",
        ),
        (
            "set-global-enabled-net-compressions",
            "get-global-enabled-net-compressions",
            "CHKSUM_MD5",
        ),
        (
            "set-global-disabled-log-digests",
            "get-global-disabled-log-digests",
            "COMPRESS_LZ4",
        ),
        (
            "set-global-disabled-net-digests",
            "get-global-disabled-net-digests",
            "MD5",
        ),
    ] {
        let r = alpha.run(&[set, bad]);
        assert!(r.code == 2 && r.err.contains(bad), "{r:?}");
        assert_eq!(alpha.ok(&[get]).trim(), "");
    }
    alpha.refused(
        &["get-disabled-digests", RES],
        &["get-global-disabled-log-digests"],
    );
    alpha.refused(
        &["set-disabled-digests", RES, "CHKSUM_MD5"],
        &["set-global-disabled-log-digests"],
    );
    // A write with other settings than the one before goes into the log with them.
    let mut at = 13 * MIB;
    let mut record_is = |expected: u32| {
        alpha.wait_tree(&format!("{expected:#x} in the log"), |_| {
            write(&user, at, 0x33, 4096);
            at += 4096;
            last_record(alpha) == expected
        });
    };
    record_is(CRC32C);
    set(
        "set-global-enabled-log-compressions",
        "COMPRESS_ZLIB|COMPRESS_LZ4",
        "0x06000000",
    );
    assert_eq!(
        alpha.ok(&["get-global-enabled-log-compressions"]).trim(),
        "COMPRESS_LZ4|COMPRESS_ZLIB"
    );
    record_is(CRC32C | LZ4);
    set(
        "set-global-enabled-log-compressions",
        "67108864",
        "0x04000000",
    );
    set(
        "set-global-disabled-log-digests",
        "CHKSUM_CRC32C|CHKSUM_CRC32",
        "0x000c0000",
    );
    record_is(MD5 | ZLIB);
    wait_value(alpha, "actual-alpha/used-log-digest", "131072");
    wait_value(alpha, "actual-alpha/used-log-compression", "67108864");
    set("set-global-enabled-log-compressions", "", "0x00000000");
    record_is(MD5);

    // The network: sync and fetch.
    set(
        "set-global-enabled-net-compressions",
        "COMPRESS_LZ4",
        "0x02000000",
    );
    set(
        "set-global-disabled-net-digests",
        "CHKSUM_CRC32C|CHKSUM_CRC32|CHKSUM_MD5",
        "0x000e0000",
    );
    beta.ok(&["join-resource", RES, disks[1].to_str().unwrap()]);
    wait_equal(beta);
    let sync = unit_log(beta, "mars-sync@vol\\x2d1.service");
    let line = sync
        .lines()
        .find(|l| l.contains("sync finished resource"))
        .unwrap_or_else(|| panic!("no end of the sync in {sync}"));
    assert!(
        line.contains("net_digest=Sha1 net_compression=Some(Lz4)"),
        "{line}"
    );
    let wire = line.split("wire_bytes=").nth(1).unwrap();
    let wire: u64 = wire.split(' ').next().unwrap().parse().unwrap();
    assert!(wire < 2 * MIB, "{wire} bytes for 12 MiB of the same byte");
    write(&user, 0, 0x11, 1 << 20);
    wait_equal(beta);
    let fetched = unit_log(beta, "mars-fetch@vol\\x2d1.service");
    let packed = "packed data from alpha: net_digest=Sha1 net_compression=Some(Lz4)";
    assert!(fetched.contains(packed), "{fetched}");
    // Something must be used.
    let r = alpha.run(&["set-global-disabled-net-digests", "0x1f0000"]);
    assert!(r.code == 0 && r.err.contains("CHKSUM_MD5_OLD"), "{r:?}");
    wait_value(beta, "actual-beta/used-net-digest", "65536");
    drop(user);
    alpha.ok(&["wait-umount", RES]);
    cluster.stop_clean(&[]);
    assert_eq!(digest(&disks[0]), digest(&disks[1]));
}
