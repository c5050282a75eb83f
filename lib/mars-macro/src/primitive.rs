//! Primitive macros (macro-language.md section 5). Only those that need no I/O: known mounts, status files and waiting are the
//! business of programs.
use crate::Scope;
use crate::ctx::{Ctx, Job, Memo, float};
use crate::features::{self, FEATURE_MACROS};
use crate::human::number;
use crate::lang::number_of;
use crate::local::{LOCAL_MACROS, local_macro};
use crate::messages;
use crate::names::{GLOBAL, JOB_SUFFIXES, JOBS, find, job_has, unknown};
use crate::{human_number, human_seconds, progress_bar};
use mars_policy::{
    actual_primary_hosts, consistency, deletable_logs, errno_text, is_orphan, split_brain,
};
use mars_tree::{HostName, Key, ResName, TodoSwitch};
use std::time::Duration;

/// Why a macro has no value.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MacroError {
    /// No such macro.
    #[error("cannot find macro {name:?}{}", nearest.as_ref().map(|n| format!("; did you mean {n:?}?")).unwrap_or_default())]
    Unknown {
        /// As given.
        name: String,
        /// Nearest known name.
        nearest: Option<String>,
    },
    /// Something went wrong while a macro text was evaluated.
    #[error("{0}")]
    Language(crate::lang::LangError),
    /// It needs a resource.
    #[error("macro {0:?} needs a resource")]
    NeedsResource(String),
    /// A wrong argument.
    #[error("macro {name:?}: argument {value:?}: {why}")]
    Argument {
        /// Macro.
        name: String,
        /// Argument.
        value: String,
        /// Rule.
        why: String,
    },
}

/// Value of a primitive macro; `_` and `-` in names are the same.
pub fn primitive(name: &str, scope: &Scope<'_>) -> Result<String, MacroError> {
    primitive_with(name, scope, &Memo::default())
}

/// The same; `memo` belongs to resource and host of the scope.
pub(crate) fn primitive_with(
    name: &str,
    scope: &Scope<'_>,
    memo: &Memo,
) -> Result<String, MacroError> {
    let Some(known) = find(name) else {
        return Err(unknown(name));
    };
    if let Some((wish, count)) = messages::parse_name(known) {
        let lines = messages::lines(scope, wish);
        return Ok(if count {
            lines.len().to_string()
        } else {
            lines.join("\n")
        });
    }
    if FEATURE_MACROS.contains(&known) {
        let host = host_arg(known, scope, 0)?;
        return Ok(features::feature_macro(known, scope, &host).unwrap_or_default());
    }
    if GLOBAL.contains(&known) {
        return global(known, scope, memo);
    }
    let ctx = Ctx::new(name, scope, memo)?;
    if LOCAL_MACROS.contains(&known) {
        return Ok(local_macro(known, &ctx));
    }
    for (prefix, job) in JOBS {
        if let Some(suffix) = known.strip_prefix(prefix)
            && JOB_SUFFIXES.contains(&suffix)
            && job_has(*job, suffix)
        {
            return job_macro(known, &ctx, *job, suffix);
        }
    }
    of_resource(known, &ctx)
}

fn arg<'a>(scope: &Scope<'a>, index: usize) -> Option<&'a str> {
    scope
        .args
        .get(index)
        .map(String::as_str)
        .filter(|s| !s.is_empty())
}

fn host_arg(name: &str, scope: &Scope<'_>, index: usize) -> Result<HostName, MacroError> {
    match arg(scope, index) {
        None => Ok(scope.view.me.clone()),
        Some(text) => text
            .parse()
            .map_err(|e: mars_tree::NameError| wrong(name, text, &e)),
    }
}

/// As everywhere in the language: the number that the text begins with. `None` when there is no argument, or an empty one.
fn number_arg(scope: &Scope<'_>, index: usize) -> Option<f64> {
    arg(scope, index).map(number_of)
}

