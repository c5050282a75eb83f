//! Arithmetic of log numbers and rotation (symlink-tree.md 5.1, 5.2, 5.5).

/// Largest number that fits the nine digits of a log name.
pub const MAX_LOG_NR: u32 = 999_999_999;
/// How far a re-created resource jumps, so that it never meets files of its former life.
pub const RECREATE_STEP: u32 = 100_000;
/// A log of this many bytes is rotated even when many older logs exist (marsadm `--thresh-logsize`, 5 GB).
pub const ROTATE_ANYWAY_BYTES: u64 = 5_000_000_000;
/// So many older own logs stop the rotation of small ones (marsadm `--thresh-logfiles`).
pub const ROTATE_MAX_OLDER: u32 = 10;

/// The nine digits are used up; the resource must be created anew under another name.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("log number {0} exceeds 999999999")]
pub struct NumbersExhausted(pub u64);

fn checked(n: u64) -> Result<u32, NumbersExhausted> {
    u32::try_from(n)
        .ok()
        .filter(|n| *n <= MAX_LOG_NR)
        .ok_or(NumbersExhausted(n))
}

/// First number of a resource: 1, or `maxnr` + 100000 when the name was used before.
pub fn first_number(maxnr: Option<u32>) -> Result<u32, NumbersExhausted> {
    match maxnr {
        None => Ok(1),
        Some(m) => checked(u64::from(m) + u64::from(RECREATE_STEP)),
    }
}

/// The number after `nr`.
pub fn next_number(nr: u32) -> Result<u32, NumbersExhausted> {
    checked(u64::from(nr) + 1)
}

/// What an emergency leaves behind when the highest known number is `highest`: the number of the placeholder and that of
/// the log in which logging resumes.
pub fn hole_after(highest: u32) -> Result<(u32, u32), NumbersExhausted> {
    let resume = checked(u64::from(highest) + 11)?;
    Ok((resume - 1, resume))
}

/// `maxnr` after log `nr` was handed out: it never sinks.
pub fn raised_maxnr(maxnr: Option<u32>, nr: u32) -> u32 {
    maxnr.unwrap_or(0).max(nr)
}

/// Why there is nothing to rotate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NoRotation {
    /// Only the primary rotates.
    #[error("this host is not primary")]
    NotPrimary,
    /// There is no own log, or nothing in it.
    #[error("the current log is empty")]
    Empty,
    /// The next log exists already.
    #[error("log {0} exists already")]
    NextExists(u32),
    /// Many logs wait for deletion and this one is small.
    #[error("{0} older logs exist and the current one is small")]
    TooMany(u32),
    /// The current log is settled for more than two minutes and still has no version link.
    #[error("the current log has no version link yet")]
    NoVersionLink,
    /// No number left.
    #[error(transparent)]
    Exhausted(#[from] NumbersExhausted),
}

/// Facts for [`may_rotate`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RotateInput {
    /// This host is primary.
    pub primary: bool,
    /// Number of the last own log.
    pub last: u32,
    /// Its size in bytes; 0 also when there is none.
    pub last_len: u64,
    /// A log with the number after it exists, by whomever.
    pub next_exists: bool,
    /// How many older own logs exist.
    pub older: u32,
    /// Its own version link exists.
    pub has_version: bool,
    /// It was written to within the last 120 s, so its version link may still be on the way.
    pub young: bool,
}

/// May the next log be created now (symlink-tree.md 5.2)? Returns its number.
pub fn may_rotate(i: &RotateInput) -> Result<u32, NoRotation> {
    if !i.primary {
        return Err(NoRotation::NotPrimary);
    }
    if i.last_len == 0 {
        return Err(NoRotation::Empty);
    }
    let next = next_number(i.last)?;
    if i.next_exists {
        return Err(NoRotation::NextExists(next));
    }
    if i.older >= ROTATE_MAX_OLDER && i.last_len < ROTATE_ANYWAY_BYTES {
        return Err(NoRotation::TooMany(i.older));
    }
    if !i.young && !i.has_version {
        return Err(NoRotation::NoVersionLink);
    }
    Ok(next)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_number_jumps_on_re_creation() {
        assert_eq!(first_number(None), Ok(1));
        assert_eq!(first_number(Some(0)), Ok(100_000));
        assert_eq!(first_number(Some(2)), Ok(100_002));
        assert_eq!(first_number(Some(999_899_999)), Ok(MAX_LOG_NR));
        assert_eq!(
            first_number(Some(999_900_000)),
            Err(NumbersExhausted(1_000_000_000))
        );
        assert!(first_number(Some(u32::MAX)).is_err());
    }

    #[test]
    fn next_number_ends_at_nine_digits() {
        assert_eq!(next_number(0), Ok(1));
        assert_eq!(next_number(999_999_998), Ok(MAX_LOG_NR));
        assert_eq!(
            next_number(MAX_LOG_NR),
            Err(NumbersExhausted(1_000_000_000))
        );
        assert!(next_number(u32::MAX).is_err());
    }

    #[test]
    fn hole_leaves_ten_numbers_out() {
        assert_eq!(hole_after(3), Ok((13, 14)));
        assert_eq!(hole_after(999_999_988), Ok((999_999_998, MAX_LOG_NR)));
        assert!(hole_after(999_999_989).is_err());
    }

    #[test]
    fn maxnr_never_sinks() {
        assert_eq!(raised_maxnr(None, 1), 1);
        assert_eq!(raised_maxnr(Some(7), 3), 7);
        assert_eq!(raised_maxnr(Some(7), 8), 8);
    }

    #[test]
    fn rotation_conditions_one_by_one() {
        let good = RotateInput {
            primary: true,
            last: 4,
            last_len: 512,
            next_exists: false,
            older: 9,
            has_version: true,
            young: false,
        };
        assert_eq!(may_rotate(&good), Ok(5));
        let no = |f: fn(&mut RotateInput)| {
            let mut i = good;
            f(&mut i);
            may_rotate(&i)
        };
        assert_eq!(no(|i| i.primary = false), Err(NoRotation::NotPrimary));
        assert_eq!(no(|i| i.last_len = 0), Err(NoRotation::Empty));
        assert_eq!(no(|i| i.next_exists = true), Err(NoRotation::NextExists(5)));
        assert_eq!(no(|i| i.older = 10), Err(NoRotation::TooMany(10)));
        assert_eq!(
            no(|i| {
                i.older = 10;
                i.last_len = ROTATE_ANYWAY_BYTES;
            }),
            Ok(5)
        );
        assert_eq!(
            no(|i| i.has_version = false),
            Err(NoRotation::NoVersionLink)
        );
        assert_eq!(
            no(|i| {
                i.has_version = false;
                i.young = true;
            }),
            Ok(5)
        );
        assert_eq!(
            no(|i| i.last = MAX_LOG_NR),
            Err(NoRotation::Exhausted(NumbersExhausted(1_000_000_000)))
        );
    }
}
