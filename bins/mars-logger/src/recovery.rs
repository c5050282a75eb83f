//! From the replay link to a clean start: what is in the logs reaches the disk, the end of history is published, the own log is chosen.
use crate::io::{LogDir, LogStore as _};
use anyhow::{Context as _, anyhow, bail, ensure};
use mars_disk::{
    ApplyEnd, ApplyError, ApplyEvent, ApplyOptions, DataDisk, WINDOW_BYTES, apply_log,
};
use mars_log::{cut_prepared, next_version};
use mars_policy::{PrimaryPlan, PrimaryRefusal, Tail, View, primary_plan};
use mars_tree::{
    Batch, HostName, Key, LogName, ReplayPos, ResName, Snapshot, TodoSwitch, Tree, Value,
    VersionHead, VersionLink,
};
use std::fs::File;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Duration;

/// `replay-code` of a log that ends inside a record, before the end of what was durable (transaction-log.md 2.5).
const INCOMPLETE: &str = "-85,-10006";
/// Age of a host's metadata from which it counts as dead; recovery does not look at it.
const WINDOW: Duration = Duration::from_secs(60);

/// What recovery works on.
pub struct Recovery<'a> {
    /// The tree.
    pub tree: &'a Tree,
    /// Resource.
    pub res: &'a ResName,
    /// This host, designated primary.
    pub me: &'a HostName,
    /// Data disk.
    pub disk: &'a dyn DataDisk,
    /// Size of the resource in bytes.
    pub size: u64,
    /// Asked between windows: stop?
    pub stop: &'a dyn Stopper,
}

/// Someone may want to stop in the middle.
pub trait Stopper: std::fmt::Debug {
    /// Stop now?
    fn is_set(&self) -> bool;
    /// Told from time to time: `log` is applied up to `pos`, `dirty` bytes behind it perhaps partly; it goes on to `end`.
    fn applied(&self, _log: &LogName, _pos: u64, _dirty: u64, _end: u64) {}
    /// Is a device in use that an earlier process has left? It is served until it is closed, as by a process that goes on running while another host
    /// becomes designated.
    fn is_in_use(&self) -> bool {
        false
    }
}

impl Stopper for mars_daemon::Stop {
    fn is_set(&self) -> bool {
        mars_daemon::Stop::is_set(self)
    }
}

/// Where logging begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StartPoint {
    /// Own log, empty or not existing.
    pub log: LogName,
    /// Own version link of the number before.
    pub prev: Option<VersionLink>,
    /// Records that were applied.
    pub records: u64,
}

