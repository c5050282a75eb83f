//! Start-up, readiness, stopping.
use crate::Config;
use anyhow::Context;
use libsystemd::daemon::{NotifyState, notify};
use mars_tree::HostEnv;
use nix::sys::signal::{SigSet, Signal};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// A running daemon's surroundings.
#[derive(Debug)]
pub struct Daemon {
    /// Where the host lives.
    pub env: HostEnv,
    /// Configuration.
    pub config: Config,
    /// Set by SIGTERM and SIGINT.
    pub stop: Stop,
    last_status: Mutex<String>,
}

impl Daemon {
    /// Call first in `main`, before any thread exists: reads environment and configuration, sets up logging (journal when connected to it,
    /// else stderr; level from `MARS_LOG`, default `info`), blocks SIGTERM, SIGINT and SIGHUP and handles them in a thread of its own.
    pub fn start(name: &'static str, resource: Option<&str>) -> anyhow::Result<Daemon> {
        init_logging("info");
        let env = HostEnv::from_process()?;
        let config = Config::load(&env)?;
        let stop = Stop::new();
        watch_signals(&stop).context("cannot set up signal handling")?;
        tracing::debug!(name, resource, host = %env.host, root = %env.root.display(), "starting");
        Ok(Daemon {
            env,
            config,
            stop,
            last_status: Mutex::new(String::new()),
        })
    }

    /// READY=1.
    pub fn ready(&self) {
        send(&[NotifyState::Ready]);
    }

    /// STATUS=text (only sent when it changed).
    pub fn status(&self, text: &str) {
        let mut last = self
            .last_status
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *last != text {
            send(&[NotifyState::Status(text.to_string())]);
            text.clone_into(&mut last);
        }
    }

    /// WATCHDOG=1; call on progress.
    pub fn progress(&self) {
        send(&[NotifyState::Watchdog]);
    }
}

/// Nobody listens when systemd did not start us; that is no error.
fn send(states: &[NotifyState]) {
    if let Err(e) = notify(false, states) {
        tracing::debug!("sd_notify: {e}");
    }
}

fn watch_signals(stop: &Stop) -> anyhow::Result<()> {
    let mut set = SigSet::empty();
    for s in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(s);
    }
    set.thread_block()?;
    let stop = stop.clone();
    std::thread::Builder::new()
        .name("signals".into())
        .stack_size(64 << 10)
        .spawn(move || {
            loop {
                match set.wait() {
                    Ok(Signal::SIGTERM | Signal::SIGINT) => stop.set(),
                    // SIGHUP: a lost terminal must not end a daemon.
                    Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                    Err(e) => {
                        tracing::error!("waiting for signals: {e}");
                        return;
                    }
                }
            }
        })?;
    Ok(())
}

type Hook = Box<dyn FnOnce() + Send>;

#[derive(Default)]
struct StopState {
    set: bool,
    hooks: Vec<Hook>,
}

/// Someone wants us to stop. Cheap to clone.
#[derive(Clone)]
pub struct Stop(Arc<(Mutex<StopState>, Condvar)>);

impl std::fmt::Debug for Stop {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Stop").field(&self.is_set()).finish()
    }
}

impl Stop {
    /// Not connected to signals (tests).
    pub fn new() -> Stop {
        Stop(Arc::default())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, StopState> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Stop was asked for.
    pub fn is_set(&self) -> bool {
        self.state().set
    }

    /// Asks for it.
    pub fn set(&self) {
        let hooks = {
            let mut s = self.state();
            s.set = true;
            std::mem::take(&mut s.hooks)
        };
        self.0.1.notify_all();
        for h in hooks {
            h();
        }
    }

    /// Sleeps until it is set or the time is over; true when set.
    pub fn wait(&self, timeout: Duration) -> bool {
        let end = Instant::now() + timeout;
        let mut s = self.state();
        while !s.set {
            let now = Instant::now();
            if now >= end {
                return false;
            }
            s = self
                .0
                .1
                .wait_timeout(s, end - now)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
        true
    }

    /// Calls `f` once when it is set (at once when it is set already), from the thread that sets it.
    pub fn on_set(&self, f: impl FnOnce() + Send + 'static) {
        let mut s = self.state();
        if s.set {
            drop(s);
            f();
        } else {
            s.hooks.push(Box::new(f));
        }
    }
}

impl Default for Stop {
    fn default() -> Self {
        Stop::new()
    }
}

/// Logging for short-lived tools: warnings and errors to stderr, `MARS_LOG` overrides.
pub fn init_tool_logging() {
    init_logging("warn");
}

/// The journal when stderr is connected to it (`JOURNAL_STREAM`, see systemd.exec(5)), else stderr.
fn init_logging(default_level: &str) {
    let filter =
        EnvFilter::try_from_env("MARS_LOG").unwrap_or_else(|_| EnvFilter::new(default_level));
    let registry = tracing_subscriber::registry().with(filter);
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    // A second initialisation (tests in one process) keeps the first.
    match journal {
        Some(j) => registry
            .with(j.with_field_prefix(Some("MARS".into())))
            .try_init()
            .ok(),
        None => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .with_writer(std::io::stderr)
                    .with_target(false)
                    .with_ansi(false),
            )
            .try_init()
            .ok(),
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[test]
    fn stop_runs_hooks_once_and_wakes_waiters() {
        let stop = Stop::new();
        let n = Arc::new(AtomicUsize::new(0));
        let m = n.clone();
        stop.on_set(move || {
            m.fetch_add(1, Ordering::SeqCst);
        });
        let other = stop.clone();
        let waiter = std::thread::spawn(move || other.wait(Duration::from_secs(60)));
        assert!(!stop.is_set());
        stop.set();
        stop.set();
        assert!(matches!(waiter.join(), Ok(true)));
        let m = n.clone();
        stop.on_set(move || {
            m.fetch_add(10, Ordering::SeqCst);
        });
        assert_eq!(n.load(Ordering::SeqCst), 11);
    }
}
