//! Byte amounts inside states and messages.

/// A byte amount as states and messages show it: `812 B`, `4.000 KiB`, `35.084 MiB` (macro-language.md 3.4, column "Newer
/// tool": MiB from 1 MiB, GiB and TiB from 9.99, always three decimals). Progress lines use their own, changed thresholds.
pub fn amount(bytes: u64) -> String {
    const KIB: f64 = 1024.0;
    #[allow(clippy::cast_precision_loss)]
    let n = bytes as f64;
    let steps = [
        (KIB, KIB, "KiB"),
        (KIB * KIB, KIB * KIB, "MiB"),
        (9.99 * KIB.powi(3), KIB.powi(3), "GiB"),
        (9.99 * KIB.powi(4), KIB.powi(4), "TiB"),
    ];
    match steps.iter().rev().find(|(from, _, _)| n >= *from) {
        Some((_, unit, name)) => format!("{:.3} {name}", n / unit),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::amount;

    #[test]
    fn amount_matches_documented_examples() {
        assert_eq!(amount(0), "0 B");
        assert_eq!(amount(1023), "1023 B");
        assert_eq!(amount(4096), "4.000 KiB");
        assert_eq!(amount(13_211_696), "12.600 MiB");
        assert_eq!(amount(36_788_240), "35.084 MiB");
        assert_eq!(amount(2 << 30), "2048.000 MiB");
        assert_eq!(amount(u64::MAX), "16777216.000 TiB");
    }
}
