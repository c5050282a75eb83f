//! Damaged logs with real processes, at rest and in flight: found, told, nothing applied behind, all before it applied, mended by itself when
//! there is a good copy (I5).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_log::{Payload, Scan, ScanLimits, Scanner};
use mars_tests::proxy::Proxy;
use mars_tests::{Cluster, Host, bin_dir, check, digest, make_disk, write};
use mars_tree::ReplayPos;
use std::fs;
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

const SIZE: u64 = 16 << 20;
const RES: &str = "data";
const CONFIG: &str = "front = \"nbd-socket\"\nheartbeat_ms = 300\ndurability = \"strict\"\n";
const LOG: &str = "log-000000001-alpha";

struct Pair {
    cluster: Cluster,
    disks: [PathBuf; 2],
    journal: PathBuf,
}

impl Pair {
    fn new(cluster: Cluster) -> Pair {
        let disks = [0, 1].map(|i| cluster.host(i).file("disk.img"));
        make_disk(&disks[0], SIZE, true);
        make_disk(&disks[1], SIZE, false);
        cluster.form();
        let journal = cluster.host(0).file("journal");
        let p = Pair {
            cluster,
            disks,
            journal,
        };
        let (alpha, beta) = (p.alpha(), p.beta());
        alpha.ok(&["create-resource", RES, &p.disks[0].display().to_string()]);
        alpha.ok(&["wait-resource", RES, "is-device-on"]);
        beta.ok(&["join-resource", RES, &p.disks[1].display().to_string()]);
        beta.wait_view("diskstate", RES, "UpToDate");
        p
    }
    fn alpha(&self) -> &Host {
        self.cluster.host(0)
    }
    fn beta(&self) -> &Host {
        self.cluster.host(1)
    }
    fn load(&self, batches: u32) {
        load(self.alpha(), &self.journal, batches);
    }
    fn position(&self, h: &Host) -> ReplayPos {
        let snap = h.tree().snapshot().unwrap();
        snap.replay(&RES.parse().unwrap(), &h.env.host).unwrap()
    }
    /// Replay at beta is paused, and this much more of the log is there.
    fn fetched_not_replayed(&self, batches: u32) -> ReplayPos {
        let (alpha, beta) = (self.alpha(), self.beta());
        beta.ok(&["pause-replay", RES]);
        let at = self.position(beta);
        self.load(batches);
        beta.wait_for("everything fetched", || {
            let len = |h: &Host| fs::metadata(h.log_path(RES, LOG)).map_or(0, |m| m.len());
            // The primary may hold prepared space behind the end; it is published what counts.
            let told = published(alpha);
            told > at.pos && len(beta) >= told && written_back(alpha)
        });
        at
    }
    fn equal_by_itself(&self) {
        let (alpha, beta) = (self.alpha(), self.beta());
        beta.wait_view("diskstate", RES, "UpToDate");
        beta.wait_tree("replay of everything", |_| {
            written_back(alpha) && self.position(beta).pos == self.position(alpha).pos
        });
        assert_eq!(digest(&self.disks[0]), digest(&self.disks[1]));
        println!("{}", check(&self.disks[1], &self.journal, "--final").trim());
    }
}

fn load(h: &Host, journal: &Path, batches: u32) {
    let r = write(
        &h.uri(RES),
        journal,
        SIZE,
        &["--batches", &batches.to_string()],
    );
    assert_eq!(r.code, 0, "{r:?}\n{}", h.logs());
}

/// Published length of the first log.
fn published(h: &Host) -> u64 {
    let link = h.value(&format!("resource-{RES}/version-000000001-alpha"));
    let text = link.unwrap_or_default();
    let head = text.split(':').next().unwrap_or_default();
    head.rsplit(',')
        .next()
        .and_then(|n| n.parse().ok())
        .unwrap_or(0)
}

/// Nothing is dirty at the primary, and everything is published.
fn written_back(h: &Host) -> bool {
    let snap = h.tree().snapshot().unwrap();
    let at = snap.replay(&RES.parse().unwrap(), &h.env.host).unwrap();
    at.dirty == 0 && at.pos == published(h)
}

