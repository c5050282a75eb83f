//! The primary from one start to its power cut: the logger's own state machine, with simulated writers in front and simulated log files and
//! disk behind, driven step by step.
use super::disk::SimDisk;
use super::links::{LinkWorld, Links, me, own_log, res};
use super::logs::SimLogs;
use super::rng::Rng;
use crate::stamp::{self, History, Op, SECTOR, Sector};
use anyhow::ensure;
use mars_disk::{DataDisk, WriteOut, write_generation};
use mars_log::{Compression, Digest, EncodeOptions};
use mars_logger::core::{Answer, Core, CoreConfig, DiskStep, Exit, LogStep, StepResult};
use mars_logger::io::Links as _;
use mars_logger::links::TreeLinks;
use mars_logger::recovery::StartPoint;
use mars_tree::{LogName, ReplayPos, Stamp};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

const EIO: i32 = nix::libc::EIO;
const PIECE: u64 = 256 << 10;

/// How one run goes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Device size in bytes.
    pub size: u64,
    /// Writes are durable when they are answered.
    pub strict: bool,
    limit: usize,
    age: Duration,
    zeroes_packed: bool,
    encode: EncodeOptions,
    writers: usize,
    depth: usize,
    /// Largest write.
    largest: u64,
    /// Chance in 100 that a request is no plain write.
    special: u64,
    /// The device region that most writes go to.
    hot: u64,
    recovery_limit: u64,
    rotate: u64,
    /// Chance in 1000 that a step of the log, or of the disk, fails.
    log_faults: u64,
    disk_faults: u64,
    /// Bytes of zeros written ahead of the log's end, 0 = none.
    prepare: u64,
    /// Steps.
    pub steps: u64,
}

impl Plan {
    /// A random one.
    pub fn sample(rng: &mut Rng) -> Plan {
        let size = match rng.below(10) {
            0..6 => 256 << 10,
            6..9 => 1 << 20,
            _ => 4 << 20,
        };
        let compression = if rng.chance(20) {
            Some(Compression::Lz4)
        } else {
            None
        };
        let digest = if rng.chance(15) {
            Digest::Md5
        } else {
            Digest::Crc32c
        };
        let largest: u64 = *rng.pick(&[512, 4096, 16 << 10, 64 << 10, 1 << 20]);
        let largest = largest.min(size / 2);
        // Large writes make large logs, and every state costs a recovery from them.
        let most = ((8 << 20) / largest).max(60);
        Plan {
            size,
            strict: rng.chance(60),
            limit: *rng.pick(&[32 << 10, 128 << 10, 512 << 10, 64 << 20]),
            age: Duration::from_millis(*rng.pick(&[0, 5, 50, 100_000])),
            zeroes_packed: rng.chance(70),
            encode: EncodeOptions {
                digest,
                compression,
                ..EncodeOptions::default()
            },
            writers: rng.within(1, 4) as usize,
            depth: *rng.pick(&[1, 2, 8]),
            largest,
            special: *rng.pick(&[5, 20, 50]),
            hot: *rng.pick(&[8192, 65536, size]),
            recovery_limit: *rng.pick(&[1 << 30, 1 << 30, 256 << 10, 16 << 10]),
            log_faults: *rng.pick(&[0, 0, 0, 20]),
            disk_faults: *rng.pick(&[0, 0, 0, 30]),
            rotate: *rng.pick(&[u64::MAX, 4 << 10, 16 << 10, 128 << 10, 1 << 20]),
            prepare: *rng.pick(&[0, 0, 16 << 10, 256 << 10]),
            steps: rng.within(50, 400).min(most),
        }
    }

    /// For a primary that neither fails nor is cut, with a disk of several chunks of the sync.
    pub fn with_secondary(rng: &mut Rng) -> Plan {
        let plan = Plan::sample(rng);
        Plan {
            size: if rng.chance(40) { 9 << 20 } else { plan.size },
            log_faults: 0,
            disk_faults: 0,
            steps: rng.within(500, 1500),
            ..plan
        }
    }

