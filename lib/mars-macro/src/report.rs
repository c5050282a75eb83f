//! Everything that monitoring and live views show, typed: [`host_report`] computes it from a [`Scope`], without I/O.
//!
//! Amounts are bytes, rates bytes per second, ages and lags seconds. What is not known is `None`, never 0. Nothing is negative: links with
//! negative numbers count as 0.
use crate::Scope;
use crate::ctx::{Ctx, Job, Memo};
use crate::messages::{Wish, messages};
use mars_policy::{
    ConsistencyFacts, DiskState, Flags, Progress, ReplState, Role, SplitBrain, View,
    actual_primary_hosts, consistency, deletable_logs, disk_state_at, flags_at, is_orphan, percent,
    progress, repl_state, role_at, split_brain, sync_progress,
};
use mars_tree::{HostName, Key, LogName, MessageValue, ReplayPos, ResName, Stamp, TodoSwitch};
use std::time::Duration;

/// Younger logs are not deleted.
const SETTLED: Duration = Duration::from_secs(120);

/// This host, its cluster, and the resources that were asked for.
#[derive(Clone, Debug)]
pub struct HostReport {
    /// The acting host.
    pub host: HostName,
    /// Lamport time of the report.
    pub now: Stamp,
    /// `uuid` of the cluster; `None`: in no cluster.
    pub uuid: Option<String>,
    /// Version of the tree of the acting host, normally `0.1`.
    pub tree: Option<String>,
    /// Is `mars-meta` running on this machine?
    pub engine_running: bool,
    /// All hosts of the cluster, the acting one included.
    pub peers: Vec<PeerReport>,
    /// Messages of the host.
    pub messages: Vec<MessageReport>,
    /// Live `todo-global/delete-*` links: deletions that others still have to carry out (left by older versions of MARS).
    pub pending_deletes: u64,
    /// Deleted keys that are remembered until everybody has heard of it.
    pub tombstones: u64,
    /// Links whose value does not have the form that their key demands.
    pub damaged_links: u64,
    /// In the order asked for.
    pub resources: Vec<ResourceReport>,
}

/// A host of the cluster, as this machine knows it.
#[derive(Clone, Debug)]
pub struct PeerReport {
    /// Its name.
    pub host: HostName,
    /// Its address.
    pub ip: Option<String>,
    /// Last sign of life.
    pub heartbeat: Option<Stamp>,
    /// Seconds since then.
    pub age_seconds: Option<u64>,
    /// Is that younger than the window?
    pub alive: bool,
    /// 0 to 4; `None` when the link is missing or damaged.
    pub emergency_level: Option<u64>,
    /// Free space of `/mars` above all limits, GiB.
    pub rest_space_gib: Option<u64>,
    /// Space of `/mars` minus all limits, GiB.
    pub total_space_gib: Option<u64>,
    /// What its engine calls itself.
    pub buildtag: Option<String>,
}

/// A message link that is not `OK`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MessageReport {
    /// `err`, `wrn`, `inf`.
    pub class: String,
    /// `replay-stop`.
    pub name: String,
    /// First seen, wall clock; `None`: damaged.
    pub since: Option<Stamp>,
    /// Text.
    pub text: String,
}

/// A resource with all its members.
#[derive(Clone, Debug)]
pub struct ResourceReport {
    /// Its name.
    pub name: ResName,
    /// Logical size.
    pub size: Option<u64>,
    /// Designated primary.
    pub designated: Option<HostName>,
    /// Members that are actual primary.
    pub actual_primaries: Vec<HostName>,
    /// All members; the acting host first when it is one.
    pub members: Vec<MemberReport>,
    /// Is the acting host a member?
    pub is_member: bool,
    /// Where histories part.
    pub split_brain: Option<SplitBrain>,
    /// Local log files, ascending.
    pub logs: Vec<LogReport>,
    /// Those of them that nobody needs any more: the next `marsadm cron` deletes them.
    pub deletable: Vec<LogName>,
}

/// A local log file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogReport {
    /// Number and creator.
    pub log: LogName,
    /// Bytes.
    pub size: u64,
    /// Last change.
    pub mtime: Stamp,
}

/// The four switches, as `todo-HOST/` has them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs)]
pub struct SwitchReport {
    pub attach: bool,
    pub connect: bool,
    pub sync: bool,
    pub allow_replay: bool,
}

impl SwitchReport {
    /// Is every one on?
    pub fn all_on(self) -> bool {
        self.attach && self.connect && self.sync && self.allow_replay
    }
}

