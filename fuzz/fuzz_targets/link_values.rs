//! Keys and values of links: whatever parses prints something that parses to the same (I12).
#![no_main]
use libfuzzer_sys::fuzz_target;
use mars_tree::{
    HostName, Key, LogName, MessageValue, ReplayPos, ResName, Stamp, Value, VersionHead,
    VersionLink,
};
use std::fmt::{Debug, Display};
use std::str::FromStr;

/// Parses, prints, parses again; returns the first result.
fn same<T: FromStr + Display + PartialEq + Debug>(text: &str) -> Option<T> {
    let v: T = text.parse().ok()?;
    let printed = v.to_string();
    assert_eq!(
        printed.parse().ok().as_ref(),
        Some(&v),
        "{text:?} -> {printed:?}"
    );
    Some(v)
}

/// Types whose text has exactly one form.
fn exact<T: FromStr + Display + PartialEq + Debug>(text: &str) -> Option<T> {
    let v: T = same(text)?;
    assert_eq!(v.to_string(), text);
    Some(v)
}

fuzz_target!(|data: &[u8]| {
    let value = Value::new(data);
    assert_eq!(
        value.is_ok(),
        !data.is_empty() && data.len() <= Value::MAX && !data.contains(&0)
    );
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let key = Key::parse(text);
    assert_eq!(Key::parse(&key.path()), key);
    assert_eq!(key.path(), text, "a key may not rename a link");
    let _ = (key.resource(), key.owner(), key.is_replicated());
    let host = exact::<HostName>(text);
    exact::<ResName>(text);
    exact::<LogName>(text);
    same::<Stamp>(text);
    same::<MessageValue>(text);
    exact::<VersionHead>(text);
    let replay = exact::<ReplayPos>(text);
    let link = exact::<VersionLink>(text);
    if let Some(r) = replay {
        let _ = (r.order(), r.end());
    }
    if let Some(l) = link {
        let nr = l.head.log.nr;
        let next = LogName {
            nr: nr.saturating_add(1),
            host: host.unwrap_or_else(|| l.head.log.host.clone()),
        };
        // A link computed on top of a hostile one is sound in itself.
        let n = mars_log::next_version(&next, l.head.len, Some(&l));
        assert_eq!(n.pred.as_ref(), (next.nr > 1).then_some(&l.head));
        mars_log::version_chain(&[(nr, l), (next.nr, n)]);
    }
});
