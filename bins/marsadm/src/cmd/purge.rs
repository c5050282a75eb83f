//! log-purge-all, err-purge-all, link-purge-all (marsadm-commands.md section 4, symlink-tree.md 5.4, 3.4): what belongs to no live history
//! any more, and what everybody has forgotten.
use super::{Command, anybody, each, rubbish};
use crate::cmd::logs::min_age;
use crate::ctx::{Ctx, peer_time};
use crate::error::{Done, refuse};
use crate::out;
use crate::plan::names;
use mars_policy::View;
use mars_tree::{Batch, HostName, Key, LogName, ResName, Snapshot, Stamp};
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

/// How often the tree may change under `log-purge-all` before it gives up.
const RACES_MAX: u32 = 3;

/// The commands of this file.
pub const COMMANDS: &[Command] = &[
    each(
        "log-purge-all",
        "",
        0,
        0,
        log_purge_all,
        "Remove logs of histories that nobody has any more",
    ),
    anybody(each(
        "err-purge-all",
        "",
        0,
        0,
        err_purge_all,
        "Forget error messages of this host",
    )),
    anybody(each(
        "link-purge-all",
        "",
        0,
        0,
        link_purge_all,
        "Forget deleted links that everybody knows of, old backups and left-over files",
    )),
];

/// Referenced by a live history, but not among the local files. Numbers without content (holes, the start of a resource) are no logs.
pub fn missing(v: &View<'_>, res: &ResName) -> Vec<LogName> {
    let hollow: BTreeSet<LogName> = v
        .snap
        .versions(res)
        .into_iter()
        .filter(|(_, _, l)| l.head.len == 0)
        .map(|(_, _, l)| l.head.log)
        .collect();
    let here: BTreeSet<LogName> = v.snap.logs(res).into_iter().map(|(l, _)| l).collect();
    reachable(v, res)
        .into_iter()
        .filter(|l| l.nr > 0 && !here.contains(l) && !hollow.contains(l))
        .collect()
}

/// A batch that two looks in a row agree on, so that it fits what is there now. `look` computes it from the tree.
pub fn unraced(mut look: impl FnMut() -> Done<Batch>) -> Done<Option<Batch>> {
    let mut last = look()?;
    for _ in 0..RACES_MAX {
        let next = look()?;
        if next.describe() == last.describe() {
            return Ok(Some(next));
        }
        last = next;
    }
    Ok(None)
}

/// `log-purge-all RES`
fn log_purge_all(ctx: &Ctx, res: &ResName, _: &[String]) -> Done {
    let scope = PurgeScope {
        foreign: ctx.opts.force,
        min_age: min_age(&ctx.opts),
    };
    let look = || {
        let snap = ctx.snapshot()?;
        Ok(purge(&ctx.view(&snap), res, scope))
    };
    let Some(batch) = unraced(look)? else {
        return refuse(format!(
            "resource {res}: logs come and go all the time, nothing purged; run marsadm log-purge-all {res} again in a quieter moment"
        ));
    };
    ctx.commit(&batch)?;
    if !batch.is_empty() {
        out::say(format!(
            "{res}: purging {} entries of no live history",
            batch.describe().len()
        ));
    }
    let snap = ctx.snapshot()?;
    let missing = missing(&ctx.view(&snap), res);
    if !missing.is_empty() {
        out::say(format!(
            "{res}: referenced, but not here: {}",
            names(missing)
        ));
    }
    Ok(())
}

/// `err-purge-all`, as links: the error messages of one host, about itself and about the resource.
pub fn err_batch(snap: &Snapshot, res: &ResName, me: &HostName) -> Batch {
    let mut batch = Batch::new();
    for prefix in [
        format!("actual-{me}/msg-err-"),
        format!("resource-{res}/actual-{me}/msg-err-"),
    ] {
        for (path, _) in snap.live_below(&prefix) {
            batch.delete(Key::parse(path));
        }
    }
    batch
}

/// `err-purge-all RES`
fn err_purge_all(ctx: &Ctx, res: &ResName, _: &[String]) -> Done {
    let snap = ctx.snapshot()?;
    let batch = err_batch(&snap, res, &ctx.me);
    ctx.commit(&batch)?;
    if !batch.is_empty() {
        ctx.result(format!(
            "{res}: {} error messages of {} forgotten",
            batch.describe().len(),
            ctx.me
        ));
    }
    Ok(())
}

