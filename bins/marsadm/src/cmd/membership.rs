//! join-resource, leave-resource, delete-resource (marsadm-commands.md section 3).
use crate::cli::Options;
use crate::cmd::consistency::purge_own;
use crate::cmd::create::{
    DiskArgs, attach_now, device_free, disk_args, disk_free, member_links, probe_new,
};
use crate::cmd::positions::{primary_number, start_from};
use crate::cmd::uptodate::wait_if_asked;
use crate::ctx::{Ctx, TIMEOUT_CLUSTER_SECS, looks_dead};
use crate::error::{Done, refuse};
use crate::out;
use crate::phases::Job;
use crate::plan::{
    SWITCHES, designated, device_name, is_actual, live_paths, member_dirs, names, storage_members,
    switch_name,
};
use mars_policy::{View, split_brain};
use mars_tree::{Batch, HostName, Key, ResName};
use std::collections::BTreeSet;

/// How often positions are taken again when the primary rotates its log meanwhile.
const JOIN_ROUNDS: u32 = 5;

/// Preconditions of `join-resource`. Returns the primary.
pub fn join_check(
    v: &View<'_>,
    res: &ResName,
    opts: &Options,
    args: &DiskArgs,
    bytes: u64,
) -> Done<HostName> {
    let (snap, me) = (v.snap, v.me);
    if !snap.resources().contains(res) {
        return refuse(unknown(v, res));
    }
    if snap.get(&Key::Ip(me.clone())).is_none() {
        return refuse(format!(
            "the address of {me} is not registered in the cluster; run marsadm join-cluster"
        ));
    }
    if snap.members(res).contains(me) && !opts.force {
        return refuse(format!(
            "{me} is already member of resource {res}; leave-resource first, or use invalidate"
        ));
    }
    let Some(primary) = designated(snap, res) else {
        return refuse(format!(
            "resource {res} has no designated primary to sync from; run marsadm primary {res} on one of {}",
            names(snap.members(res))
        ));
    };
    if primary == *me {
        return refuse(format!(
            "{me} is already designated primary of resource {res}; another host can join"
        ));
    }
    if is_actual(snap, res, &primary, "has-emergency") {
        return refuse(format!(
            "primary {primary} of resource {res} is in emergency mode; free space there first"
        ));
    }
    if let Some(split) = split_brain(v, res) {
        return refuse(format!(
            "split brain in resource {res} after {}; resolve it first with invalidate on the losers",
            names(split.points.iter().map(|p| &p.after))
        ));
    }
    let Some(size) = snap.number(&Key::Size(res.clone())) else {
        return refuse(format!(
            "the size of resource {res} is unknown here; run marsadm wait-cluster, then try again"
        ));
    };
    if bytes < size && !opts.force {
        return refuse(format!(
            "disk {} has {bytes} bytes, resource {res} needs {size}; give a larger disk",
            args.disk
        ));
    }
    device_free(snap, res, me, &args.device)?;
    disk_free(snap, res, me, &args.disk)?;
    let nr = primary_number(snap, res, &primary)?;
    if let Some(path) = left_overs(v, res, nr).first()
        && !opts.force
    {
        return refuse(format!(
            "{path} is left from an earlier membership; run marsadm log-purge-all {res} --force, or join with --force to remove it"
        ));
    }
    Ok(primary)
}

/// Own logs and version links from the primary's number on: they would look like a history of our own.
fn left_overs(v: &View<'_>, res: &ResName, nr: u32) -> Vec<String> {
    let suffix = format!("-{}", v.me);
    live_paths(v.snap, res)
        .filter(|p| {
            let name = p.rsplit('/').next().unwrap_or(p);
            let number = name
                .strip_prefix("log-")
                .or_else(|| name.strip_prefix("version-"))
                .and_then(|n| n.split('-').next()?.parse::<u32>().ok());
            name.ends_with(&suffix) && number.is_some_and(|n| n >= nr)
        })
        .map(str::to_string)
        .collect()
}

fn unknown(v: &View<'_>, res: &ResName) -> String {
    format!(
        "resource {res} does not exist in this cluster (known: {}); run marsadm wait-cluster, or create-resource",
        names_or_none(v.snap.resources())
    )
}

/// Names for a message, or a word when there are none.
pub fn names_or_none<T: std::fmt::Display>(items: Vec<T>) -> String {
    if items.is_empty() {
        "none".into()
    } else {
        names(items)
    }
}

