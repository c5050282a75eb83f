//! A cluster under load in which every daemon dies again and again, while logs rotate and are deleted, replay and fetch pause, disks are synced anew, and a checker
//! looks at every disk at any time. Everything random comes from the seed; what the machine makes of it does not.
use crate::anytime::{Found, How, Seen, inspect};
use crate::load::{Load, LoadPlan, LoadReport, make_stamped};
use crate::rng::Rng;
use crate::watch::{Epochs, Positions, watch};
use crate::{Cluster, Host, PATIENCE, digest, make_disk};
use mars_tree::{Key, ResName};
use std::collections::BTreeMap;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

const RES: &str = "data";
const LOGGER: &str = "mars-logger@";
const SYNC: &str = "mars-sync@";
const KINDS: [&str; 6] = [
    LOGGER,
    "mars-replay@",
    "mars-fetch@",
    SYNC,
    "mars-meta",
    "mars-*.socket",
];

/// What run.
#[derive(Clone, Copy, Debug)]
pub struct ChaosPlan {
    /// Decides everything that can be decided.
    pub seed: u64,
    /// Time under fire; setting up and catching up come on top.
    pub time: Duration,
    /// Kills at least, whatever the time.
    pub kills: u64,
}

/// Disks that were looked at.
#[derive(Clone, Copy, Debug, Default)]
pub struct Checks {
    /// Prefixes found.
    pub prefixes: u64,
    /// Of these: with an open window.
    pub open: u64,
    /// Not consistent, because of a sync.
    pub syncing: u64,
    /// Loggers killed for it.
    pub loggers: u64,
}

/// What happened.
#[derive(Clone, Debug, Default)]
pub struct ChaosReport {
    /// The hosts and their configuration.
    pub scene: String,
    /// Kills by kind.
    pub kills: BTreeMap<String, u64>,
    /// Disks that were looked at.
    pub checks: Checks,
    /// Commands by name.
    pub commands: BTreeMap<String, u64>,
    /// Load.
    pub load: LoadReport,
    /// Snapshots looked at for positions, and steps seen.
    pub positions: (u64, u64),
}

impl ChaosReport {
    /// All kills.
    pub fn killed(&self) -> u64 {
        self.kills.values().sum()
    }
}

impl std::fmt::Display for ChaosReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let l = &self.load;
        writeln!(f, "  {}", self.scene)?;
        writeln!(
            f,
            "  load: {} writes ({} MiB) acknowledged, {} flushes, {} reads checked, {} deaths of the logger, unknown sectors: {} there, {} not",
            l.acked,
            l.bytes >> 20,
            l.flushes,
            l.reads,
            l.deaths,
            l.unknown.0,
            l.unknown.1
        )?;
        writeln!(f, "  {} kills: {:?}", self.killed(), self.kills)?;
        writeln!(f, "  commands: {:?}", self.commands)?;
        write!(
            f,
            "  disks looked at: {} prefixes ({} with an open window), {} not consistent during a sync; {} looks at positions, {} steps",
            self.checks.prefixes,
            self.checks.open,
            self.checks.syncing,
            self.positions.0,
            self.positions.1
        )
    }
}

/// Everybody ends when one ends.
struct EndAll<'a>(&'a AtomicBool, &'a Load);

impl Drop for EndAll<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
        self.1.stop();
    }
}

struct EndOthers<'a>(&'a AtomicBool);

impl Drop for EndOthers<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

struct Scene<'a> {
    cluster: &'a Cluster,
    disks: &'a [PathBuf],
    res: ResName,
    load: &'a Load,
    epochs: Epochs,
    seen: Seen,
    stop: AtomicBool,
    kills: AtomicU64,
}

/// The configuration that the seed chooses.
fn config(rng: &mut Rng) -> String {
    let durability = rng.pick(&["strict", "flush"]);
    let compression = rng.pick(&["none", "none", "lz4"]);
    let buffer = rng.pick(&[4, 8, 64]);
    let rotate = rng.pick(&[4, 16, 64]);
    let age = rng.pick(&[100, 1000, 5000]);
    format!(
        "front = \"nbd-socket\"\nheartbeat_ms = 500\ndurability = \"{durability}\"\nlog_compression = \"{compression}\"\n\
         buffer_limit_mib = {buffer}\nlogrot_auto_mib = {rotate}\nwriteback_age_ms = {age}\n"
    )
}

/// Where logs and disks are: memory makes more happen in the same time, a real disk has commits that take long.
fn place(seed: u64) -> &'static Path {
    let memory = Path::new("/dev/shm");
    if seed.is_multiple_of(3) || !memory.is_dir() {
        Path::new("/tmp")
    } else {
        memory
    }
}

