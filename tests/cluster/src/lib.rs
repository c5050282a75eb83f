//! Hosts with a systemd of their own: containers of `systemd-nspawn` with MARS installed, joined by a network of their own.
//!
//! Everything a cluster consists of lives in one process name space, one mount name space and one directory. A *keeper* process holds them and
//! waits for the end of a pipe from the harness: when the harness ends, however that happens, the kernel kills all processes and takes all mounts
//! and networks away, and the keeper removes the rest.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

pub mod cluster;
pub mod disk;
pub mod host;
pub mod install;
pub mod journal;
pub mod keeper;
pub mod lines;
pub mod manual;
pub mod rootfs;
mod util;

pub use cluster::{Builder, Cluster};
pub use host::{Host, Ran};
pub use util::{PATIENCE, wait_for};
