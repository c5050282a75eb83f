//! The control loop: sleeps until something changes, publishes, decides when to rotate, resume, leave.
use crate::engine::{Engine, Status};
use crate::io::Links as _;
use crate::links::TreeLinks;
use crate::stopping::Why;
use crate::wake::Waker;
use mars_daemon::{Daemon, Stop, amount};
use mars_front::Front;
use mars_tree::{HostName, Key, LogName, ResName, Tree, TreeEvent, Watcher};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// While something happens.
const TICK: Duration = Duration::from_millis(200);
/// Links that could not be written, an emergency that may end.
const RETRY: Duration = Duration::from_secs(2);
/// Longest time between two resumptions of logging.
const RESUME_PAUSE_MAX: Duration = Duration::from_secs(600);
/// Version links and rates at most this often.
const PUBLISH: Duration = Duration::from_secs(2);
/// An idle logger wakes this often to feed the watchdog.
const IDLE: Duration = Duration::from_secs(5);

/// First pause after the device could not be taken away although no user was seen; it doubles up to `IDLE`.
const LEAVE_PAUSE: Duration = Duration::from_millis(100);

/// Shutdown: users of the device get so long to end. Services with a stop time of their own come before their mount.
const GOING_DOWN: Duration = Duration::from_secs(600);

/// Shutdown: as long as systemd may take to hear of a mount.
const UNMOUNT: Duration = Duration::from_secs(1);

/// Why the loop ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Asked to stop.
    Stop,
    /// Asked to stop, and another process follows.
    Restart,
    /// Another host is designated (or none), nobody had the device open, and it is gone.
    NotDesignated,
}

/// Everything that the loop looks at.
pub struct Control<'a> {
    /// Status and watchdog; absent in tests.
    pub daemon: Option<&'a Daemon>,
    /// Stop request.
    pub stop: &'a Stop,
    /// What the stop request means; asked once, when it has come.
    pub why: &'a dyn Fn() -> Why,
    /// Has file systems unmounted while the host goes down.
    pub unmount: &'a dyn Fn(&[PathBuf]),
    /// Tree.
    pub tree: &'a Tree,
    /// Resource.
    pub res: &'a ResName,
    /// This host.
    pub me: &'a HostName,
    /// Engine.
    pub engine: &'a Arc<Engine>,
    /// Publication.
    pub links: &'a TreeLinks,
    /// Front end: growth, users, taking the device away.
    pub front: Option<&'a mut dyn Front>,
    /// Woken by the engine and by the stop request.
    pub waker: &'a Waker,
    /// Bytes of the data disk, as it is now.
    pub disk_size: &'a dyn Fn() -> io::Result<u64>,
    /// Something changed that decides how records are written.
    pub features_changed: &'a dyn Fn(),
}

#[derive(Debug)]
struct Progress {
    busy: bool,
    accepted: u64,
    version_at: Instant,
    rates_at: Instant,
    ops: u64,
    bytes: u64,
    rates_zero: bool,
    /// KiB per second.
    kib: u64,
    /// What was told last, and with which rates.
    status: String,
    status_at: Instant,
    /// What was published; nothing yet.
    openers: Option<u64>,
    /// The front end may see other users than before.
    recount: bool,
    /// The engine has news.
    woken: bool,
    /// When to look at the engine next.
    tick_at: Instant,
    counted_at: Instant,
    /// Not to be taken away before; set while somebody uses the device whom nobody can see.
    leave_at: Option<Instant>,
    leave_pause: Duration,
    resume_at: Instant,
    /// What the stop request means, and since when it is known.
    why: Option<(Why, Instant)>,
    /// When to ask again for what is mounted to be unmounted; nobody has been asked yet.
    unmount_at: Option<Instant>,
    /// Grows while logging fails again and again: every resumption leaves another hole behind.
    resume_pause: Duration,
    /// The size that the device shows, and why it does not show more although the tree says so.
    shown: u64,
    too_small: Option<String>,
}

