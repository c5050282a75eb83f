//! `mars-fetch RESOURCE`: brings the next log that is needed, for ever.
use crate::facts;
use crate::local::{Copy, open_copy};
use crate::peer::{Ended, Gone, Peer};
use crate::relevant::is_relevant;
use anyhow::Context;
use mars_daemon::{Control, Daemon, InstanceLock, Once, amount, peer_left, spawn};
use mars_live::LivePage;
use mars_policy::{FetchHold, FetchPlan, View, fetch_plan};
use mars_tree::{Batch, HostEnv, HostName, Key, LogName, ResName, Snapshot, Stamp, Tree, Watcher};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Pauses after all sources failed.
const BACKOFF_MIN: Duration = Duration::from_millis(250);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Pauses between two fetches of a damaged log.
const ANEW_MIN: Duration = Duration::from_secs(2);
const ANEW_MAX: Duration = Duration::from_secs(300);
/// A host whose metadata is older counts as dead.
const WINDOW: Duration = Duration::from_secs(60);

/// The status text changes at most so often.
const TELL: Duration = Duration::from_secs(1);

/// For people. `total`: what was known when the fetch began; the log may have grown since.
fn status_line(log: &LogName, host: &HostName, have: u64, total: u64, kib: u64) -> String {
    let amount = if have < total {
        amount::progress(have, total, kib)
    } else {
        amount::bytes(have) + &amount::rate(kib)
    };
    format!("fetching {log} from {host}: {amount}")
}

/// Shared with the watching thread.
type Noted<T> = Arc<Mutex<Option<T>>>;

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
    /// Local file.
    pub copy: Arc<Copy>,
    /// What is being fetched, for the watcher.
    target: Noted<Target>,
    peer: Option<Peer>,
    /// A log that ended at this length, according to its source.
    ended: Option<(LogName, u64)>,
    /// The finding of damage that was handled last, and when the next one may be.
    handled: Noted<Stamp>,
    anew_pause: Duration,
    anew_at: Instant,
    complaints: Once,
}

/// Decides on a snapshot.
pub fn plan(
    env: &HostEnv,
    tree: &Tree,
    snap: &Snapshot,
    res: &ResName,
) -> Result<FetchPlan, FetchHold> {
    let view = View {
        snap,
        me: &env.host,
        local: &env.host,
        now: tree.clock().now(),
        window: WINDOW,
        engine_running: true,
    };
    fetch_plan(&view, res)
}

/// Is this log (still) the one to fetch, and the same source the best one?
fn is_wanted(env: &HostEnv, tree: &Tree, res: &ResName, target: &Target) -> anyhow::Result<bool> {
    let snap = tree.snapshot_of(res)?;
    Ok(plan(env, tree, &snap, res).is_ok_and(|p| Target::of(&p) == *target))
}

/// What is being fetched, and from whom best.
#[derive(Clone, PartialEq, Eq)]
struct Target {
    log: LogName,
    first: Option<HostName>,
}

impl Target {
    fn of(p: &FetchPlan) -> Target {
        Target {
            log: p.log.clone(),
            first: p.sources.first().map(|(h, _)| h.clone()),
        }
    }
}

