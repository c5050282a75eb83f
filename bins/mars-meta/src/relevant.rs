//! Which remote changes can make this host want other units. Pure.
use mars_tree::{HostName, Key};

/// How soon the reconciler should look.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Relevance {
    /// Changes all the time; every now and then is enough.
    Lazy,
    /// Roles, switches, membership: at once.
    Soon,
}

/// Relevance of a key for the wanted units of the resources that live here; `None` when it cannot matter. `is_local` says whether this host takes part in a
/// resource.
pub fn relevance(
    key: &Key,
    me: &HostName,
    is_local: impl Fn(&mars_tree::ResName) -> bool,
) -> Option<Relevance> {
    use Relevance::{Lazy, Soon};
    let kind = match key {
        Key::Uuid => return Some(Soon),
        Key::Ip(h) if h == me => return Some(Soon),
        Key::HostDefault(h, _) if h == me => return Some(Soon),
        Key::TodoGlobal(n) if n == "systemd-global-trigger" => return Some(Soon),
        Key::Primary(_)
        | Key::Size(_)
        | Key::Data(..)
        | Key::Device(..)
        | Key::Todo(..)
        | Key::TodoOther(..)
        | Key::Systemd(..) => Soon,
        Key::Actual(_, _, n) => match n.as_str() {
            "is-primary" | "has-emergency" | "is-emergency" | "if-on" => Soon,
            _ => return None,
        },
        Key::Replay(_, h) | Key::SyncStatus(_, h) | Key::Version(_, _, h) => {
            if h == me {
                Soon
            } else {
                Lazy
            }
        }
        _ => return None,
    };
    key.resource().filter(|r| is_local(r)).map(|_| kind)
}

/// Can this key matter at all?
pub fn is_relevant(
    key: &Key,
    me: &HostName,
    is_local: impl Fn(&mars_tree::ResName) -> bool,
) -> bool {
    relevance(key, me, is_local).is_some()
}

/// Must the reconciler look when this key was changed here? `has_stack`: somebody controls units on top of the resource's device. They
/// follow the device: it appears and vanishes, and who held it lets go.
pub fn is_relevant_here(key: &Key, me: &HostName, has_stack: bool) -> bool {
    match key {
        Key::Systemd(_, name) => name != "trigger",
        Key::Actual(_, h, name) => {
            has_stack && h == me && matches!(name.as_str(), "if-on" | "open-count")
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn of(path: &str) -> Option<Relevance> {
        let me = "alpha".parse().unwrap();
        relevance(&Key::parse(path), &me, |r| r.as_str() == "lv0")
    }

    #[test]
    fn roles_and_switches_matter_at_once() {
        for p in [
            "resource-lv0/primary",
            "resource-lv0/data-beta",
            "resource-lv0/device-alpha",
            "resource-lv0/size",
            "resource-lv0/todo-alpha/attach",
            "resource-lv0/actual-beta/is-primary",
            "uuid",
        ] {
            assert_eq!(of(p), Some(Relevance::Soon), "{p}");
        }
    }

    #[test]
    fn stacks_follow_their_units_and_the_own_device() {
        let me = "alpha".parse().unwrap();
        let here = |path: &str, stack| is_relevant_here(&Key::parse(path), &me, stack);
        for p in ["want", "start-unit", "stop-unit"] {
            assert!(here(&format!("resource-lv0/systemd-{p}"), false), "{p}");
            assert_eq!(
                of(&format!("resource-lv0/systemd-{p}")),
                Some(Relevance::Soon)
            );
        }
        for p in ["if-on", "open-count"] {
            let own = format!("resource-lv0/actual-alpha/{p}");
            assert!(here(&own, true) && !here(&own, false), "{p}");
            assert!(!here(&format!("resource-lv0/actual-beta/{p}"), true), "{p}");
        }
        for p in [
            "resource-lv0/actual-alpha/if-flying",
            "resource-lv0/userspace/systemd-status-stop-alpha",
            "resource-lv0/userspace/device-holders-alpha",
            "resource-lv0/replay-alpha",
            "resource-lv0/systemd-trigger",
        ] {
            assert!(!here(p, true), "{p}");
        }
    }

    #[test]
    fn progress_of_others_is_lazy() {
        assert_eq!(of("resource-lv0/replay-beta"), Some(Relevance::Lazy));
        assert_eq!(of("resource-lv0/replay-alpha"), Some(Relevance::Soon));
        assert_eq!(of("resource-lv0/syncstatus-beta"), Some(Relevance::Lazy));
    }

    #[test]
    fn heartbeats_rates_and_foreign_resources_do_not_matter() {
        for p in [
            "actual-beta/time",
            "actual-beta/alive",
            "resource-lv0/actual-beta/open-count",
            "resource-lv0/actual-beta/ops-if_rate",
            "resource-other/primary",
            "resource-other/todo-alpha/attach",
            "userspace/anything",
            "ips/ip-beta",
        ] {
            let me = "alpha".parse().unwrap();
            assert!(
                !is_relevant(&Key::parse(p), &me, |r| r.as_str() == "lv0"),
                "{p}"
            );
        }
    }
}
