//! Several `mars-meta` on one machine: spreading, partitions, joining, pings.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::{Host, UUID, cluster, wait_connected};
use mars_tree::{Batch, Key, Stamp};
use nix::sys::signal::Signal;

#[test]
fn changes_arrive_everywhere_and_deletions_stay() {
    let mut hosts = cluster(10, &["alpha", "beta", "gamma"], 5000);
    hosts.iter_mut().for_each(Host::start);
    wait_connected(&hosts);
    let [a, b, c] = &hosts[..] else { panic!() };
    a.set("resource-lv0/size", "4096");
    b.wait_text("resource-lv0/size", "4096");
    c.wait_text("resource-lv0/size", "4096");
    let stamp = c.set("resource-lv0/size", "8192");
    a.wait_text("resource-lv0/size", "8192");
    assert_eq!(a.get("resource-lv0/size").unwrap().stamp, stamp);
    // I6: deleted stays deleted, also after a host that was away comes back.
    b.delete("resource-lv0/size");
    for h in &hosts {
        h.wait("deletion", |h| {
            h.get("resource-lv0/size").unwrap().value.is_deleted()
        });
    }
    hosts[2].end(Signal::SIGKILL);
    hosts[2].start();
    let probe = hosts[2].set("userspace/probe", "1");
    hosts[0].wait("probe", |h| {
        h.get("userspace/probe").is_some_and(|l| l.stamp == probe)
    });
    for h in &hosts {
        assert!(h.get("resource-lv0/size").unwrap().value.is_deleted());
    }
}

#[test]
fn partition_heals_and_the_newest_wins() {
    let mut hosts = cluster(11, &["alpha", "beta"], 5000);
    hosts.iter_mut().for_each(Host::start);
    wait_connected(&hosts);
    hosts[1].end(Signal::SIGKILL);
    hosts[0].set("userspace/x", "old");
    hosts[0].set("userspace/only-a", "1");
    hosts[1].set("userspace/x", "new");
    hosts[1].set("userspace/only-b", "1");
    hosts[1].start();
    for h in &hosts {
        h.wait_text("userspace/only-a", "1");
        h.wait_text("userspace/only-b", "1");
        h.wait_text("userspace/x", "new");
    }
    // The other side restarts: the remaining one finds it again, whoever calls.
    hosts[0].end(Signal::SIGKILL);
    hosts[1].set("userspace/y", "2");
    hosts[0].start();
    hosts[0].wait_text("userspace/y", "2");
}

#[test]
fn equal_stamps_end_the_same_everywhere() {
    let mut hosts = cluster(21, &["alpha", "beta", "gamma"], 5000);
    let stamp = hosts[0].set("userspace/before", "1");
    for (h, value) in hosts.iter().zip(["alpha", "gamma", "beta"]) {
        let mut b = Batch::new();
        b.set_stamped(Key::parse("resource-lv0/primary"), value, stamp);
        h.tree.commit(&b).unwrap();
    }
    hosts.iter_mut().for_each(Host::start);
    for h in &hosts {
        h.wait_text("resource-lv0/primary", "gamma");
        assert_eq!(h.get("resource-lv0/primary").unwrap().stamp, stamp);
    }
}

#[test]
fn links_are_forwarded_between_hosts_that_cannot_reach_each_other() {
    let mut hosts = cluster(12, &["alpha", "beta", "gamma"], 5000);
    // Somebody else sits on the addresses of alpha and gamma, so nobody can call them; both can call beta.
    let squatters =
        [0, 2].map(|i: usize| std::net::TcpListener::bind((hosts[i].ip, 7777)).unwrap());
    for s in squatters {
        std::thread::spawn(move || {
            while let Ok((mut stranger, _)) = s.accept() {
                use std::io::Write;
                let _ = stranger.write_all(b"220 mail.example.org ESMTP\r\n");
            }
        });
    }
    hosts.iter_mut().for_each(Host::start);
    let [a, b, c] = &hosts[..] else { panic!() };
    a.set("userspace/from-a", "1");
    c.wait_text("userspace/from-a", "1");
    c.set("userspace/from-c", "1");
    a.wait_text("userspace/from-c", "1");
    b.wait_text("userspace/from-c", "1");
    a.wait_text("actual-gamma/alive", "1");
    assert!(!a.log().contains("gamma: connected"), "{}", a.log());
    assert!(!c.log().contains("alpha: connected"), "{}", c.log());
    a.wait_log("gamma (127.41.12.3:7777): not a MARS peer");
    a.wait_log("cannot listen on 127.41.12.1 port 7777");
}

