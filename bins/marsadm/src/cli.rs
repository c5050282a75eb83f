//! The command line: options anywhere, then the command, resources and arguments (marsadm-commands.md section 1).
use crate::error::{CmdError, Done, one_line, show, usage};
use crate::size::{parse_size, parse_timeout};
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, ArgMatches, Command};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::time::Duration;

/// Options, checked.
#[derive(Clone, PartialEq, Debug)]
pub struct Options {
    /// `--force`
    pub force: bool,
    /// `--ignore-sync`
    pub ignore_sync: bool,
    /// `--dry-run`
    pub dry_run: bool,
    /// `--verbose`
    pub verbose: u32,
    /// `--timeout`: not given, or seconds, or for ever.
    pub timeout: Option<Option<Duration>>,
    /// `--window`
    pub window: Duration,
    /// `--threshold`, bytes
    pub threshold: u64,
    /// `--host`, unchecked text
    pub host: Option<String>,
    /// `--ip`
    pub ip: Option<Ipv4Addr>,
    /// `--ip-PEER`
    pub peer_ips: BTreeMap<String, Ipv4Addr>,
    /// `--thresh-logfiles`, else of the configuration
    pub thresh_logfiles: Option<usize>,
    /// `--thresh-logsize`, bytes, else of the configuration
    pub thresh_logsize: Option<u64>,
    /// `--json`
    pub json: bool,
    /// `--size`, bytes
    pub size: Option<u64>,
    /// `--ssh-port`; 0 = no ssh
    pub ssh_port: u16,
    /// `--ssh-opts`
    pub ssh_opts: String,
    /// `--macro`
    pub macro_text: Option<String>,
    /// `--systemd-enable`: may units of the administrator be generated, started and stopped?
    pub systemd_enable: bool,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            force: false,
            ignore_sync: false,
            dry_run: false,
            verbose: 0,
            timeout: None,
            window: Duration::from_secs(60),
            threshold: 10 << 20,
            host: None,
            ip: None,
            peer_ips: BTreeMap::new(),
            thresh_logfiles: None,
            thresh_logsize: None,
            json: false,
            size: None,
            ssh_port: 22,
            ssh_opts: "-A -o StrictHostKeyChecking=no -o ConnectTimeout=5".into(),
            macro_text: None,
            systemd_enable: true,
        }
    }
}

impl Options {
    /// The limit for a wait whose default is `default_secs`; `None` = for ever.
    pub fn limit(&self, default_secs: u64) -> Option<Duration> {
        self.timeout
            .unwrap_or(Some(Duration::from_secs(default_secs)))
    }
}

/// A parsed command line.
#[derive(Clone, PartialEq, Debug)]
pub struct Invocation {
    /// Options.
    pub opts: Options,
    /// Command word without `force-`; empty when none was given.
    pub command: String,
    /// Everything behind it.
    pub args: Vec<String>,
}

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
        .arg(flag("json", None, "view, config show: output for machines"))
        .arg(
            Arg::new("words")
                .num_args(0..)
                .action(ArgAction::Append)
                .hide(true),
        )
}

/// Reads the arguments (without the program name).
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Done<Invocation> {
    let mut peer_ips = BTreeMap::new();
    let mut rest = vec!["marsadm".to_string()];
    let mut only_words = false;
    for arg in args {
        let Some(arg) = arg.to_str() else {
            return usage(format!(
                "argument {} is not valid UTF-8",
                show(&arg.to_string_lossy())
            ));
        };
        only_words |= arg == "--";
        match arg.strip_prefix("--ip-").filter(|_| !only_words) {
            Some(peer) => {
                let Some((peer, ip)) = peer.split_once('=') else {
                    return usage(format!(
                        "option {} needs a value: --ip-PEER=ADDRESS",
                        show(arg)
                    ));
                };
                if let Err(e) = peer.parse::<mars_tree::HostName>() {
                    return usage(format!("option --ip-PEER: {e}"));
                }
                peer_ips.insert(peer.to_string(), address("--ip-PEER", ip)?);
            }
            None => rest.push(arg.to_string()),
        }
    }
    let m = definition()
        .try_get_matches_from(rest)
        .map_err(|e| CmdError::Usage(clap_line(&e)))?;
    let mut opts = options(&m)?;
    opts.peer_ips = peer_ips;
    let mut words = m.get_many::<String>("words").into_iter().flatten().cloned();
    let mut command = words.next().unwrap_or_default();
    let args: Vec<String> = words.collect();
    if let Some(c) = command.strip_prefix("force-") {
        opts.force = true;
        command = c.to_string();
    }
    if m.get_count("help") > 0 || matches!(command.as_str(), "h" | "help") {
        command = "help".into();
    } else if m.get_count("version") > 0 || command == "v" {
        command = "version".into();
    }
    Ok(Invocation {
        opts,
        command,
        args,
    })
}

