//! lowlevel-ls-host-ips, lowlevel-set-host-ip, lowlevel-delete-host (marsadm-commands.md section 11): the list of members itself.
use super::{Command, global, no_cluster};
use crate::cli::{Options, address};
use crate::cmd::cluster::suffix_clash;
use crate::ctx::Ctx;
use crate::error::{Done, refuse};
use crate::net::known_address;
use crate::out;
use crate::plan::{Plan, names};
use mars_policy::{Unit, View};
use mars_tree::{HostName, Key, Snapshot, UnitManager};
use std::net::Ipv4Addr;
use std::time::Duration;

/// The commands of this file.
pub const COMMANDS: &[Command] = &[
    no_cluster(global(
        "lowlevel-ls-host-ips",
        "",
        0,
        0,
        ls_host_ips,
        "List HOST ADDRESS of the cluster",
    )),
    global(
        "lowlevel-set-host-ip",
        "HOST [IP]",
        1,
        2,
        set_host_ip,
        "Change the address of a member (experts)",
    ),
    global(
        "lowlevel-delete-host",
        "HOST",
        1,
        1,
        delete_host,
        "Remove a member's address without asking it (experts; else leave-cluster)",
    ),
];

/// A server that listens on an address that has changed ends at once; it has nothing to write.
const SERVER_STOP: Duration = Duration::from_secs(30);

/// `lowlevel-ls-host-ips`
fn ls_host_ips(ctx: &Ctx, _: &[String]) -> Done {
    let snap = ctx.snapshot()?;
    for host in snap.hosts() {
        if let Some(ip) = snap.text(&Key::Ip(host.clone())) {
            out::say(format!("{host} {ip}"));
        }
    }
    Ok(())
}

/// The argument HOST.
pub fn host_argument(args: &[String]) -> Done<HostName> {
    match args.first().map(|h| h.parse::<HostName>()) {
        Some(Ok(h)) => Ok(h),
        Some(Err(e)) => refuse(e.to_string()),
        None => refuse("argument HOST is missing"),
    }
}

/// Does any link, tombstones included, speak of this host?
fn ever_seen(snap: &Snapshot, host: &HostName) -> bool {
    snap.links
        .keys()
        .any(|p| Key::parse(p).owner() == Some(host))
}

/// `lowlevel-set-host-ip`, as links. Nothing when the host has this address already.
pub fn set_ip_plan(v: &View<'_>, opts: &Options, host: &HostName, ip: Ipv4Addr) -> Done<Plan> {
    let key = Key::Ip(host.clone());
    let old = v.snap.text(&key);
    let mut plan = Plan::default();
    if old == Some(ip.to_string().as_str()) {
        plan.say.push(format!("{host} has address {ip} already"));
        return Ok(plan);
    }
    let others: Vec<HostName> = v.snap.hosts().into_iter().filter(|h| h != host).collect();
    let has_it = |h: &&HostName| {
        let theirs = v.snap.text(&Key::Ip((*h).clone()));
        theirs.and_then(|t| t.parse::<Ipv4Addr>().ok()) == Some(ip)
    };
    if let Some(other) = others.iter().find(has_it)
        && !opts.force
    {
        return refuse(format!(
            "{ip} is the address of {other} already; change that first with lowlevel-set-host-ip (--force: both have it for a while)"
        ));
    }
    match old {
        Some(old) => plan.say.push(format!("{host}: {old} becomes {ip}")),
        None => {
            if let Some(other) = suffix_clash(host, &others) {
                return refuse(format!(
                    "host name {host} cannot be told from {other} by its ending; it cannot be a member of the same cluster"
                ));
            }
            if !ever_seen(v.snap, host) {
                plan.warn.push(format!(
                    "{host} has never been in this cluster; it becomes a member with address {ip} (lowlevel-delete-host {host} undoes this)"
                ));
            }
            plan.say.push(format!("{host}: new member with {ip}"));
        }
    }
    plan.batch.set(key, ip);
    Ok(plan)
}

/// `lowlevel-set-host-ip HOST [IP]`
fn set_host_ip(ctx: &Ctx, args: &[String]) -> Done {
    let host = host_argument(args)?;
    let ip = match args.get(1) {
        Some(ip) => address("IP", ip)?,
        None => known_address(ctx, &host, false)?,
    };
    let snap = ctx.snapshot()?;
    let plan = set_ip_plan(&ctx.view(&snap), &ctx.opts, &host, ip)?;
    ctx.commit(&plan.batch)?;
    plan.warn.iter().for_each(out::warn);
    plan.say.iter().for_each(out::say);
    if host == ctx.env.host {
        restart_servers(ctx)?;
    } else if !plan.batch.is_empty() {
        out::hint(format!(
            "run the same on {host}, and on every host that does not show it in lowlevel-ls-host-ips"
        ));
    }
    Ok(())
}

/// Without systemd the data servers listen on the own address only, which they look up when they start.
fn restart_servers(ctx: &Ctx) -> Done {
    if ctx.env.unit_manager != UnitManager::Direct || ctx.opts.dry_run {
        return Ok(());
    }
    let manager = mars_units::manager(&ctx.env)?;
    let running = manager.running()?;
    for unit in [Unit::FetchServe, Unit::SyncServe] {
        if running.contains(&unit) {
            manager.stop(&unit, SERVER_STOP)?;
        }
    }
    ctx.reconcile()
}

/// `lowlevel-delete-host`, as links.
pub fn delete_host_plan(v: &View<'_>, opts: &Options, host: &HostName) -> Done<Plan> {
    let mut plan = Plan::default();
    if v.snap.get(&Key::Ip(host.clone())).is_none() && !opts.force {
        return refuse(format!(
            "host {host} is not in the cluster (members: {}); see lowlevel-ls-host-ips",
            names(v.snap.hosts())
        ));
    }
    if host == v.local && !opts.force {
        return refuse(format!(
            "{host} is this host, its daemons would stop; use marsadm leave-cluster"
        ));
    }
    let of: Vec<_> = v
        .snap
        .resources()
        .into_iter()
        .filter(|r| v.snap.members(r).contains(host))
        .collect();
    if !of.is_empty() {
        plan.warn.push(format!(
            "{host} stays member of {}; run leave-resource --host={host} --force for each, or the others keep their logs for it",
            names(of)
        ));
    }
    plan.batch.delete(Key::Ip(host.clone()));
    Ok(plan)
}

/// `lowlevel-delete-host HOST`
fn delete_host(ctx: &Ctx, args: &[String]) -> Done {
    let host = host_argument(args)?;
    let snap = ctx.snapshot()?;
    let plan = delete_host_plan(&ctx.view(&snap), &ctx.opts, &host)?;
    ctx.commit(&plan.batch)?;
    plan.warn.iter().for_each(out::warn);
    if host == ctx.env.host {
        ctx.reconcile()?;
    }
    ctx.result(format!(
        "{host} is no member any more; it can come back with lowlevel-set-host-ip"
    ));
    Ok(())
}
