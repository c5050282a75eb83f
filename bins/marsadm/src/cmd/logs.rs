//! log-rotate, log-delete, log-delete-all, cron (marsadm-commands.md section 5).
use crate::cli::Options;
use crate::cmd::autoclean::remains;
use crate::cmd::rubbish;
use crate::ctx::{Ctx, peer_time, until};
use crate::error::Done;
use crate::out;
use crate::plan::{Plan, names};
use mars_policy::{RotateHold, View, deletable_logs, deletable_versions, rotate_plan};
use mars_tree::{Key, LogName, ResName, Snapshot, Stamp};
use std::time::Duration;

/// Entries younger than this are not deleted (two windows).
pub fn min_age(opts: &Options) -> Duration {
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
    let planned = match rotate_plan(v, res, files, bytes) {
        Err(hold @ (RotateHold::NotPrimary | RotateHold::NoVersion)) if opts.force => {
            plan.warn.push(format!(
                "{res}: {hold}; a log is created all the same, which may split the history (--force)"
            ));
            Ok(next_log(v, res))
        }
        other => other,
    };
    match planned {
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

/// Behind everything that is known.
fn next_log(v: &View<'_>, res: &ResName) -> LogName {
    let logs = v.snap.logs(res).into_iter().map(|(l, _)| l.nr);
    let versions = v.snap.versions(res).into_iter().map(|(nr, ..)| nr);
    let newest = logs.chain(versions).max().unwrap_or(0);
    LogName {
        nr: newest.saturating_add(1),
        host: v.me.clone(),
    }
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

/// Tombstones that everybody has seen, or that are older than `keep`, normally a week (symlink-tree.md 3.4).
pub fn old_tombstones(snap: &Snapshot, now: Stamp, keep: Duration) -> Vec<Key> {
    let nanos = u64::try_from(keep.as_nanos()).unwrap_or(u64::MAX);
    let kept_since = Stamp::from_nanos(now.as_nanos().saturating_sub(nanos));
    let heard = snap
        .hosts()
        .iter()
        .map(|h| peer_time(snap, h).unwrap_or(Stamp::ZERO))
        .min()
        .unwrap_or(now)
        .min(now);
    let limit = heard.max(kept_since);
    snap.links
        .iter()
        .filter(|(_, l)| l.value.is_deleted() && l.stamp.plus(Duration::from_secs(60)) < limit)
        .map(|(path, _)| Key::parse(path))
        .collect()
}

/// Between rotating and deleting, the logger gets so long to go on in the new log.
const ROTATION_LIMIT: Duration = Duration::from_secs(5);

/// `cron`: rotate, delete what nobody needs, forget tombstones that everybody knows, old backups and left-over files. One failure does
/// not stop the rest.
pub fn cron(ctx: &Ctx, resources: &[ResName]) -> Done {
    let mut failed = None;
    let mut note = |result: Done| {
        if let Err(e) = result
            && let Some(earlier) = failed.replace(e)
        {
            out::die(earlier.to_string());
        }
    };
    let mut rotated = Vec::new();
    for res in resources {
        note(step(ctx, res, rotate).map(|changed| {
            if changed {
                rotated.push(res);
            }
        }));
    }
    if ctx.engine_running() && !ctx.opts.dry_run {
        rotated.into_iter().for_each(|res| in_use(ctx, res));
    }
    for res in resources {
        let deleted = step(ctx, res, |v, res, opts| delete(v, res, opts, false));
        note(deleted.map(drop));
    }
    if let Some(days) = ctx.opts.autoclean_days {
        note(autoclean(ctx, days));
    }
    note(forget(ctx));
    failed.map_or(Ok(()), Err)
}

/// One step for one resource; was there anything to do?
fn step(
    ctx: &Ctx,
    res: &ResName,
    plan: fn(&View<'_>, &ResName, &Options) -> Done<Plan>,
) -> Done<bool> {
    let snap = ctx.counted()?;
    let plan = plan(&ctx.view(&snap), res, &ctx.opts)?;
    ctx.commit(&plan.batch)?;
    plan.say.iter().for_each(out::say);
    plan.warn.iter().for_each(out::warn);
    Ok(!plan.batch.is_empty())
}

/// Waits a moment until the newest log is the one that is written: then the one before can go now, not only next time.
fn in_use(ctx: &Ctx, res: &ResName) {
    let what = format!("the new log of {res} is in use");
    let limit = ctx.opts.limit(ROTATION_LIMIT.as_secs());
    let limit = limit.map_or(ROTATION_LIMIT, |l| l.min(ROTATION_LIMIT));
    let newest = |v: &View<'_>| v.snap.logs(res).last().map(|(log, _)| log.nr);
    let written = |v: &View<'_>| v.snap.replay(res, v.me).map(|r| r.log.nr);
    // Otherwise the next run deletes it.
    let _ = ctx.wait_full(Some(res), &what, Some(limit), None, |v| {
        until(newest(v) == written(v), || "not yet".into())
    });
}

/// `--autoclean`
fn autoclean(ctx: &Ctx, days: u32) -> Done {
    let age = Duration::from_secs(u64::from(days) * 24 * 3600);
    let snap = ctx.snapshot()?;
    let batch = remains(&ctx.view(&snap), age, ctx.opts.force);
    ctx.commit(&batch)?;
    if !batch.is_empty() {
        out::say(format!(
            "{} links of hosts and resources deleted that have been gone for {days} days",
            batch.describe().len()
        ));
    }
    Ok(())
}

/// Tombstones, backups and left-over files whose time is over.
fn forget(ctx: &Ctx) -> Done {
    let now = ctx.tree.clock().now();
    let snap = ctx.snapshot()?;
    for key in old_tombstones(&snap, now, ctx.opts.keep_backup) {
        if ctx.opts.dry_run {
            out::say(format!("would forget the tombstone {}", key.path()));
        } else {
            ctx.tree.unlink_plain(&key)?;
        }
    }
    for path in rubbish::find(ctx.tree.root(), now, ctx.opts.keep_backup) {
        if ctx.opts.dry_run {
            out::say(format!("would remove {}", path.display()));
        } else {
            rubbish::remove(&path)?;
        }
    }
    Ok(())
}