fn options(m: &ArgMatches) -> Done<Options> {
    let text = |name: &str| m.get_one::<String>(name).map(String::as_str);
    let defaults = Options::default();
    let seconds = |name: &str, default: Duration| match text(name) {
        None => Ok(default),
        Some(t) => match t.parse::<u32>() {
            Ok(s) => Ok(Duration::from_secs(u64::from(s))),
            Err(_) => usage(format!("--{name}={}: give whole seconds", show(t))),
        },
    };
    let size = |name: &str| match text(name) {
        None => Ok(None),
        Some(t) => match parse_size(t) {
            Some(s) => Ok(Some(s)),
            None => usage(format!(
                "--{name}={}: give bytes, or a number with k m g t p (powers of 1000) or K M G T P (powers of 1024)",
                show(t)
            )),
        },
    };
    let mut verbose: u32 = 0;
    for v in m.get_many::<String>("verbose").into_iter().flatten() {
        verbose = match v.as_str() {
            "" => verbose.saturating_add(1),
            n => match n.parse() {
                Ok(n) => n,
                Err(_) => return usage(format!("--verbose={}: give a number", show(n))),
            },
        };
    }
    let ssh_port = match text("ssh-port") {
        _ if m.get_count("no-ssh") > 0 => 0,
        None => defaults.ssh_port,
        Some(t) => match t.parse() {
            Ok(p) => p,
            Err(_) => {
                return usage(format!(
                    "--ssh-port={}: give a port number, 0 = no ssh",
                    show(t)
                ));
            }
        },
    };
    Ok(Options {
        force: m.get_count("force") > 0,
        ignore_sync: m.get_count("ignore-sync") > 0,
        dry_run: m.get_count("dry-run") > 0,
        verbose,
        timeout: text("timeout")
            .map(|t| parse_timeout("--timeout", t))
            .transpose()?,
        window: seconds("window", defaults.window)?,
        threshold: size("threshold")?.unwrap_or(defaults.threshold),
        host: text("host").map(str::to_string),
        ip: text("ip").map(|t| address("--ip", t)).transpose()?,
        peer_ips: BTreeMap::new(),
        thresh_logfiles: match text("thresh-logfiles") {
            None => None,
            Some(t) => match t.parse() {
                Ok(n) => Some(n),
                Err(_) => return usage(format!("--thresh-logfiles={}: give a number", show(t))),
            },
        },
        thresh_logsize: match text("thresh-logsize") {
            None => None,
            Some(t) => match parse_size(&format!("{t}g")) {
                Some(s) => Some(s),
                None => return usage(format!("--thresh-logsize={}: give a number of GB", show(t))),
            },
        },
        json: m.get_count("json") > 0,
        size: size("size")?,
        ssh_port,
        ssh_opts: text("ssh-opts").map_or(defaults.ssh_opts, str::to_string),
        macro_text: text("macro").map(str::to_string),
        systemd_enable: match text("systemd-enable") {
            None | Some("1") => true,
            Some("0") => false,
            Some(t) => return usage(format!("--systemd-enable={}: give 0 or 1", show(t))),
        },
    })
}

/// An IPv4 address that can belong to one host.
pub fn address(option: &str, text: &str) -> Done<Ipv4Addr> {
    match text.parse::<Ipv4Addr>() {
        Ok(a) if a.is_unspecified() || a.is_multicast() || a.is_broadcast() => {
            usage(format!("{option}={a}: this is no address of a single host"))
        }
        Ok(a) => Ok(a),
        Err(_) => usage(format!(
            "{option}={}: give an IPv4 address such as 10.0.0.1",
            show(text)
        )),
    }
}

