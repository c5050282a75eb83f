//! `view-NAME`: the language over the facts of one resource.
use crate::ctx::Memo;
use crate::lang::{LangError, Limits, Run, Source, World};
use crate::names::{find, unknown};
use crate::predefined::predefined;
use crate::primitive::primitive_with;
use crate::{MacroError, Scope};
use std::collections::BTreeMap;
use std::rc::Rc;

/// What only the program can do for a macro: files of the user, clock, links, waiting.
pub trait Outside {
    /// A macro file of the user, `NAME.tpl` in the search path.
    fn file(&mut self, name: &str) -> Option<Rc<Source>>;
    /// A macro of the program's own (`wait-is-primary-on`, `known-device-mounted`, …). `None`: no such macro.
    fn extra(&mut self, name: &str, args: &[String]) -> Option<Result<String, String>>;
    /// To stderr, as it is.
    fn tell(&mut self, text: &str);
    /// See [`World::pause`].
    fn pause(&mut self, seconds: f64, limited: bool) -> Result<(), String>;
    /// Target of a symlink.
    fn read_link(&mut self, path: &str) -> Option<String>;
    /// Makes a symlink.
    fn set_link(&mut self, value: &str, path: &str) -> Result<(), String>;
    /// Existing paths.
    fn glob(&mut self, pattern: &str) -> Result<Vec<String>, String>;
}

/// Nothing outside: predefined and primitive macros only.
#[derive(Debug, Default)]
pub struct NoOutside;

impl Outside for NoOutside {
    fn file(&mut self, _: &str) -> Option<Rc<Source>> {
        None
    }
    fn extra(&mut self, _: &str, _: &[String]) -> Option<Result<String, String>> {
        None
    }
    fn tell(&mut self, _: &str) {}
    fn pause(&mut self, _: f64, _: bool) -> Result<(), String> {
        Err("pauses are not possible here".into())
    }
    fn read_link(&mut self, _: &str) -> Option<String> {
        None
    }
    fn set_link(&mut self, _: &str, _: &str) -> Result<(), String> {
        Err("links cannot be set here".into())
    }
    fn glob(&mut self, _: &str) -> Result<Vec<String>, String> {
        Ok(Vec::new())
    }
}

/// The language's world: the facts in `scope` and what is outside.
struct Facts<'a, 'o> {
    scope: Scope<'a>,
    memo: &'o Memo,
    outside: &'o mut dyn Outside,
    /// Sources asked for before; `None`: there is none.
    known: BTreeMap<String, Option<Rc<Source>>>,
}

impl World for Facts<'_, '_> {
    fn source(&mut self, name: &str) -> Option<Rc<Source>> {
        if let Some(source) = self.known.get(name) {
            return source.clone();
        }
        let found = self.outside.file(name).or_else(|| predefined(name));
        self.known.insert(name.to_string(), found.clone());
        found
    }
    fn primitive(&mut self, name: &str, args: &[String]) -> Option<Result<String, String>> {
        if find(name).is_none() {
            return self.outside.extra(name, args);
        }
        let scope = Scope { args, ..self.scope };
        Some(primitive_with(name, &scope, self.memo).map_err(|e| e.to_string()))
    }
    fn tell(&mut self, text: &str) {
        self.outside.tell(text);
    }
    fn pause(&mut self, seconds: f64, limited: bool) -> Result<(), String> {
        self.outside.pause(seconds, limited)
    }
    fn read_link(&mut self, path: &str) -> Option<String> {
        self.outside.read_link(path)
    }
    fn set_link(&mut self, value: &str, path: &str) -> Result<(), String> {
        self.outside.set_link(value, path)
    }
    fn glob(&mut self, pattern: &str) -> Result<Vec<String>, String> {
        self.outside.glob(pattern)
    }
}

/// Predefined variables that only the program knows (`cmd`, `ip`, `timeout`, `force`, …), as name and value.
pub type Variables = Vec<(String, String)>;

