#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use crate::template::tests::Toy;
use proptest::prelude::*;

fn ours(text: &str) -> Result<String, String> {
    let mut toy = Toy::default();
    toy.begin(Some("lv-0"));
    toy.set_var("mntname", "srv-www");
    toy.set_var("evil", "a\nb");
    render(text, "t.j2", &mut toy)
}

#[test]
fn jinja_examples() {
    for (text, wanted) in [
        ("{{ res }}@{{ host }}", "lv-0@hostA"),
        ("x\n", "x\n"),
        ("mnt-{{ res | systemd_escape }}.mount", "mnt-lv\\x2d0.mount"),
        ("{{ '/mnt/a-b' | systemd_escape }}", "mnt-a\\x2db"),
        ("{{ '-' | systemd_escape(path=false) }}", "\\x2d"),
        ("{{ '%{mntname}!' | macro }}", "srv-www!"),
        (
            "{{ '%let{p}{%subst{%{mntname}}{-}{/}}' | macro }}{{ p }}",
            "srv/www",
        ),
        ("{{ var('mntname') }}", "srv-www"),
        ("{% if res == 'lv-0' %}a{% else %}c{% endif %}", "a"),
        (
            "{% for x in ['a', 'b'] %}{{ loop.index }}{{ x }}{{ ',' if not loop.last else '.' }}{% endfor %}",
            "1a,2b.",
        ),
        ("{{ nope | default('d') }} {{ nope is defined }}", "d false"),
        ("{{ evil }}", "a b"),
    ] {
        let wanted_too = wanted.replace("false", "False");
        let got = ours(text).unwrap_or_else(|e| panic!("{text}: {e}"));
        assert!(got == wanted || got == wanted_too, "{text}: {got}");
    }
}

#[test]
fn jinja_errors_name_file_and_line() {
    for (text, line, word) in [
        ("a\n{{ nope }}", 2, "undefined"),
        ("\n\n{% if x %}{% endif %}", 3, "undefined"),
        ("a\n{% endif %}", 2, "endif"),
        ("{{ 1 + }}", 1, "unexpected"),
        ("{{ '%die{}' | macro }}", 1, "unknown macro die"),
        (
            "{{ '..' | systemd_escape }}",
            1,
            "no path that can be escaped",
        ),
        ("{{ var('nope') }}", 1, "\"nope\" is not defined"),
        ("{{ 1 | nope }}", 1, "nope"),
        ("{{ '-' | systemd_escape(pth=false) }}", 1, "pth"),
    ] {
        let e = ours(text).expect_err(text);
        assert!(
            e.starts_with(&format!("t.j2:{line}: ")) && e.contains(word),
            "{text}: {e}"
        );
        assert!(!e.contains('\n'), "{e}");
    }
}

#[test]
fn jinja_is_bounded() {
    let nested = format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000));
    let blocks = "{% if true %}".repeat(5000);
    let loops = "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}";
    let output = format!(
        "{{% for a in range(10000) %}}{}{{% endfor %}}",
        "x".repeat(200)
    );
    for text in [&nested, &blocks, loops, &output] {
        assert!(ours(text).is_err(), "{}", &text[..60.min(text.len())]);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn jinja_of_garbage_does_not_panic(text in "[{}%#a-c '\"|()\\[\\].,:=~+*/0-9\n\\\\-]{0,60}|\\PC{0,40}") {
        let _ = ours(&text);
    }
}
