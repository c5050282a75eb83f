//! Peers that are wrong, silent, slow or malicious, and what an idle cluster says. The test speaks the protocol itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::{Host, PATIENCE, UUID, cluster, wait_connected};
use mars_meta::wire::{BODY_MAX, Message};
use mars_net::{
    Conn, ConnectOptions, Hello, HelloError, Service, connect, encode_frame_header, read_frame,
};
use mars_tree::{RemoteLink, Stamp};
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::time::Duration;

fn call(host: &Host, from: &str, hello: &Hello) -> Result<Conn, HelloError> {
    let opts = ConnectOptions {
        bind: Some(from.parse::<IpAddr>().unwrap()),
        timeout: PATIENCE,
        read_timeout: PATIENCE,
    };
    connect(host.ip, host.env.port, hello, &opts, |_| Ok(()))
}

fn member(host: &str) -> Hello {
    Hello::new(Service::Meta, UUID, host)
}

fn receive(c: &mut Conn) -> Message {
    let f = read_frame(&mut c.stream, BODY_MAX).unwrap();
    Message::decode(f.kind, &f.body).unwrap()
}

/// Reads until everything has been received; the links.
fn receive_all(c: &mut Conn) -> Vec<RemoteLink> {
    let mut all = Vec::new();
    loop {
        if let Message::Links {
            complete, links, ..
        } = receive(c)
        {
            all.extend(links);
            if complete {
                return all;
            }
        }
    }
}

fn send(c: &mut Conn, links: Vec<RemoteLink>) {
    let m = Message::Links {
        now: Stamp::real_time(),
        complete: true,
        links,
    };
    c.stream.write_all(&m.encode()).unwrap();
}

fn link(path: &str, value: &[u8], stamp: Stamp) -> RemoteLink {
    RemoteLink {
        path: path.into(),
        value: value.into(),
        stamp,
    }
}

/// The connection is over: end of file or reset.
fn wait_closed(s: &mut TcpStream) {
    s.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut buf = [0; 4096];
    loop {
        match s.read(&mut buf) {
            Ok(0) => return,
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return,
            Err(e) => panic!("still open: {e}"),
        }
    }
}

/// A running cluster of alpha and beta, with a third member "mallory" that only the test plays.
fn setup(net: u8, heartbeat_ms: u64) -> Vec<Host> {
    let mut hosts = cluster(net, &["alpha", "beta"], heartbeat_ms);
    hosts[0].set("ips/ip-mallory", &format!("127.41.{net}.66"));
    hosts.iter_mut().for_each(Host::start);
    wait_connected(&hosts);
    hosts
}

fn still_works(hosts: &[Host], what: &str) {
    hosts[0].set("userspace/still", what);
    hosts[1].wait_text("userspace/still", what);
}

#[test]
fn wrong_uuid_version_service_and_host_are_told_why() {
    let hosts = setup(30, 30_000);
    let from = "127.41.30.66";
    let refused = |h: &Hello| match call(&hosts[0], from, h) {
        Err(HelloError::RefusedByPeer(why)) => why,
        other => panic!("{other:?}"),
    };
    let mut h = member("mallory");
    h.uuid = "other_1.000000000".into();
    for _ in 0..3 {
        let why = refused(&h);
        assert!(
            why.contains("other_1.000000000") && why.contains(UUID),
            "{why}"
        );
    }
    let mut h = member("mallory");
    h.version = 99;
    assert!(refused(&h).contains("version 99"));
    let mut h = member("mallory");
    h.service = Service::Sync;
    assert!(refused(&h).contains("wrong service"));
    assert!(refused(&member("nobody")).contains("not a member"));
    assert!(refused(&member("alpha")).contains("used twice"));
    still_works(&hosts, "refused");
    // Said once for three attempts, with the reason.
    hosts[0].wait_log("version 99");
    let log = hosts[0].log();
    assert_eq!(
        log.matches("WARN mallory (127.41.30.66): refused: cluster uuid")
            .count(),
        1,
        "{log}"
    );
}

#[test]
fn foreign_cluster_is_refused_on_both_sides_and_the_rest_goes_on() {
    let mut hosts = setup(31, 5000);
    let mut stranger = Host::new("mallory", "127.41.31.66", 5000);
    stranger.set("uuid", "mallory_1700000001.000000001");
    stranger.set("ips/ip-mallory", "127.41.31.66");
    stranger.set("ips/ip-alpha", "127.41.31.1");
    stranger.set("resource-evil/primary", "mallory");
    stranger.start();
    stranger.wait_log("cluster uuid");
    hosts[0].wait_log("cluster uuid");
    still_works(&hosts, "foreign");
    assert!(hosts[0].get("resource-evil/primary").is_none());
    assert!(stranger.get("actual-alpha/time").is_none());
    // A member that changes over to another cluster is cut off as well, and takes nobody with it.
    hosts[1].set("uuid", "beta_1700000002.000000002");
    hosts[0].wait_log("refused: cluster uuid \"beta_1700000002.000000002\"");
    assert_eq!(hosts[0].text("uuid").as_deref(), Some(UUID));
    hosts[1].end(nix::sys::signal::Signal::SIGTERM);
}

