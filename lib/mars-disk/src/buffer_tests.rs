//! The buffer against a naive model: one optional byte per sector, newest wins.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use proptest::prelude::*;

const SECTORS: usize = 96; // twelve pages

#[derive(Clone, Debug)]
enum Op {
    Write(usize, usize, u8),
    Zero(usize, usize),
    Read(usize, usize),
    Freeze,
    Release,
}

fn op() -> impl Strategy<Value = Op> {
    let range = (0..SECTORS, 1..40usize).prop_map(|(a, n)| (a, n.min(SECTORS - a)));
    prop_oneof![
        4 => (range.clone(), 1..=255u8).prop_map(|((a, n), b)| Op::Write(a, n, b)),
        2 => (range.clone()).prop_map(|(a, n)| Op::Zero(a, n)),
        3 => range.prop_map(|(a, n)| Op::Read(a, n)),
        1 => Just(Op::Freeze),
        1 => Just(Op::Release),
    ]
}

/// Sector -> fill byte.
type Model = [Option<u8>; SECTORS];

fn data(first: usize, n: usize, b: u8) -> Vec<u8> {
    (first..first + n)
        .flat_map(|s| [b ^ (s as u8 & 0x0f); SECTOR])
        .collect()
}

fn byte_at(first: usize, b: u8) -> u8 {
    b ^ (first as u8 & 0x0f)
}

fn check_runs(g: &Generation, model: &Model, max_run: usize) {
    let mut seen: Model = [None; SECTORS];
    let mut end = 0;
    let mut last_kind_zero = false;
    for run in g.runs(max_run) {
        match run {
            WriteRun::Data { pos, pieces } => {
                assert!(pos >= end, "ascending");
                let total: usize = pieces.iter().map(|p| p.len()).sum();
                assert!(total <= max_run.max(PAGE), "bounded");
                let mut at = pos;
                for piece in pieces {
                    for sector in piece.chunks(SECTOR) {
                        assert!(sector.iter().all(|b| *b == sector[0]));
                        seen[(at / 512) as usize] = Some(sector[0]);
                        at += 512;
                    }
                }
                end = at;
                last_kind_zero = false;
            }
            WriteRun::Zeroes { pos, len } => {
                assert!(
                    pos > end || (pos == end && !(last_kind_zero && pos > 0)),
                    "merged"
                );
                for s in pos / 512..(pos + len) / 512 {
                    seen[s as usize] = Some(0);
                }
                end = pos + len;
                last_kind_zero = true;
            }
        }
    }
    assert_eq!(seen, *model);
    let known = model.iter().flatten().count() as u64 * 512;
    assert_eq!(g.bytes(), known);
}

proptest! {
    #[test]
    fn buffer_equals_naive_model(ops in proptest::collection::vec(op(), 1..60), max_run in 1usize..5) {
        let mut buffer = DirtyBuffer::new();
        let mut current: Model = [None; SECTORS];
        let mut frozen: Option<Model> = None;
        for op in ops {
            match op {
                Op::Write(a, n, b) => {
                    buffer.write(a as u64 * 512, &data(a, n, b));
                    for (s, m) in current.iter_mut().enumerate().skip(a).take(n) {
                        *m = Some(byte_at(s, b));
                    }
                }
                Op::Zero(a, n) => {
                    buffer.write_zeroes(a as u64 * 512, n as u64 * 512);
                    current[a..a + n].fill(Some(0));
                }
                Op::Read(a, n) => {
                    let expected: Vec<Option<u8>> = (a..a + n)
                        .map(|s| current[s].or(frozen.and_then(|f| f[s])))
                        .collect();
                    let mut buf = vec![0xEE; n * SECTOR];
                    let mut flags = vec![false; n];
                    let all = buffer.read(a as u64 * 512, &mut buf, Some(&mut flags));
                    prop_assert_eq!(all, expected.iter().all(Option::is_some));
                    for (i, e) in expected.iter().enumerate() {
                        prop_assert_eq!(flags[i], e.is_some());
                        let want = e.unwrap_or(0xEE);
                        prop_assert!(buf[i * SECTOR..(i + 1) * SECTOR].iter().all(|b| *b == want));
                    }
                    let mut again = vec![0xEE; n * SECTOR];
                    let all = buffer.read(a as u64 * 512, &mut again, None);
                    prop_assert_eq!(all, expected.iter().all(Option::is_some));
                    if all {
                        prop_assert_eq!(again, buf);
                    }
                }
                Op::Freeze => {
                    let possible = frozen.is_none() && current.iter().any(Option::is_some);
                    let got = buffer.freeze();
                    prop_assert_eq!(got.is_some(), possible);
                    if let Some(g) = got {
                        check_runs(&g, &current, max_run * PAGE);
                        frozen = Some(std::mem::replace(&mut current, [None; SECTORS]));
                    }
                }
                Op::Release => {
                    let released = buffer.release_frozen();
                    prop_assert_eq!(released.is_some(), frozen.is_some());
                    if let Some(generation) = released.and_then(Arc::into_inner) {
                        buffer.recycle(generation, 1 << 20);
                    }
                    frozen = None;
                }
            }
            check_runs(buffer.current(), &current, max_run * PAGE);
            let bytes = |m: &Model| m.iter().flatten().count() as u64 * 512;
            prop_assert_eq!(buffer.bytes(), bytes(&current) + frozen.as_ref().map_or(0, bytes));
        }
    }
}

#[test]
fn zeroes_need_no_memory_per_page() {
    let mut g = Generation::new();
    g.write_zeroes(0, 1 << 40);
    assert_eq!(g.bytes(), 1 << 40);
    assert!(g.memory() < 1024, "{}", g.memory());
    g.write(1 << 30, &[7; PAGE]);
    assert_eq!(g.bytes(), 1 << 40);
    assert_eq!(g.runs(1 << 20).len(), 3);
}

#[test]
fn zeroes_free_the_pages_they_cover() {
    let mut g = Generation::new();
    g.write(0, &vec![1; 64 * PAGE]);
    let before = g.memory();
    g.write_zeroes(0, 64 * PAGE as u64);
    assert!(g.memory() < before - 60 * PAGE);
    assert_eq!(
        g.runs(1 << 20),
        vec![WriteRun::Zeroes {
            pos: 0,
            len: 64 * PAGE as u64
        }]
    );
}

#[test]
fn write_memory_counts_data() {
    let mut b = DirtyBuffer::new();
    assert_eq!(b.memory(), 0);
    b.write(0, &vec![1; 256 * PAGE]);
    assert!(b.memory() >= 256 * PAGE);
    b.freeze().unwrap();
    assert!(b.memory() >= 256 * PAGE);
    b.write(0, &[2; 512]);
    b.release_frozen();
    assert!(b.memory() < 3 * PAGE);
}
