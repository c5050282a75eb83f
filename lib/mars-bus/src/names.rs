//! Names on the bus and paths of objects.

/// The name that `mars-meta` owns.
pub const BUS_NAME: &str = "org.storage.mars1";
/// All loggers of a host have it or wait for it, so that the policy of the bus can name them.
pub const LOGGERS_NAME: &str = "org.storage.mars1.Logger";
/// The object manager.
pub const ROOT_PATH: &str = "/org/storage/mars1";

/// Any name as one element of a bus name and of an object path: ASCII letters and digits stay, but no digit at the beginning; every other byte
/// is `_` and two hexadecimal digits; nothing at all is `_`. (The same rule as systemd's for unit paths.)
pub fn escape(name: &str) -> String {
    if name.is_empty() {
        return "_".into();
    }
    let mut out = String::with_capacity(name.len());
    for (i, b) in name.bytes().enumerate() {
        if b.is_ascii_alphabetic() || (i > 0 && b.is_ascii_digit()) {
            out.push(char::from(b));
        } else {
            out.push_str(&format!("_{b:02x}"));
        }
    }
    out
}

/// The name that was escaped; `None` when [`escape`] makes no such text.
pub fn unescape(text: &str) -> Option<String> {
    if text == "_" {
        return Some(String::new());
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        if b != b'_' {
            out.push(b);
            continue;
        }
        let hex = [rest.next()?, rest.next()?];
        out.push(u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?);
    }
    let name = String::from_utf8(out).ok()?;
    (escape(&name) == text).then_some(name)
}

/// Object of a resource.
pub fn resource_path(res: &str) -> String {
    format!("{ROOT_PATH}/resource/{}", escape(res))
}

/// Object of a host.
pub fn host_path(host: &str) -> String {
    format!("{ROOT_PATH}/host/{}", escape(host))
}

/// Object of a logger.
pub fn logger_path(res: &str) -> String {
    format!("{ROOT_PATH}/logger/{}", escape(res))
}

/// Bus name of a logger.
pub fn logger_name(res: &str) -> String {
    format!("{LOGGERS_NAME}.{}", escape(res))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn examples() {
        for (name, text) in [
            ("mydata", "mydata"),
            ("lv-0", "lv_2d0"),
            ("0x", "_30x"),
            ("a_b", "a_5fb"),
            ("", "_"),
            ("é", "_c3_a9"),
        ] {
            assert_eq!(escape(name), text);
            assert_eq!(unescape(text).unwrap(), name);
        }
        for bad in ["a-b", "_2", "_zz", "_41", "__", "0", "_+1", "_C3_A9"] {
            assert_eq!(unescape(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn every_name_is_legal_and_comes_back(name in ".{0,40}") {
            prop_assert_eq!(unescape(&escape(&name)), Some(name.clone()));
            prop_assert!(zbus::ObjectPath::try_from(resource_path(&name)).is_ok());
            prop_assert!(zbus::names::WellKnownName::try_from(logger_name(&name)).is_ok() || name.len() > 70);
        }

        #[test]
        fn unescape_takes_anything(text in ".{0,40}") {
            if let Some(name) = unescape(&text) {
                prop_assert_eq!(escape(&name), text);
            }
        }
    }
}
