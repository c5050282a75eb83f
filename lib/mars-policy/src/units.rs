//! Which daemons should run on a host.
use crate::escape::{escape, unescape};
use crate::{SyncHold, View, sync::SyncTurns};
use mars_tree::{Key, ResName, TodoSwitch};
use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

/// A daemon of MARS.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Unit {
    /// `mars-meta.service`
    Meta,
    /// `mars-fetch.socket` (systemd) or the process `mars-fetch serve` (direct)
    FetchServe,
    /// `mars-sync.socket` (systemd) or the process `mars-sync serve` (direct)
    SyncServe,
    /// `mars-logger@RES.service`
    Logger(ResName),
    /// `mars-fetch@RES.service`
    Fetch(ResName),
    /// `mars-replay@RES.service`
    Replay(ResName),
    /// `mars-sync@RES.service`
    Sync(ResName),
}

/// Not a unit of ours.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a MARS unit")]
pub struct ParseUnitError(pub String);

impl Unit {
    /// The resource of a templated unit.
    pub fn resource(&self) -> Option<&ResName> {
        match self {
            Unit::Meta | Unit::FetchServe | Unit::SyncServe => None,
            Unit::Logger(r) | Unit::Fetch(r) | Unit::Replay(r) | Unit::Sync(r) => Some(r),
        }
    }
    /// The program.
    fn program(&self) -> &'static str {
        match self {
            Unit::Meta => "mars-meta",
            Unit::FetchServe | Unit::Fetch(_) => "mars-fetch",
            Unit::SyncServe | Unit::Sync(_) => "mars-sync",
            Unit::Logger(_) => "mars-logger",
            Unit::Replay(_) => "mars-replay",
        }
    }
    /// Program and arguments for direct start: `("mars-logger", ["lv-0"])`, `("mars-fetch", ["serve"])`.
    pub fn command(&self) -> (&'static str, Vec<String>) {
        let args = match self {
            Unit::Meta => vec![],
            Unit::FetchServe | Unit::SyncServe => vec!["serve".to_string()],
            Unit::Logger(r) | Unit::Fetch(r) | Unit::Replay(r) | Unit::Sync(r) => {
                vec![r.to_string()]
            }
        };
        (self.program(), args)
    }
}

/// The systemd unit name, instance escaped as `systemd-escape` does (`mars-logger@lv\x2d0.service`).
impl fmt::Display for Unit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self, self.resource()) {
            (Unit::FetchServe | Unit::SyncServe, _) => write!(f, "{}.socket", self.program()),
            (_, None) => write!(f, "{}.service", self.program()),
            (_, Some(res)) => write!(f, "{}@{}.service", self.program(), escape(res.as_str())),
        }
    }
}

impl FromStr for Unit {
    type Err = ParseUnitError;
    fn from_str(s: &str) -> Result<Self, ParseUnitError> {
        let bad = || ParseUnitError(s.chars().take(100).collect());
        match s {
            "mars-meta.service" => return Ok(Unit::Meta),
            "mars-fetch.socket" => return Ok(Unit::FetchServe),
            "mars-sync.socket" => return Ok(Unit::SyncServe),
            _ => {}
        }
        let (program, rest) = s.split_once('@').ok_or_else(bad)?;
        let make = match program {
            "mars-logger" => Unit::Logger,
            "mars-fetch" => Unit::Fetch,
            "mars-replay" => Unit::Replay,
            "mars-sync" => Unit::Sync,
            _ => return Err(bad()),
        };
        let instance = rest.strip_suffix(".service").ok_or_else(bad)?;
        let res: ResName = unescape(instance)
            .ok_or_else(bad)?
            .parse()
            .map_err(|_| bad())?;
        Ok(make(res))
    }
}

/// The units that should run on `v.me` (architecture.md, table of units), for all resources.
///
/// The actual state of this host counts: a logger that left the primary role stays while its device is open. After a crash
/// `is-primary` and `open-count` may be left over; the reconciler must reset them for daemons that do not run *before* it asks.
pub fn wanted_units(v: &View<'_>) -> BTreeSet<Unit> {
    let mut units = BTreeSet::new();
    let Some(uuid) = v.snap.get(&Key::Uuid) else {
        return units;
    };
    units.insert(Unit::Meta);
    if uuid.value.as_bytes() == b"(any)" {
        // Still joining: nothing in this tree is certain yet.
        return units;
    }
    units.insert(Unit::FetchServe);
    units.insert(Unit::SyncServe);
    let turns = SyncTurns::of(v);
    for res in v.snap.resources() {
        let on = |s| v.switch(&res, v.me, s);
        if !v.has_disk(&res, v.me) || !on(TodoSwitch::Attach) {
            continue;
        }
        if wants_logger(v, &res) {
            units.insert(Unit::Logger(res.clone()));
        }
        if v.acts_as_primary(&res, v.me) {
            continue;
        }
        if on(TodoSwitch::Connect) {
            units.insert(Unit::Fetch(res.clone()));
        }
        if on(TodoSwitch::AllowReplay) {
            units.insert(Unit::Replay(res.clone()));
        }
        if on(TodoSwitch::Sync)
            && !v.sync_done(&res, v.me)
            && crate::sync::plan_with(v, &res, &turns) != Err(SyncHold::Limit)
        {
            units.insert(Unit::Sync(res));
        }
    }
    units
}

/// Primary here, or leaving the role and still in use. A designated primary with an unfinished sync has no usable data: it
/// must not offer a device.
fn wants_logger(v: &View<'_>, res: &ResName) -> bool {
    let in_use =
        v.is_actual_primary(res, v.me) && v.snap.actual(res, v.me, "open-count").unwrap_or(0) > 0;
    (v.is_designated(res, v.me) && v.sync_done(res, v.me)) || in_use
}
