//! What most macros need: the scope with its resource, and typed facts in the units of macro-language.md section 5.
use crate::{MacroError, Scope};
use mars_policy::{Progress, View, percent, permille, progress, sync_progress};
use mars_tree::{HostName, Key, ResName, TodoSwitch};
use std::cell::OnceCell;

/// What is computed once for a resource, seen from one host at one moment: one view asks for it again and again.
#[derive(Default)]
pub(crate) struct Memo {
    progress: OnceCell<Progress>,
    sync: OnceCell<Option<Span>>,
}

/// A scope whose resource is known.
#[derive(Clone, Copy)]
pub(crate) struct Ctx<'a> {
    pub scope: &'a Scope<'a>,
    memo: &'a Memo,
    pub v: View<'a>,
    pub res: &'a ResName,
}

/// The four lines of work that have a position, a size and a rate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Job {
    Sync,
    Fetch,
    Replay,
    Work,
}

/// Position and size in bytes; both 0 when unknown.
#[derive(Clone, Copy, Default)]
pub(crate) struct Span {
    pub pos: u64,
    pub size: u64,
}

impl Span {
    pub fn rest(self) -> u64 {
        self.size.saturating_sub(self.pos)
    }
    pub fn percent(self) -> f64 {
        percent(self.pos, self.size)
    }
    pub fn permille(self) -> f64 {
        permille(self.pos, self.size)
    }
}

#[allow(clippy::cast_precision_loss)]
pub(crate) fn float(n: u64) -> f64 {
    n as f64
}

