//! Runs `marsadm systemd-trigger` when the trigger file changes and no systemd does it. Never two at once; a request that comes
//! while it runs makes it run again.
use mars_tree::{HostEnv, UnitManager};
use std::path::PathBuf;
use std::process::Stdio;
use std::rc::Rc;
use std::time::Duration;
use tokio::sync::Notify;

/// Several changes in a row are one run.
const DEBOUNCE: Duration = Duration::from_millis(50);
/// A run that takes longer is worth a line in the log.
const LONG: Duration = Duration::from_secs(60);

/// Asks for runs.
#[derive(Clone, Debug)]
pub struct Trigger(Option<Rc<Notify>>);

impl Trigger {
    /// Starts the task (must be called inside a `LocalSet`). Does nothing under systemd, whose path unit does the same.
    pub fn start(env: &HostEnv) -> Trigger {
        if env.unit_manager != UnitManager::Direct {
            return Trigger(None);
        }
        let wake = Rc::new(Notify::new());
        tokio::task::spawn_local(run(env.clone(), wake.clone()));
        Trigger(Some(wake))
    }
    /// The trigger file changed.
    pub fn fire(&self) {
        if let Some(n) = &self.0 {
            n.notify_one();
        }
    }
}

/// `marsadm` beside this program, or in `MARS_BIN_DIR`.
fn marsadm() -> PathBuf {
    if let Some(dir) = std::env::var_os("MARS_BIN_DIR") {
        return PathBuf::from(dir).join("marsadm");
    }
    match std::env::current_exe() {
        Ok(exe) => exe.with_file_name("marsadm"),
        Err(_) => PathBuf::from("marsadm"),
    }
}

async fn run(env: HostEnv, wake: Rc<Notify>) {
    let program = marsadm();
    let mut last_error = String::new();
    loop {
        // A notification that comes during a run is kept for the next turn.
        wake.notified().await;
        tokio::time::sleep(DEBOUNCE).await;
        let error = match once(&env, &program).await {
            Ok(()) => String::new(),
            Err(e) => e,
        };
        if !error.is_empty() && error != last_error {
            tracing::warn!("{} systemd-trigger: {error}", program.display());
        }
        last_error = error;
    }
}

async fn once(env: &HostEnv, program: &std::path::Path) -> Result<(), String> {
    // A file, not a pipe: what the run starts may live longer than it and must not keep us waiting.
    let log = env.run_dir.join("trigger.log");
    let file = std::fs::File::create(&log).map_err(|e| format!("{}: {e}", log.display()))?;
    let out = file.try_clone().map_err(|e| e.to_string())?;
    let mut child = tokio::process::Command::new(program)
        .arg("systemd-trigger")
        .envs(env.to_vars())
        .stdin(Stdio::null())
        .stdout(out)
        .stderr(file)
        .spawn()
        .map_err(|e| e.to_string())?;
    let status = loop {
        match tokio::time::timeout(LONG, child.wait()).await {
            Ok(r) => break r.map_err(|e| e.to_string())?,
            Err(_) => tracing::warn!("{} systemd-trigger takes long", program.display()),
        }
    };
    if status.success() {
        return Ok(());
    }
    let text = std::fs::read(&log).unwrap_or_default();
    let tail = String::from_utf8_lossy(&text[text.len().saturating_sub(500)..]).into_owned();
    let line = tail.lines().rev().find(|l| !l.trim().is_empty());
    Err(format!("{status}: {}", line.unwrap_or("no message")))
}
