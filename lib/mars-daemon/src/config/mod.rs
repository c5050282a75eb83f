//! `$MARS_ETC_DIR/mars.conf` (TOML) and the drop-ins `$MARS_ETC_DIR/mars.conf.d/*.toml`, all optional. Unknown keys and bad values are refused
//! with file and line; nothing starts with half a configuration.
//!
//! Drop-ins are read after the file, in the order of their names; the last value of a key counts. A value in `[resource.NAME]` goes before
//! one at the top level, wherever they stand.
mod keys;
mod parse;
mod render;

pub use keys::{ABSENT, Apply, Kind, RENAMED, Scope, TUNABLES, Tunable, find};
pub use parse::parse_file;
pub use render::{example, man_keys, markdown};

use keys::*;
use mars_tree::{HostEnv, ResName};
use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Larger files are no configuration.
const FILE_MAX: u64 = 1 << 20;
const MIB: u64 = 1 << 20;

/// A value.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Value {
    /// A number in the unit of the key.
    Number(u64),
    /// One of the words of the key.
    Word(&'static str),
    /// A switch.
    Bool(bool),
}

impl fmt::Display for Value {
    /// As it stands in the file.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Number(n) => n.fmt(f),
            Value::Word(w) => write!(f, "\"{w}\""),
            Value::Bool(b) => b.fmt(f),
        }
    }
}

/// Where a value comes from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Source {
    /// File.
    pub file: Arc<Path>,
    /// Line, from 1.
    pub line: usize,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file.display(), self.line)
    }
}

/// What is wrong with one place of the configuration.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// File.
    pub file: PathBuf,
    /// Line, from 1, if it is known.
    pub line: Option<usize>,
    /// One line: which key, which value, what would be right.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(n) = self.line {
            write!(f, "{n}:")?;
        }
        write!(f, " {}", self.text)
    }
}

/// The configuration cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
pub struct ConfigError(pub Vec<Problem>);

impl fmt::Display for ConfigError {
    /// One line; `marsadm config check` shows all.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.split_first() {
            None => f.write_str("bad configuration"),
            Some((first, [])) => first.fmt(f),
            Some((first, rest)) => write!(
                f,
                "{first} (and {} more; see marsadm config check)",
                rest.len()
            ),
        }
    }
}

type Entries = BTreeMap<&'static str, (Value, Source)>;

/// The whole configuration.
#[derive(Clone, Debug, Default)]
pub struct Config {
    host: Entries,
    resources: BTreeMap<String, Entries>,
    files: Vec<PathBuf>,
}

/// Durability mode (architecture.md).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// Acknowledged after fdatasync of the log batch.
    Strict,
    /// Volatile write cache announced; FLUSH and FUA make durable.
    Flush,
}

/// Front end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FrontChoice {
    /// The first that the host offers.
    Auto,
    /// FUSE file and loop device.
    Fuse,
    /// NBD over a unix socket.
    NbdSocket,
}

/// Compression of log records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogCompression {
    /// Records are stored as they are.
    None,
    /// LZ4 blocks.
    Lz4,
    /// zlib streams.
    Zlib,
}

/// Digest of log records.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LogDigest {
    /// CRC32C, the default.
    Crc32c,
    /// MD5.
    Md5,
}

/// Values of the logger for one resource.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResourceConfig {
    /// Front end.
    pub front: FrontChoice,
    /// Durability.
    pub durability: Durability,
    /// Limit of the dirty buffer in bytes (default 256 MiB), at most a share of the memory of the host.
    pub buffer_limit_bytes: u64,
    /// Compression of log records (default none).
    pub log_compression: LogCompression,
    /// Level of zlib, 1 to 9.
    pub zlib_level: u32,
    /// Digest of log records (default CRC32C).
    pub log_digest: LogDigest,
    /// Automatic rotation at this log size in bytes; 0 = off (default 32 GiB).
    pub rotate_bytes: u64,
    /// Zeros that are written ahead of the log while commits are small, in bytes; 0 = none (default 4 MiB).
    pub prepare_bytes: u64,
    /// Write-back starts after this time at the latest, even when there is little to write (default 5 s), and after a fifth of it when
    /// nothing more comes.
    pub writeback_age: Duration,
    /// Write-back starts early enough that recovery finds about this many bytes of log at most (default 1 GiB).
    pub recovery_limit_bytes: u64,
    /// Logging resumes by itself after an emergency.
    pub resume: bool,
}

/// A key with its effective value.
#[derive(Clone, Debug)]
pub struct Effective {
    /// Which.
    pub key: &'static Tunable,
    /// What counts.
    pub value: Value,
    /// Why; `None` = the default.
    pub source: Option<Source>,
}

/// A value that became another one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    /// `old -> new`.
    pub text: String,
    /// When it takes effect.
    pub apply: Apply,
}

