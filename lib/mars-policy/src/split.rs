//! A cluster falls into parts (`split-cluster`): which hosts belong together, and what a part forgets of the others. Pure.
//!
//! Every host gets a link with the name of its part, [`split_key`]. The links reach everybody; some time later, [`PARTING`], each
//! `mars-meta` talks to its own part only and forgets the others by itself. Addresses are not deleted by tombstones: one that got
//! into another part would throw hosts out of it.
use mars_tree::{HostName, Key, ResName, Snapshot, Stamp};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Below it: the part of each host.
pub const SPLIT_PREFIX: &str = "userspace/split/";
/// From the moment when a host has seen the order until it obeys. In this time the order must have reached everybody, or is
/// taken back.
pub const PARTING: Duration = Duration::from_secs(5);

/// The part that a host belongs to.
pub fn split_key(host: &HostName) -> Key {
    Key::parse(&format!("{SPLIT_PREFIX}{host}"))
}

/// The name of a part: its first host, and when it was made.
pub fn part_name(part: &BTreeSet<HostName>, now: Stamp) -> String {
    let first = part.first().map_or("", |h| h.as_str());
    format!("{first}_{now}")
}

/// Everybody who takes part in a resource, with a disk or as a guest.
pub fn hosts_of(snap: &Snapshot, res: &ResName) -> BTreeSet<HostName> {
    let guests = snap
        .live_below(&format!("resource-{res}/device-"))
        .filter_map(|(path, _)| Key::parse(path).owner().cloned());
    snap.members(res).into_iter().chain(guests).collect()
}

/// Hosts of the cluster that share a resource, directly or through others. Sorted by the first host of each part.
pub fn parts(snap: &Snapshot) -> Vec<BTreeSet<HostName>> {
    let mut parts: Vec<BTreeSet<HostName>> = snap
        .hosts()
        .into_iter()
        .map(|h| BTreeSet::from([h]))
        .collect();
    for res in snap.resources() {
        let hosts = hosts_of(snap, &res);
        let (together, mut others): (Vec<_>, Vec<_>) =
            parts.into_iter().partition(|p| !p.is_disjoint(&hosts));
        let joined: BTreeSet<HostName> = together.into_iter().flatten().collect();
        if !joined.is_empty() {
            others.push(joined);
        }
        parts = others;
    }
    parts.sort();
    parts
}

/// Hosts that belong to another part than `me`, by the names of the parts; nobody when the part of `me` is not known.
pub fn apart(parts: &BTreeMap<HostName, String>, me: &HostName) -> BTreeSet<HostName> {
    let Some(mine) = parts.get(me) else {
        return BTreeSet::new();
    };
    let others = parts.iter().filter(|(_, part)| *part != mine);
    others.map(|(h, _)| h.clone()).collect()
}

/// What the tree of a part still says about hosts `apart` from it and about resources that only they have; tombstones included.
pub fn forgotten(snap: &Snapshot, apart: &BTreeSet<HostName>) -> Vec<Key> {
    let gone: BTreeSet<String> = snap
        .resources()
        .into_iter()
        .filter(|r| {
            let hosts = hosts_of(snap, r);
            !hosts.is_empty() && hosts.is_subset(apart)
        })
        .map(|r| format!("resource-{r}"))
        .collect();
    let global = |key: &Key| match key {
        Key::Ip(h) | Key::HostActual(h, _) | Key::HostDefault(h, _) => apart.contains(h),
        _ => false,
    };
    let mut keys = Vec::new();
    for path in snap.links.keys() {
        let key = Key::parse(path);
        let dir = path.split('/').next().unwrap_or_default();
        if global(&key) || gone.contains(dir) {
            keys.push(key);
        }
    }
    keys
}
