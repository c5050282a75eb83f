//! `create-resource` (marsadm-commands.md section 3).
use crate::cli::Options;
use crate::ctx::Ctx;
use crate::error::{Done, refuse, show, usage};
use crate::out;
use crate::plan::{actual, live_paths, log, member_dirs, names, todo};
use crate::size::{self, parse_size, resource_size};
use mars_policy::View;
use mars_tree::{Batch, HostName, Key, ResName, Snapshot, TodoSwitch, UnitManager};
use std::path::Path;

/// Digest of a placeholder version link.
const ZEROS: &str = "00000000000000000000000000000000";
/// A re-created resource starts this far behind its old numbers.
const NUMBER_GAP: u64 = 100_000;
/// Log numbers end here.
const NUMBER_MAX: u64 = 999_999_999;

/// DISK [MARSNAME] [SIZE], checked as far as text goes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DiskArgs {
    /// Disk path.
    pub disk: String,
    /// Device name.
    pub device: String,
    /// Logical size.
    pub size: Option<u64>,
}

/// Reads DISK [MARSNAME] [SIZE]. A third argument that has the form of a SIZE is one.
pub fn disk_args(
    res: &ResName,
    args: &[String],
    size: Option<u64>,
    with_size: bool,
) -> Done<DiskArgs> {
    let Some(disk) = args.first() else {
        return usage(format!("argument DISK is missing for resource {res}"));
    };
    let path = Path::new(disk);
    let odd = path
        .components()
        .any(|c| c == std::path::Component::ParentDir)
        || disk.chars().any(char::is_control)
        || disk.len() > 1000;
    if !path.is_absolute() || odd {
        return refuse(format!(
            "disk {} must be an absolute path without .. and control characters",
            show(disk)
        ));
    }
    let (device, size_text) = match args.get(1..).unwrap_or_default() {
        [] => (None, None),
        [one] if with_size && parse_size(one).is_some() => (None, Some(one)),
        [one] => (Some(one), None),
        [device, size, ..] => (Some(device), Some(size)),
    };
    let size = match size_text {
        None => size,
        Some(t) => match parse_size(t) {
            Some(s) => Some(s),
            None => {
                return usage(format!(
                    "size {}: give bytes, or a number with k m g t p or K M G T P",
                    show(t)
                ));
            }
        },
    };
    let device = match device {
        None => res.to_string(),
        // The rules of resource names are those of device names.
        Some(name) => match name.parse::<ResName>() {
            Ok(n) => n.to_string(),
            Err(e) => return refuse(format!("device name: {e}")),
        },
    };
    Ok(DiskArgs {
        disk: disk.clone(),
        device,
        size,
    })
}

/// May this kind of file be a disk under this unit manager?
pub fn disk_kind(manager: UnitManager, disk: &str) -> Done {
    let regular = std::fs::metadata(disk).is_ok_and(|m| m.is_file());
    if regular && manager == UnitManager::Systemd {
        return refuse(format!(
            "disk {disk} is a regular file; give a block device (files serve as disks only with MARS_UNIT_MANAGER=direct)"
        ));
    }
    Ok(())
}

/// The device name must be free on this host.
pub fn device_free(snap: &Snapshot, res: &ResName, me: &HostName, device: &str) -> Done {
    let taken = snap
        .resources()
        .into_iter()
        .find(|r| r != res && snap.text(&Key::Device(r.clone(), me.clone())) == Some(device));
    match taken {
        Some(r) => refuse(format!(
            "device name {device} is taken by resource {r} on {me}; give another one behind the disk"
        )),
        None => Ok(()),
    }
}

/// No other resource may have the disk.
pub fn disk_free(snap: &Snapshot, res: &ResName, me: &HostName, disk: &str) -> Done {
    let taken = snap
        .resources()
        .into_iter()
        .find(|r| r != res && snap.text(&Key::Data(r.clone(), me.clone())) == Some(disk));
    match taken {
        Some(r) => refuse(format!(
            "disk {disk} is in use by resource {r} on {me}; give another disk"
        )),
        None => Ok(()),
    }
}

/// Links of a new member that do not depend on its role.
pub fn member_links(batch: &mut Batch, res: &ResName, me: &HostName, args: &DiskArgs) {
    batch.set(Key::Data(res.clone(), me.clone()), &args.disk);
    batch.set(Key::Device(res.clone(), me.clone()), &args.device);
    batch.set(actual(res, me, "if-on"), 0);
    batch.set(todo(res, me, TodoSwitch::Attach), 0);
    batch.set(todo(res, me, TodoSwitch::Connect), 1);
    batch.set(todo(res, me, TodoSwitch::Sync), 1);
    batch.set(todo(res, me, TodoSwitch::AllowReplay), 1);
}

/// Own logs and version links that an earlier resource of this name has left, with their numbers.
fn left_overs(v: &View<'_>, res: &ResName) -> Vec<(String, u32)> {
    live_paths(v.snap, res)
        .filter_map(|path| match Key::parse(path) {
            Key::Log(_, log) if log.host == *v.me => Some((path.to_string(), log.nr)),
            Key::Version(_, nr, owner) if owner == *v.me => Some((path.to_string(), nr)),
            _ => None,
        })
        .collect()
}

