//! The parts of a cluster that is being split, as far as this host obeys already. Pure.
use mars_policy::split::apart;
use mars_tree::HostName;
use std::collections::{BTreeMap, BTreeSet};

/// Which part each host belongs to, where that is in force.
#[derive(Debug, Default)]
pub struct Parting {
    in_force: BTreeMap<HostName, String>,
}

/// The links below `userspace/split/`: (host, part). Others than host names are no parts.
fn parse<'a>(links: impl Iterator<Item = (&'a str, &'a str)>) -> BTreeMap<HostName, String> {
    links
        .filter_map(|(h, part)| Some((h.parse().ok()?, part.to_string())))
        .collect()
}

impl Parting {
    /// The time has come: what the links say now counts.
    pub fn obey<'a>(&mut self, links: impl Iterator<Item = (&'a str, &'a str)>) {
        self.in_force = parse(links);
    }

    /// What was taken back counts no more, at once; a new order has to wait. Returns the hosts of other parts.
    pub fn apart<'a>(
        &mut self,
        links: impl Iterator<Item = (&'a str, &'a str)>,
        me: &HostName,
    ) -> BTreeSet<HostName> {
        let said = parse(links);
        self.in_force.retain(|h, part| said.get(h) == Some(part));
        apart(&self.in_force, me)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn orders_wait_and_what_is_taken_back_ends_at_once() {
        let me: HostName = "alpha".parse().unwrap();
        let links = [
            ("alpha", "p1"),
            ("beta", "p1"),
            ("gamma", "p2"),
            ("not a host", "p2"),
        ];
        let mut p = Parting::default();
        assert!(p.apart(links.into_iter(), &me).is_empty(), "not yet");
        p.obey(links.into_iter());
        let apart = p.apart(links.into_iter(), &me);
        assert_eq!(
            apart.iter().map(|h| h.as_str()).collect::<Vec<_>>(),
            ["gamma"]
        );
        // A further split of the own part waits, the old one stays.
        let again = [("alpha", "p3"), ("beta", "p4"), ("gamma", "p2")];
        assert!(
            p.apart(again.into_iter(), &me).is_empty(),
            "the own part is not known for now"
        );
        p.obey(again.into_iter());
        assert_eq!(p.apart(again.into_iter(), &me).len(), 2);
        assert!(p.apart([].into_iter(), &me).is_empty());
        assert!(
            p.apart(again.into_iter(), &me).is_empty(),
            "only after the time"
        );
    }
}
