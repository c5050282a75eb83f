//! A private system bus for tests. Used by the tests of other crates, too.
#![allow(
    dead_code,
    missing_docs,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic
)]
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// How long anything may take before a test gives up. Not a measure of speed; but shorter than a heartbeat, which makes everything known
/// that nobody told.
const PATIENCE: Duration = Duration::from_secs(25);

/// The policy that is installed.
pub fn packaged_policy() -> String {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../packaging/dbus/org.storage.mars1.conf"
    );
    std::fs::read_to_string(path).unwrap()
}

/// What the administrator makes of it to let everybody read.
pub fn readers_policy() -> String {
    let text = packaged_policy();
    let lines: Vec<&str> = text
        .lines()
        .filter(|l| !l.contains("take this line away") && !l.contains("this line ends the block"))
        .collect();
    assert_eq!(lines.len() + 2, text.lines().count());
    lines.join("\n")
}

/// As if everything were allowed.
pub const OPEN_POLICY: &str = "<busconfig><policy context=\"mandatory\"><allow own=\"*\"/><allow send_destination=\"*\"/>\
    <allow send_type=\"method_call\"/><allow receive_type=\"signal\"/></policy></busconfig>";

/// What systems have as default: nobody may own anything or call anybody but the bus; root may monitor.
const SYSTEM: &str = "<policy context=\"default\"><allow user=\"*\"/><deny own=\"*\"/><deny send_type=\"method_call\"/>\
    <allow send_type=\"signal\"/><allow send_requested_reply=\"true\" send_type=\"method_return\"/>\
    <allow send_requested_reply=\"true\" send_type=\"error\"/><allow receive_type=\"method_call\"/><allow receive_type=\"method_return\"/>\
    <allow receive_type=\"error\"/><allow receive_type=\"signal\"/><allow send_destination=\"org.freedesktop.DBus\"/></policy>\
    <policy user=\"root\"><allow send_destination=\"org.freedesktop.DBus\" send_interface=\"org.freedesktop.DBus.Monitoring\"/></policy>";

/// The bus; gone with the value.
pub struct TestBus {
    dir: PathBuf,
    daemon: Option<Child>,
}

