//! `secondary` (marsadm-commands.md section 4): gives the role up without a successor.
use crate::cli::Options;
use crate::cmd::handover::{rest, stack_of, stops_itself, take_back};
use crate::cmd::primary::give_up;
use crate::cmd::switches::still_on;
use crate::ctx::{Ctx, TIMEOUT_SECS, until};
use crate::error::{CmdError, Done, refuse};
use crate::out;
use crate::phases::Job;
use crate::plan::{designated, device_name, names};
use mars_policy::{View, Want};
use mars_tree::ResName;

/// Phases of `secondary`.
pub const PHASES: &[&str] = &[
    "check the preconditions",
    "stop the units on the device",
    "give up the role",
];

/// `secondary` for one resource.
struct Secondary {
    res: ResName,
    /// Where the stack was wanted; only while it has to be taken back after a failure.
    moved: Option<Want>,
}

/// Begins `secondary`.
pub fn secondary(res: &ResName, _: &[String]) -> Box<dyn Job> {
    Box::new(Secondary {
        res: res.clone(),
        moved: None,
    })
}

impl Job for Secondary {
    fn run(&mut self, ctx: &Ctx, phase: usize) -> Done {
        let res = &self.res;
        let snap = ctx.snapshot()?;
        match phase {
            0 => secondary_check(&ctx.view(&snap), res, &ctx.opts),
            1 => {
                if let Some(before) = stack_of(ctx, &snap, res).filter(|w| *w != Want::Nobody) {
                    rest(ctx, res, &before)?;
                    self.moved = Some(before);
                }
                Ok(())
            }
            _ => {
                secondary_check(&ctx.view(&snap), res, &ctx.opts)?;
                self.moved = None;
                leave_role(ctx, res)
            }
        }
    }

    fn undo(&mut self, ctx: &Ctx, e: CmdError) -> CmdError {
        match self.moved.take() {
            Some(before) => take_back(ctx, &self.res, &before, &ctx.me, e),
            None => e,
        }
    }
}

/// Nobody is designated any more; waits until the device is gone.
fn leave_role(ctx: &Ctx, res: &ResName) -> Done {
    let me = ctx.me.clone();
    let snap = ctx.snapshot()?;
    if designated(&snap, res).is_some() {
        ctx.commit(&give_up(&snap, res))?;
    } else {
        out::say(format!("{res}: nobody is designated primary already"));
    }
    ctx.reconcile()?;
    if !ctx.engine_running() && ctx.is_local() {
        out::warn("mars-meta is not running here: this becomes effective after marsadm start");
        return Ok(());
    }
    ctx.wait(
        res,
        &format!("{me} has left the primary role of {res}"),
        TIMEOUT_SECS,
        |v| {
            let on = still_on(v, res, &me, &["is-primary", "if-on"]);
            until(on.is_empty(), || format!("still on: {}", names(on)))
        },
    )
}

/// May the role be given up?
pub fn secondary_check(v: &View<'_>, res: &ResName, opts: &Options) -> Done {
    if let Some(p) = designated(v.snap, res)
        && p != *v.me
        && !opts.force
    {
        return refuse(format!(
            "host {p} is designated primary of resource {res}, not {}; run marsadm primary {res} on the host that shall be it",
            v.me
        ));
    }
    let openers = v.snap.actual(res, v.me, "open-count").unwrap_or(0);
    if openers > 0 && !stops_itself(v, res, opts.systemd_enable) {
        return refuse(format!(
            "device /dev/mars/{} is opened {openers} times on {}; unmount it first",
            device_name(v.snap, res, v.me),
            v.me
        ));
    }
    Ok(())
}
