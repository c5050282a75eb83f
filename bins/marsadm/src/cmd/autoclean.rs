//! `cron --autoclean=DAYS` (marsadm-commands.md section 5): what is left of hosts and resources that have been gone for long.
use mars_policy::View;
use mars_tree::{Batch, HostName, Key, ResName, Stamp};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// What hosts say about themselves is kept at least so long.
const GLOBAL_MIN: Duration = Duration::from_secs(30 * 24 * 3600);

/// Hosts that own keys, but have no address any more, with their last sign of life.
fn gone_hosts(v: &View<'_>) -> BTreeMap<HostName, Stamp> {
    let members: BTreeSet<HostName> = v.snap.hosts().into_iter().collect();
    let mut gone = BTreeMap::new();
    for (path, link) in v.snap.live_below("") {
        let key = Key::parse(path);
        let Some(host) = key.owner() else {
            continue;
        };
        if members.contains(host) || host == v.me || host == v.local {
            continue;
        }
        let last = gone.entry(host.clone()).or_insert(Stamp::ZERO);
        *last = link.stamp.max(*last);
    }
    gone
}

/// Keys of a host that others need as long as it may come back, or for the history.
fn is_membership(key: &Key) -> bool {
    matches!(
        key,
        Key::Data(..)
            | Key::Device(..)
            | Key::Replay(..)
            | Key::SyncStatus(..)
            | Key::SyncPos(..)
            | Key::ActSize(..)
            | Key::SkipCheck(..)
    )
}

/// Tombstones for all of that. Without `force`, memberships stay: they hold back logs that such a host would need.
pub fn remains(v: &View<'_>, age: Duration, force: bool) -> Batch {
    let mut batch = Batch::new();
    // Without a single address this is no cluster to judge by.
    if v.snap.hosts().is_empty() {
        return batch;
    }
    let gone = gone_hosts(v);
    let silent =
        |host: &HostName, age: Duration| gone.get(host).is_some_and(|s| v.now.since(*s) > age);
    for (path, _) in v.snap.live_below("") {
        let key = Key::parse(path);
        let Some(host) = key.owner() else {
            continue;
        };
        let limit = match path.starts_with("resource-") {
            true => age,
            false => age.max(GLOBAL_MIN),
        };
        // The history belongs to everybody; `log-delete` and `log-purge-all` know what of it is needed.
        let history = matches!(key, Key::Version(..) | Key::Log(..));
        if silent(host, limit) && !history && (force || !is_membership(&key)) {
            batch.delete(key);
        }
    }
    for res in gone_resources(v, age) {
        let keep = Key::MaxNr(res.clone());
        for (path, _) in v.snap.live_below(&format!("resource-{res}/")) {
            let key = Key::parse(path);
            if force || key != keep {
                batch.delete(key);
            }
        }
    }
    batch
}

/// Resources without members in which nothing has happened for so long.
fn gone_resources(v: &View<'_>, age: Duration) -> Vec<ResName> {
    let old = |res: &ResName| {
        v.snap
            .live_below(&format!("resource-{res}/"))
            .all(|(_, l)| v.now.since(l.stamp) > age)
    };
    let mut all = v.snap.resources();
    all.retain(|res| v.snap.members(res).is_empty() && v.snap.logs(res).is_empty() && old(res));
    all
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use mars_tree::Snapshot;

    const DAY: u64 = 24 * 3600;
    const NOW: u64 = 1_700_000_000;

    /// a is alive; b has been gone for `days`; resource `old` has no members.
    fn tree(days: u64) -> Snapshot {
        let mut s = Snapshot::default();
        let at = |days: u64| Stamp::from_nanos((NOW - days * DAY) * 1_000_000_000);
        let mut put = |path: &str, value: &str, days: u64| {
            s.insert(&Key::parse(path), value, at(days));
        };
        put("ips/ip-a", "10.0.0.1", 500);
        put("ips/ip-b", ".deleted", days);
        put("actual-a/alive", "1", 500);
        put("actual-b/alive", "1", days);
        put("resource-r/data-a", "/dev/a", 500);
        put("resource-r/data-b", "/dev/b", 500);
        put("resource-r/replay-b", "log-000000001-a,0,0", 500);
        put("resource-r/version-000000001-b", "x", 500);
        put("resource-r/actual-b/is-primary", "0", days);
        put("resource-r/todo-b/attach", "0", 500);
        put("resource-old/maxnr", "7", days);
        put("resource-old/size", "4096", days);
        s
    }

    fn lines(snap: &Snapshot, days: u64, force: bool) -> Vec<String> {
        let me: HostName = "a".parse().unwrap();
        let v = View {
            snap,
            me: &me,
            local: &me,
            now: Stamp::from_nanos(NOW * 1_000_000_000),
            window: Duration::from_secs(60),
            engine_running: true,
        };
        remains(&v, Duration::from_secs(days * DAY), force).describe()
    }

    #[test]
    fn only_what_has_been_gone_for_long_goes() {
        assert_eq!(lines(&tree(5), 10, true), Vec::<String>::new());
        // Younger than 30 days: nothing global.
        let light = [
            "delete resource-r/actual-b/is-primary",
            "delete resource-r/todo-b/attach",
            "delete resource-old/size",
        ];
        assert_eq!(lines(&tree(11), 10, false), light);
        let mut old = lines(&tree(31), 10, false);
        assert_eq!(old.remove(0), "delete actual-b/alive");
        assert_eq!(old, light);
        // With --force also the membership, and the memory of log numbers; never the history.
        let all = lines(&tree(31), 10, true);
        for path in [
            "resource-r/data-b",
            "resource-r/replay-b",
            "resource-old/maxnr",
        ] {
            assert!(all.contains(&format!("delete {path}")), "{path}: {all:?}");
        }
        assert!(
            !all.iter()
                .any(|l| l.contains("version") || l.contains("-a")),
            "{all:?}"
        );
        // A host that has an address is never gone, however long it is silent.
        let mut back = tree(400);
        back.insert(&Key::parse("ips/ip-b"), "10.0.0.2", Stamp::PRELIMINARY);
        assert!(!lines(&back, 10, true).iter().any(|l| l.contains("-b")));
    }

    #[test]
    fn a_tree_without_addresses_is_left_alone() {
        let mut s = tree(400);
        s.links.remove("ips/ip-a");
        assert_eq!(lines(&s, 10, true), Vec::<String>::new());
    }
}
