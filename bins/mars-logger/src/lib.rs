//! The logger of a primary: engine, publication, recovery. `main.rs` only parses and runs.
//!
//! `core` is pure; `engine`, `backend` and `threads` put locks and threads around it; `io` is what they need from outside.

mod backend;
pub mod control;
pub mod core;
pub mod engine;
pub mod io;
pub mod links;
pub mod prepare;
mod progress;
pub mod recovery;
pub mod run;
pub mod stages;
pub mod threads;
pub mod wake;
pub mod wrap;
