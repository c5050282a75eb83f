//! Help as text for a terminal of 80 columns.
use super::{Entry, FIRST_DAY, Group, TOPICS, commands_of, entry, groups, state_groups};
use crate::cli::definition;
use crate::cmd::Command;
use crate::run::usage_words;

const WIDTH: usize = 79;
/// Last lines of every help text about commands.
const EXIT: &str = "0 done, 1 refused or failed, 2 wrong command line, 3 timeout";

/// Breaks a paragraph into lines, each with `indent` blanks in front.
fn wrap(text: &str, indent: usize) -> String {
    let mut out = String::new();
    let mut column = 0;
    for word in text.split_whitespace() {
        let long = word.chars().count();
        if column > 0 && column + 1 + long > WIDTH {
            out.push('\n');
            column = 0;
        }
        if column == 0 {
            out.push_str(&" ".repeat(indent));
            column = indent + long;
        } else {
            out.push(' ');
            column += 1 + long;
        }
        out.push_str(word);
    }
    out.push('\n');
    out
}

/// `  USAGE   help`
fn line(c: &Command) -> String {
    let line = format!("  {:<46} {}", usage_words(c), c.help);
    line.trim_end().to_string() + "\n"
}

/// `marsadm` alone.
pub fn first_day() -> String {
    let mut out = String::from(
        "MARS replicates block devices over long distances. The ten commands for the first day:\n\n",
    );
    for c in commands_of(&FIRST_DAY) {
        out.push_str(&line(c));
    }
    out.push_str(
        "\nRES is the name of a resource, a list a,b,c, or all. What does a word of view mean: marsadm help states.\n\
         All commands: marsadm help. One of them: marsadm help COMMAND. More: man mars.\n",
    );
    out
}

/// `marsadm help`; `hidden`: also commands that are not listed.
pub fn full_list(hidden: bool) -> String {
    let mut out = String::from(
        "Usage: marsadm [OPTIONS] COMMAND [RESOURCES] [ARGS]\n\n\
         Commands (RES = name, list a,b,c, or all; force-COMMAND = --force COMMAND):\n",
    );
    for group in groups() {
        let names: Vec<&str> = group.entries.iter().flat_map(|e| e.names.clone()).collect();
        let lines: String = commands_of(&names)
            .filter(|c| hidden || !c.help.is_empty())
            .map(line)
            .collect();
        if !lines.is_empty() {
            out.push_str(&format!("\n{}:\n{lines}", group.title));
        }
    }
    out.push_str("\nTopics (marsadm help TOPIC):\n");
    for (word, what) in TOPICS {
        out.push_str(&format!("  {word:<46} {what}\n"));
    }
    out.push('\n');
    out.push_str(&options());
    out
}

/// `marsadm help options`
pub fn options() -> String {
    let text = definition().render_help().to_string();
    let options = text.find("Options:").and_then(|at| text.get(at..));
    format!(
        "{}\nExit status: {EXIT}.\n",
        options.unwrap_or(&text).trim_end()
    )
}

/// One labelled part.
fn part(out: &mut String, title: &str, lines: &[&str]) {
    if lines.is_empty() {
        return;
    }
    out.push_str(&format!("\n{title}\n"));
    for l in lines {
        out.push_str(&wrap(l, 4));
    }
}

/// `marsadm help COMMAND`
pub fn of_command(c: &Command) -> String {
    let mut out = format!("marsadm {}\n", usage_words(c));
    if !c.help.is_empty() {
        out.push_str(&wrap(c.help, 4));
    }
    let Some(e) = entry(c.name) else {
        return out;
    };
    part(&mut out, "What it does", &e.text);
    let needs: Vec<&str> = e.all("Needs").collect();
    part(&mut out, "Needs", &needs);
    let force = e.field("Force").unwrap_or("lifts nothing.");
    part(&mut out, "--force", &[force]);
    part(
        &mut out,
        "--ignore-sync",
        &e.all("Ignore-sync").collect::<Vec<_>>(),
    );
    part(&mut out, "Waits", &[e.field("Waits").unwrap_or("no.")]);
    let mut exit = vec![EXIT];
    exit.extend(e.field("Exit"));
    part(&mut out, "Exit status", &exit);
    part(&mut out, "Example", &e.all("Example").collect::<Vec<_>>());
    part(&mut out, "Next", &e.all("Next").collect::<Vec<_>>());
    let also: Vec<&str> = e.names.iter().copied().filter(|n| *n != c.name).collect();
    if !also.is_empty() {
        part(&mut out, "See also", &[&also.join(", ")]);
    }
    out
}

fn state(e: &Entry) -> String {
    let mut out = format!("  {}\n", e.names.join(", "));
    e.text.iter().for_each(|t| out.push_str(&wrap(t, 6)));
    e.all("Do")
        .filter(|t| *t != "nothing.")
        .for_each(|t| out.push_str(&wrap(&format!("-> {t}"), 6)));
    out
}

/// `marsadm help states`
pub fn states() -> String {
    let mut out = wrap(
        "marsadm view shows: name, [replicas/hosts], disk state, replication state, flags, role, designated primary. Behind -> stands what to do. \
         One word: marsadm help WORD.",
        0,
    );
    for Group {
        title,
        intro,
        entries,
    } in state_groups()
    {
        out.push_str(&format!("\n{title}\n"));
        out.push_str(&wrap(&intro, 2));
        entries.iter().for_each(|e| out.push_str(&state(e)));
    }
    out
}

/// `marsadm help WORD` for a word of `marsadm view`, also with what stands behind it there: `OutDated[FR]`.
pub fn word(word: &str) -> Option<String> {
    let plain = word.split(['[', '=']).next().unwrap_or(word);
    let mut out = String::new();
    for g in state_groups() {
        let mut fits = g.entries.iter().filter(|e| {
            e.names
                .iter()
                .any(|n| n.eq_ignore_ascii_case(plain) && n.len() > 1)
        });
        if let Some(e) = fits.next() {
            out.push_str(&format!("{}:\n{}", g.title, state(e)));
        }
    }
    (!out.is_empty()).then_some(out)
}
