//! `marsadm watch` and the progress of waits, seen from outside: on a pseudo terminal and without one.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;

use common::Host;
use mars_tree::{Batch, Key, Tree};
use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

/// A machine under load may be slow; nothing here waits for so long when things are right.
const LONG: Duration = Duration::from_secs(30);

fn set(tree: &Tree, path: &str, value: &str) {
    let mut batch = Batch::new();
    batch.set(Key::parse(path), value);
    tree.commit(&batch).unwrap();
}

/// A host with two resources and a peer.
fn host(dir: &tempfile::TempDir) -> (Host, Tree) {
    let h = Host::new(dir.path(), "alpha");
    h.ok(&["create-cluster", "--ip=127.45.0.1"]);
    let tree = h.tree();
    let now = tree.clock().now().to_string();
    let disk = h.disk("disk", 1_048_576_000);
    let mut batch = Batch::new();
    for (path, value) in [
        ("ips/ip-beta", "127.45.0.2"),
        ("actual-alpha/time", now.as_str()),
        ("actual-beta/time", now.as_str()),
        ("resource-data/size", "1048576000"),
        ("resource-data/data-alpha", disk.as_str()),
        ("resource-data/data-beta", "/dev/null"),
        ("resource-data/primary", "beta"),
        ("resource-data/syncstatus-alpha", "0"),
        ("resource-data/actual-alpha/is-syncing", "1"),
        ("resource-data/todo-alpha/attach", "1"),
        ("resource-data/todo-alpha/sync", "1"),
        ("resource-mail/size", "1048576"),
        ("resource-mail/data-alpha", "/dev/null"),
    ] {
        batch.set(Key::parse(path), value);
    }
    tree.commit(&batch).unwrap();
    (h, tree)
}

/// What a terminal would show after these bytes; only what is used here of its language.
#[derive(Default)]
struct Shown {
    lines: Vec<Vec<char>>,
    at: (usize, usize),
    alternate: bool,
    cursor_hidden: bool,
    colors: bool,
    pending: Vec<u8>,
}

impl Shown {
    fn feed(&mut self, bytes: &[u8]) {
        self.pending.extend_from_slice(bytes);
        loop {
            let text = match std::str::from_utf8(&self.pending) {
                Ok(t) => t.to_string(),
                Err(e) => String::from_utf8_lossy(&self.pending[..e.valid_up_to()]).into_owned(),
            };
            let Some(used) = self.step(&text) else { return };
            self.pending.drain(..used);
        }
    }

    fn step(&mut self, text: &str) -> Option<usize> {
        let c = text.chars().next()?;
        if c != '\x1b' {
            match c {
                '\r' => self.at.1 = 0,
                '\n' => self.at.0 += 1,
                c => self.put(c),
            }
            return Some(c.len_utf8());
        }
        let rest = text.strip_prefix("\x1b[")?;
        let end = rest.find(|c: char| c.is_ascii_alphabetic())?;
        let number = |n: usize| -> usize {
            let word = rest[..end].split(';').nth(n).unwrap_or("");
            word.parse().unwrap_or(1)
        };
        match (&rest[..end], rest.as_bytes()[end]) {
            (_, b'H') => self.at = (number(0) - 1, number(1) - 1),
            ("2", b'J') => self.lines.clear(),
            ("" | "0", b'K') => {
                let (y, x) = self.at;
                if let Some(line) = self.lines.get_mut(y) {
                    line.truncate(x);
                }
            }
            ("?1049", b'h') => self.alternate = true,
            ("?1049", b'l') => self.alternate = false,
            ("?25", b'h') => self.cursor_hidden = false,
            ("?25", b'l') => self.cursor_hidden = true,
            (style, b'm') => {
                let is_color = |w: &str| {
                    matches!(w, "38" | "48") || w.len() == 2 && w.starts_with('3') && w != "39"
                };
                self.colors |= style.split(';').any(is_color);
            }
            _ => {}
        }
        Some(2 + end + 1)
    }

