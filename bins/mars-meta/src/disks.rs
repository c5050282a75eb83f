//! Sizes of the own disks: whoever enlarges a resource must know how large everybody's disk is by now, and not only by the time a
//! daemon opened it.
use crate::spread::Spread;
use crate::story::own;
use mars_tree::{Batch, HostName, Key, TodoSwitch};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

/// Bytes of a disk, without opening it.
fn size_of(path: &Path) -> Option<u64> {
    let meta = std::fs::metadata(path).ok()?;
    if meta.is_file() {
        return Some(meta.len());
    }
    if !meta.file_type().is_block_device() {
        return None;
    }
    let (major, minor) = (
        nix::sys::stat::major(meta.rdev()),
        nix::sys::stat::minor(meta.rdev()),
    );
    let text = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/size")).ok()?;
    // Always in sectors of 512 bytes.
    text.trim().parse::<u64>().ok()?.checked_mul(512)
}

/// Adds `actsize-HOST` of the attached resources of this host where it is not what the tree says.
pub fn sizes(batch: &mut Batch, spread: &Spread, me: &HostName) {
    for res in own(spread, me) {
        let text = |key: Key| spread.text(&key.path());
        let attached = text(Key::Todo(res.clone(), me.clone(), TodoSwitch::Attach));
        let disk = text(Key::Data(res.clone(), me.clone()));
        let (Some("1"), Some(disk)) = (attached, disk) else {
            continue;
        };
        let key = Key::ActSize(res.clone(), me.clone());
        if let Some(bytes) = size_of(Path::new(disk)).map(|b| b.to_string())
            && text(key.clone()) != Some(bytes.as_str())
        {
            batch.set(key, bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use mars_tree::Stamp;

    #[test]
    fn sizes_of_attached_disks_are_published_when_they_change() {
        let dir = tempfile::tempdir().unwrap();
        let disk = dir.path().join("disk");
        std::fs::File::create(&disk).unwrap().set_len(8192).unwrap();
        let me: HostName = "a".parse().unwrap();
        let mut spread = Spread::new();
        let mut set = |path: &str, value: &str| {
            spread.local(path, Some((value.as_bytes(), Stamp::from_nanos(1 << 60))));
        };
        for res in ["on", "off", "gone", "null"] {
            let attach = if res == "off" { "0" } else { "1" };
            set(&format!("resource-{res}/todo-a/attach"), attach);
            set(&format!("resource-{res}/data-a"), disk.to_str().unwrap());
        }
        set("resource-gone/data-a", "/nowhere/at/all");
        set("resource-null/data-a", "/dev/null");
        set("resource-foreign/data-b", disk.to_str().unwrap());
        let lines = |spread: &Spread| {
            let mut b = Batch::new();
            sizes(&mut b, spread, &me);
            b.describe()
        };
        assert_eq!(lines(&spread), ["set resource-on/actsize-a -> 8192"]);
        spread.local(
            "resource-on/actsize-a",
            Some((b"8192", Stamp::from_nanos(1 << 60))),
        );
        assert!(lines(&spread).is_empty());
    }
}
