//! Plain processes, for trials, containers and tests without systemd. No supervisor: what dies stays dead until somebody starts it.
use crate::sys::{PidFd, detach_with_lock};
use crate::{ForeignState, Manager, UnitError, UnitStatus};
use mars_policy::Unit;
use mars_tree::HostEnv;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, Flock, FlockArg, fcntl};
use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

/// A unit's output file is put aside (`.old`) at this size when the unit starts.
const LOG_LIMIT_BYTES: u64 = 1 << 20;

/// Starts the binaries that stand beside the running one (or in `MARS_BIN_DIR`). A unit runs as long as a child holds the lock
/// `RUN_DIR/units/UNIT.lock`, which it inherits; the pid stands in the file. Output goes to `RUN_DIR/units/UNIT.log`.
///
/// The lock is an open-file-description lock: it goes to the child with the descriptor, ends with the child however that ends, and
/// can be looked at without being taken (`F_OFD_GETLK`), so that a look never makes a start fail.
#[derive(Debug)]
pub struct DirectManager {
    dir: PathBuf,
    stopped: PathBuf,
    bin_dir: Option<PathBuf>,
    vars: Vec<(&'static str, String)>,
}

impl DirectManager {
    /// For this host.
    pub fn new(env: &HostEnv) -> DirectManager {
        let bin_dir = std::env::var_os("MARS_BIN_DIR")
            .filter(|d| !d.is_empty())
            .map(PathBuf::from)
            .or_else(|| Some(std::env::current_exe().ok()?.parent()?.to_path_buf()));
        DirectManager {
            dir: env.run_dir.join("units"),
            stopped: env.run_dir.join("stopped"),
            bin_dir,
            vars: env.to_vars(),
        }
    }

    /// The same with another directory of binaries.
    pub fn with_bin_dir(mut self, dir: impl Into<PathBuf>) -> DirectManager {
        self.bin_dir = Some(dir.into());
        self
    }

    fn lock_path(&self, unit: &Unit) -> PathBuf {
        self.dir.join(format!("{unit}.lock"))
    }

    /// Where the unit's output goes.
    pub fn log_path(&self, unit: &Unit) -> PathBuf {
        self.dir.join(format!("{unit}.log"))
    }

    /// Serialises starting (and finding out whom to signal) between processes.
    fn serialise(&self) -> io::Result<Flock<File>> {
        fs::create_dir_all(&self.dir)?;
        let file = open_private(&self.dir.join(".lock"))?;
        Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, e)| e.into())
    }

    /// The process that holds the unit's lock; `None` when nobody does.
    fn holder(&self, unit: &Unit) -> io::Result<Option<i32>> {
        let path = self.lock_path(unit);
        if !is_locked(&path)? {
            return Ok(None);
        }
        let hint = fs::read_to_string(&path)
            .ok()
            .and_then(|t| t.trim().parse::<i32>().ok());
        if let Some(pid) = hint.filter(|pid| has_open(*pid, &path)) {
            return Ok(Some(pid));
        }
        // The starter died before it could write the pid down: look who has the file open.
        let holder = fs::read_dir("/proc")?
            .flatten()
            .filter_map(|e| e.file_name().to_str()?.parse::<i32>().ok())
            .find(|pid| has_open(*pid, &path));
        match holder {
            Some(pid) => Ok(Some(pid)),
            // It ended while we looked, or belongs to another user.
            None if !is_locked(&path)? => Ok(None),
            None => Err(io::Error::other(format!(
                "{} is locked by a process that cannot be seen from here",
                path.display()
            ))),
        }
    }

    /// The last line that the unit wrote.
    fn last_words(&self, unit: &Unit) -> Option<String> {
        let text = fs::read(self.log_path(unit)).ok()?;
        let tail = text.get(text.len().saturating_sub(4096)..)?;
        let tail = String::from_utf8_lossy(tail);
        let line = tail.lines().rev().find(|l| !l.trim().is_empty())?.trim();
        Some(line.to_string())
    }

    fn try_start(&self, unit: &Unit) -> io::Result<()> {
        let _one_at_a_time = self.serialise()?;
        let mut lock = open_private(&self.lock_path(unit))?;
        if !try_lock(&lock)? {
            return Ok(());
        }
        let (program, args) = unit.command();
        let dir = self.bin_dir.as_ref().ok_or_else(|| {
            io::Error::other("cannot tell where the binaries are; set MARS_BIN_DIR")
        })?;
        let program = dir.join(program);
        let log_path = self.log_path(unit);
        if fs::metadata(&log_path).is_ok_and(|m| m.len() > LOG_LIMIT_BYTES) {
            let mut old = log_path.clone().into_os_string();
            old.push(".old");
            fs::rename(&log_path, old)?;
        }
        let log = OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&log_path)?;
        let mut command = Command::new(&program);
        command
            .args(args)
            .envs(self.vars.iter().map(|(k, v)| (k, v)))
            .env_remove("NOTIFY_SOCKET")
            .env_remove("JOURNAL_STREAM")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .current_dir("/");
        detach_with_lock(&mut command, lock.as_raw_fd());
        let child = match command.spawn() {
            Ok(child) => child,
            Err(e) => {
                // Closing would do, but for a copy that another thread's fork may hold until its exec.
                fcntl(&lock, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_UNLCK)))?;
                let text = format!("{}: {e}", program.display());
                return Err(io::Error::new(e.kind(), text));
            }
        };
        lock.set_len(0)?;
        writeln!(lock, "{}", child.id())
    }

    fn try_stop(&self, unit: &Unit, timeout: Duration) -> io::Result<()> {
        let process = {
            let _nobody_starts_it_now = self.serialise()?;
            let Some(pid) = self.holder(unit)? else {
                return Ok(());
            };
            let Some(process) = PidFd::open(pid)? else {
                return Ok(());
            };
            // The pid may have been reused before the descriptor was opened; now it cannot be any more.
            if !has_open(pid, &self.lock_path(unit)) {
                return Ok(());
            }
            process.terminate()?;
            process
        };
        if process.wait(timeout)? {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::TimedOut,
            format!("still running {} s after SIGTERM", timeout.as_secs()),
        ))
    }
}

