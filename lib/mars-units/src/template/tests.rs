//! Whole plans over real directories.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::plan::{Planner, Request, keyword as keyword_of};
use super::*;
use std::fs;
use std::path::Path;
use std::time::Duration;

/// A small macro processor: `%{name}`, `%let{name}{text}`, `%subst{text}{from}{to}` with the first hit, `%die{}`.
#[derive(Default)]
pub(super) struct Toy {
    vars: BTreeMap<String, String>,
}

impl Toy {
    fn value(&mut self, text: &str) -> Result<String, String> {
        let mut out = String::new();
        let mut rest = text;
        while let Some(at) = rest.find('%') {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            let name_len = rest.find('{').ok_or("no brace")?;
            let name = &rest[..name_len];
            let mut args = Vec::new();
            rest = &rest[name_len..];
            while rest.starts_with('{') {
                let mut depth = 0;
                let end = rest
                    .char_indices()
                    .find(|(_, c)| {
                        depth += match c {
                            '{' => 1,
                            '}' => -1,
                            _ => 0,
                        };
                        depth == 0
                    })
                    .ok_or("unbalanced")?
                    .0;
                args.push(rest[1..end].to_string());
                rest = &rest[end + 1..];
            }
            match (name, args.as_slice()) {
                ("", [n]) => {
                    let n = self.value(n)?;
                    out.push_str(self.vars.get(&n).map_or("", String::as_str));
                }
                ("let", [n, v]) => {
                    let v = self.value(v)?;
                    self.vars.insert(n.clone(), v);
                }
                ("subst", [t, from, to]) => {
                    let t = self.value(t)?;
                    out.push_str(&t.replacen(from.as_str(), to, 1));
                }
                ("subst", [t, from, to, opts]) if opts == "g" => {
                    let t = self.value(t)?;
                    out.push_str(&t.replace(from.as_str(), to));
                }
                ("get-device", _) => {
                    let res = self.vars.get("res").map_or("", String::as_str);
                    out.push_str(&format!("/dev/mars/{res}"));
                }
                _ => return Err(format!("unknown macro {name}")),
            }
        }
        out.push_str(rest);
        Ok(out)
    }
}

impl Macros for Toy {
    fn begin(&mut self, res: Option<&str>) {
        self.vars = [
            ("res", res.unwrap_or_default()),
            ("host", "hostA"),
            ("mars", "/mars"),
            ("cmd", "systemd-trigger"),
        ]
        .map(|(n, v)| (n.to_string(), v.to_string()))
        .into();
    }
    fn eval(&mut self, text: &str) -> Result<String, String> {
        self.value(text)
    }
    fn var(&self, name: &str) -> Option<String> {
        self.vars.get(name).cloned()
    }
    fn set_var(&mut self, name: &str, value: &str) {
        self.vars.insert(name.into(), value.into());
    }
}

/// Directories of one test.
pub(super) struct Place {
    pub dir: tempfile::TempDir,
    pub env: TemplateEnv,
}

