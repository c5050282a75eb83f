//! Publication in the tree: replay and version links, rotation, emergency, state.
use crate::io::Links;
use mars_daemon::events;
use mars_log::numbers::{MAX_LOG_NR, hole_after, raised_maxnr};
use mars_log::{next_version, placeholder};
use mars_tree::{Batch, HostName, Key, LogName, ReplayPos, ResName, Snapshot, Tree, VersionLink};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Publishes for one resource on this host. What cannot be written is kept, newest value per key, and tried again.
#[derive(Debug)]
pub struct TreeLinks {
    tree: Tree,
    res: ResName,
    me: HostName,
    state: Mutex<LinkState>,
}

#[derive(Debug)]
struct LinkState {
    /// The log whose version link is kept up to date.
    log: LogName,
    /// Own version link of the number before.
    prev: Option<VersionLink>,
    /// Length in the version link of `log`.
    len: u64,
    /// Placeholder and log of an emergency.
    hole: Option<(VersionLink, LogName)>,
    /// Not written yet, in order.
    pending: Vec<(Key, String)>,
    /// An empty log to make, not made yet.
    pending_log: Option<Key>,
    complained: bool,
}

impl TreeLinks {
    /// For a logger that continues in `log`, whose predecessor has the own version link `prev`.
    pub fn new(
        tree: Tree,
        res: ResName,
        me: HostName,
        log: LogName,
        prev: Option<VersionLink>,
    ) -> TreeLinks {
        TreeLinks {
            tree,
            res,
            me,
            state: Mutex::new(LinkState {
                log,
                prev,
                len: 0,
                hole: None,
                pending: Vec::new(),
                pending_log: None,
                complained: false,
            }),
        }
    }

    fn lock(&self) -> MutexGuard<'_, LinkState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn actual(&self, name: &str) -> Key {
        Key::Actual(self.res.clone(), self.me.clone(), name.to_string())
    }

    fn replay_link(&self, log: &LogName, pos: u64, dirty: u64) -> (Key, String) {
        let value = ReplayPos {
            log: log.clone(),
            pos,
            dirty,
        };
        (
            Key::Replay(self.res.clone(), self.me.clone()),
            value.to_string(),
        )
    }

    fn version_link(&self, link: &VersionLink) -> (Key, String) {
        (
            Key::Version(self.res.clone(), link.head.log.nr, self.me.clone()),
            link.to_string(),
        )
    }

    /// The version link of the current log, raised to `len`: it never sinks. Nothing after an emergency or a rotation: then the final
    /// length stands already.
    fn raised(&self, st: &mut LinkState, log: &LogName, len: u64) -> Option<(Key, String)> {
        if st.log != *log || st.hole.is_some() {
            return None;
        }
        st.len = st.len.max(len);
        Some(self.version_link(&next_version(log, st.len, st.prev.as_ref())))
    }

    fn maxnr(&self, nr: u32) -> (Key, String) {
        let key = Key::MaxNr(self.res.clone());
        let old = self
            .tree
            .text(&key)
            .ok()
            .flatten()
            .and_then(|t| t.parse().ok());
        (key, raised_maxnr(old, nr).to_string())
    }

    /// Writes these keys, and what could not be written before.
    fn publish(&self, st: &mut LinkState, links: impl IntoIterator<Item = (Key, String)>) {
        for (key, value) in links {
            st.pending.retain(|(k, _)| *k != key);
            st.pending.push((key, value));
        }
        if st.pending.is_empty() && st.pending_log.is_none() {
            return;
        }
        let mut batch = Batch::new();
        for (key, value) in &st.pending {
            batch.set_if_changed(key.clone(), value);
        }
        let mut result = self.tree.commit(&batch).map(|_| ());
        if result.is_ok() {
            st.pending.clear();
            if let Some(key) = st.pending_log.take() {
                let mut batch = Batch::new();
                batch.create_log(key.clone());
                result = self.tree.commit(&batch).map(|_| ());
                if result.is_err() && !self.tree.path(&key).exists() {
                    st.pending_log = Some(key);
                } else {
                    result = Ok(());
                }
            }
        }
        match result {
            Ok(()) => st.complained = false,
            Err(e) => {
                if !std::mem::replace(&mut st.complained, true) {
                    tracing::warn!("{e}; positions are published later");
                }
            }
        }
    }

    /// Sets names below `actual-HOST/` that changed.
    pub fn set_actual(&self, values: &[(&str, i64)]) {
        let mut st = self.lock();
        let links: Vec<_> = values
            .iter()
            .map(|(name, v)| (self.actual(name), v.to_string()))
            .collect();
        self.publish(&mut st, links);
    }

    /// `actsize-HOST`.
    pub fn set_actsize(&self, bytes: u64) {
        let mut st = self.lock();
        let key = Key::ActSize(self.res.clone(), self.me.clone());
        self.publish(&mut st, [(key, bytes.to_string())]);
    }

    /// The size that the device shows (a key of ours: whoever enlarges the resource waits for it).
    pub fn set_device_size(&self, bytes: u64) {
        let mut st = self.lock();
        let key = mars_policy::device_size_key(&self.res, &self.me);
        self.publish(&mut st, [(key, bytes.to_string())]);
    }

    /// The links of a log that was just opened and is empty.
    pub fn opened(&self) {
        let mut st = self.lock();
        let log = st.log.clone();
        let version = next_version(&log, 0, st.prev.as_ref());
        let links = [
            self.replay_link(&log, 0, 0),
            self.version_link(&version),
            self.maxnr(log.nr),
        ];
        self.publish(&mut st, links);
    }

    /// Is something left to write?
    pub fn is_pending(&self) -> bool {
        let st = self.lock();
        !st.pending.is_empty() || st.pending_log.is_some()
    }

    /// Tries to write what is left.
    pub fn retry(&self) {
        let mut st = self.lock();
        self.publish(&mut st, []);
    }

    /// Highest log number that anybody knows of this resource.
    fn highest(&self, own: u32) -> u32 {
        let Ok(snap) = self.tree.snapshot_of(&self.res) else {
            return own;
        };
        highest_number(&snap, &self.res).max(own)
    }
}