impl Recovery<'_> {
    /// Does what [`primary_plan`] says until it says where to log. Idempotent: interrupted anywhere, it does the same again.
    pub fn run(&self) -> anyhow::Result<StartPoint> {
        let mut records = 0;
        // What the end of a log turned out to be.
        let mut judged: Option<(LogName, Tail)> = None;
        loop {
            let mut snap = self.tree.snapshot_of(self.res)?;
            if self.stop.is_in_use()
                && let Some(link) = snap.links.get_mut(&Key::Primary(self.res.clone()).path())
            {
                link.value = Value::new(self.me.as_str())?;
            }
            let replay = snap.replay(self.res, self.me).with_context(|| {
                format!(
                    "resource {}: replay-{} is missing or damaged; run `marsadm invalidate {}`",
                    self.res, self.me, self.res
                )
            })?;
            let tail = judged
                .as_ref()
                .filter(|(log, _)| *log == replay.log)
                .map_or(Tail::Unread, |(_, tail)| *tail);
            let view = View {
                snap: &snap,
                me: self.me,
                local: self.me,
                now: self.tree.clock().now(),
                window: WINDOW,
                engine_running: true,
            };
            match primary_plan(&view, self.res, tail) {
                PrimaryPlan::Apply { log, pos } => {
                    let (tail, applied) = self.apply(&snap, &replay, pos)?;
                    records += applied;
                    judged = Some((log, tail));
                }
                PrimaryPlan::Refuse(why) if !matches!(why, PrimaryRefusal::Blocked { .. }) => {
                    return Err(self.refusal(&replay, &why));
                }
                PrimaryPlan::OpenOwn { log, .. } if log == replay.log => {
                    let prev = self.own_version(&snap, log.nr.checked_sub(1));
                    return Ok(StartPoint { log, prev, records });
                }
                // What is on the disk is this host's history, also what its log has lost. The others must see it before it goes on.
                _ if self.is_unpublished(&snap, &replay) => {
                    let window = replay.pos.saturating_add(replay.dirty);
                    self.publish(&snap, &replay.log, replay.pos, window)?;
                }
                PrimaryPlan::Refuse(why) => return Err(self.refusal(&replay, &why)),
                PrimaryPlan::Switch { old, new } => {
                    tracing::info!("recovery: {old} is finished, going on with {new}");
                    self.enter(&snap, &new)?;
                }
                PrimaryPlan::OpenOwn { log, .. } => {
                    if log.nr != replay.log.nr.saturating_add(1) {
                        tracing::warn!("logging goes on behind the hole, in {log}");
                    }
                    let prev = self.own_version(&snap, log.nr.checked_sub(1));
                    return Ok(StartPoint { log, prev, records });
                }
            }
        }
    }

    /// Does the own version link tell less than what was applied?
    fn is_unpublished(&self, snap: &Snapshot, replay: &ReplayPos) -> bool {
        self.own_version(snap, Some(replay.log.nr))
            .filter(|v| v.head.log == replay.log)
            .is_none_or(|v| v.head.len < replay.pos)
    }

    /// Why not, and what to do.
    fn refusal(&self, replay: &ReplayPos, why: &PrimaryRefusal) -> anyhow::Error {
        let (res, pos) = (self.res, replay.pos);
        let give_up = format!("`marsadm disconnect {res}` and `marsadm primary --force {res}`");
        match why {
            PrimaryRefusal::Lost(log) => {
                let what = match self.file_len(log) {
                    Ok(len) if *log == replay.log && len < pos => {
                        format!("has {len} bytes here, but the replay position is {pos}")
                    }
                    _ => "was written here and is gone".to_string(),
                };
                anyhow!(
                    "resource {res}: {log} {what}; the log is damaged or missing: fetch it again from another host \
                     (`marsadm secondary {res}`), or give up its end with {give_up}"
                )
            }
            PrimaryRefusal::Incomplete { log, rest } => anyhow!(
                "resource {res}: {log} ends at {pos} here, but {} wrote {} bytes; let this host fetch the rest as secondary, \
                 or give it up with {give_up}",
                log.host,
                pos.saturating_add(*rest)
            ),
            PrimaryRefusal::Blocked { .. } => anyhow!(
                "resource {res}: {why}; wait for the other hosts (`marsadm view {res}`), or give up their history with {give_up}"
            ),
            PrimaryRefusal::Unsynced => anyhow!(
                "resource {res}: {why}; make a host with complete data primary, and this one afterwards"
            ),
            why => anyhow!("resource {res}: {why}"),
        }
    }

    fn path(&self, log: &LogName) -> std::path::PathBuf {
        self.tree.path(&Key::Log(self.res.clone(), log.clone()))
    }

    /// Length of the local file; 0 when there is none (a tombstone link is none).
    fn file_len(&self, log: &LogName) -> anyhow::Result<u64> {
        let path = self.path(log);
        match std::fs::symlink_metadata(&path) {
            Ok(m) if m.is_file() => Ok(m.len()),
            Ok(_) => Ok(0),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(0),
            Err(e) => Err(e).with_context(|| path.display().to_string()),
        }
    }

    fn own_version(&self, snap: &Snapshot, nr: Option<u32>) -> Option<VersionLink> {
        snap.version(self.res, nr?, self.me)
    }

    /// Applies one log from `pos` to its end and publishes that. Returns what the end is, and the number of records.
    fn apply(&self, snap: &Snapshot, replay: &ReplayPos, pos: u64) -> anyhow::Result<(Tail, u64)> {
        let (res, log) = (self.res, &replay.log);
        self.cut_interrupted(snap, log)?;
        let path = self.path(log);
        let promise = self.promise(snap, replay);
        let is_own = matches!(promise, Promise::Own(_));
        let file = File::options()
            .read(true)
            .write(is_own)
            .open(&path)
            .with_context(|| path.display().to_string())?;
        // After a crash without power loss the end may be in the page cache only; nothing volatile may be published or applied.
        file.sync_data()
            .with_context(|| path.display().to_string())?;
        let len = match promise {
            // The zeros that were prepared are no damage. Where records were promised, they are.
            Promise::Own(durable) => cut_prepared(&file, durable),
            Promise::Foreign(_) => file.metadata().map(|m| m.len()),
        }
        .with_context(|| path.display().to_string())?;
        let opts = ApplyOptions {
            window_bytes: WINDOW_BYTES,
            device_size: self.size,
        };
        // Up to here the disk may hold some of the records already: that stays published until they are all applied.
        let window = replay.pos.saturating_add(replay.dirty);
        tracing::info!("recovery: applying {log} from {pos} to {len}");
        let outcome = apply_log(self.disk, file, pos, len, &opts, &mut |event| match event {
            ApplyEvent::BeforeWrite { start, end } => {
                self.position(snap, log, start, end.max(window), end)?;
                self.stop.applied(log, start, end.max(window) - start, len);
                Ok(ControlFlow::Continue(()))
            }
            ApplyEvent::Flushed { end, .. } => {
                self.position(snap, log, end, window, end)?;
                let dirty = window.saturating_sub(end);
                self.stop.applied(log, end, dirty, len);
                Ok(if self.stop.is_set() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                })
            }
        })
        .inspect_err(|e| self.tell_error(e))
        .with_context(|| format!("resource {res}: recovery of {log}"))?;
        let end = outcome.pos;
        let forced = !snap.todo(res, self.me, TodoSwitch::Connect);
        let (code, what, is_inside) = match outcome.end {
            ApplyEnd::Limit => {
                self.publish(snap, log, end, window)?;
                return Ok((Tail::Unread, outcome.records));
            }
            ApplyEnd::Asked => bail!("resource {res}: stopped during recovery at {log},{end}"),
            ApplyEnd::Incomplete { rest } => (
                INCOMPLETE.to_string(),
                format!("{rest} bytes of a record"),
                false,
            ),
            ApplyEnd::Stop {
                code,
                corruption_inside,
            } => (
                code.to_string(),
                format!("damage, code {}", code.errno),
                corruption_inside,
            ),
        };
        let is_broken = promise.is_broken(end, len, is_inside);
        if is_broken && !forced {
            self.tell("replay-code", &code);
        }
        ensure!(
            forced || !is_broken,
            "resource {res}: {log} is damaged at {end} ({what}) before the end of what was durable: records would be lost; \
             give up its end with `marsadm disconnect {res}` and `marsadm primary --force {res}`"
        );
        tracing::warn!(
            "{log} ends at {end} ({what}), the last {} bytes of the file do not count",
            len - end
        );
        if end == 0 && matches!(promise, Promise::Own(0)) {
            // Nothing in it was ever durable: it is as if it had just been created, and logging begins in it.
            self.truncate(log, 0)?;
            return Ok((Tail::Unread, outcome.records));
        }
        let tail = match outcome.end {
            ApplyEnd::Incomplete { .. } => promise.tail(len),
            _ => promise.tail(end),
        };
        self.publish(snap, log, end, window)?;
        Ok((tail, outcome.records))
    }

    /// Says below `actual-HOST/` why there is no primary. What cannot be written there is in the journal all the same.
    fn tell(&self, name: &str, value: &str) {
        let mut b = Batch::new();
        let key = Key::Actual(self.res.clone(), self.me.clone(), name.to_string());
        b.set_if_changed(key, value);
        if let Err(e) = self.tree.commit(&b) {
            tracing::warn!("{e}");
        }
    }

    fn tell_error(&self, e: &ApplyError) {
        let errno = |e: &std::io::Error| e.raw_os_error().unwrap_or(libc::EIO);
        match e {
            ApplyError::Disk(e) => self.tell("disk-error", &format!("-{}", errno(e))),
            ApplyError::Log(e) => self.tell("replay-code", &format!("-{}", errno(e))),
            ApplyError::Publish(_) => {}
        }
    }

    /// Logging was interrupted in this log, and its invalid end may still be there, because cutting it failed then: its records are older
    /// than what went directly to the disk.
    fn cut_interrupted(&self, snap: &Snapshot, log: &LogName) -> anyhow::Result<()> {
        let is_hole = |link: &VersionLink| {
            let nothing = |h: &VersionHead| h.md5 == [0; 16];
            nothing(&link.head) && link.head.len == 0 && link.pred.as_ref().is_none_or(nothing)
        };
        let interrupted = log.host == *self.me
            && snap
                .versions(self.res)
                .iter()
                .any(|(nr, owner, link)| owner == self.me && *nr > log.nr && is_hole(link));
        let valid = self
            .own_version(snap, Some(log.nr))
            .filter(|v| interrupted && v.head.log == *log)
            .map(|v| v.head.len);
        if let Some(valid) = valid
            && self.file_len(log)? > valid
        {
            tracing::warn!("{log} is cut at {valid}, where logging was interrupted");
            self.truncate(log, valid)?;
        }
        Ok(())
    }

    fn truncate(&self, log: &LogName, len: u64) -> anyhow::Result<()> {
        let dir = self.path(log).parent().map(Path::to_path_buf);
        LogDir(dir.unwrap_or_default())
            .truncate(log, len)
            .with_context(|| format!("cutting {log}"))
    }

    /// What was said about the log before the crash.
    fn promise(&self, snap: &Snapshot, replay: &ReplayPos) -> Promise {
        let log = &replay.log;
        let linked = snap
            .version(self.res, log.nr, &log.host)
            .filter(|v| v.head.log == *log)
            .map_or(0, |v| v.head.len);
        if log.host == *self.me {
            // The dirty range was durable in the log before the disk was touched.
            Promise::Own(linked.max(replay.pos.saturating_add(replay.dirty)))
        } else {
            Promise::Foreign(linked)
        }
    }

    /// Publishes where applying stands; records up to `valid` are durable here. The version link goes with the position: recovery begins at the smaller
    /// one, and one that is interrupted must not go back.
    fn position(
        &self,
        snap: &Snapshot,
        log: &LogName,
        pos: u64,
        window: u64,
        valid: u64,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut b = Batch::new();
        let published = self
            .own_version(snap, Some(log.nr))
            .filter(|v| v.head.log == *log)
            .map_or(0, |v| v.head.len);
        if published < valid {
            let prev = self.own_version(snap, log.nr.checked_sub(1));
            b.set_if_changed(
                Key::Version(self.res.clone(), log.nr, self.me.clone()),
                next_version(log, valid, prev.as_ref()),
            );
        }
        let value = ReplayPos {
            log: log.clone(),
            pos,
            dirty: window.saturating_sub(pos),
        };
        b.set_if_changed(Key::Replay(self.res.clone(), self.me.clone()), value);
        self.tree.commit(&b)?;
        Ok(())
    }

    /// The true end of a log: it may be smaller than what was published before a crash.
    fn publish(&self, snap: &Snapshot, log: &LogName, end: u64, window: u64) -> anyhow::Result<()> {
        let prev = self.own_version(snap, log.nr.checked_sub(1));
        let mut b = Batch::new();
        b.set_if_changed(
            Key::Version(self.res.clone(), log.nr, self.me.clone()),
            next_version(log, end, prev.as_ref()),
        );
        let value = ReplayPos {
            log: log.clone(),
            pos: end,
            dirty: window.saturating_sub(end),
        };
        b.set_if_changed(Key::Replay(self.res.clone(), self.me.clone()), value);
        self.tree.commit(&b)?;
        Ok(())
    }

    /// Goes to the beginning of the next log.
    fn enter(&self, snap: &Snapshot, log: &LogName) -> anyhow::Result<()> {
        // What was published about it stays: it is a promise, and says where a log ends in which logging was interrupted.
        let known = self
            .own_version(snap, Some(log.nr))
            .filter(|v| v.head.log == *log)
            .map_or(0, |v| v.head.len);
        let prev = self.own_version(snap, log.nr.checked_sub(1));
        let mut b = Batch::new();
        b.set_if_changed(
            Key::Version(self.res.clone(), log.nr, self.me.clone()),
            next_version(log, known, prev.as_ref()),
        );
        let value = ReplayPos {
            log: log.clone(),
            pos: 0,
            dirty: 0,
        };
        b.set_if_changed(Key::Replay(self.res.clone(), self.me.clone()), value);
        self.tree.commit(&b)?;
        Ok(())
    }
}

/// How many bytes of a log are known to have been durable at its writer.
#[derive(Clone, Copy, Debug)]
enum Promise {
    Own(u64),
    Foreign(u64),
}

impl Promise {
    /// Is it a loss that the last good record ends at `end` in a file of `len` bytes? `is_inside`: valid records stand behind. In an own
    /// log damage counts only before the promise: pages that were never synced reach the disk in any order, so behind it even valid
    /// records prove nothing. A foreign log has been fetched, and only what was durable is handed out.
    fn is_broken(self, end: u64, len: u64, is_inside: bool) -> bool {
        match self {
            Promise::Own(durable) => end < durable && (is_inside || durable <= len),
            Promise::Foreign(_) => is_inside,
        }
    }

    /// What the end of the log is when its bytes are good up to `end`. Of an own log nobody has more than is here; of a foreign one its
    /// writer has what it promised.
    fn tail(self, end: u64) -> Tail {
        match self {
            Promise::Foreign(durable) if end < durable => Tail::Cut,
            _ => Tail::Torn,
        }
    }
}
