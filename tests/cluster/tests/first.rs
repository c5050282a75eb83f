//! From nothing to a replicated file system, as the README tells it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_cluster::Builder;

#[test]
fn fresh_install_and_first_resource() {
    let c = Builder::new("first").bare().disk("data", 256).start();
    let (alpha, beta) = (c.host(0), c.host(1));
    let package = c.share_package(None);
    for h in &c.hosts {
        h.ok(&["dpkg", "-i", &package]);
        // Nothing is enabled or started without being asked.
        assert_eq!(h.active("mars.target"), "inactive");
        assert_eq!(h.property("mars.target", "UnitFileState"), "disabled");
    }
    c.form();
    alpha.marsadm(&["create-resource", "first", "/dev/vg/data"]);
    alpha.wait_device("first");
    alpha.ok(&["mkfs.ext4", "-q", "/dev/mars/first"]);
    beta.marsadm(&["join-resource", "first", "/dev/vg/data"]);
    alpha.sh("mount /dev/mars/first /srv; dd if=/dev/urandom of=/srv/file bs=1M count=20 conv=fsync status=none");
    beta.wait_view("diskstate", "first", "UpToDate");
    let sum = alpha.sh("sha256sum /srv/file; umount /srv");
    beta.marsadm(&["primary", "first"]);
    beta.wait_device("first");
    let there = beta.sh("mount /dev/mars/first /srv; sha256sum /srv/file; umount /srv");
    assert_eq!(sum, there);
    assert_eq!(alpha.view("is-primary", "first"), "0");
    c.assert_same(1, "first", "data");
    c.finish(&[]);
}
