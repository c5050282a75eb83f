//! `primary` and `secondary` (marsadm-commands.md section 4, symlink-tree.md section 6).
use crate::cli::Options;
use crate::cmd::handover::{
    forget_start, rest, stack_of, stops_itself, take_back, wait_let_go, wait_started, want_batch,
};
use crate::cmd::switches::still_on;
use crate::ctx::{Ctx, State, TIMEOUT_SECS, looks_dead, until};
use crate::error::{CmdError, Done, refuse};
use crate::out;
use crate::plan::{SWITCHES, designated, device_name, is_actual, last_primary, names, todo};
use mars_policy::{View, Want, consistency, split_brain};
use mars_tree::{Batch, HostName, Key, ResName, Snapshot, Stamp, TodoSwitch};
use std::collections::BTreeSet;
use std::time::Duration;

/// The host whose role is taken over: the designated one, or after `secondary` the last one; `None` when that is us or nobody.
pub fn old_primary(v: &View<'_>, res: &ResName) -> Option<HostName> {
    designated(v.snap, res)
        .or_else(|| last_primary(v.snap, res))
        .filter(|h| h != v.me && v.snap.members(res).contains(h))
}

/// Preconditions 1 to 11 of `primary`. Returns warnings. `pinged`: the others have just been asked for a sign of life, so silence
/// means that they cannot be reached.
pub fn check(v: &View<'_>, res: &ResName, opts: &Options, pinged: bool) -> Done<Vec<String>> {
    let (snap, me, force) = (v.snap, v.me, opts.force);
    let old = old_primary(v, res);
    let mut warnings = Vec::new();
    let lifted = "--force lifts this, and may lose data or split the history";
    if !v.engine_running {
        return refuse(format!(
            "mars-meta is not running on {}, a role cannot be taken; run marsadm start",
            v.local
        ));
    }
    let facts = consistency(v, res, me);
    if !facts.sync_reached || !facts.replay_reached {
        let at = snap
            .number(&Key::SyncStatus(res.clone(), me.clone()))
            .unwrap_or(0);
        let size = snap.number(&Key::Size(res.clone())).unwrap_or(0);
        return refuse(format!(
            "host {me} is inconsistent: resource {res} has synced {at} of {size} bytes here; wait until `marsadm view {res}` says UpToDate"
        ));
    }
    let size = snap.number(&Key::Size(res.clone())).unwrap_or(0);
    for other in snap.members(res) {
        if other == *me || Some(&other) == old.as_ref() || opts.ignore_sync || force {
            continue;
        }
        let at = snap
            .number(&Key::SyncStatus(res.clone(), other.clone()))
            .unwrap_or(0);
        if at >= size {
            continue;
        }
        if !pinged || looks_dead(v, &other, v.window) {
            warnings.push(format!(
                "host {other} cannot be reached and has synced only {at} of {size} bytes of {res}"
            ));
            continue;
        }
        return refuse(format!(
            "host {other} is still syncing resource {res} ({at} of {size} bytes); wait for it, or use --ignore-sync (its sync starts again)"
        ));
    }
    for which in [TodoSwitch::Attach, TodoSwitch::AllowReplay] {
        if !snap.todo(res, me, which) {
            let (name, fix) = match which {
                TodoSwitch::Attach => ("attach", "attach"),
                _ => ("replay", "resume-replay"),
            };
            return refuse(format!(
                "switch {name} of resource {res} is off on {me}, it must be on; run marsadm {fix} {res}"
            ));
        }
    }
    match (snap.todo(res, me, TodoSwitch::Connect), force) {
        (false, false) => {
            return refuse(format!(
                "switch fetch of resource {res} is off on {me}, it must be on for a planned handover; run marsadm resume-fetch {res}"
            ));
        }
        (true, true) => {
            return refuse(format!(
                "switch fetch of resource {res} is on on {me}, it must be off for primary --force; run marsadm pause-fetch {res}"
            ));
        }
        _ => {}
    }
    if force {
        return Ok(warnings);
    }
    let code = snap.actual(res, me, "replay-code").unwrap_or(0);
    if code < 0 {
        return refuse(format!(
            "replay of resource {res} on {me} stopped with error {code}; repair it, or take over with pause-fetch and primary --force what was replayed"
        ));
    }
    if let Some(bytes) = snap.number(&Key::ActSize(res.clone(), me.clone()))
        && bytes < size
    {
        return refuse(format!(
            "the disk of resource {res} on {me} has {bytes} bytes, the resource {size}; enlarge the disk ({lifted})"
        ));
    }
    if let Some(old) = &old {
        let openers = snap.actual(res, old, "open-count").unwrap_or(0);
        // A stack is stopped over there before the role moves.
        if openers > 0 && !stops_itself(v, res, opts.systemd_enable) {
            return refuse(format!(
                "device /dev/mars/{} is opened {openers} times on host {old}; unmount there ({lifted})",
                device_name(snap, res, old)
            ));
        }
        if pinged && looks_dead(v, old, v.window) {
            return refuse(unreachable(res, old));
        }
    }
    if let Some(split) = split_brain(v, res) {
        return refuse(format!(
            "split brain in resource {res} at {}; resolve it with invalidate on the hosts whose data is to be given up ({lifted})",
            names(split.points.iter().map(|p| format!("{:?}", p.after)))
        ));
    }
    if is_actual(snap, res, me, "has-emergency") {
        return refuse(format!(
            "host {me} is in emergency mode; free space in the file system of {res} here first ({lifted})"
        ));
    }
    Ok(warnings)
}

