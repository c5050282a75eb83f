//! Message links (symlink-tree.md 1.8, macro-language.md 5.1).
use crate::Scope;
use mars_policy::errno_text;
use mars_tree::{MessageValue, Stamp};
use std::borrow::Cow;
use std::time::Duration;

/// Error messages younger than this are not shown by `the-*`, unless the program says otherwise: they may pass by themselves
/// (symlink-tree.md 1.8).
const ERROR_SETTLE: Duration = Duration::from_secs(600);

/// Which messages, and how.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wish {
    /// Include `OK` and young errors.
    pub all: bool,
    /// Readable stamps and error numbers.
    pub pretty: bool,
    /// Messages of the host instead of the resource.
    pub global: bool,
    /// `err-`, `wrn-`, `inf-`; `None` for every class.
    pub class: Option<&'static str>,
}

/// One message link.
pub(crate) struct Message<'a> {
    /// `err-replay-stop`.
    pub name: &'a str,
    /// Value; not necessarily one of a message.
    pub raw: Cow<'a, str>,
}

impl Message<'_> {
    pub fn parsed(&self) -> Option<MessageValue> {
        self.raw.parse().ok()
    }
    /// One line, whatever somebody has written there.
    pub fn text(&self) -> String {
        let sign = |c: char| if c.is_control() { '?' } else { c };
        self.raw.chars().map(sign).collect()
    }
}

/// Parses `{all,the}-[pretty-][global-][err-,wrn-,inf-]{msg,count}`; true = count.
pub(crate) fn parse_name(name: &str) -> Option<(Wish, bool)> {
    let (all, rest) = match name.strip_prefix("all-") {
        Some(r) => (true, r),
        None => (false, name.strip_prefix("the-")?),
    };
    let (pretty, rest) = flag(rest, "pretty-");
    let (global, rest) = flag(rest, "global-");
    let (class, rest) = ["err-", "wrn-", "inf-"]
        .into_iter()
        .find_map(|c| rest.strip_prefix(c).map(|r| (Some(c), r)))
        .unwrap_or((None, rest));
    let count = match rest {
        "msg" => false,
        "count" if !pretty => true,
        _ => return None,
    };
    let wish = Wish {
        all,
        pretty,
        global,
        class,
    };
    Some((wish, count))
}

fn flag<'n>(name: &'n str, prefix: &str) -> (bool, &'n str) {
    match name.strip_prefix(prefix) {
        Some(rest) => (true, rest),
        None => (false, name),
    }
}

/// The messages of the acting host, `OK` and young ones left out unless `all`.
pub(crate) fn messages<'a>(scope: &Scope<'a>, wish: Wish) -> Vec<Message<'a>> {
    let me = scope.view.me;
    let prefix = match scope.res {
        Some(res) if !wish.global => format!("resource-{res}/actual-{me}/msg-"),
        _ => format!("actual-{me}/msg-"),
    };
    let keep = |m: &Message<'_>| {
        if wish.class.is_some_and(|c| !m.name.starts_with(c)) {
            return false;
        }
        if wish.all {
            return true;
        }
        match m.parsed() {
            Some(MessageValue::Ok) => false,
            Some(MessageValue::Text { lamport, .. }) if m.name.starts_with("err-") => {
                let settle = scope.machine.error_settle.unwrap_or(ERROR_SETTLE);
                scope.view.now.since(lamport) >= settle
            }
            // Damaged ones are shown: hiding trouble does not help.
            _ => !m.raw.starts_with("OK"),
        }
    };
    scope
        .view
        .snap
        .links
        .range(prefix.clone()..)
        .take_while(|(path, _)| path.starts_with(&prefix))
        .filter(|(_, link)| !link.value.is_deleted())
        .filter_map(|(path, link)| {
            Some(Message {
                name: path.get(prefix.len()..)?,
                raw: String::from_utf8_lossy(link.value.as_bytes()),
            })
        })
        .filter(keep)
        .collect()
}

