//! Metrics in the text exposition format 0.0.4 of Prometheus. What is unknown has no sample; nothing is negative.
use crate::gather::Facts;
use crate::words::{dstate, has_emergency, role};
use mars_macro::report::{MemberReport, ResourceReport};
use mars_tree::Stamp;
use std::fmt::Write;

const GIB: u64 = 1 << 30;

/// A metric: name and help. All are gauges.
pub type Metric = (&'static str, &'static str);

macro_rules! metrics {
    ($($id:ident $name:literal $help:literal;)*) => {
        $(const $id: Metric = ($name, $help);)*
        /// All metrics, in the order of the output.
        pub const METRICS: &[Metric] = &[$($id),*];
    };
}

metrics! {
    UP "mars_up" "1 when the tree of this host could be read.";
    INFO "mars_info" "Always 1; version of mars-status, host and cluster.";
    ENGINE "mars_engine_running" "1 while mars-meta runs on this host.";
    TIME "mars_lamport_time_seconds" "Lamport time of this host at the moment of the report.";
    HOST_STALE "mars_host_stale" "1 when the host is silent for longer than 60 s: everything about it is what was last heard.";
    AGE "mars_peer_age_seconds" "Seconds since the last sign of life of a host of the cluster.";
    EMERGENCY_LEVEL "mars_emergency_level" "Emergency level of a host, 0 (none) to 4 (nothing is logged).";
    SPACE_REST "mars_space_rest_bytes" "Free space of /mars above all limits.";
    SPACE_TOTAL "mars_space_total_bytes" "Space of /mars minus all limits.";
    PENDING "mars_pending_deletes" "Deletions ordered by links of an old kind that wait.";
    TOMBSTONES "mars_tombstones" "Deleted keys that are remembered until everybody has heard of it.";
    DAMAGED "mars_damaged_links" "Links of the tree whose value does not have its form.";
    SIZE "mars_resource_size_bytes" "Logical size of a resource.";
    MEMBERS "mars_resource_members" "Number of members.";
    SPLIT "mars_split_brain" "1 when the histories of the members part.";
    PRIMARIES "mars_actual_primaries" "Number of members that are actual primary.";
    DESIGNATED "mars_designated_primary" "1 for the host that is designated primary.";
    LOG_FILES "mars_log_files" "Log files of the resource on this host.";
    LOG_BYTES "mars_log_bytes" "Bytes of log files of the resource on this host.";
    LOG_DELETABLE "mars_log_deletable_files" "Log files on this host that nobody needs any more.";
    STALE "mars_stale" "1 when what is told of this member is only what was last heard: it is silent, or mars-meta does not run here.";
    JOINED "mars_joined" "1 when the member has a disk.";
    ROLE "mars_role" "1 for the role that the member has: Primary, Secondary, not joined.";
    DSTATE "mars_dstate" "1 for the state word of the data that applies (docs/monitoring.md).";
    DISK_STATE "mars_disk_state" "1 for the disk state that applies, without amounts (mars-states(7)).";
    REPL_STATE "mars_repl_state" "1 for the replication state that applies (mars-states(7)).";
    SWITCH "mars_switch" "A switch of the member: 1 on, 0 off.";
    ACTUAL "mars_actual" "An actual state of the member: 1 yes, 0 no.";
    POSITION "mars_position_bytes" "Bytes done of sync, fetch, replay and work (all of replay's and fetch's).";
    TARGET "mars_target_bytes" "Bytes to which the position will go.";
    REST "mars_rest_bytes" "Bytes left.";
    RATE "mars_rate_bytes_per_second" "Bytes per second.";
    LAG_SECONDS "mars_lag_seconds" "Age of the oldest known write that the member has not applied; 0 when there is none, and at primaries.";
    LAG_BYTES "mars_lag_bytes" "Log bytes that are known and not applied (primary: not written back).";
    APPLIED "mars_last_applied_timestamp_seconds" "Lamport time at which the replay position moved last.";
    DIRTY "mars_dirty_bytes" "Bytes behind the position that may be partly on the disk.";
    LOG_NUMBER "mars_log_number" "Number of the log at the base, replay, fetch and newest known position.";
    CONSISTENT "mars_consistent" "1 when the disk is consistent by itself.";
    EMERGENCY "mars_emergency" "1 when the member does not log.";
    ORPHAN "mars_orphan" "1 when the log of the replay position is missing; known of this host only.";
    DEFECTIVE "mars_defective_log" "1 when replay stopped at a defective log.";
    DISK_ERROR "mars_disk_error" "Error number of the disk, 0 = none.";
    OPENERS "mars_device_openers" "How often the device is open.";
    FLYING "mars_device_flying" "Requests at the device that are not answered.";
    DEVICE_OPS "mars_device_ops_per_second" "Requests per second at the device.";
    DEVICE_RATE "mars_device_bytes_per_second" "Bytes per second at the device.";
}

