//! Where log lines go: to the journal with structured fields, or as text to stderr; a storm of equal lines is counted instead of written.
//!
//! A layer of our own instead of `tracing-journald`: `MESSAGE_ID` and `PRIORITY` come from the kind of event, every line carries
//! `MARS_HOST` and (in a daemon of one resource) `MARS_RESOURCE`, the socket never blocks a daemon that serves a disk, and both sinks
//! share one rate limit.
use crate::events::Kind;
use crate::limit::{Limiter, Verdict, WINDOW};
use nix::sys::socket::{MsgFlags, UnixAddr, sendto};
use std::fmt::{self, Write as _};
use std::io::Write as _;
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime, SystemTime};
use tracing_subscriber::layer::{Context, Layer};

/// Where journald listens (systemd.journal-fields(7), native protocol).
pub const SOCKET: &str = "/run/systemd/journal/socket";
/// Longer messages and values are cut: a datagram must always fit.
const VALUE_MAX: usize = 8 << 10;
/// Lines of one call site within [`WINDOW`].
const BURST: u32 = 20;
/// Events of one kind about the same thing within [`WINDOW`].
const BURST_EVENTS: u32 = 5;

/// `PRIORITY=` of the journal.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Priority {
    /// Needs a human.
    Err = 3,
    /// Degraded, heals by itself.
    Warning = 4,
    /// A role or a state changed as it should.
    Notice = 5,
    /// What goes on.
    Info = 6,
    /// For those who look for a fault.
    Debug = 7,
}

impl Priority {
    fn of(level: Level) -> Priority {
        match level {
            Level::ERROR => Priority::Err,
            Level::WARN => Priority::Warning,
            Level::INFO => Priority::Info,
            _ => Priority::Debug,
        }
    }
    fn word(self) -> &'static str {
        match self {
            Priority::Err => "ERROR",
            Priority::Warning => "WARN",
            Priority::Notice => "NOTICE",
            Priority::Info => "INFO",
            Priority::Debug => "DEBUG",
        }
    }
}

/// One line before it is written.
#[derive(Clone, Debug)]
pub(crate) struct Line {
    pub priority: Priority,
    pub kind: Option<Kind>,
    pub message: String,
    /// Names as in the source, without `event`.
    pub fields: Vec<(&'static str, String)>,
    pub place: Option<(&'static str, u32)>,
}

impl Line {
    fn read(event: &Event<'_>) -> Line {
        let meta: &Metadata<'static> = event.metadata();
        let mut line = Line {
            priority: Priority::of(*meta.level()),
            kind: None,
            message: String::new(),
            fields: Vec::new(),
            place: meta.file().zip(meta.line()),
        };
        event.record(&mut line);
        if let Some(k) = line.kind {
            line.priority = k.priority();
        }
        line
    }

    fn put(&mut self, field: &Field, mut value: String) {
        cut(&mut value);
        match field.name() {
            "message" => self.message = value,
            "event" => self.kind = Kind::by_name(&value),
            name => self.fields.push((name, value)),
        }
    }

    fn field(&self, name: &str) -> Option<&str> {
        let mut all = self.fields.iter();
        all.find(|(n, _)| *n == name).map(|(_, v)| v.as_str())
    }

    /// What counts as the same line, and how many of them pass; the narrower one first.
    fn keys(&self) -> [(String, u32); 2] {
        let about = |n| self.field(n).unwrap_or_default();
        let (file, line) = self.place.unwrap_or_default();
        match self.kind {
            Some(k) => {
                let kind = k.name();
                let (res, peer, log) = (about("resource"), about("peer"), about("log"));
                // Each reload is answered: nobody sends signals without end.
                let burst = match k {
                    Kind::ConfigChanged | Kind::ConfigRefused => 100,
                    _ => BURST_EVENTS,
                };
                [
                    (format!("{kind} {res} {peer} {log}"), burst),
                    (format!("{kind} {res} {peer}"), burst.max(BURST)),
                ]
            }
            None => [
                (format!("{file}:{line} {}", self.message), 1),
                (format!("{file}:{line}"), BURST),
            ],
        }
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, value.to_string());
    }
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.put(field, format!("{value:?}"));
    }
}

fn cut(text: &mut String) {
    if text.len() > VALUE_MAX {
        let border = (0..=VALUE_MAX).rev().find(|i| text.is_char_boundary(*i));
        text.truncate(border.unwrap_or(0));
        text.push_str("...");
    }
}

/// What every line of a process carries.
#[derive(Clone, Debug, Default)]
pub(crate) struct Who {
    /// `SYSLOG_IDENTIFIER`.
    pub program: String,
    pub host: Option<String>,
    pub resource: Option<String>,
}

/// Journal native protocol: `NAME=value`, or the length in binary form where the value has several lines.
fn put(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    if value.contains('\n') {
        out.push(b'\n');
        out.extend_from_slice(&(value.len() as u64).to_le_bytes());
    } else {
        out.push(b'=');
    }
    out.extend_from_slice(value.as_bytes());
    out.push(b'\n');
}

/// Field names of the journal: capital letters, digits, underscores.
fn field_name(name: &str) -> String {
    let plain = name.chars().map(|c| {
        if c.is_ascii_alphanumeric() {
            c.to_ascii_uppercase()
        } else {
            '_'
        }
    });
    "MARS_".chars().chain(plain).take(64).collect()
}

