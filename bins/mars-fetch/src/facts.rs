//! Pure questions about logs that both sides ask of a snapshot.
use mars_tree::{HostName, Key, LogName, ResName, Snapshot};

/// The final length of a log, when the tree proves that it is finished: the creator of the next number names it as predecessor.
///
/// The log's own creator knows best. Another host's continuation counts only when it agrees with the creator's own version link:
/// after a forced takeover the old primary may have written more. When the creator has left the resource nobody else knows.
pub fn final_len(snap: &Snapshot, res: &ResName, log: &LogName) -> Option<u64> {
    let next = log.nr.checked_add(1)?;
    let creators = snap.versions(res).into_iter().filter(|(nr, owner, link)| {
        *nr == next && link.head.log.nr == next && link.head.log.host == *owner
    });
    let mut found = None;
    for (_, owner, link) in creators {
        let Some(pred) = link.pred.filter(|p| p.log == *log) else {
            continue;
        };
        if owner == log.host {
            return Some(pred.len);
        }
        let by_creator = snap.version(res, log.nr, &log.host);
        if by_creator.is_none_or(|v| v.head.log == *log && v.head.len == pred.len) {
            found = Some(pred.len);
        }
    }
    found
}

/// The log that replay found damaged and that may be fetched anew, with the stamp of the finding.
pub fn damaged_log(
    snap: &Snapshot,
    res: &ResName,
    me: &HostName,
) -> Option<(LogName, u64, mars_tree::Stamp)> {
    let key = Key::Actual(res.clone(), me.clone(), "replay-code".into());
    let code: i64 = snap.text(&key)?.split(',').next()?.parse().ok()?;
    let at = snap.replay(res, me)?;
    // Own logs exist nowhere else in a better state.
    (code < 0 && at.log.host != *me).then_some(())?;
    Some((at.log, at.pos, snap.stamp(&key)?))
}

/// Whom to ask for a log when the policy has no plan for it: its creator, the designated primary, other cluster hosts.
pub fn sources(
    snap: &Snapshot,
    res: &ResName,
    log: &LogName,
    me: &HostName,
) -> Vec<(HostName, String)> {
    let mut hosts = vec![log.host.clone()];
    hosts.extend(snap.host(&Key::Primary(res.clone())));
    hosts.extend(snap.members(res));
    let mut out: Vec<(HostName, String)> = Vec::new();
    for h in hosts {
        if h == *me || out.iter().any(|(o, _)| *o == h) {
            continue;
        }
        if let Some(ip) = snap.text(&Key::Ip(h.clone())) {
            out.push((h, ip.to_string()));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use mars_log::next_version;
    use mars_tree::Stamp;

    fn log(nr: u32, h: &str) -> LogName {
        LogName {
            nr,
            host: h.parse().unwrap(),
        }
    }

    #[test]
    fn final_len_needs_the_creators_next_link() {
        let res: ResName = "r".parse().unwrap();
        let (a, b): (HostName, HostName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let mut s = Snapshot::default();
        let st = Stamp::from_nanos(1 << 60);
        let v1 = next_version(&log(1, "a"), 1000, None);
        s.insert(
            &Key::Version(res.clone(), 1, a.clone()),
            &v1.to_string(),
            st,
        );
        assert_eq!(final_len(&s, &res, &log(1, "a")), None);
        // A replica's copy of the next link proves nothing by itself.
        let v2 = next_version(&log(2, "a"), 0, Some(&v1));
        s.insert(
            &Key::Version(res.clone(), 2, b.clone()),
            &v2.to_string(),
            st,
        );
        assert_eq!(final_len(&s, &res, &log(1, "a")), None);
        s.insert(
            &Key::Version(res.clone(), 2, a.clone()),
            &v2.to_string(),
            st,
        );
        assert_eq!(final_len(&s, &res, &log(1, "a")), Some(1000));
    }

    #[test]
    fn forced_takeover_does_not_shorten_the_old_log() {
        let res: ResName = "r".parse().unwrap();
        let (a, b): (HostName, HostName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let mut s = Snapshot::default();
        let st = Stamp::from_nanos(1 << 60);
        let seen_by_b = next_version(&log(1, "a"), 500, None);
        let v2 = next_version(&log(2, "b"), 0, Some(&seen_by_b));
        s.insert(
            &Key::Version(res.clone(), 2, b.clone()),
            &v2.to_string(),
            st,
        );
        let at_a = next_version(&log(1, "a"), 900, None);
        s.insert(
            &Key::Version(res.clone(), 1, a.clone()),
            &at_a.to_string(),
            st,
        );
        assert_eq!(final_len(&s, &res, &log(1, "a")), None);
        s.insert(
            &Key::Version(res.clone(), 1, a.clone()),
            &seen_by_b.to_string(),
            st,
        );
        assert_eq!(final_len(&s, &res, &log(1, "a")), Some(500));
        // The old primary has left the resource: its successor knows best.
        s.links
            .remove(&Key::Version(res.clone(), 1, a.clone()).path());
        assert_eq!(final_len(&s, &res, &log(1, "a")), Some(500));
    }

    #[test]
    fn damage_is_read_from_the_replay_code() {
        let res: ResName = "r".parse().unwrap();
        let (a, b): (HostName, HostName) = ("a".parse().unwrap(), "b".parse().unwrap());
        let mut s = Snapshot::default();
        let st = Stamp::from_nanos(1 << 60);
        s.insert(
            &Key::Replay(res.clone(), b.clone()),
            "log-000000002-a,4180,0",
            st,
        );
        let code = Key::Actual(res.clone(), b.clone(), "replay-code".into());
        for (text, damaged) in [
            ("0", false),
            ("2", false),
            ("-74,-10101", true),
            ("-74,-10021,0x5a", true),
            ("-56", true),
            ("x", false),
        ] {
            s.insert(&code, text, st);
            assert_eq!(damaged_log(&s, &res, &b).is_some(), damaged, "{text}");
        }
        s.insert(
            &Key::Replay(res.clone(), b.clone()),
            "log-000000002-b,4180,0",
            st,
        );
        s.insert(&code, "-74", st);
        assert_eq!(damaged_log(&s, &res, &b), None);
        let _ = a;
    }
}