impl Place {
    pub fn new(templates: &[(&str, &str)]) -> Place {
        let dir = tempfile::tempdir().unwrap();
        let at = |p: &str| dir.path().join(p);
        for d in [
            "etc/systemd-templates",
            "lib/systemd-templates",
            "run",
            "usr",
        ] {
            fs::create_dir_all(at(d)).unwrap();
        }
        let show = |p: &Path| p.display().to_string();
        let env = TemplateEnv::from_vars(|k| match k {
            "MARS_PATH" => Some(format!("{}:{}", show(&at("etc")), show(&at("lib")))),
            "SYSTEMD_TARGET_DIR" => Some(show(&at("run"))),
            "ETC_MARSADM" => Some(show(&at("etc"))),
            "SYSTEMD_UNIT_PATH" => Some(format!("{}:{}", show(&at("usr")), show(&at("run")))),
            _ => None,
        })
        .unwrap();
        let place = Place { dir, env };
        for (name, text) in templates {
            place.template("lib", name, text);
        }
        place
    }
    pub fn path(&self, p: &str) -> PathBuf {
        self.dir.path().join(p)
    }
    pub fn template(&self, where_: &str, name: &str, text: &str) {
        fs::write(self.path(where_).join("systemd-templates").join(name), text).unwrap();
    }
    pub fn plan(&self, wanted: &[(&str, &str, &str)]) -> Generation {
        self.plan_as(wanted, true, false)
    }
    pub fn plan_as(&self, wanted: &[(&str, &str, &str)], full: bool, force: bool) -> Generation {
        let requests: Vec<Request> = wanted
            .iter()
            .map(|(res, start, stop)| Request {
                res: res.to_string(),
                units: [(*start, "start unit"), (*stop, "stop unit")]
                    .into_iter()
                    .filter(|(u, _)| !u.is_empty())
                    .map(|(u, what)| (u.to_string(), what))
                    .collect(),
            })
            .collect();
        let found = scan(&self.env);
        Planner::new(&self.env, &found, &mut Toy::default(), force).plan(&requests, full)
    }
    /// Plans and writes.
    pub fn apply(&self, wanted: &[(&str, &str, &str)]) -> (Generation, Vec<String>) {
        let plan = self.plan(wanted);
        let manager = Recorder::default();
        let out = carry_out(&self.env, &plan, &manager, Duration::from_secs(10));
        assert_eq!(out.errors, [""; 0]);
        (plan, manager.calls())
    }
    pub fn text(&self, unit: &str) -> String {
        fs::read_to_string(self.path("run").join(unit)).unwrap()
    }
    /// Without header.
    pub fn body(&self, unit: &str) -> String {
        let text = self.text(unit);
        let lines = text.lines().filter(|l| !l.starts_with("###"));
        lines.map(|l| format!("{l}\n")).collect()
    }
    pub fn generated(&self) -> Vec<String> {
        let mut names: Vec<String> = fs::read_dir(self.path("run"))
            .unwrap()
            .map(|e| e.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }
}

/// A unit manager that writes down what it is asked for.
#[derive(Default)]
pub(super) struct Recorder {
    calls: std::sync::Mutex<Vec<String>>,
    /// Units that cannot be stopped.
    pub busy: Vec<String>,
}

impl Recorder {
    fn call(&self, text: String) -> Result<(), crate::UnitError> {
        self.calls.lock().unwrap().push(text);
        Ok(())
    }
    pub fn calls(&self) -> Vec<String> {
        self.calls.lock().unwrap().clone()
    }
}

impl crate::Manager for Recorder {
    fn running(&self) -> Result<BTreeSet<mars_policy::Unit>, crate::UnitError> {
        Ok(BTreeSet::new())
    }
    fn status(&self, _: &mars_policy::Unit) -> Result<crate::UnitStatus, crate::UnitError> {
        Ok(crate::UnitStatus::Stopped)
    }
    fn start(&self, u: &mars_policy::Unit) -> Result<(), crate::UnitError> {
        self.call(format!("OWN start {u}"))
    }
    fn stop(&self, u: &mars_policy::Unit, _: Duration) -> Result<(), crate::UnitError> {
        self.call(format!("OWN stop {u}"))
    }
    fn enabled(&self) -> Result<bool, crate::UnitError> {
        Ok(true)
    }
    fn set_enabled(&self, _: bool) -> Result<(), crate::UnitError> {
        Ok(())
    }
    fn foreign_state(&self, _: &str) -> Result<crate::ForeignState, crate::UnitError> {
        Err(crate::UnitError::Manager("not asked".into()))
    }
    fn foreign_start(&self, u: &str, _: Duration) -> Result<(), crate::UnitError> {
        self.call(format!("start {u}"))
    }
    fn foreign_stop(&self, u: &str, _: Duration) -> Result<(), crate::UnitError> {
        if self.busy.iter().any(|b| b == u) {
            return Err(crate::UnitError::named(u, "busy"));
        }
        self.call(format!("stop {u}"))
    }
    fn enable(&self, u: &[String]) -> Result<(), crate::UnitError> {
        self.call(format!("enable {}", u.join(" ")))
    }
    fn disable(&self, u: &[String]) -> Result<(), crate::UnitError> {
        self.call(format!("disable {}", u.join(" ")))
    }
    fn reload_units(&self) -> Result<(), crate::UnitError> {
        self.call("reload".into())
    }
}

mod names;
mod packaged;
mod plans;
mod random;
mod removal;
