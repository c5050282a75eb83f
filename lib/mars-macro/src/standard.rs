//! Standard complex macros (macro-language.md section 6), layouts exactly as documented.
use crate::ctx::{Ctx, Job, float};
use crate::human::{human_pair, human_two};
use crate::messages::{self, Wish};
use crate::names::canonical;
use crate::{MacroError, Scope, human_number, human_seconds, progress_bar};
use mars_policy::{
    amount, disk_state_at, errno_text, flags_at, outdated_letters, repl_state, role_at,
};
use mars_tree::Key;

type Macro = fn(&Ctx<'_>) -> String;
type GlobalMacro = fn(&Scope<'_>) -> String;

/// Macros that need a resource.
const OF_RESOURCE: &[(&str, Macro)] = &[
    ("default", default),
    ("default-resource", default_resource),
    ("diskstate", diskstate),
    ("outdated-flags", |c| outdated_letters(&c.progress())),
    ("replstate", replstate),
    ("flags", flags),
    ("role", role),
    ("todo-role", todo_role),
    ("primarynode", primarynode),
    ("commstate", commstate),
    ("syncinfo", syncinfo),
    ("sync-line", sync_line),
    ("replinfo", replinfo),
    ("fetch-line", fetch_line),
    ("replay-line", replay_line),
    ("resource-errors", resource_errors),
    // The names that users of DRBD know (macro-language.md 6.9).
    ("state", role),
    ("cstate", replstate),
    ("dstate", diskstate),
    ("status", status),
];

/// Macros of the host.
const GLOBAL: &[(&str, GlobalMacro)] = &[("comminfo", comminfo), ("default-global", comminfo)];

/// Value of a standard macro; `None` when there is none of that name.
pub fn standard(name: &str, scope: &Scope<'_>) -> Option<Result<String, MacroError>> {
    let known = canonical(name, &standard_names())?;
    if let Some((_, f)) = GLOBAL.iter().find(|(n, _)| *n == known) {
        return Some(Ok(f(scope)));
    }
    let (_, f) = OF_RESOURCE.iter().find(|(n, _)| *n == known)?;
    Some(Ctx::new(name, scope).map(|c| f(&c)))
}

/// All names.
pub fn standard_names() -> Vec<&'static str> {
    let mut names: Vec<_> = OF_RESOURCE.iter().map(|(n, _)| *n).collect();
    names.extend(GLOBAL.iter().map(|(n, _)| *n));
    names.sort_unstable();
    names
}

fn diskstate(c: &Ctx<'_>) -> String {
    disk_state_at(&c.v, c.res, c.me(), c.disk_present(c.me())).to_string()
}
fn replstate(c: &Ctx<'_>) -> String {
    repl_state(&c.v, c.res, c.me()).to_string()
}
fn flags(c: &Ctx<'_>) -> String {
    flags_at(&c.v, c.res, c.me(), c.disk_present(c.me())).0
}
fn role(c: &Ctx<'_>) -> String {
    role_at(&c.v, c.res, c.me(), c.disk_present(c.me())).to_string()
}
fn todo_role(c: &Ctx<'_>) -> String {
    if !c.disk_present(c.me()) {
        "None"
    } else if c.v.is_designated(c.res, c.me()) {
        "Primary"
    } else {
        "Secondary"
    }
    .into()
}
fn primarynode(c: &Ctx<'_>) -> String {
    c.v.designated(c.res)
        .map_or_else(|| "(none)".into(), |h| h.to_string())
}
/// How long nothing was heard from the designated primary, when that is longer than the window.
fn commstate(c: &Ctx<'_>) -> String {
    match c.v.designated(c.res).and_then(|p| c.alive_age(&p)) {
        Some(age) if age >= c.v.window.as_secs() => human_seconds(Some(float(age))),
        _ => String::new(),
    }
}

/// `[k/n]`: replicas of cluster hosts.
fn counts(c: &Ctx<'_>) -> String {
    let replicas = c.v.snap.members(c.res).len();
    format!("[{replicas}/{}]", c.v.snap.hosts().len())
}

fn default_resource(c: &Ctx<'_>) -> String {
    let size = c.v.size(c.res).map_or(0.0, float);
    let size = human_number("", "", "", &[size]);
    format!("{} {size} {}", c.res, counts(c))
}

fn status(c: &Ctx<'_>) -> String {
    format!(
        "  {} {} {} {} {} {} {} {}",
        c.res,
        counts(c),
        diskstate(c),
        replstate(c),
        flags(c),
        role(c),
        primarynode(c),
        commstate(c)
    )
}

/// The block of one resource.
fn default(c: &Ctx<'_>) -> String {
    let mut lines: Vec<String> = Vec::new();
    if c.device_present(c.me()) {
        lines.push(local_device(c));
    }
    if c.v.snap.members(c.res).contains(c.me()) {
        lines.push(status(c));
        lines.extend(hints(c));
        let busy =
            !c.v.is_actual_primary(c.res, c.me()) && c.v.actual_on(c.res, c.me(), "is-attached");
        if busy && c.span(Job::Sync).rest() > 0 {
            lines.push(syncinfo(c));
        }
        if busy && c.span(Job::Work).rest() > 0 {
            lines.push(replinfo(c));
        }
    }
    let errors = resource_errors(c);
    if !errors.is_empty() {
        lines.push(errors);
    }
    lines.join("\n")
}

fn local_device(c: &Ctx<'_>) -> String {
    let actual = |name| c.actual(c.me(), name).unwrap_or(0);
    let mut stats: Vec<String> = Vec::new();
    if actual("open-count") > 0 {
        stats.push("Opened".into());
        let error = actual("if-state");
        if error != 0 {
            stats.push(format!("DEVICE_ERROR={}", errno_text(&error.to_string())));
        }
        stats.push(format!("{} IOPS", actual("ops-if_rate")));
        let flying = actual("if-flying");
        if flying > 0 {
            stats.push(format!("{flying} Flying"));
            let last = c.actual_text(c.me(), "if-completion-stamp");
            let age = last
                .and_then(|t| t.parse().ok())
                .map(|s| c.v.now.since(s))
                .filter(|age| *age >= c.v.window);
            if let Some(age) = age {
                let age = human_seconds(Some(age.as_secs_f64()));
                stats.push(format!("HANGING age: {age}"));
            }
        }
    } else {
        stats.push("Closed".into());
    }
    format!(
        "  LocalDevice {} [{}]",
        c.device_path(c.me()),
        stats.join(", ")
    )
}

fn hints(c: &Ctx<'_>) -> Vec<String> {
    let mut hints = Vec::new();
    let Some(size) = c.v.size(c.res) else {
        return hints;
    };
    let waste = c
        .size_of_disk(c.me())
        .map_or(0, |disk| disk.saturating_sub(size));
    if waste > c.scope.threshold {
        let key = Key::Data(c.res.clone(), c.me().clone());
        let disk = c.v.snap.text(&key).unwrap_or("");
        hints.push(format!(
            "     Hint: you are wasting {} on disk {disk}",
            amount(waste)
        ));
    }
    let more = c.possible_size().unwrap_or(0).saturating_sub(size);
    if more > 0 {
        hints.push(format!(
            "     Hint: marsadm resize would increase resource {} by {}",
            c.res,
            amount(more)
        ));
    }
    hints
}

fn remaining(c: &Ctx<'_>, job: Job) -> String {
    human_seconds(Some(c.remain(job)))
}

fn syncinfo(c: &Ctx<'_>) -> String {
    let span = c.span(Job::Sync);
    let (pos, size) = (float(span.pos), float(span.size));
    format!(
        "     syncing: {}  {:.2}%  {}  rate: {}/sec  remaining: {} hrs\n{}",
        progress_bar(20, pos, 0.0, size),
        span.percent(),
        human_pair(pos, size),
        human_two(float(c.rate(Job::Sync))),
        remaining(c, Job::Sync),
        sync_line(c)
    )
}

fn sync_line(c: &Ctx<'_>) -> String {
    let span = c.span(Job::Sync);
    format!(
        "       > sync: {} rate: {}/sec  remaining: {} hrs",
        human_number("", "", "", &[float(span.pos), float(span.size)]),
        human_number("", "", "", &[float(c.rate(Job::Sync))]),
        remaining(c, Job::Sync)
    )
}

fn replinfo(c: &Ctx<'_>) -> String {
    let p = c.progress();
    let (replay, fetch) = (float(p.replay_pos), float(p.fetch_pos));
    let size = float(p.fetch_size);
    let mut logs = p.replay_nr.to_string();
    if p.fetch_nr > p.replay_nr {
        logs.push_str(&format!("::{}", p.fetch_nr));
    }
    if p.work_nr > p.fetch_nr {
        logs.push_str(&format!("..{}", p.work_nr));
    }
    format!(
        "     replaying: {}  {:.2}%  {}  logs: [{logs}]\n{}\n{}",
        progress_bar(20, replay, fetch, size),
        c.span(Job::Work).percent(),
        human_pair(replay, size),
        fetch_line(c),
        replay_line(c)
    )
}

/// ` age: hh:mm:ss` when something remains and it is old.
fn aged(c: &Ctx<'_>, what: &str, rest: u64, seconds: Option<u64>) -> String {
    match seconds {
        Some(s) if rest > 0 && s >= c.v.window.as_secs() => {
            format!(" {what}: {}", human_seconds(Some(float(s))))
        }
        _ => String::new(),
    }
}

fn fetch_line(c: &Ctx<'_>) -> String {
    let rest = c.span(Job::Fetch).rest();
    let lag =
        c.v.designated(c.res)
            .and_then(|p| c.lag(Job::Fetch, c.me(), &p));
    format!(
        "       > fetch: {}{}{} rate: {}/s remaining: {}",
        human_number("", "", "", &[float(rest)]),
        aged(c, "age", rest, c.age(Job::Fetch, c.me())),
        aged(c, "lag", rest, lag),
        human_number("", "", "", &[float(c.rate(Job::Fetch))]),
        remaining(c, Job::Fetch)
    )
}

fn replay_line(c: &Ctx<'_>) -> String {
    let rest = c.span(Job::Replay).rest();
    format!(
        "       > replay: {}{} rate: {}/s remaining: {}",
        human_number("", "", "", &[float(rest)]),
        aged(c, "age", rest, c.age(Job::Replay, c.me())),
        human_number("", "", "", &[float(c.rate(Job::Replay))]),
        remaining(c, Job::Replay)
    )
}

/// macro-language.md 6.7. The FILE blocks of the original come from status files that nothing here writes.
fn resource_errors(c: &Ctx<'_>) -> String {
    let blocks = [
        ("ERRORS  ", "err-", 0),
        ("WARNINGS", "wrn-", 0),
        ("INFOS   ", "inf-", 2),
    ];
    let mut out: Vec<String> = Vec::new();
    for (title, class, verbose) in blocks {
        let wish = Wish {
            all: false,
            pretty: true,
            global: false,
            class: Some(class),
        };
        let lines = messages::lines(c.scope, wish);
        if !lines.is_empty() && c.scope.verbose >= verbose {
            out.push(format!("{title} LNK  ({}):", lines.len()));
            out.extend(lines);
        }
    }
    out.join("\n")
}

fn comminfo(scope: &Scope<'_>) -> String {
    let wish = Wish {
        all: false,
        pretty: true,
        global: true,
        class: None,
    };
    let mut lines = messages::lines(scope, wish);
    lines.retain(|l| !l.contains("CONNECTED"));
    if !lines.is_empty() {
        let title = "++++++++++++ Global / Communication Status ++++++++++++";
        lines.insert(0, title.into());
    }
    let real = scope.machine.real_time;
    let slip = scope.view.now.secs().saturating_sub(real);
    if real > 0 && slip > scope.view.window.as_secs() {
        let slip = human_seconds(Some(float(slip)));
        lines.push(format!(
            "++++++++++++ Lamport time slip: {slip} ++++++++++++"
        ));
    }
    lines.join("\n")
}
