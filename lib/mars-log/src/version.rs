//! Version links: computing, chaining, switching (symlink-tree.md 4.2 to 4.4).
use mars_tree::{HostName, LogName, ReplayPos, VersionHead, VersionLink};
use md5::{Digest as _, Md5};

/// How far a replay position may stay behind a torn or given-up end: the largest record of MARS 0.1a
/// (transaction-log.md 2.6).
const TAIL_TOLERANCE: u64 = (crate::MAX_PAYLOAD_V1 + crate::OVERHEAD) as u64;

/// The version link of log `log` with length `len`, given the owner's own link of the number before (`None` for number 1 or when
/// missing). MD5 input as in symlink-tree.md 4.2.
///
/// Number 1 has no predecessor, whatever placeholder the creation of the resource left behind.
pub fn next_version(log: &LogName, len: u64, prev: Option<&VersionLink>) -> VersionLink {
    let prev = prev.filter(|_| log.nr > 1);
    let mut md5 = Md5::new();
    md5.update(format!("{},{},{len}:", log.nr, log.host));
    if let Some(p) = prev {
        md5.update(p.to_string());
    }
    VersionLink {
        head: VersionHead {
            md5: md5.finalize().into(),
            log: log.clone(),
            len,
        },
        pred: prev.map(|p| p.head.clone()),
    }
}

/// Placeholder with 32 zeros and length 0 (create-resource, holes); `pred` is normally `None` or the former placeholder's head.
pub fn placeholder(log: &LogName, pred: Option<VersionHead>) -> VersionLink {
    VersionLink {
        head: VersionHead {
            md5: [0; 16],
            log: log.clone(),
            len: 0,
        },
        pred,
    }
}

/// All facts that the switch decision needs (symlink-tree.md 4.4).
#[derive(Clone, Debug)]
pub struct SwitchInput<'a> {
    /// This host.
    pub me: &'a HostName,
    /// Is this host the designated primary?
    pub designated: bool,
    /// Is it forced (connect switch off)?
    pub forced: bool,
    /// The tail of the log is damaged (torn).
    pub tail_damaged: bool,
    /// The log that was replayed.
    pub old: &'a LogName,
    /// The next log.
    pub new: &'a LogName,
    /// More than one file or link with the new number is known.
    pub duplicate: bool,
    /// The creator of the old log may have written more of it than it has published, and is not who leads now.
    pub creator_may_lag: bool,
    /// Own version link of the old log.
    pub own_old: Option<&'a VersionLink>,
    /// Version link of the old log by its creator.
    pub creator_old: Option<&'a VersionLink>,
    /// Version link of the new log by its creator.
    pub creator_new: Option<&'a VersionLink>,
    /// Own replay link.
    pub replay: Option<&'a ReplayPos>,
}

/// Why a host may not switch (the message key of symlink-tree.md 4.4).
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SwitchBlock {
    /// Histories differ.
    #[error("err-splitbrain-detected")]
    SplitBrain,
    /// Names do not fit.
    #[error("err-bad-log-name")]
    BadLogName,
    /// A number is missing.
    #[error("err-log-not-contiguous")]
    NotContiguous,
    /// A version link is missing or damaged.
    #[error("err-versionlink-not-readable")]
    NotReadable,
    /// A designated primary does not follow a foreign log.
    #[error("inf-log-foreign-denied")]
    ForeignDenied,
    /// The creator has not published the new version link yet.
    #[error("inf-versionlink-not-yet-exist")]
    NotYetExist,
    /// Own and creator's links of the old log differ.
    #[error("inf-versionlink-not-equal")]
    NotEqual,
    /// The old log is not replayed to its end.
    #[error("inf-replay-not-yet-finished")]
    NotFinished,
}

/// May `me` go from `old` to `new`? Rules 1 to 9 of symlink-tree.md 4.4 in order, positions compared by value.
///
/// Rule 6 is read with sense: lengths are published now and then, so the link of a creator that died may be an earlier stage of the
/// own one. Then the new log decides: when its predecessor is exactly what this host has (the digest covers everything before it), both have
/// the same history. Should the creator come back with more, it is the creator that has left the common history.
///
/// Rule 8 tolerates only a position *behind* the length: one beyond it would mean that the disk holds what the creator's
/// history does not.
pub fn may_switch(i: &SwitchInput<'_>) -> Result<(), SwitchBlock> {
    if i.duplicate {
        return Err(SwitchBlock::SplitBrain);
    }
    if i.old.nr.checked_add(1) != Some(i.new.nr) {
        return Err(SwitchBlock::NotContiguous);
    }
    // Where this host is the creator both links are the same one.
    let creator_old = i.creator_old.or(i.own_old.filter(|_| i.old.host == *i.me));
    let (Some(own), Some(creator)) = (i.own_old, creator_old) else {
        return Err(SwitchBlock::NotReadable);
    };
    let new_is_mine = i.new.host == *i.me;
    if i.designated && i.old.host == *i.me && !new_is_mine {
        return Err(SwitchBlock::ForeignDenied);
    }
    if !i.designated && !new_is_mine && i.creator_new.is_none() {
        return Err(SwitchBlock::NotYetExist);
    }
    if own != creator && !(i.creator_may_lag && is_lagging(own, creator, i.creator_new)) {
        return Err(SwitchBlock::NotEqual);
    }
    let replay = i
        .replay
        .filter(|r| r.log == own.head.log && r.log == *i.old)
        .ok_or(SwitchBlock::BadLogName)?;
    let tolerance = if i.tail_damaged || (i.designated && i.forced) {
        TAIL_TOLERANCE
    } else {
        0
    };
    let behind = own.head.len.checked_sub(replay.pos);
    if behind.is_none_or(|b| b > tolerance) {
        return Err(SwitchBlock::NotFinished);
    }
    if i.creator_new
        .is_some_and(|n| n.pred.as_ref() != Some(&own.head))
    {
        return Err(SwitchBlock::SplitBrain);
    }
    Ok(())
}

/// Is the creator's link an earlier stage of the own one, and does the new log continue exactly the own one?
fn is_lagging(own: &VersionLink, creator: &VersionLink, new: Option<&VersionLink>) -> bool {
    creator.head.log == own.head.log
        && creator.pred == own.pred
        && creator.head.len < own.head.len
        && new.is_some_and(|n| n.pred.as_ref() == Some(&own.head))
}

/// Checks a sequence of links of one owner (ascending numbers): returns the first number whose link does not follow from its
/// predecessor, or `None` when the chain is sound.
///
/// The first link can be checked by itself only if it has number 1; placeholders (32 zeros, length 0) are sound where
/// their predecessor fits.
pub fn version_chain(links: &[(u32, VersionLink)]) -> Option<u32> {
    let mut prev: Option<(u32, &VersionLink)> = None;
    for (nr, link) in links {
        let is_placeholder = link.head.md5 == [0; 16] && link.head.len == 0;
        let follows = match prev {
            _ if link.head.log.nr != *nr => false,
            Some((before, _)) if before.checked_add(1) != Some(*nr) => false,
            Some((_, p)) if is_placeholder => link.pred.as_ref() == Some(&p.head),
            None if is_placeholder || *nr > 1 => true,
            p => *link == next_version(&link.head.log, link.head.len, p.map(|(_, l)| l)),
        };
        if !follows {
            return Some(*nr);
        }
        prev = Some((*nr, link));
    }
    None
}
