//! `mars-sync` and `mars-sync serve` as processes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#[path = "../../mars-fetch/tests/support/mod.rs"]
mod support;

use mars_live::SyncLive;
use mars_net::{
    Conn, ConnectOptions, Hello, HelloError, Service, connect, read_frame, write_frame,
};
use mars_policy::sync_source_key;
use mars_tree::Key;
use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::Duration;
use support::*;

const EXE: &str = env!("CARGO_BIN_EXE_mars-sync");
const NET: u8 = 3;
const HALF: u64 = DISK / 2;

fn status(h: &Host) -> String {
    h.text(&Key::SyncStatus(res(), h.name())).unwrap()
}

/// Beta has to sync from `from` on; the primary has written back up to some position.
fn to_sync(p: &Pair, from: u64) {
    p.both(|b| {
        b.set(
            Key::Replay(res(), p.a.name()),
            "log-000000001-alpha,5000,300",
        );
        b.set(Key::SyncStatus(res(), p.b.name()), from);
    });
}

fn fill(h: &Host, pos: u64, len: usize, seed: u8) {
    let data: Vec<u8> = (0..len)
        .map(|i| (i as u8).wrapping_mul(31) ^ seed | 1)
        .collect();
    let f = fs::File::options().write(true).open(&h.disk).unwrap();
    f.write_all_at(&data, pos).unwrap();
}

/// All blocks are equal: the client asks for a sign of the primary.
fn wait_ping(p: &Pair) {
    let ping = p.b.env.run_dir.join("meta.ping");
    // The client writes the file after it took its stamp; beta's own `is-syncing` and progress wake us.
    let end = std::time::Instant::now() + PATIENCE;
    while !ping.exists() {
        assert!(std::time::Instant::now() < end, "no ping");
        std::thread::yield_now();
    }
}

/// The primary's metadata daemon answers the ping with a fresh heartbeat.
fn answer_ping(p: &Pair) {
    wait_ping(p);
    p.b.set(|b| {
        b.set(Key::HostActual(p.a.name(), "alive".into()), 1);
    });
}

/// Runs a sync to its end and checks what must hold then.
fn run_to_end(p: &Pair) -> SyncLive {
    let mut client = p.b.start(EXE, "data");
    answer_ping(p);
    assert!(client.0.wait().unwrap().success());
    assert_eq!(status(&p.b), DISK.to_string());
    assert_eq!(
        p.b.text(&Key::SyncPos(res(), p.b.name())).as_deref(),
        Some("log-000000001-alpha,5000,300")
    );
    assert_eq!(p.b.actual("is-syncing").as_deref(), Some("0"));
    assert!(p.b.env.trigger_file().exists(), "asked for a reconcile");
    assert!(fs::read(&p.a.disk).unwrap() == fs::read(&p.b.disk).unwrap());
    p.b.page().read::<SyncLive>().0
}

#[test]
fn change_while_connecting_is_not_missed() {
    let p = pair(NET);
    to_sync(&p, 0);
    let l = mars_net::listen(p.a.ip.parse().unwrap(), 7779).unwrap();
    let _client = p.b.start(EXE, "data");
    let (s, _) = l.socket.accept().unwrap();
    let uuid = p.b.text(&Key::Uuid).unwrap();
    let mine = Hello::new(Service::Sync, uuid, "alpha");
    let mut c = mars_net::accept(s, &mine, PATIENCE, PATIENCE, |_| Ok(())).unwrap();
    assert_eq!(read_frame(&mut c.stream, 512).unwrap().kind, 7, "accept");
    assert_eq!(read_frame(&mut c.stream, 512).unwrap().kind, 1, "open");
    p.b.set(|b| {
        let key = Key::Todo(res(), p.b.name(), mars_tree::TodoSwitch::Sync);
        b.set(key, 0);
    });
    write_frame(&mut c.stream, 2, &DISK.to_le_bytes()).unwrap();
    let e = read_frame(&mut c.stream, 1 << 20);
    assert!(e.is_err(), "asks for blocks although the sync is paused");
}