/// Everything but `attach`=1.
pub fn plan(
    v: &View<'_>,
    res: &ResName,
    opts: &Options,
    args: &DiskArgs,
    disk_bytes: u64,
) -> Done<Batch> {
    let (snap, me) = (v.snap, v.me);
    let members = snap.members(res);
    if !members.is_empty() && !opts.force {
        return refuse(format!(
            "resource {res} exists already with members {}; take another name, or join-resource on another host",
            names(&members)
        ));
    }
    if members.contains(me) {
        return refuse(format!(
            "{me} is already member of resource {res}; leave-resource first"
        ));
    }
    if snap.get(&Key::Ip(me.clone())).is_none() {
        return refuse(format!(
            "the address of {me} is not registered in the cluster; run marsadm join-cluster"
        ));
    }
    let left = left_overs(v, res);
    if let Some((path, _)) = left.first()
        && !opts.force
    {
        return refuse(format!(
            "{path} is left from an earlier resource {res}; run marsadm delete-resource {res} first"
        ));
    }
    device_free(snap, res, me, &args.device)?;
    disk_free(snap, res, me, &args.disk)?;
    let size = resource_size(args.size, disk_bytes, &args.disk).or_else(refuse)?;
    let highest = left.iter().map(|(_, nr)| u64::from(*nr)).max();
    let first = match snap.number(&Key::MaxNr(res.clone())).max(highest) {
        None => 1,
        Some(n) => n.saturating_add(NUMBER_GAP),
    };
    if first > NUMBER_MAX {
        return refuse(format!(
            "log numbers of resource {res} are used up; take another name"
        ));
    }
    let first = u32::try_from(first).unwrap_or(1);
    let mut batch = Batch::new();
    for (path, _) in &left {
        batch.delete(Key::parse(path));
    }
    let old_errors = format!("resource-{res}/actual-{me}/msg-err-");
    for (path, _) in snap.live_below(&old_errors) {
        batch.delete(Key::parse(path));
    }
    member_dirs(&mut batch, res, me);
    batch.set(Key::Size(res.clone()), size);
    member_links(&mut batch, res, me, args);
    batch.set(Key::Primary(res.clone()), me);
    batch.set(Key::ResUserspace(res.clone(), "last-primary".into()), me);
    batch.set(Key::SyncStatus(res.clone(), me.clone()), size);
    let head = |nr: u32| format!("{ZEROS},{},0", log(nr, me));
    batch.set(
        Key::Replay(res.clone(), me.clone()),
        format!("{},0,0", log(first, me)),
    );
    batch.create_log(Key::Log(res.clone(), log(first, me)));
    batch.set(
        Key::Version(res.clone(), first - 1, me.clone()),
        format!("{}:", head(first - 1)),
    );
    batch.set(
        Key::Version(res.clone(), first, me.clone()),
        format!("{}:{}", head(first), head(first - 1)),
    );
    batch.set(Key::MaxNr(res.clone()), first);
    if first > 1 {
        batch.set(Key::SkipCheck(res.clone(), me.clone()), first);
    }
    Ok(batch)
}

/// `create-resource`
pub fn create_resource(ctx: &Ctx, res: &ResName, args: &[String]) -> Done {
    let args = disk_args(res, args, ctx.opts.size, true)?;
    let snap = ctx.snapshot()?;
    let view = ctx.view(&snap);
    let bytes = probe_forced(ctx, &args.disk)?;
    let batch = plan(&view, res, &ctx.opts, &args, bytes)?;
    ctx.commit(&batch)?;
    attach_now(ctx, res)?;
    ctx.result(format!("resource {res} created, {} is primary", ctx.me));
    if let Some(wasted) = args
        .size
        .map(|s| bytes - s)
        .filter(|w| *w > ctx.opts.threshold)
    {
        out::hint(format!("{wasted} bytes of disk {} stay unused", args.disk));
    }
    Ok(())
}

/// Size of a disk that is to be used for the first time.
pub fn probe_new(ctx: &Ctx, disk: &str) -> Done<u64> {
    if !ctx.is_local() {
        return refuse(format!(
            "disk {disk} can only be examined on {}; run this command there",
            ctx.me
        ));
    }
    disk_kind(ctx.env.unit_manager, disk)?;
    mars_disk::Disk::probe(Path::new(disk))
        .or_else(|e| refuse(format!("{e}; give a disk that nobody else uses")))
}

/// The same for `create-resource`: with `--force`, a disk that somebody else holds is opened for reading only.
fn probe_forced(ctx: &Ctx, disk: &str) -> Done<u64> {
    let probed = probe_new(ctx, disk);
    match (&probed, size::of_disk(Path::new(disk))) {
        (Err(e), Some(bytes)) if ctx.opts.force && ctx.is_local() && bytes > 0 => {
            disk_kind(ctx.env.unit_manager, disk)?;
            out::warn(format!("lifted by --force: {e}"));
            Ok(bytes)
        }
        _ => probed,
    }
}

/// Last step of create and join.
pub fn attach_now(ctx: &Ctx, res: &ResName) -> Done {
    let mut batch = Batch::new();
    batch.set(todo(res, &ctx.me, TodoSwitch::Attach), 1);
    ctx.commit(&batch)?;
    if !ctx.engine_running() {
        out::warn("mars-meta is not running here: this becomes effective after marsadm start");
    }
    ctx.reconcile()?;
    ctx.instances(Some(res));
    Ok(())
}
