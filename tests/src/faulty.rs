//! Hosts whose logger and replay have the fault layer below them, switched by a file of each host.
use crate::{Cluster, Host, PATIENCE, bin_dir};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Programs that run in place of others.
const IN_PLACE: [(&str, &str); 2] = [
    ("mars-logger", "faulty-logger"),
    ("mars-replay", "faulty-replay"),
];

impl Cluster {
    /// As [`Cluster::new`], with the fault layer.
    pub fn with_faults(names: &[&str], config: &str) -> Cluster {
        let mut cluster = Cluster::new(names, config);
        for h in &mut cluster.hosts {
            for (name, other) in IN_PLACE {
                h.replace_program(name, &bin_dir().join(other));
            }
            let file = h.file("faults").display().to_string();
            h.vars.push((mars_faults::ENV.to_string(), file));
        }
        cluster
    }
}

impl Host {
    /// On this host `name` means the program at `path`.
    pub fn replace_program(&mut self, name: &str, path: &std::path::Path) {
        let dir = self.file("bin");
        if !dir.exists() {
            fs::create_dir(&dir).expect("directory of programs");
            for e in fs::read_dir(bin_dir()).expect("programs").flatten() {
                let file = e.file_name();
                let is_ours = file
                    .to_str()
                    .is_some_and(|n| n.starts_with("mars") && !n.contains('.'));
                if is_ours && e.path().is_file() {
                    symlink(e.path(), dir.join(file)).expect("link");
                }
            }
            self.vars
                .push(("MARS_BIN_DIR".to_string(), dir.display().to_string()));
        }
        let link = dir.join(name);
        fs::remove_file(&link).ok();
        symlink(path, &link).expect("link");
    }

    /// Puts rules in force (see `mars_faults::rules`); the empty text ends all faults.
    pub fn faults(&self, rules: &str) {
        mars_faults::switch(&self.file("faults"), rules).expect("rules");
    }

    /// Operations that were hit since the last call of [`Host::faults`], one line each.
    pub fn hits(&self) -> String {
        fs::read_to_string(self.file("faults.hits")).unwrap_or_default()
    }

    /// Waits until an operation was hit, as `LogSync` or `DiskFlush`.
    pub fn wait_hit(&self, op: &str) {
        self.wait_for(&format!("a fault of {op}"), || self.hits().contains(op));
    }

    /// Waits for something that no event tells of.
    pub fn wait_for(&self, what: &str, mut cond: impl FnMut() -> bool) {
        // The same line of a daemon is written once in 30 s, and its pauses grow.
        let end = Instant::now() + 2 * PATIENCE;
        while !cond() {
            assert!(
                Instant::now() < end,
                "{}: timeout waiting for {what}\n{}\n{}",
                self.env.host,
                self.run(&["view", "all"]).out,
                self.logs()
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Log of a unit.
    pub fn unit_log(&self, unit: &str) -> String {
        fs::read_to_string(self.env.run_dir.join("units").join(format!("{unit}.log")))
            .unwrap_or_default()
    }

    /// Path of a log file.
    pub fn log_path(&self, res: &str, log: &str) -> PathBuf {
        self.env.root.join(format!("resource-{res}")).join(log)
    }
}
