//! A secondary in one thread: its disk, its copies of the logs, replay and sync, each by the code that the daemons drive, step by step.
use super::disk::{self, SimDisk};
use super::life::Life;
use super::past::Past;
use super::rng::Rng;
use crate::stamp::{SECTOR, Sector};
use anyhow::{Context as _, bail, ensure};
use mars_disk::{
    ApplyCore, ApplyEnd, ApplyOptions, ApplyStep, DataDisk, Generation, ScanStep, WindowScan,
    WriteOut, apply_log, write_generation,
};
use mars_sync::proto::{BLOCK, Chunk};
use mars_sync::window::{Next, Verdict, Window};
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write as _;
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Sectors of a block.
const SECTORS: usize = BLOCK / SECTOR;

/// Log number and position in it.
pub type At = (u32, u64);

/// What stands in the links of the secondary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Published {
    /// Everything before is on the disk.
    pub at: At,
    /// So many bytes behind it may be on the disk in part.
    pub dirty: u64,
    /// Bytes of the disk that are equal to the primary's.
    pub synced: u64,
    /// From this position on the content is consistent, once the sync is finished.
    pub sync_at: Option<At>,
}

impl Published {
    /// End of the open window in this log.
    fn promised(&self, nr: u32) -> u64 {
        if self.at.0 == nr { self.end().1 } else { 0 }
    }

    fn end(&self) -> At {
        (self.at.0, self.at.1 + self.dirty)
    }
}

/// A local copy of a log.
struct Copy {
    file: File,
    len: u64,
    durable: u64,
}

/// Replay of one stretch of log.
struct Run {
    nr: u32,
    core: ApplyCore,
    scan: WindowScan,
    scanning: Option<Generation>,
    step: Option<ApplyStep>,
}

/// A chunk of which the sync has asked.
struct Question {
    chunk: Chunk,
    own: Vec<Sector>,
    /// Blocks compared so far.
    compared: usize,
    /// Those that differ.
    different: Vec<(u64, Vec<Sector>)>,
}

struct Sync {
    window: Window,
    questions: Vec<Question>,
}

/// The secondary.
pub struct Secondary {
    rng: Rng,
    dir: PathBuf,
    size: u64,
    disk: SimDisk,
    copies: BTreeMap<u32, Copy>,
    run: Option<Run>,
    sync: Option<Sync>,
    /// Links in the order of their commits; the last ones may be lost with the power.
    journal: Vec<Published>,
    durable: usize,
    /// A copy of a log has a flipped bit.
    is_damaged: bool,
    /// Checks that found a prefix.
    pub checks: u64,
}

impl Secondary {
    /// Joins: any content on the disk, replay from where the primary's disk is.
    pub fn join(dir: &Path, mut rng: Rng, primary: &Life, size: u64) -> Secondary {
        let _ = std::fs::remove_dir_all(dir);
        std::fs::create_dir_all(dir).unwrap();
        let mut image = disk::empty(size);
        if rng.chance(50) {
            image.fill(Sector::Stamped(1 << 60));
        }
        let (nr, pos, _) = primary.replay_link();
        let first = Published {
            at: (nr, pos),
            dirty: 0,
            synced: 0,
            sync_at: None,
        };
        let mut s = Secondary {
            rng,
            dir: dir.to_path_buf(),
            size,
            disk: SimDisk::new(image),
            copies: BTreeMap::new(),
            run: None,
            sync: None,
            journal: vec![first],
            durable: 1,
            is_damaged: false,
            checks: 0,
        };
        s.start_sync();
        s
    }

    /// What stands in the links now.
    pub fn published(&self) -> Published {
        self.journal[self.journal.len() - 1]
    }

    fn publish(&mut self, change: impl FnOnce(&mut Published)) -> anyhow::Result<()> {
        let old = self.published();
        let mut new = old;
        change(&mut new);
        ensure!(new.at >= old.at, "the position goes back: {old:?}, {new:?}");
        if new != old {
            self.journal.push(new);
        }
        Ok(())
    }

