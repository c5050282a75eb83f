//! Which changes of the tree concern the fetch.
use mars_tree::ResName;

/// Can a change of this path change what is to be fetched? Heartbeats, rates and own progress cannot.
pub fn is_relevant(path: &str, res: &ResName, me: &str) -> bool {
    if path.starts_with("ips/") || path == "uuid" || path == format!("actual-{me}/emergency") {
        return true;
    }
    let Some(name) = path.strip_prefix(&format!("resource-{res}/")) else {
        return false;
    };
    match name.split_once('/') {
        None => {
            name.starts_with("log-")
                || name.starts_with("version-")
                || name == "primary"
                || name == format!("replay-{me}")
                || ["data-", "device-", "connect-", "syncstatus-"]
                    .iter()
                    .any(|p| name.starts_with(p))
        }
        Some((dir, leaf)) => {
            (dir == format!("todo-{me}"))
                || (dir == format!("actual-{me}") && matches!(leaf, "replay-code" | "is-primary"))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn only_what_matters_wakes() {
        let res: ResName = "lv0".parse().unwrap();
        for (path, yes) in [
            ("resource-lv0/primary", true),
            ("resource-lv0/todo-b/connect", true),
            ("resource-lv0/todo-a/connect", false),
            ("resource-lv0/version-000000002-a", true),
            ("resource-lv0/log-000000002-a", true),
            ("resource-lv0/replay-b", true),
            ("resource-lv0/replay-a", false),
            ("resource-lv0/actual-b/replay-code", true),
            ("resource-lv0/actual-b/ops-file_rate", false),
            ("resource-lv1/primary", false),
            ("actual-a/time", false),
            ("ips/ip-a", true),
        ] {
            assert_eq!(is_relevant(path, &res, "b"), yes, "{path}");
        }
    }
}
