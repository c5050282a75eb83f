//! Links that are kept in memory instead of in directories: for simulations, which need thousands of trees a second and every change in its
//! order. Log files stay real files below the root.
use crate::{Link, Stamp, Value};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// A change: path below the root, and the new value; `None`: an empty log file was made.
pub type LinkChange = (String, Option<Value>);

/// The links, and what was changed since somebody last asked.
#[derive(Debug, Default)]
pub struct MemoryLinks(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    links: BTreeMap<String, Link>,
    changes: Vec<LinkChange>,
}

impl MemoryLinks {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// With these links to begin with; that is no change.
    pub fn new(links: impl IntoIterator<Item = (String, Link)>) -> MemoryLinks {
        MemoryLinks(Mutex::new(Inner {
            links: links.into_iter().collect(),
            changes: Vec::new(),
        }))
    }

    /// The changes since the last call, in order.
    pub fn take_changes(&self) -> Vec<LinkChange> {
        std::mem::take(&mut self.lock().changes)
    }

    pub(crate) fn get(&self, path: &str) -> Option<Link> {
        self.lock().links.get(path).cloned()
    }

    pub(crate) fn all(&self) -> BTreeMap<String, Link> {
        self.lock().links.clone()
    }

    pub(crate) fn put(&self, path: &str, value: &Value, stamp: Stamp) {
        let mut inner = self.lock();
        let value = value.clone();
        inner.changes.push((path.to_string(), Some(value.clone())));
        inner.links.insert(path.to_string(), Link { value, stamp });
    }

    pub(crate) fn made_log(&self, path: &str) {
        self.lock().changes.push((path.to_string(), None));
    }

    pub(crate) fn remove(&self, path: &str) {
        self.lock().links.remove(path);
    }
}
