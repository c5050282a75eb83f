//! Everything that is asked of the outside, once per picture. The rest of the program is text.
use mars_daemon::Config;
use mars_macro::report::{HostReport, host_report};
use mars_macro::{Machine, Mount, Scope};
use mars_policy::View;
use mars_tree::{HostEnv, Key, ResName, Stamp, Tree};
use std::fs::OpenOptions;
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::Duration;

/// A host that is silent for longer is not alive.
pub const WINDOW: Duration = Duration::from_secs(60);
/// More of a status file is not shown.
const STATUS_FILE_MAX: u64 = 64 << 10;

/// The newest version of the tree that is understood.
const TREE_VERSION: &str = "0.1";

/// Why there is nothing to show.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Unknown {
    /// No tree, wrong environment, no such resource.
    Nothing(String),
    /// A tree of another version.
    Version(String),
}

impl Unknown {
    /// One line.
    pub fn text(&self) -> &str {
        match self {
            Unknown::Nothing(text) | Unknown::Version(text) => text,
        }
    }
}

/// Configuration and memory of this host, for --system.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Parameters {
    /// `mem_limit_percent`.
    pub mem_limit_percent: u64,
    /// Free space below which the host saves space, MiB.
    pub free_space_mib: u64,
    /// `logrot_auto_mib`; 0 = never.
    pub logrot_auto_mib: u64,
    /// Memory in use by dirty data of the own devices and of all else, percent of the machine's.
    pub mem_used_percent: Option<u64>,
}

/// What the texts are made from.
#[derive(Clone, Debug)]
pub struct Facts {
    /// The report.
    pub report: HostReport,
    /// Wall clock, seconds.
    pub real_time: u64,
    /// Release of the kernel.
    pub kernel: String,
    /// `sync-limit` of this host; 0 = none.
    pub sync_limit: u64,
    /// Mounted devices of this machine.
    pub mounts: Vec<Mount>,
    /// Configuration, or why there is none.
    pub parameters: Result<Parameters, String>,
    /// Status files of the original, path below the root and text.
    pub status_files: Vec<(String, String)>,
}

/// Reads everything. `only`: one resource, which must exist; otherwise all.
pub fn gather(env: &HostEnv, only: Option<&ResName>) -> Result<Facts, Unknown> {
    let nothing = |text: String| Unknown::Nothing(text);
    let tree = Tree::open_readonly(env).map_err(|e| nothing(e.to_string()))?;
    let mut snap = tree.snapshot().map_err(|e| nothing(e.to_string()))?;
    if snap.get(&Key::Uuid).is_none() {
        return Err(nothing(format!(
            "{}: this host is in no cluster; use marsadm create-cluster or join-cluster",
            env.root.display()
        )));
    }
    let now = tree.clock().now();
    mars_facts::refresh(env, &mut snap, now);
    let view = View {
        snap: &snap,
        me: &env.host,
        local: &env.host,
        now,
        window: WINDOW,
        engine_running: mars_daemon::is_running(env, "meta", None),
    };
    let resources = chosen(&view, only).map_err(nothing)?;
    let machine = Machine {
        mounts: mounts(),
        oldest_unapplied: mars_facts::oldest_unapplied(&env.root, &view, &resources),
        ..mars_facts::machine(env, &snap)
    };
    let facts = facts(&view, &machine, &resources);
    if let Some(tree) = facts.report.tree.as_deref()
        && tree != TREE_VERSION
    {
        return Err(Unknown::Version(format!(
            "{}: the tree has version {tree}, not {TREE_VERSION}",
            env.root.display()
        )));
    }
    Ok(Facts {
        kernel: nix::sys::utsname::uname()
            .map(|u| u.release().to_string_lossy().into_owned())
            .unwrap_or_default(),
        parameters: parameters(env),
        status_files: status_files(&env.root, &resources),
        ..facts
    })
}

/// The pure part.
pub fn facts(view: &View<'_>, machine: &Machine, resources: &[ResName]) -> Facts {
    let scope = Scope {
        view: *view,
        res: None,
        threshold: 10 << 20,
        verbose: 0,
        args: &[],
        machine,
    };
    let limit = Key::HostDefault(view.me.clone(), "sync-limit".to_string());
    Facts {
        report: host_report(&scope, resources),
        real_time: machine.real_time,
        kernel: String::new(),
        sync_limit: view.snap.number(&limit).unwrap_or(0),
        mounts: machine.mounts.clone(),
        parameters: Ok(Parameters::default()),
        status_files: machine.status_files.clone(),
    }
}

