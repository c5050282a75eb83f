//! Ten thousand states that a power cut can leave, each recovered from by the real recovery and checked: I1, I3, I4. `make soak` goes on for MINUTES.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use mars_tests::sim::soak::{Goal, many};

#[test]
fn power_cuts() {
    let goal = Goal {
        seed: 1,
        states: 10_000,
        time: None,
        jobs: 2,
    };
    let (count, seeds) = many(goal).unwrap_or_else(|e| panic!("{e}"));
    println!("{seeds} seeds: {count:?}");
    assert!(count.states >= goal.states && count.during_recovery > 500 && count.again > 500);
    // The rare ones are there as well.
    assert!(count.failed > 5);
}
