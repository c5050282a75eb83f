//! One unit of the administrator: started, stopped, and the reason when that fails.
use super::{FAILED, MISSING, OK, Outcome};
use mars_policy::Stack;
use mars_tree::{ResName, Snapshot};
use mars_units::template::{ScriptOp, TemplateEnv, is_script, run_script};
use mars_units::{ForeignState, Manager, UnitError, UnitFileState};
use std::time::Duration;

/// systemd has its own limits for each unit, 90 s by default; this one only ends the wait for a whole stack.
const LIMIT: Duration = Duration::from_secs(900);

/// Starts a unit unless it runs; the exit status for the tree.
pub(super) fn start(
    templates: &TemplateEnv,
    manager: &dyn Manager,
    unit: &str,
    out: &mut Outcome,
) -> u8 {
    if is_script(unit) {
        return script(templates, unit, ScriptOp::Start, out);
    }
    let state = match manager.foreign_state(unit) {
        Ok(s) => s,
        Err(e) => return failed(out, e),
    };
    if state.active == "active" {
        return OK;
    }
    if let Some((code, why)) = unfit(&state) {
        out.errors.push(format!("{unit}: {why}"));
        return code;
    }
    match manager.foreign_start(unit, LIMIT) {
        Ok(()) => {
            out.done.push(format!("started {unit}"));
            OK
        }
        Err(e) => failed(out, e),
    }
}

/// Stops a unit unless it rests; the exit status for the tree.
pub(super) fn stop(
    templates: &TemplateEnv,
    manager: &dyn Manager,
    unit: &str,
    out: &mut Outcome,
) -> u8 {
    if is_script(unit) {
        return script(templates, unit, ScriptOp::Stop, out);
    }
    match manager.foreign_state(unit) {
        Ok(s) if matches!(s.active.as_str(), "inactive" | "failed") => return OK,
        Ok(_) => {}
        Err(e) => return failed(out, e),
    }
    match manager.foreign_stop(unit, LIMIT) {
        Ok(()) => {
            out.done.push(format!("stopped {unit}"));
            OK
        }
        Err(e) => failed(out, e),
    }
}

/// Nobody knows the state of a script: it is called each time, and is safe in any state.
fn script(templates: &TemplateEnv, unit: &str, op: ScriptOp, out: &mut Outcome) -> u8 {
    match run_script(templates, unit, op, LIMIT) {
        Ok(()) => {
            out.done.push(format!("{unit} {op}"));
            OK
        }
        Err(e) => failed(out, e),
    }
}

fn failed(out: &mut Outcome, e: UnitError) -> u8 {
    out.errors.push(e.to_string());
    FAILED
}

/// Why a unit cannot be started at all.
fn unfit(state: &ForeignState) -> Option<(u8, String)> {
    if !state.loaded {
        let code = match state.file {
            UnitFileState::Missing => MISSING,
            _ => FAILED,
        };
        return Some((
            code,
            format!(
                "cannot be started: {}; see marsadm get-systemd-unit, and systemctl status",
                state.reason
            ),
        ));
    }
    (!state.file.may_start()).then(|| {
        (
            FAILED,
            "is disabled, so it is not started; run systemctl enable, or take its [Install] section away".to_string(),
        )
    })
}

/// The reason of a start unit that did not start, for a command that waited for it in vain.
pub fn failure(manager: &dyn Manager, unit: &str) -> Option<String> {
    if is_script(unit) {
        return None;
    }
    let state = manager.foreign_state(unit).ok()?;
    unfit(&state)
        .map(|(_, why)| why)
        .or_else(|| (!state.reason.is_empty()).then_some(state.reason))
}

/// Stops the stacks of all these resources at once, for a host that is about to stop. Their place in the tree stays: they come back
/// with the host.
pub fn stop_all<'r>(
    templates: &TemplateEnv,
    manager: &dyn Manager,
    snap: &Snapshot,
    resources: impl Iterator<Item = &'r ResName>,
) -> (Vec<String>, Vec<String>) {
    let units: Vec<String> = resources
        .map(|res| Stack::of(snap, res))
        .filter(Stack::is_controlled)
        .filter_map(|s| s.stop)
        .collect();
    let outcomes: Vec<Outcome> = std::thread::scope(|s| {
        let threads: Vec<_> = units
            .iter()
            .map(|unit| {
                s.spawn(move || {
                    let mut out = Outcome::default();
                    stop(templates, manager, unit, &mut out);
                    out
                })
            })
            .collect();
        threads.into_iter().filter_map(|t| t.join().ok()).collect()
    });
    let (done, errors): (Vec<_>, Vec<_>) = outcomes.into_iter().map(|o| (o.done, o.errors)).unzip();
    (done.concat(), errors.concat())
}
