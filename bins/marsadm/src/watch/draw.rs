//! From the state to a frame: the frame of every page, the list of resources, the hosts.
use crate::watch::detail;
use crate::watch::facts::{Facts, HostFacts, Job, Mood, ResFacts, mood};
use crate::watch::model::{Model, Page};
use crate::watch::text::{fit, pad, percent, short_bytes, short_span, width};
use ratatui_core::buffer::Buffer;
use ratatui_core::layout::Rect;
use ratatui_core::style::{Color, Modifier, Style};
use ratatui_core::terminal::Frame;
use ratatui_core::text::{Line, Span};

/// What the terminal can do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Look {
    /// Colours; without them the words say everything, too.
    pub colors: bool,
    /// Characters beyond ASCII.
    pub unicode: bool,
}

impl Look {
    /// Of a word that is good or bad.
    pub fn style(self, mood: Mood) -> Style {
        let style = Style::default();
        match (mood, self.colors) {
            (Mood::Good, true) => style.fg(Color::Green),
            (Mood::Busy, true) => style.fg(Color::Yellow),
            (Mood::Bad, true) => style.fg(Color::Red).add_modifier(Modifier::BOLD),
            (Mood::Bad, false) => style.add_modifier(Modifier::BOLD),
            _ => style,
        }
    }

    /// A word in the style that it deserves.
    pub fn word(self, word: &str, columns: usize) -> Span<'static> {
        Span::styled(pad(word, columns), self.style(mood(word)))
    }

    fn steps(self) -> [char; 8] {
        match self.unicode {
            true => ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'],
            false => ['_', '.', ':', '-', '=', '+', '*', '#'],
        }
    }
}

/// The last samples as bars, the highest of them full.
pub fn spark<'a>(
    samples: impl DoubleEndedIterator<Item = &'a u64>,
    columns: usize,
    look: Look,
) -> String {
    let mut last: Vec<u64> = samples.rev().take(columns).copied().collect();
    last.reverse();
    let top = u128::from(last.iter().copied().max().unwrap_or(0).max(1));
    let steps = look.steps();
    let bar = |n: &u64| {
        let step = (u128::from(*n) * 7).div_ceil(top);
        usize::try_from(step)
            .ok()
            .and_then(|s| steps.get(s))
            .copied()
    };
    last.iter().filter_map(bar).collect()
}

/// `[=====>....]`, exactly so many columns.
pub fn bar(pos: u64, size: u64, columns: usize) -> String {
    let inner = columns.saturating_sub(2);
    if inner == 0 {
        return String::new();
    }
    let done = u128::from(pos.min(size)) * inner as u128 / u128::from(size.max(1));
    let done = usize::try_from(done).unwrap_or(inner).min(inner);
    let mut text = "=".repeat(done);
    if done < inner {
        text.push('>');
        text.push_str(&".".repeat(inner - done - 1));
    }
    format!("[{text}]")
}

/// `sync    [====>....]  45.2%  452 M of 1000 M  10 M/s  55 s`
pub fn job_line(job: &Job, columns: usize) -> String {
    let mut figures = format!(
        " {:>6}  {} of {}",
        percent(job.pos, job.size),
        short_bytes(job.pos),
        short_bytes(job.size)
    );
    if job.rate > 0 {
        figures.push_str(&format!("  {}/s", short_bytes(job.rate)));
    }
    if let Some(secs) = job.remain.filter(|_| job.rest() > 0) {
        figures.push_str(&format!("  {} to go", short_span(secs)));
    }
    let name = pad(&job.name, width(&job.name).clamp(7, 24));
    let rest = columns.saturating_sub(1 + width(&name) + width(&figures));
    let rest = rest.min(30);
    let bar = if rest >= 6 {
        bar(job.pos, job.size, rest)
    } else {
        String::new()
    };
    fit(&format!("{name} {bar}{figures}"), columns)
}

/// How much the acting host, or the slowest member, is behind.
pub fn lag_text(r: &ResFacts) -> String {
    match (r.lag, r.lag_secs) {
        (None, _) => "?".into(),
        (Some(0), _) => "0 B".into(),
        (Some(n), None) => short_bytes(n),
        (Some(n), Some(s)) => format!("{} {}", short_bytes(n), short_span(s)),
    }
}

