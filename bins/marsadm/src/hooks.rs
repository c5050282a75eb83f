//! Hooks of the administrator (marsadm-commands.md 1.3): programs in the directories of `MARS_PATH` that run before and after a command.
//!
//! They run as root, and the search path begins with the current directory. So only files are run that nobody but root (or the caller)
//! can have put there.
use crate::cmd::macros::search_path;
use crate::cmd::{Command, Run};
use crate::ctx::Ctx;
use crate::error::{Done, refuse};
use crate::{exec, out};
use std::collections::BTreeSet;
use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command as Process;
use std::time::Duration;

/// A hook that runs longer is killed, and has failed.
const LIMIT: Duration = Duration::from_secs(600);

/// Commands that only look, and those that daemons run at every change: no hooks.
const WITHOUT: [&str; 12] = [
    "role",
    "state",
    "show",
    "mars-",
    "get-",
    "dump-",
    "cat",
    "lowlevel-ls",
    "systemd-trigger",
    "merge-cluster-list",
    "merge-cluster-check",
    "status",
];

/// When hooks run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum When {
    /// Before the command (for each resource).
    Pre,
    /// After it, whether or not it succeeded.
    Post,
    /// Before a command for several resources.
    AllPre,
    /// After it.
    AllPost,
}

impl When {
    fn word(self) -> &'static str {
        match self {
            When::Pre => "pre",
            When::Post => "post",
            When::AllPre => "all-pre",
            When::AllPost => "all-post",
        }
    }
}

/// Has this command hooks at all?
fn has_hooks(c: &Command) -> bool {
    !matches!(c.run, Run::Ignored(_) | Run::Refused(_) | Run::Builtin)
        && !WITHOUT.iter().any(|w| c.name.starts_with(w))
}

/// Why a file or directory is not to be trusted.
fn distrust(meta: &Metadata, euid: u32) -> Option<String> {
    if meta.uid() != 0 && meta.uid() != euid {
        return Some(format!("belongs to user {}", meta.uid()));
    }
    (meta.mode() & 0o022 != 0)
        .then(|| format!("has mode {:o}, others may write", meta.mode() & 0o7777))
}

/// Checks a hook with its directory; `None` when it may be run.
fn refused(path: &Path, euid: u32) -> Option<String> {
    let Ok(meta) = std::fs::metadata(path) else {
        return Some("cannot be looked at".into());
    };
    if !meta.is_file() || meta.mode() & 0o111 == 0 {
        return Some("is no executable file".into());
    }
    if let Some(why) = distrust(&meta, euid) {
        return Some(why);
    }
    // Of a link, the place where the file really is counts as well.
    let real = std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    [path, &real]
        .into_iter()
        .filter_map(Path::parent)
        .map(|d| {
            if d.as_os_str().is_empty() {
                Path::new(".")
            } else {
                d
            }
        })
        .find_map(|d| match std::fs::metadata(d) {
            Ok(m) => distrust(&m, euid).map(|why| format!("is in {}, which {why}", d.display())),
            Err(e) => Some(format!("is in {}: {e}", d.display())),
        })
}

/// Hooks in the order in which they run: `hook-WHEN-CMD`, its directory, `hook-WHEN`, its directory; for each directory of the path.
fn find(dirs: &[PathBuf], when: When, command: &str) -> Vec<PathBuf> {
    let mut seen = BTreeSet::new();
    let mut found = Vec::new();
    for dir in dirs {
        // The same directory may stand in the path twice.
        let Ok(real) = std::fs::canonicalize(dir) else {
            continue;
        };
        if !seen.insert(real) {
            continue;
        }
        for stem in [
            format!("hook-{}-{command}", when.word()),
            format!("hook-{}", when.word()),
        ] {
            let file = dir.join(&stem);
            if file.symlink_metadata().is_ok() {
                found.push(file);
            }
            let mut inside: Vec<PathBuf> = std::fs::read_dir(dir.join(format!("{stem}.d")))
                .map(|entries| entries.flatten().map(|e| e.path()).collect())
                .unwrap_or_default();
            inside.retain(|p| {
                p.file_name()
                    .is_some_and(|n| !n.as_encoded_bytes().starts_with(b"."))
            });
            inside.sort();
            found.append(&mut inside);
        }
    }
    found
}

/// Runs the hooks of a command. `Err`: one of them failed.
fn run(ctx: &Ctx, c: &Command, when: When, words: &[String], status: Option<u8>) -> Done {
    if !has_hooks(c) {
        return Ok(());
    }
    let euid = nix::unistd::geteuid().as_raw();
    for hook in find(&search_path(), when, c.name) {
        let shown = hook.display();
        if let Some(why) = refused(&hook, euid) {
            out::warn(format!("hook {shown} {why}; it is not run"));
            continue;
        }
        if ctx.opts.dry_run {
            out::say(format!("would run {shown} {} {}", c.name, words.join(" ")));
            continue;
        }
        let mut process = Process::new(std::path::absolute(&hook).unwrap_or(hook.clone()));
        process.arg(c.name).args(words);
        process.env("MARS_HOOK", when.word());
        process.env("MARS_HOOK_HOST", ctx.me.as_str());
        process.env("MARS_HOOK_FORCE", u8::from(ctx.opts.force).to_string());
        if let Some(status) = status {
            process.env("MARS_HOOK_STATUS", status.to_string());
        }
        let ended = exec::run(&mut process, LIMIT);
        if let Ok(e) = &ended {
            e.text.lines().for_each(out::say);
        }
        match ended {
            Ok(e) if e.status.is_some_and(|s| s.success()) => {}
            Ok(e) => {
                let how = e
                    .status
                    .map_or(format!("killed after {} s", LIMIT.as_secs()), |s| {
                        s.to_string()
                    });
                return refuse(format!("hook {shown} failed ({how})"));
            }
            Err(e) => return refuse(format!("hook {shown} cannot be run: {e}")),
        }
    }
    Ok(())
}

/// Hooks before; a failing one is a refusal, with `--force` only a warning.
pub fn before(ctx: &Ctx, c: &Command, when: When, words: &[String]) -> Done {
    match run(ctx, c, when, words, None) {
        Err(e) if ctx.opts.force => {
            out::warn(format!("{e}; going on because of --force"));
            Ok(())
        }
        Err(e) => refuse(format!(
            "{e}; nothing was done (--force goes on all the same)"
        )),
        Ok(()) => Ok(()),
    }
}

/// Hooks after; they cannot change the outcome.
pub fn after(ctx: &Ctx, c: &Command, when: When, words: &[String], status: u8) {
    if let Err(e) = run(ctx, c, when, words, Some(status)) {
        out::warn(e.to_string());
    }
}
