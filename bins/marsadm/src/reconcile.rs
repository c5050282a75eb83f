//! The reconciler: wanted units against running ones, then facts that no running daemon owns (`marsadm systemd-trigger`).
use crate::ctx::Ctx;
use crate::error::{CmdError, Done};
use crate::lock::lock;
use crate::plan::actual;
use mars_disk::Disk;
use mars_policy::{Unit, View, stack_holds_device, wanted_units};
use mars_tree::{Batch, HostName, Key, ResName, Snapshot, TodoSwitch, UnitManager};
use mars_units::{Manager, UnitChange, UnitError, manager, plan};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

/// A daemon that has not ended this long after SIGTERM is reported. A logger may have much to write back.
const STOP_LIMIT: Duration = Duration::from_secs(300);

/// What to bring about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// What the tree says, unless this host has been stopped.
    Normal,
    /// `marsadm start`: this host is started from now on.
    Start,
    /// `marsadm stop`: this host is stopped from now on.
    Stop,
}

/// What happened.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Changes made, one line each.
    pub done: Vec<String>,
    /// What failed, one line each; everything else was still done.
    pub errors: Vec<String>,
    /// The same about units of the administrator.
    pub stack_errors: Vec<String>,
}

/// The units that should run on `v.local` now. Nothing before the host is in a cluster, or after it left; but when others removed it,
/// devices that are open here stay until they are closed (I10), and `mars-meta` to notice that.
pub fn desired(v: &View<'_>, enabled: bool) -> BTreeSet<Unit> {
    if !enabled || v.snap.get(&Key::Uuid).is_none() {
        return BTreeSet::new();
    }
    if v.snap.get(&Key::Ip(v.local.clone())).is_some() {
        return wanted_units(v);
    }
    let mut open: BTreeSet<Unit> = local_disks(v.snap, v.local)
        .into_keys()
        .filter(|res| v.snap.actual(res, v.local, "open-count").unwrap_or(0) > 0)
        .map(Unit::Logger)
        .collect();
    if !open.is_empty() {
        open.insert(Unit::Meta);
    }
    open
}

/// Steps to take. Loggers are not started before `mars-meta` has heard its peers: the role may have moved while this host was away
/// (symlink-tree.md section 6, "Primary crash/reboot").
pub fn steps(running: &BTreeSet<Unit>, wanted: &BTreeSet<Unit>, settled: bool) -> Vec<UnitChange> {
    plan(running, wanted)
        .into_iter()
        .filter(|c| settled || !matches!(c, UnitChange::Start(Unit::Logger(_))))
        .collect()
}

/// A logger stays until its stack has let go of the device; stopping that is under way or comes next.
pub fn after_stacks(v: &View<'_>, steps: Vec<UnitChange>) -> Vec<UnitChange> {
    steps
        .into_iter()
        .filter(|c| !matches!(c, UnitChange::Stop(Unit::Logger(res)) if stack_holds_device(v, res)))
        .collect()
}

/// Resources whose local disk a daemon holds.
fn holds_disk(unit: &Unit) -> Option<&ResName> {
    match unit {
        Unit::Logger(r) | Unit::Replay(r) | Unit::Sync(r) => Some(r),
        _ => None,
    }
}

/// Resources of which `host` is a storage member, with the disk path.
pub fn local_disks(snap: &Snapshot, host: &HostName) -> BTreeMap<ResName, String> {
    snap.resources()
        .into_iter()
        .filter_map(|res| {
            let disk = snap
                .text(&Key::Data(res.clone(), host.clone()))?
                .to_string();
            Some((res, disk))
        })
        .collect()
}

