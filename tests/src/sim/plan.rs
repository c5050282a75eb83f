//! How one run of a simulated primary goes: everything that is decided once, from the seed.
use super::rng::Rng;
use mars_log::{Compression, Digest, EncodeOptions};
use mars_logger::core::CoreConfig;
use std::time::Duration;

/// How one run goes.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Device size in bytes.
    pub size: u64,
    /// Writes are durable when they are answered.
    pub strict: bool,
    pub(super) limit: usize,
    pub(super) age: Duration,
    pub(super) zeroes_packed: bool,
    pub(super) encode: EncodeOptions,
    pub(super) writers: usize,
    pub(super) depth: usize,
    /// Largest write.
    pub(super) largest: u64,
    /// Chance in 100 that a request is no plain write.
    pub(super) special: u64,
    /// The device region that most writes go to.
    pub(super) hot: u64,
    pub(super) recovery_limit: u64,
    pub(super) rotate: u64,
    /// Chance in 1000 that a step of the log, or of the disk, fails.
    pub(super) log_faults: u64,
    pub(super) disk_faults: u64,
    /// Places of the disk go bad, and good again.
    pub(super) bad_places: bool,
    /// Bytes of zeros written ahead of the log's end, 0 = none.
    pub(super) prepare: u64,
    /// Logs are written past the page cache.
    pub(super) direct: bool,
    /// Steps.
    pub steps: u64,
}

impl Plan {
    /// A random one.
    pub fn sample(rng: &mut Rng) -> Plan {
        let size = match rng.below(10) {
            0..6 => 256 << 10,
            6..9 => 1 << 20,
            _ => 4 << 20,
        };
        let compression = if rng.chance(20) {
            Some(Compression::Lz4)
        } else {
            None
        };
        let digest = if rng.chance(15) {
            Digest::Md5
        } else {
            Digest::Crc32c
        };
        let largest: u64 = *rng.pick(&[512, 4096, 16 << 10, 64 << 10, 1 << 20]);
        let largest = largest.min(size / 2);
        // Large writes make large logs, and every state costs a recovery from them.
        let most = ((8 << 20) / largest).max(60);
        let strict = rng.chance(60);
        let bad_places = rng.chance(25);
        Plan {
            size,
            strict,
            limit: *rng.pick(&[32 << 10, 128 << 10, 512 << 10, 64 << 20]),
            age: Duration::from_millis(*rng.pick(&[0, 5, 50, 100_000])),
            zeroes_packed: rng.chance(70),
            encode: EncodeOptions {
                digest,
                compression,
                ..EncodeOptions::default()
            },
            writers: rng.within(1, 4) as usize,
            depth: *rng.pick(&[1, 2, 8]),
            largest,
            special: *rng.pick(&[5, 20, 50]),
            hot: *rng.pick(&[8192, 65536, size]),
            recovery_limit: *rng.pick(&[1 << 30, 1 << 30, 256 << 10, 16 << 10]),
            log_faults: match bad_places {
                true => *rng.pick(&[20, 200]),
                false => *rng.pick(&[0, 0, 0, 20]),
            },
            disk_faults: *rng.pick(&[0, 0, 0, 30]),
            bad_places,
            rotate: *rng.pick(&[u64::MAX, 4 << 10, 16 << 10, 128 << 10, 1 << 20]),
            prepare: *rng.pick(&[0, 0, 16 << 10, 64 << 10]),
            direct: strict && rng.chance(50),
            steps: rng.within(50, 400).min(most),
        }
    }

    /// For a primary that neither fails nor is cut, with a disk of several chunks of the sync.
    pub fn with_secondary(rng: &mut Rng) -> Plan {
        let plan = Plan::sample(rng);
        Plan {
            size: if rng.chance(40) { 9 << 20 } else { plan.size },
            log_faults: 0,
            disk_faults: 0,
            bad_places: false,
            steps: rng.within(500, 1500),
            ..plan
        }
    }

    pub(super) fn core(&self) -> CoreConfig {
        CoreConfig {
            strict: self.strict,
            limit: self.limit,
            encode: self.encode,
            age: self.age,
            recovery_limit: self.recovery_limit,
            zeroes_packed: self.zeroes_packed,
        }
    }
}
