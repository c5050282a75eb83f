//! set-link, get-link, delete-file: links by their paths, for experts (marsadm-commands.md section 11).
use super::{Command, global};
use crate::ctx::Ctx;
use crate::error::{Done, refuse, show};
use crate::out;
use mars_tree::{Batch, Key, Snapshot, Stamp, Value};
use std::path::Path;

/// The commands of this family.
pub const COMMANDS: &[Command] = &[
    global(
        "set-link",
        "VALUE PATH...",
        2,
        99,
        set_link,
        "Publish a link below a userspace/ directory (experts)",
    ),
    global(
        "get-link",
        "PATH...",
        1,
        99,
        get_link,
        "Print the value of a link (experts)",
    ),
    global(
        "delete-file",
        "PATH...",
        1,
        99,
        delete_file,
        "Delete a link or log below a userspace/ directory everywhere (experts)",
    ),
];

/// Longest value: what the engine of 0.1a takes.
const VALUE_MAX: usize = 1023;

/// The key of an absolute path below the root.
fn key_of(root: &Path, text: &str) -> Done<Key> {
    let below = Path::new(text)
        .strip_prefix(root)
        .ok()
        .and_then(Path::to_str)
        .filter(|p| !p.is_empty());
    let Some(below) = below else {
        return refuse(format!(
            "{} must be an absolute path below {}",
            show(text),
            root.display()
        ));
    };
    // As it was written: `strip_prefix` hides double slashes and dots.
    let plain = below
        .split('/')
        .all(|c| !c.is_empty() && !c.starts_with('.') && c.len() <= 200);
    let odd = text.contains("//") || text.contains("/./") || text.ends_with('/');
    if !plain || odd || below.chars().any(char::is_control) || below.len() > 900 {
        return refuse(format!(
            "{} is no path of a link: no empty, hidden or .. parts, no control characters, at most 900 bytes",
            show(text)
        ));
    }
    if below.split('/').count() > 4 {
        return refuse(format!("{} is too deep for a link", show(text)));
    }
    Ok(Key::parse(below))
}

/// May it be changed?
fn changeable(ctx: &Ctx, text: &str) -> Done<Key> {
    let key = key_of(ctx.tree.root(), text)?;
    let path = key.path();
    let (dir, _) = path.rsplit_once('/').unwrap_or(("", &path));
    if !dir.split('/').any(|d| d == "userspace") && !ctx.opts.force {
        return refuse(format!(
            "{} is not below a userspace/ directory; everything else belongs to MARS (--force skips this check)",
            show(text)
        ));
    }
    let parent = ctx.tree.root().join(dir);
    if !std::fs::symlink_metadata(&parent).is_ok_and(|m| m.is_dir()) {
        return refuse(format!(
            "directory {} does not exist; give a path in an existing one",
            parent.display()
        ));
    }
    let meta = std::fs::symlink_metadata(ctx.tree.path(&key));
    if meta.is_ok_and(|m| m.is_dir()) {
        return refuse(format!(
            "{} is a directory; give the path of a link",
            show(text)
        ));
    }
    Ok(key)
}

/// `set-link VALUE PATH…`
fn set_link(ctx: &Ctx, args: &[String]) -> Done {
    let Some((value, paths)) = args.split_first() else {
        return Ok(());
    };
    let bad = value.is_empty() || value.len() > VALUE_MAX || value.chars().any(char::is_control);
    if bad || value == Value::DELETED {
        return refuse(format!(
            "value {} cannot be stored: 1 to {VALUE_MAX} bytes without control characters (use delete-file to delete)",
            show(value)
        ));
    }
    let mut batch = Batch::new();
    for path in paths {
        let key = changeable(ctx, path)?;
        let regular = std::fs::symlink_metadata(ctx.tree.path(&key)).is_ok_and(|m| m.is_file());
        if matches!(key, Key::Log(..)) || regular {
            return refuse(format!(
                "{} is the place of a file, not of a link",
                show(path)
            ));
        }
        // A value that everybody would ignore as damaged helps nobody.
        let mut alone = Snapshot::default();
        alone.insert(&key, value, Stamp::ZERO);
        if !alone.damaged().is_empty() {
            return refuse(format!(
                "value {} does not have the form of {}; look at the same link of another resource or host",
                show(value),
                key.path()
            ));
        }
        batch.set(key, value);
    }
    ctx.commit(&batch)?;
    Ok(())
}

/// `get-link PATH…`
fn get_link(ctx: &Ctx, args: &[String]) -> Done {
    let keys = args
        .iter()
        .map(|path| Ok((path, key_of(ctx.tree.root(), path)?)))
        .collect::<Done<Vec<_>>>()?;
    for (path, key) in keys {
        let on_disk = ctx.tree.path(&key);
        if std::fs::symlink_metadata(&on_disk).is_ok_and(|m| !m.is_symlink()) {
            return refuse(format!(
                "{} is no link; use marsadm cat for files",
                show(path)
            ));
        }
        match ctx.tree.text(&key)? {
            Some(text) => out::say(text),
            None => return refuse(format!("{} does not exist or has been deleted", show(path))),
        }
    }
    Ok(())
}

/// `delete-file PATH…`
fn delete_file(ctx: &Ctx, args: &[String]) -> Done {
    let mut batch = Batch::new();
    let keys = args
        .iter()
        .map(|path| Ok((path, changeable(ctx, path)?)))
        .collect::<Done<Vec<_>>>()?;
    for (path, key) in keys {
        let is_file = std::fs::symlink_metadata(ctx.tree.path(&key)).is_ok_and(|m| m.is_file());
        if !is_file && ctx.tree.text(&key)?.is_none() {
            return refuse(format!("{} does not exist or has been deleted", show(path)));
        }
        if is_file && !matches!(key, Key::Log(..)) {
            return refuse(format!(
                "{} is a local file that no other host has; use rm",
                show(path)
            ));
        }
        batch.delete(key);
    }
    ctx.commit(&batch)?;
    Ok(())
}
