//! `$MARS_ETC_DIR/mars.conf` (TOML), optional; unknown keys and bad values are refused with file and line.
//!
//! ```toml
//! front = "auto"                 # auto | fuse | nbd-socket
//! durability = "strict"          # strict | flush
//! buffer_limit_mib = 256         # dirty buffer per resource
//! writeback_age_ms = 5000        # write-back starts after this time at the latest
//! recovery_limit_mib = 1024      # and early enough that recovery finds about this much log at most
//! log_compression = "none"       # none | lz4 | zlib
//! log_digest = "crc32c"          # crc32c | md5
//! logrot_auto_mib = 32768        # 0 = off
//! log_prepare_mib = 4            # zeros ahead of the log while commits are small; 0 = none
//! heartbeat_ms = 5000            # for the whole host only
//! [resource.mydata]              # the same keys for one resource
//! durability = "flush"
//! ```
use mars_tree::{HostEnv, ResName};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Durability mode (architecture.md).
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Durability {
    /// Acknowledged after fdatasync of the log batch.
    Strict,
    /// Volatile write cache announced; FLUSH and FUA make durable.
    Flush,
}

/// Front end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FrontChoice {
    /// The first that the host offers.
    Auto,
    /// FUSE file and loop device.
    Fuse,
    /// NBD over a unix socket.
    NbdSocket,
}

/// Compression of log records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogCompression {
    /// Records are stored as they are.
    None,
    /// LZ4 blocks.
    Lz4,
    /// zlib streams.
    Zlib,
}

/// Digest of log records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogDigest {
    /// CRC32C, the default.
    Crc32c,
    /// MD5.
    Md5,
}

/// Values for one resource.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ResourceConfig {
    /// Front end.
    pub front: FrontChoice,
    /// Durability.
    pub durability: Durability,
    /// Limit of the dirty buffer in bytes (default 256 MiB).
    pub buffer_limit_bytes: u64,
    /// Compression of log records (default none).
    pub log_compression: LogCompression,
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
}

/// One table of the file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ResourceTable {
    front: Option<FrontChoice>,
    durability: Option<Durability>,
    buffer_limit_mib: Option<u64>,
    writeback_age_ms: Option<u64>,
    recovery_limit_mib: Option<u64>,
    log_compression: Option<LogCompression>,
    log_digest: Option<LogDigest>,
    logrot_auto_mib: Option<u64>,
    log_prepare_mib: Option<u64>,
}

/// The file. The keys of [`ResourceTable`] stand at its top level too (serde's `flatten` would lose the refusal of
/// unknown keys, so they are listed again).
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    front: Option<FrontChoice>,
    durability: Option<Durability>,
    buffer_limit_mib: Option<u64>,
    writeback_age_ms: Option<u64>,
    recovery_limit_mib: Option<u64>,
    log_compression: Option<LogCompression>,
    log_digest: Option<LogDigest>,
    logrot_auto_mib: Option<u64>,
    log_prepare_mib: Option<u64>,
    heartbeat_ms: Option<u64>,
    #[serde(default)]
    resource: BTreeMap<String, ResourceTable>,
}

/// The whole configuration.
#[derive(Clone, Debug, Default)]
pub struct Config {
    file: File,
}

/// What is wrong with the configuration.
#[derive(Debug, thiserror::Error)]
#[error("{file}: {message}")]
pub struct ConfigError {
    /// File.
    pub file: String,
    /// One line, with the line number and the value.
    pub message: String,
}

const MIB: u64 = 1 << 20;

impl Config {
    /// Reads the file if it exists.
    pub fn load(env: &HostEnv) -> Result<Config, ConfigError> {
        let path = env.etc_dir.join("mars.conf");
        let text = match std::fs::read_to_string(&path) {
            Ok(t) => t,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => String::new(),
            Err(e) => {
                return Err(ConfigError {
                    file: path.display().to_string(),
                    message: e.to_string(),
                });
            }
        };
        Config::parse(&text).map_err(|message| ConfigError {
            file: path.display().to_string(),
            message,
        })
    }

