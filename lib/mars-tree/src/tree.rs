//! The tree on disk: atomic writes with stamps, tombstones, remote updates.
use crate::batch::Op;
use crate::dirs::{Dirs, Entry, TreeLock};
use crate::scan::scan;
use crate::{
    Batch, Decision, HostEnv, Key, Link, LocalState, MemoryLinks, Rank, Snapshot, Stamp, Value,
    ValueError, decide,
};
use mars_live::Clock;
use nix::errno::Errno;
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What can go wrong with the tree.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The file system refused.
    #[error("{path}: {source}")]
    Io {
        /// Absolute path.
        path: PathBuf,
        /// Reason.
        source: io::Error,
    },
    /// The value cannot be stored.
    #[error("{path}: {source}")]
    Value {
        /// Path below the root.
        path: String,
        /// Reason.
        source: ValueError,
    },
    /// The key is not a path that may exist in a tree.
    #[error("{0:?} is no valid key")]
    Key(String),
}

/// A link that arrived from another host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteLink {
    /// Path below the root.
    pub path: String,
    /// Raw value.
    pub value: Vec<u8>,
    /// Its stamp.
    pub stamp: Stamp,
}

impl RemoteLink {
    /// Against other links of the same key.
    pub fn rank(&self) -> Rank<'_> {
        Rank::of(self.stamp, &self.value)
    }
}

/// What became of a remote link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was newer (or won a tie, see [`Rank`]) and is stored now.
    Stored,
    /// The local one is the same or newer (or won a tie), or it is a tombstone for a key that does not exist here.
    Kept,
    /// The path or value is not allowed; nothing was done.
    Refused,
}

/// A tree on disk. Cheap to clone. Writers of all processes of the host are serialised by a lock on `ROOT/.lock`.
#[derive(Clone, Debug)]
pub struct Tree {
    root: Arc<Path>,
    clock: Clock,
    memory: Option<Arc<MemoryLinks>>,
}

impl Tree {
    /// Opens the tree of a host with the host's shared clock. The first opener after a reboot lifts the clock to the newest
    /// legal stamp of the tree. The root directory must exist.
    pub fn open(env: &HostEnv) -> Result<Tree, TreeError> {
        Tree::require_root(&env.root)?;
        let clock = Clock::open(&env.run_dir).map_err(|source| TreeError::Io {
            path: env.run_dir.join("clock"),
            source,
        })?;
        Tree::with_clock(&env.root, clock).primed()
    }
    /// Read-only use without write permission in the run directory: as `open`, falling back to a private clock.
    pub fn open_readonly(env: &HostEnv) -> Result<Tree, TreeError> {
        Tree::require_root(&env.root)?;
        let clock = Clock::open(&env.run_dir).unwrap_or_else(|_| Clock::private());
        Tree::with_clock(&env.root, clock).primed()
    }
    /// A tree at `root` with the given clock (tests).
    pub fn with_clock(root: &Path, clock: Clock) -> Tree {
        Tree {
            root: root.into(),
            clock,
            memory: None,
        }
    }
    /// A tree whose links are in memory; only its log files are below `root` (simulations). One process, no watchers.
    pub fn in_memory(root: &Path, clock: Clock, links: Arc<MemoryLinks>) -> Tree {
        Tree {
            memory: Some(links),
            ..Tree::with_clock(root, clock)
        }
    }
    fn require_root(root: &Path) -> Result<(), TreeError> {
        let failed = |source| TreeError::Io {
            path: root.to_path_buf(),
            source,
        };
        match std::fs::metadata(root).map_err(failed)?.is_dir() {
            true => Ok(()),
            false => Err(failed(Errno::ENOTDIR.into())),
        }
    }
    fn primed(self) -> Result<Tree, TreeError> {
        if !self.clock.is_primed() {
            // A snapshot observes the newest legal stamp.
            self.snapshot()?;
            self.clock.mark_primed();
        }
        Ok(self)
    }

    /// The root directory.
    pub fn root(&self) -> &Path {
        &self.root
    }
    /// The absolute path of a key.
    pub fn path(&self, key: &Key) -> PathBuf {
        self.root.join(key.path())
    }
    /// The host's clock.
    pub fn clock(&self) -> &Clock {
        &self.clock
    }

