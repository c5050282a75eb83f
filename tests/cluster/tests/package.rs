//! The Debian package on hosts that have never seen MARS: installed, used, upgraded under load, removed, purged.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_cluster::{Builder, Host, lines, wait_for};
use std::collections::BTreeMap;

const FIRST: &str = "0.1.0-1";
const SECOND: &str = "0.1.0-2";

/// With apt, so that the dependencies are checked. Returns what it said.
fn install(h: &Host, deb: &str) -> String {
    let r = h.run(&[
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "install",
        "-y",
        "--no-install-recommends",
        deb,
    ]);
    assert_eq!(r.code, 0, "{}: {}{}", h.name, r.out, r.err);
    r.out + &r.err
}

/// Main processes of all running services of MARS, but for those that come and go.
fn processes(h: &Host) -> BTreeMap<String, String> {
    let list = h.ok(&[
        "systemctl",
        "list-units",
        "--plain",
        "--no-legend",
        "--state=running",
        "mars-*.service",
    ]);
    list.lines()
        .filter_map(|l| l.split_whitespace().next())
        .filter(|u| !u.contains("trigger") && !u.contains("cron"))
        .map(|u| (u.to_string(), h.property(u, "MainPID")))
        .collect()
}

/// Lines of the package's own.
fn said(text: &str) -> Vec<&str> {
    text.lines().filter(|l| l.starts_with("mars: ")).collect()
}

/// Everything on the host whose name has to do with MARS, outside of `/mars`, of dpkg's memory of past versions and of logs.
fn left_overs(h: &Host) -> String {
    h.sh("find / -xdev -path /proc -prune -o -path /sys -prune -o -path /mars -prune -o -path /cluster -prune -o -path /var/log -prune -o -name mars.mount -prune \
          -o \\( -name 'mars*' -o -name '*mars1*' -o -name '60-mars*' \\) -print; ls -d /run/mars /run/systemd/system/*mars* 2>/dev/null || true")
}

fn nothing_runs(h: &Host) {
    let left = h.sh("ps -eo comm= | grep '^mars' || true");
    assert_eq!(left, "", "{}", h.name);
}

/// Waits until the device is in use in this way; then the package does not let itself be removed.
fn not_removable(h: &Host, why: &str) {
    wait_for(&format!("{}: {why}", h.name), || {
        let r = h.run(&["/usr/lib/marsadm/maintain", "removable"]);
        r.code == 1 && r.err.contains(why)
    });
    let r = h.run(&["dpkg", "--remove", "mars"]);
    assert_ne!(r.code, 0, "{r:?}");
    let text = r.err.clone() + &r.out;
    assert_eq!(said(&text).len(), 1, "{text}");
    assert!(said(&text)[0].contains(why), "{text}");
}

