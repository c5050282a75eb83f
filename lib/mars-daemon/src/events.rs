//! What an administrator must be able to find in the journal: one function for each kind of event, each with a fixed `MESSAGE_ID`.
//!
//! `packaging/catalog/mars.catalog` explains every kind; a test keeps both equal. Repetitions are suppressed and counted by the layer
//! below ([`crate::journal`]), so callers need not remember what they said, but they should speak only when something *changed*.
use crate::journal::Priority;
use mars_tree::{HostName, ResName};
use std::fmt::Display;

/// A kind of event.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Kind {
    /// Another host is designated primary.
    RoleChange,
    /// The device is offered here.
    DeviceUp,
    /// The device is not offered here any more.
    DeviceDown,
    /// A handover could not be carried out; the old side goes on.
    HandoverRefused,
    /// Two histories exist.
    SplitBrain,
    /// Only one history is left.
    SplitBrainOver,
    /// Logging stopped, the others fall behind.
    Emergency,
    /// Logging goes on.
    EmergencyOver,
    /// The file system of the logs gets full.
    SpaceLow,
    /// The file system of the logs has room again.
    SpaceOk,
    /// A log has damaged contents.
    DefectiveLog,
    /// A log ends in the middle of a record or before its published length.
    IncompleteLog,
    /// A log that stopped the replay is good now.
    LogRepaired,
    /// No connection to a host of the cluster.
    PeerLost,
    /// The connection is there again.
    PeerBack,
    /// Reading or writing the disk of a resource failed.
    DiskError,
    /// The disk works again.
    DiskOk,
    /// A unit of a resource's stack, or one of its daemons, failed.
    StackFailed,
    /// A full copy of the disk began.
    SyncStarted,
    /// A full copy of the disk is complete.
    SyncFinished,
    /// An administrator changed something.
    Command,
    /// An administrator lifted safety checks.
    Forced,
    /// The configuration was read again.
    ConfigChanged,
    /// The configuration has an error; the old one stays.
    ConfigRefused,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 24] = [
        Kind::RoleChange,
        Kind::DeviceUp,
        Kind::DeviceDown,
        Kind::HandoverRefused,
        Kind::SplitBrain,
        Kind::SplitBrainOver,
        Kind::Emergency,
        Kind::EmergencyOver,
        Kind::SpaceLow,
        Kind::SpaceOk,
        Kind::DefectiveLog,
        Kind::IncompleteLog,
        Kind::LogRepaired,
        Kind::PeerLost,
        Kind::PeerBack,
        Kind::DiskError,
        Kind::DiskOk,
        Kind::StackFailed,
        Kind::SyncStarted,
        Kind::SyncFinished,
        Kind::Command,
        Kind::Forced,
        Kind::ConfigChanged,
        Kind::ConfigRefused,
    ];

    /// `MESSAGE_ID`, priority and short name. The ids never change: administrators search for them.
    const fn facts(self) -> (&'static str, Priority, &'static str) {
        use Priority::{Err, Notice, Warning};
        match self {
            Kind::RoleChange => ("021d701529634ca6ad5b976878bb54c9", Notice, "role-change"),
            Kind::DeviceUp => ("a36cf88de823471288ba239f1c8da104", Notice, "device-up"),
            Kind::DeviceDown => ("4869f09309034d43b48420b976f4d04e", Notice, "device-down"),
            Kind::HandoverRefused => (
                "6981f019583d49ddb35a1135716c50e2",
                Warning,
                "handover-refused",
            ),
            Kind::SplitBrain => ("1d25fbb9f6294e6aa26d356cb25a1206", Err, "split-brain"),
            Kind::SplitBrainOver => (
                "89eb6c5f124647e7aaf8cc6f8e0a6f5f",
                Notice,
                "split-brain-over",
            ),
            Kind::Emergency => ("db1630600cef443ca0904d86366f2ada", Err, "emergency"),
            Kind::EmergencyOver => ("105fb0901f95445ca6eb418b815b1b2f", Notice, "emergency-over"),
            Kind::SpaceLow => ("dd75de7093084102a4e5565b31f8eeeb", Warning, "space-low"),
            Kind::SpaceOk => ("0b516aea527f477a9b30b07b1816846f", Notice, "space-ok"),
            Kind::DefectiveLog => ("02db9c48115541fbb1f950daa84bed1c", Warning, "defective-log"),
            Kind::IncompleteLog => (
                "d565da77f5ac415e8942902d52b93c4e",
                Warning,
                "incomplete-log",
            ),
            Kind::LogRepaired => ("d8749a6acba14d059aa7eccd278a2011", Notice, "log-repaired"),
            Kind::PeerLost => ("b5cc8741f25644c480f2494a72aec2d1", Warning, "peer-lost"),
            Kind::PeerBack => ("6acd33029b124966a23e2186f0591336", Notice, "peer-back"),
            Kind::DiskError => ("13862db05b5e4812a6795c9e519a897f", Err, "disk-error"),
            Kind::DiskOk => ("d9943eb013564ec696c82d74be65e224", Notice, "disk-ok"),
            Kind::StackFailed => ("e38a9f7fa3524f459dc1d909e9e9219c", Err, "stack-failed"),
            Kind::SyncStarted => ("e79c5baa369b43e798e8c85facb3c653", Notice, "sync-started"),
            Kind::SyncFinished => ("42d835f0ac2a488f99bb71f6d94bd188", Notice, "sync-finished"),
            Kind::Command => ("37859d9526a54b119107ac97e6b46b6b", Notice, "command"),
            Kind::Forced => ("ed7bb412e25341fdb7f90369f1685283", Warning, "forced"),
            Kind::ConfigChanged => ("05a4d5d1fa434aa38ed63f2c29918869", Notice, "config-changed"),
            Kind::ConfigRefused => ("636c87fc768b45c58b237a0a8b9c4ecc", Err, "config-refused"),
        }
    }

    /// `MESSAGE_ID`: 32 hexadecimal digits.
    pub const fn id(self) -> &'static str {
        self.facts().0
    }
    /// How urgent it is.
    pub const fn priority(self) -> Priority {
        self.facts().1
    }
    /// Short name, as in `MARS_EVENT=`.
    pub const fn name(self) -> &'static str {
        self.facts().2
    }
    /// By its short name.
    pub fn by_name(name: &str) -> Option<Kind> {
        Kind::ALL.into_iter().find(|k| k.name() == name)
    }
}