/// Lines `KEY: TEXT`, joined.
pub(crate) fn lines(scope: &Scope<'_>, wish: Wish) -> Vec<String> {
    messages(scope, wish)
        .iter()
        .map(|m| {
            let text = m.text();
            let text = if wish.pretty {
                pretty(&text, wish.all, scope.machine.utc_offset)
            } else {
                text
            };
            format!("{}: {text}", m.name)
        })
        .collect()
}

/// Stamps become dates in local time, error numbers become names.
pub(crate) fn pretty(raw: &str, nanos: bool, offset: Option<fn(u64) -> i32>) -> String {
    let mut out: Vec<String> = Vec::new();
    for word in raw.split(' ') {
        let before = out.iter().rev().find(|w| w.as_str() != "=");
        let is_code = matches!(before.map(String::as_str), Some("error" | "status"));
        if let Ok(stamp) = word.parse::<Stamp>() {
            out.push(date(stamp, nanos, offset));
        } else if is_code && word.parse::<i64>().is_ok() {
            out.push(errno_text(word));
        } else {
            out.push(word.to_string());
        }
    }
    out.join(" ")
}

/// `2023-11-14 22:13:20[.123456789]`.
pub fn date(stamp: Stamp, nanos: bool, offset: Option<fn(u64) -> i32>) -> String {
    let ahead = i64::from(offset.map_or(0, |f| f(stamp.secs())));
    let secs = stamp.secs().saturating_add_signed(ahead);
    let (days, s) = (secs / 86_400, secs % 86_400);
    // Civil date from days since 1970, in eras of 400 years that begin in March.
    let z = days + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let day = doy - (153 * mp + 2) / 5 + 1;
    let month = if mp < 10 { mp + 3 } else { mp - 9 };
    let year = yoe + era * 400 + u64::from(month <= 2);
    let (h, m, s) = (s / 3600, s / 60 % 60, s % 60);
    let mut text = format!("{year:04}-{month:02}-{day:02} {h:02}:{m:02}:{s:02}");
    if nanos {
        text.push_str(&format!(".{:09}", stamp.subsec_nanos()));
    }
    text
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn pretty_shows_dates_and_error_names() {
        let raw =
            "1700000000.123456789 1700000001.000000000 replay stopped, error -5 status = -28 5";
        assert_eq!(
            pretty(raw, false, None),
            "2023-11-14 22:13:20 2023-11-14 22:13:21 replay stopped, error [EIO:Input/output_error] status = [ENOSPC:No_space_left_on_device] 5"
        );
        assert!(pretty(raw, true, None).starts_with("2023-11-14 22:13:20.123456789 "));
    }

    #[test]
    fn date_leap_days_and_ends() {
        let at = |s: &str| date(s.parse().unwrap(), false, None);
        assert_eq!(at("0.000000000"), "1970-01-01 00:00:00");
        let zone: Option<fn(u64) -> i32> = Some(|secs| if secs < 5000 { -7200 } else { 3600 });
        let local = |s: &str| date(s.parse().unwrap(), false, zone);
        assert_eq!(local("1700000000.123456789"), "2023-11-14 23:13:20");
        // There is no time before 1970 in a tree.
        assert_eq!(local("60.000000000"), "1970-01-01 00:00:00");
        assert_eq!(at("951782400.000000000"), "2000-02-29 00:00:00");
        assert_eq!(at("4107542399.000000000"), "2100-02-28 23:59:59");
        assert_eq!(at("4107542400.000000000"), "2100-03-01 00:00:00");
        assert_eq!(date(Stamp::from_nanos(u64::MAX), false, None).len(), 19);
    }

    #[test]
    fn parse_name_forms() {
        let (w, count) = parse_name("the-pretty-global-err-msg").unwrap();
        assert!(!w.all && w.pretty && w.global && w.class == Some("err-") && !count);
        let (w, count) = parse_name("all-inf-count").unwrap();
        assert!(w.all && !w.pretty && w.class == Some("inf-") && count);
        assert!(parse_name("the-pretty-count").is_none());
        assert!(parse_name("the-foo").is_none());
        assert!(parse_name("msg").is_none());
    }
}
