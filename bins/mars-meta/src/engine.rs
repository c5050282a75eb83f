//! The one owner and the one loop: select what happened, apply it.
use crate::bus::Telling;
use crate::conn::{Event, Failure, SharedGate};
use crate::disks;
use crate::gate::Gate;
use crate::mesh::Mesh;
use crate::parting::Parting;
use crate::publish::{self, Limits, Space};
use crate::quiet::Quiet;
use crate::relevant::{Relevance, is_relevant_here, relevance};
use crate::runwatch::RunWatch;
use crate::spread::{ConnId, Spread, travels};
use crate::story::{self, Story};
use crate::sys;
use crate::trigger::Trigger;
use crate::unstored::Unstored;
use crate::wire::Message;
use anyhow::Context;
use mars_daemon::{Daemon, events};
use mars_net::VISITOR;
use mars_policy::merge::MERGED_PREFIX;
use mars_policy::split::{PARTING, SPLIT_PREFIX};
use mars_tree::{
    Applied, Batch, HostEnv, HostName, Key, RemoteLink, Stamp, Tree, TreeError, TreeEvent, Value,
    Watcher,
};
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};

mod clusters;
mod timers;

use timers::{Timers, at_latest, due};

/// Changes of the local tree within this time travel together.
const COALESCE: Duration = Duration::from_millis(5);
/// Without an answer from everybody, the host acts on what it knows after this time.
const SETTLE: Duration = Duration::from_secs(10);
/// Pings are answered with one heartbeat per this time at most.
const PONG_GAP: Duration = Duration::from_millis(20);
const RECONCILE_SOON: Duration = Duration::from_millis(50);
const RECONCILE_LAZY: Duration = Duration::from_secs(2);
/// Space and features are looked at this often; the emergency level at every heartbeat.
const LAZY_KEYS: Duration = Duration::from_secs(30);
/// Between two updates of `read-stamp` of one peer.
const READ_STAMP: Duration = Duration::from_secs(30);
/// Links that could not be stored are tried again after this time.
const RETRY: Duration = Duration::from_secs(5);
const RESCAN_RETRY: Duration = Duration::from_secs(1);
/// Last words at the end.
const FAREWELL: Duration = Duration::from_secs(1);
const EVENTS: usize = 64;

struct Engine<'a> {
    daemon: &'a Daemon,
    env: &'a HostEnv,
    tree: Tree,
    watcher: Watcher,
    spread: Spread,
    mesh: Mesh,
    gate: SharedGate,
    quiet: Quiet,
    trigger: Trigger,
    timers: Timers,
    /// Hosts whose whole tree arrived since the start.
    answered: BTreeSet<HostName>,
    settled: bool,
    read_stamps: BTreeMap<HostName, Instant>,
    last_beat: Option<Instant>,
    last_lazy: Option<Instant>,
    emergency: u8,
    /// Who belongs to the cluster changed since the last look.
    cluster_dirty: bool,
    parting: Parting,
    visitors: Rc<Cell<usize>>,
    events: mpsc::Sender<Event>,
    unstored: Unstored,
    story: Story,
    telling: Telling,
}

