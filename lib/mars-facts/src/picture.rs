//! The tree as it was last seen, kept up to date by single paths, and the live pages that go over it.
use crate::refresh;
use mars_live::{LivePage, Part, Watch};
use mars_tree::{FileMeta, HostEnv, Key, ResName, Snapshot, Stamp, Tree, TreeError};
use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;

/// Which sections are worth watching, by the key that says that their daemon works.
const SECTIONS: [(&str, Part); 4] = [
    ("if-on", Part::Log),
    ("is-copying", Part::Fetch),
    ("is-replaying", Part::Replay),
    ("is-syncing", Part::Sync),
];

/// So many paths are looked at one by one; if there are more, everything is read again.
const PATHS_MAX: usize = 10_000;

/// Paths that changed since the last look.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct News {
    all: bool,
    paths: BTreeSet<String>,
}

impl News {
    /// Nobody knows what changed.
    pub fn all() -> News {
        News {
            all: true,
            ..News::default()
        }
    }

    /// These changed, too.
    pub fn add(&mut self, paths: impl IntoIterator<Item = String>) {
        if self.all {
            return;
        }
        self.paths.extend(paths);
        if self.paths.len() > PATHS_MAX {
            *self = News::all();
        }
    }
}

/// What is known.
#[derive(Debug)]
pub struct Picture {
    snap: Snapshot,
    watch: Arc<Watch>,
    watched: BTreeSet<(ResName, Part)>,
}

fn file(tree: &Tree, path: &str) -> Option<FileMeta> {
    let meta = std::fs::symlink_metadata(tree.root().join(path)).ok()?;
    let nanos = u64::try_from(meta.mtime_nsec()).unwrap_or(0);
    let secs = u64::try_from(meta.mtime()).unwrap_or(0);
    meta.is_file().then(|| FileMeta {
        size: meta.len(),
        mtime: Stamp::from_nanos(secs.saturating_mul(1_000_000_000).saturating_add(nanos)),
    })
}

fn is_log(path: &str) -> bool {
    matches!(Key::parse(path), Key::Log(..))
}

impl Picture {
    /// Nothing is known yet; `watch` is told which live pages are of interest.
    pub fn new(watch: Arc<Watch>) -> Picture {
        Picture {
            snap: Snapshot::default(),
            watch,
            watched: BTreeSet::new(),
        }
    }

    /// Takes over what changed.
    ///
    /// # Errors
    /// The first thing that could not be read; everything else was taken over.
    pub fn update(&mut self, tree: &Tree, news: News) -> Result<(), TreeError> {
        if news.all {
            self.snap = tree.snapshot()?;
            return Ok(());
        }
        let mut result = Ok(());
        for path in news.paths {
            if is_log(&path) {
                match file(tree, &path) {
                    Some(meta) => self.snap.files.insert(path, meta),
                    None => self.snap.files.remove(&path),
                };
                continue;
            }
            match tree.read(&Key::parse(&path)) {
                Ok(Some(link)) => {
                    self.snap.links.insert(path, link);
                }
                Ok(None) => {
                    self.snap.links.remove(&path);
                }
                Err(e) if result.is_ok() => result = Err(e),
                Err(_) => {}
            }
        }
        // Nobody tells when they grow.
        for (path, meta) in &mut self.snap.files {
            if let Some(now) = file(tree, path) {
                *meta = now;
            }
        }
        result
    }

    /// With what running daemons say; from now on, they are listened to.
    pub fn look(&mut self, env: &HostEnv, now: Stamp) -> Snapshot {
        let mut wanted = BTreeSet::new();
        for res in self.snap.resources() {
            for (name, part) in SECTIONS {
                if self.snap.actual(&res, &env.host, name).unwrap_or(0) != 0
                    && env.resource_run_dir(&res).join("live").is_file()
                {
                    wanted.insert((res.clone(), part));
                }
            }
        }
        if wanted != self.watched {
            let pages = wanted.iter().filter_map(|(res, part)| {
                let page = LivePage::open(&env.run_dir, res.as_str()).ok()?;
                Some((page, *part))
            });
            self.watch.set(pages.collect());
            self.watched = wanted;
        }
        let mut snap = self.snap.clone();
        refresh(env, &mut snap, now);
        snap
    }
}
