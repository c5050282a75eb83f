//! States that `view` shows (macro-language.md 6.2 to 6.5). `Display` prints exactly the documented words.
//!
//! Whether a configured disk is really there only its kernel knows: the functions ending in `_at` take it as an argument, the
//! others assume it (right for foreign hosts).
use crate::{Progress, View, amount, errno_text, progress};
use mars_tree::{HostName, Key, ReplayPos, ResName, TodoSwitch};
use std::fmt;

/// macro-language.md 6.2, without amounts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskState {
    /// `disk-error` if not 0.
    pub disk_error: Option<i64>,
    /// The word, with brackets where documented (`OutDated[FR]`, `WriteBack[35.084 MiB]`).
    pub word: String,
}

impl fmt::Display for DiskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(e) = self.disk_error {
            write!(f, "DISK_ERROR={e}{} ", errno_text(&e.to_string()))?;
        }
        f.write_str(&self.word)
    }
}

/// macro-language.md 6.3.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum ReplState {
    ModuleNotLoaded,
    UnResponsive,
    NotJoined,
    NotStarted,
    EmergencyMode,
    Replicating,
    NotYetPrimary,
    PausedSync,
    Syncing,
    PausedFetch,
    PausedReplay,
    NoPrimaryDesignated,
    PrimaryUnreachable,
    Orphan,
    Replaying,
}

impl fmt::Display for ReplState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            ReplState::ModuleNotLoaded => "ModuleNotLoaded",
            ReplState::UnResponsive => "UnResponsive",
            ReplState::NotJoined => "NotJoined",
            ReplState::NotStarted => "NotStarted",
            ReplState::EmergencyMode => "EmergencyMode",
            ReplState::Replicating => "Replicating",
            ReplState::NotYetPrimary => "NotYetPrimary",
            ReplState::PausedSync => "PausedSync",
            ReplState::Syncing => "Syncing",
            ReplState::PausedFetch => "PausedFetch",
            ReplState::PausedReplay => "PausedReplay",
            ReplState::NoPrimaryDesignated => "NoPrimaryDesignated",
            ReplState::PrimaryUnreachable => "PrimaryUnreachable",
            ReplState::Orphan => "Orphan",
            ReplState::Replaying => "Replaying",
        })
    }
}

/// macro-language.md 6.5.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Role {
    None,
    Primary,
    ForcedPrimary,
    NotYetPrimary,
    RemainsPrimary,
    Secondary,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Role::None => "None",
            Role::Primary => "Primary",
            Role::ForcedPrimary => "ForcedPrimary",
            Role::NotYetPrimary => "NotYetPrimary",
            Role::RemainsPrimary => "RemainsPrimary",
            Role::Secondary => "Secondary",
        })
    }
}

/// The six letters of macro-language.md 6.4.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Flags(pub String);

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

/// Inputs of the consistency rule, for messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConsistencyFacts {
    /// Sync reached the size.
    pub sync_reached: bool,
    /// No dirty data at an actual primary.
    pub clean: bool,
    /// Replay passed `syncpos` (position plus dirty length, transaction-log.md 4.1).
    pub replay_reached: bool,
}

impl ConsistencyFacts {
    /// All hold.
    pub fn is_consistent(self) -> bool {
        self.sync_reached && self.clean && self.replay_reached
    }
    /// The same without the dirty check (`is-almost-consistent`).
    pub fn is_almost_consistent(self) -> bool {
        self.sync_reached && self.replay_reached
    }
}

/// Disk state of `host`, its disk present.
pub fn disk_state(v: &View<'_>, res: &ResName, host: &HostName) -> DiskState {
    disk_state_at(v, res, host, true)
}

/// Disk state of `host`; `present`: is the configured disk usable?
pub fn disk_state_at(v: &View<'_>, res: &ResName, host: &HostName, present: bool) -> DiskState {
    let error = v.snap.actual(res, host, "disk-error");
    DiskState {
        disk_error: error.filter(|e| *e != 0),
        word: disk_word(v, res, host, present),
    }
}

