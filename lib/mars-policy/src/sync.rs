//! Whether to sync, from where, and whose turn it is (symlink-tree.md section 6, transaction-log.md section 4).
use crate::View;
use crate::known::KnownLogs;
use mars_tree::{HostName, Key, ResName, TodoSwitch};
use std::collections::BTreeSet;

/// A sync to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SyncPlan {
    /// Source: the designated primary.
    pub source: HostName,
    /// Its address.
    pub ip: String,
    /// Synced so far, bytes (0 when the source changed since).
    pub from: u64,
    /// Resource size, bytes.
    pub size: u64,
}

/// Why no sync runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SyncHold {
    /// Not a member.
    #[error("not a member")]
    NotMember,
    /// Size reached.
    #[error("finished")]
    Finished,
    /// This host is primary.
    #[error("primary")]
    Primary,
    /// The sync switch is off.
    #[error("sync is paused")]
    Paused,
    /// Detached.
    #[error("detached")]
    Detached,
    /// `/mars` is too full (emergency level 3 or more).
    #[error("no space left for replication")]
    Emergency,
    /// Nobody is designated primary.
    #[error("no primary designated")]
    NoPrimary,
    /// The address of the primary is unknown.
    #[error("the address of the primary is unknown")]
    NoAddress,
    /// Nothing is known of the primary's replay position.
    #[error("the replay position of the primary is unknown")]
    PositionUnknown,
    /// Own replay position is ahead of the primary's.
    #[error("own replay position is ahead of the primary's")]
    Ahead,
    /// Two logs have the same number, or numbers are missing.
    #[error("the log files are not contiguous")]
    Discontiguous,
    /// `syncfrom-HOST` names another source.
    #[error("syncfrom names another host than the primary")]
    WrongSource,
    /// Too many syncs at once on this host.
    #[error("sync limit reached")]
    Limit,
}

/// A number gap above this keeps a sync away: an emergency hole (symlink-tree.md 5.5).
const GAP_MAX: u32 = 5;

/// Where a sync notes the host that it copies from (`resource-RES/userspace/sync-source-HOST`, value = host). Written by
/// `mars-sync` when it starts; when it names another host than the primary, [`SyncPlan::from`] is 0. (`syncfrom-HOST` is no
/// place for it: an engine that finds another host there refuses to sync at all.)
pub fn sync_source_key(res: &ResName, host: &HostName) -> Key {
    Key::ResUserspace(res.clone(), format!("sync-source-{host}"))
}

/// Where a logger notes how large its device is (`resource-RES/userspace/device-size-HOST`, bytes).
pub fn device_size_key(res: &ResName, host: &HostName) -> Key {
    Key::ResUserspace(res.clone(), format!("device-size-{host}"))
}

/// Decides about the sync (symlink-tree.md section 6, transaction-log.md section 4).
pub fn sync_plan(v: &View<'_>, res: &ResName) -> Result<SyncPlan, SyncHold> {
    plan_with(v, res, &SyncTurns::of(v))
}

pub(crate) fn plan_with(
    v: &View<'_>,
    res: &ResName,
    turns: &SyncTurns,
) -> Result<SyncPlan, SyncHold> {
    let plan = plan_unlimited(v, res)?;
    if turns.allows(res) {
        Ok(plan)
    } else {
        Err(SyncHold::Limit)
    }
}

fn plan_unlimited(v: &View<'_>, res: &ResName) -> Result<SyncPlan, SyncHold> {
    let me = v.me;
    let pos = v.snap.number(&Key::SyncStatus(res.clone(), me.clone()));
    let (Some(pos), Some(size), true) = (pos, v.size(res), v.has_disk(res, me)) else {
        return Err(SyncHold::NotMember);
    };
    if pos >= size {
        return Err(SyncHold::Finished);
    }
    if v.acts_as_primary(res, me) {
        return Err(SyncHold::Primary);
    }
    if !v.switch(res, me, TodoSwitch::Attach) {
        return Err(SyncHold::Detached);
    }
    if !v.switch(res, me, TodoSwitch::Sync) {
        return Err(SyncHold::Paused);
    }
    if v.emergency_level(me) >= 3 {
        return Err(SyncHold::Emergency);
    }
    let source = v.designated(res).ok_or(SyncHold::NoPrimary)?;
    let from = v.snap.text(&Key::SyncFrom(res.clone(), me.clone()));
    if from.is_some_and(|f| f != source.as_str()) {
        return Err(SyncHold::WrongSource);
    }
    let ip = v.ip(&source).ok_or(SyncHold::NoAddress)?;
    let own = v.snap.replay(res, me).ok_or(SyncHold::NotMember)?;
    let theirs = v
        .snap
        .replay(res, &source)
        .ok_or(SyncHold::PositionUnknown)?;
    // Blocks older than what replay already wrote would be copied over newer ones.
    if own.order() > theirs.order() {
        return Err(SyncHold::Ahead);
    }
    if discontiguous(v, res, own.log.nr) {
        return Err(SyncHold::Discontiguous);
    }
    let before = v.snap.text(&sync_source_key(res, me));
    let restart = before.is_some_and(|h| h != source.as_str());
    Ok(SyncPlan {
        source,
        ip,
        from: if restart { 0 } else { pos },
        size,
    })
}

fn discontiguous(v: &View<'_>, res: &ResName, from: u32) -> bool {
    let known = KnownLogs::of(v, res);
    if known.duplicate_from(from).is_some() {
        return true;
    }
    let mut last = from;
    for nr in known.numbers().filter(|n| *n >= from) {
        if nr - last > GAP_MAX {
            return true;
        }
        last = nr;
    }
    false
}

/// Which resources may sync on this host when `defaults-HOST/sync-limit` is set. Running syncs keep their place, then the order of
/// `sync-pref-list`, then names: so everybody who looks at the same tree comes to the same answer.
pub(crate) struct SyncTurns(Option<BTreeSet<ResName>>);

impl SyncTurns {
    pub fn of(v: &View<'_>) -> SyncTurns {
        let default = |name: &str| Key::HostDefault(v.me.clone(), name.to_string());
        let limit = v.snap.number(&default("sync-limit")).unwrap_or(0);
        if limit == 0 {
            return SyncTurns(None);
        }
        let preferred: Vec<&str> = v
            .snap
            .text(&default("sync-pref-list"))
            .map(|l| l.split(',').map(str::trim).collect())
            .unwrap_or_default();
        let mut waiting: Vec<(bool, usize, ResName)> = v
            .snap
            .resources()
            .into_iter()
            .filter(|res| plan_unlimited(v, res).is_ok())
            .map(|res| {
                let place = preferred.iter().position(|p| *p == res.as_str());
                let running = v.actual_on(&res, v.me, "is-syncing");
                (!running, place.unwrap_or(usize::MAX), res)
            })
            .collect();
        // Stable: equal ones stay in the digit-aware order of `resources`.
        waiting.sort_by_key(|(idle, place, _)| (*idle, *place));
        let n = usize::try_from(limit).unwrap_or(usize::MAX);
        SyncTurns(Some(
            waiting.into_iter().take(n).map(|(_, _, res)| res).collect(),
        ))
    }

    fn allows(&self, res: &ResName) -> bool {
        self.0.as_ref().is_none_or(|set| set.contains(res))
    }
}
