use crate::report::{HostReport, MemberReport, host_report};
use crate::{Machine, OldestUnapplied, Scope};
use mars_policy::fixtures::{NOW, OLD, add, split, steady, syncing};
use mars_policy::{Role, View};
use mars_tree::{HostName, Snapshot, Stamp};
use std::time::Duration;

fn machine() -> Machine {
    Machine {
        disks_present: vec!["/dev/vg/lv0".into()],
        ..Machine::default()
    }
}

fn report_with(snap: &Snapshot, me: &str, machine: &Machine) -> HostReport {
    let me: HostName = me.parse().unwrap();
    let scope = Scope {
        view: View {
            snap,
            me: &me,
            local: &me,
            now: NOW,
            window: Duration::from_secs(60),
            engine_running: true,
        },
        res: None,
        threshold: 10 << 20,
        verbose: 0,
        args: &[],
        machine,
    };
    host_report(&scope, &snap.resources())
}
fn report(snap: &Snapshot, me: &str) -> HostReport {
    report_with(snap, me, &machine())
}
fn of<'r>(r: &'r HostReport, host: &str) -> &'r MemberReport {
    let members = &r.resources[0].members;
    members.iter().find(|m| m.host.as_str() == host).unwrap()
}

#[test]
fn report_steady() {
    let r = report(&steady(), "hostA");
    assert_eq!(r.peers.len(), 2);
    assert_eq!(r.peers[1].age_seconds, Some(1));
    assert_eq!(r.peers[1].rest_space_gib, Some(83));
    let res = &r.resources[0];
    assert!(res.is_member && res.split_brain.is_none());
    assert_eq!(res.size, Some(10_737_418_240));
    assert_eq!(res.members[0].host.as_str(), "hostA");
    // Of log 1 there is only the tombstone.
    assert_eq!((res.logs.len(), r.tombstones), (2, 1));
    assert_eq!(res.deletable.len(), 1);
    assert_eq!(res.deletable[0].nr, 2);
    let a = of(&r, "hostA");
    assert!(a.is_me && a.fresh && a.joined && a.switches.all_on());
    assert_eq!((a.role, a.designated), (Role::Secondary, false));
    assert_eq!(a.disk_state.to_string(), "UpToDate");
    assert_eq!((a.lag_seconds, a.lag_bytes), (Some(0), Some(0)));
    assert_eq!(a.last_applied, Some(OLD));
    assert_eq!(a.sync.unwrap().rest(), 0);
    assert!(a.messages.is_empty());
    let b = of(&r, "hostB");
    assert!(!b.is_me && b.role == Role::Primary && b.actual.primary == Some(true));
    assert_eq!(b.flags.to_string(), "DCASFR");
}

#[test]
fn report_sync() {
    let r = report(&syncing(), "hostB");
    let b = of(&r, "hostB");
    let sync = b.sync.unwrap();
    assert_eq!((sync.pos, sync.rate), (4 << 30, Some(100 << 20)));
    assert_eq!(sync.remain_seconds(), Some(62));
    assert_eq!(b.lag_bytes, Some(524_288));
    // Nothing is known of the records, the position has not moved for two hours.
    assert_eq!(b.lag_seconds, Some(7200));
    assert_eq!(b.messages.len(), 1);
    assert_eq!(of(&r, "hostA").dirty_bytes, Some(4096));
}

#[test]
fn report_lag_is_the_age_of_the_first_record_that_is_missing() {
    let snap = syncing();
    let mut m = machine();
    for (host, ago) in [("hostB", 90), ("hostX", 1)] {
        m.oldest_unapplied.push(OldestUnapplied {
            res: "lv0".parse().unwrap(),
            host: host.parse().unwrap(),
            stamp: Stamp::from_nanos(NOW.as_nanos() - ago * 1_000_000_000),
        });
    }
    assert_eq!(
        of(&report_with(&snap, "hostB", &m), "hostB").lag_seconds,
        Some(90)
    );
    // A record from the future is 0 seconds old, and where no work is left there is no lag.
    m.oldest_unapplied[0].stamp = Stamp::from_nanos(u64::MAX);
    assert_eq!(
        of(&report_with(&snap, "hostB", &m), "hostB").lag_seconds,
        Some(0)
    );
    let r = report_with(&steady(), "hostA", &m);
    assert_eq!(of(&r, "hostA").lag_seconds, Some(0));
}

#[test]
fn report_split_brain_and_two_primaries() {
    let r = report(&split(), "hostA");
    let res = &r.resources[0];
    assert_eq!(res.actual_primaries.len(), 2);
    let point = &res.split_brain.as_ref().unwrap().points[0];
    assert_eq!(point.after, "log-000000002-hostA,524288");
    assert_eq!(of(&r, "hostA").role, Role::RemainsPrimary);
}

#[test]
fn report_unknown_is_none_and_nothing_is_negative() {
    let mut snap = steady();
    add(
        &mut snap,
        "",
        "
        actual-hostA/time -> soon
        actual-hostA/{rest-space,total-space,emergency} -> -3
        todo-global/delete-000000001 -> /mars/x
        resource-lv0/replay-hostA -> log-1,2
        resource-lv0/syncstatus-hostA -> much
        resource-lv0/actual-hostB/{amount-file_rate,open-count,amount-replay_rate} -> -592
        ",
    );
    let r = report(&snap, "hostA");
    let me = &r.peers[0];
    assert_eq!((me.age_seconds, me.alive), (None, false));
    assert_eq!(
        (me.rest_space_gib, me.total_space_gib, me.emergency_level),
        (None, None, None)
    );
    assert_eq!(r.pending_deletes, 1);
    assert!(r.damaged_links >= 3, "{}", r.damaged_links);
    let a = of(&r, "hostA");
    assert!(!a.fresh);
    assert!(a.sync.is_none() && a.fetch.is_none() && a.lag_seconds.is_none());
    let b = of(&r, "hostB");
    assert_eq!(b.fetch.unwrap().rate, Some(0));
    assert_eq!(b.open_count, Some(0));
}