impl Control<'_> {
    /// Runs until there is a reason to end. The watcher must exist before the tree is first looked at, so that nothing is missed.
    pub fn run(&mut self, watcher: &mut Watcher) -> anyhow::Result<Ended> {
        let now = Instant::now();
        let mut p = Progress {
            busy: true,
            accepted: 0,
            version_at: now,
            rates_at: now,
            ops: 0,
            bytes: 0,
            rates_zero: true,
            kib: 0,
            status: String::new(),
            status_at: now,
            openers: None,
            recount: true,
            woken: true,
            tick_at: now,
            counted_at: now,
            leave_at: None,
            leave_pause: LEAVE_PAUSE,
            resume_at: now,
            resume_pause: RETRY,
            why: None,
            unmount_at: None,
            shown: mars_front::Backend::size(self.engine.as_ref()),
            too_small: None,
        };
        self.links.set_device_size(p.shown);
        let mut look = true;
        loop {
            if self.stop.is_set()
                && let Some(ended) = self.ends(&mut p)
            {
                return Ok(ended);
            }
            if std::mem::take(&mut look) {
                self.look_at_tree(&mut p)?;
            }
            self.count_openers(&mut p);
            let mut status = self.engine.status();
            if p.leave_at.is_some() {
                // Somebody in another name space: as long as the device does not go away, it is in use.
                status.openers = status.openers.max(1);
            }
            if p.openers != Some(status.openers) {
                p.openers = Some(status.openers);
                self.links
                    .set_actual(&[("open-count", saturate(status.openers))]);
            }
            if self.leave(&mut p)? {
                return Ok(if p.why.is_some() {
                    Ended::Stop
                } else {
                    Ended::NotDesignated
                });
            }
            // The links that are written here wake this loop, too: without a pause between two ticks it would chase its own events.
            let now = Instant::now();
            if std::mem::take(&mut p.woken) || now >= p.tick_at {
                let pause = self.tick(&mut p, &status);
                p.tick_at = now + pause;
            }
            let mut timeout = p.tick_at.saturating_duration_since(now);
            if let Some(at) = p.leave_at {
                timeout = timeout.min(at.saturating_duration_since(Instant::now()));
            }
            if let Some((Why::Shutdown, _)) = p.why {
                timeout = timeout.min(UNMOUNT);
            }
            look = self.sleep(watcher, timeout, &mut p)?;
            if let Some(d) = self.daemon {
                d.progress();
            }
        }
    }

    /// Whether the stop request ends the loop now.
    fn ends(&self, p: &mut Progress) -> Option<Ended> {
        let in_use = self.engine.status().openers > 0;
        let (why, since) = *p.why.get_or_insert_with(|| ((self.why)(), Instant::now()));
        match why {
            Why::Stop => Some(Ended::Stop),
            Why::Restart => Some(Ended::Restart),
            // Kept when it is in use: if nobody follows, the manager ends it.
            Why::Unknown if in_use => Some(Ended::Restart),
            Why::Unknown => Some(Ended::Stop),
            // What is mounted by hand is unmounted at the same time, and not before.
            Why::Shutdown => {
                if in_use && p.unmount_at.is_none_or(|at| at <= Instant::now()) {
                    self.unmount(p.unmount_at.is_none());
                    p.unmount_at = Some(Instant::now() + UNMOUNT);
                }
                (since.elapsed() >= GOING_DOWN).then_some(Ended::Stop)
            }
        }
    }

    /// The host goes down: nobody but systemd may have it mounted much longer.
    fn unmount(&self, first: bool) {
        let Some(front) = &self.front else { return };
        if first {
            let device = front.target().display();
            tracing::info!(
                "the host goes down, but {device} is in use: serving until it is closed"
            );
        }
        let mounts = mars_front::mount_points(front.target());
        if !mounts.is_empty() {
            (self.unmount)(&mounts);
        }
    }

    /// Asks the front end who uses the device, when that may have changed. Users in other mount name spaces go without an event, so
    /// while there are some it is asked again at leisure.
    fn count_openers(&self, p: &mut Progress) {
        let Some(front) = self.front.as_ref().filter(|f| f.changes().is_some()) else {
            return;
        };
        let stale = p.openers.unwrap_or(0) > 0 && p.counted_at.elapsed() >= IDLE;
        if std::mem::take(&mut p.recount) || stale {
            self.engine.set_front_openers(front.openers());
            p.counted_at = Instant::now();
        }
    }

    /// Leaves the role when another host (or none) is designated and nobody uses the device: true when the device is gone. A refusal by
    /// the front end changes nothing: it goes on serving.
    fn leave(&mut self, p: &mut Progress) -> anyhow::Result<bool> {
        let stays = p.why.is_none() && self.is_designated()?;
        // Whoever uses the device could not close it while writes are held.
        self.engine.allow_freeze(stays);
        if stays {
            (p.leave_at, p.leave_pause) = (None, LEAVE_PAUSE);
            return Ok(false);
        }
        if self.engine.status().openers > 0 || p.leave_at.is_some_and(|at| at > Instant::now()) {
            return Ok(false);
        }
        let Some(front) = &mut self.front else {
            return Ok(self.engine.try_leave());
        };
        let Err(e) = front.stop(false) else {
            self.engine.leave();
            return Ok(true);
        };
        if p.leave_at.is_none() {
            tracing::info!(
                "this host is to leave, but {} is in use ({e}): serving on until it is closed",
                front.target().display()
            );
        }
        p.leave_at = Some(Instant::now() + p.leave_pause);
        p.leave_pause = (p.leave_pause * 2).min(IDLE);
        p.recount = true;
        Ok(false)
    }

    /// Waits; true when something in the tree changed that matters here.
    fn sleep(
        &self,
        watcher: &mut Watcher,
        timeout: Duration,
        p: &mut Progress,
    ) -> anyhow::Result<bool> {
        // Rounded up: a pause of less than a millisecond must not become a spin.
        let millis = u16::try_from(timeout.as_micros().div_ceil(1000)).unwrap_or(u16::MAX);
        let mut fds = vec![
            PollFd::new(watcher.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.waker.as_fd(), PollFlags::POLLIN),
        ];
        if let Some(changes) = self.front.as_ref().and_then(|f| f.changes()) {
            fds.push(PollFd::new(changes, PollFlags::POLLIN));
        }
        match poll(&mut fds, PollTimeout::from(millis)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(e) => return Err(e.into()),
        }
        let ready = |i: usize| fds.get(i).and_then(PollFd::any).unwrap_or(false);
        let (tree, wake) = (ready(0), ready(1));
        p.recount |= ready(2);
        if wake {
            self.waker.drain();
            p.woken = true;
        }
        if !tree {
            return Ok(false);
        }
        Ok(match watcher.wait(Some(Duration::ZERO))? {
            TreeEvent::Timeout => false,
            TreeEvent::Rescan => {
                (self.features_changed)();
                true
            }
            TreeEvent::Changed(paths) => {
                if paths.iter().any(|p| is_about_features(p, self.me)) {
                    (self.features_changed)();
                }
                paths.iter().any(|p| self.matters(p))
            }
        })
    }

    fn matters(&self, path: &str) -> bool {
        match Key::parse(path) {
            Key::Primary(r) | Key::Size(r) => r == *self.res,
            Key::Log(r, log) => r == *self.res && log.host == *self.me,
            Key::HostActual(h, name) => {
                h == *self.me && matches!(name.as_str(), "emergency" | "rest-space" | "total-space")
            }
            key => key == self.emergency_limit(),
        }
    }

    fn emergency_limit(&self) -> Key {
        let name = "emergency-limit".to_string();
        Key::TodoOther(self.res.clone(), self.me.clone(), name)
    }

    fn is_designated(&self) -> anyhow::Result<bool> {
        let text = self.tree.text(&Key::Primary(self.res.clone()))?;
        Ok(text.as_deref() == Some(self.me.as_str()))
    }

    /// A rotation that somebody asked for, growth, space.
    fn look_at_tree(&mut self, p: &mut Progress) -> anyhow::Result<()> {
        let number = |key: Key| -> anyhow::Result<Option<u64>> {
            Ok(self.tree.text(&key)?.and_then(|t| t.parse().ok()))
        };
        let host = |name: &str| number(Key::HostActual(self.me.clone(), name.to_string()));
        let level = host("emergency")?.and_then(|l| u8::try_from(l).ok());
        let limit = number(self.emergency_limit())?;
        self.engine.set_space_level(mars_policy::space_level(
            level.unwrap_or(0),
            limit,
            host("rest-space")?,
            host("total-space")?,
        ));
        let status = self.engine.status();
        if let Ok(nr) = mars_log::numbers::next_number(status.newest.nr) {
            let next = self.own_log(nr);
            let path = self.tree.path(&Key::Log(self.res.clone(), next.clone()));
            let empty = std::fs::symlink_metadata(&path).is_ok_and(|m| m.is_file() && m.len() == 0);
            if empty {
                self.rotate(&next);
            }
        }
        self.grow(p)
    }

    /// Makes the device as large as the tree says, as far as the disk allows.
    fn grow(&mut self, p: &mut Progress) -> anyhow::Result<()> {
        let text = self.tree.text(&Key::Size(self.res.clone()))?;
        let wanted = text.and_then(|t| t.parse::<u64>().ok()).unwrap_or(0) / 512 * 512;
        if wanted <= p.shown {
            p.too_small = None;
            return Ok(());
        }
        let old = p.shown;
        let failure = match (self.disk_size)() {
            Ok(disk) => self.grow_to(p, wanted.min(disk) / 512 * 512, wanted),
            Err(e) => Some(format!("the size of the disk is unknown: {e}")),
        };
        if p.shown > old {
            tracing::info!("the device has {} bytes now, {old} before", p.shown);
            self.links.set_device_size(p.shown);
        }
        if failure != p.too_small
            && let Some(why) = &failure
        {
            tracing::warn!("the device should have {wanted} bytes: {why}");
        }
        p.too_small = failure;
        Ok(())
    }

    /// Says why it is not as large as wanted.
    fn grow_to(&mut self, p: &mut Progress, size: u64, wanted: u64) -> Option<String> {
        if size > mars_front::Backend::size(self.engine.as_ref()) {
            // After a power cut the log must not hold what lies beyond the size in the tree.
            self.links.sync();
            self.engine.set_size(size);
        }
        if size > p.shown {
            if let Some(Err(e)) = self.front.as_mut().map(|f| f.resized()) {
                return Some(format!("it cannot be enlarged: {e}"));
            }
            p.shown = size;
        }
        (size < wanted).then(|| format!("the disk has room for {size} only; enlarge it"))
    }

    fn own_log(&self, nr: u32) -> LogName {
        LogName {
            nr,
            host: self.me.clone(),
        }
    }

    fn rotate(&self, next: &LogName) {
        if let Err(e) = self.engine.rotate(next) {
            tracing::warn!("{next} cannot be opened: {e}; logging goes on in the old log");
        }
    }

    /// Publishes what is due; returns how long to sleep.
    fn tick(&mut self, p: &mut Progress, s: &Status) -> Duration {
        let now = Instant::now();
        if s.rotation_due
            && let Ok(nr) = mars_log::numbers::next_number(s.newest.nr)
        {
            self.rotate(&self.own_log(nr));
        }
        if self.links.is_pending() {
            self.links.retry();
        }
        if p.too_small.is_some()
            && let Err(e) = self.grow(p)
        {
            tracing::debug!("{e:#}");
        }
        if !s.is_emergency && now > p.resume_at + 2 * p.resume_pause {
            p.resume_pause = RETRY;
        }
        if s.is_emergency && now >= p.resume_at && self.engine.resumes_by_itself() {
            p.resume_at = now + RETRY;
            if self.engine.try_resume() {
                p.resume_at = now + p.resume_pause;
                p.resume_pause = (p.resume_pause * 2).min(RESUME_PAUSE_MAX);
            }
        }
        let moved = s.accepted != p.accepted || s.ops != p.ops;
        if moved {
            p.busy = true;
        }
        if !s.is_emergency && p.busy {
            if s.accepted == p.accepted {
                // Quiet since the last look: what was written becomes durable and known now.
                if s.is_durable {
                    self.links.version(&s.durable.log, s.durable.pos);
                    p.version_at = now;
                } else {
                    self.engine.sync_soon();
                }
            } else if now.duration_since(p.version_at) >= PUBLISH {
                self.links.version(&s.durable.log, s.durable.pos);
                p.version_at = now;
            }
        }
        self.rates(p, s, now);
        let quiet = s.accepted == p.accepted;
        p.accepted = s.accepted;
        if p.busy
            && quiet
            && !moved
            && s.is_drained
            && p.rates_zero
            && !s.rotation_due
            && self.engine.go_idle(s.accepted)
        {
            p.busy = false;
            crate::wake::trim_memory();
        }
        if let Some(d) = self.daemon {
            // What changes all the time is told as often as it is published.
            let what = what_goes_on(s);
            if p.status_at != p.rates_at || p.status != what {
                d.status(&status_text(&what, s.dirty_bytes, p.kib));
                (p.status_at, p.status) = (p.rates_at, what);
            }
        }
        if p.busy {
            TICK
        } else if s.is_emergency || self.links.is_pending() || p.too_small.is_some() {
            RETRY
        } else {
            IDLE
        }
    }

    fn rates(&self, p: &mut Progress, s: &Status, now: Instant) {
        let since = now.duration_since(p.rates_at);
        let quiet = s.ops == p.ops;
        if since < PUBLISH && !(quiet && since >= PUBLISH / 2) {
            return;
        }
        let per_second = |n: u64| (n as f64 / since.as_secs_f64()) as u64;
        let ops = per_second(s.ops.saturating_sub(p.ops));
        let kib = per_second(s.bytes.saturating_sub(p.bytes)) / 1024;
        if !(quiet && p.rates_zero) {
            self.engine.set_rates(ops, kib);
            self.engine.publish_live();
            self.links.set_actual(&[
                ("ops-if_rate", saturate(ops)),
                ("amount-if_rate", saturate(kib)),
                ("if-flying", if quiet { 0 } else { saturate(s.flying) }),
            ]);
        }
        p.rates_zero = quiet;
        p.kib = kib;
        p.rates_at = now;
        p.ops = s.ops;
        p.bytes = s.bytes;
    }
}

