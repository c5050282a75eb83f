//! Answers to method calls, as far as they need nobody but the state.
use crate::describe::{Interface, Method, introspect};
use crate::model::{Object, State};
use crate::names::ROOT_PATH;
use crate::value::Value;
use std::collections::BTreeSet;

const PEER: &str = "org.freedesktop.DBus.Peer";
const INTROSPECTABLE: &str = "org.freedesktop.DBus.Introspectable";
pub(crate) const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
pub(crate) const OBJECT_MANAGER: &str = "org.freedesktop.DBus.ObjectManager";
/// Text of a caller that is repeated in an error is cut here.
const SHOW_MAX: usize = 80;

/// Arguments, by signature.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Args {
    /// None.
    None,
    /// `s`
    Text(String),
    /// `ss`
    Texts(String, String),
    /// `ssv`; the value does not matter, nothing can be set.
    Setting(String, String),
    /// `u`
    Number(u32),
    /// Anything else, or damaged: the signature.
    Other(String),
}

/// A method call.
#[derive(Clone, Debug)]
pub struct Call<'a> {
    /// Object.
    pub path: &'a str,
    /// Interface; may be missing.
    pub interface: Option<&'a str>,
    /// Method.
    pub member: &'a str,
    /// Arguments.
    pub args: Args,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Reply.
    Reply(Reply),
    /// Error name (without `org.freedesktop.DBus.Error.`) and text.
    Error(&'static str, String),
    /// A method of ours on this object, with its argument: ask who calls, then do it.
    Do(&'static str, Option<u32>),
}

/// Contents of a reply.
#[derive(Clone, Debug, PartialEq)]
pub enum Reply {
    /// Nothing.
    Nothing,
    /// `s`
    Text(String),
    /// The id of this machine.
    MachineId,
    /// `v`
    Value(Value),
    /// `a{sv}`: all values of the object.
    All,
    /// `a{oa{sa{sv}}}`: all objects below the manager.
    Managed,
}

fn show(text: &str) -> String {
    let mut short: String = text.chars().take(SHOW_MAX).collect();
    if short.len() < text.len() {
        short.push_str("...");
    }
    format!("{short:?}")
}

/// Looks at the state and nothing else.
pub fn answer(state: &State, call: &Call<'_>) -> Answer {
    let object = state.get(call.path);
    if object.is_none() && !is_on_the_way(state, call.path) {
        return Answer::Error("UnknownObject", format!("no object {}", show(call.path)));
    }
    let has = |name: &str| call.interface.is_none_or(|i| i == name);
    let member = call.member;
    let ours = object.filter(|o| has(o.interface.name));
    if let Some(method) = ours.and_then(|o| o.interface.method(member)) {
        return own_method(method, &call.args);
    }
    match member {
        "Ping" if has(PEER) => none(call, Reply::Nothing),
        "GetMachineId" if has(PEER) => none(call, Reply::MachineId),
        "Introspect" if has(INTROSPECTABLE) => {
            let xml = introspect(
                object.map(|o| o.interface),
                call.path == ROOT_PATH,
                children(state, call.path),
            );
            none(call, Reply::Text(xml))
        }
        "GetManagedObjects"
            if has(OBJECT_MANAGER) && object.is_some() && call.path == ROOT_PATH =>
        {
            none(call, Reply::Managed)
        }
        "Get" | "GetAll" | "Set" if has(PROPERTIES) => match object {
            Some(object) => properties(object, call),
            None => Answer::Error("UnknownObject", "no properties here".into()),
        },
        _ => unknown(object.map(|o| o.interface), call),
    }
}

fn unknown(own: Option<&Interface>, call: &Call<'_>) -> Answer {
    let known = [PEER, INTROSPECTABLE, PROPERTIES, OBJECT_MANAGER];
    match call.interface {
        Some(i) if !known.contains(&i) && own.is_none_or(|o| o.name != i) => {
            Answer::Error("UnknownInterface", format!("no interface {}", show(i)))
        }
        _ => Answer::Error("UnknownMethod", format!("no method {}", show(call.member))),
    }
}

fn invalid(call: &Call<'_>, want: &str) -> Answer {
    let got = match &call.args {
        Args::None => "",
        Args::Text(_) => "s",
        Args::Texts(..) => "ss",
        Args::Setting(..) => "ssv",
        Args::Number(_) => "u",
        Args::Other(signature) => signature,
    };
    let member = show(call.member);
    let (got, want) = (show(got), show(want));
    Answer::Error(
        "InvalidArgs",
        format!("{member} takes arguments {want}, not {got}"),
    )
}

fn none(call: &Call<'_>, reply: Reply) -> Answer {
    match call.args {
        Args::None => Answer::Reply(reply),
        _ => invalid(call, ""),
    }
}

fn own_method(method: &'static Method, args: &Args) -> Answer {
    match (method.arg, args) {
        (None, Args::None) => Answer::Do(method.name, None),
        (Some(_), Args::Number(n)) => Answer::Do(method.name, Some(*n)),
        (None, _) => Answer::Error("InvalidArgs", format!("{} takes no arguments", method.name)),
        (Some(arg), _) => Answer::Error(
            "InvalidArgs",
            format!("{} takes one argument u ({arg})", method.name),
        ),
    }
}

fn properties(object: &Object, call: &Call<'_>) -> Answer {
    let own = object.interface;
    let check = |interface: &str| {
        // The standard interfaces have no properties; an empty name means all.
        if interface == own.name || interface.is_empty() {
            Ok(())
        } else {
            Err(Answer::Error(
                "UnknownInterface",
                format!("no properties of {}", show(interface)),
            ))
        }
    };
    let no_property =
        |name: &str| Answer::Error("UnknownProperty", format!("no property {}", show(name)));
    match (call.member, &call.args) {
        ("Get", Args::Texts(interface, name)) => {
            match (check(interface), object.props.get(name.as_str())) {
                (Err(e), _) => e,
                (_, None) => no_property(name),
                (_, Some(value)) => Answer::Reply(Reply::Value(value.clone())),
            }
        }
        ("GetAll", Args::Text(interface)) => {
            check(interface).err().unwrap_or(Answer::Reply(Reply::All))
        }
        ("Set", Args::Setting(interface, name)) => match (check(interface), own.property(name)) {
            (Err(e), _) => e,
            (_, None) => no_property(name),
            (_, Some(_)) => {
                Answer::Error("PropertyReadOnly", format!("{} cannot be set", show(name)))
            }
        },
        ("Get", _) => invalid(call, "ss"),
        ("GetAll", _) => invalid(call, "s"),
        _ => invalid(call, "ssv"),
    }
}

/// Is the path above an object?
fn is_on_the_way(state: &State, path: &str) -> bool {
    state.keys().any(|k| below(k, path).is_some())
}

/// What follows `path/` in `key`.
fn below<'a>(key: &'a str, path: &str) -> Option<&'a str> {
    if path == "/" {
        return key.strip_prefix('/');
    }
    key.strip_prefix(path)?.strip_prefix('/')
}

