//! A whole tree in memory, as the policy sees it.
use crate::form::has_form;
use crate::{HostName, Key, LogName, ReplayPos, ResName, Stamp, TodoSwitch, Value, VersionLink};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Value and stamp of a link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Link {
    /// The target.
    pub value: Value,
    /// The Lamport stamp (mtime).
    pub stamp: Stamp,
}

/// A regular file that matters (log files).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FileMeta {
    /// Bytes.
    pub size: u64,
    /// mtime.
    pub mtime: Stamp,
}

/// Links (tombstones included) and log files of a tree at one moment. Keyed by path, so that it is ordered and any key is kept.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Path below the root -> link, tombstones included.
    pub links: BTreeMap<String, Link>,
    /// Path below the root -> log file.
    pub files: BTreeMap<String, FileMeta>,
    /// Path of a key at which something else than a link stands -> what it is.
    pub misplaced: BTreeMap<String, &'static str>,
}

impl Snapshot {
    /// The live link of a key; `None` when absent or deleted.
    pub fn get(&self, key: &Key) -> Option<&Link> {
        self.links
            .get(&key.path())
            .filter(|l| !l.value.is_deleted())
    }
    /// Its text; `None` when absent, deleted or not UTF-8.
    pub fn text(&self, key: &Key) -> Option<&str> {
        self.get(key)?.value.as_str()
    }
    /// Its text; `None` also when it does not have the form that its key demands. For what is shown as it is: it stays on one line.
    pub fn sound_text(&self, key: &Key) -> Option<&str> {
        let link = self.get(key)?;
        has_form(key, &link.value).then(|| link.value.as_str())?
    }
    /// The stamp of the live link.
    pub fn stamp(&self, key: &Key) -> Option<Stamp> {
        Some(self.get(key)?.stamp)
    }
    /// An unsigned number; `None` when absent or damaged.
    pub fn number(&self, key: &Key) -> Option<u64> {
        let text = self.text(key)?;
        // `parse` alone would take a plus sign.
        text.bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| text.parse().ok())?
    }
    /// A signed number.
    pub fn signed(&self, key: &Key) -> Option<i64> {
        self.text(key)?.parse().ok()
    }
    /// A switch: any non-zero integer is on; absent, deleted, damaged is off.
    pub fn is_on(&self, key: &Key) -> bool {
        self.signed(key).is_some_and(|n| n != 0)
    }
    /// A host name; `None` when absent, damaged or `(none)`.
    pub fn host(&self, key: &Key) -> Option<HostName> {
        self.text(key)?.parse().ok()
    }
    /// `replay-HOST`.
    pub fn replay(&self, res: &ResName, host: &HostName) -> Option<ReplayPos> {
        self.text(&Key::Replay(res.clone(), host.clone()))?
            .parse()
            .ok()
    }
    /// `version-NR-HOST`.
    pub fn version(&self, res: &ResName, nr: u32, host: &HostName) -> Option<VersionLink> {
        self.text(&Key::Version(res.clone(), nr, host.clone()))?
            .parse()
            .ok()
    }
    /// All live version links of a resource: (number, owner, link), by number then owner.
    pub fn versions(&self, res: &ResName) -> Vec<(u32, HostName, VersionLink)> {
        // Nine digits each, so the order of the paths is the order that is promised.
        self.live_below(&format!("resource-{res}/version-"))
            .filter_map(|(path, link)| match Key::parse(path) {
                Key::Version(_, nr, host) => Some((nr, host, link.value.as_str()?.parse().ok()?)),
                _ => None,
            })
            .collect()
    }
    /// Local log files of a resource, by number then creator.
    pub fn logs(&self, res: &ResName) -> Vec<(LogName, FileMeta)> {
        below(&self.files, &format!("resource-{res}/log-"))
            .filter_map(|(path, meta)| match Key::parse(path) {
                Key::Log(_, log) => Some((log, *meta)),
                _ => None,
            })
            .collect()
    }
    /// A switch of `todo-HOST/`.
    pub fn todo(&self, res: &ResName, host: &HostName, switch: TodoSwitch) -> bool {
        self.is_on(&Key::Todo(res.clone(), host.clone(), switch))
    }
    /// A number of `actual-HOST/` of a resource (`is-primary`, `open-count`, ...); `None` when unknown.
    pub fn actual(&self, res: &ResName, host: &HostName, name: &str) -> Option<i64> {
        self.signed(&Key::Actual(res.clone(), host.clone(), name.to_string()))
    }
    /// Cluster hosts: live `ips/ip-*`, sorted.
    pub fn hosts(&self) -> Vec<HostName> {
        let hosts = self
            .live_below("ips/ip-")
            .filter_map(|(path, _)| match Key::parse(path) {
                Key::Ip(h) => Some(h),
                _ => None,
            });
        sorted(hosts.collect())
    }
    /// All resources that have any live link, sorted digit-aware (`r2` before `r10`).
    pub fn resources(&self) -> Vec<ResName> {
        const DIR: &str = "resource-";
        let mut found: Vec<ResName> = Vec::new();
        let mut from = DIR.to_string();
        // From one directory to the next: a large tree has many links in each.
        while let Some((path, _)) = self.links.range(from..).next() {
            let Some(rest) = path.strip_prefix(DIR) else {
                break;
            };
            let Some((name, _)) = rest.split_once('/') else {
                from = format!("{path}\0");
                continue;
            };
            if self.live_below(&format!("{DIR}{name}/")).next().is_some() {
                found.extend(name.parse());
            }
            // The character behind the slash.
            from = format!("{DIR}{name}0");
        }
        sorted(found)
    }
    /// Members of a resource: hosts with live `data-HOST` (or `replay-HOST`), sorted digit-aware.
    pub fn members(&self, res: &ResName) -> Vec<HostName> {
        let hosts: std::collections::BTreeSet<HostName> = ["data-", "replay-"]
            .iter()
            .flat_map(|what| self.live_below(&format!("resource-{res}/{what}")))
            .filter_map(|(path, _)| match Key::parse(path) {
                Key::Data(_, h) | Key::Replay(_, h) => Some(h),
                _ => None,
            })
            .collect();
        sorted(hosts.into_iter().collect())
    }
    /// Links whose value does not have the form that their key demands, and keys that are no links: (path, shortened value, or what
    /// stands there in parentheses).
    pub fn damaged(&self) -> Vec<(String, String)> {
        let values = self
            .live_below("")
            .filter(|(path, link)| !has_form(&Key::parse(path), &link.value))
            .map(|(path, link)| {
                let text = String::from_utf8_lossy(link.value.as_bytes());
                (path.clone(), text.chars().take(80).collect())
            });
        let mut all: Vec<(String, String)> = values.collect();
        let misplaced = self.misplaced.iter();
        all.extend(misplaced.map(|(path, what)| (path.clone(), format!("({what})"))));
        all.sort();
        all
    }
    /// Inserts a link (tests and in-memory trees); remote rules are not applied. A value that no link can have is ignored.
    pub fn insert(&mut self, key: &Key, value: &str, stamp: Stamp) {
        if let Ok(value) = Value::new(value) {
            self.links.insert(key.path(), Link { value, stamp });
        }
    }
    /// Live links whose path begins with `prefix`, in order of their paths.
    pub fn live_below<'a>(
        &'a self,
        prefix: &str,
    ) -> impl Iterator<Item = (&'a String, &'a Link)> + use<'a> {
        below(&self.links, prefix).filter(|(_, l)| !l.value.is_deleted())
    }
}

