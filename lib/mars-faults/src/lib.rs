//! Failing, slow and seeking disks and log files, for tests and benches. The shipped daemons do not link this.
//!
//! [`Faults`] holds rules (see [`rules`]); `disk` and `store` wrap what the daemons work on. The rules come from a trigger file that is
//! looked at before every operation, so that a test switches faults in a running daemon.

mod disk;
mod faults;
mod log;
pub mod rules;
pub mod seek;

pub use faults::{ENV, Faults, switch};
pub use rules::{BadRule, Op, Rule, Rules};
pub use seek::{SeekDisk, SeekModel};
