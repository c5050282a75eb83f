//! Who may talk to us. Pure.
use mars_net::{Hello, Refusal, VISITOR};
use mars_policy::merge::{is_cluster_id, same_cluster};
use mars_tree::{HostName, Stamp};
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

/// The uuid of a host that is about to join.
pub const ANY: &str = "(any)";
/// More members than this are not dialled: no real cluster has so many, and a broken or hostile member could invent them.
pub const MEMBERS_MAX: usize = mars_policy::merge::HOSTS_MAX;
/// More mergers than this are not remembered.
const MERGERS_MAX: usize = 256;

/// What the tree says about the cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Gate {
    /// This host.
    pub me: HostName,
    /// `uuid`; `None` = in no cluster yet.
    pub uuid: Option<String>,
    /// Live `ips/ip-*`, own one included.
    pub members: BTreeMap<HostName, IpAddr>,
    /// Tombstones of `ips/ip-*`: hosts that left or were removed, and when.
    pub removed: BTreeMap<HostName, Stamp>,
    /// Clusters that have become this one (old uuid, new uuid). Hosts that were away at that time still come with the old one.
    pub mergers: BTreeMap<String, String>,
    /// Hosts of other parts, after a split.
    pub apart: BTreeSet<HostName>,
}

/// What a host hears that was removed while it was away. It names the cluster, so that it means nothing to members of another one.
fn removal_text(host: &HostName, uuid: &str) -> String {
    format!("host {host} was removed from cluster {uuid} at ")
}

impl Gate {
    /// Reads it from the links: the value of `uuid`, and (host, address) pairs of `ips/ip-*`; damaged ones are left out and returned.
    pub fn new<'a>(
        me: HostName,
        uuid: Option<&str>,
        ips: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> (Gate, Vec<String>) {
        let mut members = BTreeMap::new();
        let mut damaged = Vec::new();
        for (host, ip) in ips {
            match (host.parse::<HostName>(), ip.parse::<IpAddr>()) {
                (Ok(h), Ok(ip)) if members.len() < MEMBERS_MAX || h == me => {
                    members.insert(h, ip);
                }
                _ => damaged.push(format!("ips/ip-{host} -> {ip}")),
            }
        }
        let uuid = uuid.map(str::to_string);
        let gate = Gate {
            me,
            uuid,
            members,
            removed: BTreeMap::new(),
            mergers: BTreeMap::new(),
            apart: BTreeSet::new(),
        };
        (gate, damaged)
    }

