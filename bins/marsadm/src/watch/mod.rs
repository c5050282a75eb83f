//! `marsadm watch`: the resources and hosts as they change, on the whole screen, or as lines when nobody looks at a terminal.
//!
//! [`model`] and [`draw`] are plain code: facts and keys in, a frame out. [`follow`] says when something happened, [`screen`] owns the terminal.
mod detail;
mod draw;
mod facts;
mod follow;
mod keys;
mod lines;
mod model;
mod read;
mod screen;
mod signals;
#[cfg(test)]
mod tests;
pub(crate) mod text;

use crate::cmd::{Command, ResArg, builtin};
use crate::ctx::Ctx;
use crate::error::{CmdError, Done};
use crate::watch::draw::{Look, draw};
use crate::watch::facts::Facts;
use crate::watch::follow::{Follow, GAP};
use crate::watch::keys::{Key, Parser};
use crate::watch::lines::{States, changes, states};
use crate::watch::model::{Model, Outcome};
use crate::watch::screen::{Screen, keyboard, on_panic};
use crate::watch::signals::{Ask, Signals};
use mars_macro::report::host_report;
use mars_macro::{Machine, Scope, date};
use mars_tree::{ResName, Stamp};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{IsTerminal, Write, stdout};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// The command.
pub const COMMANDS: &[Command] = &[Command {
    args: "[RES...]",
    ..builtin(
        "watch",
        ResArg::None,
        "Show states on the whole screen as they change; lines when not on a terminal",
    )
}];

/// Ages advance so often.
const SECOND: Duration = Duration::from_secs(1);
/// What follows an Escape comes sooner, or it is none.
const ESCAPE: Duration = Duration::from_millis(50);
/// After a look that took long, the next one waits this many times as long.
const REST: u32 = 4;

/// `watch [RES...]`; `resources`: only these.
pub fn watch(ctx: &Ctx, resources: Option<&[ResName]>) -> Done {
    if stdout().is_terminal()
        && !is_dumb()
        && let Ok(input) = keyboard()
    {
        return full_screen(ctx, resources, input);
    }
    plain(ctx, resources)
}

/// A terminal on which the cursor cannot be moved.
fn is_dumb() -> bool {
    std::env::var_os("TERM").is_none_or(|t| t.is_empty() || t == "dumb")
}

