//! What replay waits for: changes of the tree, more durable bytes of the log, and the wish to stop.
use mars_live::{FetchLive, LivePage};
use mars_tree::{HostEnv, ResName, TreeEvent, Watcher};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Default)]
struct State {
    changes: u64,
    stop: bool,
    /// The live thread shall report when the sequence number differs from this one.
    armed: Option<u32>,
}

/// Shared by the replay loop and its two event threads.
#[derive(Default)]
pub struct Wake {
    state: Mutex<State>,
    changed: Condvar,
}

/// What was known before tree and live page were looked at.
#[derive(Clone, Copy, Debug)]
pub struct Seen {
    changes: u64,
    live: u32,
}

impl Wake {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    fn bump(&self) {
        self.lock().changes += 1;
        self.changed.notify_all();
    }
    /// Asks the loop to stop.
    pub fn stop(&self) {
        self.lock().stop = true;
        self.changed.notify_all();
    }
    /// Stop was asked for.
    pub fn stopped(&self) -> bool {
        self.lock().stop
    }
    /// To be called before looking at anything.
    pub fn seen(&self, page: &LivePage) -> Seen {
        Seen {
            changes: self.lock().changes,
            live: page.read::<FetchLive>().1,
        }
    }
    /// Sleeps until something happened since `seen`, stop, or the time is over.
    pub fn wait(&self, seen: Seen, timeout: Option<Duration>) {
        let mut s = self.lock();
        s.armed = Some(seen.live);
        self.changed.notify_all();
        self.sleep(s, timeout, |s| s.changes != seen.changes);
    }
    /// Sleeps for the time, or until stop.
    pub fn pause(&self, time: Duration) {
        self.sleep(self.lock(), Some(time), |_| false);
    }
    fn sleep(
        &self,
        mut s: MutexGuard<'_, State>,
        timeout: Option<Duration>,
        ready: impl Fn(&State) -> bool,
    ) {
        let until = timeout.map(|t| Instant::now() + t);
        let _waiting = mars_daemon::watchdog::waiting();
        while !s.stop && !ready(&s) {
            s = match until {
                None => self.changed.wait(s).unwrap_or_else(PoisonError::into_inner),
                Some(u) => {
                    let left = u.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return;
                    }
                    self.changed
                        .wait_timeout(s, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }

    /// The live thread. It sleeps on the page only while the loop waits: a fetch that publishes thousands of times a second must not
    /// wake anybody while a window is being written.
    pub fn follow_page(&self, page: &LivePage) {
        loop {
            let seen = {
                let mut s = self.lock();
                loop {
                    if let Some(seen) = s.armed.take() {
                        break seen;
                    }
                    s = self.changed.wait(s).unwrap_or_else(PoisonError::into_inner);
                }
            };
            page.wait::<FetchLive>(seen, None);
            self.bump();
        }
    }

    /// The tree thread.
    pub fn follow_tree(
        &self,
        env: &HostEnv,
        res: &ResName,
        mut watcher: Watcher,
    ) -> anyhow::Result<()> {
        loop {
            let relevant = match watcher.wait(None)? {
                TreeEvent::Timeout => false,
                TreeEvent::Rescan => true,
                TreeEvent::Changed(paths) => {
                    paths.iter().any(|p| is_relevant(p, res, env.host.as_str()))
                }
            };
            if relevant {
                self.bump();
            }
        }
    }
}

/// Can a change of this path change what replay may do? Own progress cannot.
fn is_relevant(path: &str, res: &ResName, me: &str) -> bool {
    let Some(name) = path.strip_prefix(&format!("resource-{res}/")) else {
        // Heartbeats decide whether an empty log may be entered.
        return path.starts_with("actual-") && path.ends_with("/time");
    };
    let own = |n: &str| n.strip_suffix(me).is_some_and(|n| n.ends_with('-'));
    match name.split_once('/') {
        None => {
            name.starts_with("log-")
                || matches!(name, "primary" | "size")
                || ((name.starts_with("version-") || name.starts_with("replay-")) && !own(name))
                || ((name.starts_with("data-") || name.starts_with("syncstatus-")) && own(name))
        }
        Some((dir, leaf)) => {
            dir == format!("todo-{me}") || (dir == format!("actual-{me}") && leaf == "is-primary")
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn own_progress_does_not_wake() {
        let res: ResName = "lv0".parse().unwrap();
        for (path, yes) in [
            ("resource-lv0/primary", true),
            ("resource-lv0/replay-a", true),
            ("resource-lv0/replay-b", false),
            ("resource-lv0/version-000000002-a", true),
            ("resource-lv0/version-000000002-b", false),
            ("resource-lv0/log-000000002-b", true),
            ("resource-lv0/syncstatus-b", true),
            ("resource-lv0/syncstatus-a", false),
            ("resource-lv0/todo-b/allow-replay", true),
            ("resource-lv0/actual-b/replay-code", false),
            ("resource-lv1/primary", false),
            ("actual-a/time", true),
            ("actual-a/alive", false),
        ] {
            assert_eq!(is_relevant(path, &res, "b"), yes, "{path}");
        }
    }
}
