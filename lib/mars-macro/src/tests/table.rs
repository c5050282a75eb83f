//! Every macro by tables: `primitives.tsv` and `complex.tsv` give its value in a tree, `tests/spec/macros.tsv` the whole list.
use super::*;
use std::collections::BTreeSet;

/// The columns of each line; `\n` and `\\` are escapes.
fn rows(table: &'static str) -> impl Iterator<Item = Vec<String>> {
    let lines = table
        .lines()
        .filter(|l| !l.starts_with('#') && !l.is_empty());
    lines.map(|l| l.split('\t').map(unescape).collect())
}

fn unescape(text: &str) -> String {
    let parts: Vec<String> = text.split("\\\\").map(|p| p.replace("\\n", "\n")).collect();
    parts.join("\\")
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_string).collect()
}

fn value(mut w: World, name: &str, args: &str) -> String {
    w.args = words(args);
    evaluate(name, &w.scope()).unwrap_or_else(|e| panic!("{name}: {e}"))
}

const PRIMITIVES: &str = include_str!("primitives.tsv");
const COMPLEX: &str = include_str!("complex.tsv");
const LIST: &str = include_str!("../../../../tests/spec/macros.tsv");

#[test]
fn primitive_macros_have_the_values_of_the_table() {
    let mut seen = BTreeSet::new();
    for row in rows(PRIMITIVES) {
        let [name, tree, args, wanted, unknown] = row.as_slice() else {
            panic!("{row:?}");
        };
        assert_eq!(&value(worlds::find(tree), name, args), wanted, "{row:?}");
        assert_eq!(&value(worlds::nothing(), name, args), unknown, "{row:?}");
        // The name with other separators, and as a primitive one.
        for name in [
            name.replace('-', "_"),
            name.replace('-', ""),
            format!("primitive-{name}"),
        ] {
            assert_eq!(&value(worlds::find(tree), &name, args), wanted, "{name}");
        }
        seen.insert(name.clone());
    }
    for name in primitive_names() {
        let is_message = crate::messages::parse_name(name).is_some();
        assert!(seen.contains(name) || is_message, "{name} has no row");
    }
}

#[test]
fn complex_macros_have_the_texts_of_the_table() {
    let mut seen = BTreeSet::new();
    for row in rows(COMPLEX) {
        let [name, tree, verbose, args, wanted] = row.as_slice() else {
            panic!("{row:?}");
        };
        let mut w = worlds::find(tree);
        w.verbose = verbose.parse().unwrap();
        assert_eq!(&value(w, name, args), wanted, "{row:?}");
        seen.insert(name.clone());
    }
    for name in predefined_names() {
        assert!(seen.contains(name), "{name} has no row");
    }
}

