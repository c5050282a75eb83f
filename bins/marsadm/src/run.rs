//! From the command line to the exit status: checks common to all commands, resources, phases (marsadm-commands.md 1.5, 1.6).
use crate::cli::{Invocation, Options, definition};
use crate::cmd::{self, Command, ResArg, Run, config, find, macros, view};
use crate::complete::complete;
use crate::ctx::Ctx;
use crate::error::{Done, EXIT_FAILED, EXIT_OK, nearest, refuse, show, usage};
use crate::out;
use crate::plan::{Plan, names};
use crate::record;
use mars_disk::Disk;
use mars_tree::{HostEnv, HostName, Key, ResName, Snapshot, Tree, UnitManager};
use std::cell::Cell;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

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
        return usage("no command given; see marsadm --help");
    }
    if i.command == "help" {
        help();
        return Ok(EXIT_OK);
    }
    if i.command == "version" {
        out::say(format!("marsadm {}", env!("CARGO_PKG_VERSION")));
        return Ok(EXIT_OK);
    }
    if i.command == "config" {
        return config::config(&i);
    }
    if i.command == "complete" {
        complete(&i.args);
        return Ok(EXIT_OK);
    }
    let view_macro = match i.command.as_str() {
        "view" => Some("default"),
        other => other.strip_prefix("view-"),
    };
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
    let (words, args) = split_arguments(command, &i.args)?;
    let ctx = context(&i.opts, command.cluster, false)?;
    let snap = ctx.snapshot()?;
    if ctx.opts.force {
        out::warn("--force lifts safety checks");
    }
    match command.run {
        Run::Global(f) => {
            let result = f(&ctx, args);
            record::command(&ctx, command, &[], &result);
            result?;
        }
        Run::Over(f) => {
            let list = words.map(|w| resources(&ctx, &snap, w)).transpose()?;
            let result = f(&ctx, list.as_deref());
            record::command(&ctx, command, list.as_deref().unwrap_or_default(), &result);
            result?;
        }
        Run::Ignored(why) => {
            let on = words
                .map(|w| format!(" on resource {}", show(w)))
                .unwrap_or_default();
            out::say(format!("ignoring command {}{on}: it {why}", command.name));
        }
        Run::Refused(why) => return refuse(format!("{} is not possible: {why}", command.name)),
        Run::Each(_) | Run::Planned(_) => {
            let Some(word) = words else {
                return usage(missing(command));
            };
            return over_resources(&ctx, &snap, command, word, args);
        }
        Run::Builtin => {}
    }
    Ok(EXIT_OK)
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

/// Host name, root directory, cluster.
fn context(opts: &Options, needs_cluster: bool, reading: bool) -> Done<Ctx> {
    let mut env = HostEnv::from_process()?;
    let mut opts = opts.clone();
    configure(&mut env, &mut opts, reading)?;
    let opts = &opts;
    let root = env.root.display();
    let meta = match std::fs::metadata(&env.root) {
        Ok(m) if m.is_dir() => m,
        Ok(_) => {
            return refuse(format!(
                "{root} is no directory; set MARS_ROOT, or mount a file system there"
            ));
        }
        Err(e) => {
            return refuse(format!(
                "{root}: {e}; mount a file system there, or set MARS_ROOT"
            ));
        }
    };
    let system = env.unit_manager == UnitManager::Systemd;
    if system && !reading && !nix::unistd::geteuid().is_root() {
        return refuse(format!("only root may change {root}; use sudo"));
    }
    if !reading && !opts.dry_run && meta.permissions().mode() & 0o777 != 0o700 {
        let mode = meta.permissions().mode() & 0o777;
        match std::fs::set_permissions(&env.root, std::fs::Permissions::from_mode(0o700)) {
            Ok(()) => out::warn(format!("{root} had mode {mode:o}, it has 700 now")),
            Err(e) => out::warn(format!("{root} has mode {mode:o}, it should have 700: {e}")),
        }
    }
    let tree = if reading || opts.dry_run {
        Tree::open_readonly(&env)?
    } else {
        Tree::open(&env)?
    };
    let uuid = tree.text(&Key::Uuid)?;
    if needs_cluster && uuid.is_none() {
        return refuse(format!(
            "{root} belongs to no cluster; run marsadm create-cluster or marsadm join-cluster first"
        ));
    }
    engine_version(&env, &tree, reading)?;
    let me = acting_host(opts, &env, &tree)?;
    Ok(Ctx {
        env,
        tree,
        opts: opts.clone(),
        me,
        unit_failed: Cell::new(false),
    })
}

