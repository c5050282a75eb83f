//! Objects and their values at one moment, and what changed between two moments.
use crate::describe::Interface;
use crate::value::Value;
use std::collections::BTreeMap;

/// Name of a property -> value. Complete: every property of the interface is there.
pub type Props = BTreeMap<&'static str, Value>;

/// An object.
#[derive(Clone, Debug)]
pub struct Object {
    /// Its interface beside the standard ones.
    pub interface: &'static Interface,
    /// The values.
    pub props: Props,
}

impl PartialEq for Object {
    fn eq(&self, other: &Object) -> bool {
        self.interface.name == other.interface.name && self.props == other.props
    }
}

/// Path -> object.
pub type State = BTreeMap<String, Object>;

/// The values of an interface: `get` is asked for each property.
pub fn props(interface: &'static Interface, mut get: impl FnMut(&'static str) -> Value) -> Props {
    interface
        .properties
        .iter()
        .map(|p| (p.name, get(p.name)))
        .collect()
}

/// Something to tell.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// `InterfacesAdded`
    Added(String, Object),
    /// `InterfacesRemoved`: path and interface.
    Removed(String, &'static str),
    /// `PropertiesChanged`: path, interface, new values.
    Changed(String, &'static str, Props),
}

/// What has to be told so that somebody who knows `old` knows `new`, as far as properties tell their changes. Removals come first.
pub fn diff(old: &State, new: &State) -> Vec<Change> {
    let mut changes = Vec::new();
    for (path, object) in old {
        let is_same = new
            .get(path)
            .is_some_and(|n| n.interface.name == object.interface.name);
        if !is_same {
            changes.push(Change::Removed(path.clone(), object.interface.name));
        }
    }
    for (path, object) in new {
        let before = old
            .get(path)
            .filter(|o| o.interface.name == object.interface.name);
        let Some(before) = before else {
            changes.push(Change::Added(path.clone(), object.clone()));
            continue;
        };
        let interface = object.interface;
        let differs = |name: &str, value: &Value| {
            interface.property(name).is_some_and(|p| p.emits)
                && before.props.get(name) != Some(value)
        };
        let changed: Props = object
            .props
            .iter()
            .filter(|(name, value)| differs(name, value))
            .map(|(name, value)| (*name, value.clone()))
            .collect();
        if !changed.is_empty() {
            changes.push(Change::Changed(path.clone(), interface.name, changed));
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::interfaces::{HOST, RESOURCE};
    use crate::value::Type;
    use proptest::prelude::*;

    fn value(ty: Type, n: u64) -> Value {
        match ty {
            Type::Bool => Value::Bool(n % 2 == 1),
            Type::U64 => Value::U64(n),
            Type::I64 => Value::I64(n as i64),
            // NaN and both zeros among them.
            Type::F64 => Value::F64([0.0, -0.0, f64::NAN, 1.5][n as usize % 4]),
            Type::Text => Value::text(n.to_string()),
            Type::Texts => Value::Texts(vec![n.to_string(); n as usize % 3]),
            Type::Pairs => Value::Pairs(vec![(n.to_string(), String::new())]),
            Type::Messages => Value::Messages(Vec::new()),
            Type::Splits => Value::Splits(vec![(String::new(), vec![("a".into(), n)])]),
        }
    }

    fn state() -> impl Strategy<Value = State> {
        let object = (any::<bool>(), prop::collection::vec(0..3u64, 8)).prop_map(|(host, n)| {
            let interface = if host { &HOST } else { &RESOURCE };
            let mut i = 0;
            let props = props(interface, |name| {
                i += 1;
                let ty = interface.property(name).map_or(Type::Bool, |p| p.ty);
                value(ty, n[i % n.len()])
            });
            Object { interface, props }
        });
        prop::collection::btree_map("/[a-d]", object, 0..5)
    }

    /// What a listener knows after the changes.
    fn told(mut known: State, changes: &[Change]) -> State {
        for c in changes {
            match c {
                Change::Added(path, object) => {
                    assert!(known.insert(path.clone(), object.clone()).is_none());
                }
                Change::Removed(path, interface) => {
                    assert!(
                        known
                            .remove(path)
                            .is_some_and(|o| o.interface.name == *interface)
                    );
                }
                Change::Changed(path, interface, props) => {
                    assert!(!props.is_empty());
                    for (name, v) in props {
                        let object = known
                            .get_mut(path)
                            .filter(|o| o.interface.name == *interface);
                        let before = object.and_then(|o| o.props.insert(name, v.clone()));
                        assert_ne!(before.as_ref(), Some(v), "{name} did not change");
                    }
                }
            }
        }
        known
    }

    fn telling(mut state: State) -> State {
        for o in state.values_mut() {
            let interface = o.interface;
            o.props
                .retain(|name, _| interface.property(name).is_some_and(|p| p.emits));
        }
        state
    }

    proptest! {
        #[test]
        fn who_listens_knows_the_new_state(old in state(), new in state()) {
            let changes = diff(&old, &new);
            prop_assert_eq!(telling(told(old.clone(), &changes)), telling(new.clone()));
            // One message for each object at most, two when it became another kind of object.
            prop_assert!(changes.len() <= old.len() + new.len());
        }

        #[test]
        fn nothing_is_told_when_nothing_changed(state in state()) {
            prop_assert_eq!(diff(&state, &state.clone()), Vec::new());
        }
    }
}
