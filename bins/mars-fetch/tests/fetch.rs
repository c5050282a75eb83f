//! `mars-fetch` and `mars-fetch serve` as processes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod support;

use mars_live::{FetchLive, LogLive};
use mars_log::next_version;
use mars_net::{
    Conn, ConnectOptions, Frame, Hello, HelloError, Service, connect, read_frame, write_frame,
};
use mars_tree::{Key, LogName};
use std::fs;
use std::io::{Read, Write};
use std::time::Duration;
use support::*;

const EXE: &str = env!("CARGO_BIN_EXE_mars-fetch");
const NET: u8 = 1;

/// What the logger does: bytes reach the file, then some of them are durable.
fn grow(h: &Host, l: &LogName, bytes: &[u8], durable: u64) {
    let path = h.log_path(l);
    let mut f = fs::File::options()
        .create(true)
        .append(true)
        .open(path)
        .unwrap();
    f.write_all(bytes).unwrap();
    f.sync_data().unwrap();
    h.page().publish(&LogLive {
        log_nr: u64::from(l.nr),
        durable_len: durable,
        logged_len: durable,
        ..LogLive::default()
    });
}

fn fetched(h: &Host, nr: u64, len: u64) {
    h.wait_live::<FetchLive>(&format!("{len} bytes of log {nr}"), |f| {
        f.log_nr == nr && f.durable_len == len
    });
}

/// The server is up when it accepts.
fn raw(from: &Host, to: &Host, uuid: &str, host: &str) -> Result<Conn, HelloError> {
    let opts = ConnectOptions {
        bind: Some(from.ip.parse().unwrap()),
        timeout: Duration::from_secs(10),
        read_timeout: Duration::from_secs(30),
    };
    let mine = Hello::new(Service::Fetch, uuid, host);
    let end = std::time::Instant::now() + PATIENCE;
    loop {
        match connect(to.ip.parse().unwrap(), 7778, &mine, &opts, |_| Ok(())) {
            Err(HelloError::Io(e)) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                assert!(std::time::Instant::now() < end, "server does not start");
                std::thread::yield_now();
            }
            other => return other,
        }
    }
}

const UUID: &str = "alpha_1700000000.000000001";

fn want(c: &mut Conn, resource: &str, l: &str, offset: u64) {
    let mut b = vec![resource.len() as u8];
    b.extend_from_slice(resource.as_bytes());
    b.push(l.len() as u8);
    b.extend_from_slice(l.as_bytes());
    b.extend_from_slice(&offset.to_le_bytes());
    write_frame(&mut c.stream, 1, &b).unwrap();
}

/// Data until a frame of another kind comes.
fn data(c: &mut Conn) -> (Vec<u8>, Frame) {
    let mut all = Vec::new();
    loop {
        let f = read_frame(&mut c.stream, 1 << 20).unwrap();
        if f.kind != 2 {
            return (all, f);
        }
        all.extend_from_slice(&f.body);
    }
}

#[test]
fn fetch_follows_growth_and_resumes_after_kill() {
    let p = pair(NET);
    let l = log(1, "alpha");
    let content: Vec<u8> = (0..3_000_000u32).map(|i| (i / 7) as u8).collect();
    grow(&p.a, &l, &content[..1000], 1000);
    let _serve = p.a.start(EXE, "serve");
    let mut client = p.b.start(EXE, "data");
    fetched(&p.b, 1, 1000);
    grow(&p.a, &l, &content[1000..1_500_000], 1_500_000);
    fetched(&p.b, 1, 1_500_000);
    client.kill();
    grow(&p.a, &l, &content[1_500_000..2_000_000], 2_000_000);
    // A torn write of the killed one: bytes that it had received are good bytes.
    let mut client = p.b.start(EXE, "data");
    grow(&p.a, &l, &content[2_000_000..], 3_000_000);
    fetched(&p.b, 1, 3_000_000);
    assert!(fs::read(p.b.log_path(&l)).unwrap() == content);
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(p.b.log_path(&l)).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    p.b.wait_text(&Key::Actual(res(), p.b.name(), "is-copying".into()), "1");
    assert!(client.stop());
    assert_eq!(p.b.actual("is-copying").as_deref(), Some("0"));
}

