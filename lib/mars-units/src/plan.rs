//! The difference between wanted and running units.
use mars_policy::Unit;
use std::collections::BTreeSet;

/// One step.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UnitChange {
    /// Stop it and wait until it is gone.
    Stop(Unit),
    /// Start it.
    Start(Unit),
}

/// Position in the stop order. Readers of a disk go before its writer, so that a logger's last words can still be served, and
/// everything goes before `mars-meta`, so that the last links still travel. Starting is the other way round.
fn rank(unit: &Unit) -> u8 {
    match unit {
        Unit::Sync(_) => 0,
        Unit::Replay(_) => 1,
        Unit::Fetch(_) => 2,
        Unit::Logger(_) => 3,
        Unit::SyncServe => 4,
        Unit::FetchServe => 5,
        Unit::Meta => 6,
    }
}

/// Stops first (loggers last of the resource daemons, then servers, `mars-meta` at the very end), then starts (servers and meta
/// first). The order is deterministic.
pub fn plan(running: &BTreeSet<Unit>, wanted: &BTreeSet<Unit>) -> Vec<UnitChange> {
    let mut stops: Vec<&Unit> = running.difference(wanted).collect();
    stops.sort_by_key(|u| (rank(u), *u));
    let mut starts: Vec<&Unit> = wanted.difference(running).collect();
    starts.sort_by_key(|u| (std::cmp::Reverse(rank(u)), *u));
    stops
        .into_iter()
        .cloned()
        .map(UnitChange::Stop)
        .chain(starts.into_iter().cloned().map(UnitChange::Start))
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use UnitChange::{Start, Stop};

    fn res(s: &str) -> mars_tree::ResName {
        s.parse().unwrap()
    }

    #[test]
    fn plan_stops_before_it_starts_and_meta_last_and_first() {
        let running = BTreeSet::from([
            Unit::Meta,
            Unit::FetchServe,
            Unit::Logger(res("a")),
            Unit::Sync(res("b")),
        ]);
        assert_eq!(
            plan(&running, &BTreeSet::new()),
            [
                Stop(Unit::Sync(res("b"))),
                Stop(Unit::Logger(res("a"))),
                Stop(Unit::FetchServe),
                Stop(Unit::Meta),
            ]
        );
        let wanted = BTreeSet::from([
            Unit::Replay(res("a")),
            Unit::Fetch(res("a")),
            Unit::Meta,
            Unit::FetchServe,
            Unit::SyncServe,
        ]);
        assert_eq!(
            plan(&BTreeSet::from([Unit::Logger(res("a"))]), &wanted),
            [
                Stop(Unit::Logger(res("a"))),
                Start(Unit::Meta),
                Start(Unit::FetchServe),
                Start(Unit::SyncServe),
                Start(Unit::Fetch(res("a"))),
                Start(Unit::Replay(res("a"))),
            ]
        );
    }

    #[test]
    fn plan_of_equal_sets_is_empty() {
        let both = BTreeSet::from([Unit::Meta, Unit::Fetch(res("r10"))]);
        assert!(plan(&both, &both).is_empty());
    }
}
