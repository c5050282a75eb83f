//! What unit files say to us: the header of a generated file, markers in comments, references to other units.
use super::TemplateEnv;
use mars_policy::escape_path;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Begins the first line (the second, after `#!`) of every file that we own.
pub(super) const OWNED: &str = "### GENERATED FROM: ";

/// Keys that make a unit fail when the other one is missing. For all others systemd itself says nothing.
const NEEDED: [&str; 8] = [
    "Requires",
    "Requisite",
    "BindsTo",
    "Unit",
    "Service",
    "Sockets",
    "Also",
    "OnFailure",
];

/// What a marker in a comment asks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Markers {
    /// Generated, but neither enabled nor started.
    pub always_disabled: bool,
    /// Started as soon as it is generated.
    pub always_start: bool,
    /// Not stopped when it is no longer needed.
    pub keep_running: bool,
}

/// The capital words behind a single `#` at the beginning of a line, with what follows `=`.
pub(super) fn capital_words(text: &str) -> impl Iterator<Item = (&str, Option<&str>)> {
    text.lines().filter_map(|line| {
        let rest = line.strip_prefix('#').filter(|r| !r.starts_with('#'))?;
        let rest = rest.trim_start_matches([' ', '\t']);
        let end = rest
            .find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))
            .unwrap_or(rest.len());
        let (word, after) = rest.split_at(end);
        if word.len() < 2 || !word.starts_with(|c: char| c.is_ascii_uppercase()) {
            return None;
        }
        match after.chars().next() {
            None => Some((word, None)),
            Some('=') => Some((word, after.get(1..).map(str::trim))),
            Some(c) if c.is_whitespace() => Some((word, None)),
            Some(_) => None,
        }
    })
}

pub(super) fn markers(text: &str) -> Markers {
    let mut m = Markers::default();
    for (word, _) in capital_words(text) {
        match word {
            "ALWAYS_DISABLED" => m.always_disabled = true,
            "ALWAYS_START" => m.always_start = true,
            "KEEP_RUNNING" => m.keep_running = true,
            _ => {}
        }
    }
    m
}

/// Template that an owned file was made from; `None` when the file is not ours.
pub(super) fn owned_from(text: &str) -> Option<&str> {
    let mut lines = text.lines();
    let first = lines.next()?;
    let header = if first.starts_with("#!") {
        lines.next()?
    } else {
        first
    };
    header.strip_prefix(OWNED)
}

/// Header and body of a generated file.
pub(super) fn with_header(
    body: &str,
    from: &Path,
    unit: &str,
    to: &Path,
    mtime_secs: u64,
    refs: &BTreeMap<String, bool>,
) -> String {
    let (shebang, body) = match body.split_once('\n') {
        Some((first, rest)) if first.starts_with("#!") => (Some(first), rest),
        _ => (None, body),
    };
    let mut out = String::with_capacity(body.len() + 400);
    if let Some(first) = shebang {
        out.push_str(first);
        out.push('\n');
    }
    // A line break in a file name must not become a line of the unit.
    let one_line = |p: &Path| p.to_string_lossy().replace(char::is_control, "?");
    out.push_str(&format!(
        "{OWNED}{}\n### GENERATED NAME: {unit}\n### GENERATED   TO: {}\n### TEMPLATE MTIME: {mtime_secs}\n###\n",
        one_line(from),
        one_line(to)
    ));
    for unit in refs.keys() {
        out.push_str(&format!("###   REF: {unit}\n"));
    }
    if !refs.is_empty() {
        out.push_str("###\n");
    }
    out.push_str(body);
    if !out.ends_with('\n') {
        out.push('\n');
    }
    out
}

/// Units that a file refers to. The value says whether one that is missing is worth a warning.
pub(super) fn references(env: &TemplateEnv, unit: &str, text: &str) -> BTreeMap<String, bool> {
    let mut refs = Refs {
        env,
        found: BTreeMap::new(),
    };
    for (word, value) in capital_words(text) {
        if word == "ALSO" {
            refs.words(value.unwrap_or_default(), true);
        }
    }
    if unit.ends_with(".script") {
        return refs.found;
    }
    let mut keys = BTreeSet::new();
    for (key, value) in assignments(text) {
        keys.insert(key.clone());
        if !env.keys.contains(&key) {
            continue;
        }
        match key.as_str() {
            "RequiresMountsFor" => refs.paths(&value),
            key => refs.words(&value, NEEDED.contains(&key)),
        }
    }
    // What is started by a unit of these kinds has the same name unless it says otherwise.
    let (stem, suffix) = unit.rsplit_once('.').unwrap_or((unit, ""));
    let implied = match suffix {
        "path" | "timer" if !keys.contains("Unit") => Some("service"),
        "socket" if !keys.contains("Service") => Some("service"),
        "automount" => Some("mount"),
        _ => None,
    };
    if let Some(kind) = implied {
        refs.add(format!("{stem}.{kind}"), false);
    }
    refs.found.remove(unit);
    refs.found
}

struct Refs<'a> {
    env: &'a TemplateEnv,
    found: BTreeMap<String, bool>,
}