fn put(buffer: &mut Buffer, area: Rect, lines: &[Line<'_>]) {
    for (line, y) in lines.iter().zip(area.top()..area.bottom()) {
        buffer.set_line(area.x, y, line, area.width);
    }
}

/// Cuts `height` lines off the top.
fn cut(area: &mut Rect, height: usize) -> Rect {
    let height = u16::try_from(height).unwrap_or(u16::MAX).min(area.height);
    let top = Rect { height, ..*area };
    area.y += height;
    area.height -= height;
    top
}

/// Draws everything. The state keeps where it is scrolled to.
pub fn draw(frame: &mut Frame<'_>, model: &mut Model, look: Look) {
    let mut area = frame.area();
    let buffer = frame.buffer_mut();
    let columns = usize::from(area.width);
    if area.height == 0 || columns == 0 {
        return;
    }
    if area.height >= 2 {
        let bottom = Rect {
            y: area.bottom() - 1,
            height: 1,
            ..area
        };
        area.height -= 1;
        put(buffer, bottom, &[help_line(model, columns)]);
    }
    if area.height >= 2 {
        let top = cut(&mut area, 1);
        put(buffer, top, &[title(model, columns)]);
    }
    let notes = notes(&model.facts, look, columns);
    let notes_height = notes.len().min(usize::from(area.height) / 4);
    put(buffer, cut(&mut area, notes_height), &notes);
    let lines = match &model.page {
        Page::List => return list(buffer, area, model, look),
        Page::One(name) => match model.open() {
            Some(r) => detail::page(r, model.lags.get(name), look, columns),
            None => vec![Line::from(fit(
                &format!("resource {name} is gone; Esc goes back"),
                columns,
            ))],
        },
        Page::Hosts => hosts(&model.facts.hosts, look, columns),
        Page::Help => KEYS.iter().map(|l| Line::from(fit(l, columns))).collect(),
    };
    scrolled(buffer, area, model, &lines, None);
}

fn scrolled(
    buffer: &mut Buffer,
    area: Rect,
    model: &mut Model,
    lines: &[Line<'_>],
    keep: Option<(usize, usize)>,
) {
    let top = model.window(lines.len(), usize::from(area.height), keep);
    put(buffer, area, lines.get(top..).unwrap_or_default());
}

const KEYS: [&str; 16] = [
    "Up k, Down j        move, or scroll",
    "PgUp, PgDn, Space   by a page",
    "Home g, End G       to the first, to the last",
    "Enter               open the resource under the cursor",
    "n, p                the next or previous resource while one is open",
    "Esc, Backspace      back to the list; there, Esc takes the filter away",
    "/                   show only resources whose names contain what follows;",
    "                    Enter keeps the filter, Esc takes it away",
    "h                   all hosts",
    "?                   this page",
    "Ctrl-L              paint again",
    "Ctrl-Z              back to the shell for a while (fg comes back)",
    "q, Ctrl-C           quit",
    "",
    "The lag is what this host has not applied of the logs; on the primary, what the slowest",
    "member has not. The bars beside it are its last seconds, the highest of them full.",
];

fn reversed() -> Style {
    Style::default().add_modifier(Modifier::REVERSED)
}

fn title(model: &Model, columns: usize) -> Line<'static> {
    let facts = &model.facts;
    let what = match &model.page {
        Page::One(name) => format!("resource {name}"),
        Page::Hosts => count(facts.hosts.len(), "host"),
        Page::Help => "keys".into(),
        Page::List if model.filter.is_empty() => {
            format!(
                "{}, {}",
                count(facts.resources.len(), "resource"),
                count(facts.hosts.len(), "host")
            )
        }
        Page::List => format!(
            "{} of {}",
            model.listed().len(),
            count(facts.resources.len(), "resource")
        ),
    };
    let left = format!(" MARS on {}: {what}", facts.host);
    let space = columns.saturating_sub(width(&left) + 1);
    let right = if width(&facts.time) <= space {
        format!("{:>space$} ", facts.time)
    } else {
        String::new()
    };
    Line::styled(pad(&format!("{left}{right}"), columns), reversed())
}

fn count(n: usize, what: &str) -> String {
    match n {
        1 => format!("1 {what}"),
        n => format!("{n} {what}s"),
    }
}

fn help_line(model: &Model, columns: usize) -> Line<'static> {
    let filter = &model.filter;
    let text = match &model.page {
        _ if model.is_typing => format!("/{filter}_   Enter keep  Esc drop"),
        Page::List if !filter.is_empty() => {
            format!("filter {filter}: Esc drop  / change  Enter open  q quit  ? keys")
        }
        Page::List => "q quit  / filter  Up Down move  Enter open  h hosts  ? keys".into(),
        Page::One(_) => "q quit  Esc back  Up Down scroll  n p next, previous  ? keys".into(),
        _ => "q quit  Esc back  Up Down scroll".into(),
    };
    Line::styled(pad(&format!(" {text}"), columns), reversed())
}

