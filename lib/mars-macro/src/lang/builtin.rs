//! The table of functions, and those on variables and numbers.
use super::eval::{Call, Done, Run};
use super::value::{bits_of, is_true, number_of, split_list, truth};
use super::{control, strings};
use crate::human::number;
use crate::names::Index;
use std::sync::LazyLock;

/// How a function is called.
#[derive(Clone, Copy)]
pub(super) enum Builtin {
    /// Gives a value.
    Value(fn(&mut Run<'_>, &Call) -> Done<String>),
    /// Writes to the output as it goes.
    Control(fn(&mut Run<'_>, &Call, &mut String) -> Done),
}

use Builtin::{Control, Value};

const TABLE: &[(&str, Builtin)] = &[
    ("", Value(variable)),
    ("!", Value(not)),
    ("!=", Value(|r, c| compare(r, c, |a, b| a != b))),
    ("%", Value(modulus)),
    ("&", Value(|r, c| fold_bits(r, c, |a, b| a & b))),
    ("&&", Value(control::and)),
    ("*", Value(|r, c| fold(r, c, |a, b| a * b))),
    ("+", Value(|r, c| fold(r, c, |a, b| a + b))),
    ("-", Value(|r, c| fold(r, c, |a, b| a - b))),
    ("/", Value(divide)),
    ("<", Value(|r, c| compare(r, c, |a, b| a < b))),
    (
        "<<",
        Value(|r, c| fold_bits(r, c, |a, b| shift(a, b, u64::checked_shl))),
    ),
    ("<=", Value(|r, c| compare(r, c, |a, b| a <= b))),
    ("==", Value(|r, c| compare(r, c, |a, b| a == b))),
    ("=~", Value(strings::matches)),
    (">", Value(|r, c| compare(r, c, |a, b| a > b))),
    (">=", Value(|r, c| compare(r, c, |a, b| a >= b))),
    (
        ">>",
        Value(|r, c| fold_bits(r, c, |a, b| shift(a, b, u64::checked_shr))),
    ),
    ("^", Value(|r, c| fold_bits(r, c, |a, b| a ^ b))),
    ("and", Value(control::and)),
    ("append", Value(append)),
    ("call", Control(control::call)),
    ("callstack", Value(|r, _| Ok(r.call_stack()))),
    ("die", Value(die)),
    ("dump-vars", Value(dump_vars)),
    ("elseif", Control(|r, c, o| control::elsif(r, c, o, true))),
    ("elsif", Control(|r, c, o| control::elsif(r, c, o, true))),
    (
        "elsunless",
        Control(|r, c, o| control::elsif(r, c, o, false)),
    ),
    ("eq", Value(|r, c| compare_text(r, c, |a, b| a == b))),
    ("eval", Control(control::eval)),
    ("eval-down", Control(control::eval_down)),
    ("for", Control(control::for_loop)),
    ("foreach", Control(control::foreach)),
    ("foreach-glob", Control(control::foreach_glob)),
    ("ge", Value(|r, c| compare_text(r, c, |a, b| a >= b))),
    ("get-glob", Value(control::get_glob)),
    ("gt", Value(|r, c| compare_text(r, c, |a, b| a > b))),
    ("if", Control(|r, c, o| control::condition(r, c, o, true))),
    ("include", Control(control::include)),
    ("le", Value(|r, c| compare_text(r, c, |a, b| a <= b))),
    ("length", Value(strings::length)),
    ("let", Value(assign)),
    ("lt", Value(|r, c| compare_text(r, c, |a, b| a < b))),
    ("match", Value(strings::matches)),
    ("max", Value(|r, c| fold(r, c, f64::max))),
    ("min", Value(|r, c| fold(r, c, f64::min))),
    ("ne", Value(|r, c| compare_text(r, c, |a, b| a != b))),
    ("not", Value(not)),
    ("or", Value(control::or)),
    ("printf", Value(strings::sprintf)),
    ("protect", Control(control::protect)),
    ("readlink", Value(read_link)),
    ("set", Value(set)),
    ("setlink", Value(set_link)),
    ("sleep", Value(|r, c| pause(r, c, false))),
    ("sprintf", Value(strings::sprintf)),
    ("subst", Value(strings::subst)),
    ("timeout", Value(|r, c| pause(r, c, true))),
    ("tmp", Control(control::tmp)),
    (
        "tolower",
        Value(|r, c| Ok(r.arg(c, 0)?.to_ascii_lowercase())),
    ),
    (
        "toupper",
        Value(|r, c| Ok(r.arg(c, 0)?.to_ascii_uppercase())),
    ),
    (
        "unless",
        Control(|r, c, o| control::condition(r, c, o, false)),
    ),
    (
        "until",
        Control(|r, c, o| control::loop_while(r, c, o, false)),
    ),
    ("warn", Value(warn)),
    (
        "while",
        Control(|r, c, o| control::loop_while(r, c, o, true)),
    ),
    ("|", Value(|r, c| fold_bits(r, c, |a, b| a | b))),
    ("||", Value(control::or)),
    ("~", Value(|r, c| Ok(number_text(!bits_of(&r.arg(c, 0)?))))),
];

/// Names of the functions.
pub fn builtin_names() -> Vec<&'static str> {
    TABLE
        .iter()
        .map(|(n, _)| *n)
        .filter(|n| !n.is_empty())
        .collect()
}

pub(super) fn builtin(name: &str) -> Option<Builtin> {
    let exact = |name: &str| {
        let i = TABLE.binary_search_by(|(n, _)| (*n).cmp(name)).ok()?;
        TABLE.get(i).map(|(_, b)| *b)
    };
    if let Some(b) = exact(name) {
        return Some(b);
    }
    if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return None;
    }
    static INDEX: LazyLock<Index> = LazyLock::new(|| {
        let words = TABLE.iter().map(|(n, _)| *n);
        Index::new(words.filter(|n| n.starts_with(|c: char| c.is_ascii_alphabetic())))
    });
    exact(INDEX.find(name)?)
}

fn number_text(n: u64) -> String {
    n.to_string()
}

fn shift(a: u64, b: u64, by: fn(u64, u32) -> Option<u64>) -> u64 {
    u32::try_from(b).ok().and_then(|b| by(a, b)).unwrap_or(0)
}

/// A single argument is itself.
fn fold(r: &mut Run<'_>, c: &Call, f: fn(f64, f64) -> f64) -> Done<String> {
    let args = r.args_from(c, 0)?;
    if let [one] = args.as_slice() {
        return Ok(one.clone());
    }
    let mut numbers = args.iter().map(|a| number_of(a));
    let first = numbers.next().unwrap_or(0.0);
    Ok(number(numbers.fold(first, f)))
}

fn fold_bits(r: &mut Run<'_>, c: &Call, f: fn(u64, u64) -> u64) -> Done<String> {
    let args = r.args_from(c, 0)?;
    if let [one] = args.as_slice() {
        return Ok(one.clone());
    }
    let mut numbers = args.iter().map(|a| bits_of(a));
    let first = numbers.next().unwrap_or(0);
    Ok(number_text(numbers.fold(first, f)))
}

fn divide(r: &mut Run<'_>, c: &Call) -> Done<String> {
    let args = r.args_from(c, 0)?;
    if args.iter().skip(1).any(|a| number_of(a) == 0.0) {
        return r.fail(&c.at, "division by zero");
    }
    if let [one] = args.as_slice() {
        return Ok(one.clone());
    }
    let mut numbers = args.iter().map(|a| number_of(a));
    let first = numbers.next().unwrap_or(0.0);
    Ok(number(numbers.fold(first, |a, b| a / b)))
}

/// Integer modulus; the sign is that of the right side.
#[allow(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
fn modulus(r: &mut Run<'_>, c: &Call) -> Done<String> {
    let args = r.args_from(c, 0)?;
    if let [one] = args.as_slice() {
        return Ok(one.clone());
    }
    let mut numbers = args.iter().map(|a| number_of(a) as i64);
    let mut left = numbers.next().unwrap_or(0);
    for right in numbers {
        let Some(rest) = left.checked_rem(right) else {
            return r.fail(&c.at, "division by zero");
        };
        left = if rest != 0 && (rest < 0) != (right < 0) {
            rest + right
        } else {
            rest
        };
    }
    Ok(left.to_string())
}

fn compare(r: &mut Run<'_>, c: &Call, f: fn(f64, f64) -> bool) -> Done<String> {
    let (a, b) = (r.arg(c, 0)?, r.arg(c, 1)?);
    Ok(truth(f(number_of(&a), number_of(&b))))
}

fn compare_text(r: &mut Run<'_>, c: &Call, f: fn(&str, &str) -> bool) -> Done<String> {
    let (a, b) = (r.arg(c, 0)?, r.arg(c, 1)?);
    Ok(truth(f(&a, &b)))
}

fn not(r: &mut Run<'_>, c: &Call) -> Done<String> {
    let a = r.arg(c, 0)?;
    Ok(truth(!is_true(&a)))
}

// ---- variables -------------------------------------------------------------------------------------------------------------

/// `callstack` is a variable that cannot be set.
fn get(r: &Run<'_>, name: &str) -> String {
    if name == "callstack" {
        r.call_stack()
    } else {
        r.variable(name).to_string()
    }
}

fn name_arg(r: &mut Run<'_>, c: &Call, i: usize) -> Done<String> {
    let name = r.arg(c, i)?;
    if name.is_empty() {
        let (line, column) = c.at.source.place(c.at.from);
        let text = format!(
            "WARNING: {}:{line}:{column}: empty variable name\n",
            c.at.source.origin
        );
        r.world.tell(&text);
    }
    Ok(name)
}

fn variable(r: &mut Run<'_>, c: &Call) -> Done<String> {
    let name = name_arg(r, c, 0)?;
    if c.args.len() < 2 {
        return Ok(get(r, &name));
    }
    let second = r.arg(c, 1)?;
    if c.args.len() == 2 && (name == "++" || name == "--") {
        let by = if name == "++" { 1.0 } else { -1.0 };
        let new = number(number_of(&get(r, &second)) + by);
        r.vars.insert(second, new.clone());
        return Ok(new);
    }
    if c.args.len() == 2 && (second == "++" || second == "--") {
        let old = get(r, &name);
        let by = if second == "++" { 1.0 } else { -1.0 };
        let new = number(number_of(&old) + by);
        r.vars.insert(name, new);
        return Ok(if old.is_empty() { "0".into() } else { old });
    }
    let list = split_list(&get(r, &name), &second);
    let index = r.arg(c, 2)?;
    let element = if index.is_empty() || index == "*" {
        list.last()
    } else {
        list.get(super::value::count_of(&index, usize::MAX))
    };
    match element {
        Some(e) => Ok(e.clone()),
        None => r.fail(&c.at, format!("list {name:?} has no element {index:?}")),
    }
}

fn assign(r: &mut Run<'_>, c: &Call) -> Done<String> {
    let name = name_arg(r, c, 0)?;
    let value = r.arg(c, 1)?;
    r.vars.insert(name, value);
    Ok(String::new())
}

fn append(r: &mut Run<'_>, c: &Call) -> Done<String> {
    let name = name_arg(r, c, 0)?;
    let value = r.arg(c, 1)?;
    let all = get(r, &name) + &value;
    r.produced(&c.at, all.len())?;
    r.vars.insert(name, all);
    Ok(String::new())
}

/// Longest list that `%set` makes.
const LIST_MAX: usize = 100_000;

fn set(r: &mut Run<'_>, c: &Call) -> Done<String> {
    let name = name_arg(r, c, 0)?;
    let (d, index, value) = (r.arg(c, 1)?, r.arg(c, 2)?, r.arg(c, 3)?);
    let mut list = split_list(&get(r, &name), &d);
    if index.is_empty() || index == "*" {
        list.push(value);
    } else {
        let i = super::value::count_of(&index, LIST_MAX);
        if i >= LIST_MAX {
            return r.fail(
                &c.at,
                format!("list {name:?}: element {index} is too far away"),
            );
        }
        if list.len() <= i {
            list.resize(i + 1, String::new());
        }
        if let Some(slot) = list.get_mut(i) {
            *slot = value;
        }
    }
    let all = list.join(&d);
    r.produced(&c.at, all.len())?;
    r.vars.insert(name, all);
    Ok(String::new())
}

/// Internal ones begin with two underscores.
fn dump_vars(r: &mut Run<'_>, _: &Call) -> Done<String> {
    let mut text = String::new();
    for (name, value) in r.vars.iter().filter(|(n, _)| !n.starts_with("__")) {
        text.push_str(&format!("{name}='{value}'\n"));
    }
    r.world.tell(&text);
    Ok(String::new())
}

// ---- outside -----------------------------------------------------------------------------------------------------------------

fn warn(r: &mut Run<'_>, c: &Call) -> Done<String> {
    let text = r.arg(c, 0)?;
    r.world.tell(&format!("WARNING: {text}"));
    Ok(String::new())
}

fn die(r: &mut Run<'_>, c: &Call) -> Done<String> {
    let text = r.arg(c, 0)?;
    r.fail(&c.at, text.trim_end().to_string())
}

fn pause(r: &mut Run<'_>, c: &Call, limited: bool) -> Done<String> {
    let seconds = number_of(&r.arg(c, 0)?).max(0.0);
    match r.world.pause(seconds, limited) {
        Ok(()) => Ok(String::new()),
        Err(e) => r.fail(&c.at, e),
    }
}

fn read_link(r: &mut Run<'_>, c: &Call) -> Done<String> {
    let path = r.arg(c, 0)?;
    Ok(r.world.read_link(&path).unwrap_or_default())
}

fn set_link(r: &mut Run<'_>, c: &Call) -> Done<String> {
    let (value, path) = (r.arg(c, 0)?, r.arg(c, 1)?);
    match r.world.set_link(&value, &path) {
        Ok(()) => Ok(String::new()),
        Err(e) => r.fail(&c.at, e),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted() {
        assert!(TABLE.is_sorted_by_key(|(n, _)| *n));
        assert!(builtin_names().len() > 50);
        for other in ["eval_down", "evaldown", "dump_vars", "foreachglob"] {
            assert!(builtin(other).is_some(), "{other}");
        }
        assert!(builtin("+-").is_none());
    }
}
