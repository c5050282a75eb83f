//! Frames as they look.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::draw::{Look, bar, draw, spark};
use super::facts::{Facts, HostFacts, Job, MemberFacts, ResFacts, Switch};
use super::keys::Key;
use super::model::{Model, Outcome};
use mars_macro::report::host_report;
use mars_policy::{View, fixtures};
use mars_tree::{HostName, Snapshot};
use proptest::prelude::*;
use ratatui_core::backend::TestBackend;
use ratatui_core::style::{Color, Modifier};
use ratatui_core::terminal::Terminal;
use std::time::Duration;

const ASCII: Look = Look {
    colors: false,
    unicode: false,
};
const FULL: Look = Look {
    colors: true,
    unicode: true,
};

fn facts() -> Facts {
    let host = |name: &str, alive, age| HostFacts {
        name: name.into(),
        ip: Some("127.45.0.1".into()),
        alive,
        age: Some(age),
        local: name == "alpha",
        emergency: 0,
    };
    let member = |host: &str, role: &str, disk: &str, repl: &str| MemberFacts {
        host: host.into(),
        role: role.into(),
        disk: disk.into(),
        repl: repl.into(),
        flags: "-SFRP-".into(),
        switches: vec![
            Switch {
                name: "attach",
                wanted: true,
                actual: true,
            },
            Switch {
                name: "sync",
                wanted: false,
                actual: false,
            },
        ],
        position: "log-000000003-beta 4096 dirty 0".into(),
        age: Some(2),
    };
    Facts {
        host: "alpha".into(),
        time: "2026-11-20 20:31:05".into(),
        engine_running: true,
        hosts: vec![
            host("alpha", true, 0),
            host("beta", true, 2),
            host("gamma", false, 125),
        ],
        resources: vec![
            ResFacts {
                name: "data".into(),
                size: Some(1000 << 20),
                primary: Some("beta".into()),
                role: "Secondary".into(),
                disk: "InConsistent".into(),
                repl: "Syncing".into(),
                flags: "-SFRP-".into(),
                jobs: vec![
                    Job {
                        name: "sync".into(),
                        is_busy: true,
                        pos: 452 << 20,
                        size: 1000 << 20,
                        rate: 10 << 20,
                        remain: Some(55),
                    },
                    Job {
                        name: "replay".into(),
                        is_busy: false,
                        pos: 5,
                        size: 5,
                        rate: 0,
                        remain: Some(0),
                    },
                ],
                lag: Some(3 << 20),
                lag_secs: Some(4),
                members: vec![
                    member("alpha", "Secondary", "InConsistent", "Syncing"),
                    member("beta", "Primary", "UpToDate", "Replicating"),
                ],
                logs: vec![("log-000000003-beta".into(), 4096)],
                messages: vec![],
                infos: vec![],
                split: vec![],
                device: vec!["Disk-path /dev/vg/data".into()],
            },
            ResFacts {
                name: "mail".into(),
                role: "Primary".into(),
                disk: "UpToDate".into(),
                repl: "Replicating".into(),
                split: vec![
                    "SPLIT BRAIN after \"log-000000001-alpha\": alpha 5 bytes, beta 7 bytes".into(),
                ],
                lag: Some(0),
                ..ResFacts::default()
            },
        ],
        notes: vec![],
    }
}

fn frame(model: &mut Model, columns: u16, rows: u16, look: Look) -> Vec<String> {
    let mut terminal = Terminal::new(TestBackend::new(columns, rows)).unwrap();
    terminal.draw(|f| draw(f, model, look)).unwrap();
    let buffer = terminal.backend().buffer();
    let row = |y| {
        (0..columns)
            .map(|x| buffer[(x, y)].symbol())
            .collect::<String>()
    };
    (0..rows).map(|y| row(y).trim_end().to_string()).collect()
}

fn press(model: &mut Model, keys: &[Key]) {
    for key in keys {
        assert_ne!(model.key(*key), Outcome::Nothing, "{key:?}");
    }
}