fn unreachable(res: &ResName, old: &HostName) -> String {
    format!(
        "host {old}, primary of resource {res} until now, cannot be reached; wait until it answers, or take over without its last writes: pause-fetch, then primary --force"
    )
}

/// Everything that the old primary has logged is applied here: same version link at the highest known number, same replay link.
pub fn caught_up(v: &View<'_>, res: &ResName, old: &HostName) -> State {
    let Some((max, ..)) = v.snap.versions(res).into_iter().next_back() else {
        return State::Waiting("no version link is known".into());
    };
    let version = |h: &HostName| v.snap.text(&Key::Version(res.clone(), max, h.clone()));
    let replay = |h: &HostName| v.snap.text(&Key::Replay(res.clone(), h.clone()));
    let (theirs, ours) = (replay(old), replay(v.me));
    if ours.is_none() || theirs.is_none() {
        return State::Waiting("a replay position is unknown".into());
    }
    if ours != theirs {
        return State::Waiting(format!(
            "replay is at {} here, at {} on {old}",
            ours.unwrap_or("?"),
            theirs.unwrap_or("?")
        ));
    }
    until(
        version(old).is_some() && version(old) == version(v.me),
        || {
            format!(
                "version links of log {max} differ between {old} and {}",
                v.me
            )
        },
    )
}

/// Links that stood still for so long do so for good.
/// A device may have been closed on the other side a moment ago: so long its host is asked before a refusal.
const CLOSE_GRACE_SECS: u64 = 2;
const HEAL_AGE: Duration = Duration::from_secs(15);

