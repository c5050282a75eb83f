//! The harness itself: it sees what goes wrong, and leaves nothing behind.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_cluster::{Builder, wait_for};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::io::{BufRead, BufReader};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::process::{Command, Stdio};

fn message(what: Box<dyn std::any::Any + Send>) -> String {
    *what.downcast::<String>().expect("a message")
}

#[test]
fn harness_sees_errors_panics_and_failed_units() {
    let c = Builder::new("harness").hosts(&["alpha"]).bare().start();
    let h = c.host(0);
    h.sh("logger -p daemon.err something is on fire; logger -p daemon.info it is cold; logger -p daemon.err this is known");
    h.sh("logger -p daemon.info \"thread 'main' panicked at src/main.rs:1\"");
    h.run(&["systemd-run", "--quiet", "--wait", "--unit=fails", "false"]);
    let said =
        message(catch_unwind(AssertUnwindSafe(|| c.finish(&["this is known"]))).unwrap_err());
    for word in ["something is on fire", "panicked at src", "fails.service"] {
        assert!(said.contains(word), "{word}: {said}");
    }
    for word in ["this is known", "it is cold"] {
        assert!(!said.contains(word), "{word}: {said}");
    }
}

/// A loop device below the directory of the cluster, and the device of a logger that was killed and never came back.
#[test]
fn harness_sees_leaked_devices() {
    let c = Builder::new("leak").hosts(&["alpha"]).bare().start();
    c.host(0).sh("truncate -s 1M /cluster/leaks");
    let file = c.shared().join("leaks");
    let leak = Command::new("losetup")
        .args(["--find", "--show"])
        .arg(&file)
        .output()
        .unwrap();
    let device = String::from_utf8(leak.stdout).unwrap();
    let said = message(catch_unwind(AssertUnwindSafe(|| c.finish(&[]))).unwrap_err());
    assert!(
        said.contains("left behind") && said.contains("/leaks"),
        "{said}"
    );
    // What it complained about it took away nevertheless.
    let name = Path::new(device.trim()).file_name().unwrap();
    assert!(!Path::new("/sys/block").join(name).join("loop").exists());
    assert!(!file.exists());

    let c = Builder::new("leak")
        .hosts(&["alpha"])
        .disk("data", 64)
        .start();
    c.form();
    c.resource("leak", "data");
    c.host(0)
        .sh("mkfs.ext4 -q /dev/mars/leak; mount /dev/mars/leak /srv");
    c.host(0).sh(
        "d=/run/systemd/system/mars-logger@leak.service.d; mkdir -p $d; printf '[Service]\\nRestart=no\\n' >$d/no.conf
         systemctl daemon-reload; systemctl kill -s KILL mars-logger@leak.service",
    );
    let said = message(catch_unwind(AssertUnwindSafe(|| c.finish(&[]))).unwrap_err());
    assert!(said.contains("leaked: loop device"), "{said}");
    let rest = said.split("loop device ").nth(1).unwrap();
    let name = rest.split(' ').next().unwrap();
    let attached = mars_cluster::disk::attached();
    assert!(
        !attached.iter().any(|(n, file)| n == name && !file.exists()),
        "{said}"
    );
}

/// Whatever happens to a program with a cluster: directories, loop devices and processes go away with it.
#[test]
fn harness_leaves_nothing_behind() {
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGKILL] {
        let mut child = Command::new(env!("CARGO_BIN_EXE_mars-cluster"))
            .arg("hold")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let up = out
            .lines()
            .map(Result::unwrap)
            .find_map(|l| l.strip_prefix("up ").map(str::to_string));
        let dir = up.expect("the cluster comes up");
        let leader = std::fs::read_dir("/proc")
            .unwrap()
            .flatten()
            .any(|e| of(&e.path(), &dir));
        assert!(leader, "no systemd-nspawn for {dir}");
        kill(Pid::from_raw(child.id() as i32), signal).unwrap();
        child.wait().unwrap();
        wait_for(&format!("the end of everything after {signal}"), || {
            let processes = std::fs::read_dir("/proc")
                .unwrap()
                .flatten()
                .any(|e| of(&e.path(), &dir));
            let loops = mars_cluster::disk::attached()
                .iter()
                .any(|(_, f)| f.starts_with(&dir));
            !Path::new(&dir).exists() && !processes && !loops
        });
    }
}

/// A process that was started for the cluster in `dir`.
fn of(process: &Path, dir: &str) -> bool {
    let line = std::fs::read(process.join("cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&line).contains(dir)
}
