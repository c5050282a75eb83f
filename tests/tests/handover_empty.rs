//! I7 without a single write: a resource that was just made and joined changes hands and comes back.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_tests::{Cluster, check, digest, make_disk, write};

const SIZE: u64 = 4 << 20;
const RES: &str = "data";

#[test]
fn handover_without_any_write() {
    let cluster = Cluster::new(
        &["alpha", "beta"],
        "front = \"nbd-socket\"\nheartbeat_ms = 300\n",
    );
    let (alpha, beta) = (cluster.host(0), cluster.host(1));
    let disks = [alpha.file("disk.img"), beta.file("disk.img")];
    make_disk(&disks[0], SIZE, true);
    make_disk(&disks[1], SIZE, false);
    cluster.form();
    alpha.ok(&["create-resource", RES, &disks[0].display().to_string()]);
    // At once: the logger may not have replaced the placeholder yet.
    beta.ok(&["join-resource", RES, &disks[1].display().to_string()]);
    beta.wait_view("diskstate", RES, "UpToDate");
    // The worst case, made certain: beta's copy was taken before.
    let zeros = "0".repeat(32);
    let mut b = mars_tree::Batch::new();
    b.set(
        mars_tree::Key::parse("resource-data/version-000000001-beta"),
        format!("{zeros},log-000000001-alpha,0:{zeros},log-000000000-alpha,0"),
    );
    beta.tree().commit(&b).unwrap();
    for h in [beta, alpha, beta, alpha] {
        h.ok(&["primary", RES, "--timeout=30"]);
        h.ok(&["wait-resource", RES, "is-device-on"]);
    }
    // And it still works.
    let journal = alpha.file("journal");
    let r = write(&alpha.uri(RES), &journal, SIZE, &["--batches", "5"]);
    assert_eq!(r.code, 0, "{r:?}");
    beta.wait_view("diskstate", RES, "UpToDate");
    for h in [alpha, beta] {
        let seen = h.run(&["view", RES]);
        assert!(!seen.err.contains("SPLIT BRAIN"), "{seen:?}");
    }
    cluster.stop_clean(&[]);
    for d in &disks {
        println!("{}", check(d, &journal, "--final").trim());
    }
    assert_eq!(digest(&disks[0]), digest(&disks[1]));
}
