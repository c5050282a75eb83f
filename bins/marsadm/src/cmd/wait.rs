//! wait-cluster, wait-connect, wait-resource, wait-umount, role (marsadm-commands.md sections 7 and 9).
use crate::ctx::{Ctx, TIMEOUT_CLUSTER_SECS, TIMEOUT_RESOURCE_SECS, TIMEOUT_SECS, until};
use crate::error::{Done, nearest, refuse, show, usage};
use crate::out;
use crate::peers::known_only;
use crate::plan::{designated, device_name, is_actual, names};
use mars_policy::View;
use mars_tree::{HostName, ResName, Snapshot, TodoSwitch};
use std::collections::BTreeSet;

/// The hosts whose state matters: members of `res`, or of all resources of the acting host, or (a host without any) everybody.
pub fn relevant_peers(snap: &Snapshot, me: &HostName, res: Option<&ResName>) -> BTreeSet<HostName> {
    let hosts: Vec<HostName> = match res {
        Some(res) => snap.members(res),
        None => {
            let mine: Vec<HostName> = snap
                .resources()
                .iter()
                .map(|r| snap.members(r))
                .filter(|m| m.contains(me))
                .flatten()
                .collect();
            if mine.iter().any(|h| h != me) {
                mine
            } else {
                snap.hosts()
            }
        }
    };
    hosts.into_iter().filter(|h| h != me).collect()
}

/// `wait-cluster [RES]`, `wait-connect [RES]`; `everybody`: `update-cluster`.
pub fn wait_cluster(ctx: &Ctx, res: Option<&ResName>, everybody: bool) -> Done {
    let snap = ctx.snapshot()?;
    let peers = if everybody && res.is_none() {
        snap.hosts().into_iter().filter(|h| *h != ctx.me).collect()
    } else {
        relevant_peers(&snap, &ctx.me, res)
    };
    // Who has no address cannot be asked.
    let peers = match ctx.opts.ignore_deleted_peers {
        0 => peers,
        _ => known_only(&snap, peers),
    };
    let dead = ctx.wait_peers(&peers, TIMEOUT_CLUSTER_SECS)?;
    if !dead.is_empty() {
        return refuse(format!(
            "dead hosts: {} ({} of {} answered); repair the network or the hosts, or go on without them",
            names(&dead),
            peers.len() - dead.len(),
            peers.len()
        ));
    }
    Ok(())
}

