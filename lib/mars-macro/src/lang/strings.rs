//! Strings: length, regular expressions, formatted output.
use super::eval::{Call, Done, Run};
use super::value::truth;
use fancy_regex::{Regex, RegexBuilder};
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;

/// Steps that one match may take before it counts as none.
const BACKTRACK_MAX: usize = 1_000_000;
/// Longest compiled expression in bytes.
const COMPILED_MAX: usize = 4 << 20;

pub(super) fn length(r: &mut Run<'_>, c: &Call) -> Done<String> {
    Ok(r.arg(c, 0)?.chars().count().to_string())
}

/// Options of a regular expression: `i m s x g`; everything else is refused, above all `e`, which would run code.
struct Options {
    global: bool,
    insensitive: bool,
    multi_line: bool,
    dot_all: bool,
    extended: bool,
}

impl Options {
    fn bits(&self) -> u8 {
        [
            self.insensitive,
            self.multi_line,
            self.dot_all,
            self.extended,
        ]
        .iter()
        .fold(0, |n, b| n << 1 | u8::from(*b))
    }
}

fn options(r: &mut Run<'_>, c: &Call, i: usize) -> Done<Options> {
    let text = match c.args.get(i) {
        Some(code) => r.value(code)?,
        None => "m".into(),
    };
    if let Some(bad) = text.chars().find(|o| !"imsxg".contains(*o)) {
        return r.fail(
            &c.at,
            format!("%{}: option {bad:?} is not one of i m s x g", c.name),
        );
    }
    let has = |o: char| text.contains(o);
    Ok(Options {
        global: has('g'),
        insensitive: has('i'),
        multi_line: has('m'),
        dot_all: has('s'),
        extended: has('x'),
    })
}

/// Expression and options -> compiled, `None` for a bad one.
type Compiled = HashMap<(String, u8), Option<Rc<Regex>>>;

thread_local! {
    /// Compiled expressions: the same macro runs for each resource.
    static COMPILED: RefCell<Compiled> = RefCell::new(HashMap::new());
}

/// Most expressions that are kept, and the longest of them.
const KEPT_MAX: usize = 16;
const KEPT_LEN: usize = 1024;

/// `None` for a bad expression.
fn compile(pattern: &str, o: &Options) -> Option<Rc<Regex>> {
    let key = (pattern.to_string(), o.bits());
    if let Some(known) = COMPILED.with_borrow(|c| c.get(&key).cloned()) {
        return known;
    }
    let built = RegexBuilder::new(pattern)
        .case_insensitive(o.insensitive)
        .multi_line(o.multi_line)
        .dot_matches_new_line(o.dot_all)
        .verbose_mode(o.extended)
        .backtrack_limit(BACKTRACK_MAX)
        .delegate_size_limit(COMPILED_MAX)
        .build()
        .ok()
        .map(Rc::new);
    if pattern.len() > KEPT_LEN {
        return built;
    }
    COMPILED.with_borrow_mut(|c| {
        if c.len() >= KEPT_MAX {
            c.clear();
        }
        c.insert(key, built.clone());
    });
    built
}

/// 1 or nothing; a bad expression matches nothing.
pub(super) fn matches(r: &mut Run<'_>, c: &Call) -> Done<String> {
    let (text, pattern) = (r.arg(c, 0)?, r.arg(c, 1)?);
    let o = options(r, c, 2)?;
    let found = compile(&pattern, &o).is_some_and(|re| re.is_match(&text).unwrap_or(false));
    Ok(truth(found))
}

/// A bad expression changes nothing.
pub(super) fn subst(r: &mut Run<'_>, c: &Call) -> Done<String> {
    let (text, pattern, to) = (r.arg(c, 0)?, r.arg(c, 1)?, r.arg(c, 2)?);
    let o = options(r, c, 3)?;
    let Some(re) = compile(&pattern, &o) else {
        return Ok(text);
    };
    let mut out = String::new();
    let mut end = 0;
    for captures in re.captures_iter(&text) {
        r.step(&c.at)?;
        // An expression that costs too much leaves the rest as it is.
        let Ok(captures) = captures else { break };
        let Some(whole) = captures.get(0) else { break };
        out.push_str(text.get(end..whole.start()).unwrap_or(""));
        expand(
            &to,
            &|i| captures.get(i).map_or("", |m| m.as_str()),
            &mut out,
        );
        r.produced(&c.at, out.len() - out.len().min(end))?;
        end = whole.end();
        if !o.global {
            break;
        }
    }
    out.push_str(text.get(end..).unwrap_or(""));
    Ok(out)
}

/// `$1` … `$9`, `${1}`, `$&`.
fn expand<'t>(to: &str, group: &dyn Fn(usize) -> &'t str, out: &mut String) {
    let mut rest = to;
    while let Some(i) = rest.find('$') {
        let (plain, special) = rest.split_at(i);
        out.push_str(plain);
        let after = special.get(1..).unwrap_or("");
        let digit = |s: &str| {
            s.chars()
                .next()
                .and_then(|d| d.to_digit(10))
                .filter(|d| *d > 0)
        };
        if let Some(tail) = after.strip_prefix('&') {
            out.push_str(group(0));
            rest = tail;
        } else if let Some(d) = digit(after) {
            out.push_str(group(d as usize));
            rest = after.get(1..).unwrap_or("");
        } else if let Some((name, tail)) = after.strip_prefix('{').and_then(|s| s.split_once('}'))
            && let Ok(n) = name.parse::<usize>()
        {
            out.push_str(group(n));
            rest = tail;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
}

/// The format is taken as it is, the arguments are evaluated.
pub(super) fn sprintf(r: &mut Run<'_>, c: &Call) -> Done<String> {
    let Some(format) = c.args.first() else {
        return Ok(String::new());
    };
    let args = r.args_from(c, 1)?;
    let out = super::sprintf::sprintf(format.text(), &args);
    r.produced(&c.at, out.len())?;
    Ok(out)
}
