//! For readers that are no terminal: one line for each change of a state. Amounts, rates and ages are no states.
use crate::watch::facts::{Facts, HostFacts, MemberFacts, ResFacts};
use crate::watch::text::clean;
use std::collections::BTreeMap;

/// A state by the thing that has it: `resource data on alpha` -> `Secondary UpToDate Replaying -SFRP-`.
pub type States = BTreeMap<String, String>;

/// Without amounts in brackets, which change all the time.
fn state(word: &str) -> &str {
    match word.split_once('[') {
        Some((name @ ("WriteBack" | "Recovery"), _)) => name,
        _ => word,
    }
}

fn member(m: &MemberFacts) -> String {
    format!("{} {} {} {}", m.role, state(&m.disk), m.repl, m.flags)
}

fn host(h: &HostFacts) -> String {
    let alive = match (h.alive, h.age) {
        (true, _) => "alive",
        (false, Some(_)) => "dead",
        (false, None) => "never heard of",
    };
    match h.emergency {
        0 => alive.into(),
        n => format!("{alive}, emergency level {n}"),
    }
}

fn resource(r: &ResFacts) -> String {
    let mut parts = vec![format!(
        "primary {}",
        r.primary.as_deref().unwrap_or("(none)")
    )];
    parts.extend(r.split.iter().cloned());
    parts.extend(r.messages.iter().cloned());
    parts.join("; ")
}

/// All states.
pub fn states(facts: &Facts) -> States {
    let mut all = States::new();
    let engine = match facts.engine_running {
        true => "running",
        false => "not running",
    };
    all.insert("mars-meta".into(), engine.into());
    for h in &facts.hosts {
        all.insert(format!("host {}", h.name), host(h));
    }
    for r in &facts.resources {
        all.insert(format!("resource {}", r.name), resource(r));
        for m in &r.members {
            let name = format!("resource {} on {}", r.name, m.host);
            all.insert(name, member(m));
        }
    }
    for (n, note) in facts.notes.iter().enumerate() {
        all.insert(format!("note {}", n + 1), note.clone());
    }
    all
}

/// The lines from one to the other, without the time in front.
pub fn changes(old: &States, new: &States) -> Vec<String> {
    let gone = old.keys().filter(|k| !new.contains_key(*k));
    let mut lines: Vec<String> = gone.map(|k| format!("{k}: gone")).collect();
    let differs = new.iter().filter(|(k, v)| old.get(*k) != Some(v));
    lines.extend(differs.map(|(k, v)| clean(&format!("{k}: {v}"))));
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(disk: &str, age: u64, alive: bool) -> Facts {
        Facts {
            engine_running: true,
            hosts: vec![HostFacts {
                name: "beta".into(),
                alive,
                age: Some(age),
                ..HostFacts::default()
            }],
            resources: vec![ResFacts {
                name: "data".into(),
                members: vec![MemberFacts {
                    host: "alpha".into(),
                    role: "Primary".into(),
                    disk: disk.into(),
                    repl: "Replicating".into(),
                    flags: "-SFRP-".into(),
                    age: Some(age),
                    ..MemberFacts::default()
                }],
                lag: Some(age),
                ..ResFacts::default()
            }],
            ..Facts::default()
        }
    }

    #[test]
    fn only_states_make_lines() {
        let first = states(&facts("WriteBack[1.2 MiB]", 1, true));
        assert_eq!(
            changes(&States::new(), &first),
            [
                "host beta: alive",
                "mars-meta: running",
                "resource data: primary (none)",
                "resource data on alpha: Primary WriteBack Replicating -SFRP-",
            ]
        );
        let later = states(&facts("WriteBack[9 MiB]", 5, true));
        assert!(changes(&first, &later).is_empty());
        let dead = states(&facts("UpToDate", 99, false));
        assert_eq!(
            changes(&later, &dead),
            [
                "host beta: dead",
                "resource data on alpha: Primary UpToDate Replicating -SFRP-"
            ]
        );
        let mut none = facts("", 0, true);
        none.resources.clear();
        none.notes.push("a\nb\x1b".into());
        assert_eq!(
            changes(&dead, &states(&none)),
            [
                "resource data: gone",
                "resource data on alpha: gone",
                "host beta: alive",
                "note 1: a?b?",
            ]
        );
    }
}
