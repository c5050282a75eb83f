//! --system and --debug (mars-status.md 5 and 6).
use crate::gather::{Facts, clock_ahead};
use crate::summary::{full_hosts, transactions};
use crate::text::{Text, date};
use mars_macro::report::MessageReport;

const UNSET: &str = "is unset, used full speed";

/// Operating parameters, the pilot's lines first.
pub fn system(t: &mut Text, f: &Facts) {
    t.line("-> AVG-Limit: ".to_string() + UNSET);
    // What leaves: the members that get our logs and blocks say how fast.
    let me = &f.report.host;
    let mut outgoing = 0u64;
    let mut incoming = 0u64;
    for r in &f.report.resources {
        for m in &r.members {
            let rate = |j: Option<mars_macro::report::JobReport>, runs: Option<bool>| match runs {
                Some(true) => j.and_then(|j| j.rate).unwrap_or(0),
                _ => 0,
            };
            let sum =
                rate(m.fetch, m.actual.fetching).saturating_add(rate(m.sync, m.actual.syncing));
            if m.is_me {
                incoming = incoming.saturating_add(sum);
            } else if r.designated.as_ref() == Some(me) {
                outgoing = outgoing.saturating_add(sum);
            }
        }
    }
    t.line(format!(
        "-> Network-Traffic-Limit: {UNSET}, current {} kb/s",
        outgoing / 1024
    ));
    let parameters = match &f.parameters {
        Ok(p) => p.clone(),
        Err(e) => {
            t.line(format!("-> Configuration: {}", e.replace('\n', "; ")));
            Default::default()
        }
    };
    let used = parameters
        .mem_used_percent
        .map_or(String::new(), |p| format!(", current {p} %"));
    t.line(format!(
        "-> Memory-Limit: is set to {} %{used}",
        parameters.mem_limit_percent
    ));
    t.line(format!(
        "-> Server-IO-Limit: {UNSET}, current {} kb/s",
        incoming / 1024
    ));
    let own = f.report.peers.iter().find(|p| p.host == *me);
    let rest = own
        .and_then(|p| p.rest_space_gib)
        .map_or(String::new(), |gib| {
            format!(", current {} mb above it", gib.saturating_mul(1024))
        });
    t.line(format!(
        "-> Free-Space-Limit on /mars: is set to {} mb{rest}",
        parameters.free_space_mib
    ));
    t.line(
        "-> Free-Space-Limit for Auto-Log-Delete: is unset, marsadm cron deletes what nobody needs",
    );
    t.line(match parameters.logrot_auto_mib {
        0 => "-> Free-Space-Limit for Auto-Log-Rotate: is unset".to_string(),
        mib => format!(
            "-> Free-Space-Limit for Auto-Log-Rotate: is set to {}.{:02} gb",
            mib / 1024,
            mib % 1024 * 100 / 1024
        ),
    });
    t.line(format!("-> Mars-Transaktion: {}", transactions(f)));
    let full = full_hosts(f);
    t.line(if full.is_empty() {
        "-> Diskspace on Cluster: ok".to_string()
    } else {
        format!("-> Diskspace on Cluster: full on {}", full.join(", "))
    });
    t.line(match f.sync_limit {
        0 => format!("-> Sync-Limit: {UNSET}"),
        n => format!("-> Sync-Limit: is set to {n} syncs"),
    });
    t.line(format!(
        "-> Lamport-Clock: {} sec before the wall clock",
        clock_ahead(f)
    ));
}

/// Warnings and errors from the message links, then what the original's engine has left in status files.
pub fn debug(t: &mut Text, f: &Facts) {
    let mut all: Vec<(String, &MessageReport)> = f
        .report
        .messages
        .iter()
        .map(|m| (String::new(), m))
        .collect();
    for r in &f.report.resources {
        let own = r.members.iter().filter(|m| m.is_me);
        all.extend(
            own.flat_map(|m| &m.messages)
                .map(|m| (format!("{}: ", r.name), m)),
        );
    }
    for (class, title) in [("wrn", "WARNINGS"), ("err", "ERRORS")] {
        t.line(format!("-> MARS {title}:"));
        for (place, m) in all.iter().filter(|(_, m)| m.class == class) {
            let when = m
                .since
                .map_or(String::new(), |s| format!("{}: ", date(s.secs())));
            t.line(format!("{when}{place}{}: {}", m.name, m.text));
        }
    }
    for (path, text) in &f.status_files {
        t.line(format!("-> {path}:"));
        for line in text.lines() {
            t.line(readable(line));
        }
    }
}

/// The first stamp of a line, made readable.
fn readable(line: &str) -> String {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word.parse::<mars_tree::Stamp>() {
        Ok(stamp) => format!("{}: {rest}", date(stamp.secs())),
        Err(_) => line.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_stamp_is_made_readable() {
        assert_eq!(
            readable("1348837020.000000001 log is full"),
            "Fri Sep 28 12:57:00 2012: log is full"
        );
        assert_eq!(readable("no stamp"), "no stamp");
        assert_eq!(readable(""), "");
    }
}
