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
}

/// A unit manager.
pub trait Manager {
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
}

/// The manager that the environment names.
pub fn manager(env: &HostEnv) -> Result<Box<dyn Manager>, UnitError> {
    Ok(match env.unit_manager {
        UnitManager::Systemd => Box::new(SystemdManager::connect()?),
        UnitManager::Direct => Box::new(DirectManager::new(env)),
    })
}
