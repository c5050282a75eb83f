//! Which resources a word means, and what is checked of each before its command (marsadm-commands.md 1.4 to 1.6).
use crate::cmd::{Command, view};
use crate::ctx::Ctx;
use crate::error::{Done, nearest, refuse};
use crate::out;
use crate::plan::names;
use mars_policy::{View, progress};
use mars_tree::{HostName, Key, ResName, Snapshot, TodoSwitch, digit_aware_cmp};
use std::path::Path;
use std::time::Duration;

/// `all`, or a list of names, each known.
pub fn resources(ctx: &Ctx, snap: &Snapshot, word: &str) -> Done<Vec<ResName>> {
    let known = snap.resources();
    if word == "all" {
        return Ok(own(snap, &ctx.me));
    }
    let mut list = Vec::new();
    for name in word.split(',') {
        let res: ResName = name
            .parse()
            .or_else(|e: mars_tree::NameError| refuse(e.to_string()))?;
        let res = if known.contains(&res) {
            res
        } else {
            by_device(ctx, snap, &known, res)?
        };
        if !list.contains(&res) {
            list.push(res);
        }
    }
    // Digit runs count as numbers: r2 before r10.
    list.sort_by(|a, b| digit_aware_cmp(a.as_str(), b.as_str()));
    Ok(list)
}

/// All resources that have not been deleted.
pub fn in_use(snap: &Snapshot) -> Vec<ResName> {
    let mut all = snap.resources();
    all.retain(|r| {
        let maxnr = Key::MaxNr(r.clone()).path();
        let mut live = snap.live_below(&format!("resource-{r}/"));
        live.any(|(path, _)| *path != maxnr)
    });
    all
}

/// What `all` means: the resources of which `me` is member or guest.
pub fn own(snap: &Snapshot, me: &HostName) -> Vec<ResName> {
    let here = |r: &ResName| {
        snap.members(r).contains(me) || snap.get(&Key::Device(r.clone(), me.clone())).is_some()
    };
    snap.resources().into_iter().filter(here).collect()
}

/// Somebody may have given the name of a local device.
fn by_device(ctx: &Ctx, snap: &Snapshot, known: &[ResName], name: ResName) -> Done<ResName> {
    let fits: Vec<&ResName> = known
        .iter()
        .filter(|r| snap.text(&Key::Device((*r).clone(), ctx.me.clone())) == Some(name.as_str()))
        .collect();
    if let [one] = fits.as_slice() {
        out::warn(format!(
            "{name} is the device of resource {one}; using that"
        ));
        return Ok((*one).clone());
    }
    let near = nearest(name.as_str(), known.iter().map(ResName::as_str));
    let advice = match (near, known.is_empty()) {
        (Some(n), _) => format!("did you mean {n}?"),
        (None, true) => "this cluster has none; use create-resource".to_string(),
        (None, false) => format!("known: {}", names(known)),
    };
    refuse(format!("resource {name} does not exist; {advice}"))
}

/// Common preconditions of one resource.
pub fn check_resource(ctx: &Ctx, snap: &Snapshot, c: &Command, res: &ResName) -> Done {
    let member = snap.get(&Key::Data(res.clone(), ctx.me.clone())).is_some();
    if c.member && !member && !ctx.opts.force {
        return refuse(format!(
            "{} is not member of resource {res} (members: {}); join-resource first, or run this there",
            ctx.me,
            crate::cmd::membership::names_or_none(snap.members(res))
        ));
    }
    if c.member && member && !ctx.opts.force && !HARMLESS.iter().any(|h| c.name.starts_with(h)) {
        large_enough(ctx, snap, res)?;
    }
    view::split_note(&ctx.view(snap), res);
    if !HARMLESS.iter().any(|h| c.name.starts_with(h)) {
        stuck_note(&ctx.view(snap), res, ctx.opts.stuck);
    }
    Ok(())
}

/// Fetch or replay that has work to do, is switched on, and has not moved for long (`--stuck-seconds`).
fn stuck(v: &View<'_>, res: &ResName, limit: Duration) -> Vec<(&'static str, Duration)> {
    let (snap, me) = (v.snap, v.me);
    let on = |s| snap.todo(res, me, s);
    let secondary = !v.is_designated(res, me) && !v.is_actual_primary(res, me);
    if !secondary || !snap.members(res).contains(me) || !on(TodoSwitch::Attach) {
        return Vec::new();
    }
    let progress = progress(v, res, me);
    let newest = snap
        .versions(res)
        .into_iter()
        .rev()
        .find(|(_, owner, _)| owner == me)
        .map(|(nr, owner, _)| Key::Version(res.clone(), nr, owner));
    let replay = Some(Key::Replay(res.clone(), me.clone()));
    // Replay waits for the sync.
    let replays = on(TodoSwitch::AllowReplay) && v.sync_done(res, me);
    [
        (
            "fetch",
            on(TodoSwitch::Connect) && progress.fetch_rest() > 0,
            newest,
        ),
        ("replay", replays && progress.replay_rest() > 0, replay),
    ]
    .into_iter()
    .filter(|(_, work, _)| *work)
    .filter_map(|(what, _, key)| Some((what, v.now.since(snap.stamp(&key?)?))))
    .filter(|(_, age)| *age > limit)
    .collect()
}

/// Warns about it. (`view` has it in its own lines.)
fn stuck_note(v: &View<'_>, res: &ResName, limit: Duration) {
    for (what, age) in stuck(v, res, limit) {
        out::warn(format!(
            "{what} of resource {res} on {} has not moved for {} s although there is work; see marsadm view {res}, and journalctl MARS_RESOURCE={res}",
            v.me,
            age.as_secs()
        ));
    }
}

/// Beginnings of commands that only look, wait, or take load away from the disk: those are the way out when it is too small.
const HARMLESS: [&str; 9] = [
    "pause-",
    "disconnect",
    "detach",
    "down",
    "secondary",
    "log-",
    "wait-",
    "role",
    "state",
];

/// The disk has at least the size of the resource.
fn large_enough(ctx: &Ctx, snap: &Snapshot, res: &ResName) -> Done {
    let Some(size) = snap.number(&Key::Size(res.clone())) else {
        return Ok(());
    };
    let (disk, bytes) = if ctx.is_local() {
        let Some(disk) = snap.text(&Key::Data(res.clone(), ctx.me.clone())) else {
            return Ok(());
        };
        // A disk that cannot be looked at is the business of those commands that need it.
        (
            format!("disk {disk}"),
            crate::size::of_disk(Path::new(disk)),
        )
    } else {
        let bytes = snap.number(&Key::ActSize(res.clone(), ctx.me.clone()));
        (format!("the disk of {}", ctx.me), bytes)
    };
    match bytes {
        Some(bytes) if bytes < size => refuse(format!(
            "{disk} has {bytes} bytes, resource {res} needs {size}; enlarge the disk (--force skips this check)"
        )),
        _ => Ok(()),
    }
}
