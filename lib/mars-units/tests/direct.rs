//! Plain processes as units: what runs is known by the lock that a process holds, not by a number in a file.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use mars_policy::Unit;
use mars_tree::HostEnv;
use mars_units::{DirectManager, Manager, UnitStatus};
use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

struct Host {
    dir: tempfile::TempDir,
    manager: DirectManager,
}

impl Host {
    /// A host whose daemons are this shell script.
    fn with_daemon(script: &str) -> Host {
        let dir = tempfile::tempdir().unwrap();
        let bin = dir.path().join("bin");
        fs::create_dir(&bin).unwrap();
        for name in ["mars-meta", "mars-logger"] {
            let path = bin.join(name);
            fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let path = |n: &str| dir.path().join(n).display().to_string();
        let env = HostEnv::from_vars(|k| match k {
            "MARS_ROOT" => Some(path("mars")),
            "MARS_RUN_DIR" => Some(path("run")),
            "MARS_HOST" => Some("alpha".into()),
            "MARS_UNIT_MANAGER" => Some("direct".into()),
            _ => None,
        })
        .unwrap();
        let manager = DirectManager::new(&env).with_bin_dir(bin);
        Host { dir, manager }
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join(name)
    }

    fn pid(&self, unit: &Unit) -> i32 {
        match self.manager.status(unit).unwrap() {
            UnitStatus::Running(pid) => pid,
            other => panic!("{unit}: {other:?}"),
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for unit in self.manager.running().unwrap_or_default() {
            let _ = self.manager.stop(&unit, Duration::from_secs(10));
        }
    }
}

const LONG: Duration = Duration::from_secs(60);

fn logger() -> Unit {
    Unit::Logger("lv-0".parse().unwrap())
}

#[test]
fn direct_starts_once_and_stops() {
    let h = Host::with_daemon("echo \"I am $MARS_HOST\"; exec sleep 1000");
    assert_eq!(h.manager.running().unwrap(), BTreeSet::new());
    h.manager.start(&Unit::Meta).unwrap();
    h.manager.start(&logger()).unwrap();
    let pid = h.pid(&Unit::Meta);
    h.manager.start(&Unit::Meta).unwrap();
    assert_eq!(h.pid(&Unit::Meta), pid, "started twice");
    assert_eq!(
        h.manager.running().unwrap(),
        BTreeSet::from([Unit::Meta, logger()])
    );
    let lock = h.file("run/units/mars-meta.service.lock");
    assert_eq!(fs::read_to_string(lock).unwrap(), format!("{pid}\n"));
    h.manager.stop(&Unit::Meta, LONG).unwrap();
    assert_eq!(h.manager.status(&Unit::Meta).unwrap(), UnitStatus::Stopped);
    h.manager.stop(&Unit::Meta, LONG).unwrap();
    assert_eq!(h.manager.running().unwrap(), BTreeSet::from([logger()]));
    h.manager.start(&Unit::Meta).unwrap();
    assert_ne!(h.pid(&Unit::Meta), pid);
}

#[test]
fn direct_inherits_only_its_own_lock_and_standard_descriptors() {
    let h = Host::with_daemon("exec sleep 1000");
    // A descriptor of ours that would be inherited.
    let ours = fs::File::create(h.file("ours")).unwrap();
    nix::fcntl::fcntl(
        &ours,
        nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()),
    )
    .unwrap();
    h.manager.start(&Unit::Meta).unwrap();
    h.manager.start(&logger()).unwrap();
    for (unit, lock) in [
        (Unit::Meta, "mars-meta.service.lock"),
        (logger(), "mars-logger@lv\\x2d0.service.lock"),
    ] {
        let fds = Path::new("/proc").join(h.pid(&unit).to_string()).join("fd");
        // The shell may have its script open still, and closes it while we look.
        let open: Vec<_> = fs::read_dir(&fds)
            .unwrap()
            .flatten()
            .filter_map(|e| fs::read_link(e.path()).ok())
            .collect();
        let units = h.file("run/units").canonicalize().unwrap();
        assert!(open.contains(&units.join(lock)), "{unit}: {open:?}");
        let locks = open
            .iter()
            .filter(|p| p.to_string_lossy().ends_with(".lock"));
        assert_eq!(locks.count(), 1, "{unit}: {open:?}");
        assert!(
            !open.contains(&h.file("ours").canonicalize().unwrap()),
            "{unit}: {open:?}"
        );
        assert_eq!(
            fs::read_link(fds.join("0")).unwrap(),
            Path::new("/dev/null")
        );
    }
}

#[test]
fn direct_notices_a_killed_daemon() {
    let h = Host::with_daemon("exec sleep 1000");
    h.manager.start(&Unit::Meta).unwrap();
    let pid = nix::unistd::Pid::from_raw(h.pid(&Unit::Meta));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL).unwrap();
    nix::sys::wait::waitpid(pid, None).unwrap();
    // The file still names the process, the lock is gone.
    assert_eq!(h.manager.status(&Unit::Meta).unwrap(), UnitStatus::Stopped);
    h.manager.stop(&Unit::Meta, LONG).unwrap();
    h.manager.start(&Unit::Meta).unwrap();
    h.pid(&Unit::Meta);
}

