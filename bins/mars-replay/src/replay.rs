//! The replay loop: look at the tree, do what the policy says, wait.
use crate::logfile::{self, LocalLog};
use crate::publish::{self, Position};
use crate::wake::{Seen, Wake};
use anyhow::Context;
use mars_daemon::{Daemon, InstanceLock, Rates, events};
use mars_disk::{
    ApplyEnd, ApplyError, ApplyEvent, ApplyOptions, ApplyOutcome, CopyGuard, CopyLock, DataDisk,
    Disk, DiskMode, WINDOW_BYTES, apply_log,
};
use mars_live::{LivePage, ReplayLive};
use mars_policy::{ReplayHold, ReplayPlan, View, replay_plan};
use mars_tree::{Batch, Key, LogName, MessageValue, ResName, Snapshot, Tree, Watcher};
use std::fs::File;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Under a trickle of records the position moves at most so often.
const GATHER: Duration = Duration::from_millis(100);
const BACKOFF_MIN: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// A host whose metadata is older counts as dead.
const WINDOW: Duration = Duration::from_secs(60);
/// Memory of windows above this is given back when replay comes to rest.
const TRIM_BYTES: u64 = 1 << 20;

/// A place in a log behind which its local copy is damaged.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Damage {
    log: LogName,
    pos: u64,
    /// The file in which it was found: a new copy is worth a new try.
    identity: (u64, u64),
    /// A torn tail, as far as anybody can tell.
    torn: bool,
}

struct Replay<'a> {
    d: &'a Daemon,
    tree: Tree,
    res: ResName,
    page: LivePage,
    wake: Arc<Wake>,
    lock: CopyLock,
    disk: Option<Arc<dyn DataDisk>>,
    /// The same, to ask for its size.
    raw: Option<Arc<Disk>>,
    wrap: &'a WrapDisk,
    damage: Option<Damage>,
    last_window: Option<Instant>,
    rates: Rates,
    /// Bytes applied since memory was given back.
    untrimmed: u64,
    backoff: Duration,
    last_error: String,
    /// Of the disk, as it was published last.
    disk_errno: i32,
    message: Option<String>,
}

/// What to do after a step.
enum Next {
    /// Look again at once.
    Again,
    /// Wait for something to happen.
    Wait,
}

/// Puts a layer around the disk; the daemon itself uses the identity.
pub type WrapDisk = dyn Fn(Arc<dyn DataDisk>) -> Arc<dyn DataDisk>;

/// Position and speed for people. `kib`: KiB per second over the last full interval, 0 when there is none yet.
fn status_line(log: &LogName, pos: u64, limit: u64, kib: u64) -> String {
    format!(
        "replaying {log}: {}",
        mars_daemon::amount::progress(pos, limit, kib)
    )
}

/// Runs until stopped.
pub fn run(d: &Daemon, res: ResName, wrap: &WrapDisk) -> anyhow::Result<()> {
    let _lock = InstanceLock::acquire(&d.env, "replay", Some(&res))?;
    let tree = Tree::open(&d.env)?;
    // Watched before the first look: nothing falls between.
    let watcher = Watcher::resource(&tree, &res)?;
    let page = || LivePage::open(&d.env.run_dir, res.as_str());
    let wake = Arc::new(Wake::default());
    start_threads(d, &res, watcher, page()?, &wake)?;
    let mut r = Replay {
        tree,
        page: page()?,
        lock: CopyLock::open(&d.env, &res)?,
        d,
        res,
        wake,
        disk: None,
        raw: None,
        wrap,
        damage: None,
        last_window: None,
        rates: Rates::default(),
        untrimmed: 0,
        backoff: BACKOFF_MIN,
        last_error: String::new(),
        disk_errno: 0,
        message: None,
    };
    d.ready();
    let result = r.work();
    r.publish_state(false)?;
    result
}

