//! Commands over resources: phases with barriers, one after the other or several at once, and what becomes of failures
//! (marsadm-commands.md 1.6, 1.7).
use crate::checks::{check_resource, resources};
use crate::cli::Options;
use crate::cmd::{Command, ResArg, Run, switches};
use crate::ctx::Ctx;
use crate::error::{CmdError, Done, EXIT_FAILED, EXIT_OK, refuse, show, usage};
use crate::hooks::{self, When};
use crate::plan::{Plan, Wait};
use crate::{out, record};
use mars_disk::Disk;
use mars_policy::{View, amount};
use mars_tree::{Key, ResName, Snapshot};
use std::collections::VecDeque;
use std::io::IsTerminal;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// A command for one resource, in phases. All resources pass a phase before any of them begins the next.
pub trait Job: Send {
    /// Runs a phase, from 0.
    fn run(&mut self, ctx: &Ctx, phase: usize) -> Done;
    /// A phase failed, or was not begun: takes back what must not stay. Returns what is to be told.
    fn undo(&mut self, _ctx: &Ctx, e: CmdError) -> CmdError {
        e
    }
}

/// A command in one phase.
struct Single {
    run: fn(&Ctx, &ResName, &[String]) -> Done,
    res: ResName,
    args: Vec<String>,
}

impl Job for Single {
    fn run(&mut self, ctx: &Ctx, _: usize) -> Done {
        (self.run)(ctx, &self.res, &self.args)
    }
}

type Planner = fn(&View<'_>, &ResName, &Options, switches::Probe<'_>) -> Done<Plan>;

/// A plan: set links, then wait for their effect.
struct Planned {
    plan: Planner,
    res: ResName,
    wait: Option<Wait>,
}

impl Job for Planned {
    fn run(&mut self, ctx: &Ctx, phase: usize) -> Done {
        if phase > 0 {
            let wait = self.wait.take();
            return wait.map_or(Ok(()), |w| {
                ctx.wait(&self.res, &w.what, w.default_secs, w.check)
            });
        }
        let probe = |disk: &str| Disk::probe(Path::new(disk)).map_err(|e| e.to_string());
        let snap = ctx.counted()?;
        let plan: Plan = (self.plan)(&ctx.view(&snap), &self.res, &ctx.opts, &probe)?;
        ctx.commit(&plan.batch)?;
        plan.say.iter().for_each(out::say);
        plan.warn.iter().for_each(out::warn);
        self.wait = plan.wait;
        Ok(())
    }
}

/// Planned commands that wait; the others are over when the links are set.
const WAITING: [&str; 4] = ["attach", "detach", "up", "down"];

fn titles(c: &Command) -> &'static [&'static str] {
    match c.run {
        Run::Phased(titles, _) => titles,
        Run::Planned(_) if WAITING.contains(&c.name) => {
            &["set the switches", "wait until it is so"]
        }
        _ => &["do it"],
    }
}

fn job(c: &Command, res: &ResName, args: &[String]) -> Option<Box<dyn Job>> {
    Some(match c.run {
        Run::Each(run) => Box::new(Single {
            run,
            res: res.clone(),
            args: args.to_vec(),
        }),
        Run::Planned(plan) => Box::new(Planned {
            plan,
            res: res.clone(),
            wait: None,
        }),
        Run::Phased(_, start) => start(res, args),
        _ => return None,
    })
}

/// A resource on its way.
struct Item {
    res: ResName,
    header: String,
    job: Box<dyn Job>,
    /// Set when it is out.
    result: Option<Done>,
}

/// What is the same for all resources.
#[derive(Clone, Copy)]
struct Common<'a> {
    c: &'a Command,
    args: &'a [String],
    snap: &'a Snapshot,
    phase: usize,
    /// Number of phases.
    phases: usize,
    several: bool,
    headers: bool,
}

