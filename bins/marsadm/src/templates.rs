//! Unit templates of this host: the macro processor as templates see it, and plans carried out through the unit manager.
use crate::cmd::macros::Shell;
use crate::cmd::view::{machine, variables};
use crate::ctx::Ctx;
use crate::error::{CmdError, Done, refuse};
use crate::lock::lock;
use crate::out;
use crate::reconcile::Report;
use mars_macro::{Limits, Machine, Outside, Scope, Session, Source, Variables};
use mars_policy::View;
use mars_tree::{Key, ResName, Snapshot, UnitManager};
use mars_units::template::{
    Generation, Macros, Op, Step, TemplateEnv, Wanted, carry_out, is_script, keyword, plan,
};
use mars_units::{Manager, UnitFileState};
use std::rc::Rc;
use std::time::Duration;

/// A unit that must be stopped or started for a plan has this long.
const UNIT_LIMIT: Duration = Duration::from_secs(120);
/// Bounds of one macro text in a template.
const LIMITS: Limits = Limits {
    steps: 200_000,
    depth: 200,
    bytes: 4 << 20,
};
/// Most ancestors that are looked at.
const ANCESTORS_MAX: usize = 64;

/// Directories and syntax from the environment.
pub fn template_env(ctx: &Ctx) -> Done<TemplateEnv> {
    TemplateEnv::from_env(&ctx.env).map_err(|e| CmdError::Failed(e.to_string()))
}

/// The local resources, with the units configured for them.
pub fn wanted(snap: &Snapshot, ctx: &Ctx) -> Vec<Wanted> {
    let unit = |res: &ResName, what: &str| {
        let text = snap.text(&Key::Systemd(res.clone(), what.into()))?;
        (!text.is_empty()).then(|| text.to_string())
    };
    snap.resources()
        .into_iter()
        .filter(|res| snap.members(res).contains(&ctx.env.host))
        .map(|res| Wanted {
            start: unit(&res, "start-unit"),
            stop: unit(&res, "stop-unit"),
            res,
        })
        .collect()
}

/// Brings the instances of templates to what is needed: for one resource (nothing is removed then), or for all. With `--dry-run` it is
/// only said what would be done; with `--verbose` too, also how the files would look.
///
/// Nothing happens without systemd, or below a process that `SYSTEMD_RECURSIVE_CALL` names.
pub fn generate(
    ctx: &Ctx,
    manager: &dyn Manager,
    only: Option<&ResName>,
    force: bool,
    report: &mut Report,
) {
    if ctx.env.unit_manager == UnitManager::Direct {
        return;
    }
    match try_generate(ctx, manager, only, force) {
        Ok(mut part) => {
            report.done.append(&mut part.done);
            report.errors.append(&mut part.errors);
        }
        Err(e) => report.errors.push(e.to_string()),
    }
}

fn try_generate(
    ctx: &Ctx,
    manager: &dyn Manager,
    only: Option<&ResName>,
    force: bool,
) -> Done<Report> {
    let env = template_env(ctx)?;
    let lock = if ctx.opts.dry_run {
        None
    } else {
        // One process writes files at a time.
        Some(lock(&ctx.env.run_dir.join("templates.lock"))?)
    };
    if let Some(caller) = recursive_caller(&env)? {
        return Ok(Report {
            done: vec![format!("no units are generated below process {caller}")],
            ..Report::default()
        });
    }
    let snap = ctx.snapshot()?;
    let mut wanted = wanted(&snap, ctx);
    if let Some(only) = only {
        wanted.retain(|w| w.res == *only);
    }
    let machine = machine(ctx, &snap);
    let mut macros = Processor::new(ctx, &snap, &machine);
    let generation = plan(&env, &wanted, only.is_none(), force, &mut macros);
    let mut report = Report {
        errors: generation.errors.clone(),
        ..Report::default()
    };
    let talkative = ctx.opts.dry_run || ctx.opts.verbose > 0;
    tell_warnings(ctx, &generation, talkative, only);
    if ctx.opts.dry_run {
        describe(&generation, ctx.opts.verbose > 0, &mut report.done);
        return Ok(report);
    }
    // What is started may call us, so it must not wait for the lock.
    let is_start = |s: &Step| matches!(s, Step::Start(_));
    let (starts, files): (Vec<Step>, Vec<Step>) =
        generation.steps.iter().cloned().partition(is_start);
    let mut carry = |steps: Vec<Step>| {
        let part = Generation::of(steps);
        let outcome = carry_out(&env, &part, manager, UNIT_LIMIT);
        report.done.extend(outcome.done);
        report.errors.extend(outcome.errors);
    };
    carry(files);
    drop(lock);
    carry(starts);
    keep_up(&generation, manager, &mut report);
    Ok(report)
}

