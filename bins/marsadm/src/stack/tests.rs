//! The executor with a unit manager that only remembers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::supervise::Run;
use super::{Worker, holders_key, status_key};
use crate::cli::Options;
use crate::ctx::Ctx;
use mars_policy::Unit;
use mars_tree::{Batch, HostEnv, Key, ResName, Stamp, Tree};
use mars_units::template::TemplateEnv;
use mars_units::{ForeignState, Manager, UnitError, UnitFileState, UnitStatus};
use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Condvar, Mutex};
use std::time::Duration;

/// Something to do at the start of a unit.
type Hook = Box<dyn Fn(&str) + Send + Sync>;

#[derive(Default)]
struct Fake {
    /// Unit -> active state; units that are not here do not exist.
    units: Mutex<BTreeMap<String, &'static str>>,
    broken: BTreeSet<&'static str>,
    log: Mutex<Vec<String>>,
    at_work: Mutex<BTreeSet<String>>,
    hook: Option<Hook>,
}

impl Fake {
    fn new(units: &[(&str, &'static str)]) -> Fake {
        Fake {
            units: Mutex::new(units.iter().map(|(u, s)| ((*u).to_string(), *s)).collect()),
            ..Fake::default()
        }
    }
    fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.log.lock().unwrap())
    }
    fn job(&self, what: &str, unit: &str, end: &'static str) -> Result<(), UnitError> {
        assert!(
            self.at_work.lock().unwrap().insert(unit.to_string()),
            "two jobs for {unit} at once"
        );
        if let Some(hook) = &self.hook {
            hook(unit);
        }
        self.log.lock().unwrap().push(format!("{what} {unit}"));
        self.at_work.lock().unwrap().remove(unit);
        if self.broken.contains(unit) {
            return Err(UnitError::Unit {
                unit: unit.to_string(),
                reason: "job failed: target is busy, exit-code".into(),
            });
        }
        self.units.lock().unwrap().insert(unit.to_string(), end);
        Ok(())
    }
}

impl Manager for Fake {
    fn running(&self) -> Result<BTreeSet<Unit>, UnitError> {
        // All loggers, so that their devices are believed to be there.
        Ok(["a", "b", "c"].map(|r| Unit::Logger(res(r))).into())
    }
    fn status(&self, _: &Unit) -> Result<UnitStatus, UnitError> {
        Ok(UnitStatus::Stopped)
    }
    fn start(&self, _: &Unit) -> Result<(), UnitError> {
        Ok(())
    }
    fn stop(&self, _: &Unit, _: Duration) -> Result<(), UnitError> {
        Ok(())
    }
    fn enabled(&self) -> Result<bool, UnitError> {
        Ok(true)
    }
    fn set_enabled(&self, _: bool) -> Result<(), UnitError> {
        Ok(())
    }
    fn foreign_state(&self, unit: &str) -> Result<ForeignState, UnitError> {
        let state = self.units.lock().unwrap().get(unit).copied();
        Ok(ForeignState {
            loaded: state.is_some(),
            active: state.unwrap_or("inactive").into(),
            file: match (state, unit.starts_with("off")) {
                (None, _) => UnitFileState::Missing,
                (_, true) => UnitFileState::Disabled,
                _ => UnitFileState::Static,
            },
            reason: "the unit does not exist".into(),
        })
    }
    fn foreign_start(&self, unit: &str, _: Duration) -> Result<(), UnitError> {
        self.job("start", unit, "active")
    }
    fn foreign_stop(&self, unit: &str, _: Duration) -> Result<(), UnitError> {
        self.job("stop", unit, "inactive")
    }
    fn enable(&self, _: &[String]) -> Result<(), UnitError> {
        Ok(())
    }
    fn disable(&self, _: &[String]) -> Result<(), UnitError> {
        Ok(())
    }
    fn reload_units(&self) -> Result<(), UnitError> {
        Ok(())
    }
}

struct Place {
    _dir: tempfile::TempDir,
    env: HostEnv,
    tree: Tree,
    templates: TemplateEnv,
}

fn res(name: &str) -> ResName {
    name.parse().unwrap()
}