/// Nothing but systemd can run the administrator's units.
fn needs_systemd(what: &str) -> UnitError {
    UnitError::Manager(format!(
        "{what}: units on top of a device need systemd; MARS_UNIT_MANAGER=direct only runs the daemons"
    ))
}

impl Manager for DirectManager {
    fn running(&self) -> Result<BTreeSet<Unit>, UnitError> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(e) => e,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
            Err(e) => {
                return Err(UnitError::Manager(format!("{}: {e}", self.dir.display())));
            }
        };
        let mut running = BTreeSet::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let unit = name
                .to_str()
                .and_then(|n| n.strip_suffix(".lock"))
                .and_then(|n| n.parse::<Unit>().ok());
            if let Some(unit) = unit
                && is_locked(&entry.path()).map_err(|e| UnitError::unit(&unit, e))?
            {
                running.insert(unit);
            }
        }
        Ok(running)
    }

    fn status(&self, unit: &Unit) -> Result<UnitStatus, UnitError> {
        match self.holder(unit) {
            Ok(Some(pid)) => Ok(UnitStatus::Running(pid)),
            Ok(None) => Ok(UnitStatus::Stopped),
            Err(e) => Err(UnitError::unit(unit, e)),
        }
    }

    fn start(&self, unit: &Unit) -> Result<(), UnitError> {
        self.try_start(unit).map_err(|e| UnitError::unit(unit, e))
    }

    fn stop(&self, unit: &Unit, timeout: Duration) -> Result<(), UnitError> {
        self.try_stop(unit, timeout).map_err(|e| {
            let said = self
                .last_words(unit)
                .map(|w| format!("; it said: {w}"))
                .unwrap_or_default();
            UnitError::unit(unit, format!("{e}{said}"))
        })
    }

    fn enabled(&self) -> Result<bool, UnitError> {
        Ok(!self.stopped.exists())
    }

    fn set_enabled(&self, on: bool) -> Result<(), UnitError> {
        let done = if on {
            match fs::remove_file(&self.stopped) {
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            }
        } else {
            self.stopped
                .parent()
                .map_or(Ok(()), fs::create_dir_all)
                .and_then(|()| fs::write(&self.stopped, "stopped by marsadm stop\n"))
        };
        done.map_err(|e| UnitError::Manager(format!("{}: {e}", self.stopped.display())))
    }

    fn foreign_state(&self, unit: &str) -> Result<ForeignState, UnitError> {
        Err(needs_systemd(unit))
    }

    fn foreign_start(&self, unit: &str, _: Duration) -> Result<(), UnitError> {
        Err(needs_systemd(unit))
    }

    fn foreign_stop(&self, unit: &str, _: Duration) -> Result<(), UnitError> {
        Err(needs_systemd(unit))
    }

    fn enable(&self, units: &[String]) -> Result<(), UnitError> {
        Err(needs_systemd(&units.join(", ")))
    }

    fn disable(&self, units: &[String]) -> Result<(), UnitError> {
        Err(needs_systemd(&units.join(", ")))
    }

    fn reload_units(&self) -> Result<(), UnitError> {
        Err(needs_systemd("daemon-reload"))
    }
}

fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
}

fn whole_file(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Takes the lock for this open file (and all its duplicates); false when another open file has it.
fn try_lock(file: &File) -> io::Result<bool> {
    match fcntl(file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
        Ok(_) => Ok(true),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(false),
        Err(e) => Err(e.into()),
    }
}

/// Looks without taking.
fn is_locked(path: &Path) -> io::Result<bool> {
    let file = match File::open(path) {
        Ok(f) => f,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(e) => return Err(e),
    };
    let mut lock = whole_file(libc::F_WRLCK);
    fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(lock.l_type != libc::F_UNLCK as libc::c_short)
}

/// Does this process have that file open?
fn has_open(pid: i32, path: &Path) -> bool {
    let Ok(path) = path.canonicalize() else {
        return false;
    };
    fs::read_dir(format!("/proc/{pid}/fd"))
        .map(|dir| {
            dir.flatten()
                .any(|e| fs::read_link(e.path()).is_ok_and(|target| target == path))
        })
        .unwrap_or(false)
}