/// What a daemon that does not run cannot take back itself: all its flags are off.
pub fn reset_flags(snap: &Snapshot, host: &HostName, running: &BTreeSet<Unit>) -> Batch {
    let mut batch = Batch::new();
    for res in local_disks(snap, host).into_keys() {
        let flags = [
            (
                Unit::Logger(res.clone()),
                &["is-primary", "if-on", "open-count"][..],
            ),
            (Unit::Fetch(res.clone()), &["is-copying"]),
            (Unit::Replay(res.clone()), &["is-replaying"]),
            (Unit::Sync(res.clone()), &["is-syncing"]),
        ];
        for (unit, names) in flags {
            if running.contains(&unit) {
                continue;
            }
            for name in names {
                batch.set_if_changed(actual(&res, host, name), 0);
            }
        }
    }
    batch
}

/// Attached: a daemon holds the disk, or it is one of the `usable` ones.
pub fn set_attached(
    snap: &Snapshot,
    host: &HostName,
    running: &BTreeSet<Unit>,
    usable: &BTreeSet<ResName>,
) -> Batch {
    let held: BTreeSet<&ResName> = running.iter().filter_map(holds_disk).collect();
    let mut batch = Batch::new();
    for res in local_disks(snap, host).into_keys() {
        let attached = held.contains(&res) || usable.contains(&res);
        batch.set_if_changed(actual(&res, host, "is-attached"), u8::from(attached));
    }
    batch
}

/// One run. Idempotent; never two at once on a host.
pub fn run(ctx: &Ctx, mode: Mode) -> Done<Report> {
    run_with(ctx, manager(&ctx.env)?.as_ref(), mode)
}

/// [`run`] through a unit manager that is there already.
pub fn run_with(ctx: &Ctx, manager: &dyn Manager, mode: Mode) -> Done<Report> {
    let _one_at_a_time = lock(&ctx.env.run_dir.join("reconcile.lock"))?;
    let mut report = Report::default();
    match mode {
        Mode::Normal => {}
        Mode::Start => manager.set_enabled(true)?,
        Mode::Stop => {
            // Daemons first, then what they said last can still travel, then `mars-meta`.
            manager_stop_all(ctx, manager, &mut report)?;
            return Ok(report);
        }
    }
    // Left-overs of a daemon that crashed must not count as its wishes.
    let running = manager.running()?;
    // Asked before the tree is read: what the peers said until then is in the snapshot.
    let settled = is_settled(&ctx.env.run_dir.join("meta.settled"), &running)?;
    let snap = ctx.tree.snapshot()?;
    ctx.tree
        .commit(&reset_flags(&snap, &ctx.env.host, &running))?;
    let snap = ctx.tree.snapshot()?;
    let wanted = desired(&local_view(ctx, &snap), manager.enabled()?);
    let mut todo = steps(&running, &wanted, settled);
    if ctx.opts.systemd_enable {
        let mut live = snap.clone();
        mars_facts::refresh(&ctx.env, &mut live, ctx.tree.clock().now());
        todo = after_stacks(&local_view(ctx, &live), todo);
    }
    let (stops, starts): (Vec<UnitChange>, Vec<UnitChange>) = todo
        .into_iter()
        .partition(|c| matches!(c, UnitChange::Stop(_)));
    apply(manager, &stops, &mut report);
    // Between stopping and starting nobody of us holds a disk that is about to be opened.
    let usable = probe_disks(&snap, &ctx.env.host, &manager.running()?);
    apply(manager, &starts, &mut report);
    commit_facts(ctx, manager, &usable)?;
    crate::stale::remove(ctx, &snap, &manager.running()?, &mut report);
    Ok(report)
}

/// Has `mars-meta` heard its peers since it runs? What a killed one left behind says nothing: the role may have moved since then.
fn is_settled(file: &Path, running: &BTreeSet<Unit>) -> Done<bool> {
    if running.contains(&Unit::Meta) {
        return Ok(file.exists());
    }
    match std::fs::remove_file(file) {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(CmdError::Failed(format!("{}: {e}", file.display())))
        }
        _ => Ok(false),
    }
}

