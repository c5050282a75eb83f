//! Carries out what this host has to do for the stacks of its resources (systemd-templates.md sections 7, 10, 11): each resource in a
//! thread of its own, all awaited. The decision is `mars_policy::stack_action`.
pub mod holders;
mod supervise;
#[cfg(test)]
mod tests;
mod unit;

pub use supervise::supervise;
pub use unit::{failure, stop_all};

use crate::plan::{actual, device_name};
use mars_daemon::events;
use mars_policy::{Stack, StackAction, View, Want, stack_action};
use mars_tree::{Batch, HostEnv, HostName, Key, ResName, Snapshot, Tree, Watcher};
use mars_units::Manager;
use mars_units::template::TemplateEnv;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Exit status in `systemd-status-*`: done.
const OK: u8 = 0;
/// The unit failed.
const FAILED: u8 = 1;
/// It does not exist (as `systemctl start` says it).
const MISSING: u8 = 5;
/// A device whose stack was stopped is closed within this time, or somebody holds it.
const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// `userspace/systemd-status-{start,stop}-HOST`: exit status of the last action there.
pub fn status_key(res: &ResName, what: &str, host: &HostName) -> Key {
    Key::ResUserspace(res.clone(), format!("systemd-status-{what}-{host}"))
}

/// `userspace/device-holders-HOST`: why the device is still open there although its stack has been stopped.
pub fn holders_key(res: &ResName, host: &HostName) -> Key {
    Key::ResUserspace(res.clone(), format!("device-holders-{host}"))
}

/// What one thread needs.
struct Worker<'a> {
    env: &'a HostEnv,
    templates: &'a TemplateEnv,
    manager: &'a dyn Manager,
    window: Duration,
}

/// What was done for one resource.
#[derive(Debug, Default)]
struct Outcome {
    done: Vec<String>,
    errors: Vec<String>,
}

/// Has anybody given the administrator's units of a resource of this host a place to run?
pub fn any_controlled(snap: &Snapshot, host: &HostName) -> bool {
    crate::reconcile::local_disks(snap, host)
        .keys()
        .any(|res| Stack::of(snap, res).is_controlled())
}

/// To the journal when it is news: every change of the tree may try again.
fn tell_failure(snap: &Snapshot, res: &ResName, key: &Key, unit: &str, code: u8, why: &[String]) {
    if code == OK || snap.number(key) == Some(code.into()) {
        return;
    }
    let why = why.join("; ");
    let why = why
        .strip_prefix(unit)
        .and_then(|w| w.strip_prefix(": "))
        .unwrap_or(&why);
    events::stack_failed(res, unit, &crate::error::one_line(why));
}

