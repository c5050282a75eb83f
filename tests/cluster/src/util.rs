//! Small things that several modules use.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// "No progress for so long" is what a hang means here; nothing is ever expected to be faster than this.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Looks until the condition holds; panics with `what` when that takes longer than [`PATIENCE`].
pub fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "timeout waiting for {what}");
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Runs a program that must succeed; returns what it printed.
pub(crate) fn run(command: &mut Command) -> String {
    let o = command
        .output()
        .unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(
        o.status.success(),
        "{command:?}: {}\n{}{}",
        o.status,
        String::from_utf8_lossy(&o.stdout),
        String::from_utf8_lossy(&o.stderr)
    );
    String::from_utf8_lossy(&o.stdout).into_owned()
}

/// The top of this checkout.
pub(crate) fn checkout() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors()
        .nth(2)
        .expect("two levels up")
        .to_path_buf()
}

/// The `target` directory this program was built in.
pub(crate) fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().expect("own path");
    let found = exe
        .ancestors()
        .find(|d| d.join(".rustc_info.json").exists() || d.join("CACHEDIR.TAG").exists());
    found.map_or_else(|| checkout().join("target"), Path::to_path_buf)
}

/// A number for a list of words (FNV-1a): the same in every build.
pub(crate) fn digest<'a>(words: impl IntoIterator<Item = &'a str>) -> String {
    let mut h: u64 = 0xcbf2_9ce4_8422_2325;
    for w in words {
        for b in w.bytes().chain([0]) {
            h = (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }
    format!("{h:016x}")
}

/// Writes a file and the directories above it.
pub(crate) fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a directory above")).expect("directory");
    fs::write(path, text).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

/// Process ids of the children of a process (of its first thread).
pub(crate) fn children(pid: i32) -> Vec<i32> {
    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children"))
        .unwrap_or_default()
        .split_whitespace()
        .filter_map(|p| p.parse().ok())
        .collect()
}
