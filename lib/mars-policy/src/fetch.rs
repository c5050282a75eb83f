//! What to fetch (symlink-tree.md 5.3).
use crate::View;
use crate::known::KnownLogs;
use mars_tree::{HostName, Key, LogName, ResName, TodoSwitch};

/// The next piece of log to fetch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FetchPlan {
    /// Lowest log that is needed and not known to be complete locally.
    pub log: LogName,
    /// Local bytes of it (file size in the snapshot).
    pub have: u64,
    /// Sources with their IP text, best first: `connect-HOST` preferences, the log's creator, the designated primary, other members. Never `me`.
    pub sources: Vec<(HostName, String)>,
}

/// Why nothing is to be fetched.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum FetchHold {
    /// Not a member, or no replay link.
    #[error("not a member")]
    NotMember,
    /// This host is primary.
    #[error("primary")]
    Primary,
    /// The connect switch is off.
    #[error("fetch is paused")]
    Paused,
    /// Detached.
    #[error("detached")]
    Detached,
    /// `/mars` is too full (emergency level 3 or more).
    #[error("no space for log files")]
    Emergency,
    /// Everything known is here; wait for the tree to change.
    #[error("everything known is fetched")]
    NothingKnown,
    /// The next number exists with two creators.
    #[error("split brain: two logs with the same number")]
    SplitBrain,
}

/// Decides what to fetch (symlink-tree.md 5.3). The newest log is planned for ever, so that the client follows it while it
/// grows; a log counts as complete only when its successor is known and the local file has the final length.
pub fn fetch_plan(v: &View<'_>, res: &ResName) -> Result<FetchPlan, FetchHold> {
    let me = v.me;
    if !v.has_disk(res, me)
        || v.snap
            .get(&Key::SyncStatus(res.clone(), me.clone()))
            .is_none()
        || v.snap.get(&Key::Primary(res.clone())).is_none()
    {
        return Err(FetchHold::NotMember);
    }
    let replay = v.snap.replay(res, me).ok_or(FetchHold::NotMember)?;
    if v.acts_as_primary(res, me) {
        return Err(FetchHold::Primary);
    }
    if !v.switch(res, me, TodoSwitch::Attach) {
        return Err(FetchHold::Detached);
    }
    if !v.switch(res, me, TodoSwitch::Connect) {
        return Err(FetchHold::Paused);
    }
    if v.emergency_level(me) >= 3 {
        return Err(FetchHold::Emergency);
    }
    let known = KnownLogs::of(v, res);
    let mut nr = replay.log.nr;
    loop {
        let creator = match known.creators(nr).as_slice() {
            // Nobody tells of it yet: only the own replay link names it.
            [] if nr == replay.log.nr => replay.log.host.clone(),
            [] => return Err(FetchHold::NothingKnown),
            [one] => (*one).clone(),
            _ => return Err(FetchHold::SplitBrain),
        };
        let log = LogName { nr, host: creator };
        let facts = known.get(&log);
        let have = facts.local.unwrap_or(0);
        let complete = known.exists(nr.saturating_add(1)) && have >= facts.final_len();
        // Own logs are never fetched: what this host wrote it has, or nobody has it.
        if log.host != *me && !complete {
            let sources = sources(v, res, &log);
            return Ok(FetchPlan { log, have, sources });
        }
        nr = nr.checked_add(1).ok_or(FetchHold::NothingKnown)?;
    }
}

fn sources(v: &View<'_>, res: &ResName, log: &LogName) -> Vec<(HostName, String)> {
    let mut hosts: Vec<HostName> = Vec::new();
    if let Some(list) = v.snap.text(&Key::ConnectPref(res.clone(), v.me.clone())) {
        hosts.extend(list.split(',').filter_map(|h| h.trim().parse().ok()));
    }
    hosts.push(log.host.clone());
    hosts.extend(v.designated(res));
    hosts.extend(v.snap.members(res));
    let mut out: Vec<(HostName, String)> = Vec::new();
    for h in hosts {
        if h == *v.me || out.iter().any(|(o, _)| *o == h) {
            continue;
        }
        if let Some(ip) = v.ip(&h) {
            out.push((h, ip));
        }
    }
    out
}
