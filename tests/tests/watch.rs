//! Real daemons: `join-resource --wait`, `invalidate --wait` and `primary` with progress on a terminal, and `watch` beside them.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_tests::{Cluster, Host, PATIENCE, Ran, make_disk};
use nix::pty::openpty;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};

const RES: &str = "data";
const SIZE: u64 = 256 << 20;

/// Runs it with stderr on a terminal.
fn seen(host: &Host, args: &[&str]) -> Ran {
    let pty = openpty(None, None).unwrap();
    let mut master = File::from(pty.master);
    let reader = std::thread::spawn(move || {
        let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
        // EIO: the last end on the other side was closed.
        while let Ok(n) = master.read(&mut buffer) {
            all.extend(&buffer[..n]);
        }
        all
    });
    let mut command = host.command(args);
    command.env("TERM", "xterm").stderr(pty.slave);
    let out = command.stdout(Stdio::piped()).spawn().unwrap();
    drop(command);
    let out = out.wait_with_output().unwrap();
    let ran = Ran {
        code: out.status.code().unwrap(),
        out: String::from_utf8(out.stdout).unwrap(),
        err: String::from_utf8(reader.join().unwrap()).unwrap(),
    };
    assert_eq!(ran.code, 0, "{args:?}: {ran:?}\n{}", host.logs());
    ran
}

struct Lines {
    child: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Lines {
    fn start(host: &Host) -> Lines {
        let mut child = host
            .command(&["watch"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Lines {
            child,
            lines,
            seen: Vec::new(),
        }
    }

    fn until(&mut self, text: &str) {
        loop {
            let line = self.lines.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|e| panic!("{text}: {e}: {:#?}", self.seen));
            self.seen.push(line);
            if self.seen.last().unwrap().contains(text) {
                return;
            }
        }
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn waits_with_progress_and_watch_tells_the_states() {
    let cluster = Cluster::new(&["alpha", "beta"], "");
    let (alpha, beta) = (cluster.host(0), cluster.host(1));
    cluster.form();
    let disks = [alpha, beta].map(|h| h.file("disk.img"));
    make_disk(&disks[0], SIZE, true);
    make_disk(&disks[1], SIZE, false);
    let disks = disks.map(|d| d.display().to_string());
    alpha.ok(&["create-resource", RES, &disks[0]]);
    beta.wait_tree("the resource", |s| !s.resources().is_empty());
    let mut watch = Lines::start(beta);
    watch.until("resource data: primary alpha");

    let ran = seen(beta, &["join-resource", RES, &disks[1], "--wait"]);
    let state = |h: &Host| h.ok(&["view-diskstate", RES]).trim().to_string();
    assert_eq!(state(beta), "UpToDate");
    assert!(
        ran.out.contains("waiting until data is UpToDate on beta\n"),
        "{ran:?}"
    );
    assert!(
        ran.out.ends_with("data is UpToDate on beta now\n"),
        "{ran:?}"
    );
    assert!(!ran.out.contains(['\r', '%', '\x1b']), "{ran:?}");
    for words in [
        "sync ",
        "% (",
        " of 256 M)",
        "waiting until data is UpToDate on beta: ",
    ] {
        assert!(ran.err.contains(words), "{words}: {ran:?}");
    }
    // The last thing is that the line goes away.
    assert!(ran.err.ends_with("\r\x1b[K"), "{ran:?}");
    watch.until("resource data on beta: Secondary UpToDate Replaying");

    let quiet = beta.run(&["invalidate", RES, "--wait", "--timeout=300"]);
    assert_eq!((quiet.code, quiet.err.as_str()), (0, ""), "{quiet:?}");
    assert_eq!(state(beta), "UpToDate");
    assert!(
        quiet.out.ends_with("data is UpToDate on beta now\n"),
        "{quiet:?}"
    );
    beta.ok(&["pause-fetch", RES]);
    watch.until("resource data on beta: Secondary UpToDate PausedFetch");

    beta.ok(&["resume-fetch", RES]);
    let ran = seen(beta, &["primary", RES]);
    assert!(ran.err.contains("timeout in "), "{ran:?}");
    assert!(ran.err.contains("waiting until "), "{ran:?}");
    watch.until("resource data on beta: Primary ");
    drop(watch);
    cluster.stop_clean(&[]);
}
