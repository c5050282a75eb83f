//! The cluster on the system bus. In a thread of its own, with its own picture of the tree: the engine only says what changed.
mod facts;

use mars_bus::{Bell, Bus, Failure, Setup, Source, State};
use mars_facts::{News, Picture};
use mars_live::{Seen, Watch};
use mars_tree::{HostEnv, Tree};
use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Changes are told at most this often.
const GAP: Duration = Duration::from_millis(200);
/// The engine's end.
pub struct Telling {
    news: Arc<Mutex<News>>,
    bell: Bell,
    watch: Arc<Watch>,
    _bus: Option<Bus>,
}

impl Drop for Telling {
    fn drop(&mut self) {
        self.watch.poke();
    }
}

impl Telling {
    /// Puts the cluster on the bus. Without a thread for it `mars-meta` works as well.
    pub fn start(env: &HostEnv, tree: &Tree) -> Telling {
        let news = Arc::new(Mutex::new(News::all()));
        let bell = Bell::new();
        let watch = Arc::new(Watch::new());
        let source = Meta {
            env: env.clone(),
            tree: tree.clone(),
            news: Arc::clone(&news),
            picture: Mutex::new(Picture::new(Arc::clone(&watch))),
        };
        let setup = Setup {
            name: mars_bus::BUS_NAME.to_string(),
            shared: None,
            address: None,
            source: Arc::new(source),
            bell: bell.clone(),
            gap: GAP,
        };
        let bus = mars_bus::start(setup)
            .inspect_err(|e| tracing::warn!("no D-Bus: {e}"))
            .ok();
        watch_pages(&watch, &bell);
        Telling {
            news,
            bell,
            watch,
            _bus: bus,
        }
    }

    /// These paths changed.
    pub fn changed(&self, paths: &BTreeSet<String>) {
        let mut news = self.news.lock().unwrap_or_else(PoisonError::into_inner);
        news.add(paths.iter().cloned());
        drop(news);
        self.bell.ring();
    }

    /// Nobody knows what changed.
    pub fn lost(&self) {
        *self.news.lock().unwrap_or_else(PoisonError::into_inner) = News::all();
        self.bell.ring();
    }
}

/// A thread that sleeps until one of the running daemons publishes something. Ends with the process.
fn watch_pages(watch: &Arc<Watch>, bell: &Bell) {
    let (watch, bell) = (Arc::downgrade(watch), bell.clone());
    let body = move || {
        let mut seen = Seen::default();
        while let Some(w) = watch.upgrade() {
            if let Err(e) = w.wait(&mut seen) {
                // Kernels before 5.16: changes are told when the links follow, every two seconds or so.
                tracing::debug!("live pages cannot be watched: {e}");
                return;
            }
            drop(w);
            bell.ring();
            // Nobody is told more often, so nobody need be woken more often.
            std::thread::sleep(GAP);
        }
    };
    let made = std::thread::Builder::new()
        .name("live-pages".into())
        .stack_size(128 << 10)
        .spawn(body);
    if let Err(e) = made {
        tracing::debug!("live pages are not watched: {e}");
    }
}

struct Meta {
    env: HostEnv,
    tree: Tree,
    news: Arc<Mutex<News>>,
    picture: Mutex<Picture>,
}

impl Source for Meta {
    fn state(&self) -> State {
        let news = std::mem::take(&mut *self.news.lock().unwrap_or_else(PoisonError::into_inner));
        let mut picture = self.picture.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(e) = picture.update(&self.tree, news) {
            tracing::debug!("{e}");
            // Tried again with the next change; meanwhile what is known counts.
            *self.news.lock().unwrap_or_else(PoisonError::into_inner) = News::all();
        }
        let now = self.tree.clock().now();
        let snap = picture.look(&self.env, now);
        facts::state(&self.env, &snap, now)
    }

    fn call(&self, _: &str, method: &str, _: Option<u32>) -> Result<(), Failure> {
        let result = match method {
            "Trigger" => self
                .env
                .request_reconcile()
                .map_err(|e| format!("{}: {e}", self.env.trigger_file().display())),
            "Ping" => {
                let path = self.env.run_dir.join("meta.ping");
                let text = format!("{}\n", self.tree.clock().now());
                std::fs::write(&path, text).map_err(|e| format!("{}: {e}", path.display()))
            }
            other => return Err(Failure("UnknownMethod", format!("no method {other}"))),
        };
        result.map_err(|e| Failure("Failed", e))
    }
}