/// What an event is about.
#[derive(Clone, Copy, Default)]
struct About<'a> {
    res: Option<&'a ResName>,
    /// Several resources, separated by spaces.
    all: Option<&'a str>,
    peer: Option<&'a HostName>,
    log: Option<&'a dyn Display>,
}

fn of(res: &ResName) -> About<'_> {
    About {
        res: Some(res),
        ..About::default()
    }
}

fn emit(kind: Kind, about: About<'_>, text: &str) {
    let event = kind.name();
    let resource = about.res.map(ResName::as_str).or(about.all);
    let peer = about.peer.map(HostName::as_str);
    let log = about.log.map(|l| l.to_string());
    let log = log.as_deref();
    // The level is part of a call site.
    match kind.priority() {
        Priority::Err => tracing::error!(target: "mars", event, resource, peer, log, "{text}"),
        Priority::Warning => tracing::warn!(target: "mars", event, resource, peer, log, "{text}"),
        Priority::Notice | Priority::Info => {
            tracing::info!(target: "mars", event, resource, peer, log, "{text}");
        }
        Priority::Debug => tracing::debug!(target: "mars", event, resource, peer, log, "{text}"),
    }
}

fn host_or_none(host: Option<&HostName>) -> &str {
    host.map_or("none", HostName::as_str)
}

/// The designated primary of a resource changed, by a command here or on another host.
pub fn role_change(res: &ResName, from: Option<&HostName>, to: Option<&HostName>) {
    let (old, new) = (host_or_none(from), host_or_none(to));
    let about = About {
        peer: to.or(from),
        ..of(res)
    };
    emit(
        Kind::RoleChange,
        about,
        &format!("resource {res}: designated primary is {new} now, was {old}"),
    );
}

