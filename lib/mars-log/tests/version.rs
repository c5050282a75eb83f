//! Version links: the worked examples of symlink-tree.md 4.3 and the switch rules of 4.4.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
use mars_log::{SwitchBlock, SwitchInput, may_switch, next_version, placeholder, version_chain};
use mars_tree::{HostName, LogName, ReplayPos, VersionLink};
use proptest::prelude::*;

fn log(nr: u32, host: &str) -> LogName {
    LogName {
        nr,
        host: host.parse().unwrap(),
    }
}

fn next(nr: u32, host: &str, len: u64, prev: Option<&VersionLink>) -> VersionLink {
    next_version(&log(nr, host), len, prev)
}

/// The history of 4.3: hostA writes logs 1 and 2, hostB writes log 3.
fn history() -> [VersionLink; 3] {
    let one = next(1, "hostA", 1_048_576, None);
    let two = next(2, "hostA", 524_288, Some(&one));
    let three = next(3, "hostB", 8192, Some(&two));
    [one, two, three]
}

#[test]
fn worked_example_final_values() {
    let values = history().map(|l| l.to_string());
    assert_eq!(
        values,
        [
            "eae75bd0648f4b9f8ece4a07b4c47429,log-000000001-hostA,1048576:",
            "ab6ca3b5e4f9a9d35ea2226916d13904,log-000000002-hostA,524288:\
             eae75bd0648f4b9f8ece4a07b4c47429,log-000000001-hostA,1048576",
            "1defc62b29e43d74c94cca423ee2cc3b,log-000000003-hostB,8192:\
             ab6ca3b5e4f9a9d35ea2226916d13904,log-000000002-hostA,524288",
        ]
    );
}

#[test]
fn worked_example_intermediate_values() {
    let [one, two, _] = history();
    for (link, value) in [
        (
            next(1, "hostA", 0, None),
            "6f2d44f952a35ec2801bd0a41c4d0f48,log-000000001-hostA,0:",
        ),
        (
            next(2, "hostA", 0, Some(&one)),
            "8cdaafd693c7ffc1e1f2d47f3909bba9,log-000000002-hostA,0:\
             eae75bd0648f4b9f8ece4a07b4c47429,log-000000001-hostA,1048576",
        ),
        (
            next(2, "hostA", 262_144, Some(&one)),
            "49509b87349b6aff4c417dfbf01d5891,log-000000002-hostA,262144:\
             eae75bd0648f4b9f8ece4a07b4c47429,log-000000001-hostA,1048576",
        ),
        (
            next(3, "hostB", 0, Some(&two)),
            "1ab2920e2f91b916fd55926408775e22,log-000000003-hostB,0:\
             ab6ca3b5e4f9a9d35ea2226916d13904,log-000000002-hostA,524288",
        ),
        (
            next(3, "hostA", 16_384, Some(&two)),
            "78e853fbec3c0daf4865f797871fba83,log-000000003-hostA,16384:\
             ab6ca3b5e4f9a9d35ea2226916d13904,log-000000002-hostA,524288",
        ),
    ] {
        assert_eq!(link.to_string(), value);
        assert_eq!(value.parse::<VersionLink>().unwrap(), link);
    }
}

#[test]
fn placeholders_of_create_resource() {
    let former = placeholder(&log(0, "hostA"), None);
    let first = placeholder(&log(1, "hostA"), Some(former.head.clone()));
    let zeros = "0".repeat(32);
    assert_eq!(
        former.to_string(),
        format!("{zeros},log-000000000-hostA,0:")
    );
    assert_eq!(
        first.to_string(),
        format!("{zeros},log-000000001-hostA,0:{zeros},log-000000000-hostA,0")
    );
    // Number 1 then has an empty predecessor.
    assert_eq!(
        next(1, "hostA", 1_048_576, Some(&former)),
        history()[0].clone()
    );
    // A re-created resource does not start with 1: there the placeholder counts.
    let former = placeholder(&log(100_001, "hostA"), None);
    let link = next(100_002, "hostA", 0, Some(&former));
    assert_eq!(link.pred, Some(former.head.clone()));
    assert_ne!(link.head.md5, next(100_002, "hostA", 0, None).head.md5);
}

