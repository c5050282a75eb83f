//! Members whose host has left the cluster: nobody can ask them any more (`--ignore-deleted-peers`).
use mars_tree::{HostName, Key, ResName, Snapshot};
use std::collections::BTreeSet;

/// Members of `res` that have no address.
pub fn deleted(snap: &Snapshot, res: &ResName) -> Vec<HostName> {
    let mut members = snap.members(res);
    members.retain(|h| snap.get(&Key::Ip(h.clone())).is_none());
    members
}

/// The tree as if they had left their resources; `None` when there are none.
pub fn without_deleted(snap: &Snapshot) -> Option<Snapshot> {
    let mut less: Option<Snapshot> = None;
    for res in snap.resources() {
        for host in deleted(snap, &res) {
            let less = less.get_or_insert_with(|| snap.clone());
            let of_host = |path: &str| {
                let Some(name) = path.strip_prefix(&format!("resource-{res}/")) else {
                    return false;
                };
                [
                    "data",
                    "replay",
                    "device",
                    "syncstatus",
                    "syncpos",
                    "actsize",
                ]
                .iter()
                .any(|k| name == format!("{k}-{host}"))
                    || ["actual", "todo"]
                        .iter()
                        .any(|k| name.starts_with(&format!("{k}-{host}/")))
            };
            less.links.retain(|path, _| !of_host(path));
        }
    }
    less
}

/// Hosts without those that left the cluster.
pub fn known_only(snap: &Snapshot, hosts: BTreeSet<HostName>) -> BTreeSet<HostName> {
    hosts
        .into_iter()
        .filter(|h| snap.get(&Key::Ip(h.clone())).is_some())
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use mars_tree::Stamp;

    #[test]
    fn a_member_without_address_is_left_out() {
        let mut snap = Snapshot::default();
        for (path, value) in [
            ("ips/ip-a", "10.0.0.1"),
            ("ips/ip-b", ".deleted"),
            ("resource-r/data-a", "/dev/a"),
            ("resource-r/data-b", "/dev/b"),
            ("resource-r/replay-b", "log-000000001-a,0,0"),
            ("resource-r/actual-b/is-primary", "1"),
            ("resource-r/version-000000001-b", "x"),
        ] {
            snap.insert(&Key::parse(path), value, Stamp::PRELIMINARY);
        }
        let r: ResName = "r".parse().unwrap();
        assert_eq!(deleted(&snap, &r), ["b".parse().unwrap()]);
        let less = without_deleted(&snap).unwrap();
        assert_eq!(less.members(&r), ["a".parse().unwrap()]);
        // The history stays.
        assert!(less.links.contains_key("resource-r/version-000000001-b"));
        assert!(!less.links.contains_key("resource-r/actual-b/is-primary"));
        assert_eq!(without_deleted(&less), None);
    }
}
