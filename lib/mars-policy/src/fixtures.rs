//! Example trees for tests, here and in crates above: the listings of symlink-tree.md section 7.
use mars_tree::{FileMeta, Key, Snapshot, Stamp};

/// The moment at which the examples are looked at.
pub const NOW: Stamp = Stamp::from_nanos(1_700_090_005_000_000_000);
/// Stamp of everything that changes seldom: two hours earlier.
pub const OLD: Stamp = Stamp::from_nanos(1_700_082_805_000_000_000);
/// Stamp of everything below `actual-*`: two seconds earlier.
pub const FRESH: Stamp = Stamp::from_nanos(1_700_090_003_000_000_000);

/// Adds lines `KEY -> VALUE` (links) and `KEY = BYTES` (files) to a snapshot, each made relative to `base` (`""` or
/// `"resource-lv0/"`). `{a,b}` in keys expands; `#` begins a remark; a value `-` removes the key.
pub fn add(snap: &mut Snapshot, base: &str, listing: &str) {
    for line in listing.lines() {
        let line = line.split('#').next().unwrap_or("").trim();
        if let Some((keys, value)) = line.split_once(" -> ") {
            for key in expand(&format!("{base}{}", keys.trim())) {
                let stamp = if key.contains("actual-") { FRESH } else { OLD };
                match value.trim() {
                    "-" => drop(snap.links.remove(&key)),
                    v => snap.insert(&Key::parse(&key), v, stamp),
                }
            }
        } else if let Some((key, size)) = line.split_once(" = ") {
            let size = size.trim().parse().unwrap_or(0);
            let meta = FileMeta { size, mtime: OLD };
            snap.files.insert(format!("{base}{}", key.trim()), meta);
        }
    }
}

/// All combinations of `{a,b}` groups.
fn expand(key: &str) -> Vec<String> {
    let Some((head, rest)) = key.split_once('{') else {
        return vec![key.to_string()];
    };
    let Some((group, tail)) = rest.split_once('}') else {
        return vec![key.to_string()];
    };
    let tails = expand(tail);
    group
        .split(',')
        .flat_map(|g| tails.iter().map(move |t| format!("{head}{g}{t}")))
        .collect()
}

const GLOBAL: &str = "
    uuid -> hostA_1700000000.123456789
    ips/ip-hostA -> 10.0.0.1
    ips/ip-hostB -> 10.0.0.2
    defaults-{hostA,hostB}/sync-limit -> 0
    defaults-{hostA,hostB}/sync-pref-list -> (none)
    actual-{hostA,hostB}/time -> 1700090003.123456789
    actual-{hostA,hostB}/alive -> 1
    actual-{hostA,hostB}/tree -> 0.1
    actual-{hostA,hostB}/{features,usable} -> 4,5,0x071f0000
    actual-{hostA,hostB}/buildtag -> mars0.1astable177(2022-10-10 10:10:10)
    actual-{hostA,hostB}/emergency -> 0
    actual-{hostA,hostB}/rest-space -> 83
    actual-{hostA,hostB}/total-space -> 92
    actual-{hostA,hostB}/{used-log-digest,used-net-digest} -> 262144
    actual-{hostA,hostB}/{used-log-compression,used-net-compression} -> 0
    actual-{hostA,hostB}/marsadm-version -> 2.9
    actual-hostB/read-stamp -> 1700089998.000000001
";