impl<'a> Ctx<'a> {
    /// `memo` belongs to this resource and host.
    pub fn new(name: &str, scope: &'a Scope<'a>, memo: &'a Memo) -> Result<Ctx<'a>, MacroError> {
        let res = scope
            .res
            .ok_or_else(|| MacroError::NeedsResource(name.to_string()))?;
        Ok(Ctx {
            scope,
            memo,
            v: scope.view,
            res,
        })
    }
    pub fn memo(&self) -> &'a Memo {
        self.memo
    }
    pub fn me(&self) -> &'a HostName {
        self.v.me
    }
    /// Text of `resource-RES/actual-HOST/NAME`; `None` also when it is damaged.
    pub fn actual_text(&self, host: &HostName, name: &str) -> Option<&'a str> {
        let key = Key::Actual(self.res.clone(), host.clone(), name.to_string());
        self.v.snap.sound_text(&key)
    }
    pub fn actual(&self, host: &HostName, name: &str) -> Option<i64> {
        self.v.snap.actual(self.res, host, name)
    }
    pub fn switch(&self, host: &HostName, switch: TodoSwitch) -> bool {
        self.v.switch(self.res, host, switch)
    }
    pub fn disk_path(&self, host: &HostName) -> Option<&'a str> {
        let key = Key::Data(self.res.clone(), host.clone());
        self.v.snap.sound_text(&key)
    }
    /// Is the configured disk usable? Of foreign hosts nothing is known: assumed.
    pub fn disk_present(&self, host: &HostName) -> bool {
        self.disk_path(host).is_some_and(|path| {
            host != self.v.local || self.scope.machine.disks_present.iter().any(|p| p == path)
        })
    }
    pub fn device_present(&self, host: &HostName) -> bool {
        self.v.actual_on(self.res, host, "if-on")
    }
    /// `/dev/mars/NAME`.
    pub fn device_path(&self, host: &HostName) -> String {
        let key = Key::Device(self.res.clone(), host.clone());
        let name = self.v.snap.sound_text(&key).unwrap_or(self.res.as_str());
        let dir = match self.scope.machine.dev_dir.as_str() {
            "" => "/dev/mars",
            dir => dir,
        };
        format!("{dir}/{name}")
    }
    pub fn progress(&self) -> Progress {
        *self
            .memo
            .progress
            .get_or_init(|| progress(&self.v, self.res, self.me()))
    }
    /// `None` when position or size is unknown.
    pub fn sync(&self) -> Option<Span> {
        let sync = || {
            let s = sync_progress(&self.v, self.res, self.me())?;
            Some(Span {
                pos: s.pos,
                size: s.size,
            })
        };
        *self.memo.sync.get_or_init(sync)
    }
    pub fn span(&self, job: Job) -> Span {
        if job == Job::Sync {
            return self.sync().unwrap_or_default();
        }
        let p = self.progress();
        let (pos, size) = match job {
            Job::Fetch => (p.fetch_pos, p.fetch_size),
            Job::Replay => (p.replay_pos, p.fetch_pos),
            _ => (p.replay_pos, p.fetch_size),
        };
        Span { pos, size }
    }
    /// Bytes per second; the links hold KiB per second.
    pub fn rate(&self, job: Job) -> u64 {
        let one = |new: &str, old: &str| {
            let kib = self
                .actual(self.me(), new)
                .or_else(|| self.actual(self.me(), old))
                .unwrap_or(0);
            u64::try_from(kib).unwrap_or(0).saturating_mul(1024)
        };
        let fetch = || one("amount-file_rate", "file_rate");
        let replay = || one("amount-replay_rate", "replay_rate");
        match job {
            Job::Sync => one("amount-sync_rate", "sync_rate"),
            Job::Fetch => fetch(),
            Job::Replay => replay(),
            Job::Work => fetch().max(replay()),
        }
    }
    /// Seconds until done: 0 when nothing is left, -1 when unknown (rate 0).
    pub fn remain(&self, job: Job) -> f64 {
        if job == Job::Work {
            let (f, r) = (self.remain(Job::Fetch), self.remain(Job::Replay));
            return if f < 0.0 || r < 0.0 { -1.0 } else { f + r };
        }
        let rest = self.span(job).rest();
        match (rest, self.rate(job)) {
            (0, _) => 0.0,
            (_, 0) => -1.0,
            (rest, rate) => float(rest) / float(rate),
        }
    }
    /// Lamport seconds of the last visible progress; `None` when unknown.
    pub fn timestamp(&self, job: Job, host: &HostName) -> Option<u64> {
        let snap = self.v.snap;
        let replay = || {
            // A damaged position is no progress.
            snap.replay(self.res, host)?;
            snap.stamp(&Key::Replay(self.res.clone(), host.clone()))
                .map(|s| s.secs())
        };
        let fetch = || {
            let versions = snap.versions(self.res);
            let (nr, owner, _) = versions.iter().rev().find(|(_, o, _)| o == host)?;
            let key = Key::Version(self.res.clone(), *nr, owner.clone());
            snap.stamp(&key).map(|s| s.secs())
        };
        match job {
            Job::Fetch => fetch(),
            Job::Replay => replay(),
            Job::Work => fetch().max(replay()),
            Job::Sync => None,
        }
    }
    /// Whole seconds since [`Ctx::timestamp`].
    pub fn age(&self, job: Job, host: &HostName) -> Option<u64> {
        Some(self.v.now.secs().saturating_sub(self.timestamp(job, host)?))
    }
    pub fn lag(&self, job: Job, host: &HostName, primary: &HostName) -> Option<u64> {
        let theirs = self.timestamp(job, primary)?;
        Some(self.timestamp(job, host)?.saturating_sub(theirs))
    }
    /// Seconds since the last heartbeat.
    pub fn alive_age(&self, host: &HostName) -> Option<u64> {
        let beat = self.v.heartbeat(host)?;
        Some(self.v.now.since(beat).as_secs())
    }
    pub fn size_of_disk(&self, host: &HostName) -> Option<u64> {
        let key = Key::ActSize(self.res.clone(), host.clone());
        self.v.snap.number(&key)
    }
    /// Hosts with a disk.
    pub fn disk_members(&self) -> Vec<HostName> {
        let mut m = self.v.snap.members(self.res);
        m.retain(|h| self.v.has_disk(self.res, h));
        m
    }
    /// Smallest disk of all members; `None` while any is unknown.
    pub fn possible_size(&self) -> Option<u64> {
        let sizes = self.disk_members();
        let sizes: Option<Vec<u64>> = sizes.iter().map(|h| self.size_of_disk(h)).collect();
        sizes?.into_iter().min()
    }
}
