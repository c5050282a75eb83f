//! The evaluator: text, escapes, calls, scopes, bounds.
use super::World;
use super::builtin::{Builtin, builtin};
use super::source::{Code, Source};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;

/// Bounds of one evaluation.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Calls.
    pub steps: u64,
    /// Calls within calls.
    pub depth: usize,
    /// Bytes produced, intermediate results included.
    pub bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            steps: 20_000_000,
            depth: 400,
            bytes: 256 << 20,
        }
    }
}

/// What went wrong, and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LangError {
    /// What.
    pub text: String,
    /// File or other origin.
    pub origin: String,
    /// From 1.
    pub line: u32,
    /// From 1.
    pub column: u32,
    /// Macro names, outermost first.
    pub stack: Vec<String>,
}

impl fmt::Display for LangError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}: {}",
            self.origin, self.line, self.column, self.text
        )?;
        if !self.stack.is_empty() {
            write!(f, " (in {})", self.stack.join(" > "))?;
        }
        Ok(())
    }
}

impl std::error::Error for LangError {}

pub(super) type Done<T = ()> = Result<T, LangError>;

/// An evaluation: variables, stack and bounds. One per `view` of one resource.
pub struct Run<'w> {
    pub(super) world: &'w mut dyn World,
    pub(super) vars: BTreeMap<String, String>,
    stack: Vec<String>,
    limits: Limits,
    depth: usize,
    steps: u64,
    bytes: u64,
}

/// Arguments of a call, not evaluated yet.
pub(super) struct Call {
    pub name: String,
    pub args: Vec<Code>,
    /// Where the call stands.
    pub at: Code,
}