impl Common<'_> {
    /// The arguments of a hook.
    fn words(&self, word: &str) -> Vec<String> {
        std::iter::once(word.to_string())
            .chain(self.args.iter().cloned())
            .collect()
    }

    fn step(&self, ctx: &Ctx, item: &mut Item) {
        if self.headers {
            out::say(&item.header);
        }
        let first = || -> Done {
            if self.phase > 0 {
                return Ok(());
            }
            hooks::before(ctx, self.c, When::Pre, &self.words(item.res.as_str()))?;
            check_resource(ctx, self.snap, self.c, &item.res)
        };
        let result = first().and_then(|()| {
            if ctx.opts.fail_in_phase == Some(self.phase + 1) {
                return refuse(injected(self.phase + 1));
            }
            item.job.run(ctx, self.phase)
        });
        match result {
            Ok(()) if self.phase + 1 < self.phases => {}
            Ok(()) => self.end(ctx, item, Ok(())),
            Err(e) => {
                let e = item.job.undo(ctx, e);
                self.end(ctx, item, Err(e));
            }
        }
    }

    /// This resource is out.
    fn end(&self, ctx: &Ctx, item: &mut Item, result: Done) {
        if let Err(e) = &result {
            out::die(e.to_string());
            if self.several {
                out::say(format!("FAILURE cmd='{}' res='{}'", self.c.name, item.res));
            }
        }
        record::command(ctx, self.c, std::slice::from_ref(&item.res), &result);
        let status = result.as_ref().map_or_else(CmdError::exit, |()| EXIT_OK);
        let words = self.words(item.res.as_str());
        hooks::after(ctx, self.c, When::Post, &words, status);
        item.result = Some(result);
    }
}

/// Why nothing is done with `--error-injection-phase`.
pub fn injected(phase: usize) -> String {
    format!("failure injected into phase {phase} (--error-injection-phase)")
}

/// Runs a command over resources; the exit status.
pub fn over_resources(
    ctx: &Ctx,
    snap: &Snapshot,
    c: &Command,
    word: &str,
    args: &[String],
) -> Done<u8> {
    let list = chosen(ctx, snap, c, word)?;
    if list.is_empty() {
        out::warn(format!(
            "{} matches no resource: {} is member of none",
            show(word),
            ctx.me
        ));
        return Ok(EXIT_OK);
    }
    if ctx.opts.force && word == "all" {
        out::warn(format!("--force applies to all {} resources", list.len()));
    }
    single_step_possible(ctx)?;
    let titles = titles(c);
    let quiet = c.name.starts_with("log-") && ctx.opts.verbose == 0;
    let mut common = Common {
        c,
        args,
        snap,
        phase: 0,
        phases: match c.run {
            Run::Planned(_) => 2,
            _ => titles.len(),
        },
        several: list.len() > 1,
        headers: false,
    };
    let all_words = common.words(word);
    if common.several {
        hooks::before(ctx, c, When::AllPre, &all_words)?;
    }
    let (total, me) = (list.len(), &ctx.me);
    let mut items: Vec<Item> = list
        .into_iter()
        .enumerate()
        .filter_map(|(at, res)| {
            Some(Item {
                header: header(snap, &res, me, at + 1, total),
                job: job(c, &res, args)?,
                res,
                result: None,
            })
        })
        .collect();
    let at_once = at_once(ctx, snap, c, &items);
    for phase in 0..common.phases {
        let title = titles.get(phase);
        common.phase = phase;
        common.headers = common.several && !quiet && title.is_some();
        if items.iter().all(|i| i.result.is_some()) {
            break;
        }
        if let Some(title) = title
            && titles.len() > 1
            && (common.several || ctx.opts.singlestep || ctx.opts.verbose > 0)
        {
            out::say(format!("-------- PHASE {} -------- {title}:", phase + 1));
        }
        if title.is_some()
            && let Err(stopped) = single_step(ctx, phase + 1)
        {
            for item in items.iter_mut().filter(|i| i.result.is_none()) {
                let e = item.job.undo(ctx, stopped.clone());
                common.end(ctx, item, Err(e));
            }
            break;
        }
        work(ctx, common, &mut items, at_once);
        let is_planned = matches!(c.run, Run::Planned(_)) && phase == 0;
        let alive = items.iter().any(|i| i.result.is_none());
        if is_planned && alive && !c.name.starts_with("log-") {
            ctx.reconcile()?;
        }
    }
    let results: Vec<Done> = items.into_iter().filter_map(|i| i.result).collect();
    let status = status(&results);
    if common.several {
        hooks::after(ctx, c, When::AllPost, &all_words, status);
    }
    Ok(status)
}

/// The resources that a command is about.
fn chosen(ctx: &Ctx, snap: &Snapshot, c: &Command, word: &str) -> Done<Vec<ResName>> {
    let many = word == "all" || word.contains(',');
    if c.res == ResArg::One && many {
        return refuse(format!(
            "{} needs one single resource name, not {}",
            c.name,
            show(word)
        ));
    }
    // A new resource is not known yet; one without live links still has a directory to speak of.
    if c.res == ResArg::One || (c.name == "delete-resource" && !many) {
        return Ok(vec![
            word.parse()
                .or_else(|e: mars_tree::NameError| refuse(e.to_string()))?,
        ]);
    }
    let mut list = resources(ctx, snap, word)?;
    if word == "all" && c.member {
        // A guest has no disk that most commands could work with.
        list.retain(|r| snap.members(r).contains(&ctx.me));
    }
    Ok(list)
}