/// Has replay found damage that nothing was done about yet? Then the copy is not worth being continued.
fn is_damaged(
    env: &HostEnv,
    tree: &Tree,
    res: &ResName,
    handled: &Mutex<Option<Stamp>>,
) -> anyhow::Result<bool> {
    let snap = tree.snapshot_of(res)?;
    let found = facts::damaged_log(&snap, res, &env.host).map(|(_, _, stamp)| stamp);
    Ok(found.is_some() && found != *handled.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Runs until stopped.
pub fn run(d: &Daemon, res: ResName) -> anyhow::Result<()> {
    let _lock = InstanceLock::acquire(&d.env, "fetch", Some(&res))?;
    let tree = Tree::open(&d.env)?;
    // Watched before the first look: nothing falls between.
    let watcher = Watcher::resource(&tree, &res)?;
    let ctl = Arc::new(Control::default());
    let copy = Arc::new(Copy::new(LivePage::open(&d.env.run_dir, res.as_str())?));
    let target: Noted<Target> = Arc::default();

    let on_stop = Arc::clone(&ctl);
    d.stop.on_set(move || on_stop.stop());
    let handled: Noted<Stamp> = Arc::default();
    start_watcher(d, &tree, &res, watcher, &ctl, &copy, (&target, &handled))?;
    start_syncer(d, &tree, &res, &copy)?;

    let mut client = Client {
        d,
        tree,
        res,
        ctl,
        copy,
        target,
        peer: None,
        ended: None,
        handled,
        anew_pause: ANEW_MIN,
        anew_at: Instant::now(),
        complaints: Once::default(),
    };
    d.ready();
    let result = client.work();
    // A consistent end in any case: what was received is durable and published.
    client.copy.close().ok();
    client.copy.end();
    client.publish_state(false)?;
    result
}

fn start_watcher(
    d: &Daemon,
    tree: &Tree,
    res: &ResName,
    watcher: Watcher,
    ctl: &Arc<Control>,
    copy: &Arc<Copy>,
    (target, handled): (&Noted<Target>, &Noted<Stamp>),
) -> anyhow::Result<()> {
    let (env, tree, res, stop) = (d.env.clone(), tree.clone(), res.clone(), d.stop.clone());
    let (ctl, copy) = (Arc::clone(ctl), Arc::clone(copy));
    let (target, handled) = (Arc::clone(target), Arc::clone(handled));
    spawn("watch", move || {
        let unwanted = || {
            let target = target
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone();
            target.map_or(Ok(false), |target| {
                Ok(!copy.is_current()
                    || !is_wanted(&env, &tree, &res, &target)?
                    || is_damaged(&env, &tree, &res, &handled)?)
            })
        };
        let relevant = |path: &str| is_relevant(path, &res, env.host.as_str());
        if let Err(e) = ctl.watch(watcher, relevant, unwanted) {
            tracing::error!("watching the tree: {e:#}");
            stop.set();
        }
    })?;
    Ok(())
}

fn start_syncer(d: &Daemon, tree: &Tree, res: &ResName, copy: &Arc<Copy>) -> anyhow::Result<()> {
    let (tree, res, me, copy) = (
        tree.clone(),
        res.clone(),
        d.env.host.clone(),
        Arc::clone(copy),
    );
    spawn("sync", move || {
        copy.sync_loop(|ops, kib| {
            let mut b = Batch::new();
            b.set_if_changed(actual(&res, &me, "ops-file_rate"), ops);
            b.set_if_changed(actual(&res, &me, "amount-file_rate"), kib);
            if let Err(e) = tree.commit(&b) {
                tracing::debug!("publishing rates: {e}");
            }
        });
    })?;
    Ok(())
}

fn actual(res: &ResName, me: &HostName, name: &str) -> Key {
    Key::Actual(res.clone(), me.clone(), name.into())
}

impl Client<'_> {
    fn work(&mut self) -> anyhow::Result<()> {
        let mut backoff = BACKOFF_MIN;
        while !self.ctl.stopped() {
            let seen = self.ctl.changes();
            let snap = self.tree.snapshot_of(&self.res)?;
            let plan = plan(&self.d.env, &self.tree, &snap, &self.res);
            let allowed = matches!(
                plan,
                Ok(_) | Err(FetchHold::NothingKnown | FetchHold::SplitBrain)
            );
            self.publish_state(allowed)?;
            if allowed && let Some(pause) = self.mend(&snap)? {
                self.ctl.wait_change(seen, Some(pause));
                continue;
            }
            match plan {
                Err(hold) => {
                    self.let_go();
                    self.d.status(&hold.to_string());
                    self.ctl.wait_change(seen, None);
                }
                Ok(p) if self.ended.as_ref() == Some(&(p.log.clone(), p.have)) => {
                    // The source says that this is all; the tree will tell what follows.
                    self.d.status("everything known is fetched");
                    self.ctl.wait_change(seen, Some(BACKOFF_MAX));
                    self.ended = None;
                }
                Ok(p) => match self.fetch(&p) {
                    Ok(()) => backoff = BACKOFF_MIN,
                    Err(e) if self.ctl.stopped() => tracing::debug!("{e:#}"),
                    Err(e) => {
                        self.complain(&e);
                        self.let_go();
                        self.ctl.pause(backoff);
                        backoff = (backoff * 2).min(BACKOFF_MAX);
                    }
                },
            }
        }
        Ok(())
    }

    /// Once per kind of trouble into the journal; always into the status. That a source stopped or does not have the log is
    /// ordinary.
    pub fn complain(&mut self, e: &anyhow::Error) {
        let left = peer_left(e);
        let line = left.map_or_else(|| format!("{e:#}"), |why| format!("{e}: {why}"));
        self.d.status(&line);
        if self.complaints.first(&line) {
            if left.is_some() || e.downcast_ref::<Gone>().is_some() {
                tracing::info!("{line}");
            } else {
                tracing::warn!("{line}");
            }
        }
    }

    /// Closes file and connection: nothing deleted may be kept open.
    fn let_go(&mut self) {
        self.set_target(None);
        self.hang_up();
        if let Err(e) = self.copy.close() {
            self.complain(&anyhow::Error::from(e).context("making the log durable"));
        }
    }

    fn set_target(&self, log: Option<Target>) {
        *self.target.lock().unwrap_or_else(PoisonError::into_inner) = log;
    }

    fn publish_state(&self, copying: bool) -> anyhow::Result<()> {
        let mut b = Batch::new();
        let me = &self.d.env.host;
        b.set_if_changed(actual(&self.res, me, "is-copying"), u8::from(copying));
        if !copying {
            for name in ["ops-file_rate", "amount-file_rate"] {
                b.set_if_changed(actual(&self.res, me, name), 0);
            }
        }
        self.tree.commit(&b)?;
        Ok(())
    }

    /// A connection to this host: the present one, or a new one.
    pub fn connect(&mut self, host: &HostName, ip: &str) -> anyhow::Result<&mut Peer> {
        let peer = match self.peer.take() {
            Some(p) if p.host == *host => p,
            _ => {
                self.ctl.set_conn(None);
                let silence = self.d.config().fetch_timeout(&self.res);
                let p = Peer::connect(&self.d.env, &self.tree, host, ip, silence)?;
                self.ctl.set_conn(Some(p.handle()?));
                p
            }
        };
        Ok(self.peer.insert(peer))
    }

    /// Drops the connection.
    pub fn hang_up(&mut self) {
        self.peer = None;
        self.ctl.set_conn(None);
    }

    fn fetch(&mut self, p: &FetchPlan) -> anyhow::Result<()> {
        let path = self.tree.path(&Key::Log(self.res.clone(), p.log.clone()));
        let file = open_copy(&path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut at = self.copy.start(&p.log, file)?;
        let target = Target::of(p);
        self.set_target(Some(target.clone()));
        let mut failed = None;
        for (i, (host, ip)) in p.sources.iter().enumerate() {
            if self.ctl.stopped() {
                break;
            }
            match self.stream(host, ip, &target, at, i == 0) {
                Ok(Ended::Complete(last)) => {
                    self.copy.complete()?;
                    at = self.copy.len();
                    if at > last {
                        tracing::warn!(
                            "{}: the local copy has {at} bytes, the source {last}",
                            p.log
                        );
                    }
                    self.ended = Some((p.log.clone(), at));
                    self.complaints.clear();
                    return Ok(());
                }
                // Better sources may be back, or something else is wanted now. The connection is in the middle of a stream.
                Ok(Ended::Again) => {
                    self.hang_up();
                    return Ok(());
                }
                Ok(Ended::Gone(why)) => {
                    failed = failed.or(Some(Gone(format!("{host}: {why}")).into()));
                }
                Err(e) => {
                    self.hang_up();
                    if self.copy.len() > at {
                        // It gave something: begin with the best source again.
                        self.complaints.clear();
                        return Ok(());
                    }
                    failed = failed.or(Some(e.context(format!("fetching {} from {host}", p.log))));
                }
            }
            // Interrupted, perhaps, because this log is not wanted any more: then no other source must be asked either.
            if !self.copy.is_current() || !self.wants(&target)? || self.is_damaged()? {
                return Ok(());
            }
        }
        Err(failed.unwrap_or_else(|| anyhow::anyhow!("{}: no source is known", p.log)))
    }

    fn is_damaged(&self) -> anyhow::Result<bool> {
        is_damaged(&self.d.env, &self.tree, &self.res, &self.handled)
    }

    fn wants(&self, target: &Target) -> anyhow::Result<bool> {
        is_wanted(&self.d.env, &self.tree, &self.res, target)
    }

    fn stream(
        &mut self,
        host: &HostName,
        ip: &str,
        target: &Target,
        at: u64,
        best: bool,
    ) -> anyhow::Result<Ended> {
        let kept = self.peer.as_ref().is_some_and(|p| p.host == *host);
        let result = self.stream_once(host, ip, target, at, best);
        if result.is_err() && kept && self.copy.len() == at && !self.ctl.stopped() {
            // A connection that was kept from the log before may have been cut meanwhile: that is no trouble of the source.
            self.hang_up();
            return self.stream_once(host, ip, target, at, best);
        }
        result
    }

    fn stream_once(
        &mut self,
        host: &HostName,
        ip: &str,
        target: &Target,
        at: u64,
        best: bool,
    ) -> anyhow::Result<Ended> {
        let log = &target.log;
        let (res, copy, d) = (self.res.clone(), Arc::clone(&self.copy), self.d);
        let tree = self.tree.clone();
        let handled = Arc::clone(&self.handled);
        let wanted = || {
            Ok(is_wanted(&d.env, &tree, &res, target)?
                && !is_damaged(&d.env, &tree, &res, &handled)?)
        };
        let (links, of) = (self.tree.clone(), self.res.clone());
        let known = move || -> anyhow::Result<u64> {
            let snap = links.snapshot_of(&of)?;
            Ok(snap
                .version(&of, log.nr, &log.host)
                .map_or(0, |v| v.head.len))
        };
        let total = known()?;
        let behind = || Ok(*host != log.host && known()? > copy.len());
        let peer = self.connect(host, ip)?;
        // A change during the connecting interrupted nothing.
        if !wanted()? {
            return Ok(Ended::Again);
        }
        d.status(&format!("fetching {log} from {host}"));
        peer.want(&res, log, at)?;
        let mut told = Instant::now();
        let tell = || {
            d.progress();
            if told.elapsed() >= TELL {
                told = Instant::now();
                d.status(&status_line(log, host, copy.len(), total, copy.rate()));
            }
        };
        peer.receive(best, behind, &copy, wanted, tell)
    }

    fn handled_at(&self) -> Option<Stamp> {
        *self.handled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fetches a log anew that replay found damaged. `Some` = nothing else should be done for so long.
    fn mend(&mut self, snap: &Snapshot) -> anyhow::Result<Option<Duration>> {
        let me = self.d.env.host.clone();
        let Some((log, pos, stamp)) = facts::damaged_log(snap, &self.res, &me) else {
            // It held: what comes later is another damage.
            if Instant::now() > self.anew_at + self.anew_pause {
                self.anew_pause = ANEW_MIN;
            }
            return Ok(None);
        };
        // The own new copy was not looked at yet.
        if self.handled_at() == Some(stamp) {
            return Ok(None);
        }
        let now = Instant::now();
        if now < self.anew_at {
            return Ok(Some(self.anew_at - now));
        }
        self.let_go();
        tracing::warn!("{log} is damaged behind position {pos}: fetching it again from the start");
        for (host, ip) in facts::sources(snap, &self.res, &log, &me) {
            match self.fetch_anew(&host, &ip, &log, pos) {
                Ok(()) => {
                    tracing::info!("{log} was replaced by the copy of {host}");
                    *self.handled.lock().unwrap_or_else(PoisonError::into_inner) = Some(stamp);
                    break;
                }
                Err(e) => {
                    self.hang_up();
                    self.complain(&e.context(format!("fetching {log} again from {host}")));
                }
            }
            if self.ctl.stopped() {
                break;
            }
        }
        self.anew_pause = (self.anew_pause * 2).min(ANEW_MAX);
        self.anew_at = Instant::now() + self.anew_pause;
        Ok((self.handled_at() != Some(stamp)).then_some(self.anew_pause))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn status_says_how_far_and_how_fast() {
        const MIB: u64 = 1 << 20;
        let log = "log-000000007-alpha".parse().unwrap();
        let host = "beta".parse().unwrap();
        let line = |have, total, kib| status_line(&log, &host, have, total, kib);
        assert_eq!(
            line(812 * MIB, 1020 * MIB, 96 << 10),
            "fetching log-000000007-alpha from beta: 812/1020 MiB, 96 MiB/s"
        );
        assert_eq!(
            line(30 * MIB, 20 * MIB, 0),
            "fetching log-000000007-alpha from beta: 30 MiB"
        );
    }
}
