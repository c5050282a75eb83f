//! Digests and compressions in use: what all hosts can, without what was disabled, with what was enabled (symlink-tree.md 1.2, 1.3);
//! and the emergency limit of a resource (5.5).
use mars_log::{Compression, Digest, FeatureMask};
use mars_tree::{HostName, Key, Snapshot};

/// What a host's `actual-HOST/features` says; `None` when it has not said anything legible.
fn features_of(snap: &Snapshot, host: &HostName) -> Option<FeatureMask> {
    let text = snap.text(&Key::HostActual(host.clone(), "features".to_string()))?;
    mask_number(text.split(',').nth(2)?)
}

fn mask_number(text: &str) -> Option<FeatureMask> {
    let number = match text.strip_prefix("0x") {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => text.parse(),
    };
    number.ok().map(FeatureMask)
}

/// What all these hosts understand; hosts that have not published anything yet do not count.
pub fn common_features(snap: &Snapshot, hosts: impl IntoIterator<Item = HostName>) -> FeatureMask {
    hosts
        .into_iter()
        .filter_map(|h| features_of(snap, &h))
        .fold(FeatureMask::OURS, FeatureMask::and)
}

/// A mask of `defaults/`, or that of the same name in `defaults-HOST/`, which counts more. `None`: nobody has set it.
fn default_mask(snap: &Snapshot, host: &HostName, name: &str) -> Option<FeatureMask> {
    [
        Key::HostDefault(host.clone(), name.to_string()),
        Key::Default(name.to_string()),
    ]
    .iter()
    .find_map(|key| mask_number(snap.text(key)?))
}

fn digest(common: FeatureMask, disabled: Option<FeatureMask>, wanted: Digest) -> Digest {
    let allowed = common.without(disabled.unwrap_or_default());
    if allowed.contains(FeatureMask::of_digest(wanted)) {
        wanted
    } else {
        allowed.best_digest()
    }
}

fn compression(
    common: FeatureMask,
    enabled: FeatureMask,
    wanted: Option<Compression>,
) -> Option<Compression> {
    let allowed = common.and(enabled);
    wanted
        .filter(|c| allowed.contains(FeatureMask::of_compression(*c)))
        .or_else(|| allowed.best_compression())
}

/// Digest of new log records: the one that this host is configured for if it is allowed, else the best that is; the old MD5 when
/// all are disabled, because a log without digests is none.
pub fn log_digest(snap: &Snapshot, host: &HostName, common: FeatureMask, wanted: Digest) -> Digest {
    digest(
        common,
        default_mask(snap, host, "disabled-log-digests"),
        wanted,
    )
}

/// Compression of new log records. As long as nobody has set `enabled-log-compressions`, what this host is configured for.
pub fn log_compression(
    snap: &Snapshot,
    host: &HostName,
    common: FeatureMask,
    wanted: Option<Compression>,
) -> Option<Compression> {
    match default_mask(snap, host, "enabled-log-compressions") {
        Some(enabled) => compression(common, enabled, wanted),
        None => wanted.filter(|c| common.contains(FeatureMask::of_compression(*c))),
    }
}

/// Digest of what travels between two hosts.
pub fn net_digest(snap: &Snapshot, host: &HostName, common: FeatureMask) -> Digest {
    let disabled = default_mask(snap, host, "disabled-net-digests");
    digest(common, disabled, Digest::Crc32c)
}

/// Compression of what travels between two hosts; none as long as nobody has enabled one.
pub fn net_compression(
    snap: &Snapshot,
    host: &HostName,
    common: FeatureMask,
) -> Option<Compression> {
    let enabled = default_mask(snap, host, "enabled-net-compressions")?;
    compression(common, enabled, None)
}

