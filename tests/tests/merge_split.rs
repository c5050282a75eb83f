//! Two clusters become one and fall apart again while their resources replicate on (I3, I7), with hosts that are away meanwhile.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_tests::{Cluster, Host, check, digest, make_disk, start_writer};
use mars_tree::Snapshot;
use std::path::{Path, PathBuf};

const SIZE: u64 = 16 << 20;
const CONFIG: &str =
    "front = \"nbd-socket\"\nheartbeat_ms = 500\nbuffer_limit_mib = 8\nwriteback_age_ms = 200\n";

/// Hosts at 127.41.NET.*, the first of each group makes a cluster and the others join it.
fn clusters(net: u8, groups: &[&[&str]]) -> Cluster {
    let names: Vec<&str> = groups.concat();
    let mut c = Cluster::new(&names, CONFIG);
    for (i, h) in c.hosts.iter_mut().enumerate() {
        h.ip = format!("127.41.{net}.{}", i + 2);
    }
    for group in groups {
        let of = |name: &str| host(&c, name);
        let first = of(group[0]);
        first.ok(&["create-cluster", &format!("--ip={}", first.ip)]);
        for name in &group[1..] {
            let (h, ip) = (of(name), &of(name).ip);
            h.ok(&["join-cluster", group[0], &first.ip, &format!("--ip={ip}")]);
        }
    }
    c
}

fn host<'a>(c: &'a Cluster, name: &str) -> &'a Host {
    let found = c.hosts.iter().find(|h| h.env.host.as_str() == name);
    found.unwrap_or_else(|| panic!("no host {name}"))
}

fn uuid(h: &Host) -> String {
    h.value("uuid").unwrap()
}

fn hosts_of(s: &Snapshot) -> Vec<String> {
    s.hosts().iter().map(ToString::to_string).collect()
}

/// Waits until the host knows exactly these members.
fn knows(h: &Host, names: &[&str]) {
    h.wait_tree(&format!("members {names:?}"), |s| hosts_of(s) == names);
}

/// A resource on both hosts, synced.
fn resource(primary: &Host, secondary: &Host, name: &str) -> [PathBuf; 2] {
    let disks = [primary, secondary].map(|h| h.file(&format!("{name}.img")));
    make_disk(&disks[0], SIZE, true);
    make_disk(&disks[1], SIZE, false);
    primary.ok(&["create-resource", name, &disks[0].display().to_string()]);
    primary.ok(&["wait-resource", name, "is-device-on"]);
    secondary.ok(&["wait-cluster"]);
    secondary.ok(&["join-resource", name, &disks[1].display().to_string()]);
    disks
}

fn writer(h: &Host, res: &str, batches: &str) -> std::process::Child {
    let journal = h.file(&format!("{res}.journal"));
    let args = ["--batches", batches, "--pause", "0.02"];
    start_writer(&h.uri(res), &journal, SIZE, &args)
}

fn finished(w: std::process::Child) {
    let o = w.wait_with_output().unwrap();
    let err = String::from_utf8_lossy(&o.stderr);
    assert!(o.status.success(), "{err}");
}

/// The secondary has everything that was written, and both disks are equal once the primary has written back.
fn equal(primary: &Host, secondaries: &[&Host], res: &str) {
    for s in secondaries {
        s.wait_view("diskstate", res, "UpToDate");
        s.wait_view("work-rest", res, "0");
    }
    let disk = |h: &Host| digest(&h.file(&format!("{res}.img")));
    for s in secondaries {
        s.wait_tree("equal disks", |_| disk(s) == disk(primary));
    }
    let journal = primary.file(&format!("{res}.journal"));
    for h in secondaries {
        check(&h.file(&format!("{res}.img")), &journal, "--final");
    }
}

/// Logs of `mars-meta`.
fn meta_log(h: &Host) -> String {
    let path = h.env.run_dir.join("units/mars-meta.service.log");
    std::fs::read_to_string(path).unwrap_or_default()
}

