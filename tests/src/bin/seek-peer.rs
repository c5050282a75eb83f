//! Random 4 KiB writes straight to the model of a disk that seeks: what an application gets without us. For the bench.
//! `seek-peer SIZE SECONDS SEED` prints writes per second.
//!
//! 32 writes are in flight: 32 are issued, then it waits until all are done, as before a flush. The model serves one after the other in
//! the order in which they arrive.
use mars_faults::SeekModel;
use std::process::ExitCode;
use std::time::{Duration, Instant};

const IN_FLIGHT: u64 = 32;
const BLOCK: u64 = 4096;

fn main() -> ExitCode {
    let args: Vec<u64> = std::env::args()
        .skip(1)
        .filter_map(|a| a.parse().ok())
        .collect();
    let [size, seconds, seed] = args[..] else {
        eprintln!("usage: seek-peer SIZE SECONDS SEED");
        return ExitCode::FAILURE;
    };
    let mut model = SeekModel::new(size);
    let (mut x, mut writes) = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1, 0);
    let begin = Instant::now();
    while begin.elapsed() < Duration::from_secs(seconds) {
        let now = begin.elapsed();
        let mut done = now;
        for _ in 0..IN_FLIGHT {
            x ^= x << 13;
            x ^= x >> 7;
            x ^= x << 17;
            done = model.access(now, x % (size / BLOCK) * BLOCK, BLOCK);
        }
        std::thread::sleep(done.saturating_sub(begin.elapsed()));
        writes += IN_FLIGHT;
    }
    println!("{:.3}", writes as f64 / begin.elapsed().as_secs_f64());
    ExitCode::SUCCESS
}