pub(crate) fn encode(line: &Line, who: &Who) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    put(&mut out, "MESSAGE", &line.message);
    put(&mut out, "PRIORITY", &(line.priority as u8).to_string());
    put(&mut out, "SYSLOG_IDENTIFIER", &who.program);
    if let Some(kind) = line.kind {
        put(&mut out, "MESSAGE_ID", kind.id());
        put(&mut out, "MARS_EVENT", kind.name());
    }
    if let Some((file, nr)) = line.place {
        put(&mut out, "CODE_FILE", file);
        put(&mut out, "CODE_LINE", &nr.to_string());
    }
    if let Some(host) = &who.host
        && line.field("host").is_none()
    {
        put(&mut out, "MARS_HOST", host);
    }
    if let Some(res) = &who.resource
        && line.field("resource").is_none()
    {
        put(&mut out, "MARS_RESOURCE", res);
    }
    for (name, value) in &line.fields {
        if *name == "resource" {
            // A field may stand several times: a lost host concerns several resources.
            for res in value.split(' ') {
                put(&mut out, "MARS_RESOURCE", res);
            }
        } else {
            put(&mut out, &field_name(name), value);
        }
    }
    out
}

/// One line of text. The fields of events stand in their messages already.
pub(crate) fn text(line: &Line, time: &str) -> String {
    let mut out = format!("{time} {:>6} {}", line.priority.word(), line.message);
    if line.kind.is_none() {
        for (name, value) in &line.fields {
            let _ = write!(out, " {name}={value}");
        }
    }
    // One line stays one line, whatever a peer put into it.
    out.retain(|c| c != '\r');
    let mut out = out.replace('\n', "; ");
    out.push('\n');
    out
}

fn time() -> String {
    let mut out = String::new();
    match SystemTime.format_time(&mut Writer::new(&mut out)) {
        Ok(()) => out,
        Err(fmt::Error) => String::from("-"),
    }
}

/// The journal's socket. Waits for a busy journald for a moment, and not again while it is stuck: what it does not take is counted and said
/// when it takes something again.
#[derive(Debug)]
pub(crate) struct Socket {
    socket: UnixDatagram,
    address: UnixAddr,
    lost: AtomicU64,
}

/// Longest wait for a busy journald.
const BUSY: Duration = Duration::from_millis(100);

impl Socket {
    pub(crate) fn open(path: &Path) -> std::io::Result<Socket> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(BUSY))?;
        // journald drops an empty datagram; nobody there is an error.
        socket.send_to(&[], path)?;
        Ok(Socket {
            socket,
            address: UnixAddr::new(path)?,
            lost: AtomicU64::new(0),
        })
    }

    fn send(&self, line: &Line, who: &Who) {
        let lost = self.lost.swap(0, Ordering::Relaxed);
        let mut payload = None;
        if lost > 0 {
            let mut line = line.clone();
            let _ = write!(line.message, " ({lost} lines before this were lost)");
            payload = Some(encode(&line, who));
        }
        let payload = payload.unwrap_or_else(|| encode(line, who));
        let flags = if lost > 0 {
            MsgFlags::MSG_DONTWAIT
        } else {
            MsgFlags::empty()
        };
        let fd = self.socket.as_raw_fd();
        if sendto(fd, &payload, &self.address, flags | MsgFlags::MSG_NOSIGNAL).is_err() {
            self.lost.fetch_add(lost + 1, Ordering::Relaxed);
        }
    }
}

#[derive(Debug)]
struct Inner {
    who: Who,
    journal: Option<Socket>,
    /// Least urgent priority that is written to stderr as text; `None` = no text. Events of a tool are no text: its commands
    /// report themselves.
    text: Option<(Priority, bool)>,
    limiter: Mutex<Limiter<Line>>,
}

/// The layer.
#[derive(Clone, Debug)]
pub(crate) struct Journal(Arc<Inner>);

impl Journal {
    /// `text`: least urgent priority for stderr, and whether events are written there.
    pub(crate) fn new(
        who: Who,
        journal: Option<Socket>,
        text: Option<(Priority, bool)>,
    ) -> Journal {
        Journal(Arc::new(Inner {
            who,
            journal,
            text,
            limiter: Mutex::default(),
        }))
    }

    fn line(&self, line: Line) {
        let now = Instant::now();
        if line.priority == Priority::Debug {
            return self.0.write(&line);
        }
        let verdict = {
            let mut limiter = self
                .0
                .limiter
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            limiter.check(line.keys(), &line, now)
        };
        match verdict {
            Verdict::Pass => self.0.write(&line),
            Verdict::Held => {}
            // What is held back now is written at the end of the window at the latest, so that the last word on a matter is never missing.
            Verdict::FirstHeld => {
                let inner = Arc::clone(&self.0);
                let thread = std::thread::Builder::new().stack_size(64 << 10);
                let done = thread.name("journal".into()).spawn(move || inner.flush());
                if done.is_err() {
                    self.0.write(&line);
                }
            }
        }
    }
}

impl Inner {
    fn write(&self, line: &Line) {
        if let Some(j) = &self.journal {
            j.send(line, &self.who);
        }
        if let Some((least, events)) = self.text
            && line.priority <= least
            && (events || line.kind.is_none())
        {
            // Nothing can be done about a closed stderr.
            let _ = std::io::stderr().write_all(text(line, &time()).as_bytes());
        }
    }

    /// Writes what was held back until nothing is left.
    fn flush(&self) {
        loop {
            std::thread::sleep(WINDOW);
            let (lines, more) = {
                let mut limiter = self.limiter.lock().unwrap_or_else(PoisonError::into_inner);
                limiter.expire(Instant::now())
            };
            for (mut line, count) in lines {
                if count > 1 {
                    let _ = write!(
                        line.message,
                        " ({} more like this were suppressed)",
                        count - 1
                    );
                }
                self.write(&line);
            }
            if !more {
                return;
            }
        }
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _ctx: Context<'_, S>) {
        self.line(Line::read(event));
    }
}

#[cfg(test)]
#[path = "journal_tests.rs"]
mod tests;
