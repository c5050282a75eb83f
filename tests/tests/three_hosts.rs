//! Three hosts, random writes with read-back through two handovers, `kill -9` of each kind of daemon at random moments;
//! then I1, I3, I4, I7 over the disks.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_disk::{ApplyEnd, ApplyEvent, ApplyOptions, Disk, apply_log};
use mars_tests::{Cluster, Host, check, digest, make_disk, start_writer, write};
use mars_tree::{Key, LogName, ReplayPos};
use std::fs::{self, File};
use std::io::Read;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

const SIZE: u64 = 32 << 20;
const RES: &str = "data";

/// Small deterministic generator; the seed is printed, `MARS_SEED` repeats a run.
struct Rng(u64);

impl Rng {
    fn new() -> Rng {
        let seed = match std::env::var("MARS_SEED") {
            Ok(s) => s.parse().expect("MARS_SEED is a number"),
            Err(_) => {
                let mut b = [0u8; 8];
                File::open("/dev/urandom")
                    .unwrap()
                    .read_exact(&mut b)
                    .unwrap();
                u64::from_le_bytes(b) >> 1
            }
        };
        println!("MARS_SEED={seed}");
        Rng(seed)
    }
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % n
    }
}

fn replay_pos(h: &Host) -> ReplayPos {
    let v = h
        .value(&format!("resource-{RES}/replay-{}", h.env.host))
        .expect("replay link");
    v.parse().expect("replay link")
}

/// Applies a log of the host's tree to a copy of its disk.
fn apply(h: &Host, disk: &Path, log: &LogName, from: u64, to: u64) -> ApplyEnd {
    let key = Key::Log(RES.parse().unwrap(), log.clone());
    let file = File::open(h.tree().path(&key)).expect("log file");
    let disk = Disk::from_file(
        File::options().read(true).write(true).open(disk).unwrap(),
        disk,
    )
    .unwrap();
    let opts = ApplyOptions {
        window_bytes: 4 << 20,
        device_size: SIZE,
    };
    let mut on = |_: ApplyEvent| Ok(ControlFlow::Continue(()));
    apply_log(&disk, file, from, to, &opts, &mut on)
        .expect("apply")
        .end
}

/// I3: the disk of a secondary whose replay was killed equals a prefix after its own open window has been finished.
fn check_prefix(h: &Host, disk: &Path, journal: &Path) {
    h.kill(&format!("mars-replay@{RES}.service"));
    let copy = h.file("i3-copy.img");
    fs::copy(disk, &copy).unwrap();
    let p = replay_pos(h);
    let end = apply(h, &copy, &p.log, p.pos, p.pos + p.dirty);
    assert_eq!(
        end,
        ApplyEnd::Limit,
        "I3: the open window {p} cannot be finished"
    );
    println!(
        "I3 {}: {}",
        h.env.host,
        check(&copy, journal, "--prefix").trim()
    );
    fs::remove_file(copy).unwrap();
}

/// I4: applying the log of the replay position again from its start changes nothing.
fn check_idempotent(h: &Host, disk: &Path) {
    let p = replay_pos(h);
    assert_eq!(p.dirty, 0, "{p}");
    let copy = h.file("i4-copy.img");
    fs::copy(disk, &copy).unwrap();
    let before = digest(&copy);
    apply(h, &copy, &p.log, 0, p.pos);
    assert_eq!(
        digest(&copy),
        before,
        "I4: replaying {} again changed the disk of {}",
        p.log,
        h.env.host
    );
    fs::remove_file(copy).unwrap();
}

/// Kills units of all hosts at random moments until `stop` is set, and starts the hosts again each time (the direct
/// manager is no supervisor).
fn killer(cluster: &Cluster, kinds: &[&str], rng: &mut Rng, stop: &AtomicBool) -> Vec<String> {
    let mut killed = Vec::new();
    while !stop.load(Ordering::SeqCst) || killed.len() < kinds.len() {
        std::thread::sleep(Duration::from_millis(100 + rng.below(400)));
        let kind = kinds[killed.len() % kinds.len()];
        let candidates: Vec<(&Host, String)> = cluster
            .hosts
            .iter()
            .flat_map(|h| {
                h.units()
                    .into_iter()
                    .filter(|u| u.starts_with(kind) && h.pid(u).is_some())
                    .map(move |u| (h, u))
            })
            .collect();
        if candidates.is_empty() {
            killed.push(format!("no {kind}"));
            continue;
        }
        let (h, unit) = &candidates[rng.below(candidates.len() as u64) as usize];
        if h.kill(unit) {
            killed.push(format!("{} {unit}", h.env.host));
            h.ok(&["start"]);
        }
    }
    killed
}

struct StopAtEnd<'a>(&'a AtomicBool);

