//! The data disk: exclusive access, dirty buffer, write-back order, log application.
//!
//! May use: `mars-log`, `mars-tree`. Must never use: the network, policy, units. `buffer` and `window` are pure.

mod apply;
mod apply_lock;
mod buffer;
mod data;
mod disk;
mod salvage;
mod sys;
mod window;
mod write;

pub use apply::{
    ApplyAnswer, ApplyEnd, ApplyError, ApplyEvent, ApplyOptions, ApplyOutcome, WINDOW_BYTES,
    apply_log,
};
pub use apply_lock::{CopyGuard, CopyLock};
pub use buffer::{DirtyBuffer, Generation, PAGE, WriteRun};
pub use data::DataDisk;
pub use disk::{Disk, DiskError, DiskMode};
pub use salvage::{Ranges, salvage};
pub use window::{ApplyCore, ApplyStep, FLUSH_WINDOWS, ScanStep, WINDOWS_MAX, Window, WindowScan};
pub use write::{WriteOut, write_generation};