#[test]
fn serve_gives_durable_bytes_only() {
    let p = pair(NET);
    let l = log(1, "alpha");
    grow(&p.a, &l, &[7; 10_000], 4000);
    let _serve = p.a.start(EXE, "serve");
    let mut c = raw(&p.b, &p.a, UUID, "beta").unwrap();
    want(&mut c, "data", "log-000000001-alpha", 100);
    let (got, f) = data(&mut c);
    assert_eq!((got.len(), f.kind), (3900, 3));
    assert_eq!(f.body, 4000u64.to_le_bytes());
    // The next durable byte comes by itself.
    p.a.page().publish(&LogLive {
        log_nr: 1,
        durable_len: 10_000,
        ..LogLive::default()
    });
    let f = read_frame(&mut c.stream, 1 << 20).unwrap();
    assert_eq!((f.kind, f.body.len()), (2, 6000));
}

#[test]
fn without_logger_only_the_linked_length_is_served() {
    let p = pair(NET);
    let l = log(1, "alpha");
    // After a reboot: no live page, perhaps a torn tail in the file.
    p.a.write_log(&l, &[7; 10_000]);
    p.both(|b| {
        b.set(
            Key::Version(res(), 1, "alpha".parse().unwrap()),
            next_version(&l, 9000, None),
        );
    });
    let _serve = p.a.start(EXE, "serve");
    let mut c = raw(&p.b, &p.a, UUID, "beta").unwrap();
    want(&mut c, "data", "log-000000001-alpha", 0);
    let (got, f) = data(&mut c);
    assert_eq!((got.len(), f.kind), (9000, 3));
}

/// What the server gives of log 1 of alpha, and what it calls durable.
fn given(p: &Pair) -> (Vec<u8>, u64) {
    let mut c = raw(&p.b, &p.a, UUID, "beta").unwrap();
    want(&mut c, "data", "log-000000001-alpha", 0);
    let (got, f) = data(&mut c);
    assert_eq!(f.kind, 3);
    (got, u64::from_le_bytes(f.body.try_into().unwrap()))
}

/// A log file may be longer than the log: zeros are written ahead of the end (prepared tail). They are no bytes of the log, whether the
/// logger works, has crashed, or has not run since the boot.
#[test]
fn prepared_zeros_are_never_handed_out() {
    let p = pair(NET);
    let l = log(1, "alpha");
    let (bytes, ops) = make_log(50, DISK, 7);
    let end = |n: usize| ops[n - 1].1;
    let link = |len: u64| {
        p.both(|b| {
            let key = Key::Version(res(), 1, "alpha".parse().unwrap());
            b.set(key, next_version(&l, len, None));
        });
    };
    let _serve = p.a.start(EXE, "serve");
    // Opened, prepared, never written to.
    p.a.write_log(&l, &vec![0; 1 << 20]);
    assert!(given(&p) == (vec![], 0));

    let mut file = bytes.clone();
    file.resize(bytes.len() + (1 << 20), 0);
    p.a.write_log(&l, &file);
    link(end(10));
    // After a boot: everything that a recovery will keep.
    assert!(given(&p) == (bytes.clone(), end(50)));
    // The logger works: what it says.
    let told = LogLive {
        log_nr: 1,
        durable_len: end(20),
        logged_len: end(50),
        ..LogLive::default()
    };
    p.a.page().publish(&told);
    let running = mars_daemon::InstanceLock::acquire(&p.a.env, "logger", Some(&res())).unwrap();
    assert!(given(&p) == (bytes[..end(20) as usize].to_vec(), end(20)));
    // It crashed; the end of the log is torn.
    drop(running);
    let torn = bytes.len() - 100;
    file[torn..].fill(0);
    p.a.write_log(&l, &file);
    assert!(given(&p) == (bytes[..end(49) as usize].to_vec(), end(49)));
    // It said more than the file holds: a file system that lost what was durable.
    p.a.write_log(&l, &bytes[..end(5) as usize]);
    assert!(given(&p) == (bytes[..end(5) as usize].to_vec(), end(5)));
}

/// Log 1 is finished with `len` bytes, log 2 exists.
fn finish(p: &Pair, len: u64) {
    let alpha = p.a.name();
    let v1 = next_version(&log(1, "alpha"), len, None);
    let v2 = next_version(&log(2, "alpha"), 0, Some(&v1));
    p.both(|b| {
        b.set(Key::Version(res(), 1, alpha.clone()), &v1);
        b.set(Key::Version(res(), 2, alpha.clone()), &v2);
    });
}

