//! Which changes of the tree concern the sync.
use mars_tree::ResName;

/// Can a change of this path change whether and from where to sync, or end the wait for the primary's word?
pub fn is_relevant(path: &str, res: &ResName, me: &str) -> bool {
    let Some(name) = path.strip_prefix(&format!("resource-{res}/")) else {
        return path.starts_with("ips/")
            || path == "uuid"
            || (path.starts_with("actual-") && path.ends_with("/alive"))
            || path == format!("actual-{me}/emergency")
            || path.starts_with(&format!("defaults-{me}/"));
    };
    match name.split_once('/') {
        None => {
            matches!(name, "primary" | "size")
                || name == format!("data-{me}")
                || name == format!("syncfrom-{me}")
                || (name.starts_with("replay-") && name != format!("replay-{me}"))
        }
        Some((dir, leaf)) => {
            dir == format!("todo-{me}") || (dir == format!("actual-{me}") && leaf == "is-primary")
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn own_progress_does_not_wake() {
        let res: ResName = "lv0".parse().unwrap();
        for (path, yes) in [
            ("resource-lv0/primary", true),
            ("resource-lv0/size", true),
            ("resource-lv0/replay-a", true),
            ("resource-lv0/replay-b", false),
            ("resource-lv0/syncstatus-b", false),
            ("resource-lv0/todo-b/sync", true),
            ("resource-lv0/actual-b/is-syncing", false),
            ("resource-lv1/primary", false),
            ("actual-a/alive", true),
            ("actual-a/time", false),
        ] {
            assert_eq!(is_relevant(path, &res, "b"), yes, "{path}");
        }
    }
}