fn wrong(name: &str, value: &str, why: &dyn std::fmt::Display) -> MacroError {
    MacroError::Argument {
        name: name.to_string(),
        value: value.to_string(),
        why: why.to_string(),
    }
}

fn flag(b: bool) -> String {
    if b { "1" } else { "0" }.into()
}
fn opt<T: ToString>(n: Option<T>) -> String {
    n.map(|n| n.to_string()).unwrap_or_default()
}
fn join<T: ToString>(names: &[T]) -> String {
    let texts: Vec<String> = names.iter().map(ToString::to_string).collect();
    texts.join("\n")
}

/// Resources where `host` has a disk, or (guests) only a device.
fn resources_of(scope: &Scope<'_>, host: &HostName, guest: bool) -> Vec<ResName> {
    let mut all = scope.view.snap.resources();
    all.retain(|r| {
        if guest {
            is_guest(scope, r, host)
        } else {
            scope.view.snap.members(r).contains(host)
        }
    });
    all
}

fn is_guest(scope: &Scope<'_>, res: &ResName, host: &HostName) -> bool {
    let snap = scope.view.snap;
    snap.get(&Key::Device(res.clone(), host.clone())).is_some() && !snap.members(res).contains(host)
}

fn guests(scope: &Scope<'_>, res: &ResName) -> Vec<HostName> {
    let mut hosts = scope.view.snap.hosts();
    hosts.retain(|h| is_guest(scope, res, h));
    hosts
}

fn global(name: &str, scope: &Scope<'_>, memo: &Memo) -> Result<String, MacroError> {
    let v = &scope.view;
    let host = || host_arg(name, scope, 0);
    let host_actual = |host: &HostName, key: &str| {
        let key = Key::HostActual(host.clone(), key.to_string());
        v.snap.sound_text(&key).unwrap_or_default().to_string()
    };
    // The host whose liveness is asked: argument, else the designated primary, else this one.
    let watched = || match arg(scope, 0) {
        Some(_) => host(),
        None => Ok(scope
            .res
            .and_then(|r| v.designated(r))
            .unwrap_or_else(|| v.me.clone())),
    };
    Ok(match name {
        "cluster-members" | "cluster-peers" | "configured-peers" => join(&v.snap.hosts()),
        "count-cluster-members" | "count-cluster-peers" => v.snap.hosts().len().to_string(),
        "all-resources" | "all-members" => join(&v.snap.resources()),
        "all-guests" => {
            let mut all = v.snap.resources();
            all.retain(|r| !guests(scope, r).is_empty());
            join(&all)
        }
        "count-all-resources" | "count-all-members" => v.snap.resources().len().to_string(),
        "count-all-guests" => {
            let all = v.snap.resources();
            let with_guests = all.iter().filter(|r| !guests(scope, r).is_empty());
            with_guests.count().to_string()
        }
        "count-configured-peers" => v.snap.hosts().len().to_string(),
        "my-resources" | "my-members" => join(&resources_of(scope, &host()?, false)),
        "my-guests" => join(&resources_of(scope, &host()?, true)),
        "count-my-resources" | "count-my-members" => {
            resources_of(scope, &host()?, false).len().to_string()
        }
        "count-my-guests" => resources_of(scope, &host()?, true).len().to_string(),
        "alive-timestamp" => v
            .heartbeat(&watched()?)
            .map_or("-1".into(), |s| s.secs().to_string()),
        "alive-age" => v
            .heartbeat(&watched()?)
            .map_or("-1".into(), |s| v.now.since(s).as_secs().to_string()),
        "is-alive" => flag(v.is_alive(&watched()?)),
        "is-emergency" => {
            let h = host()?;
            flag(match scope.res {
                Some(res) => v.actual_on(res, &h, "has-emergency"),
                None => v.emergency_level(&h) >= 4,
            })
        }
        "is-module-loaded" => flag(v.engine_running),
        "errno-text" => errno_text(&scope.args.join(",")),
        "features-version" => features::version(scope, &host()?),
        "global-sync-limit-value" => {
            let key = Key::HostDefault(host()?, "sync-limit".to_string());
            v.snap.number(&key).unwrap_or(0).to_string()
        }
        "human-seconds" => human_seconds(number_arg(scope, 0)),
        "human-number" | "human-numbers" => {
            let numbers = scope.args.iter().skip(3).map(|a| number_of(a));
            let numbers: Vec<f64> = numbers.collect();
            let text = |i| arg(scope, i).unwrap_or("");
            human_number(text(0), text(1), text(2), &numbers)
        }
        "progress" => bar(name, scope, memo)?,
        "rest-space" | "total-space" => host_actual(&host()?, name),
        "time" => v.now.secs().to_string(),
        "real-time" => scope.machine.real_time.to_string(),
        "tree" | "tree-version" => host_actual(&host()?, "tree"),
        "uuid" => v
            .snap
            .sound_text(&Key::Uuid)
            .unwrap_or_default()
            .to_string(),
        _ => return Err(unknown(name)),
    })
}

