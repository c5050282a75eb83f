#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use proptest::prelude::*;
use std::collections::BTreeMap;

/// Macros by name, one primitive, and what was told.
#[derive(Default)]
struct Toy {
    macros: BTreeMap<String, Rc<Source>>,
    told: String,
    links: BTreeMap<String, String>,
    paused: f64,
}

impl World for Toy {
    fn source(&mut self, name: &str) -> Option<Rc<Source>> {
        self.macros.get(name).cloned()
    }
    fn primitive(&mut self, name: &str, args: &[String]) -> Option<Result<String, String>> {
        match name {
            "get-primary" => Some(Ok("hostB".into())),
            "args" => Some(Ok(format!("<{}>", args.join("|")))),
            "broken" => Some(Err("no value".into())),
            _ => None,
        }
    }
    fn tell(&mut self, text: &str) {
        self.told.push_str(text);
    }
    fn pause(&mut self, seconds: f64, limited: bool) -> Result<(), String> {
        self.paused += seconds;
        if limited && self.paused > 10.0 {
            return Err("Timeout reached".into());
        }
        Ok(())
    }
    fn read_link(&mut self, path: &str) -> Option<String> {
        self.links.get(path).cloned()
    }
    fn set_link(&mut self, value: &str, path: &str) -> Result<(), String> {
        self.links.insert(path.into(), value.into());
        Ok(())
    }
    fn glob(&mut self, pattern: &str) -> Result<Vec<String>, String> {
        Ok(self
            .links
            .keys()
            .filter(|k| k.starts_with(pattern))
            .cloned()
            .collect())
    }
}

impl Toy {
    fn add(&mut self, name: &str, text: &str) {
        self.macros
            .insert(name.into(), Source::file(&format!("{name}.tpl"), text));
    }
    fn run(&mut self, text: &str) -> Result<String, LangError> {
        self.bounded(text, Limits::default())
    }
    fn bounded(&mut self, text: &str, limits: Limits) -> Result<String, LangError> {
        let vars = [("res", "NAME"), ("host", "me")].map(|(n, v)| (n.to_string(), v.to_string()));
        let source = Source::option("--macro", text);
        Run::new(self, vars, limits).text(&source, "default", &["x".into(), "y".into()])
    }
}

fn run(text: &str) -> String {
    Toy::default()
        .run(text)
        .unwrap_or_else(|e| panic!("{text}: {e}"))
}

fn error(text: &str) -> String {
    Toy::default().run(text).expect_err(text).to_string()
}

/// macro-language.md section 8.
#[test]
fn conformance_vectors() {
    let vectors: &[(&str, &str)] = &[
        ("%*{7}{%+{2}{3}}", "35"),
        ("%-{10}{2}{3}", "5"),
        ("%/{7}{2}", "3.5"),
        ("%%{7}{3}", "1"),
        ("%<<{1}{4}", "16"),
        ("%^{6}{3}", "5"),
        ("%min{3}{5}", "3"),
        ("%max{3}{5}", "5"),
        ("%<{2}{10}", "1"),
        ("%lt{2}{10}", ""),
        ("%&&{2}{3}", "3"),
        ("%or{5}{7}", "1"),
        ("%or{0}{7}", "7"),
        ("%and{1}{0}", "0"),
        ("%if{0.0}{T}{F}", "T"),
        ("%if{0}{T}{F}", "F"),
        ("%elsif{0}{a}{0}{b}{c}", "c"),
        ("%elsunless{1}{a}{0}{b}{c}", "b"),
        ("%subst{a-b-c}{-}{/}", "a/b-c"),
        ("%subst{a-b-c}{-}{/}{g}", "a/b/c"),
        ("%subst{abc}{(.)b}{$1$1}", "aac"),
        ("%match{Foo}{foo}{i}", "1"),
        ("%let{i}{3}%while{%{i}}{%{i},%{--}{i}|}", "3,2|2,1|1,0|"),
        ("%let{i}{0}%until{%>={%{i}}{3}}{%{i}{++};}", "0;1;2;"),
        ("%foreach{v}{a,b,c}{,}{[%{v}]}", "[a][b][c]"),
        ("%let{l}{a,b,c}%{l}{,}{*}", "c"),
        ("%let{l}{a,b,c}%set{l}{,}{1}{X}%{l}", "a,X,c"),
        ("%let{x}{1}%tmp{%let{x}{2}%{x}}%{x}", "21"),
        ("%eval{0}{%{res}}", "%{res}"),
        ("%eval{1}{%{res}}", "NAME"),
        ("%eval-down{%{res}}", "NAME"),
        ("a\\tb\\\\c\\%d\\{e\\}", "a\tb\\c%d{e}"),
        ("50% off %{res}", "50% off NAME"),
        ("%sprintf{%05d|%s|%.2f}{42}{x}{1.5}", "00042|x|1.50"),
    ];
    for (text, want) in vectors {
        assert_eq!(run(text), *want, "{text}");
    }
}

