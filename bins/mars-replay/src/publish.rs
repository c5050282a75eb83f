//! What replay publishes: position, version link, state. Pure batches; the loop commits them.
use mars_disk::ApplyEnd;
use mars_log::{StopCode, next_version};
use mars_tree::{Batch, HostName, Key, LogName, ReplayPos, ResName, VersionLink};

/// Detail code of a record that is cut (transaction-log.md 2.3).
const DETAIL_BADLEN: u16 = 10006;
/// errno of an incomplete log (2.5).
const ERESTART: i32 = 85;

/// Position and version link of one log on this host.
#[derive(Clone, Debug)]
pub struct Position {
    /// Resource.
    pub res: ResName,
    /// This host.
    pub me: HostName,
    /// The log.
    pub log: LogName,
    /// Own version link of the number before.
    pub prev: Option<VersionLink>,
    /// End of the region that may be partly applied, from windows of earlier runs too: a run that was killed may have written
    /// behind what the next one promises first.
    pub promised: u64,
}

impl Position {
    /// Before the disk is touched with anything up to `end`.
    pub fn before_write(&mut self, start: u64, end: u64) -> Batch {
        self.promised = self.promised.max(end);
        self.batch(start)
    }
    /// Everything up to `end` is on the disk.
    pub fn flushed(&self, end: u64) -> Batch {
        self.batch(end)
    }
    fn batch(&self, pos: u64) -> Batch {
        let mut b = Batch::new();
        let end = self.promised.max(pos);
        let version = next_version(&self.log, end, self.prev.as_ref());
        // The version link first: the position must never be behind what the link says was replayed.
        b.set_if_changed(
            Key::Version(self.res.clone(), self.log.nr, self.me.clone()),
            version,
        );
        let at = ReplayPos {
            log: self.log.clone(),
            pos,
            dirty: end - pos,
        };
        b.set_if_changed(Key::Replay(self.res.clone(), self.me.clone()), at);
        b
    }
}

/// Going on to the next log.
pub fn switch(res: &ResName, me: &HostName, new: &LogName, own_old: Option<&VersionLink>) -> Batch {
    let mut b = Batch::new();
    b.set(
        Key::Version(res.clone(), new.nr, me.clone()),
        next_version(new, 0, own_old),
    );
    b.set(
        Key::Replay(res.clone(), me.clone()),
        ReplayPos {
            log: new.clone(),
            pos: 0,
            dirty: 0,
        },
    );
    b
}

/// `CODE[,DETAIL[,0xBB]]` (transaction-log.md 2.5).
pub fn code_text(c: &StopCode) -> String {
    let mut out = format!("{}", -c.errno.abs());
    if let Some(d) = c.detail {
        out.push_str(&format!(",-{}", d.0));
        if let Some(b) = c.repeated {
            out.push_str(&format!(",0x{b:02x}"));
        }
    }
    out
}

/// The code of a log that is shorter than it should be.
pub fn incomplete() -> String {
    format!("-{ERESTART},-{DETAIL_BADLEN}")
}

/// What a run says about the log: `Some(code)` when its local copy is damaged at the reached position. `is_whole`: the run went up to a
/// place where a record ends, as the writer says. A cut record elsewhere in a log that still grows is no damage.
pub fn damage(end: &ApplyEnd, is_whole: bool) -> Option<String> {
    match end {
        ApplyEnd::Stop { code, .. } => Some(code_text(code)),
        ApplyEnd::Incomplete { .. } if is_whole => Some(incomplete()),
        ApplyEnd::Incomplete { .. } | ApplyEnd::Limit | ApplyEnd::Asked => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;
    use mars_log::Detail;

    #[test]
    fn codes_have_the_form_of_the_spec() {
        let c = |errno, detail: Option<u16>, repeated| StopCode {
            errno,
            detail: detail.map(Detail),
            repeated,
        };
        assert_eq!(code_text(&c(-74, Some(10101), None)), "-74,-10101");
        assert_eq!(code_text(&c(-85, None, None)), "-85");
        assert_eq!(
            code_text(&c(-74, Some(10021), Some(0x5a))),
            "-74,-10021,0x5a"
        );
    }

    #[test]
    fn cut_record_is_damage_only_at_the_final_length() {
        let e = ApplyEnd::Incomplete { rest: 7 };
        assert_eq!(damage(&e, false), None);
        assert_eq!(damage(&e, true).as_deref(), Some("-85,-10006"));
        assert_eq!(damage(&ApplyEnd::Limit, true), None);
    }

    #[test]
    fn promise_of_a_killed_run_is_kept() {
        let mut p = Position {
            res: "r".parse().unwrap(),
            me: "b".parse().unwrap(),
            log: "log-000000001-a".parse().unwrap(),
            prev: None,
            promised: 5000,
        };
        let lines = |b: Batch| b.describe().join("\n");
        let first = lines(p.before_write(1000, 3000));
        assert!(first.contains("log-000000001-a,1000,4000"), "{first}");
        assert!(lines(p.flushed(3000)).contains("log-000000001-a,3000,2000"));
        assert!(lines(p.before_write(3000, 9000)).contains("log-000000001-a,3000,6000"));
        assert!(lines(p.flushed(9000)).contains("log-000000001-a,9000,0"));
    }

    #[test]
    fn worked_example_of_the_spec() {
        // symlink-tree.md 4.3: log 2 half replayed.
        let v1: VersionLink = "eae75bd0648f4b9f8ece4a07b4c47429,log-000000001-hostA,1048576:"
            .parse()
            .unwrap();
        let mut p = Position {
            res: "r".parse().unwrap(),
            me: "hostB".parse().unwrap(),
            log: "log-000000002-hostA".parse().unwrap(),
            prev: Some(v1),
            promised: 0,
        };
        let text = p.before_write(0, 262_144).describe().join("\n");
        assert!(
            text.contains("49509b87349b6aff4c417dfbf01d5891,log-000000002-hostA,262144:eae75bd0648f4b9f8ece4a07b4c47429,log-000000001-hostA,1048576"),
            "{text}"
        );
    }
}
