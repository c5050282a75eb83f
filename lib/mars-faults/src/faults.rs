//! The rules in force, and their counters.
use crate::disk::FaultyDisk;
use crate::log::FaultyStore;
use crate::rules::{BadRule, Op, Rules};
use crate::seek::SeekDisk;
use mars_disk::DataDisk;
use mars_logger::io::LogStore;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Environment variable with the path of the trigger file.
pub const ENV: &str = "MARS_FAULTS";
/// How often a hanging operation looks whether it may go on.
const HANG_LOOK: Duration = Duration::from_millis(10);

/// Identity of a file's content.
type Version = (u64, u64, i64, i64);

#[derive(Default)]
struct State {
    rules: Rules,
    /// Operations seen, operations hit, and bytes passed, per rule.
    seen: Vec<(u64, u64, u64)>,
    version: Option<Version>,
}

/// Switchable faults.
#[derive(Default)]
pub struct Faults {
    file: Option<PathBuf>,
    state: Mutex<State>,
}

/// What an operation shall do.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub fail: Option<i32>,
    /// Bytes of a failing write that are written all the same.
    pub part: u64,
    pub lose: bool,
    delay: Duration,
    hang: bool,
}

impl Faults {
    /// Rules from the file that `$MARS_FAULTS` names; none without it.
    pub fn from_env() -> Arc<Faults> {
        Arc::new(Faults {
            file: std::env::var_os(ENV).map(PathBuf::from),
            state: Mutex::default(),
        })
    }

    /// Rules from a file that may appear, change and disappear at any time.
    pub fn watching(file: &Path) -> Arc<Faults> {
        Arc::new(Faults {
            file: Some(file.to_path_buf()),
            state: Mutex::default(),
        })
    }

    /// Rules that only [`Faults::set`] changes.
    pub fn fixed(text: &str) -> Result<Arc<Faults>, BadRule> {
        let f = Faults::default();
        f.set(text)?;
        Ok(Arc::new(f))
    }

    /// Replaces the rules.
    pub fn set(&self, text: &str) -> Result<(), BadRule> {
        let rules = Rules::parse(text)?;
        let mut st = self.lock();
        st.seen = vec![(0, 0, 0); rules.rules.len()];
        st.rules = rules;
        Ok(())
    }

    /// So many operations were hit since the rules were read.
    pub fn hits(&self) -> u64 {
        self.lock().seen.iter().map(|s| s.1).sum()
    }

    /// A disk that fails as the rules say.
    pub fn disk(self: &Arc<Faults>, inner: Arc<dyn DataDisk>) -> Arc<dyn DataDisk> {
        let seek = self.lock_fresh().rules.seek;
        let inner: Arc<dyn DataDisk> = match seek {
            Some(size) => Arc::new(SeekDisk::new(inner, size)),
            None => inner,
        };
        Arc::new(FaultyDisk::new(Arc::clone(self), inner))
    }

    /// Logs that fail as the rules say.
    pub fn store(self: &Arc<Faults>, inner: Box<dyn LogStore>) -> Box<dyn LogStore> {
        Box::new(FaultyStore::new(Arc::clone(self), inner))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// With the rules as the file has them now.
    fn lock_fresh(&self) -> MutexGuard<'_, State> {
        let Some(file) = &self.file else {
            return self.lock();
        };
        let version = std::fs::metadata(file)
            .ok()
            .map(|m| (m.ino(), m.len(), m.mtime(), m.mtime_nsec()));
        let mut st = self.lock();
        if st.version != version {
            let text = std::fs::read_to_string(file).unwrap_or_default();
            match Rules::parse(&text) {
                Ok(rules) => {
                    st.seen = vec![(0, 0, 0); rules.rules.len()];
                    st.rules = rules;
                }
                Err(e) => eprintln!("{}: {e}", file.display()),
            }
            st.version = version;
        }
        st
    }

    /// Is there any rule for this operation?
    pub(crate) fn concerns(&self, op: Op) -> bool {
        self.lock_fresh().rules.rules.iter().any(|r| r.op == op)
    }

    /// May a flush lose what was written?
    pub(crate) fn loses_flushes(&self) -> bool {
        let st = self.lock_fresh();
        st.rules
            .rules
            .iter()
            .any(|r| r.lose && r.op == Op::DiskFlush)
    }

    /// Judges an operation on `[pos, pos + len)`, and waits as long as it shall take.
    pub(crate) fn judge(&self, op: Op, pos: u64, len: u64) -> Verdict {
        loop {
            let v = self.look(op, pos, len);
            std::thread::sleep(v.delay);
            if !v.hang {
                return v;
            }
            std::thread::sleep(HANG_LOOK);
        }
    }

    fn look(&self, op: Op, pos: u64, len: u64) -> Verdict {
        let mut st = self.lock_fresh();
        let State { rules, seen, .. } = &mut *st;
        for (r, (count, hits, passed)) in rules.rules.iter().zip(seen.iter_mut()) {
            let inside = r
                .range
                .is_none_or(|(a, b)| pos < b && a < pos.saturating_add(len));
            if r.op != op || !inside {
                continue;
            }
            *count += 1;
            let part = r.after.saturating_sub(*passed).min(len);
            *passed += part;
            if *count <= r.skip || *hits >= r.times || (r.after > 0 && part == len) {
                continue;
            }
            *hits += 1;
            let part = if r.short { part.max(len / 2) } else { part };
            let v = Verdict {
                fail: r.errno,
                part,
                lose: r.lose,
                delay: r.delay,
                hang: r.hang,
            };
            drop(st);
            self.note(op, pos, len);
            return v;
        }
        Verdict::default()
    }

    /// One line per hit in `FILE.hits`, so that a test can wait for it.
    fn note(&self, op: Op, pos: u64, len: u64) {
        let Some(file) = &self.file else { return };
        let opened = std::fs::OpenOptions::new()
            .append(true)
            .create(true)
            .open(hits_file(file));
        if let Ok(mut f) = opened {
            // Nothing depends on it.
            let _ = f.write_all(format!("{op:?} {pos} {len}\n").as_bytes());
        }
    }
}

/// Where hits are noted.
fn hits_file(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".hits");
    name.into()
}

/// Replaces a trigger file at once, and forgets the hits noted so far.
pub fn switch(file: &Path, rules: &str) -> io::Result<()> {
    Rules::parse(rules).map_err(io::Error::other)?;
    let new = file.with_extension("new");
    std::fs::write(&new, rules)?;
    if let Err(e) = std::fs::remove_file(hits_file(file))
        && e.kind() != io::ErrorKind::NotFound
    {
        return Err(e);
    }
    std::fs::rename(new, file)
}