#[test]
fn package_install_use_upgrade_remove_purge() {
    let c = Builder::new("package").bare().disk("data", 256).start();
    let (alpha, beta) = (c.host(0), c.host(1));
    let first = c.share_package(Some(FIRST));
    let second = c.share_package(Some(SECOND));

    // Installed: everything is there, nothing is enabled, nothing runs.
    for h in &c.hosts {
        let text = install(h, &first);
        assert!(said(&text).is_empty(), "{text}");
        assert_eq!(
            h.sh("dpkg --verify mars | grep -v '/usr/share/\\(doc\\|man\\|locale\\)/' || true"),
            ""
        );
        let enabled = h.sh("systemctl list-unit-files --no-legend --state=enabled 'mars*' | grep -v '^mars.mount ' || true");
        assert_eq!(enabled, "", "{}", h.name);
        let active =
            h.sh("systemctl list-units --plain --no-legend --state=active,activating 'mars*' | grep -v '^mars.mount ' || true");
        assert_eq!(active, "", "{}", h.name);
        nothing_runs(h);
        let catalog = h.ok(&["journalctl", "--list-catalog"]);
        assert!(catalog.contains("MARS"), "{}: {catalog}", h.name);
    }

    // Used.
    c.form();
    c.resource("data", "data");
    alpha.sh("mkfs.ext4 -q /dev/mars/data; mkdir /srv/data; mount /dev/mars/data /srv/data; echo '# mine' >>/etc/mars/mars.conf");
    let program = c.share_program();
    alpha.sh(&format!(
        "systemd-run --quiet --unit=writer {program} lines /srv/data/lines /cluster/acks"
    ));
    let acks = || lines::acks(&c.shared_text("acks"));
    wait_for("the writer to begin", || acks().len() > 10);

    // Upgraded while the writer writes: all daemons are other processes, the mount and the writer notice nothing.
    for h in [beta, alpha] {
        let before = processes(h);
        assert!(before.len() >= 2, "{}: {before:?}", h.name);
        let text = install(h, &second);
        let after = processes(h);
        assert_eq!(
            before.keys().collect::<Vec<_>>(),
            after.keys().collect::<Vec<_>>(),
            "{}: {text}",
            h.name
        );
        let same: Vec<&String> = after.keys().filter(|u| before[*u] == after[*u]).collect();
        assert_eq!(same, Vec::<&String>::new(), "{}: {text}", h.name);
        assert!(said(&text).is_empty(), "{}: {text}", h.name);
    }
    let now = acks().len();
    wait_for("the writer to go on", || acks().len() > now + 10);
    assert_eq!(alpha.active("writer.service"), "active");
    let mounted = alpha.sh("grep ' /srv/data ' /proc/mounts");
    assert!(mounted.contains(" ext4 rw,"), "{mounted}");
    assert_eq!(alpha.sh("tail -n 1 /etc/mars/mars.conf"), "# mine\n");

    // Removal is refused with one line while the device is in use, whoever uses it, and nothing is stopped.
    let before = processes(alpha);
    not_removable(alpha, "/dev/mars/data is mounted on /srv/data");
    assert_eq!(processes(alpha), before);
    alpha.sh("systemctl stop writer; umount /srv/data; systemd-run --quiet --unit=holder sh -c 'exec sleep infinity </dev/mars/data'");
    not_removable(alpha, "/dev/mars/data is held open by sleep");
    alpha.sh("systemctl stop holder");

    // Removed: no daemon is left, nor what was made from templates; the state stays.
    let unit = "[Service]\\nExecStart=/bin/sleep infinity\\n";
    alpha.sh(&format!(
        "cd /run/systemd/system; printf '### GENERATED FROM: /x\\n{unit}' >made.service; printf '{unit}' >other.service; \
         systemctl daemon-reload; systemctl start made other"
    ));
    alpha.ok(&["dpkg", "--remove", "mars"]);
    nothing_runs(alpha);
    assert_eq!(alpha.property("made.service", "LoadState"), "not-found");
    assert_eq!(alpha.active("made.service"), "inactive");
    assert_eq!(alpha.active("other.service"), "active");
    assert_eq!(alpha.run(&["test", "-e", "/dev/mars/data"]).code, 1);
    assert_eq!(alpha.run(&["test", "-L", "/mars/uuid"]).code, 0);
    assert_eq!(alpha.sh("tail -n 1 /etc/mars/mars.conf"), "# mine\n");

    // Installed again: what was enabled is still enabled, and the data is there.
    install(alpha, &second);
    assert_eq!(
        alpha.ok(&["systemctl", "is-enabled", "mars.target"]),
        "enabled\n"
    );
    alpha.ok(&["systemctl", "start", "mars.target"]);
    alpha.marsadm(&["systemd-trigger"]);
    alpha.wait_device("data");
    let written = alpha.sh("mount /dev/mars/data /srv/data; cat /srv/data/lines; umount /srv/data");
    assert_eq!(lines::wrong(&written, &acks()), None);

    // Purged.
    for h in [alpha, beta] {
        let r = h.run(&["dpkg", "--purge", "mars"]);
        assert_eq!(r.code, 0, "{r:?}");
        assert!(
            r.out
                .contains("mars: /mars (the state of the cluster and the logs) was not removed"),
            "{r:?}"
        );
        nothing_runs(h);
        assert_eq!(h.run(&["test", "-L", "/mars/uuid"]).code, 0);
        assert_eq!(left_overs(h), "", "{}", h.name);
        let known = h.sh("systemctl list-units --all --plain --no-legend 'mars*.service' 'mars*.target' 'mars*.socket'");
        assert_eq!(known, "", "{}", h.name);
        let catalog = h.ok(&["journalctl", "--list-catalog"]);
        assert!(!catalog.contains("MARS"), "{}: {catalog}", h.name);
    }
    c.finish(&[]);
}

/// Clients of a socket cannot be handed over: their logger is left alone, and everything else is exchanged.
#[test]
fn package_upgrade_spares_nbd_clients() {
    let c = Builder::new("package-nbd")
        .hosts(&["alpha"])
        .bare()
        .disk("data", 64)
        .start();
    let alpha = c.host(0);
    install(alpha, &c.share_package(Some(FIRST)));
    alpha.sh("echo 'front = \"nbd-socket\"' >/etc/mars/mars.conf.d/test.toml");
    c.form();
    alpha.marsadm(&["create-resource", "data", "/dev/vg/data"]);
    alpha.ok(&["test", "-S", "/dev/mars/data"]);
    // As simple as a client can be: it opens the export and waits.
    let client = r#"use IO::Socket::UNIX;
        my $s = IO::Socket::UNIX->new(Peer => "/dev/mars/data") or die;
        read($s, my $greeting, 18) == 18 or die;
        print $s pack("N", 3), "IHAVEOPT", pack("NN", 1, 4), "data";
        $s->flush;
        read($s, my $export, 10) == 10 or die;
        sleep;
    "#;
    c.share("client", client, 0o644);
    alpha.sh("systemd-run --quiet --unit=client perl /cluster/client");
    wait_for("the export to be open", || {
        alpha.view("device-opened", "data") == "1"
    });
    // Only now: without a client the removal would be done.
    let refused = alpha.run(&["dpkg", "--remove", "mars"]).err;
    assert!(
        refused.contains("/dev/mars/data has NBD clients"),
        "{refused}"
    );
    let before = processes(alpha);
    let text = install(alpha, &c.share_package(Some(SECOND)));
    let after = processes(alpha);
    let same: Vec<&String> = after.keys().filter(|u| before[*u] == after[*u]).collect();
    assert_eq!(same, ["mars-logger@data.service"], "{text}");
    assert_eq!(said(&text).len(), 1, "{text}");
    assert!(
        said(&text)[0].contains("mars-logger@data.service keeps running the old version"),
        "{text}"
    );
    assert_eq!(alpha.active("client.service"), "active");
    // As it was told.
    alpha.sh("systemctl stop client; systemctl restart mars-logger@data.service");
    assert_ne!(
        processes(alpha)["mars-logger@data.service"],
        before["mars-logger@data.service"]
    );
    c.finish(&[]);
}
