//! Primitive macros over facts of this machine that are no links: mounts and status files.
use crate::Mount;
use crate::ctx::Ctx;

pub(crate) const LOCAL_MACROS: &[&str] = &[
    "get-log-status",
    "get-resource-err",
    "get-resource-err-count",
    "get-resource-fat",
    "get-resource-fat-count",
    "get-resource-wrn",
    "get-resource-wrn-count",
    "known-device-fstype",
    "known-device-mounted",
    "known-device-mountflags",
    "known-device-mountpoint",
];

/// Value of one of [`LOCAL_MACROS`]; of another host nothing is known.
pub(crate) fn local_macro(name: &str, c: &Ctx<'_>) -> String {
    if let Some(what) = name.strip_prefix("known-device-") {
        let mount = mount(c);
        return match what {
            "mounted" => u8::from(mount.is_some()).to_string(),
            "mountpoint" => mount.map_or("", |m| &m.dir).to_string(),
            "fstype" => mount.map_or("", |m| &m.fstype).to_string(),
            _ => mount.map_or("", |m| &m.flags).to_string(),
        };
    }
    if name == "get-log-status" {
        let file = format!("resource-{}/logstatus-{}.status", c.res, c.me());
        let text = files(c, |path| path == file);
        let serious = |l: &&str| l.contains("ERROR") || l.contains("WARN");
        return text.lines().filter(serious).collect::<Vec<_>>().join("\n");
    }
    let (class, count) = match name.strip_suffix("-count") {
        Some(n) => (n, true),
        None => (name, false),
    };
    let number = match class {
        "get-resource-fat" => "4.",
        "get-resource-err" => "3.",
        _ => "2.",
    };
    let dir = format!("resource-{}/{number}", c.res);
    let text = files(c, |path| path.starts_with(&dir));
    if count {
        text.lines().count().to_string()
    } else {
        text
    }
}

fn mount<'a>(c: &Ctx<'a>) -> Option<&'a Mount> {
    if c.me() != c.v.local {
        return None;
    }
    let device = c.device_path(c.me());
    c.scope.machine.mounts.iter().find(|m| m.device == device)
}

fn files(c: &Ctx<'_>, wanted: impl Fn(&str) -> bool) -> String {
    if c.me() != c.v.local {
        return String::new();
    }
    let all = &c.scope.machine.status_files;
    let texts: Vec<&str> = all
        .iter()
        .filter(|(path, _)| wanted(path))
        .map(|(_, text)| text.trim_end())
        .filter(|t| !t.is_empty())
        .collect();
    texts.join("\n")
}
