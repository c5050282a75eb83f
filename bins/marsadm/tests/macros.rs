//! `view` with macros of the user: search path, overriding, `--macro=`, writing macros out.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod common;
use common::{Host, Ran};
use std::fs;
use std::path::Path;

/// A host with one resource, and a directory for its macros.
struct Bench {
    host: Host,
    dir: tempfile::TempDir,
}

impl Bench {
    fn new() -> Bench {
        let dir = tempfile::tempdir().unwrap();
        let host = Host::new(dir.path(), "alpha");
        for daemon in ["mars-meta", "mars-logger", "mars-fetch", "mars-sync"] {
            host.stand_in(daemon, "exit 0");
        }
        host.ok(&["create-cluster", "--ip=127.0.0.2"]);
        let disk = host.disk("disk", 1 << 20);
        host.ok(&["create-resource", "data", &disk]);
        fs::create_dir(dir.path().join("macros")).unwrap();
        Bench { host, dir }
    }
    fn macros(&self) -> std::path::PathBuf {
        self.dir.path().join("macros")
    }
    fn write(&self, name: &str, text: &str) {
        fs::write(self.macros().join(format!("{name}.tpl")), text).unwrap();
    }
    fn run(&self, args: &[&str]) -> Ran {
        let mut c = self.host.command(args);
        c.env("MARS_PATH", self.macros())
            .current_dir(self.dir.path());
        c.output().unwrap().into()
    }
    fn ok(&self, args: &[&str]) -> String {
        let r = self.run(args);
        assert_eq!(r.code, 0, "{args:?}: {r:?}");
        r.out
    }
    fn refused(&self, args: &[&str], code: i32, words: &[&str]) {
        let r = self.run(args);
        assert_eq!(r.code, code, "{args:?}: {r:?}");
        let line = r
            .err
            .lines()
            .find(|l| l.starts_with("DYING: "))
            .unwrap_or_default();
        assert!(words.iter().all(|w| line.contains(w)), "{args:?}: {line}");
    }
}

#[test]
fn a_text_from_the_command_line() {
    let b = Bench::new();
    assert_eq!(
        b.ok(&[
            "view",
            "data",
            "--macro=%{res} on %{host}: %get-primary{}\\n%+{1}{2}"
        ]),
        "data on alpha: alpha\n3\n"
    );
    // For every resource, with the frame of view.
    assert_eq!(
        b.ok(&["view", "all", "--macro=<%{res}>"]),
        "--------- resource data\n<data>\n"
    );
    assert_eq!(
        b.ok(&[
            "view",
            "data",
            "--macro=%{cmd} %{0} %{resdir} %{threshold} %{window} %{force} %{dry-run}"
        ]),
        format!(
            "default default {}/resource-data 10485760 60 0 0\n",
            b.host.env.root.display()
        )
    );
    b.refused(
        &["view", "data", "--macro=a%die{gone}"],
        1,
        &["--macro:1:2: gone", "(in default)"],
    );
    b.refused(
        &["view", "data", "--macro=%nope{}"],
        1,
        &["unknown macro 'nope'"],
    );
    b.refused(
        &["view", "data", "--macro=%while{1}{}"],
        1,
        &["endless loop"],
    );
}

#[test]
fn macro_files_come_first() {
    let b = Bench::new();
    b.write("mine", "# my own\n%{0}(%{1}) \\\n    %diskstate{}\n");
    let r = b.run(&["view-mine", "data", "x"]);
    assert_eq!((r.out.as_str(), r.code), ("mine(x) UpToDate\n", 0), "{r:?}");
    assert!(!r.err.contains("using macro file"));
    b.write("diskstate", "Fine");
    let r = b.run(&["view-mine", "data", "x"]);
    assert_eq!(r.out, "mine(x) Fine\n");
    assert!(
        r.err.contains(&format!(
            "using macro file '{}/diskstate.tpl'",
            b.macros().display()
        )),
        "{}",
        r.err
    );
    assert_eq!(b.ok(&["view-dstate", "data"]), "Fine\n");
    assert!(b.ok(&["view", "data"]).contains(" Fine "));
    // Header, global part and footer of a macro of the user.
    b.write("mine-header", "top");
    b.write("mine-global", "whole");
    b.write("mine-footer", "bottom");
    assert_eq!(
        b.ok(&["view-mine", "all"]),
        "top\n--------- resource data\nmine() Fine\nwhole\nbottom\n"
    );
    b.write("broken", "ok\n  %call{mine}{%die{deep}}");
    b.refused(&["view-broken", "data"], 1, &["broken.tpl:2:15: deep"]);
    b.refused(
        &["view-nothing", "data"],
        2,
        &["cannot find macro", "nothing"],
    );
    b.refused(
        &["view-diskstat", "data"],
        2,
        &["did you mean", "diskstate"],
    );
}