/// `%progress{len}{min}{mid}{max}`; without numbers those of `summary-vector`.
fn bar(name: &str, scope: &Scope<'_>, memo: &Memo) -> Result<String, MacroError> {
    let len = number_arg(scope, 0).unwrap_or(20.0).clamp(0.0, 1e4);
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
    let len = len as usize;
    if scope.args.len() > 1 {
        let n = |i| number_arg(scope, i).unwrap_or(0.0);
        return Ok(progress_bar(len, n(1), n(2), n(3)));
    }
    let p = Ctx::new(name, scope, memo)?.progress();
    Ok(progress_bar(
        len,
        float(p.replay_pos),
        float(p.fetch_pos),
        float(p.fetch_size),
    ))
}

fn job_macro(name: &str, c: &Ctx<'_>, job: Job, suffix: &str) -> Result<String, MacroError> {
    let span = c.span(job);
    let lognr = |job| {
        let p = c.progress();
        match job {
            Job::Fetch => p.fetch_nr,
            Job::Work => p.work_nr,
            _ => p.replay_nr,
        }
    };
    let rate_link = |what: &str| {
        let link = match job {
            Job::Sync => "sync",
            Job::Fetch => "file",
            _ => "replay",
        };
        count(c, &format!("{what}-{link}_rate"))
    };
    let seconds = |n: Option<u64>| n.map_or("-1".into(), |n| n.to_string());
    Ok(match suffix {
        "pos" if job == Job::Sync => {
            let key = Key::SyncStatus(c.res.clone(), c.me().clone());
            opt(c.v.snap.number(&key))
        }
        "size" if job == Job::Sync => opt(c.v.size(c.res)),
        "pos" => span.pos.to_string(),
        "size" => span.size.to_string(),
        "rest" => span.rest().to_string(),
        "reached" => flag(span.rest() == 0),
        "threshold-reached" => {
            let limit = number_arg(c.scope, 0);
            flag(float(span.rest()) <= limit.unwrap_or(float(c.scope.threshold)))
        }
        "almost-reached" => {
            let limit = number_arg(c.scope, 0).unwrap_or(990.0);
            flag(span.permille() >= limit)
        }
        "percent" => number(span.percent()),
        "permille" => number(span.permille()),
        "vector" => {
            let d = arg(c.scope, 0).unwrap_or(":");
            format!("{}{d}{}", span.pos, span.size)
        }
        "rate" => c.rate(job).to_string(),
        "ops-rate" => rate_link("ops"),
        "amount-rate" => rate_link("amount"),
        "remain" => number(c.remain(job)),
        "lognr" => lognr(job).to_string(),
        "logcount" => {
            let base = match job {
                Job::Replay => c.progress().base_nr,
                _ => lognr(Job::Replay),
            };
            lognr(job).saturating_sub(base).to_string()
        }
        "timestamp" => seconds(c.timestamp(job, &host_arg(name, c.scope, 0)?)),
        "age" => seconds(c.age(job, &host_arg(name, c.scope, 0)?)),
        "lag" => {
            let host = host_arg(name, c.scope, 0)?;
            let primary = match arg(c.scope, 1) {
                Some(_) => Some(host_arg(name, c.scope, 1)?),
                None => c.v.designated(c.res),
            };
            seconds(primary.and_then(|p| c.lag(job, &host, &p)))
        }
        _ => return Err(unknown(name)),
    })
}