/// All links of the new member except `attach`=1. One batch: a crash leaves all of it or nothing that others can see as a member.
pub fn join_batch(v: &View<'_>, res: &ResName, primary: &HostName, args: &DiskArgs) -> Done<Batch> {
    let mut batch = Batch::new();
    member_dirs(&mut batch, res, v.me);
    member_links(&mut batch, res, v.me, args);
    start_from(&mut batch, v.snap, res, v.me, primary)?;
    Ok(batch)
}

/// Phases of `join-resource`.
pub const JOIN_PHASES: &[&str] = &[
    "check the preconditions",
    "become a member",
    "wait until the primary knows, take its positions",
    "attach the disk",
    "wait until UpToDate, if asked",
];

/// `join-resource`
struct Join {
    res: ResName,
    args: Vec<String>,
    disk: Option<DiskArgs>,
    primary: Option<HostName>,
}

/// Begins `join-resource`.
pub fn join_resource(res: &ResName, args: &[String]) -> Box<dyn Job> {
    Box::new(Join {
        res: res.clone(),
        args: args.to_vec(),
        disk: None,
        primary: None,
    })
}

impl Job for Join {
    fn run(&mut self, ctx: &Ctx, phase: usize) -> Done {
        if phase == 0 {
            return self.examine(ctx);
        }
        let (Some(disk), Some(primary)) = (&self.disk, &mut self.primary) else {
            return Ok(());
        };
        match phase {
            1 => become_member(ctx, &self.res, primary, disk),
            2 => take_positions(ctx, &self.res, primary),
            3 => {
                attach_now(ctx, &self.res)?;
                ctx.result(format!(
                    "{} joined resource {}, {primary} is primary",
                    ctx.me, self.res
                ));
                Ok(())
            }
            _ => wait_if_asked(ctx, &self.res),
        }
    }
}

impl Join {
    fn examine(&mut self, ctx: &Ctx) -> Done {
        let res = &self.res;
        let args = disk_args(res, &self.args, None, false)?;
        let snap = ctx.snapshot()?;
        let view = ctx.view(&snap);
        // Without an answer this resource may only seem to be unknown, or in another role. A known primary's answer is enough.
        let known = snap.resources().contains(res);
        let others: BTreeSet<HostName> = match designated(&snap, res) {
            Some(primary) => vec![primary],
            None if known => snap.members(res),
            None => snap.hosts(),
        }
        .into_iter()
        .filter(|h| *h != ctx.me)
        .collect();
        if known {
            let bytes = probe_new(ctx, &args.disk)?;
            join_check(&view, res, &ctx.opts, &args, bytes)?;
        }
        if !ctx.engine_running() {
            return refuse(match known {
                true => format!(
                    "mars-meta is not running on {}; run marsadm start, then join again",
                    ctx.me
                ),
                false => unknown(&view, res),
            });
        }
        for silent in ctx.wait_peers(&others, TIMEOUT_CLUSTER_SECS)? {
            out::warn(format!("host {silent} does not answer"));
        }
        let snap = ctx.snapshot()?;
        if !snap.resources().contains(res) {
            return refuse(unknown(&ctx.view(&snap), res));
        }
        let bytes = probe_new(ctx, &args.disk)?;
        let primary = join_check(&ctx.view(&snap), res, &ctx.opts, &args, bytes)?;
        let theirs = device_name(&snap, res, &primary);
        if theirs != args.device {
            out::warn(format!(
                "the device of {res} is {} here, but {theirs} on {primary}; the same name everywhere avoids mistakes",
                args.device
            ));
        }
        self.disk = Some(args);
        self.primary = Some(primary);
        Ok(())
    }
}

/// Links of the member, after what an earlier membership left.
fn become_member(ctx: &Ctx, res: &ResName, primary: &HostName, args: &DiskArgs) -> Done {
    let snap = ctx.snapshot()?;
    let view = ctx.view(&snap);
    let nr = primary_number(&snap, res, primary)?;
    let mut stale = Batch::new();
    for path in left_overs(&view, res, nr) {
        stale.delete(Key::parse(&path));
    }
    ctx.commit(&stale)?;
    ctx.commit(&join_batch(&view, res, primary, args)?)?;
    Ok(())
}