/// Highest number among local logs and version links.
pub fn highest_number(snap: &Snapshot, res: &ResName) -> u32 {
    let logs = snap.logs(res).into_iter().map(|(l, _)| l.nr);
    let versions = snap.versions(res).into_iter().map(|(nr, _, _)| nr);
    logs.chain(versions).max().unwrap_or(0)
}

impl Links for TreeLinks {
    fn replay(&self, log: &LogName, pos: u64, dirty: u64) {
        let mut st = self.lock();
        let replay = self.replay_link(log, pos, dirty);
        // The disk is never ahead of the published history: after a crash the others compare both (a position behind the published
        // length would look like a split).
        let version = self.raised(&mut st, log, pos.saturating_add(dirty));
        self.publish(&mut st, version.into_iter().chain([replay]));
    }

    fn version(&self, log: &LogName, len: u64) {
        let mut st = self.lock();
        // A rotation may have overtaken the caller.
        let link = self.raised(&mut st, log, len);
        self.publish(&mut st, link);
    }

    fn rotated(&self, old: &LogName, len: u64, new: &LogName) {
        let mut st = self.lock();
        let last = next_version(old, len, st.prev.as_ref());
        let first = next_version(new, 0, Some(&last));
        let links = [
            self.version_link(&last),
            self.version_link(&first),
            self.maxnr(new.nr),
        ];
        st.log = new.clone();
        st.len = 0;
        st.prev = Some(last);
        self.publish(&mut st, links);
    }

    fn emergency(&self, log: &LogName, len: u64) {
        let mut st = self.lock();
        if st.hole.is_some() {
            return;
        }
        let version = next_version(log, len, st.prev.as_ref());
        let mut links = vec![
            self.version_link(&version),
            (self.actual("has-emergency"), "1".to_string()),
            (self.actual("is-emergency"), "1".to_string()),
        ];
        match hole_after(self.highest(log.nr)) {
            Ok((hole, next)) => {
                let named = |nr| LogName {
                    nr,
                    host: self.me.clone(),
                };
                let hole = placeholder(&named(hole), None);
                let next = named(next);
                links.push(self.version_link(&hole));
                links.push(self.maxnr(next.nr));
                st.pending_log = Some(Key::Log(self.res.clone(), next.clone()));
                st.hole = Some((hole, next));
            }
            Err(e) => tracing::error!("no log can follow the emergency: {e}"),
        }
        self.publish(&mut st, links);
        events::emergency(&self.res, log, len);
    }

    fn resume_log(&self) -> LogName {
        let st = self.lock();
        match &st.hole {
            Some((_, next)) => next.clone(),
            None => LogName {
                nr: MAX_LOG_NR,
                host: self.me.clone(),
            },
        }
    }

    fn resumed(&self, log: &LogName) {
        let mut st = self.lock();
        st.prev = st.hole.take().map(|(hole, _)| hole);
        st.pending_log = None;
        st.log = log.clone();
        st.len = 0;
        let version = next_version(log, 0, st.prev.as_ref());
        let links = [
            self.version_link(&version),
            self.replay_link(log, 0, 0),
            (self.actual("is-emergency"), "0".to_string()),
            (self.actual("has-emergency"), "0".to_string()),
        ];
        self.publish(&mut st, links);
        events::emergency_over(&self.res, log);
    }

    fn sync(&self) {
        let dir = self.tree.root().join(format!("resource-{}", self.res));
        if let Err(e) = std::fs::File::open(&dir).and_then(|d| d.sync_all()) {
            tracing::warn!(
                "{}: {e}; positions may not survive a power cut",
                dir.display()
            );
        }
    }

    fn disk_error(&self, errno: i32) {
        self.set_actual(&[("disk-error", -i64::from(errno))]);
        if errno == 0 {
            events::disk_ok(&self.res);
        } else {
            let e = std::io::Error::from_raw_os_error(errno);
            events::disk_error(&self.res, &format!("the data disk fails: {e}"));
        }
    }
}
