//! Several resources, phases, hooks and the options that belong to them (marsadm-commands.md 1.1, 1.3, 1.6, 1.7).
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::{Host, Ran};
use mars_tree::{Batch, Key};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// A host with stand-ins for the daemons and three resources of its own.
struct Three(Host);

impl Three {
    fn new(dir: &Path) -> Three {
        let h = Host::new(dir, "alpha");
        for program in [
            "mars-meta",
            "mars-fetch",
            "mars-sync",
            "mars-logger",
            "mars-replay",
        ] {
            h.stand_in(program, "exec sleep 1000");
        }
        h.ok(&["create-cluster", "--ip=127.43.3.2"]);
        fs::write(h.env.run_dir.join("meta.settled"), "").unwrap();
        for name in ["r10", "r2", "r1"] {
            h.ok(&["create-resource", name, &h.disk(name, 1 << 20)]);
        }
        Three(h)
    }

    /// With a search path of its own for hooks.
    fn run(&self, args: &[&str]) -> Ran {
        let mut c = self.0.command(args);
        c.env("MARS_PATH", self.hooks());
        c.output().unwrap().into()
    }

    fn hooks(&self) -> PathBuf {
        self.0.dir.join("hooks")
    }

    /// A hook that notes what it is called with.
    fn hook(&self, name: &str, script: &str) -> PathBuf {
        let path = self.hooks().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let log = self.0.dir.join("hook.log");
        let text = format!(
            "#!/bin/sh\necho \"{name}: $* $MARS_HOOK $MARS_HOOK_STATUS\" >> {}\n{script}\n",
            log.display()
        );
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    /// What the hooks noted since the last call.
    fn noted(&self) -> Vec<String> {
        let path = self.0.dir.join("hook.log");
        let text = fs::read_to_string(&path).unwrap_or_default();
        let _ = fs::remove_file(&path);
        text.lines().map(|l| l.trim_end().to_string()).collect()
    }

    fn set(&self, path: &str, value: &str) {
        let mut b = Batch::new();
        b.set(Key::parse(path), value);
        self.0.tree().commit(&b).unwrap();
    }

    fn switch(&self, res: &str, name: &str) -> bool {
        let key = Key::parse(&format!("resource-{res}/todo-alpha/{name}"));
        self.0.tree().text(&key).unwrap().as_deref() == Some("1")
    }
}

impl Drop for Three {
    fn drop(&mut self) {
        let _ = self.0.run(&["stop"]);
    }
}

#[test]
fn phases_have_barriers_and_a_failed_resource_is_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let t = Three::new(dir.path());
    t.set("resource-r2/actual-alpha/open-count", "1");
    let r = t.run(&["down", "all"]);
    assert_eq!(r.code, 1, "{r:?}");
    let lines: Vec<&str> = r
        .out
        .lines()
        .filter(|l| l.starts_with('-') || l.starts_with("FAILURE"))
        .collect();
    assert_eq!(
        lines,
        [
            "-------- PHASE 1 -------- set the switches:",
            "--------- resource r1 1.000 MiB [1/3]",
            "--------- resource r2 1.000 MiB [2/3]",
            "FAILURE cmd='down' res='r2'",
            "--------- resource r10 1.000 MiB [3/3]",
            "-------- PHASE 2 -------- wait until it is so:",
            "--------- resource r1 1.000 MiB [1/3]",
            "--------- resource r10 1.000 MiB [3/3]",
        ],
        "{r:?}"
    );
    assert_eq!(
        ["r1", "r2", "r10"].map(|res| t.switch(res, "attach")),
        [false, true, false]
    );
    // A list is sorted, too; `log-*` is quiet unless verbose.
    let r = t.run(&["pause-sync", "r10,r2,r10"]);
    let order: Vec<&str> = r.out.lines().filter(|l| l.starts_with('-')).collect();
    assert_eq!(
        order,
        [
            "--------- resource r2 1.000 MiB [1/2]",
            "--------- resource r10 1.000 MiB [2/2]"
        ]
    );
    assert_eq!(t.run(&["log-delete", "all"]).out, "");
    assert!(
        t.run(&["log-delete", "all", "-v"])
            .out
            .contains("r10 1.000")
    );
    // One resource: no header, no phases.
    let r = t.run(&["up", "r1"]);
    assert!(!r.out.contains("--------"), "{r:?}");
    assert_eq!(r.code, 0);
}

