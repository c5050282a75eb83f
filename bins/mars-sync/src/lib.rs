//! The sync of a secondary, and the service that compares blocks for it. `main.rs` only parses and runs.
//!
//! `window` is pure and has no clock, no lock and no I/O; `proto` says what goes over the wire; the rest is threads and files around it.

pub mod args;
mod blocks;
pub mod client;
mod copy;
pub mod proto;
mod relevant;
pub mod serve;
mod shared;
pub mod window;
