//! The systemd manager against a mock of `org.freedesktop.systemd1.Manager` on a private bus.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use mars_policy::Unit;
use mars_units::{Manager, SystemdManager, UnitStatus};
use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::Duration;
use zbus::object_server::SignalEmitter;
use zbus::{OwnedObjectPath, fdo, interface};

/// A private bus; gone with the value.
struct Bus {
    daemon: Child,
    address: String,
}

impl Bus {
    fn start() -> Option<Bus> {
        let daemon = Command::new("dbus-daemon")
            .args(["--session", "--nofork", "--print-address=1"])
            .stdout(Stdio::piped())
            .spawn();
        let mut daemon = match daemon {
            Ok(d) => d,
            Err(e) => {
                assert!(
                    std::env::var_os("CI").is_none_or(|v| v.is_empty()),
                    "dbus-daemon is missing: {e}"
                );
                eprintln!("SKIPPED systemd manager: dbus-daemon: {e}");
                return None;
            }
        };
        let mut address = String::new();
        BufReader::new(daemon.stdout.take().unwrap())
            .read_line(&mut address)
            .unwrap();
        Some(Bus {
            daemon,
            address: address.trim().to_string(),
        })
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

#[derive(Default)]
struct State {
    /// Unit -> active state.
    units: BTreeMap<String, String>,
    jobs: u32,
    subscribed: bool,
}

#[derive(Clone, Default)]
struct Mock(Arc<Mutex<State>>);

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

fn unit_path() -> OwnedObjectPath {
    OwnedObjectPath::try_from("/org/freedesktop/systemd1/unit/one").unwrap()
}

impl Mock {
    async fn job(
        &self,
        emitter: SignalEmitter<'_>,
        unit: String,
        end: &str,
    ) -> fdo::Result<OwnedObjectPath> {
        let (id, result) = {
            let mut s = self.0.lock().unwrap();
            assert!(s.subscribed, "no Subscribe before the first job");
            s.jobs += 1;
            let result = match (unit.as_str(), end) {
                ("mars-replay@bad.service", "active") => "failed",
                ("mars-replay@slow.service", "inactive") => "",
                _ => "done",
            };
            let state = if result == "done" { end } else { "failed" };
            s.units.insert(unit.clone(), state.to_string());
            (s.jobs, result)
        };
        let path = |n: u32| {
            OwnedObjectPath::try_from(format!("/org/freedesktop/systemd1/job/{n}")).unwrap()
        };
        // A foreign job in between must not be taken for ours.
        Mock::job_removed(
            &emitter,
            id + 1000,
            path(id + 1000),
            "other.service".into(),
            "failed".into(),
        )
        .await?;
        if !result.is_empty() {
            Mock::job_removed(&emitter, id, path(id), unit, result.into()).await?;
        }
        Ok(path(id))
    }
}

#[interface(name = "org.freedesktop.systemd1.Manager")]
impl Mock {
    fn subscribe(&self) {
        self.0.lock().unwrap().subscribed = true;
    }
    async fn start_unit(
        &self,
        #[zbus(signal_emitter)] e: SignalEmitter<'_>,
        name: String,
        mode: String,
    ) -> fdo::Result<OwnedObjectPath> {
        assert_eq!(mode, "replace");
        if name == "mars-fetch.socket" {
            return Err(fdo::Error::Failed(
                "Unit mars-fetch.socket not found.".into(),
            ));
        }
        self.job(e, name, "active").await
    }
    async fn stop_unit(
        &self,
        #[zbus(signal_emitter)] e: SignalEmitter<'_>,
        name: String,
        mode: String,
    ) -> fdo::Result<OwnedObjectPath> {
        assert_eq!(mode, "replace");
        self.job(e, name, "inactive").await
    }
    fn get_unit(&self, name: String) -> fdo::Result<OwnedObjectPath> {
        let known = self.0.lock().unwrap().units.contains_key(&name);
        if known {
            Ok(unit_path())
        } else {
            Err(fdo::Error::Failed("not loaded".into()))
        }
    }
    fn list_units_by_patterns(&self, states: Vec<String>, patterns: Vec<String>) -> Vec<Listed> {
        assert_eq!(patterns, ["mars-*"]);
        let s = self.0.lock().unwrap();
        s.units
            .iter()
            .filter(|(_, state)| states.contains(state))
            .map(|(name, state)| {
                let none = String::new;
                (
                    name.clone(),
                    none(),
                    "loaded".into(),
                    state.clone(),
                    none(),
                    none(),
                    unit_path(),
                    0,
                    none(),
                    unit_path(),
                )
            })
            .collect()
    }
    #[zbus(signal)]
    async fn job_removed(
        e: &SignalEmitter<'_>,
        id: u32,
        job: OwnedObjectPath,
        unit: String,
        result: String,
    ) -> zbus::Result<()>;
}

/// The unit object: one for all, it shows the last state that was set.
struct UnitObject(Mock);

#[interface(name = "org.freedesktop.systemd1.Unit")]
impl UnitObject {
    #[zbus(property)]
    fn active_state(&self) -> String {
        let s = self.0.0.lock().unwrap();
        s.units
            .get("mars.target")
            .or_else(|| s.units.values().next())
            .cloned()
            .unwrap_or_default()
    }
}

struct ServiceObject;

#[interface(name = "org.freedesktop.systemd1.Service")]
impl ServiceObject {
    #[zbus(property)]
    fn status_text(&self) -> String {
        "log 3 is damaged at 4096".into()
    }
    #[zbus(property)]
    fn result(&self) -> String {
        "exit-code".into()
    }
    #[zbus(property, name = "MainPID")]
    fn main_pid(&self) -> u32 {
        4711
    }
}

/// Serves the mock from a thread of its own until the sender is dropped.
fn serve(address: &str, mock: Mock) -> tokio::sync::oneshot::Sender<()> {
    let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
    let (ready, is_ready) = mpsc::channel();
    let address = address.to_string();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let _connection = zbus::connection::Builder::address(address.as_str())
                .serve_at("/org/freedesktop/systemd1", mock.clone())
                .serve_at(unit_path(), UnitObject(mock))
                .serve_at(unit_path(), ServiceObject)
                .name("org.freedesktop.systemd1")
                .build()
                .await
                .unwrap();
            ready.send(()).unwrap();
            let _ = stopped.await;
        });
    });
    is_ready.recv().unwrap();
    stop
}

