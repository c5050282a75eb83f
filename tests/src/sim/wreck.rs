//! From what a power cut left to a checked disk: real recovery, cut again now and then, and what must be true afterwards.
use super::disk::SimDisk;
use super::links::{LinkWorld, Place, me, own_log, res};
use super::logs::Found;
use super::past::{Past, Wreck};
use super::rng::Rng;
use super::seen::Seen;
use crate::stamp::{SECTOR, Sector};
use anyhow::{Context as _, anyhow, bail, ensure};
use mars_disk::{ApplyOptions, DataDisk, apply_log};
use mars_log::{LogReader, ReadRecord, ScanLimits};
use mars_logger::recovery::{Recovery, StartPoint, Stopper};
use mars_tree::{LogName, ReplayPos, VersionLink};
use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::{Arc, Mutex};

#[derive(Debug)]
struct Never;

impl Stopper for Never {
    fn is_set(&self) -> bool {
        false
    }
}

/// Looks at the links before every operation of the disk: each state of a link between two of them counts.
struct Watched<'a> {
    disk: &'a SimDisk,
    world: Mutex<&'a mut LinkWorld>,
}

impl Watched<'_> {
    fn look(&self) {
        self.world.lock().unwrap().absorb();
    }
}

impl DataDisk for Watched<'_> {
    fn read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<()> {
        self.disk.read_at(buf, pos)
    }
    fn try_read_at(&self, buf: &mut [u8], pos: u64) -> io::Result<bool> {
        self.disk.try_read_at(buf, pos)
    }
    fn write_vectored_at(&self, bufs: &[&[u8]], pos: u64) -> io::Result<()> {
        self.look();
        self.disk.write_vectored_at(bufs, pos)
    }
    fn zero_at(&self, pos: u64, len: u64) -> io::Result<()> {
        self.look();
        self.disk.zero_at(pos, len)
    }
    fn start_writeout(&self, _pos: u64, _len: u64) {}
    fn flush(&self) -> io::Result<()> {
        self.look();
        self.disk.flush()
    }
    fn forget_cached(&self) {}
}

/// After recovery.
pub struct Recovered {
    /// Where logging goes on.
    pub start: StartPoint,
    /// The disk; recovery flushed it, what it did not flush is still open.
    pub disk: Arc<SimDisk>,
    /// The tree.
    pub world: LinkWorld,
    /// The log files.
    pub logs: BTreeMap<LogName, Found>,
    /// The step that the disk equals.
    pub step: usize,
    /// States that a power cut left: first, and during recovery.
    pub cuts: Cuts,
}

/// What was recovered from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cuts {
    /// States that nobody has seen before.
    pub new: u64,
    /// Of these: left by a cut during recovery.
    pub again: u64,
    /// States that were checked before, with other expectations perhaps.
    pub repeated: u64,
}

/// Recovers at `place`, with up to three more power cuts on the way.
pub fn recover(
    place: &Place,
    mut wreck: Wreck,
    past: &Past,
    seen: &Seen,
    rng: &mut Rng,
) -> anyhow::Result<Recovered> {
    let size = (wreck.disk.len() * SECTOR) as u64;
    let mut cuts = Cuts::default();
    let mut nr = 0;
    loop {
        if seen.is_new(wreck.digest()) {
            cuts.new += 1;
            cuts.again += u64::from(nr > 0);
        } else {
            cuts.repeated += 1;
        }
        let disk = Arc::new(SimDisk::new(std::mem::take(&mut wreck.disk)));
        let mut world = LinkWorld::boot(place, wreck.links, &wreck.logs);
        let tree = world.tree.clone();
        if nr < 3 && rng.chance(30) {
            disk.cut_after(rng.below(6));
        }
        let result = Recovery {
            tree: &tree,
            res: &res(),
            me: &me(),
            disk: &Watched {
                disk: &disk,
                world: Mutex::new(&mut world),
            },
            size,
            stop: &Never,
        }
        .run();
        world.absorb();
        for (name, found) in &mut wreck.logs {
            let len = std::fs::metadata(world.dir().join(name.to_string()))?.len();
            ensure!(
                len <= found.bytes.len() as u64,
                "recovery made {name} longer"
            );
            found.truncate(len);
        }
        if let Err(e) = &result
            && disk.is_gone()
        {
            ensure!(format!("{e:#}").contains(super::disk::GONE), "{e:#}");
            nr += 1;
            wreck.disk = disk.cut(rng);
            wreck.links = world.cut(rng).0;
            continue;
        }
        let start = result.context("recovery")?;
        disk.restore_power();
        let step = check(&world, &disk, past)?;
        return Ok(Recovered {
            start,
            disk,
            world,
            logs: wreck.logs,
            step,
            cuts,
        });
    }
}

