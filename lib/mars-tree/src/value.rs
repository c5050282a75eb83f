//! Typed values. Every type: `Display` prints exactly what `FromStr` reads.
use crate::{LogName, Stamp};
use std::fmt;
use std::str::FromStr;

/// The raw value of a link: 1 ..= 4095 bytes without NUL.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Value(Vec<u8>);

impl Value {
    /// The tombstone.
    pub const DELETED: &'static str = ".deleted";
    /// Longest value in bytes.
    pub const MAX: usize = 4095;
    /// Checks length and content.
    pub fn new(bytes: impl Into<Vec<u8>>) -> Result<Value, ValueError> {
        let bytes = bytes.into();
        if bytes.is_empty() || bytes.len() > Self::MAX || bytes.contains(&0) {
            return Err(ValueError::Length(bytes.len()));
        }
        Ok(Value(bytes))
    }
    /// A tombstone.
    pub fn deleted() -> Value {
        Value(Self::DELETED.as_bytes().to_vec())
    }
    /// The bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
    /// The text when it is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        std::str::from_utf8(&self.0).ok()
    }
    /// Is this a tombstone?
    pub fn is_deleted(&self) -> bool {
        self.0 == Self::DELETED.as_bytes()
    }
}

/// Why a value is refused or damaged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ValueError {
    /// Not 1 ..= 4095 bytes, or NUL inside.
    #[error("a link value must have 1 to 4095 bytes and no NUL, this has {0} bytes")]
    Length(usize),
    /// Does not have the form that the key demands.
    #[error("damaged {what}: {text:?}")]
    Damaged {
        /// What it should be.
        what: &'static str,
        /// The (shortened) text.
        text: String,
    },
}

/// `replay-HOST` and `syncpos-HOST`: `log-N9-C,POS,DIRTY` (symlink-tree.md 4.1).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplayPos {
    /// The log.
    pub log: LogName,
    /// Everything before is safely on the disk. Bytes in the log file.
    pub pos: u64,
    /// Bytes after `pos` that may be partly applied.
    pub dirty: u64,
}

impl ReplayPos {
    /// Position by value: log number, then offset. (Creators of equal numbers are not compared.)
    pub fn order(&self) -> (u32, u64) {
        (self.log.nr, self.pos)
    }
    /// End of the region that may be partly applied: log number, `pos + dirty`.
    pub fn end(&self) -> (u32, u64) {
        (self.log.nr, self.pos.saturating_add(self.dirty))
    }
}

/// `MD5,log-N9-C,LEN`: the head of a version link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VersionHead {
    /// Digest over the whole history.
    pub md5: [u8; 16],
    /// The log.
    pub log: LogName,
    /// Its length in bytes.
    pub len: u64,
}

/// `version-N9-HOST`: `HEAD:[HEAD of the predecessor]` (symlink-tree.md 4.2).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VersionLink {
    /// This log.
    pub head: VersionHead,
    /// The owner's own version link of the number before, without its predecessor.
    pub pred: Option<VersionHead>,
}

/// A `msg-CLASS-NAME` link: `OK`, or two stamps and a text (symlink-tree.md 1.8).
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum MessageValue {
    /// Nothing to say.
    Ok,
    /// Something to say.
    Text {
        /// Wall clock of the first occurrence.
        real: Stamp,
        /// Lamport clock of the first occurrence.
        lamport: Stamp,
        /// One line.
        text: String,
    },
}

impl MessageValue {
    /// Longest message link in bytes; longer texts are cut when printed.
    pub const MAX: usize = 1023;
}

impl ValueError {
    /// A value that does not have its form; `text` is shortened.
    pub fn damaged(what: &'static str, text: &str) -> ValueError {
        ValueError::Damaged {
            what,
            text: text.chars().take(80).collect(),
        }
    }
}

/// A decimal number as this program prints it: no sign, no leading zero.
pub(crate) fn canonical(s: &str) -> Option<u64> {
    let plain = s.bytes().all(|b| b.is_ascii_digit()) && (s == "0" || !s.starts_with('0'));
    if plain { s.parse().ok() } else { None }
}

