//! The local copy of a log: how much of it may be applied.
use mars_live::{FetchLive, LivePage};
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
) -> io::Result<LocalLog> {
    let file = OpenOptions::new()
        .read(true)
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
        meta.len()
    };
    Ok(LocalLog {
        identity: identity(&meta),
        file,
        durable,
    })
}

/// The length at which a log ends, once a successor is known: as its creator's own version link says, else as the creator of the
/// successor says.
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
    by_successor.map(|len| by_creator.unwrap_or(len))
}

fn creator_len(snap: &Snapshot, res: &ResName, log: &LogName, host: &HostName) -> Option<u64> {
    snap.version(res, log.nr, host)
        .filter(|v| v.head.log == *log)
        .map(|v| v.head.len)
}
