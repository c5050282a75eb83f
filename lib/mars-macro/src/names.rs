//! The names of the primitive macros and their spellings.
use crate::MacroError;
use crate::ctx::Job;
use crate::features::FEATURE_MACROS;
use crate::local::LOCAL_MACROS;
use std::collections::HashMap;
use std::sync::LazyLock;

/// Names without a resource.
pub(crate) const GLOBAL: &[&str] = &[
    "all-guests",
    "all-members",
    "all-resources",
    "alive-age",
    "alive-timestamp",
    "cluster-members",
    "cluster-peers",
    "configured-peers",
    "count-all-guests",
    "count-all-members",
    "count-all-resources",
    "count-cluster-members",
    "count-cluster-peers",
    "count-configured-peers",
    "count-my-guests",
    "count-my-members",
    "count-my-resources",
    "errno-text",
    "features-version",
    "global-sync-limit-value",
    "human-number",
    "human-numbers",
    "human-seconds",
    "is-alive",
    "is-emergency",
    "is-module-loaded",
    "my-guests",
    "my-members",
    "my-resources",
    "progress",
    "real-time",
    "rest-space",
    "time",
    "total-space",
    "tree",
    "tree-version",
    "uuid",
];

/// Names that need one.
pub(crate) const RESOURCE: &[&str] = &[
    "actual-primary",
    "count-guest-peers",
    "count-resource-members",
    "count-resource-peers",
    "deletable-size",
    "device-amount-rate",
    "device-completion-age",
    "device-completion-stamp",
    "device-error",
    "device-nrflying",
    "device-opened",
    "device-ops-rate",
    "device-present",
    "device-size",
    "disk-error",
    "disk-present",
    "disk-size",
    "does",
    "get-device",
    "get-disk",
    "get-msg",
    "get-primary",
    "guest-peers",
    "is-almost-consistent",
    "is-attach",
    "is-consistent",
    "is-fetch",
    "is-guest",
    "is-member",
    "is-orphan",
    "is-primary",
    "is-replay",
    "is-secondary",
    "is-split-brain",
    "is-sync",
    "nr-attach",
    "nr-fetch",
    "nr-primary",
    "nr-replay",
    "nr-secondary",
    "nr-sync",
    "occupied-size",
    "replay-basenr",
    "replay-code",
    "replay-logcount",
    "resource-members",
    "resource-peers",
    "resource-possible-size",
    "resource-size",
    "summary-vector",
    "sync-pos",
    "sync-size",
    "systemd-unit",
    "systemd-want",
    "todo",
    "todo-attach",
    "todo-fetch",
    "todo-primary",
    "todo-replay",
    "todo-secondary",
    "todo-sync",
    "writeback-rest",
];

/// `JOB-SUFFIX` for sync, fetch, replay, work.
pub(crate) const JOB_SUFFIXES: &[&str] = &[
    "pos",
    "size",
    "rest",
    "reached",
    "threshold-reached",
    "almost-reached",
    "percent",
    "permille",
    "vector",
    "rate",
    "ops-rate",
    "amount-rate",
    "remain",
    "lognr",
    "logcount",
    "timestamp",
    "age",
    "lag",
];
pub(crate) const JOBS: &[(&str, Job)] = &[
    ("sync-", Job::Sync),
    ("fetch-", Job::Fetch),
    ("replay-", Job::Replay),
    ("work-", Job::Work),
];

/// `SUFFIX`es that make no sense for a job.
pub(crate) fn job_has(job: Job, suffix: &str) -> bool {
    match suffix {
        "lognr" | "logcount" | "timestamp" | "age" | "lag" => job != Job::Sync,
        "ops-rate" | "amount-rate" => job != Job::Work,
        _ => true,
    }
}

/// All names.
pub fn primitive_names() -> Vec<&'static str> {
    static NAMES: LazyLock<Vec<String>> = LazyLock::new(|| {
        let mut names: Vec<String> = GLOBAL
            .iter()
            .chain(RESOURCE)
            .chain(FEATURE_MACROS)
            .chain(LOCAL_MACROS)
            .map(|s| (*s).to_string())
            .collect();
        for (prefix, job) in JOBS {
            let suffixes = JOB_SUFFIXES.iter().filter(|s| job_has(*job, s));
            names.extend(suffixes.map(|s| format!("{prefix}{s}")));
        }
        for who in ["all-", "the-"] {
            for pretty in ["", "pretty-"] {
                for global in ["", "global-"] {
                    for class in ["", "err-", "wrn-", "inf-"] {
                        names.push(format!("{who}{pretty}{global}{class}msg"));
                        if pretty.is_empty() {
                            names.push(format!("{who}{global}{class}count"));
                        }
                    }
                }
            }
        }
        names.sort();
        names.dedup();
        names
    });
    NAMES.iter().map(String::as_str).collect()
}

/// The canonical spelling: `_` for `-`, no separators at all and the prefix `primitive-` are accepted.
pub(crate) fn find(name: &str) -> Option<&'static str> {
    static INDEX: LazyLock<Index> = LazyLock::new(|| Index::new(primitive_names()));
    let name = name
        .strip_prefix("primitive-")
        .or_else(|| name.strip_prefix("primitive_"))
        .unwrap_or(name);
    INDEX.find(name)
}

/// Names by what is left of them without separators: macros look up names all the time.
pub(crate) struct Index(HashMap<String, &'static str>);

fn bare(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '-' | '_')).collect()
}

impl Index {
    pub fn new(names: impl IntoIterator<Item = &'static str>) -> Index {
        Index(names.into_iter().map(|n| (bare(n), n)).collect())
    }
    /// The one that is meant: as it is, with `_` for `-`, or without any separators.
    pub fn find(&self, name: &str) -> Option<&'static str> {
        self.0.get(&bare(name)).copied()
    }
}

pub(crate) fn unknown(name: &str) -> MacroError {
    let mut best: Option<(usize, &str)> = None;
    // Long garbage needs no neighbour, and costs.
    if name.len() <= 64 {
        for n in crate::predefined_names()
            .into_iter()
            .chain(primitive_names())
        {
            let d = distance(name, n);
            if d <= 1 + name.len() / 4 && best.is_none_or(|(b, _)| d < b) {
                best = Some((d, n));
            }
        }
    }
    MacroError::Unknown {
        name: name.to_string(),
        nearest: best.map(|(_, n)| n.to_string()),
    }
}

/// Edit distance.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut next = vec![i + 1];
        for ((cb, diagonal), above) in b.iter().zip(&row).zip(row.iter().skip(1)) {
            let left = next.last().copied().unwrap_or(0);
            next.push(
                (diagonal + usize::from(ca != *cb))
                    .min(above + 1)
                    .min(left + 1),
            );
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_names_differ_in_separators_only() {
        for names in [
            primitive_names(),
            crate::predefined_names(),
            crate::builtin_names(),
        ] {
            // Of the functions only words may be spelt differently.
            let words = names.iter().filter(|n| bare(n).len() > 2);
            let all: std::collections::BTreeSet<String> = words.clone().map(|n| bare(n)).collect();
            assert_eq!(all.len(), words.count());
        }
    }
}
