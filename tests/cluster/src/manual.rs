//! The manual as a test: which commands its Markdown files hold, and whether what they print fits.
//!
//! - A fenced block `sh host=NAME` (or `host=a,b`) is a script, run on each of these hosts. `status=1`: it must end like that. `again`: it is
//!   repeated until its output fits.
//! - A block `text` directly below holds lines that must be printed, in this order; other lines may stand between. `...` stands for anything.
//! - A comment `<!-- test: WORDS -->` is an event that readers need not see, such as a power cut.
use std::fmt;

/// Something that happens on the way through a chapter.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Step {
    /// `FILE:LINE`.
    pub place: String,
    /// What.
    pub what: What,
}

/// A block or an event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum What {
    /// Commands of the reader.
    Script(Script),
    /// What happens around them.
    Event(Vec<String>),
}

/// A block of commands.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Script {
    /// Where it runs, one after the other.
    pub hosts: Vec<String>,
    /// How it must end.
    pub status: i32,
    /// Repeated until the output fits.
    pub again: bool,
    /// The commands.
    pub text: String,
    /// Lines that must appear.
    pub expect: Vec<String>,
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            What::Script(s) => write!(f, "{} on {}: {}", self.place, s.hosts.join(","), s.text),
            What::Event(words) => write!(f, "{}: {}", self.place, words.join(" ")),
        }
    }
}

fn script(info: &str) -> Result<Script, String> {
    let mut s = Script::default();
    for word in info.split_whitespace().skip(1) {
        match word.split_once('=') {
            Some(("host", hosts)) => s.hosts = hosts.split(',').map(String::from).collect(),
            Some(("status", n)) => s.status = n.parse().map_err(|_| format!("status {n}"))?,
            None if word == "again" => s.again = true,
            _ => return Err(format!("unknown word {word:?}")),
        }
    }
    if s.hosts.iter().all(String::is_empty) {
        return Err("a block of commands without host=NAME is not tested".into());
    }
    Ok(s)
}

/// The steps of a chapter, in order.
///
/// # Errors
/// A block that would not be run, with its place.
pub fn steps(file: &str, text: &str) -> Result<Vec<Step>, String> {
    let mut steps: Vec<Step> = Vec::new();
    // Does a `text` block that begins now belong to the last step?
    let mut fresh = false;
    let mut lines = text.lines().enumerate();
    while let Some((n, line)) = lines.next() {
        let place = format!("{file}:{}", n + 1);
        let fail = |e: String| Err(format!("{place}: {e}"));
        if let Some(event) = line.strip_prefix("<!-- test: ") {
            let Some(words) = event.strip_suffix(" -->") else {
                return fail("an event that does not end".into());
            };
            let words = words.split(' ').map(String::from).collect();
            steps.push(Step {
                place,
                what: What::Event(words),
            });
            fresh = false;
            continue;
        }
        let Some(info) = line.trim_start().strip_prefix("```") else {
            if line.starts_with("    ") && fresh {
                return fail("an indented block is not tested; use a fence".into());
            }
            fresh &= line.is_empty();
            continue;
        };
        if info.starts_with('`') || line.starts_with(' ') || line.contains("~~~") {
            return fail("a fence of another form".into());
        }
        let mut body = Vec::new();
        loop {
            match lines.next() {
                None => return fail("a block that does not end".into()),
                Some((_, "```")) => break,
                Some((_, l)) => body.push(l.to_string()),
            }
        }
        match (info.split(' ').next().unwrap_or_default(), steps.last_mut()) {
            ("sh", _) => {
                let mut s = match script(info) {
                    Ok(s) => s,
                    Err(e) => return fail(e),
                };
                s.text = body.join("\n");
                steps.push(Step {
                    place,
                    what: What::Script(s),
                });
                fresh = true;
            }
            (
                "text",
                Some(Step {
                    what: What::Script(s),
                    ..
                }),
            ) if fresh => {
                s.expect = body;
                fresh = false;
            }
            ("text", _) => return fail("output of no command".into()),
            (other, _) => return fail(format!("a block {other:?} is not tested")),
        }
    }
    Ok(steps)
}

/// Does a line fit, `...` being anything?
fn line_fits(pattern: &str, line: &str) -> bool {
    let mut parts = pattern.trim_end().split("...");
    let line = line.trim_end();
    let Some(mut rest) = parts.next().and_then(|first| line.strip_prefix(first)) else {
        return false;
    };
    let mut ended = pattern.trim_end() == line || !pattern.contains("...");
    let parts: Vec<&str> = parts.collect();
    for (i, part) in parts.iter().enumerate() {
        let last = i + 1 == parts.len();
        let Some(at) = (if last {
            rest.ends_with(part).then(|| rest.len() - part.len())
        } else {
            rest.find(part)
        }) else {
            return false;
        };
        rest = &rest[at + part.len()..];
        ended = last;
    }
    ended && rest.is_empty()
}

/// The first expected line that is not there.
pub fn missing<'e>(expect: &'e [String], output: &str) -> Option<&'e str> {
    let mut lines = output.lines();
    expect
        .iter()
        .find(|e| !lines.any(|l| line_fits(e, l)))
        .map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn manual_blocks_are_read() {
        let text = "# T\n\n```sh host=a,b status=1 again\nx\ny\n```\n\n```text\none ... two\n```\n<!-- test: power-cut a -->\n";
        let s = steps("f.md", text).expect("steps");
        assert_eq!(s.len(), 2);
        assert_eq!(s[0].place, "f.md:3");
        let What::Script(script) = &s[0].what else {
            panic!("{s:?}")
        };
        assert_eq!(script.hosts, ["a", "b"]);
        assert_eq!(
            (script.status, script.again, script.text.as_str()),
            (1, true, "x\ny")
        );
        assert_eq!(script.expect, ["one ... two"]);
        assert_eq!(s[1].what, What::Event(vec!["power-cut".into(), "a".into()]));
    }

    #[test]
    fn manual_blocks_that_would_not_run_are_found() {
        for (bad, why) in [
            ("```sh\nx\n```\n", "host"),
            ("```sh host=\nx\n```\n", "host"),
            ("```\nx\n```\n", "not tested"),
            ("```bash host=a\nx\n```\n", "not tested"),
            ("```sh host=a frob\nx\n```\n", "frob"),
            ("```sh host=a\nx\n", "does not end"),
            ("```text\nx\n```\n", "no command"),
            (
                "```sh host=a\nx\n```\nThen:\n\n```text\nx\n```\n",
                "no command",
            ),
            ("- x\n  ```sh host=a\n  x\n  ```\n", "another form"),
        ] {
            let e = steps("f.md", bad).expect_err(bad);
            assert!(e.contains(why) && e.starts_with("f.md:"), "{bad:?}: {e}");
        }
    }

    #[test]
    fn manual_output_fits() {
        let expect = |t: &str| t.lines().map(String::from).collect::<Vec<_>>();
        let out = "head\n  data [2/2] UpToDate Replaying dCASFR Secondary alpha \ntail\n";
        assert_eq!(
            missing(&expect("  data [2/2] UpToDate ... alpha\ntail"), out),
            None
        );
        assert_eq!(missing(&expect("...UpToDate..."), out), None);
        assert_eq!(missing(&expect("tail\nhead"), out), Some("head"));
        assert_eq!(missing(&expect("UpToDate"), out), Some("UpToDate"));
        assert_eq!(missing(&expect("  data"), out), Some("  data"));
        assert_eq!(missing(&expect("head..."), out), None);
    }
}
