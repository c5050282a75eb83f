//! The words about a split brain (macro-language.md section 7).
use crate::human_seconds;
use mars_policy::{SplitPoint, View, amount, split_brain};
use mars_tree::{HostName, Key, LogName, ResName};

/// What every command says about a split brain: for each point a line that begins with `SPLIT BRAIN`, then one for each host that is
/// involved, with what it would lose. Empty without one.
pub fn split_brain_lines(v: &View<'_>, res: &ResName) -> Vec<String> {
    let Some(split) = split_brain(v, res) else {
        return Vec::new();
    };
    let mut lines = Vec::new();
    for point in &split.points {
        lines.push(format!(
            "SPLIT BRAIN of resource '{res}' after logfile '{}'{}",
            point.after,
            age(v, res, point)
        ));
        for (i, (host, bytes)) in point.hosts.iter().enumerate() {
            lines.push(format!(
                "host{} = '{host}' {}logfile_amount='{bytes}' ({})",
                i + 1,
                [role(v, res, host), &contact(v, host)].concat(),
                amount(*bytes)
            ));
        }
    }
    lines
}

/// Since when there are different histories, as far as stamps tell: the eldest link of what follows the split.
fn age(v: &View<'_>, res: &ResName, point: &SplitPoint) -> String {
    let after = point.after.split(',').next().unwrap_or("");
    let Ok(log) = after.parse::<LogName>() else {
        return String::new();
    };
    let stamps = point.hosts.iter().filter_map(|(host, _)| {
        let key = Key::Version(res.clone(), log.nr.checked_add(1)?, host.clone());
        v.snap.stamp(&key)
    });
    match stamps.min() {
        Some(eldest) => format!(" age ~{}", seconds(v.now.since(eldest).as_secs())),
        None => String::new(),
    }
}

fn seconds(n: u64) -> String {
    human_seconds(Some(crate::ctx::float(n)))
}

/// What is known of the host's role, with a blank behind it.
fn role(v: &View<'_>, res: &ResName, host: &HostName) -> &'static str {
    match v.snap.actual(res, host, "is-primary") {
        None => "unknown-role ",
        Some(0) => "",
        // Of itself a host knows, of others it has heard.
        Some(_) if host == v.local => "primary ",
        Some(_) => "reported-primary ",
    }
}

/// What is in the way of talking to it, with a blank behind it.
fn contact(v: &View<'_>, host: &HostName) -> String {
    if host == v.local {
        return String::new();
    }
    if v.ip(host).is_none() {
        return "unconfigured IP ".into();
    }
    match v.heartbeat(host) {
        None => "unreachable ".into(),
        Some(_) if v.is_alive(host) => String::new(),
        Some(beat) => format!("interrupted ~{} ", seconds(v.now.since(beat).as_secs())),
    }
}