fn disk_word(v: &View<'_>, res: &ResName, host: &HostName, present: bool) -> String {
    if !v.has_disk(res, host) {
        return "NotJoined".into();
    }
    if !present {
        return "NotPresent".into();
    }
    let attached = v.actual_on(res, host, "is-attached");
    if !v.switch(res, host, TodoSwitch::Attach) {
        return if attached { "Detaching" } else { "Detached" }.into();
    }
    if let Some(text) = bad_replay_code(v, res, host) {
        return text;
    }
    if is_orphan(v, res, host) {
        return "Orphan".into();
    }
    if !attached {
        return "NoAttach".into();
    }
    let consistent = consistency(v, res, host).is_consistent();
    let p = progress(v, res, host);
    let designated = v.is_designated(res, host);
    if !consistent && !designated {
        return "InConsistent".into();
    }
    if !consistent || p.work_rest() > 0 {
        if designated {
            let dirty = v.snap.replay(res, host).map_or(0, |r| r.dirty);
            let word = if v.is_actual_primary(res, host) {
                "WriteBack"
            } else {
                "Recovery"
            };
            return format!("{word}[{}]", amount(p.work_rest().max(dirty)));
        }
        return format!("OutDated[{}]", outdated_letters(&p));
    }
    let emergency = v
        .designated(res)
        .is_some_and(|p| v.actual_on(res, &p, "has-emergency"));
    if emergency {
        "EmergencyMode"
    } else {
        "UpToDate"
    }
    .into()
}

/// `F` fetch, `R` replay not reached (macro-language.md 6.2, `outdated-flags`).
pub fn outdated_letters(p: &Progress) -> String {
    let mut s = String::new();
    if p.fetch_rest() > 0 {
        s.push('F');
    }
    if p.replay_rest() > 0 {
        s.push('R');
    }
    s
}

fn bad_replay_code(v: &View<'_>, res: &ResName, host: &HostName) -> Option<String> {
    let key = Key::Actual(res.clone(), host.clone(), "replay-code".into());
    let text = v.snap.text(&key)?;
    let code: i64 = text.split(',').next()?.trim().parse().ok()?;
    if code >= 0 {
        return None;
    }
    let word = match code {
        -85 => "IncompleteLog",
        -56 => "UnInitializedLogRecord",
        _ => "DefectiveLog",
    };
    Some(format!("{word}[{text}={}]", errno_text(text)))
}

/// Is the log of the replay link missing here, or shorter than what was applied of it? Not for actual primaries, and only this
/// machine's own files are known. (A log that is still empty everywhere need not exist here: nobody had to fetch it yet.)
pub fn is_orphan(v: &View<'_>, res: &ResName, host: &HostName) -> bool {
    if host != v.local || v.is_actual_primary(res, host) {
        return false;
    }
    let Some(r) = v.snap.replay(res, host) else {
        return false;
    };
    match v.snap.files.get(&format!("resource-{res}/{}", r.log)) {
        Some(file) => file.size < r.pos,
        None => {
            r.pos > 0
                || v.snap
                    .versions(res)
                    .iter()
                    .any(|(nr, _, l)| *nr == r.log.nr && l.head.log == r.log && l.head.len > 0)
        }
    }
}

/// Replication state of `host`.
pub fn repl_state(v: &View<'_>, res: &ResName, host: &HostName) -> ReplState {
    if host == v.local && !v.engine_running {
        return ReplState::ModuleNotLoaded;
    }
    if !v.is_alive(host) {
        return ReplState::UnResponsive;
    }
    if !v.has_disk(res, host) {
        return ReplState::NotJoined;
    }
    let on = |s| v.switch(res, host, s);
    if !on(TodoSwitch::Attach) {
        return ReplState::NotStarted;
    }
    let designated = v.designated(res);
    if designated.as_ref() == Some(host) {
        return if v.actual_on(res, host, "has-emergency") {
            ReplState::EmergencyMode
        } else if v.is_actual_primary(res, host) {
            ReplState::Replicating
        } else {
            ReplState::NotYetPrimary
        };
    }
    if !v.sync_done(res, host) && !on(TodoSwitch::Sync) {
        return ReplState::PausedSync;
    }
    if v.actual_on(res, host, "is-syncing") {
        return ReplState::Syncing;
    }
    if !on(TodoSwitch::Connect) {
        return ReplState::PausedFetch;
    }
    if !on(TodoSwitch::AllowReplay) {
        return ReplState::PausedReplay;
    }
    match designated {
        None => ReplState::NoPrimaryDesignated,
        Some(p) if !v.is_alive(&p) => ReplState::PrimaryUnreachable,
        Some(_) if is_orphan(v, res, host) => ReplState::Orphan,
        Some(_) => ReplState::Replaying,
    }
}

