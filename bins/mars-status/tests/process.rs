//! The program from outside: exit status, files, HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use mars_daemon::InstanceLock;
use mars_tree::{HostEnv, Stamp};
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

struct Host {
    dir: tempfile::TempDir,
    env: HostEnv,
    _engine: InstanceLock,
}

/// hostA, up-to-date secondary of the resource lv0.
const TREE: &[(&str, &str)] = &[
    ("uuid", "hostA_1700000000.123456789"),
    ("ips/ip-hostA", "127.46.0.1"),
    ("ips/ip-hostB", "127.46.0.2"),
    ("actual-hostA/tree", "0.1"),
    ("actual-hostA/emergency", "0"),
    ("actual-hostA/rest-space", "83"),
    ("actual-hostA/total-space", "92"),
    ("resource-lv0/size", "1048576"),
    ("resource-lv0/primary", "hostB"),
    ("resource-lv0/data-hostB", "/dev/vg/lv0"),
    ("resource-lv0/syncstatus-hostA", "1048576"),
    ("resource-lv0/replay-hostA", "log-000000001-hostB,0,0"),
    ("resource-lv0/replay-hostB", "log-000000001-hostB,0,0"),
    (
        "resource-lv0/version-000000001-hostA",
        "eae75bd0648f4b9f8ece4a07b4c47429,log-000000001-hostB,0:",
    ),
    (
        "resource-lv0/version-000000001-hostB",
        "eae75bd0648f4b9f8ece4a07b4c47429,log-000000001-hostB,0:",
    ),
    ("resource-lv0/todo-hostA/attach", "1"),
    ("resource-lv0/todo-hostA/connect", "1"),
    ("resource-lv0/todo-hostA/sync", "1"),
    ("resource-lv0/todo-hostA/allow-replay", "1"),
    ("resource-lv0/actual-hostA/is-attached", "1"),
    ("resource-lv0/actual-hostB/is-primary", "1"),
];

impl Host {
    fn new() -> Host {
        let dir = tempfile::tempdir().unwrap();
        let path = |n: &str| Some(dir.path().join(n).display().to_string());
        let env = HostEnv::from_vars(|k| match k {
            "MARS_ROOT" => path("mars"),
            "MARS_DEV_DIR" => path("dev"),
            "MARS_RUN_DIR" => path("run"),
            "MARS_ETC_DIR" => path("etc"),
            "MARS_HOST" => Some("hostA".into()),
            "MARS_UNIT_MANAGER" => Some("direct".into()),
            _ => None,
        })
        .unwrap();
        fs::create_dir_all(dir.path().join("mars")).unwrap();
        let engine = InstanceLock::acquire(&env, "meta", None).unwrap();
        let host = Host {
            dir,
            env,
            _engine: engine,
        };
        for (key, value) in TREE {
            host.set(key, value);
        }
        let disk = host.dir.path().join("disk.img");
        fs::write(&disk, [0; 512]).unwrap();
        host.set("resource-lv0/data-hostA", disk.to_str().unwrap());
        for h in ["hostA", "hostB"] {
            host.set(&format!("actual-{h}/time"), &Stamp::real_time().to_string());
        }
        host
    }
    fn set(&self, key: &str, value: &str) {
        let at = self.env.root.join(key);
        fs::create_dir_all(at.parent().unwrap()).unwrap();
        let _ = fs::remove_file(&at);
        symlink(value, at).unwrap();
    }
    fn command(&self, args: &[&str]) -> Command {
        let mut c = Command::new(env!("CARGO_BIN_EXE_mars-status"));
        c.args(args).stdin(Stdio::null()).env_remove("MARS_LOG");
        c.envs(self.env.to_vars());
        c
    }
    fn run(&self, args: &[&str]) -> (i32, String, String) {
        let Output {
            status,
            stdout,
            stderr,
        } = self.command(args).output().unwrap();
        let text = |b: Vec<u8>| String::from_utf8(b).unwrap();
        (status.code().unwrap(), text(stdout), text(stderr))
    }
    /// Path, target and times of everything in the tree.
    fn listing(&self) -> BTreeMap<String, String> {
        fn walk(dir: &Path, into: &mut BTreeMap<String, String>) {
            for e in fs::read_dir(dir).unwrap() {
                let e = e.unwrap();
                let meta = e.path().symlink_metadata().unwrap();
                let target = fs::read_link(e.path()).unwrap_or_default();
                let text = format!("{target:?} {} {}", meta.mtime(), meta.mtime_nsec());
                into.insert(e.path().display().to_string(), text);
                if meta.is_dir() {
                    walk(&e.path(), into);
                }
            }
        }
        let mut all = BTreeMap::new();
        walk(&self.env.root, &mut all);
        all
    }
}

