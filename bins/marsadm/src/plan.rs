//! What a command wants done, as a value: computed without I/O, so that it can be tested without any.
use crate::ctx::State;
use mars_policy::View;
use mars_tree::{Batch, HostName, Key, LogName, ResName, Snapshot, TodoSwitch};

/// A condition to wait for after the change.
pub struct Wait {
    /// "device r is there": completes "waiting until …".
    pub what: String,
    /// Default limit.
    pub default_secs: u64,
    /// The condition.
    pub check: Box<dyn Fn(&View<'_>) -> State + Send>,
}

/// Changes and waits of one command for one resource.
#[derive(Default)]
pub struct Plan {
    /// One batch, one stamp.
    pub batch: Batch,
    /// Lines for stdout.
    pub say: Vec<String>,
    /// Lines for stderr.
    pub warn: Vec<String>,
    /// Afterwards.
    pub wait: Option<Wait>,
}

/// The four switches.
pub const SWITCHES: [TodoSwitch; 4] = [
    TodoSwitch::Attach,
    TodoSwitch::Connect,
    TodoSwitch::AllowReplay,
    TodoSwitch::Sync,
];

/// Name of a switch as commands call it.
pub fn switch_name(s: TodoSwitch) -> &'static str {
    match s {
        TodoSwitch::Attach => "attach",
        TodoSwitch::Connect => "fetch",
        TodoSwitch::Sync => "sync",
        TodoSwitch::AllowReplay => "replay",
    }
}

/// Name of the device below `/dev/mars`.
pub fn device_name(snap: &Snapshot, res: &ResName, host: &HostName) -> String {
    snap.text(&Key::Device(res.clone(), host.clone()))
        .unwrap_or(res.as_str())
        .to_string()
}

/// The designated primary, whether or not it exists.
pub fn designated(snap: &Snapshot, res: &ResName) -> Option<HostName> {
    snap.host(&Key::Primary(res.clone()))
}

/// `userspace/last-primary`.
pub fn last_primary(snap: &Snapshot, res: &ResName) -> Option<HostName> {
    snap.host(&Key::ResUserspace(res.clone(), "last-primary".into()))
}

/// Is a flag of `actual-HOST/` non-zero?
pub fn is_actual(snap: &Snapshot, res: &ResName, host: &HostName, name: &str) -> bool {
    snap.actual(res, host, name).is_some_and(|n| n != 0)
}

/// `actual-HOST/NAME` of a resource.
pub fn actual(res: &ResName, host: &HostName, name: &str) -> Key {
    Key::Actual(res.clone(), host.clone(), name.to_string())
}

/// A switch of `todo-HOST/`.
pub fn todo(res: &ResName, host: &HostName, s: TodoSwitch) -> Key {
    Key::Todo(res.clone(), host.clone(), s)
}

/// Storage members: hosts with a live `data-HOST`.
pub fn storage_members(snap: &Snapshot, res: &ResName) -> Vec<HostName> {
    snap.members(res)
        .into_iter()
        .filter(|h| snap.get(&Key::Data(res.clone(), h.clone())).is_some())
        .collect()
}

/// Directories of a member.
pub fn member_dirs(batch: &mut Batch, res: &ResName, host: &HostName) {
    for dir in ["userspace", "defaults"] {
        batch.mkdir(format!("resource-{res}/{dir}"));
    }
    for dir in ["defaults", "local", "actual", "todo"] {
        batch.mkdir(format!("resource-{res}/{dir}-{host}"));
    }
}

/// All live paths of a resource.
pub fn live_paths<'a>(snap: &'a Snapshot, res: &ResName) -> impl Iterator<Item = &'a str> {
    let prefix = format!("resource-{res}/");
    let links = snap
        .links
        .iter()
        .filter(|(_, l)| !l.value.is_deleted())
        .map(|(p, _)| p.as_str());
    let files = snap.files.keys().map(String::as_str);
    links.chain(files).filter(move |p| p.starts_with(&prefix))
}

/// A log name.
pub fn log(nr: u32, host: &HostName) -> LogName {
    LogName {
        nr,
        host: host.clone(),
    }
}

/// Names joined for a message.
pub fn names<T: std::fmt::Display>(items: impl IntoIterator<Item = T>) -> String {
    items
        .into_iter()
        .map(|i| i.to_string())
        .collect::<Vec<_>>()
        .join(", ")
}
