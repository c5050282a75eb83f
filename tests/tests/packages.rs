//! The packages from outside: what is in them, what their scripts do, whether lintian and rpm find fault; manual pages; completions.
//! Installing one is tested in `tests/cluster/tests/package.rs`.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use mars_tests::bin_dir;
use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

fn top() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_path_buf()
}

fn run(program: &str, args: &[&str]) -> Output {
    Command::new(program)
        .args(args)
        .current_dir(top())
        .env("LC_ALL", "C.UTF-8")
        .output()
        .unwrap_or_else(|e| panic!("{program}: {e} (tests/setup.sh test installs it)"))
}

/// Must succeed; what it printed.
fn ok(program: &str, args: &[&str]) -> String {
    let out = run(program, args);
    let (text, err) = (
        String::from_utf8_lossy(&out.stdout).into_owned(),
        String::from_utf8_lossy(&out.stderr),
    );
    assert!(out.status.success(), "{program} {args:?}: {text}{err}");
    text
}

/// Builds a package into the directory; its path.
fn build(script: &str, into: &Path) -> String {
    let (bin, into) = (bin_dir(), into.to_str().unwrap());
    let args = ["--bin-dir", bin.to_str().unwrap(), "--out", into, "--fast"];
    ok(&format!("packaging/{script}"), &args).trim().to_string()
}

fn install(dir: &Path, more: &[&str]) {
    let (bin, dir) = (bin_dir(), dir.to_str().unwrap());
    let args = ["--bin-dir", bin.to_str().unwrap(), "--destdir", dir];
    ok("packaging/install", &[&args[..], more].concat());
}

/// Names of the files in a directory of the sources.
fn sources(dir: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(top().join(dir))
        .unwrap()
        .map(|e| e.unwrap())
        .filter(|e| e.file_type().unwrap().is_file())
        .map(|e| e.file_name().into_string().unwrap())
        .filter(|n| !n.ends_with(".md"))
        .collect();
    names.sort();
    names
}

/// What both packages contain, whatever the distribution; without places that differ.
fn expected() -> BTreeSet<String> {
    let mut all = BTreeSet::new();
    let mut add = |dir: &str, names: Vec<String>| {
        all.extend(names.into_iter().map(|n| format!("{dir}/{n}")));
    };
    let list = |names: &[&str]| names.iter().map(|n| n.to_string()).collect::<Vec<_>>();
    let programs = [
        "marsadm",
        "mars-fetch",
        "mars-logger",
        "mars-meta",
        "mars-replay",
        "mars-status",
        "mars-sync",
    ];
    add("/usr/sbin", list(&programs));
    add(
        "/usr/share/man/man8",
        programs.iter().map(|p| format!("{p}.8.gz")).collect(),
    );
    add("/usr/lib/systemd/system", sources("units"));
    add(
        "/usr/share/mars/prometheus",
        list(&["alerts.yml", "mars-dashboard.json"]),
    );
    add("/usr/lib/marsadm", list(&["maintain"]));
    add("/usr/lib/marsadm/macros", sources("templates/macros"));
    add("/usr/lib/marsadm/systemd-templates", sources("templates"));
    add("/usr/lib/systemd/catalog", list(&["mars.catalog"]));
    add("/usr/lib/udev/rules.d", list(&["60-mars.rules"]));
    add(
        "/usr/share/dbus-1/system.d",
        list(&["org.storage.mars1.conf"]),
    );
    add("/etc/mars", list(&["mars.conf"]));
    add("/usr/share/bash-completion/completions", list(&["marsadm"]));
    add(
        "/usr/share/fish/vendor_completions.d",
        list(&["marsadm.fish"]),
    );
    // Written by mars-gen, as those of section 8.
    add("/usr/share/man/man7", list(&["mars-states.7.gz"]));
    for page in sources("man").iter().filter(|p| !p.ends_with(".in")) {
        let section = page.rsplit('.').next().unwrap();
        add(
            &format!("/usr/share/man/man{section}"),
            list(&[&format!("{page}.gz")]),
        );
    }
    all
}

