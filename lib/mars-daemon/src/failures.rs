//! Failures of a daemon in a row, remembered over restarts of the process: pauses that grow.
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

const PAUSE_MAX: Duration = Duration::from_secs(60);

/// A small file with their number, in the private directory of the daemon.
#[derive(Debug)]
pub struct Failures(PathBuf);

impl Failures {
    /// `RUN_DIR/[RES/]NAME.failures`.
    pub fn of(dir: &Path, name: &str) -> Failures {
        Failures(dir.join(format!("{name}.failures")))
    }

    /// One more; how long to wait before the next try. A number that cannot be written down counts as the first.
    pub fn add(&self) -> Duration {
        let before: u32 = fs::read_to_string(&self.0)
            .ok()
            .and_then(|t| t.trim().parse().ok())
            .unwrap_or(0);
        fs::write(&self.0, format!("{}\n", before.saturating_add(1))).ok();
        Duration::from_secs(1 << before.min(6)).min(PAUSE_MAX)
    }

    /// It works.
    pub fn clear(&self) {
        fs::remove_file(&self.0).ok();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn pauses_grow_and_are_bounded() {
        let dir = std::env::temp_dir().join(format!("mars-failures-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let f = Failures::of(&dir, "logger");
        let pauses: Vec<u64> = (0..8).map(|_| f.add().as_secs()).collect();
        f.clear();
        let first = f.add().as_secs();
        fs::write(dir.join("logger.failures"), "4294967295\n").unwrap();
        let most = f.add().as_secs();
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!((first, most), (1, 60));
    }
}
