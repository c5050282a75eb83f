//! `mars-sync RESOURCE`: makes the own disk equal to the primary's, then ends.
use crate::copy;
use crate::relevant::is_relevant;
use anyhow::Context;
use mars_daemon::{Control, Daemon, InstanceLock, Once, events, peer_left, spawn};
use mars_disk::{CopyLock, Disk, DiskMode};
use mars_live::LivePage;
use mars_policy::{SyncHold, SyncPlan, View, sync_plan, sync_source_key};
use mars_tree::{Batch, HostEnv, HostName, Key, ResName, Stamp, Tree, Watcher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(20);
/// A host whose metadata is older counts as dead.
const WINDOW: Duration = Duration::from_secs(60);

/// Everything the client works with.
pub struct Client<'a> {
    /// Surroundings.
    pub d: &'a Daemon,
    /// Tree of this host.
    pub tree: Tree,
    /// Resource.
    pub res: ResName,
    /// Interruptions.
    pub ctl: Arc<Control>,
    /// Live page.
    pub page: LivePage,
    /// Between replay and us.
    pub lock: CopyLock,
    complaints: Once,
    /// The beginning was said.
    begun: Once,
}

fn plan(env: &HostEnv, tree: &Tree, res: &ResName) -> anyhow::Result<Result<SyncPlan, SyncHold>> {
    // All resources: the limit of parallel syncs needs them.
    let snap = tree.snapshot()?;
    let view = View {
        snap: &snap,
        me: &env.host,
        local: &env.host,
        now: tree.clock().now(),
        window: WINDOW,
        engine_running: true,
    };
    Ok(sync_plan(&view, res))
}

/// Is the sync that was begun (its source is noted in the tree) still what the plan wants?
pub fn is_wanted(env: &HostEnv, tree: &Tree, res: &ResName) -> anyhow::Result<bool> {
    let from = tree.text(&sync_source_key(res, &env.host))?;
    Ok(plan(env, tree, res)?.is_ok_and(|p| from.as_deref() == Some(p.source.as_str())))
}

/// Runs until the sync is finished, not for us any more, or stopped.
pub fn run(d: &Daemon, res: ResName) -> anyhow::Result<()> {
    let _lock = InstanceLock::acquire(&d.env, "sync", Some(&res))?;
    let tree = Tree::open(&d.env)?;
    // Watched before the first look: nothing falls between.
    let watcher = Watcher::resource(&tree, &res)?;
    let ctl = Arc::new(Control::default());
    let on_stop = Arc::clone(&ctl);
    d.stop.on_set(move || on_stop.stop());
    let mut client = Client {
        page: LivePage::open(&d.env.run_dir, res.as_str())?,
        lock: CopyLock::open(&d.env, &res)?,
        d,
        tree,
        res,
        ctl,
        complaints: Once::default(),
        begun: Once::default(),
    };
    client.start_watcher(watcher)?;
    d.ready();
    let result = client.work();
    let mut b = Batch::new();
    b.set_if_changed(client.actual("is-syncing"), 0);
    b.set_if_changed(client.actual("ops-sync_rate"), 0);
    b.set_if_changed(client.actual("amount-sync_rate"), 0);
    client.tree.commit(&b)?;
    if !client.ctl.stopped() {
        // Ended by itself: the units that should run may be others now.
        d.env.request_reconcile().ok();
    }
    result
}

