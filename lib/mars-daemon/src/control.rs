//! What a client daemon reacts to while it is blocked on a connection: changes of the tree, and the wish to stop.
use mars_tree::{TreeEvent, Watcher};
use std::net::{Shutdown, TcpStream};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

#[derive(Default)]
struct State {
    /// Counts relevant changes.
    changes: u64,
    stop: bool,
    /// The connection in use, to interrupt its reader.
    conn: Option<TcpStream>,
}

impl State {
    fn interrupt(&self) {
        if let Some(c) = &self.conn {
            c.shutdown(Shutdown::Both).ok();
        }
    }
}

/// Shared by the client, the watcher thread and the signal thread.
///
/// The protocol against missed changes: read [`Control::changes`], look at the tree, work. A change during the work interrupts
/// the connection that was announced by [`Control::set_conn`] when it makes the work unwanted. Changes before the announcement
/// interrupt nothing: whoever announces a connection looks once more at the tree after it.
#[derive(Default)]
pub struct Control {
    state: Mutex<State>,
    changed: Condvar,
}

impl std::fmt::Debug for Control {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let s = self.lock();
        f.debug_struct("Control")
            .field("changes", &s.changes)
            .field("stop", &s.stop)
            .finish_non_exhaustive()
    }
}

impl Control {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
    /// Asks the client to stop.
    pub fn stop(&self) {
        let mut s = self.lock();
        s.stop = true;
        s.interrupt();
        self.changed.notify_all();
    }
    /// Stop was asked for.
    pub fn stopped(&self) -> bool {
        self.lock().stop
    }
    /// To be read before a snapshot is taken.
    pub fn changes(&self) -> u64 {
        self.lock().changes
    }
    /// The connection whose reader must be interrupted when what it does is no longer wanted.
    pub fn set_conn(&self, conn: Option<TcpStream>) {
        let mut s = self.lock();
        s.conn = conn;
        if s.stop {
            s.interrupt();
        }
    }
    /// Sleeps until the tree changed since `seen`, stop, or the time is over.
    pub fn wait_change(&self, seen: u64, timeout: Option<Duration>) {
        self.sleep(timeout, |s| s.changes != seen);
    }
    /// Sleeps for the time, or until stop.
    pub fn pause(&self, time: Duration) {
        self.sleep(Some(time), |_| false);
    }
    fn sleep(&self, timeout: Option<Duration>, ready: impl Fn(&State) -> bool) {
        let until = timeout.map(|t| Instant::now() + t);
        let _waiting = crate::watchdog::waiting();
        let mut s = self.lock();
        while !s.stop && !ready(&s) {
            s = match until {
                None => self.changed.wait(s).unwrap_or_else(PoisonError::into_inner),
                Some(u) => {
                    let left = u.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return;
                    }
                    self.changed
                        .wait_timeout(s, left)
                        .unwrap_or_else(PoisonError::into_inner)
                        .0
                }
            };
        }
    }

    /// The watcher thread: counts changes of relevant paths and interrupts a connection whose work is `unwanted` now.
    pub fn watch(
        &self,
        mut watcher: Watcher,
        relevant: impl Fn(&str) -> bool,
        unwanted: impl Fn() -> anyhow::Result<bool>,
    ) -> anyhow::Result<()> {
        loop {
            let relevant = match watcher.wait(None)? {
                TreeEvent::Timeout => false,
                TreeEvent::Rescan => true,
                TreeEvent::Changed(paths) => paths.iter().any(|p| relevant(p)),
            };
            if relevant {
                let working = self.lock().conn.is_some();
                self.change(working && unwanted()?);
            }
        }
    }

    /// One step: who finds the connection interrupted also finds the change.
    fn change(&self, interrupt: bool) {
        let mut s = self.lock();
        if interrupt {
            s.interrupt();
        }
        s.changes += 1;
        self.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use std::io::Read;
    use std::net::TcpListener;

    #[test]
    fn interrupted_reader_finds_the_change() {
        let l = TcpListener::bind("127.41.3.1:0").unwrap();
        let mut client = TcpStream::connect(l.local_addr().unwrap()).unwrap();
        let ctl = Control::default();
        ctl.set_conn(Some(client.try_clone().unwrap()));
        let seen = ctl.changes();
        std::thread::scope(|s| {
            s.spawn(|| ctl.change(true));
            assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
            assert_ne!(ctl.changes(), seen);
        });
    }

    #[test]
    fn connection_that_comes_after_the_stop_is_cut() {
        let l = TcpListener::bind("127.41.3.2:0").unwrap();
        let mut client = TcpStream::connect(l.local_addr().unwrap()).unwrap();
        let ctl = Control::default();
        ctl.stop();
        ctl.set_conn(Some(client.try_clone().unwrap()));
        assert_eq!(client.read(&mut [0; 1]).unwrap(), 0);
        ctl.wait_change(ctl.changes(), None);
    }
}
