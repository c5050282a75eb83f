//! Two clusters become one (`merge-cluster`): what stands against it, and which links change on both sides. Pure.
//!
//! The cluster whose host gives the command takes the uuid of the other one. That the old uuid has become the new one is a link of its
//! own, [`merged_key`]: hosts that were away meanwhile still come with the old one, and are let in because of it.
use crate::split::{SPLIT_PREFIX, hosts_of};
use mars_tree::{Batch, HostName, Key, ResName, Snapshot};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;

/// Most hosts of one cluster.
pub const HOSTS_MAX: usize = 512;
/// Most resources that a merge handles.
pub const RESOURCES_MAX: usize = 20_000;
/// Below it: old uuids, and what has become of them.
pub const MERGED_PREFIX: &str = "userspace/merged/";

/// Says that the cluster `old` has become another one; the value is the new uuid.
pub fn merged_key(old: &str) -> Key {
    Key::parse(&format!("{MERGED_PREFIX}{old}"))
}

/// Do two uuids mean the same cluster, after these mergers (old, new)? Two merges in opposite directions at the same time make a
/// circle, so the direction does not count.
pub fn same_cluster<'a>(
    a: &'a str,
    b: &str,
    mergers: impl Iterator<Item = (&'a str, &'a str)> + Clone,
) -> bool {
    let mut known: BTreeSet<&str> = BTreeSet::from([a]);
    loop {
        let before = known.len();
        for (old, new) in mergers.clone() {
            if known.contains(old) || known.contains(new) {
                known.extend([old, new]);
            }
        }
        if known.contains(b) {
            return true;
        }
        if known.len() == before {
            return false;
        }
    }
}

/// Is this the id of a real cluster, which can also be the name of a link? (`(any)` is none.)
pub fn is_cluster_id(uuid: &str) -> bool {
    !uuid.is_empty()
        && uuid.len() <= 200
        && !uuid.starts_with(['.', '('])
        && uuid.bytes().all(|b| b.is_ascii_graphic() && b != b'/')
}

/// What a merge has to know of one cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Side {
    /// Its id.
    pub uuid: String,
    /// Hosts and addresses.
    pub hosts: BTreeMap<HostName, IpAddr>,
    /// Resources, with everybody who takes part.
    pub resources: BTreeMap<ResName, BTreeSet<HostName>>,
}

impl Side {
    /// Reads it from a tree. A resource of which only `maxnr` is left was deleted; it is none.
    pub fn of(snap: &Snapshot) -> Side {
        let hosts = snap.hosts().into_iter();
        let with_ip = hosts.filter_map(|h| {
            let ip = snap.text(&Key::Ip(h.clone()))?.parse().ok()?;
            Some((h, ip))
        });
        let exists = |r: &ResName| {
            let maxnr = Key::MaxNr(r.clone()).path();
            snap.live_below(&format!("resource-{r}/"))
                .any(|(p, _)| *p != maxnr)
        };
        let resources = snap.resources().into_iter().filter(exists);
        Side {
            uuid: snap.text(&Key::Uuid).unwrap_or_default().to_string(),
            hosts: with_ip.collect(),
            resources: resources.map(|r| (r.clone(), hosts_of(snap, &r))).collect(),
        }
    }

    /// [`Side::of`] without resources that are nothing but a copy of links over there: what [`revive_batch`] wrote, in this run or in an
    /// earlier one that broke off.
    pub fn of_own(ours: &Snapshot, theirs: &Snapshot) -> Side {
        let mut side = Side::of(ours);
        side.resources.retain(|r, members| {
            let maxnr = Key::MaxNr(r.clone()).path();
            let mut links = ours.live_below(&format!("resource-{r}/"));
            let own = |h: &HostName| side.hosts.contains_key(h);
            members.iter().any(own)
                || links.any(|(path, here)| {
                    let there = theirs.links.get(path).map(|l| &l.value);
                    *path != maxnr && there != Some(&here.value)
                })
        });
        side
    }

    /// Are both one cluster already, every host knowing those of both?
    pub fn is_one_with(&self, other: &Side) -> bool {
        self.uuid == other.uuid && self.hosts == other.hosts
    }
}

/// What stands against a merge.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MergeConflict {
    /// Both clusters have a resource of this name.
    Resource(ResName),
    /// Both have a host of this name, at different addresses.
    Host(HostName, IpAddr, IpAddr),
    /// The same address for two hosts.
    Address(IpAddr, HostName, HostName),
    /// One host name is the end of the other.
    Ending(HostName, HostName),
    /// Together too many of something.
    TooMany(&'static str, usize),
}

