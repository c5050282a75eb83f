//! Descriptors that outlive the process: systemd's fd store (`FileDescriptorStoreMax=`, sd_pid_notify_with_fds(3)).
//!
//! systemd drops what it keeps when the unit is really stopped, not when it is restarted, by a command or after a crash.
use anyhow::{Context, ensure};
use libsystemd::daemon::{NotifyState, notify_with_fds};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

/// A manager that does not answer for so long has other troubles.
const BARRIER: u16 = 10_000;
/// More than any unit of ours may keep.
const PASSED_MAX: usize = 64;

/// The store of this unit.
#[derive(Clone, Debug)]
pub struct FdStore(());

impl FdStore {
    /// `None` when there is no service manager to talk to.
    pub fn from_env() -> Option<FdStore> {
        std::env::var_os("NOTIFY_SOCKET").map(|_| FdStore(()))
    }

    /// What an earlier process of this unit has left, by name. They stay in the store, too. Later calls find nothing.
    pub fn take(&self) -> Vec<(String, OwnedFd)> {
        let var = |k| std::env::var(k).ok();
        let names = passed(
            var("LISTEN_PID").as_deref(),
            var("LISTEN_FDS").as_deref(),
            var("LISTEN_FDNAMES").as_deref(),
            std::process::id(),
        );
        fd::take(names)
    }

    /// Puts descriptors into the store. Returns when they are there.
    pub fn keep(&self, name: &str, fds: &[BorrowedFd<'_>]) -> anyhow::Result<()> {
        let raw: Vec<i32> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let state = [NotifyState::Fdstore, NotifyState::Fdname(name.to_string())];
        notify_with_fds(false, &state, &raw).context("descriptor store")?;
        barrier()
    }

    /// Takes them out again. Returns when they are closed there.
    pub fn forget(&self, name: &str) -> anyhow::Result<()> {
        let state = [
            NotifyState::FdstoreRemove,
            NotifyState::Fdname(name.to_string()),
        ];
        notify_with_fds(false, &state, &[]).context("descriptor store")?;
        barrier()
    }
}

/// Waits until the manager has handled everything that was sent before: it closes the descriptor that comes with this message.
fn barrier() -> anyhow::Result<()> {
    let (mine, its) = std::io::pipe()?;
    let message = [NotifyState::Other("BARRIER=1".to_string())];
    notify_with_fds(false, &message, &[its.as_raw_fd()]).context("descriptor store")?;
    drop(its);
    let mut fds = [PollFd::new(mine.as_fd(), PollFlags::empty())];
    let ready = loop {
        match poll(&mut fds, PollTimeout::from(BARRIER)) {
            Err(nix::errno::Errno::EINTR) => {}
            other => break other?,
        }
    };
    ensure!(
        ready > 0,
        "descriptor store: the service manager does not answer"
    );
    Ok(())
}

/// Names of the descriptors that were passed to this very process.
fn passed(pid: Option<&str>, fds: Option<&str>, names: Option<&str>, me: u32) -> Vec<String> {
    let count = fds.and_then(|n| n.parse().ok()).unwrap_or(0usize);
    if pid.and_then(|p| p.parse().ok()) != Some(me) || count > PASSED_MAX {
        return Vec::new();
    }
    let mut names: Vec<String> = names
        .map(|n| n.split(':').map(str::to_string).collect())
        .unwrap_or_default();
    names.resize(count, String::new());
    names
}

#[allow(unsafe_code)]
mod fd {
    use nix::fcntl::{FcntlArg, FdFlag, fcntl};
    use std::os::fd::{BorrowedFd, FromRawFd, OwnedFd};
    use std::sync::atomic::{AtomicBool, Ordering};

    /// Takes over the descriptors from 3 on, once.
    pub(super) fn take(names: Vec<String>) -> Vec<(String, OwnedFd)> {
        static TAKEN: AtomicBool = AtomicBool::new(false);
        if TAKEN.swap(true, Ordering::SeqCst) {
            return Vec::new();
        }
        let fds = names.into_iter().zip(3..).filter_map(|(name, raw)| {
            // SAFETY: only used to ask the kernel whether the number is open; nothing is closed.
            let probe = unsafe { BorrowedFd::borrow_raw(raw) };
            fcntl(probe, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).ok()?;
            // SAFETY: the number is open (just checked), was passed to this process, and is taken only once.
            Some((name, unsafe { OwnedFd::from_raw_fd(raw) }))
        });
        fds.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_passed_to_this_process_is_taken() {
        let two = Some("2");
        assert_eq!(passed(Some("7"), two, Some("a:b"), 7), ["a", "b"]);
        assert_eq!(passed(Some("7"), two, None, 7), ["", ""]);
        assert_eq!(passed(Some("7"), Some("1"), Some("a:b"), 7), ["a"]);
        for (pid, fds) in [
            (Some("8"), two),
            (None, two),
            (Some("7"), None),
            (Some("7"), Some("-1")),
            (Some("7"), Some("65")),
        ] {
            assert!(passed(pid, fds, Some("a:b"), 7).is_empty());
        }
    }
}
