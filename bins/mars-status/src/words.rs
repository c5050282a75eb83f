//! The state words of the pilot (mars-status.md 4).
use mars_macro::report::{HostReport, MemberReport, PeerReport, ResourceReport};
use mars_policy::ReplState;
use std::fmt;

/// From this level on a host does not log any more.
pub const EMERGENCY: u64 = 4;

/// State of the data on one host; the worst that applies comes first.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum DState {
    /// System fault: no space, network, disk, daemons; or not joined.
    Failed,
    /// Not all switches are on.
    SwitchOff,
    /// Sync is running or needed, or the consistency of the logs is doubtful.
    InvaliDate,
    /// As `UpDateIng`, but for longer than the threshold.
    OutDate,
    /// Replay has work.
    UpDateIng,
    /// Nothing to do.
    UpToDate,
}

impl DState {
    /// All of them.
    pub const ALL: [DState; 6] = [
        DState::Failed,
        DState::SwitchOff,
        DState::InvaliDate,
        DState::OutDate,
        DState::UpDateIng,
        DState::UpToDate,
    ];
    /// The word.
    pub fn word(self) -> &'static str {
        match self {
            DState::Failed => "Failed",
            DState::SwitchOff => "SwitchOff",
            DState::InvaliDate => "InvaliDate",
            DState::OutDate => "OutDate",
            DState::UpDateIng => "UpDateIng",
            DState::UpToDate => "UpToDate",
        }
    }
}

impl fmt::Display for DState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

/// The host of a member; `None`: it is no host of the cluster (any more).
pub fn peer_of<'r>(report: &'r HostReport, m: &MemberReport) -> Option<&'r PeerReport> {
    report.peers.iter().find(|p| p.host == m.host)
}

/// Is the log not written any more, at the host or for the resource?
pub fn has_emergency(report: &HostReport, m: &MemberReport) -> bool {
    let level = peer_of(report, m).and_then(|p| p.emergency_level);
    m.actual.emergency == Some(true) || level.is_some_and(|l| l >= EMERGENCY)
}

/// Is the sync complete? Unknown is not.
pub fn is_synced(m: &MemberReport) -> bool {
    m.sync.is_some_and(|s| s.rest() == 0)
}

/// Is there a doubt about the logs?
pub fn logs_doubtful(res: &ResourceReport, m: &MemberReport) -> bool {
    res.split_brain.is_some()
        || m.orphan
        || m.has_defective_log()
        || !m.consistency.sync_reached
        || !m.consistency.replay_reached
}

/// First match (mars-status.md 4.1). `lag`: seconds from which on it is `OutDate`.
pub fn dstate(report: &HostReport, res: &ResourceReport, m: &MemberReport, lag: u64) -> DState {
    let fault = !m.joined
        || !m.fresh
        || !m.disk_present
        || m.disk_error.is_some()
        || has_emergency(report, m)
        || m.repl_state == ReplState::PrimaryUnreachable;
    if fault {
        return DState::Failed;
    }
    if !m.switches.all_on() {
        return DState::SwitchOff;
    }
    if !is_synced(m) || logs_doubtful(res, m) {
        return DState::InvaliDate;
    }
    match (m.lag_bytes, m.lag_seconds) {
        (Some(0), _) => DState::UpToDate,
        (Some(_), Some(age)) if age <= lag => DState::UpDateIng,
        _ => DState::OutDate,
    }
}

/// The connect switch only (mars-status.md 4.2).
pub fn cstate(m: &MemberReport) -> &'static str {
    if m.switches.connect {
        "Connect"
    } else {
        "Disconnect"
    }
}

/// The actual role.
pub fn role(m: &MemberReport) -> &'static str {
    match m.actual.primary {
        _ if !m.joined => "not joined",
        Some(true) => "Primary",
        _ => "Secondary",
    }
}

/// `(joined)(alive)(synced)(replay stopped)(attached)(connected)(synced)(replayed)`.
pub fn tokens(m: &MemberReport) -> String {
    let pick = |yes: bool, a: &'static str, b: &'static str| if yes { a } else { b };
    let has_work = m.lag_bytes.is_none_or(|n| n > 0);
    let replay = match m.actual.primary {
        _ if !has_work => "replay wait",
        Some(true) => "replay running1",
        _ if m.actual.replaying == Some(true) && m.switches.allow_replay => "replay running1",
        _ => "replay stopped",
    };
    let data = match m.actual.syncing {
        _ if is_synced(m) => "synced",
        Some(true) => "sync running",
        _ => "not synced",
    };
    let s = m.switches;
    [
        pick(m.joined, "joined", "not joined"),
        pick(m.fresh, "alive", "not alive"),
        data,
        replay,
        pick(s.attach, "attached", "not attached"),
        pick(s.connect, "connected", "not connected"),
        pick(s.sync, "synced", "not synced"),
        pick(s.allow_replay, "replayed", "not replayed"),
    ]
    .map(|t| format!("({t})"))
    .concat()
}
