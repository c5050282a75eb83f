//! activate-guest, deactivate-guest (marsadm-commands.md section 3): hosts that take part in a resource without a disk of their own.
use super::{Command, anybody, each, one};
use crate::ctx::{Ctx, TIMEOUT_CLUSTER_SECS};
use crate::error::{Done, refuse};
use crate::out;
use crate::plan::{actual, designated};
use mars_policy::View;
use mars_tree::{Batch, HostName, Key, ResName, Snapshot};
use std::collections::BTreeSet;

/// The commands of this file.
pub const COMMANDS: &[Command] = &[
    one(each(
        "activate-guest",
        "",
        0,
        0,
        activate_guest,
        "Take part in a resource without a disk: know and show its state",
    )),
    anybody(each(
        "deactivate-guest",
        "",
        0,
        0,
        deactivate_guest,
        "Undo activate-guest",
    )),
];

/// Has `host` a disk in the resource?
fn is_storage(snap: &Snapshot, res: &ResName, host: &HostName) -> bool {
    let (data, replay) = (
        Key::Data(res.clone(), host.clone()),
        Key::Replay(res.clone(), host.clone()),
    );
    snap.get(&data).is_some() || snap.get(&replay).is_some()
}

/// Is `host` a guest of the resource: a device, but no disk?
pub fn is_guest(snap: &Snapshot, res: &ResName, host: &HostName) -> bool {
    let device = Key::Device(res.clone(), host.clone());
    snap.get(&device).is_some() && !is_storage(snap, res, host)
}

/// `activate-guest`, as links.
pub fn activate_batch(v: &View<'_>, res: &ResName) -> Done<Batch> {
    let (snap, me) = (v.snap, v.me);
    if !snap.resources().contains(res) {
        return refuse(format!(
            "resource {res} does not exist in this cluster; run marsadm update-cluster, then see marsadm view all"
        ));
    }
    if is_storage(snap, res, me) {
        return refuse(format!(
            "{me} has a disk in resource {res} and takes part anyway; run leave-resource first if it is to be a guest"
        ));
    }
    let mut batch = Batch::new();
    if is_guest(snap, res, me) {
        return Ok(batch);
    }
    batch.mkdir(format!("resource-{res}/actual-{me}"));
    batch.set(actual(res, me, "if-on"), 0);
    batch.set(Key::Device(res.clone(), me.clone()), res);
    Ok(batch)
}

/// `activate-guest RES`
fn activate_guest(ctx: &Ctx, res: &ResName, _: &[String]) -> Done {
    let snap = ctx.snapshot()?;
    let mut others: BTreeSet<HostName> = match snap.members(res) {
        members if members.is_empty() => snap.hosts(),
        members => members,
    }
    .into_iter()
    .collect();
    others.remove(&ctx.me);
    let asked = ctx.engine_running();
    if asked {
        for silent in ctx.wait_peers(&others, TIMEOUT_CLUSTER_SECS)? {
            out::warn(format!("host {silent} does not answer"));
        }
    }
    let snap = ctx.snapshot()?;
    let batch = activate_batch(&ctx.view(&snap), res)?;
    if !asked {
        out::warn(format!(
            "mars-meta is not running on {}, the state of the others may be old; run marsadm start",
            ctx.env.host
        ));
    }
    if batch.is_empty() {
        out::say(format!("{} is a guest of resource {res} already", ctx.me));
        return Ok(());
    }
    ctx.commit(&batch)?;
    let primary = match designated(&snap, res) {
        Some(p) => format!("{p} is primary"),
        None => "nobody is designated primary".to_string(),
    };
    ctx.result(format!(
        "{} is a guest of resource {res}, {primary}",
        ctx.me
    ));
    Ok(())
}

/// `deactivate-guest`, as links.
pub fn deactivate_batch(v: &View<'_>, res: &ResName) -> Done<Batch> {
    let (snap, me) = (v.snap, v.me);
    if is_storage(snap, res, me) {
        return refuse(format!(
            "{me} is no guest of resource {res}, it has a disk there; use leave-resource"
        ));
    }
    let mut batch = Batch::new();
    if is_guest(snap, res, me) {
        batch.delete(Key::Device(res.clone(), me.clone()));
        batch.delete(actual(res, me, "if-on"));
    }
    Ok(batch)
}

/// `deactivate-guest RES`
fn deactivate_guest(ctx: &Ctx, res: &ResName, _: &[String]) -> Done {
    let snap = ctx.snapshot()?;
    let batch = deactivate_batch(&ctx.view(&snap), res)?;
    if batch.is_empty() {
        out::say(format!(
            "{} is no guest of resource {res}, nothing to do",
            ctx.me
        ));
        return Ok(());
    }
    ctx.commit(&batch)?;
    ctx.result(format!("{} is no guest of resource {res} any more", ctx.me));
    Ok(())
}