/// The self-heal of symlink-tree.md section 6, planned `primary`, step 2: both hosts stand at the end of the same log, only the version
/// links of it say something different. Then the old primary's link is ours too. At once when ours is the placeholder from
/// `create-resource`, or means the same log, length and predecessor; otherwise only after a while, and with a warning.
pub fn heal(v: &View<'_>, res: &ResName, old: &HostName) -> Option<(Batch, Option<String>)> {
    let (max, ..) = v.snap.versions(res).into_iter().next_back()?;
    let (ours, theirs) = (v.snap.replay(res, v.me)?, v.snap.replay(res, old)?);
    let link = v.snap.version(res, max, old)?;
    let own = v.snap.version(res, max, v.me);
    let at_end = ours == theirs
        && ours.dirty == 0
        && ours.log.nr == max
        && link.head.log == ours.log
        && link.head.len == ours.pos;
    if !at_end || own.as_ref() == Some(&link) || split_brain(v, res).is_some() {
        return None;
    }
    let harmless = own.as_ref().is_some_and(|o| {
        let placeholder = o.head.md5 == [0; 16] && o.head.len == 0 && ours.pos == 0;
        o.head.log == link.head.log
            && (placeholder || (o.head.len == link.head.len && o.pred == link.pred))
    });
    let mut warning = None;
    if !harmless {
        let keys = [v.me, old].map(|h| {
            [
                Key::Replay(res.clone(), h.clone()),
                Key::Version(res.clone(), max, h.clone()),
            ]
        });
        let fresh = |key: &Key| {
            v.snap
                .stamp(key)
                .is_some_and(|s| v.now.since(s) <= HEAL_AGE)
        };
        if keys.iter().flatten().any(fresh) {
            return None;
        }
        warning = Some(format!(
            "replay of {res} is at the same position on {} and {old}, only their version links of log {max} differ; taking that of {old}",
            v.me
        ));
    }
    let mut batch = Batch::new();
    batch.set(Key::Version(res.clone(), max, v.me.clone()), link);
    Some((batch, warning))
}

/// [`caught_up`], after healing what can be healed.
fn caught_up_or_heal(ctx: &Ctx, v: &View<'_>, res: &ResName, old: &HostName) -> State {
    let state = caught_up(v, res, old);
    if state == State::Done {
        return state;
    }
    let Some((batch, warning)) = heal(v, res, old) else {
        return state;
    };
    warning.iter().for_each(out::warn);
    match ctx.commit(&batch) {
        // Our own change wakes the waiting again.
        Ok(_) => state,
        Err(e) => State::Never(e.to_string()),
    }
}

/// A stamp only just newer than the old one, so that a concurrent `primary` elsewhere wins (symlink-tree.md 2.8).
pub fn weak_stamp(old: Option<Stamp>) -> Stamp {
    old.map_or(Stamp::PRELIMINARY, |s| {
        Stamp::from_nanos((s.secs() + 1) * 1_000_000_000)
    })
}

/// `primary` -> `(none)`, deliberately weak.
pub fn give_up(snap: &Snapshot, res: &ResName) -> Batch {
    let key = Key::Primary(res.clone());
    let weak = weak_stamp(snap.stamp(&key));
    let mut batch = Batch::new();
    batch.set_stamped(key, "(none)", weak);
    batch
}

/// Designates `v.me`, remembering who was it before.
pub fn take(v: &View<'_>, res: &ResName) -> Batch {
    let mut batch = Batch::new();
    let word = |w: &str| Key::ResUserspace(res.clone(), w.to_string());
    if let Some(last) = last_primary(v.snap, res)
        && last != *v.me
    {
        batch.set(word("prev-primary"), last);
    }
    batch.set(Key::Primary(res.clone()), v.me);
    batch.set(word("last-primary"), v.me);
    batch
}

/// The switch part of `up`.
pub fn all_on(v: &View<'_>, res: &ResName) -> Batch {
    let mut batch = Batch::new();
    for which in SWITCHES {
        batch.set_if_changed(todo(res, v.me, which), 1);
    }
    batch
}

/// Is the device there, or will it never be?
pub fn device_there(v: &View<'_>, res: &ResName, host: &HostName) -> State {
    let error = v.snap.actual(res, host, "disk-error").unwrap_or(0);
    if is_actual(v.snap, res, host, "if-on") {
        return State::Done;
    }
    if error != 0 {
        return State::Never(format!(
            "the disk of resource {res} on {host} gives error {error}; repair it, then run marsadm primary {res} again"
        ));
    }
    State::Waiting("mars-logger does not offer the device yet".into())
}