/// What a run would do, without doing it (`--dry-run`).
pub fn dry_run(ctx: &Ctx, mode: Mode) -> Done<Report> {
    let manager = manager(&ctx.env)?;
    let snap = ctx.tree.snapshot()?;
    let enabled = match mode {
        Mode::Normal => manager.enabled()?,
        Mode::Start => true,
        Mode::Stop => false,
    };
    let wanted = desired(&local_view(ctx, &snap), enabled);
    let mut done: Vec<String> = plan(&manager.running()?, &wanted)
        .into_iter()
        .map(|c| match c {
            UnitChange::Stop(u) => format!("would stop {u}"),
            UnitChange::Start(u) => format!("would start {u}"),
        })
        .collect();
    if ctx.opts.systemd_enable && mode != Mode::Stop {
        done.extend(crate::stack::intentions(&local_view(ctx, &snap)));
    }
    let mut report = Report {
        done,
        ..Report::default()
    };
    if ctx.opts.systemd_enable && mode != Mode::Stop {
        let force = ctx.opts.force;
        crate::templates::generate(ctx, manager.as_ref(), None, force, &mut report);
    }
    Ok(report)
}

/// The reconciler works for this machine, whatever `--host` says.
pub fn local_view<'a>(ctx: &'a Ctx, snap: &'a Snapshot) -> View<'a> {
    View {
        me: &ctx.env.host,
        ..ctx.view(snap)
    }
}

fn manager_stop_all(ctx: &Ctx, manager: &dyn Manager, report: &mut Report) -> Done {
    let snap = ctx.tree.snapshot()?;
    if ctx.opts.systemd_enable && ctx.env.unit_manager == UnitManager::Systemd {
        let templates = crate::templates::template_env(ctx)?;
        let disks = local_disks(&snap, &ctx.env.host);
        let (done, errors) = crate::stack::stop_all(&templates, manager, &snap, disks.keys());
        report.done.extend(done);
        report.errors.extend(errors);
    }
    let running = manager.running()?;
    let keep: BTreeSet<Unit> = running
        .intersection(&BTreeSet::from([Unit::Meta]))
        .cloned()
        .collect();
    apply(manager, &plan(&running, &keep), report);
    let snap = ctx.tree.snapshot()?;
    if !snap.links.is_empty() {
        commit_facts(ctx, manager, &BTreeSet::new())?;
    }
    crate::stale::remove(ctx, &snap, &manager.running()?, report);
    apply(manager, &plan(&keep, &BTreeSet::new()), report);
    manager.set_enabled(false)?;
    Ok(())
}

fn apply(manager: &dyn Manager, changes: &[UnitChange], report: &mut Report) {
    for change in changes {
        let (result, line): (Result<(), UnitError>, String) = match change {
            UnitChange::Stop(u) => (manager.stop(u, STOP_LIMIT), format!("stopped {u}")),
            UnitChange::Start(u) => (manager.start(u), format!("started {u}")),
        };
        match result {
            Ok(()) => report.done.push(line),
            Err(e) => report.errors.push(e.to_string()),
        }
    }
}

fn probe_disks(snap: &Snapshot, host: &HostName, running: &BTreeSet<Unit>) -> BTreeSet<ResName> {
    let held: BTreeSet<&ResName> = running.iter().filter_map(holds_disk).collect();
    local_disks(snap, host)
        .into_iter()
        .filter(|(res, disk)| {
            snap.todo(res, host, TodoSwitch::Attach)
                && (held.contains(res) || Disk::probe(Path::new(disk)).is_ok())
        })
        .map(|(res, _)| res)
        .collect()
}

fn commit_facts(ctx: &Ctx, manager: &dyn Manager, usable: &BTreeSet<ResName>) -> Done {
    let snap = ctx.tree.snapshot()?;
    let (host, running) = (&ctx.env.host, manager.running()?);
    ctx.tree.commit(&reset_flags(&snap, host, &running))?;
    ctx.tree
        .commit(&set_attached(&snap, host, &running, usable))?;
    Ok(())
}
