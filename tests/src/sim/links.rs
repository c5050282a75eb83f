//! A real tree below a temporary directory whose changes are written down in their order: mars-tree does not sync what it writes, so a power
//! cut loses the last ones. Syncing the directory (a log file is created) makes them durable.
use super::rng::Rng;
use inotify::{EventMask, Inotify, WatchMask};
use mars_live::Clock;
use mars_tree::{HostName, LogName, ResName, Tree};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

/// Names below the resource directory, with their values.
pub type Links = BTreeMap<String, String>;

/// The resource of all simulations.
pub const RES: &str = "r";
/// The host.
pub const ME: &str = "alpha";

/// Name of the resource.
pub fn res() -> ResName {
    RES.parse().unwrap()
}

/// Name of the host.
pub fn me() -> HostName {
    ME.parse().unwrap()
}

/// An own log.
pub fn own_log(nr: u32) -> LogName {
    LogName { nr, host: me() }
}

/// The links of a designated primary that has not written anything yet.
pub fn first_links(size: u64) -> Links {
    let all = [
        ("size", size.to_string()),
        ("primary", ME.to_string()),
        ("maxnr", "1".to_string()),
        ("replay-alpha", "log-000000001-alpha,0,0".to_string()),
        ("todo-alpha/connect", "1".to_string()),
        ("todo-alpha/attach", "1".to_string()),
        ("data-alpha", "/nowhere".to_string()),
        ("syncstatus-alpha", size.to_string()),
    ];
    all.map(|(k, v)| (k.to_string(), v)).into()
}

/// Watches the directories of one tree.
struct Eye {
    inotify: Inotify,
    below: HashMap<i32, &'static str>,
}

thread_local! {
    /// Closing an inotify handle takes the kernel milliseconds: trees at the same place use the same one again.
    static EYES: RefCell<HashMap<PathBuf, Eye>> = RefCell::default();
}

impl Eye {
    fn open(dir: &Path) -> Eye {
        if let Some(eye) = EYES.with_borrow_mut(|eyes| eyes.remove(dir)) {
            return eye;
        }
        let inotify = Inotify::init().unwrap();
        let mask = WatchMask::CREATE | WatchMask::MOVED_TO;
        let mut below = HashMap::new();
        for sub in SUBDIRS {
            fs::create_dir_all(dir.join(sub)).unwrap();
            let wd = inotify.watches().add(dir.join(sub), mask).unwrap();
            below.insert(wd.get_watch_descriptor_id(), sub);
        }
        Eye { inotify, below }
    }

    /// Paths that changed, in order.
    fn events(&mut self) -> Vec<String> {
        let mut buf = [0; 4096];
        let mut paths = Vec::new();
        loop {
            let events = match self.inotify.read_events(&mut buf) {
                Ok(events) => events,
                Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => return paths,
                Err(e) => panic!("inotify: {e}"),
            };
            for e in events {
                assert!(!e.mask.contains(EventMask::Q_OVERFLOW));
                let name = e.name.and_then(|n| n.to_str());
                let Some(name) = name.filter(|n| !n.starts_with('.')) else {
                    continue;
                };
                paths.push(match self.below[&e.wd.get_watch_descriptor_id()] {
                    "" => name.to_string(),
                    sub => format!("{sub}/{name}"),
                });
            }
        }
    }
}

/// The resource directory and what is in it.
const SUBDIRS: [&str; 3] = ["", "actual-alpha", "todo-alpha"];

/// A tree that is being written.
pub struct LinkWorld {
    /// The tree itself.
    pub tree: Tree,
    dir: PathBuf,
    /// Absent only while this is dropped.
    eye: Option<Eye>,
    /// At the start; durable.
    base: Links,
    /// Changes since, in order. No value: an empty log file was made.
    journal: Vec<(String, Option<String>)>,
    durable: usize,
}

