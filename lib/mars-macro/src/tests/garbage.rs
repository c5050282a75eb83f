//! Damaged values make no macro panic, and nothing of them gets into the output (I12).
use super::*;
use mars_tree::{Key, Link, Stamp, Value};
use proptest::prelude::*;

fn is_clean(text: &str) -> bool {
    text.chars().all(|c| c == '\n' || !c.is_control())
}

/// Every macro answers, in lines of text; the JSON document keeps to its schema; each damaged link is told of once, in one line.
fn ask_everything(w: &World) {
    for name in primitive_names().into_iter().chain(predefined_names()) {
        if let Ok(text) = evaluate(name, &w.scope()) {
            assert!(is_clean(&text), "{name}: {text:?}");
        }
    }
    let _ = crate::report::host_report(&w.scope(), &w.snap.resources());
    assert_eq!(super::schema::check_all(w), Ok(()));
    for line in split_brain_lines(&w.scope().view, &w.res) {
        assert!(is_clean(&line) && !line.contains('\n'), "{line:?}");
    }
    let damaged = w.snap.damaged();
    let paths: std::collections::BTreeSet<&String> = damaged.iter().map(|(p, _)| p).collect();
    assert_eq!(paths.len(), damaged.len());
}

fn put(w: &mut World, key: &str, value: &[u8], stamp: u64) {
    // No link can have an empty value, or a NUL in it.
    if let Ok(value) = Value::new(value) {
        let stamp = Stamp::from_nanos(stamp);
        w.snap.links.insert(key.to_string(), Link { value, stamp });
    }
}

#[test]
fn the_keys_are_known_ones() {
    // A fuzz target numbers them with one byte.
    assert!(keys::all().len() < 256);
    for key in keys::all() {
        assert!(!matches!(Key::parse(&key), Key::Other(_)), "{key}");
        assert_eq!(Key::parse(&key).path(), key);
    }
}

#[test]
fn garbage_each_key_alone() {
    let values = keys::garbage();
    for (i, key) in keys::all().iter().enumerate() {
        // hostC is in no tree of the examples; it has its turn below.
        if key.contains("hostC") {
            continue;
        }
        for bad in [values[i % values.len()].as_slice(), b"/\x1b[2J\n"] {
            let mut w = worlds::syncing();
            put(&mut w, key, bad, u64::MAX);
            ask_everything(&w);
        }
    }
}

#[test]
fn garbage_everywhere_at_once() {
    for bad in keys::garbage() {
        for me in ["hostA", "hostC"] {
            let mut w = World::new(fixtures::split(), me);
            for key in keys::all() {
                put(&mut w, &key, &bad, 1);
            }
            ask_everything(&w);
        }
    }
}

/// A value of a wrong form is what an absent one is: the value in the table for an empty tree, wherever only one link decides.
#[test]
fn garbage_is_unknown() {
    let garbled = worlds::garbled();
    let mut without = worlds::steady();
    without.snap.links.retain(|k, _| k.starts_with("ips/"));
    without.snap.files.clear();
    // What stands there at all counts: who has a damaged disk link is still a member, a damaged position is no proof of anything.
    let presence = [
        "all-members",
        "all-resources",
        "count-all-members",
        "count-all-resources",
        "count-my-members",
        "count-my-resources",
        "count-resource-members",
        "count-resource-peers",
        "default",
        "default-resource",
        "is-member",
        "my-members",
        "my-resources",
        "nr-secondary",
        "occupied-size",
        "resource-members",
        "resource-peers",
        "status",
    ];
    for name in primitive_names().into_iter().chain(predefined_names()) {
        let is_message = name.contains("msg") || name.ends_with("-count") || name == "1and1";
        if presence.contains(&name) || is_message || name.starts_with("resource-errors") {
            continue;
        }
        assert_eq!(
            evaluate(name, &garbled.scope()),
            evaluate(name, &without.scope()),
            "{name}"
        );
    }
    // Messages are shown all the same, without what a terminal would obey.
    assert_eq!(
        garbled.view("the-inf-msg").lines().next(),
        Some("inf-fetch: wr?[31mong?")
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn garbage_in_any_key(
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>(), any::<u64>()), 1..200),
        texts in prop::collection::vec((any::<prop::sample::Index>(), prop::collection::vec(any::<u8>(), 1..60), any::<u64>()), 0..20),
        name in "\\PC{0,40}",
        args in prop::collection::vec("[-0-9a-zA-Z.]{0,24}", 0..5),
        me in 0..3usize,
    ) {
        let mut w = World::new(fixtures::split(), keys::HOSTS[me]);
        let (keys, values): (Vec<String>, Vec<Vec<u8>>) = (keys::all(), keys::garbage());
        for (key, value, stamp) in &changes {
            let (key, value): (&String, &Vec<u8>) = (key.get(&keys), value.get(&values));
            put(&mut w, key, value, *stamp);
        }
        for (key, value, stamp) in &texts {
            let key: &String = key.get(&keys);
            put(&mut w, key, value, *stamp);
        }
        w.args = args;
        ask_everything(&w);
        let _ = evaluate(&name, &w.scope());
    }
}
