//! merge-cluster, merge-cluster-check, merge-cluster-list (marsadm-commands.md section 2): two clusters become one, over the metadata port.
//!
//! Order: look at the other cluster; save what this one is made of; write anew what the other one's deletions would hit; ask to be let
//! in; take the other uuid. Until the last step this cluster goes on as it was; a run that breaks off before is repeated.
use super::{Command, global};
use crate::backup;
use crate::cli::address;
use crate::cmd::lowlevel::host_argument;
use crate::ctx::{Ctx, TIMEOUT_CLUSTER_SECS, peer_time, until};
use crate::error::{CmdError, Done, one_line, refuse, show};
use crate::net::known_address;
use crate::out;
use crate::plan::names;
use mars_net::{ConnectOptions, FrameError, HelloError, MergeRequest, Visit, VisitLink, bind_for};
use mars_policy::merge::{Side, conflicts, is_cluster_id, revive_batch, take_batch};
use mars_tree::{HostName, Key, Link, Snapshot, Stamp, Value};
use std::collections::BTreeSet;
use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

/// The commands of this file.
pub const COMMANDS: &[Command] = &[
    global(
        "merge-cluster",
        "HOST [IP]",
        1,
        2,
        merge_cluster,
        "Make one cluster of this one and that of HOST",
    ),
    global(
        "merge-cluster-check",
        "HOST [IP]",
        1,
        2,
        merge_cluster_check,
        "Say whether merge-cluster HOST would work; changes nothing",
    ),
    global(
        "merge-cluster-list",
        "",
        0,
        0,
        merge_cluster_list,
        "List uuid, addresses and resources of this cluster",
    ),
];

/// Connecting, and silence of the other side afterwards.
const PATIENCE: Duration = Duration::from_secs(10);
/// Conflicts that are listed one by one.
const LISTED_MAX: usize = 100;

/// `merge-cluster-list`, as lines.
pub fn list(snap: &Snapshot, root: &std::path::Path) -> Vec<String> {
    let side = Side::of(snap);
    let mut lines = vec![format!("UUID: {}", side.uuid), "IPs:".to_string()];
    let path = |key: &str| root.join(key).display().to_string();
    lines.extend(snap.hosts().iter().map(|h| path(&format!("ips/ip-{h}"))));
    lines.push("RESOURCEs:".to_string());
    let resources = snap.resources().into_iter();
    let exist = resources.filter(|r| side.resources.contains_key(r));
    lines.extend(exist.map(|r| path(&format!("resource-{r}"))));
    lines
}

/// `merge-cluster-list`
fn merge_cluster_list(ctx: &Ctx, _: &[String]) -> Done {
    let snap = ctx.snapshot()?;
    list(&snap, ctx.tree.root()).iter().for_each(out::say);
    Ok(())
}

/// The host of the other cluster.
struct Target {
    host: HostName,
    ip: Ipv4Addr,
}

fn target(ctx: &Ctx, args: &[String]) -> Done<Target> {
    let host = host_argument(args)?;
    if host == ctx.env.host {
        return refuse(format!(
            "{host} is this host; name a host of the other cluster"
        ));
    }
    if !ctx.is_local() {
        return refuse(format!(
            "merging is done by {} for its whole cluster; leave out --host={}",
            ctx.env.host, ctx.me
        ));
    }
    let ip = match args.get(1) {
        Some(ip) => address("IP", ip)?,
        None => known_address(ctx, &host, true)?,
    };
    Ok(Target { host, ip })
}

/// Calls on the other cluster and reads its tree. The connection stays for a request.
fn look(ctx: &Ctx, to: &Target) -> Done<(Visit, Snapshot)> {
    let own = ctx.tree.text(&Key::Ip(ctx.me.clone()))?;
    let opts = ConnectOptions {
        bind: bind_for(own.and_then(|t| t.parse::<IpAddr>().ok())),
        timeout: PATIENCE,
        read_timeout: PATIENCE,
    };
    let at = (IpAddr::V4(to.ip), ctx.env.port);
    let place = format!("{} ({} port {})", to.host, to.ip, ctx.env.port);
    let mut visit = Visit::begin(at, ctx.me.as_str(), to.host.as_str(), &opts)
        .map_err(|e| unreachable(&place, e))?;
    let (links, now) = visit.tree().map_err(|e| broken(&place, e))?;
    observe(ctx, &place, now)?;
    let snap = snapshot(links);
    let uuid = snap.text(&Key::Uuid).unwrap_or_default();
    if !is_cluster_id(uuid) || uuid != visit.uuid() {
        return refuse(format!(
            "{place} belongs to no cluster that can be merged (its uuid is {})",
            show(visit.uuid())
        ));
    }
    Ok((visit, snap))
}