/// Starts what should always run and does not. A unit that failed, or that somebody disabled, is left to the administrator.
fn keep_up(generation: &Generation, manager: &dyn Manager, report: &mut Report) {
    for unit in &generation.keep_up {
        let is_new = generation
            .steps
            .iter()
            .any(|s| matches!(s, Step::Start(u) if u == unit));
        if is_new || is_script(unit) {
            continue;
        }
        let state = match manager.foreign_state(unit) {
            Ok(s) => s,
            Err(e) => {
                report.errors.push(e.to_string());
                continue;
            }
        };
        let may = state.file.may_start() || matches!(state.file, UnitFileState::Other(_));
        if state.is_alive() || !may || state.active != "inactive" {
            continue;
        }
        match manager.foreign_start(unit, UNIT_LIMIT) {
            Ok(()) => report.done.push(format!("started {unit}")),
            Err(e) => report.errors.push(e.to_string()),
        }
    }
}

/// What would be done, for people.
fn describe(generation: &Generation, with_text: bool, lines: &mut Vec<String>) {
    for step in &generation.steps {
        lines.push(match step {
            Step::Stop(u) => format!("would stop {u}"),
            Step::Disable(u) => format!("would disable {u}"),
            Step::Unlink { path, .. } => format!("would remove {}", path.display()),
            Step::Reload => "would make systemd read its unit files again".to_string(),
            Step::Enable(units) => format!("would enable {}", units.join(" ")),
            Step::Start(u) => format!("would start {u}"),
            Step::Install { to, text, .. } => {
                let mut line = format!("would generate {}", to.display());
                if with_text {
                    for l in text.lines() {
                        line.push_str("\n    ");
                        line.push_str(l);
                    }
                }
                line
            }
        });
    }
}

/// Warnings are told when they are new: a run follows every change in the cluster.
fn tell_warnings(ctx: &Ctx, generation: &Generation, always: bool, only: Option<&ResName>) {
    let text: String = generation
        .warnings
        .iter()
        .map(|w| format!("{}\n", crate::error::one_line(w)))
        .collect();
    let file = match only {
        None => "templates.warned".to_string(),
        Some(res) => format!("templates.warned-{res}"),
    };
    let file = ctx.env.run_dir.join(file);
    let before = std::fs::read_to_string(&file).unwrap_or_default();
    if before != text && !ctx.opts.dry_run {
        // It is only there to keep the journal short.
        let _ = if text.is_empty() {
            std::fs::remove_file(&file)
        } else {
            std::fs::write(&file, &text)
        };
    }
    for line in text.lines() {
        if always || !before.lines().any(|l| l == line) {
            out::warn(line);
        }
    }
}

/// The unit that a capital word such as `DEFAULT` stands for at a resource.
pub fn unit_of_keyword(ctx: &Ctx, res: &ResName, word: &str, op: Op) -> Done<Option<String>> {
    let env = template_env(ctx)?;
    let snap = ctx.snapshot()?;
    let machine = machine(ctx, &snap);
    let mut macros = Processor::new(ctx, &snap, &machine);
    Ok(keyword(&env, res, word, op, &mut macros))
}

// ---- macros ------------------------------------------------------------------------------------------------------------------

