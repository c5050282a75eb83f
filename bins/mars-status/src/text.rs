//! Lines and hints, coloured on a terminal; amounts in the units of the pilot.
use std::io::{IsTerminal, Write};

/// Kinds of hints (mars-status.md 2).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Class {
    /// Something is going on.
    Work,
    /// Something can be done that is useful.
    Todo,
    /// Something is wrong, or has to be done.
    Hint,
}

/// A text that grows.
#[derive(Debug, Default)]
pub struct Text {
    out: String,
    colour: bool,
}

impl Text {
    /// Empty. `colour`: hints have colours.
    pub fn new(colour: bool) -> Text {
        Text {
            out: String::new(),
            colour,
        }
    }
    /// A line. Nothing from the tree can move the cursor or begin another line.
    pub fn line(&mut self, line: impl AsRef<str>) {
        push_plain(&mut self.out, line.as_ref());
        self.out.push('\n');
    }
    /// `---> CLASS: text`.
    pub fn hint(&mut self, class: Class, text: impl AsRef<str>) {
        let (word, colour) = match class {
            Class::Work => ("WORK", "33"),
            Class::Todo => ("TODO", "32"),
            Class::Hint => ("HINT", "31"),
        };
        if self.colour {
            self.out.push_str(&format!("\x1b[{colour}m"));
        }
        self.out.push_str(&format!("---> {word}: "));
        push_plain(&mut self.out, text.as_ref());
        if self.colour {
            self.out.push_str("\x1b[0m");
        }
        self.out.push('\n');
    }
    /// All of it.
    pub fn finish(self) -> String {
        self.out
    }
}

fn push_plain(out: &mut String, text: &str) {
    out.extend(text.chars().map(|c| if c.is_control() { '?' } else { c }));
}

/// Are colours wanted on standard output?
pub fn wants_colour() -> bool {
    std::io::stdout().is_terminal()
        && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty())
        && std::env::var_os("TERM").is_none_or(|t| t != "dumb")
}

/// To standard output. Whoever closes it has seen enough.
pub fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
}

#[allow(clippy::cast_precision_loss)]
fn scaled(bytes: u64, power: i32) -> f64 {
    bytes as f64 / 1024f64.powi(power)
}

/// `0.010TB`
pub fn tb(bytes: u64) -> String {
    format!("{:.3}TB", scaled(bytes, 4))
}
/// `0.088GB`
pub fn gb(bytes: u64) -> String {
    format!("{:.3}GB", scaled(bytes, 3))
}
/// `100.00 mb/s`
pub fn mb_s(rate: u64) -> String {
    format!("{:.2} mb/s", scaled(rate, 2))
}
/// `0.10 gb/s`
pub fn gb_s(rate: u64) -> String {
    format!("{:.2} gb/s", scaled(rate, 3))
}

/// `40.00%`; 100 only when nothing is left, and of nothing.
#[allow(clippy::cast_precision_loss)]
pub fn percent(pos: u64, size: u64) -> String {
    if pos >= size {
        return "100.00%".to_string();
    }
    let p = pos as f64 * 100.0 / size as f64;
    format!("{:.2}%", p.min(99.99))
}

/// `on` or `off`.
pub fn on(b: bool) -> &'static str {
    if b { "on" } else { "off" }
}

/// `Fri Sep 28 12:57:00 2012`, UTC.
pub fn date(secs: u64) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let (days, s) = (secs / 86_400, secs % 86_400);
    let index = |n: u64, len: usize| usize::try_from(n).unwrap_or(0) % len;
    // Civil date from days since 1970, in eras of 400 years that begin in March.
    let z = days + 719_468;
    let (era, doe) = (z / 146_097, z % 146_097);
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 2 } else { mp - 10 };
    let year = yoe + era * 400 + u64::from(month < 2);
    format!(
        "{} {} {day:2} {:02}:{:02}:{:02} {year}",
        DAYS.get(index(days, 7)).unwrap_or(&""),
        MONTHS.get(index(month, 12)).unwrap_or(&""),
        s / 3600,
        s / 60 % 60,
        s % 60
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts() {
        assert_eq!(tb(10_737_418_240), "0.010TB");
        assert_eq!(gb(94_097_408), "0.088GB");
        assert_eq!(mb_s(100 << 20), "100.00 mb/s");
        assert_eq!(percent(10_754_456, 94_097_408), "11.43%");
        assert_eq!(percent(u64::MAX - 1, u64::MAX), "99.99%");
        assert_eq!(percent(0, 0), "100.00%");
    }

    #[test]
    fn dates() {
        assert_eq!(date(1_348_837_020), "Fri Sep 28 12:57:00 2012");
        assert_eq!(date(0), "Thu Jan  1 00:00:00 1970");
        assert_eq!(date(951_782_400), "Tue Feb 29 00:00:00 2000");
        assert_eq!(date(1_704_067_199), "Sun Dec 31 23:59:59 2023");
    }

    #[test]
    fn nothing_escapes_from_a_line() {
        let mut t = Text::new(true);
        t.line("a\x1b[2Jb\nc");
        t.hint(Class::Hint, "x\ry");
        assert_eq!(t.finish(), "a?[2Jb?c\n\x1b[31m---> HINT: x?y\x1b[0m\n");
    }
}
