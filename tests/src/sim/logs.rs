//! Log files with a volatile cache that remembers what was not made durable.
use super::rng::Rng;
use super::subset::{Fate, Fates};
use crate::stamp::SECTOR;
use mars_tree::LogName;
use std::collections::BTreeMap;

/// One log file.
#[derive(Clone, Debug, Default)]
pub struct SimLog {
    /// What was written, in the page cache.
    pub bytes: Vec<u8>,
    /// Bytes that an fdatasync made durable.
    pub synced: u64,
    /// Ends of the appends since then.
    appends: Vec<u64>,
    /// Zeros are written ahead up to here.
    prepared: u64,
    /// They are durable up to here.
    prepared_synced: u64,
    /// Appends that failed left parts behind the end.
    debris: Vec<u8>,
}

impl SimLog {
    /// A file that is durable as it is.
    pub fn of_file(bytes: Vec<u8>) -> SimLog {
        SimLog {
            synced: bytes.len() as u64,
            bytes,
            ..SimLog::default()
        }
    }

    /// Appends.
    pub fn append(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.appends.push(self.bytes.len() as u64);
    }

    /// Bytes appended.
    pub fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Nothing appended?
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// An fdatasync that started when so many bytes were appended has ended.
    pub fn synced(&mut self, len: u64) {
        self.synced = self.synced.max(len.min(self.len()));
        self.appends.retain(|end| *end > self.synced);
        self.prepared_synced = self.prepared;
    }

    /// Zeros are written ahead of the end.
    pub fn prepare(&mut self, ahead: u64) {
        self.prepared = self.prepared.max(self.len() + ahead);
    }

    /// An append fails after a part of it was written.
    pub fn fail_append(&mut self, part: &[u8]) {
        self.debris = part.to_vec();
    }

    /// Cut at `len` and made durable.
    pub fn truncate(&mut self, len: u64) {
        self.bytes.truncate(len as usize);
        self.appends.clear();
        self.debris.clear();
        self.synced = self.len();
        (self.prepared, self.prepared_synced) = (0, 0);
    }

    /// The file as a power cut now could leave it.
    pub fn cut(&self, rng: &mut Rng) -> Vec<u8> {
        let mut both = Vec::new();
        let written = if self.debris.is_empty() {
            &self.bytes
        } else {
            both.extend_from_slice(&self.bytes);
            both.extend_from_slice(&self.debris);
            &both
        };
        let (len, synced) = (written.len() as u64, self.synced.min(written.len() as u64));
        // Sizes: anything between what is durable and what was written; prepared zeros may make the file longer.
        let least = synced.max(self.prepared_synced);
        let most = len.max(self.prepared);
        let size = match rng.below(6) {
            0 => least,
            1 | 2 => most,
            3 => (rng.within(least, most) / SECTOR as u64 * SECTOR as u64).max(least),
            4 => (rng.within(least, most) / 4096 * 4096).max(least),
            _ => rng.within(least, most),
        };
        let mut file = Vec::with_capacity(size as usize);
        file.extend_from_slice(&written[..synced as usize]);
        file.resize(size as usize, 0);
        let sector = SECTOR as u64;
        let fates = Fates::sample(rng, self.appends.len());
        let mut from = synced;
        let ends = self.appends.iter().copied().chain([len]);
        for (nr, end) in ends.enumerate() {
            let end = end.min(size);
            if from >= end {
                continue;
            }
            let first = from / sector;
            let fate = fates.of(nr, end.div_ceil(sector) - first, rng);
            if fate != Fate::Absent {
                for s in first..end.div_ceil(sector) {
                    if fate.has(s - first, rng) {
                        // The page cache writes whole sectors as they were then: later appends in the same sector come along, or not.
                        let newest = if rng.chance(30) { end } else { len };
                        let a = (s * sector) as usize;
                        let b = ((s + 1) * sector).min(size).min(newest) as usize;
                        file[a..b].copy_from_slice(&written[a..b]);
                    }
                }
            }
            from = end;
        }
        file
    }
}

/// All log files of the resource.
#[derive(Clone, Debug, Default)]
pub struct SimLogs(pub BTreeMap<LogName, SimLog>);

impl SimLogs {
    /// The file, which must exist.
    pub fn of(&mut self, name: &LogName) -> &mut SimLog {
        self.0
            .get_mut(name)
            .unwrap_or_else(|| panic!("{name} does not exist"))
    }

    /// All files as a power cut now could leave them.
    pub fn cut(&self, rng: &mut Rng) -> BTreeMap<LogName, Vec<u8>> {
        let cut = |(name, log): (&LogName, &SimLog)| (name.clone(), log.cut(rng));
        self.0.iter().map(cut).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn a_cut_leaves_what_was_synced_and_any_sectors_behind() {
        let mut log = SimLog::default();
        log.append(&[1; 700]);
        log.synced(700);
        log.append(&[2; 1500]);
        let mut seen = HashSet::new();
        for seed in 0..3000 {
            let file = log.cut(&mut Rng::new(seed));
            assert!(file.len() >= 700 && file.len() <= 2200);
            assert!(file[..700].iter().all(|b| *b == 1));
            let at = |i: usize| file.get(i).copied();
            seen.insert([at(800), at(1024), at(1600), at(2199)]);
            // Whole sectors only.
            assert!(file.len() < 1536 || file[1024..1536].iter().all(|b| *b == file[1024]));
        }
        let full = seen.iter().filter(|s| s[3].is_some()).count();
        assert_eq!(full, 16, "each of four sectors there or not: {seen:?}");
        assert!(seen.contains(&[None; 4]));
    }

    #[test]
    fn prepared_zeros_keep_their_size() {
        let mut log = SimLog::default();
        log.prepare(8192);
        log.synced(0);
        log.append(&[1; 1000]);
        for seed in 0..100 {
            let file = log.cut(&mut Rng::new(seed));
            assert_eq!(file.len(), 8192);
            assert!(file[1000..].iter().all(|b| *b == 0));
        }
    }
}
