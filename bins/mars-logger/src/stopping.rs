//! Why this process is asked to end: systemd sends the same signal for a stop, a restart and a shutdown, but its job list tells.
use mars_policy::Unit;
use mars_tree::ResName;
use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::mpsc::channel;
use std::time::Duration;

/// A manager that does not answer for so long is not waited for.
const ASK: Duration = Duration::from_secs(10);

/// What is going to happen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Why {
    /// The device goes away, whoever uses it.
    Stop,
    /// Another process follows at once: the device stays.
    Restart,
    /// The host goes down: whoever uses the device is about to end.
    Shutdown,
    /// The manager does not say.
    Unknown,
}

/// Asks systemd. Without one a stop is a stop.
pub fn ask(res: &ResName) -> Why {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return Why::Stop;
    }
    match jobs() {
        Ok(text) => of_jobs(&text, &Unit::Logger(res.clone()).to_string()),
        Err(e) => {
            tracing::warn!("systemctl list-jobs: {e}");
            Why::Unknown
        }
    }
}

/// Asks systemd to unmount. While it gets many mount events, as after a boot, it looks at them only once a second, and what it has not seen when a
/// shutdown begins is not part of it. A mount that is being unmounted already makes no difference; nor does one that is still in use, which is to be
/// asked for again later.
pub fn unmount(directories: &[PathBuf]) {
    let mut args: Vec<&OsStr> = ["stop", "--no-block", "--"].map(OsStr::new).to_vec();
    args.extend(directories.iter().map(|d| d.as_os_str()));
    if let Err(e) = systemctl(&args) {
        tracing::warn!("systemctl stop: {e}");
    }
}

fn jobs() -> std::io::Result<String> {
    let args = [
        "--no-pager",
        "--no-legend",
        "--plain",
        "--full",
        "list-jobs",
    ];
    systemctl(&args.map(OsStr::new))
}

/// What it prints. By program, because it also works without a bus, as late in a shutdown.
fn systemctl(args: &[&OsStr]) -> std::io::Result<String> {
    let mut child = Command::new("systemctl")
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let (tx, rx) = channel();
    let output = child.stdout.take();
    std::thread::Builder::new()
        .name("jobs".into())
        .spawn(move || {
            let mut text = String::new();
            let read = output.map(|o| {
                // The list is short; what is longer is not ours.
                std::io::Read::read_to_string(&mut std::io::Read::take(o, 1 << 20), &mut text)
            });
            tx.send(read.transpose().map(|_| text)).ok();
        })?;
    let text = rx.recv_timeout(ASK);
    child.kill().ok();
    child.wait()?;
    text.map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
}

/// Lines are `NUMBER UNIT TYPE STATE`.
fn of_jobs(text: &str, unit: &str) -> Why {
    let jobs = || {
        text.lines().filter_map(|l| {
            let mut words = l.split_whitespace().skip(1);
            Some((words.next()?, words.next()?))
        })
    };
    if jobs().any(|j| j == ("shutdown.target", "start")) {
        return Why::Shutdown;
    }
    match jobs().find(|(u, _)| *u == unit) {
        Some((_, "stop")) => Why::Stop,
        // In the middle of a restart the job may be the start already.
        Some((_, "restart" | "try-restart" | "start" | "reload-or-start")) => Why::Restart,
        // A signal by hand: systemd does not start the unit again then.
        None => Why::Stop,
        Some(_) => Why::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_job_list_tells() {
        let unit = Unit::Logger("lv-0".parse().unwrap_or_else(|_| unreachable!())).to_string();
        assert_eq!(unit, "mars-logger@lv\\x2d0.service");
        let line = |kind: &str| {
            format!("17 mars-logger@other.service stop running\n 4711 {unit} {kind} running\n")
        };
        for (text, why) in [
            (line("stop"), Why::Stop),
            (line("restart"), Why::Restart),
            (line("try-restart"), Why::Restart),
            (line("verify-active"), Why::Unknown),
            (
                line("stop") + "3 shutdown.target start waiting\n",
                Why::Shutdown,
            ),
            (
                line("restart") + "3 shutdown.target stop waiting\n",
                Why::Restart,
            ),
            (String::new(), Why::Stop),
            ("garbage\n\n x".to_string(), Why::Stop),
        ] {
            assert_eq!(of_jobs(&text, &unit), why, "{text}");
        }
    }
}
