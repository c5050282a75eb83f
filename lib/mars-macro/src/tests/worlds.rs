//! Trees in which every macro has something to say.
use super::*;
use mars_tree::Stamp;

/// hostA looks at the steady state.
pub fn steady() -> World {
    World::new(fixtures::steady(), "hostA")
}

/// hostB looks while it syncs.
pub fn syncing() -> World {
    World::new(fixtures::syncing(), "hostB")
}

/// hostA looks at a split brain.
pub fn split() -> World {
    World::new(fixtures::split(), "hostA")
}

/// A host in an empty tree, without daemons.
pub fn nothing() -> World {
    let mut w = World::new(Snapshot::default(), "hostA");
    w.engine_running = false;
    w.machine.real_time = 0;
    w
}

/// The primary hostB in all kinds of trouble, with a guest, units, limits, a mounted device and files of messages.
pub fn busy() -> World {
    let mut w = World::new(fixtures::steady(), "hostB")
        .with(
            "device-hostC -> lv0
             systemd-start-unit -> mnt-lv0.mount
             systemd-stop-unit -> lv0.target
             systemd-want -> hostB
             actsize-hostA -> 10737422336
             actsize-hostB -> 10758389760
             replay-hostB -> log-000000003-hostB,4096,1024
             todo-hostA/{attach,connect,sync,allow-replay} -> 0
             actual-hostB/{is-replaying,is-copying,is-syncing} -> 1
             actual-hostB/open-count -> 2
             actual-hostB/if-flying -> 4
             actual-hostB/ops-if_rate -> 123
             actual-hostB/amount-if_rate -> 456
             actual-hostB/if-state -> -28
             actual-hostB/if-completion-stamp -> 1700089505.000000000
             actual-hostB/disk-error -> -5
             actual-hostB/has-emergency -> 1
             actual-hostB/replay-code -> -5,-10003,0x7b
             actual-hostB/ops-file_rate -> 3
             actual-hostB/amount-file_rate -> 10
             actual-hostB/ops-replay_rate -> 5
             actual-hostB/amount-replay_rate -> 20",
        )
        .global(
            "ips/ip-hostC -> 10.0.0.3
             defaults/enabled-log-compressions -> 0x02000000
             defaults/enabled-net-compressions -> 0x06000000
             defaults/disabled-log-digests -> 0x00010000
             defaults/disabled-net-digests -> 0x00100000
             defaults-hostB/sync-limit -> 3
             actual-hostB/used-log-compression -> 33554432
             actual-hostB/used-net-compression -> 67108864",
        );
    w.machine.mounts = vec![Mount {
        device: "/dev/mars/lv0".into(),
        dir: "/mnt/lv 0".into(),
        fstype: "ext4".into(),
        flags: "rw,relatime".into(),
    }];
    w.machine.status_files = [
        ("resource-lv0/2.warn.status", "w1\nw2\nw3\n"),
        ("resource-lv0/3.error.status", "e1\ne2\n"),
        ("resource-lv0/4.fatal.status", "f1\n"),
        ("resource-lv0/logstatus-hostA.status", "ERROR elsewhere\n"),
        (
            "resource-lv0/logstatus-hostB.status",
            "INFO x\nERROR y\nWARNING z\n",
        ),
    ]
    .map(|(p, t)| (p.to_string(), t.to_string()))
    .into();
    w
}

/// There are two more logs than hostA replays; the first of them is here.
pub fn ahead() -> World {
    let zero = "0".repeat(32);
    steady().with(&format!(
        "version-000000004-hostB -> {zero},log-000000004-hostB,9:
         version-000000005-hostB -> {zero},log-000000005-hostB,9:
         log-000000004-hostB = 9"
    ))
}

/// The log that hostA replays is gone.
pub fn orphan() -> World {
    let mut w = steady();
    w.snap.files.remove("resource-lv0/log-000000003-hostB");
    w
}

/// hostA has made its last progress 40 s (fetch) and 30 s (replay) after hostB.
pub fn late() -> World {
    let mut w = steady();
    let mut put = |key: &str, secs: u64| {
        let link = w
            .snap
            .links
            .get_mut(&format!("resource-lv0/{key}"))
            .unwrap();
        link.stamp = Stamp::from_nanos((fixtures::OLD.secs() + secs) * 1_000_000_000);
    };
    put("version-000000003-hostA", 40);
    put("replay-hostA", 30);
    w
}

/// hostA joins: its sync has not begun.
pub fn joining() -> World {
    steady().with("syncstatus-hostA -> -")
}

/// Nobody is designated.
pub fn nobody() -> World {
    steady().with("primary -> (none)")
}

/// The same name for a tree in which every value of hostA and of the resource is wrong.
pub fn garbled() -> World {
    let mut w = steady();
    let keys: Vec<String> = w.snap.links.keys().cloned().collect();
    for key in keys.iter().filter(|k| !k.starts_with("ips/")) {
        let link = w.snap.links.get_mut(key).unwrap();
        link.value = mars_tree::Value::new("wr\x1b[31mong\n").unwrap();
    }
    w
}

/// By name.
pub fn find(name: &str) -> World {
    match name {
        "steady" => steady(),
        "syncing" => syncing(),
        "split" => split(),
        "nothing" => nothing(),
        "busy" => busy(),
        "ahead" => ahead(),
        "orphan" => orphan(),
        "late" => late(),
        "joining" => joining(),
        "nobody" => nobody(),
        "garbled" => garbled(),
        _ => panic!("no tree {name}"),
    }
}