#[test]
fn list_in_80x24() {
    let mut model = Model::new(facts());
    for lag in [0, 1, 2, 3] {
        let mut next = facts();
        next.resources[0].lag = Some(lag << 20);
        model.second(next);
    }
    let lines = frame(&mut model, 80, 24, ASCII);
    assert_eq!(
        lines,
        [
            " MARS on alpha: 2 resources, 3 hosts                        2026-11-20 20:31:05",
            " Resource Role      Disk         Replication Lag",
            ">data     Secondary InConsistent Syncing     3.0 M 4 s #_-+#",
            "   sync    [==========>............]  45.2%  452 M of 1000 M  10 M/s  55 s to go",
            " mail     Primary   UpToDate     Replicating 0 B       _____",
            "   SPLIT BRAIN after \"log-000000001-alpha\": alpha 5 bytes, beta 7 bytes",
            "",
            "",
            "",
            "",
            "",
            "",
            "",
            "",
            "",
            "",
            "",
            "",
            "",
            " Host  Address         Heartbeat",
            " alpha 127.45.0.1      this host",
            " beta  127.45.0.1      2 s ago",
            " gamma 127.45.0.1      DEAD, 2 m 5s ago",
            " q quit  / filter  Up Down move  Enter open  h hosts  ? keys",
        ]
    );
}

#[test]
fn one_resource_in_80x24() {
    let mut model = Model::new(facts());
    press(&mut model, &[Key::Enter]);
    let lines = frame(&mut model, 80, 24, ASCII);
    assert_eq!(
        lines,
        [
            " MARS on alpha: resource data                               2026-11-20 20:31:05",
            " Role         Secondary",
            " Primary      beta",
            " Disk         InConsistent",
            " Replication  Syncing",
            " Flags        -SFRP-",
            " Size         1000 M (1048576000 bytes)",
            " Disk-path    /dev/vg/data",
            " Lag          3.0 M 4 s",
            "              #",
            "Positions",
            " sync    [===========>.............]  45.2%  452 M of 1000 M  10 M/s  55 s to go",
            " replay  [============================]   100%  5 B of 5 B",
            "Members",
            " alpha Secondary InConsistent Syncing     -SFRP-",
            "   attach on, sync OFF",
            "   replay log-000000003-beta 4096 dirty 0, heartbeat 2 s ago",
            " beta  Primary   UpToDate     Replicating -SFRP-",
            "   attach on, sync OFF",
            "   replay log-000000003-beta 4096 dirty 0, heartbeat 2 s ago",
            "Logs here: 1",
            " log-000000003-beta 4.0 K",
            "",
            " q quit  Esc back  Up Down scroll  n p next, previous  ? keys",
        ]
    );
}