fn unreachable(place: &str, e: HelloError) -> CmdError {
    let advice = match e {
        HelloError::Io(_) => "is marsadm start done there, the address right, the port open?",
        HelloError::RefusedByPeer(_) => "is it in a cluster, and of the same release?",
        _ => "is the address right?",
    };
    CmdError::Failed(one_line(&format!("{place}: {e}; {advice}")))
}

fn broken(place: &str, e: FrameError) -> CmdError {
    CmdError::Failed(one_line(&format!("{place}: {e}; try again")))
}

/// Stamps from now on are newer than everything over there.
fn observe(ctx: &Ctx, place: &str, now: u64) -> Done {
    let now = Stamp::from_nanos(now);
    if ctx.tree.clock().guard(now).is_err() {
        return refuse(format!(
            "the clock of {place} is more than 30 days ahead; repair that first"
        ));
    }
    ctx.tree.clock().observe(now);
    Ok(())
}

/// The other tree, as far as its links are sound.
fn snapshot(links: Vec<VisitLink>) -> Snapshot {
    let mut snap = Snapshot::default();
    for l in links {
        if let Ok(value) = Value::new(l.value.as_slice())
            && Key::parse(&l.path).is_replicated()
        {
            let stamp = Stamp::from_nanos(l.stamp);
            snap.links.insert(l.path, Link { value, stamp });
        }
    }
    snap
}

/// Own cluster and the other one, if nothing stands against a merge; `None` when they are one already.
fn compare(ours: &Snapshot, theirs: &Snapshot, host: &HostName) -> Done<Option<(Side, Side)>> {
    let (ours, theirs) = (Side::of_own(ours, theirs), Side::of(theirs));
    if !is_cluster_id(&ours.uuid) {
        return refuse(format!(
            "the uuid of this cluster is {}; a cluster that is still being joined cannot be merged",
            show(&ours.uuid)
        ));
    }
    if ours.is_one_with(&theirs) {
        return Ok(None);
    }
    let found = conflicts(&ours, &theirs);
    if found.is_empty() {
        return Ok(Some((ours, theirs)));
    }
    for conflict in found.iter().take(LISTED_MAX) {
        out::say(format!("CONFLICT: {conflict}"));
    }
    let what: Vec<String> = found.iter().take(3).map(ToString::to_string).collect();
    let more = match found.len() {
        0..=3 => String::new(),
        n => format!(" and {} more", n - 3),
    };
    refuse(format!(
        "the cluster of {host} cannot be merged with this one: {}{more}; no option lifts this, rename or remove one of each",
        what.join(", ")
    ))
}

fn describe(what: &str, side: &Side) -> String {
    let list = |names: Vec<String>| match names.is_empty() {
        true => "none".to_string(),
        false => names.join(", "),
    };
    fn texts<T: Display>(items: impl Iterator<Item = T>) -> Vec<String> {
        items.map(|i| i.to_string()).collect()
    }
    format!(
        "{what}: {}, hosts {}, resources {}",
        side.uuid,
        list(texts(side.hosts.keys())),
        list(texts(side.resources.keys()))
    )
}

fn already_one(host: &HostName) -> String {
    format!("{host} and this host are in one cluster already, nothing to do")
}

/// `merge-cluster-check HOST [IP]`
fn merge_cluster_check(ctx: &Ctx, args: &[String]) -> Done {
    let to = target(ctx, args)?;
    let (_, theirs) = look(ctx, &to)?;
    match compare(&ctx.snapshot()?, &theirs, &to.host)? {
        None => out::say(already_one(&to.host)),
        Some((ours, theirs)) => {
            out::say(describe("this cluster", &ours));
            out::say(describe(&format!("cluster of {}", to.host), &theirs));
            out::say(format!(
                "no conflicts; marsadm merge-cluster {} {} makes one cluster of both",
                to.host, to.ip
            ));
        }
    }
    Ok(())
}

/// Hosts of this cluster that should hear of it at once; those that do not answer are named.
fn tell_own(ctx: &Ctx) -> Done<BTreeSet<HostName>> {
    let snap = ctx.snapshot()?;
    let mut others: BTreeSet<HostName> = snap.hosts().into_iter().collect();
    others.remove(&ctx.me);
    let dead = ctx.wait_peers(&others, TIMEOUT_CLUSTER_SECS)?;
    for host in &dead {
        out::warn(format!(
            "host {host} does not answer; it learns of the merge when it comes back"
        ));
        others.remove(host);
    }
    Ok(others)
}