/// Each function at least once.
#[test]
fn every_function_by_a_table() {
    // Name, text with it, result.
    let table: &[(&str, &str, &str)] = &[
        ("!", "%!{} %!{0} %!{2}", "1 1 "),
        ("!=", "%!={1}{2}%!={1}{1.0}", "1"),
        ("%", "%%{17}{5}{4}", "2"),
        ("&", "%&{7}{6}{3}", "2"),
        ("&&", "%&&{1}{0}{%die{x}}", "0"),
        ("*", "%*{2}{3}{4}", "24"),
        ("+", "%+{0.1}{0.2}{1,9}", "1.3"),
        ("-", "%-{1}{2}{3}", "-4"),
        ("/", "%/{1}{4}", "0.25"),
        ("<", "%<{10}{9}%<{9}{10}", "1"),
        ("<<", "%<<{3}{2}", "12"),
        ("<=", "%<={2}{2}%<={3}{2}", "1"),
        ("==", "%=={02}{2.0}%=={a}{b}%=={1}{2}", "11"),
        ("=~", "%=~{abc}{^a.c$}", "1"),
        (">", "%>{10}{9}%>{9}{10}", "1"),
        (">=", "%>={2}{2}%>={1}{2}", "1"),
        (">>", "%>>{12}{2}", "3"),
        ("^", "%^{12}{10}", "6"),
        ("and", "%and{1}{}{2}", "0"),
        ("append", "%append{v}{a}%append{v}{b}%{v}", "ab"),
        ("call", "%call{args}{a}{b}", "<a|b>"),
        ("callstack", "%callstack{}", "default"),
        ("dump-vars", "%dump-vars{}", ""),
        ("elseif", "%elseif{0}{a}{1}{b}{c}", "b"),
        ("elsif", "%elsif{0}{a}{c}", "c"),
        ("elsunless", "%elsunless{1}{a}{}{b}{c}", "b"),
        ("eq", "%eq{a}{a}%eq{a}{b}", "1"),
        ("eval", "%eval{2}{%protect{%{res}}}", "NAME"),
        (
            "eval-down",
            "%eval-down{%protect{%protect{%{res}}}}",
            "NAME",
        ),
        ("for", "%for{%let{i}{2}}{%{i}}{%{i}{--}}{<%{i}>}", "<2><1>"),
        ("foreach", "%foreach{v}{a b}{ }{<%{v}>}", "<a><b>"),
        (
            "foreach-glob",
            "%setlink{x}{/p}%foreach-glob{/}{v}{%{v}}",
            "/p",
        ),
        ("ge", "%ge{b}{a}%ge{a}{b}", "1"),
        (
            "get-glob",
            "%setlink{x}{/p}%setlink{x}{/q}%get-glob{/}{}{:}",
            "/p:/q",
        ),
        ("gt", "%gt{b}{a}%gt{a}{a}", "1"),
        ("if", "%if{ }{t}{e}%if{}{t}{e}%if{0}{t}", "te"),
        ("include", "%include{args}{a}", "<a>"),
        ("le", "%le{a}{a}%le{b}{a}", "1"),
        ("length", "%length{}%length{four}", "04"),
        ("let", "%let{v}{x}%{v}", "x"),
        ("lt", "%lt{10}{9}%lt{9}{10}", "1"),
        ("match", "%match{a\\nb}{^b}%match{a\\nb}{^b}{i}", "1"),
        ("max", "%max{3}{11}{5}", "11"),
        ("min", "%min{3}{11}{5}", "3"),
        ("ne", "%ne{1}{1.0}%ne{a}{a}", "1"),
        ("not", "%not{}%not{0}%not{x}", "11"),
        ("or", "%or{}{0}{last}", "last"),
        ("printf", "%printf{%x-%3d|}{255}{7}", "ff-  7|"),
        ("protect", "%protect{%if{1}{\\t}}", "%if{1}{\\t}"),
        (
            "readlink",
            "%setlink{v}{/p}%readlink{/p}%readlink{/none}",
            "v",
        ),
        (
            "set",
            "%let{l}{a,b}%set{l}{,}{0}{X}%set{l}{,}{*}{Y}%{l}",
            "X,b,Y",
        ),
        ("setlink", "%setlink{v}{/p}", ""),
        ("sleep", "%sleep{0}", ""),
        ("sprintf", "%sprintf{%s%%%c %{x}}{a}{65}", "a%A %{x}"),
        ("subst", "%subst{aab}{a}{b}{g}", "bbb"),
        ("timeout", "%timeout{1}", ""),
        ("tmp", "%let{v}{1}%tmp{%let{v}{2}%{v}}%{v}", "21"),
        ("tolower", "%tolower{AbC}", "abc"),
        ("toupper", "%toupper{AbC}", "ABC"),
        ("unless", "%unless{}{t}{e}%unless{1}{t}{e}", "te"),
        ("until", "%until{%{n}}{x%{++}{n}}", "x1"),
        ("warn", "%warn{w}", ""),
        ("while", "%let{n}{2}%while{%{n}}{%{n}%{n}{--}}", "2211"),
        ("|", "%|{8}{3}", "11"),
        ("||", "%||{0}{1}{%die{x}}", "1"),
        ("~", "%&{%~{5}}{255}", "250"),
    ];
    for (name, text, want) in table {
        assert!(text.contains(&format!("%{name}{{")), "{text}");
        assert_eq!(run(text), *want, "{text}");
    }
    assert!(error("%die{gone}").contains("gone"));
    let named: Vec<&str> = table.iter().map(|(n, _, _)| *n).collect();
    for name in builtin_names() {
        assert!(named.contains(&name) || name == "die", "{name} has no row");
    }
}

