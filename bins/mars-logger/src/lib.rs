//! The logger of a primary: engine, publication, recovery. `main.rs` only parses and runs.
//!
//! `core` is pure; `engine`, `backend` and `threads` put locks and threads around it; `io` is what they need from outside.

pub mod args;
mod backend;
pub mod bus;
pub mod control;
pub mod core;
pub mod engine;
mod figures;
pub mod freeze;
pub mod io;
pub mod links;
pub mod prepare;
mod progress;
pub mod recovery;
pub mod run;
pub mod stages;
pub mod stopping;
pub mod threads;
mod trouble;
pub mod wake;
pub mod wrap;
