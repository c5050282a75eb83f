//! Parameters (marsadm-commands.md section 8): limits, preferences, digests and compressions.
use super::{Command, ResArg, Run, drbd, each, global};
use crate::checks::resources;
use crate::ctx::Ctx;
use crate::error::{Done, nearest, refuse, show, usage};
use crate::out;
use crate::plan::names;
use mars_macro::FEATURE_NAMES;
use mars_tree::{Batch, HostName, Key, ResName, Snapshot};

/// The commands of this file.
pub const COMMANDS: &[Command] = &[
    each(
        "set-emergency-limit",
        "PERCENT",
        1,
        1,
        set_emergency_limit,
        "Stop logging when less than PERCENT of the space in /mars is left; 0 = no own limit",
    ),
    each("emergency-limit", "PERCENT", 1, 1, set_emergency_limit, ""),
    each(
        "get-emergency-limit",
        "",
        0,
        0,
        get_emergency_limit,
        "Show that limit",
    ),
    global(
        "set-global-sync-limit-value",
        "NUMBER",
        1,
        1,
        set_sync_limit,
        "At most NUMBER syncs at once on this host; 0 = no limit",
    ),
    global(
        "get-global-sync-limit-value",
        "",
        0,
        0,
        |c, _| get_sync_limit(c),
        "Show that limit",
    ),
    global(
        "set-sync-limit-value",
        "NUMBER",
        1,
        1,
        |c, a| {
            renamed("set-sync-limit-value", "set-global-sync-limit-value");
            set_sync_limit(c, a)
        },
        "",
    ),
    global(
        "get-sync-limit-value",
        "",
        0,
        0,
        |c, _| {
            renamed("get-sync-limit-value", "get-global-sync-limit-value");
            get_sync_limit(c)
        },
        "",
    ),
    global(
        "set-sync-pref-list",
        "RES1,RES2,...",
        1,
        1,
        set_sync_pref,
        "Which resources sync first on this host when there is a limit; \"\" = none",
    ),
    global(
        "get-sync-pref-list",
        "",
        0,
        0,
        get_sync_pref,
        "Show that list",
    ),
    global(
        "set-connect-pref-list",
        "[RES] HOST1,HOST2,...",
        1,
        2,
        set_connect_pref,
        "From whom logs are fetched first; \"\" = from whom wrote them; without RES for all resources of this host",
    ),
    global(
        "get-connect-pref-list",
        "[RES]",
        0,
        1,
        get_connect_pref,
        "Show that list",
    ),
    mask(
        "set-global-enabled-log-compressions",
        |c, a| set_mask(c, a, LOG_COMPRESSIONS),
        "Compressions for new log records, in the whole cluster: COMPRESS_LZ4|COMPRESS_ZLIB; \"\" = off",
    ),
    shown("get-global-enabled-log-compressions", |c, _| {
        get_mask(c, LOG_COMPRESSIONS)
    }),
    mask(
        "set-global-enabled-net-compressions",
        |c, a| set_mask(c, a, NET_COMPRESSIONS),
        "Compressions for what travels between hosts; \"\" = off",
    ),
    shown("get-global-enabled-net-compressions", |c, _| {
        get_mask(c, NET_COMPRESSIONS)
    }),
    mask(
        "set-global-disabled-log-digests",
        |c, a| set_mask(c, a, LOG_DIGESTS),
        "Digests that new log records must not use: CHKSUM_MD5|...; \"\" = all are allowed",
    ),
    shown("get-global-disabled-log-digests", |c, _| {
        get_mask(c, LOG_DIGESTS)
    }),
    mask(
        "set-global-disabled-net-digests",
        |c, a| set_mask(c, a, NET_DIGESTS),
        "Digests that must not be used between hosts; \"\" = all are allowed",
    ),
    shown("get-global-disabled-net-digests", |c, _| {
        get_mask(c, NET_DIGESTS)
    }),
    Command {
        res: ResArg::Many,
        ..drbd(
            "set-disabled-digests",
            Run::Refused(
                "digests are disabled for the whole cluster, not for one resource; use set-global-disabled-log-digests or set-global-disabled-net-digests",
            ),
        )
    },
    drbd(
        "get-disabled-digests",
        Run::Refused(
            "digests are disabled for the whole cluster, not for one resource; use get-global-disabled-log-digests or get-global-disabled-net-digests",
        ),
    ),
];

const fn mask(name: &'static str, run: fn(&Ctx, &[String]) -> Done, help: &'static str) -> Command {
    global(name, "NAME|NAME|...", 1, 1, run, help)
}

const fn shown(name: &'static str, run: fn(&Ctx, &[String]) -> Done) -> Command {
    global(name, "", 0, 0, run, "Show them")
}

fn renamed(old: &str, new: &str) {
    out::warn(format!("{old} is deprecated, its name is {new} now"));
}

