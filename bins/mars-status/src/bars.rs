//! --status (mars-status.md 8): bars for size and sync, and for fetch and replay over the logs of the primary.
use crate::text::Text;
use mars_macro::report::{MemberReport, ResourceReport};
use mars_tree::LogName;

/// Width of the bars.
const WIDTH: usize = 100;
/// Width of names.
const NAME: usize = 20;
/// More log versions are not drawn apart: each needs two columns.
const VERSIONS: usize = 40;

/// Columns of `part` of `whole`.
fn columns(part: u64, whole: u64, width: usize) -> usize {
    if whole == 0 {
        return width;
    }
    let n = u128::from(part.min(whole)) * (width as u128) / u128::from(whole);
    usize::try_from(n).unwrap_or(width).min(width)
}

/// `>>>>X` of `n` columns; `fill` up to `width`.
fn bar(n: usize, end: char, width: usize, fill: char) -> String {
    let mut bar = ">".repeat(n.saturating_sub(1));
    if n > 0 {
        bar.push(end);
    }
    bar.extend(std::iter::repeat_n(fill, width.saturating_sub(n)));
    bar
}

/// The bars of one resource.
pub fn bars(t: &mut Text, r: &ResourceReport, ascii: bool) {
    let (corner, dash, side) = if ascii {
        ('+', '-', '|')
    } else {
        ('├', '─', '│')
    };
    t.line(format!("{corner}{dash} {}", r.name));
    let largest = r
        .members
        .iter()
        .filter_map(|m| m.disk_size)
        .chain(r.size)
        .max()
        .unwrap_or(0);
    for m in &r.members {
        let size = m.disk_size.or(r.size).unwrap_or(0);
        let synced = m.sync.map_or(0, |s| s.pos);
        let line = |part: u64, end| {
            // Without any size there is nothing to draw.
            let n = if largest == 0 {
                0
            } else {
                columns(part, largest, WIDTH)
            };
            bar(n, end, WIDTH, ' ')
        };
        t.line(format!("{side} {:NAME$} {}", m.host, line(size, 'R')));
        t.line(format!("{side} {:NAME$} {}", "", line(synced, 'S')));
    }
    let logs = primary_logs(r);
    if logs.is_empty() {
        return;
    }
    let width = (WIDTH / logs.len()).saturating_sub(1).max(1);
    for m in &r.members {
        let mut replayed = String::new();
        let mut fetched = String::new();
        for (log, len) in &logs {
            let (a, b) = done(m, log, *len);
            replayed.push_str(&bar(columns(a, *len, width), 'R', width, '!'));
            fetched.push_str(&bar(columns(b, *len, width), 'F', width, '!'));
            replayed.push(side);
            fetched.push(side);
        }
        t.line(format!("{side} {:NAME$} {replayed}", m.host));
        t.line(format!("{side} {:NAME$} {fetched}", ""));
    }
}

/// The newest logs that the primary knows, with their lengths.
fn primary_logs(r: &ResourceReport) -> Vec<(LogName, u64)> {
    let primary = r
        .members
        .iter()
        .find(|m| m.designated)
        .or(r.members.first());
    let mut logs: Vec<(LogName, u64)> = primary
        .iter()
        .flat_map(|m| &m.versions)
        .map(|v| (v.log.clone(), v.len))
        .collect();
    let surplus = logs.len().saturating_sub(VERSIONS);
    logs.drain(..surplus);
    logs
}

/// Bytes of the log that are applied, and that are here.
fn done(m: &MemberReport, log: &LogName, len: u64) -> (u64, u64) {
    let Some(p) = &m.position else {
        return (0, 0);
    };
    let known = m
        .versions
        .iter()
        .filter(|v| v.log == *log)
        .map(|v| v.len)
        .max()
        .unwrap_or(0);
    let (applied, here) = match p.log.nr.cmp(&log.nr) {
        std::cmp::Ordering::Greater => (len, len),
        std::cmp::Ordering::Equal if p.log == *log => {
            let behind = match (m.fetch, m.work) {
                (Some(f), Some(w)) => f.pos.saturating_sub(w.pos),
                _ => 0,
            };
            (p.pos, p.pos.saturating_add(behind).max(known))
        }
        _ => (0, known),
    };
    (applied.min(len), here.min(len))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_have_their_width() {
        for (n, w) in [(0, 10), (1, 10), (10, 10), (3, 1)] {
            let b = bar(n, 'R', w, '!');
            assert_eq!(b.chars().count(), n.max(w));
        }
        assert_eq!(bar(3, 'R', 5, '!'), ">>R!!");
        assert_eq!(columns(u64::MAX, 1, 50), 50);
        assert_eq!(columns(1, 2, 50), 25);
    }
}