/// 7.1: hostB primary, hostA up to date; tree of hostA.
pub fn steady() -> Snapshot {
    let mut s = Snapshot::default();
    add(&mut s, "", GLOBAL);
    add(
        &mut s,
        "resource-lv0/",
        "
        size -> 10737418240
        primary -> hostB
        maxnr -> 2
        userspace/last-primary -> hostB
        userspace/prev-primary -> hostA
        data-{hostA,hostB} -> /dev/vg/lv0
        device-{hostA,hostB} -> lv0
        actsize-{hostA,hostB} -> 10737418240
        syncstatus-{hostA,hostB} -> 10737418240
        syncpos-hostB -> log-000000001-hostA,524288,0
        verifystatus-hostB -> 2621440,17
        skip-check-hostB -> 1
        replay-{hostA,hostB} -> log-000000003-hostB,8192,0
        version-000000001-{hostA,hostB} -> eae75bd0648f4b9f8ece4a07b4c47429,log-000000001-hostA,1048576:
        version-000000002-{hostA,hostB} -> ab6ca3b5e4f9a9d35ea2226916d13904,log-000000002-hostA,524288:eae75bd0648f4b9f8ece4a07b4c47429,log-000000001-hostA,1048576
        version-000000003-{hostA,hostB} -> 1defc62b29e43d74c94cca423ee2cc3b,log-000000003-hostB,8192:ab6ca3b5e4f9a9d35ea2226916d13904,log-000000002-hostA,524288
        log-000000001-hostA -> .deleted
        log-000000002-hostA = 524288
        log-000000003-hostB = 8192
        todo-{hostA,hostB}/{attach,connect,sync,allow-replay} -> 1
        actual-hostA/is-attached -> 1
        actual-hostA/{is-primary,is-replaying,is-copying,is-syncing,if-on,open-count,disk-error} -> 0
        actual-hostA/{has-emergency,is-emergency,replay-code} -> 0
        actual-{hostA,hostB}/{ops,amount}-{replay,file,sync}_rate -> 0
        actual-hostB/{is-attached,is-primary,if-on,open-count} -> 1
        actual-hostB/{is-replaying,is-copying,is-syncing,disk-error,has-emergency,is-emergency,replay-code} -> 0
        actual-hostB/{if-flying,if-state,ops-if_rate,amount-if_rate} -> 0
        actual-hostB/if-completion-stamp -> 1700089969.000000000
        actual-{hostA,hostB}/msg-{err-replay-stop,inf-fetch,inf-sync,wrn-log-consecutive} -> OK
        ",
    );
    s
}

/// 7.2: hostA primary in log 2, hostB joined five minutes ago and syncs; tree of hostB.
pub fn syncing() -> Snapshot {
    let mut s = steady();
    s.files.clear();
    add(
        &mut s,
        "resource-lv0/",
        "
        primary -> hostA
        userspace/last-primary -> hostA
        userspace/prev-primary -> -
        syncstatus-hostB -> 4294967296
        verifystatus-hostB -> 1048576,5
        skip-check-hostB -> 2
        syncpos-hostB -> -
        replay-hostA -> log-000000002-hostA,520192,4096
        replay-hostB -> log-000000002-hostA,0,0
        version-000000000-hostA -> 00000000000000000000000000000000,log-000000000-hostA,0:
        version-000000002-hostB -> 49509b87349b6aff4c417dfbf01d5891,log-000000002-hostA,262144:eae75bd0648f4b9f8ece4a07b4c47429,log-000000001-hostA,1048576
        version-000000003-{hostA,hostB} -> -
        log-000000001-hostA -> -
        log-000000002-hostA = 393216
        actual-hostA/{is-primary,if-on,open-count,is-attached} -> 1
        actual-hostB/{is-primary,if-on,open-count} -> 0
        actual-hostB/{is-attached,is-syncing,is-copying} -> 1
        actual-hostB/ops-sync_rate -> 800
        actual-hostB/amount-sync_rate -> 102400
        actual-hostB/msg-inf-sync -> 1700089000.000000000 1700089000.000000000 sync is running
        ",
    );
    s
}

/// 7.3: split brain, hostB was forced while hostA went on to its own log 3; tree of hostA.
pub fn split() -> Snapshot {
    let mut s = steady();
    add(
        &mut s,
        "resource-lv0/",
        "
        replay-hostA -> log-000000003-hostA,16384,0
        version-000000003-hostA -> 78e853fbec3c0daf4865f797871fba83,log-000000003-hostA,16384:ab6ca3b5e4f9a9d35ea2226916d13904,log-000000002-hostA,524288
        log-000000003-hostA = 16384
        actual-{hostA,hostB}/{is-attached,is-primary,if-on,open-count} -> 1
        actual-{hostA,hostB}/msg-err-splitbrain-detected -> 1700080000.000000000 1700080000.000000000 split brain
        ",
    );
    s.files.remove("resource-lv0/log-000000003-hostB");
    s
}
