//! Mapped live pages and the Lamport register: the only memory that the processes of one host share.
//!
//! May use: the operating system. Must never use: any other MARS crate, the network, the tree.
//! Nothing here is truth: everything is lost with a reboot and rebuilt from tree and logs.

mod clock;
mod map;
mod page;
mod stamp;
mod watch;

pub use clock::Clock;
pub use page::{FetchLive, LivePage, LiveRecord, LogLive, Part, ReplayLive, SyncLive};
pub use stamp::{Stamp, StampError};
pub use watch::{Seen, WATCH_MAX, Watch};
