//! What `view` shows: the macro language, primitive macros over `mars-policy`, and the predefined macros of `templates/macros`.
//!
//! May use: `mars-policy`, `mars-tree`. Must never do I/O. What needs the outside is asked for through [`Outside`].

mod ctx;
mod features;
mod human;
mod json;
mod lang;
mod local;
mod messages;
mod names;
mod predefined;
mod primitive;
pub mod report;
mod split;
#[cfg(test)]
mod tests;
mod view;

pub use features::FEATURE_NAMES;
pub use human::{human_number, human_seconds, progress_bar};
pub use json::{view_json, view_json_all};
pub use lang::{LangError, Limits, Run, Source, World, builtin_names};
pub use messages::date;
pub use names::primitive_names;
pub use predefined::{predefined_names, predefined_text};
pub use primitive::{MacroError, primitive};
pub use split::split_brain_lines;
pub use view::{NoOutside, Outside, Session, Variables, evaluate_text, evaluate_with};

use mars_policy::View;
use mars_tree::{HostName, ResName, Stamp};
use std::time::Duration;

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
    /// Mounted devices of this machine.
    pub mounts: Vec<Mount>,
    /// Status files of the original (`resource-RES/3.reason.status`, `resource-RES/logstatus-HOST.status`), path below the root and text.
    pub status_files: Vec<(String, String)>,
    /// What is read from the log files that are here, for [`report`]; left out = not known.
    pub oldest_unapplied: Vec<OldestUnapplied>,
    /// Seconds that local time is ahead of UTC, at a moment in seconds since 1970. `None`: times are shown in UTC.
    pub utc_offset: Option<fn(u64) -> i32>,
    /// Error messages younger than this are not shown yet (`--timeout`); `None`: 600 s.
    pub error_settle: Option<Duration>,
}

/// The first log record that a member has not applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct OldestUnapplied {
    /// Resource.
    pub res: ResName,
    /// Member.
    pub host: HostName,
    /// When it was written (Lamport).
    pub stamp: Stamp,
}

/// A mounted device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Mount {
    /// Device as given to mount, or what it links to.
    pub device: String,
    /// Where.
    pub dir: String,
    /// `ext4`.
    pub fstype: String,
    /// `rw,relatime`.
    pub flags: String,
}

/// Evaluates `view-NAME` with nothing from outside: a predefined macro, a primitive one, or a function of the language.
pub fn evaluate(name: &str, scope: &Scope<'_>) -> Result<String, MacroError> {
    evaluate_with(name, scope, &Variables::new(), &mut NoOutside)
}
