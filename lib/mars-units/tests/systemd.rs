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
    /// Calls of methods that need no answer of their own.
    calls: Vec<String>,
    /// So many jobs in mode `fail` are refused from now on.
    conflicts: u32,
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

#[derive(Debug, zbus::DBusError)]
#[zbus(prefix = "org.freedesktop.systemd1")]
enum Refused {
    #[zbus(error)]
    ZBus(zbus::Error),
    TransactionIsDestructive(String),
    Failed(String),
}

impl From<fdo::Error> for Refused {
    fn from(e: fdo::Error) -> Refused {
        Refused::Failed(e.to_string())
    }
}

impl Mock {
    fn note(&self, call: String) {
        self.0.lock().unwrap().calls.push(call);
    }
    /// Our own units replace conflicting jobs; foreign ones are patient first.
    fn mode(&self, unit: &str, mode: &str) -> Result<(), Refused> {
        let mut s = self.0.lock().unwrap();
        if unit.starts_with("mars") {
            assert_eq!(mode, "replace", "{unit}");
            return Ok(());
        }
        s.calls.push(format!("{mode} {unit}"));
        if mode == "fail" && s.conflicts > 0 {
            s.conflicts -= 1;
            return Err(Refused::TransactionIsDestructive("conflicts".into()));
        }
        Ok(())
    }
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
                ("tip.service", "active") if s.jobs == 1 => "dependency",
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
    ) -> Result<OwnedObjectPath, Refused> {
        self.mode(&name, &mode)?;
        if name == "mars-fetch.socket" {
            return Err(Refused::Failed("Unit mars-fetch.socket not found.".into()));
        }
        Ok(self.job(e, name, "active").await?)
    }
    async fn stop_unit(
        &self,
        #[zbus(signal_emitter)] e: SignalEmitter<'_>,
        name: String,
        mode: String,
    ) -> Result<OwnedObjectPath, Refused> {
        self.mode(&name, &mode)?;
        Ok(self.job(e, name, "inactive").await?)
    }
    fn load_unit(&self, name: String) -> OwnedObjectPath {
        assert!(!name.is_empty());
        unit_path()
    }
    fn get_unit_file_state(&self, name: String) -> fdo::Result<String> {
        match name.as_str() {
            "gone.service" => Err(fdo::Error::Failed("no such file".into())),
            "tip.service" => Ok("static".into()),
            _ => Ok("enabled-runtime".into()),
        }
    }
    fn reset_failed_unit(&self, name: String) {
        self.note(format!("reset {name}"));
    }
    fn enable_unit_files(
        &self,
        files: Vec<String>,
        runtime: bool,
        force: bool,
    ) -> (bool, Vec<(String, String, String)>) {
        self.note(format!("enable {files:?} {runtime} {force}"));
        (true, vec![("symlink".into(), "a".into(), "b".into())])
    }
    fn disable_unit_files(
        &self,
        files: Vec<String>,
        runtime: bool,
    ) -> Vec<(String, String, String)> {
        self.note(format!("disable {files:?} {runtime}"));
        Vec::new()
    }
    fn reload(&self) {
        self.note("reload".into());
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
    fn r#ref(&self) {
        self.0.note("hold".into());
    }
    fn unref(&self) {
        self.0.note("let go".into());
    }
    #[zbus(property)]
    fn load_state(&self) -> String {
        "loaded".into()
    }
    #[zbus(property)]
    fn requires(&self) -> Vec<String> {
        vec!["tip.service".into()]
    }
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

#[test]
fn foreign_units_are_patient_and_tell_their_reason() {
    let Some(bus) = Bus::start() else { return };
    let mock = Mock::default();
    let _serving = serve(&bus.address, mock.clone());
    let m = SystemdManager::connect_to(&bus.address).unwrap();
    let calls = || std::mem::take(&mut mock.0.lock().unwrap().calls);
    let limit = Duration::from_secs(60);

    // A failed dependency: its reason is the reason.
    mock.0
        .lock()
        .unwrap()
        .units
        .insert("tip.service".into(), "failed".into());
    let e = m
        .foreign_start("tip.service", limit)
        .unwrap_err()
        .to_string();
    assert!(
        e.contains("it needs tip.service failed: log 3 is damaged at 4096, exit-code"),
        "{e}"
    );
    assert_eq!(
        calls(),
        ["hold", "reset tip.service", "fail tip.service", "let go"]
    );

    // Conflicts with another job, twice; then for too long.
    mock.0.lock().unwrap().conflicts = 2;
    m.foreign_start("tip.service", limit).unwrap();
    let tries = calls().iter().filter(|c| *c == "fail tip.service").count();
    assert_eq!(tries, 3);
    mock.0.lock().unwrap().conflicts = 100;
    m.foreign_stop("tip.service", limit).unwrap();
    assert_eq!(calls().last().unwrap(), "replace tip.service");
    mock.0.lock().unwrap().conflicts = 0;

    let state = m.foreign_state("tip.service").unwrap();
    assert_eq!(state.file, mars_units::UnitFileState::Static);
    assert!(state.loaded && state.file.may_start(), "{state:?}");

    m.enable(&["no-such-unit.service".to_string()]).unwrap();
    m.disable(&["no-such-unit.service".to_string()]).unwrap();
    assert_eq!(
        calls(),
        [
            "enable [\"no-such-unit.service\"] false false",
            "reload",
            "disable [\"no-such-unit.service\"] false"
        ]
    );

    // Several threads at once, each hears of its own job.
    std::thread::scope(|s| {
        for i in 0..8 {
            let m = &m;
            s.spawn(move || {
                let unit = format!("x{i}.service");
                m.foreign_start(&unit, limit).unwrap();
                m.foreign_stop(&unit, limit).unwrap();
            });
        }
    });
    assert_eq!(mock.0.lock().unwrap().jobs, 3 + 16);
}
