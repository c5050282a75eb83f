//! SIGHUP: the configuration is read again.
use crate::config::{Apply, Change};
use crate::daemon::{send, set_log_level};
use crate::{Config, events};
use libsystemd::daemon::NotifyState;
use mars_tree::HostEnv;
use nix::sys::time::TimeValLike;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

type Hook = Box<dyn Fn(&Config) + Send>;

/// The configuration of a daemon and who wants to know when it changes.
pub(crate) struct Reload {
    env: HostEnv,
    program: &'static str,
    resource: Option<String>,
    config: Mutex<Arc<Config>>,
    /// As the daemon was started: what needs a restart is compared with this.
    started: Arc<Config>,
    hooks: Mutex<Vec<Hook>>,
    ready: AtomicBool,
}

impl std::fmt::Debug for Reload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reload")
            .field("program", &self.program)
            .field("resource", &self.resource)
            .finish_non_exhaustive()
    }
}

impl Reload {
    pub(crate) fn new(
        env: HostEnv,
        program: &'static str,
        resource: Option<&str>,
        config: Config,
    ) -> Reload {
        let config = Arc::new(config);
        Reload {
            env,
            program,
            resource: resource.map(str::to_string),
            config: Mutex::new(Arc::clone(&config)),
            started: config,
            hooks: Mutex::default(),
            ready: AtomicBool::new(false),
        }
    }

    pub(crate) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn on_change(&self, f: impl Fn(&Config) + Send + 'static) {
        let mut hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner);
        hooks.push(Box::new(f));
    }

    pub(crate) fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Reads the configuration again and tells systemd when it begins and ends (sd_notify(3)).
    pub(crate) fn run(&self) {
        // Before the first READY=1 a reload is no state of the unit.
        let is_ready = self.ready.load(Ordering::Acquire);
        if is_ready {
            send(&reloading());
        }
        match Config::load(&self.env) {
            Ok(new) => events::config_changed(&self.take(new)),
            Err(e) => events::config_refused(&e.to_string()),
        }
        if is_ready {
            send(&[NotifyState::Ready]);
        }
    }

    /// Takes a configuration over; says what changed.
    fn take(&self, new: Config) -> String {
        let new = Arc::new(new);
        let old = {
            let mut config = self.config.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *config, Arc::clone(&new))
        };
        let res = self.resource.as_deref();
        let all = old.changes(&new, self.program, res);
        if all.iter().any(|c| c.apply == Apply::Reload) {
            set_log_level(&new);
            let hooks = self.hooks.lock().unwrap_or_else(PoisonError::into_inner);
            for hook in hooks.iter() {
                hook(&new);
            }
        }
        let now = all.iter().filter(|c| c.apply == Apply::Reload);
        let since_start = self.started.changes(&new, self.program, res);
        let later = since_start.iter().filter(|c| c.apply == Apply::Restart);
        summary(now, later)
    }
}

fn summary<'a>(
    now: impl Iterator<Item = &'a Change>,
    later: impl Iterator<Item = &'a Change>,
) -> String {
    let list = |changes: Vec<&str>| changes.join(", ");
    let now = list(now.map(|c| c.text.as_str()).collect());
    let later = list(later.map(|c| c.text.as_str()).collect());
    match (now.is_empty(), later.is_empty()) {
        (true, true) => "nothing changed".to_string(),
        (false, true) => now,
        (true, false) => format!("needs a restart: {later}"),
        (false, false) => format!("{now}; needs a restart: {later}"),
    }
}

/// `RELOADING=1` with the time of the monotonic clock.
fn reloading() -> Vec<NotifyState> {
    let usec =
        nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).map(|t| t.num_microseconds());
    let mut states = vec![NotifyState::Reloading];
    if let Ok(usec) = usec {
        states.push(NotifyState::Other(format!("MONOTONIC_USEC={usec}")));
    }
    states
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use std::sync::atomic::AtomicU64;

    #[test]
    fn reload_takes_good_files_keeps_old_values_on_bad_ones_and_names_what_needs_a_restart() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().to_str().unwrap().to_string();
        let var = |k: &str| match k {
            "MARS_HOST" => Some("hosta".to_string()),
            k if k.ends_with("_DIR") || k == "MARS_ROOT" => Some(path.clone()),
            _ => None,
        };
        let env = HostEnv::from_vars(var).unwrap();
        let start = Config::load(&env).unwrap();
        let r = Reload::new(env.clone(), "mars-logger", Some("r"), start);
        let seen = Arc::new(AtomicU64::new(0));
        let told = Arc::clone(&seen);
        let res = "r".parse().unwrap();
        r.on_change(move |c| told.store(c.resource(&res).rotate_bytes >> 20, Ordering::SeqCst));
        let file = dir.path().join("mars.conf");
        let write = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Config::load(&env).map(|c| r.take(c))
        };
        assert_eq!(
            write("logrot_auto_mib = 5\n").unwrap(),
            "logrot_auto_mib 32768 -> 5"
        );
        assert_eq!(seen.load(Ordering::SeqCst), 5);
        assert!(write("logrot_auto_mib = x\n").is_err());
        r.run();
        assert_eq!(seen.load(Ordering::SeqCst), 5, "a bad file changes nothing");
        assert_eq!(
            write("logrot_auto_mib = 6\nfront = \"fuse\"\n").unwrap(),
            "logrot_auto_mib 5 -> 6; needs a restart: front \"auto\" -> \"fuse\""
        );
        // It still does, until it is taken back.
        assert_eq!(
            write("logrot_auto_mib = 6\nfront = \"fuse\"\nheartbeat_ms = 100").unwrap(),
            "needs a restart: front \"auto\" -> \"fuse\""
        );
        assert_eq!(write("logrot_auto_mib = 6\n").unwrap(), "nothing changed");
        r.run();
        assert_eq!(seen.load(Ordering::SeqCst), 6);
    }

    #[test]
    fn reload_tells_systemd_the_time() {
        let text: Vec<String> = reloading().iter().map(|s| s.to_string()).collect();
        assert_eq!(text[0], "RELOADING=1");
        let usec = text[1].strip_prefix("MONOTONIC_USEC=").unwrap();
        assert!(usec.parse::<u64>().unwrap() > 0);
    }
}