/// A plain decimal number up to `max`; no sign, no spaces.
fn number(what: &str, args: &[String], max: u64) -> Done<u64> {
    let text = args.first().map(String::as_str).unwrap_or_default();
    match text.parse::<u64>() {
        Ok(n) if n <= max && text.bytes().all(|b| b.is_ascii_digit()) => Ok(n),
        _ => usage(format!(
            "{what} {}: give a number from 0 to {max}",
            show(text)
        )),
    }
}

/// Sets one key.
fn put(ctx: &Ctx, dir: String, key: Key, value: impl std::fmt::Display) -> Done {
    let mut batch = Batch::new();
    batch.mkdir(dir);
    batch.set(key, value);
    ctx.commit(&batch)?;
    Ok(())
}

// --- emergency limit ----------------------------------------------------------------------------------------------------

fn emergency_key(res: &ResName, host: &HostName) -> Key {
    Key::TodoOther(res.clone(), host.clone(), "emergency-limit".into())
}

fn set_emergency_limit(ctx: &Ctx, res: &ResName, args: &[String]) -> Done {
    let n = number("emergency limit in percent", args, 100)?;
    put(
        ctx,
        format!("resource-{res}/todo-{}", ctx.me),
        emergency_key(res, &ctx.me),
        n,
    )?;
    ctx.result(match n {
        0 => format!("resource {res} has no own emergency limit on {}", ctx.me),
        n => format!(
            "resource {res} stops logging on {} when less than {n} % of the space is left",
            ctx.me
        ),
    });
    Ok(())
}

fn get_emergency_limit(ctx: &Ctx, res: &ResName, _: &[String]) -> Done {
    let snap = ctx.snapshot()?;
    let n = snap.number(&emergency_key(res, &ctx.me)).unwrap_or(0);
    out::say(n.to_string());
    Ok(())
}

// --- syncs --------------------------------------------------------------------------------------------------------------

fn host_default(ctx: &Ctx, name: &str) -> Key {
    Key::HostDefault(ctx.me.clone(), name.into())
}

fn set_sync_limit(ctx: &Ctx, args: &[String]) -> Done {
    let n = number("sync limit", args, u64::from(u32::MAX))?;
    put(
        ctx,
        format!("defaults-{}", ctx.me),
        host_default(ctx, "sync-limit"),
        n,
    )?;
    ctx.reconcile()?;
    ctx.result(match n {
        0 => format!("{}: any number of syncs at once", ctx.me),
        n => format!("{}: at most {n} syncs at once", ctx.me),
    });
    Ok(())
}

fn get_sync_limit(ctx: &Ctx) -> Done {
    let snap = ctx.snapshot()?;
    let n = snap.number(&host_default(ctx, "sync-limit")).unwrap_or(0);
    out::say(n.to_string());
    Ok(())
}

/// Names of a comma list, none twice.
fn list<T>(what: &str, text: &str) -> Done<Vec<T>>
where
    T: std::str::FromStr<Err = mars_tree::NameError> + PartialEq + std::fmt::Display,
{
    let mut out: Vec<T> = Vec::new();
    for word in text.split(',').map(str::trim) {
        if text.is_empty() || text == "(none)" {
            break;
        }
        let name: T = match word.parse() {
            Ok(n) => n,
            Err(e) => return refuse(format!("{what} list: {e}")),
        };
        if out.contains(&name) {
            return refuse(format!("{what} {name} is in the list twice; name it once"));
        }
        out.push(name);
    }
    Ok(out)
}

fn joined<T: std::fmt::Display>(list: &[T]) -> String {
    let words: Vec<String> = list.iter().map(ToString::to_string).collect();
    words.join(",")
}

fn set_sync_pref(ctx: &Ctx, args: &[String]) -> Done {
    let text = args.first().map(String::as_str).unwrap_or_default();
    let wanted: Vec<ResName> = list("resource", text)?;
    let known = ctx.snapshot()?.resources();
    for res in &wanted {
        if !known.contains(res) {
            let near = nearest(res.as_str(), known.iter().map(ResName::as_str));
            let advice = near.map_or("see marsadm view all".into(), |n| {
                format!("did you mean {n}?")
            });
            return refuse(format!("resource {res} does not exist; {advice}"));
        }
    }
    let value = match wanted.as_slice() {
        [] => "(none)".to_string(),
        list => joined(list),
    };
    put(
        ctx,
        format!("defaults-{}", ctx.me),
        host_default(ctx, "sync-pref-list"),
        &value,
    )?;
    ctx.reconcile()?;
    ctx.result(format!("{}: preferred syncs are {value}", ctx.me));
    Ok(())
}

