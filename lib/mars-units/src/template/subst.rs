//! Substitution of `@{…}`, `@esc{…}`, `@escvar{…}`, `@eval{…}` and `@verbatim{…}`, left to right; results are not scanned again.
use super::{Macros, Syntax};
use mars_policy::{escape, escape_path};
use std::collections::BTreeSet;

/// Largest result.
pub(super) const OUTPUT_MAX: usize = 1 << 20;
/// Forms within forms.
const DEPTH_MAX: usize = 20;

/// A form at the beginning of a text: `@NAME{ARG}`.
pub(super) struct Form<'t> {
    pub name: &'t str,
    pub arg: &'t str,
    /// Bytes of the whole form.
    pub len: usize,
}

/// The form that `text` begins with, introduced by one of `intro`.
pub(super) fn form<'t>(text: &'t str, intro: &[char]) -> Option<Form<'t>> {
    let first = text.chars().next().filter(|c| intro.contains(c))?;
    let rest = text.get(first.len_utf8()..)?;
    let name_len = rest
        .find(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '-'))
        .unwrap_or(rest.len());
    let name = rest.get(..name_len)?;
    let braced = rest.get(name_len..).filter(|r| r.starts_with('{'))?;
    let len = balanced(braced)?;
    Some(Form {
        name,
        arg: braced.get(1..len - 1)?,
        len: first.len_utf8() + name_len + len,
    })
}

/// Length of the balanced `{…}` that the text begins with; escaped braces do not count.
fn balanced(text: &str) -> Option<usize> {
    let mut depth = 0_usize;
    let mut bytes = text.bytes().enumerate();
    while let Some((i, b)) = bytes.next() {
        match b {
            b'\\' => {
                bytes.next();
            }
            b'{' => depth += 1,
            b'}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(i + 1);
                }
            }
            _ => {}
        }
    }
    None
}

/// May this be the name of a variable?
pub(super) fn is_variable(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= 64
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-')
}

/// What one substitution works with.
pub(super) struct Subst<'a> {
    pub syntax: Syntax,
    pub macros: &'a mut dyn Macros,
    /// File name, for messages.
    pub origin: &'a str,
    pub warnings: &'a mut Vec<String>,
    undefined: BTreeSet<String>,
    produced: usize,
}

impl<'a> Subst<'a> {
    pub fn new(
        syntax: Syntax,
        macros: &'a mut dyn Macros,
        origin: &'a str,
        warnings: &'a mut Vec<String>,
    ) -> Subst<'a> {
        Subst {
            syntax,
            macros,
            origin,
            warnings,
            undefined: BTreeSet::new(),
            produced: 0,
        }
    }

    /// Substitutes in a whole file. Errors name file and line.
    pub fn text(&mut self, text: &str) -> Result<String, String> {
        self.part(text, 1, 0)
    }

    fn part(&mut self, text: &str, first_line: usize, depth: usize) -> Result<String, String> {
        let mut out = String::new();
        let mut line = first_line;
        let mut rest = text;
        while let Some(at) = rest.find(self.syntax.subst) {
            let (plain, special) = rest.split_at(at);
            line += newlines(plain);
            out.push_str(plain);
            let Some(form) = form(special, &[self.syntax.subst]) else {
                out.push(self.syntax.subst);
                rest = special.get(self.syntax.subst.len_utf8()..).unwrap_or("");
                continue;
            };
            let place = format!("{}:{line}", self.origin);
            let value = self
                .form(form.name, form.arg, line, depth)
                .map_err(|e| match depth {
                    0 => format!("{place}: {e}"),
                    _ => e,
                })?;
            self.produced += value.len();
            if self.produced > OUTPUT_MAX {
                return Err(format!("{place}: more than {OUTPUT_MAX} bytes of output"));
            }
            out.push_str(&value);
            let (used, after) = special.split_at(form.len);
            line += newlines(used);
            rest = after;
        }
        out.push_str(rest);
        Ok(out)
    }

    fn form(&mut self, name: &str, arg: &str, line: usize, depth: usize) -> Result<String, String> {
        match name {
            "" => self.variable(arg, line),
            "eval" => self.macros.eval(arg),
            "esc" => {
                if depth >= DEPTH_MAX {
                    return Err(format!("more than {DEPTH_MAX} forms within each other"));
                }
                let text = self.part(arg, line, depth + 1)?;
                let text = self.with_macros(&text)?;
                Ok(self.escaped(&text, line))
            }
            "escvar" => {
                let value = self.variable(arg, line)?;
                Ok(if value.starts_with("UNDEFINED(") {
                    value
                } else {
                    self.escaped(&value, line)
                })
            }
            "verbatim" => Ok(arg.to_string()),
            other => {
                self.warn(
                    line,
                    format!("{}{other}{{…}} is unknown", self.syntax.subst),
                );
                Ok(arg.to_string())
            }
        }
    }

    fn with_macros(&mut self, text: &str) -> Result<String, String> {
        if text.contains('%') {
            self.macros.eval(text)
        } else {
            Ok(text.to_string())
        }
    }

    fn variable(&mut self, name: &str, line: usize) -> Result<String, String> {
        let name = self.with_macros(name)?;
        if let Some(value) = self.macros.var(&name) {
            if !value.contains(char::is_control) {
                return Ok(value);
            }
            // A value from somewhere else must not become lines of a unit file.
            self.warn(
                line,
                format!("variable {name:?} has control characters, they become blanks"),
            );
            return Ok(value.replace(char::is_control, " "));
        }
        let shown: String = name.chars().filter(|c| !c.is_control()).take(100).collect();
        if self.undefined.insert(shown.clone()) {
            self.warn(line, format!("variable '{shown}' is not defined"));
        }
        Ok(format!("UNDEFINED({shown})"))
    }

    fn escaped(&mut self, text: &str, line: usize) -> String {
        escape_path(text).unwrap_or_else(|| {
            self.warn(line, format!("{text:?} is no path that can be escaped"));
            escape(text)
        })
    }

    fn warn(&mut self, line: usize, text: String) {
        if self.warnings.len() < super::WARNINGS_MAX {
            self.warnings
                .push(format!("{}:{line}: {text}", self.origin));
        }
    }
}

fn newlines(text: &str) -> usize {
    text.bytes().filter(|b| *b == b'\n').count()
}
