//! The stable name of the device: `DEV_DIR/DEVICE`, a symlink that is replaced atomically.

use std::fs;
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// A published device link; removed when dropped, unless somebody else has replaced it meanwhile.
pub(crate) struct DeviceLink {
    path: PathBuf,
    target: PathBuf,
}

impl DeviceLink {
    /// Makes `dir/device` point to `target`. A symlink that is already there is from a daemon that is gone (the instance lock
    /// of the resource excludes a living one) and is replaced; anything else is not ours and is left alone.
    pub(crate) fn publish(dir: &Path, device: &str, target: &Path) -> io::Result<DeviceLink> {
        check_name(device)?;
        fs::create_dir_all(dir)?;
        let path = dir.join(device);
        match fs::symlink_metadata(&path) {
            Ok(m) if !m.file_type().is_symlink() => {
                let why = format!("{} exists and is not a symlink", path.display());
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, why));
            }
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            Err(e) => return Err(e),
        }
        let tmp = dir.join(format!(".{device}.{}", std::process::id()));
        match fs::remove_file(&tmp) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        symlink(target, &tmp)?;
        if let Err(e) = fs::rename(&tmp, &path) {
            let _ = fs::remove_file(&tmp);
            return Err(e);
        }
        Ok(DeviceLink {
            path,
            target: target.to_owned(),
        })
    }
}

impl DeviceLink {
    /// Leaves it behind.
    pub(crate) fn leave(self) {
        // Only memory is lost, and the process ends.
        std::mem::forget(self);
    }
}

impl Drop for DeviceLink {
    fn drop(&mut self) {
        if fs::read_link(&self.path).is_ok_and(|t| t == self.target) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn check_name(device: &str) -> io::Result<()> {
    let bad = device.is_empty()
        || device == "."
        || device == ".."
        || device.len() > 200
        || device.contains(['/', '\0']);
    if bad {
        let why = format!("invalid device name {device:?}");
        return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
    }
    Ok(())
}