fn start_threads(
    d: &Daemon,
    res: &ResName,
    watcher: Watcher,
    page: LivePage,
    wake: &Arc<Wake>,
) -> anyhow::Result<()> {
    let on_stop = Arc::clone(wake);
    d.stop.on_set(move || on_stop.stop());
    let (env, res, stop, w) = (d.env.clone(), res.clone(), d.stop.clone(), Arc::clone(wake));
    let small = |name: &str| {
        std::thread::Builder::new()
            .name(name.into())
            .stack_size(256 << 10)
    };
    small("watch").spawn(move || {
        if let Err(e) = w.follow_tree(&env, &res, watcher) {
            tracing::error!("watching the tree: {e:#}");
            stop.set();
        }
    })?;
    let w = Arc::clone(wake);
    small("live").spawn(move || w.follow_page(&page))?;
    Ok(())
}

impl Replay<'_> {
    fn work(&mut self) -> anyhow::Result<()> {
        while !self.wake.stopped() {
            let seen = self.wake.seen(&self.page);
            let next = match self.step() {
                Ok(next) => {
                    self.backoff = BACKOFF_MIN;
                    next
                }
                Err(e) => {
                    self.complain(&format!("{e:#}"));
                    self.close_disk();
                    // A pause, whatever happens meanwhile: errors must not become a storm.
                    self.wake.pause(self.backoff);
                    self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
                    continue;
                }
            };
            match next {
                Next::Again => {}
                Next::Wait => self.rest(seen)?,
            }
        }
        Ok(())
    }

    fn rest(&mut self, seen: Seen) -> anyhow::Result<()> {
        if self.untrimmed > TRIM_BYTES {
            crate::sys::give_back_memory();
            self.untrimmed = 0;
        }
        self.report_rates()?;
        // Rates fall to zero by themselves.
        let timeout = self.rates.next_tick(Instant::now());
        self.wake.wait(seen, timeout);
        self.report_rates()
    }

    fn view<'a>(&'a self, snap: &'a Snapshot) -> View<'a> {
        View {
            snap,
            me: &self.d.env.host,
            local: &self.d.env.host,
            now: self.tree.clock().now(),
            window: WINDOW,
            engine_running: true,
        }
    }

    fn step(&mut self) -> anyhow::Result<Next> {
        let mut snap = self.tree.snapshot_of(&self.res)?;
        if snap.host(&Key::Primary(self.res.clone())).as_ref() != Some(&self.d.env.host)
            && logfile::cut_own_tails(&self.d.env, &self.tree, &snap, &self.res)
                .context("looking for the ends of own logs")?
        {
            snap = self.tree.snapshot_of(&self.res)?;
        }
        self.forget_mended(&snap)?;
        // Only an own log has an end that nobody knows better. What a copy of a foreign log has lost is fetched again.
        let torn = self
            .damage
            .as_ref()
            .is_some_and(|d| d.torn && d.log.host == self.d.env.host);
        match replay_plan(&self.view(&snap), &self.res, torn) {
            Ok(ReplayPlan::Apply { log, pos, limit }) => {
                self.publish_state(true)?;
                self.apply(&snap, &log, pos, limit)
            }
            Ok(ReplayPlan::Switch { old, new }) => {
                let own = snap.version(&self.res, old.nr, &self.d.env.host);
                let b = publish::switch(&self.res, &self.d.env.host, &new, own.as_ref());
                self.tree.commit(&b)?;
                self.damage = None;
                self.publish_live(&new, 0, 0);
                tracing::info!("{old} is finished, going on with {new}");
                Ok(Next::Again)
            }
            Err(hold) => self.hold(&hold),
        }
    }

    fn hold(&mut self, hold: &ReplayHold) -> anyhow::Result<Next> {
        use ReplayHold::{AtEnd, Blocked, Detached, NotMember, Paused, Primary, Sync};
        self.d.status(&hold.to_string());
        match hold {
            NotMember | Primary | Paused | Detached => {
                self.close_disk();
                self.publish_state(false)?;
            }
            Blocked(b) => {
                self.publish_state(true)?;
                self.tell(&b.to_string())?;
            }
            Sync | AtEnd => self.publish_state(true)?,
        }
        Ok(Next::Wait)
    }

    /// Damage is history when replay stands elsewhere now, or when there is a new copy of the log.
    fn forget_mended(&mut self, snap: &Snapshot) -> anyhow::Result<()> {
        let Some(d) = &self.damage else {
            return Ok(());
        };
        let at = snap.replay(&self.res, &self.d.env.host);
        let path = self.tree.path(&Key::Log(self.res.clone(), d.log.clone()));
        // No copy at all is no new copy.
        let replaced =
            std::fs::symlink_metadata(path).is_ok_and(|m| logfile::identity(&m) != d.identity);
        if replaced || at.is_none_or(|at| at.log != d.log || at.pos != d.pos) {
            let what = "the copy was replaced or is not needed any more";
            events::log_repaired(&self.res, Some(&d.log.host), &d.log, what);
            self.damage = None;
            self.publish_code("0")?;
        }
        Ok(())
    }

    fn apply(
        &mut self,
        snap: &Snapshot,
        log: &LogName,
        pos: u64,
        limit: Option<u64>,
    ) -> anyhow::Result<Next> {
        let file = match logfile::open(&self.d.env, &self.tree, &self.page, &self.res, log, snap) {
            Ok(f) => f,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                self.d.status(&format!("waiting for {log}"));
                return Ok(Next::Wait);
            }
            Err(e) => return Err(e).with_context(|| format!("opening {log}")),
        };
        if self.damage.is_some() {
            self.d
                .status(&format!("{log} is damaged behind position {pos}"));
            return Ok(Next::Wait);
        }
        // An own log, left from a time as primary that ended with a crash, ends where its file ends, whatever was published: what it holds
        // is own history, and a split must show in the version link instead of staying unseen (I8).
        let last = if log.host == self.d.env.host {
            Some(file.durable)
        } else {
            logfile::final_len(snap, &self.res, log)
        };
        let end = [Some(file.durable), limit, last]
            .into_iter()
            .flatten()
            .min()
            .unwrap_or(0);
        let told = logfile::creator_len(snap, &self.res, log, &log.host);
        // Fetch will not bring again what it has brought and what is gone.
        let is_cut = told.is_some_and(|t| file.durable < t && t <= file.fetched);
        if end <= pos {
            if is_cut {
                let code = publish::incomplete();
                return self.found_damage(log, pos, file.identity, &code, false);
            }
            self.d.status(&format!("waiting for more of {log}"));
            return Ok(Next::Wait);
        }
        if let Some(left) = self.gather_left()
            && end - pos < WINDOW_BYTES
        {
            self.wake.pause(left);
            return Ok(Next::Again);
        }
        self.open_disk(snap)?;
        let identity = file.identity;
        let out = self.apply_range(snap, log, file, pos, end)?;
        if out.pos > pos {
            self.message_done()?;
        }
        // What the writer tells is durable there, and ends with a whole record.
        let is_whole = is_cut || last == Some(end) || told.is_some_and(|t| out.pos < t && t <= end);
        self.judge(log, &out, identity, is_whole, pos)
    }

    fn gather_left(&self) -> Option<Duration> {
        let left = GATHER.saturating_sub(self.last_window?.elapsed());
        (!left.is_zero()).then_some(left)
    }

    /// Applies and publishes.
    fn apply_range(
        &mut self,
        snap: &Snapshot,
        log: &LogName,
        file: LocalLog,
        pos: u64,
        end: u64,
    ) -> anyhow::Result<ApplyOutcome> {
        let me = self.d.env.host.clone();
        let replay = snap.replay(&self.res, &me).filter(|r| r.log == *log);
        let mut position = Position {
            res: self.res.clone(),
            me: me.clone(),
            log: log.clone(),
            prev: log
                .nr
                .checked_sub(1)
                .and_then(|nr| snap.version(&self.res, nr, &me)),
            promised: replay.map_or(pos, |r| r.pos.saturating_add(r.dirty)),
        };
        self.d.status(&format!("replaying {log}"));
        let disk = self.disk.take().context("the disk is not open")?;
        let opts = ApplyOptions {
            window_bytes: WINDOW_BYTES,
            // Not the size in the tree: after a resize records of the new part may arrive before that link does.
            device_size: match &self.raw {
                Some(raw) => raw.size().context("size of the disk")?,
                None => 0,
            },
        };
        let links = self.tree.root().join(format!("resource-{}", self.res));
        let mut guard: Option<CopyGuard> = None;
        let limit = end;
        let result = apply_log(disk.as_ref(), file.file, pos, end, &opts, &mut |e| {
            match e {
                ApplyEvent::BeforeWrite { start, end } => {
                    if guard.is_none() {
                        let _waiting = mars_daemon::watchdog::waiting();
                        guard = Some(self.lock.hold()?);
                    }
                    self.tree.commit(&position.before_write(start, end))?;
                    // After a power cut the disk must not hold more than the link tells (I3).
                    File::open(&links)?.sync_all()?;
                    self.publish_live(log, start, position.promised - start);
                }
                ApplyEvent::Flushed {
                    end,
                    records,
                    bytes,
                } => {
                    self.tree.commit(&position.flushed(end))?;
                    guard = None;
                    self.rates.add(records, bytes);
                    self.publish_live(log, end, position.promised.saturating_sub(end));
                    self.untrimmed += bytes;
                    self.d.progress();
                    self.report_rates()?;
                    let (_, kib) = self.rates.current();
                    self.d.status(&status_line(log, end, limit, kib));
                }
            }
            Ok(if self.wake.stopped() {
                ControlFlow::Break(())
            } else {
                ControlFlow::Continue(())
            })
        });
        drop(guard);
        self.last_window = Some(Instant::now());
        match result {
            Ok(out) => {
                self.disk = Some(disk);
                self.disk_error(0)?;
                Ok(out)
            }
            Err(ApplyError::Disk(e)) => {
                self.disk_error(e.raw_os_error().unwrap_or(libc::EIO))?;
                Err(e).context("writing the disk")
            }
            Err(ApplyError::Log(e)) => {
                self.publish_code(&format!("-{}", e.raw_os_error().unwrap_or(libc::EIO)))?;
                Err(e).with_context(|| format!("reading {log}"))
            }
            Err(e) => Err(e.into()),
        }
    }

    /// Draws the conclusions from a run.
    fn judge(
        &mut self,
        log: &LogName,
        out: &ApplyOutcome,
        identity: (u64, u64),
        is_whole: bool,
        from: u64,
    ) -> anyhow::Result<Next> {
        let Some(code) = publish::damage(&out.end, is_whole) else {
            self.last_error.clear();
            // A cut record at the end of what is here: more bytes will come.
            let stuck = out.pos == from && matches!(out.end, ApplyEnd::Incomplete { .. });
            return Ok(if stuck { Next::Wait } else { Next::Again });
        };
        let torn = !matches!(
            out.end,
            ApplyEnd::Stop {
                corruption_inside: true,
                ..
            }
        );
        self.found_damage(log, out.pos, identity, &code, torn)
    }

    fn found_damage(
        &mut self,
        log: &LogName,
        pos: u64,
        identity: (u64, u64),
        code: &str,
        torn: bool,
    ) -> anyhow::Result<Next> {
        self.publish_code(code)?;
        self.damage = Some(Damage {
            log: log.clone(),
            pos,
            identity,
            torn,
        });
        self.d
            .status(&format!("{log} is damaged behind position {pos}: {code}"));
        let tell = if code == publish::incomplete() {
            events::incomplete_log
        } else {
            events::defective_log
        };
        tell(&self.res, Some(&log.host), log, pos, code);
        Ok(Next::Again)
    }

    fn close_disk(&mut self) {
        (self.disk, self.raw) = (None, None);
    }

    fn open_disk(&mut self, snap: &Snapshot) -> anyhow::Result<()> {
        if self.disk.is_some() {
            return Ok(());
        }
        let me = self.d.env.host.clone();
        let path = snap
            .text(&Key::Data(self.res.clone(), me.clone()))
            .context("the disk of this host is unknown")?;
        let path = PathBuf::from(path);
        let disk = match Disk::open(&path, DiskMode::Exclusive, &self.d.env, &self.res) {
            Ok(disk) => disk,
            Err(e) => {
                self.disk_error(e.errno())?;
                return Err(e.into());
            }
        };
        let have = disk.size().context("size of the disk")?;
        let need = snap.number(&Key::Size(self.res.clone())).unwrap_or(0);
        if have < need {
            self.disk_error(libc::ENOSPC)?;
            anyhow::bail!(
                "disk {} has {have} bytes, the resource needs {need}",
                path.display()
            );
        }
        let mut b = Batch::new();
        b.set_if_changed(Key::ActSize(self.res.clone(), me), have);
        self.tree.commit(&b)?;
        let raw = Arc::new(disk);
        self.raw = Some(Arc::clone(&raw));
        self.disk = Some((self.wrap)(raw));
        Ok(())
    }

    fn actual(&self, name: &str) -> Key {
        Key::Actual(self.res.clone(), self.d.env.host.clone(), name.into())
    }

    fn publish_state(&self, replaying: bool) -> anyhow::Result<()> {
        let mut b = Batch::new();
        b.set_if_changed(self.actual("is-replaying"), u8::from(replaying));
        if !replaying {
            b.set_if_changed(self.actual("ops-replay_rate"), 0);
            b.set_if_changed(self.actual("amount-replay_rate"), 0);
        } else if self.damage.is_none() && self.last_error.is_empty() {
            // Not while a log that cannot be read is tried again and again.
            b.set_if_changed(self.actual("replay-code"), 0);
        }
        self.tree.commit(&b)?;
        Ok(())
    }

    fn publish_code(&self, code: &str) -> anyhow::Result<()> {
        let mut b = Batch::new();
        b.set_if_changed(self.actual("replay-code"), code);
        self.tree.commit(&b)?;
        Ok(())
    }

    fn disk_error(&mut self, errno: i32) -> anyhow::Result<()> {
        let mut b = Batch::new();
        b.set_if_changed(self.actual("disk-error"), -errno);
        self.tree.commit(&b)?;
        if std::mem::replace(&mut self.disk_errno, errno) != errno {
            if errno == 0 {
                events::disk_ok(&self.res);
            } else {
                let e = std::io::Error::from_raw_os_error(errno);
                events::disk_error(&self.res, &format!("the disk cannot be used: {e}"));
            }
        }
        Ok(())
    }

    fn publish_live(&self, log: &LogName, pos: u64, dirty: u64) {
        let (ops_rate, amount_rate) = self.rates.current();
        self.page.publish(&ReplayLive {
            log_nr: u64::from(log.nr),
            pos,
            dirty,
            bytes: self.rates.total_bytes(),
            ops_rate,
            amount_rate,
        });
    }

    fn report_rates(&mut self) -> anyhow::Result<()> {
        let Some((ops, kib)) = self.rates.tick(Instant::now()) else {
            return Ok(());
        };
        let mut b = Batch::new();
        b.set_if_changed(self.actual("ops-replay_rate"), ops);
        b.set_if_changed(self.actual("amount-replay_rate"), kib);
        self.tree.commit(&b)?;
        Ok(())
    }

    /// Says in the tree why replay is blocked, and that it no longer is.
    fn tell(&mut self, name: &str) -> anyhow::Result<()> {
        if self.message.as_deref() == Some(name) {
            return Ok(());
        }
        self.message_done()?;
        if name.starts_with("err-") {
            tracing::warn!("cannot switch to the next log: {name}");
        }
        let text = MessageValue::Text {
            real: mars_tree::Stamp::real_time(),
            lamport: self.tree.clock().now(),
            text: "cannot switch to the next log".into(),
        };
        let mut b = Batch::new();
        b.set(self.actual(&format!("msg-{name}")), text);
        self.tree.commit(&b)?;
        self.message = Some(name.to_string());
        Ok(())
    }

    fn message_done(&mut self) -> anyhow::Result<()> {
        if let Some(old) = self.message.take() {
            let mut b = Batch::new();
            b.set_if_changed(self.actual(&format!("msg-{old}")), MessageValue::Ok);
            self.tree.commit(&b)?;
        }
        Ok(())
    }

    /// Once per kind of trouble into the journal; always into the status.
    fn complain(&mut self, what: &str) {
        self.d.status(what);
        if self.last_error != what {
            tracing::warn!("{what}");
            what.clone_into(&mut self.last_error);
        }
    }
}
