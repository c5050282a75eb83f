//! How long requests stay in which stage.
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// What a stage has seen so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passed {
    /// Passages.
    pub count: u64,
    /// Total time in ns.
    pub nanos: u64,
    /// Longest time in ns.
    pub max: u64,
}

/// One stage: how often it was passed, and how long that took.
#[derive(Debug, Default)]
pub struct Stage {
    count: AtomicU64,
    nanos: AtomicU64,
    max: AtomicU64,
}

impl Stage {
    /// One passage.
    pub fn add(&self, took: Duration) {
        let nanos = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.count.fetch_add(1, Ordering::Relaxed);
        self.nanos.fetch_add(nanos, Ordering::Relaxed);
        if nanos > self.max.load(Ordering::Relaxed) {
            self.max.fetch_max(nanos, Ordering::Relaxed);
        }
    }

    fn get(&self) -> Passed {
        Passed {
            count: self.count.load(Ordering::Relaxed),
            nanos: self.nanos.load(Ordering::Relaxed),
            max: self.max.load(Ordering::Relaxed),
        }
    }
}

/// All stages.
#[derive(Debug, Default)]
pub struct Stages {
    /// From the acceptance of the oldest record of a batch to the beginning of its append.
    pub queue: Stage,
    /// Encoding and buffering one piece (a sample of them).
    pub encode: Stage,
    /// Handing a batch to the kernel.
    pub append: Stage,
    /// Making it durable.
    pub sync: Stage,
    /// Handing answers to the front end.
    pub acknowledge: Stage,
    /// Writing a generation, and flushing it.
    pub write_back: Stage,
}

impl Stages {
    /// In the order of the fields.
    pub fn get(&self) -> [Passed; 6] {
        [
            self.queue.get(),
            self.encode.get(),
            self.append.get(),
            self.sync.get(),
            self.acknowledge.get(),
            self.write_back.get(),
        ]
    }
}
