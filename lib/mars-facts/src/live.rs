//! `view` of this host is exact: what its running daemons have put into the live pages goes over the links, which are written
//! every few seconds at most.
use mars_live::{FetchLive, LivePage, LiveRecord, LogLive, ReplayLive, SyncLive};
use mars_tree::{HostEnv, HostName, Key, ReplayPos, ResName, Snapshot, Stamp};

fn actual(res: &ResName, host: &HostName, name: &str) -> Key {
    Key::Actual(res.clone(), host.clone(), name.to_string())
}

/// A sync is finished when its link says so, not before; this much stays open.
const BLOCK: u64 = 64 << 10;

/// What daemons that run now have published for one resource.
#[derive(Clone, Copy, Default, Debug)]
pub struct Pages {
    /// `mars-logger`
    pub log: Option<LogLive>,
    /// `mars-fetch`
    pub fetch: Option<FetchLive>,
    /// `mars-replay`
    pub replay: Option<ReplayLive>,
    /// `mars-sync`
    pub sync: Option<SyncLive>,
}

/// The sections whose daemon runs. Nothing is created.
fn read(env: &HostEnv, res: &ResName) -> Pages {
    if !env.resource_run_dir(res).join("live").is_file() {
        return Pages::default();
    }
    let Ok(page) = LivePage::open(&env.run_dir, res.as_str()) else {
        return Pages::default();
    };
    fn section<R: LiveRecord>(
        page: &LivePage,
        env: &HostEnv,
        res: &ResName,
        daemon: &str,
    ) -> Option<R> {
        if !mars_daemon::is_running(env, daemon, Some(res)) {
            return None;
        }
        let (record, seq) = page.read::<R>();
        (seq != 0).then_some(record)
    }
    Pages {
        log: section(&page, env, res, "logger"),
        fetch: section(&page, env, res, "fetch"),
        replay: section(&page, env, res, "replay"),
        sync: section(&page, env, res, "sync"),
    }
}

/// Puts the live facts of this host over its links.
pub fn refresh(env: &HostEnv, snap: &mut Snapshot, now: Stamp) {
    for res in snap.resources() {
        let pages = read(env, &res);
        overlay(snap, &env.host, &res, &pages, now);
    }
}

/// Replaces values that differ.
fn put(snap: &mut Snapshot, key: &Key, value: &str, now: Stamp) {
    if snap.text(key) != Some(value) {
        snap.insert(key, value, now);
    }
}

/// A page may be older than the links, left by a daemon that ran before: what contradicts them is ignored.
pub fn overlay(snap: &mut Snapshot, host: &HostName, res: &ResName, pages: &Pages, now: Stamp) {
    let on = |snap: &Snapshot, name: &str| snap.actual(res, host, name).is_some_and(|n| n != 0);
    let set = |snap: &mut Snapshot, name: &str, value: u64| {
        put(snap, &actual(res, host, name), &value.to_string(), now);
    };
    if let Some(l) = pages.log.filter(|l| l.device_on != 0 && on(snap, "if-on")) {
        set(snap, "open-count", l.openers);
        set(snap, "ops-if_rate", l.ops_rate);
        set(snap, "amount-if_rate", l.amount_rate);
        set(snap, "if-flying", l.flying);
    }
    if let Some(f) = pages.fetch.filter(|_| on(snap, "is-copying")) {
        set(snap, "ops-file_rate", f.ops_rate);
        set(snap, "amount-file_rate", f.amount_rate);
    }
    if let Some(r) = pages.replay {
        if on(snap, "is-replaying") {
            set(snap, "ops-replay_rate", r.ops_rate);
            set(snap, "amount-replay_rate", r.amount_rate);
        }
        if let Some(link) = snap.replay(res, host)
            && u64::from(link.log.nr) == r.log_nr
            && r.pos > link.pos
        {
            let here = ReplayPos {
                pos: r.pos,
                dirty: r.dirty,
                ..link
            };
            let key = Key::Replay(res.clone(), host.clone());
            put(snap, &key, &here.to_string(), now);
        }
    }
    if let Some(s) = pages.sync.filter(|_| on(snap, "is-syncing")) {
        sync(snap, host, res, s, now);
    }
}