    /// Takes note of tombstones of `ips/ip-*`: (host, stamp).
    pub fn note_removed<'a>(&mut self, tombstones: impl Iterator<Item = (&'a str, Stamp)>) {
        let hosts = tombstones.filter_map(|(host, at)| Some((host.parse().ok()?, at)));
        self.removed = hosts.take(MEMBERS_MAX).collect();
    }

    /// Takes note of mergers: (old uuid, new uuid).
    pub fn note_mergers<'a>(&mut self, mergers: impl Iterator<Item = (&'a str, &'a str)>) {
        let real = mergers.filter(|(a, b)| is_cluster_id(a) && is_cluster_id(b));
        let owned = real.map(|(a, b)| (a.to_string(), b.to_string()));
        self.mergers = owned.take(MERGERS_MAX).collect();
    }

    /// Takes note of hosts that a split has put into other parts: they are members no more.
    pub fn note_apart(&mut self, apart: BTreeSet<HostName>) {
        self.members.retain(|h, _| !apart.contains(h));
        self.apart = apart;
    }

    /// Does a peer's refusal say that this very host was removed from this very cluster? The stamp of the tombstone.
    pub fn removal(&self, refusal: &str) -> Option<Stamp> {
        let text = removal_text(&self.me, self.uuid.as_deref()?);
        refusal.strip_prefix(&text)?.parse().ok()
    }

    /// The own address.
    pub fn my_ip(&self) -> Option<IpAddr> {
        self.members.get(&self.me).copied()
    }

    /// Is this host, or is that peer, joining?
    fn joining(&self, peer_uuid: &str) -> bool {
        peer_uuid == ANY || self.uuid.as_deref() == Some(ANY)
    }

    /// Are links from a peer with this uuid acceptable?
    pub fn same_cluster(&self, peer_uuid: &str) -> Result<(), Refusal> {
        match &self.uuid {
            None => Err(Refusal::Other(format!(
                "host {} is in no cluster yet",
                self.me
            ))),
            Some(_) if self.joining(peer_uuid) => Ok(()),
            Some(u) if u == peer_uuid => Ok(()),
            Some(u) if self.has_merged(u, peer_uuid) => Ok(()),
            Some(u) => Err(Refusal::Uuid {
                theirs: peer_uuid.to_string(),
                ours: u.clone(),
            }),
        }
    }

    fn has_merged(&self, ours: &str, theirs: &str) -> bool {
        let mergers = self.mergers.iter().map(|(a, b)| (a.as_str(), b.as_str()));
        same_cluster(ours, theirs, mergers)
    }

    /// The uuid that a caller hears. One that was away during a merge knows only its old id, and would take the new one for that of a
    /// foreign cluster: it hears the old one, which means the same cluster, and finds the merge among the links.
    pub fn answer_uuid(&self, caller: &str, ours: &str) -> String {
        match is_cluster_id(caller) && self.has_merged(ours, caller) {
            true => caller.to_string(),
            false => ours.to_string(),
        }
    }

    /// Is this a visitor that may look? Any host of any other cluster may; it gets no connection and no say, see `visit`.
    fn is_visitor(&self, peer: &Hello, dialled: Option<&HostName>) -> bool {
        peer.uuid == VISITOR && dialled.is_none() && self.uuid.as_deref().is_some_and(is_cluster_id)
    }

    /// May this peer talk to us? `dialled` is the host that we wanted to reach, when we did.
    pub fn check(&self, peer: &Hello, dialled: Option<&HostName>) -> Result<(), Refusal> {
        let host: HostName = peer
            .host
            .parse()
            .map_err(|_| Refusal::Other(format!("invalid host name {:?}", peer.host)))?;
        let visitor = self.is_visitor(peer, dialled);
        if !visitor {
            self.same_cluster(&peer.uuid)?;
        }
        if let Some(wanted) = dialled.filter(|w| **w != host) {
            return Err(Refusal::Other(format!(
                "expected host {wanted:?} at this address, found {:?}; check ips/ip-{wanted}",
                peer.host,
                wanted = wanted.as_str()
            )));
        }
        if host == self.me {
            return Err(Refusal::Other(format!(
                "host name {:?} is used twice",
                peer.host
            )));
        }
        if visitor {
            return Ok(());
        }
        if self.apart.contains(&host) && !self.joining(&peer.uuid) {
            return Err(Refusal::Other(format!(
                "the cluster was split, host {host} is in another part than {}",
                self.me
            )));
        }
        if !self.joining(&peer.uuid) && !self.members.contains_key(&host) {
            // The peer named our uuid, so it was one of us. It may have been away when it was removed; it cannot hear of that otherwise.
            return Err(match self.removed.get(&host) {
                Some(at) => Refusal::Other(format!("{}{at}", removal_text(&host, &peer.uuid))),
                None => Refusal::Host(peer.host.clone()),
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use mars_net::Service;

    fn gate(uuid: Option<&str>) -> Gate {
        let ips = [
            ("alpha", "127.0.0.2"),
            ("beta", "127.0.0.3"),
            ("x.y", "1.2.3.4"),
            ("gamma", "nowhere"),
        ];
        let (g, damaged) = Gate::new("alpha".parse().unwrap(), uuid, ips.into_iter());
        assert_eq!(damaged.len(), 2);
        g
    }
    fn hello(uuid: &str, host: &str) -> Hello {
        Hello::new(Service::Meta, uuid, host)
    }

    #[test]
    fn members_of_the_same_cluster_are_let_in() {
        let g = gate(Some("u"));
        let beta: HostName = "beta".parse().unwrap();
        assert_eq!(g.check(&hello("u", "beta"), None), Ok(()));
        assert_eq!(g.check(&hello("u", "beta"), Some(&beta)), Ok(()));
        assert!(matches!(
            g.check(&hello("v", "beta"), None),
            Err(Refusal::Uuid { .. })
        ));
        assert!(matches!(
            g.check(&hello("u", "gamma"), None),
            Err(Refusal::Host(_))
        ));
        assert!(matches!(
            g.check(&hello("u", "alpha"), None),
            Err(Refusal::Other(_))
        ));
        assert!(matches!(
            g.check(&hello("u", "delta"), Some(&beta)),
            Err(Refusal::Other(_))
        ));
        assert!(matches!(
            gate(None).check(&hello("u", "beta"), None),
            Err(Refusal::Other(_))
        ));
    }

    #[test]
    fn removed_hosts_are_told_so_but_only_by_their_own_cluster() {
        let mut g = gate(Some("u"));
        let at: Stamp = "1700000000.123456789".parse().unwrap();
        g.note_removed([("delta", at), ("not a name", at)].into_iter());
        let refusal = g.check(&hello("u", "delta"), None).unwrap_err().to_string();
        let mut delta = gate(Some("u"));
        delta.me = "delta".parse().unwrap();
        assert_eq!(delta.removal(&refusal), Some(at));
        assert_eq!(g.removal(&refusal), None, "somebody else");
        assert_eq!(delta.removal(&format!("{refusal}x")), None);
        for uuid in [None, Some("v"), Some(ANY)] {
            delta.uuid = uuid.map(String::from);
            assert_eq!(delta.removal(&refusal), None, "{uuid:?}");
        }
        assert!(matches!(
            g.check(&hello("v", "delta"), None),
            Err(Refusal::Uuid { .. })
        ));
        // It may join again.
        assert_eq!(g.check(&hello(ANY, "delta"), None), Ok(()));
    }

    #[test]
    fn former_ids_are_let_in_for_members_only() {
        let mut g = gate(Some("new"));
        assert!(g.check(&hello("old", "beta"), None).is_err());
        let links = [
            ("old", "mid"),
            ("mid", "new"),
            ("(any)", "new"),
            ("other", "else"),
        ];
        g.note_mergers(links.into_iter());
        for uuid in ["old", "mid", "new"] {
            assert_eq!(g.check(&hello(uuid, "beta"), None), Ok(()), "{uuid}");
            assert!(g.check(&hello(uuid, "stranger"), None).is_err(), "{uuid}");
        }
        for uuid in ["other", "else", "", "foreign"] {
            assert!(
                matches!(
                    g.check(&hello(uuid, "beta"), None),
                    Err(Refusal::Uuid { .. })
                ),
                "{uuid}"
            );
        }
        // Who comes with a former id hears it; all others hear the present one.
        assert_eq!(g.answer_uuid("old", "new"), "old");
        for other in ["foreign", ANY, VISITOR, ""] {
            assert_eq!(g.answer_uuid(other, "new"), "new", "{other}");
        }
        // The one that was away meets the new ones.
        let mut away = gate(Some("old"));
        away.note_mergers(links.into_iter());
        assert_eq!(away.check(&hello("new", "beta"), None), Ok(()));
    }

    #[test]
    fn visitors_may_look_when_they_call_and_are_nobody_of_ours() {
        let g = gate(Some("u"));
        let beta: HostName = "beta".parse().unwrap();
        assert_eq!(g.check(&hello(VISITOR, "stranger"), None), Ok(()));
        assert!(
            g.check(&hello(VISITOR, "beta"), Some(&beta)).is_err(),
            "dialled by us"
        );
        assert!(
            g.check(&hello(VISITOR, "alpha"), None).is_err(),
            "our own name"
        );
        assert!(gate(None).check(&hello(VISITOR, "stranger"), None).is_err());
        assert!(
            gate(Some(ANY))
                .check(&hello(VISITOR, "stranger"), Some(&beta))
                .is_err()
        );
    }

    #[test]
    fn hosts_of_other_parts_are_no_members() {
        let mut g = gate(Some("u"));
        g.note_apart(BTreeSet::from(["beta".parse().unwrap()]));
        let e = g.check(&hello("u", "beta"), None).unwrap_err().to_string();
        assert!(e.contains("split") && e.contains("beta"), "{e}");
        assert!(g.members.keys().all(|h| h.as_str() != "beta"));
        // It may join again with a fresh file system.
        assert_eq!(g.check(&hello(ANY, "beta"), None), Ok(()));
    }

    #[test]
    fn joining_hosts_are_let_in_from_both_sides() {
        assert_eq!(gate(Some("u")).check(&hello(ANY, "newcomer"), None), Ok(()));
        assert_eq!(gate(Some(ANY)).check(&hello("u", "newcomer"), None), Ok(()));
        assert!(gate(None).check(&hello(ANY, "newcomer"), None).is_err());
        assert!(gate(Some("u")).check(&hello(ANY, "alpha"), None).is_err());
    }
}