/// What is missing and what nobody expects.
fn same(files: &BTreeSet<String>) {
    let common: BTreeSet<String> = files.iter().filter(|f| !varies(f)).cloned().collect();
    let expected = expected();
    let missing: Vec<&String> = expected.difference(&common).collect();
    let surplus: Vec<&String> = common.difference(&expected).collect();
    assert!(
        missing.is_empty() && surplus.is_empty(),
        "missing: {missing:?}; surplus: {surplus:?}"
    );
}

/// A place that depends on the distribution.
fn varies(path: &str) -> bool {
    [
        "/usr/share/doc/",
        "/usr/share/licenses/",
        "/usr/share/lintian/",
        "/usr/share/zsh/",
    ]
    .iter()
    .any(|p| path.starts_with(p))
}

#[test]
fn packages_deb_content_scripts_lintian() {
    let dir = tempfile::tempdir().unwrap();
    let deb = build("build-deb", dir.path());
    let listed = ok("dpkg-deb", &["-c", &deb]);
    let files: BTreeSet<String> = listed
        .lines()
        .filter(|l| !l.starts_with('d'))
        .map(|l| {
            assert!(l.contains(" root/root "), "{l}");
            l.split_whitespace().nth(5).unwrap()[1..].to_string()
        })
        .collect();
    same(&files);
    for more in [
        "/usr/share/zsh/vendor-completions/_marsadm",
        "/usr/share/doc/mars/copyright",
        "/usr/share/doc/mars/changelog.Debian.gz",
        "/usr/share/doc/mars/third-party.gz",
    ] {
        assert!(files.contains(more), "{more}");
    }
    let field = |name: &str| ok("dpkg-deb", &["-f", &deb, name]).trim().to_string();
    assert_eq!(field("Package"), "mars");
    assert_eq!(field("Section"), "admin");
    let depends = field("Depends");
    for d in ["libc6 (>= ", "systemd (>= ", "dbus-system-bus"] {
        assert!(depends.contains(d), "{depends}");
    }
    // Sums and configuration files are what they say.
    let root = dir.path().join("root");
    let root = root.to_str().unwrap();
    ok("dpkg-deb", &["-R", &deb, root]);
    ok(
        "sh",
        &[
            "-c",
            &format!("cd {root} && md5sum --quiet -c DEBIAN/md5sums"),
        ],
    );
    assert_eq!(
        fs::read_to_string(format!("{root}/DEBIAN/conffiles")).unwrap(),
        "/etc/mars/mars.conf\n"
    );
    for p in ["marsadm", "mars-logger"] {
        let symbols = ok("nm", &["-D", &format!("{root}/usr/sbin/{p}")]);
        assert!(!symbols.is_empty());
        let out = run("nm", &[&format!("{root}/usr/sbin/{p}")]);
        assert!(
            String::from_utf8_lossy(&out.stderr).contains("no symbols"),
            "{p} is not stripped"
        );
    }
    // The scripts enable and start nothing: only what runs is restarted.
    for script in ["postinst", "prerm", "postrm"] {
        let text = fs::read_to_string(format!("{root}/DEBIAN/{script}")).unwrap();
        ok("dash", &["-n", &format!("{root}/DEBIAN/{script}")]);
        assert!(!text.contains("systemctl enable"), "{text}");
        assert!(!text.contains("systemctl start"), "{text}");
    }
    ok("dash", &["-n", &format!("{root}/usr/lib/marsadm/maintain")]);
    let out = run(
        "lintian",
        &["--allow-root", "--no-cfg", "--fail-on", "error", &deb],
    );
    let text = String::from_utf8_lossy(&out.stdout);
    assert!(out.status.success(), "{text}");
    assert!(!text.lines().any(|l| l.starts_with("E:")), "{text}");
}

