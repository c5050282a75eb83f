//! The documents against `docs/view.schema.json`, with a small checker of the keywords used there.
use super::*;
use serde_json::Value;

fn schema() -> Value {
    serde_json::from_str(include_str!("../../../../docs/view.schema.json")).unwrap()
}

/// Complains with the path of the first difference. Unknown fields are errors here, so that none goes undocumented.
fn check(root: &Value, schema: &Value, value: &Value, path: &str) -> Result<(), String> {
    if let Some(r) = schema.get("$ref").and_then(Value::as_str) {
        let target = root.pointer(r.strip_prefix('#').unwrap()).unwrap();
        return check(root, target, value, path);
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_u64() || n.is_i64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let allowed = match &schema["type"] {
        Value::Array(a) => a.iter().filter_map(Value::as_str).collect(),
        Value::String(s) => vec![s.as_str()],
        _ => return Err(format!("{path}: schema without type")),
    };
    let number = kind == "integer" && allowed.contains(&"number");
    if !number && !allowed.contains(&kind) {
        return Err(format!("{path}: {kind}, wanted {allowed:?}"));
    }
    if let Some(e) = schema.get("enum").and_then(Value::as_array)
        && !e.contains(value)
    {
        return Err(format!("{path}: {value} is not in {e:?}"));
    }
    let n = value.as_f64();
    if let (Some(n), Some(min)) = (n, schema.get("minimum").and_then(Value::as_f64))
        && n < min
    {
        return Err(format!("{path}: {n} < {min}"));
    }
    if let (Some(n), Some(max)) = (n, schema.get("maximum").and_then(Value::as_f64))
        && n > max
    {
        return Err(format!("{path}: {n} > {max}"));
    }
    if let (Some(s), Some(len)) = (value.as_str(), schema.get("minLength"))
        && (s.len() as u64) < len.as_u64().unwrap()
    {
        return Err(format!("{path}: too short"));
    }
    if let (Some(s), Some(len)) = (value.as_str(), schema.get("maxLength"))
        && (s.len() as u64) > len.as_u64().unwrap()
    {
        return Err(format!("{path}: too long"));
    }
    if let Some(fields) = value.as_object() {
        let known = schema["properties"].as_object().unwrap();
        for name in schema["required"].as_array().unwrap() {
            if !fields.contains_key(name.as_str().unwrap()) {
                return Err(format!("{path}: {name} is missing"));
            }
        }
        for (name, v) in fields {
            let s = known
                .get(name)
                .ok_or(format!("{path}: {name} is unknown"))?;
            check(root, s, v, &format!("{path}.{name}"))?;
        }
    }
    for (i, v) in value.as_array().into_iter().flatten().enumerate() {
        check(root, &schema["items"], v, &format!("{path}[{i}]"))?;
    }
    Ok(())
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