impl Drop for StopAtEnd<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Batches written until `batches` have been done, continuing after every interruption by a killed logger.
fn write_through_kills(primary: &Host, journal: &Path, batches: u32, seed: u64) {
    let mut left = batches;
    for attempt in 0..100 {
        let n = left.min(25);
        if n == 0 {
            return;
        }
        primary.wait_tree("the device", |_| {
            let socket: PathBuf = primary.env.dev_dir.join(RES);
            std::os::unix::net::UnixStream::connect(socket).is_ok()
        });
        let r = write(
            &primary.uri(RES),
            journal,
            SIZE,
            &[
                "--batches",
                &n.to_string(),
                "--read-back",
                "--pause",
                "0.01",
                "--seed",
                &(seed + attempt).to_string(),
            ],
        );
        match r.code {
            0 => left -= n,
            3 => {}
            // The connection was refused: the logger had just been killed.
            1 if r.err.contains("nbd.Error") => {}
            _ => panic!("writing on {}: {r:?}\n{}", primary.env.host, primary.logs()),
        }
    }
    panic!("the writer was interrupted too often");
}

#[test]
fn three_hosts_survive_kills_and_handovers() {
    let mut rng = Rng::new();
    let cluster = Cluster::new(
        &["alpha", "beta", "gamma"],
        "front = \"nbd-socket\"\nlogrot_auto_mib = 8\nheartbeat_ms = 500\nbuffer_limit_mib = 8\n",
    );
    let disks: Vec<PathBuf> = cluster.hosts.iter().map(|h| h.file("disk.img")).collect();
    for (i, d) in disks.iter().enumerate() {
        make_disk(d, SIZE, i == 0);
    }
    let journal = cluster.host(0).file("journal");
    cluster.form();
    cluster
        .host(0)
        .ok(&["create-resource", RES, &disks[0].display().to_string()]);
    cluster.host(0).ok(&["wait-resource", RES, "is-device-on"]);
    let warm_up = start_writer(
        &cluster.host(0).uri(RES),
        &journal,
        SIZE,
        &["--batches", "30", "--pause", "0.02"],
    );
    for i in [1, 2] {
        cluster.host(i).ok(&["wait-cluster"]);
        cluster
            .host(i)
            .ok(&["join-resource", RES, &disks[i].display().to_string()]);
    }
    assert!(warm_up.wait_with_output().unwrap().status.success());
    for i in [1, 2] {
        cluster.host(i).wait_view("diskstate", RES, "UpToDate");
    }

    let kinds = [
        "mars-meta",
        "mars-logger",
        "mars-fetch@",
        "mars-replay",
        "mars-fetch.",
        "mars-sync.",
    ];
    for (round, primary) in [0usize, 1, 2].into_iter().enumerate() {
        if round > 0 {
            // I7: a planned handover, nothing lost, no split brain.
            cluster.host(primary).ok(&["primary", RES]);
        }
        let stop = AtomicBool::new(false);
        let seed = rng.below(1 << 30);
        let mut killer_rng = Rng(rng.below(u64::MAX >> 1));
        let killed = std::thread::scope(|s| {
            let k = s.spawn(|| killer(&cluster, &kinds, &mut killer_rng, &stop));
            // The killer ends with the writer, also when the writer panics.
            let stop_at_end = StopAtEnd(&stop);
            write_through_kills(cluster.host(primary), &journal, 100, seed);
            drop(stop_at_end);
            k.join().expect("killer")
        });
        println!("round {round}: killed {killed:?}");
        assert!(
            killed.iter().any(|k| k.contains("mars-logger")),
            "no logger was killed: {killed:?}"
        );
        // I3 in the middle of things: the writer is done, the secondaries are anywhere.
        let secondary = (primary + 1 + rng.below(2) as usize) % 3;
        check_prefix(cluster.host(secondary), &disks[secondary], &journal);
        for h in &cluster.hosts {
            h.ok(&["start"]);
        }
        for (i, h) in cluster.hosts.iter().enumerate() {
            if i != primary {
                h.wait_view("diskstate", RES, "UpToDate");
                h.wait_view("work-rest", RES, "0");
            }
        }
    }

    // A full sync that is killed in the middle resumes and ends.
    cluster.host(0).ok(&["invalidate", RES]);
    if cluster.host(0).kill(&format!("mars-sync@{RES}.service")) {
        cluster.host(0).ok(&["start"]);
    }
    cluster.host(0).wait_view("diskstate", RES, "UpToDate");

    for h in &cluster.hosts {
        assert!(
            !h.run(&["view", RES]).err.contains("SPLIT BRAIN"),
            "I7: split brain on {}",
            h.env.host
        );
    }
    for (h, disk) in cluster.hosts.iter().zip(&disks) {
        if h.value(&format!("resource-{RES}/primary")).as_deref() != Some(h.env.host.as_str()) {
            h.ok(&["down", RES]);
            check_idempotent(h, disk);
        }
    }
    cluster.stop_clean(&[]);
    // I1 and I7: every acknowledged write is on every disk, and all disks are equal.
    for d in &disks {
        println!("{}", check(d, &journal, "--final").trim());
    }
    let digests: Vec<String> = disks.iter().map(|d| digest(d)).collect();
    assert!(
        digests.iter().all(|d| *d == digests[0]),
        "the disks differ: {digests:?}"
    );
}
