//! From the replay link to a clean start: what is in the logs reaches the disk, the end of history is published, the own log is chosen.
use anyhow::{Context as _, anyhow, bail, ensure};
use mars_disk::{ApplyEnd, ApplyEvent, ApplyOptions, Disk, WINDOW_BYTES, apply_log};
use mars_log::next_version;
use mars_policy::{PrimaryPlan, PrimaryRefusal, Tail, View, primary_plan};
use mars_tree::{
    Batch, HostName, Key, LogName, ReplayPos, ResName, Snapshot, TodoSwitch, Tree, VersionLink,
};
use std::fs::File;
use std::ops::ControlFlow;
use std::time::Duration;

/// Age of a host's metadata from which it counts as dead; recovery does not look at it.
const WINDOW: Duration = Duration::from_secs(60);

/// What recovery works on.
#[derive(Debug)]
pub struct Recovery<'a> {
    /// The tree.
    pub tree: &'a Tree,
    /// Resource.
    pub res: &'a ResName,
    /// This host, designated primary.
    pub me: &'a HostName,
    /// Data disk.
    pub disk: &'a Disk,
    /// Size of the resource in bytes.
    pub size: u64,
    /// Asked between windows: stop?
    pub stop: &'a dyn Stopper,
}

/// Someone may want to stop in the middle.
pub trait Stopper: std::fmt::Debug {
    /// Stop now?
    fn is_set(&self) -> bool;
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
            let snap = self.tree.snapshot_of(self.res)?;
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
        let len = self.file_len(log)?;
        let path = self.path(log);
        let file = File::open(&path).with_context(|| path.display().to_string())?;
        // After a crash without power loss the end may be in the page cache only; nothing volatile may be published or applied.
        file.sync_data()
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
                self.position(log, start, end.max(window))?;
                Ok(ControlFlow::Continue(()))
            }
            ApplyEvent::Flushed { end, .. } => {
                self.position(log, end, window)?;
                Ok(if self.stop.is_set() {
                    ControlFlow::Break(())
                } else {
                    ControlFlow::Continue(())
                })
            }
        })
        .with_context(|| format!("resource {res}: recovery of {log}"))?;
        let end = outcome.pos;
        let promise = self.promise(snap, replay);
        let forced = !snap.todo(res, self.me, TodoSwitch::Connect);
        let (what, is_inside) = match outcome.end {
            ApplyEnd::Limit => {
                self.publish(snap, log, end, window)?;
                return Ok((Tail::Unread, outcome.records));
            }
            ApplyEnd::Asked => bail!("resource {res}: stopped during recovery at {log},{end}"),
            ApplyEnd::Incomplete { rest } => (format!("{rest} bytes of a record"), false),
            ApplyEnd::Stop {
                code,
                corruption_inside,
            } => (format!("damage, code {}", code.errno), corruption_inside),
        };
        ensure!(
            forced || !promise.is_broken(end, len, is_inside),
            "resource {res}: {log} is damaged at {end} ({what}) before the end of what was durable: records would be lost; \
             give up its end with `marsadm disconnect {res}` and `marsadm primary --force {res}`"
        );
        tracing::warn!(
            "{log} ends at {end} ({what}), the last {} bytes of the file do not count",
            len - end
        );
        let tail = match outcome.end {
            ApplyEnd::Incomplete { .. } => promise.tail(len),
            _ => promise.tail(end),
        };
        self.publish(snap, log, end, window)?;
        Ok((tail, outcome.records))
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

    fn position(
        &self,
        log: &LogName,
        pos: u64,
        window: u64,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let mut b = Batch::new();
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
        self.publish(snap, log, 0, 0)
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