/// A device that was unmounted on the old primary a moment ago still counts as open here until that host has said so.
fn closed_just_now(ctx: &Ctx, v: &View<'_>, res: &ResName) -> Done {
    let Some(old) = old_primary(v, res).filter(|_| !ctx.opts.force && !ctx.opts.dry_run) else {
        return Ok(());
    };
    let openers = |v: &View<'_>| v.snap.actual(res, &old, "open-count").unwrap_or(0);
    if openers(v) == 0 || !v.engine_running || stops_itself(v, res, ctx.opts.systemd_enable) {
        return Ok(());
    }
    ctx.ping()?;
    let limit = ctx.opts.limit(CLOSE_GRACE_SECS).unwrap_or(Duration::MAX);
    let limit = limit.min(Duration::from_secs(CLOSE_GRACE_SECS));
    let closed = |v: &View<'_>| until(openers(v) == 0, || "the device is open".into());
    let what = format!("the device of {res} is closed on {old}");
    match ctx.wait_full(Some(res), &what, Some(limit), None, closed) {
        // Then the checks refuse with the number of openers.
        Ok(()) | Err(CmdError::Timeout(_)) => Ok(()),
        Err(e) => Err(e),
    }
}

/// `primary`
pub fn primary(ctx: &Ctx, res: &ResName, _: &[String]) -> Done {
    let snap = ctx.snapshot()?;
    let view = ctx.view(&snap);
    if designated(&snap, res).as_ref() == Some(&ctx.me) {
        return finish(ctx, res);
    }
    closed_just_now(ctx, &view, res)?;
    let snap = ctx.snapshot()?;
    let view = ctx.view(&snap);
    // Refusals that need no answer from others come at once.
    check(&view, res, &ctx.opts, false)?;
    let others: BTreeSet<HostName> = snap
        .members(res)
        .into_iter()
        .filter(|h| *h != ctx.me)
        .collect();
    let old = old_primary(&view, res);
    if ctx.opts.force {
        // Whoever answers is welcome; nobody is waited for.
        ctx.ping()?;
    } else {
        let dead = ctx.wait_peers(&others, TIMEOUT_SECS)?;
        if let Some(old) = old.as_ref().filter(|o| dead.contains(o)) {
            return refuse(unreachable(res, old));
        }
        dead.iter()
            .for_each(|d| out::warn(format!("host {d} does not answer")));
    }
    let snap = ctx.snapshot()?;
    check(&ctx.view(&snap), res, &ctx.opts, true)?
        .iter()
        .for_each(out::warn);
    if ctx.opts.force {
        return forced(ctx, res);
    }
    let Some((old, before)) = old.as_ref().zip(stack_of(ctx, &snap, res)) else {
        planned(ctx, res, old.as_ref(), &others)?;
        return finish(ctx, res);
    };
    ctx.commit(&want_batch(
        &snap,
        res,
        &Want::Host(ctx.me.clone()),
        Some(old),
    ))?;
    wait_let_go(ctx, res, old)
        .and_then(|()| planned(ctx, res, Some(old), &others))
        .map_err(|e| take_back(ctx, res, &before, old, e))?;
    finish(ctx, res)
}

