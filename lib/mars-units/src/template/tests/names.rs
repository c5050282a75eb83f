//! Names: substitution, matching, what comes from hostile links.
use super::*;
use crate::template::name::Name;

fn matched(template: &str, res: &str, unit: &str) -> Option<Vec<(String, String)>> {
    let mut toy = Toy::default();
    toy.begin(Some(res));
    let name = Name::parse(template, Syntax::default()).unwrap();
    name.instantiate(Syntax::default(), &mut toy, "t", &mut Vec::new())
        .unwrap()
        .matches(unit)
}

fn vars(list: &[(&str, &str)]) -> Option<Vec<(String, String)>> {
    Some(
        list.iter()
            .map(|(n, v)| (n.to_string(), v.to_string()))
            .collect(),
    )
}

#[test]
fn name_matches_the_example_of_the_documents() {
    for template in ["~{mntname}-@{res}.mount", "^{mntname}-@{res}.mount"] {
        assert_eq!(
            matched(template, "mydata", "another-mountdir-mydata.mount"),
            vars(&[("mntname", "another-mountdir")])
        );
        // At least one character.
        assert_eq!(matched(template, "mydata", "-mydata.mount"), None);
        assert_eq!(matched(template, "other", "x-mydata.mount"), None);
    }
}

#[test]
fn name_forms() {
    assert_eq!(
        matched("@escvar{res}.mount", "lv-0", "lv\\x2d0.mount"),
        vars(&[])
    );
    assert_eq!(matched("@{res}.mount", "lv-0", "lv-0.mount"), vars(&[]));
    assert_eq!(
        matched("@esc{/mnt/a-b}.mount", "r", "mnt-a\\x2db.mount"),
        vars(&[])
    );
    assert_eq!(
        matched("@esc{/mnt/@{res}}.mount", "a-b", "mnt-a\\x2db.mount"),
        vars(&[])
    );
    assert_eq!(matched("x@.service", "r", "x@.service"), vars(&[]));
    // Each takes as much as possible.
    assert_eq!(
        matched("~{a}-~{b}.service", "r", "x-y-z.service"),
        vars(&[("a", "x-y"), ("b", "z")])
    );
    assert_eq!(
        matched("a~{x}b^{y}c.timer", "r", "aabbbxc.timer"),
        vars(&[("x", "abb"), ("y", "x")])
    );
}

/// Names of units are escaped; the templates of the manual have the plain name in theirs.
#[test]
fn name_of_the_resource_may_be_plain_in_the_template() {
    let place = Place::new(&[("~{m}-@{res}-load.service", "What=@{res} @{m}\n")]);
    place.apply(&[("lv-0", "a-lv\\x2d0-load.service b-lv-0-load.service", "")]);
    assert_eq!(place.body("a-lv\\x2d0-load.service"), "What=lv-0 a\n");
    assert_eq!(place.body("b-lv-0-load.service"), "What=lv-0 b\n");
}

#[test]
fn name_that_is_wrong_is_refused() {
    for bad in ["~{}.service", "~{a b}.service", "~{a}-~{a}.service"] {
        assert!(Name::parse(bad, Syntax::default()).is_err(), "{bad}");
    }
    let many: String = (0..9).map(|i| format!("~{{v{i}}}-")).collect();
    assert!(Name::parse(&many, Syntax::default()).is_err());
}

#[test]
fn name_matching_is_bounded() {
    let began = std::time::Instant::now();
    let unit = format!("{}.service", "a".repeat(240));
    assert_eq!(
        matched("~{a}a~{b}a~{c}a~{d}a~{e}a~{f}a~{g}b.service", "r", &unit),
        None
    );
    assert!(began.elapsed() < Duration::from_secs(20), "exponential");
}

#[test]
fn name_syntax_can_be_changed() {
    let syntax = Syntax {
        subst: '$',
        matching: '!',
    };
    let mut toy = Toy::default();
    toy.begin(Some("r"));
    let name = Name::parse("!{x}-~{y}-${res}-@{res}^{z}.service", syntax).unwrap();
    let pattern = name
        .instantiate(syntax, &mut toy, "t", &mut Vec::new())
        .unwrap();
    assert_eq!(
        pattern.matches("a-b-r-@{res}^{z}.service"),
        vars(&[("x", "a"), ("y", "b")])
    );
}

#[test]
fn name_specific_template_wins_whatever_the_order() {
    let place = Place::new(&[("^{mnt}-@{res}.mount", "[Mount]\n# vague\n")]);
    place.template("etc", "^{x}.mount", "[Mount]\n# vaguer\n");
    place.template("lib", "test-@{res}.mount", "[Mount]\n# exact\n");
    place.apply(&[("r", "test-r.mount", "other-r.mount")]);
    assert!(place.body("test-r.mount").contains("exact"));
    assert!(place.body("other-r.mount").contains("# vague\n"));
}