fn get_sync_pref(ctx: &Ctx, _: &[String]) -> Done {
    let snap = ctx.snapshot()?;
    out::say(
        snap.text(&host_default(ctx, "sync-pref-list"))
            .unwrap_or("(none)"),
    );
    Ok(())
}

// --- connections --------------------------------------------------------------------------------------------------------

fn connect_key(ctx: &Ctx, res: &ResName) -> Key {
    Key::ConnectPref(res.clone(), ctx.me.clone())
}

fn check_sources(snap: &Snapshot, me: &HostName, hosts: &[HostName]) -> Done {
    let known = snap.hosts();
    for h in hosts {
        if h == me {
            return refuse(format!(
                "host {h} cannot fetch from itself; leave it out of the list"
            ));
        }
        if !known.contains(h) {
            return refuse(format!(
                "host {h} is not in the cluster; the hosts are {}",
                names(&known)
            ));
        }
    }
    Ok(())
}

fn set_connect_pref(ctx: &Ctx, args: &[String]) -> Done {
    let snap = ctx.snapshot()?;
    let (word, text) = match args {
        [res, list, ..] => (res.as_str(), list.as_str()),
        [list] => ("all", list.as_str()),
        [] => return usage("the list of hosts is missing"),
    };
    let is_resource = text
        .parse::<ResName>()
        .is_ok_and(|r| snap.resources().contains(&r));
    if args.len() == 1 && is_resource && !snap.hosts().iter().any(|h| h.as_str() == text) {
        return usage(format!(
            "the list of hosts is missing behind resource {text}; usage: marsadm set-connect-pref-list [RES] HOST1,HOST2,... (\"\" = none)"
        ));
    }
    let resources = resources(ctx, &snap, word)?;
    let hosts: Vec<HostName> = list("host", text)?;
    check_sources(&snap, &ctx.me, &hosts)?;
    let mut batch = Batch::new();
    if resources.is_empty() {
        return refuse(format!(
            "{} is member of no resource, so there is nothing to fetch; run marsadm join-resource first",
            ctx.me
        ));
    }
    for res in &resources {
        let members = snap.members(res);
        if !members.contains(&ctx.me) && !ctx.opts.force {
            return refuse(format!(
                "{} is not member of resource {res} (members: {}); join-resource first",
                ctx.me,
                names(&members)
            ));
        }
        for h in hosts.iter().filter(|h| !members.contains(h)) {
            out::warn(format!(
                "host {h} is no member of resource {res}, it has no logs of it"
            ));
        }
        let key = connect_key(ctx, res);
        if !hosts.is_empty() {
            batch.set(key, joined(&hosts));
        } else if snap.get(&key).is_some() {
            batch.delete(key);
        }
    }
    ctx.commit(&batch)?;
    ctx.result(format!(
        "{}: {} {}",
        ctx.me,
        names(&resources),
        if hosts.is_empty() {
            "fetched from whom wrote the logs".to_string()
        } else {
            format!("fetched from {} first", names(&hosts))
        }
    ));
    Ok(())
}

/// Without a resource: one line when all have the same list (that is what the form without a resource makes), else one for each.
fn get_connect_pref(ctx: &Ctx, args: &[String]) -> Done {
    let snap = ctx.snapshot()?;
    let word = args.first().map_or("all", String::as_str);
    let list = resources(ctx, &snap, word)?;
    let value = |res: &ResName| snap.text(&connect_key(ctx, res)).unwrap_or("");
    match list.split_first() {
        None => out::say(""),
        Some((first, rest)) if rest.iter().all(|r| value(r) == value(first)) => {
            out::say(value(first));
        }
        Some(_) => {
            for res in &list {
                out::say(format!("{res} {}", value(res)));
            }
        }
    }
    Ok(())
}

// --- digests and compressions -------------------------------------------------------------------------------------------

/// A mask of `defaults/`: key, and how the names begin that it takes.
type Mask = (&'static str, &'static str);
const LOG_COMPRESSIONS: Mask = ("enabled-log-compressions", "COMPRESS");
const NET_COMPRESSIONS: Mask = ("enabled-net-compressions", "COMPRESS");
const LOG_DIGESTS: Mask = ("disabled-log-digests", "CHKSUM");
const NET_DIGESTS: Mask = ("disabled-net-digests", "CHKSUM");

fn family(begin: &'static str) -> impl Iterator<Item = (u64, &'static str)> + Clone {
    FEATURE_NAMES
        .iter()
        .copied()
        .filter(move |(_, n)| n.starts_with(begin))
}