#[test]
fn garbage_silence_and_crowds_do_not_keep_members_out() {
    let hosts = setup(32, 30_000);
    let at = SocketAddr::new(hosts[0].ip, hosts[0].env.port);
    let mut http = TcpStream::connect(at).unwrap();
    http.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    wait_closed(&mut http);
    // A crowd that says nothing, or half a hello.
    let mut crowd: Vec<TcpStream> = (0..100)
        .map(|i| {
            let mut s = TcpStream::connect(at).unwrap();
            if i % 2 == 0 {
                s.write_all(b"MARSwire\x01").unwrap();
            }
            s
        })
        .collect();
    // Most are cut at once; a member gets in while the others still wait.
    let mut c = call(&hosts[0], "127.41.32.66", &member("mallory")).unwrap();
    assert!(!receive_all(&mut c).is_empty());
    for s in &mut crowd {
        wait_closed(s);
    }
    still_works(&hosts, "crowd");
    hosts[0].wait_log("too many connections");
    assert_eq!(
        hosts[0].log().matches("WARN 127.0.0.1: too many").count(),
        1
    );
}

#[test]
fn giant_and_damaged_frames_cost_only_the_connection() {
    let hosts = setup(33, 30_000);
    let bad: [Vec<u8>; 4] = [
        encode_frame_header(1, 1 << 30).to_vec(),
        [encode_frame_header(1, 10).to_vec(), vec![255; 10]].concat(),
        [encode_frame_header(77, 1).to_vec(), vec![1]].concat(),
        vec![0xaa; 500],
    ];
    for bytes in bad {
        let mut c = call(&hosts[0], "127.41.33.66", &member("mallory")).unwrap();
        c.stream.write_all(&bytes).unwrap();
        wait_closed(&mut c.stream);
    }
    still_works(&hosts, "frames");
}

#[test]
fn links_that_are_not_allowed_are_ignored() {
    let hosts = setup(34, 30_000);
    let mut c = call(&hosts[0], "127.41.34.66", &member("mallory")).unwrap();
    receive_all(&mut c);
    let now = Stamp::real_time();
    let far = now.plus(Duration::from_secs(40 * 24 * 3600));
    send(
        &mut c,
        vec![
            link("../outside", b"1", now),
            link("userspace/../../outside", b"1", now),
            link("/tmp/outside", b"1", now),
            link("userspace/.tmp.1.hidden", b"1", now),
            link("userspace/ignore-me", b"1", now),
            link("userspace/empty", b"", now),
            link("userspace/nul", b"a\0b", now),
            link("userspace/long", &[b'x'; 5000], now),
            link("userspace/future", b"1", far),
            link("userspace/systemd-trigger", b"/etc/passwd", now),
            link("actual-beta/read-stamp", b"1", now),
            link(&format!("userspace/{}", "y".repeat(300)), b"1", now),
            link("userspace/good", b"1", now),
        ],
    );
    hosts[1].wait_text("userspace/good", "1");
    for p in ["empty", "nul", "long", "future", "ignore-me"] {
        assert!(hosts[0].get(&format!("userspace/{p}")).is_none(), "{p}");
    }
    assert!(hosts[0].tree.clock().now() < far);
    assert_ne!(
        hosts[0].text("actual-beta/read-stamp").as_deref(),
        Some("1")
    );
    assert!(
        !hosts[0]
            .tree
            .root()
            .parent()
            .unwrap()
            .join("outside")
            .exists()
    );
    hosts[0].wait_log("WARN mallory: sends links that are not allowed");
    assert_eq!(hosts[0].log().matches("not allowed").count(), 1);
}

