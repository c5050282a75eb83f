//! The summary (mars-status.md 3): the pilot's layout; what the newer tool adds stands behind it.
use crate::gather::Facts;
use crate::text::{Class, Text, gb, gb_s, mb_s, on, percent, tb};
use crate::words::{EMERGENCY, dstate, is_synced, peer_of, role, tokens};
use mars_macro::report::{MemberReport, ResourceReport};
use mars_tree::{LogName, ResName};

/// Silence for longer is noted in the summary, seconds.
const SILENCE: u64 = 30;
/// A log of which less is applied counts as not begun, percent.
const BEGUN: u64 = 1;

/// The four lines at the top, and a rule.
pub fn header(t: &mut Text, f: &Facts, only: Option<&ResName>) {
    let r = &f.report;
    let version = env!("CARGO_PKG_VERSION");
    let only = only.map_or(String::new(), |r| format!(", Resource: {r}"));
    let me = r.peers.iter().find(|p| p.host == r.host);
    let tag = me.and_then(|p| p.buildtag.as_deref());
    let module = match (r.engine_running, tag) {
        (false, _) => "not running",
        (true, Some(tag)) => tag,
        (true, None) => version,
    };
    t.line(format!("MARS Status - {}, {version}{only}", r.host));
    t.line(format!("MARS Admin  - marsadm {version}"));
    t.line(format!("MARS Module - {module}"));
    t.line(format!("MARS Kernel - {}", f.kernel));
    t.line("-".repeat(78));
}

/// Space, emergency and limits of the whole cluster.
pub fn cluster(t: &mut Text, f: &Facts) {
    let full = full_hosts(f);
    let word = if full.is_empty() { "ok" } else { "full" };
    t.line(format!("-> Cluster Diskspace: {word}"));
    for host in &full {
        let more = if *host == f.report.host.as_str() {
            ", mars is stopping"
        } else {
            ""
        };
        t.hint(Class::Hint, format!("no space left on {host}{more}"));
    }
    t.line(format!("-> Transaktions: {}", transactions(f)));
    if f.sync_limit > 0 {
        t.line(format!("-> Synclimit: {}", f.sync_limit));
    }
    if !f.report.engine_running {
        t.hint(
            Class::Hint,
            "Module Mars not running, what follows may be old; use marsadm start",
        );
    }
}

/// Hosts that have no space left above their limits.
pub fn full_hosts(f: &Facts) -> Vec<&str> {
    let full = f.report.peers.iter().filter(|p| {
        let none_left = p.rest_space_gib == Some(0) && p.total_space_gib.is_some_and(|t| t > 0);
        none_left || p.emergency_level.is_some_and(|l| l >= EMERGENCY)
    });
    full.map(|p| p.host.as_str()).collect()
}

/// `running normaly`, as the pilot spells it, or the emergency.
pub fn transactions(f: &Facts) -> String {
    let own = f.report.peers.iter().find(|p| p.host == f.report.host);
    let level = own.and_then(|p| p.emergency_level).unwrap_or(0);
    let of_resource = f.report.resources.iter().any(|r| {
        let me = r.members.iter().find(|m| m.is_me);
        me.is_some_and(|m| m.actual.emergency == Some(true))
    });
    match level {
        0 if !of_resource => "running normaly".to_string(),
        0 => "emergency mode".to_string(),
        level => format!("emergency mode (level {level} of {EMERGENCY})"),
    }
}

/// One resource with all its members.
pub fn resource(t: &mut Text, f: &Facts, r: &ResourceReport, lag: u64) {
    let size = r.size.map_or("unknown size".to_string(), tb);
    let primary = r.designated.as_ref().map_or("unknown", |h| h.as_str());
    t.line(format!(
        "-> check resource {}, with {size}, Primary Node is {primary}",
        r.name
    ));
    for point in r.split_brain.iter().flat_map(|s| &s.points) {
        let sides: Vec<String> = point
            .hosts
            .iter()
            .map(|(h, n)| format!("{h} {n} bytes"))
            .collect();
        t.hint(
            Class::Hint,
            format!(
                "SPLIT-BRAIN after logfile '{}': {}",
                point.after,
                sides.join(", ")
            ),
        );
    }
    match r.members.iter().find(|m| m.is_me) {
        Some(me) => {
            member(t, f, r, me, lag);
            for other in r.members.iter().filter(|m| !m.is_me) {
                member(t, f, r, other, lag);
            }
        }
        None => {
            t.line(format!(
                "   -> local Node ({}) as not joined, {}",
                f.report.host,
                alive(f.report.engine_running, None)
            ));
            t.hint(Class::Hint, "Resource is not joined to this node");
        }
    }
    logs(t, r);
    let n = if r.is_member { r.members.len() } else { 0 };
    let modus = match n {
        0 => "remote (0 nodes)".to_string(),
        1 => "standalone (1 node)".to_string(),
        n => format!("clustered ({n} nodes)"),
    };
    t.line(format!("   -> modus for {} is {modus}", r.name));
}

