//! The documents against `docs/view.schema.json`, with a small checker of the keywords used there.
use super::schema_check::check;
use super::*;
use serde_json::Value;

fn schema() -> Value {
    serde_json::from_str(include_str!("../../../../docs/view.schema.json")).unwrap()
}

pub fn check_all(w: &World) -> Result<(), String> {
    let root = schema();
    let all = view_json_all(&w.scope(), std::slice::from_ref(&w.res));
    check(&root, &root, &all, "$")
}

#[test]
fn schema_fits_every_example() {
    for make in [fixtures::steady, fixtures::syncing, fixtures::split] {
        for me in ["hostA", "hostB", "hostC"] {
            assert_eq!(check_all(&World::new(make(), me)), Ok(()));
        }
    }
    assert_eq!(check_all(&World::new(Snapshot::default(), "hostA")), Ok(()));
}

#[test]
fn schema_checker_finds_differences() {
    let root = schema();
    let w = World::new(fixtures::steady(), "hostA");
    let good = view_json_all(&w.scope(), std::slice::from_ref(&w.res));
    let broken = |change: fn(&mut Value)| {
        let mut v = good.clone();
        change(&mut v);
        check(&root, &root, &v, "$").unwrap_err()
    };
    assert!(broken(|v| v["host"] = 1.into()).starts_with("$.host: integer"));
    assert!(
        broken(|v| v["resources"][0]["role"] = "Chief".into()).starts_with("$.resources[0].role")
    );
    assert!(
        broken(|v| drop(v["hosts"][1].as_object_mut().unwrap().remove("ip"))).contains("missing")
    );
    assert!(broken(|v| v["new"] = 1.into()).contains("unknown"));
    assert!(broken(|v| v["resources"][0]["sync"]["percent"] = 101.into()).contains("> 100"));
    assert!(broken(|v| v["resources"][0]["flags"] = "dCASF".into()).contains("short"));
}

#[test]
fn json_has_raw_bytes_and_the_words_of_view() {
    let w = World::new(fixtures::syncing(), "hostB");
    let v = view_json(&w.scope());
    assert_eq!(v["sync"]["pos_bytes"], 4_294_967_296u64);
    assert_eq!(v["sync"]["rate_bytes_per_second"], 104_857_600u64);
    assert_eq!(v["work"]["rest_bytes"], 524_288);
    assert_eq!(v["disk_state"], "InConsistent");
    assert_eq!(v["repl_state"], "Syncing");
    assert_eq!(v["flags"], "dcAsfr");
    assert_eq!(v["primary_node"], "hostA");
    assert_eq!(v["split_brain"], Value::Null);
    assert_eq!(v["messages"][0]["name"], "sync");
    let s = view_json(&World::new(fixtures::split(), "hostA").scope());
    assert_eq!(s["split_brain"][0]["after"], "log-000000002-hostA,524288");
    assert_eq!(s["split_brain"][0]["hosts"][1]["lost_bytes"], 8192);
    let scope = Scope {
        res: None,
        ..w.scope()
    };
    assert_eq!(view_json(&scope), Value::Null);
}