/// The macro processor with the facts of one moment.
struct Processor<'a> {
    view: View<'a>,
    machine: &'a Machine,
    ctx: &'a Ctx,
    more: Variables,
    res: Option<ResName>,
    session: Session,
    outside: Quiet<'a>,
}

impl<'a> Processor<'a> {
    fn new(ctx: &'a Ctx, snap: &'a Snapshot, machine: &'a Machine) -> Processor<'a> {
        Processor {
            // Units are those of this machine, whatever `--host` says.
            view: View {
                me: &ctx.env.host,
                ..ctx.view(snap)
            },
            machine,
            ctx,
            more: variables(ctx, snap, "systemd-trigger"),
            res: None,
            session: Session::default(),
            outside: Quiet(Shell::new(ctx)),
        }
    }
}

/// The parts of a scope, without borrowing all of the processor.
fn scope<'b>(
    ctx: &Ctx,
    view: View<'b>,
    machine: &'b Machine,
    res: Option<&'b ResName>,
) -> Scope<'b> {
    Scope {
        view,
        res,
        threshold: ctx.opts.threshold,
        verbose: ctx.opts.verbose,
        args: &[],
        machine,
    }
}

impl Macros for Processor<'_> {
    fn begin(&mut self, res: Option<&str>) {
        self.res = res.and_then(|r| r.parse().ok());
        let scope = scope(self.ctx, self.view, self.machine, self.res.as_ref());
        self.session = Session::new(&scope, &self.more);
    }
    fn eval(&mut self, text: &str) -> Result<String, String> {
        let scope = scope(self.ctx, self.view, self.machine, self.res.as_ref());
        self.session
            .eval(text, "eval", &scope, LIMITS, &mut self.outside)
            .map_err(|e| e.to_string())
    }
    fn var(&self, name: &str) -> Option<String> {
        self.session.get(name).map(str::to_string)
    }
    fn set_var(&mut self, name: &str, value: &str) {
        self.session.set(name, value);
    }
}

/// The outside without anything that waits or changes: a template must not hold up the reconciler.
struct Quiet<'a>(Shell<'a>);

impl Outside for Quiet<'_> {
    fn file(&mut self, name: &str) -> Option<Rc<Source>> {
        self.0.file(name)
    }
    fn extra(&mut self, name: &str, _: &[String]) -> Option<Result<String, String>> {
        name.starts_with("wait")
            .then(|| Err("unit templates cannot wait".to_string()))
    }
    fn tell(&mut self, text: &str) {
        self.0.tell(text);
    }
    fn pause(&mut self, _: f64, _: bool) -> Result<(), String> {
        Err("unit templates cannot wait".into())
    }
    fn read_link(&mut self, path: &str) -> Option<String> {
        self.0.read_link(path)
    }
    fn set_link(&mut self, _: &str, _: &str) -> Result<(), String> {
        Err("unit templates cannot set links".into())
    }
    fn glob(&mut self, pattern: &str) -> Result<Vec<String>, String> {
        self.0.glob(pattern)
    }
}

// ---- recursion ---------------------------------------------------------------------------------------------------------------

/// An ancestor of ours that matches `SYSTEMD_RECURSIVE_CALL`: what it started must not start units again.
pub fn recursive_caller(env: &TemplateEnv) -> Done<Option<String>> {
    if env.recursive_call.is_empty() {
        return Ok(None);
    }
    let re = match fancy_regex::Regex::new(&env.recursive_call) {
        Ok(re) => re,
        Err(e) => return refuse(format!("SYSTEMD_RECURSIVE_CALL: {e}")),
    };
    let mut pid = nix::unistd::getppid().as_raw();
    for _ in 0..ANCESTORS_MAX {
        if pid <= 1 {
            break;
        }
        let command = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command =
            String::from_utf8_lossy(command.get(..command.len().min(4096)).unwrap_or(&command))
                .replace('\0', " ");
        if re.is_match(&command).unwrap_or(false) {
            let name = command.split(' ').next().unwrap_or_default();
            return Ok(Some(format!("{pid} ({name})")));
        }
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else {
            break;
        };
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
        pid = parent.unwrap_or(0);
    }
    Ok(None)
}
