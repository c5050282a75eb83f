//! What lies in the directories: templates, instances of ours, units of others. The only part that reads files.
use super::TemplateEnv;
use super::marker::owned_from;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// Largest template, and how much of an instance is read.
const FILE_MAX: u64 = 256 << 10;
/// Room for the header of an instance.
const INSTANCE_MAX: u64 = (super::subst::OUTPUT_MAX as u64) + (64 << 10);
/// Most templates.
const TEMPLATES_MAX: usize = 2000;
/// Files that were being written when the program died begin with this.
pub(super) const TEMPORARY: &str = ".mars-generated-";

/// A template.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Template {
    /// File name without `.j2`.
    pub name: String,
    /// The file.
    pub path: PathBuf,
    /// Its content.
    pub text: String,
    /// Its time of modification.
    pub mtime: SystemTime,
    /// Written for minijinja.
    pub jinja: bool,
}

/// A generated file that lies there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Instance {
    /// The file.
    pub path: PathBuf,
    /// Its content, with header.
    pub text: String,
    /// Its time of modification.
    pub mtime: SystemTime,
}

/// The state of all directories.
#[derive(Clone, Debug, Default)]
pub struct Scan {
    /// Templates in search order; of equal names the first one.
    pub templates: Vec<Template>,
    /// Generated files by unit name.
    pub instances: BTreeMap<String, Instance>,
    /// Names in the target directories that are not ours.
    pub taken: BTreeSet<String>,
    /// Units of others, by name.
    pub foreign: BTreeSet<String>,
    /// Something could not be read: nothing may be removed because of what was not seen.
    pub incomplete: bool,
    /// What was left out and why.
    pub warnings: Vec<String>,
}

impl Scan {
    /// Is there a unit of somebody else, or a template of systemd's own kind (`NAME@.service`) for it?
    pub fn is_foreign(&self, unit: &str) -> bool {
        if self.foreign.contains(unit) {
            return true;
        }
        let template = unit.split_once('@').and_then(|(stem, rest)| {
            let (_, suffix) = rest.rsplit_once('.')?;
            Some(format!("{stem}@.{suffix}"))
        });
        template.is_some_and(|t| self.foreign.contains(&t))
    }
}

/// Reads all directories.
pub fn scan(env: &TemplateEnv) -> Scan {
    let mut s = Scan::default();
    for dir in &env.template_dirs {
        templates(env, dir, &mut s);
    }
    instances(env, &env.target_dir, false, &mut s);
    instances(env, &env.script_dir, true, &mut s);
    for dir in &env.foreign_dirs {
        for name in names(dir, &mut s) {
            if !s.instances.contains_key(&name) && env.check_name(&name).is_ok() {
                s.foreign.insert(name);
            }
        }
    }
    s
}

/// Names in a directory, sorted. One that does not exist is empty.
fn names(dir: &Path, s: &mut Scan) -> Vec<String> {
    let entries = match std::fs::read_dir(dir) {
        Ok(e) => e,
        Err(e) if matches!(e.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => {
            return Vec::new();
        }
        Err(e) => {
            s.incomplete = true;
            s.warnings.push(format!("{}: {e}", dir.display()));
            return Vec::new();
        }
    };
    let mut found: Vec<String> = entries
        .filter_map(|e| match e {
            Ok(e) => e.file_name().into_string().ok(),
            Err(_) => {
                s.incomplete = true;
                None
            }
        })
        .collect();
    found.sort();
    found
}

fn templates(env: &TemplateEnv, dir: &Path, s: &mut Scan) {
    let is_template = |name: &str| {
        let plain = name.strip_suffix(".j2").unwrap_or(name);
        let suffix = plain.rsplit_once('.').map(|(_, suffix)| suffix);
        !name.starts_with('.') && suffix.is_some_and(|x| env.suffixes.contains(x))
    };
    let found: Vec<String> = names(dir, s)
        .into_iter()
        .filter(|n| is_template(n))
        .collect();
    if found.is_empty() {
        return;
    }
    if let Err(why) = std::fs::metadata(dir)
        .map_err(|e| e.to_string())
        .and_then(|m| trusted(&m))
    {
        s.warnings.push(format!(
            "templates in {} are not used: {why}",
            dir.display()
        ));
        return;
    }
    for file in found {
        let name = file.strip_suffix(".j2").unwrap_or(&file);
        if s.templates.iter().any(|t| t.name == name) {
            continue;
        }
        if s.templates.len() == TEMPLATES_MAX {
            s.incomplete = true;
            s.warnings
                .push(format!("more than {TEMPLATES_MAX} templates"));
            return;
        }
        // The header of the instance names the template for whoever looks there later, from anywhere.
        let path = dir.join(&file);
        let path = std::path::absolute(&path).unwrap_or(path);
        match read(&path, FILE_MAX, true) {
            Ok(None) => {}
            Ok(Some((text, mtime))) => s.templates.push(Template {
                name: name.to_string(),
                path,
                text,
                mtime,
                jinja: file.ends_with(".j2"),
            }),
            Err(why) => {
                s.incomplete = true;
                s.warnings
                    .push(format!("template {} is not used: {why}", path.display()));
            }
        }
    }
}

fn instances(env: &TemplateEnv, dir: &Path, scripts: bool, s: &mut Scan) {
    for name in names(dir, s) {
        if env.check_name(&name).is_err() || name.ends_with(".script") != scripts {
            continue;
        }
        let path = dir.join(&name);
        let is_file = std::fs::symlink_metadata(&path).is_ok_and(|m| m.is_file());
        let owned = match is_file.then(|| read(&path, INSTANCE_MAX, false)) {
            None => None,
            Some(Ok(found)) => found.filter(|(text, _)| owned_from(text).is_some()),
            Some(Err(why)) => {
                s.warnings.push(format!("{}: {why}", path.display()));
                None
            }
        };
        match owned {
            Some((text, mtime)) => {
                s.instances.insert(name, Instance { path, text, mtime });
            }
            None => {
                s.taken.insert(name);
            }
        }
    }
}

/// Text and time of a regular file; `Ok(None)`: no such file. With `trust`, what others than the user and root can change is refused.
fn read(path: &Path, max: u64, trust: bool) -> Result<Option<(String, SystemTime)>, String> {
    let file = std::fs::File::options()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    let mut file = match file {
        Ok(f) => f,
        Err(e) if e.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
        Err(e) => return Err(e.to_string()),
    };
    let meta = file.metadata().map_err(|e| e.to_string())?;
    if !meta.is_file() {
        return Err("it is no regular file".into());
    }
    if trust {
        trusted(&meta)?;
    }
    let mut bytes = Vec::new();
    Read::by_ref(&mut file)
        .take(max + 1)
        .read_to_end(&mut bytes)
        .map_err(|e| e.to_string())?;
    if bytes.len() as u64 > max {
        return Err(format!("it is larger than {max} bytes"));
    }
    let text = String::from_utf8(bytes).map_err(|_| "it is not UTF-8".to_string())?;
    if text.contains('\0') {
        return Err("it has zero bytes".into());
    }
    let mtime = meta.modified().map_err(|e| e.to_string())?;
    Ok(Some((text, mtime)))
}

/// Templates become units that run as root.
fn trusted(meta: &std::fs::Metadata) -> Result<(), String> {
    if meta.uid() != 0 && meta.uid() != nix::unistd::geteuid().as_raw() {
        return Err("it belongs to somebody else".into());
    }
    if meta.mode() & 0o002 != 0 {
        return Err("everybody may change it".into());
    }
    Ok(())
}
