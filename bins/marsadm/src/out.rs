//! Output: progress on stdout, errors and warnings on stderr with their prefixes (marsadm-commands.md 1.7).
use std::io::{IsTerminal, Write, stderr, stdout};

/// One line of progress or of a result. A reader that went away is no error.
pub fn say(line: impl AsRef<str>) {
    let mut out = stdout().lock();
    let _ = writeln!(out, "{}", line.as_ref());
    let _ = out.flush();
}

/// Text as it is.
pub fn raw(text: &str) {
    let mut out = stdout().lock();
    let _ = out.write_all(text.as_bytes());
    let _ = out.flush();
}

/// Something the user should know.
pub fn warn(line: impl AsRef<str>) {
    let _ = writeln!(stderr().lock(), "WARNING: {}", line.as_ref());
}

/// A piece of advice.
pub fn hint(line: impl AsRef<str>) {
    let _ = writeln!(stderr().lock(), "   HINT: {}", line.as_ref());
}

/// The one error line.
pub fn die(line: impl AsRef<str>) {
    let _ = writeln!(
        stderr().lock(),
        "DYING: {}",
        crate::error::one_line(line.as_ref())
    );
}

/// Does a human look at stdout?
pub fn is_terminal() -> bool {
    stdout().is_terminal()
}