    fn put(&mut self, c: char) {
        let (y, x) = self.at;
        if self.lines.len() <= y {
            self.lines.resize(y + 1, Vec::new());
        }
        let line = &mut self.lines[y];
        if line.len() <= x {
            line.resize(x + 1, ' ');
        }
        line[x] = c;
        self.at.1 += 1;
    }

    fn text(&self) -> String {
        let line = |l: &Vec<char>| l.iter().collect::<String>().trim_end().to_string() + "\n";
        self.lines.iter().map(line).collect()
    }
}

/// `marsadm` on a terminal of its own.
struct Pty {
    child: Child,
    keyboard: File,
    slave: OwnedFd,
    bytes: Receiver<Vec<u8>>,
    shown: Shown,
    raw: Vec<u8>,
    cooked: Termios,
}

impl Pty {
    fn start(h: &Host, args: &[&str], size: (u16, u16), vars: &[(&str, &str)]) -> Pty {
        let mut words = vec![env!("CARGO_BIN_EXE_marsadm")];
        words.extend(args);
        Pty::run(h, &words, size, vars, |_| {})
    }

    fn run(
        h: &Host,
        words: &[&str],
        (columns, rows): (u16, u16),
        vars: &[(&str, &str)],
        change: impl FnOnce(&mut Command),
    ) -> Pty {
        let size = Winsize {
            ws_col: columns,
            ws_row: rows,
            ws_xpixel: 0,
            ws_ypixel: 0,
        };
        let pty = openpty(&size, None).unwrap();
        let cooked = tcgetattr(&pty.slave).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        // A session of its own, with this terminal.
        let mut command = Command::new("setsid");
        command.arg("--ctty").args(words).envs(h.env.to_vars());
        command.env_remove("MARS_LOG").env_remove("NO_COLOR");
        command
            .env("TERM", "xterm-256color")
            .env("LC_ALL", "C.UTF-8");
        command.envs(vars.iter().copied());
        command.stdin(end()).stdout(end()).stderr(end());
        change(&mut command);
        let child = command.spawn().unwrap();
        let (tell, bytes) = channel();
        let mut master = File::from(pty.master.try_clone().unwrap());
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(n) = master.read(&mut buffer) {
                if n == 0 || tell.send(buffer[..n].to_vec()).is_err() {
                    return;
                }
            }
        });
        Pty {
            cooked,
            child,
            keyboard: File::from(pty.master),
            slave: pty.slave,
            bytes,
            shown: Shown::default(),
            raw: Vec::new(),
        }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    fn until(&mut self, what: &str, is: impl Fn(&Shown) -> bool) {
        let end = Instant::now() + LONG;
        while !is(&self.shown) {
            let left = end.saturating_duration_since(Instant::now());
            match self.bytes.recv_timeout(left) {
                Ok(b) => {
                    self.shown.feed(&b);
                    self.raw.extend(b);
                }
                Err(e) => panic!("{what}: {e}; shown:\n{}", self.shown.text()),
            }
        }
    }

    fn until_text(&mut self, text: &str) {
        self.until(text, |s| s.text().contains(text));
    }

    fn is_raw(&self) -> bool {
        let t = tcgetattr(&self.keyboard).unwrap();
        !t.local_flags
            .contains(LocalFlags::ICANON | LocalFlags::ECHO)
    }

    fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.child.id()).unwrap())
    }

    /// It has ended, and the terminal is as it was.
    fn ended(&mut self) -> i32 {
        let end = Instant::now() + LONG;
        let status = loop {
            if let Some(s) = self.child.try_wait().unwrap() {
                break s;
            }
            assert!(Instant::now() < end, "does not end:\n{}", self.shown.text());
            std::thread::sleep(Duration::from_millis(5));
        };
        self.until("terminal given back", |s| !s.alternate && !s.cursor_hidden);
        assert!(!self.is_raw());
        status.code().unwrap_or(-1)
    }
}

