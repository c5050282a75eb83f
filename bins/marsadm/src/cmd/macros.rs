//! What macros need from outside (search path, links, waiting), and the commands that write macros out.
use crate::cmd::wait;
use crate::ctx::{Ctx, TIMEOUT_SECS};
use crate::error::{CmdError, Done, refuse, show, usage};
use crate::out;
use mars_macro::{
    Mount, Outside, Source, builtin_names, predefined_names, predefined_text, primitive_names,
};
use mars_tree::{Batch, Key, ResName, Snapshot, Tree};
use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

/// Largest macro file.
const FILE_MAX: u64 = 1 << 20;
/// Most paths that a pattern may give.
const GLOB_MAX: usize = 100_000;
/// Largest status file that is shown, and most of them.
const STATUS_MAX: u64 = 64 << 10;

/// Directories with macro files: `MARS_PATH`, or the documented ones.
pub fn search_path() -> Vec<PathBuf> {
    if let Some(path) = std::env::var_os("MARS_PATH") {
        return std::env::split_paths(&path)
            .filter(|p| !p.as_os_str().is_empty())
            .collect();
    }
    let mut dirs = vec![PathBuf::from(".")];
    if let Some(home) = std::env::var_os("HOME").filter(|h| !h.is_empty()) {
        dirs.push(Path::new(&home).join(".marsadm"));
    }
    let etc = std::env::var_os("ETC_MARSADM").filter(|e| !e.is_empty());
    dirs.push(etc.map_or_else(|| "/etc/marsadm".into(), PathBuf::from));
    dirs.extend(["/usr/lib/marsadm", "/usr/local/lib/marsadm"].map(PathBuf::from));
    dirs
}

/// The outside of one `view` command.
pub struct Shell<'a> {
    ctx: &'a Ctx,
    /// Resource that is evaluated now.
    pub res: Option<ResName>,
    dirs: Vec<PathBuf>,
    known: BTreeMap<String, Option<Rc<Source>>>,
    started: Instant,
}

