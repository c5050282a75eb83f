//! A tree whose changes are written down in their order: mars-tree does not sync what it writes, so a power cut loses the last ones. Syncing the
//! directory (a log file is created) makes them durable. The links are symlinks in a temporary directory, watched by inotify, or kept in memory,
//! which costs a tenth; log files are files in any case.
use super::logs::Found;
use super::rng::Rng;
use inotify::{EventMask, Inotify, WatchMask};
use mars_live::Clock;
use mars_tree::{HostName, Link, LogName, MemoryLinks, ResName, Stamp, Tree, Value};
use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{FileExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

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

/// Where hosts live.
#[derive(Clone, Debug)]
pub struct Place {
    root: PathBuf,
    is_real: bool,
}

impl Place {
    /// Below this directory, with links in it or in memory.
    pub fn new(root: &Path, is_real: bool) -> Place {
        Place {
            root: root.join(if is_real { "real" } else { "memory" }),
            is_real,
        }
    }

    /// Another one.
    pub fn below(&self, name: &str) -> Place {
        Place {
            root: self.root.join(name),
            is_real: self.is_real,
        }
    }

    /// Its directory.
    pub fn root(&self) -> &Path {
        &self.root
    }
}

/// What trees at the same place use one after the other.
#[derive(Default)]
struct Kept {
    /// Closing an inotify handle takes the kernel milliseconds.
    eye: Option<Eye>,
    /// Log files that are there: which log they are, and how many of its first bytes.
    logs: HashMap<LogName, (u64, u64)>,
}

/// Watches the directories of one tree.
struct Eye {
    inotify: Inotify,
    below: HashMap<i32, &'static str>,
}

thread_local! {
    static KEPT: RefCell<HashMap<PathBuf, Kept>> = RefCell::default();
}

impl Kept {
    fn open(dir: &Path, is_real: bool) -> Kept {
        if let Some(kept) = KEPT.with_borrow_mut(|all| all.remove(dir)) {
            return kept;
        }
        fs::create_dir_all(dir).unwrap();
        Kept {
            eye: is_real.then(|| Eye::open(dir)),
            logs: HashMap::new(),
        }
    }

    /// Makes the file what was found. Of what is there already only the difference is written.
    fn put_log(&mut self, dir: &Path, name: &LogName, found: &Found) {
        let len = found.bytes.len() as u64;
        let path = dir.join(name.to_string());
        let file = fs::File::options()
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .unwrap();
        let is = file.metadata().unwrap().len();
        let same = match self.logs.get(name) {
            Some((id, same)) if *id == found.id => is.min(*same).min(found.same),
            _ => 0,
        };
        if same < len {
            file.write_all_at(&found.bytes[same as usize..], same)
                .unwrap();
        }
        if len < is {
            file.set_len(len).unwrap();
        }
        self.logs.insert(name.clone(), (found.id, found.same));
    }

    /// Leaves only these links and log files. Returns the links that are there already.
    fn tidy(&mut self, dir: &Path, links: &Links, logs: &BTreeMap<LogName, Found>) -> Vec<String> {
        let mut there = Vec::new();
        let subdirs: &[&str] = match self.eye {
            Some(_) => &SUBDIRS,
            None => &[""],
        };
        for sub in subdirs {
            for entry in fs::read_dir(dir.join(sub)).unwrap() {
                let entry = entry.unwrap();
                let kind = entry.file_type().unwrap();
                let name = entry.file_name().into_string().unwrap();
                let path = match *sub {
                    "" => name,
                    sub => format!("{sub}/{name}"),
                };
                let is_wanted = if kind.is_symlink() {
                    links
                        .get(&path)
                        .is_some_and(|v| fs::read_link(entry.path()).unwrap() == Path::new(v))
                } else {
                    kind.is_dir() || path.parse().is_ok_and(|name| logs.contains_key(&name))
                };
                if !is_wanted {
                    fs::remove_file(entry.path()).unwrap();
                    if let Ok(name) = path.parse() {
                        self.logs.remove(&name);
                    }
                } else if kind.is_symlink() {
                    there.push(path);
                }
            }
        }
        there
    }
}

impl Eye {
    fn open(dir: &Path) -> Eye {
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
    kept: Kept,
    /// The links, when they are in memory.
    memory: Option<Arc<MemoryLinks>>,
    /// What is durable: links, and log files that were made.
    durable: Links,
    durable_logs: Vec<LogName>,
    /// Changes since, in order. No value: an empty log file was made.
    journal: Vec<(String, Option<String>)>,
    /// The links as they are.
    now: Links,
}

/// The prefix of the keys of the resource.
fn prefix() -> String {
    format!("resource-{RES}")
}

impl LinkWorld {
    /// Makes the tree anew with these links and log files.
    pub fn boot(place: &Place, links: Links, logs: &BTreeMap<LogName, Found>) -> LinkWorld {
        let dir = place.root.join(prefix());
        let mut kept = Kept::open(&dir, place.is_real);
        let there = kept.tidy(&dir, &links, logs);
        for (name, found) in logs {
            kept.put_log(&dir, name, found);
        }
        let clock = Clock::private();
        let (tree, memory) = match &mut kept.eye {
            Some(eye) => {
                for (name, value) in links.iter().filter(|(name, _)| !there.contains(name)) {
                    symlink(value, dir.join(name)).unwrap();
                }
                for (name, found) in logs {
                    let is = fs::read(dir.join(name.to_string())).unwrap();
                    assert_eq!(is, found.bytes, "{name} is made wrongly");
                }
                // What is there at the start is no change.
                eye.events();
                (Tree::with_clock(&place.root, clock), None)
            }
            None => {
                let memory = Arc::new(MemoryLinks::new(links.iter().map(|(name, value)| {
                    let value = Value::new(value.as_str()).unwrap();
                    let stamp = Stamp::from_nanos(1_000_000_000);
                    (format!("{}/{name}", prefix()), Link { value, stamp })
                })));
                let tree = Tree::in_memory(&place.root, clock, Arc::clone(&memory));
                (tree, Some(memory))
            }
        };
        LinkWorld {
            tree,
            dir,
            kept,
            memory,
            now: links.clone(),
            durable: links,
            durable_logs: Vec::new(),
            journal: Vec::new(),
        }
    }

    /// The resource directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes down what changed since the last call. Of a symlink that changed several times since then only the last change is known.
    pub fn absorb(&mut self) {
        let mut changes = Vec::new();
        if let Some(memory) = &self.memory {
            for (path, value) in memory.take_changes() {
                if let Some(name) = path.strip_prefix(&prefix()) {
                    let value = value.map(|v| v.as_str().unwrap().to_string());
                    changes.push((name[1..].to_string(), value));
                }
            }
        }
        if let Some(eye) = &mut self.kept.eye {
            let paths = eye.events();
            for (nr, path) in paths.iter().enumerate() {
                if paths[nr + 1..].contains(path) {
                    continue;
                }
                let value = fs::read_link(self.dir.join(path)).ok();
                let value = value.map(|v| String::from_utf8(OsString::from(v).into_vec()).unwrap());
                changes.push((path.clone(), value));
            }
        }
        for change in changes {
            apply(&change, &mut self.now, &mut Vec::new());
            self.journal.push(change);
        }
    }

    /// The directory was synced.
    pub fn synced(&mut self) {
        self.absorb();
        for change in self.journal.drain(..) {
            apply(&change, &mut self.durable, &mut self.durable_logs);
        }
    }

    /// Changes that a power cut could lose.
    pub fn volatile(&self) -> usize {
        self.journal.len()
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
        let (mut links, mut logs) = (self.durable.clone(), self.durable_logs.clone());
        for change in &self.journal[..self.journal.len() - lost as usize] {
            apply(change, &mut links, &mut logs);
        }
        (links, logs)
    }

    /// The links as they are.
    pub fn now(&self) -> &Links {
        &self.now
    }
}

fn apply((name, value): &(String, Option<String>), links: &mut Links, logs: &mut Vec<LogName>) {
    match value {
        Some(value) => {
            links.insert(name.clone(), value.clone());
        }
        None => logs.extend(name.parse::<LogName>()),
    }
}

impl Drop for LinkWorld {
    fn drop(&mut self) {
        let kept = std::mem::take(&mut self.kept);
        // At the end of the thread there is nobody to keep it for.
        let _ = KEPT.try_with(|all| all.borrow_mut().insert(self.dir.clone(), kept));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mars_tree::{Batch, Key};
    use std::collections::BTreeSet;

    #[test]
    fn links_are_lost_from_the_end_and_not_before_the_last_sync() {
        for is_real in [true, false] {
            lost_from_the_end(is_real);
        }
    }

    fn lost_from_the_end(is_real: bool) {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(dir.path(), is_real);
        let mut w = LinkWorld::boot(&place, first_links(4096), &BTreeMap::new());
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

    #[test]
    fn a_place_is_used_again_whatever_was_there() {
        use super::super::logs::SimLogs;
        for is_real in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let place = Place::new(dir.path(), is_real);
            let mut rng = Rng::new(7);
            let mut logs = SimLogs::default();
            for round in 0..300 {
                let name = own_log(rng.within(1, 3) as u32);
                let log = logs.0.entry(name).or_default();
                let bytes = vec![(round % 250) as u8 + 1; rng.within(1, 3000) as usize];
                log.append(&bytes);
                match rng.below(3) {
                    0 => log.synced(log.len()),
                    1 if rng.chance(20) => log.truncate(rng.below(log.len())),
                    _ => {}
                }
                let mut links = first_links(4096);
                links.insert("maxnr".to_string(), rng.below(3).to_string());
                if rng.chance(50) {
                    links.insert("actual-alpha/x".to_string(), round.to_string());
                }
                let mut found = logs.cut(&mut rng);
                if rng.chance(20) {
                    found.pop_first();
                }
                let w = LinkWorld::boot(&place, links.clone(), &found);
                let snap = w.tree.snapshot_of(&res()).unwrap();
                assert_eq!(snap.links.len(), links.len());
                for (name, value) in &links {
                    let link = &snap.links[&format!("resource-r/{name}")];
                    assert_eq!(link.value.as_str(), Some(value.as_str()));
                }
                assert_eq!(snap.files.len(), found.len());
                for (name, f) in &found {
                    let path = w.dir().join(name.to_string());
                    assert_eq!(fs::read(&path).unwrap(), f.bytes);
                    // As recovery does.
                    if rng.chance(30) {
                        let file = fs::File::options().write(true).open(&path).unwrap();
                        file.set_len(rng.below(f.bytes.len() as u64 + 1)).unwrap();
                    }
                }
            }
        }
    }
}
