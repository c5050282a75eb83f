//! The symlink tree under `/mars`: keys, values, stamps; reading, writing, deleting and watching links.
//!
//! May use: `mars-live` (clock). Must never use: the network, daemons, policy. Formats: `symlink-tree.md`.

mod batch;
mod dirs;
mod env;
mod form;
mod key;
mod memory;
mod merge;
mod names;
mod scan;
mod snapshot;
mod tree;
mod value;
mod watch;

pub use batch::Batch;
pub use env::{EnvError, HostEnv, UnitManager};
pub use key::{Key, TodoSwitch};
pub use mars_live::Stamp;
pub use memory::{LinkChange, MemoryLinks};
pub use merge::{Decision, LocalState, Rank, decide};
pub use names::{HostName, LogName, NameError, ResName};
pub use snapshot::{FileMeta, Link, Snapshot, digit_aware_cmp};
pub use tree::{Applied, RemoteLink, Tree, TreeError};
pub use value::{MessageValue, ReplayPos, Value, ValueError, VersionHead, VersionLink};
pub use watch::{TreeEvent, Watcher};