#[test]
fn systemd_manager_waits_for_its_own_jobs() {
    let Some(bus) = Bus::start() else { return };
    let mock = Mock::default();
    let _serving = serve(&bus.address, mock.clone());
    let m = SystemdManager::connect_to(&bus.address).unwrap();
    let res = |n: &str| n.parse::<mars_tree::ResName>().unwrap();

    assert!(!m.enabled().unwrap());
    m.set_enabled(true).unwrap();
    assert!(m.enabled().unwrap());

    let logger = Unit::Logger(res("lv-0"));
    m.start(&logger).unwrap();
    m.start(&Unit::Meta).unwrap();
    assert_eq!(
        m.running().unwrap(),
        BTreeSet::from([logger.clone(), Unit::Meta])
    );
    assert!(
        mock.0
            .lock()
            .unwrap()
            .units
            .contains_key("mars-logger@lv\\x2d0.service")
    );
    assert_eq!(m.status(&logger).unwrap(), UnitStatus::Running(4711));
    m.stop(&logger, Duration::from_secs(60)).unwrap();
    assert_eq!(m.running().unwrap(), BTreeSet::from([Unit::Meta]));

    // A job that fails: the unit's own reason.
    let e = m.start(&Unit::Replay(res("bad"))).unwrap_err().to_string();
    assert!(e.contains("mars-replay@bad.service"), "{e}");
    assert!(
        e.contains("failed") && e.contains("log 3 is damaged at 4096") && e.contains("exit-code"),
        "{e}"
    );

    // A job that never ends.
    let slow = Unit::Replay(res("slow"));
    m.start(&slow).unwrap();
    let e = m
        .stop(&slow, Duration::from_millis(1))
        .unwrap_err()
        .to_string();
    assert!(e.contains("has not finished"), "{e}");

    // A call that systemd refuses.
    let e = m.start(&Unit::FetchServe).unwrap_err().to_string();
    assert!(e.contains("not found"), "{e}");

    m.set_enabled(false).unwrap();
    assert!(!m.enabled().unwrap());
}

#[test]
fn systemd_manager_without_systemd_says_so() {
    let Some(bus) = Bus::start() else { return };
    let e = SystemdManager::connect_to(&bus.address)
        .unwrap_err()
        .to_string();
    assert!(e.contains("systemd cannot be reached"), "{e}");
}
