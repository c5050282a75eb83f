//! Links that could not be stored because the disk was full or broken. Nobody would send them a second time, so they are kept and tried
//! again. Pure.
use crate::spread::ConnId;
use mars_tree::RemoteLink;
use std::collections::{BTreeMap, BTreeSet};

/// So many are kept (a link has at most about 4 KiB, most have 50 bytes).
const LINKS_MAX: usize = 1000;

/// The newest version of each such link.
#[derive(Debug, Default)]
pub struct Unstored {
    links: BTreeMap<String, RemoteLink>,
    /// Connections that brought more than can be kept.
    incomplete: BTreeSet<ConnId>,
}

impl Unstored {
    /// Nothing to try again?
    pub fn is_empty(&self) -> bool {
        self.links.is_empty() && self.incomplete.is_empty()
    }

    /// Keeps a link that came over a connection.
    pub fn keep(&mut self, conn: ConnId, link: RemoteLink) {
        let room = self.links.len() < LINKS_MAX;
        match self.links.get_mut(&link.path) {
            Some(old) if old.rank() >= link.rank() => {}
            Some(old) => *old = link,
            None if room => {
                self.links.insert(link.path.clone(), link);
            }
            None => {
                self.incomplete.insert(conn);
            }
        }
    }

    /// Tries all once more. When all went well, the result names the connections that must be made anew, so that everything comes again.
    pub fn retry<E>(&mut self, mut store: impl FnMut(&RemoteLink) -> Result<(), E>) -> Vec<ConnId> {
        self.links.retain(|_, link| store(link).is_err());
        if self.links.is_empty() {
            std::mem::take(&mut self.incomplete).into_iter().collect()
        } else {
            Vec::new()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mars_tree::Stamp;

    fn link(path: String, stamp: u64) -> RemoteLink {
        valued(path, stamp, "v")
    }
    fn valued(path: String, stamp: u64, value: &str) -> RemoteLink {
        RemoteLink {
            path,
            value: value.into(),
            stamp: Stamp::from_nanos(stamp),
        }
    }

    #[test]
    fn newest_is_kept_until_it_is_stored() {
        let mut u = Unstored::default();
        for s in [5, 7, 6] {
            u.keep(1, link("a".into(), s));
        }
        u.keep(1, link("b".into(), 1));
        let mut tried = Vec::new();
        let again = u.retry(|l| {
            tried.push((l.path.clone(), l.stamp.as_nanos()));
            if l.path == "a" { Err(()) } else { Ok(()) }
        });
        assert!(again.is_empty());
        assert_eq!(tried, [("a".to_string(), 7), ("b".to_string(), 1)]);
        assert!(u.retry(|_| Ok::<(), ()>(())).is_empty());
        assert!(u.is_empty());
    }

    #[test]
    fn of_equal_stamps_the_winner_is_kept() {
        let mut u = Unstored::default();
        for value in ["m", "z", ".deleted", "a"] {
            u.keep(1, valued("a".into(), 5, value));
        }
        assert_eq!(u.links["a"].value, b".deleted");
    }

    #[test]
    fn more_than_can_be_kept_comes_again_over_a_new_connection() {
        let mut u = Unstored::default();
        for i in 0..LINKS_MAX + 10 {
            u.keep(3, link(i.to_string(), 1));
        }
        assert_eq!(u.links.len(), LINKS_MAX);
        assert!(u.retry(|_| Err(())).is_empty());
        assert_eq!(u.retry(|_| Ok::<(), ()>(())), [3]);
        assert!(u.is_empty());
    }
}
