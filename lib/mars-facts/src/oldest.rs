//! How old the first write is that a member has not applied: its record stands in a log file, mostly one of this host.
use mars_log::{Scan, ScanLimits, Scanner};
use mars_macro::OldestUnapplied;
use mars_policy::{View, progress};
use mars_tree::{Key, LogName, ReplayPos, ResName, Stamp};
use std::fs::OpenOptions;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;

/// No record is longer (transaction-log format: 15 bits).
const RECORD_MAX: usize = 32 << 10;

/// For every member with work left whose next record is in a log file of this host: one short read each.
pub fn oldest_unapplied(root: &Path, v: &View<'_>, resources: &[ResName]) -> Vec<OldestUnapplied> {
    let mut found = Vec::new();
    for res in resources {
        for host in v.snap.members(res) {
            let Some(link) = v.snap.replay(res, &host) else {
                continue;
            };
            if v.is_actual_primary(res, &host) || progress(v, res, &host).work_rest() == 0 {
                continue;
            }
            if let Some(stamp) = next_stamp(root, v, res, &link) {
                found.push(OldestUnapplied {
                    res: res.clone(),
                    host: host.clone(),
                    stamp,
                });
            }
        }
    }
    found
}

/// The record at the position, or, where the log ends there, the first one of the following log.
fn next_stamp(root: &Path, v: &View<'_>, res: &ResName, link: &ReplayPos) -> Option<Stamp> {
    if let Some(stamp) = stamp_at(root, v, res, &link.log, link.pos) {
        return Some(stamp);
    }
    // Only where the log is known to end here.
    let members = v.snap.members(res);
    let links = members
        .iter()
        .filter_map(|host| v.snap.version(res, link.log.nr, host));
    let len = links.filter(|l| l.head.log == link.log).map(|l| l.head.len);
    if len.max()? > link.pos {
        return None;
    }
    let next = link.log.nr.checked_add(1)?;
    let mut logs = v.snap.logs(res).into_iter().filter(|(l, _)| l.nr == next);
    let (log, _) = logs.next()?;
    stamp_at(root, v, res, &log, 0)
}

fn stamp_at(root: &Path, v: &View<'_>, res: &ResName, log: &LogName, pos: u64) -> Option<Stamp> {
    let path = Key::Log(res.clone(), log.clone()).path();
    let size = v.snap.files.get(&path)?.size;
    let len = usize::try_from(size.checked_sub(pos)?)
        .unwrap_or(RECORD_MAX)
        .min(RECORD_MAX);
    // Never a FIFO or a link that somebody has put there.
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(root.join(path))
        .ok()?;
    if !file.metadata().ok()?.is_file() {
        return None;
    }
    let mut buf = vec![0u8; len];
    let n = file.read_at(&mut buf, pos).ok()?;
    let limits = ScanLimits { device_size: None };
    let mut scanner = if pos == 0 {
        Scanner::new_file(limits)
    } else {
        Scanner::new(limits)
    };
    match scanner.next(buf.get(..n)?) {
        Scan::Record(r) => Some(r.stamp),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use mars_log::{EncodeOptions, encode_write};
    use mars_policy::fixtures::NOW;
    use mars_tree::{FileMeta, HostName, Snapshot};
    use std::time::Duration;

    fn record(at: u64, seq: u32) -> Vec<u8> {
        let mut out = Vec::new();
        let stamp = Stamp::from_nanos(at * 1_000_000_000);
        assert!(
            encode_write(
                &mut out,
                0,
                &[7; 512],
                stamp,
                seq,
                &EncodeOptions::default()
            ) > 0
        );
        out
    }

    /// Two records in log 1, one in log 2; `replay` is the position of member `b`.
    fn found(replay: &str, cut: bool) -> Option<u64> {
        let dir = tempfile::tempdir().unwrap();
        let mut one = record(100, 1);
        let len = one.len();
        one.extend(record(200, 2));
        let mut two = record(300, 1);
        two.truncate(if cut { 40 } else { two.len() });
        std::fs::create_dir(dir.path().join("resource-r")).unwrap();
        let mut snap = Snapshot::default();
        let replay = replay.replace("LEN2", &(2 * len).to_string());
        let zeros = "0".repeat(32);
        for (key, value) in [
            ("data-a", "/dev/x".to_string()),
            ("data-b", "/dev/x".into()),
            ("primary", "a".into()),
            ("actual-a/is-primary", "1".into()),
            ("replay-a", "log-000000002-a,0,0".into()),
            ("replay-b", replay.replace("LEN", &len.to_string())),
            (
                "version-000000001-a",
                format!("{zeros},log-000000001-a,{}:", one.len()),
            ),
            (
                "version-000000002-a",
                format!("{zeros},log-000000002-a,{}:", two.len()),
            ),
        ] {
            snap.insert(&Key::parse(&format!("resource-r/{key}")), &value, NOW);
        }
        for (nr, bytes) in [(1, &one), (2, &two)] {
            let path = format!("resource-r/log-{nr:09}-a");
            std::fs::write(dir.path().join(&path), bytes).unwrap();
            let size = bytes.len() as u64;
            snap.files.insert(path, FileMeta { size, mtime: NOW });
        }
        let me: HostName = "a".parse().unwrap();
        let v = View {
            snap: &snap,
            me: &me,
            local: &me,
            now: NOW,
            window: Duration::from_secs(60),
            engine_running: true,
        };
        let all = oldest_unapplied(dir.path(), &v, &["r".parse().unwrap()]);
        assert!(all.iter().all(|o| o.host.as_str() == "b"), "{all:?}");
        all.first().map(|o| o.stamp.secs())
    }

    #[test]
    fn first_record_behind_the_position() {
        assert_eq!(found("log-000000001-a,0,0", false), Some(100));
        assert_eq!(found("log-000000001-a,LEN,0", false), Some(200));
        // At the end of a log the next one begins.
        assert_eq!(found("log-000000001-a,LEN2,0", false), Some(300));
    }

    #[test]
    fn no_guess_where_no_record_is() {
        // In the middle of a record, behind the end, in a log that is not here, of a record that is cut.
        for replay in ["log-000000001-a,9,0", "log-000000001-c,0,0"] {
            assert_eq!(found(replay, false), None, "{replay}");
        }
        assert_eq!(found("log-000000001-a,LEN2,0", true), None);
    }
}
