//! What can go wrong, as one line and an exit status (marsadm-commands.md 1.7).
use std::fmt;

/// Exit status of success.
pub const EXIT_OK: u8 = 0;
/// Something failed or was refused.
pub const EXIT_FAILED: u8 = 1;
/// The command line is wrong.
pub const EXIT_USAGE: u8 = 2;
/// A wait expired.
pub const EXIT_TIMEOUT: u8 = 3;

/// Why a command did not do what was asked. The text is one line that names the value and the way out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CmdError {
    /// The command line is wrong; nothing was looked at.
    Usage(String),
    /// Refused or failed.
    Failed(String),
    /// A wait expired.
    Timeout(String),
}

impl CmdError {
    /// Exit status.
    pub fn exit(&self) -> u8 {
        match self {
            CmdError::Usage(_) => EXIT_USAGE,
            CmdError::Failed(_) => EXIT_FAILED,
            CmdError::Timeout(_) => EXIT_TIMEOUT,
        }
    }
}

impl fmt::Display for CmdError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CmdError::Usage(t) | CmdError::Failed(t) | CmdError::Timeout(t) => f.write_str(t),
        }
    }
}

impl From<mars_tree::TreeError> for CmdError {
    fn from(e: mars_tree::TreeError) -> Self {
        CmdError::Failed(format!(
            "{e}; is the file system full, read-only, or not yours?"
        ))
    }
}
impl From<mars_tree::EnvError> for CmdError {
    fn from(e: mars_tree::EnvError) -> Self {
        CmdError::Failed(e.to_string())
    }
}
impl From<mars_units::UnitError> for CmdError {
    fn from(e: mars_units::UnitError) -> Self {
        CmdError::Failed(e.to_string())
    }
}

/// Result of everything here.
pub type Done<T = ()> = Result<T, CmdError>;

/// A refusal.
pub fn refuse<T>(text: impl Into<String>) -> Done<T> {
    Err(CmdError::Failed(text.into()))
}

/// A wrong command line.
pub fn usage<T>(text: impl Into<String>) -> Done<T> {
    Err(CmdError::Usage(text.into()))
}

/// User input for messages: quoted, control characters escaped, shortened, one line.
pub fn show(s: &str) -> String {
    let mut short: String = s.chars().take(60).collect();
    if short.len() < s.len() {
        short.push('…');
    }
    format!("{short:?}")
}

/// Keeps a text on one line whatever is in it.
pub fn one_line(s: &str) -> String {
    s.lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect::<Vec<_>>()
        .join("; ")
}

pub use mars_daemon::nearest;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn show_stays_on_one_short_line() {
        assert_eq!(show("a\nb"), "\"a\\nb\"");
        assert!(show(&"x".repeat(5000)).chars().count() < 70);
    }
}
