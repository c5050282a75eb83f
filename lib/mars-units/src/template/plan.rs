//! From templates, instances and wanted units to steps. No I/O: everything comes from [`Scan`] and [`Macros`].
use super::marker::{capital_words, markers, owned_from, references, with_header};
use super::name::{Name, Pattern};
use super::scan::{Scan, Template};
use super::subst::Subst;
use super::{Generated, Generation, Macros, Op, Step, TemplateEnv};
use mars_policy::Unit;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, SystemTime};

/// Most units in one plan: references that make up ever longer names end here.
const UNITS_MAX: usize = 20_000;

/// Our own units are files of the package; no template may take their place.
const OWN: [&str; 11] = [
    "mars.target",
    "mars-cron.service",
    "mars-cron.timer",
    "mars-fetch.service",
    "mars-fetch.socket",
    "mars-meta.service",
    "mars-status.socket",
    "mars-sync.service",
    "mars-sync.socket",
    "mars-trigger.path",
    "mars-trigger.service",
];

fn is_own(unit: &str) -> bool {
    OWN.contains(&unit) || unit.parse::<Unit>().is_ok()
}

/// A resource with the names of its units; any name, so that rules for names are the caller's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Request {
    pub res: String,
    /// Names as configured, and what they are for.
    pub units: Vec<(String, &'static str)>,
}

/// A unit to look at.
struct Job {
    unit: String,
    res: Option<String>,
    /// Who asked for it; `None`: nobody needs to know when it is missing.
    asked_by: Option<String>,
}

/// A template that fits a unit.
struct Fit {
    template: usize,
    res: Option<String>,
    vars: Vec<(String, String)>,
}

pub(super) struct Planner<'a> {
    env: &'a TemplateEnv,
    scan: &'a Scan,
    macros: &'a mut dyn Macros,
    force: bool,
    names: Vec<Option<Name>>,
    resources: Vec<String>,
    /// Patterns of all templates (by number), by resource.
    patterns: BTreeMap<String, Vec<(usize, Pattern)>>,
    queue: VecDeque<Job>,
    seen: BTreeSet<String>,
    out: Generation,
}