impl fmt::Display for ReplayPos {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{}", self.log, self.pos, self.dirty)
    }
}
impl FromStr for ReplayPos {
    type Err = ValueError;
    fn from_str(s: &str) -> Result<Self, ValueError> {
        let parse = || {
            let mut parts = s.splitn(3, ',');
            Some(ReplayPos {
                log: parts.next()?.parse().ok()?,
                pos: canonical(parts.next()?)?,
                dirty: canonical(parts.next()?)?,
            })
        };
        parse().ok_or_else(|| ValueError::damaged("replay position LOG,POS,DIRTY", s))
    }
}

impl fmt::Display for VersionHead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for b in self.md5 {
            write!(f, "{b:02x}")?;
        }
        write!(f, ",{},{}", self.log, self.len)
    }
}
impl FromStr for VersionHead {
    type Err = ValueError;
    fn from_str(s: &str) -> Result<Self, ValueError> {
        let nibble = |b: u8| match b {
            b'0'..=b'9' => Some(b - b'0'),
            b'a'..=b'f' => Some(b - b'a' + 10),
            _ => None,
        };
        let parse = || {
            let mut parts = s.splitn(3, ',');
            let hex = parts.next()?.as_bytes();
            if hex.len() != 32 {
                return None;
            }
            let mut md5 = [0u8; 16];
            for (byte, pair) in md5.iter_mut().zip(hex.chunks_exact(2)) {
                *byte = nibble(pair[0])? << 4 | nibble(pair[1])?;
            }
            Some(VersionHead {
                md5,
                log: parts.next()?.parse().ok()?,
                len: canonical(parts.next()?)?,
            })
        };
        parse().ok_or_else(|| ValueError::damaged("version head MD5,LOG,LEN", s))
    }
}

impl fmt::Display for VersionLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.head)?;
        match &self.pred {
            Some(p) => write!(f, "{p}"),
            None => Ok(()),
        }
    }
}
impl FromStr for VersionLink {
    type Err = ValueError;
    fn from_str(s: &str) -> Result<Self, ValueError> {
        let parse = || {
            let (head, pred) = s.split_once(':')?;
            Some(VersionLink {
                head: head.parse().ok()?,
                pred: match pred {
                    "" => None,
                    p => Some(p.parse().ok()?),
                },
            })
        };
        parse().ok_or_else(|| ValueError::damaged("version link HEAD:[PREDECESSOR]", s))
    }
}

impl fmt::Display for MessageValue {
    /// One line of at most [`MessageValue::MAX`] bytes, whatever the text holds.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let MessageValue::Text {
            real,
            lamport,
            text,
        } = self
        else {
            return f.write_str("OK");
        };
        let head = format!("{real} {lamport} ");
        f.write_str(&head)?;
        let mut room = MessageValue::MAX.saturating_sub(head.len());
        for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
            match room.checked_sub(c.len_utf8()) {
                Some(r) => room = r,
                None => break,
            }
            fmt::Write::write_char(f, c)?;
        }
        Ok(())
    }
}
impl FromStr for MessageValue {
    type Err = ValueError;
    fn from_str(s: &str) -> Result<Self, ValueError> {
        if s == "OK" {
            return Ok(MessageValue::Ok);
        }
        let parse = || {
            let mut parts = s.splitn(3, ' ');
            Some(MessageValue::Text {
                real: canonical_stamp(parts.next()?)?,
                lamport: canonical_stamp(parts.next()?)?,
                text: parts.next()?.to_string(),
            })
        };
        Some(s)
            .filter(|s| s.len() <= MessageValue::MAX && !s.chars().any(char::is_control))
            .and_then(|_| parse())
            .ok_or_else(|| ValueError::damaged("message OK or STAMP STAMP TEXT", s))
    }
}

/// A stamp that prints as it was read.
fn canonical_stamp(s: &str) -> Option<Stamp> {
    let stamp: Stamp = s.parse().ok()?;
    (stamp.to_string() == s).then_some(stamp)
}
