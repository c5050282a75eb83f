//! What every daemon shares: environment, configuration, logging, readiness, watchdog, signals, single instance.
//!
//! May use: `mars-tree` (environment), `mars-net` (connections between members). Must never know what a daemon does.

mod config;
mod control;
mod daemon;
mod lock;
mod rates;
mod service;
mod trouble;

pub use config::{
    Config, ConfigError, Durability, FrontChoice, LogCompression, LogDigest, ResourceConfig,
};
pub use control::Control;
pub use daemon::{Daemon, Stop, init_tool_logging};
pub use lock::{InstanceLock, is_running};
pub use rates::Rates;
pub use service::{ServiceSpec, dial_member, serve_members, spawn};
pub use trouble::{Once, peer_left};
