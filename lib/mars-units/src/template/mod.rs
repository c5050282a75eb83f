//! Unit templates: unit files made from templates for each resource (systemd-templates.md, docs/templates.md).
//!
//! [`plan`] reads the directories and computes what is to be written, removed, enabled and started; [`carry_out`] does it. In between
//! nothing has been changed, so a plan can also be shown only.

mod commit;
mod env;
#[cfg(feature = "jinja")]
mod jinja;
mod marker;
mod name;
mod plan;
mod scan;
mod script;
mod subst;
#[cfg(test)]
mod tests;

pub use commit::{Outcome, carry_out};
pub use env::{Syntax, TemplateEnv, TemplateEnvError};
pub use marker::Markers;
pub use scan::{Instance, Scan, Template, scan};
pub use script::{ScriptOp, is_script, run_script};

use mars_tree::ResName;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::SystemTime;

/// Most warnings of one kind of work: a hostile name must not fill the journal.
const WARNINGS_MAX: usize = 200;

/// The macro processor and its variables, as templates see them.
pub trait Macros {
    /// A new unit begins: only the predefined variables, for this resource or for none, are defined.
    fn begin(&mut self, res: Option<&str>);
    /// Evaluates a text of the macro language. Variables set in it stay until the next [`Macros::begin`].
    fn eval(&mut self, text: &str) -> Result<String, String>;
    /// A variable; `None` when it is not defined.
    fn var(&self, name: &str) -> Option<String>;
    /// Sets a variable (what a template name matched).
    fn set_var(&mut self, name: &str, value: &str);
}

/// A local resource and the units configured for it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Wanted {
    /// The resource.
    pub res: ResName,
    /// `systemd-start-unit`: a name, or several with blanks between.
    pub start: Option<String>,
    /// `systemd-stop-unit`, likewise.
    pub stop: Option<String>,
}

/// What a keyword is looked up for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// `NAME_START`
    Start,
    /// `NAME_STOP`
    Stop,
}

/// A step, in the order in which it is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Step {
    /// Stop a unit that is no longer needed.
    Stop(String),
    /// Disable it.
    Disable(String),
    /// Remove its file.
    Unlink {
        /// Unit.
        unit: String,
        /// File.
        path: PathBuf,
    },
    /// Put a file in place.
    Install {
        /// Unit.
        unit: String,
        /// File.
        to: PathBuf,
        /// Content, with header.
        text: String,
        /// Permissions.
        mode: u32,
        /// Time of modification: the template's.
        mtime: SystemTime,
    },
    /// systemd reads its unit files again.
    Reload,
    /// Enable new units.
    Enable(Vec<String>),
    /// Start a unit that always runs.
    Start(String),
}

/// What is known about an instance.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Generated {
    /// Template it is made from.
    pub template: PathBuf,
    /// Resource; `None` for plain templates.
    pub res: Option<String>,
    /// Markers in it.
    pub markers: Markers,
    /// Units it refers to.
    pub refs: BTreeSet<String>,
}

impl Generated {
    /// Is it started as soon as it exists? `KEEP_RUNNING` in the stack of a resource leaves that to the want link: it would
    /// otherwise run at all hosts.
    fn is_kept_up(&self) -> bool {
        let m = self.markers;
        m.always_start || (m.keep_running && self.res.is_none() && !m.always_disabled)
    }
}

/// The result of [`plan`].
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Generation {
    /// What is to be done, in this order.
    pub steps: Vec<Step>,
    /// What the administrator should know.
    pub warnings: Vec<String>,
    /// What cannot be done.
    pub errors: Vec<String>,
    /// All units that are made from templates, new ones or not.
    pub units: BTreeMap<String, Generated>,
    /// Those that should always run: to be started when they do not.
    pub keep_up: BTreeSet<String>,
    installs: Vec<Step>,
}

impl Generation {
    /// Only these steps.
    pub fn of(steps: Vec<Step>) -> Generation {
        Generation {
            steps,
            ..Generation::default()
        }
    }
    fn warn(&mut self, text: String) {
        if self.warnings.len() < WARNINGS_MAX && !self.warnings.contains(&text) {
            self.warnings.push(text);
        }
    }
    fn error(&mut self, text: String) {
        if self.errors.len() < WARNINGS_MAX && !self.errors.contains(&text) {
            self.errors.push(text);
        }
    }
}

/// Computes the instances that are needed. `full`: `wanted` holds all local resources, so what is not needed by them is removed.
/// `force`: also what is up to date is made anew.
pub fn plan(
    env: &TemplateEnv,
    wanted: &[Wanted],
    full: bool,
    force: bool,
    macros: &mut dyn Macros,
) -> Generation {
    plan_scanned(env, &scan(env), wanted, full, force, macros)
}

/// [`plan`] without reading anything.
pub fn plan_scanned(
    env: &TemplateEnv,
    found: &Scan,
    wanted: &[Wanted],
    full: bool,
    force: bool,
    macros: &mut dyn Macros,
) -> Generation {
    let requests: Vec<plan::Request> = wanted
        .iter()
        .map(|w| plan::Request {
            res: w.res.to_string(),
            units: [(&w.start, "start unit"), (&w.stop, "stop unit")]
                .into_iter()
                .filter_map(|(u, what)| Some((u.clone()?, what)))
                .collect(),
        })
        .collect();
    plan::Planner::new(env, found, macros, force).plan(&requests, full)
}

/// The unit that a capital word (`DEFAULT`) stands for at this resource: the first template in search order that carries the
/// marker `DEFAULT_START` or `DEFAULT_STOP`. Names with `~{}` are not possible.
pub fn keyword(
    env: &TemplateEnv,
    res: &ResName,
    word: &str,
    op: Op,
    macros: &mut dyn Macros,
) -> Option<String> {
    plan::keyword(env, &scan(env), res.as_str(), word, op, macros)
}

/// Is this a capital word as [`keyword`] takes it?
pub fn is_keyword(word: &str) -> bool {
    word.starts_with(|c: char| c.is_ascii_uppercase())
        && word
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

/// `mnt-lv-0.mount` -> `mnt-lv\x2d0.mount` for resource `lv-0`: the name of a resource in a unit name, as people write it, is escaped.
pub fn escape_resource_in(unit: &str, res: &ResName) -> String {
    let (plain, escaped) = (res.as_str(), mars_policy::escape(res.as_str()));
    if plain == escaped {
        return unit.to_string();
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut out = String::new();
    let mut rest = unit;
    while let Some(at) = rest.find(plain) {
        let (before, from) = rest.split_at(at);
        let after = from.get(plain.len()..).unwrap_or("");
        let stands_alone = !before.ends_with(is_name) && !after.starts_with(is_name);
        out.push_str(before);
        out.push_str(if stands_alone { &escaped } else { plain });
        rest = after;
    }
    out.push_str(rest);
    out
}