#[test]
fn packages_rpm_content_scripts() {
    let dir = tempfile::tempdir().unwrap();
    let rpm = build("build-rpm", dir.path());
    let query = |args: &[&str]| ok("rpm", &[args, &[&rpm]].concat());
    assert!(query(&["-K", "--nosignature"]).contains("digests OK"));
    let listed = query(&[
        "-qp",
        "--qf",
        "[%{FILEMODES:perms} %{FILEUSERNAME} %{FILENAMES}\n]",
    ]);
    let files: BTreeSet<String> = listed
        .lines()
        .filter(|l| !l.starts_with('d'))
        .map(|l| {
            assert!(l.contains(" root "), "{l}");
            l.split_whitespace().nth(2).unwrap().to_string()
        })
        .collect();
    same(&files);
    for more in [
        "/usr/share/zsh/site-functions/_marsadm",
        "/usr/share/licenses/mars/LICENSE",
        "/usr/share/doc/mars/third-party",
    ] {
        assert!(files.contains(more), "{more}");
    }
    assert_eq!(query(&["-qpc"]), "/etc/mars/mars.conf\n");
    let requires = query(&["-qp", "--requires"]);
    for r in ["libc.so.6", "systemd >= ", "dbus"] {
        assert!(requires.contains(r), "{requires}");
    }
    let scripts = query(&["-qp", "--scripts"]);
    for part in [
        "postinstall scriptlet (using /bin/sh):\n/usr/lib/marsadm/maintain refresh\n",
        "/usr/lib/marsadm/maintain removable || exit 1\n",
        "/usr/lib/marsadm/maintain restart\n",
    ] {
        assert!(scripts.contains(part), "{scripts}");
    }
    assert!(!scripts.contains("systemctl enable") && !scripts.contains("systemctl start"));
    // rpm itself takes it: all the scripts run in an empty root, where no systemd runs.
    let out = run(
        "rpm",
        &[
            "-Uvh",
            "--test",
            "--nodeps",
            "--root",
            dir.path().to_str().unwrap(),
            &rpm,
        ],
    );
    assert!(
        out.status.success(),
        "{}",
        String::from_utf8_lossy(&out.stderr)
    );
}

#[test]
fn packages_are_reproducible() {
    let (a, b) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    for script in ["build-deb", "build-rpm"] {
        let (one, two) = (build(script, a.path()), build(script, b.path()));
        assert!(
            fs::read(&one).unwrap() == fs::read(&two).unwrap(),
            "{script}: two builds differ: {one} {two}"
        );
    }
}

#[test]
fn packages_wrong_calls_are_refused() {
    for (args, word) in [
        (&["--frob"][..], "usage"),
        (&["--version"], "usage"),
        (&["--version", "x1"], "does not begin with a digit"),
        (
            &["--bin-dir", "/nowhere"],
            "/nowhere/marsadm does not exist",
        ),
    ] {
        for script in ["build-deb", "build-rpm"] {
            let out = run(&format!("packaging/{script}"), args);
            let err = String::from_utf8_lossy(&out.stderr);
            assert!(
                !out.status.success() && err.contains(word),
                "{script} {args:?}: {err}"
            );
        }
    }
}

#[test]
fn packages_install_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    install(dir.path(), &["--prefix", "/usr/local"]);
    let at = |p: &str| fs::read_to_string(dir.path().join(p)).unwrap();
    let unit = at("usr/local/lib/systemd/system/mars-meta.service");
    assert!(
        unit.contains("ExecStart=/usr/local/sbin/mars-meta"),
        "{unit}"
    );
    assert!(!dir.path().join("usr/sbin").exists());
    assert!(
        dir.path()
            .join("usr/local/share/zsh/site-functions/_marsadm")
            .exists()
    );
    assert!(at("etc/mars/mars.conf").starts_with('#'));
}

/// Everything in the example is a comment, and its keys are those of the manual page.
#[test]
fn packages_example_configuration() {
    let dir = tempfile::tempdir().unwrap();
    install(dir.path(), &[]);
    let at = |p: &str| fs::read_to_string(dir.path().join(p)).unwrap();
    let (example, page) = (
        at("etc/mars/mars.conf"),
        at("usr/share/man/man5/mars.conf.5"),
    );
    let is_key = |k: &&str| {
        k.bytes()
            .all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit())
    };
    let mut keys = BTreeSet::new();
    for line in example.lines().filter(|l| !l.is_empty()) {
        let text = line.strip_prefix('#').unwrap_or_else(|| panic!("{line}"));
        if let Some((key, _)) = text.split_once(" = ") {
            keys.extend(Some(key).filter(is_key));
        }
    }
    let explained: BTreeSet<&str> = page
        .lines()
        .filter_map(|l| l.strip_prefix(".BR ")?.split(' ').next())
        .filter(|k| is_key(k) && !k.starts_with("mars"))
        .collect();
    let explained: BTreeSet<&str> = explained
        .into_iter()
        .chain(page.contains(".BR mars_port").then_some("mars_port"))
        .collect();
    assert!(keys.len() >= 10, "{keys:?}");
    assert_eq!(keys, explained);
}

