//! The administrator's units on top of a device (systemd-templates.md sections 8 to 11): where they should run, and what a host has
//! to do about it.
use crate::View;
use mars_tree::{HostName, Key, ResName, Snapshot, TodoSwitch};

/// Longest unit name that systemd takes, bytes.
const UNIT_NAME_MAX: usize = 255;
/// What a unit name may end in; the last one is run by `marsadm` itself.
const SUFFIXES: [&str; 12] = [
    "service",
    "socket",
    "device",
    "mount",
    "automount",
    "swap",
    "target",
    "path",
    "timer",
    "slice",
    "scope",
    "script",
];

/// The host that shall run the stack.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Want {
    /// `(none)`: it rests everywhere.
    Nobody,
    /// This one.
    Host(HostName),
}

impl std::fmt::Display for Want {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Want::Nobody => f.write_str("(none)"),
            Want::Host(h) => h.fmt(f),
        }
    }
}

/// The stack of a resource as the tree has it. Damaged values count as absent.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Stack {
    /// Tip of the stack: starting it starts everything below.
    pub start: Option<String>,
    /// Its bottom: stopping it stops everything above.
    pub stop: Option<String>,
    /// Where it shall run; absent = nobody controls it.
    pub want: Option<Want>,
}

/// `resource-RES/systemd-NAME`.
fn key(res: &ResName, name: &str) -> Key {
    Key::Systemd(res.clone(), name.to_string())
}

impl Stack {
    /// Reads the three links.
    pub fn of(snap: &Snapshot, res: &ResName) -> Stack {
        let words = |name: &str| -> Vec<String> {
            snap.text(&key(res, name))
                .unwrap_or_default()
                .split_ascii_whitespace()
                .map(str::to_string)
                .collect()
        };
        let want = match snap.text(&key(res, "want")) {
            Some("(none)") => Some(Want::Nobody),
            Some(text) => text.parse().ok().map(Want::Host),
            None => None,
        };
        let valid = |unit: &String| is_unit_name(unit);
        Stack {
            start: words("start-unit").into_iter().next().filter(valid),
            stop: words("stop-unit").into_iter().next_back().filter(valid),
            want,
        }
    }

    /// Are there units, and does somebody say where they run?
    pub fn is_controlled(&self) -> bool {
        self.want.is_some() && (self.start.is_some() || self.stop.is_some())
    }
}

/// What a host has to do for one stack. Doing it again changes nothing.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum StackAction {
    /// Nothing.
    Nothing,
    /// This unit must run.
    Start(String),
    /// This unit must not run.
    Stop(String),
}

/// The decision of systemd-templates.md section 10 for `v.me`. Only members decide: elsewhere there is no device to build on.
///
/// A device that is about to be taken away (switch `attach` off) counts as absent: its stack must go first.
pub fn stack_action(v: &View<'_>, res: &ResName) -> StackAction {
    let stack = Stack::of(v.snap, res);
    let Some(want) = stack.want else {
        return StackAction::Nothing;
    };
    if !v.has_disk(res, v.me) {
        return StackAction::Nothing;
    }
    let device = v.actual_on(res, v.me, "if-on") && v.switch(res, v.me, TodoSwitch::Attach);
    match want {
        Want::Host(h) if h == *v.me && device => match stack.start {
            Some(unit) if v.is_designated(res, v.me) => StackAction::Start(unit),
            _ => StackAction::Nothing,
        },
        _ => stack.stop.map_or(StackAction::Nothing, StackAction::Stop),
    }
}

/// Must the device stay although its logger is not wanted any more? As long as this host's stack has not let go of it.
pub fn stack_holds_device(v: &View<'_>, res: &ResName) -> bool {
    matches!(stack_action(v, res), StackAction::Stop(_))
        && v.snap.actual(res, v.me, "open-count").unwrap_or(0) > 0
}

/// Could systemd have a unit of this name? (Also the pseudo units `NAME.script`.)
pub fn is_unit_name(name: &str) -> bool {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b);
    name.len() <= UNIT_NAME_MAX
        && name.bytes().all(plain)
        && name
            .rsplit_once('.')
            .is_some_and(|(stem, suffix)| !stem.is_empty() && SUFFIXES.contains(&suffix))
}