/// Can a change of this path change how records are written?
fn is_about_features(path: &str, me: &HostName) -> bool {
    match Key::parse(path) {
        Key::Default(_) | Key::Data(..) => true,
        Key::HostDefault(h, _) => h == *me,
        Key::HostActual(_, name) => name == "features",
        _ => false,
    }
}

fn saturate(n: u64) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}

fn status_text(what: &str, dirty: u64, kib: u64) -> String {
    let dirty = match dirty {
        0 => String::new(),
        n => format!(", {} to write back", amount::bytes(n)),
    };
    format!("{what}{dirty}{}", amount::rate(kib))
}

fn what_goes_on(s: &Status) -> String {
    let what = if s.is_emergency {
        "EMERGENCY, not logging: writing through"
    } else if s.disk_error != 0 {
        "disk error: logging, write-back waits"
    } else {
        "logging"
    };
    let frozen = if s.is_frozen {
        format!(", FROZEN, {} writes held", s.held)
    } else {
        String::new()
    };
    format!(
        "{what} in {}, {} opener{}{frozen}",
        s.durable.log,
        s.openers,
        if s.openers == 1 { "" } else { "s" }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_says_what_is_to_do_and_how_fast() {
        assert_eq!(
            status_text("logging in log-000000001-a, 1 opener", 300 << 20, 96 << 10),
            "logging in log-000000001-a, 1 opener, 300 MiB to write back, 96 MiB/s"
        );
        assert_eq!(status_text("logging", 0, 0), "logging");
    }
}