/// One phase for all that are still in.
fn work(ctx: &Ctx, common: Common<'_>, items: &mut [Item], at_once: usize) {
    let todo = items.iter_mut().filter(|i| i.result.is_none());
    if at_once < 2 {
        todo.for_each(|item| common.step(ctx, item));
        return;
    }
    let queue: Mutex<VecDeque<&mut Item>> = Mutex::new(todo.collect());
    let next = || {
        let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.pop_front()
    };
    let failed = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..at_once.min(common_len(&queue)))
            .map(|_| {
                let ctx = ctx.again();
                let next = &next;
                scope.spawn(move || {
                    while let Some(item) = next() {
                        let ((), kept) = out::captured(|| common.step(&ctx, item));
                        kept.print();
                    }
                    ctx.unit_failed.get()
                })
            })
            .collect();
        threads.into_iter().any(|t| t.join().unwrap_or(true))
    });
    if failed {
        ctx.unit_failed.set(true);
    }
}

fn common_len(queue: &Mutex<VecDeque<&mut Item>>) -> usize {
    queue.lock().unwrap_or_else(PoisonError::into_inner).len()
}

/// How many resources at once. Units of the administrator take their time, so with several of them it is more than one anyway.
fn at_once(ctx: &Ctx, snap: &Snapshot, c: &Command, items: &[Item]) -> usize {
    if let Some(n) = ctx.opts.parallel {
        return n;
    }
    let has_units = |res: &ResName| {
        snap.get(&Key::Systemd(res.clone(), "start-unit".into()))
            .is_some()
            || snap
                .get(&Key::Systemd(res.clone(), "stop-unit".into()))
                .is_some()
    };
    let with_units = items.iter().filter(|i| has_units(&i.res)).count();
    if matches!(c.run, Run::Phased(..)) && ctx.opts.systemd_enable && with_units > 1 {
        items.len().min(16)
    } else {
        1
    }
}

/// `--------- resource NAME SIZE [k/n]`
fn header(
    snap: &Snapshot,
    res: &ResName,
    me: &mars_tree::HostName,
    at: usize,
    total: usize,
) -> String {
    let is_guest = !snap.members(res).contains(me)
        && snap.get(&Key::Device(res.clone(), me.clone())).is_some();
    let word = if is_guest { "guest" } else { "resource" };
    let size = match snap.number(&Key::Size(res.clone())) {
        Some(bytes) => format!(" {}", amount(bytes)),
        None => String::new(),
    };
    format!("--------- {word} {res}{size} [{at}/{total}]")
}

/// `--singlestep` needs somebody who answers.
pub fn single_step_possible(ctx: &Ctx) -> Done {
    if ctx.opts.singlestep && !std::io::stdin().is_terminal() {
        return usage("--singlestep asks before every phase, so it needs a terminal");
    }
    Ok(())
}

/// Asks for RETURN.
pub fn single_step(ctx: &Ctx, phase: usize) -> Done {
    if !ctx.opts.singlestep {
        return Ok(());
    }
    out::ask(format!(
        "RETURN begins phase {phase}, end of file (Ctrl-D) stops:"
    ));
    let mut line = String::new();
    match std::io::stdin().read_line(&mut line) {
        Ok(n) if n > 0 => Ok(()),
        _ => refuse(format!("stopped before phase {phase} (--singlestep)")),
    }
}

/// 0, or what the failures have in common.
fn status(results: &[Done]) -> u8 {
    let mut failures = results.iter().filter_map(|r| r.as_ref().err());
    match failures.next() {
        None => EXIT_OK,
        Some(first) if failures.all(|e| e.exit() == first.exit()) => first.exit(),
        Some(_) => EXIT_FAILED,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_status_of_several_failures() {
        let t = || Err(CmdError::Timeout("t".into()));
        let f = || Err(CmdError::Failed("f".into()));
        assert_eq!(status(&[Ok(()), Ok(())]), 0);
        assert_eq!(status(&[t(), Ok(()), t()]), 3);
        assert_eq!(status(&[t(), f()]), 1);
    }
}