#[test]
fn colors_only_where_wanted_and_never_alone() {
    let mut model = Model::new(facts());
    let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
    let mut styles = |look| {
        terminal.draw(|f| draw(f, &mut model, look)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let text: String = buffer.content.iter().map(|c| c.symbol()).collect();
        let colors = buffer
            .content
            .iter()
            .filter(|c| c.fg != Color::Reset)
            .count();
        let bold = buffer
            .content
            .iter()
            .filter(|c| c.modifier.contains(Modifier::BOLD))
            .count();
        (text.replace(|c: char| !c.is_ascii(), "?"), colors, bold)
    };
    let (colored, colors, _) = styles(FULL);
    assert!(colors > 20);
    let plain_look = Look {
        unicode: true,
        ..ASCII
    };
    let (plain, colors, bold) = styles(plain_look);
    assert_eq!(colors, 0);
    assert!(bold > 20, "trouble can be seen without colours");
    assert_eq!(colored, plain, "the words are the same");
}

#[test]
fn filter_and_gone_resource_are_told() {
    let mut model = Model::new(facts());
    press(&mut model, &[Key::Char('/'), Key::Char('x')]);
    let lines = frame(&mut model, 60, 12, ASCII);
    assert!(lines[0].contains("0 of 2 resources"), "{lines:?}");
    assert!(lines.iter().any(|l| l.contains("no resource matches")));
    assert_eq!(lines[11], " /x_   Enter keep  Esc drop");
    press(&mut model, &[Key::Esc, Key::Enter]);
    model.facts(Facts::default());
    let lines = frame(&mut model, 60, 12, ASCII);
    assert!(lines.iter().any(|l| l.contains("resource data is gone")));
    assert!(lines.iter().any(|l| l.contains("mars-meta is not running")));
}

#[test]
fn many_resources_scroll_with_the_cursor() {
    let mut many = facts();
    let one = ResFacts {
        role: "Secondary".into(),
        ..ResFacts::default()
    };
    many.resources = (0..100)
        .map(|n| ResFacts {
            name: format!("r{n}"),
            ..one.clone()
        })
        .collect();
    let mut model = Model::new(many);
    let shown = |model: &mut Model| {
        let lines = frame(model, 80, 24, ASCII);
        let at = lines.iter().find(|l| l.starts_with('>')).unwrap().clone();
        at.split_whitespace().next().unwrap()[1..].to_string()
    };
    assert_eq!(shown(&mut model), "r0");
    press(&mut model, &[Key::PageDown]);
    assert_eq!(shown(&mut model), "r17");
    press(&mut model, &[Key::End]);
    assert_eq!(shown(&mut model), "r99");
    press(&mut model, &[Key::Home, Key::Down]);
    assert_eq!(shown(&mut model), "r1");
}

#[test]
fn long_names_are_cut_and_the_rest_still_shown() {
    let mut long = facts();
    long.host = "h".repeat(63);
    for (n, r) in long.resources.iter_mut().enumerate() {
        r.name = format!("{n}{}", "r".repeat(62));
        r.members.iter_mut().for_each(|m| m.host = "m".repeat(63));
    }
    long.hosts[1].name = "b".repeat(63);
    let mut model = Model::new(long);
    let lines = frame(&mut model, 80, 24, ASCII);
    assert!(
        lines[2].starts_with(">0rrrr") && lines[2].contains("~ Secondary InConsistent Syncing")
    );
    assert!(
        lines
            .iter()
            .any(|l| l.contains("~ 127.45.0.1      2 s ago")),
        "{lines:?}"
    );
    press(&mut model, &[Key::Enter]);
    let lines = frame(&mut model, 80, 40, ASCII);
    assert!(
        lines
            .iter()
            .any(|l| l.contains("mmm~ Secondary InConsistent Syncing")),
        "{lines:#?}"
    );
}

#[test]
fn bars_and_sparks() {
    assert_eq!(bar(0, 100, 12), "[>.........]");
    assert_eq!(bar(50, 100, 12), "[=====>....]");
    assert_eq!(bar(100, 100, 12), "[==========]");
    assert_eq!(bar(u64::MAX, u64::MAX, 4), "[==]");
    assert_eq!(bar(7, 0, 4), "[>.]");
    assert_eq!(bar(1, 2, 2), "");
    let of = |n: &[u64], columns| spark(n.iter(), columns, FULL);
    assert_eq!(of(&[0, 0], 5), "▁▁");
    assert_eq!(of(&[0, 1, 1000, u64::MAX], 5), "▁▂▂█");
    assert_eq!(of(&[7, 0, 1, 2, 3, 4, 5, 6, 7], 8), "▁▂▃▄▅▆▇█");
}

/// The facts of a tree of symlink-tree.md section 7, in the words that `view` and `mars-status` use.
fn read(snap: &Snapshot, me: &str, threshold: u64) -> Facts {
    let me: HostName = me.parse().unwrap();
    let machine = mars_macro::Machine {
        disks_present: vec!["/dev/vg/lv0".into()],
        ..Default::default()
    };
    let scope = mars_macro::Scope {
        view: View {
            snap,
            me: &me,
            local: &me,
            now: fixtures::NOW,
            window: Duration::from_secs(60),
            engine_running: true,
        },
        res: None,
        threshold,
        verbose: 0,
        args: &[],
        machine: &machine,
    };
    let report = host_report(&scope, &snap.resources());
    super::read::facts(&report, &me, threshold, "2023-11-15 23:13:20".into())
}

#[test]
fn facts_of_a_syncing_tree() {
    let syncing = fixtures::syncing();
    let mut model = Model::new(read(&syncing, "hostB", 0));
    assert_eq!(
        frame(&mut model, 80, 14, ASCII),
        [
            " MARS on hostB: 1 resource, 2 hosts                         2023-11-15 23:13:20",
            " Resource Role      Disk         Replication Lag",
            ">lv0      Secondary InConsistent Syncing     512 K 2 h 0m #",
            "   sync    [========>.............]  40.0%  4.0 G of 10 G  100 M/s  1 m 2s to go",
            "   fetch   [=========================>..]  91.6%  1.3 M of 1.5 M",
            "   replay  [====================>.......]  72.7%  1.0 M of 1.3 M",
            "",
            "",
            "",
            "",
            " Host  Address         Heartbeat",
            " hostA 10.0.0.1        1 s ago",
            " hostB 10.0.0.2        this host",
            " q quit  / filter  Up Down move  Enter open  h hosts  ? keys",
        ]
    );
    // At the primary: what the other one is busy with, its lag, and no logs below the threshold.
    let mut model = Model::new(read(&syncing, "hostA", 10 << 20));
    assert_eq!(
        frame(&mut model, 80, 14, ASCII)[2..5],
        [
            ">lv0      Primary   WriteBack[4.000 KiB] Replicating 512 K 2 h 0m #",
            "   hostB sync [=======>...........]  40.0%  4.0 G of 10 G  100 M/s  1 m 2s to go",
            "",
        ]
    );
}

#[test]
fn facts_of_a_split_tree_and_of_none() {
    let has = |lines: &[String], words: &str| {
        assert!(lines.iter().any(|l| l.contains(words)), "{lines:#?}")
    };
    let mut model = Model::new(read(&fixtures::split(), "hostA", 10 << 20));
    has(&frame(&mut model, 80, 14, ASCII), "SPLIT BRAIN after");
    let mut model = Model::new(read(&Snapshot::default(), "hostA", 0));
    let lines = frame(&mut model, 80, 14, ASCII);
    has(&lines, "no resources");
    has(&lines, "in no cluster");
}

/// Runs itself on a pseudo terminal, where it panics.
#[test]
fn panic_gives_the_terminal_back_before_its_message() {
    const VAR: &str = "MARS_WATCH_TEST_PANICS";
    if std::env::var_os(VAR).is_some() {
        super::screen::on_panic();
        let mut screen = super::screen::Screen::take(super::screen::keyboard().unwrap()).unwrap();
        screen.draw(|_| panic!("on purpose")).unwrap();
    }
    let pty = nix::pty::openpty(None, None).unwrap();
    let end = || std::process::Stdio::from(pty.slave.try_clone().unwrap());
    let before = nix::sys::termios::tcgetattr(&pty.master).unwrap();
    let mut child = std::process::Command::new("setsid")
        .arg("--ctty")
        .arg(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "watch::tests::panic_gives_the_terminal_back_before_its_message",
        ])
        .arg("--nocapture")
        .env(VAR, "1")
        .env("RUST_BACKTRACE", "0")
        .stdin(end())
        .stdout(end())
        .stderr(end())
        .spawn()
        .unwrap();
    drop(pty.slave);
    let mut master = std::fs::File::from(pty.master);
    let (mut all, mut buffer) = (Vec::new(), [0; 4096]);
    // EIO: nobody has the other side open any more.
    while let Ok(n) = std::io::Read::read(&mut master, &mut buffer) {
        all.extend(&buffer[..n]);
    }
    assert_eq!(child.wait().unwrap().code(), Some(101));
    let text = String::from_utf8_lossy(&all).into_owned();
    let place = |words: &str| {
        text.find(words)
            .unwrap_or_else(|| panic!("no {words:?} in {text:?}"))
    };
    assert!(place("\x1b[?1049h") < place("\x1b[?1049l"));
    assert!(place("\x1b[?1049l") < place("on purpose"));
    assert!(place("\x1b[?25h") < place("on purpose"));
    let after = nix::sys::termios::tcgetattr(&master).unwrap();
    assert_eq!(before.local_flags, after.local_flags);
    assert_eq!(before.output_flags, after.output_flags);
}

