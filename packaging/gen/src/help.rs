//! The help texts of `marsadm` as parts of manual pages and of docs/manual/reference.md.
use clap_mangen::roff::{Roff, bold, roman};
use marsadm::CommandHelp;
use marsadm::help::{Entry, Group};
use std::collections::BTreeMap;
use std::fmt::Write as _;

/// Commands with their texts, by families.
fn families() -> Vec<(&'static str, Vec<(CommandHelp, Entry)>)> {
    let commands: BTreeMap<&str, CommandHelp> = marsadm::commands().map(|c| (c.name, c)).collect();
    let of_group = |g: Group| {
        let names = g
            .entries
            .into_iter()
            .flat_map(|e| e.names.clone().into_iter().map(move |n| (n, e.clone())));
        let found = names.filter_map(|(n, e)| Some((commands.get(n)?.clone(), e)));
        (g.title, found.collect())
    };
    marsadm::help::groups().into_iter().map(of_group).collect()
}

fn labelled(page: &mut Roff, label: &str, text: &str) {
    page.control("sp", []);
    page.text([bold(label), roman(" "), roman(text)]);
}

/// The list of commands of `marsadm`, which clap knows nothing of.
pub fn commands() -> Roff {
    let mut page = Roff::new();
    page.control("SH", ["COMMANDS"]);
    page.text([roman(
        "RES is the name of a resource; where a LIST is allowed also names with commas between them, or all: every resource that this \
         host is member of. force-COMMAND is the same as --force COMMAND. Where nothing is said about waiting, a command does not wait; \
         where nothing is said about --force, it lifts nothing.",
    )]);
    for (title, members) in families() {
        page.control("SS", [title]);
        let mut told: Vec<&str> = Vec::new();
        for (c, e) in members {
            page.control("TP", []);
            page.text([bold(c.usage)]);
            let first = e.names.first().copied().unwrap_or(c.name);
            if told.contains(&first) {
                page.text([roman(format!("See {first}."))]);
                continue;
            }
            told.push(first);
            for (i, text) in e.text.iter().enumerate() {
                if i > 0 {
                    page.control("sp", []);
                }
                page.text([roman(*text)]);
            }
            let needs: Vec<&str> = e.all("Needs").collect();
            if !needs.is_empty() {
                labelled(&mut page, "Needs:", &needs.join(" "));
            }
            for label in ["Force", "Ignore-sync", "Waits", "Exit", "Next"] {
                let shown = match label {
                    "Force" => "--force:".to_string(),
                    "Ignore-sync" => "--ignore-sync:".to_string(),
                    "Exit" => "Exit status:".to_string(),
                    other => format!("{other}:"),
                };
                e.all(label).for_each(|t| labelled(&mut page, &shown, t));
            }
        }
    }
    page
}

/// mars-states(7).
pub fn states(date: &str) -> Roff {
    let mut page = Roff::new();
    let version = concat!("MARS ", env!("CARGO_PKG_VERSION"));
    page.control("TH", ["MARS-STATES", "7", date, version, "MARS"]);
    page.control("SH", ["NAME"]);
    page.text([roman(
        "mars-states - what marsadm view shows, and what to do about it",
    )]);
    page.control("SH", ["DESCRIPTION"]);
    page.text([
        bold("marsadm view"),
        roman(" prints one line for each resource that this host is a member of:"),
    ]);
    page.control("PP", []);
    page.control("EX", []);
    page.text([roman(
        "  data [2/3] UpToDate Replaying dCASFR Secondary alpha",
    )]);
    page.control("EE", []);
    page.control("PP", []);
    page.text([roman(
        "These are: name, number of replicas and of hosts in the cluster, disk state, replication state, flags, role, the designated primary, \
         and, when nothing was heard from that for a while, since when. Lines about a running sync or replay and about errors follow where \
         there are any. marsadm view --json has the same for machines, marsadm help WORD one of the words below.",
    )]);
    for g in marsadm::help::state_groups() {
        page.control("SH", [g.title.to_uppercase().as_str()]);
        if !g.intro.is_empty() {
            page.text([roman(g.intro)]);
        }
        for e in g.entries {
            page.control("TP", []);
            page.text([bold(e.names.join(", "))]);
            for t in &e.text {
                page.text([roman(*t)]);
            }
            for t in e.all("Do").filter(|t| *t != "nothing.") {
                labelled(&mut page, "Do:", t);
            }
        }
    }
    page.control("SH", ["SEE ALSO"]);
    page.control("BR", ["mars", "(7),"]);
    page.control("BR", ["marsadm", "(8),"]);
    page.control("BR", ["mars-units", "(7)"]);
    page
}