#[test]
fn unknown_links_with_odd_values_travel_unchanged() {
    let mut hosts = cluster(13, &["alpha", "beta"], 5000);
    hosts.iter_mut().for_each(Host::start);
    wait_connected(&hosts);
    let odd = b"\xff\xfe %{x} , : /../ \x01\n end";
    let target = std::os::unix::ffi::OsStrExt::from_bytes;
    let target: &std::ffi::OsStr = std::ffi::OsStr::new::<std::ffi::OsStr>(target(odd));
    let dir = hosts[0].tree.root().join("resource-lv0");
    std::fs::create_dir(&dir).unwrap();
    std::os::unix::fs::symlink(target, dir.join("some-unknown_thing")).unwrap();
    hosts[1].wait("unknown link", |h| {
        h.get("resource-lv0/some-unknown_thing")
            .is_some_and(|l| l.value.as_bytes() == odd)
    });
    assert_eq!(
        hosts[0].get("resource-lv0/some-unknown_thing"),
        hosts[1].get("resource-lv0/some-unknown_thing")
    );
}

#[test]
fn joining_host_gets_everything_before_the_uuid() {
    let mut a = Host::new("alpha", "127.41.14.1", 5000);
    a.create_cluster();
    a.start();
    a.wait_text("actual-alpha/alive", "1");
    for i in 0..3000 {
        // More than one frame, and newer than the uuid.
        a.set(&format!("userspace/bulk-{i}"), &"x".repeat(50));
    }
    let mut b = Host::new("beta", "127.41.14.2", 5000);
    b.join(&a);
    b.start();
    let mut all = None;
    b.wait("real uuid", |h| {
        let done = h.text("uuid").as_deref() == Some(UUID);
        if done && all.is_none() {
            all = Some(h.tree.snapshot().unwrap().links.len());
        }
        done
    });
    assert!(all.unwrap() > 3000, "{all:?}");
    // The preliminary address went over; the real one replaces it.
    a.wait_text("ips/ip-beta", "127.41.14.2");
    assert_eq!(a.get("ips/ip-beta").unwrap().stamp, Stamp::PRELIMINARY);
    let stamp = b.set("ips/ip-beta", "127.41.14.2");
    a.wait("real address", |h| {
        h.get("ips/ip-beta").unwrap().stamp == stamp
    });
    assert_eq!(a.text("uuid").as_deref(), Some(UUID));
    // A restart with the real uuid works, now as a member.
    b.end(Signal::SIGTERM);
    a.wait_text("actual-beta/alive", "0");
    b.start();
    a.wait_text("actual-beta/alive", "1");
}

#[test]
fn ping_is_answered_with_a_later_heartbeat_and_after_the_state() {
    let mut hosts = cluster(15, &["alpha", "beta"], 30_000);
    hosts.iter_mut().for_each(Host::start);
    wait_connected(&hosts);
    let [a, b] = &hosts[..] else { panic!() };
    for i in 0..3 {
        // Also when this host's clock is far ahead of the wall clock.
        if i == 2 {
            let ahead = a
                .tree
                .clock()
                .now()
                .plus(std::time::Duration::from_secs(3000));
            a.tree.clock().observe(ahead);
        }
        a.set("userspace/round", &i.to_string());
        let start = a.tree.clock().now();
        std::fs::write(a.run_file("meta.ping"), "x").unwrap();
        a.wait("pong", |h| {
            h.text("actual-beta/time")
                .and_then(|t| t.parse::<Stamp>().ok())
                .is_some_and(|t| t > start)
        });
        // The ping went out after the state, so the answer proves that the state arrived.
        assert_eq!(b.text("userspace/round"), Some(i.to_string()));
    }
}

#[test]
fn stopping_host_says_goodbye() {
    let mut hosts = cluster(16, &["alpha", "beta"], 30_000);
    hosts.iter_mut().for_each(Host::start);
    wait_connected(&hosts);
    hosts[1].set("userspace/last-words", "1");
    assert!(hosts[1].end(Signal::SIGTERM));
    hosts[0].wait_text("actual-beta/alive", "0");
    assert_eq!(hosts[0].text("userspace/last-words").as_deref(), Some("1"));
    assert!(!hosts[1].run_file("meta.settled").exists());
}

#[test]
fn settles_when_all_peers_answered() {
    let mut hosts = cluster(17, &["alpha", "beta"], 30_000);
    let done = hosts[0].run_file("reconciled");
    hosts[0].fake_marsadm(
        "test \"$1\" = systemd-trigger && ls $MARS_RUN_DIR/meta.settled >$MARS_RUN_DIR/reconciled",
    );
    hosts[0].start();
    hosts[0].wait_text("actual-alpha/alive", "1");
    hosts[0].wait_log("Connection refused");
    assert!(!hosts[0].run_file("meta.settled").exists());
    hosts[1].start();
    hosts[0].wait_file(&done, |t| t.contains("meta.settled"));
    hosts[0].wait_log("all peers answered");
    // Everything of beta is here when the host has settled.
    assert_eq!(hosts[0].text("actual-beta/tree").as_deref(), Some("0.1"));
}

