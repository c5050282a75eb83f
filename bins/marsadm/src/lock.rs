//! Lock files in the run directory.
use crate::error::{CmdError, Done};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// Locks a file, which is made when it is not there, waiting for others. Released when dropped, or with the process.
pub fn lock(path: &Path) -> Done<Flock<File>> {
    let failed = |e: std::io::Error| CmdError::Failed(format!("{}: {e}", path.display()));
    if let Some(dir) = path.parent() {
        std::fs::create_dir_all(dir).map_err(failed)?;
    }
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| failed(e.into()))
}