#[test]
fn phases_fail_where_they_shall() {
    let dir = tempfile::tempdir().unwrap();
    let t = Three::new(dir.path());
    let before = t.0.everything();
    let r = t.run(&["secondary", "r1,r2", "--error-injection-phase=1"]);
    assert_eq!(r.code, 1, "{r:?}");
    assert_eq!(r.out.matches("FAILURE cmd='secondary'").count(), 2, "{r:?}");
    assert!(r.err.contains("phase 1"), "{r:?}");
    assert_eq!(t.0.everything(), before);
    // In the last phase of `down` the switches are off already.
    let r = t.run(&["down", "r1", "--error-injection-phase=2"]);
    assert_eq!(r.code, 1, "{r:?}");
    assert!(!t.switch("r1", "attach"));
    // Nobody can answer.
    let before = t.0.everything();
    let r = t.run(&["secondary", "r2", "--singlestep"]);
    assert_eq!(r.code, 2, "{r:?}");
    assert!(r.err.contains("--singlestep"), "{r:?}");
    assert_eq!(t.0.everything(), before);
}

#[test]
fn single_steps_are_asked_for_on_a_terminal() {
    let dir = tempfile::tempdir().unwrap();
    let t = Three::new(dir.path());
    let step = |res: &str, keys: &str| -> Ran {
        let line = format!(
            "{} down {res} --singlestep; echo status $?",
            env!("CARGO_BIN_EXE_marsadm")
        );
        let mut c = t.0.command(&[]);
        let mut script = std::process::Command::new("script");
        script.args(["-qec", &line, "/dev/null"]);
        for (k, v) in c.get_envs() {
            if let Some(v) = v {
                script.env(k, v);
            }
        }
        script.env("MARS_PATH", t.hooks());
        script.stdin(std::process::Stdio::piped());
        script.stdout(std::process::Stdio::piped());
        let mut child = script.spawn().unwrap();
        use std::io::Write;
        child
            .stdin
            .take()
            .unwrap()
            .write_all(keys.as_bytes())
            .unwrap();
        c.env_clear();
        child.wait_with_output().unwrap().into()
    };
    let r = step("r1", "\n\n");
    assert!(r.out.contains("status 0"), "{r:?}");
    assert!(r.out.contains("RETURN begins phase 2"), "{r:?}");
    assert!(!t.switch("r1", "attach"));
    // The end of the input stops before the first phase.
    let r = step("r2", "\u{4}");
    assert!(
        r.out.contains("status 1") && r.out.contains("before phase 1"),
        "{r:?}"
    );
    assert!(t.switch("r2", "attach"));
}

#[test]
fn parallel_work_is_at_once_and_its_output_stays_together() {
    let dir = tempfile::tempdir().unwrap();
    let t = Three::new(dir.path());
    // Each waits for the others: one after the other they would never end well.
    t.hook(
        "hook-pre-pause-replay",
        "cd \"${0%/*}\"; echo begin $2; : > seen-$2; n=0\n\
         while [ $(ls seen-* | wc -l) -lt 3 ]; do n=$((n+1)); [ $n -gt 400 ] && exit 9; sleep 0.05; done; echo end $2",
    );
    let r = t.run(&["pause-replay", "all", "--parallel"]);
    assert_eq!(r.code, 0, "{r:?}");
    for (at, res) in ["r1", "r2", "r10"].into_iter().enumerate() {
        let block = format!(
            "--------- resource {res} 1.000 MiB [{}/3]\nbegin {res}\nend {res}\n{res}: replay deactivated on alpha\n",
            at + 1
        );
        assert!(r.out.contains(&block), "{res}: {r:?}");
    }
    assert!(!t.switch("r10", "allow-replay"));
    // A failure is told where it belongs.
    t.set("resource-r2/actual-alpha/open-count", "1");
    let r = t.run(&["detach", "all", "--parallel=2"]);
    assert_eq!(r.code, 1, "{r:?}");
    assert!(r.out.contains("FAILURE cmd='detach' res='r2'"), "{r:?}");
    assert_eq!(
        ["r1", "r2", "r10"].map(|res| t.switch(res, "attach")),
        [false, true, false]
    );
}

