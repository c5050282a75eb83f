//! Whatever the texts are: no panic, nothing outside the directories, a second run has nothing to do.
use super::*;
use crate::{escape, escape_path, unescape};
use proptest::prelude::*;
use std::process::Command;

/// Pieces of which texts and names are made, so that forms occur.
fn piece() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("@{res}".to_string()),
        Just("@escvar{res}".to_string()),
        Just("@escvar{m}".to_string()),
        Just("@esc{/a/b-c}".to_string()),
        Just("@eval{%let{m}{x/y}}".to_string()),
        Just("@eval{".to_string()),
        Just("@other{x}".to_string()),
        Just("@verbatim{@{res}}".to_string()),
        Just("@{".to_string()),
        Just("}".to_string()),
        Just("\\".to_string()),
        Just("\nAfter=".to_string()),
        Just("~{m}".to_string()),
        Just("^{n}".to_string()),
        Just("-".to_string()),
        Just(".service ".to_string()),
        Just(".mount".to_string()),
        Just("# ALWAYS_START\n".to_string()),
        Just("\n# ALSO=".to_string()),
        Just("../".to_string()),
        Just("..".to_string()),
        "[a-c@~^{}%\\\\ .\n\r\t\u{e4}-]{0,6}",
    ]
}

fn text() -> impl Strategy<Value = String> {
    prop::collection::vec(piece(), 0..12).prop_map(|v| v.concat())
}

fn file_name() -> impl Strategy<Value = String> {
    (
        text(),
        prop_oneof![
            Just(".service"),
            Just(".mount"),
            Just(".script"),
            Just(".path.j2")
        ],
    )
        .prop_map(|(t, suffix)| format!("{}{suffix}", t.replace(['/', '\0'], "")))
        .prop_filter("a file name", |n| n.len() < 200 && !n.starts_with('.'))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn random_templates_stay_inside(
        templates in prop::collection::vec((file_name(), text()), 0..6),
        start in text(),
        stop in prop_oneof![text(), file_name()],
        res in "[a-c.-]{1,4}",
    ) {
        let list: Vec<(&str, &str)> = templates.iter().map(|(n, t)| (n.as_str(), t.as_str())).collect();
        let place = Place::new(&list);
        let wanted = [(res.as_str(), start.as_str(), stop.as_str())];
        let plan = place.plan(&wanted);
        for step in &plan.steps {
            if let Step::Install { unit, to, .. } = step {
                let dir = if unit.ends_with(".script") { &place.env.script_dir } else { &place.env.target_dir };
                prop_assert_eq!(to.parent(), Some(dir.as_path()));
                prop_assert!(to.components().all(|c| c != std::path::Component::ParentDir));
            }
        }
        let manager = Recorder::default();
        // Scripts of random text are written, not run.
        let quiet: Vec<Step> = plan.steps.iter().filter(|s| !matches!(s, Step::Start(u) if is_script(u))).cloned().collect();
        let out = carry_out(&place.env, &Generation { steps: quiet, ..plan }, &manager, Duration::from_secs(1));
        prop_assert_eq!(out.errors, Vec::<String>::new());
        let again = place.plan(&wanted);
        prop_assert_eq!(again.steps, vec![]);
    }

    #[test]
    fn random_unescape_is_the_inverse(s in "\\PC{0,40}|[a-c/.\\\\ -]{0,20}") {
        // A slash and what stands for it are the one thing that is not kept apart by path rules.
        prop_assert_eq!(unescape(&escape(&s)), Some(s));
    }

    #[test]
    fn random_unescape_of_anything_is_harmless(s in "[a-f0-9x\\\\/-]{0,20}") {
        if let Some(text) = unescape(&s) {
            prop_assert_eq!(unescape(&escape(&text)), Some(text));
        }
    }
}

/// The same as the program of systemd, for thousands of strings.
#[test]
fn random_escape_is_what_systemd_does() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let strings = "[a-z0-9:_/.\\\\ @%-]{1,30}|\\PC{1,20}|[./]{1,6}[a-b./-]{0,6}";
    let strategy = proptest::string::string_regex(strings).unwrap();
    let mut given: Vec<String> = [
        "lv-0", "my.data", "mydata", "/", "//", "/a//b/", "./.x", "a/./b", ".foo",
    ]
    .map(str::to_string)
    .into();
    while given.len() < 3000 {
        given.push(strategy.new_tree(&mut runner).unwrap().current());
    }
    let ask = |args: &[&str], strings: &[String]| -> Option<Vec<String>> {
        let out = Command::new("systemd-escape")
            .args(args)
            .arg("--")
            .args(strings)
            .output()
            .unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        let words = text
            .trim_end_matches('\n')
            .split(' ')
            .map(str::to_string)
            .collect();
        out.status.success().then_some(words)
    };
    for part in given.chunks(300) {
        let ours: Vec<String> = part.iter().map(|s| escape(s)).collect();
        assert_eq!(Some(ours), ask(&[], part));
        let (good, bad): (Vec<String>, Vec<String>) =
            part.iter().cloned().partition(|s| escape_path(s).is_some());
        let ours: Vec<String> = good.iter().filter_map(|s| escape_path(s)).collect();
        assert_eq!(Some(ours), ask(&["--path"], &good));
        for s in bad {
            assert_eq!(None, ask(&["--path"], std::slice::from_ref(&s)), "{s:?}");
        }
    }
}