    fn core(&self) -> CoreConfig {
        CoreConfig {
            strict: self.strict,
            limit: self.limit,
            encode: self.encode,
            age: self.age,
            recovery_limit: self.recovery_limit,
            zeroes_packed: self.zeroes_packed,
        }
    }
}

/// A request on its way into the core.
#[derive(Clone, Copy, Debug)]
struct Arriving {
    pos: u64,
    end: u64,
    zeroes: bool,
    fua: bool,
}

#[derive(Clone, Debug, Default)]
struct Writer {
    arriving: Option<Arriving>,
    waiting: usize,
}

/// A request that waits for its answer.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    writer: usize,
    /// When it is answered, everything up to this step has to survive; `None`: nothing is promised.
    step: Option<usize>,
}

/// A step of the log side that is under way.
#[derive(Debug)]
struct Flying {
    step: LogStep,
    /// Its effect is there already, its end was not reported yet.
    is_done: bool,
}

/// Where an operation ends in the log, and the step that completes it.
#[derive(Clone, Debug)]
pub struct End {
    /// Log and length behind it.
    pub at: (u32, u64),
    /// Step of the history.
    pub step: usize,
}

/// What survives a power cut.
#[derive(Clone, Debug)]
pub struct Wreck {
    /// Content of the disk.
    pub disk: Vec<u8>,
    /// Log files.
    pub logs: BTreeMap<LogName, Vec<u8>>,
    /// Links.
    pub links: Links,
}

/// What is known about the past, for the checks.
#[derive(Clone, Debug)]
pub struct Past {
    /// All operations in the order in which they were accepted.
    pub history: History,
    /// Where they ended in the logs.
    pub ends: Vec<End>,
    /// Everything up to this step was acknowledged as durable.
    pub required: usize,
    /// Number of the last operation that was ever used.
    pub seq: u64,
    /// Nothing is logged: what reaches the disk is not in order, only what was acknowledged counts.
    pub is_unordered: bool,
    /// Logs before this one do not tell all of history.
    pub first_log: u32,
}

impl Past {
    /// Of an empty device.
    pub fn new(size: u64) -> Past {
        Past {
            history: History::new(size),
            ends: Vec::new(),
            required: 0,
            seq: 0,
            is_unordered: false,
            first_log: 0,
        }
    }

    /// The first and the last step that a position in the logs can mean: records of the operation that follows may be before it.
    pub fn steps_at(&self, at: (u32, u64)) -> (usize, usize) {
        let known = self.ends.partition_point(|e| e.at <= at);
        let from = known.checked_sub(1).map_or(0, |i| self.ends[i].step);
        let last = self.history.last_step();
        let to = self.ends.get(known).map_or(last, |e| e.step - 1);
        (from, to)
    }

    /// Begins again with what is on the disk.
    pub fn again(&self, image: &[u8], next: u32) -> Past {
        Past {
            history: History::of(&mut of_image(image), image.len() as u64),
            ends: Vec::new(),
            required: 0,
            seq: self.seq,
            is_unordered: false,
            // All that came before is history, unless there is a hole in it.
            first_log: if self.is_unordered {
                next
            } else {
                self.first_log
            },
        }
    }
}

/// A running primary.
pub struct Life {
    plan: Plan,
    rng: Rng,
    core: Core<u64>,
    /// Data disk.
    pub disk: Arc<SimDisk>,
    logs: SimLogs,
    world: LinkWorld,
    links: TreeLinks,
    /// What happened so far.
    pub past: Past,
    now: Duration,
    writers: Vec<Writer>,
    waiting: HashMap<u64, Waiting>,
    next_tag: u64,
    answers: Vec<Answer<u64>>,
    log_steps: Vec<Flying>,
    disk_step: Option<DiskStep>,
    /// An empty log that is open for a rotation or behind an emergency.
    next_log: Option<LogName>,
    /// Answers given.
    pub answered: u64,
}

