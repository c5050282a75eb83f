//! What every daemon shares: environment, configuration, logging, readiness, watchdog, signals, single instance.
//!
//! May use: `mars-tree` (environment), `mars-net` (connections between members). Must never know what a daemon does.

pub mod amount;
pub mod config;
mod control;
mod daemon;
pub mod events;
mod failures;
mod fdstore;
pub mod harden;
mod journal;
mod limit;
mod lock;
mod nearest;
mod rates;
mod reload;
mod service;
mod trouble;
pub mod watchdog;

pub use config::{
    Config, ConfigError, Durability, FrontChoice, LogCompression, LogDigest, ResourceConfig,
};
pub use control::Control;
pub use daemon::{Daemon, Stop, init_tool_logging, report_failure};
pub use failures::Failures;
pub use fdstore::FdStore;
pub use journal::Priority;
pub use lock::{InstanceLock, is_running};
pub use nearest::nearest;
pub use rates::Rates;
pub use service::{ServiceSpec, dial_member, serve_members, spawn};
pub use trouble::{Once, peer_left};
