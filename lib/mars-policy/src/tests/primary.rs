use super::*;
use crate::{PrimaryPlan, PrimaryRefusal, Tail, primary_plan};
use mars_log::SwitchBlock;

const V3: &str = "1defc62b29e43d74c94cca423ee2cc3b,log-000000003-hostB,8192";
const ZERO: &str = "00000000000000000000000000000000";

fn plan(w: &World) -> PrimaryPlan {
    primary_plan(&w.v(), &w.res, Tail::Unread)
}
fn apply(log: &str, pos: u64) -> PrimaryPlan {
    PrimaryPlan::Apply {
        log: log.parse().unwrap(),
        pos,
    }
}
fn open(log: &str, existing_empty: bool) -> PrimaryPlan {
    PrimaryPlan::OpenOwn {
        log: log.parse().unwrap(),
        existing_empty,
    }
}
fn switch(old: &str, new: &str) -> PrimaryPlan {
    PrimaryPlan::Switch {
        old: old.parse().unwrap(),
        new: new.parse().unwrap(),
    }
}
fn blocked(log: &str, why: SwitchBlock) -> PrimaryPlan {
    PrimaryPlan::Refuse(PrimaryRefusal::Blocked {
        log: log.parse().unwrap(),
        why,
    })
}

/// hostB restarts: it wrote log 3 and has all of it.
fn restart() -> World {
    World::steady("hostB")
}
/// hostA takes over from hostB; it has all of log 3.
fn takeover() -> World {
    World::steady("hostA").with("primary -> hostA")
}
fn forced() -> World {
    takeover().with("todo-hostA/connect -> 0")
}

#[test]
fn primary_first_start_appends_to_its_empty_log() {
    let created = World::steady("hostA").with(&format!(
        "primary -> hostA
         replay-hostA -> log-000000001-hostA,0,0
         replay-hostB -> -
         version-000000000-hostA -> {ZERO},log-000000001-hostA,0:
         version-000000001-hostA -> {ZERO},log-000000001-hostA,0:{ZERO},log-000000001-hostA,0
         version-{{000000001,000000002,000000003}}-hostB -> -
         version-{{000000002,000000003}}-hostA -> -
         log-000000001-hostA = 0"
    ));
    let w = created
        .without_file("log-000000002-hostA")
        .without_file("log-000000003-hostB");
    assert_eq!(plan(&w), open("log-000000001-hostA", true));
    // Interrupted before the file was made.
    let w = w.without_file("log-000000001-hostA");
    assert_eq!(plan(&w), open("log-000000001-hostA", false));
    // Published as written to, but gone.
    let w = w.with(
        "version-000000001-hostA -> 6f2d44f952a35ec2801bd0a41c4d0f48,log-000000001-hostA,77:",
    );
    assert_eq!(
        plan(&w),
        PrimaryPlan::Refuse(PrimaryRefusal::Lost("log-000000001-hostA".parse().unwrap()))
    );
}

#[test]
fn primary_restart_recovers_then_opens_the_next_number() {
    let log3 = "log-000000003-hostB";
    let crashed = restart().with("replay-hostB -> log-000000003-hostB,4096,4096");
    assert_eq!(plan(&crashed), apply(log3, 4096));
    // Beyond the published end as well, and never from behind a smaller published length.
    assert_eq!(
        plan(&restart().with("log-000000003-hostB = 9000")),
        apply(log3, 8192)
    );
    let small = restart().with(
        "version-000000003-hostB -> 1defc62b29e43d74c94cca423ee2cc3b,log-000000003-hostB,512:",
    );
    assert_eq!(plan(&small), apply(log3, 512));
    // Everything applied: own non-empty logs are never extended.
    assert_eq!(plan(&restart()), open("log-000000004-hostB", false));
    let rotating = restart().with("log-000000004-hostB = 0");
    assert_eq!(plan(&rotating), open("log-000000004-hostB", true));
    let linked = rotating.with(&format!(
        "version-000000004-hostB -> {ZERO},log-000000004-hostB,0:{V3}"
    ));
    assert_eq!(plan(&linked), open("log-000000004-hostB", true));
}