#[test]
fn every_view_leaves_the_tree_alone() {
    let h = Host::new();
    let before = h.listing();
    for (args, words) in [
        (
            &[][..],
            &["-> check resource lv0", "Status  : UpToDate = (joined)"][..],
        ),
        (
            &["--ressource=lv0"],
            &["MARS Status - hostA", ", Resource: lv0"],
        ),
        (&["--history"], &["Logfile Version: 000000001 - Size: 0"]),
        (
            &["--system"],
            &[
                "-> Memory-Limit: is set to 20 %, current ",
                "-> Mars-Transaktion: running normaly",
            ],
        ),
        (&["--debug"], &["-> MARS WARNINGS:", "-> MARS ERRORS:"]),
        (&["--status", "--ascii"], &["+- lv0"]),
        (
            &["--monitor"],
            &["MARS OK: 1 resource is well | 'space_free'=90%;20:;10:;0;100"],
        ),
        (
            &["--dstate", "--resource", "lv0"],
            &["UpToDate [resource-lv0 on hostA]"],
        ),
        (&["--json"], &["\"schema_version\": 1"]),
        (&["--prometheus"], &["mars_up 1\n"]),
        (&["--help"], &["--monitor", "Exit status"]),
        (&["--version"], &[env!("CARGO_PKG_VERSION")]),
        (&["-v"], &[env!("CARGO_PKG_VERSION")]),
    ] {
        let (code, out, err) = h.run(args);
        assert_eq!((code, err.as_str()), (0, ""), "{args:?}: {out}");
        for w in words {
            assert!(out.contains(w), "{args:?}: {w:?} is missing:\n{out}");
        }
        assert!(
            !out.contains('\x1b'),
            "{args:?}: colours without a terminal"
        );
    }
    assert_eq!(h.listing(), before);
}

#[test]
fn misuse_is_one_line_and_status_3() {
    let h = Host::new();
    let long = "x".repeat(5000);
    for (args, words) in [
        (&["--cstate"][..], "need a resource"),
        (&["--dstate"], "need a resource"),
        (&["--role", "--monitor"], "need a resource"),
        (
            &["--resource", "nothing"],
            "there is no resource nothing (known: lv0)",
        ),
        (
            &["--resource", "nothing", "--monitor"],
            "there is no resource nothing",
        ),
        (&["--resource", "a b"], "a b"),
        (&["--resource", "../x"], "../x"),
        (&["--resource", &long], "resource"),
        (&["--nonsense"], "--nonsense"),
        (&["--output", "/tmp/x"], "--prometheus"),
        (&["--interval", "0"], "0"),
        (&["--http"], "mars-status.socket"),
    ] {
        let (code, out, err) = h.run(args);
        assert_eq!(code, 3, "{args:?}: {out}{err}");
        // Nagios reads standard output.
        let said = if args.contains(&"--monitor") {
            assert!(out.starts_with("MARS UNKNOWN: "), "{out}");
            out
        } else {
            assert_eq!(out, "", "{args:?}");
            err
        };
        assert!(said.contains(words), "{args:?}: {said}");
    }
    let (_, _, err) = h.run(&["--resource", "nothing"]);
    assert_eq!(err.lines().count(), 1, "{err}");
}

#[test]
fn no_tree_and_other_versions() {
    let h = Host::new();
    h.set("actual-hostA/tree", "0.2");
    let (code, out, err) = h.run(&[]);
    assert!(
        code == 1 && out.is_empty() && err.contains("version 0.2, not 0.1"),
        "{err}"
    );
    let (code, out, _) = h.run(&["--monitor"]);
    assert!(code == 3 && out.starts_with("MARS UNKNOWN: "), "{out}");
    fs::remove_file(h.env.root.join("uuid")).unwrap();
    let (code, _, err) = h.run(&[]);
    assert!(code == 3 && err.contains("in no cluster"), "{err}");
    fs::remove_dir_all(&h.env.root).unwrap();
    let (code, out, err) = h.run(&["--prometheus"]);
    assert!(code == 3 && out.ends_with("\nmars_up 0\n"), "{out}{err}");
    let (code, out, _) = h.run(&["--monitor"]);
    assert!(code == 3 && out.starts_with("MARS UNKNOWN: "), "{out}");
}

