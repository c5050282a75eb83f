//! Wakes the connections of the server: live pages (bytes became durable) and the tree (a log ended, vanished).
//!
//! A futex and an inotify descriptor cannot be waited for together, so each live section that somebody waits for has one small
//! thread; it ends with the last connection that needs it.
use mars_daemon::spawn;
use mars_live::{FetchLive, LivePage, LiveRecord, LogLive};
use mars_tree::{HostEnv, ResName, Tree, TreeEvent, Watcher};
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// How long a waker thread lives on without connections, at most.
const LINGER: Duration = Duration::from_secs(5);

/// Which section of the live page says what is durable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Section {
    /// A log that the local logger writes.
    Logger,
    /// A log that the local fetch brings.
    Fetch,
}

/// Counts of what happened; a waiter compares with what it saw before it looked at the facts.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Seen {
    live: u64,
    /// Changes of the resource's part of the tree.
    pub tree: u64,
}

/// Events of one resource.
#[derive(Debug)]
pub struct Feed {
    res: ResName,
    /// The mapped page.
    pub page: LivePage,
    seen: Mutex<Seen>,
    changed: Condvar,
}

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Feed {
    /// To be read before looking at page and tree.
    pub fn seen(&self) -> Seen {
        *lock(&self.seen)
    }
    /// Sleeps until something differs from `seen` or the time has come.
    pub fn wait(&self, seen: Seen, until: Instant) {
        let mut now = lock(&self.seen);
        while *now == seen {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            now = self
                .changed
                .wait_timeout(now, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
    fn bump(&self, f: impl FnOnce(&mut Seen)) {
        f(&mut lock(&self.seen));
        self.changed.notify_all();
    }
}

type Key = (ResName, Section);

/// All feeds that somebody uses.
#[derive(Debug)]
pub struct Feeds {
    env: HostEnv,
    map: Mutex<HashMap<Key, Weak<Feed>>>,
}

impl Feeds {
    /// Starts the thread that watches the tree.
    pub fn start(env: &HostEnv, tree: &Tree) -> anyhow::Result<Arc<Feeds>> {
        let feeds = Arc::new(Feeds {
            env: env.clone(),
            map: Mutex::new(HashMap::new()),
        });
        let mut watcher = Watcher::tree(tree)?;
        let all = Arc::clone(&feeds);
        spawn("tree", move || {
            loop {
                match watcher.wait(None) {
                    Ok(TreeEvent::Timeout) => {}
                    Ok(TreeEvent::Rescan) => all.tree_changed(|_| true),
                    Ok(TreeEvent::Changed(paths)) => all.tree_changed(|res| {
                        let dir = format!("resource-{res}/");
                        paths.iter().any(|p| {
                            p.strip_prefix(&dir)
                                .is_some_and(|n| n.starts_with("version-") || n.starts_with("log-"))
                                || p.starts_with("defaults")
                        })
                    }),
                    Err(e) => {
                        tracing::error!("watching the tree: {e}");
                        // Without the watch ends of logs would be seen late: rather start anew.
                        std::process::exit(1);
                    }
                }
            }
        })?;
        Ok(feeds)
    }

    fn tree_changed(&self, concerns: impl Fn(&ResName) -> bool) {
        let feeds: Vec<Arc<Feed>> = lock(&self.map).values().filter_map(Weak::upgrade).collect();
        for f in feeds.iter().filter(|f| concerns(&f.res)) {
            f.bump(|s| s.tree += 1);
        }
    }

    /// The feed of a resource and section, started when it is the first use.
    pub fn get(self: &Arc<Self>, res: &ResName, section: Section) -> io::Result<Arc<Feed>> {
        let mut map = lock(&self.map);
        map.retain(|_, f| f.strong_count() > 0);
        let key = (res.clone(), section);
        if let Some(f) = map.get(&key).and_then(Weak::upgrade) {
            return Ok(f);
        }
        let feed = Arc::new(Feed {
            res: res.clone(),
            page: LivePage::open(&self.env.run_dir, res.as_str())?,
            seen: Mutex::default(),
            changed: Condvar::new(),
        });
        let (all, follower) = (Arc::clone(self), Arc::clone(&feed));
        spawn("feed", move || match section {
            Section::Logger => all.follow::<LogLive>(&follower),
            Section::Fetch => all.follow::<FetchLive>(&follower),
        })?;
        map.insert(key, Arc::downgrade(&feed));
        Ok(feed)
    }

    /// Turns futex wakes into events until nobody but this thread uses the feed.
    fn follow<R: LiveRecord>(&self, feed: &Arc<Feed>) {
        let mut seen = feed.page.read::<R>().1;
        // Something may have happened between the caller's look and ours.
        feed.bump(|s| s.live += 1);
        loop {
            if feed.page.wait::<R>(seen, Some(LINGER)) {
                seen = feed.page.read::<R>().1;
                feed.bump(|s| s.live += 1);
                continue;
            }
            // Under the lock nobody can take up the feed again behind our back.
            let mut map = lock(&self.map);
            if Arc::strong_count(feed) == 1 {
                map.retain(|_, f| !std::ptr::eq(f.as_ptr(), Arc::as_ptr(feed)));
                return;
            }
        }
    }
}
