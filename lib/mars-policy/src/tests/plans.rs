use super::*;
use crate::{
    FetchHold, ReplayHold, ReplayPlan, SyncHold, fetch_plan, replay_plan, sync_plan,
    sync_source_key,
};
use mars_log::SwitchBlock;

/// hostA follows hostB in log 3 and has `have` bytes of it.
fn follower(have: u64) -> World {
    World::steady("hostA").with(&format!(
        "log-000000003-hostB = {have}
         replay-hostA -> log-000000003-hostB,4096,0"
    ))
}

const V3: &str = "1defc62b29e43d74c94cca423ee2cc3b,log-000000003-hostB,8192";
const V2: &str = "ab6ca3b5e4f9a9d35ea2226916d13904,log-000000002-hostA,524288";

/// hostB has gone on to log 4.
fn rotated(have3: u64) -> World {
    follower(have3).with(&format!(
        "version-000000004-hostB -> 00000000000000000000000000000000,log-000000004-hostB,100:{V3}
         replay-hostB -> log-000000004-hostB,0,0"
    ))
}

fn fetch(w: &World) -> Result<(String, u64), FetchHold> {
    fetch_plan(&w.v(), &w.res).map(|p| (p.log.to_string(), p.have))
}

fn replay(w: &World) -> Result<ReplayPlan, ReplayHold> {
    replay_plan(&w.v(), &w.res, false)
}

fn apply(log: &str, pos: u64, limit: Option<u64>) -> Result<ReplayPlan, ReplayHold> {
    Ok(ReplayPlan::Apply {
        log: log.parse().unwrap(),
        pos,
        limit,
    })
}

#[test]
fn fetch_follows_the_newest_log_for_ever() {
    let log3 = "log-000000003-hostB".to_string();
    assert_eq!(fetch(&follower(100)), Ok((log3.clone(), 100)));
    assert_eq!(fetch(&follower(8192)), Ok((log3.clone(), 8192)));
    // Longer than known: the link is behind.
    assert_eq!(fetch(&follower(9000)), Ok((log3.clone(), 9000)));
    assert_eq!(
        fetch(&follower(0).without_file("log-000000003-hostB")),
        Ok((log3, 0))
    );
}

#[test]
fn fetch_goes_on_when_complete() {
    assert_eq!(
        fetch(&rotated(8191)),
        Ok(("log-000000003-hostB".into(), 8191))
    );
    assert_eq!(fetch(&rotated(8192)), Ok(("log-000000004-hostB".into(), 0)));
    // The creator's link of the old log is gone (it left): its successor names the length.
    let left = rotated(8191).with("version-000000003-{hostA,hostB} -> -");
    assert_eq!(fetch(&left), Ok(("log-000000003-hostB".into(), 8191)));
    let done = left.with("log-000000003-hostB = 8192");
    assert_eq!(fetch(&done), Ok(("log-000000004-hostB".into(), 0)));
}

#[test]
fn fetch_sources_best_first() {
    let w = rotated(100)
        .global("ips/ip-hostC -> 10.0.0.3\nips/ip-hostD -> 10.0.0.4\nips/ip-hostE -> 10.0.0.5")
        .with("data-{hostC,hostD,hostE} -> /dev/x\nprimary -> hostE\nconnect-hostA -> hostD, hostA,nobody");
    let plan = fetch_plan(&w.v(), &w.res).unwrap();
    let hosts: Vec<_> = plan
        .sources
        .iter()
        .map(|(h, ip)| format!("{h}={ip}"))
        .collect();
    assert_eq!(
        hosts,
        [
            "hostD=10.0.0.4",
            "hostB=10.0.0.2",
            "hostE=10.0.0.5",
            "hostC=10.0.0.3"
        ]
    );
}

#[test]
fn fetch_never_own_logs() {
    // hostA was primary until log 4 and is secondary again: it has its own log or nobody has it.
    let w = rotated(8192).with(&format!(
        "version-000000004-hostB -> -
         version-000000004-hostA -> 00000000000000000000000000000000,log-000000004-hostA,100:{V3}"
    ));
    assert_eq!(fetch(&w), Err(FetchHold::NothingKnown));
    let w = w.with("version-000000005-hostB -> 00000000000000000000000000000000,log-000000005-hostB,7:00000000000000000000000000000000,log-000000004-hostA,100");
    assert_eq!(fetch(&w), Ok(("log-000000005-hostB".into(), 0)));
}

