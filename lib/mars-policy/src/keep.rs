//! Rotation and deletion of logs and version links (symlink-tree.md 5.2, 5.4).
use crate::View;
use crate::facts::owners;
use crate::known::KnownLogs;
use mars_tree::{HostName, Key, LogName, ResName};
use std::time::Duration;

/// Greatest log number.
const NR_MAX: u32 = 999_999_999;
/// A log younger than this may still lack its version link.
const YOUNG: Duration = Duration::from_secs(120);

/// The minimum log number over all live `replay-*` of a resource, dead members included: what lies below nobody needs for
/// replay. `None` when nobody has one, or when one of them is damaged: then nothing may be deleted.
pub fn min_replay_nr(v: &View<'_>, res: &ResName) -> Option<u32> {
    let mut min = None;
    for host in owners(v.snap, res, "replay")? {
        let nr = v.snap.replay(res, &host)?.log.nr;
        min = Some(min.map_or(nr, |m: u32| m.min(nr)));
    }
    min
}

/// Local log files that nobody needs (symlink-tree.md 5.4), ascending. `min_age`: 120 s normally, zero with force.
pub fn deletable_logs(v: &View<'_>, res: &ResName, min_age: Duration) -> Vec<LogName> {
    let Some(min) = min_replay_nr(v, res) else {
        return vec![];
    };
    let newest = KnownLogs::of(v, res).numbers().next_back().unwrap_or(0);
    v.snap
        .logs(res)
        .into_iter()
        .take_while(|(log, meta)| {
            // Ascending, so the first one that must stay ends it: no holes in the middle.
            log.nr < min && log.nr < newest && v.now.since(meta.mtime) >= min_age
        })
        .map(|(log, _)| log)
        .collect()
}

/// Version links that nobody needs: (number, owner), ascending. One number more than for logs is kept, because every host needs the
/// predecessor of its replay log.
pub fn deletable_versions(v: &View<'_>, res: &ResName, min_age: Duration) -> Vec<(u32, HostName)> {
    let Some(min) = min_replay_nr(v, res) else {
        return vec![];
    };
    v.snap
        .versions(res)
        .into_iter()
        .map(|(nr, owner, _)| (nr, owner))
        .take_while(|(nr, owner)| {
            let stamp = v
                .snap
                .stamp(&Key::Version(res.clone(), *nr, owner.clone()))
                .unwrap_or(v.now);
            nr.saturating_add(1) < min && v.now.since(stamp) >= min_age
        })
        .collect()
}

/// Why no rotation happens.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RotateHold {
    /// Only a primary rotates.
    #[error("not primary")]
    NotPrimary,
    /// The newest own log is empty.
    #[error("the current log is empty")]
    Empty,
    /// The next file exists already.
    #[error("the next log exists already")]
    Exists,
    /// Many old logs and the newest is small.
    #[error("enough small logs exist")]
    Thresholds,
    /// No version link yet.
    #[error("the current log has no version link yet")]
    NoVersion,
    /// Numbers are used up.
    #[error("log numbers are used up")]
    Numbers,
}

/// The log that `log-rotate` creates (symlink-tree.md 5.2): an empty file of this name makes the logger go on there.
/// `thresh_files`: at most so many older own logs (normally 10) unless the newest has `thresh_bytes` (normally 5·10^9).
pub fn rotate_plan(
    v: &View<'_>,
    res: &ResName,
    thresh_files: usize,
    thresh_bytes: u64,
) -> Result<LogName, RotateHold> {
    if !v.is_actual_primary(res, v.me) {
        return Err(RotateHold::NotPrimary);
    }
    let logs = v.snap.logs(res);
    let own: Vec<_> = logs.iter().filter(|(l, _)| l.host == *v.me).collect();
    let Some(((last, meta), older)) = own.split_last().map(|(l, o)| (*l, o)) else {
        return Err(RotateHold::Empty);
    };
    let link = Key::Version(res.clone(), last.nr, v.me.clone());
    if meta.size == 0 {
        // Without a version link the logger has not come to it yet: the last rotation is still under way.
        let pending = !older.is_empty() && v.snap.get(&link).is_none();
        return Err(if pending {
            RotateHold::Exists
        } else {
            RotateHold::Empty
        });
    }
    if last.nr >= NR_MAX {
        return Err(RotateHold::Numbers);
    }
    let next = LogName {
        nr: last.nr + 1,
        host: v.me.clone(),
    };
    let newest_known = KnownLogs::of(v, res).numbers().next_back();
    if newest_known > Some(last.nr) || logs.iter().any(|(l, _)| l.nr >= next.nr) {
        return Err(RotateHold::Exists);
    }
    if older.len() >= thresh_files && meta.size < thresh_bytes {
        return Err(RotateHold::Thresholds);
    }
    if v.now.since(meta.mtime) > YOUNG && v.snap.get(&link).is_none() {
        return Err(RotateHold::NoVersion);
    }
    Ok(next)
}
