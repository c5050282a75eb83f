//! Start-up, readiness, stopping.
use crate::Config;
use crate::journal::{self, Journal, Priority, Socket, Who};
use crate::reload::Reload;
use anyhow::Context;
use libsystemd::daemon::{NotifyState, notify};
use mars_tree::{HostEnv, UnitManager};
use nix::sys::signal::{SigSet, Signal};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Registry, reload};

/// A running daemon's surroundings.
#[derive(Debug)]
pub struct Daemon {
    /// Where the host lives.
    pub env: HostEnv,
    /// Set by SIGTERM and SIGINT.
    pub stop: Stop,
    reload: Arc<Reload>,
    last_status: Mutex<String>,
}

impl Daemon {
    /// Call first in `main`, before any thread exists: reads environment and configuration, sets up logging (journal when connected to it,
    /// else stderr; level from `MARS_LOG`, else from the configuration), blocks SIGTERM, SIGINT and SIGHUP and handles them in a thread of
    /// its own. `name` is the program's, as in the table of tunables.
    pub fn start(name: &'static str, resource: Option<&str>) -> anyhow::Result<Daemon> {
        let env = HostEnv::from_process();
        init_daemon_logging(env.as_ref().ok().cloned(), resource);
        let mut env = env?;
        let config = Config::load(&env)?;
        if std::env::var_os("MARS_PORT").is_none() {
            env.port = config.port();
        }
        set_log_level(&config);
        let stop = Stop::new();
        let reload = Arc::new(Reload::new(env.clone(), name, resource, config));
        watch_signals(&stop, &reload).context("cannot set up signal handling")?;
        crate::watchdog::start().context("cannot start a thread")?;
        tracing::debug!(name, resource, host = %env.host, root = %env.root.display(), "starting");
        Ok(Daemon {
            env,
            stop,
            reload,
            last_status: Mutex::new(String::new()),
        })
    }

    /// The configuration as it is now; a reload may replace it at any time.
    pub fn config(&self) -> Arc<Config> {
        self.reload.config()
    }

    /// Calls `f` with the new configuration whenever a reload changed something that this daemon looks at, from the thread that handles
    /// signals: it must be quick and must not block on I/O.
    pub fn on_reload(&self, f: impl Fn(&Config) + Send + 'static) {
        self.reload.on_change(f);
    }

    /// READY=1.
    pub fn ready(&self) {
        self.reload.set_ready();
        send(&[NotifyState::Ready]);
    }

    /// STATUS=text (only sent when it changed).
    pub fn status(&self, text: &str) {
        let mut last = self
            .last_status
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if *last != text {
            // A line of its own would be another message.
            let line = text.replace(char::is_control, " ");
            send(&[NotifyState::Status(line)]);
            text.clone_into(&mut last);
        }
    }

    /// Call on progress of the main loop, see [`crate::watchdog`].
    pub fn progress(&self) {
        crate::watchdog::progress();
    }
}

/// Nobody listens when systemd did not start us; that is no error.
pub(crate) fn send(states: &[NotifyState]) {
    if let Err(e) = notify(false, states) {
        tracing::debug!("sd_notify: {e}");
    }
}

fn watch_signals(stop: &Stop, reload: &Arc<Reload>) -> anyhow::Result<()> {
    let mut set = SigSet::empty();
    for s in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        set.add(s);
    }
    set.thread_block()?;
    let stop = stop.clone();
    let reload = Arc::clone(reload);
    std::thread::Builder::new()
        .name("signals".into())
        .stack_size(256 << 10)
        .spawn(move || {
            loop {
                match set.wait() {
                    Ok(Signal::SIGTERM | Signal::SIGINT) => stop.set(),
                    Ok(Signal::SIGHUP) => reload.run(),
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
        let _waiting = crate::watchdog::waiting();
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

/// Logging for short-lived tools: warnings and errors to stderr, `MARS_LOG` overrides; events go to the journal when systemd runs the host.
pub fn init_tool_logging() {
    let env = HostEnv::from_process().ok();
    let systemd = env
        .as_ref()
        .is_some_and(|e| e.unit_manager == UnitManager::Systemd);
    let least = match std::env::var_os("MARS_LOG") {
        Some(_) => Priority::Debug,
        None => Priority::Warning,
    };
    let socket = journal_socket(systemd);
    init_logging(env, None, socket, Some((least, false)));
}

/// Logging of a daemon: the journal when stderr is connected to it (`JOURNAL_STREAM`, see systemd.exec(5)), else stderr.
fn init_daemon_logging(env: Option<HostEnv>, resource: Option<&str>) {
    let socket = journal_socket(libsystemd::logging::connected_to_journal());
    let text = match socket {
        Some(_) => None,
        None => Some((Priority::Debug, true)),
    };
    init_logging(env, resource, socket, text);
}

/// `MARS_JOURNAL_SOCKET`, else journald's own if it is wanted.
fn journal_socket(wanted: bool) -> Option<Socket> {
    let path = match std::env::var_os("MARS_JOURNAL_SOCKET") {
        Some(p) => PathBuf::from(p),
        None if wanted => PathBuf::from(journal::SOCKET),
        None => return None,
    };
    Socket::open(&path).ok()
}

/// Lines go to the journal, not to stderr.
static IN_JOURNAL: AtomicBool = AtomicBool::new(false);

/// A daemon cannot go on: one line, in the journal with the fields of the daemon, else on stderr as `NAME: why`.
pub fn report_failure(name: &str, e: &anyhow::Error) {
    if IN_JOURNAL.load(Ordering::Relaxed) {
        tracing::error!("{e:#}");
    } else {
        eprintln!("{name}: {e:#}");
    }
}

/// The filter in use, to be replaced by a reload.
static FILTER: OnceLock<reload::Handle<EnvFilter, Registry>> = OnceLock::new();

/// `log_level`, unless `MARS_LOG` says something else.
pub(crate) fn set_log_level(config: &Config) {
    if std::env::var_os("MARS_LOG").is_none()
        && let Some(filter) = FILTER.get()
    {
        filter.reload(EnvFilter::new(config.log_level())).ok();
    }
}

fn init_logging(
    env: Option<HostEnv>,
    resource: Option<&str>,
    socket: Option<Socket>,
    text: Option<(Priority, bool)>,
) {
    let filter = EnvFilter::try_from_env("MARS_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let (filter, handle) = reload::Layer::new(filter);
    let program = std::env::args_os().next().map(PathBuf::from);
    let program = program.as_deref().and_then(Path::file_name);
    IN_JOURNAL.store(socket.is_some() && text.is_none(), Ordering::Relaxed);
    let who = Who {
        program: program.map_or(String::from("mars"), |n| n.to_string_lossy().into_owned()),
        host: env.map(|e| e.host.to_string()),
        resource: resource.map(str::to_string),
    };
    // A second initialisation (tests in one process) keeps the first.
    let done = tracing_subscriber::registry()
        .with(filter)
        .with(Journal::new(who, socket, text))
        .try_init();
    if done.is_ok() {
        FILTER.set(handle).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

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
