#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! Macros over the example trees of symlink-tree.md section 7.
use crate::*;
use mars_policy::fixtures;
use mars_tree::{HostName, ResName, Snapshot};
use std::time::Duration;

mod garbage;
mod keys;
mod primitives;
mod report;
mod schema;
mod schema_check;
mod states;
mod table;
mod views;
mod worlds;

pub struct World {
    pub snap: Snapshot,
    pub me: HostName,
    pub local: HostName,
    pub res: ResName,
    pub machine: Machine,
    pub verbose: u32,
    pub args: Vec<String>,
    pub engine_running: bool,
}

impl World {
    pub fn new(snap: Snapshot, me: &str) -> World {
        World {
            snap,
            me: me.parse().unwrap(),
            local: me.parse().unwrap(),
            res: "lv0".parse().unwrap(),
            machine: Machine {
                devices: vec![],
                disks_present: vec!["/dev/vg/lv0".into()],
                dev_dir: "/dev/mars".into(),
                root: "/mars".into(),
                real_time: fixtures::NOW.secs(),
                mounts: vec![],
                status_files: vec![],
                ..Machine::default()
            },
            verbose: 0,
            args: vec![],
            engine_running: true,
        }
    }
    pub fn with(mut self, listing: &str) -> World {
        fixtures::add(&mut self.snap, "resource-lv0/", listing);
        self
    }
    pub fn global(mut self, listing: &str) -> World {
        fixtures::add(&mut self.snap, "", listing);
        self
    }
    pub fn args(mut self, args: &[&str]) -> World {
        self.args = args.iter().map(|s| (*s).to_string()).collect();
        self
    }
    pub fn scope(&self) -> Scope<'_> {
        Scope {
            view: mars_policy::View {
                snap: &self.snap,
                me: &self.me,
                local: &self.local,
                now: fixtures::NOW,
                window: Duration::from_secs(60),
                engine_running: self.engine_running,
            },
            res: Some(&self.res),
            threshold: 10 << 20,
            verbose: self.verbose,
            args: &self.args,
            machine: &self.machine,
        }
    }
    /// `view-NAME`.
    pub fn view(&self, name: &str) -> String {
        let text = evaluate(name, &self.scope()).unwrap();
        text.strip_suffix('\n').unwrap_or(&text).to_string()
    }
}
