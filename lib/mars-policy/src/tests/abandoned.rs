//! Logs that were opened and never written to, and creators that died before they published all of a log.
use super::*;
use crate::{
    FetchHold, ReplayHold, ReplayPlan, SyncHold, fetch_plan, replay_plan, split_brain, sync_plan,
};
use mars_log::{SwitchBlock, next_version};
use mars_tree::{Key, LogName, VersionLink};

const SPLIT: Result<ReplayPlan, ReplayHold> = Err(ReplayHold::Blocked(SwitchBlock::SplitBrain));

fn log(nr: u32, by: &str) -> LogName {
    format!("log-{nr:09}-{by}").parse().unwrap()
}

fn switch(old: LogName, new: LogName) -> Result<ReplayPlan, ReplayHold> {
    Ok(ReplayPlan::Switch { old, new })
}

impl World {
    fn link(&self, nr: u32, owner: &str) -> VersionLink {
        self.snap.version(&self.res, nr, &host(owner)).unwrap()
    }
    fn set_link(mut self, nr: u32, owner: &str, link: &VersionLink) -> World {
        let key = Key::Version(self.res.clone(), nr, host(owner));
        self.snap.insert(&key, &link.to_string(), fixtures::OLD);
        self
    }
    fn seen_by(mut self, me: &str) -> World {
        self.me = host(me);
        self
    }
    fn replay(&self) -> Result<ReplayPlan, ReplayHold> {
        replay_plan(&self.v(), &self.res, false)
    }
    fn fetch(&self) -> Result<LogName, FetchHold> {
        fetch_plan(&self.v(), &self.res).map(|p| p.log)
    }
    /// Nobody who looks sees a split.
    fn assert_whole(&self) {
        assert_eq!(split_brain(&self.v(), &self.res), None);
    }
    fn assert_split(&self) {
        assert!(split_brain(&self.v(), &self.res).is_some());
    }
}

/// hostB was primary, had just opened log 4 when it crashed, and comes back; hostA was forced without having heard of it, and has
/// logged `len` bytes in a log 4 of its own.
fn crashed(len: u64) -> World {
    let w = World::steady("hostB").with(
        "primary -> hostA
         replay-hostB -> log-000000004-hostB,0,0
         replay-hostA -> log-000000004-hostA,0,0
         log-000000004-hostB = 0
         actual-hostB/{is-primary,if-on,open-count} -> 0
         actual-hostA/{is-primary,if-on} -> 1",
    );
    let (b, a) = (w.link(3, "hostB"), w.link(3, "hostA"));
    w.set_link(4, "hostB", &next_version(&log(4, "hostB"), 0, Some(&b)))
        .set_link(4, "hostA", &next_version(&log(4, "hostA"), len, Some(&a)))
}

#[test]
fn abandoned_empty_log_is_passed_by() {
    for len in [0, 700] {
        let w = crashed(len);
        assert_eq!(
            w.replay(),
            switch(log(3, "hostB"), log(4, "hostA")),
            "{len}"
        );
        assert_eq!(w.fetch(), Ok(log(4, "hostA")));
        w.assert_whole();
        w.seen_by("hostA").assert_whole();
    }
    // The crash came before its link was written.
    let w = crashed(700).with("version-000000004-hostB -> -");
    assert_eq!(w.replay(), switch(log(3, "hostB"), log(4, "hostA")));
    w.assert_whole();
    // hostA went on meanwhile.
    let w = crashed(700);
    let a4 = w.link(4, "hostA");
    let w = w
        .set_link(5, "hostA", &next_version(&log(5, "hostA"), 10, Some(&a4)))
        .with("replay-hostA -> log-000000005-hostA,0,10");
    assert_eq!(w.replay(), switch(log(3, "hostB"), log(4, "hostA")));
    w.assert_whole();
}

