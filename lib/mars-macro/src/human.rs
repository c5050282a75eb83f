//! Numbers for humans (macro-language.md 3.3 to 3.5).

const K: f64 = 1024.0;

/// Divisor and name for a forced unit letter, or for the greatest of the numbers.
fn unit_of(unit: &str, max: f64) -> (f64, &'static str) {
    match unit {
        "K" => (K, "KiB"),
        "M" => (K.powi(2), "MiB"),
        "G" => (K.powi(3), "GiB"),
        "T" => (K.powi(4), "TiB"),
        "k" => (1e3, "KB"),
        "m" => (1e6, "MB"),
        "g" => (1e9, "GB"),
        "t" => (1e12, "TB"),
        _ if max >= 99.99 * K.powi(4) => (K.powi(4), "TiB"),
        _ if max >= 99.99 * K.powi(3) => (K.powi(3), "GiB"),
        _ if max >= 99.99 * K.powi(2) => (K.powi(2), "MiB"),
        _ if max >= K => (K, "KiB"),
        _ => (1.0, "B"),
    }
}

fn greatest(numbers: &[f64]) -> f64 {
    numbers.iter().fold(0.0, |m, n| f64::max(m, n.abs()))
}

/// At most three decimals, no trailing zeros.
fn decimals(n: f64) -> String {
    let s = format!("{n:.3}");
    s.trim_end_matches('0').trim_end_matches('.').to_string()
}

/// `%human-number{unit}{delim}{unitsep}{n}…` with the REC thresholds of macro-language.md 3.4. Empty `delim` is `/`, empty
/// `unitsep` one blank.
pub fn human_number(unit: &str, delim: &str, unitsep: &str, numbers: &[f64]) -> String {
    let delim = if delim.is_empty() { "/" } else { delim };
    let unitsep = if unitsep.is_empty() { " " } else { unitsep };
    let (divisor, name) = unit_of(unit, greatest(numbers));
    let texts: Vec<String> = numbers.iter().map(|n| decimals(n / divisor)).collect();
    format!("{}{unitsep}{name}", texts.join(delim))
}

/// `%human-seconds{n}`; `None` = empty argument.
pub fn human_seconds(n: Option<f64>) -> String {
    match n {
        Some(n) if n >= 0.0 => {
            #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
            let s = n as u64;
            format!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
        }
        _ => "--:--:--".into(),
    }
}

/// `%progress{len}{min}{mid}{max}` (macro-language.md 3.5). The truncations make the inner width `len`-2 to `len`+1; the documented
/// bars come out only so. `len` is limited to 10000.
pub fn progress_bar(len: usize, min: f64, mid: f64, max: f64) -> String {
    #[allow(clippy::cast_precision_loss)]
    let width = len.min(10_000) as f64;
    let clean = |n: f64| if n.is_finite() { n } else { 0.0 };
    let min = clean(min).max(0.0);
    let mid = clean(mid).max(min);
    let max = clean(max).max(mid).max(1.0);
    let mut a = width * min / max;
    let b = width * mid / max;
    let mut bar = String::from("[");
    let mut put = |c: char, n: f64| {
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
        let n = n.max(0.0) as usize;
        bar.extend(std::iter::repeat_n(c, n));
    };
    put('=', (a - 1.0).floor());
    if a < width {
        put('>', 1.0);
        a += 1.0;
    }
    if a < b {
        put(':', (b - a).floor());
    }
    if b < width {
        put('.', (width - b).floor());
    }
    bar.push(']');
    bar
}