/// Role of `host`, its disk present.
pub fn role(v: &View<'_>, res: &ResName, host: &HostName) -> Role {
    role_at(v, res, host, true)
}

/// Role of `host`; `present`: is the configured disk usable?
pub fn role_at(v: &View<'_>, res: &ResName, host: &HostName, present: bool) -> Role {
    if !present || !v.has_disk(res, host) {
        return Role::None;
    }
    match (v.is_designated(res, host), v.is_actual_primary(res, host)) {
        (true, true) => {
            if actual_primary_hosts(v, res).len() > 1 {
                Role::ForcedPrimary
            } else {
                Role::Primary
            }
        }
        (true, false) => Role::NotYetPrimary,
        (false, true) => Role::RemainsPrimary,
        (false, false) => Role::Secondary,
    }
}

/// Flags of `host`, its disk present.
pub fn flags(v: &View<'_>, res: &ResName, host: &HostName) -> Flags {
    flags_at(v, res, host, true)
}

/// Flags of `host`; `present`: is the configured disk usable?
pub fn flags_at(v: &View<'_>, res: &ResName, host: &HostName, present: bool) -> Flags {
    let disk = present && v.has_disk(res, host);
    let p = progress(v, res, host);
    let on = |s| v.switch(res, host, s);
    let lower = |reached: bool, capital: char, switch: bool| match (reached, switch) {
        (true, _) => capital,
        (false, true) => capital.to_ascii_lowercase(),
        (false, false) => '-',
    };
    let device = match (disk, v.actual_on(res, host, "if-on")) {
        (true, true) => 'D',
        (true, false) => 'd',
        (false, _) => '-',
    };
    let attach = match (
        v.actual_on(res, host, "is-attached"),
        on(TodoSwitch::Attach),
    ) {
        (true, true) => 'A',
        (false, false) => '-',
        _ => 'a',
    };
    let letters = [
        device,
        lower(consistency(v, res, host).is_consistent(), 'C', disk),
        attach,
        lower(v.sync_done(res, host), 'S', on(TodoSwitch::Sync)),
        lower(p.fetch_rest() == 0, 'F', on(TodoSwitch::Connect)),
        lower(p.replay_rest() == 0, 'R', on(TodoSwitch::AllowReplay)),
    ];
    Flags(letters.iter().collect())
}

/// Consistency of `host`. A damaged `syncpos` link is no proof that the position was reached.
pub fn consistency(v: &View<'_>, res: &ResName, host: &HostName) -> ConsistencyFacts {
    let replay = v.snap.replay(res, host);
    let key = Key::SyncPos(res.clone(), host.clone());
    let replay_reached = match (&replay, v.snap.get(&key)) {
        (None, _) => false,
        (Some(_), None) => true,
        (Some(r), Some(link)) => link
            .value
            .as_str()
            .and_then(|t| t.parse::<ReplayPos>().ok())
            .is_some_and(|s| r.order() >= s.end()),
    };
    ConsistencyFacts {
        sync_reached: v.sync_done(res, host),
        clean: !v.is_actual_primary(res, host) || replay.is_some_and(|r| r.dirty == 0),
        replay_reached,
    }
}

/// Members that are actual primary, as far as the tree says.
pub fn actual_primary_hosts(v: &View<'_>, res: &ResName) -> Vec<HostName> {
    let mut members = v.snap.members(res);
    members.retain(|m| v.is_actual_primary(res, m));
    members
}