#[test]
fn finished_log_ends_and_the_next_follows() {
    let p = pair(NET);
    let _serve = p.a.start(EXE, "serve");
    let _client = p.b.start(EXE, "data");
    grow(&p.a, &log(1, "alpha"), &[1; 5000], 5000);
    fetched(&p.b, 1, 5000);
    finish(&p, 5000);
    grow(&p.a, &log(2, "alpha"), &[2; 300], 300);
    fetched(&p.b, 2, 300);
    assert_eq!(fs::read(p.b.log_path(&log(1, "alpha"))).unwrap(), [1; 5000]);
    assert_eq!(fs::read(p.b.log_path(&log(2, "alpha"))).unwrap(), [2; 300]);
    // A secondary hands it on to others, up to its final length.
    let _serve = p.b.start(EXE, "serve");
    let mut c = raw(&p.a, &p.b, UUID, "alpha").unwrap();
    want(&mut c, "data", "log-000000001-alpha", 0);
    let (got, f) = data(&mut c);
    assert_eq!((got.len(), f.kind), (5000, 4));
    // The same connection takes the next wish.
    want(&mut c, "data", "log-000000002-alpha", 0);
    assert_eq!(data(&mut c).0, [2; 300]);
}

#[test]
fn fetch_pauses_by_the_switch() {
    let p = pair(NET);
    let _serve = p.a.start(EXE, "serve");
    let _client = p.b.start(EXE, "data");
    grow(&p.a, &log(1, "alpha"), &[1; 500], 500);
    fetched(&p.b, 1, 500);
    let connect = Key::Todo(res(), p.b.name(), mars_tree::TodoSwitch::Connect);
    p.both(|b| {
        b.set(connect.clone(), 0);
    });
    p.b.wait_text(&Key::Actual(res(), p.b.name(), "is-copying".into()), "0");
    grow(&p.a, &log(1, "alpha"), &[2; 500], 1000);
    assert_eq!(
        fs::metadata(p.b.log_path(&log(1, "alpha"))).unwrap().len(),
        500
    );
    p.both(|b| {
        b.set(connect.clone(), 1);
    });
    fetched(&p.b, 1, 1000);
}

/// A member that speaks the protocol, played by the test: after the hello of the client `act` runs, then the frames go on.
fn played(
    h: &Host,
    port: u16,
    act: impl FnOnce() + Send + 'static,
) -> std::thread::JoinHandle<Conn> {
    let l = mars_net::listen(h.ip.parse().unwrap(), port).unwrap();
    let name = h.name();
    std::thread::spawn(move || {
        let (s, _) = l.socket.accept().unwrap();
        let mine = Hello::new(Service::Fetch, UUID, name.as_str());
        mars_net::accept(s, &mine, PATIENCE, PATIENCE, |_| {
            act();
            Ok(())
        })
        .unwrap()
    })
}

#[test]
fn change_while_connecting_is_not_missed() {
    let p = pair(NET);
    let connect = Key::Todo(res(), p.b.name(), mars_tree::TodoSwitch::Connect);
    let tree = p.b.tree.clone();
    let server = played(&p.a, 7778, move || {
        let mut b = mars_tree::Batch::new();
        b.set(connect, 0);
        tree.commit(&b).unwrap();
    });
    let _client = p.b.start(EXE, "data");
    let mut c = server.join().unwrap();
    let e = read_frame(&mut c.stream, 1 << 20);
    assert!(e.is_err(), "asks for a log although fetching is paused");
}

#[test]
fn paused_fetch_asks_no_other_source() {
    let p = pair(NET);
    let c = p.third();
    let l = log(1, "alpha");
    p.b.write_log(&l, &[1; 500]);
    c.write_log(&l, &[1; 1000]);
    let _serve = c.start(EXE, "serve");
    drop(raw(&p.a, &c, UUID, "alpha").unwrap());
    let alpha = played(&p.a, 7778, || {});
    let _client = p.b.start(EXE, "data");
    let mut alpha = alpha.join().unwrap();
    // What packing it understands, then the log that it wants.
    for kind in [6, 1] {
        assert_eq!(read_frame(&mut alpha.stream, 512).unwrap().kind, kind);
    }
    let connect = Key::Todo(res(), p.b.name(), mars_tree::TodoSwitch::Connect);
    p.b.set(|b| {
        b.set(connect.clone(), 0);
    });
    p.b.wait_text(&Key::Actual(res(), p.b.name(), "is-copying".into()), "0");
    assert_eq!(fs::metadata(p.b.log_path(&l)).unwrap().len(), 500);
}