/// A rotation may have raced with us: takes the positions again until they fit.
fn take_positions(ctx: &Ctx, res: &ResName, primary: &mut HostName) -> Done {
    if ctx.opts.dry_run {
        return Ok(());
    }
    for _ in 0..JOIN_ROUNDS {
        ctx.wait_peers(&BTreeSet::from([primary.clone()]), TIMEOUT_CLUSTER_SECS)?;
        let snap = ctx.snapshot()?;
        let view = ctx.view(&snap);
        let split = split_brain(&view, res).is_some_and(|s| {
            s.points
                .iter()
                .any(|p| p.hosts.iter().any(|(h, _)| *h == ctx.me))
        });
        if !split {
            break;
        }
        if let Some(now) = designated(&snap, res) {
            *primary = now;
        }
        let mut again = Batch::new();
        start_from(&mut again, &snap, res, &ctx.me, primary)?;
        ctx.commit(&again)?;
    }
    Ok(())
}

/// Preconditions of `leave-resource`.
pub fn leave_check(v: &View<'_>, res: &ResName, opts: &Options) -> Done {
    let (snap, me) = (v.snap, v.me);
    if !snap.members(res).contains(me) {
        return refuse(format!(
            "{me} is not member of resource {res} (members: {}); nothing to leave",
            names_or_none(snap.members(res))
        ));
    }
    if opts.force {
        return Ok(());
    }
    if is_actual(snap, res, me, "is-primary") || designated(snap, res).as_ref() == Some(me) {
        return refuse(format!(
            "{me} is primary of resource {res}; run marsadm primary {res} on another member first, or marsadm secondary {res} when this is the last one"
        ));
    }
    let on: Vec<&str> = SWITCHES
        .into_iter()
        .filter(|s| snap.todo(res, me, *s))
        .map(switch_name)
        .collect();
    if !on.is_empty() {
        return refuse(format!(
            "resource {res} is not down on {me} (switches on: {}); run marsadm down {res} first",
            names(on)
        ));
    }
    let flags = [
        "is-attached",
        "is-replaying",
        "is-copying",
        "is-syncing",
        "if-on",
    ];
    let active = crate::cmd::switches::still_on(v, res, me, &flags);
    if !active.is_empty() {
        return refuse(format!(
            "resource {res} is still active on {me} ({}); run marsadm down {res} and wait",
            names(active)
        ));
    }
    // "Role stable": with links that travel at once, an unfinished handover shows in the links themselves.
    if let Some(p) = designated(snap, res)
        && !looks_dead(v, &p, v.window / 2)
        && snap
            .members(res)
            .iter()
            .any(|h| *h != p && is_actual(snap, res, h, "is-primary"))
    {
        return refuse(format!(
            "a handover of resource {res} to {p} is under way; wait until it has finished"
        ));
    }
    Ok(())
}

/// Tombstones of everything that makes `me` a member.
pub fn leave_batch(v: &View<'_>, res: &ResName) -> Batch {
    let (r, me) = (res, v.me);
    let mut batch = Batch::new();
    for key in [
        Key::Replay(r.clone(), me.clone()),
        Key::Data(r.clone(), me.clone()),
        Key::SyncStatus(r.clone(), me.clone()),
        Key::SyncPos(r.clone(), me.clone()),
        Key::SkipCheck(r.clone(), me.clone()),
        Key::VerifyStatus(r.clone(), me.clone()),
        Key::Device(r.clone(), me.clone()),
        Key::ActSize(r.clone(), me.clone()),
    ] {
        batch.delete(key);
    }
    let suffix = format!("-{me}");
    let prefix = format!("resource-{res}/");
    for path in live_paths(v.snap, res) {
        let dir = path
            .strip_prefix(&prefix)
            .and_then(|p| p.split_once('/'))
            .map(|(d, _)| d);
        let owned = dir.is_some_and(|d| {
            ["todo", "actual", "defaults", "local"]
                .iter()
                .any(|kind| d.strip_prefix(kind).is_some_and(|rest| rest == suffix))
        });
        if owned {
            batch.delete(Key::parse(path));
        }
    }
    batch
}

