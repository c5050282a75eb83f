//! The tunables: one table from which the parser, its messages, the documents and the example file come.
use super::Value;

/// Where a tunable may stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Scope {
    /// Top level only: one value for the host.
    Host,
    /// Top level (for all resources) and `[resource.NAME]`.
    Resource,
}

/// What may be given.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A whole number within these limits.
    Number(u64, u64),
    /// One of these words.
    Word(&'static [&'static str]),
    /// `true` or `false`.
    Bool,
}

impl Kind {
    /// What is allowed, in words.
    pub fn allowed(self) -> String {
        match self {
            Kind::Number(min, max) => format!("{min} to {max}"),
            Kind::Word(words) => words.join(", "),
            Kind::Bool => "true, false".to_string(),
        }
    }
}

/// When a changed value takes effect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Apply {
    /// At `systemctl reload`.
    Reload,
    /// When the daemon is started again.
    Restart,
}

/// One tunable.
#[derive(Debug)]
pub struct Tunable {
    /// Key in the file.
    pub name: &'static str,
    /// What may be given.
    pub kind: Kind,
    /// Without it.
    pub default: Value,
    /// Unit of a number, else empty.
    pub unit: &'static str,
    /// Where it may stand.
    pub scope: Scope,
    /// Programs that look at it, by the names of their files.
    pub users: &'static [&'static str],
    /// When a change takes effect.
    pub apply: Apply,
    /// What it does.
    pub help: &'static str,
}

const LOGGER: &[&str] = &["mars-logger"];
const META: &[&str] = &["mars-meta"];
const TOOL: &[&str] = &["marsadm"];
const DAEMONS: &[&str] = &[
    "mars-meta",
    "mars-logger",
    "mars-replay",
    "mars-fetch",
    "mars-sync",
];
const ALL: &[&str] = &[
    "mars-meta",
    "mars-logger",
    "mars-replay",
    "mars-fetch",
    "mars-sync",
    "marsadm",
];

macro_rules! tunables {
    ($($id:ident $name:literal $kind:expr, $default:expr, $unit:literal, $scope:ident, $users:ident, $apply:ident, $help:literal;)*) => {
        $(#[doc = $help] pub static $id: Tunable = Tunable {
            name: $name,
            kind: $kind,
            default: $default,
            unit: $unit,
            scope: Scope::$scope,
            users: $users,
            apply: Apply::$apply,
            help: $help,
        };)*
        /// All of them, in the order of the documents.
        pub static TUNABLES: &[&Tunable] = &[$(&$id),*];
    };
}

use Kind::{Bool, Number, Word};
use Value::{Bool as B, Number as N, Word as W};

