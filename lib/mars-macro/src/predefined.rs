//! The complex macros that come with the program: the files of `templates/macros`.
use crate::lang::Source;
use crate::names::Index;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::LazyLock;

macro_rules! texts {
    ($($name:literal,)*) => {
        /// Name and text, by name.
        const TEXTS: &[(&str, &str)] = &[
            $(($name, include_str!(concat!("../../../templates/macros/", $name, ".tpl"))),)*
        ];
    };
}

texts! {
    "1and1",
    "amount",
    "comminfo",
    "commstate",
    "cstate",
    "default",
    "default-device",
    "default-footer",
    "default-global",
    "default-header",
    "default-hints",
    "default-resource",
    "diskstate",
    "diskstate-1and1",
    "dstate",
    "fetch-line",
    "fetch-line-1and1",
    "flags",
    "flags-1and1",
    "outdated-flags",
    "outdated-flags-1and1",
    "primarynode",
    "primarynode-1and1",
    "replay-line",
    "replay-line-1and1",
    "replinfo",
    "replinfo-1and1",
    "replstate",
    "replstate-1and1",
    "resource-errors",
    "resource-errors-1and1",
    "role",
    "role-1and1",
    "state",
    "status",
    "sync-line",
    "sync-line-1and1",
    "syncinfo",
    "syncinfo-1and1",
    "todo-role",
}

/// Names of the predefined macros.
pub fn predefined_names() -> Vec<&'static str> {
    TEXTS.iter().map(|(n, _)| *n).collect()
}

/// Text of a predefined macro as it stands in its file; `_` for `-`, or no separators, are accepted in the name.
pub fn predefined_text(name: &str) -> Option<(&'static str, &'static str)> {
    static INDEX: LazyLock<Index> = LazyLock::new(|| Index::new(predefined_names()));
    let known = INDEX.find(name)?;
    TEXTS.iter().find(|(n, _)| *n == known).copied()
}

thread_local! {
    /// Each text is prepared once.
    static READY: RefCell<BTreeMap<&'static str, Rc<Source>>> = const { RefCell::new(BTreeMap::new()) };
}

/// The same, ready to be evaluated.
pub(crate) fn predefined(name: &str) -> Option<Rc<Source>> {
    let (known, text) = predefined_text(name)?;
    READY.with_borrow_mut(|ready| {
        let source = ready
            .entry(known)
            .or_insert_with(|| Source::file(&format!("{known}.tpl"), text));
        Some(Rc::clone(source))
    })
}
