//! What recovery tells while it runs: status line and live page. Applying a large log to a slow disk takes minutes.
use crate::recovery::Stopper;
use mars_daemon::{Daemon, amount};
use mars_live::{LivePage, ReplayLive};
use mars_tree::LogName;

/// Recovery as the rest of the host sees it.
#[derive(Debug)]
pub(crate) struct Progress<'a> {
    pub(crate) daemon: &'a Daemon,
    pub(crate) page: LivePage,
    pub(crate) in_use: bool,
}

impl Stopper for Progress<'_> {
    fn is_set(&self) -> bool {
        self.daemon.stop.is_set()
    }
    fn is_in_use(&self) -> bool {
        self.in_use
    }
    fn applied(&self, log: &LogName, pos: u64, dirty: u64, end: u64) {
        self.page.publish(&ReplayLive {
            log_nr: u64::from(log.nr),
            pos,
            dirty,
            ..ReplayLive::default()
        });
        self.daemon.progress();
        self.daemon.status(&status_line(log, pos, end));
    }
}

fn status_line(log: &LogName, pos: u64, end: u64) -> String {
    format!(
        "recovery: applying {log}: {}",
        amount::progress(pos, end, 0)
    )
}