    /// Is the content said to be consistent?
    pub fn is_consistent(&self) -> bool {
        let p = self.published();
        p.sync_at.is_some_and(|at| p.end() >= at)
    }

    /// One thing happens.
    pub fn step(&mut self, primary: &Life) -> anyhow::Result<()> {
        match self.rng.below(100) {
            0..25 => self.fetch(primary),
            25..30 => {
                for copy in self.copies.values_mut() {
                    copy.durable = copy.len;
                }
                Ok(())
            }
            30..75 => self.replay(primary),
            _ => self.sync(primary),
        }
    }

    // ---- fetch -------------------------------------------------------------------------------------------------------

    /// Some more bytes of what is durable at the primary.
    fn fetch(&mut self, primary: &Life) -> anyhow::Result<()> {
        let (last, _) = primary.durable();
        for nr in self.published().at.0..=last {
            let source = primary.durable_bytes(nr);
            if !self.copies.contains_key(&nr) {
                let path = self.dir.join(nr.to_string());
                let open = File::options()
                    .read(true)
                    .append(true)
                    .create(true)
                    .truncate(false)
                    .open(path)?;
                let len = open.metadata()?.len();
                let copy = Copy {
                    file: open,
                    len,
                    durable: len,
                };
                self.copies.insert(nr, copy);
                // The directory is synced when a log is created.
                self.durable = self.journal.len();
            }
            let Some(copy) = self.copies.get_mut(&nr) else {
                continue;
            };
            let rest = source.len() as u64 - copy.len;
            if rest > 0 {
                let n = match self.rng.below(3) {
                    0 => rest,
                    1 => self.rng.within(1, rest),
                    _ => self.rng.within(1, rest.min(5000)),
                };
                let from = copy.len as usize;
                copy.file.write_all(&source[from..from + n as usize])?;
                copy.len += n;
                return Ok(());
            }
        }
        Ok(())
    }

    // ---- replay ------------------------------------------------------------------------------------------------------

    fn replay(&mut self, primary: &Life) -> anyhow::Result<()> {
        let Some(mut run) = self.run.take() else {
            return self.begin_run(primary);
        };
        match self.rng.below(10) {
            0..3 => match run.scanning.take() {
                Some(data) => run.core.scanned(run.scan.next_window(data)),
                None => {
                    if let ScanStep::Window(data) = run.core.scan_step() {
                        run.scanning = Some(data);
                    }
                }
            },
            _ => match run.step.take() {
                None => match run.core.disk_step() {
                    ApplyStep::Wait => {}
                    ApplyStep::End(outcome) => {
                        let outcome = outcome?;
                        ensure!(
                            self.is_damaged || !matches!(outcome.end, ApplyEnd::Stop { .. }),
                            "a good log is called bad: {outcome:?}"
                        );
                        let end = outcome.pos;
                        return self.publish(|p| {
                            let rest = p.promised(run.nr).saturating_sub(end);
                            (p.at, p.dirty) = ((run.nr, end), rest);
                        });
                    }
                    step => run.step = Some(step),
                },
                Some(step) => self.done(&mut run, step)?,
            },
        }
        self.run = Some(run);
        Ok(())
    }

    fn done(&mut self, run: &mut Run, step: ApplyStep) -> anyhow::Result<()> {
        match step {
            ApplyStep::Promise { start, end } => {
                self.publish(|p| {
                    // What was promised before the power failed may be on the disk.
                    let promised = p.promised(run.nr).max(end);
                    (p.at, p.dirty) = ((run.nr, start), promised - start);
                })?;
                // The directory is synced before the disk is touched.
                self.durable = self.journal.len();
            }
            ApplyStep::Write(data) => write_generation(&self.disk, &data, WriteOut::LongRuns)?,
            ApplyStep::Flush => self.disk.flush()?,
            ApplyStep::Position { end, .. } => {
                self.publish(|p| {
                    let rest = p.promised(run.nr).saturating_sub(end);
                    (p.at, p.dirty) = ((run.nr, end), rest);
                })?;
            }
            ApplyStep::Wait | ApplyStep::End(_) => {}
        }
        let slow = self.rng.chance(30);
        let spent = Duration::from_secs(u64::from(slow) * 2);
        run.core.done(Ok(ControlFlow::Continue(())), spent);
        Ok(())
    }

