//! systemd-trigger, start, stop (architecture.md, "Two hosts on one machine").
use crate::ctx::Ctx;
use crate::error::{Done, refuse};
use crate::out;
use crate::reconcile::{self, Mode, Report};
use mars_tree::Key;

fn run(ctx: &Ctx, mode: Mode) -> Done<Report> {
    let report = if ctx.opts.dry_run {
        reconcile::dry_run(ctx, mode)?
    } else {
        reconcile::run(ctx, mode)?
    };
    Ok(report)
}

fn finish(ctx: &Ctx, report: &Report) -> Done {
    let Some((last, others)) = report.errors.split_last() else {
        return Ok(());
    };
    others.iter().for_each(out::warn);
    refuse(format!(
        "{last}; repair that, then run marsadm start on {}",
        ctx.env.host
    ))
}

/// `systemd-trigger`: the reconciler. The optional resource changes nothing: all of them cost as much.
pub fn systemd_trigger(ctx: &Ctx, _: &[String]) -> Done {
    let report = run(ctx, Mode::Normal)?;
    if ctx.opts.verbose > 0 || ctx.opts.dry_run {
        report.done.iter().for_each(out::say);
    }
    finish(ctx, &report)
}

/// `start`
pub fn start(ctx: &Ctx, _: &[String]) -> Done {
    let report = run(ctx, Mode::Start)?;
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
    let report = run(ctx, Mode::Stop)?;
    report.done.iter().for_each(out::say);
    if report.done.is_empty() && report.errors.is_empty() {
        out::say(format!("nothing of {} runs", ctx.env.host));
    }
    finish(ctx, &report)
}