/// Entries whose path begins with `prefix`.
fn below<'a, T>(
    map: &'a BTreeMap<String, T>,
    prefix: &str,
) -> impl Iterator<Item = (&'a String, &'a T)> + use<'a, T> {
    let prefix = prefix.to_string();
    map.range(prefix.clone()..)
        .take_while(move |(path, _)| path.starts_with(&prefix))
}

fn sorted<T: AsRef<str>>(mut names: Vec<T>) -> Vec<T> {
    names.sort_by(|a, b| digit_aware_cmp(a.as_ref(), b.as_ref()));
    names
}

/// Order of names in which digit runs compare as numbers: `r2` < `r10`. A total order: names that differ only in leading
/// zeros are ordered as text.
pub fn digit_aware_cmp(a: &str, b: &str) -> Ordering {
    let (mut x, mut y) = (a.as_bytes(), b.as_bytes());
    loop {
        match (x.first(), y.first()) {
            (Some(c), Some(d)) if c.is_ascii_digit() && d.is_ascii_digit() => {
                let (m, rest_x) = digits(x);
                let (n, rest_y) = digits(y);
                // Without leading zeros the longer run is the larger number, of any size.
                match m.len().cmp(&n.len()).then_with(|| m.cmp(n)) {
                    Ordering::Equal => (x, y) = (rest_x, rest_y),
                    other => return other,
                }
            }
            (Some(c), Some(d)) if c == d => (x, y) = (&x[1..], &y[1..]),
            (None, None) => return a.cmp(b),
            (c, d) => return c.cmp(&d),
        }
    }
}

/// The digit run at the beginning, without leading zeros, and what follows it.
fn digits(s: &[u8]) -> (&[u8], &[u8]) {
    let end = s
        .iter()
        .position(|c| !c.is_ascii_digit())
        .unwrap_or(s.len());
    let (run, rest) = s.split_at(end);
    let zeros = run.iter().position(|c| *c != b'0').unwrap_or(run.len());
    (&run[zeros..], rest)
}