#[test]
fn direct_never_signals_a_process_that_only_has_the_number() {
    let h = Host::with_daemon("exec sleep 1000");
    let mut bystander = std::process::Command::new("sleep")
        .arg("1000")
        .spawn()
        .unwrap();
    h.manager.start(&Unit::Meta).unwrap();
    let real = h.pid(&Unit::Meta);
    // A wrong number in the file: the holder of the lock is found nevertheless.
    fs::write(
        h.file("run/units/mars-meta.service.lock"),
        format!("{}\n", bystander.id()),
    )
    .unwrap();
    assert_eq!(h.pid(&Unit::Meta), real);
    h.manager.stop(&Unit::Meta, LONG).unwrap();
    // Nobody holds the lock: nothing is signalled.
    fs::write(
        h.file("run/units/mars-meta.service.lock"),
        format!("{}\n", bystander.id()),
    )
    .unwrap();
    h.manager.stop(&Unit::Meta, LONG).unwrap();
    assert!(
        bystander.try_wait().unwrap().is_none(),
        "the bystander was ended"
    );
    bystander.kill().unwrap();
    bystander.wait().unwrap();
}

#[test]
fn direct_stop_reports_what_does_not_end_with_its_last_words() {
    // The fifo makes the test wait until the shell ignores the signal.
    let h = Host::with_daemon(
        "trap '' TERM; echo 'still draining'; echo x > \"$MARS_RUN_DIR/ready\"; while :; do sleep 1000; done",
    );
    fs::create_dir_all(h.file("run")).unwrap();
    nix::unistd::mkfifo(&h.file("run/ready"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    h.manager.start(&Unit::Meta).unwrap();
    fs::read(h.file("run/ready")).unwrap();
    let pid = h.pid(&Unit::Meta);
    let e = h
        .manager
        .stop(&Unit::Meta, Duration::from_millis(1))
        .unwrap_err()
        .to_string();
    assert!(
        e.contains("mars-meta.service") && e.contains("still draining"),
        "{e}"
    );
    assert_eq!(h.pid(&Unit::Meta), pid);
    // setsid made it the leader of a group of its own, with the sleep in it.
    let group = nix::unistd::Pid::from_raw(-pid);
    nix::sys::signal::kill(group, nix::sys::signal::Signal::SIGKILL).unwrap();
    nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None).unwrap();
}

#[test]
fn direct_start_names_a_missing_program() {
    let h = Host::with_daemon("exec sleep 1000");
    let e = h.manager.start(&Unit::FetchServe).unwrap_err().to_string();
    assert!(e.contains("mars-fetch"), "{e}");
    assert_eq!(h.manager.running().unwrap(), BTreeSet::new());
}

#[test]
fn direct_remembers_that_the_host_is_stopped() {
    let h = Host::with_daemon("exec sleep 1000");
    assert!(h.manager.enabled().unwrap());
    h.manager.set_enabled(false).unwrap();
    h.manager.set_enabled(false).unwrap();
    assert!(!h.manager.enabled().unwrap());
    h.manager.set_enabled(true).unwrap();
    h.manager.set_enabled(true).unwrap();
    assert!(h.manager.enabled().unwrap());
}
