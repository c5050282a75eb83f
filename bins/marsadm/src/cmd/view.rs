//! `view` and `view-MACRO` (marsadm-commands.md section 7).
use crate::cmd::macros::{Shell, mounts, note, status_files};
use crate::cmd::membership::names_or_none;
use crate::ctx::Ctx;
use crate::ctx::TIMEOUT_SECS;
use crate::error::{Done, refuse, show, usage};
use crate::out;
use mars_macro::{
    Machine, MacroError, Scope, Variables, evaluate_text, evaluate_with, split_brain_lines,
    view_json, view_json_all,
};
use mars_policy::View;
use mars_tree::{Key, ResName, Snapshot};

/// What only this machine's kernel knows.
pub fn machine(ctx: &Ctx, snap: &Snapshot) -> Machine {
    Machine {
        mounts: mounts(),
        status_files: status_files(&ctx.env.root, snap),
        error_settle: ctx.opts.limit(TIMEOUT_SECS),
        ..mars_facts::machine(&ctx.env, snap)
    }
}

/// A final newline is added; nothing stays nothing.
fn add(text: &mut String, more: &str) {
    text.push_str(more);
    if !more.is_empty() && !more.ends_with('\n') {
        text.push('\n');
    }
}

/// What all evaluations of one call share.
struct Frame<'a> {
    view: View<'a>,
    machine: &'a Machine,
    ctx: &'a Ctx,
    args: &'a [String],
}

impl<'a> Frame<'a> {
    fn scope<'b>(&'b self, res: Option<&'b ResName>) -> Scope<'b>
    where
        'a: 'b,
    {
        Scope {
            view: self.view,
            res,
            threshold: self.ctx.opts.threshold,
            verbose: self.ctx.opts.verbose,
            args: self.args,
            machine: self.machine,
        }
    }
}

/// `name` is the macro; `resources` is `None` for a view without resource argument. The tree was read by the caller: once is enough.
pub fn view(
    ctx: &Ctx,
    mut snap: Snapshot,
    name: &str,
    resources: Option<&[ResName]>,
    all: bool,
    args: &[String],
) -> Done {
    mars_facts::refresh(&ctx.env, &mut snap, ctx.tree.clock().now());
    let view = ctx.view(&snap);
    let machine = machine(ctx, &snap);
    let frame = Frame {
        view,
        machine: &machine,
        ctx,
        args,
    };
    if ctx.opts.json {
        return json(&snap, &frame, name, resources, all);
    }
    let text = text(&frame, name, resources, all)?;
    notes(ctx, &view, resources.unwrap_or_default());
    if name == "default" && !all {
        resources
            .unwrap_or_default()
            .iter()
            .for_each(|res| member_note(&view, res));
    }
    out::raw(&text);
    Ok(())
}

/// Predefined variables beside those that the facts give (macro-language.md 3.8).
pub fn variables(ctx: &Ctx, snap: &Snapshot, name: &str) -> Variables {
    let timeout = match ctx.opts.limit(TIMEOUT_SECS) {
        Some(t) => t.as_secs().to_string(),
        None => "-1".to_string(),
    };
    let ip = snap.text(&Key::Ip(ctx.me.clone())).unwrap_or_default();
    let keep = ctx.opts.keep_backup.as_secs();
    [
        ("cmd", name.to_string()),
        ("ip", ip.to_string()),
        ("timeout", timeout),
        ("force", u8::from(ctx.opts.force).to_string()),
        ("dry-run", u8::from(ctx.opts.dry_run).to_string()),
        ("stuck-seconds", ctx.opts.stuck.as_secs().to_string()),
        ("keep-backup-hours", (keep / 3600).to_string()),
        ("keep-backup-seconds", keep.to_string()),
    ]
    .map(|(n, v)| (n.to_string(), v))
    .into()
}

