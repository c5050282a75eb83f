//! The macro language of `marsadm` (macro-language.md).
//!
//! A macro is text; evaluation copies it to the output and replaces escapes and calls, leftmost first. Results are never scanned
//! again, except by `%eval` and `%eval-down`. Evaluation is bounded in steps, depth and output, whatever the text says.
//! What needs the outside (files, clock, links, waiting, the values of the resource) comes through [`World`].
mod builtin;
mod control;
mod eval;
mod source;
mod sprintf;
mod strings;
mod value;

pub use builtin::builtin_names;
pub use eval::{LangError, Limits, Run};
pub use source::Source;
pub(crate) use value::number_of;

use std::rc::Rc;

/// What the language asks the outside for.
pub trait World {
    /// A macro written in the language: a file of the user, or a predefined one. Asked for every call; keeps its own cache.
    fn source(&mut self, name: &str) -> Option<Rc<Source>>;
    /// A value that this crate's primitive macros, or the program, know. `None`: no such macro.
    fn primitive(&mut self, name: &str, args: &[String]) -> Option<Result<String, String>>;
    /// To the user's eyes (stderr), as it is.
    fn tell(&mut self, text: &str);
    /// Pauses for so many seconds (`%sleep`), or, `limited`, at most until the time given by `--timeout` is over (`%timeout`).
    fn pause(&mut self, seconds: f64, limited: bool) -> Result<(), String>;
    /// Target of a symlink; `None` when there is none.
    fn read_link(&mut self, path: &str) -> Option<String>;
    /// Makes a symlink.
    fn set_link(&mut self, value: &str, path: &str) -> Result<(), String>;
    /// Existing paths, sorted, without tombstones.
    fn glob(&mut self, pattern: &str) -> Result<Vec<String>, String>;
    /// Should evaluation end (the user is impatient)? Asked now and then.
    fn interrupted(&mut self) -> bool {
        false
    }
}

#[cfg(test)]
mod tests;