fn cell(text: &str) -> String {
    text.replace('|', "\\|")
}

/// The tables of docs/manual/reference.md: commands, options, macros.
pub fn reference() -> String {
    let mut out = String::from("## Commands\n");
    for (title, members) in families() {
        let listed: Vec<_> = members.iter().filter(|(c, _)| !c.help.is_empty()).collect();
        let hidden: Vec<_> = members.iter().filter(|(c, _)| c.help.is_empty()).collect();
        if members.is_empty() {
            continue;
        }
        let _ = writeln!(out, "\n### {title}\n");
        if !listed.is_empty() {
            out.push_str("| Command | Does | `--force` lifts | Waits |\n|---|---|---|---|\n");
        }
        for (c, e) in listed {
            let _ = writeln!(
                out,
                "| `{}` | {} | {} | {} |",
                cell(&c.usage),
                cell(c.help),
                cell(e.field("Force").unwrap_or("–")),
                cell(e.field("Waits").unwrap_or("–"))
            );
        }
        if !hidden.is_empty() {
            let names: Vec<String> = hidden
                .iter()
                .map(|(c, _)| format!("`{}`", c.name))
                .collect();
            let _ = writeln!(out, "\nAlso, not listed: {}.", names.join(", "));
        }
    }
    out.push_str("\n## Options\n\n| Option | Meaning |\n|---|---|\n");
    for arg in marsadm::definition().get_arguments() {
        let Some(long) = arg.get_long() else { continue };
        let short = arg.get_short().map(|c| format!(", `-{c}`"));
        let value = arg
            .get_value_names()
            .and_then(|v| v.first())
            .map(|v| format!("={v}"));
        let help = arg.get_help().map(ToString::to_string);
        let _ = writeln!(
            out,
            "| `--{long}{}`{} | {} |",
            cell(&value.unwrap_or_default()),
            short.unwrap_or_default(),
            cell(&help.unwrap_or_default())
        );
    }
    for (title, names) in [
        ("Macros for people", mars_macro::predefined_names()),
        ("Primitive macros", mars_macro::primitive_names()),
    ] {
        let mut names: Vec<String> = names.into_iter().map(|n| format!("`{n}`")).collect();
        names.sort();
        let _ = writeln!(out, "\n## {title}\n\n{}", names.join(", "));
    }
    out
}

/// Begin and end of what is computed.
pub const BEGIN: &str = "<!-- reference: begin (mars-gen reference) -->";
/// See [`BEGIN`].
pub const END: &str = "<!-- reference: end -->";

/// A file with its computed part replaced; `None` when the marks are missing.
pub fn refreshed(text: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{}\n{END}{after}", reference()))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn reference_of_the_manual_is_current() {
        let file = concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../docs/manual/reference.md"
        );
        let text = std::fs::read_to_string(file).unwrap();
        assert!(
            refreshed(&text).unwrap() == text,
            "docs/manual/reference.md is not what the program says; run: cargo run -p mars-gen -- reference docs/manual/reference.md"
        );
    }

    #[test]
    fn states_page_has_every_word() {
        let page = states("2026-01-01").to_roff();
        for w in marsadm::help::state_words() {
            let w = w.replace('-', "\\-");
            assert!(page.contains(&w), "{w}");
        }
    }
}