/// What `actual-HOST/` of the resource says; `None` = no such link.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[allow(missing_docs)]
pub struct ActualReport {
    pub attached: Option<bool>,
    pub syncing: Option<bool>,
    pub fetching: Option<bool>,
    pub replaying: Option<bool>,
    pub primary: Option<bool>,
    pub device: Option<bool>,
    pub emergency: Option<bool>,
}

/// A line of work.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub struct JobReport {
    /// Done.
    pub pos: u64,
    /// Whole.
    pub size: u64,
    /// Bytes per second; `None`: no such link.
    pub rate: Option<u64>,
}

impl JobReport {
    /// To do.
    pub fn rest(&self) -> u64 {
        self.size.saturating_sub(self.pos)
    }
    /// As `view` shows it, 0 to 100.
    pub fn percent(&self) -> f64 {
        percent(self.pos, self.size)
    }
    /// Seconds until done; `None` when there is work and no rate.
    pub fn remain_seconds(&self) -> Option<u64> {
        match (self.rest(), self.rate.unwrap_or(0)) {
            (0, _) => Some(0),
            (_, 0) => None,
            (rest, rate) => Some(rest.div_ceil(rate)),
        }
    }
}

/// One host of one resource.
#[derive(Clone, Debug)]
pub struct MemberReport {
    /// Its name.
    pub host: HostName,
    /// Is it the acting host?
    pub is_me: bool,
    /// Are the facts about it exact and fresh? Otherwise they are what was last heard: the host is silent for longer than the window,
    /// or it is this machine and `mars-meta` does not run.
    pub fresh: bool,
    /// Seconds since its last sign of life.
    pub age_seconds: Option<u64>,
    /// Has it a disk for the resource?
    pub joined: bool,
    /// Role.
    pub role: Role,
    /// Is it the designated primary?
    pub designated: bool,
    /// Disk state.
    pub disk_state: DiskState,
    /// Replication state.
    pub repl_state: ReplState,
    /// The six letters.
    pub flags: Flags,
    /// Switches.
    pub switches: SwitchReport,
    /// Actual states.
    pub actual: ActualReport,
    /// `None`: unknown position or size.
    pub sync: Option<JobReport>,
    /// Log bytes that are here, of those known. `None`: no replay link.
    pub fetch: Option<JobReport>,
    /// Log bytes that are applied, of those that are here.
    pub replay: Option<JobReport>,
    /// Log bytes that are applied, of those known.
    pub work: Option<JobReport>,
    /// Log numbers of the base, replay, fetch and highest known position.
    pub log_numbers: Option<[u32; 4]>,
    /// The replay link.
    pub position: Option<ReplayPos>,
    /// Lamport stamp of the last visible progress of the replay position.
    pub last_applied: Option<Stamp>,
    /// Age of the oldest known write that is not applied here; 0 when everything known is, and at an actual primary: who reads its
    /// device gets the newest data, whatever is written back.
    pub lag_seconds: Option<u64>,
    /// Bytes known and not applied; of a primary: not written back.
    pub lag_bytes: Option<u64>,
    /// Bytes behind the position that may be partly on the disk.
    pub dirty_bytes: Option<u64>,
    /// Inputs of the consistency rule.
    pub consistency: ConsistencyFacts,
    /// Is the log of its replay link missing? Known of this machine only.
    pub orphan: bool,
    /// Configured disk.
    pub disk: Option<String>,
    /// Is that disk usable? Of other hosts it is assumed.
    pub disk_present: bool,
    /// Size of the disk.
    pub disk_size: Option<u64>,
    /// Path of the device.
    pub device: String,
    /// Openers of the device.
    pub open_count: Option<u64>,
    /// Requests in flight.
    pub flying: Option<u64>,
    /// Requests per second at the device.
    pub device_ops_rate: Option<u64>,
    /// Bytes per second at the device.
    pub device_rate: Option<u64>,
    /// `disk-error`, if not 0.
    pub disk_error: Option<i64>,
    /// `replay-code`: below 0 the log is defective.
    pub replay_code: Option<i64>,
    /// Messages that are not `OK`.
    pub messages: Vec<MessageReport>,
    /// Its version links, ascending: what it has of each log.
    pub versions: Vec<VersionReport>,
}

/// A version link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VersionReport {
    /// Log.
    pub log: LogName,
    /// Bytes.
    pub len: u64,
    /// Digest over the whole history.
    pub md5: [u8; 16],
}

