#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use mars_macro::predefined_names;
use std::collections::BTreeSet;

#[test]
fn help_every_command_has_a_text_and_every_text_a_command() {
    let texts: Vec<&str> = groups()
        .into_iter()
        .flat_map(|g| g.entries)
        .flat_map(|e| e.names)
        .collect();
    let unique: BTreeSet<&str> = texts.iter().copied().collect();
    assert_eq!(unique.len(), texts.len(), "a command has two texts");
    let commands: BTreeSet<&str> = cmd::all().map(|c| c.name).collect();
    let without: Vec<_> = commands.difference(&unique).collect();
    assert!(without.is_empty(), "without a text: {without:?}");
    let homeless: Vec<_> = unique.difference(&commands).collect();
    assert!(homeless.is_empty(), "texts of no command: {homeless:?}");
}

#[test]
fn help_texts_are_complete() {
    for e in groups().into_iter().flat_map(|g| g.entries) {
        assert!(!e.text.is_empty(), "{:?} says nothing", e.names);
        let example = e.field("Example").unwrap_or_default();
        let words: Vec<&str> = example.split(' ').collect();
        let own = words.iter().any(|w| e.names.contains(w));
        assert!(
            words[0] == "marsadm" && (own || e.text[0].starts_with("Refused")),
            "{:?}: {example:?}",
            e.names
        );
        assert!(e.field("Next").is_some(), "{:?}: no next step", e.names);
    }
    for e in state_groups().into_iter().flat_map(|g| g.entries) {
        assert!(
            !e.text.is_empty() && e.field("Do").is_some(),
            "{:?}",
            e.names
        );
    }
}

/// An example that the command line does not understand would be worse than none.
#[test]
fn help_examples_are_understood() {
    for e in groups().into_iter().flat_map(|g| g.entries) {
        for example in e.all("Example") {
            let args = example.split(' ').skip(1).map(std::ffi::OsString::from);
            let i = crate::cli::parse(args).unwrap_or_else(|e| panic!("{example}: {e}"));
            let c = find(&i.command).unwrap_or_else(|| panic!("{example}"));
            let res =
                usize::from(c.res == crate::cmd::ResArg::Many || c.res == crate::cmd::ResArg::One);
            assert!(
                i.args.len() >= res + c.min,
                "{example}: usage {}",
                crate::run::usage_words(c)
            );
        }
    }
}

/// Words that the macros can print stand in capitals at their beginning: `{UpToDate}`, `{OutDated[`.
fn printed_words() -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for name in ["diskstate", "replstate", "role", "todo-role"] {
        assert!(predefined_names().into_iter().any(|n| n == name), "{name}");
        let file = format!(
            "{}/../../templates/macros/{name}.tpl",
            env!("CARGO_MANIFEST_DIR")
        );
        let text = std::fs::read_to_string(file).unwrap();
        let code = text.lines().filter(|l| !l.starts_with('#'));
        for line in code {
            for piece in line.split('{').skip(1) {
                let word: String = piece
                    .chars()
                    .take_while(|c| c.is_ascii_alphabetic() || *c == '_')
                    .collect();
                if word.len() > 1 && word.starts_with(|c: char| c.is_ascii_uppercase()) {
                    found.insert(word);
                }
            }
        }
    }
    found
}

#[test]
fn help_every_state_word_is_explained() {
    let words = printed_words();
    assert!(words.len() >= 30, "{words:?}");
    for w in [
        "UpToDate",
        "DISK_ERROR",
        "PrimaryUnreachable",
        "ForcedPrimary",
        "OutDated",
    ] {
        assert!(words.contains(w), "{w} not found in the macros: {words:?}");
    }
    let explained: BTreeSet<String> = state_words().into_iter().map(String::from).collect();
    let missing: Vec<_> = words.difference(&explained).collect();
    assert!(missing.is_empty(), "not in help states: {missing:?}");
    for w in &words {
        assert!(word(w).unwrap().contains(w), "{w}");
    }
    // As it stands on the screen.
    assert!(word("OutDated[FR]").unwrap().contains("replayed"));
    assert!(word("orphan").unwrap().contains("invalidate"));
    for letter in ["d", "c", "a", "s", "f", "r"] {
        let upper = letter.to_uppercase();
        let flags = state_groups()
            .into_iter()
            .find(|g| g.title == "Flags")
            .unwrap();
        let text = flags
            .entries
            .iter()
            .find(|e| e.names[0] == upper)
            .unwrap()
            .text[0];
        assert!(
            text.contains(&format!(" {upper} ")) && text.contains(&format!(" {letter} ")),
            "{text}"
        );
    }
}

#[test]
fn help_fits_into_80_columns() {
    let mut texts = vec![states()];
    texts.extend(cmd::all().map(of_command));
    for text in texts {
        let lines = text.lines().skip(usize::from(text.starts_with("marsadm ")));
        for l in lines {
            assert!(l.chars().count() <= 79 || !l.trim().contains(' '), "{l}");
        }
    }
}

#[test]
fn help_first_day_has_ten_commands() {
    assert_eq!(commands_of(&FIRST_DAY).count(), 10);
    let text = first_day();
    assert!(text.contains("join-resource RES DISK") && text.contains("marsadm help"));
}

#[test]
fn help_all_listed_commands_are_in_the_full_list() {
    let text = full_list(false);
    for c in listed() {
        assert!(
            text.contains(&format!("\n  {}", crate::run::usage_words(c))),
            "{}",
            c.name
        );
    }
    assert!(!text.contains("pause-sync-local"));
    assert!(full_list(true).contains("pause-sync-local"));
}

#[test]
fn help_of_unknown_words_names_the_nearest() {
    for (wrong, right) in [
        ("primry", "primary"),
        ("OutDatd", "OutDated"),
        ("stats", "states"),
    ] {
        let e = unknown(wrong).to_string();
        assert!(
            e.contains(&format!("{wrong:?}")) && e.contains(&format!("help {right}?")),
            "{e}"
        );
    }
    assert!(unknown(&"x".repeat(5000)).to_string().len() < 300);
}
