//! The package is exchanged under load.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_cluster::{Builder, lines, wait_for};

const RES: &str = "upgrade";

#[test]
fn upgrade_under_load() {
    let c = Builder::new("upgrade").disk("data", 256).start();
    let (alpha, beta) = (c.host(0), c.host(1));
    c.form();
    c.resource(RES, "data");
    let program = c.share_program();
    alpha.sh(&format!(
        "mkfs.ext4 -q /dev/mars/upgrade; mount /dev/mars/upgrade /srv; \
         systemd-run --quiet --unit=lines {program} lines /srv/lines /cluster/ack"
    ));
    let written = || lines::acks(&c.shared_text("ack")).len();
    let package = c.share_package(Some("99.0-1"));
    for h in [beta, alpha, alpha] {
        let daemons = ["mars-meta.service", "mars-*@upgrade.service"];
        let pids = || daemons.map(|unit| h.property(unit, "MainPID"));
        let before = (written(), pids());
        h.ok(&["dpkg", "-i", &package]);
        wait_for("the load to go on", || written() > before.0 + 50);
        let after = pids();
        println!("{}: processes {:?} became {after:?}", h.name, before.1);
        for (old, new) in before.1.iter().zip(&after) {
            assert_ne!(old, new, "{}: a daemon was not exchanged", h.name);
        }
    }
    // Not one write has failed, or the service would have ended.
    assert_eq!(alpha.active("lines.service"), "active");
    alpha.ok(&["systemctl", "stop", "lines.service"]);
    let acks = lines::acks(&c.shared_text("ack"));
    println!(
        "{} lines; longest time without one {} ms",
        acks.len(),
        acks.windows(2).map(|w| w[1].at - w[0].at).max().unwrap()
    );
    assert_eq!(lines::wrong(&alpha.sh("cat /srv/lines"), &acks), None);
    alpha.sh("umount /srv; e2fsck -fn /dev/mars/upgrade");
    c.assert_same(0, RES, "data");
    c.finish(&[]);
}