proptest! {
    /// Any size, any page, any texts in the facts, any keys: no panic, and no control characters.
    #[test]
    fn any_frame(
        columns in 1u16..140, rows in 1u16..40,
        text in "\\PC{0,80}|.{0,80}",
        keys in prop::collection::vec(prop::sample::select(vec![
            Key::Enter, Key::Esc, Key::Down, Key::PageDown, Key::End, Key::Up,
            Key::Char('h'), Key::Char('?'), Key::Char('/'), Key::Char('n'), Key::Char('d'),
        ]), 0..8),
        full in any::<bool>(),
        number in any::<u64>(),
    ) {
        let mut any = facts();
        any.notes.push(text.clone());
        let r = &mut any.resources[0];
        r.disk = text.clone();
        r.messages.push(text.clone());
        r.split.push(text.clone());
        r.device.push(text.clone());
        r.lag = Some(number);
        r.lag_secs = Some(number);
        r.size = Some(number);
        r.jobs[0].pos = number;
        r.jobs[0].size = number / 2 + 7;
        r.jobs[0].name = text.clone();
        r.members[1].position = text.clone();
        r.members[1].disk = text;
        any.hosts[1].age = Some(number);
        let mut model = Model::new(any);
        let look = if full { FULL } else { ASCII };
        for key in keys {
            model.key(key);
            for line in frame(&mut model, columns, rows, look) {
                prop_assert!(!line.chars().any(char::is_control), "{line:?}");
            }
        }
        frame(&mut model, columns, rows, look);
    }
}