/// What the configuration says about this tool. A damaged one stops whoever wants to change something.
fn configure(env: &mut HostEnv, opts: &mut Options, reading: bool) -> Done {
    let config = match mars_daemon::Config::load(env) {
        Ok(c) => c,
        Err(e) if reading => {
            out::warn(e.to_string());
            return Ok(());
        }
        Err(e) => return refuse(format!("{e}; no daemon starts with this")),
    };
    if std::env::var_os("MARS_PORT").is_none() {
        env.port = config.port();
    }
    opts.thresh_logfiles.get_or_insert(config.thresh_logfiles());
    opts.thresh_logsize
        .get_or_insert(config.thresh_logsize_bytes());
    Ok(())
}

/// Version of the tree's layout that this tool knows: major and minor.
const TREE_VERSION: (u32, u32) = (0, 1);

/// The engine of this host may be newer than the tool: then the tool would not understand what it changes. Looking is allowed.
fn engine_version(env: &HostEnv, tree: &Tree, reading: bool) -> Done {
    let key = Key::HostActual(env.host.clone(), "tree".into());
    let Some(text) = tree.text(&key)? else {
        return Ok(());
    };
    let number = |t: &str| t.parse::<u32>().ok();
    let (Some(theirs), (ours, minor)) = (
        text.split_once('.')
            .and_then(|(a, b)| Some((number(a)?, number(b)?))),
        TREE_VERSION,
    ) else {
        // Damaged: as good as absent.
        return Ok(());
    };
    let line = format!("mars-meta of {} uses tree version {text}", env.host);
    match theirs.cmp(&TREE_VERSION) {
        std::cmp::Ordering::Greater if !reading => refuse(format!(
            "{line}, this marsadm knows {ours}.{minor}; upgrade the tool"
        )),
        std::cmp::Ordering::Equal => Ok(()),
        _ => {
            out::warn(format!(
                "{line}, this marsadm {ours}.{minor}; both should be of the same release"
            ));
            Ok(())
        }
    }
}

fn acting_host(opts: &Options, env: &HostEnv, tree: &Tree) -> Done<HostName> {
    let Some(text) = &opts.host else {
        return Ok(env.host.clone());
    };
    let host: HostName = match text.parse() {
        Ok(h) => h,
        Err(e) => return refuse(format!("--host: {e}")),
    };
    if host == env.host {
        return Ok(host);
    }
    if tree.text(&Key::Ip(host.clone()))?.is_none() && !opts.force {
        return refuse(format!(
            "--host={host}: this host is not in the cluster; see marsadm lowlevel-ls-host-ips"
        ));
    }
    out::warn(format!("acting as host {host}, not as {}", env.host));
    Ok(host)
}

/// `all`, or a list of names, each known.
fn resources(ctx: &Ctx, snap: &Snapshot, word: &str) -> Done<Vec<ResName>> {
    let known = snap.resources();
    if word == "all" {
        return Ok(known
            .into_iter()
            .filter(|r| snap.members(r).contains(&ctx.me))
            .collect());
    }
    let mut list = Vec::new();
    for name in word.split(',') {
        let res: ResName = name
            .parse()
            .or_else(|e: mars_tree::NameError| refuse(e.to_string()))?;
        let res = if known.contains(&res) {
            res
        } else {
            by_device(ctx, snap, &known, res)?
        };
        if !list.contains(&res) {
            list.push(res);
        }
    }
    Ok(list)
}

