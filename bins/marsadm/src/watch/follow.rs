//! What happens outside: the tree (inotify), `mars-meta` (signals on the bus), the daemons' figures (live pages). Nothing is polled.
use crate::error::{CmdError, Done};
use mars_bus::{ROOT_PATH, SignalWatch};
use mars_facts::{News, Picture};
use mars_live::{Seen, Watch};
use mars_tree::{HostEnv, Snapshot, Tree, TreeEvent, Watcher};
use nix::sys::eventfd::{EfdFlags, EventFd};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::Duration;

/// Running daemons publish figures thousands of times a second; more often than this nobody looks.
pub const GAP: Duration = Duration::from_millis(100);

/// Everything that wakes.
pub struct Follow<'a> {
    env: &'a HostEnv,
    tree: &'a Tree,
    watcher: Watcher,
    signals: Option<SignalWatch>,
    pages: Arc<EventFd>,
    picture: Picture,
    news: News,
}

impl<'a> Follow<'a> {
    /// Listens from now on; the first look sees everything.
    pub fn start(env: &'a HostEnv, tree: &'a Tree) -> Done<Follow<'a>> {
        let watch = Arc::new(Watch::new());
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        let pages = EventFd::from_flags(flags).map_err(cannot)?;
        let pages = Arc::new(pages);
        listen(&watch, &pages)?;
        Ok(Follow {
            env,
            tree,
            watcher: Watcher::tree(tree)?,
            // Without a bus the others have to do.
            signals: SignalWatch::new(ROOT_PATH).ok(),
            pages,
            picture: Picture::new(watch),
            news: News::all(),
        })
    }

    /// Readable when something happened.
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = vec![self.watcher.fd(), self.pages.as_fd()];
        fds.extend(self.signals.as_ref().map(AsFd::as_fd));
        fds
    }

    /// Takes over what happened, without waiting; true when there was something.
    pub fn take(&mut self) -> Done<bool> {
        let mut is_new = self.pages.read().is_ok();
        is_new |= self.signals.as_ref().is_some_and(SignalWatch::clear);
        match self.watcher.wait(Some(Duration::ZERO))? {
            TreeEvent::Timeout => {}
            TreeEvent::Rescan => {
                self.news = News::all();
                is_new = true;
            }
            TreeEvent::Changed(paths) => {
                self.news.add(paths);
                is_new = true;
            }
        }
        Ok(is_new)
    }

    /// The tree as it is now, with what running daemons say.
    pub fn look(&mut self) -> Snapshot {
        let news = std::mem::take(&mut self.news);
        if self.picture.update(self.tree, news).is_err() {
            // Tried again the next time; until then what is known counts.
            self.news = News::all();
        }
        self.picture.look(self.env, self.tree.clock().now())
    }
}

fn cannot(e: impl std::fmt::Display) -> CmdError {
    CmdError::Failed(format!("cannot follow what happens: {e}"))
}

/// A thread that sleeps on all live pages at once. It ends with the process.
fn listen(watch: &Arc<Watch>, bell: &Arc<EventFd>) -> Done {
    let (watch, bell) = (Arc::downgrade(watch), Arc::clone(bell));
    let body = move || {
        let mut seen = Seen::default();
        while let Some(w) = watch.upgrade() {
            if w.wait(&mut seen).is_err() {
                // Kernels before 5.16: figures are seen when the links follow, every two seconds or so.
                return;
            }
            drop(w);
            let _ = bell.write(1);
            std::thread::sleep(GAP);
        }
    };
    std::thread::Builder::new()
        .name("live-pages".into())
        .spawn(body)
        .map_err(cannot)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use mars_daemon::InstanceLock;
    use mars_live::{LivePage, SyncLive};
    use mars_tree::{Batch, Key};
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    fn env(dir: &std::path::Path) -> HostEnv {
        let path = |n: &str| {
            let path = dir.join(n);
            std::fs::create_dir_all(&path).unwrap();
            Some(path.display().to_string())
        };
        HostEnv::from_vars(|k| match k {
            "MARS_ROOT" => path("mars"),
            "MARS_DEV_DIR" => path("dev"),
            "MARS_RUN_DIR" => path("run"),
            "MARS_ETC_DIR" => path("etc"),
            "MARS_HOST" => Some("alpha".into()),
            _ => None,
        })
        .unwrap()
    }

    /// Waits for an event, then looks, until the text is there.
    fn until(follow: &mut Follow<'_>, path: &str, value: &str) {
        loop {
            let fds = follow.fds();
            let mut polled: Vec<PollFd<'_>> = fds
                .iter()
                .map(|fd| PollFd::new(*fd, PollFlags::POLLIN))
                .collect();
            let n = poll(&mut polled, PollTimeout::from(30_000u16)).unwrap();
            assert_ne!(n, 0, "nobody says that {path} is {value}");
            drop(polled);
            drop(fds);
            follow.take().unwrap();
            if follow.look().text(&Key::parse(path)) == Some(value) {
                return;
            }
        }
    }

    #[test]
    fn links_and_live_pages_wake() {
        let dir = tempfile::tempdir().unwrap();
        let env = env(dir.path());
        let tree = Tree::open(&env).unwrap();
        let mut follow = Follow::start(&env, &tree).unwrap();
        let set = |path: &str, value: &str| {
            let mut batch = Batch::new();
            batch.set(Key::parse(path), value);
            tree.commit(&batch).unwrap();
        };
        follow.look();
        let res = "data".parse().unwrap();
        let _sync = InstanceLock::acquire(&env, "sync", Some(&res)).unwrap();
        let page = LivePage::open(&env.run_dir, "data").unwrap();
        let status = "resource-data/syncstatus-alpha";
        set("resource-data/size", "1048576");
        set(status, "0");
        set("resource-data/actual-alpha/is-syncing", "1");
        until(&mut follow, "resource-data/actual-alpha/is-syncing", "1");
        // From here on, no link changes.
        for pos in [65536, 131_072, 262_144] {
            page.publish(&SyncLive {
                pos,
                amount_rate: 7,
                ..SyncLive::default()
            });
            until(&mut follow, status, &pos.to_string());
        }
        set("resource-data/actual-alpha/is-syncing", "0");
        until(&mut follow, status, "0");
    }
}
