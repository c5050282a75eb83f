//! `resize` (marsadm-commands.md section 3): the device of the running primary grows, the secondaries sync the new part.
use super::{Command, each};
use crate::ctx::{Ctx, TIMEOUT_CLUSTER_SECS, TIMEOUT_SECS, until};
use crate::error::{Done, refuse, show, usage};
use crate::out;
use crate::plan::{designated, is_actual, names, storage_members};
use crate::size::{SIZE_UNIT, of_disk, parse_size};
use mars_policy::{View, device_size_key};
use mars_tree::{Batch, HostName, Key, ResName, Snapshot};
use std::collections::BTreeSet;
use std::path::Path;

/// The command of this file.
pub const COMMANDS: &[Command] = &[each(
    "resize",
    "[SIZE]",
    0,
    1,
    resize,
    "Enlarge the device to SIZE, or to what all disks have; enlarge the disks first",
)];

/// What is to be done.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Growth {
    /// Size until now, bytes.
    pub old: u64,
    /// Size to be, bytes; the same when there is nothing to change.
    pub new: u64,
    /// Bytes of the own disk that stay unused.
    pub unused: u64,
    /// Lines for stderr.
    pub warn: Vec<String>,
}

/// The smallest disk of all members, and whose it is. `own`: size of the own disk when it can be looked at.
fn smallest(
    snap: &Snapshot,
    res: &ResName,
    me: &HostName,
    own: Option<u64>,
) -> Done<(u64, HostName)> {
    let mut min: Option<(u64, HostName)> = None;
    for host in storage_members(snap, res) {
        let told = snap.number(&Key::ActSize(res.clone(), host.clone()));
        let bytes = own.filter(|_| host == *me).or(told);
        let Some(bytes) = bytes else {
            return refuse(format!(
                "the disk size of host {host} is unknown here; attach resource {res} there and run marsadm wait-cluster {res}"
            ));
        };
        if min.as_ref().is_none_or(|(m, _)| bytes < *m) {
            min = Some((bytes, host));
        }
    }
    match min {
        Some(m) => Ok(m),
        None => refuse(format!(
            "resource {res} has no member with a disk; run marsadm view {res}"
        )),
    }
}

/// `actsize-HOST` of hosts that are no members.
fn strays(snap: &Snapshot, res: &ResName) -> Vec<HostName> {
    let members = storage_members(snap, res);
    let prefix = format!("resource-{res}/actsize-");
    let hosts = snap
        .live_below(&prefix)
        .filter_map(|(p, _)| p.get(prefix.len()..)?.parse::<HostName>().ok());
    hosts.filter(|h| !members.contains(h)).collect()
}

/// This host must be actual primary, and the engine must run. Returns warnings.
pub fn check_role(v: &View<'_>, res: &ResName) -> Done<Vec<String>> {
    let (snap, me) = (v.snap, v.me);
    if !v.engine_running {
        return refuse(format!(
            "mars-meta is not running on host {}, so the others would not hear of the new size; run marsadm start",
            v.local
        ));
    }
    let primary = designated(snap, res);
    if !is_actual(snap, res, me, "is-primary") {
        let advice = match primary {
            Some(p) if p != *me => format!("run this on {p}"),
            _ => format!("run marsadm primary {res} first"),
        };
        return refuse(format!(
            "{me} is not primary of resource {res}, its device cannot be resized here; {advice}"
        ));
    }
    let mut warn = Vec::new();
    if primary.as_ref() != Some(me) {
        warn.push(format!(
            "{me} is actual primary of resource {res}, but not designated: the secondaries cannot sync the new part before a primary is designated"
        ));
    }
    Ok(warn)
}

