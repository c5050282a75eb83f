//! How a designated primary gets to an own log: recovery after a crash, takeover after a handover
//! (symlink-tree.md 5.2 and section 6, transaction-log.md 2.6 and 3.8).
use crate::View;
use crate::known::{KnownLog, KnownLogs};
use crate::replay::{TAIL_TOLERANCE, check_switch};
use mars_log::SwitchBlock;
use mars_log::numbers::{hole_after, next_number};
use mars_tree::{HostName, LogName, ReplayPos, ResName, TodoSwitch, VersionLink};

/// What is known of the bytes between the own replay position and the end of the local file.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Tail {
    /// Not looked at yet.
    #[default]
    Unread,
    /// A torn end of the log: its writer never made more of it durable.
    Torn,
    /// A record whose rest is missing here: its writer has more.
    Cut,
}

/// The next step of a logger that starts. Do it, publish what it names, take a new snapshot, ask again, until `OpenOwn`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum PrimaryPlan {
    /// Apply the local file from `pos` to its end (beyond any published length). Then publish `replay-ME` = `log,END,0` **and**
    /// the own version link with length END. When END is before the end of the file, say why from then on for this log ([`Tail`]).
    Apply {
        /// Log of the own replay link.
        log: LogName,
        /// Position.
        pos: u64,
    },
    /// This log is finished and the next one fits: publish `replay-ME` = `new,0,0` and the version link of `new` with length 0.
    Switch {
        /// Finished log.
        old: LogName,
        /// Next log.
        new: LogName,
    },
    /// Everything is applied: start logging in this own log.
    OpenOwn {
        /// The log.
        log: LogName,
        /// An empty file of this name exists already (from `create-resource`, a rotation, or an interrupted start). Otherwise
        /// create it exclusively.
        existing_empty: bool,
    },
    /// It may not become primary.
    Refuse(PrimaryRefusal),
}

/// Why a host may not start as primary. All but `Damaged` and `Lost` may pass when the tree changes.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PrimaryRefusal {
    /// No disk configured or no replay link.
    #[error("not a member")]
    NotMember,
    /// Somebody else is, or nobody.
    #[error("not designated primary")]
    NotDesignated,
    /// The attach switch is off.
    #[error("detached")]
    Detached,
    /// The sync has not finished: the disk has no usable content.
    #[error("the sync is not finished")]
    Unsynced,
    /// A foreign log is not completely here. (Forced takeover goes on without the rest.)
    #[error("{log} is not completely here: {rest} bytes are missing")]
    Incomplete {
        /// The log.
        log: LogName,
        /// Known bytes behind the position.
        rest: u64,
    },
    /// The file is shorter than what was applied of it, or absent.
    #[error("{0} is missing or shorter than the replay position")]
    Lost(LogName),
    /// The next log may not be entered. (Forced takeover passes by.)
    #[error("cannot go on behind {log}: {why}")]
    Blocked {
        /// The finished log.
        log: LogName,
        /// The rule.
        why: SwitchBlock,
    },
    /// Numbers are used up.
    #[error("log numbers are used up")]
    Numbers,
}

/// The next step of a starting logger. `tail` is what the caller found when it applied this log up to the own replay position.
/// Corruption inside a log is the caller's to refuse.
///
/// *Forced* means: the connect switch is off while this host is designated (symlink-tree.md 1.6). Then missing rests of
/// foreign logs are given up and foreign logs that do not fit are passed by under an own name: history splits if they held data.
pub fn primary_plan(v: &View<'_>, res: &ResName, tail: Tail) -> PrimaryPlan {
    next_step(v, res, tail).unwrap_or_else(PrimaryPlan::Refuse)
}