#[test]
fn abandoned_log_that_was_followed_already() {
    // hostC had gone into the empty log of hostB.
    let w = crashed(700).with(
        "data-hostC -> /dev/c
         replay-hostC -> log-000000004-hostB,0,0
         syncstatus-hostC -> 10737418240
         todo-hostC/{attach,connect,sync,allow-replay} -> 1",
    );
    let (b3, b4) = (w.link(3, "hostB"), w.link(4, "hostB"));
    let w = w
        .set_link(2, "hostC", &crashed(0).link(2, "hostB"))
        .set_link(3, "hostC", &b3)
        .set_link(4, "hostC", &b4)
        .without_file("log-000000004-hostB")
        .seen_by("hostC");
    assert_eq!(w.replay(), switch(log(3, "hostB"), log(4, "hostA")));
    assert_eq!(w.fetch(), Ok(log(4, "hostA")));
    w.assert_whole();
    // It has bytes of it.
    let w = w.with("log-000000004-hostB = 512");
    assert_eq!(w.replay(), SPLIT);
    assert_eq!(w.fetch(), Err(FetchHold::SplitBrain));
    w.assert_split();
}

#[test]
fn abandoned_is_no_log_with_a_record() {
    // Written to, but the link came too late for the crash.
    let w = crashed(700).with("log-000000004-hostB = 512");
    assert_eq!(w.replay(), SPLIT);
    w.assert_split();
    // What replay had to apply, or had begun to.
    for replay in ["512,0", "0,512"] {
        let w = crashed(700).with(&format!("replay-hostB -> log-000000004-hostB,{replay}"));
        assert_eq!(w.replay(), SPLIT, "{replay}");
    }
    let w = crashed(700);
    let b3 = w.link(3, "hostB");
    let w = w.set_link(4, "hostB", &next_version(&log(4, "hostB"), 512, Some(&b3)));
    assert_eq!(w.replay(), SPLIT);
    w.assert_split();
    w.seen_by("hostA").assert_split();
}

#[test]
fn abandoned_log_behind_a_real_split() {
    // hostA was forced with half of log 3: behind the empty log there is a loss, and it is shown.
    let half = |len| {
        let w = crashed(700);
        let pred = next_version(&log(3, "hostB"), len, Some(&w.link(2, "hostA")));
        w.set_link(3, "hostA", &pred).set_link(
            4,
            "hostA",
            &next_version(&log(4, "hostA"), 700, Some(&pred)),
        )
    };
    let w = half(4096);
    assert_eq!(w.replay(), SPLIT);
    w.assert_split();
    // hostB has lost what it had handed out before.
    let w = half(9000);
    assert_eq!(w.replay(), SPLIT);
    w.assert_split();
    // Its own chain does not fit.
    let w = crashed(700)
        .with("version-000000004-hostB -> 00000000000000000000000000000000,log-000000004-hostB,0:");
    assert_eq!(w.replay(), SPLIT);
}

#[test]
fn abandoned_is_never_the_log_of_the_designated_primary() {
    // hostA is primary and has logged nothing yet; hostB wrote: that is a split.
    let w = crashed(0);
    let b3 = w.link(3, "hostB");
    let w = w
        .set_link(4, "hostB", &next_version(&log(4, "hostB"), 512, Some(&b3)))
        .with("log-000000004-hostB = 512");
    w.assert_split();
    assert_eq!(w.replay(), SPLIT);
    // Nobody leads and both are empty: nobody knows which one will be used.
    let w = crashed(0).with("primary -> (none)\nactual-hostA/is-primary -> 0");
    assert_eq!(w.replay(), SPLIT);
    assert_eq!(w.fetch(), Err(FetchHold::SplitBrain));
    // The log that somebody continues is history, empty or not.
    let a4 = w.link(4, "hostA");
    let w = w
        .set_link(5, "hostC", &next_version(&log(5, "hostC"), 7, Some(&a4)))
        .with("primary -> hostC");
    assert_eq!(w.replay(), switch(log(3, "hostB"), log(4, "hostA")));
}