fn notes(facts: &Facts, look: Look, columns: usize) -> Vec<Line<'static>> {
    let engine = (!facts.engine_running)
        .then_some("mars-meta is not running here, what follows may be old; use marsadm start");
    engine
        .into_iter()
        .chain(facts.notes.iter().map(String::as_str))
        .map(|n| Line::styled(fit(n, columns), look.style(Mood::Bad)))
        .collect()
}

const HEADS: [&str; 5] = ["Resource", "Role", "Disk", "Replication", "Lag"];
/// No column needs to be wider, and none is made narrower before others are left out.
const WIDEST: [usize; 5] = [63, 14, 24, 19, 16];
const NARROWEST: [usize; 5] = [8, 9, 10, 9, 6];

/// Widths of the columns that fit behind the cursor, each with a space behind it; what is left over is for the sparkline.
pub fn widths(wanted: [usize; 5], columns: usize) -> (Vec<usize>, usize) {
    let mut widths: Vec<usize> = wanted
        .iter()
        .zip(WIDEST)
        .zip(NARROWEST)
        .map(|((w, most), least)| (*w).clamp(least, most))
        .collect();
    let room = columns.saturating_sub(1);
    let total = |w: &[usize]| w.iter().map(|n| n + 1).sum::<usize>();
    while total(&widths) > room {
        let narrower = widths
            .iter()
            .enumerate()
            .filter(|(i, w)| NARROWEST.get(*i).is_some_and(|least| *w > least))
            .max_by_key(|(_, w)| **w)
            .map(|(i, _)| i);
        match narrower {
            Some(i) => widths.iter_mut().skip(i).take(1).for_each(|w| *w -= 1),
            None if widths.len() > 1 => {
                widths.pop();
            }
            None => break,
        }
    }
    let left = room.saturating_sub(total(&widths));
    (widths, left)
}

fn words(r: &ResFacts) -> [String; 5] {
    [
        r.name.clone(),
        r.role.clone(),
        r.disk.clone(),
        r.repl.clone(),
        lag_text(r),
    ]
}

