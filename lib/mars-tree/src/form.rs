//! Which form a key demands of its value. A value of another form is damaged: reported, and treated as absent.
use crate::value::canonical;
use crate::{HostName, Key, MessageValue, ReplayPos, Stamp, Value, VersionLink};
use std::net::IpAddr;

/// Has the live value of `key` the form that symlink-tree.md section 1 demands? Keys without a rule may hold anything.
pub(crate) fn has_form(key: &Key, value: &Value) -> bool {
    if free(key) {
        return true;
    }
    let Some(text) = value.as_str() else {
        return false;
    };
    match key {
        Key::Uuid => {
            text == "(any)"
                || text
                    .rsplit_once('_')
                    .is_some_and(|(host, ts)| printable(host) && stamp(ts))
        }
        Key::Ip(_) => text.parse::<IpAddr>().is_ok(),
        Key::Default(n) | Key::HostDefault(_, n) | Key::ResDefault(_, n) => default(n, text),
        Key::ResHostDefault(_, _, n) => default(n, text),
        Key::HostActual(_, n) => host_actual(n, text),
        Key::Size(_) | Key::MaxNr(_) | Key::ActSize(..) | Key::SyncStatus(..) => number(text),
        Key::Primary(_) => host_or_none(text),
        Key::Systemd(_, n) if n == "want" => host_or_none(text),
        Key::Data(..) => text.starts_with('/') && printable(text),
        Key::Device(..) => text == "(none)" || device(text),
        Key::Replay(..) | Key::SyncPos(..) => text.parse::<ReplayPos>().is_ok(),
        Key::Version(_, nr, _) => text
            .parse::<VersionLink>()
            .is_ok_and(|v| v.head.log.nr == *nr),
        Key::VerifyStatus(..) => text
            .split_once(',')
            .is_some_and(|(ok, bad)| number(ok) && number(bad)),
        Key::SyncFrom(..) => host_or_none(text),
        Key::SkipCheck(..) => text.starts_with(|c: char| c.is_ascii_digit()) && printable(text),
        Key::Todo(..) => integer(text),
        Key::TodoOther(_, _, n) => n != "emergency-limit" || number(text),
        Key::Actual(_, _, n) => actual(n, text),
        // Only a tombstone may be a link there.
        Key::Log(..) => false,
        _ => printable(text),
    }
}

/// Is this the place of a link that has a rule? A directory or a file there is damage, apart from those that the tree has on purpose.
pub(crate) fn is_place_of_link(path: &str, is_file: bool) -> bool {
    match Key::parse(path) {
        // A sparse file may play the disk; the path watch of systemd needs a file.
        Key::Data(..) => !is_file,
        Key::Systemd(_, n) => !(is_file && n == "trigger"),
        Key::Log(..) => !is_file,
        key => !free(&key),
    }
}

fn free(key: &Key) -> bool {
    matches!(
        key,
        Key::Userspace(_) | Key::ResUserspace(..) | Key::TodoGlobal(_) | Key::Other(_)
    )
}
fn number(s: &str) -> bool {
    canonical(s).is_some()
}
fn integer(s: &str) -> bool {
    s.parse::<i64>().is_ok()
}
fn stamp(s: &str) -> bool {
    s.parse::<Stamp>().is_ok()
}
fn host_or_none(s: &str) -> bool {
    s == "(none)" || s.parse::<HostName>().is_ok()
}
/// One line of text.
fn printable(s: &str) -> bool {
    !s.chars().any(char::is_control)
}
/// A name below the directory of devices, perhaps with the host behind an `@`.
fn device(s: &str) -> bool {
    !s.starts_with('.') && !s.contains('/') && printable(s)
}
fn version(s: &str) -> bool {
    s.starts_with(|c: char| c.is_ascii_digit())
        && s.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}
fn hex(s: &str) -> bool {
    s.strip_prefix("0x")
        .is_some_and(|h| !h.is_empty() && h.bytes().all(|b| b.is_ascii_hexdigit()))
}
fn mask(s: &str) -> bool {
    s.strip_prefix("0x")
        .is_some_and(|h| h.len() == 8 && h.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn default(name: &str, text: &str) -> bool {
    match name {
        "sync-limit" => number(text),
        _ if name.starts_with("enabled-") || name.starts_with("disabled-") => mask(text),
        _ => printable(text),
    }
}

fn host_actual(name: &str, text: &str) -> bool {
    match name {
        "time" | "read-stamp" => stamp(text),
        "alive" | "compat-alivelinks" | "emergency" => integer(text),
        "rest-space" | "total-space" => number(text),
        "tree" => version(text),
        "features" | "usable" => {
            let mut p = text.splitn(3, ',');
            p.next().is_some_and(number)
                && p.next().is_some_and(number)
                && p.next().is_some_and(mask)
        }
        _ if name.starts_with("used-") => number(text),
        _ => printable(text),
    }
}

fn actual(name: &str, text: &str) -> bool {
    if name.starts_with("msg-") {
        return text.parse::<MessageValue>().is_ok();
    }
    match name {
        "replay-code" => text.split(',').all(|c| integer(c) || hex(c)) && !text.starts_with("0x"),
        "if-completion-stamp" => stamp(text),
        "open-count" | "if-on" | "if-flying" | "if-state" | "disk-error" | "has-emergency"
        | "prosumer-on" => integer(text),
        _ if name.starts_with("is-") || name.ends_with("_rate") => integer(text),
        _ => printable(text),
    }
}
