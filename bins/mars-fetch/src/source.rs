//! What this host may hand out of a log: durable bytes only.
use crate::facts::final_len;
use crate::feed::{Feed, Section};
use mars_live::{FetchLive, LogLive};
use mars_log::{Compression, Digest, FeatureMask, valid_end};
use mars_policy::{common_features, net_compression, net_digest};
use mars_tree::{HostEnv, Key, LogName, ResName, Snapshot, Tree};
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

/// What may be sent.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Available {
    /// Bytes that are durable here and belong to the log.
    pub durable: u64,
    /// Set when the log is known to end there.
    pub last: Option<u64>,
}

/// An open log.
#[derive(Debug)]
pub struct Source {
    /// The file.
    pub file: File,
    res: ResName,
    log: LogName,
    own: bool,
    /// What the client understands when data come packed.
    pub accepted: Option<FeatureMask>,
    /// How to pack data: only when compressing is wanted, as of `tree_seen`.
    pub packing: Option<(Digest, Compression)>,
    /// Final length, and the length in the creator's version link; from the tree at `tree_seen`.
    last: Option<u64>,
    linked: u64,
    tree_seen: Option<u64>,
    /// Known to be durable because we called fdatasync.
    synced: u64,
    /// What an own log without a logger was found to hold: file size, time of the last change and start of the search; end of the records.
    scanned: Option<((u64, i64, i64, u64), u64)>,
}

/// Which live section speaks about a log.
pub fn section(env: &HostEnv, log: &LogName) -> Section {
    if log.host == env.host {
        Section::Logger
    } else {
        Section::Fetch
    }
}

impl Source {
    /// Opens the file, never through a link: a tombstone is a link.
    pub fn open(env: &HostEnv, tree: &Tree, res: &ResName, log: &LogName) -> io::Result<Source> {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(tree.path(&Key::Log(res.clone(), log.clone())))?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::other("not a regular file"));
        }
        Ok(Source {
            file,
            res: res.clone(),
            log: log.clone(),
            own: log.host == env.host,
            accepted: None,
            packing: None,
            last: None,
            linked: 0,
            tree_seen: None,
            synced: 0,
            scanned: None,
        })
    }

    /// False once the file has been deleted or replaced: then it must not be kept open.
    pub fn is_current(&self) -> io::Result<bool> {
        Ok(self.file.metadata()?.nlink() > 0)
    }

    /// Looks at tree (only when it changed), live page and file.
    pub fn available(
        &mut self,
        env: &HostEnv,
        tree: &Tree,
        feed: &Feed,
        tree_seen: u64,
    ) -> anyhow::Result<Available> {
        if self.tree_seen != Some(tree_seen) {
            let snap = tree.snapshot_of(&self.res)?;
            self.last = final_len(&snap, &self.res, &self.log);
            self.linked = linked_len(&snap, &self.res, &self.log);
            self.packing = self.accepted.and_then(|mask| {
                let common = common_features(&snap, snap.hosts()).and(mask);
                let compression = net_compression(&snap, &env.host, common)?;
                Some((net_digest(&snap, &env.host, common), compression))
            });
            self.tree_seen = Some(tree_seen);
        }
        let durable = match (self.last, self.own) {
            (Some(last), _) => self.synced_up_to(last)?,
            (None, true) => {
                let live = feed.page.read::<LogLive>().0;
                let told = if live.log_nr == u64::from(self.log.nr) {
                    live.durable_len.min(self.size()?)
                } else {
                    0
                };
                if !mars_daemon::is_running(env, "logger", Some(&self.res)) {
                    self.left_behind(told)?
                } else if self.linked > told {
                    // The logger has not come to say anything since the boot: the link knows more. What a recovery will keep is never
                    // less than the link says.
                    self.synced_up_to(self.linked)?.max(told)
                } else {
                    told
                }
            }
            (None, false) => {
                let live = feed.page.read::<FetchLive>().0;
                let size = self.size()?;
                if live.log_nr == u64::from(self.log.nr)
                    && mars_daemon::is_running(env, "fetch", Some(&self.res))
                {
                    live.durable_len.min(size)
                } else {
                    self.synced_up_to(size)?
                }
            }
        };
        Ok(Available {
            durable,
            last: self.last,
        })
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    /// What a logger that crashed, or was stopped, has left in its own log. Behind the length that was told there may be more records, all of
    /// them history that a recovery will keep; then the zeros of a prepared tail, or a torn record: never given out.
    fn left_behind(&mut self, told: u64) -> io::Result<u64> {
        let meta = self.file.metadata()?;
        let from = told.max(self.linked).min(meta.len());
        let state = (meta.len(), meta.mtime(), meta.mtime_nsec(), from);
        if let Some((seen, end)) = self.scanned
            && seen == state
        {
            return Ok(end);
        }
        let end = valid_end(&self.file, from, meta.len())?;
        // After looking: whatever was seen is durable now, also when a logger should have begun meanwhile.
        self.file.sync_data()?;
        self.synced = self.synced.max(end);
        self.scanned = Some((state, end));
        Ok(end)
    }

    /// Makes what is there durable, up to `limit`.
    fn synced_up_to(&mut self, limit: u64) -> io::Result<u64> {
        let size = self.size()?.min(limit);
        if size > self.synced {
            self.file.sync_data()?;
            self.synced = size;
        }
        Ok(size)
    }
}

fn linked_len(snap: &Snapshot, res: &ResName, log: &LogName) -> u64 {
    snap.version(res, log.nr, &log.host)
        .filter(|v| v.head.log == *log)
        .map_or(0, |v| v.head.len)
}
