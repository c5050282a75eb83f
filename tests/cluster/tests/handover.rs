//! A service and its file system follow the primary role.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_cluster::{Builder, Cluster, Host, lines, wait_for};
use std::time::Instant;

/// Template of an administrator: a service that writes all the time. The file system below it comes from the templates that are installed.
const LINES: &str = "\
[Unit]
Description=Writes lines into @{res}
BindsTo=srv-@escvar{res}.mount
After=srv-@escvar{res}.mount

[Service]
ExecStart=/cluster/mars-cluster lines /srv/@{res}/lines /cluster/ack
";

const POSTGRES: &str = "\
[Unit]
Description=PostgreSQL on @{res}
BindsTo=srv-@escvar{res}.mount
After=srv-@escvar{res}.mount

[Service]
Type=notify
User=postgres
RuntimeDirectory=postgresql
ExecStart=/usr/lib/postgresql/15/bin/postgres -D /srv/@{res}/pg
KillMode=mixed
KillSignal=SIGINT
TimeoutStopSec=60
";

const PGBENCH: &str = "\
[Unit]
Description=Load on the PostgreSQL of @{res}
BindsTo=pg-@escvar{res}.service
After=pg-@escvar{res}.service

[Service]
User=postgres
ExecStart=/usr/lib/postgresql/15/bin/pgbench -n -c 4 -j 2 -T 3600 -f /cluster/transaction.sql postgres
";

/// One transaction of pgbench, with an identifier that is acknowledged outside once it is committed.
const TRANSACTION: &str = "\
\\set id random(1, 1000000000000000)
\\set aid random(1, 100000)
\\set delta random(-5000, 5000)
BEGIN;
UPDATE pgbench_accounts SET abalance = abalance + :delta WHERE aid = :aid;
UPDATE pgbench_tellers SET tbalance = tbalance + :delta WHERE tid = 1 + :aid % 10;
UPDATE pgbench_branches SET bbalance = bbalance + :delta WHERE bid = 1;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1 + :aid % 10, 1, :aid, :delta, CURRENT_TIMESTAMP);
INSERT INTO committed VALUES (:id);
END;
\\shell /cluster/acknowledge :id
";

const ACKNOWLEDGE: &str = "#!/bin/sh\necho $1 $(uname -n) $(date +%s%3N) >>/cluster/ack\n";

fn template(c: &Cluster, name: &str, text: &str) {
    for h in &c.hosts {
        h.write(&format!("/etc/marsadm/systemd-templates/{name}"), text);
    }
}

fn acks(c: &Cluster) -> Vec<lines::Ack> {
    lines::acks(&c.shared_text("ack"))
}

/// The service runs at `h`: it acknowledges something new.
fn wait_served(c: &Cluster, h: &Host) {
    let before = acks(c).len();
    wait_for(&format!("acknowledgements from {}", h.name), || {
        acks(c)[before..].iter().any(|a| a.host == h.name)
    });
}

/// Hands over so many times, beginning with the second host; prints the downtimes.
fn back_and_forth(c: &Cluster, res: &str, what: &str, times: usize) {
    let mut commands = Vec::new();
    for i in 0..times {
        let new = c.host((i + 1) % 2);
        let started = Instant::now();
        new.marsadm(&["primary", res]);
        commands.push(started.elapsed().as_millis());
        wait_served(c, new);
    }
    let down = lines::downtimes(&acks(c));
    println!("{what}: {times} handovers: downtime in ms {down:?}, the command took {commands:?}");
    assert_eq!(down.len(), times, "the service changed the host so often");
}

/// Shuts down and boots; the service comes back with no command given.
fn reboot(c: &Cluster, h: &Host, what: &str) {
    let started = Instant::now();
    h.shutdown();
    let down = started.elapsed().as_millis();
    let started = Instant::now();
    h.boot_begin();
    wait_served(c, h);
    let up = started.elapsed().as_millis();
    println!("{what}: down in {down} ms, boot to service {up} ms");
    h.boot_end();
}

/// Takes the stack down and gives back what `script` prints at the primary, where the file system is mounted by hand.
fn look(c: &Cluster, h: &Host, res: &str, script: &str) -> String {
    h.marsadm(&["set-systemd-want", res, "(none)"]);
    let out = h.sh(&format!(
        "mount /dev/mars/{res} /mnt; {script}; umount /mnt; e2fsck -fn /dev/mars/{res} >&2"
    ));
    let number = c.hosts.iter().position(|x| x.name == h.name).unwrap();
    c.assert_same(number, res, res);
    out
}

#[test]
fn handover_ten_times_with_a_writing_service() {
    let c = Builder::new("handover").disk("lines", 256).start();
    let alpha = c.host(0);
    c.form();
    c.resource("lines", "lines");
    c.share_program();
    alpha.ok(&["mkfs.ext4", "-q", "/dev/mars/lines"]);
    template(&c, "lines-@escvar{res}.service", LINES);
    alpha.marsadm(&[
        "set-systemd-unit",
        "lines",
        "lines-lines.service",
        "srv-lines.mount",
    ]);
    wait_served(&c, alpha);
    back_and_forth(&c, "lines", "ext4 and a service", 10);
    reboot(&c, alpha, "reboot of the primary");
    let text = look(&c, alpha, "lines", "cat /mnt/lines");
    let acks = acks(&c);
    println!("{} lines acknowledged", acks.len());
    assert_eq!(lines::wrong(&text, &acks), None);
    c.finish(&[]);
}