/// What clap has to say, in one line of ours.
fn clap_line(e: &clap::Error) -> String {
    let context = |kind| match e.get(kind) {
        Some(ContextValue::String(s)) => Some(s.clone()),
        Some(ContextValue::Strings(s)) => s.first().cloned(),
        _ => None,
    };
    let arg = context(ContextKind::InvalidArg).unwrap_or_default();
    match e.kind() {
        ErrorKind::UnknownArgument => match context(ContextKind::SuggestedArg) {
            Some(near) => format!("unknown option {}; did you mean {near}?", show(&arg)),
            None => format!("unknown option {}; see marsadm --help", show(&arg)),
        },
        _ => {
            let text = one_line(&e.to_string());
            let text = text.strip_prefix("error: ").unwrap_or(&text);
            let first = text.split("; ").next().unwrap_or(text);
            format!(
                "{}; see marsadm --help",
                first.chars().take(200).collect::<String>()
            )
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    fn p(args: &[&str]) -> Done<Invocation> {
        parse(args.iter().map(OsString::from))
    }

    #[test]
    fn options_may_stand_anywhere() {
        let i = p(&["primary", "--force", "r1", "--timeout=-1", "-d"]).unwrap();
        assert_eq!(i.command, "primary");
        assert_eq!(i.args, ["r1"]);
        assert!(i.opts.force && i.opts.dry_run);
        assert_eq!(i.opts.timeout, Some(None));
        assert_eq!(i.opts.limit(30), None);
        assert_eq!(
            p(&["x"]).unwrap().opts.limit(30),
            Some(Duration::from_secs(30))
        );
        assert_eq!(p(&["x", "--timeout", "-1"]).unwrap().opts.limit(30), None);
    }

    #[test]
    fn force_prefix_belongs_to_the_command_only() {
        let i = p(&["force-primary", "force-me"]).unwrap();
        assert_eq!((i.command.as_str(), i.opts.force), ("primary", true));
        assert_eq!(i.args, ["force-me"]);
    }

    #[test]
    fn verbose_counts_or_is_set() {
        assert_eq!(p(&["-v", "-v", "x"]).unwrap().opts.verbose, 2);
        assert_eq!(p(&["-vv", "x"]).unwrap().opts.verbose, 2);
        assert_eq!(p(&["-v=3", "x"]).unwrap().opts.verbose, 3);
        assert_eq!(p(&["--verbose=2", "x"]).unwrap().opts.verbose, 2);
        assert_eq!(p(&["--verbose", "view"]).unwrap().command, "view");
    }

    #[test]
    fn help_and_version_forms() {
        for form in [
            &["help"][..],
            &["h"],
            &["--help"],
            &["-h"],
            &["primary", "-h"],
        ] {
            assert_eq!(p(form).unwrap().command, "help");
        }
        for form in [&["version"][..], &["v"], &["--version"]] {
            assert_eq!(p(form).unwrap().command, "version");
        }
    }

    #[test]
    fn unknown_options_are_one_line_with_the_nearest() {
        let Err(CmdError::Usage(text)) = p(&["view", "--timout=3"]) else {
            panic!("accepted");
        };
        assert!(
            text.contains("--timout") && text.contains("--timeout"),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1);
        for bad in [
            &["view", "--frob"][..],
            &["view", "-x"],
            &["view", "--timeout"],
            &["view", "--dry-run=1"],
            &["view", "--ip=1.2.3"],
            &["view", "--ip=0.0.0.0"],
            &["view", "--ip-a"],
            &["view", "--ip-a b=1.2.3.4"],
            &["view", "--window=-1"],
            &["view", "--threshold=x"],
            &["view", "--verbose=x"],
            &["view", "--fr\nob"],
        ] {
            match p(bad) {
                Err(CmdError::Usage(text)) => assert_eq!(text.lines().count(), 1, "{text}"),
                other => panic!("{bad:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn peer_addresses_are_collected() {
        let i = p(&[
            "join-cluster",
            "alpha",
            "--ip-alpha=127.0.0.2",
            "--ip=127.0.0.3",
        ])
        .unwrap();
        assert_eq!(i.opts.peer_ips["alpha"], Ipv4Addr::new(127, 0, 0, 2));
        assert_eq!(i.opts.ip, Some(Ipv4Addr::new(127, 0, 0, 3)));
        assert_eq!(i.args, ["alpha"]);
    }
}
