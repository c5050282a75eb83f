//! The systemd of this host, over D-Bus.
mod foreign;

use crate::{ForeignState, Manager, UnitError, UnitStatus};
use futures_core::Stream;
use mars_policy::Unit;
use std::collections::BTreeSet;
use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use zbus::{Connection, MatchRule, Message, MessageStream, OwnedObjectPath, message};

const SERVICE: &str = "org.freedesktop.systemd1";
const PATH: &str = "/org/freedesktop/systemd1";
const MANAGER: &str = "org.freedesktop.systemd1.Manager";
const UNIT: &str = "org.freedesktop.systemd1.Unit";
const SERVICE_UNIT: &str = "org.freedesktop.systemd1.Service";
/// While this is active the daemons of this host may run.
const TARGET: &str = "mars.target";
/// `Type=notify` units are ready after recovery, which may take long. systemd has its own limit; this one only ends the wait.
const START_LIMIT: Duration = Duration::from_secs(600);
/// Properties and lists are answered at once, unless systemd is just reading all its unit files again.
const CALL_LIMIT: Duration = Duration::from_secs(90);
/// States of a unit that runs or is about to.
const ALIVE: [&str; 3] = ["active", "activating", "reloading"];

/// One row of `ListUnitsByPatterns`: name, description, load state, active state, sub state, followed unit, path, job.
type Listed = (
    String,
    String,
    String,
    String,
    String,
    String,
    OwnedObjectPath,
    u32,
    String,
    OwnedObjectPath,
);

/// Talks to `org.freedesktop.systemd1`; waits for job results.
///
/// The streams of signals live only as long as one operation: a stream that nobody drains would stop the whole connection.
#[derive(Debug)]
pub struct SystemdManager {
    runtime: Runtime,
    connection: Connection,
}

/// Why a job was not done.
#[derive(Debug)]
enum JobError {
    /// systemd would not even queue it: name of the D-Bus error, text.
    Refused(String, String),
    /// It ended badly; the reason.
    Failed(String),
}

fn failed(e: impl std::fmt::Display) -> JobError {
    JobError::Failed(e.to_string())
}

fn manager_error(e: impl std::fmt::Display) -> UnitError {
    UnitError::Manager(e.to_string())
}

impl SystemdManager {
    /// Connects to the system bus.
    pub fn connect() -> Result<SystemdManager, UnitError> {
        Self::build(zbus::connection::Builder::system())
    }

    /// Connects to the bus at a D-Bus address (tests).
    pub fn connect_to(address: &str) -> Result<SystemdManager, UnitError> {
        Self::build(zbus::connection::Builder::address(address))
    }

    fn build(builder: zbus::connection::Builder) -> Result<SystemdManager, UnitError> {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(manager_error)?;
        let connection = runtime
            .block_on(async {
                let connection = builder.method_timeout(CALL_LIMIT).build().await?;
                // Without this systemd sends no JobRemoved.
                connection
                    .call_method(Some(SERVICE), PATH, Some(MANAGER), "Subscribe", &())
                    .await?;
                zbus::Result::Ok(connection)
            })
            .map_err(|e| manager_error(format!("systemd cannot be reached over D-Bus: {e}")))?;
        Ok(SystemdManager {
            runtime,
            connection,
        })
    }

    async fn call<B>(&self, method: &str, body: &B) -> zbus::Result<Message>
    where
        B: serde::Serialize + zbus::DynamicType,
    {
        self.connection
            .call_method(Some(SERVICE), PATH, Some(MANAGER), method, body)
            .await
    }

    /// A property of a unit that systemd has in memory; `None` when the unit or the property does not exist.
    async fn property<T>(&self, unit: &str, interface: &str, name: &str) -> Option<T>
    where
        T: serde::de::DeserializeOwned + zbus::Type,
    {
        let path: OwnedObjectPath = self
            .call("GetUnit", &(unit,))
            .await
            .ok()?
            .body()
            .deserialize()
            .ok()?;
        self.property_at(&path, interface, name).await
    }

    /// The same by the unit's object; systemd reads the unit for it when it has dropped it from memory.
    async fn property_at<T>(&self, path: &OwnedObjectPath, interface: &str, name: &str) -> Option<T>
    where
        T: serde::de::DeserializeOwned + zbus::Type,
    {
        let proxy: zbus::Proxy<'_> = zbus::proxy::Builder::new(&self.connection)
            .destination(SERVICE)
            .path(path.clone())
            .interface(interface)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await
            .ok()?;
        proxy.get_property::<T>(name).await.ok()
    }