fn alive(is_alive: bool, age: Option<u64>) -> String {
    match age {
        Some(age) if age > SILENCE => {
            format!("System unknown (last message before {age} sec) !!!")
        }
        _ if is_alive => "System alive".to_string(),
        Some(_) => "System unknown (not running) !!!".to_string(),
        None => "System unknown (no message) !!!".to_string(),
    }
}

fn member(t: &mut Text, f: &Facts, r: &ResourceReport, m: &MemberReport, lag: u64) {
    let place = if m.is_me { "local" } else { "remote" };
    let ip = peer_of(&f.report, m).and_then(|p| p.ip.as_deref());
    let ip = ip.map_or(String::new(), |ip| format!(" [{ip}]"));
    t.line(format!(
        "   -> {place} Node ({}){ip} as {}, {}",
        m.host,
        role(m),
        alive(m.fresh, m.age_seconds)
    ));
    devices(t, f, r, m);
    sync(t, m);
    log_and_replay(t, m);
    let is_primary = m.actual.primary == Some(true);
    let syncing = on(m.actual.syncing == Some(true));
    let attached = on(m.actual.attached == Some(true));
    t.line(if is_primary {
        format!(
            "Actual  : Status=Primary, used Device={}, Attached={attached}",
            on(m.actual.device == Some(true))
        )
    } else {
        format!(
            "Actual  : Status={}, Syncstatus={syncing}, Logfileupdate={}, Attached={attached}",
            role(m),
            on(m.actual.fetching == Some(true))
        )
    });
    let s = m.switches;
    let others = format!(
        "Connect={} Sync={} AllowReplay={}",
        on(s.connect),
        on(s.sync),
        on(s.allow_replay)
    );
    t.line(if is_primary {
        format!("Switches: Attach={} [masked: {others}]", on(s.attach))
    } else {
        format!("Switches: Attach={} {others}", on(s.attach))
    });
    t.line(format!(
        "Status  : {} = {}",
        dstate(&f.report, r, m, lag),
        tokens(m)
    ));
}

fn devices(t: &mut Text, f: &Facts, r: &ResourceReport, m: &MemberReport) {
    let sizes = r.size.zip(m.disk_size);
    let resized = match sizes {
        Some((a, b)) if a != b => "resize active",
        _ => "not resized",
    };
    let disk = m.disk.as_deref().unwrap_or("unknown");
    t.line(format!(
        "Devices : Disk-Device {disk}, used as Mars-Device {}, {resized}",
        m.device
    ));
    if !m.disk_present {
        t.hint(Class::Hint, format!("Disk-Device {disk} is not usable"));
    }
    if let Some(e) = m.disk_error {
        t.hint(Class::Hint, format!("Disk-Device {disk} has error {e}"));
    }
    if let Some((size, disk)) = sizes.filter(|(a, b)| a != b) {
        let class = if disk < size {
            Class::Hint
        } else {
            Class::Todo
        };
        t.hint(class, format!("resizing used ({size} != {disk})"));
    }
    let has_device = m.actual.device == Some(true);
    let is_primary = m.actual.primary == Some(true);
    let mount = f.mounts.iter().find(|x| m.is_me && x.device == m.device);
    match (has_device, mount) {
        (false, _) if m.designated && m.switches.attach => t.hint(
            Class::Hint,
            "unable to mount, mars is starting or defective",
        ),
        (true, Some(mount)) => t.hint(Class::Work, format!("mounted as {}", mount.dir)),
        (true, None) if !m.designated && !is_primary => {
            t.hint(Class::Hint, "Mars-Device on Secondary available");
        }
        (true, None) if m.is_me && m.open_count.unwrap_or(0) == 0 => {
            t.hint(Class::Todo, "enable to mount");
        }
        _ => {}
    }
}

