//! The command line: options anywhere, then the command, resources and arguments (marsadm-commands.md section 1).
use crate::error::{CmdError, Done, one_line, show, usage};
use crate::size::{parse_size, parse_timeout};
use clap::ArgMatches;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

mod definition;
pub use definition::definition;

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
    /// `--wait`: join-resource and invalidate end when the resource is UpToDate.
    pub wait: bool,
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
    /// `--logger`: the syslog program; empty = none, not given = see `record`
    pub logger: Option<String>,
    /// `--backup-dir`, else a new one below the root
    pub backup_dir: Option<PathBuf>,
    /// `--ignore-deleted-peers`: 0 off, 1 not counted and not waited for, 2 as if they were no members
    pub ignore_deleted_peers: u8,
    /// `--stuck-seconds`
    pub stuck: Duration,
    /// `--keep-backup-hours`
    pub keep_backup: Duration,
    /// `--autoclean`: age in days
    pub autoclean_days: Option<u32>,
    /// `--parallel`: at most so many resources at once
    pub parallel: Option<usize>,
    /// `--singlestep`
    pub singlestep: bool,
    /// `--error-injection-phase`, from 1
    pub fail_in_phase: Option<usize>,
    /// About options that do nothing.
    pub notes: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Options {
            force: false,
            ignore_sync: false,
            dry_run: false,
            verbose: 0,
            wait: false,
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
            logger: None,
            backup_dir: None,
            ignore_deleted_peers: 1,
            stuck: Duration::from_secs(3600),
            keep_backup: Duration::from_secs(168 * 3600),
            autoclean_days: None,
            parallel: None,
            singlestep: false,
            fail_in_phase: None,
            notes: Vec::new(),
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
    let mut args: Vec<String> = words.collect();
    if let Some(c) = command.strip_prefix("force-") {
        opts.force = true;
        command = c.to_string();
    }
    if m.get_count("help") > 0 && !matches!(command.as_str(), "" | "h" | "help") {
        // `COMMAND --help` is `help COMMAND`, whatever stands behind it.
        args = vec![std::mem::take(&mut command)];
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
        wait: m.get_count("wait") > 0,
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
        logger: text("logger").map(|t| program("--logger", t)).transpose()?,
        backup_dir: text("backup-dir").map(directory).transpose()?,
        ignore_deleted_peers: match text("ignore-deleted-peers") {
            None => defaults.ignore_deleted_peers,
            Some("0") => 0,
            Some("1") => 1,
            Some("2") => 2,
            Some(t) => {
                return usage(format!(
                    "--ignore-deleted-peers={}: give 0, 1 or 2",
                    show(t)
                ));
            }
        },
        stuck: seconds("stuck-seconds", defaults.stuck)?,
        keep_backup: whole(text("keep-backup-hours"), "keep-backup-hours", "hours")?
            .map_or(defaults.keep_backup, |h: u32| {
                Duration::from_secs(u64::from(h) * 3600)
            }),
        autoclean_days: whole(text("autoclean"), "autoclean", "days")?,
        parallel: match m.get_many::<String>("parallel").and_then(Iterator::last) {
            None => None,
            Some(t) if t.is_empty() => Some(PARALLEL_MAX),
            Some(t) => match t.parse::<usize>() {
                Ok(n) if n > 0 => Some(n.min(PARALLEL_MAX)),
                _ => return usage(format!("--parallel={}: give a number above 0", show(t))),
            },
        },
        singlestep: m.get_count("singlestep") > 0,
        fail_in_phase: whole(
            text("error-injection-phase"),
            "error-injection-phase",
            "phases",
        )?
        .map(|n: usize| n.max(1)),
        notes: ["delete-method", "max-deletions"]
            .into_iter()
            .filter(|name| text(name).is_some())
            .map(|name| format!("option --{name} is obsolete and ignored"))
            .collect(),
    })
}

/// Most resources that are worked on at once.
const PARALLEL_MAX: usize = 64;

/// A whole number of something.
fn whole<T: std::str::FromStr>(text: Option<&str>, name: &str, what: &str) -> Done<Option<T>> {
    match text.map(str::parse) {
        None => Ok(None),
        Some(Ok(n)) => Ok(Some(n)),
        Some(Err(_)) => usage(format!(
            "--{name}={}: give whole {what}",
            show(text.unwrap_or_default())
        )),
    }
}

/// A program by its path; empty = none.
fn program(option: &str, text: &str) -> Done<String> {
    if !text.is_empty() && (!text.starts_with('/') || text.chars().any(char::is_control)) {
        return usage(format!(
            "{option}={}: give the absolute path of a program, or nothing for none",
            show(text)
        ));
    }
    Ok(text.to_string())
}

/// `--backup-dir`
fn directory(text: &str) -> Done<PathBuf> {
    let path = PathBuf::from(text);
    let odd = path
        .components()
        .any(|c| c == std::path::Component::ParentDir)
        || text.chars().any(char::is_control)
        || text.len() > 1000;
    if !path.is_absolute() || odd {
        return usage(format!(
            "--backup-dir={}: give an absolute path without ..",
            show(text)
        ));
    }
    Ok(path)
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
    fn every_option_of_the_original_is_accepted() {
        let i = p(&[
            "cron",
            "--logger=/bin/true",
            "--backup-dir=/b",
            "--ignore-deleted-peers=2",
            "--stuck-seconds=7",
            "--keep-backups=1",
            "--autoclean=3",
            "--parallel=2",
            "--singlestep",
            "--error-injection-phase=2",
            "--delete-method=1",
            "--max-deletions=9",
        ])
        .unwrap();
        let o = &i.opts;
        assert_eq!(o.logger.as_deref(), Some("/bin/true"));
        assert_eq!(o.backup_dir, Some(PathBuf::from("/b")));
        assert_eq!(o.ignore_deleted_peers, 2);
        assert_eq!(o.stuck, Duration::from_secs(7));
        assert_eq!(o.keep_backup, Duration::from_secs(3600));
        assert_eq!((o.autoclean_days, o.parallel), (Some(3), Some(2)));
        assert!(o.singlestep);
        assert_eq!(o.fail_in_phase, Some(2));
        assert_eq!(o.notes.len(), 2);
        let o = p(&["x", "--parallel", "--keep-backup-hours=2", "--logger="])
            .unwrap()
            .opts;
        assert_eq!(o.parallel, Some(PARALLEL_MAX));
        assert_eq!(o.keep_backup, Duration::from_secs(7200));
        assert_eq!(o.logger.as_deref(), Some(""));
        let o = p(&["x"]).unwrap().opts;
        assert_eq!(o, Options::default());
        for bad in [
            "--logger=sh",
            "--logger=/a\nb",
            "--backup-dir=b",
            "--backup-dir=/a/../b",
            "--ignore-deleted-peers=3",
            "--stuck-seconds=-1",
            "--keep-backups=x",
            "--autoclean=1.5",
            "--parallel=0",
            "--parallel=x",
            "--error-injection-phase=x",
        ] {
            match p(&["cron", bad]) {
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
