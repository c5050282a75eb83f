//! docs/manual/: every command block in it runs, in order, on a cluster, and prints what the manual says.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_cluster::manual::{Script, Step, What, missing, steps};
use mars_cluster::{Builder, Cluster, Host, PATIENCE};
use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

/// In the order of a reader, which is that of the contents.
const CHAPTERS: [&str; 6] = [
    "set-up.md",
    "operation.md",
    "monitoring.md",
    "coming-from-drbd.md",
    "midnight.md",
    "coming-from-mars-0.1a.md",
];
/// Without commands that are run: the contents, and tables that another test compares with the program.
const OTHERS: [&str; 2] = ["README.md", "reference.md"];

/// Logical volumes are loop devices here. These stand-ins do with them what LVM does with logical volumes.
const LVM: &str = r#"#!/bin/sh
set -eu
numbers() { echo $((0x$(stat -Lc %t "$1"))) $((0x$(stat -Lc %T "$1"))); }
case ${0##*/} in
lvextend) # --size 192M /dev/vg/NAME
  truncate -s "$2" "/cluster/lv/$(uname -n)-${3##*/}.img"
  losetup -c "$3" ;;
lvrename) # vg OLD NEW
  mknod "/dev/$1/$3" b $(numbers "/dev/$1/$2")
  umount "/dev/$1/$2"
  rm "/dev/$1/$2" ;;
lvcreate) # --size 128M --name NAME vg
  mknod "/dev/$5/$4" b $(numbers "/dev/$5/spare") ;;
esac
"#;

/// What the engine of MARS 0.1a leaves behind on a host that is primary of one resource and at rest.
const OLD_TREE: &str = r#"set -eu
mkfs.ext4 -q -F /dev/vg/data
mount /dev/vg/data /mnt
echo "written with MARS 0.1a" >/mnt/old
umount /mnt
cd /mars
mkdir -p ips userspace defaults defaults-delta todo-global actual-delta
r=resource-lv0
mkdir -p $r/userspace $r/defaults $r/defaults-delta $r/local-delta $r/actual-delta $r/todo-delta
link() { mkdir -p "$(dirname "$2")"; ln -sfn "$1" "$2"; }
link delta_1700000000.123456789 uuid
link 10.77.0.4 ips/ip-delta
link 0 defaults-delta/sync-limit
link "(none)" defaults-delta/sync-pref-list
link 2.9 actual-delta/marsadm-version
link 0.1 actual-delta/tree
link 4,5,0x071f0000 actual-delta/features
link 4,5,0x071f0000 actual-delta/usable
link "mars0.1astable177(2022-10-10 10:10:10)" actual-delta/buildtag
link 100663296 $r/size
link delta $r/primary
link 1 $r/maxnr
link delta $r/userspace/last-primary
link /dev/vg/data $r/data-delta
link lv0 $r/device-delta
link 100663296 $r/actsize-delta
link 100663296 $r/syncstatus-delta
link log-000000001-delta,0,0 $r/replay-delta
zeros=00000000000000000000000000000000
link $zeros,log-000000000-delta,0: $r/version-000000000-delta
link $zeros,log-000000001-delta,0:$zeros,log-000000000-delta,0 $r/version-000000001-delta
: >$r/log-000000001-delta
for s in attach connect sync allow-replay; do link 1 $r/todo-delta/$s; done
for s in is-attached is-primary if-on; do link 1 $r/actual-delta/$s; done
for s in is-replaying is-copying is-syncing open-count disk-error has-emergency is-emergency replay-code; do link 0 $r/actual-delta/$s; done
link 1700090000.123456789 actual-delta/time
"#;

