//! Names, licences and notices of everything that is linked into the programs.
use anyhow::{Context, bail};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::path::Path;
use std::process::Command;

/// The programs that are shipped.
const PROGRAMS: [&str; 7] = [
    "marsadm",
    "mars-logger",
    "mars-fetch",
    "mars-replay",
    "mars-sync",
    "mars-meta",
    "mars-status",
];

fn text<'a>(v: &'a Value, key: &str) -> &'a str {
    v[key].as_str().unwrap_or_default()
}

fn list<'a>(v: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    v[key].as_array().into_iter().flatten()
}

/// What cargo says of the sources in `dir`. The network is not asked: what was built is on this machine.
fn metadata(dir: &Path) -> anyhow::Result<Value> {
    let host = output(Command::new("rustc").arg("-vV"))?;
    let host = host
        .lines()
        .find_map(|l| l.strip_prefix("host: "))
        .context("rustc -vV names no host")?;
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .args([
            "metadata",
            "--format-version=1",
            "--locked",
            "--offline",
            "--filter-platform",
            host,
        ])
        .current_dir(dir);
    Ok(serde_json::from_str(&output(&mut command)?)?)
}

fn output(command: &mut Command) -> anyhow::Result<String> {
    let out = command.output().with_context(|| format!("{command:?}"))?;
    if !out.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&out.stderr));
    }
    Ok(String::from_utf8(out.stdout)?)
}

/// Ids of the packages that the programs are linked with, themselves included. Procedural macros run in the compiler only.
fn linked(m: &Value) -> BTreeSet<&str> {
    let nodes: BTreeMap<&str, &Value> = list(&m["resolve"], "nodes")
        .map(|n| (text(n, "id"), n))
        .collect();
    let macros: BTreeSet<&str> = list(m, "packages")
        .filter(|p| list(p, "targets").any(|t| list(t, "kind").any(|k| k == "proc-macro")))
        .map(|p| text(p, "id"))
        .collect();
    let mut next: Vec<&str> = list(m, "packages")
        .filter(|p| p["source"].is_null() && PROGRAMS.contains(&text(p, "name")))
        .map(|p| text(p, "id"))
        .collect();
    let mut seen = BTreeSet::new();
    while let Some(id) = next.pop() {
        if macros.contains(id) || !seen.insert(id) {
            continue;
        }
        let deps = nodes.get(id).into_iter().flat_map(|n| list(n, "deps"));
        next.extend(
            deps.filter(|d| list(d, "dep_kinds").any(|k| k["kind"].is_null()))
                .map(|d| text(d, "pkg")),
        );
    }
    seen
}

/// The notices in a package's directory: name of the file and text.
fn notices(dir: &Path) -> anyhow::Result<BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let upper = name.to_uppercase();
        let notice = ["LICENSE", "LICENCE", "COPYING", "COPYRIGHT", "NOTICE"]
            .iter()
            .any(|w| upper.starts_with(w));
        if notice && entry.file_type()?.is_file() {
            let text = String::from_utf8_lossy(&std::fs::read(entry.path())?).into_owned();
            found.insert(name, text);
        }
    }
    Ok(found)
}

/// The whole list; equal texts stand there once.
pub fn third_party(dir: &Path) -> anyhow::Result<String> {
    let m = metadata(dir)?;
    let linked = linked(&m);
    let mut out = String::from(
        "The programs of MARS are linked statically with these libraries. Where a library offers a choice of licences, the one used may be\n\
         combined with version 2 of the GPL.\n\n",
    );
    let mut texts: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut count = 0;
    for p in list(&m, "packages").filter(|p| !p["source"].is_null()) {
        if !linked.contains(text(p, "id")) {
            continue;
        }
        count += 1;
        let name = format!("{} {}", text(p, "name"), text(p, "version"));
        writeln!(out, "{name}: {}", text(p, "license"))?;
        let authors: Vec<&str> = list(p, "authors").filter_map(Value::as_str).collect();
        if !authors.is_empty() {
            writeln!(out, "    {}", authors.join(", "))?;
        }
        let dir = Path::new(text(p, "manifest_path"))
            .parent()
            .context("a manifest without directory")?;
        for (file, text) in notices(dir)? {
            texts
                .entry(text)
                .or_default()
                .push(format!("{name} {file}"));
        }
    }
    if count == 0 {
        bail!("no library found: are these the sources of MARS?");
    }
    let mut sorted: Vec<(Vec<String>, String)> = texts.into_iter().map(|(t, f)| (f, t)).collect();
    sorted.sort();
    for (files, text) in sorted {
        writeln!(
            out,
            "\n{}\n{}\n{}",
            "=".repeat(100),
            files.join("\n"),
            "-".repeat(100)
        )?;
        writeln!(out, "{}", text.trim_end())?;
    }
    Ok(out)
}
