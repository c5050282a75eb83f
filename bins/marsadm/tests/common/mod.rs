//! A host in a temporary directory, without daemons.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, dead_code)]
use mars_daemon::InstanceLock;
use mars_tree::{HostEnv, Tree};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// What a command did.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ran {
    fn from(o: Output) -> Ran {
        Ran {
            code: o.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&o.stdout).into_owned(),
            err: String::from_utf8_lossy(&o.stderr).into_owned(),
        }
    }
}

pub struct Host {
    pub dir: PathBuf,
    pub env: HostEnv,
}

impl Host {
    /// `parent/name` with an empty root directory. Its daemons are scripts that stand in `parent/bin`.
    pub fn new(parent: &Path, name: &str) -> Host {
        let dir = parent.join(name);
        fs::create_dir_all(dir.join("mars")).unwrap();
        fs::create_dir_all(parent.join("bin")).unwrap();
        fs::set_permissions(dir.join("mars"), fs::Permissions::from_mode(0o700)).unwrap();
        let path = |n: &str| Some(dir.join(n).display().to_string());
        let env = HostEnv::from_vars(|k| match k {
            "MARS_ROOT" => path("mars"),
            "MARS_DEV_DIR" => path("dev"),
            "MARS_RUN_DIR" => path("run"),
            "MARS_ETC_DIR" => path("etc"),
            "MARS_HOST" => Some(name.to_string()),
            "MARS_UNIT_MANAGER" => Some("direct".into()),
            _ => None,
        })
        .unwrap();
        Host { dir, env }
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_marsadm"));
        c.args(args).stdin(Stdio::null()).env_remove("MARS_LOG");
        c.env("MARS_BIN_DIR", self.dir.parent().unwrap().join("bin"));
        c.envs(self.env.to_vars());
        c
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        self.command(args).output().unwrap().into()
    }

    pub fn ok(&self, args: &[&str]) -> String {
        let r = self.run(args);
        assert_eq!(r.code, 0, "marsadm {args:?}: {r:?}");
        r.out
    }

    pub fn tree(&self) -> Tree {
        Tree::open(&self.env).unwrap()
    }

    /// As if `mars-meta` ran.
    pub fn pretend_engine(&self) -> InstanceLock {
        InstanceLock::acquire(&self.env, "meta", None).unwrap()
    }

    /// Writes a program that stands in for a daemon.
    pub fn stand_in(&self, program: &str, script: &str) {
        let path = self.dir.parent().unwrap().join("bin").join(program);
        fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// A sparse file.
    pub fn disk(&self, name: &str, bytes: u64) -> String {
        let path = self.dir.join(name);
        fs::File::create(&path).unwrap().set_len(bytes).unwrap();
        path.display().to_string()
    }

    /// Everything below the root: path -> target, stamp, size. The lock file apart.
    pub fn everything(&self) -> BTreeMap<String, (String, i64, i64, u64)> {
        let mut all = BTreeMap::new();
        let mut dirs = vec![self.env.root.clone()];
        while let Some(dir) = dirs.pop() {
            let Ok(entries) = fs::read_dir(&dir) else {
                continue;
            };
            for e in entries.flatten() {
                let path = e.path();
                let meta = fs::symlink_metadata(&path).unwrap();
                let name = path
                    .strip_prefix(&self.env.root)
                    .unwrap()
                    .display()
                    .to_string();
                if name == ".lock" {
                    continue;
                }
                let target = fs::read_link(&path)
                    .map(|t| t.display().to_string())
                    .unwrap_or_default();
                if meta.is_dir() {
                    dirs.push(path);
                    all.insert(name, (target, 0, 0, 0));
                } else {
                    all.insert(name, (target, meta.mtime(), meta.mtime_nsec(), meta.size()));
                }
            }
        }
        all
    }
}