#[test]
fn what_is_no_call_stays() {
    for text in [
        "100%",
        "%foo bar{x}",
        "%{res",
        "% {x}",
        "a}b",
        "%f(x){y}",
        "%",
        "%a}{b}",
    ] {
        assert_eq!(run(text), text);
    }
    assert_eq!(run("%{res}{"), "NAME{");
    assert_eq!(run("\\%{res}"), "%{res}");
    assert_eq!(run("%if{1}{\\{}"), "{");
}

#[test]
fn arithmetic_and_comparison() {
    for (text, want) in [
        ("%/{10}{3}", "3.33333333333333"),
        ("%+{1,9}{1}", "2"),
        ("%+{}{2x}", "2"),
        ("%-{5}", "5"),
        ("%%{-7}{3}", "2"),
        ("%%{7}{-3}", "-2"),
        ("%&{6}{3}", "2"),
        ("%|{6}{3}", "7"),
        ("%>>{16}{2}", "4"),
        ("%<<{1}{64}", "0"),
        ("%~{0}", "18446744073709551615"),
        ("%=={1.0}{1}", "1"),
        ("%!={1}{2}", "1"),
        ("%eq{1.0}{1}", ""),
        ("%ge{b}{a}", "1"),
        ("%!{0}", "1"),
        ("%not{a}", ""),
        ("%and{1}{2}{3}", "3"),
        ("%or{0}{}{0}", "0"),
        ("%length{abcä}", "4"),
        ("%toupper{ab}%tolower{AB}", "ABab"),
        ("%{++}{n}%{++}{n}%{--}{n}", "121"),
        ("%append{a}{x}%append{a}{y}%{a}", "xy"),
        ("%let{l}{a  b c}%{l}{ }{1}", "b"),
        ("%set{l}{:}{2}{z}%{l}", "::z"),
        ("%set{l}{:}{*}{z}%set{l}{:}{}{y}%{l}", "z:y"),
    ] {
        assert_eq!(run(text), want, "{text}");
    }
    assert!(error("%/{1}{0}").contains("division by zero"));
    assert!(error("%%{1}{0.5}").contains("division by zero"));
    assert!(error("%let{l}{a}%{l}{,}{3}").contains("no element"));
}

