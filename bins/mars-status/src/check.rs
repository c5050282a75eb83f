//! --monitor (mars-status.md 4.3, 9, 10, 12): findings, exit status and performance data.
use crate::args::Limits;
use crate::gather::Facts;
use crate::text::Text;
use crate::words::{DState, cstate, dstate, has_emergency, role, tokens};
use mars_macro::report::{JobReport, MemberReport, ResourceReport};

/// How bad; the number is the exit status.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Level {
    /// All well.
    Ok = 0,
    /// Somebody should look.
    Warning = 1,
    /// Somebody must act.
    Critical = 2,
    /// Nothing is known.
    Unknown = 3,
}

impl Level {
    /// The word of Nagios.
    pub fn word(self) -> &'static str {
        match self {
            Level::Ok => "OK",
            Level::Warning => "WARNING",
            Level::Critical => "CRITICAL",
            Level::Unknown => "UNKNOWN",
        }
    }
    /// The exit status.
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// More findings are only counted.
const FINDINGS_SHOWN: usize = 5;

/// What was found.
#[derive(Debug)]
pub struct Check {
    /// The worst level.
    pub level: Level,
    /// Level and text, worst first.
    pub findings: Vec<(Level, String)>,
    perf: Vec<String>,
    resources: usize,
}

impl Check {
    /// `MARS WORD: summary | performance data`.
    pub fn first_line(&self) -> String {
        let mut texts: Vec<String> = self
            .findings
            .iter()
            .take(FINDINGS_SHOWN)
            .map(|(_, t)| t.clone())
            .collect();
        if self.findings.len() > FINDINGS_SHOWN {
            texts.push(format!("{} more", self.findings.len() - FINDINGS_SHOWN));
        }
        if texts.is_empty() {
            texts.push(match self.resources {
                0 => "no resources".to_string(),
                1 => "1 resource is well".to_string(),
                n => format!("{n} resources are well"),
            });
        }
        let text = texts.join("; ").replace('|', "/");
        format!(
            "MARS {}: {text} | {}",
            self.level.word(),
            self.perf.join(" ")
        )
    }
}

/// The resources that the check is about: those of which this host is member, or the one that was named.
pub fn checked(f: &Facts, named: bool) -> impl Iterator<Item = &ResourceReport> {
    f.report
        .resources
        .iter()
        .filter(move |r| named || r.is_member)
}

/// `'NAME'=VALUE;WARN;CRIT;0`; an unknown value is `U`.
fn perf(
    name: &str,
    value: Option<u64>,
    unit: &str,
    warn: Option<u64>,
    crit: Option<u64>,
) -> String {
    let text = |n: Option<u64>| n.map_or(String::new(), |n| n.to_string());
    match value {
        Some(v) => format!("'{name}'={v}{unit};{};{};0", text(warn), text(crit)),
        None => format!("'{name}'=U"),
    }
}

/// Looks at everything. `named`: one resource was asked for.
pub fn check(f: &Facts, limits: &Limits, named: bool) -> Check {
    let mut c = Check {
        level: Level::Ok,
        findings: Vec::new(),
        perf: Vec::new(),
        resources: 0,
    };
    host(&mut c, f, limits);
    for r in checked(f, named) {
        c.resources += 1;
        resource(&mut c, f, r, limits);
    }
    c.findings
        .sort_by_key(|(level, _)| std::cmp::Reverse(*level));
    c.level = c.findings.first().map_or(Level::Ok, |(l, _)| *l);
    c
}

fn host(c: &mut Check, f: &Facts, limits: &Limits) {
    let mut found = |level, text: String| c.findings.push((level, text));
    let r = &f.report;
    if !r.engine_running {
        found(Level::Critical, "mars-meta is not running".into());
    }
    if r.pending_deletes > limits.deletes {
        let n = r.pending_deletes;
        found(Level::Warning, format!("{n} deletions are pending"));
    }
    let mut space = None;
    for p in &r.peers {
        let is_me = p.host == r.host;
        match p.emergency_level.unwrap_or(0) {
            0 => {}
            4.. => found(Level::Critical, format!("emergency on {}", p.host)),
            n if is_me => found(Level::Warning, format!("space of /mars is low (level {n})")),
            _ => {}
        }
        if is_me {
            space = p.rest_space_gib.zip(p.total_space_gib.filter(|t| *t > 0));
            continue;
        }
        // What a silent host means is decided by its role; here it is only a host of the cluster.
        match p.age_seconds {
            Some(age) if age <= limits.age => {}
            Some(age) => found(
                Level::Warning,
                format!("host {} is silent for {age} s", p.host),
            ),
            None => found(
                Level::Warning,
                format!("nothing was heard of host {}", p.host),
            ),
        }
    }
    let free = space.map(|(rest, total)| (rest.saturating_mul(100) / total).min(100));
    if let Some(free) = free {
        let text = format!("{free} % of the space of /mars is free");
        if free < limits.space_critical {
            c.findings.push((
                Level::Critical,
                format!("{text}; leave resources or make it larger"),
            ));
        } else if free < limits.space {
            c.findings
                .push((Level::Warning, format!("{text}; run marsadm cron")));
        }
    }
    // Below the threshold is bad, which the colon says.
    c.perf.push(match free {
        Some(free) => format!(
            "'space_free'={free}%;{}:;{}:;0;100",
            limits.space, limits.space_critical
        ),
        None => "'space_free'=U".to_string(),
    });
    for p in r.peers.iter().filter(|p| p.host != r.host) {
        let name = format!("age_{}", p.host);
        let crit = Some(limits.age_critical);
        c.perf
            .push(perf(&name, p.age_seconds, "s", Some(limits.age), crit));
    }
}

