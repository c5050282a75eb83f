//! From what `view` shows to properties.
use mars_bus::interfaces::{HOST, MANAGER, RESOURCE, UNKNOWN};
use mars_bus::{Interface, Object, ROOT_PATH, State, Type, Value, props};
use mars_macro::{Scope, view_json, view_json_all};
use mars_policy::View;
use mars_tree::{HostEnv, HostName, Key, Snapshot, Stamp};
use serde_json::Value as Json;
use std::time::Duration;

/// As `marsadm view` without options.
const WINDOW: Duration = Duration::from_secs(60);
const THRESHOLD: u64 = 10 << 20;
const GIB: u64 = 1 << 30;

/// Property of a resource -> where it is in `view --json`.
pub(super) const OF_RESOURCE: &[(&str, &str)] = &[
    ("Name", "/resource"),
    ("Host", "/host"),
    ("Members", "/members"),
    ("IsMember", "/is_member"),
    ("SizeBytes", "/size_bytes"),
    ("DiskState", "/disk_state"),
    ("DiskError", "/disk_error"),
    ("ReplState", "/repl_state"),
    ("Flags", "/flags"),
    ("Role", "/role"),
    ("TodoRole", "/todo_role"),
    ("PrimaryNode", "/primary_node"),
    ("ActualPrimaries", "/actual_primaries"),
    ("PrimaryAgeSeconds", "/primary_age_seconds"),
    ("ReplayCode", "/replay_code"),
    ("Consistent", "/consistency/consistent"),
    ("SyncReached", "/consistency/sync_reached"),
    ("Clean", "/consistency/clean"),
    ("ReplayReached", "/consistency/replay_reached"),
    ("TodoAttach", "/switches/attach"),
    ("TodoSync", "/switches/sync"),
    ("TodoFetch", "/switches/fetch"),
    ("TodoReplay", "/switches/replay"),
    ("IsAttached", "/actual/attach"),
    ("IsSyncing", "/actual/sync"),
    ("IsFetching", "/actual/fetch"),
    ("IsReplaying", "/actual/replay"),
    ("IsPrimary", "/actual/primary"),
    ("HasEmergency", "/actual/emergency"),
    ("DiskPath", "/disk/path"),
    ("DiskPresent", "/disk/present"),
    ("DiskSizeBytes", "/disk/size_bytes"),
    ("DevicePath", "/device/path"),
    ("DevicePresent", "/device/present"),
    ("OpenCount", "/device/open_count"),
    ("OpsPerSecond", "/device/ops_per_second"),
    ("Flying", "/device/flying"),
    ("DeviceError", "/device/error"),
    ("LogBaseNumber", "/logs/base_number"),
    ("LogReplayNumber", "/logs/replay_number"),
    ("LogFetchNumber", "/logs/fetch_number"),
    ("LogWorkNumber", "/logs/work_number"),
    ("SplitPoints", "/split_brain"),
    ("Messages", "/messages"),
];

/// The same for the four jobs: end of the name -> field.
pub(super) const OF_JOB: &[(&str, &str)] = &[
    ("PosBytes", "pos_bytes"),
    ("SizeBytes", "size_bytes"),
    ("RestBytes", "rest_bytes"),
    ("Percent", "percent"),
    ("BytesPerSecond", "rate_bytes_per_second"),
    ("RemainSeconds", "remain_seconds"),
    ("AgeSeconds", "age_seconds"),
];
pub(super) const JOBS: &[(&str, &str)] = &[
    ("Sync", "sync"),
    ("Fetch", "fetch"),
    ("Replay", "replay"),
    ("Work", "work"),
];

/// Where a property of a resource is.
pub(super) fn pointer(name: &str) -> Option<String> {
    if let Some((_, at)) = OF_RESOURCE.iter().find(|(n, _)| *n == name) {
        return Some((*at).to_string());
    }
    JOBS.iter().find_map(|(job, at)| {
        let rest = name.strip_prefix(job)?;
        let (_, field) = OF_JOB.iter().find(|(n, _)| *n == rest)?;
        Some(format!("/{at}/{field}"))
    })
}

fn text(json: &Json) -> String {
    json.as_str().unwrap_or_default().to_string()
}

