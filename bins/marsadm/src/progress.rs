//! One line on stderr while a command waits, redrawn in place: for people at a terminal. When stderr is none, nothing at all.
use crate::watch::text::{clean, fit, percent, short_bytes, short_span, width};
use mars_policy::{View, progress, sync_progress};
use mars_tree::ResName;
use ratatui_crossterm::crossterm::terminal::window_size;
use std::io::{IsTerminal, Write, stderr};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// The line is redrawn so often although nothing happens: seconds go by.
pub const REDRAW: Duration = Duration::from_secs(1);

/// Work under way at the acting host.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Work {
    /// What is done.
    pub name: &'static str,
    /// Bytes done.
    pub pos: u64,
    /// Bytes to do in total.
    pub size: u64,
    /// Bytes per second; 0 = unknown.
    pub rate: u64,
}

impl Work {
    /// Of the acting host: a sync that is not finished, else logs that are not applied. `None`: nothing to do, or nothing known.
    pub fn of(v: &View<'_>, res: &ResName) -> Option<Work> {
        let rate = |name: &str| {
            let kib = v.snap.actual(res, v.me, name).unwrap_or(0);
            u64::try_from(kib).unwrap_or(0).saturating_mul(1024)
        };
        if let Some(s) = sync_progress(v, res, v.me).filter(|s| s.rest() > 0) {
            return Some(Work {
                name: "sync",
                pos: s.pos,
                size: s.size,
                rate: rate("amount-sync_rate"),
            });
        }
        let p = progress(v, res, v.me);
        if p.work_rest() == 0 {
            return None;
        }
        Some(Work {
            name: "logs",
            pos: p.replay_pos,
            size: p.fetch_size,
            rate: rate("amount-file_rate").max(rate("amount-replay_rate")),
        })
    }

    fn text(&self) -> String {
        let mut text = format!(
            "{} {} ({} of {})",
            self.name,
            percent(self.pos, self.size),
            short_bytes(self.pos),
            short_bytes(self.size)
        );
        let rest = self.size.saturating_sub(self.pos);
        if self.rate > 0 {
            text.push_str(&format!(
                ", {}/s, {} to go",
                short_bytes(self.rate),
                short_span(rest.div_ceil(self.rate))
            ));
        }
        text
    }
}

/// The line: figures first, because the end is cut when the terminal is narrow.
pub fn line(
    what: &str,
    detail: &str,
    work: Option<Work>,
    left: Option<Duration>,
    columns: usize,
) -> String {
    let mut parts = Vec::new();
    parts.extend(work.map(|w| w.text()));
    parts.extend(left.map(|l| format!("timeout in {} s", l.as_secs())));
    let figures = match parts.is_empty() {
        true => String::new(),
        false => format!("{}; ", parts.join(", ")),
    };
    fit(
        &format!("{figures}waiting until {what}: {detail}"),
        // Some terminals wrap when the last column is written.
        columns.saturating_sub(1),
    )
}

/// Columns of the line that is on the terminal now.
static SHOWN: Mutex<usize> = Mutex::new(0);

/// Does the terminal know how to erase to the end of a line?
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|t| t.is_empty() || t == "dumb")
}

fn erasing(columns: usize) -> String {
    match columns {
        0 => String::new(),
        n if is_dumb() => format!("\r{}\r", " ".repeat(n)),
        _ => "\r\x1b[K".into(),
    }
}

/// Takes the line away, so that another one can be printed. Cheap when there is none.
pub fn erase() {
    let mut shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if *shown > 0 {
        let _ = stderr().write_all(erasing(*shown).as_bytes());
        *shown = 0;
    }
}

fn show(text: &str) {
    let mut shown = SHOWN.lock().unwrap_or_else(PoisonError::into_inner);
    // One write: a line in pieces flickers.
    let text = clean(text);
    let _ = stderr().write_all(format!("{}{text}", erasing(*shown)).as_bytes());
    *shown = width(&text);
}

/// The progress of one wait. What is on the terminal goes away with it.
#[derive(Debug)]
pub struct Progress {
    is_shown: bool,
}

impl Progress {
    /// Shows something only when stderr is a terminal.
    pub fn new() -> Progress {
        Progress {
            // What several threads draw at once would be a mess.
            is_shown: stderr().is_terminal() && !crate::out::is_captured(),
        }
    }

    /// Does a human look?
    pub fn is_shown(&self) -> bool {
        self.is_shown
    }

    /// Draws the line.
    pub fn show(&self, what: &str, detail: &str, work: Option<Work>, left: Option<Duration>) {
        if self.is_shown {
            let columns = window_size().map_or(0, |s| usize::from(s.columns));
            let columns = if columns == 0 { 80 } else { columns };
            show(&line(what, detail, work, left, columns));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        erase();
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use mars_policy::fixtures;
    use mars_tree::{HostName, Snapshot};

    #[test]
    fn work_is_the_sync_and_then_the_logs() {
        let of = |snap: &Snapshot, me: &str| {
            let me: HostName = me.parse().unwrap();
            let view = View {
                snap,
                me: &me,
                local: &me,
                now: fixtures::NOW,
                window: Duration::from_secs(60),
                engine_running: true,
            };
            Work::of(&view, &"lv0".parse().unwrap())
        };
        let mut snap = fixtures::syncing();
        let sync = of(&snap, "hostB").unwrap();
        assert_eq!(
            (sync.name, sync.pos, sync.size, sync.rate),
            ("sync", 4 << 30, 10 << 30, 100 << 20)
        );
        fixtures::add(
            &mut snap,
            "resource-lv0/",
            "syncstatus-hostB -> 10737418240",
        );
        let logs = of(&snap, "hostB").unwrap();
        assert_eq!((logs.name, logs.pos, logs.size), ("logs", 1 << 20, 3 << 19));
        assert_eq!(of(&fixtures::steady(), "hostA"), None);
        assert_eq!(of(&Snapshot::default(), "x"), None);
    }

    const WORK: Work = Work {
        name: "sync",
        pos: 452 << 20,
        size: 1000 << 20,
        rate: 10 << 20,
    };

    #[test]
    fn line_says_what_how_far_and_how_long() {
        let left = Some(Duration::from_millis(588_900));
        assert_eq!(
            line("r is UpToDate on a", "Syncing", Some(WORK), left, 200),
            "sync 45.2% (452 M of 1000 M), 10 M/s, 55 s to go, timeout in 588 s; waiting until r is UpToDate on a: Syncing"
        );
        assert_eq!(
            line("x", "y", None, None, 80),
            "waiting until x: y",
            "neither figures nor a limit"
        );
        let unknown = Work { rate: 0, ..WORK };
        assert_eq!(
            line("x", "y", Some(unknown), None, 80),
            "sync 45.2% (452 M of 1000 M); waiting until x: y"
        );
    }

    #[test]
    fn line_is_cut_and_stays_a_line() {
        for columns in 0..60 {
            let text = line("x\ny", "z\x1b[2J", Some(WORK), None, columns);
            assert!(width(&text) <= columns.saturating_sub(1), "{columns}");
            assert!(!text.contains(['\n', '\x1b']));
        }
    }
}
