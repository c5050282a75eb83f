//! Where a host lives: directories, name, unit manager.
use crate::{HostName, NameError, Stamp};
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Who starts and stops the daemons.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum UnitManager {
    /// The systemd of this host, over D-Bus.
    Systemd,
    /// Plain processes without supervision.
    Direct,
}

/// Everything a host is can be moved by the environment (architecture.md, "Two hosts on one machine").
#[derive(Clone, Debug)]
pub struct HostEnv {
    /// `MARS_ROOT`, default `/mars`.
    pub root: PathBuf,
    /// `MARS_DEV_DIR`, default `/dev/mars`.
    pub dev_dir: PathBuf,
    /// `MARS_RUN_DIR`, default `/run/mars`.
    pub run_dir: PathBuf,
    /// `MARS_ETC_DIR`, default `/etc/mars`.
    pub etc_dir: PathBuf,
    /// `MARS_HOST`, default the node name of `uname`.
    pub host: HostName,
    /// `MARS_UNIT_MANAGER=systemd|direct`; default systemd when `/run/systemd/system` exists, else direct.
    pub unit_manager: UnitManager,
    /// `MARS_PORT`, default 7777: metadata; +1 log fetch, +2 sync.
    pub port: u16,
}

/// Why the environment is unusable.
#[derive(Debug, thiserror::Error)]
pub enum EnvError {
    /// The host name is not allowed.
    #[error("host name: {0}; set MARS_HOST or rename the host")]
    Host(#[from] NameError),
    /// A variable has a value that is not allowed.
    #[error("{name}={value:?}: {why}")]
    Variable {
        /// Variable.
        name: &'static str,
        /// Its value.
        value: String,
        /// What would be right.
        why: &'static str,
    },
}

impl HostEnv {
    /// From the process environment.
    pub fn from_process() -> Result<HostEnv, EnvError> {
        // A value that is not UTF-8 must not fall back silently to the default directories.
        Self::from_vars(|k| std::env::var_os(k).map(|v| v.to_string_lossy().into_owned()))
    }
    /// From any source of variables (tests).
    pub fn from_vars(get: impl Fn(&str) -> Option<String>) -> Result<HostEnv, EnvError> {
        let bad = |name, value, why| EnvError::Variable { name, value, why };
        let dir = |name: &'static str, default: &str| match get(name) {
            None => Ok(PathBuf::from(default)),
            Some(v) if v.contains('\u{fffd}') => Err(bad(name, v, "the path must be valid UTF-8")),
            Some(v) if v.starts_with('/') => Ok(PathBuf::from(v)),
            Some(v) => Err(bad(name, v, "an absolute path is needed")),
        };
        let host = match get("MARS_HOST") {
            Some(h) => h,
            None => nix::sys::utsname::uname()
                .map(|u| u.nodename().to_string_lossy().into_owned())
                .unwrap_or_default(),
        };
        let unit_manager = match get("MARS_UNIT_MANAGER") {
            None if Path::new("/run/systemd/system").is_dir() => UnitManager::Systemd,
            None => UnitManager::Direct,
            Some(v) => match v.as_str() {
                "systemd" => UnitManager::Systemd,
                "direct" => UnitManager::Direct,
                _ => return Err(bad("MARS_UNIT_MANAGER", v, "use systemd or direct")),
            },
        };
        let port = match get("MARS_PORT") {
            None => 7777,
            Some(v) => match v.parse() {
                Ok(p @ 1..=65533) => p,
                _ => {
                    let why = "a port from 1 to 65533 is needed; this and the next two are used";
                    return Err(bad("MARS_PORT", v, why));
                }
            },
        };
        Ok(HostEnv {
            root: dir("MARS_ROOT", "/mars")?,
            dev_dir: dir("MARS_DEV_DIR", "/dev/mars")?,
            run_dir: dir("MARS_RUN_DIR", "/run/mars")?,
            etc_dir: dir("MARS_ETC_DIR", "/etc/mars")?,
            host: host.parse()?,
            unit_manager,
            port,
        })
    }
    /// `RUN_DIR/RESOURCE`, the private directory of a resource's daemons.
    pub fn resource_run_dir(&self, res: &crate::ResName) -> PathBuf {
        self.run_dir.join(res.as_str())
    }
    /// The variables that a child process needs to be the same host.
    pub fn to_vars(&self) -> Vec<(&'static str, String)> {
        let path = |p: &Path| p.to_string_lossy().into_owned();
        let manager = match self.unit_manager {
            UnitManager::Systemd => "systemd",
            UnitManager::Direct => "direct",
        };
        vec![
            ("MARS_ROOT", path(&self.root)),
            ("MARS_DEV_DIR", path(&self.dev_dir)),
            ("MARS_RUN_DIR", path(&self.run_dir)),
            ("MARS_ETC_DIR", path(&self.etc_dir)),
            ("MARS_HOST", self.host.to_string()),
            ("MARS_UNIT_MANAGER", manager.to_string()),
            ("MARS_PORT", self.port.to_string()),
        ]
    }
    /// The regular file whose change makes the reconciler run: `ROOT/userspace/systemd-trigger`.
    pub fn trigger_file(&self) -> PathBuf {
        self.root.join("userspace/systemd-trigger")
    }
    /// Asks for a run of the reconciler: rewrites [`HostEnv::trigger_file`] with the current time.
    pub fn request_reconcile(&self) -> io::Result<()> {
        if self.unit_manager == UnitManager::Systemd {
            // `mars-trigger.path` does not see changes while the service runs, but it sees this file afterwards; the service removes it first.
            // Without the directory nothing of ours runs here.
            let _ = File::create(self.run_dir.join("trigger-pending"));
        }
        let file = self.trigger_file();
        if let Some(dir) = file.parent() {
            match DirBuilder::new().mode(0o700).create(dir) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
        }
        let open = || {
            OpenOptions::new()
                .write(true)
                .create(true)
                .truncate(true)
                .mode(0o600)
                .custom_flags(nix::libc::O_NOFOLLOW)
                .open(&file)
        };
        let mut f = match open() {
            // A link in the place of the file is never followed.
            Err(e) if e.raw_os_error() == Some(nix::libc::ELOOP) => {
                std::fs::remove_file(&file)?;
                open()?
            }
            other => other?,
        };
        f.write_all(format!("{}\n", Stamp::real_time()).as_bytes())
    }
}
