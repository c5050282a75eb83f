//! What fits at the end of a command line: the completions of bash, zsh and fish ask `marsadm complete -- WORDS... CURRENT`.
//!
//! One candidate per line, with a tab and an explanation where there is one; `:files` stands for file names. Never an error: a shell that
//! waits for candidates wants none of its text.
use crate::cli::definition;
use crate::cmd::{Command, ResArg, find};
use crate::out;
use crate::run::listed;
use mars_macro::{predefined_names, primitive_names};
use mars_tree::{HostEnv, Tree};

/// Names that the tree knows.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct Names {
    /// Resources.
    pub resources: Vec<String>,
    /// Hosts of the cluster.
    pub hosts: Vec<String>,
}

/// A word, and what it means.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Candidate {
    /// The whole word.
    pub word: String,
    /// One line; may be empty.
    pub help: String,
}

/// Stands for names of files.
const FILES: &str = ":files";
/// Conditions of `wait-resource`.
const CONDITIONS: [&str; 6] = ["attach", "fetch", "replay", "sync", "primary", "device"];

fn plain(words: impl IntoIterator<Item = impl Into<String>>) -> Vec<Candidate> {
    let candidate = |word: String| Candidate {
        word,
        help: String::new(),
    };
    words.into_iter().map(|w| candidate(w.into())).collect()
}

/// Prints what fits. The words are those before the cursor, the program's name first; the last one is being typed, and may be empty.
pub fn complete(words: &[String]) {
    let names = names().unwrap_or_default();
    for c in candidates(words, &names) {
        if c.help.is_empty() {
            out::say(c.word);
        } else {
            out::say(format!("{}\t{}", c.word, c.help));
        }
    }
}

/// Nothing without a tree, or without the right to read it.
fn names() -> Option<Names> {
    let env = HostEnv::from_process().ok()?;
    let snap = Tree::open_readonly(&env).ok()?.snapshot().ok()?;
    Some(Names {
        resources: snap.resources().iter().map(ToString::to_string).collect(),
        hosts: snap.hosts().iter().map(ToString::to_string).collect(),
    })
}

/// All candidates that begin with the last word.
pub fn candidates(words: &[String], names: &Names) -> Vec<Candidate> {
    let Some((current, before)) = words.split_last() else {
        return Vec::new();
    };
    let Some((program, before)) = before.split_first() else {
        return Vec::new();
    };
    let program = program.rsplit('/').next().unwrap_or(program);
    let mut found = match program {
        "marsadm" => front(before, current, names),
        "mars-status" => status(before, current, names),
        daemon => of_daemon(daemon, before, current, names),
    };
    found.retain(|c| c.word == FILES || c.word.starts_with(current.as_str()));
    found
}

fn of_daemon(program: &str, before: &[String], current: &str, names: &Names) -> Vec<Candidate> {
    let serves = matches!(program, "mars-fetch" | "mars-sync");
    if current.starts_with('-') {
        let ip = serves.then_some("--ip=");
        return plain(["--help", "--version"].into_iter().chain(ip));
    }
    if before.iter().any(|w| !w.starts_with('-')) {
        return Vec::new();
    }
    let serve = serves.then(|| "serve".to_string());
    plain(names.resources.iter().cloned().chain(serve))
}

/// Options of `mars-status`; those with `=` take a value. `tests/tests/packages.rs` compares them with its help.
const STATUS_OPTIONS: [&str; 26] = [
    "--age=",
    "--age-critical=",
    "--ascii",
    "--cstate",
    "--debug",
    "--deletes=",
    "--dstate",
    "--help",
    "--history",
    "--http",
    "--interval=",
    "--json",
    "--lag=",
    "--lag-critical=",
    "--monitor",
    "--output=",
    "--prometheus",
    "--resource=",
    "--rest=",
    "--rest-critical=",
    "--role",
    "--space=",
    "--space-critical=",
    "--status",
    "--system",
    "--version",
];

fn status(before: &[String], current: &str, names: &Names) -> Vec<Candidate> {
    let is_resource = |o: &str| matches!(o, "--resource" | "--ressource");
    let (option, value) = match (current.split_once('='), before.last()) {
        (Some((option, _)), _) => (Some(option), true),
        (None, Some(last)) if STATUS_OPTIONS.contains(&format!("{last}=").as_str()) => {
            (Some(last.as_str()), false)
        }
        _ => return plain(STATUS_OPTIONS),
    };
    match option {
        Some("--output") if !value => plain([FILES]),
        Some(o) if is_resource(o) => {
            let prefix = if value {
                format!("{o}=")
            } else {
                String::new()
            };
            plain(names.resources.iter().map(|r| format!("{prefix}{r}")))
        }
        _ => Vec::new(),
    }
}