/// The switch behind `todo-X`.
fn todo_switch(x: &str) -> Option<TodoSwitch> {
    Some(match x {
        "attach" => TodoSwitch::Attach,
        "sync" => TodoSwitch::Sync,
        "fetch" | "connect" => TodoSwitch::Connect,
        "replay" | "allow-replay" => TodoSwitch::AllowReplay,
        _ => return None,
    })
}

/// The link behind `is-X`.
fn actual_link(x: &str) -> Option<&'static str> {
    Some(match x {
        "attach" => "is-attached",
        "sync" => "is-syncing",
        "fetch" => "is-copying",
        "replay" => "is-replaying",
        "primary" => "is-primary",
        _ => return None,
    })
}

/// A number that cannot be negative; 0 when unknown.
fn count(c: &Ctx<'_>, link: &str) -> String {
    let n = c.actual(c.me(), link);
    n.unwrap_or(0).max(0).to_string()
}

fn todo_value(c: &Ctx<'_>, x: &str) -> Option<String> {
    Some(match x {
        "primary" => flag(c.v.is_designated(c.res, c.me())),
        "secondary" => flag(c.v.designated(c.res).is_none()),
        _ => flag(c.switch(c.me(), todo_switch(x)?)),
    })
}

fn is_value(c: &Ctx<'_>, x: &str, host: &HostName) -> Option<String> {
    if x == "secondary" {
        return Some(flag(!c.v.is_actual_primary(c.res, host)));
    }
    let value = c.actual(host, actual_link(x)?);
    Some(opt(value.map(|n| u8::from(n != 0))))
}