impl Config {
    /// Reads `mars.conf` and its drop-ins, as far as they exist.
    pub fn load(env: &HostEnv) -> Result<Config, ConfigError> {
        let main = env.etc_dir.join("mars.conf");
        let mut files = vec![main.clone()];
        files.extend(drop_ins(&main.with_extension("conf.d"))?);
        let mut config = Config::default();
        let mut problems = Vec::new();
        for file in files {
            match read(&file) {
                Ok(Some(text)) => config.add(&file, &text, &mut problems),
                Ok(None) => {}
                Err(e) => problems.push(unreadable(&file, &e)),
            }
        }
        config.finish(problems)
    }

    /// Reads one file only.
    pub fn load_file(file: &Path) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        let mut problems = Vec::new();
        match read(file) {
            Ok(Some(text)) => config.add(file, &text, &mut problems),
            Ok(None) => problems.push(unreadable(file, &std::io::ErrorKind::NotFound.into())),
            Err(e) => problems.push(unreadable(file, &e)),
        }
        config.finish(problems)
    }

    /// Reads a text (tests).
    pub fn parse(text: &str) -> Result<Config, ConfigError> {
        let mut config = Config::default();
        let mut problems = Vec::new();
        config.add(Path::new("mars.conf"), text, &mut problems);
        config.finish(problems)
    }

    fn add(&mut self, file: &Path, text: &str, problems: &mut Vec<Problem>) {
        self.files.push(file.to_path_buf());
        for (section, key, value, source) in parse_file(file, text, problems) {
            let entries = match section {
                None => &mut self.host,
                Some(res) => self.resources.entry(res).or_default(),
            };
            entries.insert(key.name, (value, source));
        }
    }

    fn finish(self, problems: Vec<Problem>) -> Result<Config, ConfigError> {
        if problems.is_empty() {
            Ok(self)
        } else {
            Err(ConfigError(problems))
        }
    }

    /// Files that were read.
    pub fn files(&self) -> &[PathBuf] {
        &self.files
    }

    /// Names that have a section of their own.
    pub fn sections(&self) -> impl Iterator<Item = &str> {
        self.resources.keys().map(String::as_str)
    }

    fn entry(&self, res: Option<&str>, key: &Tunable) -> Option<&(Value, Source)> {
        let own = res.and_then(|r| self.resources.get(r)?.get(key.name));
        own.or_else(|| self.host.get(key.name))
    }

    fn value(&self, res: Option<&str>, key: &Tunable) -> Value {
        self.entry(res, key).map_or(key.default, |(v, _)| *v)
    }

    fn number(&self, res: Option<&str>, key: &Tunable) -> u64 {
        match self.value(res, key) {
            Value::Number(n) => n,
            // A table with a key of another kind is found by a test.
            _ => 0,
        }
    }

    fn word(&self, res: Option<&str>, key: &Tunable) -> &'static str {
        match self.value(res, key) {
            Value::Word(w) => w,
            _ => "",
        }
    }

    fn seconds(&self, res: &ResName, key: &Tunable) -> Duration {
        Duration::from_secs(self.number(Some(res.as_str()), key))
    }

    /// All keys with what counts for a resource (or for the host).
    pub fn effective(&self, res: Option<&ResName>) -> Vec<Effective> {
        let res = res.map(ResName::as_str);
        let one = |key: &'static Tunable| {
            let entry = self.entry(res, key);
            Effective {
                key,
                value: entry.map_or(key.default, |(v, _)| *v),
                source: entry.map(|(_, s)| s.clone()),
            }
        };
        TUNABLES.iter().map(|key| one(key)).collect()
    }

    /// What is different in `new`, as far as `program` looks at it.
    pub fn changes(&self, new: &Config, program: &str, res: Option<&str>) -> Vec<Change> {
        let used = TUNABLES.iter().filter(|k| k.users.contains(&program));
        used.filter_map(|key| {
            let (a, b) = (self.value(res, key), new.value(res, key));
            (a != b).then(|| Change {
                text: format!("{} {a} -> {b}", key.name),
                apply: key.apply,
            })
        })
        .collect()
    }

    /// Values of the logger: the resource's own section, else the top level, else the default.
    pub fn resource(&self, res: &ResName) -> ResourceConfig {
        let r = Some(res.as_str());
        let share = self.number(r, &MEM_LIMIT_PERCENT);
        ResourceConfig {
            front: match self.word(r, &FRONT) {
                "fuse" => FrontChoice::Fuse,
                "nbd-socket" => FrontChoice::NbdSocket,
                _ => FrontChoice::Auto,
            },
            durability: match self.word(r, &DURABILITY) {
                "flush" => Durability::Flush,
                _ => Durability::Strict,
            },
            buffer_limit_bytes: buffer_limit(
                self.number(r, &BUFFER_LIMIT_MIB) * MIB,
                share,
                memory(),
            ),
            log_compression: match self.word(r, &LOG_COMPRESSION) {
                "lz4" => LogCompression::Lz4,
                "zlib" => LogCompression::Zlib,
                _ => LogCompression::None,
            },
            zlib_level: u32::try_from(self.number(r, &ZLIB_COMPRESS_LEVEL)).unwrap_or(3),
            log_digest: match self.word(r, &LOG_DIGEST) {
                "md5" => LogDigest::Md5,
                _ => LogDigest::Crc32c,
            },
            rotate_bytes: self.number(r, &LOGROT_AUTO_MIB) * MIB,
            prepare_bytes: self.number(r, &LOG_PREPARE_MIB) * MIB,
            writeback_age: Duration::from_millis(self.number(r, &WRITEBACK_AGE_MS)),
            recovery_limit_bytes: self.number(r, &RECOVERY_LIMIT_MIB) * MIB,
            resume: self.value(r, &LOGGER_RESUME) == Value::Bool(true),
        }
    }

    /// Silence after which mars-fetch gives a connection up.
    pub fn fetch_timeout(&self, res: &ResName) -> Duration {
        self.seconds(res, &FETCH_TIMEOUT_S)
    }

    /// Silence after which mars-sync gives a connection up.
    pub fn sync_timeout(&self, res: &ResName) -> Duration {
        self.seconds(res, &SYNC_TIMEOUT_S)
    }

    /// Interval of the heartbeat, default 5 s.
    pub fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.number(None, &HEARTBEAT_MS))
    }

    /// Bytes that a file system needs to have emergency levels 1 to 4 at all.
    pub fn required_total_bytes(&self) -> u64 {
        self.number(None, &REQUIRED_TOTAL_SPACE_0_GB) << 30
    }

    /// Shares of the emergency levels 1 to 4 in bytes.
    pub fn required_free_bytes(&self) -> [u64; 4] {
        [
            &REQUIRED_FREE_SPACE_1_GB,
            &REQUIRED_FREE_SPACE_2_GB,
            &REQUIRED_FREE_SPACE_3_GB,
            &REQUIRED_FREE_SPACE_4_GB,
        ]
        .map(|key| self.number(None, key) << 30)
    }

    /// How many small logs keep `log-rotate` from making more.
    pub fn thresh_logfiles(&self) -> usize {
        usize::try_from(self.number(None, &THRESH_LOGFILES)).unwrap_or(usize::MAX)
    }

    /// From this size in bytes on a log is not small.
    pub fn thresh_logsize_bytes(&self) -> u64 {
        self.number(None, &THRESH_LOGSIZE_GB) * 1_000_000_000
    }

    /// Port of the metadata.
    pub fn port(&self) -> u16 {
        u16::try_from(self.number(None, &MARS_PORT)).unwrap_or(7777)
    }

    /// Level of the log lines of daemons.
    pub fn log_level(&self) -> &'static str {
        self.word(None, &LOG_LEVEL)
    }
}

