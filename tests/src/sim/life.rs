//! The primary from one start to its power cut: the logger's own state machine, with simulated writers in front and simulated log files and
//! disk behind, driven step by step.
use super::disk::SimDisk;
use super::links::{LinkWorld, me, own_log, res};
use super::logs::SimLogs;
use super::past::{End, Past, Wreck};
use super::plan::Plan;
use super::rng::Rng;
use crate::stamp::{self, Op, SECTOR};
use anyhow::ensure;
use mars_disk::{DataDisk, Ranges, WriteOut, write_generation};
use mars_logger::core::{Answer, Core, DiskStep, Exit, LogStep, StepResult};
use mars_logger::io::Links as _;
use mars_logger::links::TreeLinks;
use mars_logger::recovery::StartPoint;
use mars_tree::{LogName, ReplayPos, Stamp};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

const EIO: i32 = nix::libc::EIO;
const PIECE: u64 = 256 << 10;

/// A request on its way into the core.
#[derive(Clone, Copy, Debug)]
struct Arriving {
    first: u64,
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
#[derive(Clone, Debug)]
struct Waiting {
    writer: usize,
    /// Where its data are; a FLUSH has none.
    place: Option<Range<u64>>,
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
    /// What was not on the disk when logging stopped.
    at_emergency: Ranges,
    /// Places that were bad since then.
    was_bad: Vec<Range<u64>>,
    /// Answers given.
    pub answered: u64,
    /// Requests that failed because of their own place while others went on.
    pub failed_places: u64,
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
            at_emergency: Ranges::default(),
            was_bad: Vec::new(),
            answered: 0,
            failed_places: 0,
            plan,
        };
        life.create_log(&start.log);
        life.links.opened();
        life.world.absorb();
        if life.plan.bad_places {
            life.change_places();
        }
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
        if self.plan.direct {
            log.go_direct();
        }
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
        &log.bytes()[..if nr == last { len } else { log.len() } as usize]
    }

    /// Length of a log that is finished.
    pub fn final_len(&self, nr: u32) -> Option<u64> {
        (nr < self.durable().0).then(|| self.logs.0[&own_log(nr)].len())
    }

    /// One thing happens.
    pub fn step(&mut self) {
        let was_emergency = self.core.is_emergency();
        let is_needed = self.plan.bad_places && !was_emergency;
        let dirty = is_needed.then(|| self.core.buffer().ranges());
        self.one_step();
        if self.core.is_emergency()
            && let Some(dirty) = dirty
        {
            // What was accepted in this very step is among it, too.
            let more = self.core.buffer().ranges();
            self.at_emergency = dirty.iter().chain(more.iter()).cloned().collect();
        }
        for answer in std::mem::take(&mut self.answers) {
            self.answered(answer);
        }
    }

    fn one_step(&mut self) {
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
    }

    fn answered(&mut self, answer: Answer<u64>) {
        let tag = answer.tag;
        let Some(w) = self.waiting.remove(&tag) else {
            panic!("request {tag} is answered twice");
        };
        self.writers[w.writer].waiting -= 1;
        self.answered += 1;
        match (answer.result, w.step) {
            (Ok(()), Some(step)) => {
                let past = &mut self.past;
                past.promises += 1;
                match w.place {
                    // From the disk, and perhaps before others that were accepted before.
                    Some(place) if self.core.is_emergency() => {
                        past.places.resize(self.plan.size as usize / SECTOR, 0);
                        let sectors = place.start as usize / SECTOR..place.end as usize / SECTOR;
                        for known in &mut past.places[sectors] {
                            *known = step.max(*known);
                        }
                    }
                    _ => past.required = past.required.max(step),
                }
            }
            (Ok(()), None) => {}
            (Err(_), _) => self.check_failure(tag, w.place),
        }
    }

    /// A request may fail only when its own data have no place.
    fn check_failure(&mut self, tag: u64, place: Option<Range<u64>>) {
        assert!(
            self.core.is_emergency() && self.core.disk_error() != 0,
            "request {tag} failed although there is a place for it"
        );
        if self.plan.disk_faults > 0 {
            return;
        }
        // A log that cannot be written back would win over newer data of its places.
        let bad: Ranges = self.was_bad.iter().cloned().collect();
        let logged = self.at_emergency.iter().any(|r| bad.touches(r));
        let has_reason = match place {
            Some(p) => bad.touches(&p) || logged && self.at_emergency.touches(&p),
            None => !bad.is_empty(),
        };
        assert!(
            has_reason,
            "request {tag} failed although the disk takes its data"
        );
        self.failed_places += 1;
    }

    /// Places of the disk go bad, or good again.
    fn change_places(&mut self) {
        let sectors = self.plan.size as usize / SECTOR;
        let rng = &mut self.rng;
        let hot = self.plan.hot.min(self.plan.size) as usize / SECTOR;
        let count = if rng.chance(40) { 0 } else { rng.within(1, 3) };
        let bad = (0..count).map(|_| {
            let area = *rng.pick(&[hot, sectors]);
            let first = rng.below(area as u64) as usize;
            let len = *rng.pick(&[1, 8, 64]);
            first..(first + len).min(sectors)
        });
        let bad: Vec<Range<usize>> = bad.collect();
        if !self.core.is_emergency() {
            self.was_bad.clear();
        }
        let bytes = |r: &Range<usize>| (r.start * SECTOR) as u64..(r.end * SECTOR) as u64;
        self.was_bad.extend(bad.iter().map(bytes));
        self.disk.set_bad(bad, rng.chance(50));
    }

    /// Stops as a daemon does, without power cut: everything is on the disk then, or in the log when the disk failed last.
    pub fn stop(&mut self) -> anyhow::Result<()> {
        self.core.end(Exit::Drained);
        (self.plan.log_faults, self.plan.disk_faults) = (0, 0);
        self.disk.set_bad(Vec::new(), false);
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
            return self.wait_for_answer(nr, true, None);
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
            self.wait_for_answer(nr, a.fua, Some(a.first..a.end));
            if self.rng.chance(50) {
                self.kick();
            }
        }
    }

    fn wait_for_answer(&mut self, writer: usize, durable: bool, place: Option<Range<u64>>) {
        let tag = self.next_tag;
        self.next_tag += 1;
        let promised = durable || self.plan.strict;
        let step = promised.then(|| self.past.history.last_step());
        let waiting = Waiting {
            writer,
            place: place.clone(),
            step,
        };
        self.waiting.insert(tag, waiting);
        self.writers[writer].waiting += 1;
        self.core
            .answer_when_safe(durable, place, tag, &mut self.answers);
    }

    fn request(&mut self) -> Arriving {
        let rng = &mut self.rng;
        let sector = SECTOR as u64;
        let special = rng.chance(self.plan.special);
        let kind = if special { rng.below(4) } else { 9 };
        if kind == 0 {
            return Arriving {
                first: 0,
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
            first: pos,
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
            let is = match known {
                true => stamp::read(&buf[nr * SECTOR..][..SECTOR], at),
                false => self.disk.look(at, SECTOR)[0],
            };
            assert_eq!(is, self.past.history.sector(at, last), "read at {at}");
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
        if self.plan.bad_places && self.rng.chance(10) {
            self.change_places();
        } else if self.core.may_resume() && self.rng.chance(50) {
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
                DiskStep::Sleep(Some(t))
                    if self.rng.chance(if self.plan.bad_places { 80 } else { 30 }) =>
                {
                    self.now = self.now.max(t);
                }
                DiskStep::Sleep(_) => {}
                DiskStep::End => return true,
                step => self.disk_step = Some(step),
            }
            return false;
        };
        let fails = self.fails(self.plan.disk_faults);
        if let DiskStep::Salvage(generation) = &step {
            if fails {
                let after = self.rng.below(8);
                self.disk.fail_write_after(after);
            }
            let (lost, _) = mars_disk::salvage(&*self.disk, generation);
            self.disk.repair();
            let answers = &mut self.answers;
            self.core.disk_salvaged(lost, EIO, self.now, answers);
            return false;
        }
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
                let places = std::mem::take(&mut self.past.places);
                let most = places.into_iter().max().unwrap_or(0);
                self.past.required = self.past.required.max(most);
                self.past.is_unordered = false;
                self.past.first_log = log.nr;
                for end in &mut self.past.ends {
                    end.at = (0, 0);
                }
                Ok(())
            }
            DiskStep::Salvage(_) | DiskStep::Forget { .. } | DiskStep::Sleep(_) | DiskStep::End => {
                Ok(())
            }
        };
        self.world.absorb();
        self.core
            .disk_done(step, result, self.now, &mut self.answers);
        false
    }
}