impl TestBus {
    /// Not running yet.
    pub fn new(policy: &str) -> TestBus {
        static NR: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let nr = NR.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let dir = std::env::temp_dir().join(format!("mars-test-bus-{}-{nr}", std::process::id()));
        std::fs::create_dir(&dir).unwrap();
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(0o755)).unwrap();
        std::fs::write(dir.join("mars.conf"), policy).unwrap();
        let config = format!(
            "<busconfig><type>system</type><listen>unix:path={0}/socket</listen><auth>EXTERNAL</auth>{SYSTEM}\
             <include>{0}/mars.conf</include></busconfig>",
            dir.display()
        );
        std::fs::write(dir.join("bus.conf"), config).unwrap();
        TestBus { dir, daemon: None }
    }

    /// Running.
    pub fn started(policy: &str) -> TestBus {
        let mut bus = TestBus::new(policy);
        bus.start();
        bus
    }

    pub fn start(&mut self) {
        assert!(self.daemon.is_none());
        let _ = std::fs::remove_file(self.dir.join("socket"));
        let mut daemon = Command::new("dbus-daemon")
            .arg(format!("--config-file={}/bus.conf", self.dir.display()))
            .args(["--nofork", "--nopidfile", "--nosyslog", "--print-address=1"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("dbus-daemon is needed for this test");
        let mut line = String::new();
        BufReader::new(daemon.stdout.take().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert!(line.starts_with("unix:"), "dbus-daemon: {line:?}");
        self.daemon = Some(daemon);
    }

    pub fn kill(&mut self) {
        if let Some(mut d) = self.daemon.take() {
            d.kill().unwrap();
            d.wait().unwrap();
        }
    }

    pub fn address(&self) -> String {
        format!("unix:path={}/socket", self.dir.display())
    }

    /// For the environment of a daemon.
    pub fn var(&self) -> (&'static str, String) {
        ("DBUS_SYSTEM_BUS_ADDRESS", self.address())
    }

    pub fn run(&self, program: &str, args: &[&str]) -> Output {
        Command::new(program)
            .args(args)
            .env("DBUS_SYSTEM_BUS_ADDRESS", self.address())
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|e| panic!("{program} is needed for this test: {e}"))
    }

    /// busctl; `Err`: what it said.
    pub fn busctl(&self, args: &[&str]) -> Result<String, String> {
        result(self.run("busctl", &[&["--system", "--no-pager"], args].concat()))
    }

    pub fn gdbus(&self, args: &[&str]) -> Result<String, String> {
        result(self.run("gdbus", args))
    }

    /// busctl of a user without rights.
    pub fn busctl_as_nobody(&self, args: &[&str]) -> Result<String, String> {
        self.as_nobody(&[&["busctl", "--system", "--no-pager"], args].concat())
    }

    /// A call by gdbus (which shows the text of errors) of a user without rights.
    pub fn gdbus_as_nobody(&self, name: &str, path: &str, call: &[&str]) -> Result<String, String> {
        let to = [
            "gdbus",
            "call",
            "--system",
            "--dest",
            name,
            "--object-path",
            path,
            "--method",
        ];
        self.as_nobody(&[&to, call].concat())
    }

    /// Only root can become somebody else.
    fn as_nobody(&self, args: &[&str]) -> Result<String, String> {
        assert!(
            nix::unistd::geteuid().is_root(),
            "this test must run as root"
        );
        let nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        result(self.run("setpriv", &[&nobody[..], args].concat()))
    }

    /// Waits until somebody has the name, by the bus's own signal.
    pub fn wait_name(&self, name: &str) {
        let mut monitor = self.monitor(&["monitor", "--system", "--dest", "org.freedesktop.DBus"]);
        while self
            .busctl(&[
                "call",
                "org.freedesktop.DBus",
                "/",
                "org.freedesktop.DBus",
                "GetNameOwner",
                "s",
                name,
            ])
            .is_err()
        {
            monitor.wait(|l| l.contains("NameOwnerChanged") && l.contains(name));
        }
    }

    /// A running `gdbus`; its lines can be read.
    pub fn monitor(&self, args: &[&str]) -> Monitor {
        let mut child = Command::new("gdbus")
            .args(args)
            .env("DBUS_SYSTEM_BUS_ADDRESS", self.address())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("gdbus is needed for this test");
        let out = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = mpsc::channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        let mut monitor = Monitor { child, lines };
        // It says so when it listens and knows the owner.
        monitor.wait(|l| l.contains("is owned by"));
        monitor
    }
}

fn result(out: Output) -> Result<String, String> {
    let text = |b: Vec<u8>| String::from_utf8_lossy(&b).trim().to_string();
    if out.status.success() {
        Ok(text(out.stdout))
    } else {
        Err(text(out.stderr))
    }
}

impl Drop for TestBus {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

pub struct Monitor {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Monitor {
    /// The next line that satisfies the condition.
    pub fn wait(&mut self, mut is_it: impl FnMut(&str) -> bool) -> String {
        loop {
            let line = self
                .lines
                .recv_timeout(PATIENCE)
                .expect("nobody told what the test waits for");
            if is_it(&line) {
                return line;
            }
        }
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Everything in real introspection data stands in the manual page with its type, and the other way round.
pub fn compare_with_manual(xml: &str, interface: &str) {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../man/org.storage.mars1.5");
    let page = std::fs::read_to_string(path).unwrap();
    let begin = page
        .find(&format!(".SH INTERFACE {interface}\n"))
        .unwrap_or_else(|| panic!("{interface} is not in the manual page"));
    let section = &page[begin..];
    let section = section[4..]
        .find("\n.SH ")
        .map_or(section, |end| &section[..end + 5]);
    let begin = xml
        .find(&format!("<interface name=\"{interface}\">"))
        .unwrap_or_else(|| panic!("{interface} is not in the introspection data: {xml}"));
    let own = &xml[begin..];
    let own = &own[..own.find("</interface>").unwrap()];
    let attribute = |line: &str, name: &str| {
        let from = line.find(&format!(" {name}=\""))? + name.len() + 3;
        Some(line[from..].split('"').next()?.to_string())
    };
    let mut real = Vec::new();
    // Tools may break lines in other places.
    for tag in own.split('<') {
        if tag.starts_with("property") {
            assert_eq!(attribute(tag, "access").as_deref(), Some("read"), "{tag}");
            let (name, ty) = (
                attribute(tag, "name").unwrap(),
                attribute(tag, "type").unwrap(),
            );
            real.push(format!(".BR {name} \" {ty}\""));
        } else if tag.starts_with("method") {
            real.push(format!(".BR {} \"()\"", attribute(tag, "name").unwrap()));
        } else if tag.starts_with("arg") {
            let method = real.last_mut().unwrap();
            let (ty, name) = (
                attribute(tag, "type").unwrap(),
                attribute(tag, "name").unwrap(),
            );
            *method = method.replace("()", &format!("({ty} {name})"));
        } else if tag.starts_with("signal") {
            panic!("a signal that the manual page does not know: {tag}");
        }
    }
    assert!(real.len() > 5, "{own}");
    let mut said: Vec<String> = section
        .lines()
        .filter(|l| l.starts_with(".BR "))
        .map(str::to_string)
        .collect();
    real.sort();
    said.sort();
    assert_eq!(said, real, "man/org.storage.mars1.5 and {interface} differ");
}
