//! Hosts of other clusters: they may look, and ask for a merge; everything else is refused. The test speaks the protocol itself.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::{Host, PATIENCE, UUID, cluster, wait_connected};
use mars_meta::wire::Message;
use mars_net::{
    ConnectOptions, Hello, HelloError, KIND_MERGE, MergeAnswer, MergeRequest, Service, VISITOR,
    Visit, connect, encode_frame_header,
};
use mars_tree::{RemoteLink, Stamp};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::IpAddr;

const FOREIGN: &str = "zeta_1600000000.000000001";

fn options(net: u8) -> ConnectOptions {
    ConnectOptions {
        bind: Some(IpAddr::from([127, 41, net, 99])),
        timeout: PATIENCE,
        read_timeout: PATIENCE,
    }
}

fn visit(h: &Host, net: u8) -> Result<Visit, HelloError> {
    Visit::begin((h.ip, h.env.port), "zeta", &h.name, &options(net))
}

fn hello(h: &Host, net: u8, uuid: &str, name: &str) -> Result<mars_net::Conn, HelloError> {
    let hello = Hello::new(Service::Meta, uuid, name);
    connect(h.ip, h.env.port, &hello, &options(net), |_| Ok(()))
}

fn request(net: u8) -> MergeRequest {
    MergeRequest {
        now: Stamp::real_time().as_nanos(),
        from: FOREIGN.into(),
        into: UUID.into(),
        hosts: vec![("zeta".into(), format!("127.41.{net}.99"))],
        resources: vec![("zr".into(), vec!["zeta".into()])],
    }
}

fn ask(h: &Host, net: u8, request: &MergeRequest) -> MergeAnswer {
    let mut v = visit(h, net).unwrap();
    v.tree().unwrap();
    v.ask(request).unwrap()
}

/// A running cluster of alpha and beta with a resource.
fn setup(net: u8) -> Vec<Host> {
    let mut hosts = cluster(net, &["alpha", "beta"], 5000);
    hosts[0].set("resource-lv0/size", "4096");
    hosts.iter_mut().for_each(Host::start);
    wait_connected(&hosts);
    hosts
}

#[test]
fn visitors_see_the_tree_and_change_nothing() {
    let hosts = setup(60);
    let mut v = visit(&hosts[0], 60).unwrap();
    assert_eq!(v.uuid(), UUID);
    let (links, now) = v.tree().unwrap();
    assert!(now > 1_000_000_000_000_000_000);
    let value = |path: &str| {
        links
            .iter()
            .find(|l| l.path == path)
            .map(|l| l.value.clone())
    };
    assert_eq!(value("uuid").unwrap(), UUID.as_bytes());
    assert_eq!(value("resource-lv0/size").unwrap(), b"4096");
    assert!(value("actual-alpha/read-stamp").is_none(), "stays at home");

    // It sends what a member would send: the visit is over, and nothing is in the tree.
    let mut c = hello(&hosts[0], 60, VISITOR, "zeta").unwrap();
    let link = RemoteLink {
        path: "resource-lv0/size".into(),
        value: b"1".to_vec(),
        stamp: Stamp::real_time(),
    };
    let m = Message::Links {
        now: Stamp::real_time(),
        complete: true,
        links: vec![link],
    };
    c.stream.write_all(&m.encode()).unwrap();
    let mut rest = Vec::new();
    let _ = c.stream.read_to_end(&mut rest);
    // A flood of bytes behind the announcement of a request that is too large.
    let mut c = hello(&hosts[0], 60, VISITOR, "zeta").unwrap();
    c.stream
        .write_all(&encode_frame_header(KIND_MERGE, 16 << 20))
        .unwrap();
    let _ = c.stream.read_to_end(&mut rest);
    assert_eq!(hosts[0].text("resource-lv0/size").unwrap(), "4096");
    for h in &hosts {
        assert!(h.text("ips/ip-zeta").is_none());
    }
    // Places are given back: more visits than there are at once.
    for _ in 0..12 {
        let mut v = visit(&hosts[0], 60).unwrap();
        v.tree().unwrap();
    }
    // The cluster goes on as before.
    hosts[0].set("userspace/x", "1");
    hosts[1].wait_text("userspace/x", "1");
}

