//! What a logger that was killed leaves behind: `DEV_DIR/NAME` and the socket that it points to. A dangling device would look like one
//! that is there.
use crate::ctx::Ctx;
use crate::plan::device_name;
use crate::reconcile::Report;
use mars_policy::Unit;
use mars_tree::{HostName, ResName, Snapshot};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

/// A link of ours, by where it points to: the resource whose logger made it.
fn owner(
    snap: &Snapshot,
    host: &HostName,
    run_dir: &Path,
    name: &str,
    target: &Path,
) -> Option<ResName> {
    if let Ok(below) = target.strip_prefix(run_dir) {
        return below.iter().next()?.to_str()?.parse().ok();
    }
    let is_loop = target.to_str()?.strip_prefix("/dev/loop")?;
    if is_loop.is_empty() || !is_loop.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    snap.resources()
        .into_iter()
        .find(|res| device_name(snap, res, host) == name)
}

/// Devices below `dev_dir` that belong to a resource for which `runs` says no.
fn stale_links(
    snap: &Snapshot,
    host: &HostName,
    (dev_dir, run_dir): (&Path, &Path),
    runs: &dyn Fn(&ResName) -> bool,
) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dev_dir) else {
        return Vec::new();
    };
    let run_dir = std::path::absolute(run_dir).unwrap_or_else(|_| run_dir.to_owned());
    entries
        .flatten()
        .filter_map(|e| {
            let target = fs::read_link(e.path()).ok()?;
            let res = owner(snap, host, &run_dir, e.file_name().to_str()?, &target)?;
            (!runs(&res)).then(|| e.path())
        })
        .collect()
}

/// Sockets of loggers that do not run.
fn stale_sockets(run_dir: &Path, runs: &dyn Fn(&ResName) -> bool) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(run_dir) else {
        return Vec::new();
    };
    entries
        .flatten()
        .filter_map(|e| {
            let res: ResName = e.file_name().to_str()?.parse().ok()?;
            let path = e.path().join("nbd.sock");
            let is_socket = fs::symlink_metadata(&path).is_ok_and(|m| m.file_type().is_socket());
            (is_socket && !runs(&res)).then_some(path)
        })
        .collect()
}

/// Removes them. Called under the lock of the reconciler, so no logger starts meanwhile but by hand; its instance lock counts too.
pub fn remove(ctx: &Ctx, snap: &Snapshot, running: &BTreeSet<Unit>, report: &mut Report) {
    let env = &ctx.env;
    let runs = |res: &ResName| {
        running.contains(&Unit::Logger(res.clone()))
            || mars_daemon::is_running(env, "logger", Some(res))
    };
    let dirs = (env.dev_dir.as_path(), env.run_dir.as_path());
    let mut stale = stale_links(snap, &env.host, dirs, &runs);
    stale.extend(stale_sockets(&env.run_dir, &runs));
    for path in stale {
        match fs::remove_file(&path) {
            Ok(()) => report
                .done
                .push(format!("removed {}, left by a dead logger", path.display())),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => report.errors.push(format!("{}: {e}", path.display())),
        }
    }
}