/// Names or numbers with `|` between; empty = none. Only of the family whose names begin so.
fn parse_mask(text: &str, begin: &'static str) -> Done<u64> {
    let all = family(begin).fold(0, |a, (bit, _)| a | bit);
    let mut mask = 0;
    for word in text.split('|').map(str::trim).filter(|w| !w.is_empty()) {
        let named = family(begin).find(|(_, n)| *n == word).map(|(bit, _)| bit);
        let numbered = || match word.strip_prefix("0x") {
            Some(hex) => u64::from_str_radix(hex, 16).ok(),
            None => word.parse().ok(),
        };
        match named.or_else(numbered) {
            Some(bits) if bits & !all == 0 => mask |= bits,
            _ => {
                let list: Vec<&str> = family(begin).map(|(_, n)| n).collect();
                let near = nearest(word, list.iter().copied());
                let advice = near.map_or(String::new(), |n| format!("did you mean {n}? "));
                return usage(format!(
                    "unknown feature {}; {advice}known here: {}",
                    show(word),
                    list.join("|")
                ));
            }
        }
    }
    Ok(mask)
}

fn mask_names(mask: u64, begin: &'static str) -> String {
    let list: Vec<&str> = family(begin)
        .filter(|(bit, _)| mask & bit != 0)
        .map(|(_, n)| n)
        .collect();
    list.join("|")
}

fn set_mask(ctx: &Ctx, args: &[String], (name, begin): Mask) -> Done {
    let text = args.first().map(String::as_str).unwrap_or_default();
    let mask = parse_mask(text, begin)?;
    put(
        ctx,
        "defaults".into(),
        Key::Default(name.into()),
        format!("0x{mask:08x}"),
    )?;
    let all = family(begin).fold(0, |a, (bit, _)| a | bit);
    if begin == "CHKSUM" && mask == all {
        out::warn("all digests are disabled: CHKSUM_MD5_OLD is used, because something must be");
    }
    if begin == "COMPRESS" && mask & 0x0100_0000 != 0 {
        out::warn("COMPRESS_LZO can only be read by this version, it is not used for writing");
    }
    let what = mask_names(mask, begin);
    let what = if what.is_empty() { "none" } else { &what };
    ctx.result(format!("{name}: {what}"));
    Ok(())
}

fn get_mask(ctx: &Ctx, (name, begin): Mask) -> Done {
    let snap = ctx.snapshot()?;
    let text = snap.text(&Key::Default(name.into())).unwrap_or("0");
    // A damaged link counts as unset, as for the daemons.
    let number = match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16),
        None => text.parse(),
    };
    out::say(mask_names(number.unwrap_or(0), begin));
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn masks_are_names_or_numbers_of_their_family() {
        let c = |t| parse_mask(t, "COMPRESS").map_err(|e| e.to_string());
        assert_eq!(c(""), Ok(0));
        assert_eq!(c("COMPRESS_LZ4"), Ok(0x0200_0000));
        assert_eq!(c("COMPRESS_LZ4|COMPRESS_ZLIB"), Ok(0x0600_0000));
        assert_eq!(c("0x02000000|67108864"), Ok(0x0600_0000));
        assert_eq!(parse_mask("CHKSUM_MD5", "CHKSUM").unwrap(), 0x0002_0000);
        for bad in [
            "CHKSUM_MD5",
            "LZ4",
            "COMPRESS_LZ5",
            "0x1",
            "-1",
            "0xx",
            "1 2",
        ] {
            let e = c(bad).unwrap_err();
            assert!(e.contains(bad) && e.contains("COMPRESS_LZ4|"), "{e}");
        }
        assert!(
            c("COMPRESS_LZ5")
                .unwrap_err()
                .contains("did you mean COMPRESS_LZ")
        );
        assert!(parse_mask("COMPRESS_LZ4", "CHKSUM").is_err());
        assert_eq!(
            mask_names(0x0600_0000, "COMPRESS"),
            "COMPRESS_LZ4|COMPRESS_ZLIB"
        );
        assert_eq!(mask_names(0x0600_0000, "CHKSUM"), "");
    }

    #[test]
    fn numbers_are_plain() {
        let n = |t: &str| number("limit", &[t.to_string()], 100);
        assert_eq!((n("0"), n("100")), (Ok(0), Ok(100)));
        for bad in [
            "",
            "101",
            "-1",
            "+1",
            "1.5",
            "x",
            " 1",
            "99999999999999999999999",
        ] {
            let e = n(bad).unwrap_err();
            assert_eq!(e.exit(), 2);
            assert!(e.to_string().contains(&show(bad)), "{e}");
        }
    }

    #[test]
    fn lists_have_each_name_once() {
        let l = |t| list::<HostName>("host", t).map_err(|e| e.to_string());
        assert_eq!(l(""), Ok(vec![]));
        assert_eq!(l("(none)"), Ok(vec![]));
        assert_eq!(l("b, c").unwrap().len(), 2);
        assert!(l("b,b").unwrap_err().contains("b is in the list twice"));
        for bad in ["b,", ",", "a/b", "..", "a b", "x\ny"] {
            assert!(l(bad).is_err(), "{bad}");
        }
    }
}
