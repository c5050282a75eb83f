//! Values are strings; what they mean as truth, number and list.

/// False are the empty string and exactly `0`.
pub(crate) fn is_true(s: &str) -> bool {
    !s.is_empty() && s != "0"
}

/// `1` or nothing.
pub(crate) fn truth(b: bool) -> String {
    if b { "1".into() } else { String::new() }
}

/// The number that a text begins with; what stands behind a comma does not count.
pub(crate) fn number_of(s: &str) -> f64 {
    let s = s.split(',').next().unwrap_or("").trim_start();
    let bytes = s.as_bytes();
    let digits = |mut i: usize| {
        while bytes.get(i).is_some_and(u8::is_ascii_digit) {
            i += 1;
        }
        i
    };
    let sign = usize::from(matches!(bytes.first(), Some(b'+' | b'-')));
    let whole = digits(sign);
    let mut end = whole;
    if bytes.get(end) == Some(&b'.') {
        end = digits(end + 1);
        if end == whole + 1 && whole == sign {
            return 0.0;
        }
    }
    if end == sign {
        return 0.0;
    }
    if matches!(bytes.get(end), Some(b'e' | b'E')) {
        let after = end + 1 + usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
        let exponent = digits(after);
        if exponent > after {
            end = exponent;
        }
    }
    let n = s
        .get(..end)
        .and_then(|t| t.parse::<f64>().ok())
        .unwrap_or(0.0);
    if n.is_finite() { n } else { 0.0 }
}

/// Cut to an integer, with two's complement for negative ones.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(crate) fn bits_of(s: &str) -> u64 {
    // A float would lose the lower bits of large numbers.
    let digits = s
        .trim_start()
        .bytes()
        .take_while(u8::is_ascii_digit)
        .count();
    let rest = s.trim_start().as_bytes().get(digits);
    if digits > 0
        && !matches!(rest, Some(b'.' | b'e' | b'E'))
        && let Some(Ok(n)) = s.trim_start().get(..digits).map(str::parse)
    {
        return n;
    }
    let n = number_of(s);
    if n < 0.0 { (n as i64) as u64 } else { n as u64 }
}

/// Cut to a count between 0 and `max`.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
pub(crate) fn count_of(s: &str, max: usize) -> usize {
    (number_of(s).max(0.0) as usize).min(max)
}

/// A list's elements: `d` literally, but a single blank means runs of white space; trailing empty elements do not count.
pub(crate) fn split_list(list: &str, d: &str) -> Vec<String> {
    let mut parts: Vec<String> = match d {
        " " => list.split_whitespace().map(str::to_string).collect(),
        "" => list.chars().map(String::from).collect(),
        _ => list.split(d).map(str::to_string).collect(),
    };
    while parts.last().is_some_and(String::is_empty) {
        parts.pop();
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truth_is_not_zero_and_not_empty() {
        for t in ["1", "00", "0.0", " ", "-"] {
            assert!(is_true(t), "{t:?}");
        }
        assert!(!is_true("") && !is_true("0"));
    }

    #[test]
    #[allow(clippy::float_cmp)]
    fn numbers() {
        for (s, n) in [
            ("", 0.0),
            ("1,5", 1.0),
            ("12abc", 12.0),
            ("-3.5x", -3.5),
            (" 7", 7.0),
            (".5", 0.5),
            (".", 0.0),
        ] {
            assert_eq!(number_of(s), n, "{s:?}");
        }
        for (s, n) in [
            ("1e3", 1000.0),
            ("1e", 1.0),
            ("+4", 4.0),
            ("-", 0.0),
            ("5.", 5.0),
            ("1e999", 0.0),
            ("x", 0.0),
        ] {
            assert_eq!(number_of(s), n, "{s:?}");
        }
        assert_eq!(bits_of("-1"), u64::MAX);
        assert_eq!(bits_of("18446744073709551610x"), u64::MAX - 5);
        assert_eq!(bits_of("99999999999999999999"), u64::MAX);
        assert_eq!((bits_of("1e3"), bits_of("2.9"), bits_of("")), (1000, 2, 0));
        assert_eq!(count_of("-1", 5), 0);
        assert_eq!(count_of("1e30", 5), 5);
    }

    #[test]
    fn lists() {
        assert_eq!(split_list("a,,b,,", ","), ["a", "", "b"]);
        assert_eq!(split_list("  a \n b ", " "), ["a", "b"]);
        assert_eq!(split_list("a|b", "|"), ["a", "b"]);
        assert!(split_list("", ",").is_empty());
    }
}
