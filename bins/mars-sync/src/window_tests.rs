#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use super::*;
use crate::proto::CHUNK;
use proptest::prelude::*;

const C: u64 = CHUNK as u64;

fn ask(w: &mut Window, known: LogPos) -> Chunk {
    match w.next_step() {
        Next::Ask(c) => {
            w.asked(c, known);
            c
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn prefix_waits_for_the_oldest() {
    let mut w = Window::new(0, 3 * C + 512);
    let chunks: Vec<Chunk> = (0..4).map(|_| ask(&mut w, (1, 0))).collect();
    assert_eq!(chunks[3].len, 512);
    assert_eq!(w.answered(chunks[1], 0), Ok(Verdict::Equal));
    assert_eq!(w.answered(chunks[3], 0), Ok(Verdict::Equal));
    assert_eq!(w.prefix(), 0);
    assert_eq!(w.answered(chunks[0], 3), Ok(Verdict::Write));
    assert!(!w.may_write(chunks[0], (1, 1)), "replay is ahead");
    assert_eq!(
        w.answered(chunks[0], 3),
        Err(Unasked),
        "not asked again yet"
    );
    assert_eq!(ask(&mut w, (3, 7)), chunks[0]);
    assert_eq!(w.answered(chunks[0], 3), Ok(Verdict::Write));
    assert!(w.may_write(chunks[0], (3, 7)));
    assert_eq!(w.prefix(), 0, "not on the disk yet");
    w.written(chunks[0], 3);
    assert_eq!(w.prefix(), 2 * C);
    assert_eq!(w.next_step(), Next::Wait);
    assert_eq!(w.answered(chunks[2], 0), Ok(Verdict::Equal));
    assert_eq!(w.prefix(), 3 * C + 512);
    assert_eq!((w.next_step(), w.is_equal()), (Next::End, true));
    assert_eq!(w.blocks(), (3 * 64 + 1 - 3, 3));
}

#[test]
fn answers_nobody_asked_for_are_refused() {
    let mut w = Window::new(C, 3 * C);
    let Next::Ask(a) = w.next_step() else {
        panic!()
    };
    assert_eq!(
        w.answered(a, 0),
        Err(Unasked),
        "the question is not out yet"
    );
    w.asked(a, (1, 5));
    assert_eq!(a.pos, C);
    let other = |pos, len| Chunk { pos, len };
    assert_eq!(w.answered(other(0, 512), 0), Err(Unasked));
    assert_eq!(w.answered(other(C, CHUNK as u32 - 512), 0), Err(Unasked));
    assert_eq!(w.answered(a, 0), Ok(Verdict::Equal));
    assert_eq!(w.answered(a, 0), Err(Unasked), "only once");
}

#[test]
fn only_a_good_flush_makes_durable() {
    let mut w = Window::new(0, 4 * C);
    let chunks: Vec<Chunk> = (0..3).map(|_| ask(&mut w, (1, 0))).collect();
    w.answered(chunks[0], 0).unwrap();
    assert!(w.begin_flush());
    assert_eq!(w.durable(), 0);
    w.flushed(true);
    assert!(!w.begin_flush(), "nothing is new");
    assert_eq!(w.durable(), C);
    w.answered(chunks[1], 1).unwrap();
    assert!(w.may_write(chunks[1], (1, 0)));
    w.written(chunks[1], 1);
    assert!(w.begin_flush());
    // Equal, but it is not known that the flush covers what was written meanwhile.
    w.answered(chunks[2], 1).unwrap();
    assert!(w.may_write(chunks[2], (1, 0)));
    w.written(chunks[2], 1);
    assert_eq!(w.durable(), C);
    w.flushed(true);
    assert_eq!((w.durable(), w.prefix()), (2 * C, 3 * C));
    assert!(w.begin_flush());
    w.flushed(false);
    assert_eq!((w.durable(), w.next_step()), (2 * C, Next::End));
    w.flushed(true);
    assert_eq!(w.durable(), 2 * C, "no flush was under way");
}

/// Sizes in the model: small chunks would need another constant; so few of them, and the content of a chunk is one number.
const CHUNKS: usize = 20;
/// The log writes only to the first ones, so that copying and replay meet.
const HOT: usize = 5;

/// Two hosts. The content of a chunk is the number of the last log record that wrote it (record n writes chunk `target[n]`).
#[derive(Debug)]
struct Model {
    /// Chunk that each record of the log writes.
    log: Vec<usize>,
    /// Records logged so far, and records on the source's disk for sure (its replay position; as the target sees it).
    logged: usize,
    on_disk: usize,
    seen: usize,
    source: [u64; CHUNKS],
    /// Replay at the target: records applied, and the disk with what survives a power cut.
    applied: usize,
    target: [u64; CHUNKS],
    stable: [u64; CHUNKS],
    stable_applied: usize,
    /// What a flush that is under way will have made stable.
    flushing: Option<([u64; CHUNKS], usize)>,
    w: Window,
    handed: Vec<Chunk>,
    questions: VecDeque<(Chunk, u64)>,
    answers: VecDeque<(Chunk, Option<u64>)>,
}

#[derive(Clone, Debug)]
enum Event {
    Log,
    WriteBack,
    Hear,
    Next,
    Send,
    SourceReads,
    Answer,
    Replay,
    /// Log, write back, hear of it, replay it.
    Burst,
    FlushBegins,
    FlushEnds,
    FlushFails,
    /// Power cut at the target.
    Cut,
    /// kill -9 of the sync: the page cache stays.
    Kill,
}

impl Model {
    fn new(log: Vec<usize>, start: [u64; CHUNKS]) -> Model {
        Model {
            log,
            logged: 0,
            on_disk: 0,
            seen: 0,
            source: [0; CHUNKS],
            applied: 0,
            target: start,
            stable: start,
            stable_applied: 0,
            flushing: None,
            w: Window::new(0, CHUNKS as u64 * C),
            handed: vec![],
            questions: VecDeque::new(),
            answers: VecDeque::new(),
        }
    }

    fn at(c: Chunk) -> usize {
        (c.pos / C) as usize
    }

    fn step(&mut self, e: &Event) {
        match e {
            Event::Log if self.logged < self.log.len() => self.logged += 1,
            Event::WriteBack if self.on_disk < self.logged => {
                self.source[self.log[self.on_disk]] = self.on_disk as u64 + 1;
                self.on_disk += 1;
            }
            Event::Hear => self.seen = self.on_disk,
            Event::Next => match self.w.next_step() {
                Next::Ask(c) => self.handed.push(c),
                Next::Wait | Next::End => {}
            },
            Event::Send if !self.handed.is_empty() => {
                let c = self.handed.remove(0);
                self.w.asked(c, (1, self.seen as u64));
                self.questions.push_back((c, self.target[Self::at(c)]));
            }
            Event::SourceReads => {
                if let Some((c, theirs)) = self.questions.pop_front() {
                    let ours = self.source[Self::at(c)];
                    self.answers
                        .push_back((c, (ours != theirs).then_some(ours)));
                }
            }
            Event::Answer => self.answer(),
            // Never past the source's replay position.
            Event::Replay if self.applied < self.seen => {
                self.target[self.log[self.applied]] = self.applied as u64 + 1;
                self.applied += 1;
            }
            Event::Burst => {
                for e in [Event::Log, Event::WriteBack, Event::Hear, Event::Replay] {
                    self.step(&e);
                }
            }
            Event::FlushBegins if self.flushing.is_none() && self.w.begin_flush() => {
                self.flushing = Some((self.target, self.applied));
            }
            Event::FlushEnds => {
                if let Some((disk, applied)) = self.flushing.take() {
                    (self.stable, self.stable_applied) = (disk, applied);
                    self.w.flushed(true);
                    self.check_prefix();
                }
            }
            Event::FlushFails if self.flushing.take().is_some() => {
                self.w.flushed(false);
                assert_eq!(self.w.next_step(), Next::End);
                // The daemon forgets the page cache, which may hold what will never reach the disk.
                self.cut();
            }
            Event::Cut => self.cut(),
            Event::Kill => self.restart(),
            _ => {}
        }
    }

    fn answer(&mut self) {
        let Some((c, content)) = self.answers.pop_front() else {
            return;
        };
        let n = u32::from(content.is_some());
        match (self.w.answered(c, n).unwrap(), content) {
            (Verdict::Equal, None) => {}
            (Verdict::Write, Some(v)) => {
                if self.w.may_write(c, (1, self.applied as u64)) {
                    let at = Self::at(c);
                    let last = self.last_record(at, self.applied);
                    assert!(v >= last, "chunk {at} goes back from {last} to {v}");
                    self.target[at] = v;
                    self.w.written(c, n);
                }
            }
            other => panic!("{other:?}"),
        }
    }

    fn last_record(&self, chunk: usize, upto: usize) -> u64 {
        let last = self.log[..upto].iter().rposition(|c| *c == chunk);
        last.map_or(0, |n| n as u64 + 1)
    }

    /// What is called equal has been made so: every chunk in front of the durable prefix holds a content that the source had at some time,
    /// not older than what was applied here; also in what survives a power cut.
    fn check_prefix(&self) {
        for at in 0..(self.w.durable() / C) as usize {
            for (disk, applied) in [
                (&self.target, self.applied),
                (&self.stable, self.stable_applied),
            ] {
                let v = disk[at];
                assert!(
                    v == 0 || self.log.get(v as usize - 1) == Some(&at),
                    "chunk {at} holds {v}, which the source never had"
                );
                assert!(v >= self.last_record(at, applied), "chunk {at} is too old");
            }
        }
    }

    /// Power cut at the target: continue from the durable prefix.
    fn cut(&mut self) {
        self.target = self.stable;
        self.applied = self.stable_applied;
        self.restart();
        self.check_prefix();
    }

    fn restart(&mut self) {
        self.w = Window::new(self.w.durable(), CHUNKS as u64 * C);
        self.handed.clear();
        self.questions.clear();
        self.answers.clear();
        self.flushing = None;
    }

    fn run_to_end(&mut self) {
        for _ in 0..10_000 {
            if self.w.is_equal() {
                break;
            }
            for e in [Event::Hear, Event::Next, Event::Send, Event::SourceReads] {
                self.step(&e);
            }
            self.step(&Event::Answer);
        }
        assert!(self.w.is_equal(), "it never ends: {:?}", self.w);
        for e in [Event::FlushEnds, Event::FlushBegins, Event::FlushEnds] {
            self.step(&e);
        }
        assert_eq!(self.w.durable(), CHUNKS as u64 * C);
        // Replay up to the source's position at the end makes the disks equal.
        while self.on_disk < self.logged {
            self.step(&Event::WriteBack);
        }
        self.step(&Event::Hear);
        while self.applied < self.seen {
            self.step(&Event::Replay);
        }
        assert_eq!(self.target, self.source);
    }
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => Just(Event::Log),
        3 => Just(Event::WriteBack),
        2 => Just(Event::Hear),
        6 => Just(Event::Next),
        6 => Just(Event::Send),
        6 => Just(Event::SourceReads),
        6 => Just(Event::Answer),
        3 => Just(Event::Replay),
        3 => Just(Event::Burst),
        2 => Just(Event::FlushBegins),
        2 => Just(Event::FlushEnds),
        1 => Just(Event::FlushFails),
        1 => Just(Event::Cut),
        1 => Just(Event::Kill),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn any_order_of_events_ends_equal(
        log in prop::collection::vec(0..HOT, 0..60),
        start in prop::collection::vec(prop_oneof![Just(0u64), 1000u64..2000], CHUNKS),
        events in prop::collection::vec(event(), 0..300),
    ) {
        let mut m = Model::new(log, start.try_into().unwrap());
        for e in &events {
            m.step(e);
            prop_assert!(m.w.durable() <= m.w.prefix());
            prop_assert!(m.handed.len() + m.questions.len() + m.answers.len() <= WINDOW);
        }
        m.run_to_end();
    }
}
