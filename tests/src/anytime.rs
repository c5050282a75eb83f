//! The anytime consistency checker: whatever the daemons of a host are doing, the content of its disk with its own open window finished is one prefix of what was
//! written (I3), and a later position in the log never means an earlier prefix.
use crate::Host;
use crate::load::Load;
use crate::rng::Rng;
use crate::trace::scan;
use mars_disk::{ApplyEnd, ApplyEvent, ApplyOptions, Disk, WINDOW_BYTES, apply_log};
use mars_tree::{Key, ReplayPos, ResName, Snapshot};
use nix::fcntl::{Flock, FlockArg};
use std::fs::{self, File};
use std::ops::{ControlFlow, RangeInclusive};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A prefix: the moments it can stand for, and how many bytes of its window were open.
    Prefix(RangeInclusive<u64>, u64),
    /// A sync is unfinished, or what it copied is not covered by replay yet: the disk is not called consistent, and need not be.
    Syncing,
    /// The host knows no position (it is just forgetting its history).
    NoPosition,
}

/// How the disk is made to stand still.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum How {
    /// `kill -9` of whoever writes it.
    Kill,
    /// `marsadm pause-replay` first.
    Pause,
    /// `kill -9` while replay has much to do after a pause.
    Behind,
}

/// Log number, position, the prefix found there, and where it was found.
type Finding = (u32, u64, RangeInclusive<u64>, String);

/// All prefixes found so far, by position in the log.
#[derive(Debug, Default)]
pub struct Seen(Mutex<Vec<Finding>>);

impl Seen {
    /// Remembers one; a contradiction to an earlier one is an error.
    pub fn add(
        &self,
        pos: (u32, u64),
        prefix: RangeInclusive<u64>,
        what: String,
    ) -> Result<(), String> {
        let mut all = self.0.lock().unwrap_or_else(|e| e.into_inner());
        for (nr, end, other, other_what) in all.iter() {
            let (low, low_what, high, high_what) = if (*nr, *end) <= pos {
                (other, other_what, &prefix, &what)
            } else {
                (&prefix, &what, other, other_what)
            };
            if high.end() < low.start() {
                return Err(format!(
                    "the prefix went back: {low_what} shows moments {low:?}, but {high_what} only {high:?}"
                ));
            }
        }
        all.push((pos.0, pos.1, prefix, what));
        Ok(())
    }
}

/// May the disk be called consistent, with its window finished? (macro-language.md 6.2)
fn is_consistent(snap: &Snapshot, res: &ResName, host: &Host, pos: &ReplayPos) -> bool {
    let me = &host.env.host;
    let size = snap.number(&Key::Size(res.clone()));
    let synced = snap.number(&Key::SyncStatus(res.clone(), me.clone()));
    let covered = snap
        .text(&Key::SyncPos(res.clone(), me.clone()))
        .is_none_or(|t| t.parse::<ReplayPos>().is_ok_and(|s| pos.order() >= s.end()));
    size.is_some() && synced >= size && covered
}

/// Nobody starts or stops daemons of the host while this is held.
fn no_reconciler(host: &Host) -> Flock<File> {
    let path = host.env.run_dir.join("reconcile.lock");
    let file = File::options()
        .write(true)
        .create(true)
        .truncate(false)
        .open(path)
        .expect("reconcile.lock");
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|e| e.1)
        .expect("flock")
}

/// Finishes the open window of `p` on a copy of the disk.
fn finish_window(
    host: &Host,
    res: &ResName,
    copy: &Path,
    size: u64,
    p: &ReplayPos,
) -> Result<(), String> {
    if p.dirty == 0 {
        return Ok(());
    }
    let name = &host.env.host;
    let path = host.tree().path(&Key::Log(res.clone(), p.log.clone()));
    let log = File::open(&path)
        .map_err(|e| format!("I3 {name}: {p} is open, but {}: {e}", path.display()))?;
    let file = File::options()
        .read(true)
        .write(true)
        .open(copy)
        .expect("copy");
    let disk = Disk::from_file(file, copy).expect("copy");
    let opts = ApplyOptions {
        window_bytes: WINDOW_BYTES,
        device_size: size,
    };
    let mut on = |_: ApplyEvent| Ok(ControlFlow::Continue(()));
    let end = apply_log(&disk, log, p.pos, p.pos + p.dirty, &opts, &mut on)
        .map_err(|e| format!("I3 {name}: the open window {p}: {e}"))?
        .end;
    match end {
        ApplyEnd::Limit => Ok(()),
        end => Err(format!(
            "I3 {name}: the open window {p} cannot be finished: {end:?}"
        )),
    }
}

/// Waits until the disk is being written, but not long: perhaps there is nothing to write. Random moments alone would rarely hit one.
fn wait_for_writes(disk: &Path, rng: &mut Rng) {
    let changed = || fs::metadata(disk).expect("disk").modified().expect("time");
    let (before, began) = (changed(), Instant::now());
    while changed() == before && began.elapsed() < Duration::from_millis(400) {
        std::thread::yield_now();
    }
    std::thread::sleep(Duration::from_micros(rng.below(4000)));
}

/// Checks the disk of a host now. The daemons that were killed for it are started again at the end.
pub fn inspect(
    host: &Host,
    res: &ResName,
    disk: &Path,
    load: &Load,
    seen: &Seen,
    how: How,
    rng: &mut Rng,
) -> Result<Found, String> {
    let name = &host.env.host;
    match how {
        How::Kill => {}
        How::Pause => {
            host.ok(&["pause-replay", res.as_str()]);
        }
        How::Behind => {
            host.ok(&["pause-replay", res.as_str()]);
            std::thread::sleep(Duration::from_millis(rng.within(100..1500)));
            host.ok(&["resume-replay", res.as_str()]);
        }
    }
    let lock = no_reconciler(host);
    if how == How::Behind || rng.chance(60) {
        wait_for_writes(disk, rng);
    }
    for unit in ["mars-replay", "mars-sync", "mars-logger"] {
        host.kill(&format!("{unit}@{res}.service"));
    }
    let copy = host.file(&format!("anytime-{}.img", rng.word()));
    let snap = host.tree().snapshot().expect("snapshot");
    let pos = snap.replay(res, name);
    let consistent = pos.as_ref().map(|p| is_consistent(&snap, res, host, p));
    let found = match (&pos, consistent) {
        (Some(p), Some(true)) => {
            fs::copy(disk, &copy).expect("copy");
            let size = load.with_trace(|t| t.size());
            finish_window(host, res, &copy, size, p).map(|()| Some(p.dirty))
        }
        _ => Ok(None),
    };
    drop(lock);
    if how == How::Pause {
        host.ok(&["resume-replay", res.as_str()]);
    }
    host.ok(&["systemd-trigger"]);
    let Some(open) = found? else {
        return Ok(match pos {
            Some(_) => Found::Syncing,
            None => Found::NoPosition,
        });
    };
    let file = File::open(&copy).expect("copy");
    let size = load.with_trace(|t| t.size());
    let sectors = scan(size, &mut |at, buf| file.read_exact_at(buf, at)).expect("copy");
    let prefix = load.with_trace(|t| t.prefix(&sectors));
    let p = pos.expect("position");
    // The copy stays for whoever looks into a failure only as long as the cluster does.
    let prefix = prefix.map_err(|v| format!("I3 {name} at {p} ({how:?}): {v}"))?;
    fs::remove_file(&copy).expect("copy");
    seen.add(p.end(), prefix.clone(), format!("{name} at {p}"))?;
    Ok(Found::Prefix(prefix, open))
}