impl Life {
    /// Begins where recovery said.
    pub fn begin(
        plan: Plan,
        rng: Rng,
        disk: Arc<SimDisk>,
        logs: SimLogs,
        world: LinkWorld,
        start: &StartPoint,
        past: Past,
    ) -> Life {
        let links = TreeLinks::new(
            world.tree.clone(),
            res(),
            me(),
            start.log.clone(),
            start.prev.clone(),
        );
        let mut life = Life {
            core: Core::new(plan.core(), start.log.clone()),
            rng,
            disk,
            logs,
            world,
            links,
            past,
            now: Duration::ZERO,
            writers: vec![Writer::default(); plan.writers],
            waiting: HashMap::new(),
            next_tag: 0,
            answers: Vec::new(),
            log_steps: Vec::new(),
            disk_step: None,
            next_log: None,
            answered: 0,
            plan,
        };
        life.create_log(&start.log);
        life.links.opened();
        life.world.absorb();
        life
    }

    /// As `LogFile::create`: the file and all links before are durable then.
    fn create_log(&mut self, name: &LogName) {
        let path = self.world.dir().join(name.to_string());
        if !path.exists() {
            std::fs::write(path, b"").unwrap();
        }
        let log = self.logs.0.entry(name.clone()).or_default();
        assert!(log.is_empty(), "{name} is not empty");
        self.world.synced();
    }

    /// What a power cut now could leave.
    pub fn cut(&self, rng: &mut Rng) -> Wreck {
        let mut logs = self.logs.cut(rng);
        let (links, made) = self.world.cut(rng);
        for log in made {
            logs.entry(log).or_default();
        }
        Wreck {
            disk: self.disk.cut(rng),
            logs,
            links,
        }
    }

    /// The own replay link: log, position, dirty length.
    pub fn replay_link(&self) -> (u32, u64, u64) {
        let links = self.world.now();
        let r: ReplayPos = links["replay-alpha"].parse().unwrap();
        (r.log.nr, r.pos, r.dirty)
    }

    /// The log that becomes durable, and its durable length.
    pub fn durable(&self) -> (u32, u64) {
        let at = self.core.durable_pos();
        (at.log.nr, at.pos)
    }

    /// What other hosts may fetch of a log.
    pub fn durable_bytes(&self, nr: u32) -> &[u8] {
        let log = &self.logs.0[&own_log(nr)];
        let (last, len) = self.durable();
        &log.bytes[..if nr == last { len } else { log.len() } as usize]
    }

    /// Length of a log that is finished.
    pub fn final_len(&self, nr: u32) -> Option<u64> {
        (nr < self.durable().0).then(|| self.logs.0[&own_log(nr)].len())
    }

    /// One thing happens.
    pub fn step(&mut self) {
        match self.rng.below(100) {
            0..38 => self.submit(),
            38..43 => self.kick(),
            43..66 => {
                self.log_side();
            }
            66..88 => {
                self.disk_side();
            }
            88..91 => self.now += Duration::from_millis(self.rng.below(20)),
            91..93 => self.check_read(),
            93..95 => {
                let at = self.core.durable_pos();
                self.links.version(&at.log, at.pos);
                self.world.absorb();
            }
            95 => self.core.want_all_durable(),
            96 => self.core.demand_write_back(),
            _ => self.control(),
        }
        for answer in std::mem::take(&mut self.answers) {
            self.answered(answer);
        }
    }

    fn answered(&mut self, answer: Answer<u64>) {
        let tag = answer.tag;
        let Some(w) = self.waiting.remove(&tag) else {
            panic!("request {tag} is answered twice");
        };
        self.writers[w.writer].waiting -= 1;
        self.answered += 1;
        match (answer.result, w.step) {
            (Ok(()), Some(step)) => self.past.required = self.past.required.max(step),
            (Ok(()), None) => {}
            (Err(_), _) => assert!(
                self.core.is_emergency() && self.core.disk_error() != 0,
                "request {tag} failed although there is a place for it"
            ),
        }
    }