/// Runs a scene; a violation is an error that says all that is known.
pub fn run(plan: &ChaosPlan) -> Result<ChaosReport, String> {
    let rng = Rng::new(plan.seed);
    let mut choice = rng.fork(1);
    let config = config(&mut choice);
    let names = &["alpha", "beta", "gamma"][..2 + choice.below(2) as usize];
    let base = place(plan.seed);
    let cluster = Cluster::new_in(base, names, &config);
    let disks: Vec<PathBuf> = cluster.hosts.iter().map(|h| h.file("disk.img")).collect();
    let size = *choice.pick(&[16 << 20, 24 << 20, 64 << 20]);
    make_stamped(&disks[0], size);
    disks[1..].iter().for_each(|d| make_disk(d, size, true));
    cluster.form();
    let primary = cluster.host(0);
    primary.ok(&["create-resource", RES, &disks[0].display().to_string()]);
    primary.ok(&["wait-resource", RES, "is-device-on"]);
    let load = Load::new(
        LoadPlan {
            socket: primary.env.dev_dir.join(RES),
            export: RES.into(),
            connections: 1 + choice.below(3) as usize,
            depth: *choice.pick(&[1, 4, 16, 32]),
            rate: *choice.pick(&[2 << 20, 8 << 20, 24 << 20]),
            patience: PATIENCE,
        },
        size,
    );
    let scene = Scene {
        epochs: Epochs::new(&cluster.hosts),
        cluster: &cluster,
        disks: &disks,
        res: RES.parse().expect("name"),
        load: &load,
        seen: Seen::default(),
        stop: AtomicBool::new(false),
        kills: AtomicU64::new(0),
    };
    let mut report = scene.run(plan, &rng)?;
    report.scene = format!(
        "{} hosts, {} MiB in {}, {}",
        names.len(),
        size >> 20,
        base.display(),
        config.trim().replace('\n', ", ")
    );
    Ok(report)
}