/// Everything that goes to stdout.
fn text(frame: &Frame<'_>, name: &str, resources: Option<&[ResName]>, all: bool) -> Done<String> {
    let variables = variables(frame.ctx, frame.view.snap, name);
    let mut shell = Shell::new(frame.ctx);
    let mut eval = |part: &str, res: Option<&ResName>| {
        shell.res = res.cloned();
        let scope = frame.scope(res);
        match &frame.ctx.opts.macro_text {
            Some(text) if part == name => evaluate_text(text, name, &scope, &variables, &mut shell),
            _ => evaluate_with(part, &scope, &variables, &mut shell),
        }
    };
    let mut text = String::new();
    let Some(resources) = resources else {
        return match eval(name, None) {
            Ok(t) => {
                add(&mut text, &t);
                Ok(text)
            }
            Err(e @ MacroError::NeedsResource(_)) => usage(format!(
                "{e}; name one, or all (known: {})",
                names_or_none(frame.view.snap.resources())
            )),
            Err(e @ MacroError::Language(_)) => refuse(e.to_string()),
            Err(e) => usage(e.to_string()),
        };
    };
    // Header, global part and footer of a macro are there or not.
    let mut optional = |part: &str, text: &mut String| match eval(&format!("{name}-{part}"), None) {
        Ok(t) => {
            add(text, &t);
            Ok(true)
        }
        Err(MacroError::Unknown { .. } | MacroError::NeedsResource(_)) => Ok(false),
        Err(e) => refuse(e.to_string()),
    };
    if all {
        optional("header", &mut text)?;
    }
    let mut rest = String::new();
    let mut is_known = false;
    if all {
        is_known = optional("global", &mut rest)?;
        is_known |= optional("footer", &mut rest)?;
    }
    for res in resources {
        match eval(name, Some(res)) {
            Ok(t) => {
                if all || resources.len() > 1 {
                    add(&mut text, &format!("--------- resource {res}"));
                }
                add(&mut text, &t);
            }
            Err(e @ (MacroError::Unknown { .. } | MacroError::Argument { .. })) => {
                return usage(e.to_string());
            }
            Err(e) => return refuse(e.to_string()),
        }
    }
    if resources.is_empty() && !is_known {
        // Without resources nothing was evaluated: the macro must exist all the same.
        match eval(name, None) {
            Ok(_) | Err(MacroError::NeedsResource(_) | MacroError::Language(_)) => {}
            Err(e) => return usage(e.to_string()),
        }
    }
    text.push_str(&rest);
    Ok(text)
}

fn json(
    snap: &Snapshot,
    frame: &Frame<'_>,
    name: &str,
    resources: Option<&[ResName]>,
    all: bool,
) -> Done {
    if name != "default" {
        return usage(format!("--json belongs to view, not to view-{name}"));
    }
    let value = match resources {
        Some([one]) if !all => view_json(&frame.scope(Some(one))),
        Some(list) => view_json_all(&frame.scope(None), list),
        None => view_json_all(&frame.scope(None), &snap.resources()),
    };
    out::say(serde_json::to_string_pretty(&value).unwrap_or_default());
    Ok(())
}

/// What everybody should know before reading the rest; on stderr.
fn notes(ctx: &Ctx, v: &View<'_>, resources: &[ResName]) {
    if v.snap.get(&Key::Uuid).is_none() {
        out::warn("this host is in no cluster; use create-cluster or join-cluster");
    } else if !v.engine_running {
        out::warn("mars-meta is not running here, what follows may be old; use marsadm start");
    }
    for (path, value) in v.snap.damaged() {
        out::warn(format!(
            "{}/{path} is damaged and ignored: {}",
            ctx.env.root.display(),
            show(&value)
        ));
    }
    for res in resources {
        split_note(v, res);
    }
}

/// The default view of a resource shows nothing on a host that is not member.
fn member_note(v: &View<'_>, res: &ResName) {
    let members = v.snap.members(res);
    if !members.contains(v.me) {
        out::hint(format!(
            "{} is not member of resource {res} (NotJoined; members: {}); look there, or use --host",
            v.me,
            names_or_none(members)
        ));
    }
}

/// SPLIT BRAIN, with what each side would lose.
pub fn split_note(v: &View<'_>, res: &ResName) {
    let lines = split_brain_lines(v, res);
    for line in &lines {
        if line.starts_with("SPLIT BRAIN") {
            out::warn(line);
        } else {
            note(&format!("{line}\n"));
        }
    }
    if !lines.is_empty() {
        out::hint(format!(
            "keep the history of one host and use marsadm invalidate {res} on the others"
        ));
    }
}
