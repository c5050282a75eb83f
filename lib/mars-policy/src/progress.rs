//! Positions of symlink-tree.md section 8 and macro-language.md 5.2, in bytes.
use crate::View;
use crate::known::KnownLogs;
use mars_tree::{HostName, Key, LogName, ResName};

/// Replay and fetch positions of a host, relative to the lowest locally contiguous log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Progress {
    /// `replay-pos`.
    pub replay_pos: u64,
    /// `fetch-pos` = `replay-size`.
    pub fetch_pos: u64,
    /// `fetch-size` = `work-size`.
    pub fetch_size: u64,
    /// Log number of the 0 % point.
    pub base_nr: u32,
    /// Log number of the replay position.
    pub replay_nr: u32,
    /// Highest local contiguous log number.
    pub fetch_nr: u32,
    /// Highest known contiguous log number.
    pub work_nr: u32,
}

impl Progress {
    /// Bytes known but not here.
    pub fn fetch_rest(&self) -> u64 {
        self.fetch_size.saturating_sub(self.fetch_pos)
    }
    /// Bytes here but not applied.
    pub fn replay_rest(&self) -> u64 {
        self.fetch_pos.saturating_sub(self.replay_pos)
    }
    /// Bytes known but not applied.
    pub fn work_rest(&self) -> u64 {
        self.fetch_size.saturating_sub(self.replay_pos)
    }
}

/// Sync position and size.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct SyncProgress {
    /// Bytes synced.
    pub pos: u64,
    /// Resource size.
    pub size: u64,
}

impl SyncProgress {
    /// Bytes to do.
    pub fn rest(&self) -> u64 {
        self.size.saturating_sub(self.pos)
    }
}

/// Progress of `host` as far as the local files and the tree tell. What a foreign host has fetched is not in the tree; its own
/// version links tell at least what it has seen of each log.
pub fn progress(v: &View<'_>, res: &ResName, host: &HostName) -> Progress {
    let Some(r) = v.snap.replay(res, host) else {
        return Progress::default();
    };
    let mut known = KnownLogs::of(v, res);
    if host == v.local && v.is_actual_primary(res, host) {
        // The file of the log that is being written may be longer than the log.
        known.cap_to_links(host);
    }
    let nr = r.log.nr;
    let here = |log_nr: u32, exact: Option<&LogName>| -> Option<u64> {
        if host == v.local {
            return match exact {
                Some(log) => known.get(log).local,
                None => known.sizes(log_nr).and_then(|(local, _)| local),
            };
        }
        v.snap
            .version(res, log_nr, host)
            .filter(|l| exact.is_none_or(|e| l.head.log == *e))
            .map(|l| l.head.len)
    };

    let mut p = Progress {
        base_nr: nr,
        replay_nr: nr,
        fetch_nr: nr,
        work_nr: nr,
        ..Progress::default()
    };
    // Finished logs: whatever is known of their length counts, here or not.
    let mut below = 0u64;
    while p.base_nr > 1 {
        match known.sizes(p.base_nr - 1) {
            Some((_, longest)) => below = below.saturating_add(longest),
            None => break,
        }
        p.base_nr -= 1;
    }
    // The own log: other logs of this number are another branch.
    let longest = known.get(&r.log).longest().max(r.pos);
    let local = here(nr, Some(&r.log)).unwrap_or(0).max(r.pos);
    p.replay_pos = below.saturating_add(r.pos);
    p.fetch_pos = below.saturating_add(local);
    p.fetch_size = below.saturating_add(longest.max(local));

    let mut contiguous = local >= longest;
    while let Some((_, longest)) = p.work_nr.checked_add(1).and_then(|n| known.sizes(n)) {
        p.work_nr += 1;
        p.fetch_size = p.fetch_size.saturating_add(longest);
        match here(p.work_nr, None) {
            Some(local) if contiguous => {
                // A damaged link may tell of more than is known of the number that it stands for.
                let local = local.min(longest);
                p.fetch_nr = p.work_nr;
                p.fetch_pos = p.fetch_pos.saturating_add(local);
                contiguous = local >= longest;
            }
            _ => contiguous = false,
        }
    }
    p
}

/// Sync progress of `host`; `None` when unknown.
pub fn sync_progress(v: &View<'_>, res: &ResName, host: &HostName) -> Option<SyncProgress> {
    let pos = v.snap.number(&Key::SyncStatus(res.clone(), host.clone()))?;
    let size = v.size(res)?;
    Some(SyncProgress { pos, size })
}

/// Percentage as `view` shows it: `100.5 * pos / size`, at most 100; 100 for an empty whole. The extra half
/// per cent is documented behaviour (macro-language.md 5.2).
pub fn percent(pos: u64, size: u64) -> f64 {
    scaled(pos, size, 100.0)
}

/// The same in thousandths.
pub fn permille(pos: u64, size: u64) -> f64 {
    scaled(pos, size, 1000.0)
}

#[allow(clippy::cast_precision_loss)]
fn scaled(pos: u64, size: u64, whole: f64) -> f64 {
    if size == 0 {
        return whole;
    }
    ((whole + 0.5) * (pos as f64) / (size as f64)).min(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_has_the_extra_half() {
        let text = format!("{:.2}", percent(567_293, 2_048_000));
        assert_eq!(text, "27.84");
        assert!((percent(0, 0) - 100.0).abs() < 1e-9);
        assert!((percent(2047, 2048) - 100.0).abs() < 1e-9);
        assert!((permille(1, 4) - 250.125).abs() < 1e-9);
    }
}
