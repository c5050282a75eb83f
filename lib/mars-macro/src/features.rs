//! Feature masks (symlink-tree.md 1.2, macro-language.md 5.1).
use crate::Scope;
use mars_tree::{HostName, Key};

/// Bits with the names that users write (marsadm-commands.md section 8).
pub const FEATURE_NAMES: &[(u64, &str)] = &[
    (0x0001_0000, "CHKSUM_MD5_OLD"),
    (0x0002_0000, "CHKSUM_MD5"),
    (0x0004_0000, "CHKSUM_CRC32C"),
    (0x0008_0000, "CHKSUM_CRC32"),
    (0x0010_0000, "CHKSUM_SHA1"),
    (0x0100_0000, "COMPRESS_LZO"),
    (0x0200_0000, "COMPRESS_LZ4"),
    (0x0400_0000, "COMPRESS_ZLIB"),
];

fn names(mask: u64, family: &str) -> String {
    let list: Vec<&str> = FEATURE_NAMES
        .iter()
        .filter(|(bit, name)| mask & bit != 0 && name.starts_with(family))
        .map(|(_, name)| *name)
        .collect();
    list.join("|")
}

fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

/// Mask in the third field of `features` or `usable`.
fn mask(scope: &Scope<'_>, host: &HostName, link: &str) -> u64 {
    let key = Key::HostActual(host.clone(), link.to_string());
    scope
        .view
        .snap
        .sound_text(&key)
        .and_then(|t| number(t.split(',').nth(2)?))
        .unwrap_or(0)
}

/// First field of `features`.
pub(crate) fn version(scope: &Scope<'_>, host: &HostName) -> String {
    let key = Key::HostActual(host.clone(), "features".to_string());
    let text = scope.view.snap.sound_text(&key).unwrap_or("");
    text.split(',').next().unwrap_or("").to_string()
}

/// Value of a feature macro; `None` when `name` is none.
pub(crate) fn feature_macro(name: &str, scope: &Scope<'_>, host: &HostName) -> Option<String> {
    let of = |link: &str, family: &str| names(mask(scope, host, link), family);
    let default = |key: &str| {
        let text = scope.view.snap.sound_text(&Key::Default(key.to_string()));
        names(text.and_then(number).unwrap_or(0), "")
    };
    let used = |key: &str| {
        let key = Key::HostActual(host.clone(), key.to_string());
        names(
            scope
                .view
                .snap
                .sound_text(&key)
                .and_then(number)
                .unwrap_or(0),
            "",
        )
    };
    Some(match name {
        "potential-features" => names(u64::MAX, ""),
        "implemented-features" => of("features", ""),
        "usable-features" => of("usable", ""),
        "implemented-digests" => of("features", "CHKSUM"),
        "usable-digests" => of("usable", "CHKSUM"),
        "implemented-compressions" => of("features", "COMPRESS"),
        "usable-compressions" => of("usable", "COMPRESS"),
        "enabled-log-compressions"
        | "enabled-net-compressions"
        | "disabled-log-digests"
        | "disabled-net-digests" => default(name),
        "used-log-digest" | "used-net-digest" | "used-log-compression" | "used-net-compression" => {
            used(name)
        }
        _ => return None,
    })
}

/// All names that [`feature_macro`] knows.
pub(crate) const FEATURE_MACROS: &[&str] = &[
    "potential-features",
    "implemented-features",
    "usable-features",
    "implemented-digests",
    "usable-digests",
    "implemented-compressions",
    "usable-compressions",
    "enabled-log-compressions",
    "enabled-net-compressions",
    "disabled-log-digests",
    "disabled-net-digests",
    "used-log-digest",
    "used-net-digest",
    "used-log-compression",
    "used-net-compression",
];
