//! log-rotate, log-delete, log-delete-all, log-purge-all, cron (marsadm-commands.md section 5).
use crate::cli::Options;
use crate::cmd::purge::{PurgeScope, purge};
use crate::ctx::{Ctx, peer_time};
use crate::error::Done;
use crate::out;
use crate::plan::{Plan, names};
use mars_policy::{RotateHold, View, deletable_logs, deletable_versions, rotate_plan};
use mars_tree::{Key, ResName, Snapshot, Stamp};
use std::time::Duration;

/// Tombstones are kept at most this long for hosts that do not answer (`--keep-backup-hours` of the original).
const TOMBSTONE_KEEP: Duration = Duration::from_secs(168 * 3600);

/// Entries younger than this are not deleted (two windows).
fn min_age(opts: &Options) -> Duration {
    if opts.force {
        Duration::ZERO
    } else {
        opts.window * 2
    }
}

/// `log-rotate`: the engine sees the empty file and continues there.
pub fn rotate(v: &View<'_>, res: &ResName, opts: &Options) -> Done<Plan> {
    let mut plan = Plan::default();
    let (files, bytes) = if opts.force {
        (usize::MAX, 0)
    } else {
        // Without an option the configuration counts, see `context`.
        let files = opts.thresh_logfiles.unwrap_or(10);
        (files, opts.thresh_logsize.unwrap_or(5_000_000_000))
    };
    match rotate_plan(v, res, files, bytes) {
        Ok(log) => {
            let known = v.snap.number(&Key::MaxNr(res.clone())).unwrap_or(0);
            plan.say.push(format!("{res}: new log {log}"));
            plan.batch.create_log(Key::Log(res.clone(), log.clone()));
            if u64::from(log.nr) > known {
                plan.batch.set(Key::MaxNr(res.clone()), log.nr);
            }
        }
        Err(RotateHold::Numbers) => {
            return crate::error::refuse(format!(
                "resource {res}: log numbers are used up; create the data under another resource name"
            ));
        }
        // "No action at secondaries" and the like: success without a change.
        Err(hold) => {
            if opts.verbose > 0 {
                plan.say.push(format!("{res}: no rotation: {hold}"));
            }
        }
    }
    Ok(plan)
}

/// `log-delete`, `log-delete-all`; `one`: only the lowest.
pub fn delete(v: &View<'_>, res: &ResName, opts: &Options, one: bool) -> Done<Plan> {
    let mut plan = Plan::default();
    let mut logs = deletable_logs(v, res, min_age(opts));
    if one {
        logs.truncate(1);
    }
    if !logs.is_empty() {
        plan.say.push(format!("{res}: deleting {}", names(&logs)));
    }
    for log in logs {
        plan.batch.delete(Key::Log(res.clone(), log));
    }
    if !one {
        for (nr, owner) in deletable_versions(v, res, min_age(opts)) {
            plan.batch.delete(Key::Version(res.clone(), nr, owner));
        }
    }
    Ok(plan)
}

/// `log-purge-all`
pub fn purge_all(v: &View<'_>, res: &ResName, opts: &Options) -> Done<Plan> {
    let scope = PurgeScope {
        foreign: opts.force,
        min_age: min_age(opts),
    };
    let mut plan = Plan {
        batch: purge(v, res, scope),
        ..Plan::default()
    };
    if !plan.batch.is_empty() {
        plan.say.push(format!(
            "{res}: purging {} entries of no live history",
            plan.batch.describe().len()
        ));
    }
    Ok(plan)
}

/// Tombstones that everybody has seen, or that are a week old (symlink-tree.md 3.4).
pub fn old_tombstones(snap: &Snapshot, now: Stamp) -> Vec<Key> {
    let week_ago = Stamp::from_nanos(
        now.as_nanos()
            .saturating_sub(u64::try_from(TOMBSTONE_KEEP.as_nanos()).unwrap_or(u64::MAX)),
    );
    let heard = snap
        .hosts()
        .iter()
        .map(|h| peer_time(snap, h).unwrap_or(Stamp::ZERO))
        .min()
        .unwrap_or(now)
        .min(now);
    let limit = heard.max(week_ago);
    snap.links
        .iter()
        .filter(|(_, l)| l.value.is_deleted() && l.stamp.plus(Duration::from_secs(60)) < limit)
        .map(|(path, _)| Key::parse(path))
        .collect()
}

/// `cron`: rotate, delete what nobody needs, forget tombstones that everybody knows. The original pauses between rotating and
/// deleting; here the next run deletes what this one's rotation makes superfluous.
pub fn cron(ctx: &Ctx, resources: &[ResName]) -> Done {
    type Step = fn(&View<'_>, &ResName, &Options) -> Done<Plan>;
    let steps: [Step; 2] = [rotate, |v, res, opts| delete(v, res, opts, false)];
    let mut failed = None;
    for step in steps {
        for res in resources {
            let snap = ctx.snapshot()?;
            let result = step(&ctx.view(&snap), res, &ctx.opts).and_then(|plan| {
                ctx.commit(&plan.batch)?;
                plan.say.iter().for_each(out::say);
                Ok(())
            });
            if let Err(e) = result {
                failed = Some(e);
            }
        }
    }
    let snap = ctx.snapshot()?;
    for key in old_tombstones(&snap, ctx.tree.clock().now()) {
        if ctx.opts.dry_run {
            out::say(format!("would forget the tombstone {}", key.path()));
        } else {
            ctx.tree.unlink_plain(&key)?;
        }
    }
    failed.map_or(Ok(()), Err)
}
