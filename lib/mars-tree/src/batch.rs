//! Changes that are written together.
use crate::key::is_valid_path;
use crate::{Key, Stamp, TreeError, Value, ValueError};
use std::collections::HashMap;

/// One change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Op {
    Set(Key, String),
    SetIfChanged(Key, String),
    SetStamped(Key, String, Stamp),
    Delete(Key),
    Mkdir(String),
    CreateLog(Key),
}

impl Op {
    pub(crate) fn path(&self) -> String {
        match self {
            Op::Set(k, _) | Op::SetIfChanged(k, _) | Op::SetStamped(k, _, _) => k.path(),
            Op::Delete(k) | Op::CreateLog(k) => k.path(),
            Op::Mkdir(p) => p.clone(),
        }
    }
}

/// Changes that are written together with one stamp, in the order given (a key set twice moves to the end).
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// In order; `None` where a later change of the same key took over.
    ops: Vec<Option<Op>>,
    /// Path -> index in `ops` of the change of a link.
    links: HashMap<String, usize>,
}

impl Batch {
    /// Empty.
    pub fn new() -> Batch {
        Batch::default()
    }
    /// Sets a key. (The text `.deleted` is the same as [`Batch::delete`].)
    pub fn set(&mut self, key: Key, value: impl ToString) -> &mut Batch {
        self.link(key, value.to_string(), Op::Set)
    }
    /// Sets a key only if its value differs from the stored one ("unchanged" suppression, symlink-tree.md 2.10).
    pub fn set_if_changed(&mut self, key: Key, value: impl ToString) -> &mut Batch {
        self.link(key, value.to_string(), Op::SetIfChanged)
    }
    /// Sets a key with a stamp of its own (preliminary and deliberately weak links, symlink-tree.md 2.8). Nothing is done
    /// when the stored link is as new or newer: an older stamp would lose everywhere else (I6).
    pub fn set_stamped(&mut self, key: Key, value: impl ToString, stamp: Stamp) -> &mut Batch {
        self.link(key, value.to_string(), |k, v| Op::SetStamped(k, v, stamp))
    }
    /// Writes a tombstone; nothing when the key does not exist or is deleted already.
    pub fn delete(&mut self, key: Key) -> &mut Batch {
        self.push_link(Op::Delete(key))
    }
    /// Makes a directory below the root (mode 0700).
    pub fn mkdir(&mut self, path: impl Into<String>) -> &mut Batch {
        self.ops.push(Some(Op::Mkdir(path.into())));
        self
    }
    /// Creates an empty log file exclusively (mode 0600); an existing one is an error.
    pub fn create_log(&mut self, key: Key) -> &mut Batch {
        self.ops.push(Some(Op::CreateLog(key)));
        self
    }
    /// No change at all?
    pub fn is_empty(&self) -> bool {
        self.ops().next().is_none()
    }
    /// One line per change for `--dry-run` and `--verbose`: `set PATH -> VALUE`, `delete PATH`, `mkdir PATH`, `create PATH`.
    pub fn describe(&self) -> Vec<String> {
        let line = |op: &Op| match op {
            Op::Set(k, v) | Op::SetIfChanged(k, v) | Op::SetStamped(k, v, _) => {
                format!("set {} -> {v}", k.path())
            }
            Op::Delete(k) => format!("delete {}", k.path()),
            Op::Mkdir(p) => format!("mkdir {p}"),
            Op::CreateLog(k) => format!("create {}", k.path()),
        };
        self.ops().map(line).collect()
    }

    /// The changes in order.
    pub(crate) fn ops(&self) -> impl Iterator<Item = &Op> {
        self.ops.iter().flatten()
    }

    fn link(&mut self, key: Key, value: String, op: impl FnOnce(Key, String) -> Op) -> &mut Batch {
        if value == Value::DELETED {
            return self.delete(key);
        }
        self.push_link(op(key, value))
    }
    fn push_link(&mut self, op: Op) -> &mut Batch {
        if let Some(old) = self.links.insert(op.path(), self.ops.len()) {
            self.ops[old] = None;
        }
        self.ops.push(Some(op));
        self
    }

    /// Refuses what can never be written, before anything is.
    pub(crate) fn check(&self) -> Result<(), TreeError> {
        for op in self.ops() {
            let path = op.path();
            if !is_valid_path(&path) {
                return Err(TreeError::Key(path));
            }
            let (Op::Set(key, value)
            | Op::SetIfChanged(key, value)
            | Op::SetStamped(key, value, _)) = op
            else {
                continue;
            };
            let checked = match key {
                // Whoever opens a log must find a file there, never a link that leads elsewhere.
                Key::Log(..) => Err(ValueError::damaged("value of a log", value)),
                _ => Value::new(value.as_str()).map(drop),
            };
            checked.map_err(|source| TreeError::Value { path, source })?;
        }
        Ok(())
    }
}
