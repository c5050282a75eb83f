//! Names: hosts, resources, log files (symlink-tree.md sections 0 and 5.1).
use std::fmt;
use std::str::FromStr;

/// Why a name is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid {what} name {name:?}: {why}")]
pub struct NameError {
    /// "host", "resource" or "log".
    pub what: &'static str,
    /// The (shortened) name.
    pub name: String,
    /// The rule it breaks.
    pub why: &'static str,
}

macro_rules! name_type {
    ($(#[$doc:meta])* $t:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $t(String);
        impl $t {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl fmt::Display for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }
        impl AsRef<str> for $t {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }
    };
}

name_type!(
    /// A host name: at most 31 bytes, no dot, not reserved.
    HostName
);
name_type!(
    /// A resource name: at most 63 bytes, no dot, not reserved.
    ResName
);

/// Words that must never be a name, because they mean something in commands and values.
const RESERVED: [&str; 9] = [
    "none",
    "all",
    "any",
    "full",
    "empty",
    "undefined",
    "remote",
    "local",
    "localhost",
];

fn check(what: &'static str, s: &str, max: usize) -> Result<String, NameError> {
    let bad = |why| NameError {
        what,
        name: s.chars().take(64).collect(),
        why,
    };
    let b = s.as_bytes();
    match b.first() {
        None => return Err(bad("it is empty")),
        Some(c) if !(c.is_ascii_alphanumeric() || *c == b'_') => {
            return Err(bad("it must begin with a letter, a digit or _"));
        }
        Some(_) => {}
    }
    if b.len() > max {
        return Err(bad(if max == HostName::MAX {
            "it has more than 31 bytes"
        } else {
            "it has more than 63 bytes"
        }));
    }
    if !b
        .iter()
        .all(|c| c.is_ascii_alphanumeric() || *c == b'_' || *c == b'-')
    {
        return Err(bad("only letters, digits, - and _ are allowed"));
    }
    if RESERVED.contains(&s) {
        return Err(bad("this word is reserved"));
    }
    Ok(s.to_string())
}

impl HostName {
    /// Longest host name in bytes: the log format stores it in 32 bytes with a terminator.
    pub const MAX: usize = 31;

    /// Would keys of `self` and `other` be mistaken for each other? One is the end of the other behind a dash: the names
    /// `b` and `a-b` collide, because `log-000000001-a-b` also ends in `-b` (symlink-tree.md section 0).
    pub fn collides_with(&self, other: &HostName) -> bool {
        let tail = |long: &str, short: &str| {
            long.strip_suffix(short)
                .is_some_and(|rest| rest.ends_with('-'))
        };
        tail(&self.0, &other.0) || tail(&other.0, &self.0)
    }
}
impl ResName {
    /// Longest resource name in bytes.
    pub const MAX: usize = 63;
}

impl FromStr for HostName {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        check("host", s, Self::MAX).map(HostName)
    }
}
impl FromStr for ResName {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        check("resource", s, Self::MAX).map(ResName)
    }
}

/// `log-NNNNNNNNN-HOST`: number and creator. Ordered by number, then creator.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LogName {
    /// 0 ..= 999_999_999. (0 occurs only in placeholders of version links.)
    pub nr: u32,
    /// The host that wrote (writes) it.
    pub host: HostName,
}

impl fmt::Display for LogName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "log-{:09}-{}", self.nr, self.host)
    }
}
/// `NNNNNNNNN-HOST`: exactly 9 digits. (Other widths would make a key and its path differ.)
pub(crate) fn numbered(s: &str) -> Option<(u32, HostName)> {
    let (nr, rest) = s.split_at_checked(9)?;
    if !nr.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let host = rest.strip_prefix('-')?.parse().ok()?;
    Some((nr.parse().ok()?, host))
}

impl FromStr for LogName {
    type Err = NameError;
    fn from_str(s: &str) -> Result<Self, NameError> {
        s.strip_prefix("log-")
            .and_then(numbered)
            .map(|(nr, host)| LogName { nr, host })
            .ok_or_else(|| NameError {
                what: "log",
                name: s.chars().take(64).collect(),
                why: "it must be log-NNNNNNNNN-HOST with 9 digits",
            })
    }
}
