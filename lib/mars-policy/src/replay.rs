//! What to replay (symlink-tree.md 4.4, transaction-log.md 3.8, 3.9, 4.1).
use crate::View;
use crate::known::KnownLogs;
use mars_log::{SwitchBlock, SwitchInput, may_switch};
use mars_tree::{HostName, LogName, ReplayPos, ResName, TodoSwitch};

/// A torn record may leave this many bytes at the end of a log that still counts as replayed (transaction-log.md 2.6).
pub(crate) const TAIL_TOLERANCE: u64 = 4180;

/// What replay may do now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ReplayPlan {
    /// Apply this log from `pos` up to `limit` (`None`: as far as it is durable locally).
    Apply {
        /// Log of the own replay link.
        log: LogName,
        /// Position.
        pos: u64,
        /// Must not be passed. Set while a sync is unfinished (the primary's replay position), and where histories part inside this log.
        limit: Option<u64>,
    },
    /// The log is finished: go on to this one (write replay link `NEW,0,0` and the version link with length 0).
    Switch {
        /// Finished log.
        old: LogName,
        /// Next log.
        new: LogName,
    },
}

/// Why replay must wait.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ReplayHold {
    /// Not a member, or the replay link is missing or damaged.
    #[error("not a member")]
    NotMember,
    /// This host is primary.
    #[error("primary")]
    Primary,
    /// allow-replay is off.
    #[error("replay is paused")]
    Paused,
    /// Detached.
    #[error("detached")]
    Detached,
    /// A sync is unfinished and the primary's position is unknown or reached.
    #[error("waiting for the sync")]
    Sync,
    /// At the end of what is known.
    #[error("everything known is replayed")]
    AtEnd,
    /// The next log may not be entered.
    #[error("cannot switch to the next log: {0}")]
    Blocked(SwitchBlock),
}

/// Decides what to replay (symlink-tree.md 4.4, transaction-log.md 4.1). `tail_damaged`: the caller found a torn tail at `pos`;
/// then the answer is never `Apply`. `AtEnd` is returned when the position equals the log's final or currently known length
/// and no next log exists. An own log (left over from a time as primary) ends where its file ends, whatever was published: apply
/// it to there, publish that length, and treat a cut record there as a torn tail. In foreign logs the local file may still grow beyond what the tree knows, so watch it as well as the tree.
pub fn replay_plan(
    v: &View<'_>,
    res: &ResName,
    tail_damaged: bool,
) -> Result<ReplayPlan, ReplayHold> {
    let me = v.me;
    if !v.has_disk(res, me) {
        return Err(ReplayHold::NotMember);
    }
    let r = v.snap.replay(res, me).ok_or(ReplayHold::NotMember)?;
    if v.acts_as_primary(res, me) {
        return Err(ReplayHold::Primary);
    }
    if !v.switch(res, me, TodoSwitch::Attach) {
        return Err(ReplayHold::Detached);
    }
    if !v.switch(res, me, TodoSwitch::AllowReplay) {
        return Err(ReplayHold::Paused);
    }
    let known = KnownLogs::of(v, res);
    // Inside a log whose number two hosts used, the split is already behind (I8).
    if known.creators(r.log.nr).len() > 1 {
        return Err(ReplayHold::Blocked(SwitchBlock::SplitBrain));
    }
    if let Some(new) = known.instead_of(&r.log) {
        return pass_by(v, res, &r, new);
    }
    let limit = sync_limit(v, res, &r)?;
    let facts = known.get(&r.log);
    let next = known.creators(r.log.nr.saturating_add(1));
    // Who was forced without the rest of this log has left it there. What its creator has more is another branch (I8), unless it leads.
    let parting = facts.shortest_by_successor.filter(|len| {
        Some(*len) < facts.creator && r.log.host != *me && !v.is_designated(res, &r.log.host)
    });
    let end = match next.as_slice() {
        // After a crash an own log may hold more than this host had published before. All of it is own history: only with
        // its true end in the version link can the others (and rule 9) see whether history has split (I8).
        _ if r.log.host == *me => facts.local.unwrap_or(0),
        [] => facts.longest(),
        _ => parting.unwrap_or_else(|| facts.final_len()),
    };
    if limit.is_some_and(|l| r.pos >= l) {
        return Err(ReplayHold::Sync);
    }
    if r.pos < end && !tail_damaged {
        let (log, pos) = (r.log, r.pos);
        let limit = limit.into_iter().chain(parting).min();
        return Ok(ReplayPlan::Apply { log, pos, limit });
    }
    let Some(creator) = next.first() else {
        return Err(ReplayHold::AtEnd);
    };
    if limit.is_some() {
        // The primary is still in this log: whatever follows lies behind its position.
        return Err(ReplayHold::Sync);
    }
    let new = LogName {
        nr: r.log.nr.saturating_add(1),
        host: (*creator).clone(),
    };
    check_switch(v, res, &r, &new, next.len() > 1, tail_damaged).map_err(ReplayHold::Blocked)?;
    // Into an empty log only when its writer is alive: it may still turn out that history went on elsewhere.
    let primary_dead = v
        .designated(res)
        .is_some_and(|p| p != *me && !v.is_alive(&p));
    if primary_dead && known.get(&new).longest() == 0 {
        return Err(ReplayHold::AtEnd);
    }
    Ok(ReplayPlan::Switch { old: r.log, new })
}

