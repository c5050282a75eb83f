//! The commands of old scripts that look: show, show-info, show-errors, show-state, role and their other names
//! (marsadm-commands.md section 7).
use super::{Command, ResArg, anybody, builtin, each, over};
use crate::cmd::cat;
use crate::ctx::Ctx;
use crate::error::{Done, refuse};
use crate::out;
use crate::plan::{designated, is_actual};
use mars_policy::{View, errno_text};
use mars_tree::{HostName, Key, ResName, Snapshot};

/// The commands of this family.
pub const COMMANDS: &[Command] = &[
    over(
        "show",
        show,
        "Print links as KEY=VALUE lines (old scripts; better: view --json)",
    ),
    anybody(each(
        "show-state",
        "",
        0,
        0,
        show_state,
        "Print role and state in one line (old scripts; better: view-replstate)",
    )),
    anybody(each("mars-state", "", 0, 0, show_state, "")),
    anybody(each(
        "show-info",
        "",
        0,
        0,
        show_info,
        "Print the status file of the own log, if there is one",
    )),
    anybody(each("mars-info", "", 0, 0, show_info, "")),
    anybody(each(
        "show-errors",
        "",
        0,
        0,
        show_errors,
        "Print errors and warnings of a resource here; exit 1 when there are any",
    )),
    shown("cstate"),
    shown("dstate"),
    shown("status"),
    Command {
        args: "FILE...",
        ..builtin(
            "cat",
            ResArg::None,
            "Print a file with time stamps and error numbers made readable",
        )
    },
];

/// A word of DRBD for the macro of the same name.
const fn shown(name: &'static str) -> Command {
    let mut c = builtin(name, ResArg::Many, "");
    c.max = 0;
    c
}

/// `KEY=VALUE` of this host, below the names that old scripts know.
fn host_lines(snap: &Snapshot, me: &HostName) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(ip) = snap.text(&Key::Ip(me.clone())) {
        lines.push(format!("ips/ip-{me}={ip}"));
    }
    for name in ["alive", "emergency", "rest-space"] {
        if let Some(value) = snap.text(&Key::HostActual(me.clone(), name.into())) {
            lines.push(format!("{name}-{me}={value}"));
        }
    }
    lines
}

/// `KEY=VALUE` of a resource; the path below its directory is the key.
fn resource_lines(snap: &Snapshot, res: &ResName, me: &HostName) -> Vec<String> {
    let prefix = format!("resource-{res}/");
    let flat = ["device", "actsize", "syncstatus", "replay"].map(|n| format!("{n}-{me}"));
    let dirs = ["actual", "todo"].map(|n| format!("{n}-{me}/"));
    snap.live_below(&prefix)
        .filter_map(|(path, link)| {
            let name = path.strip_prefix(&prefix)?;
            let wanted = matches!(name, "primary" | "size")
                || flat.iter().any(|f| f == name)
                || dirs.iter().any(|d| name.starts_with(d));
            Some((name, link.value.as_str()?)).filter(|_| wanted)
        })
        .map(|(name, value)| format!("{name}={}", clean(value)))
        .collect()
}

/// It may come from another host.
fn clean(value: &str) -> String {
    value.chars().filter(|c| !c.is_control()).collect()
}

/// `show [RES]`; without a resource, all.
fn show(ctx: &Ctx, resources: Option<&[ResName]>) -> Done {
    let mut snap = ctx.snapshot()?;
    if ctx.is_local() {
        mars_facts::refresh(&ctx.env, &mut snap, ctx.tree.clock().now());
    }
    host_lines(&snap, &ctx.me).iter().for_each(out::say);
    let all;
    let list = match resources {
        Some(list) => list,
        None => {
            all = crate::checks::own(&snap, &ctx.me);
            &all
        }
    };
    for res in list {
        if list.len() > 1 {
            out::say(format!("--------- resource {res}"));
        }
        resource_lines(&snap, res, &ctx.me)
            .iter()
            .for_each(out::say);
    }
    Ok(())
}

