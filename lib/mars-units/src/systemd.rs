//! The systemd of this host, over D-Bus.
use crate::{Manager, UnitError, UnitStatus};
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
/// Properties and lists are answered at once or not at all.
const CALL_LIMIT: Duration = Duration::from_secs(25);
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

    /// A property of a loaded unit; `None` when the unit or the property does not exist.
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
        let proxy: zbus::Proxy<'_> = zbus::proxy::Builder::new(&self.connection)
            .destination(SERVICE)
            .path(path)
            .interface(interface)
            .cache_properties(zbus::proxy::CacheProperties::No)
            .build()
            .await
            .ok()?;
        proxy.get_property::<T>(name).await.ok()
    }

    /// The unit's own reason: what it said last, and how it ended.
    async fn reason(&self, unit: &str) -> String {
        let mut parts = Vec::new();
        for (interface, name) in [(SERVICE_UNIT, "StatusText"), (SERVICE_UNIT, "Result")] {
            let text: Option<String> = self.property(unit, interface, name).await;
            parts.extend(text.filter(|t| !t.is_empty() && t != "success"));
        }
        if parts.is_empty() {
            parts.push("no reason given".to_string());
        }
        parts.join(", ")
    }

    /// Queues a job and waits until systemd has removed it.
    async fn job(&self, method: &str, unit: &str) -> Result<(), String> {
        let rule = MatchRule::builder()
            .msg_type(message::Type::Signal)
            .sender(SERVICE)
            .path(PATH)
            .interface(MANAGER)
            .member("JobRemoved")
            .build()
            .map_err(|e| e.to_string())?;
        // Listening starts before the job exists, so its end cannot be missed.
        let mut removed = MessageStream::for_match_rule(rule, &self.connection, None)
            .await
            .map_err(|e| e.to_string())?;
        let reply = match self.call(method, &(unit, "replace")).await {
            Ok(reply) => reply,
            Err(zbus::Error::MethodError(name, text, _)) => {
                // A unit that is not loaded does not run.
                if method == "StopUnit" && name.ends_with(".NoSuchUnit") {
                    return Ok(());
                }
                return Err(text.unwrap_or_else(|| name.to_string()));
            }
            Err(e) => return Err(e.to_string()),
        };
        let job: OwnedObjectPath = reply.body().deserialize().map_err(|e| e.to_string())?;
        while let Some(signal) = poll_fn(|cx| Pin::new(&mut removed).poll_next(cx)).await {
            let signal = signal.map_err(|e| e.to_string())?;
            let body = signal.body();
            let (_, path, _, result): (u32, OwnedObjectPath, String, String) =
                body.deserialize().map_err(|e| e.to_string())?;
            if path == job {
                return match result.as_str() {
                    "done" | "skipped" => Ok(()),
                    other => Err(format!("job {other}: {}", self.reason(unit).await)),
                };
            }
        }
        Err("the connection to systemd was closed".to_string())
    }

    fn run_job(&self, method: &str, unit: &str, limit: Duration) -> Result<(), UnitError> {
        let result = self.runtime.block_on(async {
            match tokio::time::timeout(limit, self.job(method, unit)).await {
                Ok(r) => r,
                Err(_) => Err(format!(
                    "{method} has not finished after {} s: {}",
                    limit.as_secs(),
                    self.reason(unit).await
                )),
            }
        });
        result.map_err(|reason| UnitError::Unit {
            unit: unit.to_string(),
            reason,
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
}
