//! The macro language: whatever the text says, evaluation ends within its bounds, with output or an error (I12).
#![no_main]
use libfuzzer_sys::fuzz_target;
use mars_macro::{Limits, Run, Source, World};
use std::collections::BTreeMap;
use std::rc::Rc;

/// The second half of the input is a macro file that the first half may call as `%m{}`, also recursively.
struct Toy {
    file: Rc<Source>,
    links: BTreeMap<String, String>,
    asked: u32,
}

impl World for Toy {
    fn source(&mut self, name: &str) -> Option<Rc<Source>> {
        (name == "m").then(|| Rc::clone(&self.file))
    }
    fn primitive(&mut self, name: &str, args: &[String]) -> Option<Result<String, String>> {
        match name {
            "p" => Some(Ok(args.join("|"))),
            "q" => Some(Err("no value".into())),
            _ => None,
        }
    }
    fn tell(&mut self, _: &str) {}
    fn pause(&mut self, _: f64, _: bool) -> Result<(), String> {
        // Nobody waits here; a loop around a pause must end by the bounds all the same.
        Ok(())
    }
    fn read_link(&mut self, path: &str) -> Option<String> {
        self.links.get(path).cloned()
    }
    fn set_link(&mut self, value: &str, path: &str) -> Result<(), String> {
        if self.links.len() >= 64 {
            return Err("full".into());
        }
        self.links.insert(path.into(), value.into());
        Ok(())
    }
    fn glob(&mut self, pattern: &str) -> Result<Vec<String>, String> {
        Ok(self
            .links
            .keys()
            .filter(|k| k.starts_with(pattern))
            .cloned()
            .collect())
    }
    fn interrupted(&mut self) -> bool {
        self.asked += 1;
        self.asked > 1000
    }
}

const LIMITS: Limits = Limits {
    steps: 20_000,
    depth: 64,
    bytes: 1 << 20,
};

fuzz_target!(|data: &[u8]| {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let (main, file) = text.split_once('\0').unwrap_or((text, "%p{%{0}}"));
    let mut toy = Toy {
        file: Source::file("m.tpl", file),
        links: BTreeMap::new(),
        asked: 0,
    };
    let vars = [("res", "NAME"), ("host", "me")].map(|(n, v)| (n.to_string(), v.to_string()));
    let source = Source::option("--macro", main);
    let args = ["x".to_string(), "12".to_string()];
    match Run::new(&mut toy, vars, LIMITS).text(&source, "default", &args) {
        Ok(out) => assert!(out.len() as u64 <= LIMITS.bytes, "{} bytes", out.len()),
        // Said in one line, with its place.
        Err(e) => assert!(!e.to_string().is_empty()),
    }
});
