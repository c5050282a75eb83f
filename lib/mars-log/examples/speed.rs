//! Speed of the record code on one core: `cargo run --release -p mars-log --example speed`.
use mars_log::{
    Compression, Digest, EncodeOptions, Payload, Scan, ScanLimits, Scanner, encode_write,
    encode_zeroes,
};
use mars_tree::Stamp;
use std::hint::black_box;
use std::time::Instant;

/// Records per batch, as many as the logger collects before it writes.
const BATCH: usize = 256;
const ROUNDS: usize = 200;

/// Text-like data: LZ4 makes about a half of it.
fn pages() -> Vec<[u8; 4096]> {
    const WORDS: &[u8] =
        b"anytime consistency of a replica after some prefix of the transaction log, asynchronous";
    let mut x = 0x9e37_79b9_7f4a_7c15_u64;
    (0..BATCH)
        .map(|_| {
            let mut page = [0; 4096];
            for piece in page.chunks_mut(8) {
                x ^= x << 13;
                x ^= x >> 7;
                x ^= x << 17;
                let at = (x >> 40) as usize % (WORDS.len() - 8);
                piece.copy_from_slice(&WORDS[at..at + 8]);
            }
            page
        })
        .collect()
}

fn report(what: &str, records: usize, bytes: usize, start: Instant) {
    let s = start.elapsed().as_secs_f64();
    println!(
        "{what:28} {:>11.0} records/s {:>8.0} MB/s of payload",
        records as f64 / s,
        bytes as f64 / s / 1e6
    );
}

fn main() {
    let pages = pages();
    let mut log = Vec::with_capacity(BATCH * 4200);
    for digest in Digest::BY_PREFERENCE {
        for compression in [None, Some(Compression::Lz4), Some(Compression::Zlib)] {
            if compression.is_some() && digest != Digest::Crc32c {
                continue;
            }
            let opts = EncodeOptions {
                digest,
                compression,
                ..EncodeOptions::default()
            };
            let name = compression.map_or(format!("{digest:?}"), |c| format!("{digest:?} {c:?}"));
            let rounds = if compression == Some(Compression::Zlib) {
                ROUNDS / 10
            } else {
                ROUNDS
            };
            let start = Instant::now();
            for _ in 0..rounds {
                log.clear();
                for (i, p) in pages.iter().enumerate() {
                    let pos = (i * 4096) as u64;
                    let n = encode_write(&mut log, pos, p, Stamp::ZERO, i as u32 + 1, &opts);
                    black_box(n);
                }
            }
            let n = rounds * BATCH;
            report(&format!("encode {name}"), n, n * 4096, start);
            let start = Instant::now();
            for _ in 0..rounds {
                assert_eq!(scan(&log), BATCH * 4096);
            }
            report(&format!("scan {name}"), n, n * 4096, start);
        }
    }
    let opts = EncodeOptions::default();
    let start = Instant::now();
    for _ in 0..ROUNDS {
        log.clear();
        for i in 0..BATCH {
            let n = encode_zeroes(&mut log, 0, 32256, Stamp::ZERO, i as u32 + 1, &opts);
            black_box(n);
        }
    }
    let n = ROUNDS * BATCH;
    report("encode zeroes 32256", n, n * 32256, start);
    let start = Instant::now();
    for _ in 0..ROUNDS {
        assert_eq!(scan(&log), BATCH * 32256);
    }
    report("scan zeroes 32256", n, n * 32256, start);
}

fn scan(mut bytes: &[u8]) -> usize {
    let mut s = Scanner::new(ScanLimits::default());
    let mut sum = 0;
    while let Scan::Record(r) = s.next(bytes) {
        sum += match &r.payload {
            Payload::Plain(b) => black_box(b).len(),
            other => other.len(),
        };
        bytes = &bytes[r.total_len..];
    }
    sum
}