    fn begin_run(&mut self, primary: &Life) -> anyhow::Result<()> {
        let p = self.published();
        let opts = self.options();
        let (nr, pos) = p.at;
        let Some(copy) = self.copies.get(&nr) else {
            return Ok(());
        };
        let mut limit = copy.durable;
        if p.sync_at.is_none() {
            // The primary's disk must not be older than ours while blocks are copied from it.
            let (theirs, at, _) = primary.replay_link();
            match theirs.cmp(&nr) {
                std::cmp::Ordering::Less => return Ok(()),
                std::cmp::Ordering::Equal => limit = limit.min(at),
                std::cmp::Ordering::Greater => {}
            }
        }
        if pos < limit {
            self.run = Some(Run {
                nr,
                core: ApplyCore::new(pos, limit, &opts),
                scan: WindowScan::new(copy.file.try_clone()?, pos, limit, &opts),
                scanning: None,
                step: None,
            });
        } else if primary.final_len(nr) == Some(pos) && self.copies.contains_key(&(nr + 1)) {
            self.publish(|p| (p.at, p.dirty) = ((nr + 1, 0), 0))?;
        }
        Ok(())
    }

    fn options(&mut self) -> ApplyOptions {
        ApplyOptions {
            window_bytes: *self.rng.pick(&[5000, 64 << 10, 1 << 20]),
            device_size: self.size,
        }
    }

    // ---- sync --------------------------------------------------------------------------------------------------------

    fn start_sync(&mut self) {
        let window = Window::new(self.published().synced, self.size);
        let questions = Vec::new();
        self.sync = Some(Sync { window, questions });
    }

    fn sync(&mut self, primary: &Life) -> anyhow::Result<()> {
        let Some(sync) = &mut self.sync else {
            return Ok(());
        };
        match self.rng.below(10) {
            0..3 => {
                if let Next::Ask(chunk) = sync.window.next_step() {
                    let (nr, pos, _) = primary.replay_link();
                    sync.window.asked(chunk, (nr, pos));
                    sync.questions.push(Question {
                        chunk,
                        own: self.disk.look(chunk.pos, chunk.len as usize),
                        compared: 0,
                        different: Vec::new(),
                    });
                }
            }
            3..6 => {
                // The primary reads and compares some blocks.
                let nr = self.rng.below(sync.questions.len() as u64) as usize;
                if let Some(q) = sync.questions.get_mut(nr) {
                    for _ in 0..self.rng.within(1, 64) {
                        q.compare(primary);
                    }
                }
            }
            6..9 => return self.answer(),
            _ => {
                if sync.window.begin_flush() {
                    self.disk.flush()?;
                    sync.window.flushed(true);
                    let synced = sync.window.durable();
                    let done = synced == self.size && sync.questions.is_empty();
                    if done {
                        self.sync = None;
                    }
                    // Published by the primary after all blocks were read.
                    let (nr, pos, dirty) = primary.replay_link();
                    self.publish(|p| {
                        p.synced = synced;
                        if done {
                            p.sync_at = Some((nr, pos + dirty));
                        }
                    })?;
                }
            }
        }
        Ok(())
    }