/// The own position is the beginning of a log that holds nothing, while another one of the same number is history. That position is
/// the end of the log before it, and from there the other one may be entered like any next log.
fn pass_by(
    v: &View<'_>,
    res: &ResName,
    r: &ReplayPos,
    host: &HostName,
) -> Result<ReplayPlan, ReplayHold> {
    let split = ReplayHold::Blocked(SwitchBlock::SplitBrain);
    let nr = r.log.nr;
    let before = nr.checked_sub(1).and_then(|n| v.snap.version(res, n, v.me));
    let (0, 0, Some(before)) = (r.pos, r.dirty, before) else {
        return Err(split);
    };
    // The own link of the empty log says what it follows; it is absent when the crash came before it was written.
    let own = v.snap.version(res, nr, v.me);
    if own.is_some_and(|l| l.head.log == r.log && l.pred.as_ref() != Some(&before.head)) {
        return Err(split);
    }
    let at_end = ReplayPos {
        log: before.head.log.clone(),
        pos: before.head.len,
        dirty: 0,
    };
    let new = LogName {
        nr,
        host: host.clone(),
    };
    check_switch(v, res, &at_end, &new, false, false).map_err(ReplayHold::Blocked)?;
    let old = at_end.log;
    Ok(ReplayPlan::Switch { old, new })
}

/// While the own sync is unfinished replay must not pass the primary's replay position (transaction-log.md 4.1 rule 2).
fn sync_limit(v: &View<'_>, res: &ResName, r: &ReplayPos) -> Result<Option<u64>, ReplayHold> {
    if v.sync_done(res, v.me) {
        return Ok(None);
    }
    let theirs = v
        .designated(res)
        .and_then(|p| v.snap.replay(res, &p))
        .ok_or(ReplayHold::Sync)?;
    match r.log.nr.cmp(&theirs.log.nr) {
        std::cmp::Ordering::Less => Ok(None),
        std::cmp::Ordering::Greater => Err(ReplayHold::Sync),
        std::cmp::Ordering::Equal if r.log.host != theirs.log.host => {
            Err(ReplayHold::Blocked(SwitchBlock::SplitBrain))
        }
        std::cmp::Ordering::Equal => Ok(Some(theirs.pos)),
    }
}

/// The rules of symlink-tree.md 4.4 with the links of this snapshot.
pub(crate) fn check_switch(
    v: &View<'_>,
    res: &ResName,
    replay: &ReplayPos,
    new: &LogName,
    duplicate: bool,
    tail_damaged: bool,
) -> Result<(), SwitchBlock> {
    let old = &replay.log;
    let link = |nr, host: &HostName| v.snap.version(res, nr, host);
    let own_old = link(old.nr, v.me);
    let creator_old = link(old.nr, &old.host);
    let creator_new = link(new.nr, &new.host);
    let designated = v.is_designated(res, v.me);
    may_switch(&SwitchInput {
        me: v.me,
        designated,
        forced: designated && !v.switch(res, v.me, TodoSwitch::Connect),
        tail_damaged,
        old,
        new,
        duplicate,
        // While it leads, or goes on itself, its own word is worth waiting for.
        creator_may_lag: !v.is_designated(res, &old.host),
        own_old: own_old.as_ref(),
        creator_old: creator_old.as_ref(),
        creator_new: creator_new.as_ref(),
        replay: Some(replay),
    })
}
