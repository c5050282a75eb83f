//! Secondary: applies log files to the disk. `main.rs` only parses and runs.

pub mod args;
mod logfile;
mod publish;
mod replay;
mod sys;
mod wake;

pub use replay::{WrapDisk, run};
