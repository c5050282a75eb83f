//! Speed of `apply_log` against `dd` copying the same log file to the same disk with O_DIRECT and a final sync.
//!
//! `cargo run --release -p mars-disk --example apply_speed [MIB [DIR]]`: a log of MIB (default 1024) MiB with 4 KiB records, random and sequential.
#![allow(clippy::unwrap_used)]
use mars_disk::{ApplyOptions, Disk, WINDOW_BYTES, apply_log};
use mars_log::{EncodeOptions, encode_write};
use mars_tree::Stamp;
use std::fs::File;
use std::io::Write;
use std::ops::ControlFlow;
use std::path::Path;
use std::time::Instant;

fn main() {
    let mut args = std::env::args().skip(1);
    let mib: u64 = args.next().map_or(1024, |a| a.parse().unwrap());
    let dir = args
        .next()
        .map_or_else(std::env::temp_dir, std::path::PathBuf::from)
        .join(format!("apply_speed.{}", std::process::id()));
    std::fs::create_dir(&dir).unwrap();
    for random in [true, false] {
        let log = dir.join("log");
        let size = make_log(&log, mib << 20, random);
        // Interleaved: foreign load of the machine hits both alike.
        let mut ratios: Vec<f64> = (0..3)
            .map(|_| {
                let dd = dd(&log, &dir.join("disk"), mib << 20);
                let ours = ours(&log, &dir.join("disk"), mib << 20, size);
                println!(
                    "{}: dd {:.0} MB/s, apply_log {:.0} MB/s, ratio {:.2}",
                    if random { "random" } else { "sequential" },
                    size as f64 / dd / 1e6,
                    size as f64 / ours / 1e6,
                    dd / ours
                );
                dd / ours
            })
            .collect();
        ratios.sort_by(f64::total_cmp);
        println!("median ratio {:.2}", ratios[1]);
    }
    std::fs::remove_dir_all(&dir).unwrap();
}

fn make_log(path: &Path, disk_size: u64, random: bool) -> u64 {
    let mut out = std::io::BufWriter::with_capacity(1 << 20, File::create(path).unwrap());
    let pages = disk_size / 4096;
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    let mut buf = Vec::new();
    let mut size = 0;
    let mut i = 0u64;
    while size + 4180 <= disk_size {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        let page = if random { x % pages } else { i % pages };
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
    f
}

fn dd(log: &Path, disk: &Path, size: u64) -> f64 {
    drop(fresh_disk(disk, size));
    let t = Instant::now();
    let ok = std::process::Command::new("dd")
        .arg(format!("if={}", log.display()))
        .arg(format!("of={}", disk.display()))
        .args([
            "bs=1M",
            "iflag=direct",
            "oflag=direct",
            "conv=fdatasync,notrunc",
            "status=none",
        ])
        .status()
        .unwrap()
        .success();
    assert!(ok);
    t.elapsed().as_secs_f64()
}

fn ours(log: &Path, disk: &Path, size: u64, limit: u64) -> f64 {
    let disk = Disk::from_file(fresh_disk(disk, size), disk).unwrap();
    let opts = ApplyOptions {
        window_bytes: WINDOW_BYTES,
        device_size: size,
    };
    let t = Instant::now();
    let out = apply_log(
        &disk,
        File::open(log).unwrap(),
        0,
        limit,
        &opts,
        &mut |_| Ok(ControlFlow::Continue(())),
    )
    .unwrap();
    assert_eq!(out.pos, limit);
    t.elapsed().as_secs_f64()
}
