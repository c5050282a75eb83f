//! The whole run of `systemd-trigger`: daemons, unit instances, stacks, until nothing is left to do. While the stack of one resource
//! takes its time, changes of others are taken up at once; a storm of them is merged.
use super::{Outcome, Worker, pending};
use crate::ctx::Ctx;
use crate::error::{CmdError, Done};
use crate::reconcile::{self, Mode, Report, local_disks};
use crate::templates::{generate, recursive_caller, template_env};
use mars_policy::StackAction;
use mars_tree::{HostEnv, ResName, TreeEvent, UnitManager, Watcher};
use mars_units::template::TemplateEnv;
use mars_units::{Manager, manager};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::collections::BTreeSet;
use std::io::{PipeReader, Read, Write};
use std::os::fd::AsFd;
use std::sync::mpsc;
use std::time::Duration;

/// The trigger file has one time in it.
const TRIGGER_MAX: u64 = 4096;

fn trigger_text(env: &HostEnv) -> Vec<u8> {
    let mut text = Vec::new();
    if let Ok(file) = std::fs::File::open(env.trigger_file()) {
        // An unreadable file is one that says nothing.
        let _ = file.take(TRIGGER_MAX).read_to_end(&mut text);
    }
    text
}

/// State of one run.
pub(super) struct Run<'c> {
    ctx: &'c Ctx,
    templates: TemplateEnv,
    manager: &'c dyn Manager,
    only: Option<&'c [ResName]>,
    report: Report,
    busy: BTreeSet<ResName>,
    /// Not again, unless something new is heard.
    tried: BTreeSet<(ResName, StackAction)>,
}

/// Brings everything there. `only`: only the stacks of these resources, and without waiting for more to come.
pub fn supervise(ctx: &Ctx, mode: Mode, only: Option<&[ResName]>) -> Done<Report> {
    if mode == Mode::Stop {
        return reconcile::run(ctx, mode);
    }
    let seen = trigger_text(&ctx.env);
    let report = reconcile::run(ctx, mode)?;
    if !ctx.opts.systemd_enable || ctx.env.unit_manager != UnitManager::Systemd {
        return Ok(report);
    }
    let templates = template_env(ctx)?;
    if recursive_caller(&templates)?.is_some() {
        // Called by a unit of a stack, perhaps: it must not wait for itself. The trigger's own service does the rest.
        ctx.trigger();
        return Ok(report);
    }
    let manager = manager(&ctx.env)?;
    let mut run = Run::new(ctx, templates, manager.as_ref(), only);
    run.report = report;
    run.until_quiet(seen)?;
    Ok(run.report)
}

impl<'c> Run<'c> {
    pub(super) fn new(
        ctx: &'c Ctx,
        templates: TemplateEnv,
        manager: &'c dyn Manager,
        only: Option<&'c [ResName]>,
    ) -> Run<'c> {
        Run {
            ctx,
            templates,
            manager,
            only,
            report: Report::default(),
            busy: BTreeSet::new(),
            tried: BTreeSet::new(),
        }
    }

    #[cfg(test)]
    pub(super) fn report(&self) -> &Report {
        &self.report
    }

    pub(super) fn until_quiet(&mut self, mut seen: Vec<u8>) -> Done {
        let (ctx, manager) = (self.ctx, self.manager);
        let templates = self.templates.clone();
        let worker = Worker {
            env: &ctx.env,
            templates: &templates,
            manager,
            window: ctx.opts.window,
        };
        let worker = &worker;
        let io = |e: std::io::Error| CmdError::Failed(format!("pipe: {e}"));
        let (reader, writer) = std::io::pipe().map_err(io)?;
        let (tx, rx) = mpsc::channel::<(ResName, Outcome)>();
        let mut watcher = Watcher::tree(&ctx.tree)?;
        self.generate();
        std::thread::scope(|s| {
            loop {
                for res in self.todo()? {
                    self.busy.insert(res.clone());
                    let (tx, mut bell) = (tx.clone(), writer.try_clone().map_err(io)?);
                    s.spawn(move || {
                        let out = worker.work(&res);
                        // The run waits for us, so both ends are open.
                        let _ = tx.send((res, out));
                        let _ = bell.write_all(b"!");
                    });
                }
                let quiet = self.busy.is_empty();
                let now = trigger_text(&ctx.env);
                if quiet && (self.only.is_some() || now == seen) {
                    break;
                }
                if now != seen {
                    seen = now;
                    self.tried.clear();
                    self.again();
                    self.generate();
                    continue;
                }
                if wait(&mut watcher, &reader)? {
                    let mut bell = [0u8; 64];
                    let _ = (&reader).read(&mut bell).map_err(io)?;
                }
                let mut ended = false;
                while let Ok((res, out)) = rx.try_recv() {
                    self.busy.remove(&res);
                    self.report.done.extend(out.done);
                    merge(&mut self.report.stack_errors, out.errors);
                    ended = true;
                }
                if ended {
                    // A stack that has let go of a device frees its logger.
                    self.again();
                }
            }
            Done::Ok(())
        })?;
        Ok(())
    }

    /// Resources with something to do that nobody does and that has not been tried.
    fn todo(&mut self) -> Done<Vec<ResName>> {
        let ctx = self.ctx;
        let mut snap = ctx.snapshot()?;
        mars_facts::refresh(&ctx.env, &mut snap, ctx.tree.clock().now());
        let view = reconcile::local_view(ctx, &snap);
        let mut list = Vec::new();
        for res in local_disks(&snap, &ctx.env.host).into_keys() {
            let wanted = self.only.is_none_or(|o| o.contains(&res)) && !self.busy.contains(&res);
            let Some(action) = pending(&view, &res).filter(|_| wanted) else {
                continue;
            };
            if self.tried.insert((res.clone(), action)) {
                list.push(res);
            }
        }
        Ok(list)
    }

    /// The daemons once more.
    fn again(&mut self) {
        match reconcile::run_with(self.ctx, self.manager, Mode::Normal) {
            Ok(r) => self.add(r.done, r.errors),
            Err(e) => self.add(Vec::new(), vec![e.to_string()]),
        }
    }

    /// Unit instances of all local resources.
    fn generate(&mut self) {
        let mut report = Report::default();
        let force = self.ctx.opts.force;
        generate(self.ctx, self.manager, None, force, &mut report);
        self.report.done.extend(report.done);
        merge(&mut self.report.stack_errors, report.errors);
    }

    fn add(&mut self, done: Vec<String>, errors: Vec<String>) {
        self.report.done.extend(done);
        merge(&mut self.report.errors, errors);
    }
}

/// Each line once.
fn merge(all: &mut Vec<String>, more: Vec<String>) {
    for e in more {
        if !all.contains(&e) {
            all.push(e);
        }
    }
}

/// Sleeps until the tree changes or a thread has ended; true in the latter case.
fn wait(watcher: &mut Watcher, bell: &PipeReader) -> Done<bool> {
    let rung = {
        let mut fds = [
            PollFd::new(watcher.as_fd(), PollFlags::POLLIN),
            PollFd::new(bell.as_fd(), PollFlags::POLLIN),
        ];
        match poll(&mut fds, PollTimeout::NONE) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(CmdError::Failed(format!("poll: {e}"))),
        }
        fds[1].any().unwrap_or(false)
    };
    // Whatever changed: the caller compares the trigger file.
    while watcher.wait(Some(Duration::ZERO))? != TreeEvent::Timeout {}
    Ok(rung)
}
