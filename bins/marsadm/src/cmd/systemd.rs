//! set-systemd-unit, get-systemd-unit, set-systemd-want, get-systemd-want (systemd-templates.md section 9).
use crate::cmd::handover::{held_by, opened, openers, wait_closed_everywhere};
use crate::ctx::{Ctx, TIMEOUT_SECS, looks_dead};
use crate::error::{Done, refuse, show};
use crate::out;
use crate::phases::Job;
use crate::plan::{designated, is_actual, names};
use crate::templates::unit_of_keyword;
use mars_policy::{Stack, View, Want, is_unit_name};
use mars_tree::{Batch, HostName, Key, ResName, Snapshot, UnitManager};
use mars_units::template::{Op, escape_resource_in, is_keyword};

/// `resource-RES/systemd-NAME`.
pub fn key(res: &ResName, name: &str) -> Key {
    Key::Systemd(res.clone(), name.to_string())
}

/// A unit name as it is stored: the resource name inside is escaped.
pub fn unit_name(word: &str, res: &ResName) -> Done<String> {
    let unit = escape_resource_in(word, res);
    if is_unit_name(&unit) {
        return Ok(unit);
    }
    refuse(format!(
        "{} is no unit name; give one with its suffix (mnt-data.mount, web.service), a keyword in capitals (DEFAULT), or \"\" for none",
        show(word)
    ))
}

/// Links for these units. The stack belongs where the role is. An empty name is stored as none.
pub fn unit_batch(snap: &Snapshot, res: &ResName, start: &str, stop: &str) -> Batch {
    let mut batch = Batch::new();
    for (name, unit) in [("start-unit", start), ("stop-unit", stop)] {
        match unit {
            "" => batch.delete(key(res, name)),
            unit => batch.set_if_changed(key(res, name), unit),
        };
    }
    let want = designated(snap, res).map_or(Want::Nobody, Want::Host);
    if start.is_empty() && stop.is_empty() {
        batch.delete(key(res, "want"));
    } else {
        batch.set_if_changed(key(res, "want"), want);
    }
    batch
}

/// `set-systemd-unit RES START [STOP]`
pub fn set_unit(ctx: &Ctx, res: &ResName, args: &[String]) -> Done {
    let snap = known(ctx, res)?;
    let first = args.first().map_or("", String::as_str);
    let second = args.get(1).map_or(first, String::as_str);
    let (start, stop) = if first.is_empty() {
        if args.get(1).is_some_and(|s| !s.is_empty()) {
            return refuse(format!(
                "a stop unit {} without a start unit cannot be set for {res}; give both, or \"\" alone for none",
                show(second)
            ));
        }
        (String::new(), String::new())
    } else {
        (
            named(ctx, res, first, true)?,
            named(ctx, res, second, false)?,
        )
    };
    ctx.commit(&unit_batch(&snap, res, &start, &stop))?;
    // Without units, instances are left that nobody needs any more: only a complete run finds those.
    ctx.instances((!start.is_empty()).then_some(res));
    ctx.trigger();
    if ctx.env.unit_manager == UnitManager::Direct && !start.is_empty() {
        out::warn(format!(
            "units on top of a device need systemd; {} runs its daemons without (MARS_UNIT_MANAGER=direct), so nothing is started here",
            ctx.env.host
        ));
    }
    ctx.result(match start.is_empty() {
        true => format!("resource {res} has no units on top of it"),
        false => format!(
            "resource {res}: start unit {start}, stop unit {}",
            or_none(&stop)
        ),
    });
    Ok(())
}

fn or_none(unit: &str) -> &str {
    if unit.is_empty() { "(none)" } else { unit }
}

/// A unit given by name or keyword.
fn named(ctx: &Ctx, res: &ResName, word: &str, start: bool) -> Done<String> {
    if !is_keyword(word) {
        return if word.is_empty() {
            Ok(String::new())
        } else {
            unit_name(word, res)
        };
    }
    let (suffix, op) = match start {
        true => ("START", Op::Start),
        false => ("STOP", Op::Stop),
    };
    match unit_of_keyword(ctx, res, word, op)? {
        Some(unit) => Ok(unit),
        None if start => refuse(format!(
            "no unit template has the marker {word}_{suffix}; see marsadm help, or give a unit name"
        )),
        None => {
            out::warn(format!(
                "no unit template has the marker {word}_{suffix}: nothing will be stopped before the device goes"
            ));
            Ok(String::new())
        }
    }
}

/// `get-systemd-unit RES`
pub fn get_unit(ctx: &Ctx, res: &ResName, _: &[String]) -> Done {
    let snap = known(ctx, res)?;
    let text = |name| snap.text(&key(res, name)).unwrap_or_default();
    let line = format!("{} {}", text("start-unit"), text("stop-unit"));
    out::say(line.trim());
    Ok(())
}