fn next_step(v: &View<'_>, res: &ResName, tail: Tail) -> Result<PrimaryPlan, PrimaryRefusal> {
    use PrimaryRefusal as No;
    let me = v.me;
    let replay = v.snap.replay(res, me).filter(|_| v.has_disk(res, me));
    let r = replay.ok_or(No::NotMember)?;
    if !v.is_designated(res, me) {
        return Err(No::NotDesignated);
    }
    if !v.switch(res, me, TodoSwitch::Attach) {
        return Err(No::Detached);
    }
    if !v.sync_done(res, me) {
        return Err(No::Unsynced);
    }
    let forced = !v.switch(res, me, TodoSwitch::Connect);
    let known = KnownLogs::of(v, res);
    let facts = known.get(&r.log);
    let own = r.log.host == *me;

    // Applying again from an earlier point changes nothing (I4); so the smaller of both positions is safe.
    let linked = v
        .snap
        .version(res, r.log.nr, me)
        .filter(|l| l.head.log == r.log)
        .map(|l| l.head.len);
    let size = facts.local.unwrap_or(0);
    let vanished = facts.local.is_none() && linked.unwrap_or(0) > 0;
    if size < r.pos || vanished {
        // What is on the disk is not in the log any more. Applying what is left would turn the disk back.
        if !forced {
            return Err(No::Lost(r.log));
        }
    } else if tail == Tail::Unread {
        let pos = linked.map_or(r.pos, |l| l.min(r.pos));
        if pos < size {
            return Ok(PrimaryPlan::Apply { log: r.log, pos });
        }
    }

    // A foreign log must be here to its end. What is missing of an own one (published, then lost) nobody else can have
    // beyond what was durable here, so it ends where the file ends.
    let tail_damaged = tail == Tail::Torn;
    let tolerance = if tail_damaged { TAIL_TOLERANCE } else { 0 };
    let rest = facts.longest_elsewhere().saturating_sub(r.pos);
    if !own && !forced && rest > tolerance {
        return Err(No::Incomplete { log: r.log, rest });
    }
    if r.log.nr >= 999_999_999 {
        return Err(No::Numbers);
    }
    follow(v, res, &r, &known, tail_damaged, forced)
}

/// The position is the end of its log.
fn follow(
    v: &View<'_>,
    res: &ResName,
    r: &ReplayPos,
    known: &KnownLogs,
    tail_damaged: bool,
    forced: bool,
) -> Result<PrimaryPlan, PrimaryRefusal> {
    let me = v.me;
    let name = |nr, host: &HostName| LogName {
        nr,
        host: host.clone(),
    };
    let own_next = name(r.log.nr + 1, me);
    let own_facts = known.get(&own_next);
    let next = known.creators(own_next.nr);
    let foreign: Vec<_> = next.iter().filter(|h| **h != me).collect();

    if let Some(plan) = past_hole(v, res, r, known)? {
        return Ok(plan);
    }
    // Only an own log that never held anything may be appended to.
    let current = known.get(&r.log);
    if next.is_empty()
        && own_facts.local.is_none()
        && r.log.host == *me
        && r.pos == 0
        && current.longest() == 0
    {
        return Ok(open(r.log.clone(), current));
    }
    if next.contains(&me) {
        let has_data = own_facts.local.unwrap_or(0) > 0;
        if !has_data && own_facts.creator.unwrap_or(0) > 0 {
            return Err(PrimaryRefusal::Lost(own_next));
        }
        if !has_data && foreign.is_empty() {
            return Ok(open(own_next, own_facts));
        }
        // The own branch, also when others have another one: a split brain does not stop the application (I10).
        return match check_switch(v, res, r, &own_next, false, tail_damaged) {
            Ok(()) => Ok(PrimaryPlan::Switch {
                old: r.log.clone(),
                new: own_next,
            }),
            // Given up by force. A hole, so that nobody follows who has what is missing here.
            Err(_) if forced => {
                let highest = known.numbers().next_back().unwrap_or(own_next.nr);
                let (_, nr) = hole_after(highest).map_err(|_| PrimaryRefusal::Numbers)?;
                Ok(open(name(nr, me), KnownLog::default()))
            }
            Err(why) => Err(blocked(r, why)),
        };
    }
    let refusal = match foreign.as_slice() {
        [] => return Ok(open(own_next, own_facts)),
        [one] => {
            let new = name(own_next.nr, one);
            let facts = known.get(&new);
            // Forced, and nothing of it is here: it cannot be followed, only passed by.
            let unreachable = forced && facts.local.unwrap_or(0) == 0 && facts.longest() > 0;
            match check_switch(v, res, r, &new, false, tail_damaged) {
                Ok(()) if !unreachable => {
                    let old = r.log.clone();
                    return Ok(PrimaryPlan::Switch { old, new });
                }
                Ok(()) => SwitchBlock::NotFinished,
                Err(why) => why,
            }
        }
        _ => SwitchBlock::SplitBrain,
    };
    if forced {
        return Ok(open(own_next, own_facts));
    }
    Err(blocked(r, refusal))
}

