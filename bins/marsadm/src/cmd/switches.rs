//! pause/resume-{sync,fetch,replay}, connect, disconnect, attach, detach, up, down (marsadm-commands.md section 4).
use crate::cli::Options;
use crate::cmd::handover::{held_by, openers, stops_itself};
use crate::ctx::{State, TIMEOUT_SECS, looks_dead, until};
use crate::error::{Done, refuse};
use crate::plan::{Plan, Wait, designated, device_name, is_actual, names, switch_name, todo};
use mars_policy::View;
use mars_tree::{HostName, Key, ResName, TodoSwitch};

/// Tells whether a disk could be used now: its size, or why not.
pub type Probe<'a> = &'a dyn Fn(&str) -> Result<u64, String>;

/// Sets one switch here, or at every member.
pub fn switch(
    v: &View<'_>,
    res: &ResName,
    which: TodoSwitch,
    on: bool,
    global: bool,
) -> Done<Plan> {
    if which == TodoSwitch::Sync && on {
        sync_possible(v, res)?;
    }
    let hosts = if global {
        v.snap.members(res)
    } else {
        vec![v.me.clone()]
    };
    let mut plan = Plan::default();
    for host in &hosts {
        put(&mut plan, v, res, host, which, on);
    }
    engine_note(&mut plan, v);
    Ok(plan)
}

fn put(plan: &mut Plan, v: &View<'_>, res: &ResName, host: &HostName, which: TodoSwitch, on: bool) {
    let key = todo(res, host, which);
    let word = if on { "activated" } else { "deactivated" };
    if v.snap.get(&key).is_some() && v.snap.is_on(&key) == on {
        plan.say.push(format!(
            "{res}: {} is already {word} on {host}",
            switch_name(which)
        ));
    } else {
        plan.say
            .push(format!("{res}: {} {word} on {host}", switch_name(which)));
        plan.batch.set(key, u8::from(on));
    }
}

fn engine_note(plan: &mut Plan, v: &View<'_>) {
    if v.me == v.local && !v.engine_running {
        plan.warn.push(
            "mars-meta is not running here: this becomes effective after marsadm start".into(),
        );
        plan.wait = None;
    }
}

/// A sync needs a primary that logs.
fn sync_possible(v: &View<'_>, res: &ResName) -> Done {
    match designated(v.snap, res) {
        None => refuse(format!(
            "resource {res} has no designated primary, nothing to sync from; run marsadm primary {res} on the host that shall be it"
        )),
        Some(p) if p != *v.me && is_actual(v.snap, res, &p, "has-emergency") => refuse(format!(
            "primary {p} of resource {res} is in emergency mode; free space in /mars there, then marsadm cron"
        )),
        Some(_) => Ok(()),
    }
}

/// The disk can be used, or is in use by us.
fn disk_check(v: &View<'_>, res: &ResName, opts: &Options, probe: Probe<'_>) -> Done {
    // Also while a detach waits for the device to be closed: a daemon of ours has the disk.
    let attached = is_actual(v.snap, res, v.me, "is-attached")
        && (v.engine_running || v.snap.todo(res, v.me, TodoSwitch::Attach));
    if attached || v.me != v.local {
        return Ok(());
    }
    let Some(disk) = v.snap.text(&Key::Data(res.clone(), v.me.clone())) else {
        return Ok(());
    };
    let bytes = match probe(disk) {
        Ok(b) => b,
        Err(e) => {
            return refuse(format!(
                "resource {res}: {e}; repair or free it, then attach again"
            ));
        }
    };
    match v.snap.number(&Key::Size(res.clone())) {
        Some(size) if bytes < size && !opts.force => refuse(format!(
            "disk {disk} has {bytes} bytes, resource {res} needs {size}; enlarge the disk (--force skips this check)"
        )),
        _ => Ok(()),
    }
}

/// `attach`
pub fn attach(v: &View<'_>, res: &ResName, opts: &Options, probe: Probe<'_>) -> Done<Plan> {
    check_alive(v, res, opts)?;
    disk_check(v, res, opts, probe)?;
    let mut plan = Plan::default();
    put(&mut plan, v, res, v.me, TodoSwitch::Attach, true);
    plan.wait = wait_attached(v, res, opts);
    engine_note(&mut plan, v);
    Ok(plan)
}

