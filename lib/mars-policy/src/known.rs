//! Which logs are known to exist, how long they are, and what is local.
use crate::View;
use mars_tree::{HostName, LogName, ResName};
use std::collections::BTreeMap;

/// What is known of one log.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct KnownLog {
    /// Size of the local file.
    pub local: Option<u64>,
    /// Longest length in any host's version link of exactly this log.
    pub linked: Option<u64>,
    /// Length in the creator's own version link.
    pub creator: Option<u64>,
    /// Greatest length named as predecessor by a creator of the following log: that writer's view of the final length.
    pub by_successor: Option<u64>,
    /// The shortest of these.
    pub shortest_by_successor: Option<u64>,
}

impl KnownLog {
    /// An empty file without any version link is only a request to rotate, not history.
    fn is_known(&self) -> bool {
        self.linked.is_some() || self.local.unwrap_or(0) > 0
    }
    /// Greatest length that is known anywhere.
    pub fn longest(&self) -> u64 {
        self.local.unwrap_or(0).max(self.linked.unwrap_or(0))
    }
    /// Length according to version links only.
    pub fn longest_elsewhere(&self) -> u64 {
        self.creator.or(self.linked).unwrap_or(0)
    }
    /// The final length, provided that a following log exists. The creator knows best, but when it died it had not published all that
    /// others have got; then, and when its link is gone (it left the resource), the log's successor names it. A successor that names less
    /// was forced without the rest.
    pub fn final_len(&self) -> u64 {
        self.creator
            .max(self.by_successor)
            .or(self.linked)
            .or(self.local)
            .unwrap_or(0)
    }
}

/// All logs of a resource that version links or local files tell of.
#[derive(Default, Debug)]
pub(crate) struct KnownLogs {
    by_nr: BTreeMap<u32, BTreeMap<HostName, KnownLog>>,
    designated: Option<HostName>,
}

impl KnownLogs {
    pub fn of(v: &View<'_>, res: &ResName) -> KnownLogs {
        let mut logs = KnownLogs {
            by_nr: BTreeMap::new(),
            designated: v.designated(res),
        };
        for (nr, owner, link) in v.snap.versions(res) {
            let log = &link.head.log;
            // A link under the wrong number is damaged; number 0 occurs in placeholders only.
            if log.nr != nr || nr == 0 {
                continue;
            }
            let by_creator = owner == log.host;
            let k = logs.entry(log);
            k.linked = k.linked.max(Some(link.head.len));
            if by_creator {
                k.creator = Some(link.head.len);
                if let Some(pred) = link.pred.filter(|p| p.log.nr != 0 && p.log.nr + 1 == nr) {
                    let p = logs.entry(&pred.log);
                    p.by_successor = p.by_successor.max(Some(pred.len));
                    let shortest = p
                        .shortest_by_successor
                        .map_or(pred.len, |l| l.min(pred.len));
                    p.shortest_by_successor = Some(shortest);
                }
            }
        }
        for (log, meta) in v.snap.logs(res) {
            logs.entry(&log).local = Some(meta.size);
        }
        logs
    }

    fn entry(&mut self, log: &LogName) -> &mut KnownLog {
        self.by_nr
            .entry(log.nr)
            .or_default()
            .entry(log.host.clone())
            .or_default()
    }

    /// Of the logs of this host count only what its version links tell.
    pub fn cap_to_links(&mut self, creator: &HostName) {
        for k in self.by_nr.values_mut().filter_map(|m| m.get_mut(creator)) {
            k.local = k.local.map(|size| size.min(k.creator.unwrap_or(size)));
        }
    }

    /// Facts about a log; all empty when it is unknown.
    pub fn get(&self, log: &LogName) -> KnownLog {
        self.by_nr
            .get(&log.nr)
            .and_then(|m| m.get(&log.host))
            .copied()
            .unwrap_or_default()
    }

    /// The logs with this number that are history.
    fn of_number(&self, nr: u32) -> impl Iterator<Item = (&HostName, &KnownLog)> {
        let all = self.by_nr.get(&nr).into_iter().flatten();
        all.filter(move |(host, log)| log.is_known() && !self.is_abandoned(nr, host, log))
    }

    /// Was this log opened and never written to, while another host went on under the same number? So it is when a primary crashes
    /// just after it opened a log, and another one is forced that had not heard of it. Such a log is no history: it splits nothing,
    /// and who stands at its beginning has exactly what was before it.
    fn is_abandoned(&self, nr: u32, host: &HostName, log: &KnownLog) -> bool {
        let is_chosen = |host: &HostName, log: &KnownLog| {
            log.longest() > 0
                || log.by_successor.is_some()
                || self.designated.as_ref() == Some(host)
        };
        !is_chosen(host, log)
            && self
                .by_nr
                .get(&nr)
                .into_iter()
                .flatten()
                .any(|(h, l)| h != host && l.is_known() && is_chosen(h, l))
    }

    /// Creators of the logs with this number. More than one is a split brain.
    pub fn creators(&self, nr: u32) -> Vec<&HostName> {
        self.of_number(nr).map(|(host, _)| host).collect()
    }

    /// Who went on under this number instead of the log that holds nothing: `Some` when `log` is no history.
    pub fn instead_of(&self, log: &LogName) -> Option<&HostName> {
        match self.creators(log.nr).as_slice() {
            [one] if **one != log.host && self.get(log).longest() == 0 => Some(one),
            _ => None,
        }
    }

    /// Does the number exist?
    pub fn exists(&self, nr: u32) -> bool {
        self.of_number(nr).next().is_some()
    }

    /// Greatest (local size, known length) among all logs of this number; `None` when there is none.
    pub fn sizes(&self, nr: u32) -> Option<(Option<u64>, u64)> {
        let longest = self.of_number(nr).map(|(_, k)| k.longest()).max()?;
        Some((
            self.of_number(nr).filter_map(|(_, k)| k.local).max(),
            longest,
        ))
    }

    /// Known numbers in ascending order.
    pub fn numbers(&self) -> impl DoubleEndedIterator<Item = u32> + '_ {
        self.by_nr.keys().copied().filter(|nr| self.exists(*nr))
    }

    /// The lowest number at or above `from` that several hosts created.
    pub fn duplicate_from(&self, from: u32) -> Option<u32> {
        self.by_nr
            .range(from..)
            .map(|(nr, _)| *nr)
            .find(|nr| self.of_number(*nr).count() > 1)
    }
}