fn link(dir: &Path) -> String {
    std::fs::read_link(dir).unwrap().display().to_string()
}

#[test]
fn clusters_merge_and_split_while_resources_replicate_on() {
    let c = clusters(1, &[&["alpha", "beta"], &["gamma", "delta"]]);
    let [a, b, g, d] = ["alpha", "beta", "gamma", "delta"].map(|n| host(&c, n));
    let (old, new) = (uuid(a), uuid(g));
    assert_ne!(old, new);
    resource(a, b, "ra");
    resource(g, d, "rb");

    // `same` was deleted over here after it had been made over there: those tombstones are newer than the live links.
    let disk = g.file("same.img");
    make_disk(&disk, 1 << 20, true);
    g.ok(&["create-resource", "same", &disk.display().to_string()]);
    let disk = a.file("same.img");
    make_disk(&disk, 1 << 20, true);
    a.ok(&["create-resource", "same", &disk.display().to_string()]);
    let before = a.tree().snapshot().unwrap();
    for command in [
        "merge-cluster-check",
        "merge-cluster",
        "force-merge-cluster",
    ] {
        a.refused(
            &[command, "gamma", &g.ip],
            &["resource same exists in both"],
        );
    }
    let after = a.tree().snapshot().unwrap();
    for path in ["uuid", "ips/ip-gamma", "userspace/merged/x"] {
        assert_eq!(before.links.get(path), after.links.get(path), "{path}");
    }
    assert!(g.value("ips/ip-alpha").is_none());
    for args in [
        &["secondary", "same"][..],
        &["down", "same"],
        &["leave-resource", "same"],
        &["delete-resource", "same"],
    ] {
        a.ok(args);
    }

    // The check changes nothing.
    let out = a.ok(&["merge-cluster-check", "gamma", &g.ip]);
    for word in [&old, &new, "no conflicts", "ra", "rb"] {
        assert!(out.contains(word), "{word}: {out}");
    }
    assert_eq!((uuid(a), uuid(g)), (old.clone(), new.clone()));
    assert!(g.value("ips/ip-alpha").is_none() && a.value("ips/ip-gamma").is_none());

    // Writers run all the time; beta is away.
    let writers = [writer(a, "ra", "120"), writer(g, "rb", "120")];
    b.ok(&["stop"]);
    let backup = a.file("backup");
    let r = a.run(&[
        "merge-cluster",
        "gamma",
        &g.ip,
        &format!("--backup-dir={}", backup.display()),
        "--window=2",
    ]);
    assert_eq!(r.code, 0, "{r:?}\n{}\n{}", a.logs(), g.logs());
    assert!(r.err.contains("host beta does not answer"), "{r:?}");
    let all = ["alpha", "beta", "delta", "gamma"];
    for h in [a, g, d] {
        knows(h, &all);
        assert_eq!(uuid(h), new, "{}", h.env.host);
    }
    assert_eq!(link(&backup.join("uuid-backups/uuid")), old);
    assert_eq!(link(&backup.join("ips-backup/ip-beta")), b.ip);
    assert!(!backup.join("ips-backup/ip-gamma").exists());
    // The deleted one did not take the living one with it, on any host.
    for h in [a, g, d] {
        h.wait_tree("resource same", |s| {
            s.text(&mars_tree::Key::parse("resource-same/primary")) == Some("gamma")
                && s.text(&mars_tree::Key::parse("resource-same/size")) == Some("1048576")
        });
    }

    // Who was away comes with the old uuid, is let in and takes the new one.
    assert_eq!(uuid(b), old);
    b.ok(&["start"]);
    knows(b, &all);
    b.wait_tree("the new uuid", |s| {
        s.text(&mars_tree::Key::Uuid) == Some(new.as_str())
    });
    let out = a.ok(&["merge-cluster", "gamma"]);
    assert!(out.contains("one cluster already"), "{out}");
    for w in writers {
        finished(w);
    }
    equal(a, &[b], "ra");
    equal(g, &[d], "rb");

    // A host of the one former cluster joins a resource of the other one.
    let disk = d.file("ra.img");
    make_disk(&disk, SIZE, false);
    d.ok(&["join-resource", "ra", &disk.display().to_string()]);
    finished(writer(a, "ra", "30"));
    equal(a, &[b, d], "ra");
    let out = d.ok(&["split-cluster"]);
    assert!(out.contains("nothing to do"), "{out}");
    d.ok(&["down", "ra"]);
    d.ok(&["leave-resource", "ra"]);

    // And apart again.
    a.ok(&["wait-cluster"]);
    let writers = [writer(a, "ra", "200"), writer(g, "rb", "200")];
    let out = a.ok(&["split-cluster"]);
    assert!(out.contains("2 clusters now"), "{out}");
    let parts = [
        (&["alpha", "beta"][..], [a, b]),
        (&["delta", "gamma"][..], [g, d]),
    ];
    for (names, hosts) in &parts {
        for h in hosts {
            knows(h, names);
        }
    }
    for (ours, theirs, foreign, hosts) in
        [("ra", "rb", "gamma", [a, b]), ("rb", "ra", "alpha", [g, d])]
    {
        for h in hosts {
            h.wait_tree("the others are forgotten", |s| {
                let known = |p: &str| s.links.keys().any(|k| k.starts_with(p));
                !known(&format!("resource-{theirs}/")) && !known(&format!("actual-{foreign}/"))
            });
            let view = h.ok(&["view", "all"]);
            let shows = |res: &str| view.contains(&format!("--- resource {res}\n"));
            assert!(shows(ours) && !shows(theirs), "{view}");
        }
    }
    for w in writers {
        finished(w);
    }
    equal(a, &[b], "ra");
    equal(g, &[d], "rb");
    // Also after a restart nobody finds the others again.
    for h in [b, g] {
        h.ok(&["stop"]);
        h.ok(&["start"]);
    }
    for (names, hosts) in &parts {
        for h in hosts {
            h.ok(&["wait-cluster"]);
            knows(h, names);
        }
    }

    // The parts have one uuid; merging them again needs no new one.
    assert_eq!(uuid(a), uuid(g));
    a.ok(&["merge-cluster", "gamma", &g.ip]);
    for h in [a, b, g, d] {
        knows(h, &all);
        h.wait_tree("both resources", |s| {
            let known = |r: &str| s.resources().iter().any(|x| x.as_str() == r);
            known("ra") && known("rb")
        });
        assert!(h.value("userspace/split/alpha").is_none());
        assert!(meta_log(h).contains("split"), "{}", meta_log(h));
    }
    finished(writer(a, "ra", "20"));
    finished(writer(g, "rb", "20"));
    equal(a, &[b], "ra");
    equal(g, &[d], "rb");

    // One leaves for good, another one is gone and is thrown out from elsewhere.
    d.refused(
        &["leave-cluster"],
        &["delta is member of rb", "leave-resource"],
    );
    d.ok(&["down", "rb"]);
    d.ok(&["leave-resource", "rb"]);
    d.ok(&["leave-cluster"]);
    for h in [a, b, g] {
        knows(h, &["alpha", "beta", "gamma"]);
    }
    assert_eq!(d.ok(&["stop"]), "nothing of delta runs\n");
    assert_eq!(uuid(d), new, "stays on purpose");
    b.kill_all();
    for command in ["down", "leave-resource"] {
        a.ok(&[command, "ra", "--host=beta", "--force", "--timeout=1"]);
    }
    a.ok(&["leave-cluster", "--host=beta", "--force"]);
    for h in [a, g] {
        knows(h, &["alpha", "gamma"]);
    }
    // When it comes back it hears of that.
    b.ok(&["start"]);
    b.wait_tree("being thrown out", |s| {
        s.text(&mars_tree::Key::parse("ips/ip-beta")).is_none()
    });
    c.stop_clean(&[]);
}
