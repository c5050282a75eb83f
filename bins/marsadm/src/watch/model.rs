//! What the screen is about: facts, where one is in them, what was typed. Events change it; nothing here does I/O.
use crate::watch::facts::{Facts, ResFacts};
use crate::watch::keys::Key;
use std::collections::{BTreeMap, VecDeque};

/// Samples of the lag that are kept for each resource, one a second.
pub const SAMPLES: usize = 240;
/// A filter is no longer than a name.
const FILTER_MAX: usize = 63;

/// The page that is shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Page {
    /// All resources and hosts.
    List,
    /// One resource.
    One(String),
    /// All hosts.
    Hosts,
    /// The keys.
    Help,
}

/// What follows from a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Nothing is shown differently.
    Nothing,
    /// To be drawn.
    Draw,
    /// To be drawn from nothing: something else may be on the terminal.
    Repaint,
    /// Good bye.
    Quit,
    /// Back to the shell for a while.
    Suspend,
}

/// The state.
#[derive(Clone, Debug)]
pub struct Model {
    /// What is known.
    pub facts: Facts,
    /// Where one is.
    pub page: Page,
    /// Name of the resource that the cursor is on.
    pub selected: Option<String>,
    /// Only names with this in them.
    pub filter: String,
    /// Is the filter being typed?
    pub is_typing: bool,
    /// First line that is shown of the page, as far as there are so many.
    pub top: usize,
    /// Lines of the page that fit; told by whoever draws.
    pub height: usize,
    /// Lag, by resource.
    pub lags: BTreeMap<String, VecDeque<u64>>,
}

impl Model {
    /// The beginning: all resources, the cursor on the first.
    pub fn new(facts: Facts) -> Model {
        let mut model = Model {
            facts: Facts::default(),
            page: Page::List,
            selected: None,
            filter: String::new(),
            is_typing: false,
            top: 0,
            height: 1,
            lags: BTreeMap::new(),
        };
        model.second(facts);
        model
    }

    /// New facts; true when they differ.
    pub fn facts(&mut self, facts: Facts) -> bool {
        let differs = self.facts != facts;
        self.facts = facts;
        self.keep_cursor();
        differs
    }

    /// A second has passed.
    pub fn second(&mut self, facts: Facts) {
        self.facts(facts);
        let names: Vec<&str> = self
            .facts
            .resources
            .iter()
            .map(|r| r.name.as_str())
            .collect();
        self.lags.retain(|name, _| names.contains(&name.as_str()));
        for r in &self.facts.resources {
            let samples = self.lags.entry(r.name.clone()).or_default();
            samples.push_back(r.lag.unwrap_or(0));
            while samples.len() > SAMPLES {
                samples.pop_front();
            }
        }
    }

    /// The resources that the filter leaves.
    pub fn listed(&self) -> Vec<&ResFacts> {
        let wanted = self.filter.to_lowercase();
        self.facts
            .resources
            .iter()
            .filter(|r| r.name.to_lowercase().contains(&wanted))
            .collect()
    }

    /// Place of the cursor among [`Model::listed`].
    pub fn cursor(&self) -> usize {
        let listed = self.listed();
        let place = |name: &String| listed.iter().position(|r| r.name == *name);
        self.selected.as_ref().and_then(place).unwrap_or(0)
    }

    /// The resource that is open.
    pub fn open(&self) -> Option<&ResFacts> {
        let Page::One(name) = &self.page else {
            return None;
        };
        self.facts.resources.iter().find(|r| r.name == *name)
    }

    fn select(&mut self, place: usize) {
        let listed = self.listed();
        let last = listed.len().saturating_sub(1);
        self.selected = listed.get(place.min(last)).map(|r| r.name.clone());
    }

    /// The cursor is on something that is listed.
    fn keep_cursor(&mut self) {
        let is_there = |name: &String| self.listed().iter().any(|r| r.name == *name);
        if !self.selected.as_ref().is_some_and(is_there) {
            self.select(0);
        }
    }

    fn go(&mut self, page: Page) -> Outcome {
        self.page = page;
        self.top = 0;
        Outcome::Draw
    }

