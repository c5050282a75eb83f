//! Bad input of `mars-sync serve`: whoever is no member of this cluster.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#[path = "../../mars-fetch/tests/support/strangers.rs"]
mod strangers;
#[path = "../../mars-fetch/tests/support/mod.rs"]
mod support;

use mars_net::{Service, read_frame, write_frame};
use std::cell::Cell;
use support::pair;

#[test]
fn strangers_at_the_sync_port_are_refused_and_members_served() {
    let mut p = pair(5);
    strangers::readdress(&mut p, 5);
    let exe = env!("CARGO_BIN_EXE_mars-sync");
    // The first connection is opened once and used again.
    let calls = Cell::new(0);
    strangers::strangers(exe, &p, (Service::Sync, 7779), |c| {
        calls.set(calls.get() + 1);
        let is_open = matches!(calls.get(), 2 | 4);
        if !is_open {
            write_frame(&mut c.stream, 1, b"data").unwrap();
            assert_eq!(read_frame(&mut c.stream, 600).unwrap().kind, 2);
        }
        let mut check = 0u64.to_le_bytes().to_vec();
        check.extend_from_slice(&512u32.to_le_bytes());
        check.extend_from_slice(&1u64.to_le_bytes());
        write_frame(&mut c.stream, 4, &check).unwrap();
        assert_eq!(read_frame(&mut c.stream, 1000).unwrap().kind, 5);
    });
}
