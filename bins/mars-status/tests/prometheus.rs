//! The exposition format, and what alerts, dashboard and documentation say of the metrics.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::{World, add, pilot};
use mars_policy::fixtures::{split, steady, syncing};
use mars_status::prom::{METRICS, down};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A sample: metric, labels, value.
type Sample = (String, BTreeMap<String, String>, f64);

fn is_name(s: &str, more: &str) -> bool {
    let ok = |c: char| c.is_ascii_alphanumeric() || c == '_' || more.contains(c);
    s.chars().all(ok) && s.starts_with(|c: char| !c.is_ascii_digit())
}

/// The labels between the braces, and what follows them.
fn labels(mut rest: &str) -> (BTreeMap<String, String>, &str) {
    let mut found = BTreeMap::new();
    loop {
        let (name, after) = rest.split_once("=\"").expect("label");
        assert!(is_name(name, "") && !name.starts_with("__"), "{name:?}");
        let mut value = String::new();
        let mut chars = after.char_indices();
        let end = loop {
            match chars.next().expect("end of the value") {
                (i, '"') => break i,
                (_, '\\') => value.push(match chars.next().expect("escape").1 {
                    'n' => '\n',
                    c @ ('\\' | '"') => c,
                    c => panic!("escape {c:?}"),
                }),
                (_, c) => {
                    assert!(!c.is_control(), "{c:?}");
                    value.push(c);
                }
            }
        };
        assert!(
            found.insert(name.to_string(), value).is_none(),
            "{name} twice"
        );
        rest = &after[end + 1..];
        match rest.strip_prefix(',') {
            Some(r) => rest = r,
            None => return (found, rest.strip_prefix('}').expect("brace")),
        }
    }
}

/// The text format 0.0.4, strictly: one block for each metric, HELP and TYPE first, no series twice.
fn parse(text: &str) -> Vec<Sample> {
    assert!(text.ends_with('\n') && !text.contains('\r'));
    let mut samples: Vec<Sample> = Vec::new();
    let mut blocks = BTreeSet::new();
    let mut series = BTreeSet::new();
    let (mut block, mut typed) = (String::new(), false);
    for line in text.strip_suffix('\n').unwrap().split('\n') {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("help");
            assert!(
                is_name(name, ":") && !help.is_empty() && !help.contains('\\'),
                "{line}"
            );
            assert!(blocks.insert(name.to_string()), "{name} has two blocks");
            (block, typed) = (name.to_string(), false);
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert_eq!(rest, format!("{block} gauge"));
            assert!(!typed, "{line}");
            typed = true;
        } else {
            let end = line.find(['{', ' ']).expect("name");
            let (name, rest) = line.split_at(end);
            assert!(typed && name == block, "{line}");
            let (found, rest) = match rest.strip_prefix('{') {
                Some(rest) => labels(rest),
                None => (BTreeMap::new(), rest),
            };
            let value = rest.strip_prefix(' ').expect("one blank");
            assert!(!value.contains(' '), "{line}");
            let number: f64 = value.parse().expect("value");
            assert!(number >= 0.0 && number.is_finite(), "{line}");
            assert!(
                series.insert((name.to_string(), found.clone())),
                "{line} twice"
            );
            samples.push((name.to_string(), found, number));
        }
    }
    samples
}

/// Everything that the example trees export.
fn all() -> Vec<Sample> {
    let mut busy = steady();
    add(
        &mut busy,
        "resource-lv0/actual-{hostA,hostB}/{if-flying,ops-if_rate,amount-if_rate,open-count} -> 1",
    );
    [
        World::new(busy, "hostA"),
        World::new(steady(), "hostB"),
        World::new(syncing(), "hostB"),
        World::new(split(), "hostA"),
        World::new(pilot(), "istore-test-bap7"),
    ]
    .iter()
    .flat_map(|w| parse(&w.metrics()))
    .collect()
}

