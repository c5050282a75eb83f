//! `invalidate` and `fake-sync` (marsadm-commands.md section 6).
use crate::cmd::positions::{primary_number, start_from};
use crate::cmd::purge::{PurgeScope, purge};
use crate::cmd::switches::still_on;
use crate::ctx::{Ctx, TIMEOUT_SECS, until};
use crate::error::{Done, refuse};
use crate::out;
use crate::plan::{designated, is_actual, names, todo};
use mars_policy::View;
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

/// `invalidate`
pub fn invalidate(ctx: &Ctx, res: &ResName, _: &[String]) -> Done {
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
    use TodoSwitch::{AllowReplay, Attach, Connect, Sync};
    set_switches(ctx, res, &[Attach, Sync, Connect, AllowReplay], false)?;
    ctx.reconcile()?;
    if !ctx.opts.force {
        wait_quiet(ctx, res)?;
    }
    let snap = ctx.snapshot()?;
    let view = ctx.view(&snap);
    let nr = primary_number(&snap, res, &primary)?;
    ctx.commit(&forget(&view, res, nr))?;
    let snap = ctx.snapshot()?;
    ctx.commit(&purge_own(&ctx.view(&snap), res))?;
    let snap = ctx.snapshot()?;
    let mut batch = Batch::new();
    start_from(&mut batch, &snap, res, &ctx.me, &primary)?;
    ctx.commit(&batch)?;
    set_switches(ctx, res, &[Attach, Connect, AllowReplay], true)?;
    set_switches(ctx, res, &[Sync], true)?;
    ctx.reconcile()?;
    ctx.result(format!(
        "{res}: {} takes everything from {primary} again",
        ctx.me
    ));
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
    ctx.commit(&batch)?;
    ctx.reconcile()?;
    out::warn(format!(
        "{res} is marked as consistent on {me}, whatever is on the disk; marsadm invalidate {res} undoes that"
    ));
    Ok(())
}