    /// Stops as a daemon does, without power cut: everything is on the disk then, or in the log when the disk failed last.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.core.end(Exit::Drained);
        (self.plan.log_faults, self.plan.disk_faults) = (0, 0);
        for _ in 0..10_000 {
            let ended = self.log_side() & self.disk_side();
            self.now += Duration::from_millis(100);
            for answer in std::mem::take(&mut self.answers) {
                self.answered(answer);
            }
            if ended {
                break;
            }
        }
        let drained = self.core.is_drained();
        let at = self.core.durable_pos();
        self.links.version(&at.log, at.pos);
        if drained {
            let at = self.core.write_back_pos();
            self.links.replay(&at.log, at.pos, 0);
        }
        self.world.absorb();
        ensure!(
            drained || self.core.disk_error() != 0 && self.core.is_durable(),
            "it does not come to rest: {:#?}",
            self.core
        );
        ensure!(self.waiting.is_empty(), "a request is never answered");
        Ok(())
    }

    // ---- front end ---------------------------------------------------------------------------------------------------

    fn submit(&mut self) {
        let nr = self.rng.below(self.writers.len() as u64) as usize;
        if self.writers[nr].waiting >= self.plan.depth {
            return self.kick();
        }
        if self.writers[nr].arriving.is_none() {
            self.writers[nr].arriving = Some(self.request());
        }
        let Some(a) = self.writers[nr].arriving else {
            return;
        };
        if a.pos == a.end {
            // FLUSH.
            self.writers[nr].arriving = None;
            return self.wait_for_answer(nr, true);
        }
        if !self.core.has_room() {
            match self.core.refusal() {
                Some(_) => self.writers[nr].arriving = None,
                None => self.core.want_room(),
            }
            return;
        }
        let stamp = Stamp::from_nanos(1_700_000_000_000_000_000 + self.past.seq);
        self.past.seq += 1;
        let seq = self.past.seq;
        let (pos, len) = (a.pos, (a.end - a.pos).min(PIECE));
        let step = if a.zeroes {
            self.core.write_zeroes(pos, len, stamp, self.now);
            self.past.history.push(Op::Zeroes { pos, len, seq })
        } else {
            let mut data = vec![0; len as usize];
            stamp::fill(&mut data, pos, seq);
            self.core.write(pos, &data, stamp, self.now);
            self.past.history.push(Op::Write { pos, len, seq })
        };
        self.past.ends.push(End {
            at: (self.core.newest_log().nr, self.core.newest_log_len()),
            step,
        });
        if pos + len < a.end {
            self.writers[nr].arriving = Some(Arriving {
                pos: pos + len,
                ..a
            });
        } else {
            self.writers[nr].arriving = None;
            self.wait_for_answer(nr, a.fua);
            if self.rng.chance(50) {
                self.kick();
            }
        }
    }

    fn wait_for_answer(&mut self, writer: usize, durable: bool) {
        let tag = self.next_tag;
        self.next_tag += 1;
        let promised = durable || self.plan.strict;
        let step = promised.then(|| self.past.history.last_step());
        self.waiting.insert(tag, Waiting { writer, step });
        self.writers[writer].waiting += 1;
        self.core.answer_when_safe(durable, tag, &mut self.answers);
    }

    fn request(&mut self) -> Arriving {
        let rng = &mut self.rng;
        let sector = SECTOR as u64;
        let special = rng.chance(self.plan.special);
        let kind = if special { rng.below(4) } else { 9 };
        if kind == 0 {
            return Arriving {
                pos: 0,
                end: 0,
                zeroes: false,
                fua: true,
            };
        }
        let area = if rng.chance(80) {
            self.plan.hot
        } else {
            self.plan.size
        };
        let most = self.plan.largest.min(area) / sector;
        let len = match rng.below(4) {
            0 => 1,
            1 => rng.within(1, most.min(8)),
            2 => most,
            _ => rng.within(1, most),
        } * sector;
        let align = *rng.pick(&[sector, 4096]);
        let mut pos = rng.below((area - len) / sector + 1) * sector;
        pos -= pos % align;
        Arriving {
            pos,
            end: pos + len,
            zeroes: kind == 1 || kind == 2,
            fua: rng.chance(if special { 50 } else { 2 }),
        }
    }

    fn kick(&mut self) {
        self.core.commit(&mut self.answers);
        if !self.plan.strict
            && self.rng.chance(50)
            && let Some(chunk) = self.core.take_chunk()
        {
            // The thread of the connection writes.
            self.fly(LogStep::Append(chunk));
        }
    }

    /// What a reader sees is what was accepted last.
    fn check_read(&mut self) {
        let sectors = self.plan.size / SECTOR as u64;
        let first = self.rng.below(sectors);
        let count = self.rng.within(1, 64).min(sectors - first) as usize;
        let pos = first * SECTOR as u64;
        let mut buf = vec![0; count * SECTOR];
        let mut covered = vec![false; count];
        self.core.buffer().read(pos, &mut buf, Some(&mut covered));
        let last = self.past.history.last_step();
        for (nr, known) in covered.iter().enumerate() {
            let at = pos + (nr * SECTOR) as u64;
            let sector = &mut buf[nr * SECTOR..][..SECTOR];
            if !known {
                self.disk.look(at, sector);
            }
            let (is, should) = (stamp::read(sector, at), self.past.history.sector(at, last));
            assert_eq!(is, should, "read at {at}");
        }
    }

    // ---- log ---------------------------------------------------------------------------------------------------------

    fn fails(&mut self, faults: u64) -> bool {
        self.rng.below(1000) < faults
    }

    /// True when there is nothing to do any more.
    fn log_side(&mut self) -> bool {
        if !self.log_steps.is_empty() && self.rng.chance(60) {
            let nr = self.rng.below(self.log_steps.len() as u64) as usize;
            let flying = self.log_steps.remove(nr);
            self.land(flying);
            return false;
        }
        match self.core.next_log_step() {
            step @ (LogStep::Sleep | LogStep::End) => match self.log_steps.pop() {
                Some(flying) => self.land(flying),
                None => return matches!(step, LogStep::End),
            },
            step => self.fly(step),
        }
        false
    }

    fn fly(&mut self, step: LogStep) {
        let is_done = matches!(step, LogStep::Append(_)) && self.rng.chance(50);
        if is_done {
            self.append(&step);
        }
        self.log_steps.push(Flying { step, is_done });
    }

    fn append(&mut self, step: &LogStep) {
        if let LogStep::Append(chunk) = step {
            let log = self.logs.of(&own_log(chunk.log_nr));
            assert_eq!(log.len(), chunk.at, "appended at the wrong place");
            log.append(&chunk.bytes);
            if self.plan.prepare > 0 && self.rng.chance(50) {
                log.prepare(self.plan.prepare);
            }
        }
    }

    fn land(&mut self, Flying { step, is_done }: Flying) {
        let fails = self.fails(self.plan.log_faults);
        let result: StepResult = match &step {
            LogStep::Append(_) if is_done => Ok(()),
            LogStep::Append(chunk) if fails => {
                let part = self.rng.below(chunk.bytes.len() as u64 + 1) as usize;
                let log = self.logs.of(&own_log(chunk.log_nr));
                log.fail_append(&chunk.bytes[..part]);
                Err(nix::libc::ENOSPC)
            }
            LogStep::Append(_) => {
                self.append(&step);
                Ok(())
            }
            LogStep::Sync(_) if fails => Err(EIO),
            LogStep::Sync(job) => {
                self.logs.of(&own_log(job.log_nr)).synced(job.len);
                Ok(())
            }
            LogStep::Switch { old, new } => {
                assert_eq!(self.next_log.take().as_ref(), Some(new));
                let log = self.logs.of(&old.log);
                assert_eq!(log.len(), old.pos, "rotated away too early");
                assert_eq!(log.synced, old.pos, "rotated away before it was durable");
                log.truncate(old.pos);
                self.links.rotated(&old.log, old.pos, new);
                Ok(())
            }
            LogStep::Sleep | LogStep::End => Ok(()),
        };
        self.world.absorb();
        self.core.log_done(step, result, &mut self.answers);
    }

    /// What the control loop does: rotation by size, resuming after an emergency.
    fn control(&mut self) {
        if self.core.may_resume() && self.rng.chance(50) {
            let log = self.links.resume_log();
            self.create_log(&log);
            self.next_log = Some(log.clone());
            self.core.resume(log);
        } else if !self.core.is_rotating()
            && !self.core.is_emergency()
            && self.core.newest_log_len() > self.plan.rotate
        {
            let next = own_log(self.core.newest_log().nr + 1);
            self.create_log(&next);
            self.next_log = Some(next.clone());
            self.core.rotate(next);
        } else if self.fails(self.plan.log_faults) {
            self.core.stop_logging(&mut self.answers);
        }
    }

    // ---- disk --------------------------------------------------------------------------------------------------------

    /// True when there is nothing to do any more.
    fn disk_side(&mut self) -> bool {
        let Some(step) = self.disk_step.take() else {
            match self.core.next_disk_step(self.now) {
                DiskStep::Sleep(Some(t)) if self.rng.chance(30) => self.now = self.now.max(t),
                DiskStep::Sleep(_) => {}
                DiskStep::End => return true,
                step => self.disk_step = Some(step),
            }
            return false;
        };
        let fails = self.fails(self.plan.disk_faults);
        let result: StepResult = match &step {
            DiskStep::CutLog { valid } => {
                self.next_log = None;
                self.logs.of(&valid.log).truncate(valid.pos);
                self.links.emergency(&valid.log, valid.pos);
                self.world.synced();
                self.past.is_unordered = true;
                Ok(())
            }
            DiskStep::Promise { from, dirty } => {
                self.links.replay(&from.log, from.pos, *dirty);
                Ok(())
            }
            DiskStep::Write(generation) => {
                if fails {
                    let after = self.rng.below(3);
                    self.disk.fail_write_after(after);
                }
                let result = write_generation(&*self.disk, generation, WriteOut::All);
                self.disk.repair();
                result.map_err(|_| EIO)
            }
            DiskStep::Flush => {
                if fails {
                    self.disk.fail_flush(&mut self.rng);
                    Err(EIO)
                } else {
                    self.disk.flush().map_err(|_| EIO)
                }
            }
            DiskStep::Position { at, durable } => {
                self.links.replay(&at.log, at.pos, 0);
                if *durable {
                    self.world.synced();
                }
                Ok(())
            }
            DiskStep::DiskError(code) => {
                self.links.disk_error(*code);
                Ok(())
            }
            DiskStep::Resume { log } => {
                assert_eq!(self.next_log.take().as_ref(), Some(log));
                self.links.resumed(log);
                // Everything is on the disk: in order again.
                self.past.is_unordered = false;
                self.past.first_log = log.nr;
                for end in &mut self.past.ends {
                    end.at = (0, 0);
                }
                Ok(())
            }
            DiskStep::Forget { .. } | DiskStep::Sleep(_) | DiskStep::End => Ok(()),
        };
        self.world.absorb();
        self.core
            .disk_done(step, result, self.now, &mut self.answers);
        false
    }
}

/// The sectors of an image, for [`History`].
pub fn of_image(image: &[u8]) -> impl FnMut(u64, &mut [u8]) + '_ {
    |pos, buf| buf.copy_from_slice(&image[pos as usize..][..buf.len()])
}

/// What a sector of an image holds.
pub fn sector_of(image: &[u8], pos: u64) -> Sector {
    stamp::read(&image[pos as usize..][..SECTOR], pos)
}