/// The wish, bounded by a share of the memory, but never below what the engine needs.
fn buffer_limit(wish: u64, percent: u64, memory: Option<u64>) -> u64 {
    let share = memory.map_or(u64::MAX, |m| m / 100 * percent);
    wish.min(share.max(4 * MIB))
}

/// Bytes of memory of this host (`MemTotal`).
fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|l| l.strip_prefix("MemTotal:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

fn unreadable(file: &Path, e: &std::io::Error) -> Problem {
    Problem {
        file: file.to_path_buf(),
        line: None,
        text: e.to_string(),
    }
}

/// Names that end with `.toml`, sorted.
fn drop_ins(dir: &Path) -> Result<Vec<PathBuf>, ConfigError> {
    let bad = |e: &std::io::Error| ConfigError(vec![unreadable(dir, e)]);
    let entries = match std::fs::read_dir(dir) {
        Ok(e) => e,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(e) => return Err(bad(&e)),
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.map_err(|e| bad(&e))?.path();
        let hidden = path
            .file_name()
            .is_none_or(|n| n.to_string_lossy().starts_with('.'));
        if !hidden && path.extension().is_some_and(|e| e == "toml") {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// The text of a file, bounded; nothing when it does not exist.
fn read(file: &Path) -> std::io::Result<Option<String>> {
    let meta = match std::fs::metadata(file) {
        Ok(m) => m,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(e),
    };
    if meta.len() > FILE_MAX || !meta.is_file() {
        let why = "this is no configuration file (a plain file of at most 1 MiB is needed)";
        return Err(std::io::Error::other(why));
    }
    std::fs::read_to_string(file).map(Some)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
