//! Copies of what a cluster is made of, before that changes: `uuid-backups/uuid` and `ips-backup/ip-HOST` below a directory.
use crate::ctx::Ctx;
use crate::error::{CmdError, Done, refuse};
use crate::out;
use mars_tree::{Key, Snapshot};
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use std::fs;
use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `--backup-dir`, else a new directory below the root that `cron` and `link-purge-all` remove some day.
fn directory(ctx: &Ctx) -> Done<PathBuf> {
    match &ctx.opts.backup_dir {
        Some(dir) if !dir.is_absolute() => refuse(format!(
            "--backup-dir={}: give an absolute path",
            dir.display()
        )),
        Some(dir) => Ok(dir.clone()),
        None => {
            let now = ctx.tree.clock().now().secs();
            Ok(ctx.tree.root().join(format!("backups-{now}")))
        }
    }
}

/// What is copied: name below the directory, key.
fn wanted(snap: &Snapshot) -> Vec<(String, Key)> {
    let mut all = vec![("uuid-backups/uuid".to_string(), Key::Uuid)];
    for host in snap.hosts() {
        all.push((format!("ips-backup/ip-{host}"), Key::Ip(host)));
    }
    all
}

/// Copies the uuid and all addresses. Returns the directory. An older copy there that differs is not overwritten.
pub fn save(ctx: &Ctx, snap: &Snapshot) -> Done<PathBuf> {
    let dir = directory(ctx)?;
    if ctx.opts.dry_run {
        out::say(format!(
            "would save uuid and addresses below {}",
            dir.display()
        ));
        return Ok(dir);
    }
    for (name, key) in wanted(snap) {
        if let Some(link) = snap.get(&key) {
            copy(&dir.join(&name), link)?;
        }
    }
    Ok(dir)
}

fn copy(path: &Path, link: &mars_tree::Link) -> Done {
    let failed = |e: std::io::Error| {
        CmdError::Failed(format!(
            "backup {}: {e}; give another directory with --backup-dir",
            path.display()
        ))
    };
    let Some(text) = link.value.as_str() else {
        return Ok(());
    };
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(parent)
            .map_err(failed)?;
    }
    match fs::read_link(path) {
        Ok(old) if old.as_os_str() == text => return Ok(()),
        Ok(_) => {
            return refuse(format!(
                "backup {} exists with another value; give another directory with --backup-dir",
                path.display()
            ));
        }
        Err(_) => symlink(text, path).map_err(failed)?,
    }
    let time = TimeSpec::from_duration(Duration::from_nanos(link.stamp.as_nanos()));
    let stamped = utimensat(
        nix::fcntl::AT_FDCWD,
        path,
        &time,
        &time,
        UtimensatFlags::NoFollowSymlink,
    );
    stamped.map_err(|e| failed(e.into()))
}
