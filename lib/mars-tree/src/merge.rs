//! The rule that makes the newest stamp win everywhere (I6), as a pure function.
use crate::{Stamp, Value};

/// What decides between two links of one key: the greater one wins on every host. The newer one; of equal stamps the
/// tombstone, then the greater value in byte order.
///
/// Equal stamps with different values do occur: two hosts whose clocks are both behind the Lamport time that they have
/// seen issue the same next nanosecond, preliminary links all have the same stamp, weak ones whole seconds. There the
/// original keeps the local value (symlink-tree.md 2.4), so that the hosts disagree until the next write, about
/// `primary` of all things. I6 does not allow that, so this deviates: which of the two wins does not matter, but it has
/// to be the same one everywhere. (`(none)` is smaller than every host name, so on a tie it loses, as 2.8 wants it.)
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Rank<'a> {
    // The derived order compares in the order of the fields.
    stamp: Stamp,
    deleted: bool,
    value: &'a [u8],
}

impl<'a> Rank<'a> {
    /// Of a link with a legal (guarded) stamp.
    pub fn of(stamp: Stamp, value: &'a [u8]) -> Rank<'a> {
        let deleted = value == Value::DELETED.as_bytes();
        Rank {
            stamp,
            deleted,
            value,
        }
    }
}

/// What stands at the place of a key. Stamps are legal (guarded).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LocalState<'a> {
    /// A link, live or tombstone.
    Link(Rank<'a>),
    /// A log file with its mtime.
    LogFile(Stamp),
    /// Nothing, but an old deletion marker `.deleted-NAME` with its stamp.
    Marker(Stamp),
    /// Something that no link may replace: a directory, another file.
    Blocked,
}

/// What to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Decision {
    /// Store what arrived.
    Store,
    /// Keep what is here.
    Keep,
    /// It must not be stored here at all.
    Refuse,
}

/// Decides about a link that arrived (symlink-tree.md 2.4, 3.1, 3.4): the greater [`Rank`] wins, an equal link changes nothing, a
/// tombstone never creates a key, only a newer tombstone replaces a log file, an old marker stops older links.
pub fn decide(local: Option<LocalState<'_>>, remote: Rank<'_>) -> Decision {
    let store = match local {
        None => !remote.deleted,
        Some(LocalState::Link(rank)) => remote > rank,
        Some(LocalState::LogFile(_)) if !remote.deleted => return Decision::Refuse,
        Some(LocalState::LogFile(mtime)) => remote.stamp > mtime,
        Some(LocalState::Marker(stamp)) => !remote.deleted && remote.stamp >= stamp,
        Some(LocalState::Blocked) => return Decision::Refuse,
    };
    if store {
        Decision::Store
    } else {
        Decision::Keep
    }
}
