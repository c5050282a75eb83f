//! Carrying out a plan: files and the unit manager.
use super::scan::TEMPORARY;
use super::script::{ScriptOp, is_script, run_script};
use super::{Generation, Step, TemplateEnv};
use crate::{Manager, UnitError};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// What was done and what failed, one line each.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outcome {
    /// Changes.
    pub done: Vec<String>,
    /// Failures; everything else was still done.
    pub errors: Vec<String>,
}

impl Outcome {
    fn note(&mut self, result: Result<(), impl std::fmt::Display>, line: String) -> bool {
        match result {
            Ok(()) => {
                self.done.push(line);
                true
            }
            Err(e) => {
                self.errors.push(e.to_string());
                false
            }
        }
    }
}

/// Files written beside their places; what is not put in place is removed again.
#[derive(Debug, Default)]
struct Temporaries(BTreeMap<PathBuf, PathBuf>);

impl Drop for Temporaries {
    fn drop(&mut self) {
        for path in self.0.values() {
            let _ = fs::remove_file(path);
        }
    }
}

impl Temporaries {
    fn write(
        &mut self,
        to: &Path,
        text: &str,
        mode: u32,
        mtime: std::time::SystemTime,
    ) -> Result<(), String> {
        let dir = to.parent().unwrap_or(Path::new("/"));
        let failed = |what: &Path, e: std::io::Error| format!("{}: {e}", what.display());
        fs::create_dir_all(dir).map_err(|e| failed(dir, e))?;
        let name = format!("{TEMPORARY}{}-{}", std::process::id(), self.0.len());
        let path = dir.join(name);
        // Left over from a process of the same number that died.
        let _ = fs::remove_file(&path);
        let file = fs::File::options()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&path);
        let mut file = file.map_err(|e| failed(&path, e))?;
        self.0.insert(to.to_path_buf(), path.clone());
        let write = || -> std::io::Result<()> {
            file.write_all(text.as_bytes())?;
            // The umask must not decide who may read it.
            file.set_permissions(std::os::unix::fs::PermissionsExt::from_mode(mode))?;
            file.set_modified(mtime)
        };
        let mut write = write;
        write().map_err(|e| failed(&path, e))
    }

    fn install(&mut self, to: &Path) -> Result<(), String> {
        let Some(from) = self.0.get(to) else {
            return Err(format!("{}: nothing was written", to.display()));
        };
        fs::rename(from, to).map_err(|e| format!("{}: {e}", to.display()))?;
        self.0.remove(to);
        Ok(())
    }
}

/// Removes files that a process was writing when it died. Only one process generates at a time.
fn sweep(dir: &Path) {
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        if name.to_str().is_some_and(|n| n.starts_with(TEMPORARY)) {
            let _ = fs::remove_file(entry.path());
        }
    }
}

/// Does the steps of a plan. The files are all written before anything is stopped, so a full disk changes nothing. A unit that cannot
/// be stopped keeps its file, and is tried again by the next run. Two of these must never run at once.
pub fn carry_out(
    env: &TemplateEnv,
    plan: &Generation,
    manager: &dyn Manager,
    limit: Duration,
) -> Outcome {
    let mut out = Outcome::default();
    if plan.steps.is_empty() {
        return out;
    }
    if plan.steps.iter().any(|s| matches!(s, Step::Install { .. })) {
        sweep(&env.target_dir);
        sweep(&env.script_dir);
    }
    let mut files = Temporaries::default();
    for step in &plan.steps {
        let Step::Install {
            to,
            text,
            mode,
            mtime,
            ..
        } = step
        else {
            continue;
        };
        if let Err(e) = files.write(to, text, *mode, *mtime) {
            out.errors.push(format!("no unit has been generated: {e}"));
            return out;
        }
    }
    let mut kept: BTreeSet<&str> = BTreeSet::new();
    for step in &plan.steps {
        match step {
            Step::Stop(unit) => {
                let r = if is_script(unit) {
                    run_script(env, unit, ScriptOp::Stop, limit)
                } else {
                    manager.foreign_stop(unit, limit)
                };
                if !out.note(r, format!("stopped {unit}")) {
                    kept.insert(unit);
                }
            }
            Step::Disable(unit) if !kept.contains(unit.as_str()) => {
                let r = if is_script(unit) {
                    run_script(env, unit, ScriptOp::Disable, limit)
                } else {
                    manager.disable(std::slice::from_ref(unit))
                };
                out.note(r, format!("disabled {unit}"));
            }
            Step::Unlink { unit, path } if !kept.contains(unit.as_str()) => {
                let r = match fs::remove_file(path) {
                    Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                        Err(format!("{}: {e}", path.display()))
                    }
                    _ => Ok(()),
                };
                out.note(r, format!("removed {unit}"));
            }
            Step::Disable(_) | Step::Unlink { .. } => {}
            Step::Install { unit, to, .. } => {
                out.note(files.install(to), format!("generated {unit}"));
            }
            Step::Reload => {
                let r = manager.reload_units();
                out.note(r, "systemd has read its unit files again".to_string());
            }
            Step::Enable(units) => {
                out.note(
                    manager.enable(units),
                    format!("enabled {}", units.join(" ")),
                );
            }
            Step::Start(unit) => {
                let r = start(env, unit, manager, limit);
                out.note(r, format!("started {unit}"));
            }
        }
    }
    out
}

fn start(
    env: &TemplateEnv,
    unit: &str,
    manager: &dyn Manager,
    limit: Duration,
) -> Result<(), UnitError> {
    if is_script(unit) {
        run_script(env, unit, ScriptOp::Start, limit)
    } else {
        manager.foreign_start(unit, limit)
    }
}
