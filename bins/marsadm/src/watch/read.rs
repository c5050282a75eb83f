//! From the report, which `mars-status` shows too, to what is shown here.
use crate::watch::facts::{Facts, HostFacts, Job, MemberFacts, ResFacts, Switch};
use mars_macro::report::{
    HostReport, JobReport, MemberReport, MessageReport, PeerReport, ResourceReport,
};
use mars_tree::HostName;

/// `local` is this machine; differences of up to `threshold` bytes are no work worth a line; `time` is the wall clock as text.
pub fn facts(report: &HostReport, local: &HostName, threshold: u64, time: String) -> Facts {
    let mut notes: Vec<String> = report.messages.iter().map(message).collect();
    if report.uuid.is_none() {
        notes.push("this host is in no cluster; use create-cluster or join-cluster".into());
    }
    if report.damaged_links > 0 {
        notes.push(format!(
            "{} damaged links are ignored; marsadm view names them",
            report.damaged_links
        ));
    }
    Facts {
        host: report.host.to_string(),
        time,
        engine_running: report.engine_running,
        hosts: report.peers.iter().map(|p| peer(p, local)).collect(),
        resources: report
            .resources
            .iter()
            .map(|r| resource(r, threshold))
            .collect(),
        notes,
    }
}

fn message(m: &MessageReport) -> String {
    format!("{}-{}: {}", m.class, m.name, m.text)
}

fn peer(p: &PeerReport, local: &HostName) -> HostFacts {
    HostFacts {
        name: p.host.to_string(),
        ip: p.ip.clone(),
        alive: p.alive,
        age: p.age_seconds,
        local: p.host == *local,
        emergency: p.emergency_level.unwrap_or(0),
    }
}

fn resource(r: &ResourceReport, threshold: u64) -> ResFacts {
    let me = r.members.iter().find(|m| m.is_me);
    // The acting host's own lag; the primary has none, so that of the slowest member.
    let behind = match me.filter(|m| !m.designated) {
        Some(me) => Some(me),
        None => r
            .members
            .iter()
            .filter(|m| !m.designated)
            .max_by_key(|m| m.lag_bytes),
    };
    let messages = |info: bool| {
        let all = me.map(|m| m.messages.as_slice()).unwrap_or_default();
        let wanted = all.iter().filter(|m| (m.class == "inf") == info);
        wanted.map(message).collect()
    };
    let word = |f: fn(&MemberReport) -> String, other: &str| me.map_or(other.to_string(), f);
    ResFacts {
        name: r.name.to_string(),
        size: r.size,
        primary: r.designated.as_ref().map(ToString::to_string),
        role: word(|m| m.role.to_string(), "None"),
        disk: word(|m| m.disk_state.to_string(), "NotJoined"),
        repl: word(|m| m.repl_state.to_string(), "NotJoined"),
        flags: word(|m| m.flags.to_string(), ""),
        jobs: r.members.iter().flat_map(|m| jobs(m, threshold)).collect(),
        lag: behind.and_then(|m| m.lag_bytes),
        lag_secs: behind.and_then(|m| m.lag_seconds).filter(|s| *s > 0),
        members: r.members.iter().map(member).collect(),
        logs: r.logs.iter().map(|l| (l.log.to_string(), l.size)).collect(),
        messages: messages(false),
        infos: messages(true),
        split: split(r),
        device: me.map_or(vec![], device),
    }
}

fn split(r: &ResourceReport) -> Vec<String> {
    let points = r.split_brain.iter().flat_map(|s| &s.points);
    points
        .map(|p| {
            let sides: Vec<String> = p
                .hosts
                .iter()
                .map(|(host, bytes)| format!("{host} {bytes} bytes"))
                .collect();
            format!("SPLIT BRAIN after {:?}: {}", p.after, sides.join(", "))
        })
        .collect()
}

/// All of the acting host; of others only a sync, or much that is missing. What a primary has not written back is no work to wait for.
fn jobs(m: &MemberReport, threshold: u64) -> Vec<Job> {
    let job = |name: &str, job: &Option<JobReport>, least: u64| {
        let job = job.as_ref()?;
        let is_busy = job.rest() > least;
        let name = match m.is_me {
            true => name.to_string(),
            false => format!("{} {name}", m.host),
        };
        (m.is_me || is_busy).then(|| Job {
            name,
            is_busy,
            pos: job.pos,
            size: job.size,
            rate: job.rate.unwrap_or(0),
            remain: job.remain_seconds(),
        })
    };
    let mut all = vec![job("sync", &m.sync, 0)];
    if !m.designated {
        all.push(job("fetch", &m.fetch, threshold));
        all.push(job("replay", &m.replay, threshold));
    }
    all.into_iter().flatten().collect()
}

fn member(m: &MemberReport) -> MemberFacts {
    let switch = |name, wanted, actual: Option<bool>| Switch {
        name,
        wanted,
        actual: actual.unwrap_or(false),
    };
    MemberFacts {
        host: m.host.to_string(),
        role: m.role.to_string(),
        disk: m.disk_state.to_string(),
        repl: m.repl_state.to_string(),
        flags: m.flags.to_string(),
        switches: vec![
            switch("attach", m.switches.attach, m.actual.attached),
            switch("fetch", m.switches.connect, m.actual.fetching),
            switch("replay", m.switches.allow_replay, m.actual.replaying),
            switch("sync", m.switches.sync, m.actual.syncing),
        ],
        position: m.position.as_ref().map_or("?".into(), |p| {
            format!("{} {} dirty {}", p.log, p.pos, p.dirty)
        }),
        age: m.age_seconds,
    }
}

/// Lines whose first word is their name.
fn device(m: &MemberReport) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(disk) = &m.disk {
        let there = match m.disk_present {
            true => "",
            false => " (NOT THERE)",
        };
        lines.push(format!("Disk-path {disk}{there}"));
    }
    if m.actual.device == Some(true) {
        lines.push(format!(
            "Device {}, opened {} times, {} requests/s, {} under way",
            m.device,
            m.open_count.unwrap_or(0),
            m.device_ops_rate.unwrap_or(0),
            m.flying.unwrap_or(0)
        ));
    }
    lines
}
