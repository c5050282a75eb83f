//! Control flow: conditions and bodies are evaluated when they are needed, and again in each round.
use super::eval::{Call, Done, Run};
use super::source::{Code, Source};
use super::value::{count_of, is_true, split_list};
use std::rc::Rc;

/// `0` as soon as one is false, else the last value.
pub(super) fn and(r: &mut Run<'_>, c: &Call) -> Done<String> {
    let mut last = String::new();
    for code in &c.args {
        last = r.value(code)?;
        if !is_true(&last) {
            return Ok("0".into());
        }
    }
    Ok(last)
}

/// `1` if one before the last is true, else the last value.
pub(super) fn or(r: &mut Run<'_>, c: &Call) -> Done<String> {
    let Some((last, before)) = c.args.split_last() else {
        return Ok(String::new());
    };
    for code in before {
        if is_true(&r.value(code)?) {
            return Ok("1".into());
        }
    }
    r.value(last)
}

fn is(r: &mut Run<'_>, c: &Call, i: usize) -> Done<bool> {
    Ok(is_true(&r.arg(c, i)?))
}

/// Evaluates argument `i` into the output.
fn run(r: &mut Run<'_>, c: &Call, i: usize, out: &mut String) -> Done {
    match c.args.get(i) {
        Some(code) => r.eval(code, out),
        None => Ok(()),
    }
}

pub(super) fn condition(r: &mut Run<'_>, c: &Call, out: &mut String, wanted: bool) -> Done {
    if c.args.len() < 2 {
        return r.fail(&c.at, format!("%{}: then-part is missing", c.name));
    }
    let i = if is(r, c, 0)? == wanted { 1 } else { 2 };
    run(r, c, i, out)
}

pub(super) fn elsif(r: &mut Run<'_>, c: &Call, out: &mut String, wanted: bool) -> Done {
    let pairs = c.args.len() / 2;
    for i in 0..pairs {
        if is(r, c, 2 * i)? == wanted {
            return run(r, c, 2 * i + 1, out);
        }
    }
    // Without an odd last argument there is none.
    run(r, c, 2 * pairs, out)
}

pub(super) fn loop_while(r: &mut Run<'_>, c: &Call, out: &mut String, wanted: bool) -> Done {
    while is(r, c, 0)? == wanted {
        r.step(&c.at)?;
        run(r, c, 1, out)?;
    }
    Ok(())
}

pub(super) fn for_loop(r: &mut Run<'_>, c: &Call, out: &mut String) -> Done {
    r.arg(c, 0)?;
    while is(r, c, 1)? {
        r.step(&c.at)?;
        run(r, c, 3, out)?;
        r.arg(c, 2)?;
    }
    Ok(())
}

pub(super) fn foreach(r: &mut Run<'_>, c: &Call, out: &mut String) -> Done {
    let (var, list, d) = (r.arg(c, 0)?, r.arg(c, 1)?, r.arg(c, 2)?);
    each(r, c, out, &var, split_list(&list, &d), 3)
}

fn each(
    r: &mut Run<'_>,
    c: &Call,
    out: &mut String,
    var: &str,
    list: Vec<String>,
    body: usize,
) -> Done {
    for element in list {
        r.step(&c.at)?;
        r.vars.insert(var.to_string(), element);
        run(r, c, body, out)?;
    }
    Ok(())
}

fn paths(r: &mut Run<'_>, c: &Call) -> Done<Vec<String>> {
    let pattern = r.arg(c, 0)?;
    match r.world.glob(&pattern) {
        Ok(p) => Ok(p),
        Err(e) => r.fail(&c.at, e),
    }
}

/// `%get-glob{glob}{}{d}`: the second argument is not used.
pub(super) fn get_glob(r: &mut Run<'_>, c: &Call) -> Done<String> {
    let paths = paths(r, c)?;
    let d = r.arg(c, 2)?;
    Ok(paths.join(if d.is_empty() { " " } else { &d }))
}

pub(super) fn foreach_glob(r: &mut Run<'_>, c: &Call, out: &mut String) -> Done {
    let paths = paths(r, c)?;
    let var = r.arg(c, 1)?;
    each(r, c, out, &var, paths, 2)
}

/// Evaluates a result once more.
fn again(r: &mut Run<'_>, c: &Call, text: &str) -> Done<String> {
    r.step(&c.at)?;
    let (line, _) = c.at.source.place(c.at.from);
    let origin = format!("%{} in {}:{line}", c.name, c.at.source.origin);
    // Origins of origins would grow without end.
    let origin = if origin.len() > 200 {
        format!("%{}", c.name)
    } else {
        origin
    };
    let mut out = String::new();
    r.eval(
        &Code::whole(Rc::new(Source::plain(&origin, text))),
        &mut out,
    )?;
    Ok(out)
}

/// Most rounds of one `%eval`.
const EVAL_MAX: usize = 10_000;

pub(super) fn eval(r: &mut Run<'_>, c: &Call, out: &mut String) -> Done {
    let n = count_of(&r.arg(c, 0)?, EVAL_MAX);
    let Some(body) = c.args.get(1) else {
        return Ok(());
    };
    if n == 0 {
        out.push_str(body.text());
        return Ok(());
    }
    let mut text = r.value(body)?;
    for _ in 1..n {
        let next = again(r, c, &text)?;
        if next == text {
            break;
        }
        text = next;
    }
    out.push_str(&text);
    Ok(())
}

pub(super) fn eval_down(r: &mut Run<'_>, c: &Call, out: &mut String) -> Done {
    let mut text = r.arg(c, 0)?;
    loop {
        let next = again(r, c, &text)?;
        if next == text {
            out.push_str(&text);
            return Ok(());
        }
        text = next;
    }
}

/// Verbatim.
pub(super) fn protect(_: &mut Run<'_>, c: &Call, out: &mut String) -> Done {
    out.push_str(c.args.first().map_or("", |b| b.text()));
    Ok(())
}

pub(super) fn tmp(r: &mut Run<'_>, c: &Call, out: &mut String) -> Done {
    r.scratch(|r| run(r, c, 0, out))
}

pub(super) fn call(r: &mut Run<'_>, c: &Call, out: &mut String) -> Done {
    let name = r.arg(c, 0)?;
    let args = r.args_from(c, 1)?;
    r.scratch(|r| r.include_named(c, &name, args, out))
}

pub(super) fn include(r: &mut Run<'_>, c: &Call, out: &mut String) -> Done {
    let name = r.arg(c, 0)?;
    let args = r.args_from(c, 1)?;
    r.include_named(c, &name, args, out)
}