fn resource(c: &mut Check, f: &Facts, r: &ResourceReport, limits: &Limits) {
    let name = &r.name;
    let mut found = |level, text: String| c.findings.push((level, format!("{name} {text}")));
    if r.split_brain.is_some() {
        found(Level::Critical, "has a split brain".into());
    }
    if let Some(p) = r.designated.as_ref().filter(|p| **p != f.report.host) {
        let peer = f.report.peers.iter().find(|x| x.host == *p);
        let age = peer.and_then(|x| x.age_seconds);
        if age.is_none_or(|a| a > limits.age_critical) {
            let age = age.map_or("longer than known".to_string(), |a| format!("{a} s"));
            found(
                Level::Critical,
                format!("has a primary {p} that is silent for {age}"),
            );
        }
    }
    let Some(m) = r.members.iter().find(|m| m.is_me) else {
        found(Level::Critical, "is not joined here (Failed)".into());
        return;
    };
    if has_emergency(&f.report, m) {
        found(Level::Critical, "has an emergency".into());
    }
    if m.orphan {
        found(Level::Critical, "is Orphan".into());
    }
    if m.has_defective_log() {
        found(
            Level::Critical,
            format!("has a defective log ({})", m.disk_state),
        );
    }
    state(&mut found, f, r, m, limits);
    if let Some(lag) = m.lag_seconds
        && limits.lag_critical.is_some_and(|crit| lag > crit)
    {
        found(Level::Critical, format!("lags by {lag} s"));
    }
    if let Some(rest) = m.lag_bytes {
        if limits.rest_critical.is_some_and(|crit| rest > crit) {
            found(Level::Critical, format!("has {rest} bytes to apply"));
        } else if limits.rest.is_some_and(|warn| rest > warn) {
            found(Level::Warning, format!("has {rest} bytes to apply"));
        }
    }
    let lag = (Some(limits.lag), limits.lag_critical);
    c.perf.push(perf(
        &format!("lag_{name}"),
        m.lag_seconds,
        "s",
        lag.0,
        lag.1,
    ));
    let rest = (limits.rest, limits.rest_critical);
    c.perf.push(perf(
        &format!("rest_{name}"),
        m.lag_bytes,
        "B",
        rest.0,
        rest.1,
    ));
    let sync = m.sync.map(|s| s.rest());
    c.perf
        .push(perf(&format!("sync_rest_{name}"), sync, "B", None, None));
}

/// The finding that the state of the data makes, if any.
fn state(
    found: &mut impl FnMut(Level, String),
    f: &Facts,
    r: &ResourceReport,
    m: &MemberReport,
    limits: &Limits,
) {
    let moves = |runs: Option<bool>, job: Option<JobReport>| {
        runs == Some(true) && job.and_then(|j| j.rate).is_some_and(|rate| rate > 0)
    };
    let word = dstate(&f.report, r, m, limits.lag);
    match word {
        DState::UpToDate | DState::UpDateIng => {}
        DState::SwitchOff => {
            let s = m.switches;
            let off = [
                (s.attach, "attach"),
                (s.connect, "connect"),
                (s.sync, "sync"),
                (s.allow_replay, "allow-replay"),
            ];
            let off: Vec<&str> = off.iter().filter(|(on, _)| !on).map(|(_, n)| *n).collect();
            found(
                Level::Warning,
                format!("is SwitchOff ({} off)", off.join(", ")),
            );
        }
        DState::OutDate => {
            let lag = m.lag_seconds;
            let lag = lag.map_or("unknown".to_string(), |n| format!("{n} s"));
            // Work left and no rate: stuck.
            let stuck = if m.work.is_some_and(|w| w.rate.unwrap_or(0) == 0) {
                ", nothing moves"
            } else {
                ""
            };
            found(Level::Warning, format!("is OutDate (lag {lag}{stuck})"));
        }
        DState::InvaliDate
            if moves(m.actual.syncing, m.sync) || moves(m.actual.replaying, m.replay) =>
        {
            found(Level::Warning, "is InvaliDate (in progress)".into());
        }
        DState::InvaliDate => found(Level::Critical, "is InvaliDate, nothing moves".into()),
        DState::Failed => found(
            Level::Critical,
            format!("is Failed ({} {})", m.disk_state, m.repl_state),
        ),
    }
}

/// The three lines of a resource (mars-status.md 4.3).
pub fn three_lines(t: &mut Text, f: &Facts, r: &ResourceReport, lag: u64) {
    let on = format!("[resource-{} on {}]", r.name, f.report.host);
    match r.members.iter().find(|m| m.is_me) {
        Some(m) => {
            t.line(format!("{} {on}", role(m)));
            t.line(format!("{} [{}]", dstate(&f.report, r, m, lag), tokens(m)));
            t.line(format!("{} {on}", cstate(m)));
        }
        None => {
            t.line(format!("not joined {on}"));
            t.line("Failed [(not joined)]");
            t.line(format!("Disconnect {on}"));
        }
    }
}
