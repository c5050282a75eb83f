//! I6: for every key the newest stamp wins everywhere; a deleted key does not come back. Random writes, deletions and
//! exchanges between hosts whose wall clocks are wrong by minutes, in memory with the pure rule and on real trees. Equal
//! stamps for different values occur, and end the same everywhere.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_live::Clock;
use mars_tree::{Applied, Batch, Decision, Key, LocalState, Rank, RemoteLink, Stamp, Tree, decide};
use proptest::prelude::*;
use std::collections::BTreeMap;

const KEYS: [&str; 4] = [
    "resource-r/primary",
    "resource-r/todo-h0/attach",
    "ips/ip-h1",
    "unknown-link",
];
const MINUTE: i64 = 60_000_000_000;

#[derive(Clone, Debug)]
enum Step {
    Write(usize, usize),
    Delete(usize, usize),
    /// One host learns the whole tree of another.
    Exchange(usize, usize),
    /// One link alone arrives, perhaps long after it was sent.
    Delayed(usize, usize),
    /// Two hosts, both behind the Lamport time that they have seen, write a key or the second one deletes it: a tie.
    Tie(usize, usize, usize, bool),
}

fn steps(max: usize) -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (0usize..5, 0..KEYS.len()).prop_map(|(h, k)| Step::Write(h, k)),
        3 => (0usize..5, 0..KEYS.len()).prop_map(|(h, k)| Step::Delete(h, k)),
        3 => (0usize..5, 0usize..5).prop_map(|(a, b)| Step::Exchange(a, b)),
        2 => (0usize..1000, 0usize..5).prop_map(|(n, h)| Step::Delayed(n, h)),
        1 => (0usize..5, 0usize..5, 0..KEYS.len(), any::<bool>())
            .prop_map(|(a, b, k, delete)| Step::Tie(a, b, k, delete)),
    ];
    proptest::collection::vec(step, 1..max)
}
fn skews() -> impl Strategy<Value = Vec<i64>> {
    proptest::collection::vec((-30 * MINUTE)..(30 * MINUTE), 2..=5)
}

/// A host: what the test needs of it, in memory or on disk.
trait Host {
    fn write(&mut self, key: &str, value: &str);
    fn delete(&mut self, key: &str);
    fn export(&self) -> Vec<RemoteLink>;
    fn apply(&mut self, link: &RemoteLink);
    fn clock(&self) -> &Clock;
}

struct InMemory {
    clock: Clock,
    links: BTreeMap<String, (String, Stamp)>,
}
impl InMemory {
    fn put(&mut self, key: &str, value: &str) {
        let old = self.links.get(key).map_or(Stamp::ZERO, |l| l.1);
        let stamp = self.clock.tick(old);
        self.links.insert(key.into(), (value.into(), stamp));
    }
}
impl Host for InMemory {
    fn write(&mut self, key: &str, value: &str) {
        self.put(key, value);
    }
    fn delete(&mut self, key: &str) {
        if self.links.get(key).is_some_and(|l| l.0 != ".deleted") {
            self.put(key, ".deleted");
        }
    }
    fn export(&self) -> Vec<RemoteLink> {
        let link = |(path, (value, stamp)): (&String, &(String, Stamp))| RemoteLink {
            path: path.clone(),
            value: value.clone().into_bytes(),
            stamp: *stamp,
        };
        self.links.iter().map(link).collect()
    }
    fn apply(&mut self, link: &RemoteLink) {
        let local = self.links.get(&link.path);
        let local =
            local.map(|(value, stamp)| LocalState::Link(Rank::of(*stamp, value.as_bytes())));
        if decide(local, link.rank()) == Decision::Store {
            self.clock.observe(link.stamp);
            let value = String::from_utf8(link.value.clone()).unwrap();
            self.links.insert(link.path.clone(), (value, link.stamp));
        }
    }
    fn clock(&self) -> &Clock {
        &self.clock
    }
}

struct OnDisk {
    tree: Tree,
    _dir: tempfile::TempDir,
}
impl Host for OnDisk {
    fn write(&mut self, key: &str, value: &str) {
        let mut batch = Batch::new();
        batch.set(Key::parse(key), value);
        self.tree.commit(&batch).unwrap();
    }
    fn delete(&mut self, key: &str) {
        let mut batch = Batch::new();
        batch.delete(Key::parse(key));
        self.tree.commit(&batch).unwrap();
    }
    fn export(&self) -> Vec<RemoteLink> {
        self.tree.export().unwrap()
    }
    fn apply(&mut self, link: &RemoteLink) {
        assert_ne!(self.tree.apply_remote(link).unwrap(), Applied::Refused);
    }
    fn clock(&self) -> &Clock {
        self.tree.clock()
    }
}

