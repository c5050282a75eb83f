//! Texts that fit: cut at a width, without control characters.
use ratatui_core::text::Span;

/// What a terminal would obey instead of showing it becomes `?`.
pub fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect()
}

fn width_of(c: char) -> usize {
    let mut buffer = [0; 4];
    Span::raw(&*c.encode_utf8(&mut buffer)).width()
}

/// Columns that a text takes.
pub fn width(text: &str) -> usize {
    Span::raw(text).width()
}

/// Cut to so many columns; `~` stands for what is missing.
pub fn fit(text: &str, columns: usize) -> String {
    let text = clean(text);
    if width(&text) <= columns {
        return text;
    }
    let mut cut = String::new();
    let mut used = 0;
    for c in text.chars() {
        used += width_of(c);
        if used >= columns {
            break;
        }
        cut.push(c);
    }
    if columns > 0 {
        cut.push('~');
    }
    cut
}

/// Exactly so many columns (wide characters may leave one more).
pub fn pad(text: &str, columns: usize) -> String {
    let mut text = fit(text, columns);
    let missing = columns.saturating_sub(width(&text));
    text.extend(std::iter::repeat_n(' ', missing));
    text
}

/// An amount in five or six characters: `0 B`, `512 B`, `1.5 M`, `100 G`. Powers of 1024.
pub fn short_bytes(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "K", "M", "G", "T", "P", "E"];
    let mut power = 0;
    let mut unit = 1u64;
    while power + 1 < UNITS.len() && bytes / 1024 >= unit {
        power += 1;
        unit = unit.saturating_mul(1024);
    }
    let name = UNITS.get(power).copied().unwrap_or("E");
    let tenths = u128::from(bytes) * 10 / u128::from(unit);
    if power == 0 || tenths >= 100 {
        format!("{} {name}", tenths / 10)
    } else {
        format!("{}.{} {name}", tenths / 10, tenths % 10)
    }
}

/// A time span in at most seven characters: `59 s`, `12 m 5s`, `3 h 20m`, `12 d 3h`.
pub fn short_span(secs: u64) -> String {
    match secs {
        0..60 => format!("{secs} s"),
        60..3600 => format!("{} m {}s", secs / 60, secs % 60),
        3600..86_400 => format!("{} h {}m", secs / 3600, secs / 60 % 60),
        86_400..8_640_000 => format!("{} d {}h", secs / 86_400, secs / 3600 % 24),
        _ => format!("{} d", (secs / 86_400).min(99_999)),
    }
}

/// Tenths of a percent as `45.2%`. Not all is never shown as 100.
pub fn percent(pos: u64, size: u64) -> String {
    if pos >= size {
        return "100%".into();
    }
    let permille = u128::from(pos) * 1000 / u128::from(size.max(1));
    format!("{}.{}%", permille / 10, permille % 10)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_and_spans_are_short() {
        for (n, want) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 K"),
            (1536, "1.5 K"),
            (10 << 20, "10 M"),
            (1023 << 20, "1023 M"),
            (u64::MAX, "15 E"),
        ] {
            assert_eq!(short_bytes(n), want);
        }
        for (n, want) in [
            (0, "0 s"),
            (59, "59 s"),
            (725, "12 m 5s"),
            (12_000, "3 h 20m"),
            (90_000, "1 d 1h"),
            (u64::MAX, "99999 d"),
        ] {
            assert_eq!(short_span(n), want);
        }
        assert_eq!(percent(0, 0), "100%");
        assert_eq!(percent(999_999, 1_000_000), "99.9%");
        assert_eq!(percent(452, 1000), "45.2%");
        assert_eq!(percent(u64::MAX - 1, u64::MAX), "99.9%");
    }

    proptest! {
        #[test]
        fn fits_whatever_it_is(text in "\\PC*|.*", columns in 0usize..40) {
            prop_assert!(width(&fit(&text, columns)) <= columns);
            prop_assert_eq!(width(&pad(&text, columns)), columns);
            prop_assert!(!fit(&text, columns).chars().any(char::is_control));
        }
    }
}