fn sync(snap: &mut Snapshot, host: &HostName, res: &ResName, s: SyncLive, now: Stamp) {
    let key = Key::SyncStatus(res.clone(), host.clone());
    let (Some(link), Some(size)) = (snap.number(&key), snap.number(&Key::Size(res.clone()))) else {
        return;
    };
    if link >= size {
        return;
    }
    let pos = s.pos.min(size.saturating_sub(1) / BLOCK * BLOCK);
    let rate = actual(res, host, "amount-sync_rate");
    if s.amount_rate > 0 {
        put(snap, &rate, &s.amount_rate.to_string(), now);
    } else if pos > link {
        // The first interval is not over: the mean since the position of the link was true.
        let since = snap
            .stamp(&key)
            .max(snap.stamp(&actual(res, host, "is-syncing")));
        let ms = since.map_or(0, |s| now.since(s).as_millis()).max(1);
        let mean = u128::from((pos - link) / 1024) * 1000 / ms;
        put(snap, &rate, &mean.to_string(), now);
    }
    if pos > link {
        put(snap, &key, &pos.to_string(), now);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    const SIZE: u64 = 1 << 20;

    fn at(secs: u64) -> Stamp {
        Stamp::from_nanos(secs * 1_000_000_000)
    }
    fn snapshot() -> Snapshot {
        let mut s = Snapshot::default();
        for (path, value) in [
            ("resource-r/size", "1048576"),
            ("resource-r/syncstatus-a", "65536"),
            ("resource-r/replay-a", "log-000000003-b,100,50"),
            ("resource-r/actual-a/is-syncing", "1"),
            ("resource-r/actual-a/is-replaying", "1"),
            ("resource-r/actual-a/is-copying", "0"),
        ] {
            s.insert(&Key::parse(path), value, at(1000));
        }
        s
    }
    fn over(pages: &Pages) -> Snapshot {
        let mut s = snapshot();
        let (host, res) = ("a".parse().unwrap(), "r".parse().unwrap());
        overlay(&mut s, &host, &res, pages, at(1002));
        s
    }
    fn text(s: &Snapshot, path: &str) -> String {
        s.text(&Key::parse(path)).unwrap_or("-").to_string()
    }
    fn syncing(pos: u64, amount_rate: u64) -> Snapshot {
        over(&Pages {
            sync: Some(SyncLive {
                pos,
                amount_rate,
                ..SyncLive::default()
            }),
            ..Pages::default()
        })
    }

    #[test]
    fn sync_is_never_finished_before_its_link_says_so() {
        let pos = |s: &Snapshot| text(s, "resource-r/syncstatus-a");
        assert_eq!(pos(&syncing(SIZE / 2, 7)), "524288");
        assert_eq!(pos(&syncing(SIZE, 7)), "983040");
        // Left by an earlier run.
        assert_eq!(pos(&syncing(0, 7)), "65536");
        let rate = |s: &Snapshot| text(s, "resource-r/actual-a/amount-sync_rate");
        assert_eq!(rate(&syncing(SIZE / 2, 7)), "7");
        // 448 KiB in the two seconds since the link.
        assert_eq!(rate(&syncing(SIZE / 2, 0)), "224");
        assert_eq!(rate(&syncing(0, 0)), "-");
    }

    #[test]
    fn replay_position_only_of_the_same_log_and_only_forward() {
        let replay = |log_nr, pos| {
            let r = ReplayLive {
                log_nr,
                pos,
                dirty: 8,
                amount_rate: 3,
                ..ReplayLive::default()
            };
            let s = over(&Pages {
                replay: Some(r),
                ..Pages::default()
            });
            text(&s, "resource-r/replay-a")
        };
        assert_eq!(replay(3, 120), "log-000000003-b,120,8");
        assert_eq!(replay(3, 90), "log-000000003-b,100,50");
        assert_eq!(replay(4, 120), "log-000000003-b,100,50");
    }

    #[test]
    fn nothing_of_daemons_that_do_not_work() {
        let s = over(&Pages {
            log: Some(LogLive {
                openers: 2,
                device_on: 1,
                ..LogLive::default()
            }),
            fetch: Some(FetchLive {
                amount_rate: 9,
                ..FetchLive::default()
            }),
            ..Pages::default()
        });
        assert_eq!(s, snapshot());
    }
}
