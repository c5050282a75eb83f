//! Forced failover, split brain, and its resolution.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_tests::{Cluster, Host, check, digest, make_disk, write};

const SIZE: u64 = 16 << 20;
const RES: &str = "data";
const CONFIG: &str = "front = \"nbd-socket\"\nheartbeat_ms = 300\n";

fn two_hosts() -> (Cluster, [std::path::PathBuf; 2]) {
    let cluster = Cluster::new(&["alpha", "beta"], CONFIG);
    let disks = [
        cluster.host(0).file("disk.img"),
        cluster.host(1).file("disk.img"),
    ];
    make_disk(&disks[0], SIZE, true);
    make_disk(&disks[1], SIZE, false);
    cluster.form();
    let (alpha, beta) = (cluster.host(0), cluster.host(1));
    alpha.ok(&["create-resource", RES, &disks[0].display().to_string()]);
    alpha.ok(&["wait-resource", RES, "is-device-on"]);
    beta.ok(&["join-resource", RES, &disks[1].display().to_string()]);
    beta.wait_view("diskstate", RES, "UpToDate");
    (cluster, disks)
}

/// Everything that `leader` has logged in its log `nr` is on both disks. (`UpToDate` alone may be said before the leader has published
/// what it logged a moment ago.)
fn replayed(follower: &Host, leader: &Host, nr: u32) {
    let res = RES.parse().unwrap();
    follower.wait_tree("replay of everything", |s| {
        let logged = s.version(&res, nr, &leader.env.host).map(|v| v.head.len);
        s.replay(&res, &leader.env.host).is_some_and(|p| {
            let is_end = p.log.nr == nr && p.pos > 0 && p.dirty == 0 && Some(p.pos) == logged;
            is_end && s.replay(&res, &follower.env.host) == Some(p)
        })
    });
}

/// The unmodified old primary returns after a failover: it follows without a sync and without a split brain.
#[test]
fn failover_old_primary_follows() {
    let (cluster, disks) = two_hosts();
    let (alpha, beta) = (cluster.host(0), cluster.host(1));
    let journal = alpha.file("journal");
    assert_eq!(
        write(&alpha.uri(RES), &journal, SIZE, &["--batches", "20"]).code,
        0
    );
    replayed(beta, alpha, 1);
    alpha.kill_all();
    let r = beta.run(&["primary", RES, "--timeout=2"]);
    assert_eq!(
        (r.code, r.err.contains("alpha")),
        (3, true),
        "a planned handover needs the old primary: {r:?}"
    );
    beta.ok(&["pause-fetch", RES]);
    beta.ok(&["primary", "--force", RES]);
    beta.ok(&["wait-resource", RES, "is-device-on"]);
    assert_eq!(
        write(&beta.uri(RES), &journal, SIZE, &["--batches", "20"]).code,
        0
    );

    alpha.ok(&["start"]);
    alpha.wait_view("role", RES, "Secondary");
    replayed(alpha, beta, 2);
    alpha.wait_view("diskstate", RES, "UpToDate");
    for h in [alpha, beta] {
        let r = h.run(&["view", RES]);
        assert!(
            !r.err.contains("SPLIT BRAIN"),
            "{}: {r:?}\n{}",
            h.env.host,
            h.links(RES)
        );
    }
    cluster.stop_clean(&[]);
    for d in &disks {
        println!("{}", check(d, &journal, "--final").trim());
    }
    assert_eq!(digest(&disks[0]), digest(&disks[1]));
}

/// I8: both sides wrote. Both see it, nothing is replayed past the split; `invalidate` at the loser heals.
#[test]
fn failover_split_brain_is_seen_and_healed() {
    let (cluster, disks) = two_hosts();
    let (alpha, beta) = (cluster.host(0), cluster.host(1));
    let journal = alpha.file("journal");
    assert_eq!(
        write(&alpha.uri(RES), &journal, SIZE, &["--batches", "10"]).code,
        0
    );
    // beta goes on from here, so it must have got here.
    replayed(beta, alpha, 1);
    beta.kill_all();
    // What alpha writes now is known to nobody else.
    let lost = alpha.file("lost-journal");
    std::fs::copy(&journal, &lost).unwrap();
    assert_eq!(
        write(&alpha.uri(RES), &lost, SIZE, &["--batches", "5"]).code,
        0
    );
    alpha.kill_all();
    beta.ok(&["start"]);
    beta.ok(&["pause-fetch", RES]);
    beta.ok(&["primary", "--force", RES]);
    beta.ok(&["wait-resource", RES, "is-device-on"]);
    assert_eq!(
        write(
            &beta.uri(RES),
            &journal,
            SIZE,
            &["--batches", "10", "--seed", "2"]
        )
        .code,
        0
    );

    alpha.ok(&["start"]);
    for h in [alpha, beta] {
        h.wait_tree("split brain seen", |_| {
            h.run(&["view", RES]).err.contains("SPLIT BRAIN")
        });
    }
    assert_ne!(
        alpha.run(&["view-diskstate", RES]).out.trim(),
        "UpToDate",
        "I8: a loser of a split brain is never UpToDate"
    );

    alpha.ok(&["invalidate", RES]);
    alpha.wait_view("diskstate", RES, "UpToDate");
    for h in [alpha, beta] {
        h.wait_tree("split brain gone", |_| {
            !h.run(&["view", RES]).err.contains("SPLIT BRAIN")
        });
    }
    cluster.stop_clean(&[]);
    for d in &disks {
        println!("{}", check(d, &journal, "--final").trim());
    }
    assert_eq!(digest(&disks[0]), digest(&disks[1]));
}

/// The old primary had just opened a log and written nothing to it when it died, and nobody had heard of that log: it is no history, and
/// the returning host passes it by.
#[test]
fn failover_empty_log_of_the_old_primary_splits_nothing() {
    let (cluster, disks) = two_hosts();
    let (alpha, beta) = (cluster.host(0), cluster.host(1));
    let journal = alpha.file("journal");
    assert_eq!(
        write(&alpha.uri(RES), &journal, SIZE, &["--batches", "10"]).code,
        0
    );
    replayed(beta, alpha, 1);
    beta.kill_all();
    alpha.ok(&["log-rotate", RES]);
    alpha.wait_tree("the next log", |s| {
        let res = RES.parse().unwrap();
        s.version(&res, 2, &alpha.env.host).is_some()
    });
    alpha.kill_all();
    beta.ok(&["start"]);
    beta.ok(&["pause-fetch", RES]);
    beta.ok(&["primary", "--force", RES]);
    beta.ok(&["wait-resource", RES, "is-device-on"]);
    assert_eq!(
        write(&beta.uri(RES), &journal, SIZE, &["--batches", "10"]).code,
        0
    );

    alpha.ok(&["start"]);
    alpha.wait_view("role", RES, "Secondary");
    replayed(alpha, beta, 2);
    alpha.wait_view("diskstate", RES, "UpToDate");
    for h in [alpha, beta] {
        let r = h.run(&["view", RES]);
        assert!(
            !r.err.contains("SPLIT BRAIN"),
            "{}: {r:?}\n{}",
            h.env.host,
            h.links(RES)
        );
    }
    cluster.stop_clean(&[]);
    for d in &disks {
        println!("{}", check(d, &journal, "--final").trim());
    }
    assert_eq!(digest(&disks[0]), digest(&disks[1]));
}
