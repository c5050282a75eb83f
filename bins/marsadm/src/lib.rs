//! `marsadm` as a library: what the program runs, and what its manual page and completions are made from.
mod backup;
mod checks;
mod cli;
mod cmd;
mod complete;
mod context;
mod ctx;
mod error;
mod exec;
pub mod help;
mod hooks;
mod lock;
mod net;
mod out;
mod peers;
mod phases;
mod plan;
mod progress;
mod reconcile;
mod record;
mod run;
mod size;
mod stack;
mod stale;
mod templates;
mod watch;

pub use cli::definition;

use std::ffi::OsString;

/// One command as the manual page lists it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CommandHelp {
    /// Command word.
    pub name: &'static str,
    /// Command word, resource and arguments: `primary RES|all|LIST`.
    pub usage: String,
    /// One line; empty for those that are not listed.
    pub help: &'static str,
    /// Least and largest number of words behind it, the resource counted.
    pub words: (usize, usize),
    /// Does it need a cluster?
    pub cluster: bool,
    /// A word of DRBD that does nothing (`Some(true)`) or is refused (`Some(false)`).
    pub drbd: Option<bool>,
}

/// All commands of the table, also those that are not listed.
pub fn commands() -> impl Iterator<Item = CommandHelp> {
    cmd::all().map(|c| {
        let res = match c.res {
            cmd::ResArg::None => (0, 0),
            cmd::ResArg::Optional => (0, 1),
            cmd::ResArg::Many | cmd::ResArg::One => (1, 1),
        };
        CommandHelp {
            name: c.name,
            usage: run::usage_words(c),
            help: c.help,
            words: (res.0 + c.min, res.1 + c.max),
            cluster: c.cluster,
            drbd: match c.run {
                cmd::Run::Ignored(_) => Some(true),
                cmd::Run::Refused(_) => Some(false),
                _ => None,
            },
        }
    })
}

/// Runs one command line (without the program's name); the exit status.
pub fn run(args: impl IntoIterator<Item = OsString>) -> u8 {
    run::run(cli::parse(args))
}