tunables! {
    FRONT "front" Word(&["auto", "fuse", "nbd-socket"]), W("auto"), "", Resource, LOGGER, Restart,
        "Device front end: auto (fuse where possible, else nbd-socket), fuse, nbd-socket.";
    DURABILITY "durability" Word(&["strict", "flush"]), W("strict"), "", Resource, LOGGER, Restart,
        "strict: a write is acknowledged when its log batch has been fdatasync'ed. flush: the device announces a volatile write cache; writes are acknowledged when they stand in the log, FLUSH and FUA make them durable.";
    BUFFER_LIMIT_MIB "buffer_limit_mib" Number(4, 65536), N(256), "MiB", Resource, LOGGER, Reload,
        "Written data per resource that may wait in memory for write-back; writers wait beyond that.";
    MEM_LIMIT_PERCENT "mem_limit_percent" Number(1, 70), N(20), "% of RAM", Resource, LOGGER, Reload,
        "Upper bound of buffer_limit_mib on small hosts, per resource.";
    WRITEBACK_AGE_MS "writeback_age_ms" Number(1, 900_000), N(5000), "ms", Resource, LOGGER, Reload,
        "Write-back starts after this time at the latest, after a fifth of it when nothing more is written.";
    RECOVERY_LIMIT_MIB "recovery_limit_mib" Number(8, 1 << 20), N(1024), "MiB", Resource, LOGGER, Reload,
        "Write-back starts early enough that recovery finds about this much log to apply at most.";
    LOG_COMPRESSION "log_compression" Word(&["none", "lz4", "zlib"]), W("none"), "", Resource, LOGGER, Reload,
        "Compression of the transaction log, as far as all members of the resource can read it.";
    ZLIB_COMPRESS_LEVEL "zlib_compress_level" Number(1, 9), N(3), "", Resource, LOGGER, Reload,
        "Level of log_compression = \"zlib\": 1 is fast, 9 is small.";
    LOG_DIGEST "log_digest" Word(&["crc32c", "md5"]), W("crc32c"), "", Resource, LOGGER, Reload,
        "Digest of the records of the transaction log, as far as all members of the resource know it.";
    LOGROT_AUTO_MIB "logrot_auto_mib" Number(0, 1 << 24), N(32768), "MiB", Resource, LOGGER, Reload,
        "A new log is begun at this size; 0 = never by itself.";
    LOG_PREPARE_MIB "log_prepare_mib" Number(0, 1024), N(4), "MiB", Resource, LOGGER, Reload,
        "While commits are small the log file is extended ahead with so many MiB of zeros, into which the next commits go at about 0.6 of the time; cut off when the log is closed. 0 = never. Turning it on or off needs a restart.";
    LOGGER_RESUME "logger_resume" Bool, B(true), "", Resource, LOGGER, Reload,
        "Logging resumes by itself after an emergency, as soon as there is space. false: the emergency lasts until the value is true again or the logger is restarted.";
    FETCH_TIMEOUT_S "fetch_timeout_s" Number(10, 3600), N(15), "s", Resource, FETCH, Reload,
        "mars-fetch gives a connection up when nothing comes for so long. Taken over by the next connection.";
    SYNC_TIMEOUT_S "sync_timeout_s" Number(10, 3600), N(60), "s", Resource, SYNC, Reload,
        "mars-sync gives a connection up when nothing comes for so long. Taken over by the next connection.";
    HEARTBEAT_MS "heartbeat_ms" Number(100, 30_000), N(5000), "ms", Host, META, Reload,
        "Interval of the heartbeat of this host.";
    REQUIRED_TOTAL_SPACE_0_GB "required_total_space_0_gb" Number(0, 1 << 20), N(12), "GiB", Host, META, Reload,
        "A file system of the tree that is smaller has no levels 1 to 4: there only \"full\" counts, as level 4.";
    REQUIRED_FREE_SPACE_1_GB "required_free_space_1_gb" Number(0, 1 << 20), N(2), "GiB", Host, META, Reload,
        "Share of level 1: it begins when less than the shares 1 to 4 together is free.";
    REQUIRED_FREE_SPACE_2_GB "required_free_space_2_gb" Number(0, 1 << 20), N(2), "GiB", Host, META, Reload,
        "Share of level 2: it begins when less than the shares 2 to 4 together is free.";
    REQUIRED_FREE_SPACE_3_GB "required_free_space_3_gb" Number(0, 1 << 20), N(2), "GiB", Host, META, Reload,
        "Share of level 3: it begins when less than the shares 3 and 4 together is free.";
    REQUIRED_FREE_SPACE_4_GB "required_free_space_4_gb" Number(0, 1 << 20), N(2), "GiB", Host, META, Reload,
        "Share of level 4: it begins when less than this is free.";
    THRESH_LOGFILES "thresh_logfiles" Number(0, 100_000), N(10), "files", Host, TOOL, Reload,
        "marsadm log-rotate and cron begin no new log while so many small ones exist (option --thresh-logfiles).";
    THRESH_LOGSIZE_GB "thresh_logsize_gb" Number(0, 1 << 20), N(5), "GB", Host, TOOL, Reload,
        "From this size on a log is not small (option --thresh-logsize); as there, 1 GB = 10^9 bytes.";
    MARS_PORT "mars_port" Number(1, 65533), N(7777), "", Host, ALL, Restart,
        "TCP port of the metadata; the next one is for logs, the one after it for syncs. The same on all hosts of a cluster. The variable MARS_PORT goes before it; socket units have their own.";
    LOG_LEVEL "log_level" Word(&["error", "warn", "info", "debug", "trace"]), W("info"), "", Host, DAEMONS, Reload,
        "What daemons write into the journal. The variable MARS_LOG goes before it.";
}

const FETCH: &[&str] = &["mars-fetch"];
const SYNC: &[&str] = &["mars-sync"];

/// A name of the original MARS that is called differently here.
pub struct Renamed {
    /// There.
    pub old: &'static str,
    /// Here.
    pub new: &'static str,
    /// How the value changes.
    pub value: &'static str,
}

const fn renamed(old: &'static str, new: &'static str, value: &'static str) -> Renamed {
    Renamed { old, new, value }
}

/// Names of the original with a counterpart.
pub static RENAMED: &[Renamed] = &[
    renamed("logrot_auto_gb", "logrot_auto_mib", "value x 1024"),
    renamed(
        "mem_limit_gb",
        "buffer_limit_mib",
        "value x 1024; per resource, not for the host",
    ),
    renamed(
        "logger_completion_semantics",
        "durability",
        "2 = \"strict\", 1 = \"flush\"",
    ),
    renamed(
        "aio_sync_mode",
        "durability",
        "the log is always synced with fdatasync; \"flush\" does it less often",
    ),
    renamed(
        "logger_allow_compress",
        "log_compression",
        "0 = \"none\", 1 = \"lz4\" or \"zlib\"",
    ),
    renamed(
        "enabled-log-compressions",
        "log_compression",
        "a word, not bits",
    ),
    renamed("disabled-log-digests", "log_digest", "a word, not bits"),
    renamed(
        "logger_writeback_maxage_s",
        "writeback_age_ms",
        "value x 1000",
    ),
    renamed("scan_interval_sec", "heartbeat_ms", "value x 1000"),
    renamed("propagate_interval_sec", "heartbeat_ms", "value x 1000"),
    renamed("network_io_timeout", "fetch_timeout_s", "same value"),
    renamed("copy_timeout", "sync_timeout_s", "same value"),
    renamed("thresh-logfiles", "thresh_logfiles", "same value"),
    renamed("thresh-logsize", "thresh_logsize_gb", "same value"),
];