    fn answer(&mut self) -> anyhow::Result<()> {
        let Some(sync) = &mut self.sync else {
            return Ok(());
        };
        let is_whole = |q: &Question| q.compared * SECTORS >= q.own.len();
        // Replay holds the copy lock while it runs.
        let Some(nr) = sync.questions.iter().position(is_whole) else {
            return Ok(());
        };
        let different = sync.questions[nr].different.len() as u32;
        if different > 0 && self.run.is_some() {
            return Ok(());
        }
        let q = sync.questions.remove(nr);
        match sync.window.answered(q.chunk, different)? {
            Verdict::Equal => {}
            Verdict::Write => {
                let p = self.journal[self.journal.len() - 1];
                if sync.window.may_write(q.chunk, p.end()) {
                    for (pos, data) in &q.different {
                        self.disk.put(*pos, data.clone())?;
                    }
                    sync.window.written(q.chunk, different);
                }
            }
        }
        Ok(())
    }

    // ---- power cut and check -----------------------------------------------------------------------------------------

    /// The power fails, and comes back.
    pub fn power_cut(&mut self) -> anyhow::Result<()> {
        let mut rng = self.rng.fork();
        self.disk = SimDisk::new(self.disk.cut(&mut rng));
        let lost = rng.below((self.journal.len() - self.durable) as u64 + 1);
        let left = self.journal.len() - lost as usize;
        self.journal.truncate(left.max(1));
        self.durable = self.journal.len();
        for copy in self.copies.values_mut() {
            copy.file.set_len(copy.durable)?;
            copy.len = copy.durable;
        }
        self.run = None;
        self.sync = None;
        if self.published().sync_at.is_none() {
            self.start_sync();
        }
        Ok(())
    }

    /// I3 at any moment: replay stops here, its open window is replayed on a copy of the disk, which then equals one prefix: that of the
    /// position.
    pub fn check(&mut self, past: &Past) -> anyhow::Result<()> {
        if !self.is_consistent() {
            return Ok(());
        }
        let p = self.published();
        let copy = SimDisk::new(self.disk.content());
        if p.dirty > 0 {
            let path = self.dir.join(p.at.0.to_string());
            let opts = self.options();
            let mut go_on = |_| Ok(ControlFlow::Continue(()));
            let end = p.end().1;
            let done = apply_log(&copy, File::open(path)?, p.at.1, end, &opts, &mut go_on)?;
            ensure!(done.pos == end, "the open window ends at {}", done.pos);
        }
        let (from, to) = past.steps_at(p.end());
        let found = copy
            .with_content(|image| past.history.prefixes_of(image))
            .with_context(|| format!("{p:?}"))?;
        let fits = |r: &std::ops::RangeInclusive<usize>| *r.end() >= from && *r.start() <= to;
        if !found.iter().any(fits) {
            bail!("the disk equals the steps {found:?}, but {p:?} means {from}..={to}");
        }
        self.checks += 1;
        Ok(())
    }

    /// One bit is flipped in a copy of a log, behind what was replayed. Nothing behind it may be applied. Once: the digests of version 1 fold a payload in
    /// halves, so the same bit flipped in both of them is not seen (a limit of the format).
    pub fn damage(&mut self) -> anyhow::Result<()> {
        if self.is_damaged {
            return Ok(());
        }
        let (nr, pos) = self.published().end();
        let Some(copy) = self.copies.get(&nr).filter(|c| c.len > pos) else {
            return Ok(());
        };
        if self.run.is_some() {
            return Ok(());
        }
        let at = self.rng.within(pos, copy.len - 1);
        let mut byte = [0];
        let file = File::options()
            .read(true)
            .write(true)
            .open(self.dir.join(nr.to_string()))?;
        file.read_exact_at(&mut byte, at)?;
        byte[0] ^= 1 << self.rng.below(8);
        file.write_all_at(&byte, at)?;
        self.is_damaged = true;
        Ok(())
    }
}

impl Question {
    fn compare(&mut self, primary: &Life) {
        let from = self.compared * SECTORS;
        if from >= self.own.len() {
            return;
        }
        let to = (from + SECTORS).min(self.own.len());
        let pos = self.chunk.pos + (from * SECTOR) as u64;
        let theirs = primary.disk.look(pos, (to - from) * SECTOR);
        if theirs != self.own[from..to] {
            self.different.push((pos, theirs));
        }
        self.compared += 1;
    }
}