#[test]
fn links_only_below_the_root() {
    let b = Bench::new();
    let root = b.host.env.root.display().to_string();
    b.ok(&[
        "view",
        "data",
        &format!("--macro=%setlink{{7}}{{{root}/resource-data/actual-alpha/msg-note}}"),
    ]);
    assert_eq!(
        b.ok(&[
            "view",
            "data",
            &format!("--macro=%readlink{{{root}/resource-data/actual-alpha/msg-note}}")
        ]),
        "7\n"
    );
    let glob = b.ok(&[
        "view",
        "data",
        &format!("--macro=%foreach-glob{{{root}/resource-data/prim*}}{{p}}{{<%{{p}}>}}"),
    ]);
    assert_eq!(glob, format!("<{root}/resource-data/primary>\n"));
    let before = b.host.everything();
    for path in [
        "/tmp/x".to_string(),
        format!("{root}/../x"),
        format!("{root}/a//b"),
        root,
    ] {
        b.refused(
            &["view", "data", &format!("--macro=%setlink{{7}}{{{path}}}")],
            1,
            &[&path],
        );
    }
    assert_eq!(before, b.host.everything());
}

#[test]
fn waiting_and_pausing() {
    let b = Bench::new();
    assert_eq!(
        b.ok(&[
            "view",
            "data",
            "--macro=%wait-todo-primary-on{}%wait_todo_attach_on{}done"
        ]),
        "done\n"
    );
    b.refused(
        &[
            "view",
            "data",
            "--timeout=0",
            "--macro=%wait-todo-primary-off{}",
        ],
        1,
        &["todo-primary-off"],
    );
    b.refused(
        &["view", "data", "--timeout=0", "--macro=%timeout{1}"],
        1,
        &["Timeout reached"],
    );
    assert_eq!(b.ok(&["view", "data", "--macro=%sleep{0.01}x"]), "x\n");
}

#[test]
fn macros_written_out_say_the_same() {
    let b = Bench::new();
    let dump = b.dir.path().join("dump");
    fs::create_dir(&dump).unwrap();
    let run_in = |args: &[&str], path: &Path| -> Ran {
        let mut c = b.host.command(args);
        c.env("MARS_PATH", path).current_dir(&dump);
        c.output().unwrap().into()
    };
    let empty = b.macros();
    assert_eq!(run_in(&["dump-all-macros"], &empty).code, 0);
    assert_eq!(run_in(&["dump-macros"], &empty).code, 0);
    assert!(dump.join("default.tpl").exists() && dump.join("default.tpl.old0").exists());
    assert!(dump.join("is-primary.tpl").exists() && !dump.join("is-primary.tpl.old0").exists());
    for view in [
        "view",
        "view-1and1",
        "view-flags",
        "view-is-primary",
        "view-replay-vector",
    ] {
        let (ours, files) = (
            run_in(&[view, "data"], &empty),
            run_in(&[view, "data"], &dump),
        );
        assert_eq!(
            (&ours.out, ours.code),
            (&files.out, files.code),
            "{view}: {files:?}"
        );
        assert!(files.err.contains("using macro file"), "{view}");
    }
    let text = run_in(&["prettyprint-flags"], &empty).out;
    assert_eq!(text, fs::read_to_string(dump.join("flags.tpl")).unwrap());
    b.refused(&["prettyprint-nothing"], 2, &["nothing"]);
    // No cluster is needed.
    let other = Host::new(b.dir.path(), "beta");
    let r: Ran = other
        .command(&["dump-macros", "--dry-run"])
        .current_dir(&dump)
        .output()
        .unwrap()
        .into();
    assert_eq!(r.code, 0, "{r:?}");
}
