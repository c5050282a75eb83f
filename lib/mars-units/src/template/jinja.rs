//! Templates in the Jinja language (`*.j2`), rendered by minijinja with our variables and filters.
//!
//! minijinja is under Apache-2.0, which goes with version 3 of the GPL only: the feature `jinja` can be left out (docs/dependencies.md).
//!
//! Filters must outlive their template, what answers them does not: so the template is rendered in a thread of its own, and asks this one.
//! Bounded in work, depth and output. Undefined variables are errors, unless they are asked about or given a default.
use super::Macros;
use super::subst::OUTPUT_MAX;
use mars_policy::{escape, escape_path};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Object, Value};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};
use std::io::{self, Write};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};

/// Instructions of one template.
const FUEL: u64 = 1_000_000;
const DEPTH: usize = 64;

#[derive(Debug)]
enum Ask {
    Macro(String),
    Variable(String),
}

type Answer = Result<Option<String>, String>;

/// The asking end.
#[derive(Debug)]
struct Client(Mutex<(SyncSender<Ask>, Receiver<Answer>)>);

impl Client {
    fn ask(&self, what: Ask) -> Answer {
        let ends = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let gone = || "nobody answers any more".to_string();
        ends.0.send(what).map_err(|_| gone())?;
        ends.1.recv().map_err(|_| gone())?
    }

    fn variable(&self, name: &str) -> Option<Value> {
        let found = self.ask(Ask::Variable(name.to_string())).ok().flatten()?;
        Some(Value::from(found))
    }
}

/// What a template finds by name.
#[derive(Debug)]
struct Variables(Arc<Client>);

impl Object for Variables {
    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.0.variable(key.as_str()?)
    }
}

/// Output, bounded.
#[derive(Default)]
struct Out(Vec<u8>);

impl Write for Out {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if self.0.len() + buf.len() > OUTPUT_MAX {
            let what = format!("more than {OUTPUT_MAX} bytes of output");
            return Err(io::Error::other(what));
        }
        self.0.extend_from_slice(buf);
        Ok(buf.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn invalid(text: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, text.into())
}

fn environment(client: &Arc<Client>) -> Result<Environment<'static>, Error> {
    let mut env = Environment::new();
    env.set_syntax(
        SyntaxConfig::builder()
            .keep_trailing_newline(true)
            .build()?,
    );
    env.set_undefined_behavior(UndefinedBehavior::Strict);
    env.set_recursion_limit(DEPTH);
    env.set_fuel(Some(FUEL));
    env.add_filter("systemd_escape", |text: String, kwargs: Kwargs| {
        let as_path = kwargs.get::<Option<bool>>("path")?.unwrap_or(true);
        kwargs.assert_all_used()?;
        if as_path {
            escape_path(&text)
                .ok_or_else(|| invalid(format!("{text:?} is no path that can be escaped")))
        } else {
            Ok(escape(&text))
        }
    });
    let asked = Arc::clone(client);
    env.add_filter("macro", move |text: String| {
        let answer = asked.ask(Ask::Macro(text)).map_err(invalid)?;
        Ok::<_, Error>(answer.unwrap_or_default())
    });
    let asked = Arc::clone(client);
    env.add_function("var", move |name: String| {
        asked
            .variable(&name)
            .ok_or_else(|| invalid(format!("{name:?} is not defined")))
    });
    Ok(env)
}

fn run(text: &str, origin: &str, client: Client) -> Result<String, String> {
    let client = Arc::new(client);
    let told = |e: &Error| {
        let line = e.line().unwrap_or(1);
        let mut what = e.to_string().replace(char::is_control, " ");
        // The last of the causes says what it is.
        let mut cause = std::error::Error::source(e);
        while let Some(c) = cause {
            what = c.to_string().replace(char::is_control, " ");
            cause = c.source();
        }
        format!("{origin}:{line}: {what}")
    };
    let mut env = environment(&client).map_err(|e| told(&e))?;
    env.add_template("t", text).map_err(|e| told(&e))?;
    let mut out = Out::default();
    env.get_template("t")
        .and_then(|t| {
            t.render_captured_to(Value::from_object(Variables(client)), &mut out)
                .map(drop)
        })
        .map_err(|e| told(&e))?;
    String::from_utf8(out.0).map_err(|e| format!("{origin}: {e}"))
}

/// Renders a template; errors name file and line.
pub(super) fn render(text: &str, origin: &str, macros: &mut dyn Macros) -> Result<String, String> {
    let (ask, asked) = sync_channel(0);
    let (answer, answered) = sync_channel(1);
    std::thread::scope(|s| {
        let client = Client(Mutex::new((ask, answered)));
        let thread = std::thread::Builder::new()
            .name("template".into())
            .spawn_scoped(s, move || run(text, origin, client))
            .map_err(|e| format!("{origin}: {e}"))?;
        // Ends when the template has ended and the asking end is dropped.
        for what in asked {
            let found = match what {
                Ask::Macro(text) => macros.eval(&text).map(Some),
                // Control characters become blanks: a value must not become lines of a unit file.
                Ask::Variable(name) => {
                    Ok(macros.var(&name).map(|v| v.replace(char::is_control, " ")))
                }
            };
            if answer.send(found).is_err() {
                break;
            }
        }
        match thread.join() {
            Ok(result) => result,
            Err(_) => Err(format!("{origin}: the template engine failed")),
        }
    })
}

#[cfg(test)]
#[path = "jinja_tests.rs"]
mod tests;