#[test]
fn regular_expressions_have_perl_semantics() {
    for (text, want) in [
        ("%match{foobar}{o(?=b)}", "1"),
        ("%match{abab}{^(ab)\\\\1$}", "1"),
        ("%=~{a1}{\\\\d}", "1"),
        ("%match{a\\nb}{a.b}", ""),
        ("%match{a\\nb}{a.b}{s}", "1"),
        ("%match{x}{(}", ""),
        ("%subst{aXbX}{x}{-}{gi}", "a-b-"),
        ("%subst{ab}{(a)(b)}{$2${1}$&$}", "baab$"),
        ("%subst{ab}{(}{x}", "ab"),
        ("%subst{abc}{}{-}{g}", "-a-b-c-"),
    ] {
        assert_eq!(run(text), want, "{text}");
    }
    assert!(error("%subst{a}{a}{b}{e}").contains("option 'e'"));
    // A pattern that explodes ends.
    let long = format!("%match{{{}}}{{^(a|aa|aaa)*\\\\1b$}}", "a".repeat(60));
    assert_eq!(run(&long), "");
}

#[test]
fn scopes() {
    let mut t = Toy::default();
    t.add("show", "[%{0}:%{1}:%{2}:%{v}]%let{v}{changed}");
    let text = "%let{v}{old}%call{show}{a}%{v} %include{show}{b}%{v} %{0}%{1}";
    assert_eq!(
        t.run(text).unwrap(),
        "[show:a:y:old]old [show:b:y:old]changed showb"
    );
    assert_eq!(t.run("%show{p}{q}%{2}").unwrap(), "[show:p:q:]q");
    assert_eq!(t.run("%call{args}{a%%b}{\\{}").unwrap(), "<a%%b|{>");
    assert!(
        t.run("%call{nothing}{}")
            .unwrap_err()
            .text
            .contains("unknown macro 'nothing'")
    );
}

#[test]
fn resolution_order() {
    let mut t = Toy::default();
    t.add("if", "mine(%{1})");
    t.add("get-primary", "file");
    assert_eq!(t.run("%if{1}{a}").unwrap(), "mine(1)");
    assert_eq!(t.run("%primitive-if{1}{a}").unwrap(), "a");
    assert_eq!(
        t.run("%get-primary{} %primitive-get-primary{} %primitive_get-primary{}")
            .unwrap(),
        "file hostB hostB"
    );
    assert!(
        t.run("%nope{}")
            .unwrap_err()
            .text
            .contains("call to unknown macro 'nope'")
    );
}

#[test]
fn loops_and_lists() {
    for (text, want) in [
        (
            "%for{%let{i}{0}out}{%<{%{i}}{3}}{%{++}{i}}{%{i} }",
            "0 1 2 ",
        ),
        ("%foreach{v}{a,,b,,}{,}{<%{v}>}", "<a><><b>"),
        ("%foreach{v}{ a\\tb }{ }{<%{v}>}", "<a><b>"),
        ("%unless{}{a}{b}%unless{1}{a}", "a"),
        ("%elseif{0}{a}", ""),
        ("%protect{%{res}}", "%{res}"),
        ("%eval{2}{%protect{%{res}}}", "NAME"),
        ("%callstack{}", "default"),
    ] {
        assert_eq!(run(text), want, "{text}");
    }
    assert!(error("%if{1}").contains("then-part is missing"));
}

#[test]
fn outside() {
    let mut t = Toy::default();
    assert_eq!(
        t.run("%setlink{v}{/a/b}%readlink{/a/b}%readlink{/c}")
            .unwrap(),
        "v"
    );
    assert_eq!(
        t.run("%foreach-glob{/a}{p}{<%{p}>}%get-glob{/a}{}{,}")
            .unwrap(),
        "</a/b>/a/b"
    );
    t.run("%warn{careful\\n}%let{__hidden}{1}%let{shown}{2}%dump-vars{}")
        .unwrap();
    assert!(
        t.told.starts_with("WARNING: careful\n0='default'\n1='x'\n"),
        "{}",
        t.told
    );
    assert!(t.told.contains("shown='2'\n") && !t.told.contains("hidden"));
    assert!(
        t.run("%timeout{11}")
            .unwrap_err()
            .text
            .contains("Timeout reached")
    );
    t.told.clear();
    assert_eq!(t.run("\\q%{}").unwrap(), "q");
    assert!(t.told.contains("reserved") && t.told.contains("empty variable name"));
    assert!(t.run("%broken{}").unwrap_err().text.contains("no value"));
}

