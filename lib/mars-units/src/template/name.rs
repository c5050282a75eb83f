//! Template names: substitution per resource, and matching of `~{var}` and `^{var}`.
use super::subst::{Subst, form, is_variable};
use super::{Macros, Syntax};
use std::collections::BTreeSet;

/// Most `~{}` in one name.
const WILD_MAX: usize = 8;

/// A piece of a template name.
#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    /// Text in which `@…` is substituted.
    Text(String),
    /// `~{var}`: at least one character.
    Wild(String),
}

/// The name of a template, taken apart.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Name {
    parts: Vec<Part>,
    /// Nothing in it is substituted or matched.
    pub plain: bool,
}

/// A name with everything substituted but the `~{}`.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Pattern(Vec<Part>);

impl Name {
    pub fn parse(name: &str, syntax: Syntax) -> Result<Name, String> {
        let wild = ['~', syntax.matching];
        let mut parts = Vec::new();
        let mut text = String::new();
        let mut plain = true;
        let mut rest = name;
        while let Some(first) = rest.chars().next() {
            if let Some(f) = form(rest, &[syntax.subst]) {
                // Kept whole: what stands in its braces is not matched.
                plain = false;
                let (used, after) = rest.split_at(f.len);
                text.push_str(used);
                rest = after;
            } else if let Some(f) = form(rest, &wild).filter(|f| f.name.is_empty()) {
                plain = false;
                if !is_variable(f.arg) {
                    return Err(format!("{:?} is no name of a variable", f.arg));
                }
                let wild = Part::Wild(f.arg.to_string());
                if parts.contains(&wild) {
                    return Err(format!("{{{}}} occurs twice", f.arg));
                }
                parts.push(Part::Text(std::mem::take(&mut text)));
                parts.push(wild);
                rest = rest.get(f.len..).unwrap_or("");
            } else {
                text.push(first);
                rest = rest.get(first.len_utf8()..).unwrap_or("");
            }
        }
        parts.push(Part::Text(text));
        if parts.iter().filter(|p| matches!(p, Part::Wild(_))).count() > WILD_MAX {
            return Err(format!("more than {WILD_MAX} matches in one name"));
        }
        Ok(Name { parts, plain })
    }

    pub fn has_wild(&self) -> bool {
        self.parts.iter().any(|p| matches!(p, Part::Wild(_)))
    }

    /// Does it have the name of the resource as people write it, `@{res}`?
    pub fn has_plain_resource(&self, syntax: Syntax) -> bool {
        let form = format!("{}{{res}}", syntax.subst);
        self.parts
            .iter()
            .any(|p| matches!(p, Part::Text(t) if t.contains(&form)))
    }

    /// The name for one resource; `macros` stands at this resource.
    pub fn instantiate(
        &self,
        syntax: Syntax,
        macros: &mut dyn Macros,
        origin: &str,
        warnings: &mut Vec<String>,
    ) -> Result<Pattern, String> {
        let mut subst = Subst::new(syntax, macros, origin, warnings);
        let mut parts = Vec::with_capacity(self.parts.len());
        for part in &self.parts {
            parts.push(match part {
                Part::Text(t) => Part::Text(subst.text(t)?),
                wild @ Part::Wild(_) => wild.clone(),
            });
        }
        Ok(Pattern(parts))
    }
}

impl Pattern {
    /// The name, when nothing in it is matched.
    pub fn exact(&self) -> Option<&str> {
        match self.0.as_slice() {
            [Part::Text(t)] => Some(t),
            _ => None,
        }
    }

    /// The smaller, the more of a unit name is said by the pattern: number of matches, then literal bytes.
    pub fn vagueness(&self) -> (usize, std::cmp::Reverse<usize>) {
        let text = self.0.iter().map(|p| match p {
            Part::Text(t) => t.len(),
            Part::Wild(_) => 0,
        });
        let wild = self.0.iter().filter(|p| matches!(p, Part::Wild(_)));
        (wild.count(), std::cmp::Reverse(text.sum()))
    }

    /// Matches a unit name; the variables in order of the name. Each takes as much as possible, like the `*` of a shell.
    pub fn matches(&self, unit: &str) -> Option<Vec<(String, String)>> {
        let mut found = Vec::new();
        let mut dead = BTreeSet::new();
        self.match_from(0, unit, 0, &mut found, &mut dead)
            .then_some(found)
    }

    /// `dead`: pairs of part and position that lead nowhere, so that the work is bounded.
    fn match_from(
        &self,
        part: usize,
        unit: &str,
        at: usize,
        found: &mut Vec<(String, String)>,
        dead: &mut BTreeSet<(usize, usize)>,
    ) -> bool {
        let rest = unit.get(at..).unwrap_or("");
        let var = match self.0.get(part) {
            None => return rest.is_empty(),
            Some(Part::Text(t)) => {
                return rest.starts_with(t.as_str())
                    && self.match_from(part + 1, unit, at + t.len(), found, dead);
            }
            Some(Part::Wild(var)) => var,
        };
        if dead.contains(&(part, at)) {
            return false;
        }
        let ends: Vec<usize> = rest.char_indices().map(|(i, c)| i + c.len_utf8()).collect();
        for end in ends.into_iter().rev() {
            let Some(value) = rest.get(..end) else {
                continue;
            };
            found.push((var.clone(), value.to_string()));
            if self.match_from(part + 1, unit, at + end, found, dead) {
                return true;
            }
            found.pop();
        }
        dead.insert((part, at));
        false
    }
}