#[test]
fn abandoned_log_does_not_keep_a_sync_away() {
    let w = crashed(700).with("syncstatus-hostB -> 0\nreplay-hostB -> log-000000003-hostB,8192,0");
    assert!(sync_plan(&w.v(), &w.res).is_ok());
    let w = w.with("log-000000004-hostB = 512");
    assert_eq!(sync_plan(&w.v(), &w.res), Err(SyncHold::Discontiguous));
}

/// hostB died as primary in log 3; it had published 4096 bytes of it and handed out `len`, which hostA was forced with. Seen by hostC, which
/// has `have` of them.
fn published_short(len: u64, have: u64) -> World {
    let w = World::steady("hostC").with(&format!(
        "primary -> hostA
         data-hostC -> /dev/c
         syncstatus-hostC -> 10737418240
         todo-hostC/{{attach,connect,sync,allow-replay}} -> 1
         replay-hostC -> log-000000003-hostB,{have},0
         replay-hostA -> log-000000004-hostA,0,0
         log-000000003-hostB = {have}"
    ));
    let w = w.global("ips/ip-hostC -> 10.0.0.3\nactual-hostB/time -> 1700080000.000000000");
    let two = w.link(2, "hostB");
    let three = |n| next_version(&log(3, "hostB"), n, Some(&two));
    w.set_link(2, "hostC", &two)
        .set_link(3, "hostC", &three(have))
        .set_link(3, "hostB", &three(4096))
        .set_link(3, "hostA", &three(len))
        .set_link(
            4,
            "hostA",
            &next_version(&log(4, "hostA"), 9, Some(&three(len))),
        )
}

#[test]
fn published_short_of_a_dead_primary_is_passed() {
    // Everything of log 3 is here, from the other secondary.
    let w = published_short(8192, 8192);
    assert_eq!(w.fetch(), Ok(log(4, "hostA")));
    assert_eq!(w.replay(), switch(log(3, "hostB"), log(4, "hostA")));
    w.assert_whole();
    // Not yet: the rest is fetched, though the dead one had not published it, and nothing of log 4 before it.
    let w = published_short(8192, 4096);
    assert_eq!(w.fetch(), Ok(log(3, "hostB")));
    assert!(matches!(
        w.replay(),
        Ok(ReplayPlan::Apply { pos: 4096, .. })
    ));
    w.assert_whole();
}

#[test]
fn published_short_never_past_a_split() {
    // hostC has more of log 3 than hostA was forced with.
    let w = published_short(6000, 8192);
    assert!(matches!(w.replay(), Err(ReplayHold::Blocked(_))));
    // The dead one is back, and had written more.
    let w = published_short(8192, 8192);
    let two = w.link(2, "hostB");
    let more = next_version(&log(3, "hostB"), 9000, Some(&two));
    let back = w
        .set_link(3, "hostB", &more)
        .with("replay-hostB -> log-000000003-hostB,9000,0");
    back.assert_split();
    assert_eq!(
        back.replay(),
        Err(ReplayHold::Blocked(SwitchBlock::NotEqual))
    );
    // What was fetched of that before is not applied either.
    let back = back.with("log-000000003-hostB = 9000\nreplay-hostC -> log-000000003-hostB,4096,0");
    let limited = ReplayPlan::Apply {
        log: log(3, "hostB"),
        pos: 4096,
        limit: Some(8192),
    };
    assert_eq!(back.replay(), Ok(limited));
    // Unless it leads: then it is hostA that has left the common history.
    let leads = back.with("primary -> hostB");
    assert!(matches!(
        leads.replay(),
        Ok(ReplayPlan::Apply { limit: None, .. })
    ));
    // It leads again: then it is its word that counts.
    let w = published_short(8192, 8192).with("primary -> hostB");
    assert_eq!(w.replay(), Err(ReplayHold::Blocked(SwitchBlock::NotEqual)));
    // Another history before log 3.
    let w = published_short(8192, 8192).with(
        "version-000000003-hostB -> 00000000000000000000000000000000,log-000000003-hostB,4096:",
    );
    assert_eq!(w.replay(), Err(ReplayHold::Blocked(SwitchBlock::NotEqual)));
}