#[test]
fn fetch_stops_at_duplicates_not_below() {
    let dup4 =
        "version-000000004-hostA -> 00000000000000000000000000000000,log-000000004-hostA,100:";
    assert_eq!(
        fetch(&rotated(10).with(dup4)),
        Ok(("log-000000003-hostB".into(), 10))
    );
    assert_eq!(fetch(&rotated(8192).with(dup4)), Err(FetchHold::SplitBrain));
    // An empty file without a link is no history: rotation was asked for, then the role went elsewhere.
    let empty = rotated(8192).with("log-000000004-hostA = 0");
    assert_eq!(fetch(&empty), Ok(("log-000000004-hostB".into(), 0)));
    let split = World::new(fixtures::split(), "hostA").with("actual-hostA/is-primary -> 0");
    assert_eq!(fetch(&split), Err(FetchHold::SplitBrain));
}

#[test]
fn fetch_stops_at_a_hole() {
    let w = follower(8192).with(
        "version-000000013-hostB -> 00000000000000000000000000000000,log-000000013-hostB,0:
         version-000000014-hostB -> 00000000000000000000000000000000,log-000000014-hostB,50:",
    );
    // Log 3 cannot be known to be complete; beyond the hole nothing is fetched.
    assert_eq!(fetch(&w), Ok(("log-000000003-hostB".into(), 8192)));
}

#[test]
fn fetch_conditions() {
    let hold = |change: &str| fetch(&follower(1).with(change)).unwrap_err();
    assert_eq!(hold("data-hostA -> -"), FetchHold::NotMember);
    assert_eq!(hold("replay-hostA -> garbage"), FetchHold::NotMember);
    assert_eq!(hold("syncstatus-hostA -> .deleted"), FetchHold::NotMember);
    assert_eq!(hold("primary -> -"), FetchHold::NotMember);
    assert_eq!(hold("primary -> hostA"), FetchHold::Primary);
    assert_eq!(hold("actual-hostA/is-primary -> 1"), FetchHold::Primary);
    assert_eq!(hold("todo-hostA/attach -> 0"), FetchHold::Detached);
    assert_eq!(hold("todo-hostA/connect -> 0"), FetchHold::Paused);
    let full = follower(1).global("actual-hostA/emergency -> 3");
    assert_eq!(fetch(&full), Err(FetchHold::Emergency));
    // The planned handover depends on it.
    assert!(fetch(&follower(1).with("primary -> (none)")).is_ok());
}

#[test]
fn replay_applies_what_is_known() {
    let log3 = "log-000000003-hostB";
    assert_eq!(replay(&follower(8192)), apply(log3, 4096, None));
    // Not here yet, but known: may get more.
    assert_eq!(replay(&follower(4096)), apply(log3, 4096, None));
    // More here than the links tell.
    let w = follower(9000).with("replay-hostA -> log-000000003-hostB,8192,0");
    assert_eq!(replay(&w), apply(log3, 8192, None));
    let w = follower(8192).with("replay-hostA -> log-000000003-hostB,8192,0");
    assert_eq!(replay(&w), Err(ReplayHold::AtEnd));
    assert!(replay(&follower(8192).with("primary -> (none)")).is_ok());
}

#[test]
fn replay_torn_tail_is_never_applied_again() {
    let w = follower(8192);
    assert_eq!(replay_plan(&w.v(), &w.res, true), Err(ReplayHold::AtEnd));
    // 4096 bytes short of the final length: tolerated as a torn tail, refused as a whole one.
    let w = rotated(8192);
    assert!(matches!(
        replay_plan(&w.v(), &w.res, true),
        Ok(ReplayPlan::Switch { .. })
    ));
    let w = w.with("replay-hostA -> log-000000003-hostB,4011,0");
    assert_eq!(
        replay_plan(&w.v(), &w.res, true),
        Err(ReplayHold::Blocked(SwitchBlock::NotFinished))
    );
}

#[test]
fn replay_switches_when_finished() {
    let done = rotated(8192).with("replay-hostA -> log-000000003-hostB,8192,0");
    let switch = Ok(ReplayPlan::Switch {
        old: "log-000000003-hostB".parse().unwrap(),
        new: "log-000000004-hostB".parse().unwrap(),
    });
    assert_eq!(replay(&done), switch);
    // Surplus local bytes do not count once the final length is known.
    let done = done.with("log-000000003-hostB = 9999");
    assert_eq!(replay(&done), switch);
    let done = done.with(
        "version-000000003-hostA -> ab6ca3b5e4f9a9d35ea2226916d13904,log-000000003-hostB,4096:",
    );
    assert_eq!(
        replay(&done),
        Err(ReplayHold::Blocked(SwitchBlock::NotEqual))
    );
}