/// What `wait-resource` can wait for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Condition {
    kind: Kind,
    on: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Kind {
    Switch(TodoSwitch),
    Actual(&'static str),
    Designated,
}

const CONDITIONS: [&str; 12] = [
    "attach",
    "fetch",
    "replay",
    "sync",
    "primary",
    "device",
    "is-attach",
    "is-fetch",
    "is-replay",
    "is-sync",
    "is-primary",
    "is-device",
];

/// Reads `[is-|has-|todo-]WORD[-on|-off|-1|-0]`.
pub fn parse_condition(text: &str) -> Done<Condition> {
    let (word, on) = [("-on", true), ("-1", true), ("-off", false), ("-0", false)]
        .into_iter()
        .find_map(|(s, on)| Some((text.strip_suffix(s)?, on)))
        .unwrap_or((text, true));
    let (word, is) = match (
        word.strip_prefix("is-")
            .or_else(|| word.strip_prefix("has-")),
        word.strip_prefix("todo-"),
    ) {
        (Some(w), _) => (w, true),
        (_, Some(w)) => (w, false),
        _ => (word, false),
    };
    let kind = match (word, is) {
        ("attach" | "attached", true) => Kind::Actual("is-attached"),
        ("fetch" | "connect" | "copying", true) => Kind::Actual("is-copying"),
        ("replay" | "replaying", true) => Kind::Actual("is-replaying"),
        ("sync" | "syncing", true) => Kind::Actual("is-syncing"),
        ("primary", true) => Kind::Actual("is-primary"),
        ("device", _) => Kind::Actual("if-on"),
        ("attach", false) => Kind::Switch(TodoSwitch::Attach),
        ("fetch" | "connect", false) => Kind::Switch(TodoSwitch::Connect),
        ("replay", false) => Kind::Switch(TodoSwitch::AllowReplay),
        ("sync", false) => Kind::Switch(TodoSwitch::Sync),
        ("primary", false) => Kind::Designated,
        ("secondary", is) => {
            let kind = if is {
                Kind::Actual("is-primary")
            } else {
                Kind::Designated
            };
            return Ok(Condition { kind, on: !on });
        }
        _ => {
            let hint = nearest(word, CONDITIONS).unwrap_or("is-device-on");
            return usage(format!(
                "unknown condition {}; did you mean {hint}? (known: [is-]attach, fetch, replay, sync, primary, device with -on or -off)",
                show(text)
            ));
        }
    };
    Ok(Condition { kind, on })
}

/// Does it hold for `v.me`?
pub fn holds(v: &View<'_>, res: &ResName, c: Condition) -> bool {
    let now = match c.kind {
        Kind::Switch(s) => v.snap.todo(res, v.me, s),
        Kind::Actual(name) => is_actual(v.snap, res, v.me, name),
        Kind::Designated => designated(v.snap, res).as_ref() == Some(v.me),
    };
    now == c.on
}

/// `wait-resource RES COND`
pub fn wait_resource(ctx: &Ctx, res: &ResName, args: &[String]) -> Done {
    let text = args.first().map_or("is-device-on", String::as_str);
    let condition = parse_condition(text)?;
    let me = ctx.me.clone();
    ctx.wait(
        res,
        &format!("{text} of resource {res} holds on {me}"),
        TIMEOUT_RESOURCE_SECS,
        |v| {
            until(holds(v, res, condition), || {
                format!("{text} does not hold yet")
            })
        },
    )
}

/// `wait-umount RES`: the device of the designated primary, else the local one.
pub fn wait_umount(ctx: &Ctx, res: &ResName, _: &[String]) -> Done {
    let snap = ctx.snapshot()?;
    let host = designated(&snap, res).unwrap_or_else(|| ctx.me.clone());
    let device = device_name(&snap, res, &host);
    ctx.wait(
        res,
        &format!("device {device} is not open on {host}"),
        TIMEOUT_SECS,
        |v| {
            let openers = v.snap.actual(res, &host, "open-count").unwrap_or(0);
            until(openers == 0, || format!("opened {openers} times"))
        },
    )
}

/// `role RES`
pub fn role(ctx: &Ctx, res: &ResName, _: &[String]) -> Done {
    let snap = ctx.snapshot()?;
    let word = if is_actual(&snap, res, &ctx.me, "is-primary") {
        "primary"
    } else {
        "secondary"
    };
    let elsewhere = match designated(&snap, res) {
        Some(p) if p != ctx.me => format!(" and {p} should be primary"),
        _ => String::new(),
    };
    out::say(format!("I am actually {word}{elsewhere}"));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn conditions_of_the_manual() {
        let c = |t: &str| parse_condition(t).unwrap();
        assert_eq!(c("is-device"), c("is-device-on"));
        assert_eq!(c("device-on"), c("is-device-on"));
        assert_eq!(c("attach").kind, Kind::Switch(TodoSwitch::Attach));
        assert_eq!(
            c("is-attach-off"),
            Condition {
                kind: Kind::Actual("is-attached"),
                on: false
            }
        );
        assert_eq!(c("is-primary-0"), c("is-secondary"));
        assert_eq!(c("todo-fetch-1").kind, Kind::Switch(TodoSwitch::Connect));
        assert_eq!(c("primary").kind, Kind::Designated);
        for bad in [
            "",
            "is-",
            "fly",
            "is-device-maybe",
            "-on",
            "device on",
            "a\nb",
        ] {
            let text = parse_condition(bad).unwrap_err().to_string();
            assert!(
                text.contains("unknown condition") && text.lines().count() == 1,
                "{text}"
            );
        }
    }
}
