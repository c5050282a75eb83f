//! Every option with its one line of help: parsing, help, manual page and completions come from this.
use clap::{Arg, ArgAction, Command};

fn value(name: &'static str, what: &'static str, help: &'static str) -> Arg {
    Arg::new(name)
        .long(name)
        .value_name(what)
        .help(help)
        .allow_hyphen_values(true)
        .action(ArgAction::Set)
}

fn flag(name: &'static str, short: Option<char>, help: &'static str) -> Arg {
    let arg = Arg::new(name)
        .long(name)
        .help(help)
        .action(ArgAction::Count);
    match short {
        Some(c) => arg.short(c),
        None => arg,
    }
}

/// The definition from which parsing and help come.
pub fn definition() -> Command {
    Command::new("marsadm")
        .about("Controls MARS: asynchronous replication of block devices")
        .override_usage("marsadm [OPTIONS] COMMAND [RESOURCES] [ARGS]")
        .disable_help_flag(true)
        .disable_version_flag(true)
        .args_override_self(true)
        .arg(flag("help", Some('h'), "Show this text"))
        .arg(flag("version", None, "Show the version"))
        .arg(flag(
            "force",
            Some('f'),
            "Lift preconditions that say so; dangerous",
        ))
        .arg(flag(
            "ignore-sync",
            None,
            "primary: although another member is still syncing",
        ))
        .arg(flag(
            "dry-run",
            Some('d'),
            "Print what would be done, change nothing",
        ))
        .arg(
            Arg::new("verbose")
                .long("verbose")
                .short('v')
                .value_name("N")
                .help("Say more (repeat, or give a level)")
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("")
                .action(ArgAction::Append),
        )
        .arg(flag(
            "wait",
            None,
            "join-resource, invalidate: wait until UpToDate (--timeout applies)",
        ))
        .arg(value(
            "timeout",
            "SECONDS",
            "Limit of each wait; 0 = never wait, -1 = for ever",
        ))
        .arg(value(
            "window",
            "SECONDS",
            "A host whose metadata is older counts as dead [60]",
        ))
        .arg(value(
            "threshold",
            "SIZE",
            "Differences below this do not matter [10M]",
        ))
        .arg(value("host", "HOST", "Act as HOST; dangerous"))
        .arg(value(
            "ip",
            "ADDRESS",
            "Own address (also --ip-PEER=ADDRESS for another host)",
        ))
        .arg(value(
            "thresh-logfiles",
            "N",
            "log-rotate: not when N small logs exist [thresh_logfiles, 10]",
        ))
        .arg(value(
            "thresh-logsize",
            "GB",
            "log-rotate: a log of this size is not small [thresh_logsize_gb, 5]",
        ))
        .arg(value("size", "SIZE", "create-resource: logical size"))
        .arg(value(
            "ssh-port",
            "N",
            "join-cluster: port of ssh, 0 = no ssh [22]",
        ))
        .arg(value(
            "ssh-opts",
            "TEXT",
            "join-cluster: more options of ssh",
        ))
        .arg(flag("no-ssh", None, "join-cluster: same as --ssh-port=0"))
        .arg(value(
            "macro",
            "TEXT",
            "view: evaluate TEXT instead of a macro by name",
        ))
        .arg(value(
            "systemd-enable",
            "0|1",
            "0: leave unit instances and the units on top of devices alone [1]",
        ))
        .arg(value(
            "logger",
            "PATH",
            "Program that also gets a line per command for syslog; empty = none [/usr/bin/logger where there is no journal]",
        ))
        .arg(value(
            "backup-dir",
            "DIR",
            "merge-cluster, split-cluster: where old links are saved [backups-TIME in the root]",
        ))
        .arg(value(
            "ignore-deleted-peers",
            "0|1|2",
            "Members whose host has left the cluster: 0 count, 1 do not count or wait for, 2 ignore everywhere [1]",
        ))
        .arg(value(
            "stuck-seconds",
            "SECONDS",
            "Warn when fetch or replay has not moved for so long [3600]",
        ))
        .arg(
            value(
                "keep-backup-hours",
                "HOURS",
                "cron, link-purge-all: how long backups and tombstones are kept [168]",
            )
            .alias("keep-backups"),
        )
        .arg(value(
            "autoclean",
            "DAYS",
            "cron: remove remains of hosts that have been gone for so long",
        ))
        .arg(
            Arg::new("parallel")
                .long("parallel")
                .value_name("N")
                .help("Work on several resources at once (at most N)")
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("")
                .action(ArgAction::Append),
        )
        .arg(flag(
            "singlestep",
            None,
            "Ask for RETURN before every phase",
        ))
        .arg(value("error-injection-phase", "N", "Fail in phase N (tests)").hide(true))
        .arg(value("delete-method", "N", "Obsolete, ignored").hide(true))
        .arg(value("max-deletions", "N", "Obsolete, ignored").hide(true))
        .arg(flag("json", None, "view, config show: output for machines"))
        .arg(
            Arg::new("words")
                .num_args(0..)
                .action(ArgAction::Append)
                .hide(true),
        )
}
