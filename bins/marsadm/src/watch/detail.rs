//! The page of one resource.
use crate::watch::draw::{Look, job_line, lag_text, spark};
use crate::watch::facts::{MemberFacts, Mood, ResFacts, Switch};
use crate::watch::text::{fit, pad, short_bytes, short_span, width};
use ratatui_core::style::{Modifier, Style};
use ratatui_core::text::{Line, Span};
use std::collections::VecDeque;

fn head(text: &str) -> Line<'static> {
    let bold = Style::default().add_modifier(Modifier::BOLD);
    Line::styled(text.to_string(), bold)
}

/// Everything about it, of any length.
pub fn page(
    r: &ResFacts,
    lags: Option<&VecDeque<u64>>,
    look: Look,
    columns: usize,
) -> Vec<Line<'static>> {
    let inner = columns.saturating_sub(14);
    let fact = |name: &str, value: Span<'static>| {
        Line::from(vec![Span::raw(format!(" {name:<12} ")), value])
    };
    let plain = |name: &str, value: &str| fact(name, Span::raw(fit(value, inner)));
    let mut lines: Vec<Line<'static>> = Vec::new();
    for s in &r.split {
        lines.push(Line::styled(fit(s, columns), look.style(Mood::Bad)));
    }
    lines.push(fact("Role", look.word(&r.role, inner)));
    lines.push(plain("Primary", r.primary.as_deref().unwrap_or("(none)")));
    lines.push(fact("Disk", look.word(&r.disk, inner)));
    lines.push(fact("Replication", look.word(&r.repl, inner)));
    lines.push(plain("Flags", &r.flags));
    let size = r
        .size
        .map_or("?".into(), |n| format!("{} ({n} bytes)", short_bytes(n)));
    lines.push(plain("Size", &size));
    for d in &r.device {
        let (name, value) = d.split_once(' ').unwrap_or((d, ""));
        lines.push(plain(name, value));
    }
    lines.push(plain("Lag", &lag_text(r)));
    let samples = lags
        .map(|l| spark(l.iter(), inner, look))
        .unwrap_or_default();
    lines.push(plain("", &samples));
    lines.push(head("Positions"));
    for j in &r.jobs {
        lines.push(Line::from(format!(
            " {}",
            job_line(j, columns.saturating_sub(1))
        )));
    }
    lines.push(head("Members"));
    lines.extend(members(&r.members, look, columns));
    if !r.messages.is_empty() || !r.infos.is_empty() {
        lines.push(head("Messages"));
    }
    for (list, mood) in [(&r.messages, Mood::Bad), (&r.infos, Mood::Plain)] {
        lines.extend(list.iter().map(|m| {
            let text = fit(&format!(" {m}"), columns);
            Line::styled(text, look.style(mood))
        }));
    }
    lines.push(head(&format!("Logs here: {}", r.logs.len())));
    for (name, bytes) in &r.logs {
        let text = format!(" {name} {}", short_bytes(*bytes));
        lines.push(Line::from(fit(&text, columns)));
    }
    lines
}

/// `+` on, `-` off; a word when it is not yet what it shall be.
fn switch(s: &Switch) -> String {
    let state = match (s.wanted, s.actual) {
        (true, true) => "on",
        (true, false) => "allowed",
        (false, true) => "stopping",
        (false, false) => "OFF",
    };
    format!("{} {state}", s.name)
}

/// Two or three lines for each member: names may be long and terminals narrow.
fn members(all: &[MemberFacts], look: Look, columns: usize) -> Vec<Line<'static>> {
    let name = all.iter().map(|m| width(&m.host)).max().unwrap_or(0);
    let name = name.clamp(4, columns.saturating_sub(50).clamp(8, 63));
    let inner = columns.saturating_sub(3);
    let mut lines = Vec::new();
    for m in all {
        lines.push(Line::from(vec![
            Span::raw(format!(" {} ", pad(&m.host, name))),
            look.word(&m.role, width(&m.role).max(9)),
            Span::raw(" "),
            look.word(&m.disk, width(&m.disk).max(12)),
            Span::raw(" "),
            look.word(&m.repl, width(&m.repl).max(11)),
            Span::raw(format!(" {}", m.flags)),
        ]));
        let switches: Vec<String> = m.switches.iter().map(switch).collect();
        lines.push(Line::from(format!(
            "   {}",
            fit(&switches.join(", "), inner)
        )));
        let age = match m.age {
            Some(age) => format!("heartbeat {} ago", short_span(age)),
            None => "no heartbeat".into(),
        };
        let position = format!("replay {}, {age}", m.position);
        lines.push(Line::from(format!("   {}", fit(&position, inner))));
    }
    lines
}