fn state(h: &Host) -> String {
    h.run(&["view-diskstate", RES]).out.trim_end().to_string()
}

fn wait_state(h: &Host, start: &str) {
    h.wait_tree(&format!("diskstate {start}"), |_| {
        state(h).starts_with(start)
    });
}

/// Ends of the records of a sound log, from `from` on.
fn ends(log: &[u8], from: u64) -> Vec<u64> {
    let mut s = Scanner::new(ScanLimits::default());
    let (mut at, mut out) = (from, Vec::new());
    while let Scan::Record(r) = s.next(&log[at as usize..]) {
        at += r.total_len as u64;
        out.push(at);
    }
    out
}

/// What the records in `[from, to)` of a sound log make of a disk.
fn apply(disk: &mut [u8], log: &[u8], from: u64, to: u64) {
    let mut s = Scanner::new(ScanLimits::default());
    let mut at = from;
    while at < to {
        let Scan::Record(r) = s.next(&log[at as usize..]) else {
            panic!("the undamaged log is sound at {at}")
        };
        let target = &mut disk[r.device_pos as usize..][..r.payload.len()];
        match &r.payload {
            Payload::Plain(b) => target.copy_from_slice(b),
            Payload::Unpacked(b) => target.copy_from_slice(b),
            Payload::Zeroes(_) => target.fill(0),
        }
        at += r.total_len as u64;
    }
    assert_eq!(at, to, "the position is a border");
}

fn patch(path: &Path, at: u64, bytes: &[u8]) {
    let f = fs::File::options().write(true).open(path).unwrap();
    f.write_all_at(bytes, at).unwrap();
}

/// The last line of a unit's log that tells of damage: so often.
fn findings(h: &Host) -> usize {
    h.unit_log("mars-replay@data.service")
        .matches("is damaged behind position")
        .count()
}

fn fetches_anew(h: &Host) -> usize {
    h.unit_log("mars-fetch@data.service")
        .matches("fetching it again from the start")
        .count()
}

/// A fresh fetch has no pauses left over from earlier damage.
fn restart_fetch(h: &Host) {
    assert!(h.kill("mars-fetch@data.service"));
    h.ok(&["start"]);
}

/// The secondary's copy is damaged before it is replayed. It fetches the log again by itself and is equal.
#[test]
fn damage_at_rest_on_the_secondary_is_mended() {
    let p = Pair::new(Cluster::new(&["alpha", "beta"], CONFIG));
    let beta = p.beta();
    for kind in [
        "flip",
        "zero",
        "cut out",
        "insert",
        "swap",
        "cut end",
        "last length",
    ] {
        let from = p.fetched_not_replayed(4);
        let path = beta.log_path(RES, LOG);
        let good = fs::read(&path).unwrap();
        let ends = ends(&good, from.pos);
        let (len, middle) = (good.len(), ends[ends.len() / 2] as usize + 700);
        let mut bad = good.clone();
        match kind {
            "flip" => bad[middle] ^= 0x10,
            "zero" => bad[middle..middle + 4096].fill(0),
            "cut out" => drop(bad.drain(middle..middle + 1000)),
            "insert" => {
                let piece = bad[middle - 500..middle].to_vec();
                bad.splice(middle..middle, piece);
            }
            "swap" => {
                let (a, b) = bad.split_at_mut(middle);
                a[middle - 4096..middle - 3584].swap_with_slice(&mut b[..512]);
            }
            "cut end" => bad.truncate(len - 300),
            // A longer record than there are bytes: that no more will come can be known only from the primary.
            _ => {
                let last = ends[ends.len() - 2] as usize;
                bad[last + 11] += 8;
            }
        }
        fs::write(&path, &bad).unwrap();
        let before = findings(beta);
        beta.ok(&["resume-replay", RES]);
        beta.wait_for(&format!("{kind}: found"), || findings(beta) > before);
        p.equal_by_itself();
        assert_eq!(fs::read(&path).unwrap(), good, "{kind}");
        restart_fetch(beta);
    }
    p.cluster.stop_clean(&[]);
}

