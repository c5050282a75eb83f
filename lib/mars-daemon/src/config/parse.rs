//! From TOML to checked values, each with its line. All problems of a file are found, not only the first.
use super::keys::{Kind, Scope, Tunable, advice, find};
use super::{Problem, Source, Value};
use mars_tree::ResName;
use std::path::Path;
use std::sync::Arc;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Values with their sections.
pub type Parsed = Vec<(Option<String>, &'static Tunable, Value, Source)>;

struct Parser<'a> {
    file: Arc<Path>,
    text: &'a str,
    problems: &'a mut Vec<Problem>,
    out: Parsed,
}

/// Reads a text; what is wrong is added to `problems`.
pub fn parse_file(file: &Path, text: &str, problems: &mut Vec<Problem>) -> Parsed {
    let before = problems.len();
    let mut p = Parser {
        file: file.into(),
        text,
        problems,
        out: Vec::new(),
    };
    let (table, errors) = DeTable::parse_recoverable(text);
    for e in errors {
        let at = e.span().map(|s| s.start);
        p.problem(at, &e.message().replace('\n', " "));
    }
    p.table(None, table.get_ref());
    let out = p.out;
    if let Some(new) = problems.get_mut(before..) {
        new.sort_by_key(|p| p.line);
    }
    out
}

impl Parser<'_> {
    fn line(&self, at: usize) -> usize {
        let before = self.text.as_bytes().get(..at).unwrap_or_default();
        before.iter().filter(|b| **b == b'\n').count() + 1
    }

    fn problem(&mut self, at: Option<usize>, text: &str) {
        self.problems.push(Problem {
            file: self.file.to_path_buf(),
            line: at.map(|a| self.line(a)),
            text: text.to_string(),
        });
    }

    /// The top level, or the section of a resource.
    fn table(&mut self, res: Option<&str>, table: &DeTable<'_>) {
        for (name, value) in table {
            let at = name.span().start;
            let name = name.get_ref().as_ref();
            if name == "resource" && res.is_none() {
                self.resources(at, value);
                continue;
            }
            match find(name) {
                None => {
                    let text = format!("unknown key {}; {}", quoted(name), advice(name));
                    self.problem(Some(at), &text);
                }
                Some(key) if res.is_some() && key.scope == Scope::Host => {
                    let text = format!(
                        "{name} counts for the whole host; write it at the top level, before the first [section]"
                    );
                    self.problem(Some(at), &text);
                }
                Some(key) => match check(key, value.get_ref()) {
                    Ok(v) => {
                        let source = Source {
                            file: Arc::clone(&self.file),
                            line: self.line(at),
                        };
                        self.out.push((res.map(str::to_string), key, v, source));
                    }
                    Err(why) => self.problem(Some(at), &why),
                },
            }
        }
    }

    fn resources(&mut self, at: usize, value: &Spanned<DeValue<'_>>) {
        let DeValue::Table(sections) = value.get_ref() else {
            self.problem(Some(at), "resource is a section: write [resource.NAME]");
            return;
        };
        for (name, section) in sections {
            let at = name.span().start;
            let name = name.get_ref().as_ref();
            if let Err(e) = name.parse::<ResName>() {
                self.problem(Some(at), &format!("[resource.{}]: {e}", quoted(name)));
                continue;
            }
            match section.get_ref() {
                DeValue::Table(t) => self.table(Some(name), t),
                _ => {
                    let text = format!("resource.{name} is a section: write [resource.{name}]");
                    self.problem(Some(at), &text);
                }
            }
        }
    }
}

/// A name from the file, short and without control characters.
fn quoted(name: &str) -> String {
    let short: String = name.chars().take(64).collect();
    format!("{short:?}")
}

fn check(key: &Tunable, value: &DeValue<'_>) -> Result<Value, String> {
    let given = show(value);
    let name = key.name;
    let allowed = key.kind.allowed();
    let unit = match key.unit {
        "" => String::new(),
        u => format!(" {u}"),
    };
    match (key.kind, value) {
        (Kind::Number(min, max), DeValue::Integer(i)) => match i.to_string().parse::<u64>() {
            Ok(n) if (min..=max).contains(&n) => Ok(Value::Number(n)),
            _ => Err(format!("{name} = {given}: must be {allowed}{unit}")),
        },
        (Kind::Number(..), _) => Err(format!(
            "{name} = {given}: a whole number without quotes is needed, {allowed}{unit}"
        )),
        (Kind::Bool, DeValue::Boolean(b)) => Ok(Value::Bool(*b)),
        (Kind::Bool, _) => Err(format!("{name} = {given}: must be true or false")),
        (Kind::Word(words), DeValue::String(s)) => match words.iter().find(|w| *w == s) {
            Some(w) => Ok(Value::Word(w)),
            None => {
                let near = crate::nearest(s, words.iter().copied());
                let near = near.map_or(String::new(), |n| format!("; did you mean \"{n}\"?"));
                Err(format!("{name} = {given}: must be one of {allowed}{near}"))
            }
        },
        (Kind::Word(_), _) => Err(format!(
            "{name} = {given}: a word in quotes is needed, one of {allowed}"
        )),
    }
}

fn show(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(s) => quoted(s),
        DeValue::Integer(i) => i.to_string(),
        DeValue::Float(f) => f.to_string(),
        DeValue::Boolean(b) => b.to_string(),
        DeValue::Datetime(d) => d.to_string(),
        DeValue::Array(_) => "[...]".to_string(),
        DeValue::Table(_) => "{...}".to_string(),
    }
}