    /// Something was pressed.
    pub fn key(&mut self, key: Key) -> Outcome {
        match key {
            Key::CtrlC => return Outcome::Quit,
            Key::CtrlZ => return Outcome::Suspend,
            Key::CtrlL => return Outcome::Repaint,
            Key::Other => return Outcome::Nothing,
            _ => {}
        }
        if self.is_typing {
            return self.typed(key);
        }
        match (key, &self.page) {
            (Key::Char('q'), _) => Outcome::Quit,
            (Key::Char('?'), Page::Help) => self.go(Page::List),
            (Key::Char('?'), _) => self.go(Page::Help),
            (Key::Char('h'), Page::Hosts) => self.go(Page::List),
            (Key::Char('h'), _) => self.go(Page::Hosts),
            (Key::Char('/'), _) => {
                self.is_typing = true;
                self.go(Page::List)
            }
            (Key::Esc, Page::List) if !self.filter.is_empty() => {
                self.filter.clear();
                self.keep_cursor();
                Outcome::Draw
            }
            (Key::Esc | Key::Backspace, Page::One(_) | Page::Hosts | Page::Help) => {
                self.go(Page::List)
            }
            (Key::Enter, Page::List) => match &self.selected {
                Some(name) => self.go(Page::One(name.clone())),
                None => Outcome::Nothing,
            },
            (Key::Enter, _) => Outcome::Nothing,
            (key, Page::List) => self.move_cursor(key),
            (key, Page::One(_)) if matches!(key, Key::Char('n' | 'p')) => {
                self.move_cursor(match key {
                    Key::Char('n') => Key::Down,
                    _ => Key::Up,
                });
                match self.selected.clone() {
                    Some(name) => self.go(Page::One(name)),
                    None => Outcome::Nothing,
                }
            }
            (key, _) => self.scroll(key),
        }
    }

    fn typed(&mut self, key: Key) -> Outcome {
        match key {
            Key::Char(c) if self.filter.chars().count() < FILTER_MAX && !c.is_control() => {
                self.filter.push(c);
            }
            Key::Backspace if self.filter.is_empty() => self.is_typing = false,
            Key::Backspace => {
                self.filter.pop();
            }
            Key::CtrlU => self.filter.clear(),
            Key::Esc => {
                self.filter.clear();
                self.is_typing = false;
            }
            Key::Enter => self.is_typing = false,
            Key::Up | Key::Down | Key::PageUp | Key::PageDown | Key::Home | Key::End => {
                return self.move_cursor(key);
            }
            _ => return Outcome::Nothing,
        }
        self.keep_cursor();
        Outcome::Draw
    }

    fn move_cursor(&mut self, key: Key) -> Outcome {
        let (at, last) = (self.cursor(), self.listed().len().saturating_sub(1));
        let to = match moved(key, at, last, self.height) {
            Some(to) if to != at => to,
            _ => return Outcome::Nothing,
        };
        self.select(to);
        Outcome::Draw
    }

    fn scroll(&mut self, key: Key) -> Outcome {
        // Whoever draws knows how long the page is.
        match moved(key, self.top, usize::MAX, self.height) {
            Some(to) if to != self.top => {
                self.top = to;
                Outcome::Draw
            }
            _ => Outcome::Nothing,
        }
    }

    /// The part of a page of `length` lines that is shown when `height` fit, with the lines from `from` to `to` in it if possible.
    pub fn window(&mut self, length: usize, height: usize, keep: Option<(usize, usize)>) -> usize {
        self.height = height.max(1);
        if let Some((from, to)) = keep {
            self.top = self.top.max(to.saturating_sub(height)).min(from);
        }
        self.top = self.top.min(length.saturating_sub(height));
        self.top
    }
}