#[test]
fn nothing_comes_back_and_idle_means_heartbeats_only() {
    let hosts = setup(35, 200);
    let mut c = call(&hosts[0], "127.41.35.66", &member("mallory")).unwrap();
    receive_all(&mut c);
    let own = link("userspace/mallory-was-here", b"1", Stamp::real_time());
    send(&mut c, vec![own.clone()]);
    hosts[1].wait_text("userspace/mallory-was-here", "1");
    // Old news that everybody has in a newer form.
    send(&mut c, vec![link("uuid", b"(any)", Stamp::PRELIMINARY)]);
    let mut beats = 0;
    let mut bytes = 0;
    let mut frames = 0;
    // Twenty heartbeats of alpha. What is not a heartbeat may be a lazily published key right after the start.
    let mut others = Vec::new();
    while beats < 20 {
        let m = receive(&mut c);
        bytes += m.encode().len();
        frames += 1;
        let Message::Links { links, .. } = m else {
            panic!("{m:?}")
        };
        for l in links {
            assert_ne!(l.path, own.path, "came back");
            let (_, name) = l.path.split_once('/').unwrap_or(("", &l.path));
            match name {
                "time" | "alive" => beats += usize::from(l.path == "actual-alpha/time"),
                _ => others.push(l.path),
            }
        }
    }
    assert!(others.iter().all(|p| p.ends_with("-space")), "{others:?}");
    // Heartbeats of two hosts, two links each, one frame each (a host's beats and the other's arrive apart).
    assert!(
        frames <= 50 && bytes < frames * 150,
        "{frames} frames, {bytes} bytes"
    );
}

#[test]
fn peer_that_does_not_read_costs_no_memory_and_then_gets_one_difference() {
    let hosts = setup(36, 30_000);
    let mut c = call(&hosts[0], "127.41.36.66", &member("mallory")).unwrap();
    receive_all(&mut c);
    let rss = || {
        let s = std::fs::read_to_string(format!("/proc/{}/status", hosts[0].pid())).unwrap();
        let line = s.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        line.split_whitespace()
            .nth(1)
            .unwrap()
            .parse::<usize>()
            .unwrap()
    };
    // Much more than sockets and buffers hold; nobody reads.
    for i in 0..20_000 {
        hosts[0].set("userspace/busy", &format!("{i}-{}", "z".repeat(1000)));
    }
    hosts[1].wait("newest", |h| {
        h.text("userspace/busy")
            .is_some_and(|t| t.starts_with("19999-"))
    });
    assert!(rss() < 16 << 10, "{} KiB", rss());
    let mut n = 0;
    loop {
        n += 1;
        if let Message::Links { links, .. } = receive(&mut c)
            && links.iter().any(|l| l.value.starts_with(b"19999-"))
        {
            break;
        }
    }
    assert!(n < 20_000);
}

#[test]
fn idle_daemon_is_small() {
    let hosts = setup(37, 5000);
    still_works(&hosts, "small");
    let s = std::fs::read_to_string(format!("/proc/{}/status", hosts[0].pid())).unwrap();
    let line = s.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
    let kib: usize = line.split_whitespace().nth(1).unwrap().parse().unwrap();
    println!("{kib} KiB");
    assert!(kib < 12 << 10, "{kib} KiB");
}

#[test]
fn pings_of_a_peer_are_answered_but_bounded() {
    let hosts = setup(38, 30_000);
    let mut c = call(&hosts[0], "127.41.38.66", &member("mallory")).unwrap();
    receive_all(&mut c);
    let mut ino = inotify::Inotify::init().unwrap();
    let dir = hosts[0].tree.root().join("actual-alpha");
    ino.watches()
        .add(dir, inotify::WatchMask::MOVED_TO)
        .unwrap();
    let t = std::time::Instant::now();
    let now = Stamp::real_time();
    let ping = Message::Ping { now }.encode();
    for _ in 0..2000 {
        c.stream.write_all(&ping).unwrap();
    }
    loop {
        let Message::Links { links, .. } = receive(&mut c) else {
            continue;
        };
        let later = |l: &RemoteLink| {
            l.path == "actual-alpha/time"
                && std::str::from_utf8(&l.value)
                    .unwrap()
                    .parse::<Stamp>()
                    .unwrap()
                    > now
        };
        if links.iter().any(later) {
            break;
        }
    }
    // All pings have been read when a link that was sent after them is there.
    send(
        &mut c,
        vec![link("userspace/after-pings", b"1", Stamp::real_time())],
    );
    hosts[1].wait_text("userspace/after-pings", "1");
    let mut beats = 0;
    let mut buf = [0; 4096];
    while let Ok(events) = ino.read_events(&mut buf) {
        beats += events
            .filter(|e| e.name == Some(std::ffi::OsStr::new("time")))
            .count();
    }
    // Not one heartbeat per ping: at most one per 20 ms.
    let most = 2 + t.elapsed().as_millis() as usize / 20;
    assert!(
        (1..=most).contains(&beats),
        "{beats} heartbeats, at most {most}"
    );
}
