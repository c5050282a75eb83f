//! `primary` and `secondary` (marsadm-commands.md section 4, symlink-tree.md section 6).
use crate::cli::Options;
use crate::cmd::handover::{
    forget_start, stack_of, stops_itself, take_back, wait_let_go, wait_started, want_batch,
};
use crate::cmd::switches::still_on;
use crate::ctx::{Ctx, State, TIMEOUT_SECS, looks_dead, until};
use crate::error::{CmdError, Done, refuse};
use crate::out;
use crate::phases::Job;
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

/// Preconditions that `--force` lifts: refused, or only told.
struct Liftable {
    force: bool,
    warnings: Vec<String>,
}

impl Liftable {
    fn refuse(&mut self, why: String) -> Done {
        if !self.force {
            return refuse(format!(
                "{why} (--force lifts this, and may lose data or split the history)"
            ));
        }
        self.warnings.push(format!("lifted by --force: {why}"));
        Ok(())
    }
}

/// Preconditions 1 to 11 of `primary`. Returns warnings. `pinged`: the others have just been asked for a sign of life, so silence
/// means that they cannot be reached.
pub fn check(v: &View<'_>, res: &ResName, opts: &Options, pinged: bool) -> Done<Vec<String>> {
    let (snap, me) = (v.snap, v.me);
    let old = old_primary(v, res);
    let mut lift = Liftable {
        force: opts.force,
        warnings: Vec::new(),
    };
    if !v.engine_running {
        return refuse(format!(
            "mars-meta is not running on {}, a role cannot be taken; run marsadm start",
            v.local
        ));
    }
    let facts = consistency(v, res, me);
    let size = snap.number(&Key::Size(res.clone())).unwrap_or(0);
    if !facts.sync_reached || !facts.replay_reached {
        let at = snap
            .number(&Key::SyncStatus(res.clone(), me.clone()))
            .unwrap_or(0);
        return refuse(format!(
            "host {me} is inconsistent: resource {res} has synced {at} of {size} bytes here; wait until `marsadm view {res}` says UpToDate"
        ));
    }
    check_other_syncs(v, res, opts, (pinged, old.as_ref()), &mut lift)?;
    check_switches(v, res, opts.force)?;
    let code = snap.actual(res, me, "replay-code").unwrap_or(0);
    if code < 0 && !opts.force {
        return refuse(format!(
            "replay of resource {res} on {me} stopped with error {code}; repair it, or take over with pause-fetch and primary --force what was replayed"
        ));
    }
    if code < 0 {
        lift.refuse(format!(
            "replay of resource {res} on {me} stopped with error {code}, what comes behind it is lost"
        ))?;
    }
    if let Some(bytes) = snap.number(&Key::ActSize(res.clone(), me.clone()))
        && bytes < size
    {
        lift.refuse(format!(
            "the disk of resource {res} on {me} has {bytes} bytes, the resource {size}; enlarge the disk"
        ))?;
    }
    if let Some(old) = &old {
        let openers = snap.actual(res, old, "open-count").unwrap_or(0);
        // A stack is stopped over there before the role moves.
        if openers > 0 && !stops_itself(v, res, opts.systemd_enable) {
            lift.refuse(format!(
                "device /dev/mars/{} is opened {openers} times on host {old}; unmount there",
                device_name(snap, res, old)
            ))?;
        }
        if pinged && looks_dead(v, old, v.window) {
            if !opts.force {
                return refuse(unreachable(res, old));
            }
            lift.refuse(format!(
                "host {old}, primary of resource {res} until now, cannot be reached, its last writes are missing here"
            ))?;
        }
    }
    if let Some(split) = split_brain(v, res) {
        lift.refuse(format!(
            "split brain in resource {res} after {}; resolve it with invalidate on the hosts whose data is to be given up",
            names(split.points.iter().map(|p| &p.after))
        ))?;
    }
    if is_actual(snap, res, me, "has-emergency") {
        lift.refuse(format!(
            "host {me} is in emergency mode; free space in the file system of {res} here first"
        ))?;
    }
    Ok(lift.warnings)
}