/// Own version links of logs that others wrote. Nobody else looks at them; only the creator's link of a log is needed by those who
/// still replay it.
pub fn leave_versions(v: &View<'_>, res: &ResName) -> Batch {
    let mut batch = Batch::new();
    for (nr, owner, link) in v.snap.versions(res) {
        if owner == *v.me && link.head.log.host != *v.me {
            batch.delete(Key::Version(res.clone(), nr, owner));
        }
    }
    batch
}

/// Phases of `leave-resource`.
pub const LEAVE_PHASES: &[&str] = &[
    "check the preconditions",
    "give up the membership",
    "let the others know, remove the rest",
];

/// `leave-resource`
struct Leave {
    res: ResName,
    others: BTreeSet<HostName>,
}

/// Begins `leave-resource`.
pub fn leave_resource(res: &ResName, _: &[String]) -> Box<dyn Job> {
    Box::new(Leave {
        res: res.clone(),
        others: BTreeSet::new(),
    })
}

impl Job for Leave {
    fn run(&mut self, ctx: &Ctx, phase: usize) -> Done {
        let res = &self.res;
        let snap = ctx.snapshot()?;
        match phase {
            0 => leave_check(&ctx.view(&snap), res, &ctx.opts),
            1 => {
                leave_check(&ctx.view(&snap), res, &ctx.opts)?;
                self.others = storage_members(&snap, res).into_iter().collect();
                self.others.remove(&ctx.me);
                ctx.commit(&leave_batch(&ctx.view(&snap), res))?;
                purge_rest(ctx, res)
            }
            _ => {
                if !self.others.is_empty() {
                    tell_others(ctx, &self.others);
                    purge_rest(ctx, res)?;
                }
                ctx.reconcile()?;
                ctx.instances(None);
                ctx.result(format!("{} left resource {res}", ctx.me));
                Ok(())
            }
        }
    }
}

/// Own versions and logs that nobody needs; messages.
fn purge_rest(ctx: &Ctx, res: &ResName) -> Done {
    let snap = ctx.snapshot()?;
    ctx.commit(&leave_versions(&ctx.view(&snap), res))?;
    let snap = ctx.snapshot()?;
    ctx.commit(&purge_own(&ctx.view(&snap), res))?;
    Ok(())
}

fn tell_others(ctx: &Ctx, others: &BTreeSet<HostName>) {
    match ctx.wait_peers(others, TIMEOUT_CLUSTER_SECS) {
        Ok(dead) => dead
            .iter()
            .for_each(|d| out::warn(format!("host {d} does not answer, it learns of this later"))),
        Err(e) => out::warn(format!("{e}; the others learn of this later")),
    }
}

/// Everything below the resource but `maxnr`.
pub fn delete_batch(v: &View<'_>, res: &ResName) -> Batch {
    let mut batch = Batch::new();
    let keep = Key::MaxNr(res.clone()).path();
    let trigger = format!("resource-{res}/systemd-trigger");
    for path in live_paths(v.snap, res).filter(|p| *p != keep && *p != trigger) {
        batch.delete(Key::parse(path));
    }
    batch
}

/// `delete-resource`
pub fn delete_resource(ctx: &Ctx, res: &ResName, _: &[String]) -> Done {
    let snap = ctx.snapshot()?;
    let view = ctx.view(&snap);
    let prefix = format!("resource-{res}/");
    if !snap
        .links
        .keys()
        .chain(snap.files.keys())
        .any(|p| p.starts_with(&prefix))
    {
        // Only the directory is left, or not even that and nobody shall be asked.
        let dir = ctx.tree.root().join(format!("resource-{res}"));
        if !dir.is_dir() && !ctx.opts.force {
            return refuse(unknown(&view, res));
        }
        out::say(format!("resource {res} is gone already"));
        return Ok(());
    }
    let members = snap.members(res);
    if !members.is_empty() && !ctx.opts.force {
        return refuse(format!(
            "resource {res} still has members {}; run marsadm leave-resource {res} on each of them first",
            names(&members)
        ));
    }
    if !members.is_empty() {
        out::warn(format!(
            "the memberships of {} in {res} are destroyed; a device in use loses its log when it is closed",
            names(&members)
        ));
    }
    let batch = delete_batch(&view, res);
    if batch.is_empty() {
        out::say(format!("resource {res} is gone already"));
        return Ok(());
    }
    ctx.commit(&batch)?;
    ctx.reconcile()?;
    ctx.instances(None);
    ctx.result(format!("resource {res} deleted"));
    Ok(())
}