/// Up to the designation of the acting host. When that fails, everything is as it was.
fn planned(ctx: &Ctx, res: &ResName, old: Option<&HostName>, others: &BTreeSet<HostName>) -> Done {
    if let Some(old) = old {
        let caught = |v: &View<'_>| match check_open(v, res, old) {
            Ok(()) => caught_up_or_heal(ctx, v, res, old),
            Err(e) => State::Never(e.to_string()),
        };
        let equal = format!(
            "{} has replayed everything that {old} logged of {res}",
            ctx.me
        );
        let limit = ctx.opts.limit(TIMEOUT_SECS);
        ctx.wait_full(Some(res), &equal, limit, Some(HEAL_AGE), caught)?;
        let snap = ctx.snapshot()?;
        let was_designated = designated(&snap, res).as_ref() == Some(old);
        let handover = || -> Done {
            if was_designated {
                ctx.commit(&give_up(&snap, res))?;
            }
            ctx.wait(
                res,
                &format!("host {old} has left the primary role of {res}"),
                TIMEOUT_SECS,
                |v| {
                    still_mine(v, res).unwrap_or_else(|| {
                        until(!is_actual(v.snap, res, old, "is-primary"), || {
                            format!("{old} is still primary")
                        })
                    })
                },
            )?;
            ctx.wait(res, &equal, TIMEOUT_SECS, |v| {
                still_mine(v, res).unwrap_or_else(|| caught_up_or_heal(ctx, v, res, old))
            })?;
            let dead = ctx.wait_peers(
                &others.iter().filter(|h| *h == old).cloned().collect(),
                TIMEOUT_SECS,
            )?;
            if !dead.is_empty() {
                return refuse(format!(
                    "host {old} stopped answering during the handover of {res}"
                ));
            }
            ctx.wait(res, &equal, TIMEOUT_SECS, |v| {
                still_mine(v, res).unwrap_or_else(|| caught_up_or_heal(ctx, v, res, old))
            })
        };
        if let Err(e) = handover() {
            return Err(compensate(ctx, res, old, was_designated, e));
        }
    }
    let snap = ctx.snapshot()?;
    ctx.commit(&take(&ctx.view(&snap), res))?;
    Ok(())
}

/// The device of the old primary must stay closed until its role is gone.
fn check_open(v: &View<'_>, res: &ResName, old: &HostName) -> Done {
    let openers = v.snap.actual(res, old, "open-count").unwrap_or(0);
    if openers > 0 {
        return refuse(format!(
            "device /dev/mars/{} has been opened on host {old} meanwhile; unmount there and try again",
            device_name(v.snap, res, old)
        ));
    }
    Ok(())
}

/// Somebody else's concurrent `primary` wins over ours.
fn still_mine(v: &View<'_>, res: &ResName) -> Option<State> {
    designated(v.snap, res)
        .filter(|h| h != v.me)
        .map(|h| {
            State::Never(format!(
                "host {h} has been designated primary of resource {res} meanwhile; nothing more was changed"
            ))
        })
}

/// The role goes back to where it was.
fn compensate(
    ctx: &Ctx,
    res: &ResName,
    old: &HostName,
    was_designated: bool,
    e: CmdError,
) -> CmdError {
    let undone = (|| -> Done<bool> {
        let snap = ctx.snapshot()?;
        if !was_designated || snap.text(&Key::Primary(res.clone())) != Some("(none)") {
            return Ok(false);
        }
        let mut back = Batch::new();
        back.set(Key::Primary(res.clone()), old);
        ctx.commit(&back)?;
        Ok(true)
    })();
    let note = match undone {
        Ok(true) => format!("; {old} is designated primary of {res} again"),
        Ok(false) => String::new(),
        Err(e) => format!("; and {res} could not be given back to {old}: {e}"),
    };
    match e {
        CmdError::Timeout(t) => CmdError::Timeout(t + &note),
        other => CmdError::Failed(other.to_string() + &note),
    }
}

fn forced(ctx: &Ctx, res: &ResName) -> Done {
    ctx.reconcile()?;
    let me = ctx.me.clone();
    ctx.wait(
        res,
        &format!("fetch of {res} is off on {me}"),
        TIMEOUT_SECS,
        |v| {
            let on = still_on(v, res, &me, &["is-copying"]);
            until(on.is_empty(), || "is-copying is 1".into())
        },
    )?;
    let snap = ctx.snapshot()?;
    ctx.commit(&take(&ctx.view(&snap), res))?;
    finish(ctx, res)
}

