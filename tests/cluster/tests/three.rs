//! Three hosts.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_cluster::{Builder, Host};

const RES: &str = "three";

fn write(h: &Host, seek: u32) {
    h.sh(&format!(
        "dd if=/dev/urandom of=/dev/mars/three bs=1M count=8 seek={seek} conv=fsync status=none"
    ));
}

#[test]
fn three_hosts() {
    let c = Builder::new("three")
        .hosts(&["alpha", "beta", "gamma"])
        .disk("data", 128)
        .start();
    let gamma = c.host(2);
    c.form();
    c.resource(RES, "data");
    // Once around.
    for (i, h) in c.hosts.iter().enumerate() {
        h.marsadm(&["primary", RES]);
        h.wait_device(RES);
        write(h, 8 * i as u32);
        c.assert_same(i, RES, "data");
    }
    // One is cut off; the other two hand over without it, then it follows.
    gamma.marsadm(&["secondary", RES]);
    c.host(0).marsadm(&["primary", RES]);
    gamma.connect(false);
    write(c.host(0), 40);
    c.host(1).wait_view("diskstate", RES, "UpToDate");
    gamma.connect(true);
    c.assert_same(0, RES, "data");
    // One is switched off meanwhile.
    gamma.shutdown();
    c.host(1).marsadm(&["primary", RES]);
    c.host(1).wait_device(RES);
    write(c.host(1), 48);
    gamma.boot();
    c.assert_same(1, RES, "data");
    c.finish(&[]);
}
