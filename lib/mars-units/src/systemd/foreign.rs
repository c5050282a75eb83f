//! Units of the administrator, and the reasons that systemd knows when a unit of anybody fails.
use super::{JobError, SERVICE, SERVICE_UNIT, SystemdManager, UNIT, failed};
use crate::{ForeignState, UnitError, UnitFileState};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use zbus::OwnedObjectPath;

/// Pauses before a job is queued again that conflicts with another one; afterwards it replaces that.
const PAUSES: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(800),
    Duration::from_millis(1600),
];
/// Where instances live that end with the boot.
const RUN_DIR: &str = "/run/systemd/system";
/// So long the journal may take to tell what a unit said last.
const JOURNAL_LIMIT: Duration = Duration::from_secs(5);
/// Longest text taken from a unit, characters.
const WORDS_MAX: usize = 300;
/// Interfaces with a property `Result`, by suffix of the unit name.
const RESULTS: [(&str, &str); 8] = [
    (".service", SERVICE_UNIT),
    (".mount", "org.freedesktop.systemd1.Mount"),
    (".socket", "org.freedesktop.systemd1.Socket"),
    (".path", "org.freedesktop.systemd1.Path"),
    (".timer", "org.freedesktop.systemd1.Timer"),
    (".automount", "org.freedesktop.systemd1.Automount"),
    (".swap", "org.freedesktop.systemd1.Swap"),
    (".scope", "org.freedesktop.systemd1.Scope"),
];
/// Dependencies whose failure makes a unit fail.
const NEEDS: [&str; 3] = ["Requires", "BindsTo", "Requisite"];
/// One row of `Conditions`: name, is it a trigger, negated, parameter, state (above 0 held, below 0 did not, 0 not tried).
type Condition = (String, bool, bool, String, i32);
/// Reply of `EnableUnitFiles`, `DisableUnitFiles`: kind of change, link, target.
type Change = (String, String, String);

impl SystemdManager {
    /// The unit's own reason: what it said last, and how it ended.
    pub(super) async fn reason(&self, unit: &str) -> String {
        let mut parts = Vec::new();
        let status: Option<String> = self.property(unit, SERVICE_UNIT, "StatusText").await;
        match status.filter(|t| !t.is_empty()) {
            Some(text) => parts.push(text),
            None => parts.extend(self.last_words(unit).await),
        }
        if let Some((_, interface)) = RESULTS.iter().find(|(s, _)| unit.ends_with(s)) {
            let result: Option<String> = self.property(unit, interface, "Result").await;
            parts.extend(result.filter(|r| !r.is_empty() && r != "success"));
        }
        if parts.is_empty() {
            let error: Option<(String, String)> = self.property(unit, UNIT, "LoadError").await;
            parts.extend(error.map(|e| e.1).filter(|t| !t.is_empty()));
        }
        if parts.is_empty() {
            parts.push("no reason given".to_string());
        }
        parts.join(", ")
    }

    /// Text for the result of a job. When a dependency failed, that one's reason is the reason.
    pub(super) async fn job_failure(&self, unit: &str, result: &str) -> String {
        if result != "dependency" {
            return format!("job {result}: {}", self.reason(unit).await);
        }
        let mut culprits = Vec::new();
        for name in NEEDS {
            let needed: Option<Vec<String>> = self.property(unit, UNIT, name).await;
            for other in needed.unwrap_or_default().into_iter().take(100) {
                let state: Option<String> = self.property(&other, UNIT, "ActiveState").await;
                if state.as_deref() == Some("failed") && culprits.len() < 5 {
                    let reason = self.reason(&other).await;
                    culprits.push(format!("{other} failed: {reason}"));
                }
            }
        }
        if culprits.is_empty() {
            "a unit that it needs could not be started; see systemctl list-dependencies --state=failed".to_string()
        } else {
            format!("it needs {}", culprits.join("; "))
        }
    }

    /// The last line that the processes of this run of the unit wrote into the journal.
    async fn last_words(&self, unit: &str) -> Option<String> {
        let id: Vec<u8> = self.property(unit, UNIT, "InvocationID").await?;
        if id.len() != 16 {
            return None;
        }
        let id: String = id.iter().map(|b| format!("{b:02x}")).collect();
        let output = tokio::process::Command::new("journalctl")
            .args(["--quiet", "--no-pager", "--output=cat", "--lines=1"])
            .arg(format!("_SYSTEMD_INVOCATION_ID={id}"))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(JOURNAL_LIMIT, output)
            .await
            .ok()?
            .ok()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let line = text.lines().rev().find(|l| !l.trim().is_empty())?;
        let line = line.trim().trim_end_matches('.');
        let clean = line.chars().filter(|c| !c.is_control());
        Some(clean.take(WORDS_MAX).collect())
    }

    async fn load(&self, unit: &str) -> zbus::Result<OwnedObjectPath> {
        let reply = self.call("LoadUnit", &(unit,)).await?;
        reply.body().deserialize()
    }

