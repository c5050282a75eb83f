//! Leaving the primary role: never while somebody uses the device, whoever can see it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::*;
use mars_daemon::Stop;
use mars_front::Front;
use mars_logger::control::{Control, Ended};
use mars_logger::stopping::Why;
use mars_logger::wake::Waker;
use mars_tree::{TreeEvent, Watcher};
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

/// What the test and the front end share.
#[derive(Default)]
struct Users {
    /// Seen by `openers`.
    seen: AtomicU64,
    /// Refusals of `stop` although nobody is seen.
    refusals: AtomicU64,
    /// Calls of `stop(false)` with the users seen at that moment.
    stops: Mutex<Vec<u64>>,
}

/// A front end whose users only it can see.
struct Blind {
    users: Arc<Users>,
    changes: Arc<Waker>,
}

impl Front for Blind {
    fn stop(&mut self, force: bool) -> io::Result<()> {
        assert!(!force, "never cut when the role is left");
        let seen = self.users.seen.load(Ordering::SeqCst);
        self.users.stops.lock().unwrap().push(seen);
        let refuse = |n: u64| n.checked_sub(1);
        let hidden = &self.users.refusals;
        let is_hidden = hidden
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, refuse)
            .is_ok();
        if seen > 0 || is_hidden {
            return Err(io::Error::from_raw_os_error(16));
        }
        Ok(())
    }
    fn resized(&mut self) -> io::Result<()> {
        Ok(())
    }
    fn target(&self) -> &Path {
        Path::new("/dev/blind")
    }
    fn openers(&self) -> u64 {
        self.changes.drain();
        self.users.seen.load(Ordering::SeqCst)
    }
    fn changes(&self) -> Option<BorrowedFd<'_>> {
        Some(self.changes.as_fd())
    }
}

/// Runs the control loop until it ends; `script` plays the users and the administrator.
fn leave(host: &Host, users: &Arc<Users>, script: impl FnOnce(&Waker) + Send) -> Ended {
    let running = host.start(Options::default());
    let changes = Arc::new(Waker::new().unwrap());
    let mut front = Blind {
        users: Arc::clone(users),
        changes: Arc::clone(&changes),
    };
    let (stop, waker) = (Stop::new(), Waker::new().unwrap());
    let mut watcher = Watcher::resource(&host.tree, &host.res).unwrap();
    let ended = std::thread::scope(|s| {
        s.spawn(|| script(&changes));
        Control {
            daemon: None,
            stop: &stop,
            why: &|| Why::Stop,
            unmount: &|_| (),
            tree: &host.tree,
            res: &host.res,
            me: &host.me,
            engine: &running.engine,
            links: &running.links,
            front: Some(&mut front),
            waker: &waker,
            disk_size: &|| Ok(host.size),
            features_changed: &|| {},
        }
        .run(&mut watcher)
        .unwrap()
    });
    assert!(running.stop());
    ended
}

fn wait_count(host: &Host, watcher: &mut Watcher, count: &str) {
    while host.get("actual-alpha/open-count").as_deref() != Some(count) {
        assert_ne!(watcher.wait(None).unwrap(), TreeEvent::Timeout);
    }
}

#[test]
fn users_seen_by_the_front_end_are_published_and_keep_the_role() {
    let host = Host::new(1 << 20);
    let users = Arc::new(Users::default());
    users.seen.store(2, Ordering::SeqCst);
    let mut watcher = Watcher::resource(&host.tree, &host.res).unwrap();
    let ended = leave(&host, &users, |changes| {
        wait_count(&host, &mut watcher, "2");
        host.set("primary", "beta");
        users.seen.store(1, Ordering::SeqCst);
        changes.wake();
        wait_count(&host, &mut watcher, "1");
        users.seen.store(0, Ordering::SeqCst);
        changes.wake();
    });
    assert_eq!(ended, Ended::NotDesignated);
    assert_eq!(
        *users.stops.lock().unwrap(),
        [0],
        "asked when nobody was left"
    );
    assert_eq!(host.get("actual-alpha/open-count").unwrap(), "0");
}

#[test]
fn hidden_users_keep_the_role_and_are_published() {
    let host = Host::new(1 << 20);
    let users = Arc::new(Users::default());
    users.refusals.store(3, Ordering::SeqCst);
    let mut watcher = Watcher::resource(&host.tree, &host.res).unwrap();
    let ended = leave(&host, &users, |_| {
        wait_count(&host, &mut watcher, "0");
        host.set("primary", "(none)");
        wait_count(&host, &mut watcher, "1");
    });
    assert_eq!(ended, Ended::NotDesignated);
    assert_eq!(users.stops.lock().unwrap().len(), 4);
}