#[test]
fn name_first_directory_wins() {
    let place = Place::new(&[("a-@{res}.service", "lib\n"), ("b-@{res}.service", "lib\n")]);
    place.template("etc", "a-@{res}.service", "etc\n");
    // A plain file comes before one for minijinja in the same directory.
    place.template("lib", "b-@{res}.service.j2", "jinja\n");
    place.apply(&[("r", "a-r.service", "b-r.service")]);
    assert_eq!(place.body("a-r.service"), "etc\n");
    assert_eq!(place.body("b-r.service"), "lib\n");
}

/// The names of units come from links that any host of the cluster can set.
#[test]
fn name_from_a_hostile_link_goes_nowhere() {
    let place = Place::new(&[("~{x}.service", "@{x}\n"), ("~{x}.script", "#!/bin/sh\n")]);
    let long = format!("{}.service", "a".repeat(300));
    for bad in [
        "../evil.service",
        "/etc/evil.service",
        "a/../../evil.service",
        "evil\n[Service]\nExecStart=/bin/evil.service",
        "evil\0.service",
        ".service",
        ".hidden.service",
        "..service",
        "\\\\x2e\u{202e}.service",
        "$(reboot).service",
        "a;reboot.script",
        "%n.service",
        &long,
        "x.conf",
    ] {
        let (plan, _) = {
            let plan = place.plan(&[("r", bad, "")]);
            let out = carry_out(
                &place.env,
                &plan,
                &Recorder::default(),
                Duration::from_secs(1),
            );
            (plan, out)
        };
        for step in &plan.steps {
            if let Step::Install { to, text, .. } = step {
                assert_eq!(to.parent(), Some(place.env.target_dir.as_path()), "{bad:?}");
                assert!(!text.contains("ExecStart"), "{text}");
            }
        }
        assert!(!plan.errors.is_empty(), "{bad:?}");
        assert!(
            plan.errors.iter().all(|e| !e.contains('\n')),
            "{:?}",
            plan.errors
        );
    }
    assert!(!place.path("evil.service").exists());
    // Of the words of the one with blanks in it, what is a name was taken as one.
    assert!(
        place
            .generated()
            .iter()
            .all(|n| place.env.check_name(n).is_ok())
    );
}

#[test]
fn name_of_a_resource_is_escaped_for_convenience() {
    let res = "lv-0".parse().unwrap();
    for (given, wanted) in [
        ("mnt-lv-0.mount", "mnt-lv\\x2d0.mount"),
        ("lv-0.service", "lv\\x2d0.service"),
        ("mars@lv-0.service", "mars@lv\\x2d0.service"),
        ("mnt-lv\\x2d0.mount", "mnt-lv\\x2d0.mount"),
        ("mnt-lv-01.mount", "mnt-lv-01.mount"),
        ("mnt-xlv-0.mount", "mnt-xlv-0.mount"),
    ] {
        assert_eq!(escape_resource_in(given, &res), wanted);
    }
    let plain = "mydata".parse().unwrap();
    assert_eq!(
        escape_resource_in("a-mydata.mount", &plain),
        "a-mydata.mount"
    );
}

#[test]
fn keyword_finds_the_first_marked_template() {
    let place = Place::new(&[
        ("a-@escvar{res}.mount", "## DEFAULT_STOP\n[Mount]\n"),
        (
            "b-@escvar{res}.mount",
            "# DEFAULT_STOP\n# MOUNTED_START\n[Mount]\n",
        ),
        ("c-^{x}.service", "# DEFAULT_START\n"),
        ("d-@escvar{res}.script.j2", "#!/bin/sh\n#DEFAULT_START\n"),
    ]);
    place.template("etc", "z-@escvar{res}.service", "# DEFAULT_START\n");
    let found = scan(&place.env);
    let mut toy = Toy::default();
    let mut ask = |word, op| keyword_of(&place.env, &found, "lv-0", word, op, &mut toy);
    assert_eq!(
        ask("DEFAULT", Op::Start).as_deref(),
        Some("z-lv\\x2d0.service")
    );
    assert_eq!(
        ask("DEFAULT", Op::Stop).as_deref(),
        Some("b-lv\\x2d0.mount")
    );
    assert_eq!(
        ask("MOUNTED", Op::Start).as_deref(),
        Some("b-lv\\x2d0.mount")
    );
    assert_eq!(ask("MOUNTED", Op::Stop), None);
    fs::remove_file(place.path("etc/systemd-templates/z-@escvar{res}.service")).unwrap();
    let found = scan(&place.env);
    // Those with a match in their name are not possible.
    let unit = keyword_of(&place.env, &found, "lv-0", "DEFAULT", Op::Start, &mut toy);
    assert_eq!(unit.as_deref(), Some("d-lv\\x2d0.script"));
    assert!(is_keyword("DEFAULT") && !is_keyword("x.mount") && !is_keyword(""));
}