fn list(json: &Json) -> &[Json] {
    json.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// `null` and what is not there become the value that stands for "unknown" or "none".
fn value(ty: Type, json: &Json) -> Value {
    match ty {
        Type::Bool => Value::Bool(json.as_bool().unwrap_or(false)),
        Type::U64 => Value::U64(json.as_u64().unwrap_or(UNKNOWN)),
        Type::I64 => Value::I64(json.as_i64().unwrap_or(0)),
        Type::F64 => Value::F64(json.as_f64().unwrap_or(-1.0)),
        Type::Text => Value::text(text(json)),
        Type::Texts => Value::Texts(list(json).iter().map(text).collect()),
        Type::Pairs => Value::Pairs(
            list(json)
                .iter()
                .map(|j| (text(&j["path"]), text(&j["value"])))
                .collect(),
        ),
        Type::Messages => {
            let row = |j: &Json| {
                let [a, b, c, d, e] =
                    ["class", "name", "text", "since_real", "since_lamport"].map(|n| text(&j[n]));
                (a, b, c, d, e)
            };
            Value::Messages(list(json).iter().map(row).collect())
        }
        Type::Splits => {
            let side = |j: &Json| (text(&j["host"]), j["lost_bytes"].as_u64().unwrap_or(0));
            let row = |j: &Json| {
                let sides = list(&j["hosts"]).iter().map(side).collect();
                (text(&j["after"]), sides)
            };
            Value::Splits(list(json).iter().map(row).collect())
        }
    }
}

fn get(interface: &Interface, name: &str, json: Option<&Json>) -> Value {
    let ty = interface.property(name).map_or(Type::Bool, |p| p.ty);
    value(ty, json.unwrap_or(&Json::Null))
}

/// Everything. Pure, apart from the look at disks and devices.
pub(super) fn state(env: &HostEnv, snap: &Snapshot, now: Stamp) -> State {
    let machine = mars_facts::machine(env, snap);
    let view = View {
        snap,
        me: &env.host,
        local: &env.host,
        now,
        window: WINDOW,
        engine_running: true,
    };
    let scope = Scope {
        view,
        res: None,
        threshold: THRESHOLD,
        verbose: 0,
        args: &[],
        machine: &machine,
    };
    let resources = snap.resources();
    let mut state = State::new();
    for res in &resources {
        let json = view_json(&Scope {
            res: Some(res),
            ..scope
        });
        let props = props(&RESOURCE, |name| match name {
            "SplitBrain" => Value::Bool(!json["split_brain"].is_null()),
            _ => get(
                &RESOURCE,
                name,
                pointer(name).and_then(|p| json.pointer(&p)),
            ),
        });
        let object = Object {
            interface: &RESOURCE,
            props,
        };
        state.insert(mars_bus::resource_path(res.as_str()), object);
    }
    let all = view_json_all(&scope, &[]);
    for json in list(&all["hosts"]) {
        let Ok(host) = text(&json["host"]).parse::<HostName>() else {
            continue;
        };
        let object = Object {
            interface: &HOST,
            props: props(&HOST, |name| of_host(&view, &host, json, name)),
        };
        state.insert(mars_bus::host_path(host.as_str()), object);
    }
    let manager = props(&MANAGER, |name| match name {
        "Version" => Value::text(env!("CARGO_PKG_VERSION")),
        "Hosts" => Value::Texts(
            list(&all["hosts"])
                .iter()
                .map(|h| text(&h["host"]))
                .collect(),
        ),
        "Resources" => Value::Texts(resources.iter().map(ToString::to_string).collect()),
        _ => {
            let field = match name {
                "Host" => "host",
                "ClusterUuid" => "uuid",
                "EmergencyLevel" => "emergency_level",
                "LamportTime" => "lamport_time",
                "Messages" => "messages",
                _ => "damaged_links",
            };
            get(&MANAGER, name, all.get(field))
        }
    });
    let object = Object {
        interface: &MANAGER,
        props: manager,
    };
    state.insert(ROOT_PATH.to_string(), object);
    state
}

fn of_host(v: &View<'_>, host: &HostName, json: &Json, name: &'static str) -> Value {
    let key = |k: &str| Key::HostActual(host.clone(), k.to_string());
    let words = |k: &str| Value::text(v.snap.text(&key(k)).unwrap_or_default());
    let space = |k: &str| {
        let gib = v.snap.number(&key(k));
        Value::U64(gib.map_or(UNKNOWN, |n| n.saturating_mul(GIB)))
    };
    match name {
        "IsLocal" => Value::Bool(host == v.local),
        "Version" => words("buildtag"),
        "Features" => words("features"),
        "EmergencyLevel" => Value::U64(v.emergency_level(host)),
        "TotalSpaceBytes" => space("total-space"),
        "FreeSpaceBytes" => space("rest-space"),
        _ => {
            let field = match name {
                "Name" => "host",
                "Address" => "ip",
                "Reachable" => "alive",
                "LastHeartbeat" => "heartbeat",
                _ => "heartbeat_age_seconds",
            };
            get(&HOST, name, json.get(field))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use std::collections::BTreeSet;

    fn leaves(schema: &Json, root: &Json, at: &str, out: &mut BTreeSet<String>) {
        let schema = match schema["$ref"].as_str() {
            Some(r) => root.pointer(r.trim_start_matches('#')).unwrap(),
            None => schema,
        };
        match schema["properties"].as_object() {
            Some(fields) => {
                for (name, s) in fields {
                    leaves(s, root, &format!("{at}/{name}"), out);
                }
            }
            None => {
                out.insert(at.to_string());
            }
        }
    }

    /// Everything that `view` shows is on the bus.
    #[test]
    fn every_field_of_view_is_a_property() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/view.schema.json");
        let root: Json = serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap();
        let mut fields = BTreeSet::new();
        leaves(&root["$defs"]["resource"], &root, "", &mut fields);
        let mapped: BTreeSet<String> = RESOURCE
            .properties
            .iter()
            .filter(|p| p.name != "SplitBrain")
            .map(|p| pointer(p.name).unwrap_or_else(|| panic!("{} comes from nowhere", p.name)))
            .collect();
        assert_eq!(fields, mapped);
        assert!(fields.len() > 60, "the schema was not read");
        // The names are those of the table, and not one too many.
        for (name, _) in OF_RESOURCE {
            assert!(RESOURCE.property(name).is_some(), "{name}");
        }
        // Of the host: these, and the objects below.
        let global: BTreeSet<&str> = root["properties"]
            .as_object()
            .unwrap()
            .keys()
            .map(String::as_str)
            .collect();
        assert_eq!(
            global,
            BTreeSet::from([
                "schema_version",
                "host",
                "uuid",
                "engine_running",
                "lamport_time",
                "emergency_level",
                "hosts",
                "messages",
                "damaged_links",
                "resources"
            ]),
            "a new field of the host needs a property of the manager"
        );
    }

    #[test]
    fn types_are_those_of_the_table_whatever_the_tree_holds() {
        let env = HostEnv::from_vars(|k| match k {
            "MARS_HOST" => Some("alpha".into()),
            "MARS_UNIT_MANAGER" => Some("direct".into()),
            _ => None,
        })
        .unwrap();
        let mut snap = Snapshot::default();
        let now = Stamp::from_nanos(1_000_000_000_000);
        for (path, value) in [
            ("uuid", "x"),
            ("ips/ip-alpha", "127.31.0.1"),
            ("ips/ip-beta", "nonsense"),
            ("actual-alpha/time", "990.000000000"),
            ("actual-beta/time", "soon"),
            ("actual-beta/rest-space", "99999999999999999"),
            ("resource-r/size", "-7"),
            ("resource-r/primary", "beta"),
            ("resource-r/data-alpha", "/nowhere"),
            ("resource-r/replay-alpha", "log-000000001-beta,9,9"),
            ("resource-r/actual-alpha/disk-error", "-5"),
            ("resource-r/actual-alpha/open-count", "-1"),
            ("resource-s/size", "4096"),
        ] {
            snap.insert(&Key::parse(path), value, now);
        }
        let state = state(&env, &snap, now);
        assert_eq!(state.len(), 5, "{:?}", state.keys());
        for (path, object) in &state {
            for p in object.interface.properties {
                let v = object.props.get(p.name).unwrap();
                assert_eq!(v.type_of(), p.ty, "{path} {}", p.name);
            }
        }
        let of = |path: &str, name: &str| state[path].props[name].clone();
        let r = "/org/storage/mars1/resource/r";
        assert_eq!(of(r, "SizeBytes"), Value::U64(UNKNOWN));
        assert_eq!(of(r, "DiskError"), Value::I64(-5));
        assert_eq!(of(r, "PrimaryNode"), Value::text("beta"));
        let host = |h: &str, name: &str| of(&format!("/org/storage/mars1/host/{h}"), name);
        assert_eq!(host("alpha", "Reachable"), Value::Bool(true));
        assert_eq!(host("alpha", "HeartbeatAgeSeconds"), Value::U64(10));
        assert_eq!(host("beta", "HeartbeatAgeSeconds"), Value::U64(UNKNOWN));
        assert_eq!(
            of(ROOT_PATH, "Hosts"),
            Value::Texts(vec!["alpha".into(), "beta".into()])
        );
    }
}