#[test]
fn foreign_hosts_are_refused_until_a_merge_is_asked_for_and_found_good() {
    let hosts = setup(61);
    let a = &hosts[0];
    let refused = |uuid: &str, name: &str| match hello(a, 61, uuid, name) {
        Err(HelloError::RefusedByPeer(why)) => why,
        other => panic!("{uuid} {name}: {other:?}"),
    };
    let before = a.get("uuid").unwrap();
    assert!(refused(FOREIGN, "zeta").contains("does not match"));
    assert!(refused(FOREIGN, "beta").contains("does not match"));
    let why = |change: fn(&mut MergeRequest)| {
        let mut r = request(61);
        change(&mut r);
        ask(a, 61, &r).refused.unwrap()
    };
    assert!(why(|r| r.into = FOREIGN.into()).contains("changed meanwhile"));
    assert!(why(|r| r.resources[0].0 = "lv0".into()).contains("resource lv0 exists in both"));
    assert!(why(|r| r.hosts[0].0 = "beta".into()).contains("zeta is no member"));
    assert!(why(|r| r.hosts.push(("beta".into(), "127.41.61.7".into()))).contains("host beta"));
    assert!(why(|r| r.from = "(any)".into()).contains("no id"));
    assert!(why(|r| r.now = u64::MAX).contains("30 days"));
    // Not one of these tries opened the door or left a link.
    assert!(refused(FOREIGN, "zeta").contains("does not match"));
    assert_eq!(a.get("uuid").unwrap(), before);
    assert!(a.text("ips/ip-zeta").is_none());

    assert_eq!(ask(a, 61, &request(61)).refused, None);
    for h in &hosts {
        h.wait_text("ips/ip-zeta", "127.41.61.99");
        h.wait_text(&format!("userspace/merged/{FOREIGN}"), UUID);
    }
    // The uuid stays, and is newer than anything over there.
    assert_eq!(a.text("uuid").unwrap(), UUID);
    assert!(a.get("uuid").unwrap().stamp > before.stamp);
    // Its hosts come with the former id and hear it; nobody else of that cluster gets in, nor of any other.
    let c = hello(a, 61, FOREIGN, "zeta").unwrap();
    assert_eq!(c.peer.uuid, FOREIGN);
    drop(c);
    assert_eq!(hello(a, 61, UUID, "zeta").unwrap().peer.uuid, UUID);
    assert!(refused(FOREIGN, "eta").contains("not a member"));
    assert!(refused("eta_5.000000000", "zeta").contains("does not match"));
    // Asking twice changes nothing more.
    let stamp = a.get("ips/ip-zeta").unwrap().stamp;
    assert_eq!(ask(a, 61, &request(61)).refused, None);
    assert_eq!(a.get("ips/ip-zeta").unwrap().stamp, stamp);
}

#[test]
fn a_split_is_obeyed_after_its_time_and_can_be_taken_back() {
    let mut hosts = cluster(62, &["alpha", "beta", "gamma"], 500);
    hosts.iter_mut().for_each(Host::start);
    wait_connected(&hosts);
    let [a, b, g] = &hosts[..] else { panic!() };
    g.set("resource-rg/data-gamma", "/dev/rg");
    a.set("resource-ra/data-alpha", "/dev/ra");
    g.wait_text("resource-ra/data-alpha", "/dev/ra");
    // Taken back in time: all stay together. The later order counts from its own time.
    a.set("userspace/split/gamma", "wrong");
    g.wait_text("userspace/split/gamma", "wrong");
    a.delete("userspace/split/gamma");
    for (host, part) in [("alpha", "p"), ("beta", "p"), ("gamma", "q")] {
        a.set(&format!("userspace/split/{host}"), part);
    }
    b.wait("gamma is forgotten", |h| h.get("ips/ip-gamma").is_none());
    g.wait("the others are forgotten", |h| {
        h.get("ips/ip-alpha").is_none() && h.get("ips/ip-beta").is_none()
    });
    for h in [a, b] {
        h.wait("its resource, too", |h| {
            h.get("resource-rg/data-gamma").is_none()
        });
        assert_eq!(h.text("resource-ra/data-alpha").unwrap(), "/dev/ra");
    }
    g.wait("theirs, too", |h| h.get("resource-ra/data-alpha").is_none());
    assert_eq!(g.text("resource-rg/data-gamma").unwrap(), "/dev/rg");
    g.set("userspace/from-gamma", "1");
    a.set("userspace/from-alpha", "1");
    b.wait_text("userspace/from-alpha", "1");
    match hello(a, 62, UUID, "gamma") {
        Err(HelloError::RefusedByPeer(why)) => assert!(why.contains("split"), "{why}"),
        other => panic!("{other:?}"),
    }
    assert!(a.text("userspace/from-gamma").is_none() && g.text("userspace/from-alpha").is_none());
    assert!(hosts[2].end(Signal::SIGTERM));
}