/// Precondition 3: nobody else is syncing, except the old primary, which cannot.
fn check_other_syncs(
    v: &View<'_>,
    res: &ResName,
    opts: &Options,
    (pinged, old): (bool, Option<&HostName>),
    lift: &mut Liftable,
) -> Done {
    let snap = v.snap;
    let size = snap.number(&Key::Size(res.clone())).unwrap_or(0);
    for other in snap.members(res) {
        if other == *v.me || Some(&other) == old || opts.ignore_sync {
            continue;
        }
        let at = snap
            .number(&Key::SyncStatus(res.clone(), other.clone()))
            .unwrap_or(0);
        if at >= size {
            continue;
        }
        if !pinged || looks_dead(v, &other, v.window) {
            lift.warnings.push(format!(
                "host {other} cannot be reached and has synced only {at} of {size} bytes of {res}"
            ));
            continue;
        }
        let syncing =
            format!("host {other} is still syncing resource {res} ({at} of {size} bytes)");
        if !opts.force {
            return refuse(format!(
                "{syncing}; wait for it, or use --ignore-sync (its sync starts again)"
            ));
        }
        lift.refuse(format!("{syncing}, its sync starts again"))?;
    }
    Ok(())
}

/// Preconditions 4 and 5. What `--force` demands of fetching is the opposite: what arrives later would be lost silently.
fn check_switches(v: &View<'_>, res: &ResName, force: bool) -> Done {
    let (snap, me) = (v.snap, v.me);
    for (which, name, fix) in [
        (TodoSwitch::Attach, "attach", "attach"),
        (TodoSwitch::AllowReplay, "replay", "resume-replay"),
    ] {
        if !snap.todo(res, me, which) {
            return refuse(format!(
                "switch {name} of resource {res} is off on {me}, it must be on; run marsadm {fix} {res}"
            ));
        }
    }
    match (snap.todo(res, me, TodoSwitch::Connect), force) {
        (false, false) => refuse(format!(
            "switch fetch of resource {res} is off on {me}, it must be on for a planned handover; run marsadm resume-fetch {res}"
        )),
        (true, true) => refuse(format!(
            "switch fetch of resource {res} is on on {me}, it must be off for primary --force; run marsadm pause-fetch {res}"
        )),
        _ => Ok(()),
    }
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

/// Phases of `primary`.
pub const PHASES: &[&str] = &[
    "check the preconditions",
    "stop the old side and replay everything",
    "take the role over",
    "wait for the device, all switches on",
];

/// How the role comes here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// It is here already: only what is missing is done.
    Already,
    Forced,
    Planned,
}

/// `primary` for one resource.
struct Primary {
    res: ResName,
    way: Way,
    old: Option<HostName>,
    others: BTreeSet<HostName>,
    /// Where the stack was wanted before it was moved; only while it has to be taken back after a failure.
    moved: Option<Want>,
}

/// Begins `primary`.
pub fn primary(res: &ResName, _: &[String]) -> Box<dyn Job> {
    Box::new(Primary {
        res: res.clone(),
        way: Way::Planned,
        old: None,
        others: BTreeSet::new(),
        moved: None,
    })
}

impl Job for Primary {
    fn run(&mut self, ctx: &Ctx, phase: usize) -> Done {
        match phase {
            0 => self.examine(ctx),
            1 => self.prepare(ctx),
            2 => self.take_over(ctx),
            _ => finish(ctx, &self.res),
        }
    }

    fn undo(&mut self, ctx: &Ctx, e: CmdError) -> CmdError {
        match (self.moved.take(), &self.old) {
            (Some(before), Some(old)) => take_back(ctx, &self.res, &before, old, e),
            _ => e,
        }
    }
}