    /// Queues a job and waits until systemd has removed it.
    async fn job(&self, method: &str, unit: &str, mode: &str) -> Result<(), JobError> {
        let rule = MatchRule::builder()
            .msg_type(message::Type::Signal)
            .sender(SERVICE)
            .path(PATH)
            .interface(MANAGER)
            .member("JobRemoved")
            .build()
            .map_err(failed)?;
        // Listening starts before the job exists, so its end cannot be missed.
        let mut removed = MessageStream::for_match_rule(rule, &self.connection, None)
            .await
            .map_err(failed)?;
        let reply = match self.call(method, &(unit, mode)).await {
            Ok(reply) => reply,
            Err(zbus::Error::MethodError(name, text, _)) => {
                // A unit that is not loaded does not run.
                if method == "StopUnit" && name.ends_with(".NoSuchUnit") {
                    return Ok(());
                }
                let text = text.unwrap_or_else(|| name.to_string());
                return Err(JobError::Refused(name.to_string(), text));
            }
            Err(e) => return Err(failed(e)),
        };
        let job: OwnedObjectPath = reply.body().deserialize().map_err(failed)?;
        while let Some(signal) = poll_fn(|cx| Pin::new(&mut removed).poll_next(cx)).await {
            let signal = signal.map_err(failed)?;
            let body = signal.body();
            let (_, path, _, result): (u32, OwnedObjectPath, String, String) =
                body.deserialize().map_err(failed)?;
            if path == job {
                return match result.as_str() {
                    "done" | "skipped" => Ok(()),
                    other => Err(JobError::Failed(self.job_failure(unit, other).await)),
                };
            }
        }
        Err(failed("the connection to systemd was closed"))
    }

    fn run_job(&self, method: &str, unit: &str, limit: Duration) -> Result<(), UnitError> {
        self.limited(method, unit, limit, self.job(method, unit, "replace"))
    }

    /// Runs something about one unit to its end, at most so long.
    fn limited(
        &self,
        what: &str,
        unit: &str,
        limit: Duration,
        job: impl Future<Output = Result<(), JobError>>,
    ) -> Result<(), UnitError> {
        let result = self.runtime.block_on(async {
            match tokio::time::timeout(limit, job).await {
                Ok(r) => r,
                Err(_) => Err(JobError::Failed(format!(
                    "{what} has not finished after {} s: {}",
                    limit.as_secs(),
                    self.reason(unit).await
                ))),
            }
        });
        result.map_err(|e| match e {
            JobError::Refused(_, reason) | JobError::Failed(reason) => {
                UnitError::named(unit, reason)
            }
        })
    }
}

impl Manager for SystemdManager {
    fn running(&self) -> Result<BTreeSet<Unit>, UnitError> {
        let listed: Vec<Listed> = self
            .runtime
            .block_on(async {
                self.call("ListUnitsByPatterns", &(&ALIVE[..], &["mars-*"][..]))
                    .await?
                    .body()
                    .deserialize()
            })
            .map_err(manager_error)?;
        Ok(listed
            .into_iter()
            .filter_map(|row| row.0.parse().ok())
            .collect())
    }

    fn status(&self, unit: &Unit) -> Result<UnitStatus, UnitError> {
        let name = unit.to_string();
        self.runtime.block_on(async {
            let state: Option<String> = self.property(&name, UNIT, "ActiveState").await;
            match state.as_deref() {
                Some(s) if ALIVE.contains(&s) => {
                    let pid: Option<u32> = self.property(&name, SERVICE_UNIT, "MainPID").await;
                    let pid = pid.and_then(|p| i32::try_from(p).ok()).unwrap_or(0);
                    Ok(UnitStatus::Running(pid))
                }
                Some("failed") => Ok(UnitStatus::Failed(self.reason(&name).await)),
                _ => Ok(UnitStatus::Stopped),
            }
        })
    }

    fn start(&self, unit: &Unit) -> Result<(), UnitError> {
        self.run_job("StartUnit", &unit.to_string(), START_LIMIT)
    }

    fn stop(&self, unit: &Unit, timeout: Duration) -> Result<(), UnitError> {
        self.run_job("StopUnit", &unit.to_string(), timeout)
    }

    fn enabled(&self) -> Result<bool, UnitError> {
        let state: Option<String> =
            self.runtime
                .block_on(self.property(TARGET, UNIT, "ActiveState"));
        Ok(state.is_some_and(|s| ALIVE.contains(&s.as_str())))
    }

    fn set_enabled(&self, on: bool) -> Result<(), UnitError> {
        let method = if on { "StartUnit" } else { "StopUnit" };
        self.run_job(method, TARGET, START_LIMIT)
    }

    fn foreign_state(&self, unit: &str) -> Result<ForeignState, UnitError> {
        self.runtime.block_on(self.state_of(unit))
    }

    fn foreign_start(&self, unit: &str, limit: Duration) -> Result<(), UnitError> {
        self.limited("start", unit, limit, self.start_patiently(unit))
    }

    fn foreign_stop(&self, unit: &str, limit: Duration) -> Result<(), UnitError> {
        self.limited("stop", unit, limit, self.stop_patiently(unit))
    }

    fn enable(&self, units: &[String]) -> Result<(), UnitError> {
        self.runtime.block_on(self.set_enabled_files(units, true))
    }

    fn disable(&self, units: &[String]) -> Result<(), UnitError> {
        self.runtime.block_on(self.set_enabled_files(units, false))
    }

    fn reload_units(&self) -> Result<(), UnitError> {
        self.runtime.block_on(self.reload())
    }
}
