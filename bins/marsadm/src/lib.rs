//! `marsadm` as a library: what the program runs, and what its manual page and completions are made from.
mod cli;
mod cmd;
mod complete;
mod ctx;
mod error;
mod lock;
mod net;
mod out;
mod plan;
mod reconcile;
mod record;
mod run;
mod size;
mod stack;
mod stale;
mod templates;

pub use cli::definition;

use std::ffi::OsString;

/// One command as the manual page lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommandHelp {
    /// Command word, resource and arguments: `primary RES|all|LIST`.
    pub usage: String,
    /// One line.
    pub help: &'static str,
}

/// The commands that `marsadm help` lists, in its order.
pub fn commands() -> impl Iterator<Item = CommandHelp> {
    run::listed().map(|c| CommandHelp {
        usage: run::usage_words(c),
        help: c.help,
    })
}

/// Runs one command line (without the program's name); the exit status.
pub fn run(args: impl IntoIterator<Item = OsString>) -> u8 {
    run::run(cli::parse(args))
}