impl fmt::Display for MergeConflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MergeConflict::Resource(r) => write!(f, "resource {r} exists in both clusters"),
            MergeConflict::Host(h, a, b) => {
                write!(f, "host {h} exists in both clusters (here {a}, there {b})")
            }
            MergeConflict::Address(ip, a, b) => write!(f, "{a} and {b} both have address {ip}"),
            MergeConflict::Ending(a, b) => {
                write!(f, "host name {a} cannot be told from {b} by its ending")
            }
            MergeConflict::TooMany(what, max) => {
                write!(f, "together more than {max} {what}")
            }
        }
    }
}

/// Do keys that end with one of the names fit both?
fn clash(a: &HostName, b: &HostName) -> bool {
    let ends = |long: &HostName, short: &HostName| long.as_str().ends_with(&format!("-{short}"));
    ends(a, b) || ends(b, a)
}

/// Everything that stands against merging; the same from both sides but for the order of names. Parts of a split cluster have the same
/// uuid and old copies of each other's resources: there a resource is in the way only when it has members on both sides and
/// none in common.
pub fn conflicts(ours: &Side, theirs: &Side) -> Vec<MergeConflict> {
    let mut found = Vec::new();
    let same = ours.uuid == theirs.uuid;
    for (res, members) in &ours.resources {
        let Some(others) = theirs.resources.get(res) else {
            continue;
        };
        let apart = !members.is_empty() && !others.is_empty() && members.is_disjoint(others);
        if !same || apart {
            found.push(MergeConflict::Resource(res.clone()));
        }
    }
    for (host, ip) in &ours.hosts {
        for (other, other_ip) in &theirs.hosts {
            if host == other {
                if ip != other_ip {
                    found.push(MergeConflict::Host(host.clone(), *ip, *other_ip));
                }
            } else if ip == other_ip {
                found.push(MergeConflict::Address(*ip, host.clone(), other.clone()));
            } else if clash(host, other) {
                found.push(MergeConflict::Ending(host.clone(), other.clone()));
            }
        }
    }
    let union = |a: usize, b: usize, max: usize| a + b > max;
    if union(ours.hosts.len(), theirs.hosts.len(), HOSTS_MAX) {
        found.push(MergeConflict::TooMany("hosts", HOSTS_MAX));
    }
    if union(ours.resources.len(), theirs.resources.len(), RESOURCES_MAX) {
        found.push(MergeConflict::TooMany("resources", RESOURCES_MAX));
    }
    found
}

/// Addresses of the other side, and no more parts of a split cluster.
fn union_batch(snap: &Snapshot, theirs: &Side) -> Batch {
    let mut batch = Batch::new();
    for (path, _) in snap.live_below(SPLIT_PREFIX) {
        batch.delete(Key::parse(path));
    }
    for (host, ip) in &theirs.hosts {
        batch.set_if_changed(Key::Ip(host.clone()), ip);
    }
    batch
}

/// The links of the cluster that keeps its uuid, when it lets `theirs` in. The uuid gets a new stamp: the newest wins, and it is to be
/// this one.
pub fn admit_batch(snap: &Snapshot, theirs: &Side) -> Batch {
    let mut batch = union_batch(snap, theirs);
    let ours = snap.text(&Key::Uuid).unwrap_or_default();
    if ours != theirs.uuid {
        batch.set(merged_key(&theirs.uuid), ours);
        batch.set(Key::Uuid, ours);
    }
    batch
}

/// The links of the cluster that takes the uuid of `theirs`, after it was let in. The uuid comes last.
pub fn take_batch(snap: &Snapshot, theirs: &Side) -> Batch {
    let mut batch = union_batch(snap, theirs);
    let ours = snap.text(&Key::Uuid).unwrap_or_default();
    if ours != theirs.uuid {
        batch.set(merged_key(ours), &theirs.uuid);
        batch.set(Key::Uuid, &theirs.uuid);
    }
    batch
}

/// Tombstones of one side would delete live links of the other: a resource of the same name may have been deleted here long after the one
/// over there was made. So the live ones of both are written here with a new stamp, before the clusters hear of each other.
pub fn revive_batch(ours: &Snapshot, theirs: &Snapshot) -> Batch {
    let mut batch = Batch::new();
    for (path, here) in &ours.links {
        let Some(there) = theirs.links.get(path) else {
            continue;
        };
        let key = Key::parse(path);
        let shared = path.starts_with("resource-") || path.starts_with("defaults");
        if !shared || !key.is_replicated() || matches!(key, Key::Log(..)) {
            continue;
        }
        let (live, dead) = match (here.value.is_deleted(), there.value.is_deleted()) {
            (true, false) => (there, here),
            (false, true) => (here, there),
            _ => continue,
        };
        if let Some(text) = live.value.as_str().filter(|_| dead.stamp >= live.stamp) {
            batch.set(key, text);
        }
    }
    batch
}