/// An option of `marsadm`.
struct Opt {
    long: String,
    short: Option<char>,
    /// Its value, if it must have one, is a word of its own or stands behind `=`.
    value: bool,
    help: String,
}

fn options() -> Vec<Opt> {
    let describe = |arg: &clap::Arg| {
        Some(Opt {
            long: format!("--{}", arg.get_long()?),
            short: arg.get_short(),
            value: arg.get_value_names().is_some() && !arg.is_require_equals_set(),
            help: arg.get_help().map(ToString::to_string).unwrap_or_default(),
        })
    };
    definition().get_arguments().filter_map(describe).collect()
}

/// Values of an option.
fn values(option: &str, names: &Names) -> Vec<Candidate> {
    match option {
        "--host" => plain(names.hosts.iter().cloned()),
        "--timeout" => plain(["-1", "0"]),
        "--ssh-port" => plain(["0", "22"]),
        _ => Vec::new(),
    }
}

fn front(before: &[String], current: &str, names: &Names) -> Vec<Candidate> {
    let options = options();
    let takes_value = |word: &str| {
        options.iter().any(|o| {
            o.value && (o.long == word || o.short.is_some_and(|c| word == format!("-{c}")))
        })
    };
    if let Some(option) = before.last().filter(|w| takes_value(w)) {
        return values(option, names);
    }
    if let Some((option, _)) = current
        .split_once('=')
        .filter(|_| current.starts_with("--"))
    {
        let whole = |c: Candidate| Candidate {
            word: format!("{option}={}", c.word),
            ..c
        };
        return values(option, names).into_iter().map(whole).collect();
    }
    if current.starts_with('-') {
        let mut found: Vec<Candidate> = options
            .into_iter()
            .map(|o| Candidate {
                word: if o.value { o.long + "=" } else { o.long },
                help: o.help,
            })
            .collect();
        found.extend(plain(names.hosts.iter().map(|h| format!("--ip-{h}="))));
        return found;
    }
    let mut given = Vec::new();
    let mut skip = false;
    for word in before {
        if !skip && !word.starts_with('-') {
            given.push(word.as_str());
        }
        skip = !skip && takes_value(word);
    }
    match given.split_first() {
        None => commands(current),
        Some((command, args)) => arguments(command, args, current, names),
    }
}

fn commands(current: &str) -> Vec<Candidate> {
    if current.starts_with("view-") {
        let macros = predefined_names().into_iter().chain(primitive_names());
        return plain(macros.map(|m| format!("view-{m}")));
    }
    let force = if current.starts_with("force-") {
        "force-"
    } else {
        ""
    };
    listed()
        .map(|c| Candidate {
            word: format!("{force}{}", c.name),
            help: c.help.to_string(),
        })
        .collect()
}

fn arguments(word: &str, args: &[&str], current: &str, names: &Names) -> Vec<Candidate> {
    let name = word.strip_prefix("force-").unwrap_or(word);
    let name = if name.starts_with("view-") {
        "view"
    } else {
        name
    };
    if name == "help" {
        let candidate = |(word, help)| Candidate { word, help };
        let all = crate::help::candidates().into_iter().map(candidate);
        return all.filter(|_| args.is_empty()).collect();
    }
    let Some(c) = find(name) else {
        return Vec::new();
    };
    if c.res == ResArg::None {
        return argument(c, args, names);
    }
    match args.split_first() {
        None => resources(c, current, names),
        Some((_, given)) => argument(c, given, names),
    }
}

/// The resource word: one name, or more with commas, or `all`.
fn resources(c: &Command, current: &str, names: &Names) -> Vec<Candidate> {
    if c.name == "create-resource" {
        return Vec::new();
    }
    let one = names.resources.iter().cloned();
    if c.res == ResArg::One {
        return plain(one);
    }
    match current.rsplit_once(',') {
        None => plain(one.chain(["all".to_string()])),
        Some((list, _)) => {
            let given: Vec<&str> = list.split(',').collect();
            let more = one.filter(|n| !given.contains(&n.as_str()));
            plain(more.map(|n| format!("{list},{n}")))
        }
    }
}

/// In a usage line: to be typed as it is.
fn is_word(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_lowercase() || c == '(')
}