impl Client<'_> {
    fn start_watcher(&self, watcher: Watcher) -> anyhow::Result<()> {
        let (env, tree, res) = (self.d.env.clone(), self.tree.clone(), self.res.clone());
        let (ctl, stop) = (Arc::clone(&self.ctl), self.d.stop.clone());
        spawn("watch", move || {
            let unwanted = || Ok(!is_wanted(&env, &tree, &res)?);
            let relevant = |path: &str| is_relevant(path, &res, env.host.as_str());
            if let Err(e) = ctl.watch(watcher, relevant, unwanted) {
                tracing::error!("watching the tree: {e:#}");
                stop.set();
            }
        })?;
        Ok(())
    }

    fn work(&mut self) -> anyhow::Result<()> {
        use SyncHold::{Detached, Finished, Limit, NotMember, Paused, Primary};
        let mut backoff = BACKOFF_MIN;
        while !self.ctl.stopped() {
            let seen = self.ctl.changes();
            match plan(&self.d.env, &self.tree, &self.res)? {
                Ok(p) => match self.sync(&p) {
                    Ok(()) => backoff = BACKOFF_MIN,
                    Err(e) if self.ctl.stopped() || self.ctl.changes() != seen => {
                        // Interrupted, most likely; the plan will tell.
                        tracing::debug!("{e:#}");
                        self.ctl.pause(BACKOFF_MIN);
                    }
                    Err(e) => {
                        self.complain(&e);
                        self.ctl.pause(backoff);
                        backoff = (backoff * 2).min(BACKOFF_MAX);
                    }
                },
                Err(hold @ (Finished | NotMember | Primary | Paused | Detached | Limit)) => {
                    self.d.status(&hold.to_string());
                    tracing::info!("sync of {} ends: {hold}", self.res);
                    return Ok(());
                }
                Err(hold) => {
                    self.d.status(&hold.to_string());
                    let mut b = Batch::new();
                    b.set_if_changed(self.actual("is-syncing"), 0);
                    self.tree.commit(&b)?;
                    self.ctl.wait_change(seen, None);
                }
            }
        }
        Ok(())
    }

    /// Once per kind of trouble into the journal; always into the status. That the source stopped is ordinary.
    fn complain(&mut self, e: &anyhow::Error) {
        let left = peer_left(e);
        let line = left.map_or_else(|| format!("{e:#}"), |why| format!("{e}: {why}"));
        self.d.status(&line);
        if self.complaints.first(&line) {
            if left.is_some() {
                tracing::info!("{line}");
            } else {
                tracing::warn!("{line}");
            }
        }
    }

    /// A key of `actual-ME/`.
    pub fn actual(&self, name: &str) -> Key {
        Key::Actual(self.res.clone(), self.me().clone(), name.into())
    }

    /// This host.
    pub fn me(&self) -> &HostName {
        &self.d.env.host
    }

    fn sync(&mut self, p: &SyncPlan) -> anyhow::Result<()> {
        let disk = self.open_disk(p)?;
        self.begin(p)?;
        let what = format!(
            "from {}, {} of {} bytes are there",
            p.source, p.from, p.size
        );
        if self.begun.first(p.source.as_str()) {
            events::sync_started(&self.res, Some(&p.source), &what);
        }
        let from = if p.from < p.size { p.from } else { 0 };
        copy::copy(self, p, &disk, from)?;
        self.complaints.clear();
        self.finish(p)
    }

    fn open_disk(&self, p: &SyncPlan) -> anyhow::Result<Disk> {
        let path = self
            .tree
            .text(&Key::Data(self.res.clone(), self.me().clone()))?
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
        if have < p.size {
            self.disk_error(libc::ENOSPC)?;
            anyhow::bail!(
                "disk {} has {have} bytes, the resource needs {}",
                path.display(),
                p.size
            );
        }
        let mut b = Batch::new();
        b.set_if_changed(Key::ActSize(self.res.clone(), self.me().clone()), have);
        self.tree.commit(&b)?;
        self.disk_error(0)?;
        Ok(disk)
    }

    /// Says in the tree how the own disk is.
    pub fn disk_error(&self, errno: i32) -> anyhow::Result<()> {
        let mut b = Batch::new();
        b.set_if_changed(self.actual("disk-error"), -errno);
        self.tree.commit(&b)?;
        if errno != 0 {
            let e = std::io::Error::from_raw_os_error(errno);
            events::disk_error(&self.res, &format!("the disk cannot be used: {e}"));
        }
        Ok(())
    }

    /// Notes the source before anything of it is written: what comes from it must not be continued from another one.
    fn begin(&self, p: &SyncPlan) -> anyhow::Result<()> {
        let mut b = Batch::new();
        b.set_if_changed(Key::SyncStatus(self.res.clone(), self.me().clone()), p.from);
        b.set_if_changed(sync_source_key(&self.res, self.me()), &p.source);
        b.set_if_changed(self.actual("is-syncing"), 1);
        self.tree.commit(&b)?;
        Ok(())
    }

    /// The end by transaction-log.md 4.1 rule 3: only a replay position that the primary published after all blocks were read tells up to
    /// where this disk must replay.
    fn finish(&self, p: &SyncPlan) -> anyhow::Result<()> {
        self.d
            .status(&format!("all blocks are equal, waiting for {}", p.source));
        let after = self.tree.clock().tick(Stamp::ZERO);
        std::fs::write(self.d.env.run_dir.join("meta.ping"), format!("{after}\n"))
            .context("asking mars-meta for a ping")?;
        let alive = Key::HostActual(p.source.clone(), "alive".into());
        loop {
            let seen = self.ctl.changes();
            if self.ctl.stopped() {
                return Ok(());
            }
            let stamp = self.tree.read(&alive)?.map(|l| l.stamp);
            if stamp.is_some_and(|s| s >= after) {
                break;
            }
            match plan(&self.d.env, &self.tree, &self.res)? {
                Ok(now) if now.source == p.source && now.size == p.size => {}
                // Something else is wanted now.
                _ => return Ok(()),
            }
            self.ctl.wait_change(seen, None);
        }
        let theirs = self
            .tree
            .text(&Key::Replay(self.res.clone(), p.source.clone()))?
            .context("the replay position of the primary is unknown")?;
        let mut b = Batch::new();
        b.set(Key::SyncPos(self.res.clone(), self.me().clone()), theirs);
        b.set(Key::SyncStatus(self.res.clone(), self.me().clone()), p.size);
        b.delete(sync_source_key(&self.res, self.me()));
        b.set_if_changed(self.actual("is-syncing"), 0);
        // A resize or a new primary in this very moment: the next plan decides.
        let (res, me) = (self.res.clone(), self.me().clone());
        let (source, size) = (p.source.clone(), p.size);
        self.tree.commit_if(&b, move |snap| {
            snap.number(&Key::Size(res.clone())) == Some(size)
                && snap.host(&Key::Primary(res.clone())).as_ref() == Some(&source)
                && snap.text(&sync_source_key(&res, &me)) == Some(source.as_str())
        })?;
        let what = format!("{} bytes are equal to those of {}", p.size, p.source);
        events::sync_finished(&self.res, Some(&p.source), &what);
        Ok(())
    }
}
