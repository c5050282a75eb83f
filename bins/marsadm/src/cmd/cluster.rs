//! create-cluster, create-uuid, join-cluster (marsadm-commands.md section 2). Leaving is in `leave.rs`.
use super::{Command, global, no_cluster};
use crate::cli::{Options, address};
use crate::cmd::leave::leave_cluster;
use crate::cmd::lowlevel::host_argument;
use crate::ctx::{Ctx, TIMEOUT_CLUSTER_SECS, until};
use crate::error::{CmdError, Done, refuse, show};
use crate::net::{own_address, peer_address_over_ssh};
use crate::out;
use crate::plan::names;
use crate::reconcile;
use mars_policy::View;
use mars_tree::{Batch, HostName, Key, Snapshot, Stamp};
use std::collections::BTreeSet;
use std::net::Ipv4Addr;

/// The commands about being in a cluster.
pub const COMMANDS: &[Command] = &[
    no_cluster(global(
        "create-cluster",
        "",
        0,
        0,
        create_cluster,
        "Make this host the first of a new cluster",
    )),
    no_cluster(global(
        "create-uuid",
        "",
        0,
        0,
        create_uuid,
        "Give an old tree its cluster id (trees of light0.1beta05 or older)",
    )),
    no_cluster(global(
        "join-cluster",
        "HOST [IP]",
        1,
        2,
        join_cluster,
        "Join the cluster of HOST (address by --ip-HOST, IP or ssh)",
    )),
    global(
        "leave-cluster",
        "",
        0,
        0,
        leave_cluster,
        "Leave the cluster; all resources must be left before",
    ),
];

/// Generation of the tool that 0.1a engines look at.
const TOOL_GENERATION: &str = "2.9";

/// Directories of a cluster member.
fn dirs(batch: &mut Batch, me: &HostName) {
    for dir in ["ips", "userspace", "defaults", "todo-global"] {
        batch.mkdir(dir);
    }
    batch.mkdir(format!("defaults-{me}"));
    batch.mkdir(format!("actual-{me}"));
}

/// Links that every member publishes about itself.
fn own_links(batch: &mut Batch, me: &HostName) {
    batch.set(
        Key::HostActual(me.clone(), "marsadm-version".into()),
        TOOL_GENERATION,
    );
    batch.set(Key::HostDefault(me.clone(), "sync-limit".into()), 0);
    batch.set(
        Key::HostDefault(me.clone(), "sync-pref-list".into()),
        "(none)",
    );
}

/// Keys that carry a host as a `-HOST` suffix are found by suffix, so one name must not be the end of another
/// (symlink-tree.md section 0).
pub fn suffix_clash<'a>(
    me: &HostName,
    others: impl IntoIterator<Item = &'a HostName>,
) -> Option<&'a HostName> {
    let ends = |long: &HostName, short: &HostName| long.as_str().ends_with(&format!("-{short}"));
    others.into_iter().find(|o| ends(o, me) || ends(me, o))
}

fn fresh(snap: &Snapshot, opts: &Options) -> Done {
    if let Some(uuid) = snap.text(&Key::Uuid) {
        return refuse(format!(
            "this host is in cluster {} already; a new cluster needs a fresh file system",
            show(uuid)
        ));
    }
    let hosts = snap.hosts();
    if !hosts.is_empty() && !opts.force {
        return refuse(format!(
            "ips/ names hosts already ({}); use a fresh file system",
            names(hosts)
        ));
    }
    Ok(())
}

/// `create-cluster`, as links.
pub fn create_batch(v: &View<'_>, opts: &Options, ip: Ipv4Addr, now: Stamp) -> Done<Batch> {
    fresh(v.snap, opts)?;
    if v.engine_running {
        return refuse(format!(
            "mars-meta is running on {}; run marsadm stop first",
            v.local
        ));
    }
    let mut batch = Batch::new();
    dirs(&mut batch, v.me);
    batch.set(Key::Uuid, format!("{}_{now}", v.me));
    own_links(&mut batch, v.me);
    batch.set(Key::Ip(v.me.clone()), ip);
    Ok(batch)
}