/// Both copies are damaged at the same place: replay stops exactly there, the state says why for as long as it lasts, the source is not asked
/// all the time, and everything goes on by itself when there is a good copy again.
#[test]
fn damage_everywhere_stops_replay_until_a_copy_is_good() {
    let p = Pair::new(Cluster::new(&["alpha", "beta"], CONFIG));
    let (alpha, beta) = (p.alpha(), p.beta());
    let paths = [alpha, beta].map(|h| h.log_path(RES, LOG));
    for (kind, word) in [
        ("flip", "DefectiveLog[-74,-10101="),
        ("zeros", "IncompleteLog[-85="),
        ("garbage", "UnInitializedLogRecord[-56,-10020="),
    ] {
        let from = p.fetched_not_replayed(4);
        let mut disk = fs::read(&p.disks[1]).unwrap();
        let good = fs::read(&paths[1]).unwrap();
        let ends = ends(&good, from.pos);
        let i = ends.len() / 2;
        let (start, end) = (ends[i - 1], ends[i]);
        let damage = |path: &Path| match kind {
            "flip" => patch(path, start + 100, &[good[start as usize + 100] ^ 1]),
            // As after a crash of a file system that had not written everything.
            "zeros" => patch(
                path,
                end - 60,
                &vec![0; (good.len() as u64 - end) as usize + 60],
            ),
            _ => patch(path, end - 36, b"garbage!"),
        };
        paths.iter().for_each(|path| damage(path));
        beta.ok(&["resume-replay", RES]);
        let begin = Instant::now();
        let before = fetches_anew(beta);
        wait_state(beta, word);
        // Tried again, in vain, and not in a storm.
        beta.wait_for("a second attempt to fetch", || {
            fetches_anew(beta) >= before + 2
        });
        let attempts = (fetches_anew(beta) - before) as u64;
        assert!(attempts <= 2 + begin.elapsed().as_secs() / 2, "{attempts}");
        assert!(state(beta).starts_with(word), "{}", state(beta));
        assert!(
            beta.unit_log("mars-fetch@data.service")
                .contains("the copy of the source is damaged too"),
            "{}",
            beta.logs()
        );
        // Everything before the damage and nothing behind it.
        let at = p.position(beta);
        assert_eq!((at.pos, at.dirty), (start, 0), "{kind}");
        apply(&mut disk, &good, from.pos, start);
        assert!(
            fs::read(&p.disks[1]).unwrap() == disk,
            "{kind}: the disk is not the prefix"
        );
        // The application does not notice.
        assert!(!state(alpha).contains("Log["), "{}", state(alpha));

        patch(&paths[0], from.pos, &good[from.pos as usize..]);
        restart_fetch(beta);
        p.equal_by_itself();
    }
    p.cluster.stop_clean(&[]);
}

/// The last record of a finished log is damaged on both hosts, after an earlier run had promised to write it: the next log may not be entered,
/// although only little is missing.
#[test]
fn damage_in_the_tail_is_not_passed_over() {
    let p = Pair::new(Cluster::with_faults(&["alpha", "beta"], CONFIG));
    let (alpha, beta) = (p.alpha(), p.beta());
    p.fetched_not_replayed(4);
    alpha.ok(&["log-rotate", RES]);
    p.load(2);
    let next = beta.log_path(RES, "log-000000002-alpha");
    beta.wait_for("the next log", || {
        fs::metadata(&next).is_ok_and(|m| m.len() > 0)
    });
    beta.faults("disk.flush hang");
    beta.ok(&["resume-replay", RES]);
    beta.wait_hit("DiskFlush");
    let at = p.position(beta);
    let paths = [alpha, beta].map(|h| h.log_path(RES, LOG));
    let good = fs::read(&paths[1]).unwrap();
    assert_eq!(
        at.pos + at.dirty,
        good.len() as u64,
        "all of it is promised"
    );
    beta.kill_all();
    let ends = ends(&good, at.pos);
    let last = ends[ends.len() - 2];
    for path in &paths {
        patch(path, last + 60, &[good[last as usize + 60] ^ 1]);
    }
    beta.faults("");
    beta.ok(&["start"]);
    wait_state(beta, "DefectiveLog[-74,-10101=");
    beta.wait_for("an attempt to fetch", || fetches_anew(beta) > 0);
    let at = p.position(beta);
    assert_eq!((at.log.to_string().as_str(), at.pos), (LOG, last));
    patch(&paths[0], last + 60, &[good[last as usize + 60]]);
    restart_fetch(beta);
    beta.wait_view("diskstate", RES, "UpToDate");
    beta.wait_tree("replay of everything", |_| {
        let (a, b) = (p.position(alpha), p.position(beta));
        a.dirty == 0 && a == b
    });
    p.cluster.stop_clean(&[]);
    assert_eq!(digest(&p.disks[0]), digest(&p.disks[1]));
    println!("{}", check(&p.disks[1], &p.journal, "--final").trim());
}

