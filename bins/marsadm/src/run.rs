//! From the command line to the exit status (marsadm-commands.md section 1).
use crate::checks::{in_use, resources};
use crate::cli::Invocation;
use crate::cmd::{self, Command, ResArg, Run, cat, config, find, macros, view};
use crate::complete::complete;
use crate::context::{context, engine_version};
use crate::ctx::Ctx;
use crate::error::{CmdError, Done, EXIT_OK, EXIT_USAGE, nearest, refuse, show, usage};
use crate::help;
use crate::hooks::{self, When};
use crate::phases::{injected, over_resources, single_step, single_step_possible};
use crate::{out, record};
use mars_tree::ResName;

/// Runs one command line; the exit status.
pub fn run(invocation: Done<Invocation>) -> u8 {
    match invocation.and_then(dispatch) {
        Ok(status) => status,
        Err(e) => {
            out::die(e.to_string());
            e.exit()
        }
    }
}

fn dispatch(i: Invocation) -> Done<u8> {
    if i.command.is_empty() {
        out::raw(&help::first_day());
        return Ok(EXIT_USAGE);
    }
    if i.command == "help" {
        help::help(&i.args, i.opts.verbose > 0)?;
        return Ok(EXIT_OK);
    }
    if i.command == "version" {
        out::say(format!("marsadm {}", env!("CARGO_PKG_VERSION")));
        return Ok(EXIT_OK);
    }
    i.opts.notes.iter().for_each(out::warn);
    if i.command == "config" {
        return config::config(&i);
    }
    if i.command == "cat" {
        cat::cat(&i.args)?;
        return Ok(EXIT_OK);
    }
    if i.command == "watch" {
        return run_watch(&i);
    }
    if i.command == "complete" {
        complete(&i.args);
        return Ok(EXIT_OK);
    }
    let view_macro = match i.command.as_str() {
        "view" => Some("default"),
        // Words of old scripts: the macros have the same names.
        "cstate" | "dstate" | "status" => Some(i.command.as_str()),
        other => other.strip_prefix("view-"),
    };
    if matches!(i.command.as_str(), "cstate" | "dstate" | "status")
        && let Some(command) = find(&i.command)
    {
        split_arguments(command, &i.args)?;
    }
    if let Some(name) = view_macro {
        return run_view(&i, name);
    }
    if let Some(name) = i.command.strip_prefix("prettyprint-") {
        macros::pretty_print(name)?;
        return Ok(EXIT_OK);
    }
    let Some(command) = find(&i.command) else {
        let advice = match nearest(&i.command, listed().map(|c| c.name)) {
            Some(n) => format!("did you mean {n}?"),
            None => "see marsadm help".to_string(),
        };
        return usage(format!("unknown command {}; {advice}", show(&i.command)));
    };
    let ctx = context(&i.opts, command.cluster, false)?;
    let (words, args) = split_arguments(command, &i.args)?;
    engine_version(&ctx, false)?;
    if ctx.opts.force {
        out::warn("--force lifts safety checks");
    }
    match command.run {
        Run::Global(f) => whole(&ctx, command, &[], args, || f(&ctx, args))?,
        Run::Over(f) => {
            let snap = ctx.snapshot()?;
            let list = words.map(|w| resources(&ctx, &snap, w)).transpose()?;
            let named = list.as_deref().unwrap_or_default();
            whole(&ctx, command, named, &i.args, || f(&ctx, list.as_deref()))?;
        }
        Run::Ignored(why) => {
            let on = words
                .map(|w| format!(" on resource {}", show(w)))
                .unwrap_or_default();
            out::say(format!("ignoring command {}{on}: it {why}", command.name));
        }
        Run::Refused(why) => return refuse(format!("{} is not possible: {why}", command.name)),
        Run::Each(_) | Run::Planned(_) | Run::Phased(..) => {
            let Some(word) = words else {
                return usage(missing(command));
            };
            let snap = ctx.snapshot()?;
            return over_resources(&ctx, &snap, command, word, args);
        }
        Run::Builtin => {}
    }
    Ok(EXIT_OK)
}

