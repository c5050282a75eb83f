//! Memory: no allocation per record on the hot paths, never more than 32 KiB for one record. A test binary of its own,
//! because it replaces the allocator.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::*;
use mars_log::{
    Compression, Digest, EncodeOptions, Payload, Scan, ScanLimits, Scanner, encode_write,
    encode_zeroes,
};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

thread_local! {
    /// Allocations of this thread: how many, and the largest.
    static SEEN: Cell<(usize, usize)> = const { Cell::new((0, 0)) };
}

struct Counting;

// SAFETY: passes every call on to the system's allocator unchanged; the counter is a plain thread-local cell without a
// destructor, so it may be touched at any time.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, l: Layout) -> *mut u8 {
        let (n, max) = SEEN.get();
        SEEN.set((n + 1, max.max(l.size())));
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(l) }
    }
    unsafe fn dealloc(&self, p: *mut u8, l: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(p, l) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Number and largest size of the allocations of `f`.
fn count(f: impl FnOnce()) -> (usize, usize) {
    SEEN.set((0, 0));
    f();
    SEEN.get()
}

fn scan(mut bytes: &[u8], s: &mut Scanner, mut each: impl FnMut(&Payload<'_>)) {
    while let Scan::Record(r) = s.next(bytes) {
        each(&r.payload);
        bytes = &bytes[r.total_len..];
    }
    assert!(bytes.is_empty());
}

#[test]
fn encoding_and_scanning_allocate_nothing_per_record() {
    let payload = page(1, 4096);
    let mut log = Vec::with_capacity(1 << 20);
    for digest in Digest::BY_PREFERENCE {
        for compression in [None, Some(Compression::Lz4), Some(Compression::Zlib)] {
            let opts = EncodeOptions {
                digest,
                compression,
                ..EncodeOptions::default()
            };
            let encode = |log: &mut Vec<u8>| {
                log.clear();
                // Without numbers, so that it can be scanned again and again.
                for _ in 0..100 {
                    assert!(encode_write(log, 0, &payload, STAMP, 0, &opts) > 0);
                    assert!(encode_zeroes(log, 0, 32256, STAMP, 0, &opts) > 0);
                }
            };
            encode(&mut log); // the first use may set up working memory
            let n = count(|| encode(&mut log)).0;
            assert_eq!(n, 0, "{opts:?}");
            let mut s = Scanner::new(ScanLimits::default());
            scan(&log, &mut s, |_| ());
            let mut unpacked = 0;
            let (n, max) = count(|| {
                scan(&log, &mut s, |p| {
                    unpacked += usize::from(matches!(p, Payload::Unpacked(_)));
                });
            });
            assert_eq!(unpacked, if compression.is_some() { 100 } else { 0 });
            assert_eq!(n, unpacked, "one buffer for each unpacked record: {opts:?}");
            assert!(max <= 32768);
        }
    }
}

#[test]
fn first_use_of_a_scanner_is_bounded() {
    for c in [Compression::Lz4, Compression::Zlib] {
        let opts = EncodeOptions {
            compression: Some(c),
            ..EncodeOptions::default()
        };
        let mut log = Vec::new();
        assert!(encode_write(&mut log, 0, &page(1, 32256), STAMP, 1, &opts) > 0);
        let (n, max) = count(|| {
            let mut s = Scanner::new(ScanLimits::default());
            scan(&log, &mut s, |_| ());
        });
        // Scratch, payload, and for zlib its window.
        assert!(
            n < 8 && max < 128 << 10,
            "{c:?}: {n} allocations up to {max}"
        );
    }
}