    /// The stored link, tombstones included; `None` when absent. Illegal stamps read as the current Lamport time.
    pub fn read(&self, key: &Key) -> Result<Option<Link>, TreeError> {
        let path = valid(key)?;
        let entry = self.dirs().and_then(|mut d| d.entry(&path));
        match entry.map_err(self.at(&path))? {
            Entry::Link(l) => Ok(Some(Link {
                stamp: self.legal(l.stamp),
                ..l
            })),
            _ => Ok(None),
        }
    }
    /// The live text of a key; `None` when absent, deleted or not UTF-8.
    pub fn text(&self, key: &Key) -> Result<Option<String>, TreeError> {
        Ok(self
            .read(key)?
            .filter(|l| !l.value.is_deleted())
            .and_then(|l| l.value.as_str().map(str::to_string)))
    }

    /// Writes a batch with one fresh stamp (larger than every stamp issued before and than the old stamps of the keys).
    /// Returns the stamp.
    pub fn commit(&self, batch: &Batch) -> Result<Stamp, TreeError> {
        batch.check()?;
        self.writer()?.commit(batch)
    }
    /// As `commit`, but only when `check` holds on a snapshot of the resource taken under the writers' lock; `None` when it does not.
    /// (The whole tree when the batch does not belong to one resource.) `check` must not use the tree: the lock is held.
    pub fn commit_if(
        &self,
        batch: &Batch,
        check: impl FnOnce(&Snapshot) -> bool,
    ) -> Result<Option<Stamp>, TreeError> {
        batch.check()?;
        let mut writer = self.writer()?;
        let resources: BTreeSet<_> = batch
            .ops()
            .map(|op| match op {
                // A directory is no key; anything below it has the resource.
                Op::Mkdir(p) => Key::parse(&format!("{p}/x")).resource(),
                other => Key::parse(&other.path()).resource(),
            })
            .collect();
        let only = match resources.into_iter().collect::<Vec<_>>().as_slice() {
            [Some(res)] => Some(format!("resource-{res}")),
            _ => None,
        };
        let snap = self.scan_locked(&mut writer, |dir| is_wanted(dir, only.as_deref()))?;
        match check(&snap) {
            true => writer.commit(batch).map(Some),
            false => Ok(None),
        }
    }
    /// Applies a link from another host (symlink-tree.md 2.4, 3.1): the greater [`Rank`] wins, which is the newer one;
    /// a tombstone never creates a key; a tombstone removes an older log file; old markers `.deleted-NAME` are honoured. Missing parents are made.
    pub fn apply_remote(&self, link: &RemoteLink) -> Result<Applied, TreeError> {
        self.writer()?.apply(link)
    }
    /// [`Tree::apply_remote`] for many links under one lock, in order; stops at the first error of the file system.
    pub fn apply_remote_all<'a>(
        &self,
        links: impl IntoIterator<Item = &'a RemoteLink>,
    ) -> Result<Vec<Applied>, TreeError> {
        let mut writer = self.writer()?;
        links.into_iter().map(|l| writer.apply(l)).collect()
    }
    /// Removes a link or file without tombstone (only where symlink-tree.md 3.4 says so).
    pub fn unlink_plain(&self, key: &Key) -> Result<(), TreeError> {
        let path = valid(key)?;
        let mut writer = self.writer()?;
        writer.dirs.unlink(&path).map_err(self.at(&path))
    }

    /// Reads everything. Links with illegal stamps are repaired. Damaged entries are left out of nothing: values stay raw.
    pub fn snapshot(&self) -> Result<Snapshot, TreeError> {
        self.read_all(|_| true)
    }
    /// Reads one resource and the global part, without other resources.
    pub fn snapshot_of(&self, res: &crate::ResName) -> Result<Snapshot, TreeError> {
        let only = format!("resource-{res}");
        self.read_all(|dir| is_wanted(dir, Some(&only)))
    }
    /// All links as they would be sent to another host: replicated keys only. The heartbeats (`actual-*/time`, `alive`) are
    /// read first and come last: who gets a fresh one has got state that is at least as fresh.
    pub fn export(&self) -> Result<Vec<RemoteLink>, TreeError> {
        let is_heartbeat =
            |key: &Key| matches!(key, Key::HostActual(_, n) if n == "time" || n == "alive");
        let beats = scan(&self.root, false, |dir| dir.starts_with("actual-"))
            .map_err(self.at(""))?
            .links
            .into_iter()
            .filter(|(path, _)| is_heartbeat(&Key::parse(path)));
        let beats: Vec<_> = beats.collect();
        let all = self.snapshot()?.links.into_iter().filter(|(path, _)| {
            let key = Key::parse(path);
            key.is_replicated() && !is_heartbeat(&key)
        });
        let remote = |(path, link): (String, Link)| RemoteLink {
            path,
            value: link.value.as_bytes().to_vec(),
            stamp: self.legal(link.stamp),
        };
        Ok(all.chain(beats).map(remote).collect())
    }
    /// Makes everything that was written durable (a commit alone orders, it does not sync).
    pub fn sync(&self) -> Result<(), TreeError> {
        std::fs::File::open(&self.root)
            .and_then(|f| Ok(nix::unistd::syncfs(f)?))
            .map_err(self.at(""))
    }

    fn read_all(&self, wanted: impl Fn(&str) -> bool) -> Result<Snapshot, TreeError> {
        let mut snap = scan(&self.root, self.memory.is_some(), wanted).map_err(self.at(""))?;
        self.add_memory(&mut snap);
        let illegal = self.observe(&snap);
        if !illegal.is_empty() {
            // Without the right to write they only read as repaired.
            let mut writer = self.writer().ok();
            self.repair(&mut snap, illegal, writer.as_mut());
        }
        Ok(snap)
    }
    fn scan_locked(
        &self,
        writer: &mut Writer,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<Snapshot, TreeError> {
        let mut snap = scan(&self.root, true, wanted).map_err(self.at(""))?;
        self.add_memory(&mut snap);
        let illegal = self.observe(&snap);
        self.repair(&mut snap, illegal, Some(writer));
        Ok(snap)
    }
    /// Lifts the clock to the newest legal stamp; returns the paths with illegal ones.
    fn observe(&self, snap: &Snapshot) -> Vec<String> {
        let mut newest = Stamp::ZERO;
        let mut illegal = Vec::new();
        // The wall clock is asked once, not for every link; who is near the limit is looked at closely.
        let surely_legal = self.clock.now();
        for (path, link) in &snap.links {
            if link.stamp <= surely_legal || self.clock.guard(link.stamp).is_ok() {
                newest = newest.max(link.stamp);
            } else {
                illegal.push(path.clone());
            }
        }
        self.clock.observe(newest);
        illegal
    }
    fn repair(&self, snap: &mut Snapshot, illegal: Vec<String>, mut writer: Option<&mut Writer>) {
        for path in illegal {
            let repaired = writer.as_mut().and_then(|w| w.repair(&path).ok()).flatten();
            if let Some(link) = repaired {
                snap.links.insert(path, link);
            } else if let Some(link) = snap.links.get_mut(&path) {
                link.stamp = self.legal(link.stamp);
            }
        }
    }

    fn legal(&self, stamp: Stamp) -> Stamp {
        self.clock.guard(stamp).unwrap_or_else(|now| now)
    }
    /// Turns an error into one that names the path.
    fn at<E: Into<io::Error>>(&self, path: &str) -> impl FnOnce(E) -> TreeError + use<E> {
        let path = self.root.join(path);
        |e| TreeError::Io {
            path,
            source: e.into(),
        }
    }
    /// All of them, whatever the snapshot is of.
    fn add_memory(&self, snap: &mut Snapshot) {
        if let Some(memory) = &self.memory {
            snap.links.append(&mut memory.all());
        }
    }
    fn dirs(&self) -> io::Result<Dirs> {
        Dirs::new(&self.root, self.memory.clone())
    }
    fn writer(&self) -> Result<Writer<'_>, TreeError> {
        let lock = match self.memory {
            Some(_) => None,
            None => Some(TreeLock::exclusive(&self.root).map_err(self.at(".lock"))?),
        };
        Ok(Writer {
            tree: self,
            dirs: self.dirs().map_err(self.at(""))?,
            _lock: lock,
        })
    }
}

