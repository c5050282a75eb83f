//! Names that systemd has to escape.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_cluster::Builder;

#[test]
fn names_that_need_escapes() {
    let c = Builder::new("names")
        .disk("one", 64)
        .disk("two", 64)
        .start();
    let (alpha, beta) = (c.host(0), c.host(1));
    c.form();
    alpha.refused(&["create-resource", "lv.0", "/dev/vg/one"], &["lv.0"]);
    let names = [("lv-0_data", "one"), ("a--b-", "two")];
    for (res, disk) in names {
        c.resource(res, disk);
        let unit = alpha.ok(&["systemd-escape", "--template=mars-logger@.service", res]);
        assert_eq!(alpha.active(unit.trim_end()), "active", "{unit}");
        alpha.sh(&format!(
            "mkfs.ext4 -q /dev/mars/{res}; mount /dev/mars/{res} /srv; echo alpha >/srv/{res}; umount /srv"
        ));
        beta.marsadm(&["primary", res]);
        beta.wait_device(res);
        beta.sh(&format!(
            "mount /dev/mars/{res} /srv; test $(cat /srv/{res}) = alpha; umount /srv"
        ));
        c.assert_same(1, res, disk);
    }
    beta.shutdown();
    beta.boot();
    for (res, disk) in names {
        beta.wait_device(res);
        c.assert_same(1, res, disk);
    }
    c.finish(&[]);
}
