//! The rim: what commands may do to the outside. Plans are pure; this commits them, asks for reconciling, pings and waits.
use crate::cli::Options;
use crate::error::{CmdError, Done, refuse};
use crate::peers::without_deleted;
use crate::progress::{Progress, REDRAW, Work};
use crate::templates::generate;
use crate::{out, reconcile};
use mars_policy::{View, split_brain};
use mars_tree::{
    Batch, HostEnv, HostName, Key, ResName, Snapshot, Stamp, Tree, TreeEvent, UnitManager, Watcher,
};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::cell::Cell;
use std::collections::BTreeSet;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::time::{Duration, Instant};

/// Generic default of `--timeout` (marsadm-commands.md 1.2).
pub const TIMEOUT_SECS: u64 = 600;
/// Default for `wait-cluster`, `wait-connect` and joining.
pub const TIMEOUT_CLUSTER_SECS: u64 = 30;
/// Default for `wait-resource`.
pub const TIMEOUT_RESOURCE_SECS: u64 = 60;
/// A host that looked dead gets this long to answer a ping before it is given up.
const DEAD_GRACE: Duration = Duration::from_secs(5);

/// How far a condition is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum State {
    /// It holds.
    Done,
    /// Not yet; what is missing.
    Waiting(String),
    /// It never will; why.
    Never(String),
}

/// `Done` when the condition holds, otherwise waiting for it.
pub fn until(holds: bool, missing: impl FnOnce() -> String) -> State {
    if holds {
        State::Done
    } else {
        State::Waiting(missing())
    }
}

/// Everything a command works with.
pub struct Ctx {
    /// Where this host lives.
    pub env: HostEnv,
    /// The tree.
    pub tree: Tree,
    /// Options.
    pub opts: Options,
    /// The acting host.
    pub me: HostName,
    /// A unit could not be started or stopped.
    pub unit_failed: Cell<bool>,
}

impl Ctx {
    /// Is `mars-meta` running on this machine?
    pub fn engine_running(&self) -> bool {
        mars_daemon::is_running(&self.env, "meta", None)
    }

    /// Is the acting host this machine?
    pub fn is_local(&self) -> bool {
        self.me == self.env.host
    }

    /// The same for another thread.
    pub fn again(&self) -> Ctx {
        Ctx {
            env: self.env.clone(),
            tree: self.tree.clone(),
            opts: self.opts.clone(),
            me: self.me.clone(),
            unit_failed: Cell::new(false),
        }
    }

    /// The tree now.
    pub fn snapshot(&self) -> Done<Snapshot> {
        Ok(self.tree.snapshot()?)
    }

    /// The tree as decisions count it: with `--ignore-deleted-peers=2` without members that have left the cluster.
    pub fn counted(&self) -> Done<Snapshot> {
        let snap = self.snapshot()?;
        Ok(match self.opts.ignore_deleted_peers {
            0 | 1 => snap,
            _ => without_deleted(&snap).unwrap_or(snap),
        })
    }

    /// The tree as reports count it: without members that have left the cluster. Unless that would hide a split brain.
    pub fn reported(&self) -> Done<Snapshot> {
        let snap = self.snapshot()?;
        let less = match self.opts.ignore_deleted_peers {
            0 => None,
            _ => without_deleted(&snap),
        };
        let Some(less) = less else {
            return Ok(snap);
        };
        let split = |s: &Snapshot, res: &ResName| split_brain(&self.view(s), res).is_some();
        let same = |res: &ResName| split(&snap, res) == split(&less, res);
        let hides = self.opts.ignore_deleted_peers == 1 && !snap.resources().iter().all(same);
        Ok(if hides { snap } else { less })
    }