/// The path of a key that may exist.
fn valid(key: &Key) -> Result<String, TreeError> {
    let path = key.path();
    match crate::key::is_valid_path(&path) {
        true => Ok(path),
        false => Err(TreeError::Key(path)),
    }
}

/// Top-level directories of a snapshot of one resource (`None` = all).
fn is_wanted(dir: &str, only: Option<&str>) -> bool {
    only.is_none_or(|only| dir == only || !dir.starts_with("resource-"))
}

/// Somebody who holds the writers' lock.
struct Writer<'a> {
    tree: &'a Tree,
    dirs: Dirs,
    _lock: Option<TreeLock>,
}

/// What a change comes to, after a look at what is stored.
enum Step {
    Put(String, Value, Option<Stamp>),
    Mkdir(String),
    Create(String),
}

impl Writer<'_> {
    fn entry(&mut self, path: &str) -> Result<Entry, TreeError> {
        self.dirs.entry(path).map_err(self.tree.at(path))
    }

    fn commit(&mut self, batch: &Batch) -> Result<Stamp, TreeError> {
        // Everything that can be refused is refused here, before the first change.
        let mut steps = Vec::new();
        let mut newest = Stamp::ZERO;
        for op in batch.ops() {
            if let Some((step, old)) = self.plan(op)? {
                newest = newest.max(old);
                steps.push(step);
            }
        }
        let stamp = self.tree.clock.tick(newest);
        for step in steps {
            self.run(step, stamp)?;
        }
        Ok(stamp)
    }

    /// `None` when nothing is to be done; otherwise the step and the stamp that it must surpass.
    fn plan(&mut self, op: &Op) -> Result<Option<(Step, Stamp)>, TreeError> {
        let path = op.path();
        let refuse = |e: Errno| Err(self.tree.at(&path)(e));
        let entry = self.dirs.entry(&path).map_err(self.tree.at(&path))?;
        if let Op::Mkdir(_) = op {
            return match entry {
                Entry::Directory => Ok(None),
                Entry::Absent => Ok(Some((Step::Mkdir(path), Stamp::ZERO))),
                Entry::Link(l) if l.value.is_deleted() => {
                    Ok(Some((Step::Mkdir(path), Stamp::ZERO)))
                }
                _ => refuse(Errno::ENOTDIR),
            };
        }
        if let Op::CreateLog(_) = op {
            return match entry {
                Entry::Absent => Ok(Some((Step::Create(path), Stamp::ZERO))),
                Entry::Link(l) if l.value.is_deleted() => {
                    Ok(Some((Step::Create(path), Stamp::ZERO)))
                }
                _ => refuse(Errno::EEXIST),
            };
        }
        let (text, own_stamp) = match op {
            Op::Set(_, v) | Op::SetIfChanged(_, v) => (v.as_str(), None),
            Op::SetStamped(_, v, t) => (v.as_str(), Some(*t)),
            _ => (Value::DELETED, None),
        };
        let value = Value::new(text).map_err(|source| TreeError::Value {
            path: path.clone(),
            source,
        })?;
        let delete = matches!(op, Op::Delete(_));
        let old = match entry {
            Entry::Absent if delete => return Ok(None),
            Entry::Absent => self.marker(&path)?.unwrap_or(Stamp::ZERO),
            Entry::Link(l) => {
                let same = l.value == value && !matches!(op, Op::Set(..) | Op::SetStamped(..));
                let old = self.tree.legal(l.stamp);
                if same || own_stamp.is_some_and(|t| t <= old) {
                    return Ok(None);
                }
                l.stamp
            }
            // A directory is never tombstoned.
            Entry::Directory if delete => return Ok(None),
            // Log files may be; a disk in the form of a sparse file may not.
            Entry::File { mtime, .. } if delete && !matches!(op, Op::Delete(Key::Data(..))) => {
                mtime
            }
            Entry::Directory => return refuse(Errno::EISDIR),
            Entry::File { .. } | Entry::Foreign => return refuse(Errno::EEXIST),
        };
        Ok(Some((Step::Put(path, value, own_stamp), old)))
    }

    fn run(&mut self, step: Step, stamp: Stamp) -> Result<(), TreeError> {
        match step {
            Step::Put(path, value, own_stamp) => {
                self.put(&path, &value, own_stamp.unwrap_or(stamp))?;
                // A weak stamp may lie ahead of the clock.
                own_stamp
                    .into_iter()
                    .for_each(|t| self.tree.clock.observe(t));
                Ok(())
            }
            Step::Mkdir(path) => match self.dirs.dir(&path, true) {
                Ok(_) => Ok(()),
                Err(e) => Err(self.tree.at(&path)(e)),
            },
            Step::Create(path) => {
                let made = self
                    .dirs
                    .unlink(&path)
                    .and_then(|()| self.dirs.create(&path));
                made.map_err(self.tree.at(&path))
            }
        }
    }

    /// Puts a link and removes an old marker beside it.
    fn put(&mut self, path: &str, value: &Value, stamp: Stamp) -> Result<(), TreeError> {
        let done = self.dirs.put(path, value, stamp);
        done.map_err(self.tree.at(path))?;
        let marker = Dirs::marker_path(path);
        self.dirs.unlink(&marker).map_err(self.tree.at(&marker))
    }

    /// The stamp of an old deletion marker of `path`.
    fn marker(&mut self, path: &str) -> Result<Option<Stamp>, TreeError> {
        match self.entry(&Dirs::marker_path(path))? {
            Entry::Link(l) => Ok(Some(self.tree.legal(l.stamp))),
            _ => Ok(None),
        }
    }

    fn apply(&mut self, link: &RemoteLink) -> Result<Applied, TreeError> {
        let key = Key::parse(&link.path);
        let value = match Value::new(link.value.as_slice()) {
            Ok(v) if key.is_replicated() => v,
            _ => return Ok(Applied::Refused),
        };
        let is_log = matches!(key, Key::Log(..));
        if is_log && !value.is_deleted() {
            return Ok(Applied::Refused);
        }
        let guarded = self.tree.clock.guard(link.stamp);
        let entry = self.entry(&link.path)?;
        let local = match &entry {
            // The same illegal stamp would be "newer" again each time it is sent.
            Entry::Link(l) if guarded.is_err() && l.value == value => return Ok(Applied::Kept),
            Entry::Link(l) => {
                let stamp = self.tree.legal(l.stamp);
                Some(LocalState::Link(Rank::of(stamp, l.value.as_bytes())))
            }
            Entry::File { mtime, .. } if is_log => {
                Some(LocalState::LogFile(self.tree.legal(*mtime)))
            }
            Entry::File { .. } | Entry::Directory | Entry::Foreign => Some(LocalState::Blocked),
            Entry::Absent => self.marker(&link.path)?.map(LocalState::Marker),
        };
        let stamp = match guarded {
            Ok(t) => t,
            Err(_) => self.tree.clock.tick(Stamp::ZERO),
        };
        match decide(local, Rank::of(stamp, value.as_bytes())) {
            Decision::Keep => Ok(Applied::Kept),
            Decision::Refuse => Ok(Applied::Refused),
            Decision::Store => {
                self.put(&link.path, &value, stamp)?;
                self.tree.clock.observe(stamp);
                Ok(Applied::Stored)
            }
        }
    }

    /// Rewrites a link with an illegal stamp; `None` when it is legal or gone by now.
    fn repair(&mut self, path: &str) -> Result<Option<Link>, TreeError> {
        let Entry::Link(l) = self.entry(path)? else {
            return Ok(None);
        };
        if self.tree.clock.guard(l.stamp).is_ok() {
            return Ok(Some(l));
        }
        let stamp = self.tree.clock.tick(Stamp::ZERO);
        self.put(path, &l.value, stamp)?;
        Ok(Some(Link { stamp, ..l }))
    }
}