fn of_resource(name: &str, c: &Ctx<'_>) -> Result<String, MacroError> {
    let scope = c.scope;
    let host = || host_arg(name, scope, 0);
    if let Some(x) = name
        .strip_prefix("todo-")
        .or(arg(scope, 0).filter(|_| name == "todo"))
    {
        return todo_value(c, x).ok_or_else(|| wrong(name, x, &"no such switch"));
    }
    if name == "does" || name == "todo" {
        let x = arg(scope, 0).unwrap_or("");
        let value = if name == "does" {
            is_value(c, x, c.me())
        } else {
            None
        };
        return value.ok_or_else(|| wrong(name, x, &"no such state"));
    }
    if let Some(x) = name.strip_prefix("nr-") {
        let members = c.disk_members();
        let n = members
            .iter()
            .filter(|h| is_value(c, x, h).as_deref() == Some("1"));
        return Ok(n.count().to_string());
    }
    if let Some(x) = name.strip_prefix("is-")
        && let Some(value) = is_value(c, x, &host()?)
    {
        return Ok(value);
    }
    let text = |key: Key| c.v.snap.sound_text(&key).unwrap_or_default().to_string();
    let local_logs = || c.v.snap.logs(c.res);
    let facts = || consistency(&c.v, c.res, c.me());
    let completion = || -> Option<mars_tree::Stamp> {
        c.actual_text(c.me(), "if-completion-stamp")?.parse().ok()
    };
    Ok(match name {
        "actual-primary" => {
            let hosts = actual_primary_hosts(&c.v, c.res);
            let me = c.device_present(c.me()).then(|| c.me().clone());
            opt(me.or_else(|| hosts.into_iter().next()))
        }
        "get-primary" => opt(c.v.designated(c.res)),
        "resource-members" | "resource-peers" => join(&c.v.snap.members(c.res)),
        "count-resource-members" | "count-resource-peers" => {
            c.v.snap.members(c.res).len().to_string()
        }
        "guest-peers" => join(&guests(scope, c.res)),
        "count-guest-peers" => guests(scope, c.res).len().to_string(),
        "is-member" | "is-guest" => {
            let res = match arg(scope, 0) {
                Some(r) => r
                    .parse()
                    .map_err(|e: mars_tree::NameError| wrong(name, r, &e))?,
                None => c.res.clone(),
            };
            let host = host_arg(name, scope, 1)?;
            flag(match name {
                "is-member" => c.v.snap.members(&res).contains(&host),
                _ => is_guest(scope, &res, &host),
            })
        }
        "is-consistent" => flag(facts().is_consistent()),
        "is-almost-consistent" => flag(facts().is_almost_consistent()),
        "is-orphan" => flag(is_orphan(&c.v, c.res, &host()?)),
        "is-split-brain" => flag(split_brain(&c.v, c.res).is_some()),
        "replay-code" => c
            .actual_text(c.me(), "replay-code")
            .unwrap_or("")
            .to_string(),
        "get-disk" => c.disk_path(c.me()).unwrap_or("").to_string(),
        "get-device" => c.device_path(c.me()),
        "disk-present" => match c.disk_path(c.me()) {
            Some(_) => flag(c.disk_present(c.me())),
            None => String::new(),
        },
        "device-present" => flag(c.device_present(c.me())),
        "device-opened" => count(c, "open-count"),
        "disk-error" => opt(c.actual(c.me(), "disk-error")),
        "device-error" => opt(c.actual(c.me(), "if-state")),
        "device-nrflying" => count(c, "if-flying"),
        "device-completion-stamp" => opt(completion().map(|s| s.secs())),
        "device-completion-age" => opt(completion().map(|s| c.v.now.since(s).as_secs())),
        "device-ops-rate" => count(c, "ops-if_rate"),
        "device-amount-rate" => count(c, "amount-if_rate"),
        "disk-size" => opt(c.size_of_disk(&host()?)),
        "resource-size" | "device-size" => opt(c.v.size(c.res)),
        "resource-possible-size" => c.possible_size().unwrap_or(0).to_string(),
        "occupied-size" => local_logs()
            .iter()
            .fold(0u64, |sum, (_, m)| sum.saturating_add(m.size))
            .to_string(),
        "deletable-size" => {
            let gone = deletable_logs(&c.v, c.res, Duration::from_secs(120));
            local_logs()
                .iter()
                .filter(|(l, _)| gone.contains(l))
                .fold(0u64, |sum, (_, m)| sum.saturating_add(m.size))
                .to_string()
        }
        "writeback-rest" => {
            // The dirty range counts too: it may be on the disk in part.
            let dirty = c.v.snap.replay(c.res, c.me()).map_or(0, |r| r.dirty);
            let is_primary = c.v.is_actual_primary(c.res, c.me());
            let rest = if is_primary {
                c.span(Job::Work).rest()
            } else {
                0
            };
            let is_writer = is_primary || c.v.is_designated(c.res, c.me());
            rest.max(if is_writer { dirty } else { 0 }).to_string()
        }
        "replay-basenr" => c.progress().base_nr.to_string(),
        "summary-vector" => {
            let d = arg(scope, 0).unwrap_or(":");
            let p = c.progress();
            format!("{}{d}{}{d}{}", p.replay_pos, p.fetch_pos, p.fetch_size)
        }
        "get-msg" => {
            let x = arg(scope, 0).ok_or_else(|| wrong(name, "", &"a message name is missing"))?;
            c.actual_text(c.me(), &format!("msg-{x}"))
                .unwrap_or("")
                .to_string()
        }
        "systemd-unit" => {
            let start = text(Key::Systemd(c.res.clone(), "start-unit".into()));
            let stop = text(Key::Systemd(c.res.clone(), "stop-unit".into()));
            format!("{start} {stop}").trim().to_string()
        }
        "systemd-want" => text(Key::Systemd(c.res.clone(), "want".into())),
        _ => return Err(unknown(name)),
    })
}