/// The space level that counts for one resource: the one of the host, or the highest when less than `limit` percent of the space above
/// all limits of the host is left. `rest` and `total` in GiB, as the host publishes them.
pub fn space_level(host: u8, limit: Option<u64>, rest: Option<u64>, total: Option<u64>) -> u8 {
    match (limit, rest, total) {
        (Some(limit @ 1..=100), Some(rest), Some(total))
            if total > 0 && rest.saturating_mul(100) / total < limit =>
        {
            4
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use mars_tree::Stamp;

    fn tree(links: &[(&str, &str)]) -> Snapshot {
        let mut s = Snapshot::default();
        for (path, value) in links {
            s.insert(&Key::parse(path), value, Stamp::from_nanos(1 << 60));
        }
        s
    }
    fn me() -> HostName {
        "a".parse().unwrap()
    }
    const ALL: FeatureMask = FeatureMask::OURS;

    #[test]
    fn disabled_digests_are_not_used() {
        let of = |mask: &str| {
            let s = tree(&[("defaults/disabled-log-digests", mask)]);
            log_digest(&s, &me(), ALL, Digest::Crc32c)
        };
        assert_eq!(of("0x00000000"), Digest::Crc32c);
        assert_ne!(of("0x00040000"), Digest::Crc32c);
        assert_eq!(of("0x001e0000"), Digest::Md5Old);
        assert_eq!(of("0x001f0000"), Digest::Md5Old, "never none at all");
        assert_eq!(of("garbage"), Digest::Crc32c);
        assert_eq!(log_digest(&tree(&[]), &me(), ALL, Digest::Md5), Digest::Md5);
        let s = tree(&[("defaults/disabled-net-digests", "0x001f0000")]);
        assert_eq!(net_digest(&s, &me(), ALL), Digest::Md5Old);
    }

    #[test]
    fn enabled_compressions_replace_the_configuration() {
        let of = |mask: Option<&str>, wanted| {
            let links: Vec<_> = mask
                .map(|m| ("defaults/enabled-log-compressions", m))
                .into_iter()
                .collect();
            log_compression(&tree(&links), &me(), ALL, wanted)
        };
        let (lz4, zlib) = (Some(Compression::Lz4), Some(Compression::Zlib));
        assert_eq!((of(None, None), of(None, zlib)), (None, zlib));
        assert_eq!(of(Some("0x00000000"), zlib), None);
        assert_eq!(of(Some("0x06000000"), None), lz4);
        assert_eq!(of(Some("0x06000000"), zlib), zlib);
        assert_eq!(of(Some("0x02000000"), zlib), lz4);
        assert_eq!(of(Some("0x01000000"), None), None, "LZO is only read");
        let s = tree(&[]);
        assert_eq!(net_compression(&s, &me(), ALL), None);
        let s = tree(&[("defaults/enabled-net-compressions", "0x04000000")]);
        assert_eq!(net_compression(&s, &me(), ALL), zlib);
        assert_eq!(net_compression(&s, &me(), FeatureMask(0x0204_0000)), None);
    }

    #[test]
    fn the_own_default_counts_more_than_the_global_one() {
        let s = tree(&[
            ("defaults/disabled-log-digests", "0x00040000"),
            ("defaults-a/disabled-log-digests", "0x00000000"),
            ("defaults-b/disabled-log-digests", "0x001e0000"),
        ]);
        assert_eq!(log_digest(&s, &me(), ALL, Digest::Crc32c), Digest::Crc32c);
    }

    #[test]
    fn common_is_what_everybody_has_published() {
        let s = tree(&[
            ("actual-a/features", "4,5,0x071f0000"),
            ("actual-b/features", "4,5,0x00050000"),
            ("actual-c/features", "garbage"),
        ]);
        let hosts = ["a", "b", "c", "d"].map(|h| h.parse().unwrap());
        assert_eq!(common_features(&s, hosts), FeatureMask(0x0005_0000));
    }

    #[test]
    fn the_limit_is_a_percentage_of_the_space_above_all_limits() {
        let at = |limit, rest, total| space_level(0, limit, rest, total);
        assert_eq!(at(Some(50), Some(49), Some(100)), 4);
        assert_eq!(at(Some(50), Some(50), Some(100)), 0);
        assert_eq!(at(Some(100), Some(99), Some(100)), 4);
        assert_eq!(at(Some(0), Some(0), Some(100)), 0);
        assert_eq!(at(None, Some(0), Some(100)), 0);
        assert_eq!(at(Some(101), Some(0), Some(100)), 0, "damaged");
        assert_eq!(at(Some(50), Some(0), Some(0)), 0, "no statement");
        assert_eq!(at(Some(50), None, Some(100)), 0);
        assert_eq!(space_level(2, Some(1), Some(50), Some(100)), 2);
        assert_eq!(
            at(Some(99), Some(u64::MAX), Some(u64::MAX)),
            4,
            "no overflow"
        );
    }
}
