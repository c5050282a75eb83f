//! Facts from trees in memory.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)]
use clap::Parser;
use mars_macro::{Machine, OldestUnapplied};
use mars_policy::View;
use mars_policy::fixtures::{self, NOW};
use mars_status::args::Args;
use mars_status::gather::{Facts, WINDOW, chosen, facts};
use mars_status::{prom, render};
use mars_tree::{HostName, Snapshot, Stamp};

pub struct World {
    pub snap: Snapshot,
    pub me: HostName,
    pub engine: bool,
    pub oldest: Vec<OldestUnapplied>,
}

impl World {
    pub fn new(snap: Snapshot, me: &str) -> World {
        World {
            snap,
            me: me.parse().unwrap(),
            engine: true,
            oldest: vec![],
        }
    }
    /// The tree of symlink-tree.md 7.1 with changes, seen from hostA.
    pub fn changed(listing: &str) -> World {
        let mut snap = fixtures::steady();
        add(&mut snap, listing);
        World::new(snap, "hostA")
    }
    /// The first write that `host` has not applied is so many seconds old.
    pub fn lag(mut self, res: &str, host: &str, secs: u64) -> World {
        self.oldest.push(OldestUnapplied {
            res: res.parse().unwrap(),
            host: host.parse().unwrap(),
            stamp: Stamp::from_nanos(NOW.as_nanos() - secs * 1_000_000_000),
        });
        self
    }
    pub fn facts(&self, args: &Args) -> Facts {
        let view = View {
            snap: &self.snap,
            me: &self.me,
            local: &self.me,
            now: NOW,
            window: WINDOW,
            engine_running: self.engine,
        };
        let machine = Machine {
            disks_present: vec!["/dev/vg/lv0".into(), "/dev/vg-test-bap7/DeviceA".into()],
            real_time: NOW.secs(),
            oldest_unapplied: self.oldest.clone(),
            ..Machine::default()
        };
        let resources = chosen(&view, args.resource.as_ref()).unwrap();
        Facts {
            kernel: "6.1.0".into(),
            ..facts(&view, &machine, &resources)
        }
    }
    pub fn render(&self, line: &[&str]) -> (String, u8) {
        let args = Args::try_parse_from([&["mars-status"], line].concat()).unwrap();
        render(&args, &self.facts(&args), false)
    }
    pub fn metrics(&self) -> String {
        prom::metrics(&self.facts(&Args::default()), 60)
    }
    pub fn dstate(&self) -> String {
        let (text, _) = self.render(&["--resource=lv0", "--dstate"]);
        text.split(' ').next().unwrap().to_string()
    }
}

/// Paths below the root.
pub fn add(snap: &mut Snapshot, listing: &str) {
    fixtures::add(snap, "", listing);
}

/// The pilot's example: a busy primary, seen from its secondary.
pub fn pilot() -> Snapshot {
    let mut s = Snapshot::default();
    add(&mut s, "
        uuid -> istore_1
        ips/ip-istore-test-bs7 -> 10.0.0.7
        ips/ip-istore-test-bap7 -> 10.0.0.8
        actual-{istore-test-bs7,istore-test-bap7}/time -> 1700090003.000000000
        actual-{istore-test-bs7,istore-test-bap7}/tree -> 0.1
        resource-DeviceA/size -> 10737418240
        resource-DeviceA/primary -> istore-test-bs7
        resource-DeviceA/data-istore-test-bs7 -> /dev/vg-test-bs7/DeviceA
        resource-DeviceA/data-istore-test-bap7 -> /dev/vg-test-bap7/DeviceA
        resource-DeviceA/{device,actsize,syncstatus}-{istore-test-bs7,istore-test-bap7} -> 10737418240
        resource-DeviceA/device-{istore-test-bs7,istore-test-bap7} -> DeviceA
        resource-DeviceA/replay-istore-test-bs7 -> log-000007562-istore-test-bs7,10754456,8360
        resource-DeviceA/replay-istore-test-bap7 -> log-000007562-istore-test-bs7,10754456,0
        resource-DeviceA/version-000007561-{istore-test-bs7,istore-test-bap7} -> ad7165b08c7d31812e20be89af3c7c6a,log-000007561-istore-test-bs7,278588680:
        resource-DeviceA/version-000007562-istore-test-bs7 -> 1d7165b08c7d31812e20be89af3c7c6a,log-000007562-istore-test-bs7,94097408:ad7165b08c7d31812e20be89af3c7c6a,log-000007561-istore-test-bs7,278588680
        resource-DeviceA/version-000007562-istore-test-bap7 -> 2d7165b08c7d31812e20be89af3c7c6a,log-000007562-istore-test-bs7,10754456:ad7165b08c7d31812e20be89af3c7c6a,log-000007561-istore-test-bs7,278588680
        resource-DeviceA/todo-{istore-test-bs7,istore-test-bap7}/{attach,connect,sync,allow-replay} -> 1
        resource-DeviceA/actual-{istore-test-bs7,istore-test-bap7}/is-attached -> 1
        resource-DeviceA/actual-istore-test-bs7/{is-primary,if-on,open-count} -> 1
        resource-DeviceA/actual-istore-test-bap7/amount-file_rate -> -606955
        resource-DeviceA/actual-istore-test-bap7/{is-copying,is-replaying} -> 1
    ");
    s
}
