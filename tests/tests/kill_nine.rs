//! `kill -9` of every kind of daemon at random moments under load: no acknowledged write is lost (I1), every disk is a prefix at any time (I3), positions only grow,
//! and everything continues by itself. `MARS_SEED` repeats a run.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_tests::chaos::{ChaosPlan, run};
use mars_tests::rng::seed;
use std::time::Duration;

#[test]
fn nothing_is_lost_whoever_dies() {
    let first = seed();
    for scene in 0..3 {
        let plan = ChaosPlan {
            seed: first + scene,
            time: Duration::from_secs(20),
            kills: 15,
        };
        match run(&plan) {
            Ok(report) => println!("seed {}:\n{report}", plan.seed),
            Err(e) => panic!("seed {}: {e}", plan.seed),
        }
    }
}
