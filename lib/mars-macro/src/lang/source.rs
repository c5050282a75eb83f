//! Macro texts: where they come from, stripped of comments, with the way back to lines and columns.
use std::rc::Rc;

/// A macro text, ready to be evaluated.
#[derive(Debug)]
pub struct Source {
    /// File name, or what else it came from (`--macro`, `macro NAME`).
    pub origin: String,
    /// Without comments.
    pub text: String,
    /// `(offset in text, line, column)` from which offsets count on, ascending.
    marks: Vec<(usize, u32, u32)>,
}

/// A part of a source.
#[derive(Clone, Debug)]
pub(crate) struct Code {
    pub source: Rc<Source>,
    pub from: usize,
    pub to: usize,
}

impl Code {
    pub fn whole(source: Rc<Source>) -> Code {
        let to = source.text.len();
        Code {
            source,
            from: 0,
            to,
        }
    }
    pub fn text(&self) -> &str {
        self.source.text.get(self.from..self.to).unwrap_or("")
    }
    /// A part of this part.
    pub fn part(&self, from: usize, to: usize) -> Code {
        Code {
            source: Rc::clone(&self.source),
            from: self.from + from,
            to: self.from + to,
        }
    }
}

impl Source {
    /// A file, or a built-in macro written like one: comments go, then `\n` becomes a newline. The newline that ends every text file
    /// does not belong to the macro.
    pub fn file(origin: &str, raw: &str) -> Rc<Source> {
        let raw = raw.strip_suffix('\n').unwrap_or(raw);
        Rc::new(Source::strip(origin, raw).newlines())
    }

    /// The value of `--macro=`: `\n` becomes a newline, then comments go.
    pub fn option(origin: &str, raw: &str) -> Rc<Source> {
        let with_newlines = Source::plain(origin, raw).newlines();
        Rc::new(Source::strip(origin, &with_newlines.text))
    }

    /// Text as it is (results that are evaluated again).
    pub(crate) fn plain(origin: &str, text: &str) -> Source {
        Source {
            origin: origin.to_string(),
            text: text.to_string(),
            marks: vec![(0, 1, 1)],
        }
    }

    /// Line and column (both from 1, columns in characters) of an offset in `text`.
    pub fn place(&self, offset: usize) -> (u32, u32) {
        let i = self.marks.partition_point(|(at, _, _)| *at <= offset);
        let Some((at, mut line, mut column)) =
            i.checked_sub(1).and_then(|i| self.marks.get(i)).copied()
        else {
            return (1, 1);
        };
        for c in self.text.get(at..offset).unwrap_or("").chars() {
            if c == '\n' {
                line += 1;
                column = 1;
            } else {
                column += 1;
            }
        }
        (line, column)
    }

    /// Removes comments (macro-language.md 1.2).
    fn strip(origin: &str, raw: &str) -> Source {
        let mut s = Stripper {
            out: Source {
                origin: origin.to_string(),
                text: String::with_capacity(raw.len()),
                marks: vec![(0, 1, 1)],
            },
            rest: raw,
            line: 1,
            column: 1,
        };
        s.run();
        s.out
    }

    /// Two characters `\n` become a newline; a backslash before a backslash is none.
    fn newlines(self) -> Source {
        if !self.text.contains("\\n") {
            return self;
        }
        let mut out = Source {
            origin: self.origin.clone(),
            text: String::with_capacity(self.text.len()),
            marks: Vec::new(),
        };
        let mut chars = self.text.char_indices().peekable();
        out.marks.push((0, 1, 1));
        let mut moved = false;
        while let Some((at, c)) = chars.next() {
            if moved || self.marks.iter().any(|(m, _, _)| *m == at) {
                let (line, column) = self.place(at);
                out.marks.push((out.text.len(), line, column));
                moved = false;
            }
            match (c, chars.peek().map(|(_, n)| *n)) {
                ('\\', Some('n')) => {
                    chars.next();
                    out.text.push('\n');
                    moved = true;
                }
                ('\\', Some(n)) => {
                    chars.next();
                    out.text.extend(['\\', n]);
                }
                _ => out.text.push(c),
            }
        }
        out
    }
}

struct Stripper<'a> {
    out: Source,
    rest: &'a str,
    line: u32,
    column: u32,
}