impl Scene<'_> {
    fn run(&self, plan: &ChaosPlan, rng: &Rng) -> Result<ChaosReport, String> {
        let mut report = ChaosReport::default();
        let watching = AtomicBool::new(false);
        std::thread::scope(|s| {
            let watchers: Vec<_> = self
                .cluster
                .hosts
                .iter()
                .map(|h| {
                    let watching = &watching;
                    s.spawn(move || {
                        let _end = EndOthers(&self.stop);
                        watch(h, &self.res, &self.epochs, watching)
                    })
                })
                .collect();
            let _all = EndAll(&watching, self.load);
            let writer = s.spawn(|| {
                let _end = EndOthers(&self.stop);
                self.load.run(&rng.fork(2))
            });
            let end = EndOthers(&self.stop);
            for (i, h) in self.cluster.hosts.iter().enumerate().skip(1) {
                h.ok(&["wait-cluster"]);
                self.epochs.next(&h.env.host);
                h.ok(&["join-resource", RES, &self.disks[i].display().to_string()]);
            }
            let killer = s.spawn(|| {
                let _end = EndOthers(&self.stop);
                self.kill(&mut rng.fork(3))
            });
            let admin = s.spawn(|| {
                let _end = EndOthers(&self.stop);
                self.administrate(&mut rng.fork(4))
            });
            let checker = s.spawn(|| {
                let _end = EndOthers(&self.stop);
                self.check(&mut rng.fork(5))
            });
            let until = Instant::now() + plan.time;
            while !self.stop.load(Ordering::SeqCst)
                && (Instant::now() < until || self.kills.load(Ordering::SeqCst) < plan.kills)
            {
                sleep(Duration::from_millis(50));
            }
            drop(end);
            report.kills = killer.join().expect("killer")?;
            let (commands, at_sync) = admin.join().expect("administrator")?;
            report.commands = commands;
            report.checks = checker.join().expect("checker")?;
            report.checks.prefixes += at_sync.prefixes;
            report.checks.open += at_sync.open;
            report.checks.syncing += at_sync.syncing;
            self.load.stop();
            report.load = writer.join().expect("load")?;
            self.catch_up()?;
            watching.store(true, Ordering::SeqCst);
            for w in watchers {
                let Positions { looks, steps, .. } = w.join().expect("watcher")?;
                report.positions.0 += looks;
                report.positions.1 += steps;
            }
            let deaths = report.load.deaths;
            let killed = report.kills.get(LOGGER).copied().unwrap_or(0) + report.checks.loggers;
            if deaths > killed {
                return Err(format!(
                    "{deaths} connections were lost, but only {killed} loggers were killed"
                ));
            }
            Ok::<(), String>(())
        })
        .map_err(|e| self.explain(&e))?;
        self.compare().map_err(|e| self.explain(&e))?;
        Ok(report)
    }

    fn explain(&self, what: &str) -> String {
        let hosts = self.cluster.hosts.iter();
        let state: Vec<String> = hosts
            .map(|h| {
                format!(
                    "{}\n{}\n{}",
                    h.run(&["view", RES]).out,
                    h.links(RES),
                    h.logs()
                )
            })
            .collect();
        format!("{what}\n{}", state.join("\n"))
    }

    fn running(&self, kind: &str) -> Vec<(&Host, String)> {
        let fits = |u: &String| match kind.split_once('*') {
            Some((a, b)) => u.starts_with(a) && u.ends_with(b),
            None => u.starts_with(kind),
        };
        let units = |h: &Host| h.units().into_iter().filter(fits).collect::<Vec<_>>();
        self.cluster
            .hosts
            .iter()
            .flat_map(|h| units(h).into_iter().map(move |u| (h, u)))
            .filter(|(h, u)| h.pid(u).is_some())
            .collect()
    }

    /// Kills something, sometimes much at once; what a supervisor does comes a little later: it starts what should run.
    fn kill(&self, rng: &mut Rng) -> Result<BTreeMap<String, u64>, String> {
        let mut killed: BTreeMap<String, u64> = BTreeMap::new();
        while !self.stop.load(Ordering::SeqCst) {
            let busy = rng.chance(40);
            sleep(Duration::from_millis(rng.within(if busy {
                0..60
            } else {
                60..500
            })));
            let mut victims: Vec<(&Host, String, &str)> = Vec::new();
            if rng.chance(4) {
                let h = rng.pick(&self.cluster.hosts);
                victims.extend(KINDS.iter().flat_map(|k| {
                    let all = self
                        .running(k)
                        .into_iter()
                        .filter(|(o, _)| o.env.host == h.env.host);
                    all.map(move |(h, u)| (h, u, *k))
                }));
            } else {
                // A sync is short: when there is one, it is a favourite.
                let syncing = !self.running(SYNC).is_empty() && rng.chance(35);
                let kind = if syncing { SYNC } else { *rng.pick(&KINDS) };
                let all = self.running(kind);
                if !all.is_empty() {
                    let (h, u) = rng.pick(&all);
                    victims.push((h, u.clone(), kind));
                }
            }
            for (h, unit, kind) in &victims {
                if *kind == LOGGER && rng.chance(80) {
                    self.load.wait_busy(Duration::from_millis(400));
                    sleep(Duration::from_micros(rng.below(3000)));
                }
                if h.kill(unit) {
                    *killed.entry((*kind).to_string()).or_default() += 1;
                    self.kills.fetch_add(1, Ordering::SeqCst);
                }
            }
            sleep(Duration::from_millis(rng.within(0..150)));
            for h in &self.cluster.hosts {
                if victims.iter().any(|v| v.0.env.host == h.env.host) {
                    h.ok(&["systemd-trigger"]);
                }
            }
        }
        Ok(killed)
    }

    /// A command that may have to wait for daemons to come back.
    fn insist(&self, h: &Host, args: &[&str]) -> Result<(), String> {
        let end = Instant::now() + PATIENCE;
        loop {
            let r = h.run(args);
            if r.code == 0 {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(format!(
                    "{}: marsadm {args:?} is refused all the time: {r:?}",
                    h.env.host
                ));
            }
            h.ok(&["systemd-trigger"]);
            sleep(Duration::from_millis(100));
        }
    }

    /// Where a sync ends, with replay still behind: what was copied is newer than the position, so the disk must not be called consistent yet.
    fn look_at_end_of_sync(
        &self,
        h: &Host,
        rng: &mut Rng,
        checks: &mut Checks,
    ) -> Result<(), String> {
        self.insist(h, &["pause-replay", RES])?;
        let tree = h.tree();
        let number = |name: &str| -> u64 {
            let text = tree.text(&Key::parse(&format!("resource-{RES}/{name}")));
            let text = text.expect("tree");
            text.map_or(0, |t| t.parse().expect("number"))
        };
        let status = format!("syncstatus-{}", h.env.host);
        let end = Instant::now() + Duration::from_secs(5);
        while number(&status) < number("size") && Instant::now() < end {
            sleep(Duration::from_millis(5));
        }
        self.look(h, How::Kill, rng, checks)?;
        self.insist(h, &["resume-replay", RES])
    }

    fn look(&self, h: &Host, how: How, rng: &mut Rng, checks: &mut Checks) -> Result<(), String> {
        let mut disks = self.cluster.hosts.iter().zip(self.disks);
        let (_, disk) = disks
            .find(|(o, _)| o.env.host == h.env.host)
            .expect("one of the hosts");
        match inspect(h, &self.res, disk, self.load, &self.seen, how, rng)? {
            Found::Prefix(_, open) => {
                checks.prefixes += 1;
                checks.open += u64::from(open > 0);
            }
            Found::Syncing | Found::NoPosition => checks.syncing += 1,
        }
        Ok(())
    }

    fn administrate(&self, rng: &mut Rng) -> Result<(BTreeMap<String, u64>, Checks), String> {
        let mut checks = Checks::default();
        let mut done: BTreeMap<String, u64> = BTreeMap::new();
        let hosts = &self.cluster.hosts;
        while !self.stop.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(rng.within(0..800)));
            let secondary = &hosts[1 + rng.below(hosts.len() as u64 - 1) as usize];
            let what = match rng.below(100) {
                0..40 => {
                    self.insist(&hosts[0], &["log-rotate", "--force", RES])?;
                    "log-rotate"
                }
                40..60 => {
                    let h = rng.pick(hosts);
                    self.insist(h, &["log-delete-all", "--force", RES])?;
                    "log-delete-all"
                }
                60..70 => {
                    self.pause(secondary, "fetch", rng)?;
                    "pause-fetch"
                }
                70..80 => {
                    self.pause(secondary, "replay", rng)?;
                    "pause-replay"
                }
                80..88 => {
                    self.pause(secondary, "sync", rng)?;
                    "pause-sync"
                }
                _ => {
                    self.epochs.next(&secondary.env.host);
                    self.insist(secondary, &["invalidate", "--timeout=20", RES])?;
                    if rng.chance(70) {
                        self.look_at_end_of_sync(secondary, rng, &mut checks)?;
                    }
                    "invalidate"
                }
            };
            *done.entry(what.to_string()).or_default() += 1;
        }
        Ok((done, checks))
    }

    fn pause(&self, h: &Host, what: &str, rng: &mut Rng) -> Result<(), String> {
        self.insist(h, &[&format!("pause-{what}"), RES])?;
        sleep(Duration::from_millis(rng.within(0..1000)));
        self.insist(h, &[&format!("resume-{what}"), RES])
    }

    fn check(&self, rng: &mut Rng) -> Result<Checks, String> {
        let mut checks = Checks::default();
        while !self.stop.load(Ordering::SeqCst) {
            sleep(Duration::from_millis(rng.within(0..200)));
            let n = rng.below(self.cluster.hosts.len() as u64) as usize;
            // The primary only sometimes: each look kills it.
            let (n, how) = match (n, rng.below(100)) {
                (0, 0..50) => (0, How::Kill),
                (0, _) => (1, How::Behind),
                (n, 0..40) => (n, How::Kill),
                (n, 40..60) => (n, How::Pause),
                (n, _) => (n, How::Behind),
            };
            let h = &self.cluster.hosts[n];
            checks.loggers += u64::from(n == 0);
            self.look(h, how, rng, &mut checks)?;
        }
        Ok(checks)
    }

    /// Nobody helps any more: everything must come to its end by itself.
    fn catch_up(&self) -> Result<(), String> {
        for h in &self.cluster.hosts[1..] {
            h.wait_view("diskstate", RES, "UpToDate");
            h.wait_view("work-rest", RES, "0");
        }
        for h in &self.cluster.hosts {
            let r = h.run(&["view", RES]);
            if r.err.contains("SPLIT BRAIN") {
                return Err(format!("split brain on {}: {r:?}", h.env.host));
            }
        }
        Ok(())
    }

    /// All disks hold everything that was acknowledged, and are equal.
    fn compare(&self) -> Result<(), String> {
        self.cluster.stop_clean(&[]);
        let mut digests = Vec::new();
        for d in self.disks {
            let file = File::open(d).expect("disk");
            let mut buf = vec![0; self.load.with_trace(|t| t.size()) as usize];
            file.read_exact_at(&mut buf, 0).expect("disk");
            self.load
                .with_trace(|t| t.check_read(0, &buf))
                .map_err(|v| format!("at the end {}: {v}", d.display()))?;
            digests.push(digest(d));
        }
        if digests.iter().any(|d| *d != digests[0]) {
            return Err(format!("the disks differ: {digests:?}"));
        }
        Ok(())
    }
}
