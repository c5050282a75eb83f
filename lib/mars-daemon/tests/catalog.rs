//! The message catalog explains exactly the events that exist, and systemd can compile it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_daemon::events::Kind;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

const CATALOG: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../../packaging/catalog/mars.catalog"
);

#[derive(Debug, Default)]
struct Entry {
    headers: Vec<(String, String)>,
    body: Vec<String>,
}

impl Entry {
    fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter();
        all.find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }
}

/// `-- ID`, headers, an empty line, text. Comments stand between entries only.
fn parse(text: &str) -> BTreeMap<String, Entry> {
    let mut all = BTreeMap::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let id = line
            .strip_prefix("-- ")
            .unwrap_or_else(|| panic!("{line:?} is no beginning"));
        let mut entry = Entry::default();
        while let Some(header) = lines.next_if(|l| !l.is_empty()) {
            let (name, value) = header.split_once(": ").expect("Name: value");
            entry.headers.push((name.into(), value.into()));
        }
        while let Some(line) = lines.next_if(|l| !l.starts_with('#') && !l.starts_with("-- ")) {
            entry.body.push(line.to_string());
        }
        assert!(
            all.insert(id.to_string(), entry).is_none(),
            "{id} stands twice"
        );
    }
    all
}

fn catalog() -> BTreeMap<String, Entry> {
    parse(&std::fs::read_to_string(CATALOG).expect("the catalog"))
}

#[test]
fn catalog_explains_every_event_and_nothing_else() {
    let all = catalog();
    let known: Vec<&str> = all.keys().map(String::as_str).collect();
    let mut ids: Vec<&str> = Kind::ALL.iter().map(|k| k.id()).collect();
    ids.sort_unstable();
    assert_eq!(known, ids);
    for (id, e) in &all {
        let subject = e.header("Subject").expect("a subject");
        assert!(subject.len() > 10, "{id}: {subject}");
        assert_eq!(e.header("Defined-By"), Some("MARS"), "{id}");
        let text = e.body.join("\n");
        assert!(text.len() > 60, "{id} says next to nothing");
        assert!(e.body.iter().all(|l| l.len() <= 110), "{id}: long lines");
        for part in format!("{subject} {text}").split('@').skip(1).step_by(2) {
            assert!(
                ["MARS_RESOURCE", "MARS_PEER", "MARS_LOG"].contains(&part),
                "{id}: @{part}@ is no field of ours"
            );
        }
    }
}

/// An error without a way out is of no use: what needs a human names a command.
#[test]
fn catalog_errors_name_commands() {
    let all = catalog();
    for k in Kind::ALL {
        let needs_a_human = k.priority() == mars_daemon::Priority::Err;
        let text = all[k.id()].body.join("\n");
        assert!(
            !needs_a_human || text.contains("marsadm "),
            "{}: what to do?",
            k.name()
        );
    }
}

#[test]
fn catalog_is_compiled_by_systemd() {
    let root = tempfile::tempdir().unwrap();
    let dir = root.path().join("usr/lib/systemd/catalog");
    std::fs::create_dir_all(&dir).unwrap();
    std::fs::create_dir_all(root.path().join("var/lib/systemd/catalog")).unwrap();
    std::fs::copy(CATALOG, dir.join("mars.catalog")).unwrap();
    journalctl(root.path(), &["--update-catalog"]);
    let dump = journalctl(root.path(), &["--dump-catalog"]);
    for (id, e) in catalog() {
        assert!(dump.contains(&format!("-- {id}\n")), "{id}");
        assert!(dump.contains(e.header("Subject").unwrap()), "{id}");
    }
}

fn journalctl(root: &Path, args: &[&str]) -> String {
    let out = Command::new("journalctl")
        .arg(format!("--root={}", root.display()))
        .args(args)
        .output()
        .expect("journalctl (package systemd)");
    let text = String::from_utf8_lossy(&out.stdout).into_owned();
    let errors = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(
        out.status.success() && errors.is_empty(),
        "{args:?}: {errors}"
    );
    text
}
