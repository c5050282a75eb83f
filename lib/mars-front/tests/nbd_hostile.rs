//! The NBD server against clients that break the rules (I12).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use common::mem::Mode;
use common::{Served, eventually, noise, run};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::sync::atomic::Ordering;

const MIB: u64 = 1 << 20;
const GO: u32 = 7;

fn connect(served: &Served) -> UnixStream {
    let mut sock = UnixStream::connect(served.link()).unwrap();
    // A server that does not answer is a failure, not a hang.
    sock.set_read_timeout(Some(std::time::Duration::from_secs(30)))
        .unwrap();
    let mut hello = [0; 18];
    sock.read_exact(&mut hello).unwrap();
    assert_eq!(&hello, b"NBDMAGICIHAVEOPT\0\x03", "golden hello");
    sock
}

fn option(sock: &mut UnixStream, option: u32, len: u32, data: &[u8]) -> std::io::Result<()> {
    let mut b = b"IHAVEOPT".to_vec();
    b.extend_from_slice(&option.to_be_bytes());
    b.extend_from_slice(&len.to_be_bytes());
    b.extend_from_slice(data);
    sock.write_all(&b)
}

/// One option reply: kind and data.
fn reply(sock: &mut UnixStream) -> std::io::Result<(u32, Vec<u8>)> {
    let mut head = [0; 20];
    sock.read_exact(&mut head)?;
    assert_eq!(head[..8], 0x3e889045565a9u64.to_be_bytes());
    let mut data = vec![0; u32::from_be_bytes(head[16..].try_into().unwrap()) as usize];
    sock.read_exact(&mut data)?;
    Ok((u32::from_be_bytes(head[12..16].try_into().unwrap()), data))
}

/// In transmission, simple replies.
fn transmission(served: &Served) -> UnixStream {
    let mut sock = connect(served);
    sock.write_all(&3u32.to_be_bytes()).unwrap();
    option(&mut sock, GO, 6, &[0; 6]).unwrap();
    while reply(&mut sock).unwrap().0 != 1 {}
    sock
}

fn request(flags: u16, cmd: u16, cookie: u64, pos: u64, len: u32) -> Vec<u8> {
    let mut b = 0x25609513u32.to_be_bytes().to_vec();
    b.extend_from_slice(&flags.to_be_bytes());
    b.extend_from_slice(&cmd.to_be_bytes());
    b.extend_from_slice(&cookie.to_be_bytes());
    b.extend_from_slice(&pos.to_be_bytes());
    b.extend_from_slice(&len.to_be_bytes());
    b
}

/// Error and cookie of a simple reply.
fn answer(sock: &mut UnixStream) -> std::io::Result<(u32, u64)> {
    let mut b = [0; 16];
    sock.read_exact(&mut b)?;
    assert_eq!(b[..4], 0x67446698u32.to_be_bytes());
    Ok((
        u32::from_be_bytes(b[4..8].try_into().unwrap()),
        u64::from_be_bytes(b[8..].try_into().unwrap()),
    ))
}

/// The server has hung up.
fn cut(sock: &mut UnixStream) {
    let mut b = [0; 4096];
    loop {
        match sock.read(&mut b) {
            Ok(0) => return,
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::ConnectionReset => return,
            Err(e) => panic!("{e}"),
        }
    }
}

fn healthy(served: &Served) {
    run("nbdinfo", &["--size", &served.uri()]);
    eventually("no openers left", || {
        served.mem.openers.load(Ordering::SeqCst) == 0
    });
}

#[test]
fn garbage_in_negotiation_is_cut() {
    let served = Served::nbd(MIB, Mode::Inline);
    for seed in 1..20 {
        let mut sock = connect(&served);
        let _ = sock.write_all(&noise(seed, 1000));
        cut(&mut sock);
        let mut sock = connect(&served);
        sock.write_all(&1u32.to_be_bytes()).unwrap();
        let _ = sock.write_all(&noise(seed, 1000));
        cut(&mut sock);
    }
    healthy(&served);
}

