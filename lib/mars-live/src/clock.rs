//! The Lamport register of a host, shared by all its processes through a mapped file.
use crate::Stamp;
use crate::map::Words;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// "MARSCLK" and the version of the layout.
const MAGIC: u64 = u64::from_ne_bytes(*b"MARSCLK\x01");
/// One page: word 0 magic, 1 length, then each on its own cache line the register and the primed flag.
const WORDS: usize = 512;
const REGISTER: usize = 8;
const PRIMED: usize = 16;

/// Stamps this far ahead of the wall clock are illegal.
const FUTURE_LIMIT: Duration = Duration::from_secs(30 * 24 * 3600);

/// The Lamport clock of one host (symlink-tree.md section 2). Cheap to clone; all clones and all processes that
/// opened the same run directory share one register, so stamps issued by [`Clock::tick`] never repeat on a host.
#[derive(Clone)]
pub struct Clock {
    words: Arc<Words>,
    skew: i64,
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Clock")
            .field("register", &self.register().load(Ordering::Relaxed))
            .field("skew", &self.skew)
            .finish()
    }
}

impl Clock {
    /// Maps `RUN_DIR/clock`, creating file and directory when absent. A file of another layout is replaced.
    pub fn open(run_dir: &Path) -> io::Result<Clock> {
        Ok(Clock {
            words: Arc::new(Words::open(run_dir, "clock", MAGIC, WORDS)?),
            skew: 0,
        })
    }
    /// A private register, for tests and for readers without write permission.
    pub fn private() -> Clock {
        Clock {
            words: Arc::new(Words::private(WORDS)),
            skew: 0,
        }
    }
    /// The same register seen with a wall clock that is wrong by `offset_nanos` (tests of clock skew).
    pub fn with_skew(self, offset_nanos: i64) -> Clock {
        Clock {
            skew: offset_nanos,
            ..self
        }
    }
    /// True once somebody called [`Clock::mark_primed`] since the register was created: the tree has been scanned.
    pub fn is_primed(&self) -> bool {
        self.words.get()[PRIMED].load(Ordering::Acquire) != 0
    }
    /// Says that the register has seen all stamps of the tree.
    pub fn mark_primed(&self) {
        self.words.get()[PRIMED].store(1, Ordering::Release);
    }
    /// max(wall clock, register). Changes nothing.
    pub fn now(&self) -> Stamp {
        self.wall()
            .max(Stamp::from_nanos(self.register().load(Ordering::Acquire)))
    }
    /// Issues a stamp that is larger than every stamp issued before on this host, than `after`, and not behind the wall
    /// clock. An illegal `after` (see [`Clock::guard`]) is ignored: it must not carry the whole cluster into the future.
    pub fn tick(&self, after: Stamp) -> Stamp {
        let after = self.guard(after).unwrap_or_default();
        let register = self.register();
        let mut last = register.load(Ordering::Acquire);
        loop {
            let next = self.wall().as_nanos().max(last.max(after.as_nanos()) + 1);
            match register.compare_exchange_weak(last, next, Ordering::AcqRel, Ordering::Acquire) {
                Ok(_) => return Stamp::from_nanos(next),
                Err(now) => last = now,
            }
        }
    }
    /// A stamp was seen: the register is at least `t` afterwards. Illegal future stamps (see [`Clock::guard`]) are ignored.
    pub fn observe(&self, t: Stamp) {
        if self.guard(t).is_ok() {
            self.register().fetch_max(t.as_nanos(), Ordering::AcqRel);
        }
    }
    /// `Ok(t)` for a legal stamp; `Err(replacement)` when `t` is 30 days or more ahead of the wall clock (symlink-tree.md section 2).
    /// What the register itself has reached is always legal: it was issued or accepted here, even if the wall clock was set back since.
    pub fn guard(&self, t: Stamp) -> Result<Stamp, Stamp> {
        if t < self.wall().plus(FUTURE_LIMIT)
            || t.as_nanos() <= self.register().load(Ordering::Acquire)
        {
            Ok(t)
        } else {
            Err(self.now())
        }
    }

    fn register(&self) -> &AtomicU64 {
        &self.words.get()[REGISTER]
    }
    fn wall(&self) -> Stamp {
        let real = Stamp::real_time().as_nanos();
        Stamp::from_nanos(real.saturating_add_signed(self.skew))
    }
}
