//! SIZE and SECONDS arguments (marsadm-commands.md 1.4).
use crate::error::{Done, show, usage};
use std::fs::File;
use std::io::{Seek, SeekFrom};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::time::Duration;

/// Resource sizes are multiples of this.
pub const SIZE_UNIT: u64 = 4096;
/// Resource sizes are larger than this.
pub const SIZE_MIN: u64 = 64 * 1024;

/// `[0-9]+(\.[0-9]+)?[kmgtpKMGTP]?`: small letters are powers of 1000, capitals of 1024. `None`: not a size.
pub fn parse_size(text: &str) -> Option<u64> {
    let (digits, factor) = match text.char_indices().last()? {
        (at, c) if c.is_ascii_alphabetic() => {
            let power = match c.to_ascii_lowercase() {
                'k' => 1,
                'm' => 2,
                'g' => 3,
                't' => 4,
                'p' => 5,
                _ => return None,
            };
            let base: u128 = if c.is_ascii_lowercase() { 1000 } else { 1024 };
            (text.get(..at)?, base.pow(power))
        }
        _ => (text, 1),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
    let number = |t: &str| -> Option<u128> {
        (!t.is_empty() && t.len() <= 18 && t.bytes().all(|b| b.is_ascii_digit()))
            .then(|| t.parse().ok())
            .flatten()
    };
    let scale = 10u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let bytes = number(whole)?
        .checked_mul(factor)?
        .checked_add(number(fraction)?.checked_mul(factor)? / scale)?;
    u64::try_from(bytes).ok().filter(|b| *b < 1 << 63)
}

/// Bytes of a disk that may be in use; `None` when it cannot be looked at.
pub fn of_disk(path: &Path) -> Option<u64> {
    let meta = std::fs::metadata(path).ok()?;
    if meta.is_file() {
        return Some(meta.len());
    }
    if !meta.file_type().is_block_device() {
        return None;
    }
    File::open(path).ok()?.seek(SeekFrom::End(0)).ok()
}

/// The logical size of a new resource on a disk of `disk` bytes.
pub fn resource_size(wanted: Option<u64>, disk: u64, path: &str) -> Result<u64, String> {
    let size = match wanted {
        Some(s) if s % SIZE_UNIT != 0 => {
            return Err(format!(
                "size {s} is not a multiple of {SIZE_UNIT}; the nearest are {} and {}",
                s - s % SIZE_UNIT,
                s - s % SIZE_UNIT + SIZE_UNIT
            ));
        }
        Some(s) if s > disk => {
            return Err(format!(
                "size {s} is larger than disk {path}, which has {disk} bytes; give a smaller size or enlarge the disk"
            ));
        }
        Some(s) => s,
        None => disk - disk % SIZE_UNIT,
    };
    if size <= SIZE_MIN {
        return Err(format!(
            "size {size} of disk {path} is too small: a resource needs more than {SIZE_MIN} bytes; use a larger disk"
        ));
    }
    Ok(size)
}

/// `--timeout`: seconds, `-1` = for ever (`None`).
pub fn parse_timeout(option: &str, text: &str) -> Done<Option<Duration>> {
    match text.parse::<i64>() {
        Ok(-1) => Ok(None),
        Ok(s) if (0..=i64::from(u32::MAX)).contains(&s) => {
            Ok(Some(Duration::from_secs(u64::try_from(s).unwrap_or(0))))
        }
        _ => usage(format!(
            "{option}={}: give whole seconds, 0 = never wait, -1 = for ever",
            show(text)
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_forms() {
        assert_eq!(parse_size("65536"), Some(65536));
        assert_eq!(parse_size("1k"), Some(1000));
        assert_eq!(parse_size("1K"), Some(1024));
        assert_eq!(parse_size("1.5G"), Some(1_610_612_736));
        assert_eq!(parse_size("0.25m"), Some(250_000));
        assert_eq!(parse_size("2t"), Some(2_000_000_000_000));
        for bad in [
            "",
            "k",
            "-1",
            "1x",
            "1.k",
            ".5k",
            "1.2.3",
            "0x10",
            "1e3",
            " 1",
            "9999999999P",
            "99999999999999999999",
            "1 G",
            "１",
        ] {
            assert_eq!(parse_size(bad), None, "{bad}");
        }
    }

    #[test]
    fn resource_size_rules() {
        assert_eq!(resource_size(None, 1_000_000, "/d"), Ok(999_424));
        assert_eq!(resource_size(Some(131_072), 1_000_000, "/d"), Ok(131_072));
        assert!(resource_size(Some(65_536), 1_000_000, "/d").is_err());
        assert!(resource_size(Some(131_073), 1_000_000, "/d").is_err());
        assert!(resource_size(Some(1_048_576), 1_000_000, "/d").is_err());
        assert!(resource_size(None, 4095, "/d").is_err());
    }

    #[test]
    fn timeout_forms() {
        assert_eq!(parse_timeout("--timeout", "-1"), Ok(None));
        assert_eq!(
            parse_timeout("--timeout", "7"),
            Ok(Some(Duration::from_secs(7)))
        );
        for bad in ["", "-2", "1.5", "x", "99999999999999999999"] {
            assert!(parse_timeout("--timeout", bad).is_err(), "{bad}");
        }
    }
}
