//! `view --json`: the same facts for machines.
//!
//! Field names are stable; fields may be added. The schema is `docs/view.schema.json`. Amounts are raw bytes, rates
//! bytes per second, ages and remaining times seconds, stamps text `SECONDS.NNNNNNNNN` of the Lamport clock. `null` means unknown
//! or none.
//!
//! [`view_json_all`] (the host): `schema_version` (1), `host`, `uuid`, `engine_running`, `lamport_time`,
//! `emergency_level`, `hosts` (`host`, `ip`, `alive`, `heartbeat`, `heartbeat_age_seconds`), `messages`, `damaged_links` (`path`,
//! `value`), `resources`.
//!
//! [`view_json`] (one resource): `resource`, `host`, `members`, `is_member`, `size_bytes`, `disk_state`, `disk_error`, `repl_state`,
//! `flags`, `role`, `todo_role`, `primary_node`, `actual_primaries`, `primary_age_seconds`, `replay_code`, `consistency`, `switches`,
//! `actual`, `disk`, `device`, `sync`, `fetch`, `replay`, `work`, `logs`, `split_brain`, `messages`.
use crate::ctx::{Ctx, Job, Memo};
use crate::messages::{Wish, messages};
use crate::view::evaluate_memo;
use crate::{NoOutside, Scope, Variables};
use mars_policy::{actual_primary_hosts, consistency, split_brain};
use mars_tree::{HostName, MessageValue, TodoSwitch};
use serde_json::{Value, json};

/// Version of the document; raised when a field changes its meaning or goes.
const SCHEMA_VERSION: u32 = 1;

/// One resource; `null` when the scope has none.
pub fn view_json(scope: &Scope<'_>) -> Value {
    let memo = Memo::default();
    Ctx::new("view", scope, &memo).map_or(Value::Null, |c| resource(&c))
}

/// The host with all given resources.
pub fn view_json_all(scope: &Scope<'_>, resources: &[mars_tree::ResName]) -> Value {
    let v = &scope.view;
    let hosts: Vec<Value> = v.snap.hosts().iter().map(|h| host(scope, h)).collect();
    let damaged: Vec<Value> = v
        .snap
        .damaged()
        .into_iter()
        .map(|(path, value)| json!({"path": path, "value": value}))
        .collect();
    let resources: Vec<Value> = resources
        .iter()
        .map(|res| {
            view_json(&Scope {
                res: Some(res),
                ..*scope
            })
        })
        .collect();
    json!({
        "schema_version": SCHEMA_VERSION,
        "host": v.me.as_str(),
        "uuid": v.snap.sound_text(&mars_tree::Key::Uuid),
        "engine_running": v.engine_running,
        "lamport_time": v.now.to_string(),
        "emergency_level": v.emergency_level(v.me),
        "hosts": hosts,
        "messages": message_list(scope, true),
        "damaged_links": damaged,
        "resources": resources,
    })
}

fn host(scope: &Scope<'_>, h: &HostName) -> Value {
    let v = &scope.view;
    let beat = v.heartbeat(h);
    json!({
        "host": h.as_str(),
        "ip": v.snap.sound_text(&mars_tree::Key::Ip(h.clone())),
        "alive": v.is_alive(h),
        "heartbeat": beat.map(|s| s.to_string()),
        "heartbeat_age_seconds": beat.map(|s| v.now.since(s).as_secs()),
    })
}

fn message_list(scope: &Scope<'_>, global: bool) -> Vec<Value> {
    let wish = Wish {
        all: true,
        pretty: false,
        global,
        class: None,
    };
    messages(scope, wish)
        .iter()
        .filter_map(|m| {
            let (class, name) = m.name.split_once('-')?;
            Some(match m.parsed() {
                Some(MessageValue::Ok) => return None,
                Some(MessageValue::Text {
                    real,
                    lamport,
                    text,
                }) => json!({"class": class, "name": name, "text": text,
                    "since_real": real.to_string(), "since_lamport": lamport.to_string()}),
                None => json!({"class": class, "name": name, "text": m.text(),
                    "since_real": null, "since_lamport": null}),
            })
        })
        .collect()
}

