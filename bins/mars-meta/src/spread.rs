//! What to send to whom: the tree in memory and, for each connection, how much of it the peer is known to have. Pure.
//!
//! Every change of a link gets a revision. A connection needs only a position in the order of revisions, plus the few links that the peer itself
//! told us and that lie behind that position. So a slow peer costs nothing: when it is ready again it gets one fresh difference.
//!
//! `uuid` and the heartbeats (`actual-*/time`, `actual-*/alive`) go last: whoever sees them has everything that was there before them.
use mars_net::VisitLink;
use mars_tree::{Applied, Key, Rank, RemoteLink, Stamp, Value};
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// Number of a connection, never used twice.
pub type ConnId = u64;

#[derive(Debug)]
struct Entry {
    value: Vec<u8>,
    stamp: Stamp,
    rev: u64,
}

impl Entry {
    fn rank(&self) -> Rank<'_> {
        Rank::of(self.stamp, &self.value)
    }
}

#[derive(Debug, Default)]
struct Peer {
    /// All state up to this revision is sent or known to the peer.
    state_pos: u64,
    /// The same for the links that go last.
    last_pos: u64,
    /// Links behind the positions that need not be sent: at this revision of ours the peer had the same or a better one.
    /// (A stamp would not do: on a tie the link that replaces ours has the same.)
    known: HashMap<String, u64>,
    /// Tombstones to send again: the peer had no such key when it got them, so it did not keep them, but it has one now.
    again: BTreeSet<String>,
    /// A first complete answer was given.
    answered: bool,
    ping: bool,
}

/// What to put on the wire next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outgoing {
    /// Links.
    Links {
        /// Nothing else to send now.
        complete: bool,
        /// In this order.
        links: Vec<RemoteLink>,
    },
    /// A ping; everything that was there before it has been sent.
    Ping,
}

/// May this path travel? (`read-stamp` is local bookkeeping, although it lies in a replicated directory.)
pub fn travels(path: &str) -> bool {
    let key = Key::parse(path);
    key.is_replicated() && !matches!(&key, Key::HostActual(_, name) if name == "read-stamp")
}

/// Does this path go last?
fn goes_last(path: &str) -> bool {
    path == "uuid"
        || path
            .strip_prefix("actual-")
            .and_then(|p| p.split_once('/'))
            .is_some_and(|(_, name)| name == "time" || name == "alive")
}

/// The tree in memory and what the peers have of it.
#[derive(Debug, Default)]
pub struct Spread {
    links: BTreeMap<String, Entry>,
    state: BTreeMap<u64, String>,
    last: BTreeMap<u64, String>,
    rev: u64,
    peers: BTreeMap<ConnId, Peer>,
}

impl Spread {
    /// Empty.
    pub fn new() -> Spread {
        Spread::default()
    }

    /// Number of links, tombstones included.
    pub fn len(&self) -> usize {
        self.links.len()
    }

    /// No link at all?
    pub fn is_empty(&self) -> bool {
        self.links.is_empty()
    }

    /// Raw value and stamp, tombstones included.
    pub fn get(&self, path: &str) -> Option<(&[u8], Stamp)> {
        self.links.get(path).map(|e| (&e.value[..], e.stamp))
    }

    /// Live text of a link.
    pub fn text(&self, path: &str) -> Option<&str> {
        let (v, _) = self.get(path)?;
        std::str::from_utf8(v).ok().filter(|t| *t != Value::DELETED)
    }

