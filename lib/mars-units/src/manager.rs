//! What both managers can do.
use crate::{DirectManager, SystemdManager};
use mars_policy::Unit;
use mars_tree::{HostEnv, UnitManager};
use std::collections::BTreeSet;
use std::time::Duration;

/// State of a unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UnitStatus {
    /// Running with this main process.
    Running(i32),
    /// Not running.
    Stopped,
    /// Ended with an error.
    Failed(String),
}

/// What systemd knows about the file of a unit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum UnitFileState {
    /// There is none.
    Missing,
    /// Enabled, for ever or until the next reboot.
    Enabled,
    /// May be enabled, but is not.
    Disabled,
    /// Has nothing to enable: others pull it in, or somebody starts it.
    Static,
    /// Must not be started.
    Masked,
    /// Anything else, in systemd's word (`generated`, `alias`, `linked`, ...).
    Other(String),
}

impl UnitFileState {
    /// Reads systemd's word.
    pub fn from_word(word: &str) -> UnitFileState {
        match word {
            "enabled" | "enabled-runtime" => UnitFileState::Enabled,
            "disabled" => UnitFileState::Disabled,
            "static" => UnitFileState::Static,
            "masked" | "masked-runtime" => UnitFileState::Masked,
            "" => UnitFileState::Missing,
            other => UnitFileState::Other(other.to_string()),
        }
    }
    /// May the unit be started? What `systemctl is-enabled` says yes to: not disabled, masked or missing.
    pub fn may_start(&self) -> bool {
        match self {
            UnitFileState::Enabled | UnitFileState::Static => true,
            UnitFileState::Other(word) => !word.starts_with("linked") && word != "bad",
            UnitFileState::Missing | UnitFileState::Disabled | UnitFileState::Masked => false,
        }
    }
}

/// State of a unit that is not ours.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForeignState {
    /// Does systemd have its definition? False for unknown, masked and broken units.
    pub loaded: bool,
    /// `ActiveState`: `active`, `inactive`, `activating`, `deactivating`, `reloading`, `failed`, `maintenance`.
    pub active: String,
    /// Its file.
    pub file: UnitFileState,
    /// Why it failed or cannot be loaded; otherwise empty.
    pub reason: String,
}

impl ForeignState {
    /// Does it run, or is it about to?
    pub fn is_alive(&self) -> bool {
        matches!(
            self.active.as_str(),
            "active" | "activating" | "reloading" | "refreshing"
        )
    }
}

/// Why a unit could not be started or stopped.
#[derive(Debug, thiserror::Error)]
pub enum UnitError {
    /// The manager cannot be reached.
    #[error("unit manager: {0}")]
    Manager(String),
    /// The unit failed; with its own reason where known.
    #[error("{unit}: {reason}")]
    Unit {
        /// Unit name.
        unit: String,
        /// Reason.
        reason: String,
    },
}

impl UnitError {
    pub(crate) fn unit(unit: &Unit, reason: impl std::fmt::Display) -> UnitError {
        UnitError::Unit {
            unit: unit.to_string(),
            reason: reason.to_string(),
        }
    }
    pub(crate) fn named(unit: &str, reason: impl std::fmt::Display) -> UnitError {
        UnitError::Unit {
            unit: unit.to_string(),
            reason: reason.to_string(),
        }
    }
}

/// A unit manager. Several threads may use it at once.
///
/// "Foreign" units are the administrator's: file systems, exports, services on top of a device. They have full names
/// (`mnt-data.mount`), and need systemd.
pub trait Manager: Send + Sync {
    /// Our units that run now.
    fn running(&self) -> Result<BTreeSet<Unit>, UnitError>;
    /// State of one.
    fn status(&self, unit: &Unit) -> Result<UnitStatus, UnitError>;
    /// Starts; success when it runs already. Returns when the process has been started (and, under systemd, is ready).
    fn start(&self, unit: &Unit) -> Result<(), UnitError>;
    /// Asks to stop (SIGTERM) and waits until it is gone; success when it does not run.
    fn stop(&self, unit: &Unit, timeout: Duration) -> Result<(), UnitError>;
    /// May units run on this host at all? False after [`Manager::set_enabled`]`(false)`: what an unloaded kernel module was. A
    /// reconciler must start nothing then.
    fn enabled(&self) -> Result<bool, UnitError>;
    /// Remembers that this host is started (or stopped), until the next reboot. Stopping the units is the caller's job.
    fn set_enabled(&self, on: bool) -> Result<(), UnitError>;

    /// State of a foreign unit. One that does not exist is not loaded, `inactive` and [`UnitFileState::Missing`].
    fn foreign_state(&self, unit: &str) -> Result<ForeignState, UnitError>;
    /// Starts a foreign unit and waits for the result, at most `limit`. Success when it runs already. A unit that systemd silently did not start because
    /// a condition does not hold is an error.
    fn foreign_start(&self, unit: &str, limit: Duration) -> Result<(), UnitError>;
    /// Stops a foreign unit and waits for the result, at most `limit`. Success when it does not run or does not exist.
    fn foreign_stop(&self, unit: &str, limit: Duration) -> Result<(), UnitError>;
    /// Enables foreign units: those with a file below `/run` until the next reboot, others for ever.
    fn enable(&self, units: &[String]) -> Result<(), UnitError>;
    /// The contrary.
    fn disable(&self, units: &[String]) -> Result<(), UnitError>;
    /// Makes systemd read its unit files again (`daemon-reload`). Never two at once: systemd does one after the other.
    fn reload_units(&self) -> Result<(), UnitError>;
}

/// The manager that the environment names.
pub fn manager(env: &HostEnv) -> Result<Box<dyn Manager>, UnitError> {
    Ok(match env.unit_manager {
        UnitManager::Systemd => Box::new(SystemdManager::connect()?),
        UnitManager::Direct => Box::new(DirectManager::new(env)),
    })
}
