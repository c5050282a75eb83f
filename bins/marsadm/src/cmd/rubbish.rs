//! What nobody needs any more below the root, and is no key: old backups, copies of foreign trees, temporary links of programs that died.
use crate::error::{CmdError, Done};
use mars_tree::Stamp;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Whoever writes a link needs its temporary name for a moment only.
const TEMPORARY: Duration = Duration::from_secs(3600);
/// Directories above a temporary link.
const DEPTH_MAX: usize = 4;

/// Age of an entry in seconds by its own time stamp; `None` when it lies in the future.
fn age(now: Stamp, mtime_secs: i64) -> Option<Duration> {
    let mtime = u64::try_from(mtime_secs).ok()?;
    now.secs().checked_sub(mtime).map(Duration::from_secs)
}

/// Whether an entry may go. `depth`: 0 directly below the root.
pub fn is_rubbish(name: &str, depth: usize, is_dir: bool, age: Duration, keep: Duration) -> bool {
    let top = |prefix: &str| depth == 0 && is_dir && name.starts_with(prefix);
    if top("backups-") {
        return age > keep;
    }
    if top("probe-") {
        return age > TEMPORARY;
    }
    let temporary = name.starts_with(".tmp.") || name.starts_with(".tmp-");
    temporary && !is_dir && age > TEMPORARY
}

/// All such entries below `root`. What cannot be read is left alone.
pub fn find(root: &Path, now: Stamp, keep: Duration) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut dirs = vec![(root.to_path_buf(), 0)];
    while let Some((dir, depth)) = dirs.pop() {
        for entry in fs::read_dir(&dir).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let (Some(name), Ok(meta)) = (name.to_str(), fs::symlink_metadata(&path)) else {
                continue;
            };
            let age = age(now, meta.mtime());
            if age.is_some_and(|a| is_rubbish(name, depth, meta.is_dir(), a, keep)) {
                found.push(path);
            } else if meta.is_dir() && depth < DEPTH_MAX && name != "lost+found" {
                dirs.push((path, depth + 1));
            }
        }
    }
    found.sort();
    found
}

/// Removes one of them.
pub fn remove(path: &Path) -> Done {
    let is_dir = fs::symlink_metadata(path).is_ok_and(|m| m.is_dir());
    let done = match is_dir {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    match done {
        Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
            Err(CmdError::Failed(format!("{}: {e}", path.display())))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const KEEP: Duration = Duration::from_secs(168 * 3600);

    #[test]
    fn only_old_backups_copies_and_temporaries_go() {
        for (name, depth, is_dir, hours, goes) in [
            ("backups-1700000000", 0, true, 169, true),
            ("backups-1700000000", 0, true, 167, false),
            ("backups-1700000000", 0, false, 500, false),
            ("backups-1700000000", 1, true, 500, false),
            ("probe-alpha", 0, true, 2, true),
            ("probe-alpha", 0, true, 1, false),
            (".tmp.12.uuid", 0, false, 2, true),
            (".tmp-primary", 1, false, 2, true),
            (".tmp-primary", 1, false, 1, false),
            (".tmp-dir", 1, true, 500, false),
            (".lock", 0, false, 500, false),
            (".deleted-x", 1, false, 500, false),
            ("resource-r", 0, true, 500, false),
        ] {
            assert_eq!(
                is_rubbish(name, depth, is_dir, HOUR * hours, KEEP),
                goes,
                "{name} {depth} {hours}"
            );
        }
    }

    #[test]
    fn future_and_negative_stamps_are_no_age() {
        let now = Stamp::from_nanos(5_000_000_000);
        assert_eq!(age(now, 2), Some(Duration::from_secs(3)));
        assert_eq!(age(now, 6), None);
        assert_eq!(age(now, -1), None);
    }
}