/// Samples by metric: all samples of one metric must stand together.
#[derive(Default)]
struct Samples(Vec<(Metric, String)>);

impl Samples {
    fn put(&mut self, m: Metric, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let mut line = m.0.to_string();
        for (i, (name, text)) in labels.iter().enumerate() {
            line.push(if i == 0 { '{' } else { ',' });
            let _ = write!(line, "{name}=\"{}\"", escape(text));
        }
        if !labels.is_empty() {
            line.push('}');
        }
        let _ = writeln!(line, " {value}");
        self.0.push((m, line));
    }
    fn known(&mut self, m: Metric, labels: &[(&str, &str)], value: Option<u64>) {
        if let Some(value) = value {
            self.put(m, labels, value);
        }
    }
    fn flag(&mut self, m: Metric, labels: &[(&str, &str)], value: bool) {
        self.put(m, labels, u8::from(value));
    }
    fn text(self) -> String {
        let mut out = String::new();
        for metric in METRICS {
            let mut samples = self.0.iter().filter(|(m, _)| m.0 == metric.0).peekable();
            if samples.peek().is_some() {
                let _ = writeln!(out, "# HELP {} {}", metric.0, metric.1);
                let _ = writeln!(out, "# TYPE {} gauge", metric.0);
            }
            out.extend(samples.map(|(_, line)| line.as_str()));
        }
        out
    }
}

/// A label value: backslash, quote and line feed are escaped, other control characters replaced.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            '\n' => out.push_str("\\n"),
            c if c.is_control() => out.push('?'),
            c => out.push(c),
        }
    }
    out
}

/// Seconds with all nine digits.
fn seconds(s: Stamp) -> String {
    s.to_string()
}

/// When nothing could be read: that there is nothing.
pub fn down() -> String {
    let mut s = Samples::default();
    s.put(UP, &[], 0);
    s.text()
}

/// All metrics. `lag`: seconds from which on the data count as `OutDate`.
pub fn metrics(f: &Facts, lag: u64) -> String {
    let r = &f.report;
    let mut s = Samples::default();
    s.put(UP, &[], 1);
    let info = [
        ("version", env!("CARGO_PKG_VERSION")),
        ("host", r.host.as_str()),
        ("uuid", r.uuid.as_deref().unwrap_or("")),
    ];
    s.put(INFO, &info, 1);
    s.flag(ENGINE, &[], r.engine_running);
    s.put(TIME, &[], seconds(r.now));
    s.put(PENDING, &[], r.pending_deletes);
    s.put(TOMBSTONES, &[], r.tombstones);
    s.put(DAMAGED, &[], r.damaged_links);
    for p in &r.peers {
        let labels = [("host", p.host.as_str()), ("self", yes(p.host == r.host))];
        let bytes = |gib: Option<u64>| gib.map(|n| n.saturating_mul(GIB));
        s.flag(HOST_STALE, &labels, !p.alive);
        s.known(AGE, &labels, p.age_seconds);
        s.known(EMERGENCY_LEVEL, &labels, p.emergency_level);
        s.known(SPACE_REST, &labels, bytes(p.rest_space_gib));
        s.known(SPACE_TOTAL, &labels, bytes(p.total_space_gib));
    }
    for res in &r.resources {
        resource(&mut s, res);
        for m in &res.members {
            member(&mut s, f, res, m, lag);
        }
    }
    s.text()
}

fn yes(b: bool) -> &'static str {
    if b { "1" } else { "0" }
}

