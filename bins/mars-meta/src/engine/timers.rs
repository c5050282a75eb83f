//! When the engine has something to do.
use std::time::Instant;

/// Points in time at which something is due.
#[derive(Debug, Default)]
pub(super) struct Timers {
    pub(super) drain: Option<Instant>,
    pub(super) rescan: Option<Instant>,
    pub(super) heartbeat: Option<Instant>,
    pub(super) reconcile: Option<Instant>,
    pub(super) settle: Option<Instant>,
    pub(super) retry: Option<Instant>,
    pub(super) story: Option<Instant>,
    pub(super) parting: Option<Instant>,
    pub(super) sweep: Option<Instant>,
}

impl Timers {
    pub(super) fn next(&self) -> Option<Instant> {
        [
            self.drain,
            self.rescan,
            self.heartbeat,
            self.reconcile,
            self.settle,
            self.retry,
            self.story,
            self.parting,
            self.sweep,
        ]
        .into_iter()
        .flatten()
        .min()
    }
}

/// Sets a timer unless it is due earlier anyway.
pub(super) fn at_latest(timer: &mut Option<Instant>, at: Instant) {
    *timer = Some(timer.map_or(at, |t| t.min(at)));
}

/// True once, when the time has come.
pub(super) fn due(timer: &mut Option<Instant>, now: Instant) -> bool {
    let due = timer.is_some_and(|t| t <= now);
    if due {
        *timer = None;
    }
    due
}
