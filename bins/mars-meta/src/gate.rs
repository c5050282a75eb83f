//! Who may talk to us. Pure.
use mars_net::{Hello, Refusal};
use mars_tree::{HostName, Stamp};
use std::collections::BTreeMap;
use std::net::IpAddr;

/// The uuid of a host that is about to join.
pub const ANY: &str = "(any)";
/// More members than this are not dialled: no real cluster has so many, and a broken or hostile member could invent them.
pub const MEMBERS_MAX: usize = 512;

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
        let removed = BTreeMap::new();
        let gate = Gate {
            me,
            uuid,
            members,
            removed,
        };
        (gate, damaged)
    }

    /// Takes note of tombstones of `ips/ip-*`: (host, stamp).
    pub fn note_removed<'a>(&mut self, tombstones: impl Iterator<Item = (&'a str, Stamp)>) {
        let hosts = tombstones.filter_map(|(host, at)| Some((host.parse().ok()?, at)));
        self.removed = hosts.take(MEMBERS_MAX).collect();
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
            Some(u) => Err(Refusal::Uuid {
                theirs: peer_uuid.to_string(),
                ours: u.clone(),
            }),
        }
    }

    /// May this peer talk to us? `dialled` is the host that we wanted to reach, when we did.
    pub fn check(&self, peer: &Hello, dialled: Option<&HostName>) -> Result<(), Refusal> {
        let host: HostName = peer
            .host
            .parse()
            .map_err(|_| Refusal::Other(format!("invalid host name {:?}", peer.host)))?;
        self.same_cluster(&peer.uuid)?;
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
    fn joining_hosts_are_let_in_from_both_sides() {
        assert_eq!(gate(Some("u")).check(&hello(ANY, "newcomer"), None), Ok(()));
        assert_eq!(gate(Some(ANY)).check(&hello("u", "newcomer"), None), Ok(()));
        assert!(gate(None).check(&hello(ANY, "newcomer"), None).is_err());
        assert!(gate(Some("u")).check(&hello(ANY, "alpha"), None).is_err());
    }
}
