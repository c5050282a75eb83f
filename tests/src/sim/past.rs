//! What is known about the past of a simulated primary, and what a power cut leaves of it.
use super::links::Links;
use super::logs::Found;
use crate::stamp::{History, Sector};
use mars_tree::LogName;
use std::collections::BTreeMap;

/// Where an operation ends in the log, and the step that completes it.
#[derive(Clone, Debug)]
pub struct End {
    /// Log and length behind it.
    pub at: (u32, u64),
    /// Step of the history.
    pub step: usize,
}

/// What survives a power cut.
#[derive(Clone, Debug)]
pub struct Wreck {
    /// Content of the disk.
    pub disk: Vec<Sector>,
    /// Log files.
    pub logs: BTreeMap<LogName, Found>,
    /// Links.
    pub links: Links,
}

/// What is known about the past, for the checks.
#[derive(Clone, Debug)]
pub struct Past {
    /// All operations in the order in which they were accepted.
    pub history: History,
    /// Where they ended in the logs.
    pub ends: Vec<End>,
    /// Everything up to this step was acknowledged as durable.
    pub required: usize,
    /// While nothing is logged: up to which step each sector was acknowledged as durable, besides.
    pub places: Vec<usize>,
    /// Acknowledgements that promised something.
    pub promises: usize,
    /// Number of the last operation that was ever used.
    pub seq: u64,
    /// Nothing is logged: what reaches the disk is not in order, only what was acknowledged counts.
    pub is_unordered: bool,
    /// Logs before this one do not tell all of history.
    pub first_log: u32,
}

impl Past {
    /// Of an empty device.
    pub fn new(size: u64) -> Past {
        Past {
            history: History::new(size),
            ends: Vec::new(),
            required: 0,
            places: Vec::new(),
            promises: 0,
            seq: 0,
            is_unordered: false,
            first_log: 0,
        }
    }

    /// The first and the last step that a position in the logs can mean: records of the operation that follows may be before it.
    pub fn steps_at(&self, at: (u32, u64)) -> (usize, usize) {
        let known = self.ends.partition_point(|e| e.at <= at);
        let from = known.checked_sub(1).map_or(0, |i| self.ends[i].step);
        let last = self.history.last_step();
        let to = self.ends.get(known).map_or(last, |e| e.step - 1);
        (from, to)
    }

    /// Begins again with what is on the disk.
    pub fn again(&self, image: Vec<Sector>, next: u32) -> Past {
        Past {
            history: History::of(image),
            ends: Vec::new(),
            required: 0,
            places: Vec::new(),
            promises: 0,
            seq: self.seq,
            is_unordered: false,
            // All that came before is history, unless there is a hole in it.
            first_log: if self.is_unordered {
                next
            } else {
                self.first_log
            },
        }
    }
}