/// Checks everything that can be checked.
pub fn plan(v: &View<'_>, res: &ResName, wanted: Option<u64>, own: Option<u64>) -> Done<Growth> {
    let (snap, me) = (v.snap, v.me);
    let mut warn = check_role(v, res)?;
    for host in strays(snap, res) {
        warn.push(format!(
            "actsize-{host} of resource {res} is ignored, {host} is no member"
        ));
    }
    let Some(old) = snap.number(&Key::Size(res.clone())) else {
        return refuse(format!(
            "the size of resource {res} is unknown here; run marsadm wait-cluster"
        ));
    };
    let (least, host) = smallest(snap, res, me, own)?;
    if least < old {
        return refuse(format!(
            "the disk of {host} has {least} bytes, resource {res} has {old}; enlarge that disk first"
        ));
    }
    let most = least / SIZE_UNIT * SIZE_UNIT;
    let new = match wanted {
        None if most <= old => {
            return refuse(format!(
                "resource {res} has {old} bytes, the disk of {host} has {least}: there is nothing to gain; enlarge the disks of all members first"
            ));
        }
        None => most,
        Some(w) if w % SIZE_UNIT != 0 => {
            return refuse(format!(
                "size {w} is not a multiple of {SIZE_UNIT}; the nearest are {} and {}",
                w - w % SIZE_UNIT,
                (w - w % SIZE_UNIT).saturating_add(SIZE_UNIT)
            ));
        }
        Some(w) if w < old => {
            return refuse(format!(
                "size {w} is smaller than the {old} bytes that resource {res} has; a resource can only grow"
            ));
        }
        Some(w) if w > most => {
            return refuse(format!(
                "size {w} is larger than possible: the disk of {host} has {least} bytes; enlarge it, or give at most {most}"
            ));
        }
        Some(w) => w,
    };
    let mine = own.or_else(|| snap.number(&Key::ActSize(res.clone(), me.clone())));
    Ok(Growth {
        old,
        new,
        unused: mine.unwrap_or(new).saturating_sub(new),
        warn,
    })
}

/// SIZE as argument or option.
fn size_argument(ctx: &Ctx, args: &[String]) -> Done<Option<u64>> {
    match args.first() {
        None => Ok(ctx.opts.size),
        Some(t) => match parse_size(t) {
            Some(s) => Ok(Some(s)),
            None => usage(format!(
                "size {}: give bytes, or a number with k m g t p or K M G T P",
                show(t)
            )),
        },
    }
}

/// The own disk, when it is on this machine.
fn own_disk(ctx: &Ctx, snap: &Snapshot, res: &ResName) -> Option<u64> {
    let disk = snap.text(&Key::Data(res.clone(), ctx.me.clone()))?;
    ctx.is_local().then(|| of_disk(Path::new(disk))).flatten()
}