/// Runs the steps, then lets everybody talk to everybody, and checks I6.
fn newest_wins<H: Host>(mut hosts: Vec<H>, steps: &[Step]) -> Result<(), TestCaseError> {
    // Every link that ever existed, and of each key the newest.
    let mut sent: Vec<RemoteLink> = Vec::new();
    let mut newest: BTreeMap<String, RemoteLink> = BTreeMap::new();
    let count = hosts.len();
    // Ahead of every clock, and with each step again: no step issues a thousand stamps.
    let ahead = Stamp::from_nanos(Stamp::real_time().as_nanos() + 24 * 60 * MINUTE as u64);
    for (n, step) in steps.iter().enumerate() {
        let mut writers = Vec::new();
        match step {
            Step::Write(h, k) => {
                hosts[h % count].write(KEYS[*k], &format!("v{n}"));
                writers.push(h % count);
            }
            Step::Delete(h, k) => {
                hosts[h % count].delete(KEYS[*k]);
                writers.push(h % count);
            }
            Step::Tie(a, b, k, delete) if a % count != b % count => {
                writers = vec![a % count, b % count];
                let seen = Stamp::from_nanos(ahead.as_nanos() + 1000 * n as u64);
                for h in &writers {
                    hosts[*h].clock().observe(seen);
                }
                hosts[writers[0]].write(KEYS[*k], &format!("v{n}"));
                match delete {
                    true => hosts[writers[1]].delete(KEYS[*k]),
                    false => hosts[writers[1]].write(KEYS[*k], &format!("w{n}")),
                }
                if !delete {
                    let [x, y] = [0, 1].map(|i| {
                        let all = hosts[writers[i]].export();
                        all.into_iter().find(|l| l.path == KEYS[*k])
                    });
                    let (x, y) = (x.unwrap(), y.unwrap());
                    prop_assert_eq!(x.stamp, y.stamp);
                    prop_assert_ne!(x.value, y.value);
                }
            }
            Step::Tie(..) => {}
            Step::Exchange(a, b) => {
                for link in hosts[a % count].export() {
                    hosts[b % count].apply(&link);
                }
            }
            Step::Delayed(i, h) if !sent.is_empty() => {
                hosts[h % count].apply(&sent[i % sent.len()]);
            }
            Step::Delayed(..) => {}
        }
        for h in writers {
            for link in hosts[h].export() {
                let best = newest
                    .entry(link.path.clone())
                    .or_insert_with(|| link.clone());
                if link.rank() > best.rank() {
                    *best = link.clone();
                }
                sent.push(link);
            }
        }
    }
    // Twice: what the last host learns in the first round must still reach the first.
    for _ in 0..2 {
        for a in 0..count {
            for b in 0..count {
                for link in hosts[a].export() {
                    hosts[b].apply(&link);
                }
            }
        }
    }
    // Whatever was on its way arrives late; nothing may come back.
    for link in &sent {
        hosts.iter_mut().for_each(|h| h.apply(link));
    }
    for host in &hosts {
        let here: BTreeMap<_, _> = host
            .export()
            .into_iter()
            .map(|l| (l.path.clone(), l))
            .collect();
        for (path, want) in &newest {
            match here.get(path) {
                Some(got) => prop_assert_eq!(got, want),
                // A tombstone never creates a key: it may be unknown where the key never was.
                None => prop_assert_eq!(&want.value, b".deleted"),
            }
        }
        prop_assert!(here.keys().all(|k| newest.contains_key(k)));
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn i6_newest_wins_in_memory(skews in skews(), steps in steps(120)) {
        let host = |skew: &i64| InMemory {
            clock: Clock::private().with_skew(*skew),
            links: BTreeMap::new(),
        };
        newest_wins(skews.iter().map(host).collect(), &steps)?;
    }
}
proptest! {
    #![proptest_config(ProptestConfig::with_cases(30))]

    #[test]
    fn i6_newest_wins_on_disk(skews in skews(), steps in steps(30)) {
        let host = |skew: &i64| {
            let dir = tempfile::tempdir().unwrap();
            let tree = Tree::with_clock(dir.path(), Clock::private().with_skew(*skew));
            OnDisk { tree, _dir: dir }
        };
        newest_wins(skews.iter().map(host).collect(), &steps)?;
    }
}

#[test]
fn i6_decision_table() {
    use Decision::{Keep, Refuse, Store};
    let at = Stamp::from_nanos;
    let link = |n, value: &'static str| Some(LocalState::Link(Rank::of(at(n), value.as_bytes())));
    for (local, live, tombstone) in [
        (None, Store, Keep),
        (link(4, "m"), Store, Store),
        (link(4, "z"), Store, Store),
        (link(4, ".deleted"), Store, Store),
        // Ties: the tombstone wins, then the greater value; `~` is greater than `m`, and a prefix is smaller.
        (link(5, "(none)"), Store, Store),
        (link(5, "lz"), Store, Store),
        (link(5, "m"), Keep, Store),
        (link(5, "ma"), Keep, Store),
        (link(5, "~"), Keep, Store),
        (link(5, ".deleted"), Keep, Keep),
        (link(6, "a"), Keep, Keep),
        (link(6, ".deleted"), Keep, Keep),
        (Some(LocalState::LogFile(at(4))), Refuse, Store),
        (Some(LocalState::LogFile(at(5))), Refuse, Keep),
        (Some(LocalState::Marker(at(5))), Store, Keep),
        (Some(LocalState::Marker(at(6))), Keep, Keep),
        (Some(LocalState::Blocked), Refuse, Refuse),
    ] {
        assert_eq!(decide(local, Rank::of(at(5), b"m")), live, "{local:?}");
        let deleted = Rank::of(at(5), b".deleted");
        assert_eq!(decide(local, deleted), tombstone, "{local:?}");
    }
}
