//! What `marsadm help` says: long texts of the commands, and what the words of `marsadm view` mean.
//!
//! The texts stand beside this file, one file for a family of commands, and `states.txt`. `= Title` begins a group, `## name alias ...` an entry
//! for one or more commands; behind it stands what it does, then lines `Needs:`, `Force:`, `Waits:`, ... Help on the terminal, manual pages
//! and docs/manual/reference.md come from here.
mod render;

use crate::cmd::{self, Command, find};
use crate::error::{Done, nearest, show, usage};
use crate::out;
use crate::run::listed;

pub use render::{first_day, full_list, of_command, options, states, word};

/// The families, in the order in which they are listed.
const TEXTS: [&str; 10] = [
    include_str!("cluster.txt"),
    include_str!("resource.txt"),
    include_str!("operation.txt"),
    include_str!("inspect.txt"),
    include_str!("logs.txt"),
    include_str!("wait.txt"),
    include_str!("params.txt"),
    include_str!("systemd.txt"),
    include_str!("lowlevel.txt"),
    include_str!("drbd.txt"),
];
const STATES: &str = include_str!("states.txt");

/// Commands for the first day: what is needed from nothing to a handover.
const FIRST_DAY: [&str; 10] = [
    "create-cluster",
    "join-cluster",
    "create-resource",
    "join-resource",
    "view",
    "primary",
    "pause-fetch",
    "resume-fetch",
    "invalidate",
    "help",
];

/// Words behind `marsadm help` that are no command, and what they show.
pub const TOPICS: [(&str, &str); 3] = [
    ("first", "the ten commands for the first day"),
    (
        "states",
        "what each state, role and flag of view means, and what to do",
    ),
    ("options", "all options"),
];

/// Commands that belong together, or words of one kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Group {
    /// Its title.
    pub title: &'static str,
    /// A paragraph for all; may be empty.
    pub intro: String,
    /// Its entries, in order.
    pub entries: Vec<Entry>,
}

/// The text of a command with its aliases, or of a word.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Entry {
    /// The command first, then those that differ little.
    pub names: Vec<&'static str>,
    /// What it does, or means: paragraphs.
    pub text: Vec<&'static str>,
    /// `Needs`, `Force`, `Ignore-sync`, `Waits`, `Exit`, `Example`, `Next`, `Do`: label and text, in order.
    pub fields: Vec<(&'static str, &'static str)>,
}

impl Entry {
    /// All texts with this label.
    pub fn all<'e>(&'e self, label: &'e str) -> impl Iterator<Item = &'static str> + 'e {
        self.fields
            .iter()
            .filter(move |(l, _)| *l == label)
            .map(|(_, text)| *text)
    }

    /// The first text with this label.
    pub fn field(&self, label: &str) -> Option<&'static str> {
        self.fields
            .iter()
            .find(|(l, _)| *l == label)
            .map(|(_, text)| *text)
    }
}

/// Labels of lines below an entry.
const LABELS: [&str; 8] = [
    "Needs",
    "Force",
    "Ignore-sync",
    "Waits",
    "Exit",
    "Example",
    "Next",
    "Do",
];

fn parse(text: &'static str) -> Vec<Group> {
    let mut groups: Vec<Group> = Vec::new();
    for line in text.lines().filter(|l| !l.is_empty()) {
        if let Some(title) = line.strip_prefix("= ") {
            groups.push(Group {
                title,
                intro: String::new(),
                entries: Vec::new(),
            });
            continue;
        }
        let Some(group) = groups.last_mut() else {
            continue;
        };
        if let Some(names) = line.strip_prefix("## ") {
            group.entries.push(Entry {
                names: names.split(' ').collect(),
                ..Entry::default()
            });
            continue;
        }
        let label = line
            .split_once(": ")
            .filter(|(label, _)| LABELS.contains(label));
        match (group.entries.last_mut(), label) {
            (None, _) => group.intro.push_str(line),
            (Some(entry), Some(field)) => entry.fields.push(field),
            (Some(entry), None) => entry.text.push(line),
        }
    }
    groups
}

/// All commands that have a text, by families.
pub fn groups() -> Vec<Group> {
    TEXTS.iter().flat_map(|text| parse(text)).collect()
}

/// What the words of `marsadm view` mean.
pub fn state_groups() -> Vec<Group> {
    parse(STATES)
}

/// The text of a command.
pub fn entry(name: &str) -> Option<Entry> {
    let mut all = groups().into_iter().flat_map(|g| g.entries);
    all.find(|e| e.names.contains(&name))
}

/// The words that have an entry of their own: `marsadm help Orphan`.
pub fn state_words() -> Vec<&'static str> {
    let entries = state_groups().into_iter().flat_map(|g| g.entries);
    let mut words: Vec<&str> = entries.flat_map(|e| e.names).collect();
    // Letters of the flags are explained together.
    words.retain(|w| w.len() > 1);
    words
}

/// The command of a word: `force-primary` is `primary`, `view-role` is `view`.
fn command_of(word: &str) -> Option<&'static Command> {
    let word = word.strip_prefix("force-").unwrap_or(word);
    match word.starts_with("view-") || word.starts_with("prettyprint-") {
        true => find("view"),
        false => find(word),
    }
}

/// `marsadm help [WORD]`
pub fn help(args: &[String], verbose: bool) -> Done {
    let text = match args {
        [] => full_list(verbose),
        [w] if w == "first" => first_day(),
        [w] if w == "states" => states(),
        [w] if w == "options" => options(),
        [w] => match (command_of(w), word(w)) {
            (Some(c), _) => of_command(c),
            (None, Some(text)) => text,
            (None, None) => return Err(unknown(w)),
        },
        [_, more, ..] => {
            return usage(format!(
                "surplus argument {}; usage: marsadm help [COMMAND|STATE|first|states|options]",
                show(more)
            ));
        }
    };
    out::raw(&text);
    Ok(())
}

fn unknown(word: &str) -> crate::error::CmdError {
    let topics = TOPICS.iter().map(|(t, _)| *t);
    let known = listed().map(|c| c.name).chain(topics).chain(state_words());
    let advice = match nearest(word, known) {
        Some(n) => format!("did you mean marsadm help {n}?"),
        None => "see marsadm help for all commands, marsadm help states for what view shows".into(),
    };
    crate::error::CmdError::Usage(format!("no help for {}; {advice}", show(word)))
}

/// All words that fit behind `help`, for the completions: word and explanation.
pub fn candidates() -> Vec<(String, String)> {
    let commands = listed().map(|c| (c.name.to_string(), c.help.to_string()));
    let topics = TOPICS.map(|(w, what)| (w.to_string(), what.to_string()));
    let states = state_words().into_iter().map(|w| (w.into(), String::new()));
    commands.chain(topics).chain(states).collect()
}

/// The commands that a list of names stands for, as far as there are such.
fn commands_of<'n>(names: &'n [&'static str]) -> impl Iterator<Item = &'static Command> + 'n {
    names
        .iter()
        .filter_map(|n| cmd::all().find(|c| c.name == *n))
}

#[cfg(test)]
mod tests;