fn value(samples: &[Sample], name: &str, wanted: &[(&str, &str)]) -> Option<f64> {
    let fits = |l: &BTreeMap<String, String>| {
        wanted
            .iter()
            .all(|(k, v)| l.get(*k).map(String::as_str) == Some(*v))
    };
    let mut found = samples.iter().filter(|(n, l, _)| n == name && fits(l));
    let value = found.next().map(|(_, _, v)| *v);
    assert!(found.next().is_none(), "{name}{wanted:?} is not one");
    value
}

#[test]
fn format_is_what_prometheus_reads() {
    let names: BTreeSet<String> = all().into_iter().map(|(n, _, _)| n).collect();
    let known: BTreeSet<String> = METRICS.iter().map(|(n, _)| (*n).to_string()).collect();
    assert_eq!(names, known, "metrics that no example tree exports");
    assert_eq!(parse(&down()).len(), 1);
}

#[test]
fn values_of_the_sync_example() {
    let s = parse(&World::new(syncing(), "hostB").metrics());
    let b = [("resource", "lv0"), ("host", "hostB"), ("self", "1")];
    let job = |j| [b[0], b[1], b[2], ("job", j)];
    assert_eq!(
        value(&s, "mars_position_bytes", &job("sync")),
        Some(4_294_967_296.0)
    );
    assert_eq!(
        value(&s, "mars_rest_bytes", &job("sync")),
        Some(6_442_450_944.0)
    );
    assert_eq!(
        value(&s, "mars_rate_bytes_per_second", &job("sync")),
        Some(104_857_600.0)
    );
    assert_eq!(value(&s, "mars_lag_bytes", &b), Some(524_288.0));
    assert_eq!(value(&s, "mars_lag_seconds", &b), Some(7200.0));
    assert_eq!(
        value(&s, "mars_last_applied_timestamp_seconds", &b),
        Some(1_700_082_805.0)
    );
    assert_eq!(
        value(&s, "mars_dstate", &[b[0], b[1], ("state", "InvaliDate")]),
        Some(1.0)
    );
    assert_eq!(
        value(&s, "mars_peer_age_seconds", &[("host", "hostA")]),
        Some(1.0)
    );
    assert_eq!(value(&s, "mars_designated_primary", &[]), Some(1.0));
    let a = [("resource", "lv0"), ("host", "hostA"), ("self", "0")];
    assert_eq!(value(&s, "mars_lag_seconds", &a), Some(0.0));
    assert_eq!(value(&s, "mars_dirty_bytes", &a), Some(4096.0));
    assert_eq!(value(&s, "mars_orphan", &a), None);
}

#[test]
fn silence_is_marked_stale_and_unknown_has_no_sample() {
    let w = World::changed(
        "
        actual-hostB/time -> 1700089000.000000000
        actual-hostA/rest-space -> lots
        resource-lv0/replay-hostB -> nowhere
    ",
    );
    let s = parse(&w.metrics());
    let b = [("resource", "lv0"), ("host", "hostB")];
    assert_eq!(value(&s, "mars_stale", &b), Some(1.0));
    assert_eq!(
        value(&s, "mars_stale", &[b[0], ("host", "hostA")]),
        Some(0.0)
    );
    assert_eq!(value(&s, "mars_host_stale", &[b[1]]), Some(1.0));
    assert_eq!(value(&s, "mars_lag_seconds", &b), None);
    assert_eq!(
        value(&s, "mars_space_rest_bytes", &[("host", "hostA")]),
        None
    );
    let mut w = World::changed("");
    w.engine = false;
    let s = parse(&w.metrics());
    assert_eq!(value(&s, "mars_engine_running", &[]), Some(0.0));
    assert_eq!(value(&s, "mars_stale", &[("host", "hostA")]), Some(1.0));
}

fn source(path: &str) -> (PathBuf, String) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(path);
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    (path, text)
}

/// Label, operator, value.
type Matcher = (String, String, String);