#[test]
fn chain_of_the_worked_example_is_sound() {
    let h = history();
    let numbered = |links: &[&VersionLink]| -> Vec<(u32, VersionLink)> {
        links
            .iter()
            .map(|l| (l.head.log.nr, (*l).clone()))
            .collect()
    };
    assert_eq!(version_chain(&[]), None);
    assert_eq!(version_chain(&numbered(&[&h[0], &h[1], &h[2]])), None);
    assert_eq!(version_chain(&numbered(&[&h[1], &h[2]])), None);
    // A gap.
    assert_eq!(version_chain(&numbered(&[&h[0], &h[2]])), Some(3));
    // Not ascending.
    assert_eq!(version_chain(&numbered(&[&h[1], &h[0]])), Some(1));
    // Link stored under another number.
    assert_eq!(version_chain(&[(2, h[0].clone())]), Some(2));
    // Number 1 can be checked by itself.
    let mut bad = h[0].clone();
    bad.head.len += 1;
    assert_eq!(version_chain(&numbered(&[&bad, &h[1]])), Some(1));
    // Changed length, digest, creator or predecessor in the middle.
    for damage in [
        |l: &mut VersionLink| l.head.len += 512,
        |l: &mut VersionLink| l.head.md5[15] ^= 1,
        |l: &mut VersionLink| l.head.log.host = "hostX".parse().unwrap(),
        |l: &mut VersionLink| l.pred = None,
        |l: &mut VersionLink| l.pred.as_mut().unwrap().len -= 1,
    ] {
        let mut two = h[1].clone();
        damage(&mut two);
        assert_eq!(version_chain(&numbered(&[&h[0], &two, &h[2]])), Some(2));
    }
    // A fork is sound on its own side.
    let fork = next(3, "hostA", 16_384, Some(&h[1]));
    assert_eq!(version_chain(&numbered(&[&h[0], &h[1], &fork])), None);
    assert_eq!(
        version_chain(&numbered(&[
            &h[0],
            &h[1],
            &fork,
            &next(4, "hostB", 1, Some(&h[2]))
        ])),
        Some(4)
    );
    // Placeholders: with their predecessor, or first.
    let former = placeholder(&log(0, "hostA"), None);
    let first = placeholder(&log(1, "hostA"), Some(former.head.clone()));
    assert_eq!(version_chain(&numbered(&[&former, &first])), None);
    assert_eq!(version_chain(&numbered(&[&former, &h[0], &h[1]])), None);
    let foreign = placeholder(&log(2, "hostA"), Some(former.head.clone()));
    assert_eq!(version_chain(&numbered(&[&h[0], &foreign])), Some(2));
}

/// A switch from log 2 (hostA) to log 3 (hostB) on hostC that is allowed; tests spoil one fact each.
struct Facts {
    me: HostName,
    designated: bool,
    forced: bool,
    tail_damaged: bool,
    old: LogName,
    new: LogName,
    duplicate: bool,
    creator_may_lag: bool,
    own_old: Option<VersionLink>,
    creator_old: Option<VersionLink>,
    creator_new: Option<VersionLink>,
    replay: Option<ReplayPos>,
}

fn allowed() -> Facts {
    let [_, two, three] = history();
    Facts {
        me: "hostC".parse().unwrap(),
        designated: false,
        forced: false,
        tail_damaged: false,
        old: two.head.log.clone(),
        new: three.head.log.clone(),
        duplicate: false,
        creator_may_lag: false,
        replay: Some(ReplayPos {
            log: two.head.log.clone(),
            pos: two.head.len,
            dirty: 0,
        }),
        own_old: Some(two.clone()),
        creator_old: Some(two),
        creator_new: Some(three),
    }
}

fn decide(spoil: impl FnOnce(&mut Facts)) -> Result<(), SwitchBlock> {
    let mut f = allowed();
    spoil(&mut f);
    may_switch(&SwitchInput {
        me: &f.me,
        designated: f.designated,
        forced: f.forced,
        tail_damaged: f.tail_damaged,
        old: &f.old,
        new: &f.new,
        duplicate: f.duplicate,
        creator_may_lag: f.creator_may_lag,
        own_old: f.own_old.as_ref(),
        creator_old: f.creator_old.as_ref(),
        creator_new: f.creator_new.as_ref(),
        replay: f.replay.as_ref(),
    })
}

fn host(name: &str) -> HostName {
    name.parse().unwrap()
}

#[test]
fn switch_allowed() {
    assert_eq!(decide(|_| ()), Ok(()));
}

#[test]
fn switch_rule_1_duplicate() {
    assert_eq!(decide(|f| f.duplicate = true), Err(SwitchBlock::SplitBrain));
}

