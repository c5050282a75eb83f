//! What `view` shows and only this machine knows: figures of daemons that run now, disks and devices that are there. For `marsadm` and
//! `mars-meta`, so that both show the same.
//!
//! May use: `mars-live`, `mars-tree`, `mars-macro` (types), `mars-daemon` (who runs). Changes nothing.
mod live;
mod machine;

pub use live::{Pages, overlay, refresh};
pub use machine::machine;