/// Name, and the labels with their operators and values, of every selector of a PromQL expression.
fn selectors(expr: &str) -> Vec<(String, Vec<Matcher>)> {
    const WORDS: [&str; 22] = [
        "and",
        "or",
        "unless",
        "on",
        "ignoring",
        "by",
        "without",
        "group_left",
        "group_right",
        "bool",
        "sum",
        "min",
        "max",
        "avg",
        "count",
        "vector",
        "time",
        "rate",
        "label_values",
        "offset",
        "abs",
        "clamp_min",
    ];
    let chars: Vec<char> = expr.chars().collect();
    let mut found = Vec::new();
    let mut i = 0;
    while i < chars.len() {
        let c = chars[i];
        if !(c.is_ascii_alphabetic() || c == '_') {
            assert!(!matches!(c, '{' | '}' | '"'), "{expr} at {i}");
            // Numbers with letters do not occur.
            i += 1;
            continue;
        }
        let start = i;
        while i < chars.len() && (chars[i].is_ascii_alphanumeric() || matches!(chars[i], '_' | ':'))
        {
            i += 1;
        }
        let word: String = chars[start..i].iter().collect();
        let rest: String = chars[i..].iter().collect();
        if WORDS.contains(&word.as_str()) {
            // Lists of labels are no selectors.
            if matches!(
                word.as_str(),
                "on" | "ignoring" | "by" | "without" | "group_left" | "group_right"
            ) && let Some(list) = rest.trim_start().strip_prefix('(')
            {
                let skipped = rest.len() - list.len() + list.find(')').expect("list") + 1;
                i += skipped;
            }
            continue;
        }
        let mut matchers = Vec::new();
        if let Some(inner) = rest.strip_prefix('{') {
            let end = inner.find('}').expect("brace");
            i += end + 2;
            for m in inner[..end].split(", ") {
                let at = m.find(['=', '!']).expect("matcher");
                let (label, rest) = m.split_at(at);
                let quote = rest.find('"').expect("quote");
                let (op, value) = rest.split_at(quote);
                assert!(["=", "!=", "=~", "!~"].contains(&op), "{m}");
                matchers.push((
                    label.to_string(),
                    op.to_string(),
                    value.trim_matches('"').to_string(),
                ));
            }
        }
        found.push((word, matchers));
    }
    found
}

/// Every metric and label of an expression is exported.
fn check(place: &str, expr: &str, exported: &[Sample]) -> usize {
    let found = selectors(expr);
    assert!(!found.is_empty(), "{place}: {expr} has no metric");
    for (name, matchers) in &found {
        let samples: Vec<&Sample> = exported.iter().filter(|(n, _, _)| n == name).collect();
        assert!(
            !samples.is_empty(),
            "{place}: {name} is not exported: {expr}"
        );
        for (label, _, value) in matchers {
            let mut values: BTreeSet<&str> = samples
                .iter()
                .filter_map(|(_, l, _)| l.get(label).map(String::as_str))
                .collect();
            assert!(
                !values.is_empty(),
                "{place}: {name} has no label {label}: {expr}"
            );
            // States that no example tree is in.
            values.extend(mars_status::words::DState::ALL.map(|s| s.word()));
            for v in value.split('|').filter(|v| !v.starts_with('$')) {
                assert!(values.contains(v), "{place}: {label} is never {v}: {expr}");
            }
        }
    }
    found.len()
}

