//! `invalidate`, `fake-sync` and `set-replay` (marsadm-commands.md section 6).
use crate::cmd::positions::{primary_number, start_from};
use crate::cmd::purge::{PurgeScope, purge};
use crate::cmd::switches::still_on;
use crate::cmd::uptodate::wait_if_asked;
use crate::ctx::{Ctx, TIMEOUT_SECS, until};
use crate::error::{Done, refuse, show, usage};
use crate::out;
use crate::phases::Job;
use crate::plan::{designated, is_actual, names, todo};
use mars_policy::{View, sync_source_key};
use mars_tree::{Batch, HostName, Key, ResName, TodoSwitch};
use std::collections::BTreeSet;
use std::time::Duration;

/// The primary whose data is to be taken.
pub fn invalidate_check(v: &View<'_>, res: &ResName) -> Done<HostName> {
    let me = v.me;
    let Some(primary) = designated(v.snap, res) else {
        return refuse(format!(
            "resource {res} has no designated primary to sync from (therefore avoid secondary); run marsadm primary {res} on the host that shall be it"
        ));
    };
    if primary == *me {
        return refuse(format!(
            "{me} is designated primary of resource {res}; invalidate is for secondaries, run it there or hand over first"
        ));
    }
    if is_actual(v.snap, res, me, "is-primary") {
        return refuse(format!(
            "{me} is actually primary of resource {res} still; close its device, then try again"
        ));
    }
    primary_number(v.snap, res, &primary)?;
    Ok(primary)
}

/// Step 4: knows nothing, has no history from the primary's number on.
pub fn forget(v: &View<'_>, res: &ResName, nr: u32) -> Batch {
    let mut batch = Batch::new();
    batch.set(Key::SyncStatus(res.clone(), v.me.clone()), 0);
    for (k, owner, _) in v.snap.versions(res) {
        if owner == *v.me && k >= nr {
            batch.delete(Key::Version(res.clone(), k, owner));
        }
    }
    batch.delete(Key::Replay(res.clone(), v.me.clone()));
    batch
}

/// Step 5: own logs that lead nowhere, whatever their age (no link of ours refers to them any more, and nobody else appends to
/// them), and old error messages.
pub fn purge_own(v: &View<'_>, res: &ResName) -> Batch {
    let mut batch = purge(
        v,
        res,
        PurgeScope {
            foreign: false,
            min_age: Duration::ZERO,
        },
    );
    let prefix = format!("resource-{res}/actual-{}/msg-err-", v.me);
    for path in v.snap.links.keys().filter(|p| p.starts_with(&prefix)) {
        batch.delete(Key::parse(path));
    }
    batch
}

fn set_switches(ctx: &Ctx, res: &ResName, which: &[TodoSwitch], on: bool) -> Done {
    let mut batch = Batch::new();
    for s in which {
        batch.set(todo(res, &ctx.me, *s), u8::from(on));
    }
    ctx.commit(&batch)?;
    Ok(())
}

/// Phases of `invalidate`.
pub const INVALIDATE_PHASES: &[&str] = &[
    "check the preconditions",
    "all switches off",
    "wait until the resource is quiet",
    "forget the local version, take the primary's positions",
    "all switches on",
    "wait until UpToDate, if asked",
];

/// `invalidate`
struct Invalidate {
    res: ResName,
    primary: Option<HostName>,
}

/// Begins `invalidate`.
pub fn invalidate(res: &ResName, _: &[String]) -> Box<dyn Job> {
    Box::new(Invalidate {
        res: res.clone(),
        primary: None,
    })
}

impl Job for Invalidate {
    fn run(&mut self, ctx: &Ctx, phase: usize) -> Done {
        use TodoSwitch::{AllowReplay, Attach, Connect, Sync};
        let res = &self.res;
        match phase {
            0 => {
                self.primary = Some(examine(ctx, res)?);
                Ok(())
            }
            1 => {
                set_switches(ctx, res, &[Attach, Sync, Connect, AllowReplay], false)?;
                ctx.reconcile()
            }
            2 if ctx.opts.force => Ok(()),
            2 => wait_quiet(ctx, res),
            3 => {
                let snap = ctx.snapshot()?;
                self.primary = Some(invalidate_check(&ctx.view(&snap), res)?);
                begin_again(ctx, res, &self.primary)
            }
            4 => {
                set_switches(ctx, res, &[Attach, Connect, AllowReplay], true)?;
                set_switches(ctx, res, &[Sync], true)?;
                ctx.reconcile()?;
                ctx.result(format!(
                    "{res}: {} takes everything from {} again",
                    ctx.me,
                    names(&self.primary)
                ));
                Ok(())
            }
            _ => wait_if_asked(ctx, res),
        }
    }
}