/// A host whose `mars-fetch serve` listens behind a proxy at its own address.
fn behind_a_proxy(cluster: &mut Cluster) -> Proxy {
    let alpha = &mut cluster.hosts[0];
    let hidden = format!("127.25.{}", alpha.ip.splitn(3, '.').nth(2).unwrap());
    let script = alpha.file("fetch.sh");
    let real = bin_dir().join("mars-fetch");
    let text = format!(
        "#!/bin/sh\n[ \"$1\" = serve ] && exec {} serve --ip={hidden}\nexec {} \"$@\"\n",
        real.display(),
        real.display()
    );
    fs::write(&script, text).unwrap();
    fs::set_permissions(&script, fs::Permissions::from_mode(0o755)).unwrap();
    alpha.replace_program("mars-fetch", &script);
    Proxy::start(&format!("{}:7778", alpha.ip), &format!("{hidden}:7778")).unwrap()
}

/// The line flips, zeroes, repeats and exchanges bytes: never wrong data on the secondary; when it works again, so does everything.
#[test]
fn damage_in_flight_is_found_and_mended() {
    let mut cluster = Cluster::new(&["alpha", "beta"], CONFIG);
    let proxy = behind_a_proxy(&mut cluster);
    let p = Pair::new(cluster);
    let beta = p.beta();
    p.load(3);
    p.equal_by_itself();
    let mut disk = fs::read(&p.disks[1]).unwrap();
    let from = p.position(beta);
    proxy.damage(|piece, at| {
        if piece.len() < 5000 {
            return;
        }
        let (from, to) = (piece.len() / 2, piece.len() / 2 + 512);
        match at / 7 % 4 {
            0 => piece[from] ^= 1,
            1 => piece[from..to].fill(0),
            2 => piece.copy_within(from - 2048..to - 2048, from),
            _ => {
                let (a, b) = piece.split_at_mut(from);
                a[..512].swap_with_slice(&mut b[..512]);
            }
        }
    });
    p.load(10);
    // Which word it is depends on the place that is hit first.
    let words = ["DefectiveLog[", "IncompleteLog[", "UnInitializedLogRecord["];
    beta.wait_tree("a word for the damage", |_| {
        let s = state(beta);
        words.iter().any(|w| s.starts_with(w))
    });
    let at = p.position(beta);
    let good = fs::read(p.alpha().log_path(RES, LOG)).unwrap();
    apply(&mut disk, &good, from.pos, at.pos);
    assert!(
        fs::read(&p.disks[1]).unwrap() == disk,
        "the disk is not the prefix"
    );
    p.load(3);
    proxy.heal();
    restart_fetch(beta);
    p.equal_by_itself();

    // Bytes that are lost break the frames of the connection.
    let before = proxy.connections();
    proxy.damage(|piece, _| {
        if piece.len() > 5000 {
            piece.drain(3000..3100);
        }
    });
    p.load(5);
    beta.wait_for("a new connection", || proxy.connections() > before);
    proxy.heal();
    p.load(2);
    restart_fetch(beta);
    p.equal_by_itself();
    p.cluster.stop_clean(&[]);
}

