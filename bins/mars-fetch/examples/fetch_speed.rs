//! How fast `mars-fetch` brings a finished log, durable at the receiver, against a plain sendfile stream that is written to a new
//! file and fdatasync'ed; and how soon a small batch at the live end is durable over there. Rounds in turn; medians.
//!
//! `fetch_speed target/release/mars-fetch [MIB] [ROUNDS]`
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#[path = "../tests/support/mod.rs"]
mod support;

use mars_live::{FetchLive, LogLive};
use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};
use support::{Host, log, pair, res};

fn publish(h: &Host, durable: u64) {
    h.page().publish(&LogLive {
        log_nr: 1,
        durable_len: durable,
        logged_len: durable,
        ..LogLive::default()
    });
}

/// Seconds for the bulk, then the latencies of small batches.
fn ours(exe: &str, len: u64, batches: u64) -> (f64, Vec<f64>) {
    const BATCH: u64 = 4096;
    let p = pair(99);
    let l = log(1, "alpha");
    let path = p.a.log_path(&l);
    write_log(&path, len + batches * BATCH);
    publish(&p.a, 0);
    let _logger = mars_daemon::InstanceLock::acquire(&p.a.env, "logger", Some(&res())).unwrap();
    let _serve = p.a.start(exe, "serve");
    let _client = p.b.start(exe, "data");
    p.b.wait_live::<FetchLive>("the client", |f| f.log_nr == 1);
    // The connection stands when the first bytes are there.
    publish(&p.a, 512);
    p.b.wait_live::<FetchLive>("the first bytes", |f| f.durable_len == 512);
    let begin = Instant::now();
    publish(&p.a, len);
    p.b.wait_live::<FetchLive>("the bulk", |f| f.durable_len == len);
    let bulk = begin.elapsed().as_secs_f64();
    let mut small = vec![];
    for i in 1..=batches {
        std::thread::sleep(Duration::from_millis(3));
        let begin = Instant::now();
        publish(&p.a, len + i * BATCH);
        p.b.wait_live::<FetchLive>("a batch", |f| f.durable_len == len + i * BATCH);
        small.push(begin.elapsed().as_secs_f64());
    }
    let copy = fs::read(p.b.log_path(&l)).unwrap();
    assert!(copy == fs::read(&path).unwrap());
    (bulk, small)
}

fn write_log(path: &std::path::Path, len: u64) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let mut f = File::create(path).unwrap();
    let mut x = 1u64;
    let mut piece = vec![0u8; 1 << 20];
    let mut left = len;
    while left > 0 {
        for w in piece.chunks_exact_mut(8) {
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            w.copy_from_slice(&x.to_ne_bytes());
        }
        let n = left.min(piece.len() as u64);
        f.write_all(&piece[..n as usize]).unwrap();
        left -= n;
    }
    f.sync_all().unwrap();
}

fn peer(len: u64) -> f64 {
    let dir = tempfile::tempdir().unwrap();
    let src = dir.path().join("src");
    write_log(&src, len);
    let dst = dir.path().join("dst");
    let l = TcpListener::bind("127.27.0.1:0").unwrap();
    let to = l.local_addr().unwrap();
    let begin = Instant::now();
    std::thread::scope(|s| {
        s.spawn(|| {
            let c = TcpStream::connect(to).unwrap();
            let f = File::open(&src).unwrap();
            let mut left = len as usize;
            let mut at = 0;
            while left > 0 {
                left -= nix::sys::sendfile::sendfile(&c, &f, Some(&mut at), left).unwrap();
            }
        });
        let (mut c, _) = l.accept().unwrap();
        let mut f = File::create(&dst).unwrap();
        let mut buf = vec![0u8; 1 << 20];
        loop {
            let n = c.read(&mut buf).unwrap();
            if n == 0 {
                break;
            }
            f.write_all(&buf[..n]).unwrap();
        }
        f.sync_data().unwrap();
    });
    begin.elapsed().as_secs_f64()
}

fn median(v: &mut [f64]) -> f64 {
    v.sort_by(f64::total_cmp);
    v[v.len() / 2]
}

fn main() {
    let mut args = std::env::args().skip(1);
    let exe = args.next().expect("path of mars-fetch");
    let mib: u64 = args.next().map_or(1024, |a| a.parse().unwrap());
    let rounds: u32 = args.next().map_or(3, |a| a.parse().unwrap());
    let (mut a, mut b, mut ratios, mut small) = (vec![], vec![], vec![], vec![]);
    for _ in 0..rounds {
        let p = mib as f64 / peer(mib << 20);
        let (bulk, lat) = ours(&exe, mib << 20, 200);
        let o = mib as f64 / bulk;
        small.extend(lat);
        println!("ours {o:.0} MiB/s, peer {p:.0} MiB/s, ratio {:.2}", o / p);
        a.push(o);
        b.push(p);
        ratios.push(o / p);
    }
    println!(
        "median: ours {:.0}, peer {:.0}, ratio {:.2}",
        median(&mut a),
        median(&mut b),
        median(&mut ratios)
    );
    println!(
        "4 KiB at the live end, durable at the receiver: median {:.0} us, 99 % {:.0} us",
        median(&mut small) * 1e6,
        small[small.len() * 99 / 100] * 1e6
    );
}
