//! Log files with a volatile cache that remembers what was not made durable.
use super::rng::Rng;
use super::subset::{Fate, Fates};
use crate::stamp::{SECTOR, mix};
use mars_log::DirectBlocks;
use mars_tree::LogName;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

static NEXT_ID: AtomicU64 = AtomicU64::new(0);

/// One log file.
#[derive(Debug)]
pub struct SimLog {
    /// No other has it. Bytes of a log with one id are only added.
    id: u64,
    /// What was written, in the page cache.
    bytes: Vec<u8>,
    /// Digests of its first 0, 1, 2 ... whole sectors.
    digests: Vec<u64>,
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
    /// Appends go past the page cache.
    direct: Option<Direct>,
}

/// A log that is written past the page cache: whole blocks, the last one again with each append. What the disk has in its cache of them may be torn
/// at any sector, also inside bytes that were durable before.
#[derive(Debug)]
struct Direct {
    blocks: DirectBlocks,
    /// The file as it is for sure, padding included.
    durable: Vec<u8>,
    open: Vec<Blocks>,
}

/// Blocks that were written and not synced.
#[derive(Debug)]
struct Blocks {
    at: u64,
    data: Vec<u8>,
    /// Length of the log behind the append that they belong to.
    end: u64,
}

impl Direct {
    fn append(&mut self, bytes: &[u8], len: u64, end: u64) {
        let Direct { blocks, open, .. } = self;
        let mut write = |data: &[u8], at| {
            let data = data.to_vec();
            open.push(Blocks { at, data, end });
            Ok(())
        };
        blocks.append(bytes, len, &mut write).unwrap();
    }

    fn synced(&mut self, len: u64) {
        let done = self.open.iter().take_while(|w| w.end <= len).count();
        for w in self.open.drain(..done) {
            let (from, to) = (w.at as usize, w.at as usize + w.data.len());
            self.durable.resize(self.durable.len().max(to), 0);
            self.durable[from..to].copy_from_slice(&w.data);
        }
    }

    fn cut(&self, size: u64, rng: &mut Rng) -> Vec<u8> {
        let mut file = self.durable.clone();
        file.resize(size as usize, 0);
        let fates = Fates::sample(rng, self.open.len());
        for (nr, w) in self.open.iter().enumerate() {
            let fate = fates.of(nr, (w.data.len() / SECTOR) as u64, rng);
            for (s, sector) in w.data.chunks(SECTOR).enumerate() {
                let from = w.at as usize + s * SECTOR;
                if from < file.len() && fate.has(s as u64, rng) {
                    let to = file.len().min(from + SECTOR);
                    file[from..to].copy_from_slice(&sector[..to - from]);
                }
            }
        }
        file
    }

    /// Ends of what is durable and of what was written.
    fn ends(&self) -> (u64, u64) {
        let durable = self.durable.len() as u64;
        let open = self.open.iter().map(|w| w.at + w.data.len() as u64);
        (durable, open.max().unwrap_or(0).max(durable))
    }
}

/// What is found of a log file.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// All of it.
    pub bytes: Vec<u8>,
    /// The first `same` bytes are those of the [`SimLog`] with this id.
    pub id: u64,
    /// See `id`.
    pub same: u64,
    /// Of all bytes; see [`digest`].
    pub digest: u64,
}

impl Found {
    /// Cut at `len`.
    pub fn truncate(&mut self, len: u64) {
        if len < self.bytes.len() as u64 {
            self.bytes.truncate(len as usize);
            self.same = self.same.min(len);
            self.digest = digest(0, &self.bytes, 0);
        }
    }
}