#[test]
fn hooks_run_in_order_around_every_resource() {
    let dir = tempfile::tempdir().unwrap();
    let t = Three::new(dir.path());
    for name in [
        "hook-pre",
        "hook-pre-pause-sync",
        "hook-pre-pause-sync.d/b",
        "hook-pre-pause-sync.d/a",
        "hook-pre.d/z",
        "hook-post",
        "hook-all-pre",
        "hook-all-post-pause-sync",
    ] {
        t.hook(name, "echo from hook");
    }
    let r = t.run(&["pause-sync", "r2,r1"]);
    assert_eq!(r.code, 0, "{r:?}");
    assert!(r.out.contains("from hook\n"), "{r:?}");
    let one = |res: &str| {
        [
            "hook-pre-pause-sync: pause-sync RES pre",
            "hook-pre-pause-sync.d/a: pause-sync RES pre",
            "hook-pre-pause-sync.d/b: pause-sync RES pre",
            "hook-pre: pause-sync RES pre",
            "hook-pre.d/z: pause-sync RES pre",
            "hook-post: pause-sync RES post 0",
        ]
        .map(|l| l.replace("RES", res))
        .to_vec()
    };
    let mut expected = vec!["hook-all-pre: pause-sync r2,r1 all-pre".to_string()];
    // The links of all are set before anything is waited for; then each ends.
    let (a, b) = (one("r1"), one("r2"));
    expected.extend_from_slice(&a[..5]);
    expected.extend_from_slice(&b[..5]);
    expected.extend([a[5].clone(), b[5].clone()]);
    expected.push("hook-all-post-pause-sync: pause-sync r2,r1 all-post 0".into());
    assert_eq!(t.noted(), expected);
    // Who only looks calls no hooks; --dry-run only names them.
    t.run(&["role", "r1"]);
    t.run(&["get-systemd-want", "r1"]);
    t.run(&["view", "r1"]);
    let r = t.run(&["resume-fetch", "r1", "--dry-run"]);
    assert!(
        r.out.contains("would run") && r.out.contains("hook-pre"),
        "{r:?}"
    );
    assert_eq!(t.noted(), Vec::<String>::new());
    // Commands without resources have them, too; arguments are words, whatever is in them.
    let r = t.run(&["wait-resource", "r1", "$(id)"]);
    assert_eq!(r.code, 2, "{r:?}");
    let noted = t.noted();
    assert_eq!(
        noted.first().unwrap(),
        "hook-pre: wait-resource r1 $(id) pre"
    );
    assert_eq!(
        noted.last().unwrap(),
        "hook-post: wait-resource r1 $(id) post 2"
    );
    t.run(&["cron"]);
    assert_eq!(t.noted().len(), 3);
}

#[test]
fn hooks_that_fail_stop_their_resource() {
    let dir = tempfile::tempdir().unwrap();
    let t = Three::new(dir.path());
    t.hook("hook-pre-detach", "[ $2 != r2 ] || exit 7");
    t.hook("hook-post", "exit 1");
    let r = t.run(&["detach", "all"]);
    assert_eq!(r.code, 1, "{r:?}");
    assert!(
        r.err.contains("hook-pre-detach") && r.err.contains('7') && r.err.contains("--force"),
        "{r:?}"
    );
    assert!(r.out.contains("FAILURE cmd='detach' res='r2'"), "{r:?}");
    assert_eq!(
        ["r1", "r2", "r10"].map(|res| t.switch(res, "attach")),
        [false, true, false]
    );
    assert!(t.noted().contains(&"hook-post: detach r2 post 1".into()));
    let r = t.run(&["--force", "detach", "r2"]);
    assert_eq!(r.code, 0, "{r:?}");
    assert!(r.err.contains("going on"), "{r:?}");
    assert!(!t.switch("r2", "attach"));
    // Before all: nothing is begun.
    t.hook("hook-all-pre", "exit 1");
    let before = t.0.everything();
    let r = t.run(&["up", "all"]);
    assert_eq!(r.code, 1, "{r:?}");
    assert_eq!(t.0.everything(), before);
}