/// Somebody sits in the file system: the role stays, the service goes on where it was, and the command says who it is.
#[test]
fn handover_refused_while_a_shell_sits_in_the_mount() {
    let c = Builder::new("refused").disk("sits", 256).start();
    let (alpha, beta) = (c.host(0), c.host(1));
    c.form();
    c.resource("sits", "sits");
    c.share_program();
    alpha.ok(&["mkfs.ext4", "-q", "/dev/mars/sits"]);
    template(&c, "lines-@escvar{res}.service", LINES);
    alpha.marsadm(&[
        "set-systemd-unit",
        "sits",
        "lines-sits.service",
        "srv-sits.mount",
    ]);
    wait_served(&c, alpha);
    alpha.sh(
        // Not --working-directory: that would make it a part of the stack, which is stopped with it.
        "systemd-run --quiet --unit=sitter sh -c 'cd /srv/sits; sleep 10000; true'",
    );
    let pid = alpha.property("sitter.service", "MainPID");
    let r = beta.refused(&["primary", "sits", "--timeout=8"], &["alpha", &pid, "sh"]);
    println!("refused: {}", r.err.trim_end());
    wait_served(&c, alpha);
    assert_eq!(beta.view("is-primary", "sits"), "0");
    assert_eq!(
        alpha.marsadm(&["get-systemd-want", "sits"]).trim_end(),
        "alpha"
    );

    let story = alpha.sh("journalctl -o cat MARS_RESOURCE=sits MARS_EVENT=stack-failed");
    assert!(story.contains("unit srv-sits.mount: "), "{story}");

    alpha.ok(&["systemctl", "stop", "sitter.service"]);
    beta.marsadm(&["primary", "sits"]);
    wait_served(&c, beta);
    let text = look(&c, beta, "sits", "cat /mnt/lines");
    assert_eq!(lines::wrong(&text, &acks(&c)), None);
    // The unmount that did not work leaves its line.
    c.finish(&["target is busy", "Failed unmounting", "srv-sits.mount"]);
}

#[test]
fn handover_of_postgresql_under_pgbench() {
    let c = Builder::new("postgresql").disk("pg", 512).start();
    let alpha = c.host(0);
    c.form();
    c.resource("pg", "pg");
    c.share("transaction.sql", TRANSACTION, 0o644);
    c.share("acknowledge", ACKNOWLEDGE, 0o755);
    c.share("ack", "", 0o666);
    alpha.sh(
        "mkfs.ext4 -q /dev/mars/pg; mount /dev/mars/pg /mnt; install -d -o postgres /mnt/pg /run/postgresql
         bin=/usr/lib/postgresql/15/bin
         as() { setpriv --reuid=postgres --regid=postgres --clear-groups \"$@\"; }
         as $bin/initdb -D /mnt/pg -A trust --no-sync >/dev/null
         as $bin/pg_ctl -D /mnt/pg -w start >/dev/null
         as $bin/pgbench -q -i postgres 2>/dev/null
         as psql -q -c 'CREATE TABLE committed (id bigint)' postgres
         as $bin/pg_ctl -D /mnt/pg -w stop >/dev/null
         rm -rf /run/postgresql; umount /mnt",
    );
    template(&c, "pg-@escvar{res}.service", POSTGRES);
    template(&c, "bench-@escvar{res}.service", PGBENCH);
    alpha.marsadm(&["set-systemd-unit", "pg", "bench-pg.service", "srv-pg.mount"]);
    wait_served(&c, alpha);
    back_and_forth(&c, "pg", "PostgreSQL under pgbench", 10);
    let script = "install -d -o postgres /run/postgresql
        as() { setpriv --reuid=postgres --regid=postgres --clear-groups \"$@\"; }
        as /usr/lib/postgresql/15/bin/pg_ctl -D /mnt/pg -w start >/dev/null
        as psql -Atq -c 'SELECT id FROM committed' postgres
        as psql -Atq -c 'SELECT (SELECT sum(delta) FROM pgbench_history) = (SELECT sum(abalance) FROM pgbench_accounts)
            AND (SELECT sum(tbalance) FROM pgbench_tellers) = (SELECT sum(bbalance) FROM pgbench_branches)' postgres
        as /usr/lib/postgresql/15/bin/pg_ctl -D /mnt/pg -w stop >/dev/null";
    let out = look(&c, alpha, "pg", script);
    assert_eq!(out.lines().last(), Some("t"), "the sums differ");
    let there: std::collections::HashSet<u64> =
        out.lines().filter_map(|l| l.parse().ok()).collect();
    let acks = acks(&c);
    println!("{} transactions acknowledged", acks.len());
    let lost: Vec<_> = acks.iter().filter(|a| !there.contains(&a.number)).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}");
    c.finish(&[]);
}
