//! What `view` shows and only this machine knows: figures of daemons that run now, disks and devices that are there. For `marsadm` and
//! `mars-meta`, so that both show the same.
//!
//! May use: `mars-live`, `mars-tree`, `mars-log` (reading a record), `mars-policy`, `mars-macro` (types), `mars-daemon` (who runs). Changes nothing.
mod live;
mod machine;
mod oldest;
mod picture;

pub use live::{Pages, overlay, refresh};
pub use machine::{machine, utc_offset};
pub use oldest::oldest_unapplied;
pub use picture::{News, Picture};