#[test]
fn giant_options_are_bounded() {
    let served = Served::nbd(MIB, Mode::Inline);
    let mut sock = connect(&served);
    sock.write_all(&1u32.to_be_bytes()).unwrap();
    option(&mut sock, GO, 100_000, &vec![0; 100_000]).unwrap();
    assert_eq!(reply(&mut sock).unwrap().0, (1 << 31) + 9, "TOO_BIG");
    option(&mut sock, 3, 4, &[0; 4]).unwrap();
    assert_eq!(reply(&mut sock).unwrap().0, (1 << 31) + 3, "INVALID");
    option(&mut sock, GO, 6, &[0xff; 6]).unwrap();
    assert_eq!(reply(&mut sock).unwrap().0, (1 << 31) + 3, "INVALID");
    for unsupported in [5, 9, 10, 11, 4711] {
        option(&mut sock, unsupported, 3, &[0; 3]).unwrap();
        assert_eq!(
            reply(&mut sock).unwrap().0,
            (1 << 31) + 1,
            "UNSUP {unsupported}"
        );
    }
    option(&mut sock, GO, u32::MAX, &[]).unwrap();
    cut(&mut sock);

    let mut sock = connect(&served);
    sock.write_all(&1u32.to_be_bytes()).unwrap();
    for _ in 0..10_000 {
        if option(&mut sock, 3, 0, &[]).is_err()
            || reply(&mut sock).is_err()
            || reply(&mut sock).is_err()
        {
            healthy(&served);
            return;
        }
    }
    panic!("options without end");
}

#[test]
fn abort_is_acknowledged() {
    let served = Served::nbd(MIB, Mode::Inline);
    let mut sock = connect(&served);
    sock.write_all(&3u32.to_be_bytes()).unwrap();
    option(&mut sock, 2, 0, &[]).unwrap();
    assert_eq!(reply(&mut sock).unwrap().0, 1);
    cut(&mut sock);
    assert_eq!(served.mem.opened_ever.load(Ordering::SeqCst), 0);
}

#[test]
fn every_cut_point_of_a_conversation_is_survived() {
    let served = Served::nbd(MIB, Mode::Scrambled);
    let mut talk = 3u32.to_be_bytes().to_vec();
    talk.extend_from_slice(b"IHAVEOPT\0\0\0\x07\0\0\0\x06\0\0\0\0\0\0");
    talk.extend(request(0, 1, 1, 0, 512));
    talk.extend([7; 512]);
    talk.extend(request(0, 0, 2, 0, 4096));
    talk.extend(request(0, 3, 3, 0, 0));
    let ends = (0..40)
        .chain((40..talk.len()).step_by(37))
        .chain([talk.len()]);
    for end in ends {
        let mut sock = connect(&served);
        sock.write_all(&talk[..end]).unwrap();
        drop(sock);
    }
    healthy(&served);
}

#[test]
fn garbage_in_transmission_is_cut() {
    let served = Served::nbd(MIB, Mode::Inline);
    for seed in 1..10 {
        let mut sock = transmission(&served);
        let _ = sock.write_all(&noise(seed, 3000));
        cut(&mut sock);
    }
    // A payload that nobody would send, and one that never comes.
    let mut sock = transmission(&served);
    sock.write_all(&request(0, 1, 1, 0, u32::MAX - 511))
        .unwrap();
    cut(&mut sock);
    let mut sock = transmission(&served);
    sock.write_all(&request(0, 1, 1, 0, 1 << 20)).unwrap();
    sock.write_all(&[1; 300_000]).unwrap();
    drop(sock);
    healthy(&served);
}

#[test]
fn oversized_write_is_skipped_and_refused() {
    let served = Served::nbd(MIB, Mode::Inline);
    let mut sock = transmission(&served);
    sock.write_all(&request(0, 1, 5, 0, 33 << 20)).unwrap();
    sock.write_all(&vec![9; 33 << 20]).unwrap();
    assert_eq!(answer(&mut sock).unwrap(), (22, 5));
    sock.write_all(&request(0, 99, 6, 0, 512)).unwrap();
    assert_eq!(answer(&mut sock).unwrap(), (22, 6));
    sock.write_all(&request(0, 3, 7, 512, 0)).unwrap();
    assert_eq!(answer(&mut sock).unwrap(), (22, 7));
    assert!(served.mem.content().iter().all(|&b| b == 0));
}

/// A request may arrive in any pieces.
#[test]
fn dribbled_requests_are_assembled() {
    let served = Served::nbd(MIB, Mode::Inline);
    let mut sock = transmission(&served);
    let mut bytes = request(0, 1, 1, 512, 1024);
    bytes.extend(noise(3, 1024));
    bytes.extend(request(0, 1, 2, 4096, 200 << 10));
    bytes.extend(noise(4, 200 << 10));
    let mut rest = &bytes[..];
    let mut n = 1;
    while !rest.is_empty() {
        let (now, later) = rest.split_at(n.min(rest.len()));
        sock.write_all(now).unwrap();
        rest = later;
        n = n * 3 % 8191 + 1;
    }
    assert_eq!(answer(&mut sock).unwrap(), (0, 1));
    assert_eq!(answer(&mut sock).unwrap(), (0, 2));
    let content = served.mem.content();
    assert!(
        content[512..1536] == noise(3, 1024)
            && content[4096..4096 + (200 << 10)] == noise(4, 200 << 10)
    );
}

