use super::*;
use crate::{RotateHold, deletable_logs, deletable_versions, min_replay_nr, rotate_plan};
use mars_tree::{FileMeta, Stamp};

const AGE: Duration = Duration::from_secs(120);

fn logs(w: &World) -> Vec<String> {
    let logs = deletable_logs(&w.v(), &w.res, AGE);
    logs.iter().map(ToString::to_string).collect()
}
fn versions(w: &World) -> Vec<String> {
    let v = deletable_versions(&w.v(), &w.res, AGE);
    v.iter().map(|(nr, h)| format!("{nr}-{h}")).collect()
}
fn touch(mut w: World, log: &str, size: u64, mtime: Stamp) -> World {
    w.snap
        .files
        .insert(format!("resource-lv0/{log}"), FileMeta { size, mtime });
    w
}

#[test]
fn deletable_below_the_slowest_replay() {
    let w = World::steady("hostA");
    assert_eq!(min_replay_nr(&w.v(), &w.res), Some(3));
    assert_eq!(logs(&w), ["log-000000002-hostA"]);
    assert_eq!(versions(&w), ["1-hostA", "1-hostB"]);
    // Dead members count: nothing but their replay link says what they need.
    let w = w.with("replay-hostC -> log-000000002-hostA,0,0");
    assert_eq!(logs(&w), [""; 0]);
    assert_eq!(versions(&w), [""; 0]);
    // Damaged or nobody's: keep everything.
    for replay in ["damaged", "log-000000009-hostA,0"] {
        let w = World::steady("hostA").with(&format!("replay-hostC -> {replay}"));
        assert_eq!(min_replay_nr(&w.v(), &w.res), None);
        assert_eq!((logs(&w).len(), versions(&w).len()), (0, 0));
    }
    let w = World::steady("hostA").with("replay-{hostA,hostB} -> -");
    assert_eq!((logs(&w).len(), versions(&w).len()), (0, 0));
}

#[test]
fn deletable_stops_at_the_first_young_one() {
    let w = touch(
        World::steady("hostA"),
        "log-000000001-hostA",
        9,
        fixtures::FRESH,
    );
    assert_eq!(logs(&w), [""; 0]);
    assert_eq!(deletable_logs(&w.v(), &w.res, Duration::ZERO).len(), 2);
    // From the future is young.
    let w = touch(w, "log-000000001-hostA", 9, Stamp::from_nanos(u64::MAX));
    assert_eq!(logs(&w), [""; 0]);
    let mut w = World::steady("hostA");
    let link = w
        .snap
        .links
        .get_mut("resource-lv0/version-000000001-hostB")
        .unwrap();
    link.stamp = fixtures::FRESH;
    assert_eq!(versions(&w), ["1-hostA"]);
}

#[test]
fn deletable_never_the_newest() {
    let w = World::steady("hostA")
        .with("replay-{hostA,hostB} -> log-000000009-hostB,0,0")
        .with("version-000000003-{hostA,hostB} -> -")
        .without_file("log-000000003-hostB");
    assert_eq!(logs(&w), [""; 0]);
}

fn rotate(w: &World) -> Result<String, RotateHold> {
    rotate_plan(&w.v(), &w.res, 10, 5_000_000_000).map(|l| l.to_string())
}

#[test]
fn rotate_names_the_next_own_log() {
    assert_eq!(
        rotate(&World::steady("hostB")),
        Ok("log-000000004-hostB".into())
    );
    // Leaving the role, but still writing.
    let remains = World::steady("hostB").with("primary -> hostA");
    assert!(rotate(&remains).is_ok());
}

#[test]
fn rotate_conditions() {
    let hold = |w: World| rotate(&w).unwrap_err();
    let b = || World::steady("hostB");
    assert_eq!(hold(World::steady("hostA")), RotateHold::NotPrimary);
    assert_eq!(hold(b().with("log-000000003-hostB = 0")), RotateHold::Empty);
    assert_eq!(
        hold(b().without_file("log-000000003-hostB")),
        RotateHold::Empty
    );
    assert_eq!(
        hold(b().with("log-000000004-hostB = 0")),
        RotateHold::Exists
    );
    assert_eq!(
        hold(b().with("log-000000004-hostA = 5")),
        RotateHold::Exists
    );
    assert_eq!(
        hold(b().with(
            "version-000000004-hostA -> 00000000000000000000000000000000,log-000000004-hostA,0:"
        )),
        RotateHold::Exists
    );
    assert_eq!(
        hold(b().with("version-000000003-hostB -> -")),
        RotateHold::NoVersion
    );
    let young = touch(b(), "log-000000003-hostB", 8192, fixtures::FRESH);
    assert!(rotate(&young.with("version-000000003-hostB -> -")).is_ok());
    assert_eq!(
        hold(b().with("log-999999999-hostB = 1")),
        RotateHold::Numbers
    );
}

#[test]
fn rotate_thresholds() {
    let mut w = World::steady("hostB");
    for nr in 4..=13 {
        w = w.with(&format!(
            "log-{nr:09}-hostB = 100
             version-{nr:09}-hostB -> 00000000000000000000000000000000,log-{nr:09}-hostB,100:"
        ));
    }
    // Ten older own logs: 3 to 12.
    assert_eq!(rotate(&w), Err(RotateHold::Thresholds));
    assert_eq!(
        rotate_plan(&w.v(), &w.res, 11, u64::MAX).map(|l| l.nr),
        Ok(14)
    );
    let w = w.with("log-000000013-hostB = 5000000000");
    assert_eq!(rotate(&w), Ok("log-000000014-hostB".into()));
}