impl LinkWorld {
    /// Makes the tree anew at `root` with these links and log files.
    pub fn boot(root: &Path, links: Links, logs: &BTreeMap<LogName, Vec<u8>>) -> LinkWorld {
        let dir = root.join(format!("resource-{RES}"));
        let mut eye = Eye::open(&dir);
        for sub in SUBDIRS {
            for entry in fs::read_dir(dir.join(sub)).unwrap() {
                let entry = entry.unwrap();
                if !entry.file_type().unwrap().is_dir() {
                    fs::remove_file(entry.path()).unwrap();
                }
            }
        }
        for (name, value) in &links {
            symlink(value, dir.join(name)).unwrap();
        }
        for (name, bytes) in logs {
            fs::write(dir.join(name.to_string()), bytes).unwrap();
        }
        // What is there at the start is no change.
        eye.events();
        LinkWorld {
            tree: Tree::with_clock(root, Clock::private()),
            dir,
            eye: Some(eye),
            base: links,
            journal: Vec::new(),
            durable: 0,
        }
    }

    /// The resource directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes down what changed since the last call. Of a key that changed several times since then only the last change is known.
    pub fn absorb(&mut self) {
        let paths = self.eye.as_mut().map(Eye::events).unwrap_or_default();
        for (nr, path) in paths.iter().enumerate() {
            if paths[nr + 1..].contains(path) {
                continue;
            }
            let value = fs::read_link(self.dir.join(path)).ok();
            let value = value.map(|v| String::from_utf8(OsString::from(v).into_vec()).unwrap());
            self.journal.push((path.clone(), value));
        }
    }

    /// The directory was synced.
    pub fn synced(&mut self) {
        self.absorb();
        self.durable = self.journal.len();
    }

    /// Changes that a power cut could lose.
    pub fn volatile(&self) -> usize {
        self.journal.len() - self.durable
    }

    /// The links as a power cut now could leave them, and the names of log files that were made.
    pub fn cut(&self, rng: &mut Rng) -> (Links, Vec<LogName>) {
        let volatile = self.volatile() as u64;
        let lost = match rng.below(4) {
            0 => 0,
            1 => volatile,
            2 => rng.below(volatile.min(6) + 1),
            _ => rng.below(volatile + 1),
        };
        self.at(self.journal.len() - lost as usize)
    }

    /// The links as they are.
    pub fn now(&self) -> Links {
        self.at(self.journal.len()).0
    }

    fn at(&self, len: usize) -> (Links, Vec<LogName>) {
        let (mut links, mut logs) = (self.base.clone(), Vec::new());
        for (name, value) in &self.journal[..len] {
            match value {
                Some(value) => {
                    links.insert(name.clone(), value.clone());
                }
                None => logs.extend(name.parse::<LogName>()),
            }
        }
        (links, logs)
    }
}

impl Drop for LinkWorld {
    fn drop(&mut self) {
        if let Some(eye) = self.eye.take() {
            // At the end of the thread there is nobody to keep it for.
            let _ = EYES.try_with(|eyes| eyes.borrow_mut().insert(self.dir.clone(), eye));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mars_tree::{Batch, Key};
    use std::collections::BTreeSet;

    #[test]
    fn links_are_lost_from_the_end_and_not_before_the_last_sync() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        let mut w = LinkWorld::boot(&root, first_links(4096), &BTreeMap::new());
        let key = |name: &str| Key::parse(&format!("resource-r/{name}"));
        let set = |w: &mut LinkWorld, names: &[&str], value: u32| {
            let mut b = Batch::new();
            for name in names {
                b.set(key(name), value);
            }
            w.tree.commit(&b).unwrap();
            w.absorb();
        };
        set(&mut w, &["maxnr"], 2);
        w.synced();
        set(&mut w, &["size", "maxnr"], 3);
        set(&mut w, &["actual-alpha/is-primary"], 1);
        assert_eq!(w.volatile(), 3);
        let seen: BTreeSet<(String, String, bool)> = (0..200)
            .map(|seed| {
                let (l, _) = w.cut(&mut Rng::new(seed));
                let primary = l.contains_key("actual-alpha/is-primary");
                (l["size"].clone(), l["maxnr"].clone(), primary)
            })
            .collect();
        let text = |a: &str, b: &str, c| (a.to_string(), b.to_string(), c);
        let all = [
            text("3", "2", false),
            text("3", "3", false),
            text("3", "3", true),
            text("4096", "2", false),
        ];
        assert_eq!(seen, BTreeSet::from(all));
    }
}