impl<'a> Planner<'a> {
    pub fn new(
        env: &'a TemplateEnv,
        scan: &'a Scan,
        macros: &'a mut dyn Macros,
        force: bool,
    ) -> Planner<'a> {
        let mut out = Generation {
            warnings: scan.warnings.clone(),
            ..Generation::default()
        };
        let names = scan
            .templates
            .iter()
            .map(|t| match Name::parse(&t.name, env.syntax) {
                Ok(n) => Some(n),
                Err(e) => {
                    out.warn(format!("template {}: {e}", t.path.display()));
                    None
                }
            })
            .collect();
        Planner {
            env,
            scan,
            macros,
            force,
            names,
            resources: Vec::new(),
            patterns: BTreeMap::new(),
            queue: VecDeque::new(),
            seen: BTreeSet::new(),
            out,
        }
    }

    /// `full`: `requests` are all local resources.
    pub fn plan(mut self, requests: &[Request], full: bool) -> Generation {
        self.resources = requests.iter().map(|r| r.res.clone()).collect();
        // The longer name is tried first: `my-data` before `data`.
        self.resources.sort_by_key(|r| {
            let r: &String = r;
            (std::cmp::Reverse(r.len()), r.clone())
        });
        self.resources.dedup();
        self.ask_for_plain();
        for request in requests {
            self.ask_for(request);
        }
        while let Some(job) = self.queue.pop_front() {
            if self.seen.len() > UNITS_MAX {
                self.out.error(format!(
                    "more than {UNITS_MAX} units; units that refer to units without end?"
                ));
                // What was not reached must not be taken for unneeded.
                self.queue.clear();
                return self.finish(false);
            }
            self.visit(job);
        }
        self.finish(full)
    }

    fn push(&mut self, unit: String, res: Option<String>, asked_by: Option<String>) {
        if !self.seen.contains(&unit) {
            self.seen.insert(unit.clone());
            self.queue.push_back(Job {
                unit,
                res,
                asked_by,
            });
        }
    }

    fn ask_for_plain(&mut self) {
        for (i, name) in self.names.iter().enumerate() {
            let Some(t) = self.scan.templates.get(i) else {
                continue;
            };
            if !name.as_ref().is_some_and(|n| n.plain) {
                continue;
            }
            if let Err(why) = self.env.check_name(&t.name) {
                let path = shown(&t.path.to_string_lossy());
                self.out
                    .warn(format!("template {path} is no name of a unit: {why}"));
            } else {
                self.seen.insert(t.name.clone());
                self.queue.push_back(Job {
                    unit: t.name.clone(),
                    res: None,
                    asked_by: None,
                });
            }
        }
    }

    fn ask_for(&mut self, request: &Request) {
        let res = Some(request.res.clone());
        for (list, what) in &request.units {
            let mut words = 0;
            for unit in list.split_whitespace().take(100) {
                words += 1;
                let by = format!("{what} of resource {}", request.res);
                match self.env.check_name(unit) {
                    Ok(()) => self.push(unit.to_string(), res.clone(), Some(by)),
                    Err(why) => self
                        .out
                        .error(format!("{by}: {} is no name of a unit: {why}", shown(unit))),
                }
            }
            if words == 0 && !list.is_empty() {
                self.out
                    .error(format!("{what} of resource {} is empty", request.res));
            }
        }
        for watcher in &self.env.watchers {
            self.macros.begin(Some(&request.res));
            let mut ignored = Vec::new();
            let mut subst = Subst::new(
                self.env.syntax,
                self.macros,
                "SYSTEMD_WATCHER_UNITS",
                &mut ignored,
            );
            match subst.text(watcher) {
                Ok(unit) if self.env.check_name(&unit).is_ok() => {
                    if self.seen.insert(unit.clone()) {
                        self.queue.push_back(Job {
                            unit,
                            res: res.clone(),
                            asked_by: None,
                        });
                    }
                }
                Ok(unit) => self.out.warn(format!(
                    "SYSTEMD_WATCHER_UNITS: {} is no unit",
                    shown(&unit)
                )),
                Err(e) => self.out.warn(e),
            }
        }
    }

    fn visit(&mut self, job: Job) {
        let unit = job.unit.as_str();
        if self.env.predefined.contains(unit) || is_own(unit) {
            return;
        }
        let Some(fit) = self.find(unit, job.res.as_deref()) else {
            self.missing(&job);
            return;
        };
        let scan = self.scan;
        let Some(template) = scan.templates.get(fit.template) else {
            return;
        };
        if scan.taken.contains(unit) {
            self.out.warn(format!(
                "{unit} exists and was not generated; it is left alone, template {} is not used",
                template.path.display()
            ));
            return;
        }
        let script = unit.ends_with(".script");
        let dir = if script {
            &self.env.script_dir
        } else {
            &self.env.target_dir
        };
        let to = dir.join(unit);
        let existing = scan.instances.get(unit);
        let from = template
            .path
            .to_string_lossy()
            .replace(char::is_control, "?");
        let current = existing.filter(|e| {
            !self.force && e.mtime == template.mtime && owned_from(&e.text) == Some(from.as_str())
        });
        let rendered = match current {
            Some(e) => Ok(e.text.clone()),
            None => self.render(template, unit, &fit),
        };
        let (text, changed) = match rendered {
            Ok(text) => (text, current.is_none()),
            Err(e) => {
                self.out.error(format!("{unit} cannot be generated: {e}"));
                // What was generated before stays in use, and so does what it needs.
                match existing {
                    Some(e) => (e.text.clone(), false),
                    None => return,
                }
            }
        };
        let refs = references(self.env, unit, &text);
        let marks = markers(&text);
        if changed {
            let secs = template.mtime.duration_since(SystemTime::UNIX_EPOCH);
            let secs = secs.unwrap_or(Duration::ZERO).as_secs();
            let text = with_header(&text, &template.path, unit, &to, secs, &refs);
            // Forced, and nothing is different: systemd need not hear of it.
            if existing.is_none_or(|e| e.text != text || e.mtime != template.mtime) {
                self.out.installs.push(Step::Install {
                    unit: unit.to_string(),
                    to,
                    text,
                    mode: if script { 0o544 } else { 0o444 },
                    mtime: template.mtime,
                });
            }
        }
        for (name, warn) in &refs {
            let by = warn.then(|| unit.to_string());
            self.push(name.clone(), fit.res.clone(), by);
        }
        self.out.units.insert(
            unit.to_string(),
            Generated {
                template: template.path.clone(),
                res: fit.res,
                markers: marks,
                refs: refs.into_keys().collect(),
            },
        );
    }

    fn missing(&mut self, job: &Job) {
        let unit = job.unit.as_str();
        if self.scan.is_foreign(unit) || self.scan.taken.contains(unit) {
            return;
        }
        if let Some(by) = &job.asked_by
            && !self.resources.is_empty()
        {
            self.out.warn(format!(
                "{by}: there is neither a template for {unit} nor a unit of this name"
            ));
        }
    }

    /// The template for a unit: a plain one of this name, else one that fits for the resource, else one that fits for another resource.
    fn find(&mut self, unit: &str, res: Option<&str>) -> Option<Fit> {
        let plain = |(i, n): (usize, &Option<Name>)| {
            let is_it = n.as_ref().is_some_and(|n| n.plain)
                && self.scan.templates.get(i).is_some_and(|t| t.name == unit);
            is_it.then_some(i)
        };
        if let Some(template) = self.names.iter().enumerate().find_map(plain) {
            return Some(Fit {
                template,
                res: None,
                vars: Vec::new(),
            });
        }
        if let Some(fit) = res.and_then(|r| self.find_for(unit, r)) {
            return Some(fit);
        }
        let others: Vec<String> = self
            .resources
            .iter()
            .filter(|r| Some(r.as_str()) != res)
            .cloned()
            .collect();
        others.iter().find_map(|r| self.find_for(unit, r))
    }

    fn find_for(&mut self, unit: &str, res: &str) -> Option<Fit> {
        if !self.patterns.contains_key(res) {
            let all = self.patterns_for(res);
            self.patterns.insert(res.to_string(), all);
        }
        let patterns = self.patterns.get(res)?;
        let foreign = self.scan.is_foreign(unit);
        patterns
            .iter()
            .filter_map(|(i, p)| {
                // Matching could take the name of anything; what exists is meant then.
                if foreign && p.exact().is_none() {
                    return None;
                }
                Some((p.vagueness(), *i, p.matches(unit)?))
            })
            .min_by_key(|(vague, i, _)| (*vague, *i))
            .map(|(_, template, vars)| Fit {
                template,
                res: Some(res.to_string()),
                vars,
            })
    }

    fn patterns_for(&mut self, res: &str) -> Vec<(usize, Pattern)> {
        let mut all = Vec::with_capacity(self.names.len());
        let escaped = mars_policy::escape(res);
        for (i, (name, template)) in self.names.iter().zip(&self.scan.templates).enumerate() {
            let Some(name) = name.as_ref().filter(|n| !n.plain) else {
                continue;
            };
            let origin = template.path.display().to_string();
            let mut forms = vec![res];
            if escaped != res && name.has_plain_resource(self.env.syntax) {
                // In a unit name the resource is escaped, whichever way the template is written.
                forms.push(&escaped);
            }
            for form in forms {
                self.macros.begin(Some(res));
                self.macros.set_var("res", form);
                let mut warnings = Vec::new();
                let pattern =
                    name.instantiate(self.env.syntax, self.macros, &origin, &mut warnings);
                warnings.into_iter().for_each(|w| self.out.warn(w));
                match pattern {
                    Ok(p) => all.push((i, p)),
                    Err(e) => self.out.warn(e),
                }
            }
        }
        all
    }

    fn render(&mut self, template: &Template, unit: &str, fit: &Fit) -> Result<String, String> {
        self.macros.begin(fit.res.as_deref());
        for (name, value) in &fit.vars {
            self.macros.set_var(name, value);
        }
        let origin = template.path.display().to_string();
        if template.jinja {
            #[cfg(feature = "jinja")]
            return super::jinja::render(&template.text, &origin, self.macros);
            #[cfg(not(feature = "jinja"))]
            return Err(format!("{origin}: this build knows no *.j2"));
        }
        let mut warnings = Vec::new();
        let mut subst = Subst::new(self.env.syntax, self.macros, &origin, &mut warnings);
        let text = subst.text(&template.text);
        for w in warnings {
            self.out.warn(format!("{unit}: {w}"));
        }
        text
    }

    /// Sorts everything into commit order.
    fn finish(mut self, full: bool) -> Generation {
        let mut removed: Vec<&String> = Vec::new();
        if full && !self.scan.incomplete {
            let needless = |u: &&String| !self.seen.contains(*u);
            removed = self.scan.instances.keys().filter(needless).collect();
        }
        let removed = self.tips_first(&removed);
        let marks = |unit: &str| {
            let text = self.scan.instances.get(unit).map(|i| i.text.as_str());
            markers(text.unwrap_or_default())
        };
        let mut steps = Vec::new();
        for unit in removed.iter().filter(|u| !is_pattern(u)) {
            let m = marks(unit);
            if !m.always_disabled && !m.keep_running {
                steps.push(Step::Stop(unit.clone()));
            }
        }
        for unit in removed.iter().filter(|u| !is_pattern(u)) {
            steps.push(Step::Disable(unit.clone()));
        }
        for unit in &removed {
            if let Some(i) = self.scan.instances.get(unit) {
                steps.push(Step::Unlink {
                    unit: unit.clone(),
                    path: i.path.clone(),
                });
            }
        }
        let installs = std::mem::take(&mut self.out.installs);
        let new: Vec<String> = installs
            .iter()
            .filter_map(|s| match s {
                Step::Install { unit, .. } => Some(unit.clone()),
                _ => None,
            })
            .collect();
        let native = |u: &String| !u.ends_with(".script");
        let reload = removed.iter().chain(&new).any(native);
        steps.extend(installs);
        if reload {
            steps.push(Step::Reload);
        }
        let info = |u: &String| self.out.units.get(u);
        let enable: Vec<String> = new
            .iter()
            .filter(|u| native(u) && !is_pattern(u))
            .filter(|u| info(u).is_some_and(|g| !g.markers.always_disabled))
            .cloned()
            .collect();
        if !enable.is_empty() {
            steps.push(Step::Enable(enable));
        }
        self.out.keep_up = self
            .out
            .units
            .iter()
            .filter(|(u, g)| !is_pattern(u) && g.is_kept_up())
            .map(|(u, _)| u.clone())
            .collect();
        let start = new.iter().filter(|u| self.out.keep_up.contains(*u));
        steps.extend(start.map(|u| Step::Start(u.clone())));
        self.out.steps = steps;
        self.out
    }

    /// Units that refer to others come before them, as far as that is possible.
    fn tips_first(&self, units: &[&String]) -> Vec<String> {
        let refs: BTreeMap<&String, BTreeMap<String, bool>> = units
            .iter()
            .filter_map(|u| {
                let text = &self.scan.instances.get(*u)?.text;
                Some((*u, references(self.env, u, text)))
            })
            .collect();
        let mut left: BTreeSet<&String> = units.iter().copied().collect();
        let mut sorted = Vec::new();
        while !left.is_empty() {
            let used = |u: &String| {
                left.iter()
                    .any(|o| *o != u && refs.get(o).is_some_and(|r| r.contains_key(u)))
            };
            let mut free: Vec<&String> = left.iter().copied().filter(|u| !used(u)).collect();
            if free.is_empty() {
                // A circle: any order is as good.
                free = left.iter().copied().collect();
            }
            for u in free {
                left.remove(u);
                sorted.push(u.clone());
            }
        }
        sorted
    }
}