#[test]
fn equal_disks_cost_digests_only() {
    let p = pair(NET);
    to_sync(&p, 0);
    for h in [&p.a, &p.b] {
        fill(h, 0, DISK as usize, 5);
    }
    let _serve = p.a.start(EXE, "serve");
    let live = run_to_end(&p);
    assert_eq!((live.equal_blocks, live.different_blocks), (1024, 0));
    assert!(
        live.wire_bytes > 0 && live.wire_bytes < DISK / 100,
        "{live:?}"
    );
    assert_eq!(
        p.b.text(&Key::VerifyStatus(res(), p.b.name())).as_deref(),
        Some("1024,0")
    );
}

#[test]
fn different_blocks_only_are_sent() {
    let p = pair(NET);
    to_sync(&p, 0);
    for h in [&p.a, &p.b] {
        fill(h, 0, DISK as usize, 5);
    }
    // 3 blocks at the source, one of them zero, one block at the target.
    fill(&p.a, 10 * 65536 + 512, 512, 6);
    fill(&p.a, 500 * 65536, 70_000, 7);
    fill(&p.b, DISK - 512, 512, 8);
    let f = fs::File::options().write(true).open(&p.a.disk).unwrap();
    f.write_all_at(&[0; 65536], 700 * 65536).unwrap();
    let _serve = p.a.start(EXE, "serve");
    let live = run_to_end(&p);
    assert_eq!((live.equal_blocks, live.different_blocks), (1019, 5));
    assert!(live.wire_bytes < 4 * 65536 + DISK / 100, "{live:?}");
}

/// Forwards one connection to the server and counts the bytes of both directions.
fn counting_relay(listener: TcpListener, to: SocketAddr) -> std::thread::JoinHandle<u64> {
    fn pump(mut from: TcpStream, mut to: TcpStream) -> u64 {
        let n = std::io::copy(&mut from, &mut to).unwrap();
        to.shutdown(Shutdown::Write).ok();
        n
    }
    std::thread::spawn(move || {
        let client = listener.accept().unwrap().0;
        let end = std::time::Instant::now() + PATIENCE;
        let server = loop {
            match TcpStream::connect(to) {
                Ok(s) => break s,
                Err(e) => assert!(std::time::Instant::now() < end, "{e}"),
            }
            std::thread::yield_now();
        };
        let (c, s) = (client.try_clone().unwrap(), server.try_clone().unwrap());
        let up = std::thread::spawn(move || pump(c, s));
        pump(server, client) + up.join().unwrap()
    })
}

/// 1 % of the blocks differ: little more than these blocks travels, what the daemon counts is what travels, and its memory is bounded.
#[test]
fn one_percent_costs_little_more_than_what_differs() {
    let p = pair(NET);
    to_sync(&p, 0);
    for h in [&p.a, &p.b] {
        fill(h, 0, DISK as usize, 5);
    }
    let blocks = DISK / 65536;
    let differing: Vec<u64> = (0..blocks / 100).map(|i| i * 97).collect();
    for b in &differing {
        fill(&p.a, b * 65536, 65536, 8);
    }
    let hidden = p.a.ip.replace("127.42.", "127.27.");
    let _serve = p.a.start_with(EXE, &["serve", "--ip", &hidden]);
    let listener = TcpListener::bind((p.a.ip.as_str(), 7779)).unwrap();
    let relay = counting_relay(listener, format!("{hidden}:7779").parse().unwrap());
    let mut client = p.b.start(EXE, "data");
    wait_ping(&p);
    let peak = client.peak_kib();
    answer_ping(&p);
    assert!(client.0.wait().unwrap().success());
    let live = p.b.page().read::<SyncLive>().0;
    assert_eq!(live.different_blocks, differing.len() as u64);
    let travelled = relay.join().unwrap();
    // Only hello and opening are not counted.
    let rest = travelled.checked_sub(live.wire_bytes).unwrap();
    assert!(rest < 300, "{rest} bytes more than {}", live.wire_bytes);
    let different = differing.len() as u64 * 65536;
    assert!(
        travelled * 10 <= different * 13,
        "{travelled} bytes for {different} that differ"
    );
    assert!(peak < 24 << 10, "{peak} KiB");
    assert!(fs::read(&p.a.disk).unwrap() == fs::read(&p.b.disk).unwrap());
}

