//! A checker for the part of JSON Schema that `docs/view.schema.json` uses. Tests of `marsadm` include this file, too.
#![allow(clippy::unwrap_used)]
use serde_json::Value;

/// Keywords that are checked, and those that say nothing about a value.
const KEYWORDS: &[&str] = &[
    "$defs",
    "$ref",
    "$schema",
    "description",
    "enum",
    "items",
    "maxLength",
    "maximum",
    "minLength",
    "minimum",
    "properties",
    "required",
    "title",
    "type",
];

/// Complains with the path of the first difference. Unknown fields are errors here, so that none goes undocumented; so are keywords
/// in the schema that are not checked.
pub fn check(root: &Value, schema: &Value, value: &Value, path: &str) -> Result<(), String> {
    for keyword in schema.as_object().unwrap().keys() {
        if !KEYWORDS.contains(&keyword.as_str()) {
            return Err(format!(
                "{path}: schema says {keyword:?}, which nobody checks"
            ));
        }
    }
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
