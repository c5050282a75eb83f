//! What the tests share.
#![allow(dead_code)]

pub mod mem;

use mars_front::{Backend, Front, FrontKind};
use mem::{Mem, Mode};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A front end in a directory of its own. All goes away with it.
pub struct Served {
    pub front: Box<dyn Front>,
    pub mem: Arc<Mem>,
    pub dir: tempfile::TempDir,
}

impl Served {
    pub fn start(kind: FrontKind, size: u64, mode: Mode) -> Served {
        let dir = tempfile::tempdir().expect("directory");
        let mem = Arc::new(Mem::with(size, mode));
        let backend = Arc::clone(&mem) as Arc<dyn Backend>;
        let env = mem::host_env(dir.path());
        let front = mars_front::start(kind, &env, &"disk".parse().expect("name"), "vol", backend)
            .expect("start");
        Served { front, mem, dir }
    }
    pub fn nbd(size: u64, mode: Mode) -> Served {
        Served::start(FrontKind::NbdSocket, size, mode)
    }
    pub fn link(&self) -> PathBuf {
        self.dir.path().join("dev/vol")
    }
    pub fn uri(&self) -> String {
        format!("nbd+unix:///disk?socket={}", self.link().display())
    }
}

/// Runs a program that must succeed; its output.
pub fn run(program: &str, args: &[&str]) -> String {
    let out = output(program, args);
    assert!(
        out.status.success(),
        "{program} {args:?}: {}\n{}",
        out.status,
        text(&out)
    );
    text(&out)
}

pub fn output(program: &str, args: &[&str]) -> Output {
    let mut cmd = Command::new(program);
    cmd.args(args).stdin(Stdio::null());
    cmd.output()
        .unwrap_or_else(|e| panic!("{program} (is it installed?): {e}"))
}

pub fn text(out: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&out.stdout),
        String::from_utf8_lossy(&out.stderr)
    )
}

/// Waits for something that another process or the kernel does, with a limit that only a hang reaches.
pub fn eventually(what: &str, mut f: impl FnMut() -> bool) {
    let start = Instant::now();
    while !f() {
        assert!(
            start.elapsed() < Duration::from_secs(30),
            "did not happen: {what}"
        );
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Reproducible noise.
pub fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut x = seed | 1;
    let mut out = Vec::with_capacity(len + 8);
    while out.len() < len {
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        out.extend_from_slice(&x.to_le_bytes());
    }
    out.truncate(len);
    out
}
