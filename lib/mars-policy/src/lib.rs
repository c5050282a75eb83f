//! Pure decisions: a tree snapshot and a host name in; roles, states, flags, positions, wanted units, deletable logs out.
//!
//! May use: `mars-tree` types, `mars-log` version links. Must never do I/O, read a clock, or know systemd.

mod amount;
mod errno;
mod escape;
mod facts;
mod features;
mod fetch;
#[doc(hidden)]
pub mod fixtures;
mod history;
mod keep;
mod known;
pub mod merge;
mod primary;
mod progress;
mod replay;
pub mod split;
mod stack;
mod states;
mod sync;
mod units;

#[cfg(test)]
mod tests;

pub use amount::amount;
pub use errno::errno_text;
pub use escape::{escape, escape_path, unescape};
pub use features::{
    common_features, log_compression, log_digest, net_compression, net_digest, space_level,
};
pub use fetch::{FetchHold, FetchPlan, fetch_plan};
pub use history::{SplitBrain, SplitPoint, split_brain};
pub use keep::{RotateHold, deletable_logs, deletable_versions, min_replay_nr, rotate_plan};
pub use primary::{PrimaryPlan, PrimaryRefusal, Tail, primary_plan};
pub use progress::{Progress, SyncProgress, percent, permille, progress, sync_progress};
pub use replay::{ReplayHold, ReplayPlan, replay_plan};
pub use stack::{Stack, StackAction, Want, is_unit_name, stack_action, stack_holds_device};
pub use states::{
    ConsistencyFacts, DiskState, Flags, ReplState, Role, actual_primary_hosts, consistency,
    disk_state, disk_state_at, flags, flags_at, is_orphan, outdated_letters, repl_state, role,
    role_at,
};
pub use sync::{SyncHold, SyncPlan, device_size_key, sync_plan, sync_source_key};
pub use units::{ParseUnitError, Unit, wanted_units};

use mars_tree::{HostName, Snapshot, Stamp};
use std::time::Duration;

/// A snapshot seen from one host at one moment. Everything in this crate is a function of it.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The tree as this machine has it.
    pub snap: &'a Snapshot,
    /// The acting host (`--host=`, normally the local one).
    pub me: &'a HostName,
    /// The machine on which the snapshot was read: its log files are in `snap.files`.
    pub local: &'a HostName,
    /// Lamport now.
    pub now: Stamp,
    /// A host whose metadata is older counts as dead (default 60 s).
    pub window: Duration,
    /// Is `mars-meta` running on `local` (what "module loaded" was)?
    pub engine_running: bool,
}
