//! The table of commands.
use super::{
    Command, ResArg, Run, anybody, builtin, config, consistency, create, drbd, each, freeze,
    global, logs, macros, membership, no_cluster, one, over, phased, planned, primary, secondary,
    service, switches, systemd, wait,
};
use crate::checks::own;
use crate::ctx::Ctx;
use crate::error::Done;
use mars_tree::{ResName, TodoSwitch};

macro_rules! switch {
    ($name:literal, $which:ident, $on:literal, $global:literal, $help:literal) => {
        planned(
            $name,
            |v, res, _, _| switches::switch(v, res, TodoSwitch::$which, $on, $global),
            $help,
        )
    };
}

const IGNORED: &str = "does nothing in MARS";
const SENSELESS: &str = "makes no sense with MARS";

/// All commands.
pub const COMMANDS: &[Command] = &[
    over(
        "wait-cluster",
        |c, r| wait::wait_cluster(c, r.and_then(<[ResName]>::first), false),
        "Wait for a fresh sign of life of all relevant hosts",
    ),
    over(
        "wait-connect",
        |c, r| wait::wait_cluster(c, r.and_then(<[ResName]>::first), false),
        "Same as wait-cluster",
    ),
    over(
        "update-cluster",
        |c, r| wait::wait_cluster(c, r.and_then(<[ResName]>::first), true),
        "Same for all hosts of the cluster",
    ),
    one(each(
        "create-resource",
        "DISK [MARSNAME] [SIZE]",
        1,
        3,
        create::create_resource,
        "Make a resource from a local disk; this host becomes primary",
    )),
    one(phased(
        "join-resource",
        "DISK [MARSNAME]",
        1,
        2,
        membership::JOIN_PHASES,
        membership::join_resource,
        "Become a replica; the disk is overwritten by a sync",
    )),
    anybody(phased(
        "leave-resource",
        "",
        0,
        0,
        membership::LEAVE_PHASES,
        membership::leave_resource,
        "Stop being a replica",
    )),
    anybody(each(
        "delete-resource",
        "",
        0,
        0,
        membership::delete_resource,
        "Remove a resource that has no members",
    )),
    planned("attach", switches::attach, "Use the disk"),
    planned(
        "detach",
        |v, res, opts, _| switches::detach(v, res, opts),
        "Release the disk",
    ),
    planned(
        "up",
        switches::up,
        "attach, resume-fetch, resume-replay, resume-sync",
    ),
    planned(
        "down",
        |v, res, opts, _| switches::down(v, res, opts),
        "pause-sync, pause-fetch, pause-replay, detach",
    ),
    switch!(
        "pause-sync",
        Sync,
        false,
        false,
        "Stop the sync here (also -local, -global)"
    ),
    switch!("pause-sync-local", Sync, false, false, ""),
    switch!("pause-sync-global", Sync, false, true, ""),
    switch!(
        "resume-sync",
        Sync,
        true,
        false,
        "Allow the sync here (also -local, -global)"
    ),
    switch!("resume-sync-local", Sync, true, false, ""),
    switch!("resume-sync-global", Sync, true, true, ""),
    switch!(
        "pause-fetch",
        Connect,
        false,
        false,
        "Stop fetching logs here (also -local, -global)"
    ),
    switch!("pause-fetch-local", Connect, false, false, ""),
    switch!("pause-fetch-global", Connect, false, true, ""),
    switch!(
        "resume-fetch",
        Connect,
        true,
        false,
        "Allow fetching logs here (also -local, -global)"
    ),
    switch!("resume-fetch-local", Connect, true, false, ""),
    switch!("resume-fetch-global", Connect, true, true, ""),
    switch!("disconnect", Connect, false, false, "Same as pause-fetch"),
    switch!("disconnect-local", Connect, false, false, ""),
    switch!("disconnect-global", Connect, false, true, ""),
    switch!("connect", Connect, true, false, "Same as resume-fetch"),
    switch!("connect-local", Connect, true, false, ""),
    switch!("connect-global", Connect, true, true, ""),
    switch!(
        "pause-replay",
        AllowReplay,
        false,
        false,
        "Stop replaying here (also -local, -global)"
    ),
    switch!("pause-replay-local", AllowReplay, false, false, ""),
    switch!("pause-replay-global", AllowReplay, false, true, ""),
    switch!(
        "resume-replay",
        AllowReplay,
        true,
        false,
        "Allow replaying here (also -local, -global)"
    ),
    switch!("resume-replay-local", AllowReplay, true, false, ""),
    switch!("resume-replay-global", AllowReplay, true, true, ""),
    phased(
        "primary",
        "",
        0,
        0,
        primary::PHASES,
        primary::primary,
        "Take over the primary role; --force: without the old primary's help",
    ),
    phased(
        "secondary",
        "",
        0,
        0,
        secondary::PHASES,
        secondary::secondary,
        "Give up the primary role (discouraged: use primary elsewhere)",
    ),
    phased(
        "invalidate",
        "",
        0,
        0,
        consistency::INVALIDATE_PHASES,
        consistency::invalidate,
        "Give up the local version, take everything from the primary",
    ),
    each(
        "fake-sync",
        "",
        0,
        0,
        consistency::fake_sync,
        "Mark as consistent without a sync (experts)",
    ),
    each(
        "set-replay",
        "NUMBER",
        1,
        1,
        consistency::set_replay,
        "Replay from the beginning of log NUMBER of the primary (experts)",
    ),
    each(
        "freeze",
        "",
        0,
        0,
        freeze::freeze,
        "Hold new writes, the disk equals the device (for a snapshot; --timeout=SECONDS)",
    ),
    each("thaw", "", 0, 0, freeze::thaw, "End a freeze"),
    each(
        "drain",
        "",
        0,
        0,
        freeze::drain,
        "Write to the disk what was accepted so far",
    ),
    planned(
        "log-rotate",
        |v, res, opts, _| logs::rotate(v, res, opts),
        "Begin a new log file",
    ),
    planned(
        "log-delete",
        |v, res, opts, _| logs::delete(v, res, opts, false),
        "Delete logs that nobody needs",
    ),
    planned(
        "log-delete-all",
        |v, res, opts, _| logs::delete(v, res, opts, false),
        "Same as log-delete",
    ),
    planned(
        "log-delete-all-replayed",
        |v, res, opts, _| logs::delete(v, res, opts, false),
        "",
    ),
    planned(
        "log-delete-one",
        |v, res, opts, _| logs::delete(v, res, opts, true),
        "",
    ),
    over(
        "cron",
        run_cron,
        "Rotate and delete logs; to be run every 10 minutes",
    ),
    each(
        "wait-resource",
        "[COND]",
        0,
        1,
        wait::wait_resource,
        "Wait for [is-]{attach,fetch,replay,sync,primary,device}[-on|-off]",
    ),
    each(
        "wait-umount",
        "",
        0,
        0,
        wait::wait_umount,
        "Wait until nobody has the device open",
    ),
    each("role", "", 0, 0, wait::role, "Show the actual role"),
    each("state", "", 0, 0, wait::role, ""),
    builtin(
        "view",
        ResArg::Optional,
        "Show states; view-NAME shows one macro; --json for machines",
    ),
    no_cluster(global(
        "dump-macros",
        "",
        0,
        0,
        macros::dump_macros,
        "Write the predefined macros as NAME.tpl into the current directory",
    )),
    no_cluster(global(
        "dump-all-macros",
        "",
        0,
        0,
        macros::dump_all_macros,
        "The same, with a wrapper for each primitive macro",
    )),
    no_cluster(over(
        "systemd-trigger",
        service::systemd_trigger,
        "Start and stop daemons and units on top of devices as the tree demands",
    )),
    no_cluster(over(
        "systemd-trigger-extern",
        service::systemd_trigger_extern,
        "",
    )),
    anybody(each(
        "set-systemd-unit",
        "START [STOP]",
        1,
        2,
        systemd::set_unit,
        "Units that run on top of the device; \"\" = none, DEFAULT = marked templates",
    )),
    anybody(each(
        "get-systemd-unit",
        "",
        0,
        0,
        systemd::get_unit,
        "Show them: START STOP",
    )),
    anybody(phased(
        "set-systemd-want",
        "HOST|(none)",
        1,
        1,
        systemd::WANT_PHASES,
        systemd::set_want,
        "Run them on HOST, or (none): stop them everywhere for a while",
    )),
    anybody(each(
        "get-systemd-want",
        "",
        0,
        0,
        systemd::get_want,
        "Show where they shall run",
    )),
    no_cluster(global(
        "start",
        "",
        0,
        0,
        service::start,
        "Start all daemons of this host",
    )),
    no_cluster(global(
        "stop",
        "",
        0,
        0,
        service::stop,
        "Stop all daemons of this host",
    )),
    Command {
        args: config::ARGS,
        min: 1,
        max: 2,
        ..builtin(
            "config",
            ResArg::None,
            "Check mars.conf and its drop-ins; show which value counts and why; --json",
        )
    },
    builtin("complete", ResArg::None, ""),
    Command {
        args: "[COMMAND|STATE|states|options]",
        max: 1,
        ..builtin(
            "help",
            ResArg::None,
            "Explain a command or a word of view; alone: list all commands",
        )
    },
    builtin("version", ResArg::None, "Show the version"),
    drbd("adjust", Run::Ignored(IGNORED)),
    drbd("syncer", Run::Ignored(IGNORED)),
    drbd("get-gi", Run::Ignored(IGNORED)),
    drbd("show-gi", Run::Ignored(IGNORED)),
    drbd("outdate", Run::Ignored(IGNORED)),
    drbd("hidden-commands", Run::Ignored(IGNORED)),
    drbd("check-resize", Run::Ignored(IGNORED)),
    drbd("create-md", Run::Ignored(SENSELESS)),
    drbd("dump-md", Run::Ignored(SENSELESS)),
    drbd("dump", Run::Ignored(SENSELESS)),
    drbd("new-current-uuid", Run::Ignored(SENSELESS)),
    drbd(
        "invalidate-remote",
        Run::Refused("there may be several secondaries; run invalidate there, or with --host=HOST"),
    ),
    drbd(
        "verify",
        Run::Refused(
            "the log's application races with comparing blocks; invalidate verifies and repairs",
        ),
    ),
];

fn run_cron(ctx: &Ctx, resources: Option<&[ResName]>) -> Done {
    match resources {
        Some(r) => logs::cron(ctx, r),
        None => {
            let snap = ctx.snapshot()?;
            logs::cron(ctx, &own(&snap, &ctx.me))
        }
    }
}