fn resource(s: &mut Samples, r: &ResourceReport) {
    let labels = [("resource", r.name.as_str())];
    let bytes = r
        .logs
        .iter()
        .fold(0u64, |sum, l| sum.saturating_add(l.size));
    s.known(SIZE, &labels, r.size);
    s.put(MEMBERS, &labels, r.members.len());
    s.flag(SPLIT, &labels, r.split_brain.is_some());
    s.put(PRIMARIES, &labels, r.actual_primaries.len());
    if let Some(host) = &r.designated {
        s.put(DESIGNATED, &[labels[0], ("host", host.as_str())], 1);
    }
    s.put(LOG_FILES, &labels, r.logs.len());
    s.put(LOG_BYTES, &labels, bytes);
    s.put(LOG_DELETABLE, &labels, r.deletable.len());
}

/// `OutDated[FR]` and `WriteBack[35.084 MiB]` without what is in brackets.
fn bare(word: &str) -> &str {
    word.split('[').next().unwrap_or(word)
}

fn member(s: &mut Samples, f: &Facts, r: &ResourceReport, m: &MemberReport, lag: u64) {
    let own = [
        ("resource", r.name.as_str()),
        ("host", m.host.as_str()),
        ("self", yes(m.is_me)),
    ];
    let repl_state = m.repl_state.to_string();
    let with = |name, value| [own[0], own[1], own[2], (name, value)];
    s.flag(STALE, &own, !m.fresh);
    s.flag(JOINED, &own, m.joined);
    s.put(ROLE, &with("role", role(m)), 1);
    let word = dstate(&f.report, r, m, lag).word();
    s.put(DSTATE, &with("state", word), 1);
    s.put(DISK_STATE, &with("state", bare(&m.disk_state.word)), 1);
    s.put(REPL_STATE, &with("state", &repl_state), 1);
    for (name, value) in [
        ("attach", m.switches.attach),
        ("connect", m.switches.connect),
        ("sync", m.switches.sync),
        ("allow-replay", m.switches.allow_replay),
    ] {
        s.flag(SWITCH, &with("switch", name), value);
    }
    for (name, value) in [
        ("attached", m.actual.attached),
        ("syncing", m.actual.syncing),
        ("fetching", m.actual.fetching),
        ("replaying", m.actual.replaying),
        ("primary", m.actual.primary),
        ("device", m.actual.device),
    ] {
        s.known(ACTUAL, &with("state", name), value.map(u64::from));
    }
    for (name, job) in [
        ("sync", m.sync),
        ("fetch", m.fetch),
        ("replay", m.replay),
        ("work", m.work),
    ] {
        let labels = with("job", name);
        s.known(POSITION, &labels, job.map(|j| j.pos));
        s.known(TARGET, &labels, job.map(|j| j.size));
        s.known(REST, &labels, job.map(|j| j.rest()));
        s.known(RATE, &labels, job.and_then(|j| j.rate));
    }
    s.known(LAG_SECONDS, &own, m.lag_seconds);
    s.known(LAG_BYTES, &own, m.lag_bytes);
    if let Some(stamp) = m.last_applied {
        s.put(APPLIED, &own, seconds(stamp));
    }
    s.known(DIRTY, &own, m.dirty_bytes);
    if let Some(numbers) = m.log_numbers {
        for (name, nr) in ["base", "replay", "fetch", "newest"].iter().zip(numbers) {
            s.put(LOG_NUMBER, &with("position", name), nr);
        }
    }
    s.flag(CONSISTENT, &own, m.consistency.is_consistent());
    s.flag(EMERGENCY, &own, has_emergency(&f.report, m));
    if m.is_me {
        s.flag(ORPHAN, &own, m.orphan);
    }
    s.flag(DEFECTIVE, &own, m.has_defective_log());
    s.put(DISK_ERROR, &own, m.disk_error.unwrap_or(0).unsigned_abs());
    s.known(OPENERS, &own, m.open_count);
    s.known(FLYING, &own, m.flying);
    s.known(DEVICE_OPS, &own, m.device_ops_rate);
    s.known(DEVICE_RATE, &own, m.device_rate);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn label_values_are_escaped() {
        assert_eq!(escape("a\\b\"c\nd\re"), "a\\\\b\\\"c\\nd?e");
    }

    #[test]
    fn when_down_only_that() {
        let text = down();
        assert!(text.ends_with("mars_up 0\n"), "{text}");
        assert_eq!(text.lines().count(), 3);
    }
}