/// This host serves the device. `what`: where it logs, which device.
pub fn device_up(res: &ResName, log: &dyn Display, what: &str) {
    let about = About {
        log: Some(log),
        ..of(res)
    };
    emit(
        Kind::DeviceUp,
        about,
        &format!("resource {res}: primary here, {what}"),
    );
}

/// This host does not serve the device any more. `what`: up to where everything is on the disk.
pub fn device_down(res: &ResName, log: &dyn Display, what: &str) {
    let about = About {
        log: Some(log),
        ..of(res)
    };
    emit(
        Kind::DeviceDown,
        about,
        &format!("resource {res}: device stopped here, {what}"),
    );
}

/// The role cannot move: `why` names who holds the device. `peer` is the side that keeps it.
pub fn handover_refused(res: &ResName, peer: Option<&HostName>, why: &str) {
    let about = About { peer, ..of(res) };
    emit(
        Kind::HandoverRefused,
        about,
        &format!("resource {res}: handover refused: {why}"),
    );
}

/// Two histories: `what` says which logs.
pub fn split_brain(res: &ResName, what: &str) {
    emit(
        Kind::SplitBrain,
        of(res),
        &format!("resource {res}: split brain: {what}"),
    );
}

/// One history again.
pub fn split_brain_over(res: &ResName) {
    emit(
        Kind::SplitBrainOver,
        of(res),
        &format!("resource {res}: split brain is resolved"),
    );
}

/// Logging stopped in `log` at `pos`.
pub fn emergency(res: &ResName, log: &dyn Display, pos: u64) {
    let about = About {
        log: Some(log),
        ..of(res)
    };
    emit(
        Kind::Emergency,
        about,
        &format!(
            "resource {res}: {log} cannot be written, logging stops at {pos}; writes go directly to the disk, the other hosts fall \
             behind until logging resumes"
        ),
    );
}

/// Logging goes on in `log`.
pub fn emergency_over(res: &ResName, log: &dyn Display) {
    let about = About {
        log: Some(log),
        ..of(res)
    };
    emit(
        Kind::EmergencyOver,
        about,
        &format!("resource {res}: logging resumes in {log}; secondaries need `marsadm invalidate`"),
    );
}

/// A list for [`About::all`].
fn names<'a>(resources: impl IntoIterator<Item = &'a ResName>) -> Option<String> {
    let all: Vec<&str> = resources.into_iter().map(ResName::as_str).collect();
    (!all.is_empty()).then(|| all.join(" "))
}

/// The emergency level of this host rose (1 to 4); `what`: how much room there is. `resources`: all that have logs here.
pub fn space_low<'a>(resources: impl IntoIterator<Item = &'a ResName>, level: u8, what: &str) {
    let all = names(resources);
    let about = About {
        all: all.as_deref(),
        ..About::default()
    };
    emit(
        Kind::SpaceLow,
        about,
        &format!("emergency level {level}: {what}"),
    );
}

/// There is enough room again.
pub fn space_ok<'a>(resources: impl IntoIterator<Item = &'a ResName>, what: &str) {
    let all = names(resources);
    let about = About {
        all: all.as_deref(),
        ..About::default()
    };
    emit(Kind::SpaceOk, about, &format!("emergency level 0: {what}"));
}

/// `log` is damaged at `pos`.
pub fn defective_log(
    res: &ResName,
    peer: Option<&HostName>,
    log: &dyn Display,
    pos: u64,
    what: &str,
) {
    let about = About {
        peer,
        log: Some(log),
        ..of(res)
    };
    emit(
        Kind::DefectiveLog,
        about,
        &format!("resource {res}: {log} is damaged behind position {pos}: {what}"),
    );
}

/// `log` ends too early, at `pos`.
pub fn incomplete_log(
    res: &ResName,
    peer: Option<&HostName>,
    log: &dyn Display,
    pos: u64,
    what: &str,
) {
    let about = About {
        peer,
        log: Some(log),
        ..of(res)
    };
    emit(
        Kind::IncompleteLog,
        about,
        &format!(
            "resource {res}: {log} is damaged behind position {pos}, it is incomplete: {what}"
        ),
    );
}