#[test]
fn holes_stay_holes_and_old_data_goes() {
    let p = pair(NET);
    to_sync(&p, 0);
    fill(&p.a, 20 << 20, 100_000, 3);
    // The target is full of something else.
    fill(&p.b, 0, HALF as usize, 9);
    let _serve = p.a.start(EXE, "serve");
    let live = run_to_end(&p);
    assert_eq!(live.different_blocks, 512);
    let kib = |h: &Host| fs::metadata(&h.disk).unwrap().blocks() / 2;
    assert!(kib(&p.a) < 1024, "the source was not filled");
    assert!(kib(&p.b) < 1024, "{} KiB at the target", kib(&p.b));
}

#[test]
fn sync_continues_where_it_was() {
    let p = pair(NET);
    to_sync(&p, HALF);
    p.b.set(|b| {
        b.set(sync_source_key(&res(), &p.b.name()), "alpha");
    });
    fill(&p.a, 0, DISK as usize, 5);
    // Pretends that the first half was synced before.
    fill(&p.b, 0, HALF as usize, 5);
    let _serve = p.a.start(EXE, "serve");
    let live = run_to_end(&p);
    assert_eq!((live.equal_blocks, live.different_blocks), (0, 512));
    assert_eq!(p.b.text(&sync_source_key(&res(), &p.b.name())), None);
}

#[test]
fn other_source_starts_anew() {
    let p = pair(NET);
    to_sync(&p, HALF);
    p.b.set(|b| {
        b.set(sync_source_key(&res(), &p.b.name()), "gamma");
    });
    fill(&p.a, 0, DISK as usize, 5);
    fill(&p.b, 0, HALF as usize, 6);
    let _serve = p.a.start(EXE, "serve");
    assert_eq!(run_to_end(&p).different_blocks, 1024);
}

#[test]
fn killed_sync_is_resumed_and_ends_equal() {
    let p = pair(NET);
    to_sync(&p, 0);
    fill(&p.a, 0, DISK as usize, 5);
    let mut serve = p.a.start(EXE, "serve");
    for part in [3, 10] {
        let mut client = p.b.start(EXE, "data");
        p.b.wait_live::<SyncLive>("progress", |s| s.pos >= part << 20);
        client.kill();
        assert!(status(&p.b).parse::<u64>().unwrap() < DISK);
    }
    // The source dies in the middle, too, and comes back.
    let mut client = p.b.start(EXE, "data");
    p.b.wait_live::<SyncLive>("progress", |s| s.different_blocks > 0);
    serve.kill();
    let _serve = p.a.start(EXE, "serve");
    answer_ping(&p);
    assert!(client.0.wait().unwrap().success());
    assert!(fs::read(&p.a.disk).unwrap() == fs::read(&p.b.disk).unwrap());
    assert_eq!(status(&p.b), DISK.to_string());
}

/// A block that was read at the source before replay applied a newer record here must not be written over it.
#[test]
fn nothing_is_written_where_replay_is_ahead_of_what_is_known() {
    let p = pair(NET);
    to_sync(&p, 0);
    fill(&p.a, 0, 65536, 5);
    // Replay here may have applied up to 9000; of the source only 5000 is known to be on its disk.
    p.b.set(|b| {
        b.set(
            Key::Replay(res(), p.b.name()),
            "log-000000001-alpha,4000,5000",
        );
    });
    let _serve = p.a.start(EXE, "serve");
    let mut client = p.b.start(EXE, "data");
    // It asks again and again.
    let mut last = 0;
    for _ in 0..3 {
        let s =
            p.b.wait_live::<SyncLive>("questions", |s| s.wire_bytes > last);
        last = s.wire_bytes;
        assert_eq!(s.different_blocks, 0);
    }
    let mut first = [0; 512];
    fs::File::open(&p.b.disk)
        .unwrap()
        .read_exact_at(&mut first, 0)
        .unwrap();
    assert_eq!(first, [0; 512]);
    p.both(|b| {
        b.set(Key::Replay(res(), p.a.name()), "log-000000001-alpha,9000,0");
    });
    answer_ping(&p);
    assert!(client.0.wait().unwrap().success());
    assert!(fs::read(&p.a.disk).unwrap() == fs::read(&p.b.disk).unwrap());
}