/// Logging was interrupted (emergency): this disk is ahead of its logs, which go on behind a gap of numbers. The gap must never be
/// filled with a contiguous log: the others would follow it and miss what was not logged.
fn past_hole(
    v: &View<'_>,
    res: &ResName,
    r: &ReplayPos,
    known: &KnownLogs,
) -> Result<Option<PrimaryPlan>, PrimaryRefusal> {
    let me = v.me;
    if r.log.host != *me {
        return Ok(None);
    }
    let numbers = PrimaryRefusal::Numbers;
    let next = next_number(r.log.nr).map_err(|_| numbers.clone())?;
    let own: Vec<(u32, u64)> = v
        .snap
        .logs(res)
        .into_iter()
        .filter(|(l, _)| l.host == *me && l.nr >= next)
        .map(|(l, meta)| (l.nr, meta.size))
        .collect();
    // Own logs with content before the hole are applied first.
    let data = own.iter().filter(|o| o.1 > 0).map(|o| o.0).min();
    let marked = v
        .snap
        .versions(res)
        .into_iter()
        .filter(|(nr, owner, link)| {
            owner == me && *nr >= next && data.is_none_or(|d| *nr < d) && is_hole(*nr, link)
        })
        .map(|(nr, ..)| nr)
        .max();
    // Without its link the gap alone tells it.
    let has_next = known.creators(next).contains(&me) || own.iter().any(|o| o.0 == next);
    let gap = own.iter().map(|o| o.0 - 1).min().filter(|_| !has_next);
    let Some(hole) = marked.or(gap) else {
        return Ok(None);
    };
    let name = |nr| LogName {
        nr,
        host: me.clone(),
    };
    if let Some(nr) = data {
        let (old, new) = (r.log.clone(), name(nr));
        return Ok(Some(PrimaryPlan::Switch { old, new }));
    }
    let ready = own.iter().map(|o| o.0).filter(|nr| *nr > hole).max();
    let log = match ready {
        Some(nr) => name(nr),
        None => {
            let highest = known.numbers().next_back().unwrap_or(hole).max(hole);
            name(next_number(highest).map_err(|_| numbers)?)
        }
    };
    let facts = known.get(&log);
    Ok(Some(open(log, facts)))
}

/// The placeholder of an interruption; those of normal rotations name a real predecessor.
fn is_hole(nr: u32, link: &VersionLink) -> bool {
    let head = &link.head;
    let follows_nothing = link.pred.as_ref().is_none_or(|p| p.md5 == [0; 16]);
    head.log.nr == nr && head.md5 == [0; 16] && head.len == 0 && follows_nothing
}

fn open(log: LogName, facts: KnownLog) -> PrimaryPlan {
    PrimaryPlan::OpenOwn {
        log,
        existing_empty: facts.local == Some(0),
    }
}

fn blocked(r: &ReplayPos, why: SwitchBlock) -> PrimaryRefusal {
    PrimaryRefusal::Blocked {
        log: r.log.clone(),
        why,
    }
}