fn sync(t: &mut Text, m: &MemberReport) {
    let Some(s) = m.sync else {
        t.line("Sync    : unknown");
        t.hint(Class::Hint, "Sync not started, status unknown");
        return;
    };
    let p = percent(s.pos, s.size);
    let mut line = format!("Sync    : {} bytes ({}) synced = {p}", s.pos, tb(s.pos));
    let is_open = !is_synced(m);
    if let (true, Some(rate @ 1..)) = (is_open, s.rate) {
        line.push_str(&format!(", at {}", gb_s(rate)));
        if let Some(secs) = s.remain_seconds() {
            line.push_str(&format!(" (done in {} min)", secs.div_ceil(60)));
        }
    }
    t.line(line);
    if is_open && m.actual.syncing == Some(true) {
        t.hint(Class::Work, format!("Sync in progress = ({p} < 100.00%)"));
    } else if is_open {
        t.hint(Class::Hint, format!("Sync not started = ({p} < 100.00%)"));
    }
}

fn log_and_replay(t: &mut Text, m: &MemberReport) {
    let (Some(pos), Some(work)) = (&m.position, m.work) else {
        t.line("Logfile : unknown");
        t.hint(Class::Work, "Logfile wait for starting ...");
        return;
    };
    let size = log_size(m, &pos.log).max(pos.pos);
    let mut line = format!(
        "Logfile : {size} bytes ({}) in log-{:09} active",
        gb(size),
        pos.log.nr
    );
    let fetching = m.fetch.filter(|f| f.rest() > 0).and_then(|f| f.rate);
    if let (Some(rate @ 1..), false) = (fetching, m.actual.primary == Some(true)) {
        line.push_str(&format!(", Logfiles received with {}", mb_s(rate)));
    }
    t.line(line);
    // A primary has promised the dirty part; a secondary has all that is known before it.
    let rest = work.rest();
    let todo = match (m.actual.primary, m.dirty_bytes) {
        (Some(true), Some(dirty @ 1..)) => dirty,
        _ => rest,
    };
    let end = pos.pos.saturating_add(rest);
    let p = percent(pos.pos, end);
    let mut line = format!(
        "Replayed: {} bytes ({}) now replayed, Todo {todo} ({}) = {p}",
        pos.pos,
        gb(pos.pos),
        gb(todo)
    );
    let rate = m.replay.and_then(|r| r.rate);
    if let (true, Some(rate @ 1..)) = (rest > 0, rate) {
        line.push_str(&format!(", at {}", mb_s(rate)));
    }
    t.line(line);
    let begun = pos.pos.saturating_mul(100) >= end.saturating_mul(BEGUN);
    let runs = m.actual.primary == Some(true) || m.actual.replaying == Some(true);
    if rest > 0 && !begun && !runs {
        t.hint(
            Class::Hint,
            format!("Replay not started, Logfile inactive = (Size: {size})"),
        );
    } else if rest > 0 {
        t.hint(Class::Work, format!("Replay in progress = ({p} < 100.00%)"));
    }
    if m.has_defective_log() {
        let code = m.replay_code.unwrap_or(0);
        t.hint(
            Class::Hint,
            format!("Logfile is defective = (Code: {code})"),
        );
    }
    if m.orphan {
        t.hint(Class::Hint, format!("Logfile is missing = ({})", pos.log));
    }
}

/// What the member knows of a log.
fn log_size(m: &MemberReport, log: &LogName) -> u64 {
    let links = m.versions.iter().filter(|v| v.log == *log);
    let linked = links.map(|v| v.len).max().unwrap_or(0);
    // The local file is in the fetch position: what is here behind the own position, in this log.
    let here = match (m.fetch, m.work, &m.position, m.log_numbers) {
        (Some(f), Some(w), Some(p), Some([_, replay, fetch, _])) if replay == fetch => {
            p.pos.saturating_add(f.pos.saturating_sub(w.pos))
        }
        _ => 0,
    };
    linked.max(here)
}

/// Logs that are not needed any more, and numbers on which members do not agree.
fn logs(t: &mut Text, r: &ResourceReport) {
    let numbers: Vec<u32> = r
        .members
        .iter()
        .filter_map(|m| Some(m.position.as_ref()?.log.nr))
        .collect();
    if let (Some(min), Some(max)) = (numbers.iter().min(), numbers.iter().max())
        && min != max
    {
        let class = if r.split_brain.is_some() {
            Class::Hint
        } else {
            Class::Work
        };
        t.hint(
            class,
            format!("Logfile Version not actual = ({min} ! {max})"),
        );
    }
    for log in &r.deletable {
        t.hint(
            Class::Todo,
            format!("{log} has all equal Sizes and Checksums, can be deleted ..."),
        );
    }
}
