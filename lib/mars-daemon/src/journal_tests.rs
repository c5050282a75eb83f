#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use crate::events;
use std::collections::BTreeMap;
use tracing_subscriber::layer::SubscriberExt;

/// journald as far as we talk to it: a datagram socket and its native protocol.
struct Fake {
    socket: UnixDatagram,
    _dir: tempfile::TempDir,
    path: std::path::PathBuf,
}

type Entry = BTreeMap<String, String>;

impl Fake {
    fn new() -> Fake {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("socket");
        let socket = UnixDatagram::bind(&path).unwrap();
        Fake {
            socket,
            _dir: dir,
            path,
        }
    }

    /// Reads until somebody says `END`.
    fn entries(&self) -> Vec<Entry> {
        let mut all = Vec::new();
        let mut buf = vec![0; 256 << 10];
        loop {
            match self.socket.recv(&mut buf).unwrap() {
                0 => {}
                n if &buf[..n] == b"END" => return all,
                n => all.push(decode(&buf[..n])),
            }
        }
    }

    fn end(&self) {
        let s = UnixDatagram::unbound().unwrap();
        s.send_to(b"END", &self.path).unwrap();
    }
}

/// Strict: anything that journald would drop is an error.
fn decode(mut rest: &[u8]) -> Entry {
    let mut entry = Entry::new();
    while !rest.is_empty() {
        let end = rest.iter().position(|b| *b == b'\n').unwrap();
        let line = std::str::from_utf8(&rest[..end]).unwrap();
        rest = &rest[end + 1..];
        let (name, value) = if let Some((name, value)) = line.split_once('=') {
            (name, value.to_string())
        } else {
            let (len, tail) = rest.split_at(8);
            let len = u64::from_le_bytes(len.try_into().unwrap()) as usize;
            let value = std::str::from_utf8(&tail[..len]).unwrap().to_string();
            assert_eq!(tail[len], b'\n');
            rest = &tail[len + 1..];
            (line, value)
        };
        assert!(!name.is_empty() && name.len() <= 64 && !name.starts_with('_'));
        let fine = |b: u8| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_';
        assert!(name.bytes().all(fine), "{name}");
        if let Some(first) = entry.insert(name.to_string(), value) {
            assert_eq!(name, "MARS_RESOURCE", "{name} stands twice");
            entry.get_mut(name).unwrap().insert_str(0, &(first + "+"));
        }
    }
    entry
}

fn logged(resource: Option<&str>, f: impl FnOnce()) -> Vec<Entry> {
    let fake = Fake::new();
    let who = Who {
        program: "mars-test".into(),
        host: Some("hosta".into()),
        resource: resource.map(str::to_string),
    };
    let layer = Journal::new(who, Some(Socket::open(&fake.path).unwrap()), None);
    std::thread::scope(|s| {
        let reader = s.spawn(|| fake.entries());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), f);
        fake.end();
        reader.join().unwrap()
    })
}

fn is(e: &Entry, expected: &[(&str, &str)]) {
    for (name, value) in expected {
        assert_eq!(
            e.get(*name).map(String::as_str),
            Some(*value),
            "{name}: {e:?}"
        );
    }
}

#[test]
fn journal_event_has_all_fields() {
    let res = "mydata".parse().unwrap();
    let peer = "hostb".parse().unwrap();
    let other = "other".parse().unwrap();
    let both = [&res, &other];
    let all = logged(None, || {
        events::defective_log(
            &res,
            Some(&peer),
            &"log-000000002-hostb",
            4711,
            "bad digest",
        );
        events::role_change(&res, None, Some(&peer));
        events::peer_lost(both, &peer, "silence");
        events::peer_back([], &peer, "");
    });
    is(
        &all[0],
        &[
            ("MARS_RESOURCE", "mydata"),
            ("MARS_PEER", "hostb"),
            ("MARS_LOG", "log-000000002-hostb"),
            ("MARS_HOST", "hosta"),
            ("MARS_EVENT", "defective-log"),
            ("MESSAGE_ID", Kind::DefectiveLog.id()),
            ("PRIORITY", "4"),
            ("SYSLOG_IDENTIFIER", "mars-test"),
            (
                "MESSAGE",
                "resource mydata: log-000000002-hostb is damaged behind position 4711: bad digest",
            ),
        ],
    );
    is(&all[1], &[("PRIORITY", "5"), ("MARS_EVENT", "role-change")]);
    assert!(!all[1].contains_key("MARS_LOG"), "{:?}", all[1]);
    is(&all[2], &[("MARS_RESOURCE", "mydata+other")]);
    assert!(!all[3].contains_key("MARS_RESOURCE"), "{:?}", all[3]);
}

#[test]
fn journal_every_line_of_a_resource_daemon_carries_the_resource() {
    let all = logged(Some("mydata"), || {
        tracing::error!("one");
        tracing::warn!(code = 5, "two\nlines");
        tracing::info!(resource = "other", "three");
        tracing::debug!("four");
    });
    is(&all[0], &[("MARS_RESOURCE", "mydata"), ("PRIORITY", "3")]);
    is(
        &all[1],
        &[
            ("MARS_RESOURCE", "mydata"),
            ("PRIORITY", "4"),
            ("MARS_CODE", "5"),
            ("MESSAGE", "two\nlines"),
        ],
    );
    is(&all[2], &[("MARS_RESOURCE", "other"), ("PRIORITY", "6")]);
    is(&all[3], &[("MARS_RESOURCE", "mydata"), ("PRIORITY", "7")]);
}

#[test]
fn journal_equal_lines_are_written_once_and_bursts_are_bounded() {
    let all = logged(None, || {
        for _ in 0..1000 {
            tracing::warn!("always the same");
        }
        for i in 0..1000 {
            tracing::warn!("different {i}");
        }
    });
    let same = all.iter().filter(|e| e["MESSAGE"] == "always the same");
    assert_eq!(same.count(), 1);
    assert_eq!(all.len(), 1 + BURST as usize);
}

#[test]
fn journal_a_stuck_journald_blocks_nobody_and_losses_are_said() {
    let fake = Fake::new();
    let socket = Socket::open(&fake.path).unwrap();
    let begin = Instant::now();
    let line = |text: &str| Line {
        priority: Priority::Info,
        kind: None,
        message: text.to_string(),
        fields: Vec::new(),
        place: None,
    };
    // More than any socket buffer takes.
    for _ in 0..100_000 {
        socket.send(&line("x"), &Who::default());
    }
    let lost = socket.lost.load(Ordering::Relaxed);
    assert!(lost > 90_000);
    // One wait, not one per line.
    assert!(begin.elapsed() < BUSY * 100);
    let mut buf = vec![0; 4096];
    fake.socket.set_nonblocking(true).unwrap();
    while fake.socket.recv(&mut buf).is_ok() {}
    fake.socket.set_nonblocking(false).unwrap();
    socket.send(&line("again"), &Who::default());
    fake.end();
    let said = format!("again ({lost} lines before this were lost)");
    is(&fake.entries()[0], &[("MESSAGE", said.as_str())]);
}

#[test]
fn journal_long_and_strange_values_are_cut_and_stay_one_line_of_text() {
    let mut long = "ä".repeat(VALUE_MAX);
    cut(&mut long);
    assert!(long.len() <= VALUE_MAX + 3 && long.ends_with("..."));
    let line = Line {
        priority: Priority::Notice,
        kind: None,
        message: "a\r\nb".into(),
        fields: vec![("n", "1".into())],
        place: None,
    };
    assert_eq!(text(&line, "T"), "T NOTICE a; b n=1\n");
}
