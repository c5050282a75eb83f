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
    /// Length named as predecessor by the creator of the following log: that writer's view of the final length.
    pub by_successor: Option<u64>,
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
    /// The final length, provided that a following log exists. The creator knows best; when its link is gone (it left the
    /// resource) the log's successor names it.
    pub fn final_len(&self) -> u64 {
        self.creator
            .or(self.by_successor)
            .or(self.linked)
            .or(self.local)
            .unwrap_or(0)
    }
}

/// All logs of a resource that version links or local files tell of.
#[derive(Default, Debug)]
pub(crate) struct KnownLogs(BTreeMap<u32, BTreeMap<HostName, KnownLog>>);

impl KnownLogs {
    pub fn of(v: &View<'_>, res: &ResName) -> KnownLogs {
        let mut logs = KnownLogs::default();
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
                }
            }
        }
        for (log, meta) in v.snap.logs(res) {
            logs.entry(&log).local = Some(meta.size);
        }
        logs
    }

    fn entry(&mut self, log: &LogName) -> &mut KnownLog {
        self.0
            .entry(log.nr)
            .or_default()
            .entry(log.host.clone())
            .or_default()
    }

    /// Facts about a log; all empty when it is unknown.
    pub fn get(&self, log: &LogName) -> KnownLog {
        self.0
            .get(&log.nr)
            .and_then(|m| m.get(&log.host))
            .copied()
            .unwrap_or_default()
    }

    /// Creators of the logs with this number. More than one is a split brain.
    pub fn creators(&self, nr: u32) -> Vec<&HostName> {
        self.0
            .get(&nr)
            .into_iter()
            .flatten()
            .filter(|(_, k)| k.is_known())
            .map(|(h, _)| h)
            .collect()
    }

    /// Does the number exist?
    pub fn exists(&self, nr: u32) -> bool {
        !self.creators(nr).is_empty()
    }

    /// Greatest (local size, known length) among all logs of this number; `None` when there is none.
    pub fn sizes(&self, nr: u32) -> Option<(Option<u64>, u64)> {
        let m = self.0.get(&nr)?;
        let known = || m.values().filter(|k| k.is_known());
        let longest = known().map(KnownLog::longest).max()?;
        Some((known().filter_map(|k| k.local).max(), longest))
    }

    /// Known numbers in ascending order.
    pub fn numbers(&self) -> impl DoubleEndedIterator<Item = u32> + '_ {
        self.0
            .iter()
            .filter(|(_, m)| m.values().any(KnownLog::is_known))
            .map(|(nr, _)| *nr)
    }

    /// The lowest number at or above `from` that several hosts created.
    pub fn duplicate_from(&self, from: u32) -> Option<u32> {
        self.0
            .range(from..)
            .find(|(_, m)| m.values().filter(|k| k.is_known()).count() > 1)
            .map(|(nr, _)| *nr)
    }
}