#[test]
fn packages_manual_pages() {
    let dir = tempfile::tempdir().unwrap();
    install(dir.path(), &[]);
    let mut pages = Vec::new();
    for section in ["man5", "man7", "man8"] {
        for e in fs::read_dir(dir.path().join("usr/share/man").join(section)).unwrap() {
            pages.push(e.unwrap().path());
        }
    }
    let names: BTreeSet<String> = pages
        .iter()
        .map(|p| p.file_name().unwrap().to_str().unwrap().to_string())
        .collect();
    for page in [
        "marsadm.8",
        "mars-logger.8",
        "mars-fetch.8",
        "mars-replay.8",
        "mars-sync.8",
        "mars-meta.8",
        "mars-status.8",
        "mars.7",
        "mars-states.7",
        "mars-units.7",
        "mars.conf.5",
    ] {
        assert!(names.contains(page), "{page}: {names:?}");
    }
    let paths: Vec<&str> = pages.iter().map(|p| p.to_str().unwrap()).collect();
    ok("packaging/check-man", &paths);
    // The list of commands is the one of the program, and every reference to a page of ours leads somewhere.
    let help = ok(bin_dir().join("marsadm").to_str().unwrap(), &["help"]);
    let shown = ok(
        "sh",
        &[
            "-c",
            &format!(
                "MANWIDTH=300 man -l {} | col -b",
                dir.path().join("usr/share/man/man8/marsadm.8").display()
            ),
        ],
    );
    let (_, commands) = help.split_once("Commands ").unwrap();
    let (commands, _) = commands.split_once("\nTopics").unwrap();
    let mut count = 0;
    for line in commands.lines().filter(|l| l.starts_with("  ")) {
        let command = line.split_whitespace().next().unwrap();
        assert!(
            shown
                .lines()
                .any(|l| l.split_whitespace().next() == Some(command)),
            "marsadm(8) lacks {command}"
        );
        count += 1;
    }
    assert!(count > 40, "{help}");
    for page in &pages {
        let text = fs::read_to_string(page).unwrap().replace("\\-", "-");
        for line in text
            .lines()
            .filter(|l| l.starts_with(".BR mars") || l.starts_with(".BR org.storage"))
        {
            let words: Vec<&str> = line[4..].split_whitespace().collect();
            if let [name, section, ..] = words[..]
                && let Some(s) = section.strip_prefix('(').and_then(|s| s.chars().next())
            {
                assert!(
                    names.contains(&format!("{name}.{s}")),
                    "{}: {line}",
                    page.display()
                );
            }
        }
    }
}