/// `create-cluster`
pub fn create_cluster(ctx: &Ctx, _: &[String]) -> Done {
    let snap = ctx.snapshot()?;
    fresh(&snap, &ctx.opts)?;
    let ip = own_address(&ctx.opts, &snap, &ctx.me)?;
    let now = ctx.tree.clock().now();
    let batch = create_batch(&ctx.view(&snap), &ctx.opts, ip, now)?;
    ctx.commit(&batch)?;
    start_host(ctx)?;
    ctx.result(format!(
        "cluster {}_{now} created, address of {} is {ip}",
        ctx.me, ctx.me
    ));
    Ok(())
}

/// `create-uuid`, as links. Only the id: everything else is there since the tree was made.
pub fn uuid_batch(snap: &Snapshot, me: &HostName, now: Stamp) -> Done<Batch> {
    if let Some(uuid) = snap.text(&Key::Uuid) {
        return refuse(format!(
            "this tree has the cluster id {} already; it is never overwritten",
            show(uuid)
        ));
    }
    let mut batch = Batch::new();
    batch.set(Key::Uuid, format!("{me}_{now}"));
    Ok(batch)
}

/// `create-uuid`
fn create_uuid(ctx: &Ctx, _: &[String]) -> Done {
    let snap = ctx.snapshot()?;
    let now = ctx.tree.clock().now();
    ctx.commit(&uuid_batch(&snap, &ctx.me, now)?)?;
    ctx.result(format!("cluster id {}_{now} created", ctx.me));
    Ok(())
}

/// From now on the daemons of this host run.
fn start_host(ctx: &Ctx) -> Done {
    if ctx.opts.dry_run {
        out::say("would start the daemons of this host");
        return Ok(());
    }
    let report = reconcile::run(ctx, reconcile::Mode::Start)?;
    ctx.tell(&report);
    Ok(())
}

/// First step of `join-cluster`: provisional links that any real value beats.
pub fn join_batch(
    v: &View<'_>,
    opts: &Options,
    ip: Ipv4Addr,
    peer: &HostName,
    peer_ip: Ipv4Addr,
) -> Done<Batch> {
    fresh(v.snap, opts)?;
    if let Some(res) = v.snap.resources().first()
        && !opts.force
    {
        return refuse(format!(
            "resource {res} exists here already; join a cluster with a fresh file system"
        ));
    }
    if ip == peer_ip {
        return refuse(format!(
            "{} and {peer} cannot both have address {ip}; give --ip and --ip-{peer}",
            v.me
        ));
    }
    let mut batch = Batch::new();
    dirs(&mut batch, v.me);
    batch.set_stamped(Key::Uuid, "(any)", Stamp::PRELIMINARY);
    batch.set_stamped(Key::Ip(v.me.clone()), ip, Stamp::PRELIMINARY);
    batch.set_stamped(Key::Ip(peer.clone()), peer_ip, Stamp::PRELIMINARY);
    Ok(batch)
}

/// Second step, when the cluster's links have arrived.
pub fn joined_batch(v: &View<'_>, opts: &Options, ip: Ipv4Addr) -> Done<Batch> {
    let hosts = v.snap.hosts();
    if let Some(other) = suffix_clash(v.me, &hosts) {
        return refuse(format!(
            "host name {} cannot be told from {other} by its ending; rename this host (or set MARS_HOST)",
            v.me
        ));
    }
    let known = v.snap.text(&Key::Ip(v.me.clone()));
    if let Some(known) = known.filter(|k| *k != ip.to_string())
        && !opts.force
    {
        return refuse(format!(
            "the cluster knows {} with address {known}, not {ip}; give --ip={known}, or another host name if that is another machine",
            v.me
        ));
    }
    let mut batch = Batch::new();
    batch.set(Key::Ip(v.me.clone()), ip);
    own_links(&mut batch, v.me);
    Ok(batch)
}

