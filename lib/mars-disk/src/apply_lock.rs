//! Keeps replay and sync of one resource from writing at the same moment.
//!
//! Both run side by side on a secondary. A block that the sync read at the source before a record was written back there must not
//! be written here after replay applied that record: it would be old for ever. So replay holds this lock from publishing a window
//! until the window is flushed, and the sync holds it while it checks that replay has not passed the position up to which its
//! data is known to be new enough, and writes.
use mars_tree::{HostEnv, ResName};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};

/// A lock on `RUN_DIR/NAME/copy.lock`. The kernel releases it when the process dies.
#[derive(Debug)]
pub struct CopyLock {
    file: File,
}

/// The lock is held as long as this lives.
#[derive(Debug)]
pub struct CopyGuard(File);

impl CopyLock {
    /// Opens (creates) the lock file.
    pub fn open(env: &HostEnv, res: &ResName) -> io::Result<CopyLock> {
        let dir = env.resource_run_dir(res);
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(dir.join("copy.lock"))?;
        Ok(CopyLock { file })
    }

    /// Waits for the other side to finish its step.
    pub fn hold(&self) -> io::Result<CopyGuard> {
        self.file.lock()?;
        // The clone shares the lock; one holder at a time per process is the rule here.
        self.file.try_clone().map(CopyGuard)
    }
}

impl Drop for CopyGuard {
    fn drop(&mut self) {
        // Cannot fail on a lock that is held; and the end of the process releases it anyway.
        self.0.unlock().ok();
    }
}
