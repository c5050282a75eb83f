//! MARS as it is installed: the Debian package, and a layer of an overlay with it. Made once for each state of the checkout.
use crate::util::{checkout, digest, run, target_dir};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

const PROGRAMS: &[&str] = &[
    "marsadm",
    "mars-logger",
    "mars-fetch",
    "mars-replay",
    "mars-sync",
    "mars-meta",
    "mars-status",
    "mars-gen",
];

/// Packages and layers that are kept for other runs of this checkout.
const KEPT: usize = 3;

/// Where the programs under test are: `MARS_TEST_BIN_DIR`, else `target/debug`.
pub fn bin_dir() -> PathBuf {
    std::env::var_os("MARS_TEST_BIN_DIR").map_or_else(|| target_dir().join("debug"), PathBuf::from)
}

/// All files below `dir`.
fn files(dir: &Path, found: &mut Vec<PathBuf>) {
    for e in fs::read_dir(dir).into_iter().flatten().flatten() {
        match e.file_type() {
            Ok(t) if t.is_dir() => files(&e.path(), found),
            Ok(_) => found.push(e.path()),
            Err(_) => {}
        }
    }
}

/// Everything that an installation is made of.
fn sources() -> Vec<PathBuf> {
    let mut v: Vec<PathBuf> = PROGRAMS.iter().map(|p| bin_dir().join(p)).collect();
    for p in &v {
        assert!(
            p.is_file(),
            "{} is missing: cargo build --workspace --bins",
            p.display()
        );
    }
    for dir in ["units", "templates", "packaging", "man"] {
        files(&checkout().join(dir), &mut v);
    }
    v.sort();
    v
}

fn state(path: &Path) -> String {
    let m = fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    format!(
        "{} {} {}.{}",
        path.display(),
        m.len(),
        m.mtime(),
        m.mtime_nsec()
    )
}

/// Makes `target/cluster/NAME-DIGEST` with `fill` if it is not there yet; the digest is of everything that an installation is made of.
fn made_once(name: &str, also: &str, fill: impl FnOnce(&Path)) -> PathBuf {
    let states: Vec<String> = sources().iter().map(|p| state(p)).collect();
    let words = states.iter().map(String::as_str).chain([also]);
    let all = target_dir().join("cluster");
    let dir = all.join(format!("{name}-{}", digest(words)));
    if dir.exists() {
        return dir;
    }
    forget_old(&all, name);
    let tmp = all.join(format!("new-{name}-{}", std::process::id()));
    fs::create_dir_all(&tmp).expect("directory below target");
    fill(&tmp);
    // Another run may have been faster.
    if fs::rename(&tmp, &dir).is_err() {
        let _ = fs::remove_dir_all(&tmp);
    }
    dir
}

/// The Debian package of the present state of the checkout, with a version of its own if one is given.
pub fn deb(version: Option<&str>) -> PathBuf {
    let dir = made_once("deb", version.unwrap_or_default(), |into| {
        let mut c = Command::new(checkout().join("packaging/build-deb"));
        c.arg("--fast").arg("--bin-dir").arg(bin_dir());
        c.arg("--out").arg(into);
        if let Some(v) = version {
            c.args(["--version", v]);
        }
        run(&mut c);
    });
    let mut found = Vec::new();
    files(&dir, &mut found);
    found.pop().expect("a package")
}

/// What `dpkg -i` of the package changes on the root file system `below`, as a layer of an overlay.
pub fn layer(below: &Path) -> PathBuf {
    made_once("layer", &below.display().to_string(), |into| {
        let deb = deb(None);
        let work = into.with_extension("work");
        let root = into.with_extension("root");
        for dir in [&work, &root] {
            fs::create_dir_all(dir).expect("directory below target");
        }
        // All mounts are gone with the shell.
        run(Command::new("unshare")
            .args(["--mount", "--propagation", "private", "sh", "-euc"])
            .arg(
                "mount -t overlay overlay -o lowerdir=$1,upperdir=$2,workdir=$3 $4; mount -t proc proc $4/proc; \
                 mkdir $4/run/package; mount --bind ${5%/*} $4/run/package; \
                 chroot $4 dpkg -i /run/package/${5##*/}; umount $4/run/package; rmdir $4/run/package",
            )
            .arg("sh")
            .args([below, into, &work, &root, &deb]));
        for dir in [&work, &root] {
            fs::remove_dir_all(dir).expect("directory below target");
        }
    })
}

fn forget_old(all: &Path, name: &str) {
    let mut layers: Vec<_> = fs::read_dir(all)
        .into_iter()
        .flatten()
        .flatten()
        .map(|e| (e.metadata().and_then(|m| m.modified()).ok(), e.path()))
        .filter(|(_, p)| p.display().to_string().contains(&format!("/{name}-")))
        .collect();
    layers.sort();
    layers.reverse();
    for (_, old) in layers.into_iter().skip(KEPT) {
        let _ = fs::remove_dir_all(old);
    }
}
