//! systemd's watchdog (`WatchdogSec=`): it is fed while the main loop goes on, waits for work, or is held up by the kernel.
//!
//! What it is for are loops that stand still or turn in themselves without an end. A disk that does not answer is neither: a process in the kernel
//! cannot even be killed, and the one after it would wait for the same disk.
use crate::daemon::send;
use libsystemd::daemon::{NotifyState, watchdog_enabled};
use std::path::Path;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// One daemon, one main loop.
static BEATS: AtomicU64 = AtomicU64::new(0);
static WAITING: AtomicUsize = AtomicUsize::new(0);

/// The main loop has come round, or has done a piece of a longer work.
pub fn progress() {
    BEATS.fetch_add(1, Ordering::Relaxed);
}

/// The main loop waits for others as long as this lives: for work, for the network, for a lock that another process holds.
#[derive(Debug)]
#[must_use]
pub struct Waiting(());

/// Begins to wait.
pub fn waiting() -> Waiting {
    WAITING.fetch_add(1, Ordering::Relaxed);
    Waiting(())
}

impl Drop for Waiting {
    fn drop(&mut self) {
        progress();
        WAITING.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Feeds it from a thread of its own, if there is one.
pub(crate) fn start() -> std::io::Result<()> {
    let Some(limit) = watchdog_enabled(false) else {
        return Ok(());
    };
    let every = (limit / 4).max(Duration::from_millis(10));
    let body = move || {
        let mut seen = BEATS.load(Ordering::Relaxed);
        loop {
            std::thread::sleep(every);
            let beats = BEATS.load(Ordering::Relaxed);
            let waiting = WAITING.load(Ordering::Relaxed) > 0;
            if waiting || beats != seen || in_kernel(Path::new("/proc/self/task")) {
                send(&[NotifyState::Watchdog]);
            }
            seen = beats;
        }
    };
    std::thread::Builder::new()
        .name("watchdog".into())
        .stack_size(64 << 10)
        .spawn(body)
        .map(drop)
}

/// Does any thread wait in the kernel for a disk?
fn in_kernel(tasks: &Path) -> bool {
    let threads = std::fs::read_dir(tasks).into_iter().flatten().flatten();
    threads
        .filter_map(|t| std::fs::read_to_string(t.path().join("stat")).ok())
        .any(|stat| is_uninterruptible(&stat))
}

/// The state follows the name, which may contain anything.
fn is_uninterruptible(stat: &str) -> bool {
    let rest = stat.rsplit_once(')').map(|(_, rest)| rest);
    rest.is_some_and(|r| r.trim_start().starts_with('D'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn state_is_found_behind_any_name() {
        assert!(is_uninterruptible("12 (log) D 1 12 12 0"));
        assert!(is_uninterruptible("12 (a) S (b) D 1 12 12 0"));
        assert!(!is_uninterruptible("12 (x) D) S 1 12 12 0"));
        assert!(!is_uninterruptible("12 (Daemon) S 1 12"));
        assert!(!is_uninterruptible(""));
        assert!(!in_kernel(Path::new("/nonexistent")));
    }
}
