//! systemd-trigger, start, stop (architecture.md, "Two hosts on one machine").
use crate::ctx::Ctx;
use crate::error::{Done, refuse};
use crate::out;
use crate::reconcile::{self, Mode, Report};
use crate::stack;
use mars_tree::{Key, ResName};

fn run(ctx: &Ctx, mode: Mode, only: Option<&[ResName]>) -> Done<Report> {
    if ctx.opts.dry_run {
        reconcile::dry_run(ctx, mode)
    } else {
        stack::supervise(ctx, mode, only)
    }
}

fn finish(ctx: &Ctx, report: &Report) -> Done {
    let Some((last, others)) = report.errors.split_last() else {
        return match report.stack_errors.split_last() {
            None => Ok(()),
            Some((last, others)) => {
                others.iter().for_each(out::warn);
                refuse(format!(
                    "{last}; repair that, then run marsadm systemd-trigger"
                ))
            }
        };
    };
    report.stack_errors.iter().chain(others).for_each(out::warn);
    refuse(format!(
        "{last}; repair that, then run marsadm start on {}",
        ctx.env.host
    ))
}

/// `systemd-trigger-extern`: the same for the trigger's own service. What the administrator's units do is told, but it is no failure of
/// the service: their own state shows it, and it is repeated with the next change anyway.
pub fn systemd_trigger_extern(ctx: &Ctx, only: Option<&[ResName]>) -> Done {
    let mut report = run(ctx, Mode::Normal, only)?;
    report.done.iter().for_each(out::say);
    report.stack_errors.drain(..).for_each(out::warn);
    finish(ctx, &report)
}

/// `systemd-trigger`: the reconciler. With resources, only their stacks are started or stopped; all daemons
/// cost as much as those of one.
pub fn systemd_trigger(ctx: &Ctx, only: Option<&[ResName]>) -> Done {
    let report = run(ctx, Mode::Normal, only)?;
    if ctx.opts.verbose > 0 || ctx.opts.dry_run {
        report.done.iter().for_each(out::say);
    }
    finish(ctx, &report)
}

/// `start`
pub fn start(ctx: &Ctx, _: &[String]) -> Done {
    let report = run(ctx, Mode::Start, None)?;
    report.done.iter().for_each(out::say);
    let snap = ctx.snapshot()?;
    if snap.get(&Key::Uuid).is_some() && snap.get(&Key::Ip(ctx.env.host.clone())).is_none() {
        out::warn(format!(
            "{} is no member of this cluster any more, nothing is started; make a fresh file system and run marsadm join-cluster",
            ctx.env.host
        ));
    } else if report.done.is_empty() && report.errors.is_empty() {
        out::say(format!("everything of {} runs already", ctx.env.host));
    }
    finish(ctx, &report)
}

/// `stop`
pub fn stop(ctx: &Ctx, _: &[String]) -> Done {
    let report = run(ctx, Mode::Stop, None)?;
    report.done.iter().for_each(out::say);
    if report.done.is_empty() && report.errors.is_empty() {
        out::say(format!("nothing of {} runs", ctx.env.host));
    }
    finish(ctx, &report)
}
