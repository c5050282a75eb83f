//! The local copy of a log: how much of it may be applied.
use mars_live::{FetchLive, LivePage};
use mars_log::cut_if_left;
use mars_tree::{HostEnv, HostName, Key, LogName, ResName, Snapshot, Tree};
use std::fs::{File, Metadata, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};

/// An open copy.
#[derive(Debug)]
pub struct LocalLog {
    /// For reading.
    pub file: File,
    /// Tells a replaced file from the old one.
    pub identity: (u64, u64),
    /// Bytes that are durable here.
    pub durable: u64,
    /// Bytes that fetch has made durable here, as far as it says so. More than `durable`: somebody has cut the file.
    pub fetched: u64,
}

/// Tells files apart.
pub fn identity(meta: &Metadata) -> (u64, u64) {
    (meta.dev(), meta.ino())
}

/// Opens the copy, never through a link.
pub fn open(
    env: &HostEnv,
    tree: &Tree,
    page: &LivePage,
    res: &ResName,
    log: &LogName,
    snap: &Snapshot,
) -> io::Result<LocalLog> {
    let is_own = log.host == env.host;
    let file = OpenOptions::new()
        .read(true)
        .write(is_own)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(tree.path(&Key::Log(res.clone(), log.clone())))?;
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::other("not a regular file"));
    }
    let live = page.read::<FetchLive>().0;
    let fetching =
        live.log_nr == u64::from(log.nr) && mars_daemon::is_running(env, "fetch", Some(res));
    let durable = if fetching {
        // A replaced file may be shorter than what was published before.
        live.durable_len.min(meta.len())
    } else {
        // Whoever wrote it: after this call what was there before it is durable.
        file.sync_data()?;
        if is_own {
            // From a time as primary that ended with a crash: zeros may stand behind the last record.
            cut_if_left(&file, promised(snap, res, log))?
        } else {
            meta.len()
        }
    };
    Ok(LocalLog {
        identity: identity(&meta),
        file,
        durable,
        fetched: if fetching { live.durable_len } else { 0 },
    })
}

/// Cuts off the zeros that a crash has left behind the records of own logs, from the replay position on: they are no history, and an
/// own log without any record must not look like a branch. True when something was cut.
pub fn cut_own_tails(
    env: &HostEnv,
    tree: &Tree,
    snap: &Snapshot,
    res: &ResName,
) -> io::Result<bool> {
    let from = snap.replay(res, &env.host).map_or(0, |r| r.log.nr);
    let mut cut = false;
    for (log, meta) in snap.logs(res) {
        if log.host != env.host || log.nr < from || meta.size == 0 {
            continue;
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(tree.path(&Key::Log(res.clone(), log.clone())))?;
        cut |= cut_if_left(&file, promised(snap, res, &log))? < meta.size;
    }
    Ok(cut)
}

/// How much of an own log is known to be valid: what was durable when it was told, or when the disk was touched.
fn promised(snap: &Snapshot, res: &ResName, log: &LogName) -> u64 {
    let applied = snap
        .replay(res, &log.host)
        .filter(|r| r.log == *log)
        .map_or(0, |r| r.pos.saturating_add(r.dirty));
    creator_len(snap, res, log, &log.host)
        .unwrap_or(0)
        .max(applied)
}

/// The length at which a log ends, once a successor is known: as its creator's own version link says, or more when the creator of the
/// successor has got more of it than the former had published when it died.
pub fn final_len(snap: &Snapshot, res: &ResName, log: &LogName) -> Option<u64> {
    let next = log.nr.checked_add(1)?;
    let mut by_successor = None;
    for (nr, owner, link) in snap.versions(res) {
        if nr == next
            && link.head.log.host == owner
            && let Some(pred) = link.pred.filter(|p| p.log == *log)
        {
            by_successor = by_successor.max(Some(pred.len));
        }
    }
    let by_creator = creator_len(snap, res, log, &log.host);
    by_successor.map(|len| by_creator.map_or(len, |c| c.max(len)))
}

/// The length that this host published of a log.
pub fn creator_len(snap: &Snapshot, res: &ResName, log: &LogName, host: &HostName) -> Option<u64> {
    snap.version(res, log.nr, host)
        .filter(|v| v.head.log == *log)
        .map(|v| v.head.len)
}
