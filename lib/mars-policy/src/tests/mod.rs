#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
//! Tests on hand-made trees.
use crate::View;
use crate::fixtures;
use mars_tree::{HostName, ResName, Snapshot};
use std::time::Duration;

mod abandoned;
mod clusters;
mod garbage;
mod history;
mod keep;
mod model;
mod plans;
mod primary;
mod progress;
mod stack;
mod states;
mod units;

/// A tree looked at from a host.
pub struct World {
    pub snap: Snapshot,
    pub me: HostName,
    pub res: ResName,
}

impl World {
    pub fn new(snap: Snapshot, me: &str) -> World {
        World {
            snap,
            me: me.parse().unwrap(),
            res: "lv0".parse().unwrap(),
        }
    }
    pub fn steady(me: &str) -> World {
        World::new(fixtures::steady(), me)
    }
    pub fn v(&self) -> View<'_> {
        View {
            snap: &self.snap,
            me: &self.me,
            local: &self.me,
            now: fixtures::NOW,
            window: Duration::from_secs(60),
            engine_running: true,
        }
    }
    /// Changes keys of `resource-lv0/`, in the form of [`fixtures::add`].
    pub fn with(mut self, listing: &str) -> World {
        fixtures::add(&mut self.snap, "resource-lv0/", listing);
        self
    }
    /// Changes global keys.
    pub fn global(mut self, listing: &str) -> World {
        fixtures::add(&mut self.snap, "", listing);
        self
    }
    pub fn without_file(mut self, name: &str) -> World {
        self.snap.files.remove(&format!("resource-lv0/{name}"));
        self
    }
}

pub fn host(s: &str) -> HostName {
    s.parse().unwrap()
}