/// `up`: attach, fetch, replay, sync; a sync that cannot start is no failure.
pub fn up(v: &View<'_>, res: &ResName, opts: &Options, probe: Probe<'_>) -> Done<Plan> {
    check_alive(v, res, opts)?;
    disk_check(v, res, opts, probe)?;
    let mut plan = Plan::default();
    for which in [
        TodoSwitch::Attach,
        TodoSwitch::Connect,
        TodoSwitch::AllowReplay,
        TodoSwitch::Sync,
    ] {
        put(&mut plan, v, res, v.me, which, true);
    }
    plan.wait = wait_attached(v, res, opts);
    engine_note(&mut plan, v);
    Ok(plan)
}

fn wait_attached(v: &View<'_>, res: &ResName, opts: &Options) -> Option<Wait> {
    if opts.force {
        return None;
    }
    let (res, me) = (res.clone(), v.me.clone());
    Some(Wait {
        what: format!("resource {res} is attached on {me}"),
        default_secs: TIMEOUT_SECS,
        check: Box::new(move |v| {
            let error = v.snap.actual(&res, &me, "disk-error").unwrap_or(0);
            if error != 0 && !is_actual(v.snap, &res, &me, "is-attached") {
                return State::Never(format!(
                    "resource {res}: the disk gives error {error}; repair it and attach again"
                ));
            }
            until(is_actual(v.snap, &res, &me, "is-attached"), || {
                "is-attached is 0".into()
            })
        }),
    })
}

/// What a foreign host that is dead does cannot be waited for.
fn check_alive(v: &View<'_>, res: &ResName, opts: &Options) -> Done {
    if v.me == v.local || opts.force || !looks_dead(v, v.me, v.window / 2) {
        return Ok(());
    }
    refuse(format!(
        "host {} does not answer, so what it does with {res} cannot be waited for; --force sets the switches nevertheless",
        v.me
    ))
}

fn check_closed(v: &View<'_>, res: &ResName, opts: &Options) -> Done {
    let openers = v.snap.actual(res, v.me, "open-count").unwrap_or(0);
    if openers > 0 && !opts.force && !stops_itself(v, res, opts.systemd_enable) {
        return refuse(format!(
            "device {} of resource {res} is in use: opened {openers} times on host {}; unmount there, then try again",
            device_name(v.snap, res, v.me),
            v.me
        ));
    }
    Ok(())
}

/// `detach`
pub fn detach(v: &View<'_>, res: &ResName, opts: &Options) -> Done<Plan> {
    check_alive(v, res, opts)?;
    check_closed(v, res, opts)?;
    let mut plan = Plan::default();
    put(&mut plan, v, res, v.me, TodoSwitch::Attach, false);
    plan.wait = wait_detached(v, res, opts);
    engine_note(&mut plan, v);
    Ok(plan)
}

/// `down`: sync, fetch, replay off, detach.
pub fn down(v: &View<'_>, res: &ResName, opts: &Options) -> Done<Plan> {
    check_alive(v, res, opts)?;
    check_closed(v, res, opts)?;
    let mut plan = Plan::default();
    for which in [
        TodoSwitch::Sync,
        TodoSwitch::Connect,
        TodoSwitch::AllowReplay,
        TodoSwitch::Attach,
    ] {
        put(&mut plan, v, res, v.me, which, false);
    }
    plan.wait = wait_detached(v, res, opts);
    engine_note(&mut plan, v);
    Ok(plan)
}

fn wait_detached(v: &View<'_>, res: &ResName, opts: &Options) -> Option<Wait> {
    if opts.force {
        return None;
    }
    let (res, me) = (res.clone(), v.me.clone());
    Some(Wait {
        what: format!("resource {res} is detached on {me}"),
        default_secs: TIMEOUT_SECS,
        check: Box::new(move |v| {
            let on = still_on(
                v,
                &res,
                &me,
                &["is-attached", "if-on", "is-replaying", "is-syncing"],
            );
            until(on.is_empty(), || match openers(v, &res, &me) {
                0 => format!("still on: {}", names(on)),
                n => format!(
                    "the device is opened {n} times{}",
                    held_by(v.snap, &res, &me)
                ),
            })
        }),
    })
}

/// Those of the flags in `actual-HOST/` that are not 0.
pub fn still_on<'n>(
    v: &View<'_>,
    res: &ResName,
    host: &HostName,
    flags: &[&'n str],
) -> Vec<&'n str> {
    flags
        .iter()
        .copied()
        .filter(|f| is_actual(v.snap, res, host, f))
        .collect()
}
