//! leave-cluster (marsadm-commands.md section 2), also on behalf of a host that is gone for good.
use crate::cli::Options;
use crate::cmd::guest::is_guest;
use crate::ctx::{Ctx, State, TIMEOUT_CLUSTER_SECS, looks_dead, peer_time};
use crate::error::{CmdError, Done, refuse};
use crate::out;
use crate::plan::{actual, names};
use crate::reconcile;
use mars_policy::View;
use mars_tree::{Batch, HostName, Key, ResName, Snapshot};
use std::collections::BTreeSet;
use std::time::Duration;

/// The others answer within milliseconds, or they hear of it when they come back.
const CONFIRM: Duration = Duration::from_secs(5);

/// Preconditions of `leave-cluster`.
pub fn leave_check(v: &View<'_>, opts: &Options) -> Done {
    if !v.engine_running {
        return refuse(format!(
            "mars-meta is not running on {}, the others would not hear of it; run marsadm start first",
            v.local
        ));
    }
    if v.snap.get(&Key::Ip(v.me.clone())).is_none() && !opts.force {
        return refuse(format!(
            "{} is no member of this cluster (members: {}); nothing to leave",
            v.me,
            names(v.snap.hosts())
        ));
    }
    let member = memberships(v.snap, v.me);
    if !member.is_empty() && !opts.force {
        let host = match v.me == v.local {
            true => String::new(),
            false => format!(" --host={} --force", v.me),
        };
        return refuse(format!(
            "{} is member of {} still; run marsadm down and marsadm leave-resource{host} for each first",
            v.me,
            names(member)
        ));
    }
    Ok(())
}

fn memberships(snap: &Snapshot, host: &HostName) -> Vec<ResName> {
    let of = |r: &ResName| snap.members(r).contains(host);
    snap.resources().into_iter().filter(of).collect()
}

/// What this host says about connections: `actual-*/*-ME`.
fn connection_links<'a>(snap: &'a Snapshot, me: &HostName) -> impl Iterator<Item = Key> + use<'a> {
    let suffix = format!("-{me}");
    snap.live_below("actual-")
        .filter(move |(path, _)| path.contains('/') && path.ends_with(&suffix))
        .map(|(path, _)| Key::parse(path))
}

/// First round: tombstones of the address, of what this host says about connections, and of what makes it a guest.
pub fn leave_batch(v: &View<'_>) -> Batch {
    let mut batch = Batch::new();
    for key in connection_links(v.snap, v.me) {
        batch.delete(key);
    }
    for res in v.snap.resources() {
        if is_guest(v.snap, &res, v.me) {
            batch.delete(actual(&res, v.me, "if-on"));
            batch.delete(Key::Device(res, v.me.clone()));
        }
    }
    batch.delete(Key::Ip(v.me.clone()));
    batch
}

/// Second round: what was written meanwhile, and the mark of the historic method.
pub fn again_batch(v: &View<'_>) -> Batch {
    let mut batch = leave_batch(v);
    batch.delete(Key::TodoGlobal(format!("deleted-{}", v.me)));
    batch
}

/// Last step at the leaving host, when nothing runs there any more: what it told about itself, removed without a trace because nobody
/// listens to it now.
pub fn left_over(snap: &Snapshot, me: &HostName) -> Vec<Key> {
    let own = |path: &str| {
        let dir = match path.strip_prefix("resource-") {
            Some(rest) => rest.split('/').nth(1),
            None => path.split('/').next(),
        };
        let of = |kind: &str| dir.and_then(|d| d.strip_prefix(kind)) == Some(me.as_str());
        path.contains('/') && (of("todo-") || of("actual-"))
    };
    let paths = snap.links.keys().filter(|p| own(p));
    paths.map(|p| Key::parse(p)).collect()
}

/// `leave-cluster`
pub fn leave_cluster(ctx: &Ctx, _: &[String]) -> Done {
    let snap = ctx.snapshot()?;
    leave_check(&ctx.view(&snap), &ctx.opts)?;
    let others: BTreeSet<HostName> = snap.hosts().into_iter().filter(|h| *h != ctx.me).collect();
    if !ctx.opts.force {
        let dead = ctx.wait_peers(&others, TIMEOUT_CLUSTER_SECS)?;
        if !dead.is_empty() {
            return refuse(format!(
                "{} do not answer and would not learn of this; repair them, or use --force",
                names(dead)
            ));
        }
    }
    for batch_of in [leave_batch, again_batch] {
        let snap = ctx.snapshot()?;
        let view = ctx.view(&snap);
        // Whoever looks dead is not waited for: it hears of it when it comes back.
        let awake = |h: &&HostName| !looks_dead(&view, h, view.window / 2);
        let awake: BTreeSet<HostName> = others.iter().filter(awake).cloned().collect();
        ctx.commit(&batch_of(&view))?;
        // Their next sign of life proves that they have seen it; a host that has it may refuse to talk to us any more.
        if !ctx.opts.dry_run
            && let Err(e) = confirm(ctx, &awake)
        {
            out::warn(format!("{e}; the others learn of this later"));
        }
    }
    if ctx.is_local() && !ctx.opts.dry_run {
        let report = reconcile::run(ctx, reconcile::Mode::Stop)?;
        ctx.tell(&report);
        let snap = ctx.snapshot()?;
        for key in left_over(&snap, &ctx.me) {
            ctx.tree.unlink_plain(&key)?;
        }
    }
    ctx.result(format!(
        "{} left the cluster; make a fresh file system before it joins another one",
        ctx.me
    ));
    Ok(())
}

fn confirm(ctx: &Ctx, others: &BTreeSet<HostName>) -> Result<(), CmdError> {
    let start = ctx.tree.clock().now();
    ctx.ping()?;
    let limit = ctx.opts.limit(TIMEOUT_CLUSTER_SECS);
    let limit = Some(limit.map_or(CONFIRM, |l| l.min(CONFIRM)));
    ctx.wait_full(None, "the others have heard it", limit, None, |v| {
        let silent: Vec<&HostName> = others
            .iter()
            .filter(|p| peer_time(v.snap, p).is_none_or(|t| t <= start))
            .collect();
        match silent.is_empty() {
            true => State::Done,
            false => State::Waiting(format!("no answer from {}", names(silent))),
        }
    })
}