/// `merge-cluster HOST [IP]`
fn merge_cluster(ctx: &Ctx, args: &[String]) -> Done {
    let to = target(ctx, args)?;
    if !ctx.engine_running() {
        return refuse(format!(
            "mars-meta is not running on {}, nobody would hear of the merge; run marsadm start first",
            ctx.env.host
        ));
    }
    let (_, theirs) = look(ctx, &to)?;
    let Some((ours, _)) = compare(&ctx.snapshot()?, &theirs, &to.host)? else {
        out::say(already_one(&to.host));
        return Ok(());
    };
    let awake = tell_own(ctx)?;
    let snap = ctx.snapshot()?;
    let dir = backup::save(ctx, &snap)?;
    if ours.uuid != Side::of(&theirs).uuid {
        let revived = revive_batch(&snap, &theirs);
        if !revived.is_empty() {
            ctx.commit(&revived)?;
            // Deletions that would hit live links of the other cluster are gone at everybody who is here.
            ctx.wait_peers(&awake, TIMEOUT_CLUSTER_SECS)?;
        }
    }
    // Both trees again: what was made meanwhile counts, too.
    let (mut visit, theirs) = look(ctx, &to)?;
    let snap = ctx.snapshot()?;
    let Some((ours, other)) = compare(&snap, &theirs, &to.host)? else {
        out::say(already_one(&to.host));
        return Ok(());
    };
    if !ctx.opts.dry_run {
        ask(ctx, &to, &mut visit, &ours, &other)?;
    } else {
        out::say(format!("would ask {} to let this cluster in", to.host));
    }
    ctx.commit(&take_batch(&snap, &other))?;
    wait_for(ctx, &to, &theirs, &other, &awake)?;
    ctx.reconcile()?;
    ctx.result(format!(
        "one cluster {} now: hosts {}; what this one was made of is saved below {}",
        other.uuid,
        names(ctx.snapshot()?.hosts()),
        dir.display()
    ));
    Ok(())
}

/// Asks the other side to let this cluster in.
fn ask(ctx: &Ctx, to: &Target, visit: &mut Visit, ours: &Side, other: &Side) -> Done {
    let resources = ours.resources.iter().map(|(r, members)| {
        let members = members.iter().map(ToString::to_string).collect();
        (r.to_string(), members)
    });
    let hosts = ours.hosts.iter();
    let request = MergeRequest {
        now: ctx.tree.clock().now().as_nanos(),
        from: ours.uuid.clone(),
        into: other.uuid.clone(),
        hosts: hosts
            .map(|(h, ip)| (h.to_string(), ip.to_string()))
            .collect(),
        resources: resources.collect(),
    };
    let place = format!("{} ({})", to.host, to.ip);
    let answer = visit.ask(&request).map_err(|e| broken(&place, e))?;
    observe(ctx, &place, answer.now)?;
    match answer.refused {
        None => Ok(()),
        Some(why) => refuse(one_line(&format!(
            "{place} does not let this cluster in: {why}"
        ))),
    }
}

/// Waits until everything of the other cluster has arrived, and until everybody has heard everything of this one.
fn wait_for(
    ctx: &Ctx,
    to: &Target,
    theirs: &Snapshot,
    other: &Side,
    awake: &BTreeSet<HostName>,
) -> Done {
    let limit = ctx.opts.limit(TIMEOUT_CLUSTER_SECS);
    // The heartbeat of a host comes after all links that were there before it.
    let expected: Vec<(&HostName, Stamp)> = other
        .hosts
        .keys()
        .filter(|h| **h != ctx.me)
        .filter_map(|h| Some((h, peer_time(theirs, h)?)))
        .collect();
    let arrived = ctx.wait_full(
        None,
        &format!("the links of {}'s cluster are here", to.host),
        limit,
        None,
        |v| {
            let missing = expected
                .iter()
                .filter(|(h, time)| peer_time(v.snap, h).is_none_or(|t| t < *time));
            let missing: Vec<&HostName> = missing.map(|(h, _)| *h).collect();
            until(missing.is_empty(), || {
                format!("nothing yet from {}", names(missing))
            })
        },
    );
    let done = arrived.and_then(|()| {
        let everybody: BTreeSet<HostName> =
            awake.iter().chain(other.hosts.keys()).cloned().collect();
        for silent in ctx.wait_peers(&everybody, TIMEOUT_CLUSTER_SECS)? {
            out::warn(format!(
                "host {silent} does not answer, it learns of this later"
            ));
        }
        Ok(())
    });
    done.map_err(|e| match e {
        CmdError::Timeout(t) => CmdError::Timeout(format!(
            "the clusters are merged, but not everybody has heard of it: {t}; see marsadm wait-cluster"
        )),
        other => other,
    })
}