/// Somebody may have given the name of a local device.
fn by_device(ctx: &Ctx, snap: &Snapshot, known: &[ResName], name: ResName) -> Done<ResName> {
    let fits: Vec<&ResName> = known
        .iter()
        .filter(|r| snap.text(&Key::Device((*r).clone(), ctx.me.clone())) == Some(name.as_str()))
        .collect();
    if let [one] = fits.as_slice() {
        out::warn(format!(
            "{name} is the device of resource {one}; using that"
        ));
        return Ok((*one).clone());
    }
    let near = nearest(name.as_str(), known.iter().map(ResName::as_str));
    let advice = match (near, known.is_empty()) {
        (Some(n), _) => format!("did you mean {n}?"),
        (None, true) => "this cluster has none; use create-resource".to_string(),
        (None, false) => format!("known: {}", names(known)),
    };
    refuse(format!("resource {name} does not exist; {advice}"))
}

/// Common preconditions of one resource.
fn check_resource(ctx: &Ctx, snap: &Snapshot, c: &Command, res: &ResName) -> Done {
    let member = snap.get(&Key::Data(res.clone(), ctx.me.clone())).is_some();
    if c.member && !member && !ctx.opts.force {
        return refuse(format!(
            "{} is not member of resource {res} (members: {}); join-resource first, or run this there",
            ctx.me,
            crate::cmd::membership::names_or_none(snap.members(res))
        ));
    }
    if c.member && member && !ctx.opts.force && !HARMLESS.iter().any(|h| c.name.starts_with(h)) {
        large_enough(ctx, snap, res)?;
    }
    view::split_note(&ctx.view(snap), res);
    Ok(())
}

/// Beginnings of commands that only look, wait, or take load away from the disk: those are the way out when it is too small.
const HARMLESS: [&str; 9] = [
    "pause-",
    "disconnect",
    "detach",
    "down",
    "secondary",
    "log-",
    "wait-",
    "role",
    "state",
];

/// The disk has at least the size of the resource.
fn large_enough(ctx: &Ctx, snap: &Snapshot, res: &ResName) -> Done {
    let Some(size) = snap.number(&Key::Size(res.clone())) else {
        return Ok(());
    };
    let (disk, bytes) = if ctx.is_local() {
        let Some(disk) = snap.text(&Key::Data(res.clone(), ctx.me.clone())) else {
            return Ok(());
        };
        // A disk that cannot be looked at is the business of those commands that need it.
        (
            format!("disk {disk}"),
            crate::size::of_disk(Path::new(disk)),
        )
    } else {
        let bytes = snap.number(&Key::ActSize(res.clone(), ctx.me.clone()));
        (format!("the disk of {}", ctx.me), bytes)
    };
    match bytes {
        Some(bytes) if bytes < size => refuse(format!(
            "{disk} has {bytes} bytes, resource {res} needs {size}; enlarge the disk (--force skips this check)"
        )),
        _ => Ok(()),
    }
}