#[test]
fn sync_that_is_switched_off_ends() {
    let p = pair(NET);
    to_sync(&p, 0);
    // No server: it tries for ever.
    let mut client = p.b.start(EXE, "data");
    p.b.wait("start", || p.b.actual("is-syncing").as_deref() == Some("1"));
    p.b.set(|b| {
        b.set(Key::Todo(res(), p.b.name(), mars_tree::TodoSwitch::Sync), 0);
    });
    assert!(client.0.wait().unwrap().success());
    assert_eq!(p.b.actual("is-syncing").as_deref(), Some("0"));
    assert_eq!(status(&p.b), "0");
    let mut client = p.b.start(EXE, "data");
    assert!(client.0.wait().unwrap().success(), "nothing to do");
    let mut serve = p.a.start(EXE, "serve");
    drop(raw(&p, "beta").unwrap());
    assert!(serve.stop());
}

fn raw(p: &Pair, host: &str) -> Result<Conn, HelloError> {
    let opts = ConnectOptions {
        bind: Some(p.b.ip.parse().unwrap()),
        timeout: Duration::from_secs(10),
        read_timeout: Duration::from_secs(30),
    };
    let mine = Hello::new(Service::Sync, "alpha_1700000000.000000001", host);
    let end = std::time::Instant::now() + PATIENCE;
    loop {
        match connect(p.a.ip.parse().unwrap(), 7779, &mine, &opts, |_| Ok(())) {
            Err(HelloError::Io(e)) if e.kind() == std::io::ErrorKind::ConnectionRefused => {
                assert!(std::time::Instant::now() < end, "server does not start");
                std::thread::yield_now();
            }
            other => return other,
        }
    }
}

/// The connection ends, perhaps by a reset because not everything was read.
fn cut(c: &mut Conn) -> bool {
    match c.stream.read(&mut [0; 1]) {
        Ok(n) => n == 0,
        Err(e) => e.kind() == std::io::ErrorKind::ConnectionReset,
    }
}

#[test]
fn server_refuses_what_it_must() {
    let p = pair(NET);
    to_sync(&p, 0);
    fill(&p.a, 0, 65536, 5);
    let serve = p.a.start(EXE, "serve");
    assert!(matches!(
        raw(&p, "gamma").map(|_| ()).unwrap_err(),
        HelloError::RefusedByPeer(_)
    ));
    let open = |name: &[u8]| {
        let mut c = raw(&p, "beta").unwrap();
        write_frame(&mut c.stream, 1, name).unwrap();
        c
    };
    // Cut without a word: no name at all. Refused: a resource that is not here.
    assert!(cut(&mut open(b"../x")));
    assert_eq!(read_frame(&mut open(b"other").stream, 600).unwrap().kind, 3);
    // Behind the end, empty, and nonsense.
    let check = |pos: u64, len: u32| {
        let mut b = pos.to_le_bytes().to_vec();
        b.extend_from_slice(&len.to_le_bytes());
        b.extend_from_slice(&1u64.to_le_bytes());
        b
    };
    for body in [check(DISK, 512), check(0, 0), vec![9; 40]] {
        let mut c = open(b"data");
        assert_eq!(read_frame(&mut c.stream, 600).unwrap().kind, 2);
        write_frame(&mut c.stream, 4, &body).unwrap();
        assert!(cut(&mut c));
    }
    let mut c = open(b"data");
    assert_eq!(read_frame(&mut c.stream, 600).unwrap().kind, 2);
    write_frame(&mut c.stream, 4, &check(0, 512)).unwrap();
    let f = read_frame(&mut c.stream, 1000).unwrap();
    assert_eq!((f.kind, f.body.len()), (5, 28 + 512));
    // Not primary any more: not a source any more.
    p.a.set(|b| {
        b.set(Key::Primary(res()), "beta");
    });
    write_frame(&mut c.stream, 4, &check(0, 512)).unwrap();
    assert_eq!(read_frame(&mut c.stream, 1000).unwrap().kind, 6);
    assert_eq!(read_frame(&mut open(b"data").stream, 600).unwrap().kind, 3);
    let mut c = raw(&p, "beta").unwrap();
    c.stream.write_all(&[0xff; 64]).unwrap();
    assert!(cut(&mut c));
    assert!(serve.rss_kib() < 12 << 10, "{} KiB", serve.rss_kib());
}
