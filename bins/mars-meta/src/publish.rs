//! What this host publishes about itself (symlink-tree.md 1.3). Pure, except for the question how much space there is.
use crate::spread::Spread;
use mars_daemon::{LogCompression, LogDigest};
use mars_log::{Compression, Digest, FeatureMask};
use mars_policy::{common_features, log_compression, log_digest, net_compression, net_digest};
use mars_tree::{Batch, HostName, Key, ResName, Snapshot, Stamp};
use std::path::Path;

/// Feature level, strategy, and what this implementation can read: all digests, all compressions.
pub const FEATURES: &str = "4,5,0x071f0000";
/// Digits directly before `(` tell old tools what to expect; they must be 98 or more.
pub const BUILDTAG: &str = concat!("mars1.0ustable100(", env!("CARGO_PKG_VERSION"), ")");
const GIB: u64 = 1 << 30;

/// When space counts as short.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// A file system smaller than this many bytes has no levels, else it could hold nothing.
    pub total: u64,
    /// Shares of the levels 1 to 4 in bytes: a level begins when less than its share and those of the higher ones is free.
    pub free: [u64; 4],
}

impl Limits {
    /// As configured.
    pub fn of(config: &mars_daemon::Config) -> Limits {
        Limits {
            total: config.required_total_bytes(),
            free: config.required_free_bytes(),
        }
    }
}

/// Space of the file system that holds the tree.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Space {
    /// Bytes in all.
    pub total: u64,
    /// Bytes that may still be used.
    pub free: u64,
    /// When that is too little.
    pub limits: Limits,
}

impl Space {
    /// Asks the file system.
    pub fn of(root: &Path, limits: Limits) -> std::io::Result<Space> {
        let s = nix::sys::statvfs::statvfs(root)?;
        let unit = s.fragment_size();
        Ok(Space {
            total: s.blocks().saturating_mul(unit),
            free: s.blocks_available().saturating_mul(unit),
            limits,
        })
    }
    fn limits(self) -> u64 {
        if self.total < self.limits.total {
            return 0;
        }
        self.limits.free.iter().fold(0, |a, b| a.saturating_add(*b))
    }
    /// GiB above all limits.
    pub fn rest_gib(self) -> u64 {
        self.free.saturating_sub(self.limits()) / GIB
    }
    /// GiB without the limits.
    pub fn total_gib(self) -> u64 {
        self.total.saturating_sub(self.limits()) / GIB
    }
    /// Emergency level by the space alone.
    fn level(self) -> u8 {
        if self.limits() == 0 {
            return u8::from(self.free == 0) * 4;
        }
        let mut need = 0_u64;
        for (share, level) in self.limits.free.iter().rev().zip((1..=4).rev()) {
            need = need.saturating_add(*share);
            if self.free < need {
                return level;
            }
        }
        0
    }
    /// The level to publish: rises at once, falls one step per round.
    pub fn emergency(self, before: u8) -> u8 {
        self.level().max(before.saturating_sub(1))
    }
}

/// `FEATURES,STRATEGY,0xMASK`
fn parse_features(s: &str) -> Option<(u32, u32, u32)> {
    let mut it = s.split(',');
    let level = it.next()?.parse().ok()?;
    let strategy = it.next()?.parse().ok()?;
    let mask = u32::from_str_radix(it.next()?.strip_prefix("0x")?, 16).ok()?;
    Some((level, strategy, mask))
}

/// What all hosts can do: minimum of the levels, intersection of the masks. Hosts whose features are unknown do not count.
pub fn usable<'a>(features: impl Iterator<Item = &'a str>) -> String {
    let own = parse_features(FEATURES).unwrap_or_default();
    let (l, s, m) = features
        .filter_map(parse_features)
        .fold(own, |a, b| (a.0.min(b.0), a.1.min(b.1), a.2 & b.2));
    format!("{l},{s},0x{m:08x}")
}

/// The keys that rarely change.
pub fn lazy_keys(batch: &mut Batch, me: &HostName, usable: &str) {
    let mut set = |name: &str, value: String| {
        batch.set_if_changed(Key::HostActual(me.clone(), name.to_string()), value);
    };
    set("tree", "0.1".into());
    set("features", FEATURES.into());
    set("usable", usable.into());
    set("buildtag", BUILDTAG.into());
    set("marsadm-version", "2.9".into());
}