/// The line of `show-state`.
pub fn state_line(v: &View<'_>, res: &ResName) -> String {
    let (snap, me) = (v.snap, v.me);
    let primary = designated(snap, res);
    if is_actual(snap, res, me, "is-primary") {
        return "is_primary".into();
    }
    if primary.as_ref() == Some(me) {
        return "becoming_primary".into();
    }
    let number = |key| snap.number(&key);
    let synced = number(Key::SyncStatus(res.clone(), me.clone()));
    let size = number(Key::Size(res.clone()));
    if let (Some(at), Some(size)) = (synced, size)
        && at < size
    {
        return format!("secondary inconsistent ({at} bytes of {size})");
    }
    let replay = |h: &HostName| snap.text(&Key::Replay(res.clone(), h.clone()));
    match (replay(me), primary.as_ref().and_then(replay)) {
        (Some(ours), Some(theirs)) if ours == theirs => "secondary uptodate".into(),
        (Some(ours), Some(theirs)) => {
            format!(
                "secondary outdated ({} instead of {})",
                clean(ours),
                clean(theirs)
            )
        }
        _ => "secondary".into(),
    }
}

/// `show-state RES`, `mars-state RES`
fn show_state(ctx: &Ctx, res: &ResName, _: &[String]) -> Done {
    let snap = ctx.snapshot()?;
    out::say(state_line(&ctx.view(&snap), res));
    Ok(())
}

/// Path of the status file of the own log, which engines of 0.1a write.
fn status_file(ctx: &Ctx, res: &ResName) -> String {
    let name = format!("resource-{res}/logstatus-{}.status", ctx.me);
    ctx.tree.root().join(name).display().to_string()
}

/// `show-info RES`, `mars-info RES`
fn show_info(ctx: &Ctx, res: &ResName, _: &[String]) -> Done {
    let path = status_file(ctx, res);
    if !std::path::Path::new(&path).exists() {
        out::say(format!(
            "{res}: there is no {path}; see marsadm view {res}, and journalctl MARS_RESOURCE={res}"
        ));
        return Ok(());
    }
    cat::print(&path).or_else(|e| refuse(format!("{path}: {e}")))
}

/// Errors and warnings that this host says about a resource.
pub fn error_lines(snap: &Snapshot, res: &ResName, me: &HostName) -> Vec<String> {
    let prefix = format!("resource-{res}/actual-{me}/");
    let text = |name: &str| snap.text(&Key::Actual(res.clone(), me.clone(), name.into()));
    let mut lines = Vec::new();
    for (name, what) in [
        ("disk-error", "the disk fails"),
        ("replay-code", "replay has stopped"),
    ] {
        let Some(code) = text(name).filter(|c| c.starts_with('-')) else {
            continue;
        };
        lines.push(format!(
            "{name}: {what}: {} {}",
            clean(code),
            errno_text(code)
        ));
    }
    if text("has-emergency").is_some_and(|t| t != "0") {
        lines.push("has-emergency: too little free space, logging has stopped".into());
    }
    for (path, link) in snap.live_below(&prefix) {
        let name = path.strip_prefix(&prefix).unwrap_or(path);
        let class = name.starts_with("msg-err-") || name.starts_with("msg-wrn-");
        if let Some(value) = link.value.as_str().filter(|v| class && *v != "OK") {
            lines.push(format!("{name}: {}", cat::readable(&clean(value))));
        }
    }
    lines
}

/// `show-errors RES`
fn show_errors(ctx: &Ctx, res: &ResName, _: &[String]) -> Done {
    let snap = ctx.snapshot()?;
    let mut lines = error_lines(&snap, res, &ctx.me);
    lines.extend(error_lines_of_file(&status_file(ctx, res)));
    if lines.is_empty() {
        out::say(format!(
            "{res}: no errors or warnings are reported on {}",
            ctx.me
        ));
        return Ok(());
    }
    lines.iter().for_each(out::say);
    refuse(format!(
        "resource {res} has {} errors and warnings on {}; see marsadm view {res}",
        lines.len(),
        ctx.me
    ))
}

/// Lines of a status file that tell of errors or warnings.
fn error_lines_of_file(path: &str) -> Vec<String> {
    use std::io::Read;
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path).and_then(|f| f.take(1 << 20).read_to_end(&mut bytes));
    if read.is_err() {
        return Vec::new();
    }
    String::from_utf8_lossy(&bytes)
        .lines()
        .filter(|l| {
            let l = l.to_ascii_lowercase();
            l.contains("error") || l.contains("warn")
        })
        .take(1000)
        .map(cat::readable)
        .collect()
}