impl Place {
    fn new() -> Place {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("mars")).unwrap();
        let path = |n: &str| Some(dir.path().join(n).display().to_string());
        let env = HostEnv::from_vars(|k| match k {
            "MARS_ROOT" => path("mars"),
            "MARS_DEV_DIR" => path("dev"),
            "MARS_RUN_DIR" => path("run"),
            "MARS_ETC_DIR" => path("etc"),
            "MARS_HOST" => Some("alpha".into()),
            "MARS_UNIT_MANAGER" => Some("direct".into()),
            _ => None,
        })
        .unwrap();
        std::fs::create_dir_all(&env.run_dir).unwrap();
        Place {
            tree: Tree::open(&env).unwrap(),
            templates: TemplateEnv::from_vars(|_| None).unwrap(),
            env,
            _dir: dir,
        }
    }
    fn set(&self, links: &[(&str, &str)]) {
        let mut b = Batch::new();
        for (path, value) in links {
            b.set(Key::parse(path), value);
        }
        self.tree.commit(&b).unwrap();
    }
    /// alpha is primary of it, with its device there; the stack of units `tip-NAME.service` on `mnt-NAME.mount` is wanted at `want`.
    fn resource(&self, name: &str, want: &str) {
        for (key, value) in [
            ("data-alpha", "/dev/vg/x"),
            ("device-alpha", name),
            ("primary", "alpha"),
            ("todo-alpha/attach", "1"),
            ("actual-alpha/if-on", "1"),
            ("actual-alpha/open-count", "0"),
            ("systemd-start-unit", &format!("tip-{name}.service")),
            ("systemd-stop-unit", &format!("mnt-{name}.mount")),
            ("systemd-want", want),
        ] {
            self.set(&[(&format!("resource-{name}/{key}"), value)]);
        }
    }
    fn status(&self, name: &str, what: &str) -> Option<(String, Stamp)> {
        let link = self
            .tree
            .read(&status_key(&res(name), what, &self.env.host))
            .unwrap()?;
        Some((link.value.as_str()?.to_string(), link.stamp))
    }
    fn holders(&self, name: &str) -> Option<String> {
        self.tree
            .text(&holders_key(&res(name), &self.env.host))
            .unwrap()
    }
    fn work(&self, fake: &Fake, name: &str) -> (Vec<String>, Vec<String>) {
        let w = Worker {
            env: &self.env,
            templates: &self.templates,
            manager: fake,
            window: Duration::from_secs(60),
        };
        let out = w.work(&res(name));
        (out.done, out.errors)
    }
    fn ctx(&self) -> Ctx {
        Ctx {
            env: self.env.clone(),
            tree: Tree::open(&self.env).unwrap(),
            opts: Options::default(),
            me: self.env.host.clone(),
            unit_failed: Cell::new(false),
        }
    }
}

#[test]
fn start_is_idempotent_and_its_status_is_written_once() {
    let p = Place::new();
    p.resource("a", "alpha");
    let fake = Fake::new(&[("tip-a.service", "failed")]);
    assert_eq!(
        p.work(&fake, "a"),
        (vec!["started tip-a.service".to_string()], vec![])
    );
    assert_eq!(fake.log(), ["start tip-a.service"]);
    let first = p.status("a", "start");
    assert_eq!(first.as_ref().unwrap().0, "0");
    assert_eq!(p.work(&fake, "a"), (vec![], vec![]));
    assert_eq!(fake.log(), [""; 0]);
    assert_eq!(p.status("a", "start"), first, "written although unchanged");
}

#[test]
fn units_that_cannot_start_are_reported_with_the_reason() {
    let p = Place::new();
    p.resource("a", "alpha");
    let (done, errors) = p.work(&Fake::default(), "a");
    assert!(done.is_empty() && errors.len() == 1, "{errors:?}");
    assert!(
        errors[0].contains("tip-a.service") && errors[0].contains("does not exist"),
        "{errors:?}"
    );
    assert_eq!(p.status("a", "start").unwrap().0, "5");
    p.set(&[("resource-a/systemd-start-unit", "off.service")]);
    let fake = Fake::new(&[("off.service", "inactive")]);
    let (_, errors) = p.work(&fake, "a");
    assert!(errors[0].contains("is disabled"), "{errors:?}");
    assert_eq!(fake.log(), [""; 0]);
    p.set(&[("resource-a/systemd-start-unit", "x.service")]);
    let fake = Fake {
        broken: BTreeSet::from(["x.service"]),
        ..Fake::new(&[("x.service", "inactive")])
    };
    let (_, errors) = p.work(&fake, "a");
    assert!(errors[0].contains("target is busy"), "{errors:?}");
    assert_eq!(p.status("a", "start").unwrap().0, "1");
}

#[test]
fn who_holds_the_device_is_published_until_it_is_closed() {
    let p = Place::new();
    p.resource("a", "beta");
    p.set(&[("resource-a/actual-alpha/open-count", "1")]);
    let fake = Fake {
        broken: BTreeSet::from(["mnt-a.mount"]),
        ..Fake::new(&[("mnt-a.mount", "active")])
    };
    let (_, errors) = p.work(&fake, "a");
    assert_eq!(errors.len(), 2, "{errors:?}");
    assert_eq!(p.status("a", "stop").unwrap().0, "1");
    let text = p.holders("a").unwrap();
    assert!(
        text.contains("is open") && text.contains("target is busy"),
        "{text}"
    );
    // Stopped at last, but still open: somebody else.
    let fake = Fake::new(&[("mnt-a.mount", "active")]);
    p.work(&fake, "a");
    assert_eq!(p.status("a", "stop").unwrap().0, "0");
    assert!(!p.holders("a").unwrap().contains("busy"));
    p.set(&[("resource-a/actual-alpha/open-count", "0")]);
    assert_eq!(p.work(&fake, "a"), (vec![], vec![]));
    assert_eq!(p.holders("a"), None);
}