    pub(super) async fn state_of(&self, unit: &str) -> Result<ForeignState, UnitError> {
        // Reads the definition when nobody has yet. Units that do not run are dropped from memory at any time.
        let path = match self.load(unit).await {
            Ok(path) => path,
            Err(zbus::Error::MethodError(_, text, _)) => {
                return Ok(ForeignState {
                    loaded: false,
                    active: "inactive".to_string(),
                    file: UnitFileState::Missing,
                    reason: text.unwrap_or_default(),
                });
            }
            Err(other) => return Err(UnitError::named(unit, other)),
        };
        let text = |name: &'static str| self.property_at::<String>(&path, UNIT, name);
        let Some((load, active)) = text("LoadState").await.zip(text("ActiveState").await) else {
            return Err(UnitError::named(unit, "systemd does not tell its state"));
        };
        let word = self.call("GetUnitFileState", &(unit,)).await;
        let word = word.and_then(|m| m.body().deserialize::<String>());
        let file = match word {
            Ok(word) => UnitFileState::from_word(&word),
            // Units without a file (made by a program, or by the kernel) are still units.
            Err(_) if load == "loaded" => UnitFileState::Other("transient".to_string()),
            Err(_) if load == "masked" => UnitFileState::Masked,
            Err(_) => UnitFileState::Missing,
        };
        let reason = match (load.as_str(), active.as_str()) {
            ("loaded", "failed") => self.reason(unit).await,
            ("loaded", _) => String::new(),
            ("not-found", _) => "the unit does not exist".to_string(),
            ("masked", _) => "the unit is masked".to_string(),
            (load, _) => {
                let error: Option<(String, String)> =
                    self.property_at(&path, UNIT, "LoadError").await;
                match error.filter(|(_, text)| !text.is_empty()) {
                    Some((_, text)) => format!("its definition cannot be used ({load}): {text}"),
                    None => format!("its definition cannot be used ({load})"),
                }
            }
        };
        Ok(ForeignState {
            loaded: load == "loaded",
            active,
            file,
            reason,
        })
    }

    /// A job that does not destroy others, as long as that makes sense.
    pub(super) async fn gently(&self, method: &str, unit: &str) -> Result<(), JobError> {
        for pause in PAUSES {
            match self.job(method, unit, "fail").await {
                Err(JobError::Refused(name, _))
                    if name.ends_with(".TransactionIsDestructive")
                        || name.ends_with(".TransactionJobsConflicting") =>
                {
                    tokio::time::sleep(pause).await;
                }
                other => return other,
            }
        }
        self.job(method, unit, "replace").await
    }

    /// Stops a unit. What went wrong in earlier attempts is forgotten when it rests at last.
    pub(super) async fn stop_patiently(&self, unit: &str) -> Result<(), JobError> {
        self.gently("StopUnit", unit).await?;
        let state: Option<String> = self.property(unit, UNIT, "ActiveState").await;
        if state.as_deref() == Some("failed") {
            let _ = self.call("ResetFailedUnit", &(unit,)).await;
        }
        Ok(())
    }

    /// Starts a unit. It is kept in memory until the result has been read.
    pub(super) async fn start_patiently(&self, unit: &str) -> Result<(), JobError> {
        let path = self.load(unit).await.map_err(|e| failed(text_of(e)))?;
        let reference = |method: &'static str| {
            self.connection
                .call_method(Some(SERVICE), &path, Some(UNIT), method, &())
        };
        let held = reference("Ref").await.is_ok();
        let result = self.start_held(unit, &path).await;
        if held {
            // Otherwise it ends with the connection.
            let _ = reference("Unref").await;
        }
        result
    }

    async fn start_held(&self, unit: &str, path: &OwnedObjectPath) -> Result<(), JobError> {
        let state: Option<String> = self.property_at(path, UNIT, "ActiveState").await;
        if state.as_deref() == Some("failed") {
            // Otherwise a start limit that was hit before would refuse this start too.
            let _ = self.call("ResetFailedUnit", &(unit,)).await;
        }
        self.gently("StartUnit", unit).await?;
        let state: Option<String> = self.property_at(path, UNIT, "ActiveState").await;
        let held: Option<bool> = self.property_at(path, UNIT, "ConditionResult").await;
        let tried: Option<u64> = self.property_at(path, UNIT, "ConditionTimestamp").await;
        if held != Some(false)
            || state.as_deref() != Some("inactive")
            || tried.is_none_or(|at| at == 0)
        {
            return Ok(());
        }
        let rows: Option<Vec<Condition>> = self.property_at(path, UNIT, "Conditions").await;
        let missing = rows
            .unwrap_or_default()
            .into_iter()
            .find(|(_, _, _, _, held)| *held < 0)
            .map(|(name, _, negated, value, _)| {
                format!("{name}={}{value}", if negated { "!" } else { "" })
            });
        Err(failed(format!(
            "not started, a condition does not hold: {}",
            missing.unwrap_or_else(|| "see systemctl status".to_string())
        )))
    }

    pub(super) async fn set_enabled_files(
        &self,
        units: &[String],
        on: bool,
    ) -> Result<(), UnitError> {
        let (run, kept): (Vec<&str>, Vec<&str>) = units
            .iter()
            .map(String::as_str)
            .partition(|u| Path::new(RUN_DIR).join(u).exists());
        let mut changed = false;
        for (list, until_reboot) in [(run, true), (kept, false)] {
            if list.is_empty() {
                continue;
            }
            let result = if on {
                self.call("EnableUnitFiles", &(&list, until_reboot, false))
                    .await
                    .and_then(|m| m.body().deserialize::<(bool, Vec<Change>)>())
                    .map(|(_, changes)| changes)
            } else {
                self.call("DisableUnitFiles", &(&list, until_reboot))
                    .await
                    .and_then(|m| m.body().deserialize::<Vec<Change>>())
            };
            changed |= !result
                .map_err(|e| UnitError::named(&list.join(", "), text_of(e)))?
                .is_empty();
        }
        if changed { self.reload().await } else { Ok(()) }
    }

    pub(super) async fn reload(&self) -> Result<(), UnitError> {
        self.call("Reload", &())
            .await
            .map(|_| ())
            .map_err(|e| UnitError::named("daemon-reload", text_of(e)))
    }
}

/// systemd's own words, without the name of the D-Bus error.
fn text_of(e: zbus::Error) -> String {
    match e {
        zbus::Error::MethodError(name, text, _) => text.unwrap_or_else(|| name.to_string()),
        other => other.to_string(),
    }
}
