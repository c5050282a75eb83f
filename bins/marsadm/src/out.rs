//! Output: progress on stdout, errors and warnings on stderr with their prefixes (marsadm-commands.md 1.7).
//!
//! Several resources may be worked on at once, each by a thread: then a thread's lines are kept together ([`captured`]) and come out as
//! one block.
use crate::progress::erase;
use std::cell::RefCell;
use std::io::{Write, stderr, stdout};
use std::sync::{Mutex, PoisonError};

/// Where a line goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Stream {
    Out,
    Err,
}

thread_local! {
    static KEPT: RefCell<Option<Vec<(Stream, String)>>> = const { RefCell::new(None) };
}

/// One block at a time.
static BLOCK: Mutex<()> = Mutex::new(());

/// A reader that went away is no error.
fn write(stream: Stream, text: &str) {
    erase();
    match stream {
        Stream::Out => {
            let mut out = stdout().lock();
            let _ = out.write_all(text.as_bytes());
            let _ = out.flush();
        }
        Stream::Err => {
            let _ = stderr().lock().write_all(text.as_bytes());
        }
    }
}

fn put(stream: Stream, text: String) {
    let rest = KEPT.with_borrow_mut(|kept| match kept {
        Some(lines) => {
            lines.push((stream, text));
            None
        }
        None => Some(text),
    });
    if let Some(text) = rest {
        write(stream, &text);
    }
}

/// What a piece of work said.
pub struct Kept(Vec<(Stream, String)>);

impl Kept {
    /// Prints it as one block.
    pub fn print(self) {
        let _whole = BLOCK.lock().unwrap_or_else(PoisonError::into_inner);
        for (stream, text) in self.0 {
            write(stream, &text);
        }
    }
}

/// Does some work; what it says (in this thread) is kept.
pub fn captured<T>(work: impl FnOnce() -> T) -> (T, Kept) {
    KEPT.set(Some(Vec::new()));
    let result = work();
    (result, Kept(KEPT.take().unwrap_or_default()))
}

/// Is what this thread says kept for later? Then nothing that moves may be drawn.
pub fn is_captured() -> bool {
    KEPT.with_borrow(Option::is_some)
}

/// One line of progress or of a result.
pub fn say(line: impl AsRef<str>) {
    put(Stream::Out, format!("{}\n", line.as_ref()));
}

/// Text as it is.
pub fn raw(text: &str) {
    put(Stream::Out, text.to_string());
}

/// Something the user should know.
pub fn warn(line: impl AsRef<str>) {
    put(Stream::Err, format!("WARNING: {}\n", line.as_ref()));
}

/// Something unusual that was asked for.
pub fn attention(line: impl AsRef<str>) {
    put(Stream::Err, format!("ATTENTION: {}\n", line.as_ref()));
}

/// A piece of advice.
pub fn hint(line: impl AsRef<str>) {
    put(Stream::Err, format!("   HINT: {}\n", line.as_ref()));
}

/// The one error line.
pub fn die(line: impl AsRef<str>) {
    let line = crate::error::one_line(line.as_ref());
    put(Stream::Err, format!("DYING: {line}\n"));
}

/// A question to somebody at a terminal.
pub fn ask(line: impl AsRef<str>) {
    put(Stream::Err, format!("{} ", line.as_ref()));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_a_thread_stay_together() {
        let (n, kept) = captured(|| {
            say("one");
            warn("two");
            raw("three");
            assert!(is_captured());
            1
        });
        assert_eq!(n, 1);
        assert!(!is_captured());
        let expected = [
            (Stream::Out, "one\n".to_string()),
            (Stream::Err, "WARNING: two\n".to_string()),
            (Stream::Out, "three".to_string()),
        ];
        assert_eq!(kept.0, expected);
    }
}
