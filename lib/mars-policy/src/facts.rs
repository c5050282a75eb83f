//! Small facts that most decisions share, read from the tree.
use crate::View;
use mars_tree::{HostName, Key, ResName, Snapshot, Stamp, TodoSwitch};

impl View<'_> {
    /// The designated primary; `None` for `(none)`, absent and damaged values.
    pub fn designated(&self, res: &ResName) -> Option<HostName> {
        self.snap.host(&Key::Primary(res.clone()))
    }
    /// Is `host` the designated primary?
    pub fn is_designated(&self, res: &ResName, host: &HostName) -> bool {
        self.snap.text(&Key::Primary(res.clone())) == Some(host.as_str())
    }
    /// Has `host` a disk for this resource (live `data-HOST`)?
    pub fn has_disk(&self, res: &ResName, host: &HostName) -> bool {
        self.snap
            .get(&Key::Data(res.clone(), host.clone()))
            .is_some()
    }
    /// A bool of `resource-RES/actual-HOST/`; unknown is false.
    pub fn actual_on(&self, res: &ResName, host: &HostName, name: &str) -> bool {
        self.snap.actual(res, host, name).unwrap_or(0) != 0
    }
    /// Is `host` actual primary, as far as the tree says?
    pub fn is_actual_primary(&self, res: &ResName, host: &HostName) -> bool {
        self.actual_on(res, host, "is-primary")
    }
    /// Designated or actual primary: does not fetch, replay or sync. Of the actual state only the host's own word is used,
    /// and only for itself; foreign `is-primary` values may be old.
    pub(crate) fn acts_as_primary(&self, res: &ResName, host: &HostName) -> bool {
        self.is_designated(res, host) || self.is_actual_primary(res, host)
    }
    /// A switch of `todo-HOST/`.
    pub fn switch(&self, res: &ResName, host: &HostName, switch: TodoSwitch) -> bool {
        self.snap.todo(res, host, switch)
    }
    /// `size` of the resource, bytes.
    pub fn size(&self, res: &ResName) -> Option<u64> {
        self.snap.number(&Key::Size(res.clone()))
    }
    /// Is the sync of `host` known to be complete? Unknown positions and sizes are not.
    pub fn sync_done(&self, res: &ResName, host: &HostName) -> bool {
        let pos = self
            .snap
            .number(&Key::SyncStatus(res.clone(), host.clone()));
        matches!((pos, self.size(res)), (Some(p), Some(s)) if p >= s)
    }
    /// The last heartbeat of `host` (value of `actual-HOST/time`).
    pub fn heartbeat(&self, host: &HostName) -> Option<Stamp> {
        self.snap
            .text(&Key::HostActual(host.clone(), "time".into()))?
            .parse()
            .ok()
    }
    /// Is the metadata of `host` younger than the window?
    pub fn is_alive(&self, host: &HostName) -> bool {
        self.heartbeat(host)
            .is_some_and(|t| t.plus(self.window) >= self.now)
    }
    /// Emergency level of `host`, 0 to 4.
    pub fn emergency_level(&self, host: &HostName) -> u64 {
        self.snap
            .number(&Key::HostActual(host.clone(), "emergency".into()))
            .unwrap_or(0)
    }
    /// Address text of `host`.
    pub fn ip(&self, host: &HostName) -> Option<String> {
        self.snap.text(&Key::Ip(host.clone())).map(str::to_owned)
    }
}

/// Hosts `H` for which `resource-RES/NAME-H` is live, in the order of the tree. `None` when one of the names is damaged.
pub(crate) fn owners(snap: &Snapshot, res: &ResName, name: &str) -> Option<Vec<HostName>> {
    let prefix = format!("resource-{res}/{name}-");
    snap.live_below(&prefix)
        .map(|(path, _)| path.get(prefix.len()..)?.parse().ok())
        .collect()
}