/// A command that is not run for each resource: it is one phase, with its hooks and its line in the journal.
fn whole(
    ctx: &Ctx,
    c: &Command,
    resources: &[ResName],
    words: &[String],
    run: impl FnOnce() -> Done,
) -> Done {
    single_step_possible(ctx)?;
    hooks::before(ctx, c, When::Pre, words)?;
    let result = single_step(ctx, 1).and_then(|()| match ctx.opts.fail_in_phase {
        Some(1) => refuse(injected(1)),
        _ => run(),
    });
    record::command(ctx, c, resources, &result);
    let status = result.as_ref().map_or_else(CmdError::exit, |()| EXIT_OK);
    hooks::after(ctx, c, When::Post, words, status);
    result
}

fn missing(c: &Command) -> String {
    format!("argument missing; usage: {}", usage_line(c))
}

/// `marsadm NAME RES ARGS`
fn usage_line(c: &Command) -> String {
    format!("marsadm {}", usage_words(c))
}

/// The commands that are listed.
pub fn listed() -> impl Iterator<Item = &'static Command> {
    cmd::all().filter(|c| !c.help.is_empty())
}

/// `NAME RES ARGS`
pub fn usage_words(c: &Command) -> String {
    let res = match c.res {
        ResArg::None => "",
        ResArg::Optional => " [RES]",
        ResArg::Many => " RES|all|LIST",
        ResArg::One => " RES",
    };
    let args = if c.args.is_empty() {
        String::new()
    } else {
        format!(" {}", c.args)
    };
    format!("{}{res}{args}", c.name)
}

/// The resource word and the arguments behind it, counted.
fn split_arguments<'a>(c: &Command, words: &'a [String]) -> Done<(Option<&'a str>, &'a [String])> {
    let (res, args) = match (c.res, words.split_first()) {
        (ResArg::None, _) => (None, words),
        (ResArg::Optional, None) => (None, words),
        // DRBD words are accepted in any form.
        (_, None) if matches!(c.run, Run::Ignored(_) | Run::Refused(_)) => (None, words),
        (_, None) => return usage(missing(c)),
        (_, Some((first, rest))) => (Some(first.as_str()), rest),
    };
    if args.len() < c.min {
        return usage(missing(c));
    }
    match args.get(c.max) {
        Some(extra) => usage(format!(
            "surplus argument {}; usage: {}",
            show(extra),
            usage_line(c)
        )),
        None => Ok((res, args)),
    }
}

fn run_view(i: &Invocation, name: &str) -> Done<u8> {
    if name.len() > 60
        || !name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
        || name.is_empty()
    {
        return usage(format!("{} is no name of a macro", show(name)));
    }
    let ctx = context(&i.opts, false, true)?;
    engine_version(&ctx, true)?;
    let snap = ctx.reported()?;
    let (word, args) = match i.args.split_first() {
        Some((w, rest)) => (Some(w.as_str()), rest),
        None => (None, i.args.as_slice()),
    };
    if name == "default"
        && let Some(extra) = args.first()
    {
        return usage(format!(
            "surplus argument {}; usage: marsadm view [RES|all|LIST]",
            show(extra)
        ));
    }
    let word = match word {
        // The default view of nothing would be nothing.
        None if name == "default" => Some("all"),
        other => other,
    };
    let list = match word {
        None => None,
        // Of a deleted resource nothing is left but the memory of its log numbers.
        Some("all") => Some(in_use(&snap)),
        Some(w) => Some(resources(&ctx, &snap, w)?),
    };
    view::view(&ctx, snap, name, list.as_deref(), word == Some("all"), args)?;
    Ok(EXIT_OK)
}

/// `watch [RES...]`: each a name, a comma list, or `all` that exist.
fn run_watch(i: &Invocation) -> Done<u8> {
    if i.opts.json {
        return usage(
            "--json belongs to view, not to watch; use marsadm view --json, or the lines that watch prints into a pipe",
        );
    }
    let ctx = context(&i.opts, true, true)?;
    let snap = ctx.snapshot()?;
    let mut list = Vec::new();
    for word in &i.args {
        for res in resources(&ctx, &snap, word)? {
            if !list.contains(&res) {
                list.push(res);
            }
        }
    }
    let all = list.is_empty() || i.args.iter().any(|w| w == "all");
    crate::watch::watch(&ctx, (!all).then_some(list.as_slice()))?;
    Ok(EXIT_OK)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn command_names_are_unique_and_complete() {
        let mut names: Vec<&str> = cmd::all().map(|c| c.name).collect();
        names.sort_unstable();
        let all = names.len();
        names.dedup();
        assert_eq!(names.len(), all);
        for c in cmd::all() {
            assert!(c.min <= c.max, "{}", c.name);
        }
    }
}
