//! Replay and version links of a host that starts from the primary's state (symlink-tree.md section 6, "join-resource", step 3).
use crate::error::{Done, refuse};
use mars_tree::{Batch, HostName, Key, ResName, Snapshot};

/// The log number at which the primary's replay (write-back) stands.
pub fn primary_number(snap: &Snapshot, res: &ResName, primary: &HostName) -> Done<u32> {
    match snap.replay(res, primary) {
        Some(pos) => Ok(pos.log.nr),
        None => refuse(format!(
            "the replay position of primary {primary} of resource {res} is missing or damaged; look at replay-{primary} there"
        )),
    }
}

/// Adds: own replay link at the start of the primary's current log (with its creator), copies of the primary's version links of
/// that number and the one before, permission for that one jump, and the whole disk to be synced.
pub fn start_from(
    batch: &mut Batch,
    snap: &Snapshot,
    res: &ResName,
    me: &HostName,
    primary: &HostName,
) -> Done<u32> {
    let nr = primary_number(snap, res, primary)?;
    let Some(pos) = snap.replay(res, primary) else {
        return Ok(nr);
    };
    batch.set(
        Key::Replay(res.clone(), me.clone()),
        format!("{},0,0", pos.log),
    );
    for n in [Some(nr), nr.checked_sub(1)].into_iter().flatten() {
        if let Some(text) = snap.text(&Key::Version(res.clone(), n, primary.clone())) {
            batch.set(Key::Version(res.clone(), n, me.clone()), text);
        }
    }
    batch.set(Key::SkipCheck(res.clone(), me.clone()), nr);
    batch.set(Key::SyncStatus(res.clone(), me.clone()), 0);
    Ok(nr)
}