/// A client that asks without end and takes no answers neither grows the server nor disturbs others.
#[test]
fn client_that_never_reads_is_bounded() {
    for cold in [false, true] {
        let mut served = Served::nbd(MIB, Mode::Scrambled);
        served.mem.cold.store(cold, Ordering::SeqCst);
        let mut sock = transmission(&served);
        sock.set_nonblocking(true).unwrap();
        let reads: Vec<u8> = (0..64)
            .flat_map(|i| request(0, 0, i, 0, 256 << 10))
            .collect();
        let mut sent = 0;
        let mut full = 0;
        // Full for long: the server has stopped reading.
        while full < 50 {
            match sock.write(&reads) {
                Ok(n) => (sent, full) = (sent + n, 0),
                Err(_) => {
                    full += 1;
                    std::thread::sleep(std::time::Duration::from_millis(5));
                }
            }
        }
        assert!(sent < 4 << 20, "the server reads on and on: {sent}");
        // 8 MiB of answers may wait here, some more are in the socket.
        let reads = served.mem.reads.load(Ordering::SeqCst);
        assert!(reads < 60, "answers pile up: {reads}");
        run(
            "qemu-io",
            &[
                "-f",
                "raw",
                "-c",
                "write -P 3 0 64k",
                "-c",
                "read -P 3 0 64k",
                "-c",
                "flush",
                &served.uri(),
            ],
        );
        // Either the client goes, or it is cut.
        if cold {
            drop(sock);
        }
        served.front.stop(true).unwrap();
        assert_eq!(served.mem.openers.load(Ordering::SeqCst), 0);
    }
}

/// Pool and engine answer while the socket is full: a writer thread finishes, nothing is lost or mixed up.
#[test]
fn answers_beyond_the_socket_buffer_arrive() {
    let served = Served::nbd(4 * MIB, Mode::Scrambled);
    served.mem.cold.store(true, Ordering::SeqCst);
    let mut sock = transmission(&served);
    let mut talk = request(0, 1, 1 << 32, 0, 128 << 10);
    talk.extend(noise(11, 128 << 10));
    for i in 0..200u64 {
        talk.extend(request(0, 0, i, 0, 128 << 10));
        talk.extend(request(0, 3, 1000 + i, 0, 0));
    }
    let mut writer = sock.try_clone().unwrap();
    let thread = std::thread::spawn(move || writer.write_all(&talk).unwrap());
    let mut seen = std::collections::HashSet::new();
    let mut data = vec![0; 128 << 10];
    for i in 0..401 {
        if i % 50 == 0 {
            // Lets the socket fill up.
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let (error, cookie) = answer(&mut sock).unwrap();
        assert_eq!(error, 0);
        if cookie < 1000 {
            sock.read_exact(&mut data).unwrap();
            assert!(data == noise(11, 128 << 10));
        }
        assert!(seen.insert(cookie));
    }
    thread.join().unwrap();
}

/// Forced stop: what has arrived is answered before the connection is cut.
#[test]
fn forced_stop_answers_what_is_in_flight() {
    let mut served = Served::nbd(MIB, Mode::Scrambled);
    served.mem.hold.store(true, Ordering::SeqCst);
    let mut sock = transmission(&served);
    for i in 0..100 {
        sock.write_all(&request(0, 1, i, i * 4096, 4096)).unwrap();
        sock.write_all(&[i as u8; 4096]).unwrap();
    }
    eventually("the first is in the backend", || {
        served.mem.writes.load(Ordering::SeqCst) > 0
    });
    let mem = std::sync::Arc::clone(&served.mem);
    let link = served.link();
    let releaser = std::thread::spawn(move || {
        eventually("the link is gone", || !link.is_symlink());
        eventually("all are in the backend", || {
            mem.writes.load(Ordering::SeqCst) == 100
        });
        mem.release();
    });
    served.front.stop(true).unwrap();
    releaser.join().unwrap();
    let mut cookies: Vec<u64> = (0..100).map(|_| answer(&mut sock).unwrap().1).collect();
    cookies.sort_unstable();
    assert_eq!(cookies, (0..100).collect::<Vec<u64>>());
    cut(&mut sock);
    assert_eq!(served.mem.openers.load(Ordering::SeqCst), 0);
}

#[test]
fn connections_are_bounded() {
    let served = Served::nbd(MIB, Mode::Inline);
    let mut held: Vec<UnixStream> = (0..64).map(|_| transmission(&served)).collect();
    assert_eq!(served.front.openers(), 64);
    let mut extra = UnixStream::connect(served.link()).unwrap();
    extra
        .set_read_timeout(Some(std::time::Duration::from_secs(30)))
        .unwrap();
    cut(&mut extra);
    held.pop();
    eventually("a place is free", || served.front.openers() == 63);
    held.push(transmission(&served));
    drop(held);
    healthy(&served);
}
