//! --json: the report, with the words of the pilot. `null` means unknown; units as in `docs/monitoring.md`.
use crate::args::Limits;
use crate::check::check;
use crate::gather::Facts;
use crate::words::{cstate, dstate, role, tokens};
use mars_macro::report::{HostReport, JobReport, MemberReport, MessageReport, ResourceReport};
use serde_json::{Value, json};

/// Raised when a field changes its meaning or goes.
const SCHEMA_VERSION: u32 = 1;

/// The document.
pub fn json(f: &Facts, limits: &Limits, named: bool) -> Value {
    let r = &f.report;
    let c = check(f, limits, named);
    let findings: Vec<Value> = c
        .findings
        .iter()
        .map(|(level, text)| json!({"level": level.word(), "text": text}))
        .collect();
    let hosts: Vec<Value> = r
        .peers
        .iter()
        .map(|p| {
            json!({
                "host": p.host.as_str(),
                "ip": p.ip,
                "alive": p.alive,
                "heartbeat": p.heartbeat.map(|s| s.to_string()),
                "age_seconds": p.age_seconds,
                "emergency_level": p.emergency_level,
                "rest_space_gib": p.rest_space_gib,
                "total_space_gib": p.total_space_gib,
                "buildtag": p.buildtag,
            })
        })
        .collect();
    let resources: Vec<Value> = r
        .resources
        .iter()
        .map(|res| resource(r, res, limits.lag))
        .collect();
    json!({
        "schema_version": SCHEMA_VERSION,
        "host": r.host.as_str(),
        "uuid": r.uuid,
        "lamport_time": r.now.to_string(),
        "engine_running": r.engine_running,
        "check": {"word": c.level.word(), "code": c.level.code(), "findings": findings},
        "pending_deletes": r.pending_deletes,
        "tombstones": r.tombstones,
        "damaged_links": r.damaged_links,
        "messages": messages(&r.messages),
        "hosts": hosts,
        "resources": resources,
    })
}

fn messages(list: &[MessageReport]) -> Vec<Value> {
    list.iter()
        .map(|m| json!({"class": m.class, "name": m.name, "text": m.text, "since": m.since.map(|s| s.to_string())}))
        .collect()
}

fn resource(report: &HostReport, r: &ResourceReport, lag: u64) -> Value {
    let split: Option<Vec<Value>> = r.split_brain.as_ref().map(|s| {
        s.points
            .iter()
            .map(|p| {
                let hosts: Vec<Value> = p
                    .hosts
                    .iter()
                    .map(|(h, n)| json!({"host": h.as_str(), "lost_bytes": n}))
                    .collect();
                json!({"after": p.after, "hosts": hosts})
            })
            .collect()
    });
    let logs: Vec<Value> = r
        .logs
        .iter()
        .map(|l| {
            json!({
                "log": l.log.to_string(),
                "size_bytes": l.size,
                "deletable": r.deletable.contains(&l.log),
            })
        })
        .collect();
    let members: Vec<Value> = r
        .members
        .iter()
        .map(|m| member(report, r, m, lag))
        .collect();
    let primaries: Vec<&str> = r.actual_primaries.iter().map(|h| h.as_str()).collect();
    json!({
        "resource": r.name.as_str(),
        "size_bytes": r.size,
        "designated_primary": r.designated.as_ref().map(|h| h.as_str()),
        "actual_primaries": primaries,
        "is_member": r.is_member,
        "split_brain": split,
        "logs": logs,
        "members": members,
    })
}

fn job(j: Option<JobReport>) -> Value {
    match j {
        None => Value::Null,
        Some(j) => json!({
            "pos_bytes": j.pos,
            "size_bytes": j.size,
            "rest_bytes": j.rest(),
            "percent": j.percent(),
            "rate_bytes_per_second": j.rate,
            "remain_seconds": j.remain_seconds(),
        }),
    }
}

fn member(report: &HostReport, r: &ResourceReport, m: &MemberReport, lag: u64) -> Value {
    json!({
        "host": m.host.as_str(),
        "stale": !m.fresh,
        "age_seconds": m.age_seconds,
        "dstate": dstate(report, r, m, lag).word(),
        "cstate": cstate(m),
        "role": role(m),
        "status": tokens(m),
        "view": {
            "role": m.role.to_string(),
            "disk_state": m.disk_state.to_string(),
            "repl_state": m.repl_state.to_string(),
            "flags": m.flags.to_string(),
        },
        "switches": {
            "attach": m.switches.attach,
            "connect": m.switches.connect,
            "sync": m.switches.sync,
            "allow_replay": m.switches.allow_replay,
        },
        "actual": {
            "attached": m.actual.attached,
            "syncing": m.actual.syncing,
            "fetching": m.actual.fetching,
            "replaying": m.actual.replaying,
            "primary": m.actual.primary,
            "device": m.actual.device,
            "emergency": m.actual.emergency,
        },
        "sync": job(m.sync),
        "fetch": job(m.fetch),
        "replay": job(m.replay),
        "work": job(m.work),
        "position": m.position.as_ref().map(ToString::to_string),
        "last_applied": m.last_applied.map(|s| s.to_string()),
        "lag_seconds": m.lag_seconds,
        "lag_bytes": m.lag_bytes,
        "dirty_bytes": m.dirty_bytes,
        "consistent": m.consistency.is_consistent(),
        "orphan": m.orphan,
        "disk": {"path": m.disk, "present": m.disk_present, "size_bytes": m.disk_size, "error": m.disk_error},
        "device": {"path": m.device, "open_count": m.open_count, "flying": m.flying,
            "ops_per_second": m.device_ops_rate, "rate_bytes_per_second": m.device_rate},
        "replay_code": m.replay_code,
        "messages": messages(&m.messages),
    })
}
