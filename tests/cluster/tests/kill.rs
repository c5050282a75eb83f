//! `kill -9` of every daemon: systemd starts it again, and it goes on where it was.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_cluster::{Builder, Host, lines, wait_for};

const RES: &str = "kill";

/// What systemd says about a process that was killed.
const KILLED: &[&str] = &[
    "Main process exited, code=killed, status=9/KILL",
    "with result 'signal'",
];

fn write(h: &Host) {
    h.sh("dd if=/dev/urandom of=/dev/mars/kill bs=1M count=16 seek=$(($$ % 200)) conv=fsync status=none");
}

#[test]
fn kill_nine_of_every_daemon() {
    let c = Builder::new("kill").disk("data", 256).start();
    let (alpha, beta) = (c.host(0), c.host(1));
    c.form();
    c.resource(RES, "data");
    let everywhere = ["mars-meta.service"];
    let of_primary = ["mars-logger@kill.service"];
    let of_secondary = ["mars-fetch@kill.service", "mars-replay@kill.service"];
    for unit in everywhere.iter().chain(&of_primary) {
        write(alpha);
        alpha.kill_unit(unit);
        alpha.wait_device(RES);
    }
    for unit in everywhere.iter().chain(&of_secondary) {
        write(alpha);
        beta.kill_unit(unit);
    }
    write(alpha);
    beta.wait_view("diskstate", RES, "UpToDate");

    // The servers start with the next client.
    for unit in ["mars-fetch.service", "mars-sync.service"] {
        let pid = alpha.property(unit, "MainPID");
        assert_ne!(pid, "0", "{unit} does not run");
        alpha.ok(&["kill", "-9", &pid]);
    }
    write(alpha);
    beta.marsadm(&["invalidate", RES]);
    beta.wait_active("mars-sync@kill.service", "active");
    beta.kill_unit("mars-sync@kill.service");
    beta.wait_view("diskstate", RES, "UpToDate");
    for unit in ["mars-fetch.service", "mars-sync.service"] {
        alpha.wait_active(unit, "active");
    }
    c.assert_same(0, RES, "data");
    c.finish(KILLED);
}

/// The device stays while systemd starts the logger again: a mounted file system and who writes there notice a pause.
#[test]
fn kill_nine_of_the_logger_under_a_file_system() {
    let c = Builder::new("kill-mounted").disk("data", 256).start();
    let alpha = c.host(0);
    c.form();
    c.resource("mounted", "data");
    let program = c.share_program();
    alpha.sh(&format!(
        "mkfs.ext4 -q /dev/mars/mounted; mount /dev/mars/mounted /srv; \
         systemd-run --quiet --unit=lines {program} lines /srv/lines /cluster/ack"
    ));
    let written = || lines::acks(&c.shared_text("ack")).len();
    for _ in 0..3 {
        let before = written();
        wait_for("the load", || written() > before + 50);
        alpha.kill_unit("mars-logger@mounted.service");
        let before = written();
        wait_for("the load to go on", || written() > before + 50);
    }
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
    alpha.sh("umount /srv; e2fsck -fn /dev/mars/mounted");
    c.assert_same(0, "mounted", "data");
    c.finish(KILLED);
}