/// `resize`
pub fn resize(ctx: &Ctx, res: &ResName, args: &[String]) -> Done {
    let wanted = size_argument(ctx, args)?;
    let snap = ctx.snapshot()?;
    check_role(&ctx.view(&snap), res)?;
    let peers: BTreeSet<HostName> = storage_members(&snap, res)
        .into_iter()
        .filter(|h| *h != ctx.me)
        .collect();
    let dead = ctx.wait_peers(&peers, TIMEOUT_CLUSTER_SECS)?;
    if !dead.is_empty() {
        out::warn(format!(
            "no answer from {}: taking the disk sizes that were known last",
            names(&dead)
        ));
    }
    let snap = ctx.snapshot()?;
    let g = plan(&ctx.view(&snap), res, wanted, own_disk(ctx, &snap, res))?;
    for line in &g.warn {
        out::warn(line);
    }
    if g.new > g.old {
        // First the own position, so that this host never looks unsynced.
        let mut first = Batch::new();
        first.set(Key::SyncStatus(res.clone(), ctx.me.clone()), g.new);
        ctx.commit(&first)?;
        let mut batch = Batch::new();
        batch.set(Key::Size(res.clone()), g.new);
        ctx.commit(&batch)?;
    }
    let (key, new) = (device_size_key(res, &ctx.me), g.new);
    ctx.wait(
        res,
        &format!("the device of resource {res} has {new} bytes"),
        TIMEOUT_SECS,
        |v| {
            let shown = v.snap.number(&key).unwrap_or(0);
            until(shown >= new, || format!("it has {shown} bytes"))
        },
    )?;
    if g.unused > ctx.opts.threshold {
        out::warn(format!(
            "{} bytes of the disk of {} stay unused",
            g.unused, ctx.me
        ));
    }
    ctx.result(if g.new == g.old {
        format!("resource {res} has {} bytes already", g.new)
    } else {
        format!("resource {res} has {} bytes now, {} before", g.new, g.old)
    });
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use mars_tree::Stamp;
    use std::time::Duration;

    const MIB: u64 = 1 << 20;

    fn tree(more: &[(&str, &str)]) -> Snapshot {
        let mut s = Snapshot::default();
        let links = [
            ("resource-r/size", "1048576"),
            ("resource-r/primary", "a"),
            ("resource-r/actual-a/is-primary", "1"),
            ("resource-r/data-a", "/dev/a"),
            ("resource-r/data-b", "/dev/b"),
            ("resource-r/actsize-a", "4194304"),
            ("resource-r/actsize-b", "3150000"),
        ];
        for (path, value) in links.iter().chain(more) {
            s.insert(&Key::parse(path), value, Stamp::from_nanos(1 << 60));
        }
        s
    }

    fn try_plan(snap: &Snapshot, wanted: Option<u64>, own: Option<u64>) -> Result<Growth, String> {
        let me: HostName = "a".parse().unwrap();
        let v = View {
            snap,
            me: &me,
            local: &me,
            now: Stamp::from_nanos(1 << 60),
            window: Duration::from_secs(60),
            engine_running: true,
        };
        plan(&v, &"r".parse().unwrap(), wanted, own).map_err(|e| e.to_string())
    }

    fn refused(snap: &Snapshot, wanted: Option<u64>, words: &[&str]) {
        let e = try_plan(snap, wanted, None).unwrap_err();
        for w in words {
            assert!(e.contains(w), "{e:?} does not name {w:?}");
        }
    }

    #[test]
    fn the_smallest_disk_decides() {
        let g = try_plan(&tree(&[]), None, None).unwrap();
        assert_eq!((g.old, g.new), (MIB, 3_149_824));
        assert_eq!(g.unused, 4 * MIB - 3_149_824);
        let g = try_plan(&tree(&[]), Some(2 * MIB), None).unwrap();
        assert_eq!((g.new, g.warn.len()), (2 * MIB, 0));
        // The own disk is looked at; its link may be old.
        let g = try_plan(
            &tree(&[("resource-r/actsize-b", "9000000")]),
            None,
            Some(8 * MIB),
        );
        assert_eq!(g.unwrap().new, 8 * MIB);
        assert_eq!(try_plan(&tree(&[]), Some(MIB), None).unwrap().new, MIB);
    }

    #[test]
    fn wrong_sizes_are_refused_with_both_numbers() {
        refused(&tree(&[]), Some(4 * MIB), &["4194304", "3150000", "b"]);
        refused(
            &tree(&[]),
            Some(MIB / 2),
            &["524288", "1048576", "only grow"],
        );
        refused(&tree(&[]), Some(2 * MIB + 512), &["2097664", "4096"]);
        let full = tree(&[("resource-r/actsize-b", "1048576")]);
        refused(&full, None, &["1048576", "enlarge"]);
        let small = tree(&[("resource-r/actsize-b", "4096")]);
        refused(&small, Some(2 * MIB), &["disk of b", "4096", "1048576"]);
    }

    #[test]
    fn only_at_the_actual_primary() {
        let gone = tree(&[("resource-r/actual-a/is-primary", "0")]);
        refused(&gone, None, &["not primary", "marsadm primary r"]);
        let other = tree(&[
            ("resource-r/actual-a/is-primary", "0"),
            ("resource-r/primary", "b"),
        ]);
        refused(&other, None, &["run this on b"]);
        let remains = tree(&[("resource-r/primary", "b")]);
        let g = try_plan(&remains, None, None).unwrap();
        assert!(g.warn[0].contains("not designated"), "{:?}", g.warn);
    }

    #[test]
    fn who_is_no_member_does_not_count_and_unknown_sizes_do() {
        let stray = tree(&[("resource-r/actsize-c", "4096")]);
        let g = try_plan(&stray, None, None).unwrap();
        assert!(g.warn[0].contains("actsize-c"), "{:?}", g.warn);
        assert_eq!(g.new, 3_149_824);
        let unknown = tree(&[("resource-r/data-c", "/dev/c")]);
        refused(&unknown, None, &["host c is unknown", "attach"]);
    }
}