fn variables(scope: &Scope<'_>, more: &Variables) -> Variables {
    let me = scope.view.me.to_string();
    let root = match scope.machine.root.as_str() {
        "" => "/mars",
        root => root,
    };
    let res = scope.res.map(ToString::to_string).unwrap_or_default();
    let resdir = if res.is_empty() {
        String::new()
    } else {
        format!("{root}/resource-{res}")
    };
    let mut all: Variables = [
        ("mars", root.to_string()),
        ("host", me),
        ("real_host", scope.view.local.to_string()),
        ("resdir", resdir),
        ("res", res),
        ("threshold", scope.threshold.to_string()),
        ("window", scope.view.window.as_secs().to_string()),
        ("verbose", scope.verbose.to_string()),
        // Of options that the program may know better.
        ("stuck-seconds", "3600".to_string()),
        ("keep-backup-hours", "168".to_string()),
        ("keep-backup-seconds", "604800".to_string()),
    ]
    .map(|(n, v)| (n.to_string(), v))
    .into();
    all.extend(more.iter().cloned());
    all
}

/// Evaluates `view-NAME` with the arguments of `scope`. Nothing is added to the result.
///
/// # Errors
/// [`MacroError::Unknown`], [`MacroError::NeedsResource`] and [`MacroError::Argument`] for the macro named on the command line;
/// [`MacroError::Language`] for what goes wrong inside.
pub fn evaluate_with(
    name: &str,
    scope: &Scope<'_>,
    more: &Variables,
    outside: &mut dyn Outside,
) -> Result<String, MacroError> {
    evaluate_memo(name, scope, more, outside, &Memo::default())
}

/// The same; `memo` belongs to resource and host of the scope.
pub(crate) fn evaluate_memo(
    name: &str,
    scope: &Scope<'_>,
    more: &Variables,
    outside: &mut dyn Outside,
    memo: &Memo,
) -> Result<String, MacroError> {
    let mut facts = Facts {
        scope: *scope,
        memo,
        outside,
        known: BTreeMap::new(),
    };
    let is_written = !name.starts_with("primitive") && facts.source(name).is_some();
    if is_written && scope.res.is_none() && needs_resource(name) {
        return Err(MacroError::NeedsResource(name.to_string()));
    }
    if !is_written && find(name).is_some() {
        return primitive_with(name, scope, memo);
    }
    let mut run = Run::new(&mut facts, variables(scope, more), Limits::default());
    match run.view(name, scope.args) {
        Some(result) => result.map_err(MacroError::Language),
        None => Err(unknown(name)),
    }
}

/// Evaluates a text given on the command line (`--macro=`) in place of macro `name`.
pub fn evaluate_text(
    text: &str,
    name: &str,
    scope: &Scope<'_>,
    more: &Variables,
    outside: &mut dyn Outside,
) -> Result<String, MacroError> {
    let source = Source::option("--macro", text);
    let mut facts = Facts {
        scope: *scope,
        memo: &Memo::default(),
        outside,
        known: BTreeMap::new(),
    };
    let mut run = Run::new(&mut facts, variables(scope, more), Limits::default());
    run.text(&source, name, scope.args)
        .map_err(MacroError::Language)
}

/// Variables that outlive an evaluation: unit templates set them in one place and use them in another.
#[derive(Clone, Debug, Default)]
pub struct Session {
    vars: BTreeMap<String, String>,
}

impl Session {
    /// Only the predefined variables.
    pub fn new(scope: &Scope<'_>, more: &Variables) -> Session {
        Session {
            vars: variables(scope, more).into_iter().collect(),
        }
    }
    /// Value; `None` when it is not defined.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.vars.get(name).map(String::as_str)
    }
    /// Defines a variable.
    pub fn set(&mut self, name: &str, value: &str) {
        self.vars.insert(name.to_string(), value.to_string());
    }
    /// Evaluates a text; what it sets stays.
    pub fn eval(
        &mut self,
        text: &str,
        origin: &str,
        scope: &Scope<'_>,
        limits: Limits,
        outside: &mut dyn Outside,
    ) -> Result<String, MacroError> {
        let source = Source::option(origin, text);
        let mut facts = Facts {
            scope: *scope,
            memo: &Memo::default(),
            outside,
            known: BTreeMap::new(),
        };
        let mut run = Run::new(&mut facts, std::mem::take(&mut self.vars), limits);
        let result = run.text(&source, origin, scope.args);
        self.vars = run.into_variables();
        result.map_err(MacroError::Language)
    }
}

/// Predefined macros that say nothing without a resource.
fn needs_resource(name: &str) -> bool {
    let global = [
        "amount",
        "comminfo",
        "default-global",
        "default-header",
        "default-footer",
        "1and1",
    ];
    predefined(name).is_some() && !global.contains(&name)
}

impl From<LangError> for MacroError {
    fn from(e: LangError) -> MacroError {
        MacroError::Language(e)
    }
}