impl Drop for Pty {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn full_screen_follows_the_tree_and_gives_the_terminal_back() {
    let dir = tempfile::tempdir().unwrap();
    let (h, tree) = host(&dir);
    let _engine = h.pretend_engine();
    let mut t = Pty::start(&h, &["watch"], (80, 24), &[]);
    t.until_text("MARS on alpha: 2 resources, 2 hosts");
    t.until_text("sync    [>");
    assert!(t.shown.alternate && t.shown.cursor_hidden && t.is_raw());
    assert!(t.shown.colors);
    set(&tree, "resource-data/syncstatus-alpha", "524288000");
    t.until_text("50.0%  500 M of 1000 M");
    t.press("/mai\r");
    t.until_text("1 of 2 resources");
    t.until("only mail", |s| !s.text().contains("data"));
    t.press("\r");
    t.until_text("Members");
    set(&tree, "resource-mail/todo-alpha/attach", "1");
    t.until_text("attach allowed");
    t.press("\x1b");
    t.until_text("filter mai: Esc drop");
    t.press("h");
    t.until_text("127.45.0.2");
    t.press("q");
    assert_eq!(t.ended(), 0);
}

#[test]
fn every_end_gives_the_terminal_back() {
    let dir = tempfile::tempdir().unwrap();
    let (h, _tree) = host(&dir);
    for signal in [
        Signal::SIGTERM,
        Signal::SIGINT,
        Signal::SIGHUP,
        Signal::SIGQUIT,
    ] {
        let mut t = Pty::start(&h, &["watch", "data"], (80, 24), &[]);
        t.until_text("1 resource,");
        kill(t.pid(), signal).unwrap();
        assert_eq!(t.ended(), 0, "{signal}");
    }
    let mut t = Pty::start(&h, &["watch", "mail"], (80, 24), &[]);
    t.until_text("1 resource,");
    t.press("\x03");
    assert_eq!(t.ended(), 0);
}

/// A connection that hangs: nothing that is written is taken any more.
#[test]
fn ends_although_the_terminal_takes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (h, _tree) = host(&dir);
    let size = Winsize {
        ws_col: 200,
        ws_row: 60,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let pty = openpty(&size, None).unwrap();
    let end = || Stdio::from(pty.slave.try_clone().unwrap());
    let mut child = Command::new("setsid")
        .args(["--ctty", env!("CARGO_BIN_EXE_marsadm"), "watch"])
        .envs(h.env.to_vars())
        .env("TERM", "xterm")
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .unwrap();
    let is_raw = || {
        let t = tcgetattr(&pty.master).unwrap();
        !t.local_flags.contains(LocalFlags::ICANON)
    };
    let until = Instant::now() + LONG;
    while !is_raw() {
        assert!(Instant::now() < until);
        std::thread::sleep(Duration::from_millis(5));
    }
    // Painted again and again, until it hangs in a write.
    let mut keyboard = File::from(pty.master.try_clone().unwrap());
    let syscall = format!("/proc/{}/syscall", child.id());
    let hangs = || {
        let call = std::fs::read_to_string(&syscall).unwrap_or_default();
        call.starts_with("1 ")
    };
    while !hangs() {
        assert!(Instant::now() < until, "it does not hang");
        keyboard.write_all(b"\x0c").unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    let pid = Pid::from_raw(i32::try_from(child.id()).unwrap());
    kill(pid, Signal::SIGTERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(1));
    assert!(!is_raw());
}

#[test]
fn suspended_and_back() {
    let dir = tempfile::tempdir().unwrap();
    let (h, tree) = host(&dir);
    let script = format!(
        "set -m; {} watch; echo stopped $?; read x; fg; echo ended $?; read x",
        env!("CARGO_BIN_EXE_marsadm")
    );
    let mut t = Pty::run(&h, &["bash", "-c", &script], (80, 24), &[], |_| {});
    t.until_text("2 resources,");
    t.press("\x1a");
    t.until_text("stopped 148");
    assert!(!t.shown.alternate && !t.shown.cursor_hidden && !t.is_raw());
    set(&tree, "resource-data/syncstatus-alpha", "524288000");
    t.shown = Shown::default();
    t.press("\n");
    t.until_text("50.0%");
    assert!(t.shown.alternate && t.is_raw());
    t.press("q");
    t.until_text("ended 0");
    assert!(!t.shown.alternate && !t.is_raw());
}

/// Stopped from outside, by what nobody can catch; meanwhile somebody else uses the terminal.
#[test]
fn stopped_and_continued() {
    let dir = tempfile::tempdir().unwrap();
    let (h, _tree) = host(&dir);
    let mut t = Pty::start(&h, &["watch"], (80, 24), &[]);
    t.until_text("2 resources,");
    kill(t.pid(), Signal::SIGSTOP).unwrap();
    let stopped = waitpid(t.pid(), Some(WaitPidFlag::WUNTRACED)).unwrap();
    assert_eq!(stopped, WaitStatus::Stopped(t.pid(), Signal::SIGSTOP));
    tcsetattr(&t.slave, SetArg::TCSANOW, &t.cooked).unwrap();
    assert!(!t.is_raw());
    t.shown = Shown::default();
    kill(t.pid(), Signal::SIGCONT).unwrap();
    t.until("taken again", |s| {
        s.alternate && s.text().contains("2 resources,")
    });
    assert!(t.is_raw());
    t.press("q");
    assert_eq!(t.ended(), 0);
}

#[test]
fn resized_to_anything() {
    let dir = tempfile::tempdir().unwrap();
    let (h, _tree) = host(&dir);
    let mut t = Pty::start(&h, &["watch"], (20, 5), &[]);
    t.until_text(" MARS on alpha: 2 r~");
    // A serial line does not tell its size.
    for (columns, rows, title) in [
        (0, 0, "2 hosts        "),
        (1, 1, ""),
        (200, 60, "2 resources, 2 hosts"),
        (7, 2, ">data"),
        (80, 24, "2 hosts        "),
    ] {
        t.shown.lines.clear();
        let size = format!("stty cols {columns} rows {rows}");
        let tty = Stdio::from(t.slave.try_clone().unwrap());
        let status = Command::new("sh").args(["-c", &size]).stdin(tty).status();
        assert!(status.unwrap().success());
        t.until(title, |s| !s.lines.is_empty() && s.text().contains(title));
    }
    t.press("q");
    assert_eq!(t.ended(), 0);
}

#[test]
fn without_colors_and_without_unicode() {
    let dir = tempfile::tempdir().unwrap();
    let (h, _tree) = host(&dir);
    let _engine = h.pretend_engine();
    let mut t = Pty::start(
        &h,
        &["watch"],
        (80, 24),
        &[("NO_COLOR", "1"), ("LC_ALL", "C")],
    );
    t.until_text("2 resources,");
    t.until_text("Syncing");
    t.press("q");
    assert_eq!(t.ended(), 0);
    assert!(!t.shown.colors);
    assert!(t.raw.is_ascii());
}

/// Lines of a reader that is no terminal.
struct Lines {
    child: Child,
    lines: Receiver<String>,
}

impl Lines {
    fn start(command: &mut Command) -> Lines {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Lines { child, lines }
    }

    fn until(&self, text: &str) -> Vec<String> {
        let mut seen = Vec::new();
        while !seen.iter().any(|l: &String| l.contains(text)) {
            seen.push(
                self.lines
                    .recv_timeout(LONG)
                    .unwrap_or_else(|e| panic!("{text}: {e}, {seen:#?}")),
            );
        }
        seen
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn lines_without_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let (h, tree) = host(&dir);
    let _engine = h.pretend_engine();
    let lines = Lines::start(&mut h.command(&["watch", "data"]));
    let first = lines.until("resource data on beta");
    assert!(
        first.iter().any(|l| l.ends_with(" host beta: alive")),
        "{first:#?}"
    );
    assert!(
        first
            .iter()
            .all(|l| !l.contains("mail") && !l.contains('\x1b'))
    );
    // An amount is no state; a switch is one.
    set(&tree, "resource-data/syncstatus-alpha", "524288000");
    set(&tree, "resource-data/todo-alpha/sync", "0");
    let then = lines.until("PausedSync");
    assert_eq!(then.len(), 1, "{then:#?}");
    assert!(then[0].contains(" resource data on alpha: Secondary "));
}

#[test]
fn lines_on_a_dumb_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let (h, _tree) = host(&dir);
    let mut t = Pty::start(&h, &["watch"], (80, 24), &[("TERM", "dumb")]);
    t.until_text("resource mail on alpha");
    t.press("\x03");
    while let Ok(b) = t.bytes.recv_timeout(Duration::from_secs(1)) {
        t.raw.extend(b);
    }
    assert!(!t.raw.contains(&0x1b));
}

#[test]
fn lines_end_when_nobody_reads() {
    let dir = tempfile::tempdir().unwrap();
    let (h, _tree) = host(&dir);
    let mut child = h
        .command(&["watch"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 10]).unwrap();
    drop(out);
    assert_eq!(child.wait().unwrap().code(), Some(0));
}

#[test]
fn wrong_names_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (h, _tree) = host(&dir);
    let long = "x".repeat(5000);
    for (name, code, said) in [
        ("dat", 1, "did you mean data?"),
        ("data,nix", 1, "resource nix does not exist"),
        ("../data", 1, "../data"),
        ("a b", 1, "a b"),
        ("a\nb", 1, "a\\nb"),
        (long.as_str(), 1, "xxx"),
        ("", 1, "name"),
    ] {
        let before = h.everything();
        // Who accepts the name would watch for ever: then there is a line, and it ends with its reader.
        let mut child = h
            .command(&["watch", "data", name])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut first = [0; 1];
        let n = child.stdout.take().unwrap().read(&mut first).unwrap();
        assert_eq!(n, 0, "{name:?} is accepted");
        let r = common::Ran::from(child.wait_with_output().unwrap());
        assert_eq!(r.code, code, "{name:?}: {r:?}");
        assert!(r.err.contains(said), "{name:?}: {r:?}");
        let errors: Vec<&str> = r.err.lines().filter(|l| l.starts_with("DYING")).collect();
        assert_eq!((errors.len(), r.out.as_str()), (1, ""), "{r:?}");
        assert_eq!(before, h.everything());
    }
    for (args, said) in [
        (["watch", "--json"], "view --json"),
        (["join-resource", "--wait=3"], "--wait"),
    ] {
        let r = h.run(&args);
        assert_eq!(r.code, 2, "{r:?}");
        assert_eq!((r.err.lines().count(), r.out.as_str()), (1, ""), "{r:?}");
        assert!(r.err.contains(said), "{r:?}");
    }
    let empty = Host::new(dir.path(), "gamma");
    let r = empty.run(&["watch"]);
    assert_eq!(r.code, 1);
    assert!(r.err.contains("create-cluster"), "{r:?}");
}

#[test]
fn progress_on_a_terminal_and_silence_in_scripts() {
    let dir = tempfile::tempdir().unwrap();
    let (h, tree) = host(&dir);
    let wait = ["wait-resource", "data", "is-sync-off", "--timeout=600"];
    let mut t = Pty::start(&h, &wait, (120, 24), &[]);
    t.until_text("sync 0.0% (0 B of 1000 M), timeout in");
    set(&tree, "resource-data/syncstatus-alpha", "524288000");
    t.until_text("sync 50.0% (500 M of 1000 M), timeout in");
    set(&tree, "resource-data/actual-alpha/is-syncing", "0");
    assert_eq!(t.ended(), 0);
    t.until("line gone", |s| !s.text().contains('%'));

    set(&tree, "resource-data/actual-alpha/is-syncing", "1");
    let args = ["wait-resource", "data", "is-sync-off", "--timeout=1"];
    let r = h.run(&args);
    assert_eq!(r.code, 3);
    assert!(!r.err.contains('%') && !r.err.contains('\r'), "{r:?}");
    assert_eq!(r.err.lines().count(), 1, "{r:?}");
    assert_eq!(r.out.lines().count(), 1, "{r:?}");

    // Without escape sequences where they are not understood.
    let mut t = Pty::start(&h, &args, (60, 24), &[("TERM", "dumb")]);
    t.until_text("sync 50.0%");
    assert_eq!(t.ended(), 3);
    t.until_text("DYING: timeout after");
    assert!(!t.raw.contains(&0x1b));
}
