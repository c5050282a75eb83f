//! Hosts go away and come back; nobody gives a command.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_cluster::{Builder, Cluster, Host};
use std::time::Instant;

const RES: &str = "boot";

fn write(h: &Host, name: &str) {
    h.sh(&format!(
        "dd if=/dev/urandom of=/srv/{name} bs=1M count=8 conv=fsync status=none"
    ));
}

fn mount(h: &Host) {
    h.sh("mount /dev/mars/boot /srv");
}

/// Boots, and says how long it takes until the device is there.
fn boot_to_primary(what: &str, h: &Host) {
    let started = Instant::now();
    h.boot_begin();
    h.wait_device(RES);
    println!(
        "{what}: boot to primary {} ms",
        started.elapsed().as_millis()
    );
    h.boot_end();
}

fn start(scenario: &str) -> Cluster {
    let c = Builder::new(scenario).disk("data", 256).start();
    c.form();
    c.resource(RES, "data");
    c.host(0).ok(&["mkfs.ext4", "-q", "/dev/mars/boot"]);
    mount(c.host(0));
    write(c.host(0), "before");
    c
}

#[test]
fn reboot_of_secondary_primary_and_both() {
    let c = start("reboot");
    let (alpha, beta) = (c.host(0), c.host(1));

    beta.shutdown();
    write(alpha, "beta-is-away");
    let started = Instant::now();
    beta.boot();
    beta.wait_view("diskstate", RES, "UpToDate");
    println!(
        "secondary: boot to UpToDate {} ms",
        started.elapsed().as_millis()
    );

    // The file system is still mounted and has not been synced.
    alpha.sh("cp /srv/before /srv/copy");
    alpha.shutdown();
    boot_to_primary("primary", alpha);
    mount(alpha);
    alpha.sh("cmp /srv/before /srv/copy; test -s /srv/beta-is-away; ! dmesg 2>/dev/null | grep -q 'ext4 error'");
    write(alpha, "again");
    beta.wait_view("diskstate", RES, "UpToDate");

    // systemd looks at many mount events only once a second: it does not know this mount when the shutdown begins.
    alpha.sh("umount /srv; for i in 1 2 3 4 5 6 7 8; do mount -t tmpfs none /mnt; umount /mnt; done; mount /dev/mars/boot /srv; cp /srv/again /srv/late");
    std::thread::scope(|s| {
        for h in &c.hosts {
            s.spawn(|| h.shutdown());
        }
    });
    beta.boot_begin();
    boot_to_primary("both at once", alpha);
    beta.boot_end();
    assert_eq!(beta.view("is-primary", RES), "0");
    mount(alpha);
    write(alpha, "both-are-back");
    alpha.sh("cmp /srv/before /srv/copy; cmp /srv/again /srv/late; umount /srv");
    c.assert_same(0, RES, "data");
    c.finish(&[]);
}

#[test]
fn reboot_after_power_cut_of_both() {
    let c = start("power-cut");
    let (alpha, beta) = (c.host(0), c.host(1));
    alpha.power_cut();
    beta.power_cut();
    beta.boot_begin();
    boot_to_primary("power cut of both", alpha);
    beta.boot_end();
    mount(alpha);
    write(alpha, "after");
    alpha.sh("test $(stat -c %s /srv/before) = 8388608; umount /srv; e2fsck -fn /dev/mars/boot");
    c.assert_same(0, RES, "data");
    c.finish(&[]);
}
