//! Runs with power cuts, one per seed.
use super::disk::{self, SimDisk};
use super::life::Life;
use super::links::{LinkWorld, Place, first_links};
use super::logs::{Found, SimLog, SimLogs};
use super::past::Past;
use super::plan::Plan;
use super::rng::Rng;
use super::secondary::Secondary;
use super::seen::Seen;
use super::wreck::{check_again, first_start, recover};
use anyhow::Context as _;
use std::collections::{BTreeMap, HashSet};
use std::ops::AddAssign;
use std::path::Path;
use std::sync::Arc;

/// What was done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Count {
    /// States of a power cut that were recovered from and checked, each different from all others.
    pub states: u64,
    /// States that had been there before, with other expectations perhaps; not counted.
    pub repeated: u64,
    /// Of these: cut again during recovery.
    pub during_recovery: u64,
    /// Lives that went on behind a recovery.
    pub lives: u64,
    /// Steps of the engine.
    pub steps: u64,
    /// Requests answered.
    pub answers: u64,
    /// Requests that failed because no place took their data.
    pub failed: u64,
    /// Logs applied again.
    pub again: u64,
    /// States of a secondary that were checked.
    pub anytime: u64,
    /// Power cuts of a secondary.
    pub secondary_cuts: u64,
}

impl AddAssign for Count {
    fn add_assign(&mut self, o: Count) {
        self.states += o.states;
        self.repeated += o.repeated;
        self.during_recovery += o.during_recovery;
        self.lives += o.lives;
        self.steps += o.steps;
        self.answers += o.answers;
        self.again += o.again;
        self.failed += o.failed;
        self.anytime += o.anytime;
        self.secondary_cuts += o.secondary_cuts;
    }
}

/// When a cut leaves nothing new, others are tried.
const TRIES: usize = 3;
/// Lives behind each other at most.
const LIVES: usize = 3;

/// One of so many seeds has its links in a real tree, the others in memory.
const REAL_TREES: u64 = 8;

fn place(root: &Path, seed: u64) -> Place {
    Place::new(root, seed.is_multiple_of(REAL_TREES))
}

/// Everything that follows from this seed, below the directory `root`, which is for this thread alone.
pub fn run(root: &Path, seed: u64, seen: &Seen) -> anyhow::Result<Count> {
    let mut rng = Rng::new(seed);
    let plan = Plan::sample(&mut rng);
    let place = place(root, seed);
    let life = first_life(&place, &plan, &mut rng);
    let mut run = Run {
        place,
        seen,
        rng,
        count: Count::default(),
    };
    run.live(life, &plan, 0)
        .with_context(|| format!("{plan:?}"))?;
    Ok(run.count)
}

/// A primary without troubles and a secondary with fetch, replay, sync and power cuts, everything that follows from this seed.
pub fn anytime(root: &Path, seed: u64) -> anyhow::Result<Count> {
    let mut rng = Rng::new(seed);
    let plan = Plan::with_secondary(&mut rng);
    let mut life = first_life(&place(root, seed), &plan, &mut rng);
    let mut count = Count::default();
    for _ in 0..rng.below(200) {
        life.step();
    }
    let dir = root.join("copies");
    let mut secondary = Secondary::join(&dir, rng.fork(), &life, plan.size);
    let (ours, cuts) = (rng.within(5, 60), rng.below(2) * 2);
    let damage = rng.chance(30);
    for step in 0..plan.steps * 2 {
        count.steps += 1;
        if rng.chance(ours) && step < plan.steps {
            life.step();
        } else {
            let happened = secondary.step(&life);
            happened.with_context(|| format!("{plan:?}: step {step}"))?;
        }
        if rng.below(1000) < cuts * 5 {
            secondary.power_cut()?;
            count.secondary_cuts += 1;
        }
        if damage && step > plan.steps && rng.chance(2) {
            secondary.damage()?;
        }
        if rng.chance(8) {
            let checked = secondary.check(&life.past);
            checked.with_context(|| format!("{plan:?}: step {step}"))?;
        }
    }
    count.anytime = secondary.checks;
    count.lives = 1;
    Ok(count)
}

fn first_life(place: &Place, plan: &Plan, rng: &mut Rng) -> Life {
    Life::begin(
        plan.clone(),
        rng.fork(),
        Arc::new(SimDisk::new(disk::empty(plan.size))),
        SimLogs::default(),
        LinkWorld::boot(
            &place.below("life0"),
            first_links(plan.size),
            &BTreeMap::new(),
        ),
        &first_start(),
        Past::new(plan.size),
    )
}

struct Run<'a> {
    place: Place,
    seen: &'a Seen,
    rng: Rng,
    count: Count,
}

impl Run<'_> {
    fn live(&mut self, mut life: Life, plan: &Plan, depth: usize) -> anyhow::Result<()> {
        self.count.lives += 1;
        let mut checked = HashSet::new();
        for step in 0..plan.steps {
            life.step();
            self.count.steps += 1;
            if self.rng.chance(10) {
                for _ in 0..self.rng.within(1, 4) {
                    self.cut(&life, plan, depth, &mut checked)
                        .with_context(|| format!("life {depth}, step {step}"))?;
                }
            }
        }
        self.count.answers += life.answered;
        self.count.failed += life.failed_places;
        if self.rng.chance(30) {
            life.stop().with_context(|| format!("life {depth}"))?;
            life.past.required = life.past.history.last_step();
            self.cut(&life, plan, LIVES, &mut checked)
                .context("after the stop")?;
        }
        Ok(())
    }

    /// `checked`: states of this life with what was expected of them.
    fn cut(
        &mut self,
        life: &Life,
        plan: &Plan,
        depth: usize,
        checked: &mut HashSet<(u64, usize, usize)>,
    ) -> anyhow::Result<()> {
        let mut rng = self.rng.fork();
        let place = self.place.below(&format!("life{}", depth + 1));
        let (promises, last) = (life.past.promises, life.past.history.last_step());
        let found = (0..TRIES).find_map(|_| {
            let wreck = life.cut(&mut rng);
            checked
                .insert((wreck.digest(), promises, last))
                .then_some(wreck)
        });
        let Some(wreck) = found else {
            self.count.repeated += 1;
            return Ok(());
        };
        let recovered = recover(&place, wreck, &life.past, self.seen, &mut rng)?;
        let cuts = recovered.cuts;
        self.count.states += cuts.new;
        self.count.during_recovery += cuts.again;
        self.count.repeated += cuts.repeated;
        if rng.chance(15) {
            check_again(&recovered, &life.past, &mut rng)?;
            self.count.again += 1;
        }
        if depth + 1 < LIVES && rng.chance(2) {
            let past = life
                .past
                .again(recovered.disk.content(), recovered.start.log.nr);
            let durable = |(name, found): (_, Found)| (name, SimLog::of_file(found.bytes));
            let logs = SimLogs(recovered.logs.into_iter().map(durable).collect());
            let next = Life::begin(
                plan.clone(),
                rng,
                recovered.disk,
                logs,
                recovered.world,
                &recovered.start,
                past,
            );
            let mut plan = plan.clone();
            plan.steps /= 3;
            self.live(next, &plan, depth + 1)?;
        }
        Ok(())
    }
}