/// The primary, which must answer.
fn examine(ctx: &Ctx, res: &ResName) -> Done<HostName> {
    let snap = ctx.snapshot()?;
    let primary = invalidate_check(&ctx.view(&snap), res)?;
    let dead = ctx.wait_peers(&BTreeSet::from([primary.clone()]), TIMEOUT_SECS)?;
    if !dead.is_empty() && !ctx.opts.force {
        return refuse(format!(
            "primary {primary} of resource {res} does not answer, there is nothing to sync from; try again when it does"
        ));
    }
    let snap = ctx.snapshot()?;
    let primary = invalidate_check(&ctx.view(&snap), res)?;
    if is_actual(&snap, res, &primary, "has-emergency") {
        out::warn(format!(
            "primary {primary} is in emergency mode; the sync starts when it has left it"
        ));
    }
    Ok(primary)
}

/// Steps 4 to 6: no history of our own any more, but the primary's positions.
fn begin_again(ctx: &Ctx, res: &ResName, primary: &Option<HostName>) -> Done {
    let Some(primary) = primary else {
        return Ok(());
    };
    let snap = ctx.snapshot()?;
    let nr = primary_number(&snap, res, primary)?;
    ctx.commit(&forget(&ctx.view(&snap), res, nr))?;
    let snap = ctx.snapshot()?;
    ctx.commit(&purge_own(&ctx.view(&snap), res))?;
    let snap = ctx.snapshot()?;
    let mut batch = Batch::new();
    start_from(&mut batch, &snap, res, &ctx.me, primary)?;
    ctx.commit(&batch)?;
    Ok(())
}

/// Waits until no daemon touches the resource at the acting host.
pub fn wait_quiet(ctx: &Ctx, res: &ResName) -> Done {
    let me = ctx.me.clone();
    let flags = ["is-syncing", "is-copying", "is-replaying", "is-attached"];
    ctx.wait(
        res,
        &format!("resource {res} is quiet on {me}"),
        TIMEOUT_SECS,
        |v| {
            let on = still_on(v, res, &me, &flags);
            until(on.is_empty(), || format!("still on: {}", names(on)))
        },
    )
}

/// `fake-sync`
pub fn fake_sync(ctx: &Ctx, res: &ResName, _: &[String]) -> Done {
    let snap = ctx.snapshot()?;
    let me = ctx.me.clone();
    if designated(&snap, res).as_ref() == Some(&me) || is_actual(&snap, res, &me, "is-primary") {
        return refuse(format!(
            "{me} is primary of resource {res}; fake-sync is for secondaries"
        ));
    }
    let Some(size) = snap.number(&Key::Size(res.clone())) else {
        return refuse(format!(
            "the size of resource {res} is unknown here; run marsadm wait-cluster"
        ));
    };
    set_switches(ctx, res, &[TodoSwitch::Sync], false)?;
    ctx.reconcile()?;
    ctx.wait(
        res,
        &format!("the sync of {res} is off on {me}"),
        TIMEOUT_SECS,
        |v| {
            until(!is_actual(v.snap, res, &me, "is-syncing"), || {
                "is-syncing is 1".into()
            })
        },
    )?;
    let mut batch = Batch::new();
    batch.set(Key::SyncStatus(res.clone(), me.clone()), size);
    // Nothing of an interrupted sync is to be continued: what is there counts as good, also after a resize.
    let source = sync_source_key(res, &me);
    if ctx.snapshot()?.get(&source).is_some() {
        batch.delete(source);
    }
    ctx.commit(&batch)?;
    ctx.reconcile()?;
    out::warn(format!(
        "{res} is marked as consistent on {me}, whatever is on the disk; marsadm invalidate {res} undoes that"
    ));
    Ok(())
}