/// Runs until the daemon is told to stop.
pub async fn run(daemon: &Daemon) -> anyhow::Result<()> {
    let env = &daemon.env;
    let settled = env.run_dir.join("meta.settled");
    remove(&settled);
    let tree = Tree::open(env)?;
    // First watch, then read: nothing falls between.
    let watcher = Watcher::tree(&tree)?;
    let tree_fd = sys::readable(watcher.fd().try_clone_to_owned()?)?;
    let mut run_watch = RunWatch::new(&env.run_dir)
        .with_context(|| format!("cannot watch {}", env.run_dir.display()))?;
    let stop = Arc::new(Notify::new());
    let wake = stop.clone();
    daemon.stop.on_set(move || wake.notify_one());

    let (tx, mut events) = mpsc::channel(EVENTS);
    let gate = Rc::new(RefCell::new(Gate {
        me: env.host.clone(),
        uuid: None,
        members: BTreeMap::new(),
        removed: BTreeMap::new(),
        mergers: BTreeMap::new(),
        apart: BTreeSet::new(),
    }));
    let now = Instant::now();
    let telling = Telling::start(env, &tree);
    let mut e = Engine {
        daemon,
        env,
        mesh: Mesh::new(
            env.host.clone(),
            env.port,
            tree.clock().clone(),
            gate.clone(),
            tx.clone(),
        ),
        tree,
        watcher,
        spread: Spread::new(),
        gate,
        quiet: Quiet::default(),
        trigger: Trigger::start(env),
        timers: Timers {
            settle: Some(now + SETTLE),
            heartbeat: Some(now),
            ..Timers::default()
        },
        answered: BTreeSet::new(),
        settled: false,
        read_stamps: BTreeMap::new(),
        last_beat: None,
        last_lazy: None,
        emergency: 0,
        cluster_dirty: true,
        parting: Parting::default(),
        visitors: Rc::default(),
        events: tx,
        unstored: Unstored::default(),
        story: Story::default(),
        telling,
    };
    e.rescan();
    e.after_changes();
    daemon.ready();
    while !daemon.stop.is_set() {
        let next = e.timers.next();
        let timer = async {
            match next {
                Some(t) => tokio::time::sleep_until(t.into()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.notified() => break,
            Some(event) = events.recv() => e.on_event(event),
            r = tree_fd.readable() => {
                r?.clear_ready();
                at_latest(&mut e.timers.drain, Instant::now() + COALESCE);
            }
            r = run_watch.pinged() => if r? {
                e.ping_all();
            },
            () = timer => e.on_timer(),
        }
    }
    e.farewell(&mut events).await;
    remove(&settled);
    Ok(())
}

fn remove(path: &std::path::Path) {
    if let Err(e) = std::fs::remove_file(path)
        && e.kind() != std::io::ErrorKind::NotFound
    {
        tracing::warn!("{}: {e}", path.display());
    }
}

impl Engine<'_> {
    /// Logs a warning unless it was said lately.
    fn complain(&mut self, who: &str, what: &str) {
        if self.quiet.is_news(who, what, Instant::now()) {
            tracing::warn!("{who}: {what}");
        }
    }

    fn on_timer(&mut self) {
        let now = Instant::now();
        if due(&mut self.timers.rescan, now) {
            self.rescan();
        }
        if due(&mut self.timers.drain, now) {
            self.drain();
        }
        if due(&mut self.timers.heartbeat, now) {
            self.heartbeat(true);
            self.mesh
                .housekeeping(&mut self.spread, &mut self.quiet, now);
            self.daemon.progress();
        }
        if due(&mut self.timers.settle, now) {
            let missing = self.unanswered();
            if !missing.is_empty() {
                tracing::warn!(
                    "no answer from {missing} within {} s, going on without",
                    SETTLE.as_secs()
                );
            }
            self.settle();
        }
        if due(&mut self.timers.retry, now) {
            self.retry();
        }
        if due(&mut self.timers.parting, now) {
            self.part();
        }
        if due(&mut self.timers.sweep, now) {
            self.sweep(now);
        }
        if due(&mut self.timers.story, now) {
            match self.story.tell(&self.tree, &self.env.host, now) {
                Ok(Some(at)) => at_latest(&mut self.timers.story, at),
                Ok(None) => {}
                Err(e) => self.complain("tree", &e.to_string()),
            }
        }
        if due(&mut self.timers.reconcile, now)
            && let Err(e) = self.env.request_reconcile()
        {
            self.complain("trigger", &e.to_string());
        }
        self.after_changes();
    }

    fn on_event(&mut self, event: Event) {
        match event {
            Event::Received(conn, message) => self.received(conn, message),
            Event::Failed(who, Failure::Removed(at, why)) => self.removed(&who, at, &why),
            Event::Up {
                hello,
                dialled: false,
                stream,
            } if hello.uuid == VISITOR => self.visited(hello.host, stream),
            Event::Asked(host, request, reply) => {
                let answer = self.asked(&host, &request);
                // Who asked may be gone; asking again finds everything done.
                let _ = reply.send(answer);
            }
            other => self.mesh.on_event(other, &mut self.spread, &mut self.quiet),
        }
        self.after_changes();
    }

    // --- the local tree -------------------------------------------------------------------------------------------

    /// Takes over what changed on disk.
    fn drain(&mut self) {
        // Bounded, so that a busy writer does not keep us from the network.
        for _ in 0..64 {
            match self.watcher.wait(Some(Duration::ZERO)) {
                Ok(TreeEvent::Timeout) => return,
                Ok(TreeEvent::Changed(paths)) => {
                    self.telling.changed(&paths);
                    for p in &paths {
                        self.path_changed(p);
                    }
                }
                Ok(TreeEvent::Rescan) => {
                    self.telling.lost();
                    self.rescan();
                }
                Err(e) => {
                    self.complain("tree", &e.to_string());
                    at_latest(&mut self.timers.rescan, Instant::now() + RESCAN_RETRY);
                    return;
                }
            }
        }
        at_latest(&mut self.timers.drain, Instant::now() + COALESCE);
    }

    fn path_changed(&mut self, path: &str) {
        if path == "userspace/systemd-trigger" {
            self.trigger.fire();
        }
        if !travels(path) {
            return;
        }
        let link = match self.tree.read(&Key::parse(path)) {
            Ok(l) => l,
            Err(e) => {
                self.complain("tree", &e.to_string());
                return;
            }
        };
        let link = link.as_ref().map(|l| (l.value.as_bytes(), l.stamp));
        if self.spread.local(path, link) {
            self.note(path);
            self.consider_own(path);
        }
    }

    fn rescan(&mut self) {
        match self.tree.export() {
            Ok(mut links) => {
                links.retain(|l| travels(&l.path));
                for path in self.spread.rescan(links) {
                    self.note(&path);
                }
                self.trigger.fire();
            }
            Err(e) => {
                self.complain("tree", &e.to_string());
                at_latest(&mut self.timers.rescan, Instant::now() + RESCAN_RETRY);
            }
        }
    }

    fn note(&mut self, path: &str) {
        self.cluster_dirty |= path == "uuid"
            || path.starts_with("ips/")
            || path.starts_with(MERGED_PREFIX)
            || path.starts_with(SPLIT_PREFIX);
        let at = Instant::now() + PARTING;
        let is_apart = |h: &str| self.gate.borrow().apart.iter().any(|a| a.as_str() == h);
        if path.starts_with(SPLIT_PREFIX) {
            self.timers.parting = Some(at); // Counted from the last: a new order never profits from one that was taken back.
        } else if path.strip_prefix("ips/ip-").is_some_and(is_apart) {
            at_latest(&mut self.timers.parting, at);
        }
        if path.starts_with("defaults") {
            // What is used may be something else now; it is told with the next heartbeat.
            self.last_lazy = None;
        }
        if let Some(after) = self.story.changed(path) {
            at_latest(&mut self.timers.story, Instant::now() + after);
        }
    }

    /// After anything that may have changed the tree or the connections.
    fn after_changes(&mut self) {
        if std::mem::take(&mut self.cluster_dirty) {
            let uuid = self.spread.text("uuid").filter(|u| !u.is_empty());
            let ips = self.spread.texts_below("ips/ip-");
            let (mut gate, damaged) = Gate::new(self.env.host.clone(), uuid, ips);
            gate.note_removed(self.spread.tombstones_below("ips/ip-"));
            gate.note_mergers(self.spread.texts_below(MERGED_PREFIX));
            let parts = self.spread.texts_below(SPLIT_PREFIX);
            gate.note_apart(self.parting.apart(parts, &self.env.host));
            for d in damaged {
                self.complain("ignored", &d);
            }
            if gate != *self.gate.borrow() {
                *self.gate.borrow_mut() = gate;
                self.mesh.cluster_changed(&mut self.spread, &mut self.quiet);
            }
        }
        self.mesh.pump(&mut self.spread);
        if !self.settled && self.gate.borrow().uuid.is_some() {
            let all = self.unanswered().is_empty();
            if all {
                tracing::info!("all peers answered");
                self.settle();
            }
        }
        self.daemon.status(&self.mesh.status());
    }

    /// Peers whose whole tree did not arrive yet.
    fn unanswered(&self) -> String {
        let g = self.gate.borrow();
        let missing = g
            .members
            .keys()
            .filter(|h| **h != g.me && !self.answered.contains(*h));
        missing.map(|h| h.as_str()).collect::<Vec<_>>().join(", ")
    }

    /// All peers answered, or there was time enough.
    fn settle(&mut self) {
        self.timers.settle = None;
        if std::mem::replace(&mut self.settled, true) {
            return;
        }
        let path = self.env.run_dir.join("meta.settled");
        let text = format!("{}\n", self.tree.clock().now());
        if let Err(e) = std::fs::write(&path, text) {
            self.complain(&path.display().to_string(), &e.to_string());
        }
        at_latest(&mut self.timers.reconcile, Instant::now());
    }

    // --- own links ------------------------------------------------------------------------------------------------

    /// Publishes `time` and `alive` and, when it is time, the rest; then takes everything over that was written before.
    fn heartbeat(&mut self, alive: bool) {
        let now = Instant::now();
        at_latest(
            &mut self.timers.heartbeat,
            now + self.daemon.config().heartbeat(),
        );
        if self.gate.borrow().uuid.is_none() {
            return;
        }
        self.last_beat = Some(now);
        let env = self.env;
        let me = &env.host;
        let mut b = Batch::new();
        let limits = Limits::of(&self.daemon.config());
        let space = match Space::of(&env.root, limits) {
            Ok(s) => Some(s),
            Err(e) => {
                self.complain("free space", &e.to_string());
                None
            }
        };
        let mine = |spread: &Spread| story::own(spread, me);
        if let Some(s) = space {
            let before = self.emergency;
            self.emergency = s.emergency(before);
            let what = format!("{} of {} GiB are free", s.free >> 30, s.total >> 30);
            if self.emergency > before {
                events::space_low(&mine(&self.spread), self.emergency, &what);
            } else if self.emergency == 0 && before > 0 {
                events::space_ok(&mine(&self.spread), &what);
            }
        }
        b.set_if_changed(
            Key::HostActual(me.clone(), "emergency".into()),
            self.emergency,
        );
        if self
            .last_lazy
            .is_none_or(|t| now.duration_since(t) >= LAZY_KEYS)
        {
            self.last_lazy = Some(now);
            b.mkdir(format!("actual-{me}"));
            let g = self.gate.borrow();
            let features = g
                .members
                .keys()
                .filter_map(|h| self.spread.text(&format!("actual-{h}/features")));
            publish::lazy_keys(&mut b, me, &publish::usable(features));
            let members: Vec<HostName> = g.members.keys().cloned().collect();
            let wanted = publish::wanted(&self.daemon.config(), &mine(&self.spread));
            publish::used_keys(&mut b, &self.spread, me, &members, wanted);
        }
        if let Some(s) = space {
            let set = |b: &mut Batch, name: &str, gib: u64| {
                b.set_if_changed(Key::HostActual(me.clone(), name.to_string()), gib);
            };
            set(&mut b, "rest-space", s.rest_gib());
            set(&mut b, "total-space", s.total_gib());
        }
        disks::sizes(&mut b, &self.spread, me);
        // Larger than every stamp seen or issued so far: whoever asked for a sign of life after such a stamp gets one.
        let time = self.tree.clock().tick(Stamp::ZERO);
        b.set(Key::HostActual(me.clone(), "time".into()), time);
        b.set(Key::HostActual(me.clone(), "alive".into()), u8::from(alive));
        if let Err(e) = self.tree.commit(&b) {
            self.complain("heartbeat", &e.to_string());
        }
        self.drain();
    }

    /// Somebody waits for our heartbeat.
    fn pong(&mut self) {
        let now = Instant::now();
        match self.last_beat {
            Some(t) if now.duration_since(t) < PONG_GAP => {
                at_latest(&mut self.timers.heartbeat, t + PONG_GAP);
            }
            _ => {
                self.timers.heartbeat = None;
                self.heartbeat(true);
            }
        }
    }

    /// `RUN/meta.ping` was written: what was changed before it goes out first, then the ping.
    fn ping_all(&mut self) {
        self.drain();
        self.mesh.ping_all(&mut self.spread);
        self.pong();
        self.after_changes();
    }

    // --- remote links ---------------------------------------------------------------------------------------------

    fn received(&mut self, conn: ConnId, message: Message) {
        let Some(host) = self.mesh.host_of(conn) else {
            return;
        };
        self.tree.clock().observe(message.now());
        match message {
            Message::Idle { .. } => {}
            Message::Ping { .. } => self.pong(),
            Message::Links {
                now,
                complete,
                links,
            } => {
                self.apply_all(conn, &host, links);
                if complete {
                    self.read_stamp(&host, now);
                    self.answered.insert(host);
                }
            }
        }
    }

    /// Applies links in order.
    fn apply_all(&mut self, conn: ConnId, host: &HostName, links: Vec<RemoteLink>) {
        let clock = self.tree.clock();
        let allowed = |l: &RemoteLink| {
            travels(&l.path) && Value::new(&l.value[..]).is_ok() && clock.guard(l.stamp).is_ok()
        };
        let (links, mut refused): (Vec<_>, Vec<_>) = links.into_iter().partition(allowed);
        let (news, old): (Vec<_>, Vec<_>) = links.into_iter().partition(|l| self.spread.wants(l));
        for link in &old {
            self.spread.received(conn, link, Applied::Kept);
        }
        let results: Vec<_> = match self.tree.apply_remote_all(&news) {
            Ok(all) => all.into_iter().map(Ok).collect(),
            // The disk is full or broken. One by one, so that what can be stored is.
            Err(_) => news.iter().map(|l| self.tree.apply_remote(l)).collect(),
        };
        for (link, result) in news.into_iter().zip(results) {
            match result {
                Ok(what) => {
                    self.spread.received(conn, &link, what);
                    match what {
                        Applied::Stored => {
                            self.note(&link.path);
                            self.consider(&link.path);
                        }
                        Applied::Kept => {}
                        Applied::Refused => refused.push(link),
                    }
                }
                Err(e) => {
                    self.complain("tree", &e.to_string());
                    self.unstored.keep(conn, link);
                    at_latest(&mut self.timers.retry, Instant::now() + RETRY);
                }
            }
        }
        if let Some(l) = refused.first() {
            let path: String = l.path.chars().take(100).collect();
            tracing::debug!("{host}: {} links refused, first {path:?}", refused.len());
            self.complain(
                host.as_str(),
                "sends links that are not allowed here; ignored",
            );
        }
    }

    /// Tries what could not be stored once more. What gets stored now comes back as a change of the local tree, like any other.
    fn retry(&mut self) {
        let mut stored = Vec::new();
        let tree = &self.tree;
        let again = self.unstored.retry(|link| {
            let what = tree.apply_remote(link)?;
            if what == Applied::Stored {
                stored.push(link.path.clone());
            }
            Ok::<(), TreeError>(())
        });
        for path in stored {
            self.consider(&path);
        }
        for conn in again {
            let why = "not everything could be stored";
            self.mesh.down(conn, why, &mut self.spread, &mut self.quiet);
        }
        if !self.unstored.is_empty() {
            at_latest(&mut self.timers.retry, Instant::now() + RETRY);
        }
    }

    /// Does the reconciler have to look?
    fn consider(&mut self, path: &str) {
        let me = &self.env.host;
        let local = |res: &mars_tree::ResName| {
            ["data", "device"].iter().any(|k| {
                self.spread
                    .text(&format!("resource-{res}/{k}-{me}"))
                    .is_some()
            })
        };
        let after = match relevance(&Key::parse(path), me, local) {
            Some(Relevance::Soon) => RECONCILE_SOON,
            Some(Relevance::Lazy) => RECONCILE_LAZY,
            None => return,
        };
        at_latest(&mut self.timers.reconcile, Instant::now() + after);
    }

    /// The same for changes that were made here. Commands ask for the reconciler themselves; daemons that come and go do not know that
    /// something stands on top of the device.
    fn consider_own(&mut self, path: &str) {
        let key = Key::parse(path);
        let has_stack = key.resource().is_some_and(|res| {
            self.spread
                .text(&format!("resource-{res}/systemd-want"))
                .is_some()
        });
        if is_relevant_here(&key, &self.env.host, has_stack) {
            at_latest(&mut self.timers.reconcile, Instant::now() + RECONCILE_SOON);
        }
    }

    /// Local bookkeeping for administrators: when did we last get everything from that host.
    fn read_stamp(&mut self, host: &HostName, theirs: Stamp) {
        let now = Instant::now();
        let last = self.read_stamps.get(host);
        if last.is_some_and(|t| now.duration_since(*t) < READ_STAMP) {
            return;
        }
        self.read_stamps.insert(host.clone(), now);
        let mut b = Batch::new();
        b.mkdir(format!("actual-{host}"));
        b.set(Key::HostActual(host.clone(), "read-stamp".into()), theirs);
        if let Err(e) = self.tree.commit(&b) {
            self.complain("tree", &e.to_string());
        }
    }

    // --- the end --------------------------------------------------------------------------------------------------

    /// Says goodbye: `alive` = 0 reaches the peers before the connections close.
    async fn farewell(&mut self, events: &mut mpsc::Receiver<Event>) {
        self.mesh.no_new_connections();
        self.heartbeat(false);
        self.mesh.pump(&mut self.spread);
        let talk = async {
            while self.mesh.is_sending() {
                let Some(event) = events.recv().await else {
                    return;
                };
                self.mesh.on_event(event, &mut self.spread, &mut self.quiet);
                self.mesh.pump(&mut self.spread);
            }
            self.mesh.finish_sending();
            while self.mesh.has_connections() {
                let Some(event) = events.recv().await else {
                    return;
                };
                self.mesh.on_event(event, &mut self.spread, &mut self.quiet);
            }
        };
        if tokio::time::timeout(FAREWELL, talk).await.is_err() {
            tracing::debug!("not all peers took our last words");
        }
    }
}