fn read(name: &str) -> String {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/manual");
    fs::read_to_string(dir.join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn chapter(name: &str) -> Vec<Step> {
    steps(name, &read(name)).unwrap_or_else(|e| panic!("{e}"))
}

/// No file and no block is forgotten, and the contents lead to every chapter, in this order.
#[test]
fn manual_has_no_untested_block() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/manual");
    let files: BTreeSet<String> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    let known: BTreeSet<String> = CHAPTERS
        .iter()
        .chain(&OTHERS)
        .map(|f| f.to_string())
        .collect();
    assert_eq!(files, known);
    for name in OTHERS {
        assert_eq!(chapter(name), [], "{name} has a block that is not run");
    }
    let contents = read("README.md");
    let mut last = 0;
    for name in CHAPTERS {
        let at = contents
            .find(&format!("({name})"))
            .unwrap_or_else(|| panic!("README.md lacks {name}"));
        assert!(at > last, "{name} is at another place in README.md");
        last = at;
        let scripts = chapter(name)
            .into_iter()
            .filter(|s| matches!(s.what, What::Script(_)))
            .count();
        assert!(scripts > 0, "{name} has no block");
    }
    // Links between the files lead somewhere.
    for name in CHAPTERS.iter().chain(&OTHERS) {
        for link in read(name)
            .split("](")
            .skip(1)
            .filter_map(|l| l.split(')').next())
        {
            let file = link.split('#').next().unwrap();
            if !file.is_empty() && !file.contains("://") {
                let path = Path::new(env!("CARGO_MANIFEST_DIR"))
                    .join("../../docs/manual")
                    .join(file);
                assert!(path.exists(), "{name}: {link} leads nowhere");
            }
        }
    }
}

fn host<'c>(c: &'c Cluster, name: &str) -> &'c Host {
    c.hosts
        .iter()
        .find(|h| h.name == name)
        .unwrap_or_else(|| panic!("no host {name}"))
}

/// Both outputs, as a reader sees them.
fn script(h: &Host, text: &str) -> (i32, String) {
    let r = h.run(&["sh", "-euc", &format!("exec 2>&1; cd /root\n{text}")]);
    (r.code, r.out + &r.err)
}

fn run(h: &Host, place: &str, s: &Script) {
    let end = Instant::now() + PATIENCE;
    loop {
        let (code, out) = script(h, &s.text);
        let lacks = missing(&s.expect, &out);
        if code == s.status && lacks.is_none() {
            return;
        }
        assert!(
            s.again && Instant::now() < end,
            "docs/manual/{place} on {}:\n{}\nstatus {code}, the manual says {}; lacks {lacks:?} in:\n{out}",
            h.name,
            s.text,
            s.status
        );
        std::thread::sleep(Duration::from_millis(200));
    }
}

/// What happens to the hosts of a reader.
fn event(c: &Cluster, place: &str, words: &[String]) {
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["power-cut", h] => host(c, h).power_cut(),
        ["boot", h] => host(c, h).boot(),
        ["network", h, "off"] => host(c, h).connect(false),
        ["network", h, "on"] => host(c, h).connect(true),
        // Commands that a reader would never type: they make the trouble.
        ["run", h, rest @ ..] => {
            let (code, out) = script(host(c, h), &rest.join(" "));
            assert_eq!(code, 0, "{place}: {out}");
        }
        ["until", h, rest @ ..] => {
            mars_cluster::wait_for(&format!("{place}: {rest:?}"), || {
                script(host(c, h), &rest.join(" ")).0 == 0
            });
        }
        other => panic!("{place}: unknown event {other:?}"),
    }
}

#[test]
fn manual_every_block_runs() {
    let c = Builder::new("manual")
        .hosts(&["alpha", "beta", "gamma", "delta"])
        .bare()
        .mars_mib(256)
        .disk("data", 96)
        .disk("old", 32)
        .disk("spare", 128)
        .start();
    let package = c.share_package(None);
    c.share("lvm", LVM, 0o755);
    c.share("old-tree", OLD_TREE, 0o755);
    let lv = c.shared().join("lv");
    fs::create_dir(&lv).unwrap();
    for h in &c.hosts {
        h.sh(&format!(
            "ln -s {package} /root/mars_0.1.0_amd64.deb; for p in lvextend lvrename lvcreate; do ln -s /cluster/lvm /usr/local/sbin/$p; done"
        ));
        fs::hard_link(h.image("data"), lv.join(format!("{}-data.img", h.name))).unwrap();
    }
    for name in CHAPTERS {
        let begin = Instant::now();
        for step in chapter(name) {
            match &step.what {
                What::Event(words) => event(&c, &step.place, words),
                What::Script(s) => {
                    for h in &s.hosts {
                        run(host(&c, h), &step.place, s);
                    }
                }
            }
        }
        println!("{name}: {:.1} s", begin.elapsed().as_secs_f64());
    }
    // The chapter on emergency mode fills /mars.
    c.finish(&["cannot be written, logging stops"]);
}
