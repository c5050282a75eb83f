//! `--wait` of join-resource and invalidate: until the resource is UpToDate.
use crate::ctx::{Ctx, State};
use crate::error::Done;
use crate::out;
use crate::plan::{designated, names, switch_name};
use mars_policy::{View, disk_state, repl_state, split_brain};
use mars_tree::{ResName, TodoSwitch};
use std::time::{Duration, Instant};

/// Whether peers answer depends on time: looked at again so often.
const RECHECK: Duration = Duration::from_secs(10);

/// With `--wait`: waits, for ever unless `--timeout` says something else. A sync may take days.
pub fn wait_if_asked(ctx: &Ctx, res: &ResName) -> Done {
    if !ctx.opts.wait {
        return Ok(());
    }
    let what = format!("{res} is UpToDate on {}", ctx.me);
    if ctx.opts.dry_run {
        out::say(format!("would wait until {what}"));
        return Ok(());
    }
    let limit = ctx.opts.timeout.flatten();
    let mut split: Option<Instant> = None;
    ctx.wait_full(Some(res), &what, limit, Some(RECHECK), |v| {
        match (is_split(v, res), split) {
            (false, _) => split = None,
            (true, None) => split = Some(Instant::now()),
            // While links are still on their way, histories seem to part that do not.
            (true, Some(since)) if since.elapsed() < RECHECK => {}
            (true, Some(_)) => {
                return State::Never(format!(
                    "split brain in resource {res}; run marsadm invalidate {res} on the members that shall lose"
                ));
            }
        }
        up_to_date(v, res)
    })?;
    ctx.result(format!("{what} now"));
    Ok(())
}

/// Is the acting host one of those whose histories part?
fn is_split(v: &View<'_>, res: &ResName) -> bool {
    split_brain(v, res).is_some_and(|s| {
        s.points
            .iter()
            .any(|p| p.hosts.iter().any(|(h, _)| h == v.me))
    })
}

/// How far the acting host is.
pub fn up_to_date(v: &View<'_>, res: &ResName) -> State {
    let me = v.me;
    if !v.snap.members(res).contains(me) {
        return State::Never(format!(
            "{me} is not member of resource {res} any more; run marsadm join-resource again"
        ));
    }
    if designated(v.snap, res).as_ref() == Some(me) {
        return State::Never(format!(
            "{me} has been designated primary of resource {res} meanwhile, nothing is synced any more; see marsadm view {res}"
        ));
    }
    if is_split(v, res) {
        return State::Waiting("split brain".into());
    }
    let disk = disk_state(v, res, me);
    if let Some(error) = disk.disk_error {
        return State::Never(format!(
            "the disk of resource {res} on {me} gives error {error}; repair it, then run marsadm invalidate {res}"
        ));
    }
    if disk.word == "UpToDate" {
        return State::Done;
    }
    use TodoSwitch::{AllowReplay, Attach, Connect, Sync};
    let off: Vec<&str> = [Attach, Connect, AllowReplay, Sync]
        .into_iter()
        .filter(|s| !v.snap.todo(res, me, *s))
        .map(switch_name)
        .collect();
    if !off.is_empty() {
        return State::Waiting(format!("off: {}; run marsadm up {res} on {me}", names(off)));
    }
    State::Waiting(format!("{disk}, {}", repl_state(v, res, me)))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use mars_policy::fixtures;
    use mars_tree::{HostName, Snapshot};

    fn state(snap: &Snapshot, me: &str) -> State {
        let me: HostName = me.parse().unwrap();
        let view = View {
            snap,
            me: &me,
            local: &me,
            now: fixtures::NOW,
            window: Duration::from_secs(60),
            engine_running: true,
        };
        up_to_date(&view, &"lv0".parse().unwrap())
    }
    fn with(mut snap: Snapshot, listing: &str) -> Snapshot {
        fixtures::add(&mut snap, "resource-lv0/", listing);
        snap
    }
    fn never(state: State, word: &str) {
        assert!(
            matches!(&state, State::Never(t) if t.contains(word)),
            "{state:?}"
        );
    }

    #[test]
    fn up_to_date_waits_or_says_that_it_never_will() {
        assert_eq!(state(&fixtures::steady(), "hostA"), State::Done);
        let syncing = fixtures::syncing;
        assert_eq!(
            state(&syncing(), "hostB"),
            State::Waiting("InConsistent, Syncing".into())
        );
        let paused = with(syncing(), "todo-hostB/{sync,connect} -> 0");
        assert_eq!(
            state(&paused, "hostB"),
            State::Waiting("off: fetch, sync; run marsadm up lv0 on hostB".into())
        );
        never(
            state(&with(syncing(), "primary -> hostB"), "hostB"),
            "designated primary",
        );
        never(
            state(&with(syncing(), "actual-hostB/disk-error -> -5"), "hostB"),
            "gives error -5",
        );
        never(
            state(&with(syncing(), "{data,replay}-hostB -> -"), "hostB"),
            "join-resource",
        );
        assert_eq!(
            state(&fixtures::split(), "hostA"),
            State::Waiting("split brain".into())
        );
    }
}
