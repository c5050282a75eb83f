//! Speed of `apply_log` against `dd` copying the same log file to the same disk with O_DIRECT and a final sync, and with `fio` against
//! random writes of the same size, with O_DIRECT and through the page cache.
//!
//! `cargo run --release -p mars-disk --example apply_speed [MIB [DIR [random|scattered|sequential|all [ROUNDS [PEERS [FACTOR]]]]]]`: a log of MIB (default 1024) MiB with 4 KiB
//! records: each block once in random order, blocks at random, or in order. PEERS: letters of d (dd), f (fio O_DIRECT), b (fio, page cache), c (cold log), t (times of the steps). The disk is FACTOR times as large as the log.
#![allow(clippy::unwrap_used)]
use mars_disk::{ApplyEvent, ApplyOptions, Disk, WINDOW_BYTES, apply_log};
use mars_log::{EncodeOptions, encode_write};
use mars_tree::Stamp;
use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let arg = |i: usize, default: &str| args.get(i).map_or(default, String::as_str).to_string();
    let mib: u64 = arg(0, "1024").parse().unwrap();
    let disk_size = (mib << 20) * arg(5, "1").parse::<u64>().unwrap();
    let dir = std::path::PathBuf::from(arg(1, "/var/tmp"))
        .join(format!("apply_speed.{}", std::process::id()));
    let (kind, rounds) = (arg(2, "all"), arg(3, "3").parse().unwrap());
    let peers = arg(4, "dfb");
    std::fs::create_dir(&dir).unwrap();
    for order in ["random", "scattered", "sequential"] {
        if kind != "all" && order != kind {
            continue;
        }
        let (log, disk) = (dir.join("log"), dir.join("disk"));
        let amount = format!("--io_size={mib}m");
        let size = make_log(&log, mib << 20, disk_size, order);
        // Interleaved: foreign load of the machine hits all alike.
        for _ in 0..rounds {
            let mut line = format!("{order}:");
            let ours = ours(&log, &disk, disk_size, size, &peers);
            line += &format!(" ours {:.0} MB/s", size as f64 / ours / 1e6);
            for (letter, name) in [('d', "dd"), ('f', "fio direct"), ('b', "fio cached")] {
                if !peers.contains(letter) {
                    continue;
                }
                drop(fresh_disk(&disk, disk_size));
                let t = match letter {
                    'd' => dd(&log, &disk),
                    'f' => fio(
                        &disk,
                        &[&amount, "--direct=1", "--ioengine=io_uring", "--iodepth=32"],
                    ),
                    _ => fio(
                        &disk,
                        &[&amount, "--direct=0", "--ioengine=psync", "--end_fsync=1"],
                    ),
                };
                line += &format!(", {name} {:.0}: {:.2}", size as f64 / t / 1e6, t / ours);
            }
            println!("{line}");
        }
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

/// Random 4 KiB writes over the whole disk, each block once.
fn fio(disk: &Path, how: &[&str]) -> f64 {
    let t = Instant::now();
    let ok = Command::new("fio")
        .args(["--name=peer", "--rw=randwrite", "--bs=4k", "--minimal"])
        .arg(format!("--filename={}", disk.display()))
        .args(how)
        .stdout(std::process::Stdio::null())
        .status()
        .unwrap()
        .success();
    assert!(ok);
    // What fio needs for its own start and end.
    t.elapsed().as_secs_f64() - 0.35
}

fn make_log(path: &Path, log_size: u64, disk_size: u64, order: &str) -> u64 {
    let mut out = std::io::BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
    let pages = disk_size / 4096;
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    let mut buf = Vec::new();
    let mut size = 0;
    let mut i = 0u64;
    while size + 4180 <= log_size {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let page = match order {
            // An odd factor makes a permutation of a power of two.
            "random" => shuffle(i, pages),
            "scattered" => x % pages,
            _ => i % pages,
        };
        let mut data = [0u8; 4096];
        for c in data.chunks_mut(8) {
            c.copy_from_slice(&(x ^ i).to_le_bytes());
        }
        buf.clear();
        let stamp = Stamp::from_nanos(1_700_000_000_000_000_000 + i);
        let n = encode_write(
            &mut buf,
            page * 4096,
            &data,
            stamp,
            i as u32 + 1,
            &EncodeOptions::default(),
        );
        out.write_all(&buf).unwrap();
        size += n as u64;
        i += 1;
    }
    out.into_inner().unwrap().sync_all().unwrap();
    size
}

/// A permutation of `0..pages` (a power of two).
fn shuffle(i: u64, pages: u64) -> u64 {
    let mask = pages - 1;
    let half = pages.trailing_zeros() / 2;
    let mut x = i & mask;
    for factor in [0x9e37_79b1_u64, 0x85eb_ca77, 0xc2b2_ae3d] {
        x = x.wrapping_mul(factor) & mask;
        x ^= x >> half;
    }
    x
}

/// A fully allocated disk, as a real one is.
fn fresh_disk(path: &Path, size: u64) -> File {
    let mut f = File::options()
        .create(true)
        .truncate(true)
        .read(true)
        .write(true)
        .open(path)
        .unwrap();
    let block = vec![1u8; 1 << 20];
    for _ in 0..size >> 20 {
        f.write_all(&block).unwrap();
    }
    f.sync_all().unwrap();
    // Nobody has read it yet.
    posix_fadvise(&f, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    f
}

fn dd(log: &Path, disk: &Path) -> f64 {
    let t = Instant::now();
    let ok = Command::new("dd")
        .arg(format!("if={}", log.display()))
        .arg(format!("of={}", disk.display()))
        .args(["bs=1M", "iflag=direct", "oflag=direct"])
        .args(["conv=fdatasync,notrunc", "status=none"])
        .status()
        .unwrap()
        .success();
    assert!(ok);
    t.elapsed().as_secs_f64()
}

fn ours(log: &Path, disk: &Path, size: u64, limit: u64, how: &str) -> f64 {
    let disk = Disk::from_file(fresh_disk(disk, size), disk).unwrap();
    let opts = ApplyOptions {
        window_bytes: std::env::var("WINDOW_MIB")
            .map_or(WINDOW_BYTES, |w| w.parse::<u64>().unwrap() << 20),
        device_size: size,
    };
    let log = File::open(log).unwrap();
    if how.contains('c') {
        posix_fadvise(&log, 0, 0, PosixFadviseAdvice::POSIX_FADV_DONTNEED).unwrap();
    }
    let t = Instant::now();
    let out = apply_log(&disk, log, 0, limit, &opts, &mut |e| {
        if how.contains('t') {
            let what = match e {
                ApplyEvent::BeforeWrite { .. } => "promise",
                ApplyEvent::Flushed { .. } => "flushed",
            };
            println!("  {:.3} {what}", t.elapsed().as_secs_f64());
        }
        Ok(ControlFlow::Continue(()))
    })
    .unwrap();
    assert_eq!(out.pos, limit);
    t.elapsed().as_secs_f64()
}
