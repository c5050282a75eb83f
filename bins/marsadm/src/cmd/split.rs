//! split-cluster (marsadm-commands.md section 2): hosts that share no resource become clusters of their own. How it is carried out:
//! `mars_policy::split`.
use super::{Command, global};
use crate::backup;
use crate::ctx::{Ctx, State, TIMEOUT_CLUSTER_SECS, peer_time};
use crate::error::{CmdError, Done, refuse};
use crate::out;
use crate::plan::names;
use mars_policy::split::{PARTING, part_name, parts, split_key};
use mars_tree::{Batch, HostName, Snapshot, Stamp};
use std::collections::BTreeSet;
use std::time::Duration;

/// The commands of this file.
pub const COMMANDS: &[Command] = &[global(
    "split-cluster",
    "",
    0,
    0,
    split_cluster,
    "Make a cluster of its own of each group of hosts that share resources",
)];

/// In this time everybody must have the order, or it is taken back. Well below the time after which they obey.
const CONFIRM: Duration = Duration::from_secs(3);
const _: () = assert!(CONFIRM.as_secs() < PARTING.as_secs());

/// The order: each host's part.
pub fn order_batch(parts: &[BTreeSet<HostName>], now: Stamp) -> Batch {
    let mut batch = Batch::new();
    for part in parts {
        for host in part {
            batch.set(split_key(host), part_name(part, now));
        }
    }
    batch
}

/// Takes it back.
pub fn withdrawal(parts: &[BTreeSet<HostName>]) -> Batch {
    let mut batch = Batch::new();
    for host in parts.iter().flatten() {
        batch.delete(split_key(host));
    }
    batch
}

fn describe(snap: &Snapshot, part: &BTreeSet<HostName>) -> String {
    let resources = snap
        .resources()
        .into_iter()
        .filter(|r| !mars_policy::split::hosts_of(snap, r).is_disjoint(part));
    let resources = names(resources);
    let with = match resources.is_empty() {
        true => "no resource".to_string(),
        false => resources,
    };
    format!("hosts {} with {with}", names(part))
}

/// `split-cluster`
fn split_cluster(ctx: &Ctx, _: &[String]) -> Done {
    if !ctx.engine_running() {
        return refuse(format!(
            "mars-meta is not running on {}, the others would not hear of it; run marsadm start first",
            ctx.env.host
        ));
    }
    let mut others: BTreeSet<HostName> = ctx.snapshot()?.hosts().into_iter().collect();
    others.remove(&ctx.env.host);
    let dead = ctx.wait_peers(&others, TIMEOUT_CLUSTER_SECS)?;
    if !dead.is_empty() && !ctx.opts.force {
        return refuse(format!(
            "{} do not answer; repair them, or leave-cluster --host=HOST --force for those that are gone (--force: they learn of it when they come back)",
            names(dead)
        ));
    }
    others.retain(|h| !dead.contains(h));
    let snap = ctx.snapshot()?;
    let parts = parts(&snap);
    for part in &parts {
        out::say(describe(&snap, part));
    }
    if parts.len() < 2 {
        out::say("all hosts belong together, nothing to do");
        return Ok(());
    }
    let dir = backup::save(ctx, &snap)?;
    let start = ctx.tree.clock().now();
    ctx.commit(&order_batch(&parts, start))?;
    if ctx.opts.dry_run {
        return Ok(());
    }
    if let Err(e) = confirm(ctx, &others, start) {
        ctx.commit(&withdrawal(&parts))?;
        return Err(match e {
            CmdError::Timeout(t) => CmdError::Timeout(format!("{t}; nothing was split")),
            other => CmdError::Failed(format!("{other}; nothing was split")),
        });
    }
    let mine = parts.iter().find(|p| p.contains(&ctx.env.host));
    let mine = mine.cloned().unwrap_or_default();
    ctx.wait_full(
        None,
        "the parts have forgotten each other",
        ctx.opts.limit(TIMEOUT_CLUSTER_SECS),
        None,
        |v| {
            let foreign: Vec<HostName> = v
                .snap
                .hosts()
                .into_iter()
                .filter(|h| !mine.contains(h))
                .collect();
            match foreign.is_empty() {
                true => State::Done,
                false => State::Waiting(format!("{} are members still", names(foreign))),
            }
        },
    )?;
    ctx.result(format!(
        "{} clusters now, this one has hosts {}; the former list of hosts is saved below {}",
        parts.len(),
        names(&mine),
        dir.display()
    ));
    Ok(())
}

/// Their next sign of life proves that they have the order.
fn confirm(ctx: &Ctx, others: &BTreeSet<HostName>, start: Stamp) -> Done {
    let asked = ctx.tree.clock().tick(start);
    ctx.ping()?;
    ctx.wait_full(
        None,
        "everybody has the order to split",
        Some(CONFIRM),
        None,
        |v| {
            let silent: Vec<&HostName> = others
                .iter()
                .filter(|p| peer_time(v.snap, p).is_none_or(|t| t <= asked))
                .collect();
            match silent.is_empty() {
                true => State::Done,
                false => State::Waiting(format!("no answer from {}", names(silent))),
            }
        },
    )
}