/// Which resources are shown.
pub fn chosen(view: &View<'_>, only: Option<&ResName>) -> Result<Vec<ResName>, String> {
    let all = view.snap.resources();
    let Some(one) = only else {
        return Ok(all);
    };
    if all.contains(one) {
        return Ok(vec![one.clone()]);
    }
    let names: Vec<&str> = all.iter().map(ResName::as_str).collect();
    let names = match names.as_slice() {
        [] => "none".to_string(),
        names => names.join(", "),
    };
    Err(format!("there is no resource {one} (known: {names})"))
}

/// The table of mounts; nothing where it cannot be read.
fn mounts() -> Vec<Mount> {
    let table = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let mount = |line: &str| {
        let mut words = line.split(' ').map(unescape);
        Some(Mount {
            device: words.next().filter(|d| d.starts_with('/'))?,
            dir: words.next()?,
            fstype: words.next()?,
            flags: words.next()?,
        })
    };
    table.lines().filter_map(mount).collect()
}

/// Blanks and the like stand as three octal digits in the table.
fn unescape(word: &str) -> String {
    let mut parts = word.split('\\');
    let mut out = parts.next().unwrap_or_default().to_string();
    for part in parts {
        let code = part.get(..3).and_then(|d| u8::from_str_radix(d, 8).ok());
        match (code, part.get(3..)) {
            (Some(c), Some(rest)) => {
                out.push(char::from(c));
                out.push_str(rest);
            }
            _ => {
                out.push('\\');
                out.push_str(part);
            }
        }
    }
    out
}

fn parameters(env: &HostEnv) -> Result<Parameters, String> {
    let config = Config::load(env).map_err(|e| e.to_string())?;
    let number = |name: &str| {
        let all = config.effective(None);
        let found = all.iter().find(|e| e.key.name == name);
        match found.map(|e| &e.value) {
            Some(mars_daemon::config::Value::Number(n)) => *n,
            _ => 0,
        }
    };
    let shares: u64 = config
        .required_free_bytes()
        .iter()
        .fold(0, |sum, n| sum.saturating_add(*n));
    Ok(Parameters {
        mem_limit_percent: number("mem_limit_percent"),
        free_space_mib: shares >> 20,
        logrot_auto_mib: number("logrot_auto_mib"),
        mem_used_percent: mem_used_percent(
            &std::fs::read_to_string("/proc/meminfo").unwrap_or_default(),
        ),
    })
}

/// From the text of `/proc/meminfo`.
fn mem_used_percent(text: &str) -> Option<u64> {
    let kib = |name: &str| -> Option<u64> {
        let line = text.lines().find_map(|l| l.strip_prefix(name))?;
        line.trim_start_matches(':')
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    };
    let (total, free) = (kib("MemTotal")?, kib("MemAvailable")?);
    (total > 0).then(|| total.saturating_sub(free).saturating_mul(100) / total)
}

/// `1.info.status` to `4.fatal.status` of the resources and `5.total.status`, where the original's engine has left them.
fn status_files(root: &Path, resources: &[ResName]) -> Vec<(String, String)> {
    let mut paths = vec!["5.total.status".to_string()];
    for res in resources {
        let files = [
            "1.info.status",
            "2.warn.status",
            "3.error.status",
            "4.fatal.status",
        ];
        paths.extend(files.map(|f| format!("resource-{res}/{f}")));
    }
    let read = |path: &String| {
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
            .open(root.join(path))
            .ok()?;
        if !file.metadata().ok()?.is_file() {
            return None;
        }
        let mut bytes = Vec::new();
        file.take(STATUS_FILE_MAX).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    };
    paths
        .into_iter()
        .filter_map(|p| read(&p).map(|text| (p, text)))
        .collect()
}

/// Lamport time minus wall clock, seconds; not negative.
pub fn clock_ahead(facts: &Facts) -> u64 {
    facts
        .report
        .now
        .since(Stamp::from_nanos(
            facts.real_time.saturating_mul(1_000_000_000),
        ))
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_digits_in_the_table_of_mounts() {
        assert_eq!(unescape("/a\\040b\\134c"), "/a b\\c");
        assert_eq!(unescape("/a\\04"), "/a\\04");
        assert_eq!(unescape("x"), "x");
    }

    #[test]
    fn memory_in_use() {
        let text = "MemTotal:       1000 kB\nMemFree: 1 kB\nMemAvailable:    250 kB\n";
        assert_eq!(mem_used_percent(text), Some(75));
        assert_eq!(mem_used_percent("MemTotal: 0 kB\nMemAvailable: 9 kB"), None);
        assert_eq!(mem_used_percent("garbage"), None);
    }
}