#[test]
fn switch_rule_2_contiguous() {
    for nr in [0, 1, 2, 4, 13, u32::MAX] {
        assert_eq!(
            decide(|f| f.new.nr = nr),
            Err(SwitchBlock::NotContiguous),
            "{nr}"
        );
    }
    assert_eq!(
        decide(|f| {
            f.old.nr = u32::MAX;
            f.new.nr = 0;
        }),
        Err(SwitchBlock::NotContiguous)
    );
}

#[test]
fn switch_rule_3_readable() {
    assert_eq!(decide(|f| f.own_old = None), Err(SwitchBlock::NotReadable));
    assert_eq!(
        decide(|f| f.creator_old = None),
        Err(SwitchBlock::NotReadable)
    );
    // The creator's link of an own log is the own link.
    assert_eq!(
        decide(|f| {
            f.creator_old = None;
            f.me = host("hostA");
        }),
        Ok(())
    );
}

#[test]
fn switch_rule_4_designated_does_not_follow_from_own_to_foreign() {
    let me_wrote_old = |f: &mut Facts| f.me = host("hostA");
    assert_eq!(decide(me_wrote_old), Ok(()));
    assert_eq!(
        decide(|f| {
            me_wrote_old(f);
            f.designated = true;
        }),
        Err(SwitchBlock::ForeignDenied)
    );
    assert_eq!(
        decide(|f| {
            me_wrote_old(f);
            f.designated = true;
            f.new.host = host("hostA");
            f.creator_new = None;
        }),
        Ok(())
    );
}

#[test]
fn switch_rule_5_new_link_exists() {
    assert_eq!(
        decide(|f| f.creator_new = None),
        Err(SwitchBlock::NotYetExist)
    );
    for (designated, mine) in [(true, false), (false, true), (true, true)] {
        assert_eq!(
            decide(|f| {
                f.creator_new = None;
                f.designated = designated;
                if mine {
                    f.new.host = f.me.clone();
                }
            }),
            Ok(())
        );
    }
}

#[test]
fn switch_rule_6_equal() {
    assert_eq!(
        decide(|f| f.creator_old.as_mut().unwrap().head.len += 512),
        Err(SwitchBlock::NotEqual)
    );
    assert_eq!(
        decide(|f| f.own_old.as_mut().unwrap().pred = None),
        Err(SwitchBlock::NotEqual)
    );
}

/// The creator died before it published the whole length; the next log continues what this host has.
#[test]
fn switch_rule_6_creator_died_before_it_published_all() {
    let behind = |f: &mut Facts| {
        let [one, ..] = history();
        f.creator_old = Some(next(2, "hostA", 1000, Some(&one)));
        f.creator_may_lag = true;
    };
    assert_eq!(decide(behind), Ok(()));
    let spoilt = |spoil: fn(&mut Facts)| {
        decide(|f| {
            behind(f);
            spoil(f);
        })
    };
    let no = Err(SwitchBlock::NotEqual);
    assert_eq!(spoilt(|f| f.creator_may_lag = false), no);
    // It published more than is here.
    assert_eq!(
        spoilt(|f| f.creator_old.as_mut().unwrap().head.len = 600_000),
        no
    );
    // Another history before it.
    assert_eq!(spoilt(|f| f.creator_old.as_mut().unwrap().pred = None), no);
    // The next log continues something else, by length or by digest only, or is not known.
    assert_eq!(
        spoilt(|f| f.creator_new.as_mut().unwrap().pred.as_mut().unwrap().len = 1000),
        no
    );
    assert_eq!(
        spoilt(|f| f.creator_new.as_mut().unwrap().pred.as_mut().unwrap().md5 = [1; 16]),
        no
    );
    assert_eq!(
        spoilt(|f| {
            f.creator_new = None;
            f.designated = true;
        }),
        no
    );
    // Not everything of it is replayed.
    assert_eq!(
        spoilt(|f| f.replay.as_mut().unwrap().pos = 1000),
        Err(SwitchBlock::NotFinished)
    );
}

#[test]
fn switch_rule_7_replay_names_that_log() {
    assert_eq!(decide(|f| f.replay = None), Err(SwitchBlock::BadLogName));
    assert_eq!(
        decide(|f| f.replay.as_mut().unwrap().log.nr = 1),
        Err(SwitchBlock::BadLogName)
    );
    assert_eq!(
        decide(|f| f.replay.as_mut().unwrap().log.host = host("hostB")),
        Err(SwitchBlock::BadLogName)
    );
}

