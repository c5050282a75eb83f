//! Positions only grow: a look at the tree of a host after every change of it.
use crate::Host;
use mars_tree::{HostName, Key, ReplayPos, ResName, Snapshot, VersionLink, Watcher};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How often each member began its history anew (`join-resource`, `invalidate`; counted before the command starts): for each of these its positions
/// may go back once, and its version links once more: they begin as copies of the primary's, and tell later how far its own replay is.
#[derive(Debug, Default)]
pub struct Epochs(BTreeMap<HostName, AtomicU64>);

impl Epochs {
    /// For these hosts.
    pub fn new(hosts: &[Host]) -> Epochs {
        let all = hosts
            .iter()
            .map(|h| (h.env.host.clone(), AtomicU64::new(0)));
        Epochs(all.collect())
    }
    /// The host's history may begin anew from now on.
    pub fn next(&self, host: &HostName) {
        if let Some(n) = self.0.get(host) {
            n.fetch_add(1, Ordering::SeqCst);
        }
    }
    /// How often so far.
    pub fn of(&self, host: &HostName) -> u64 {
        self.0.get(host).map_or(0, |n| n.load(Ordering::SeqCst))
    }
}

/// The newest value seen of each position.
#[derive(Debug, Default)]
pub struct Positions {
    seen: BTreeMap<String, (u64, u64)>,
    /// Steps back so far.
    back: BTreeMap<String, u64>,
    maxnr: u64,
    /// Snapshots that were looked at.
    pub looks: u64,
    /// Values that were new.
    pub steps: u64,
}

impl Positions {
    /// Compares a snapshot with everything before it.
    pub fn look(&mut self, snap: &Snapshot, res: &ResName, epochs: &Epochs) -> Result<(), String> {
        self.looks += 1;
        for (path, link) in snap.live_below(&format!("resource-{res}/")) {
            let Some(text) = link.value.as_str() else {
                continue;
            };
            let damaged = |e: mars_tree::ValueError| format!("{path} -> {text:?}: {e}");
            match Key::parse(path) {
                Key::Replay(_, host) => {
                    let pos: ReplayPos = text.parse().map_err(damaged)?;
                    let (nr, at) = pos.order();
                    self.grow(path, "position", &host, (nr.into(), at), text, (epochs, 1))?;
                    let (nr, end) = pos.end();
                    self.grow(path, "end", &host, (nr.into(), end), text, (epochs, 1))?;
                }
                Key::Version(_, nr, host) => {
                    let v: VersionLink = text.parse().map_err(damaged)?;
                    if v.head.log.nr != nr {
                        return Err(format!("{path} -> {text} speaks of another log"));
                    }
                    self.grow(path, "length", &host, (0, v.head.len), text, (epochs, 2))?;
                }
                Key::SyncStatus(_, host) => {
                    let at: u64 = text.parse().map_err(|_| format!("{path} -> {text:?}"))?;
                    self.grow(path, "synced", &host, (0, at), text, (epochs, 1))?;
                }
                Key::MaxNr(_) => {
                    let nr: u64 = text.parse().map_err(|_| format!("{path} -> {text:?}"))?;
                    if self.maxnr > nr {
                        return Err(format!("{path} went back to {text}"));
                    }
                    self.maxnr = nr;
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn grow(
        &mut self,
        path: &str,
        what: &str,
        host: &HostName,
        value: (u64, u64),
        text: &str,
        (epochs, times): (&Epochs, u64),
    ) -> Result<(), String> {
        let key = format!("{path} {what}");
        let before = self.seen.insert(key.clone(), value);
        if before != Some(value) {
            self.steps += 1;
        }
        let Some(was) = before.filter(|b| value < *b) else {
            return Ok(());
        };
        let back = self.back.entry(key).or_default();
        *back += 1;
        if *back > epochs.of(host) * times {
            return Err(format!(
                "{path}: the {what} went back from {was:?} to {value:?} ({text})"
            ));
        }
        Ok(())
    }
}

/// Looks after every change until `stop`.
pub fn watch(
    host: &Host,
    res: &ResName,
    epochs: &Epochs,
    stop: &AtomicBool,
) -> Result<Positions, String> {
    let tree = host.tree();
    let mut watcher = Watcher::tree(&tree).expect("watch");
    let mut positions = Positions::default();
    while !stop.load(Ordering::SeqCst) {
        let snap = tree.snapshot().expect("snapshot");
        positions
            .look(&snap, res, epochs)
            .map_err(|e| format!("seen on {}: {e}", host.env.host))?;
        watcher
            .wait(Some(Duration::from_millis(500)))
            .expect("watch");
    }
    Ok(positions)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mars_tree::Stamp;

    fn look(p: &mut Positions, epochs: &Epochs, key: &str, value: &str) -> Result<(), String> {
        let mut snap = Snapshot::default();
        snap.insert(&Key::parse(key), value, Stamp::from_nanos(1));
        p.look(&snap, &"data".parse().unwrap(), epochs)
    }

    const REPLAY: &str = "resource-data/replay-beta";

    #[test]
    fn what_goes_back_is_seen() {
        let epochs = Epochs::default();
        for (later, what) in [("1600,100", "the end"), ("1400,400", "the position")] {
            let mut p = Positions::default();
            for value in ["1000,500", "1500,0", "1500,300"] {
                look(
                    &mut p,
                    &epochs,
                    REPLAY,
                    &format!("log-000000001-alpha,{value}"),
                )
                .unwrap();
            }
            let e = look(
                &mut p,
                &epochs,
                REPLAY,
                &format!("log-000000001-alpha,{later}"),
            );
            assert!(e.unwrap_err().contains(&format!("{what} went back")));
        }
        let mut p = Positions::default();
        let key = "resource-data/syncstatus-beta";
        look(&mut p, &epochs, key, "4096").unwrap();
        assert!(look(&mut p, &epochs, key, "0").is_err());
    }

    #[test]
    fn a_new_history_goes_back_once() {
        let beta: HostName = "beta".parse().unwrap();
        let epochs = Epochs(BTreeMap::from([(beta.clone(), AtomicU64::new(0))]));
        let mut p = Positions::default();
        let mut pos = |value: &str| look(&mut p, &epochs, REPLAY, value);
        pos("log-000000002-alpha,0,0").unwrap();
        epochs.next(&beta);
        // The old history may still grow a little.
        pos("log-000000002-alpha,100,0").unwrap();
        pos("log-000000001-alpha,0,0").unwrap();
        pos("log-000000001-alpha,50,0").unwrap();
        assert!(pos("log-000000001-alpha,40,0").is_err());
    }
}
