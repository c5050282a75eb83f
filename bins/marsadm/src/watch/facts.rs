//! What is shown: plain values, read once, compared with what was shown before.

/// Everything that one look found.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Facts {
    /// The acting host.
    pub host: String,
    /// Wall clock, `2026-11-20 20:31:05`, in the time zone of this machine.
    pub time: String,
    /// Is `mars-meta` running here?
    pub engine_running: bool,
    /// Hosts of the cluster.
    pub hosts: Vec<HostFacts>,
    /// The resources asked for, in their order.
    pub resources: Vec<ResFacts>,
    /// What concerns no resource: damaged links, messages of the host, emergency.
    pub notes: Vec<String>,
}

/// A host.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct HostFacts {
    /// Name.
    pub name: String,
    /// Address, if registered.
    pub ip: Option<String>,
    /// Is its heartbeat younger than the window?
    pub alive: bool,
    /// Seconds since its heartbeat.
    pub age: Option<u64>,
    /// This machine?
    pub local: bool,
    /// Emergency level, 0 to 4.
    pub emergency: u64,
}

/// Work that has a position, bytes.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Job {
    /// `sync`, `fetch`, `replay`; with the host in front, when it is another one.
    pub name: String,
    /// Is so much left that it is worth a line in the list?
    pub is_busy: bool,
    /// Done.
    pub pos: u64,
    /// In total.
    pub size: u64,
    /// Per second.
    pub rate: u64,
    /// Seconds that it still takes, if known.
    pub remain: Option<u64>,
}

impl Job {
    /// Bytes to do.
    pub fn rest(&self) -> u64 {
        self.size.saturating_sub(self.pos)
    }
}

/// A switch as it shall be and as it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Switch {
    /// `attach`, `sync`, `fetch`, `replay`.
    pub name: &'static str,
    /// Wanted.
    pub wanted: bool,
    /// Actual.
    pub actual: bool,
}

/// A member of a resource.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct MemberFacts {
    /// Host.
    pub host: String,
    /// Role.
    pub role: String,
    /// Disk state.
    pub disk: String,
    /// Replication state.
    pub repl: String,
    /// The six letters.
    pub flags: String,
    /// Its switches.
    pub switches: Vec<Switch>,
    /// Its replay position: `log-000000003-a 4096`.
    pub position: String,
    /// Seconds since its heartbeat.
    pub age: Option<u64>,
}

/// A resource, as seen from the acting host.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct ResFacts {
    /// Name.
    pub name: String,
    /// Size in bytes, if known.
    pub size: Option<u64>,
    /// The designated primary.
    pub primary: Option<String>,
    /// Role.
    pub role: String,
    /// Disk state.
    pub disk: String,
    /// Replication state.
    pub repl: String,
    /// The six letters.
    pub flags: String,
    /// Positions of the acting host, and of others what they are busy with.
    pub jobs: Vec<Job>,
    /// Bytes that the acting host, or (at the primary) the slowest member, is behind.
    pub lag: Option<u64>,
    /// Seconds of that, if known.
    pub lag_secs: Option<u64>,
    /// Members.
    pub members: Vec<MemberFacts>,
    /// Local log files with their sizes.
    pub logs: Vec<(String, u64)>,
    /// Messages: errors and warnings.
    pub messages: Vec<String>,
    /// The others.
    pub infos: Vec<String>,
    /// One line for each point of a split brain.
    pub split: Vec<String>,
    /// Lines about disk and device.
    pub device: Vec<String>,
}

/// How good or bad a word is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Mood {
    /// As it should be.
    Good,
    /// Neither.
    Plain,
    /// Under way, or switched off by somebody.
    Busy,
    /// Somebody has to do something.
    Bad,
}

/// The mood of a role, disk or replication state.
pub fn mood(word: &str) -> Mood {
    let name = word.split(['[', '=']).next().unwrap_or(word);
    match name {
        "UpToDate" | "Replicating" | "Replaying" | "Primary" => Mood::Good,
        "Secondary" | "None" | "NotJoined" | "" => Mood::Plain,
        "OutDated" | "WriteBack" | "Recovery" | "Syncing" | "InConsistent" | "Detaching"
        | "Detached" | "NoAttach" | "NotStarted" | "PausedSync" | "PausedFetch"
        | "PausedReplay" | "NotYetPrimary" | "RemainsPrimary" => Mood::Busy,
        _ => Mood::Bad,
    }
}