#[test]
fn primary_restart_follows_its_own_rotated_logs() {
    let w = restart().with(&format!(
        "log-000000004-hostB = 512
         version-000000004-hostB -> {ZERO},log-000000004-hostB,512:{V3}"
    ));
    assert_eq!(
        plan(&w),
        switch("log-000000003-hostB", "log-000000004-hostB")
    );
    // Its link came too late for the crash: the file alone counts too.
    let w = w.with("version-000000004-hostB -> -");
    assert_eq!(
        plan(&w),
        switch("log-000000003-hostB", "log-000000004-hostB")
    );
    // Somebody else has a branch as well: the application goes on with the own one.
    let w = w.with(&format!(
        "version-000000004-hostA -> {ZERO},log-000000004-hostA,9:{V3}"
    ));
    assert_eq!(
        plan(&w),
        switch("log-000000003-hostB", "log-000000004-hostB")
    );
    // A predecessor that is not mine.
    let w = w.with(&format!(
        "version-000000004-hostB -> {ZERO},log-000000004-hostB,512:{ZERO},log-000000003-hostB,1"
    ));
    assert_eq!(
        plan(&w),
        blocked("log-000000003-hostB", SwitchBlock::SplitBrain)
    );
}

#[test]
fn primary_restart_with_a_torn_tail() {
    // The caller applied up to 8192 and found garbage in the rest of the file.
    let w = restart().with("log-000000003-hostB = 9000");
    assert_eq!(
        primary_plan(&w.v(), &w.res, Tail::Torn),
        open("log-000000004-hostB", false)
    );
}

#[test]
fn primary_lost_bytes_need_force() {
    let w = restart().with("log-000000003-hostB = 100");
    let lost = PrimaryPlan::Refuse(PrimaryRefusal::Lost("log-000000003-hostB".parse().unwrap()));
    assert_eq!(plan(&w), lost);
    assert_eq!(
        plan(&w.with("todo-hostB/connect -> 0")),
        open("log-000000004-hostB", false)
    );
    let gone = restart().without_file("log-000000003-hostB");
    assert_eq!(plan(&gone), lost);
}

#[test]
fn primary_takeover_applies_all_then_opens_its_own_name() {
    assert_eq!(plan(&takeover()), open("log-000000004-hostA", false));
    let behind = takeover().with("replay-hostA -> log-000000003-hostB,100,0");
    assert_eq!(plan(&behind), apply("log-000000003-hostB", 100));
}

#[test]
fn primary_takeover_follows_what_fits() {
    let w = takeover().with(&format!(
        "log-000000004-hostB = 512
         version-000000004-hostB -> {ZERO},log-000000004-hostB,512:{V3}"
    ));
    assert_eq!(
        plan(&w),
        switch("log-000000003-hostB", "log-000000004-hostB")
    );
    let other = w.with(&format!(
        "version-000000004-hostB -> {ZERO},log-000000004-hostB,512:"
    ));
    assert_eq!(
        plan(&other),
        blocked("log-000000003-hostB", SwitchBlock::SplitBrain)
    );
    // Forced: passed by under an own name, split or not.
    let other = other.with("todo-hostA/connect -> 0");
    assert_eq!(plan(&other), open("log-000000004-hostA", false));
}

#[test]
fn primary_takeover_with_missing_rest() {
    let part = "log-000000003-hostB = 4096
                replay-hostA -> log-000000003-hostB,4096,0
                version-000000003-hostA -> 6f2d44f952a35ec2801bd0a41c4d0f48,log-000000003-hostB,4096:";
    assert_eq!(
        plan(&takeover().with(part)),
        PrimaryPlan::Refuse(PrimaryRefusal::Incomplete {
            log: "log-000000003-hostB".parse().unwrap(),
            rest: 4096
        })
    );
    assert_eq!(
        plan(&forced().with(part)),
        open("log-000000004-hostA", false)
    );
    // Forced, and the next log is known but not here: by-passed. Empty everywhere: followed, nothing splits.
    let next = |len: u32| {
        let v4 = format!("version-000000004-hostB -> {ZERO},log-000000004-hostB,{len}:{V3}");
        plan(&forced().with(&v4))
    };
    assert_eq!(next(10), open("log-000000004-hostA", false));
    assert_eq!(
        next(0),
        switch("log-000000003-hostB", "log-000000004-hostB")
    );
}

#[test]
fn primary_from_own_log_never_into_a_foreign_one() {
    let w = restart().with(&format!(
        "version-000000004-hostA -> {ZERO},log-000000004-hostA,9:{V3}"
    ));
    assert_eq!(
        plan(&w),
        blocked("log-000000003-hostB", SwitchBlock::ForeignDenied)
    );
    assert_eq!(
        plan(&w.with("todo-hostB/connect -> 0")),
        open("log-000000004-hostB", false)
    );
}