impl MemberReport {
    /// Is the replay held up by a defective log?
    pub fn has_defective_log(&self) -> bool {
        self.replay_code.is_some_and(|c| c < 0)
    }
}

/// Computes the report. The resource and the arguments of the scope do not matter.
pub fn host_report(scope: &Scope<'_>, resources: &[ResName]) -> HostReport {
    let v = &scope.view;
    let scope = Scope {
        res: None,
        args: &[],
        ..*scope
    };
    let count = |n: usize| u64::try_from(n).unwrap_or(u64::MAX);
    HostReport {
        host: v.me.clone(),
        now: v.now,
        uuid: v.snap.sound_text(&Key::Uuid).map(str::to_string),
        tree: host_text(v, v.me, "tree"),
        engine_running: v.engine_running,
        peers: v.snap.hosts().iter().map(|h| peer(v, h)).collect(),
        messages: message_list(&scope),
        pending_deletes: count(v.snap.live_below("todo-global/delete-").count()),
        tombstones: count(
            v.snap
                .links
                .values()
                .filter(|l| l.value.is_deleted())
                .count(),
        ),
        damaged_links: count(v.snap.damaged().len()),
        resources: resources.iter().map(|res| resource(&scope, res)).collect(),
    }
}

fn host_text(v: &View<'_>, host: &HostName, name: &str) -> Option<String> {
    let key = Key::HostActual(host.clone(), name.to_string());
    v.snap.sound_text(&key).map(str::to_string)
}

fn peer(v: &View<'_>, host: &HostName) -> PeerReport {
    let number = |name: &str| {
        v.snap
            .number(&Key::HostActual(host.clone(), name.to_string()))
    };
    let heartbeat = v.heartbeat(host);
    PeerReport {
        host: host.clone(),
        ip: v.ip(host),
        heartbeat,
        age_seconds: heartbeat.map(|s| v.now.since(s).as_secs()),
        alive: v.is_alive(host),
        emergency_level: number("emergency"),
        rest_space_gib: number("rest-space"),
        total_space_gib: number("total-space"),
        buildtag: host_text(v, host, "buildtag"),
    }
}

/// Messages of the scope's acting host: of its resource, or of the host.
fn message_list(scope: &Scope<'_>) -> Vec<MessageReport> {
    let wish = Wish {
        all: true,
        pretty: false,
        global: false,
        class: None,
    };
    messages(scope, wish)
        .iter()
        .filter_map(|m| {
            let (class, name) = m.name.split_once('-')?;
            let (since, text) = match m.parsed() {
                Some(MessageValue::Ok) => return None,
                Some(MessageValue::Text { real, text, .. }) => (Some(real), text),
                None => (None, m.text()),
            };
            Some(MessageReport {
                class: class.to_string(),
                name: name.to_string(),
                since,
                text,
            })
        })
        .collect()
}

fn resource(scope: &Scope<'_>, res: &ResName) -> ResourceReport {
    let v = &scope.view;
    let mut hosts = v.snap.members(res);
    let is_member = hosts.contains(v.me);
    // Stable, so the others keep their order.
    hosts.sort_by_key(|h| h != v.me);
    let mut members: Vec<MemberReport> = hosts
        .iter()
        .filter_map(|host| member(scope, res, host))
        .collect();
    for (_, owner, link) in v.snap.versions(res) {
        if let Some(m) = members.iter_mut().find(|m| m.host == owner) {
            m.versions.push(VersionReport {
                log: link.head.log,
                len: link.head.len,
                md5: link.head.md5,
            });
        }
    }
    ResourceReport {
        name: res.clone(),
        size: v.size(res),
        designated: v.designated(res),
        actual_primaries: actual_primary_hosts(v, res),
        members,
        is_member,
        split_brain: split_brain(v, res),
        deletable: deletable_logs(v, res, SETTLED),
        logs: v
            .snap
            .logs(res)
            .into_iter()
            .map(|(log, meta)| LogReport {
                log,
                size: meta.size,
                mtime: meta.mtime,
            })
            .collect(),
    }
}

/// A number of a link; what is below 0 counts as 0.
fn clamped(n: i64) -> u64 {
    u64::try_from(n).unwrap_or(0)
}