#[test]
fn errors_name_file_line_column_and_callers() {
    let mut t = Toy::default();
    t.add("outer", "# comment\nx\\\n   %inner{}");
    t.add("inner", "ok\n  %die{bad thing}");
    let e = t.run("a%outer{}").unwrap_err();
    assert_eq!((e.origin.as_str(), e.line, e.column), ("inner.tpl", 2, 3));
    assert_eq!(e.stack, ["default", "outer", "inner"]);
    assert_eq!(
        e.to_string(),
        "inner.tpl:2:3: bad thing (in default > outer > inner)"
    );
    let e = t.run("%outer{%nope{}}").unwrap_err();
    assert_eq!((e.origin.as_str(), e.line, e.column), ("--macro", 1, 8));
}

#[test]
fn endless_macros_end() {
    let mut t = Toy::default();
    t.add("self", "%self{}");
    assert!(t.run("%self{}").unwrap_err().text.contains("nested deeper"));
    assert!(
        t.run("%while{1}{}")
            .unwrap_err()
            .text
            .contains("endless loop")
    );
    let limits = Limits {
        bytes: 1000,
        ..Limits::default()
    };
    let bounded = |t: &mut Toy, s: &str| t.bounded(s, limits).unwrap_err().text;
    assert!(bounded(&mut t, "%while{1}{xxxxxxxxxxxx}").contains("bytes of output"));
    assert!(bounded(&mut t, "%let{a}{x}%while{1}{%append{a}{%{a}}}").contains("bytes of output"));
    assert!(
        bounded(
            &mut t,
            "%let{a}{%%{a}}%eval-down{%protect{%eval{1}{x%{a}}}}%while{1}{aaaa}"
        )
        .contains("bytes")
    );
    assert!(
        t.run(&format!("{}{}", "%if{1}{".repeat(5000), "}".repeat(5000)))
            .unwrap_err()
            .text
            .contains("nested deeper")
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the text, evaluation ends without a panic.
    #[test]
    fn any_text_ends(text in "([%{}\\\\#/*a-c0-3,|+!=<> \n-]|%[a-z+*&|<>!=~]{0,7}\\{[^{}]{0,6}\\}){0,40}") {
        let limits = Limits { steps: 2000, depth: 60, bytes: 100_000 };
        let _ = Toy::default().bounded(&text, limits);
    }

    /// Calls of every function with any arguments.
    #[test]
    fn any_call_ends(name in prop::sample::select(super::builtin::builtin_names()), args in prop::collection::vec("[%{}a-c0-9,.|*+ -]{0,8}", 1..5)) {
        let args: String = args.iter().map(|a| format!("{{{a}}}")).collect();
        let limits = Limits { steps: 2000, depth: 60, bytes: 100_000 };
        let _ = Toy::default().bounded(&format!("%{name}{args}"), limits);
    }

    /// A quoted text evaluates to itself.
    #[test]
    fn quoting_protects(text in "[%{}\\\\a-z \n,]{0,30}") {
        let quoted: String = text.chars().flat_map(|c| {
            let quote = matches!(c, '\\' | '%' | '{' | '}');
            quote.then_some('\\').into_iter().chain([c])
        }).collect();
        let source = Rc::new(Source::plain("t", &quoted));
        let mut toy = Toy::default();
        let out = Run::new(&mut toy, [], Limits::default()).text(&source, "t", &[]).unwrap();
        prop_assert_eq!(out, text);
    }

    /// Text without special characters is copied.
    #[test]
    fn plain_text_is_copied(text in "[a-zA-Z0-9 .,:;()\n-]{0,60}") {
        prop_assert_eq!(run(&text), text);
    }
}
