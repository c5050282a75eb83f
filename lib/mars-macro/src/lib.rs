//! What `view` shows: primitive macros and the standard complex macros, over `mars-policy`.
//!
//! May use: `mars-policy`, `mars-tree`. Must never do I/O. The macro language itself arrives later in this crate; primitives are
//! already named values with arguments, so that it can call them.

mod ctx;
mod features;
mod human;
mod json;
mod messages;
mod names;
mod primitive;
mod standard;
#[cfg(test)]
mod tests;

pub use human::{human_number, human_seconds, progress_bar};
pub use json::{view_json, view_json_all};
pub use names::primitive_names;
pub use primitive::{MacroError, primitive};
pub use standard::{standard, standard_names};

use mars_policy::View;
use mars_tree::ResName;

/// What a macro is evaluated for.
#[derive(Clone, Copy, Debug)]
pub struct Scope<'a> {
    /// Tree and host.
    pub view: View<'a>,
    /// Resource; `None` for global macros.
    pub res: Option<&'a ResName>,
    /// `--threshold`, bytes.
    pub threshold: u64,
    /// `--verbose` count.
    pub verbose: u32,
    /// Arguments of the macro.
    pub args: &'a [String],
    /// Facts about this machine that only its kernel knows.
    pub machine: &'a Machine,
}

/// Local facts, gathered by the caller (this crate does no I/O).
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// Resources whose `/dev/mars/NAME` exists here.
    pub devices: Vec<String>,
    /// Disk paths (values of `data-HOST`) that are usable (block device or regular file).
    pub disks_present: Vec<String>,
    /// Directory of the devices, normally `/dev/mars`.
    pub dev_dir: String,
    /// Root directory, normally `/mars`.
    pub root: String,
    /// Wall clock, seconds.
    pub real_time: u64,
}

/// Evaluates `view-NAME`: a standard complex macro or a primitive one. The result has no final newline added.
pub fn evaluate(name: &str, scope: &Scope<'_>) -> Result<String, MacroError> {
    match standard(name, scope) {
        Some(r) => r,
        None => primitive(name, scope),
    }
}