/// The primary is dead: gamma was forced to be primary, beta is behind it and completes the old log from gamma. `known` is what
/// the old primary had told of the length (`None`: it has left the resource), which may be less than what gamma has.
fn completes_from_the_other_secondary(known: Option<u64>) {
    let p = pair(NET);
    let c = p.third();
    let (l1, l2) = (log(1, "alpha"), log(2, "gamma"));
    let v1 = next_version(&l1, 1000, None);
    let v2 = next_version(&l2, 300, Some(&v1));
    for h in [&p.b, &c] {
        h.set(|b| {
            b.set(Key::Primary(res()), "gamma");
            b.set(Key::Version(res(), 1, c.name()), &v1);
            b.set(Key::Version(res(), 2, c.name()), &v2);
            b.set(Key::Replay(res(), c.name()), "log-000000002-gamma,0,0");
            b.delete(Key::Ip(p.a.name()));
            let key = Key::Version(res(), 1, p.a.name());
            match known {
                Some(len) => b.set(key, next_version(&l1, len, None)),
                None => b.delete(key),
            };
        });
    }
    c.write_log(&l1, &[1; 1000]);
    c.write_log(&l2, &[2; 300]);
    p.b.write_log(&l1, &[1; 500]);
    let _serve = c.start(EXE, "serve");
    let _client = p.b.start(EXE, "data");
    fetched(&p.b, 2, 300);
    assert_eq!(fs::read(p.b.log_path(&l1)).unwrap(), [1; 1000]);
    assert_eq!(fs::read(p.b.log_path(&l2)).unwrap(), [2; 300]);
}

#[test]
fn primary_dead_secondary_completes_from_the_other() {
    completes_from_the_other_secondary(Some(1000));
}

#[test]
fn primary_dead_its_link_was_behind() {
    completes_from_the_other_secondary(Some(700));
}

#[test]
fn primary_left_secondary_completes_from_the_other() {
    completes_from_the_other_secondary(None);
}

#[test]
fn after_a_killed_logger_the_end_that_replay_found_is_served() {
    let p = pair(NET);
    let l = log(1, "alpha");
    // The live page of the killed logger stays; the kernel had more of the log, and all of it is own history.
    grow(&p.a, &l, &[7; 10_000], 4000);
    let _serve = p.a.start(EXE, "serve");
    let mut c = raw(&p.b, &p.a, UUID, "beta").unwrap();
    want(&mut c, "data", "log-000000001-alpha", 0);
    assert_eq!(data(&mut c).0.len(), 4000);
    p.a.set(|b| {
        let key = Key::Version(res(), 1, p.a.name());
        b.set(key, next_version(&l, 9500, None));
    });
    let f = read_frame(&mut c.stream, 1 << 20).unwrap();
    assert_eq!((f.kind, f.body.len()), (2, 5500));
}

#[test]
fn damaged_copy_is_fetched_again() {
    let p = pair(NET);
    let (content, ops) = make_log(50, DISK, 5);
    let l = log(1, "alpha");
    grow(&p.a, &l, &content, content.len() as u64);
    let mut bad = content.clone();
    let pos = ops[20].1;
    bad[pos as usize + 100] ^= 1;
    p.b.write_log(&l, &bad);
    p.b.set(|b| {
        let at = format!("{l},{pos},0");
        b.set(Key::Replay(res(), p.b.name()), at);
        b.set(
            Key::Actual(res(), p.b.name(), "replay-code".into()),
            "-74,-10101",
        );
    });
    let _serve = p.a.start(EXE, "serve");
    let mut client = p.b.start(EXE, "data");
    p.b.wait("a sound copy", || {
        fs::read(p.b.log_path(&l)).unwrap() == content
    });
    // Growth goes on in the new file.
    grow(&p.a, &l, &[9; 100], content.len() as u64 + 100);
    fetched(&p.b, 1, content.len() as u64 + 100);
    assert_eq!(client.deleted_files(), 0);
    assert!(client.stop());
}