impl<'a> Shell<'a> {
    /// For one command.
    pub fn new(ctx: &'a Ctx) -> Shell<'a> {
        Shell {
            ctx,
            res: None,
            dirs: search_path(),
            known: BTreeMap::new(),
            started: Instant::now(),
        }
    }

    fn find(&self, name: &str) -> Option<Rc<Source>> {
        // Operators and paths are no file names.
        let is_name = name.starts_with(|c: char| c.is_ascii_alphanumeric())
            && name.len() < 100
            && name
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
        if !is_name {
            return None;
        }
        let file = format!("{name}.tpl");
        self.dirs.iter().find_map(|dir| {
            let path = dir.join(&file);
            match read_macro(&path) {
                Ok(None) => None,
                Ok(Some(text)) => {
                    if is_predefined(name) {
                        note(&format!("using macro file '{}'\n", path.display()));
                    }
                    Some(Source::file(&path.display().to_string(), &text))
                }
                Err(e) => {
                    out::warn(format!("macro file {} is not used: {e}", path.display()));
                    None
                }
            }
        })
    }

    fn wait(&self, condition: &str) -> Result<String, String> {
        let Some(res) = &self.res else {
            return Err("waiting needs a resource".into());
        };
        wait::wait_resource(self.ctx, res, &[condition.to_string()])
            .map(|()| String::new())
            .map_err(|e| e.to_string())
    }
}

fn is_predefined(name: &str) -> bool {
    predefined_text(name).is_some()
        || primitive_names().contains(&name)
        || builtin_names().contains(&name)
}

/// To stderr, as it is.
pub fn note(text: &str) {
    use std::io::Write;
    let _ = std::io::stderr().lock().write_all(text.as_bytes());
}

/// `Ok(None)`: no such file. What others than the user and root can change is not evaluated with the user's rights.
fn read_macro(path: &Path) -> Result<Option<String>, String> {
    use std::os::unix::fs::OpenOptionsExt;
    let file = std::fs::File::options()
        .read(true)
        .custom_flags(nix::fcntl::OFlag::O_NONBLOCK.bits())
        .open(path);
    let mut file = match file {
        Ok(f) => f,
        Err(e) if matches!(e.raw_os_error(), Some(2 | 20)) => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    let meta = file.metadata().map_err(|e| e.to_string())?;
    if !meta.is_file() {
        return Err("it is no regular file".into());
    }
    let me = nix::unistd::geteuid().as_raw();
    if meta.uid() != 0 && meta.uid() != me {
        return Err("it belongs to somebody else".into());
    }
    if meta.mode() & 0o002 != 0 {
        return Err("everybody may change it".into());
    }
    if meta.len() > FILE_MAX {
        return Err(format!("it is larger than {FILE_MAX} bytes"));
    }
    let mut text = String::new();
    let read = std::io::Read::by_ref(&mut file)
        .take(FILE_MAX)
        .read_to_string(&mut text);
    read.map_err(|e| e.to_string())?;
    Ok(Some(text))
}

impl Outside for Shell<'_> {
    fn file(&mut self, name: &str) -> Option<Rc<Source>> {
        if let Some(found) = self.known.get(name) {
            return found.clone();
        }
        let found = self.find(name);
        self.known.insert(name.to_string(), found.clone());
        found
    }

    fn extra(&mut self, name: &str, args: &[String]) -> Option<Result<String, String>> {
        let name = name.replace('_', "-");
        let first = args.first().map_or("", String::as_str);
        match name.as_str() {
            "wait-cluster" => {
                let done = wait::wait_cluster(self.ctx, self.res.as_ref(), false);
                Some(done.map(|()| String::new()).map_err(|e| e.to_string()))
            }
            "wait" => Some(self.wait(first)),
            _ => {
                let condition = name.strip_prefix("wait-")?;
                let is_known = ["is-", "todo-"].iter().any(|p| condition.starts_with(p))
                    && ["-on", "-off"].iter().any(|s| condition.ends_with(s));
                is_known.then(|| self.wait(condition))
            }
        }
    }

    fn tell(&mut self, text: &str) {
        note(text);
    }

    fn pause(&mut self, seconds: f64, limited: bool) -> Result<(), String> {
        let pause = Duration::try_from_secs_f64(seconds)
            .map_err(|_| format!("a pause of {seconds} seconds is not possible"))?;
        let limit = self.ctx.opts.limit(TIMEOUT_SECS);
        if limited && limit.is_some_and(|l| self.started.elapsed() + pause > l) {
            return Err("Timeout reached".into());
        }
        // What the macro asks for.
        std::thread::sleep(pause);
        Ok(())
    }

    fn read_link(&mut self, path: &str) -> Option<String> {
        std::fs::read_link(path).ok()?.to_str().map(str::to_string)
    }

    /// Below the root a link gets a stamp and is spread; elsewhere there is nothing for a macro to change.
    fn set_link(&mut self, value: &str, path: &str) -> Result<(), String> {
        let root = &self.ctx.env.root;
        let Ok(below) = Path::new(path).strip_prefix(root) else {
            return Err(format!("{path} is not below {}", root.display()));
        };
        let below = below.to_str().unwrap_or_default();
        if below.is_empty()
            || below
                .split('/')
                .any(|part| part.is_empty() || part == "." || part == "..")
        {
            return Err(format!("{path} is no path of a link"));
        }
        let mut batch = Batch::new();
        batch.set(Key::parse(below), value);
        if self.ctx.opts.dry_run {
            batch.describe().iter().for_each(out::say);
            return Ok(());
        }
        let tree = Tree::open(&self.ctx.env).map_err(|e| e.to_string())?;
        tree.commit(&batch).map(|_| ()).map_err(|e| e.to_string())
    }

    fn glob(&mut self, pattern: &str) -> Result<Vec<String>, String> {
        let paths = glob::glob(pattern).map_err(|e| format!("pattern {}: {e}", show(pattern)))?;
        let mut found = Vec::new();
        for path in paths.flatten() {
            let is_tombstone =
                std::fs::read_link(&path).is_ok_and(|t| t.as_os_str() == mars_tree::Value::DELETED);
            if is_tombstone {
                continue;
            }
            if found.len() == GLOB_MAX {
                return Err(format!(
                    "pattern {} gives more than {GLOB_MAX} paths",
                    show(pattern)
                ));
            }
            found.extend(path.to_str().map(str::to_string));
        }
        Ok(found)
    }
}

// ---- facts of this machine ---------------------------------------------------------------------------------------------------

/// Mounted devices, from the kernel's table.
pub fn mounts() -> Vec<Mount> {
    let Ok(table) = std::fs::read_to_string("/proc/self/mounts") else {
        return Vec::new();
    };
    table.lines().filter_map(mount).collect()
}

fn mount(line: &str) -> Option<Mount> {
    let mut words = line.split(' ').map(unescape);
    let device = words.next()?;
    if !device.starts_with('/') {
        return None;
    }
    Some(Mount {
        device,
        dir: words.next()?,
        fstype: words.next()?,
        flags: words.next()?,
    })
}

/// Blanks and the like stand as three octal digits in the table.
fn unescape(word: &str) -> String {
    let mut out = String::new();
    let mut rest = word;
    while let Some(i) = rest.find('\\') {
        let (plain, special) = rest.split_at(i);
        out.push_str(plain);
        let code = special
            .get(1..4)
            .and_then(|d| u8::from_str_radix(d, 8).ok());
        match code {
            Some(c) => {
                out.push(char::from(c));
                rest = special.get(4..).unwrap_or("");
            }
            None => {
                out.push('\\');
                rest = special.get(1..).unwrap_or("");
            }
        }
    }
    out.push_str(rest);
    out
}

/// Status files that the original leaves beside its links.
pub fn status_files(root: &Path, snap: &Snapshot) -> Vec<(String, String)> {
    let is_status = |name: &str| {
        name.ends_with(".status")
            && (name.starts_with("logstatus-")
                || ["2.", "3.", "4."].iter().any(|p| name.starts_with(p)))
    };
    let mut found = Vec::new();
    for res in snap.resources() {
        let dir = format!("resource-{res}");
        let Ok(entries) = std::fs::read_dir(root.join(&dir)) else {
            continue;
        };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str().filter(|n| is_status(n)) else {
                continue;
            };
            if !entry.file_type().is_ok_and(|t| t.is_file()) {
                continue;
            }
            let mut text = Vec::new();
            let Ok(file) = std::fs::File::open(entry.path()) else {
                continue;
            };
            if file.take(STATUS_MAX).read_to_end(&mut text).is_ok() {
                // Text for a terminal: nothing that it would obey.
                let sign = |c: char| {
                    if c.is_control() && c != '\n' && c != '\t' {
                        '?'
                    } else {
                        c
                    }
                };
                let text = String::from_utf8_lossy(&text);
                found.push((format!("{dir}/{name}"), text.chars().map(sign).collect()));
            }
        }
    }
    found.sort();
    found
}