#[test]
fn hooks_that_others_could_have_written_are_not_run() {
    let dir = tempfile::tempdir().unwrap();
    let t = Three::new(dir.path());
    let mode = |path: &Path, mode| {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let hook = t.hook("hook-pre", "exit 1");
    for (file, dir, why) in [
        (0o777, 0o755, "777"),
        (0o755, 0o1777, "1777"),
        (0o644, 0o755, "no executable"),
    ] {
        mode(&hook, file);
        mode(&t.hooks(), dir);
        let r = t.run(&["pause-sync", "r1"]);
        assert_eq!(r.code, 0, "{r:?}");
        assert!(
            r.err.contains("not run") && r.err.contains(why) && r.err.contains("hook-pre"),
            "{r:?}"
        );
        assert_eq!(t.noted(), Vec::<String>::new());
    }
    // Nor through a link from a trusted directory.
    mode(&t.hooks(), 0o755);
    let loose = t.0.dir.join("loose");
    fs::create_dir(&loose).unwrap();
    mode(&loose, 0o777);
    fs::rename(&hook, loose.join("x")).unwrap();
    mode(&loose.join("x"), 0o755);
    std::os::unix::fs::symlink(loose.join("x"), &hook).unwrap();
    let r = t.run(&["pause-sync", "r1"]);
    assert_eq!(r.code, 0, "{r:?}");
    assert!(r.err.contains("loose"), "{r:?}");
    mode(&loose, 0o755);
    assert_eq!(t.run(&["pause-sync", "r1"]).code, 1);
}

#[test]
fn options_of_old_scripts_have_their_effect() {
    let dir = tempfile::tempdir().unwrap();
    let t = Three::new(dir.path());
    let r = t.run(&["pause-sync", "r1", "--delete-method=1", "--max-deletions=9"]);
    assert_eq!(r.code, 0, "{r:?}");
    for option in ["--delete-method", "--max-deletions"] {
        assert!(r.err.contains(&format!("{option} is obsolete")), "{r:?}");
    }
    // A line per command that changes something, also for failures; never for looking.
    let log = t.0.dir.join("syslog");
    t.0.stand_in("logger", &format!("echo \"$@\" >> {}", log.display()));
    let logger = format!("--logger={}", dir.path().join("bin/logger").display());
    for args in [&["pause-sync", "r1"][..], &["view", "r1"], &["version"]] {
        assert_eq!(t.run(&[args, &[logger.as_str()]].concat()).code, 0);
    }
    t.set("resource-r2/actual-alpha/open-count", "1");
    assert_eq!(t.run(&["detach", "r2", &logger]).code, 1);
    let text = fs::read_to_string(&log).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!(lines[0], "-t marsadm -- marsadm pause-sync r1: done");
    assert!(lines[1].contains("detach r2: ") && lines[1].contains("opened 1 times"));
    assert_eq!(lines.len(), 2, "{text}");
    let r = t.run(&["pause-sync", "r1", "--logger=/no/such"]);
    assert_eq!(r.code, 0, "{r:?}");
    assert!(r.err.contains("/no/such"), "{r:?}");
    let r = t.run(&["pause-sync", "r1", "--logger="]);
    assert!(r.code == 0 && !r.err.contains("syslog"), "{r:?}");
    // Made at once, but not by a dry run.
    let backup = t.0.dir.join("backup/here");
    let option = format!("--backup-dir={}", backup.display());
    assert_eq!(t.run(&["pause-sync", "r1", &option, "--dry-run"]).code, 0);
    assert!(!backup.exists());
    assert_eq!(t.run(&["pause-sync", "r1", &option]).code, 0);
    assert_eq!(
        fs::metadata(&backup).unwrap().permissions().mode() & 0o777,
        0o700
    );
    // --force with all is allowed, with a warning.
    let r = t.run(&["force-pause-sync", "all"]);
    assert_eq!(r.code, 0, "{r:?}");
    assert!(r.err.contains("all 3 resources"), "{r:?}");
    // Acting as another host.
    t.set("ips/ip-beta", "127.43.3.3");
    let r = t.run(&[
        "--host=beta",
        "set-link",
        "x",
        &t.0.env.root.join("userspace/y").display().to_string(),
    ]);
    assert_eq!(r.code, 0, "{r:?}");
    let lines: Vec<&str> = r.err.lines().collect();
    assert!(
        lines[0].starts_with("ATTENTION: acting as host beta"),
        "{r:?}"
    );
    assert_eq!(
        lines.iter().filter(|l| l.starts_with("WARNING")).count(),
        2,
        "{r:?}"
    );
    let r = t.run(&["--host=gamma", "role", "r1"]);
    assert_eq!(r.code, 1, "{r:?}");
    assert!(r.err.contains("gamma"), "{r:?}");
}

#[test]
fn checks_come_in_their_order() {
    let dir = tempfile::tempdir().unwrap();
    let h = Host::new(dir.path(), "alpha");
    // No cluster is told before a wrong argument; a wrong word before everything.
    let r = h.run(&["primary"]);
    assert_eq!(r.code, 1, "{r:?}");
    assert!(
        r.err.contains("create-cluster") && r.err.contains("join-cluster"),
        "{r:?}"
    );
    assert_eq!(h.run(&["primry"]).code, 2);
    let t = Three::new(dir.path());
    assert_eq!(t.run(&["primary"]).code, 2);
    fs::set_permissions(&t.0.env.root, fs::Permissions::from_mode(0o755)).unwrap();
    let r = t.run(&["role", "r1"]);
    assert!(
        r.code == 0 && r.err.contains("755") && r.err.contains("700"),
        "{r:?}"
    );
    assert_eq!(t.run(&["role", "r1"]).err, "");
    t.set("actual-alpha/tree", "0.9");
    let r = t.run(&["primary"]);
    assert_eq!(r.code, 2, "{r:?}");
    let r = t.run(&["pause-sync", "r1"]);
    assert!(r.code == 1 && r.err.contains("upgrade the tool"), "{r:?}");
}
