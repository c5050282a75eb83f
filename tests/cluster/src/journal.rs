//! What the hosts have said: evidence after a failure, and a source of failures.
use std::fs;
use std::path::Path;
use std::process::Command;

/// Lines of priority err that come from running systemd in a container, not from anything under test.
const OF_CONTAINERS: &[&str] = &[];

fn journalctl(dir: &Path, args: &[&str]) -> String {
    let out = Command::new("journalctl")
        .args(["--no-pager", "--quiet", "-o", "short-precise", "-D"])
        .arg(dir)
        .args(args)
        .output();
    match out {
        // Status 1 with nothing printed: nothing was found.
        Ok(o) => String::from_utf8_lossy(&o.stdout).into_owned(),
        Err(e) => format!("journalctl: {e}"),
    }
}

/// The whole journal, all boots.
pub fn all(dir: &Path) -> String {
    journalctl(dir, &[])
}

/// Panics, and lines of priority err and worse, that contain none of the `allowed` words.
pub fn problems(dir: &Path, allowed: &[&str]) -> Vec<String> {
    let all = all(dir);
    assert!(!all.is_empty(), "{}: no journal", dir.display());
    let panics = all.lines().filter(|l| l.contains("panicked at"));
    let errors = journalctl(dir, &["-p", "err"]);
    let known = |l: &&str| {
        allowed
            .iter()
            .chain(OF_CONTAINERS)
            .any(|word| l.contains(word))
    };
    panics
        .chain(errors.lines().filter(|l| !known(l)))
        .map(str::to_string)
        .collect()
}

/// Puts the evidence of one host into a directory. Never fails: something else has failed already.
pub fn save(journal: &Path, console: &Path, into: &Path, host: &str) {
    let _ = fs::create_dir_all(into);
    let _ = fs::write(into.join(format!("{host}.journal")), all(journal));
    let _ = fs::copy(console, into.join(format!("{host}.console")));
}