/// What the environment says about the terminal.
fn look() -> Look {
    let set = |name: &str| std::env::var(name).ok().filter(|v| !v.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(set);
    let locale = locale.unwrap_or_default().to_lowercase();
    Look {
        colors: set("NO_COLOR").is_none(),
        unicode: locale.contains("utf-8") || locale.contains("utf8"),
    }
}

fn failed(e: impl std::fmt::Display) -> CmdError {
    CmdError::Failed(format!("the terminal cannot be used: {e}"))
}

/// Looks, and says how long that took.
fn read(ctx: &Ctx, follow: &mut Follow<'_>, only: Option<&[ResName]>) -> (Facts, Duration) {
    let began = Instant::now();
    let snap = follow.look();
    let view = ctx.view(&snap);
    let all = snap.resources();
    let shown: Vec<ResName> = match only {
        Some(only) => only.iter().filter(|r| all.contains(r)).cloned().collect(),
        None => all,
    };
    let machine = Machine {
        oldest_unapplied: mars_facts::oldest_unapplied(&ctx.env.root, &view, &shown),
        ..mars_facts::machine(&ctx.env, &snap)
    };
    let scope = Scope {
        view,
        res: None,
        threshold: ctx.opts.threshold,
        verbose: 0,
        args: &[],
        machine: &machine,
    };
    let report = host_report(&scope, &shown);
    let time = date(Stamp::real_time(), false, machine.utc_offset);
    let facts = read::facts(&report, &ctx.env.host, ctx.opts.threshold, time);
    (facts, began.elapsed())
}

/// How long to leave the machine alone after a look.
fn gap(cost: Duration) -> Duration {
    GAP.max(cost * REST)
}

/// Sleeps until one of these is ready, or until `until`; which of them are.
fn sleep(fds: &[(BorrowedFd<'_>, PollFlags)], until: Instant) -> Done<Vec<bool>> {
    let left = until.saturating_duration_since(Instant::now());
    // Rounded up, or the rest of a millisecond would be a spin.
    let ms = u16::try_from(left.as_millis().saturating_add(1)).unwrap_or(u16::MAX);
    let mut polled: Vec<PollFd<'_>> = fds.iter().map(|(fd, f)| PollFd::new(*fd, *f)).collect();
    match poll(&mut polled, PollTimeout::from(ms)) {
        Ok(_) => {}
        Err(Errno::EINTR) => return Ok(vec![false; fds.len()]),
        Err(e) => return Err(CmdError::Failed(format!("cannot wait: {e}"))),
    }
    Ok(polled.iter().map(|p| p.any() != Some(false)).collect())
}

fn full_screen(ctx: &Ctx, only: Option<&[ResName]>, input: OwnedFd) -> Done {
    let mut signals = Signals::start()?;
    let mut follow = Follow::start(&ctx.env, &ctx.tree)?;
    let (facts, mut cost) = read(ctx, &mut follow, only);
    let mut model = Model::new(facts);
    let look = look();
    on_panic();
    let mut screen = Screen::take(input).map_err(failed)?;
    let mut keys = Parser::default();
    let mut begun: Option<Instant> = None;
    let (mut is_new, mut to_draw) = (false, true);
    let mut looked = Instant::now();
    let mut second = looked + SECOND;
    loop {
        if to_draw {
            screen.draw(|f| draw(f, &mut model, look)).map_err(failed)?;
            to_draw = false;
        }
        let mut until = second;
        if is_new {
            until = until.min(looked + gap(cost));
        }
        until = begun.map_or(until, |b| until.min(b + ESCAPE));
        let mut fds = vec![
            (signals.quit(), PollFlags::POLLIN),
            (signals.other(), PollFlags::POLLIN),
            (screen.input(), PollFlags::POLLIN),
        ];
        if !is_new {
            let happens = follow.fds().into_iter();
            fds.extend(happens.map(|fd| (fd, PollFlags::POLLIN)));
        }
        let ready = sleep(&fds, until)?;
        let is_ready = |n: usize| ready.get(n).copied().unwrap_or(false);
        if is_ready(0) {
            return Ok(());
        }
        is_new |= ready.iter().skip(3).any(|r| *r);
        let mut outcomes = Vec::new();
        while let Some(ask) = signals.next() {
            outcomes.push(match ask {
                Ask::Suspend => Outcome::Suspend,
                Ask::Resize => Outcome::Repaint,
                Ask::Continue => {
                    screen.again().map_err(failed)?;
                    Outcome::Draw
                }
            });
        }
        if is_ready(2) {
            let Some(typed) = read_keys(screen.input(), &mut keys) else {
                // The terminal has gone.
                return Ok(());
            };
            outcomes.extend(typed.into_iter().map(|k| model.key(k)));
            begun = keys.is_waiting().then(Instant::now);
        } else if begun.is_some_and(|b| b.elapsed() >= ESCAPE) {
            outcomes.extend(keys.give_up().map(|k| model.key(k)));
            begun = None;
        }
        for outcome in outcomes {
            to_draw |= outcome != Outcome::Nothing;
            match outcome {
                Outcome::Nothing | Outcome::Draw => {}
                Outcome::Repaint => screen.repaint().map_err(failed)?,
                Outcome::Suspend => screen.suspend().map_err(failed)?,
                Outcome::Quit => return Ok(()),
            }
        }
        let now = Instant::now();
        if now >= second || (is_new && now >= looked + gap(cost)) {
            follow.take()?;
            is_new = false;
            let facts;
            (facts, cost) = read(ctx, &mut follow, only);
            looked = Instant::now();
            if now >= second {
                model.second(facts);
                second = looked + SECOND.max(gap(cost));
                to_draw = true;
            } else {
                to_draw |= model.facts(facts);
            }
        }
    }
}

/// What was typed; `None` when the terminal has gone.
fn read_keys(input: BorrowedFd<'_>, keys: &mut Parser) -> Option<Vec<Key>> {
    let mut buffer = [0; 256];
    match nix::unistd::read(input, &mut buffer) {
        Ok(0) => None,
        Ok(n) => Some(keys.feed(buffer.get(..n).unwrap_or_default())),
        Err(Errno::EINTR | Errno::EAGAIN) => Some(Vec::new()),
        Err(_) => None,
    }
}

/// Lines, until somebody ends it or nobody reads any more.
fn plain(ctx: &Ctx, only: Option<&[ResName]>) -> Done {
    let mut follow = Follow::start(&ctx.env, &ctx.tree)?;
    let mut known = States::new();
    loop {
        let (facts, cost) = read(ctx, &mut follow, only);
        let now = states(&facts);
        let mut text = String::new();
        for line in changes(&known, &now) {
            text.push_str(&format!("{} {line}\n", facts.time));
        }
        known = now;
        let mut out = stdout().lock();
        if out
            .write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .is_err()
        {
            return Ok(());
        }
        drop(out);
        // Death by silence is no event: seconds count here, too.
        let second = Instant::now() + SECOND.max(gap(cost));
        let soon = Instant::now() + gap(cost);
        let output = stdout();
        loop {
            let mut fds = vec![(output.as_fd(), PollFlags::empty())];
            fds.extend(follow.fds().into_iter().map(|fd| (fd, PollFlags::POLLIN)));
            let ready = sleep(&fds, second)?;
            if ready.first() == Some(&true) {
                // Nobody reads any more.
                return Ok(());
            }
            if follow.take()? || Instant::now() >= second {
                break;
            }
        }
        let _ = sleep(&[(output.as_fd(), PollFlags::empty())], soon)?;
    }
}