#[test]
fn two_at_once_start_it_once() {
    let p = Place::new();
    p.resource("a", "alpha");
    let fake = Fake {
        // Long enough for all others to come.
        hook: Some(Box::new(|_| std::thread::sleep(Duration::from_millis(200)))),
        ..Fake::new(&[("tip-a.service", "inactive")])
    };
    std::thread::scope(|s| {
        for _ in 0..8 {
            s.spawn(|| p.work(&fake, "a"));
        }
    });
    assert_eq!(fake.log(), ["start tip-a.service"]);
}

/// Counts up; waits for others to have done so.
#[derive(Default)]
struct Steps(Mutex<u32>, Condvar);

impl Steps {
    fn done(&self) {
        *self.0.lock().unwrap() += 1;
        self.1.notify_all();
    }
    fn wait_for(&self, n: u32) {
        let guard = self.0.lock().unwrap();
        let limit = Duration::from_secs(60);
        let (_g, r) = self
            .1
            .wait_timeout_while(guard, limit, |done| *done < n)
            .unwrap();
        assert!(
            !r.timed_out(),
            "the other resource was not served meanwhile"
        );
    }
}

#[test]
fn resources_run_in_parallel_and_news_is_taken_up_meanwhile() {
    let p = Place::new();
    for (name, want) in [("a", "alpha"), ("b", "alpha"), ("c", "alpha")] {
        p.resource(name, want);
    }
    p.set(&[("resource-c/systemd-want", "(none)")]);
    let steps = std::sync::Arc::new(Steps::default());
    let (at, env) = (steps.clone(), p.env.clone());
    let fake = Fake {
        hook: Some(Box::new(move |unit| match unit {
            // Ends only after the others; what follows comes while it is under way.
            "tip-a.service" => at.wait_for(2),
            "tip-b.service" => {
                let tree = Tree::open(&env).unwrap();
                let mut b = Batch::new();
                b.set(Key::parse("resource-c/systemd-want"), "alpha");
                tree.commit(&b).unwrap();
                env.request_reconcile().unwrap();
                at.done();
            }
            "tip-c.service" => at.done(),
            _ => {}
        })),
        ..Fake::new(&[
            ("tip-a.service", "inactive"),
            ("tip-b.service", "inactive"),
            ("tip-c.service", "inactive"),
            ("mnt-c.mount", "active"),
        ])
    };
    let ctx = p.ctx();
    let mut run = Run::new(&ctx, p.templates.clone(), &fake, None);
    run.until_quiet(Vec::new()).unwrap();
    // That the first one ended at all means that the others were served meanwhile.
    let mut log = fake.log();
    log.retain(|l| l.starts_with("start"));
    log.sort();
    assert_eq!(
        log,
        [
            "start tip-a.service",
            "start tip-b.service",
            "start tip-c.service"
        ]
    );
    assert_eq!(run.report().stack_errors, [""; 0]);
}

#[test]
fn one_failure_does_not_stop_the_rest_and_is_not_repeated_for_ever() {
    let p = Place::new();
    for name in ["a", "b", "c"] {
        p.resource(name, "alpha");
    }
    let fake = Fake {
        broken: BTreeSet::from(["tip-b.service"]),
        ..Fake::new(&[
            ("tip-a.service", "inactive"),
            ("tip-b.service", "inactive"),
            ("tip-c.service", "inactive"),
        ])
    };
    let ctx = p.ctx();
    let mut run = Run::new(&ctx, p.templates.clone(), &fake, None);
    run.until_quiet(Vec::new()).unwrap();
    let mut log = fake.log();
    log.sort();
    assert_eq!(
        log,
        [
            "start tip-a.service",
            "start tip-b.service",
            "start tip-c.service"
        ]
    );
    assert_eq!(run.report().stack_errors.len(), 1);
    // Only what was asked for.
    let fake = Fake::new(&[("tip-a.service", "inactive"), ("tip-b.service", "inactive")]);
    let only = [res("b")];
    Run::new(&ctx, p.templates.clone(), &fake, Some(&only))
        .until_quiet(Vec::new())
        .unwrap();
    assert_eq!(fake.log(), ["start tip-b.service"]);
}
