//! The part of a handover that moves the units on top of a device (systemd-templates.md section 11). Everything is asked for by links;
//! the reconcilers of both hosts do it.
use crate::cmd::systemd::{key, still_open};
use crate::ctx::{Ctx, State, TIMEOUT_RESOURCE_SECS, TIMEOUT_SECS, until};
use crate::error::{CmdError, Done, refuse};
use crate::out;
use crate::stack::{failure, holders_key, status_key, want};
use mars_policy::{Stack, View, Want};
use mars_tree::{Batch, HostName, Key, ResName, Snapshot, UnitManager};
use std::time::{Duration, Instant};

/// The old side is asked again this often: something may have been in the way only for a moment.
const AGAIN: Duration = Duration::from_secs(2);
/// A stop unit that has failed for so long will not stop.
const TOLERANCE: Duration = Duration::from_secs(10);
/// The old side finds out who holds the device within this time.
const HOLDERS_LIMIT: Duration = Duration::from_secs(8);

/// What a message says when it names who holds the device.
const HELD: &str = " held by ";

/// `open-count` of a host.
pub fn openers(v: &View<'_>, res: &ResName, host: &HostName) -> i64 {
    v.snap.actual(res, host, "open-count").unwrap_or(0)
}

/// ` by pid 12 (bash) uses /mnt/data`, as that host has published it; else empty.
pub fn held_by(snap: &Snapshot, res: &ResName, host: &HostName) -> String {
    match snap.text(&holders_key(res, host)) {
        Some(text) => {
            // It comes from another host.
            let clean: String = text
                .chars()
                .filter(|c| !c.is_control())
                .take(1500)
                .collect();
            format!(" by {clean}")
        }
        None => String::new(),
    }
}

/// Where the stack of `res` shall run, if anybody says so and may.
pub fn stack_of(ctx: &Ctx, snap: &Snapshot, res: &ResName) -> Option<Want> {
    want(snap, res).filter(|_| ctx.opts.systemd_enable)
}

/// Will the stack of this host be stopped by itself, so that an open device is no reason to refuse?
pub fn stops_itself(v: &View<'_>, res: &ResName, enabled: bool) -> bool {
    enabled && want(v.snap, res).is_some() && Stack::of(v.snap, res).stop.is_some()
}

/// Moves the stack, by links only. The status of the old side is reset, so that what it says from now on is news.
pub fn want_batch(snap: &Snapshot, res: &ResName, to: &Want, from: Option<&HostName>) -> Batch {
    let mut batch = Batch::new();
    batch.set(key(res, "want"), to);
    if let Some(from) = from {
        let status = status_key(res, "stop", from);
        if snap.number(&status).is_some_and(|n| n != 0) {
            batch.set(status, 0);
        }
        batch.delete(holders_key(res, from));
    }
    batch
}

/// Waits until the old host has let go of the device. Asks again and again; gives up when its stop unit keeps failing.
pub fn wait_let_go(ctx: &Ctx, res: &ResName, host: &HostName) -> Done {
    let wanted = ctx.me.to_string();
    let wanted = if *host == ctx.me { "(none)" } else { &wanted };
    let what = format!("the stack of {res} is stopped on {host} and its device closed");
    let limit = ctx.opts.limit(TIMEOUT_SECS);
    let mut asked = Instant::now();
    let mut bad: Option<Instant> = None;
    ctx.wait_full(Some(res), &what, limit, Some(AGAIN), |v| {
        if let Some(other) = v.snap.text(&key(res, "want")).filter(|w| *w != wanted) {
            return State::Never(format!(
                "somebody else wants the stack of {res} at {other} now"
            ));
        }
        let count = openers(v, res, host);
        if count <= 0 {
            return State::Done;
        }
        let failed = v.snap.number(&status_key(res, "stop", host)).unwrap_or(0) != 0;
        let held = held_by(v.snap, res, host);
        if failed {
            let since = *bad.get_or_insert_with(Instant::now);
            if since.elapsed() >= TOLERANCE {
                let unit = Stack::of(v.snap, res).stop.unwrap_or_default();
                return State::Never(format!(
                    "{unit} cannot be stopped on {host}: the device of {res} is held{held}"
                ));
            }
        } else {
            bad = None;
        }
        if asked.elapsed() >= AGAIN && !ctx.opts.dry_run {
            asked = Instant::now();
            let mut again = Batch::new();
            again.set(key(res, "want"), wanted);
            if let Err(e) = ctx.commit(&again) {
                return State::Never(e.to_string());
            }
            ctx.trigger_if_local(host);
        }
        State::Waiting(format!(
            "device {res} is opened {count} times on {host}{}",
            if held.is_empty() {
                String::new()
            } else {
                format!(", held{held}")
            }
        ))
    })
}

/// Takes the stack back to where it was, if nobody else has moved it; that host starts it again. Adds who held the device.
pub fn take_back(
    ctx: &Ctx,
    res: &ResName,
    before: &Want,
    host: &HostName,
    e: CmdError,
) -> CmdError {
    let mut note = String::new();
    if !e.to_string().contains(HELD) {
        note += &late_holders(ctx, res, host);
    }
    let back = || -> Done<bool> {
        let snap = ctx.snapshot()?;
        let ours = match host == &ctx.me {
            true => Want::Nobody.to_string(),
            false => ctx.me.to_string(),
        };
        if snap.text(&key(res, "want")) != Some(ours.as_str()) {
            return Ok(false);
        }
        ctx.commit(&want_batch(&snap, res, before, None))?;
        ctx.trigger_if_local(host);
        Ok(true)
    };
    match back() {
        Ok(true) => note += &format!("; the stack of {res} is wanted at {before} again"),
        Ok(false) => {}
        Err(e) => note += &format!("; and the stack could not be given back to {before}: {e}"),
    }
    match e {
        // Who is known to hold it is no mere delay.
        CmdError::Timeout(t) if !(t.contains(HELD) || note.contains(HELD)) => {
            CmdError::Timeout(t + &note)
        }
        other => CmdError::Failed(other.to_string() + &note),
    }
}

