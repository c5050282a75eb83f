//! Clusters that become one, or fall into parts, and hosts that were thrown out: the engine's side of it.
use super::{Engine, RETRY, at_latest};
use crate::visit;
use mars_net::{MergeAnswer, MergeRequest, VisitLink};
use mars_policy::merge::admit_batch;
use mars_policy::split::{SPLIT_PREFIX, forgotten};
use mars_tree::{Applied, Key, RemoteLink, Stamp, TreeError, Value};
use std::time::{Duration, Instant};
use tokio::net::TcpStream;

/// Time between two looks for what latecomers brought back.
const SWEEP: Duration = Duration::from_secs(2);

impl Engine<'_> {
    /// Hosts of other parts of a split cluster are strangers from now on, and everything about them is forgotten. It goes without
    /// tombstones: nobody else is to hear of this.
    pub(super) fn part(&mut self) {
        self.parting.obey(self.spread.texts_below(SPLIT_PREFIX));
        self.cluster_dirty = true;
        // Closes the connections, so that nothing comes in again.
        self.after_changes();
        let apart = self.gate.borrow().apart.clone();
        if apart.is_empty() {
            return;
        }
        let mut forget = || -> Result<usize, TreeError> {
            let keys = forgotten(&self.tree.snapshot()?, &apart);
            self.parting.forgot(&keys, Instant::now());
            for key in &keys {
                self.tree.unlink_plain(key)?;
            }
            Ok(keys.len())
        };
        let done = forget();
        self.timers.sweep = Some(Instant::now() + SWEEP);
        match done {
            Ok(0) => {}
            Ok(n) => tracing::warn!(
                "the cluster was split: {} other hosts are in other parts, {n} links about them and their resources are forgotten",
                apart.len()
            ),
            Err(e) => {
                self.complain("split", &e.to_string());
                at_latest(&mut self.timers.parting, Instant::now() + RETRY);
            }
        }
    }

    /// Members of the own part that have not obeyed yet send what they hear from the others: that is forgotten, too.
    pub(super) fn sweep(&mut self, now: Instant) {
        let apart = self.gate.borrow().apart.clone();
        if !self.parting.waits_for_latecomers(now) || apart.is_empty() {
            return;
        }
        let forget = || -> Result<(), TreeError> {
            let snap = self.tree.snapshot()?;
            for key in self.parting.left_behind(&snap, &apart) {
                self.tree.unlink_plain(&key)?;
            }
            Ok(())
        };
        if let Err(e) = forget() {
            self.complain("split", &e.to_string());
        }
        self.timers.sweep = Some(now + SWEEP);
    }

    /// A host of another cluster looks at the tree.
    pub(super) fn visited(&mut self, host: String, stream: TcpStream) {
        let Some(place) = visit::Place::take(&self.visitors) else {
            self.complain(&host, "too many visitors at once");
            return;
        };
        let links: Vec<VisitLink> = self.spread.all().collect();
        let shown = (links, self.tree.clock().now().as_nanos());
        let events = self.events.clone();
        tokio::task::spawn_local(visit::serve(place, stream, host, shown, events));
    }

    /// It asks for a merge.
    pub(super) fn asked(&mut self, host: &str, request: &MergeRequest) -> MergeAnswer {
        let refused = match self.admit(host, request) {
            Ok(()) => {
                tracing::warn!(
                    "cluster {} with {} hosts was let into this cluster at the request of {host}",
                    request.from,
                    request.hosts.len()
                );
                None
            }
            Err(why) => {
                self.complain(host, &format!("its request for a merge is refused: {why}"));
                Some(why)
            }
        };
        MergeAnswer {
            now: self.tree.clock().now().as_nanos(),
            refused,
        }
    }

    fn admit(&mut self, host: &str, request: &MergeRequest) -> Result<(), String> {
        let now = Stamp::from_nanos(request.now);
        let clock = self.tree.clock();
        clock
            .guard(now)
            .map_err(|_| "its clock is more than 30 days ahead".to_string())?;
        clock.observe(now);
        let snap = self.tree.snapshot().map_err(|e| e.to_string())?;
        let theirs = visit::judge(&snap, host, request)?;
        let batch = admit_batch(&snap, &theirs);
        self.tree.commit(&batch).map_err(|e| e.to_string())?;
        self.drain();
        Ok(())
    }

    /// A member says that this host was removed while it was away. Nobody lets it in any more, so this is the only way to hear of it; it
    /// counts as if the tombstone of the own address had come as a link. The reconciler then stops what runs here.
    pub(super) fn removed(&mut self, who: &str, at: Stamp, why: &str) {
        let path = Key::Ip(self.env.host.clone()).path();
        let known = self.spread.get(&path).is_none_or(|(_, own)| own >= at);
        if known || self.tree.clock().guard(at).is_err() {
            self.complain(who, why);
            return;
        }
        let tombstone = RemoteLink {
            path,
            value: Value::DELETED.as_bytes().to_vec(),
            stamp: at,
        };
        match self.tree.apply_remote(&tombstone) {
            Ok(Applied::Stored) => {
                tracing::warn!(
                    "{who}: {} was removed from the cluster; it takes part no more, make a fresh file system and join again",
                    self.env.host
                );
                self.path_changed(&tombstone.path);
                at_latest(&mut self.timers.reconcile, Instant::now());
            }
            Ok(_) => self.complain(who, why),
            Err(e) => self.complain("tree", &e.to_string()),
        }
    }
}