#[test]
fn relevant_remote_change_runs_the_reconciler_once_per_burst() {
    let mut hosts = cluster(18, &["alpha", "beta"], 30_000);
    hosts[0].set("resource-lv0/data-alpha", "/dev/x");
    hosts[0].fake_marsadm(
        "echo run >>$MARS_RUN_DIR/runs; readlink $MARS_ROOT/resource-lv0/primary >$MARS_RUN_DIR/seen; exit 3",
    );
    hosts.iter_mut().for_each(Host::start);
    wait_connected(&hosts);
    let [a, b] = &hosts[..] else { panic!() };
    for i in 0..50 {
        b.set("resource-lv0/primary", &format!("host{i}"));
    }
    a.wait_file(&a.run_file("seen"), |t| t.contains("host49"));
    // Once more, now that the runs of the start are over for sure.
    b.set("resource-lv0/primary", "host50");
    a.wait_file(&a.run_file("seen"), |t| t.contains("host50"));
    let runs = std::fs::read_to_string(a.run_file("runs")).unwrap();
    assert!(runs.lines().count() < 25, "{runs}");
    a.wait_log("systemd-trigger: exit status: 3");
}

#[test]
fn own_keys_are_published() {
    let mut hosts = cluster(19, &["alpha", "beta"], 5000);
    hosts.iter_mut().for_each(Host::start);
    wait_connected(&hosts);
    let t = |k: &str| hosts[0].text(&format!("actual-beta/{k}")).unwrap();
    hosts[0].wait("read-stamp", |h| h.text("actual-beta/read-stamp").is_some());
    assert_eq!(t("tree"), "0.1");
    assert_eq!(t("features"), "4,5,0x071f0000");
    assert_eq!(t("usable"), "4,5,0x071f0000");
    assert_eq!(t("marsadm-version"), "2.9");
    assert_eq!(t("used-log-digest"), "262144");
    assert!(t("buildtag").starts_with("mars1.0ustable100("));
    assert!(t("total-space").parse::<u64>().is_ok());
    // Local bookkeeping does not travel.
    assert_eq!(hosts[1].text("actual-beta/read-stamp"), None);
}

#[test]
fn a_host_that_left_is_not_let_in_again() {
    let mut hosts = cluster(20, &["alpha", "beta"], 5000);
    hosts.iter_mut().for_each(Host::start);
    wait_connected(&hosts);
    hosts[1].delete("ips/ip-beta");
    hosts[0].wait("leaving", |h| h.text("ips/ip-beta").is_none());
    // For a while it may still see the effect.
    hosts[0].set("userspace/after", "1");
    hosts[1].wait_text("userspace/after", "1");
    hosts[1].end(Signal::SIGKILL);
    hosts[1].start();
    hosts[1].wait_log("beta was removed from cluster");
    let mut b = Batch::new();
    b.set(Key::parse("userspace/later"), 1);
    hosts[0].tree.commit(&b).unwrap();
    assert_eq!(hosts[1].text("userspace/later"), None);
}

#[test]
fn a_host_that_was_removed_while_away_learns_of_it() {
    let mut hosts = cluster(22, &["alpha", "beta", "gamma"], 5000);
    hosts.iter_mut().for_each(Host::start);
    wait_connected(&hosts);
    hosts[1].end(Signal::SIGKILL);
    hosts[0].delete("ips/ip-beta");
    let gone = hosts[0].get("ips/ip-beta").unwrap();
    assert!(gone.value.is_deleted());
    // Once gamma has it, alpha's daemon knows it too and lets beta in no more.
    hosts[2].wait("removal", |h| {
        h.get("ips/ip-beta").is_some_and(|l| l == gone)
    });
    hosts[2].end(Signal::SIGKILL);
    // What the reconciler would see.
    let seen = hosts[1].run_file("seen");
    hosts[1].fake_marsadm("readlink $MARS_ROOT/ips/ip-beta >$MARS_RUN_DIR/seen");
    hosts[1].start();
    hosts[1].wait("removal", |h| {
        h.get("ips/ip-beta").is_some_and(|l| l == gone)
    });
    hosts[1].wait_file(&seen, |t| t.contains(".deleted"));
    let said = |h: &Host| h.log().matches("was removed from the cluster").count();
    hosts[1].wait_log("was removed from the cluster");
    // It asks again and again, but says so only once.
    hosts[0].wait_log("beta was removed from cluster");
    assert_eq!(said(&hosts[1]), 1, "{}", hosts[1].log());
}