/// I1 and I3: the disk equals one prefix, the one that the published position names, and everything that was acknowledged as durable is in it.
fn check(world: &LinkWorld, disk: &SimDisk, past: &Past) -> anyhow::Result<usize> {
    disk.with_content(|image| check_image(world, image, past))
}

fn check_image(world: &LinkWorld, image: &[Sector], past: &Past) -> anyhow::Result<usize> {
    if past.is_unordered {
        let last = past.history.last_step();
        past.history
            .at_least(past.required, &past.places, image)
            .context("what was acknowledged as durable without a log")?;
        return Ok(last);
    }
    let links = world.now();
    let text = links.get("replay-alpha").context("no replay link")?;
    let replay: ReplayPos = text.parse().map_err(|e| anyhow!("{text}: {e}"))?;
    ensure!(replay.dirty == 0, "{text} after recovery");
    let at = (replay.log.nr, replay.pos);
    let (from, to) = past.steps_at(at);
    let prefixes = past
        .history
        .prefixes_of(image)
        .with_context(|| format!("position {text}"))?;
    let fits = |r: &&std::ops::RangeInclusive<usize>| *r.end() >= from && *r.start() <= to;
    let Some(found) = prefixes.iter().rfind(fits) else {
        bail!("the disk equals the steps {prefixes:?}, but {text} means {from}..={to}");
    };
    let step = (*found.end()).min(to);
    ensure!(
        step >= past.required,
        "lost: the disk ends at step {step} (operation {}), but step {} (operation {}) was acknowledged as durable",
        past.history.number(step),
        past.required,
        past.history.number(past.required),
    );
    Ok(step)
}

/// I4: applying the logs again, from a random earlier record on, changes nothing.
pub fn check_again(r: &Recovered, past: &Past, rng: &mut Rng) -> anyhow::Result<()> {
    if past.is_unordered {
        return Ok(());
    }
    let before = r.disk.content();
    let again = SimDisk::new(before.clone());
    let logs: Vec<&LogName> = r
        .logs
        .keys()
        .filter(|l| l.nr >= past.first_log && l.nr < r.start.log.nr)
        .collect();
    if logs.is_empty() {
        return Ok(());
    }
    let first = rng.below(logs.len() as u64) as usize;
    let links = r.world.now();
    let mut told = String::new();
    for (nr, log) in logs.iter().enumerate().skip(first) {
        let path = r.world.dir().join(log.to_string());
        let name = format!("version-{:09}-alpha", log.nr);
        let link = links.get(&name).with_context(|| format!("no {name}"))?;
        let link: VersionLink = link.parse().map_err(|e| anyhow!("{name}: {e}"))?;
        let len = link.head.len;
        let from = if nr == first {
            border(&path, len, rng)?
        } else {
            0
        };
        let opts = ApplyOptions {
            window_bytes: *rng.pick(&[4096, 64 << 10, 64 << 20]),
            device_size: (before.len() * SECTOR) as u64,
        };
        let mut go_on = |_| Ok(ControlFlow::Continue(()));
        let end = apply_log(&again, File::open(&path)?, from, len, &opts, &mut go_on)?;
        ensure!(end.pos == len, "{log} ends at {} instead of {len}", end.pos);
        told = format!("{told} {log} {from}..{len}");
    }
    ensure!(
        again.content() == before,
        "applying{told} again changed the disk; links: {links:?}"
    );
    Ok(())
}

fn border(path: &Path, len: u64, rng: &mut Rng) -> anyhow::Result<u64> {
    let mut reader = LogReader::new(File::open(path)?, 0, len, ScanLimits::default());
    let mut borders = vec![0];
    while let ReadRecord::Record(_, end) = reader.next_record()? {
        borders.push(end);
    }
    Ok(*rng.pick(&borders))
}

/// The first start of a resource.
pub fn first_start() -> StartPoint {
    StartPoint {
        log: own_log(1),
        prev: None,
        records: 0,
    }
}