#[test]
fn replay_enters_an_empty_log_only_of_a_living_primary() {
    let w = rotated(8192).with(&format!(
        "replay-hostA -> log-000000003-hostB,8192,0
         version-000000004-hostB -> 00000000000000000000000000000000,log-000000004-hostB,0:{V3}"
    ));
    assert!(matches!(replay(&w), Ok(ReplayPlan::Switch { .. })));
    let dead = w.global("actual-hostB/time -> 1700080000.000000000");
    assert_eq!(replay(&dead), Err(ReplayHold::AtEnd));
    // Between two primaries the handover needs it.
    assert!(matches!(
        replay(&dead.with("primary -> (none)")),
        Ok(ReplayPlan::Switch { .. })
    ));
}

#[test]
fn replay_stops_before_a_split() {
    let dup = rotated(8192).with(
        "replay-hostA -> log-000000003-hostB,8192,0
         version-000000004-hostA -> 00000000000000000000000000000000,log-000000004-hostA,100:",
    );
    assert_eq!(
        replay(&dup),
        Err(ReplayHold::Blocked(SwitchBlock::SplitBrain))
    );
    // Below the split it goes on to the end of the common log.
    let below = dup.with("replay-hostA -> log-000000003-hostB,4096,0");
    assert_eq!(replay(&below), apply("log-000000003-hostB", 4096, None));
    // Inside one branch it stops at once.
    let inside = below.with(
        "replay-hostA -> log-000000004-hostB,10,0
         log-000000004-hostB = 100",
    );
    assert_eq!(
        replay(&inside),
        Err(ReplayHold::Blocked(SwitchBlock::SplitBrain))
    );
    // The next log continues another history.
    let other = rotated(8192).with(&format!(
        "replay-hostA -> log-000000003-hostB,8192,0
         version-000000004-hostB -> 00000000000000000000000000000000,log-000000004-hostB,100:{V2}"
    ));
    assert_eq!(
        replay(&other),
        Err(ReplayHold::Blocked(SwitchBlock::SplitBrain))
    );
}

#[test]
fn replay_conditions() {
    let hold = |change: &str| replay(&follower(8192).with(change)).unwrap_err();
    assert_eq!(hold("data-hostA -> -"), ReplayHold::NotMember);
    assert_eq!(hold("replay-hostA -> -"), ReplayHold::NotMember);
    assert_eq!(hold("primary -> hostA"), ReplayHold::Primary);
    assert_eq!(hold("todo-hostA/attach -> 0"), ReplayHold::Detached);
    assert_eq!(hold("todo-hostA/allow-replay -> 0"), ReplayHold::Paused);
}

#[test]
fn replay_does_not_pass_the_primary_during_a_sync() {
    let syncing = || World::new(fixtures::syncing(), "hostB");
    let log2 = "log-000000002-hostA";
    assert_eq!(replay(&syncing()), apply(log2, 0, Some(520_192)));
    let at = syncing().with("replay-hostB -> log-000000002-hostA,520192,0");
    assert_eq!(replay(&at), Err(ReplayHold::Sync));
    // In an older log than the primary's there is no limit, and it may go on to the primary's log.
    let older = syncing().with(
        "replay-hostB -> log-000000001-hostA,0,0
         log-000000001-hostA = 1048576",
    );
    assert_eq!(replay(&older), apply("log-000000001-hostA", 0, None));
    let older = older.with("replay-hostB -> log-000000001-hostA,1048576,0");
    assert!(matches!(replay(&older), Ok(ReplayPlan::Switch { .. })));
    let ahead = syncing().with("replay-hostB -> log-000000003-hostA,0,0");
    assert_eq!(replay(&ahead), Err(ReplayHold::Sync));
    let unknown = syncing().with("replay-hostA -> -");
    assert_eq!(replay(&unknown), Err(ReplayHold::Sync));
    assert_eq!(
        replay(&syncing().with("primary -> (none)")),
        Err(ReplayHold::Sync)
    );
    // Finished: no limit any more.
    let done = syncing().with("syncstatus-hostB -> 10737418240");
    assert_eq!(replay(&done), apply(log2, 0, None));
}