#[test]
fn source_with_the_same_damage_does_not_replace_the_copy() {
    let p = pair(NET);
    let (mut content, ops) = make_log(50, DISK, 5);
    let l = log(1, "alpha");
    let pos = ops[20].1;
    content[pos as usize + 100] ^= 1;
    grow(&p.a, &l, &content, content.len() as u64);
    p.b.write_log(&l, &content);
    let inode = |h: &Host| {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(h.log_path(&l)).unwrap().ino()
    };
    let before = inode(&p.b);
    p.b.set(|b| {
        let at = format!("{l},{pos},0");
        b.set(Key::Replay(res(), p.b.name()), at);
        b.set(
            Key::Actual(res(), p.b.name(), "replay-code".into()),
            "-74,-10101",
        );
    });
    let _serve = p.a.start(EXE, "serve");
    let mut client = p.b.start(EXE, "data");
    // Seen from outside: it asks for everything, looks, and keeps the old copy. When the code is cleared, normal work goes on.
    p.b.wait("state", || p.b.actual("is-copying").as_deref() == Some("1"));
    p.b.set(|b| {
        b.set(Key::Actual(res(), p.b.name(), "replay-code".into()), "0");
    });
    grow(&p.a, &l, &[9; 100], content.len() as u64 + 100);
    fetched(&p.b, 1, content.len() as u64 + 100);
    assert_eq!(inode(&p.b), before);
    assert!(client.stop());
}

#[test]
fn deleted_log_is_gone_and_not_kept_open() {
    let p = pair(NET);
    let l = log(1, "alpha");
    grow(&p.a, &l, &[1; 5000], 5000);
    let serve = p.a.start(EXE, "serve");
    let mut c = raw(&p.b, &p.a, UUID, "beta").unwrap();
    want(&mut c, "data", "log-000000001-alpha", 0);
    assert_eq!(data(&mut c).1.kind, 3);
    p.a.set(|b| {
        b.delete(Key::Log(res(), l.clone()));
    });
    let (_, f) = data(&mut c);
    assert_eq!(f.kind, 5);
    assert_eq!(serve.deleted_files(), 0);
    want(&mut c, "data", "log-000000001-alpha", 0);
    assert_eq!(data(&mut c).1.kind, 5, "a tombstone is no log");
}

/// The connection ends, perhaps by a reset because not everything was read.
fn cut(c: &mut Conn) -> bool {
    match c.stream.read(&mut [0; 1]) {
        Ok(n) => n == 0,
        Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn hostile_peers_are_refused_and_harm_nobody() {
    let p = pair(NET);
    grow(&p.a, &log(1, "alpha"), &[1; 5000], 5000);
    let serve = p.a.start(EXE, "serve");
    let refused = |uuid: &str, host: &str| {
        let e = raw(&p.b, &p.a, uuid, host).map(|_| ()).unwrap_err();
        assert!(matches!(e, HelloError::RefusedByPeer(_)), "{e}");
    };
    refused("other_1700000000.000000001", "beta");
    refused(UUID, "gamma");
    for request in [&b"\x02..\x02.."[..], &[0xff; 300], b""] {
        let mut c = raw(&p.b, &p.a, UUID, "beta").unwrap();
        write_frame(&mut c.stream, 1, request).unwrap();
        assert!(cut(&mut c));
    }
    let mut c = raw(&p.b, &p.a, UUID, "beta").unwrap();
    want(&mut c, "other", "log-000000001-alpha", 0);
    assert_eq!(data(&mut c).1.kind, 5);
    // Announces 4 GiB.
    let mut c = raw(&p.b, &p.a, UUID, "beta").unwrap();
    c.stream
        .write_all(&[0xff, 0xff, 0xff, 0xff, 1, 0, 0, 0])
        .unwrap();
    assert!(cut(&mut c));
    let mut c = raw(&p.b, &p.a, UUID, "beta").unwrap();
    want(&mut c, "data", "log-000000001-alpha", 0);
    assert_eq!(data(&mut c).0.len(), 5000);
    assert!(serve.rss_kib() < 12 << 10, "{} KiB", serve.rss_kib());
}
