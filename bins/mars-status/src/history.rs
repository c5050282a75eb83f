//! --history (mars-status.md 7): every log version, and how far each host is with it.
use crate::text::{Class, Text};
use mars_macro::report::{MemberReport, ResourceReport, VersionReport};
use std::collections::BTreeMap;

/// What is left is counted in blocks of this size.
const BLOCK: u64 = 4096;

fn hex(md5: &[u8; 16]) -> String {
    md5.iter().map(|b| format!("{b:02x}")).collect()
}

/// Bytes of the log that the member has applied.
fn applied(m: &MemberReport, nr: u32, len: u64) -> u64 {
    match &m.position {
        Some(p) if p.log.nr > nr => len,
        Some(p) if p.log.nr == nr => p.pos,
        _ => 0,
    }
}

/// The block of one resource.
pub fn history(t: &mut Text, r: &ResourceReport) {
    t.line("    -> History Replay/Status");
    let mut versions: BTreeMap<u32, Vec<(&MemberReport, &VersionReport)>> = BTreeMap::new();
    for m in &r.members {
        for v in &m.versions {
            versions.entry(v.log.nr).or_default().push((m, v));
        }
    }
    if versions.is_empty() {
        t.hint(Class::Work, "Logfile wait for starting ...");
    }
    for (nr, links) in &versions {
        version(t, r, *nr, links);
    }
}

fn version(t: &mut Text, r: &ResourceReport, nr: u32, links: &[(&MemberReport, &VersionReport)]) {
    let file = r.logs.iter().filter(|l| l.log.nr == nr).map(|l| l.size);
    let size = links.iter().map(|(_, v)| v.len).chain(file.clone()).max();
    let size = size.unwrap_or(0);
    t.line(format!("Logfile Version: {nr:09} - Size: {size}"));
    let mut open = 0u64;
    for (m, v) in links {
        let pos = applied(m, nr, v.len).min(size);
        let todo = size.saturating_sub(pos);
        open = open.max(todo);
        t.line(format!(
            "Source: {}, Check: {}, ReplayPosition: {pos}, Todo: {} blocks",
            m.host,
            hex(&v.md5),
            todo.div_ceil(BLOCK)
        ));
    }
    let nodes = r.members.len();
    let found = links.len();
    let equal = |f: fn(&VersionReport) -> String| {
        let first = links.first().map(|(_, v)| f(v));
        links.iter().all(|(_, v)| Some(f(v)) == first)
    };
    let sizes = equal(|v| v.len.to_string());
    let sums = equal(|v| hex(&v.md5));
    let names = equal(|v| v.log.to_string());
    let is_used = r
        .members
        .iter()
        .any(|m| m.position.as_ref().is_some_and(|p| p.log.nr == nr));
    let has_file = file.clone().next().is_some();
    let is_newest = r
        .members
        .iter()
        .flat_map(|m| &m.versions)
        .all(|v| v.log.nr <= nr);
    let mut fine = true;
    if found < nodes && is_used {
        t.hint(
            Class::Hint,
            format!("Count of Logfiles different = (Cluster has {nodes} Nodes, but only find {found} Node)"),
        );
        fine = false;
    }
    if !names || (sizes && !sums) {
        t.hint(
            Class::Hint,
            "not equal Checksums and same size, check for SPLIT-BRAIN",
        );
        return;
    }
    if open > 0 {
        t.hint(Class::Work, "Replay in progress ...");
    } else if !sizes && !is_used {
        t.hint(
            Class::Hint,
            "Logfiles has not equal size and same Checksums",
        );
    } else if is_used || is_newest {
        t.hint(Class::Work, "logfiles are actual and unused.");
    } else if !has_file {
        t.hint(Class::Work, "Version is deleted the next log-rotate ...");
    } else if fine && r.deletable.iter().any(|l| l.nr == nr) {
        t.hint(
            Class::Todo,
            "Logfiles has all equal Sizes and Checksums, can be deleted ...",
        );
    }
}
