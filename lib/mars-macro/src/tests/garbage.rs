//! Damaged values make no macro panic (I12).
use super::*;
use mars_tree::{Link, Stamp, Value};
use proptest::prelude::*;

fn ask_everything(w: &World) {
    for name in primitive_names().into_iter().chain(predefined_names()) {
        let _ = evaluate(name, &w.scope());
    }
    assert_eq!(super::schema::check_all(w), Ok(()));
}

#[test]
fn garbage_each_key_alone() {
    for bad in [
        &b"x"[..],
        b"\xff\xfe",
        b"18446744073709551615",
        b"-9223372036854775808",
    ] {
        let snap = fixtures::syncing();
        for key in snap.links.keys() {
            let mut w = World::new(snap.clone(), "hostB");
            let value = Value::new(bad).unwrap();
            let stamp = Stamp::from_nanos(u64::MAX);
            w.snap.links.insert(key.clone(), Link { value, stamp });
            ask_everything(&w);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn garbage_in_any_key(
        changes in prop::collection::vec((any::<prop::sample::Index>(), "[ -~]{1,60}", any::<u64>()), 1..30),
        name in "\\PC{0,40}",
        args in prop::collection::vec("[-0-9a-zA-Z.]{0,24}", 0..5),
    ) {
        let mut w = World::new(fixtures::split(), "hostA");
        let keys: Vec<String> = w.snap.links.keys().cloned().collect();
        for (index, text, stamp) in &changes {
            let value = Value::new(text.as_bytes()).unwrap();
            let stamp = Stamp::from_nanos(*stamp);
            w.snap.links.insert(index.get(&keys).clone(), Link { value, stamp });
        }
        w.args = args;
        ask_everything(&w);
        let _ = evaluate(&name, &w.scope());
    }
}
