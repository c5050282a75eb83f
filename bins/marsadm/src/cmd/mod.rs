//! The commands: one file per family, one table here.
pub mod autoclean;
pub mod cat;
pub mod cluster;
pub mod config;
pub mod consistency;
pub mod create;
pub mod freeze;
pub mod guest;
pub mod handover;
pub mod leave;
pub mod links;
pub mod logs;
pub mod lowlevel;
pub mod macros;
pub mod membership;
pub mod merge;
pub mod params;
pub mod positions;
#[cfg(test)]
mod preconditions;
pub mod primary;
pub mod purge;
pub mod resize;
pub mod rubbish;
pub mod secondary;
pub mod service;
pub mod show;
pub mod split;
pub mod switches;
pub mod systemd;
mod table;
#[cfg(test)]
mod tests;
pub mod uptodate;
pub mod view;
pub mod wait;

use crate::cli::Options;
use crate::ctx::Ctx;
use crate::error::Done;
use crate::phases::Job;
use crate::plan::Plan;
use mars_policy::View;
use mars_tree::ResName;

/// The first argument.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResArg {
    /// The command knows no resources.
    None,
    /// May be left out.
    Optional,
    /// One, a comma list, or `all`.
    Many,
    /// Exactly one; no lists.
    One,
}

/// Begins a command for one resource.
pub type Start = fn(&ResName, &[String]) -> Box<dyn Job>;

/// How a command runs.
#[derive(Clone, Copy)]
pub enum Run {
    /// Without resources, or with a single optional one.
    Global(fn(&Ctx, &[String]) -> Done),
    /// With the optional resources that were given.
    Over(fn(&Ctx, Option<&[ResName]>) -> Done),
    /// Once per resource.
    Each(fn(&Ctx, &ResName, &[String]) -> Done),
    /// In phases (their titles) per resource.
    Phased(&'static [&'static str], Start),
    /// A plan per resource; all are committed, then units reconciled, then waited for.
    Planned(fn(&View<'_>, &ResName, &Options, switches::Probe<'_>) -> Done<Plan>),
    /// DRBD words that do nothing.
    Ignored(&'static str),
    /// DRBD words that are refused.
    Refused(&'static str),
    /// Handled before all others.
    Builtin,
}

/// One command.
#[derive(Clone, Copy)]
pub struct Command {
    /// Name.
    pub name: &'static str,
    /// First argument.
    pub res: ResArg,
    /// Arguments behind the resource, for the usage line.
    pub args: &'static str,
    /// Least number of them.
    pub min: usize,
    /// Largest number of them.
    pub max: usize,
    /// Must the acting host be member of the resource?
    pub member: bool,
    /// Does it need a cluster?
    pub cluster: bool,
    /// Body.
    pub run: Run,
    /// One line of help; empty = not listed.
    pub help: &'static str,
}

/// Without resources.
pub(crate) const fn global(
    name: &'static str,
    args: &'static str,
    min: usize,
    max: usize,
    run: fn(&Ctx, &[String]) -> Done,
    help: &'static str,
) -> Command {
    Command {
        name,
        res: ResArg::None,
        args,
        min,
        max,
        member: false,
        cluster: true,
        run: Run::Global(run),
        help,
    }
}
/// Needs no cluster.
pub(crate) const fn no_cluster(mut c: Command) -> Command {
    c.cluster = false;
    c
}
/// Once per resource, of which this host is member.
pub(crate) const fn each(
    name: &'static str,
    args: &'static str,
    min: usize,
    max: usize,
    run: fn(&Ctx, &ResName, &[String]) -> Done,
    help: &'static str,
) -> Command {
    Command {
        name,
        res: ResArg::Many,
        args,
        min,
        max,
        member: true,
        cluster: true,
        run: Run::Each(run),
        help,
    }
}
/// In phases per resource, of which this host is member.
pub(crate) const fn phased(
    name: &'static str,
    args: &'static str,
    min: usize,
    max: usize,
    titles: &'static [&'static str],
    start: Start,
    help: &'static str,
) -> Command {
    Command {
        name,
        res: ResArg::Many,
        args,
        min,
        max,
        member: true,
        cluster: true,
        run: Run::Phased(titles, start),
        help,
    }
}
/// One single resource, which may be new.
pub(crate) const fn one(mut c: Command) -> Command {
    c.res = ResArg::One;
    c.member = false;
    c
}
/// The acting host need not be member.
pub(crate) const fn anybody(mut c: Command) -> Command {
    c.member = false;
    c
}
/// A plan per resource.
pub(crate) const fn planned(
    name: &'static str,
    run: fn(&View<'_>, &ResName, &Options, switches::Probe<'_>) -> Done<Plan>,
    help: &'static str,
) -> Command {
    Command {
        name,
        res: ResArg::Many,
        args: "",
        min: 0,
        max: 0,
        member: true,
        cluster: true,
        run: Run::Planned(run),
        help,
    }
}
/// With the optional resources.
pub(crate) const fn over(
    name: &'static str,
    run: fn(&Ctx, Option<&[ResName]>) -> Done,
    help: &'static str,
) -> Command {
    Command {
        name,
        res: ResArg::Optional,
        args: "",
        min: 0,
        max: 0,
        member: false,
        cluster: true,
        run: Run::Over(run),
        help,
    }
}
/// A word of DRBD.
pub(crate) const fn drbd(name: &'static str, run: Run) -> Command {
    Command {
        name,
        res: ResArg::Many,
        args: "",
        min: 0,
        max: 9,
        member: false,
        cluster: true,
        run,
        help: "",
    }
}
/// Handled before all others.
pub(crate) const fn builtin(name: &'static str, res: ResArg, help: &'static str) -> Command {
    Command {
        name,
        res,
        args: "",
        min: 0,
        max: 99,
        member: false,
        cluster: false,
        run: Run::Builtin,
        help,
    }
}

/// The commands by families: each list is in the file of its family.
const FAMILIES: &[&[Command]] = &[
    cluster::COMMANDS,
    merge::COMMANDS,
    split::COMMANDS,
    table::COMMANDS,
    guest::COMMANDS,
    purge::COMMANDS,
    lowlevel::COMMANDS,
    show::COMMANDS,
    links::COMMANDS,
    crate::watch::COMMANDS,
    resize::COMMANDS,
    params::COMMANDS,
];

/// All commands.
pub fn all() -> impl Iterator<Item = &'static Command> {
    FAMILIES.iter().copied().flatten()
}

/// Finds a command.
pub fn find(name: &str) -> Option<&'static Command> {
    all().find(|c| c.name == name)
}