/// Digest and compression that this host is configured for: those of its first resource, as each may have its own.
pub fn wanted(
    config: &mars_daemon::Config,
    resources: &[ResName],
) -> (Digest, Option<Compression>) {
    let Some(config) = resources.first().map(|r| config.resource(r)) else {
        return (Digest::Crc32c, None);
    };
    let digest = match config.log_digest {
        LogDigest::Crc32c => Digest::Crc32c,
        LogDigest::Md5 => Digest::Md5,
    };
    let compression = match config.log_compression {
        LogCompression::None => None,
        LogCompression::Lz4 => Some(Compression::Lz4),
        LogCompression::Zlib => Some(Compression::Zlib),
    };
    (digest, compression)
}

/// The digests and compressions that this host uses for what it writes and sends, as the tree has it. `wanted`: as configured.
pub fn used_keys(
    batch: &mut Batch,
    spread: &Spread,
    me: &HostName,
    members: &[HostName],
    wanted: (Digest, Option<Compression>),
) {
    let mut snap = Snapshot::default();
    let own = format!("defaults-{me}/");
    let mut take = |prefix: &str| {
        for (rest, text) in spread.texts_below(prefix) {
            snap.insert(&Key::parse(&format!("{prefix}{rest}")), text, Stamp::ZERO);
        }
    };
    take("defaults/");
    take(&own);
    for h in members {
        take(&format!("actual-{h}/features"));
    }
    let common = common_features(&snap, members.iter().cloned());
    let digest = |d| FeatureMask::of_digest(d).0;
    let compression = |c: Option<Compression>| c.map_or(0, |c| FeatureMask::of_compression(c).0);
    for (name, bits) in [
        (
            "used-log-digest",
            digest(log_digest(&snap, me, common, wanted.0)),
        ),
        ("used-net-digest", digest(net_digest(&snap, me, common))),
        (
            "used-log-compression",
            compression(log_compression(&snap, me, common, wanted.1)),
        ),
        (
            "used-net-compression",
            compression(net_compression(&snap, me, common)),
        ),
    ] {
        batch.set_if_changed(Key::HostActual(me.clone(), name.to_string()), bits);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const LIMITS: Limits = Limits {
        total: 12 * GIB,
        free: [2 * GIB; 4],
    };

    #[test]
    fn small_file_systems_have_no_limits() {
        let s = Space {
            total: 8 * GIB,
            free: GIB,
            limits: LIMITS,
        };
        assert_eq!((s.rest_gib(), s.total_gib(), s.emergency(0)), (1, 8, 0));
        let full = Space {
            total: 8 * GIB,
            free: 0,
            limits: LIMITS,
        };
        assert_eq!(full.emergency(0), 4);
    }

    #[test]
    fn emergency_rises_at_once_and_falls_stepwise() {
        let s = |free| Space {
            total: 100 * GIB,
            free: free * GIB,
            limits: LIMITS,
        };
        assert_eq!((s(50).rest_gib(), s(50).total_gib()), (42, 92));
        assert_eq!(s(5).rest_gib(), 0);
        assert_eq!([9, 7, 5, 3, 1].map(|f| s(f).emergency(0)), [0, 1, 2, 3, 4]);
        assert_eq!(s(50).emergency(4), 3);
        assert_eq!(s(50).emergency(0), 0);
        assert_eq!(s(1).emergency(1), 4);
    }

    #[test]
    fn emergency_levels_follow_their_shares() {
        let s = |free| Space {
            total: 100 * GIB,
            free: free * GIB,
            limits: Limits {
                total: 0,
                free: [40 * GIB, 0, 4 * GIB, GIB],
            },
        };
        assert_eq!(
            [50, 45, 44, 5, 4, 1, 0].map(|f| s(f).emergency(0)),
            [0, 0, 1, 1, 3, 3, 4]
        );
    }

    #[test]
    fn usable_is_what_all_can() {
        assert_eq!(usable([].into_iter()), FEATURES);
        assert_eq!(
            usable(["3,7,0x00070000", "garbage", "4,6,0x01040000"].into_iter()),
            "3,5,0x00040000"
        );
    }

    #[test]
    fn buildtag_has_a_number_old_tools_accept() {
        let digits: String = BUILDTAG
            .split('(')
            .next()
            .unwrap()
            .chars()
            .rev()
            .take_while(char::is_ascii_digit)
            .collect();
        assert!(
            digits
                .chars()
                .rev()
                .collect::<String>()
                .parse::<u32>()
                .unwrap()
                >= 98
        );
    }
}
