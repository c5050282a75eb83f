//! Split brain (symlink-tree.md 4.5).
use crate::View;
use crate::known::KnownLogs;
use mars_tree::{HostName, LogName, ResName};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Where histories part.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SplitPoint {
    /// Last common `LOGNAME,LEN`, or empty when unknown.
    pub after: String,
    /// Hosts on different branches with the bytes each would lose.
    pub hosts: Vec<(HostName, u64)>,
}

/// A split brain.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SplitBrain {
    /// All points, by text.
    pub points: Vec<SplitPoint>,
}

/// Looks at every pair of members with a live replay link, then at duplicate local log numbers.
///
/// One thing is stricter than the original: a host that writes the log in its own replay link starts at the length it has
/// logged, not at its write-back position. Otherwise a split would stay unseen until the write-back comes past it (I8).
pub fn split_brain(v: &View<'_>, res: &ResName) -> Option<SplitBrain> {
    let known = KnownLogs::of(v, res);
    let starts: Vec<Walk> = v
        .snap
        .members(res)
        .into_iter()
        .filter_map(|host| Walk::start(v, res, &known, host))
        .collect();
    let mut points: BTreeMap<String, BTreeMap<HostName, u64>> = BTreeMap::new();
    let mut note = |after: String, host: &HostName, amount: u64| {
        let a = points
            .entry(after)
            .or_default()
            .entry(host.clone())
            .or_default();
        *a = amount.max(*a);
    };
    for (i, a) in starts.iter().enumerate() {
        for b in starts.iter().skip(i + 1) {
            let (mut a, mut b) = (a.clone(), b.clone());
            if let Some(after) = compare(v, res, &mut a, &mut b) {
                note(after.clone(), &a.host, a.amount);
                note(after, &b.host, b.amount);
            }
        }
    }
    if points.is_empty() {
        points = duplicate_files(v, res);
    }
    if points.is_empty() {
        return None;
    }
    let points = points
        .into_iter()
        .map(|(after, hosts)| SplitPoint {
            after,
            hosts: hosts.into_iter().collect(),
        })
        .collect();
    Some(SplitBrain { points })
}

/// A host's way back through its own version links.
#[derive(Clone)]
struct Walk {
    host: HostName,
    /// Log and length; `None` behind the end of what is known.
    at: Option<(LogName, u64)>,
    depth: usize,
    amount: u64,
    /// It began behind an empty log that is no history: what is before that is complete, not mere lag.
    complete: bool,
}

impl Walk {
    fn start(v: &View<'_>, res: &ResName, known: &KnownLogs, host: HostName) -> Option<Walk> {
        let r = v.snap.replay(res, &host)?;
        let logged = v
            .snap
            .version(res, r.log.nr, &host)
            .filter(|l| r.log.host == host && l.head.log == r.log)
            .map_or(0, |l| l.head.len);
        let len = r.pos.max(logged);
        let empty = len == 0 && known.instead_of(&r.log).is_some();
        let mut walk = Walk {
            host,
            at: Some((r.log, len)),
            depth: 0,
            amount: 0,
            complete: empty,
        };
        if empty {
            walk.step(v, res);
            walk.depth = 0;
        }
        Some(walk)
    }

    /// One log back. Numbers must fall, so that a damaged chain ends.
    fn step(&mut self, v: &View<'_>, res: &ResName) {
        let Some((log, len)) = self.at.take() else {
            return;
        };
        self.amount = self.amount.saturating_add(len);
        self.depth += 1;
        let nr = log.nr;
        let before = match v.snap.version(res, nr, &self.host) {
            Some(link) => link.pred,
            None => nr
                .checked_sub(1)
                .and_then(|n| v.snap.version(res, n, &self.host))
                .map(|l| l.head),
        };
        self.at = before.filter(|h| h.log.nr < nr).map(|h| (h.log, h.len));
    }
}

/// The table of symlink-tree.md 4.5: `Some(after)` when the histories of both parted.
fn compare(v: &View<'_>, res: &ResName, a: &mut Walk, b: &mut Walk) -> Option<String> {
    let mut certain = false;
    loop {
        let (Some((log_a, len_a)), Some((log_b, len_b))) = (&a.at, &b.at) else {
            return Some(String::new());
        };
        match log_a.nr.cmp(&log_b.nr) {
            Ordering::Greater => a.step(v, res),
            Ordering::Less => b.step(v, res),
            Ordering::Equal if log_a.host != log_b.host => {
                certain = true;
                a.step(v, res);
                b.step(v, res);
            }
            Ordering::Equal => {
                let (shorter, split) = match len_a.cmp(len_b) {
                    Ordering::Equal => (len_a, a.depth > 0 && b.depth > 0),
                    Ordering::Less => (len_a, a.depth > 0 || a.complete),
                    Ordering::Greater => (len_b, b.depth > 0 || b.complete),
                };
                return (split || certain).then(|| format!("{log_a},{shorter}"));
            }
        }
    }
}

/// Files with one number and several creators. Empty ones are only requests to rotate.
fn duplicate_files(v: &View<'_>, res: &ResName) -> BTreeMap<String, BTreeMap<HostName, u64>> {
    let mut by_nr: BTreeMap<u32, BTreeMap<HostName, u64>> = BTreeMap::new();
    for (log, meta) in v.snap.logs(res) {
        if meta.size > 0 {
            by_nr.entry(log.nr).or_default().insert(log.host, meta.size);
        }
    }
    let mut points: BTreeMap<String, BTreeMap<HostName, u64>> = BTreeMap::new();
    for hosts in by_nr.into_values().filter(|h| h.len() > 1) {
        points.entry(String::new()).or_default().extend(hosts);
    }
    points
}