impl Primary {
    fn examine(&mut self, ctx: &Ctx) -> Done {
        let res = &self.res;
        let snap = ctx.snapshot()?;
        let view = ctx.view(&snap);
        if designated(&snap, res).as_ref() == Some(&ctx.me) {
            self.way = Way::Already;
            return Ok(());
        }
        closed_just_now(ctx, &view, res)?;
        let snap = ctx.counted()?;
        let view = ctx.view(&snap);
        // Refusals that need no answer from others come at once.
        check(&view, res, &ctx.opts, false)?;
        self.others = snap.members(res).into_iter().collect();
        self.others.remove(&ctx.me);
        self.old = old_primary(&view, res);
        if ctx.opts.force {
            // Whoever answers is welcome; nobody is waited for.
            self.way = Way::Forced;
            ctx.ping()?;
        } else {
            let dead = ctx.wait_peers(&self.others, TIMEOUT_SECS)?;
            if let Some(old) = self.old.as_ref().filter(|o| dead.contains(o)) {
                return refuse(unreachable(res, old));
            }
            dead.iter()
                .for_each(|d| out::warn(format!("host {d} does not answer")));
        }
        let snap = ctx.counted()?;
        check(&ctx.view(&snap), res, &ctx.opts, true)?
            .iter()
            .for_each(out::warn);
        Ok(())
    }

    fn prepare(&mut self, ctx: &Ctx) -> Done {
        let res = &self.res;
        match (self.way, &self.old) {
            (Way::Forced, _) => fetch_off(ctx, res),
            (Way::Planned, Some(old)) => {
                let snap = ctx.snapshot()?;
                if let Some(before) = stack_of(ctx, &snap, res) {
                    let here = Want::Host(ctx.me.clone());
                    ctx.commit(&want_batch(&snap, res, &here, Some(old)))?;
                    self.moved = Some(before);
                    wait_let_go(ctx, res, old)?;
                }
                replayed(ctx, res, old)
            }
            _ => Ok(()),
        }
    }

    fn take_over(&mut self, ctx: &Ctx) -> Done {
        match (self.way, &self.old) {
            (Way::Already, _) => return Ok(()),
            (Way::Planned, Some(old)) => hand_over(ctx, &self.res, old, &self.others)?,
            _ => {}
        }
        let snap = ctx.snapshot()?;
        ctx.commit(&take(&ctx.view(&snap), &self.res))?;
        self.moved = None;
        Ok(())
    }
}

fn all_replayed(ctx: &Ctx, res: &ResName, old: &HostName) -> String {
    format!(
        "{} has replayed everything that {old} logged of {res}",
        ctx.me
    )
}

/// Waits until everything that is known is applied here.
fn replayed(ctx: &Ctx, res: &ResName, old: &HostName) -> Done {
    let caught = |v: &View<'_>| match check_open(v, res, old) {
        Ok(()) => caught_up_or_heal(ctx, v, res, old),
        Err(e) => State::Never(e.to_string()),
    };
    let limit = ctx.opts.limit(TIMEOUT_SECS);
    let equal = all_replayed(ctx, res, old);
    ctx.wait_full(Some(res), &equal, limit, Some(HEAL_AGE), caught)
}

/// The old primary gives its role up. When that fails, it has it again.
fn hand_over(ctx: &Ctx, res: &ResName, old: &HostName, others: &BTreeSet<HostName>) -> Done {
    // Other resources may have taken their time between the phases.
    replayed(ctx, res, old)?;
    let equal = all_replayed(ctx, res, old);
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
        let caught = |v: &View<'_>| {
            still_mine(v, res).unwrap_or_else(|| caught_up_or_heal(ctx, v, res, old))
        };
        ctx.wait(res, &equal, TIMEOUT_SECS, caught)?;
        let dead = ctx.wait_peers(
            &others.iter().filter(|h| *h == old).cloned().collect(),
            TIMEOUT_SECS,
        )?;
        if !dead.is_empty() {
            return refuse(format!(
                "host {old} stopped answering during the handover of {res}"
            ));
        }
        ctx.wait(res, &equal, TIMEOUT_SECS, caught)
    };
    handover().map_err(|e| compensate(ctx, res, old, was_designated, e))
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

/// Before a forced take-over, fetching must really be off: what arrives later would be lost silently.
fn fetch_off(ctx: &Ctx, res: &ResName) -> Done {
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
    )
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