/// Where a key leads from `at`; `None`: nowhere.
fn moved(key: Key, at: usize, last: usize, page: usize) -> Option<usize> {
    let to = match key {
        Key::Up | Key::Char('k') => at.saturating_sub(1),
        Key::Down | Key::Char('j') => at.saturating_add(1),
        Key::PageUp => at.saturating_sub(page),
        Key::PageDown | Key::Char(' ') => at.saturating_add(page),
        Key::Home | Key::Char('g') => 0,
        Key::End | Key::Char('G') => last,
        _ => return None,
    };
    Some(to.min(last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn facts(names: &[&str]) -> Facts {
        let resource = |n: &&str| ResFacts {
            name: n.to_string(),
            lag: Some(7),
            ..ResFacts::default()
        };
        Facts {
            resources: names.iter().map(resource).collect(),
            ..Facts::default()
        }
    }
    fn type_in(model: &mut Model, text: &str) {
        for c in text.chars() {
            model.key(Key::Char(c));
        }
    }
    fn names(model: &Model) -> Vec<&str> {
        model.listed().iter().map(|r| r.name.as_str()).collect()
    }

    #[test]
    fn cursor_moves_and_stays_inside() {
        let mut m = Model::new(facts(&["a", "b", "c"]));
        assert_eq!(m.cursor(), 0);
        assert_eq!(m.key(Key::Up), Outcome::Nothing);
        assert_eq!(m.key(Key::Down), Outcome::Draw);
        assert_eq!(m.key(Key::End), Outcome::Draw);
        assert_eq!(m.selected.as_deref(), Some("c"));
        assert_eq!(m.key(Key::Down), Outcome::Nothing);
        // The resource goes, the cursor finds another one; it stays with its resource when others come.
        m.facts(facts(&["a", "b"]));
        assert_eq!(m.selected.as_deref(), Some("a"));
        m.key(Key::Down);
        m.facts(facts(&["0", "a", "b"]));
        assert_eq!((m.selected.as_deref(), m.cursor()), (Some("b"), 2));
        m.facts(facts(&[]));
        assert_eq!((m.selected.as_deref(), m.cursor()), (None, 0));
        assert_eq!(m.key(Key::Enter), Outcome::Nothing);
    }

    #[test]
    fn filter_is_typed_kept_and_taken_away() {
        let mut m = Model::new(facts(&["mail", "Data", "database"]));
        type_in(&mut m, "/DAT");
        assert_eq!(names(&m), ["Data", "database"]);
        assert!(m.is_typing);
        // A letter that is a command otherwise.
        type_in(&mut m, "q");
        assert!(names(&m).is_empty());
        m.key(Key::Backspace);
        assert_eq!(m.key(Key::Enter), Outcome::Draw);
        assert!(!m.is_typing);
        assert_eq!(m.selected.as_deref(), Some("Data"));
        assert_eq!(m.key(Key::Esc), Outcome::Draw);
        assert_eq!(names(&m).len(), 3);
        type_in(&mut m, "/x");
        m.key(Key::Esc);
        assert_eq!((m.filter.as_str(), m.is_typing), ("", false));
        assert_eq!(m.key(Key::Char('q')), Outcome::Quit);
    }

    #[test]
    fn one_resource_is_opened_and_left() {
        let mut m = Model::new(facts(&["a", "b"]));
        m.key(Key::Down);
        assert_eq!(m.key(Key::Enter), Outcome::Draw);
        assert_eq!(m.open().map(|r| r.name.as_str()), Some("b"));
        assert_eq!(m.key(Key::Char('p')), Outcome::Draw);
        assert_eq!(m.open().map(|r| r.name.as_str()), Some("a"));
        // It goes while it is open: the page stays and says so.
        m.facts(facts(&["b"]));
        assert_eq!(m.open(), None);
        assert_eq!(m.key(Key::Esc), Outcome::Draw);
        assert_eq!(m.page, Page::List);
        for (key, page) in [('?', Page::Help), ('h', Page::Hosts), ('h', Page::List)] {
            m.key(Key::Char(key));
            assert_eq!(m.page, page);
        }
    }

    #[test]
    fn ctrl_keys_work_everywhere() {
        let mut m = Model::new(facts(&["a"]));
        for before in ["", "/", "?", "h", "\r"] {
            type_in(&mut m, before);
            assert_eq!(m.key(Key::CtrlC), Outcome::Quit);
            assert_eq!(m.key(Key::CtrlZ), Outcome::Suspend);
            assert_eq!(m.key(Key::CtrlL), Outcome::Repaint);
        }
    }

    #[test]
    fn window_shows_the_cursor_and_no_emptiness() {
        let mut m = Model::new(facts(&[]));
        assert_eq!(m.window(10, 4, Some((5, 7))), 3);
        assert_eq!(m.window(10, 4, Some((4, 5))), 3);
        assert_eq!(m.window(10, 4, Some((2, 3))), 2);
        m.top = usize::MAX;
        assert_eq!(m.window(10, 4, None), 6);
        assert_eq!(m.window(3, 4, None), 0);
        assert_eq!(m.window(0, 0, Some((0, 1))), 0);
    }

    #[test]
    fn lags_are_kept_for_a_while_and_forgotten_with_the_resource() {
        let mut m = Model::new(facts(&["a"]));
        for _ in 0..2 * SAMPLES {
            m.second(facts(&["a"]));
        }
        assert_eq!(m.lags.get("a").map(VecDeque::len), Some(SAMPLES));
        m.second(facts(&["b"]));
        assert!(!m.lags.contains_key("a"));
    }

    fn any_key() -> impl Strategy<Value = Key> {
        prop_oneof![
            any::<char>().prop_map(Key::Char),
            prop::sample::select("qjkgGh?/ np".chars().collect::<Vec<_>>()).prop_map(Key::Char),
            prop::sample::select(vec![
                Key::Up,
                Key::Down,
                Key::PageUp,
                Key::PageDown,
                Key::Home,
                Key::End,
                Key::Enter,
                Key::Esc,
                Key::Backspace,
                Key::CtrlL,
                Key::CtrlU,
                Key::Other,
            ]),
        ]
    }

    proptest! {
        /// Whatever is pressed: the cursor is on something that is listed, if anything is.
        #[test]
        fn any_keys(keys in prop::collection::vec(any_key(), 0..60)) {
            let mut m = Model::new(facts(&["data", "mail", "web", "jq"]));
            for key in keys {
                m.key(key);
                m.window(9, 4, None);
                prop_assert_eq!(m.selected.is_some(), !m.listed().is_empty());
                prop_assert!(m.listed().is_empty() || m.cursor() < m.listed().len());
                prop_assert!(m.filter.chars().count() <= FILTER_MAX);
            }
        }
    }
}