/// What `set-replay` changes: the own replay link stands at the beginning of log `nr`, with the primary's version links of that number
/// and the one before; `skip-check` permits that one jump.
pub fn set_replay_batch(v: &View<'_>, res: &ResName, nr: u32, force: bool) -> Done<Batch> {
    let (snap, me) = (v.snap, v.me);
    let primary = match designated(snap, res) {
        Some(p) if p != *me && !is_actual(snap, res, me, "is-primary") => p,
        None => {
            return refuse(format!(
                "no primary of resource {res} is designated, so nobody's log {nr} is meant; designate one with marsadm primary"
            ));
        }
        Some(_) => {
            return refuse(format!(
                "{me} is primary of resource {res}; set-replay is for secondaries"
            ));
        }
    };
    if snap.todo(res, me, TodoSwitch::AllowReplay) || is_actual(snap, res, me, "is-replaying") {
        return refuse(format!(
            "replay of resource {res} is on at {me}; run marsadm pause-replay {res} and wait until it is off"
        ));
    }
    let last = primary_number(snap, res, &primary)?;
    let theirs = snap.replay(res, &primary).filter(|r| r.log.nr == nr);
    let linked = snap.version(res, nr, &primary);
    let Some(log) = theirs
        .map(|r| r.log)
        .or_else(|| linked.map(|v| v.head.log))
        .filter(|_| nr <= last)
    else {
        return refuse(format!(
            "log {nr} of primary {primary} of resource {res} is not known; it is in log {last}, see marsadm view-replayinfo {res} there"
        ));
    };
    let own = snap.replay(res, me);
    if own.is_none_or(|r| nr > r.log.nr) && !force {
        let at = own_number(snap, res, me);
        return refuse(format!(
            "log {nr} is ahead of the own position ({at}): what lies between would be missing on the disk; --force skips it, marsadm invalidate {res} is the safe way"
        ));
    }
    let mut batch = Batch::new();
    batch.set(Key::Replay(res.clone(), me.clone()), format!("{log},0,0"));
    for n in [Some(nr), nr.checked_sub(1)].into_iter().flatten() {
        if let Some(text) = snap.text(&Key::Version(res.clone(), n, primary.clone())) {
            batch.set(Key::Version(res.clone(), n, me.clone()), text);
        }
    }
    for (k, owner, link) in snap.versions(res) {
        // What was replayed of later logs is no history of this host any more. What it wrote itself, others may need.
        if owner == *me && k > nr && link.head.log.host != *me {
            batch.delete(Key::Version(res.clone(), k, owner));
        }
    }
    batch.set(
        Key::SkipCheck(res.clone(), me.clone()),
        format!("{nr} set by marsadm set-replay"),
    );
    Ok(batch)
}

fn own_number(snap: &mars_tree::Snapshot, res: &ResName, me: &mars_tree::HostName) -> String {
    snap.replay(res, me)
        .map_or("none".into(), |r| format!("log {}", r.log.nr))
}

/// `set-replay`
pub fn set_replay(ctx: &Ctx, res: &ResName, args: &[String]) -> Done {
    let text = args.first().map(String::as_str).unwrap_or_default();
    let nr = match text.parse::<u32>() {
        Ok(n) if (1..=999_999_999).contains(&n) && text.bytes().all(|b| b.is_ascii_digit()) => n,
        _ => {
            return usage(format!(
                "log number {}: give a number from 1 to 999999999",
                show(text)
            ));
        }
    };
    let snap = ctx.snapshot()?;
    let batch = set_replay_batch(&ctx.view(&snap), res, nr, ctx.opts.force)?;
    let forward = snap.replay(res, &ctx.me).is_none_or(|r| nr > r.log.nr);
    ctx.commit(&batch)?;
    ctx.reconcile()?;
    if forward {
        out::warn(format!(
            "the disk of {} misses what the logs before {nr} hold, and nothing shows it; marsadm invalidate {res} repairs that",
            ctx.me
        ));
    }
    ctx.result(format!(
        "replay of resource {res} on {} stands at the beginning of log {nr}; marsadm resume-replay {res} lets it go on",
        ctx.me
    ));
    Ok(())
}
