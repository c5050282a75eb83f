//! Which logs and version links belong to no live history any more (symlink-tree.md 5.4, `log-purge-all`).
use mars_policy::View;
use mars_tree::{Batch, HostName, Key, LogName, ResName};
use std::collections::BTreeSet;
use std::time::Duration;

/// What to purge.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PurgeScope {
    /// Also entries that carry other hosts' names.
    pub foreign: bool,
    /// Younger entries stay.
    pub min_age: Duration,
}

/// Logs that can be reached from a live `replay-*` link: backwards over that host's own chain, forwards over any version link that
/// names the log as its predecessor.
pub fn reachable(v: &View<'_>, res: &ResName) -> BTreeSet<LogName> {
    let versions = v.snap.versions(res);
    let mut reached = BTreeSet::new();
    for host in v.snap.members(res) {
        let Some(start) = v.snap.replay(res, &host) else {
            continue;
        };
        let mut nr = start.log.nr;
        reached.insert(start.log);
        while let Some(link) = v.snap.version(res, nr, &host) {
            reached.insert(link.head.log);
            reached.extend(link.pred.map(|p| p.log));
            match nr.checked_sub(1) {
                Some(n) => nr = n,
                None => break,
            }
        }
    }
    let mut numbers: Vec<LogName> = v.snap.logs(res).into_iter().map(|(l, _)| l).collect();
    numbers.extend(versions.iter().map(|(_, _, l)| l.head.log.clone()));
    numbers.sort();
    for log in numbers {
        let before = log.nr.checked_sub(1);
        let follows = versions.iter().any(|(_, _, l)| {
            l.head.log == log && l.pred.as_ref().is_some_and(|p| reached.contains(&p.log))
        });
        // A log that its creator has only just begun has no version link yet.
        let continues = before.is_some_and(|nr| {
            reached.contains(&LogName {
                nr,
                host: log.host.clone(),
            })
        });
        if follows || continues {
            reached.insert(log);
        }
    }
    reached
}

/// Tombstones for everything that is not reachable.
pub fn purge(v: &View<'_>, res: &ResName, scope: PurgeScope) -> Batch {
    let reached = reachable(v, res);
    let mut batch = Batch::new();
    let ours = |h: &HostName| scope.foreign || h == v.me;
    for (log, meta) in v.snap.logs(res) {
        if ours(&log.host) && !reached.contains(&log) && v.now.since(meta.mtime) >= scope.min_age {
            batch.delete(Key::Log(res.clone(), log));
        }
    }
    for (nr, owner, link) in v.snap.versions(res) {
        let key = Key::Version(res.clone(), nr, owner.clone());
        let old = v
            .snap
            .stamp(&key)
            .is_some_and(|s| v.now.since(s) >= scope.min_age);
        if ours(&owner) && !reached.contains(&link.head.log) && old {
            batch.delete(key);
        }
    }
    batch
}
