use super::*;
use crate::{Progress, progress, sync_progress};

#[test]
fn progress_of_the_listings() {
    let w = World::steady("hostA");
    let all = 1_048_576 + 524_288 + 8192;
    assert_eq!(
        progress(&w.v(), &w.res, &w.me),
        Progress {
            replay_pos: all,
            fetch_pos: all,
            fetch_size: all,
            base_nr: 1,
            replay_nr: 3,
            fetch_nr: 3,
            work_nr: 3
        }
    );
    let w = World::new(fixtures::syncing(), "hostB");
    assert_eq!(
        progress(&w.v(), &w.res, &w.me),
        Progress {
            replay_pos: 1_048_576,
            fetch_pos: 1_048_576 + 393_216,
            fetch_size: 1_048_576 + 524_288,
            base_nr: 1,
            replay_nr: 2,
            fetch_nr: 2,
            work_nr: 2
        }
    );
    let s = sync_progress(&w.v(), &w.res, &w.me).unwrap();
    assert_eq!((s.pos, s.size, s.rest()), (4 << 30, 10 << 30, 6 << 30));
    assert_eq!(sync_progress(&w.v(), &w.res, &host("hostZ")), None);
    // The primary over there: what its own links say.
    let p = progress(&w.v(), &w.res, &host("hostA"));
    assert_eq!(
        (p.fetch_rest(), p.replay_rest(), p.work_rest()),
        (0, 4096, 4096)
    );
    assert_eq!(
        progress(&w.v(), &w.res, &host("hostZ")),
        Progress::default()
    );
}

#[test]
fn progress_upwards_over_several_logs() {
    let w = World::steady("hostA").with(
        "replay-hostA -> log-000000002-hostA,24288,0
         log-000000003-hostB = 8000
         version-000000004-hostB -> 00000000000000000000000000000000,log-000000004-hostB,100:
         version-000000006-hostB -> 00000000000000000000000000000000,log-000000006-hostB,999:",
    );
    let p = progress(&w.v(), &w.res, &w.me);
    assert_eq!(p.replay_pos, 1_048_576 + 24288);
    assert_eq!(p.fetch_pos, 1_048_576 + 524_288 + 8000);
    // Number 5 is unknown: it ends before.
    assert_eq!(p.fetch_size, 1_048_576 + 524_288 + 8192 + 100);
    assert_eq!(
        (p.base_nr, p.replay_nr, p.fetch_nr, p.work_nr),
        (1, 2, 3, 4)
    );
    // Behind an incomplete log nothing counts as here.
    let w = w.with("log-000000002-hostA = 500000");
    let p = progress(&w.v(), &w.res, &w.me);
    assert_eq!((p.fetch_pos, p.fetch_nr), (1_048_576 + 500_000, 2));
}

#[test]
fn progress_ignores_the_other_branch_of_a_split() {
    let w = World::new(fixtures::split(), "hostB").with("log-000000003-hostB = 8192");
    assert_eq!(progress(&w.v(), &w.res, &w.me).work_rest(), 0);
}

#[test]
fn progress_without_any_log() {
    let w = World::steady("hostA")
        .with("version-{000000001,000000002,000000003}-{hostA,hostB} -> -")
        .without_file("log-000000002-hostA")
        .without_file("log-000000003-hostB");
    let p = progress(&w.v(), &w.res, &w.me);
    assert_eq!(
        (p.replay_pos, p.fetch_pos, p.fetch_size, p.base_nr),
        (8192, 8192, 8192, 3)
    );
}