impl<'w> Run<'w> {
    /// With the predefined variables (macro-language.md 3.8).
    pub fn new(
        world: &'w mut dyn World,
        vars: impl IntoIterator<Item = (String, String)>,
        limits: Limits,
    ) -> Run<'w> {
        Run {
            world,
            vars: vars.into_iter().collect(),
            stack: Vec::new(),
            limits,
            depth: 0,
            steps: 0,
            bytes: 0,
        }
    }

    /// Evaluates macro `name` with arguments, as `view-NAME` does: `%{0}` is the name, `%{1}` … the arguments. `None`: no such macro.
    pub fn view(&mut self, name: &str, args: &[String]) -> Option<Done<String>> {
        if let Some(source) = self.world.source(name) {
            return Some(self.text(&source, name, args));
        }
        // A built-in function without braces: its arguments are taken as they are.
        let given: Vec<Code> = args
            .iter()
            .map(|a| {
                let quoted = quote(a);
                Code::whole(Rc::new(Source::plain("command line", &quoted)))
            })
            .collect();
        let at = Code::whole(Rc::new(Source::plain("command line", name)));
        let call = Call {
            name: name.to_string(),
            args: given,
            at,
        };
        let mut out = String::new();
        match self.built_in(&call, &mut out) {
            Ok(true) => Some(Ok(out)),
            Ok(false) => None,
            Err(e) => Some(Err(e)),
        }
    }

    /// Evaluates a text that is the macro `name`.
    pub fn text(&mut self, source: &Rc<Source>, name: &str, args: &[String]) -> Done<String> {
        let mut out = String::new();
        self.include(source, name, args.to_vec(), &mut out)?;
        Ok(out)
    }

    /// Current value of a variable.
    pub fn variable(&self, name: &str) -> &str {
        self.vars.get(name).map_or("", String::as_str)
    }

    /// All variables, when the evaluation is over.
    pub fn into_variables(self) -> BTreeMap<String, String> {
        self.vars
    }

    pub(super) fn call_stack(&self) -> String {
        self.stack.join(",")
    }

    pub(super) fn fail<T>(&self, at: &Code, text: impl Into<String>) -> Done<T> {
        let (line, column) = at.source.place(at.from);
        Err(LangError {
            text: text.into(),
            origin: at.source.origin.clone(),
            line,
            column,
            stack: self.stack.clone(),
        })
    }

    /// Counts what was produced.
    pub(super) fn produced(&mut self, at: &Code, bytes: usize) -> Done {
        self.bytes = self.bytes.saturating_add(bytes as u64);
        if self.bytes > self.limits.bytes {
            return self.fail(
                at,
                format!("more than {} bytes of output", self.limits.bytes),
            );
        }
        Ok(())
    }

    /// Counts a call, or a round of a loop.
    pub(super) fn step(&mut self, at: &Code) -> Done {
        self.steps += 1;
        if self.steps > self.limits.steps {
            return self.fail(
                at,
                format!("more than {} calls: an endless loop?", self.limits.steps),
            );
        }
        if self.steps.is_multiple_of(1024) && self.world.interrupted() {
            return self.fail(at, "interrupted");
        }
        Ok(())
    }

    /// Evaluates code.
    pub(super) fn eval(&mut self, code: &Code, out: &mut String) -> Done {
        let source = Rc::clone(&code.source);
        let mut at = code.from;
        while at < code.to {
            let rest = source.text.get(at..code.to).unwrap_or("");
            let Some(skip) = rest.find(['\\', '%']) else {
                self.produced(code, rest.len())?;
                out.push_str(rest);
                break;
            };
            let (plain, special) = rest.split_at(skip);
            self.produced(code, skip + 1)?;
            out.push_str(plain);
            at += skip;
            if special.starts_with('\\') {
                at += 1;
                if let Some(c) = special.chars().nth(1) {
                    at += c.len_utf8();
                    self.escape(c, out);
                } else {
                    out.push('\\');
                }
                continue;
            }
            let here = code.part(at - code.from, code.to - code.from);
            match parse_call(&here) {
                Some((call, len)) => {
                    at += len;
                    self.call(&call, out)?;
                }
                None => {
                    out.push('%');
                    at += 1;
                }
            }
        }
        Ok(())
    }

    fn escape(&mut self, c: char, out: &mut String) {
        out.push(match c {
            'n' => '\n',
            'r' => '\r',
            't' => '\t',
            'f' => '\x0c',
            'b' => '\x08',
            'a' => '\x07',
            'e' => '\x1b',
            _ => {
                if c.is_alphabetic() {
                    self.world.tell(&format!(
                        "WARNING: escape '\\{c}' is reserved for future use\n"
                    ));
                }
                c
            }
        });
    }

    /// Evaluates code into a string of its own.
    pub(super) fn value(&mut self, code: &Code) -> Done<String> {
        let mut out = String::new();
        self.eval(code, &mut out)?;
        Ok(out)
    }

    /// Value of argument `i`; empty when there is none.
    pub(super) fn arg(&mut self, call: &Call, i: usize) -> Done<String> {
        match call.args.get(i) {
            Some(code) => self.value(code),
            None => Ok(String::new()),
        }
    }

    /// Values of all arguments from `i` on.
    pub(super) fn args_from(&mut self, call: &Call, i: usize) -> Done<Vec<String>> {
        call.args
            .iter()
            .skip(i)
            .map(|code| self.value(code))
            .collect()
    }

    fn call(&mut self, call: &Call, out: &mut String) -> Done {
        self.step(&call.at)?;
        if self.depth >= self.limits.depth {
            return self.fail(
                &call.at,
                format!("calls nested deeper than {}", self.limits.depth),
            );
        }
        self.depth += 1;
        let before = out.len();
        let result = self.resolve(call, out);
        self.depth -= 1;
        result?;
        self.produced(&call.at, out.len().saturating_sub(before))
    }

    fn resolve(&mut self, call: &Call, out: &mut String) -> Done {
        if !is_primitive_prefix(&call.name)
            && let Some(source) = self.world.source(&call.name)
        {
            let args = self.args_from(call, 0)?;
            return self.include(&source, &call.name, args, out);
        }
        if self.built_in(call, out)? {
            return Ok(());
        }
        self.fail(&call.at, format!("call to unknown macro '{}'", call.name))
    }

    /// Functions of the language, then primitive macros. False: there is none of that name.
    fn built_in(&mut self, call: &Call, out: &mut String) -> Done<bool> {
        let name = without_primitive(&call.name);
        if let Some(b) = builtin(name) {
            return match b {
                Builtin::Value(f) => f(self, call).map(|v| out.push_str(&v)),
                Builtin::Control(f) => f(self, call, out),
            }
            .map(|()| true);
        }
        let args = self.args_from(call, 0)?;
        match self.world.primitive(name, &args) {
            Some(Ok(value)) => {
                out.push_str(&value);
                Ok(true)
            }
            Some(Err(e)) => self.fail(&call.at, e),
            None => Ok(false),
        }
    }

    /// Evaluates a macro in the current scope, with its name and arguments as position variables.
    pub(super) fn include(
        &mut self,
        source: &Rc<Source>,
        name: &str,
        args: Vec<String>,
        out: &mut String,
    ) -> Done {
        self.stack.push(name.to_string());
        self.vars.insert("0".into(), name.to_string());
        for (i, a) in args.into_iter().enumerate() {
            self.vars.insert((i + 1).to_string(), a);
        }
        let result = self.eval(&Code::whole(Rc::clone(source)), out);
        self.stack.pop();
        result
    }

    /// A macro by name, wherever it comes from, in the current scope.
    pub(super) fn include_named(
        &mut self,
        call: &Call,
        name: &str,
        args: Vec<String>,
        out: &mut String,
    ) -> Done {
        if !is_primitive_prefix(name)
            && let Some(source) = self.world.source(name)
        {
            return self.include(&source, name, args, out);
        }
        let inner = Call {
            name: name.to_string(),
            args: args
                .iter()
                .map(|a| Code::whole(Rc::new(Source::plain(name, &quote(a)))))
                .collect(),
            at: call.at.clone(),
        };
        if self.built_in(&inner, out)? {
            return Ok(());
        }
        self.fail(&call.at, format!("call to unknown macro '{name}'"))
    }

    /// Runs `f` on a copy of the variables, which is thrown away.
    pub(super) fn scratch<T>(&mut self, f: impl FnOnce(&mut Self) -> Done<T>) -> Done<T> {
        let saved = self.vars.clone();
        let result = f(self);
        self.vars = saved;
        result
    }
}