impl Refs<'_> {
    fn words(&mut self, value: &str, warn: bool) {
        for word in value.split_whitespace() {
            let word = word.trim_matches(['"', '\'']);
            // Specifiers are filled in by systemd.
            if word.contains('%') {
                continue;
            }
            if word.starts_with('/') {
                self.path(word, warn);
            } else if self.env.check_name(word).is_ok() {
                // Devices appear by themselves.
                self.add(word.to_string(), warn && !word.ends_with(".device"));
            }
        }
    }

    fn path(&mut self, path: &str, warn: bool) {
        let Some(escaped) = escape_path(path) else {
            return;
        };
        let is_device = ["dev-", "sys-"].iter().any(|p| escaped.starts_with(p));
        let kind = if is_device { "device" } else { "mount" };
        self.add(format!("{escaped}.{kind}"), warn && !is_device);
    }

    /// Every directory on the way may be a mount point; that most are none is no fault.
    fn paths(&mut self, value: &str) {
        for word in value.split_whitespace() {
            let path = word.trim_matches(['"', '\'']);
            if path.contains('%') || !path.starts_with('/') {
                continue;
            }
            for dir in Path::new(path).ancestors().filter_map(Path::to_str) {
                self.path(dir, false);
            }
        }
    }

    fn add(&mut self, unit: String, warn: bool) {
        if self.env.check_name(&unit).is_ok() {
            *self.found.entry(unit).or_insert(false) |= warn;
        }
    }
}

/// `KEY=VALUE` of a unit file, continued lines joined, comments left out.
fn assignments(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut open: Option<String> = None;
    for line in text.lines() {
        let trimmed = line.trim();
        if trimmed.starts_with(['#', ';']) {
            continue;
        }
        let joined = match open.take() {
            Some(before) => format!("{before} {trimmed}"),
            None => trimmed.to_string(),
        };
        if let Some(more) = joined.strip_suffix('\\') {
            open = Some(more.trim_end().to_string());
            continue;
        }
        push(&mut found, &joined);
    }
    if let Some(rest) = open {
        push(&mut found, &rest);
    }
    found
}

fn push(found: &mut Vec<(String, String)>, line: &str) {
    if let Some((key, value)) = line.split_once('=') {
        found.push((key.trim().to_string(), value.trim().to_string()));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn env() -> TemplateEnv {
        TemplateEnv::from_vars(|_| None).unwrap()
    }

    #[test]
    fn marker_needs_exactly_one_hash_at_the_beginning() {
        let all = "#ALWAYS_DISABLED\n# \t ALWAYS_START\n# KEEP_RUNNING  why\n";
        let m = markers(all);
        assert!(m.always_disabled && m.always_start && m.keep_running);
        let none = "## ALWAYS_START\n ### KEEP_RUNNING\n # ALWAYS_START\n# Always_START\n# x ALWAYS_START\n\
                    # ALWAYS_STARTED\n#ALWAYS_START: no\n;ALWAYS_START\n";
        assert_eq!(markers(none), Markers::default());
        let words: Vec<_> = capital_words("# ALSO= a.service \n# DEFAULT_START\n# A").collect();
        assert_eq!(
            words,
            [("ALSO", Some("a.service")), ("DEFAULT_START", None)]
        );
    }

    #[test]
    fn references_by_key_path_and_comment() {
        let text = "# ALSO=also.service\n## ALSO=not.service\n[Unit]\nRequires=a.service \"b.mount\" \\\n# comment\n  c.target\nAfter=d.service\n\
             BindsTo = /mnt/x-y dev-sda.device /dev/sdb\nWants=%i.service noend\nX-Other=z.service\nDescription=q.service\n\
             RequiresMountsFor=/srv/www/data\n[Install]\nAlias=alias.service\nDefaultInstance=my.data\n";
        let refs = references(&env(), "me.service", text);
        let names: Vec<(&str, bool)> = refs.iter().map(|(n, w)| (n.as_str(), *w)).collect();
        assert_eq!(
            names,
            [
                ("-.mount", false),
                ("a.service", true),
                ("alias.service", false),
                ("also.service", true),
                ("b.mount", true),
                ("c.target", true),
                ("d.service", false),
                ("dev-sda.device", false),
                ("dev-sdb.device", false),
                ("mnt-x\\x2dy.mount", true),
                ("srv-www-data.mount", false),
                ("srv-www.mount", false),
                ("srv.mount", false),
            ]
        );
    }

    #[test]
    fn references_that_are_implied() {
        let of = |unit, text: &str| {
            let refs = references(&env(), unit, text);
            refs.into_keys().collect::<Vec<_>>()
        };
        assert_eq!(of("x.path", "[Path]\nPathChanged=/a"), ["x.service"]);
        assert_eq!(of("x.path", "[Path]\nUnit=y.service"), ["y.service"]);
        assert_eq!(of("x.timer", ""), ["x.service"]);
        assert_eq!(of("x.automount", ""), ["x.mount"]);
        assert_eq!(of("x.service", "After=x.service"), [""; 0]);
        assert_eq!(of("x.script", "#!/bin/sh\nAfter=y.service\n"), [""; 0]);
    }

    #[test]
    fn header_comes_after_the_interpreter_line() {
        let refs = BTreeMap::from([("b.mount".to_string(), true)]);
        let make = |body| {
            with_header(
                body,
                Path::new("/t/x"),
                "a.script",
                Path::new("/o/a.script"),
                7,
                &refs,
            )
        };
        let head = "### GENERATED FROM: /t/x\n### GENERATED NAME: a.script\n### GENERATED   TO: /o/a.script\n\
                    ### TEMPLATE MTIME: 7\n###\n###   REF: b.mount\n###\n";
        assert_eq!(make("body"), format!("{head}body\n"));
        assert_eq!(
            make("#!/bin/sh\nbody\n"),
            format!("#!/bin/sh\n{head}body\n")
        );
        assert_eq!(owned_from(&make("body")), Some("/t/x"));
        assert_eq!(owned_from(&make("#!/bin/sh\nbody")), Some("/t/x"));
        assert_eq!(owned_from("# x\n### GENERATED FROM: /t/x\n"), None);
        assert_eq!(owned_from(""), None);
    }
}