/// systemd learns the name of a device, and only of ours.
#[test]
fn packages_udev_rule() {
    // In a root of its own, where /run and /mars are what the rule shall see.
    let script = r#"
        set -eu
        rule=$PWD/packaging/udev/60-mars.rules
        mount -t tmpfs tmpfs /mnt
        mkdir /mnt/upper /mnt/work /mnt/root /mnt/disk
        mount -t overlay -o lowerdir=/,upperdir=/mnt/upper,workdir=/mnt/work overlay /mnt/root
        for dir in dev proc sys; do mount --rbind /$dir /mnt/root/$dir; done
        mount -t tmpfs tmpfs /mnt/root/run
        mkdir -p /mnt/root/run/udev/rules.d /mnt/root/mars
        cp "$rule" /mnt/root/run/udev/rules.d/
        mount -t tmpfs tmpfs /mnt/disk
        mkdir /mnt/disk/mars /mnt/disk/other
        truncate -s 1M "/mnt/disk/$1"
        exec 3<>"/mnt/disk/$1"
        # As mars-logger does it: the file system is mounted nowhere any more.
        umount -l /mnt/disk
        [ "$2" = no ] || touch "/mnt/root/$1"
        device=$(losetup --find --show /proc/self/fd/3)
        trap 'losetup -d "$device"' EXIT
        chroot /mnt/root udevadm test "/sys/block/${device##*/}""#;
    let shown = |file: &str, exists: &str| {
        let text = ok(
            "unshare",
            &["-m", "bash", "-c", script, "bash", file, exists],
        );
        assert!(text.contains("DEVTYPE=disk\n"), "{text}");
        text
    };
    let ours = shown("mars/my-db", "no");
    for property in [
        "SYSTEMD_ALIAS=/dev/mars/my-db\n",
        "UDISKS_IGNORE=1\n",
        "TAGS=:systemd:\n",
    ] {
        assert!(ours.contains(property), "{ours}");
    }
    // Another directory; a file of that name that anybody can see, so it is not the logger's.
    for (file, exists) in [("other/my-db", "no"), ("mars/my-db", "yes")] {
        let text = shown(file, exists);
        assert!(!text.contains("SYSTEMD_ALIAS"), "{file} {exists}: {text}");
    }
}

/// A tree to complete names from, and the programs in the path.
struct Shells {
    dir: tempfile::TempDir,
}

