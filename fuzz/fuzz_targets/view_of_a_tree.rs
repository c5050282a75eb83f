//! `view` of a tree in which anything may stand: every macro answers in lines of text, and the JSON document is there (I12).
//!
//! The input is a list of changes to an example tree: which key (one byte), how many bytes (one byte), the bytes. A key behind the known
//! ones is a log file; the first bytes are its size.
#![no_main]
use libfuzzer_sys::fuzz_target;
use mars_macro::{Machine, Scope, evaluate, primitive_names, split_brain_lines, view_json_all};
use mars_policy::{View, fixtures};
use mars_tree::{FileMeta, Link, Stamp, Value};
use std::sync::LazyLock;
use std::time::Duration;

#[path = "../../lib/mars-macro/src/tests/keys.rs"]
#[allow(dead_code)]
mod keys;

static KEYS: LazyLock<Vec<String>> = LazyLock::new(keys::all);

fuzz_target!(|data: &[u8]| {
    let Some((first, mut rest)) = data.split_first() else {
        return;
    };
    let mut snap = match first % 3 {
        0 => fixtures::steady(),
        1 => fixtures::syncing(),
        _ => fixtures::split(),
    };
    while let [key, len, tail @ ..] = rest {
        let (value, behind) = tail.split_at(usize::from(*len).min(tail.len()));
        rest = behind;
        let mut number = [0; 8];
        for (to, from) in number.iter_mut().zip(value) {
            *to = *from;
        }
        let number = u64::from_le_bytes(number);
        match KEYS.get(usize::from(*key)) {
            Some(path) => {
                if let Ok(value) = Value::new(value) {
                    let stamp = Stamp::from_nanos(number);
                    snap.links.insert(path.clone(), Link { value, stamp });
                }
            }
            None => {
                let path = format!("resource-lv0/log-{:09}-hostA", key % 4 + 1);
                let mtime = Stamp::from_nanos(number);
                let size = number;
                snap.files.insert(path, FileMeta { size, mtime });
            }
        }
    }
    let me = keys::HOSTS[usize::from(first / 3) % 3].parse().unwrap();
    let local = keys::HOSTS[usize::from(first / 9) % 3].parse().unwrap();
    let res = "lv0".parse().unwrap();
    let machine = Machine::default();
    let scope = Scope {
        view: View {
            snap: &snap,
            me: &me,
            local: &local,
            now: fixtures::NOW,
            window: Duration::from_secs(60),
            engine_running: first % 2 == 0,
        },
        res: Some(&res),
        threshold: 10 << 20,
        verbose: 2,
        args: &[],
        machine: &machine,
    };
    let is_clean = |text: &str| text.chars().all(|c| c == '\n' || !c.is_control());
    // These call nearly all others; the document has the states.
    let complex = ["default", "1and1", "default-header", "default-global"];
    for name in primitive_names().into_iter().chain(complex) {
        if let Ok(text) = evaluate(name, &scope) {
            assert!(is_clean(&text), "{name}: {text:?}");
        }
    }
    for line in split_brain_lines(&scope.view, &res) {
        assert!(is_clean(&line), "{line:?}");
    }
    let all = view_json_all(&scope, std::slice::from_ref(&res));
    assert!(
        all["resources"][0]["flags"]
            .as_str()
            .is_some_and(|f| f.len() == 6)
    );
    // Each damaged link once.
    let damaged = snap.damaged();
    assert!(damaged.windows(2).all(|w| w[0].0 != w[1].0));
});
