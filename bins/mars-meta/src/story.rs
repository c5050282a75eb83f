//! What this daemon tells the journal about resources: roles that change, splits that appear and vanish. Derived from the difference of two
//! looks at the tree, so it does not matter who changed what in which order.
use crate::spread::Spread;
use mars_daemon::events;
use mars_policy::{SplitBrain, SplitPoint, View, split_brain};
use mars_tree::{HostName, Key, ResName, Snapshot, Stamp, Tree, TreeError};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Changes within this time are looked at together: roles,
const SOON: Duration = Duration::from_millis(200);
/// and positions, which change all the time.
const LAZY: Duration = Duration::from_secs(5);
/// Links of different hosts arrive one after the other: what looks like a split must last.
const LASTS: Duration = Duration::from_secs(5);
const WINDOW: Duration = Duration::from_secs(60);

/// What was told of one resource.
#[derive(Debug, Default)]
struct Told {
    primary: Option<HostName>,
    /// Somebody was told of a split.
    split: bool,
    /// A split was seen first at this time, and not told yet.
    suspected: Option<Instant>,
}

/// What was told, and where to look again.
#[derive(Debug, Default)]
pub struct Story {
    told: BTreeMap<ResName, Told>,
    dirty: BTreeSet<ResName>,
}

impl Story {
    /// A link changed; when to look at the latest.
    pub fn changed(&mut self, path: &str) -> Option<Duration> {
        let (res, after) = match Key::parse(path) {
            Key::Primary(r) | Key::Data(r, _) => (r, SOON),
            Key::Version(r, _, _) | Key::Replay(r, _) => (r, LAZY),
            _ => return None,
        };
        self.dirty.insert(res);
        Some(after)
    }

    /// Looks at what changed and tells. Returns when to look again, if something is not certain yet.
    pub fn tell(
        &mut self,
        tree: &Tree,
        me: &HostName,
        now: Instant,
    ) -> Result<Option<Instant>, TreeError> {
        let mut again = None;
        for res in std::mem::take(&mut self.dirty) {
            let snap = tree.snapshot_of(&res)?;
            if snap.get(&Key::Data(res.clone(), me.clone())).is_none() {
                self.told.remove(&res);
                continue;
            }
            if let Some(at) = self.look(&snap, &res, me, tree.clock().now(), now) {
                again = Some(again.map_or(at, |a: Instant| a.min(at)));
                self.dirty.insert(res);
            }
        }
        Ok(again)
    }

    fn look(
        &mut self,
        snap: &Snapshot,
        res: &ResName,
        me: &HostName,
        stamp: Stamp,
        now: Instant,
    ) -> Option<Instant> {
        let primary = snap.host(&Key::Primary(res.clone()));
        let view = View {
            snap,
            me,
            local: me,
            now: stamp,
            window: WINDOW,
            engine_running: true,
        };
        let split = split_brain(&view, res);
        let Some(told) = self.told.get_mut(res) else {
            // How it was before this daemon started is no news; a split is told by every start.
            let suspected = split.is_some().then_some(now);
            let first = Told {
                primary,
                split: false,
                suspected,
            };
            self.told.insert(res.clone(), first);
            return suspected.map(|t| t + LASTS);
        };
        if told.primary != primary {
            events::role_change(res, told.primary.as_ref(), primary.as_ref());
            told.primary = primary;
        }
        match (split, told.split) {
            (None, false) => told.suspected = None,
            (None, true) => {
                (told.split, told.suspected) = (false, None);
                events::split_brain_over(res);
            }
            (Some(_), true) => {}
            (Some(s), false) => {
                let since = *told.suspected.get_or_insert(now);
                if now < since + LASTS {
                    return Some(since + LASTS);
                }
                told.split = true;
                events::split_brain(res, &describe(&s));
            }
        }
        None
    }
}

/// The points where histories part, with what each side would lose.
fn describe(split: &SplitBrain) -> String {
    let point = |p: &SplitPoint| {
        let sides = p
            .hosts
            .iter()
            .map(|(h, bytes)| format!("{h} {bytes} bytes"));
        let sides: Vec<String> = sides.collect();
        format!("after log '{}': {}", p.after, sides.join(", "))
    };
    let all: Vec<String> = split.points.iter().map(point).collect();
    format!("{}; keep one side, invalidate the others", all.join("; "))
}

/// Resources that this host and another one are both members of.
pub fn shared(spread: &Spread, me: &HostName, host: &HostName) -> Vec<ResName> {
    let suffix = format!("/data-{host}");
    let theirs = spread.texts_below("resource-");
    theirs
        .filter_map(|(rest, _)| rest.strip_suffix(&suffix)?.parse::<ResName>().ok())
        .filter(|res| {
            spread
                .text(&Key::Data(res.clone(), me.clone()).path())
                .is_some()
        })
        .collect()
}

/// Resources that this host is member of.
pub fn own(spread: &Spread, me: &HostName) -> Vec<ResName> {
    shared(spread, me, me)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn story_looks_only_at_links_that_matter() {
        let mut s = Story::default();
        assert_eq!(s.changed("resource-r/primary"), Some(SOON));
        assert_eq!(s.changed("resource-r/replay-a"), Some(LAZY));
        assert_eq!(s.changed("resource-r/actual-a/open-count"), None);
        assert_eq!(s.changed("ips/ip-a"), None);
        assert_eq!(s.dirty.len(), 1);
    }
}
