//! Every key that the tree format knows, for three hosts and one resource. Used by tests here and in `marsadm`, and by a fuzz target.

/// Hosts of the trees.
pub const HOSTS: [&str; 3] = ["hostA", "hostB", "hostC"];

const GLOBAL: &[&str] = &[
    "uuid",
    "defaults/enabled-log-compressions",
    "defaults/enabled-net-compressions",
    "defaults/disabled-log-digests",
    "defaults/disabled-net-digests",
];

/// `HOST` stands for each host.
const PER_HOST: &[&str] = &[
    "ips/ip-HOST",
    "defaults-HOST/sync-limit",
    "defaults-HOST/sync-pref-list",
    "defaults-HOST/enabled-log-compressions",
    "actual-HOST/time",
    "actual-HOST/alive",
    "actual-HOST/tree",
    "actual-HOST/features",
    "actual-HOST/usable",
    "actual-HOST/buildtag",
    "actual-HOST/emergency",
    "actual-HOST/rest-space",
    "actual-HOST/total-space",
    "actual-HOST/used-log-digest",
    "actual-HOST/used-net-digest",
    "actual-HOST/used-log-compression",
    "actual-HOST/used-net-compression",
    "actual-HOST/marsadm-version",
    "actual-HOST/read-stamp",
    "actual-HOST/compat-alivelinks",
    "actual-HOST/msg-needed-connection-with-hostB",
    "actual-HOST/msg-err-x",
    "resource-lv0/data-HOST",
    "resource-lv0/device-HOST",
    "resource-lv0/actsize-HOST",
    "resource-lv0/replay-HOST",
    "resource-lv0/version-000000000-HOST",
    "resource-lv0/version-000000001-HOST",
    "resource-lv0/version-000000002-HOST",
    "resource-lv0/version-000000003-HOST",
    "resource-lv0/version-000000004-HOST",
    "resource-lv0/version-999999999-HOST",
    "resource-lv0/syncstatus-HOST",
    "resource-lv0/syncpos-HOST",
    "resource-lv0/verifystatus-HOST",
    "resource-lv0/syncfrom-HOST",
    "resource-lv0/skip-check-HOST",
    "resource-lv0/connect-HOST",
    "resource-lv0/log-000000009-HOST",
    "resource-lv0/todo-HOST/attach",
    "resource-lv0/todo-HOST/connect",
    "resource-lv0/todo-HOST/sync",
    "resource-lv0/todo-HOST/allow-replay",
    "resource-lv0/todo-HOST/emergency-limit",
    "resource-lv0/todo-HOST/exports",
    "resource-lv0/defaults-HOST/enabled-log-compressions",
];

/// Below `resource-lv0/actual-HOST/`.
const ACTUAL: &[&str] = &[
    "is-attached",
    "is-primary",
    "is-replaying",
    "is-copying",
    "is-syncing",
    "if-on",
    "open-count",
    "if-flying",
    "if-state",
    "if-completion-stamp",
    "ops-if_rate",
    "ops-replay_rate",
    "ops-file_rate",
    "ops-sync_rate",
    "amount-if_rate",
    "amount-replay_rate",
    "amount-file_rate",
    "amount-sync_rate",
    "replay_rate",
    "file_rate",
    "sync_rate",
    "disk-error",
    "has-emergency",
    "is-emergency",
    "replay-code",
    "prosumer-on",
    "msg-err-replay-stop",
    "msg-err-splitbrain-detected",
    "msg-wrn-space-low",
    "msg-inf-fetch",
    "msg-inf-sync",
];

const RESOURCE: &[&str] = &[
    "resource-lv0/size",
    "resource-lv0/primary",
    "resource-lv0/maxnr",
    "resource-lv0/systemd-want",
    "resource-lv0/systemd-start-unit",
    "resource-lv0/systemd-stop-unit",
    "resource-lv0/defaults/disabled-log-digests",
];

/// All of them.
pub fn all() -> Vec<String> {
    let mut keys: Vec<String> = GLOBAL
        .iter()
        .chain(RESOURCE)
        .map(|k| k.to_string())
        .collect();
    for host in HOSTS {
        keys.extend(PER_HOST.iter().map(|k| k.replace("HOST", host)));
        let actual = ACTUAL.iter();
        keys.extend(actual.map(|k| format!("resource-lv0/actual-{host}/{k}")));
    }
    keys
}

/// Values that are wrong for (nearly) every key: huge, binary, more than one line, negative, too large, half right.
pub fn garbage() -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = [
        "x",
        " ",
        "?",
        "-1",
        "+1",
        "007",
        "1e9",
        "0x",
        "0xffffffffffffffffffff",
        "18446744073709551615",
        "18446744073709551616",
        "-9223372036854775808",
        "99999999999999999999999999999999999999",
        "OK\n",
        "two\nlines",
        "\u{1b}[31mred\u{7}",
        "/\u{1b}]0;title\u{7}",
        "/dev/../../etc/shadow\nx",
        "../../../../etc/passwd",
        "%{res}%die{no}%while{1}{}",
        "(none)",
        "(any)",
        ".deleted.",
        "hostA",
        "hostZ",
        "log-000000003-hostB,18446744073709551615,18446744073709551615",
        "log-999999999-hostA,1,1",
        "log-000000000-hostA,0,0",
        "log-000000002-hostA,-1,0",
        "log-1-a,1,1",
        "00000000000000000000000000000000,log-000000002-hostA,18446744073709551615:",
        "00000000000000000000000000000000,log-000000003-hostA,5:00000000000000000000000000000000,log-000000003-hostA,5",
        "1700090003.123456789",
        "18446744073709551615.999999999",
        "1700080000.000000000 1700080000.000000000 text",
        "1700080000.000000000 1700080000.000000000 \u{1b}[2J\ntext",
        "4,5,0x071f0000,",
        "-5,-10003,0x7b,\u{7}",
        "e\u{301}\u{202e}\u{200b}",
    ]
    .iter()
    .map(|s| s.as_bytes().to_vec())
    .collect();
    all.push(vec![0xff, 0xfe, b'/', 0x80]);
    all.push(vec![b'9'; 4095]);
    all.push(vec![b'a'; 4095]);
    all.push(vec![b'\n'; 4095]);
    all.push([b"/".as_slice(), &vec![b'd'; 4094]].concat());
    all
}