/// The log that stood in the way is good (or replaced) now.
pub fn log_repaired(res: &ResName, peer: Option<&HostName>, log: &dyn Display, what: &str) {
    let about = About {
        peer,
        log: Some(log),
        ..of(res)
    };
    emit(
        Kind::LogRepaired,
        about,
        &format!("resource {res}: {log}: {what}"),
    );
}

/// No connection to `peer` any more. `resources`: those that both hosts have.
pub fn peer_lost<'a>(resources: impl IntoIterator<Item = &'a ResName>, peer: &HostName, why: &str) {
    let all = names(resources);
    let about = About {
        all: all.as_deref(),
        peer: Some(peer),
        ..About::default()
    };
    emit(
        Kind::PeerLost,
        about,
        &format!("{peer}: connection lost: {why}"),
    );
}

/// Connected with `peer` (again).
pub fn peer_back<'a>(resources: impl IntoIterator<Item = &'a ResName>, peer: &HostName, how: &str) {
    let all = names(resources);
    let about = About {
        all: all.as_deref(),
        peer: Some(peer),
        ..About::default()
    };
    emit(Kind::PeerBack, about, &format!("{peer}: connected{how}"));
}

/// The disk of a resource failed. `what`: reading or writing, where, the error.
pub fn disk_error(res: &ResName, what: &str) {
    emit(Kind::DiskError, of(res), &format!("resource {res}: {what}"));
}

/// The disk works again.
pub fn disk_ok(res: &ResName) {
    emit(
        Kind::DiskOk,
        of(res),
        &format!("resource {res}: the disk works again"),
    );
}

/// `unit` could not be started or stopped, or failed; `why` is the unit's own reason.
pub fn stack_failed(res: &ResName, unit: &str, why: &str) {
    emit(
        Kind::StackFailed,
        of(res),
        &format!("resource {res}: unit {unit}: {why}"),
    );
}

/// A full copy from `peer` began (or goes on).
pub fn sync_started(res: &ResName, peer: Option<&HostName>, what: &str) {
    let about = About { peer, ..of(res) };
    emit(
        Kind::SyncStarted,
        about,
        &format!("resource {res}: sync started: {what}"),
    );
}

/// The full copy is complete.
pub fn sync_finished(res: &ResName, peer: Option<&HostName>, what: &str) {
    let about = About { peer, ..of(res) };
    emit(
        Kind::SyncFinished,
        about,
        &format!("resource {res}: the sync is complete: {what}"),
    );
}

/// An administrator ran a command that changes something, and how it ended.
pub fn command<'a>(resources: impl IntoIterator<Item = &'a ResName>, line: &str, result: &str) {
    let all = names(resources);
    let about = About {
        all: all.as_deref(),
        ..About::default()
    };
    emit(Kind::Command, about, &format!("{line}: {result}"));
}

/// The same with safety checks lifted (`--force`, or in the name of another host).
pub fn forced<'a>(resources: impl IntoIterator<Item = &'a ResName>, line: &str, result: &str) {
    let all = names(resources);
    let about = About {
        all: all.as_deref(),
        ..About::default()
    };
    emit(
        Kind::Forced,
        about,
        &format!("safety checks lifted: {line}: {result}"),
    );
}

/// The configuration was read again; `what` changed.
pub fn config_changed(what: &str) {
    emit(
        Kind::ConfigChanged,
        About::default(),
        &format!("configuration reloaded: {what}"),
    );
}

/// The configuration was not taken over.
pub fn config_refused(why: &str) {
    emit(
        Kind::ConfigRefused,
        About::default(),
        &format!("configuration refused, the old values stay: {why}"),
    );
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn event_ids_are_unique_and_well_formed() {
        let mut ids: Vec<&str> = Kind::ALL.iter().map(|k| k.id()).collect();
        let mut names: Vec<&str> = Kind::ALL.iter().map(|k| k.name()).collect();
        for id in &ids {
            assert_eq!(id.len(), 32, "{id}");
            assert!(id.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f')));
        }
        for list in [&mut ids, &mut names] {
            list.sort_unstable();
            list.dedup();
            assert_eq!(list.len(), Kind::ALL.len());
        }
        for k in Kind::ALL {
            assert_eq!(Kind::by_name(k.name()), Some(k));
        }
    }
}