impl Shells {
    fn new() -> Shells {
        let dir = tempfile::tempdir().unwrap();
        let shells = Shells { dir };
        for sub in ["mars", "etc", "home"] {
            fs::create_dir(shells.dir.path().join(sub)).unwrap();
        }
        // What marsadm knows of a cluster: the tree is enough.
        let link = |to: &str, at: &str| {
            let at = shells.dir.path().join("mars").join(at);
            fs::create_dir_all(at.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(to, at).unwrap();
        };
        link("a_1", "uuid");
        for (host, ip) in [("alpha", "127.0.0.61"), ("beta", "127.0.0.62")] {
            link(ip, &format!("ips/ip-{host}"));
            for res in ["data", "my-db"] {
                link("/dev/vg/x", &format!("resource-{res}/data-{host}"));
            }
        }
        link("1048576", "resource-data/size");
        link("1048576", "resource-my-db/size");
        shells
    }

    fn run(&self, program: &str, args: &[&str]) -> String {
        let at = |sub: &str| self.dir.path().join(sub);
        let path = format!("{}:{}", bin_dir().display(), std::env::var("PATH").unwrap());
        let out = Command::new(program)
            .args(args)
            .current_dir(top())
            .env("PATH", path)
            .env("HOME", at("home"))
            .env("MARS_ROOT", at("mars"))
            .env("MARS_RUN_DIR", at("run"))
            .env("MARS_ETC_DIR", at("etc"))
            .env("MARS_HOST", "alpha")
            .env("MARS_UNIT_MANAGER", "direct")
            .env("LC_ALL", "C.UTF-8")
            .output()
            .unwrap_or_else(|e| panic!("{program}: {e} (tests/setup.sh test installs it)"));
        assert!(
            out.status.success(),
            "{program}: {}",
            String::from_utf8_lossy(&out.stderr)
        );
        String::from_utf8_lossy(&out.stdout).into_owned()
    }
}

/// What is typed, and what must come out of it.
const TYPED: [(&str, &str); 9] = [
    ("marsadm force-prim", "marsadm force-primary"),
    ("marsadm primary m", "marsadm primary my-db"),
    ("marsadm up data,", "marsadm up data,my-db"),
    ("marsadm join-cluster b", "marsadm join-cluster beta"),
    ("marsadm --host=b", "marsadm --host=beta"),
    (
        "marsadm create-resource x /etc/hostn",
        "marsadm create-resource x /etc/hostname",
    ),
    ("mars-fetch s", "mars-fetch serve"),
    ("mars-status --hi", "mars-status --history"),
    ("mars-status --resource m", "mars-status --resource my-db"),
];

/// `marsadm complete` knows the options of `mars-status`, which is a program of its own.
#[test]
fn packages_completion_of_status_options() {
    let shells = Shells::new();
    let program = |name: &str| bin_dir().join(name).display().to_string();
    let help = shells.run(&program("mars-status"), &["--help"]);
    let option = |l: &str| {
        let start = l.find("--").filter(|i| *i < 8)?;
        let word = l[start..].split_whitespace().next()?.to_string();
        Some(if l.contains('<') { word + "=" } else { word })
    };
    let told: BTreeSet<String> = help.lines().filter_map(option).collect();
    let known = shells.run(
        &program("marsadm"),
        &["complete", "--", "mars-status", "--"],
    );
    let known: BTreeSet<String> = known.lines().map(str::to_string).collect();
    assert_eq!(known, told);
}

#[test]
fn packages_completion_bash() {
    // As readline does it: the last word is cut at `=` and replaced by the one candidate.
    let script = r#"
        set -u
        [ "$1" = plain ] || . /usr/share/bash-completion/bash_completion
        . packaging/completions/marsadm
        shift
        for line; do
          COMP_LINE=$line COMP_POINT=${#line} COMP_TYPE=9 COMP_KEY=9
          COMP_WORDS=(${line//=/ = }) COMPREPLY=()
          COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
          [[ $line != *= && $line != *' ' ]] || { COMP_CWORD=$((COMP_CWORD + 1)); COMP_WORDS+=(''); }
          _marsadm marsadm "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
          echo "${#COMPREPLY[@]}: ${line%"${COMP_WORDS[COMP_CWORD]}"}${COMPREPLY[0]-}"
        done"#;
    let shells = Shells::new();
    let typed = TYPED.map(|(t, _)| t);
    let out = shells.run(
        "bash",
        &[&["-c", script, "bash", "loaded"], &typed[..]].concat(),
    );
    let want: String = TYPED.map(|(_, w)| format!("1: {w}\n")).concat();
    assert_eq!(out, want);
    // Without the package bash-completion too, but for `=`.
    let typed: Vec<&str> = typed.into_iter().filter(|t| !t.contains('=')).collect();
    let out = shells.run(
        "bash",
        &[&["-c", script, "bash", "plain"], &typed[..]].concat(),
    );
    assert_eq!(out.lines().count(), typed.len());
    assert!(out.lines().all(|l| want.contains(l)), "{out}");
}

#[test]
fn packages_completion_zsh() {
    // A terminal with a zsh in it; what stands in its line is written to a file.
    let script = r#"
        zmodload zsh/zpty
        zpty z zsh -f -i
        zpty -w z "PS1=; fpath=($PWD/packaging/completions \$fpath); autoload -Uz compinit; compinit -u -d $HOME/dump; unsetopt beep
          _show() { print -r -- \"\$BUFFER\" >>$HOME/out; BUFFER=; print END''OFLINE }; zle -N _show; bindkey '^I' complete-word; bindkey '^G' _show
          print READ''Y"
        zpty -r -m z seen '*READY*'
        for line; do
          zpty -w -n z "$line"$'\t\a'
          zpty -r -m z seen '*ENDOFLINE*'
        done
        zpty -d z
        cat $HOME/out"#;
    let typed = TYPED.map(|(t, _)| t);
    let out = Shells::new().run(
        "timeout",
        &[&["60", "zsh", "-f", "-c", script, "zsh"], &typed[..]].concat(),
    );
    let got: Vec<&str> = out.lines().map(str::trim_end).collect();
    assert_eq!(got, TYPED.map(|(_, w)| w));
}

#[test]
fn packages_completion_fish() {
    let script = "source packaging/completions/marsadm.fish; for line in $argv; complete -C $line; echo .; end";
    let typed = TYPED.map(|(t, _)| t);
    let out = Shells::new().run(
        "fish",
        &[&["--no-config", "-c", script], &typed[..]].concat(),
    );
    let want: Vec<&str> = TYPED
        .iter()
        .map(|(_, w)| w.rsplit(' ').next().unwrap())
        .collect();
    let got: Vec<&str> = out
        .split_terminator(".\n")
        .map(|c| c.trim_end().split('\t').next().unwrap())
        .collect();
    assert_eq!(got, want, "{out}");
}