    /// Live texts of all links whose path starts with `prefix`: (rest of the path, text).
    pub fn texts_below<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.links
            .range(prefix.to_string()..)
            .take_while(move |(p, _)| p.starts_with(prefix))
            .filter_map(move |(p, e)| {
                let text = std::str::from_utf8(&e.value).ok()?;
                (text != Value::DELETED).then_some((&p[prefix.len()..], text))
            })
    }

    /// Stamps of all tombstones whose path starts with `prefix`: (rest of the path, stamp).
    pub fn tombstones_below<'a>(
        &'a self,
        prefix: &'a str,
    ) -> impl Iterator<Item = (&'a str, Stamp)> {
        self.links
            .range(prefix.to_string()..)
            .take_while(move |(p, _)| p.starts_with(prefix))
            .filter(|(_, e)| e.value == Value::DELETED.as_bytes())
            .map(move |(p, e)| (&p[prefix.len()..], e.stamp))
    }

    /// Everything, for a visitor.
    pub fn all(&self) -> impl Iterator<Item = VisitLink> {
        self.links.iter().map(|(path, e)| VisitLink {
            path: path.clone(),
            value: e.value.clone(),
            stamp: e.stamp.as_nanos(),
        })
    }

    fn order(&mut self, path: &str) -> &mut BTreeMap<u64, String> {
        if goes_last(path) {
            &mut self.last
        } else {
            &mut self.state
        }
    }

    /// The local tree has this now (`None`: the link is gone without a tombstone). True when that is news.
    pub fn local(&mut self, path: &str, link: Option<(&[u8], Stamp)>) -> bool {
        let old = self.links.get(path).map(|e| e.rev);
        let Some((value, stamp)) = link else {
            if let Some(rev) = old {
                self.order(path).remove(&rev);
                self.links.remove(path);
                for p in self.peers.values_mut() {
                    p.known.remove(path);
                }
            }
            return old.is_some();
        };
        if self
            .links
            .get(path)
            .is_some_and(|e| e.stamp == stamp && e.value == value)
        {
            return false;
        }
        self.rev += 1;
        let rev = self.rev;
        let order = self.order(path);
        if let Some(old) = old {
            order.remove(&old);
        }
        order.insert(rev, path.to_string());
        self.links.insert(
            path.to_string(),
            Entry {
                value: value.to_vec(),
                stamp,
                rev,
            },
        );
        true
    }

    /// The whole local tree after a scan: what is not in it is gone. Returns the paths that changed.
    pub fn rescan(&mut self, links: Vec<RemoteLink>) -> Vec<String> {
        let mut changed = Vec::new();
        let mut gone: BTreeSet<String> = self.links.keys().cloned().collect();
        for l in links {
            gone.remove(&l.path);
            if self.local(&l.path, Some((&l.value, l.stamp))) {
                changed.push(l.path);
            }
        }
        for path in gone {
            self.local(&path, None);
            changed.push(path);
        }
        changed
    }

    /// Is a link from a peer worth the look at the disk?
    pub fn wants(&self, link: &RemoteLink) -> bool {
        match self.links.get(&link.path) {
            Some(e) => link.rank() > e.rank(),
            None => true,
        }
    }

    /// A link came from a peer, and this became of it.
    pub fn received(&mut self, from: ConnId, link: &RemoteLink, what: Applied) {
        if what == Applied::Refused {
            return;
        }
        if what == Applied::Stored {
            self.local(&link.path, Some((&link.value, link.stamp)));
        }
        // Only links that would otherwise be sent are worth remembering, so this is bounded by our own tree.
        let last = goes_last(&link.path);
        let (Some(e), Some(p)) = (self.links.get(&link.path), self.peers.get_mut(&from)) else {
            return;
        };
        let pos = if last { p.last_pos } else { p.state_pos };
        if e.rev > pos && e.rank() <= link.rank() {
            p.known.insert(link.path.clone(), e.rev);
        }
        if e.rev <= pos && e.rank() > link.rank() && e.value == Value::DELETED.as_bytes() {
            p.again.insert(link.path.clone());
        }
    }

    /// A new connection: its peer has nothing yet.
    pub fn connect(&mut self, conn: ConnId) {
        self.peers.insert(conn, Peer::default());
    }

    /// A connection ended.
    pub fn disconnect(&mut self, conn: ConnId) {
        self.peers.remove(&conn);
    }

    /// Send a ping when everything else is sent.
    pub fn ping(&mut self, conn: ConnId) {
        if let Some(p) = self.peers.get_mut(&conn) {
            p.ping = true;
        }
    }

    /// What to send next on a connection that can take it; `None` when there is nothing. What is returned counts as sent: a connection that fails
    /// is disconnected, and the next one starts from the beginning.
    pub fn next(&mut self, conn: ConnId, batch_bytes: usize) -> Option<Outgoing> {
        let Spread {
            links: map,
            state,
            last,
            rev,
            peers,
        } = self;
        let p = peers.get_mut(&conn)?;
        let mut out = Vec::new();
        let mut bytes = 0;
        let mut put = |path: &String, e: &Entry| {
            bytes += path.len() + e.value.len() + 16;
            out.push(RemoteLink {
                path: path.clone(),
                value: e.value.clone(),
                stamp: e.stamp,
            });
            bytes >= batch_bytes
        };
        let mut full = false;
        while !full && let Some(path) = p.again.pop_first() {
            if let Some(e) = map.get(&path) {
                full = put(&path, e);
            }
        }
        // Last comes only when no state is left.
        for (order, pos) in [(&*state, &mut p.state_pos), (&*last, &mut p.last_pos)] {
            for (&at, path) in order.range(*pos + 1..) {
                if full {
                    return Some(Outgoing::Links {
                        complete: false,
                        links: out,
                    });
                }
                *pos = at;
                let known = p.known.remove(path);
                let Some(e) = map.get(path) else { continue };
                if known != Some(e.rev) {
                    full = put(path, e);
                }
            }
            *pos = *rev;
        }
        if !out.is_empty() || !p.answered {
            p.answered = true;
            return Some(Outgoing::Links {
                complete: true,
                links: out,
            });
        }
        std::mem::take(&mut p.ping).then_some(Outgoing::Ping)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use mars_tree::{Decision, LocalState, decide};
    use proptest::prelude::*;

    fn link(path: &str, value: &str, stamp: u64) -> RemoteLink {
        RemoteLink {
            path: path.into(),
            value: value.into(),
            stamp: Stamp::from_nanos(stamp),
        }
    }
    fn set(s: &mut Spread, path: &str, value: &str, stamp: u64) -> bool {
        s.local(path, Some((value.as_bytes(), Stamp::from_nanos(stamp))))
    }
    fn paths(out: Option<Outgoing>) -> Vec<String> {
        match out {
            Some(Outgoing::Links { links, .. }) => links.into_iter().map(|l| l.path).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn read_stamp_and_hidden_names_stay_at_home() {
        assert!(travels("actual-beta/time"));
        assert!(travels("userspace/anything-beta"));
        assert!(!travels("actual-beta/read-stamp"));
        assert!(!travels("resource-lv0/.tmp.1.x"));
        assert!(!travels("userspace/systemd-trigger"));
        assert!(!travels("../x"));
    }

    #[test]
    fn everything_goes_once_and_heartbeats_and_uuid_go_last() {
        let mut s = Spread::new();
        set(&mut s, "actual-a/time", "1", 1);
        set(&mut s, "uuid", "u", 2);
        set(&mut s, "zzz", "v", 3);
        s.connect(1);
        assert_eq!(paths(s.next(1, 1000)), ["zzz", "actual-a/time", "uuid"]);
        assert_eq!(s.next(1, 1000), None);
        assert!(!set(&mut s, "zzz", "v", 3));
        assert_eq!(s.next(1, 1000), None);
    }

    #[test]
    fn heartbeat_waits_for_state_that_came_before_it() {
        let mut s = Spread::new();
        s.connect(1);
        for i in 0..10 {
            set(&mut s, &format!("k{i}"), "value", 1);
        }
        set(&mut s, "actual-a/alive", "1", 2);
        // Batches of about two links: the state is spread over several.
        let mut all = Vec::new();
        while let Some(out) = s.next(1, 40) {
            // State that changes again meanwhile must not overtake its heartbeat either.
            if all.is_empty() {
                set(&mut s, "k9", "newer", 3);
            }
            all.extend(paths(Some(out)));
        }
        assert_eq!(all.last().unwrap(), "actual-a/alive");
        assert_eq!(all.len(), 11);
    }

    #[test]
    fn empty_tree_still_gives_a_first_answer() {
        let mut s = Spread::new();
        s.connect(1);
        assert_eq!(
            s.next(1, 10),
            Some(Outgoing::Links {
                complete: true,
                links: vec![]
            })
        );
        assert_eq!(s.next(1, 10), None);
    }

    #[test]
    fn nothing_goes_back_to_where_it_came_from() {
        let mut s = Spread::new();
        s.connect(1);
        s.connect(2);
        s.next(1, 10);
        s.next(2, 10);
        s.received(1, &link("k", "v", 5), Applied::Stored);
        assert_eq!(s.next(1, 1000), None);
        assert_eq!(paths(s.next(2, 1000)), ["k"]);
        // Told by both before we could forward it: neither gets it.
        s.received(1, &link("k", "w", 6), Applied::Stored);
        s.received(2, &link("k", "w", 6), Applied::Kept);
        assert_eq!((s.next(1, 1000), s.next(2, 1000)), (None, None));
        // A tombstone that the peer dropped because it did not have the key is told again when it has one.
        set(&mut s, "dead", ".deleted", 8);
        assert_eq!(paths(s.next(1, 1000)), ["dead"]);
        s.received(1, &link("dead", "v", 7), Applied::Kept);
        assert_eq!(paths(s.next(1, 1000)), ["dead"]);
        assert_eq!(s.next(1, 1000), None);
        s.next(2, 1000);
        // An older one from a peer is answered with ours when it has not been sent.
        set(&mut s, "k", "x", 9);
        s.received(1, &link("k", "y", 7), Applied::Kept);
        assert_eq!(paths(s.next(1, 1000)), ["k"]);
    }

    #[test]
    fn link_that_wins_a_tie_is_news_and_one_that_loses_is_answered() {
        let mut s = Spread::new();
        s.connect(1);
        s.connect(2);
        set(&mut s, "k", "m", 5);
        s.received(2, &link("k", "m", 5), Applied::Kept);
        assert!(!s.wants(&link("k", "a", 5)) && !s.wants(&link("k", "m", 5)));
        assert!(s.wants(&link("k", "z", 5)) && s.wants(&link("k", ".deleted", 5)));
        // The second peer is known to have `m`, not what replaces it.
        s.received(1, &link("k", "z", 5), Applied::Stored);
        assert_eq!(paths(s.next(1, 1000)), [""; 0]);
        assert_eq!(paths(s.next(2, 1000)), ["k"]);
        // The loser of a tie is told, also when the first telling of a tombstone created nothing there.
        set(&mut s, "l", "m", 5);
        s.received(1, &link("l", "a", 5), Applied::Kept);
        assert_eq!(paths(s.next(1, 1000)), ["l"]);
        set(&mut s, "l", ".deleted", 6);
        assert_eq!(paths(s.next(1, 1000)), ["l"]);
        s.received(1, &link("l", "z", 6), Applied::Kept);
        assert_eq!(paths(s.next(1, 1000)), ["l"]);
        assert_eq!(s.next(1, 1000), None);
    }

    #[test]
    fn ping_goes_after_everything_else() {
        let mut s = Spread::new();
        s.connect(1);
        set(&mut s, "k", "v", 1);
        s.ping(1);
        assert_eq!(paths(s.next(1, 1000)), ["k"]);
        assert_eq!(s.next(1, 1000), Some(Outgoing::Ping));
        assert_eq!(s.next(1, 1000), None);
    }

    #[test]
    fn slow_peer_gets_only_the_newest() {
        let mut s = Spread::new();
        s.connect(1);
        for i in 0..1000 {
            set(&mut s, "k", &i.to_string(), i + 1);
        }
        assert_eq!(s.state.len(), 1);
        assert_eq!(
            s.next(1, 1000),
            Some(Outgoing::Links {
                complete: true,
                links: vec![link("k", "999", 1000)]
            })
        );
    }

    #[test]
    fn purged_link_can_be_received_again() {
        let mut s = Spread::new();
        set(&mut s, "k", ".deleted", 5);
        assert!(!s.wants(&link("k", "v", 4)));
        assert_eq!(s.rescan(vec![]), ["k"]);
        assert!(s.wants(&link("k", "v", 4)));
        assert!(s.is_empty());
    }

    /// Hosts in a graph of connections; messages in flight may be delayed, connections may break and lose what is in flight.
    #[derive(Debug, Clone)]
    enum Step {
        Write(usize, u8, u8),
        Delete(usize, u8),
        Tick,
        Pump(usize),
        Deliver(usize),
        Cut(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            3 => (any::<usize>(), 0u8..6, any::<u8>()).prop_map(|(h, k, v)| Step::Write(h, k, v)),
            1 => (any::<usize>(), 0u8..6).prop_map(|(h, k)| Step::Delete(h, k)),
            1 => Just(Step::Tick),
            4 => any::<usize>().prop_map(Step::Pump),
            4 => any::<usize>().prop_map(Step::Deliver),
            1 => any::<usize>().prop_map(Step::Cut),
        ];
        proptest::collection::vec(step, 0..80)
    }

    struct Sim {
        hosts: Vec<Spread>,
        /// Both directions of each edge: from, to, connection number at `from`, at `to`, in flight.
        lines: Vec<(usize, usize, ConnId, ConnId, Vec<RemoteLink>)>,
        clock: u64,
        conn: ConnId,
        sent: usize,
    }

    impl Sim {
        fn new(n: usize, ring: bool) -> Sim {
            let mut s = Sim {
                hosts: (0..n).map(|_| Spread::new()).collect(),
                lines: vec![],
                clock: 0,
                conn: 0,
                sent: 0,
            };
            // A chain is the least that connects all; a ring has loops.
            let edges = if ring && n > 2 { n } else { n - 1 };
            for i in 0..edges {
                let (a, b) = (i, (i + 1) % n);
                s.lines.push((a, b, 0, 0, vec![]));
                s.lines.push((b, a, 0, 0, vec![]));
            }
            for e in 0..s.lines.len() / 2 {
                s.cut(e);
            }
            s
        }
        /// Breaks connection `e` and makes a new one.
        fn cut(&mut self, e: usize) {
            let (a, b, ca, cb, _) = self.lines[2 * e].clone();
            self.hosts[a].disconnect(ca);
            self.hosts[b].disconnect(cb);
            let (na, nb) = (self.conn + 1, self.conn + 2);
            self.conn += 2;
            self.hosts[a].connect(na);
            self.hosts[b].connect(nb);
            self.lines[2 * e] = (a, b, na, nb, vec![]);
            self.lines[2 * e + 1] = (b, a, nb, na, vec![]);
        }
        fn write(&mut self, h: usize, k: u8, value: &str) {
            let path = if k == 0 {
                "actual-a/time".into()
            } else {
                format!("k{k}")
            };
            if value == ".deleted" && self.hosts[h].text(&path).is_none() {
                return;
            }
            // A slow clock for all and, on each host, newer than what was there: different links with equal stamps abound.
            let old = self.hosts[h].get(&path).map_or(0, |l| l.1.as_nanos());
            set(&mut self.hosts[h], &path, value, self.clock.max(old + 1));
        }
        fn pump(&mut self, l: usize) -> bool {
            let (a, _, ca, _, _) = self.lines[l];
            match self.hosts[a].next(ca, 24) {
                Some(Outgoing::Links { links, .. }) => {
                    self.sent += links.len();
                    self.lines[l].4.extend(links);
                    true
                }
                _ => false,
            }
        }
        fn deliver(&mut self, l: usize, all: bool) {
            let n = if all { self.lines[l].4.len() } else { 1 };
            let (_, b, _, cb, _) = self.lines[l];
            for _ in 0..n.min(self.lines[l].4.len()) {
                let link = self.lines[l].4.remove(0);
                let here = self.hosts[b].get(&link.path);
                let here = here.map(|(value, stamp)| LocalState::Link(Rank::of(stamp, value)));
                let what = match decide(here, link.rank()) {
                    Decision::Store if self.hosts[b].wants(&link) => Applied::Stored,
                    _ => Applied::Kept,
                };
                self.hosts[b].received(cb, &link, what);
            }
        }
        fn run_dry(&mut self) {
            loop {
                let mut more = false;
                for l in 0..self.lines.len() {
                    more |= self.pump(l) || !self.lines[l].4.is_empty();
                    self.deliver(l, true);
                }
                if !more {
                    return;
                }
            }
        }
    }

    proptest! {
        /// I6: whatever happens in between, in the end all hosts have the newest of every key, and then nothing is sent any more.
        #[test]
        fn hosts_converge_to_the_newest(n in 2usize..5, ring in any::<bool>(), steps in steps()) {
            let mut sim = Sim::new(n, ring);
            let mut newest: BTreeMap<String, (u64, bool, String)> = BTreeMap::new();
            for step in steps {
                let lines = sim.lines.len();
                match step {
                    Step::Write(h, k, v) => sim.write(h % n, k, &v.to_string()),
                    Step::Delete(h, k) => sim.write(h % n, k, ".deleted"),
                    Step::Tick => sim.clock += 1,
                    Step::Pump(l) => { sim.pump(l % lines); }
                    Step::Deliver(l) => sim.deliver(l % lines, false),
                    Step::Cut(l) => sim.cut(l % (lines / 2)),
                }
                for h in &sim.hosts {
                    for (p, e) in &h.links {
                        let v = String::from_utf8(e.value.clone()).unwrap();
                        let new = (e.stamp.as_nanos(), v == ".deleted", v);
                        if newest.get(p).is_none_or(|o| *o < new) {
                            newest.insert(p.clone(), new);
                        }
                    }
                }
            }
            sim.run_dry();
            for h in &sim.hosts {
                for (p, (stamp, _, v)) in &newest {
                    match h.get(p) {
                        // A host that never had the key needs no tombstone, and between two deletions in a row any tombstone will do.
                        None => prop_assert_eq!(v, ".deleted"),
                        Some((b".deleted", _)) if v == ".deleted" => {}
                        Some((got, s)) => {
                            prop_assert_eq!(s.as_nanos(), *stamp);
                            prop_assert_eq!(got, v.as_bytes());
                        }
                    }
                }
            }
            let sent = sim.sent;
            sim.run_dry();
            prop_assert_eq!(sim.sent, sent);
            for h in &sim.hosts {
                for p in h.peers.values() {
                    prop_assert!(p.known.is_empty() , "{:?}", p.known);
                }
            }
        }
    }
}