fn list(buffer: &mut Buffer, mut area: Rect, model: &mut Model, look: Look) {
    let columns = usize::from(area.width);
    let listed = model.listed();
    let mut wanted = HEADS.map(width);
    for r in &listed {
        for (w, text) in wanted.iter_mut().zip(words(r)) {
            *w = (*w).max(width(&text));
        }
    }
    let (widths, left) = widths(wanted, columns);
    let cursor = model.cursor();
    let mut lines = Vec::new();
    let mut keep = None;
    for (place, r) in listed.iter().enumerate() {
        let from = lines.len();
        lines.extend(block(r, model, &widths, left, look, columns));
        if place == cursor {
            if let Some(first) = lines.get_mut(from) {
                first.spans.insert(0, Span::raw(">"));
                *first = std::mem::take(first).patch_style(reversed());
            }
            keep = Some((from, lines.len()));
        } else if let Some(first) = lines.get_mut(from) {
            first.spans.insert(0, Span::raw(" "));
        }
    }
    if listed.is_empty() {
        let text = match model.facts.resources.is_empty() {
            true => " no resources; use marsadm create-resource or join-resource",
            false => " no resource matches the filter; Esc takes it away",
        };
        lines.push(Line::from(fit(text, columns)));
    }
    let all = &model.facts.hosts;
    if area.height >= 8 {
        let most = usize::from(area.height) / 4;
        let shown = all.len().min(most.max(2));
        let mut below = hosts(all, look, columns);
        if all.len() > shown {
            below.truncate(shown);
            below.push(Line::from(fit(
                &format!(" and {} more; h shows all hosts", all.len() + 1 - shown),
                columns,
            )));
        }
        let height = u16::try_from(below.len()).unwrap_or(0);
        area.height -= height;
        let place = Rect {
            y: area.bottom(),
            height,
            ..area
        };
        put(buffer, place, &below);
    }
    if area.height >= 3 {
        let heads = HEADS.iter().zip(&widths).map(|(h, w)| pad(h, *w) + " ");
        let bold = Style::default().add_modifier(Modifier::BOLD);
        let head = Line::styled(format!(" {}", heads.collect::<String>()), bold);
        put(buffer, cut(&mut area, 1), &[head]);
    }
    scrolled(buffer, area, model, &lines, keep);
}

/// The lines of one resource: its states, work under way, trouble. The first begins behind the cursor.
fn block(
    r: &ResFacts,
    model: &Model,
    widths: &[usize],
    left: usize,
    look: Look,
    columns: usize,
) -> Vec<Line<'static>> {
    let mut spans = Vec::new();
    for (i, (text, w)) in words(r).iter().zip(widths).enumerate() {
        spans.push(match i {
            1..=3 => look.word(text, *w),
            _ => Span::raw(pad(text, *w)),
        });
        spans.push(Span::raw(" "));
    }
    let samples = model.lags.get(&r.name);
    let spark = samples.map(|s| spark(s.iter(), left, look));
    spans.push(Span::raw(pad(&spark.unwrap_or_default(), left)));
    let mut lines = vec![Line::from(spans)];
    let inner = columns.saturating_sub(3);
    let busy = r.jobs.iter().filter(|j| j.is_busy);
    lines.extend(busy.map(|j| Line::from(format!("   {}", job_line(j, inner)))));
    let trouble = r.split.iter().chain(r.messages.iter().take(2));
    lines.extend(trouble.map(|t| {
        let text = format!("   {}", fit(t, inner));
        Line::styled(text, look.style(Mood::Bad))
    }));
    lines
}

/// A head and one line for each host.
pub fn hosts(all: &[HostFacts], look: Look, columns: usize) -> Vec<Line<'static>> {
    let name = all.iter().map(|h| width(&h.name)).max().unwrap_or(0);
    let name = name.clamp(4, columns.saturating_sub(34).clamp(10, 63));
    let bold = Style::default().add_modifier(Modifier::BOLD);
    let head = format!(" {} {} Heartbeat", pad("Host", name), pad("Address", 15));
    let mut lines = vec![Line::styled(fit(&head, columns), bold)];
    for h in all {
        let beat = match (h.local, h.alive, h.age) {
            (true, true, _) => "this host".to_string(),
            (_, true, Some(age)) => format!("{} ago", short_span(age)),
            (_, _, Some(age)) => format!("DEAD, {} ago", short_span(age)),
            (_, _, None) => "never heard of".into(),
        };
        let emergency = match h.emergency {
            0 => String::new(),
            n => format!(", EMERGENCY level {n}"),
        };
        let mood = match (h.alive, h.emergency) {
            (true, 0) => Mood::Good,
            _ => Mood::Bad,
        };
        let ip = h.ip.as_deref().unwrap_or("?");
        let begin = format!(" {} {} ", pad(&h.name, name), pad(ip, 15));
        let room = columns.saturating_sub(width(&begin));
        lines.push(Line::from(vec![
            Span::raw(begin),
            Span::styled(fit(&format!("{beat}{emergency}"), room), look.style(mood)),
        ]));
    }
    lines
}