/// The argument behind the resource, by its name in the usage line.
fn argument(c: &Command, given: &[&str], names: &Names) -> Vec<Candidate> {
    // `check [FILE] | show [RES]`: those that what was given fits to.
    let fits = |form: &[&str]| given.iter().zip(form).all(|(g, f)| g == f || !is_word(f));
    let forms = c
        .args
        .split(" | ")
        .map(|f| f.split(' ').collect::<Vec<_>>());
    let next: Vec<&str> = forms
        .filter(|f| fits(f))
        .filter_map(|f| {
            let again = f.last().filter(|w| w.contains("..."));
            f.get(given.len()).or(again).copied()
        })
        .collect();
    next.into_iter()
        .flat_map(|w| w.trim_matches(['[', ']', '.']).split('|'))
        .flat_map(|choice| match choice {
            "DISK" | "FILE" => plain([FILES]),
            "HOST" => plain(names.hosts.iter().cloned()),
            "RES" | "RESOURCE" => plain(names.resources.iter().cloned()),
            "COND" => plain(
                CONDITIONS
                    .iter()
                    .flat_map(|c| [format!("is-{c}-on"), format!("is-{c}-off")]),
            ),
            // A word as it is: `check`.
            word if is_word(word) => plain([word]),
            _ => Vec::new(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    /// What fits behind this line; the word being typed is the last one, a space at the end begins a new one.
    fn at(line: &str) -> Vec<String> {
        let words: Vec<String> = line.split(' ').map(String::from).collect();
        let names = Names {
            resources: vec!["data".into(), "my-db".into()],
            hosts: vec!["alpha".into(), "beta".into()],
        };
        candidates(&words, &names)
            .into_iter()
            .map(|c| c.word)
            .collect()
    }

    #[test]
    fn complete_commands() {
        assert_eq!(at("marsadm prim"), ["primary"]);
        assert_eq!(at("/usr/sbin/marsadm -d prim"), ["primary"]);
        assert_eq!(at("marsadm force-prim"), ["force-primary"]);
        assert_eq!(at("marsadm "), listed().map(|c| c.name).collect::<Vec<_>>());
        assert!(at("marsadm view-re").contains(&"view-replstate".to_string()));
        assert!(at("marsadm complet").is_empty(), "not for people");
        assert!(at("marsadm frobnicate ").is_empty());
    }

    #[test]
    fn complete_resources_and_lists() {
        assert_eq!(at("marsadm primary "), ["data", "my-db", "all"]);
        assert_eq!(at("marsadm force-primary m"), ["my-db"]);
        assert_eq!(at("marsadm view --json d"), ["data"]);
        assert_eq!(at("marsadm view-role d"), ["data"]);
        assert_eq!(at("marsadm up data,"), ["data,my-db"]);
        assert_eq!(at("marsadm join-resource "), ["data", "my-db"]);
        assert!(at("marsadm create-resource ").is_empty());
        assert!(at("marsadm primary data ").is_empty());
        assert!(at("marsadm create-cluster ").is_empty());
    }

    #[test]
    fn complete_arguments() {
        assert_eq!(at("marsadm create-resource r /de"), [FILES]);
        assert_eq!(at("marsadm join-cluster a"), ["alpha"]);
        assert_eq!(at("marsadm wait-resource data is-prim").len(), 2);
        assert_eq!(
            at("marsadm set-systemd-want data "),
            ["alpha", "beta", "(none)"]
        );
        assert_eq!(at("marsadm config "), ["check", "show"]);
        assert_eq!(at("marsadm config show d"), ["data"]);
        assert_eq!(at("marsadm config check "), [FILES]);
        assert_eq!(at("marsadm help prim"), ["primary"]);
        assert_eq!(at("marsadm help stat"), ["states"]);
        assert_eq!(at("marsadm help Orph"), ["Orphan"]);
        assert!(at("marsadm help primary ").is_empty());
        assert_eq!(at("marsadm watch d"), ["data"]);
        assert_eq!(at("marsadm watch data "), ["data", "my-db"]);
    }

    #[test]
    fn complete_options_and_their_values() {
        assert_eq!(at("marsadm --time"), ["--timeout="]);
        assert_eq!(at("marsadm view --js"), ["--json"]);
        assert_eq!(at("marsadm --ip-a"), ["--ip-alpha="]);
        assert_eq!(at("marsadm --host "), ["alpha", "beta"]);
        assert_eq!(at("marsadm --host=b"), ["--host=beta"]);
        // The value of an option is no command.
        assert_eq!(at("marsadm --host beta prim"), ["primary"]);
        assert_eq!(at("marsadm --timeout=-1 prim"), ["primary"]);
        assert_eq!(at("marsadm -v prim"), ["primary"]);
    }

    #[test]
    fn complete_daemons() {
        assert_eq!(at("mars-fetch "), ["data", "my-db", "serve"]);
        assert_eq!(at("mars-logger d"), ["data"]);
        assert!(at("mars-logger data ").is_empty());
        assert_eq!(at("mars-sync --i"), ["--ip="]);
    }

    #[test]
    fn complete_nothing_is_nothing() {
        assert!(candidates(&[], &Names::default()).is_empty());
        assert!(candidates(&["marsadm".into()], &Names::default()).is_empty());
    }
}