/// Until when everybody has heard of a deletion: the oldest last contact with a peer, or `keep` ago for peers that are silent for
/// longer, less the window. With `force` nobody is asked.
fn known_until(v: &View<'_>, peers: &[HostName], keep: Duration, force: bool) -> Stamp {
    if force {
        return v.now;
    }
    let ago = |d: Duration| {
        let nanos = u64::try_from(d.as_nanos()).unwrap_or(u64::MAX);
        Stamp::from_nanos(v.now.as_nanos().saturating_sub(nanos))
    };
    let heard = peers
        .iter()
        .filter(|h| *h != v.local)
        .map(|h| peer_time(v.snap, h).unwrap_or(Stamp::ZERO))
        .min()
        .unwrap_or(v.now)
        .min(v.now);
    let window = u64::try_from(v.window.as_nanos()).unwrap_or(u64::MAX);
    let limit = heard.max(ago(keep)).as_nanos();
    Stamp::from_nanos(limit.saturating_sub(window))
}

/// `link-purge-all`: tombstones below the resource, and global ones, that may be forgotten. Peers of a resource are the hosts with a
/// device there; global tombstones concern all members of the cluster as well.
pub fn forgettable(v: &View<'_>, res: &ResName, keep: Duration, force: bool) -> Vec<Key> {
    let devices = |res: &ResName| {
        let found = v.snap.live_below(&format!("resource-{res}/device-"));
        let hosts = found.filter_map(|(p, _)| Key::parse(p).owner().cloned());
        hosts.collect::<BTreeSet<HostName>>()
    };
    let mut all: BTreeSet<HostName> = v.snap.hosts().into_iter().collect();
    all.extend(v.snap.resources().iter().flat_map(devices));
    // Here every host keeps every link, so a tombstone of a resource is known when all hosts of the cluster know it.
    let limit = known_until(v, &all.into_iter().collect::<Vec<_>>(), keep, force);
    let prefix = format!("resource-{res}/");
    v.snap
        .links
        .iter()
        .filter(|(p, _)| p.starts_with(&prefix) || !p.starts_with("resource-"))
        .filter(|(_, l)| l.value.is_deleted() && l.stamp < limit)
        .map(|(p, _)| Key::parse(p))
        .collect()
}

/// `link-purge-all RES`
fn link_purge_all(ctx: &Ctx, res: &ResName, _: &[String]) -> Done {
    let snap = ctx.snapshot()?;
    let keep = ctx.opts.keep_backup;
    let keys = forgettable(&ctx.view(&snap), res, keep, ctx.opts.force);
    let links = keys.len();
    for key in keys {
        match ctx.opts.dry_run {
            true => out::say(format!("would forget the tombstone {}", key.path())),
            false => ctx.tree.unlink_plain(&key)?,
        }
    }
    let now = ctx.tree.clock().now();
    let mut files = 0;
    for path in rubbish::find(ctx.tree.root(), now, keep) {
        files += 1;
        match ctx.opts.dry_run {
            true => out::say(format!("would remove {}", path.display())),
            false => rubbish::remove(&path)?,
        }
    }
    if links + files > 0 {
        ctx.result(format!(
            "{res}: {links} deleted links and {files} left-over files or backups forgotten"
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    /// What successive looks find.
    fn looks(found: &[&str]) -> (Option<Batch>, usize) {
        let mut n = 0;
        let look = || {
            let mut b = Batch::new();
            b.delete(Key::parse(found[n.min(found.len() - 1)]));
            n += 1;
            Ok(b)
        };
        let result = unraced(look).unwrap();
        (result, n)
    }

    #[test]
    fn purge_needs_two_looks_that_agree_and_gives_up_after_three_races() {
        let done = |found: &[&str]| {
            let (batch, n) = looks(found);
            (batch.map(|b| b.describe()), n)
        };
        let lines = |l: &str| Some(vec![format!("delete {l}")]);
        assert_eq!(done(&["a"]), (lines("a"), 2));
        assert_eq!(done(&["a", "b", "b"]), (lines("b"), 3));
        assert_eq!(done(&["a", "b", "c", "c"]), (lines("c"), 4));
        assert_eq!(done(&["a", "b", "c", "d", "d"]), (None, 4));
        assert!(unraced(|| refuse("no")).is_err());
    }
}