/// `get-systemd-want RES`
pub fn get_want(ctx: &Ctx, res: &ResName, _: &[String]) -> Done {
    let snap = known(ctx, res)?;
    out::say(snap.text(&key(res, "want")).unwrap_or_default());
    Ok(())
}

/// Is this HOST possible?
pub fn check_want(v: &View<'_>, res: &ResName, word: &str, force: bool) -> Done<Want> {
    let want = if word == "(none)" {
        Want::Nobody
    } else {
        match word.parse::<HostName>() {
            Ok(h) => Want::Host(h),
            Err(e) => return refuse(format!("{e}; give a host, or \"(none)\"")),
        }
    };
    if force {
        return Ok(want);
    }
    let stack = Stack::of(v.snap, res);
    if stack.start.is_none() && stack.stop.is_none() {
        return refuse(format!(
            "resource {res} has no units; run marsadm set-systemd-unit {res} START STOP first (--force skips this check)"
        ));
    }
    if let Want::Host(h) = &want
        && !v.snap.hosts().contains(h)
    {
        return refuse(format!(
            "host {h} is not in the cluster (known: {}; --force skips this check)",
            names(v.snap.hosts())
        ));
    }
    Ok(want)
}

/// Phases of `set-systemd-want`.
pub const WANT_PHASES: &[&str] = &["say where the units shall run", "wait until it is so"];

/// `set-systemd-want RES HOST|(none)`
struct SetWant {
    res: ResName,
    word: String,
    want: Want,
}

/// Begins `set-systemd-want`.
pub fn set_want(res: &ResName, args: &[String]) -> Box<dyn Job> {
    Box::new(SetWant {
        res: res.clone(),
        word: args.first().cloned().unwrap_or_default(),
        want: Want::Nobody,
    })
}

impl Job for SetWant {
    fn run(&mut self, ctx: &Ctx, phase: usize) -> Done {
        let (res, word) = (&self.res, self.word.as_str());
        let snap = known(ctx, res)?;
        let view = ctx.view(&snap);
        if phase > 0 {
            return wait_wanted(ctx, &view, res, &self.want);
        }
        self.want = check_want(&view, res, word, ctx.opts.force)?;
        if snap.text(&key(res, "want")) == Some(word) {
            out::say(format!(
                "{res}: the stack is wanted at {} already",
                self.want
            ));
        } else {
            let mut batch = Batch::new();
            batch.set(key(res, "want"), &self.want);
            ctx.commit(&batch)?;
        }
        ctx.trigger();
        Ok(())
    }
}

/// Until the device is opened where the units shall run, or closed everywhere.
fn wait_wanted(ctx: &Ctx, view: &View<'_>, res: &ResName, want: &Want) -> Done {
    if !ctx.engine_running() {
        out::warn("mars-meta is not running here: this becomes effective after marsadm start");
        return Ok(());
    }
    match want {
        Want::Nobody => wait_closed_everywhere(ctx, res),
        Want::Host(h) if !is_actual(view.snap, res, h, "if-on") => {
            out::warn(format!(
                "the device of {res} is not there on {h}: its stack starts when it appears (marsadm primary {res} on {h})"
            ));
            Ok(())
        }
        Want::Host(h) if *h != ctx.env.host && looks_dead(view, h, view.window) => {
            out::warn(format!("host {h} does not answer, it learns of this later"));
            Ok(())
        }
        Want::Host(h) => ctx.wait(
            res,
            &format!("the device of {res} is opened on {h}"),
            TIMEOUT_SECS,
            |v| opened(ctx, v, res, h),
        ),
    }?;
    if *want == Want::Nobody {
        ctx.result(format!("the stack of {res} is stopped"));
    } else {
        ctx.result(format!("the stack of {res} is wanted at {want}"));
    }
    Ok(())
}

/// Hosts on which the device is still open, of those that can be asked, for a message.
pub fn still_open(v: &View<'_>, res: &ResName) -> Vec<String> {
    v.snap
        .members(res)
        .into_iter()
        .filter(|h| h == v.local || !looks_dead(v, h, v.window))
        .filter(|h| openers(v, res, h) > 0)
        .map(|h| format!("open on {h}{}", held_by(v.snap, res, &h)))
        .collect()
}

/// These commands work wherever the resource is known.
fn known(ctx: &Ctx, res: &ResName) -> Done<Snapshot> {
    let snap = ctx.snapshot()?;
    if snap.members(res).is_empty() {
        return refuse(format!(
            "resource {res} does not exist (known: {})",
            crate::cmd::membership::names_or_none(snap.resources())
        ));
    }
    Ok(snap)
}
