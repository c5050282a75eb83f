//! The parts of a cluster that is being split, as far as this host obeys already. Pure.
use mars_policy::split::{apart, hosts_of};
use mars_tree::{HostName, Key, Snapshot};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Members of the own part obey some seconds earlier or later, and until then send what they hear from the others.
const LATECOMERS: Duration = Duration::from_secs(60);

/// Which part each host belongs to, where that is in force.
#[derive(Debug, Default)]
pub struct Parting {
    in_force: BTreeMap<HostName, String>,
    /// Directories of resources that only the others have, and until when nothing about them is taken.
    gone: BTreeSet<String>,
    until: Option<Instant>,
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

    /// These links were forgotten.
    pub fn forgot(&mut self, keys: &[Key], now: Instant) {
        let paths = keys.iter().map(Key::path);
        let resources = paths.filter(|p| p.starts_with("resource-"));
        let dirs = resources.filter_map(|p| Some(p.split_once('/')?.0.to_string()));
        self.gone.extend(dirs);
        self.until = Some(now + LATECOMERS);
    }

    /// May somebody of the own part still send something about the others?
    pub fn waits_for_latecomers(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }

    /// What there is again about the others and their resources. A resource of that name in which a host of the own part takes part is a new
    /// one.
    pub fn left_behind(&self, snap: &Snapshot, apart: &BTreeSet<HostName>) -> Vec<Key> {
        let ours: BTreeSet<String> = snap
            .resources()
            .into_iter()
            .filter(|r| !hosts_of(snap, r).is_subset(apart))
            .map(|r| format!("resource-{r}"))
            .collect();
        let keys = snap.links.keys().map(|path| (path, Key::parse(path)));
        let foreign = keys.filter(|(path, key)| match key {
            Key::Ip(h) | Key::HostActual(h, _) | Key::HostDefault(h, _) => apart.contains(h),
            _ => {
                let dir = path.split('/').next().unwrap_or_default();
                self.gone.contains(dir) && !ours.contains(dir)
            }
        });
        foreign.map(|(_, key)| key).collect()
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

    #[test]
    fn latecomers_do_not_bring_back_what_was_forgotten() {
        let apart: BTreeSet<HostName> = ["gamma".parse().unwrap()].into();
        let now = Instant::now();
        let mut p = Parting::default();
        assert!(!p.waits_for_latecomers(now));
        p.forgot(
            &[
                Key::parse("resource-r/primary"),
                Key::parse("resource-s/size"),
            ],
            now,
        );
        assert!(p.waits_for_latecomers(now) && !p.waits_for_latecomers(now + LATECOMERS));
        let mut snap = Snapshot::default();
        for path in [
            "actual-alpha/time",
            "actual-gamma/time",
            "ips/ip-alpha",
            "resource-new/primary",
            "resource-r/actual-gamma/if-on",
            "resource-s/data-alpha",
            "resource-s/primary",
        ] {
            snap.insert(&Key::parse(path), "1", mars_tree::Stamp::from_nanos(1));
        }
        let found = p.left_behind(&snap, &apart);
        let paths: Vec<String> = found.iter().map(Key::path).collect();
        assert_eq!(
            paths,
            ["actual-gamma/time", "resource-r/actual-gamma/if-on"]
        );
    }
}