/// Steps behind the designation: start, wait for the device, all switches on, stack. Repeating them changes nothing.
fn finish(ctx: &Ctx, res: &ResName) -> Done {
    let me = ctx.me.clone();
    let snap = ctx.snapshot()?;
    let has_stack = stack_of(ctx, &snap, res).is_some();
    if has_stack {
        let mut batch = Batch::new();
        let want = Key::Systemd(res.clone(), "want".into());
        batch.set_if_changed(want, &me);
        forget_start(&snap, res, &me, &mut batch);
        ctx.commit(&batch)?;
    }
    ctx.reconcile()?;
    let snap = ctx.snapshot()?;
    let view = ctx.view(&snap);
    if !view.engine_running && ctx.is_local() {
        out::warn(format!(
            "mars-meta is not running here: {me} becomes primary of {res} after marsadm start"
        ));
        return Ok(());
    }
    if !snap.todo(res, &me, TodoSwitch::Attach) {
        return refuse(format!(
            "{me} is designated primary of {res}, but switch attach is off; run marsadm attach {res}"
        ));
    }
    let device = device_name(&snap, res, &me);
    ctx.wait(
        res,
        &format!(
            "device {} is there on {me}",
            ctx.env.dev_dir.join(&device).display()
        ),
        TIMEOUT_SECS,
        |v| match split_brain(v, res) {
            Some(_) => State::Done,
            None => device_there(v, res, &me),
        },
    )?;
    let snap = ctx.snapshot()?;
    let view = ctx.view(&snap);
    if split_brain(&view, res).is_some() {
        out::warn(format!(
            "split brain in resource {res}: only the designated role of {me} could be set; see marsadm view {res}, then invalidate the losers"
        ));
        return Ok(());
    }
    let batch = all_on(&view, res);
    if !batch.is_empty() {
        ctx.commit(&batch)?;
        ctx.reconcile()?;
    }
    if has_stack {
        wait_started(ctx, res)?;
    }
    ctx.result(format!("{me} is primary of {res}"));
    Ok(())
}

/// `secondary`
pub fn secondary(ctx: &Ctx, res: &ResName, _: &[String]) -> Done {
    let snap = ctx.snapshot()?;
    let view = ctx.view(&snap);
    let me = ctx.me.clone();
    secondary_check(&view, res, &ctx.opts)?;
    if let Some(before) = stack_of(ctx, &snap, res).filter(|w| *w != Want::Nobody) {
        rest(ctx, res, &before)?;
    }
    let snap = ctx.snapshot()?;
    if designated(&snap, res).is_some() {
        ctx.commit(&give_up(&snap, res))?;
    } else {
        out::say(format!("{res}: nobody is designated primary already"));
    }
    ctx.reconcile()?;
    if !ctx.engine_running() && ctx.is_local() {
        out::warn("mars-meta is not running here: this becomes effective after marsadm start");
        return Ok(());
    }
    ctx.wait(
        res,
        &format!("{me} has left the primary role of {res}"),
        TIMEOUT_SECS,
        |v| {
            let on = still_on(v, res, &me, &["is-primary", "if-on"]);
            until(on.is_empty(), || format!("still on: {}", names(on)))
        },
    )
}

/// May the role be given up?
pub fn secondary_check(v: &View<'_>, res: &ResName, opts: &Options) -> Done {
    if let Some(p) = designated(v.snap, res)
        && p != *v.me
        && !opts.force
    {
        return refuse(format!(
            "host {p} is designated primary of resource {res}, not {}; run marsadm primary {res} on the host that shall be it",
            v.me
        ));
    }
    let openers = v.snap.actual(res, v.me, "open-count").unwrap_or(0);
    if openers > 0 && !stops_itself(v, res, opts.systemd_enable) {
        return refuse(format!(
            "device /dev/mars/{} is opened {openers} times on {}; unmount it first",
            device_name(v.snap, res, v.me),
            v.me
        ));
    }
    Ok(())
}