impl Stripper<'_> {
    fn run(&mut self) {
        while let Some(c) = self.rest.chars().next() {
            let after = self.rest.get(c.len_utf8()..).unwrap_or("");
            if c == '\\' && after.starts_with('\n') {
                // A continued line, with the indentation of the next one.
                let blank = after.len() - after.trim_start().len();
                self.skip(1 + blank);
            } else if c == '\\' {
                let n = 1 + after.chars().next().map_or(0, char::len_utf8);
                self.keep(n);
            } else if c == '#' || (c == '/' && is_line_comment(after)) {
                self.line_comment();
            } else if c == '/' && after.starts_with('*') {
                let end = self.rest.get(2..).and_then(|t| t.find("*/"));
                self.skip(end.map_or(self.rest.len(), |e| e + 4));
            } else {
                self.keep(c.len_utf8());
            }
        }
    }

    fn advance(&mut self, n: usize) {
        let (gone, rest) = self.rest.split_at_checked(n).unwrap_or((self.rest, ""));
        for c in gone.chars() {
            if c == '\n' {
                self.line += 1;
                self.column = 1;
            } else {
                self.column += 1;
            }
        }
        self.rest = rest;
    }

    fn keep(&mut self, n: usize) {
        self.out
            .text
            .push_str(self.rest.get(..n).unwrap_or(self.rest));
        self.advance(n);
    }

    fn skip(&mut self, n: usize) {
        self.advance(n);
        let mark = (self.out.text.len(), self.line, self.column);
        match self.out.marks.last_mut() {
            Some(last) if last.0 == mark.0 => *last = mark,
            _ => self.out.marks.push(mark),
        }
    }

    /// To the end of the line; the newline goes too when nothing else stands in that line, and its indentation with it.
    fn line_comment(&mut self) {
        let end = self.rest.find('\n').unwrap_or(self.rest.len());
        let line_start = self.out.text.rfind('\n').map_or(0, |i| i + 1);
        let before = self.out.text.get(line_start..).unwrap_or("");
        // A continued line does not begin in the output, but in the source.
        let is_alone = before.chars().all(|c| c == ' ' || c == '\t')
            && (before.chars().count() as u64) < u64::from(self.column);
        if is_alone {
            self.out.text.truncate(line_start);
            while self.out.marks.last().is_some_and(|m| m.0 > line_start) {
                self.out.marks.pop();
            }
            self.skip((end + 1).min(self.rest.len()));
        } else {
            self.skip(end);
        }
    }
}

/// `//` needs a blank behind it, so that addresses of web pages survive.
fn is_line_comment(after: &str) -> bool {
    after.starts_with("/ ") || after.starts_with("/\t")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn stripped(raw: &str) -> String {
        Source::strip("t", raw).text
    }

    #[test]
    fn comments() {
        assert_eq!(stripped("a # b\nc"), "a \nc");
        assert_eq!(stripped("# b\nc"), "c");
        assert_eq!(stripped("x\n  # b\nc"), "x\nc");
        assert_eq!(stripped("// b\nc // d\n"), "c \n");
        assert_eq!(stripped("http://x/ y"), "http://x/ y");
        assert_eq!(stripped("a/* b\n c */d"), "ad");
        assert_eq!(stripped("a/* open"), "a");
        assert_eq!(stripped("a\\\n   b"), "ab");
        assert_eq!(stripped("a\\#b\\//c"), "a\\#b\\//c");
        assert_eq!(stripped("a\\\\# b"), "a\\\\");
        assert_eq!(stripped("# only"), "");
        assert_eq!(stripped("\\"), "\\");
    }

    #[test]
    fn newlines_at_load() {
        assert_eq!(Source::file("t", "a\\nb").text, "a\nb");
        assert_eq!(Source::file("t", "a\\\\nb").text, "a\\\\nb");
        // In a file comments go first; in an option the newline ends the comment.
        assert_eq!(Source::file("t", "a # c\\nb").text, "a ");
        assert_eq!(Source::option("t", "a # c\\nb").text, "a \nb");
    }

    #[test]
    fn places_lead_back_to_the_file() {
        let s = Source::file("t", "# one\n  ab\\\n   cd\\nX /* \n */ Y");
        assert_eq!(s.text, "  abcd\nX  Y");
        let at = |needle: &str| s.place(s.text.find(needle).unwrap());
        assert_eq!(at("ab"), (2, 3));
        assert_eq!(at("cd"), (3, 4));
        assert_eq!(at("X"), (3, 8));
        assert_eq!(at("Y"), (4, 5));
    }
}
