//! What administrators did goes into the journal, next to what the daemons say about the same resource.
use crate::cmd::{Command, Run};
use crate::ctx::Ctx;
use crate::error::{CmdError, Done};
use crate::{exec, out};
use mars_daemon::events;
use mars_tree::ResName;
use std::path::Path;
use std::process::Command as Process;
use std::time::Duration;

/// Commands that only look or wait, and those that daemons and timers run.
const SILENT: [&str; 13] = [
    "wait-",
    "show",
    "mars-",
    "update-cluster",
    "role",
    "state",
    "dump-",
    "lowlevel-ls-",
    "merge-cluster-check",
    "merge-cluster-list",
    "get-",
    "systemd-trigger",
    "cron",
];

/// Notes how a command ended for these resources.
pub fn command(ctx: &Ctx, c: &Command, resources: &[ResName], result: &Done) {
    let silent = matches!(c.run, Run::Ignored(_) | Run::Refused(_) | Run::Builtin)
        || SILENT.iter().any(|s| c.name.starts_with(s));
    if silent || ctx.opts.dry_run {
        return;
    }
    let names: Vec<&str> = resources.iter().map(ResName::as_str).collect();
    let mut line = format!("marsadm {}", c.name);
    if ctx.opts.force {
        line.push_str(" --force");
    }
    if !ctx.is_local() {
        line.push_str(&format!(" --host={}", ctx.me));
    }
    if !names.is_empty() {
        line.push_str(&format!(" {}", names.join(",")));
    }
    // `sudo` is how administrators come here.
    if let Ok(user) = std::env::var("SUDO_USER") {
        line.push_str(&format!(" (by {user})"));
    }
    let (outcome, refused) = match result {
        Ok(()) => ("done".to_string(), None),
        Err(e) => (e.to_string(), Some(e)),
    };
    if let (Some(CmdError::Failed(why) | CmdError::Timeout(why)), [res], "primary") =
        (refused, resources, c.name)
    {
        events::handover_refused(res, None, why);
    }
    syslog(ctx, &format!("{line}: {outcome}"));
    if ctx.opts.force || !ctx.is_local() {
        events::forced(resources, &line, &outcome);
    } else {
        events::command(resources, &line, &outcome);
    }
}

/// Where `--logger` is not given, and the line does not go to a journal.
const LOGGER: &str = "/usr/bin/logger";
/// A syslog program that hangs is not waited for.
const LOGGER_LIMIT: Duration = Duration::from_secs(5);

/// Also to syslog: by the program that was named, or by the usual one on a host without a journal.
fn syslog(ctx: &Ctx, text: &str) {
    let exists = |p: &str| Path::new(p).exists();
    let (program, named) = match ctx.opts.logger.as_deref() {
        Some("") => return,
        Some(p) => (p, true),
        None if exists("/run/systemd/journal/socket") || !exists("/dev/log") => return,
        None if !exists(LOGGER) => return,
        None => (LOGGER, false),
    };
    let ended = exec::run(
        Process::new(program).args(["-t", "marsadm", "--", text]),
        LOGGER_LIMIT,
    );
    let failed = match ended {
        Ok(e) if e.status.is_some_and(|s| s.success()) => return,
        Ok(e) => e.status.map_or("it hangs".into(), |s| s.to_string()),
        Err(e) => e.to_string(),
    };
    if named {
        out::warn(format!(
            "--logger={program}: {failed}; nothing is in syslog"
        ));
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    /// What the message catalog and the manual of the journal tell people to type exists.
    #[test]
    fn catalog_names_commands_that_exist() {
        let text = concat!(
            include_str!("../../../packaging/catalog/mars.catalog"),
            include_str!("../../../docs/journal.md")
        );
        let mut seen = 0;
        // Lines to be typed are indented; in running text a command stands behind a quote.
        let typed = text
            .split("    marsadm ")
            .chain(text.split("\"marsadm "))
            .skip(1);
        for after in typed.filter_map(|t| t.split_whitespace().next()) {
            let word = after.trim_end_matches(['"', '.', ',']);
            let is_text = !word.starts_with(|c: char| c.is_ascii_lowercase());
            if is_text || word == "view" {
                continue;
            }
            seen += 1;
            assert!(
                crate::cmd::find(word).is_some(),
                "marsadm {word} does not exist"
            );
        }
        assert!(seen > 10, "{seen}");
    }
}