/// Names of the original without a counterpart, and why. A `*` stands for any text.
pub static ABSENT: &[(&[&str], &str)] = &[
    (
        &["mars_emergency_mode", "mars_reset_emergency"],
        "the level is computed from the free space and sinks again by itself; it is shown by marsadm view and in the tree",
    ),
    (
        &["emergency-limit"],
        "an emergency begins when the log cannot be written; there is no limit per resource",
    ),
    (
        &[
            "logger_mem_used_kb",
            "write_throttle_size_threshold_kb",
            "sync_nr",
        ],
        "read-only figures; live ones are in marsadm view --json and on D-Bus",
    ),
    (
        &[
            "logger_report_interval_s",
            "logger_replay_timeout_sec",
            "min_update_seconds",
            "mapfree_period_sec",
            "mapfree_grace_keep_mb",
        ],
        "nothing is polled: daemons wait for events, and page cache is given back as soon as it is not needed",
    ),
    (
        &[
            "logger_pressure_limit",
            "logger_disable_pressure",
            "logger_max_interleave",
            "io_tuning/*",
            "writeback_until_percent",
            "writeback_ratelimit_kb",
            "writeback_ratelimit_ops",
            "aio_*_threshold_us",
            "bio_*_threshold_us",
        ],
        "write-back is paced by buffer_limit_mib, recovery_limit_mib and writeback_age_ms; the disk's scheduler does the rest",
    ),
    (
        &["write_throttle_*"],
        "writers wait when the buffer is full; limits of rates belong to the cgroup of the user (systemd.resource-control, IOWriteBandwidthMax=)",
    ),
    (
        &["sync_limit", "sync-limit"],
        "it is the link sync-limit below defaults-HOST in the tree, not a key here",
    ),
    (
        &[
            "sync_flip_interval_sec",
            "do_fast_fullsync",
            "copy_strict_write_order",
            "copy_read_max_fly",
            "copy_write_max_fly",
            "copy_read_prio",
            "copy_write_prio",
            "parallel_connections",
            "parallel_bulk_feed",
        ],
        "a sync always compares digests, runs beside the replay, and keeps a window of a fixed size on one connection",
    ),
    (
        &[
            "client_abort",
            "peer_abort",
            "tcp_tuning_*",
            "ip_tos",
            "tcp_window_size",
            "tcp_nodelay",
            "tcp_timeout",
            "tcp_keepidle",
            "tcp_keepintvl",
            "tcp_keepcnt",
        ],
        "the kernel tunes its TCP buffers itself; dead connections are found by the silence of the peer (fetch_timeout_s, sync_timeout_s)",
    ),
    (
        &[
            "traffic_tuning/*",
            "client_role_traffic_*",
            "server_role_traffic_*",
        ],
        "rate limits of the network belong to tc(8) or the cgroup of the unit",
    ),
    (
        &["alive_window"],
        "it is the option --window of marsadm; who answers is alive, whatever its last heartbeat says",
    ),
    (
        &["max_lamport_future"],
        "fixed to 30 days: a cluster whose hosts disagree about it would refuse each other's stamps",
    ),
    (
        &["disabled-net-digests", "enabled-net-compressions"],
        "they are set for the whole cluster with marsadm set-global-disabled-net-digests and set-global-enabled-net-compressions",
    ),
];

/// Finds a tunable by its name.
pub fn find(name: &str) -> Option<&'static Tunable> {
    TUNABLES.iter().find(|t| t.name == name).copied()
}

/// Does a name fit a pattern with at most one `*`?
fn fits(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((head, tail)) => {
            name.len() >= head.len() + tail.len() && name.starts_with(head) && name.ends_with(tail)
        }
    }
}

/// What to say about a key that does not exist: its name here, why there is none, or the nearest one.
pub fn advice(name: &str) -> String {
    if let Some(r) = RENAMED.iter().find(|r| r.old == name) {
        return format!("{name} is called {} here, {}", r.new, r.value);
    }
    let is = |patterns: &&[&str]| patterns.iter().any(|p| fits(p, name));
    if let Some((_, why)) = ABSENT.iter().find(|(p, _)| is(p)) {
        return format!("{name} has no counterpart: {why}");
    }
    let known = TUNABLES.iter().map(|t| t.name);
    let old = RENAMED.iter().map(|r| r.old);
    match crate::nearest(name, known.chain(old)) {
        Some(near) if find(near).is_some() => format!("did you mean {near}?"),
        Some(near) => format!("did you mean {near}? {}", advice(near)),
        None => "see mars.conf(5) for all keys".to_string(),
    }
}
