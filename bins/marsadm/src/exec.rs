//! Programs of the administrator: hooks, the syslog program. They have no terminal, a limited time, and their output is bounded.
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{Id, WaitPidFlag, waitid};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// More output than this is cut off.
const OUTPUT_MAX: u64 = 64 << 10;

/// How a program ended.
#[derive(Debug)]
pub struct Ended {
    /// `None`: it was killed after the limit.
    pub status: Option<ExitStatus>,
    /// What it wrote, both streams in order.
    pub text: String,
}

/// Runs a program to its end, or kills it after `limit`.
pub fn run(command: &mut Command, limit: Duration) -> io::Result<Ended> {
    // A file, not a pipe: a program in the background that keeps it open is not waited for.
    let mut output = File::from(memfd_create(c"marsadm-output", MFdFlags::MFD_CLOEXEC)?);
    command
        .stdin(Stdio::null())
        .stdout(output.try_clone()?)
        .stderr(output.try_clone()?);
    let mut child = command.spawn()?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let (tell, told) = channel();
    // Waits without reaping, so that the number stays the child's until `child.wait` below.
    std::thread::spawn(move || {
        let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
        let _ = tell.send(());
    });
    let late = told.recv_timeout(limit) == Err(RecvTimeoutError::Timeout);
    if late {
        let _ = kill(pid, Signal::SIGKILL);
    }
    let status = child.wait()?;
    output.seek(SeekFrom::Start(0))?;
    let mut bytes = Vec::new();
    output.take(OUTPUT_MAX).read_to_end(&mut bytes)?;
    Ok(Ended {
        status: (!late).then_some(status),
        text: String::from_utf8_lossy(&bytes).into_owned(),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn output_status_and_limit() {
        let sh =
            |script: &str, limit| run(Command::new("/bin/sh").args(["-c", script]), limit).unwrap();
        let long = Duration::from_secs(60);
        let e = sh("echo a; echo b >&2; exit 3", long);
        assert_eq!(
            (e.status.unwrap().code(), e.text.as_str()),
            (Some(3), "a\nb\n")
        );
        // Something that it leaves behind is not waited for.
        assert!(sh("sleep 60 & exit 0", long).status.unwrap().success());
        assert!(
            sh("echo x; exec sleep 60", Duration::from_millis(50))
                .status
                .is_none()
        );
        let e = sh("head -c 1000000 /dev/zero | tr '\\0' x", long);
        assert_eq!(e.text.len(), 64 << 10);
        assert!(run(&mut Command::new("/no/such"), long).is_err());
    }
}
