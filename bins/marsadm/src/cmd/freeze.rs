//! freeze, thaw, drain: asked of the logger over D-Bus.
use crate::ctx::{Ctx, TIMEOUT_SECS};
use crate::error::{CmdError, Done, refuse, usage};
use crate::out;
use mars_bus::{CallError, call, logger_name, logger_path};
use mars_tree::ResName;
use std::time::Duration;

/// Longest freeze, and longest wait for a drain, in seconds; the logger has the same limits.
const LONGEST_SECS: u64 = 600;
/// Default of `freeze`.
const FREEZE_SECS: u64 = 60;
/// The answer may come this much later than the limit.
const GRACE: Duration = Duration::from_secs(5);

fn ask(ctx: &Ctx, res: &ResName, method: &str, arg: Option<u32>, limit: Duration) -> Done {
    if !ctx.is_local() {
        return refuse(format!("the logger of {} answers only there", ctx.me));
    }
    if ctx.opts.dry_run {
        out::say(format!("would call {method} of the logger of {res}"));
        return Ok(());
    }
    let (name, path) = (logger_name(res.as_str()), logger_path(res.as_str()));
    let interface = mars_bus::interfaces::LOGGER.name;
    let answer = call(&name, &path, interface, method, arg, limit + GRACE);
    answer.map_err(|e| match e {
        CallError::Absent(why) => CmdError::Failed(format!(
            "resource {res}: its logger cannot be reached over D-Bus; is {} primary? ({why})",
            ctx.me
        )),
        CallError::Refused(why) => CmdError::Failed(why),
    })
}

/// `freeze RES`
pub fn freeze(ctx: &Ctx, res: &ResName, _: &[String]) -> Done {
    let secs = ctx.opts.limit(FREEZE_SECS).map_or(0, |l| l.as_secs());
    let Some(arg) = u32::try_from(secs)
        .ok()
        .filter(|n| (1..=LONGEST_SECS).contains(&u64::from(*n)))
    else {
        return usage(format!(
            "--timeout: a freeze lasts 1 to {LONGEST_SECS} seconds"
        ));
    };
    ask(ctx, res, "Freeze", Some(arg), Duration::from_secs(secs))?;
    ctx.result(format!(
        "{res}: frozen; its disk can be snapshotted until {secs} s after the call, or marsadm thaw {res}"
    ));
    Ok(())
}

/// `thaw RES`
pub fn thaw(ctx: &Ctx, res: &ResName, _: &[String]) -> Done {
    ask(ctx, res, "Thaw", None, Duration::from_secs(25))
}

/// `drain RES`
pub fn drain(ctx: &Ctx, res: &ResName, _: &[String]) -> Done {
    let limit = ctx.opts.limit(TIMEOUT_SECS);
    let limit = limit.unwrap_or(Duration::from_secs(LONGEST_SECS));
    ask(ctx, res, "Drain", None, limit)
}
