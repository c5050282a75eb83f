//! `config check` and `config show`: what the daemons make of their configuration. Neither needs a cluster, nor changes anything.
use crate::cli::Invocation;
use crate::error::{Done, EXIT_OK, nearest, refuse, show, usage};
use crate::out;
use mars_daemon::Config;
use mars_daemon::config::{Apply, ConfigError, Effective, Scope};
use mars_tree::{HostEnv, ResName, Tree};
use serde_json::{Value, json};
use std::path::Path;

/// For the help.
pub const ARGS: &str = "check [FILE] | show [RES]";

/// Runs `config ...`.
pub fn config(i: &Invocation) -> Done<u8> {
    let words: Vec<&str> = i.args.iter().map(String::as_str).collect();
    match words.as_slice() {
        [_, _, extra, ..] => {
            return usage(format!(
                "surplus argument {}; usage: marsadm config {ARGS}",
                show(extra)
            ));
        }
        ["check"] => {
            let env = HostEnv::from_process()?;
            let c = report(Config::load(&env))?;
            sections(&c);
            match c.files() {
                [] => out::say(format!(
                    "{}: no file, all defaults",
                    env.etc_dir.join("mars.conf").display()
                )),
                files => files
                    .iter()
                    .for_each(|f| out::say(format!("{}: ok", f.display()))),
            }
        }
        ["check", file] => {
            sections(&report(Config::load_file(Path::new(file)))?);
            out::say(format!("{file}: ok"));
        }
        ["show"] => show_values(i, None)?,
        ["show", res] => {
            let res: ResName = res
                .parse()
                .or_else(|e: mars_tree::NameError| refuse(e.to_string()))?;
            known(res.as_str(), res.as_str());
            show_values(i, Some(&res))?;
        }
        [] => return usage(format!("argument missing; usage: marsadm config {ARGS}")),
        [other, ..] => {
            let near = nearest(other, ["check", "show"]);
            let near = near.map_or(String::new(), |n| format!("did you mean {n}? "));
            return usage(format!(
                "unknown word {}; {near}usage: marsadm config {ARGS}",
                show(other)
            ));
        }
    }
    Ok(EXIT_OK)
}

/// All problems but the last as lines of their own.
fn report(result: Result<Config, ConfigError>) -> Done<Config> {
    result.or_else(|ConfigError(problems)| {
        let mut lines = problems.iter().map(ToString::to_string);
        let last = lines.next_back().unwrap_or_default();
        lines.for_each(out::die);
        refuse(last)
    })
}

/// A section for a resource that does not exist (any more) does nothing.
fn sections(c: &Config) {
    c.sections()
        .for_each(|name| known(name, &format!("[resource.{name}]")));
}

/// Warns about a resource that does not exist. The tree may be absent: then nobody knows.
fn known(name: &str, place: &str) {
    let env = HostEnv::from_process().ok();
    let tree = env.and_then(|env| Tree::open_readonly(&env).ok());
    let Some(snap) = tree.and_then(|t| t.snapshot().ok()) else {
        return;
    };
    let all = snap.resources();
    if !all.iter().any(|r| r.as_str() == name) {
        let near = nearest(name, all.iter().map(ResName::as_str));
        let near = near.map_or(String::new(), |n| format!("; did you mean {n}?"));
        out::warn(format!("{place}: this cluster has no such resource{near}"));
    }
}

fn show_values(i: &Invocation, res: Option<&ResName>) -> Done {
    let env = HostEnv::from_process()?;
    let c = report(Config::load(&env))?;
    let all: Vec<Effective> = c
        .effective(res)
        .into_iter()
        // What counts for the host only is no value of a resource.
        .filter(|e| res.is_none() || e.key.scope == Scope::Resource)
        .collect();
    if i.opts.json {
        let values: serde_json::Map<String, Value> = all
            .iter()
            .map(|e| (e.key.name.to_string(), as_json(e)))
            .collect();
        let whole = json!({
            "resource": res.map(ResName::as_str),
            "files": c.files(),
            "values": values,
        });
        out::say(format!("{whole:#}"));
        return Ok(());
    }
    let value = |e: &Effective| match e.key.unit {
        "" => e.value.to_string(),
        unit => format!("{} {unit}", e.value),
    };
    let width = |f: &dyn Fn(&Effective) -> usize| all.iter().map(f).max().unwrap_or(0);
    let names = width(&|e| e.key.name.len());
    let values = width(&|e| value(e).len());
    for e in &all {
        let source = match &e.source {
            Some(s) => s.to_string(),
            None => "default".to_string(),
        };
        out::say(format!(
            "{:<names$}  {:<values$}  {source}",
            e.key.name,
            value(e)
        ));
    }
    Ok(())
}

fn as_json(e: &Effective) -> Value {
    use mars_daemon::config::Value as V;
    json!({
        "value": match e.value {
            V::Number(n) => json!(n),
            V::Word(w) => json!(w),
            V::Bool(b) => json!(b),
        },
        "unit": e.key.unit,
        "file": e.source.as_ref().map(|s| s.file.display().to_string()),
        "line": e.source.as_ref().map(|s| s.line),
        "change_needs": match e.key.apply {
            Apply::Reload => "reload",
            Apply::Restart => "restart",
        },
        "programs": e.key.users,
    })
}