/// A number as the macro language prints it: integers without decimals, else up to 15 significant digits.
pub(crate) fn number(n: f64) -> String {
    if !n.is_finite() {
        return "0".into();
    }
    if n.fract() == 0.0 && n.abs() < 1e15 {
        return format!("{n:.0}");
    }
    let magnitude = n.abs().max(1e-4).log10().floor();
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let places = (14.0 - magnitude).clamp(0.0, 18.0) as usize;
    let s = format!("{n:.places$}");
    if s.contains('.') {
        s.trim_end_matches('0').trim_end_matches('.').to_string()
    } else {
        s
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: f64 = 1024.0 * 1024.0;

    #[test]
    fn human_number_documented_examples() {
        let one = |n: f64| human_number("", "", "", &[n]);
        assert_eq!(one(0.0), "0 B");
        assert_eq!(one(1023.0), "1023 B");
        assert_eq!(one(38.0 * 1024.0), "38 KiB");
        assert_eq!(one(72583.0 * 1024.0), "72583 KiB");
        assert_eq!(one(12902.047 * 1024.0), "12902.047 KiB");
        assert_eq!(one(105.315 * MIB), "105.315 MiB");
        assert_eq!(one(1008.198 * MIB), "1008.198 MiB");
        assert_eq!(one(770.0 * MIB), "770 MiB");
        let two = |a: f64, b: f64| human_number("", "", "", &[a * MIB, b * MIB]);
        assert_eq!(two(567.293, 2048.0), "567.293/2048 MiB");
        assert_eq!(two(747.898, 5120.0), "747.898/5120 MiB");
        assert_eq!(
            human_number("k", ", ", "_", &[1500.0, 2500.0]),
            "1.5, 2.5_KB"
        );
        let forced = |unit: &str| human_number(unit, "", "", &[1.5e12]);
        assert_eq!(forced("K"), "1464843750 KiB");
        assert_eq!(forced("M"), "1430511.475 MiB");
        assert_eq!(forced("G"), "1396.984 GiB");
        assert_eq!(forced("T"), "1.364 TiB");
        assert_eq!(forced("m"), "1500000 MB");
        assert_eq!(forced("g"), "1500 GB");
        assert_eq!(forced("t"), "1.5 TB");
    }

    #[test]
    fn human_number_thresholds() {
        let one = |n: f64| human_number("", "", "", &[n]);
        assert_eq!(one(1024.0), "1 KiB");
        assert_eq!(one(70.9 * MIB), "72601.6 KiB");
        assert_eq!(one(100.0 * MIB), "100 MiB");
        assert_eq!(one(99.0 * MIB * 1024.0), "101376 MiB");
        assert_eq!(one(100.0 * MIB * 1024.0), "100 GiB");
        assert_eq!(one(100.0 * MIB * MIB), "100 TiB");
    }

    #[test]
    fn human_seconds_documented() {
        assert_eq!(human_seconds(Some(3661.0)), "01:01:01");
        assert_eq!(human_seconds(Some(360_000.0)), "100:00:00");
        assert_eq!(human_seconds(Some(0.9)), "00:00:00");
        assert_eq!(human_seconds(Some(-1.0)), "--:--:--");
        assert_eq!(human_seconds(None), "--:--:--");
        assert_eq!(human_seconds(Some(f64::NAN)), "--:--:--");
    }

    #[test]
    fn progress_bar_documented() {
        assert_eq!(progress_bar(10, 3.0, 5.0, 10.0), "[==>:.....]");
        assert_eq!(progress_bar(10, 0.0, 0.0, 0.0), "[>..........]");
        assert_eq!(
            progress_bar(20, 567.293, 0.0, 2048.0),
            "[====>..............]"
        );
        assert_eq!(
            progress_bar(20, 12.3, 12.3, 1020.0),
            "[>...................]"
        );
        assert_eq!(
            progress_bar(20, 0.0, 12902.047, 12902.047),
            "[>:::::::::::::::::::]"
        );
        assert_eq!(
            progress_bar(20, 747.898, 0.0, 5120.0),
            "[=>.................]"
        );
        // 3328/4330 with 233 MiB fetched and not replayed, 770 MiB missing.
        assert_eq!(
            progress_bar(20, 3327.0, 3560.0, 4330.0),
            "[==============>...]"
        );
        assert!(progress_bar(usize::MAX, f64::NAN, f64::INFINITY, -1.0).len() < 10_010);
    }

    #[test]
    fn number_prints_up_to_15_digits() {
        assert_eq!(number(3.5), "3.5");
        assert_eq!(number(10.0 / 3.0), "3.33333333333333");
        assert_eq!(number(100.0), "100");
        assert_eq!(number(-1.0), "-1");
    }
}
