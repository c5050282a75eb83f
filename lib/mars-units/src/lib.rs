//! Units: which run, which should, and the difference brought about through systemd or as plain processes.
//!
//! May use: `mars-policy` (wanted units), `mars-tree` (environment). Must never decide anything about replication.

mod direct;
mod manager;
mod plan;
mod sys;
mod systemd;
pub mod template;

pub use direct::DirectManager;
pub use manager::{ForeignState, Manager, UnitError, UnitFileState, UnitStatus, manager};
pub use mars_policy::{escape, escape_path, unescape};
pub use plan::{UnitChange, plan};
pub use sys::close_inherited;
pub use systemd::SystemdManager;