/// The other side may still be looking who holds the device.
fn late_holders(ctx: &Ctx, res: &ResName, host: &HostName) -> String {
    let what = format!("{host} says who holds the device of {res}");
    let mut text = String::new();
    let looked = ctx.wait_full(Some(res), &what, Some(HOLDERS_LIMIT), None, |v| {
        text = held_by(v.snap, res, host);
        until(!text.is_empty() || openers(v, res, host) <= 0, || {
            "nothing yet".into()
        })
    });
    match looked {
        Ok(()) if !text.is_empty() => format!("; held{text}"),
        _ => String::new(),
    }
}

/// Is the device in use on `host`, or will it never be?
pub fn opened(ctx: &Ctx, v: &View<'_>, res: &ResName, host: &HostName) -> State {
    if openers(v, res, host) > 0 {
        return State::Done;
    }
    let unit = Stack::of(v.snap, res).start.unwrap_or_default();
    match v.snap.number(&status_key(res, "start", host)).unwrap_or(0) {
        0 => State::Waiting(format!("{unit} has not opened the device yet")),
        n => {
            let reason = (*host == ctx.env.host)
                .then(|| mars_units::manager(&ctx.env).ok())
                .flatten()
                .and_then(|m| failure(m.as_ref(), &unit))
                .map_or(format!("status {n}"), |r| r);
            State::Never(format!(
                "start unit {unit} of resource {res} failed on {host}: {reason}; repair that, then run marsadm primary {res} on {host} again"
            ))
        }
    }
}

/// After the role has come here: the start unit is started by the reconciler; waits until the device is in use.
pub fn wait_started(ctx: &Ctx, res: &ResName) -> Done {
    let me = ctx.me.clone();
    let snap = ctx.snapshot()?;
    if Stack::of(&snap, res).start.is_none() {
        return Ok(());
    }
    if ctx.is_local() && ctx.env.unit_manager == UnitManager::Direct {
        out::warn(format!(
            "units on top of {res} need systemd; {me} has none (MARS_UNIT_MANAGER=direct)"
        ));
        return Ok(());
    }
    ctx.trigger_if_local(&me);
    let limit = ctx.opts.limit(TIMEOUT_RESOURCE_SECS);
    let what = format!("the stack of {res} has opened the device on {me}");
    ctx.wait_full(Some(res), &what, limit, None, |v| opened(ctx, v, res, &me))
        .map_err(|e| match e {
            CmdError::Timeout(t) => CmdError::Timeout(format!("{me} is primary of {res}, but {t}")),
            CmdError::Failed(t) => CmdError::Failed(format!("{me} is primary of {res}, but {t}")),
            other => other,
        })
}

/// Until no reachable member has the device open.
pub fn wait_closed_everywhere(ctx: &Ctx, res: &ResName) -> Done {
    let mut asked = Instant::now();
    ctx.wait_full(
        Some(res),
        &format!("the device of {res} is closed everywhere"),
        ctx.opts.limit(TIMEOUT_SECS),
        Some(AGAIN),
        |v| {
            let open = still_open(v, res);
            if !open.is_empty() && asked.elapsed() >= AGAIN && !ctx.opts.dry_run {
                asked = Instant::now();
                let mut again = Batch::new();
                again.set(key(res, "want"), Want::Nobody);
                if let Err(e) = ctx.commit(&again) {
                    return State::Never(e.to_string());
                }
                ctx.trigger();
            }
            until(open.is_empty(), || open.join(", "))
        },
    )
}

/// Own start status from an earlier time says nothing about the next start.
pub fn forget_start(snap: &Snapshot, res: &ResName, host: &HostName, batch: &mut Batch) {
    let status: Key = status_key(res, "start", host);
    if snap.number(&status).is_some_and(|n| n != 0) {
        batch.set(status, 0);
    }
}

/// For a host that gives up its role without a successor: the stack is stopped first.
pub fn rest(ctx: &Ctx, res: &ResName, before: &Want) -> Done {
    let me = ctx.me.clone();
    let snap = ctx.snapshot()?;
    ctx.commit(&want_batch(&snap, res, &Want::Nobody, Some(&me)))?;
    ctx.trigger_if_local(&me);
    if !ctx.engine_running() {
        return refuse_if_open(ctx, res, &me);
    }
    wait_let_go(ctx, res, &me).map_err(|e| take_back(ctx, res, before, &me, e))
}

fn refuse_if_open(ctx: &Ctx, res: &ResName, host: &HostName) -> Done {
    let snap = ctx.snapshot()?;
    match openers(&ctx.view(&snap), res, host) {
        n if n > 0 => refuse(format!(
            "the device of {res} is opened {n} times on {host} and mars-meta is not running; run marsadm start"
        )),
        _ => Ok(()),
    }
}