#[test]
fn switch_rule_8_position_by_value() {
    let at = |pos: u64, damaged: bool, designated: bool, forced: bool| {
        decide(|f| {
            f.replay.as_mut().unwrap().pos = pos;
            f.tail_damaged = damaged;
            f.designated = designated;
            f.forced = forced;
        })
    };
    let end = 524_288;
    let not = Err(SwitchBlock::NotFinished);
    // The same number of digits, which was enough for the original.
    assert_eq!(at(524_287, false, false, false), not);
    assert_eq!(at(100_000, false, false, false), not);
    assert_eq!(at(end, false, false, false), Ok(()));
    // Beyond the end: the disk holds what the history does not.
    for flags in [(false, false, false), (true, true, true)] {
        assert_eq!(at(end + 1, flags.0, flags.1, flags.2), not);
    }
    // Tolerance: a torn tail, or designated and forced.
    for (damaged, designated, forced, tolerant) in [
        (false, false, true, false),
        (false, true, false, false),
        (false, true, true, true),
        (true, false, false, true),
        (true, true, true, true),
    ] {
        let near = at(end - 4180, damaged, designated, forced);
        assert_eq!(near, if tolerant { Ok(()) } else { not });
        assert_eq!(at(end - 4181, damaged, designated, forced), not);
    }
}

#[test]
fn switch_rule_9_predecessor() {
    assert_eq!(
        decide(|f| f.creator_new.as_mut().unwrap().pred = None),
        Err(SwitchBlock::SplitBrain)
    );
    assert_eq!(
        decide(|f| f.creator_new.as_mut().unwrap().pred.as_mut().unwrap().len += 1),
        Err(SwitchBlock::SplitBrain)
    );
    // Also a designated primary looks at the link when it exists.
    assert_eq!(
        decide(|f| {
            f.designated = true;
            f.creator_new.as_mut().unwrap().pred.as_mut().unwrap().md5[0] ^= 1;
        }),
        Err(SwitchBlock::SplitBrain)
    );
}

#[test]
fn switch_rules_apply_in_order() {
    // Everything is wrong; each repair shows the next rule.
    let all_wrong = |repaired: usize| {
        decide(|f| {
            f.me = host("hostA");
            f.designated = true;
            f.duplicate = repaired < 1;
            if repaired < 2 {
                f.new.nr = 9;
            }
            if repaired < 3 {
                f.own_old = None;
            } else if repaired < 6 {
                f.own_old.as_mut().unwrap().head.len -= 512;
            }
            if repaired >= 4 {
                f.designated = false;
            }
            if repaired < 5 {
                f.creator_new = None;
            } else {
                f.creator_new.as_mut().unwrap().pred = None;
            }
            if repaired < 7 {
                f.replay = None;
            } else if repaired < 8 {
                f.replay.as_mut().unwrap().pos = 0;
            }
        })
    };
    let seen: Vec<_> = (0..9)
        .map(|n| all_wrong(n).unwrap_err().to_string())
        .collect();
    assert_eq!(
        seen,
        [
            "err-splitbrain-detected",
            "err-log-not-contiguous",
            "err-versionlink-not-readable",
            "inf-log-foreign-denied",
            "inf-versionlink-not-yet-exist",
            "inf-versionlink-not-equal",
            "err-bad-log-name",
            "inf-replay-not-yet-finished",
            "err-splitbrain-detected",
        ]
    );
}

proptest! {
    /// Any history is a sound chain, also after printing and parsing; any changed length is found.
    #[test]
    fn any_history_is_a_chain(
        start in 1u32..999_000_000,
        lens in prop::collection::vec((0u64..1 << 45, 0usize..3), 1..12),
        broken in any::<prop::sample::Index>(),
    ) {
        let hosts = ["a", "host-B", "c_3"];
        let mut links: Vec<(u32, VersionLink)> = Vec::new();
        for (i, (len, h)) in lens.iter().enumerate() {
            let nr = start + i as u32;
            let link = next(nr, hosts[*h], *len, links.last().map(|(_, l)| l));
            links.push((nr, link.to_string().parse().unwrap()));
            prop_assert_eq!(&links[i].1, &link);
        }
        prop_assert_eq!(version_chain(&links), None);
        let at = broken.index(links.len());
        links[at].1.head.len += 1;
        let found = version_chain(&links);
        if at > 0 || start == 1 {
            prop_assert_eq!(found, Some(start + at as u32));
        } else if links.len() > 1 {
            prop_assert_eq!(found, Some(start + 1));
        }
    }
}