/// `join-cluster HOST [IP]`
pub fn join_cluster(ctx: &Ctx, args: &[String]) -> Done {
    let peer = host_argument(args)?;
    if peer == ctx.me {
        return refuse(format!(
            "{peer} is this host; name a host that is in the cluster already"
        ));
    }
    let given = match args.get(1) {
        Some(ip) => Some(address("IP", ip)?),
        None => ctx.opts.peer_ips.get(peer.as_str()).copied(),
    };
    let snap = ctx.snapshot()?;
    fresh(&snap, &ctx.opts)?;
    let ip = own_address(&ctx.opts, &snap, &ctx.me)?;
    if ctx.engine_running() {
        return refuse(format!(
            "mars-meta is running on {}; run marsadm stop first",
            ctx.me
        ));
    }
    let peer_ip = match given {
        Some(ip) => ip,
        None => peer_address_over_ssh(&ctx.opts, &peer)?,
    };
    let batch = join_batch(&ctx.view(&snap), &ctx.opts, ip, &peer, peer_ip)?;
    let before = entries(ctx)?;
    let joined = ctx.commit(&batch).and_then(|_| {
        start_host(ctx)?;
        // A failed start shows as a timeout otherwise, which would not tell the reason.
        if ctx.unit_failed.get() {
            return refuse("the daemons of this host do not start; see the warnings");
        }
        ctx.wait_full(
            None,
            &format!("{peer} ({peer_ip}) has sent the cluster's links"),
            ctx.opts.limit(TIMEOUT_CLUSTER_SECS),
            None,
            |v| {
                let uuid = v.snap.text(&Key::Uuid).unwrap_or("(any)");
                let known = v.snap.stamp(&Key::Ip(peer.clone())).is_some_and(|s| s > Stamp::PRELIMINARY);
                until(uuid != "(any)" && known, || {
                    format!("no answer from {peer} at {peer_ip}; is marsadm start done there, the address right, the port open?")
                })
            },
        )?;
        let snap = ctx.snapshot()?;
        let batch = if ctx.opts.dry_run {
            Batch::new()
        } else {
            joined_batch(&ctx.view(&snap), &ctx.opts, ip)?
        };
        ctx.commit(&batch)
    });
    if let Err(e) = joined {
        return Err(undo_join(ctx, &before, e));
    }
    ctx.reconcile()?;
    let uuid = ctx.tree.text(&Key::Uuid)?.unwrap_or_default();
    ctx.result(format!("{} joined cluster {uuid}", ctx.me));
    Ok(())
}

/// Names in the root directory.
fn entries(ctx: &Ctx) -> Done<BTreeSet<std::ffi::OsString>> {
    std::fs::read_dir(ctx.tree.root())
        .and_then(|dir| dir.map(|e| e.map(|e| e.file_name())).collect())
        .map_err(|e| CmdError::Failed(format!("{}: {e}", ctx.tree.root().display())))
}

/// Nothing half done: stops the daemons and removes what was not there before. The root had no cluster, so all of it is ours or a
/// copy of what others have.
fn undo_join(ctx: &Ctx, before: &BTreeSet<std::ffi::OsString>, cause: CmdError) -> CmdError {
    if ctx.opts.dry_run {
        return cause;
    }
    let undo = || -> Result<(), String> {
        let report = reconcile::run(ctx, reconcile::Mode::Stop).map_err(|e| e.to_string())?;
        if let Some(e) = report.errors.first() {
            return Err(e.clone());
        }
        for name in entries(ctx).map_err(|e| e.to_string())? {
            // Hidden names are locks.
            if before.contains(&name) || name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = ctx.tree.root().join(name);
            let is_dir = std::fs::symlink_metadata(&path).is_ok_and(|m| m.is_dir());
            let removed = if is_dir {
                std::fs::remove_dir_all(&path)
            } else {
                std::fs::remove_file(&path)
            };
            removed.map_err(|e| format!("{}: {e}", path.display()))?;
        }
        Ok(())
    };
    let note = match undo() {
        Ok(()) => "; everything is undone".to_string(),
        Err(e) => format!("; and it could not be undone: {e}"),
    };
    match cause {
        CmdError::Timeout(t) => CmdError::Timeout(t + &note),
        other => CmdError::Failed(other.to_string() + &note),
    }
}
