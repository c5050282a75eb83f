//! `sprintf` as Perl has it; what is no valid conversion is copied.
use super::value::{bits_of, number_of};
use crate::human::number;

/// Longest field and most decimals.
const WIDTH_MAX: usize = 10_000;
const DECIMALS_MAX: usize = 100;

#[derive(Default)]
struct Spec {
    left: bool,
    plus: bool,
    blank: bool,
    zero: bool,
    alternate: bool,
    width: usize,
    precision: Option<usize>,
}

/// Missing arguments count as empty.
pub(super) fn sprintf(format: &str, args: &[String]) -> String {
    let mut args = args.iter().map(String::as_str);
    let mut out = String::new();
    let mut rest = format;
    while let Some(i) = rest.find('%') {
        let (plain, special) = rest.split_at(i);
        out.push_str(plain);
        match conversion(special, &mut args) {
            Some((text, tail)) => {
                out.push_str(&text);
                rest = tail;
            }
            None => {
                out.push('%');
                rest = special.get(1..).unwrap_or("");
            }
        }
    }
    out.push_str(rest);
    out
}

fn conversion<'f, 'a>(
    text: &'f str,
    args: &mut (impl Iterator<Item = &'a str> + Clone),
) -> Option<(String, &'f str)> {
    let mut spec = Spec::default();
    // Nothing is consumed by an invalid conversion.
    let mut taken = args.clone();
    let mut rest = text.get(1..)?;
    loop {
        match rest.chars().next()? {
            '-' => spec.left = true,
            '+' => spec.plus = true,
            ' ' => spec.blank = true,
            '0' => spec.zero = true,
            '#' => spec.alternate = true,
            _ => break,
        }
        rest = rest.get(1..)?;
    }
    if let Some(tail) = rest.strip_prefix('*') {
        let n = number_of(taken.next().unwrap_or(""));
        spec.left |= n < 0.0;
        spec.width = clamp(n.abs(), WIDTH_MAX);
        rest = tail;
    } else {
        let (n, tail) = digits(rest);
        spec.width = n.min(WIDTH_MAX);
        rest = tail;
    }
    if let Some(tail) = rest.strip_prefix('.') {
        if let Some(tail) = tail.strip_prefix('*') {
            let n = number_of(taken.next().unwrap_or(""));
            spec.precision = (n >= 0.0).then(|| clamp(n, DECIMALS_MAX));
            rest = tail;
        } else {
            let (n, tail) = digits(tail);
            spec.precision = Some(n);
            rest = tail;
        }
    }
    // Sizes of C types mean nothing here.
    rest = rest.trim_start_matches(['h', 'l', 'q', 'L', 'V', 'z', 't', 'j']);
    let kind = rest.chars().next()?;
    let tail = rest.get(kind.len_utf8()..)?;
    let out = match kind {
        '%' => "%".to_string(),
        'c' => pad(&spec, "", &char_of(taken.next().unwrap_or("")), false),
        's' => {
            let s = taken.next().unwrap_or("");
            let s: String = s
                .chars()
                .take(spec.precision.unwrap_or(usize::MAX))
                .collect();
            pad(&spec, "", &s, spec.zero)
        }
        'd' | 'i' => integer(&spec, number_of(taken.next().unwrap_or(""))),
        'u' | 'o' | 'x' | 'X' | 'b' | 'B' => {
            unsigned(&spec, kind, bits_of(taken.next().unwrap_or("")))
        }
        'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            real(&spec, kind, number_of(taken.next().unwrap_or("")))
        }
        _ => return None,
    };
    *args = taken;
    Some((out, tail))
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn clamp(n: f64, max: usize) -> usize {
    (n as usize).min(max)
}

fn digits(text: &str) -> (usize, &str) {
    let end = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (n, rest) = text.split_at(end);
    (
        if n.is_empty() {
            0
        } else {
            n.parse().unwrap_or(WIDTH_MAX)
        },
        rest,
    )
}

fn char_of(arg: &str) -> String {
    u32::try_from(bits_of(arg))
        .ok()
        .and_then(char::from_u32)
        .unwrap_or(char::REPLACEMENT_CHARACTER)
        .to_string()
}

/// Sign or prefix, body, field width.
fn pad(spec: &Spec, prefix: &str, body: &str, zero: bool) -> String {
    let len = prefix.chars().count() + body.chars().count();
    let fill = spec.width.saturating_sub(len);
    match (spec.left, zero) {
        (true, _) => format!("{prefix}{body}{}", " ".repeat(fill)),
        (false, true) => format!("{prefix}{}{body}", "0".repeat(fill)),
        (false, false) => format!("{}{prefix}{body}", " ".repeat(fill)),
    }
}

fn sign(spec: &Spec, negative: bool) -> &'static str {
    match (negative, spec.plus, spec.blank) {
        (true, _, _) => "-",
        (false, true, _) => "+",
        (false, false, true) => " ",
        _ => "",
    }
}

/// At least `precision` digits; with a precision the flag `0` means nothing.
fn with_digits(spec: &Spec, prefix: &str, digits: &str) -> String {
    let least = spec.precision.unwrap_or(1).min(WIDTH_MAX);
    let digits = if spec.precision == Some(0) && digits == "0" {
        ""
    } else {
        digits
    };
    let body = format!("{}{digits}", "0".repeat(least.saturating_sub(digits.len())));
    pad(spec, prefix, &body, spec.zero && spec.precision.is_none())
}