/// All forms of `{all,the}-[pretty-][global-][err-,wrn-,inf-]{msg,count}`.
#[test]
fn message_macros_in_all_their_forms() {
    let old = "1700080000.000000000 1700080000.000000000 it ended, error -5";
    let young = "1700089900.000000000 1700089900.000000000 it began";
    let pretty_old =
        "2023-11-15 20:26:40 2023-11-15 20:26:40 it ended, error [EIO:Input/output_error]";
    let pretty_young = "2023-11-15 23:11:40 2023-11-15 23:11:40 it began";
    let nanos = |text: &str| text.replace(":40 ", ":40.000000000 ");
    let links = |dir: &str| {
        format!(
            "{dir}/msg-{{err-bad-log-name,wrn-log-consecutive,inf-fetch,inf-sync}} -> OK
             {dir}/msg-err-emergency -> {young}
             {dir}/msg-err-replay-stop -> {old}
             {dir}/msg-inf-sync-start -> {young}
             {dir}/msg-wrn-space-low -> {young}"
        )
    };
    let mut w = World::new(Snapshot::default(), "hostA").with(&links("actual-hostA"));
    let at_host = World::new(Snapshot::default(), "hostA").global(&links("actual-hostA"));
    // class, name, text, readable text, is shown by the-
    let messages = [
        ("err-", "err-bad-log-name", "OK", "OK", false),
        ("err-", "err-emergency", young, pretty_young, false),
        ("err-", "err-replay-stop", old, pretty_old, true),
        ("inf-", "inf-fetch", "OK", "OK", false),
        ("inf-", "inf-sync", "OK", "OK", false),
        ("inf-", "inf-sync-start", young, pretty_young, true),
        ("wrn-", "wrn-log-consecutive", "OK", "OK", false),
        ("wrn-", "wrn-space-low", young, pretty_young, true),
    ];
    for who in ["all-", "the-"] {
        for class in ["", "err-", "wrn-", "inf-"] {
            let wanted = |pretty: bool| -> Vec<String> {
                let shown = messages.iter().filter(|(c, _, _, _, the)| {
                    (class.is_empty() || *c == class) && (*the || who == "all-")
                });
                shown
                    .map(|(_, name, raw, readable, _)| match (pretty, who) {
                        (false, _) => format!("{name}: {raw}"),
                        (true, "all-") => format!("{name}: {}", nanos(readable)),
                        (true, _) => format!("{name}: {readable}"),
                    })
                    .collect()
            };
            for (global, world) in [("", &w), ("global-", &at_host)] {
                let view = |name: String| world.view(&name);
                assert_eq!(
                    view(format!("{who}{global}{class}msg")),
                    wanted(false).join("\n")
                );
                assert_eq!(
                    view(format!("{who}pretty-{global}{class}msg")),
                    wanted(true).join("\n")
                );
                assert_eq!(
                    view(format!("{who}{global}{class}count")),
                    wanted(false).len().to_string()
                );
            }
            // Nothing of the host among those of the resource, and the other way round.
            assert_eq!(w.view(&format!("{who}global-{class}msg")), "");
            assert_eq!(at_host.view(&format!("{who}{class}msg")), "");
            // Without a resource they are those of the host.
            let scope = Scope {
                res: None,
                ..at_host.scope()
            };
            assert_eq!(
                evaluate(&format!("{who}{class}msg"), &scope).unwrap(),
                wanted(false).join("\n")
            );
        }
    }
    // The time that an error must have lasted is --timeout.
    w.machine.error_settle = Some(Duration::from_secs(100));
    assert_eq!(w.view("the-err-count"), "2");
    w.machine.error_settle = Some(Duration::ZERO);
    assert_eq!(w.view("the-err-count"), "2");
    // Local time.
    w.machine.utc_offset = Some(|_| 3600);
    assert_eq!(
        w.view("the-pretty-wrn-msg"),
        "wrn-space-low: 2023-11-16 00:11:40 2023-11-16 00:11:40 it began"
    );
}

/// `tests/spec/macros.tsv` has each macro once, with a test that exists; and nothing else.
#[test]
fn the_list_of_macros_is_complete() {
    let listed: Vec<Vec<String>> = rows(LIST).collect();
    let names: Vec<&str> = listed.iter().map(|r| r[0].as_str()).collect();
    let ours: BTreeSet<&str> = primitive_names()
        .into_iter()
        .chain(predefined_names())
        .chain(builtin_names())
        .collect();
    let set: BTreeSet<&str> = names.iter().copied().collect();
    assert_eq!(set.len(), names.len(), "a macro is listed twice");
    let missing: Vec<_> = ours.difference(&set).collect();
    assert!(missing.is_empty(), "not in the list: {missing:?}");
    // Families that the program answers by themselves: waiting, and one variable access without a name.
    let outside: Vec<_> = set
        .difference(&ours)
        .filter(|n| !n.starts_with("wait"))
        .collect();
    assert!(outside.is_empty(), "in the list, but unknown: {outside:?}");
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let mut files = std::collections::BTreeMap::new();
    for row in &listed {
        let [name, since, test] = row.as_slice() else {
            panic!("{row:?}");
        };
        assert!(
            ["manual", "wiki", "newer", "ours"].contains(&since.as_str()),
            "{name}: {since}"
        );
        let (file, function) = test.split_once("::").unwrap();
        let text = files
            .entry(file)
            .or_insert_with(|| std::fs::read_to_string(format!("{root}/{file}")).unwrap());
        assert!(
            text.contains(&format!("fn {function}()")),
            "{name}: no test {test}"
        );
    }
}