#[test]
fn output_file_is_replaced_in_one_step() {
    let h = Host::new();
    let dir = h.dir.path().join("textfile");
    fs::create_dir(&dir).unwrap();
    let file = dir.join("mars.prom");
    let path = file.to_str().unwrap();
    fs::write(&file, "old\n").unwrap();
    let old = fs::File::open(&file).unwrap();
    let (code, out, err) = h.run(&["--prometheus", "--output", path]);
    assert_eq!((code, out.as_str(), err.as_str()), (0, "", ""));
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.starts_with("# HELP mars_up ")
            && text.contains("\nmars_split_brain{resource=\"lv0\"} 0\n")
    );
    // Another file took its place: who had it open still reads the old text, whole.
    assert_ne!(
        old.metadata().unwrap().ino(),
        file.metadata().unwrap().ino()
    );
    assert_eq!(file.metadata().unwrap().mode() & 0o777, 0o644);
    let names = || fs::read_dir(&dir).unwrap().count();
    assert_eq!(names(), 1);
    // What cannot be read is told, too: yesterday's figures would be worse.
    fs::remove_file(h.env.root.join("uuid")).unwrap();
    let (code, _, err) = h.run(&["--prometheus", "--output", path]);
    assert!(code == 3 && err.contains("in no cluster"), "{err}");
    assert!(
        fs::read_to_string(&file)
            .unwrap()
            .ends_with("\nmars_up 0\n")
    );
    let (code, _, err) = h.run(&["--prometheus", "--output", dir.to_str().unwrap()]);
    assert!(code == 3 && err.lines().count() == 2, "{err}");
    let (code, _, err) = h.run(&["--prometheus", "--output", "/nonexistent/x.prom"]);
    assert!(code == 3 && err.contains("/nonexistent/x.prom"), "{err}");
    assert_eq!(names(), 1);
}

/// One connection as systemd hands it over; what came back.
fn http(h: &Host, listener: &TcpListener, request: &[u8]) -> String {
    let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let (server, _) = listener.accept().unwrap();
    let mut child = h
        .command(&["--http"])
        .stdin(Stdio::from(OwnedFd::from(server)))
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    // The other side may answer and close before it has read everything.
    let _ = client.write_all(request);
    let mut answer = Vec::new();
    let _ = client.read_to_end(&mut answer);
    assert!(child.wait().unwrap().success());
    String::from_utf8(answer).unwrap()
}

#[test]
fn http_answers_one_request() {
    let h = Host::new();
    let before = h.listing();
    let listener = TcpListener::bind("127.46.0.1:0").unwrap();
    let ask = |text: &str| http(&h, &listener, text.as_bytes());
    let answer = ask("GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: */*\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.0 200 OK\r\n"), "{head}");
    assert!(
        head.contains("Content-Type: text/plain; version=0.0.4"),
        "{head}"
    );
    assert!(
        head.contains(&format!("Content-Length: {}\r\n", body.len())),
        "{head}"
    );
    assert!(
        body.contains("\nmars_lag_seconds{resource=\"lv0\",host=\"hostA\",self=\"1\"} 0\n"),
        "{body}"
    );
    assert!(ask("HEAD /metrics HTTP/1.0\r\n\r\n").ends_with("\r\n\r\n"));
    assert!(ask("GET / HTTP/1.0\r\n\r\n").contains("/metrics"));
    assert!(ask("GET /etc/passwd HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 404 "));
    assert!(ask("DELETE /metrics HTTP/1.0\r\n\r\n").starts_with("HTTP/1.0 405 "));
    assert!(ask("\x16\x03\x01nonsense\r\n\r\n").starts_with("HTTP/1.0 400 "));
    // Who never finishes is answered in the end.
    assert!(ask("GET /metrics HTTP/1.0\r\nX: y").starts_with("HTTP/1.0 408 "));
    let endless = [b"GET /metrics HTTP/1.0\r\n".to_vec(), vec![b'x'; 64 << 10]].concat();
    let answer = http(&h, &listener, &endless);
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.0 431 "),
        "{answer}"
    );
    // Without a tree it says so.
    fs::rename(&h.env.root, h.dir.path().join("gone")).unwrap();
    assert!(ask("GET /metrics HTTP/1.0\r\n\r\n").ends_with("\nmars_up 0\n"));
    fs::rename(h.dir.path().join("gone"), &h.env.root).unwrap();
    assert_eq!(h.listing(), before);
}

#[test]
fn interval_goes_on_until_it_is_interrupted() {
    let h = Host::new();
    let mut child = h
        .command(&["--interval=1", "--monitor"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut out = child.stdout.take().unwrap();
    let mut seen = String::new();
    let mut buf = [0; 4096];
    while seen.matches("MARS OK").count() < 2 {
        let n = out.read(&mut buf).unwrap();
        assert!(n > 0, "{seen}");
        seen.push_str(&String::from_utf8_lossy(&buf[..n]));
    }
    child.kill().unwrap();
    child.wait().unwrap();
}