    /// Reads the text of a configuration file; the error is one line.
    pub fn parse(text: &str) -> Result<Config, String> {
        let file: File = toml::from_str(text).map_err(|e: toml::de::Error| {
            let line = e
                .span()
                .map(|s| text[..s.start.min(text.len())].matches('\n').count() + 1);
            let what = e.message().replace('\n', " ");
            line.map_or(what.clone(), |n| format!("line {n}: {what}"))
        })?;
        let config = Config { file };
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), String> {
        let f = &self.file;
        let limits = std::iter::once((
            "",
            f.buffer_limit_mib,
            f.writeback_age_ms,
            f.recovery_limit_mib,
            f.logrot_auto_mib,
            f.log_prepare_mib,
        ))
        .chain(f.resource.iter().map(|(n, r)| {
            (
                n.as_str(),
                r.buffer_limit_mib,
                r.writeback_age_ms,
                r.recovery_limit_mib,
                r.logrot_auto_mib,
                r.log_prepare_mib,
            )
        }));
        for (name, buffer, age, recovery, rotate, prepare) in limits {
            let place = if name.is_empty() {
                String::new()
            } else {
                format!("[resource.{name}] ")
            };
            if !name.is_empty() {
                name.parse::<ResName>().map_err(|e| format!("{place}{e}"))?;
            }
            range(&place, "buffer_limit_mib", buffer, 4, 65536)?;
            range(&place, "writeback_age_ms", age, 1, 900_000)?;
            range(&place, "recovery_limit_mib", recovery, 8, 1 << 20)?;
            range(&place, "logrot_auto_mib", rotate, 0, 1 << 24)?;
            range(&place, "log_prepare_mib", prepare, 0, 1024)?;
        }
        range("", "heartbeat_ms", f.heartbeat_ms, 100, 30_000)
    }

    /// Values for a resource: its own table, else the top level, else the default.
    pub fn resource(&self, res: &ResName) -> ResourceConfig {
        let f = &self.file;
        let own = f.resource.get(res.as_str()).cloned().unwrap_or_default();
        ResourceConfig {
            front: own.front.or(f.front).unwrap_or(FrontChoice::Auto),
            durability: own
                .durability
                .or(f.durability)
                .unwrap_or(Durability::Strict),
            buffer_limit_bytes: own.buffer_limit_mib.or(f.buffer_limit_mib).unwrap_or(256) * MIB,
            log_compression: own
                .log_compression
                .or(f.log_compression)
                .unwrap_or(LogCompression::None),
            log_digest: own.log_digest.or(f.log_digest).unwrap_or(LogDigest::Crc32c),
            rotate_bytes: own
                .logrot_auto_mib
                .or(f.logrot_auto_mib)
                .unwrap_or(32 * 1024)
                * MIB,
            prepare_bytes: own.log_prepare_mib.or(f.log_prepare_mib).unwrap_or(4) * MIB,
            writeback_age: Duration::from_millis(
                own.writeback_age_ms.or(f.writeback_age_ms).unwrap_or(5000),
            ),
            recovery_limit_bytes: own
                .recovery_limit_mib
                .or(f.recovery_limit_mib)
                .unwrap_or(1024)
                * MIB,
        }
    }

    /// Interval of the heartbeat, default 5 s.
    pub fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.file.heartbeat_ms.unwrap_or(5000))
    }
}

fn range(place: &str, key: &str, value: Option<u64>, min: u64, max: u64) -> Result<(), String> {
    match value {
        Some(v) if v < min || v > max => Err(format!("{place}{key} = {v}: must be {min} to {max}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn config_resource_section_overrides_top_level_and_default() {
        let c = Config::parse("durability = \"flush\"\n[resource.a]\nfront = \"nbd-socket\"\ndurability = \"strict\"\nbuffer_limit_mib = 8\n").unwrap();
        let a = c.resource(&"a".parse().unwrap());
        let b = c.resource(&"b".parse().unwrap());
        assert_eq!(
            (a.front, a.durability, a.buffer_limit_bytes),
            (FrontChoice::NbdSocket, Durability::Strict, 8 * MIB)
        );
        assert_eq!(
            (b.front, b.durability, b.buffer_limit_bytes),
            (FrontChoice::Auto, Durability::Flush, 256 * MIB)
        );
    }

    #[test]
    fn config_errors_name_line_and_value() {
        let unknown = Config::parse("front = \"auto\"\nfrunt = 1\n").unwrap_err();
        assert!(
            unknown.starts_with("line 2:") && unknown.contains("frunt"),
            "{unknown}"
        );
        let bad = Config::parse("\n\nfront = \"ublk9\"").unwrap_err();
        assert!(bad.starts_with("line 3:") && bad.contains("ublk9"), "{bad}");
        let small = Config::parse("[resource.x]\nbuffer_limit_mib = 1").unwrap_err();
        assert_eq!(
            small,
            "[resource.x] buffer_limit_mib = 1: must be 4 to 65536"
        );
        assert!(Config::parse("[resource.\"a/b\"]\n").is_err());
        assert!(!Config::parse("x = [").unwrap_err().contains('\n'));
    }
}