fn member(scope: &Scope<'_>, res: &ResName, host: &HostName) -> Option<MemberReport> {
    let here = Scope {
        view: View {
            me: host,
            ..scope.view
        },
        res: Some(res),
        ..*scope
    };
    let memo = Memo::default();
    let c = Ctx::new("report", &here, &memo).ok()?;
    let v = &c.v;
    let link = v.snap.replay(res, host);
    let p = link.as_ref().map(|_| progress(v, res, host));
    let rate = |new: &str, old: &str| {
        let kib = c.actual(host, new).or_else(|| c.actual(host, old))?;
        Some(clamped(kib).saturating_mul(1024))
    };
    let rates = [
        rate("amount-sync_rate", "sync_rate"),
        rate("amount-file_rate", "file_rate"),
        rate("amount-replay_rate", "replay_rate"),
    ];
    let job = |rate, pick: fn(&Progress) -> (u64, u64)| {
        p.map(|p| pick(&p))
            .map(|(pos, size)| JobReport { pos, size, rate })
    };
    let on = |name: &str| c.actual(host, name).map(|n| n != 0);
    let count = |name: &str| c.actual(host, name).map(clamped);
    let switch = |s| v.switch(res, host, s);
    let present = c.disk_present(host);
    let is_local = host == v.local;
    Some(MemberReport {
        host: host.clone(),
        is_me: host == scope.view.me,
        fresh: v.is_alive(host) && (!is_local || v.engine_running),
        age_seconds: c.alive_age(host),
        joined: v.has_disk(res, host),
        role: role_at(v, res, host, present),
        designated: v.is_designated(res, host),
        disk_state: disk_state_at(v, res, host, present),
        repl_state: repl_state(v, res, host),
        flags: flags_at(v, res, host, present),
        switches: SwitchReport {
            attach: switch(TodoSwitch::Attach),
            connect: switch(TodoSwitch::Connect),
            sync: switch(TodoSwitch::Sync),
            allow_replay: switch(TodoSwitch::AllowReplay),
        },
        actual: ActualReport {
            attached: on("is-attached"),
            syncing: on("is-syncing"),
            fetching: on("is-copying"),
            replaying: on("is-replaying"),
            primary: on("is-primary"),
            device: on("if-on"),
            emergency: on("has-emergency"),
        },
        sync: sync_progress(v, res, host).map(|s| JobReport {
            pos: s.pos.min(s.size),
            size: s.size,
            rate: rates[0],
        }),
        fetch: job(rates[1], |p| (p.fetch_pos, p.fetch_size)),
        replay: job(rates[2], |p| (p.replay_pos, p.fetch_pos)),
        work: job(rates[1].max(rates[2]), |p| (p.replay_pos, p.fetch_size)),
        log_numbers: p.map(|p| [p.base_nr, p.replay_nr, p.fetch_nr, p.work_nr]),
        last_applied: v.snap.stamp(&Key::Replay(res.clone(), host.clone())),
        lag_seconds: p.and_then(|p| lag_seconds(&c, host, &p)),
        lag_bytes: p.map(|p| p.work_rest()),
        dirty_bytes: link.as_ref().map(|l| l.dirty),
        position: link,
        consistency: consistency(v, res, host),
        orphan: is_orphan(v, res, host),
        disk: c.disk_path(host).map(str::to_string),
        disk_present: present,
        disk_size: c.size_of_disk(host),
        device: c.device_path(host),
        open_count: count("open-count"),
        flying: count("if-flying"),
        device_ops_rate: count("ops-if_rate"),
        device_rate: rate("amount-if_rate", "if_rate"),
        disk_error: c.actual(host, "disk-error").filter(|e| *e != 0),
        replay_code: replay_code(&c, host),
        messages: message_list(&here),
        versions: Vec::new(),
    })
}

/// The first number of `replay-code`.
fn replay_code(c: &Ctx<'_>, host: &HostName) -> Option<i64> {
    let text = c.actual_text(host, "replay-code")?;
    text.split(',').next()?.trim().parse().ok()
}

/// Exact when the caller has read the stamp of the first record behind the position. Otherwise from the tree: since when the position has
/// not moved, and how long before its last move the primary wrote last (mars-status.md 4.1), whichever is more.
fn lag_seconds(c: &Ctx<'_>, host: &HostName, p: &Progress) -> Option<u64> {
    if p.work_rest() == 0 || c.v.is_actual_primary(c.res, host) {
        return Some(0);
    }
    let first = c
        .scope
        .machine
        .oldest_unapplied
        .iter()
        .find(|o| o.res == *c.res && o.host == *host);
    if let Some(first) = first {
        return Some(c.v.now.since(first.stamp).as_secs());
    }
    let still = c.age(Job::Replay, host)?;
    let behind =
        c.v.designated(c.res)
            .and_then(|primary| c.lag(Job::Replay, host, &primary));
    Some(still.max(behind.unwrap_or(0)))
}