#[test]
fn sync_from_the_primary() {
    let w = World::new(fixtures::syncing(), "hostB");
    let p = sync_plan(&w.v(), &w.res).unwrap();
    assert_eq!((p.source.as_str(), p.ip.as_str()), ("hostA", "10.0.0.1"));
    assert_eq!((p.from, p.size), (4_294_967_296, 10_737_418_240));
    // At the primary's position is not ahead of it.
    let w = w.with("replay-hostB -> log-000000002-hostA,520192,0");
    assert!(sync_plan(&w.v(), &w.res).is_ok());
    // The source changed since: from the beginning.
    let key = sync_source_key(&w.res, &w.me).path();
    let w = w.global(&format!("{key} -> hostC"));
    assert_eq!(sync_plan(&w.v(), &w.res).unwrap().from, 0);
    let w = w.global(&format!("{key} -> hostA"));
    assert_eq!(sync_plan(&w.v(), &w.res).unwrap().from, 4_294_967_296);
}

#[test]
fn sync_conditions() {
    let hold = |change: &str| {
        let w = World::new(fixtures::syncing(), "hostB").with(change);
        sync_plan(&w.v(), &w.res).unwrap_err()
    };
    assert_eq!(hold("data-hostB -> -"), SyncHold::NotMember);
    assert_eq!(hold("syncstatus-hostB -> -"), SyncHold::NotMember);
    assert_eq!(hold("size -> x"), SyncHold::NotMember);
    assert_eq!(hold("syncstatus-hostB -> 10737418240"), SyncHold::Finished);
    assert_eq!(hold("primary -> hostB"), SyncHold::Primary);
    assert_eq!(hold("actual-hostB/is-primary -> 1"), SyncHold::Primary);
    assert_eq!(hold("todo-hostB/attach -> 0"), SyncHold::Detached);
    assert_eq!(hold("todo-hostB/sync -> 0"), SyncHold::Paused);
    assert_eq!(hold("primary -> (none)"), SyncHold::NoPrimary);
    assert_eq!(hold("syncfrom-hostB -> hostC"), SyncHold::WrongSource);
    assert_eq!(hold("replay-hostA -> -"), SyncHold::PositionUnknown);
    assert_eq!(
        hold("replay-hostB -> log-000000002-hostA,520193,0"),
        SyncHold::Ahead
    );
    assert_eq!(
        hold("version-000000013-hostA -> 00000000000000000000000000000000,log-000000013-hostA,0:"),
        SyncHold::Discontiguous
    );
    assert_eq!(
        hold("version-000000002-hostB -> 00000000000000000000000000000000,log-000000002-hostB,5:"),
        SyncHold::Discontiguous
    );
    let w = World::new(fixtures::syncing(), "hostB").global("ips/ip-hostA -> -");
    assert_eq!(sync_plan(&w.v(), &w.res), Err(SyncHold::NoAddress));
    let w = World::new(fixtures::syncing(), "hostB").global("actual-hostB/emergency -> 3");
    assert_eq!(sync_plan(&w.v(), &w.res), Err(SyncHold::Emergency));
}

/// hostA crashed as primary in log 3 while its link was behind its file; hostB was forced with all of it and went on.
#[test]
fn replay_own_log_after_a_crash_to_its_true_end() {
    let zero = "00000000000000000000000000000000";
    let w = World::steady("hostA")
        .with(&format!(
            "replay-hostA -> log-000000003-hostA,4096,0
         replay-hostB -> log-000000004-hostB,0,0
         version-000000003-hostA -> {zero},log-000000003-hostA,4096:{V2}
         version-000000003-hostB -> {zero},log-000000003-hostA,8192:{V2}
         version-000000004-hostB -> {zero},log-000000004-hostB,10:{zero},log-000000003-hostA,8192
         log-000000003-hostA = 8192"
        ))
        .without_file("log-000000003-hostB");
    assert_eq!(replay(&w), apply("log-000000003-hostA", 4096, None));
    // Done, and the true end is published: both have the same history.
    let done = "replay-hostA -> log-000000003-hostA,8192,0
         version-000000003-hostA -> 00000000000000000000000000000000,log-000000003-hostA,8192:";
    let w = w.with(&format!("{done}{V2}"));
    assert!(matches!(replay(&w), Ok(ReplayPlan::Switch { .. })));
    // It had more than hostB got.
    let w = w
        .with(&format!("{done}{V2}").replace("8192", "9000"))
        .with("log-000000003-hostA = 9000");
    assert_eq!(
        replay(&w),
        Err(ReplayHold::Blocked(SwitchBlock::SplitBrain))
    );
    assert!(crate::split_brain(&w.v(), &w.res).is_some());
    // The end of the file is lost: said, not waited for.
    let w = w.with("log-000000003-hostA = 4096\nreplay-hostA -> log-000000003-hostA,4096,0");
    assert_eq!(
        replay(&w),
        Err(ReplayHold::Blocked(SwitchBlock::NotFinished))
    );
}
