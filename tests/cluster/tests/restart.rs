//! Restart of a logger by systemd while its device is in use: a mounted file system and who writes there notice a pause; and what a stop and a shutdown
//! do instead.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_cluster::{Builder, lines, wait_for};

const UNIT: &str = "mars-logger@data.service";

#[test]
fn restart_of_the_logger_under_a_file_system() {
    let c = Builder::new("restart")
        .hosts(&["alpha"])
        .disk("data", 256)
        .start();
    let alpha = c.host(0);
    c.form();
    c.resource("data", "data");
    let program = c.share_program();
    alpha.sh(&format!(
        "mkfs.ext4 -q /dev/mars/data; mount -o errors=remount-ro /dev/mars/data /srv; \
         systemd-run --quiet --unit=lines {program} lines /srv/lines /cluster/ack"
    ));
    let device = alpha.sh("readlink /dev/mars/data");
    let written = || lines::acks(&c.shared_text("ack")).len();
    for restart in ["restart", "try-restart", "restart", "reload-or-restart"] {
        let before = written();
        wait_for("the load", || written() > before + 50);
        alpha.ok(&["systemctl", restart, UNIT]);
        let before = written();
        wait_for("the load to go on", || written() > before + 50);
        assert_eq!(alpha.sh("readlink /dev/mars/data"), device);
    }
    // Everything restarts, as after an upgrade.
    alpha.ok(&["systemctl", "restart", "mars.target"]);
    let before = written();
    wait_for("the load to go on", || written() > before + 50);
    let status = alpha.property(UNIT, "StatusText");
    assert!(status.starts_with("logging in log-"), "{status}");
    assert_eq!(alpha.property(UNIT, "NFileDescriptorStore"), "1");
    assert_eq!(alpha.active("lines.service"), "active");
    alpha.ok(&["systemctl", "stop", "lines.service"]);
    let acks = lines::acks(&c.shared_text("ack"));
    let longest = acks.windows(2).map(|w| w[1].at - w[0].at).max();
    println!(
        "{} lines; longest pause {} ms",
        acks.len(),
        longest.unwrap()
    );
    assert_eq!(lines::wrong(&alpha.sh("cat /srv/lines"), &acks), None);
    alpha.sh("umount /srv; e2fsck -fn /dev/mars/data");

    // A stop takes the device away, with nothing left in the store, and the reconciler brings it back.
    alpha.ok(&["systemctl", "stop", UNIT]);
    assert_eq!(alpha.property(UNIT, "NFileDescriptorStore"), "0");
    alpha.sh("test ! -e /dev/mars/data");
    alpha.marsadm(&["systemd-trigger"]);
    alpha.wait_device("data");

    // Shutdown with a mount that was made by hand and that nobody ordered: what was written last is there afterwards.
    alpha.sh("mount /dev/mars/data /srv; cp /srv/lines /srv/copy");
    alpha.shutdown();
    alpha.boot();
    alpha.wait_device("data");
    alpha.sh("e2fsck -fn /dev/mars/data; mount /dev/mars/data /srv; cmp /srv/lines /srv/copy; umount /srv");
    c.finish(&[]);
}