/// Text of a predefined macro (not of a file of the user that overrides it).
fn text(c: &Ctx<'_>, name: &str) -> Value {
    let scope = Scope {
        args: &[],
        ..*c.scope
    };
    match evaluate_memo(name, &scope, &Variables::new(), &mut NoOutside, c.memo()) {
        Ok(text) => Value::String(text),
        Err(_) => Value::Null,
    }
}

fn job(c: &Ctx<'_>, job: Job) -> Value {
    let span = c.span(job);
    let remain = c.remain(job);
    let mut value = json!({
        "pos_bytes": span.pos,
        "size_bytes": span.size,
        "rest_bytes": span.rest(),
        "percent": span.percent(),
        "rate_bytes_per_second": c.rate(job),
        "remain_seconds": if remain < 0.0 { Value::Null } else { json!(remain) },
    });
    if job != Job::Sync
        && let Some(fields) = value.as_object_mut()
    {
        fields.insert("age_seconds".into(), json!(c.age(job, c.me())));
    }
    value
}

fn resource(c: &Ctx<'_>) -> Value {
    let me = c.me();
    let names = |hosts: &[HostName]| hosts.iter().map(ToString::to_string).collect::<Vec<_>>();
    let members = c.v.snap.members(c.res);
    let primary = c.v.designated(c.res);
    let facts = consistency(&c.v, c.res, me);
    let p = c.progress();
    let on = |link: &str| c.v.actual_on(c.res, me, link);
    let split: Option<Vec<Value>> = split_brain(&c.v, c.res).map(|s| {
        s.points
            .iter()
            .map(|point| {
                let hosts = point.hosts.iter();
                let hosts: Vec<Value> = hosts
                    .map(|(h, n)| json!({"host": h.as_str(), "lost_bytes": n}))
                    .collect();
                json!({"after": point.after, "hosts": hosts})
            })
            .collect()
    });
    json!({
        "resource": c.res.as_str(),
        "host": me.as_str(),
        "members": names(&members),
        "is_member": members.contains(me),
        "size_bytes": c.v.size(c.res),
        "disk_state": text(c, "diskstate"),
        "disk_error": c.actual(me, "disk-error").filter(|e| *e != 0),
        "repl_state": text(c, "replstate"),
        "flags": text(c, "flags"),
        "role": text(c, "role"),
        "todo_role": text(c, "todo-role"),
        "primary_node": primary.as_ref().map(HostName::as_str),
        "actual_primaries": names(&actual_primary_hosts(&c.v, c.res)),
        "primary_age_seconds": primary.as_ref().and_then(|h| c.alive_age(h)),
        "replay_code": c.actual_text(me, "replay-code"),
        "consistency": {
            "consistent": facts.is_consistent(),
            "sync_reached": facts.sync_reached,
            "clean": facts.clean,
            "replay_reached": facts.replay_reached,
        },
        "switches": {
            "attach": c.switch(me, TodoSwitch::Attach),
            "sync": c.switch(me, TodoSwitch::Sync),
            "fetch": c.switch(me, TodoSwitch::Connect),
            "replay": c.switch(me, TodoSwitch::AllowReplay),
        },
        "actual": {
            "attach": on("is-attached"),
            "sync": on("is-syncing"),
            "fetch": on("is-copying"),
            "replay": on("is-replaying"),
            "primary": on("is-primary"),
            "emergency": on("has-emergency"),
        },
        "disk": {
            "path": c.disk_path(me),
            "present": c.disk_present(me),
            "size_bytes": c.size_of_disk(me),
        },
        "device": {
            "path": c.device_path(me),
            "present": c.device_present(me),
            "open_count": c.actual(me, "open-count").unwrap_or(0).max(0),
            "ops_per_second": c.actual(me, "ops-if_rate").unwrap_or(0).max(0),
            "flying": c.actual(me, "if-flying").unwrap_or(0).max(0),
            "error": c.actual(me, "if-state").filter(|e| *e != 0),
        },
        "sync": if c.sync().is_some() { job(c, Job::Sync) } else { Value::Null },
        "fetch": job(c, Job::Fetch),
        "replay": job(c, Job::Replay),
        "work": job(c, Job::Work),
        "logs": {
            "base_number": p.base_nr,
            "replay_number": p.replay_nr,
            "fetch_number": p.fetch_nr,
            "work_number": p.work_nr,
        },
        "split_brain": split,
        "messages": message_list(c.scope, false),
    })
}
