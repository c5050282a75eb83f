//! One instance per host and resource.
use anyhow::{Context, bail};
use mars_tree::{HostEnv, ResName};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Held as long as the daemon lives: a lock on `RUN_DIR/[RES/]NAME.lock`. The kernel releases it with the process, so a
/// killed daemon never leaves it behind. (An open-file-description lock, because that can be looked at without being taken.)
#[derive(Debug)]
pub struct InstanceLock {
    _file: File,
}

fn lock_path(env: &HostEnv, name: &str, res: Option<&ResName>) -> PathBuf {
    let dir = res.map_or_else(|| env.run_dir.clone(), |r| env.resource_run_dir(r));
    dir.join(format!("{name}.lock"))
}

fn open(path: &Path) -> std::io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

impl InstanceLock {
    /// Fails with one clear line when another instance runs.
    pub fn acquire(
        env: &HostEnv,
        name: &str,
        res: Option<&ResName>,
    ) -> anyhow::Result<InstanceLock> {
        let path = lock_path(env, name, res);
        if let Some(dir) = path.parent() {
            std::fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(dir)
                .with_context(|| format!("cannot create {}", dir.display()))?;
        }
        let mut file = open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file())) {
            Ok(_) => {
                // Only for humans; the lock is what counts.
                file.set_len(0)
                    .and_then(|()| writeln!(file, "{}", std::process::id()))
                    .ok();
                Ok(InstanceLock { _file: file })
            }
            Err(Errno::EAGAIN | Errno::EACCES) => {
                let what = res.map_or_else(
                    || format!("mars-{name}"),
                    |r| format!("mars-{name} for resource {r}"),
                );
                bail!(
                    "{what} runs already on this host ({} is locked)",
                    path.display()
                )
            }
            Err(e) => bail!("cannot lock {}: {e}", path.display()),
        }
    }
}

/// Does an instance hold its lock now?
pub fn is_running(env: &HostEnv, name: &str, res: Option<&ResName>) -> bool {
    let Ok(file) = File::open(lock_path(env, name, res)) else {
        return false;
    };
    // Looks without taking: an asker never keeps a daemon from starting.
    let mut lock = whole_file();
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)).is_ok()
        && lock.l_type != libc::F_UNLCK as libc::c_short
}

fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    #[test]
    fn instance_lock_is_not_refused_because_somebody_asks() {
        let dir = std::env::temp_dir().join(format!("mars-lock-{}", std::process::id()));
        let run = dir.display().to_string();
        let env = HostEnv::from_vars(|k| match k {
            "MARS_RUN_DIR" => Some(run.clone()),
            "MARS_HOST" => Some("alpha".into()),
            _ => None,
        })
        .unwrap();
        let stop = AtomicBool::new(false);
        let result = std::thread::scope(|s| {
            s.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    is_running(&env, "meta", None);
                }
            });
            let result = (0..5000).try_for_each(|_| {
                let lock = InstanceLock::acquire(&env, "meta", None)?;
                assert!(is_running(&env, "meta", None));
                assert!(InstanceLock::acquire(&env, "meta", None).is_err());
                drop(lock);
                anyhow::Ok(())
            });
            stop.store(true, Ordering::Relaxed);
            result
        });
        std::fs::remove_dir_all(&dir).unwrap();
        result.unwrap();
    }
}
