//! `.script` pseudo units: instead of asking systemd, the generated program is called with the operation.
use super::TemplateEnv;
use super::marker::owned_from;
use crate::UnitError;
use std::fmt;
use std::io::{Read, Seek};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// What a script is asked for. It must succeed for what it does not know.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScriptOp {
    /// `start`: safe in any state.
    Start,
    /// `stop`: safe in any state.
    Stop,
    /// `enable`
    Enable,
    /// `disable`
    Disable,
    /// `restart`
    Restart,
    /// `status`
    Status,
}

impl fmt::Display for ScriptOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ScriptOp::Start => "start",
            ScriptOp::Stop => "stop",
            ScriptOp::Enable => "enable",
            ScriptOp::Disable => "disable",
            ScriptOp::Restart => "restart",
            ScriptOp::Status => "status",
        })
    }
}

/// systemd-run gets so much longer than the script.
const SYSTEMD_GRACE: Duration = Duration::from_secs(100);

/// How much of the output becomes the reason of a failure.
const OUTPUT_MAX: usize = 4096;

/// Is this the name of a pseudo unit?
pub fn is_script(unit: &str) -> bool {
    unit.ends_with(".script")
}

/// Runs the generated script of a pseudo unit and waits for it, at most `limit`; then it is killed with everything it started.
/// A script that has not been generated does nothing successfully when asked to stop, and fails otherwise.
pub fn run_script(
    env: &TemplateEnv,
    unit: &str,
    op: ScriptOp,
    limit: Duration,
) -> Result<(), UnitError> {
    let failed = |reason: String| UnitError::named(unit, format!("{op}: {reason}"));
    env.check_name(unit).map_err(|why| failed(why.into()))?;
    let path = env.script_dir.join(unit);
    let text = match std::fs::read_to_string(&path) {
        Ok(t) => t,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            return match op {
                ScriptOp::Stop | ScriptOp::Disable => Ok(()),
                _ => Err(failed(format!("{} does not exist", path.display()))),
            };
        }
        Err(e) => return Err(failed(format!("{}: {e}", path.display()))),
    };
    if owned_from(&text).is_none() {
        return Err(failed(format!("{} was not generated", path.display())));
    }
    // A file, not a pipe: what the script leaves running in the background must not keep us waiting.
    let output = tempfile().map_err(|e| failed(format!("output: {e}")))?;
    let copy = |f: &std::fs::File| f.try_clone().map_err(|e| failed(format!("output: {e}")));
    let (mut command, own_unit) = command(env, unit, &path, limit);
    let mut child = command
        .arg(op.to_string())
        .stdin(Stdio::null())
        .stdout(copy(&output)?)
        .stderr(copy(&output)?)
        .process_group(0)
        .spawn()
        .map_err(|e| failed(format!("{}: {e}", path.display())))?;
    // systemd ends the unit itself when the time is over, and says so.
    let grace = if env.own_units {
        SYSTEMD_GRACE
    } else {
        Duration::ZERO
    };
    let status =
        wait(&mut child, limit.saturating_add(grace)).map_err(|e| failed(e.to_string()))?;
    if let (Some(name), false) = (&own_unit, status.is_some_and(|s| s.success())) {
        clean_up(name);
    }
    let Some(status) = status else {
        return Err(failed(format!(
            "not finished after {} s, killed{}",
            limit.as_secs(),
            said(output)
        )));
    };
    if status.success() {
        return Ok(());
    }
    Err(failed(format!("{status}{}", said(output))))
}

/// Directly, or in a unit of its own; with the name of that unit.
fn command(
    env: &TemplateEnv,
    unit: &str,
    path: &Path,
    limit: Duration,
) -> (Command, Option<String>) {
    if !env.own_units {
        let mut command = Command::new(path);
        command.envs(env.vars.iter().map(|(n, v)| (n, v)));
        return (command, None);
    }
    // Never the same name twice: the unit stays in memory as long as the script has children.
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let stem = unit.strip_suffix(".script").unwrap_or(unit);
    let stem = stem
        .get(..stem.len().min(200))
        .unwrap_or_default()
        .replace('@', "-");
    let name = format!("mars-script-{stem}-{}-{number}.service", std::process::id());
    let mut command = Command::new("systemd-run");
    command.args(["--quiet", "--wait", "--pipe", "--collect"]);
    let seconds = limit.as_secs().max(1);
    command.arg(format!("--property=TimeoutStartSec={seconds}"));
    // What the script leaves in the background stays.
    command.args(["--property=Type=oneshot", "--property=KillMode=process"]);
    command.arg(format!("--unit={name}"));
    for (name, value) in &env.vars {
        command.arg(format!("--setenv={name}={value}"));
    }
    command.arg("--").arg(path);
    (command, Some(name))
}

/// Nothing of a script that failed is left: neither its children nor a failed unit. What cannot be done here is for systemd to tell.
fn clean_up(unit: &str) {
    for args in [
        &["kill", "--kill-whom=all", "--signal=KILL", "--", unit][..],
        &["reset-failed", "--", unit],
    ] {
        let _ = Command::new("systemctl")
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
    }
}

fn tempfile() -> std::io::Result<std::fs::File> {
    let fd =
        nix::sys::memfd::memfd_create(c"script-output", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
    Ok(std::fs::File::from(fd))
}

/// `None`: the time is over, everything was killed.
fn wait(
    child: &mut std::process::Child,
    limit: Duration,
) -> std::io::Result<Option<std::process::ExitStatus>> {
    let pid = i32::try_from(child.id()).map_err(std::io::Error::other)?;
    let began = Instant::now();
    let ended = match crate::sys::PidFd::open(pid)? {
        None => true,
        Some(fd) => fd.wait(limit.saturating_sub(began.elapsed()))?,
    };
    if ended {
        return child.wait().map(Some);
    }
    let group = nix::unistd::Pid::from_raw(pid);
    nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL)?;
    child.wait()?;
    Ok(None)
}

/// The last lines of the output.
fn said(mut output: std::fs::File) -> String {
    let mut bytes = Vec::new();
    let len = output.metadata().map_or(0, |m| m.len());
    let from = len.saturating_sub(OUTPUT_MAX as u64);
    let read = output
        .seek(std::io::SeekFrom::Start(from))
        .and_then(|_| output.take(OUTPUT_MAX as u64).read_to_end(&mut bytes));
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<&str> = text
        .lines()
        .map(str::trim)
        .filter(|l| !l.is_empty())
        .collect();
    match read {
        Ok(_) if !lines.is_empty() => {
            let last = lines.len().saturating_sub(3);
            format!(": {}", lines.get(last..).unwrap_or_default().join(" | "))
        }
        _ => String::new(),
    }
}
