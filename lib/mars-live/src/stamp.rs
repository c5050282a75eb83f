//! Lamport stamps.
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// A Lamport stamp: nanoseconds since 1970. Text form `<sec>.<9 digits>` (symlink-tree.md section 0).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Stamp(u64);

/// Why a text is no stamp.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a stamp of the form SECONDS.NNNNNNNNN: {0:?}")]
pub struct StampError(pub String);

impl Stamp {
    /// The epoch; smaller than every stamp that is ever issued.
    pub const ZERO: Stamp = Stamp(0);
    /// The stamp of preliminary join links: one second after the epoch (symlink-tree.md 2.8).
    pub const PRELIMINARY: Stamp = Stamp(1_000_000_000);

    /// From nanoseconds since the epoch.
    pub const fn from_nanos(n: u64) -> Stamp {
        Stamp(n)
    }
    /// Nanoseconds since the epoch.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }
    /// From a `timespec`; out-of-range values (negative, beyond the year 2500) are clamped to the nearest stamp.
    pub fn from_timespec(sec: i64, nsec: i64) -> Stamp {
        let sec = u64::try_from(sec).unwrap_or(0).min(16_725_225_600);
        let nsec = u64::try_from(nsec).unwrap_or(0).min(999_999_999);
        Stamp(sec * 1_000_000_000 + nsec)
    }
    /// Whole seconds.
    pub const fn secs(self) -> u64 {
        self.0 / 1_000_000_000
    }
    /// Nanoseconds within the second.
    pub const fn subsec_nanos(self) -> u32 {
        (self.0 % 1_000_000_000) as u32
    }
    /// Later by `d`, saturating.
    pub fn plus(self, d: Duration) -> Stamp {
        Stamp(
            self.0
                .saturating_add(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)),
        )
    }
    /// How much later `self` is than `earlier`; zero when it is not.
    pub fn since(self, earlier: Stamp) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
    /// Wall clock time of this machine.
    pub fn real_time() -> Stamp {
        let d = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap_or_default();
        Stamp(u64::try_from(d.as_nanos()).unwrap_or(u64::MAX))
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.secs(), self.subsec_nanos())
    }
}

impl FromStr for Stamp {
    type Err = StampError;
    fn from_str(s: &str) -> Result<Stamp, StampError> {
        let bad = || StampError(s.chars().take(64).collect());
        let digits = |t: &str| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit());
        let (sec, nsec) = s.split_once('.').ok_or_else(bad)?;
        if !digits(sec) || sec.len() > 11 || nsec.len() != 9 || !digits(nsec) {
            return Err(bad());
        }
        let sec: u64 = sec.parse().map_err(|_| bad())?;
        let nsec: u64 = nsec.parse().map_err(|_| bad())?;
        sec.checked_mul(1_000_000_000)
            .and_then(|n| n.checked_add(nsec))
            .map(Stamp)
            .ok_or_else(bad)
    }
}