/// The text that evaluates to `s`.
fn quote(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    for c in s.chars() {
        if matches!(c, '\\' | '%' | '{' | '}') {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn is_primitive_prefix(name: &str) -> bool {
    without_primitive(name).len() != name.len()
}

/// The name behind `primitive-`, `primitive_` or `primitive`.
pub(super) fn without_primitive(name: &str) -> &str {
    match name.strip_prefix("primitive") {
        Some(rest) if !rest.is_empty() => rest.strip_prefix(['-', '_']).unwrap_or(rest),
        _ => name,
    }
}

/// A call at the beginning of `code` (which begins with `%`), and its length.
fn parse_call(code: &Code) -> Option<(Call, usize)> {
    let text = code.text();
    let name_end = text
        .char_indices()
        .skip(1)
        .find(|(_, c)| c.is_whitespace() || matches!(c, '\\' | '{' | '}' | '(' | ')' | '[' | ']'))
        .map(|(i, _)| i)?;
    let mut at = name_end;
    let mut args = Vec::new();
    while text.get(at..)?.starts_with('{') {
        // What does not balance is no argument.
        let Some(len) = balanced(text.get(at..)?) else {
            break;
        };
        args.push(code.part(at + 1, at + len - 1));
        at += len;
    }
    if args.is_empty() {
        return None;
    }
    let call = Call {
        name: text.get(1..name_end)?.to_string(),
        args,
        at: code.part(0, at),
    };
    Some((call, at))
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