// ---- writing macros out ------------------------------------------------------------------------------------------------------

fn failed(path: &Path, e: &std::io::Error) -> CmdError {
    CmdError::Failed(format!("{}: {e}", path.display()))
}

/// An existing file is kept under the next free name `NAME.tpl.oldN`.
fn write_macro(name: &str, text: &str, dry: bool) -> Done {
    let path = PathBuf::from(format!("{name}.tpl"));
    if path.symlink_metadata().is_ok() {
        let old = (0..1000_u32)
            .map(|n| PathBuf::from(format!("{name}.tpl.old{n}")))
            .find(|p| p.symlink_metadata().is_err());
        let Some(old) = old else {
            return refuse(format!(
                "too many old copies of {}; remove some",
                path.display()
            ));
        };
        if !dry {
            std::fs::rename(&path, &old).map_err(|e| failed(&path, &e))?;
        }
        out::say(format!("renamed {} to {}", path.display(), old.display()));
    }
    if dry {
        out::say(format!("would write {}", path.display()));
        return Ok(());
    }
    std::fs::write(&path, text).map_err(|e| failed(&path, &e))
}

/// `dump-macros`
pub fn dump_macros(ctx: &Ctx, _: &[String]) -> Done {
    for name in predefined_names() {
        if let Some((name, text)) = predefined_text(name) {
            write_macro(name, text, ctx.opts.dry_run)?;
        }
    }
    ctx.result(format!("{} macros written", predefined_names().len()));
    Ok(())
}

/// One line that passes everything on.
fn wrapper(name: &str) -> String {
    format!("%primitive-{name}{{%{{1}}}}{{%{{2}}}}{{%{{3}}}}{{%{{4}}}}\n")
}

/// `dump-all-macros`
pub fn dump_all_macros(ctx: &Ctx, args: &[String]) -> Done {
    dump_macros(ctx, args)?;
    for name in primitive_names() {
        if predefined_text(name).is_none() {
            write_macro(name, &wrapper(name), ctx.opts.dry_run)?;
        }
    }
    Ok(())
}

/// `prettyprint-NAME`
pub fn pretty_print(name: &str) -> Done {
    if let Some((_, text)) = predefined_text(name) {
        out::raw(text);
    } else if primitive_names().contains(&name) {
        out::raw(&wrapper(name));
    } else {
        return usage(format!(
            "cannot find macro {}; dump-all-macros writes all of them",
            show(name)
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn mount_table() {
        let m = mount("/dev/mars/lv-0 /mnt/a\\040b\\134c ext4 rw,relatime 0 0").unwrap();
        assert_eq!(
            (m.dir.as_str(), m.fstype.as_str(), m.flags.as_str()),
            ("/mnt/a b\\c", "ext4", "rw,relatime")
        );
        assert!(mount("proc /proc proc rw 0 0").is_none());
        assert!(mount("/dev/x").is_none());
        assert_eq!(unescape("a\\9zz\\"), "a\\9zz\\");
    }

    #[test]
    fn macro_files_of_strangers_are_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.tpl");
        assert_eq!(read_macro(&path), Ok(None));
        std::fs::write(&path, "text").unwrap();
        assert_eq!(read_macro(&path), Ok(Some("text".into())));
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o666)).unwrap();
        assert!(read_macro(&path).unwrap_err().contains("everybody"));
        assert!(
            read_macro(dir.path())
                .unwrap_err()
                .contains("no regular file")
        );
        let large = dir.path().join("large.tpl");
        std::fs::File::create(&large)
            .unwrap()
            .set_len(FILE_MAX + 1)
            .unwrap();
        assert!(read_macro(&large).unwrap_err().contains("larger"));
        let binary = dir.path().join("binary.tpl");
        std::fs::write(&binary, [0xff, 0xfe]).unwrap();
        assert!(read_macro(&binary).is_err());
    }
}