/// A template of systemd's own kind: `NAME@.service` can be neither started nor stopped.
fn is_pattern(unit: &str) -> bool {
    unit.contains("@.")
}

/// Default unit that a capital word stands for.
pub(super) fn keyword(
    env: &TemplateEnv,
    scan: &Scan,
    res: &str,
    word: &str,
    op: Op,
    macros: &mut dyn Macros,
) -> Option<String> {
    let suffix = match op {
        Op::Start => "START",
        Op::Stop => "STOP",
    };
    let wanted = format!("{word}_{suffix}");
    scan.templates.iter().find_map(|t| {
        if !capital_words(&t.text).any(|(w, _)| w == wanted) {
            return None;
        }
        let name = Name::parse(&t.name, env.syntax).ok()?;
        if name.has_wild() {
            return None;
        }
        macros.begin(Some(res));
        let origin = t.path.display().to_string();
        let pattern = name
            .instantiate(env.syntax, macros, &origin, &mut Vec::new())
            .ok()?;
        let unit = pattern.exact()?.to_string();
        env.check_name(&unit).is_ok().then_some(unit)
    })
}

/// A value from elsewhere, fit to be printed.
fn shown(text: &str) -> String {
    let short: String = text.chars().take(100).collect();
    format!("{short:?}")
}
