//! The table of tunables as an example file, for the manual, and as a man page.
use super::keys::{ABSENT, Apply, RENAMED, Scope, TUNABLES, Tunable};
use std::fmt::Write as _;

/// Breaks a text into lines of at most `width` characters.
fn wrap(text: &str, width: usize, prefix: &str) -> String {
    let mut out = String::new();
    let mut line = String::new();
    for word in text.split(' ') {
        if !line.is_empty() && line.chars().count() + 1 + word.chars().count() > width {
            let _ = writeln!(out, "{prefix}{line}");
            line.clear();
        }
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(word);
    }
    let _ = writeln!(out, "{prefix}{line}");
    out
}

fn facts(t: &Tunable) -> String {
    let unit = match t.unit {
        "" => String::new(),
        u => format!(" {u}"),
    };
    let place = match t.scope {
        Scope::Host => "whole host",
        Scope::Resource => "host or resource",
    };
    let when = match t.apply {
        Apply::Reload => "reload",
        Apply::Restart => "restart",
    };
    format!("{}{unit}; {place}; {when}", t.kind.allowed())
}

/// `mars.conf` with every tunable commented out.
pub fn example() -> String {
    let mut out = String::from(
        "# Configuration of MARS, see mars.conf(5). Everything here is commented out and shows the default.\n\
         #\n\
         # Check:  marsadm config check\n\
         # Show:   marsadm config show [RESOURCE]\n\
         # Apply:  systemctl reload mars.target 'mars-*.service'\n\
         #\n\
         # Drop-ins: /etc/mars/mars.conf.d/*.toml, read after this file in the order of their names; the last value counts.\n\
         # Keys of \"host or resource\" may also stand in a section [resource.NAME], at the end of a file.\n",
    );
    for t in TUNABLES {
        out.push('\n');
        out += &wrap(t.help, 110, "# ");
        let _ = writeln!(out, "# ({})", facts(t));
        let _ = writeln!(out, "#{} = {}", t.name, t.default);
    }
    out += "\n#[resource.mydata]\n#durability = \"flush\"\n";
    out
}

/// The table for `docs/configuration.md`.
pub fn markdown() -> String {
    let mut out = String::from(
        "| Key | Default | Allowed | Where | A change needs | Read by | Meaning |\n|---|---|---|---|---|---|---|\n",
    );
    for t in TUNABLES {
        let unit = if t.unit.is_empty() {
            String::new()
        } else {
            format!(" {}", t.unit)
        };
        let _ = writeln!(
            out,
            "| `{}` | `{}` | {}{unit} | {} | {} | {} | {} |",
            t.name,
            t.default,
            t.kind.allowed(),
            match t.scope {
                Scope::Host => "host",
                Scope::Resource => "host, resource",
            },
            match t.apply {
                Apply::Reload if t.users == ["marsadm"] => "nothing",
                Apply::Reload => "reload",
                Apply::Restart => "restart",
            },
            if t.users.len() > 4 {
                "all".to_string()
            } else {
                t.users.join(", ")
            },
            t.help
        );
    }
    out += "\nNames of the original MARS that are called differently here:\n\n| Original | Here | Value |\n|---|---|---|\n";
    for r in RENAMED {
        let _ = writeln!(out, "| `{}` | `{}` | {} |", r.old, r.new, r.value);
    }
    out += "\nNames of the original MARS without a counterpart, and why:\n\n| Original | Why |\n|---|---|\n";
    for (names, why) in ABSENT {
        let names: Vec<String> = names.iter().map(|n| format!("`{n}`")).collect();
        let _ = writeln!(out, "| {} | {why} |", names.join(", "));
    }
    out
}

/// Text in a man page.
fn roff(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    if text.starts_with(['.', '\'']) {
        format!("\\&{text}")
    } else {
        text
    }
}

/// The keys for `mars.conf(5)`.
pub fn man_keys() -> String {
    let mut out = String::new();
    for t in TUNABLES {
        let default = roff(&t.default.to_string()).replace('"', "\\(dq");
        let _ = writeln!(out, ".TP\n.BR {} \" = {default}\"", t.name);
        let _ = writeln!(out, "{}", roff(t.help).replace('"', "\\(dq"));
        let _ = writeln!(out, "({})", roff(&facts(t)));
    }
    out
}
