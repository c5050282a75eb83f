//! Where templates, instances and foreign units are, and the syntax: the environment variables of the template engine.
use mars_tree::{HostEnv, UnitManager};
use std::collections::BTreeSet;
use std::path::PathBuf;

/// The characters that begin a substitution and a match.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Syntax {
    /// `SYSTEMD_ESCAPE`, default `@`.
    pub subst: char,
    /// `SYSTEMD_INCAPE`, default `^`. `~` is always accepted beside it.
    pub matching: char,
}

impl Default for Syntax {
    fn default() -> Syntax {
        Syntax {
            subst: '@',
            matching: '^',
        }
    }
}

/// Everything that the environment says about templates.
#[derive(Clone, Debug)]
pub struct TemplateEnv {
    /// `MARS_PATH` and `SYSTEMD_SUBDIR`: directories with templates, first hit wins.
    pub template_dirs: Vec<PathBuf>,
    /// `SYSTEMD_TARGET_DIR`: where instances are written.
    pub target_dir: PathBuf,
    /// `ETC_MARSADM` and `SYSTEMD_SCRIPTS_SUBDIR`: where instances of `.script` templates are written.
    pub script_dir: PathBuf,
    /// `SYSTEMD_UNIT_PATH`, `SYSTEMD_SYSTEM_DIRS`: units found here need no template.
    pub foreign_dirs: Vec<PathBuf>,
    /// `SYSTEMD_SUFFIXES`: what a unit name may end with.
    pub suffixes: BTreeSet<String>,
    /// `SYSTEMD_PREDEFINED`: never looked up as templates.
    pub predefined: BTreeSet<String>,
    /// `SYSTEMD_WATCHER_UNITS`: wanted for every local resource if there is a template.
    pub watchers: Vec<String>,
    /// `SYSTEMD_DEPENDENCIES`: keys whose values are followed.
    pub keys: BTreeSet<String>,
    /// `SYSTEMD_RECURSIVE_CALL`: no systemd actions below such a process.
    pub recursive_call: String,
    /// `SYSTEMD_ESCAPE`, `SYSTEMD_INCAPE`.
    pub syntax: Syntax,
    /// Scripts run in systemd units of their own: what they start must not end with whoever called them, and may do more than the
    /// hardened unit of the reconciler.
    pub own_units: bool,
    /// What makes a child process the same host.
    pub vars: Vec<(&'static str, String)>,
}

/// A variable with a value that is not allowed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{name}={value:?}: {why}")]
pub struct TemplateEnvError {
    /// Variable.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// What would be right.
    pub why: &'static str,
}

const SUFFIXES: &str =
    "service socket device mount automount swap target path timer slice scope script";

const KEYS: &str = "Unit Service Slice Sockets Requires Requisite Wants BindsTo PartOf Conflicts Before After OnFailure \
    PropagatesReloadTo ReloadPropagatedFrom JoinsNamespaceOf RequiresMountsFor Alias WantedBy RequiredBy Also DefaultInstance";

/// The units of systemd.special(7) and the roots of the trees.
const PREDEFINED: &str = "basic.target bluetooth.target cryptsetup-pre.target cryptsetup.target veritysetup-pre.target \
    veritysetup.target ctrl-alt-del.target blockdev@.target boot-complete.target default.target emergency.target exit.target \
    factory-reset.target final.target first-boot-complete.target getty.target getty-pre.target graphical.target halt.target \
    hibernate.target hybrid-sleep.target suspend-then-hibernate.target initrd.target initrd-fs.target initrd-root-device.target \
    initrd-root-fs.target initrd-usr-fs.target integritysetup-pre.target integritysetup.target kbrequest.target kexec.target \
    local-fs-pre.target local-fs.target machines.target multi-user.target network-online.target network-pre.target network.target \
    nss-lookup.target nss-user-lookup.target paths.target poweroff.target printer.target reboot.target remote-cryptsetup.target \
    remote-veritysetup.target remote-fs-pre.target remote-fs.target rescue.target rpcbind.target runlevel2.target runlevel3.target \
    runlevel4.target runlevel5.target shutdown.target sigpwr.target sleep.target slices.target smartcard.target sockets.target \
    sound.target storage-target-mode.target suspend.target swap.target sysinit.target system-update.target \
    system-update-pre.target time-set.target time-sync.target timers.target umount.target usb-gadget.target -.slice system.slice \
    user.slice machine.slice -.mount init.scope dbus.service dbus.socket display-manager.service system-update-cleanup.service";

impl TemplateEnv {
    /// From the process environment.
    pub fn from_env(host: &HostEnv) -> Result<TemplateEnv, TemplateEnvError> {
        let env =
            Self::from_vars(|k| std::env::var_os(k).map(|v| v.to_string_lossy().into_owned()))?;
        Ok(TemplateEnv {
            own_units: host.unit_manager == UnitManager::Systemd,
            vars: host.to_vars(),
            ..env
        })
    }

