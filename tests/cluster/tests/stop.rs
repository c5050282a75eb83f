//! `systemctl stop` of single units: it lasts until the reconciler runs, which brings back what the tree demands.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_cluster::Builder;

const RES: &str = "stop";

#[test]
fn stop_of_single_units() {
    let c = Builder::new("stop").disk("data", 256).start();
    let (alpha, beta) = (c.host(0), c.host(1));
    c.form();
    c.resource(RES, "data");

    for (h, unit) in [
        (alpha, "mars-logger@stop.service"),
        (alpha, "mars-meta.service"),
        (beta, "mars-fetch@stop.service"),
        (beta, "mars-replay@stop.service"),
        (beta, "mars-meta.service"),
    ] {
        h.ok(&["systemctl", "stop", unit]);
        h.marsadm(&["systemd-trigger"]);
        h.wait_active(unit, "active");
    }
    alpha.wait_device(RES);

    // A socket that is stopped stops its server; both belong to mars.target.
    for socket in ["mars-fetch.socket", "mars-sync.socket"] {
        alpha.ok(&["systemctl", "stop", socket]);
        alpha.ok(&["systemctl", "start", "mars.target"]);
        alpha.wait_active(socket, "active");
    }

    // Everything at once; the reconciler leaves a host alone that has been stopped.
    for h in [alpha, beta] {
        h.ok(&["systemctl", "stop", "mars.target"]);
        h.marsadm(&["systemd-trigger"]);
        let running = h.sh("systemctl list-units --plain --no-legend --state=active 'mars-*@*' 'mars-meta*' 'mars-fetch*' 'mars-sync*'");
        assert_eq!(running, "", "{}", h.name);
    }
    assert_eq!(alpha.run(&["test", "-e", "/dev/mars/stop"]).code, 1);
    for h in [alpha, beta] {
        h.ok(&["systemctl", "start", "mars.target"]);
    }
    alpha.wait_device(RES);
    alpha.sh("dd if=/dev/urandom of=/dev/mars/stop bs=1M count=16 conv=fsync status=none");
    c.assert_same(0, RES, "data");
    c.finish(&[]);
}

/// What is mounted is not taken away by stopping its logger.
#[test]
fn stop_of_a_logger_in_use() {
    let c = Builder::new("stop-in-use").disk("data", 256).start();
    let alpha = c.host(0);
    c.form();
    c.resource("inuse", "data");
    alpha.sh("mkfs.ext4 -q /dev/mars/inuse; mount /dev/mars/inuse /srv; echo one >/srv/one; sync -f /srv");
    alpha.ok(&[
        "systemctl",
        "stop",
        "--no-block",
        "mars-logger@inuse.service",
    ]);
    alpha.wait_active("mars-logger@inuse.service", "deactivating");
    alpha.sh("echo two >/srv/two; sync -f /srv; umount /srv");
    alpha.wait_active("mars-logger@inuse.service", "inactive");
    alpha.marsadm(&["systemd-trigger"]);
    alpha.wait_device("inuse");
    alpha.sh("e2fsck -fn /dev/mars/inuse; mount /dev/mars/inuse /srv; cat /srv/one /srv/two; umount /srv");
    c.assert_same(0, "inuse", "data");
    c.finish(&[]);
}