/// The primary's own log is damaged when it recovers from a crash: before the end of what was promised it refuses, says where, and has applied
/// everything before; behind it that is a torn tail.
#[test]
fn damage_before_recovery_of_the_primary() {
    let cluster = Cluster::with_faults(&["alpha"], CONFIG);
    let disk_path = cluster.host(0).file("disk.img");
    make_disk(&disk_path, SIZE, true);
    cluster.form();
    let alpha = cluster.host(0);
    alpha.ok(&["create-resource", RES, &disk_path.display().to_string()]);
    alpha.ok(&["wait-resource", RES, "is-device-on"]);
    let journal = alpha.file("journal");
    let res = RES.parse().unwrap();
    let at = || {
        let snap = alpha.tree().snapshot().unwrap();
        snap.replay(&res, &alpha.env.host).unwrap()
    };
    let mut disk = fs::read(&disk_path).unwrap();

    // Nothing reaches the disk: recovery has everything before it.
    alpha.faults("disk.write hang");
    load(alpha, &journal, 6);
    alpha.wait_for("a promise", || at().dirty > 0 && published(alpha) > 100_000);
    assert!(alpha.kill("mars-logger@data.service"));
    let path = alpha.log_path(RES, LOG);
    let good = fs::read(&path).unwrap();
    let promised = published(alpha);
    let ends = ends(&good, 0);
    let i = ends.iter().position(|e| *e > promised / 2).unwrap();
    let start = ends[i - 1];
    patch(&path, start + 200, &[good[start as usize + 200] ^ 0x80]);
    alpha.faults("");
    alpha.ok(&["start"]);
    wait_state(alpha, "DefectiveLog[-74,-10101=");
    // Said after the state was published, and perhaps not as the last line.
    alpha.wait_for("the place and the way out", || {
        let log = alpha.unit_log("mars-logger@data.service");
        log.lines().any(|l| {
            l.contains(&format!("{LOG} is damaged at {start}"))
                && l.contains("marsadm primary --force")
        })
    });
    assert_eq!(at().pos, start);
    apply(&mut disk, &good, 0, start);
    assert!(
        fs::read(&disk_path).unwrap() == disk,
        "the disk is not the prefix"
    );

    // The log is good again (restored from somewhere), and ends in garbage that was never promised.
    patch(&path, 0, &good);
    let valid = ends.last().copied().unwrap();
    patch(&path, valid, &[0x5a; 3000]);
    alpha.ok(&["start"]);
    alpha.ok(&["wait-resource", RES, "is-device-on"]);
    alpha.wait_view("diskstate", RES, "UpToDate");
    load(alpha, &journal, 2);
    cluster.stop_clean(&[]);
    println!("{}", check(&disk_path, &journal, "--final").trim());
}

/// The end of a damaged own log can be given up; all before the damage stays.
#[test]
fn damage_that_is_given_up() {
    let cluster = Cluster::with_faults(&["alpha"], CONFIG);
    let disk_path = cluster.host(0).file("disk.img");
    make_disk(&disk_path, SIZE, true);
    cluster.form();
    let alpha = cluster.host(0);
    alpha.ok(&["create-resource", RES, &disk_path.display().to_string()]);
    alpha.ok(&["wait-resource", RES, "is-device-on"]);
    let journal = alpha.file("journal");
    let mut disk = fs::read(&disk_path).unwrap();
    alpha.faults("disk.write hang");
    load(alpha, &journal, 6);
    alpha.wait_for("a published length", || published(alpha) > 100_000);
    assert!(alpha.kill("mars-logger@data.service"));
    let path = alpha.log_path(RES, LOG);
    let good = fs::read(&path).unwrap();
    let ends = ends(&good, 0);
    let start = *ends.iter().find(|e| **e > published(alpha) / 2).unwrap();
    patch(&path, start, &[0xff; 4]);
    alpha.faults("");
    alpha.ok(&["start"]);
    wait_state(alpha, "DefectiveLog[-74,-10013=");
    alpha.ok(&["disconnect", RES]);
    alpha.ok(&["primary", "--force", RES]);
    alpha.ok(&["wait-resource", RES, "is-device-on"]);
    wait_state(alpha, "UpToDate");
    cluster.stop_clean(&[]);
    apply(&mut disk, &good, 0, start);
    assert!(
        fs::read(&disk_path).unwrap() == disk,
        "the disk is not the prefix"
    );
}