    /// From any source of variables (tests).
    pub fn from_vars(
        get: impl Fn(&'static str) -> Option<String>,
    ) -> Result<TemplateEnv, TemplateEnvError> {
        let dir = |name, default: &str| match get(name) {
            None => Ok(PathBuf::from(default)),
            Some(v) if v.starts_with('/') && !v.contains('\u{fffd}') => Ok(PathBuf::from(v)),
            Some(value) => Err(TemplateEnvError {
                name,
                value,
                why: "an absolute path is needed",
            }),
        };
        let one = |name, default: char| match get(name) {
            None => Ok(default),
            Some(v) => {
                let mut chars = v.chars();
                match (chars.next(), chars.next()) {
                    (Some(c), None) if c.is_ascii_punctuation() && !"/{}\\%#".contains(c) => Ok(c),
                    _ => Err(TemplateEnvError {
                        name,
                        value: v,
                        why: "one punctuation character is needed, none of / { } \\ % #",
                    }),
                }
            }
        };
        let list = |name, default: &str| words(&get(name).unwrap_or_else(|| default.to_string()));
        let sub = |name, default: &str| match get(name) {
            None => Ok(default.to_string()),
            Some(v) if v.split('/').all(|p| p != "..") && !v.starts_with('/') => Ok(v),
            Some(value) => Err(TemplateEnvError {
                name,
                value,
                why: "a path below the directory is needed",
            }),
        };
        let etc = dir("ETC_MARSADM", "/etc/marsadm")?;
        let scripts = sub("SYSTEMD_SCRIPTS_SUBDIR", "systemd-generated-scripts")?;
        let subdir = sub("SYSTEMD_SUBDIR", "systemd-templates")?;
        let syntax = Syntax {
            subst: one("SYSTEMD_ESCAPE", '@')?,
            matching: one("SYSTEMD_INCAPE", '^')?,
        };
        if syntax.subst == syntax.matching || syntax.subst == '~' {
            return Err(TemplateEnvError {
                name: "SYSTEMD_ESCAPE",
                value: syntax.subst.to_string(),
                why: "another character than the one for matching is needed",
            });
        }
        Ok(TemplateEnv {
            template_dirs: template_dirs(get("MARS_PATH"), get("HOME"), &subdir),
            target_dir: dir("SYSTEMD_TARGET_DIR", "/run/systemd/system")?,
            script_dir: etc.join(scripts),
            foreign_dirs: foreign_dirs(get("SYSTEMD_UNIT_PATH"), get("SYSTEMD_SYSTEM_DIRS")),
            suffixes: list("SYSTEMD_SUFFIXES", SUFFIXES).into_iter().collect(),
            predefined: list("SYSTEMD_PREDEFINED", PREDEFINED).into_iter().collect(),
            watchers: list("SYSTEMD_WATCHER_UNITS", "mars-@escvar{res}-trigger.path"),
            keys: list("SYSTEMD_DEPENDENCIES", KEYS).into_iter().collect(),
            recursive_call: get("SYSTEMD_RECURSIVE_CALL")
                .unwrap_or_else(|| r"clustermanagerd|nodeagent\.real".to_string()),
            syntax,
            own_units: false,
            vars: Vec::new(),
        })
    }

    /// May this be the name of a unit? What systemd allows, with a known suffix, and no hidden file.
    pub fn check_name(&self, unit: &str) -> Result<(), &'static str> {
        if unit.len() > 255 {
            return Err("it has more than 255 bytes");
        }
        let fine = |b: u8| b.is_ascii_alphanumeric() || b":-_.\\@".contains(&b);
        if !unit.bytes().all(fine) {
            return Err("only letters, digits and : - _ . \\ @ are allowed");
        }
        let Some((stem, suffix)) = unit.rsplit_once('.') else {
            return Err("it needs an ending such as .service or .mount");
        };
        if !self.suffixes.contains(suffix) {
            return Err("its ending is no kind of unit");
        }
        if stem.is_empty() || unit.starts_with(['.', '@']) {
            return Err("nothing stands before its ending");
        }
        Ok(())
    }
}

/// A list with commas or blanks between.
fn words(list: &str) -> Vec<String> {
    list.split([',', ' ', '\t', '\n'])
        .filter(|w| !w.is_empty())
        .map(str::to_string)
        .collect()
}

fn template_dirs(path: Option<String>, home: Option<String>, subdir: &str) -> Vec<PathBuf> {
    if let Some(path) = path {
        return std::env::split_paths(&path)
            .filter(|p| !p.as_os_str().is_empty())
            .map(|p| match p.join(subdir) {
                // A directory that somebody named may hold the templates itself.
                sub if !sub.is_dir() => p,
                sub => sub,
            })
            .collect();
    }
    let mut dirs = vec![PathBuf::from(".")];
    if let Some(home) = home.filter(|h| !h.is_empty()) {
        dirs.push(PathBuf::from(home).join(".marsadm"));
    }
    dirs.extend(["/etc/marsadm", "/usr/lib/marsadm", "/usr/local/lib/marsadm"].map(PathBuf::from));
    dirs.into_iter().map(|d| d.join(subdir)).collect()
}

fn foreign_dirs(path: Option<String>, dirs: Option<String>) -> Vec<PathBuf> {
    let defaults = || match &dirs {
        Some(list) => words(list).into_iter().map(PathBuf::from).collect(),
        None => [
            "/etc/systemd/system",
            "/run/systemd/system",
            "/run/systemd/generator",
            "/usr/local/lib/systemd/system",
            "/usr/lib/systemd/system",
            "/lib/systemd/system",
        ]
        .map(PathBuf::from)
        .to_vec(),
    };
    let Some(path) = path else {
        return defaults();
    };
    let mut found: Vec<PathBuf> = path
        .split(':')
        .filter(|p| !p.is_empty())
        .map(PathBuf::from)
        .collect();
    if path.ends_with(':') || found.is_empty() {
        found.extend(defaults());
    }
    found
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn env(vars: &[(&str, &str)]) -> Result<TemplateEnv, TemplateEnvError> {
        TemplateEnv::from_vars(|k| {
            let found = vars.iter().find(|(n, _)| *n == k);
            found.map(|(_, v)| v.to_string())
        })
    }

    #[test]
    fn env_defaults_are_the_documented_ones() {
        let e = env(&[("HOME", "/root")]).unwrap();
        let dirs: Vec<String> = e
            .template_dirs
            .iter()
            .map(|d| d.display().to_string())
            .collect();
        assert_eq!(
            dirs,
            [
                "./systemd-templates",
                "/root/.marsadm/systemd-templates",
                "/etc/marsadm/systemd-templates",
                "/usr/lib/marsadm/systemd-templates",
                "/usr/local/lib/marsadm/systemd-templates",
            ]
        );
        assert_eq!(e.target_dir, PathBuf::from("/run/systemd/system"));
        assert_eq!(
            e.script_dir,
            PathBuf::from("/etc/marsadm/systemd-generated-scripts")
        );
        assert_eq!(e.suffixes.len(), 12);
        assert_eq!(e.keys.len(), 22);
        assert!(e.predefined.contains("multi-user.target"));
        assert_eq!(e.watchers, ["mars-@escvar{res}-trigger.path"]);
        assert_eq!(e.syntax, Syntax::default());
    }

    #[test]
    fn env_every_variable_counts() {
        let e = env(&[
            ("MARS_PATH", "/a:/b"),
            ("SYSTEMD_SUBDIR", "t"),
            ("SYSTEMD_TARGET_DIR", "/target"),
            ("ETC_MARSADM", "/etc/x"),
            ("SYSTEMD_SCRIPTS_SUBDIR", "s"),
            ("SYSTEMD_UNIT_PATH", "/u1:/u2:"),
            ("SYSTEMD_SYSTEM_DIRS", "/s1,/s2"),
            ("SYSTEMD_SUFFIXES", "service,script"),
            ("SYSTEMD_PREDEFINED", "x.service"),
            ("SYSTEMD_WATCHER_UNITS", "w-@{res}.path"),
            ("SYSTEMD_DEPENDENCIES", "After,Wants"),
            ("SYSTEMD_RECURSIVE_CALL", "agent"),
            ("SYSTEMD_ESCAPE", "$"),
            ("SYSTEMD_INCAPE", "!"),
        ])
        .unwrap();
        let paths = |p: &[&str]| p.iter().map(PathBuf::from).collect::<Vec<_>>();
        // Neither has the subdirectory, so they stand for themselves.
        assert_eq!(e.template_dirs, paths(&["/a", "/b"]));
        assert_eq!(e.target_dir, PathBuf::from("/target"));
        assert_eq!(e.script_dir, PathBuf::from("/etc/x/s"));
        assert_eq!(e.foreign_dirs, paths(&["/u1", "/u2", "/s1", "/s2"]));
        assert_eq!(e.suffixes.len(), 2);
        assert_eq!(e.predefined.len(), 1);
        assert_eq!(e.watchers, ["w-@{res}.path"]);
        assert_eq!(e.keys.len(), 2);
        assert_eq!(e.recursive_call, "agent");
        assert_eq!((e.syntax.subst, e.syntax.matching), ('$', '!'));
    }

    #[test]
    fn env_bad_values_are_refused() {
        for (name, value) in [
            ("SYSTEMD_TARGET_DIR", "run"),
            ("ETC_MARSADM", ""),
            ("SYSTEMD_ESCAPE", "ab"),
            ("SYSTEMD_ESCAPE", "{"),
            ("SYSTEMD_ESCAPE", "^"),
            ("SYSTEMD_INCAPE", "a"),
            ("SYSTEMD_SUBDIR", "../x"),
            ("SYSTEMD_SCRIPTS_SUBDIR", "/x"),
        ] {
            let e = env(&[(name, value)]).unwrap_err();
            assert_eq!((e.name, e.value.as_str()), (name, value));
        }
    }

    #[test]
    fn env_names_of_units() {
        let e = env(&[]).unwrap();
        for good in ["a.service", "mnt-lv\\x2d0.mount", "-.mount", "x@y.timer"] {
            assert_eq!(e.check_name(good), Ok(()), "{good}");
        }
        for bad in [
            "",
            "a",
            ".service",
            "..service",
            "@.service",
            "a.conf",
            "../a.service",
            "a/b.service",
            "a b.service",
            "a\n.service",
            "a%.service",
            "ä.service",
        ] {
            assert!(e.check_name(bad).is_err(), "{bad:?}");
        }
        assert!(
            e.check_name(&format!("{}.service", "a".repeat(248)))
                .is_err()
        );
    }
}