#[test]
fn primary_refusals() {
    let refuse = |change: &str| match plan(&restart().with(change)) {
        PrimaryPlan::Refuse(r) => r,
        p => panic!("{change}: {p:?}"),
    };
    assert_eq!(refuse("data-hostB -> -"), PrimaryRefusal::NotMember);
    assert_eq!(
        refuse("replay-hostB -> nonsense"),
        PrimaryRefusal::NotMember
    );
    assert_eq!(refuse("primary -> hostA"), PrimaryRefusal::NotDesignated);
    assert_eq!(refuse("primary -> (none)"), PrimaryRefusal::NotDesignated);
    assert_eq!(refuse("todo-hostB/attach -> 0"), PrimaryRefusal::Detached);
    assert_eq!(refuse("syncstatus-hostB -> 0"), PrimaryRefusal::Unsynced);
    let end = "replay-hostB -> log-999999999-hostB,0,0\nlog-999999999-hostB = 0";
    assert_eq!(refuse(end), PrimaryRefusal::Numbers);
}

/// An interruption of logging left a hole: this disk is ahead of log 3.
#[test]
fn primary_goes_on_behind_the_hole() {
    let hole = || {
        restart().with(&format!(
            "version-000000013-hostB -> {ZERO},log-000000013-hostB,0:"
        ))
    };
    // The log behind it was not made yet.
    assert_eq!(plan(&hole()), open("log-000000014-hostB", false));
    let made = || hole().with("log-000000014-hostB = 0");
    assert_eq!(plan(&made()), open("log-000000014-hostB", true));
    // A rotation was on its way when it happened: its log must not be used any more.
    let rotating = made().with(&format!(
        "log-000000004-hostB = 0
         version-000000004-hostB -> {ZERO},log-000000004-hostB,0:{V3}"
    ));
    assert_eq!(plan(&rotating), open("log-000000014-hostB", true));
    // The gap alone tells it.
    let gap = restart().with("log-000000014-hostB = 0");
    assert_eq!(plan(&gap), open("log-000000014-hostB", true));
    // Logging went on, only the replay link is old.
    let resumed = hole().with("log-000000014-hostB = 512");
    assert_eq!(
        plan(&resumed),
        switch("log-000000003-hostB", "log-000000014-hostB")
    );
    // What was written before it comes first.
    let before = made().with("log-000000004-hostB = 512");
    assert_eq!(
        plan(&before),
        switch("log-000000003-hostB", "log-000000004-hostB")
    );
    // A second interruption: the disk is ahead of log 14 too.
    let again = made().with(&format!(
        "version-000000024-hostB -> {ZERO},log-000000024-hostB,0:"
    ));
    assert_eq!(plan(&again), open("log-000000025-hostB", false));
}

/// The disk follows a foreign log: an old own hole is history.
#[test]
fn primary_takeover_ignores_old_holes() {
    let hole = format!("version-000000013-hostA -> {ZERO},log-000000013-hostA,0:");
    let w = takeover().with(&hole).with("log-000000014-hostA = 0");
    assert_eq!(plan(&w), open("log-000000004-hostA", false));
}

#[test]
fn primary_never_applies_a_log_that_lost_its_end() {
    let w = restart()
        .with("log-000000003-hostB = 6000\ntodo-hostB/connect -> 0")
        .with(
            "version-000000003-hostB -> 1defc62b29e43d74c94cca423ee2cc3b,log-000000003-hostB,512:",
        );
    assert_eq!(plan(&w), open("log-000000004-hostB", false));
}

#[test]
fn primary_cut_foreign_record_is_no_torn_tail() {
    let w = takeover().with(
        "log-000000003-hostB = 5000
         replay-hostA -> log-000000003-hostB,4096,0
         version-000000003-hostA -> 6f2d44f952a35ec2801bd0a41c4d0f48,log-000000003-hostB,4096:",
    );
    let incomplete = PrimaryPlan::Refuse(PrimaryRefusal::Incomplete {
        log: "log-000000003-hostB".parse().unwrap(),
        rest: 4096,
    });
    assert_eq!(primary_plan(&w.v(), &w.res, Tail::Cut), incomplete);
    // Forced: without the rest.
    let w = w.with("todo-hostA/connect -> 0");
    assert_eq!(
        primary_plan(&w.v(), &w.res, Tail::Cut),
        open("log-000000004-hostA", false)
    );
}

/// Forced, and the own next log does not fit behind a damaged one: both are left behind a hole.
#[test]
fn primary_forced_leaves_an_own_log_that_does_not_fit() {
    let w = restart().with(&format!(
        "log-000000004-hostB = 512
         version-000000004-hostB -> {ZERO},log-000000004-hostB,512:{ZERO},log-000000003-hostB,1
         todo-hostB/connect -> 0"
    ));
    assert_eq!(plan(&w), open("log-000000015-hostB", false));
}