fn integer(spec: &Spec, n: f64) -> String {
    #[allow(clippy::cast_possible_truncation)]
    let n = n as i64;
    with_digits(spec, sign(spec, n < 0), &n.unsigned_abs().to_string())
}

fn unsigned(spec: &Spec, kind: char, n: u64) -> String {
    let (text, prefix) = match kind {
        'o' => (format!("{n:o}"), "0"),
        'x' => (format!("{n:x}"), "0x"),
        'X' => (format!("{n:X}"), "0X"),
        'b' => (format!("{n:b}"), "0b"),
        'B' => (format!("{n:b}"), "0B"),
        _ => (n.to_string(), ""),
    };
    let prefix = if spec.alternate && n != 0 { prefix } else { "" };
    with_digits(spec, prefix, &text)
}

fn real(spec: &Spec, kind: char, n: f64) -> String {
    let precision = spec.precision.unwrap_or(6).min(DECIMALS_MAX);
    let a = n.abs();
    let body = match kind {
        'f' | 'F' => format!("{a:.precision$}"),
        'e' | 'E' => exponent(&format!("{a:.precision$e}")),
        _ => general(a, precision.max(1), spec.alternate),
    };
    let body = if kind.is_ascii_uppercase() {
        body.to_uppercase()
    } else {
        body
    };
    pad(spec, sign(spec, n < 0.0), &body, spec.zero)
}

/// C writes a sign and at least two digits.
fn exponent(text: &str) -> String {
    let Some((mantissa, e)) = text.split_once('e') else {
        return text.to_string();
    };
    let (sign, e) = match e.strip_prefix('-') {
        Some(e) => ('-', e),
        None => ('+', e),
    };
    format!("{mantissa}e{sign}{e:0>2}")
}

fn general(a: f64, significant: usize, keep_zeros: bool) -> String {
    let scientific = format!("{:.*e}", significant - 1, a);
    let e: i32 = scientific
        .split_once('e')
        .and_then(|(_, e)| e.parse().ok())
        .unwrap_or(0);
    let cut = |s: &str| {
        if keep_zeros || !s.contains('.') {
            s.to_string()
        } else {
            s.trim_end_matches('0').trim_end_matches('.').to_string()
        }
    };
    let is_large = usize::try_from(e).is_ok_and(|e| e >= significant);
    if e < -4 || is_large {
        let (mantissa, _) = scientific.split_once('e').unwrap_or((&scientific, "0"));
        return exponent(&format!("{}e{e}", cut(mantissa)));
    }
    let places =
        usize::try_from(i64::try_from(significant).unwrap_or(1) - 1 - i64::from(e)).unwrap_or(0);
    if a == 0.0 {
        return number(0.0);
    }
    cut(&format!("{a:.places$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn f(format: &str, args: &[&str]) -> String {
        let args: Vec<String> = args.iter().map(ToString::to_string).collect();
        sprintf(format, &args)
    }

    /// The right sides were printed by perl 5.36.
    #[test]
    fn as_perl_prints() {
        assert_eq!(f("%05d|%s|%.2f", &["42", "x", "1.5"]), "00042|x|1.50");
        assert_eq!(f("%-5s|%5s|%05s", &["ab", "ab", "ab"]), "ab   |   ab|000ab");
        assert_eq!(f("%+d|% d|%d", &["5", "5", "-5"]), "+5| 5|-5");
        assert_eq!(f("%.3d|%5.3d|%05.3d", &["5", "5", "5"]), "005|  005|  005");
        assert_eq!(
            f("%x|%X|%#x|%o|%b|%#b", &["255", "255", "255", "8", "5", "5"]),
            "ff|FF|0xff|10|101|0b101"
        );
        assert_eq!(
            f("%e|%.2E", &["12345.678", "0.00012"]),
            "1.234568e+04|1.20E-04"
        );
        assert_eq!(
            f(
                "%g|%g|%g|%g|%.3g",
                &["0.0001", "0.00001", "1234567", "100000", "3.14159"]
            ),
            "0.0001|1e-05|1.23457e+06|100000|3.14"
        );
        assert_eq!(f("%c%c|%%|%s", &["65", "66"]), "AB|%|");
        assert_eq!(
            f("%*d|%-*d|%.*f", &["4", "7", "4", "7", "1", "2.55"]),
            "   7|7   |2.5"
        );
        assert_eq!(
            f("%.2s|%5.1f|%-8.3f|", &["abc", "2.25", "1"]),
            "ab|  2.2|1.000   |"
        );
        assert_eq!(f("100%|%y|%", &["1"]), "100%|%y|%");
        assert_eq!(f("%ld %lu", &["-3", "3"]), "-3 3");
        assert_eq!(f("%s %s", &["a"]), "a ");
    }

    #[test]
    fn widths_are_bounded() {
        assert!(f("%99999999999999999999d", &["1"]).len() <= WIDTH_MAX);
        assert!(f("%.99999999f", &["1"]).len() <= DECIMALS_MAX + 2);
        assert!(f("%.99999999d", &["1"]).len() <= WIDTH_MAX);
    }
}