    /// Where `merge-cluster` and `split-cluster` save old links. It is made here.
    pub fn backup_dir(&self) -> Done<std::path::PathBuf> {
        let dir = self.opts.backup_dir.clone().unwrap_or_else(|| {
            let secs = self.tree.clock().now().secs();
            self.env.root.join(format!("backups-{secs}"))
        });
        if self.opts.dry_run {
            out::say(format!("would make {}", dir.display()));
            return Ok(dir);
        }
        let made = std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&dir);
        match made {
            Ok(()) => Ok(dir),
            Err(e) => refuse(format!("--backup-dir={}: {e}", dir.display())),
        }
    }

    /// A snapshot as the policy wants it.
    pub fn view<'a>(&'a self, snap: &'a Snapshot) -> View<'a> {
        View {
            snap,
            me: &self.me,
            local: &self.env.host,
            now: self.tree.clock().now(),
            window: self.opts.window,
            engine_running: self.engine_running(),
        }
    }

    /// Writes a batch, or only says so with `--dry-run`. Returns its stamp.
    pub fn commit(&self, batch: &Batch) -> Done<Stamp> {
        if self.opts.dry_run || self.opts.verbose > 0 {
            for line in batch.describe() {
                out::say(line);
            }
        }
        if self.opts.dry_run || batch.is_empty() {
            return Ok(self.tree.clock().now());
        }
        Ok(self.tree.commit(batch)?)
    }

    /// Brings the units of this machine in line with the tree. Failures of units are warnings here.
    pub fn reconcile(&self) -> Done {
        if self.opts.dry_run {
            out::say("would compare the wanted units with the running ones");
            return Ok(());
        }
        let report = reconcile::run(self, reconcile::Mode::Normal)?;
        self.tell(&report);
        if self.opts.systemd_enable
            && crate::stack::any_controlled(&self.snapshot()?, &self.env.host)
        {
            // Stacks are moved by one process per host only, which others do not wait for.
            self.trigger();
        }
        Ok(())
    }

    /// Generates the unit instances of this machine: those of one resource, or (removing what nobody needs any more) of all. What fails
    /// is a warning: units of the administrator never make a command fail that is about the resource.
    pub fn instances(&self, only: Option<&ResName>) {
        if !self.opts.systemd_enable || self.env.unit_manager != UnitManager::Systemd {
            return;
        }
        let mut report = reconcile::Report::default();
        match mars_units::manager(&self.env) {
            Ok(m) => generate(self, m.as_ref(), only, self.opts.force, &mut report),
            Err(e) => report.errors.push(e.to_string()),
        }
        self.tell(&report);
    }

    /// Asks the reconciler of this host to look, without waiting for it. It may not be there yet; then it looks when it starts.
    pub fn trigger(&self) {
        if self.opts.dry_run {
            out::say(format!("would touch {}", self.env.trigger_file().display()));
        } else if let Err(e) = self.env.request_reconcile() {
            out::warn(format!("{}: {e}", self.env.trigger_file().display()));
        }
    }

    /// The same, when `host` is this machine; other hosts are triggered by the links that they get.
    pub fn trigger_if_local(&self, host: &HostName) {
        if *host == self.env.host {
            self.trigger();
        }
    }

    /// The last line of a command that succeeded.
    pub fn result(&self, line: impl AsRef<str>) {
        if self.opts.dry_run {
            out::say("nothing has been changed (--dry-run)");
        } else {
            out::say(line);
        }
    }

    /// Prints what a run of the reconciler did.
    pub fn tell(&self, report: &reconcile::Report) {
        for line in &report.done {
            if self.opts.verbose > 0 || self.opts.dry_run {
                out::say(line);
            }
        }
        for line in &report.errors {
            self.unit_failed.set(true);
            out::warn(line);
        }
    }

    /// Asks all peers for a fresh sign of life and their newest state.
    pub fn ping(&self) -> Done {
        if self.opts.dry_run {
            return Ok(());
        }
        let path = self.env.run_dir.join("meta.ping");
        std::fs::write(&path, format!("{}\n", self.tree.clock().now()))
            .map_err(|e| CmdError::Failed(format!("{}: {e}", path.display())))
    }

    /// Waits for a condition on the tree, woken by inotify and by signals on the bus. `recheck`: the condition also depends on time; look again that often.
    pub fn wait_full(
        &self,
        res: Option<&ResName>,
        what: &str,
        limit: Option<Duration>,
        recheck: Option<Duration>,
        mut check: impl FnMut(&View<'_>) -> State,
    ) -> Done {
        // The watch comes before the first look, so that nothing falls between them.
        let mut watcher = match res {
            Some(res) => Watcher::resource(&self.tree, res)?,
            None => Watcher::tree(&self.tree)?,
        };
        let start = Instant::now();
        let mut told = false;
        let mut signals = None;
        let progress = Progress::new();
        loop {
            let snap = match res {
                Some(res) => self.tree.snapshot_of(res)?,
                None => self.tree.snapshot()?,
            };
            let detail = match check(&self.view(&snap)) {
                State::Done => return Ok(()),
                // What would have to happen first has not happened.
                _ if self.opts.dry_run => {
                    out::say(format!("would wait until {what}"));
                    return Ok(());
                }
                State::Never(why) => return refuse(why),
                State::Waiting(detail) => detail,
            };
            let left = limit.map(|l| l.saturating_sub(start.elapsed()));
            if left == Some(Duration::ZERO) {
                return Err(CmdError::Timeout(format!(
                    "timeout after {} s waiting until {what}: {detail}",
                    start.elapsed().as_secs()
                )));
            }
            if !told {
                out::say(format!("waiting until {what}"));
                told = true;
                // Wakes once when it listens, so nothing falls between here, either. Without it inotify has to do.
                let path = res.map(|r| mars_bus::resource_path(r.as_str()));
                let path = path.as_deref().unwrap_or(mars_bus::ROOT_PATH);
                signals = mars_bus::SignalWatch::new(path).ok();
            }
            let mut redraw = None;
            if progress.is_shown() {
                let mut snap = snap;
                mars_facts::refresh(&self.env, &mut snap, self.tree.clock().now());
                let work = res.and_then(|r| Work::of(&self.view(&snap), r));
                progress.show(what, &detail, work, left);
                redraw = Some(REDRAW);
            }
            let nap = [left, recheck, redraw].into_iter().flatten().min();
            sleep(&mut watcher, signals.as_ref(), nap)?;
        }
    }

    /// Waits for a condition on one resource, with the default limit of `default_secs`.
    pub fn wait(
        &self,
        res: &ResName,
        what: &str,
        default_secs: u64,
        check: impl FnMut(&View<'_>) -> State,
    ) -> Done {
        self.wait_full(Some(res), what, self.opts.limit(default_secs), None, check)
    }

    /// Pings `peers` and waits until each has answered after the start. Returns those that count as dead; not answering in time
    /// without counting as dead is a timeout.
    pub fn wait_peers(&self, peers: &BTreeSet<HostName>, default_secs: u64) -> Done<Vec<HostName>> {
        // With --host, this machine is among the acting host's peers; it need not ask itself.
        let peers: BTreeSet<&HostName> = peers.iter().filter(|p| **p != self.env.host).collect();
        if peers.is_empty() {
            return Ok(Vec::new());
        }
        if self.opts.dry_run {
            out::say("would ask all peers for a sign of life");
            return Ok(Vec::new());
        }
        if !self.engine_running() {
            return refuse(format!(
                "mars-meta is not running on host {}, so no other host can be asked; run marsadm start",
                self.env.host
            ));
        }
        let start = self.tree.clock().tick(Stamp::ZERO);
        self.ping()?;
        let limit = self.opts.limit(default_secs);
        let grace = limit.map_or(DEAD_GRACE, |l| l.min(DEAD_GRACE));
        let began = Instant::now();
        let mut dead = Vec::new();
        let names: Vec<&str> = peers.iter().map(|p| p.as_str()).collect();
        self.wait_full(
            None,
            &format!("{} answered", names.join(", ")),
            limit,
            Some(grace),
            |v| {
                let silent: Vec<&HostName> = peers
                    .iter()
                    .copied()
                    .filter(|p| peer_time(v.snap, p).is_none_or(|t| t <= start))
                    .collect();
                if silent.is_empty() {
                    dead.clear();
                    return State::Done;
                }
                let (gone, slow): (Vec<&HostName>, Vec<&HostName>) = silent
                    .into_iter()
                    .partition(|p| looks_dead(v, p, v.window / 2));
                if slow.is_empty() && began.elapsed() >= grace {
                    dead = gone.into_iter().cloned().collect();
                    return State::Done;
                }
                let missing: Vec<&str> = slow.iter().chain(&gone).map(|h| h.as_str()).collect();
                State::Waiting(format!("no answer yet from {}", missing.join(", ")))
            },
        )?;
        Ok(dead)
    }
}

/// Sleeps until the tree changes or `mars-meta` signals a change on the bus.
fn sleep(
    watcher: &mut Watcher,
    signals: Option<&mars_bus::SignalWatch>,
    nap: Option<Duration>,
) -> Done {
    let timeout = match nap {
        None => PollTimeout::NONE,
        // Rounded up, or the rest would be a spin.
        Some(d) => i32::try_from(d.as_millis().saturating_add(1))
            .ok()
            .and_then(|ms| PollTimeout::try_from(ms).ok())
            .unwrap_or(PollTimeout::MAX),
    };
    {
        let mut fds = vec![PollFd::new(watcher.fd(), PollFlags::POLLIN)];
        fds.extend(signals.map(|s| PollFd::new(s.as_fd(), PollFlags::POLLIN)));
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(e) => return Err(CmdError::Failed(format!("cannot wait: {e}"))),
        }
    }
    if let Some(s) = signals {
        s.clear();
    }
    match watcher.wait(Some(Duration::ZERO))? {
        TreeEvent::Changed(_) | TreeEvent::Rescan | TreeEvent::Timeout => Ok(()),
    }
}

/// Value of `actual-HOST/time`.
pub fn peer_time(snap: &Snapshot, host: &HostName) -> Option<Stamp> {
    snap.text(&Key::HostActual(host.clone(), "time".into()))?
        .parse()
        .ok()
}

/// Is the last sign of life of `host` older than `age` (or missing)?
pub fn looks_dead(v: &View<'_>, host: &HostName, age: Duration) -> bool {
    peer_time(v.snap, host).is_none_or(|t| v.now.since(t) > age)
}
