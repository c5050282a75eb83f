//! From the bytes that a terminal sends to keys.

/// A key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[allow(missing_docs)]
pub enum Key {
    Char(char),
    Up,
    Down,
    PageUp,
    PageDown,
    Home,
    End,
    Enter,
    Esc,
    Backspace,
    CtrlC,
    CtrlL,
    CtrlU,
    CtrlZ,
    /// Known to be a key; nothing happens.
    Other,
}

/// No key is longer; what is, is no key.
const LONGEST: usize = 32;

/// Keeps the beginning of a key until the rest comes.
#[derive(Debug, Default)]
pub struct Parser {
    pending: Vec<u8>,
}

/// What the beginning of the bytes is.
enum Found {
    /// A key of that many bytes.
    Key(Key, usize),
    /// The beginning of one.
    More,
}

impl Parser {
    /// The keys that are complete with these bytes.
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Key> {
        self.pending.extend_from_slice(bytes);
        let mut keys = Vec::new();
        while !self.pending.is_empty() {
            match first(&self.pending) {
                Found::Key(key, n) => {
                    keys.push(key);
                    self.pending.drain(..n.min(self.pending.len()));
                }
                Found::More if self.pending.len() >= LONGEST => self.pending.clear(),
                Found::More => break,
            }
        }
        keys
    }

    /// Is something begun? If no more comes soon, call [`Parser::give_up`].
    pub fn is_waiting(&self) -> bool {
        !self.pending.is_empty()
    }

    /// No more comes: Escape by itself was meant.
    pub fn give_up(&mut self) -> Option<Key> {
        let was_escape = self.pending.first() == Some(&0x1b);
        self.pending.clear();
        was_escape.then_some(Key::Esc)
    }
}

fn first(bytes: &[u8]) -> Found {
    let Some((head, rest)) = bytes.split_first() else {
        return Found::More;
    };
    let key = match head {
        0x1b => return escape(rest),
        0x03 => Key::CtrlC,
        0x0c => Key::CtrlL,
        0x15 => Key::CtrlU,
        0x1a => Key::CtrlZ,
        b'\r' | b'\n' => Key::Enter,
        0x08 | 0x7f => Key::Backspace,
        0x20..0x7f => Key::Char(char::from(*head)),
        0x80.. => return utf8(bytes),
        _ => Key::Other,
    };
    Found::Key(key, 1)
}

fn utf8(bytes: &[u8]) -> Found {
    let length = match bytes.first() {
        Some(0xc2..=0xdf) => 2,
        Some(0xe0..=0xef) => 3,
        Some(0xf0..=0xf4) => 4,
        _ => return Found::Key(Key::Other, 1),
    };
    let Some(bytes) = bytes.get(..length) else {
        return Found::More;
    };
    match std::str::from_utf8(bytes)
        .ok()
        .and_then(|t| t.chars().next())
    {
        Some(c) => Found::Key(Key::Char(c), length),
        None => Found::Key(Key::Other, 1),
    }
}

/// Behind an Escape. `ESC [ digits letter` and `ESC O letter` are keys, everything else is Escape and something else.
fn escape(rest: &[u8]) -> Found {
    match rest.split_first() {
        None => Found::More,
        Some((b'O', rest)) => match rest.first() {
            None => Found::More,
            Some(c) => Found::Key(letter(*c), 3),
        },
        Some((b'[', rest)) => {
            let is_end = |c: &u8| (0x40..0x7f).contains(c) || *c == 0x1b;
            let Some(end) = rest.iter().position(is_end) else {
                return Found::More;
            };
            if rest.get(end) == Some(&0x1b) {
                // Cut off: a new key begins.
                return Found::Key(Key::Other, end + 2);
            }
            let digits = rest.get(..end).unwrap_or_default();
            let number = digits.split(|c| *c == b';').next().unwrap_or_default();
            let key = match (rest.get(end), number) {
                (Some(b'~'), b"1" | b"7") => Key::Home,
                (Some(b'~'), b"4" | b"8") => Key::End,
                (Some(b'~'), b"5") => Key::PageUp,
                (Some(b'~'), b"6") => Key::PageDown,
                (Some(c), _) => letter(*c),
                (None, _) => Key::Other,
            };
            Found::Key(key, end + 3)
        }
        Some(_) => Found::Key(Key::Esc, 1),
    }
}

fn letter(c: u8) -> Key {
    match c {
        b'A' => Key::Up,
        b'B' => Key::Down,
        b'F' => Key::End,
        b'H' => Key::Home,
        b'M' => Key::Enter,
        _ => Key::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(bytes: &[u8]) -> Vec<Key> {
        Parser::default().feed(bytes)
    }

    #[test]
    fn keys_of_common_terminals() {
        assert_eq!(
            keys(b"q/\r\x7f\x08\x03\x1a\x0c"),
            [
                Key::Char('q'),
                Key::Char('/'),
                Key::Enter,
                Key::Backspace,
                Key::Backspace,
                Key::CtrlC,
                Key::CtrlZ,
                Key::CtrlL
            ]
        );
        assert_eq!(
            keys(b"\x1b[A\x1bOB\x1b[5~\x1b[6~\x1b[H\x1b[4~\x1b[1;5A\x1bOM"),
            [
                Key::Up,
                Key::Down,
                Key::PageUp,
                Key::PageDown,
                Key::Home,
                Key::End,
                Key::Up,
                Key::Enter
            ]
        );
        assert_eq!(
            keys("ä€😀".as_bytes()),
            [Key::Char('ä'), Key::Char('€'), Key::Char('😀')]
        );
        // A focus report, a function key: nothing happens.
        assert_eq!(keys(b"\x1b[I\x1b[15~"), [Key::Other, Key::Other]);
    }

    #[test]
    fn escape_alone_is_known_when_nothing_follows() {
        let mut p = Parser::default();
        assert!(p.feed(b"\x1b").is_empty());
        assert!(p.is_waiting());
        assert_eq!(p.give_up(), Some(Key::Esc));
        assert!(!p.is_waiting());
        assert_eq!(p.feed(b"\x1bq"), [Key::Esc, Key::Char('q')]);
        // In pieces.
        assert!(p.feed(b"\x1b[").is_empty());
        assert_eq!(p.feed(b"B"), [Key::Down]);
    }

    proptest! {
        /// Any bytes in any pieces: no panic, nothing kept without bound, and the same keys as in one piece.
        #[test]
        fn any_bytes_in_any_pieces(bytes in prop::collection::vec(any::<u8>(), 0..100), cut in 0usize..100) {
            let whole = Parser::default().feed(&bytes);
            let (a, b) = bytes.split_at(cut.min(bytes.len()));
            let mut p = Parser::default();
            let mut keys = p.feed(a);
            keys.extend(p.feed(b));
            prop_assert!(p.pending.len() < LONGEST);
            // What is no key because of its length is dropped somewhere else when it comes in pieces.
            let begins = |c: &u8| (0x40..0x7f).contains(c) || *c == 0x1b;
            if !bytes.windows(LONGEST - 2).any(|w| !w.iter().any(begins)) {
                prop_assert_eq!(keys, whole);
            }
        }
    }
}
