//! `cat FILE…` (marsadm-commands.md section 7): a file with its time stamps and error numbers made readable.
use crate::error::{Done, refuse, show, usage};
use crate::out;
use mars_policy::errno_text;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};

/// Longer lines are cut in pieces.
const LINE_MAX: u64 = 64 << 10;
/// Most files at once.
const FILES_MAX: usize = 99;
/// Most failures that are told.
const SHOWN_MAX: usize = 3;

/// `SECONDS.NANOSECONDS` since 1970 as a date, in UTC.
fn date(seconds: u64, nanos: &str) -> String {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Days to a date: eras of 400 years that begin with March, so that the leap day is the last one.
    let z = days + 719_468;
    let (era, day) = (z / 146_097, z % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let d = of_year - (153 * month + 2) / 5 + 1;
    let m = if month < 10 { month + 3 } else { month - 9 };
    let y = year + era * 400 + u64::from(m <= 2);
    format!(
        "{y:04}-{m:02}-{d:02} {:02}:{:02}:{:02}.{nanos}Z",
        rest / 3600,
        rest / 60 % 60,
        rest % 60
    )
}

/// A time stamp at the beginning of `text`: its length, and how it reads.
fn stamp(text: &str) -> Option<(usize, String)> {
    let digits = |t: &str| t.bytes().take_while(u8::is_ascii_digit).count();
    let whole = digits(text);
    let fraction = text.get(whole..)?.strip_prefix('.')?;
    if !(9..=10).contains(&whole) || digits(fraction) != 9 {
        return None;
    }
    let (seconds, nanos) = (text.get(..whole)?.parse().ok()?, fraction.get(..9)?);
    Some((whole + 10, date(seconds, nanos)))
}

/// A negative error number at the beginning of `text`: its length, and how it reads.
fn error(text: &str) -> Option<(usize, String)> {
    let number = text.strip_prefix('-')?;
    let len = number.bytes().take_while(u8::is_ascii_digit).count();
    let after = number.get(len..)?.chars().next();
    let ends =
        after.is_none_or(|c| !(c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '/')));
    if !(1..=3).contains(&len) || !ends || number.starts_with('0') {
        return None;
    }
    let code = text.get(..=len)?;
    let name = errno_text(code);
    let name = name.strip_prefix('[')?.strip_suffix(']')?.replace('_', " ");
    let (name, meaning) = name.split_once(':')?;
    Some((len + 1, format!("{code} ({name}: {meaning})")))
}

/// One line for people.
pub fn readable(line: &str) -> String {
    let mut text = String::with_capacity(line.len());
    let mut rest = line;
    // Numbers inside words are none.
    let mut inside = false;
    while let Some(c) = rest.chars().next() {
        let found = if inside {
            None
        } else {
            stamp(rest).or_else(|| error(rest))
        };
        let len = match found {
            Some((len, readable)) => {
                text.push_str(&readable);
                len
            }
            None if c.is_control() && c != '\t' => {
                text.push('?');
                c.len_utf8()
            }
            None => {
                text.push(c);
                c.len_utf8()
            }
        };
        inside = c.is_alphanumeric() || matches!(c, '-' | '.' | '_');
        rest = rest.get(len..).unwrap_or_default();
    }
    text
}

/// Prints a file.
pub fn print(path: &str) -> Result<(), String> {
    let meta = std::fs::metadata(path).map_err(|e| e.to_string())?;
    if !meta.is_file() {
        return Err("is no regular file".into());
    }
    let mut input = BufReader::new(File::open(path).map_err(|e| e.to_string())?);
    loop {
        let mut bytes = Vec::new();
        let n = input
            .by_ref()
            .take(LINE_MAX)
            .read_until(b'\n', &mut bytes)
            .map_err(|e| e.to_string())?;
        if n == 0 {
            return Ok(());
        }
        if bytes.contains(&0) {
            return Err("is no text file".into());
        }
        let line = String::from_utf8_lossy(&bytes);
        out::say(readable(line.trim_end_matches('\n')));
    }
}

/// `cat FILE…`: all that can be read; then what could not.
pub fn cat(files: &[String]) -> Done {
    if files.is_empty() {
        return usage("argument missing; usage: marsadm cat FILE...");
    }
    if let Some(extra) = files.get(FILES_MAX) {
        return usage(format!(
            "surplus argument {}; usage: marsadm cat FILE... (at most {FILES_MAX})",
            show(extra)
        ));
    }
    let failed: Vec<String> = files
        .iter()
        .filter_map(|file| Some(format!("{}: {}", show(file), print(file).err()?)))
        .collect();
    if failed.is_empty() {
        return Ok(());
    }
    let more = match failed.len().saturating_sub(SHOWN_MAX) {
        0 => String::new(),
        n => format!("; and {n} more"),
    };
    let first: Vec<&str> = failed.iter().take(SHOWN_MAX).map(String::as_str).collect();
    refuse(format!(
        "{}{more}; give paths of text files",
        first.join("; ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_and_errors() {
        for (line, expected) in [
            (
                "1700000000.123456789 ok",
                "2023-11-14 22:13:20.123456789Z ok",
            ),
            ("951782400.000000001", "2000-02-29 00:00:00.000000001Z"),
            ("x1700000000.123456789", "x1700000000.123456789"),
            ("1700000000.1234567891", "1700000000.1234567891"),
            ("17.123456789", "17.123456789"),
            ("status = -5", "status = -5 (EIO: Input/output error)"),
            (
                "code=-28, then",
                "code=-28 (ENOSPC: No space left on device), then",
            ),
            ("log-000000001-a", "log-000000001-a"),
            (
                "a -5b -5.5 -0 -99999 -999 5-5",
                "a -5b -5.5 -0 -99999 -999 5-5",
            ),
            ("\u{1b}[31m", "?[31m"),
            ("", ""),
            ("ü-", "ü-"),
        ] {
            assert_eq!(readable(line), expected, "{line}");
        }
    }
}
