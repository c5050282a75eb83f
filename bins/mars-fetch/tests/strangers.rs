//! Bad input of `mars-fetch serve`: whoever is no member of this cluster.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
#[path = "support/strangers.rs"]
mod strangers;
mod support;

use mars_log::next_version;
use mars_net::{Service, read_frame, write_frame};
use mars_tree::Key;
use std::cell::Cell;
use support::{log, pair, res};

#[test]
fn strangers_at_the_fetch_port_are_refused_and_members_served() {
    let mut p = pair(4);
    strangers::readdress(&mut p, 4);
    let (l, name) = (log(1, "alpha"), "log-000000001-alpha");
    p.a.write_log(&l, &[7; 5000]);
    p.both(|b| {
        let key = Key::Version(res(), 1, "alpha".parse().unwrap());
        b.set(key, next_version(&l, 5000, None));
    });
    let exe = env!("CARGO_BIN_EXE_mars-fetch");
    // The first connection follows its log from the first use on and hears from the server every few seconds.
    let calls = Cell::new(0);
    strangers::strangers(exe, &p, (Service::Fetch, 7778), |c| {
        calls.set(calls.get() + 1);
        if matches!(calls.get(), 2 | 4) {
            read_frame(&mut c.stream, 1 << 20).unwrap();
            return;
        }
        let mut want = vec![4];
        want.extend_from_slice(b"data");
        want.push(name.len() as u8);
        want.extend_from_slice(name.as_bytes());
        want.extend_from_slice(&0u64.to_le_bytes());
        write_frame(&mut c.stream, 1, &want).unwrap();
        let mut got = 0;
        while got < 5000 {
            let f = read_frame(&mut c.stream, 1 << 20).unwrap();
            if f.kind == 2 {
                got += f.body.len();
            }
        }
        assert_eq!(got, 5000);
    });
}
