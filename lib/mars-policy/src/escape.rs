//! Escaping for unit names, as `systemd-escape` does it.

/// Letters, digits, `:`, `_` and `.` (not leading) stay, `/` becomes `-`, all else `\xHH`.
pub fn escape(s: &str) -> String {
    let mut out = String::with_capacity(s.len());
    for (i, b) in s.bytes().enumerate() {
        match b {
            b'/' => out.push('-'),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b':' | b'_' => out.push(char::from(b)),
            b'.' if i > 0 => out.push('.'),
            _ => out.push_str(&format!("\\x{b:02x}")),
        }
    }
    out
}

/// Reverses [`escape`]; `None` for broken escapes.
pub fn unescape(s: &str) -> Option<String> {
    let mut out = Vec::with_capacity(s.len());
    let mut rest = s.as_bytes();
    while let Some((&b, tail)) = rest.split_first() {
        rest = match b {
            b'-' => {
                out.push(b'/');
                tail
            }
            b'\\' => {
                let hex = tail.strip_prefix(b"x")?.get(..2)?;
                if !hex.iter().all(u8::is_ascii_hexdigit) {
                    return None;
                }
                out.push(u8::from_str_radix(std::str::from_utf8(hex).ok()?, 16).ok()?);
                tail.get(3..)?
            }
            _ => {
                out.push(b);
                tail
            }
        };
    }
    String::from_utf8(out).ok()
}

/// `systemd-escape --path`: slashes at both ends, double ones and `.` components are dropped first; the root is `-`. `None` where
/// systemd refuses: a `..` component, or nothing but dots without a leading slash.
pub fn escape_path(s: &str) -> Option<String> {
    let parts: Vec<&str> = s
        .split('/')
        .filter(|p| !p.is_empty() && *p != ".")
        .collect();
    if parts.contains(&"..") {
        return None;
    }
    if parts.is_empty() {
        return (s.is_empty() || s.starts_with('/')).then(|| "-".to_string());
    }
    Some(escape(&parts.join("/")))
}