#[test]
fn alerts_name_exported_metrics_only() {
    let exported = all();
    let (_, text) = source("packaging/prometheus/alerts.yml");
    let mut rules = 0;
    let mut lines = text.lines().peekable();
    let mut name = String::new();
    while let Some(line) = lines.next() {
        assert!(!line.contains('\t'), "{line:?}");
        if let Some(alert) = line.trim_start().strip_prefix("- alert: ") {
            name = alert.to_string();
        }
        let Some(expr) = line.strip_prefix("        expr: ") else {
            continue;
        };
        let mut expr = expr.to_string();
        if expr == ">-" {
            expr.clear();
            while let Some(more) = lines.peek().and_then(|l| l.strip_prefix("          ")) {
                expr.push_str(more);
                expr.push(' ');
                lines.next();
            }
        }
        check(&name, &expr, &exported);
        rules += 1;
    }
    assert_eq!(rules, text.matches("- alert: ").count());
    assert_eq!(rules, text.matches("severity: ").count());
    assert_eq!(rules, text.matches("summary: ").count());
    // The duties of the user manual and the triggers of the checks that were in use before.
    for (duty, metric) in [
        ("free space < 30, 20, 10 %", "mars_space_rest_bytes"),
        ("pending deletions", "mars_pending_deletes"),
        ("Orphan lasting", "mars_orphan"),
        ("dashes in flags", "mars_switch"),
        ("rates of 0 with work left", "mars_rate_bytes_per_second"),
        ("DefectiveLog", "mars_defective_log"),
        ("is-emergency", "mars_emergency"),
        ("is-split-brain", "mars_split_brain"),
        ("module not loaded", "mars_engine_running"),
        ("primary unreachable", "mars_peer_age_seconds"),
        ("rest too large", "mars_rest_bytes"),
        ("actual 0 while switch 1", "mars_actual"),
        ("check not running", "mars_lamport_time_seconds"),
        ("lag", "mars_lag_seconds"),
    ] {
        assert!(text.contains(metric), "{duty}");
    }
    for percent in ["< 30", "< 20", "< 10"] {
        assert!(text.contains(percent), "{percent}");
    }
}

#[test]
fn dashboard_loads_and_names_exported_metrics_only() {
    let exported = all();
    let (_, text) = source("packaging/prometheus/mars-dashboard.json");
    let board: serde_json::Value = serde_json::from_str(&text).unwrap();
    for key in [
        "title",
        "uid",
        "schemaVersion",
        "panels",
        "templating",
        "time",
    ] {
        assert!(!board[key].is_null(), "{key}");
    }
    let mut ids = BTreeSet::new();
    let mut count = 0;
    for p in board["panels"].as_array().unwrap() {
        let title = p["title"].as_str().unwrap();
        assert!(ids.insert(p["id"].as_u64().unwrap()), "{title}");
        let grid = |k: &str| p["gridPos"][k].as_u64().unwrap();
        assert!(grid("x") + grid("w") <= 24 && grid("h") > 0, "{title}");
        for t in p["targets"].as_array().unwrap() {
            count += check(title, t["expr"].as_str().unwrap(), &exported);
        }
    }
    assert!(count >= 15, "{count}");
    for v in board["templating"]["list"].as_array().unwrap() {
        if v["type"] == "query" {
            let query = v["query"].as_str().unwrap();
            let metric = query
                .strip_prefix("label_values(")
                .unwrap()
                .split(',')
                .next()
                .unwrap();
            check("variable", metric, &exported);
        }
    }
}

#[test]
fn selectors_are_found() {
    let found =
        selectors("sum by (a) (x_y{b=\"c\", d=~\"e|f\"}) > 100 * z and on (g) time() - w == 1");
    let names: Vec<&str> = found.iter().map(|(n, _)| n.as_str()).collect();
    assert_eq!(names, ["x_y", "z", "w"]);
    assert_eq!(found[0].1[1], ("d".into(), "=~".into(), "e|f".into()));
}

/// docs/monitoring.md lists every metric with its help, and no other.
#[test]
fn documentation_lists_every_metric() {
    let (_, text) = source("docs/monitoring.md");
    let rows: Vec<(String, String)> = text
        .lines()
        .filter_map(|l| l.strip_prefix("| `mars_"))
        .map(|l| {
            let cells: Vec<&str> = l.split(" | ").collect();
            let help = cells[2].trim_end_matches(" |");
            (
                format!("mars_{}", cells[0].trim_end_matches('`')),
                help.to_string(),
            )
        })
        .collect();
    let known: Vec<(String, String)> = METRICS
        .iter()
        .map(|(n, h)| ((*n).to_string(), (*h).to_string()))
        .collect();
    assert_eq!(rows, known);
}