fn children<'a>(state: &'a State, path: &str) -> BTreeSet<&'a str> {
    state
        .keys()
        .filter_map(|k| below(k, path)?.split('/').next())
        .collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::panic)]
    use super::*;
    use crate::interfaces::{HOST, LOGGER, MANAGER};
    use crate::model::props;
    use crate::value::Type;
    use proptest::prelude::*;

    fn state() -> State {
        let object = |interface: &'static Interface| Object {
            interface,
            props: props(interface, |name| {
                match interface.property(name).map(|p| p.ty) {
                    Some(Type::Text) => Value::text("x"),
                    _ => Value::U64(7),
                }
            }),
        };
        [
            (ROOT_PATH, &MANAGER),
            ("/org/storage/mars1/host/alpha", &HOST),
            ("/org/storage/mars1/logger/r", &LOGGER),
        ]
        .into_iter()
        .map(|(path, i)| (path.to_string(), object(i)))
        .collect()
    }

    fn ask(path: &str, interface: Option<&str>, member: &str, args: Args) -> Answer {
        let call = Call {
            path,
            interface,
            member,
            args,
        };
        answer(&state(), &call)
    }

    fn error(a: Answer) -> &'static str {
        match a {
            Answer::Error(name, text) => {
                assert!(text.len() < 400 && text.lines().count() == 1, "{text}");
                name
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn answers() {
        let host = "/org/storage/mars1/host/alpha";
        let get = |i: &str, p: &str| Args::Texts(i.into(), p.into());
        assert_eq!(
            ask(host, Some(PROPERTIES), "Get", get(HOST.name, "Name")),
            Answer::Reply(Reply::Value(Value::text("x")))
        );
        assert_eq!(
            ask(host, None, "GetAll", Args::Text(HOST.name.into())),
            Answer::Reply(Reply::All)
        );
        assert_eq!(
            ask(
                ROOT_PATH,
                Some(OBJECT_MANAGER),
                "GetManagedObjects",
                Args::None
            ),
            Answer::Reply(Reply::Managed)
        );
        let logger = "/org/storage/mars1/logger/r";
        assert_eq!(
            ask(logger, Some(LOGGER.name), "Freeze", Args::Number(30)),
            Answer::Do("Freeze", Some(30))
        );
        assert_eq!(
            ask(logger, None, "Thaw", Args::None),
            Answer::Do("Thaw", None)
        );
        // On the way to the objects one can look around, and nothing else.
        let Answer::Reply(Reply::Text(xml)) =
            ask("/org/storage/mars1/host", None, "Introspect", Args::None)
        else {
            panic!("no introspection");
        };
        assert!(
            xml.contains("<node name=\"alpha\"/>") && !xml.contains("Properties"),
            "{xml}"
        );
        let Answer::Reply(Reply::Text(xml)) = ask("/", None, "Introspect", Args::None) else {
            panic!("no introspection");
        };
        assert!(xml.contains("<node name=\"org\"/>"), "{xml}");
    }

    #[test]
    fn refusals() {
        let logger = "/org/storage/mars1/logger/r";
        let own = Some(LOGGER.name);
        for (answer, want) in [
            (
                ask("/org/storage/mars2", None, "Ping", Args::None),
                "UnknownObject",
            ),
            (
                ask("/org/stor", None, "Introspect", Args::None),
                "UnknownObject",
            ),
            (ask(logger, own, "Fly", Args::None), "UnknownMethod"),
            (
                ask(logger, Some("a.b"), "Thaw", Args::None),
                "UnknownInterface",
            ),
            (ask(logger, own, "Freeze", Args::None), "InvalidArgs"),
            (
                ask(logger, own, "Freeze", Args::Text("9".into())),
                "InvalidArgs",
            ),
            (ask(logger, own, "Thaw", Args::Number(1)), "InvalidArgs"),
            (
                ask(logger, None, "GetManagedObjects", Args::None),
                "UnknownMethod",
            ),
            (
                ask(logger, None, "Get", Args::Text("x".into())),
                "InvalidArgs",
            ),
            (
                ask(
                    logger,
                    None,
                    "Get",
                    Args::Texts(LOGGER.name.into(), "x".repeat(1 << 20)),
                ),
                "UnknownProperty",
            ),
            (
                ask(
                    logger,
                    None,
                    "Get",
                    Args::Texts("a.b".into(), "Openers".into()),
                ),
                "UnknownInterface",
            ),
            (
                ask(
                    logger,
                    None,
                    "Set",
                    Args::Setting(LOGGER.name.into(), "Openers".into()),
                ),
                "PropertyReadOnly",
            ),
            (
                ask(
                    "/org/storage/mars1/host",
                    None,
                    "GetAll",
                    Args::Text(String::new()),
                ),
                "UnknownObject",
            ),
            (
                ask(logger, None, "Introspect", Args::Other("h".into())),
                "InvalidArgs",
            ),
        ] {
            assert_eq!(error(answer), want);
        }
    }

    proptest! {
        #[test]
        fn anything_gets_an_answer(path in "(/[a-z0-9]{1,8}){1,4}|/org/storage/mars1", i in prop::option::of(".{0,20}"), member in "Get|Set|GetAll|.{0,10}", a in ".{0,10}", b in ".{0,10}") {
            for args in [Args::None, Args::Texts(a.clone(), b.clone()), Args::Setting(a.clone(), b.clone()), Args::Other(a.clone())] {
                let _ = ask(&path, i.as_deref(), &member, args);
            }
        }
    }
}