fn digest_of_sector(nr: usize, bytes: &[u8]) -> u64 {
    let mut h = [nr as u64, bytes.len() as u64];
    let (pairs, rest) = bytes.as_chunks::<16>();
    let mut add = |chunk: &[u8; 16]| {
        let (words, _) = chunk.as_chunks::<8>();
        for (h, w) in h.iter_mut().zip(words) {
            let mixed = (*h ^ u64::from_le_bytes(*w)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
            *h = mixed ^ (mixed >> 29);
        }
    };
    pairs.iter().for_each(&mut add);
    let mut last = [0; 16];
    last[..rest.len()].copy_from_slice(rest);
    add(&last);
    mix(mix(h[0]).wrapping_add(h[1]))
}

/// Digest of a log's bytes: that of its first `sectors` whole sectors, and those that follow in `bytes`. It does not matter how the bytes came there.
fn digest(before: u64, bytes: &[u8], sectors: usize) -> u64 {
    let parts = bytes.chunks(SECTOR).zip(sectors..);
    parts.fold(before, |sum, (b, nr)| {
        sum.wrapping_add(digest_of_sector(nr, b))
    })
}

impl Default for SimLog {
    fn default() -> SimLog {
        SimLog::of_file(Vec::new())
    }
}

impl SimLog {
    /// A file that is durable as it is.
    pub fn of_file(bytes: Vec<u8>) -> SimLog {
        let mut log = SimLog {
            id: NEXT_ID.fetch_add(1, Ordering::Relaxed),
            synced: bytes.len() as u64,
            bytes,
            digests: vec![0],
            appends: Vec::new(),
            prepared: 0,
            prepared_synced: 0,
            debris: Vec::new(),
            direct: None,
        };
        log.add_digests();
        log
    }

    fn add_digests(&mut self) {
        for nr in self.digests.len() - 1..self.bytes.len() / SECTOR {
            let one = digest_of_sector(nr, &self.bytes[nr * SECTOR..][..SECTOR]);
            self.digests.push(self.digests[nr].wrapping_add(one));
        }
    }

    /// Appends to this empty log go past the page cache.
    pub fn go_direct(&mut self) {
        assert!(self.is_empty());
        self.direct = Some(Direct {
            blocks: DirectBlocks::new().unwrap(),
            durable: Vec::new(),
            open: Vec::new(),
        });
    }

    /// What was written.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Appends.
    pub fn append(&mut self, bytes: &[u8]) {
        let (len, end) = (self.len(), self.len() + bytes.len() as u64);
        if let Some(direct) = &mut self.direct {
            direct.append(bytes, len, end);
        }
        self.bytes.extend_from_slice(bytes);
        self.add_digests();
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
        if let Some(direct) = &mut self.direct {
            direct.synced(self.synced);
        }
    }

    /// Zeros are written ahead of the end.
    pub fn prepare(&mut self, ahead: u64) {
        self.prepared = self.prepared.max(self.len() + ahead);
    }

    /// An append fails after a part of it was written.
    pub fn fail_append(&mut self, part: &[u8]) {
        let len = self.len();
        match &mut self.direct {
            // No sync that succeeds comes behind it.
            Some(direct) => direct.append(part, len, u64::MAX),
            None => self.debris = part.to_vec(),
        }
    }

    /// Cut at `len` and made durable.
    pub fn truncate(&mut self, len: u64) {
        if len < self.len() {
            let mut bytes = std::mem::take(&mut self.bytes);
            bytes.truncate(len as usize);
            *self = SimLog::of_file(bytes);
        }
        // It is not written any more.
        self.direct = None;
        self.appends.clear();
        self.debris.clear();
        self.synced = self.len();
        (self.prepared, self.prepared_synced) = (0, 0);
    }

    /// The file as a power cut now could leave it.
    pub fn cut(&self, rng: &mut Rng) -> Found {
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
        let (padded, padded_most) = self.direct.as_ref().map_or((0, 0), Direct::ends);
        let least = synced.max(self.prepared_synced).max(padded);
        let most = len.max(self.prepared).max(padded_most);
        let size = match rng.below(6) {
            0 => least,
            1 | 2 => most,
            3 => (rng.within(least, most) / SECTOR as u64 * SECTOR as u64).max(least),
            4 => (rng.within(least, most) / 4096 * 4096).max(least),
            _ => rng.within(least, most),
        };
        if let Some(direct) = &self.direct {
            let bytes = direct.cut(size, rng);
            // Nothing is taken for granted of what was written again.
            return Found {
                id: self.id,
                same: 0,
                digest: digest(0, &bytes, 0),
                bytes,
            };
        }
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
        let sectors = (synced / sector) as usize;
        Found {
            id: self.id,
            same: synced,
            digest: digest(self.digests[sectors], &file[sectors * SECTOR..], sectors),
            bytes: file,
        }
    }
}

/// All log files of the resource.
#[derive(Debug, Default)]
pub struct SimLogs(pub BTreeMap<LogName, SimLog>);

impl SimLogs {
    /// The file, which must exist.
    pub fn of(&mut self, name: &LogName) -> &mut SimLog {
        self.0
            .get_mut(name)
            .unwrap_or_else(|| panic!("{name} does not exist"))
    }

    /// All files as a power cut now could leave them.
    pub fn cut(&self, rng: &mut Rng) -> BTreeMap<LogName, Found> {
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
            let found = log.cut(&mut Rng::new(seed));
            assert_eq!(found.digest, digest(0, &found.bytes, 0));
            let file = found.bytes;
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
            let file = log.cut(&mut Rng::new(seed)).bytes;
            assert_eq!(file.len(), 8192);
            assert!(file[1000..].iter().all(|b| *b == 0));
        }
    }

    #[test]
    fn blocks_past_the_page_cache_are_torn_inside_the_last_one() {
        let mut log = SimLog::default();
        log.go_direct();
        log.append(&[1; 700]);
        log.synced(700);
        log.append(&[2; 1500]);
        log.append(&[3; 5000]);
        let mut seen = HashSet::new();
        for seed in 0..5000 {
            let file = log.cut(&mut Rng::new(seed)).bytes;
            assert!(file.len() >= 4096 && file.len() <= 8192);
            assert!(file[..700].iter().all(|b| *b == 1));
            // The sector of the old end, the next one, the one of the second end and the next one.
            seen.insert([file[700], file[1024], file[2199], file[2300], file[3000]]);
        }
        // Both appends, or only the newer one, wrote a sector, or none did.
        assert!(seen.contains(&[0; 5]) && seen.contains(&[2, 2, 2, 3, 3]));
        assert!(seen.contains(&[0, 2, 2, 3, 3]) && seen.contains(&[2, 0, 2, 0, 0]));
        assert!(seen.contains(&[2, 2, 2, 0, 0]) && seen.contains(&[0, 0, 0, 0, 3]));
        log.synced(7200);
        let found = log.cut(&mut Rng::new(1));
        assert_eq!(found.bytes[..7200], *log.bytes());
    }

    #[test]
    fn every_byte_and_the_length_are_in_the_digest() {
        let bytes: Vec<u8> = (0..1300).map(|i| (i % 251) as u8).collect();
        let mut seen: HashSet<u64> = (1..=1300).map(|n| digest(0, &bytes[..n], 0)).collect();
        for i in 0..bytes.len() {
            let mut other = bytes.clone();
            other[i] ^= 1;
            seen.insert(digest(0, &other, 0));
        }
        assert_eq!(seen.len(), 2600);
        let mut log = SimLog::default();
        log.append(&bytes[..600]);
        log.append(&bytes[600..]);
        log.synced(1300);
        let mut rng = Rng::new(1);
        let mut found = log.cut(&mut rng);
        assert_eq!(found.digest, digest(0, &bytes, 0));
        found.truncate(1000);
        assert_eq!(found.digest, digest(0, &bytes[..1000], 0));
    }
}