impl Worker<'_> {
    fn snapshot(&self, tree: &Tree, res: &ResName) -> Result<Snapshot, String> {
        let mut snap = tree.snapshot_of(res).map_err(|e| e.to_string())?;
        mars_facts::refresh(self.env, &mut snap, tree.clock().now());
        Ok(snap)
    }

    fn view<'s>(&'s self, tree: &Tree, snap: &'s Snapshot) -> View<'s> {
        View {
            snap,
            me: &self.env.host,
            local: &self.env.host,
            now: tree.clock().now(),
            window: self.window,
            engine_running: true,
        }
    }

    /// Does what the tree says now for one resource. Never two at once for the same.
    fn work(&self, res: &ResName) -> Outcome {
        let mut out = Outcome::default();
        if let Err(e) = self.try_work(res, &mut out) {
            out.errors.push(format!("stack of {res}: {e}"));
        }
        out
    }

    fn try_work(&self, res: &ResName, out: &mut Outcome) -> Result<(), String> {
        let path = self.env.resource_run_dir(res).join("stack.lock");
        let _one_at_a_time = crate::lock::lock(&path).map_err(|e| e.to_string())?;
        let tree = Tree::open(self.env).map_err(|e| e.to_string())?;
        let snap = self.snapshot(&tree, res)?;
        let host = &self.env.host;
        let mut batch = Batch::new();
        let mut held = None;
        match stack_action(&self.view(&tree, &snap), res) {
            StackAction::Nothing => {}
            StackAction::Start(name) => {
                let code = unit::start(self.templates, self.manager, &name, out);
                let key = status_key(res, "start", host);
                tell_failure(&snap, res, &key, &name, code, &out.errors);
                batch.set_if_changed(key, code);
            }
            StackAction::Stop(name) => {
                let before = out.errors.len();
                let code = unit::stop(self.templates, self.manager, &name, out);
                let key = status_key(res, "stop", host);
                tell_failure(&snap, res, &key, &name, code, &out.errors[before..]);
                batch.set_if_changed(key, code);
                held = self.who_holds(&tree, res, out.errors.get(before))?;
            }
        }
        match held {
            Some(text) => {
                // While nobody shall run it, somebody may well check the file system.
                let expected = want(&snap, res) == Some(Want::Nobody)
                    && out.done.is_empty()
                    && out.errors.is_empty();
                let told = snap.text(&holders_key(res, host)) == Some(text.as_str());
                if !expected && !told {
                    out.errors.push(format!(
                    "the stack of {res} has been stopped, but its device is still in use: {text}"
                ));
                }
                batch.set_if_changed(holders_key(res, host), text);
            }
            None => {
                batch.delete(holders_key(res, host));
            }
        }
        tree.commit(&batch).map_err(|e| e.to_string())?;
        Ok(())
    }

    /// After its stack has been stopped, who still has the device open? `None`: nobody. `error`: what went wrong with the stop unit.
    fn who_holds(
        &self,
        tree: &Tree,
        res: &ResName,
        error: Option<&String>,
    ) -> Result<Option<String>, String> {
        let key = actual(res, &self.env.host, "open-count");
        let mut watcher = Watcher::resource(tree, res).map_err(|e| e.to_string())?;
        let end = Instant::now() + CLOSE_LIMIT;
        let snap = loop {
            let snap = self.snapshot(tree, res)?;
            if snap.signed(&key).unwrap_or(0) <= 0 {
                return Ok(None);
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() || error.is_some() {
                break snap;
            }
            watcher.wait(Some(left)).map_err(|e| e.to_string())?;
        };
        let link = self.device(&snap, res);
        let holders = holders::now(&link).unwrap_or_else(|| format!("{} is open", link.display()));
        Ok(Some(match error {
            Some(e) => format!("{holders} ({})", crate::error::one_line(e)),
            None => holders,
        }))
    }

    fn device(&self, snap: &Snapshot, res: &ResName) -> PathBuf {
        self.env
            .dev_dir
            .join(device_name(snap, res, &self.env.host))
    }
}

/// Is there anything to do for a resource, or to tidy up?
fn pending(v: &View<'_>, res: &ResName) -> Option<StackAction> {
    let action = stack_action(v, res);
    let left_over = v.snap.get(&holders_key(res, v.me)).is_some();
    (action != StackAction::Nothing || left_over).then_some(action)
}

/// Where the stack of `res` shall run, when somebody controls it.
pub fn want(snap: &Snapshot, res: &ResName) -> Option<Want> {
    let stack = Stack::of(snap, res);
    if stack.is_controlled() {
        stack.want
    } else {
        None
    }
}

/// What a run would do for the stacks of `v.me`, as far as the tree tells.
pub fn intentions(v: &View<'_>) -> Vec<String> {
    crate::reconcile::local_disks(v.snap, v.me)
        .into_keys()
        .filter_map(|res| match stack_action(v, &res) {
            StackAction::Start(unit) => Some(format!("would start {unit} unless it runs")),
            StackAction::Stop(unit) => Some(format!("would stop {unit} unless it rests")),
            StackAction::Nothing => None,
        })
        .collect()
}