fn over_resources(
    ctx: &Ctx,
    snap: &Snapshot,
    c: &Command,
    word: &str,
    args: &[String],
) -> Done<u8> {
    let list = if c.res == ResArg::One {
        if word == "all" || word.contains(',') {
            return refuse(format!(
                "{} needs one single resource name, not {}",
                c.name,
                show(word)
            ));
        }
        vec![word.parse::<ResName>().or_else(|e| refuse(e.to_string()))?]
    } else if c.name == "delete-resource" && word != "all" && !word.contains(',') {
        // A resource without live links still has a directory to speak of.
        vec![word.parse::<ResName>().or_else(|e| refuse(e.to_string()))?]
    } else {
        resources(ctx, snap, word)?
    };
    if list.is_empty() {
        out::warn(format!(
            "{} matches no resource: {} is member of none",
            show(word),
            ctx.me
        ));
        return Ok(EXIT_OK);
    }
    let several = list.len() > 1;
    let mut results: Vec<(ResName, Done)> = Vec::new();
    match c.run {
        Run::Each(f) => {
            for res in list {
                header(&res, several);
                let result = check_resource(ctx, snap, c, &res).and_then(|()| f(ctx, &res, args));
                report(c, &res, &result, several);
                record::command(ctx, c, std::slice::from_ref(&res), &result);
                results.push((res, result));
            }
        }
        Run::Planned(f) => {
            let mut waits = Vec::new();
            let probe = |disk: &str| Disk::probe(Path::new(disk)).map_err(|e| e.to_string());
            for res in list {
                let quiet = c.name.starts_with("log-") && ctx.opts.verbose == 0;
                header(&res, several && !quiet);
                let result = check_resource(ctx, snap, c, &res).and_then(|()| {
                    let snap = ctx.snapshot()?;
                    let plan: Plan = f(&ctx.view(&snap), &res, &ctx.opts, &probe)?;
                    ctx.commit(&plan.batch)?;
                    plan.say.iter().for_each(out::say);
                    plan.warn.iter().for_each(out::warn);
                    Ok(plan.wait)
                });
                match result {
                    Ok(wait) => waits.push((res, wait)),
                    Err(e) => {
                        let failed = Err(e);
                        report(c, &res, &failed, several);
                        record::command(ctx, c, std::slice::from_ref(&res), &failed);
                        results.push((res, failed));
                    }
                }
            }
            if !waits.is_empty() && !c.name.starts_with("log-") {
                ctx.reconcile()?;
            }
            for (res, wait) in waits {
                let result =
                    wait.map_or(Ok(()), |w| ctx.wait(&res, &w.what, w.default_secs, w.check));
                report(c, &res, &result, several);
                record::command(ctx, c, std::slice::from_ref(&res), &result);
                results.push((res, result));
            }
        }
        _ => {}
    }
    Ok(status(&results))
}

fn header(res: &ResName, print: bool) {
    if print {
        out::say(format!("--------- resource {res}"));
    }
}

fn report(c: &Command, res: &ResName, result: &Done, several: bool) {
    if let Err(e) = result {
        out::die(e.to_string());
        if several {
            out::say(format!("FAILURE cmd='{}' res='{res}'", c.name));
        }
    }
}

/// 0, or what the failures have in common.
fn status(results: &[(ResName, Done)]) -> u8 {
    let mut failures = results.iter().filter_map(|(_, r)| r.as_ref().err());
    match failures.next() {
        None => EXIT_OK,
        Some(first) if failures.all(|e| e.exit() == first.exit()) => first.exit(),
        Some(_) => EXIT_FAILED,
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
    let snap = ctx.snapshot()?;
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
        Some("all") => Some(snap.resources()),
        Some(w) => Some(resources(&ctx, &snap, w)?),
    };
    view::view(&ctx, name, list.as_deref(), word == Some("all"), args)?;
    Ok(EXIT_OK)
}

fn help() {
    let text = definition().render_help().to_string();
    out::raw(&text);
    out::raw("\nCommands (RES = name, list a,b,c, or all; force-COMMAND = --force COMMAND):\n");
    for c in listed() {
        out::raw(&format!("  {:<46} {}\n", usage_words(c), c.help));
    }
    out::raw("\nExit status: 0 done, 1 refused or failed, 2 wrong command line, 3 timeout.\n");
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use crate::error::CmdError;

    #[test]
    fn exit_status_of_several_failures() {
        let res = |n: &str| n.parse::<ResName>().unwrap();
        let t = || Err(CmdError::Timeout("t".into()));
        let f = || Err(CmdError::Failed("f".into()));
        assert_eq!(status(&[(res("a"), Ok(())), (res("b"), Ok(()))]), 0);
        assert_eq!(
            status(&[(res("a"), t()), (res("b"), Ok(())), (res("c"), t())]),
            3
        );
        assert_eq!(status(&[(res("a"), t()), (res("b"), f())]), 1);
    }

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
