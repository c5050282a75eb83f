//! What shall go wrong, as text: one rule per line, `#` begins a comment.
//!
//! ```text
//! OP WORD...
//!
//! OP     log.create log.append log.sync log.truncate log.space disk.read disk.write disk.flush
//! ERRNO  EIO, ENOSPC, EROFS, ENOMEM, ETIMEDOUT: the operation fails with it
//! short  a write leaves its first half behind before it fails (ENOSPC when no errno is given)
//! lose   a failing sync or flush takes away everything written since the last good one, as the kernel may
//! delay=MS   the operation takes so much longer; alone, or before it fails
//! hang   the operation does not return until the rules change
//! pos=A-B    only where `[A, B)` is touched (disk.read, disk.write)
//! after=N    writes: only behind the first N bytes since the rule was read; the part before is written
//! skip=N     the first N operations are spared
//! times=N    at most N operations are hit
//!
//! disk.model seek8ms size=BYTES     the disk seeks (see `seek`)
//! ```
use std::time::Duration;

/// An operation that can be hit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// Making or opening a log.
    LogCreate,
    /// Appending.
    LogAppend,
    /// fdatasync of a log.
    LogSync,
    /// Cutting a log.
    LogTruncate,
    /// The question for free space: hit = there is none.
    LogSpace,
    /// Reading the disk.
    DiskRead,
    /// Writing or zeroing the disk.
    DiskWrite,
    /// Flushing the disk.
    DiskFlush,
}

const OPS: [(&str, Op); 8] = [
    ("log.create", Op::LogCreate),
    ("log.append", Op::LogAppend),
    ("log.sync", Op::LogSync),
    ("log.truncate", Op::LogTruncate),
    ("log.space", Op::LogSpace),
    ("disk.read", Op::DiskRead),
    ("disk.write", Op::DiskWrite),
    ("disk.flush", Op::DiskFlush),
];

const ERRNOS: [(&str, i32); 5] = [
    ("EIO", libc::EIO),
    ("ENOSPC", libc::ENOSPC),
    ("EROFS", libc::EROFS),
    ("ENOMEM", libc::ENOMEM),
    ("ETIMEDOUT", libc::ETIMEDOUT),
];

/// One rule.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rule {
    /// What it hits.
    pub op: Op,
    /// The error; none for a mere delay.
    pub errno: Option<i32>,
    /// Half of a write is done first.
    pub short: bool,
    /// What was not flushed yet is taken away.
    pub lose: bool,
    /// Time that passes first.
    pub delay: Duration,
    /// Does not return while the rule is in force.
    pub hang: bool,
    /// Touched range.
    pub range: Option<(u64, u64)>,
    /// Bytes that pass.
    pub after: u64,
    /// Operations that pass.
    pub skip: u64,
    /// Operations that are hit.
    pub times: u64,
}

/// All rules of a text.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Rules {
    /// In order; the first that fits counts.
    pub rules: Vec<Rule>,
    /// Size of the disk that seeks.
    pub seek: Option<u64>,
}

/// A line that is no rule.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("no rule: {0:?}")]
pub struct BadRule(pub String);

impl Rules {
    /// Reads a text.
    pub fn parse(text: &str) -> Result<Rules, BadRule> {
        let mut all = Rules::default();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default().trim();
            if line.is_empty() {
                continue;
            }
            let bad = || BadRule(line.to_string());
            match line.split_once(' ').ok_or_else(bad)? {
                ("disk.model", model) => all.seek = Some(seek_size(model).ok_or_else(bad)?),
                (op, words) => all.rules.push(rule(op, words).ok_or_else(bad)?),
            }
        }
        Ok(all)
    }
}

fn seek_size(model: &str) -> Option<u64> {
    let size = model.trim().strip_prefix("seek8ms")?.trim();
    size.strip_prefix("size=")?.parse().ok().filter(|n| *n > 0)
}

fn find<T: Copy>(table: &[(&str, T)], name: &str) -> Option<T> {
    table.iter().find(|(n, _)| *n == name).map(|(_, v)| *v)
}

fn rule(op: &str, words: &str) -> Option<Rule> {
    let mut r = Rule {
        op: find(&OPS, op)?,
        errno: None,
        short: false,
        lose: false,
        delay: Duration::ZERO,
        hang: false,
        range: None,
        after: 0,
        skip: 0,
        times: u64::MAX,
    };
    for word in words.split_whitespace() {
        match word.split_once('=') {
            None => match word {
                "short" => r.short = true,
                "lose" => r.lose = true,
                "hang" => r.hang = true,
                name => r.errno = Some(find(&ERRNOS, name)?),
            },
            Some(("pos", range)) => {
                let (a, b) = range.split_once('-')?;
                r.range = Some((a.parse().ok()?, b.parse().ok()?));
            }
            Some((name, n)) => {
                let n: u64 = n.parse().ok()?;
                match name {
                    "delay" => r.delay = Duration::from_millis(n),
                    "after" => r.after = n,
                    "skip" => r.skip = n,
                    "times" => r.times = n,
                    _ => return None,
                }
            }
        }
    }
    if r.short {
        r.errno = r.errno.or(Some(libc::ENOSPC));
    }
    Some(r)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn text_becomes_rules() {
        let all = Rules::parse(
            "# nothing\nlog.sync EIO lose times=1\nlog.append short after=4096 # full\n\ndisk.write EIO pos=512-1024 delay=20\ndisk.flush hang\n\
             disk.model seek8ms size=1073741824\n",
        )
        .unwrap();
        assert_eq!(all.seek, Some(1 << 30));
        let [sync, append, write, flush] = &all.rules[..] else {
            panic!("{all:?}")
        };
        assert_eq!(
            (sync.op, sync.errno, sync.lose, sync.times),
            (Op::LogSync, Some(libc::EIO), true, 1)
        );
        assert_eq!(
            (append.errno, append.short, append.after),
            (Some(libc::ENOSPC), true, 4096)
        );
        assert_eq!(
            (write.range, write.delay),
            (Some((512, 1024)), Duration::from_millis(20))
        );
        assert!(flush.hang && flush.errno.is_none());
    }

    #[test]
    fn nonsense_is_refused() {
        for line in [
            "log.sync",
            "log.nothing EIO",
            "disk.write EWHAT",
            "disk.write pos=5",
            "log.append after=-1",
            "disk.model seek8ms",
            "disk.model seek8ms size=0",
            "disk.model warp size=1",
        ] {
            assert_eq!(Rules::parse(line), Err(BadRule(line.to_string())), "{line}");
        }
    }
}
